"""Spectral families and prior of the classes of sources, from simulated populations.

    python benchmarks/fit_classes.py [--model FOLDER] [--search 1003] [--skies 200]
        [--template SHAPES] [--years 7] [--smooth 0.5] [--confidence 0.8] [--write]

Searches the skies of --search, and fits the fraction of the point-like true sources that are found
in ranges of latitude by their expected sqrt(TS), for exactly their counts on diffuse emission: near
the plane sources hide each other. Draws the sources of --skies other skies, without a photon, and
gives each the probability with which it is found. The family of a class is the distribution of its
sources over the log-parabolas of `spectral_grid`: of each source the one that fits its expected
photons best, then smoothed by --smooth nodes, so that no spectrum between two drawn ones is
impossible. The prior is the fraction of each class in ranges of latitude and of longitude around
the Galactic centre, times a factor by flux: pulsars are more frequent among bright sources. --write
puts them into the card of the model.
"""

import shlex
import sys

import healpy
import numpy as np
from options import options_of
from scipy.ndimage import gaussian_filter

from astro_unetloc.evaluation.metrics import fit_completeness
from astro_unetloc.evaluation.predictions import search_sky
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF, make_profiles
from astro_unetloc.irf.spectra import PowerLawFractions, spectral_grid
from astro_unetloc.measurement.limits import expected_sqrt_ts
from astro_unetloc.simulation.diffuse import expected_density, interstellar, perturb
from astro_unetloc.simulation.population import CLASSES, counted_band, draw_sources
from astro_unetloc.simulation.sky import expected_photons
from astro_unetloc.sphere import lonlat_from_vectors
from astro_unetloc.unet.model import load_model, update_card

BINS_PER_DECADE = 8
NSIDE = 64
MIN_PHOTONS = 3.0  # fainter sources are never found
# Ranges of absolute latitude in which the fraction of sources that are found is one curve.
RANGES_DEG = [0, 2, 5, 10, 30, 90]
# A spectrum that a population never has still gets this part of its family, and a class this part
# of the sources anywhere: real sources are not limited to the simulated ones.
FLOOR = 1e-3
LATITUDE_DEG = [0, 0.5, 1, 2, 3, 5, 8, 12, 20, 30, 45, 90]
LONGITUDE_DEG = [0, 30, 60, 90, 180]
# Number of ranges of flux, and the fractions of the sources below the first and the last edge.
N_FLUX, FLUX_FRACTIONS = 8, (0.03, 0.99)
N_ROUNDS = 50


class Observation:
    """Response, background and spectra on the grid for sources in a range of energies (GeV).

    Fluxes are between other energies (GeV).
    """

    def __init__(self, energy_range, flux_range, years, template):
        low, high = energy_range
        self.flux_range = flux_range
        n_bins = round(BINS_PER_DECADE * np.log10(high / low))
        self.edges = np.geomspace(low, high, n_bins + 1)
        self.exposure, self.psf = SurveyExposure(years), KingPSF()
        self.profiles = make_profiles(self.psf, self.edges)
        diffuse = interstellar(template, nside=NSIDE)
        self.background = expected_density(diffuse, self.exposure, self.psf, self.edges)
        self.grid = spectral_grid(low)
        laws = PowerLawFractions(self.edges, self.exposure.relative)
        self.log_fractions = np.log(laws.grid_fractions(self.grid)[0])

    def draw(self, rng):
        """Row, class, node, place, flux, counts and expected sqrt(TS) of the sources of a sky."""
        band = tuple(self.edges[[0, -1]])
        sources = draw_sources(rng, band=counted_band(band))
        kept = expected_photons(sources, self.exposure, band) > MIN_PHOTONS
        rows = np.flatnonzero(kept & (sources.size_deg == 0))
        sources = sources.select(rows)
        pairs = zip(self.edges[:-1], self.edges[1:])
        counts = np.stack([expected_photons(sources, self.exposure, b) for b in pairs], axis=1)
        total = counts.sum(axis=1)
        fraction = counts / total[:, None]
        here = self.background[healpy.vec2pix(NSIDE, *sources.vectors.T)]
        sqrt_ts = expected_sqrt_ts(total, fraction, here, self.profiles)
        place, flux = lonlat_from_vectors(sources.vectors), sources.spectra.flux(*self.flux_range)
        # the largest expected log-likelihood: the smallest divergence
        node = np.argmax(fraction @ self.log_fractions.T, axis=1)
        return rows, sources.source_class, node, *place, flux, total, sqrt_ts


def detection_curves(model, observation, seeds):
    """`CompletenessCurve` by sqrt(TS) in each range of latitude, from searched skies."""
    parts = []
    for seed in seeds:
        _, matches = search_sky(model, seed, years=observation.exposure.years)
        rng = np.random.default_rng(seed)  # in the order of `simulate_photons`
        perturb(interstellar(), rng)
        rows, *_, lat, _, _, sqrt_ts = observation.draw(rng)
        found = np.isin(rows, matches.select(model.threshold).catalog["Real_Row"])
        parts.append((np.digitize(np.abs(lat), RANGES_DEG[1:-1]), sqrt_ts, found))
    number, sqrt_ts, found = map(np.concatenate, zip(*parts))
    curves = []
    for part, low in enumerate(RANGES_DEG[:-1]):
        curves.append(fit_completeness(sqrt_ts[number == part], found[number == part]))
        print(f"half found from |b| = {low:2} deg on at sqrt(TS) {curves[-1].flux_at(0.5):.1f}")
    return curves


