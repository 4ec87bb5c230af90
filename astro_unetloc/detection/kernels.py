"""Smooth background of a map, estimated from its own photons.

The density of the photons is a sum of kernel densities: round ones of several widths, and others
that are drawn out along the Galactic plane. Their factors, in zones of the sky, maximize the
Poisson likelihood of the photons, each of which is left out of the density at its own position: so
narrow kernels win only where the emission is structured. The likelihood includes the integral;
without it the widest kernel that reaches into the plane would win beside the plane.
"""

from dataclasses import dataclass

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
_BLOCK = 20_000  # points of a grid whose neighbours are found at once
_N_ROUNDS = 40  # of expectation maximization
_TINY = 1e-9  # per square degree
_LEAST = 0.5  # counts of background of a zone and band


def _zone(vectors):
    """Number (n,) of the zone of directions (n, 3)."""
    lon, lat = lonlat_from_vectors(vectors)
    latitude = np.digitize(np.abs(lat), _LATITUDES)
    longitude = np.digitize(np.abs((lon + 180) % 360 - 180), _LONGITUDES)
    split = latitude < len(_LATITUDES) - 1
    return latitude * (len(_LONGITUDES) + 1) + np.where(split, longitude, 0)


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
    alone: np.ndarray  # (m,), density at each photon that one count of its own gives
    in_zones: object  # sparse (n_zones, n_points), observed square degrees

    def densities(self, number):
        """Densities (m,) at the photons and integrals (n_zones,) of ``number`` (m,) of counts."""
        density = self.smooth(np.bincount(self.own, number, minlength=self.in_zones.shape[1]))
        at_photons = np.einsum("mk,mk->m", self.weights, density[self.points])
        return at_photons, self.in_zones @ density


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
    return _Kernel(lambda n: (matrix @ n) / norm, own, points, weights, alone.sum(axis=1), in_zones)


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
        lon, lat = lonlat_from_vectors(vectors)
        row = np.floor((lat + _PLANE_DEG) / _STEP_DEG[0]).astype(int) - rows[0]
        column = (np.floor(lon / _STEP_DEG[1]).astype(int) - columns[0]) % n_lon
        self.inside = (row >= 0) & (row < len(rows)) & (column < len(columns))
        self.own = np.where(self.inside, row * len(columns) + column, len(self.area))

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
        points, weights = self.own[:, None], self.inside[:, None].astype(np.float32)
        every = np.arange(len(self.area))[:, None]
        in_zones = _in_zones(self.centers, self.area, every, np.ones(every.shape), len(area))
        return _Kernel(lambda n: blurred(n) / norm, self.own, points, weights, alone, in_zones)


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
    """

    def __init__(self, vectors, band, number, n_band, sky, width_deg, template=None):
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
        self._alone = np.stack([kernel.alone for kernel in self._kernels])
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
        everything = self._mixture(weight, [])
        result = np.empty((self._n_band, len(weight)))
        for band in range(self._n_band):
            others = [everything, *self._given[band : band + 1]]
            result[band] = self._mixture(weight * (self._band == band), others)[0]
        return result

    def _mixture(self, weight, others):
        """Density (m,) and integrals (n_zones,) of the likeliest sum of kernels and others."""
        number = self._number * weight
        at, integrals = map(np.stack, zip(*(k.densities(number) for k in self._kernels)))
        at = np.maximum(np.vstack([at - self._alone * weight, *(a for a, _ in others)]), 0.0)
        integrals = np.vstack([integrals, *(i for _, i in others)])
        result, total = np.zeros(len(weight)), np.zeros(_N_ZONES)
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
            total[zone] = factor @ integrals[:, zone]
        return result, total
