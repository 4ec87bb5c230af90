"""Detected sources of the simulated population, with the likelihoods of their spectra."""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.spectra import PowerLawFractions, spectral_grid
from astro_unetloc.simulation.population import CLASSES, draw_sources
from astro_unetloc.simulation.sky import expected_photons
from astro_unetloc.sphere import lonlat_from_vectors

RANGE = (10.0, 2000.0)
GRID = spectral_grid(RANGE[0])


@dataclass
class Detected:
    """Detected sources, n of them."""

    log_likelihood: np.ndarray  # (n, n_nodes)
    lon: np.ndarray  # (n,) in degrees
    lat: np.ndarray
    is_pulsar: np.ndarray

    def select(self, rows):
        return Detected(self.log_likelihood[rows], self.lon[rows], self.lat[rows],
                        self.is_pulsar[rows])  # fmt: skip


def detected_sources(rng=0, **numbers):
    """Point sources of a sky above 10 GeV with a test statistic of more than 25.

    Their positions and the background are known, here a power law that is brighter near the plane.
    """
    rng, exposure = np.random.default_rng(rng), SurveyExposure()
    sources = draw_sources(rng, band=RANGE, extended=0.0, **numbers)
    sources = sources.select(expected_photons(sources, exposure, RANGE) > 3)
    lon, lat = lonlat_from_vectors(sources.vectors)
    edges = np.geomspace(*RANGE, 10)
    fractions = PowerLawFractions(edges, exposure.relative)
    expected = np.stack([expected_photons(sources, exposure, bin) for bin in zip(edges, edges[1:])])
    background = (0.5 + 8 * np.exp(-np.abs(lat) / 3))[:, None] * fractions.fractions([2.4])
    counts = rng.poisson(expected.T + background)
    laws = fractions.grid_fractions(GRID)[0]
    rows = np.flatnonzero(profile(counts, background, laws[:: len(GRID) // 9]).max(axis=1) > 8)
    log_likelihood = profile(counts[rows], background[rows], laws)
    largest = log_likelihood.max(axis=1)
    rows, found = rows[largest > 12.5], (log_likelihood - largest[:, None])[largest > 12.5]
    return Detected(found, lon[rows], lat[rows], sources.source_class[rows] == CLASSES.index("PSR"))


def profile(counts, background, fractions):
    """Increase (n, n_nodes) of the log-likelihood by a source, its counts free for each node."""
    counts, background = counts[:, None], background[:, None]
    number = np.maximum((counts - background).sum(axis=2), 1.0) * np.ones(len(fractions))
    for _ in range(8):  # Newton steps
        ratio = fractions / (number[:, :, None] * fractions + background)
        slope, bend = (counts * ratio).sum(axis=2) - 1, (counts * ratio**2).sum(axis=2)
        number = np.clip(number + slope / np.maximum(bend, 1e-9), number / 4, number * 4)
    npred = number[:, :, None] * fractions
    return (counts * np.log1p(npred / background) - npred).sum(axis=2)
