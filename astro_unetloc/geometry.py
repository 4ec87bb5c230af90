"""Directions, frames, tangent planes and the grid of patches, as plain arrays.

Directions are unit vectors in Galactic coordinates with shape (..., 3) throughout the package;
angles are degrees.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from astro_unetloc.config import GridConfig

__all__ = [
    "SKY_DEG2",
    "PatchGrid",
    "TangentPlane",
    "chord",
    "circle_in_disc",
    "frame_rotation",
    "lonlat_from_vectors",
    "move",
    "separation_deg",
    "tangent_axes",
    "tangent_offsets",
    "vectors_from_lonlat",
]

# The whole sky in square degrees.
SKY_DEG2 = 4 * np.pi * np.degrees(1.0) ** 2


def vectors_from_lonlat(lon_deg, lat_deg):
    """Unit vectors, shape (..., 3), of directions in degrees, broadcast against each other."""
    lon, lat = np.broadcast_arrays(np.radians(lon_deg), np.radians(lat_deg))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def lonlat_from_vectors(vectors):
    """Longitude in [0, 360) and latitude in degrees of vectors (..., 3)."""
    x, y, z = np.moveaxis(np.asarray(vectors, dtype=float), -1, 0)
    lon = np.degrees(np.arctan2(y, x)) % 360.0
    lon = np.where(lon == 360.0, 0.0, lon)  # % rounds up to its divisor
    return lon, np.degrees(np.arctan2(z, np.hypot(x, y)))


def separation_deg(vectors_1, vectors_2):
    """Angle in degrees between unit vectors; exact for small angles too."""
    chord = np.linalg.norm(np.asarray(vectors_1) - np.asarray(vectors_2), axis=-1)
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def chord(angle_deg):
    """Distance of unit vectors at an angle of up to 180 degrees."""
    return 2 * np.sin(np.radians(np.minimum(angle_deg, 180.0)) / 2)


def circle_in_disc(offset, radius, disc):
    """Part of circles of a radius around an offset point that lies inside a disc at the origin.

    All in one unit, in a plane, and broadcast against each other.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (offset**2 + radius**2 - disc**2) / (2 * offset * radius)
    cosine = np.where(offset * radius > 0, cosine, np.where(offset + radius < disc, -1.0, 1.0))
    return np.arccos(np.clip(cosine, -1.0, 1.0)) / np.pi


@lru_cache(maxsize=8)
def frame_rotation(frame):
    """Matrix R of shape (3, 3) with ``v_galactic = v_frame @ R.T``; read-only.

    Parameters
    ----------
    frame : str
        Name of an astropy frame without time dependence: "galactic", "icrs", "fk5".

    Returns
    -------
    ndarray (3, 3)

    Raises
    ------
    ValueError
        If astropy does not know the frame.
    """
    matrix = np.eye(3)
    if frame != "galactic":
        import astropy.units as u
        from astropy.coordinates import SkyCoord

        axes = SkyCoord([0, 90, 0] * u.deg, [0, 0, 90] * u.deg, frame=frame).galactic
        matrix = np.array(axes.cartesian.xyz.value)
    matrix.flags.writeable = False  # it is shared by all callers
    return matrix


