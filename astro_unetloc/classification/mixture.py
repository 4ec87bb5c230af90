"""Classes found without labels: a mixture of normal distributions of index and curvature.

The fit returns the log-likelihood of each source for spectra on a grid. It is the error of the
source's spectrum, so that the mixture describes the true spectra and not the scattered best fits:
extreme deconvolution (Bovy, Hogg & Roweis 2011, AnApS 5, 1657) with likelihoods of any shape.
The coordinates are the logarithm of the index and the root of the curvature, in which AGN are
nearest to normal; where the root is negative the curvature is zero. With latitudes, each component
also has its own fractions of sources in bins of latitude.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from astro_unetloc.catalog.columns import CLASSES
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.spectra import SpectralGrid

# Bins of absolute Galactic latitude in degrees.
_LATITUDE_EDGES = np.array([0.0, 2.0, 5.0, 10.0, 20.0, 40.0, 90.0])
_MIN_SOURCES = 50
_N_FOLDS = 5
# One more component must increase the log-likelihood of sources that are left out of its fit by so
# much, by so much for each source, and by so many standard errors. AGN are not quite normal: a
# second component gained at most 0.004 for each on 104 skies of AGN alone above 10 GeV and 0.009 on
# 8 above 0.5 GeV. A component of pulsars or others gained 0.017 to 0.07 for each source of a sky.
_MIN_GAIN, _MIN_MEAN_GAIN, _MIN_SIGNIFICANCE = 10.0, 0.01, 2.0
# Prior of each component, worth so many sources: their standard deviations of log of index and root
# of beta, and the latitudes of all sources.
_PRIOR_SOURCES, _PRIOR_SIGMA = 5.0, np.array([0.06, 0.05])

# Mesh of log of index and root of beta: smallest, largest, step. It reaches beyond the grid.
_MESH = (-0.9, 2.3, 0.04), (-0.5, 1.6, 0.06)
# Places of the first component, and where another may start.
_FIRST, _STARTS = (0.9, 0.3), tuple(product((0.4, 0.9, 1.25, 1.6), (0.2, 0.9)))
_START_WEIGHT, _START_SIGMA = 0.1, np.array([0.2, 0.2])
# Iterations of a start and of the best start, unless the log-likelihood stands still before.
_N_SHORT, _N_LONG, _TOLERANCE = 20, 500, 1e-2
_TINY = 1e-12  # least density, number of sources and fraction, so that ratios are finite

# A component is called pulsars if its mean index is larger, or if its mean beta is that much larger
# than that of the largest component. AGN have 2.2 and 0.05 (0.3 where pixels of 0.9 deg hide the
# spectra); pulsars have 4.3 and 1 above 10 GeV (4.1 and 0.05 by the band fluxes of 3FHL, which do
# not resolve the curvature), and 1.2 and 0.35 above 0.5 GeV.
_PULSAR_INDEX, _PULSAR_BETA = 3.3, 0.2
# It is Galactic if more of its sources lie within 5 deg of the plane, where the sky has 9 %.
_GALACTIC_FRACTION = 0.25


@dataclass(frozen=True, eq=False)
class _Mesh:
    """Points between the nodes of a grid of spectra, at which normal distributions are computed."""

    grid: SpectralGrid

    @cached_property
    def points(self):
        """Log of index and root of beta (m, 2)."""
        axes = (np.arange(*axis) for axis in _MESH)
        return np.stack([values.ravel() for values in np.meshgrid(*axes, indexing="ij")], axis=1)

    @cached_property
    def weights(self):
        """Linear weights (m, n_nodes) of the nodes around each point."""
        log_index, root = self.points.T
        return csr_array(self.grid.weights(np.exp(log_index), np.maximum(root, 0.0) ** 2))

    def normal(self, means, covariances):
        """Normal distributions (K, m), sums of 1."""
        away = self.points - means[:, None]
        chi2 = (away @ np.linalg.inv(covariances) * away).sum(axis=2)
        density = np.exp((chi2.min(axis=1, keepdims=True) - chi2) / 2)
        return density / density.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of K components, each normal in log of index and root of beta."""

    mesh: _Mesh
    weights: np.ndarray  # (K,), fractions of the sources
    means: np.ndarray  # (K, 2)
    covariances: np.ndarray  # (K, 2, 2)
    latitudes: np.ndarray  # (K, n_bins), fractions of each component by latitude; (K, 1) without

    def __len__(self):
        return len(self.weights)

    @cached_property
    def normal(self):
        """Fractions (K, m) of each component at the points of the mesh."""
        return self.mesh.normal(self.means, self.covariances)

    @cached_property
    def families(self):
        """Fractions (K, n_nodes) of each component at the nodes of the grid."""
        return (self.normal @ self.mesh.weights).astype(np.float32)

    @property
    def classes(self):
        """Class (K,) of each component by its physics.

        Soft components are pulsars, as those that are more curved than the largest one; others
        along the plane are other sources of the Galaxy, and the rest are AGN.
        """
        index, beta = np.exp(self.means[:, 0]), np.maximum(self.means[:, 1], 0.0) ** 2
        more_curved = beta > beta[self.weights.argmax()] + _PULSAR_BETA
        n_near = np.sum(_LATITUDE_EDGES[1:] <= 5) if self.latitudes.shape[1] > 1 else 0
        galactic = self.latitudes[:, :n_near].sum(axis=1) > _GALACTIC_FRACTION
        return np.select([(index > _PULSAR_INDEX) | more_curved, galactic], ["psr", "other"], "agn")

    def responsibilities(self, log_likelihood, latitude_deg=None):
        """Probabilities (n, K) of the components for sources as in `fit_mixture`."""
        by_component, prior, density = _densities(_sources(log_likelihood, latitude_deg), self)
        return by_component * prior / density[:, None]

    def classifier(self, known):
        """A `Classifier` of the components, with the grid and the confidence of a known one.

        A class without a component has the spectra of all sources and a fraction of zero.
        """
        of_class = self.weights * (self.classes == np.array(CLASSES)[:, None])
        number = of_class.sum(axis=1, keepdims=True)
        of_class = np.where(number > 0, of_class, self.weights)
        families = of_class / of_class.sum(axis=1, keepdims=True) @ self.families + _TINY
        by_latitude = np.where(number > 0, of_class @ self.latitudes, 0.0) + _TINY
        middle = (_LATITUDE_EDGES[1:] + _LATITUDE_EDGES[:-1]) / 2
        by_latitude = np.broadcast_to(by_latitude, (len(CLASSES), len(middle)))
        fractions = np.stack([by_latitude / by_latitude.sum(axis=0)] * 2, axis=2)
        return replace(
            known, families=families, fractions=fractions, latitude_deg=middle,
            longitude_deg=np.array([0.0, 180.0]), flux_factors=np.ones_like(known.flux_factors),
        )  # fmt: skip

    def add(self, start):
        """A mixture with one component more, at one of `_STARTS`."""
        return Mixture(
            self.mesh,
            np.append(self.weights * (1 - _START_WEIGHT), _START_WEIGHT),
            np.vstack([self.means, start]),
            np.concatenate([self.covariances, [np.diag(_START_SIGMA**2)]]),
            np.vstack([self.latitudes, self.weights @ self.latitudes]),
        )


