import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.utils.masked import Masked
from made_catalogs import make_measured

from astro_unetloc.catalog.read import as_reference, catalog_name, read_catalog
from astro_unetloc.catalog.table import (
    confidence_ellipses,
    degrees,
    flux_column,
    galactic_vectors,
    numbers,
    numbers_of,
    sky_positions,
    texts,
    texts_of,
)
from astro_unetloc.sphere import vectors_from_lonlat


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


def test_vectors_are_galactic_and_of_unit_length():
    lon, lat = np.array([0.0, 90.0, 30.0]), np.array([0.0, 0.0, -40.0])
    expected = vectors_from_lonlat(lon, lat)
    table = Table({"GLON": lon, "GLAT": lat})
    np.testing.assert_allclose(galactic_vectors(table), expected, atol=1e-14)
    far = SkyCoord(lon * u.deg, lat * u.deg, [1, 2, 3] * u.kpc, frame="galactic")
    np.testing.assert_allclose(galactic_vectors(QTable({"skycoord": far})), expected, atol=1e-14)


def test_vectors_of_unknown_positions_and_of_no_rows():
    table = Table({"RA": MaskedColumn([1.0, 2.0], mask=[False, True]), "Dec": [0.0, 0.0]})
    assert np.isnan(galactic_vectors(table)).all(axis=1).tolist() == [False, True]
    assert galactic_vectors(table[:0]).shape == (0, 3)


def test_masked_position_is_not_a_number():
    table = Table({"RA": MaskedColumn([1.0, 2.0], mask=[False, True]), "Dec": [0.0, 0.0]})
    assert list(np.isnan(sky_positions(table).ra.deg)) == [False, True]


def test_text_is_no_coordinate():
    with pytest.raises(ValueError, match="coordinates must be numbers in degrees"):
        sky_positions(Table({"RA": ["east"], "Dec": ["north"]}))


@pytest.mark.parametrize(
    ("ra", "dec"),
    [("05 34 31.1", "+22 00 52"), ("5h34m31.1s", "22d00m52s"), ("5:34:31.1", "22:0:52")],
)
def test_sexagesimal_text_is_hours_and_degrees(ra, dec):
    table = Table({"coord_ra": [ra, ""], "coord_dec": [dec, dec], "canonical_name": ["Crab", "-"]})
    positions = sky_positions(table)
    assert positions[0].ra.deg == pytest.approx(83.62958, abs=1e-4)
    assert positions[0].dec.deg == pytest.approx(22.01444, abs=1e-4)
    assert np.isnan(positions[1].ra.deg)
    assert list(as_reference(table)["Source_Name"]) == ["Crab", "-"]


def test_broken_sexagesimal_text_is_refused():
    with pytest.raises(ValueError, match="coordinates must be degrees, or hours and degrees"):
        sky_positions(Table({"RA": ["05 34 31", "x"], "Dec": ["22 00 52", "y"]}))


def test_positions_and_names_are_found_by_their_ucds(tmp_path):
    table = Table({"a": ["x"], "b": [10.0] * u.deg, "c": [-20.0] * u.deg, "d": [1.0] * u.deg})
    votable = from_table(table)
    ucds = ("meta.id;meta.main", "pos.eq.ra;meta.main", "POS.EQ.DEC;meta.main", "pos.eq.ra")
    for field, ucd in zip(votable.get_first_table().fields, ucds):
        field.ucd = ucd
    votable.to_xml(str(tmp_path / "table.vot"))
    read = read_catalog(tmp_path / "table.vot")
    assert read["skycoord"].to_string() == ["10 -20"]
    assert list(read["Source_Name"]) == ["x"]


def test_size_of_tevcat_makes_a_source_extended():
    table = Table({"RA": [1.0, 2.0], "Dec": [0.0, 0.0], "size_x": [0.0, 0.8]})
    reference = as_reference(QTable(table))
    assert list(reference["Extended"]) == [False, True]
    np.testing.assert_array_equal(degrees(reference["Extension"]), [np.nan, 0.8])


