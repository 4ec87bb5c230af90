from dataclasses import replace

import numpy as np
import pytest
from conftest import make_wcs
from made_sources import as_events, lonely_sources

from astro_unetloc.maps.events import DiscFootprint
from astro_unetloc.maps.photons import Photons
from astro_unetloc.maps.skymap import HealpixPixelization, SkyMap, image_pixelization
from astro_unetloc.measurement.data import fitted_energies, gather_counts, make_neighborhoods
from astro_unetloc.sphere import (
    frame_rotation,
    move,
    separation_deg,
    tangent_axes,
    vectors_from_lonlat,
)

CORE = 0.5


def neighborhoods(sky_map, vectors, radius=2.0, reach=None, n_split=1):
    counts = gather_counts(sky_map, 10, 2000)
    core = np.full(len(counts.energy_edges) - 1, CORE)
    reach = np.full(len(vectors), radius) if reach is None else reach
    hood = make_neighborhoods(counts, vectors, radius, core, reach, n_split=n_split)
    return counts, hood


def test_events_are_sorted_into_fine_bins():
    energy = np.array([10.0, 13.0, 30.0, 1999.0, 2000.0, 9.0])
    sky_map = as_events(Photons(np.tile([1.0, 0, 0], (6, 1)), energy))
    counts = gather_counts(sky_map, 10, 2000)
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
def test_bins_are_fitted_whole_and_said_so(edges, fitted):
    pixels = image_pixelization(make_wcs((4, 4)), (4, 4))
    counts = np.ones((len(edges) - 1, 16), dtype=np.int32)
    sky_map = SkyMap(counts=counts, pixels=pixels, energy_edges=np.array(edges, float))
    np.testing.assert_array_equal(fitted_energies(sky_map, 10, 2000), fitted)
    assert gather_counts(sky_map, 10, 2000).number.sum() == 16 * max(len(fitted) - 1, 0)


def test_counts_of_a_map_are_its_filled_pixels_and_bins():
    wcs = make_wcs((20, 20), pixel_deg=0.1)
    cube = np.zeros((3, 400), dtype=np.int32)
    cube[0, 5], cube[2, 5], cube[1, 210] = 3, 1, 2
    cube[0, 7] = 9  # below the range
    sky_map = SkyMap(
        counts=np.vstack([np.full((1, 400), 4), cube]),
        pixels=image_pixelization(wcs, (20, 20)),
        energy_edges=np.array([1.0, 10.0, 20.0, 50.0, 100.0]),
    )
    counts = gather_counts(sky_map, 10, 2000)
    np.testing.assert_array_equal(counts.energy_edges, [10, 20, 50, 100])
    assert counts.number.sum() == cube.sum()
    np.testing.assert_array_equal(counts.pixel, [5, 7, 210])
    np.testing.assert_array_equal(counts.first, [0, 2, 3, 4])
    np.testing.assert_array_equal(counts.number, [3, 1, 9, 2])


def test_pairs_hold_every_photon_near_every_source_once():
    sky_map, sources, _ = lonely_sources(20, seed=3)
    vectors = sources.vectors[:7]
    counts, hood = neighborhoods(sky_map, vectors)
    for row, vector in enumerate(vectors):
        away = separation_deg(counts.vectors, vector)
        core = np.sort(hood.core.entry[hood.core.source == row])
        np.testing.assert_array_equal(core, np.flatnonzero(away < CORE))
        tail = np.sort(hood.tail.entry[hood.tail.source == row])
        inside = np.flatnonzero((away >= CORE) & (away < 2.0))
        assert len(np.setxor1d(tail, inside)) <= 1  # the plane stretches by 0.04 % at 2 deg
    assert hood.in_region.mean() > 0.99


def test_photons_beyond_the_region_are_followed_as_far_as_asked():
    sky_map, sources, _ = lonely_sources(20, seed=3)
    _, hood = neighborhoods(sky_map, sources.vectors[:2], reach=np.array([2.0, 3.0]))
    assert np.all(hood.in_region[hood.tail.source == 0])
    assert not np.all(hood.in_region[hood.tail.source == 1])


def test_entries_of_the_region_are_those_of_the_core_and_then_the_others_in_it():
    sky_map, sources, _ = lonely_sources(20, seed=3)
    vectors = sources.vectors[:2]
    counts, hood = neighborhoods(sky_map, vectors, reach=np.array([2.0, 3.0]))
    n_core = len(hood.core.entry)
    np.testing.assert_array_equal(hood.region_entry[:n_core], hood.core.entry)
    source = np.append(hood.core.source, hood.tail.source[hood.in_region])
    away = separation_deg(counts.vectors[hood.region_entry], vectors[source])
    assert n_core < len(away) < n_core + len(hood.tail.entry)
    assert np.all(away < 2.0)
    assert np.all(away[n_core:] > 0.999 * CORE)


