"""Poisson likelihood of many sources at once: positions, counts and spectra by damped Newton steps.

Each source is fitted in its own region on top of its local background and the present model of
all other sources; neighbours take turns, so that they converge to their common maximum.
"""

from dataclasses import dataclass, replace

import numpy as np

from astro_unetloc.neighborhoods import sum_groups

__all__ = [
    "SourceModel",
    "SourcesFit",
    "State",
    "curvatures",
    "derivatives",
    "evaluate",
    "fit_sources",
]

INDEX_BOUNDS = (0.0, 6.0)
_MIN_COUNTS = 1e-3
# Of a source outside of the footprint, so that its counts stay finite.
_LEAST_INSIDE = 0.02
# Mean and width of a weak prior on the index: faint sources say little about it.
INDEX_PRIOR = 2.3, 1.5
# Largest changes in one step: of the position in degrees, of the index.
_MAX_SHIFT_DEG, _MAX_INDEX_STEP = 0.05, 0.5


@dataclass(frozen=True)
class SourceModel:
    """Parameters of n sources.

    Attributes
    ----------
    x, y : ndarray (n,)
        Degrees east and north of where each source was found.
    counts : ndarray (n,)
        Expected counts in the range of the measurement, all of the sky included.
    index : ndarray (n,)
        Photon index.
    """

    x: np.ndarray
    y: np.ndarray
    counts: np.ndarray
    index: np.ndarray

    def merged(self, other, mask):
        """Those of ``other`` where the mask (n,) is true, else its own."""
        return SourceModel(
            *(
                np.where(mask, getattr(other, k), getattr(self, k))
                for k in self.__dataclass_fields__
            )
        )


class SourcesFit:
    """The likelihood of n sources.

    Parameters
    ----------
    hood : Neighborhoods
        Regions and pairs.
    n_entries : int
        Number of entries of the counts.
    profiles : PsfProfiles
        The point-spread function.
    spectrum : PowerLawShares
        Shares of power laws in the energy bins, with the exposure of each source.
    core_deg : ndarray (n_energy,)
        Radius of the core in each bin.
    """

    def __init__(self, hood, n_entries, profiles, spectrum, core_deg):
        self.hood, self.core, self.tail = hood, hood.core, hood.tail
        self.n, self.n_entries = len(hood.vectors), n_entries
        self.profiles, self.spectrum = profiles, spectrum
        self.n_energy = spectrum.n_energy
        self.cell = self.core.source * self.n_energy + self.core.energy_bin
        self._tail_cell = self.tail.source * self.n_energy + self.tail.energy_bin
        # so far out the shift of a source does not matter
        offset2 = self.tail.x[:, 0] ** 2 + self.tail.y[:, 0] ** 2
        self._tail_density = profiles.density(self.tail.energy_bin, offset2)[0]
        self.inside = self.contained(core_deg)

    def contained(self, radius_deg):
        """Part of the photons (n, n_energy) that falls on observed sky within radii (n_energy,)."""
        edges = np.minimum(self.hood.ring_edges[:, None], radius_deg)
        inside = self.profiles.containment(edges)
        seen = self.hood.ring_coverage @ np.diff(inside, axis=0)
        return np.maximum(seen, _LEAST_INSIDE)

    def densities(self, model):
        """Density at the core pairs and its derivatives by x, y, xx, xy, yy, each (m,)."""
        dx = self.core.x - model.x[self.core.source, None]
        dy = self.core.y - model.y[self.core.source, None]
        density, slope, bend = self.profiles.density(
            self.core.energy_bin[:, None], dx * dx + dy * dy
        )
        slope, bend = -2 * slope * density, 4 * (bend + slope * slope) * density
        return tuple(
            values[:, 0] if values.shape[1] == 1 else values.mean(axis=1)
            for values in (
                density,
                slope * dx,
                slope * dy,
                bend * dx * dx - slope,
                bend * dx * dy,
                bend * dy * dy - slope,
            )
        )

    def rates(self, model):
        """Shares (n, n_energy) of the bins, their first two derivatives by the index, and the
        observed parts (n,) of these three.
        """
        share, mean, variance, in_bin = self.spectrum.moments(model.index)
        away = mean[:, None] - in_bin
        each = share, share * away, share * (away**2 - variance[:, None])
        return *each, *((values * self.inside).sum(axis=1) for values in each)

    def _tails(self, state):
        """Counts per square degree and bin of each source at its tail pairs, (m,)."""
        counts = state.model.counts[:, None] * state.rates[0]
        return counts.ravel()[self._tail_cell] * self._tail_density

    def _sum_entries(self, pairs, values):
        """Sums over the sources at each entry, (n_entries,)."""
        return sum_groups(pairs.entry, values, self.n_entries)

    def others(self, state, reached):
        """Counts at the core pairs (m,) by all sources but its own; see `fit_background`."""
        total = reached + self._sum_entries(self.core, state.own)
        return np.maximum(total[self.core.entry] - state.own, 0.0)

    def at_all_pairs(self, state):
        """What the source itself and others give at the pairs of its region, and the tails of all.

        The pairs are those of the core, then those of the tail that lie in the region; the tails
        are summed at each entry.
        """
        tail, ring = self._tails(state), self.hood.in_region
        reached = self._sum_entries(self.tail, tail)
        total = reached + self._sum_entries(self.core, state.own)
        own = np.concatenate([state.own, tail[ring]])
        entry = np.concatenate([self.core.entry, self.tail.entry[ring]])
        return own, np.maximum(total[entry] - own, 0.0), reached


