"""Reading catalogues: ours in every format, those of the Fermi-LAT, any table with positions."""

import codecs
import inspect
import os
import re
import warnings
from functools import reduce
from itertools import takewhile

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Row, Table
from astropy.utils.masked import Masked

from astro_unetloc.catalog.columns import AREA, BANDS, COLUMNS, LAYOUT_KEYWORDS, MATCH_COLUMNS
from astro_unetloc.catalog.table import (
    Catalog,
    _conform,
    _typed_column,
    _ucd,
    _values_and_mask,
    creator,
    degrees,
    is_catalog,
    position_columns,
    sky_positions,
    texts,
)
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.files import is_named, open_fits, split_choice, suffix_of
from astro_unetloc.sphere import vectors_from_lonlat

_FORMATS = dict.fromkeys((".fits", ".fit", ".fits.gz", ".fit.gz"), "fits")
_FORMATS |= {".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".vot": "votable", ".xml": "votable"}

_TABLES = fits.BinTableHDU | fits.TableHDU

# Columns with the names of sources, in lower case and with _ for a space.
_NAME_COLUMNS = "source_name name source canonical_name common_name main_id id".split()

# Beginning of names in the Fermi-LAT catalogues: 1FGL to 4FGL, 1FHL to 3FHL, FL8Y, FL16Y.
# One file of 4FGL-DR2 lacks the space.
_FERMI = re.compile(r"(\d(FGL|FHL)|FL\d+Y) ?J")

_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U000[0-9a-f]{5})")


def read_catalog(path):
    """Return the catalogue in a file: one of ours as it was written, one of the Fermi-LAT, or any.

    Parameters
    ----------
    path : str or path-like
        File ending in .fits, .fit, .ecsv, .csv, .vot or .xml; FITS also with .gz, and brackets
        choose its table: ``file.fits[1]``. Or the name of a catalogue that gammapy reads from
        ``$GAMMAPY_DATA``: 3fgl, 4fgl, 2fhl, 3fhl, 2hwc, 3hwc, 1lhaaso, gamma-cat or hgps.

    Returns
    -------
    QTable
        Ours: the columns of :doc:`/columns` and ``skycoord``. Others: their columns and at least
        ``Source_Name``, ``RAJ2000``, ``DEJ2000``, ``Extended`` (bool), ``Extension`` (radius in
        deg, masked where unknown) and ``skycoord``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If the file is of another format or has no positions.

    Examples
    --------
    >>> from astro_unetloc import read_catalog
    >>> catalog = read_catalog("gll_psch_v13.fit.gz")  # doctest: +SKIP
    """
    path, chosen = split_choice(path)
    if re.fullmatch(r"[\w-]+", str(path)) and not path.exists():
        path = _named_file(str(path))
    if not path.is_file():
        raise FileNotFoundError(f"catalogue must be a file; got {str(path)!r}; check the path")
    kind = _FORMATS.get(suffix_of(path, _FORMATS))
    if kind is None:
        known = " ".join(_FORMATS)
        raise InputError(f"catalogue must end in one of {known}; got {path.name!r}; convert it")
    try:
        table, extended = _read_tables(path, kind, chosen)
        table.meta = {k: v for k, v in table.meta.items() if not LAYOUT_KEYWORDS.match(k.upper())}
        if is_catalog(table):
            return _conform(dict(table.items()), table.meta)
        table.meta.setdefault("FILENAME", path.name)
        return as_reference(table, extended)
    except Exception as err:  # astropy raises many kinds for damaged files
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise InputError(f"{path.name!r} must hold a table of sources; got: {reason}") from err


def _named_file(name):
    """File from which gammapy reads the catalogue of this name."""
    from gammapy.catalog import CATALOG_REGISTRY
    from gammapy.utils.scripts import make_path

    # ours needs a file
    known = {cls.tag.lower(): cls for cls in CATALOG_REGISTRY if cls.tag != "unl"}
    if name.lower() not in known:
        kinds = f"a file or one of {', '.join(sorted(known))}"
        raise FileNotFoundError(f"catalogue must be {kinds}; got {name!r}; check the path")
    path = make_path(inspect.signature(known[name.lower()]).parameters["filename"].default)
    if not path.is_file():
        raise FileNotFoundError(
            f"catalogue {name!r} must be in {str(path)!r}; got no such file; set $GAMMAPY_DATA to "
            "the folder of gammapy's data or give a file"
        )
    return path


