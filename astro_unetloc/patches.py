"""Patches: photons binned on the tangent planes that the network reads, and what was not seen."""

import logging
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from astro_unetloc.config import CHUNK_PHOTONS, MAX_STRADDLING_FACTOR
from astro_unetloc.geometry import PatchGrid
from astro_unetloc.messages import warn
from astro_unetloc.photons import Photons

__all__ = ["Patches", "band_inputs", "bin_photons", "project"]

log = logging.getLogger(__name__)

# Photons are sorted into HEALPix pixels of this nside to find those of a patch.
_SORT_NSIDE = 32
# The sky is sampled at directions 0.23 deg apart (nside); a map that none of them hits, finer.
_SAMPLE_NSIDES = (256, 1024)
# Patches this far outside a region still run: their candidates reach over their border by 0.3 deg
# and may be merged with one inside it.
_REGION_MARGIN_DEG = 1.0
# More than this share of the photons outside the bands of a model is worth a warning.
_MAX_SHARE_OUTSIDE = 0.01


@dataclass(frozen=True)
class Patches:
    """n patches as the network reads them.

    Attributes
    ----------
    grid : PatchGrid
        The grid they belong to.
    index : ndarray (n,) of int
        Patch numbers.
    counts : ndarray (n, ny, nx, n_band) of float32
        Photons.
    coverage : ndarray (n, ny, nx, 1) of float32
        1 where the sky was observed, 0 where not.
    bands : ndarray (n_band, 4) of float32
        See `band_inputs`.
    n_photons : int
        Photons of the whole map inside the bands.
    """

    grid: PatchGrid
    index: np.ndarray
    counts: np.ndarray
    coverage: np.ndarray
    bands: np.ndarray
    n_photons: int = 0

    def __len__(self):
        return len(self.index)


def band_inputs(band_edges, energy_edges, *, events=False):
    """What the network is told about its energy bands.

    Parameters
    ----------
    band_edges : ndarray (n_band + 1,)
        Edges of the model's bands in GeV.
    energy_edges : ndarray (n_energy + 1,)
        Edges of the map's energy bins in GeV; for events the range.
    events : bool
        Whether each photon's own energy is known.

    Returns
    -------
    ndarray (n_band, 4) of float32
        Whether the band holds data (0 or 1), log10 of its observed lower and upper energy in GeV,
        and the width in dex of the widest input bin that contributes (0 for events).
    """
    band_edges, energy_edges = np.asarray(band_edges, float), np.asarray(energy_edges, float)
    low = np.maximum(band_edges[:-1], energy_edges[0])
    high = np.minimum(band_edges[1:], energy_edges[-1])
    present = high > low * (1 + 1e-4)
    log_edges = np.log10(energy_edges)
    # float32 edges of files sit within 1e-6 of the model's: an overlap must be larger than that
    overlap = np.minimum.outer(high, energy_edges[1:]) / np.maximum.outer(low, energy_edges[:-1])
    width = np.where(overlap > 1 + 1e-4, np.diff(log_edges), 0.0).max(axis=1)
    out = np.stack([present, np.log10(low), np.log10(high), 0 * width if events else width], axis=1)
    return np.where(present[:, None], out, 0.0).astype(np.float32)


def warn_of_straddling_bins(band_edges, energy_edges):
    """Warn about wide bins of a map that lie across a band edge of the model.

    Warns
    -----
    UnetlocWarning
        If such a bin is wider than a factor ``MAX_STRADDLING_FACTOR``.
    """
    low, high = np.asarray(energy_edges[:-1]), np.asarray(energy_edges[1:])
    edges = np.asarray(band_edges)
    across = np.any((edges > low[:, None] * 1.0001) & (edges < high[:, None] / 1.0001), axis=1)
    wide = across & (high / low > MAX_STRADDLING_FACTOR)
    if wide.any():
        names = ", ".join(f"{a:.4g}-{b:.4g}" for a, b in zip(low[wide], high[wide]))
        warn(
            f"the energy bins {names} GeV lie across the model's band edges; their photons draw "
            "energies from a power law; finer bins or events find more"
        )