@dataclass
class State:
    """A model and what follows from it at the core pairs."""

    model: SourceModel
    density: tuple
    rates: tuple
    own: np.ndarray


def evaluate(fit, model):
    """The state of a model."""
    density, rates = fit.densities(model), fit.rates(model)
    own = (model.counts[:, None] * rates[0]).ravel()[fit.cell] * density[0]
    return State(model, density, rates, own)


def fit_sources(fit, background_fit, model, background, *, n_rounds, turns, free):
    """Maximize the likelihood.

    Parameters
    ----------
    fit : SourcesFit
        The likelihood.
    background_fit : BackgroundFit
        Fits the background beside it.
    model, background : SourceModel, LocalBackground
        The start.
    n_rounds : int
        Number of rounds; in each one every source takes a step.
    turns : ndarray (n,) of int
        Sources of the same number take their step together; close neighbours must not.
    free : tuple of bool
        Which of x, y, counts and index are fitted.

    Returns
    -------
    state : State
        The best model.
    background : LocalBackground
        The background beside it.
    rest : ndarray (m,)
        Expected counts at the core pairs by all but the source itself.
    """
    state = evaluate(fit, model)
    damping = np.full(fit.n, 1e-2)
    for number in range(n_rounds):
        if number < 3 or number % 2:  # it hardly changes any more
            background, surface, reached = fit_background(fit, background_fit, background, state)
        for turn in range(int(turns.max(initial=0)) + 1):
            rest = surface + fit.others(state, reached)
            step = _newton_step(fit, state, rest, damping, free) * (turns == turn)[:, None]
            trial = evaluate(fit, _limited(state.model, step))
            better = _gain(fit, state, trial, rest) > -1e-9
            damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-6, 1e4)
            state = _accept(fit, state, trial, better)
    background, surface, reached = fit_background(fit, background_fit, background, state)
    return state, background, surface + fit.others(state, reached)


def fit_background(fit, background_fit, background, state):
    """One step of the background.

    Returns
    -------
    background : LocalBackground
        The new one.
    surface : ndarray (m,)
        Its counts at the core pairs.
    reached : ndarray (n_entries,)
        What the tails of all sources give at each entry.
    """
    own, others, reached = fit.at_all_pairs(state)
    surface = background_fit.density(background)
    background = background_fit.step(background, surface / (surface + others + own))
    return background, background_fit.density(background)[: len(fit.cell)], reached


def _accept(fit, state, trial, better):
    """The trial where it is better, else the old state."""
    if better.all():
        return trial
    pair = better[fit.core.source]
    return State(
        state.model.merged(trial.model, better),
        tuple(np.where(pair, new, old) for new, old in zip(trial.density, state.density)),
        tuple(
            np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(trial.rates, state.rates)
        ),
        np.where(pair, trial.own, state.own),
    )


def _gain(fit, state, trial, rest):
    """By how much the logarithm of the posterior (n,) grows."""
    ratio = (trial.own + rest) / (state.own + rest)
    grown = fit.core.sum(fit.core.number * np.log(ratio), fit.n)
    for s, sign in ((trial, 1), (state, -1)):
        grown -= sign * (s.model.counts * s.rates[3] - _log_prior(s.model.index))
    return grown


def _log_prior(index):
    mean, sigma = INDEX_PRIOR
    return -0.5 * ((index - mean) / sigma) ** 2


