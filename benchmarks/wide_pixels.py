"""Sources and error ellipses in maps of wide pixels, on a simulated sky.

    python benchmarks/wide_pixels.py [--model FOLDER] [--finders unet scan] [--nsides 256 128 64]
        [--seed 2000] [--years 7] [--template SHAPES]

One row for each finder and HEALPix map: the width of its pixels, the number of listed sources, how
many are real as the sum of Score expects it, how many have a true source of a third of their counts
within a pixel and within 0.3 deg, and which fractions of these true sources, those within a pixel,
lie inside the 68 and 95 % ellipses.
"""

import numpy as np
from options import options_of

from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.table import numbers
from astro_unetloc.evaluation.comparison import normalized_offset
from astro_unetloc.evaluation.predictions import observed_sky
from astro_unetloc.evaluation.truth import match_truth
from astro_unetloc.pipeline import detect
from astro_unetloc.unet.model import load_model


def main():
    """Search the maps and print the table."""
    options = options_of(
        __doc__, model=str, finders=["unet", "scan"], nsides=[256, 128, 64], seed=2000, years=7.0,
        template=str,
    ).parse_args()  # fmt: skip
    model = load_model(options.model)
    print("finder  pixel/deg  listed  expected  real in a pixel  within 0.3 deg  68 %   95 %")
    for nside in options.nsides:
        sky = {"years": options.years, "template": options.template, "nside": nside}
        sky_map, truth = observed_sky(model.band_edges, options.seed, **sky)
        for finder in options.finders:
            catalog = detect(sky_map, model=model, finder=finder, classify=False).catalog
            print(f"{finder:6}  {row(catalog, truth, sky_map.pixel_size_deg)}", flush=True)


def row(catalog, truth, pixel_deg):
    """The numbers of one map."""
    near = match_truth(catalog, truth)
    matches = match_truth(catalog, truth, radius_deg=max(pixel_deg, MATCH_RADIUS_DEG))
    judged = matches.is_judged
    expected = numbers(matches.catalog["Score"])[judged].sum()
    rows = np.flatnonzero((matches.true_row >= 0) & matches.is_real)
    held = []
    for level in (68, 95):
        offset = normalized_offset(matches, rows, matches.true_row[rows], level)
        held.append(np.mean(offset[np.isfinite(offset)] < 1))
    real = (m.is_real[m.is_judged].sum() for m in (matches, near))
    values = pixel_deg, judged.sum(), expected, *real, *held
    return "{:9.3f}  {:6d}  {:8.1f}  {:15d}  {:14d}  {:.3f}  {:.3f}".format(*values)


if __name__ == "__main__":
    main()
