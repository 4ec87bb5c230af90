"""Counts that the fitted sources and the background predict in each pixel and energy bin of a map.

`PredictedCounts` compares them with the observed counts. Candidates that are not listed belong to
the background.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from gammapy.maps import HpxGeom, Map, MapAxis, WcsGeom
from gammapy.stats import CashCountsStatistic
from scipy.signal import fftconvolve

from astro_unetloc.catalog.table import glon_glat_vectors, numbers_of
from astro_unetloc.cubes import with_axes
from astro_unetloc.irf.exposure import background_at, exposure_of, square_degree_density
from astro_unetloc.irf.psf import make_profiles, psf_of
from astro_unetloc.irf.spectra import PowerLawFractions, bins_in_bands
from astro_unetloc.maps.skymap import pixels_of
from astro_unetloc.measurement.data import MeasurementConfig
from astro_unetloc.measurement.fit import pixel_profiles
from astro_unetloc.measurement.likelihood import INDEX_PRIOR
from astro_unetloc.sphere import chord, lonlat_from_vectors, quick_tree, separation_deg

# Counts of the fitted power law that are added to those of a source in its bands.
_PRIOR_COUNTS = 10.0
# Photons of a source that lie farther away than all pixels that it reaches: at most so many, and at
# most this fraction of all.
_LEFT_OUT, _MAX_LEFT_OUT = 0.2, 1e-3
_MAX_PAIRS = 1_000_000  # of sources and pixels, or of two pixels, that are held at once
# Events: an image if no photon lies farther from the centre, in pixels of this part of the 68 %
# radius of the PSF within two limits, otherwise HEALPix pixels of 0.23 deg.
_IMAGE_DEG, _NSIDE = 20.0, 256
_PIXEL_PSF, _PIXELS_DEG = 0.4, (0.02, 0.1)
_ALONE = 0.75  # pixels of HEALPix; the nearest other centre is 0.80 pixels away (nside 8 to 256)
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class PredictedCounts:
    """Observed counts and those that sources and background predict, as maps of gammapy.

    Attributes
    ----------
    counts, sources, background : gammapy.maps.Map
        Counts in each pixel and energy bin, float32; NaN where nothing was observed.
    radius_deg : ndarray (n_energy,)
        68 % containment radius of the PSF in each energy bin, in degrees.

    See Also
    --------
    gammapy.estimators.ExcessMapEstimator : the same significance for a dataset of gammapy.
    """

    counts: Map
    sources: Map
    background: Map
    radius_deg: np.ndarray

    @property
    def residual(self):
        """Map of the counts less those of sources and background."""
        return self.counts - self.sources - self.background

    @cached_property
    def significance(self):
        """Map of the significance of the residual in discs of the 68 % radius of the PSF.

        It is the square root of the likelihood ratio (Cash 1979, ApJ 228, 939) of observed and
        predicted counts in the disc around each pixel, negative where fewer are observed. A disc
        holds one pixel or more.
        """
        planes = zip(*self.planes, self.radius_deg)
        return self._map(self.counts.geom, [self._sqrt_ts(*plane) for plane in planes])

    @cached_property
    def total_significance(self):
        """Map (an image) of the significance of the counts of all energies.

        The radius of the discs is the mean over the counts.
        """
        counts, predicted = self.planes
        number = np.nansum(counts, axis=1)
        radius_deg = number @ self.radius_deg / max(number.sum(), 1.0)
        unseen = np.isnan(counts).all(axis=0)
        sums = (np.where(unseen, np.nan, np.nansum(v, axis=0)) for v in (counts, predicted))
        return self._map(self._image, [self._sqrt_ts(*sums, radius_deg)])

    def maps(self):
        """Dict of all maps by the names of their HDUs."""
        return {
            "COUNTS": self.counts, "SOURCES": self.sources, "BACKGROUND": self.background,
            "RESIDUAL": self.residual, "SIGNIFICANCE": self.significance,
            "SIGNIFICANCE_ALL": self.total_significance,
        }  # fmt: skip

    @property
    def _image(self):
        return with_axes(self.counts.geom, [])

    @property
    def planes(self):
        """Observed and predicted counts (n_energy, n_pixels)."""
        shape = len(self.radius_deg), -1
        predicted = self.sources.data + self.background.data
        return self.counts.data.reshape(shape), predicted.reshape(shape)

    @staticmethod
    def _map(geom, planes):
        data = np.asarray(planes, np.float32).reshape(geom.data_shape)
        return Map.from_geom(geom, data=data)

    def _sqrt_ts(self, counts, predicted, radius_deg):
        """Significance (n_pixels,) of the counts in discs."""
        seen = np.isfinite(predicted)
        both = np.where(seen, [counts, predicted], 0.0)
        counts, predicted = self._in_discs(both, radius_deg)
        found = CashCountsStatistic(np.rint(counts), np.maximum(predicted, _TINY)).sqrt_ts
        return np.where(seen, found, np.nan)

    def _in_discs(self, values, radius_deg):
        """Sums (k, n_pixels) of values in the pixels whose centres lie within a radius of each."""
        pixels = pixels_of(self._image)
        reach = radius_deg / pixels.pixel_size_deg
        if pixels.is_image:
            step = np.arange(-int(reach), int(reach) + 1)
            disc = step**2 + step[:, None] ** 2 <= reach**2
            images = values.reshape(-1, *pixels.shape)
            return fftconvolve(images, disc[None], mode="same").reshape(values.shape)
        if reach < _ALONE:
            return values
        centers, result = pixels.centers(np.arange(pixels.n_pixels)), np.empty(values.shape)
        tree, n_parts = quick_tree(centers), int(values[0].size * (1 + 4 * reach**2) / _MAX_PAIRS)
        for rows in np.array_split(np.arange(pixels.n_pixels), n_parts + 1):
            some = quick_tree(centers[rows])
            pairs = some.sparse_distance_matrix(tree, chord(radius_deg), output_type="ndarray")
            for total, one in zip(result, values):
                total[rows] = np.bincount(pairs["i"], one[pairs["j"]], minlength=len(rows))
        return result


def compare_counts(sky_map, of_sources, background):
    """`PredictedCounts` of a map and predictions (n_energy, n_pixels), unknown where NaN."""
    geom, unseen = sky_map.counts.geom, np.isnan(sky_map.planes)
    planes = sky_map.planes, of_sources, background
    maps = [PredictedCounts._map(geom, np.where(unseen, np.nan, v)) for v in planes]
    return PredictedCounts(*maps, psf_radii_deg(sky_map))


def psf_radii_deg(sky_map):
    """68 % containment radius (n_energy,) of the PSF in the energy bins of a map, in degrees."""
    psf = psf_of(sky_map.psf, sky_map.observed_points[0])
    return make_profiles(psf, sky_map.energy_edges).containment_radius(0.68)


def as_pixels(sky_map, band_edges):
    """The map itself or, of events, their counts in pixels and in bands with edges in GeV."""
    if sky_map.events is None:
        return sky_map
    edges = np.clip(sky_map.energy_edges[[0, -1]], *np.asarray(band_edges)[[0, -1]])
    edges = bins_in_bands(band_edges, edges, 0)
    axis = MapAxis.from_energy_edges(edges, unit="GeV", name="energy")
    points = sky_map.observed_points[0]
    center = points.mean(axis=0) / max(np.linalg.norm(points.mean(axis=0)), _TINY)
    radius_deg = separation_deg(points, center).max()
    if radius_deg <= _IMAGE_DEG:  # of a footprint the points show the middles of wide cells
        radius_deg = separation_deg(sky_map.events.vectors, center).max(initial=radius_deg)
    psf = psf_of(sky_map.psf, points)
    if radius_deg <= _IMAGE_DEG:
        psf_deg = psf.containment_radius(0.68, np.clip(edges[0], *psf.energy_range))
        step_deg = np.clip(_PIXEL_PSF * psf_deg, *_PIXELS_DEG)
        n_pix = 2 * int(np.ceil(radius_deg / step_deg)) + 3
        place = {"skydir": tuple(map(float, lonlat_from_vectors(center))), "npix": n_pix}
        geom = WcsGeom.create(**place, binsz=step_deg, proj="TAN", frame="galactic", axes=[axis])
    else:
        geom = HpxGeom(_NSIDE, nest=False, frame="galactic", axes=[axis])
    pixels, data = pixels_of(geom), np.zeros((len(edges) - 1, int(np.prod(geom.data_shape[1:]))))
    for photons in sky_map.photons(0):
        inside = (photons.energy >= edges[0]) & (photons.energy <= edges[-1])
        photons = photons.select(inside)
        band = np.searchsorted(edges, photons.energy, side="right") - 1
        index = pixels.index(photons.vectors)
        place = np.minimum(band, len(data) - 1)[index >= 0], index[index >= 0]
        np.add.at(data, place, 1.0)
    unseen = ~sky_map.covers(pixels.centers(np.arange(pixels.n_pixels)))
    data[:, unseen & ~data.any(axis=0)] = np.nan
    counts = Map.from_geom(geom, data=data.reshape(geom.data_shape).astype(np.float32))
    return replace(sky_map, counts=counts, events=None, energy_edges=edges)


def given_background(sky_map, norm):
    """Expected counts (n_energy, n_pixels) of the background of a map, times a factor."""
    pixels = sky_map.pixels
    index = np.arange(pixels.n_pixels)
    density = square_degree_density(sky_map.background)
    found = background_at(density, pixels.centers(index), sky_map.energy_edges)
    return found * pixels.area_deg2(index) * norm


def counts_in_bins(sources, sky_map, band_edges, fit_edges):
    """Expected counts (n, n_energy) of measured sources in the energy bins of a map.

    The fitted power law, corrected in each band by the fitted counts of the band.
    """
    total = np.nan_to_num(numbers_of(sources, "Npred"))[:, None]
    index = numbers_of(sources, "Spectral_Index")
    index = np.where(np.isfinite(index), index, INDEX_PRIOR[0])  # without an exposure
    _, exposure = exposure_of(sky_map.exposure, glon_glat_vectors(sources))

    def detected(edges):
        return PowerLawFractions(edges, exposure).detected(index)

    fitted, edges = detected(fit_edges[[0, -1]]), sky_map.energy_edges
    in_bins, in_bands = (detected(e) / fitted for e in (edges, band_edges))
    prior, power_law = _PRIOR_COUNTS * in_bands, total * in_bands
    found = np.ma.filled(np.ma.asarray(sources["Counts_Band"], dtype=float), np.nan)
    factor = np.where(np.isfinite(found), found, power_law) + prior
    factor /= np.maximum(power_law + prior, _TINY)
    middle = np.sqrt(edges[:-1] * edges[1:])
    band = np.searchsorted(band_edges, middle, side="right") - 1
    return total * in_bins * factor[:, np.clip(band, 0, factor.shape[1] - 1)]


def predicted_sources(vectors, counts, sky_map):
    """Expected counts (n_energy, n_pixels), float32, of sources at vectors (n, 3).

    Their ``counts`` (n, n_energy) are those of the whole PSF.
    """
    pixels, edges = sky_map.pixels, sky_map.energy_edges
    result = np.zeros((len(edges) - 1, pixels.n_pixels), np.float32)
    if not len(vectors):
        return result
    pixel_deg = pixels.pixel_size_deg
    make, n_split = pixel_profiles(sky_map, edges, vectors, MeasurementConfig())
    profiles = make(disc_deg=pixel_deg / n_split / np.sqrt(np.pi))
    core_deg = np.maximum(profiles.containment_radius(0.9), 2 * pixel_deg)
    left_out = np.minimum(_LEFT_OUT / np.maximum(counts.max(axis=1), _TINY), _MAX_LEFT_OUT)
    reach_deg = profiles.containment_radius(1 - left_out) + pixel_deg  # (n_energy, n)
    largest_deg = reach_deg.max(axis=0)
    index = np.arange(pixels.n_pixels)
    centers, area = pixels.centers(index), np.nan_to_num(pixels.area_deg2(index))
    index = np.flatnonzero(np.isfinite(centers[:, 0]))
    tree = quick_tree(centers[index])
    n_pairs = np.cumsum(np.pi * (largest_deg / pixel_deg) ** 2)
    ends = np.flatnonzero(np.diff(n_pairs // _MAX_PAIRS)) + 1
    for rows in np.split(np.arange(len(vectors)), ends):
        near = tree.query_ball_point(vectors[rows], chord(largest_deg[rows]))
        source = np.repeat(rows, [len(some) for some in near])
        pixel = index[np.concatenate([[], *near]).astype(int)]
        offset2 = _squared_deg(vectors[source], centers[pixel])
        core = np.flatnonzero(offset2 < core_deg.max() ** 2)
        parts = {
            n: [_squared_deg(vectors[source[core]], v) for v in pixels.parts(pixel[core], n)]
            for n in np.unique(n_split[n_split > 1])
        }
        for number, plane in enumerate(result):
            reached = np.flatnonzero(offset2 < reach_deg[number, source] ** 2)
            density = np.zeros(len(pixel), np.float32)
            density[reached] = profiles.densities32(number, offset2[reached])
            if n_split[number] > 1:
                inner = offset2[core] < core_deg[number] ** 2
                of_parts = (profiles.densities32(number, p[inner]) for p in parts[n_split[number]])
                density[core[inner]] = sum(of_parts) / n_split[number] ** 2
            density *= counts[source, number] * area[pixel]
            plane += np.bincount(pixel, density, minlength=len(plane))
    return result


def _squared_deg(first, second):
    """Squared separations (n,) of close directions in square degrees, float32."""
    difference = np.degrees(first - second)
    return np.einsum("ni,ni->n", difference, difference).astype(np.float32)
