import re

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.utils.masked import Masked
from hypothesis import given, settings
from hypothesis import strategies as st
from made_catalogs import META, assert_same_catalog, make_catalog, make_measured, make_sources

from astro_unetloc.catalog.columns import COLUMNS, MATCH_COLUMNS
from astro_unetloc.catalog.read import as_reference, read_catalog
from astro_unetloc.catalog.table import (
    band_edges,
    confidence_ellipses,
    degrees,
    galactic_vectors,
    numbers,
    numbers_of,
    sky_positions,
    source_classes,
    source_names,
    texts,
    texts_of,
    unique_names,
    with_columns,
)
from astro_unetloc.exceptions import InputError
from astro_unetloc.sphere import vectors_from_lonlat

# Names


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "name"),
    [
        (0.0, 0.0, "UNL J0000.0+0000"),
        (15.0, 1.0, "UNL J0100.0+0100"),
        (359.999, -0.001, "UNL J2359.9-0000"),
        (-0.001, 0.0, "UNL J2359.9+0000"),
        (360.0, 90.0, "UNL J0000.0+9000"),
        (14.9999, -89.9999, "UNL J0059.9-8959"),
        (0.7, 0.0, "UNL J0002.8+0000"),  # 0.7 deg is 2.8 min and 2.7999... in binary
    ],
)
def test_name_of_known_position(ra_deg, dec_deg, name):
    assert source_names(ra_deg, dec_deg)[0] == name


def test_sources_that_share_a_name_all_get_a_letter():
    names = source_names([10.0, 50.0, 10.001, 10.002], [5.0, 5.0, 5.0, 5.0])
    expected = ["J0040.0+0500a", "J0320.0+0500", "J0040.0+0500b", "J0040.0+0500c"]
    assert list(names) == [f"UNL {name}" for name in expected]
    names = source_names(np.full(54, 10.0), np.zeros(54))
    assert [name[16:] for name in names[[25, 26, 53]]] == ["z", "aa", "bb"]
    assert len(set(names)) == 54
    for off_the_sky in ((np.nan, 0.0), (0.0, np.nan), (0.0, 91.0)):
        with pytest.raises(ValueError, match="coordinates must be finite"):
            source_names(*off_the_sky)


@settings(derandomize=True, max_examples=200)
@given(st.lists(st.tuples(st.floats(0, 360), st.floats(-90, 90)), min_size=1, max_size=20))
def test_names_are_unique_and_within_one_step_of_the_position(positions):
    ra, dec = np.array(positions).T
    names = source_names(ra, dec)
    assert len(set(names)) == len(names)
    for name, ra_deg, dec_deg in zip(names, ra, dec):
        form = r"UNL J(\d\d)(\d\d\.\d)([+-])(\d\d)(\d\d)[a-z]*"
        hour, minute, sign, degree, arcmin = re.fullmatch(form, name).groups()
        assert (ra_deg % 360 - 15 * int(hour) - float(minute) / 4 + 1e-9) % 360 < 0.025 + 2e-9
        step = abs(dec_deg) - int(degree) - int(arcmin) / 60
        assert -1e-9 < step < 1 / 60 + 1e-9
        assert (sign == "-") == (dec_deg < 0)


def test_truncation_gives_the_names_of_3fhl(real_data):
    reference = read_catalog(real_data / "catalogs" / "gll_psch_v13.fit.gz")
    names = source_names(reference["RAJ2000"].value, reference["DEJ2000"].value)
    theirs = [name.replace("3FHL", "UNL").rstrip("e") for name in reference["Source_Name"]]
    assert np.sum(names == np.array(theirs)) >= 1552


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(["", "x", "xa", "xaa", "y"])))
def test_names_become_unique_and_keep_their_beginning(names):
    made = unique_names(names)
    assert len(set(made)) == len(names)
    assert all(new.startswith(old) for new, old in zip(made, names))


# Making


@pytest.mark.parametrize("n", [0, 1, 5])
def test_catalog_has_all_columns_for_any_number_of_sources_and_keeps_its_keywords(n):
    sources = make_sources(n)
    before = sources.copy()
    catalog = make_catalog(sources, meta=META)
    assert_same_catalog(sources, before)
    assert catalog.meta["MODEL"] == "lat-10gev"
    assert catalog.meta["CREATOR"].startswith("astro_unetloc ")
    assert isinstance(catalog, QTable)
    assert catalog.colnames == [spec.name for spec in COLUMNS] + ["skycoord"]
    for line in catalog[:1].pformat()[3:]:
        assert re.search(r"\d\.\d{5},-?\d+\.\d{5}\s*$", line)
    assert len(catalog) == n
    for spec in COLUMNS:
        assert catalog[spec.name].dtype == np.dtype(spec.dtype)
        assert (catalog[spec.name].unit or u.one) == u.Unit(spec.unit)
        assert hasattr(catalog[spec.name], "mask") != spec.required


