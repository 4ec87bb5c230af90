"""The content of a file of the catalogue: FITS, ECSV, CSV or VOTable, as bytes."""

import csv
import gzip
import io
import re
from datetime import UTC, datetime
from xml.sax.saxutils import escape

import numpy as np

from astro_unetloc.columns import COLUMNS, LAYOUT_KEYWORDS, LIMIT_COLUMNS, MATCH_COLUMNS

__all__ = ["SUFFIXES", "format_catalog"]

SUFFIXES = (".fits", ".fits.gz", ".ecsv", ".csv", ".vot")
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
    "EMIN": "[GeV] lower edge of the photons used",
    "EMAX": "[GeV] upper edge of the photons used",
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
        raise ValueError(f"suffix must be one of {' '.join(SUFFIXES)}; got {suffix!r}")
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
    for keyword, value in table.meta.items():
        _set_card(hdu.header, keyword, value)
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream, checksum=True)
    return stream.getvalue()


def _without_meta(table):
    table = table.copy(copy_data=False)
    table.meta = {}
    for column in table.itercols():
        column.meta, column.description = {}, None
    return table


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
    from astropy.io.votable.tree import CooSys, Param

    # One row is enough to declare the fields; the rows are put in below.
    votable = from_table(_char_columns(table[:1]))
    resource, first = votable.resources[0], votable.get_first_table()
    resource.coordinate_systems.append(CooSys(ID="icrs", system="ICRS"))
    for field in first.fields:
        field.ucd = _ucds().get(field.name)
        if field.name in ("RAJ2000", "DEJ2000"):
            field.ref = "icrs"
    for name, value in table.meta.items():
        value = value.item() if isinstance(value, np.generic) else value
        kind = {bool: "boolean", int: "long", float: "double"}.get(type(value))
        about = {"datatype": kind} if kind else {"datatype": "unicodeChar", "arraysize": "*"}
        first.params.append(
            Param(votable, name=str(name), value=value if kind else str(value), **about)
        )
    stream = io.BytesIO()
    votable.to_xml(stream, tabledata_format="tabledata")
    if not len(table):
        return stream.getvalue()
    before, rest = stream.getvalue().split(b"<TABLEDATA>")
    return before + b"<TABLEDATA>\n" + _votable_rows(table) + rest[rest.index(b"</TABLEDATA>") :]


def _votable_rows(table):
    """The rows as XML, from the cells of the CSV: seven times faster than astropy's."""
    rows = csv.reader(io.StringIO(_csv_bytes(table).decode()))
    next(rows)
    lines = ("</TD><TD>".join(escape(cell) for cell in row) for row in rows)
    return "\n".join([f"<TR><TD>{line}</TD></TR>" for line in lines] + [""]).encode()


def _char_columns(table):
    """Text columns as bytes, which VOTable calls ``char`` and every reader knows."""
    table = table.copy()
    table.meta = {}
    for column in table.itercols():
        column.meta = {}
    table.convert_unicode_to_bytestring()
    return table
