"""Diffuse emission: interstellar shapes or cubes and isotropic, normalized to the LAT's sky.

The shapes are built in (gas in a disc and around the Sun, an inverse Compton halo, the two bubbles,
Loop I) or read from files. Spectra are integrated over energy bins by power laws between the known
energies, and turned into expected densities of photons or into random photons.
"""

from dataclasses import dataclass, field

import healpy
import numpy as np

from astro_unetloc.cubes import check_smooth, find_map, is_map, read_sky_map, values_at
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.files import find_hdu, open_fits
from astro_unetloc.irf.spectra import (
    INTENSITY_UNIT,
    draw_energy,
    integrate_intensity,
    read_isotropic,
)
from astro_unetloc.maps.photons import CHUNK_PHOTONS, Photons
from astro_unetloc.sphere import healpix_centers, separation_deg, vectors_from_lonlat

# Edges (GeV) of the bins in which intensities are given, and of the bins below them.
ENERGY_EDGES = np.array([10.0, 18.651314, 47.50874, 165.26936, 574.925, 2000.0])
LOW_ENERGY_EDGES = np.array([0.3, 0.5, 1.0, 2.0, 4.0, 7.0, 10.0])
_ALL_EDGES = np.concatenate([LOW_ENERGY_EDGES, ENERGY_EDGES[1:]])

# Intensities (ph cm-2 s-1 sr-1 per bin, for a shape of mean 1) of the built-in shapes and of each
# set of templates: `python benchmarks/fit_diffuse.py DATA`, a fit to the 3FHL all-sky counts cube
# and its |b| and longitude profiles, with the mean numbers of `population`.
# Above 20 GeV the built-in halo and loop are too faint to fit; their spectra are those of the gas
# and of inverse Compton emission, E^-2.6.
_INTENSITY = {
    "GAS": (5.9e-08, 2.68e-08, 7.74e-09, 1.32e-09, 2.35e-10),
    "IC": (2.1e-09, 1.05e-09, 2.5e-10, 3.5e-11, 5e-12),
    "BUBBLES": (2.24e-09, 1.32e-09, 4.48e-10, 4.43e-11, 2.82e-12),
    "LOOP": (3.47e-10, 1.58e-10, 4.6e-11, 7.7e-12, 1.3e-12),
    "ISOTROPIC": (2.84e-08, 1.38e-08, 3.34e-09, 3.76e-10, 9.37e-11),
}

TEMPLATE_SETS = {
    "PIBREM+ICS": {
        "PIBREM": (4.13e-08, 1.94e-08, 5.77e-09, 1.03e-09, 2.04e-10),
        "ICS": (1.67e-08, 7.12e-09, 1.72e-09, 1.89e-10, 3.79e-12),
        "BUBBLES": (2.67e-09, 1.62e-09, 5e-10, 5.15e-11, 2.04e-12),
        "ISOTROPIC": (2.96e-08, 1.45e-08, 3.65e-09, 4.8e-10, 1.3e-10),
    },
    "API+AIC": {
        "API": (4.81e-08, 2.21e-08, 6.87e-09, 1.23e-09, 2.22e-10),
        "AIC": (1.28e-08, 5.79e-09, 7.37e-10, 1.47e-11, 2.95e-13),
        "BUBBLES": (2.3e-09, 1.44e-09, 4.42e-10, 4.28e-11, 1.09e-12),
        "ISOTROPIC": (2.73e-08, 1.33e-08, 3.61e-09, 4.83e-10, 1.12e-10),
    },
    "FPI+FIC": {
        "FPI": (5.37e-08, 2.39e-08, 6.98e-09, 1.21e-09, 2.09e-10),
        "FIC": (1.05e-08, 5.69e-09, 1.34e-09, 1.46e-10, 3.73e-11),
        "BUBBLES": (1.67e-09, 1.04e-09, 3.48e-10, 3.3e-11, 6.59e-13),
        "ISOTROPIC": (2.65e-08, 1.28e-08, 3.15e-09, 3.81e-10, 9.02e-11),
    },
    "P6V11": {
        "P6V11": (6.11e-08, 2.79e-08, 7.95e-09, 1.32e-09, 2.37e-10),
        "BUBBLES": (1.58e-09, 1.08e-09, 3.36e-10, 2.35e-11, 4.71e-13),
        "ISOTROPIC": (2.95e-08, 1.43e-08, 3.52e-09, 4.23e-10, 9.98e-11),
    },
}

