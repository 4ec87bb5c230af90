import numpy as np
import pytest

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.simulation.diffuse import (
    Diffuse,
    _window,
    draw_true_photons,
    energy_bins,
    expected_density,
)

NSIDE = 32
N_PIXELS = 12 * NSIDE**2
EDGES = energy_bins(0.5, 100.0)


def emission(shape=None, nside=NSIDE):
    """Isotropic emission of one shape, bright enough for thousands of photons."""
    shape = np.ones(12 * nside**2) if shape is None else shape / shape.mean()
    low, high = np.full(6, 1e-8), np.full(5, 1e-9)
    return Diffuse(nside, {"A": shape}, {"A": high}, {"A": low})


def test_drawn_photons_are_as_many_as_expected_in_every_bin():
    exposure, rng = SurveyExposure(5.0), np.random.default_rng(0)
    parts = list(draw_true_photons(emission(), exposure, EDGES, rng))
    energy = np.concatenate([part.energy for part in parts])
    found = np.histogram(energy, EDGES)[0]
    density = expected_density(emission(), exposure, KingPSF(), EDGES)
    expected = density.mean(axis=0) * 4 * np.pi * np.degrees(1) ** 2
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected) + 1e-3 * expected)


def test_photons_come_from_wanted_pixels_alone():
    import healpy

    wanted = np.arange(N_PIXELS) < 100
    rng = np.random.default_rng(1)
    parts = draw_true_photons(emission(), SurveyExposure(5.0), EDGES, rng, wanted=wanted)
    pixels = [healpy.vec2pix(NSIDE, *part.vectors.T) for part in parts]
    assert sum(map(len, pixels)) > 1000
    assert max(p.max() for p in pixels) < 100


def test_photons_follow_the_shape():
    import healpy

    shape = np.linspace(0.0, 2.0, N_PIXELS)
    rng = np.random.default_rng(2)
    parts = draw_true_photons(emission(shape), SurveyExposure(5.0), EDGES, rng)
    pixel = np.concatenate([healpy.vec2pix(NSIDE, *part.vectors.T) for part in parts])
    assert np.mean(pixel >= N_PIXELS // 2) == pytest.approx(0.75, abs=0.02)  # exposure tilts it


def test_expected_photons_are_blurred_but_none_are_lost():
    """A bright spot of 1 deg: at 0.7 GeV it spreads, at 70 GeV it stays."""
    import healpy

    nside = 128
    shape = np.zeros(12 * nside**2)
    shape[healpy.query_disc(nside, [0.6, 0.0, 0.8], np.radians(1.0))] = 1.0
    options = SurveyExposure(5.0), KingPSF(), EDGES
    density = expected_density(emission(shape, nside), *options)
    sharp = expected_density(emission(shape, nside), options[0], KingPSF(1e-3), EDGES)
    np.testing.assert_allclose(density.sum(axis=0), sharp.sum(axis=0), rtol=0.02)
    bright = shape > 0
    kept = density[bright].sum(axis=0) / sharp[bright].sum(axis=0)
    assert 0.3 < kept[0] < 0.8
    assert kept[-1] == 1.0


@pytest.mark.parametrize("degree", [1, 5, 20])
def test_window_is_the_mean_legendre_polynomial_of_drawn_offsets(degree):
    from scipy.special import eval_legendre

    psf, rng = KingPSF(), np.random.default_rng(3)
    offset = psf.sample_offset(np.full(100_000, 0.7), rng)
    drawn = eval_legendre(degree, np.cos(np.radians(offset))).mean()
    assert _window(psf, 0.7, 30)[degree] == pytest.approx(drawn, abs=0.003)