def bin_photons(plane, photons, band_edges):
    """Counts image of photons on a tangent plane.

    Parameters
    ----------
    plane : TangentPlane
        Where to bin.
    photons : Photons
        Any photons; those outside the image or the bands are left out.
    band_edges : ndarray (n_band + 1,)
        Edges in GeV.

    Returns
    -------
    ndarray (ny, nx, n_band) of int64
    """
    shape = (plane.n_pix, plane.n_pix, len(band_edges) - 1)
    cells = _cells(plane, photons, band_edges)
    return np.bincount(cells, minlength=np.prod(shape)).reshape(shape)


def _cells(plane, photons, band_edges):
    """Position in the flat image (ny, nx, n_band) of each photon that falls in it."""
    n, n_band = plane.n_pix, len(band_edges) - 1
    x, y = plane.pixel_from_vectors(photons.vectors)
    band = np.searchsorted(band_edges, photons.energy, side="right") - 1
    with np.errstate(invalid="ignore"):
        inside = (x >= -0.5) & (x < n - 0.5) & (y >= -0.5) & (y < n - 0.5)
    inside &= (band >= 0) & (band < n_band)
    ix, iy = (np.floor(c[inside] + 0.5).astype(np.int64) for c in (x, y))
    return (iy * n + ix) * n_band + band[inside]


class SortedPhotons:
    """Photons sorted by sky position, to look up those near a direction quickly.

    Parameters
    ----------
    photons : Photons
        Any photons.

    Attributes
    ----------
    photons : Photons
        The same, sorted.
    order : ndarray (n,) of int
        Where each of them was before.
    """

    def __init__(self, photons):
        import healpy

        pixel = healpy.vec2pix(_SORT_NSIDE, *photons.vectors.T, nest=False)
        # numbers of 16 bits are sorted by their digits, several times faster than by comparison
        self.order = np.argsort(pixel.astype(np.uint16), kind="stable")
        self.photons = photons.select(self.order)
        counts = np.bincount(pixel, minlength=12 * _SORT_NSIDE**2)
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def near(self, vector, radius_deg):
        """Positions in ``self.photons`` of those within a radius of a direction, and few more."""
        starts, stops = _pixel_runs(tuple(map(float, vector)), float(radius_deg))
        first, last = self._first[starts], self._first[stops]
        filled = last > first
        runs = [np.arange(a, b) for a, b in zip(first[filled], last[filled])]
        return np.concatenate(runs) if runs else np.zeros(0, dtype=int)


@lru_cache(maxsize=1024)
def _pixel_runs(vector, radius_deg):
    """First and last + 1 of the runs of RING pixels that make up a disc, and few more."""
    import healpy

    pixels = healpy.query_disc(
        _SORT_NSIDE, vector, np.radians(radius_deg), inclusive=True, fact=4, nest=False
    )
    breaks = np.flatnonzero(np.diff(pixels) > 1)
    starts = pixels[np.append(0, breaks + 1)]
    stops = pixels[np.append(breaks, len(pixels) - 1)] + 1
    return starts, stops


def touched_patches(grid, covers, region=None):
    """Patches whose owned cell holds a covered direction, with the coverage of their pixels.

    Parameters
    ----------
    grid : PatchGrid
        The grid of patches.
    covers : callable
        Takes unit vectors (n, 3), returns whether each was observed.
    region : DiscFootprint, optional
        The part of the sky that is asked for; all of it by default. Patches just outside are
        taken too, so that what is found inside does not depend on it.

    Returns
    -------
    index : ndarray (n,) of int
        Patch numbers.
    coverage : ndarray (n, ny, nx, 1) of float32
        Coverage of their pixels.
    """
    if region is not None:
        region = replace(region, radius_deg=region.radius_deg + _REGION_MARGIN_DEG)
    seen = _seen_directions(covers, region)
    index = np.unique(grid.owner(seen)) if len(seen) else np.zeros(0, dtype=int)
    n = grid.config.read_pixels
    coverage = np.zeros((len(index), n, n, 1), dtype=np.float32)
    for row, patch in enumerate(index):
        coverage[row, ..., 0] = covers(grid.plane(patch).pixel_vectors)
    return index, coverage


