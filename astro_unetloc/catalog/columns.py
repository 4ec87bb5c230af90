"""The columns of a catalogue: names, units, types, UCDs and flags."""

import re
from dataclasses import dataclass

import astropy.units as u
import numpy as np

from astro_unetloc.exceptions import InputError

# Keywords that describe the layout of a file, not the catalogue in it.
LAYOUT_KEYWORDS = re.compile(
    r"^(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|THEAP|EXTEND|EXTNAME|EXTVER|END|DATE"
    r"|CHECKSUM|DATASUM|LONGSTRN|RADESYS|COMMENTS?|HISTORY"
    r"|T(TYPE|FORM|UNIT|NULL|DISP|DIM|COMM|UCD|SCAL|ZERO|BCOL)\d+)$"
)

# Keyword of the area that was searched: a MOC as text (IVOA Recommendation "MOC", version 2.0).
AREA = "MOC"
# Keyword of the edges of the energy bands of the model in GeV, with spaces between them.
BANDS = "BANDS"

# Column of the fit (n, n_nodes) that a classifier takes out of the table of sources: log-likelihood
# of each spectrum of a grid, at most 0, NaN without a fit.
LOG_LIKELIHOOD = "Spectral_LnL"


@dataclass(frozen=True)
class ColumnSpec:
    """What one column of the catalogue holds."""

    name: str  # as in the 4FGL and 3FHL catalogues where they have it
    unit: str  # as astropy reads it; empty for none
    dtype: str  # of NumPy; strings grow where a value needs it
    ucd: str  # unified content descriptor (IVOA UCD1+)
    description: str
    required: bool = False  # known for every source, never masked
    per_band: bool = False  # a value for each energy band of the model


def _ellipse(percent):
    about = f"{percent} % confidence ellipse of the position"
    parts = (
        ("SemiMajor", "stat.error;phys.angSize.smajAxis", "Semi-major axis"),
        ("SemiMinor", "stat.error;phys.angSize.sminAxis", "Semi-minor axis"),
        ("PosAng", "pos.posAng", "East of north"),
    )
    return [
        ColumnSpec(f"Conf_{percent}_{name}", "deg", "f4", ucd, f"{text}, {about}")
        for name, ucd, text in parts
    ]


_PROB, _DISTANCE, _ERROR = "stat.probability", "pos.angDistance", "stat.error"
_CLASS = f"{_PROB};src.class"
_COUNTS, _FLUX, _INDEX = "phot.count;em.gamma", "phot.flux;em.gamma", "spect.index;em.gamma"
_QUALITY, _RATIO = "meta.code.qual", f"{_DISTANCE};arith.ratio"
_PER_AREA_TIME = "ph cm-2 s-1"


def _bands(name, unit, ucd, text):
    """Columns of a quantity in the energy bands of the model and of its error."""
    about = (name, ucd, text), (f"Unc_{name}", f"{_ERROR};{ucd}", f"1 sigma error of {name}")
    return [ColumnSpec(n, unit, "f4", kind, words, per_band=True) for n, kind, words in about]


