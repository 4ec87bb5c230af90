"""Files made from a catalogue: tables, DS9 and CASA regions, models for a likelihood fit.

The content of a file is made in memory, as bytes; `astro_unetloc.files` puts it in place.
"""

import gzip
import io
import re
import unicodedata
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Column, Table

from astro_unetloc import files
from astro_unetloc.catalog import columns
from astro_unetloc.catalog.columns import (
    AREA,
    CLASS_COLORS,
    CLASS_WORDS,
    LAYOUT_KEYWORDS,
    is_doubted,
)
from astro_unetloc.catalog.models import fermi_library, gammapy_yaml
from astro_unetloc.catalog.read import as_table, searched_area
from astro_unetloc.catalog.table import (
    confidence_ellipses,
    one_line,
    position_columns,
    sky_positions,
    source_classes,
    texts,
    texts_of,
    unique_names,
)
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.files import check_output, suffix_of, write_files

TABLE_SUFFIXES = (".fits", ".fits.gz", ".ecsv", ".csv", ".vot")
_MODEL_SUFFIXES, PICTURE_SUFFIXES = (".yaml", ".xml"), (".png", ".pdf", ".svg")
_DRAWN = (*PICTURE_SUFFIXES, ".html")
SUFFIXES = (*TABLE_SUFFIXES, ".reg", ".crtf", *_MODEL_SUFFIXES, *_DRAWN)

EXTENSION_NAME = "UNETLOC_CATALOG"

# Comments of the keywords of the provenance; other keywords are written without a comment.
KEYWORDS = {
    "CREATOR": "software and version",
    "VERSIONS": "of what it used",
    "COMMAND": "makes the same catalogue again",
    "MATCHED": "command that matched it",
    "CATSHA": "sha256 of the catalogue",
    "REFSHA": "sha256 of the reference",
    "MODEL": "name of the model",
    "MODELSHA": "sha256 of the model",
    "SEED": "seed of the photon placement",
    "INFILE": "input map",
    "BKGNORM": "fitted factor of the background",
    "INSHA256": "sha256 of the input map",
    "EMIN": "[GeV] lower edge of the map",
    "EMAX": "[GeV] upper edge of the map",
    "FITEMIN": "[GeV] lower edge of the photons of the fit",
    "FITEMAX": "[GeV] upper edge of the photons of the fit",
    "FLUXEMIN": "[GeV] lower edge of Flux",
    "FLUXEMAX": "[GeV] upper edge of Flux",
    columns.BANDS: "[GeV] edges of the bands of the model",
    "THRESH": "smallest Score listed",
    "PURITY": "expected, which set the threshold",
    "MEASURE": "whether sources were fitted",
    "CLASSIFY": "whether classes were wanted",
    "CLPRIOR": "given fractions of AGN, PSR, OTHER",
    "CLASSED": "command that classified it",
    "CLGROUPS": "groups found without labels",
    "CLMODEL": "model that classified it",
    "CLMAP": "map that it was classified with",
    "REGION": "[deg] l, b, radius",
    "INKIND": "kind of the input map",
}
_COMPANIONS = {"EXP": "exposure", "BKG": "background", "PSF": "PSF", "EXT": "extended sources"}
for _key, _what in _COMPANIONS.items():
    KEYWORDS |= {f"{_key}FILE": _what, f"{_key}SHA": "sha256", f"{_key}KIND": f"kind of {_what}"}
_SPECS = columns.COLUMNS + columns.MATCH_COLUMNS + columns.LIMIT_COLUMNS
_SPECS = columns.VARIABILITY_COLUMNS + columns.LIGHT_CURVE_COLUMNS + _SPECS
_UCDS = {spec.name: spec.ucd for spec in _SPECS}


def output_paths(paths):
    """Paths to write (tuple): a lone ``x.fits`` gets its regions ``x.reg`` beside it."""
    paths = tuple(Path(path) for path in paths)
    suffix = suffix_of(paths[0], SUFFIXES) if len(paths) == 1 else ""
    if suffix.startswith(".fits"):
        paths += (paths[0].with_name(paths[0].name[: -len(suffix)] + ".reg"),)
    return paths


def check_outputs(paths, *, overwrite=False, inputs=()):
    """Raise an error unless all files of a catalogue can be written; see `files.check_outputs`."""
    files.check_outputs(paths, overwrite=overwrite, inputs=inputs, suffixes=SUFFIXES)


def check_fluxes(paths, *, known):
    """Raise `InputError` if there are models among the paths and no fluxes will be ``known``."""
    models = [str(path) for path in paths if suffix_of(path, SUFFIXES) in _MODEL_SUFFIXES]
    if models and not known:
        raise InputError(
            f"models need the flux of each source; got {models[0]!r} without an exposure or "
            "without measuring; give --exposure or drop that output"
        )


