"""What lies beneath positions at which no source is known: the background and known sources."""

from dataclasses import replace

import numpy as np

from astro_unetloc.config import MeasurementConfig
from astro_unetloc.field_fit import FieldFit, FieldSetup
from astro_unetloc.geometry import chord, separation_deg
from astro_unetloc.measurement import fit_groups
from astro_unetloc.neighborhoods import gather_counts
from astro_unetloc.pairs import sum_groups
from astro_unetloc.source_model import SourceModel, evaluate

__all__ = ["KnownSources", "background_beside", "fields_at", "known_near", "one_count"]

# Pairs of a position and an entry that are held at once.
_MAX_PAIRS = 1e6
# Steps of the background.
_N_ROUNDS = 12


def fields_at(sky_map, vectors, energy_range=None):
    """The observed ones of n positions in groups that fit into memory.

    Parameters
    ----------
    sky_map : SkyMap
        The map.
    vectors : ndarray (n, 3)
        Galactic unit vectors; NaN where a position is unknown.
    energy_range : pair of float, optional
        Energies of the counts in GeV; all of the map by default.

    Yields
    ------
    rows : ndarray of int
        Positions of a group.
    field : FieldFit
        Their regions. Nothing where the map holds no photons: then nothing is known of them.
    """
    inside = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    inside = inside[sky_map.covers(vectors[inside])] if len(inside) else inside
    if not len(inside):
        return
    counts = gather_counts(sky_map, *(energy_range or sky_map.energy_edges[[0, -1]]))
    if not len(counts.number):
        return
    config = replace(MeasurementConfig(), max_pairs=_MAX_PAIRS)
    setup = FieldSetup(sky_map, counts, vectors[inside], config)
    for members, _ in fit_groups(vectors[inside], setup):
        rows = inside[members]
        yield rows, FieldFit(vectors[rows], setup)


def known_near(field, known):
    """The known directions (k, 3) that shine on the regions of a field.

    Parameters
    ----------
    field : FieldFit
        The regions.
    known : ndarray (n_known, 3)
        Galactic unit vectors.

    Returns
    -------
    ndarray (k, 3)
    """
    from scipy.spatial import KDTree

    if not len(known):
        return known
    found = KDTree(known).query_ball_point(field.vectors, chord(2 * field.setup.radius_deg))
    return known[np.unique(np.concatenate([np.asarray(rows, int) for rows in found]))]


def one_count(field, index):
    """What one detected count of a source gives at each position of a field.

    Parameters
    ----------
    field : FieldFit
        The n positions.
    index : ndarray (n,)
        Photon indices.

    Returns
    -------
    density : ndarray (m,)
        Counts per square degree and bin at the pairs.
    expected : ndarray (n,)
        Weighted counts in the region.
    """
    zero = np.zeros(field.n)
    state = evaluate(field.fit, SourceModel(zero, zero, np.ones(field.n), index))
    seen = field.fit.contained(field.hood.radius_deg) * field.weight
    return field.fit.at_all_pairs(state)[0], (state.rates[0] * seen).sum(axis=1)


class KnownSources:
    """Known sources, their counts and indices fitted where they are.

    Parameters
    ----------
    field : FieldFit
        The n positions on which they shine.
    known : ndarray (k, 3)
        Galactic unit vectors.
    """

    def __init__(self, field, known):
        self.field, self.known = field, known
        if len(known):
            self._fit = FieldFit(known, field.setup)
            self._state = self._fit.fit_strengths()
            self._by_entry = self._fit.fit.by_entry(self._state).tocsr()

    def at_pairs(self):
        """Counts (m,) per square degree and bin of all of them at the pairs of the field."""
        entry = self.field.hood.region_entry
        if not len(self.known):
            return np.zeros(len(entry))
        return np.asarray(self._by_entry.sum(axis=1)).ravel()[entry]

    def nearest(self, number):
        """The same of those nearest to each position, one by one (m, j), and of these the weighted
        counts (n, j) in its region.
        """
        source, hood = self.field.background_fit.source, self.field.hood
        if not len(self.known):
            return np.zeros((len(source), 0)), np.zeros((self.field.n, 0))
        away = separation_deg(self.field.vectors[:, None], self.known[None])
        rows = np.argsort(away, axis=1, kind="stable")[:, :number]
        offset = np.take_along_axis(away, rows, axis=1)
        close = offset < 2 * self.field.setup.core_deg.max()
        entry = hood.region_entry
        density = np.stack([self._by_entry[entry, row[source]] for row in rows.T], axis=1)
        profiles, radius_deg = self.field.setup.profiles, hood.radius_deg
        observed = self._fit.fit.contained(radius_deg) / profiles.containment(radius_deg)
        inside = profiles.containment_off(offset.ravel(), radius_deg).reshape(*offset.shape, -1)
        counts = (self._counts() * observed)[rows]
        expected = (counts * inside * self.field.weight[:, None]).sum(axis=2)
        return density * close[source], expected * close

    def at_positions(self):
        """Counts (n, n_energy) per square degree of all of them at the positions."""
        n_energy = self.field.spectrum.n_energy
        if not len(self.known):
            return np.zeros((self.field.n, n_energy))
        away = separation_deg(self.field.vectors[:, None], self.known[None])
        profiles, counts = self.field.setup.profiles, self._counts()
        shine = (profiles.density(number, away**2)[0] @ counts[:, number]
                 for number in range(n_energy))  # fmt: skip
        return np.stack(list(shine), axis=1)

    def _counts(self):
        """Detected counts (k, n_energy)."""
        return self._state.model.counts[:, None] * self._state.rates[0]


def background_beside(field, one, total):
    """The background at the best counts of each position, whatever the other positions have.

    Parameters
    ----------
    field : FieldFit
        The n positions.
    one : tuple of ndarray
        From `one_count`.
    total : ndarray (m,)
        What the known sources give at the pairs.

    Returns
    -------
    LocalBackground
    """
    fit, (density, expected) = field.background_fit, one
    background, counts = fit.start(), np.ones(field.n)
    for _ in range(_N_ROUNDS):
        surface = fit.density(background)
        own = counts[fit.source] * density
        background = fit.step(background, surface / (surface + total + own))
        part = density / (fit.density(background) + total + own)
        slope = sum_groups(fit.source, fit.weighted * part, field.n) - expected
        bend = sum_groups(fit.source, fit.weighted * part**2, field.n)
        change = slope / np.maximum(bend, 1e-9)
        counts = np.clip(counts + change, counts / 4, 4 * counts + 1)
    return background
