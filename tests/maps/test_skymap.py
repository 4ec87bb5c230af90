import pickle

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import cube_hdus, image_header, poisson_cube
from made_maps import all_photons, healpix_pixels, wcs_pixels

from astro_unetloc.maps.photons import place_counts
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat

properties = settings(derandomize=True, deadline=None, max_examples=60)
fractions = st.floats(0.001, 0.999)
COARSE = "ignore:pixels of .* coarser"


def image(shape, **header):
    return wcs_pixels(WCS(image_header(shape, **header)), shape)


# Reference longitude 0, pixels at 175 to 185 deg: half of them beyond native longitude 180.
SEAM = fits.Header(image_header((20, 100)), copy=True)
SEAM["CRPIX1"] += 1800
PIXELIZATIONS = {
    "car-beyond-the-seam": wcs_pixels(WCS(SEAM), (20, 100)),
    "car": image((40, 60), projection="CAR"),
    "car-across-the-seam": image((40, 60), projection="CAR", lon=179.9),
    "car-oblique": image((40, 50), projection="CAR", lon=184.55, lat=-5.78),
    "car-all-sky": image((180, 360), projection="CAR", pixel_deg=1.0),
    "tan": image((40, 60), projection="TAN", lon=120.0, lat=60.0),
    "tan-at-the-pole": image((60, 60), projection="TAN", lon=33.0, lat=90.0, frame="icrs"),
    "ait-all-sky": image((90, 180), projection="AIT", pixel_deg=2.0),
    "ait-all-sky-icrs": image((90, 180), projection="AIT", pixel_deg=2.0, frame="icrs"),
    "hpx-ring": healpix_pixels(32, False, "galactic"),
    "hpx-nested": healpix_pixels(32, True, "galactic"),
    "hpx-ring-icrs": healpix_pixels(64, False, "icrs"),
    "hpx-nested-fk5": healpix_pixels(128, True, "fk5"),
    "hpx-partial": healpix_pixels(16, False, "icrs", np.array([3, 5, 42, 700, 2000])),
}


@pytest.mark.parametrize("name", PIXELIZATIONS)
@properties
@given(place=st.floats(0, 1, exclude_max=True), u=fractions, v=fractions)
def test_a_point_inside_a_pixel_falls_in_that_pixel(name, place, u, v):
    pixels = PIXELIZATIONS[name]
    index = np.array([int(place * pixels.n_pixels)])
    point = pixels.points(index, np.array([u]), np.array([v]))
    if np.isfinite(point).all():
        assert np.linalg.norm(point) == pytest.approx(1, abs=1e-12)
        assert pixels.index(point) == index


@pytest.mark.parametrize("name", PIXELIZATIONS)
def test_the_centre_of_every_pixel_falls_in_that_pixel(name):
    pixels = PIXELIZATIONS[name]
    index = np.arange(pixels.n_pixels)
    centers = pixels.centers(index)
    on_sky = ~np.isnan(centers[:, 0])
    np.testing.assert_array_equal(pixels.index(centers[on_sky]), index[on_sky])


@pytest.mark.parametrize("name", ["car-all-sky", "ait-all-sky", "ait-all-sky-icrs", "hpx-nested"])
@properties
@given(
    lon=st.floats(0, 360) | st.sampled_from([0.0, 90.0, 180.0, 360.0]),
    lat=st.floats(-90, 90) | st.sampled_from([-90.0, -45.0, 0.0, 45.0, 90.0]),
)
def test_every_direction_has_a_pixel_in_an_all_sky_map(name, lon, lat):
    pixels = PIXELIZATIONS[name]
    vector = vectors_from_lonlat(np.array([lon]), np.array([lat]))
    assert 0 <= pixels.index(vector)[0] < pixels.n_pixels


def test_directions_outside_an_image_have_no_pixel():
    outside = vectors_from_lonlat(np.array([[300.0, 120.0]]), np.array([[-60.0, 64.0]]))
    np.testing.assert_array_equal(PIXELIZATIONS["tan"].index(outside), [[-1, -1]])


def test_pixels_beyond_the_limb_are_off_the_sky_and_their_points_fall_back_on_it():
    pixels = PIXELIZATIONS["ait-all-sky"]
    index = np.arange(pixels.n_pixels)
    off = np.isnan(pixels.on_sky(index)[:, 0])
    assert 0.2 < off.mean() < 0.4  # an ellipse in its box: 1 - pi / 4, and the box is larger
    u = np.full(len(index), 0.02)
    points = pixels.points(index, u, u)
    np.testing.assert_array_equal(np.isnan(points[:, 0]), off)
    np.testing.assert_array_equal(pixels.index(points[~off]), index[~off])
    assert np.any(np.isnan(pixels.centers(index)[:, 0]) & ~off)  # some only in part


