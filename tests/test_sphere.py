import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.maps.patches import PatchGrid
from astro_unetloc.sphere import (
    frame_rotation,
    lonlat_from_vectors,
    move,
    neighbors,
    separation_deg,
    tangent_axes,
    vectors_from_lonlat,
)

properties = settings(derandomize=True, deadline=None, max_examples=100)
longitudes = st.floats(0, 360) | st.sampled_from([0.0, 1e-9, 90.0, 180.0, 359.9999999, 360.0])
latitudes = st.floats(-90, 90) | st.sampled_from([-90.0, -89.9999, 0.0, 89.9999, 90.0])


def test_directions_of_known_coordinates():
    vectors = vectors_from_lonlat([0, 90, 123], [0, 0, 90])
    np.testing.assert_allclose(vectors, np.eye(3), atol=1e-15)
    lon, lat = lonlat_from_vectors([[0, -1, 0], [-1, 0, 0], [0, 0, -1]])
    np.testing.assert_allclose(lon, [270, 180, 0], atol=1e-12)
    np.testing.assert_allclose(lat, [0, 0, -90], atol=1e-12)
    assert lonlat_from_vectors([1.0, -1e-20, 0.0])[0] == 0  # never 360


@properties
@given(lon=longitudes, lat=latitudes)
def test_coordinates_come_back_from_vectors(lon, lat):
    vector = vectors_from_lonlat(lon, lat)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-15)
    again = lonlat_from_vectors(vector)
    assert 0 <= again[0] < 360
    assert separation_deg(vector, vectors_from_lonlat(*again)) < 1e-12


def test_small_and_large_separations_are_exact():
    one = vectors_from_lonlat(10.0, 0.0)
    np.testing.assert_allclose(separation_deg(one, vectors_from_lonlat(10 + 1e-7, 0.0)), 1e-7)
    np.testing.assert_allclose(separation_deg(one, vectors_from_lonlat(190.0, 0.0)), 180)
    np.testing.assert_allclose(separation_deg(one, vectors_from_lonlat([100.0, 70], 0.0)), [90, 60])


@pytest.mark.parametrize("frame", ["galactic", "icrs", "fk5"])
def test_frames_rotate_as_in_astropy(frame):
    from astropy.coordinates import SkyCoord

    lon, lat = np.array([0.0, 83.6, 266.4, 359.9]), np.array([0.0, 22.0, -29.0, 89.9])
    expected = SkyCoord(lon, lat, unit="deg", frame=frame).galactic
    vectors = vectors_from_lonlat(lon, lat) @ frame_rotation(frame).T
    there = vectors_from_lonlat(expected.l.deg, expected.b.deg)
    assert separation_deg(vectors, there).max() < 1e-9
    np.testing.assert_allclose(
        frame_rotation(frame) @ frame_rotation(frame).T, np.eye(3), atol=1e-12
    )


def test_shared_matrices_cannot_be_changed_and_an_unknown_frame_is_refused():
    for shared in (frame_rotation("icrs"), PatchGrid().centers):
        with pytest.raises(ValueError, match="read-only"):
            shared[0] = 0
    with pytest.raises(ValueError, match="ecliptik"):
        frame_rotation("ecliptik")


def test_neighbors_are_all_pairs_within_the_radius_itself_included():
    left = vectors_from_lonlat(np.array([0.0, 50.0, np.nan, 100.0]), 0.0)
    right = vectors_from_lonlat(np.array([0.25, 50.3, 100.1, 99.9, np.nan]), 0.0)
    rows, columns, angle = neighbors(left, right, 0.25)
    order = np.argsort(columns)
    assert (rows[order].tolist(), columns[order].tolist()) == ([0, 3, 3], [0, 2, 3])
    np.testing.assert_allclose(angle[order], [0.25, 0.1, 0.1])
    assert [len(part) for part in neighbors(left[:0], right, 1.0)] == [0, 0, 0]


def test_offsets_are_east_and_north_in_icrs():
    vectors = vectors_from_lonlat(np.array([30.0, 200.0]), np.array([-20.0, 70.0]))
    vectors = vectors @ frame_rotation("icrs").T
    moved = move(vectors, *tangent_axes(vectors), np.array([0.1, 0.0]), np.array([0.0, 0.1]))
    lon = np.array([30.0 + 0.1 / np.cos(np.radians(20)), 200.0])
    expected = vectors_from_lonlat(lon, np.array([-20.0, 70.1]))
    assert np.all(separation_deg(moved @ frame_rotation("icrs"), expected) < 1e-4)


def test_the_pole_of_the_sky_has_axes_too():
    pole = frame_rotation("icrs")[:, 2][None]
    east, north = tangent_axes(pole)
    products = east[0] @ east[0], north[0] @ north[0], east[0] @ north[0], east[0] @ pole[0]
    np.testing.assert_allclose(products, [1, 1, 0, 0], atol=1e-9)
