"""How likely a match is no accident: local densities, chance rates and probabilities."""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.counterparts import MAX_SIGMAS, Positions, find_counterparts
from astro_unetloc.geometry import lonlat_from_vectors, separation_deg

__all__ = ["ChanceRate", "association_probability", "chance_rate"]

# The density at a place is that of so many sources around it, in an ellipse so many times longer
# along Galactic longitude than along latitude: the sources of the plane lie in a band of 1 deg.
# With 5 instead of 60 the rate in the plane comes out at half of what shifts of 3FHL find.
_N_NEIGHBORS = 10
_ELONGATION = 60.0
# Detections are shifted along longitude, both ways, by these multiples of the reach of a match.
# Many detections need fewer shifts: of the multiples every 2nd, 3rd or 4th, and then of the rows.
_STEPS = np.arange(3.0, 43.0, 0.25)
_MAX_SHIFTED = 160_000


@dataclass(frozen=True)
class ChanceRate:
    """How many detections match a source that has nothing to do with them.

    Attributes
    ----------
    density : ndarray (n,)
        Reference sources per square degree around each of n detections.
    probability : ndarray (n,)
        Probability that one of them or more lies near enough to match, if unrelated.
    shifted : float
        Share of detections that match after they are shifted, the mean of all shifts; NaN without
        detections.
    n_shifts : int
        Number of shifts.
    """

    density: np.ndarray
    probability: np.ndarray
    shifted: float
    n_shifts: int

    @property
    def expected(self):
        """Share of detections that match by chance, from the local density; NaN without any."""
        return float(np.mean(self.probability)) if len(self.probability) else np.nan


def chance_rate(left, right, radius_deg, *, by_errors, reach_deg):
    r"""The rate of chance matches, from the density of the reference and from shifts.

    With the density :math:`\rho` around a detection and the mean area A in which its neighbours
    would match, the number of chance matches is Poisson distributed, and one or more has
    the probability :math:`1 - \exp(-\rho A)` (Downes et al. 1986, MNRAS 218, 31, for
    circles). The second way counts the matches of detections that are shifted along Galactic
    longitude, which leaves latitude and thus density what they are.

    Parameters
    ----------
    left, right : Positions
        Detections, and point-like reference sources of the sky around them too.
    radius_deg, by_errors
        As in `find_counterparts`.
    reach_deg : float
        Distance that few matches exceed; neighbours within it may be true and are left out.

    Returns
    -------
    ChanceRate
    """
    right = right[right.is_known]
    density, neighbors, apart = _local_density(left.vectors, right.vectors, reach_deg)
    area = np.full(neighbors.shape, np.pi * radius_deg**2)
    if by_errors:
        area = _match_area(left, right, neighbors, area)
    # Counterparts are brighter and better known than what is near by chance: they do not count.
    mean = np.where(apart, area, 0.0).sum(axis=1) / np.maximum(apart.sum(axis=1), 1)
    expected = density * np.where(apart.any(axis=1), mean, np.pi * radius_deg**2)
    shifted = _shifted_rate(left, right, radius_deg, by_errors, reach_deg)
    return ChanceRate(density, -np.expm1(-expected), *shifted)


def _match_area(left, right, neighbors, area):
    """Areas (n, k) in square degrees in which neighbours would match.

    For ellipses of any orientation the mean determinant of the sum of two covariances is
    det C1 + det C2 + tr C1 tr C2 / 2.
    """
    (trace, determinant), (trace_2, determinant_2) = _invariants(left), _invariants(right)
    total = determinant[:, None] + determinant_2[neighbors]
    total = total + 0.5 * trace[:, None] * trace_2[neighbors]
    return np.where(np.isfinite(total), np.pi * MAX_SIGMAS**2 * np.sqrt(np.abs(total)), area)


def _invariants(positions):
    variance = positions.sigmas**2
    return variance.sum(axis=1), variance.prod(axis=1)


