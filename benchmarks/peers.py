"""Other ways to find point sources, each told what its users would know, for compare_peers.py.

Every finder takes a `Field` and gives pixel positions and a number that grows with significance.
Their numbers were chosen with tune_peers.py on the simulated sky of seed 1000.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.irf.spectra import PHOTON_INDEX, bin_fractions
from astro_unetloc.maps.patches import GridConfig, TangentPlane, bin_photons
from astro_unetloc.simulation.diffuse import ENERGY_EDGES
from astro_unetloc.training.make import BAND_EDGES

EDGES = np.array(BAND_EDGES)
# The PSF maps reach this far; the tail beyond holds less than 1 % of the photons.
PSF_RADIUS_DEG = 3.0
# Expected photons are blurred by the PSF on an image wider by this on each side.
PAD_PIX = 40
# Where a fitted background must not see sources: smoothed excess above so many standard deviations.
MASK_SIGMA, MASK_SMOOTH_PIX, MASK_ROUNDS = 4.0, 2.0, 4


@dataclass(frozen=True, eq=False)
class Field:
    """One patch as it was observed.

    Attributes
    ----------
    plane : TangentPlane
        Where on the sky.
    counts : ndarray (n_band, ny, nx)
        Photons.
    exposure : ndarray (n_band, ny, nx)
        In cm2 s.
    wanted : ndarray (ny, nx) of bool
        Where sources are looked for by finders to whom a pixel costs time.
    """

    plane: TangentPlane
    counts: np.ndarray
    exposure: np.ndarray
    wanted: np.ndarray


@dataclass(frozen=True)
class TSConfig:
    """How a TS map is made: spectral index, kernel, sum over bands or joint fit, peaks."""

    index: float = 2.4
    kernel_deg: float = 1.0
    sum_bands: bool = False
    min_distance_pix: int = 3
    min_sqrt_ts: float = 2.0


@dataclass(frozen=True)
class ImageConfig:
    """How peaks of smoothed counts are found.

    Attributes
    ----------
    smooth_pix, kernel_pix : float
        Standard deviations of the Gaussian that smooths and of the finder's kernel, in pixels.
    noise_pix : float
        Of the Gaussian over which the mean density, whose root is the noise, is taken.
    threshold : float
        Smallest response in units of the noise.
    """

    smooth_pix: float
    kernel_pix: float
    noise_pix: float
    threshold: float


DAO = ImageConfig(smooth_pix=2.0, kernel_pix=2.0, noise_pix=24.0, threshold=0.3)
LOG = ImageConfig(smooth_pix=1.0, kernel_pix=2.0, noise_pix=24.0, threshold=2.0)


def other_variant(variant, template):
    """The interstellar model that a user would take who does not know the true one."""
    if template is None:
        return variant  # built-in shapes come in one form; each sky draws its own
    return "P6V11" if variant != "P6V11" else "API+AIC"


def band_energies(index, n_energies=8):
    """Energies (n_band, n) in GeV and their shares of photons of a power law, rows of sum 1."""
    edges = np.geomspace(EDGES[:-1], EDGES[1:], n_energies + 1, axis=1)
    share = edges[:, :-1] ** (1 - index) - edges[:, 1:] ** (1 - index)
    return np.sqrt(edges[:, 1:] * edges[:, :-1]), share / share.sum(axis=1, keepdims=True)


def psf_map(index=PHOTON_INDEX, psf=None):
    """The PSF of the simulation, averaged over each band, as a gammapy `PSFMap`."""
    import astropy.units as u
    from gammapy.irf import PSFMap
    from gammapy.maps import Map, MapAxis, WcsGeom

    psf = KingPSF() if psf is None else psf
    edges = np.append(0, np.geomspace(1e-3, PSF_RADIUS_DEG, 120))
    energies, shares = band_energies(index)
    inside = np.array(
        [
            share @ [psf.containment(edges, e) for e in energy]
            for energy, share in zip(energies, shares)
        ]
    )
    density = np.diff(inside, axis=1) / (np.pi * np.diff(np.radians(edges) ** 2))
    axes = [
        MapAxis.from_edges(edges, unit="deg", name="rad"),
        MapAxis.from_energy_edges(EDGES * u.GeV, name="energy_true"),
    ]
    image = WcsGeom.create(npix=(2, 1), proj="CAR", binsz=180, frame="galactic")
    values = Map.from_geom(image.to_cube(axes), unit="sr-1")
    values.data += density[:, :, None, None]
    seen = Map.from_geom(values.geom.squash("rad"), unit="cm2 s", data=1.0)
    return PSFMap(values, exposure_map=seen)


def psf_kernel(psf):
    """The PSF of each band as pixels of a patch, a gammapy `PSFKernel`."""
    config = GridConfig()
    plane = TangentPlane(0.0, 0.0, config.patch_pixels, config.pixel_deg)
    return psf.get_psf_kernel(plane_geom(plane, "energy_true"), max_radius=f"{PSF_RADIUS_DEG} deg")


def plane_geom(plane, axis_name="energy"):
    """A tangent plane with the bands as a gammapy geometry."""
    import astropy.units as u
    from gammapy.maps import MapAxis, WcsGeom

    axis = MapAxis.from_energy_edges(EDGES * u.GeV, name=axis_name)
    return WcsGeom(plane.wcs, (plane.n_pix, plane.n_pix), axes=[axis])


def expected_photons(density, nside, plane, kernel):
    """Photons that diffuse emission sends to an image, blurred by the PSF, (n_band, ny, nx).

    Parameters
    ----------
    density : ndarray (n_pixels, n_bins)
        Expected photons per square degree in the bins of ``ENERGY_EDGES`` (HEALPix RING).
    nside : int
        Its resolution.
    plane : TangentPlane
        The image.
    kernel : PSFKernel
        From `psf_kernel`.
    """
    import healpy
    from gammapy.maps import WcsNDMap

    wide = TangentPlane(plane.lon_deg, plane.lat_deg, plane.n_pix + 2 * PAD_PIX, plane.pixel_deg)
    pixel = healpy.vec2pix(nside, *np.moveaxis(wide.pixel_vectors, -1, 0), nest=False)
    used, inverse = np.unique(pixel, return_inverse=True)
    per_deg2 = (density[used] @ bin_fractions(ENERGY_EDGES, EDGES))[inverse.reshape(pixel.shape)]
    geom = plane_geom(wide)
    area = geom.to_image().solid_angle().to_value("deg2")
    emitted = WcsNDMap(geom, np.moveaxis(per_deg2, -1, 0) * area)
    return np.maximum(emitted.convolve(kernel).crop(PAD_PIX).data, 1e-9)


def mean_exposure(exposure, plane, index=PHOTON_INDEX):
    """Exposure of an image in each band, the mean over photons of a power law, in cm2 s."""
    energies, shares = band_energies(index)
    # photons are what arrives, so the mean over the flux
    relative = np.sum(shares * exposure.relative(energies), axis=1)
    return relative[:, None, None] * exposure.sky(plane.pixel_vectors)


def make_field(plane, photons, exposure, wanted):
    """The `Field` of photons near a `TangentPlane`, seen with a `SurveyExposure`."""
    counts = np.moveaxis(bin_photons(plane, photons, EDGES), -1, 0)
    return Field(plane, counts, mean_exposure(exposure, plane), wanted)


def fitted_background(counts, template):
    """A template with one normalization per band, fitted to the counts with sources masked.

    The Poisson likelihood of one factor is largest at the ratio of counts to template; pixels whose
    smoothed excess stands out are left out, and the fit is repeated.

    Parameters
    ----------
    counts, template : ndarray (n_band, ny, nx)
        Photons and expected photons.

    Returns
    -------
    ndarray (n_band, ny, nx)
    """
    from scipy.ndimage import gaussian_filter

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


def ts_sources(field, background, psf, config=None):
    """Peaks of gammapy's TS map: x, y in pixels and sqrt(TS)."""
    config = TSConfig() if config is None else config
    return ts_peaks(ts_map(field, background, psf, config), config)