# Weights of the gas of each set, from the same fit: see `tilt`. The templates alone leave
# residuals of 25-35 % in the inner Galaxy.
_TILT = {
    "PIBREM": (2.485, 0.419, 0.096, 0.099),
    "API": (1.642, 0.719, 0.639, 0.793),
    "FPI": (0.997, 1.01, 0.993, 0.554),
    "P6V11": (1.19, 0.923, 0.887, 0.244),
}

# Intensities in the bins of LOW_ENERGY_EDGES relative to the first of ENERGY_EDGES: of gas and
# inverse Compton the official model gll_iem_v07 within 5 deg of the Galactic centre, of isotropic
# emission iso_P8R2_SOURCE_V6_v06, of the bubbles and the loop E^-1.9 (arXiv:1407.7905).
_LOW_RATIO = {
    "": (84.1, 67.7, 31.8, 12.58, 3.99, 1.211),
    "ISOTROPIC": (47.0, 25.9, 9.06, 3.28, 1.546, 0.838),
    "BUBBLES": (20.1, 16.0, 8.59, 4.60, 2.10, 0.882),
    "LOOP": (20.1, 16.0, 8.59, 4.60, 2.10, 0.882),
}

_SMOOTH = ("ISOTROPIC", "BUBBLES", "IC", "LOOP")  # components without lumps

_MAX_SUBPIXELS = 4  # per side of a HEALPix pixel
_MAX_RATIO = 30.0  # between the emission of files and of the sky; units differ by more
_MAX_PHOTONS = 2e9  # of a sky: 64 GB

# Loop I is a shell around this Galactic direction with this outer radius (Berkhuijsen et al. 1971,
# A&A 14, 252); the bubbles are two ellipses (arXiv:1407.7905) that meet at the centre.
_LOOP_CENTER_DEG = (329.0, 17.5)
_LOOP_RADIUS_DEG = 58.0
_PLANE_HEIGHT = 0.03  # sine of the latitude scale of the molecular gas
_N_CLOUDS = 400


@dataclass(frozen=True)
class Galaxy:
    """Parameters of the built-in shapes; the defaults are fitted by benchmarks/fit_diffuse.py."""

    disc_height: float = 0.0229  # scale of the sine of latitude of the gas of the thin disc
    # brightness of the gas at equal steps of longitude, from 0 upwards: of the disc, the largest
    # about 1, and around the Sun, relative to the disc
    disc_profile: tuple = (
        0.734, 0.686, 0.936, 0.534, 0.06, 0.436, 0.067, 0.045, 0.028, 0.046, 0.0, 0.0, 0.0, 0.016,
        0.0, 0.0, 0.0, 0.009, 0.098, 0.193, 0.223, 0.632, 0.638, 1.0,
    )  # fmt: skip
    local_profile: tuple = (0.1182, 0.0749, 0.089, 0.0615, 0.0506, 0.0799)
    local_height: float = 0.2168  # scale of the sine of latitude of the gas around the Sun
    halo_height_deg: float = 25.6  # half axes of the inverse Compton halo in latitude, longitude
    halo_width_deg: float = 53.6
    halo_index: float = 4.96  # power with which the halo falls outside
    bubble_width_deg: float = 21.7  # half axis of a bubble in longitude
    bubble_height_deg: float = 56.1  # its full height in latitude
    loop_thickness: float = 0.142  # of the shell of Loop I, relative to its radius


