"""Patches: photons binned on tangent planes as the network reads them, with their coverage."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import healpy
import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.maps.photons import CHUNK_PHOTONS, Photons
from astro_unetloc.sphere import (
    frame_rotation,
    healpix_centers,
    lonlat_from_vectors,
    vectors_from_lonlat,
)
from astro_unetloc.unet.model import shipped_bands


@dataclass(frozen=True)
class GridConfig:
    """Parameters of the patch grid.

    Attributes
    ----------
    nside : int
        Patch centres are the HEALPix pixel centres of this nside (RING, Galactic).
    patch_width_deg : float
        Width of the image that the network is trained on.
    patch_pixels : int
        Its pixels per side.
    read_pixels : int
        Pixels per side of the padded image that is read at inference.
    border_deg : float
        Candidates up to this far outside of the owned cell are kept until patches are merged.
    """

    nside: int = 8
    patch_width_deg: float = 10.0
    patch_pixels: int = 128
    read_pixels: int = 160
    border_deg: float = 0.3

    @property
    def pixel_deg(self):
        """Pixel scale at the patch centre in degrees."""
        return self.patch_width_deg / self.patch_pixels


# HEALPix orders of the observed area, of 0.46 and 0.06 deg, and the number of coarse cells below
# which all are resolved.
_AREA_ORDERS, _MAX_FINE = (7, 10), 3000
_CELL_REACH_DEG = 7.0  # no direction is farther than 5.84 deg from the patch that owns it
_MAX_STRADDLING_FACTOR = 1.6  # wider bins across a band edge of the model raise a warning


@dataclass(frozen=True)
class TangentPlane:
    """A gnomonic (TAN) image on the sky; pixels are 0-based with centres at integers."""

    lon_deg: float  # Galactic coordinates of the centre
    lat_deg: float
    n_pix: int  # per side
    pixel_deg: float  # pixel scale at the centre
    # angle from +y to Galactic north, clockwise: towards +x, which is west at an angle of 0
    rotation_deg: float = 0.0

    @cached_property
    def basis(self):
        """Rows: unit vectors along +x, +y and towards the centre, shape (3, 3)."""
        lon, lat, angle = np.radians([self.lon_deg, self.lat_deg, self.rotation_deg])
        east = np.array([-np.sin(lon), np.cos(lon), 0.0])
        north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
        center = vectors_from_lonlat(self.lon_deg, self.lat_deg)
        x_axis = np.sin(angle) * north - np.cos(angle) * east
        y_axis = np.cos(angle) * north + np.sin(angle) * east
        return np.stack([x_axis, y_axis, center])

    def pixel_from_vectors(self, vectors):
        """Pixel coordinates x, y of directions (..., 3); NaN beyond 90 deg from the centre."""
        # sums of products: BLAS takes nine times as long for a million vectors, and its last bit
        # depends on their number
        u, v, w = np.moveaxis(np.asarray(vectors, dtype=float), -1, 0)
        xi, eta, depth = (a * u + b * v + c * w for a, b, c in self.basis)
        depth = np.where(depth > 1e-9, depth, np.nan)
        scale = 1.0 / np.radians(self.pixel_deg)
        offset = (self.n_pix - 1) / 2
        return xi / depth * scale + offset, eta / depth * scale + offset

    def vectors_from_pixel(self, x, y):
        """Unit vectors (..., 3) of pixel coordinates."""
        scale, offset = np.radians(self.pixel_deg), (self.n_pix - 1) / 2
        xi, eta = ((np.asarray(pixel, dtype=float) - offset) * scale for pixel in (x, y))
        vectors = np.stack([a * xi + b * eta + c for a, b, c in self.basis.T], axis=-1)
        return vectors / np.sqrt(1 + xi**2 + eta**2)[..., None]

    @property
    def half_diagonal_deg(self):
        """Angle from the centre to the corners in degrees."""
        return float(np.degrees(np.arctan(np.radians(self.pixel_deg * self.n_pix / np.sqrt(2)))))

    @property
    def pixel_vectors(self):
        """Unit vectors of all pixel centres, shape (n_pix, n_pix, 3), indexed [y, x]."""
        y, x = np.mgrid[: self.n_pix, : self.n_pix].astype(float)
        return self.vectors_from_pixel(x, y)

    @property
    def wcs(self):
        """The same projection as an `astropy.wcs.WCS`."""
        from astropy.wcs import WCS

        angle = np.radians(self.rotation_deg)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
        wcs.wcs.crval = [self.lon_deg, self.lat_deg]
        wcs.wcs.crpix = [(self.n_pix + 1) / 2] * 2
        wcs.wcs.cdelt = [-self.pixel_deg, self.pixel_deg]
        wcs.wcs.lonpole = 180.0  # north is up at the very pole too, where FITS would turn it
        wcs.wcs.pc = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return wcs


@dataclass(frozen=True)
class PatchGrid:
    """The patches that tile the sky; the nearest centre owns a direction."""

    config: GridConfig = GridConfig()

    @property
    def n_patches(self):
        """Number of patches on the sky."""
        return 12 * self.config.nside**2

    @property
    def centers(self):
        """Unit vectors of the patch centres, shape (n_patches, 3)."""
        return _patch_centers(self.config.nside)

    def owner(self, vectors):
        """Index of the patch that owns each direction (..., 3)."""
        return _center_tree(self.config.nside).query(vectors)[1]

    def border_distance_deg(self, vectors, patch):
        """Distance in degrees of directions (..., 3) from the cell of a patch, negative inside."""
        # the distance to the farthest of the great circles that bound the cell
        _, nearest = _center_tree(self.config.nside).query(vectors, k=8)
        towards = self.centers[nearest] - self.centers[patch]
        norm = np.linalg.norm(towards, axis=-1)
        offset = np.einsum("...i,...ki->...k", vectors, towards)
        offset = np.where(norm > 0, offset / np.where(norm > 0, norm, 1), -1.0)  # 0: the own centre
        return np.degrees(np.arcsin(np.clip(offset.max(axis=-1), -1, 1)))

    def plane(self, patch):
        """The padded `TangentPlane` that is read for a patch."""
        lon, lat = lonlat_from_vectors(self.centers[patch])
        return TangentPlane(float(lon), float(lat), self.config.read_pixels, self.config.pixel_deg)


@lru_cache(maxsize=4)
def _patch_centers(nside):
    centers = healpix_centers(nside, np.arange(12 * nside**2), nest=False)
    centers.flags.writeable = False  # they are shared by all callers
    return centers


@lru_cache(maxsize=4)
def _center_tree(nside):
    return KDTree(_patch_centers(nside))


_SORT_NSIDE = 32  # HEALPix pixels that photons are sorted into to find those of a patch
# The sky is sampled at directions 0.23 deg apart; if none is covered, more finely.
_SAMPLE_NSIDES = (256, 1024)
# Patches this far outside of a region are read too: their candidates reach over their border by
# 0.3 deg and may be merged with one inside.
_REGION_MARGIN_DEG = 1.0
_EDGE_DEG = 0.5  # localized sources closer to the edge of the map are flagged
_MAX_FRACTION_OUTSIDE = 0.01  # of photons outside of the bands of a model; more raise a warning


@dataclass(frozen=True)
class Patches:
    """Images of n patches as the network reads them."""

    grid: PatchGrid
    index: np.ndarray  # (n,) numbers of the patches
    counts: np.ndarray  # (n, ny, nx, n_band) photons, float32
    coverage: np.ndarray  # (n, ny, nx, 1) 1 where the sky was observed, 0 where not, float32
    bands: np.ndarray  # (n_band, 4) float32, see `band_inputs`
    n_photons: int = 0  # of the whole map inside the bands

    def __len__(self):
        return len(self.index)

    def values_at(self, images, vectors):
        """Values (m,) of images (n, ny, nx) at directions (m, 3); NaN where not observed."""
        values = np.full(len(vectors), np.nan, np.float32)
        on_sky = np.flatnonzero(np.isfinite(vectors[:, 0]))
        rows = np.full(self.grid.n_patches, -1)
        rows[self.index] = np.arange(len(self))
        owner = rows[self.grid.owner(vectors[on_sky])] if len(on_sky) else on_sky
        order = np.argsort(owner, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
            if not len(rows) or (row := owner[rows[0]]) < 0:
                continue
            here = on_sky[rows]
            y, x, seen = self.pixel_of(row, vectors[here])
            values[here[seen]] = images[row, y[seen], x[seen]]
        return values

    def pixel_of(self, row, vectors):
        """Pixel y, x of directions (m, 3) in a patch, and whether it was observed."""
        plane = self.grid.plane(self.index[row])
        x, y = (np.rint(c).astype(int) for c in plane.pixel_from_vectors(vectors))
        return y, x, self.coverage[row, y, x, 0] > 0

    def observed_area(self, region=None):
        """The cells with an observed centre, in a region if given, as a `mocpy.MOC` (ICRS)."""
        from mocpy import MOC

        rotation, (coarse, fine) = frame_rotation("icrs"), _AREA_ORDERS
        n_children, n_cells = 4 ** (fine - coarse), 12 * 4**coarse

        def is_observed(order, cells):
            """Whether the centres of cells of an order were observed in the region."""
            vectors = healpix_centers(2**order, cells, nest=True) @ rotation.T
            seen = np.isfinite(self.values_at(self.coverage[..., 0], vectors))
            return seen if region is None else seen & region.covers(vectors)

        near, reach = [np.zeros(0, np.int64)], np.radians(_CELL_REACH_DEG)
        for center in self.grid.centers[self.index] @ rotation:
            near.append(healpy.query_disc(2**coarse, center, reach, inclusive=True, nest=True))
        cells, inside = np.unique(np.concatenate(near)), np.zeros(n_cells, bool)
        inside[cells] = is_observed(coarse, cells)
        around = healpy.get_all_neighbours(2**coarse, cells, nest=True)
        # A large area is resolved at its edge only.
        edge = (inside[around] != inside[cells]).any(axis=0) | (len(cells) < _MAX_FINE)
        parts = (cells[edge][:, None] * n_children + np.arange(n_children)).ravel()
        parts, whole = parts[is_observed(fine, parts)], cells[~edge & inside[cells]]
        order = np.repeat(np.array([coarse, fine], np.uint8), [len(whole), len(parts)])
        cells = np.concatenate([whole, parts]).astype(np.uint64)
        return MOC.from_healpix_cells(cells, order, max_depth=fine)


def band_inputs(band_edges, energy_edges, *, events=False):
    """What the network reads of its energy bands, an array (n_band, 4) of float32.

    Whether the band has data (0 or 1), log10 of its observed lower and upper energy in GeV, and the
    width in dex of the widest input bin that contributes (0 for events). Both edges are in GeV; for
    events ``energy_edges`` are the ends of their range.
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


