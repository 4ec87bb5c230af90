"""Scores of the classes of a catalogue: those of its real detections with probabilities.

The true class is that of the true source that makes a detection real. To decide for the class of
the largest probability would nearly always be to decide for AGN. Recalls are therefore those of
decisions for the class whose probability is largest over its mean in the sample.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_auc_score

from astro_unetloc.catalog.table import numbers_of, texts_of
from astro_unetloc.evaluation.comparison import (
    calibration_error,
    edges_around,
    fraction_columns,
    score_table,
)
from astro_unetloc.evaluation.truth import SKIES
from astro_unetloc.simulation.population import CLASSES

_AGN, _PSR = 0, 1  # rows of CLASSES
_PURITY = 0.8  # at which the recall of pulsars is stated
_BRIGHT_PHOTONS = 30.0  # above 10 GeV a pulsar of so many photons can be told from an AGN
_PHOTON_EDGES = (0, 8, 15, 30, 60, 100, 300, 1000, 10_000, np.inf)
_LATITUDE_EDGES = (0, 2, 5, 10, 20, 30, 60, np.nextafter(90, 91))  # with the pole
_PROBABILITY_EDGES = (0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, np.nextafter(1, 2))
_SCORES = (
    "AUC", "Balanced_Accuracy", "Macro_Recall", "PSR_Recall", "PSR_Threshold", "Calibration_Error",
)  # fmt: skip


@dataclass(frozen=True)
class Classified:
    """Real detections with probabilities of the classes and a known true class."""

    probability: np.ndarray  # (n, 3) in the order of CLASSES, sums of 1
    true_class: np.ndarray  # (n,) of int, index into CLASSES
    assigned: np.ndarray  # (n,) of str: ``Class`` in capitals, empty without one
    n_photons: np.ndarray  # (n,), measured
    latitude: np.ndarray  # (n,), absolute Galactic latitude in degrees

    def __len__(self):
        return len(self.true_class)

    def take(self, rows):
        """Some of the detections, by a mask or their row numbers."""
        return Classified(*(values[rows] for values in vars(self).values()))


def classified(matches):
    """`Classified` detections of a truth match."""
    catalog = matches.catalog
    probability = [numbers_of(catalog, f"Prob_{name}") for name in CLASSES]
    names = np.append(texts_of(matches.truth, "Class"), "")[np.asarray(catalog["Real_Row"])]
    sources = Classified(
        np.stack(probability, axis=-1),
        (names[:, None] == np.array(CLASSES)).argmax(axis=1),
        np.char.upper(texts_of(catalog, "Class")),
        numbers_of(catalog, "Npred"),
        matches.latitude,
    )
    return sources.take(np.isin(names, CLASSES) & np.isfinite(probability).all(axis=0))


def class_scores(probability, true_class):
    """Scores of probabilities (n, 3) and true classes (n,) by name; NaN without a class they need.

    ``AUC`` and ``Balanced_Accuracy`` are those of pulsars against AGN, ``Macro_Recall`` is the mean
    over the three classes. ``PSR_Recall`` is the largest fraction of the pulsars in a list of
    sources down to a ``PSR_Threshold`` of ``Prob_PSR`` that is 80 % pure.
    """
    is_psr, pair = true_class == _PSR, true_class <= _PSR
    mean = np.maximum(probability.mean(axis=0), 1e-300)
    with np.errstate(divide="ignore"):  # logarithms tell probabilities near 1 apart
        excess = np.maximum(np.log(probability / mean), -1e3)
    ratio = (excess[:, _PSR] - excess[:, _AGN])[pair]
    has_both = 0 < is_psr.sum() < pair.sum()
    values = (
        roc_auc_score(is_psr[pair], ratio) if has_both else np.nan,
        _mean_recall(is_psr[pair].astype(int), (ratio > 0).astype(int), 2),
        _mean_recall(true_class, excess.argmax(axis=1), len(CLASSES)),
        *_recall_at_purity(is_psr, probability[:, _PSR]),
        calibration_error(probability[:, _PSR], is_psr),
    )
    return dict(zip(_SCORES, values))


def _mean_recall(true_class, decided, n_classes):
    """Mean over the classes of the fraction of correct decisions; NaN without one of them."""
    n_true, n_correct = (
        np.bincount(values, minlength=n_classes)
        for values in (true_class, true_class[decided == true_class])
    )
    return np.mean(n_correct / n_true) if n_true.all() else np.nan


def _recall_at_purity(is_psr, probability):
    """Largest recall of pulsars at ``_PURITY``, and the smallest probability in that list."""
    if not is_psr.any():
        return np.nan, np.nan
    purity, recall, thresholds = precision_recall_curve(is_psr, probability)
    reached = np.flatnonzero(purity[:-1] >= _PURITY)
    return (recall[reached[0]], thresholds[reached[0]]) if len(reached) else (0.0, np.nan)


def score_intervals(probability, true_class, *, n_samples=50, rng=0):
    """68 % intervals (n_scores, 2) of `class_scores`, from a bootstrap.

    The sources of each class are drawn again with replacement (Efron & Tibshirani 1993, An
    Introduction to the Bootstrap, section 13.3), so that no sample lacks a class.
    """
    rng, samples = np.random.default_rng(rng), []
    groups = [np.flatnonzero(true_class == number) for number in np.unique(true_class)]
    for _ in range(n_samples):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        samples.append([*class_scores(probability[rows], true_class[rows]).values()])
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # all may be unknown
        return np.nanpercentile(samples, [16, 84], axis=0).T


# Tables


def class_tables(matches):
    """Tables of the classes of the listed detections, by name."""
    sources = classified(matches)
    samples = {
        sky: (sources.latitude >= low) & (sources.latitude < high)
        for sky, (low, high) in SKIES.items()
    }
    samples["30 photons or more"] = sources.n_photons >= _BRIGHT_PHOTONS
    return {
        "class_scores": _scores_table(
            "Classes", sources, {"Sample": list(samples)}, samples.values()
        ),
        "class_by_photons": _binned(
            "Classes by photons", sources, sources.n_photons, _PHOTON_EDGES
        ),
        "class_by_latitude": _binned(
            "Classes by latitude", sources, sources.latitude, _LATITUDE_EDGES, unit="deg"
        ),
        "confusion": confusion(sources),
        "class_reliability": class_reliability(sources),
    }


def _scores_table(title, sources, columns, masks, units=None):
    """Scores of samples that masks (n,) choose, after columns of labels; without empty samples."""
    parts = [sources.take(mask) for mask in masks]
    kept = [row for row, part in enumerate(parts) if len(part)]
    pairs = [(parts[row].probability, parts[row].true_class) for row in kept]
    values = np.reshape([[*class_scores(*pair).values()] for pair in pairs], (-1, len(_SCORES)))
    ends = np.reshape([score_intervals(*pair) for pair in pairs], (-1, len(_SCORES), 2))
    columns = {name: np.asarray(labels)[kept] for name, labels in columns.items()}
    for number, name in enumerate(CLASSES):
        columns[f"N_{name}"] = np.array([np.sum(true == number) for _, true in pairs], int)
    for number, name in enumerate(_SCORES):
        columns[name] = values[:, number]
        if name != "Calibration_Error":  # that of a bootstrap sample is too large
            columns |= {f"{name}_Low": ends[:, number, 0], f"{name}_High": ends[:, number, 1]}
    expected, variance = np.reshape(
        [(p.sum(), (p * (1 - p)).sum()) for p in (pair[0][:, _PSR] for pair in pairs)], (-1, 2)
    ).T
    columns |= {"Expected_PSR": expected, "Unc_Expected_PSR": np.sqrt(variance)}
    columns["Ratio"] = columns["N_PSR"] / np.where(expected > 0, expected, np.nan)
    about = (
        "Probabilities of the classes of the real detections. AUC, the area under the curve of "
        "true and false positive rates, and balanced accuracy are those of pulsars against AGN, "
        "macro recall is the mean of the recalls of the three classes. Down to PSR_Threshold 80 % "
        "of the listed sources are pulsars, with PSR_Recall of them all. Expected_PSR is the sum "
        "of Prob_PSR with the width of its distribution, Ratio the true number over it. A decision "
        "is for the class whose probability is largest over its mean in the sample. Intervals are "
        "those of a bootstrap."
    )
    return score_table(title, about, columns, units=units)


def class_line(row):
    """One line with the main scores of a row of the table "class_scores"."""
    return (
        f"{row['Sample']:<20}{row['N_PSR']} pulsars, {row['Expected_PSR']:.1f} expected: AUC "
        f"{row['AUC']:.3f}, balanced accuracy {row['Balanced_Accuracy']:.3f}, macro recall "
        f"{row['Macro_Recall']:.3f}, pulsar recall {row['PSR_Recall']:.3f} at purity {_PURITY}, "
        f"calibration error {row['Calibration_Error']:.4f}"
    )


def _binned(title, sources, values, edges, unit=None):
    """Scores in bins of a value (n,)."""
    edges = edges_around(values, edges)
    masks = [(values >= low) & (values < high) for low, high in zip(edges[:-1], edges[1:])]
    columns, units = {"Low": edges[:-1], "High": edges[1:]}, {"Low": unit, "High": unit}
    return _scores_table(title, sources, columns, masks, units)


def confusion(sources):
    """Fractions of the `Classified` detections of each true class by their ``Class``."""
    is_true = [sources.true_class == number for number in range(len(CLASSES))]
    n_true = [mask.sum() for mask in is_true]
    columns = {"Class": list(CLASSES), "N": n_true}
    for name, label in {**{name: f"As_{name}" for name in CLASSES}, "": "Unassigned"}.items():
        n_assigned = [np.sum(mask & (sources.assigned == name)) for mask in is_true]
        columns |= fraction_columns(label, n_assigned, n_true)
    n_assigned = [np.sum(sources.assigned == name) for name in CLASSES]
    n_correct = [np.sum(mask & (sources.assigned == n)) for mask, n in zip(is_true, CLASSES)]
    columns |= {"N_Assigned": n_assigned} | fraction_columns("Correct", n_correct, n_assigned)
    table = score_table(
        "Confusion of classes",
        "Real detections of each true class, and fractions of them by their Class, which is empty "
        "where no class is probable enough. Correct is the fraction of the detections of a Class "
        "of which this is the true class.",
        columns,
    )
    return table[np.asarray(n_true) > 0]


def class_reliability(sources):
    """Fractions of the `Classified` detections of a class in ranges of its probability."""
    parts, errors = [], {}
    for number, name in enumerate(CLASSES):
        p, is_true = sources.probability[:, number], sources.true_class == number
        errors[name] = calibration_error(p, is_true)
        n, n_true, total = (
            np.histogram(p, _PROBABILITY_EDGES, weights=w)[0]
            for w in (None, is_true.astype(int), p)
        )
        columns = {
            "Class": np.full(len(n), name), "Low": _PROBABILITY_EDGES[:-1],
            "High": _PROBABILITY_EDGES[1:], "Mean_Probability": total / np.maximum(n, 1),
            "N": n, "N_True": n_true, **fraction_columns("Fraction_True", n_true, n),
        }  # fmt: skip
        parts.append({key: np.asarray(values)[n > 0] for key, values in columns.items()})
    return score_table(
        "Reliability of the classes",
        "Real detections in ranges of the probability of each class, their mean probability and "
        "the fraction that is of that class. The expected calibration error is the mean difference "
        "of both in 15 bins of equal numbers.",
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        meta={"ece": errors},
    )
