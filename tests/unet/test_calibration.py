import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import RANGE, lonely_sources

from astro_unetloc import find_sources, simulate_sky
from astro_unetloc.catalog.table import numbers_of
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.unet.model import (
    FEATURES,
    Calibration,
    ErrorFactors,
    features,
    list_models,
    load_model,
)

FACTORS = ErrorFactors(
    (0.0, 3.0, 10.0), (2.0, 1.5, 1.0), (7.0, 1.5, 1.0), (4.0, 2.0, 1.0), (3, 2, 1)
)
IDENTITY = (0.0, 1.0) + (len(FEATURES) - 1) * (0.0,)


@pytest.mark.parametrize("n_pred", [np.nan, 20.0])
def test_terms_of_an_unknown_fit_are_zero(n_pred):
    terms = features([0.3], [2.0], [np.nan], [n_pred])
    assert terms.shape == (1, len(FEATURES))
    of_fit = [any(w in name for w in ("sqrt_ts", "counts", "scan")) for name in FEATURES]
    assert [value == 0 for value in terms[0]] == of_fit


def test_terms_of_an_unknown_network_are_zero_and_those_of_the_scan_the_last():
    terms = features([np.nan], [2.0], [5.0], [20.0], [4.0])[0]
    assert [value == 0 for value in terms] == ["logit" in name for name in FEATURES]
    np.testing.assert_allclose(terms[-4:-2], [4.0, 16.0])
    short = Calibration(IDENTITY[:14], IDENTITY[:14])  # of a finder without a scan
    assert short.score([0.3], [2.0], [5.0], [20.0]) == pytest.approx(0.3)


@settings(max_examples=50)
@given(st.floats(0.001, 0.999), st.floats(-90, 90))
def test_logit_alone_returns_the_probability(probability, latitude):
    calibration = Calibration(IDENTITY, IDENTITY)
    for fitted in ([], [[np.nan], [np.nan]], [[5.0], [20.0]]):
        found = calibration.score([probability], [latitude], *fitted)
        assert found[0] == pytest.approx(probability, abs=1e-6)


def test_candidates_without_sqrt_ts_have_their_own_coefficients():
    calibration = Calibration((3.0,) + IDENTITY[1:], IDENTITY)
    found = calibration.score(np.full(2, 0.5), np.zeros(2), [1.0, np.nan], [9.0, np.nan])
    np.testing.assert_allclose(found, [1 / (1 + np.exp(-3)), 0.5])
    assert calibration.score(*np.zeros((3, 0))).shape == (0,)


def test_shipped_models_are_calibrated():
    for model in map(load_model, list_models()):
        assert model.calibration is not None
        assert "calibrated on simulated skies" in model.card["description"]


@pytest.mark.parametrize("latitude", [0.0, 3.0, 60.0])
def test_scores_of_the_default_model_grow_with_the_evidence(latitude):
    probability, sqrt_ts = np.linspace(0.02, 0.98, 30), np.linspace(2.5, 9.0, 30)
    counts = sqrt_ts**2
    for fitted in ([sqrt_ts, counts], []):
        score = load_model().calibration.score(probability, np.full(30, latitude), *fitted)
        assert np.all(np.diff(score) > -0.02)
        if fitted:
            assert score[0] < 0.3
            assert score[-1] > 0.95


# Error factors


@pytest.mark.parametrize(
    ("latitude", "factor"), [(0, 7), (-2.99, 7), (3, 1.5), (-9.9, 1.5), (10, 1), (-90, 1)]
)
def test_factor_is_that_of_the_latitude(latitude, factor):
    np.testing.assert_array_equal(FACTORS.at("ellipse_95", [latitude]), [factor])


def test_errors_grow_and_what_was_measured_stays():
    sky_map, sources, _ = lonely_sources(30, nside=2)
    before = measure_sources(sources, sky_map, band_edges=RANGE, flux_range=(10.0, 1000.0))
    kinds = {"Unc_Npred": "counts", "Unc_Flux": "counts", "Unc_Spectral_Index": "index"}
    kinds |= {f"Conf_{n}_Semi{a}": f"ellipse_{n}" for n in (68, 95) for a in ("Major", "Minor")}
    after = FACTORS.apply(before)
    assert after.colnames == before.colnames
    for name in before.colnames:
        factor = FACTORS.at(kinds[name], before["GLAT"].value) if name in kinds else 1
        np.testing.assert_array_equal(after[name].value, before[name].value * factor)


def test_only_the_model_below_10_gev_has_error_factors():
    factors = load_model("lat-500mev").error_factors
    assert min(factors.ellipse_68 + factors.ellipse_95 + factors.counts + factors.index) >= 1
    assert factors.latitude_deg[0] == 0
    assert load_model("lat-10gev").error_factors is None


def test_a_search_applies_error_factors():
    center = SkyCoord(120 * u.deg, 40 * u.deg, frame="galactic")
    sky_map, _ = simulate_sky(center=center, radius=3 * u.deg, rng=1)
    model = load_model("lat-10gev")
    plain = find_sources(sky_map, model=model)
    model.card["error_factors"] = {
        "latitude_deg": [0.0], "ellipse_68": [2.0], "ellipse_95": [3.0], "counts": [1.0],
        "index": [1.0],
    }  # fmt: skip
    scaled = find_sources(sky_map, model=model)
    assert len(plain) > 0
    for name, factor in (("Conf_68_SemiMajor", 2), ("Conf_95_SemiMinor", 3), ("Unc_Npred", 1)):
        ratio = numbers_of(scaled, name) / numbers_of(plain, name)
        np.testing.assert_allclose(ratio, factor, rtol=1e-5)