COLUMNS = (
    ColumnSpec("Source_Name", "", "U18", "meta.id;meta.main", "UNL JHHMM.m+DDMM, truncated", True),
    ColumnSpec("RAJ2000", "deg", "f8", "pos.eq.ra;meta.main", "Right ascension (ICRS)", True),
    ColumnSpec("DEJ2000", "deg", "f8", "pos.eq.dec;meta.main", "Declination (ICRS)", True),
    ColumnSpec("GLON", "deg", "f8", "pos.galactic.lon", "Galactic longitude", True),
    ColumnSpec("GLAT", "deg", "f8", "pos.galactic.lat", "Galactic latitude", True),
    *_ellipse(68),
    *_ellipse(95),
    ColumnSpec("Score", "", "f4", _PROB, "Probability that the source is real", True),
    ColumnSpec("Probability", "", "f4", _PROB, "Probability by the network"),
    ColumnSpec("Log_Odds", "", "f4", _PROB, "Logarithm of the odds of 8 counts or more"),
    ColumnSpec("Sqrt_TS", "", "f4", "stat.snr", "Square root of the likelihood test statistic"),
    ColumnSpec("Npred", "", "f4", _COUNTS, "Predicted counts in the range of the model"),
    ColumnSpec("Unc_Npred", "", "f4", f"{_ERROR};{_COUNTS}", "1 sigma error of Npred"),
    ColumnSpec("Flux", _PER_AREA_TIME, "f4", _FLUX, "Photon flux, FLUXEMIN to FLUXEMAX (header)"),
    ColumnSpec("Unc_Flux", _PER_AREA_TIME, "f4", f"{_ERROR};{_FLUX}", "1 sigma error of Flux"),
    ColumnSpec("Spectral_Index", "", "f4", _INDEX, "Photon index of a power law"),
    ColumnSpec("Unc_Spectral_Index", "", "f4", f"{_ERROR};{_INDEX}", "1 sigma error of the index"),
    *_bands("Counts_Band", "", _COUNTS, "Predicted counts in each band of the model"),
    *_bands("Flux_Band", _PER_AREA_TIME, _FLUX, "Photon flux in each band of the model"),
    ColumnSpec("Class", "", "U8", "src.class", "agn, psr or other; empty if not confident"),
    ColumnSpec("Prob_AGN", "", "f4", _CLASS, "Probability of an AGN, if the source is real"),
    ColumnSpec("Prob_PSR", "", "f4", _CLASS, "Probability of a pulsar, if the source is real"),
    ColumnSpec("Prob_OTHER", "", "f4", _CLASS, "Probability of any other kind of source"),
    ColumnSpec("Unc_Prob_PSR", "", "f4", f"{_ERROR};{_CLASS}", "1 sigma error of Prob_PSR"),
    ColumnSpec("Sep_Nearest", "deg", "f4", _DISTANCE, "Distance of the nearest other source"),
    ColumnSpec("Coverage", "", "f4", _QUALITY, "Observed fraction of the sky around it", True),
    ColumnSpec("Patch", "", "i4", "meta.id", "Patch of the sky grid that owns the source", True),
    ColumnSpec("Flags", "", "i2", "meta.code", "Sum of the bits in the table of flags", True),
)

MATCH_COLUMNS = (
    ColumnSpec("ASSOC", "", "U20", "meta.id.cross", "Name of the matched catalogue source"),
    ColumnSpec("ASSOC_Sep", "deg", "f4", _DISTANCE, "Distance of the matched source"),
    ColumnSpec("ASSOC_Sep_Norm", "", "f4", _RATIO, "Distance in sigmas of both positions"),
    ColumnSpec("ASSOC_Prob", "", "f4", _PROB, "Probability of the association"),
    ColumnSpec("ASSOC_Catalog", "", "U8", "meta.title", "Catalogue of the matched source"),
)

LIMIT_COLUMNS = (
    ColumnSpec("Npred_UL95", "", "f4", f"stat.max;{_COUNTS}", "95 % upper limit of the counts"),
    ColumnSpec("Flux_UL95", _PER_AREA_TIME, "f4", f"stat.max;{_FLUX}", "95 % upper limit of Flux"),
)

VARIABILITY_COLUMNS = (
    ColumnSpec("Variability", "", "f4", "stat.fit.param;src.var", "Square root of twice the "
               "log-likelihood ratio between one rate for each slice of time and a constant one"),
    ColumnSpec("Sqrt_TS_Flare", "", "f4", "stat.snr;src.var",
               "The same between the slice that differs most and all others"),
    ColumnSpec("Prob_Constant", "", "f4", f"{_PROB};src.var",
               "Probability that a constant source varies as much by chance"),
)  # fmt: skip