def _warn_of_straddling_bins(band_edges, energy_edges):
    """Warn of bins of a map that lie across a band edge of the model and are wide."""
    low, high = energy_edges[:-1], energy_edges[1:]
    across = (band_edges > low[:, None] * 1.0001) & (band_edges < high[:, None] / 1.0001)
    wide = across.any(axis=1) & (high / low > _MAX_STRADDLING_FACTOR)
    if wide.any():
        names = ", ".join(f"{a:.4g}-{b:.4g}" for a, b in zip(low[wide], high[wide]))
        warn(
            f"the energy bins {names} GeV lie across the model's band edges; their photons draw "
            "energies from a power law; finer bins or events find more"
        )


def bin_photons(plane, photons, band_edges):
    """Image (ny, nx, n_band) of the photons on a `TangentPlane`, int64; bands in GeV."""
    shape = (plane.n_pix, plane.n_pix, len(band_edges) - 1)
    cells = _cells(plane, photons, band_edges)
    return np.bincount(cells, minlength=np.prod(shape)).reshape(shape)


def _cells(plane, photons, band_edges):
    """Index in the flat image (ny, nx, n_band) of each photon inside."""
    n, n_band = plane.n_pix, len(band_edges) - 1
    x, y = plane.pixel_from_vectors(photons.vectors)
    band = np.searchsorted(band_edges, photons.energy, side="right") - 1
    with np.errstate(invalid="ignore"):
        inside = (x >= -0.5) & (x < n - 0.5) & (y >= -0.5) & (y < n - 0.5)
    inside &= (band >= 0) & (band < n_band)
    ix, iy = (np.floor(c[inside] + 0.5).astype(np.int64) for c in (x, y))
    return (iy * n + ix) * n_band + band[inside]