def ts_map(field, background, psf, config):
    """Map of sqrt(TS) of a point source above the background of a `Field`, by gammapy."""
    import astropy.units as u
    from gammapy.datasets import MapDataset
    from gammapy.estimators import TSMapEstimator
    from gammapy.maps import WcsNDMap
    from gammapy.modeling.models import PointSpatialModel, PowerLawSpectralModel, SkyModel

    geom = plane_geom(field.plane)
    dataset = MapDataset(
        counts=WcsNDMap(geom, field.counts.astype(float)),
        background=WcsNDMap(geom, background),
        exposure=WcsNDMap(plane_geom(field.plane, "energy_true"), field.exposure, unit="cm2 s"),
        psf=psf,
    )
    spectrum = PowerLawSpectralModel(
        index=config.index, amplitude="1e-13 cm-2 s-1 GeV-1", reference="20 GeV"
    )
    kernel = SkyModel(spatial_model=PointSpatialModel(frame="galactic"), spectral_model=spectrum)
    estimator = cell_estimator(TSMapEstimator, field.wanted)(
        kernel,
        kernel_width=config.kernel_deg * u.deg,
        energy_edges=EDGES[[0, -1]] * u.GeV,
        sum_over_energy_groups=config.sum_bands,
    )
    return estimator.run(dataset)["sqrt_ts"].sum_over_axes(keepdims=False)


