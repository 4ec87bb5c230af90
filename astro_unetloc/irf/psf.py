"""Response of the LAT: point-spread function and exposure, built in or from tables and cubes.

Energy dispersion is left out: above 1 GeV it is 5-10 % (68 %), small against any band used here;
at 0.3 GeV it is 20 % and would move photons into the next band of a finer binning.

Radial profiles of point-spread functions, averaged over energy bins and pixels, for likelihoods.

They are tabulated once and looked up millions of times.
"""

from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from astro_unetloc.exceptions import InputError
from astro_unetloc.files import find_hdu, open_fits
from astro_unetloc.irf.exposure import (
    _path,
)
from astro_unetloc.irf.spectra import PHOTON_INDEX, _log_nodes
from astro_unetloc.maps.selection import column_gev
from astro_unetloc.maps.skymap import (
    celestial_wcs,
    image_pixelization,
    is_gammapy,
)
from astro_unetloc.sphere import circle_in_disc, lonlat_from_vectors

__all__ = [
    "KingPSF",
    "PsfProfiles",
    "TablePSF",
    "attach_psf",
    "make_profiles",
    "psf_of",
    "read_psf",
]


def attach_psf(value):
    """A PSF: the gammapy object, or a function that reads it; None stays None."""
    if value is None or is_gammapy(value, "PSFMap", "PSFKernel"):
        return value
    path = _path(value, "psf", "a gammapy PSFMap")
    hdus, _ = open_fits(path)
    with hdus:
        names = {hdu.name.upper() for hdu in hdus}
    if not {"PSF", "THETA"} <= names and "PSF_BANDS" not in names:
        raise InputError(
            f"psf must be a file of gtpsf or a gammapy PSFMap; got {path} with the HDUs "
            f"{', '.join(sorted(names))}; compute it with gtpsf"
        )
    return partial(_load_psf, path, "gtpsf" if "THETA" in names else "gadf")


def _load_psf(path, format):
    from gammapy.irf import PSFMap

    return PSFMap.read(path, format=format)


def read_psf(path, *, position=None):
    """Point-spread function of a simulation from a table of gtpsf or a `gammapy.irf.PSFMap`.

    Parameters
    ----------
    path : str or pathlib.Path
        The file; of a gammapy dataset the HDU PSF.
    position : SkyCoord, optional
        Where a PSF map is read; its central pixel without it. A table of gtpsf has one position.

    Returns
    -------
    TablePSF

    Raises
    ------
    ValueError
        If the file holds no PSF, the position lies outside it, or a density is negative or not
        finite.

    Examples
    --------
    >>> psf = read_psf("psf.fits")  # doctest: +SKIP
    """
    hdus, _ = open_fits(path)
    with hdus:
        table, theta = find_hdu(hdus, "PSF"), find_hdu(hdus, "THETA")
        if table is not None and theta is not None:
            return TablePSF(
                column_gev(table, "Energy"),
                np.asarray(theta.data["Theta"], dtype=float),
                np.asarray(table.data["Psf"], dtype=float),
            )
        bands = find_hdu(hdus, "PSF_BANDS")
        if table is None or bands is None or np.ndim(table.data) != 4:
            raise InputError(
                "psf must be a file of gtpsf (HDUs PSF and THETA) or a gammapy PSFMap (PSF and "
                f"PSF_BANDS); got {path} with the HDUs {', '.join(hdu.name for hdu in hdus)}; "
                "compute it with gtpsf"
            )
        return _psf_of_map_hdus(table, bands, position, path)


