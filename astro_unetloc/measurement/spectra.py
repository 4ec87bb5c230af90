"""What the counts of the sources tell of their spectra: counts by band, likelihood of any spectrum.

Position, background and neighbours stay as they were fitted. The log-likelihood ratio between s and
no counts of a source in one energy bin is then ``g(s) - s * observed`` with
``g(s) = sum_i w_i ln(1 + s r_i)`` over the counts of its core: r_i is the ratio of the PSF to the
expected counts of all else, w_i the weight. g is tabulated once for each source and bin, so that
many spectra are compared without another look at the counts.
"""

import numpy as np
from scipy.special import exprel

from astro_unetloc.measurement.data import sum_groups

# Knots in s, in units of the fitted counts. Between them g is a cubic in ln s with the right
# derivatives (an error below 2e-4 for each photon), below the first one a parabola in s.
_KNOTS = np.geomspace(1e-5, 20.0, 18)
_STEP = np.log(_KNOTS[1] / _KNOTS[0])
_TINY = 1e-100
# A band is measured if the energy bins of the map cover at least this fraction of it.
_MIN_COVERED = 0.5
BAND_COLUMNS = "Counts_Band", "Unc_Counts_Band", "Flux_Band", "Unc_Flux_Band"


class BinLikelihood:
    """Tabulated log-likelihood of the counts of n sources in each energy bin."""

    def __init__(self, likelihood, state, npred_other):
        core, shape = likelihood.core, (likelihood.n, likelihood.n_energy)
        ratio, n_cells = state.psf[0] / npred_other, shape[0] * shape[1]

        def tabulate(values):
            """Sums over the counts of each bin, (n_energy, n)."""
            return sum_groups(likelihood.cell, core.number * values, n_cells).reshape(shape).T

        self._observed = likelihood.in_core.T  # (n_energy, n), weighted fraction of the photons
        self._unit = np.maximum(state.counts, 1.0)  # (n,), counts at a knot of 1
        self._first, self._second = tabulate(ratio), tabulate(ratio**2)  # at no counts
        value, slope, bend = np.empty((3, shape[1], shape[0], len(_KNOTS)))
        for k, knot in enumerate(_KNOTS):
            term = knot * self._unit[core.source] * ratio
            value[..., k], slope[..., k] = tabulate(np.log1p(term)), tabulate(term / (1 + term))
            bend[..., k] = np.log(np.maximum(tabulate((ratio / (1 + term)) ** 2), _TINY))
        rise, slope = np.diff(value, axis=2), slope * _STEP
        start, end = slope[..., :-1], slope[..., 1:]
        # in each interval the coefficients of the cubic, and of a power law for the curvature
        cubics = value[..., :-1], start, 3 * rise - 2 * start - end, start + end - 2 * rise
        lines = bend[..., :-1], np.diff(bend, axis=2)
        self._table = np.stack([*cubics, *lines], axis=-1)  # (n_energy, n, n_intervals, 6)

    def profile(self, fractions, n_newton=2):
        """Counts (n, k) of the best fit of k spectra, their errors, and its log-likelihood ratio.

        ``fractions`` (n or 1, k, n_energy) are those of the photons of a spectrum in each bin. The
        ratio is that to no counts. The error is that of the curvature or, where no counts are best,
        the counts at which it is half a unit less.
        """
        fractions = np.moveaxis(fractions, -1, 0)  # (n_energy, n or 1, k)
        observed, rise = (
            sum(f * of_bin[:, None] for f, of_bin in zip(fractions, values))
            for values in (self._observed, self._first)
        )
        excess = np.maximum(observed - rise, 0.0)  # where it is positive no counts are best
        counts = np.broadcast_to(self._unit[:, None], observed.shape)
        for _ in range(n_newton):
            _, slope, squared = self._evaluate(counts, fractions)
            step = (slope - counts * observed) / np.maximum(counts**2 * squared, _TINY)
            counts = counts * np.clip(1 + step, 0.2, 5.0)
        counts = np.where(excess > 0, 0.0, counts)
        value, _, squared = self._evaluate(counts, fractions)
        error = 1 / np.maximum(excess + np.sqrt(excess**2 + squared), _TINY)
        return counts, error, value - counts * observed

    def _evaluate(self, counts, fractions):
        """Sums (n, k) over the bins of g, its derivative by ln s, and its curvature by the counts.

        The curvature is the sum of ``w_i (r_i / (1 + s r_i)) ** 2``, never negative.
        """
        sums, rows = np.zeros((3, *counts.shape)), np.arange(len(counts))[:, None]
        parts = zip(fractions, self._table, self._first, self._second)
        for fraction, table, first, second in parts:
            s = counts * fraction
            x = np.log(np.maximum(s / self._unit[:, None], _TINY) / _KNOTS[0]) / _STEP
            below, interval = x < 0, np.clip(x.astype(int), 0, len(_KNOTS) - 2)
            value, a, b, c, bend, change = np.moveaxis(table[rows, interval], -1, 0)
            t, first, second = x - interval, first[:, None] * s, second[:, None]
            squared, slope = second * s**2, (a + t * (2 * b + 3 * t * c)) / _STEP
            sums[0] += np.where(below, first - squared / 2, value + t * (a + t * (b + t * c)))
            sums[1] += np.where(below, first - squared, slope)
            # beyond the last knot the curvature stays
            bend = np.exp(bend + np.minimum(t, 1) * change)
            sums[2] += fraction**2 * np.where(below, second, bend)
        return sums


def band_columns(bins, spectrum, index, energy_edges, band_edges):
    """Columns of counts and fluxes in bands (k, n_band), each with its error; NaN where unknown.

    ``spectrum`` and ``index`` (k,) are those of the fitted power laws, which the photons follow
    inside a band: they correct for bins of the map that do not end at the edges of a band.
    """
    middle = np.sqrt(energy_edges[:-1] * energy_edges[1:])
    inside = (middle >= band_edges[:-1, None]) & (middle < band_edges[1:, None])
    covered = inside @ np.diff(np.log(energy_edges)) / np.diff(np.log(band_edges))
    photons = spectrum.fractions(index)[:, None] * inside  # (k, n_band, n_energy)
    total = photons.sum(axis=2, keepdims=True)
    counts, error, _ = bins.profile(photons / np.where(total > 0, total, 1.0), n_newton=10)
    in_bands, in_bins = (_integral(index, edges) for edges in (band_edges, energy_edges))
    scale = in_bands / np.maximum(in_bins @ inside.T, _TINY)
    flux = in_bands / np.maximum(spectrum.detected(index) @ inside.T, _TINY)
    values = counts * scale, error * scale, counts * flux, error * flux
    return dict(zip(BAND_COLUMNS, np.where(covered > _MIN_COVERED, values, np.nan)))


def _integral(index, edges):
    """Integrals (k, n) of ``(E / GeV) ** -index`` between edges (n + 1,) in GeV, index (k,)."""
    exponent, log_edges = 1 - index[:, None], np.log(edges)
    width = np.diff(log_edges)
    return width * np.exp(exponent * log_edges[:-1]) * exprel(exponent * width)
