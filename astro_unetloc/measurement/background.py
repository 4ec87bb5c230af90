"""Background around sources, estimated from the counts or from a model times a normalization.

In the region of each source the background is the exponential of a parabola in the offset from
the source, times a spectrum: a power law, corrected by the counts of the region where they are
many. It is fitted by expectation maximization to the counts that the sources do not explain
(Dempster, Laird & Rubin 1977, JRSS B 39, 1), so that no source needs a mask.
"""

from copy import copy
from functools import cached_property
from typing import NamedTuple

import numpy as np

from astro_unetloc.irf.exposure import background_at
from astro_unetloc.measurement.data import MeasurementConfig
from astro_unetloc.sphere import move

# Largest change of a coefficient of the surface, and of the index, in one step.
_MAX_STEP = 0.5
# Counts per square degree and bin of a model outside of its map.
_MIN_DENSITY = 1e-6
# Regions in which a model is integrated at once.
_MAX_REGIONS = 100
_COVERED = 0.99  # least fraction of a region that a model covers


class BackgroundModel(NamedTuple):
    """A background map in regions of interest; 1 in the regions that it does not cover."""

    known: np.ndarray  # (n,), whether it covers a region
    at_pairs: np.ndarray  # (m,), counts per square degree and energy bin
    at_sources: np.ndarray  # (n, n_energy), the same at the centres
    in_regions: np.ndarray  # (n, n_energy), counts in the observed part of each region


