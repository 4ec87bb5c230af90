"""The observed sky: `SkyMap`, and its pixels as a view of the geometry of gammapy.

A pixel has an ``index``, its position in the flat array of one map, and a ``key``, an integer that
is the same in every map cut out of one grid: photons are placed by the key.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import healpy
import numpy as np
from gammapy.maps import HpxGeom, Map, MapAxis

from astro_unetloc.cubes import healpix_numbers, period_pix, with_axes
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.exposure import blurred_density
from astro_unetloc.maps.photons import CHUNK_PHOTONS, Photons, place_counts
from astro_unetloc.sphere import (
    frame_rotation,
    healpix_centers,
    lonlat_from_vectors,
    rotate,
    vectors_from_lonlat,
)

_FRAMES = ("galactic", "icrs", "fk5")
_KEY_STEPS = 1024  # per pixel: cut-outs shift the reference pixel by whole pixels
_MAX_ORDER = 29  # of HEALPix in 64 bits
_MAX_SUBORDER = 20  # 4**20 sub-pixels per pixel: 0.003 arcsec at nside 64


def pixels_of(geom):
    """Pixels of the sky in a gammapy `WcsGeom` or `HpxGeom`, whatever its other axes."""
    npix, explicit = np.ravel(geom.npix), geom.is_hpx and geom.region == "explicit"
    if not (geom.is_regular or explicit and np.ptp(npix) == 0):
        raise InputError("the same pixels at all energies were expected; got others; rebin the map")
    equinox = np.nan if geom.is_hpx else geom.wcs.wcs.equinox
    if geom.frame not in _FRAMES or geom.frame == "fk5" and abs(equinox - 2000) > 0:
        raise InputError(
            "coordinates must be Galactic, ICRS or FK5 J2000; got "
            f"{geom.frame.upper()} {equinox:g}; reproject the map"
        )
    return HealpixPixels(geom) if geom.is_hpx else WcsPixels(geom)


class WcsPixels:
    """Pixels of an image of any celestial projection; ``index = y * nx + x``."""

    is_image = True

    def __init__(self, geom):
        self.geom = image = geom.to_image()
        self.wcs, self.shape, self.frame = image.wcs, image.data_shape, image.frame
        self._period_pix = period_pix(self.wcs, self.shape[1])

    @property
    def n_pixels(self):
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

    @property
    def pixel_size_deg(self):
        """Square root of the solid angle of a pixel at the reference pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.wcs.pixel_scale_matrix))))

    def index(self, vectors):
        """Pixel of each direction (..., 3); -1 outside the image."""
        vectors = np.asarray(vectors, dtype=float)
        lon, lat = lonlat_from_vectors(rotate(vectors, frame_rotation(self.frame).T))
        x, y = self.wcs.wcs_world2pix(lon.ravel(), lat.ravel(), 0)
        ny, nx = self.shape
        if self._period_pix:
            x = (x + 0.5) % self._period_pix - 0.5  # of several repetitions the lowest
            x = np.where(x >= self._period_pix - 0.5, -0.5, x)  # % rounds up to its divisor
        # 90 deg from the centre of a TAN image pixels are infinite or beyond the integers
        x, y = (np.clip(np.nan_to_num(pixel, nan=-9.0), -9.0, 1e9) for pixel in (x, y))
        column, row = np.floor(x + 0.5), np.floor(y + 0.5)
        # the far edges belong to the image: a pole may lie there
        column = np.where(x == nx - 0.5, nx - 1, column).astype(np.int64)
        row = np.where(y == ny - 0.5, ny - 1, row).astype(np.int64)
        inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
        return np.where(inside, row * nx + column, -1).reshape(vectors.shape[:-1])

    def key(self, index):
        """Identity of pixels that survives cutting the image, int64."""
        row, column = self._row_column(index)
        x_ref, y_ref = np.rint((1 - self.wcs.wcs.crpix) * _KEY_STEPS).astype(np.int64)
        return ((column * _KEY_STEPS + x_ref) << 32) ^ (row * _KEY_STEPS + y_ref)

    def points(self, index, u, v):
        """Unit vectors (n, 3) of points at fractions u, v inside pixels.

        A point beyond the limb of a projection is replaced by one of its pixel on the sky, or NaN.
        """
        row, column = self._row_column(index)
        vectors = self._vectors(column + u - 0.5, row + v - 0.5)
        off = np.isnan(vectors[..., 0])
        if off.any():
            vectors[off] = self._inside(column[off], row[off])
        return vectors

    def centers(self, index):
        """Unit vectors (n, 3) of pixel centres; NaN where a centre is off the sky."""
        row, column = self._row_column(index)
        return self._vectors(column.astype(float), row.astype(float))

    def on_sky(self, index):
        """Unit vectors (n, 3) of the centres or the points on the sky nearest to them; else NaN."""
        half = np.full(len(index), 0.5)
        return self.points(index, half, half)

    def parts(self, index, n_split):
        """Yield the unit vectors (n, 3) of the middles of n_split**2 parts of each pixel."""
        middles = (np.arange(n_split) + 0.5) / n_split
        for v, u in product(middles, middles):
            yield self.points(index, np.full(len(index), u), np.full(len(index), v))

    def area_deg2(self, index):
        """Solid angles (n,) of pixels in square degrees."""
        half = np.full(len(index), 0.5)
        low, high = half - 0.25, half + 0.25
        across = self.points(index, high, half) - self.points(index, low, half)
        along = self.points(index, half, high) - self.points(index, half, low)
        return 4 * np.degrees(np.degrees(np.linalg.norm(np.cross(across, along), axis=1)))

    def _row_column(self, index):
        return np.divmod(np.asarray(index, dtype=np.int64), self.shape[1])

    def _inside(self, column, row):
        """Of 25 points in each pixel the one on the sky nearest to its centre; NaN if none is."""
        steps = np.linspace(-0.49, 0.49, 5)
        dx, dy = (step.ravel() for step in np.meshgrid(steps, steps))
        order = np.argsort(np.hypot(dx, dy), kind="stable")
        vectors = self._vectors(column[:, None] + dx[order], row[:, None] + dy[order])
        first = np.argmax(~np.isnan(vectors[..., 0]), axis=1)
        return vectors[np.arange(len(vectors)), first]

    def _vectors(self, x, y):
        if self._period_pix:
            offset = x + 1 - self.wcs.wcs.crpix[0]
            x = x - self._period_pix * np.rint(offset / self._period_pix)
        lon, lat = self.wcs.wcs_pix2world(np.ravel(x), np.ravel(y), 0)
        lon, lat = np.reshape(lon, np.shape(x)), np.reshape(lat, np.shape(x))
        return rotate(vectors_from_lonlat(lon, lat), frame_rotation(self.frame))


