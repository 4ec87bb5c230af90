import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_judgements import make_catalog, make_truth

from astro_unetloc.evaluation.truth import judge
from astro_unetloc.unet.calibration import FEATURES, Calibration, features
from astro_unetloc.unet.model import list_models, load_model

IDENTITY = (0.0, 1.0) + (len(FEATURES) - 1) * (0.0,)


def test_terms_are_as_many_as_their_names():
    assert features(np.array([0.5]), np.array([3.0]), np.array([2.0])).shape == (1, len(FEATURES))


def test_terms_of_an_unknown_sqrt_ts_are_zero():
    terms = features(np.array([0.3]), np.array([np.nan]), np.array([2.0]))[0]
    zero = [value == 0 for value in terms]
    assert zero == ["sqrt_ts" in name for name in FEATURES]


@settings(max_examples=50)
@given(st.floats(0.001, 0.999), st.floats(-90, 90))
def test_logit_alone_gives_the_probability_back(probability, latitude):
    calibration = Calibration(IDENTITY, IDENTITY)
    for sqrt_ts in (np.nan, 5.0):
        found = calibration.score(*(np.array([v]) for v in (probability, sqrt_ts, latitude)))
        assert found[0] == pytest.approx(probability, abs=1e-6)


def test_candidates_without_sqrt_ts_have_their_own_coefficients():
    calibration = Calibration((3.0,) + IDENTITY[1:], IDENTITY)
    found = calibration.score(np.full(2, 0.5), np.array([1.0, np.nan]), np.zeros(2))
    np.testing.assert_allclose(found, [1 / (1 + np.exp(-3)), 0.5])


def test_no_candidates_have_no_scores():
    assert Calibration(IDENTITY, IDENTITY).score(*np.zeros((3, 0))).shape == (0,)


def test_shipped_models_are_calibrated_and_say_so():
    for model in map(load_model, list_models()):
        assert model.calibration is not None
        assert "calibrated on simulated skies" in model.card["description"]


@pytest.mark.parametrize("latitude", [0.0, 3.0, 60.0])
def test_scores_of_the_default_model_grow_with_the_evidence(latitude):
    calibration = load_model().calibration
    probability = np.linspace(0.02, 0.98, 30)
    sqrt_ts = np.linspace(2.5, 9.0, 30)
    lat = np.full(30, latitude)
    assert np.all(np.diff(calibration.score(probability, sqrt_ts, lat)) > -0.02)
    assert calibration.score(probability, sqrt_ts, lat)[0] < 0.3
    assert calibration.score(probability, sqrt_ts, lat)[-1] > 0.95
    assert np.all(np.diff(calibration.score(probability, np.full(30, np.nan), lat)) > -0.02)


@pytest.fixture(scope="module")
def benchmark(import_benchmark):
    return import_benchmark("calibrate")


def test_fitted_calibration_is_the_share_of_explained_candidates(benchmark):
    """Of candidates of probability p a share of p**2 is real, as many are near a fainter source."""
    rng = np.random.default_rng(0)
    n = 4000
    lon, lat = np.arange(n) % 100 * 3.0, 20 + np.arange(n) // 100 * 1.5
    probability = rng.uniform(0.1, 0.99, n)
    draw = rng.random(n)
    is_real, is_near = draw < probability**2, draw > 1 - 0.5 * (1 - probability**2)
    npred = np.where(is_real, 50.0, 10.0)
    near = is_real | is_near
    counts = np.full(n, 45.0)
    sqrt_ts = np.where(np.arange(n) % 10, 5.0, np.nan)  # some were not measured
    counts[np.isnan(sqrt_ts)] = np.nan
    catalog = make_catalog(
        lon, lat, probability, Probability=probability, Sqrt_TS=sqrt_ts, Npred=counts
    )
    judged = judge(catalog, make_truth(lon[near], lat[near], npred[near]), brightest=True)
    fitted = benchmark.fit(judged, 0.1)
    assert fitted.least_probability == 0.1
    p = np.array([0.3, 0.5, 0.7, 0.9])
    found = fitted.score(p, np.full(4, 5.0), np.full(4, 40.0))
    np.testing.assert_allclose(found, p**2, atol=0.04)
    known = benchmark.known_of(judged)
    table = benchmark.reliability(benchmark.scored(judged, fitted.score(*known)))
    assert table.meta["ece"]["|b| > 10 deg"] < 0.06  # a tenth of them is not known to be another
