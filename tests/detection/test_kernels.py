import healpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.detection.kernels import SmoothBackground
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat

NSIDE = 64  # of the observed pixels
WIDTH_DEG = 2.0


def cone(lon, lat, radius_deg):
    """Observed pixels of a cone, and a function that draws directions in it."""
    center = vectors_from_lonlat(lon, lat)
    pixels = healpy.query_disc(NSIDE, center, np.radians(radius_deg), nest=True)

    def draw(n, rng):
        cells = rng.choice(pixels, n) * 4**10 + rng.integers(4**10, size=n)
        return np.stack(healpy.pix2vec(NSIDE * 2**10, cells, nest=True), axis=1)

    return center, (NSIDE, np.sort(pixels)), draw


def in_bands(vectors, band, sky, **options):
    """Background densities (n_band, m) of photons that are all background."""
    ones = np.ones(len(vectors))
    return SmoothBackground(
        vectors, band, ones, band.max() + 1, sky, WIDTH_DEG, **options
    ).densities(ones)


@settings(max_examples=8, deadline=None)
@given(st.floats(0, 360), st.sampled_from([-70.0, 3.0, 35.0]), st.floats(8, 30), st.integers(0, 99))
def test_flat_background_has_its_density_up_to_the_edge(lon, lat, radius_deg, seed):
    _, sky, draw = cone(lon, lat, radius_deg)
    rng = np.random.default_rng(seed)
    area = len(sky[1]) * healpy.nside2pixarea(NSIDE, degrees=True)
    vectors = draw(6000, rng)
    band = (rng.random(6000) < 0.2).astype(int)
    found = in_bands(vectors, band, sky)
    # the mean over the photons of an unbiased estimate, and its scatter
    for row, fraction in zip(found, (0.8, 0.2)):
        ratio = row / (6000 * fraction / area)
        assert ratio.mean() == pytest.approx(1.0, abs=0.1)
        assert ratio.std() < 0.3


@pytest.mark.parametrize("lat", [0.0, 40.0])
def test_density_follows_a_gradient(rng, lat):
    center, sky, draw = cone(50.0, lat, 15.0)
    vectors = draw(60_000, rng)
    true = np.exp(-((separation_deg(vectors, center) / 8.0) ** 2))
    kept = rng.random(len(vectors)) < true
    vectors, true = vectors[kept], true[kept]
    area = len(sky[1]) * healpy.nside2pixarea(NSIDE, degrees=True)
    ratio = in_bands(vectors, np.zeros(len(vectors), int), sky)[0] / (true * 60_000 / area)
    assert ratio.mean() == pytest.approx(1.0, abs=0.05)
    assert ratio[true > 0.2].std() < 0.15 < true[true > 0.2].std()


def test_single_photon_is_left_out_of_its_own_density(rng):
    _, sky, draw = cone(0.0, 60.0, 20.0)
    vectors = draw(3000, rng)
    lonely = vectors_from_lonlat(0.0, 60.0)
    far = separation_deg(vectors, lonely) > 12.0
    found = in_bands(np.vstack([lonely, vectors[far]]), np.zeros(far.sum() + 1, int), sky)[0]
    assert found[0] < 0.2 * np.median(found)


@pytest.mark.parametrize("lat", [2.8, 40.0])
def test_source_as_wide_as_its_psf_is_no_emission(rng, lat):
    # Vela in photons from 2 GeV on once was background: kernels along the plane were as narrow
    center, sky, draw = cone(263.6, lat, 20.0)
    source = center + rng.normal(0, np.radians(WIDTH_DEG / 4.5 / 1.5), (20_000, 3))
    source /= np.linalg.norm(source, axis=1, keepdims=True)
    vectors = np.vstack([draw(20_000, rng), source])
    found = in_bands(vectors, np.zeros(40_000, int), sky)[0]
    at_source = found[separation_deg(vectors, center) < 0.3]
    assert at_source.mean() < 0.2 * len(at_source) / (np.pi * 0.3**2)


def test_photons_of_sources_do_not_count(rng):
    center, sky, draw = cone(120.0, 50.0, 12.0)
    vectors = draw(4000, rng)
    source = center + rng.normal(0, np.radians(0.2), (2000, 3))
    vectors = np.vstack([vectors, source / np.linalg.norm(source, axis=1, keepdims=True)])
    weight = np.repeat([1.0, 0.0], [4000, 2000])
    ones, band = np.ones(6000), np.zeros(6000, int)
    background = SmoothBackground(vectors, band, ones, 1, sky, WIDTH_DEG)
    area = len(sky[1]) * healpy.nside2pixarea(NSIDE, degrees=True)
    clean, not_clean = (background.densities(w)[0] * area / 4000 for w in (weight, ones))
    assert clean[4000:].mean() == pytest.approx(1.0, abs=0.15)
    assert not_clean[4000:].mean() > 3


def test_template_is_used_where_it_is_right(rng):
    center, sky, draw = cone(300.0, -45.0, 10.0)
    vectors = draw(80_000, rng)
    true = 0.02 + np.exp(-((separation_deg(vectors, center) / 0.8) ** 2))  # narrower than kernels
    kept = rng.random(len(vectors)) < true / true.max()
    vectors, true = vectors[kept], true[kept]

    def template(directions):
        return 5.0 * (0.02 + np.exp(-((separation_deg(directions, center) / 0.8) ** 2)))[None]

    band = np.zeros(len(vectors), int)
    with_it, without = in_bands(vectors, band, sky, template=template), in_bands(vectors, band, sky)
    scatter = [np.std(np.log(found[0] / true)) for found in (with_it, without)]
    assert scatter[0] < 0.5 * scatter[1]