class HealpixPixels:
    """HEALPix pixels, the whole sphere or a part of it; methods as those of `WcsPixels`."""

    is_image = False

    def __init__(self, geom):
        self.geom, self.nest, self.frame = with_axes(geom, []), geom.nest, geom.frame
        self.nside = int(np.ravel(geom.nside)[0])
        if self.nside & (self.nside - 1) or self.nside > 2**_MAX_ORDER:
            raise InputError(f"HEALPix nside must be a power of two; got {self.nside}; rebin")
        self.numbers = healpix_numbers(self.geom)  # None for the whole sphere

    @property
    def n_pixels(self):
        """Number of pixels of the map."""
        return 12 * self.nside**2 if self.numbers is None else len(self.numbers)

    @property
    def pixel_size_deg(self):
        """Square root of the solid angle of a pixel."""
        return float(np.degrees(np.sqrt(np.pi / 3) / self.nside))

    def index(self, vectors):
        """Pixel of each direction (..., 3); -1 where the map has no pixel."""
        vectors = rotate(np.asarray(vectors, dtype=float), frame_rotation(self.frame).T)
        number = healpy.vec2pix(self.nside, *np.moveaxis(vectors, -1, 0), nest=self.nest)
        number = np.asarray(number, dtype=np.int64)
        if self.numbers is None:
            return number
        index = np.minimum(np.searchsorted(self.numbers, number), len(self.numbers) - 1)
        return np.where(self.numbers[index] == number, index, -1)

    def key(self, index):
        """Identity of pixels whatever the order and the coverage of the map, int64."""
        return self._nested(index) + 12 * self.nside**2  # differs for every nside

    def points(self, index, u, v):
        """Unit vectors (n, 3) of points inside pixels; ``v`` is not used."""
        # u selects one of 4**20 nested sub-pixels, which are equal in area
        suborder = min(_MAX_SUBORDER, _MAX_ORDER - self.nside.bit_length() + 1)
        inside = (np.asarray(u) * 4.0**suborder).astype(np.int64)
        number = (self._nested(index) << (2 * suborder)) + inside
        vectors = healpix_centers(self.nside << suborder, number, nest=True)
        return rotate(vectors, frame_rotation(self.frame))

    def centers(self, index):
        """Unit vectors (n, 3) of pixel centres."""
        vectors = healpix_centers(self.nside, self._numbers(index), nest=self.nest)
        return rotate(vectors, frame_rotation(self.frame))

    on_sky = centers

    def parts(self, index, n_split):
        """Yield the unit vectors (n, 3) of the middles of n_split**2 parts of each pixel."""
        for k in range(n_split**2):
            # nested digits k 0 3 3 3 ...: the middle of sub-pixel k
            u = np.full(len(index), (k + 0.25 - 1e-9) / n_split**2)
            yield self.points(index, u, u)

    def area_deg2(self, index):
        """Solid angles (n,) of pixels in square degrees."""
        return np.full(len(index), self.pixel_size_deg**2)

    def _numbers(self, index):
        index = np.asarray(index, dtype=np.int64)
        return index if self.numbers is None else self.numbers[index]

    def _nested(self, index):
        number = self._numbers(index)
        return number if self.nest else healpy.ring2nest(self.nside, number)


