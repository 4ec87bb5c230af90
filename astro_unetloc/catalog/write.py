"""The content of a file of the catalogue: FITS, ECSV, CSV or VOTable, as bytes.

Files made from a catalogue: tables, regions, models for a likelihood fit and a picture.

What is written is made in memory first; each file is written whole or not at all.
"""

import csv
import gzip
import io
import re
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from astro_unetloc import files
from astro_unetloc.catalog.columns import COLUMNS, LAYOUT_KEYWORDS, LIMIT_COLUMNS, MATCH_COLUMNS
from astro_unetloc.catalog.models import format_gammapy_models, format_library, point_models
from astro_unetloc.catalog.regions import format_regions
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import check_output, suffix_of, write_files

__all__ = [
    "TABLE_SUFFIXES",
    "check_fluxes",
    "check_outputs",
    "format_catalog",
    "output_paths",
    "set_cards",
    "table_bytes",
    "to_gammapy_models",
    "to_regions",
    "write_outputs",
]


TABLE_SUFFIXES = (".fits", ".fits.gz", ".ecsv", ".csv", ".vot")


EXTENSION_NAME = "UNETLOC_CATALOG"


# What the keywords that we know say; others are written without a comment.
KEYWORDS = {
    "CREATOR": "software and version",
    "VERSIONS": "of what it used",
    "MODEL": "name of the model",
    "MODELSHA": "sha256 of the model",
    "SEED": "seed of the photon placement",
    "INFILE": "input map",
    "INSHA256": "sha256 of the input map",
    "EMIN": "[GeV] lower edge of the map",
    "EMAX": "[GeV] upper edge of the map",
    "FITEMIN": "[GeV] lower edge of the photons of the fit",
    "FITEMAX": "[GeV] upper edge of the photons of the fit",
    "FLUXEMIN": "[GeV] lower edge of Flux",
    "FLUXEMAX": "[GeV] upper edge of Flux",
    "THRESH": "smallest Score listed",
}


def format_catalog(catalog, suffix):
    """The content of a file of the catalogue, as bytes.

    Parameters
    ----------
    catalog : QTable
        From `make_catalog`, or any table of sources.
    suffix : str
        One of .fits, .fits.gz, .ecsv, .csv, .vot.

    Returns
    -------
    bytes
        The content.
    """
    table = _bare_table(catalog)
    if suffix == ".fits.gz":
        return gzip.compress(_fits_bytes(table), mtime=0)
    writers = {".fits": _fits_bytes, ".vot": _votable_bytes}
    writers |= {".ecsv": _ecsv_bytes, ".csv": _csv_bytes}
    if suffix not in writers:
        raise InputError(f"suffix must be one of {' '.join(TABLE_SUFFIXES)}; got {suffix!r}")
    return writers[suffix](table)


def _csv_bytes(table):
    stream = io.StringIO()
    # The shortest digits that give the same float32 back: 0.1 and not 0.10000000149011612.
    single = [name for name in table.colnames if table[name].dtype == np.float32]
    table.write(stream, format="ascii.csv", formats=dict.fromkeys(single, _shortest))
    return stream.getvalue().encode()


def _ecsv_bytes(table):
    """A header with types, units and provenance above the CSV: ten times faster than astropy's."""
    stream = io.StringIO()
    table[:0].write(stream, format="ascii.ecsv", delimiter=",")
    comments = [line for line in stream.getvalue().splitlines() if line.startswith("#")]
    return "\n".join([*comments, ""]).encode() + _csv_bytes(table)


def _shortest(value):
    return str(value) if np.ma.is_masked(value) else str(np.float32(value))


def _bare_table(catalog):
    """Table of plain columns with units: what every reader understands; without ``skycoord``."""
    from astropy.table import Column, MaskedColumn, Table
    from astropy.units import Quantity

    table = Table(meta=dict(catalog.meta))
    for name in catalog.colnames:
        column = catalog[name]
        if not isinstance(column, Column | Quantity):
            continue
        about = {"name": name, "unit": column.unit, "description": column.info.description}
        about["meta"] = {
            key: value for key, value in (column.info.meta or {}).items() if key == "ucd"
        }
        values = np.ma.getdata(getattr(getattr(column, "unmasked", column), "value", column))
        mask = getattr(column, "mask", None)
        make = Column if mask is None else MaskedColumn
        table[name] = make(values, **about, **({} if mask is None else {"mask": mask}))
    return table


