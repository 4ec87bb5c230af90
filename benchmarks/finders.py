"""The finders side by side on simulated skies of several kinds of maps.

    python benchmarks/finders.py [--finders unet scan both] [--skies 1] [--seed 2000]
        [--kinds 10gev 20gev 50gev 1yr 12yr cube 500mev] [--template SHAPES --variant NAME]
        [--rank Score]

Kinds are whole skies of seven years above 10 GeV (events), except for what their names state.
"cube" are counts in HEALPix pixels of 0.23 deg and five bands, "500mev" is that of lat-500mev. For
each kind and finder: average precision over the sky, above and below |b| of 10 deg; completeness at
95 % purity; median offset; real and listed detections in the default list, and the sum of Score;
detections in the default list of 1000 square degrees of |b| > 20 deg without sources (their sky has
the smooth emission alone); seconds. Then the differences from the first finder in average
precision, with 95 % intervals of paired bootstraps over the patches of the sky.
"""

import time
from pathlib import Path

import numpy as np
from options import options_of

from astro_unetloc.catalog.table import degrees, numbers
from astro_unetloc.evaluation.comparison import compare
from astro_unetloc.evaluation.predictions import BRIGHTEST_BELOW_GEV, narrowed, observed_sky
from astro_unetloc.evaluation.truth import grid_tiles, join_matches, match_truth
from astro_unetloc.pipeline import detect
from astro_unetloc.sphere import SKY_DEG2
from astro_unetloc.unet.model import load_model

KINDS = {
    "10gev": {}, "20gev": {"lowest": 20.0}, "50gev": {"lowest": 50.0}, "1yr": {"years": 1.0},
    "12yr": {"years": 12.0}, "cube": {"nside": 256}, "500mev": {"model": "lat-500mev"},
}  # fmt: skip
BLANK_LATITUDE = 20.0
BLANK_DEG2 = SKY_DEG2 * (1 - np.sin(np.radians(BLANK_LATITUDE)))


def make_map(model, seed, *, lowest=None, **options):
    """Map of a simulated sky above an energy (GeV), and its true sources."""
    edges = model.band_edges
    if lowest is not None:
        edges = narrowed(edges, (lowest, edges[-1]))
    return observed_sky(edges, seed, **options)


def search(model, finder, sky_map, truth, seed, rank):
    """`TruthMatch` of a finder, ranked by a column, its default list, and seconds."""
    started = time.perf_counter()
    catalog = detect(sky_map, model=model, finder=finder, threshold=0.0, classify=False).catalog
    spent = time.perf_counter() - started
    listed = np.asarray(catalog["Score"]) >= model.threshold
    total = float(catalog["Score"][listed].sum())
    brightest = bool(model.band_edges[0] < BRIGHTEST_BELOW_GEV)
    how = {"brightest": brightest, "tile": grid_tiles(seed), "area_deg2": SKY_DEG2}
    matches = match_truth(catalog, truth, **how)
    judged = matches.is_judged & (numbers(matches.catalog["Score"]) >= model.threshold)
    numbers_listed = int(judged.sum()), int((judged & matches.is_real).sum()), total
    if rank != "Score":
        catalog["Score"] = catalog[rank]
        matches = match_truth(catalog, truth, **how)
    return matches, numbers_listed, spent


def false_of_blank(model, finder, setting, options, seed):
    """Detections in 1000 square degrees of a sky with the smooth emission alone."""
    sky_map, _ = make_map(model, seed, **setting, **options, with_sources=False)
    catalog = detect(sky_map, model=model, finder=finder, classify=False).catalog
    high = np.abs(degrees(catalog["GLAT"])) > BLANK_LATITUDE
    return high.sum() * 1000 / BLANK_DEG2


def show(kind, finder, matches, listed, blank, seconds):
    """Print the row of one finder."""
    skies = matches.by_sky().values()
    precision = " ".join(f"{e.average_precision:.4f}" for e in skies)
    whole = next(iter(matches.by_sky().values()))
    n, real, total = listed
    print(
        f"{kind:7} {finder:5} AP {precision}  c95 {whole.completeness_at(0.95)[0]:.3f}  offset "
        f"{whole.median_offset_deg:.4f}  real {real}/{n}, sum of Score {total:.1f}  blank "
        f"{blank:.2f}  {seconds:.1f} s",
        flush=True,
    )


def show_difference(kind, name, matches, other, other_matches):
    """Print the differences of two finders in average precision."""
    rows = compare(matches, other_matches)
    rows = rows[rows["Statistic"] == "average precision"]
    cells = rows.iterrows("Sky", "Difference", "Low", "High")
    text = ", ".join("{} {:+.4f} ({:+.4f} to {:+.4f})".format(*row) for row in cells)
    print(f"{kind:7} {name} - {other}: {text}", flush=True)


def main(arguments=None):
    """Search the skies of each kind and print the table."""
    options = options_of(
        __doc__, finders=["unet", "scan", "both"], skies=1, seed=2000, kinds=[*KINDS],
        template=Path, variant="PIBREM+ICS", rank="Score",
    ).parse_args(arguments)  # fmt: skip
    emission = {"template": options.template, "variant": options.variant}
    seeds = range(options.seed, options.seed + options.skies)
    for kind in options.kinds:
        setting = dict(KINDS[kind])
        model, found = load_model(setting.pop("model", None)), {}
        for seed in seeds:
            sky_map, truth = make_map(model, seed, **setting, **emission)
            for finder in options.finders:
                made = search(model, finder, sky_map, truth, seed, options.rank)
                found.setdefault(finder, []).append(made)
        joined = {}
        for finder, parts in found.items():
            matches, listed, seconds = zip(*parts)
            joined[finder] = join_matches(list(matches))
            blank = false_of_blank(model, finder, setting, emission, options.seed)
            total = tuple(np.sum(listed, axis=0))
            show(kind, finder, joined[finder], (*map(int, total[:2]), total[2]), blank,
                 np.mean(seconds))  # fmt: skip
        first, *others = joined
        for other in others:
            show_difference(kind, other, joined[other], first, joined[first])


if __name__ == "__main__":
    main()