@dataclass(frozen=True)
class Diffuse:
    """Interstellar and isotropic emission on HEALPix pixels (RING, Galactic)."""

    nside: int
    shapes: dict  # name to shape (n_pixels,) of mean 1
    intensity: dict  # name to intensities in the bins of ENERGY_EDGES, ph cm-2 s-1 sr-1
    low: dict = field(default_factory=dict)  # the same in LOW_ENERGY_EDGES, where it is known
    # Emission whose shape changes with energy: energies (m,) in GeV and intensities (m, n_pixels)
    # in ph cm-2 s-1 sr-1 GeV-1.
    cube: tuple | None = None
    galaxy: Galaxy | None = None  # parameters of the built-in shapes

    def maps(self, energy_edges=ENERGY_EDGES):
        """Components in energy bins (GeV, 0.3 to 2000): name, shape of mean 1, intensity per bin.

        Intensities (n_bins,) are in ph cm-2 s-1 sr-1; a cube comes bin by bin, as "INTERSTELLAR 1"
        and so on.
        """
        edges = np.asarray(energy_edges, dtype=float)
        for name, shape in self.shapes.items():
            intensity, known = self.intensity[name], ENERGY_EDGES
            if edges[0] < ENERGY_EDGES[0] * (1 - 1e-6) and name in self.low:
                intensity, known = np.concatenate([self.low[name], intensity]), _ALL_EDGES
            yield name, shape, _rebin_intensity(intensity, known, edges)
        planes = () if self.cube is None else integrate_intensity(*self.cube, edges)
        for number, plane in enumerate(planes):
            mean = plane.mean()
            shape = plane / mean if mean > 0 else np.ones(len(plane))
            per_bin = mean * (np.arange(len(edges) - 1) == number)
            yield f"INTERSTELLAR {number + 1}", shape, per_bin


def energy_bins(emin, emax):
    """Edges (GeV) of an energy range (GeV, 0.3 to 2000) and the known edges inside of it."""
    edges = _ALL_EDGES
    if not edges[0] <= emin < emax <= edges[-1]:
        raise InputError(
            f"energies must increase and lie within {edges[0]:g}-{edges[-1]:g} GeV; got {emin:g} "
            f"to {emax:g} GeV; choose others"
        )
    return np.concatenate([[emin], edges[(edges > emin) & (edges < emax)], [emax]])


def interstellar(template=None, *, variant="P6V11", nside=256, isotropic=None):
    """``Diffuse`` emission from 0.3 GeV to 2 TeV, normalized to the sky that the LAT observes.

    ``template`` is a HEALPix FITS table with the columns ``variant`` of ``TEMPLATE_SETS``, or a
    cube over energy such as the official ``gll_iem`` (WCS or HEALPix); without it the shapes are
    built in. ``isotropic`` is a spectrum in the official text format; the built-in one leaves out
    the emission of simulated sources that are too faint to be detected.
    """
    if variant not in TEMPLATE_SETS:
        raise InputError(
            f"variant must be one of {', '.join(TEMPLATE_SETS)}; got {variant!r}; choose one"
        )
    galaxy = cube = None
    if template is None:
        galaxy = Galaxy()
        shapes, intensity = galaxy_shapes(galaxy, nside), dict(_INTENSITY)
    elif _is_template_cube(template):
        cube = _read_template_cube(template, nside)
        shapes, intensity = {}, {"ISOTROPIC": _INTENSITY["ISOTROPIC"]}
    else:
        intensity = dict(TEMPLATE_SETS[variant])
        names = [name for name in intensity if name != "ISOTROPIC"]
        shapes = read_template_shapes(template, names, nside)
        for name in shapes.keys() & _TILT.keys():
            tilted = tilt(shapes[name], _TILT[name])
            shapes[name] = tilted / tilted.mean()
    shapes["ISOTROPIC"] = np.ones(12 * nside**2)
    intensity = {name: np.array(values) for name, values in intensity.items()}
    low = {
        name: np.array(_LOW_RATIO.get(name, _LOW_RATIO[""])) * values[0]
        for name, values in intensity.items()
    }
    if isotropic is not None:
        spectrum = read_isotropic(isotropic)
        for target, edges in ((intensity, ENERGY_EDGES), (low, LOW_ENERGY_EDGES)):
            target["ISOTROPIC"] = np.array(list(integrate_intensity(*spectrum, edges)))
    diffuse = Diffuse(nside, shapes, intensity, low, cube, galaxy)
    if template is not None or isotropic is not None:
        _check_magnitude(diffuse)
    return diffuse


def _check_magnitude(diffuse):
    """Warn of emission far from that of the sky, such as that of a file in other units."""
    band = ENERGY_EDGES[:2]
    found = {name: per_bin[0] for name, _, per_bin in diffuse.maps(band)}
    known = {name: values[0] for name, values in _INTENSITY.items()}
    ratios = {"isotropic": found["ISOTROPIC"] / known["ISOTROPIC"]}
    ratios["whole diffuse"] = sum(found.values()) / sum(known.values())
    for name, ratio in ratios.items():
        if not 1 / _MAX_RATIO < ratio < _MAX_RATIO:
            warn(
                f"the {name} emission of {band[0]:g}-{band[1]:.3g} GeV is {ratio:.2g} times that "
                f"of the sky; is its file in ph {INTENSITY_UNIT}?"
            )


