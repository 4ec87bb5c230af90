"""Average precision of variants of the network that are trained alike.

    python benchmarks/try_networks.py [--folder networks] [--patches 4000] [--steps 750]
        [--seed 1012] [--template SHAPES] [--only NAME ...]

Makes patch sets of training skies (seeds from 0) in FOLDER, one for each label radius, trains every
variant from scratch on the same patches in the same order, lets it search the same validation sky
without the measurement, and prints average precision above and below 10 deg of latitude. A variant
in FOLDER is not trained again. After fewer than about 100 steps most pixels are above the cut, and
their clustering takes very long.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from options import options_of

from astro_unetloc.evaluation.metrics import evaluate
from astro_unetloc.pipeline import find_sources
from astro_unetloc.simulation.sky import simulate_sky
from astro_unetloc.training.make import make_patch_set
from astro_unetloc.training.observation import TrainingConfig
from astro_unetloc.training.train import train
from astro_unetloc.unet.model import load_model

PATCHES_PER_SKY = 400
BATCH_SIZE = 8
PIXEL_CUT = 0.01


@dataclass(frozen=True)
class Variant:
    """Differences to the shipped network: options of `train`, label radius in pixels."""

    name: str
    options: dict = field(default_factory=dict)
    radius_pix: float = 2.0


VARIANTS = (
    Variant("as shipped"),
    Variant("Dice loss", {"loss": "dice"}),
    Variant("half as wide", {"widths": (16, 24, 32, 48)}),
    Variant("half again as wide", {"widths": (48, 72, 96, 144)}),
    Variant("three levels", {"widths": (32, 48, 64)}),
    Variant("five levels", {"widths": (32, 48, 64, 96, 96)}),
    Variant("label radius 1.5", radius_pix=1.5),
    Variant("label radius 3", radius_pix=3.0),
    Variant("another seed", {"rng": 1}),
)


def patch_set(folder, radius_pix, options):
    """Path of the patch set with a label radius, made if it is not there."""
    path = folder / f"radius{radius_pix:g}.h5"
    if not path.exists():
        # the sky of seed 0 validates, so that there must be a second one to train on
        skies = max(-(-options.patches // PATCHES_PER_SKY), 2)
        make_patch_set(
            path, n_skies=skies, patches_per_sky=-(-options.patches // skies), first_seed=0,
            label_rule=TrainingConfig(mask_radius_pix=radius_pix), template=options.template,
        )  # fmt: skip
    return path


def trained(folder, variant, options):
    """The model of a variant and the seconds of a step, trained if it is not there."""
    home = folder / variant.name.replace(" ", "-")
    if not (home / "card.json").exists():
        path = patch_set(folder, variant.radius_pix, options)
        train(
            path, home, epochs=1, steps_per_epoch=options.steps, batch_size=BATCH_SIZE,
            verbose=0, **{"rng": 0, **variant.options},
        )  # fmt: skip
    return load_model(home)


def main():
    """Train, search and print."""
    options = options_of(
        __doc__, folder=Path("networks"), patches=4000, steps=750, seed=1012, template=str,
        only=[v.name for v in VARIANTS],
    ).parse_args()  # fmt: skip
    options.folder.mkdir(parents=True, exist_ok=True)
    sky_map, truth = simulate_sky(rng=options.seed)
    print(f"{'variant':<20} parameters  AP |b|>10  |b|<10   minutes", flush=True)
    for variant in (v for v in VARIANTS if v.name in options.only):
        started = time.perf_counter()
        model = trained(options.folder, variant, options)
        minutes = (time.perf_counter() - started) / 60
        model.card["clustering"]["cut"] = PIXEL_CUT
        catalog = find_sources(sky_map, model=model, measure=False, threshold=0.0)
        high, low = (
            evaluate(catalog, truth, min_latitude=a, max_latitude=b).average_precision
            for a, b in ((10, 91), (0, 10))
        )
        print(
            f"{variant.name:<20} {model.card['parameters']:>10,}  {high:9.4f} {low:7.4f} "
            f"{minutes:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