class _Sources(NamedTuple):
    """What a mixture is fitted to."""

    likelihood: np.ndarray  # (n, n_nodes) of float32, the largest of a source 1
    in_bin: np.ndarray  # (n, n_bins), 1 in the bin of its latitude, else 0; (n, 1) of 1 without

    def select(self, rows):
        """Some of the sources."""
        return _Sources(*(values[rows] for values in self))


def _sources(log_likelihood, latitude_deg):
    """Sources of log-likelihoods (n, n_nodes), NaN where nothing is known, and latitudes (n,)."""
    likelihood = np.exp(np.nan_to_num(log_likelihood, nan=0.0)).astype(np.float32)
    in_bin = np.ones((len(likelihood), 1))
    if latitude_deg is not None:
        row = np.digitize(np.abs(latitude_deg), _LATITUDE_EDGES[1:-1])
        in_bin = np.eye(len(_LATITUDE_EDGES) - 1)[row]
    return _Sources(likelihood, in_bin)


def fit_mixture(log_likelihood, grid, *, latitude_deg=None, max_components=4, rng=0):
    """Mixture that describes the spectra of sources, with as many components as they need.

    Components are added as long as sources that were left out of the fit become more probable by
    it, in five-fold cross-validation.

    Parameters
    ----------
    log_likelihood : ndarray (n, n_nodes)
        Log-likelihood of each source at the nodes of the grid, largest value 0. Sources of which
        any is NaN are left out.
    grid : SpectralGrid
        The spectra.
    latitude_deg : ndarray (n,), optional
        Galactic latitudes, if components may differ in them.
    max_components : int
        Largest number of components.
    rng : int or numpy.random.Generator
        Divides the sources for the cross-validation.

    Returns
    -------
    Mixture
        Its ``classes`` name the components, its ``responsibilities`` are the probabilities of
        each source.

    Raises
    ------
    InputError
        If fewer than 50 sources have a spectrum.

    Examples
    --------
    A hundred sources, a fifth of which are soft and curved:

    >>> import numpy as np
    >>> from astro_unetloc.classification import fit_mixture
    >>> from astro_unetloc.irf.spectra import spectral_grid
    >>> grid = spectral_grid(10.0)
    >>> index = np.where(np.arange(100) % 5 == 0, 4.5, 2.2)
    >>> root = np.where(index > 4, 1.0, 0.1)
    >>> nodes_index, nodes_beta = grid.nodes
    >>> chi2 = ((index[:, None] - nodes_index) / 0.4) ** 2
    >>> chi2 += ((root[:, None] - np.sqrt(nodes_beta)) / 0.2) ** 2
    >>> fit_mixture(-chi2 / 2, grid).classes
    array(['agn', 'psr'], dtype='<U5')
    """
    known = np.isfinite(log_likelihood).all(axis=1)
    if known.sum() < _MIN_SOURCES:
        raise InputError(
            f"classes without labels need at least {_MIN_SOURCES} sources with a spectrum; got "
            f"{known.sum()}; use the classes that the model knows"
        )
    sources = _sources(log_likelihood, latitude_deg).select(known)
    fold = np.random.default_rng(rng).permutation(len(sources.likelihood)) % _N_FOLDS
    mixture = _maximize(sources, _first(sources, grid), _N_LONG)
    held_out = _held_out(sources, mixture, fold)
    while len(mixture) < max_components:
        larger = _grow(sources, mixture)
        with_larger = _held_out(sources, larger, fold)
        gain = with_larger - held_out
        error = gain.std() * np.sqrt(len(gain))
        least = _MIN_GAIN, _MIN_MEAN_GAIN * len(gain), _MIN_SIGNIFICANCE * error
        if gain.sum() < max(least):
            break
        mixture, held_out = larger, with_larger
    return mixture


