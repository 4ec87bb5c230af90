import gzip
import io
import re
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import parse
from astropy.table import QTable
from astropy.time import Time
from made_catalogs import META, assert_same_catalog, make_measured, split_regions
from regions import Regions

from astro_unetloc.catalog.columns import CLASS_COLORS, COLUMNS
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.write import (
    check_outputs,
    format_catalog,
    format_regions,
    output_paths,
    to_regions,
    write_catalog,
    write_outputs,
)

SUFFIXES = (".fits", ".fits.gz", ".ecsv", ".csv", ".vot", ".reg")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# Which files


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["c.fits"], ["c.fits", "c.reg"]),
        (["d/c.v2.FITS.gz"], ["d/c.v2.FITS.gz", "d/c.v2.reg"]),
        (["c.ecsv"], ["c.ecsv"]),
        (["c.fits", "c.csv"], ["c.fits", "c.csv"]),
        ([], []),
    ],
)
def test_lone_fits_catalog_gets_its_regions(asked, expected):
    assert output_paths(asked) == tuple(Path(path) for path in expected)


@pytest.mark.parametrize("name", ["c.txt", "c.fits.bz2", "c", ".fits", "c.yml", "c.ecsv.gz"])
def test_unknown_suffix_is_refused_with_the_known_ones(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in one of .fits .*\.reg .*\.html; got"):
        check_outputs([tmp_path / name])


# Writing


def test_every_format_gives_back_what_was_written_and_nothing_else_changes(tmp_path):
    catalog, before = make_measured(6), make_measured(6)
    paths = [tmp_path / f"c{suffix}" for suffix in SUFFIXES]
    assert write_outputs(catalog, paths) == tuple(paths)
    for path in paths[:-1]:
        assert_same_catalog(read_catalog(path), catalog)
    assert_same_catalog(catalog, before)
    assert catalog.meta == before.meta
    with pytest.raises(FileExistsError):
        write_catalog(make_measured(3), paths[2])
    assert len(read_catalog(paths[2])) == 6
    write_catalog(make_measured(3), paths[2], overwrite=True)
    assert len(read_catalog(paths[2])) == 3
    assert names_in(tmp_path) == sorted(path.name for path in paths)


def test_positions_are_written_and_columns_that_are_no_numbers_or_texts_are_not(tmp_path):
    catalog = QTable({"skycoord": make_measured(2)["skycoord"], "When": Time([0, 1], format="mjd")})
    with pytest.warns(match="hold numbers and texts; the columns When are not written"):
        write_catalog(catalog, tmp_path / "c.fits")
    read = read_catalog(tmp_path / "c.fits")
    assert np.all(read["skycoord"].separation(catalog["skycoord"]) < 1e-6 * u.arcsec)


def test_picture_comes_from_the_callable_and_no_file_is_left_without_one(tmp_path):
    def fail(stream, kind):
        stream.write(b"half")
        raise RuntimeError("no picture")

    catalog, paths = make_measured(2), [tmp_path / "c.fits", tmp_path / "c.png"]
    with pytest.raises(RuntimeError, match="no picture"):
        write_outputs(catalog, paths, figure=fail)
    with pytest.raises(ValueError, match="a picture needs the photons of the map"):
        write_outputs(catalog, paths)
    assert names_in(tmp_path) == []
    write_outputs(catalog, paths[1:], figure=lambda stream, kind: stream.write(kind.encode()))
    assert paths[1].read_bytes() == b"png"


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_table_writes_itself_as_write_catalog_does(tmp_path, n, suffix):
    catalog, path = make_measured(n + 1)[:n], tmp_path / f"c{suffix}"
    write_catalog(catalog, path)
    expected = path.read_bytes()
    with pytest.raises(FileExistsError, match="must not exist"):
        catalog.write(path)
    catalog.write(str(path), overwrite=True)
    if suffix.startswith(".fits"):  # the time of writing is in the header
        assert_same_catalog(read_catalog(path), catalog)
    else:
        assert path.read_bytes() == expected


def test_table_writes_other_formats_of_astropy(tmp_path):
    catalog = make_measured(2)
    catalog["Source_Name", "GLON"].write(tmp_path / "c.html")
    catalog.write(tmp_path / "c.txt", format="ascii.ecsv")
    assert QTable.read(tmp_path / "c.txt", format="ascii.ecsv").colnames == catalog.colnames


def test_files_are_written_together_or_not_at_all(tmp_path):
    paths = [tmp_path / f"c{suffix}" for suffix in SUFFIXES]
    paths[3].touch()
    with pytest.raises(FileExistsError):
        write_catalog(make_measured(2), *paths)
    assert names_in(tmp_path) == ["c.csv"]
    write_catalog(make_measured(2), *paths, overwrite=True, frame="galactic", labels=False)
    assert names_in(tmp_path) == sorted(path.name for path in paths)
    assert "text=" not in paths[-1].read_text()


# Tables


def read_fits(content):
    hdus = fits.open(io.BytesIO(content), checksum=True)
    assert len(hdus) == 2
    return hdus


def test_fits_describes_its_columns_and_carries_provenance_and_checksums():
    header = read_fits(format_catalog(make_measured(2), ".fits"))[1].header
    for number, spec in enumerate(COLUMNS, 1):
        assert header[f"TTYPE{number}"] == spec.name
        assert header[f"TUCD{number}"] == spec.ucd
        assert header[f"TCOMM{number}"] == spec.description
        assert (f"TUNIT{number}" in header) == bool(spec.unit)
    assert (header["TUNIT2"], header["RADESYS"]) == ("deg", "ICRS")
    assert header["EXTNAME"] == "UNETLOC_CATALOG"
    for keyword, value in META.items():
        assert header[keyword] == value
    assert header.comments["SEED"] == "seed of the photon placement"
    assert header["CREATOR"].startswith("astro_unetloc ")
    assert {"DATASUM", "CHECKSUM"} <= set(header)
    assert header["DATE"].startswith("20")


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("long keyword", 1, 1),
        ("NOTE", "\u03b3-rays\nhere", r"\u03b3-rays here"),
        ("NOTHING", None, ""),
        ("LIMIT", np.inf, ""),
        ("NUMBER", np.float32(0.5), 0.5),
        ("GOOD", True, True),
        ("INFILE", "a" * 200 + ".fits", "a" * 200 + ".fits"),
        ("NAXIS2", 99, 1), ("TTYPE1", "x", "Source_Name"), ("EXTNAME", "y", "UNETLOC_CATALOG"),
    ],
)  # fmt: skip
def test_any_meta_can_be_written_to_fits_but_the_layout_of_an_input_file(keyword, value, kept):
    catalog = make_measured(1, meta={keyword: value, "COMMENT": "c"})
    content = format_catalog(catalog, ".fits.gz")
    assert content[4:8] == b"\0\0\0\0"  # no time of writing outside the header
    header = read_fits(gzip.decompress(content))[1].header
    assert header[keyword] == kept
    assert "COMMENT" not in header


