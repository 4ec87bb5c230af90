from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import binned_map, healpix_pixels, image_pixels
from made_sources import as_events, lonely_sources, regions_of

from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.measurement.data import (
    fitted_energies,
    gather_counts,
    graph_colors,
    neighbor_pairs,
)
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat

CORE = 0.5


@pytest.fixture(scope="module")
def lonely():
    """A sky map, and the vectors of its sources."""
    sky_map, sources, _ = lonely_sources(20, seed=3)
    return sky_map, sources.vectors


def test_events_are_sorted_into_fine_bins():
    energy = np.array([10.0, 13.0, 30.0, 1999.0, 2000.0, 9.0])
    counts = gather_counts(as_events(Photons(np.tile([1.0, 0, 0], (6, 1)), energy)), (10, 2000))
    assert len(counts.number) == 5
    edges, bins = counts.energy_edges, counts.energy_bin
    assert np.all(np.diff(np.log10(edges)) <= 1 / 8)
    assert np.all((energy[:5] >= edges[bins]) & (energy[:5] <= edges[bins + 1]))


@pytest.mark.parametrize(
    ("edges", "fitted"),
    [
        ([5, 2000], [5, 2000]),
        ([8, 12.6, 20, 3000], [8, 12.6, 20, 3000]),
        ([5, 12, 2000], [12, 2000]),
        ([2, 20], []),
    ],
)
def test_bins_with_their_center_in_the_range_are_fitted_whole(edges, fitted):
    counts = np.ones((len(edges) - 1, 16), dtype=np.int32)
    sky_map = binned_map(counts, image_pixels(4), edges)
    np.testing.assert_array_equal(fitted_energies(sky_map, 10, 2000), fitted)
    assert gather_counts(sky_map, (10, 2000)).number.sum() == 16 * max(len(fitted) - 1, 0)


def test_counts_of_a_map_are_its_filled_pixels_and_bins():
    cube = np.zeros((4, 400), dtype=np.int32)
    cube[0] = 4  # below the range
    cube[1, 5], cube[3, 5], cube[2, 210], cube[1, 7] = 3, 1, 2, 9
    counts = gather_counts(binned_map(cube, image_pixels(20), [1, 10, 20, 50, 100]), (10, 2000))
    np.testing.assert_array_equal(counts.energy_edges, [10, 20, 50, 100])
    np.testing.assert_array_equal(counts.pixel, [5, 7, 210])
    np.testing.assert_array_equal(counts.first, [0, 2, 3, 4])
    np.testing.assert_array_equal(counts.number, [3, 1, 9, 2])
    np.testing.assert_array_equal(counts.position, [0, 0, 1, 2])


def test_regions_hold_every_photon_near_every_source_once(lonely):
    sky_map, vectors = lonely[0], lonely[1][:7]
    regions = regions_of(sky_map, vectors)
    for row, vector in enumerate(vectors):
        away = separation_deg(regions.counts.vectors, vector)
        core, tail = (np.sort(p.bin[p.source == row]) for p in (regions.core, regions.tail))
        np.testing.assert_array_equal(core, np.flatnonzero(away < CORE))
        inside = np.flatnonzero((away >= CORE) & (away < 2.0))
        assert len(np.setxor1d(tail, inside)) <= 1  # the plane stretches by 0.04 % at 2 deg
    assert len(regions.pairs) > 0.99 * len(regions.reached)


def test_photons_beyond_the_region_are_followed_but_are_not_in_it(lonely):
    sky_map, vectors = lonely[0], lonely[1][:2]
    regions = regions_of(sky_map, vectors, reach_deg=np.array([2.0, 3.0]))
    pairs, n_core = regions.pairs, len(regions.core)
    np.testing.assert_array_equal(pairs.bin[:n_core], regions.core.bin)
    away = separation_deg(regions.counts.vectors[pairs.bin], vectors[pairs.source])
    assert np.all(away < 2.0)
    assert np.all(away[n_core:] > 0.999 * CORE)
    beyond = regions.reached.select(slice(len(pairs), None))
    assert n_core < len(pairs) < len(regions.reached)
    assert np.all(beyond.source == 1)
    assert np.all(separation_deg(regions.counts.vectors[beyond.bin], vectors[1]) > 1.999)