def perturb(diffuse, rng, *, scatter=0.15, small_scale=0.25, slope=2.6):
    """Another sky of the same kind, so that no two skies have the same model.

    ``scatter`` is the standard deviation of the logarithm of each normalization and of each
    parameter of the built-in shapes; ``small_scale`` that of a log-normal field on the interstellar
    components (angular power spectrum ``l ** -slope`` from l = 20), and the largest fraction of
    built-in gas that is moved into clouds.
    """
    lumps = np.exp(_gaussian_field(diffuse.nside, small_scale, slope, rng) - small_scale**2 / 2)
    factor = {n: np.exp(rng.normal(0, scatter)) for n in diffuse.intensity}
    shapes = dict(diffuse.shapes)
    if diffuse.galaxy is not None:
        shapes |= galaxy_shapes(draw_galaxy(diffuse.galaxy, rng, scatter=scatter), diffuse.nside)
        fraction = small_scale * rng.random()
        shapes["GAS"] = add_clouds(shapes["GAS"], diffuse.nside, rng, fraction=fraction)
    shapes = {n: s if n in _SMOOTH else s * lumps for n, s in shapes.items()}
    intensity = {n: v * factor[n] for n, v in diffuse.intensity.items()}
    low = {n: v * factor[n] for n, v in diffuse.low.items()}
    cube = diffuse.cube
    if cube is not None:  # one factor for all energies: a cube keeps its spectrum
        scale = np.exp(rng.normal(0, scatter)) * lumps
        cube = cube[0], cube[1] * scale.astype(np.float32)
    return Diffuse(diffuse.nside, shapes, intensity, low, cube)


def _gaussian_field(nside, sigma, slope, rng):
    """Random field (n_pixels,) (RING) of power spectrum ``l ** -slope`` above l = 20."""
    degree = np.arange(2 * nside + 1)
    power = np.where(degree >= min(20, nside), np.maximum(degree, 1.0) ** -slope, 0.0)
    power *= 4 * np.pi * sigma**2 / np.sum((2 * degree + 1) * power)
    # healpy.synfast draws from NumPy's global generator; its coefficients are drawn here instead
    ell, m = healpy.Alm.getlm(degree[-1])
    alm = rng.normal(size=len(ell)) + 1j * rng.normal(size=len(ell)) * (m > 0)
    alm *= np.sqrt(power[ell] / np.where(m > 0, 2, 1))
    return healpy.alm2map(alm, nside)


def expected_density(diffuse, exposure, psf, energy_edges):
    """Expected photons per square degree, (n_pixels, n_bins) of float32 (HEALPix RING, Galactic).

    The resolution is that of ``diffuse``; where the PSF is wider than a pixel the map is blurred.
    """
    density = np.zeros((12 * diffuse.nside**2, len(energy_edges) - 1), dtype=np.float32)
    for spatial, per_bin in _rates(diffuse, exposure, energy_edges):
        density += spatial[:, None] * per_bin
    resolution = healpy.nside2resol(diffuse.nside, arcmin=True) / 60
    for number, energy in enumerate(np.sqrt(energy_edges[1:] * energy_edges[:-1])):
        if psf.containment_radius(0.68, energy) > resolution:
            window = _window(psf, energy, 3 * diffuse.nside - 1)
            smooth = healpy.smoothing(density[:, number], beam_window=window, iter=1)
            smooth = np.maximum(smooth, 0)  # sharp edges ring; the number of photons is kept
            density[:, number] = smooth * (density[:, number].sum() / max(smooth.sum(), 1e-30))
    return density / np.float32(healpy.nside2pixarea(diffuse.nside, degrees=True))


def draw_true_photons(diffuse, exposure, energy_edges, rng, *, wanted=None):
    """Random true directions and energies of diffuse photons, a chunk of `Photons` at a time.

    ``wanted`` (n_pixels,) of bool restricts them to some of the pixels.
    """
    for spatial, per_bin in _rates(diffuse, exposure, energy_edges):
        cumulative = np.cumsum(spatial if wanted is None else spatial * wanted)
        check_number(cumulative[-1] * per_bin.sum())
        for number, low, high in zip(
            rng.poisson(cumulative[-1] * per_bin), energy_edges[:-1], energy_edges[1:]
        ):
            for start in range(0, number, CHUNK_PHOTONS):
                n = min(CHUNK_PHOTONS, number - start)
                draws = np.sort(rng.random(n)) * cumulative[-1]  # sorted: a quicker search
                pixels = np.searchsorted(cumulative, draws, side="right")
                vectors = _points_inside(diffuse.nside, pixels, rng)
                yield Photons(vectors, draw_energy(rng.random(n), low, high))


