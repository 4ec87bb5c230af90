import io

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import parse
from astropy.table import QTable, Table
from made_catalogs import META, make_measured

from astro_unetloc.catalog.columns import COLUMNS
from astro_unetloc.catalog.write import format_catalog


def read_fits(content):
    hdus = fits.open(io.BytesIO(content), checksum=True)
    assert len(hdus) == 2
    return hdus


def test_fits_carries_units_ucds_and_descriptions_of_every_column():
    header = read_fits(format_catalog(make_measured(2), ".fits"))[1].header
    for number, spec in enumerate(COLUMNS, 1):
        assert header[f"TTYPE{number}"] == spec.name
        assert header[f"TUCD{number}"] == spec.ucd
        assert header[f"TCOMM{number}"] == spec.description
        assert (f"TUNIT{number}" in header) == bool(spec.unit)
    assert header["TUNIT2"] == "deg"
    assert header["EXTNAME"] == "UNETLOC_CATALOG"
    assert header["RADESYS"] == "ICRS"


def test_fits_carries_provenance_with_comments_and_checksums():
    header = read_fits(format_catalog(make_measured(2), ".fits"))[1].header
    for keyword, value in META.items():
        assert header[keyword] == value
    assert header.comments["SEED"] == "seed of the photon placement"
    assert header["CREATOR"].startswith("astro_unetloc ")
    assert "DATASUM" in header
    assert "CHECKSUM" in header
    assert header["DATE"].startswith("20")


def test_fits_is_valid_to_the_standard():
    for n in (0, 1, 5):
        for hdu in read_fits(format_catalog(make_measured(n), ".fits")):
            hdu.verify("exception")


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("long keyword", 1, 1),
        ("NOTE", "\u03b3-rays\nhere", "?-rays here"),
        ("NOTHING", None, ""),
        ("LIMIT", np.inf, ""),
        ("NUMBER", np.float32(0.5), 0.5),
        ("GOOD", True, True),
        ("INFILE", "a" * 200 + ".fits", "a" * 200 + ".fits"),
    ],
)
def test_any_meta_can_be_written_to_fits(keyword, value, kept):
    catalog = make_measured(1, meta={keyword: value})
    header = read_fits(format_catalog(catalog, ".fits"))[1].header
    assert header[keyword] == kept


def test_layout_of_an_input_file_does_not_enter_the_header():
    catalog = make_measured(1, meta={"NAXIS2": 99, "TTYPE1": "x", "COMMENT": "c", "EXTNAME": "y"})
    header = read_fits(format_catalog(catalog, ".fits"))[1].header
    assert (header["NAXIS2"], header["TTYPE1"]) == (1, "Source_Name")
    assert header["EXTNAME"] == "UNETLOC_CATALOG"
    assert "COMMENT" not in header


def test_compressed_file_is_the_same_for_the_same_catalog():
    import gzip

    content = format_catalog(make_measured(2), ".fits.gz")
    assert len(read_fits(gzip.decompress(content))[1].data) == 2
    assert content[4:8] == b"\0\0\0\0"  # no time of writing outside the header


@pytest.mark.parametrize("n", [0, 1, 5])
def test_ecsv_agrees_with_what_astropy_would_write(n):
    catalog = make_measured(n)
    table = Table.read(format_catalog(catalog, ".ecsv").decode(), format="ascii.ecsv")
    assert table.colnames == [spec.name for spec in COLUMNS]
    for spec in COLUMNS:
        assert table[spec.name].dtype.kind == np.dtype(spec.dtype).kind
        assert table[spec.name].description == spec.description
        assert table[spec.name].meta["ucd"] == spec.ucd
    assert table.meta["MODEL"] == "lat-10gev"
    quantities = QTable(table)
    assert str(quantities["RAJ2000"].unit) == "deg"


def test_csv_is_plain_and_short():
    lines = format_catalog(make_measured(1), ".csv").decode().splitlines()
    assert len(lines) == 2
    assert lines[0].split(",") == [spec.name for spec in COLUMNS]
    cells = dict(zip(lines[0].split(","), lines[1].split(",")))
    assert cells["Conf_95_SemiMajor"] == "0.1"
    assert cells["Flux"] == "3.3e-11"
    assert cells["Sqrt_TS"] == ""


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


def test_votable_escapes_names():
    catalog = make_measured(1)
    catalog["Source_Name"] = ["<A & B>"]
    votable = parse(io.BytesIO(format_catalog(catalog, ".vot")))
    assert list(votable.get_first_table().to_table()["Source_Name"]) == ["<A & B>"]


def test_unknown_suffix_is_refused():
    with pytest.raises(ValueError, match=r"suffix must be one of .fits .* got '.doc'"):
        format_catalog(make_measured(1), ".doc")
