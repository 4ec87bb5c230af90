"""Parameters of many sources, and the counts that they let expect around them."""

from dataclasses import dataclass, fields, replace

import numpy as np

from astro_unetloc.pairs import sum_groups

__all__ = ["CoreFit", "SourceModel", "SourcesFit", "State", "evaluate"]

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
    spectrum : PowerLawShares
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
    spectrum : PowerLawShares
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