def write_catalog(catalog, *paths, overwrite=False, frame="icrs", labels=True):
    """Write a catalogue to files in the formats of their suffixes, all of them or none.

    Parameters
    ----------
    catalog : QTable
        From `find_sources`, `read_catalog` or `MatchResult.apply`, or any table of sources.
    *paths : str or path-like
        Files ending in .fits, .fits.gz, .ecsv, .csv or .vot (table), .reg (DS9 regions), .crtf
        (CASA regions), .yaml (gammapy models) or .xml (source library of the Fermi tools).
    overwrite : bool
        Whether files that exist may be replaced.
    frame : str
        Frame of the regions: "icrs", "fk5" or "galactic".
    labels : bool
        Whether regions show the names of the sources; see `to_regions`.

    Raises
    ------
    InputError
        If the suffix is unknown, or models have no fluxes.
    FileExistsError, FileNotFoundError, PermissionError
        If the file cannot be written.

    Examples
    --------
    >>> from astro_unetloc import find_sources, write_catalog
    >>> catalog = find_sources("map.fits")  # doctest: +SKIP
    >>> write_catalog(catalog, "catalog.fits", "catalog.reg")  # doctest: +SKIP
    """
    write_outputs(catalog, paths, overwrite=overwrite, frame=frame, labels=labels)


def can_write(path, options):
    """Whether `write_catalog` takes this file and these options, a dict."""
    if not isinstance(path, str | Path) or not set(options) <= {"overwrite", "frame", "labels"}:
        return False
    return suffix_of(path, SUFFIXES) not in ("", *_DRAWN)


def write_outputs(catalog, paths, *, overwrite=False, frame="icrs", labels=True, figure=None,
                  page=None, others=None):  # fmt: skip
    """Write a catalogue in the format of each suffix, and return the paths; all files or none.

    ``figure(file, kind)`` writes the picture as png, pdf or svg to a binary file, ``page()``
    returns the bytes of the report; ``others`` are further files, of any suffix, as a dict of path
    to bytes.
    """
    paths, others = tuple(Path(path) for path in paths), others or {}
    check_outputs(paths, overwrite=overwrite)
    for path in others:
        check_output(path, overwrite=overwrite)
    how = {"frame": frame, "labels": labels, "figure": figure, "page": page}
    contents = {path: file_content(catalog, path, **how) for path in paths}
    return tuple(write_files(contents | others, overwrite=overwrite))


def file_content(catalog, path, *, frame="icrs", labels=True, figure=None, page=None):
    """Content (bytes) of a file by its suffix, one of `SUFFIXES`."""
    suffix, catalog = suffix_of(path, SUFFIXES), as_table(catalog)
    if suffix in (".reg", ".crtf"):
        how = {"frame": frame, "labels": labels, "casa": suffix == ".crtf"}
        content = format_regions(catalog, **how).encode()
        return _with_comments(content, catalog.meta, "# {}")
    if suffix == ".yaml":
        return _with_comments(gammapy_yaml(catalog).encode(), catalog.meta, "# {}")
    if suffix == ".xml":  # a comment could not hold the two dashes of an option
        return _with_comments(fermi_library(catalog), catalog.meta, "<?astro_unetloc {}?>")
    if suffix not in _DRAWN:
        return format_catalog(catalog, suffix)
    if (page if suffix == ".html" else figure) is None:
        what = "a page" if suffix == ".html" else "a picture"
        raise InputError(f"{what} needs the photons of the map; got {str(path)!r} without them")
    if suffix == ".html":
        return page()
    stream = io.BytesIO()
    figure(stream, suffix[1:])
    return stream.getvalue()


def _with_comments(content, meta, form):
    """Content of a text file with the provenance after its first line."""
    texts = [_ascii(f"{key} = {meta[key]}") for key in KEYWORDS if key in meta]
    lines = [form.format(text.replace("?>", "? >")).encode() for text in texts]
    first, *rest = content.split(b"\n", 1)
    return b"\n".join([first, *lines, *rest])


# Tables