@dataclass(frozen=True)
class TangentPlane:
    """A gnomonic (TAN) image on the sky; pixels are 0-based with centres at integers.

    Attributes
    ----------
    lon_deg, lat_deg : float
        Galactic coordinates of the centre.
    n_pix : int
        Pixels per side.
    pixel_deg : float
        Pixel scale at the centre.
    rotation_deg : float
        Angle from the +y axis of the image to Galactic north, clockwise in the image (towards +x,
        which is west where the angle is 0).
    """

    lon_deg: float
    lat_deg: float
    n_pix: int
    pixel_deg: float
    rotation_deg: float = 0.0

    @cached_property
    def basis(self):
        """Rows: unit vectors along +x, +y and towards the centre, shape (3, 3)."""
        lon, lat, angle = np.radians([self.lon_deg, self.lat_deg, self.rotation_deg])
        east = np.array([-np.sin(lon), np.cos(lon), 0.0])
        north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
        center = vectors_from_lonlat(self.lon_deg, self.lat_deg)
        x_axis = np.sin(angle) * north - np.cos(angle) * east
        y_axis = np.cos(angle) * north + np.sin(angle) * east
        return np.stack([x_axis, y_axis, center])

    def pixel_from_vectors(self, vectors):
        """Pixel coordinates x, y of directions (..., 3); NaN beyond 90 deg from the centre."""
        # sums of products: BLAS takes nine times as long for a million rows of three, and its last
        # bit depends on their number
        u, v, w = np.moveaxis(np.asarray(vectors, dtype=float), -1, 0)
        xi, eta, depth = (a * u + b * v + c * w for a, b, c in self.basis)
        depth = np.where(depth > 1e-9, depth, np.nan)
        scale = 1.0 / np.radians(self.pixel_deg)
        offset = (self.n_pix - 1) / 2
        return xi / depth * scale + offset, eta / depth * scale + offset

    def vectors_from_pixel(self, x, y):
        """Unit vectors (..., 3) of pixel coordinates."""
        scale, offset = np.radians(self.pixel_deg), (self.n_pix - 1) / 2
        xi, eta = ((np.asarray(pixel, dtype=float) - offset) * scale for pixel in (x, y))
        vectors = np.stack([a * xi + b * eta + c for a, b, c in self.basis.T], axis=-1)
        return vectors / np.sqrt(1 + xi**2 + eta**2)[..., None]

    @property
    def half_diagonal_deg(self):
        """Angle from the centre to the corners in degrees."""
        return float(np.degrees(np.arctan(np.radians(self.pixel_deg * self.n_pix / np.sqrt(2)))))

    @property
    def pixel_vectors(self):
        """Unit vectors of all pixel centres, shape (n_pix, n_pix, 3), indexed [y, x]."""
        y, x = np.mgrid[: self.n_pix, : self.n_pix].astype(float)
        return self.vectors_from_pixel(x, y)

    @property
    def wcs(self):
        """The same projection as an `astropy.wcs.WCS`."""
        from astropy.wcs import WCS

        angle = np.radians(self.rotation_deg)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
        wcs.wcs.crval = [self.lon_deg, self.lat_deg]
        wcs.wcs.crpix = [(self.n_pix + 1) / 2] * 2
        wcs.wcs.cdelt = [-self.pixel_deg, self.pixel_deg]
        wcs.wcs.lonpole = 180.0  # north is up at the very pole too, where FITS would turn it
        wcs.wcs.pc = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return wcs


@dataclass(frozen=True)
class PatchGrid:
    """The patches that tile the sky; every direction is owned by its nearest centre."""

    config: GridConfig = GridConfig()

    @property
    def n_patches(self):
        """Number of patches on the sky."""
        return 12 * self.config.nside**2

    @property
    def centers(self):
        """Unit vectors of the patch centres, shape (n_patches, 3)."""
        return _patch_centers(self.config.nside)

    def owner(self, vectors):
        """Patch index of each direction (..., 3): the nearest centre."""
        return _center_tree(self.config.nside).query(vectors)[1]

    def border_distance_deg(self, vectors, patch):
        """How far directions (..., 3) lie outside the cell owned by ``patch`` (negative inside).

        The distance in degrees to the farthest of the great circles that bound the cell; beyond a
        corner of the cell the corner itself is farther.
        """
        tree = _center_tree(self.config.nside)
        _, nearest = tree.query(vectors, k=8)
        own = self.centers[patch]
        towards = self.centers[nearest] - own
        norm = np.linalg.norm(towards, axis=-1)
        offset = np.einsum("...i,...ki->...k", vectors, towards) / np.where(norm > 0, norm, np.inf)
        offset = np.where(norm > 0, offset, -1.0)
        return np.degrees(np.arcsin(np.clip(offset.max(axis=-1), -1, 1)))

    def plane(self, patch):
        """The padded `TangentPlane` that is read for a patch."""
        lon, lat = lonlat_from_vectors(self.centers[patch])
        return TangentPlane(float(lon), float(lat), self.config.read_pixels, self.config.pixel_deg)


@lru_cache(maxsize=4)
def _patch_centers(nside):
    import healpy

    centers = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2), nest=False), axis=-1)
    centers.flags.writeable = False  # they are shared by all callers
    return centers


@lru_cache(maxsize=4)
def _center_tree(nside):
    from scipy.spatial import KDTree

    return KDTree(_patch_centers(nside))


def tangent_axes(vectors):
    """Unit vectors towards ICRS east and north at directions (n, 3)."""
    pole = frame_rotation("icrs")[:, 2]
    east = np.cross(pole, vectors)
    norm = np.linalg.norm(east, axis=1, keepdims=True)
    # at a pole of the sky any direction is east
    east = np.where(norm > 1e-9, east / np.maximum(norm, 1e-9), frame_rotation("icrs")[:, 1])
    return east, np.cross(vectors, east)


def tangent_offsets(center, east, north, vectors):
    """Degrees east and north of centres on their tangent planes; arrays (..., 3)."""
    depth = np.maximum(np.einsum("...i,...i->...", center, vectors), 1e-3)
    scale = np.degrees(1.0) / depth
    return (
        np.einsum("...i,...i->...", east, vectors) * scale,
        np.einsum("...i,...i->...", north, vectors) * scale,
    )


def move(vectors, east, north, x_deg, y_deg):
    """Unit vectors (n, 3) of offsets in degrees on the tangent planes of directions (n, 3)."""
    moved = vectors + np.radians(x_deg)[:, None] * east + np.radians(y_deg)[:, None] * north
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)
