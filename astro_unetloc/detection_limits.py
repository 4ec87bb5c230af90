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

__all__ = ["detection_limits", "expected_sqrt_ts"]

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


def detection_limits(sky_map, vectors, sqrt_ts, *, sources=None, index=INDEX_PRIOR[0],
                     flux_range=(1.0, 100.0), progress=None):  # fmt: skip
    """Counts and fluxes at which half of the sources at given positions are found.

    Parameters
    ----------
    sky_map : SkyMap
        The map that was searched, in the energies of the search.
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    sqrt_ts : float
        Expected sqrt(TS) of a source that is found in half of the cases.
    sources : ndarray (k, 3), optional
        Galactic unit vectors of the known sources, which outshine others.
    index : float
        Photon index of the sources sought.
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
    known = np.zeros((0, 3)) if sources is None else sources
    fields = fields_at(sky_map, vectors)
    for rows, field in progress(fields) if progress else fields:
        beneath = _beneath(field, known_near(field, known), index)
        slopes = np.full(field.n, float(index))
        counts[rows] = _counts_of(sqrt_ts, field, field.spectrum.shares(slopes), beneath)
        per_count = field.flux_per_count(slopes, flux_range)
        flux[rows] = np.where(field.exposed, counts[rows] * per_count, np.nan)
    return counts, flux


def _beneath(field, known, index):
    """Counts (n, n_energy) per square degree of background and known sources at the positions."""
    others = KnownSources(field, known)
    one = one_count(field, np.full(field.n, float(index)))
    level = background_beside(field, one, others.at_pairs()).level
    if field.setup.sky_map.background is not None:
        edges = field.setup.counts.energy_edges
        level = level * background_at(field.setup.sky_map.background, field.vectors, edges).T
    return level + others.at_positions()


def _counts_of(sqrt_ts, field, shares, beneath):
    """Counts (n,) of which the expected sqrt(TS) is the one asked for."""
    counts = np.full(field.n, sqrt_ts**2)
    for _ in range(_N_STEPS):
        reached = expected_sqrt_ts(counts, shares, beneath, field.setup.profiles, field.weight)
        counts = counts * (sqrt_ts / np.maximum(reached, 1e-9)) ** _EXPONENT
    return counts