class SortedPhotons:
    """Photons sorted by position, and their ``order`` before, for those near a direction."""

    def __init__(self, photons):
        pixel = healpy.vec2pix(_SORT_NSIDE, *photons.vectors.T, nest=False)
        # NumPy sorts 16-bit integers by radix, several times faster than by comparison
        self.order = np.argsort(pixel.astype(np.uint16), kind="stable")
        self.photons = photons.select(self.order)
        counts = np.bincount(pixel, minlength=12 * _SORT_NSIDE**2)
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def near(self, vector, radius_deg):
        """Indices into ``photons`` of those within a radius of a direction, and of a few more."""
        starts, stops = _pixel_runs(tuple(map(float, vector)), float(radius_deg))
        first, last = self._first[starts], self._first[stops]
        filled = last > first
        runs = [np.arange(a, b) for a, b in zip(first[filled], last[filled])]
        return np.concatenate(runs) if runs else np.zeros(0, dtype=int)


@lru_cache(maxsize=1024)
def _pixel_runs(vector, radius_deg):
    """First and last + 1 of the runs of RING pixels that cover a disc."""
    pixels = healpy.query_disc(
        _SORT_NSIDE, vector, np.radians(radius_deg), inclusive=True, fact=4, nest=False
    )
    breaks = np.flatnonzero(np.diff(pixels) > 1) + 1
    return pixels[np.append(0, breaks)], pixels[np.append(breaks, len(pixels)) - 1] + 1