def test_samples_represent_the_observed_part_of_the_region(lonely):
    sky_map, vector = lonely[0], lonely[1][:1]
    beside = np.cross(vector[0], [0.0, 0.0, 1.0])
    beside = vector[0] + beside / np.linalg.norm(beside) * np.radians(90.0)
    half = DiscFootprint(beside / np.linalg.norm(beside), 45)
    whole, disc, cut = (
        regions_of(replace(sky_map, footprint=footprint), vector).sample_area.sum()
        for footprint in (sky_map.footprint, DiscFootprint(vector[0], 1.0), half)
    )
    assert whole == pytest.approx(4 * np.pi, rel=0.02)
    assert disc == pytest.approx(np.pi, rel=0.02)
    assert cut < 2.3 * np.pi


def test_coarse_pixels_are_samples_of_their_own():
    pixels = healpix_pixels(64, False, "galactic")
    sky_map = binned_map(np.ones((1, pixels.n_pixels), dtype=np.int32), pixels, [10, 2000])
    regions = regions_of(sky_map, vectors_from_lonlat([10.0], 50.0), radius_deg=3.0)
    assert np.sum(regions.sample_area > 0) == len(regions.pairs)
    assert regions.sample_area.sum() == pytest.approx(9 * np.pi, rel=0.1)


@pytest.mark.parametrize("n_split", [2, 4])
@pytest.mark.parametrize("pixels", [image_pixels(21), healpix_pixels(512, True, "galactic")])
def test_subpixels_are_even_inside_a_pixel(pixels, n_split):
    center, counts = np.array([[1.0, 0, 0]]), np.zeros((1, pixels.n_pixels), dtype=np.int32)
    counts[0, pixels.index(center)] = 1
    sky_map = binned_map(counts, pixels, [10, 20])
    whole = regions_of(sky_map, center).core
    core = regions_of(sky_map, center, n_split=n_split).core
    assert core.n_sub == n_split**2
    size, means = pixels.pixel_size_deg, (core.sub_x.mean(), core.sub_y.mean())
    assert means == pytest.approx((whole.x[0], whole.y[0]), abs=0.02 * size)
    # of one axis, a square of side 1 has a variance of 1/12
    expected = size**2 / 12 * (1 - n_split**-2.0)
    assert (core.sub_x.var() + core.sub_y.var()) / 2 == pytest.approx(expected, rel=0.15)


def test_pixels_of_an_image_have_the_area_of_the_sky_they_cover():
    pixels = image_pixels(40, pixel_deg=0.5, projection="CAR")
    sky_map = binned_map(np.ones((1, 1600), dtype=np.int32), pixels, [10, 2000])
    centers, area, _ = gather_counts(sky_map, (10, 2000)).observed_pixels
    np.testing.assert_allclose(area, 0.25 * np.hypot(centers[:, 0], centers[:, 1]), rtol=1e-3)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_no_two_neighbors_have_the_same_color(n, seed):
    vectors = vectors_from_lonlat(*np.random.default_rng(seed).uniform(0, 3.0, (2, n)))
    pairs = neighbor_pairs(vectors, 0.8)
    colors = graph_colors(n, pairs)
    assert np.all(colors[pairs[:, 0]] != colors[pairs[:, 1]])
    away = separation_deg(vectors[:, None], vectors[None])
    assert len(pairs) == np.sum(away < 0.8) - n
    assert colors.max() <= np.bincount(pairs[:, 0], minlength=n).max()
    distance = away[tuple(pairs.T)]  # sorted by the first and the distance
    np.testing.assert_array_equal(np.lexsort((distance, pairs[:, 0])), np.arange(len(pairs)))