def test_csv_is_plain_and_short():
    lines = format_catalog(make_measured(1), ".csv").decode().splitlines()
    assert len(lines) == 2
    bands = [f"{spec.name}_1" if spec.per_band else spec.name for spec in COLUMNS]
    assert lines[0].split(",") == bands
    cells = dict(zip(lines[0].split(","), lines[1].split(",")))
    assert cells["Conf_95_SemiMajor"] == "0.1"
    assert cells["Flux"] == "3.3e-11"
    assert cells["Sqrt_TS"] == ""


@pytest.mark.parametrize("n", [0, 2])
def test_csv_has_a_column_for_every_number_of_a_row(n):
    errors = np.arange(6.0 * n).reshape(n, 3, 2)
    catalog = QTable({"RA": np.zeros(n), "Dec": np.zeros(n), "Unc_Flux_Band": errors})
    head, *rows = format_catalog(catalog, ".csv").decode().splitlines()
    assert head.split(",")[2:] == [f"Unc_Flux_Band_{number}" for number in range(1, 7)]
    assert [row.split(",")[2:] for row in rows] == errors.reshape(n, 6).astype(str).tolist()


@pytest.mark.parametrize("n", [0, 1, 5])
def test_votable_has_ucds_frame_and_provenance(n):
    content = format_catalog(make_measured(n), ".vot")
    votable = parse(io.BytesIO(content), verify="exception")
    table = votable.get_first_table()
    assert [field.ucd for field in table.fields] == [spec.ucd for spec in COLUMNS]
    assert [field.datatype for field in table.fields][0] == "char"
    assert votable.resources[0].coordinate_systems[0].system == "ICRS"
    assert {param.name: param.value for param in table.params}["EMIN"] == 10.0
    assert len(table.array) == n


# Regions


@pytest.mark.parametrize(("kind", "label"), [("reg", "text"), ("crtf", "label")])
@pytest.mark.parametrize("frame", ["icrs", "fk5", "galactic"])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_regions_hold_a_point_for_every_source_and_the_known_ellipses(
    tmp_path, n, frame, kind, label
):
    catalog, path = make_measured(n), tmp_path / f"c.{kind}"
    write_outputs(catalog, [path], frame=frame)
    points, ellipses = split_regions(Regions.read(path, format="ds9" if kind == "reg" else kind))
    assert [point.meta[label] for point in points] == list(catalog["Source_Name"])
    assert {point.visual["color"] for point in points} <= {CLASS_COLORS["agn"], CLASS_COLORS[""]}
    assert len(ellipses) == np.sum(~catalog["Conf_95_SemiMajor"].mask)
    for point, position in zip(points, catalog["skycoord"], strict=True):
        assert point.center.frame.name == frame
        assert point.center.icrs.separation(position) < 0.01 * u.arcsec


