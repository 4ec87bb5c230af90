"""Observed patches of simulated skies, under random conditions, and the significance of sources.

An observation thins the photons to a shorter exposure, limits the energy range, blurs positions by
input pixels, bins energies and hides a part of the image.

The photons of diffuse emission, if the sky does not contain them, are drawn as counts in the pixels
of the image. Thinned, displaced and binned photons follow Poisson statistics, so the result is the
same, and the 1e10 photons of a large set above 0.5 GeV need not be drawn one by one. Only the
blurring by input pixels is omitted: diffuse emission hardly changes over 0.25 deg.
"""

from dataclasses import dataclass, replace

import healpy
import numpy as np
from scipy.spatial import KDTree

from astro_unetloc.irf.spectra import bin_fractions, draw_energy
from astro_unetloc.maps.patches import SortedPhotons, TangentPlane, band_inputs, bin_photons
from astro_unetloc.maps.photons import Photons
from astro_unetloc.sphere import chord, circle_in_disc, separation_deg


@dataclass(frozen=True)
class TrainingConfig:
    """Which true sources are labelled, and how.

    Attributes
    ----------
    mask_radius_pix : float
        Radius of the disc that labels a source, in pixels.
    min_photons, min_significance : float
        A source is labelled when it has at least this many photons in the image, and when these
        stand at least so many standard deviations above a known background, see
        ``significance``.
    """

    mask_radius_pix: float = 2.0
    min_photons: float = 3.0
    min_significance: float = 3.0


# Neighbours up to so many radii of the PSF away add to the background of a source.
_NEIGHBOUR_RADII = 4.0
# Photons this far outside an image may still be placed inside it by a coarse input pixel.
_MARGIN_DEG = 0.5


def significance(n_photons, background):
    """Significance (n,) in standard deviations of sources above a known background.

    Both are photons, (n,) or (n, n_bins); the test statistics of energy bins are added:
    ``sqrt(2 sum((s + b) ln(1 + s / b) - s))``, Cowan et al. 2011 (arXiv:1007.1727), equation 97.
    A background below a hundredth counts as a hundredth.
    """
    s, b = np.asarray(n_photons, dtype=float), np.maximum(background, 0.01)
    ts = np.maximum((s + b) * np.log1p(s / b) - s, 0.0)
    return np.sqrt(2 * (ts.sum(axis=-1) if ts.ndim > 1 else ts))


def _photons_by_source(sky, origin, energy):
    """Number of photons of each source in each energy bin, (n_sources, n_bins)."""
    energy_bin = np.digitize(energy, sky.energy_edges[1:-1])
    shape = (len(sky.sources), len(sky.energy_edges) - 1)
    place = origin.astype(np.int64) * shape[1] + energy_bin
    return np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)


class Detectability:
    """Counts the photons near the true sources of a sky."""

    def __init__(self, sky):
        self.sky = sky
        self.tree = KDTree(sky.sources.vectors)
        centers = np.sqrt(sky.energy_edges[1:] * sky.energy_edges[:-1])
        self._radius_deg = np.array([sky.psf.containment_radius(0.68, e) for e in centers])
        self._offset_deg = np.concatenate([[0.0], np.geomspace(1e-3, 20.0, 150)])
        self._contained = [sky.psf.containment(self._offset_deg, e) for e in centers]
        mine = np.flatnonzero(sky.origin >= 0)
        self._photons_of = _photons_by_source(sky, sky.origin[mine], sky.photons.energy[mine])

    def near(self, source, photons, origin, *, radius_deg=0.0):
        """Own photons and expected background in the 68 % radius, each (n, n_bins)."""
        radius = np.hypot(self._radius_deg, radius_deg)
        mine = np.flatnonzero(np.isin(origin, source))
        origin, energy = origin[mine], photons.energy[mine]
        energy_bin = np.digitize(energy, self.sky.energy_edges[1:-1])
        offset = separation_deg(photons.vectors[mine], self.sky.sources.vectors[origin])
        near = offset < radius[energy_bin]
        own = _photons_by_source(self.sky, origin[near], energy[near])
        x, y, z = self.sky.sources.vectors[source].reshape(-1, 3).T
        diffuse = self.sky.background[healpy.vec2pix(self.sky.nside, x, y, z, nest=False)]
        background = diffuse * np.pi * radius**2 + self._from_neighbours(source, radius)
        return own[source], background

    def _from_neighbours(self, source, radius_deg):
        """Photons of other sources within a radius, (n, n_bins)."""
        vectors = self.sky.sources.vectors
        reach_deg = _NEIGHBOUR_RADII * radius_deg.max()
        pairs = self.tree.query_ball_point(vectors[source], chord(reach_deg))
        row = np.repeat(np.arange(len(source)), [len(p) for p in pairs])
        other = np.concatenate([*pairs, np.zeros(0)]).astype(int)
        row, other = row[other != source[row]], other[other != source[row]]
        distance = separation_deg(vectors[source[row]], vectors[other])
        found = np.zeros((len(source), len(radius_deg)))
        middle = (self._offset_deg[1:] + self._offset_deg[:-1]) / 2
        for number, radius in enumerate(radius_deg):
            grid = np.concatenate([[1e-3], np.geomspace(radius / 5, reach_deg * 1.01, 40)])
            rings = circle_in_disc(grid[:, None], middle, radius)
            inside = rings @ np.diff(self._contained[number])
            light = self._photons_of[other, number] * np.interp(distance, grid, inside)
            found[:, number] = np.bincount(row, weights=light, minlength=len(source))
        return found