def _read_tables(path, kind, chosen):
    """The table of sources and, from a Fermi catalogue, that of the extended ones (or None).

    ``chosen`` is the name or number of an HDU, None for the first table with positions.
    """
    if chosen is not None and kind != "fits":
        raise InputError(f"brackets choose a table of a FITS file; got [{chosen}]; leave them out")
    with warnings.catch_warnings():
        # Catalogues write "photon/cm**2/MeV/s": astropy understands, and warns of the slashes.
        warnings.simplefilter("ignore", u.UnitsWarning)
        if kind == "fits":
            with open_fits(path)[0] as hdus:
                return _read_fits(hdus, chosen)
        if kind == "votable":
            from astropy.io.votable import parse

            return _with_positions(map(_votable, parse(path, verify="ignore").iter_tables())), None
        lines = re.split("\r\n?|\n", _text_of(path))
        if kind == "ascii.ecsv":
            return QTable.read(lines, format=kind), None
        return _read_csv(lines), None


def _read_csv(lines):
    """Table of CSV with commas, semicolons or tabs, whose header may be a comment."""
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise InputError("an empty file")
    n_comments = sum(1 for _ in takewhile(lambda line: line.startswith("#"), lines[:-1]))
    if n_comments and re.search(r"(^|[,;\t])\s*[-+]?[\d.,]+\s*($|[,;\t])", lines[n_comments]):
        n_comments -= 1  # a line with a number is no header
    lines = [lines[n_comments].lstrip("# "), *lines[n_comments + 1 :]]
    delimiter = max(",;\t", key=lines[0].count)
    if delimiter == ";":  # together with decimal commas
        number = re.compile(r'(?<![^;"])(\s*[-+]?\d*),(\d+\s*)(?![^;"])')
        lines = [number.sub(r"\1.\2", line) for line in lines]
    converters = {spec.name: str for spec in COLUMNS + MATCH_COLUMNS if spec.dtype[0] == "U"}
    converters = {"*[Nn]ame": str} | converters
    table = QTable.read(lines, format="ascii.csv", delimiter=delimiter, converters=converters)
    for spec in COLUMNS:
        parts = [n for n in table.colnames if re.fullmatch(rf"{spec.name}_\d+", n)]
        if spec.per_band and parts:  # as `astro_unetloc.catalog.write` writes them
            cells = [texts(table[name]) for name in parts]
            table[spec.name] = np.where(np.equal(cells, ""), "nan", cells).astype(float).T
            table.remove_columns(parts)
    return table