def test_offsets_are_east_and_north_in_icrs():
    vectors = vectors_from_lonlat(np.array([30.0, 200.0]), np.array([-20.0, 70.0]))
    vectors = vectors @ frame_rotation("icrs").T
    east, north = tangent_axes(vectors)
    moved = move(vectors, east, north, np.array([0.1, 0.0]), np.array([0.0, 0.1]))
    ra_dec = moved @ frame_rotation("icrs")
    expected = vectors_from_lonlat(
        np.array([30.0 + 0.1 / np.cos(np.radians(20)), 200.0]), np.array([-20.0, 70.1])
    )
    assert np.all(separation_deg(ra_dec, expected) < 1e-4)


def test_the_pole_of_the_sky_has_axes_too():
    pole = frame_rotation("icrs")[:, 2][None]
    east, north = tangent_axes(pole)
    np.testing.assert_allclose(
        [east[0] @ east[0], north[0] @ north[0], east[0] @ north[0], east[0] @ pole[0]],
        [1, 1, 0, 0],
        atol=1e-9,
    )


def test_places_stand_for_the_observed_part_of_the_region():
    sky_map, sources, _ = lonely_sources(20, seed=3)
    vector = sources.vectors[:1]
    half = DiscFootprint(
        move(vector, *tangent_axes(vector), np.array([90.0]), np.zeros(1))[0], 45.0
    )
    center = vector[0]
    edge = DiscFootprint(center, 1.0)
    for footprint, expected in ((edge, np.pi), (sky_map.footprint, 4 * np.pi)):
        _, hood = neighborhoods(replace(sky_map, footprint=footprint), vector)
        assert hood.place_area.sum() == pytest.approx(expected, rel=0.02)
    _, hood = neighborhoods(replace(sky_map, footprint=half), vector)
    assert hood.place_area.sum() < 2.3 * np.pi


def test_coarse_pixels_are_places_of_their_own():
    pixels = HealpixPixelization(64, False, "galactic")
    counts = np.ones((1, pixels.n_pixels), dtype=np.int32)
    sky_map = SkyMap(counts=counts, pixels=pixels, energy_edges=np.array([10.0, 2000.0]))
    vectors = vectors_from_lonlat(np.array([10.0]), np.array([50.0]))
    _, hood = neighborhoods(sky_map, vectors, radius=3.0)
    n_inside = hood.in_region.sum() + len(hood.core.source)
    assert np.sum(hood.place_area > 0) == n_inside
    assert hood.place_area.sum() == pytest.approx(9 * np.pi, rel=0.1)


@pytest.mark.parametrize("n_split", [2, 4])
def test_places_inside_a_pixel_are_even(n_split):
    wcs = make_wcs((21, 21), pixel_deg=0.1)
    cube = np.zeros((1, 441), dtype=np.int32)
    cube[0, 220] = 1
    healpix = HealpixPixelization(512, True, "galactic")
    center = vectors_from_lonlat(np.array([0.0]), np.array([0.0]))
    sparse = np.zeros((1, healpix.n_pixels), dtype=np.int32)
    sparse[0, healpix.index(center[0])] = 1
    for pixels, counts in ((image_pixelization(wcs, (21, 21)), cube), (healpix, sparse)):
        sky_map = SkyMap(counts=counts, pixels=pixels, energy_edges=np.array([10.0, 20.0]))
        middle = neighborhoods(sky_map, center)[1].core
        split = neighborhoods(sky_map, center, n_split=n_split)[1].core
        assert split.n_parts == n_split**2
        size = pixels.pixel_size_deg
        assert split.part_x.mean() == pytest.approx(middle.x[0], abs=0.02 * size)
        assert split.part_y.mean() == pytest.approx(middle.y[0], abs=0.02 * size)
        # of one axis, a square of side 1 has a variance of 1/12
        expected = 1 / 12 * (1 - n_split**-2.0)
        assert (split.part_x.var() + split.part_y.var()) / 2 == pytest.approx(
            expected * size**2, rel=0.15
        )


def test_pixels_of_an_image_have_the_area_of_the_sky_they_cover():
    wcs = make_wcs((40, 40), lat=0.0, pixel_deg=0.5, projection="CAR")
    counts = np.ones((1, 1600), dtype=np.int32)
    pixels = image_pixelization(wcs, (40, 40))
    sky_map = SkyMap(counts=counts, pixels=pixels, energy_edges=np.array([10.0, 2000.0]))
    centers, area, _ = gather_counts(sky_map, 10, 2000).observed_pixels
    np.testing.assert_allclose(area, 0.25 * np.hypot(centers[:, 0], centers[:, 1]), rtol=1e-3)
