"""Data of the fit: the counts of a map, and the regions of interest around its sources."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.spatial import KDTree

from astro_unetloc.irf.spectra import bins_in_bands
from astro_unetloc.sphere import (
    GOLDEN_ANGLE,
    chord,
    move,
    quick_tree,
    ragged_ranges,
    tangent_axes,
    tangent_offsets,
)

_SAMPLES_PER_REGION = 199
_BINS_PER_DECADE = 8  # of the energies of events
# Maps with pixels larger than this fraction of the region's radius are sampled at their pixels.
_MAX_PIXEL_FRACTION = 1 / 20
# In regions with a smaller observed fraction the coverage of rings around the source is computed.
_FULL_COVERAGE = 0.99
# Number of these rings, outer radius of the first one relative to the region, samples per ring.
_N_RINGS, _FIRST_RING, _N_ANGLES = 24, 0.01, 24
# Least fraction of photons on observed sky, so that counts stay finite outside of the footprint.
_MIN_CONTAINED = 0.02
_PSF_DEG = 0.12  # 68 % radius of photons of the LAT above 10 GeV, for which the lengths were chosen
_ENOUGH_COUNTS = 1000  # for the background of a region of interest


@dataclass(frozen=True)
class MeasurementConfig:
    """Parameters of the likelihood fit."""

    # radius of the region of interest: this, or so many 68 % radii of the PSF in the lowest bin
    min_radius_deg: float = 2.0
    radius_psf: float = 4.0
    # radius of the core, whose counts constrain position, counts and spectrum: the largest of
    # these degrees, so many pixels and the 90 % containment radius of each bin
    min_core_deg: float = 0.4
    core_pixels: float = 2.0
    # core pixels are divided by powers of two, at most ``max_split``, until sub-pixels are no wider
    # than these degrees or this fraction of the 68 % containment radius, whichever is larger
    part_deg: float = 0.08
    part_psf: float = 0.4
    max_split: int = 8
    # photons of a source are looked for up to where those farther away are less than half a
    # photon, or less than this part of the noise of the counts of a region of interest
    left_out: float = 0.02
    max_pairs: float = 2e6  # of source and counts bin in a group of sources that is fitted together
    # Relative systematic error of the background under the PSF (arXiv:1902.10045, section 3.2);
    # counts get a smaller weight where it exceeds the Poisson error.
    systematic: float = 0.03
    n_rounds: int = 20  # of the fit; every source takes one step in each
    max_offset_deg: float = 0.3  # a fit fails if the source moves farther
    min_counts: float = 0.5  # a fit fails if it ends with fewer counts
    max_index_error: float = 1.2  # photon indices with a larger error are masked
    # widths of the priors on gradient (2) and curvature (3) of the logarithm of the background,
    # with offsets in units of the radius of the region
    surface_sigma: tuple = (2.0, 2.0, 1.0, 1.0, 1.0)
    background_index: tuple = (2.45, 0.3)  # mean and width of the prior on its photon index
    background_spectrum_counts: float = 20.0  # in an energy bin that outweigh this power law
    # a source is wide if a disc of one of the radii improves the test statistic by more than this
    wide_ts: float = 16.0
    wide_radii_deg: tuple = (0.15, 0.3)
    # a neighbour within the radius and with so many times the counts is much brighter
    bright_ratio: float = 10.0
    bright_radius_deg: float = 1.0

    def scaled(self, psf_deg, density):
        """The parameters for another 68 % radius and for counts per square degree, at most these.

        Lengths are those of a narrower PSF; regions of interest with enough counts are smaller.
        """
        scale = min(psf_deg / _PSF_DEG, 1.0)
        lengths = {n: scale * getattr(self, n) for n in ("min_core_deg", "part_deg")}
        lengths["max_offset_deg"] = scale * self.max_offset_deg
        radius_deg = np.sqrt(_ENOUGH_COUNTS / (np.pi * max(density, 1e-9)))
        return replace(self, min_radius_deg=min(radius_deg, self.min_radius_deg), **lengths)


def sum_groups(group, values, n_groups):
    """Sums (..., n_groups) of values (..., m) by group (m,), always as floats."""
    if np.ndim(values) > 1:
        return np.stack([sum_groups(group, row, n_groups) for row in values])
    return np.bincount(group, values, minlength=n_groups).astype(float, copy=False)


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of a map in the energy range of the fit.

    A counts bin is one energy bin of one position. An event is a position with one count.
    """

    sky_map: object
    vectors: np.ndarray  # (n_positions, 3), events or centres of pixels with counts
    first: np.ndarray  # (n_positions + 1,), index of the first counts bin of each position
    energy_bin: np.ndarray  # (n_bins,)
    number: np.ndarray  # (n_bins,), counts
    pixel: np.ndarray | None  # (n_positions,), None for events
    energy_edges: np.ndarray  # (n_energy + 1,), GeV
    band_edges: np.ndarray  # (n_band + 1,), GeV, of the bands of the catalogue
    time: np.ndarray | None = None  # (n_bins,), seconds, of events that keep their times

    @property
    def n_energy(self):
        """Number of energy bins."""
        return len(self.energy_edges) - 1

    @cached_property
    def position(self):
        """Position (n_bins,) of each counts bin."""
        return np.repeat(np.arange(len(self.vectors)), np.diff(self.first))

    @cached_property
    def at_position(self):
        """Counts (n_positions,) of all energies."""
        return np.add.reduceat(self.number, self.first[:-1])

    @cached_property
    def tree(self):
        """KDTree of the positions."""
        return quick_tree(self.vectors)

    @cached_property
    def observed_pixels(self):
        """Centres (k, 3) and areas (k,) in deg2 of the observed pixels, and their KDTree."""
        pixels = self.sky_map.pixels
        centers = pixels.centers(np.arange(pixels.n_pixels))
        observed = np.isfinite(centers[:, 0])
        observed[observed] = self.sky_map.covers(centers[observed])
        centers = centers[observed]
        return centers, pixels.area_deg2(np.flatnonzero(observed)), quick_tree(centers)


