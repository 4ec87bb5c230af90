"""Predicted counts: sources, the smooth background, and how they compare with a map."""

from dataclasses import replace

import healpy
import numpy as np
import pytest
from gammapy.maps import HpxGeom, Map, MapAxis
from gammapy.stats import CashCountsStatistic
from made_maps import binned_map, healpix_pixels, image_pixels
from made_sources import RANGE, as_events, background_around

from astro_unetloc.detection.kernels import smooth_background
from astro_unetloc.maps.photons import DiscFootprint
from astro_unetloc.measurement.predicted import (
    as_pixels,
    compare_counts,
    given_background,
    predicted_sources,
)
from astro_unetloc.sphere import vectors_from_lonlat

EDGES = np.array([10.0, 30.0, 100.0])
BANDS = np.array([10.0, 20.0, 50.0, 150.0, 500.0, 2000.0])
CENTER = vectors_from_lonlat(np.array([120.0]), np.array([40.0]))
DISC = np.sort(healpy.query_disc(128, CENTER[0], np.radians(8.0)))
PIXELS = {
    "WCS": image_pixels(160, lon=120.0, lat=40.0, pixel_deg=0.05),
    "coarse": image_pixels(40, lon=120.0, lat=40.0, pixel_deg=0.5),
    "RING": healpix_pixels(128, False, "galactic", DISC),
    "NESTED": healpix_pixels(64, True, "icrs"),
}


def flat_map(pixels, density, seed=1):
    """Map of Poisson counts of a flat density per square degree, in both bins of ``EDGES``."""
    area = pixels.area_deg2(np.arange(pixels.n_pixels))
    counts = np.random.default_rng(seed).poisson(density * area, (2, pixels.n_pixels))
    return binned_map(counts.astype(np.float32), pixels, EDGES)


@pytest.mark.parametrize("kind", PIXELS)
def test_pixels_hold_the_counts_of_a_source_wherever_it_lies_in_its_pixel(kind):
    sky_map, counts = flat_map(PIXELS[kind], 1.0), np.array([[80.0, 20.0]])
    for shift in (0.0, 0.02, 0.13):
        place = vectors_from_lonlat(np.array([120.0 + shift]), np.array([40.0 + shift]))
        predicted = predicted_sources(place, counts, sky_map)
        np.testing.assert_allclose(predicted.sum(axis=1), counts[0], rtol=0.03)


def test_source_at_the_border_of_a_map_has_half_of_its_counts_in_it():
    sky_map, counts = flat_map(PIXELS["WCS"], 1.0), np.array([[80.0, 20.0]])
    pixels = PIXELS["WCS"]
    border = pixels.points(np.array([80]), np.array([0.5]), np.array([0.0]))
    predicted = predicted_sources(border, counts, sky_map)
    np.testing.assert_allclose(predicted.sum(axis=1), counts[0] / 2, rtol=0.02)


def test_sources_add_up():
    sky_map, counts = flat_map(PIXELS["WCS"], 1.0), np.array([[80.0, 20.0], [5.0, 9.0]])
    places = vectors_from_lonlat(np.array([120.0, 120.2]), np.array([40.0, 40.1]))
    each = [predicted_sources(places[[k]], counts[[k]], sky_map) for k in (0, 1)]
    np.testing.assert_allclose(predicted_sources(places, counts, sky_map), sum(each), atol=1e-3)
    assert not predicted_sources(places[:0], counts[:0], sky_map).any()


@pytest.mark.parametrize("kind", ["WCS", "RING"])
def test_smooth_background_is_flat_where_the_counts_are(kind):
    sky_map = flat_map(PIXELS[kind], 40.0)
    none = np.zeros(sky_map.planes.shape)
    background = smooth_background(sky_map, none, 0.12)
    np.testing.assert_allclose(background.sum(axis=1), sky_map.planes.sum(axis=1), rtol=1e-3)
    area = PIXELS[kind].area_deg2(np.arange(PIXELS[kind].n_pixels))
    assert np.std(background / area / 40.0) < 0.1


