from contextlib import nullcontext

import healpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import binned_map, healpix_pixels, image_pixels, wcs_pixels
from made_sources import scatter

from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.maps.patches import (
    PatchGrid,
    TangentPlane,
    band_inputs,
    bin_photons,
    project,
    touched_patches,
)
from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat

properties = settings(derandomize=True, deadline=None, max_examples=15)
BANDS = np.array([10.0, 20.0, 50.0, 150.0, 500.0, 2000.0])
longitudes = st.floats(0, 360) | st.sampled_from([0.0, 1e-9, 90.0, 180.0, 359.9999999, 360.0])
latitudes = st.floats(-90, 90) | st.sampled_from([-90.0, -89.9999, 0.0, 89.9999, 90.0])
numbers = st.floats(-0.5, 159.5)
WHOLE_SKY = DiscFootprint(np.array([0.0, 0.0, 1.0]), 180.0)


def random_directions(rng, n):
    vectors = rng.normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cone_of_photons(rng, n, lon, lat, radius_deg):
    """Photons spread evenly over a cone, energies over all bands."""
    height = 1 - rng.random(n) * (1 - np.cos(np.radians(radius_deg)))
    axis = np.tile(vectors_from_lonlat(lon, lat), (n, 1))
    vectors = scatter(axis, np.degrees(np.arccos(height)), rng)
    return Photons(vectors, 10 ** rng.uniform(1, np.log10(2000), n))


def event_map(photons, footprint=WHOLE_SKY, energy_edges=(10.0, 2000.0)):
    return SkyMap(events=photons, footprint=footprint, energy_edges=np.array(energy_edges))


def owned_counts(patches, photons):
    """Photons of each patch that it owns, looked up in its image one by one."""
    owner = patches.grid.owner(photons.vectors)
    band = np.searchsorted(BANDS, photons.energy, side="right") - 1
    found = 0
    for row, patch in enumerate(patches.index):
        mine = owner == patch
        x, y = patches.grid.plane(patch).pixel_from_vectors(photons.vectors[mine])
        assert np.all((x > -0.5) & (x < 159.5) & (y > -0.5) & (y < 159.5))
        image = np.zeros(patches.counts.shape[1:])
        place = np.rint(y).astype(int), np.rint(x).astype(int), band[mine]
        np.add.at(image, place, 1)
        assert np.all(image <= patches.counts[row])
        found += int(mine.sum())
    return found


@properties
@given(
    seed=st.integers(0, 1000),
    lon=st.sampled_from([0.0, 45.0, 180.0, 359.99]) | st.floats(0, 360),
    lat=st.sampled_from([-90.0, 0.0, 41.8, 90.0]) | st.floats(-90, 90),
)
def test_every_photon_is_in_the_read_region_of_its_owner_and_owned_once(seed, lon, lat):
    photons = cone_of_photons(np.random.default_rng(seed), 500, lon, lat, 6.0)
    cone = DiscFootprint(vectors_from_lonlat(lon, lat), 6.5)
    patches = project(event_map(photons, cone), BANDS)
    assert owned_counts(patches, photons) == 500


@pytest.mark.parametrize("nest", [False, True])
def test_counts_of_a_map_are_the_photons_that_project_bins(nest, rng):
    pixels = healpix_pixels(32, nest, "icrs")
    near = separation_deg(pixels.centers(np.arange(pixels.n_pixels)), np.array([1.0, 0, 0])) < 6
    counts = np.where(near, rng.poisson(2.0, (2, pixels.n_pixels)), np.nan)
    sky_map = binned_map(counts, pixels, BANDS[:3])
    patches = project(sky_map, BANDS, seed=4)
    photons = Photons.concatenate(sky_map.photons(4))
    assert owned_counts(patches, photons) == np.nansum(counts) == len(photons)


def test_a_photon_falls_in_the_pixel_and_band_of_its_position_and_energy():
    plane = TangentPlane(10.0, 20.0, 16, 0.5)
    vectors = plane.vectors_from_pixel(
        np.array([3.0, 3.4, 15.49, 15.51, 3.0]), np.array([5.0, 4.6, 0.0, 0.0, 5.0])
    )
    photons = Photons(vectors, np.array([10.0, 19.999, 20.0, 20.0, 2000.0]))
    image = bin_photons(plane, photons, BANDS)
    assert image.shape == (16, 16, 5)
    assert image.sum() == 3  # one beyond the edge, one at the upper end of the last band
    assert image[5, 3, 0] == 2
    assert image[0, 15, 1] == 1


