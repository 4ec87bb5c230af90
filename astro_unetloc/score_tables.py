"""Score tables: how good a catalogue is, one table for each question.

Each takes a judgement of the detections that are listed, or of all candidates where it says so, and
gives a table whose ``meta`` has a ``title`` and says what it is ``about``. A column ``X`` with
``X_Low`` and ``X_High`` is a share with its 68 % interval (Wilson 1927). Detections that are
ignored count nowhere.
"""

import numpy as np

from astro_unetloc.binned_scores import (
    by_class,
    by_flux,
    by_latitude,
    by_photons,
    by_sqrt_ts,
    flux_limits,
)
from astro_unetloc.geometry import SKY_DEG2
from astro_unetloc.judgement import SKIES
from astro_unetloc.references import numbers_of
from astro_unetloc.residuals import flux_errors, index_errors, position_errors
from astro_unetloc.shares import score_table, share_columns

__all__ = [
    "all_tables",
    "by_threshold",
    "false_alarms",
    "misses",
    "numbers_per_part",
    "real_by_score",
    "reliability",
    "summary_table",
]

PURITY = 0.95
# Rows of each part of the sky in the table of thresholds.
_N_THRESHOLDS = 200
# Bins of the reliability diagram, and the least score in them.
_N_RELIABILITY, _LEAST_SCORE = 15, 0.05
# Ranges of Score in which true sources of any brightness are counted.
_SCORE_RANGES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0)
# Where misses lie: deg, deg, photons.
_BLENDED_DEG, _PLANE_DEG, _FAINT = 0.5, 5.0, 15.0


def summary_table(judgement, *, threshold=None):
    """The main scores, over the sky and its parts.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.
    threshold : float, optional
        Smallest ``Score`` listed; all are by default.

    Returns
    -------
    QTable
        ``Sky``, ``N_True``, ``N_Listed``, ``Completeness``, ``Purity`` and ``F1`` of the listed
        ones; of all ``Average_Precision`` and ``Completeness_At_95``, the completeness at the
        lowest score where the purity is 95 %; ``Median_Offset`` (deg) of the right ones listed.
    """
    listed = judgement if threshold is None else judgement.select(threshold)
    whole, part = ([j.evaluation(**limits) for limits in _limits()] for j in (judgement, listed))
    n_true, n_listed, n_right = np.array(
        [(e.n_true, len(e.correct), e.correct.sum()) for e in part], int
    ).T
    return score_table(
        "Summary",
        "What was found of the true sources with at least 8 expected photons, and how much of what "
        "is listed is right; average precision and completeness at 95 % purity are of all "
        "candidates, the other numbers of those listed.",
        {
            "Sky": list(SKIES),
            "N_True": n_true,
            "N_Listed": n_listed,
            **share_columns("Completeness", n_right, n_true),
            **share_columns("Purity", n_right, n_listed),
            "F1": _f1(n_right, n_true, n_listed),
            "Average_Precision": [e.average_precision for e in whole],
            "Completeness_At_95": [
                e.completeness_at(PURITY)[0] if e.n_true else np.nan for e in whole
            ],
            "Median_Offset": [
                np.median(e.offset_deg) if len(e.offset_deg) else np.nan for e in part
            ],
        },
        units={"Median_Offset": "deg"},
        meta={} if threshold is None else {"threshold": float(threshold)},
    )


def by_threshold(judgement):
    """Completeness, purity and F1 of all candidates listed down to a score.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.

    Returns
    -------
    QTable
        ``Sky``, ``Score``, ``Completeness``, ``Purity`` and ``F1``, at most 200 rows for each part
        of the sky, in descending score.
    """
    parts = {name: [] for name in ("Sky", "Score", "Completeness", "Purity", "F1")}
    for sky, limits in zip(SKIES, _limits()):
        scores = judgement.evaluation(**limits)
        last = np.flatnonzero(np.diff(scores.score, append=-np.inf))  # of equal scores
        if len(last) > _N_THRESHOLDS:
            last = last[np.linspace(0, len(last) - 1, _N_THRESHOLDS).round().astype(int)]
        right, number = np.cumsum(scores.correct)[last], last + 1.0
        parts["Sky"].append(np.full(len(last), sky))
        parts["Score"].append(scores.score[last])
        parts["Completeness"].append(right / (scores.n_true or np.nan))
        parts["Purity"].append(right / number)
        parts["F1"].append(_f1(right, scores.n_true, number))
    return score_table(
        "Scores by threshold",
        "Completeness, purity and F1 of the list that holds every candidate down to a Score.",
        {name: np.concatenate(values) for name, values in parts.items()},
    )


