"""The table of sources: making it, and plain arrays of the columns of this and other catalogues.

A catalogue is a `QTable` with one row for each source and the columns of `columns.COLUMNS`.
"""

import re
from collections import Counter, defaultdict
from functools import partial
from importlib import metadata
from itertools import chain, product
from string import ascii_lowercase

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord, UnitSphericalRepresentation
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.utils.masked import Masked

from astro_unetloc.catalog.columns import BANDS, COLUMNS, MATCH_COLUMNS, flag_names
from astro_unetloc.exceptions import InputError
from astro_unetloc.sphere import vectors_from_lonlat

# Names of coordinates, in lower case. `SkyCoord.guess_from_table` knows neither RAJ2000 nor GLON
# and refuses columns without a unit.
_POSITION_NAMES = (
    ("raj2000", "dej2000"), ("raj2000", "decj2000"), ("ra", "dec"), ("_raj2000", "_dej2000"),
    ("ra_icrs", "de_icrs"), ("ra_deg", "dec_deg"), ("coord_ra", "coord_dec"), ("glon", "glat"),
)  # fmt: skip
_POSITION_UCDS = (
    ("pos.eq.ra;meta.main", "pos.eq.dec;meta.main"),
    ("pos.eq.ra", "pos.eq.dec"),
    ("pos.galactic.lon;meta.main", "pos.galactic.lat;meta.main"),
    ("pos.galactic.lon", "pos.galactic.lat"),
)

# How values are shown: the errors of positions are above 1e-4 deg, those of the rest above 0.1 %.
_DISPLAY = {"f8": ".5f", "f4": ".4g"}
_DISPLAY_POSITION = "{0.ra.deg:.5f},{0.dec.deg:.5f}"

# Names of 95 % ellipses: 1FGL to 4FGL, FL16Y, 1FHL, 3FHL and ours; the reduced 4FGL; 2FHL (circle).
_ELLIPSE_NAMES = (
    ("Conf_95_SemiMajor", "Conf_95_SemiMinor", "Conf_95_PosAng"),
    ("SemiMajor", "SemiMinor", "PosAng"),
    ("Pos_err_95", "Pos_err_95", None),
)

# Control characters, line ends and code points that are no characters.
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")

# Columns of the class: ours and of true sources, 2FHL and 3FHL, 1FGL to 4FGL.
_CLASS_NAMES = ("Class", "CLASS", "CLASS1")
# The classes of the Fermi-LAT catalogues, in lower case, that are ours; all others are "other".
_CLASS_OF = dict.fromkeys("agn bcu bll css fsrq nlsy1 rdg sey ssrq".split(), "agn")
_CLASS_OF |= dict.fromkeys(("psr", "msp"), "psr") | dict.fromkeys(("", "unk", "unknown"), "")

# The photon flux of the whole range of 3FHL, 1FHL and ours, above 1 GeV and above 50 GeV.
_FLUX_NAMES = ("Flux", "Flux1000", "Flux50")


# Columns of significances and of associated sources, ours and of the Fermi-LAT catalogues.
_SIGNIFICANCE_NAMES = ("Sqrt_TS", "Signif_Avg", "Signif")
_ASSOCIATIONS = ("ASSOC", "ASSOC1")
_PER_AREA_TIME = "cm-2 s-1"


# Making a catalogue


class Catalog(QTable):
    """A table of sources that is written to ``x.vot`` and other files as `write_catalog` does."""

    def write(self, *args, **options):
        """Write the table as `write_catalog` does if it can, else as tables of astropy are written.

        Parameters
        ----------
        *args : str or path-like
            File to write; its suffix sets the format.
        **options : dict
            Those of `write_catalog`, or with any other option those of `astropy.table.Table.write`.
        """
        from astro_unetloc.catalog.write import can_write, write_catalog  # which needs this file

        ours = len(args) == 1 and can_write(args[0], options)
        (partial(write_catalog, self) if ours else super().write)(*args, **options)


