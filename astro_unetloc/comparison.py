"""Comparison: whether one catalogue of a sky is better than another, or only luckier."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from astro_unetloc.judgement import SKIES
from astro_unetloc.references import degrees, numbers
from astro_unetloc.score_tables import PURITY
from astro_unetloc.shares import score_table

__all__ = ["compare", "compare_words"]

STATISTICS = (
    "average precision",
    "completeness at 95 % purity",
    "completeness",
    "purity",
    "median offset",
)


def compare(first, second, *, thresholds=None, level=0.95, n_samples=1000, rng=0):
    """Differences between two catalogues of the same sky, and whether they are real.

    The percentile bootstrap of `astro_unetloc.evaluation.paired_interval`: the parts of the sky are
    drawn again with replacement, the same ones for both catalogues.

    Parameters
    ----------
    first, second : Judgement
        Of all candidates, by the same truth and in the same parts, such as patches.
    thresholds : pair of float, optional
        Smallest ``Score`` of each that is listed: of what is listed are completeness, purity and
        median offset. All are by default.
    level : float
        Probability inside the interval.
    n_samples : int
        How often the parts are drawn.
    rng : int or numpy.random.Generator
        Source of randomness.

    Returns
    -------
    QTable
        ``Sky``, ``Statistic``, ``First``, ``Second``, ``Difference`` (first minus second) with the
        ends ``Low`` and ``High`` of its interval, and ``Real``, whether that leaves out 0; median
        offsets in degrees. NaN where a part of the sky has no true source or no detection.

    Raises
    ------
    ValueError
        If they are not of the same true sources, or of fewer than two parts.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc.comparison import compare
    >>> from astro_unetloc.judgement import join, judge
    >>> truth = QTable({"GLON": [0.0], "GLAT": [0.0], "Npred": [9], "Radius": [0]})
    >>> catalog = QTable({"GLON": [0.1, 9], "GLAT": [0.0, 0], "Score": [0.9, 0.2]})
    >>> one, other = (
    ...     join([judge(listed, truth, part=str(i)) for i in range(9)])
    ...     for listed in (catalog, catalog[1:])
    ... )
    >>> table = compare(one, other)
    >>> float(table["Difference"][0]), bool(table["Real"][0])
    (1.0, True)
    """
    names = _parts(first, second)
    rng = np.random.default_rng(rng)
    drawn = rng.integers(0, len(names), (n_samples, len(names)))
    weights = np.stack([np.bincount(rows, minlength=len(names)) for rows in drawn])
    cuts = thresholds or (-np.inf, -np.inf)
    rows = []
    for sky, limits in SKIES.items():
        finders = [_finder(j, names, cut, limits) for j, cut in zip((first, second), cuts)]
        whole = [finder.statistics(np.ones(len(names), int)) for finder in finders]
        samples = np.subtract(
            *(np.array([finder.statistics(w) for w in weights]) for finder in finders)
        )
        for i, statistic in enumerate(STATISTICS):
            difference = whole[0][i] - whole[1][i]
            known = samples[np.isfinite(samples[:, i]), i]
            low, high = np.nan, np.nan
            if np.isfinite(difference) and len(known):
                low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
            is_real = bool(low > 0 or high < 0)
            rows.append((sky, statistic, whole[0][i], whole[1][i], difference, low, high, is_real))
    columns = ("Sky", "Statistic", "First", "Second", "Difference", "Low", "High", "Real")
    return score_table(
        "Comparison",
        f"Scores of two catalogues of the same sky, their difference (first minus second) and its "
        f"{level:.0%} interval, from {n_samples} paired bootstraps over {len(names)} parts.",
        dict(zip(columns, zip(*rows))),
        meta={"level": level, "n_samples": n_samples, "n_parts": len(names)},
    )


def compare_words(table):
    """What a comparison says, one line for each part of the sky.

    Parameters
    ----------
    table : QTable
        From `compare`.

    Returns
    -------
    str
    """
    lines = []
    for sky in SKIES:
        rows = table[(np.asarray(table["Sky"]) == sky) & np.isfinite(table["Low"])]
        real = [
            f"{row['Statistic']} {row['First']:.4g} against {row['Second']:.4g} "
            f"({row['Low']:+.2g} to {row['High']:+.2g})"
            for row in rows[rows["Real"]]
        ]
        alike = [str(row["Statistic"]) for row in rows[~rows["Real"]]]
        parts = ["really differ: " + ", ".join(real)] if real else []
        parts += ["no difference is seen in " + ", ".join(alike)] if alike else []
        if parts:
            lines.append(f"{sky}: {'; '.join(parts)}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Finder:
    """n detections that are right or wrong, in descending score.

    Attributes
    ----------
    n_true : ndarray (n_parts,) of int
        True sources that count.
    part : ndarray (n,) of int
        Part of each detection.
    right, listed : ndarray (n,) of bool
        Whether it is right, and whether it is listed.
    offset : ndarray (n,)
        Distance from its true source in degrees.
    nearest : ndarray (n_right,) of int
        The right ones that are listed, in ascending offset.
    """

    n_true: np.ndarray
    part: np.ndarray
    right: np.ndarray
    listed: np.ndarray
    offset: np.ndarray
    nearest: np.ndarray

    def statistics(self, weight):
        """The numbers of ``STATISTICS`` where each part counts so many times (n_parts,)."""
        n_true, w = (self.n_true @ weight) or np.nan, weight[self.part]
        right, number = self.right * w, np.cumsum(w)
        hits = np.cumsum(right)
        drawn = np.flatnonzero(w)
        good = hits[drawn][hits[drawn] / number[drawn] >= PURITY]
        n_listed, n_found = np.sum(w * self.listed), np.sum(right * self.listed)
        return np.array(
            [
                _sum_of_precision(right, hits, number) / n_true,
                (good[-1] if len(good) else 0) / n_true,
                n_found / n_true,
                n_found / n_listed if n_listed else np.nan,
                _median(self.offset[self.nearest], w[self.nearest]),
            ]
        )


def _finder(judgement, names, threshold, limits):
    """The `_Finder` of a part of the sky, its parts numbered as in ``names``."""
    low, high = limits
    latitude, true_latitude = judgement.latitude, judgement.true_latitude
    score = numbers(judgement.catalog["Score"])
    rows = np.flatnonzero(judgement.is_listed & (latitude >= low) & (latitude < high))
    rows = rows[np.argsort(-score[rows], kind="stable")]
    offset = degrees(judgement.catalog["Offset"])[rows]
    right, listed = judgement.is_right[rows], score[rows] >= threshold
    nearest = np.flatnonzero(right & listed)
    counted = judgement.has_role("counted") & (true_latitude >= low) & (true_latitude < high)
    true_part, part = (
        np.searchsorted(names, np.asarray(table["Part"], str)[some])
        for table, some in ((judgement.truth, counted), (judgement.catalog, rows))
    )
    return _Finder(
        n_true=np.bincount(true_part, minlength=len(names)),
        part=part,
        right=right,
        listed=listed,
        offset=offset,
        nearest=nearest[np.argsort(offset[nearest], kind="stable")],
    )


def _sum_of_precision(right, hits, number):
    """Sum of the precision at each right detection of those (n,) that count several times.

    Copies of a detection follow each other: after m others of which h are right, the w copies of a
    right one have precisions (h + 1) / (m + 1) to (h + w) / (m + w), whose sum is
    w - (m - h) (H(m + w) - H(m)) with the harmonic numbers H.
    """
    rows = np.flatnonzero(right)
    if not len(rows):
        return 0.0
    copies, after = right[rows], number[rows]
    harmonic = _harmonic_numbers(int(after[-1]).bit_length())
    wrong = after - hits[rows]
    return float(np.sum(copies - wrong * (harmonic[after] - harmonic[after - copies])))


@lru_cache(maxsize=64)
def _harmonic_numbers(n_bits):
    """Harmonic numbers H(0), H(1), ... of ``n_bits`` bits."""
    return np.append(0.0, np.cumsum(1 / np.arange(1, 2**n_bits)))


def _median(ascending, weight):
    """Median of ascending values that count so many times; NaN without any."""
    total = np.cumsum(weight)
    if not len(total) or not total[-1]:
        return np.nan
    middle = (total[-1] - 1) // 2, total[-1] // 2
    return float(ascending[np.searchsorted(total, middle, side="right")].mean())


def _parts(first, second):
    """Names of the parts of both, sorted."""
    tables = [table for j in (first, second) for table in (j.truth, j.catalog)]
    names = np.unique(np.concatenate([np.asarray(table["Part"], str) for table in tables]))
    number = [
        np.bincount(
            np.searchsorted(names, np.asarray(j.truth["Part"], str)[j.has_role("counted")]),
            minlength=len(names),
        )
        for j in (first, second)
    ]
    if len(names) < 2 or np.any(number[0] != number[1]):
        raise ValueError(
            "expected judgements by the same true sources in two parts of the sky or more; got "
            f"{number[0].sum()} and {number[1].sum()} sources in {len(names)} parts; judge both "
            "catalogues by one truth with part=patch_parts(...)"
        )
    return names