def _first(sources, grid):
    """A broad mixture of one component."""
    covariance = 4 * np.diag(_START_SIGMA**2)
    latitudes = sources.in_bin.mean(axis=0)
    return Mixture(_Mesh(grid), np.ones(1), np.array([_FIRST]), covariance[None], latitudes[None])


def _grow(sources, mixture):
    """The most probable mixture with one component more, from the best of several starts."""
    trials = [_maximize(sources, mixture.add(start), _N_SHORT) for start in _STARTS]
    total = [np.log(_densities(sources, trial)[2]).sum() for trial in trials]
    return _maximize(sources, trials[int(np.argmax(total))], _N_LONG)


def _held_out(sources, mixture, fold):
    """Log density (n,) at each source of the mixture that is fitted to the other folds."""
    result = np.empty(len(fold))
    for number in range(_N_FOLDS):
        left_out = fold == number
        fitted = _maximize(sources.select(~left_out), mixture, _N_LONG)
        result[left_out] = np.log(_densities(sources.select(left_out), fitted)[2])
    return result


def _densities(sources, mixture):
    """Densities (n, K) of the components at the sources, their prior (n, K) and the sum (n,)."""
    by_component = sources.likelihood @ mixture.families.T
    prior = mixture.weights * (sources.in_bin @ mixture.latitudes.T)
    return by_component, prior, (by_component * prior).sum(axis=1) + _TINY


def _maximize(sources, mixture, n_iterations):
    """The mixture after that many steps, or less, of expectation and maximization."""
    last = -np.inf
    for _ in range(n_iterations):
        by_component, prior, density = _densities(sources, mixture)
        total = np.log(density).sum()
        if total - last < _TOLERANCE:
            break
        last, ratio = total, prior / density[:, None]
        at_nodes = ratio.T.astype(np.float32) @ sources.likelihood
        at_points = (at_nodes @ mixture.mesh.weights.T) * mixture.normal
        mixture = _maximum(mixture.mesh, at_points, (ratio * by_component).T @ sources.in_bin)
    return mixture


def _maximum(mesh, at_points, by_latitude):
    """Mixture of the numbers of sources (K, m) at the points and (K, n_bins) by latitude."""
    number = at_points.sum(axis=1) + _TINY
    means = at_points @ mesh.points / number[:, None]
    away = mesh.points - means[:, None]
    scatter = np.swapaxes(at_points[:, :, None] * away, 1, 2) @ away
    scatter += _PRIOR_SOURCES * np.diag(_PRIOR_SIGMA**2)
    covariances = scatter / (number + _PRIOR_SOURCES)[:, None, None]
    by_latitude = by_latitude + _PRIOR_SOURCES * by_latitude.sum(axis=0) / by_latitude.sum()
    latitudes = by_latitude / by_latitude.sum(axis=1, keepdims=True)
    return Mixture(mesh, number / number.sum(), means, covariances, latitudes)
