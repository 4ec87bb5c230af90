"""Reliability of Score by exposure and lowest energy, on simulated skies.

    python benchmarks/reliability.py [--model FOLDER] [--skies 1] [--seed 2000] [--years 1 10]
        [--lowest 10 20 50] [--template SHAPES --variant NAME]

One row for each exposure (years), lowest energy (GeV) and region of the sky: the number of listed
detections, that of real ones as the sum of Score predicts it, the true one and the ratio of both,
and the expected calibration error of all candidates (15 bins of equal numbers, Score >= 0.05).
"""

from itertools import product

from options import options_of

from astro_unetloc.evaluation import run_on_skies
from astro_unetloc.evaluation.metrics import expected_numbers, reliability
from astro_unetloc.unet.model import load_model


def main(arguments=None):
    """Search the skies of each setting and print the table."""
    options = options_of(
        __doc__, model=str, skies=1, seed=2000, years=[1.0, 10.0], lowest=[10.0, 20.0, 50.0],
        template=str, variant="P6V11",
    ).parse_args(arguments)  # fmt: skip
    model, seeds = load_model(options.model), range(options.seed, options.seed + options.skies)
    sky = {"seeds": seeds, "template": options.template, "variant": options.variant}
    print("years  from/GeV  region        listed       expected    real  ratio  calibration error")
    for years, lowest in product(options.years, options.lowest):
        energies = lowest, float(model.band_edges[-1])
        run = run_on_skies(model, **sky, years=years, energy_range=energies)
        errors = reliability(run.matches).meta["ece"]
        for region, n, *numbers in expected_numbers(run.matches.select(run.threshold)).iterrows():
            print(
                f"{years:5g}  {lowest:8g}  {region:<12} {n:7d}  "
                "{:7.1f} +- {:4.1f} {:7d}  {:5.3f}".format(*numbers)
                + f"  {errors[region]:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
