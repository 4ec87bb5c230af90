"""Scores: a catalogue against the truth, by the definition of `astro_unetloc.truth_matches`."""

import numpy as np

from astro_unetloc.config import MATCH_RADIUS_DEG
from astro_unetloc.judgement import Evaluation, judge
from astro_unetloc.references import numbers

__all__ = ["Evaluation", "combine", "evaluate", "found_scores", "paired_interval"]


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
        If a table lacks a column, or a detection its ``Score``.

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
    judged = judge(catalog, truth, radius_deg=radius_deg)
    return judged.evaluation(min_latitude=min_latitude, max_latitude=max_latitude, region=region)


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
        If a table lacks a column, or a detection its ``Score``.
    """
    judged = judge(catalog, truth, radius_deg=radius_deg, brightest=brightest)
    row = np.asarray(judged.truth["Found_Row"])
    found = np.full(len(truth), np.nan)
    found[row >= 0] = numbers(judged.catalog["Score"])[row[row >= 0]]
    return found


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
