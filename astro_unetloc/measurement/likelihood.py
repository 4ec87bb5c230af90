"""Poisson likelihood of many sources: maximum, covariance and position posterior.

Each source is fitted to the counts of its core, on top of the local background and of all other
sources. Overlapping sources take their damped Newton steps one after the other, so that they
converge to their common maximum.

Words used here: ``npred_neighbors`` are the expected counts of the other sources, ``npred_other``
those and the background, ``npred_sources`` those of all sources, per square degree and energy bin.
"""

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.sparse import csr_array

from astro_unetloc.measurement.data import Pairs, graph_colors, sum_groups

# Mean and width of a weak prior on the photon index; faint sources constrain it little.
INDEX_PRIOR = 2.3, 1.5
_INDEX_BOUNDS, _MIN_COUNTS = (0.0, 6.0), 1e-3
# Largest changes in one Newton step, of the position in degrees and of the index.
_MAX_SHIFT_DEG, _MAX_INDEX_STEP = 0.05, 0.5
# A source is idle in a round in which its log posterior changes by less than this; after so many
# such rounds it waits.
_IDLE_GAIN, _N_IDLE = 1e-3, 2
# Number of nearest neighbours with free parameters in a joint covariance.
_MAX_NEIGHBORS = 6


@dataclass(eq=False)
class SourceState:
    """Parameters of n sources and what the likelihood derives from them at m core pairs."""

    # (n, 4): degrees east and north of the initial position, expected counts in the energy range
    # of the fit if the whole sky were observed, photon index
    parameters: np.ndarray
    psf: np.ndarray  # (6, m), per square degree, and its derivatives by x, y, xx, xy and yy
    fraction: np.ndarray  # (3, n, n_energy), of the counts in each energy bin, d/d index, d2/d2
    observed: np.ndarray  # (3, n), weighted fraction of the counts in the observed core, the same
    npred: np.ndarray  # (m,), expected counts of each pair's source

    @property
    def counts(self):
        """Expected counts (n,)."""
        return self.parameters[:, 2]

    @property
    def index(self):
        """Photon indices (n,)."""
        return self.parameters[:, 3]

    def select(self, rows, pairs):
        """The state of some of the sources and of their core pairs."""
        return SourceState(
            self.parameters[rows], self.psf[:, pairs], self.fraction[:, rows],
            self.observed[:, rows], self.npred[pairs],
        )  # fmt: skip

    def update(self, rows, pairs, other):
        """Replace, in place, the state of some of the sources."""
        self.parameters[rows] = other.parameters
        self.psf[:, pairs], self.npred[pairs] = other.psf, other.npred
        self.fraction[:, rows], self.observed[:, rows] = other.fraction, other.observed


