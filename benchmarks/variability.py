"""False-positive rate and efficiency of ``Prob_Constant`` on simulated skies.

    python benchmarks/variability.py [--seeds 2000 2001] [--slices 7 30] [--redraws 2]
        [--tilt 0.3] [--flares 200] [--sigma 5] [--figure variability.png]

Simulates and searches whole skies of seven years, whose photons get times at random (--redraws
times each), and measures the light curves of all sources found. Prints quantiles of the probability
by chance and the fraction of sources below 0.1, 0.01 and 0.001: for even exposures; for exposures
that differ by up to --tilt between slices and over the sky; and for these if they are taken to
follow the live times. Then it adds flares, each in one slice of one source, of an expected
significance of --sigma above the steady source and its background, and prints the fraction found;
the counts of the flares are drawn at random, or just those expected. The figure shows these
fractions for any threshold.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from options import options_of

from astro_unetloc import find_sources, load_model, simulate_sky
from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.irf.spectra import draw_energy
from astro_unetloc.maps.photons import Photons
from astro_unetloc.measurement.data import MeasurementConfig, gather_counts
from astro_unetloc.measurement.fit import FieldSetup, fit_in_groups
from astro_unetloc.measurement.variability import light_curves
from astro_unetloc.sphere import move, tangent_axes

YEARS, LEVELS, QUANTILES = 7.0, (0.1, 0.01, 0.001), (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
STRIDE = 4  # nodes of a PSF profile in a ring


def draw_times(vectors, n_slices, tilt, rng):
    """Times (n,) from 0 to 1; the exposure of each slice is tilted in a direction of its own."""
    axes = rng.normal(size=(n_slices, 3))
    axes *= tilt / np.linalg.norm(axes, axis=1, keepdims=True)
    number, waiting = np.empty(len(vectors), int), np.arange(len(vectors))
    while len(waiting):
        number[waiting] = rng.integers(n_slices, size=len(waiting))
        exposure = 1 + (vectors[waiting] * axes[number[waiting]]).sum(axis=1)
        waiting = waiting[rng.random(len(waiting)) * (1 + tilt) > exposure]
    return (number + rng.random(len(vectors))) / n_slices


def curves_of(sky_map, time, catalog, model, n_slices, *, by_live_time=False):
    """Probabilities (n,) that the sources of a catalogue are constant."""
    live, start = np.full(n_slices, 1 / n_slices), np.arange(n_slices) / n_slices
    sky_map = replace(sky_map, events=replace(sky_map.events, time=time))
    exposures = [SurveyExposure(years=YEARS / n_slices)] * n_slices if by_live_time else None
    return light_curves(
        catalog, sky_map, slices=np.column_stack([start, start + live]), live=live,
        exposures=exposures, band_edges=model.band_edges, flux_range=model.flux_range,
    )["probability"]  # fmt: skip


def flare_counts(sky_map, vectors, model, n_slices, sigma):
    """Counts (n,) of a flare in one slice with an expected significance over a steady source."""

    def steady(field):
        state, background, _ = field.fit_spectra()
        values = state.counts, state.fraction[0], background.at_sources
        return dict(zip("nfb", (value[field.members] / n for value, n in zip(values, scale))))

    scale, config = (n_slices, 1, n_slices), MeasurementConfig(systematic=0.0)
    found = fit_in_groups(vectors, sky_map, model.band_edges, config, steady)
    setup = FieldSetup(sky_map, gather_counts(sky_map, model.band_edges), vectors, config)
    density, area = setup.profiles.rings(STRIDE)
    npred = found["n"][:, None, None] * found["f"][:, :, None] * density
    npred = (npred + found["b"][:, :, None]) * area  # (n, n_energy, n_rings)
    of_one = found["f"][:, :, None] * density * area
    counts = np.full(len(vectors), float(sigma**2))
    for _ in range(30):
        flare = counts[:, None, None] * of_one
        gain = (npred + flare) * np.log1p(flare / npred) - flare
        counts *= (sigma / np.sqrt(2 * gain.sum(axis=(1, 2)))) ** 1.2
    return counts


def with_flares(sky_map, vectors, counts, n_slices, rng):
    """The map with the photons of flares at vectors (n, 3), and the times of these photons."""
    origin = np.repeat(np.arange(len(vectors)), counts)
    low, high = sky_map.energy_edges[[0, -1]]
    energy, angle = draw_energy(*rng.random((1, len(origin))), low, high), rng.random(len(origin))
    offset, (east, north) = KingPSF().sample_offset(energy, rng), tangent_axes(vectors[origin])
    x, y = offset * np.cos(2 * np.pi * angle), offset * np.sin(2 * np.pi * angle)
    flares = Photons(move(vectors[origin], east, north, x, y), energy)
    slices = rng.integers(n_slices, size=len(vectors))
    time = (slices[origin] + rng.random(len(origin))) / n_slices
    return replace(sky_map, events=Photons.concatenate([sky_map.events, flares])), time


def report(name, probability):
    """Print the distribution of probabilities."""
    below = "  ".join(f"{np.mean(probability < level):.4f}" for level in LEVELS)
    quantiles = " ".join(f"{q:.3f}" for q in np.quantile(probability, QUANTILES))
    print(f"{name:42}{len(probability):6d}   {below}   {quantiles}", flush=True)


def draw_fractions(found):
    """Figure of the fractions of sources below a probability, a panel for each number of slices."""
    from matplotlib.figure import Figure

    numbers = sorted({n for n, _ in found})
    figure = Figure(figsize=(4.5 * len(numbers), 3.8), layout="constrained")
    for axes, number in zip(figure.subplots(1, len(numbers), squeeze=False)[0], numbers):
        for name, parts in ((name, parts) for (n, name), parts in found.items() if n == number):
            below = np.sort(np.concatenate(parts))
            style = "--" if "live time" in name else "-"
            axes.loglog(below, np.arange(1, len(below) + 1) / len(below), style, label=name)
        axes.plot([1e-4, 1], [1e-4, 1], color="0.6", lw=0.8, label="chance")
        axes.set(title=f"{number} slices", xlim=(1e-4, 1), ylim=(1e-4, 1.1))
        axes.set(xlabel="threshold on Prob_Constant", ylabel="fraction of sources below")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def main():
    defaults = {"seeds": [2000, 2001], "slices": [7, 30], "redraws": 2, "tilt": 0.3, "flares": 200}
    options = options_of(__doc__, **defaults, sigma=5.0, figure=Path).parse_args()
    tilt, sigma, model, found = options.tilt, options.sigma, load_model(), {}
    kinds = {"even": (0.0, False), "tilted": (tilt, False), "tilted, by live time": (tilt, True)}
    for seed in options.seeds:
        sky_map, rng = simulate_sky(years=YEARS, rng=seed)[0], np.random.default_rng(seed)
        catalog = find_sources(sky_map, model=model)
        vectors, of_all = glon_glat_vectors(catalog), sky_map.events.vectors
        for n in options.slices:
            for name, (tilted, alone) in options.redraws * list(kinds.items()):
                time = draw_times(of_all, n, tilted, rng)
                p = curves_of(sky_map, time, catalog, model, n, by_live_time=alone)
                found.setdefault((n, f"{name} exposures"), []).append(p)
            rows = rng.choice(len(catalog), min(options.flares, len(catalog)), replace=False)
            counts = flare_counts(sky_map, vectors[rows], model, n, sigma)
            for name, drawn in (("drawn", rng.poisson(counts)), ("as expected", np.rint(counts))):
                flaring, time = with_flares(sky_map, vectors[rows], drawn.astype(int), n, rng)
                time = np.append(draw_times(of_all, n, 0.0, rng), time)
                p = curves_of(flaring, time, catalog, model, n)[rows]
                found.setdefault((n, f"{sigma:g} sigma, {name}"), []).append(p)
    print(f"sources, fractions below {LEVELS}, quantiles {QUANTILES}")
    for (n, name), probability in found.items():
        report(f"{n} slices, {name}", np.concatenate(probability))
    if options.figure:
        draw_fractions(found).savefig(options.figure, dpi=110)


if __name__ == "__main__":
    main()