def source_names(ra_deg, dec_deg):
    """Unique names (n,) ``UNL JHHMM.m+DDMM`` of ICRS positions, truncated as the IAU asks.

    Sources that share a name all get a letter, in the order of the list.
    """
    ra, dec = np.atleast_1d(ra_deg).astype(float), np.atleast_1d(dec_deg).astype(float)
    if not (np.isfinite(ra).all() and (np.abs(dec) <= 90).all()):
        raise InputError("coordinates must be finite with |dec| <= 90 deg; drop the other rows")
    # 1e-9 keeps a value that is whole but for rounding of its last digit, such as 0.7 deg = 28.0.
    tenths = np.floor((ra % 360) * 40 + 1e-9).astype(int) % 14400
    minutes = np.floor(np.abs(dec) * 60 + 1e-9).astype(int)
    names = [
        f"UNL J{t // 600:02d}{t % 600 // 10:02d}.{t % 10}{sign}{m // 60:02d}{m % 60:02d}"
        for t, m, sign in zip(tenths, minutes, np.where(dec < 0, "-", "+"))
    ]
    return np.array(unique_names(names), dtype=COLUMNS[0].dtype)


def unique_names(names):
    """List of the names, with a, b, ..., z, aa, ... appended where one occurs more than once."""
    count, letters = Counter(names), defaultdict(_letters)
    if len(count) == len(names):
        return list(names)
    # a name with its letter may have been there before
    return unique_names([n + next(letters[n]) if count[n] > 1 else n for n in names])


def _letters():
    """Iterator over a, b, ..., z, aa, ab, ...; four letters are enough for any list."""
    words = chain.from_iterable(product(ascii_lowercase, repeat=size) for size in range(1, 5))
    return map("".join, words)


def make_catalog(sources, meta=None):
    """Catalogue of a table of sources with what is known of `COLUMNS`, by descending ``Score``.

    It has all of `COLUMNS`, masked where not finite, and ``skycoord`` (ICRS); ``meta`` are FITS
    keywords and their values.
    """
    # Ties are broken by position, so that the order does not depend on the rest of the map.
    keys = (degrees(sources[name]) for name in ("GLAT", "GLON"))
    ordered = sources[np.lexsort((*keys, -np.asarray(sources["Score"], float)))]
    icrs = SkyCoord(ordered["GLON"], ordered["GLAT"], frame="galactic").icrs
    columns = {name: ordered[name] for name in ordered.colnames}
    columns["Source_Name"] = source_names(icrs.ra.deg, icrs.dec.deg)
    columns["RAJ2000"], columns["DEJ2000"] = icrs.ra, icrs.dec
    return _conform(columns, {"CREATOR": creator(), **(meta or {})})


def is_catalog(table):
    """Whether a table is a catalogue of ours: it has all columns that are always known."""
    return all(spec.name in table.colnames for spec in COLUMNS if spec.required)


def creator():
    """Name and version of this package, the keyword ``CREATOR`` of its products."""
    try:
        return f"astro_unetloc {metadata.version('astro_unetloc')}"
    except metadata.PackageNotFoundError:
        return "astro_unetloc unknown"


def _conform(columns, meta):
    """QTable with all of `COLUMNS` first, then the match columns and others that are there."""
    table = Catalog(meta=dict(meta))
    n_rows, n_bands = len(columns["Source_Name"]), _n_bands(columns, table)
    for spec in COLUMNS + tuple(s for s in MATCH_COLUMNS if s.name in columns):
        shape = (n_rows, n_bands) if spec.per_band else (n_rows,)
        table[spec.name] = _typed_column(spec, columns.get(spec.name), shape)
    for name in columns:
        if name not in table.colnames and name != "skycoord":
            table[name] = columns[name]
    table["skycoord"] = sky_positions(table)
    table["skycoord"].info.format = _DISPLAY_POSITION
    return table


def band_edges(table):
    """Edges (n_band + 1,) of the bands of a catalogue in GeV from its header; empty without."""
    return np.array(str(table.meta.get(BANDS, "")).split(), float)


def _n_bands(columns, table):
    """Number of values in the columns of bands: as they are, as the header states, or one."""
    for spec in COLUMNS:
        if spec.per_band and np.ndim(columns.get(spec.name)) == 2:
            return columns[spec.name].shape[1]
    return max(len(band_edges(table)) - 1, 1)


