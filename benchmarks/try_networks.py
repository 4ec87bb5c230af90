"""Average precision of variants of the network that are trained alike.

    python benchmarks/try_networks.py [--folder networks] [--patches 4000] [--steps 750]
        [--seed 1012] [--template SHAPES] [--only NAME ...]

Makes a patch set of training skies (seeds from 0) in the folder, trains every variant from scratch
on it in the same order, lets it search the same validation sky without the measurement, and prints
average precision above and below 10 deg of latitude. A variant in the folder is not trained again.
After fewer than about 100 steps most pixels are above the cut, and their clustering takes very
long.
"""

import time
from pathlib import Path

from options import options_of

from astro_unetloc.evaluation.metrics import evaluate
from astro_unetloc.pipeline import find_sources
from astro_unetloc.simulation.sky import simulate_sky
from astro_unetloc.training.make import make_patch_set
from astro_unetloc.training.train import train
from astro_unetloc.unet.model import load_model

PATCHES_PER_SKY = 400
BATCH_SIZE = 8
PIXEL_CUT = 0.01
# Options of `train` that differ from those of the shipped network.
VARIANTS = {
    "as shipped": {},
    "Dice loss": {"loss": "dice"},
    "half as wide": {"widths": (16, 24, 32, 48)},
    "half again as wide": {"widths": (48, 72, 96, 144)},
    "three levels": {"widths": (32, 48, 64)},
    "five levels": {"widths": (32, 48, 64, 96, 96)},
}


def trained(name, options):
    """The model of a variant, trained if it is not there."""
    patches, home = options.folder / "set.h5", options.folder / name.replace(" ", "-")
    if not patches.exists():
        # the sky of seed 0 validates, so that there must be a second one to train on
        skies = max(-(-options.patches // PATCHES_PER_SKY), 2)
        each = -(-options.patches // skies)
        make_patch_set(patches, n_skies=skies, patches_per_sky=each, template=options.template)
    if not (home / "card.json").exists():
        same = {"epochs": 1, "steps_per_epoch": options.steps, "batch_size": BATCH_SIZE}
        train(patches, home, verbose=0, **same, **VARIANTS[name])
    return load_model(home)


def main():
    """Train, search and print."""
    options = options_of(
        __doc__, folder=Path("networks"), patches=4000, steps=750, seed=1012, template=str,
        only=list(VARIANTS),
    ).parse_args()  # fmt: skip
    options.folder.mkdir(parents=True, exist_ok=True)
    sky_map, truth = simulate_sky(rng=options.seed)
    print(f"{'variant':<20} parameters  AP |b|>10  |b|<10   minutes", flush=True)
    for name in options.only:
        started = time.perf_counter()
        model = trained(name, options)
        minutes = (time.perf_counter() - started) / 60
        model.card["clustering"]["cut"] = PIXEL_CUT
        catalog = find_sources(sky_map, model=model, measure=False, threshold=0.0)
        high, low = (
            evaluate(catalog, truth, min_latitude=a, max_latitude=b).average_precision
            for a, b in ((10, 91), (0, 10))
        )
        print(f"{name:<20} {model.card['parameters']:>10,}  {high:9.4f} {low:7.4f} {minutes:9.1f}")


if __name__ == "__main__":
    main()