def _ucds():
    return {spec.name: spec.ucd for spec in COLUMNS + MATCH_COLUMNS + LIMIT_COLUMNS}


def _fits_bytes(table):
    from astropy.io import fits

    hdu = fits.table_to_hdu(_without_meta(table), character_as_bytes=True)
    hdu.name = EXTENSION_NAME
    for number, name in enumerate(table.colnames, 1):
        after = f"TFORM{number}"
        if table[name].description:
            hdu.header.set(f"TCOMM{number}", _ascii(table[name].description), after=after)
        if name in _ucds():
            hdu.header.set(f"TUCD{number}", _ucds()[name], after=after)
    hdu.header["RADESYS"] = ("ICRS", "frame of RAJ2000 and DEJ2000")
    hdu.header["DATE"] = (f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", "UTC, when written")
    set_cards(hdu.header, table.meta)
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream, checksum=True)
    return stream.getvalue()


def _without_meta(table):
    table = table.copy(copy_data=False)
    table.meta = {}
    for column in table.itercols():
        column.meta, column.description = {}, None
    return table


def set_cards(header, keywords):
    """Write provenance into a FITS header.

    Parameters
    ----------
    header : astropy.io.fits.Header
        It gets the keywords, but for those that describe the layout of a file.
    keywords : dict
        Names and values; what FITS cannot hold as it is becomes text.
    """
    for keyword, value in keywords.items():
        _set_card(header, keyword, value)
    if any(len(card.image) > 80 for card in header.cards):  # fitsverify warns without
        header.set("LONGSTRN", "OGIP 1.0", "values may go on in CONTINUE")


def _set_card(header, keyword, value):
    """One keyword of the provenance; what FITS cannot hold as it is becomes text."""
    keyword = str(keyword)
    if not keyword or LAYOUT_KEYWORDS.match(keyword.upper()):
        return
    if not re.fullmatch(r"[A-Z0-9_-]{1,8}", keyword):
        keyword = f"HIERARCH {_ascii(keyword)}"
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, float) and not np.isfinite(value):
        value = ""
    if not isinstance(value, bool | int | float):
        value = _ascii(value)
    comment = KEYWORDS.get(keyword, "")
    fits_in_card = len(str(value)) + len(comment) < 64
    header[keyword] = (value, comment) if comment and fits_in_card else value


def _ascii(text):
    text = str(text).encode("ascii", "replace").decode()
    return re.sub(r"[^ -~]", " ", text)


def _votable_bytes(table):
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import CooSys

    # One row is enough to declare the fields; the rows are put in below.
    votable = from_table(_char_columns(table[:1]))
    resource, first = votable.resources[0], votable.get_first_table()
    resource.coordinate_systems.append(CooSys(ID="icrs", system="ICRS"))
    for field in first.fields:
        field.ucd = _ucds().get(field.name)
        if field.name in ("RAJ2000", "DEJ2000"):
            field.ref = "icrs"
        if field.datatype == "char":  # as wide as the widest of all rows
            field.arraysize = str(_byte_width(table[field.name]))
    stream = io.BytesIO()
    votable.to_xml(stream, tabledata_format="tabledata")
    # without data, also of no rows, readers see no table at all
    start = b"<DATA>" if len(table) else b"</TABLE>"
    before, rest = stream.getvalue().split(start)
    parts = (before, _votable_params(table.meta), b"<DATA>\n<TABLEDATA>\n", _votable_rows(table),
             b"</TABLEDATA>\n</DATA>\n</TABLE>", rest.split(b"</TABLE>")[-1])  # fmt: skip
    return b"".join(parts)


def _votable_params(meta):
    """The provenance as XML; astropy writes ``<`` and ``&`` in it so that they read back wrong."""
    lines = []
    for number, (name, value) in enumerate(meta.items(), 1):
        value = value.item() if isinstance(value, np.generic) else value
        kind = {bool: "boolean", int: "long", float: "double"}.get(type(value))
        about = f'datatype="{kind}"' if kind else 'datatype="unicodeChar" arraysize="*"'
        text = str(value).lower() if kind == "boolean" else str(value)
        name, text = (quoteattr(_xml_text(word)) for word in (str(name), text))
        lines.append(f'<PARAM ID="param_{number}" name={name} {about} value={text}/>\n')
    return "".join(lines).encode()


