"""Counterparts: pairs of directions near each other, measured in the errors of both.

Directions are Galactic unit vectors; errors are two axes tangent to the sky, in degrees.

How likely a match is no accident: local densities, chance rates and probabilities.

What a match found: pairs, what has no partner, words, completeness and tables to write.

Matching a catalogue to another one: which sources are found, which detections are known.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.catalog.columns import MATCH_COLUMNS
from astro_unetloc.catalog.read import as_reference, catalog_name
from astro_unetloc.catalog.table import (
    confidence_ellipses,
    degrees,
    flux_column,
    galactic_vectors,
    numbers,
    texts,
    with_match_columns,
)
from astro_unetloc.exceptions import InputError
from astro_unetloc.sphere import (
    chord,
    lonlat_from_vectors,
    separation_deg,
    tangent_axes,
    tangent_offsets,
)

__all__ = [
    "ChanceRate",
    "Counterparts",
    "MatchResult",
    "Positions",
    "association_probability",
    "chance_rate",
    "find_counterparts",
    "inside",
    "inside_extended",
    "is_known",
    "match_catalogs",
    "near",
    "one_to_one",
]


MATCH_RADIUS_DEG = 0.3


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


# Associations of the Fermi-LAT catalogues have this probability or a higher one (arXiv:1902.10045).
_RELIABLE = 0.8


@dataclass(frozen=True)
class MatchResult:
    """Which rows of a catalogue of n rows and of a reference of m rows belong together.

    Attributes
    ----------
    catalog_index, reference_index : ndarray (k,) of int
        Rows of the one-to-one matches with point-like reference sources, by descending ``Score``.
    separation_deg : ndarray (k,)
        Their distances in degrees.
    separation_norm : ndarray (k,)
        Their distances in standard deviations of both positions; NaN where an error is unknown.
    probability : ndarray (k,)
        Probability that they are the same source.
    catalog_inside, reference_inside : ndarray (j,) of int
        Rows of the other detections that lie in an extended reference source, and of that source.
    inside_separation_deg : ndarray (j,)
        Distances to its centre in degrees.
    catalog_unmatched : ndarray of int
        Detections that are neither matched nor inside an extended source.
    reference_unmatched : ndarray of int
        Point-like reference sources that are not matched.
    extended : ndarray of int
        Rows of the extended reference sources, which take no part in the one-to-one match.
    candidates : Counterparts
        All pairs near enough to be listed, matched or not, extended sources included.
    candidate_probability : ndarray (p,)
        Probability of each of them; NaN for extended sources.
    chance : ChanceRate
        How many unrelated detections would match.
    n_catalog, n_reference : int
        Number of rows of both.
    radius_deg : float
        Largest distance of a match, where the errors do not decide.
    by_errors : bool
        Whether the errors of both positions decide where they are known.
    reference_names : ndarray (m,) of str
        Names of the reference sources.
    reference_flux : ndarray (m,)
        Their fluxes as the reference gives them; NaN where unknown.
    reference_name : str
        Name of the reference catalogue.
    """

    catalog_index: np.ndarray
    reference_index: np.ndarray
    separation_deg: np.ndarray
    separation_norm: np.ndarray
    probability: np.ndarray
    catalog_inside: np.ndarray
    reference_inside: np.ndarray
    inside_separation_deg: np.ndarray
    catalog_unmatched: np.ndarray
    reference_unmatched: np.ndarray
    extended: np.ndarray
    candidates: Counterparts
    candidate_probability: np.ndarray
    chance: ChanceRate
    n_catalog: int
    n_reference: int
    radius_deg: float
    by_errors: bool
    reference_names: np.ndarray
    reference_flux: np.ndarray
    reference_name: str

    @property
    def n_matched(self):
        """Number of one-to-one matches."""
        return len(self.catalog_index)

    def summary(self):
        """What was found, in words.

        Returns
        -------
        str
            A few lines.
        """
        n_point = self.n_reference - len(self.extended)
        n_known = self.n_catalog - len(self.catalog_unmatched)
        found, known = _share(self.n_matched, n_point), _share(n_known, self.n_catalog)
        rule = f"<= {self.radius_deg:g} deg"
        if self.by_errors:
            rule = f"<= {MAX_SIGMAS:.2f} sigma, or {rule} where an error is unknown"
        lines = [
            f"{found} point-like {self.reference_name} sources found ({rule}).",
            f"{known} detections known, {len(self.catalog_inside)} of them in extended sources.",
        ]
        if self.n_matched:
            lines += self._quality()
        if self.n_catalog:
            lines.append(
                f"By chance {_percent(self.chance.expected)} of unrelated detections would match "
                f"(from the local density); {_percent(self.chance.shifted)} do when shifted "
                f"({self.chance.n_shifts} shifts)."
            )
        if len(self.extended):
            n_seen = len(np.unique(self.reference_inside))
            apart = f"{len(self.extended)} extended sources, {n_seen} with a detection inside"
            lines.append(f"Listed apart: {apart} that matches no point-like one.")
        return "\n".join([*lines, *self._completeness_lines()])

    def _quality(self):
        """Lines on how near the matches are and how likely they are true."""
        norm = self.separation_norm[np.isfinite(self.separation_norm)]
        sigma = f", {np.median(norm):.2f} sigma" if len(norm) else ""
        n_sure = int((self.probability >= _RELIABLE).sum())
        return [
            f"Median distance of the matches: {np.median(self.separation_deg):.3f} deg{sigma}.",
            f"{_share(n_sure, self.n_matched)} matches have an association probability of "
            f"{_RELIABLE:g} or more; {np.sum(1 - self.probability):.1f} of all are expected to "
            "be false.",
        ]

    def _completeness_lines(self):
        table = self.completeness()
        if not len(table):
            return []
        rows = zip(table["Flux_Min"], table["Flux_Max"], table["N_Found"], table["N"])
        return ["Found by flux, as the reference gives it:"] + [
            f"  {low:8.2g} - {high:<8.2g} {_share(found, number)}"
            for low, high, found, number in rows
        ]

    def completeness(self, edges=None):
        """How many of the point-like reference sources were found, by their flux.

        Parameters
        ----------
        edges : array_like (b + 1,), optional
            Edges of the bins of flux, in the unit of the reference; half decades by default.

        Returns
        -------
        QTable
            For each bin that holds a source ``Flux_Min``, ``Flux_Max``, ``N``, ``N_Found``,
            ``Completeness`` and its 68 % Wilson interval ``Completeness_Low``,
            ``Completeness_High``; without rows if the reference has no fluxes.
        """
        from astropy.stats import binom_conf_interval
        from astropy.table import QTable

        flux = self.reference_flux
        use = np.isfinite(flux) & (flux > 0)
        use[self.extended] = False
        if edges is None:
            steps = 2 * np.log10(flux[use]) if use.any() else np.zeros(1)
            edges = 10 ** (np.arange(np.floor(steps.min()), np.floor(steps.max()) + 2) / 2)
        found = np.zeros(self.n_reference, bool)
        found[self.reference_index] = True
        number = np.histogram(flux[use], edges)[0]
        n_found = np.histogram(flux[use & found], edges)[0]
        filled = number > 0
        number, n_found = number[filled], n_found[filled]
        low, high = binom_conf_interval(n_found, number, interval="wilson") if filled.any() else (
            np.zeros((2, 0))
        )  # fmt: skip
        return QTable(
            {
                "Flux_Min": np.asarray(edges)[:-1][filled],
                "Flux_Max": np.asarray(edges)[1:][filled],
                "N": number,
                "N_Found": n_found,
                "Completeness": n_found / np.maximum(number, 1),
                "Completeness_Low": low,
                "Completeness_High": high,
            }
        )

    def apply(self, catalog):
        """The catalogue with the columns ``ASSOC*`` of the matches.

        Parameters
        ----------
        catalog : QTable
            The one that was matched.

        Returns
        -------
        QTable
            A copy with the match columns, masked where there is no match. Inside an extended source
            only its name, catalogue and distance are given.

        Raises
        ------
        ValueError
            If the catalogue has another number of rows than the one that was matched.
        """
        self._check_rows(catalog, self.n_catalog, "catalog")
        rows = np.concatenate([self.catalog_index, self.catalog_inside])
        partner = np.concatenate([self.reference_index, self.reference_inside])
        names = np.full(self.n_catalog, "", self.reference_names.dtype)
        names[rows] = self.reference_names[partner]
        origin = np.full(self.n_catalog, "", f"U{max(len(self.reference_name), 1)}")
        origin[rows] = self.reference_name
        separation, norm, probability = np.full((3, self.n_catalog), np.nan)
        separation[rows] = np.concatenate([self.separation_deg, self.inside_separation_deg])
        norm[self.catalog_index] = self.separation_norm
        probability[self.catalog_index] = self.probability
        values = (names, separation, norm, probability, origin)
        return _with_matches(catalog, values)

    def candidate_table(self, catalog):
        """All candidates of all detections, the most probable first.

        Parameters
        ----------
        catalog : QTable
            The one that was matched.

        Returns
        -------
        QTable
            One row a pair: ``Source_Name``, ``RAJ2000``, ``DEJ2000`` of the detection, the match
            columns, ``Matched`` (1 for those that were chosen) and ``Extended`` (1 for extended
            reference sources).

        Raises
        ------
        ValueError
            If the catalogue has another number of rows than the one that was matched.
        """
        self._check_rows(catalog, self.n_catalog, "catalog")
        pairs = self.candidates
        order = np.lexsort(
            (pairs.separation_deg, -np.nan_to_num(self.candidate_probability), pairs.catalog_index)
        )
        rows, partner = pairs.catalog_index[order], pairs.reference_index[order]
        chosen = np.full(self.n_catalog, -1)
        chosen[self.catalog_index], chosen[self.catalog_inside] = (
            self.reference_index, self.reference_inside,
        )  # fmt: skip
        is_extended = np.isin(partner, self.extended)
        table = as_reference(catalog)[["Source_Name", "RAJ2000", "DEJ2000"]][rows]
        table.meta = {}
        origin = np.full(len(rows), self.reference_name)
        values = (
            self.reference_names[partner], pairs.separation_deg[order],
            pairs.separation_norm[order], self.candidate_probability[order], origin,
        )  # fmt: skip
        table = _with_matches(table, values)
        table["Matched"] = (chosen[rows] == partner).astype("i2")
        table["Extended"] = is_extended.astype("i2")
        return table

    def not_known(self, catalog):
        """The detections that match nothing; ``catalog`` is the QTable that was matched."""
        self._check_rows(catalog, self.n_catalog, "catalog")
        return catalog[self.catalog_unmatched]

    def not_found(self, reference):
        """The point-like reference sources that were not found.

        Parameters
        ----------
        reference : QTable
            The one that was matched.

        Returns
        -------
        QTable
            Names, positions, 95 % error ellipses where known, and fluxes where known.

        Raises
        ------
        ValueError
            If the reference has another number of rows than the one that was matched.
        """
        import astropy.units as u
        from astropy.utils.masked import Masked

        self._check_rows(reference, self.n_reference, "reference")
        rows = self.reference_unmatched
        table = as_reference(reference)[rows]
        galactic = table["skycoord"].galactic
        result = table[["Source_Name", "RAJ2000", "DEJ2000"]]
        result.meta = {"REFNAME": self.reference_name}
        result["GLON"], result["GLAT"] = galactic.l.to(u.deg), galactic.b.to(u.deg)
        for name, values in zip(("SemiMajor", "SemiMinor", "PosAng"), confidence_ellipses(table).T):
            result[f"Conf_95_{name}"] = Masked(values * u.deg, mask=~np.isfinite(values))
        if flux_column(table):
            result[flux_column(table)] = table[flux_column(table)]
        return result

    @staticmethod
    def _check_rows(table, n_rows, name):
        if len(table) != n_rows:
            raise InputError(
                f"{name} must have the {n_rows} rows that were matched; "
                f"got {len(table)}; match it again"
            )


def _with_matches(table, values):
    """A copy of the table with the match columns, whose values come in their order."""
    return with_match_columns(table, dict(zip((spec.name for spec in MATCH_COLUMNS), values)))


def _share(part, whole):
    percent = f" ({100 * part / whole:.0f} %)" if whole else ""
    return f"{part} of {whole}{percent}"


def _percent(share):
    return f"{100 * share:.2g} %"


def match_catalogs(catalog, reference, *, radius=None, surroundings=None):
    """One-to-one matches of a catalogue with a reference.

    By default the errors decide. Where both positions have a 95 % error ellipse, a detection and a
    point-like reference source may match up to a normalized separation of 3.72, which 99.9 % of
    true pairs keep, and where one has none up to 0.3 deg. Pairs are made in ascending normalized
    separation, 0.3 deg standing for 3.72, of detections and sources that are still free.

    With a ``radius``, or where neither table has ellipses, in descending ``Score`` each detection
    takes the nearest source within the radius that is still free; of equal scores, or without, the
    nearest pair comes first.

    Either way a detection left over that lies within the extension or the radius of an extended
    source counts as known.

    Parameters
    ----------
    catalog : QTable
        From `find_sources` or `read_catalog`, restricted to the sky of interest.
    reference : QTable
        From `read_catalog`, or any table with positions, restricted to the same sky.
    radius : Quantity [angle] or float, optional
        Largest distance, whatever the errors are; degrees if bare.
    surroundings : QTable, optional
        The reference of the sky around too, if it was restricted: chance rates are told from it.

    Returns
    -------
    MatchResult
        Pairs of rows with distances and probabilities, and rows without a partner.

    Raises
    ------
    ValueError
        If a table has no positions, or the radius is not positive.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc import match_catalogs
    >>> catalog = QTable({"RA": [10.0, 20.0], "Dec": [0.0, 0.0], "Score": [0.9, 0.8]})
    >>> reference = QTable({"RA": [20.1, 50.0], "Dec": [0.0, 0.0], "Source_Name": ["A", "B"]})
    >>> match = match_catalogs(catalog, reference)
    >>> match.catalog_index, match.reference_index
    (array([1]), array([0]))
    """
    radius_deg = _radius_deg(radius)
    found, known = _positions(catalog, 10.0), _positions(reference, -10.0)
    by_errors = radius is None and bool(found.has_error.any() or known.has_error.any())
    extended, extension_deg = _extension(reference)
    point = np.flatnonzero(~extended)
    rank = _ranks(catalog)
    pairs = find_counterparts(found, known[point], radius_deg, by_errors=by_errors)
    chosen = _choose(pairs, rank, radius_deg, by_errors)
    around = known[point]
    if surroundings is not None:
        around = _positions(surroundings, -10.0)[~_extension(surroundings)[0]]
    chance = chance_rate(
        found, around, radius_deg, by_errors=by_errors, reach_deg=_reach(pairs, radius_deg)
    )
    probability, _ = association_probability(pairs, chance.density, len(found))
    rows, partner = pairs.catalog_index[chosen], point[pairs.reference_index[chosen]]
    free = np.setdiff1d(np.arange(len(found)), rows)
    hit, around_hit, hit_deg = _inside(found.vectors, known, extended, extension_deg, radius_deg)
    first = _first_of_each(hit, free)
    return MatchResult(
        catalog_index=rows,
        reference_index=partner,
        separation_deg=pairs.separation_deg[chosen],
        separation_norm=pairs.separation_norm[chosen],
        probability=probability[chosen],
        catalog_inside=hit[first],
        reference_inside=around_hit[first],
        inside_separation_deg=hit_deg[first],
        catalog_unmatched=np.setdiff1d(free, hit),
        reference_unmatched=np.setdiff1d(point, partner),
        extended=np.flatnonzero(extended),
        candidates=_with_extended(pairs, point, (hit, around_hit, hit_deg)),
        candidate_probability=np.append(probability, np.full(len(hit), np.nan)),
        chance=chance,
        n_catalog=len(found),
        n_reference=len(known),
        radius_deg=radius_deg,
        by_errors=by_errors,
        reference_names=_names(reference),
        reference_flux=_fluxes(reference),
        reference_name=catalog_name(reference),
    )


def is_known(catalog, references, *, radius=None):
    """Which sources of a catalogue have a source of any reference near, not one-to-one.

    Parameters
    ----------
    catalog : QTable
        Table of n sources.
    references : list of QTable
        Tables with positions.
    radius : Quantity [angle] or float, optional
        Largest distance; degrees if bare, 0.3 deg by default.

    Returns
    -------
    ndarray (n,) of bool
        True where a reference source lies within the radius, or the source within the extension of
        an extended one.
    """
    radius_deg = _radius_deg(radius)
    found = _positions(catalog, 10.0).vectors
    known = np.zeros(len(found), bool)
    for reference in references:
        # Every reference source is a disc here: a point-like one of no extension.
        extension_deg = _extension(reference)[1]
        everything = np.ones(len(reference), bool)
        positions = _positions(reference, -10.0)
        known[_inside(found, positions, everything, extension_deg, radius_deg)[0]] = True
    return known


def inside_extended(vectors, reference):
    """Which directions lie inside an extended source.

    Parameters
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    reference : QTable
        From `read_catalog`, with ``Extended`` and ``Extension``; any other has none.

    Returns
    -------
    ndarray (n,) of bool
        True within the extension of a source, or 0.3 deg where that is more or the extension is
        unknown.
    """
    extended, extension_deg = _extension(reference)
    found = np.zeros(len(vectors), bool)
    positions = _positions(reference, -10.0)
    found[_inside(vectors, positions, extended, extension_deg, MATCH_RADIUS_DEG)[0]] = True
    return found


def _radius_deg(radius):
    from astropy.units import Quantity

    radius_deg = MATCH_RADIUS_DEG if radius is None else float(Quantity(radius, "deg").value)
    if not 0 < radius_deg <= 180:
        raise InputError(f"radius must be an angle above 0; got {radius}; give it in degrees")
    return radius_deg


def _positions(table, nowhere):
    """Directions and errors; ``nowhere``, far outside the sphere, where they are unknown."""
    xyz = galactic_vectors(table)
    xyz = np.where(np.isfinite(xyz).all(axis=1, keepdims=True), xyz, nowhere)
    return Positions(xyz, confidence_ellipses(table))


def _ranks(table):
    """Place of each row in descending ``Score``; equal scores share it."""
    if "Score" not in table.colnames:
        return np.zeros(len(table), int)
    return np.unique(-np.nan_to_num(numbers(table["Score"])), return_inverse=True)[1]


def _extension(table):
    """Which sources are extended and their radii in degrees, 0 where unknown."""
    if "Extended" not in table.colnames:
        return np.zeros(len(table), bool), np.zeros(len(table))
    extended = np.asarray(table["Extended"], bool)
    known = degrees(table["Extension"]) if "Extension" in table.colnames else np.nan
    return extended, np.where(extended, np.nan_to_num(known), 0.0)


def _names(table):
    if "Source_Name" not in table.colnames:
        return np.array([str(row) for row in range(len(table))], "U8")
    return texts(table["Source_Name"])


def _fluxes(table):
    """Fluxes in the unit of the table; NaN where unknown."""
    name = flux_column(table)
    return np.full(len(table), np.nan) if name is None else numbers(table[name])


def _choose(pairs, rank, radius_deg, by_errors):
    """The pairs of the one-to-one match, in descending score of the detections."""
    rows, columns = pairs.catalog_index, pairs.reference_index
    if by_errors:
        plain = pairs.separation_deg * (MAX_SIGMAS / radius_deg)
        distance = np.where(np.isfinite(pairs.separation_norm), pairs.separation_norm, plain)
        order = np.lexsort((columns, rows, distance))
    else:
        order = np.lexsort((columns, rows, pairs.separation_deg, rank[rows]))
    chosen = one_to_one(rows, columns, order[pairs.eligible[order]])
    return chosen[np.lexsort((rows[chosen], rank[rows[chosen]]))]


def _reach(pairs, radius_deg):
    """Distance that few matches exceed; a single source of huge errors does not count."""
    eligible = pairs.separation_deg[pairs.eligible]
    return max(radius_deg, float(np.quantile(eligible, 0.95)) if len(eligible) else 0.0)


def _inside(vectors, known, extended, extension_deg, radius_deg):
    """Pairs of a direction and an extended source that it lies in, nearest first, and distances.

    Inside is within its extension or the radius, whichever is larger.
    """
    candidates = np.flatnonzero(extended)
    reach_deg = np.maximum(extension_deg[candidates], radius_deg)
    rows, columns, angle = inside(vectors, known.vectors[candidates], reach_deg)
    return rows, candidates[columns], angle


def _first_of_each(rows, wanted):
    """Index of the first occurrence in sorted rows of each wanted one that occurs."""
    unique, first = np.unique(rows, return_index=True)
    return first[np.isin(unique, wanted)]


def _with_extended(pairs, point, hits):
    """The candidates by rows of the whole reference, with those inside extended sources."""
    rows, columns, angle = hits
    unknown = np.full(len(rows), np.nan)
    return Counterparts(
        np.append(pairs.catalog_index, rows),
        np.append(point[pairs.reference_index], columns),
        np.append(pairs.separation_deg, angle),
        np.append(pairs.separation_norm, unknown),
        np.append(pairs.offset_density, unknown),
        np.append(pairs.eligible, np.ones(len(rows), bool)),
    )