@dataclass(frozen=True)
class Observation:
    """Conditions of one observation."""

    exposure_fraction: float  # of the simulated exposure
    energy_edges: np.ndarray  # bins of the input map in GeV; for events the range
    events: bool  # whether photons keep their own energies
    pixel_deg: float  # size of input pixels; 0 where photons keep their positions
    # (angle_deg, offset_pix, half_width_pix) of the observed strip of the image; None for all of it
    hidden: tuple | None


@dataclass(frozen=True)
class ObservedPatch:
    """A patch with its truth; the n sources are those inside the image, faint ones included."""

    plane: TangentPlane
    counts: np.ndarray  # (ny, nx, n_band) photons
    coverage: np.ndarray  # (ny, nx, 1), 1 where observed
    bands: np.ndarray  # (n_band, 4), see `astro_unetloc.maps.patches.band_inputs`
    source: np.ndarray  # (n,) index into the sources of the sky
    x: np.ndarray  # (n,) true pixel position
    y: np.ndarray
    n_photons: np.ndarray  # (n,) photons of the source in the image
    background: np.ndarray  # (n,) expected other photons in the 68 % radii of the PSF
    significance: np.ndarray  # (n,) see `significance`
    labelled: np.ndarray  # (n,) whether the network must find it


def draw_observation(rng, *, band_edges, years=16.0):
    """Random conditions: half a year to ``years``, any binning, pixels up to 0.25 deg."""
    low, high = float(band_edges[0]), float(band_edges[-1])
    if rng.random() < 0.75:
        fraction = rng.uniform(5.0 / years, 1.0)
    else:
        fraction = np.exp(rng.uniform(np.log(0.5 / years), 0.0))
    if rng.random() < 0.25:
        low = low * np.exp(rng.uniform(0, np.log(10)))
    if rng.random() < 0.15:
        high = max(low * 3, high * np.exp(-rng.uniform(0, np.log(20))))
    events = rng.random() < 0.5
    n_bins = 1 if events or rng.random() < 0.15 else int(rng.integers(2, 20))
    regular = np.linspace(0, 1, n_bins + 1)
    if n_bins > 1 and rng.random() < 0.3:
        regular[1:-1] = np.sort(rng.random(n_bins - 1))
    edges = low * (high / low) ** regular
    if not events and rng.random() < 0.3:
        edges = np.array(band_edges)[(band_edges >= low * 0.99) & (band_edges <= high * 1.01)]
    if len(edges) < 2 or np.any(np.diff(edges) < 1e-3 * edges[:-1]):
        edges = np.array([low, high])
    exact = events and rng.random() < 0.8
    pixel = 0.0 if exact else np.exp(rng.uniform(np.log(0.02), np.log(0.25)))
    strip = (0, 360), (-40, 40), (15, 60)
    hidden = tuple(rng.uniform(*limits) for limits in strip) if rng.random() < 0.25 else None
    return Observation(fraction, edges, events, float(pixel), hidden)


def source_mask(x, y, radius_pix, n_pix):
    """A uint8 image (n_pix, n_pix), 1 within ``radius_pix`` of a source."""
    pixels = np.arange(n_pix)
    dx2, dy2 = (np.subtract.outer(np.asarray(c, float), pixels) ** 2 for c in (x, y))
    return np.any(dy2[:, :, None] + dx2[:, None, :] <= radius_pix**2, axis=0).astype(np.uint8)


def _coverage(n_pix, hidden):
    """Observed pixels (n_pix, n_pix), all or a band across the image."""
    if hidden is None:
        return np.ones((n_pix, n_pix), dtype=bool)
    angle, offset, half_width = np.radians(hidden[0]), hidden[1], hidden[2]
    y, x = np.mgrid[:n_pix, :n_pix] - (n_pix - 1) / 2
    return np.abs(x * np.cos(angle) + y * np.sin(angle) - offset) <= half_width


def _pixelize(plane, vectors, pixel_deg, rng):
    """Directions placed at random in input pixels of random phase and orientation."""
    angle, scale = rng.uniform(0, np.pi / 2), plane.pixel_deg / pixel_deg
    x, y = plane.pixel_from_vectors(vectors)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    shift = rng.random(2)
    u = np.floor(x * cos + y * sin + shift[0]) + rng.random(len(x)) - shift[0]
    v = np.floor(y * cos - x * sin + shift[1]) + rng.random(len(x)) - shift[1]
    return plane.vectors_from_pixel((u * cos - v * sin) / scale**2, (u * sin + v * cos) / scale**2)