def check_number(n_photons):
    """Raise an error unless so many photons can be drawn."""
    if not n_photons < _MAX_PHOTONS:
        raise InputError(
            f"a simulated sky may have {_MAX_PHOTONS:g} photons; got {n_photons:.2g}; simulate "
            "fewer years, higher energies or a part of the sky, or correct the files"
        )


def _rates(diffuse, exposure, energy_edges):
    """Expected photons of each component: of a pixel (n_pixels,), and a factor per bin."""
    centers = healpix_centers(diffuse.nside, np.arange(12 * diffuse.nside**2), nest=False)
    area = healpy.nside2pixarea(diffuse.nside)
    relative = exposure.relative(np.sqrt(energy_edges[1:] * energy_edges[:-1]))
    exposure_map = exposure.sky(centers) * area
    for _, shape, per_bin in diffuse.maps(energy_edges):
        yield shape * exposure_map, per_bin * relative


def _window(psf, energy, lmax):
    """Legendre coefficients (lmax + 1,) of the PSF at an energy in GeV: the mean of P_l."""
    edges = np.concatenate([[0.0], np.geomspace(1e-2, 20.0, 400)])
    fraction = np.diff(psf.containment(edges, energy))
    fraction[-1] += 1 - fraction.sum()  # what falls beyond ends there, as in `sample_offset`
    cos = np.cos(np.radians((edges[1:] + edges[:-1]) / 2))
    return fraction @ np.polynomial.legendre.legvander(cos, lmax)


def _points_inside(nside, pixels, rng):
    """Random direction inside each HEALPix pixel (RING), unit vectors (n, 3)."""
    # A random one of 4^10 sub-pixels is a random point in an equal-area pixel.
    fine = healpy.ring2nest(nside, pixels).astype(np.int64) * 4**10
    fine += rng.integers(0, 4**10, len(pixels))
    return healpix_centers(nside * 2**10, fine, nest=True)


def _rebin_intensity(intensity, edges, new_edges):
    """Integrals over new bins (GeV) of intensities (n_bins,) that are integrals over bins.

    Inside a bin the spectrum is the power law between the neighbours; the integral of a bin stays
    the same, so that bins with common edges are summed exactly.
    """
    low, high = edges[[0, -1]]
    if new_edges[0] < low * (1 - 1e-6) or new_edges[-1] > high * (1 + 1e-6):
        raise InputError(
            f"the spectrum is known from {low:g} to {high:g} GeV; got bins from {new_edges[0]:g} "
            f"to {new_edges[-1]:g} GeV; choose bins inside"
        )
    center = (np.log(edges[1:]) + np.log(edges[:-1])) / 2
    density = np.log(np.maximum(intensity, 1e-300) / np.diff(edges))
    slope = 1 + np.clip(np.gradient(density, center), -6, 2)  # of the integral
    slope = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
    number = np.clip(np.searchsorted(edges, new_edges, side="right") - 1, 0, len(intensity) - 1)
    start, stop, power = edges[number], edges[number + 1], slope[number]
    part = ((new_edges / start) ** power - 1) / ((stop / start) ** power - 1)
    total = np.concatenate([[0.0], np.cumsum(intensity)])
    return np.diff(total[number] + np.clip(part, 0, 1) * intensity[number])


# Built-in shapes


def galaxy_shapes(galaxy, nside, *, normalized=True):
    """Maps (n_pixels,) (RING) of "GAS", "IC", "BUBBLES" and "LOOP", of mean 1 if ``normalized``."""
    lon, lat = _pixel_lonlat(nside)
    lon = (lon + 180) % 360 - 180
    halo = np.hypot(lat / galaxy.halo_height_deg, lon / galaxy.halo_width_deg)
    middle = galaxy.bubble_height_deg / 2
    ellipse = (lon / galaxy.bubble_width_deg) ** 2 + ((np.abs(lat) - middle) / middle) ** 2
    shapes = {
        "GAS": _gas(galaxy, lon, np.abs(np.sin(np.radians(lat)))),
        "IC": (1 + halo) ** -galaxy.halo_index,
        "BUBBLES": (ellipse < 1).astype(float),
        "LOOP": _loop(galaxy, lon, lat),
    }
    return {n: s / s.mean() if normalized else s for n, s in shapes.items()}


