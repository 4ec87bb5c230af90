"""Significance of the counts that sources and background do not predict: is it a unit Gaussian?

    python benchmarks/residuals.py [--skies 4] [--seed 2000] [--template SHAPES --variant NAME]
        [--model lat-10gev] [--data ../shared/data]

Whole skies of seven years in the energies of the model and, with --data, real fields. HEALPix cells
(nside 256 or the pixels of the map) are joined until the expected counts of each, and of its
sisters, are 20 or more. Counts n have the Gaussian value of P(N < n) + P(N = n) / 2. By zone of
|b|: cells, mean and width (standard deviation; half the interval of 68.3 %), fraction beyond 3
(0.0027 of a Gaussian), observed and predicted counts; then the difference of each energy bin over
its Poisson error.
"""

from pathlib import Path

import healpy
import numpy as np
from options import options_of
from scipy.stats import norm, poisson

from astro_unetloc.evaluation.predictions import observed_sky
from astro_unetloc.maps.skymap import pixels_of
from astro_unetloc.pipeline import detect
from astro_unetloc.sphere import healpix_centers, lonlat_from_vectors
from astro_unetloc.unet.model import load_model

NSIDE, LARGEST, LEAST = 256, 4, 20.0  # of the cells, and their least expected counts
ZONES = (0, 2), (2, 5), (5, 10), (10, 20), (20, 40), (40, 90), (10, 90)


def cells_of(found):
    """Observed and predicted counts and latitudes (3, n) of cells of a `PredictedCounts`."""
    pixels = pixels_of(found.counts.geom.to_image())
    side = int(2 ** np.floor(np.log2(58.6 / pixels.pixel_size_deg)))
    nside, planes = min(NSIDE, side), (found.counts, found.sources + found.background)
    values = [np.sum(one.data, axis=0, dtype=float).ravel() for one in planes]
    seen = np.flatnonzero(np.isfinite(values[1]))
    cell = healpy.vec2pix(nside, *pixels.centers(seen).T, nest=True)
    levels = [[np.bincount(cell, v[seen], minlength=12 * nside**2) for v in values]]
    while len(levels[-1][0]) > 12 * LARGEST**2:
        levels.append([v.reshape(-1, 4).sum(axis=1) for v in levels[-1]])
    active, rows = np.ones(len(levels[-1][0]), bool), []
    for number in range(len(levels) - 1, -1, -1):
        counts, predicted = levels[number]
        finer = np.zeros(len(counts), bool)
        if number:
            sisters = levels[number - 1][1].reshape(-1, 4)
            sisters = np.where(sisters > 0, sisters, np.inf)  # unobserved ones do not matter
            finer = active & (sisters.min(axis=1) >= LEAST)
        used = np.flatnonzero(active & ~finer & (predicted >= LEAST))
        centers = healpix_centers(nside // 2**number, used, nest=True)
        rows.append([counts[used], predicted[used], lonlat_from_vectors(centers)[1]])
        active = np.repeat(finer, 4)
    return np.concatenate(rows, axis=1)


def gaussian_value(counts, predicted):
    """Gaussian value of counts, each of them half of the probability of its own number."""
    half = poisson.pmf(counts, predicted) / 2
    low, high = poisson.cdf(counts, predicted) - half, poisson.sf(counts, predicted) + half
    low, high = np.maximum([low, high], 1e-300)
    return np.where(low < 0.5, norm.ppf(low), norm.isf(high))


def show(name, run):
    """Print the rows of one map."""
    found = run.predicted
    counts, predicted, latitude = cells_of(found)
    value, latitude = gaussian_value(np.rint(counts), predicted), np.abs(latitude)
    for low, high in ZONES:
        here = (latitude >= low) & (latitude < high)
        if here.sum() > 10:
            z, sums = value[here], f"{counts[here].sum():.0f}/{predicted[here].sum():.0f}"
            half = np.diff(np.percentile(z, norm.cdf([-1, 1]) * 100))[0] / 2
            numbers = f"mean {z.mean():+.3f} width {z.std():.3f} ({half:.3f})"
            beyond = f"beyond 3: {np.mean(np.abs(z) > 3):.4f}"
            print(f"{name:10} {low:2}-{high:2} {len(z):5} {numbers} {beyond} {sums}", flush=True)
    observed, expected = (np.nansum(p, axis=1) for p in found.planes)
    bins = (observed - expected) / np.sqrt(np.maximum(expected, 1.0))
    print(f"{name:12} bins {' '.join(f'{value:+.2f}' for value in bins)}", flush=True)


def real_fields(folder):
    """Name and `Run` of each real map."""
    gc, sky = f"{folder}/gc/fermi-3fhl-gc-", f"{folder}/3fhl/fermi_3fhl_"
    exposure, given = f"{gc}exposure-cube.fits.gz", f"{gc}background-cube.fits.gz"
    cube = {"map": f"{gc}counts-cube.fits.gz", "exposure": exposure}
    yield "gc cube", detect(**cube)
    yield "gc given", detect(**cube, background=given)
    yield "gc events", detect(f"{gc}events.fits.gz")
    exposure = f"{sky}exposure_cube_hpx.fits.gz"
    yield "3FHL", detect(f"{sky}counts_cube_hpx.fits.gz", exposure=exposure)


def main():
    """Search the skies and the fields and print the table."""
    options = options_of(
        __doc__, skies=4, seed=2000, template=Path, variant="PIBREM+ICS", data=Path,
        model="lat-10gev",
    ).parse_args()  # fmt: skip
    model = load_model(options.model)
    emission = {"template": options.template, "variant": options.variant}
    for name, run in real_fields(options.data) if options.data else ():
        show(name, run)
    for seed in range(options.seed, options.seed + options.skies):
        sky_map, _ = observed_sky(model.band_edges, seed, **emission)
        show(f"seed {seed}", detect(sky_map, model=model, classify=False))


if __name__ == "__main__":
    main()