@pytest.mark.parametrize("n", [0, 2])
def test_columns_of_bands_have_a_value_for_each_band_also_without_a_fit(n):
    catalog = make_catalog(make_sources(n), meta={"BANDS": "10 20.5 50 1000"})
    np.testing.assert_array_equal(band_edges(catalog), [10, 20.5, 50, 1000])
    assert len(band_edges(make_catalog(make_sources(n)))) == 0
    for name in ("Counts_Band", "Unc_Counts_Band", "Flux_Band", "Unc_Flux_Band"):
        assert catalog[name].shape == catalog[name].mask.shape == (n, 3)
        assert catalog[name].mask.all()
    counts = np.arange(4.0 * n).reshape(n, 4)
    catalog = make_catalog(make_sources(n), values={"Counts_Band": counts})
    assert sorted(catalog["Counts_Band"].tolist()) == counts.tolist()
    assert catalog["Flux_Band"].shape == (n, 4)
    with pytest.raises(InputError, match="Npred must hold numbers"):
        make_catalog(make_sources(2), values={"Npred": np.ones((2, 4))})


def test_sources_come_in_descending_score_and_ties_do_not_depend_on_their_order():
    sources = make_sources(50)
    catalog = make_catalog(sources)
    assert np.all(np.diff(catalog["Score"]) <= 0)
    best = np.argmax(sources["Score"])
    assert catalog["Patch"][0] == sources["Patch"][best]
    assert catalog["Probability"][0] == np.float32(sources["Probability"][best])
    sources["Score"] = 1.0
    one, other = make_catalog(sources), make_catalog(sources[::-1])
    assert list(one["Source_Name"]) == list(other["Source_Name"])


def test_positions_agree_in_all_frames():
    catalog = make_catalog(make_sources(lon=[184.557], lat=[-5.784]))  # the Crab
    assert catalog["RAJ2000"][0].to_value("deg") == pytest.approx(83.633, abs=2e-3)
    assert catalog["DEJ2000"][0].to_value("deg") == pytest.approx(22.0145, abs=2e-3)
    galactic = SkyCoord(catalog["GLON"], catalog["GLAT"], frame="galactic")
    assert galactic.separation(catalog["skycoord"]).max().arcsec < 1e-6
    assert catalog["skycoord"].frame.name == "icrs"


def test_unknown_values_are_masked():
    catalog = make_measured(4)
    assert np.sum(catalog["Flux"].mask) == 2
    assert np.all(catalog["Sqrt_TS"].mask)
    assert np.sum(catalog["Class"].mask) == 2
    assert set(catalog["Class"].compressed()) == {"agn"}
    assert np.nanmax(catalog["Flux"].unmasked.to_value("ph cm-2 s-1")) == np.float32(3.3e-11)
    assert make_catalog(make_sources(1))["Sep_Nearest"].mask.all()  # there is no other source


def test_match_columns_stand_after_the_columns_and_replace_older_ones():
    catalog, unknown = make_measured(2), [np.nan, np.nan]
    values = (["3FHL J0001.2-0748", ""], [0.1, np.nan], unknown, unknown, ["3FHL", ""])
    matched = with_columns(with_columns(catalog, MATCH_COLUMNS, values), MATCH_COLUMNS, values)
    names = [spec.name for spec in COLUMNS + MATCH_COLUMNS]
    assert matched.colnames == [*names, "skycoord"]
    assert list(matched["ASSOC"].mask) == [False, True]
    assert "ASSOC" not in catalog.colnames


# Columns of any table


@pytest.mark.parametrize(
    "columns",
    [
        {"RAJ2000": [10.0], "DEJ2000": [-20.0]},
        {"ra": [10.0], "dec": [-20.0]},
        {"_RAJ2000": [10.0], "_DEJ2000": [-20.0]},
        {"RA": [2 / 3] * u.hourangle, "DEC": [-1200.0] * u.arcmin},
        {"GLON": [102.15500468], "GLAT": [-82.4060779]},
    ],
)
def test_positions_have_the_usual_names_and_any_unit_and_frame(columns):
    expected = SkyCoord(10.0, -20.0, unit="deg")
    assert sky_positions(QTable(columns))[0].separation(expected) < 0.001 * u.arcsec


def test_vectors_are_galactic_and_of_unit_length():
    lon, lat = np.array([0.0, 90.0, 30.0]), np.array([0.0, 0.0, -40.0])
    expected = vectors_from_lonlat(lon, lat)
    table = Table({"GLON": lon, "GLAT": lat})
    np.testing.assert_allclose(galactic_vectors(table), expected, atol=1e-14)
    far = SkyCoord(lon * u.deg, lat * u.deg, [1, 2, 3] * u.kpc, frame="galactic")
    np.testing.assert_allclose(galactic_vectors(QTable({"skycoord": far})), expected, atol=1e-14)
    table = Table({"RA": MaskedColumn([1.0, 2.0], mask=[False, True]), "Dec": [0.0, 0.0]})
    assert np.isnan(galactic_vectors(table)).all(axis=1).tolist() == [False, True]
    assert galactic_vectors(table[:0]).shape == (0, 3)


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
    with pytest.raises(ValueError, match="RA must hold numbers in deg, one in each row; got east"):
        sky_positions(Table({"RA": ["east"], "Dec": ["north"]}))
    with pytest.raises(InputError, match="positions must lie on the sky, in degrees; got: Lat"):
        sky_positions(Table({"RA": [10.0], "Dec": [100.0]}))
    with pytest.raises(InputError, match="coordinates must be degrees, or hours and degrees"):
        sky_positions(Table({"RA": [ra, "x"], "Dec": [dec, "y"]}))


