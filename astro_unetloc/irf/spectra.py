"""Spectra of sources: power laws, log-parabolas and power laws with an exponential cut-off.

All three are one formula, with parameters that are zero where a kind does not have them, so that
many sources are handled at once.
"""

from copy import copy
from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = [
    "KINDS",
    "PowerLawShares",
    "Spectra",
    "bin_shares",
    "draw_energy",
    "fitted_index",
    "power_laws",
]


# A photon of an input bin draws its energy inside the bin from E ** -photon_index (DESIGN).
PHOTON_INDEX = 2.4


def draw_energy(uniform, energy_min, energy_max, index=PHOTON_INDEX):
    """Energies from a power law ``E ** -index`` between two edges by inversion.

    Parameters
    ----------
    uniform : ndarray (n,)
        Uniform numbers in [0, 1).
    energy_min, energy_max : float or ndarray (n,)
        Edges of the bin, any unit.
    index : float
        Photon index, not 1.

    Returns
    -------
    ndarray (n,)
        Energies in the unit of the edges, in [energy_min, energy_max).
    """
    low, high = (np.asarray(e, dtype=float) ** (1 - index) for e in (energy_min, energy_max))
    energy = (low + uniform * (high - low)) ** (1 / (1 - index))
    return np.clip(energy, energy_min, np.nextafter(energy_max, energy_min))


def bin_shares(edges, new_edges, index=PHOTON_INDEX):
    """Share of the photons of each energy bin that lie in each new bin.

    Parameters
    ----------
    edges : ndarray (n_bins + 1,)
        Edges of the bins, any unit; inside a bin photons follow ``E ** -index``.
    new_edges : ndarray (n_new + 1,)
        Edges of the new bins, in the same unit.
    index : float
        Photon index, not 1.

    Returns
    -------
    ndarray (n_bins, n_new)
    """
    clipped = np.clip(new_edges, edges[:-1, None], edges[1:, None]) ** (1 - index)
    return np.diff(clipped, axis=1) / np.diff(edges ** (1 - index))[:, None]


def _log_nodes(energy, grid):
    """Lower row of an increasing energy grid, and the weight of the next one, in log energy."""
    place = np.interp(np.log(energy), np.log(grid), np.arange(len(grid)))
    row = np.minimum(place.astype(int), max(len(grid) - 2, 0))
    return row, place - row


# Names of the Fermi tools and catalogues.
KINDS = ("PowerLaw", "LogParabola", "PLSuperExpCutoff2")


# Gauss-Legendre nodes in ln E: 48 integrate every drawn spectrum to 1e-6 from 0.3 GeV to 2 TeV.
_N_NODES = 48


# Steps in ln E between which a spectrum is drawn as a power law.
_N_STEPS = 160


# Gauss-Legendre nodes in ln E inside one bin.
_N_BIN_NODES = 4