class PatchObserver:
    """Cuts patches out of one simulated sky under given conditions."""

    def __init__(self, sky, band_edges, *, config=None):
        self.band_edges = np.asarray(band_edges, dtype=float)
        self.config = TrainingConfig() if config is None else config
        self._sorted = SortedPhotons(sky.photons)
        self._origin = sky.origin[self._sorted.order]
        # only the sorted photons are kept: below 10 GeV they fill most of the memory
        self.sky = replace(sky, photons=self._sorted.photons, origin=self._origin)
        self._detectability = Detectability(self.sky)

    def observe(self, plane, observation, rng):
        """The `ObservedPatch` of a plane under the conditions of an observation."""
        photons, origin = self._photons(plane, observation, rng)
        coverage = _coverage(plane.n_pix, observation.hidden)
        if self.sky.footprint is not None:
            coverage &= self.sky.footprint.covers(plane.pixel_vectors)
        rows, ix, iy = _pixels_inside(plane, photons.vectors)
        seen = rows[coverage[iy, ix]]
        photons, origin = photons.select(seen), origin[seen]
        counts = bin_photons(plane, photons, self.band_edges)
        if not self.sky.diffuse_drawn:
            counts = counts + self._diffuse_counts(plane, observation, rng) * coverage[..., None]
        source = self._sources_inside(plane)
        x, y = plane.pixel_from_vectors(self.sky.sources.vectors[source].reshape(-1, 3))
        n_photons = np.bincount(origin[origin >= 0], minlength=len(self.sky.sources))[source]
        near, background = self._detectability.near(
            source, photons, origin, radius_deg=observation.pixel_deg / 2
        )
        fraction = bin_fractions(self.sky.energy_edges, observation.energy_edges[[0, -1]])[:, 0]
        background *= fraction * observation.exposure_fraction
        stands_out = significance(near, background)
        labelled = n_photons >= self.config.min_photons
        labelled &= stands_out >= self.config.min_significance
        labelled &= self.sky.sources.radius_deg[source] == 0
        bands = band_inputs(self.band_edges, observation.energy_edges, events=observation.events)
        return ObservedPatch(
            plane, counts, coverage[..., None].astype(np.uint8), bands, source, x, y, n_photons,
            background.sum(axis=1), stands_out, labelled,
        )  # fmt: skip

    def _photons(self, plane, observation, rng):
        rows = self._sorted.near(plane.basis[2], plane.half_diagonal_deg + _MARGIN_DEG)
        edges = observation.energy_edges
        energy = self._sorted.photons.energy[rows]
        keep = rng.random(len(rows)) < observation.exposure_fraction
        keep &= (energy >= edges[0]) & (energy < edges[-1])
        rows, energy = rows[keep], energy[keep]
        vectors = self._sorted.photons.vectors[rows]
        if not observation.events:  # energies are drawn again inside their bins
            number = np.searchsorted(edges, energy, side="right") - 1
            energy = draw_energy(rng.random(len(energy)), edges[number], edges[number + 1])
        if observation.pixel_deg > 0:
            vectors = _pixelize(plane, vectors, observation.pixel_deg, rng)
        return Photons(vectors, energy), self._origin[rows]

    def _diffuse_counts(self, plane, observation, rng):
        """Random diffuse counts, (n_pix, n_pix, n_band)."""
        vectors = plane.pixel_vectors.reshape(-1, 3)
        theta, phi = healpy.vec2ang(vectors)
        pixels, weights = healpy.get_interp_weights(self.sky.nside, theta, phi, nest=False)
        fractions = self._band_fractions(observation) * observation.exposure_fraction
        density = np.einsum("kn,knb->nb", weights, self.sky.background[pixels] @ fractions)
        # solid angle of a pixel of a tangent plane (Calabretta & Greisen 2002, section 5.1.3)
        area = plane.pixel_deg**2 * (vectors @ plane.basis[2]) ** 3
        counts = rng.poisson(density * area[:, None])
        return counts.reshape(plane.n_pix, plane.n_pix, -1)

    def _band_fractions(self, observation):
        """Fraction of the photons of each bin of the sky that an observation puts in each band."""
        edges = observation.energy_edges
        if observation.events:
            bands = np.clip(self.band_edges, edges[0], edges[-1])
            return bin_fractions(self.sky.energy_edges, bands)
        return bin_fractions(self.sky.energy_edges, edges) @ bin_fractions(edges, self.band_edges)

    def _sources_inside(self, plane):
        reach = chord(0.75 * plane.pixel_deg * plane.n_pix)
        near = self._detectability.tree.query_ball_point(plane.basis[2], reach, return_sorted=True)
        near = np.array(near, dtype=int)
        inside, _, _ = _pixels_inside(plane, self.sky.sources.vectors[near].reshape(-1, 3))
        return near[inside]


def _pixels_inside(plane, vectors):
    """Rows of the directions (n, 3) that lie in an image, and their pixels."""
    x, y = (np.floor(c + 0.5) for c in plane.pixel_from_vectors(vectors))
    rows = np.flatnonzero((x >= 0) & (x < plane.n_pix) & (y >= 0) & (y < plane.n_pix))
    return rows, x[rows].astype(int), y[rows].astype(int)
