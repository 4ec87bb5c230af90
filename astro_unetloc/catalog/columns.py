"""The columns of a catalogue: names, units, types, UCDs and flags."""

import re
from dataclasses import dataclass

import numpy as np

__all__ = [
    "COLUMNS",
    "ColumnSpec",
    "FLAGS",
    "LAYOUT_KEYWORDS",
    "LIMIT_COLUMNS",
    "MATCH_COLUMNS",
    "has_flag",
    "set_column",
    "set_flag",
]


# Keywords that describe the layout of a file, not the catalogue in it.
LAYOUT_KEYWORDS = re.compile(
    r"^(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|THEAP|EXTEND|EXTNAME|EXTVER|END|DATE"
    r"|CHECKSUM|DATASUM|LONGSTRN|RADESYS|COMMENTS?|HISTORY"
    r"|T(TYPE|FORM|UNIT|NULL|DISP|DIM|COMM|UCD|SCAL|ZERO|BCOL)\d+)$"
)


@dataclass(frozen=True)
class ColumnSpec:
    """What one column of the catalogue holds.

    Attributes
    ----------
    name : str
        Name of the column, as in the 4FGL and 3FHL catalogues where they have it.
    unit : str
        Unit that astropy understands; empty for none.
    dtype : str
        NumPy type; strings grow where a value needs it.
    ucd : str
        Unified content descriptor (IVOA UCD1+).
    description : str
        One line.
    required : bool
        True for a column that is known for every source and never masked.
    """

    name: str
    unit: str
    dtype: str
    ucd: str
    description: str
    required: bool = False


def _ellipse(percent):
    ucd = "stat.error;phys.angSize."
    about = f"{percent} % confidence ellipse of the position"
    name = f"Conf_{percent}_"
    return (
        ColumnSpec(f"{name}SemiMajor", "deg", "f4", f"{ucd}smajAxis", f"Semi-major axis, {about}"),
        ColumnSpec(f"{name}SemiMinor", "deg", "f4", f"{ucd}sminAxis", f"Semi-minor axis, {about}"),
        ColumnSpec(f"{name}PosAng", "deg", "f4", "pos.posAng", f"East of north, {about}"),
    )


_COUNTS, _FLUX, _INDEX = "phot.count;em.gamma", "phot.flux;em.gamma", "spect.index;em.gamma"


_PER_AREA_TIME = "ph cm-2 s-1"


COLUMNS = (
    ColumnSpec("Source_Name", "", "U18", "meta.id;meta.main", "UNL JHHMM.m+DDMM, truncated", True),
    ColumnSpec("RAJ2000", "deg", "f8", "pos.eq.ra;meta.main", "Right ascension (ICRS)", True),
    ColumnSpec("DEJ2000", "deg", "f8", "pos.eq.dec;meta.main", "Declination (ICRS)", True),
    ColumnSpec("GLON", "deg", "f8", "pos.galactic.lon", "Galactic longitude", True),
    ColumnSpec("GLAT", "deg", "f8", "pos.galactic.lat", "Galactic latitude", True),
    *_ellipse(68),
    *_ellipse(95),
    ColumnSpec("Score", "", "f4", "stat.probability", "Probability that the source is real", True),
    ColumnSpec("Probability", "", "f4", "stat.probability", "Probability by the network", True),
    ColumnSpec("Sqrt_TS", "", "f4", "stat.snr", "Square root of the likelihood test statistic"),
    ColumnSpec("Npred", "", "f4", _COUNTS, "Predicted counts in the range of the model"),
    ColumnSpec("Unc_Npred", "", "f4", f"stat.error;{_COUNTS}", "1 sigma error of Npred"),
    ColumnSpec("Flux", _PER_AREA_TIME, "f4", _FLUX, "Photon flux in the flux range of the model"),
    ColumnSpec("Unc_Flux", _PER_AREA_TIME, "f4", f"stat.error;{_FLUX}", "1 sigma error of Flux"),
    ColumnSpec("Spectral_Index", "", "f4", _INDEX, "Photon index of a power law"),
    ColumnSpec(
        "Unc_Spectral_Index", "", "f4", f"stat.error;{_INDEX}", "1 sigma error of the index"
    ),
    ColumnSpec("Class", "", "U8", "src.class", "Most probable class"),
    ColumnSpec("Prob_AGN", "", "f4", "stat.probability;src.class", "Probability of being an AGN"),
    ColumnSpec("Prob_PSR", "", "f4", "stat.probability;src.class", "Probability of being a pulsar"),
    ColumnSpec(
        "Sep_Nearest", "deg", "f4", "pos.angDistance", "Distance of the nearest other source"
    ),
    ColumnSpec(
        "Coverage", "", "f4", "meta.code.qual", "Observed fraction of the sky around it", True
    ),
    ColumnSpec("Patch", "", "i4", "meta.id", "Patch of the sky grid that owns the source", True),
    ColumnSpec("Flags", "", "i2", "meta.code", "Sum of the bits in the table of flags", True),
)


MATCH_COLUMNS = (
    ColumnSpec("ASSOC", "", "U20", "meta.id.cross", "Name of the matched catalogue source"),
    ColumnSpec("ASSOC_Sep", "deg", "f4", "pos.angDistance", "Distance of the matched source"),
    ColumnSpec(
        "ASSOC_Sep_Norm",
        "",
        "f4",
        "pos.angDistance;arith.ratio",
        "Distance in sigmas of both positions",
    ),
    ColumnSpec("ASSOC_Prob", "", "f4", "stat.probability", "Probability of the association"),
    ColumnSpec("ASSOC_Catalog", "", "U8", "meta.title", "Catalogue of the matched source"),
)


LIMIT_COLUMNS = (
    ColumnSpec("Npred_UL95", "", "f4", f"stat.max;{_COUNTS}", "95 % upper limit of the counts"),
    ColumnSpec("Flux_UL95", _PER_AREA_TIME, "f4", f"stat.max;{_FLUX}", "95 % upper limit of Flux"),
)


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
}


def set_column(table, name, values):
    """Set a column of `COLUMNS` in a table of sources, with its unit; NaN where it is unknown."""
    import astropy.units as u

    unit = next(spec.unit for spec in COLUMNS if spec.name == name)
    table[name] = u.Quantity(values, unit) if unit else np.asarray(values)


def set_flag(table, name, where):
    """Set one bit of ``Flags`` where a condition holds in the rows of a table, clear it elsewhere.

    Parameters
    ----------
    table : Table
        Sources with a column ``Flags``.
    name : str
        Name of the flag in `FLAGS`.
    where : bool or ndarray (n,) of bool
        The rows.
    """
    bit, flags = FLAGS[name][0], np.asarray(table["Flags"])
    table["Flags"] = np.where(where, flags | bit, flags & ~bit).astype(np.int16)


def has_flag(table, name):
    """Which rows (n,) of a table of sources carry the flag of this name."""
    return np.asarray(table["Flags"]) & FLAGS[name][0] != 0