@dataclass(eq=False)
class _CoreLikelihood:
    """Poisson likelihood of n sources at the weighted counts of their cores."""

    core: Pairs
    in_core: np.ndarray  # (n, n_energy), weighted fraction of the photons in the observed core
    profiles: object
    spectrum: object

    def __post_init__(self):
        self.n, self.n_energy = self.in_core.shape
        self.cell = self.core.cell(self.n_energy)

    def select(self, rows):
        """The likelihood of some of the sources (k,), and their core pairs."""
        number = np.full(self.n, -1)
        number[rows] = np.arange(len(rows))
        pairs = np.flatnonzero(number[self.core.source] >= 0)
        core = self.core.select(pairs)
        core = replace(core, source=number[core.source])
        spectrum = self.spectrum.select(rows)
        return _CoreLikelihood(core, self.in_core[rows], self.profiles, spectrum), pairs

    def evaluate(self, parameters, psf=None):
        """`SourceState` of parameters (n, 4); with the PSF at the pairs where it is known."""
        fraction, mean, variance, in_bin = self.spectrum.moments(parameters[:, 3])
        away = mean[:, None] - in_bin
        second = away**2 - variance[:, None]
        fraction = np.stack([fraction, fraction * away, fraction * second])
        psf = self._psf(parameters) if psf is None else psf
        npred = (parameters[:, 2, None] * fraction[0]).ravel()[self.cell] * psf[0]
        observed = (fraction * self.in_core).sum(axis=2)
        return SourceState(parameters, psf, fraction, observed, npred)

    def _psf(self, parameters):
        """PSF and its derivatives (6, m), averaged over the sub-pixels of each pair."""
        core = self.core
        dx, dy = (
            offset - core.at_subpixels(parameters[core.source, k])
            for k, offset in enumerate(core.offsets)
        )
        energy_bin = core.at_subpixels(core.energy_bin)
        density, slope, bend = self.profiles.density(energy_bin, dx * dx + dy * dy)
        # from derivatives of the logarithm by the squared offset
        first, second = -2 * slope * density, 4 * (bend + slope * slope) * density
        derivatives = (
            density, first * dx, first * dy,
            second * dx * dx - first, second * dx * dy, second * dy * dy - first,
        )  # fmt: skip
        return np.stack([core.mean(values) for values in derivatives])

    def gain(self, state, trial, npred_other):
        """Increase (n,) of the log posterior from a state to a trial."""
        ratio = (trial.npred + npred_other) / (state.npred + npred_other)
        gain = self.core.sum(self.core.number * np.log(ratio), self.n)
        for s, sign in ((trial, 1), (state, -1)):
            log_prior = -0.5 * ((s.index - INDEX_PRIOR[0]) / INDEX_PRIOR[1]) ** 2
            gain -= sign * (s.counts * s.observed[0] - log_prior)
        return gain

    def gradient_and_hessian(self, state, npred_other):
        """Gradient (n, 4) of the log posterior, Hessian (n, 4, 4) of its negative, information.

        The information (n, 4, 4) is the part of the Hessian that is never negative: sums of
        products of the last result, derivatives (4, m) of the logarithm of the expected counts.
        """
        npred, core, n = state.npred + npred_other, self.core, self.n
        counts = state.counts[core.source] / npred
        fraction, by_index, by_index2 = (f.ravel()[self.cell] for f in state.fraction)
        psf, by_x, by_y, by_xx, by_xy, by_yy = state.psf
        scale = counts * fraction
        by_counts = fraction * psf / npred
        first = np.stack([scale * by_x, scale * by_y, by_counts, counts * by_index * psf])
        second = {
            (0, 0): scale * by_xx, (0, 1): scale * by_xy, (1, 1): scale * by_yy,
            (0, 2): fraction * by_x / npred, (1, 2): fraction * by_y / npred,
            (0, 3): counts * by_index * by_x, (1, 3): counts * by_index * by_y,
            (2, 3): by_index * psf / npred, (3, 3): counts * by_index2 * psf,
        }  # fmt: skip
        gradient = core.sum(core.number * first, n).T
        information, hessian = np.zeros((2, n, 4, 4))
        for a in range(4):
            weighted = core.number * first[a]
            for b in range(a, 4):
                product = core.sum(weighted * first[b], n)
                information[:, a, b] = information[:, b, a] = product
                if (a, b) in second:
                    product = product - core.sum(core.number * second[a, b], n)
                hessian[:, a, b] = hessian[:, b, a] = product
        observed, by_index, by_index2 = state.observed
        mean, sigma = INDEX_PRIOR
        gradient[:, 2] -= observed
        gradient[:, 3] -= state.counts * by_index + (state.index - mean) / sigma**2
        hessian[:, 2, 3] += by_index
        hessian[:, 3, 2] += by_index
        hessian[:, 3, 3] += state.counts * by_index2 + sigma**-2.0
        information[:, 3, 3] += sigma**-2.0
        return gradient, hessian, information, first