def test_chunks_of_photons_add_up(rng, monkeypatch):
    sky_map = event_map(
        cone_of_photons(rng, 3000, 0.0, 0.0, 5.0), DiscFootprint(np.array([1.0, 0, 0]), 5.0)
    )
    whole = project(sky_map, BANDS).counts
    monkeypatch.setattr("astro_unetloc.maps.patches.CHUNK_PHOTONS", 700)
    seen = []
    parts = project(sky_map, BANDS, progress=lambda chunks, desc: seen.append(desc) or chunks)
    assert seen == ["photons"]
    np.testing.assert_array_equal(parts.counts, whole)
    assert whole.dtype == np.float32


def test_photons_outside_the_bands_are_dropped_and_counted(rng):
    photons = cone_of_photons(rng, 10, 0.0, 0.0, 1.0)
    photons = Photons(photons.vectors, np.array([1.0, 9.9, 2000.0] + [15.0] * 7))
    cone = DiscFootprint(np.array([1.0, 0, 0]), 3.0)
    with pytest.warns(UnetlocWarning, match="3 of 10 photons lie outside 10-2000 GeV, the bands"):
        patches = project(event_map(photons, cone, (1.0, 3000.0)), BANDS)
    assert patches.n_photons == 7
    assert patches.counts[..., 1:].sum() == 0
    assert patches.counts[..., 0].max(axis=(1, 2)).sum() > 0


def test_bands_say_what_of_them_was_observed():
    bands = band_inputs(BANDS, [15.0, 30.0, 60.0])
    np.testing.assert_array_equal(bands[:, 0], [1, 1, 1, 0, 0])
    np.testing.assert_allclose(bands[:3, 1], np.log10([15, 20, 50]), rtol=1e-6)
    np.testing.assert_allclose(bands[:3, 2], np.log10([20, 50, 60]), rtol=1e-6)
    np.testing.assert_allclose(bands[:3, 3], np.log10(2), rtol=1e-6)
    np.testing.assert_array_equal(bands[3:], 0)
    assert bands.dtype == np.float32


def test_events_have_no_bins_and_float32_edges_make_no_difference():
    np.testing.assert_array_equal(band_inputs(BANDS, BANDS[[0, 5]], events=True)[:, 3], 0)
    exact = band_inputs(BANDS, BANDS)
    np.testing.assert_allclose(exact[:, 3], np.diff(np.log10(BANDS)), rtol=1e-6)
    rough = band_inputs(BANDS, BANDS * (1 + 3e-6 * np.array([1, -1, 1, -1, 1, -1])))
    np.testing.assert_allclose(rough, exact, atol=1e-5)


@pytest.mark.parametrize(
    ("edges", "match"),
    [
        ([10.0, 100.0, 300.0, 400.0], "bins 10-100, 100-300 GeV lie across"),
        ([5.0, 15.0, 20.0], "bins 5-15 GeV"),  # most of its photons lie below 10
        (BANDS, None),
        (np.geomspace(10, 2000, 13), None),  # factors of 1.55
    ],
)
def test_wide_bins_across_an_edge_of_the_model_are_warned_about(edges, match):
    counts = np.zeros((len(edges) - 1, 24, 24))
    counts[-1] = 1  # the others would lie outside of the model
    sky_map = binned_map(counts, image_pixels(24), edges)
    with pytest.warns(UnetlocWarning, match=match) if match else nullcontext():
        project(sky_map, BANDS)


@pytest.mark.parametrize(
    ("edges", "advice"),
    [((1, 10), "choose another model"), ((0.03, 0.1), "no shipped model: select photons of 0.5-2")],
)
def test_energies_outside_the_model_are_refused_with_what_to_do(edges, advice):
    sky_map = event_map(Photons(np.eye(3), np.full(3, edges[0])), energy_edges=edges)
    match = f"model's range 10-2000 GeV; got a map of {edges[0]}-{edges[1]} GeV; {advice}"
    with pytest.raises(ValueError, match=match):
        project(sky_map, BANDS)


