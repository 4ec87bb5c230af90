import json
import re
import warnings
from contextlib import nullcontext
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import EDGES_GEV, cube_hdus, ebounds, event_hdus, image_header, poisson_cube
from made_maps import refuse

import astro_unetloc
from astro_unetloc import find_sources, list_models
from astro_unetloc.exceptions import InputError, UnetlocWarning
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.selection import BUILT_IN_DOMAIN, check_domain

MODELS = Path(astro_unetloc.__file__).parent / "data" / "models"
CARD = {"name": "m", "band_edges_gev": [10, 20, 2000], "domain": BUILT_IN_DOMAIN}
EDGES = np.array([10.0, 100.0, 1000.0])


def header(**cuts):
    """DSS keywords of cuts in the order given."""
    result = {}
    for number, (kind, value) in enumerate(cuts.items(), start=1):
        if kind.startswith("EVENT"):
            kind, value = f"BIT_MASK({kind},{value})", "1:1"
        result |= {f"DSTYP{number}": kind, f"DSVAL{number}": value, f"DSUNI{number}": "MeV"}
    return result


def differences(edges=EDGES, card=CARD, **cuts):
    """What the one warning lists, without its introduction; "" without a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_domain(header(**cuts), edges, card)
    assert len(caught) <= 1
    return "".join(str(item.message).partition("may not hold: ")[2] for item in caught)


@pytest.fixture
def image_hdu(rng):
    return fits.PrimaryHDU(poisson_cube(rng)[0], image_header((20, 30)))


@pytest.mark.parametrize("name", list_models())
def test_cards_state_their_domain(name):
    assert json.loads((MODELS / name / "card.json").read_text())["domain"] == BUILT_IN_DOMAIN


@pytest.mark.parametrize(
    "cuts",
    [
        {},
        {"EVENT_CLASS": "128,P8R2", "EVENT_TYPE": "3,P8R2", "ZENITH_ANGLE": "0:105"},
        {"EVENT_CLASS": "1024,P8R3", "EVENT_TYPE": "60,P8R3", "ZENITH_ANGLE": "0:90"},
        {"EVENT_CLASS": "2048,P8R3", "EVENT_TYPE": "960,P8R3", "ENERGY": "10000:2000000"},
        {"EVENT_CLASS": "2,P9R1", "EVENT_TYPE": "4096,P8R3", "ZENITH_ANGLE": "INDEF"},
        {"EVENT_CLASS": "2", "TIME": "TABLE", "THETA": "0:60", "ENERGY": "INDEF"},
        {"EVENT_TYPE": "63,P8R3", "ENERGY": "9990:1000000"},
    ],
)
def test_the_same_photons_and_unknown_cuts_are_no_reason_to_warn(cuts):
    assert differences(**cuts) == ""


@pytest.mark.parametrize(
    ("cuts", "phrase"),
    [
        ({"EVENT_CLASS": "16,P8R3"}, "event class TRANSIENT020 (not SOURCE or cleaner)"),
        ({"EVENT_CLASS": "144,P8R3"}, "event class TRANSIENT020+SOURCE"),
        ({"EVENT_TYPE": "32,P8R3"}, "event type PSF3 (not FRONT+BACK)"),
        ({"EVENT_TYPE": "1,P8R3"}, "event type FRONT (not FRONT+BACK)"),
        ({"EVENT_TYPE": "56,P8R3"}, "event type PSF1+PSF2+PSF3"),
        ({"EVENT_CLASS": "2,P7REP"}, "events of P7REP (not Pass 8)"),
        ({"ZENITH_ANGLE": "0:180"}, "zenith angles up to 180 deg (not 105)"),
        ({"ENERGY": "20000:500000"}, "events were cut to 20-500 GeV in bins of 10-1000 GeV"),
    ],
)
def test_another_selection_is_named(cuts, phrase):
    assert differences(**cuts).startswith(phrase)


@pytest.mark.parametrize(
    ("domain", "edges", "cuts", "phrase"),
    [
        ({"event_type": ["PSF3"]}, EDGES, {"EVENT_TYPE": "32,P8R3"}, ""),
        (
            {"event_type": ["PSF3"]},
            EDGES,
            {"EVENT_TYPE": "3,P8R3"},
            "event type FRONT+BACK (not PSF3)",
        ),
        ({}, [1.0, 2000.0], {"EVENT_TYPE": "32,P8R3", "EVENT_CLASS": "2,P7REP"}, ""),
        ({}, [0.01, 20.0], {}, "only 9 % of the map's log-energy range is covered"),
        (
            BUILT_IN_DOMAIN,
            EDGES,
            {"EVENT_TYPE": "32,P8R3", "ZENITH_ANGLE": "0:180"},
            "event type PSF3 (not FRONT+BACK); zenith angles up to 180 deg (not 105)",
        ),
    ],
)
def test_the_domain_of_the_card_decides_and_all_differences_are_one_warning(
    domain, edges, cuts, phrase
):
    assert differences(edges, CARD | {"domain": domain}, **cuts) == phrase


@pytest.mark.parametrize(
    ("telescope", "instrument", "named"),
    [
        ("GLAST", "LAT", False), ("FERMI", "", False), ("Fermi-LAT", "LAT", False), ("", "", False),
        ("HESS", "", True), ("CTA", "LST", True), ("GLAST", "GBM", True), ("", "VERITAS", True),
    ],
)  # fmt: skip
def test_another_telescope_is_named_with_what_does_not_hold(telescope, instrument, named):
    keywords = {"TELESCOP": telescope, "INSTRUME": instrument}
    match = "photons of .* .not of Fermi-LAT: PSF, exposure .*; take finder scan .*radius.$"
    for finder in ("unet", "both"):
        with pytest.warns(UnetlocWarning, match=match) if named else nullcontext():
            check_domain(keywords, EDGES, CARD, finder=finder, psf=KingPSF(2.0))
    check_domain(keywords, EDGES, CARD, finder="scan", psf=KingPSF(2.0))  # does not warn
    for finder in ("scan", "both"):
        match = f"finder '{finder}' needs the PSF .* got photons of {telescope}.*give psf"
        with pytest.raises(InputError, match=match) if named else nullcontext():
            check_domain(keywords, EDGES, CARD, finder=finder)


def test_photons_of_high_energies_are_of_another_telescope_unless_the_header_names_the_lat():
    with pytest.raises(InputError, match="photons of an unknown telescope, up to 10000 GeV"):
        check_domain({}, [100.0, 1e4], CARD, finder="scan")
    with pytest.warns(UnetlocWarning, match="telescope, up to 10000 GeV .not of Fermi-LAT"):
        check_domain({}, [100.0, 1e4], CARD)
    check_domain({"TELESCOP": "GLAST"}, [100.0, 1e4], CARD, finder="scan")
    check_domain({}, [100.0, 3000.0], CARD, finder="scan")


@pytest.mark.parametrize(
    ("cuts", "edges", "phrase"),
    [
        ({"EVENT_CLASS": "16,P8R3", "ZENITH_ANGLE": "0:180"}, [0.01, 3000.0], ""),
        ({"EVENT_TYPE": "32,P8R3"}, EDGES, "Fermi-LAT, not of event type PSF3 (give psf)"),
        ({"EVENT_CLASS": "2,P7REP"}, EDGES, "Fermi-LAT, not of events of P7REP (give psf)"),
        ({"ENERGY": "20000:500000"}, EDGES, "events were cut to 20-500 GeV in bins of 10-1000 GeV"),
    ],
)
def test_the_scan_warns_only_of_what_matters_to_it(cuts, edges, phrase):
    match = "^the scan may not fit the map: .*" + re.escape(phrase)
    for psf in (None, KingPSF()):
        expected = phrase if psf is None or "psf" not in phrase else ""
        with pytest.warns(UnetlocWarning, match=match) if expected else nullcontext():
            check_domain(header(**cuts), edges, CARD, finder="scan", psf=psf)


def test_real_files_are_inside(real_data):
    for name in ("gc/fermi-3fhl-gc-counts-cube.fits.gz", "2fhl/fermi_2fhl_events_north.fits.gz"):
        sky_map = read_map(real_data / name)
        assert sky_map.header["DSTYP1"] == "BIT_MASK(EVENT_CLASS,128,P8R2)"
        check_domain(sky_map.header, sky_map.energy_edges, CARD)  # does not warn


def test_a_search_warns(tmp_path):
    hdus = cube_hdus(np.eye(20, dtype=">i4")[None].repeat(2, 0), np.array([10.0, 20.0, 50.0]))
    hdus[0].header.update(header(EVENT_TYPE="32,P8R3"))
    hdus.writeto(tmp_path / "psf3.fits")
    with pytest.warns(UnetlocWarning, match="^the map is outside of .*lat-10gev .*type PSF3"):
        find_sources(tmp_path / "psf3.fits")


@pytest.mark.parametrize(
    "keywords, expected",
    [
        ({"DSTYP1": "ENERGY", "DSUNI1": "MeV", "DSVAL1": "10000:500000"}, (10, 500)),
        ({"DSTYP3": "ENERGY", "DSVAL3": "1000:2000"}, (1, 2)),
        ({"DSTYP1": "ENERGY", "DSUNI1": "GeV", "DSVAL1": "10:20"}, (10, 20)),
        ({"EMIN": (3000.0, "[MeV]"), "EMAX": 10000.0}, (3, 10)),
        ({"EMIN": 3.0, "EMAX": 10.0, "EUNIT": "GeV"}, (3, 10)),
        ({"E_MIN": (0.05, "[TeV] lower"), "E_MAX": 2.0}, (50, 2000)),
    ],
)
def test_the_header_of_an_image_states_its_energies(keywords, expected, image_hdu):
    image_hdu.header.update(keywords)
    sky_map = read_map(fits.HDUList([image_hdu]))
    assert tuple(sky_map.energy_edges) == pytest.approx(expected, rel=1e-12)
    assert not sky_map.energy_assumed


def test_an_image_without_energies_is_assumed_to_have_the_model_range(image_hdu):
    with pytest.warns(UnetlocWarning, match="does not state its energies; assuming 10 to 2000 GeV"):
        sky_map = read_map(fits.HDUList([image_hdu]))
    assert sky_map.energy_assumed
    np.testing.assert_array_equal(sky_map.energy_edges, [10, 2000])


@pytest.mark.parametrize(
    "energy_range",
    [
        (10, 500),
        (10 * u.GeV, 0.5 * u.TeV),
        [1e4, 5e5] * u.MeV,
        ("10 GeV", "0.5 TeV"),
        "10 500".split(),
    ],
)
def test_an_energy_range_is_taken_for_an_image(energy_range, image_hdu):
    sky_map = read_map(fits.HDUList([image_hdu]), energy_range=energy_range)
    np.testing.assert_allclose(sky_map.energy_edges, [10, 500], rtol=1e-12)
    assert not sky_map.energy_assumed


def test_energies_without_a_unit_are_warned_about(image_hdu):
    image_hdu.header.update({"EMIN": 3000.0, "EMAX": 10000.0})
    with pytest.warns(UnetlocWarning, match="EMIN, EMAX without a unit are taken for MeV"):
        assert tuple(read_map(fits.HDUList([image_hdu])).energy_edges) == (3, 10)
    hdus = event_hdus([0, 1], [0, 0], [1e4, 2e4])
    hdus[1].columns["ENERGY"].unit = None
    with pytest.warns(UnetlocWarning, match="energies of events without a unit are taken for MeV"):
        assert read_map(hdus).events.energy[0] == 10


def test_an_energy_range_overrules_the_header_of_an_image_with_a_warning(image_hdu):
    image_hdu.header.update({"EMIN": 1.0, "EMAX": 10.0, "EUNIT": "GeV"})
    with pytest.warns(UnetlocWarning, match="overrules the 1 to 10 GeV"):
        sky_map = read_map(fits.HDUList([image_hdu]), energy_range=(2, 10))
    np.testing.assert_array_equal(sky_map.energy_edges, [2, 10])


def test_an_energy_range_selects_the_bins_of_a_cube(rng):
    counts = poisson_cube(rng)
    sky_map = read_map(cube_hdus(counts), energy_range=(20, 150))
    np.testing.assert_array_equal(sky_map.energy_edges, [20, 50, 150])
    assert sky_map.n_photons == counts[1:].sum()
    with pytest.warns(UnetlocWarning, match="taking the whole bins inside: 20 to 50 GeV"):
        sky_map = read_map(cube_hdus(counts), energy_range=(15, 100))
    assert sky_map.n_photons == counts[1].sum()


@pytest.mark.parametrize(
    "keywords, match, edges",
    [
        ({"CREATOR": "gtbin", "CRVAL3": 1e4, "CUNIT3": "MeV"}, "logarithmic", [10, 20, 40, 80]),
        ({"CRVAL3": 1.5e4, "CRPIX3": 1}, "linear", [10, 20, 30, 40]),
    ],
)
def test_a_cube_without_its_table_has_the_bins_of_its_third_axis(keywords, match, edges, rng):
    hdus = cube_hdus(poisson_cube(rng))[:1]
    hdus[0].header.update({"CTYPE3": "Energy", "CDELT3": 1e4} | keywords)
    with pytest.warns(UnetlocWarning, match=f"no table of energies; taking .*{match} bins"):
        sky_map = read_map(fits.HDUList(hdus))
    np.testing.assert_allclose(sky_map.energy_edges, edges)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.sampled_from(["keV", "MeV", "GeV", "TeV", "erg"]),
    st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True),
)
def test_edges_in_any_unit_come_out_in_gev(unit, edges):
    edges = np.sort(np.array(edges, dtype=float))
    table = ebounds(edges)
    scale = (1 * u.GeV).to_value(unit)
    for name, values in (("E_MIN", edges[:-1]), ("E_MAX", edges[1:])):
        table.data[name] = values * scale
        table.columns[name].unit = unit
    cube = cube_hdus(np.zeros((len(edges) - 1, 2, 2)))
    sky_map = read_map(fits.HDUList([cube[0], table]))
    np.testing.assert_allclose(sky_map.energy_edges, edges, rtol=1e-7)


@pytest.mark.parametrize(
    "energy_range, match",
    [
        ((500, 10), "increasing positive energies; got 500 to 10 GeV"),
        ((-1, 10), "increasing positive energies; got -1 to 10"),
        ((10, np.inf), "increasing positive"),
        ((np.nan, 10), "increasing positive"),
        (10, "two energies"),
        ((1, 2, 3), "two energies"),
        (("a", "b"), "two energies"),
        (("10 deg", "20 deg"), "two energies"),
        ((1000, 2000), "no energy bin lies inside energy_range 1000 to 2000 GeV; got bins at"),
        ((11, 19), "no energy bin lies inside"),
    ],
)
def test_an_energy_range_that_cannot_be(energy_range, match, rng):
    refuse(cube_hdus(poisson_cube(rng)), match, energy_range=energy_range)


def test_energies_below_zero(rng, image_hdu):
    refuse(cube_hdus(poisson_cube(rng), np.array([-10.0, 20, 50, 150])), "energy edges must be pos")
    refuse(event_hdus([0, 1], [0, 0], [1e4, -1e4]), "energies must be positive; got -10 GeV")
    hdus = fits.HDUList([image_hdu])
    hdus[0].header.update({"EMIN": -5.0, "EMAX": 10.0, "EUNIT": "GeV"})
    refuse(hdus, "EMIN, EMAX must be two increasing positive energies")
    hdus[0].header.update({"DSTYP1": "ENERGY", "DSVAL1": "TABLE"})
    refuse(hdus, "two energies were expected in DSVAL1")


def test_energies_that_do_not_fit(rng):
    counts = poisson_cube(rng)
    refuse(cube_hdus(counts, EDGES_GEV[:3]), "got 2 energies and 3 planes")
    refuse(fits.HDUList(cube_hdus(counts)[:1]), "3 planes must state their energies")
    refuse(cube_hdus(counts, EDGES_GEV[::-1]), "energy bins must touch and increase")
    hdus = cube_hdus(counts)
    hdus[1].data["E_MIN"][1] *= 1.2
    refuse(hdus, "energy bins must touch and increase")
    hdus[1].columns["E_MIN"].unit = "parsec"
    refuse(hdus, "an energy unit was expected; got 'p")
