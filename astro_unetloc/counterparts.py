"""Counterparts: pairs of directions near each other, measured in the errors of both.

Directions are Galactic unit vectors; errors are two axes tangent to the sky, in degrees.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.geometry import chord, separation_deg, tangent_axes, tangent_offsets

__all__ = ["Counterparts", "Positions", "find_counterparts", "inside", "near", "one_to_one"]

# A circle of r standard deviations holds 1 - exp(-r**2 / 2) of a Gaussian in two dimensions:
# 95 % of it within the first, 99.9 % within the second.
SIGMAS_95 = np.sqrt(-2 * np.log(0.05))
MAX_SIGMAS = np.sqrt(-2 * np.log(0.001))


@dataclass(frozen=True)
class Positions:
    """n directions and their errors.

    Attributes
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors; far outside the sphere where the position is unknown.
    ellipse : ndarray (n, 3)
        Semi-major and semi-minor axis of the 95 % error ellipse and its position angle, east of
        ICRS north, in degrees; NaN where unknown.
    """

    vectors: np.ndarray
    ellipse: np.ndarray

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, rows):
        return Positions(self.vectors[rows], self.ellipse[rows])

    @property
    def is_known(self):
        """Where the directions are known (n,)."""
        return np.linalg.norm(self.vectors, axis=1) < 2

    @property
    def has_error(self):
        """Where the errors are known (n,)."""
        return np.isfinite(self.ellipse).all(axis=1)

    @property
    def sigmas(self):
        """Standard deviations (n, 2) along both axes in degrees; NaN where unknown."""
        return self.ellipse[:, :2] / SIGMAS_95

    def axes(self, rows):
        """One standard deviation along both axes, as vectors (k, 2, 3) of degrees, of k rows.

        A vector does not turn on the way to another place, as a position angle does near a pole.
        """
        east, north = tangent_axes(self.vectors[rows])
        angle = np.radians(self.ellipse[rows, 2])[:, None]
        major = np.cos(angle) * north + np.sin(angle) * east
        minor = np.cos(angle) * east - np.sin(angle) * north
        return np.stack([major, minor], axis=1) * self.sigmas[rows][:, :, None]


@dataclass(frozen=True)
class Counterparts:
    r"""p pairs of a row of a catalogue and a row of a reference that may be one source.

    The normalized separation is that of de Ruiter, Willis & Arp (1977, A&AS 28, 211), for ellipses:

    .. math:: r^2 = d^T (C_1 + C_2)^{-1} d

    with the offset d and the covariances C of both positions: the axes of the 95 % ellipses,
    divided by :math:`\sqrt{-2 \ln 0.05} = 2.448`. It exceeds r for exp(-r²/2) of true counterparts.

    Attributes
    ----------
    catalog_index, reference_index : ndarray (p,) of int
        Rows of both.
    separation_deg : ndarray (p,)
        Distance in degrees.
    separation_norm : ndarray (p,)
        Normalized separation; NaN where an error ellipse is unknown.
    offset_density : ndarray (p,)
        Probability density of the offset of a true counterpart, per square degree.
    eligible : ndarray (p,) of bool
        Whether the pair is near enough to be a match.
    """

    catalog_index: np.ndarray
    reference_index: np.ndarray
    separation_deg: np.ndarray
    separation_norm: np.ndarray
    offset_density: np.ndarray
    eligible: np.ndarray


def find_counterparts(left, right, radius_deg, *, by_errors):
    """All pairs within the radius or, if asked for, the errors of both.

    Parameters
    ----------
    left, right : Positions
        n and m directions.
    radius_deg : float
        Pairs within it are listed. It is the limit of eligible ones where an error is unknown, or
        of all without ``by_errors``; where an error is unknown it stands for 95 %.
    by_errors : bool
        Whether pairs of known errors are eligible up to a normalized separation of 3.72, which
        99.9 % of true counterparts keep, and listed up to there.

    Returns
    -------
    Counterparts
    """
    rows, columns, angle = _pairs_in_reach(left, right, radius_deg, by_errors)
    norm = np.full(len(rows), np.nan)
    area = np.full(len(rows), (radius_deg / SIGMAS_95) ** 2)
    known = left.has_error[rows] & right.has_error[columns]
    norm[known], area[known] = _normalized(left, right, rows[known], columns[known])
    distance = np.where(known, norm, angle / (radius_deg / SIGMAS_95))
    eligible = _within(angle, radius_deg)
    if by_errors:
        eligible = np.where(known, norm <= MAX_SIGMAS, eligible)
    keep = eligible | _within(angle, radius_deg)
    density = np.exp(-0.5 * distance**2) / (2 * np.pi * area)
    parts = (rows, columns, angle, norm, density, eligible)
    return Counterparts(*(part[keep] for part in parts))


def _normalized(left, right, rows, columns):
    """Normalized separations and square roots of the determinants of the covariances (deg2)."""
    center = left.vectors[rows]
    east, north = tangent_axes(center)
    x, y = tangent_offsets(center, east, north, right.vectors[columns])
    axes = np.concatenate([left.axes(rows), right.axes(columns)], axis=1)
    u, v = np.einsum("pax,px->pa", axes, east), np.einsum("pax,px->pa", axes, north)
    xx, xy, yy = (u * u).sum(axis=1), (u * v).sum(axis=1), (v * v).sum(axis=1)
    determinant = xx * yy - xy**2
    square = (yy * x**2 - 2 * xy * x * y + xx * y**2) / determinant
    return np.sqrt(np.maximum(square, 0.0)), np.sqrt(determinant)


def _pairs_in_reach(left, right, radius_deg, by_errors):
    """Pairs within the radius or the reach of both errors; one search for errors of like size."""
    if not by_errors:
        return near(left.vectors, right.vectors, radius_deg)
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    for rows, size in _by_size(left):
        for columns, other_size in _by_size(right):
            reach = max(radius_deg, MAX_SIGMAS * np.hypot(size, other_size))
            i, j, angle = near(left.vectors[rows], right.vectors[columns], reach)
            found.append((rows[i], columns[j], angle))
    return tuple(np.concatenate(parts) for parts in zip(*found))


def _by_size(positions):
    """Groups of rows whose errors are alike within a factor 2, and their largest."""
    size = np.nan_to_num(np.where(positions.has_error, positions.sigmas[:, 0], 0.0))
    group = np.ceil(np.log2(np.maximum(size, 0.01)))
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        yield rows, size[rows].max()


def near(left, right, radius_deg):
    """All pairs of unit vectors (n, 3) and (m, 3) within a radius: rows and distance in degrees."""
    from scipy.spatial import KDTree

    if not len(left) or not len(right):
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    # The margin keeps a pair at exactly the radius; the cut below decides.
    pairs = KDTree(left).sparse_distance_matrix(
        KDTree(right), chord(radius_deg) + 1e-12, output_type="coo_matrix"
    )
    rows, columns = pairs.row.astype(int), pairs.col.astype(int)
    angle = separation_deg(left[rows], right[columns])
    keep = _within(angle, radius_deg)
    return rows[keep], columns[keep], angle[keep]


def _within(angle_deg, radius_deg):
    return angle_deg <= radius_deg + 1e-10


def one_to_one(rows, columns, order):
    """Of pairs (p,) those that take each row and column once, the first in ``order`` first.

    Parameters
    ----------
    rows, columns : ndarray (p,) of int
        The pairs.
    order : ndarray (q,) of int
        Pairs that may be taken, the best first.

    Returns
    -------
    ndarray of int
        The pairs taken, in that order.
    """
    rank = np.arange(len(order))
    taken = [np.zeros(0, int)]
    while len(rank):
        i, j = rows[order[rank]], columns[order[rank]]
        # A pair that is the first of both its row and its column is taken whatever follows.
        first = np.zeros(len(rank), bool)
        first[np.unique(i, return_index=True)[1]] = True
        first_of_column = np.unique(j, return_index=True)[1]
        best = first_of_column[first[first_of_column]]
        taken.append(rank[best])
        rank = rank[~(np.isin(i, i[best]) | np.isin(j, j[best]))]
    return order[np.sort(np.concatenate(taken))]


def inside(vectors, centers, reach_deg):
    """All pairs of directions (n, 3) within the reach (m,) of centres (m, 3), nearest first.

    Returns
    -------
    rows, columns : ndarray (p,) of int
        Direction and centre of each pair, sorted by direction and then by distance.
    separation_deg : ndarray (p,)
        Their distances.
    """
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    # One search for all centres of the same reach.
    for reach in np.unique(reach_deg):
        group = np.flatnonzero(reach_deg == reach)
        rows, columns, angle = near(vectors, centers[group], reach)
        found.append((rows, group[columns], angle))
    rows, columns, angle = (np.concatenate(parts) for parts in zip(*found))
    order = np.lexsort((columns, angle, rows))
    return rows[order], columns[order], angle[order]
