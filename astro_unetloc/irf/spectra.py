"""Photon spectra: power laws, log-parabolas and power laws with an exponential cut-off.

One formula holds for all three, with parameters that are zero where a kind does not have them, so
that functions work on arrays of sources.
"""

import warnings
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from scipy.special import exprel

from astro_unetloc.exceptions import InputError
from astro_unetloc.files import check_file

INTENSITY_UNIT = "cm-2 s-1 sr-1 MeV-1"  # of the official models of diffuse emission
# Inside an energy bin of a map the photons are assumed to follow E ** -PHOTON_INDEX.
PHOTON_INDEX = 2.4

# Names of the Fermi tools and catalogues.
KINDS = ("PowerLaw", "LogParabola", "PLSuperExpCutoff2")

# Gauss-Legendre nodes in ln E: 48 integrate every drawn spectrum to 1e-6 from 0.3 GeV to 2 TeV.
_N_NODES = 48
# Gauss-Legendre nodes in ln E inside one bin.
_N_BIN_NODES = 4
# How far a spectrum is extrapolated beyond its ends: the official models end at 0.5-0.9 TeV.
_MAX_EXTRAPOLATION = 5.0
# Steps in ln E within which a spectrum is drawn as a power law.
_N_STEPS = 160


def draw_energy(uniform, energy_min, energy_max, index=PHOTON_INDEX):
    """Energies (n,) of uniform numbers (n,) in [0, 1) by inversion of a power law ``E ** -index``.

    They lie in [energy_min, energy_max), edges of any unit; the index is not 1.
    """
    low, high = (np.asarray(e, dtype=float) ** (1 - index) for e in (energy_min, energy_max))
    energy = (low + uniform * (high - low)) ** (1 / (1 - index))
    return np.clip(energy, energy_min, np.nextafter(energy_max, energy_min))


def bins_in_bands(band_edges, energy_range, per_decade):
    """Edges in GeV of energy bins between two energies, some of which are the edges of bands.

    In each band they are of equal ratios, at least one and at least ``per_decade``.
    """
    low, high = energy_range
    knots = np.concatenate([[low], band_edges[(band_edges > low) & (band_edges < high)], [high]])
    n_bins = np.ceil(per_decade * np.log10(knots[1:] / knots[:-1])).astype(int)
    parts = zip(knots, knots[1:], np.maximum(n_bins, 1))
    return np.concatenate([*(np.geomspace(a, b, n + 1)[:-1] for a, b, n in parts), knots[-1:]])


def bin_fractions(edges, new_edges, index=PHOTON_INDEX):
    """Fraction (n_bins, n_new) of the photons of each energy bin that falls into each new bin.

    Inside a bin the photons follow ``E ** -index``, index not 1; both sets of edges, (n_bins + 1,)
    and (n_new + 1,), are in the same unit.
    """
    clipped = np.clip(new_edges, edges[:-1, None], edges[1:, None]) ** (1 - index)
    return np.diff(clipped, axis=1) / np.diff(edges ** (1 - index))[:, None]


def energy_nodes(energy, grid, what):
    """Lower row of energies in an increasing grid and weight of the next row, linear in ln E.

    Both are in GeV; the grid, that of ``what``, must cover the energies.
    """
    energy = np.asarray(energy, dtype=float)
    if np.any(energy < grid[0] * 0.999) or np.any(energy > grid[-1] * 1.001):
        raise InputError(
            f"the {what} covers {grid[0]:g}-{grid[-1]:g} GeV; got energies from {energy.min():g} "
            f"to {energy.max():g} GeV; compute it for all of them"
        )
    return _around(np.log(grid), np.log(energy))


def _around(grid, values):
    """Row of the value of an ascending grid below each value, and the weight of the next row."""
    position = np.interp(values, grid, np.arange(len(grid)))
    row = np.minimum(position.astype(int), max(len(grid) - 2, 0))
    return row, position - row