def _xml_text(text):
    """Text without the characters that XML has no way to write."""
    return re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", " ", text)


def _byte_width(column):
    """Bytes of the longest text of a column, at least 2: one alone would be no text."""
    return max([2, *(len(str(text).encode()) for text in np.ma.filled(column, ""))])


def _votable_rows(table):
    """The rows as XML, from the cells of the CSV: seven times faster than astropy's."""
    rows = csv.reader(io.StringIO(_csv_bytes(table).decode()))
    next(rows)
    lines = ("</TD><TD>".join(escape(_xml_text(cell)) for cell in row) for row in rows)
    return "\n".join([f"<TR><TD>{line}</TD></TR>" for line in lines] + [""]).encode()


def _char_columns(table):
    """Text columns as bytes, which VOTable calls ``char`` and every reader knows."""
    table = table.copy()
    table.meta = {}
    for column in table.itercols():
        column.meta = {}
    table.convert_unicode_to_bytestring()
    return table


_MODEL_SUFFIXES = (".yaml", ".xml")


SUFFIXES = (*TABLE_SUFFIXES, ".reg", ".crtf", *_MODEL_SUFFIXES, ".png")


def output_paths(paths):
    """The paths to write: a lone FITS catalogue gets its regions beside it.

    Parameters
    ----------
    paths : iterable of str or path-like
        What was asked for.

    Returns
    -------
    tuple of Path
        What is to be written.

    Examples
    --------
    >>> from astro_unetloc.catalog.write import output_paths
    >>> print(*output_paths(["catalog.fits"]))
    catalog.fits catalog.reg
    """
    paths = tuple(Path(path) for path in paths)
    if len(paths) == 1 and _suffix(paths[0]).startswith(".fits"):
        stem = paths[0].name[: -len(_suffix(paths[0]))]
        paths += (paths[0].with_name(f"{stem}.reg"),)
    return paths


def _suffix(path):
    return suffix_of(path, SUFFIXES)


def check_outputs(paths, *, overwrite=False, inputs=()):
    """Raise an error unless all files of a catalogue can be written later."""
    files.check_outputs(paths, overwrite=overwrite, inputs=inputs, suffixes=SUFFIXES)


def check_fluxes(paths, *, known):
    """Raise if models are to be written, which need fluxes, and fluxes will not be known.

    Parameters
    ----------
    paths : iterable of str or path-like
        Files to write.
    known : bool
        Whether sources are measured with an exposure.

    Raises
    ------
    ValueError
        If models are among the files and ``known`` is false.
    """
    models = [str(path) for path in paths if _suffix(Path(path)) in _MODEL_SUFFIXES]
    if models and not known:
        raise InputError(
            f"models need the flux of each source; got {models[0]!r} without an exposure or "
            "without measuring; give --exposure or drop that output"
        )


def write_outputs(catalog, paths, *, overwrite=False, frame="icrs", figure=None, others=None):
    """Write the catalogue to all paths, format by suffix.

    Parameters
    ----------
    catalog : QTable
        From `make_catalog`, or any table of sources.
    paths : iterable of str or path-like
        Files ending in one of `SUFFIXES`, as from `output_paths`.
    overwrite : bool
        Whether files that exist may be replaced.
    frame : str
        Frame of the regions: "icrs", "fk5" or "galactic".
    figure : callable, optional
        ``figure(file)`` writes the picture as PNG to a binary file; needed for .png.
    others : dict of path to bytes, optional
        Further files to write along with them, of any suffix.

    Returns
    -------
    tuple of Path
        The files written.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, PermissionError
        As `check_outputs`; ValueError also for a picture without ``figure`` and for models
        without fluxes.
    """
    paths = tuple(Path(path) for path in paths)
    check_outputs(paths, overwrite=overwrite)
    contents = {path: _content(catalog, path, frame, figure) for path in paths}
    for path, content in (others or {}).items():
        check_output(path, overwrite=overwrite)
        contents[Path(path)] = content
    return tuple(write_files(contents, overwrite=overwrite))