class Likelihood(_CoreLikelihood):
    """Poisson likelihood of n sources at the counts of their cores, with their tails.

    Counts have weights (n, n_energy), at most 1.
    """

    def __init__(self, regions, profiles, spectrum, weight=1.0):
        self.regions, self.n_bins, core = regions, len(regions.counts.number), regions.core
        weight = np.broadcast_to(weight, (len(regions), spectrum.n_energy))
        core = replace(core, number=core.number * weight[core.source, core.energy_bin])
        in_core = regions.contained(profiles, regions.core_deg) * weight
        super().__init__(core, in_core, profiles, spectrum)

    @cached_property
    def _tail_psf(self):
        """PSF at the tail pairs; so far out a shift of the source does not matter."""
        tail = self.regions.tail
        return self.profiles.density(tail.energy_bin, tail.x**2 + tail.y**2)[0]

    def npred_reached(self, state):
        """Expected counts of each source at its own pairs."""
        of_tail = self.regions.cell[len(self.core) :]
        at_tail = (state.counts[:, None] * state.fraction[0]).ravel()[of_tail] * self._tail_psf
        return np.concatenate([state.npred, at_tail])

    def npred_by_source(self, state):
        """Expected counts of each source, sparse (n_bins, n)."""
        pairs = self.regions.reached
        where = pairs.bin, pairs.source
        return csr_array((self.npred_reached(state), where), shape=(self.n_bins, self.n))

    def npred_sources(self, state):
        """Expected counts (n_bins,) of all sources."""
        return sum_groups(self.regions.reached.bin, self.npred_reached(state), self.n_bins)


def maximize(likelihood, background, parameters, *, n_rounds, neighbors, free):
    """`SourceState` and background at the maximum of the posterior, from parameters (n, 4).

    The third result are the expected counts (m,) of all but the source itself at the core pairs.
    In each round every source takes one step; sources of one colour, see `graph_colors`, take it
    at the same time. Idle sources wait until one of their ``neighbors``, see `neighbor_pairs`,
    moves. ``free`` are the indices of the fitted parameters.
    """
    state = likelihood.evaluate(np.array(parameters, dtype=float))
    damping, n_idle = np.full(likelihood.n, 1e-2), np.zeros(likelihood.n, int)
    colors = graph_colors(likelihood.n, neighbors)
    groups = [np.flatnonzero(colors == color) for color in range(colors.max(initial=0) + 1)]
    groups = [(rows, *likelihood.select(rows)) for rows in groups]
    for number in range(n_rounds):
        if number < 3 or number % 2:  # later the background hardly changes
            fraction, npred_sources = background_fraction(likelihood, background, state)
            background = background.step(fraction)
        for rows, part, pairs in groups:
            waiting = n_idle[rows] >= _N_IDLE
            if waiting.all():
                continue
            if waiting.any():
                rows, (part, some) = rows[~waiting], part.select(np.flatnonzero(~waiting))
                pairs = pairs[some]
            before, bins = state.select(rows, pairs), part.core.bin
            npred_neighbors = np.maximum(npred_sources[bins] - before.npred, 0.0)
            npred_other = background.npred[pairs] + npred_neighbors  # core pairs come first
            trial = _newton_step(part, before, npred_other, damping[rows], np.array(free))
            gain = part.gain(before, trial, npred_other)
            better = gain > -1e-9
            damping[rows] = np.clip(damping[rows] * np.where(better, 0.2, 5.0), 1e-6, 1e4)
            n_idle[rows] = np.where(np.abs(gain) < _IDLE_GAIN, n_idle[rows] + 1, 0)
            changed = np.flatnonzero(better[part.core.source])
            trial = trial.select(better, changed)
            state.update(rows[better], pairs[changed], trial)
            np.add.at(npred_sources, bins[changed], trial.npred - before.npred[changed])
        source, other = neighbors.T
        n_idle[source[n_idle[other] == 0]] = 0
    fraction, npred_sources = background_fraction(likelihood, background, state)
    background = background.step(fraction)
    npred_neighbors = np.maximum(npred_sources[likelihood.core.bin] - state.npred, 0.0)
    return state, background, background.npred[: len(likelihood.core)] + npred_neighbors