# Number of observed points of a map, about, and HEALPix pixels that they are for events.
_N_POINTS, _POINTS_NSIDE = 20_000, 64


@dataclass(frozen=True, eq=False)
class SkyMap:
    """Counts on the sky, as pixels or as events."""

    # whole counts with one energy axis, NaN where not observed; or the photons of an event list
    counts: Map | None = None
    events: Photons | None = None
    footprint: object = None  # part of the sky that events cover, such as a `DiscFootprint`
    # (n_energy + 1,) in GeV, by default of the counts; for events the two ends of their range
    energy_edges: np.ndarray | None = None
    energy_assumed: bool = False  # whether the input does not state its energies
    exposure: object = None  # SurveyExposure, MapExposure or None
    background: Map | None = None  # expected counts per pixel and energy bin
    psf: object = None  # KingPSF, TablePSF, PSFMap, PSFKernel; None is the built-in one
    good_times: np.ndarray | None = None  # (m, 2) start and stop in seconds, of events
    name: str = ""  # of the file or object
    checksum: str = ""  # sha256 of the file
    header: dict = field(default_factory=dict)  # DSS cuts, telescope and dates of the input
    given: dict = field(default_factory=dict)  # the options of `read_map`, as they were given

    def __post_init__(self):
        if (self.counts is None) == (self.events is None):
            raise InputError("a SkyMap must have either counts or events; got both or neither")
        if self.energy_edges is None and self.counts is not None:
            # an axis returns 10 GeV as 10.000000000000002 or 9.999999999999998
            edges = self.counts.geom.axes[0].edges.to_value("GeV")
            object.__setattr__(self, "energy_edges", np.array([float(f"{e:.12g}") for e in edges]))

    def __repr__(self):
        low, high = self.energy_edges[[0, -1]]
        kind = "events" if self.counts is None else f"{self.pixels.n_pixels} pixels"
        return f"<SkyMap {self.name}: {self.n_photons} photons of {low:.4g}-{high:.4g} GeV, {kind}>"

    @cached_property
    def pixels(self):
        """`WcsPixels` or `HealpixPixels` of the counts; None for events."""
        return None if self.counts is None else pixels_of(self.counts.geom)

    @property
    def planes(self):
        """Counts as an array (n_energy, n_pixels)."""
        return self.counts.data.reshape(-1, self.pixels.n_pixels)

    @property
    def n_photons(self):
        """Number of photons."""
        counts = self.counts
        return len(self.events) if counts is None else int(np.nansum(counts.data, dtype=float))

    @property
    def pixel_size_deg(self):
        """Square root of the solid angle of a pixel; 0 for events."""
        return 0.0 if self.counts is None else self.pixels.pixel_size_deg

    def photons(self, seed, max_photons=CHUNK_PHOTONS):
        """Yield all `Photons`, at most ``max_photons`` at once; counts by `place_counts`."""
        if self.events is None:
            yield from place_counts(
                self.pixels, self.planes, self.energy_edges, seed=seed, max_photons=max_photons
            )
            return
        for start in range(0, len(self.events), max_photons):
            yield self.events.select(slice(start, start + max_photons))

    def covers(self, vectors):
        """Whether directions (..., 3), Galactic unit vectors, were observed in any energy bin."""
        if self.events is not None:
            return self.footprint.covers(vectors)
        index = self.pixels.index(vectors)
        return (index >= 0) & self._observed[index]

    @cached_property
    def observed_points(self):
        """Observed directions (n, 3), spread over the map, and the areas (n,) they stand for."""
        if self.events is None:
            pixels = self.pixels
            index = np.arange(0, pixels.n_pixels, -(-pixels.n_pixels // _N_POINTS))
            points, area_deg2 = pixels.centers(index), pixels.area_deg2(index)
            area_deg2 = np.nan_to_num(area_deg2) * (pixels.n_pixels / len(index))
        else:
            pixels = pixels_of(HpxGeom(_POINTS_NSIDE, nest=False, frame="galactic"))
            index = np.arange(pixels.n_pixels)
            points, area_deg2 = pixels.centers(index), pixels.area_deg2(index)
        seen = np.isfinite(points[:, 0])
        seen[seen] = self.covers(points[seen])
        if not seen.any():  # a field smaller than a pixel
            points = next((part.vectors for part in self.photons(0)), np.eye(3))
            return points, np.zeros(len(points))
        return points[seen], area_deg2[seen]

    @cached_property
    def _observed(self):
        return ~np.isnan(self.planes).all(axis=0)


def halves(sky_map, seed):
    """Two maps with a random half of the photons each."""
    rng = np.random.default_rng(seed)
    if sky_map.events is not None:
        first = rng.random(len(sky_map.events)) < 0.5
        parts = [{"events": sky_map.events.select(rows)} for rows in (first, ~first)]
    else:
        counts, data = sky_map.counts, np.asarray(sky_map.counts.data, dtype=float)
        first = np.where(np.isnan(data), np.nan, rng.binomial(np.nan_to_num(data).astype(int), 0.5))
        parts = [{"counts": counts.copy(data=half)} for half in (first, data - first)]
    return [replace(sky_map, checksum="", **part) for part in parts]


# Emission becomes counts in the pixels of the map, in parts of at most so many degrees, or of
# events in HEALPix pixels, the second ones of a large part of the sky, and in so many energy bins
# per decade.
_EMISSION_DEG, _EMISSION_NSIDE, _LARGE_PART, _BINS_PER_DECADE = 0.25, (512, 256), 0.1, 8


def expected_counts(sky_map):
    """Counts, as a map, of the emission that a sky map has as its background."""
    if sky_map.exposure is None:
        raise InputError(
            "background of intensities, such as gll_iem, becomes counts by an exposure; got none; "
            "give exposure, or a background cube of expected counts"
        )
    edges, pixels, n_split = sky_map.energy_edges, sky_map.pixels, 1
    if sky_map.events is None:
        n_split = 2 ** int(np.ceil(np.log2(max(pixels.pixel_size_deg / _EMISSION_DEG, 1.0))))
    else:
        n_energy = int(np.ceil(_BINS_PER_DECADE * np.log10(edges[-1] / edges[0])))
        edges = np.geomspace(edges[0], edges[-1], n_energy + 1)
        pixels = _pixels_of_events(sky_map)
    index = np.arange(pixels.n_pixels)
    points = np.stack(list(pixels.parts(index, n_split)))
    density = np.full((len(edges) - 1, *points.shape[:2]), np.nan, dtype=np.float32)
    on_sky, step_deg = np.isfinite(points[..., 0]), pixels.pixel_size_deg / n_split
    parts = sky_map.background, sky_map.exposure, sky_map.psf, points[on_sky], edges
    density[:, on_sky] = blurred_density(*parts, step_deg=step_deg)
    axis = MapAxis.from_energy_edges(edges, unit="GeV", name="energy")
    geom = with_axes(pixels.geom, [axis])
    counts = density.mean(axis=1) * pixels.area_deg2(index)
    return Map.from_geom(geom, data=counts.reshape(geom.data_shape))


def _pixels_of_events(sky_map):
    """HEALPix pixels of the sky that an event list covers, coarser ones of a large part of it."""
    for nside in _EMISSION_NSIDE:
        inside = np.zeros(12 * nside**2, dtype=bool)
        inside[healpy.vec2pix(nside, *sky_map.events.vectors.T)] = True
        sphere = pixels_of(HpxGeom(nside, nest=False, frame="galactic"))
        inside |= sky_map.covers(sphere.centers(np.arange(len(inside))))
        if inside.mean() < _LARGE_PART:
            break
    region = None if inside.all() else (np.flatnonzero(inside),)
    return pixels_of(HpxGeom(nside, nest=False, frame="galactic", region=region))
