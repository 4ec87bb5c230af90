"""Pixels and binned sky maps to test on."""

import numpy as np
import pytest
from conftest import make_wcs
from gammapy.maps import HpxGeom, Map, MapAxis, WcsGeom

from astro_unetloc.cubes import with_axes
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.skymap import SkyMap, pixels_of


def healpix_pixels(nside, nest, frame, numbers=None):
    """HEALPix pixels of the whole sphere or of increasing numbers."""
    region = None if numbers is None else (np.asarray(numbers),)
    return pixels_of(HpxGeom(nside, nest=nest, frame=frame, region=region))


def wcs_pixels(wcs, shape):
    """Pixels of an image (ny, nx)."""
    return pixels_of(WcsGeom(wcs, shape[::-1]))


def image_pixels(n, **options):
    """Pixels of an image of n x n, see `make_wcs`."""
    return wcs_pixels(make_wcs((n, n), **options), (n, n))


def binned_map(counts, pixels, energy_edges, **parts):
    """Sky map of counts (n_energy, n_pixels) or (n_energy, ny, nx)."""
    axis = MapAxis.from_energy_edges(np.asarray(energy_edges, float), unit="GeV")
    geom = with_axes(pixels.geom, [axis])
    counts = Map.from_geom(geom, data=np.reshape(counts, geom.data_shape))
    return SkyMap(counts=counts, energy_edges=np.asarray(energy_edges, float), **parts)


def all_photons(sky_map, seed=0):
    """Unit vectors and energies of all photons of a sky map."""
    chunks = list(sky_map.photons(seed))
    if not chunks:
        return np.empty((0, 3)), np.empty(0)
    return np.concatenate([c.vectors for c in chunks]), np.concatenate([c.energy for c in chunks])


def assert_same_photons(first, second, rtol=1e-12):
    """Check that two sky maps place the same photons, in any order."""
    for one, other in zip(all_photons(first), all_photons(second)):
        np.testing.assert_allclose(np.sort(one, axis=0), np.sort(other, axis=0), rtol, 1e-12)


def refuse(map, match, kind=ValueError, **options):
    """Check that a map cannot be read, with an error of one short line."""
    with pytest.raises(kind, match=match) as caught:
        read_map(map, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