def cell_estimator(estimator, wanted):
    """Class of a TSMapEstimator that visits only wanted pixels, (ny, nx); others are NaN.

    Each pixel is a fit of its own: those that are visited come out the same.
    """

    class CellEstimator(estimator):
        def _estimate_mask_2d(self, map_dict):
            mask = super()._estimate_mask_2d(map_dict)
            rows, columns = ((a - b) // 2 for a, b in zip(mask.shape[-2:], wanted.shape))
            return mask & np.pad(wanted, ((rows, rows), (columns, columns)))

    return CellEstimator


def ts_peaks(sqrt_ts, config):
    """Peaks of a map of sqrt(TS): x, y in pixels and height."""
    from gammapy.estimators.utils import find_peaks

    peaks = find_peaks(sqrt_ts, config.min_sqrt_ts, min_distance=config.min_distance_pix)
    if len(peaks) == 0:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    x, y = np.asarray(peaks["x"]), np.asarray(peaks["y"])
    return *refine_peaks(np.nan_to_num(sqrt_ts.data) ** 2, x, y), np.asarray(peaks["value"])


def refine_peaks(image, x, y):
    """Sub-pixel positions of peaks: the top of a parabola through three pixels of each axis."""
    image = np.pad(image, 1, mode="edge")
    refined = []
    for dy, dx, start in ((0, 1, x), (1, 0, y)):
        below, here, above = (image[y + 1 + s * dy, x + 1 + s * dx] for s in (-1, 0, 1))
        bend = 2 * here - below - above
        shift = np.where(bend > 0, (above - below) / (2 * np.where(bend > 0, bend, 1)), 0.0)
        refined.append(start + np.clip(shift, -0.5, 0.5))
    return tuple(refined)


def smoothed_counts(field, config):
    """Counts of all bands, smoothed, and the standard deviation of one pixel's response.

    The deviation is that of photons at the mean density within ``noise_pix``, of an image without
    smoothing.
    """
    from scipy.ndimage import gaussian_filter

    counts = field.counts.sum(axis=0).astype(float)
    smooth = gaussian_filter(counts, config.smooth_pix)
    density = gaussian_filter(counts, config.noise_pix, mode="nearest")
    return smooth, np.sqrt(np.maximum(density, 1e-3))


def log_sources(field, config=None):
    """Peaks of the Laplacian of Gaussian of smoothed counts: x, y in pixels and significance."""
    from scipy.ndimage import gaussian_laplace, maximum_filter

    config = LOG if config is None else config
    smooth, noise = smoothed_counts(field, config)
    width = np.hypot(config.smooth_pix, config.kernel_pix)
    # the response to Poisson noise of density n is sqrt(n / (2 pi)) / width**3
    response = -gaussian_laplace(smooth, config.kernel_pix)
    response *= np.sqrt(2 * np.pi) * width**3 / noise
    peak = (response == maximum_filter(response, 5)) & (response > config.threshold)
    y, x = np.nonzero(peak)
    return *refine_peaks(response, x, y), response[y, x]


def has_photutils():
    """Whether photutils can be imported."""
    from importlib.util import find_spec

    return find_spec("photutils") is not None


def dao_sources(field, config=None):
    """Stars that photutils' DAOStarFinder sees in smoothed counts: x, y and height over noise."""
    import warnings

    from photutils.detection import DAOStarFinder
    from photutils.utils.exceptions import NoDetectionsWarning

    config = DAO if config is None else config
    smooth, noise = smoothed_counts(field, config)
    finder = DAOStarFinder(
        config.threshold * noise,
        fwhm=2.355 * config.kernel_pix,
        sharpness_range=(-np.inf, np.inf),
        roundness_range=(-np.inf, np.inf),
        min_separation=2,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        stars = finder(smooth)
    if stars is None:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    score = config.threshold * 10 ** (-0.4 * np.asarray(stars["daofind_mag"]))
    return np.asarray(stars["x_centroid"]), np.asarray(stars["y_centroid"]), score