@dataclass(frozen=True)
class Spectra:
    r"""Photon spectra of n sources.

    .. math:: \frac{dN}{dE} = K \left(\frac{E}{E_0}\right)^{-\Gamma - \beta \ln(E/E_0)}
              \exp\left(a (E_0^b - E^b)\right)

    A power law has beta = a = 0, a log-parabola a = 0, a power law with a cut-off beta = 0: the
    forms of the 4FGL catalogue up to its second release (arXiv:1902.10045, section 3.3).
    """

    kind: np.ndarray  # (n,) of int8, index into KINDS
    amplitude: np.ndarray  # (n,), K in ph cm-2 s-1 GeV-1
    pivot: np.ndarray  # (n,), E_0 in GeV
    index: np.ndarray  # (n,), photon index Gamma; that of a log-parabola holds at the pivot
    beta: np.ndarray  # (n,), curvature of a log-parabola
    expfactor: np.ndarray  # (n,), a in GeV**-b
    exp_index: np.ndarray  # (n,), b

    def __len__(self):
        return len(self.amplitude)

    def select(self, mask):
        """Spectra of a mask or an index array."""
        return Spectra(*(getattr(self, f.name)[mask] for f in fields(self)))

    @classmethod
    def concatenate(cls, parts):
        """Spectra of several `Spectra`, in their order."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def _log_density(self, log_energy):
        """ln(dN/dE / K), shape (n, m), at ln(E / GeV) of shape (m,) or (n, m)."""
        pivot, index, beta, expfactor, exp_index = (
            getattr(self, name)[:, None]
            for name in ("pivot", "index", "beta", "expfactor", "exp_index")
        )
        x = log_energy - np.log(pivot)
        result = -x * (index + beta * x)
        cut = np.flatnonzero(self.expfactor)  # few sources, since the power is slow
        if len(cut):
            power = np.exp(exp_index[cut] * np.broadcast_to(log_energy, result.shape)[cut])
            result[cut] += expfactor[cut] * (pivot[cut] ** exp_index[cut] - power)
        return result

    def density(self, energy):
        """dN/dE in ph cm-2 s-1 GeV-1, shape (n, m), at energies (m,) in GeV."""
        log_energy = np.log(np.atleast_1d(energy).astype(float))
        return self.amplitude[:, None] * np.exp(self._log_density(log_energy))

    def flux(self, emin, emax, *, weight=None):
        """Photon flux (n,) in ph cm-2 s-1 between two energies in GeV, times a weight of energy."""
        nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
        half = np.log(emax / emin) / 2
        energy = emin * np.exp(half * (nodes + 1))
        weights = weights * half * energy
        if weight is not None:
            weights = weights * weight(energy)
        return self.density(energy) @ weights

    def mean_index(self, emin, emax):
        """Photon index (n,) averaged over the photons between two energies in GeV.

        The mean of -dlnN/dlnE, integrated by parts, about what a fit of one power law finds.
        """
        ends = np.array([emin, emax], dtype=float)
        step = -np.diff(ends * self.density(ends), axis=1)[:, 0]
        return 1 + step / self.flux(emin, emax)

    def scaled(self, flux, emin, emax):
        """Spectra of the same shapes with photon fluxes (n,) in ph cm-2 s-1 in emin-emax GeV."""
        return replace(self, amplitude=self.amplitude * (flux / self.flux(emin, emax)))

    def draw_energy(self, which, rng, *, emin, emax):
        """Random energies (n_photons,) in [emin, emax) GeV of photons of the sources ``which``.

        The cumulative spectrum of each source is inverted on a logarithmic grid, between whose
        points the spectrum is taken as a power law; drawn power laws are exact.
        """
        uniform = rng.random(len(which))
        if not len(which):
            return uniform
        used, row = np.unique(which, return_inverse=True)
        grid, step = np.linspace(np.log(emin), np.log(emax), _N_STEPS + 1, retstep=True)
        log_rate = self.select(used)._log_density(grid) + grid  # of photons per ln E
        log_rate -= log_rate.max(axis=1, keepdims=True)
        slope = np.diff(log_rate, axis=1)
        cumulative = np.cumsum(np.exp(log_rate[:, :-1]) * exprel(slope), axis=1)
        cumulative /= cumulative[:, -1:]
        # one search for all sources: the cumulative spectrum of each is shifted by its row
        shifted = (cumulative + np.arange(len(used))[:, None]).ravel()
        position = np.searchsorted(shifted, uniform + row, side="right")
        cell = np.clip(position - row * _N_STEPS, 0, _N_STEPS - 1)
        before = np.where(cell > 0, cumulative[row, cell - 1], 0.0)
        fraction = (uniform - before) / np.maximum(cumulative[row, cell] - before, 1e-300)
        part = _invert(np.clip(fraction, 0.0, 1.0), slope[row, cell])
        energy = np.exp(grid[cell] + step * part)
        return np.clip(energy, emin, np.nextafter(emax, emin))


def _invert(fraction, slope):
    """Point in [0, 1] up to which the integral of ``exp(slope t)`` is a fraction of the whole."""
    flat = np.abs(slope) < 1e-9
    slope = np.where(flat, 1.0, slope)
    return np.where(flat, fraction, np.log1p(fraction * np.expm1(slope)) / slope)


def power_laws(flux, index, *, emin=10.0, emax=2000.0):
    """Power laws of photon fluxes (n,) in ph cm-2 s-1 between ``emin`` and ``emax`` GeV."""
    flux, index = np.broadcast_arrays(np.asarray(flux, float), np.asarray(index, float))
    zeros, ones = np.zeros(len(flux)), np.ones(len(flux))
    kind, pivot = np.zeros(len(flux), np.int8), np.full(len(flux), float(emin))
    shapes = Spectra(kind, ones, pivot, index.copy(), zeros, zeros, ones)
    return shapes.scaled(flux, emin, emax)


def power_law_integrals(index, edges):
    """Integrals (k, n) of ``(E / GeV) ** -index`` between edges (n + 1,) in GeV, index (k,)."""
    exponent, log_edges = 1 - np.asarray(index, dtype=float)[:, None], np.log(edges)
    width = np.diff(log_edges)
    return width * np.exp(exponent * log_edges[:-1]) * exprel(exponent * width)


class PowerLawFractions:
    """Distribution of the detected photons of power laws over energy bins (edges in GeV).

    ``exposure`` is a function of energies (m,) in GeV that returns (m,), or (n, m) of n sources;
    its unit cancels in the fractions.
    """

    def __init__(self, energy_edges, exposure):
        nodes, weights = np.polynomial.legendre.leggauss(_N_BIN_NODES)
        log_edges = np.log(np.asarray(energy_edges, dtype=float))
        half = np.diff(log_edges)[:, None] / 2
        self._log_energy = log_edges[:-1, None] + half * (nodes + 1)
        self.n_energy = len(half)
        seen = np.atleast_2d(exposure(np.exp(self._log_energy).ravel()))
        seen = seen.reshape(len(seen), *self._log_energy.shape)
        self._weight = seen * weights * half
        self._middle = log_edges.mean()

    def select(self, rows):
        """The same of some of the sources, given by their rows (k,)."""
        selected = copy(self)
        if len(self._weight) > 1:
            selected._weight = self._weight[rows]
        return selected

    def _rates(self, index):
        """Detected photons (n, n_energy, n_nodes) of E^-index in units of the mid energy."""
        index = np.asarray(index, dtype=float)[:, None, None]
        return self._weight * np.exp((1 - index) * (self._log_energy - self._middle))

    def detected(self, index):
        """Photons (n, n_energy) of spectra ``(E / GeV) ** -index`` per cm2 s GeV, index (n,)."""
        factor = np.exp((1 - np.asarray(index, dtype=float)) * self._middle)
        return self._rates(index).sum(axis=2) * factor[:, None]

    def fractions(self, index):
        """Fraction of the photons in each bin, (n, n_energy), for power laws of indices (n,)."""
        rate = self._rates(index).sum(axis=2)
        return rate / rate.sum(axis=1, keepdims=True)

    def grid_fractions(self, grid):
        """Fractions (n, n_nodes, n_energy) of the photons of the spectra of a `SpectralGrid`."""
        index, beta = (values[:, None, None] for values in grid.nodes)
        x = self._log_energy - np.log(grid.pivot)
        photons = np.exp((1 - index) * x - beta * x**2)
        rate = np.einsum("nek,gek->nge", self._weight, photons)
        return rate / rate.sum(axis=2, keepdims=True)

    def moments(self, index):
        """Fractions (n, n_energy), mean and variance (n,) of ln E, and its mean in each bin.

        The derivative of a fraction by the index is ``fraction * (mean - mean in the bin)``.
        """
        rate = self._rates(index)
        each = rate.sum(axis=2)
        total = each.sum(axis=1)
        in_bin = (rate * self._log_energy).sum(axis=2) / np.maximum(each, 1e-300)
        mean = (each * in_bin).sum(axis=1) / total
        square = (rate * self._log_energy**2).sum(axis=(1, 2)) / total
        return each / total[:, None], mean, square - mean**2, in_bin


@dataclass(frozen=True)
class SpectralGrid:
    """Log-parabolas ``E ** -(index + beta ln(E / pivot))`` on a grid of index and curvature.

    They approximate the spectra of all sources. In the energy range of a map the cut-off of a
    pulsar is close to a log-parabola.
    """

    pivot: float  # in GeV
    index: np.ndarray  # (n_index,), ascending
    beta: np.ndarray  # (n_beta,), ascending from 0

    def __len__(self):
        return len(self.index) * len(self.beta)

    @property
    def nodes(self):
        """Index and beta (n_nodes,) of the nodes, beta changing faster."""
        return [values.ravel() for values in np.meshgrid(self.index, self.beta, indexing="ij")]

    @property
    def spectra(self):
        """`Spectra` (n_nodes,) of the nodes, of unit amplitude."""
        index, beta = self.nodes
        ones, kind = np.ones(len(self)), np.full(len(self), KINDS.index("LogParabola"), np.int8)
        return Spectra(kind, ones, self.pivot * ones, index, beta, 0 * ones, ones)

    def weights(self, index, beta):
        """Linear weights (n, n_nodes) of the nodes around spectra (n,), sums of 1.

        Spectra outside of the grid are moved to its border.
        """
        rows = np.arange(len(index))
        result = np.zeros((len(rows), len(self.index), len(self.beta)))
        low, high = zip(*(_around(*pair) for pair in ((self.index, index), (self.beta, beta))))
        for i, wi in ((low[0], 1 - high[0]), (low[0] + 1, high[0])):
            for j, wj in ((low[1], 1 - high[1]), (low[1] + 1, high[1])):
                result[rows, i, j] += wi * wj
        return result.reshape(len(rows), len(self))


def spectral_grid(emin):
    """`SpectralGrid` for photons above an energy in GeV, near whose middle its pivot lies.

    A pulsar has an index of 4 to 6 and a beta near 1 above 10 GeV, an AGN 1.5 to 3.5 and 0 to 0.3.
    """
    beta = np.array([0.0, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8, 1.1, 1.5])
    return SpectralGrid(1.5 * emin, np.arange(0.5, 7.6, 0.25), beta)


def fitted_index(spectra, emin, emax, *, weight):
    """Photon indices (n,) that a maximum-likelihood fit of power laws finds in emin-emax GeV.

    The gradient of the likelihood along the index is zero where the photons of the power law have
    the mean ln E of the detected ones. ``weight`` is the relative exposure, a function of energies
    in GeV.
    """
    seen = spectra.flux(emin, emax, weight=weight)
    logs = spectra.flux(emin, emax, weight=lambda e: weight(e) * np.log(e)) / seen
    power_law = PowerLawFractions(np.geomspace(emin, emax, 20), weight)
    index = np.full(len(logs), 2.5)
    for _ in range(20):
        _, mean, variance, _ = power_law.moments(index)
        index = np.clip(index + np.clip((mean - logs) / variance, -0.5, 0.5), 0.0, 12.0)
    return index


# Intensities in bins. gammapy's TemplateSpectralModel.integral differs by up to 5e-5, and handles
# one spectrum at a time and none that touches zero.


def integrate_intensity(energy, intensity, edges):
    """Integrals over bins (n_bins + 1 edges in GeV) of intensities (m, ...) at m energies, yielded.

    Between two energies, and beyond the ends, the intensity is a power law; where one of two is
    zero, energy times intensity is a straight line in log energy.
    """
    low, high = energy[0] / _MAX_EXTRAPOLATION, energy[-1] * _MAX_EXTRAPOLATION
    if edges[0] < low or edges[-1] > high:
        raise InputError(
            f"a model from {energy[0]:g} to {energy[-1]:g} GeV cannot be continued to bins from "
            f"{edges[0]:g} to {edges[-1]:g} GeV; give one that covers them"
        )
    for start, stop in zip(edges[:-1], edges[1:]):
        inside = energy[(energy > start) & (energy < stop)]
        nodes = np.concatenate([[start], inside, [stop]])
        values = [_intensity_at(energy, intensity, node) for node in nodes]
        yield sum(_segment(*pair) for pair in zip(nodes[:-1], nodes[1:], values[:-1], values[1:]))


def _intensity_at(energy, intensity, node):
    """Intensity at one energy: a power law through the two around it or nearest to it."""
    row = int(np.clip(np.searchsorted(energy, node) - 1, 0, len(energy) - 2))
    weight = np.log(node / energy[row]) / np.log(energy[row + 1] / energy[row])
    below, above = (np.asarray(intensity[row + step], dtype=float) for step in (0, 1))
    positive = (below > 0) & (above > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        power = below * (above / below) ** weight
    return np.where(positive, power, np.maximum(below + weight * (above - below), 0.0))


def _segment(start, stop, at_start, at_stop):
    """Integral of a power law between two energies."""
    log_step = np.log(stop / start)
    first, last = at_start * start, at_stop * stop
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.log(last / first)
        integral = (last - first) / slope
    # a slope near zero is a straight line, and so is what touches zero
    usable = np.isfinite(slope) & (np.abs(slope) > 1e-6)
    return log_step * np.where(usable, integral, (first + last) / 2)


_MAX_SPECTRUM = 10**6  # bytes; the official ones have a thousand


def read_isotropic(path):
    """Energies (m,) in GeV and intensities in ph cm-2 s-1 sr-1 GeV-1 of the official text format.

    Its three columns are energy in MeV, intensity in ph cm-2 s-1 sr-1 MeV-1, and its error.
    """
    path = Path(path).expanduser()
    check_file(path, "an isotropic spectrum")
    try:
        if path.stat().st_size > _MAX_SPECTRUM:
            raise ValueError(f"expected at most {_MAX_SPECTRUM} bytes")
        with warnings.catch_warnings(action="ignore"):  # an empty file is refused below
            energy, intensity, _ = np.loadtxt(path, ndmin=2, encoding="utf-8", unpack=True)
        if len(energy) < 2 or not np.all(np.isfinite([energy, intensity])):
            raise ValueError("expected two rows or more of finite numbers")
        if energy[0] <= 0 or np.any(np.diff(energy) <= 0) or np.any(intensity <= 0):
            raise ValueError("expected increasing, positive energies and positive intensities")
    except ValueError as err:
        raise InputError(
            "an isotropic spectrum has three columns: increasing energies in MeV, intensities in "
            f"ph cm-2 s-1 sr-1 MeV-1 and their errors; {path}: {err}; give the official text file"
        ) from err
    return energy / 1e3, intensity * 1e3
