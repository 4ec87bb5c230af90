"""Smooth background of a map, estimated from its own photons.

The density of the photons is a sum of kernel densities: round ones of several widths, and others
that are drawn out along the Galactic plane. Their factors, in zones of the sky, maximize the
Poisson likelihood of the photons, each of which is left out of the density at its own position: so
narrow kernels win only where the emission is structured. The likelihood includes the integral;
without it the widest kernel that reaches into the plane would win beside the plane.
"""

from dataclasses import dataclass
from typing import NamedTuple

import healpy
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array, vstack
from scipy.spatial import KDTree

from astro_unetloc.sphere import (
    chord,
    healpix_centers,
    lonlat_from_vectors,
    quick_tree,
    vectors_from_lonlat,
)

# Round kernels: their sigma in pixels of the HEALPix grid on which they are computed (the next grid
# has half the resolution), how many there are, and where they end, in sigma.
_SIGMA_PIXELS, _N_ROUND, _REACH = 1.4, 4, 3.0
# Kernels along the Galactic plane: sigma in latitude and longitude in degrees, and the least in
# those of the narrowest round kernel (as wide as the PSF, they take bright sources for emission);
# the latitude up to which there are any, and the steps of their grid.
_FLAT_DEG = ((0.25, 0.4), (0.3, 1.2), (0.4, 5.0), (0.5, 20.0))
_LEAST_FLAT = (0.4, 0.65)
_PLANE_DEG, _STEP_DEG = 15.0, (0.1, 0.25)
# Edges of the zones in absolute latitude and, below the last but one, in absolute longitude.
_LATITUDES, _LONGITUDES = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 40.0), (30.0, 70.0, 120.0)
_N_ZONES = (len(_LATITUDES) + 1) * (len(_LONGITUDES) + 1)
_HIGH = len(_LATITUDES) - 1  # first row of zones that are not split in longitude
# Zones are blended over this part of their latitude and of the first edge, at most so many degrees.
_BLENDED, _MAX_BLENDED_DEG = 0.2, 2.0
_BLOCK = 20_000  # points of a grid whose neighbours are found at once
_N_ROUNDS = 40  # of expectation maximization
_TINY = 1e-9  # per square degree
_SAMPLE_NSIDE = 256  # 0.23 deg: observed pixels are looked for on this grid first
_LEAST = 0.5  # counts of background of a zone and band


def _zone(vectors):
    """Number (n,) of the zone of directions (n, 3)."""
    lon, lat = lonlat_from_vectors(vectors)
    latitude = np.digitize(np.abs(lat), _LATITUDES)
    longitude = np.digitize(np.abs((lon + 180) % 360 - 180), _LONGITUDES)
    split = latitude < len(_LATITUDES) - 1
    return latitude * (len(_LONGITUDES) + 1) + np.where(split, longitude, 0)


def _around_zone(vectors):
    """Zones (n,) of directions and of others north and south, so that borders can be blended."""
    lon, lat = lonlat_from_vectors(vectors)
    steps = (0.0, -1.0, -0.5, 0.5, 1.0)
    reach = np.minimum(_BLENDED * (np.abs(lat) + _LATITUDES[0]), _MAX_BLENDED_DEG)
    return [_zone(vectors_from_lonlat(lon, np.clip(lat + s * reach, -90, 90))) for s in steps]


def _resolution_deg(nside):
    """Square root of the solid angle of a HEALPix pixel."""
    return np.degrees(healpy.nside2resol(nside))


def _in_zones(samples, area, points, weights, n_points):
    """Sparse (n_zones, n_points): area of each zone by the points that its samples depend on."""
    zone = np.repeat(_zone(samples), points.shape[1])
    values = (weights * area[:, None]).ravel()
    return csr_array((values, (zone, points.ravel())), (_N_ZONES, n_points))


@dataclass(frozen=True, eq=False)
class _Kernel:
    """One kernel on the points of a grid, and the photons on it."""

    smooth: object  # function of the counts at the points that returns their densities there
    own: np.ndarray  # (m,), point of each photon
    points: np.ndarray  # (m, k), points between which the density at a photon is interpolated
    weights: np.ndarray  # (m, k), their weights
    between: object  # function of directions (n, 3): the same points and weights of these
    alone: np.ndarray  # (m,), density at each photon that one count of its own gives
    in_zones: object  # sparse (n_zones, n_points), observed square degrees

    def densities(self, number):
        """Densities at the points, at the photons (m,), and integrals (n_zones,) of counts (m,)."""
        density = self.smooth(np.bincount(self.own, number, minlength=self.in_zones.shape[1]))
        at_photons = np.einsum("mk,mk->m", self.weights, density[self.points])
        return density, at_photons, self.in_zones @ density


