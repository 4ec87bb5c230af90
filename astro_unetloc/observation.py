"""Observing conditions: how a simulated sky is seen, so that a network meets every kind of map.

An observation thins the photons to a shorter exposure, cuts the energy range, blurs positions by
input pixels, bins energies and hides part of the image, each as a real map would.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.config import TrainingConfig
from astro_unetloc.diffuse import ENERGY_EDGES
from astro_unetloc.geometry import TangentPlane, lonlat_from_vectors, separation_deg
from astro_unetloc.patches import SortedPhotons, band_inputs, bin_photons
from astro_unetloc.photons import Photons, draw_energy

__all__ = ["Observation", "ObservedPatch", "PatchObserver", "draw_observation", "source_mask"]

# Photons this far outside an image may still be placed inside it by a coarse input pixel.
_MARGIN_DEG = 0.5


@dataclass(frozen=True)
class Observation:
    """Conditions of one observation.

    Attributes
    ----------
    exposure_fraction : float
        Fraction of the simulated exposure.
    energy_edges : ndarray (n_energy + 1,)
        Energy bins of the input map in GeV; for events the range.
    events : bool
        Whether photons keep their own energies.
    pixel_deg : float
        Input pixel size; 0 where photons keep their positions.
    hidden : tuple of float or None
        ``(angle_deg, offset_pix, half_width_pix)`` of the band of the image that was observed;
        None for all of it.
    """

    exposure_fraction: float
    energy_edges: np.ndarray
    events: bool
    pixel_deg: float
    hidden: tuple | None


@dataclass(frozen=True)
class ObservedPatch:
    """A patch with its truth; the n sources are those inside the image, faint ones included.

    Attributes
    ----------
    plane : TangentPlane
        Where on the sky.
    counts : ndarray (ny, nx, n_band)
        Photons.
    coverage : ndarray (ny, nx, 1)
        1 where observed.
    bands : ndarray (n_band, 4)
        See `astro_unetloc.patches.band_inputs`.
    source : ndarray (n,) of int
        Index into the sky's sources.
    x, y : ndarray (n,)
        True pixel positions.
    n_photons : ndarray (n,) of int
        Photons of the source in the image within ``TrainingConfig.count_radius_deg`` of it.
    background : ndarray (n,)
        Photons of everything else expected within ``TrainingConfig.background_radius_deg``.
    labelled : ndarray (n,) of bool
        Whether the network is asked to find it.
    """

    plane: TangentPlane
    counts: np.ndarray
    coverage: np.ndarray
    bands: np.ndarray
    source: np.ndarray
    x: np.ndarray
    y: np.ndarray
    n_photons: np.ndarray
    background: np.ndarray
    labelled: np.ndarray


def draw_observation(rng, *, band_edges, years=16.0):
    """Random conditions: half a year to ``years``, any range and binning, pixels up to 0.25 deg.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    band_edges : ndarray (n_band + 1,)
        Edges of the model's bands in GeV.
    years : float
        Exposure of the simulated sky.

    Returns
    -------
    Observation
    """
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
    pixel = (
        0.0 if events and rng.random() < 0.8 else np.exp(rng.uniform(np.log(0.02), np.log(0.25)))
    )
    hidden = None
    if rng.random() < 0.25:
        hidden = (rng.uniform(0, 360), rng.uniform(-40, 40), rng.uniform(15, 60))
    return Observation(fraction, edges, bool(events), float(pixel), hidden)


def source_mask(x, y, radius_pix, n_pix):
    """Discs around sources: uint8 image (n_pix, n_pix), 1 within ``radius_pix`` of a source."""
    reach = int(np.ceil(radius_pix))
    step = np.arange(-reach, reach + 1)
    iy = np.floor(np.asarray(y) + 0.5).astype(int)[:, None, None] + step[None, :, None]
    ix = np.floor(np.asarray(x) + 0.5).astype(int)[:, None, None] + step[None, None, :]
    iy, ix = np.broadcast_arrays(iy, ix)
    distance = np.hypot(iy - np.reshape(y, (-1, 1, 1)), ix - np.reshape(x, (-1, 1, 1)))
    keep = (distance <= radius_pix) & (iy >= 0) & (iy < n_pix) & (ix >= 0) & (ix < n_pix)
    mask = np.zeros((n_pix, n_pix), dtype=np.uint8)
    mask[iy[keep], ix[keep]] = 1
    return mask


def _coverage(n_pix, hidden):
    """Observed part of an image, (n_pix, n_pix) of bool: all of it, or a band across it."""
    if hidden is None:
        return np.ones((n_pix, n_pix), dtype=bool)
    angle, offset, half_width = np.radians(hidden[0]), hidden[1], hidden[2]
    y, x = np.mgrid[:n_pix, :n_pix] - (n_pix - 1) / 2
    return np.abs(x * np.cos(angle) + y * np.sin(angle) - offset) <= half_width


def _pixelize(plane, vectors, pixel_deg, rng):
    """Place photons at random inside square input pixels with random phase and orientation."""
    angle, scale = rng.uniform(0, np.pi / 2), plane.pixel_deg / pixel_deg
    x, y = plane.pixel_from_vectors(vectors)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    shift = rng.random(2)
    u = np.floor(x * cos + y * sin + shift[0]) + rng.random(len(x)) - shift[0]
    v = np.floor(y * cos - x * sin + shift[1]) + rng.random(len(x)) - shift[1]
    return plane.vectors_from_pixel((u * cos - v * sin) / scale**2, (u * sin + v * cos) / scale**2)


def _rebin_energy(energy, edges, rng):
    """Redraw each energy inside its bin."""
    bin_index = np.clip(np.searchsorted(edges, energy, side="right") - 1, 0, len(edges) - 2)
    return draw_energy(rng.random(len(energy)), edges[bin_index], edges[bin_index + 1])


def _bin_fractions(low, high):
    """Share of the photons of each bin of ``ENERGY_EDGES`` that lie between two energies."""
    edges = np.clip(ENERGY_EDGES, low, high) ** -1.4
    return -np.diff(edges) / -np.diff(ENERGY_EDGES**-1.4)


class PatchObserver:
    """Cuts patches out of one simulated sky under given conditions.

    Parameters
    ----------
    sky : SimulatedSky
        The sky.
    band_edges : ndarray (n_band + 1,)
        Edges of the model's bands in GeV.
    config : TrainingConfig, optional
        The label rule.
    """

    def __init__(self, sky, band_edges, *, config=None):
        from scipy.spatial import KDTree

        self.sky = sky
        self.band_edges = np.asarray(band_edges, dtype=float)
        self.config = TrainingConfig() if config is None else config
        self._sorted = SortedPhotons(sky.photons)
        self._origin = sky.origin[self._sorted.order]
        self._sources = KDTree(sky.sources.vectors)

    def observe(self, plane, observation, rng):
        """One patch.

        Parameters
        ----------
        plane : TangentPlane
            Where.
        observation : Observation
            How.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        ObservedPatch
        """
        photons, origin = self._photons(plane, observation, rng)
        coverage = _coverage(plane.n_pix, observation.hidden)
        seen = _inside(plane, photons.vectors, coverage)
        photons, origin = photons.select(seen), origin[seen]
        source, x, y = self._sources_inside(plane)
        n_photons = self._near_own_source(photons, origin)[source]
        background = self._background(source, observation)
        background += self._others(source, photons, origin)
        config = self.config
        limit = config.base_photons + config.min_significance * np.sqrt(background)
        labelled = (n_photons >= np.maximum(limit, config.min_photons)) & (
            self.sky.sources.radius_deg[source] == 0
        )
        return ObservedPatch(
            plane=plane,
            counts=bin_photons(plane, photons, self.band_edges),
            coverage=coverage[..., None].astype(np.uint8),
            bands=band_inputs(self.band_edges, observation.energy_edges, events=observation.events),
            source=source,
            x=x,
            y=y,
            n_photons=n_photons,
            background=background,
            labelled=labelled,
        )

    def _photons(self, plane, observation, rng):
        rows = self._sorted.near(plane.basis[2], plane.half_diagonal_deg + _MARGIN_DEG)
        edges = observation.energy_edges
        energy = self._sorted.photons.energy[rows]
        keep = rng.random(len(rows)) < observation.exposure_fraction
        keep &= (energy >= edges[0]) & (energy < edges[-1])
        rows, energy = rows[keep], energy[keep]
        vectors = self._sorted.photons.vectors[rows]
        if not observation.events:
            energy = _rebin_energy(energy, edges, rng)
        if observation.pixel_deg > 0:
            vectors = _pixelize(plane, vectors, observation.pixel_deg, rng)
        return Photons(vectors, energy), self._origin[rows]

    def _near_own_source(self, photons, origin):
        """Photons of each source of the sky that lie near it, shape (n_sources,)."""
        rows = np.flatnonzero(origin >= 0)
        distance = separation_deg(photons.vectors[rows], self.sky.sources.vectors[origin[rows]])
        near = origin[rows[distance < self.config.count_radius_deg]]
        return np.bincount(near, minlength=len(self.sky.sources))

    def _sources_inside(self, plane):
        chord = 2 * np.sin(np.radians(0.75 * plane.pixel_deg * plane.n_pix) / 2)
        near = np.array(sorted(self._sources.query_ball_point(plane.basis[2], chord)), dtype=int)
        x, y = plane.pixel_from_vectors(self.sky.sources.vectors[near].reshape(-1, 3))
        n = plane.n_pix
        inside = (x >= -0.5) & (x < n - 0.5) & (y >= -0.5) & (y < n - 0.5)
        return near[inside], x[inside], y[inside]

    def _background(self, source, observation):
        """Diffuse photons expected within the label rule's radius of each source."""
        import healpy

        lon, lat = lonlat_from_vectors(self.sky.sources.vectors[source].reshape(-1, 3))
        pixel = healpy.ang2pix(self.sky.nside, lon, lat, nest=False, lonlat=True)
        share = _bin_fractions(*observation.energy_edges[[0, -1]])
        density = self.sky.background[pixel] @ share * observation.exposure_fraction
        return density * np.pi * self.config.background_radius_deg**2

    def _others(self, source, photons, origin):
        """Photons of other sources within the label rule's radius of each source."""
        from scipy.spatial import KDTree

        bright = np.flatnonzero(origin >= 0)
        if len(bright) == 0 or len(source) == 0:
            return np.zeros(len(source))
        tree = KDTree(photons.vectors[bright])
        chord = np.radians(self.config.background_radius_deg)
        near = tree.query_ball_point(self.sky.sources.vectors[source], chord)
        return np.array([np.sum(origin[bright[rows]] != s) for rows, s in zip(near, source)], float)


def _inside(plane, vectors, coverage):
    x, y = plane.pixel_from_vectors(vectors)
    ix, iy = (np.floor(c + 0.5).astype(int) for c in (x, y))
    inside = (ix >= 0) & (ix < plane.n_pix) & (iy >= 0) & (iy < plane.n_pix)
    inside[inside] = coverage[iy[inside], ix[inside]]
    return inside