def fitted_energies(sky_map, emin, emax):
    """Energy edges (k + 1,) in GeV of the counts of a map that are fitted between two energies.

    Counts in pixels are taken in whole bins: those whose logarithmic centre lies between the two
    energies, which may be none. Events are cut at the energies.
    """
    edges = np.asarray(sky_map.energy_edges, dtype=float)
    if sky_map.events is not None:
        return np.array([max(edges[0], emin), min(edges[-1], emax)])
    center = np.sqrt(edges[:-1] * edges[1:])
    kept = np.flatnonzero((center > emin) & (center < emax))
    return edges[kept[0] : kept[-1] + 2] if len(kept) else np.zeros(0)


def gather_counts(sky_map, band_edges):
    """`Counts` of a map between the ends of some bands, edges (n_band + 1,) in GeV.

    The energy bins of events, at least 8 per decade, end at the edges of the bands.
    """
    band_edges = np.asarray(band_edges, dtype=float)
    edges = fitted_energies(sky_map, *band_edges[[0, -1]])
    if sky_map.events is not None:
        edges = bins_in_bands(band_edges, edges, _BINS_PER_DECADE)
        energy = sky_map.events.energy
        inside = np.flatnonzero((energy >= edges[0]) & (energy <= edges[-1]))
        energy_bin = np.searchsorted(edges, energy[inside], side="right") - 1
        energy_bin = np.minimum(energy_bin, len(edges) - 2)
        vectors, first = sky_map.events.vectors[inside], np.arange(len(inside) + 1)
        number, time = np.ones(len(inside)), sky_map.events.select(inside).time
        return Counts(sky_map, vectors, first, energy_bin, number, None, edges, band_edges, time)
    if len(edges):
        first = np.searchsorted(sky_map.energy_edges, edges[0])
        counts = sky_map.planes[first : first + len(edges) - 1]
    else:
        edges, counts = band_edges[[0, -1]], np.zeros((1, sky_map.pixels.n_pixels))
    pixel, energy_bin = np.nonzero((counts > 0).T)
    filled, first = np.unique(pixel, return_index=True)
    number, first = counts[energy_bin, pixel].astype(float), np.append(first, len(pixel))
    centers = sky_map.pixels.on_sky(filled)
    return Counts(sky_map, centers, first, energy_bin, number, filled, edges, band_edges)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a source and a counts bin near it, m of them; those of a source are in few rows."""

    source: np.ndarray  # (m,), index of the source
    bin: np.ndarray  # (m,), index of the counts bin
    energy_bin: np.ndarray  # (m,)
    number: np.ndarray  # (m,), counts
    x: np.ndarray  # (m,), offset from the source in degrees east on its tangent plane
    y: np.ndarray  # (m,), in degrees north
    first: np.ndarray | None = None  # (m + 1,), index of each first sub-pixel; None: no sub-pixels
    sub_x: np.ndarray | None = None  # (n_sub,), offsets of the sub-pixels
    sub_y: np.ndarray | None = None

    def __len__(self):
        return len(self.source)

    @property
    def n_sub(self):
        """Number of sub-pixels (m,) of each pair."""
        return np.ones(len(self), int) if self.first is None else np.diff(self.first)

    @property
    def offsets(self):
        """Offsets x and y of all sub-pixels, or of the pairs where they are not divided."""
        return (self.x, self.y) if self.first is None else (self.sub_x, self.sub_y)

    def cell(self, n_energy):
        """Index (m,) of source and energy bin in a flat array (n, n_energy)."""
        return self.source * n_energy + self.energy_bin

    def select(self, rows):
        """The pairs of a mask or index array; of a slice without a copy."""
        columns = self.source, self.bin, self.energy_bin, self.number, self.x, self.y
        selected = [column[rows] for column in columns]
        if self.first is None:
            return Pairs(*selected)
        n_sub, rows = self.n_sub[rows], np.arange(len(self))[rows]
        sub, _ = ragged_ranges(self.first[rows], self.first[rows + 1])
        return Pairs(*selected, np.append(0, np.cumsum(n_sub)), self.sub_x[sub], self.sub_y[sub])

    @cached_property
    def _runs(self):
        """First pair of each run of pairs of one source."""
        return np.flatnonzero(np.diff(self.source, prepend=-1))

    def sum(self, values, n):
        """Sums (..., n) of values (..., m) over the pairs of each of n sources."""
        # ten times as fast as a bincount of all pairs
        sums = np.add.reduceat(values, self._runs, axis=-1, dtype=float)
        return sum_groups(self.source[self._runs], sums, n)

    def of_source(self, values):
        """Values (n,) of the sources at the pairs (m,)."""
        # half the time of an index array
        return np.repeat(values[self.source[self._runs]], np.diff(self._runs, append=len(self)))

    def at_subpixels(self, values):
        """Values (m,) of the pairs repeated for their sub-pixels."""
        return values if self.first is None else np.repeat(values, self.n_sub)

    def mean(self, values):
        """Means (m, ...) over the sub-pixels of each pair of values (n_sub, ...)."""
        if self.first is None:
            return values
        n_sub = self.n_sub.reshape(-1, *[1] * (values.ndim - 1))
        return np.add.reduceat(values, self.first[:-1], axis=0) / n_sub


class Regions:
    """Regions of interest of n sources at Galactic unit vectors (n, 3).

    Counts of the core, within ``core_deg`` (n_energy,), constrain the sources; its pixels have
    ``n_split`` (n_energy,) sub-pixels along a side. The tail are the other counts that photons of
    the sources may reach, within ``reach_deg`` (n,). Core and tail in the region, within
    ``radius_deg``, constrain the background.
    """

    def __init__(self, counts, vectors, radius_deg, core_deg, reach_deg, *, n_split=1):
        self.counts, self.vectors = counts, vectors
        self.radius_deg, self.core_deg = radius_deg, core_deg
        self.east, self.north = tangent_axes(vectors)  # (n, 3), of the tangent planes (ICRS)
        self.reached, n_core, n_region = self._find_pairs(reach_deg)
        # views of what is reached: first the core, then the rest of the region
        self.core, self.tail = map(self.reached.select, (slice(n_core), slice(n_core, None)))
        self.pairs = self.reached.select(slice(n_region))  # not divided into sub-pixels
        self.cell = self.reached.cell(counts.n_energy)
        if counts.pixel is not None and np.any(np.asarray(n_split) > 1):
            self.core = self._divide(np.broadcast_to(n_split, counts.n_energy))
        # offsets in degrees of points that sample each region, (n, q) or the same (1, q) for all,
        # and the observed area in deg2 that each of them represents (n, q)
        sky_map = counts.sky_map
        coarse = sky_map.pixel_size_deg > radius_deg * _MAX_PIXEL_FRACTION  # 0 for events
        samples = self._pixel_samples() if coarse else self._spiral_samples()
        self.sample_x, self.sample_y, self.sample_area = samples
        # rings around each source: radii (k + 1,) in degrees, and observed fraction (n, k)
        self._ring_edges = radius_deg * np.append(0.0, np.geomspace(_FIRST_RING, 1.0, _N_RINGS))
        self._ring_coverage = np.ones((len(vectors), _N_RINGS))
        radius = ((self._ring_edges[1:] + self._ring_edges[:-1]) / 2)[:, None]
        angle = (np.arange(_N_ANGLES) + 0.5) * (2 * np.pi / _N_ANGLES)
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        observed_deg2 = self.sample_area.sum(axis=1)
        for row in np.flatnonzero(observed_deg2 < _FULL_COVERAGE * np.pi * radius_deg**2):
            points = move(vectors[row], self.east[row], self.north[row], x, y)
            self._ring_coverage[row] = sky_map.covers(points).mean(axis=1)

    def __len__(self):
        return len(self.vectors)

    def contained(self, profiles, radius_deg):
        """Fraction (n, n_energy) of the photons on observed sky within a radius.

        The radius in degrees is one for all energy bins, or one for each (n_energy,).
        """
        edges = np.minimum(self._ring_edges[:, None], radius_deg)
        in_rings = np.diff(profiles.containment(edges), axis=0)
        return np.maximum(self._ring_coverage @ in_rings, _MIN_CONTAINED)

    def _offsets(self, rows, vectors):
        """Offsets east and north in degrees of vectors from the sources of rows."""
        return tangent_offsets(self.vectors[rows], self.east[rows], self.north[rows], vectors)

    def _find_pairs(self, reach_deg):
        """Pairs of the sources and the counts bins within a radius (n,) of each.

        The pairs of the core come first, then those of the region; also the numbers of both.
        """
        counts = self.counts
        found = counts.tree.query_ball_point(self.vectors, chord(reach_deg), return_sorted=True)
        source = np.repeat(np.arange(len(found)), [len(near) for near in found])
        position = np.concatenate([[], *found]).astype(int)
        x, y = self._offsets(source, counts.vectors[position])
        bins, row = ragged_ranges(counts.first[position], counts.first[position + 1])
        offset_deg = np.hypot(x, y)[row]
        zone = (offset_deg >= self.core_deg[counts.energy_bin[bins]]).astype(np.int8)
        zone += offset_deg >= self.radius_deg
        order = np.argsort(zone, kind="stable")
        bins, row = bins[order], row[order]
        energy_bin, number = counts.energy_bin[bins], counts.number[bins]
        pairs = Pairs(source[row], bins, energy_bin, number, x[row], y[row])
        return pairs, *np.cumsum(np.bincount(zone, minlength=2))[:2]

    def _divide(self, n_split):
        """The core with n_split**2 sub-pixels, n_split (n_energy,) by the energy bin."""
        core, counts = self.core, self.counts
        position, n_split = counts.position[core.bin], n_split[core.energy_bin]
        first = np.append(0, np.cumsum(n_split**2))
        x, y = np.empty((2, first[-1]))
        for n in np.unique(n_split):
            rows = np.flatnonzero(n_split == n)
            used, inverse = np.unique(position[rows], return_inverse=True)
            for number, centers in enumerate(counts.sky_map.pixels.parts(counts.pixel[used], n)):
                sub = first[rows] + number
                x[sub], y[sub] = self._offsets(core.source[rows], centers[inverse])
        return replace(core, first=first, sub_x=x, sub_y=y)

    def _spiral_samples(self):
        """Points on a Fibonacci spiral, even on a disc; unobserved ones have no area."""
        number = np.arange(_SAMPLES_PER_REGION) + 0.5
        radius = self.radius_deg * np.sqrt(number / _SAMPLES_PER_REGION)
        x, y = radius * np.cos(number * GOLDEN_ANGLE), radius * np.sin(number * GOLDEN_ANGLE)
        axes = (axis[:, None] for axis in (self.vectors, self.east, self.north))
        observed = self.counts.sky_map.covers(move(*axes, x, y))
        return x[None], y[None], observed * (np.pi * self.radius_deg**2 / _SAMPLES_PER_REGION)

    def _pixel_samples(self):
        """The observed pixels with their centre in each region, padded with points of no area."""
        centers, areas, tree = self.counts.observed_pixels
        found = tree.query_ball_point(self.vectors, chord(self.radius_deg)) if len(centers) else []
        x, y, area = np.zeros((3, len(self), max([1, *map(len, found)])))
        for row, near in enumerate(found):
            near, n = np.asarray(near, int), len(near)
            x[row, :n], y[row, :n] = self._offsets(row, centers[near])
            area[row, :n] = areas[near]
        return x, y, area


def neighbor_pairs(vectors, radius_deg):
    """Pairs (m, 2) of sources within a radius, in both orders, sorted by the first and distance."""
    pairs = KDTree(vectors).query_pairs(chord(radius_deg), output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    distance = np.linalg.norm(vectors[pairs[:, 0]] - vectors[pairs[:, 1]], axis=1)
    return pairs[np.lexsort((distance, pairs[:, 0]))]


def graph_colors(n, pairs):
    """Greedy graph colouring: numbers (n,) of sources that differ within each of `neighbor_pairs`.

    Sources of one colour do not overlap, so that they can be fitted at the same time.
    """
    colors = np.zeros(n, dtype=int)
    first = np.searchsorted(pairs[:, 0], np.arange(n + 1))
    for source in np.unique(pairs[:, 0]):
        neighbors = pairs[first[source] : first[source + 1], 1]
        taken = colors[neighbors[neighbors < source]]
        colors[source] = np.setdiff1d(np.arange(len(taken) + 1), taken)[0]
    return colors
