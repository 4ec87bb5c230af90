"""Other finders of point sources, with the inputs of their users, for compare_peers.py.

Every finder takes a `Field` and returns pixel positions x, y and a number that grows with
significance. Their numbers were chosen on the simulated sky of seed 1000.
"""

import warnings
from dataclasses import dataclass

import astropy.units as u
import healpy
import numpy as np
from gammapy.datasets import MapDataset
from gammapy.estimators import TSMapEstimator
from gammapy.estimators.utils import find_peaks
from gammapy.irf import PSFMap
from gammapy.maps import Map, MapAxis, WcsGeom, WcsNDMap
from gammapy.modeling.models import PointSpatialModel, PowerLawSpectralModel, SkyModel
from scipy.ndimage import gaussian_filter, gaussian_laplace, maximum_filter

from astro_unetloc.irf.psf import KingPSF, make_profiles
from astro_unetloc.irf.spectra import PHOTON_INDEX, bin_fractions, power_laws
from astro_unetloc.maps.patches import GridConfig, TangentPlane
from astro_unetloc.simulation.diffuse import ENERGY_EDGES
from astro_unetloc.training.make import BAND_EDGES

EDGES = np.array(BAND_EDGES)
# The PSF maps reach this far; the tail beyond holds less than 1 % of the photons.
PSF_RADIUS_DEG = 3.0
# Expected photons are blurred by the PSF on an image wider by this on each side.
PAD_PIX = 40
# A fitted background masks sources: smoothed excess above this many standard deviations.
MASK_SIGMA, MASK_SMOOTH_PIX, MASK_ROUNDS = 4.0, 2.0, 4
# TS maps: spectral index, kernel, distance between peaks and least height.
TS = {"index": 2.4, "kernel_deg": 1.0, "min_distance_pix": 3, "min_sqrt_ts": 2.0}
# Peaks of smoothed counts: sigmas in pixels of the smoothing, of the kernel and of the mean density
# whose root is the noise; least response in units of the noise.
DAO = {"smooth_pix": 2.0, "kernel_pix": 2.0, "noise_pix": 24.0, "threshold": 0.3}
LOG = {"smooth_pix": 1.0, "kernel_pix": 2.0, "noise_pix": 24.0, "threshold": 2.0}
NO_PEAKS = np.zeros((3, 0))


@dataclass(frozen=True, eq=False)
class Field:
    """One patch as it was observed: its `TangentPlane` and arrays (n_band, ny, nx) or (ny, nx)."""

    plane: TangentPlane
    counts: np.ndarray
    exposure: np.ndarray  # cm2 s
    wanted: np.ndarray  # where finders search to whom a pixel costs time


def psf_map():
    """`PSFMap` of the simulation, averaged over each band."""
    edges = np.append(0, np.geomspace(1e-3, PSF_RADIUS_DEG, 120))
    inside = make_profiles(KingPSF(), EDGES).containment(edges[:, None]).T
    density = np.diff(inside, axis=1) / (np.pi * np.diff(np.radians(edges) ** 2))
    rad = MapAxis.from_edges(edges, unit="deg", name="rad")
    axes = [rad, MapAxis.from_energy_edges(EDGES * u.GeV, name="energy_true")]
    image = WcsGeom.create(npix=(2, 1), proj="CAR", binsz=180, frame="galactic")
    values = Map.from_geom(image.to_cube(axes), unit="sr-1")
    values.data += density[:, :, None, None]
    exposure = Map.from_geom(values.geom.squash("rad"), unit="cm2 s", data=1.0)
    return PSFMap(values, exposure_map=exposure)


def psf_kernel(psf):
    """`PSFKernel` of each band in pixels of a patch."""
    config = GridConfig()
    plane = TangentPlane(0.0, 0.0, config.patch_pixels, config.pixel_deg)
    return psf.get_psf_kernel(plane_geom(plane, "energy_true"), max_radius=f"{PSF_RADIUS_DEG} deg")


def plane_geom(plane, axis_name="energy"):
    """Geometry of a tangent plane with the bands."""
    axis = MapAxis.from_energy_edges(EDGES * u.GeV, name=axis_name)
    return WcsGeom(plane.wcs, (plane.n_pix, plane.n_pix), axes=[axis])


def expected_photons(density, nside, plane, kernel):
    """Photons (n_band, ny, nx) of diffuse emission, blurred by the PSF.

    ``density`` (n_pixels, n_bins) are expected photons per square degree in the bins of
    ``ENERGY_EDGES`` (HEALPix RING).
    """
    wide = TangentPlane(plane.lon_deg, plane.lat_deg, plane.n_pix + 2 * PAD_PIX, plane.pixel_deg)
    pixel = healpy.vec2pix(nside, *np.moveaxis(wide.pixel_vectors, -1, 0), nest=False)
    used, inverse = np.unique(pixel, return_inverse=True)
    per_deg2 = (density[used] @ bin_fractions(ENERGY_EDGES, EDGES))[inverse.reshape(pixel.shape)]
    geom = plane_geom(wide)
    area = geom.to_image().solid_angle().to_value("deg2")
    emitted = WcsNDMap(geom, np.moveaxis(per_deg2, -1, 0) * area)
    return np.maximum(emitted.convolve(kernel).crop(PAD_PIX).data, 1e-9)


