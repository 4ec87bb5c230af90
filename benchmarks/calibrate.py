"""Calibration of ``Score`` on validation skies of several energies and exposures.

    python benchmarks/calibrate.py [--model FOLDER] [--finder unet] [--template SHAPES]
        [--least PROBABILITY]
        [--energies 10 20 50] [--years 1 10] [--seeds 1003 1004 1005 1006 1007]
        [--check 1008 1009 1016 1017] [--write]

Searches each sky above each of the energies (GeV) with each exposure (years), and fits a logistic
regression of `astro_unetloc.unet.model.features` to the candidates: real are those to which a true
source of any brightness gave a third of their counts. Prints for each setting of the skies of
--check, in both parts of the sky: the candidates from a Score of 0.05 on, the sum of Score and how
many are real, the expected calibration error (15 bins of equal counts), and the lowest Score from
which on 95 % are real at |b| > 10 deg and 90 % below. --write puts coefficients, command and errors
into the card of the model; the default threshold stays. --least leaves out candidates below a
probability of the network, also from the catalogues of the model: below 10 GeV their fits would
take most of the time. Interstellar models alternate between skies.
"""

import json
import re
import shlex
import sys
from dataclasses import replace
from itertools import product

import numpy as np
from options import options_of

from astro_unetloc.catalog.table import degrees, make_catalog, numbers
from astro_unetloc.evaluation.metrics import SCORE_EDGES, reliability
from astro_unetloc.evaluation.predictions import BRIGHTEST_BELOW_GEV, narrowed, observed_sky
from astro_unetloc.evaluation.truth import join_matches, match_truth
from astro_unetloc.pipeline import detect
from astro_unetloc.simulation.diffuse import TEMPLATE_SETS
from astro_unetloc.unet.model import (
    CALIBRATIONS,
    FEATURES,
    SCAN_SQRT_TS,
    Calibration,
    features,
    load_model,
)

YEARS = (7.0, 12.0, 4.0)
PURITY = {"|b| > 10 deg": 0.95, "|b| < 10 deg": 0.9}


def template_options(seed, template):
    """Options of `simulate_sky`: the templates of a file and the built-in shapes alternate."""
    variants = [*TEMPLATE_SETS, None]
    variant = variants[seed % len(variants)]
    return {"variant": variant, "template": template} if variant and template else {}


def validation_sky(band_edges, seed, template, years=None):
    """Map and truth of a simulated sky; interstellar models (and unless given years) alternate."""
    options = template_options(seed, template)
    return observed_sky(band_edges, seed, years=years or YEARS[seed % len(YEARS)], **options)


def matched_candidates(model, seed, template, *, energy=None, years=None, finder="unet"):
    """`TruthMatch` of the candidates of a simulated sky above an energy (GeV)."""
    edges = model.band_edges
    if energy is not None:
        edges = narrowed(edges, (energy, edges[-1]))
    sky_map, truth = validation_sky(edges, seed, template, years)
    run = detect(sky_map, model=model, finder=finder, threshold=model.threshold, classify=False)
    catalog = make_catalog(run.sources)
    return match_truth(catalog, truth, brightest=bool(edges[0] < BRIGHTEST_BELOW_GEV))


def write_card(model, **entries):
    """Put entries into the card of a model."""
    path = model.folder / "card.json"
    text = json.dumps(json.loads(path.read_text()) | entries, indent=1)
    # a list of numbers stands in one line
    text = re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text)
    path.write_text(text + "\n")


def known_of(matches):
    """Probability of the network, latitude, sqrt(TS), counts and, of a scan, its sqrt(TS)."""
    catalog = matches.catalog
    names = [n for n in ("Sqrt_TS", "Npred", SCAN_SQRT_TS) if n in catalog.colnames]
    fitted = (numbers(catalog[name]) for name in names)
    return numbers(catalog["Probability"]), degrees(catalog["GLAT"]), *fitted


def fit(matches, least=0.0):
    """The `Calibration` of candidates, by scikit-learn's logistic regression."""
    probability, latitude, *fitted = (values[matches.is_judged] for values in known_of(matches))
    real, known = matches.is_real[matches.is_judged], np.isfinite(fitted[0])
    n_terms = len(FEATURES) if len(fitted) > 2 else FEATURES.index("scan")
    terms = features(probability, latitude, *fitted)[known, :n_terms]
    # without a fit its terms are zero for all
    blind = features(probability, latitude, *np.full((2, len(real)), np.nan))[:, :n_terms]
    return Calibration(_regression(terms, real[known]), _regression(blind, real), least)


def _regression(terms, real):
    """Constant and factors, in the units of the terms."""
    from sklearn.linear_model import LogisticRegression

    mean, width = terms.mean(axis=0), terms.std(axis=0)
    width = np.where(width > 0, width, 1.0)
    found = LogisticRegression(C=10.0, max_iter=5000).fit((terms - mean) / width, real)
    factors = found.coef_[0] / width
    return (float(found.intercept_[0] - factors @ mean), *map(float, factors))


def scored(matches, calibration):
    """Matches with the ``Score`` of a calibration."""
    catalog = matches.catalog.copy()
    catalog["Score"] = calibration.score(*known_of(matches))
    return replace(matches, catalog=catalog)


def report(matches, name):
    """Print one line for each part of the sky; the calibration errors."""
    errors = reliability(matches).meta["ece"]
    for part, purity in PURITY.items():
        score, real = matches.judged()[part]
        order = np.argsort(-score)
        reached = np.cumsum(real[order]) / np.arange(1, len(order) + 1) >= purity
        listed = score >= SCORE_EDGES[0]
        print(
            f"{name:<16} {part}  {listed.sum():6d} candidates, sum {score[listed].sum():8.1f}, "
            f"real {real[listed].sum():6d}, calibration error {errors[part]:.4f}, {purity:.0%} "
            f"real from {score[order][reached].min(initial=1.0):.3f} on",
            flush=True,
        )
    return {part: round(errors[part], 4) for part in PURITY}


def main():
    """Fit, check and write."""
    options = options_of(
        __doc__, model=str, finder="unet", template=str, least=0.0, energies=[10.0, 20.0, 50.0],
        years=[1.0, 10.0], seeds=[1003, 1004, 1005, 1006, 1007], check=[1008, 1009, 1016, 1017],
        write=False,
    ).parse_args()  # fmt: skip
    model = load_model(options.model)
    key = CALIBRATIONS[options.finder]
    for name in {key, "calibration"}:
        model.card.pop(name, None)
    model.card["threshold"] = options.least

    def search(seeds, energy, years):
        setting = {"energy": energy, "years": years, "finder": options.finder}
        return join_matches(
            [matched_candidates(model, seed, options.template, **setting) for seed in seeds]
        )

    settings = list(product(options.energies, options.years))
    known = join_matches([search(options.seeds, *setting) for setting in settings])
    calibration = fit(known, options.least)
    report(scored(known, calibration), "fitted on all")
    errors, checks = {}, []
    for energy, years in settings if options.check else ():
        checks.append(scored(search(options.check, energy, years), calibration))
        name = f"{energy:g} GeV, {years:g} yr"
        errors[name] = report(checks[-1], name)
    if checks:
        errors["all"] = report(join_matches(checks), "all")
    if options.write:
        command = shlex.join(["python", "benchmarks/calibrate.py", *sys.argv[1:]])
        entry = {"seeds": options.seeds, "command": command, "check": options.check}
        write_card(model, **{key: vars(calibration) | entry | {"errors": errors}})


if __name__ == "__main__":
    main()
