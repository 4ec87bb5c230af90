import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from made_files import cube_hdus

import astro_unetloc
from astro_unetloc import find_sources, list_models, read_map
from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.maps.selection import BUILT_IN_DOMAIN, check_domain, domain_differences

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
    return domain_differences(header(**cuts), edges, card)


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
    assert differences(**cuts) == []


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
    (found,) = differences(**cuts)
    assert found.startswith(phrase)


def test_a_model_of_one_event_type_wants_it():
    card = CARD | {"domain": {"event_type": ["PSF3"]}}
    assert differences(card=card, EVENT_TYPE="32,P8R3") == []
    assert differences(card=card, EVENT_TYPE="3,P8R3") == ["event type FRONT+BACK (not PSF3)"]


def test_a_card_without_a_domain_has_its_energies():
    card = {"name": "old", "band_edges_gev": [10, 2000]}
    assert differences(card=card, EVENT_TYPE="32,P8R3", EVENT_CLASS="2,P7REP") == []
    assert differences(edges=[1.0, 2000.0], card=card) == []
    (phrase,) = differences(edges=[0.01, 20.0], card=card)
    assert phrase == "only 9 % of the map's log-energy range is covered"


def test_all_differences_are_one_warning():
    cuts = header(EVENT_TYPE="32,P8R3", ZENITH_ANGLE="0:180")
    with pytest.warns(UnetlocWarning, match="^the map is outside .* model m .*PSF3.*; zenith"):
        check_domain(cuts, EDGES, CARD)


def test_real_files_are_inside(real_data):
    for name in ("gc/fermi-3fhl-gc-counts-cube.fits.gz", "2fhl/fermi_2fhl_events_north.fits.gz"):
        sky_map = read_map(real_data / name)
        assert sky_map.header["DSTYP1"] == "BIT_MASK(EVENT_CLASS,128,P8R2)"
        assert domain_differences(sky_map.header, sky_map.energy_edges, CARD) == []


def test_a_search_warns(tmp_path):
    hdus = cube_hdus(np.zeros((2, 20, 20), ">i4"), np.array([10.0, 20.0, 50.0]))
    hdus[0].header.update(header(EVENT_TYPE="32,P8R3"))
    hdus.writeto(tmp_path / "psf3.fits")
    with pytest.warns(UnetlocWarning, match="lat-10gev .*event type PSF3"):
        find_sources(tmp_path / "psf3.fits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hdus[0].header["DSTYP1"] = "BIT_MASK(EVENT_TYPE,3,P8R3)"
        hdus.writeto(tmp_path / "all.fits")
        find_sources(tmp_path / "all.fits")