def _local_density(vectors, others, reach_deg):
    """Sources per square degree around directions (n, 3), neighbours and which count (n, k)."""
    from scipy.spatial import KDTree

    n_neighbors = min(_N_NEIGHBORS, len(others))
    if not n_neighbors or not len(vectors):
        nothing = np.zeros((len(vectors), 0), int)
        return np.zeros(len(vectors)), nothing, nothing.astype(bool)
    distance, neighbors = KDTree(_stretched(others)).query(_stretched(vectors), n_neighbors)
    distance = distance.reshape(len(vectors), n_neighbors)
    neighbors = neighbors.reshape(len(vectors), n_neighbors)
    area = _stretched_area(lonlat_from_vectors(vectors)[1], distance[:, -1])
    core = np.pi * reach_deg**2
    # Where many sources lie within the reach of a match, at most one of them is the counterpart.
    crowded = (area < 4 * core) & (n_neighbors == _N_NEIGHBORS)
    apart = separation_deg(vectors[:, None], others[neighbors]) > reach_deg
    apart |= crowded[:, None]
    # The last neighbour defines the area and is not counted: the estimate has no bias then.
    number = np.maximum(apart[:, :-1].sum(axis=1), 0.5)
    area = np.where(crowded, np.maximum(area, 1e-12), np.maximum(area - core, core))
    return number / area, neighbors, apart


def _stretched(vectors):
    """Points (n, 3) whose distance is that on the sky, times the elongation along latitude."""
    lon, lat = (np.radians(value) for value in lonlat_from_vectors(vectors))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), _ELONGATION * lat], -1)


def _stretched_area(lat_deg, distance, n_steps=32):
    """Square degrees of the sky within a distance of places (n,), as `_stretched` measures it."""
    center = np.radians(lat_deg)[:, None]
    half = (distance / _ELONGATION)[:, None]
    low, high = np.maximum(center - half, -np.pi / 2), np.minimum(center + half, np.pi / 2)
    lat = low + (high - low) * (np.arange(n_steps) + 0.5) / n_steps
    left = np.cos(lat) ** 2 + np.cos(center) ** 2 - half**2 * _ELONGATION**2
    left = left + _ELONGATION**2 * (lat - center) ** 2
    cosine = left / np.maximum(2 * np.cos(lat) * np.cos(center), 1e-12)
    width = 2 * np.arccos(np.clip(cosine, -1, 1)) * np.cos(lat)
    return np.degrees(np.degrees((width * (high - low)).mean(axis=1)))


def _shifted_rate(left, right, radius_deg, by_errors, reach_deg):
    """Share of shifted detections that match, and the number of shifts."""
    left = left[left.is_known]
    every = int(np.clip(np.ceil(2 * len(_STEPS) * len(left) / _MAX_SHIFTED), 1, 4))
    steps = np.concatenate([_STEPS[::every], -_STEPS[::every]])
    left = left[:: max(1, -(-len(left) * len(steps) // _MAX_SHIFTED))]
    if not len(left):
        return np.nan, len(steps)
    shifts = np.repeat(np.radians(np.clip(steps * reach_deg, -90.0, 90.0)), len(left))[:, None]
    vectors = np.tile(left.vectors, (len(steps), 1))
    lon = np.radians(lonlat_from_vectors(vectors)[0])
    along = np.stack([-np.sin(lon), np.cos(lon), np.zeros(len(lon))], axis=1)
    ellipse = np.tile(left.ellipse, (len(steps), 1))
    moved = Positions(np.cos(shifts) * vectors + np.sin(shifts) * along, ellipse)
    pairs = find_counterparts(moved, right, radius_deg, by_errors=by_errors)
    share = len(np.unique(pairs.catalog_index[pairs.eligible])) / len(moved)
    return share, len(steps)


def association_probability(pairs, density, n_detections, *, n_rounds=100):
    r"""Probability that each pair is one source, and the share of detections with a counterpart.

    The reliability of Sutherland & Saunders (1992, MNRAS 259, 413): the likelihood ratio of
    a pair is that of the density of offsets of true counterparts and of unrelated sources,

    .. math:: P_j = \frac{L_j}{\sum_i L_i + 1 - Q}, \quad L_i = Q \, f(d_i) / \rho

    with the sum over all candidates of a detection. The share Q of detections that have a
    counterpart in the reference is the mean of their probabilities, found by repetition.

    Parameters
    ----------
    pairs : Counterparts
        p pairs.
    density : ndarray (n,)
        Reference sources per square degree around each detection.
    n_detections : int
        Their number n.
    n_rounds : int
        Repetitions.

    Returns
    -------
    probability : ndarray (p,)
        Of each pair.
    share : float
        Q; never quite 0 or 1, as a detection with a counterpart and one without are added.
    """
    ratio = pairs.offset_density / np.maximum(density[pairs.catalog_index], 1e-12)
    total = np.bincount(pairs.catalog_index, ratio, n_detections)
    share = 0.5
    for _ in range(n_rounds):
        known = share * total / (share * total + 1 - share)
        share = (known.sum() + 1) / (n_detections + 2)
    rest = (1 - share) / share
    return ratio / (total[pairs.catalog_index] + rest), share
