"""A search without a network: excesses over a background that the photons themselves give.

At positions of photons a test statistic compares a point source on the background with the
background alone, by the photons of all energies with the point-spread function of each. Peaks are
candidates. When they have been fitted, the counts that they explain belong to the background of the
next scan, which finds fainter ones beside them.
"""

from dataclasses import dataclass

import healpy
import numpy as np
from scipy.spatial import KDTree

from astro_unetloc.catalog.table import glon_glat_vectors, numbers_of
from astro_unetloc.detection.kernels import SmoothBackground, nside_of, observed_cells
from astro_unetloc.detection.localization import LocalizationConfig, strongest
from astro_unetloc.irf.exposure import background_at, exposure_of, square_degree_density
from astro_unetloc.irf.psf import make_profiles, psf_of
from astro_unetloc.irf.spectra import PowerLawFractions, bins_in_bands
from astro_unetloc.sphere import (
    GOLDEN_ANGLE,
    chord,
    lonlat_from_vectors,
    move,
    quick_tree,
    tangent_axes,
)

# Counts of the expected spectrum that are added to those of a source in its bands.
_PRIOR_COUNTS = 10.0
# Counts of sources that are tried in circles, and the part of their photons in these.
_TRIAL_COUNTS, _IN_CIRCLE = (3.0, 6.0, 12.0, 24.0), 0.73
_CELL_PAIRS = 4  # least number of pairs of a direction, for their memory
# Steps of the fit of the counts, which begins with those at which one count of the source would
# outshine this part of the background.
_N_STEPS, _CLOSE = 6, 0.3
_PIXELS_APART = 1.5  # distance of two candidates of one scan in pixels of the map
_MAX_NSIDE = 8192  # 0.007 deg


@dataclass(frozen=True)
class ScanConfig:
    """Options of the scan; lengths are in 68 % radii of the point-spread function."""

    least_ts: tuple = (25.0, 12.0, 8.0)  # of the candidates of the scans
    least_counts: float = 1.5  # the same
    index: float = 2.3  # photon index of the sources that are looked for
    kernel: float = 4.5  # sigma of the narrowest kernel of the background
    contained: float = 0.9  # part of the photons of a source at each energy that are looked at
    separation: float = 1.8  # least distance of two candidates of one scan
    # Least distance of two sources, in the smallest radius: a closer pair is one bright source, the
    # photons or point-spread function of which differ a little from the expected ones.
    duplicate: float = 0.5
    trial: float = 0.25  # size of the cells in each of which one position is tried
    cell: float = 0.2  # size of the cells in which photons of one energy are joined
    bins_per_decade: int = 8  # of the energies, for the point-spread function
    # Of maps with more photons, cells are so many times larger and bins are bands.
    max_photons: float = 3e6
    coarser: float = 3.0
    # A position is tried if the counts in a circle around it have this test statistic, and again if
    # its own one was larger than the other number in the first scan.
    circle_ts: float = 1.0
    again_ts: float = 2.0
    max_pairs: int = 500_000  # of directions and photons at once


