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
from scipy.ndimage import gaussian_filter, gaussian_laplace, map_coordinates, maximum_filter
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import Delaunay, KDTree
from scipy.special import xlogy
from sklearn.cluster import DBSCAN

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
# DBSCAN: the circle of a core point holds one photon and some standard deviations more than the
# mean density; radii of the circles of the significance in units of the 68 % radius of the PSF.
# Spanning tree: edges are cut at a fraction of the local mean, a constant over the root of the
# density.
CLUSTERS = {
    "dbscan": {"radius_pix": 1.5, "n_sigma": 2.5, "core_pix": 6.0, "noise_pix": 12.0,
               "circles": (0.4, 0.8, 1.4)},
    "mst": {"cut": 0.75, "mean_edge": 0.65, "min_photons": 4, "noise_pix": 12.0},
}  # fmt: skip
# Positions of clusters: means of the photons within a radius, weighted by a King profile with a
# sigma in units of the 68 % radius of the PSF; least distance of two clusters.
POSITIONS = {"reach_pix": 12.8, "core": 0.7, "gamma": 1.2, "rounds": 15, "separation_pix": 3.2}
NO_PEAKS = np.zeros((3, 0))


@dataclass(frozen=True, eq=False)
class Field:
    """One patch as it was observed: its `TangentPlane` and arrays (n_band, ny, nx) or (ny, nx)."""

    plane: TangentPlane
    counts: np.ndarray
    exposure: np.ndarray  # cm2 s
    wanted: np.ndarray  # where finders search to whom a pixel costs time
    photons: np.ndarray  # (3, n): pixel positions x, y of the photons and their energy in GeV


def photons_of(plane, photons):
    """Pixel positions x, y and energies (3, n) of the photons in the image and in the bands."""
    x, y = plane.pixel_from_vectors(photons.vectors)
    with np.errstate(invalid="ignore"):
        inside = np.all(np.abs(np.array([x, y]) - (plane.n_pix - 1) / 2) < plane.n_pix / 2, axis=0)
    inside &= (photons.energy >= EDGES[0]) & (photons.energy < EDGES[-1])
    return np.array([x, y, photons.energy])[:, inside]


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


def dbscan_sources(field):
    """Clusters of scikit-learn's DBSCAN, ranked by the mean significance of counts in circles."""
    config, (x, y, energy) = CLUSTERS["dbscan"], field.photons
    if len(x) == 0:
        return NO_PEAKS
    expected = np.pi * config["radius_pix"] ** 2 * smooth_density(field, x, y, config["core_pix"])
    weight = 1 / (1 + expected + config["n_sigma"] * np.sqrt(expected))
    finder = DBSCAN(eps=config["radius_pix"], min_samples=1)
    x, y = cluster_positions(field, finder.fit(np.c_[x, y], sample_weight=weight).labels_)
    width = psf_width(energy)
    row, photon, distance = near_photons(field, x, y)
    circle = smooth_density(field, x, y, config["noise_pix"], np.pi * width**2)
    score = np.zeros(len(x))
    for factor in config["circles"]:
        counts = np.bincount(row[distance < factor * width[photon]], minlength=len(x))
        excess = counts - factor**2 * circle
        ts = 2 * (xlogy(counts, counts / (factor**2 * circle)) - excess)
        score += np.sign(excess) * np.sqrt(np.maximum(ts, 0)) / len(config["circles"])
    return strongest(x, y, score)


