"""Exposure of the LAT, built in or from maps, and backgrounds: expected counts or intensities."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import healpy
import numpy as np
from astropy import units as u
from gammapy.maps import HpxGeom, Map, MapAxis
from scipy.ndimage import binary_dilation, map_coordinates
from scipy.signal import fftconvolve

from astro_unetloc.cubes import (
    check_smooth,
    find_map,
    healpix_frame,
    healpix_numbers,
    planes_of,
    read_sky_map,
    values_at,
    with_axes,
)
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.files import open_fits
from astro_unetloc.irf.psf import make_profiles, psf_of
from astro_unetloc.irf.spectra import (
    INTENSITY_UNIT,
    PHOTON_INDEX,
    bin_fractions,
    energy_nodes,
    integrate_intensity,
    read_isotropic,
)
from astro_unetloc.sphere import (
    frame_rotation,
    lonlat_from_vectors,
    move,
    rotate,
    tangent_axes,
    tangent_offsets,
)

# Range of the largest exposure of a map in cm2 s: a day of the LAT has 1e8, years of an array of
# detectors on the ground 1e17.
_EXPOSURES = 1e8, 1e18
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
        axes, unit = self.map.geom.axes, self.map.unit
        if len(axes) != 1 or not axes[0].unit.is_equivalent("GeV"):
            raise InputError(
                "exposure must be a cube over energy; got a map with the axes "
                f"{', '.join(axes.names) or 'none'}; give the cube made by gtexpcube2"
            )
        if unit != "" and not unit.is_equivalent("cm2 s"):
            raise InputError(f"exposure must be in cm2 s; got the unit {unit}; convert the map")
        check_smooth(self.map, "exposure", allow_nan=True)
        largest = max(np.nanmax(plane, initial=0.0) for plane in planes_of(self.map)) * self._unit
        if np.all(self._mean > 0) and not _EXPOSURES[0] <= largest <= _EXPOSURES[1]:
            raise InputError(
                f"exposure must be {_EXPOSURES[0]:.0e} to {_EXPOSURES[1]:.0e} cm2 s where it is "
                f"largest; got {largest:.3g}, as of another unit or map; give that of gtexpcube2"
            )

    @property
    def energy_range(self):
        """Lowest and highest energy in GeV, of the bins where the map has any."""
        axis = self.map.geom.axes[0]
        return (axis.edges if axis.node_type == "edges" else axis.center).to_value("GeV")[[0, -1]]

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
        return _exposure_of_map(value)
    if not isinstance(value, (str, Path)):
        raise TypeError(f"exposure must be a path or a gammapy Map; got {type(value).__name__}")
    with open_fits(value)[0] as hdus:
        return exposure_from_hdus(hdus, value, frame=frame)


def exposure_from_hdus(hdus, path, *, frame=None):
    """`MapExposure` of an open file; parameters as in `read_exposure`."""
    hdu = find_map(hdus, "EXPOSURE", "exposure", path)
    options = {"what": "exposure", "unit": "cm2 s"}
    if hdu.is_image:
        return _exposure_of_map(read_sky_map(hdus, hdu, **options))
    stated = healpix_frame(hdu.header) or frame
    exposure = read_sky_map(hdus, hdu, frame=stated or "icrs", **options)
    found = _frame_by_declination(exposure)
    if stated is None and found is None:
        raise InputError(
            f"the frame of a HEALPix exposure must be known; got {path} without COORDSYS, and its "
            "values fit either frame; give exposure_frame 'galactic' or 'icrs'"
        )
    if stated is None and found != "icrs":
        exposure = read_sky_map(hdus, hdu, frame=found, **options)
    elif None not in (stated, found) and stated != found:
        warn(f"the exposure is stated to be {stated}, but varies with declination as {found}", 5)
    return _exposure_of_map(exposure)


def _exposure_of_map(exposure):
    """`MapExposure` of a map, without zeros at the ends of its energies.

    An image is the same at all energies.
    """
    if not exposure.geom.axes:
        warn("the exposure is an image; it is taken to be the same at all energies", 5)
        axis = MapAxis.from_nodes([1e-3, 1e6], unit="GeV", name="energy_true", interp="log")
        planes = np.stack([exposure.data] * 2)
        exposure = Map.from_geom(with_axes(exposure.geom, [axis]), data=planes, unit=exposure.unit)
    # below the threshold of a Cherenkov telescope there is no exposure
    lit = np.flatnonzero([np.any(plane) for plane in planes_of(exposure)])
    if len(exposure.geom.axes) == 1 and len(lit) > 1:
        lit = slice(lit[0], lit[-1] + 1)
        geom = with_axes(exposure.geom, [exposure.geom.axes[0].slice(lit)])
        data = planes_of(exposure)[lit].reshape(geom.data_shape)
        exposure = Map.from_geom(geom, data=data, unit=exposure.unit)
    return MapExposure(exposure)


_CLEAR_RATIO = 2.0  # the 3FHL and 2FHL files differ by more than 10


def _frame_by_declination(exposure):
    """Frame of HEALPix pixels in which the exposure scatters less at fixed declination, or None."""
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
    return best if scatter[other] > _CLEAR_RATIO * scatter[best] else None


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


def square_degree_density(background):
    """A map of expected counts divided by the solid angles of its pixels in square degrees."""
    area = background.geom.solid_angle().to_value("deg2")
    return Map.from_geom(background.geom, data=background.data / area)


def background_at(density, vectors, energy_edges):
    """Expected counts (n_energy, n) per square degree at Galactic vectors (n, 3).

    ``density`` is a map of them over energy; the bins of the result, with edges in GeV, may be
    others. Beyond its energies the spectrum of the first and the last bin is continued. NaN outside
    the map.
    """
    planes, new = np.maximum(values_at(density, vectors), 0.0), np.asarray(energy_edges, float)
    edges = density.geom.axes[0].edges.to_value("GeV")
    wider = np.concatenate([[min(edges[0], new[0])], edges[1:-1], [max(edges[-1], new[-1])]])
    continued, inside = (np.diff(e ** (1 - PHOTON_INDEX)) for e in (wider, edges))
    return bin_fractions(wider, new).T @ (planes * (continued / inside)[:, None])


# Units of expected counts; a file without a unit has expected counts in bins, or intensities at
# single energies.
_COUNTS_UNITS = ("", "count", "counts", "ct", "photon", "photons", "ph")
# More than any intensity of the sky in INTENSITY_UNIT at 30 MeV, less than any exposure.
_MAX_INTENSITY = 0.1
_ROUNDING = 1e-6  # relative error of values in single precision
_DIFFUSE = "TemplateSpatialModel", "ConstantSpatialModel"  # of gammapy


@dataclass(frozen=True, eq=False)
class Emission:
    """Intensity of diffuse emission, the sum of its parts.

    A part is a cube over energy, a pair of energies (m,) in GeV and isotropic intensities (m,) in
    ph cm-2 s-1 sr-1 GeV-1, or a `gammapy.modeling.models.SkyModel`.
    """

    parts: tuple

    @property
    def energy_range(self):
        """Energies in GeV that all parts cover."""
        ends = [(0.0, np.inf)]
        for part in self.parts:
            if isinstance(part, Map):
                ends.append(part.geom.axes[0].center.to_value("GeV")[[0, -1]])
            elif isinstance(part, tuple):
                ends.append(part[0][[0, -1]])
        return max(low for low, _ in ends), min(high for _, high in ends)

    def density(self, vectors, exposure, edges):
        """Photons (n_energy, n) per square degree at vectors (n, 3), before the PSF blurs them.

        The edges are in GeV. NaN where a part or the exposure is unknown.
        """
        known, exposure_at = exposure_of(exposure, vectors)
        total = np.where(known, 0.0, np.nan)
        for part in self.parts:
            energy, intensity = _intensity(part, vectors, edges)
            rate = intensity * exposure_at(energy).T
            total = total + np.stack(list(integrate_intensity(energy, rate, edges)))
        return total * np.radians(1.0) ** 2


def _intensity(part, vectors, edges):
    """Energies (m,) in GeV and intensities (m, n) in ph cm-2 s-1 sr-1 GeV-1 of an emission part."""
    if isinstance(part, Map):
        energy = part.geom.axes[0].center.to_value("GeV")
        return energy, values_at(part, vectors) * (1e3 * part.unit.to(INTENSITY_UNIT))
    if isinstance(part, tuple):
        return part[0], part[1][:, None]
    energy = np.geomspace(edges[0], edges[-1], 8 * len(edges))
    to_frame = frame_rotation(part.spatial_model.frame).T
    lon, lat = lonlat_from_vectors(rotate(vectors, to_frame)) * u.deg
    value = part.evaluate(lon, lat, energy[:, None] * u.GeV)
    return energy, value.to_value("cm-2 s-1 sr-1 GeV-1")


def read_background(value):
    """Background from files or objects: expected counts as a Map, or an ``Emission``.

    Parameters
    ----------
    value : path, gammapy Map or model, or a list of them; Emission or None
        A cube of expected counts per pixel and energy bin (gtmodel, gammapy), or intensities: a
        model of the Galaxy (gll_iem), an isotropic text file, models of gammapy or their YAML file.

    Raises
    ------
    InputError
        If it is another thing, such as an exposure or the counts themselves.
    """
    if value is None or isinstance(value, Emission):
        return value
    values = value if isinstance(value, (list, tuple)) else [value]
    parts = [part for one in values for part in _background_parts(one)]
    counts = [part for part in parts if isinstance(part, Map) and part.unit == ""]
    if counts and len(parts) > 1 or not parts:
        raise InputError(
            "background must be one cube of expected counts or intensities; got "
            f"{len(counts)} of counts and {len(parts) - len(counts)} of intensities; add them up"
        )
    return counts[0] if counts else Emission(tuple(parts))


def _background_parts(value):
    """Parts of a background: a Map, a spectrum or models of gammapy."""
    if isinstance(value, Map):
        return [check_background(value, type(value).__name__)]
    if isinstance(value, (str, Path)):
        path = Path(value).expanduser()
        if path.suffix.lower() == ".txt":
            return [read_isotropic(path)]
        if path.suffix.lower() not in (".yaml", ".yml"):
            with open_fits(path)[0] as hdus:
                return [background_from_hdus(hdus, path)]
        from gammapy.modeling.models import Models

        try:
            value = Models.read(path)
        except Exception as err:  # gammapy raises many kinds
            reason = " ".join(str(err).split())
            raise InputError(
                f"models of gammapy were expected; {path} cannot be read: {reason}; mend it"
            ) from err
    models = list(value) if hasattr(value, "to_dict") and hasattr(value, "__iter__") else [value]
    spatial = [getattr(model, "spatial_model", None) for model in models]
    diffuse = [m for m, s in zip(models, spatial) if getattr(s, "tag", [""])[0] in _DIFFUSE]
    if not diffuse:
        raise TypeError(
            "background must be a path or a gammapy Map of expected counts or diffuse emission, a "
            f"SkyModel with one of {', '.join(_DIFFUSE)}; got {type(models[0]).__name__}; leave it "
            "out, then it is estimated around each source"
        )
    if len(diffuse) < len(models):
        others = [model.name for model in models if not any(model is one for one in diffuse)]
        warn(f"of the background, {', '.join(others)} are no diffuse emission and left out", 6)
    return diffuse


def background_from_hdus(hdus, path):
    """Map of expected counts or intensities of an open file."""
    hdu = find_map(hdus, "BACKGROUND", "background", path)
    stated = hdu.header.get("BUNIT") if hdu.is_image else hdu.columns[-1].unit
    text = str(stated or "").strip().lower()
    unit = None if text in _COUNTS_UNITS else INTENSITY_UNIT
    background = read_sky_map(hdus, hdu, what="background", unit=unit)
    if unit is None and text:
        background = Map.from_geom(background.geom, data=background.data, unit="ct")
    return check_background(background, path)


def check_background(background, path):
    """The map, without a unit if of expected counts; refused if it is no intensity either."""
    axes, unit = background.geom.axes, background.unit
    in_bins = not axes or axes[0].node_type == "edges"
    if unit == "" or str(unit) in _COUNTS_UNITS and in_bins:
        unit = u.Unit("" if in_bins else INTENSITY_UNIT)
    elif not unit.is_equivalent(INTENSITY_UNIT) or not axes:
        raise InputError(
            f"background must be expected counts or a cube of intensities in {INTENSITY_UNIT}; got "
            f"{path} in {unit} with {len(axes)} energy axes; give the file of gtmodel or gll_iem"
        )
    largest, whole = max(np.nanmax(p, initial=0.0) for p in planes_of(background)), True
    for plane in planes_of(background):
        # Fourier transforms, as of gammapy's rings, leave rounding errors below zero
        if not np.all((plane >= -_ROUNDING * largest) & (plane < np.inf) | np.isnan(plane)):
            raise InputError(
                f"background must be finite and nowhere negative; got others in {path}"
            )
        whole = whole and np.all((plane == np.rint(plane)) | np.isnan(plane))
    if largest == 0 or unit != "" and largest * unit.to(INTENSITY_UNIT) > _MAX_INTENSITY:
        raise InputError(
            f"background must be expected counts or intensities in {INTENSITY_UNIT}; got values up "
            f"to {largest:.3g} in {path}; give the file of gtmodel or gll_iem"
        )
    if unit == "" and whole and largest > np.nanmin(planes_of(background)):
        raise InputError(
            f"background must be expected counts, which are no integers; got {path} with integers "
            "only, as observed counts are; give a model, or none: it is estimated from the counts"
        )
    return Map.from_geom(background.geom, data=background.data, unit=unit)


# Emission is blurred on the tangent planes of HEALPix cells, in pixels of 0.1 deg or more. Photons
# that fall farther than this containment radius of the PSF, or so many degrees, are left out.
_BLUR_NSIDE, _LEAST_STEP_DEG, _BLUR_CONTAINED, _MAX_BLUR_DEG = 4, 0.1, 0.98, 5.0


def blurred_density(emission, exposure, psf, vectors, edges, *, step_deg):
    """Expected counts (n_energy, n) per square degree of an `Emission` at vectors (n, 3).

    ``step_deg`` is the resolution. NaN where emission or exposure are unknown.
    """
    step_deg = max(step_deg, _LEAST_STEP_DEG)
    result = np.empty((len(edges) - 1, len(vectors)), dtype=np.float32)
    cells = healpy.vec2pix(_BLUR_NSIDE, *vectors.T)
    for cell in np.unique(cells):
        rows, center = np.flatnonzero(cells == cell), np.array(healpy.pix2vec(_BLUR_NSIDE, cell))
        axes = center, *(axis[0] for axis in tangent_axes(center[None]))
        psf_here, disc_deg = psf_of(psf, center[None]), step_deg / np.sqrt(np.pi)
        profiles = make_profiles(psf_here, edges, disc_deg=disc_deg)
        margin_deg = min(profiles.containment_radius(_BLUR_CONTAINED).max(), _MAX_BLUR_DEG)
        margin = int(np.ceil(margin_deg / step_deg)) + 1
        # pixels (y, x) of the tangent plane, and where the directions are in it
        place = np.array(tangent_offsets(*axes, vectors[rows]))[::-1] / step_deg
        first = np.floor(place.min(axis=1)).astype(int) - margin
        last = np.ceil(place.max(axis=1)).astype(int) + margin
        sides = (np.arange(a, b + 1) * step_deg for a, b in zip(first, last))
        y, x = np.meshgrid(*sides, indexing="ij")
        density = emission.density(move(*axes, x, y).reshape(-1, 3), exposure, edges)
        density, place = density.reshape(-1, *x.shape), place - first[:, None]
        known = np.isfinite(density).all(axis=0)
        near = binary_dilation(known, np.ones((3, 3)))
        offset = np.arange(-margin, margin + 1) * step_deg
        for number, plane in enumerate(np.where(known, density, 0.0)):
            kernel = profiles.density(number, offset**2 + offset[:, None] ** 2)[0]
            # photons that would come from beyond the emission are replaced by those of its border
            blurred, fraction = (fftconvolve(v, kernel, mode="same") for v in (plane, known * 1.0))
            blurred = np.where(near, blurred / np.maximum(fraction, 1e-3 * kernel.sum()), np.nan)
            result[number, rows] = map_coordinates(blurred, place, order=1)
    return result
