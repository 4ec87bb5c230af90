"""Radial profiles of point-spread functions, averaged over energy bins and pixels, for likelihoods.

They are tabulated once and looked up millions of times.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from astro_unetloc.config import PHOTON_INDEX
from astro_unetloc.geometry import circle_in_disc, lonlat_from_vectors
from astro_unetloc.response import KingPSF, TablePSF

__all__ = ["PsfProfiles", "make_profiles", "psf_of"]

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
        raise ValueError(
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
