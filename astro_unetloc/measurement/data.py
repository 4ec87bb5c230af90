"""Pairs of a source and a count near it: what the likelihood sums over.

Photons around sources: which counts lie in the region of which source, and where in it.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from astro_unetloc.sphere import chord, ragged_ranges, tangent_axes, tangent_offsets

__all__ = [
    "Counts",
    "MeasurementConfig",
    "Neighborhoods",
    "Pairs",
    "SplitPairs",
    "find_pairs",
    "fitted_energies",
    "gather_counts",
    "make_neighborhoods",
    "split_pixels",
    "sum_groups",
]


@dataclass(frozen=True)
class MeasurementConfig:
    """The likelihood fit of each source.

    Attributes
    ----------
    min_radius_deg, radius_psf : float
        Radius of the region around a source: ``min_radius_deg``, or ``radius_psf`` times the 68 %
        radius of the point-spread function in the lowest bin where that is more.
    min_core_deg, core_pixels : float
        Photons within ``min_core_deg``, within ``core_pixels`` pixels of the map or within the
        radius that holds 90 % in their bin, whichever is largest, tell position, counts and
        spectrum.
    part_deg, part_psf, max_split : float
        Pixels are divided by powers of two until their parts are at most ``part_deg``, or
        ``part_psf`` times the 68 % radius of the point-spread function wide, but not by more than
        ``max_split``.
    max_pairs : float
        Sources with more pairs of a source and an entry than this are fitted in groups.
    systematic : float
        Relative error of the background within the point-spread function that no fit removes, as in
        4FGL (arXiv:1902.10045, section 3.2): counts weigh less where they are so many that it
        exceeds their Poisson error.
    n_rounds : int
        Steps of the fit.
    max_offset_deg : float
        A source whose fit ends farther than this from where it was found failed.
    min_counts : float
        A source whose fit ends with fewer counts failed.
    max_index_error : float
        Indices with a larger error are not listed: the data hardly tell them.
    surface_sigma : tuple of float
        Widths of the priors on slope (two) and curvature (three) of the logarithm of the
        background, per radius of the region.
    background_index : tuple of float
        Mean and width of the prior on the photon index of the background.
    background_spectrum_counts : float
        So many counts in a bin say as much of the background there as its power law does.
    wide_ts : float
        Test statistic of a disc over a point above which a source is "wide".
    wide_radii_deg : tuple of float
        Radii of the discs that are tried.
    bright_ratio, bright_radius_deg : float
        A source with a neighbour within the radius and this many times its counts is near a much
        brighter one.
    """

    min_radius_deg: float = 2.0
    radius_psf: float = 4.0
    min_core_deg: float = 0.4
    core_pixels: float = 2.0
    part_deg: float = 0.08
    part_psf: float = 0.4
    max_split: int = 8
    max_pairs: float = 3e6
    systematic: float = 0.03
    n_rounds: int = 8
    max_offset_deg: float = 0.3
    min_counts: float = 0.5
    max_index_error: float = 1.2
    surface_sigma: tuple = (2.0, 2.0, 1.0, 1.0, 1.0)
    background_index: tuple = (2.45, 0.3)
    background_spectrum_counts: float = 20.0
    wide_ts: float = 16.0
    wide_radii_deg: tuple = (0.15, 0.3)
    bright_ratio: float = 10.0
    bright_radius_deg: float = 1.0


def sum_groups(group, values, n_groups):
    """Sums (n_groups,) of values by group; floats also of no values, where bincount gives ints."""
    return np.bincount(group, values, minlength=n_groups).astype(float, copy=False)


@dataclass(frozen=True, eq=False)
class Pairs:
    """m pairs of a source and an entry near it, sorted by source.

    Attributes
    ----------
    source, entry : ndarray (m,) of int
        Index of the source and of the entry.
    energy_bin : ndarray (m,) of int
        Energy bin of the entry.
    number : ndarray (m,)
        Counts of the entry.
    x, y : ndarray (m,)
        Degrees east and north of the source, on its tangent plane.
    """

    source: np.ndarray
    entry: np.ndarray
    energy_bin: np.ndarray
    number: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def select(self, mask):
        """The pairs of a mask or index array."""
        return Pairs(*(getattr(self, field.name)[mask] for field in fields(self)))

    def sum(self, values, n):
        """Sums (n,) over the pairs of each source."""
        return sum_groups(self.source, values, n)


@dataclass(frozen=True, eq=False)
class SplitPairs(Pairs):
    """Pairs whose entries are divided into parts, so that a pixel is more than its centre.

    Attributes
    ----------
    first : ndarray (m + 1,) of int
        Where the parts of each pair begin, and the number of parts.
    part_x, part_y : ndarray (n_parts,)
        Degrees east and north of the source, as ``x`` and ``y``.
    """

    first: np.ndarray
    part_x: np.ndarray
    part_y: np.ndarray

    @classmethod
    def whole(cls, pairs):
        """Pairs with one part each."""
        first = np.arange(len(pairs.source) + 1)
        return cls(*(getattr(pairs, f.name) for f in fields(Pairs)), first, pairs.x, pairs.y)

    @property
    def n_parts(self):
        """Number of parts of each pair, (m,)."""
        return np.diff(self.first)

    def select(self, mask):
        """The pairs of a mask or index array."""
        rows = np.arange(len(self.source))[mask]
        part, _ = ragged_ranges(self.first[rows], self.first[rows + 1])
        first = np.append(0, np.cumsum(self.n_parts[rows]))
        own = (getattr(self, f.name)[rows] for f in fields(Pairs))
        return SplitPairs(*own, first, self.part_x[part], self.part_y[part])

    def to_parts(self, values):
        """Values (m,) of the pairs, for each of their parts (n_parts,)."""
        return values if self._undivided else np.repeat(values, self.n_parts)

    def mean_of_parts(self, values):
        """Means (m, ...) over the parts of each pair of values (n_parts, ...)."""
        if self._undivided:
            return values
        n_parts = self.n_parts.reshape(-1, *[1] * (values.ndim - 1))
        return np.add.reduceat(values, self.first[:-1], axis=0) / n_parts

    @property
    def _undivided(self):
        return len(self.part_x) == len(self.source)


def find_pairs(counts, vectors, east, north, radius_deg):
    """Pairs of the sources and the entries within a radius (n,) of each."""
    found = counts.tree.query_ball_point(vectors, chord(radius_deg), return_sorted=True)
    size = np.array([len(places) for places in found], dtype=np.int64)
    place = np.concatenate([np.zeros(0, np.int64), *(np.asarray(f, np.int64) for f in found)])
    source = np.repeat(np.arange(len(size)), size)
    x, y = tangent_offsets(vectors[source], east[source], north[source], counts.vectors[place])
    entry, pair = ragged_ranges(counts.first[place], counts.first[place + 1])
    number = counts.number[entry]
    return Pairs(source[pair], entry, counts.energy_bin[entry], number, x[pair], y[pair])


def split_pixels(pairs, counts, vectors, east, north, n_split):
    """The pairs with n_split**2 parts, by the energy bin, that are even inside each pixel."""
    place = np.searchsorted(counts.first, pairs.entry, side="right") - 1
    pixels, splits = counts.sky_map.pixels, n_split[pairs.energy_bin]
    first = np.append(0, np.cumsum(splits**2))
    x, y = np.empty((2, first[-1]))
    for split in np.unique(splits):
        rows = np.flatnonzero(splits == split)
        used, of_pair = np.unique(place[rows], return_inverse=True)
        pixel, source = counts.pixel[used], pairs.source[rows]
        where = vectors[source], east[source], north[source]
        for k in range(split**2):
            if hasattr(pixels, "nside"):
                # nested digits k 0 3 3 3 ...: the middle of sub-pixel k
                u, v = (k + 0.25 - 1e-9) / split**2, 0.5
            else:
                u, v = (k % split + 0.5) / split, (k // split + 0.5) / split
            points = pixels.points(pixel, np.full(len(used), u), np.full(len(used), v))
            part = first[rows] + k
            x[part], y[part] = tangent_offsets(*where, points[of_pair])
    return replace(pairs, first=first, part_x=x, part_y=y)


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
