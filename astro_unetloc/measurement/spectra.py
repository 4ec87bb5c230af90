"""Counts by band and the likelihood of any spectrum, for sources at fitted positions.

Position, background and neighbours stay as they were fitted. The log-likelihood ratio between s and
no counts of a source in one energy bin is then ``g(s) - s * observed`` with
``g(s) = sum_i w_i ln(1 + s r_i)`` over the counts of its core: r_i is the ratio of the PSF to the
expected counts of all else, w_i the weight. g is tabulated once for each source and bin, so that
many spectra are compared without another look at the counts.
"""

import numpy as np

from astro_unetloc.irf.spectra import power_law_integrals
from astro_unetloc.measurement.data import sum_groups

# Knots in s, in units of the fitted counts. Between them g is a cubic in ln s with the right
# derivatives, an error below 2e-4 for each photon.
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
        self._first, self._second = tabulate(ratio), tabulate(ratio**2)  # derivatives at no counts
        value, slope, bend = np.empty((3, shape[1], shape[0], len(_KNOTS)))
        for k, knot in enumerate(_KNOTS):
            term = knot * self._unit[core.source] * ratio
            value[..., k], slope[..., k] = tabulate(np.log1p(term)), tabulate(term / (1 + term))
            bend[..., k] = np.log(np.maximum(tabulate((ratio / (1 + term)) ** 2), _TINY))
        rise, slope = np.diff(value, axis=2), slope * _STEP
        start, end = slope[..., :-1], slope[..., 1:]
        # in each interval the coefficients of the cubic, and of a power law for the curvature;
        # (n_energy, n * n_intervals)
        cubics = value[..., :-1], start, 3 * rise - 2 * start - end, start + end - 2 * rise
        lines = bend[..., :-1], np.diff(bend, axis=2)
        self._tables = [table.reshape(shape[1], -1) for table in (*cubics, *lines)]

    def profile(self, fractions, n_newton=2):
        """Counts (n, k) of the best fit of k spectra, their errors, and its log-likelihood ratio.

        ``fractions`` (n or 1, k, n_energy) are those of the photons of a spectrum in each bin. The
        ratio is that to no counts. The error is that of the curvature or, where no counts are best,
        the counts at which it is half a unit less.
        """
        fractions = np.moveaxis(fractions, -1, 0)  # (n_energy, n or 1, k)
        observed, rise, squared = (
            sum(f * of_bin[:, None] for f, of_bin in zip(parts, values))
            for parts, values in (
                (fractions, self._observed), (fractions, self._first), (fractions**2, self._second)
            )
        )  # fmt: skip
        excess = np.maximum(observed - rise, 0.0)  # where it is positive no counts are best
        counts = np.broadcast_to(self._unit[:, None], observed.shape)
        for _ in range(n_newton):
            slope, bend = self._derivatives(counts, fractions)
            step = (slope - counts * observed) / np.maximum(counts**2 * bend, _TINY)
            counts = counts * np.clip(1 + step, 0.2, 5.0)
        squared = np.where(excess > 0, squared, self._derivatives(counts, fractions)[1])
        error = 1 / np.maximum(excess + np.sqrt(excess**2 + squared), _TINY)
        ratio = self._value(counts, fractions) - counts * observed
        return np.where(excess > 0, 0.0, counts), error, np.where(excess > 0, 0.0, ratio)

    def _places(self, counts, fractions):
        """Place (n, k) in the tables and in its interval for the counts in each bin, and a factor.

        Below the first knot the place is that knot; g is proportional to s, by the factor.
        """
        log_counts = np.log(counts / (_KNOTS[0] * self._unit[:, None]))
        first = np.arange(len(counts))[:, None] * (len(_KNOTS) - 1)
        for fraction in fractions:
            x = (log_counts + np.log(np.maximum(fraction, _TINY))) / _STEP
            interval = np.clip(x.astype(int), 0, len(_KNOTS) - 2)
            inside = np.maximum(x - interval, 0.0)
            yield first + interval, inside, np.exp(_STEP * np.minimum(x, 0.0))

    def _value(self, counts, fractions):
        """Sum (n, k) of g over the bins."""
        total = np.zeros(counts.shape)
        for place, *tables in zip(self._places(counts, fractions), *self._tables):
            index, t, factor = place
            value, a, b, c = (table[index] for table in tables[:4])
            total += factor * (value + t * (a + t * (b + t * c)))
        return total

    def _derivatives(self, counts, fractions):
        """Sums (n, k) over the bins of the derivative of g by ln s, and of the curvature by counts.

        The curvature is the sum of ``w_i (r_i / (1 + s r_i)) ** 2``, never negative.
        """
        first, second = np.zeros((2, *counts.shape))
        parts = zip(self._places(counts, fractions), fractions, *self._tables)
        for (index, t, factor), fraction, _, *tables in parts:
            a, b, c, bend, change = (table[index] for table in tables)
            first += factor * (a + t * (2 * b + 3 * t * c)) / _STEP
            second += fraction**2 * np.exp(bend + np.minimum(t, 1.0) * change)
        return first, second


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
    in_bands, in_bins = (power_law_integrals(index, edges) for edges in (band_edges, energy_edges))
    scale = in_bands / np.maximum(in_bins @ inside.T, _TINY)
    flux = in_bands / np.maximum(spectrum.detected(index) @ inside.T, _TINY)
    values = counts * scale, error * scale, counts * flux, error * flux
    return dict(zip(BAND_COLUMNS, np.where(covered > _MIN_COVERED, values, np.nan)))
