"""Average precision for values of the clustering parameters, on validation skies.

    python benchmarks/tune_clustering.py [--model FOLDER] [--seeds 1000 1001] [--template FILE]

Each sky is simulated and searched once; then its probability maps are clustered with the parameters
of the model, and with one of pixel threshold, circle radius and overlap penalty changed at a time.
Prints average precision, completeness at 95 % purity, the best F1 and its threshold, and the median
offset of the true positives. Candidates are not measured: Score is the network's probability.
Seeds from 1000 are for validation: the skies whose scores are reported have seeds from 2000.
"""

import sys
from dataclasses import replace

import numpy as np
from calibrate import template_options
from options import options_of

from astro_unetloc.catalog.table import make_catalog
from astro_unetloc.detection.clustering import find_clusters
from astro_unetloc.detection.localization import localize
from astro_unetloc.evaluation.metrics import evaluate
from astro_unetloc.evaluation.truth import combine
from astro_unetloc.pipeline import clustering_config, detect
from astro_unetloc.simulation.sky import simulate_sky
from astro_unetloc.unet.model import load_model

SCAN = {
    "cut": (0.01, 0.03, 0.1, 0.3),
    "radius_pix": (1.5, 2.0, 2.5, 3.0),
    "overlap_penalty": (-3.0, -10.0, -30.0),
}
PARTS = {"|b|>10": (10, 91), "|b|<10": (0, 10)}


def presets(shipped):
    """The preset of a model, and those with one of its values changed."""
    found = [shipped]
    for name, values in SCAN.items():
        found += [replace(shipped, **{name: v}) for v in values if v != getattr(shipped, name)]
    return found


def best_f1(scores):
    """The best F1 of any threshold, and the threshold."""
    right, number = np.cumsum(scores.correct), np.arange(1, len(scores.correct) + 1)
    f1 = 2 * right / (scores.n_true + number)
    return f1.max(), scores.score[f1.argmax()]


def main():
    """Scan and print a table."""
    options = options_of(__doc__, model=str, seeds=[1000, 1001], template=str).parse_args()
    model = load_model(options.model)
    parts = {}
    for seed in options.seeds:
        sky_map, truth = simulate_sky(rng=seed, **template_options(seed, options.template))
        run = detect(sky_map, model=model, measure=False)
        for preset in presets(clustering_config(model)):
            sources = localize(find_clusters(run.probability, config=preset), run.patches)
            catalog = make_catalog(sources)
            print(f"sky {seed}, {preset}: {len(catalog)} candidates", file=sys.stderr, flush=True)
            for name, (low, high) in PARTS.items():
                limits = {"min_latitude": low, "max_latitude": high}
                parts.setdefault((name, preset), []).append(evaluate(catalog, truth, **limits))
    print("where     cut radius penalty      AP  C(95%)  best F1  threshold  offset/deg")
    for name in PARTS:
        for preset in presets(clustering_config(model)):
            scores = combine(parts[name, preset])
            f1, threshold = best_f1(scores)
            print(
                f"{name} {preset.cut:6.3f} {preset.radius_pix:6.1f} {preset.overlap_penalty:7.0f} "
                f"{scores.average_precision:7.4f} {scores.completeness_at(0.95)[0]:7.3f} {f1:8.4f} "
                f"{threshold:10.3f} {np.median(scores.offset_deg):11.4f}"
            )


if __name__ == "__main__":
    main()
