"""Calibration of ``Score`` on validation skies of several energies and exposures.

    python benchmarks/calibrate.py [--model FOLDER] [--finder unet] [--template SHAPES]
        [--least PROBABILITY]
        [--energies 10 20 50] [--years 1 10] [--seeds 1003 1004 1005 1006 1007]
        [--check 1008 1009 1016 1017] [--write]

Does what `astro_unetloc.calibrate` does, for any finder and with skies of several interstellar
models. Prints for each setting of the skies of --check, in both parts of the sky: the candidates
from a Score of 0.05 on, the sum of Score and how many are real, the expected calibration error (15
bins of equal counts), and the lowest Score from which on 95 % are real at |b| > 10 deg and 90 %
below. --write puts coefficients, command and errors into the card of the model; the default
threshold stays. --least leaves out candidates below a probability of the network, also from the
catalogues of the model: below 10 GeV their fits would take most of the time.
"""

import shlex
import sys
from dataclasses import replace
from itertools import product

import numpy as np
from options import options_of

from astro_unetloc.evaluation.calibration import (
    SEEDS,
    evidence,
    fit_calibration,
    matched_candidates,
    uncalibrated,
)
from astro_unetloc.evaluation.metrics import SCORE_EDGES, reliability
from astro_unetloc.evaluation.predictions import narrowed, observed_sky
from astro_unetloc.evaluation.truth import join_matches
from astro_unetloc.simulation.diffuse import TEMPLATE_SETS
from astro_unetloc.unet.model import CALIBRATIONS, load_model, update_card

YEARS = (7.0, 12.0, 4.0)
PURITY = {"|b| > 10 deg": 0.95, "|b| < 10 deg": 0.9}


def template_options(seed, template):
    """Options of `simulate_sky`: the templates of a file and the built-in shapes alternate."""
    variants = [*TEMPLATE_SETS, None]
    variant = variants[seed % len(variants)]
    return {"variant": variant, "template": template} if variant and template else {}


def validation_sky(band_edges, seed, template):
    """Map and truth of a simulated sky; exposures and interstellar models alternate."""
    return observed_sky(
        band_edges, seed, years=YEARS[seed % len(YEARS)], **template_options(seed, template)
    )


def scored(matches, calibration):
    """Matches with the ``Score`` of a calibration."""
    catalog = matches.catalog.copy()
    catalog["Score"] = calibration.score(*evidence(matches))
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
        years=[1.0, 10.0], seeds=[*SEEDS], check=[1008, 1009, 1016, 1017],
        write=False,
    ).parse_args()  # fmt: skip
    model = load_model(options.model)
    key = CALIBRATIONS[options.finder]
    plain = uncalibrated(model, options.least)

    def search(seeds, energy, years):
        edges = narrowed(model.band_edges, (energy, model.band_edges[-1]))
        setting = {"band_edges": edges, "years": years, "finder": options.finder}
        return join_matches(
            matched_candidates(plain, seed, **setting, **template_options(seed, options.template))
            for seed in seeds
        )

    settings = list(product(options.energies, options.years))
    known = join_matches([search(options.seeds, *setting) for setting in settings])
    calibration = fit_calibration(known, options.least)
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
        update_card(model, **{key: vars(calibration) | entry | {"errors": errors}})


if __name__ == "__main__":
    main()
