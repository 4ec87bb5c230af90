import gzip
import io

import healpy
import numpy as np
import pytest
from astropy.io import fits

from astro_unetloc.maps.photons import Photons
from astro_unetloc.maps.read import read_map
from astro_unetloc.simulation.files import counts_cube_bytes, events_bytes, healpix_cube_bytes
from astro_unetloc.simulation.sky import counts_cube, healpix_cube, inside_image
from astro_unetloc.sphere import vectors_from_lonlat

EDGES = np.array([10.0, 30.0, 100.0])


def photons_at(lon, lat, energy):
    return Photons(
        vectors_from_lonlat(np.array(lon, float), np.array(lat, float)), np.array(energy)
    )


def make_cube(lon=(0.05, -0.05, 0.05, 180.0), lat=(0.05, 0.05, 0.05, 0.0), energy=(15, 15, 50, 15)):
    return counts_cube(
        photons_at(lon, lat, energy), EDGES, center=(0.0, 0.0), width_deg=4.0, pixel_deg=0.1
    )


def test_photons_fall_into_their_pixel_and_bin():
    counts, wcs = make_cube()
    assert counts.shape == (2, 40, 40)
    assert counts.sum() == 3  # the photon on the far side of the sky is left out
    # longitude increases to the left: pixel 19 is left of the centre
    assert counts[0, 20, 19] == counts[0, 20, 20] == counts[1, 20, 19] == 1
    lon, lat = wcs.wcs_pix2world(19, 20, 0)
    assert (float(lon), float(lat)) == pytest.approx((0.05, 0.05), abs=1e-6)


@pytest.mark.parametrize("center", [(0.0, 0.0), (123.0, 89.0), (359.9, -45.0)])
def test_cube_that_was_written_reads_with_every_photon(tmp_path, center, rng):
    lon, lat = center
    vectors = vectors_from_lonlat(lon, lat) + rng.normal(0, 0.02, (500, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    photons = Photons(vectors, rng.uniform(10, 100, 500))
    counts, wcs = counts_cube(photons, EDGES, center=center, width_deg=10.0, pixel_deg=0.1)
    (tmp_path / "map.fits").write_bytes(counts_cube_bytes(counts, wcs, EDGES))
    sky_map = read_map(tmp_path / "map.fits")
    assert sky_map.n_photons == counts.sum() == 500
    np.testing.assert_allclose(sky_map.energy_edges, EDGES, rtol=1e-6)
    placed = np.concatenate([p.vectors for p in sky_map.photons(0)])
    assert np.linalg.norm(placed.mean(axis=0) - vectors.mean(axis=0)) < 0.001


def test_gammapy_reads_the_cube(tmp_path):
    from gammapy.maps import Map

    counts, wcs = make_cube()
    (tmp_path / "map.fits").write_bytes(counts_cube_bytes(counts, wcs, EDGES))
    read = Map.read(tmp_path / "map.fits")
    np.testing.assert_array_equal(read.data, counts)
    assert read.geom.frame == "galactic"
    np.testing.assert_allclose(read.geom.axes[0].edges.to_value("GeV"), EDGES, rtol=1e-6)


def test_same_cube_is_the_same_file_even_when_compressed():
    counts, wcs = make_cube()
    first, again = (counts_cube_bytes(counts, wcs, EDGES, compress=True) for _ in range(2))
    assert first == again
    assert gzip.decompress(first) == counts_cube_bytes(counts, wcs, EDGES)


def test_keywords_come_into_the_header():
    counts, wcs = make_cube()
    content = counts_cube_bytes(counts, wcs, EDGES, keywords={"SEED": 7})
    with fits.open(io.BytesIO(content)) as hdus:
        assert hdus[0].header["SEED"] == 7
        assert hdus[0].header["DSVAL1"] == "10000:100000"
        np.testing.assert_allclose(hdus["EBOUNDS"].data["E_MIN"], EDGES[:-1] * 1e6)
        hdus.verify("exception")


def test_positions_inside_an_image():
    _, wcs = make_cube()
    vectors = vectors_from_lonlat([0.0, 1.9, 2.1, 0.0, 180.0], [0.0, 1.9, 0.0, -3.0, 0.0])
    assert inside_image(wcs, (40, 40), vectors).tolist() == [True, True, False, False, False]


# HEALPix cubes and events with their origin


def test_photons_fall_into_their_healpix_pixel_and_bin():
    photons = photons_at([3, 3, 90, 200], [2, 2, 45, -60], [15.0, 50.0, 15.0, 200.0])
    counts = healpix_cube(photons, EDGES, 16)
    assert counts.shape == (2, 12 * 16**2)
    assert counts.sum() == 3  # one lies above the energies
    assert counts[:, healpy.ang2pix(16, 3, 2, lonlat=True)].tolist() == [1, 1]
    assert counts[0, healpy.ang2pix(16, 90, 45, lonlat=True)] == 1


@pytest.mark.parametrize("largest", [3, 40_000])
def test_healpix_cube_that_was_written_reads_with_every_photon(tmp_path, largest):
    counts = np.zeros((2, 12 * 32**2), np.int32)
    counts[1, 77], counts[0, 5] = largest, 2
    path = tmp_path / "cube.fits"
    path.write_bytes(healpix_cube_bytes(counts, EDGES, keywords={"SEED": 4}))
    with pytest.warns(match="coarser than"):
        sky_map = read_map(path)
    np.testing.assert_array_equal(sky_map.counts, counts)
    np.testing.assert_allclose(sky_map.energy_edges, EDGES, rtol=1e-6)
    centers = sky_map.pixels.centers(np.array([77]))
    np.testing.assert_allclose(centers[0], healpy.pix2vec(32, 77, nest=False), atol=1e-12)
    assert fits.getheader(path, 1)["SEED"] == 4


def test_events_may_say_their_source():
    photons = photons_at([0, 10], [0, 5], [15.0, 50.0])
    content = events_bytes(photons, EDGES[[0, -1]], source_id=[-1, 7], keywords={"SEED": 4})
    with fits.open(io.BytesIO(content)) as hdus:
        assert hdus["EVENTS"].data["MC_SRC_ID"].tolist() == [-1, 7]
        assert hdus["EVENTS"].header["SEED"] == 4
    with fits.open(io.BytesIO(events_bytes(photons, EDGES[[0, -1]]))) as hdus:
        assert "MC_SRC_ID" not in hdus["EVENTS"].columns.names