def test_smooth_background_leaves_out_what_a_source_explains():
    sky_map, counts = flat_map(PIXELS["WCS"], 10.0), np.array([[900.0, 300.0]])
    of_source = predicted_sources(CENTER, counts, sky_map)
    drawn = np.random.default_rng(3).poisson(of_source)
    sky_map.counts.data += drawn.reshape(sky_map.counts.data.shape)
    background = smooth_background(sky_map, of_source, 0.12)
    center = PIXELS["WCS"].index(CENTER)
    assert background[0, center] < 2 * 10.0 * 0.05**2
    expected = sky_map.planes.sum(axis=1)
    np.testing.assert_allclose((background + of_source).sum(axis=1), expected, rtol=0.06)


def test_unobserved_pixels_are_nan_and_the_residual_is_what_is_left():
    sky_map = flat_map(PIXELS["WCS"], 40.0)
    sky_map.counts.data[:, :, :30] = np.nan
    of_source = predicted_sources(CENTER, np.array([[80.0, 20.0]]), sky_map)
    found = compare_counts(sky_map, of_source, smooth_background(sky_map, of_source, 0.12))
    for name, one in found.maps().items():
        assert np.isnan(one.data[..., :, :30]).all(), name
        assert np.isfinite(one.data[..., :, 30:]).all(), name
    left = found.counts.data - found.sources.data - found.background.data
    np.testing.assert_array_equal(found.residual.data, left)


@pytest.mark.parametrize("kind", ["WCS", "NESTED"])
def test_significance_is_that_of_the_counts_around_each_pixel(kind):
    sky_map = flat_map(PIXELS[kind], 40.0)
    area = PIXELS[kind].area_deg2(np.arange(PIXELS[kind].n_pixels))
    truth = np.tile(40.0 * area, (2, 1))
    found = compare_counts(sky_map, 0 * truth, truth)
    total = found.total_significance.data.ravel()
    centers = PIXELS[kind].centers(np.arange(PIXELS[kind].n_pixels))
    number = int(PIXELS[kind].index(CENTER)[0])
    radius_deg = np.average(found.radius_deg, weights=sky_map.planes.sum(axis=1))
    near = np.degrees(np.linalg.norm(centers - centers[number], axis=1)) <= radius_deg
    expected = CashCountsStatistic(sky_map.planes[:, near].sum(), truth[:, near].sum()).sqrt_ts
    assert total[number] == pytest.approx(expected, abs=1e-3)
    assert np.std(total) == pytest.approx(1.0, abs=0.1)


def test_given_background_is_taken_times_its_factor():
    sky_map = flat_map(PIXELS["WCS"], 40.0)
    axis = MapAxis.from_energy_edges(EDGES, unit="GeV")
    geom = HpxGeom(32, nest=False, frame="galactic", axes=[axis])
    background = Map.from_geom(geom, data=np.full(geom.data_shape, 3.0))
    density = 3.0 / (np.degrees(np.sqrt(np.pi / 3) / 32) ** 2)
    area = PIXELS["WCS"].area_deg2(np.arange(PIXELS["WCS"].n_pixels))
    found = given_background(replace(sky_map, background=background), 1.5)
    np.testing.assert_allclose(found, np.tile(1.5 * density * area, (2, 1)), rtol=1e-4)


def test_events_become_an_image_or_healpix_with_all_photons():
    photons = background_around(CENTER, 30.0, np.random.default_rng(1))
    whole = as_events(photons)
    part = replace(whole, footprint=DiscFootprint(CENTER[0], 3.0))
    for sky_map, is_hpx in ((whole, True), (part, False)):
        pixels = as_pixels(sky_map, BANDS)
        assert pixels.counts.geom.is_hpx == is_hpx
        assert pixels.n_photons == np.sum(photons.energy < RANGE[1])
        np.testing.assert_allclose(pixels.energy_edges, BANDS)
    assert as_pixels(pixels, BANDS) is pixels
    observed = np.isfinite(pixels.planes).all(axis=0)
    area = pixels.pixels.area_deg2(np.flatnonzero(observed)).sum()
    assert area == pytest.approx(np.pi * 3.0**2, rel=0.02)
