"""Scores of a catalogue of a simulated sky: one table for each question.

Each table is made of truth matches (`astro_unetloc.evaluation.truth.TruthMatch`) and has a
``title`` and a text ``about`` in its ``meta``. A column ``X`` with ``X_Low`` and ``X_High`` is a
fraction with its 68 % interval (Wilson 1927). Ignored detections are never counted.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.table import numbers, numbers_of, texts_of
from astro_unetloc.evaluation.classes import class_tables
from astro_unetloc.evaluation.comparison import (
    FLUX_UNIT,
    PHOTON_EDGES,
    calibration_error,
    edges_around,
    fraction_columns,
    measurement_errors,
    score_table,
    true_flux,
)
from astro_unetloc.evaluation.truth import SKIES, match_truth
from astro_unetloc.exceptions import InputError
from astro_unetloc.sphere import SKY_DEG2

SCORE_EDGES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0)
_MAX_THRESHOLDS = 200  # rows of each region in the table of thresholds
_BLENDED_DEG, _PLANE_DEG, _FAINT_PHOTONS = 0.5, 5.0, 15.0
_MIN_CURVE_SOURCES = 5


def evaluate(
    catalog, truth, *, radius_deg=MATCH_RADIUS_DEG, min_latitude=0.0, max_latitude=np.inf,
    region=None,
):  # fmt: skip
    """Scores of a catalogue of a simulated sky.

    Parameters
    ----------
    catalog : QTable
        From `astro_unetloc.find_sources`, with ``GLON``, ``GLAT`` and ``Score``.
    truth : QTable
        From `astro_unetloc.simulate_sky`, with ``GLON``, ``GLAT``, ``Npred`` and ``Radius``.
    radius_deg : float
        Largest separation of a match.
    min_latitude, max_latitude : float
        Range of absolute Galactic latitude in degrees, the upper end excluded, of the true sources
        and detections that are counted; a match lies where its true source lies.
    region : callable, optional
        Function from Galactic unit vectors (n, 3) to a mask (n,) of those that are counted, by the
        same rule. Tables that reach 0.3 deg over its border keep its matches whole.

    Returns
    -------
    Evaluation

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
    matches = match_truth(catalog, truth, radius_deg=radius_deg)
    matches = matches if region is None else matches.inside(region)
    return matches.evaluation(min_latitude=min_latitude, max_latitude=max_latitude)


def found_scores(catalog, truth, *, brightest=False):
    """``Score`` (n_true,) of the detection of each true source; NaN if it is missed or no truth."""
    matches = match_truth(catalog, truth, brightest=brightest)
    return matches.of_detection(numbers(matches.catalog["Score"]))


@dataclass(frozen=True)
class CompletenessCurve:
    """Completeness as a logistic curve in the logarithm of the flux, p / (1 + (S / S0)^-k)."""

    plateau: float  # p, of the brightest sources
    half_flux: float  # S0, at which half of the plateau is reached
    steepness: float  # k

    def __call__(self, flux):
        """Completeness at fluxes (n,)."""
        return self.plateau / (1 + (np.asarray(flux) / self.half_flux) ** -self.steepness)

    def flux_at(self, completeness):
        """Flux at which a completeness is reached; infinite from the plateau on."""
        if completeness >= self.plateau:
            return np.inf
        return self.half_flux * (self.plateau / completeness - 1) ** (-1 / self.steepness)


def fit_completeness(flux, found):
    """`CompletenessCurve` of highest likelihood of sources (n,) that are found independently."""
    flux, found = np.asarray(flux, dtype=float), np.asarray(found, dtype=bool)
    if np.any(flux <= 0) or not np.all(np.isfinite(flux)):
        raise InputError("fluxes must be positive numbers; got others; leave such sources out")
    n_found, n_missed, least = found.sum(), (~found).sum(), _MIN_CURVE_SOURCES
    if min(n_found, n_missed) < least:
        raise InputError(
            f"expected {least} found and {least} missed sources or more; got {n_found} and "
            f"{n_missed}; take more sources"
        )
    log_flux = np.log(flux)
    middle = log_flux[found].min() * 0.5 + np.median(log_flux[found]) * 0.5
    start = np.array([logit(0.95), middle, np.log(3.0)])

    def cost(values):
        chance = expit(values[0]) * expit(np.exp(values[2]) * (log_flux - values[1]))
        chance = np.clip(chance, 1e-12, 1 - 1e-12)
        return -np.sum(np.log(np.where(found, chance, 1 - chance)))

    # the plateau is 1 in the limit: keep it finite
    limits = [(-10.0, 10.0), (log_flux.min() - 1, log_flux.max() + 1), (-3.0, 4.0)]
    best = minimize(cost, start, method="Nelder-Mead", bounds=limits, options={"maxiter": 2000}).x
    return CompletenessCurve(float(expit(best[0])), float(np.exp(best[1])), float(np.exp(best[2])))