def _pixel_lonlat(nside):
    """Galactic longitude and latitude in degrees of all HEALPix pixels (RING)."""
    return healpy.pix2ang(nside, np.arange(12 * nside**2), nest=False, lonlat=True)


def _gas(galaxy, lon, sin_lat):
    """Brightness of the gas of the thin disc and around the Sun."""
    disc, local = (
        np.interp(lon, np.arange(len(profile)) * 360 / len(profile), profile, period=360)
        for profile in (galaxy.disc_profile, galaxy.local_profile)
    )
    disc = disc * np.exp(-sin_lat / galaxy.disc_height)
    return disc + local / (1 + sin_lat / galaxy.local_height) ** 2


def _loop(galaxy, lon, lat):
    """Depth of a shell along the line of sight, observed from a point inside its far distance."""
    center = vectors_from_lonlat(*_LOOP_CENTER_DEG)
    distance = separation_deg(vectors_from_lonlat(lon, lat), center) / _LOOP_RADIUS_DEG
    outer = np.sqrt(np.clip(1 - distance**2, 0, None))
    inner = np.sqrt(np.clip((1 - galaxy.loop_thickness) ** 2 - distance**2, 0, None))
    return outer - inner


def tilt(shape, weights):
    """Shape (n_pixels,) (RING) times a sum of weighted windows: centre, two sides, plane.

    The first three weights belong to the windows (1 + cos l) / 2 and (1 - cos l)(1 +- sin l) / 4 of
    Galactic longitude, which add up to one: the density of cosmic rays varies over the Galaxy. The
    fourth adds the first window times exp(-abs(sin b) / 0.03).
    """
    nside = int(np.sqrt(len(shape) / 12))
    lon, lat = np.radians(_pixel_lonlat(nside))
    cos, sin = np.cos(lon), np.sin(lon)
    windows = [(1 + cos) / 2, (1 - cos) * (1 + sin) / 4, (1 - cos) * (1 - sin) / 4]
    windows.append(windows[0] * np.exp(-np.abs(np.sin(lat)) / _PLANE_HEIGHT))
    return shape * sum(weight * window for weight, window in zip(weights, windows))


def draw_galaxy(galaxy, rng, *, scatter):
    """Galaxy each of whose parameters is scattered; ``scatter`` is the sigma of its logarithm."""
    drawn = {}
    for name, value in vars(galaxy).items():
        value = np.array(value) * np.exp(rng.normal(0, scatter, np.shape(value)))
        drawn[name] = tuple(value) if value.shape else float(value)
    return Galaxy(**drawn)


def add_clouds(shape, nside, rng, *, fraction):
    """Gas (n_pixels,) (RING) of which a fraction is moved into clouds; its mean stays the same.

    Clouds are drawn where the gas is; their sizes are log-normal around 1.5 deg.
    """
    cumulative = np.cumsum(shape)
    centers = np.searchsorted(cumulative, rng.random(_N_CLOUDS) * cumulative[-1])
    size_deg = np.clip(rng.lognormal(np.log(1.5), 0.6, _N_CLOUDS), 0.3, 6.0)
    brightness = rng.lognormal(0.0, 0.8, _N_CLOUDS)
    clouds = np.zeros(len(shape))
    for center, size, total in zip(centers, np.radians(size_deg), brightness):
        vector = np.array(healpy.pix2vec(nside, center, nest=False))
        near = healpy.query_disc(nside, vector, 3 * size, inclusive=True)
        away = healpix_centers(nside, near, nest=False) - vector
        profile = np.exp(-np.sum(away**2, axis=1) / (2 * size**2))
        clouds[near] += total * profile / profile.sum()
    return (1 - fraction) * shape + fraction * clouds * (shape.sum() / clouds.sum())


# Files


def _is_template_cube(path):
    """Whether a file holds emission at several energies, not shapes without energy."""
    hdus, _ = open_fits(path)
    with hdus:
        hdu = next(filter(is_map, hdus), None)
        if hdu is None or hdu.is_image:
            return hdu is not None and hdu.header["NAXIS"] == 3
        return find_hdu(hdus, "ENERGIES", f"{hdu.name}_BANDS") is not None


