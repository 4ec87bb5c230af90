"""Point-spread function of the LAT, built in or from tables, and its profiles in energy bins.

Energy dispersion is left out: above 1 GeV it is 5-10 % (68 %), small against any band used here;
at 0.3 GeV it is 20 % and would move photons into the next band of a finer binning.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.units import Quantity, Unit

from astro_unetloc.cubes import energy_column
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import find_hdu, open_fits
from astro_unetloc.irf.spectra import PHOTON_INDEX, energy_nodes
from astro_unetloc.sphere import circle_in_disc, lonlat_from_vectors

# Two King functions per energy, fitted to the containment radii of the gtpsf table of
# P8R2_SOURCE_V6 (front+back) towards the Galactic centre (3FHL, arXiv:1702.00664):
# energy (GeV), fraction in the core, sigma_core (deg), gamma_core, sigma_tail (deg), gamma_tail.
# The 68 % containment radius agrees within 2 %, the 95 % radius within 2 %, the 99 % one in 9 %.
# Below 10 GeV there is no table to fit. The 68 % radius is sqrt((0.792 E^-0.8)^2 + 0.0934^2) deg:
# the form of the LAT's scaling function (arXiv:1206.1896, section 6), through 0.508 deg at
# 1.78 GeV of P8R3_SOURCE_V3 and the fit at 10 GeV; its 0.167 deg at 8.72 GeV is met within 2 %.
# The ratio of the 95 % to the 68 % radius falls from 4.6 at 10 GeV to 3.0 at 1 GeV and stays; that
# is an assumption, as is the core's index, which grows to 2.6.
_PSF_TABLE = np.array(
    [
        (0.3, 0.9266, 0.81486, 2.6, 4.33905, 6.0338),
        (0.4018, 0.9266, 0.64539, 2.6, 3.43661, 6.0338),
        (0.5382, 0.9266, 0.51134, 2.6, 2.72284, 6.0338),
        (0.7208, 0.9266, 0.40537, 2.6, 2.15854, 6.0338),
        (0.9655, 0.9266, 0.32165, 2.6, 1.71274, 6.0338),
        (1.2932, 0.9266, 0.24907, 2.5147, 1.47404, 6.0338),
        (1.7321, 0.9266, 0.19210, 2.4177, 1.26475, 6.0338),
        (2.3199, 0.9266, 0.14812, 2.3207, 1.07290, 6.0338),
        (3.1072, 0.9266, 0.11427, 2.2237, 0.90253, 6.0338),
        (4.1618, 0.9266, 0.08831, 2.1267, 0.75488, 6.0338),
        (5.5743, 0.9266, 0.06850, 2.0297, 0.62932, 6.0338),
        (7.4661, 0.9266, 0.05343, 1.9327, 0.52394, 6.0338),
        (10.0, 0.9266, 0.04197, 1.8357, 0.43564, 6.0338),
        (13.93, 0.9227, 0.03394, 1.8013, 0.36070, 5.7700),
        (19.4, 0.9187, 0.02904, 1.7668, 0.31394, 5.5061),
        (37.6, 0.8805, 0.02211, 1.7289, 0.20882, 3.6067),
        (72.9, 0.8335, 0.01936, 1.7386, 0.14868, 2.8570),
        (141.4, 0.7713, 0.01864, 1.7852, 0.11159, 2.4876),
        (274.2, 0.7240, 0.01797, 1.8269, 0.09106, 2.3490),
        (531.8, 0.6959, 0.01690, 1.8611, 0.07602, 2.2798),
        (1031.3, 0.6690, 0.01561, 1.8990, 0.06426, 2.2562),
        (2000.0, 0.6581, 0.01434, 1.9353, 0.05483, 2.2193),
    ]
)
_MAX_OFFSET_DEG = 20.0


@dataclass(frozen=True)
class KingPSF:
    r"""Built-in LAT point-spread function from 0.3 GeV to 2 TeV: a sum of two King functions.

    .. math:: P(x) = \frac{1}{2\pi\sigma^2} \left(1 - \frac{1}{\gamma}\right)
              \left(1 + \frac{x^2}{2\gamma\sigma^2}\right)^{-\gamma}

    (arXiv:1206.1896, equation 36).

    Attributes
    ----------
    scale : float
        Factor on all widths; 1 is that of P8R2_SOURCE_V6 front+back.
    """

    scale: float = 1.0

    energy_range = tuple(_PSF_TABLE[[0, -1], 0])  # in GeV
    max_offset_deg = _MAX_OFFSET_DEG  # largest displacement of a photon

    def _parameters(self, energy):
        """Core fraction, sigma (2, ...) in deg and gamma of core and tail at energies in GeV."""
        row, weight = energy_nodes(energy, _PSF_TABLE[:, 0], "built-in PSF")
        columns = _PSF_TABLE.T[1:]
        fraction, *columns = columns[:, row] + weight * (columns[:, row + 1] - columns[:, row])
        return fraction, np.multiply(columns[::2], self.scale), np.array(columns[1::2])

    def containment(self, radius_deg, energy):
        """Fraction of the photons of energies in GeV within radii in degrees, broadcast."""
        fraction, *core_and_tail = self._parameters(energy)
        core, tail = (
            1 - (1 + np.square(radius_deg) / (2 * gamma * sigma**2)) ** (1 - gamma)
            for sigma, gamma in zip(*core_and_tail)
        )
        return fraction * core + (1 - fraction) * tail

    def containment_radius(self, fraction, energy):
        """Radius in degrees that contains a fraction of the photons of one energy in GeV."""
        grid = np.geomspace(1e-4, self.max_offset_deg, 4000)
        return float(np.interp(fraction, self.containment(grid, energy), grid))

    def sample_offset(self, energy, rng):
        """Random offsets in degrees, shape (n,), of photons of energies (n,) in GeV."""
        fraction, *core_and_tail = self._parameters(energy)
        in_core = rng.random(len(fraction)) < fraction
        sigma, gamma = (np.where(in_core, core, tail) for core, tail in core_and_tail)
        u = rng.random(len(fraction))
        offset = sigma * np.sqrt(2 * gamma * ((1 - u) ** (1 / (1 - gamma)) - 1))
        return np.minimum(offset, self.max_offset_deg)


@dataclass(frozen=True, eq=False)
class TablePSF:
    """Point-spread function of a table such as that of gtpsf; the methods are those of `KingPSF`.

    Between two energies of the table a photon is drawn from the one or the other, so that the
    density is linear in ln E.
    """

    energy: np.ndarray  # (m,) in GeV, increasing
    angle_deg: np.ndarray  # (k,), increasing from 0
    density: np.ndarray  # (m, k) photons per solid angle in any unit; each row is normalized
    _inside: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        energy, angle, density = map(np.asarray, (self.energy, self.angle_deg, self.density))
        increase = all(len(axis) > 1 and np.all(np.diff(axis) > 0) for axis in (energy, angle))
        fits = density.shape == energy.shape + angle.shape
        fits = fits and np.all((density >= 0) & (density < np.inf))
        if not (increase and energy[0] > 0 and angle[0] == 0 and fits):
            raise InputError(
                "a PSF table must have increasing positive energies, angles that increase from 0 "
                f"and finite densities >= 0; got {energy[:3]} GeV, {angle[:3]} deg and densities "
                f"of shape {density.shape}; compute it with gtpsf"
            )
        object.__setattr__(self, "_inside", _cumulative(self.angle_deg, density))

    @property
    def energy_range(self):
        """Lowest and highest energy in GeV."""
        return tuple(self.energy[[0, -1]])

    @property
    def max_offset_deg(self):
        """Largest displacement of a photon in degrees."""
        return float(self.angle_deg[-1])

    def containment(self, radius_deg, energy):
        """Fraction of the photons of energies in GeV within radii in degrees, broadcast."""
        radius_deg, energy = np.broadcast_arrays(radius_deg, energy)
        row, weight = energy_nodes(energy, self.energy, "PSF table")
        inside = np.zeros(row.shape)
        for number in np.unique(row):
            here = row == number
            nodes = radius_deg[here] ** 2, self.angle_deg**2
            low, high = (np.interp(*nodes, self._inside[number + step]) for step in (0, 1))
            inside[here] = low + weight[here] * (high - low)
        return inside

    def containment_radius(self, fraction, energy):
        """Radius in degrees that contains a fraction of the photons of one energy in GeV."""
        row, weight = energy_nodes(energy, self.energy, "PSF table")
        inside = (1 - weight) * self._inside[row] + weight * self._inside[row + 1]
        return float(np.sqrt(np.interp(fraction, inside, self.angle_deg**2)))

    def sample_offset(self, energy, rng):
        """Random offsets in degrees, shape (n,), of photons of energies (n,) in GeV."""
        row, weight = energy_nodes(energy, self.energy, "PSF table")
        row = row + (rng.random(len(row)) < weight)
        u, squared = rng.random(len(row)), np.empty(len(row))
        for number in np.unique(row):
            here = row == number
            squared[here] = np.interp(u[here], self._inside[number], self.angle_deg**2)
        return np.sqrt(squared)


_MAX_RADIUS_DEG = 10.0  # of a Gaussian PSF


def _gaussian_psf(radius):
    """The same Gaussian at all energies, whose 68 % containment radius is an angle."""
    try:
        radius_deg = float(radius.to_value("deg"))
    except (TypeError, ValueError):
        radius_deg = np.nan
    if not 0 < radius_deg <= _MAX_RADIUS_DEG:
        raise InputError(
            f"the radius of the psf that holds 68 % must be an angle of at most {_MAX_RADIUS_DEG:g}"
            f" deg; got {radius}; give one such as 0.06 deg"
        )
    offset = np.linspace(0, 6, 1201)
    density = np.tile(np.exp(-(offset**2) / 2), (2, 1))
    sigma_deg = radius_deg / np.sqrt(-2 * np.log(1 - 0.68))
    return TablePSF(np.array([1e-9, 1e9]), sigma_deg * offset, density)


def _cumulative(angle_deg, density):
    """Fraction of the photons within each angle, shape (m, k), from 0 to 1."""
    # Inside a step the density is constant: `TablePSF` interpolates in the square of the angle.
    angle = np.radians(angle_deg)
    weight = np.asarray(density, dtype=float) * np.sin(angle)
    step = (weight[:, 1:] + weight[:, :-1]) / 2 * np.diff(angle)
    total = step.sum(axis=1, keepdims=True)
    if not np.all(total > 0):
        raise InputError("the PSF must have photons at every energy; got a row of zeros")
    return np.concatenate([np.zeros((len(step), 1)), np.cumsum(step, axis=1) / total], axis=1)


# Nodes are even in ln(1 + (offset / _CORE_DEG)^2): a thousandth of a degree apart in the core of
# the sharpest PSF, 1.6 % of the offset in the tails.
_CORE_DEG = 0.005
_N_NODES = 512
_STEP = np.log1p((_MAX_OFFSET_DEG / _CORE_DEG) ** 2) / (_N_NODES - 1)
_N_FINE = 4  # annuli per node when a profile is averaged over pixels
# Energies at which a bin is sampled: at least so many, and at most this far apart in ln E.
_N_ENERGIES, _MAX_STEP = 3, 0.3
_MAX_BELOW = 1.5  # a PSF table may begin this factor above the lowest energy
_FLOOR = 1e-15  # density per square degree beyond the end of a table


@dataclass(frozen=True, eq=False)
class PsfProfiles:
    """Density of the photons around a source in each energy bin, tabulated for fast look-up."""

    log_density: np.ndarray  # (n_energy, n_nodes): ln of photons per deg2, averaged over a pixel
    contained: np.ndarray  # (n_energy, n_nodes): fraction of the photons within each node

    def density(self, energy_bin, offset2_deg2):
        """Density per deg2 at squared offsets, and two derivatives of its logarithm by them.

        The bins of the photons and the offsets are broadcast; the derivatives are in deg-2, deg-4.
        """
        row, weight = _nodes_at(offset2_deg2)
        flat, gradients = self.log_density.ravel(), self._gradients
        first = row + np.asarray(energy_bin) * _N_NODES
        low, gradient = flat[first], gradients[first]
        step, change = flat[first + 1] - low, gradients[first + 1] - gradient
        gradient = gradient + weight * change
        scale = 1 / (_CORE_DEG**2 + offset2_deg2)
        hessian = (change / _STEP - gradient) * scale * scale
        return np.exp(low + weight * step), gradient * scale, hessian

    @cached_property
    def _gradients(self):
        """Derivative of the logarithm by the coordinate in which the nodes are even, flat."""
        return np.gradient(self.log_density, _STEP, axis=1).ravel()

    def densities32(self, energy_bin, offset2_deg2):
        """Density alone in single precision, in half the time for millions of values."""
        weight = np.log(offset2_deg2 * np.float32(_CORE_DEG**-2) + np.float32(1))
        weight *= np.float32(1 / _STEP)
        row = np.minimum(weight.astype(np.int32), _N_NODES - 2)
        weight -= row
        row += np.asarray(energy_bin, dtype=np.int32) * _N_NODES
        low = self._density32[row]
        row += 1
        return low + weight * (self._density32[row] - low)

    @cached_property
    def _density32(self):
        return np.exp(self.log_density).astype(np.float32).ravel()

    def containment(self, radius_deg):
        """Fraction (..., n_energy) within radii in degrees (..., n_energy), (..., 1) or ()."""
        row, weight = _nodes_at(np.square(radius_deg))
        each = np.arange(len(self.contained))
        low = self.contained[each, row]
        return low + weight * (self.contained[each, row + 1] - low)

    def containment_off(self, offset_deg, radius_deg):
        """Fraction (p, n_energy) of the photons in a disc whose centre lies at offsets (p,)."""
        middle = _node_offset(np.arange(_N_NODES - 1) + 0.5)
        fraction = circle_in_disc(np.reshape(offset_deg, (-1, 1)), middle, radius_deg)
        return fraction @ np.diff(self.contained, axis=1).T

    def effective_area(self):
        """Area (n_energy,) in square degrees over which background counts against a source.

        The inverse of the integral of the squared density: a source of N counts on a density B per
        square degree has the Poisson error of N + B times this area (King 1983, PASP 95, 163).
        """
        middle = (self.log_density[:, 1:] + self.log_density[:, :-1]) / 2
        return 1 / (np.exp(middle) * np.diff(self.contained, axis=1)).sum(axis=1)

    def rings(self, stride):
        """Density per square degree (n_energy, k) and area (k,) of rings of ``stride`` nodes."""
        area = np.pi * np.diff(_node_offset(np.arange(_N_NODES)[::stride]) ** 2)
        return np.diff(self.contained[:, ::stride], axis=1) / area, area

    def containment_radius(self, fraction):
        """Radii (n_energy, ...) in degrees that contain fractions (...) of the photons."""
        nodes = _node_offset(np.arange(_N_NODES))
        return np.array([np.interp(fraction, inside, nodes) for inside in self.contained])


def _nodes_at(offset2_deg2):
    """Lower node of squared offsets, and the weight of the next node."""
    position = np.log1p(np.asarray(offset2_deg2) * _CORE_DEG**-2) * (1 / _STEP)
    row = np.minimum(position.astype(np.int64), _N_NODES - 2)
    return row, position - row


def _node_offset(number):
    """Offset in degrees of the nodes of (fractional) numbers."""
    return _CORE_DEG * np.sqrt(np.expm1(_STEP * np.maximum(number, 0.0)))


def make_profiles(psf, energy_edges, *, disc_deg=0.0, exposure=None):
    """`PsfProfiles` of a PSF in energy bins with edges in GeV, averaged over a disc.

    The radius of the disc, a float or (n_energy,), is that of a pixel's area or of an extended
    source. ``exposure`` is a function of energies (m,) in GeV, in any unit: below 1 GeV it rises so
    fast that profiles are 1 % narrower than without it.
    """
    edges = _node_offset((np.arange(_N_NODES * _N_FINE + 1) - 0.5) / _N_FINE)
    inside = _bin_containment(psf, np.asarray(energy_edges, float), edges, exposure or np.ones_like)
    nodes = _node_offset(np.arange(_N_NODES))
    ends = _node_offset(np.arange(_N_NODES + 1) - 0.5)  # half a node before and after each node
    area = np.pi * np.diff(ends**2)
    if np.any(disc_deg):
        middle = _node_offset(np.arange(_N_NODES * _N_FINE) / _N_FINE)
        discs = np.broadcast_to(disc_deg, len(inside))
        density = np.empty((len(inside), _N_NODES))
        for radius_deg in np.unique(discs):
            fraction = circle_in_disc(nodes[:, None], middle, radius_deg) / (np.pi * radius_deg**2)
            rows = discs == radius_deg
            density[rows] = np.diff(inside[rows], axis=1) @ fraction.T
        held = np.cumsum(density * area, axis=1)
        inside = np.concatenate([np.zeros((len(held), 1)), held / held[:, -1:]], axis=1)
        edges = ends
    else:
        density = np.diff([np.interp(ends**2, edges**2, row) for row in inside], axis=1) / area
    contained = np.array([np.interp(nodes**2, edges**2, row) for row in inside])
    return PsfProfiles(np.log(np.maximum(density, _FLOOR)), contained)


def _bin_containment(psf, energy_edges, radius_deg, exposure):
    """Containment (n_energy, k) within radii (k,), averaged over the photons of each bin."""
    low, high = psf.energy_range
    if low > _MAX_BELOW * energy_edges[0]:
        raise InputError(
            f"the fit needs energy bins above {low:g} GeV, where its psf begins; got one from "
            f"{energy_edges[0]:g} GeV; select events above that energy, give psf, or do not measure"
        )
    width = np.log(energy_edges[1:] / energy_edges[:-1])
    total = np.zeros((len(width), len(radius_deg)))
    for number, (emin, step) in enumerate(zip(energy_edges[:-1], width)):
        n = max(_N_ENERGIES, int(np.ceil(step / _MAX_STEP)))
        log_energy = (np.arange(n) + 0.5) / n * step
        energy = np.clip(emin * np.exp(log_energy), low, high)  # above, it does not change
        weight = np.exp((1 - PHOTON_INDEX) * log_energy) * exposure(energy)
        total[number] = sum(w * psf.containment(radius_deg, e) for w, e in zip(weight, energy))
        total[number] /= weight.sum()
    return total


def read_psf(value):
    """Point-spread function from a file of gtpsf or gammapy or a radius, for `psf_of`.

    Parameters
    ----------
    value : str, pathlib.Path, Quantity, gammapy PSFMap or PSFKernel, KingPSF, TablePSF or None
        The file; of a gammapy dataset the HDU PSF. An angle is the radius that holds 68 % of the
        photons of a Gaussian at all energies. Other values are returned as they are.

    Raises
    ------
    InputError
        If the file holds no PSF, or the radius is no angle of up to 10 deg.

    Examples
    --------
    >>> import astropy.units as u
    >>> psf = read_psf(0.06 * u.deg)
    >>> round(psf.containment_radius(0.68, 1000.0), 4)
    0.06
    """
    if value is None or isinstance(value, (KingPSF, TablePSF)):
        return value
    if isinstance(value, Quantity):
        return _gaussian_psf(value)
    from gammapy.irf import PSFKernel, PSFMap  # takes 0.25 s, and few runs need it

    if isinstance(value, (PSFMap, PSFKernel)):
        return value
    if not isinstance(value, (str, Path)):
        raise TypeError(
            "psf must be a path, a radius such as 0.06 * u.deg, or a gammapy PSFMap or PSFKernel; "
            f"got {type(value).__name__}"
        )
    with open_fits(value)[0] as hdus:
        return psf_from_hdus(hdus, value)


def psf_from_hdus(hdus, path):
    """PSFMap of gammapy from an open file of gtpsf or gammapy."""
    from gammapy.irf import PSFMap

    names = [hdu.name.upper() for hdu in hdus]
    try:
        if {"PSF", "THETA"} <= set(names):
            table, theta = find_hdu(hdus, "PSF"), find_hdu(hdus, "THETA")
            # gammapy takes MeV and degrees whatever the units of the columns
            table.data["Energy"] = energy_column(table, "Energy") * 1e3
            angle = Unit(theta.columns["Theta"].unit or "deg")
            theta.data["Theta"] = (theta.data["Theta"] * angle).to_value("deg")
            found = PSFMap.from_hdulist(hdus, format="gtpsf")
        else:
            found = PSFMap.from_hdulist(hdus, hdu="PSF") if "PSF_BANDS" in names else None
        if found is not None:
            geom = found.psf_map.geom
            if not np.any(found.psf_map.data):
                raise ValueError("it is zero everywhere")
            if _energies_gev(geom).min() > 0 and geom.axes["rad"].center.to_value("deg").max() > 0:
                return found
            raise ValueError("energies and angles must be positive")
    except Exception as err:  # gammapy and astropy raise many kinds for damaged files
        reason = f"{type(err).__name__}: {' '.join(str(err).split())}"
        raise InputError(
            f"psf cannot be read from {path}: {reason}; compute it with gtpsf"
        ) from err
    raise InputError(
        "psf must be a file of gtpsf (HDUs PSF and THETA) or a gammapy PSFMap (PSF and PSF_BANDS); "
        f"got {path} with the HDUs {', '.join(sorted(names))}; compute it with gtpsf, or give the "
        "radius that holds 68 %"
    )


def psf_of(psf, vectors=None):
    """`KingPSF` or `TablePSF` of what `read_psf` takes; None is the built-in one.

    A PSF map is read in the middle of Galactic unit vectors (n, 3), by default at its own centre.
    """
    psf = KingPSF() if psf is None else read_psf(psf)
    if isinstance(psf, (KingPSF, TablePSF)):
        return psf
    if hasattr(psf, "psf_map"):
        return _psf_of_map(psf.psf_map, None if vectors is None else np.mean(vectors, axis=0))
    return _psf_of_kernel(psf.psf_kernel_map)


def _energies_gev(geom):
    return next(a for a in geom.axes if a.name.startswith("energy")).center.to_value("GeV")


def _psf_of_map(psf_map, vector):
    """Table of a gammapy PSF map at the pixel nearest to a direction."""
    geom = psf_map.geom
    if geom.is_hpx:
        got = "got one of HEALPix pixels; give an image or the radius that holds 68 %"
        raise InputError(f"a PSF map with a WCS was expected; {got}")
    image = geom.to_image()
    ny, nx = image.data_shape
    x, y = nx // 2, ny // 2
    if vector is not None:
        lon, lat = lonlat_from_vectors(vector)
        sky = SkyCoord(lon, lat, unit="deg", frame="galactic")
        found = np.ravel(image.coord_to_pix({"skycoord": sky}))
        found = np.where(np.isnan(found), (x, y), np.rint(found))
        x, y = np.clip(found, 0, (nx - 1, ny - 1)).astype(int)
    density = np.asarray(psf_map.data, float)[..., y, x]
    good = np.abs(density).sum(axis=1) > 0  # a map may have energies without exposure
    good = good if good.any() else slice(None)
    angle = geom.axes["rad"].center.to_value("deg")
    angle = np.append(0.0, angle[1:]) if angle[0] < 1e-3 else np.append(0.0, angle)
    if len(angle) > density.shape[1]:
        density = np.concatenate([density[:, :1], density], axis=1)
    return TablePSF(_energies_gev(geom)[good], angle, density[good])


def _psf_of_kernel(kernel):
    """Table of the mean radial profile of a gammapy PSF kernel."""
    planes = np.asarray(kernel.data, float)
    ny, nx = planes.shape[1:]
    pixel_deg = float(np.mean(kernel.geom.pixel_scales.to_value("deg")))
    y, x = np.mgrid[:ny, :nx]
    ring = np.rint(np.hypot(x - (nx - 1) / 2, y - (ny - 1) / 2)).astype(int).ravel()
    number = np.bincount(ring)
    density = np.array([np.bincount(ring, plane.ravel()) / number for plane in planes])
    energy = _energies_gev(kernel.geom)
    if len(energy) == 1:  # a table needs two energies
        energy, density = np.array([energy[0] / 10, energy[0] * 10]), np.repeat(density, 2, axis=0)
    return TablePSF(energy, np.arange(len(number)) * pixel_deg, density)