# Tables


def all_tables(matches, *, threshold=-np.inf):
    """Tables of matches of all candidates, by name; detections from a threshold on are listed."""
    listed = matches.select(threshold)
    return {
        "summary_table": summary_table(matches, threshold=threshold),
        "by_threshold": by_threshold(matches),
        **{name: binned_scores(listed, name) for name in _BINNED},
        "by_class": by_class(listed),
        "numbers_per_tile": numbers_per_tile(listed),
        "measurement_errors": measurement_errors(listed),
        "reliability": reliability(matches),
        "expected_numbers": expected_numbers(listed),
        "false_positives": false_positives(listed),
        "false_negatives": false_negatives(listed),
        **class_tables(listed),
    }


def summary_table(matches, *, threshold=-np.inf):
    """Main scores of each region of the sky."""
    listed = matches.select(threshold)
    whole, part = (list(m.by_sky().values()) for m in (matches, listed))
    n_true, n_listed, n_correct = np.transpose(
        [(e.n_true, len(e.correct), e.correct.sum()) for e in part]
    )
    columns = {
        "Sky": list(SKIES), "N_True": n_true, "N_Listed": n_listed,
        **fraction_columns("Completeness", n_correct, n_true),
        **fraction_columns("Purity", n_correct, n_listed),
        "F1": _f1(n_correct, n_true, n_listed),
        "Average_Precision": [e.average_precision for e in whole],
        "Completeness_At_95": [e.completeness_at(0.95)[0] for e in whole],
        "Median_Offset": [e.median_offset_deg for e in part], **_flux_limits(listed),
    }  # fmt: skip
    return score_table(
        "Summary",
        "Completeness of the true sources with at least 8 expected photons and purity of the list. "
        "Average precision and completeness at 95 % purity are those of all candidates, the other "
        "numbers those of the list. Half of the true sources are found at Flux_50, 90 % at "
        "Flux_90: a logistic curve with a plateau is fitted to those of 3 expected photons or "
        "more.",
        columns,
        units={"Median_Offset": "deg", "Flux_50": FLUX_UNIT, "Flux_90": FLUX_UNIT},
        meta={"threshold": float(threshold)} if np.isfinite(threshold) else {},
    )


def _f1(n_correct, n_true, n_listed):
    """Harmonic mean of completeness and purity; NaN where both are unknown."""
    total = np.asarray(n_true + n_listed, float)
    return 2 * n_correct / np.where(total > 0, total, np.nan)


def _flux_limits(matches):
    """Fluxes of 50 and 90 % completeness and the plateau; NaN where no curve can be fitted."""
    flux, rows = true_flux(matches), []
    used = matches.is_class("counted", "faint") & (flux > 0)
    for limits in SKIES.values():
        here = used & matches.in_latitudes(limits)[1]
        try:
            curve = fit_completeness(flux[here], matches.is_found[here])
            rows.append([curve.flux_at(0.5), curve.flux_at(0.9), curve.plateau])
        except InputError:  # too few found or missed sources
            rows.append([np.nan] * 3)
    values = np.where(np.isinf(rows), np.nan, rows).T
    return dict(zip(("Flux_50", "Flux_90", "Plateau"), values))


def by_threshold(matches):
    """Completeness, purity and F1 of the list down to each score, at most 200 rows per region."""
    parts = []
    for sky, scores in matches.by_sky().items():
        last = np.flatnonzero(np.diff(scores.score, append=-np.inf))  # of equal scores
        if len(last) > _MAX_THRESHOLDS:
            last = last[np.linspace(0, len(last) - 1, _MAX_THRESHOLDS).round().astype(int)]
        n_correct, n_listed = np.cumsum(scores.correct)[last], last + 1.0
        parts.append({
            "Sky": np.full(len(last), sky), "Score": scores.score[last],
            "Completeness": n_correct / (scores.n_true or np.nan), "Purity": n_correct / n_listed,
            "F1": _f1(n_correct, scores.n_true, n_listed),
        })  # fmt: skip
    about = "Completeness, purity and F1 of the list of all candidates down to a Score."
    return score_table("Scores by threshold", about, _stacked(parts))