def _typed_column(spec, column, shape):
    """The column in the type of its spec and this shape: masked where it may be unknown."""
    values, mask = _values_and_mask(spec, column, shape)
    if spec.unit:
        column = u.Quantity(values, spec.unit, dtype=values.dtype)
        column = column if spec.required else Masked(column, mask=mask)
    else:
        column = Column(values) if spec.required else MaskedColumn(values, mask=mask)
    column.info.description, column.info.meta = spec.description, {"ucd": spec.ucd}
    column.info.format = _DISPLAY.get(spec.dtype)
    return column


def _values_and_mask(spec, column, shape):
    """Plain array in the unit and type of the spec, and where it is unknown."""
    if column is None:
        column = np.full(shape, "" if spec.dtype.startswith("U") else np.nan)
    if spec.dtype.startswith("U"):
        values = np.array(texts(column).tolist(), str)  # no wider than it needs to be
        return values.astype(np.promote_types(spec.dtype, values.dtype)), values == ""
    values = np.ma.getdata(getattr(column, "unmasked", column))
    if values.dtype.kind in "USO":  # a column of empty cells in a text file
        column = np.where(texts(column) == "", "nan", values).astype(float)
    if spec.required and not spec.unit:  # integers stay integers
        return values.astype(spec.dtype), np.zeros(shape, bool)
    values = numbers(column, spec.unit or None, ndim=len(shape)).astype(spec.dtype).reshape(shape)
    return values, ~np.isfinite(values)


def with_columns(table, specs, values):
    """Copy of a table (n rows) with the columns of some specs, values (n, ...) in the same order.

    They come last; those of a match come after `COLUMNS`. ``skycoord`` stays at the end.
    """
    table = table.copy()
    for spec, column in zip(specs, values):
        table[spec.name] = _typed_column(spec, column, np.shape(column))
    first = COLUMNS + MATCH_COLUMNS if specs is MATCH_COLUMNS else ()
    first = [spec.name for spec in first if spec.name in table.colnames]
    last = [name for name in ("skycoord",) if name in table.colnames]
    return table[first + [n for n in table.colnames if n not in first + last] + last]


# Columns as plain arrays


def texts(column):
    """Strings (n,) of a column, each of one line without spaces around; empty where masked."""
    values = np.asarray(np.ma.getdata(column))
    values = np.char.decode(values, errors="replace") if values.dtype.kind == "S" else values
    lines = np.array([one_line(value) for value in values.ravel().tolist()], str)
    return np.where(getattr(column, "mask", False), "", lines.reshape(values.shape))


def one_line(value):
    """Text of a value without what a line of a file cannot hold, such as control characters."""
    return _NOT_IN_A_LINE.sub(" ", str(value)).strip()


def texts_of(table, name):
    """Strings (n,) of a column of a table, see `texts`; empty if it has no such column."""
    return texts(table[name]) if name in table.colnames else np.full(len(table), "", "U1")


def numbers(column, unit=None, *, ndim=1):
    """Plain float64 numbers (n,) of a column, or one of its values; NaN where masked.

    They are converted to ``unit``, in which a column without a unit is taken to be. A flux may name
    its photons or not. With ``ndim`` 2 a row may have several of them.
    """
    values = getattr(column, "unmasked", column)
    try:
        if unit is not None and getattr(values, "unit", None):
            values = u.Quantity(np.ma.getdata(values), values.unit, dtype=float)
            values = values.to_value(unit, [(u.ph / u.cm**2 / u.s, u.cm**-2 / u.s)])
        values = np.ma.getdata(getattr(values, "value", values)).astype(float)
        if values.ndim > ndim:
            raise TypeError("expected one number in each row")
    except (TypeError, ValueError) as err:
        name = getattr(getattr(column, "info", None), "name", None) or "a column"
        wanted = f"numbers in {unit}, one" if unit else "numbers, one"
        found = ", ".join(map(str, np.atleast_1d(values)[:2]))
        raise InputError(
            f"{name} must hold {wanted} in each row; got {found}; correct the column"
        ) from err
    return np.where(getattr(column, "mask", False), np.nan, values)


def numbers_of(table, name, unit=None):
    """Plain numbers (n,) of a column of a table, see `numbers`; NaN if it has no such column."""
    return numbers(table[name], unit) if name in table.colnames else np.full(len(table), np.nan)


