import numpy as np
import pytest
from made_sources import (
    as_events,
    background_around,
    join,
    lonely_sources,
    photons_of,
    regions_of,
)

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF, make_profiles
from astro_unetloc.irf.spectra import PowerLawFractions
from astro_unetloc.measurement.background import LocalBackground
from astro_unetloc.measurement.data import Pairs, graph_colors, neighbor_pairs
from astro_unetloc.measurement.likelihood import (
    Likelihood,
    joint_covariances,
    maximize,
    position_posterior,
)
from astro_unetloc.sphere import vectors_from_lonlat

EDGES = np.geomspace(10, 2000, 20)  # of events


def maximum(sky_map, vectors, *, counts=20.0, neighbor_deg=0.0, n_rounds=20):
    """Likelihood of sources, their state at its maximum and the counts of all others."""
    n, profiles = len(vectors), make_profiles(KingPSF(), EDGES)
    core_deg = np.maximum(profiles.containment_radius(0.95), 0.4)
    regions = regions_of(sky_map, vectors, core_deg=core_deg)
    np.testing.assert_allclose(regions.counts.energy_edges, EDGES)
    spectrum = PowerLawFractions(EDGES, SurveyExposure().relative)
    likelihood = Likelihood(regions, profiles, spectrum)
    state, _, npred_other = maximize(
        likelihood, LocalBackground(regions, spectrum), np.tile([0.0, 0.0, counts, 2.3], (n, 1)),
        n_rounds=n_rounds, neighbors=neighbor_pairs(vectors, neighbor_deg), free=range(4),
    )  # fmt: skip
    return likelihood, state, npred_other


@pytest.fixture(scope="module")
def lonely():
    sky_map, sources, _ = lonely_sources(50, seed=1)
    return maximum(sky_map, sources.vectors)


def test_counts_and_index_are_those_of_the_simulation(lonely):
    state = lonely[1]
    assert state.counts.mean() == pytest.approx(50, abs=4 * np.sqrt(50 / len(state.counts)))
    assert state.index.mean() == pytest.approx(2.3, abs=0.1)


def test_the_gradient_vanishes_at_the_maximum(lonely):
    likelihood, state, npred_other = lonely
    gradient, hessian, *_ = likelihood.gradient_and_hessian(state, npred_other)
    error = np.sqrt(np.einsum("naa->na", np.linalg.inv(hessian)))
    assert np.percentile(np.abs(gradient) * error, 99) < 0.05


@pytest.mark.parametrize(("number", "step"), [(0, 2e-3), (1, 2e-3), (2, 0.5), (3, 0.02)])
def test_the_hessian_is_that_of_finite_differences(lonely, number, step):
    likelihood, state, npred_other = lonely
    change = step * (np.arange(4) == number)
    states = (likelihood.evaluate(state.parameters + sign * change) for sign in (-1, 1))
    below, above = (likelihood.gradient_and_hessian(s, npred_other)[0] for s in states)
    hessian = likelihood.gradient_and_hessian(state, npred_other)[1]
    scale = np.sqrt(np.einsum("naa->na", hessian) * hessian[:, number, number, None])
    difference = (below - above) / (2 * step) - hessian[:, number]
    assert np.median(np.abs(difference) / scale) < 0.02


def test_two_close_sources_divide_their_photons(rng):
    """A pair 0.25 deg apart, forty times over."""
    lon = np.arange(0.0, 360.0, 9.0)
    left, right = (vectors_from_lonlat(lon + d, 0.0) for d in (-0.125, 0.125))
    photons = join(
        photons_of(left, 60, rng), photons_of(right, 30, rng), background_around(left, 17.0, rng)
    )
    vectors = np.concatenate([left, right])
    colors = graph_colors(80, neighbor_pairs(vectors, 1.0))
    assert set(colors) == {0, 1}
    assert np.all(colors[:40] != colors[40:])
    state, longer = (
        maximum(as_events(photons), vectors, neighbor_deg=1.0, n_rounds=n)[1] for n in (20, 80)
    )
    assert np.median(state.counts[:40]) == pytest.approx(60, rel=0.08)
    assert np.median(state.counts[40:]) == pytest.approx(30, rel=0.12)
    assert np.median(np.hypot(*state.parameters[:, :2].T)) < 0.02
    # sources that wait have reached their maximum, so that more rounds change nothing
    np.testing.assert_allclose(state.counts, longer.counts, atol=0.05 * np.sqrt(30))


# Joint covariances


def covariances_of_pair(rho):
    """Covariances of two sources at the same 200 counts bins, alone and joint; derivatives."""
    rng = np.random.default_rng(1)
    first, other = rng.normal(size=(2, 200, 4))
    derivatives = np.concatenate([first, rho * first + np.sqrt(1 - rho**2) * other])
    core = Pairs(np.repeat([0, 1], 200), np.tile(np.arange(200), 2), *np.zeros((4, 400)))
    hessian = np.stack([d.T @ d for d in np.split(derivatives, 2)])
    pairs = np.array([[0, 1], [1, 0]])
    return *joint_covariances(derivatives, core, hessian, pairs, np.arange(2)), derivatives


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_a_shared_photon_costs_precision(rho):
    alone, joint, _ = covariances_of_pair(rho)
    ratio = np.trace(joint[0]) / np.trace(alone[0])
    assert ratio == pytest.approx(1 / (1 - rho**2), rel=0.1)


def test_the_joint_covariance_is_that_of_the_whole_matrix():
    _, joint, derivatives = covariances_of_pair(0.7)
    both = np.hstack(np.split(derivatives, 2))
    expected = np.linalg.inv(both.T @ both)
    np.testing.assert_allclose(joint, [expected[:4, :4], expected[4:, 4:]], rtol=1e-6)


# Position posterior


@pytest.fixture(scope="module")
def bright():
    sky_map, sources, _ = lonely_sources(400, nside=2, seed=2)
    at_maximum = maximum(sky_map, sources.vectors, counts=300.0)
    hessian = at_maximum[0].gradient_and_hessian(*at_maximum[1:])[1]
    return at_maximum, np.linalg.inv(hessian[:, :2, :2])


def test_many_photons_have_a_gaussian_posterior(bright):
    at_maximum, first = bright
    mean, covariance, scales = position_posterior(*at_maximum, first)
    size = np.sqrt(np.trace(first, axis1=1, axis2=2))
    shift = np.hypot(*(mean - at_maximum[1].parameters[:, :2]).T)
    assert np.median(shift / size) < 0.05
    ratio = np.linalg.det(covariance) / np.linalg.det(first)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.06)
    # sqrt(-2 ln 0.32) and sqrt(-2 ln 0.05)
    np.testing.assert_allclose(np.median(scales, axis=1), [1.5096, 2.4477], rtol=0.02)


@pytest.mark.parametrize("factor", [0.25, 9.0])
def test_the_first_estimate_does_not_matter(bright, factor):
    at_maximum, first = bright
    (mean, covariance, _), (found, found_covariance, _) = (
        position_posterior(*at_maximum, f * first) for f in (1.0, factor)
    )
    np.testing.assert_allclose(found, mean, atol=2e-4)
    ratio = np.linalg.det(found_covariance) / np.linalg.det(covariance)
    np.testing.assert_allclose(np.median(ratio), 1.0, atol=0.05)