def numbers_per_part(judgement):
    """Numbers of true sources and of listed detections in each part, such as a patch.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Part``, ``N_True`` and ``N_Listed``; ``meta`` has their ``correlation``, the ``bias``
        (mean of listed minus true) and the ``scatter`` (standard deviation of it).
    """
    used = judgement.has_role("counted")
    parts = [np.asarray(table["Part"], str) for table in (judgement.truth, judgement.catalog)]
    names = np.unique(np.concatenate(parts))
    n_true, n_listed = (
        np.bincount(np.searchsorted(names, part[rows]), minlength=len(names))
        for part, rows in zip(parts, (used, judgement.is_listed))
    )
    difference = n_listed - n_true
    varied = len(names) > 1 and np.ptp(n_true) > 0 and np.ptp(n_listed) > 0
    meta = {
        "correlation": float(np.corrcoef(n_true, n_listed)[0, 1]) if varied else np.nan,
        "bias": float(difference.mean()) if len(names) else np.nan,
        "scatter": float(difference.std()) if len(names) else np.nan,
    }
    return score_table(
        "Numbers of sources",
        "True sources with at least 8 expected photons and listed detections in each patch.",
        {"Part": names, "N_True": n_true, "N_Listed": n_listed},
        meta=meta,
    )


def reliability(judgement):
    """Whether of the candidates of a ``Score`` so many are real.

    Those are real that a true source explains, see `astro_unetloc.judgement.Judgement.explained`.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.

    Returns
    -------
    QTable
        15 bins of equal numbers of candidates with ``Score`` of at least 0.05: ``Low``, ``High``,
        ``Mean_Score``, ``N``, ``N_Right`` and ``Share``; ``meta["ece"]`` is the expected
        calibration error of each part of the sky, the mean distance of both over the candidates.
    """
    bins, judgement = {}, judgement.explained()
    for sky, limits in zip(SKIES, _limits()):
        scores = judgement.evaluation(**limits)
        kept = scores.score >= _LEAST_SCORE
        score, right = scores.score[kept][::-1], scores.correct[kept][::-1]
        rows = [r for r in np.array_split(np.arange(len(score)), _N_RELIABILITY) if len(r)]
        columns = {
            "Low": [score[r[0]] for r in rows],
            "High": [score[r[-1]] for r in rows],
            "Mean_Score": [score[r].mean() for r in rows],
            "N": [len(r) for r in rows],
            "N_Right": [right[r].sum() for r in rows],
        }
        bins[sky] = {name: np.array(values, float) for name, values in columns.items()}
        for name in ("N", "N_Right"):
            bins[sky][name] = bins[sky][name].astype(int)
    error = {
        sky: float(np.sum(np.abs(b["N_Right"] - b["N"] * b["Mean_Score"])) / b["N"].sum())
        if len(b["N"])
        else np.nan
        for sky, b in bins.items()
    }
    whole = bins[next(iter(SKIES))]
    return score_table(
        "Reliability",
        "Share of the candidates that are real, in bins of equal numbers by their Score (below 10 "
        "GeV not those with more than three times the counts of their true source); the expected "
        "calibration error is their mean distance.",
        whole | share_columns("Share", whole["N_Right"], whole["N"]),
        meta={"ece": error},
    )


def real_by_score(judgement):
    """Of candidates in ranges of ``Score``, how many are true sources, however faint.

    ``Score`` is calibrated to sources of at least 8 expected photons. Fainter ones are found too,
    where their photons fluctuated upwards, and are real to whoever reads the catalogue.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.

    Returns
    -------
    QTable
        For each part of the sky and range of scores from ``Low`` to below ``High``: ``N``
        candidates outside extended sources, ``N_Counted`` of sources with at least 8 expected
        photons, ``N_Real`` of point sources of any brightness (see
        `astro_unetloc.judgement.Judgement.is_source`) and their ``Share_Real``; ``Real_Above`` is
        the same share of all candidates from ``Low`` on.
    """
    judgement = judgement.explained()
    every = judgement.of_any_brightness()
    numbers, above = [], []
    for limits in _limits():
        counted, real = (j.evaluation(**limits) for j in (judgement, every))
        scores = real.score, counted.score[counted.correct], real.score[real.correct]
        numbers.append([np.histogram(score, _SCORE_RANGES)[0] for score in scores])
        n, n_real = (np.cumsum(numbers[-1][i][::-1])[::-1] for i in (0, 2))
        above.append(n_real / np.where(n > 0, n, np.nan))
    n, n_counted, n_real = np.concatenate(numbers, axis=1)
    return score_table(
        "Real by score",
        "Candidates of a range of Score; those of true sources with at least 8 expected photons, "
        "for which Score is made; those of true point sources of any brightness, and their share, "
        "in the range and of all that a list from its lower end on would hold. Inside extended "
        "sources none are counted.",
        {
            "Sky": np.repeat(list(SKIES), len(_SCORE_RANGES) - 1),
            "Low": np.tile(_SCORE_RANGES[:-1], len(SKIES)),
            "High": np.tile(_SCORE_RANGES[1:], len(SKIES)),
            "N": n,
            "N_Counted": n_counted,
            "N_Real": n_real,
            **share_columns("Share_Real", n_real, n),
            "Real_Above": np.concatenate(above),
        },
    )