@pytest.mark.parametrize("names", ["1FGL 2FGL 3FGL 4FGL 1FHL 2FHL 3FHL FL8Y FL16Y".split()])
def test_extended_sources_of_all_fermi_catalogs_are_known_by_their_names(names):
    full = [f"{name} J0534.5+2201e" for name in names]
    table = Table({"Source_Name": full, "RA": np.zeros(len(full)), "Dec": np.zeros(len(full))})
    assert as_reference(table)["Extended"].all()
    for row, name in enumerate(names):
        assert catalog_name(table[row : row + 1]) == name


@pytest.mark.parametrize(
    ("name", "position", "column", "release"),
    [
        ("1FGL", ("RA", "DEC"), "Flux1000", None),
        ("2FGL", ("RAJ2000", "DEJ2000"), "Flux1000", None),
        ("1FHL", ("RAJ2000", "DEJ2000"), "Flux", None),
        ("4FGL", ("RAJ2000", "DEJ2000"), "Flux1000", 4),
        ("FL16Y", ("RAJ2000", "DEJ2000"), "Flux1000", None),
    ],
)
@pytest.mark.parametrize("suffix", [".fit", ".fit.gz"])
def test_fermi_catalogs_are_recognized_by_their_columns(
    tmp_path, name, position, column, release, suffix
):
    """Small files laid out as the official ones, of which two point sources and a disc are left."""
    names = [f"{name} J{place}" for place in ("0000.0+0000", "0004.0+0000", "0008.0+0000")]
    table = Table({"Source_Name": names})
    table[position[0]], table[position[1]] = [0.0, 1.0, 2.0] * u.deg, [0.0, 0.0, 0.0] * u.deg
    for which, value in (("SemiMajor", 0.2), ("SemiMinor", 0.1), ("PosAng", 30.0)):
        table[f"Conf_95_{which}"] = [value, np.nan, np.nan] * u.deg
    table[column] = [1e-9, 2e-9, 3e-9] / u.cm**2 / u.s
    table["Extended_Source_Name"] = ["", "", "Disc"]
    if release:
        table["DataRelease"] = [1, release, 1]
    large = Table({"Source_Name": ["Disc"], "Model_SemiMajor": [0.7] * u.deg})
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2)))]
    hdus += [fits.table_to_hdu(table), fits.table_to_hdu(large)]
    hdus[2].name, hdus[3].name = "LAT_Point_Source_Catalog", "ExtendedSources"
    fits.HDUList(hdus).writeto(tmp_path / f"catalog{suffix}")
    read = read_catalog(tmp_path / f"catalog{suffix}")
    assert catalog_name(read) == (f"{name}-DR{release}" if release else name)
    assert list(sky_positions(read).ra.deg) == [0.0, 1.0, 2.0]
    assert list(read["Extended"]) == [False, False, True]
    assert degrees(read["Extension"])[2] == pytest.approx(0.7)
    assert confidence_ellipses(read)[0] == pytest.approx([0.2, 0.1, 30.0])
    assert np.isnan(confidence_ellipses(read)[1:]).all()
    assert flux_column(read) == column


def test_release_of_4fgl_is_told_by_its_columns():
    table = Table({"Source_Name": ["4FGL J0000.3-7355"] * 2, "DataRelease": [1, 3]})
    assert catalog_name(table) == "4FGL-DR3"
    assert catalog_name(table[:1]) == "4FGL"


# Error ellipses and fluxes


def test_ellipses_have_the_names_of_the_catalogs():
    columns = {"Major": [0.2], "Minor": [0.1], "PosAng": [-30.0]}
    fermi = Table({f"Conf_95_{n.replace('M', 'SemiM')}": v for n, v in columns.items()})
    np.testing.assert_array_equal(confidence_ellipses(fermi), [[0.2, 0.1, -30.0]])
    circle = QTable({"Pos_err_95": [6.0] * u.arcmin})
    np.testing.assert_allclose(confidence_ellipses(circle), [[0.1, 0.1, 0.0]])
    assert np.isnan(confidence_ellipses(Table({"RA": [1.0]}))).all()


