from dataclasses import replace

import numpy as np
import pytest
from made_skies import make_sky

from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.simulation.diffuse import ENERGY_EDGES
from astro_unetloc.training.observation import Detectability, significance


@pytest.mark.parametrize(
    ("n_photons", "background", "expected"),
    [(0, 1.0, 0.0), (10, 1e6, 0.01), (100, 1e6, 0.1), (1, 0.0, 2.706), (1, 0.01, 2.706)],
)
def test_significance_is_that_of_a_known_background(n_photons, background, expected):
    assert significance(n_photons, background) == pytest.approx(expected, abs=0.005)


def test_significances_of_energy_bins_add_in_quadrature():
    photons, background = np.array([[4.0, 3.0]]), np.array([[1.0, 0.2]])
    single = [significance(photons[:, i], background[:, i])[0] for i in range(2)]
    assert significance(photons, background)[0] == pytest.approx(np.hypot(*single))


def test_photons_near_a_source_are_its_own_within_the_psf():
    sky = make_sky([0.0, 1.0], [0.0, 0.0], photons_each=9)
    own, background = Detectability(sky).near(np.array([0, 1]), sky.photons, sky.origin)
    assert own.shape == background.shape == (2, 5)
    assert own.sum(axis=1).tolist() == [9, 9]


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.1, 0.2, 0.5, 1.5])
def test_light_of_a_neighbour_is_what_the_psf_puts_there(distance):
    """Against photons of the neighbour drawn one by one: within 5 %."""
    n, energy, rng = 200_000, 15.0, np.random.default_rng(1)
    sky = make_sky([0.0, distance], [0.0, 0.0], photons_each=1)
    sky = replace(sky, photons=replace(sky.photons, energy=np.full(2, energy)))
    _, background = Detectability(sky).near(np.array([0]), sky.photons, sky.origin)
    center = np.sqrt(ENERGY_EDGES[0] * ENERGY_EDGES[1])
    offset = KingPSF().sample_offset(np.full(n, center), rng)
    angle = rng.uniform(0, 2 * np.pi, n)
    x, y = distance + offset * np.cos(angle), offset * np.sin(angle)
    expected = np.mean(np.hypot(x, y) < KingPSF().containment_radius(0.68, center))
    assert background[0, 0] == pytest.approx(expected, rel=0.05, abs=2e-3)