def _stacked(parts):
    """Columns of several regions, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# Title, edges and unit of the bins, function that returns the values of the true sources and of the
# detections, classes of the true sources, and text of each table of binned scores.
_BINNED = {
    "by_photons": (
        "By photons", PHOTON_EDGES, None,
        lambda matches: [numbers_of(table, "Npred") for table in (matches.truth, matches.catalog)],
        ("counted", "faint"),
        "Completeness in bins of the expected photons of the true sources, from 3 on, though only "
        "those of 8 or more count in the summary; purity in bins of the measured photons.",
    ),
    "by_flux": (
        "By flux", 10.0 ** (np.arange(-80, 1) / 4), FLUX_UNIT,
        lambda matches: (true_flux(matches), numbers_of(matches.catalog, "Flux", FLUX_UNIT)),
        ("counted", "faint"),
        "Completeness in bins of the flux of the true sources, from 3 expected photons on, "
        "though only those of 8 or more count in the summary; purity in bins of the measured flux.",
    ),
    "by_sqrt_ts": (
        "By sqrt(TS)",
        (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 3000, 10_000), None,
        lambda matches: (np.zeros(len(matches.truth)), numbers_of(matches.catalog, "Sqrt_TS")), (),
        "Purity in bins of the square root of the likelihood test statistic.",
    ),
    "by_latitude": (
        "By latitude", (0, 2, 5, 10, 20, 30, 45, 60, np.nextafter(90, 91)), "deg",  # with the pole
        lambda matches: (matches.true_latitude, matches.latitude), ("counted",),
        "Completeness and purity in bins of the absolute Galactic latitude.",
    ),
}  # fmt: skip


def binned_scores(matches, name):
    """Completeness and purity in bins of photons, flux, sqrt(TS) or latitude."""
    title, edges, unit, values_of, classes, about = _BINNED[name]
    true_value, value = values_of(matches)
    used, listed = matches.is_class(*classes), matches.is_listed
    edges = edges_around(np.append(true_value[used], value[listed]), edges)
    selections = (
        true_value[used], true_value[used & matches.is_found],
        value[listed], value[matches.is_true_positive],
    )  # fmt: skip
    n_true, n_found, n_listed, n_correct = (
        np.histogram(values, edges)[0] if len(edges) > 1 else np.zeros(0, int)
        for values in selections
    )
    columns = {"Low": edges[:-1], "High": edges[1:]}
    if classes:
        columns |= {"N_True": n_true, "N_Found": n_found}
        columns |= fraction_columns("Completeness", n_found, n_true)
    columns |= {"N_Listed": n_listed, "N_True_Positive": n_correct}
    columns |= fraction_columns("Purity", n_correct, n_listed)
    table = score_table(title, about, columns, units={"Low": unit, "High": unit})
    return table[(n_true > 0) | (n_listed > 0)]


def by_class(matches):
    """Completeness by true class."""
    counted, found = matches.is_class("counted"), matches.is_found
    true_class = texts_of(matches.truth, "Class")
    names = np.unique(true_class[counted & (true_class != "")])
    n_true, n_found = (
        np.array([np.sum(mask & (true_class == name)) for name in names], int)
        for mask in (counted, counted & found)
    )
    columns = {"Class": names.astype(str), "N_True": n_true, "N_Found": n_found}
    columns |= fraction_columns("Completeness", n_found, n_true)
    return score_table("By class", "Completeness by the class of the true sources.", columns)


def numbers_per_tile(matches):
    """Numbers of true sources and of listed detections in each tile, such as a patch."""
    tiles = [np.asarray(table["Tile"], str) for table in (matches.truth, matches.catalog)]
    names = np.unique(np.concatenate(tiles))
    n_true, n_listed = (
        np.bincount(np.searchsorted(names, tile[rows]), minlength=len(names))
        for tile, rows in zip(tiles, (matches.is_class("counted"), matches.is_listed))
    )
    meta, excess = dict.fromkeys(("correlation", "bias", "scatter"), np.nan), n_listed - n_true
    if len(names):
        meta |= {"bias": float(excess.mean()), "scatter": float(excess.std())}
        if np.ptp(n_true) and np.ptp(n_listed):
            meta["correlation"] = float(np.corrcoef(n_true, n_listed)[0, 1])
    return score_table(
        "Numbers of sources",
        "True sources with at least 8 expected photons and listed detections in each patch; bias "
        "and scatter are the mean and the standard deviation of listed minus true numbers.",
        {"Tile": names, "N_True": n_true, "N_Listed": n_listed},
        meta=meta,
    )


def reliability(matches):
    """Fraction of real candidates in ranges of ``Score``; ``meta["ece"]``: see the text."""
    parts, errors = [], {}
    for sky, (score, real) in matches.judged().items():
        kept = score >= SCORE_EDGES[0]
        errors[sky] = calibration_error(score[kept], real[kept])
        n, n_real = (np.histogram(values, SCORE_EDGES)[0] for values in (score, score[real]))
        total = np.histogram(score, SCORE_EDGES, weights=score)[0]
        n_above, real_above, total_above = (np.cumsum(x[::-1])[::-1] for x in (n, n_real, total))
        parts.append({
            "Sky": np.full(len(n), sky), "Low": SCORE_EDGES[:-1], "High": SCORE_EDGES[1:],
            "Mean_Score": total / np.where(n > 0, n, np.nan), "N": n, "N_Real": n_real,
            **fraction_columns("Fraction_Real", n_real, n),
            **fraction_columns("Real_Above", real_above, n_above),
            "Expected_Above": total_above / np.where(n_above > 0, n_above, np.nan),
        })  # fmt: skip
    return score_table(
        "Reliability",
        "Real candidates in ranges of Score. A candidate is real if at least a third of its counts "
        "are photons of a true point source of any brightness within the matching radius that no "
        "better candidate has taken. Real_Above is the fraction of real ones among all "
        "candidates from Low on, and Expected_Above their mean Score. Other candidates inside "
        "extended sources are left out. The expected calibration error is the mean difference of "
        "Score and Fraction_Real.",
        _stacked(parts),
        meta={"ece": errors},
    )


def expected_numbers(matches):
    """Sum of ``Score`` and number of real detections in each region; NaN without probabilities."""
    regions = matches.judged().values()
    n, n_real = np.array([(len(real), real.sum()) for _, real in regions]).T
    expected, variance = np.array([(p.sum(), (p * (1 - p)).sum()) for p, _ in regions]).T
    is_probability = [np.all((p >= 0) & (p <= 1)) for p, _ in regions]
    expected = np.where(is_probability, expected, np.nan)
    return score_table(
        "Expected numbers",
        "Number of real detections in the list as Score predicts it, which is the sum of Score, "
        "with the width of its distribution, and the true number of them by the rule of the table "
        "of reliability. Ratio is true over expected.",
        {
            "Sky": list(SKIES), "N_Listed": n, "Expected": expected,
            "Unc_Expected": np.sqrt(np.where(is_probability, variance, np.nan)), "N_Real": n_real,
            "Ratio": n_real / np.where(expected > 0, expected, np.nan),
        },
    )  # fmt: skip


def false_positives(matches):
    """False positives of each region, and their number per area."""
    false_positive = matches.has_status("false positive")
    n_skies = matches.area_deg2 / SKY_DEG2
    is_whole = n_skies > 0.5 and abs(n_skies - round(n_skies)) < 1e-3
    kinds = {"N_False": True, "N_Duplicates": matches.catalog["Is_Duplicate"]}
    kinds["N_Real"] = matches.is_real
    inside = [false_positive & matches.in_latitudes(limits)[0] for limits in SKIES.values()]
    low, high = np.sin(np.radians(np.clip(list(SKIES.values()), 0, 90))).T
    area = matches.area_deg2 * np.where(is_whole | (high - low == 1), high - low, np.nan)
    number = {name: np.array([np.sum(i & kind) for i in inside]) for name, kind in kinds.items()}
    rate = 100 * number["N_False"] / np.where(area > 0, area, np.nan)
    return score_table(
        "False positives",
        "Detections that are no true source, and their number per 100 square degrees. N_Duplicates "
        "of them are a second detection of a true source; N_Real have at least a third of their "
        "counts from a point source that is too faint to be counted here.",
        {"Sky": list(SKIES), **number, "Area": area, "Per_100_Deg2": rate},
        units={"Area": "deg2"},
    )


def false_negatives(matches):
    """Counted true sources that are missed, by the circumstances that make them hard to find."""
    truth, counted = matches.truth, matches.is_class("counted")
    reasons = {
        "blended": numbers_of(truth, "Sep_Counted", "deg") < _BLENDED_DEG,
        "near an extended source": numbers_of(truth, "Sep_Extended", "deg") < _BLENDED_DEG,
        "plane": matches.true_latitude < _PLANE_DEG,
        "faint": numbers_of(truth, "Npred") < _FAINT_PHOTONS,
    }
    reasons["none of these"] = ~np.any(list(reasons.values()), axis=0)
    n_true, n_missed = (
        np.array([np.sum(rows & mask) for rows in reasons.values()], int)
        for mask in (counted, counted & ~matches.is_found)
    )
    return score_table(
        "False negatives",
        "Missed true sources with another counted source within 0.5 deg (blended), within 0.5 deg "
        "of the edge of an extended source or inside it, below 5 deg of latitude (plane) and with "
        "fewer than 15 expected photons (faint). A source may have several reasons.",
        {"Reason": list(reasons), "N_Missed": n_missed, "N_True": n_true}
        | fraction_columns("Fraction_Missed", n_missed, n_true),
    )