@pytest.mark.parametrize("frame", ["icrs", "galactic"])
def test_ellipse_points_along_the_position_angle_in_any_frame(frame):
    catalog = make_measured(1)
    ellipse = to_regions(catalog, frame=frame)[1]
    assert ellipse.width.to_value("deg") == pytest.approx(0.2, rel=1e-5)
    assert ellipse.height.to_value("deg") == pytest.approx(0.1, rel=1e-5)
    # `regions` counts from the longitude axis, a position angle from north.
    end = ellipse.center.directional_offset_by(ellipse.angle - 90 * u.deg, 0.1 * u.deg).icrs
    expected = catalog["skycoord"][0].directional_offset_by(30 * u.deg, 0.1 * u.deg)
    assert end.separation(expected) < 0.5 * u.arcsec


def test_regions_are_in_the_style_of_fermi():
    catalog = make_measured(1)
    lines = format_regions(catalog, frame="fk5").splitlines()
    assert lines[0] == "# Region file format: DS9 version 4.1"
    assert lines[-2].startswith("fk5;point(")
    assert "# point=cross " in lines[-2]
    assert lines[-2].endswith("text={UNL J0534.8-2538}")
    assert lines[-1].startswith("fk5;ellipse(")
    assert ",0.100000,0.050000,120.0" in lines[-1]
    catalog["Conf_95_SemiMinor"] = catalog["Conf_95_SemiMajor"]
    catalog["Conf_95_PosAng"].mask[:] = True  # a circle needs none
    assert len(to_regions(catalog)) == 2
    with pytest.raises(ValueError, match="frame must be icrs, fk5 or galactic; got 'moon'"):
        format_regions(catalog, frame="moon")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a{b}c", "a(b)c"),
        ("two\nlines\r\n", "two lines"),
        ("back\\slash\\", "back/slash/"),
        ("a;b # c = d", "a;b # c = d"),
        ("\u03b3 Cygni\x07", "? Cygni"),
        ('quo"te', 'quo"te'),
        ("global color=red", "global color=red"),
    ],
)
@pytest.mark.parametrize("n", [1, 2])
def test_odd_characters_in_names_stay_safe(name, label, n):
    catalog = make_measured(n)
    catalog["Source_Name"] = [name] * n
    points, ellipses = split_regions(to_regions(catalog))
    assert [point.meta["text"] for point in points] == [label] * n
    assert len(ellipses) == 1


def test_color_shows_the_match_of_a_source_else_its_class_and_dashes_its_flags():
    def colors():
        return [r.visual["color"] for r in to_regions(catalog) if "text" in r.meta]

    catalog = make_measured(4)
    catalog["Class"] = np.array(["", "", "psr", "other"])
    catalog["Flags"] = np.array([2, 16 + 32 + 128, 2, 0], "i2")
    assert colors() == [CLASS_COLORS[name] for name in ("", "", "psr", "other")]
    lines = format_regions(catalog).splitlines()
    words = {"AGN": "agn", "pulsar": "psr", "other": "other", "class unknown": ""}
    assert lines[1].endswith(", ".join(f"{CLASS_COLORS[c]}: {w}" for w, c in words.items()))
    assert [" dash=1 " in line for line in lines if "ellipse(" in line] == [True, False]
    tags = [re.findall("tag={(.*?)}", line) for line in lines if "point=cross" in line]
    assert tags == [["flagged"], ["source"], ["flagged", "psr"], ["source", "other"]]
    catalog["ASSOC"] = np.ma.MaskedArray(["A", "B", "", ""], mask=[0, 0, 1, 1])
    catalog["Flags"] = np.array([0, 2, 2, 0], "i2")
    assert colors() == ["green", "green", "yellow", "magenta"]
    assert "green: matched, magenta: new, yellow: flagged\n" in format_regions(catalog)


def test_regions_without_labels_are_groups_with_the_names_of_the_sources():
    catalog = make_measured(3)
    regions = to_regions(catalog, labels=False)
    assert [len(part) for part in split_regions(regions)] == [3, 2]
    assert not any("text" in region.meta for region in regions)
    assert regions[0].meta["tag"][0] == regions[1].meta["tag"][0] == catalog["Source_Name"][0]


def test_casa_ellipse_has_the_major_axis_first_and_odd_characters_stay_safe(tmp_path):
    catalog = make_measured(2)
    catalog["Source_Name"] = ["a'b\", [c]=#{d}\n\u03b3", ""]
    write_outputs(catalog, [tmp_path / "c.crtf"])
    first, *_, line = (tmp_path / "c.crtf").read_text().splitlines()
    assert first == "#CRTFv0"
    assert "[0.100000deg, 0.050000deg], 30.0" in line
    assert line.endswith(f"color={CLASS_COLORS['agn']}")
    points, ellipses = split_regions(Regions.read(tmp_path / "c.crtf", format="crtf"))
    assert [point.meta.get("label", "") for point in points] == ["a_b__ _c___(d) _", ""]
    assert len(ellipses) == 1