def touched_patches(grid, covers, region=None):
    """Numbers (n,) of the patches whose owned cell holds a covered direction, and their coverage.

    ``covers`` is a function of unit vectors (..., 3). Patches just outside of ``region``, a
    `DiscFootprint`, are read too, so that the sources inside do not depend on it. The coverage
    (n, ny, nx, 1) of float32 is 1 where observed, else 0.
    """
    seen = _seen_directions(covers, region)
    index = np.unique(grid.owner(seen)) if len(seen) else np.zeros(0, dtype=int)
    n = grid.config.read_pixels
    coverage = np.zeros((len(index), n, n, 1), dtype=np.float32)
    for row, patch in enumerate(index):
        coverage[row, ..., 0] = covers(grid.plane(patch).pixel_vectors)
    return index, coverage


def _seen_directions(covers, region):
    """Unit vectors (n, 3) that sample the observed sky inside a region."""
    for nside in _SAMPLE_NSIDES:
        pixels = np.arange(12 * nside**2)
        if region is not None:
            radius = np.radians(min(region.radius_deg + _REGION_MARGIN_DEG, 180.0))
            pixels = healpy.query_disc(nside, region.center, radius, nest=True)
        blocks = np.split(pixels, range(2**20, len(pixels), 2**20))  # to save memory
        blocks = (healpix_centers(nside, block, nest=True) for block in blocks)
        seen = np.concatenate([vectors[covers(vectors)] for vectors in blocks])
        if len(seen):
            break
    return seen