@dataclass(frozen=True)
class Spectra:
    r"""Photon spectra of n sources.

    .. math:: \frac{dN}{dE} = K \left(\frac{E}{E_0}\right)^{-\Gamma - \beta \ln(E/E_0)}
              \exp\left(a (E_0^b - E^b)\right)

    A power law has beta = a = 0, a log-parabola a = 0, a cut-off power law beta = 0: the forms of
    the 4FGL catalogue up to its second release (arXiv:1902.10045, section 3.3).

    Attributes
    ----------
    kind : ndarray (n,) of int8
        Index into ``KINDS``.
    amplitude : ndarray (n,)
        K in ph cm-2 s-1 GeV-1.
    pivot : ndarray (n,)
        E_0 in GeV.
    index : ndarray (n,)
        Photon index Gamma: of a power law and a log-parabola at the pivot.
    beta : ndarray (n,)
        Curvature of a log-parabola.
    expfactor : ndarray (n,)
        a in GeV**-b.
    exp_index : ndarray (n,)
        b.
    """

    kind: np.ndarray
    amplitude: np.ndarray
    pivot: np.ndarray
    index: np.ndarray
    beta: np.ndarray
    expfactor: np.ndarray
    exp_index: np.ndarray

    def __len__(self):
        return len(self.amplitude)

    def select(self, mask):
        """The spectra of a mask or index array."""
        return Spectra(*(getattr(self, f.name)[mask] for f in fields(self)))

    @classmethod
    def concatenate(cls, parts):
        """The spectra of several `Spectra`, one after the other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def _log_density(self, log_energy):
        """Logarithm of dN/dE / K at ln(E / GeV), shape (m,) or (n, m); gives (n, m)."""
        pivot, index, beta, expfactor, exp_index = (
            getattr(self, name)[:, None]
            for name in ("pivot", "index", "beta", "expfactor", "exp_index")
        )
        x = log_energy - np.log(pivot)
        result = -x * (index + beta * x)
        cut = np.flatnonzero(self.expfactor)  # few sources: the power is slow
        if len(cut):
            power = np.exp(exp_index[cut] * np.broadcast_to(log_energy, result.shape)[cut])
            result[cut] += expfactor[cut] * (pivot[cut] ** exp_index[cut] - power)
        return result

    def density(self, energy):
        """Photons per area, time and energy.

        Parameters
        ----------
        energy : float or ndarray (m,)
            In GeV.

        Returns
        -------
        ndarray (n, m)
            In ph cm-2 s-1 GeV-1.
        """
        log_energy = np.log(np.atleast_1d(energy).astype(float))
        return self.amplitude[:, None] * np.exp(self._log_density(log_energy))

    def flux(self, emin, emax, *, weight=None):
        """Photon flux between two energies in GeV.

        Parameters
        ----------
        emin, emax : float
            In GeV.
        weight : callable, optional
            Of energies (m,) in GeV, such as a relative exposure, that multiplies the spectrum.

        Returns
        -------
        ndarray (n,)
            In ph cm-2 s-1.
        """
        nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
        half = np.log(emax / emin) / 2
        energy = emin * np.exp(half * (nodes + 1))
        weights = weights * half * energy
        if weight is not None:
            weights = weights * weight(energy)
        return self.density(energy) @ weights

    def mean_index(self, emin, emax):
        """Photon index averaged over the photons between two energies, shape (n,).

        The mean of -dlnN/dlnE, integrated by parts; of a power law its index. A fit of one power
        law finds about this.
        """
        ends = np.array([emin, emax], dtype=float)
        step = -np.diff(ends * self.density(ends), axis=1)[:, 0]
        return 1 + step / self.flux(emin, emax)

    def scaled(self, flux, emin, emax):
        """The same shapes with photon fluxes (n,) in ph cm-2 s-1 between two energies in GeV."""
        return replace(self, amplitude=self.amplitude * (flux / self.flux(emin, emax)))

    def draw_energy(self, which, rng, *, emin, emax):
        """Energies of photons of many sources at once.

        The cumulative spectrum of each source is inverted on a logarithmic grid, between whose
        points the spectrum is a power law; drawn power laws are exact.

        Parameters
        ----------
        which : ndarray (n_photons,) of int
            Source of each photon.
        rng : numpy.random.Generator
            Source of randomness.
        emin, emax : float
            In GeV.

        Returns
        -------
        ndarray (n_photons,)
            In GeV, in [emin, emax).
        """
        uniform = rng.random(len(which))
        if not len(which):
            return uniform
        used, row = np.unique(which, return_inverse=True)
        grid, step = np.linspace(np.log(emin), np.log(emax), _N_STEPS + 1, retstep=True)
        log_rate = self.select(used)._log_density(grid) + grid  # of photons per ln E
        log_rate -= log_rate.max(axis=1, keepdims=True)
        slope = np.diff(log_rate, axis=1)
        cumulative = np.cumsum(np.exp(log_rate[:, :-1]) * _expm1_over(slope), axis=1)
        cumulative /= cumulative[:, -1:]
        # one search in all sources: each cumulative spectrum is shifted by its row
        place = np.searchsorted(
            (cumulative + np.arange(len(used))[:, None]).ravel(), uniform + row, side="right"
        )
        cell = np.clip(place - row * _N_STEPS, 0, _N_STEPS - 1)
        before = np.where(cell > 0, cumulative[row, cell - 1], 0.0)
        share = (uniform - before) / np.maximum(cumulative[row, cell] - before, 1e-300)
        part = _invert(np.clip(share, 0.0, 1.0), slope[row, cell])
        energy = np.exp(grid[cell] + step * part)
        return np.clip(energy, emin, np.nextafter(emax, emin))


def _expm1_over(x):
    """``(exp(x) - 1) / x``, 1 at zero."""
    small = np.abs(x) < 1e-9
    return np.where(small, 1.0, np.expm1(x) / np.where(small, 1.0, x))


def _invert(share, slope):
    """Where in [0, 1] the integral of ``exp(slope t)`` reaches a share of its whole."""
    flat = np.abs(slope) < 1e-9
    slope = np.where(flat, 1.0, slope)
    return np.where(flat, share, np.log1p(share * np.expm1(slope)) / slope)


def power_laws(flux, index, *, emin=10.0, emax=2000.0):
    """Power laws of given photon fluxes.

    Parameters
    ----------
    flux : ndarray (n,)
        Photon flux between ``emin`` and ``emax`` in ph cm-2 s-1.
    index : ndarray (n,)
        Photon index.
    emin, emax : float
        In GeV; ``emin`` is the pivot.

    Returns
    -------
    Spectra

    Examples
    --------
    >>> import numpy as np
    >>> from astro_unetloc.irf.spectra import power_laws
    >>> spectra = power_laws(np.array([1e-10]), np.array([2.0]))
    >>> print(f"{spectra.flux(10, 100)[0]:.3e}")
    9.045e-11
    """
    flux, index = np.broadcast_arrays(np.asarray(flux, float), np.asarray(index, float))
    n = len(flux)
    shapes = Spectra(
        np.zeros(n, np.int8), np.ones(n), np.full(n, float(emin)), index.copy(), np.zeros(n),
        np.zeros(n), np.ones(n),
    )  # fmt: skip
    return shapes.scaled(flux, emin, emax)


class PowerLawShares:
    """How the detected photons of power laws share out among energy bins.

    Parameters
    ----------
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    exposure : callable
        Of energies (m,) in GeV; gives the exposure (m,), or (n, m) of n sources. Its unit
        cancels in the shares.

    Attributes
    ----------
    n_energy : int
        Number of bins.
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
        """The same for some of the sources, by their rows (k,)."""
        selected = copy(self)
        if len(self._weight) > 1:
            selected._weight = self._weight[rows]
        return selected

    def _rates(self, index):
        """Photons (n, n_energy, n_nodes) detected of E^-index in units of the mid energy."""
        index = np.asarray(index, dtype=float)[:, None, None]
        return self._weight * np.exp((1 - index) * (self._log_energy - self._middle))

    def detected(self, index):
        """Photons (n, n_energy) of spectra ``(E / GeV) ** -index`` per cm2 s GeV, index (n,)."""
        factor = np.exp((1 - np.asarray(index, dtype=float)) * self._middle)
        return self._rates(index).sum(axis=2) * factor[:, None]

    def shares(self, index):
        """Share of each bin, shape (n, n_energy), of power laws of indices (n,)."""
        rate = self._rates(index).sum(axis=2)
        return rate / rate.sum(axis=1, keepdims=True)

    def moments(self, index):
        """Shares (n, n_energy), mean and variance (n,) of ln E, and its mean in each bin.

        The shares change with the index by ``share * (mean - mean in the bin)``.
        """
        rate = self._rates(index)
        each = rate.sum(axis=2)
        total = each.sum(axis=1)
        in_bin = (rate * self._log_energy).sum(axis=2) / np.maximum(each, 1e-300)
        mean = (each * in_bin).sum(axis=1) / total
        square = (rate * self._log_energy**2).sum(axis=(1, 2)) / total
        return each / total[:, None], mean, square - mean**2, in_bin