def degrees(column):
    """Plain float64 degrees (n,) of a column; NaN where masked."""
    return numbers(column, "deg")


# Positions, errors and fluxes of any catalogue


def sky_positions(table):
    """Positions of the rows of a table as `SkyCoord` (ICRS); NaN where unknown.

    They are ``skycoord``, or columns of the usual names or UCDs in degrees, hours and degrees where
    they are sexagesimal text.
    """
    columns = position_columns(table)
    if not columns:
        raise InputError(
            "a catalogue must have columns RAJ2000 and DEJ2000, RA and Dec, or GLON and GLAT; "
            f"got {', '.join(table.colnames[:8]) or 'none'}; rename its columns"
        )
    if "skycoord" in columns:
        return table["skycoord"].icrs
    frame, *columns = columns[0], *(table[name] for name in columns[1:])
    if frame == "icrs" and _is_sexagesimal(columns[0]):
        return _from_text(*columns)
    try:
        return SkyCoord(*(degrees(column) * u.deg for column in columns), frame=frame).icrs
    except ValueError as err:
        raise InputError(f"positions must lie on the sky, in degrees; got: {err}") from err


def position_columns(table):
    """Frame and names of the columns of longitude and latitude of a table, empty if it has none.

    Where it has it the column ``skycoord`` stands alone.
    """
    if "skycoord" in table.colnames:
        return ("skycoord",)
    names = {name.lower(): name for name in table.colnames}
    ucds = {_ucd(table[name]): name for name in reversed(table.colnames)}
    for known, pairs in ((names, _POSITION_NAMES), (ucds, _POSITION_UCDS)):
        for lon, lat in pairs:
            if lon in known and lat in known:
                frame = "galactic" if lon.startswith(("glon", "pos.galactic")) else "icrs"
                return frame, known[lon], known[lat]
    return ()


def _ucd(column):
    return str((column.info.meta or {}).get("ucd", "")).lower()


def _is_sexagesimal(column):
    """Whether a column holds text such as 05 34 31.9 or 5h34m31.9s, not numbers."""
    text = np.ma.getdata(column)
    return text.dtype.kind in "USO" and any(re.search(r"\d[ :hd]+\d", str(t)) for t in text[:100])


def _from_text(ra, dec):
    """Positions from hours and degrees in sexagesimal text; NaN where empty."""
    text = np.array([texts(ra), texts(dec)])
    empty = (text == "").any(axis=0)
    try:
        icrs = SkyCoord(*np.where(empty, "0", text), unit=(u.hourangle, u.deg))
    except ValueError as err:
        raise InputError(
            f"coordinates must be degrees, or hours and degrees as text; got {text[:, :1].ravel()}"
        ) from err
    return SkyCoord(*np.where(empty, np.nan, [icrs.ra.deg, icrs.dec.deg]) * u.deg)


def galactic_vectors(table):
    """Galactic unit vectors (n, 3) of `sky_positions`; NaN where they are unknown."""
    directions = sky_positions(table).galactic.data.represent_as(UnitSphericalRepresentation)
    return directions.to_cartesian().xyz.value.T


def glon_glat_vectors(table):
    """Galactic unit vectors (n, 3) of ``GLON`` and ``GLAT`` of a table of ours."""
    return vectors_from_lonlat(degrees(table["GLON"]), degrees(table["GLAT"]))


def confidence_ellipses(table):
    """95 % error ellipses (n, 3) of a table in degrees; NaN where unknown.

    They are semi-major and semi-minor axis and position angle, east of north.
    """
    for major, minor, angle in _ELLIPSE_NAMES:
        if {major, minor, angle} - {None} <= set(table.colnames):
            axes = np.stack([degrees(table[name]) for name in (major, minor)], axis=1)
            turn = degrees(table[angle]) if angle else np.zeros(len(table))
            # A circle needs no angle.
            turn = np.where(np.isfinite(turn) | (axes[:, 0] != axes[:, 1]), turn, 0.0)
            ellipse = np.column_stack([axes, turn])
            known = np.isfinite(ellipse).all(axis=1) & (axes > 0).all(axis=1) & (axes[:, 0] < 90)
            return np.where(known[:, None], ellipse, np.nan)
    return np.full((len(table), 3), np.nan)


