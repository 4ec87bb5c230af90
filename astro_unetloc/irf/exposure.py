"""Exposure of the LAT, built in or from maps, and background maps."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from gammapy.maps import HpxGeom, Map

from astro_unetloc.cubes import (
    check_smooth,
    find_map,
    healpix_frame,
    healpix_numbers,
    planes_of,
    read_sky_map,
    values_at,
)
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import open_fits
from astro_unetloc.irf.spectra import bin_fractions, energy_nodes
from astro_unetloc.sphere import frame_rotation

# Mean exposure per year above 10 GeV (cm2 s) and its shape in sin(declination), a cubic fitted
# to the 84-month exposure cube of 3FHL (mean 3.15e11 cm2 s; scatter 5 %).
_EXPOSURE_PER_YEAR = 3.15e11 / 7
_DECLINATION_SHAPE = (0.9031, 0.0298, 0.3624, 0.1010)

# Relative to 50 GeV, from the same cube. Below 10 GeV the shape is that of 9.5 years of
# UltracleanVeto: 2.2, 2.9, 3.6 and 3.6 x 1e11 cm2 s in 0.5-1, 1-2, 2-7 and 7-20 GeV at
# their geometric means; SOURCE may lose less. The value at 0.3 GeV continues that line.
_EXPOSURE_ENERGY = np.array(
    [0.3, 0.7071, 1.4142, 3.7417, 10, 20, 50, 100, 300, 600, 1000, 1500, 2000.0]
)
_EXPOSURE_FACTOR = np.array(
    [0.36, 0.593, 0.781, 0.97, 0.97, 0.962, 1, 0.994, 0.982, 0.95, 0.85, 0.715, 0.586]
)


@dataclass(frozen=True)
class SurveyExposure:
    """Built-in exposure of the LAT in survey mode, Pass 8 SOURCE front+back, 0.3 GeV to 2 TeV.

    Attributes
    ----------
    years : float
        Time of observation.
    """

    years: float = 7.0

    def sky(self, vectors):
        """Exposure at 50 GeV in cm2 s, shape (...), of Galactic unit vectors (..., 3)."""
        sin_dec = np.asarray(vectors) @ frame_rotation("icrs")[:, 2]
        shape = np.polynomial.polynomial.polyval(sin_dec, _DECLINATION_SHAPE)
        return _EXPOSURE_PER_YEAR * self.years * shape

    def relative(self, energy_gev):
        """Exposure at energies in GeV relative to that at 50 GeV; at most 1."""
        return np.interp(np.log(energy_gev), np.log(_EXPOSURE_ENERGY), _EXPOSURE_FACTOR)

    def at(self, vectors, energy_gev):
        """Exposure in cm2 s, shape (n, n_energy), of directions (n, 3) and energies in GeV."""
        return self.sky(vectors)[:, None] * self.relative(energy_gev)


@dataclass(frozen=True, eq=False)
class MapExposure:
    """Exposure interpolated in a map, linearly in ln E, with the methods of `SurveyExposure`.

    The map has one energy axis and is in cm2 s if it has no unit. The exposure is zero outside of
    the map and where the map is NaN.
    """

    map: Map

    def __post_init__(self):
        axes = self.map.geom.axes
        if len(axes) != 1 or not axes[0].unit.is_equivalent("GeV"):
            raise InputError(
                "exposure must be a cube over energy; got a map with the axes "
                f"{', '.join(axes.names) or 'none'}; give the cube made by gtexpcube2"
            )
        check_smooth(self.map, "exposure", allow_nan=True)

    @property
    def energy(self):
        """Energies (m,) of the map in GeV."""
        return self.map.geom.axes[0].center.to_value("GeV")

    def sky(self, vectors):
        """Exposure in cm2 s of vectors (..., 3) at the energy where its mean is largest."""
        vectors = np.asarray(vectors, dtype=float)
        best = [int(np.argmax(self._mean))]
        values = values_at(self.map, vectors.reshape(-1, 3), rows=best)[0] * self._unit
        return np.nan_to_num(values).reshape(vectors.shape[:-1])

    def relative(self, energy_gev):
        """Mean exposure at energies in GeV relative to the largest mean; at most 1."""
        log_mean = np.log(self._mean / self._mean.max())
        return np.exp(self._between(log_mean[:, None], energy_gev)[0])

    def at(self, vectors, energy_gev):
        """Exposure in cm2 s, shape (n, n_energy), of directions (n, 3) and energies in GeV."""
        return self._between(self._at_nodes(vectors), energy_gev)

    def _at_nodes(self, vectors):
        """Exposure in cm2 s (m, n) at the energies of the map."""
        return np.nan_to_num(values_at(self.map, vectors)) * self._unit

    def _between(self, planes, energy_gev):
        """Exposure (n, n_energy) from that at the energies of the map (m, n)."""
        below, weight = energy_nodes(energy_gev, self.energy, "exposure")
        above = np.minimum(below + 1, len(self.energy) - 1)
        return planes[below].T * (1 - weight) + planes[above].T * weight

    @cached_property
    def _unit(self):
        unit = self.map.unit
        return unit.to("cm2 s") if unit.is_equivalent("cm2 s") else 1.0

    @cached_property
    def _mean(self):
        """Mean exposure (m,) in cm2 s over the map."""
        mean = np.array([np.mean(np.nan_to_num(p), dtype=float) for p in planes_of(self.map)])
        if not np.all(mean > 0):
            raise InputError(
                "exposure must be positive somewhere at every energy; got only zeros at "
                f"{self.energy[np.argmin(mean)]:g} GeV; give the exposure of an observation"
            )
        return mean * self._unit


def read_exposure(value, *, frame=None):
    """Exposure from a file or an object.

    Parameters
    ----------
    value : str, pathlib.Path, gammapy.maps.Map, SurveyExposure, MapExposure or None
        File with a WCS or HEALPix cube of gtexpcube2 or gammapy, the HDU EXPOSURE if there is one.
    frame : {"galactic", "icrs"}, optional
        Frame of a HEALPix file without COORDSYS. By default it is the frame in which the exposure
        scatters less at fixed declination.

    Returns
    -------
    SurveyExposure, MapExposure or None

    Raises
    ------
    InputError
        If the file holds no exposure, its frame is unknown, or values are negative or infinite.
    """
    if frame not in (None, "galactic", "icrs"):
        raise InputError(f"exposure_frame must be 'galactic' or 'icrs'; got {frame!r}; choose one")
    if value is None or isinstance(value, (SurveyExposure, MapExposure)):
        return value
    if isinstance(value, Map):
        return MapExposure(value)
    with _open(value, "exposure") as hdus:
        return exposure_from_hdus(hdus, value, frame=frame)


def exposure_from_hdus(hdus, path, *, frame=None):
    """`MapExposure` of an open file; parameters as in `read_exposure`."""
    hdu = find_map(hdus, "EXPOSURE", "exposure", path)
    options = {"what": "exposure", "unit": "cm2 s"}
    if not hdu.is_image and healpix_frame(hdu.header) is None and frame is None:
        frame = _frame_by_declination(read_sky_map(hdus, hdu, frame="icrs", **options), path)
    return MapExposure(read_sky_map(hdus, hdu, frame=frame, **options))


_CLEAR_RATIO = 2.0  # the 3FHL and 2FHL files differ by more than 10


def _frame_by_declination(exposure, path):
    """Frame of HEALPix pixels in which the exposure scatters less at fixed declination."""
    # The exposure of an orbiting telescope hardly depends on right ascension.
    values = np.asarray(planes_of(exposure)[0], dtype=float)
    geom, numbers, scatter = exposure.geom, healpix_numbers(exposure.geom), {}
    nside, region = int(np.max(geom.nside)), None if numbers is None else (numbers,)
    for frame in ("galactic", "icrs"):
        turned = HpxGeom(nside, nest=geom.nest, frame=frame, region=region)
        declination = turned.get_coord().skycoord.icrs.dec.deg
        band = ((declination + 90) / 2).astype(int)
        mean = np.bincount(band, values) / np.maximum(np.bincount(band), 1)
        scatter[frame] = np.sqrt(np.mean((values - mean[band]) ** 2))
    best, other = sorted(scatter, key=scatter.get)
    if not scatter[other] > _CLEAR_RATIO * scatter[best]:
        raise InputError(
            f"the frame of a HEALPix exposure must be known; got {path} without COORDSYS, and its "
            "values fit either frame; give exposure_frame 'galactic' or 'icrs'"
        )
    return best


def read_background(value):
    """Background map of counts per pixel and energy bin from a file or a gammapy Map."""
    if value is None or isinstance(value, Map):
        return value
    with _open(value, "background") as hdus:
        return read_sky_map(hdus, find_map(hdus, "BACKGROUND", "background", value))


def _open(value, what):
    if not isinstance(value, (str, Path)):
        raise TypeError(f"{what} must be a path or a gammapy Map; got {type(value).__name__}")
    return open_fits(value)[0]


def exposure_of(exposure, vectors):
    """Where (n,) an exposure is known at Galactic vectors (n, 3), and its function of energy.

    The function of energies (m,) in GeV returns the exposure (n, m) in cm2 s. Where it is not known
    it has the shape of the built-in exposure; (m,) for ``exposure=None``.
    """
    built_in = SurveyExposure()
    if exposure is None:
        return np.zeros(len(vectors), dtype=bool), built_in.relative
    if isinstance(exposure, SurveyExposure):
        return exposure.sky(vectors) > 0, lambda energy: exposure.at(vectors, energy)
    planes = exposure._at_nodes(vectors)
    known = planes[[0, -1]].min(axis=0) > 0

    def table(energy):
        found = exposure._between(planes, np.clip(energy, *exposure.energy[[0, -1]]))
        return np.where(known[:, None], found, built_in.relative(energy))

    return known, table


def background_at(background, vectors, energy_edges):
    """Expected counts (n_energy, n) per square degree at Galactic vectors (n, 3).

    ``background`` is a map of counts per pixel and energy bin; the bins of the result, with edges
    in GeV, may be others. It is zero outside the map.
    """
    geom = background.geom
    density = background.copy(data=background.data / geom.solid_angle().to_value("deg2"))
    planes = np.maximum(np.nan_to_num(values_at(density, vectors)), 0.0)
    if geom.axes:
        edges = geom.axes[0].edges.to_value("GeV")
        fractions = bin_fractions(edges, np.asarray(energy_edges, float)).T
    else:
        fractions = np.full((len(energy_edges) - 1, 1), 1 / (len(energy_edges) - 1))
    return fractions @ planes
