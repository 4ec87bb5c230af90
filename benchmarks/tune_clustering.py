"""Scan the clustering preset of a model on validation skies.

    python benchmarks/tune_clustering.py [--model FOLDER] [--seeds 1000 1001] [--template FILE]

Each sky is simulated and read by the network once; then every combination of pixel cut and circle
radius clusters its probability maps. Prints average precision, completeness at 95 % purity with
its threshold, and the median offset of the right detections. Seeds from 1000 are for validation:
the skies whose scores are reported have seeds from 2000.
"""

import argparse
from dataclasses import replace
from itertools import product

from astro_unetloc.catalog import make_catalog
from astro_unetloc.clustering import find_clusters
from astro_unetloc.diffuse import TEMPLATE_SETS
from astro_unetloc.evaluation import combine, evaluate
from astro_unetloc.localization import localize
from astro_unetloc.pipeline import detect
from astro_unetloc.pretrained import load_model
from astro_unetloc.simulation import simulate_sky

CUTS = (0.05, 0.1, 0.2, 0.3)
RADII = (1.5, 2.0, 2.5, 3.0)


def main():
    """Scan and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001])
    parser.add_argument("--template")
    options = parser.parse_args()
    model = load_model(options.model)
    scores = {}
    for number, seed in enumerate(options.seeds):
        variant = list(TEMPLATE_SETS)[number % len(TEMPLATE_SETS)]
        sky_map, truth = simulate_sky(template=options.template, variant=variant, rng=seed)
        run = detect(sky_map, model=model)
        for cut, radius in product(CUTS, RADII):
            config = replace(model.clustering, cut=cut, radius_pix=radius)
            sources = localize(find_clusters(run.probability, config=config), run.patches)
            catalog = make_catalog(sources)
            for name, low, high in (("|b|>10", 10, 91), ("|b|<10", 0, 10)):
                limits = {"min_latitude": low, "max_latitude": high}
                key = (name, cut, radius)
                scores.setdefault(key, []).append(evaluate(catalog, truth, **limits))
    print("where    cut radius     AP   C(95%)  threshold  offset/deg  n_true")
    for (name, cut, radius), parts in sorted(scores.items()):
        score = combine(parts)
        complete, threshold = score.completeness_at(0.95)
        offset = sorted(score.offset_deg)[len(score.offset_deg) // 2]
        print(
            f"{name} {cut:6.2f} {radius:6.1f} {score.average_precision:7.4f} {complete:7.3f} "
            f"{threshold:9.3f} {offset:11.4f} {score.n_true:8d}"
        )


if __name__ == "__main__":
    main()