@pytest.mark.parametrize("frame", ["galactic", "icrs", "fk5"])
@pytest.mark.parametrize("nest", [False, True])
def test_healpix_points_are_uniform_inside_the_pixel(frame, nest, rng):
    pixels = healpix_pixels(4, nest, frame)
    draws = rng.random((2, 4000))
    points = pixels.points(np.full(4000, 77), *draws)
    assert np.all(pixels.index(points) == 77)
    fine = healpix_pixels(16, nest, frame).index(points)
    number = np.unique(fine, return_counts=True)[1]
    assert len(number) == 16
    assert np.all(np.abs(number - 250) < 5 * np.sqrt(250))


@properties
@given(
    x0=st.integers(0, 20),
    y0=st.integers(0, 15),
    nx=st.integers(1, 20),
    ny=st.integers(1, 15),
    projection=st.sampled_from(["CAR", "TAN", "AIT"]),
)
def test_a_cut_out_places_its_photons_where_the_whole_image_does(x0, y0, nx, ny, projection):
    whole = image((30, 40), projection=projection, lon=83.6, lat=22.0, frame="icrs")
    wcs = whole.wcs[y0 : y0 + ny, x0 : x0 + nx]
    cut = wcs_pixels(wcs, (ny, nx))
    y, x = np.divmod(np.arange(nx * ny), nx)
    index = (y + y0) * 40 + x + x0
    np.testing.assert_array_equal(cut.key(np.arange(nx * ny)), whole.key(index))
    counts = np.zeros((1, 1200))
    counts[0, index] = 2
    edges = np.array([10.0, 20.0])
    first = next(place_counts(whole, counts, edges, seed=5))
    second = next(place_counts(cut, np.full((1, nx * ny), 2), edges, seed=5))
    assert separation_deg(first.vectors, second.vectors).max() < 1e-9
    np.testing.assert_array_equal(first.energy, second.energy)


@properties
@given(chunk=st.integers(1, 60), seed=st.integers(0, 2**31))
def test_chunks_place_the_same_photons_and_conserve_counts(chunk, seed):
    pixels = healpix_pixels(4, False, "icrs")
    counts = np.random.default_rng(seed).poisson(0.2, (2, 192)).astype(float)
    counts[0, ::7] = np.nan
    edges = np.array([10.0, 20.0, 50.0])
    whole = list(place_counts(pixels, counts, edges, seed=seed))
    parts = list(place_counts(pixels, counts, edges, seed=seed, max_photons=chunk))
    assert all(len(part) <= chunk for part in parts)
    vectors = np.concatenate([photons.vectors for photons in whole])
    np.testing.assert_array_equal(vectors, np.concatenate([p.vectors for p in parts]))
    energy = np.concatenate([photons.energy for photons in parts])
    np.testing.assert_array_equal(energy, np.concatenate([p.energy for p in whole]))
    placed = np.zeros((2, 192))
    np.add.at(placed, (np.searchsorted(edges, energy, side="right") - 1, pixels.index(vectors)), 1)
    np.testing.assert_array_equal(placed, np.nan_to_num(counts))
    assert len(np.unique(vectors, axis=0)) == len(np.unique(energy)) == len(energy)


def test_unknown_frames_and_resolutions_are_refused():
    with pytest.raises(ValueError, match="must be Galactic, ICRS or FK5 J2000; got ECLIPTIC"):
        healpix_pixels(8, True, "ecliptic")
    with pytest.raises(ValueError, match="power of two; got 12"):
        healpix_pixels(12, False, "icrs")


def test_different_seeds_place_photons_differently(rng):
    sky_map = read_map(cube_hdus(poisson_cube(rng)))
    first, second = (all_photons(sky_map, seed)[0] for seed in (0, 1))
    apart = separation_deg(first, second)
    assert 0.01 < apart.mean() < 0.1
    np.testing.assert_array_equal(first, all_photons(sky_map, 0)[0])


def test_a_sky_map_needs_counts_or_events():
    with pytest.raises(ValueError, match="either counts or events"):
        SkyMap()


@pytest.mark.filterwarnings(COARSE)
def test_a_sky_map_can_be_sent_to_another_process(real_data):
    for name in ("crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits", "gc/fermi-3fhl-gc-events.fits.gz"):
        sky_map = read_map(real_data / name)
        again, vectors = pickle.loads(pickle.dumps(sky_map)), all_photons(sky_map)[0]
        np.testing.assert_array_equal(all_photons(again)[0], vectors)
        assert again.covers(vectors[::100]).all()
