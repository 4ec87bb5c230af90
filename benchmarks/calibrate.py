"""Calibrate the score of a model on validation skies, and check it on others.

    python benchmarks/calibrate.py --seeds 1003 1004 1005 1006 --check 1007 1008 \
        [--model FOLDER] [--template SHAPES] [--write]

Every candidate of the simulated skies (the network's probability, sqrt(TS), latitude) is judged by
the truth; a logistic regression of `astro_unetloc.calibration.FEATURES` gives the probability that
it is real. Prints average precision, completeness and threshold at 95 % purity, and the expected
calibration error (15 bins of equal counts, Score >= 0.05). --write puts the coefficients and the
threshold of 95 % purity at |b| > 10 deg on the skies of --seeds into the card of the model folder;
the threshold listed by default stays.
Interstellar models and exposures (4, 7, 12 years) take turns.
"""

import argparse
import json
from dataclasses import dataclass

import numpy as np

from astro_unetloc.calibration import Calibration, features
from astro_unetloc.diffuse import TEMPLATE_SETS
from astro_unetloc.evaluation import Evaluation, evaluate
from astro_unetloc.pipeline import detect
from astro_unetloc.pretrained import load_model
from astro_unetloc.references import numbers
from astro_unetloc.simulation import simulate_sky

YEARS = (7.0, 12.0, 4.0)
PURITY = 0.95
N_BINS, MIN_SCORE = 15, 0.05


@dataclass(frozen=True)
class Candidates:
    """n judged candidates: what is known of them, whether they are real, and the true sources."""

    probability: np.ndarray
    sqrt_ts: np.ndarray
    latitude: np.ndarray
    real: np.ndarray
    n_true: dict


def template_options(seed, template):
    """Options of `simulate_sky`: the templates of a file and the built-in shapes take turns."""
    variants = [*TEMPLATE_SETS, None]
    variant = variants[seed % len(variants)]
    return {"variant": variant, "template": template} if variant and template else {}


def judged_candidates(model, seed, template):
    """Candidates of a simulated sky; those of faint or extended true sources are left out."""
    options = template_options(seed, template)
    sky_map, truth = simulate_sky(rng=seed, years=YEARS[seed % len(YEARS)], **options)
    catalog = detect(sky_map, model=model, threshold=0.0).catalog
    ranked = catalog.copy()
    ranked["Score"] = np.arange(len(catalog), 0.0, -1.0)  # so that a score tells its row
    whole = evaluate(ranked, truth)
    rows = (len(catalog) - whole.score).astype(int)
    limits = {"hi": (10, 91), "lo": (0, 10)}
    n_true = {
        name: evaluate(ranked, truth, min_latitude=low, max_latitude=high).n_true
        for name, (low, high) in limits.items()
    }
    return Candidates(
        np.asarray(catalog["Probability"], float)[rows],
        numbers(catalog["Sqrt_TS"])[rows],
        catalog["GLAT"].to_value("deg")[rows],
        whole.correct,
        n_true,
    )


def join(parts):
    """The candidates of several skies."""
    names = ("probability", "sqrt_ts", "latitude", "real")
    arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
    return Candidates(*arrays, {k: sum(p.n_true[k] for p in parts) for k in ("hi", "lo")})


def fit(candidates):
    """The `Calibration` of candidates, by scikit-learn's logistic regression."""
    terms = features(candidates.probability, candidates.sqrt_ts, candidates.latitude)
    known = np.isfinite(candidates.sqrt_ts)
    # without sqrt(TS) its terms are zero for all
    blind = features(candidates.probability, np.full(len(terms), np.nan), candidates.latitude)
    return Calibration(
        _regression(terms[known], candidates.real[known]), _regression(blind, candidates.real)
    )


def _regression(terms, real):
    """Constant and factors, in the units of the terms."""
    from sklearn.linear_model import LogisticRegression

    mean, width = terms.mean(axis=0), terms.std(axis=0)
    width = np.where(width > 0, width, 1.0)
    found = LogisticRegression(C=10.0, max_iter=2000).fit((terms - mean) / width, real)
    factors = found.coef_[0] / width
    return (float(found.intercept_[0] - factors @ mean), *map(float, factors))


def calibration_error(score, real):
    """Mean distance of score and share of real ones in bins of equal counts."""
    kept = score >= MIN_SCORE
    order = np.argsort(score[kept])
    bins = np.array_split(order, N_BINS)
    gaps = [abs(score[kept][b].mean() - real[kept][b].mean()) * len(b) for b in bins]
    return float(np.sum(gaps) / max(kept.sum(), 1)), int(kept.sum())


def scores(score, real, n_true):
    """Average precision, completeness and threshold at 95 % purity."""
    order = np.argsort(-score, kind="stable")
    judged = Evaluation(n_true, score[order], real[order], 0, np.zeros(0))
    return judged.average_precision, *judged.completeness_at(PURITY)


def report(candidates, score, name):
    """Print one line for each part of the sky."""
    for part, here in parts_of(candidates.latitude):
        real, n_true = candidates.real[here], candidates.n_true[part]
        average, complete, threshold = scores(score[here], real, n_true)
        error, number = calibration_error(score[here], real)
        print(
            f"{name:<12} {part}  AP {average:.4f}  completeness {complete:.3f} at Score "
            f"{threshold:.3f}  calibration error {error:.4f} ({number} candidates)"
        )


def parts_of(latitude):
    """High and low latitudes: name and mask."""
    return ("hi", np.abs(latitude) >= 10), ("lo", np.abs(latitude) < 10)


def main():
    """Fit, check and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--template")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1003, 1004, 1005, 1006])
    parser.add_argument("--check", type=int, nargs="*", default=[])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    model = load_model(options.model)
    model.card.pop("calibration", None)
    model.card["threshold"] = 0.0
    train, check = (
        [judged_candidates(model, seed, options.template) for seed in seeds]
        for seeds in (options.seeds, options.check)
    )
    known = join(train)
    calibration = fit(known)
    card = json.loads((model.folder / "card.json").read_text())
    for name, found in (("fitted on", known), *[("checked on", join(check))] * bool(check)):
        report(found, found.probability, "network")
        unmeasured = np.full(len(found.real), np.nan)
        blind = calibration.score(found.probability, unmeasured, found.latitude)
        report(found, blind, "not measured")
        score = calibration.score(found.probability, found.sqrt_ts, found.latitude)
        report(found, score, name)
    high = dict(parts_of(known.latitude))["hi"]
    score = calibration.score(known.probability, known.sqrt_ts, known.latitude)
    threshold = scores(score[high], known.real[high], known.n_true["hi"])[2]
    print(f"threshold of {PURITY:.0%} purity at |b| > 10 deg: {threshold:.3f}")
    if options.write:
        card["calibration"] = vars(calibration) | {
            "seeds": options.seeds,
            "threshold_95_purity": round(float(threshold), 3),
        }
        (model.folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