def mst_sources(field):
    """Clusters of a minimum spanning tree, ranked by their magnitude.

    The magnitude is the number of photons times the ratio of the mean edge around the cluster to
    that inside (Campana et al. 2013, doi:10.1007/s10509-013-1488-0).
    """
    config, points = CLUSTERS["mst"], field.photons[:2].T
    if len(points) < config["min_photons"]:
        return NO_PEAKS
    starts, end = Delaunay(points).vertex_neighbor_vertices
    length = np.linalg.norm(np.repeat(points, np.diff(starts), axis=0) - points[end], axis=1)
    edges = csr_array((length, end, starts), shape=(len(points), len(points)))
    tree = minimum_spanning_tree(edges).tocoo()
    around = smooth_density(field, *points[tree.row].T, config["noise_pix"])
    around = config["mean_edge"] / np.sqrt(around)
    kept = tree.data < config["cut"] * around
    start, end, length, around = (v[kept] for v in (tree.row, tree.col, tree.data, around))
    edges = csr_array((length, (start, end)), shape=edges.shape)
    label = connected_components(edges, directed=False)[1]
    size = np.bincount(label)
    large = size >= config["min_photons"]
    sums = [np.bincount(label[start], v, minlength=len(size))[large] for v in (around, length)]
    x, y = cluster_positions(field, np.where(large, np.cumsum(large) - 1, -1)[label])
    return strongest(x, y, size[large] * sums[0] / sums[1])


def smooth_density(field, x, y, sigma_pix, weight=None):
    """Smoothed density of photons, or of a weight (n,) of theirs, per pixel at pixel positions."""
    edges = np.arange(field.plane.n_pix + 1) - 0.5
    image = np.histogram2d(*field.photons[1::-1], bins=(edges, edges), weights=weight)[0]
    smooth = gaussian_filter(image, sigma_pix)
    return np.maximum(map_coordinates(smooth, [y, x], order=1, mode="nearest"), 1e-3)


def psf_width(energy):
    """Radius in pixels that contains 68 % of the photons of energies (n,) in GeV."""
    grid = np.geomspace(*EDGES[[0, -1]], 30)
    radius = [KingPSF().containment_radius(0.68, node) for node in grid]
    return np.interp(np.log(energy), np.log(grid), radius) / GridConfig().pixel_deg


def near_photons(field, x, y):
    """Pairs of positions and photons within reach: their numbers and the distance in pixels."""
    trees = KDTree(np.c_[x, y]), KDTree(field.photons[:2].T)
    pairs = trees[0].sparse_distance_matrix(trees[1], POSITIONS["reach_pix"], output_type="ndarray")
    return pairs["i"], pairs["j"], pairs["v"]


def cluster_positions(field, label):
    """Pixel positions of clusters of photons with labels (n,), where -1 is no cluster.

    They are weighted means of the photons around, which go up to a peak of the counts.
    """
    x, y, energy = field.photons
    width, inside = psf_width(energy), np.flatnonzero(label >= 0)
    center = weighted_means(label[inside], width[inside] ** -2, x[inside], y[inside])
    row, photon, _ = near_photons(field, *center)
    core2 = (POSITIONS["core"] * width[photon]) ** 2
    for _ in range(POSITIONS["rounds"]):
        distance2 = (x[photon] - center[0, row]) ** 2 + (y[photon] - center[1, row]) ** 2
        # the gradient of a King profile
        weight = (1 + distance2 / (2 * POSITIONS["gamma"] * core2)) ** (-POSITIONS["gamma"] - 1)
        center = weighted_means(row, weight / core2, x[photon], y[photon])
    return center


def weighted_means(row, weight, *values):
    """Weighted means (n_values, n) of values (m,) of each row."""
    total = np.bincount(row, weight)
    return np.array([np.bincount(row, weight * value) / total for value in values])


def strongest(x, y, score):
    """The positions and scores without those close to one of a higher score."""
    x, y, score = np.array([x, y, score])[:, np.argsort(-score)]
    kept = np.ones(len(x), dtype=bool)
    pairs = KDTree(np.c_[x, y]).query_pairs(POSITIONS["separation_pix"], output_type="ndarray")
    for first, second in pairs[np.lexsort(pairs.T[::-1])]:
        kept[second] &= ~kept[first]
    return x[kept], y[kept], score[kept]