def fitted_index(spectra, emin, emax, *, weight):
    """Photon indices that a maximum-likelihood fit of power laws finds.

    The derivative of the likelihood by the index is zero where the photons of the power law have
    the mean ln E of those that were detected.

    Parameters
    ----------
    spectra : Spectra
        The n spectra.
    emin, emax : float
        In GeV.
    weight : callable
        Of energies (m,) in GeV, the relative exposure.

    Returns
    -------
    ndarray (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from astro_unetloc.irf.exposure import SurveyExposure
    >>> from astro_unetloc.irf.spectra import fitted_index, power_laws
    >>> spectra = power_laws(np.array([1e-10]), np.array([2.2]))
    >>> print(fitted_index(spectra, 10, 2000, weight=SurveyExposure().relative).round(3))
    [2.2]
    """
    seen = spectra.flux(emin, emax, weight=weight)
    logs = spectra.flux(emin, emax, weight=lambda e: weight(e) * np.log(e)) / seen
    shares = PowerLawShares(np.geomspace(emin, emax, 20), weight)
    index = np.full(len(logs), 2.5)
    for _ in range(20):
        _, mean, variance, _ = shares.moments(index)
        index = np.clip(index + np.clip((mean - logs) / variance, -0.5, 0.5), 0.0, 12.0)
    return index