def model_background(density, regions):
    """`BackgroundModel` of a map of expected counts per square degree."""
    counts, edges = regions.counts, regions.counts.energy_edges
    in_regions, known = np.empty((len(regions), counts.n_energy)), np.empty(len(regions), bool)
    samples = np.broadcast_arrays(regions.sample_x, regions.sample_y, regions.sample_area)
    for rows in np.array_split(np.arange(len(regions)), len(regions) // _MAX_REGIONS + 1):
        axes = (axis[rows, None] for axis in (regions.vectors, regions.east, regions.north))
        x, y, area = (values[rows] for values in samples)
        found = background_at(density, move(*axes, x, y).reshape(-1, 3), edges)
        found = found.reshape(-1, *area.shape)
        known[rows] = ((area * np.isfinite(found[0])).sum(axis=1)) >= _COVERED * area.sum(axis=1)
        in_regions[rows] = np.einsum("enq,nq->ne", np.nan_to_num(found), area)
    pairs = regions.pairs
    at_positions = background_at(density, counts.vectors, edges)
    at_pairs = at_positions[pairs.energy_bin, counts.position[pairs.bin]]
    at_sources = background_at(density, regions.vectors, edges).T
    at_pairs, at_sources = (
        np.maximum(np.nan_to_num(v), _MIN_DENSITY) for v in (at_pairs, at_sources)
    )
    at_pairs = np.where(known[pairs.source], at_pairs, 1.0)
    return BackgroundModel(known, at_pairs, np.where(known[:, None], at_sources, 1.0), in_regions)


def _surface_terms(x, y):
    """The five terms x, y, x^2, x y, y^2 of offsets in units of the radius of the region."""
    return x, y, x * x, x * y, y * y


def _schur_complement(cross, inner):
    """Information (n, k, k) lost to p parameters: ``cross`` (k, n, p), ``inner`` (n, p, p)."""
    cross = np.swapaxes(cross, 0, 1)
    return cross @ np.linalg.solve(inner, np.swapaxes(cross, 1, 2))


class LocalBackground:
    """Background in the regions of interest of n sources; a step of the fit returns another one.

    It is a factor on a `BackgroundModel` in the regions that one covers, else the parabola.
    """

    def __init__(self, regions, spectrum, model=None, config=None, weight=1.0):
        self._config = MeasurementConfig() if config is None else config
        self._spectrum, self._model = spectrum, model
        self.n, self.n_energy = len(regions), spectrum.n_energy
        self.pairs, self.core = regions.pairs, regions.core
        self._cell = regions.cell[: len(self.pairs)]
        weight = np.broadcast_to(weight, (self.n, self.n_energy))
        self.weighted = self.pairs.number * weight.ravel()[self._cell]
        self._area, radius_deg = regions.sample_area, regions.radius_deg
        self.known = np.zeros(self.n, bool) if model is None else model.known
        if not self.known.all():
            offsets = self.pairs.x / radius_deg, self.pairs.y / radius_deg
            self._terms = _surface_terms(*(offset.astype(np.float32) for offset in offsets))
            samples = regions.sample_x / radius_deg, regions.sample_y / radius_deg
            self._sample_terms = np.stack(_surface_terms(*samples), axis=-1)
        # Counts per square degree and energy bin at the source, first of one count per square
        # degree, or a factor on the model; coefficients of the terms of the parabola, zero with a
        # model; photon index (n,)
        level = np.where(self.known, 1.0, 1.0 / self.n_energy)
        self.level = np.repeat(level[:, None], self.n_energy, axis=1)
        self.surface, self.index = np.zeros((self.n, 5)), np.full(self.n, 2.4)

    def _changed(self, **parameters):
        changed = copy(self)
        changed.__dict__.pop("npred", None)  # cached
        changed.__dict__.update(parameters)
        return changed

    def _by_cell(self, values):
        """Sums (n, n_energy) of values at the first pairs."""
        sums = np.bincount(self._cell[: len(values)], values, minlength=self.n * self.n_energy)
        return sums.reshape(self.n, self.n_energy)

    @cached_property
    def npred(self):
        """Expected counts (m,) per square degree and energy bin at the pairs."""
        level = self.level.ravel()[self._cell]
        if self._model is not None:
            level *= self._model.at_pairs
        if self.known.all():
            return level
        exponent = np.zeros(len(self.pairs), np.float32)
        for term, coefficient in zip(self._terms, self.surface.T):
            exponent += term * self.pairs.of_source(coefficient.astype(np.float32))
        return level * np.exp(exponent, out=exponent)

    @property
    def in_regions(self):
        """Expected counts (n, n_energy) in the observed part of each region."""
        if self.known.all():
            return self.level * self._model.in_regions
        local = self.level * self._at_samples(self.surface)[1][:, None]
        if self._model is None:
            return local
        return np.where(self.known[:, None], self.level * self._model.in_regions, local)

    @property
    def at_sources(self):
        """Expected counts (n, n_energy) per square degree at the centres of the regions."""
        return self.level if self._model is None else self.level * self._model.at_sources

    def step(self, fraction, *, surface_free=True):
        """The background after one step of expectation maximization.

        ``fraction`` (m,) is the probability that the counts of each pair are background. Without
        ``surface_free`` gradient and curvature of the surface stay.
        """
        number = self.pairs.number * fraction
        counts = self._by_cell(number)
        total = counts.sum(axis=1)
        level, surface, index = self.level, self.surface, self.index
        if not self.known.all():
            if surface_free:
                surface = np.where(self.known[:, None], 0.0, self._surface_step(number, total))
            in_bins, index = self._spectrum_step(counts, total)
            level = in_bins / self._at_samples(surface)[1][:, None]
        if self._model is not None:
            factor = (total + 1) / (self._model.in_regions.sum(axis=1) + 1)
            level = np.where(self.known[:, None], factor[:, None], level)
        return self._changed(level=level, surface=surface, index=index)

    def _surface_step(self, number, total):
        """Coefficients of the surface (n, 5) after one Newton step."""
        terms = self._sample_terms
        # mean and covariance of the terms, weighted by the surface
        weight, integral = self._at_samples(self.surface)
        weight = weight / integral[:, None]
        mean = (weight[:, None] @ terms)[:, 0]
        squares = np.swapaxes(weight[..., None] * terms, 1, 2) @ terms
        covariance = squares - mean[:, :, None] * mean[:, None, :]
        number = number.astype(np.float32)
        found = np.stack([self.pairs.sum(number * term, self.n) for term in self._terms], axis=1)
        prior = np.diag(np.array(self._config.surface_sigma) ** -2.0)
        gradient = found - total[:, None] * mean - self.surface @ prior
        hessian = total[:, None, None] * covariance + prior
        change = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        largest = np.abs(change).max(axis=1, keepdims=True)
        return self.surface + change * np.minimum(1.0, _MAX_STEP / np.maximum(largest, 1e-12))

    def _at_samples(self, surface):
        """The surface at the samples (n, q), times their area, and its integral (n,) in deg2."""
        value = self._area * np.exp((self._sample_terms @ surface[..., None])[..., 0])
        return value, np.maximum(value.sum(axis=1), 1e-9)

    def _spectrum_step(self, counts, total):
        """Expected counts (n, n_energy), a power law corrected by the counts, and its index."""
        _, mean_log, variance, in_bin = self._spectrum.moments(self.index)
        center, sigma = self._config.background_index
        gradient = total * mean_log - (counts * in_bin).sum(axis=1)
        gradient -= (self.index - center) / sigma**2
        change = gradient / (total * variance + sigma**-2)
        index = self.index + np.clip(change, -_MAX_STEP, _MAX_STEP)
        expected = total[:, None] * self._spectrum.fractions(index)
        prior = self._config.background_spectrum_counts
        in_bins = expected * (counts + prior) / (expected + prior)
        scale = total / np.maximum(in_bins.sum(axis=1), 1e-12)
        return np.maximum(in_bins * scale[:, None], 1e-9), index

    def information_loss(self, fraction, derivatives):
        """Information (n, k, k) on k parameters lost because the background is fitted as well.

        The second term of a Schur complement. ``fraction`` (m,) is that of the background in the
        expected counts, ``derivatives`` (k, m_core) are those of their logarithm.
        """
        number = self.weighted * fraction
        n_core = len(self.core)
        mixed = derivatives * number[:n_core]  # zero beyond the core
        loss = np.zeros((self.n, len(mixed), len(mixed)))
        if not self.known.all():
            levels = np.stack([self._by_cell(row) for row in mixed])
            surface = [self.core.sum(mixed * term[:n_core], self.n) for term in self._terms]
            cross = np.concatenate([levels, np.stack(surface, axis=2)], axis=2)
            loss = _schur_complement(cross, self._information(number * fraction))
        if self._model is not None:
            inner = 1.0 + self.pairs.sum(number * fraction, self.n)[:, None, None]
            of_model = _schur_complement(self.core.sum(mixed, self.n)[..., None], inner)
            loss = np.where(self.known[:, None, None], of_model, loss)
        return loss

    def _information(self, number):
        """Information (n, n_energy + 5, n_energy + 5) on levels and surface, with their priors."""
        n_energy, each = self.n_energy, np.arange(self.n_energy)
        matrix = np.zeros((self.n, n_energy + 5, n_energy + 5))
        matrix[:, each, each] = self._by_cell(number)
        for row, term in enumerate(self._terms, n_energy):
            mixed = number * term
            matrix[:, row, :n_energy] = matrix[:, :n_energy, row] = self._by_cell(mixed)
            for column, other in enumerate(self._terms[: row - n_energy + 1], n_energy):
                sums = self.pairs.sum(mixed * other, self.n)
                matrix[:, row, column] = matrix[:, column, row] = sums
        # levels are free along a power law; the prior holds them to it otherwise
        trend = np.stack([np.ones(n_energy), each - each.mean()], axis=1)[:, : min(n_energy, 2)]
        off_trend = np.eye(n_energy) - trend @ np.linalg.pinv(trend)
        matrix[:, :n_energy, :n_energy] += self._config.background_spectrum_counts * off_trend
        matrix[:, n_energy:, n_energy:] += np.diag(np.array(self._config.surface_sigma) ** -2.0)
        return matrix + 1e-6 * np.eye(n_energy + 5)