def _text_of(path):
    """Text of a file in UTF-8 or UTF-16 with or without a byte order mark, or else in Latin-1."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _read_fits(hdus, chosen=None):
    """The first or the chosen table with positions, the searched area, that of extended sources."""
    named = [hdu for n, hdu in enumerate(hdus) if is_named(hdu, n, chosen)]
    hdus, named = ([h for h in part if isinstance(h, _TABLES)] for part in (hdus, named))
    table = _with_positions(QTable.read(hdu) for hdu in named)
    for key, value in table.meta.items():
        if isinstance(value, str):  # as `set_cards` writes letters that FITS cannot hold
            table.meta[key] = _ESCAPE.sub(lambda m: m[0].encode().decode("unicode_escape"), value)
    for hdu in hdus:
        if hdu.header.get("ORDERING") == "NUNIQ" and hdu.columns.names == ["UNIQ"]:
            table.meta[AREA] = _area_text(hdu.data.field(0))
    extended = [h for h in hdus if h.name.replace(" ", "").upper() == "EXTENDEDSOURCES"][:1]
    return table, QTable.read(extended[0]) if extended else None


def _votable(votable):
    """QTable of a table of VOTable, with its parameters as metadata."""
    table = QTable(votable.to_table(use_names_over_ids=True))
    table.meta = {param.name: param.value for param in votable.params}
    return table


def _with_positions(tables):
    """The first of some tables that has positions."""
    names = []
    for table in tables:
        if position_columns(table):
            return table
        names += table.colnames
    found = f"columns {', '.join(names[:8])}" if names else "no table"
    raise InputError(f"a file needs a table with positions; got {found}")


def _area_text(numbers):
    """A MOC as text from its cells, numbered ``4 * 4**order + cell``."""
    from mocpy import MOC

    order = np.log2(numbers).astype(np.int64) // 2 - 1
    cells = (numbers - 4 * 4**order).astype(np.uint64)
    return MOC.from_healpix_cells(cells, order.astype(np.uint8), max_depth=10).to_string()


def searched_area(table):
    """The area (`mocpy.MOC`) in which the sources of a table were searched; None if unknown."""
    if not table.meta.get(AREA):
        return None
    from mocpy import MOC

    try:
        return MOC.from_string(table.meta[AREA])
    except (OSError, TypeError) as err:
        raise InputError(
            f"the searched area of a catalogue must be a MOC; got {str(table.meta[AREA])[:40]!r}; "
            f"drop {AREA} from its header"
        ) from err


def was_searched(table, positions):
    """Which positions (SkyCoord, n) lie in the area in which the sources of a table were searched.

    All of them if the area is unknown.
    """
    area, positions = searched_area(table), positions.icrs
    searched = np.ones(len(positions), bool)
    if area is not None:
        searched = np.isfinite(positions.ra) & np.isfinite(positions.dec)
        searched[searched] = area.contains_skycoords(positions[searched])
    return searched


def join_catalogs(catalogs, names):
    """One table of several catalogues of ours, whose first column ``Map`` has the name of each.

    Values by band are masked beyond the bands of their model; the edges in GeV are those of the
    column ``Bands``. The searched area is that of all of them together.
    """
    lengths, columns = [len(catalog) for catalog in catalogs], {}
    n_bands = max((catalog["Counts_Band"].shape[1] for catalog in catalogs), default=1)
    for spec in COLUMNS:
        parts = [_padded(spec, catalog[spec.name], n_bands) for catalog in catalogs]
        shape = (sum(lengths), n_bands) if spec.per_band else (sum(lengths),)
        columns[spec.name] = _typed_column(spec, np.concatenate(parts) if parts else None, shape)
    bands = [str(catalog.meta.get(BANDS, "")) for catalog in catalogs]
    about = {"Map": np.repeat(np.array(names, "U"), lengths)}, {"Bands": np.repeat(bands, lengths)}
    table = Catalog(about[0] | columns | about[1], meta={"CREATOR": creator()})
    table["Map"].info.description = "Name of the map"
    table["Bands"].info.description = "Edges of the bands of the model in GeV"
    areas = [area for area in map(searched_area, catalogs) if area is not None]
    if areas and len(areas) == len(catalogs):
        table.meta[AREA] = reduce(type(areas[0]).union, areas).to_string()
    table["skycoord"] = sky_positions(table)
    return table


def _padded(spec, column, n_bands):
    """Plain values of a column, NaN where unknown, with so many of them by band."""
    shape = np.shape(column)
    values, mask = _values_and_mask(spec, column, shape)
    values = np.where(mask, np.nan, values) if mask.any() and values.dtype.kind == "f" else values
    if not spec.per_band:
        return values
    return np.pad(values, [(0, 0), (0, n_bands - shape[1])], constant_values=np.nan)


def as_table(source):
    """Table of the sources in any form that has one.

    A table, FITS records or HDUs, a SkyCoord, a catalogue of gammapy, or what astropy makes a table
    of; or a file or name that `read_catalog` takes.
    """
    if isinstance(source, str | os.PathLike):
        return read_catalog(source)
    if isinstance(source, Row):
        source = source.table[source.index : source.index + 1]
    source = getattr(source, "table", source)  # of a catalogue of gammapy
    try:
        if isinstance(source, SkyCoord):
            return QTable({"skycoord": source.reshape(-1)})
        if isinstance(source, fits.FITS_rec):
            source = fits.BinTableHDU(source)
        if isinstance(source, fits.BinTableHDU | fits.TableHDU):
            source = QTable.read(source)
        if isinstance(source, fits.HDUList):
            source = _read_fits(source)[0]
        if source is None:
            raise TypeError("astropy makes an empty table of it")
        table = source if isinstance(source, Table) else QTable(source)
    except (TypeError, ValueError) as err:
        raise InputError(
            f"a table of sources was expected; got {type(source).__name__}; give a QTable, "
            "SkyCoord, or the name of a file"
        ) from err
    if _source_names(table) is None and "ENERGY" in {name.upper() for name in table.colnames}:
        raise InputError("sources were expected; got a list of photons; find their sources first")
    return table


def energy_range(table, kind=""):
    """Energies (pair of float, GeV) in the header of a catalogue; None without.

    ``kind`` is empty for those of the map, "FIT" for those of the fitted photons and "FLUX" for
    those of ``Flux``. No other function reads energies from a header.
    """
    try:
        low, high = (float(table.meta[f"{kind}{key}"]) for key in ("EMIN", "EMAX"))
    except (KeyError, TypeError, ValueError):
        return None
    return (low, high) if 0 < low < high else None


def catalog_name(table):
    """Name of a catalogue from its header or its source names, with the release of 4FGL."""
    name = str(table.meta.get("CDS-NAME") or "")
    if not name and len(table) and "Source_Name" in table.colnames:
        first = re.match(r"(.+?) ?J\d{4}", str(table["Source_Name"][0]))
        name = first[1] if first else ""
    if name == "4FGL" and "DataRelease" in table.colnames and len(table):
        release = int(np.ma.max(np.ma.asarray(table["DataRelease"])))
        name = f"4FGL-DR{release}" if release > 1 else name
    return name or str(table.meta.get("FILENAME", "reference"))


def as_reference(table, extended=None):
    """Copy of any catalogue, as `as_table` takes it, with the columns that matching needs.

    These are ``Source_Name``, ``RAJ2000``, ``DEJ2000``, ``Extended`` (bool), ``Extension`` (radius
    in deg, masked where unknown) and ``skycoord``. ``extended`` is the table of extended sources of
    a Fermi-LAT catalogue.
    """
    extended = getattr(table, "extended_sources_table", extended)  # of a catalogue of gammapy
    table = as_table(table)
    names, positions = _source_names(table), sky_positions(table)
    numbers = np.arange(1, len(table) + 1).astype("U8")
    names = numbers if names is None else np.where(names == "", numbers, names)
    is_extended, radius = _extensions(table, names, extended)
    table = table.copy(copy_data=False)
    table["Source_Name"] = names
    table["RAJ2000"], table["DEJ2000"] = positions.ra.to(u.deg), positions.dec.to(u.deg)
    table["Extended"] = is_extended
    table["Extension"] = Masked(radius * u.deg, mask=~np.isfinite(radius))
    table["skycoord"] = positions
    return table


def _source_names(table):
    """Names of the sources of a table, which may be empty; None without a column of names."""
    lower = {name.lower().replace(" ", "_"): name for name in table.colnames}
    found = [lower[name] for name in _NAME_COLUMNS if name in lower]
    found += [name for name in table.colnames if _ucd(table[name]) == "meta.id;meta.main"]
    return texts(table[found[0]]) if found else None


def _extensions(table, names, extended):
    """Which sources are extended, and their radii in degrees (NaN where unknown)."""
    radius = np.full(len(table), np.nan)
    if "Extended" in table.colnames:
        known = degrees(table["Extension"]) if "Extension" in table.colnames else radius
        return np.asarray(table["Extended"], bool), known
    label = np.full(len(table), "", "U1")
    if "Extended_Source_Name" in table.colnames:
        label = texts(table["Extended_Source_Name"])
    is_fermi = np.array([bool(_FERMI.match(name)) for name in names], bool)
    is_extended = (label != "") | (is_fermi & np.char.endswith(names, "e"))
    if "size_x" in table.colnames:  # TeVCat
        size = degrees(table["size_x"])
        is_extended |= size > 0
        radius = np.where(size > 0, size, np.nan)
    if extended is not None and "Model_SemiMajor" in extended.colnames:
        known = dict(zip(texts(extended["Source_Name"]), degrees(extended["Model_SemiMajor"])))
        radius = np.array([known.get(a, known.get(b, np.nan)) for a, b in zip(label, names)], float)
        is_extended |= np.isfinite(radius)
    return is_extended, radius


def read_extended(reference):
    """Extended sources (QTable) of a catalogue, a file or the name of one; warns without any."""
    table = as_reference(reference)
    if not table["Extended"].any():
        warn("the catalogue of extended sources holds none; it flags nothing")
    return table[table["Extended"]]


def within_sky(table, *, min_latitude_deg=0.0, cone=None, box=None, footprint=None):
    """Rows of a table that lie in a part of the sky.

    ``cone`` is a SkyCoord and a radius (Quantity), ``box`` Galactic longitude and latitude of the
    centre and full widths in both, in degrees. ``footprint`` covers Galactic unit vectors (n, 3).
    """
    position = sky_positions(table).galactic
    lon, lat = position.l.deg, position.b.deg
    keep = np.abs(lat) >= min_latitude_deg
    if cone is not None:
        keep &= position.separation(cone[0].galactic) <= cone[1]
    if box is not None:
        offset = (lon - box[0] + 180) % 360 - 180
        keep &= (np.abs(offset) <= box[2] / 2) & (np.abs(lat - box[1]) <= box[3] / 2)
    if footprint is not None:
        keep &= footprint.covers(vectors_from_lonlat(lon, lat))
    return table[keep]