def read_template_shapes(path, names, nside):
    """Shapes (n_pixels,) of mean 1 (RING) of named columns of a Galactic HEALPix FITS table."""
    hdus, _ = open_fits(path)
    with hdus:
        table = hdus[1] if len(hdus) > 1 else hdus[0]
        known = table.columns.names if hasattr(table, "columns") else []
        if not set(names) <= set(known):
            raise InputError(
                f"{path}: expected the template columns {', '.join(names)}; got "
                f"{', '.join(known) or 'no table'}; choose another set of templates"
            )
        columns = {n: np.ravel(table.data[n]).astype(float) for n in names}
        order = str(table.header.get("ORDERING", "")).upper()
        frame = str(table.header.get("COORDSYS", "G")).upper()
    n_pixels = len(columns[names[0]])
    known = order in ("RING", "NESTED", "NEST") and frame.startswith("G")
    if not (known and healpy.isnpixok(n_pixels)):
        raise InputError(
            f"{path}: expected whole-sky templates in RING or NESTED order and Galactic "
            f"coordinates; got {n_pixels} pixels, ORDERING {order or 'unknown'} and COORDSYS "
            f"{frame}; convert them"
        )
    lon, lat = _pixel_lonlat(nside)
    shapes = {}
    for name, column in columns.items():
        if not (np.all(np.isfinite(column)) and column.min() >= 0 and column.max() > 0):
            raise InputError(
                f"{path}: expected a template that is finite and nowhere negative; got other "
                f"values in {name}; correct it"
            )
        nested = order.startswith("NEST")
        shape = healpy.get_interp_val(column, lon, lat, nest=nested, lonlat=True)
        # interpolation rounds zeros to a little below zero, which no probability can be
        shape = np.maximum(shape, 0.0)
        shapes[name] = shape / shape.mean()
    return shapes


def _read_template_cube(path, nside):
    """Emission at several energies, such as the official model of the Galaxy, on HEALPix pixels.

    Energies (m,) in GeV and intensities (m, n_pixels) of float32 in ph cm-2 s-1 sr-1 GeV-1 (RING,
    Galactic). A file without a unit is in ph cm-2 s-1 sr-1 MeV-1; sky outside of it does not emit.
    """
    what = "interstellar emission"
    hdus, _ = open_fits(path)
    with hdus:
        hdu = find_map(hdus, "", what, path)
        cube = read_sky_map(hdus, hdu, what=what, unit=INTENSITY_UNIT)
    if not cube.geom.axes or cube.geom.axes[0].nbin < 2:
        raise InputError(f"{what} needs two or more energies; got one in {path}")
    check_smooth(cube, what)
    energy, unit = cube.geom.axes[0].center.to_value("GeV"), cube.unit.to(INTENSITY_UNIT)
    pixel_deg = np.min(cube.geom.to_image().pixel_scales.to_value("deg"))
    # every small pixel of the cube must count: several points in each pixel of the result
    size_deg = np.degrees(np.sqrt(np.pi / 3)) / nside
    step = 2 ** int(np.ceil(np.log2(np.clip(size_deg / pixel_deg, 1, None))))
    step = min(step, _MAX_SUBPIXELS)
    n_pixels = 12 * nside**2
    values = np.empty((len(energy), n_pixels), dtype=np.float32)
    n_inside = 0
    for pixels in np.array_split(np.arange(n_pixels), max(n_pixels * step**2 // 500_000, 1)):
        nested = healpy.ring2nest(nside, pixels)[:, None] * step**2 + np.arange(step**2)
        vectors = healpix_centers(nside * step, nested.ravel(), nest=True)
        found = values_at(cube, vectors) * unit
        n_inside += np.isfinite(found[0]).sum()
        mean = np.nan_to_num(found).reshape(len(found), len(pixels), step**2).mean(axis=2)
        values[:, pixels] = 1e3 * mean
    fraction = n_inside / (n_pixels * step**2)
    if fraction == 0:
        raise InputError(f"{path} covers no HEALPix pixel of nside {nside}; choose a finer one")
    if fraction < 0.999:
        warn(f"{path} covers {100 * fraction:.2g} % of the sky; nothing else of the sky emits")
    return energy, values