def project(sky_map, band_edges, *, region=None, seed=0, progress=None):
    """Patches of a map: its photons binned on every patch that it touches.

    Parameters
    ----------
    sky_map : SkyMap
        The counts.
    band_edges : array-like (n_band + 1,)
        Edges of the model's bands in GeV; photons outside are dropped, with a warning if there are
        many. A map without energies inside them is an `InputError`.
    region : DiscFootprint, optional
        Part of the sky to read; all of it by default.
    seed : int
        Seed of the placement of counts inside their pixels.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    Patches
    """
    grid, band_edges = PatchGrid(), np.asarray(band_edges, dtype=float)
    bands = _bands_of(sky_map, band_edges)
    if sky_map.events is None:
        _warn_of_straddling_bins(band_edges, sky_map.energy_edges)
    index, coverage = touched_patches(grid, sky_map.covers, region)
    counts = np.zeros((*coverage.shape[:3], len(band_edges) - 1), dtype=np.float32)
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
    if n_all - n_used > _MAX_FRACTION_OUTSIDE * n_all:
        warn(
            f"{n_all - n_used:,} of {n_all:,} photons lie outside "
            f"{band_edges[0]:g}-{band_edges[-1]:g} GeV, the bands of the model, and are not used"
        )
    _warn_of_little(n_all, coverage)
    return Patches(grid, index, counts, coverage, bands, n_used)


def cover(sky_map, band_edges):
    """`Patches` of a map without images of its photons; the parameters are those of `project`."""
    grid, band_edges = PatchGrid(), np.asarray(band_edges, dtype=float)
    bands = _bands_of(sky_map, band_edges)
    index, coverage = touched_patches(grid, sky_map.covers)
    counts = np.zeros((len(index), 0, 0, len(band_edges) - 1), np.float32)
    _warn_of_little(sky_map.n_photons, coverage)
    return Patches(grid, index, counts, coverage, bands, sky_map.n_photons)


def _bands_of(sky_map, band_edges):
    """The `band_inputs` of a map, which must have energies inside the bands of a model."""
    bands = band_inputs(band_edges, sky_map.energy_edges, events=sky_map.events is not None)
    if not bands[:, 0].any():
        low, high = sky_map.energy_edges[[0, -1]]
        ends = f"{band_edges[0]:g}-{band_edges[-1]:g} GeV; got a map of {low:g}-{high:g} GeV"
        shipped = np.array([edges[[0, -1]] for edges in shipped_bands().values()])
        advice = "choose another model"
        if low >= shipped.max() or high <= shipped.min():
            advice = f"no shipped model: select photons of {shipped.min():g}-{shipped.max():g} GeV"
        raise InputError(f"expected energies within the model's range {ends}; {advice}")
    return bands


def _warn_of_little(n_photons, coverage):
    """Warn of a map without photons, or of one with nothing far from its edge."""
    if not n_photons:
        warn("the map holds no photons; nothing can be found in it")
    elif len(coverage) and not any(map(_has_inside, coverage[..., 0])):
        edge = f"every part of the map lies within {_EDGE_DEG:g} deg of its edge"
        warn(f"{edge}, where sources, scores and errors are less certain; use a wider map")


def _has_inside(coverage):
    """Whether a part of the coverage (ny, nx) of a patch lies far from the edge of the map."""
    reach = _EDGE_DEG / GridConfig().pixel_deg
    return coverage.all() or distance_transform_edt(coverage).max() > reach


def _full_chunks(chunks, size):
    """Join small chunks of photons, because each chunk costs a pass over all patches."""
    held = []
    for photons in chunks:
        if held and sum(map(len, held)) + len(photons) > size:
            yield Photons.concatenate(held)
            held = []
        held.append(photons)
    if held:
        yield Photons.concatenate(held)