def background_fraction(likelihood, background, state):
    """Fraction (m,) of the background in the expected counts, those of all sources (n_bins,)."""
    npred_sources = likelihood.npred_sources(state)
    npred = background.npred + npred_sources[background.pairs.bin]
    return background.npred / npred, npred_sources


def _newton_step(likelihood, state, npred_other, damping, free):
    """`SourceState` after a damped step, uphill also where the Hessian is not positive."""
    gradient, hessian, information, _ = likelihood.gradient_and_hessian(state, npred_other)
    gradient = gradient[:, free]
    hessian, information = (m[:, free[:, None], free] for m in (hessian, information))
    scale = 1 / np.sqrt(np.einsum("naa->na", information) + 1e-6)
    value, vector = np.linalg.eigh(hessian * scale[:, :, None] * scale[:, None, :])
    value = np.maximum(np.abs(value), 1e-3) + damping[:, None]
    change = np.einsum("nab,na->nb", vector, scale * gradient) / value
    step = np.zeros((likelihood.n, 4))
    step[:, free] = scale * np.einsum("nab,nb->na", vector, change)
    # shortened where it is too long
    shift_deg = np.hypot(step[:, 0], step[:, 1])
    step[:, :2] *= np.minimum(1.0, _MAX_SHIFT_DEG / np.maximum(shift_deg, 1e-12))[:, None]
    step[:, 3] = np.clip(step[:, 3], -_MAX_INDEX_STEP, _MAX_INDEX_STEP)
    parameters, counts = state.parameters + step, state.counts
    least = np.maximum(counts / 4, _MIN_COUNTS)
    parameters[:, 2] = np.clip(parameters[:, 2], least, counts * 4)
    parameters[:, 3] = np.clip(parameters[:, 3], *_INDEX_BOUNDS)
    return likelihood.evaluate(parameters, None if 0 in free else state.psf)


def joint_covariances(derivatives, core, hessian, neighbors, members):
    """Covariances (2, k, 4, 4) of the members, all others fixed, and with their neighbours free.

    ``derivatives`` (m, 4) are those of the logarithm of the expected counts at the core pairs,
    times the square root of the counts: their products are the information. ``neighbors`` are
    from `neighbor_pairs`.
    """
    n, covariances = len(hessian), np.array([np.linalg.inv(hessian[members])] * 2)
    first = np.searchsorted(neighbors[:, 0], np.arange(n + 1))
    used = np.flatnonzero(np.diff(first)[core.source])
    columns = (4 * core.source[used, None] + np.arange(4)).ravel()
    shape = core.bin.max(initial=0) + 1, 4 * n
    where = np.repeat(core.bin[used], 4), columns
    design = csr_array((derivatives[used].ravel(), where), shape=shape)
    blocks = (design.T @ design).tobsr((4, 4))  # one of each pair of sources with common counts
    blocks.sort_indices()
    key = np.repeat(np.arange(n), np.diff(blocks.indptr)) * n + blocks.indices
    if not len(key):
        return covariances  # no count is common to two sources
    n_near = np.minimum(np.diff(first)[members], _MAX_NEIGHBORS)
    for k in np.unique(n_near[n_near > 0]):  # all groups of one size at once
        rows = np.flatnonzero(n_near == k)
        near = neighbors[first[members[rows], None] + np.arange(k), 1]
        group, each = np.column_stack([members[rows], near]), np.arange(k + 1)
        pair = group[:, :, None] * n + group[:, None]
        at = np.minimum(np.searchsorted(key, pair), len(key) - 1)
        matrix = np.where((key[at] == pair)[..., None, None], blocks.data[at], 0.0)
        matrix[:, each, each] = hessian[group]
        matrix = np.swapaxes(matrix, 2, 3).reshape(len(rows), 4 * k + 4, 4 * k + 4)
        size = np.sqrt(np.einsum("raa->ra", matrix))
        unit = size[:, :, None] * size[:, None]
        value, vector = np.linalg.eigh(matrix / unit)
        value = np.maximum(value, 1e-2)  # directions that the data do not constrain
        inverse = (vector / value[:, None]) @ np.swapaxes(vector, 1, 2) / unit
        covariances[1, rows] = inverse[:, :4, :4]
    return covariances


