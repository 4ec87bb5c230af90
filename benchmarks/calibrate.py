"""Calibration of the score of a model on validation skies, and its error on others.

    python benchmarks/calibrate.py --seeds 1003 1004 1005 1006 --check 1007 1008
        [--model FOLDER] [--template SHAPES] [--least PROBABILITY] [--write]

A logistic regression of `astro_unetloc.unet.model.features` of every candidate of the
simulated skies (the network's probability, sqrt(TS), latitude) gives the probability that it is
real: a true source of any brightness gives a third of its counts. Prints average precision,
completeness and threshold at 95 % purity, and the expected calibration error (15 bins of equal
counts, Score >= 0.05), also for the coefficients in the card of the model (as shipped). --write
puts the new ones, the command, the errors on the skies of --check and the threshold of 95 % purity
at |b| > 10 deg on those of --seeds into the card; the default threshold stays. --least leaves out
candidates below a probability of the network, also from the catalogues of the model: below 10 GeV
their fits would take most of the time. Interstellar models and exposures (4, 7, 12 years)
alternate between skies.
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace

import numpy as np

from astro_unetloc.catalog.table import degrees, numbers
from astro_unetloc.evaluation.metrics import reliability
from astro_unetloc.evaluation.predictions import BRIGHTEST_BELOW_GEV, observed_sky
from astro_unetloc.evaluation.truth import SKIES, join_matches, match_truth
from astro_unetloc.pipeline import find_sources
from astro_unetloc.simulation.diffuse import TEMPLATE_SETS
from astro_unetloc.unet.model import Calibration, features, load_model

YEARS = (7.0, 12.0, 4.0)
PURITY = 0.95
OFF_PLANE = "|b| > 10 deg"


def template_options(seed, template):
    """Options of `simulate_sky`: the templates of a file and the built-in shapes alternate."""
    variants = [*TEMPLATE_SETS, None]
    variant = variants[seed % len(variants)]
    return {"variant": variant, "template": template} if variant and template else {}


def validation_sky(band_edges, seed, template):
    """Map and truth of a simulated sky; interstellar models and exposures alternate."""
    options = template_options(seed, template)
    return observed_sky(band_edges, seed, years=YEARS[seed % len(YEARS)], **options)


def matched_candidates(model, seed, template):
    """`TruthMatches` of the candidates of a simulated sky."""
    sky_map, truth = validation_sky(model.band_edges, seed, template)
    catalog = find_sources(sky_map, model=model, threshold=model.threshold)
    return match_truth(catalog, truth, brightest=bool(model.band_edges[0] < BRIGHTEST_BELOW_GEV))


def options_of(doc, *, seeds=None, check=False):
    """Parser with the options of the benchmarks of a model, --seeds and --check where given."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--template")
    if seeds:
        parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    if check:
        parser.add_argument("--check", type=int, nargs="*", default=[])
        parser.add_argument("--write", action="store_true")
    return parser


def write_card(model, **entries):
    """Put entries into the card of a model."""
    path = model.folder / "card.json"
    card = json.loads(path.read_text()) | entries
    path.write_text(json.dumps(card, indent=1) + "\n")


def known_of(matches):
    """Probability of the network, sqrt(TS) and latitude of the candidates."""
    catalog = matches.catalog
    return numbers(catalog["Probability"]), numbers(catalog["Sqrt_TS"]), degrees(catalog["GLAT"])


def fit(matches, least=0.0):
    """The `Calibration` of candidates, by scikit-learn's logistic regression."""
    probability, sqrt_ts, latitude = (v[matches.is_judged] for v in known_of(matches))
    real = matches.is_real[matches.is_judged]
    known = np.isfinite(sqrt_ts)
    terms = features(probability, sqrt_ts, latitude)[known]
    # without sqrt(TS) its terms are zero for all
    blind = features(probability, np.full(len(real), np.nan), latitude)
    return Calibration(_regression(terms, real[known]), _regression(blind, real), least)


def _regression(terms, real):
    """Constant and factors, in the units of the terms."""
    from sklearn.linear_model import LogisticRegression

    mean, width = terms.mean(axis=0), terms.std(axis=0)
    width = np.where(width > 0, width, 1.0)
    found = LogisticRegression(C=10.0, max_iter=2000).fit((terms - mean) / width, real)
    factors = found.coef_[0] / width
    return (float(found.intercept_[0] - factors @ mean), *map(float, factors))


def scored(matches, score):
    """Matches with another ``Score`` of each candidate."""
    catalog = matches.catalog.copy()
    catalog["Score"] = score
    return replace(matches, catalog=catalog)


def parts_of(matches):
    """Scores of each part of the sky but the whole."""
    limits = list(SKIES.items())[1:]
    return {n: matches.evaluation(min_latitude=a, max_latitude=b) for n, (a, b) in limits}


def report(matches, name):
    """Print one line for each part of the sky."""
    errors = reliability(matches).meta["ece"]
    for part, scores in parts_of(matches).items():
        complete, threshold = scores.completeness_at(PURITY)
        print(
            f"{name:<12} {part}  AP {scores.average_precision:.4f}  completeness {complete:.3f} at "
            f"Score {threshold:.3f}  calibration error {errors[part]:.4f} "
            f"({len(scores.score)} candidates)",
            flush=True,
        )


def main():
    """Fit, check and write."""
    parser = options_of(__doc__, seeds=[1003, 1004, 1005, 1006], check=True)
    parser.add_argument("--least", type=float, default=0.0)
    options = parser.parse_args()
    model = load_model(options.model)
    shipped = model.calibration
    model.card.pop("calibration", None)
    model.card["threshold"] = options.least
    known, *check = (
        join_matches([matched_candidates(model, seed, options.template) for seed in seeds])
        for seeds in (options.seeds, options.check)
        if seeds
    )
    calibration = fit(known, options.least)

    def score(found, measured=True, by=calibration):
        probability, sqrt_ts, latitude = known_of(found)
        sqrt_ts = sqrt_ts if measured else np.full(len(sqrt_ts), np.nan)
        return scored(found, by.score(probability, sqrt_ts, latitude))

    for name, found in zip(("fitted on", "checked on"), (known, *check)):
        report(scored(found, known_of(found)[0]), "network")
        if shipped is not None:
            report(score(found, by=shipped), "as shipped")
        report(score(found, measured=False), "not measured")
        report(score(found), name)
    scores, real = score(known).judged()[OFF_PLANE]
    order = np.argsort(-scores)
    purity = np.cumsum(real[order]) / np.arange(1, len(order) + 1)
    threshold = float(scores[order][purity >= PURITY].min(initial=1.0))
    print(f"threshold of {PURITY:.0%} real ones at {OFF_PLANE}: {threshold:.3f}")
    if options.write:
        errors = reliability(score(check[0])).meta["ece"] if check else {}
        calibration = vars(calibration) | {
            "seeds": options.seeds,
            "command": shlex.join(["python", "benchmarks/calibrate.py", *sys.argv[1:]]),
            "errors": {"seeds": options.check} | {s: round(e, 4) for s, e in errors.items()},
            "threshold_95_purity": round(threshold, 3),
        }
        write_card(model, calibration=calibration)


if __name__ == "__main__":
    main()
