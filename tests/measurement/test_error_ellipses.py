import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import lonely_sources
from test_likelihood import make_fit, maximize, start

from astro_unetloc.measurement.likelihood import curvatures
from astro_unetloc.measurement.posterior import Ellipses, position_posterior


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.floats(0.01, 1.0), st.floats(0.1, 1.0), st.floats(0.0, 179.0))
def test_an_ellipse_comes_back_from_its_covariance(major, ratio, angle_deg):
    minor = 0.95 * ratio * major
    angle = np.radians(angle_deg)
    along = np.array([np.sin(angle), np.cos(angle)])  # east, north
    across = np.array([along[1], -along[0]])
    covariance = major**2 * np.outer(along, along) + minor**2 * np.outer(across, across)
    ellipse = Ellipses.from_covariance(covariance[None], np.array([2.0]))
    assert ellipse.semi_major[0] == pytest.approx(2 * major)
    assert ellipse.semi_minor[0] == pytest.approx(2 * minor, rel=1e-6)
    difference = (ellipse.position_angle[0] - angle_deg + 90) % 180 - 90
    assert difference == pytest.approx(0, abs=1e-3)


def test_an_unknown_scale_gives_an_unknown_ellipse():
    ellipse = Ellipses.from_covariance(np.eye(2)[None], np.array([np.nan]))
    assert np.isnan(ellipse.semi_major[0])
    assert np.isnan(ellipse.semi_minor[0])


@pytest.fixture(scope="module")
def bright():
    sky_map, sources, _ = lonely_sources(400, nside=2, seed=2)
    fit, background_fit = make_fit(sky_map, sources.vectors)
    state, _, rest = maximize(fit, background_fit, start(fit.n, 300.0))
    curvature = curvatures(fit, state, rest)[1]
    guess = np.linalg.inv(curvature[:, :2, :2])
    return fit, state, rest, guess


def test_many_photons_have_a_gaussian_posterior(bright):
    fit, state, rest, covariance = bright
    posterior = position_posterior(fit, state, rest, covariance)
    size = np.sqrt(np.trace(covariance, axis1=1, axis2=2))
    shift = np.hypot(posterior.x - state.model.x, posterior.y - state.model.y)
    assert np.median(shift / size) < 0.05
    ratio = np.linalg.det(posterior.covariance) / np.linalg.det(covariance)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.06)
    # sqrt(-2 ln 0.32) and sqrt(-2 ln 0.05)
    assert np.median(posterior.scale_68) == pytest.approx(1.5096, rel=0.02)
    assert np.median(posterior.scale_95) == pytest.approx(2.4477, rel=0.02)


@pytest.mark.parametrize("factor", [0.25, 9.0])
def test_the_first_guess_does_not_matter(bright, factor):
    fit, state, rest, covariance = bright
    expected = position_posterior(fit, state, rest, covariance)
    found = position_posterior(fit, state, rest, factor * covariance)
    np.testing.assert_allclose(found.x, expected.x, atol=2e-4)
    ratio = np.linalg.det(found.covariance) / np.linalg.det(expected.covariance)
    np.testing.assert_allclose(np.median(ratio), 1.0, atol=0.05)


def test_a_widened_posterior_is_never_narrower(bright):
    fit, state, rest, covariance = bright
    posterior = position_posterior(fit, state, rest, covariance)
    wider = posterior.widened(3 * covariance)
    np.testing.assert_allclose(wider.covariance, posterior.covariance + 3 * covariance)
    same = posterior.widened(-covariance)
    np.testing.assert_allclose(same.covariance, posterior.covariance, atol=1e-12)
