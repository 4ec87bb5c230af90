"""Close neighbours: whose turn it is in the fit, and what they cost each other in precision.

Parameters of many sources, and the counts that they let expect around them.

Poisson likelihood of many sources at once: positions, counts and spectra by damped Newton steps.

Each source is fitted in its own region on top of its local background and the present model of
all other sources; neighbours take turns, so that they converge to their common maximum.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from astro_unetloc.measurement.data import sum_groups
from astro_unetloc.sphere import chord

__all__ = [
    "CoreFit",
    "SourceModel",
    "SourcesFit",
    "State",
    "curvatures",
    "derivatives",
    "evaluate",
    "fit_sources",
    "joint_covariances",
    "neighbor_pairs",
    "take_turns",
]


# Neighbours of a source that are taken into account, the nearest ones.
_MOST_NEIGHBORS = 6


def neighbor_pairs(vectors, radius_deg):
    """Pairs of sources within a radius in degrees, each in both orders, by the first then distance.

    Parameters
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    radius_deg : float
        Largest distance.

    Returns
    -------
    ndarray (m, 2) of int
    """
    from scipy.spatial import KDTree

    pairs = KDTree(vectors).query_pairs(chord(radius_deg), output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    away = np.linalg.norm(vectors[pairs[:, 0]] - vectors[pairs[:, 1]], axis=1)
    return pairs[np.lexsort((away, pairs[:, 0]))]


def take_turns(n, pairs):
    """Numbers (n,) such that no two sources of a pair have the same, few of them.

    Greedy colouring: each source takes the first number that none of its neighbours before it has.
    """
    turns = np.zeros(n, dtype=int)
    first = np.searchsorted(pairs[:, 0], np.arange(n + 1))
    for source in np.unique(pairs[:, 0]):
        neighbors = pairs[first[source] : first[source + 1], 1]
        taken = turns[neighbors[neighbors < source]]
        turns[source] = np.setdiff1d(np.arange(len(taken) + 1), taken)[0]
    return turns


def joint_covariances(derivatives, pairs, curvature, entry, source, *, wanted=None):
    """Covariances of sources alone, and with their neighbours free beside them.

    Parameters
    ----------
    derivatives : ndarray (m, 4)
        Of the expected counts at pairs of an entry and a source by the source's parameters, over
        the square root of the variance, so that their products are the information.
    pairs : ndarray (k, 2) of int
        From `neighbor_pairs`.
    curvature : ndarray (n, 4, 4)
        Negative second derivatives of the logarithm of the likelihood of each source alone.
    entry, source : ndarray (m,) of int
        The pairs.
    wanted : ndarray (k,) of int, optional
        The sources that are asked for, all by default.

    Returns
    -------
    alone, joint : ndarray (k, 4, 4)
    """
    n = len(curvature)
    wanted = np.arange(n) if wanted is None else wanted
    alone = np.linalg.inv(curvature[wanted])
    joint = alone.copy()
    if not len(pairs):
        return alone, joint
    crowded = np.zeros(n, dtype=bool)
    crowded[pairs[:, 0]] = True
    information = _information(derivatives, crowded, entry, source, n)
    first = np.searchsorted(pairs[:, 0], np.arange(n + 1))
    for row in np.flatnonzero(crowded[wanted]):
        one = wanted[row]
        group = pairs[first[one] : first[one + 1], 1][:_MOST_NEIGHBORS]
        group = np.append(one, group)
        rows = (4 * group[:, None] + np.arange(4)).ravel()
        matrix = information[rows][:, rows].toarray()
        for place, member in enumerate(group):
            block = slice(4 * place, 4 * place + 4)
            matrix[block, block] = curvature[member]
        scale = 1 / np.sqrt(np.diag(matrix))
        value, vector = np.linalg.eigh(matrix * scale[:, None] * scale)
        # a direction that the data do not tell at all is none of a maximum
        value = np.maximum(value, 1e-2)
        inverse = (vector / value) @ vector.T * scale[:, None] * scale
        joint[row] = inverse[:4, :4]
    return alone, joint


def _information(derivatives, crowded, entry, source, n):
    """Sparse information matrix (4 n, 4 n) of the crowded sources."""
    from scipy.sparse import csr_array

    used = np.flatnonzero(crowded[source])
    columns = 4 * source[used, None] + np.arange(4)
    rows = np.repeat(entry[used], 4)
    shape = (entry.max(initial=0) + 1, 4 * n)
    matrix = csr_array((derivatives[used].ravel(), (rows, columns.ravel())), shape=shape)
    return (matrix.T @ matrix).tocsr()


# Of a source outside of the footprint, so that its counts stay finite.
_LEAST_INSIDE = 0.02


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

    def copy(self):
        """The same in arrays of its own."""
        return SourceModel(*(getattr(self, k).astype(float) for k in _PARAMETERS))

    def merged(self, other, mask):
        """Those of ``other`` where the mask (n,) is true, else its own."""
        return SourceModel(
            *(np.where(mask, getattr(other, k), getattr(self, k)) for k in _PARAMETERS)
        )


_PARAMETERS = tuple(field.name for field in fields(SourceModel))


class CoreFit:
    """The likelihood of n sources by the counts close to them.

    Attributes
    ----------
    core : Pairs
        Sources and the entries close to them.
    n : int
        Number of sources.
    profiles : PsfProfiles
        The point-spread function.
    spectrum : PowerLawFractions
        Shares of power laws in the energy bins, with the exposure of each source.
    inside : ndarray (n, n_energy)
        Part of their photons that falls on observed sky within the core, times its weight; so are
        the numbers of ``core``.
    """

    def __init__(self, core, n, profiles, spectrum, inside):
        self.core, self.n, self.profiles = core, n, profiles
        self.spectrum, self.inside = spectrum, inside
        self.n_energy = spectrum.n_energy
        self.cell = core.source * self.n_energy + core.energy_bin

    def densities(self, model):
        """Density at the core pairs and its derivatives by x, y, xx, xy, yy, each (m,)."""
        core = self.core
        dx = core.part_x - core.to_parts(model.x[core.source])
        dy = core.part_y - core.to_parts(model.y[core.source])
        density, slope, bend = self.profiles.density(
            core.to_parts(core.energy_bin), dx * dx + dy * dy
        )
        slope, bend = -2 * slope * density, 4 * (bend + slope * slope) * density
        return tuple(
            core.mean_of_parts(values)
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


class SourcesFit(CoreFit):
    """The likelihood of n sources, and what they give farther out.

    Parameters
    ----------
    hood : Neighborhoods
        Regions and pairs.
    n_entries : int
        Number of entries of the counts.
    profiles : PsfProfiles
        The point-spread function.
    spectrum : PowerLawFractions
        Shares of power laws in the energy bins, with the exposure of each source.
    core_deg : ndarray (n_energy,)
        Radius of the core in each bin.
    weight : ndarray (n, n_energy) or float
        What a count says in each bin around each source, at most 1.
    """

    def __init__(self, hood, n_entries, profiles, spectrum, core_deg, weight=1.0):
        self.hood, self.tail, self.n_entries = hood, hood.tail, n_entries
        self._core_deg = core_deg
        self._tail_cell = self.tail.source * spectrum.n_energy + self.tail.energy_bin
        # so far out the shift of a source does not matter
        offset2 = self.tail.x**2 + self.tail.y**2
        self._tail_density = profiles.density(self.tail.energy_bin, offset2)[0]
        n, core = len(hood.vectors), hood.core
        self.weight = np.broadcast_to(weight, (n, spectrum.n_energy))
        core = replace(core, number=core.number * self.weight[core.source, core.energy_bin])
        # expected counts must weigh what the counts do
        inside = _contained(hood, profiles, core_deg) * self.weight
        super().__init__(core, n, profiles, spectrum, inside)

    def contained(self, radius_deg):
        """Part of the photons (n, n_energy) that falls on observed sky within a radius.

        The radius in degrees is one for all bins, or one for each (n_energy,).
        """
        return _contained(self.hood, self.profiles, radius_deg)

    def of_profiles(self, part, rows, profiles):
        """A part with the sources in ``rows`` for another point-spread function."""
        inside = _contained(self.hood, profiles, self._core_deg) * self.weight
        return CoreFit(part.core, part.n, profiles, part.spectrum, inside[rows])

    def part(self, rows):
        """The likelihood of some of the sources, by their rows (k,), and their core pairs (p,)."""
        number = np.full(self.n, -1)
        number[rows] = np.arange(len(rows))
        pairs = np.flatnonzero(number[self.core.source] >= 0)
        core = self.core.select(pairs)
        core = replace(core, source=number[core.source])
        spectrum, inside = self.spectrum.select(rows), self.inside[rows]
        return CoreFit(core, len(rows), self.profiles, spectrum, inside), pairs

    def _tails(self, state):
        """Counts per square degree and bin of each source at its tail pairs, (m,)."""
        counts = state.model.counts[:, None] * state.rates[0]
        return counts.ravel()[self._tail_cell] * self._tail_density

    def _sum_entries(self, pairs, values):
        """Sums over the sources at each entry, (n_entries,)."""
        return sum_groups(pairs.entry, values, self.n_entries)

    def by_entry(self, state):
        """Counts per square degree and bin of each source at each entry, sparse (n_entries, n)."""
        from scipy.sparse import csr_array

        values = np.concatenate([state.own, self._tails(state)])
        rows, columns = (
            np.concatenate([getattr(pairs, name) for pairs in (self.core, self.tail)])
            for name in ("entry", "source")
        )
        return csr_array((values, (rows, columns)), shape=(self.n_entries, len(self.inside)))

    def others(self, state, reached):
        """Counts at the core pairs (m,) by all sources but its own; see `fit_background`."""
        total = reached + self.cores(state)
        return np.maximum(total[self.core.entry] - state.own, 0.0)

    def cores(self, state):
        """What the cores of all sources give at each entry, (n_entries,)."""
        return self._sum_entries(self.core, state.own)

    def at_all_pairs(self, state):
        """What the source itself and others give at the pairs of its region, and the tails of all.

        The pairs are those of the core, then those of the tail that lie in the region; the tails
        are summed at each entry.
        """
        tail = self._tails(state)
        reached = self._sum_entries(self.tail, tail)
        total = reached + self.cores(state)
        own = np.concatenate([state.own, tail[self.hood.in_region]])
        return own, np.maximum(total[self.hood.region_entry] - own, 0.0), reached


def _contained(hood, profiles, radius_deg):
    edges = np.minimum(hood.ring_edges[:, None], radius_deg)
    seen = hood.ring_coverage @ np.diff(profiles.containment(edges), axis=0)
    return np.maximum(seen, _LEAST_INSIDE)


@dataclass
class State:
    """A model and what follows from it at the core pairs."""

    model: SourceModel
    density: tuple
    rates: tuple
    own: np.ndarray

    def part(self, rows, pairs):
        """That of some of the sources and their pairs."""
        model = SourceModel(*(getattr(self.model, k)[rows] for k in _PARAMETERS))
        density, rates = tuple(v[pairs] for v in self.density), tuple(v[rows] for v in self.rates)
        return State(model, density, rates, self.own[pairs])

    def put(self, rows, pairs, part):
        """Take over the state of some of the sources, in place."""
        for name in _PARAMETERS:
            getattr(self.model, name)[rows] = getattr(part.model, name)
        for old, new in zip(self.density, part.density):
            old[pairs] = new
        for old, new in zip(self.rates, part.rates):
            old[rows] = new
        self.own[pairs] = part.own


def evaluate(fit, model):
    """The state of a model."""
    density, rates = fit.densities(model), fit.rates(model)
    own = (model.counts[:, None] * rates[0]).ravel()[fit.cell] * density[0]
    return State(model, density, rates, own)


INDEX_BOUNDS = (0.0, 6.0)


_MIN_COUNTS = 1e-3


# Mean and width of a weak prior on the index: faint sources say little about it.
INDEX_PRIOR = 2.3, 1.5


# Largest changes in one step: of the position in degrees, of the index.
_MAX_SHIFT_DEG, _MAX_INDEX_STEP = 0.05, 0.5


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
    # a state of its own, which turns change in place
    state = evaluate(fit, model.copy())
    damping = np.full(fit.n, 1e-2)
    chosen = [np.flatnonzero(turns == turn) for turn in range(int(turns.max(initial=0)) + 1)]
    parts = [(rows, *fit.part(rows)) for rows in chosen]
    for number in range(n_rounds):
        if number < 3 or number % 2:  # it hardly changes any more
            background, surface, reached = fit_background(fit, background_fit, background, state)
        total = reached + fit.cores(state)
        for rows, part, pairs in parts:
            before = state.part(rows, pairs)
            others = np.maximum(total[part.core.entry] - before.own, 0.0)
            rest = surface[pairs] + others
            step = _newton_step(part, before, rest, damping[rows], free)
            trial = evaluate(part, _limited(before.model, step))
            better = _gain(part, before, trial, rest) > -1e-9
            change = np.where(better, 0.2, 5.0)
            damping[rows] = np.clip(damping[rows] * change, 1e-6, 1e4)
            after = _accept(part, before, trial, better)
            np.add.at(total, part.core.entry, after.own - before.own)
            state.put(rows, pairs, after)
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
