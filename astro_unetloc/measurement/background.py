"""Background around sources, from the photons themselves or a model times its normalization.

Around each source the background is a smooth surface, the exponential of a parabola in the offset
from the source, times a spectrum: a power law that the region's own photons correct where they
are many. Both follow from what the sources do not explain (expectation maximization), so
that no source needs to be masked.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.irf.exposure import background_at
from astro_unetloc.measurement.data import MeasurementConfig, sum_groups
from astro_unetloc.sphere import move

__all__ = ["BackgroundFit", "LocalBackground", "model_background", "surface_terms"]


# Steps of the surface's parameters are at most this, so that no step runs away.
_MAX_STEP = 0.5


# Per square degree and bin: outside its map a model knows of none.
_LEAST_DENSITY = 1e-6


def surface_terms(x, y, radius_deg):
    """The five terms x, y, x^2, x y, y^2 of offsets in units of the radius, shape (..., 5)."""
    x, y = x / radius_deg, y / radius_deg
    return np.stack([x, y, x * x, x * y, y * y], axis=-1)


@dataclass
class LocalBackground:
    """Background in the regions of n sources.

    Attributes
    ----------
    level : ndarray (n, n_energy)
        Counts per square degree and energy bin at the source; with a model, factors on it.
    surface : ndarray (n, 5)
        Coefficients of `surface_terms` in the logarithm; zero with a model.
    index : ndarray (n,)
        Photon index of the spectrum.
    """

    level: np.ndarray
    surface: np.ndarray
    index: np.ndarray


def model_background(background, hood, counts):
    """The background of a model in the regions of sources.

    Parameters
    ----------
    background : gammapy.maps.Map
        Expected counts per pixel and bin.
    hood : Neighborhoods
        The regions.
    counts : Counts
        What lies in them.

    Returns
    -------
    at_pairs : ndarray (m,)
        Counts per square degree and bin at the pairs of the core, then the others of the region.
    in_regions : ndarray (n, n_energy)
        Counts in each region.
    """
    edges = counts.energy_edges
    at_places = np.maximum(background_at(background, counts.vectors, edges), _LEAST_DENSITY)
    place = np.repeat(np.arange(len(counts.vectors)), np.diff(counts.first))
    entry = hood.region_entry
    in_regions = np.empty((len(hood.vectors), len(edges) - 1))
    for row in range(len(hood.vectors)):
        seen = hood.place_area[row] > 0
        x, y = hood.place_x[row, seen], hood.place_y[row, seen]
        axes = (
            np.repeat(a[row, None], len(x), axis=0) for a in (hood.vectors, hood.east, hood.north)
        )
        density = background_at(background, move(*axes, x, y), edges)
        in_regions[row] = density @ hood.place_area[row, seen]
    return at_places[counts.energy_bin[entry], place[entry]], in_regions


class BackgroundFit:
    """What stays fixed while the background is fitted: terms and areas of the regions.

    Parameters
    ----------
    hood : Neighborhoods
        The regions.
    spectrum : PowerLawFractions
        Shares of power laws in the energy bins.
    model : tuple of ndarray or None
        Background of a model per square degree and bin: at the pairs (m,), and summed over each
        region (n, n_energy) in counts.
    config : MeasurementConfig
        Widths of the priors.
    weight : ndarray (n, n_energy) or float
        What a count says to the sources in each bin, at most 1.
    """

    def __init__(self, hood, spectrum, model=None, config=None, weight=1.0):
        self.config = MeasurementConfig() if config is None else config
        self.spectrum, self.model = spectrum, model
        self.n, self.n_energy = len(hood.vectors), spectrum.n_energy
        parts = hood.core, hood.tail.select(hood.in_region)
        self.n_core = len(hood.core.source)
        self.source, energy_bin, self.number = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("source", "energy_bin", "number")
        )
        self.cell = self.source * self.n_energy + energy_bin
        self.weight = np.broadcast_to(weight, (self.n, self.n_energy))
        self.weighted = self.number * self.weight.ravel()[self.cell]
        self.area = hood.place_area
        self.covered = self.area.sum(axis=1)
        if model is None:
            x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y"))
            self.terms = np.ascontiguousarray(surface_terms(x, y, hood.radius_deg).T)
            self.place_terms = surface_terms(hood.place_x, hood.place_y, hood.radius_deg)

    def start(self):
        """A background without slope: that of the model, or one count per square degree."""
        level = np.full((self.n, self.n_energy), 1.0 if self.model else 1.0 / self.n_energy)
        return LocalBackground(level, np.zeros((self.n, 5)), np.full(self.n, 2.4))

    def density(self, background):
        """Counts per square degree of the bin at the pairs of the core, then of the rest, (m,)."""
        level = background.level.ravel()[self.cell]
        if self.model is not None:
            return level * self.model[0]
        slope = sum(
            term * coefficient[self.source]
            for term, coefficient in zip(self.terms, background.surface.T)
        )
        return level * np.exp(slope)

    def total(self, background):
        """Expected counts (n, n_energy) of the background in each region."""
        if self.model is not None:
            return background.level * self.model[1]
        return background.level * self._moments(background.surface, only_integral=True)[:, None]

    def step(self, background, share, *, surface_free=True):
        """The background that fits the photons it explains.

        Parameters
        ----------
        background : LocalBackground
            The present one.
        share : ndarray (m,)
            Probability of each pair's photons to be background.
        surface_free : bool
            Whether slope and curvature are fitted, or only level and spectrum.

        Returns
        -------
        LocalBackground
        """
        weight = self.number * share
        cells = sum_groups(self.cell, weight, self.n * self.n_energy)
        cells = cells.reshape(self.n, self.n_energy)
        if self.model is not None:
            factor = (cells.sum(axis=1) + 1) / (self.model[1].sum(axis=1) + 1)
            level = np.repeat(factor[:, None], self.n_energy, axis=1)
            return LocalBackground(level, background.surface, background.index)
        total = cells.sum(axis=1)
        surface = background.surface
        if surface_free:
            surface = self._surface_step(surface, weight, total)
        integral = self._moments(surface, only_integral=True)
        level, index = self._spectrum_step(background.index, cells, total)
        return LocalBackground(level / integral[:, None], surface, index)

    def cost(self, background_share, slopes):
        """What it costs the sources that their background is fitted beside them.

        Parameters
        ----------
        background_share : ndarray (m,)
            Of the background in the expected counts at the pairs.
        slopes : ndarray (m_core, k)
            Changes of the expected counts at the core pairs by k parameters of the source, over
            these counts.

        Returns
        -------
        ndarray (n, k, k)
            To be subtracted from the information on these parameters (Schur complement).
        """
        number = self.weighted * background_share
        own = slopes * number[: self.n_core, None]
        if self.model is not None:
            inner = sum_groups(self.source, number * background_share, self.n)
            inner = inner[:, None, None] + 1.0
            cross = self._core_sums(own.T, self.source, self.n)[..., None]
        else:
            inner = self._information(number * background_share)
            terms = self.terms[:, : self.n_core]
            by_bin = self._core_sums(own.T, self.cell, self.n * self.n_energy)
            by_bin = by_bin.reshape(self.n, self.n_energy, -1).transpose(0, 2, 1)
            by_term = [self._core_sums((own * t[:, None]).T, self.source, self.n) for t in terms]
            cross = np.concatenate([by_bin, np.stack(by_term, axis=2)], axis=2)
        return cross @ np.linalg.solve(inner, np.swapaxes(cross, 1, 2))

    def _core_sums(self, values, group, n_groups):
        """Sums (n_groups, k) of values (k, m_core) at the core pairs."""
        group = group[: self.n_core]
        return np.stack([sum_groups(group, v, n_groups) for v in values], axis=1)

    def _information(self, weight):
        """Information (n, n_energy + 5, n_energy + 5) on levels and surface, with their priors."""
        n, n_energy = self.n, self.n_energy
        matrix = np.zeros((n, n_energy + 5, n_energy + 5))
        each = np.arange(n_energy)
        levels = sum_groups(self.cell, weight, n * n_energy).reshape(n, n_energy)
        matrix[:, each, each] = levels
        for a, term in enumerate(self.terms):
            row = n_energy + a
            mixed = sum_groups(self.cell, weight * term, n * n_energy)
            matrix[:, row, :n_energy] = matrix[:, :n_energy, row] = mixed.reshape(n, n_energy)
            for b in range(a, 5):
                value = sum_groups(self.source, weight * term * self.terms[b], n)
                matrix[:, row, n_energy + b] = matrix[:, n_energy + b, row] = value
        # levels are free along a power law, and held to it otherwise
        trend = np.stack([np.ones(n_energy), each - each.mean()], axis=1)[:, : min(n_energy, 2)]
        off = np.eye(n_energy) - trend @ np.linalg.pinv(trend)
        matrix[:, :n_energy, :n_energy] += self.config.background_spectrum_counts * off
        matrix[:, n_energy:, n_energy:] += np.diag(np.array(self.config.surface_sigma) ** -2.0)
        return matrix + 1e-6 * np.eye(n_energy + 5)

    def _surface_step(self, surface, weight, total):
        """The surface after one Newton step."""
        _, mean, spread = self._moments(surface)
        found = np.stack([sum_groups(self.source, weight * t, self.n) for t in self.terms], axis=1)
        prior = np.diag(np.array(self.config.surface_sigma) ** -2.0)
        gradient = found - total[:, None] * mean - surface @ prior
        hessian = total[:, None, None] * spread + prior
        change = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        largest = np.abs(change).max(axis=1, keepdims=True)
        return surface + change * np.minimum(1.0, _MAX_STEP / np.maximum(largest, 1e-12))

    def _moments(self, surface, only_integral=False):
        """Integral of the surface over each region, and mean and covariance of its terms."""
        value = self.area * np.exp(np.einsum("nqk,nk->nq", self.place_terms, surface))
        integral = np.maximum(value.sum(axis=1), 1e-9)
        if only_integral:
            return integral
        value = value / integral[:, None]
        mean = np.einsum("nq,nqk->nk", value, self.place_terms)
        second = np.einsum("nqk,nql->nkl", value[..., None] * self.place_terms, self.place_terms)
        return integral, mean, second - mean[:, :, None] * mean[:, None, :]

    def _spectrum_step(self, index, cells, total):
        """Counts of each bin of the region: a power law, corrected by the counts themselves."""
        _, mean_log, spread, in_bin = self.spectrum.moments(index)
        center, sigma = self.config.background_index
        found = (cells * in_bin).sum(axis=1)
        gradient = total * mean_log - found - (index - center) / sigma**2
        index = index + np.clip(gradient / (total * spread + sigma**-2), -0.5, 0.5)
        expected = total[:, None] * self.spectrum.fractions(index)
        prior = self.config.background_spectrum_counts
        level = expected * (cells + prior) / (expected + prior)
        scale = total / np.maximum(level.sum(axis=1), 1e-12)
        return np.maximum(level * scale[:, None], 1e-9), index