def _seen_directions(covers, region):
    """Unit vectors (n, 3) of a sample of the sky that was observed and is asked for."""
    for nside in _SAMPLE_NSIDES:
        seen = [points[covers(points)] for points in _sample_points(nside, region)]
        seen = np.concatenate(seen)
        if len(seen):
            break
    return seen


def _sample_points(nside, region):
    """Directions of a region or the whole sky, in blocks of a million or less."""
    import healpy

    pixels = np.arange(12 * nside**2)
    if region is not None:
        radius = np.radians(min(region.radius_deg, 180.0))
        pixels = healpy.query_disc(nside, region.center, radius, nest=True)
    for start in range(0, len(pixels), 2**20):
        block = pixels[start : start + 2**20]
        yield np.stack(healpy.pix2vec(nside, block, nest=True), axis=-1)


def project(sky_map, band_edges, *, grid=None, region=None, seed=0, progress=None):
    """Bin a map's photons on every patch that it touches.

    Parameters
    ----------
    sky_map : SkyMap
        The map.
    band_edges : array-like (n_band + 1,)
        Edges of the model's bands in GeV; photons outside are dropped and logged.
    grid : PatchGrid, optional
        The grid of patches.
    region : DiscFootprint, optional
        The part of the sky that is asked for; all by default.
    seed : int
        Seed of the placement of counts inside their pixels.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    Patches

    Raises
    ------
    ValueError
        If the map holds no energy inside the bands.
    """
    grid = PatchGrid() if grid is None else grid
    band_edges = np.asarray(band_edges, dtype=float)
    bands = band_inputs(band_edges, sky_map.energy_edges, events=sky_map.events is not None)
    if not bands[:, 0].any():
        low, high = sky_map.energy_edges[[0, -1]]
        raise ValueError(
            f"expected energies within the model's range {band_edges[0]:g}-{band_edges[-1]:g} GeV; "
            f"got a map of {low:g}-{high:g} GeV; choose another model"
        )
    if sky_map.events is None:
        warn_of_straddling_bins(band_edges, sky_map.energy_edges)
    index, coverage = touched_patches(grid, sky_map.covers, region)
    n = grid.config.read_pixels
    counts = np.zeros((len(index), n, n, len(band_edges) - 1), dtype=np.float32)
    planes = [grid.plane(patch) for patch in index]
    n_used = n_all = 0
    chunks = sky_map.photons(seed, CHUNK_PHOTONS)
    chunks = progress(chunks, desc="photons") if progress else chunks
    for photons in _full_chunks(chunks, CHUNK_PHOTONS):
        n_all += len(photons)
        used = (photons.energy >= band_edges[0]) & (photons.energy < band_edges[-1])
        n_used += int(used.sum())
        nearby = SortedPhotons(photons.select(used))
        for image, plane in zip(counts, planes):
            rows = nearby.near(plane.basis[2], plane.half_diagonal_deg)
            cells = _cells(plane, nearby.photons.select(rows), band_edges)
            np.add.at(image.reshape(-1), cells, np.float32(1))
    if n_all - n_used > _MAX_SHARE_OUTSIDE * n_all:
        warn(
            f"{n_all - n_used:,} of {n_all:,} photons lie outside "
            f"{band_edges[0]:g}-{band_edges[-1]:g} GeV, the bands of the model, and are not used"
        )
    return Patches(grid, index, counts, coverage, bands, n_used)


def _full_chunks(chunks, size):
    """Join small chunks of photons: each costs a pass over all patches."""
    held = []
    for photons in chunks:
        if held and sum(map(len, held)) + len(photons) > size:
            yield held[0] if len(held) == 1 else Photons.concatenate(held)
            held = []
        held.append(photons)
    if held:
        yield held[0] if len(held) == 1 else Photons.concatenate(held)