def mean_exposure(exposure, plane):
    """Exposure (n_band, ny, nx) in cm2 s, averaged over the flux of a power law."""
    law, bands = power_laws(np.ones(1), np.array([PHOTON_INDEX])), zip(EDGES[:-1], EDGES[1:])
    relative = [law.flux(*band, weight=exposure.relative) / law.flux(*band) for band in bands]
    return np.array(relative)[..., None] * exposure.sky(plane.pixel_vectors)


def fitted_background(counts, template):
    """Template (n_band, ny, nx) with one normalization per band, fitted to the counts.

    The Poisson likelihood of one factor is largest at the ratio of counts to template; pixels whose
    smoothed excess stands out are masked, and the fit is repeated.
    """
    free = np.ones(counts.shape[1:], dtype=bool)
    smooth = gaussian_filter(counts.sum(axis=0).astype(float), MASK_SMOOTH_PIX)
    for _ in range(MASK_ROUNDS):
        norm = counts[:, free].sum(axis=1) / template[:, free].sum(axis=1)
        # a band without photons is not without background
        norm = np.maximum(norm, 0.5 / template[:, free].sum(axis=1))
        fitted = norm[:, None, None] * template
        expected = gaussian_filter(fitted.sum(axis=0), MASK_SMOOTH_PIX)
        scatter = np.sqrt(expected / (4 * np.pi * MASK_SMOOTH_PIX**2))
        free = smooth - expected < MASK_SIGMA * scatter
    return fitted


def ts_sources(field, background, psf):
    """Peaks of gammapy's map of sqrt(TS) above a background."""
    geom = plane_geom(field.plane)
    dataset = MapDataset(
        counts=WcsNDMap(geom, field.counts.astype(float)),
        background=WcsNDMap(geom, background),
        exposure=WcsNDMap(plane_geom(field.plane, "energy_true"), field.exposure, unit="cm2 s"),
        psf=psf,
    )
    spectrum = PowerLawSpectralModel(index=TS["index"], reference="20 GeV")
    model = SkyModel(spectrum, PointSpatialModel(frame="galactic"))
    energies, width = EDGES[[0, -1]] * u.GeV, TS["kernel_deg"] * u.deg
    estimator = CellEstimator(model, kernel_width=width, energy_edges=energies)
    estimator.wanted = field.wanted
    sqrt_ts = estimator.run(dataset)["sqrt_ts"].sum_over_axes(keepdims=False)
    peaks = find_peaks(sqrt_ts, TS["min_sqrt_ts"], min_distance=TS["min_distance_pix"])
    if len(peaks) == 0:
        return NO_PEAKS
    x, y = np.asarray(peaks["x"]), np.asarray(peaks["y"])
    return *refine_peaks(np.nan_to_num(sqrt_ts.data) ** 2, x, y), np.asarray(peaks["value"])


class CellEstimator(TSMapEstimator):
    """TSMapEstimator of the wanted pixels; each pixel is a fit of its own, the others are NaN."""

    def _estimate_mask_2d(self, map_dict):
        mask = super()._estimate_mask_2d(map_dict)
        pad = [((a - b) // 2,) * 2 for a, b in zip(mask.shape[-2:], self.wanted.shape)]
        return mask & np.pad(self.wanted, pad)


def refine_peaks(image, x, y):
    """Sub-pixel positions of peaks: the top of a parabola through three pixels of each axis."""
    image = np.pad(image, 1, mode="edge")
    refined = []
    for dy, dx, start in ((0, 1, x), (1, 0, y)):
        below, here, above = (image[y + 1 + s * dy, x + 1 + s * dx] for s in (-1, 0, 1))
        curvature = 2 * here - below - above
        shift = (above - below) / (2 * np.where(curvature > 0, curvature, np.inf))
        refined.append(start + np.clip(shift, -0.5, 0.5))
    return tuple(refined)


def smoothed_counts(field, config):
    """Smoothed counts of all bands, and the root of the mean density around each pixel."""
    counts = field.counts.sum(axis=0).astype(float)
    density = gaussian_filter(counts, config["noise_pix"], mode="nearest")
    return gaussian_filter(counts, config["smooth_pix"]), np.sqrt(np.maximum(density, 1e-3))


def log_sources(field):
    """Peaks of the Laplacian of Gaussian of smoothed counts."""
    smooth, noise = smoothed_counts(field, LOG)
    width = np.hypot(LOG["smooth_pix"], LOG["kernel_pix"])
    # the response to Poisson noise of density n is sqrt(n / (2 pi)) / width**3
    response = -gaussian_laplace(smooth, LOG["kernel_pix"])
    response *= np.sqrt(2 * np.pi) * width**3 / noise
    y, x = np.nonzero((response == maximum_filter(response, 5)) & (response > LOG["threshold"]))
    return *refine_peaks(response, x, y), response[y, x]


def dao_sources(field):
    """Peaks of photutils' DAOStarFinder on smoothed counts."""
    from photutils.detection import DAOStarFinder
    from photutils.utils.exceptions import NoDetectionsWarning

    smooth, noise = smoothed_counts(field, DAO)
    anything = (-np.inf, np.inf)
    finder = DAOStarFinder(
        DAO["threshold"] * noise, fwhm=2.355 * DAO["kernel_pix"], min_separation=2,
        sharpness_range=anything, roundness_range=anything,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        stars = finder(smooth)
    if stars is None:
        return NO_PEAKS
    score = DAO["threshold"] * 10 ** (-0.4 * np.asarray(stars["daofind_mag"]))
    return np.asarray(stars["x_centroid"]), np.asarray(stars["y_centroid"]), score
