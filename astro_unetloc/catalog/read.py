"""Reading catalogues: ours in every format, those of the Fermi-LAT, any table with positions."""

import inspect
import re
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable
from astropy.utils.masked import Masked

from astro_unetloc.catalog.columns import COLUMNS, LAYOUT_KEYWORDS, MATCH_COLUMNS
from astro_unetloc.catalog.table import _conform, _ucd, degrees, sky_positions, texts
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.sphere import vectors_from_lonlat

_FORMATS = {".fits": "fits", ".fit": "fits", ".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}
_FORMATS |= {".vot": "votable", ".xml": "votable"}

# Columns with the names of sources, in lower case and with _ for a space.
_NAME_COLUMNS = "source_name name source canonical_name common_name main_id id".split()

# Beginning of names in the Fermi-LAT catalogues: 1FGL to 4FGL, 1FHL to 3FHL, FL8Y, FL16Y.
# One file of 4FGL-DR2 lacks the space.
_FERMI = re.compile(r"(\d(FGL|FHL)|FL\d+Y) ?J")


def read_catalog(path):
    """Return the catalogue in a file: one of ours as it was written, one of the Fermi-LAT, or any.

    Parameters
    ----------
    path : str or path-like
        File ending in .fits, .fit, .ecsv, .csv, .vot or .xml; FITS also with .gz. Or the name of a
        catalogue that gammapy reads from ``$GAMMAPY_DATA``: 3fgl, 4fgl, 2fhl, 3fhl, 2hwc, 3hwc,
        1lhaaso, gamma-cat or hgps.

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
    InputError
        If the file is of another format or has no positions.

    Examples
    --------
    >>> from astro_unetloc import read_catalog
    >>> catalog = read_catalog("gll_psch_v13.fit.gz")  # doctest: +SKIP
    """
    path = Path(path)
    if re.fullmatch(r"[\w-]+", str(path)) and not path.exists():
        path = _named_file(str(path))
    if not path.is_file():
        raise FileNotFoundError(f"catalogue must be a file; got {str(path)!r}; check the path")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _FORMATS:
        known = " ".join(_FORMATS)
        raise InputError(f"catalogue must end in one of {known}; got {path.name!r}; convert it")
    try:
        table, extended = _read_tables(path, _FORMATS[suffix])
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise InputError(f"{path.name!r} must hold a table of sources; got: {reason}") from err
    table.meta = {k: v for k, v in table.meta.items() if not LAYOUT_KEYWORDS.match(k.upper())}
    if all(spec.name in table.colnames for spec in COLUMNS if spec.required):
        return _conform({name: table[name] for name in table.colnames}, table.meta)
    table.meta.setdefault("FILENAME", path.name)
    return as_reference(table, extended)


def _named_file(name):
    """File from which gammapy reads the catalogue of this name."""
    from gammapy.catalog import CATALOG_REGISTRY
    from gammapy.utils.scripts import make_path

    known = {cls.tag.lower(): cls for cls in CATALOG_REGISTRY}
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


def _read_tables(path, file_format):
    """The table of sources and, from a Fermi catalogue, that of the extended ones (or None)."""
    from astropy.io.votable import parse_single_table

    with warnings.catch_warnings():
        # Catalogues write "photon/cm**2/MeV/s": astropy understands, and warns of the slashes.
        warnings.simplefilter("ignore", u.UnitsWarning)
        if file_format == "fits":
            return _read_fits(path)
        if file_format == "votable":
            votable = parse_single_table(path, verify="ignore")
            table = QTable(votable.to_table(use_names_over_ids=True))
            table.meta = {param.name: param.value for param in votable.params}
            return table, None
        texts = {spec.name: str for spec in COLUMNS + MATCH_COLUMNS if spec.dtype.startswith("U")}
        options = {"converters": texts} if file_format == "ascii.csv" else {}
        return QTable.read(path, format=file_format, **options), None


def _read_fits(path):
    with fits.open(path) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        if not tables:
            raise InputError("a FITS file without a table")
        names = [hdu.name.replace(" ", "").upper() for hdu in tables]
        extended = [h for h, n in zip(tables, names) if n == "EXTENDEDSOURCES"][:1]
        return QTable.read(tables[0]), QTable.read(extended[0]) if extended else None


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
    """Copy of any catalogue with the columns that matching needs.

    These are ``Source_Name``, ``RAJ2000``, ``DEJ2000``, ``Extended`` (bool), ``Extension`` (radius
    in deg, masked where unknown) and ``skycoord``. ``extended`` is the table of extended sources of
    a Fermi-LAT catalogue.
    """
    positions, names = sky_positions(table), _source_names(table)
    is_extended, radius = _extensions(table, names, extended)
    table = table.copy(copy_data=False)
    table["Source_Name"] = names
    table["RAJ2000"], table["DEJ2000"] = positions.ra.to(u.deg), positions.dec.to(u.deg)
    table["Extended"] = is_extended
    table["Extension"] = Masked(radius * u.deg, mask=~np.isfinite(radius))
    table["skycoord"] = positions
    return table


def _source_names(table):
    lower = {name.lower().replace(" ", "_"): name for name in table.colnames}
    found = [lower[name] for name in _NAME_COLUMNS if name in lower]
    found += [name for name in table.colnames if _ucd(table[name]) == "meta.id;meta.main"]
    return texts(table[found[0]] if found else np.arange(1, len(table) + 1))


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
    table = reference if hasattr(reference, "colnames") else read_catalog(reference)
    table = as_reference(table)
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
