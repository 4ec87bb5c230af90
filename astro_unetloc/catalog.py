"""The catalogue: its source names, making it, and reading it and other catalogues back.

A catalogue is an `astropy.table.QTable` with one row a source. `COLUMNS` says once what each column
holds (see `astro_unetloc.columns`); the table, every file format and the docs are made from it.
"""

import warnings
from importlib import metadata
from pathlib import Path

import numpy as np

from astro_unetloc.columns import COLUMNS, FLAGS, LAYOUT_KEYWORDS, LIMIT_COLUMNS, MATCH_COLUMNS
from astro_unetloc.geometry import lonlat_from_vectors
from astro_unetloc.messages import warn
from astro_unetloc.references import as_reference, sky_positions
from astro_unetloc.standard_catalogs import STANDARD_CATALOGS, standard_catalog_path

__all__ = [
    "COLUMNS",
    "FLAGS",
    "MATCH_COLUMNS",
    "make_catalog",
    "read_catalog",
    "read_extended",
    "source_names",
    "unique_names",
    "with_limit_columns",
    "with_match_columns",
]

_FORMATS = {".fits": "fits", ".fit": "fits", ".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}
_FORMATS |= {".vot": "votable", ".xml": "votable"}


def source_names(ra_deg, dec_deg):
    """Unique names ``UNL JHHMM.m+DDMM``, with the position truncated as the IAU asks.

    Sources that share a name all get a letter, in the order of the list.

    Parameters
    ----------
    ra_deg, dec_deg : array_like (n,)
        ICRS coordinates in degrees.

    Returns
    -------
    ndarray (n,) of str
        The names.

    Examples
    --------
    >>> from astro_unetloc.catalog import source_names
    >>> print(*source_names([83.6331, 359.99], [22.0145, -0.51]))
    UNL J0534.5+2200 UNL J2359.9-0030
    """
    ra, dec = np.atleast_1d(ra_deg).astype(float), np.atleast_1d(dec_deg).astype(float)
    if not (np.isfinite(ra).all() and (np.abs(dec) <= 90).all()):
        raise ValueError("coordinates must be finite with |dec| <= 90 deg; drop the other rows")
    # 1e-9 keeps a value that is whole but for rounding of its last digit, such as 0.7 deg = 28.0.
    tenths = np.floor((ra % 360) * 40 + 1e-9).astype(int) % 14400
    minutes = np.floor(np.abs(dec) * 60 + 1e-9).astype(int)
    names = [
        f"UNL J{t // 600:02d}{t % 600 // 10:02d}.{t % 10}{sign}{m // 60:02d}{m % 60:02d}"
        for t, m, sign in zip(tenths, minutes, np.where(dec < 0, "-", "+"))
    ]
    return np.array(unique_names(names), dtype=_spec("Source_Name").dtype)


def unique_names(names):
    """The names with a, b, ..., z, aa, ab, ... appended to those that occur more than once.

    Parameters
    ----------
    names : sequence of str (n,)
        Any names.

    Returns
    -------
    list of str
        No two the same.
    """
    unique, inverse, count = np.unique(
        np.array(names, str), return_inverse=True, return_counts=True
    )
    if len(unique) == len(names):
        return list(names)
    seen, result = np.zeros(len(unique), int), []
    for name, group in zip(names, inverse):
        seen[group] += 1
        result.append(name + _letters(seen[group]) if count[group] > 1 else name)
    return unique_names(result)  # a name with its letter may have been there before


def _letters(number):
    """1 -> a, 26 -> z, 27 -> aa: bijective base 26."""
    letters = ""
    while number:
        number, digit = divmod(int(number) - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def make_catalog(sources, *, values=None, meta=None):
    """The catalogue of localized sources, by descending ``Score``.

    Parameters
    ----------
    sources : SkySources
        Sources with arrays ``vectors`` (n, 3; Galactic), ``probability``, ``score``, ``patch``,
        ``coverage``, ``flags`` and ``separation_deg`` (n,).
    values : dict of str to ndarray (n,), optional
        Further columns of `COLUMNS` in their units; what is not finite is masked.
    meta : dict, optional
        Provenance: FITS keywords and their values.

    Returns
    -------
    QTable
        All of `COLUMNS`, masked where unknown, and ``skycoord`` (ICRS).

    Raises
    ------
    ValueError
        If ``values`` holds a name that is not in `COLUMNS`.
    """
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    glon, glat = lonlat_from_vectors(np.reshape(sources.vectors, (-1, 3)))
    icrs = SkyCoord(glon * u.deg, glat * u.deg, frame="galactic").icrs
    known = dict(values or {})
    known |= {"RAJ2000": icrs.ra.deg, "DEJ2000": icrs.dec.deg, "GLON": glon, "GLAT": glat}
    known |= {"Score": sources.score, "Probability": sources.probability, "Patch": sources.patch}
    known |= {"Coverage": sources.coverage, "Flags": sources.flags}
    known |= {"Sep_Nearest": sources.separation_deg}
    # Ties are broken by position, so that the order does not depend on the rest of the map.
    order = np.lexsort((glat, glon, -np.asarray(sources.score, float)))
    known = {name: np.asarray(value)[order] for name, value in known.items()}
    known["Source_Name"] = source_names(known["RAJ2000"], known["DEJ2000"])
    _check_names(known)
    return _conform(known, {"CREATOR": f"astro_unetloc {_version()}", **(meta or {})})


def _check_names(known):
    unknown = sorted(set(known) - {spec.name for spec in COLUMNS})
    if unknown:
        raise ValueError(f"values must be named as in catalog.COLUMNS; got {', '.join(unknown)}")


def _version():
    try:
        return metadata.version("astro_unetloc")
    except metadata.PackageNotFoundError:
        return "unknown"


def _spec(name):
    return next(spec for spec in COLUMNS + MATCH_COLUMNS if spec.name == name)


def _conform(columns, meta):
    """QTable with all of `COLUMNS` first, then the match columns and others that are there."""
    from astropy.table import QTable

    table = QTable(meta=dict(meta))
    n_rows = len(columns["Source_Name"])
    for spec in COLUMNS + tuple(s for s in MATCH_COLUMNS if s.name in columns):
        table[spec.name] = _typed_column(spec, columns.get(spec.name), n_rows)
    for name in columns:
        if name not in table.colnames and name != "skycoord":
            table[name] = columns[name]
    table["skycoord"] = sky_positions(table)
    return table


def _typed_column(spec, column, n_rows):
    """The column in the type of its spec: always masked where it may be unknown."""
    import astropy.units as u
    from astropy.table import Column, MaskedColumn
    from astropy.utils.masked import Masked

    values, mask = _values_and_mask(spec, column, n_rows)
    about = {"description": spec.description, "meta": {"ucd": spec.ucd}}
    if not spec.unit:
        return (
            Column(values, **about) if spec.required else MaskedColumn(values, mask=mask, **about)
        )
    quantity = u.Quantity(values, spec.unit, dtype=values.dtype)
    quantity = quantity if spec.required else Masked(quantity, mask=mask)
    quantity.info.description, quantity.info.meta = about["description"], about["meta"]
    return quantity


def _values_and_mask(spec, column, n_rows):
    """Plain array in the unit and type of the spec, and where it is unknown."""
    from astropy.units import Quantity

    text = spec.dtype.startswith("U")
    if column is None:
        values = np.zeros(n_rows, spec.dtype) if text else np.full(n_rows, np.nan, spec.dtype)
        return values, np.ones(n_rows, bool)
    mask = np.array(np.broadcast_to(getattr(column, "mask", False), n_rows))
    values = getattr(column, "unmasked", column)
    if isinstance(values, Quantity) and spec.unit:
        values = values.to_value(spec.unit)
    values = np.ma.getdata(values)
    if text:
        values = np.where(mask, "", values.astype(str) if n_rows else np.zeros(0, "U1"))
        values = np.array(values.tolist(), str)  # no wider than it needs to be
        return values.astype(np.promote_types(spec.dtype, values.dtype)), values == ""
    if values.dtype.kind in "USO":  # a column of empty cells in a text file
        values = np.where(mask | (values == ""), "nan", values)
    if spec.required:
        return values.astype(spec.dtype), mask
    values = np.where(mask, np.nan, values.astype(float)).astype(spec.dtype)
    return values, ~np.isfinite(values)


def with_match_columns(catalog, values):
    """A copy of the catalogue with `MATCH_COLUMNS` in the place of those that it has.

    Parameters
    ----------
    catalog : QTable
        From `make_catalog`, or any table of n sources.
    values : dict of str to ndarray (n,)
        The columns by name; empty or not finite where there is no match.

    Returns
    -------
    QTable
        The copy, with ``skycoord`` last if it has one.
    """
    table = catalog.copy()
    for spec in MATCH_COLUMNS:
        table[spec.name] = _typed_column(spec, values[spec.name], len(table))
    others = [n for n in table.colnames if n not in values and n != "skycoord"]
    ours = [spec.name for spec in COLUMNS if spec.name in others]
    others = [name for name in others if name not in ours]
    last = [name for name in ("skycoord",) if name in table.colnames]
    return table[ours + [spec.name for spec in MATCH_COLUMNS] + others + last]


def with_limit_columns(table, values):
    """A copy of a table of n sources with `LIMIT_COLUMNS` at its end.

    Parameters
    ----------
    table : QTable
        Any table.
    values : dict of str to ndarray (n,)
        The columns by name; not finite where there is no limit.

    Returns
    -------
    QTable
        The copy, with ``skycoord`` last if it has one.
    """
    result = table.copy()
    for spec in LIMIT_COLUMNS:
        result[spec.name] = _typed_column(spec, values[spec.name], len(table))
    last = [name for name in ("skycoord",) if name in result.colnames]
    return result[[name for name in result.colnames if name not in last] + last]


def read_catalog(path):
    """The catalogue in a file: one of ours as it was written, one of the Fermi-LAT, or any other.

    Parameters
    ----------
    path : str or path-like
        File ending in .fits, .fit, .ecsv, .csv, .vot or .xml; FITS also with .gz. Or the name of a
        catalogue in ``$GAMMAPY_DATA``: 1fgl, ..., 4fgl, 1fhl, 2fhl, 3fhl, 2hwc, 3hwc, 1lhaaso,
        gamma-cat or hgps.

    Returns
    -------
    QTable
        Ours: all of `COLUMNS` and ``skycoord``. Others: their columns and at least
        ``Source_Name``, ``RAJ2000``, ``DEJ2000``, ``Extended`` (bool), ``Extension`` (radius in
        deg, masked where unknown) and ``skycoord``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of another format or has no positions.

    Examples
    --------
    >>> from astro_unetloc import read_catalog
    >>> catalog = read_catalog("gll_psch_v13.fit.gz")  # doctest: +SKIP
    """
    if str(path).lower() in STANDARD_CATALOGS and not Path(path).exists():
        path = standard_catalog_path(str(path))
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"catalogue must be a file; got {str(path)!r}; check the path")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _FORMATS:
        known = " ".join(_FORMATS)
        raise ValueError(f"catalogue must end in one of {known}; got {path.name!r}; convert it")
    try:
        table, extended = _read_tables(path, _FORMATS[suffix])
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise ValueError(f"{path.name!r} must hold a table of sources; got: {reason}") from err
    table.meta = {k: v for k, v in table.meta.items() if not LAYOUT_KEYWORDS.match(k.upper())}
    if all(spec.name in table.colnames for spec in COLUMNS if spec.required):
        return _conform({name: table[name] for name in table.colnames}, table.meta)
    table.meta.setdefault("FILENAME", path.name)
    return as_reference(table, extended)


def read_extended(reference):
    """The extended sources of a catalogue, with a warning if it has none.

    Parameters
    ----------
    reference : str, path or QTable
        What `read_catalog` takes, or a table with positions.

    Returns
    -------
    QTable
        With ``Extended`` and ``Extension``, as from `read_catalog`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_catalog`.
    """
    table = reference if hasattr(reference, "colnames") else read_catalog(reference)
    table = as_reference(table)
    if not table["Extended"].any():
        warn("the catalogue of extended sources holds none; it flags nothing")
    return table[table["Extended"]]


def _read_tables(path, file_format):
    """The table of sources and, from a Fermi catalogue, that of the extended ones (or None)."""
    from astropy.table import QTable
    from astropy.units import UnitsWarning

    with warnings.catch_warnings():
        # Catalogues write "photon/cm**2/MeV/s": astropy understands, and warns of the slashes.
        warnings.simplefilter("ignore", UnitsWarning)
        if file_format == "fits":
            return _read_fits(path)
        if file_format == "votable":
            return _read_votable(path), None
        texts = {spec.name: str for spec in COLUMNS + MATCH_COLUMNS if spec.dtype.startswith("U")}
        options = {"converters": texts} if file_format == "ascii.csv" else {}
        return QTable.read(path, format=file_format, **options), None


def _read_fits(path):
    from astropy.io import fits
    from astropy.table import QTable

    with fits.open(path) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        if not tables:
            raise ValueError("a FITS file without a table")
        extended = [
            hdu for hdu in tables[1:] if hdu.name.replace(" ", "").upper() == "EXTENDEDSOURCES"
        ]
        table = QTable.read(tables[0])
        return table, QTable.read(extended[0]) if extended else None


def _read_votable(path):
    from astropy.io.votable import parse_single_table
    from astropy.table import QTable

    votable = parse_single_table(path, verify="ignore")
    table = QTable(votable.to_table(use_names_over_ids=True))
    table.meta = {param.name: param.value for param in votable.params}
    return table