@pytest.mark.parametrize("n", [1, 8, 24])
def test_a_map_that_is_all_edge_is_warned_about(n):
    sky_map = binned_map(np.ones((1, n * n)), image_pixels(n), BANDS[:2])
    match = "every part of the map lies within 0.5 deg of its edge"
    with pytest.warns(UnetlocWarning, match=match) if n < 10 else nullcontext():
        project(sky_map, BANDS)


def test_only_patches_that_the_footprint_touches_are_read():
    grid = PatchGrid()
    index, coverage = touched_patches(grid, DiscFootprint(grid.centers[300], 1.0).covers)
    np.testing.assert_array_equal(index, [300])
    assert coverage.shape == (1, 160, 160, 1)
    disc = np.hypot(*(np.mgrid[:160, :160] - 79.5)) * grid.config.pixel_deg
    np.testing.assert_array_equal(coverage[0, ..., 0][disc < 0.95], 1)
    np.testing.assert_array_equal(coverage[0, ..., 0][disc > 1.05], 0)
    assert len(touched_patches(grid, lambda v: np.zeros(v.shape[:-1], dtype=bool))[0]) == 0


def test_a_map_smaller_than_the_sampling_of_the_sky_is_still_read():
    vector = vectors_from_lonlat(77.7, -60.1)
    index, _ = touched_patches(PatchGrid(), DiscFootprint(vector, 0.06).covers)
    np.testing.assert_array_equal(index, [PatchGrid().owner(vector)])


def test_a_small_region_reads_its_owner_and_the_patches_next_to_it():
    grid = PatchGrid()
    region = DiscFootprint(grid.centers[300], 1e-3)
    np.testing.assert_array_equal(touched_patches(grid, WHOLE_SKY.covers, region)[0], [300])
    middle = grid.centers[300] + grid.centers[301]
    region = DiscFootprint(middle / np.linalg.norm(middle), 1e-3)
    assert {300, 301} <= set(touched_patches(grid, WHOLE_SKY.covers, region)[0])
    behind = DiscFootprint(-grid.centers[300], 5.0)
    index, coverage = touched_patches(grid, behind.covers, region)
    assert (index.shape, coverage.shape) == ((0,), (0, 160, 160, 1))


def test_not_observed_differs_from_no_photons(rng):
    counts = np.zeros((1, 1600))
    counts[0, :800] = np.nan  # the southern half
    with pytest.warns(UnetlocWarning, match="the map holds no photons; nothing can be found"):
        patches = project(binned_map(counts, image_pixels(40, lon=30, lat=20), BANDS[:2]), BANDS)
    assert patches.counts.sum() == 0
    for row, patch in enumerate(patches.index):
        x, y = patches.grid.plane(patch).pixel_from_vectors(
            vectors_from_lonlat([30.0, 30.0, 30.0], [20.5, 19.5, 23.0])
        )
        if np.all((x > 0) & (x < 159) & (y > 0) & (y < 159)):
            seen = patches.coverage[row, np.rint(y).astype(int), np.rint(x).astype(int), 0]
            np.testing.assert_array_equal(seen, [1, 0, 0])


def test_a_cut_out_is_read_as_the_whole_map_where_it_covers(rng):
    whole = image_pixels(80, lon=30.0, lat=20.0)
    cut = wcs_pixels(whole.wcs[20:70, 10:60], (50, 50))
    counts = rng.poisson(0.3, (2, 80, 80))
    parts = (counts, whole), (counts[:, 20:70, 10:60], cut)
    first, second = (project(binned_map(*part, BANDS[:3]), BANDS, seed=3) for part in parts)
    assert set(second.index) <= set(first.index)
    first_rows = np.searchsorted(first.index, second.index)
    # A pixel of a patch is compared where it and its surroundings lie inside the cut-out.
    inside = second.coverage[..., 0] > 0
    for axis in (1, 2):
        for shift in (-2, 2):
            inside &= np.roll(second.coverage[..., 0], shift, axis) > 0
    assert inside.sum() > 2000
    np.testing.assert_array_equal(first.counts[first_rows][inside], second.counts[inside])


def test_north_is_up_and_rotation_turns_it_clockwise():
    vectors = vectors_from_lonlat([30.0, 30.0, 30.5], [40.0, 40.5, 40.0])
    east = np.cos(np.radians(40))
    for rotation, expected in (
        (0, ([5, 5, 5 - east], [5, 6, 5])),
        (90, ([5, 6, 5], [5, 5, 5 + east])),
    ):
        plane = TangentPlane(30.0, 40.0, 11, 0.5, rotation)
        np.testing.assert_allclose(plane.pixel_from_vectors(vectors), expected, atol=1e-2)