def test_ellipses_have_the_names_of_the_catalogs_and_a_circle_needs_no_angle():
    axes = [[0.2, 0.1], [0.2, 0.2], [0.2, 0.1], [0.0, 0.0], [-1.0, -1.0], [np.nan, 0.1]]
    table = Table(np.array(axes), names=["Conf_95_SemiMajor", "Conf_95_SemiMinor"])
    table["Conf_95_PosAng"] = [-30.0] + 5 * [np.nan]
    ellipses = confidence_ellipses(table)
    np.testing.assert_array_equal(ellipses[:2], [[0.2, 0.1, -30.0], [0.2, 0.2, 0.0]])
    assert np.isnan(ellipses[2:]).all()  # of unknown size or angle
    circle = QTable({"Pos_err_95": [6.0] * u.arcmin})
    np.testing.assert_allclose(confidence_ellipses(circle), [[0.1, 0.1, 0.0]])
    assert np.isnan(confidence_ellipses(Table({"RA": [1.0]}))).all()


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
    np.testing.assert_allclose(degrees(column), [1, 2], rtol=1e-14)
    with pytest.raises(InputError, match=r"must hold numbers in s, one .*; got 60.0 arcmin, 120.0"):
        numbers(column, "s")


@pytest.mark.parametrize("values", [["a", "b"], [[1.0, 2.0]] * 2, [b"", b"1"], [{}, None]])
def test_column_that_holds_no_numbers_is_refused_by_its_name(values):
    for table in (Table({"Flux": values}), QTable({"Flux": values})):
        for unit in (None, "ph cm-2 s-1"):
            with pytest.raises(InputError, match="Flux must hold numbers.* in each row; got "):
                numbers_of(table, "Flux", unit)


@pytest.mark.parametrize("unit", [None, "m"])
def test_masked_number_is_not_a_number(unit):
    table = QTable({"a": Masked([1.0, 2.0] * u.m, mask=[False, True])})
    np.testing.assert_array_equal(numbers(table["a"], unit), [1.0, np.nan])
    np.testing.assert_array_equal([numbers(row["a"], unit) for row in table], [1.0, np.nan])
    column = MaskedColumn([1, 2], mask=[False, True])  # without a unit of its own
    np.testing.assert_array_equal(numbers(column, unit), [1.0, np.nan])
    assert np.isnan(numbers(column[1], unit))


@pytest.mark.parametrize("dtype", ["U4", "S4", object])
def test_masked_text_is_empty(dtype):
    column = MaskedColumn(np.array(["a ", "b"], dtype), mask=[False, True])
    assert texts(column.data.data).tolist() == ["a", "b"]
    assert texts(column[:0]).tolist() == []
    assert texts(MaskedColumn([1, 2], mask=[True, False])).tolist() == ["", "2"]
    table = QTable({"a": column})
    assert texts_of(table, "a").tolist() == ["a", ""]
    assert texts_of(table, "b").tolist() == ["", ""]


@pytest.mark.parametrize("unit", ["ph m-2 s-1", "m-2 s-1"])  # photons are named or not
def test_numbers_of_a_table_are_in_the_unit_asked_for(unit):
    catalog = make_measured(2)
    flux, npred = numbers_of(catalog, "Flux", unit), numbers_of(catalog, "Npred")
    np.testing.assert_allclose(np.sort(flux), [3.3e-7, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(np.sort(npred), [12.5, np.nan])
    np.testing.assert_array_equal(numbers_of(QTable({"Flux": [1, 2]}), "Flux", unit), [1, 2])
    assert np.isnan(numbers_of(catalog, "Significance")).tolist() == [True, True]


@pytest.mark.parametrize("name", ["Class", "CLASS", "CLASS1"])
def test_classes_of_any_catalog_are_three(name):
    words = {"agn": "agn AGN FSRQ bll bcu bll-g rdg/bll css sey", "psr": "PSR psr msp"}
    words["other"] = "OTHER GAL snr SPP pwn HMB glc sfr"
    expected = [kind for kind, names in words.items() for _ in names.split()]
    table = Table({name: [*" ".join(words.values()).split(), "bcu II", "", "unk", "UNKNOWN"]})
    assert source_classes(table).tolist() == [*expected, "agn", "", "", ""]
    assert source_classes(table[:0]).tolist() == []
    assert source_classes(Table({"RA": [1.0, 2.0]})).tolist() == ["", ""]
