"""Scan the numbers of the peers of compare_peers.py on a validation sky.

    python benchmarks/tune_peers.py [--patches 24] [--seed 1000] [--template FILE --variant NAME]
        [--peers ts,dao,log]

Prints average precision, completeness at 95 % purity and median offset for each combination. TS
maps are told the true diffuse emission. Seeds from 1000 are for validation.
"""

import argparse
from dataclasses import replace
from itertools import product

import compare_peers
import numpy as np
import peers
from found import Found

from astro_unetloc.evaluation.metrics import combine

WIDTHS = {
    "smooth_pix": (1.0, 1.4, 2.0),
    "kernel_pix": (1.2, 1.6, 2.0),
    "noise_pix": (12.0, 24.0, 48.0),
}
# A TS map costs seconds: one number is changed at a time.
TS = ({}, {"sum_bands": True}, {"kernel_deg": 1.5}, {"index": 2.0})
DISTANCES = (1, 2, 3, 4)


def combinations(config, choices):
    """All changes of a configuration."""
    for values in product(*choices.values()):
        yield replace(config, **dict(zip(choices, values)))


def print_scores(label, parts, sky, chosen):
    """One line of scores of rows found in each patch."""
    rows = np.concatenate([np.column_stack([np.full(len(r), n), r]) for n, r in enumerate(parts)])
    found = Found(rows, np.zeros(len(parts)))
    scores = compare_peers.score_patches(found, lambda _: sky, chosen)
    text = []
    for parts in scores.values():
        score = combine(parts)
        text.append(f"{score.average_precision:.3f} {score.completeness_at(0.95)[0]:.3f} ")
    offset = np.median(combine(scores["all sky"]).offset_deg)
    print(*text, f"{offset:.4f}", label, flush=True)


def main():
    """Scan and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--template")
    parser.add_argument("--variant", default="PIBREM+ICS")
    parser.add_argument("--peers", default="dao,log,ts")
    options = parser.parse_args()
    sky = compare_peers.make_sky(options.seed, template=options.template, variant=options.variant)
    rng = np.random.default_rng(options.seed)
    chosen = compare_peers.choose_patches(options.patches, 1, rng)
    psf, fields = peers.psf_map(), [compare_peers.field_of(sky, patch) for _, patch in chosen]
    print("AP and completeness: all sky, |b|>10, |b|<10; median offset (deg)")
    finders = {"dao": (peers.dao_sources, peers.DAO), "log": (peers.log_sources, peers.LOG)}
    for name in finders.keys() & set(options.peers.split(",")):
        finder, default = finders[name]
        for config in combinations(default, WIDTHS):
            parts = [compare_peers.sky_rows(f.plane, *finder(f, config)) for f in fields]
            print_scores(f"{name} {config}", parts, sky, chosen)
    if "ts" not in options.peers.split(","):
        return
    kernel = peers.psf_kernel(psf)
    told = sky.sky.background, sky.sky.nside
    backgrounds = [peers.expected_photons(*told, f.plane, kernel) for f in fields]
    for change in TS:
        config = replace(peers.TSConfig(), **change)
        maps = [peers.ts_map(f, b, psf, config) for f, b in zip(fields, backgrounds)]
        for distance in DISTANCES:
            here = replace(config, min_distance_pix=distance)
            parts = [
                compare_peers.sky_rows(f.plane, *peers.ts_peaks(m, here))
                for f, m in zip(fields, maps)
            ]
            print_scores(f"ts {here}", parts, sky, chosen)


if __name__ == "__main__":
    main()