# Position posterior

# Points per axis of the grid and its half width in standard deviations. A first grid with fewer
# points centres it; its steps are too wide to resolve small variances, so that one is added.
N_GRID, _REACH, _N_FIRST, _FIRST_VARIANCE = 11, 4.0, 7, 0.1
# Points where pixels are so wide that the log posterior has edges, which a spline overshoots.
N_GRID_WIDE = 15
# Steps of the grid are divided by this when it is interpolated for credible regions.
_FINER = 4
# Counts are left out if the source explains a smaller ratio of them everywhere on the grid.
_MIN_RATIO = 0.01
# Least second derivative by the counts and largest changes, relative to the best counts.
_MIN_HESSIAN, _COUNTS_CHANGE = 1.0, (-0.8, 2.0)
# Numbers of density values that are held at once.
_CHUNK = 500_000
# Differential number counts of sources are N(S) ~ S^-2.15 (3FHL, arXiv:1702.00664): of all fluxes
# that explain a few photons the lower ones are the likelier. Without this prior the 68 % ellipses
# of sources of 8 to 12 photons contained 66 %, with it 69 % (skies of seeds 1000 to 1003).
_NUMBER_COUNTS = 2.15
_LEVELS = 0.68, 0.95


def position_posterior(likelihood, state, npred_other, covariance, *, n_grid=N_GRID):
    """Posterior of the positions, marginalized over the counts, spectra at their best values.

    Returns its mean (n, 2), degrees east and north, and covariance (n, 2, 2) for a flat prior, and
    the radii (2, n) in sigma of the ellipses that contain 68 and 95 %. With few photons and the
    tails of the PSF the likelihood is far from a Gaussian, and the mean of the posterior is the
    best estimate of a location (E. J. G. Pitman 1939, Biometrika 30, 391,
    doi:10.1093/biomet/30.3-4.391).
    """
    center = state.parameters[:, :2]
    for n_points, variance in ((_N_FIRST, _FIRST_VARIANCE), (n_grid, 0.0)):
        root, step = np.linalg.cholesky(covariance), np.linspace(-_REACH, _REACH, n_points)
        grid = np.stack(np.meshgrid(step, step, indexing="ij")).reshape(2, -1)
        log_posterior = _log_posterior(likelihood, state, npred_other, center, root, grid)
        weight = np.exp(log_posterior)
        weight /= weight.sum(axis=1, keepdims=True)
        # mean and covariance in units of the grid
        mean = weight @ grid.T
        spread = np.einsum("ng,ag,bg->nab", weight, grid, grid, optimize=True)
        spread += 1e-6 * np.eye(2) - mean[:, :, None] * mean[:, None, :]
        center = center + np.einsum("nab,nb->na", root, mean)
        covariance = root @ (spread + variance * np.eye(2)) @ np.swapaxes(root, 1, 2)
    return center, covariance, _credible_scales(log_posterior, mean, spread)