def false_alarms(judgement):
    """Wrong detections, and how many there are per area.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``N_Wrong``, ``N_Duplicates`` (those of them within the match radius of a true
        source that another detection took), ``N_Below`` (those within 0.1 deg of a point source of
        0.3 to 3 expected photons), ``Area`` (deg2; of the parts only where whole skies
        were searched) and ``Per_100_Deg2``, wrong ones.
    """
    wrong = np.asarray(judgement.catalog["Verdict"]) == "wrong"
    duplicate = np.asarray(judgement.catalog["Is_Duplicate"])
    below = judgement.is_source & wrong
    latitude = judgement.latitude
    skies = judgement.area_deg2 / SKY_DEG2
    is_whole = skies > 0.5 and abs(skies - round(skies)) < 1e-3
    number, area = [], []
    for least, most in SKIES.values():
        here = wrong & (latitude >= least) & (latitude < most)
        number.append((here.sum(), (here & duplicate).sum(), (here & below).sum()))
        share = np.sin(np.radians(min(most, 90.0))) - np.sin(np.radians(least))
        area.append(judgement.area_deg2 * (share if is_whole or share == 1 else np.nan))
    n_wrong, n_duplicates, n_below = np.array(number).T
    area = np.array(area)
    return score_table(
        "False alarms",
        "Detections that are no true source; those of them that are a second detection of one; "
        "those within 0.1 deg of a point source of 0.3 to 3 expected photons, which are real but "
        "do not count (below 10 GeV, where such a one is near any position, none); and wrong ones "
        "per 100 square degrees.",
        {
            "Sky": list(SKIES),
            "N_Wrong": n_wrong,
            "N_Duplicates": n_duplicates,
            "N_Below": n_below,
            "Area": area,
            "Per_100_Deg2": 100 * n_wrong / np.where(area > 0, area, np.nan),
        },
        units={"Area": "deg2"},
    )


def misses(judgement):
    """Where the true sources lie that were missed.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Reason``, ``N_Missed``, ``N_True`` (counted sources of which that is true) and
        ``Share_Missed``. A source may have several reasons.
    """
    truth, counted, found = judgement.truth, judgement.has_role("counted"), judgement.is_found
    reasons = {
        "blended": numbers_of(truth, "Sep_Counted", "deg") < _BLENDED_DEG,
        "near an extended source": numbers_of(truth, "Sep_Extended", "deg") < _BLENDED_DEG,
        "plane": judgement.true_latitude < _PLANE_DEG,
        "faint": numbers_of(truth, "Npred") < _FAINT,
    }
    reasons["none of these"] = ~np.any(list(reasons.values()), axis=0)
    n_true, n_missed = (
        np.array([np.sum(rows & mask) for rows in reasons.values()], int)
        for mask in (counted, counted & ~found)
    )
    return score_table(
        "Misses",
        "Where missed true sources lie: another counted one within 0.5 deg (blended), within 0.5 "
        "deg of the edge of an extended source or inside, below 5 deg of latitude (plane), fewer "
        "than 15 expected photons (faint). A source may have several reasons.",
        {
            "Reason": list(reasons),
            "N_Missed": n_missed,
            "N_True": n_true,
            **share_columns("Share_Missed", n_missed, n_true),
        },
    )


# What is asked of all candidates; the others of those that are listed.
_OF_ALL = (by_threshold, reliability, real_by_score)
_TABLES = (
    summary_table, by_threshold, by_photons, by_flux, by_sqrt_ts, by_latitude, by_class,
    flux_limits, numbers_per_part, position_errors, flux_errors, index_errors, reliability,
    real_by_score, false_alarms, misses,
)  # fmt: skip


def all_tables(judgement, *, threshold=None):
    """Every table of this module, of `binned_scores` and of `residuals`.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.
    threshold : float, optional
        Smallest ``Score`` listed; all are by default.

    Returns
    -------
    dict of str to QTable
        By the names of the functions.
    """
    listed = judgement if threshold is None else judgement.select(threshold)
    tables = {"summary_table": summary_table(judgement, threshold=threshold)}
    for table in _TABLES[1:]:
        tables[table.__name__] = table(judgement if table in _OF_ALL else listed)
    return tables


def _limits():
    """Keywords of `Judgement.evaluation` for each of ``SKIES``."""
    return [{"min_latitude": low, "max_latitude": high} for low, high in SKIES.values()]


def _f1(n_right, n_true, n_listed):
    """Harmonic mean of completeness and purity; NaN where there is neither truth nor detection."""
    total = np.asarray(n_true + n_listed, float)
    return 2 * n_right / np.where(total > 0, total, np.nan)
