import re

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from hypothesis import given, settings
from hypothesis import strategies as st
from made_catalogs import META, assert_same_catalog, make_catalog, make_measured, make_sources

from astro_unetloc.catalog.columns import COLUMNS, MATCH_COLUMNS
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.table import source_names, with_match_columns

# Names


def test_name_of_the_crab_is_truncated():
    assert source_names([83.6331], [22.0145])[0] == "UNL J0534.5+2200"


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


def test_letters_go_on_after_z():
    names = source_names(np.full(54, 10.0), np.zeros(54))
    assert names[25].endswith("+0000z")
    assert names[26].endswith("+0000aa")
    assert names[53].endswith("+0000bb")
    assert len(set(names)) == 54


def test_no_source_no_name():
    assert source_names([], []).shape == (0,)


@pytest.mark.parametrize(("ra_deg", "dec_deg"), [(np.nan, 0.0), (0.0, np.nan), (0.0, 91.0)])
def test_position_off_the_sky_has_no_name(ra_deg, dec_deg):
    with pytest.raises(ValueError, match="coordinates must be finite"):
        source_names(ra_deg, dec_deg)


@settings(derandomize=True, max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0, 360), st.floats(-90, 90)), min_size=1, max_size=20),
)
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


# Making


@pytest.mark.parametrize("n", [0, 1, 5])
def test_catalog_has_all_columns_for_any_number_of_sources(n):
    catalog = make_catalog(make_sources(n))
    assert isinstance(catalog, QTable)
    assert catalog.colnames == [spec.name for spec in COLUMNS] + ["skycoord"]
    assert len(catalog) == n
    for spec in COLUMNS:
        assert catalog[spec.name].dtype == np.dtype(spec.dtype)
        assert (catalog[spec.name].unit or u.one) == u.Unit(spec.unit)
        assert hasattr(catalog[spec.name], "mask") != spec.required


def test_sources_come_in_descending_score():
    sources = make_sources(50)
    catalog = make_catalog(sources)
    assert np.all(np.diff(catalog["Score"]) <= 0)
    best = np.argmax(sources["Score"])
    assert catalog["Patch"][0] == sources["Patch"][best]
    assert catalog["Probability"][0] == np.float32(sources["Probability"][best])


def test_order_of_equal_scores_does_not_depend_on_the_order_of_the_sources():
    lon, lat = np.array([10.0, 30.0, 20.0]), np.array([0.0, 1.0, 2.0])
    catalogs = []
    for order in ([0, 1, 2], [2, 0, 1]):
        sources = make_sources(lon=lon[order], lat=lat[order])
        sources["Score"] = np.ones(3)
        catalogs.append(make_catalog(sources))
    assert list(catalogs[0]["Source_Name"]) == list(catalogs[1]["Source_Name"])


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
    assert set(catalog["Class"].compressed()) == {"AGN"}
    assert np.nanmax(catalog["Flux"].unmasked.to_value("ph cm-2 s-1")) == np.float32(3.3e-11)


def test_lonely_source_has_no_nearest_one():
    assert make_catalog(make_sources(1))["Sep_Nearest"].mask.all()


def test_meta_is_kept_with_the_software():
    catalog = make_catalog(make_sources(1), meta=META)
    assert catalog.meta["MODEL"] == "lat-10gev"
    assert catalog.meta["CREATOR"].startswith("astro_unetloc ")


def test_sources_are_not_changed():
    sources = make_sources(5)
    before = sources.copy()
    make_catalog(sources)
    assert np.all(sources == before)


def test_match_columns_stand_after_the_columns_and_replace_older_ones():
    catalog = make_measured(2)
    values = {
        "ASSOC": ["3FHL J0001.2-0748", ""],
        "ASSOC_Sep": [0.1, np.nan],
        "ASSOC_Sep_Norm": [np.nan, np.nan],
        "ASSOC_Prob": [np.nan, np.nan],
        "ASSOC_Catalog": ["3FHL", ""],
    }
    matched = with_match_columns(with_match_columns(catalog, values), values)
    names = [spec.name for spec in COLUMNS + MATCH_COLUMNS]
    assert matched.colnames == [*names, "skycoord"]
    assert list(matched["ASSOC"].mask) == [False, True]
    assert "ASSOC" not in catalog.colnames


# Reading


@pytest.mark.parametrize("suffix", [".fits", ".ecsv"])
def test_table_written_by_astropy_reads_as_the_same_catalog(tmp_path, suffix):
    catalog = make_measured(4, meta={})
    path = tmp_path / f"catalog{suffix}"
    bare = catalog.copy()
    bare.remove_column("skycoord")
    bare.write(path)
    assert_same_catalog(read_catalog(path), catalog)


@pytest.mark.parametrize(
    ("name", "number", "n_extended", "n_radius", "example", "radius_deg"),
    [
        ("gll_psch_v13.fit.gz", 1556, 48, 48, "3FHL J1745.8-3028e", 0.528),
        ("gll_psch_v09.fit.gz", 360, 25, 25, "2FHL J0431.2+5553e", 1.27),
        ("gll_psc_v16.fit.gz", 3034, 25, 25, "3FGL J1324.0-4330e", 2.5),
        ("4fgl_dr3_reduced.fits", 6659, 77, 0, "4FGL J1324.0-4330e", None),
    ],
)
def test_fermi_catalog_is_read(real_data, name, number, n_extended, n_radius, example, radius_deg):
    table = read_catalog(real_data / "catalogs" / name)
    assert len(table) == number
    assert np.sum(table["Extended"]) == n_extended
    assert np.sum(~table["Extension"].mask) == n_radius
    assert table["RAJ2000"].unit == u.deg
    assert table["RAJ2000"].dtype == float
    assert table["skycoord"].ra.to_value("deg") == pytest.approx(table["RAJ2000"].value)
    row = table[table["Source_Name"] == example]
    assert len(row) == 1
    assert row["Extended"][0]
    if radius_deg:
        assert row["Extension"][0].unmasked.to_value("deg") == pytest.approx(radius_deg)


def test_plain_table_with_positions_is_read(tmp_path):
    path = tmp_path / "tevcat.csv"
    path.write_text("Canonical Name,RA,Dec\nCrab,83.63,22.01\nMrk 421,166.1,38.2\n")
    table = read_catalog(path)
    assert list(table["Source_Name"]) == ["Crab", "Mrk 421"]
    assert table["skycoord"][1].dec.deg == 38.2
    assert not table["Extended"].any()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="catalogue must be a file; got .*none.fits"):
        read_catalog(tmp_path / "none.fits")


def test_unknown_suffix_is_refused(tmp_path):
    path = tmp_path / "catalog.doc"
    path.touch()
    with pytest.raises(ValueError, match=r"must end in one of .fits .* got 'catalog.doc'"):
        read_catalog(path)


@pytest.mark.parametrize("name", ["bad.fits", "bad.fits.gz", "bad.vot", "bad.ecsv"])
def test_file_that_is_no_table_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_text("this is no table\n")
    with pytest.raises(ValueError, match="must hold a table of sources") as error:
        read_catalog(path)
    assert "\n" not in str(error.value)


def test_image_given_as_catalog_is_refused(tmp_path):
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(path)
    with pytest.raises(ValueError, match="a FITS file without a table"):
        read_catalog(path)


def test_table_without_positions_is_refused(tmp_path):
    path = tmp_path / "table.fits"
    Table({"A": [1.0]}).write(path)
    with pytest.raises(ValueError, match="must have columns RAJ2000 and DEJ2000.*got A"):
        read_catalog(path)