def source_classes(table):
    """Class (n,) of the sources of any catalogue: agn, psr or other, empty where unknown."""
    name = next((name for name in _CLASS_NAMES if name in table.colnames), "")
    # of classes such as "bll-g" and "bcu II" the first word; capitals mean an identified source
    words = [re.match("[a-z0-9]*", text.lower())[0] for text in texts_of(table, name).tolist()]
    return np.array([_CLASS_OF.get(word, "other") for word in words], "U5")


def flux_column(table):
    """Name of the column with the photon fluxes of a table; None without."""
    shape = {name: np.shape(table[name]) for name in _FLUX_NAMES if name in table.colnames}
    return next((name for name in shape if len(shape[name]) == 1), None)


# For reading


def summary_table(table, frame="icrs"):
    """Table of texts with what matters of the sources of any catalogue, best first.

    Those of ours stay in their order, by ``Score``; others are sorted by significance or else flux.
    """
    positions, flux = sky_positions(table).transform_to(frame), flux_column(table)
    lon, lat = positions.spherical.lon.deg, positions.spherical.lat.deg
    significance = _first_of(table, _SIGNIFICANCE_NAMES)
    unit = 1.0
    fluxes, errors = (np.full(len(table), np.nan) for _ in range(2))
    if flux:
        fluxes, errors = (numbers_of(table, n, _PER_AREA_TIME) for n in (flux, f"Unc_{flux}"))
        if (fluxes > 0).any():
            unit = 10.0 ** np.floor(np.log10(np.median(fluxes[fluxes > 0])))
    classes = next((name for name in _CLASS_NAMES if name in table.colnames), "Class")
    names = ("l", "b") if frame == "galactic" else ("RA", "Dec")
    columns = {"Source": texts_of(table, "Source_Name")}
    columns |= {name: _cells(angle, "{:.4f}") for name, angle in zip(names, (lon, lat))}
    columns["Score"] = _cells(numbers_of(table, "Score"), "{:.3f}")
    columns["sqrt(TS)"] = _cells(significance, "{:.1f}")
    counts = numbers_of(table, "Npred"), numbers_of(table, "Unc_Npred")
    columns["Counts"] = _cells(counts[0], "{:.1f}", counts[1])
    columns["Counts UL95"] = _cells(numbers_of(table, "Npred_UL95"), "{:.1f}")
    columns[f"Flux ({unit:.0e} cm-2 s-1)"] = _cells(fluxes / unit, "{:.2f}", errors / unit)
    limits = numbers_of(table, "Flux_UL95", _PER_AREA_TIME)
    columns["Flux UL95"] = _cells(limits / unit, "{:.2f}")
    columns["P(constant)"] = _cells(numbers_of(table, "Prob_Constant"), "{:.3f}")
    columns["Class"] = texts_of(table, classes)
    columns["Association"] = next(filter(np.any, (texts_of(table, n) for n in _ASSOCIATIONS)), "")
    flags = np.asarray(table["Flags"]) if is_catalog(table) else np.zeros(len(table), int)
    columns["Flags"] = [" ".join(names) for names in flag_names(flags)]
    empty = [name for name, cells in columns.items() if not any(len(cell) for cell in cells)]
    summary = Table({name: columns[name] for name in columns if name not in empty})
    if is_catalog(table):
        return summary
    rank = significance if np.isfinite(significance).any() else fluxes
    return summary[np.argsort(-np.nan_to_num(rank, nan=-1.0), kind="stable")]


def _first_of(table, names):
    """Numbers (n,) of the first of some columns that a table has, NaN without one."""
    found = [numbers(table[name]) for name in names if name in table.colnames]
    return found[0] if found else np.full(len(table), np.nan)


def _cells(values, form, errors=None):
    """Texts (n,) of numbers and their errors, empty where they are unknown."""
    cells = [form.format(value) if np.isfinite(value) else "" for value in values]
    if errors is not None:
        both = zip(cells, (form.format(e) if np.isfinite(e) else "" for e in errors))
        cells = [f"{cell} +- {error}" if cell and error else cell for cell, error in both]
    return np.array(cells, str)