def draw_population(observation, n_skies, curves):
    """Class, node, place, flux, counts and probability of detection of sources of many skies.

    Prints how many are detected in one, by the curve of each range of latitude.
    """
    parts = [observation.draw(np.random.default_rng(seed))[1:] for seed in range(n_skies)]
    *sources, sqrt_ts = map(np.concatenate, zip(*parts))
    number = np.digitize(np.abs(sources[3]), RANGES_DEG[1:-1])
    weight = np.choose(number, [curve(sqrt_ts) for curve in curves])
    for name, number in zip(CLASSES, np.bincount(sources[0], weight) / n_skies):
        print(f"{name:5} {number:8.1f} detected sources in a sky")
    return *sources, weight


def families(source_class, node, weight, grid, smooth):
    """Fractions (3, n_nodes) of the sources of each class at the nodes."""
    result = np.zeros((len(CLASSES), len(grid)))
    np.add.at(result, (source_class, node), weight)
    shape = len(CLASSES), len(grid.index), len(grid.beta)
    result = gaussian_filter(result.reshape(shape), (0, smooth, smooth), mode="nearest")
    result = result.reshape(len(CLASSES), len(grid))
    return (1 - FLOOR) * result / result.sum(axis=1, keepdims=True) + FLOOR / len(grid)


def prior(source_class, lon, lat, flux, counts, weight):
    """Entries of a card: fractions of the classes by position, factors on them by flux, axes.

    Fractions and factors are scaled in turn until the expected sources of each class are as many
    as were drawn at each position and of each brightness (iterative proportional fitting).
    """
    order = np.argsort(flux)
    part = np.cumsum(weight[order]) / weight.sum()
    edges = np.geomspace(*np.interp(FLUX_FRACTIONS, part, flux[order]), N_FLUX + 1)
    values = np.abs(lat), np.abs((lon + 180) % 360 - 180), np.clip(flux, *edges[[0, -1]])
    edges = LATITUDE_DEG, LONGITUDE_DEG, edges
    classes = np.arange(len(CLASSES) + 1) - 0.5
    number, _ = np.histogramdd((source_class, *values), (classes, *edges), weights=weight)
    number += 1e-9  # a class may be absent
    fractions, factors = (number.sum(axis=axis, keepdims=True) for axis in (3, (1, 2)))
    for _ in range(N_ROUNDS):
        for table, axis in ((fractions, 3), (factors, (1, 2))):
            expected = fractions * factors
            expected *= number.sum(axis=0) / expected.sum(axis=0)
            table *= number.sum(axis=axis, keepdims=True) / expected.sum(axis=axis, keepdims=True)
    # without a flux the mean factor holds
    seen = number.sum(axis=(0, 1, 2))
    mean = np.exp(np.log(factors) @ seen / seen.sum())[..., None]
    fractions = (fractions * mean)[..., 0]
    fractions = (1 - FLOOR) * fractions / fractions.sum(axis=0) + FLOOR / len(CLASSES)
    axes = (mean_of_bins(*pair, weight) for pair in zip(values, edges))
    names = "latitude_deg", "longitude_deg", "flux", "fractions", "flux_factors"
    tables = dict(zip(names, (*axes, fractions, (factors / mean)[:, 0, 0])))
    return tables | {"flux_per_count": float(weight @ flux / (weight @ counts))}


def mean_of_bins(values, edges, weight):
    """Weighted mean of the values in each bin."""
    return np.divide(
        *(np.histogram(values, edges, weights=w)[0] for w in (weight * values, weight))
    )


def main():
    """Fit and write."""
    options = options_of(
        __doc__, model=str, search=[1003], skies=200, template=str, years=7.0, smooth=0.5,
        confidence=0.8, write=False,
    ).parse_args()  # fmt: skip
    model = load_model(options.model)
    ranges = model.energy_range, model.flux_range
    observation = Observation(*ranges, options.years, options.template)
    curves = detection_curves(model, observation, options.search)
    source_class, node, *place, weight = draw_population(observation, options.skies, curves)
    grid = observation.grid
    family = families(source_class, node, weight, grid, options.smooth)
    if options.write:
        entry = {
            "pivot_gev": grid.pivot, "index": grid.index, "beta": grid.beta, "families": family,
            **prior(source_class, *place, weight),
            "confidence": options.confidence,
            "command": shlex.join(["python", "benchmarks/fit_classes.py", *sys.argv[1:]]),
        }  # fmt: skip
        update_card(model, classifier={k: rounded(value) for k, value in entry.items()})


def rounded(value):
    """A value for a card: arrays as lists of numbers of four digits."""
    if not isinstance(value, np.ndarray):
        return value
    return [rounded(v) if v.ndim else float(f"{v:.4g}") for v in map(np.asarray, value)]


if __name__ == "__main__":
    main()
