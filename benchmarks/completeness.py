"""Fluxes at which a model finds 50 and 90 % of the true sources of whole simulated skies.

    python benchmarks/completeness.py --model FOLDER [--seeds 2000 2001] [--years 8.2]
        [--template SHAPES] [--no-measure] [--bound]

Simulates skies in the energies of the model and searches them. The fluxes are those of the purity
for which a published deep-learning pipeline states them: 0.98 at |b| > 10 deg and 0.95 below
(arXiv:2103.11068); a detection counts for the brightest source within 0.3 deg. Also prints the
fraction of detections that match a true source by chance, after a rotation of 3 deg in longitude.
8.2 years of the built-in exposure are 9.5 years of UltracleanVeto: 2.2, 2.9, 3.6 and 3.6 x 1e11
cm2 s in 0.5-1, 1-2, 2-7 and 7-20 GeV, and 10 % less than its 4.1 above. With --no-measure the
network alone ranks the candidates. --bound searches nothing: it prints the flux at which 50 and
90 % of the true sources reach an expected sqrt(TS) of 5 if each is alone on the diffuse emission.
"""

import astropy.units as u
import numpy as np
from calibrate import template_options
from options import options_of

from astro_unetloc.catalog.table import degrees, glon_glat_vectors
from astro_unetloc.evaluation.metrics import evaluate, fit_completeness, found_scores
from astro_unetloc.evaluation.predictions import observed_sky
from astro_unetloc.evaluation.truth import MIN_PHOTONS_TRUTH, combine
from astro_unetloc.measurement.limits import significances
from astro_unetloc.pipeline import detect
from astro_unetloc.unet.model import load_model

PARTS = {"|b| > 10 deg": (10.0, 91.0, 0.98), "|b| < 10 deg": (0.0, 10.0, 0.95)}
CHANCE = 3.0 * u.deg
# True sources of each half of the sky, their expected sqrt(TS) and least flux, of the bound.
N_BOUND, SQRT_TS_BOUND, FAINT_BOUND = 1500, 5.0, 5e-11


def chance(catalog, truth, low, high):
    """Fraction of detections at some latitudes that match a source after a turn in longitude."""
    latitude = np.abs(degrees(catalog["GLAT"]))
    turned = catalog[(latitude >= low) & (latitude < high)]
    turned["GLON"] = (turned["GLON"] + CHANCE) % (360 * u.deg)
    return np.isfinite(found_scores(turned, truth)).sum() / max(len(turned), 1)


def sky_of(model, seed, options, **more):
    """Map and truth of a sky."""
    sky = template_options(seed, options.template)
    return observed_sky(model.band_edges, seed, years=options.years, **sky, **more)


def is_counted(truth, low, high):
    """The point sources with enough photons at some latitudes."""
    latitude = np.abs(degrees(truth["GLAT"]))
    counted = (truth["Radius"].value == 0) & (latitude >= low) & (latitude < high)
    return counted & (truth["Npred"] >= MIN_PHOTONS_TRUTH)


def bound(model, seed, options):
    """Print the fluxes at which isolated sources of one sky reach sqrt(TS) 5."""
    truth = sky_of(model, seed, options)[1]
    diffuse = sky_of(model, seed, options, with_sources=False)[0]
    rng = np.random.default_rng(seed)
    for name, (low, high, _) in PARTS.items():
        # far fainter ones, which are most of all, are never detected
        rows = np.flatnonzero(is_counted(truth, low, high) & (truth["Flux"].value > FAINT_BOUND))
        rows = np.sort(rng.permutation(rows)[:N_BOUND])
        counts = np.asarray(truth["Npred"], float)[rows]
        sqrt_ts = significances(diffuse, glon_glat_vectors(truth[rows]), counts)
        curve = fit_completeness(truth["Flux"].value[rows], sqrt_ts >= SQRT_TS_BOUND)
        print(
            f"{name}: sky {seed}: alone, 50 % reach sqrt(TS) {SQRT_TS_BOUND:g} at "
            f"{curve.flux_at(0.5):.3g}, 90 % at {curve.flux_at(0.9):.3g} ph cm-2 s-1",
            flush=True,
        )


def search(model, seed, options):
    """Catalogue with every candidate and the truth of one sky."""
    sky_map, truth = sky_of(model, seed, options)
    run = detect(sky_map, model=model, threshold=0.0, measure=not options.no_measure)
    return run.catalog, truth


def report(skies):
    """Print one paragraph for each part of the sky."""
    for name, (low, high, purity) in PARTS.items():
        limits = {"min_latitude": low, "max_latitude": high}
        whole = combine([evaluate(*sky, **limits) for sky in skies])
        fraction, threshold = whole.completeness_at(purity)
        flux, found = [], []
        for catalog, truth in skies:
            counted = is_counted(truth, low, high)
            listed = catalog[catalog["Score"] >= threshold]
            scores = found_scores(listed, truth, brightest=True)
            flux.append(truth["Flux"].value[counted])
            found.append(np.isfinite(scores)[counted])
        flux, found = np.concatenate(flux), np.concatenate(found)
        curve = fit_completeness(flux, found)
        by_chance = np.mean([chance(c[c["Score"] >= threshold], t, low, high) for c, t in skies])
        print(
            f"{name}: {whole.n_true} true sources with 8 photons, average precision "
            f"{whole.average_precision:.3f}; purity {purity} at Score {threshold:.3f}, where "
            f"{fraction:.3f} of them are found, {found.sum()} with fainter ones\n"
            f"  50 % complete at {curve.flux_at(0.5):.3g}, 90 % at {curve.flux_at(0.9):.3g} "
            f"ph cm-2 s-1 (plateau {curve.plateau:.3f}); by chance {by_chance:.3f} match",
            flush=True,
        )


def main():
    """Simulate, search and print."""
    options = options_of(
        __doc__, model=str, template=str, seeds=[2000, 2001], years=8.2, bound=False,
        no_measure=False,
    ).parse_args()  # fmt: skip
    model = load_model(options.model)
    if options.bound:
        for seed in options.seeds:
            bound(model, seed, options)
        return
    report([search(model, seed, options) for seed in options.seeds])


if __name__ == "__main__":
    main()