def _round_kernel(vectors, nside, sky, samples, sample_area):
    """`_Kernel` of a Gaussian on a HEALPix grid; ``sky`` are the observed pixels of a finer one."""
    fine_nside, fine_pixels = sky
    sigma = np.radians(_SIGMA_PIXELS * _resolution_deg(nside))
    own = healpy.vec2pix(nside, *vectors.T, nest=True)
    n_fine = np.bincount(fine_pixels // (fine_nside // nside) ** 2, minlength=12 * nside**2)
    pixels = np.flatnonzero(n_fine)
    area = n_fine[pixels] * healpy.nside2pixarea(fine_nside, degrees=True)
    centers = healpix_centers(nside, pixels, nest=True)
    tree = quick_tree(centers)
    reach, blocks = chord(np.degrees(_REACH * sigma)), []
    for some in np.array_split(centers, len(centers) // _BLOCK + 1):
        pairs = quick_tree(some).sparse_distance_matrix(tree, reach, output_type="ndarray")
        value = np.exp(-0.5 * (pairs["v"] / sigma) ** 2).astype(np.float32)
        where = pairs["i"].astype(np.int32), pairs["j"].astype(np.int32)
        blocks.append(csr_array((value, where), (len(some), len(pixels))))
    matrix = vstack(blocks, format="csr")
    norm = matrix @ area  # a kernel at the edge has as many counts as one inside

    def between(directions):
        """Points (n, 4) between which the density is interpolated, and their weights."""
        lonlat = lonlat_from_vectors(directions)
        near, weights = healpy.get_interp_weights(nside, *lonlat, nest=True, lonlat=True)
        points = np.minimum(np.searchsorted(pixels, near.T), len(pixels) - 1).astype(np.int32)
        weights = np.where(pixels[points] == near.T, weights.T, 0.0)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        return points, weights.astype(np.float32)

    points, weights = between(vectors)
    own = np.searchsorted(pixels, own)
    away = np.linalg.norm(centers[points] - centers[own][:, None], axis=-1)
    alone = weights * np.exp(-0.5 * (away / sigma) ** 2) * (away <= reach) / norm[points]
    in_zones = _in_zones(samples, sample_area, *between(samples), len(pixels))
    others = points, weights, between, alone.sum(axis=1), in_zones
    return _Kernel(lambda n: (matrix @ n) / norm, own, *others)


class _PlaneGrid:
    """Grid of longitude and latitude along the Galactic plane; one more point is elsewhere."""

    @classmethod
    def of(cls, vectors, sky):
        """The grid of photons at vectors (m, 3); None if nothing on it is observed."""
        n_lat, n_lon = (round(n / step) for n, step in zip((2 * _PLANE_DEG, 360.0), _STEP_DEG))
        lat = (np.arange(n_lat) + 0.5) * _STEP_DEG[0] - _PLANE_DEG
        lon = (np.arange(n_lon) + 0.5) * _STEP_DEG[1]
        centers = vectors_from_lonlat(lon, lat[:, None])
        pixel = healpy.vec2pix(sky[0], *np.moveaxis(centers, -1, 0), nest=True)
        seen = np.isin(pixel, sky[1])
        return cls(vectors, centers, seen) if seen.any() else None

    def __init__(self, vectors, centers, seen):
        rows, columns, n_lon = _span(seen.any(axis=1)), _around(seen.any(axis=0)), seen.shape[1]
        self.shape = len(rows), len(columns)
        self.mode = ("constant", "wrap") if len(columns) == n_lon else "constant"
        self.centers, seen = (x[rows][:, columns] for x in (centers, seen))
        self.centers, seen = self.centers.reshape(-1, 3), seen.ravel()
        self.area = seen * np.prod(_STEP_DEG) * np.sqrt(1 - self.centers[:, 2] ** 2)
        self._first, self._n_lon = (rows[0], columns[0]), n_lon
        points, inside = self.between(vectors)
        self.own, self.inside = points[:, 0], inside[:, 0] > 0

    def between(self, directions):
        """The point (n, 1) of each direction, and a weight of one, zero elsewhere."""
        lon, lat = lonlat_from_vectors(directions)
        row = np.floor((lat + _PLANE_DEG) / _STEP_DEG[0]).astype(int) - self._first[0]
        column = np.floor(lon / _STEP_DEG[1]).astype(int) - self._first[1]
        column %= self._n_lon
        inside = (row >= 0) & (row < self.shape[0]) & (column < self.shape[1])
        points = np.where(inside, row * self.shape[1] + column, len(self.area))
        return points[:, None], inside[:, None].astype(np.float32)

    def kernel(self, sigma_deg):
        """`_Kernel` of a Gaussian; photons that lie elsewhere have no density."""
        sigma = np.divide(sigma_deg, _STEP_DEG)
        how = {"sigma": sigma, "mode": self.mode, "truncate": _REACH}

        def blurred(values):
            image = gaussian_filter(values[:-1].reshape(self.shape), **how)
            return np.append(image.ravel(), 0.0)

        area = np.append(self.area, 0.0)
        norm = np.maximum(blurred(area), 1e-3 * np.prod(_STEP_DEG))
        peak = np.prod([_peak(width) for width in sigma])
        alone = np.where(self.inside, peak / norm[self.own], 0.0)
        photons = self.own, self.own[:, None], self.inside[:, None].astype(np.float32)
        every = np.arange(len(self.area))[:, None]
        in_zones = _in_zones(self.centers, self.area, every, np.ones(every.shape), len(area))
        others = self.between, alone, in_zones
        return _Kernel(lambda n: blurred(n) / norm, *photons, *others)


def _peak(sigma):
    """Largest value of the response of a Gaussian filter to a single one."""
    reach = int(_REACH * sigma + 0.5)
    return gaussian_filter(np.eye(1, 2 * reach + 1, reach)[0], sigma, truncate=_REACH)[reach]


def _span(seen):
    """Indices from the first true value to the last."""
    rows = np.flatnonzero(seen)
    return np.arange(rows[0], rows[-1] + 1)


def _around(seen):
    """Indices of a circle from the first true value behind the longest gap to the last."""
    rows, n = np.flatnonzero(seen), len(seen)
    gaps = np.diff(rows, append=rows[0] + n)
    first = rows[(np.argmax(gaps) + 1) % len(rows)]
    return (first + np.arange(n - gaps.max() + 1)) % n


def nside_of(size_deg):
    """Nside of HEALPix pixels no larger than a size in degrees."""
    size = np.degrees(healpy.nside2resol(1)) / np.asarray(size_deg)
    return (2 ** np.ceil(np.log2(np.maximum(size, 1.0)))).astype(np.int64)


def observed_cells(sky_map, vectors, width_deg):
    """Nside, and observed HEALPix cells (NESTED) of at most half a width in degrees."""
    nside = max(int(nside_of(width_deg / 2)), 64)
    start = min(nside, _SAMPLE_NSIDE)
    pixels = np.arange(12 * start**2)
    while True:
        step = pixels[sky_map.covers(healpix_centers(start, pixels, nest=True))]
        pixels = np.union1d(step, healpy.vec2pix(start, *vectors.T, nest=True))
        if start == nside:
            return nside, pixels
        around = healpy.get_all_neighbours(start, pixels, nest=True)
        pixels = np.union1d(pixels, around[around >= 0])
        start *= 2
        pixels = (4 * pixels[:, None] + np.arange(4)).ravel()


class _Mixture(NamedTuple):
    """A sum of densities per square degree."""

    at_photons: np.ndarray  # (m,), counts of their own left out
    in_zones: np.ndarray  # (n_zones,), integrals
    factors: np.ndarray  # (k, n_zones), of the kernels and then of others
    on_grids: tuple  # of each kernel, at its points


class SmoothBackground:
    """Background of n_band bands at the photons of a map.

    Parameters
    ----------
    vectors : ndarray (m, 3)
        Photons, Galactic unit vectors.
    band, number : ndarray (m,)
        Energy band and number of counts at each of them.
    n_band : int
        Number of bands, with or without photons.
    sky : tuple of int and ndarray
        Nside of a HEALPix grid and its observed pixels (NESTED), those of all photons among them.
    width_deg : float
        About the sigma of the narrowest round kernel; the others are wider by factors of two.
    template : callable, optional
        Takes directions (n, 3), returns expected counts (n_band, n) per square degree, NaN where
        unknown: a model of the background, one more kernel.
    left_out : float
        Counts of each photon above 20 deg of latitude that are left out of the density at its
        position; with more than one of them wide kernels win, which hold more counts.
    """

    def __init__(self, vectors, band, number, n_band, sky, width_deg, template=None, left_out=1.0):
        self._band, self._number, self._n_band = band, number, n_band
        nside, pixels = sky
        coarse, n_parts = np.unique(pixels // 4, return_counts=True)
        samples = healpix_centers(nside // 2, coarse, nest=True)
        areas = n_parts * healpy.nside2pixarea(nside, degrees=True)
        near = np.abs(lonlat_from_vectors(samples)[1]) < _PLANE_DEG
        plane = _PlaneGrid.of(vectors, sky) if near.any() else None
        if plane is not None:  # whose edges of zones are those of the steps
            used = plane.area > 0
            samples = np.concatenate([samples[~near], plane.centers[used]])
            areas = np.concatenate([areas[~near], plane.area[used]])
        self._zone, zones = _zone(vectors), _zone(samples)
        self._least = _LEAST / np.maximum(np.bincount(zones, areas, minlength=_N_ZONES), 1e-9)
        lost = np.flatnonzero(~np.isin(self._zone, zones))  # in a corner of a map
        self._zone[lost] = zones[KDTree(samples).query(vectors[lost])[1]] if len(lost) else 0
        first = np.log2(_SIGMA_PIXELS * _resolution_deg(1) / width_deg)
        sides = 2 ** (int(np.rint(first)) - np.arange(_N_ROUND))
        sides = np.unique(np.clip(sides, 4, nside // 2))
        self._kernels = [_round_kernel(vectors, n, sky, samples, areas) for n in sides]
        if plane is not None:
            widths = np.unique(np.maximum(_FLAT_DEG, np.multiply(_LEAST_FLAT, width_deg)), axis=0)
            self._kernels += [plane.kernel(sigma_deg) for sigma_deg in widths]
        left_out = np.where(self._zone // (len(_LONGITUDES) + 1) >= _HIGH, left_out, 1.0)
        self._alone = left_out * np.stack([kernel.alone for kernel in self._kernels])
        self._given = []
        if template is not None:
            at_photons, at_samples = map(np.nan_to_num, (template(vectors), template(samples)))
            whole = [np.bincount(zones, row * areas, minlength=_N_ZONES) for row in at_samples]
            self._given = list(zip(at_photons, whole))

    def densities(self, weight):
        """Expected counts (n_band, m) per square degree of all bands at the photons.

        ``weight`` (m,) is the probability that a photon is background. One count of each photon
        is left out of the density of its own band. The emission of all bands is one more kernel of
        each, which counts where a band has few photons.
        """
        return np.stack([mixture.at_photons for mixture in self._mixtures(weight)[1]])

    def surface(self, weight):
        """Function of directions (n, 3): what `densities` returns, without leaving out counts."""
        everything, in_bands = self._mixtures(weight)
        known = everything.factors.any(axis=0)

        def density(directions):
            """Expected counts per square degree and band."""
            places, zones = [k.between(directions) for k in self._kernels], _around_zone(directions)
            zones = [np.where(known[zone], zone, zones[0]) for zone in zones]

            def of_mixture(mixture, *others):
                """Those of a band, of all its kernels."""
                pairs = zip(places, mixture.on_grids)
                parts = [np.einsum("nk,nk->n", w, grid[points]) for (points, w), grid in pairs]
                factors = np.mean([mixture.factors[:, zone] for zone in zones], axis=0)
                total = sum(factor * part for factor, part in zip(factors, [*parts, *others]))
                return np.maximum(total, self._least[zones[0]])

            of_all = of_mixture(everything)
            return np.stack([of_mixture(mixture, of_all) for mixture in in_bands])

        return density

    def _mixtures(self, weight):
        """`_Mixture` of all bands together, and that of each band."""
        everything, bands = self._mixture(weight, []), range(self._n_band)
        of_all = everything.at_photons, everything.in_zones
        return everything, [
            self._mixture(weight * (self._band == band), [of_all, *self._given[band : band + 1]])
            for band in bands
        ]

    def _mixture(self, weight, others):
        """`_Mixture` that is the likeliest; ``others`` are densities (m,) and integrals."""
        number = self._number * weight
        on_grids, at, integrals = zip(*(kernel.densities(number) for kernel in self._kernels))
        at = np.stack(at) - self._alone * weight
        at = np.maximum(np.vstack([at, *(a for a, _ in others)]), 0.0)
        integrals = np.vstack([*integrals, *(i for _, i in others)])
        result, factors = np.zeros(len(weight)), np.zeros(integrals.shape)
        for zone in np.unique(self._zone):
            here, integral = self._zone == zone, integrals[:, zone]
            known = integral > _TINY
            integral = np.where(known, integral, 1.0)
            used = here & (number > 0)
            values, n = at[:, used] + _TINY, number[used]
            factor = known * n.sum() / integral / max(known.sum(), 1)
            for _ in range(_N_ROUNDS):
                factor *= (values @ (n / np.maximum(factor @ values, 1e-300))) / integral
            result[here] = np.maximum(factor @ at[:, here], self._least[zone])
            factors[:, zone] = factor
        return _Mixture(result, (factors * integrals).sum(axis=0), factors, on_grids)


# Below a smooth background: width of the narrowest kernel, at least so many degrees, 68 % radii of
# the PSF and pixels; part of it in which the counts of a map are joined; cells (nside) in which the
# first density is that of the counts that sources do not explain. Two counts of each photon are
# left out at high latitudes, see `SmoothBackground`: with one the narrow kernels took so much noise
# that the significance of the residual of the sky of seed 1000 had a width of 0.87, with two 0.98.
_WIDTHS, _LEFT_OUT, _JOINED, _NEAR_NSIDE = (0.5, 0.3, 1.4), 2.0, 0.25, 16
_MANY = 100.0  # counts per square degree above which the narrowest kernel is narrower
_N_UPDATES, _N_FACTOR, _CHUNK = 2, 5, 100_000


def smooth_background(sky_map, of_sources, psf_deg):
    """Expected counts (n_energy, n_pixels), float32, of all but the sources of a map of pixels.

    ``of_sources`` (n_energy, n_pixels) are expected counts of sources, ``psf_deg`` is the 68 %
    radius of the PSF. NaN where nothing was observed.
    """
    pixels, planes = sky_map.pixels, sky_map.planes
    index = np.arange(pixels.n_pixels)
    centers, area = pixels.centers(index), np.nan_to_num(pixels.area_deg2(index))
    seen = np.flatnonzero(np.isfinite(centers[:, 0]) & ~np.isnan(planes).all(axis=0))
    density = np.nansum(planes, dtype=float) / max(area[seen].sum(), _TINY)
    scale = np.sqrt(_MANY / max(density, _MANY))
    width_deg = max(np.multiply(_WIDTHS, (scale, psf_deg, pixels.pixel_size_deg)))
    nside = nside_of(_JOINED * width_deg)
    cell, vectors = np.arange(len(seen)), centers[seen]
    if _resolution_deg(nside) > pixels.pixel_size_deg:
        used, cell = np.unique(healpy.vec2pix(nside, *vectors.T, nest=True), return_inverse=True)
        vectors = healpix_centers(nside, used, nest=True)
    near = np.unique(healpy.vec2pix(_NEAR_NSIDE, *vectors.T), return_inverse=True)[1]
    in_cell, parts = np.bincount(cell, area[seen]), []
    for plane, source in zip(planes, of_sources):
        found, known = (np.bincount(cell, np.nan_to_num(v[seen])) for v in (plane, source))
        start = np.maximum(np.bincount(near, found - known), _LEAST) / np.bincount(near, in_cell)
        rows = np.flatnonzero(found)
        parts.append((rows, found[rows], (known / in_cell)[rows], start[near[rows]]))
    rows, number, known, density = map(np.concatenate, zip(*parts))
    result = np.full(planes.shape, np.nan, np.float32)
    if not len(rows):
        result[:, seen] = 0.0
        return result
    band = np.repeat(np.arange(len(planes)), [len(part[0]) for part in parts])
    photons, sky = (vectors[rows], band, number), observed_cells(sky_map, vectors[rows], width_deg)
    kernels = SmoothBackground(*photons, len(planes), sky, width_deg, left_out=_LEFT_OUT)
    weight = density / (density + known)
    for _ in range(_N_UPDATES - 1):
        density = kernels.densities(weight)[band, np.arange(len(band))]
        weight = density / (density + known)
    surface = kernels.surface(weight)
    for some in np.array_split(seen, len(seen) // _CHUNK + 1):
        result[:, some] = surface(centers[some]) * area[some]
    for plane, found, source in zip(result, planes, of_sources):
        here = np.isfinite(plane) & np.isfinite(found)
        plane[here] *= _likeliest_factor(found[here], plane[here], source[here])
    return result


def _likeliest_factor(counts, background, source):
    """Factor of the expected background with the largest likelihood of counts (n,)."""
    factor, total = 1.0, background.sum(dtype=float)
    for _ in range(_N_FACTOR):
        npred = np.maximum(factor * background + source, _TINY)
        factor *= (counts * background / npred).sum(dtype=float) / max(total, _TINY)
    return max(factor, _TINY)