def format_catalog(catalog, suffix):
    """Content (bytes) of a file with a table, of one of `TABLE_SUFFIXES`."""
    table = plain_table(catalog)
    if suffix == ".fits":
        return _fits_bytes(table)
    if suffix == ".fits.gz":
        return gzip.compress(_fits_bytes(table), mtime=0)
    if suffix == ".vot":
        return _votable_bytes(table)
    if suffix == ".csv":
        table = _one_number_a_cell(table)
    elif not len(table):  # astropy does not read empty columns of vectors
        table = Table({name: column.ravel() for name, column in table.items()}, meta=table.meta)
    # The shortest digits that read back as the same float32: 0.1, not 0.10000000149011612.
    short = [name for name, c in table.items() if c.dtype == np.float32 and c.ndim == 1]
    formats = dict.fromkeys(short, _shortest)
    stream = io.StringIO()
    table.write(stream, format=f"ascii{suffix}", delimiter=",", formats=formats)
    lines = stream.getvalue().split("\n")
    head = list(takewhile(lambda line: line.startswith("#"), lines))
    # A reader would take a row that begins with # for a comment.
    rows = [re.sub("^(#[^,]*)", r'"\1"', line) for line in lines[len(head) :]]
    return "\n".join(head + rows).encode(errors="replace")


def _shortest(value):
    return str(value) if np.ma.is_masked(value) else str(np.float32(value))


def plain_table(catalog):
    """Table of columns with units and UCDs, which every reader understands; no ``skycoord``."""
    columns = {n: c for n, c in catalog.items() if isinstance(c, Column | u.Quantity)}
    if "skycoord" in catalog.colnames and not position_columns(Table(columns)):
        icrs = catalog["skycoord"].icrs
        columns = {"RAJ2000": icrs.ra.to(u.deg), "DEJ2000": icrs.dec.to(u.deg)} | columns
    if lost := set(catalog.colnames) - set(columns) - {"skycoord"}:
        warn(f"files hold numbers and texts; the columns {', '.join(lost)} are not written")
    table = Table(columns, meta=catalog.meta)
    for name, column in list(table.items()):
        ucd = _UCDS.get(name, column.meta.get("ucd"))
        column.meta, column.format = {"ucd": ucd} if ucd else {}, None
        if column.dtype.kind in "SUO":
            table[name] = _with_texts(column, texts(column))
    return table


def _one_number_a_cell(table):
    """Table in which a column for each band stands instead of a column of bands."""
    columns = {}
    for name, column in table.items():
        if column.ndim == 1:
            columns[name] = column
        else:
            parts = column.reshape(len(column), np.prod(column.shape[1:])).T
            columns |= {f"{name}_{i}": part for i, part in enumerate(parts, 1)}
    return Table(columns)


