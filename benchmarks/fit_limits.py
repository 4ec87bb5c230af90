"""Fit the detection limit of a model: the expected sqrt(TS) at which half of the sources are found.

    python benchmarks/fit_limits.py --seeds 1003 1004 --check 1008 [--model FOLDER]
        [--template SHAPES] [--write]

Searches simulated skies, gives every true point source of three or more expected photons the
sqrt(TS) that these would have on the background of the sky around it, and fits the share that is
found at several thresholds of Score by a logistic curve. On the skies of --check it prints how many
of the sources near the limit (0.8 to 1.25 of its counts) are found at the default threshold: half
of them should be. --write puts the curve into the card of the model.
"""

import argparse
import json

import numpy as np
from calibrate import YEARS, template_options

from astro_unetloc.completeness import fit_completeness
from astro_unetloc.detection_limits import detection_limits, significances
from astro_unetloc.evaluation import found_scores
from astro_unetloc.geometry import vectors_from_lonlat
from astro_unetloc.pipeline import find_sources
from astro_unetloc.pretrained import load_model
from astro_unetloc.simulation import simulate_sky

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.42, 0.6, 0.8, 0.9)
MIN_PHOTONS = 3.0
NEAR = (0.8, 1.25)


def searched_sky(model, seed, template):
    """Map, true point sources (vectors, photons, latitude) and the Score of each, 0 if missed."""
    options = template_options(seed, template)
    sky_map, truth = simulate_sky(rng=seed, years=YEARS[seed % len(YEARS)], **options)
    catalog = find_sources(sky_map, model=model, threshold=0.0)
    score = np.nan_to_num(found_scores(catalog, truth))
    kept = (truth["Radius"].value == 0) & (truth["Npred"] >= MIN_PHOTONS)
    lon, lat = (truth[name].to_value("deg")[kept] for name in ("GLON", "GLAT"))
    return sky_map, vectors_from_lonlat(lon, lat), truth["Npred"][kept], lat, score[kept]


def half_at(sqrt_ts, score, threshold):
    """The sqrt(TS) at which half of the sources have a Score of the threshold or more."""
    return float(fit_completeness(sqrt_ts, score >= threshold).flux_at(0.5))


def main():
    """Fit, check and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--template")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1003, 1004])
    parser.add_argument("--check", type=int, nargs="*", default=[])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    model = load_model(options.model)
    parts = []
    for seed in options.seeds:
        sky_map, vectors, photons, latitude, score = searched_sky(model, seed, options.template)
        parts.append((significances(sky_map, vectors, photons), latitude, score))
    sqrt_ts, latitude, score = (np.concatenate(column) for column in zip(*parts))
    print(f"{len(score)} true sources\nthreshold   all sky   |b|>10   |b|<10")
    plane = np.abs(latitude) < 10
    for threshold in THRESHOLDS:
        halves = [half_at(sqrt_ts[k], score[k], threshold) for k in (plane | True, ~plane, plane)]
        print(f"{threshold:9.2f} " + " ".join(f"{half:9.2f}" for half in halves), flush=True)
    curve = [round(half_at(sqrt_ts, score, threshold), 2) for threshold in THRESHOLDS]
    for seed in options.check:
        sky_map, vectors, photons, latitude, score = searched_sky(model, seed, options.template)
        half = float(np.interp(model.threshold, THRESHOLDS, curve))
        limit, _ = detection_limits(sky_map, vectors, half)
        near = (photons > NEAR[0] * limit) & (photons < NEAR[1] * limit)
        for name, here in (("|b|>10", np.abs(latitude) >= 10), ("|b|<10", np.abs(latitude) < 10)):
            found = score[near & here] >= model.threshold
            print(f"sky {seed} {name}: {found.mean():.3f} of {len(found)} near the limit are found")
    if options.write:
        path = model.folder / "card.json"
        card = json.loads(path.read_text())
        card["half_found"] = {
            "threshold": list(THRESHOLDS),
            "sqrt_ts": curve,
            "seeds": options.seeds,
        }
        path.write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
