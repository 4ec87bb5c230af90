import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn, QTable, Table

from astro_unetloc.references import as_reference, catalog_name, degrees, sky_positions


@pytest.mark.parametrize(
    "names", [("RAJ2000", "DEJ2000"), ("ra", "dec"), ("RA", "DEC"), ("_RAJ2000", "_DEJ2000")]
)
def test_positions_are_found_under_the_usual_names(names):
    table = Table({names[0]: [10.0], names[1]: [-20.0]})
    assert sky_positions(table).to_string() == ["10 -20"]


def test_positions_with_units_are_converted():
    table = QTable({"RA": [1.0] * u.hourangle, "Dec": [600.0] * u.arcmin})
    assert sky_positions(table).to_string() == ["15 10"]


def test_galactic_positions_are_the_last_choice():
    galactic = SkyCoord(83.63, 22.01, unit="deg").galactic
    table = Table({"GLON": [galactic.l.deg], "GLAT": [galactic.b.deg]})
    assert sky_positions(table)[0].ra.deg == pytest.approx(83.63)


def test_masked_position_is_not_a_number():
    table = Table({"RA": MaskedColumn([1.0, 2.0], mask=[False, True]), "Dec": [0.0, 0.0]})
    assert list(np.isnan(sky_positions(table).ra.deg)) == [False, True]


def test_text_is_no_coordinate():
    with pytest.raises(ValueError, match="coordinates must be numbers in degrees"):
        sky_positions(Table({"RA": ["east"], "Dec": ["north"]}))


def test_degrees_of_a_masked_quantity():
    from astropy.utils.masked import Masked

    values = degrees(Masked([60.0, 1.0] * u.arcmin, mask=[False, True]))
    np.testing.assert_array_equal(values, [1.0, np.nan])


def test_letter_e_at_the_end_means_extended_only_in_fermi_names():
    names = ["4FGL J1324.0-4330e", "4FGL J0000.3-7355", "Lagoon Nebulae"]
    table = as_reference(Table({"Name": names, "RA": [1.0, 2, 3], "Dec": [0.0, 0, 0]}))
    assert list(table["Extended"]) == [True, False, False]
    assert table["Extension"].mask.all()


def test_table_is_not_changed():
    table = Table({"Name": ["A"], "RA": [1.0], "Dec": [0.0]})
    as_reference(table)
    assert table.colnames == ["Name", "RA", "Dec"]


def test_rows_without_names_are_numbered():
    table = as_reference(Table({"RA": [1.0, 2.0], "Dec": [0.0, 0.0]}))
    assert list(table["Source_Name"]) == ["1", "2"]


def test_empty_table_is_a_reference():
    table = as_reference(Table({"RA": np.zeros(0), "Dec": np.zeros(0)}))
    assert len(table) == 0
    assert {"Source_Name", "Extended", "Extension", "skycoord"} <= set(table.colnames)


def test_name_of_a_catalog_comes_from_its_header_or_its_sources():
    table = Table({"Source_Name": ["4FGL J0000.3-7355"]})
    assert catalog_name(table) == "4FGL"
    table.meta["CDS-NAME"] = "4FGL-DR3"
    assert catalog_name(table) == "4FGL-DR3"
    assert catalog_name(Table({"RA": [1.0]}, meta={"FILENAME": "mine.csv"})) == "mine.csv"
