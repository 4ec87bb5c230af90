import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.simulation.population import CLASSES, draw_sources
from astro_unetloc.simulation.sky import expected_photons


@pytest.fixture
def ceiling(import_benchmark):
    return import_benchmark("classes_ceiling")


def test_likelihood_is_that_of_the_best_counts(ceiling, rng):
    in_rings, background = np.array([[0.5, 0.7], [0.3, 0.2]]), np.array([[0.1, 0.4], [2.0, 3.0]])
    fraction = rng.dirichlet([1, 1], 5)
    counts = rng.poisson(30 * in_rings * [0.7, 0.3] + background)
    found = ceiling.log_likelihood(counts, background, in_rings, fraction, 10.0)
    for shape, value in zip(fraction, found):
        rate = in_rings * shape

        def cost(number, rate=rate):
            return number * rate.sum() - np.sum(counts * np.log(number * rate + background))

        assert value == pytest.approx(-minimize_scalar(cost, bounds=(0.1, 200)).fun, abs=1e-3)


def test_prior_and_spectra_are_those_of_similar_sources(ceiling, rng):
    edges = np.array([10.0, 20, 50, 2000])
    population = ceiling.Population(edges, SurveyExposure(), 20, rng)
    high, _ = population.similar(20.0, 60.0, 50.0, 10, rng)
    low, spectra = population.similar(20.0, 1.0, 50.0, 400, rng)
    assert low[1] / low[0] > 20 * high[1] / high[0]  # nearly all are AGN far from the plane
    assert spectra.shape == (3, 400, 3)
    np.testing.assert_allclose(spectra.sum(axis=2), 1, rtol=1e-3)
    # pulsars are soft
    assert spectra[1, :, 0].mean() > spectra[0, :, 0].mean() + 0.1
    # of all AGN one in ten is drawn
    sky, exposure = draw_sources(np.random.default_rng(0), extended=0.0), SurveyExposure()
    seen = expected_photons(sky, exposure, (10.0, 2000.0)) > 2
    n_agn = np.sum(seen & (sky.source_class == CLASSES.index("AGN")))
    assert population.weight[population.source_class == 0].sum() / 20 == pytest.approx(
        n_agn, rel=0.1
    )


def test_counts_around_a_source_are_its_photons_and_the_background(ceiling, rng):
    known = ceiling.KnownSky(np.array([50.0, 2000.0]), 2000, 2.0)
    row = int(known.counts.argmax())
    counts, background = known.around(row, rng)
    expected = known.counts[row] * known.in_rings.sum() / known.in_rings.shape[1]
    expected += background.sum()
    assert counts.sum() == pytest.approx(expected, abs=5 * np.sqrt(expected))
    area = np.pi * ceiling.RINGS_DEG[-1] ** 2
    density = known.background.mean(axis=0)  # of the whole sky
    assert 0.2 < (background.sum(axis=0) / area / density).min() < 20