class Scan:
    """Photons of a map in the bands with edges (n_band + 1,) in GeV, and the scan of them."""

    def __init__(self, sky_map, band_edges, *, seed=0, config=None):
        self.config = config = ScanConfig() if config is None else config
        self.sky_map, self._large = sky_map, sky_map.n_photons > config.max_photons
        self._coarser = config.coarser if self._large else 1.0
        self._set_response(np.asarray(band_edges, dtype=float))
        self._gather(seed)
        self._band = self._band_of[self._bin]
        width_deg, template = config.kernel * self.psf_deg, None
        if sky_map.background is not None:
            density, edges = square_degree_density(sky_map.background), self._band_edges

            def template(vectors):
                return background_at(density, vectors, edges)

        sky = observed_cells(sky_map, self.vectors, width_deg)
        photons, self._kernels = (self.vectors, self._band, self.number), None
        if len(self):
            n_band = len(self._in_band)
            self._kernels = SmoothBackground(*photons, n_band, sky, width_deg, template)
        # expected counts per square degree and band, smooth (n_band, m) and with sources (m,), and
        # the directions that are tried
        self._smooth = self._behind = self._tried = None

    def __len__(self):
        return len(self.vectors)

    def _set_response(self, band_edges):
        """Energy bins of the point-spread function, its profiles, and the fraction in each bin."""
        config, sky_map = self.config, self.sky_map
        low, high = np.clip(sky_map.energy_edges[[0, -1]], *band_edges[[0, -1]])
        self._first_band = max(int(np.searchsorted(band_edges, low, side="right")) - 1, 0)
        per_decade = 0 if self._large else config.bins_per_decade
        self._band_edges, self._edges = (
            bins_in_bands(band_edges, (low, high), n) for n in (0, per_decade)
        )
        self._band_of = np.searchsorted(self._band_edges, self._edges[:-1], side="right") - 1
        points = sky_map.observed_points[0]
        # counted in a pixel and placed at random in it, a photon is blurred twice
        disc_deg = sky_map.pixel_size_deg * np.sqrt(2 / np.pi)
        self._profiles = make_profiles(psf_of(sky_map.psf, points), self._edges, disc_deg=disc_deg)
        exposure = exposure_of(sky_map.exposure, points[:: len(points) // 50 + 1])[1]
        spectrum = PowerLawFractions(
            self._edges, lambda energy: np.atleast_2d(exposure(energy)).mean(axis=0)
        )
        fraction = spectrum.fractions([config.index])[0]  # of a source in each bin
        self._in_band = np.bincount(self._band_of, fraction)
        self._in_bin = fraction / self._in_band[self._band_of]
        self._r68_deg = self._profiles.containment_radius(0.68)
        self.psf_deg = float(fraction @ self._r68_deg)
        unresolved_deg = LocalizationConfig().unresolved_deg(sky_map.pixel_size_deg)
        self.duplicate_deg = max(config.duplicate * float(self._r68_deg.min()), unresolved_deg)
        quantiles = (np.arange(24) + 0.5) / 24 * config.contained
        self._radii_deg = fraction @ self._profiles.containment_radius(quantiles)
        self._reach_deg = self._profiles.containment_radius(config.contained)
        self._seen = float(fraction @ self._profiles.containment(self._reach_deg))

    def _gather(self, seed):
        """Join photons of one energy bin in small cells: their mean directions and numbers."""
        size_deg = self.config.cell * self._coarser * self._r68_deg
        nside = np.minimum(nside_of(size_deg), _MAX_NSIDE)
        n_pixels, keys, rows = 12 * _MAX_NSIDE**2, [np.zeros(0, np.int64)], [np.zeros((0, 4))]
        for photons in self.sky_map.photons(seed):
            inside = (photons.energy >= self._edges[0]) & (photons.energy < self._edges[-1])
            photons = photons.select(inside)
            bins = np.searchsorted(self._edges, photons.energy, side="right") - 1
            key = bins * n_pixels + healpy.vec2pix(nside[bins], *photons.vectors.T, nest=True)
            key, sums = _sums(key, np.column_stack([photons.vectors, np.ones(len(key))]))
            keys.append(key)
            rows.append(sums)
        key, sums = _sums(np.concatenate(keys), np.concatenate(rows))
        self.vectors, self.number = _unit(sums[:, :3]), sums[:, 3]
        self._bin = (key // n_pixels).astype(int)
        self._rows = [np.flatnonzero(self._bin == k) for k in range(len(self._r68_deg))]
        self._trees = [quick_tree(self.vectors[rows]) for rows in self._rows]

    def search(self, sources, least_ts):
        """Directions (k, 3) of excesses over the background and sources, by descending TS.

        ``sources`` is the table of those that were fitted, with ``Npred`` and ``Counts_Band``.
        """
        if not len(self):
            return np.zeros((0, 3))
        self._update(sources)
        first = self._tried is None
        if first:
            self._tried = self._promising()
        ts, counts = self._test(self._tried)
        rows = np.flatnonzero((ts >= least_ts) & (counts >= self.config.least_counts))
        rows = rows[np.argsort(-ts[rows], kind="stable")]
        found, pixel_deg = self._tried[rows], self.sky_map.pixel_size_deg
        if first:
            self._tried = self._tried[ts > self.config.again_ts]
        if pixel_deg and len(sources) and len(found):  # a source in one pixel is flat in it
            near = KDTree(glon_glat_vectors(sources)).query(found)[0] < chord(pixel_deg)
            found = found[~near]
        distance_deg = max(self.config.separation * self.psf_deg, _PIXELS_APART * pixel_deg)
        return found[strongest(found, -np.arange(len(found)), distance_deg)]

    def sqrt_ts(self, sources):
        """Root of the test statistic (n,) of sources on the smooth background and all others."""
        if not len(sources):
            return np.zeros(0)
        self._update(sources)
        return np.sqrt(self._test(glon_glat_vectors(sources), self._counts(sources))[0])

    def _counts(self, sources):
        """Expected counts (n, n_bin) of sources: those of the band of each energy bin."""
        total, bands = numbers_of(sources, "Npred"), slice(self._first_band, None)
        in_bands = np.nan_to_num(np.asarray(sources["Counts_Band"]))[:, bands]
        in_bands = in_bands[:, : len(self._in_band)] + _PRIOR_COUNTS * self._in_band
        in_bands *= (np.nan_to_num(total) / in_bands.sum(axis=1))[:, None]
        return in_bands[:, self._band_of]

    def _update(self, sources):
        """Estimate the smooth background beside sources, and what lies behind a new one."""
        of_sources, own = np.zeros(len(self)), (self._band, np.arange(len(self)))
        if len(sources):
            of_sources = self._of_sources(glon_glat_vectors(sources), self._counts(sources))
        smooth, weight = self._smooth, np.ones(len(self))
        for _ in range(2 if len(sources) else 1):
            if smooth is not None:
                weight = smooth[own] / (smooth[own] + of_sources)
            smooth = self._kernels.densities(weight)
        self._smooth, self._behind = smooth, smooth[own] + of_sources

    def _of_sources(self, vectors, counts):
        """Expected counts (m,) of sources per square degree and band at the photons."""
        result = np.zeros(len(self))
        # less than half a count is left out
        contained = 1 - np.minimum(0.5 / np.maximum(counts.max(axis=1), 1.0), 0.2)
        radii_deg = self._profiles.containment_radius(contained)
        for number, (tree, rows) in enumerate(zip(self._trees, self._rows)):
            near = tree.query_ball_point(vectors, chord(radii_deg[number]))
            source = np.repeat(np.arange(len(near)), [len(cells) for cells in near])
            cell = rows[np.concatenate([[], *near]).astype(int)]
            offset2 = np.degrees(np.linalg.norm(vectors[source] - self.vectors[cell], axis=1)) ** 2
            density = self._profiles.density(number, offset2)[0] * counts[source, number]
            result += np.bincount(cell, density, minlength=len(self))
        return result

    def _promising(self):
        """Directions (n, 3), one for each small cell with photons, where an excess may be.

        The photons in circles, which hold about 73 % of those of a source, show it.
        """
        size_deg = self.config.trial * self._coarser * self.psf_deg
        pixel = healpy.vec2pix(int(nside_of(size_deg)), *self.vectors.T)
        _, first, cell = np.unique(pixel, return_index=True, return_inverse=True)
        weighted = (self.vectors * self.number[:, None]).T
        tried = _unit(np.stack([np.bincount(cell, axis) for axis in weighted], axis=1))
        gain = np.zeros((len(_TRIAL_COUNTS), len(tried)))
        for band, fraction in enumerate(self._in_band):
            bins = self._band_of == band
            radius_deg = 1.2 * (self._in_bin[bins] @ self._r68_deg[bins])
            rows = np.flatnonzero(self._band == band)
            number = self._in_circles(rows, tried, radius_deg)
            inside = fraction * _IN_CIRCLE
            ratio = inside / (self._smooth[band, first] * np.pi * radius_deg**2)
            for row, counts in zip(gain, _TRIAL_COUNTS):
                row += number * np.log1p(counts * ratio) - counts * inside
        return tried[2 * gain.max(axis=0) > self.config.circle_ts]

    def _in_circles(self, rows, vectors, radius_deg):
        """Number (n,) of the photons of some cells in circles, from an image if there are many."""
        if not self._large:
            tree = quick_tree(self.vectors[rows])
            return tree.query_ball_point(vectors, chord(radius_deg), return_length=True)
        nside = int(nside_of(1.5 * radius_deg))
        pixel = healpy.vec2pix(nside, *self.vectors[rows].T)
        image = np.bincount(pixel, self.number[rows], minlength=12 * nside**2)
        found = healpy.get_interp_val(image, *lonlat_from_vectors(vectors), lonlat=True)
        return found * (np.pi * radius_deg**2 / healpy.nside2pixarea(nside, degrees=True))

    def _test(self, vectors, own=None):
        """Test statistic and counts (2, n) at directions; ``own`` (n, n_bin) of sources there."""
        result, nside = np.zeros((2, len(vectors))), int(nside_of(2 * self._reach_deg.max())) * 2
        n_near = np.bincount(healpy.vec2pix(nside, *self.vectors.T), minlength=12 * nside**2)
        n_pairs = np.cumsum(_CELL_PAIRS + n_near[healpy.vec2pix(nside, *vectors.T)])
        ends = np.flatnonzero(np.diff(n_pairs // self.config.max_pairs)) + 1
        for rows in np.split(np.arange(len(vectors)), ends):
            if len(rows):
                some = None if own is None else own[rows]
                result[:, rows] = self._test_some(vectors[rows], some)
        return result

    def _test_some(self, vectors, own):
        tree, parts = quick_tree(vectors), []
        for number, (others, rows) in enumerate(zip(self._trees, self._rows)):
            reach = chord(self._reach_deg[number])
            pairs = tree.sparse_distance_matrix(others, reach, output_type="ndarray")
            which, cell = pairs["i"], rows[pairs["j"]]
            offset2 = (np.degrees(pairs["v"]) ** 2).astype(np.float32)
            density, behind = self._profiles.densities32(number, offset2), self._behind[cell]
            if own is not None:
                smooth = self._smooth[self._band_of[number], cell]
                behind = np.maximum(behind - own[which, number] * density, smooth)
            fraction = self._in_band[self._band_of[number]]
            parts.append((which, fraction * density / behind, self.number[cell]))
        which, ratio, number = map(np.concatenate, zip(*parts))
        order = np.argsort(which, kind="stable")
        which, ratio, number = which[order], ratio[order], number[order]
        first = np.flatnonzero(np.diff(which, prepend=-1))
        each = np.diff(first, append=len(which))
        expected = self._seen * self._coverage(vectors[which[first]])
        counts = 1.0 + np.add.reduceat(number * (ratio > _CLOSE), first)
        for _ in range(_N_STEPS):  # the likelihood of the counts has one maximum
            by_counts = ratio / (1 + np.repeat(counts, each) * ratio)
            gradient = np.add.reduceat(number * by_counts, first) - expected
            hessian = np.add.reduceat(number * by_counts**2, first)
            step = gradient / np.maximum(hessian, 1e-12)
            counts = np.clip(counts + step, counts / 5, counts * 3)
        gain = np.add.reduceat(number * np.log1p(np.repeat(counts, each) * ratio), first)
        result = np.zeros((2, len(vectors)))
        result[:, which[first]] = 2 * np.maximum(gain - counts * expected, 0.0), counts
        return result

    def _coverage(self, vectors):
        """Observed part (n,) of the photons of sources, by points on a spiral."""
        angle = np.arange(len(self._radii_deg)) * GOLDEN_ANGLE
        x, y = self._radii_deg * np.cos(angle), self._radii_deg * np.sin(angle)
        axes = (axis[:, None] for axis in (vectors, *tangent_axes(vectors)))
        return self.sky_map.covers(move(*axes, x, y)).mean(axis=1)


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _sums(key, rows):
    """Distinct keys, and the sums of the rows (n, k) of each."""
    key, which = np.unique(key, return_inverse=True)
    return key, np.stack([np.bincount(which, column) for column in rows.T], axis=1)
