"""Directions and frames on the sphere as plain arrays.

Directions are unit vectors in Galactic coordinates with shape (..., 3) throughout the package;
angles are in degrees.
"""

from functools import lru_cache

import numpy as np

# Area of the whole sky in square degrees.
SKY_DEG2 = 4 * np.pi * np.degrees(1.0) ** 2
# Between successive points of a spiral that is even on a disc.
GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


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
    """Angle in degrees between unit vectors, exact for small angles too."""
    chord = np.linalg.norm(np.asarray(vectors_1) - np.asarray(vectors_2), axis=-1)
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def chord(angle_deg):
    """Euclidean distance between unit vectors at an angle in degrees."""
    return 2 * np.sin(np.radians(np.minimum(angle_deg, 180.0)) / 2)


def healpix_centers(nside, pixels, *, nest):
    """Unit vectors (n, 3) of the centres of HEALPix pixels."""
    import healpy

    return np.stack(healpy.pix2vec(nside, pixels, nest=nest), axis=-1)


def quick_tree(vectors):
    """KDTree of many directions, which is made faster than it is searched."""
    from scipy.spatial import KDTree

    return KDTree(vectors, compact_nodes=False, balanced_tree=False)


def neighbors(left, right, radius_deg):
    """All pairs of unit vectors (n, 3) and (m, 3) within a radius: rows of both and distances.

    Directions that are not finite have no neighbours; distances are in degrees.
    """
    from scipy.spatial import KDTree

    known = [np.flatnonzero(np.isfinite(side).all(axis=1)) for side in (left, right)]
    if not all(map(len, known)):
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    trees = (KDTree(side[rows]) for side, rows in zip((left, right), known))
    # The margin keeps a pair at exactly the radius; the angle decides below.
    pairs = next(trees).sparse_distance_matrix(
        next(trees), chord(radius_deg) + 1e-12, output_type="coo_matrix"
    )
    rows, columns = known[0][pairs.row], known[1][pairs.col]
    angle = separation_deg(left[rows], right[columns])
    keep = angle <= radius_deg + 1e-10
    return rows[keep], columns[keep], angle[keep]


def circle_in_disc(offset, radius, disc):
    """Fraction of the circumference of circles at an offset from the origin inside a disc there."""
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (offset**2 + radius**2 - disc**2) / (2 * offset * radius)
    cosine = np.where(offset * radius > 0, cosine, np.where(offset + radius < disc, -1.0, 1.0))
    return np.arccos(np.clip(cosine, -1.0, 1.0)) / np.pi


@lru_cache(maxsize=8)
def frame_rotation(frame):
    """Matrix R (3, 3), read-only, with ``v_galactic = v_frame @ R.T`` for icrs, fk5 or galactic."""
    matrix = np.eye(3)
    if frame != "galactic":
        import astropy.units as u
        from astropy.coordinates import SkyCoord

        axes = SkyCoord([0, 90, 0] * u.deg, [0, 0, 90] * u.deg, frame=frame).galactic
        matrix = np.array(axes.cartesian.xyz.value)
    matrix.flags.writeable = False  # all callers share it
    return matrix


def rotate(vectors, matrix):
    """Vectors (..., 3) in other axes: ``vectors @ matrix.T`` without BLAS.

    For 2 million vectors on a busy machine the threads of BLAS took 0.6 s and this takes 0.05 s;
    the last bit of BLAS depends on the number of vectors.
    """
    if np.array_equal(matrix, np.eye(3)):
        return vectors
    x, y, z = np.moveaxis(vectors, -1, 0)
    rotated = np.empty(vectors.shape)
    for axis, row in enumerate(matrix):
        rotated[..., axis] = row[0] * x + row[1] * y + row[2] * z
    return rotated


def tangent_axes(vectors):
    """Unit vectors (n, 3) towards ICRS east and north at directions (n, 3)."""
    pole = frame_rotation("icrs")[:, 2]
    east = np.cross(pole, vectors)
    norm = np.linalg.norm(east, axis=1, keepdims=True)
    # at a celestial pole east is arbitrary
    east = np.where(norm > 1e-9, east / np.maximum(norm, 1e-9), frame_rotation("icrs")[:, 1])
    return east, np.cross(vectors, east)


def tangent_offsets(center, east, north, vectors):
    """Offsets in degrees east and north of centres (..., 3), on their tangent planes."""
    depth = np.maximum(np.einsum("...i,...i->...", center, vectors), 1e-3)
    scale = np.degrees(1.0) / depth
    return (
        np.einsum("...i,...i->...", east, vectors) * scale,
        np.einsum("...i,...i->...", north, vectors) * scale,
    )


def move(vectors, east, north, x_deg, y_deg):
    """Unit vectors (..., 3) at offsets (...) in degrees on tangent planes, broadcast together."""
    x, y = np.radians(x_deg)[..., None], np.radians(y_deg)[..., None]
    moved = vectors + x * east + y * north
    return moved / np.linalg.norm(moved, axis=-1, keepdims=True)


def ragged_ranges(first, last):
    """Concatenated ranges ``first[i] ... last[i] - 1``, and the i of each number."""
    n = last - first
    which = np.repeat(np.arange(len(n)), n)
    return np.arange(n.sum()) + np.repeat(first - np.cumsum(n) + n, n), which
