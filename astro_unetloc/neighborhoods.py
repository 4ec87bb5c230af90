"""Photons around sources: which counts lie in the region of which source, and where in it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from astro_unetloc.geometry import chord, tangent_axes, tangent_offsets
from astro_unetloc.pairs import Pairs, SplitPairs, find_pairs, split_pixels

__all__ = [
    "Counts",
    "Neighborhoods",
    "fitted_energies",
    "gather_counts",
    "make_neighborhoods",
]

# Places on a disc, even in area: a Fibonacci spiral.
_N_PLACES = 199
# Pixels larger than this part of the radius are places of their own.
_FINE = 20
# A region with less than this part of its area observed lies at an edge; there the coverage of
# rings is found, the first of them as wide as this part of the region's radius.
_COVERED = 0.99
_N_RINGS, _FIRST_RING, _N_ANGLES = 24, 0.01, 24
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True, eq=False)
class Counts:
    """The counts of a map in the range of the measurement.

    Attributes
    ----------
    sky_map : SkyMap
        The map; tells what was observed.
    vectors : ndarray (n_places, 3)
        Galactic unit vectors of the events, or of the centres of the pixels with counts.
    first : ndarray (n_places + 1,) of int
        Where the entries of each place begin.
    energy_bin : ndarray (n_entries,) of int
        Energy bin of each entry.
    number : ndarray (n_entries,)
        Counts of each entry.
    pixel : ndarray (n_places,) of int or None
        Pixel of each place; None for events.
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    """

    sky_map: object
    vectors: np.ndarray
    first: np.ndarray
    energy_bin: np.ndarray
    number: np.ndarray
    pixel: np.ndarray | None
    energy_edges: np.ndarray

    @cached_property
    def tree(self):
        """Tree of the places."""
        return _tree(self.vectors)

    @cached_property
    def observed_pixels(self):
        """Centres (k, 3) of all observed pixels of the map, their areas (k,) and their tree."""
        pixels = self.sky_map.pixels
        centers = pixels.centers(np.arange(pixels.n_pixels))
        seen = np.isfinite(centers[:, 0])
        seen[seen] = self.sky_map.covers(centers[seen])
        area = _pixel_areas(pixels, np.flatnonzero(seen))
        return centers[seen], area, _tree(centers[seen])

    def number_near(self, vectors, radius_deg):
        """Counts (n,) within a radius of directions (n, 3)."""
        found = self.tree.query_ball_point(vectors, chord(radius_deg))
        per_place = np.add.reduceat(self.number, self.first[:-1])
        return np.array([per_place[np.asarray(places, int)].sum() for places in found])


def _tree(vectors):
    from scipy.spatial import KDTree

    return KDTree(vectors, compact_nodes=False, balanced_tree=False)


def _pixel_areas(pixels, index):
    """Solid angles (n,) of pixels in square degrees."""
    if hasattr(pixels, "nside"):
        return np.full(len(index), pixels.pixel_size_deg**2)
    half = np.full(len(index), 0.5)
    low, high = half - 0.25, half + 0.25
    across = pixels.points(index, high, half) - pixels.points(index, low, half)
    along = pixels.points(index, half, high) - pixels.points(index, half, low)
    return 4 * np.degrees(np.degrees(np.linalg.norm(np.cross(across, along), axis=1)))


@dataclass(frozen=True, eq=False)
class Neighborhoods:
    """The regions of n sources.

    Attributes
    ----------
    vectors, east, north : ndarray (n, 3)
        Galactic unit vectors of the sources and of their tangent planes (ICRS east and north).
    radius_deg : float
        Radius of the regions.
    core : SplitPairs
        Sources and the entries close to them: these tell position, counts and spectrum.
    tail : Pairs
        Sources and the other entries that their photons may reach.
    in_region : ndarray (m,) of bool
        Which pairs of ``tail`` lie in the region of their source; with ``core`` they tell the
        background.
    place_x, place_y, place_area : ndarray (n, q)
        Places that sample each region, degrees, and the observed area that each stands for, square
        degrees.
    ring_edges : ndarray (k + 1,)
        Radii of rings around each source, degrees.
    ring_coverage : ndarray (n, k)
        Observed part of each ring.
    """

    vectors: np.ndarray
    east: np.ndarray
    north: np.ndarray
    radius_deg: float
    core: SplitPairs
    tail: Pairs
    in_region: np.ndarray
    place_x: np.ndarray
    place_y: np.ndarray
    place_area: np.ndarray
    ring_edges: np.ndarray
    ring_coverage: np.ndarray

    @property
    def region_entry(self):
        """Entries (m,) of the pairs of ``core``, then of those of ``tail`` in the region."""
        return np.concatenate([self.core.entry, self.tail.entry[self.in_region]])


def fitted_energies(sky_map, emin, emax):
    """Edges of the energies of a map that are fitted between two energies.

    Parameters
    ----------
    sky_map : SkyMap
        Counts in pixels, or events.
    emin, emax : float
        In GeV; of a map the bins whose middle lies between them are taken, whole.

    Returns
    -------
    ndarray (k + 1,)
        In GeV: the ends for events, of a map the edges of its bins; empty if there are none.
    """
    edges = np.asarray(sky_map.energy_edges, dtype=float)
    if sky_map.events is not None:
        return np.array([max(edges[0], emin), min(edges[-1], emax)])
    middle = np.sqrt(edges[:-1] * edges[1:])
    kept = np.flatnonzero((middle > emin) & (middle < emax))
    return edges[kept[0] : kept[-1] + 2] if len(kept) else np.zeros(0)


def gather_counts(sky_map, emin, emax, *, bins_per_decade=8):
    """The counts of a map between two energies.

    Parameters
    ----------
    sky_map : SkyMap
        Counts in pixels, or events.
    emin, emax : float
        See `fitted_energies`.
    bins_per_decade : int
        Into how many bins events are sorted at least.

    Returns
    -------
    Counts
    """
    edges = fitted_energies(sky_map, emin, emax)
    if sky_map.events is not None:
        low, high = edges
        n_bins = max(int(np.ceil(bins_per_decade * np.log10(high / low))), 1)
        return _gather_events(sky_map, np.geomspace(low, high, n_bins + 1))
    if len(edges):
        first = np.searchsorted(sky_map.energy_edges, edges[0])
        counts = sky_map.counts[first : first + len(edges) - 1]
    else:
        edges, counts = np.array([emin, emax]), np.zeros((1, sky_map.pixels.n_pixels))
    pixel, energy_bin = np.nonzero((counts > 0).T)
    filled, first = np.unique(pixel, return_index=True)
    return Counts(
        sky_map,
        sky_map.pixels.centers(filled),
        np.append(first, len(pixel)),
        energy_bin,
        counts[energy_bin, pixel].astype(float),
        filled,
        edges,
    )


def _gather_events(sky_map, edges):
    events = sky_map.events
    inside = (events.energy >= edges[0]) & (events.energy <= edges[-1])
    energy_bin = np.searchsorted(edges, events.energy[inside], side="right") - 1
    n = len(energy_bin)
    return Counts(
        sky_map,
        events.vectors[inside],
        np.arange(n + 1),
        np.minimum(energy_bin, len(edges) - 2),
        np.ones(n),
        None,
        edges,
    )


def make_neighborhoods(counts, vectors, radius_deg, core_deg, reach_deg, *, n_split=1):
    """Regions around sources, and what lies in them.

    Parameters
    ----------
    counts : Counts
        The counts of a map.
    vectors : ndarray (n, 3)
        The sources.
    radius_deg : float
        Radius of the regions.
    core_deg : ndarray (n_energy,)
        Radius in each energy bin within which an entry is close.
    reach_deg : ndarray (n,)
        How far the photons of each source are followed; not less than the radius of its region.
    n_split : ndarray (n_energy,) of {1, 2, 4, 8}, or one of these
        In how many parts along a side the close pixels of each bin are divided.

    Returns
    -------
    Neighborhoods
    """
    east, north = tangent_axes(vectors)
    pairs = find_pairs(counts, vectors, east, north, reach_deg)
    offset = np.hypot(pairs.x, pairs.y)
    close = offset < core_deg[pairs.energy_bin]
    core, tail = SplitPairs.whole(pairs.select(close)), pairs.select(~close)
    if counts.pixel is not None and np.any(np.asarray(n_split) > 1):
        n_split = np.broadcast_to(n_split, len(counts.energy_edges) - 1)
        core = split_pixels(core, counts, vectors, east, north, n_split)
    sky_map = counts.sky_map
    if sky_map.pixels is not None and sky_map.pixel_size_deg > radius_deg / _FINE:
        places = _pixel_places(counts, vectors, east, north, radius_deg)
    else:
        places = _spiral_places(sky_map, vectors, east, north, radius_deg)
    in_region = offset[~close] < radius_deg
    at_edge = np.flatnonzero(places[2].sum(axis=1) < _COVERED * np.pi * radius_deg**2)
    ring_edges = radius_deg * np.append(0.0, np.geomspace(_FIRST_RING, 1.0, _N_RINGS))
    coverage = np.ones((len(vectors), _N_RINGS))
    where = vectors[at_edge], east[at_edge], north[at_edge]
    coverage[at_edge] = _ring_coverage(sky_map, *where, ring_edges)
    return Neighborhoods(
        vectors, east, north, radius_deg, core, tail, in_region, *places, ring_edges, coverage
    )


def _spiral_places(sky_map, vectors, east, north, radius_deg):
    """Places that fill a disc evenly; their area is 0 where the sky was not observed."""
    number = np.arange(_N_PLACES) + 0.5
    radius = radius_deg * np.sqrt(number / _N_PLACES)
    x, y = radius * np.cos(number * _GOLDEN_ANGLE), radius * np.sin(number * _GOLDEN_ANGLE)
    area = np.empty((len(vectors), _N_PLACES))
    for start in range(0, len(vectors), 256):
        rows = slice(start, start + 256)
        points = (
            vectors[rows, None]
            + np.radians(x)[:, None] * east[rows, None]
            + np.radians(y)[:, None] * north[rows, None]
        )
        area[rows] = sky_map.covers(points / np.linalg.norm(points, axis=-1, keepdims=True))
    area *= np.pi * radius_deg**2 / _N_PLACES
    return np.broadcast_to(x, area.shape), np.broadcast_to(y, area.shape), area


def _ring_coverage(sky_map, vectors, east, north, edges):
    """Observed part (n, k) of rings between radii (k + 1,)."""
    radius = np.radians((edges[1:] + edges[:-1]) / 2)[:, None, None]
    angle = (np.arange(_N_ANGLES) + 0.5)[:, None] * (2 * np.pi / _N_ANGLES)
    coverage = np.empty((len(vectors), len(edges) - 1))
    for row in range(len(vectors)):
        axes = radius * (np.cos(angle) * east[row] + np.sin(angle) * north[row])
        points = vectors[row] + axes
        points /= np.linalg.norm(points, axis=-1, keepdims=True)
        coverage[row] = sky_map.covers(points).mean(axis=1)
    return coverage


def _pixel_places(counts, vectors, east, north, radius_deg):
    """The observed pixels with their centre in each region, padded with places of no area."""
    centers, areas, tree = counts.observed_pixels
    found = tree.query_ball_point(vectors, chord(radius_deg)) if len(centers) else []
    size = np.array([len(f) for f in found], dtype=np.int64)
    shape = (len(vectors), max(int(size.max(initial=0)), 1))
    x, y, area = np.zeros((3, *shape))
    for row, places in enumerate(found):
        places, n = np.asarray(places, np.int64), len(places)
        points = centers[places]
        x[row, :n], y[row, :n] = tangent_offsets(vectors[row], east[row], north[row], points)
        area[row, :n] = areas[places]
    return x, y, area