def curvatures(fit, state, rest):
    """Gradient and negative curvature of the logarithm of the posterior, and the information.

    Parameters
    ----------
    fit : SourcesFit
        The likelihood.
    state : State
        Where it is expanded.
    rest : ndarray (m,)
        Expected counts at the core pairs by all but the source itself.

    Returns
    -------
    gradient : ndarray (n, 4)
        By x, y, counts and index.
    curvature, information : ndarray (n, 4, 4)
        Negative second derivatives, and the part of them that is never negative.
    """
    model, mu = state.model, state.own + rest
    counts = model.counts[fit.core.source] / mu
    share, by_index, by_index2 = (state.rates[k].ravel()[fit.cell] for k in range(3))
    density, by_x, by_y, by_xx, by_xy, by_yy = state.density
    weight = fit.core.number
    scale = counts * share
    first = derivatives(fit, state, rest)
    second = {
        (0, 0): scale * by_xx, (0, 1): scale * by_xy, (1, 1): scale * by_yy,
        (0, 2): share * by_x / mu, (1, 2): share * by_y / mu,
        (0, 3): counts * by_index * by_x, (1, 3): counts * by_index * by_y,
        (2, 3): by_index * density / mu, (3, 3): counts * by_index2 * density,
    }  # fmt: skip
    observed, observed_1, observed_2 = state.rates[3:]
    gradient = np.stack([fit.core.sum(weight * d, fit.n) for d in first], axis=1)
    gradient[:, 2] -= observed
    gradient[:, 3] -= (
        model.counts * observed_1 + (model.index - INDEX_PRIOR[0]) / INDEX_PRIOR[1] ** 2
    )
    information, curvature = np.zeros((2, fit.n, 4, 4))
    for a in range(4):
        for b in range(a, 4):
            product = fit.core.sum(weight * first[a] * first[b], fit.n)
            information[:, a, b] = information[:, b, a] = product
            if (a, b) in second:
                product = product - fit.core.sum(weight * second[a, b], fit.n)
            curvature[:, a, b] = curvature[:, b, a] = product
    curvature[:, 2, 3] += observed_1
    curvature[:, 3, 2] += observed_1
    curvature[:, 3, 3] += model.counts * observed_2
    for matrix in (curvature, information):
        matrix[:, 3, 3] += INDEX_PRIOR[1] ** -2.0
    return gradient, curvature, information


def derivatives(fit, state, rest):
    """Relative changes of the expected counts at the core pairs by x, y, counts and index."""
    mu = state.own + rest
    counts = state.model.counts[fit.core.source] / mu
    share, by_index = (state.rates[k].ravel()[fit.cell] for k in (0, 1))
    density, by_x, by_y = state.density[:3]
    scale = counts * share
    return [scale * by_x, scale * by_y, share * density / mu, counts * by_index * density]


def _newton_step(fit, state, rest, damping, free):
    """A damped step (n, 4) of the sources, uphill whatever the curvature."""
    free = np.flatnonzero(free)
    gradient, curvature, information = curvatures(fit, state, rest)
    gradient = gradient[:, free]
    curvature, information = (m[:, free[:, None], free] for m in (curvature, information))
    scale = 1 / np.sqrt(np.einsum("naa->na", information) + 1e-6)
    value, vector = np.linalg.eigh(curvature * scale[:, :, None] * scale[:, None, :])
    value = np.maximum(np.abs(value), 1e-3) + damping[:, None]
    change = np.einsum("nab,na->nb", vector, scale * gradient) / value
    step = np.zeros((fit.n, 4))
    step[:, free] = scale * np.einsum("nab,nb->na", vector, change)
    return step


def _limited(model, step):
    """The model after a step (n, 4), shortened where it is too long."""
    shift = np.hypot(step[:, 0], step[:, 1])
    scale = np.minimum(1.0, _MAX_SHIFT_DEG / np.maximum(shift, 1e-12))
    change = np.clip(step[:, 3], -_MAX_INDEX_STEP, _MAX_INDEX_STEP)
    counts = np.clip(model.counts + step[:, 2], model.counts / 4, model.counts * 4)
    return replace(
        model,
        x=model.x + step[:, 0] * scale,
        y=model.y + step[:, 1] * scale,
        counts=np.maximum(counts, _MIN_COUNTS),
        index=np.clip(model.index + change, *INDEX_BOUNDS),
    )