def _psf_of_map_hdus(image, bands, position, path):
    """PSF at one position of a gammapy PSF map, whose axes are energy, angle, y, x."""
    from astropy.units import Unit

    n_energy, n_angle, ny, nx = image.data.shape
    names = {"THETA", "ENERGY_TRUE"}
    if names - set(bands.columns.names) or len(bands.data) != n_energy * n_angle:
        raise InputError(
            f"a PSF map needs the columns THETA and ENERGY_TRUE for {n_energy * n_angle} planes; "
            f"got {len(bands.data)} rows with {', '.join(bands.columns.names)} in {path}"
        )
    energy = column_gev(bands, "ENERGY_TRUE")[::n_angle]
    unit = Unit(bands.columns["THETA"].unit or "rad")
    angle_deg = np.asarray(bands.data["THETA"][:n_angle], dtype=float) * unit.to("deg")
    pixel = (ny // 2) * nx + nx // 2
    if position is not None:
        pixels = image_pixelization(celestial_wcs(image.header), (ny, nx))
        pixel = int(pixels.index(position.galactic.cartesian.xyz.value))
        if pixel < 0:
            raise InputError(f"position must lie inside the PSF map {path}; got {position}")
    density = np.asarray(image.data, dtype=float).reshape(n_energy, n_angle, -1)[..., pixel]
    return TablePSF(energy, angle_deg, density)


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


@dataclass(frozen=True)
class KingPSF:
    r"""Built-in LAT point-spread function from 0.3 GeV to 2 TeV: a sum of two King functions.

    .. math:: P(x) = \frac{1}{2\pi\sigma^2} \left(1 - \frac{1}{\gamma}\right)
              \left(1 + \frac{x^2}{2\gamma\sigma^2}\right)^{-\gamma}

    (arXiv:1206.1896, equation 36).

    Attributes
    ----------
    scale : float
        Factor on all widths; 1 is P8R2_SOURCE_V6 front+back.
    """

    scale: float = 1.0

    @property
    def energy_range(self):
        """Energies in GeV between which it is known."""
        return tuple(_PSF_TABLE[[0, -1], 0])

    def _parameters(self, energy):
        """Core fraction, then (sigma in deg, gamma) of core and tail at energies in GeV."""
        energy = np.asarray(energy, dtype=float)
        low, high = _PSF_TABLE[[0, -1], 0]
        if np.any(energy < low * 0.999) or np.any(energy > high * 1.001):
            raise InputError(
                f"the built-in PSF covers {low:g}-{high:g} GeV; got energies from "
                f"{energy.min():g} to {energy.max():g} GeV; give a PSF table for others"
            )
        row, weight = _log_nodes(energy, _PSF_TABLE[:, 0])
        columns = [c[row] + weight * (c[row + 1] - c[row]) for c in _PSF_TABLE.T[1:]]
        return (
            columns[0],
            (columns[1] * self.scale, columns[2]),
            (columns[3] * self.scale, columns[4]),
        )

    @property
    def max_offset_deg(self):
        """No photon is displaced by more than this, in degrees."""
        return _MAX_OFFSET_DEG

    def containment(self, radius_deg, energy):
        """Fraction of the photons of an energy (GeV) within a radius in degrees."""
        fraction, core, tail = self._parameters(energy)
        inside = [
            1 - (1 + np.square(radius_deg) / (2 * gamma * sigma**2)) ** (1 - gamma)
            for sigma, gamma in (core, tail)
        ]
        return fraction * inside[0] + (1 - fraction) * inside[1]

    def containment_radius(self, fraction, energy):
        """Radius in degrees that holds a fraction of the photons of one energy in GeV."""
        grid = np.geomspace(1e-4, _MAX_OFFSET_DEG, 4000)
        return float(np.interp(fraction, self.containment(grid, energy), grid))

    def sample_offset(self, energy, rng):
        """Random angular distances in degrees, shape (n,), for photon energies (n,) in GeV."""
        fraction, core, tail = self._parameters(energy)
        in_core = rng.random(len(fraction)) < fraction
        sigma = np.where(in_core, core[0], tail[0])
        gamma = np.where(in_core, core[1], tail[1])
        u = rng.random(len(fraction))
        offset = sigma * np.sqrt(2 * gamma * ((1 - u) ** (1 / (1 - gamma)) - 1))
        return np.minimum(offset, _MAX_OFFSET_DEG)


@dataclass(frozen=True, eq=False)
class TablePSF:
    """Point-spread function from a table, such as gtpsf writes; the same methods as `KingPSF`.

    Between two energies of the table the two densities are mixed, linearly in log energy: photons
    are then drawn from one or the other.

    Attributes
    ----------
    energy : ndarray (m,)
        Increasing energies in GeV.
    angle_deg : ndarray (k,)
        Increasing offsets in degrees, the first one 0.
    density : ndarray (m, k)
        Photons per solid angle, in any unit: each row is normalized to all of its photons.
    """

    energy: np.ndarray
    angle_deg: np.ndarray
    density: np.ndarray
    _inside: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        if len(self.energy) < 2 or np.any(np.diff(self.energy) <= 0) or not self.energy[0] > 0:
            raise InputError(
                "a PSF table needs two or more increasing positive energies; got "
                f"{np.array2string(np.asarray(self.energy), threshold=6)}; sort the table"
            )
        increasing = len(self.angle_deg) > 1 and np.all(np.diff(self.angle_deg) > 0)
        if not increasing or self.angle_deg[0] != 0:
            raise InputError(
                f"the {len(self.angle_deg)} angles of a PSF table must increase from 0; got others"
            )
        density = np.asarray(self.density)
        if density.shape != (len(self.energy), len(self.angle_deg)):
            raise InputError(
                f"a PSF table of {len(self.energy)} energies and {len(self.angle_deg)} angles was "
                f"expected; got the shape {density.shape}"
            )
        if not np.all(density >= 0) or not np.all(np.isfinite(density)):
            raise InputError("the PSF must be finite and nowhere negative; got other values")
        object.__setattr__(self, "_inside", _cumulative(self.angle_deg, density))

    @property
    def energy_range(self):
        """Energies in GeV between which it is known."""
        return tuple(self.energy[[0, -1]])

    def _nodes(self, energy):
        """Lower row of the table and weight of the next one at energies in GeV."""
        energy = np.asarray(energy, dtype=float)
        low, high = self.energy[[0, -1]]
        if np.any(energy < low * 0.999) or np.any(energy > high * 1.001):
            raise InputError(
                f"the PSF table covers {low:g}-{high:g} GeV; got energies from {energy.min():g} to "
                f"{energy.max():g} GeV; compute the table for all of them"
            )
        return _log_nodes(energy, self.energy)

    @property
    def max_offset_deg(self):
        """No photon is displaced by more than this, in degrees."""
        return float(self.angle_deg[-1])

    def containment(self, radius_deg, energy):
        """Fraction of the photons of an energy (GeV) within a radius in degrees."""
        radius_deg, energy = np.broadcast_arrays(radius_deg, energy)
        row, weight = self._nodes(energy)
        inside = np.zeros(row.shape)
        for number in np.unique(row):
            here = row == number
            low, high = (
                np.interp(radius_deg[here] ** 2, self.angle_deg**2, self._inside[number + step])
                for step in (0, 1)
            )
            inside[here] = low + weight[here] * (high - low)
        return inside

    def containment_radius(self, fraction, energy):
        """Radius in degrees that holds a fraction of the photons of one energy in GeV."""
        row, weight = self._nodes(energy)
        inside = (1 - weight) * self._inside[row] + weight * self._inside[row + 1]
        return float(np.sqrt(np.interp(fraction, inside, self.angle_deg**2)))

    def sample_offset(self, energy, rng):
        """Random angular distances in degrees, shape (n,), for photon energies (n,) in GeV."""
        row, weight = self._nodes(energy)
        row = row + (rng.random(len(row)) < weight)
        u, squared = rng.random(len(row)), np.empty(len(row))
        for number in np.unique(row):
            here = row == number
            squared[here] = np.interp(u[here], self._inside[number], self.angle_deg**2)
        return np.sqrt(squared)


def _cumulative(angle_deg, density):
    """Fraction of the photons within each angle, shape (m, k), from 0 to 1.

    Within a step the density is taken as constant: photons grow with the square of the angle, and
    `TablePSF` interpolates them so.
    """
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


_MAX_OFFSET_DEG = 20.0


_N_NODES = 512


# Annuli per node when a profile is averaged over pixels.
_N_FINE = 4


# Places in an energy bin: so many at least, and no wider apart in log energy.
_N_PLACES, _PLACE_WIDTH = 3, 0.3


# A PSF table may begin this factor above the lowest energy.
_MAX_BELOW = 1.5


_FLOOR = 1e-15  # density per square degree: tables end somewhere


@dataclass(frozen=True, eq=False)
class PsfProfiles:
    """Density of photons around a source in each energy bin.

    Attributes
    ----------
    log_density : ndarray (n_energy, n_nodes)
        Natural logarithm of the photons per square degree of one photon, averaged over a pixel.
    contained : ndarray (n_energy, n_nodes)
        Fraction of the photons within the offset of each node.
    """

    log_density: np.ndarray
    contained: np.ndarray

    def density(self, energy_bin, offset2_deg2):
        """Density per square degree, and the derivatives of its logarithm by the squared offset.

        Parameters
        ----------
        energy_bin : ndarray of int
            Bin of each photon.
        offset2_deg2 : ndarray
            Squared offset from the source, broadcast against ``energy_bin``.

        Returns
        -------
        density, slope, bend : ndarray
            Per square degree; first and second derivative of the logarithm, deg-2 and deg-4.
        """
        row, part = _place(offset2_deg2)
        flat = self.log_density.ravel()
        first = row + np.asarray(energy_bin) * _N_NODES
        low = flat[first]
        step = flat[first + 1] - low
        slopes = self._slopes
        slope = slopes[first]
        change = slopes[first + 1] - slope
        slope = slope + part * change
        scale = 1 / (_CORE_DEG**2 + offset2_deg2)
        bend = (change / _STEP - slope) * scale * scale
        return np.exp(low + part * step), slope * scale, bend

    @cached_property
    def _slopes(self):
        """Derivative of the logarithm by the place on the grid of nodes, flat."""
        return np.gradient(self.log_density, _STEP, axis=1).ravel()

    def densities32(self, energy_bin, offset2_deg2):
        """The density alone, in single precision: half the time for millions of values."""
        place = np.log(offset2_deg2 * np.float32(_CORE_DEG**-2) + np.float32(1))
        place *= np.float32(1 / _STEP)
        row = np.minimum(place.astype(np.int32), _N_NODES - 2)
        place -= row
        row += np.asarray(energy_bin, dtype=np.int32) * _N_NODES
        low = self._density32[row]
        row += 1
        return low + place * (self._density32[row] - low)

    @cached_property
    def _density32(self):
        return np.exp(self.log_density).astype(np.float32).ravel()

    def containment(self, radius_deg):
        """Fraction (..., n_energy) of the photons within radii in degrees.

        Radii have the shape (..., n_energy), or (..., 1) where they are those of all bins; one
        radius may be a float.
        """
        row, part = _place(np.square(radius_deg))
        each = np.arange(len(self.contained))
        low = self.contained[each, row]
        return low + part * (self.contained[each, row + 1] - low)

    def containment_off(self, offset_deg, radius_deg):
        """Fraction (p, n_energy) of the photons in a disc whose centre lies at offsets (p,)."""
        middle = _node_offset(np.arange(_N_NODES - 1) + 0.5)
        share = circle_in_disc(np.reshape(offset_deg, (-1, 1)), middle, radius_deg)
        return share @ np.diff(self.contained, axis=1).T

    def effective_area(self):
        """Area (n_energy,) in square degrees over which background counts against a source.

        The inverse of the integral of the squared density: a source of N counts on a density B per
        square degree has the Poisson error of N + B times this area (King 1983, PASP 95, 163).
        """
        middle = (self.log_density[:, 1:] + self.log_density[:, :-1]) / 2
        return 1 / (np.exp(middle) * np.diff(self.contained, axis=1)).sum(axis=1)

    def rings(self, stride):
        """Density per square degree of one photon (n_energy, k), and area (k,), of rings.

        The rings lie between every ``stride``-th node.
        """
        area = np.pi * np.diff(_node_offset(np.arange(_N_NODES)[::stride]) ** 2)
        return np.diff(self.contained[:, ::stride], axis=1) / area, area

    def containment_radius(self, fraction):
        """Radius in degrees that holds a fraction of the photons in each bin, (n_energy,)."""
        nodes = _node_offset(np.arange(_N_NODES))
        return np.array([np.interp(fraction, inside, nodes) for inside in self.contained])


_STEP = np.log1p((_MAX_OFFSET_DEG / _CORE_DEG) ** 2) / (_N_NODES - 1)


def _place(offset2_deg2):
    """Lower node and fraction of the way to the next."""
    place = np.log1p(np.asarray(offset2_deg2) * _CORE_DEG**-2) * (1 / _STEP)
    row = np.minimum(place.astype(np.int64), _N_NODES - 2)
    return row, place - row


def _node_offset(place):
    """Offset in degrees of a place on the grid of nodes."""
    return _CORE_DEG * np.sqrt(np.expm1(_STEP * np.maximum(place, 0.0)))


def _ends():
    """Radii in degrees half a node before and after each node."""
    return _node_offset(np.arange(_N_NODES + 1) - 0.5)


def make_profiles(psf, energy_edges, *, disc_deg=0.0, exposure=None):
    """Profiles of a PSF in energy bins, averaged over a disc.

    Parameters
    ----------
    psf : KingPSF or TablePSF
        The point-spread function.
    energy_edges : ndarray (n_energy + 1,)
        In GeV; inside a bin the photons follow ``E ** -PHOTON_INDEX``.
    disc_deg : float or ndarray (n_energy,)
        Radius of the disc: that of a pixel's area, or of an extended source. 0 for none.
    exposure : callable, optional
        Of energies (m,) in GeV, in any unit (m,): below 1 GeV it grows so fast that photons of a
        bin have profiles 1 % narrower than without it.

    Returns
    -------
    PsfProfiles
    """
    n_fine = _N_NODES * _N_FINE
    edges = _node_offset((np.arange(n_fine + 1) - 0.5) / _N_FINE)
    inside = _bin_containment(psf, np.asarray(energy_edges, float), edges, exposure or np.ones_like)
    nodes = _node_offset(np.arange(_N_NODES))
    if np.any(disc_deg):
        middle = _node_offset(np.arange(n_fine) / _N_FINE)
        discs = np.broadcast_to(disc_deg, len(inside))
        density = np.empty((len(inside), _N_NODES))
        for radius_deg in np.unique(discs):
            share = circle_in_disc(nodes[:, None], middle, radius_deg) / (np.pi * radius_deg**2)
            rows = discs == radius_deg
            density[rows] = np.diff(inside[rows], axis=1) @ share.T
        held = np.cumsum(density * np.pi * np.diff(_ends() ** 2), axis=1)
        inside = np.concatenate([np.zeros((len(held), 1)), held / held[:, -1:]], axis=1)
        edges = _ends()
    else:
        # annuli half a node wide on either side of each node
        whole = np.array([np.interp(_ends() ** 2, edges**2, row) for row in inside])
        density = np.diff(whole, axis=1) / (np.pi * np.diff(_ends() ** 2))
    contained = np.array([np.interp(nodes**2, edges**2, row) for row in inside])
    return PsfProfiles(np.log(np.maximum(density, _FLOOR)), contained)


def _bin_containment(psf, energy_edges, radius_deg, exposure):
    """Containment (n_energy, k) within radii (k,), averaged over the photons of each bin."""
    low, high = psf.energy_range
    if low > _MAX_BELOW * energy_edges[0]:
        raise InputError(
            f"the PSF must cover the energies of the map, from {energy_edges[0]:g} GeV; got one "
            f"from {low:g} GeV; compute it for all of them"
        )
    width = np.log(energy_edges[1:] / energy_edges[:-1])
    total = np.zeros((len(width), len(radius_deg)))
    for number, (emin, step) in enumerate(zip(energy_edges[:-1], width)):
        n_places = max(_N_PLACES, int(np.ceil(step / _PLACE_WIDTH)))
        place = (np.arange(n_places) + 0.5) / n_places * step
        energy = np.clip(emin * np.exp(place), low, high)  # above, it does not change
        weight = np.exp((1 - PHOTON_INDEX) * place) * exposure(energy)
        total[number] = sum(w * psf.containment(radius_deg, e) for w, e in zip(weight, energy))
        total[number] /= weight.sum()
    return total


def psf_of(psf, vectors):
    """The point-spread function that goes with a map, in the form that this package uses.

    Parameters
    ----------
    psf : None, KingPSF, TablePSF, gammapy PSFMap or PSFKernel
        None is the built-in PSF of the LAT.
    vectors : ndarray (n, 3)
        Directions in whose middle a PSF map is read.

    Returns
    -------
    KingPSF or TablePSF

    Raises
    ------
    TypeError
        If it is something else.
    """
    if psf is None:
        return KingPSF()
    if hasattr(psf, "containment") and hasattr(psf, "sample_offset"):
        return psf
    if hasattr(psf, "psf_map"):
        return _psf_of_map(psf.psf_map, np.mean(vectors, axis=0))
    if hasattr(psf, "psf_kernel_map"):
        return _psf_of_kernel(psf.psf_kernel_map)
    raise TypeError(
        f"psf must be a gammapy PSFMap or PSFKernel, a KingPSF or a TablePSF; got "
        f"{type(psf).__name__}; give the file made by gtpsf"
    )


def _energies_gev(geom):
    axis = next(axis for axis in geom.axes if axis.name.startswith("energy"))
    return axis.center.to_value("GeV")


def _psf_of_map(psf_map, vector):
    """Table of a gammapy PSF map at the pixel nearest to a direction."""
    from astropy.coordinates import SkyCoord

    geom = psf_map.geom
    lon, lat = lonlat_from_vectors(vector)
    image = geom.to_image()
    place = image.coord_to_pix({"skycoord": SkyCoord(lon, lat, unit="deg", frame="galactic")})
    ny, nx = image.data_shape
    x, y = (
        int(np.clip(np.nan_to_num(np.rint(p), nan=n // 2), 0, n - 1))
        for p, n in zip(np.ravel(place), (nx, ny))
    )
    density = np.asarray(psf_map.data, float)[..., y, x]
    good = density.sum(axis=1) > 0  # a map may have rows of energies without exposure
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