def table_bytes(table, path):
    """The content of a further file with a table or the regions of its sources, for ``others``."""
    check_outputs([path], overwrite=True)
    return _content(table, Path(path), "icrs", None)


def _content(catalog, path, frame, figure):
    """What belongs in a file, by its suffix, as bytes."""
    suffix = _suffix(path)
    if suffix == ".png":
        return _picture(figure, path)
    if suffix == ".reg":
        return format_regions(catalog, frame=frame).encode("ascii")
    if suffix == ".crtf":
        return _crtf(catalog, frame).encode("ascii")
    if suffix == ".yaml":
        return format_gammapy_models(point_models(catalog)).encode()
    if suffix == ".xml":
        return format_library(point_models(catalog))
    return format_catalog(catalog, suffix)


def _picture(figure, path):
    if figure is None:
        raise InputError(f"a picture needs the photons of the map; got {str(path)!r} without them")
    stream = io.BytesIO()
    figure(stream)
    return stream.getvalue()


def to_regions(catalog, *, frame="icrs"):
    """The catalogue as `regions.Regions`: a labelled point and a 95 % ellipse for each source.

    Parameters
    ----------
    catalog : QTable
        Sources.
    frame : str
        "icrs", "fk5" or "galactic".

    Returns
    -------
    Regions
        A point for each source, followed by its ellipse where that is known.

    Examples
    --------
    >>> from astro_unetloc import read_catalog, to_regions
    >>> regions = to_regions(read_catalog("catalog.fits"))  # doctest: +SKIP
    """
    from regions import Regions

    return Regions.parse(format_regions(catalog, frame=frame), format="ds9")


def _crtf(catalog, frame):
    """Regions of CASA: labelled symbols and ellipses.

    The writer of `regions` knows points as ``point``, which CASA and its own reader refuse, and
    takes the height of an ellipse for the major axis, whose position angle CASA wants.
    """
    import astropy.units as u
    from regions import EllipseSkyRegion, PointSkyRegion, Regions

    regions = []
    for region in to_regions(catalog, frame=frame):
        visual = {"color": region.visual.get("color") or region.visual["edgecolor"]}
        if isinstance(region, PointSkyRegion):
            # quotes and brackets would end the label
            label = re.sub(r"[^A-Za-z0-9 ()+.:;_-]", "_", region.meta.get("text", ""))
            about = {"meta": {"label": label} if label else {}, "visual": visual | {"symbol": "+"}}
            regions.append(PointSkyRegion(region.center, **about))
        else:
            shape = (region.height, region.width, region.angle - 90 * u.deg)
            regions.append(EllipseSkyRegion(region.center, *shape, visual=visual))
    return Regions(regions).serialize(format="crtf", coordsys=frame)


def to_gammapy_models(catalog):
    """The catalogue as `gammapy.modeling.models.Models`, from which a likelihood fit can start.

    Parameters
    ----------
    catalog : QTable
        From `astro_unetloc.find_sources` with an exposure, or read back from FITS, ECSV or VOTable.

    Returns
    -------
    gammapy.modeling.models.Models
        For each source with a ``Flux`` a point source with a power law between the energies of the
        flux (``PowerLaw2SpectralModel``), under its name, with the errors of the catalogue and the
        covariance of the position from its 68 % ellipse. An unknown index is
        ``astro_unetloc.irf.spectra.PHOTON_INDEX``.

    Raises
    ------
    ValueError
        If there are sources and none has a flux, or the header does not state its energies.

    Warns
    -----
    UnetlocWarning
        If sources without a flux are left out.

    Examples
    --------
    >>> from astro_unetloc import read_catalog, to_gammapy_models
    >>> models = to_gammapy_models(read_catalog("catalog.fits"))  # doctest: +SKIP
    >>> dataset.models = [*models, *dataset.models]  # doctest: +SKIP
    """
    from gammapy.modeling.models import Models

    sources = point_models(catalog)
    models = Models.from_yaml(format_gammapy_models(sources))
    for model, covariance in zip(models, sources.covariance):
        if np.isfinite(covariance).all():
            model.spatial_model.covariance = covariance
    return models