@properties
@given(lon=longitudes, lat=latitudes, rotation=st.floats(-180, 180), x=numbers, y=numbers)
def test_pixel_to_sky_to_pixel_everywhere_and_as_astropy_does(lon, lat, rotation, x, y):
    plane = TangentPlane(lon, lat, 160, 10 / 128, rotation)
    vector = plane.vectors_from_pixel(x, y)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-14)
    again = plane.pixel_from_vectors(vector)
    assert np.abs(np.subtract(again, (x, y))).max() * plane.pixel_deg < 1e-6
    world = plane.wcs.wcs_pix2world([x], [y], 0)
    assert separation_deg(vector, vectors_from_lonlat(*world)).max() < 1e-6
    theirs = plane.wcs.wcs_world2pix(*(np.atleast_1d(c) for c in lonlat_from_vectors(vector)), 0)
    assert np.abs(np.subtract(np.ravel(theirs), (x, y))).max() * plane.pixel_deg < 1e-6


def test_directions_beyond_the_horizon_of_a_plane_have_no_pixel():
    plane, vectors = TangentPlane(0.0, 0.0, 160, 0.1), vectors_from_lonlat([90.0, 180], [0.0, 10])
    assert np.isnan(plane.pixel_from_vectors(vectors)).all()
    assert bin_photons(plane, Photons(vectors, np.array([15.0, 15.0])), BANDS).sum() == 0


def test_pixel_vectors_are_indexed_by_row_and_column():
    plane = TangentPlane(10.0, 20.0, 8, 0.5)
    assert plane.pixel_vectors.shape == (8, 8, 3)
    np.testing.assert_allclose(plane.pixel_vectors[2, 5], plane.vectors_from_pixel(5, 2))


def test_the_grid_has_768_patches_that_own_their_centres():
    grid = PatchGrid()
    assert grid.n_patches == len(grid.centers) == 768
    np.testing.assert_array_equal(grid.owner(grid.centers), np.arange(768))


@properties
@given(lon=longitudes, lat=latitudes)
def test_the_owner_is_the_nearest_centre_and_the_direction_lies_in_no_other_cell(lon, lat):
    grid = PatchGrid()
    vector = vectors_from_lonlat(lon, lat)
    distance, owner = separation_deg(grid.centers, vector), grid.owner(vector)
    assert distance[owner] <= distance.min() + 1e-9
    assert grid.border_distance_deg(vector, owner) <= 1e-9
    for patch in np.argsort(distance)[1:6]:
        assert grid.border_distance_deg(vector, patch) >= -1e-9


def test_border_distance_is_the_distance_to_the_bisector():
    grid = PatchGrid()
    # On the equator centres alternate between rings: walk from one towards its nearest neighbour.
    first = grid.centers[400]
    second = grid.centers[np.argsort(separation_deg(grid.centers, first))[1]]
    half = separation_deg(first, second) / 2
    middle = (first + second) / np.linalg.norm(first + second)
    assert grid.border_distance_deg(middle, 400) == pytest.approx(0, abs=1e-9)
    assert grid.border_distance_deg(first, 400) == pytest.approx(-half)
    assert grid.border_distance_deg(second, 400) == pytest.approx(half)


def test_every_direction_lies_deep_inside_the_read_region_of_its_owner():
    grid = PatchGrid()
    vectors = np.stack(healpy.pix2vec(128, np.arange(12 * 128**2)), axis=-1)
    owner = grid.owner(vectors)
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], np.arange(769))
    half = np.radians(grid.config.pixel_deg) * grid.config.read_pixels / 2
    # Great circles through the four edges of the read region; the normals point inwards.
    normals = np.array([[-1, 0, half], [1, 0, half], [0, -1, half], [0, 1, half]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    margin = [
        np.arcsin(vectors[order[a:b]] @ grid.plane(patch).basis.T @ normals.T).min()
        for patch, (a, b) in enumerate(zip(first[:-1], first[1:]))
    ]
    # 0.466 deg on a finer sample of 3 million directions, 0.02 deg apart; this one is 0.46 deg.
    assert np.degrees(np.min(margin)) > 0.4 + 0.02
