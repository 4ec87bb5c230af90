"""Detection limits: the counts and fluxes at which half of the sources at a place are found.

Half of them are found when their expected sqrt(TS) has a value that depends on the threshold of the
search and is measured on simulated skies (``benchmarks/fit_limits.py``). The expected sqrt(TS) is
that of exactly the counts that are expected (Cowan et al. 2011, EPJC 71, 1554, section 3.2, "Asimov
data set"), on the background that the map itself shows.
"""

import numpy as np

from astro_unetloc.beneath import KnownSources, background_beside, fields_at, known_near, one_count
from astro_unetloc.irf_files import background_at
from astro_unetloc.likelihood import INDEX_PRIOR
from astro_unetloc.messages import warn

__all__ = ["detection_limits", "expected_sqrt_ts", "significances"]

# Steps towards the counts of a value of sqrt(TS), and the exponent of each: sqrt(TS) grows with a
# power of the counts between a half, without background, and one, on much of it.
_N_STEPS, _EXPONENT = 14, 1.2
# Nodes of a profile that stand for one: 128 rings hold sqrt(TS) to a part in a thousand.
_STRIDE = 4
_LEAST_DENSITY = 1e-9


def expected_sqrt_ts(counts, shares, background, profiles, weight=1.0):
    """The sqrt(TS) that sources have when exactly the expected counts are detected.

    Parameters
    ----------
    counts : ndarray (n,)
        Expected counts of each source.
    shares : ndarray (n, n_energy)
        Their part in each energy bin.
    background : ndarray (n, n_energy)
        Counts per square degree beneath, even as far as the point-spread function reaches.
    profiles : PsfProfiles
        Where the counts of a source lie.
    weight : ndarray (n, n_energy) or float
        What a count says in each bin, see `astro_unetloc.field_fit.systematic_weights`.

    Returns
    -------
    ndarray (n,)
    """
    contained = profiles.contained[:, ::_STRIDE]
    density, area = profiles.rings(_STRIDE)
    beneath = np.maximum(background, _LEAST_DENSITY)
    total = np.zeros(len(counts))
    for number, (ring, part) in enumerate(zip(density, np.diff(contained, axis=1))):
        source = (counts * shares[:, number])[:, None]
        ratio = source * ring / beneath[:, [number]]
        gain = (source * part + beneath[:, [number]] * area) * np.log1p(ratio) - source * part
        total += np.broadcast_to(weight, shares.shape)[:, number] * gain.sum(axis=1)
    return np.sqrt(2 * np.maximum(total, 0.0))


def significances(sky_map, vectors, counts, *, sources=None, index=INDEX_PRIOR[0],
                  energy_range=None):  # fmt: skip
    """The expected sqrt(TS) of sources of given counts at given positions of a map.

    Parameters
    ----------
    sky_map, vectors
        As `detection_limits`.
    counts : ndarray (n,)
        Expected counts of each source in the energy range.
    sources, index, energy_range
        As `detection_limits`.

    Returns
    -------
    ndarray (n,)
        NaN where the map was not observed.
    """
    found = np.full(len(vectors), np.nan)
    for rows, field, known in _fields(sky_map, vectors, sources, energy_range):
        found[rows] = _Place(field, known, index).sqrt_ts(counts[rows])
    return found


def detection_limits(sky_map, vectors, sqrt_ts, *, sources=None, index=INDEX_PRIOR[0],
                     energy_range=None, flux_range=(1.0, 100.0), progress=None):  # fmt: skip
    """Counts and fluxes at which half of the sources at given positions are found.

    Parameters
    ----------
    sky_map : SkyMap
        The map that was searched.
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    sqrt_ts : float
        Expected sqrt(TS) of a source that is found in half of the cases.
    sources : ndarray (k, 3), optional
        Galactic unit vectors of the known sources, which outshine others.
    index : float
        Photon index of the sources sought.
    energy_range : pair of float, optional
        Energies of the counts in GeV, those of the search; all of the map by default.
    flux_range : pair of float
        Energies of the flux in GeV.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    counts, flux : ndarray (n,)
        Detected counts, and photon fluxes in ph cm-2 s-1; NaN where the map was not observed, the
        flux also where the exposure is unknown.
    """
    counts, flux = np.full((2, len(vectors)), np.nan)
    fields = _fields(sky_map, vectors, sources, energy_range)
    for rows, field, known in progress(fields) if progress else fields:
        counts[rows] = _Place(field, known, index).counts(sqrt_ts)
        per_count = field.flux_per_count(np.full(field.n, float(index)), flux_range)
        flux[rows] = np.where(field.exposed, counts[rows] * per_count, np.nan)
    if len(vectors) and not np.isfinite(counts).any():
        warn("the map has no photons at these positions; detection limits are not known")
    return counts, flux


def _fields(sky_map, vectors, sources, energy_range):
    """Groups of observed positions: their rows, their `FieldFit`, the known sources near."""
    known = np.zeros((0, 3)) if sources is None else sources
    for rows, field in fields_at(sky_map, vectors, energy_range):
        yield rows, field, known_near(field, known)


class _Place:
    """The positions of a field, and what lies beneath a source of an index there."""

    def __init__(self, field, known, index):
        self.field = field
        slopes = np.full(field.n, float(index))
        self.shares = field.spectrum.shares(slopes)
        others = KnownSources(field, known)
        one = one_count(field, slopes)
        level = background_beside(field, one, others.at_pairs()).level
        background, edges = field.setup.sky_map.background, field.setup.counts.energy_edges
        if background is not None:  # then the level is a factor on it
            level = level * background_at(background, field.vectors, edges).T
        self.beneath = level + others.at_positions()

    def sqrt_ts(self, counts):
        """Expected sqrt(TS) of counts (n,)."""
        profiles, weight = self.field.setup.profiles, self.field.weight
        return expected_sqrt_ts(counts, self.shares, self.beneath, profiles, weight)

    def counts(self, sqrt_ts):
        """Counts (n,) of which the expected sqrt(TS) is the one asked for."""
        counts = np.full(self.field.n, sqrt_ts**2)
        for _ in range(_N_STEPS):
            reached = np.maximum(self.sqrt_ts(counts), 1e-9)
            counts = counts * (sqrt_ts / reached) ** _EXPONENT
        return counts
