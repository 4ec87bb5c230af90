"""Scores: a catalogue against the truth, by one definition of what counts as found.

N is the expected number of detected photons of a true source in the model's range. Sources with
N >= 8 count for completeness; a match to one with 3 <= N < 8 is ignored, neither right nor wrong;
below 3 is not truth. Matches are one-to-one in descending ``Score``, nearest within 0.3 deg.
Detections inside extended sources are listed apart.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.config import MATCH_RADIUS_DEG
from astro_unetloc.geometry import chord, separation_deg, vectors_from_lonlat

__all__ = ["Evaluation", "combine", "evaluate", "found_scores", "paired_interval"]

MIN_PHOTONS_COUNTED = 8.0
MIN_PHOTONS_TRUTH = 3.0


@dataclass(frozen=True)
class Evaluation:
    """Scores of one catalogue.

    Attributes
    ----------
    n_true : int
        Point-like true sources with N >= 8.
    score : ndarray (n,)
        Score of the detections that are right or wrong, descending.
    correct : ndarray (n,) of bool
        Which of them are right.
    n_ignored : int
        Detections of faint or extended true sources.
    offset_deg : ndarray (n_correct,)
        Distance of right detections to their true source.
    """

    n_true: int
    score: np.ndarray
    correct: np.ndarray
    n_ignored: int
    offset_deg: np.ndarray

    @property
    def completeness(self):
        """Share of the true sources that were found; NaN if there is none."""
        return self.correct.sum() / self.n_true if self.n_true else np.nan

    @property
    def purity(self):
        """Share of the detections that are right; NaN if there is none."""
        return self.correct.mean() if len(self.correct) else np.nan

    @property
    def average_precision(self):
        """Area under the precision-recall curve."""
        if self.n_true == 0:
            return np.nan
        precision = np.cumsum(self.correct) / np.arange(1, len(self.correct) + 1)
        return float(precision[self.correct].sum() / self.n_true)

    def completeness_at(self, purity):
        """Completeness and threshold at the lowest score where the purity still holds."""
        precision = np.cumsum(self.correct) / np.arange(1, len(self.correct) + 1)
        good = np.flatnonzero(precision >= purity)
        if len(good) == 0 or self.n_true == 0:
            return 0.0, 1.0
        last = good[-1]
        return float(self.correct[: last + 1].sum() / self.n_true), float(self.score[last])

    def summary(self):
        """The scores in one line."""
        offset = np.median(self.offset_deg) if len(self.offset_deg) else np.nan
        return (
            f"{self.n_true} true sources, {len(self.correct)} detections: "
            f"completeness {self.completeness:.3f}, purity {self.purity:.3f}, "
            f"average precision {self.average_precision:.3f}, median offset {offset:.4f} deg"
        )


def _check_columns(table, what, names):
    missing = [name for name in names if name not in table.colnames]
    if missing:
        raise ValueError(
            f"{what} must have the columns {', '.join(names)}; missing {', '.join(missing)}; "
            "score found sources against the truth of a simulated sky, match_catalogs compares "
            "with other catalogues"
        )


def _vectors(table):
    return vectors_from_lonlat(np.asarray(table["GLON"], float), np.asarray(table["GLAT"], float))


def evaluate(
    catalog,
    truth,
    *,
    radius_deg=MATCH_RADIUS_DEG,
    min_latitude=0.0,
    max_latitude=np.inf,
    region=None,
):
    """Score a catalogue against the truth of a simulated sky.

    Parameters
    ----------
    catalog : QTable
        From `astro_unetloc.find_sources`, with ``GLON``, ``GLAT`` and ``Score``.
    truth : QTable
        From `astro_unetloc.simulate_sky`, with ``GLON``, ``GLAT``, ``Npred`` and ``Radius``.
    radius_deg : float
        Largest distance of a match.
    min_latitude, max_latitude : float
        Only true sources and detections with an absolute Galactic latitude in this range, the
        upper end excluded, count; a match lies where its true source lies.
    region : callable, optional
        Takes Galactic unit vectors (n, 3), returns which of them count, by the same rule; all do
        by default. Tables that reach 0.3 deg over its border keep its matches whole.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If a table lacks a column.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc import evaluate
    >>> truth = QTable({"GLON": [0.0, 5.0], "GLAT": [0.0, 0.0], "Npred": [9, 20], "Radius": [0, 0]})
    >>> catalog = QTable({"GLON": [0.1, 40.0], "GLAT": [0.0, 1.0], "Score": [0.9, 0.8]})
    >>> scores = evaluate(catalog, truth)
    >>> float(scores.completeness), float(scores.purity)
    (0.5, 0.5)
    """
    n_photons, radius = _truth_columns(catalog, truth)
    truth_latitude = np.abs(np.asarray(truth["GLAT"], float))
    point = (radius == 0) & (n_photons >= MIN_PHOTONS_TRUTH)
    extended = (radius > 0) & (n_photons >= MIN_PHOTONS_TRUTH)
    latitude = np.abs(np.asarray(catalog["GLAT"], float))
    order = np.argsort(-np.asarray(catalog["Score"], float), kind="stable")
    vectors, truth_vectors = _vectors(catalog)[order], _vectors(truth)[point]
    score = np.asarray(catalog["Score"], float)[order]
    matched = _match(vectors, truth_vectors, radius_deg)
    counted = n_photons[point] >= MIN_PHOTONS_COUNTED
    correct = (matched >= 0) & counted[matched] if point.any() else matched >= 0
    ignored = (matched >= 0) & ~correct
    ignored |= (matched < 0) & _inside(
        vectors, _vectors(truth)[extended], radius[extended], radius_deg
    )
    # a match counts where its true source lies, a false detection where it lies
    place, place_vectors = latitude[order], vectors
    if point.any():
        place = np.where(matched >= 0, truth_latitude[point][matched], place)
        place_vectors = np.where(matched[:, None] >= 0, truth_vectors[matched], vectors)
    here = (place >= min_latitude) & (place < max_latitude)
    in_band = (truth_latitude[point] >= min_latitude) & (truth_latitude[point] < max_latitude)
    if region is not None:
        here &= region(place_vectors)
        in_band &= region(truth_vectors)
    judged = here & ~ignored
    right = correct & here
    return Evaluation(
        n_true=int(np.sum(counted & in_band)),
        score=score[judged],
        correct=correct[judged],
        n_ignored=int(np.sum(ignored & here)),
        offset_deg=separation_deg(vectors[right], truth_vectors[matched[right]]),
    )


def found_scores(catalog, truth, *, radius_deg=MATCH_RADIUS_DEG, brightest=False):
    """``Score`` of the detection of each true source, by the matching of `evaluate`.

    Parameters
    ----------
    catalog, truth : QTable
        See `evaluate`.
    radius_deg : float
        Largest distance of a match.
    brightest : bool
        Whether a detection is matched to the source of most expected photons within the radius
        instead of the nearest one. Above 0.5 GeV one direction in five has a true source of three
        photons that near, which would take the detection of a brighter one beside it.

    Returns
    -------
    ndarray (n_true,)
        One for each row of ``truth``; NaN where the source was missed, has fewer than three
        expected photons or is extended.

    Raises
    ------
    ValueError
        If a table lacks a column.
    """
    n_photons, radius = _truth_columns(catalog, truth)
    point = np.flatnonzero((radius == 0) & (n_photons >= MIN_PHOTONS_TRUTH))
    score = np.asarray(catalog["Score"], float)
    order = np.argsort(-score, kind="stable")
    order_of_choice = -n_photons[point] if brightest else None
    matched = _match(_vectors(catalog)[order], _vectors(truth)[point], radius_deg, order_of_choice)
    found = np.full(len(truth), np.nan)
    found[point[matched[matched >= 0]]] = score[order][matched >= 0]
    return found


def _truth_columns(catalog, truth):
    """Expected photons and radius (deg) of the true sources of two tables that can be matched."""
    _check_columns(catalog, "catalog", ("GLON", "GLAT", "Score"))
    _check_columns(truth, "truth", ("GLON", "GLAT", "Npred", "Radius"))
    return (np.asarray(truth[name], float) for name in ("Npred", "Radius"))


def _match(vectors, truth_vectors, radius_deg, choice=None):
    """Row of the true source of each detection in their order, one-to-one; -1 for none.

    Of several sources within the radius the one of smallest ``choice`` (n_true,) is taken, the
    nearest without it.
    """
    from scipy.spatial import KDTree

    matched = np.full(len(vectors), -1)
    if not len(vectors) or not len(truth_vectors):
        return matched
    free = np.ones(len(truth_vectors), dtype=bool)
    near = KDTree(truth_vectors).query_ball_point(vectors, chord(radius_deg))
    for row, candidates in enumerate(near):
        candidates = np.array([c for c in candidates if free[c]], dtype=int)
        if len(candidates):
            offset = np.linalg.norm(truth_vectors[candidates] - vectors[row], axis=1)
            matched[row] = candidates[np.argmin(offset if choice is None else choice[candidates])]
            free[matched[row]] = False
    return matched


def _inside(vectors, centers, size_deg, radius_deg):
    """Whether directions (n, 3) lie within any extended source or the match radius of it."""
    inside = np.zeros(len(vectors), dtype=bool)
    for center, size in zip(centers, np.maximum(size_deg, radius_deg)):
        inside |= separation_deg(vectors, center) <= size
    return inside


def combine(evaluations):
    """One `Evaluation` of several catalogues on different skies.

    Parameters
    ----------
    evaluations : sequence of Evaluation
        At least one.

    Returns
    -------
    Evaluation
    """
    score = np.concatenate([e.score for e in evaluations])
    order = np.argsort(-score, kind="stable")
    return Evaluation(
        n_true=sum(e.n_true for e in evaluations),
        score=score[order],
        correct=np.concatenate([e.correct for e in evaluations])[order],
        n_ignored=sum(e.n_ignored for e in evaluations),
        offset_deg=np.concatenate([e.offset_deg for e in evaluations]),
    )


def paired_interval(first, second, statistic, *, level=0.95, n_samples=1000, rng=0):
    """Difference of a score between two finders on the same parts of the sky, and its interval.

    The percentile bootstrap (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section
    13.3): the parts are drawn again with replacement, the same ones for both finders.

    Parameters
    ----------
    first, second : sequence of Evaluation
        One for each part, in the same order.
    statistic : callable
        Takes the `Evaluation` of many parts together, returns a number.
    level : float
        Probability inside the interval.
    n_samples : int
        How often the parts are drawn.
    rng : int or numpy.random.Generator
        Source of randomness.

    Returns
    -------
    difference : float
        Of all parts together, first minus second.
    low, high : float
        Ends of the interval.

    Raises
    ------
    ValueError
        If the parts are not those of the same sky, or hold no true source.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_unetloc.evaluation import Evaluation, paired_interval
    >>> found = Evaluation(1, np.array([0.9]), np.array([True]), 0, np.array([0.01]))
    >>> missed = Evaluation(1, np.zeros(0), np.zeros(0, bool), 0, np.zeros(0))
    >>> paired_interval([found, found], [found, missed], lambda e: float(e.completeness))
    (0.5, 0.0, 1.0)
    """
    numbers = [[e.n_true for e in parts] for parts in (first, second)]
    if numbers[0] != numbers[1] or not any(numbers[0]):
        raise ValueError(
            "expected evaluations of the same parts of a sky with true sources; got "
            f"{len(first)} and {len(second)} parts with {sum(numbers[0])} and {sum(numbers[1])} "
            "of them; score both finders on one truth"
        )
    rng = np.random.default_rng(rng)
    drawn = rng.integers(0, len(first), (n_samples, len(first)))
    # a sample without any true source has no score
    samples = [
        statistic(combine([first[i] for i in rows])) - statistic(combine([second[i] for i in rows]))
        for rows in drawn
        if any(first[i].n_true for i in rows)
    ]
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(statistic(combine(first)) - statistic(combine(second))), float(low), float(high)