# One row for each source and slice of time.
LIGHT_CURVE_COLUMNS = (
    ColumnSpec("TSTART", "s", "f8", "time.start", "Start of the slice (MET)", True),
    ColumnSpec("TSTOP", "s", "f8", "time.end", "Stop of the slice (MET)", True),
    ColumnSpec("MJD_START", "d", "f8", "time.start", "Start of the slice, MJD", True),
    ColumnSpec("MJD_STOP", "d", "f8", "time.end", "Stop of the slice, MJD", True),
    ColumnSpec("Exposure", "", "f4", "time.duration;arith.ratio", "Fraction of the exposure of "
               "the whole list that falls in the slice"),
    ColumnSpec("Npred", "", "f4", _COUNTS, "Predicted counts in the slice"),
    ColumnSpec("Unc_Npred", "", "f4", f"{_ERROR};{_COUNTS}", "1 sigma error of Npred"),
    ColumnSpec("Npred_UL95", "", "f4", f"stat.max;{_COUNTS}", "95 % upper limit, where TS < 4"),
    ColumnSpec("Sqrt_TS", "", "f4", "stat.snr", "Square root of the likelihood test statistic"),
    ColumnSpec("Flux", _PER_AREA_TIME, "f4", _FLUX, "Photon flux, FLUXEMIN to FLUXEMAX (header)"),
    ColumnSpec("Unc_Flux", _PER_AREA_TIME, "f4", f"{_ERROR};{_FLUX}", "1 sigma error of Flux"),
    ColumnSpec("Flux_UL95", _PER_AREA_TIME, "f4", f"stat.max;{_FLUX}", "95 % limit, where TS < 4"),
)  # fmt: skip

CLASSES = ("agn", "psr", "other")

# Words and colors of the classes, empty for a source without one, in pictures, regions and pages:
# the colors differ from each other, from gray, from black and from white (contrast 3 and more) also
# to a deuteranope and a protanope (Machado et al. 2009, doi:10.1109/TVCG.2009.113).
CLASS_WORDS = {"agn": "AGN", "psr": "pulsar", "other": "other", "": "class unknown"}
CLASS_COLORS = {"agn": "#1e88e5", "psr": "#dd5f00", "other": "#00a86b", "": "#808080"}

# name: (bit, description)
FLAGS = {
    "edge": (1, "near the edge of coverage"),
    "blended": (2, "blended with a neighbour"),
    "wide": (4, "wider than the point spread function"),
    "bright_neighbor": (8, "near a much brighter source"),
    "low_latitude": (16, "within 5 deg of the Galactic plane"),
    "coarse_pixels": (32, "the pixels of the map are coarse"),
    "fit_failed": (64, "the fit failed"),
    "energy_assumed": (128, "the energy range of the map was assumed"),
    "known_extended": (256, "inside a known extended source"),
    "class_prior": (512, "the class is the prior, which the photons do not change"),
}

# Flags that question the source itself, drawn with dashed lines; the others describe its
# surroundings or the map.
DOUBTS = ("edge", "blended", "wide", "bright_neighbor", "fit_failed")


def set_column(table, name, values):
    """Set a column of `COLUMNS` in a table of sources, with its unit; NaN where it is unknown."""
    unit = next(spec.unit for spec in COLUMNS if spec.name == name)
    table[name] = u.Quantity(values, unit) if unit else np.asarray(values)


def set_flag(table, name, where):
    """Set one of `FLAGS` in the rows of a table where a condition (n,) holds, else clear it."""
    bit, flags = FLAGS[name][0], np.asarray(table["Flags"])
    table["Flags"] = np.where(where, flags | bit, flags & ~bit).astype(np.int16)


def flag_names(flags):
    """Return the names of the flags that are set.

    Parameters
    ----------
    flags : int or array_like of int (n,)
        A value of the column ``Flags``, or the column.

    Returns
    -------
    list
        Names, see :doc:`/columns`; for a column a list of them for each source.

    Examples
    --------
    >>> from astro_unetloc import flag_names
    >>> flag_names(18)
    ['blended', 'low_latitude']
    """
    values = np.asarray(flags)
    if values.dtype.kind not in "iu":
        raise InputError(f"flags must be whole numbers; got {flags!r}; give the column Flags")
    names = [[n for n, (bit, _) in FLAGS.items() if value & bit] for value in values.flat]
    return names if values.ndim else names[0]


def has_flag(table, name):
    """Which rows (n,) of a table of sources carry the flag of this name."""
    return np.asarray(table["Flags"]) & FLAGS[name][0] != 0


def is_doubted(table):
    """Which rows (n,) of a table of sources, which may lack ``Flags``, carry one of `DOUBTS`."""
    flags = np.asarray(table["Flags"] if "Flags" in table.colnames else np.zeros(len(table)))
    return flags.astype(int) & sum(FLAGS[name][0] for name in DOUBTS) > 0