def _fits_bytes(table):
    """FITS table; `Table.write` would drop UCDs and descriptions."""
    bare = table.copy(copy_data=False)
    bare.meta = {}
    for column in list(bare.itercols()):
        column.meta, column.description = {}, None
        if column.dtype.kind == "U":
            bare[column.name] = _with_texts(column, _ascii_texts(column))
    names = unique_names([_ascii(name)[:60] or "column" for name in bare.colnames])
    bare.rename_columns(bare.colnames, names)
    hdu = fits.table_to_hdu(bare, character_as_bytes=True)
    hdu.name = EXTENSION_NAME
    for number, column in enumerate(table.itercols(), 1):
        after = f"TFORM{number}"
        if column.description:
            hdu.header.set(f"TCOMM{number}", _ascii(column.description), after=after)
        if "ucd" in column.meta:
            hdu.header.set(f"TUCD{number}", column.meta["ucd"], after=after)
    hdu.header["RADESYS"] = ("ICRS", "frame of RAJ2000 and DEJ2000")
    hdu.header["DATE"] = (f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", "UTC, when written")
    set_cards(hdu.header, {key: value for key, value in table.meta.items() if key != AREA})
    hdus = [fits.PrimaryHDU(), hdu]
    if (area := searched_area(table)) is not None:
        hdus.append(area.serialize("fits", v1_compatible=True)[1])
        hdus[2].name, hdus[2].header["PIXTYPE"] = AREA, "HEALPIX"
    stream = io.BytesIO()
    fits.HDUList(hdus).writeto(stream, checksum=True)
    return stream.getvalue()


def set_cards(header, keywords):
    """Write the provenance, names and values, into a FITS header.

    Names that describe the layout of a file are left out, values that FITS cannot hold become text.
    """
    for keyword, value in keywords.items():
        keyword = str(keyword)
        if not keyword or LAYOUT_KEYWORDS.match(keyword.upper()):
            continue
        if not re.fullmatch(r"[A-Z0-9_-]{1,8}", keyword):
            keyword = f"HIERARCH {re.sub('[^A-Za-z0-9_ -]', '_', _ascii(keyword))[:40]}"
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or isinstance(value, float) and not np.isfinite(value):
            value = ""
        if not isinstance(value, bool | int | float):  # names of files must stay what they are
            value = one_line(value).encode("ascii", "backslashreplace").decode()
        comment = KEYWORDS.get(keyword, "")
        fits_in_card = len(str(value)) + len(comment) < 64
        header[keyword] = (value, comment) if comment and fits_in_card else value
    if any(len(card.image) > 80 for card in header.cards):  # fitsverify warns without
        header.set("LONGSTRN", "OGIP 1.0", "values may go on in CONTINUE")


def _ascii(text):
    """Text in the characters of FITS: letters without their accents, others replaced by ?."""
    parts = unicodedata.normalize("NFKD", one_line(text))
    bare = "".join(c for c in parts if not unicodedata.combining(c))
    return bare.encode("ascii", "replace").decode()


def _ascii_texts(column):
    """Texts of a column for FITS; warns of those that it cannot hold."""
    before = np.ma.getdata(column)
    after = np.array([_ascii(text) for text in before.ravel().tolist()], str).reshape(before.shape)
    changed = after != before
    if changed.any():
        first, kept = str(before[changed][0]), str(after[changed][0])
        warn(
            f"FITS holds ASCII only: {changed.sum()} of {changed.size} texts in {column.name} are "
            f"changed, such as {first!r} to {kept!r}; .ecsv and .vot keep them"
        )
    return after


def _with_texts(column, values):
    """A copy of a column with other texts in the same rows."""
    values = np.ma.MaskedArray(values, column.mask) if hasattr(column, "mask") else values
    return column.copy(data=values)


def _votable_bytes(table):
    """VOTable with the provenance as parameters of the table."""
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import CooSys

    text = table.copy()
    text.meta = {}
    for name, column in list(text.items()):
        if column.dtype.kind == "U" and "".join(np.ma.getdata(column).ravel()).isascii():
            text[name] = column.astype("S")  # ``char``, which every reader knows
        elif column.ndim > 1 and column.dtype.kind == "f":
            # masked arrays would be written as empty cells, which are no arrays
            values = np.ma.getdata(getattr(column, "unmasked", column))
            text[name] = np.where(getattr(column, "mask", False), np.nan, values)
            for attribute in ("description", "meta", "unit"):
                setattr(text[name].info, attribute, getattr(column.info, attribute))
    votable = from_table(text)
    first = votable.get_first_table()
    votable.resources[0].coordinate_systems.append(CooSys(ID="icrs", system="ICRS"))
    for field in first.fields:
        if field.name in ("RAJ2000", "DEJ2000"):
            field.ref = "icrs"
        if field.arraysize == "1" and field.datatype == "char":
            field.arraysize = "2"  # one ``char`` would be no text
    for number, (name, value) in enumerate(table.meta.items(), 1):
        first.params.append(_votable_param(votable, f"param_{number}", name, value))
    stream = io.BytesIO()
    votable.to_xml(stream, tabledata_format="tabledata")
    content = stream.getvalue()
    if not len(table):  # readers see no table at all without data
        content = content.replace(b"</TABLE>", b"<DATA><TABLEDATA/></DATA></TABLE>")
    return content


def _votable_param(votable, number, name, value):
    from astropy.io.votable.tree import Field, Param

    value = value.item() if isinstance(value, np.generic) else value
    kind = {bool: "boolean", int: "long", float: "double"}.get(type(value))
    about = {"datatype": kind} if kind else {"datatype": "unicodeChar", "arraysize": "*"}
    value = value if kind else one_line(value)
    param = Param(votable, ID=number, name=one_line(name), value=value, **about)
    if not kind:
        param.to_xml = partial(Field.to_xml, param)  # that of `Param` escapes < and & twice
    return param


# Regions

# A matched catalogue is colored by the matches, another one by class.
_MATCH_COLORS = {"matched": "green", "new": "magenta", "flagged": "yellow"}

_DS9_HEADER = """\
# Region file format: DS9 version 4.1
# cross: position, ellipse: 95 % confidence (dashed where flags question the source), {}
global dashlist=8 3 width=1 font="helvetica 10 normal roman" select=1 highlite=1 dash=0 fixed=0 \
edit=1 move=1 delete=1 include=1 source=1
"""
_CASA_HEADER = "#CRTFv0\nglobal coord={}\n"
_FRAMES = {"icrs": "ICRS", "fk5": "J2000", "galactic": "GALACTIC"}  # their names in CASA


def format_regions(catalog, *, frame="icrs", labels=True, casa=False):
    """Regions of a catalogue for DS9 or CASA (str).

    For each source a cross and, if known, a 95 % ellipse, in the style of the Fermi-LAT. Without
    ``labels`` the name is a tag: the regions of a source are one group in DS9.
    """
    # The writer of `regions` fails at braces in the label of DS9 and drops that of a single region.
    # CASA and its own reader refuse its points for CASA, and its ellipses are turned.
    if frame not in list(_FRAMES):  # it may be anything
        raise InputError(f"frame must be icrs, fk5 or galactic; got {frame!r}")
    icrs, ellipses = sky_positions(catalog), confidence_ellipses(catalog)
    positions = icrs.transform_to(frame)
    lon, lat = positions.spherical.lon.deg, positions.spherical.lat.deg
    along = icrs.directional_offset_by(np.nan_to_num(ellipses[:, 2]) * u.deg, 1 * u.arcsec)
    angle = positions.position_angle(along.transform_to(frame)).deg
    names = texts_of(catalog, "Source_Name")
    # braces and backslashes would end the label of DS9
    safe = str.maketrans("{}\\", "()/")
    names = [" ".join(_ascii(name).translate(safe).split()) for name in names]
    states, classes = _states(catalog), source_classes(catalog)
    is_matched = "ASSOC" in catalog.colnames
    colors, shown = (_MATCH_COLORS, states) if is_matched else (CLASS_COLORS, classes)
    legend = ", ".join(f"{color}: {CLASS_WORDS.get(what, what)}" for what, color in colors.items())
    tags = [[tag for tag in both if tag] for both in zip(states, classes)]
    if not labels:
        tags = [[name, *both] if name else both for name, both in zip(names, tags)]
        names = [""] * len(names)
    styles = zip((colors[name] for name in shown), is_doubted(catalog).tolist(), tags)
    rows = zip(lon, lat, *ellipses.T[:2], angle, names, styles)
    lines = _casa_lines if casa else partial(_ds9_lines, frame)
    header = _CASA_HEADER.format(_FRAMES[frame]) if casa else _DS9_HEADER.format(legend)
    return header + "".join("".join(lines(*row)) for row in rows if np.isfinite(row[:2]).all())


def _ds9_lines(frame, lon, lat, major, minor, angle, label, style):
    """Region of a source for DS9, which counts the angle from the longitude axis of the frame."""
    color, is_dashed, tags = style
    style = " ".join([f"color={color}", *(f"tag={{{tag}}}" for tag in tags)])
    place = f"{lon:.6f},{lat:.6f}"
    yield f"{frame};point({place})# point=cross {style}{f' text={{{label}}}' if label else ''}\n"
    if np.isfinite(major):
        shape = f"{major:.6f},{minor:.6f},{(angle + 90) % 360:.6f}"
        yield f"{frame};ellipse({place},{shape})# {'dash=1 ' * is_dashed}{style}\n"


def _casa_lines(lon, lat, major, minor, angle, label, style):
    """Region of a source for CASA, which counts the angle from north."""
    place, color = f"{lon:.6f}deg, {lat:.6f}deg", f"color={style[0]}"
    line = ", linestyle=--" * style[1]
    label = re.sub(r"[^A-Za-z0-9 ()+.:;_-]", "_", label)  # quotes and brackets would end it
    yield f"symbol[[{place}], +], {f'label={label!r}, ' if label else ''}{color}\n"
    if np.isfinite(major):
        shape = f"[{major:.6f}deg, {minor:.6f}deg], {angle:.6f}deg"
        yield f"ellipse[[{place}], {shape}], {color}{line}\n"


def _states(catalog):
    """Whether each source is matched, else flagged, else new or, without matching, a source."""
    is_compared = "ASSOC" in catalog.colnames
    states = np.where(is_doubted(catalog), "flagged", "new" if is_compared else "source")
    if is_compared:
        states[~np.ma.getmaskarray(np.ma.asarray(catalog["ASSOC"]))] = "matched"
    return states


def to_regions(catalog, *, frame="icrs", labels=True):
    """Return the catalogue as `regions.Regions`: labelled points and 95 % ellipses.

    Parameters
    ----------
    catalog : QTable
        Any table of sources.
    frame : str
        "icrs", "fk5" or "galactic".
    labels : bool
        Whether the text of a point is the name of its source. Without, for crowded fields, the name
        is a tag of point and ellipse, which the dialogue *Groups* of DS9 lists.

    Returns
    -------
    regions.Regions
        A point for each source, followed by its ellipse where that is known.

    Examples
    --------
    >>> from astro_unetloc import read_catalog, to_regions
    >>> regions = to_regions(read_catalog("catalog.fits"))  # doctest: +SKIP
    """
    from regions import Regions

    text = format_regions(as_table(catalog), frame=frame, labels=labels)
    return Regions.parse(text, format="ds9")
