"""Factors by which the errors of a model's catalogues are too small, on simulated skies.

    python benchmarks/fit_errors.py --model lat-500mev --seeds 1000 1001 --check 1002
        [--template SHAPES] [--write]

Searches whole skies as `astro-unetloc evaluate` does, matches each listed source to its true one
(below 10 GeV the brightest within 0.3 deg), leaves out those that no source gives a third of their
counts, and prints in ranges of Galactic latitude the factors with which 68 and 95 % of the
ellipses hold the true position, and with which pulls of counts and index have a width of 1. For the
skies of --check it prints the containment and the pulls of the scaled errors. --write puts the
factors into the card of the model.
"""

import numpy as np
from calibrate import YEARS, template_options
from options import options_of

from astro_unetloc.catalog.table import numbers_of
from astro_unetloc.evaluation.calibration import matched_candidates
from astro_unetloc.evaluation.comparison import normalized_offset, true_index
from astro_unetloc.unet.model import ErrorFactors, load_model, update_card

LATITUDES = (0.0, 3.0, 10.0, 90.0)
NAMES = ("ellipse_68", "ellipse_95", "counts", "index")


def residuals(model, seed, options):
    """Latitude, offsets in units of both ellipses, pulls of counts and index: (5, k)."""
    sky = template_options(seed, options.template) | {"years": YEARS[seed % len(YEARS)]}
    matches = matched_candidates(model, seed, band_edges=model.band_edges, **sky)
    rows = np.flatnonzero(matches.is_true_positive & matches.is_real)
    true = np.asarray(matches.catalog["True_Row"])[rows]

    def pull(name, expected):
        value, error = (numbers_of(matches.catalog, n)[rows] for n in (name, f"Unc_{name}"))
        return (value - expected) / error

    return np.stack(
        [
            numbers_of(matches.catalog, "GLAT", "deg")[rows],
            *(normalized_offset(matches, rows, true, level) for level in (68, 95)),
            pull("Npred", numbers_of(matches.truth, "Npred")[true]),
            pull("Spectral_Index", true_index(matches, true)),
        ]
    )


def by_latitude(latitude):
    """Name and mask (n,) of each range of latitude."""
    for low, high in zip(LATITUDES[:-1], LATITUDES[1:]):
        yield f"{low:2.0f}-{high:2.0f}", (np.abs(latitude) >= low) & (np.abs(latitude) < high)


def half_width(pull):
    """Half of the range that holds 68 % of pulls."""
    low, high = np.nanpercentile(pull, [16, 84])
    return (high - low) / 2


def factors(values):
    """Factors on the errors: ellipses of 68 and 95 %, counts, index."""
    _, off_68, off_95, counts, index = values
    quantiles = np.nanquantile(off_68, 0.68), np.nanquantile(off_95, 0.95)
    return [max(float(f), 1.0) for f in (*quantiles, half_width(counts), half_width(index))]


def main():
    """Measure, check and write."""
    options = options_of(
        __doc__, model="lat-500mev", template=str, seeds=[1000, 1001], check=[], write=False
    ).parse_args()
    model = load_model(options.model)
    model.card.pop("error_factors", None)
    known = np.concatenate([residuals(model, seed, options) for seed in options.seeds], axis=1)
    found = []
    print("|b|           n  ellipse 68 %  95 %  counts  index")
    for name, here in by_latitude(known[0]):
        found.append(factors(known[:, here]))
        text = " ".join(f"{factor:7.2f}" for factor in found[-1])
        print(f"{name} {here.sum():9}       {text}", flush=True)
    fitted = ErrorFactors(
        LATITUDES[:-1], *(tuple(round(f, 2) for f in column) for column in zip(*found))
    )
    for seed in options.check:
        values = residuals(model, seed, options)
        scaled = values[1:] / [fitted.at(name, values[0]) for name in NAMES]
        for name, here in by_latitude(values[0]):
            inside = [np.mean(off[here & np.isfinite(off)] <= 1) for off in scaled[:2]]
            widths = [half_width(pull[here]) for pull in scaled[2:]]
            print(
                f"sky {seed} {name}: {here.sum()} sources, held {inside[0]:.3f} {inside[1]:.3f}, "
                f"pull widths {widths[0]:.2f} {widths[1]:.2f}",
                flush=True,
            )
    if options.write:
        update_card(model, error_factors=vars(fitted) | {"seeds": options.seeds})


if __name__ == "__main__":
    main()