def test_ellipse_without_a_size_is_unknown_and_a_circle_needs_no_angle():
    axes = [[0.2, 0.2], [0.2, 0.1], [0.0, 0.0], [-1.0, -1.0], [np.nan, 0.1]]
    table = Table(np.array(axes), names=["Conf_95_SemiMajor", "Conf_95_SemiMinor"])
    table["Conf_95_PosAng"] = np.nan
    known = np.isfinite(confidence_ellipses(table)).all(axis=1)
    assert known.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("file", "name", "flux", "n_ellipses"),
    [
        ("gll_psch_v13.fit.gz", "3FHL", "Flux", 1508),
        ("gll_psch_v09.fit.gz", "2FHL", "Flux50", 335),
        ("gll_psc_v16.fit.gz", "3FGL", "Flux1000", 3006),
        ("4fgl_dr3_reduced.fits", "4FGL", "Flux", 6579),
    ],
)
def test_real_catalogs_are_recognized(real_data, file, name, flux, n_ellipses):
    table = read_catalog(real_data / "catalogs" / file)
    known = np.isfinite(confidence_ellipses(table)).all(axis=1)
    assert catalog_name(table) == name
    assert flux_column(table) == flux
    assert known.sum() == n_ellipses


def test_degrees_of_a_masked_quantity():
    values = degrees(Masked([60.0, 1.0] * u.arcmin, mask=[False, True]))
    np.testing.assert_array_equal(values, [1.0, np.nan])


@pytest.mark.parametrize(
    "column",
    [
        Column([60.0, 120.0], unit="arcmin"),
        MaskedColumn(np.array([60, 120], "f4"), unit="arcmin"),
        [60.0, 120.0] * u.arcmin,
        Masked([60.0, 120.0] * u.arcmin, mask=[False, False]),
    ],
)
def test_numbers_come_in_the_unit_that_is_asked_for(column):
    for unit, expected in ((None, [60, 120]), ("arcmin", [60, 120]), ("deg", [1, 2])):
        found = numbers(column, unit)
        assert type(found) is np.ndarray
        assert found.dtype == float
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    with pytest.raises(u.UnitConversionError):
        numbers(column, "s")


def test_numbers_without_a_unit_are_in_the_one_that_is_asked_for():
    column = MaskedColumn([1, 2], mask=[False, True])
    for unit in (None, "deg"):
        np.testing.assert_array_equal(numbers(column, unit), [1.0, np.nan])


@pytest.mark.parametrize("unit", [None, "m"])
def test_masked_number_is_not_a_number(unit):
    table = QTable({"a": Masked([1.0, 2.0] * u.m, mask=[False, True])})
    np.testing.assert_array_equal(numbers(table["a"], unit), [1.0, np.nan])
    np.testing.assert_array_equal([numbers(row["a"], unit) for row in table], [1.0, np.nan])
    assert np.isnan(numbers(MaskedColumn([1.0, 2.0], mask=[False, True])[1], unit))


@pytest.mark.parametrize("dtype", ["U4", "S4", object])
def test_masked_text_is_empty(dtype):
    column = MaskedColumn(np.array(["a ", "b"], dtype), mask=[False, True])
    assert texts(column).tolist() == ["a ", ""]
    assert texts(column.data.data).tolist() == ["a ", "b"]
    assert texts(column[:0]).tolist() == []
    assert texts(MaskedColumn([1, 2], mask=[True, False])).tolist() == ["", "2"]
    table = QTable({"a": column})
    assert texts_of(table, "a").tolist() == ["a ", ""]
    assert texts_of(table, "b").tolist() == ["", ""]


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


def test_numbers_of_a_table_are_in_the_unit_asked_for():
    catalog = make_measured(2)
    flux, npred = numbers_of(catalog, "Flux", "ph m-2 s-1"), numbers_of(catalog, "Npred")
    np.testing.assert_allclose(np.sort(flux), [3.3e-7, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(np.sort(npred), [12.5, np.nan])
    np.testing.assert_array_equal(
        numbers_of(QTable({"Flux": [1, 2]}), "Flux", "ph m-2 s-1"), [1, 2]
    )
    assert np.isnan(numbers_of(catalog, "Significance")).tolist() == [True, True]