def _log_posterior(likelihood, state, npred_other, center, root, grid):
    """Log posterior (n, n_grid) at ``center + root @ grid``, its maximum 0.

    At each point the counts are marginalized in the Gaussian approximation around one Newton step
    from their best value.
    """
    core, profiles = likelihood.core, likelihood.profiles
    rate = (state.counts[:, None] * state.fraction[0]).ravel()[likelihood.cell] / npred_other
    reach = _REACH * np.sqrt(2 * np.einsum("naa->n", root @ np.swapaxes(root, 1, 2)))
    offset = np.hypot(*(o - center[core.source, k] for k, o in enumerate((core.x, core.y))))
    nearest = np.maximum(offset - reach[core.source], 0.0)
    ratio = rate * profiles.densities32(core.energy_bin, np.square(nearest, dtype=np.float32))
    used = ratio > _MIN_RATIO
    core, rate = core.select(used), rate[used, None].astype(np.float32)
    points = np.einsum("nab,bg->nag", root, grid).astype(np.float32)
    log_posterior, gradient, hessian = np.zeros((3, len(center), grid.shape[1]))
    chunk = (np.cumsum(core.n_sub) - core.n_sub) // (_CHUNK // grid.shape[1])
    for rows in np.split(np.arange(len(core)), np.flatnonzero(np.diff(chunk)) + 1):
        some = core.select(rows)
        source = some.at_subpixels(some.source)
        shift = (
            (o - center[source, k]).astype(np.float32)[:, None] - points[source, k]
            for k, o in enumerate(some.offsets)
        )
        squared = sum(offset * offset for offset in shift)
        density = profiles.densities32(some.at_subpixels(some.energy_bin)[:, None], squared)
        ratio = some.mean(density) * rate[rows]
        fraction = ratio / (1 + ratio)  # of the source in the expected counts
        number = some.number[:, None].astype(np.float32)
        first = np.flatnonzero(np.diff(some.source, prepend=-1))
        sums = (
            (gradient, fraction),
            (hessian, fraction * fraction),
            (log_posterior, np.log1p(ratio)),
        )
        for total, value in sums:
            total[some.source[first]] += np.add.reduceat(number * value, first, axis=0)
    # derivatives by the counts, relative to the best ones
    gradient -= (state.counts * state.observed[0])[:, None] + _NUMBER_COUNTS
    hessian = np.maximum(hessian - _NUMBER_COUNTS, _MIN_HESSIAN)
    change = np.clip(gradient / hessian, *_COUNTS_CHANGE)
    log_posterior += change * (gradient - 0.5 * change * hessian) - 0.5 * np.log(hessian)
    return log_posterior - log_posterior.max(axis=1, keepdims=True)


@cache
def _interpolation(n_grid):
    """Finer steps of a grid, and the matrix that interpolates a row of it at them."""
    fine = np.linspace(-_REACH, _REACH, _FINER * (n_grid - 1) + 1)
    return fine, CubicSpline(np.linspace(-_REACH, _REACH, n_grid), np.eye(n_grid))(fine)


def _credible_scales(log_posterior, mean, covariance, n_bins=400, largest=5.0):
    """Radii (2, n) in sigma of the covariance ellipses that contain 68 and 95 %."""
    edges = np.linspace(0, largest, n_bins + 1)
    scales = np.empty((len(_LEVELS), len(mean)))
    n_grid = math.isqrt(log_posterior.shape[1])
    planes, (fine, spline) = log_posterior.reshape(-1, n_grid, n_grid), _interpolation(n_grid)
    for row, (plane, center, inverse) in enumerate(zip(planes, mean, np.linalg.inv(covariance))):
        value = np.exp(spline @ plane @ spline.T)
        du, dv = fine[:, None] - center[0], fine - center[1]
        sigma = inverse[0, 0] * du**2 + 2 * inverse[0, 1] * du * dv + inverse[1, 1] * dv**2
        number = np.minimum(np.sqrt(sigma) * (n_bins / largest), n_bins - 1).astype(int)
        contained = np.cumsum(np.bincount(number.ravel(), value.ravel(), minlength=n_bins))
        scales[:, row] = np.interp(_LEVELS, contained / contained[-1], edges[1:])
    return scales
