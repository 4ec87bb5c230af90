import numpy as np
import pytest
from made_sources import RANGE, as_events, background_around, join, lonely_sources, photons_of

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF, make_profiles
from astro_unetloc.irf.spectra import PowerLawFractions
from astro_unetloc.measurement.background import BackgroundFit
from astro_unetloc.measurement.data import gather_counts, make_neighborhoods
from astro_unetloc.measurement.likelihood import (
    SourceModel,
    SourcesFit,
    curvatures,
    evaluate,
    fit_sources,
    neighbor_pairs,
    take_turns,
)
from astro_unetloc.sphere import vectors_from_lonlat

ALL = (1, 1, 1, 1)


def make_fit(sky_map, vectors):
    counts = gather_counts(sky_map, *RANGE)
    profiles = make_profiles(KingPSF(), counts.energy_edges)
    spectrum = PowerLawFractions(counts.energy_edges, SurveyExposure().relative)
    core = np.maximum(profiles.containment_radius(0.95), 0.4)
    hood = make_neighborhoods(counts, vectors, 2.0, core, np.full(len(vectors), 2.0))
    fit = SourcesFit(hood, len(counts.number), profiles, spectrum, core)
    return fit, BackgroundFit(hood, spectrum)


def start(n, counts=20.0):
    return SourceModel(np.zeros(n), np.zeros(n), np.full(n, counts), np.full(n, 2.3))


def maximize(fit, background_fit, model, **options):
    options = {"n_rounds": 12, "turns": np.zeros(fit.n, int), "free": ALL} | options
    return fit_sources(fit, background_fit, model, background_fit.start(), **options)


@pytest.fixture(scope="module")
def lonely():
    sky_map, sources, true = lonely_sources(50, seed=1)
    fit, background_fit = make_fit(sky_map, sources.vectors)
    return fit, *maximize(fit, background_fit, start(fit.n)), sources.vectors, true


def test_counts_and_index_are_those_of_the_simulation(lonely):
    model = lonely[1].model
    error = np.sqrt(50 / len(model.counts))
    assert model.counts.mean() == pytest.approx(50, abs=4 * error)
    assert model.index.mean() == pytest.approx(2.3, abs=0.1)


def test_one_radius_is_that_of_all_bins(lonely):
    fit = lonely[0]
    found = fit.contained(1.0)
    assert found.shape == (fit.n, fit.n_energy)
    np.testing.assert_array_equal(found, fit.contained(np.ones(fit.n_energy)))


def test_the_gradient_vanishes_at_the_maximum(lonely):
    fit, state, _, rest = lonely[:4]
    gradient, curvature, _ = curvatures(fit, state, rest)
    error = np.sqrt(np.einsum("naa->na", np.linalg.inv(curvature)))
    assert np.percentile(np.abs(gradient) * error, 99) < 0.05


def test_derivatives_are_those_of_the_likelihood(lonely):
    fit, state, _, rest = lonely[:4]
    model = state.model
    names = ("x", "y", "counts", "index")
    steps = np.array([2e-3, 2e-3, 0.5, 0.02])

    def gradient_at(k, step):
        values = {n: getattr(model, n) + (step if n == names[k] else 0) for n in names}
        return curvatures(fit, evaluate(fit, SourceModel(**values)), rest)[0]

    curvature = curvatures(fit, state, rest)[1]
    for k, step in enumerate(steps):
        found = (gradient_at(k, -step) - gradient_at(k, step)) / (2 * step)
        scale = np.sqrt(np.einsum("naa->na", curvature) * curvature[:, k, k, None])
        assert np.median(np.abs(found - curvature[:, k]) / scale) < 0.02


def test_no_step_makes_it_worse(lonely):
    """The likelihood of one round more is not less."""
    fit, state, background, rest, *_ = lonely
    own = state.own
    best = fit.core.sum(fit.core.number * np.log(own + rest), fit.n)
    for change in (0.9, 1.1):
        other = SourceModel(
            state.model.x, state.model.y, state.model.counts * change, state.model.index
        )
        trial = evaluate(fit, other)
        value = fit.core.sum(fit.core.number * np.log(trial.own + rest), fit.n)
        cost = (other.counts - state.model.counts) * state.rates[3]
        assert np.all(value - cost < best + 1e-6)


def test_two_close_sources_share_their_photons(rng):
    """A pair 0.25 deg apart, forty times over."""
    lon = np.arange(0.0, 360.0, 9.0)
    left, right = (vectors_from_lonlat(lon + d, np.full(40, 0.0)) for d in (-0.125, 0.125))
    photons = join(
        photons_of(left, 60, rng), photons_of(right, 30, rng), background_around(left, 17.0, rng)
    )
    vectors = np.concatenate([left, right])
    turns = take_turns(80, neighbor_pairs(vectors, 1.0))
    assert set(turns) == {0, 1}
    assert np.all(turns[:40] != turns[40:])
    model = maximize(*make_fit(as_events(photons), vectors), start(80), turns=turns)[0].model
    assert np.median(model.counts[:40]) == pytest.approx(60, rel=0.08)
    assert np.median(model.counts[40:]) == pytest.approx(30, rel=0.12)
    assert np.median(np.hypot(model.x, model.y)) < 0.02
