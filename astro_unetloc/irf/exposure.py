"""Smooth cubes over the sky at single energies: exposure of gtexpcube2, models of emission.

Their values are interpolated, as those of densities; counts are photons and never come here.

Exposure, background and PSF that go with a map, as gammapy objects made on first use.

`import gammapy.maps` costs 1.6-3 s and only the measurement needs these, so that files are
checked when the map is read and opened by gammapy when somebody asks.

Point-spread functions and exposures that simulations read from files or maps carry.
"""

import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc.exceptions import InputError
from astro_unetloc.files import find_hdu, open_fits
from astro_unetloc.irf.spectra import _log_nodes, bin_fractions
from astro_unetloc.maps.selection import column_gev
from astro_unetloc.maps.skymap import (
    HealpixPixelization,
    celestial_wcs,
    healpix_frame,
    healpix_layout,
    image_pixelization,
    is_gammapy,
    rotate,
)
from astro_unetloc.sphere import frame_rotation, lonlat_from_vectors

__all__ = [
    "MapExposure",
    "SkyCube",
    "SurveyExposure",
    "attach_map",
    "background_at",
    "exposure_at",
    "exposure_frame_of",
    "exposure_of",
    "find_cube",
    "read_exposure",
    "read_sky_cube",
]


_ENERGY_COLUMNS = ("ENERGY", "ENERGY_TRUE")


_NO_VALUES = ("PIX", "PIXEL", "HPX_INDEX", "IPIX", "CHANNEL")


@dataclass(frozen=True, eq=False)
class SkyCube:
    """Values at m energies on a pixelization.

    Attributes
    ----------
    energy : ndarray (m,)
        Increasing energies in GeV.
    values : ndarray (m, n_pixels)
        In any floating-point type; large files stay on disk.
    pixels : WcsPixelization or HealpixPixelization
        The pixels.
    """

    energy: np.ndarray
    values: np.ndarray
    pixels: object

    def at(self, vectors, *, rows=None):
        """Interpolated values, shape (m, n), at Galactic vectors (n, 3); NaN outside the cube.

        ``rows`` chooses some of the energies.
        """
        index, weight, inside = _stencil(self.pixels, np.asarray(vectors, dtype=float))
        rows = np.arange(len(self.energy)) if rows is None else np.asarray(rows)
        result = np.full((len(rows), len(vectors)), np.nan)
        for number, row in enumerate(rows):
            plane = np.asarray(self.values[row], dtype=float)
            result[number, inside] = np.einsum("kn,kn->n", plane[index], weight)
        return result

    def check(self, what):
        """Refuse values that are negative or not finite."""
        for energy, plane in zip(self.energy, self.values):
            low = np.min(plane, initial=0)
            if not (low >= 0 and np.isfinite(np.max(plane, initial=0))):
                n_odd = np.count_nonzero(~(np.isfinite(plane) & (np.asarray(plane) >= 0)))
                raise InputError(
                    f"{what} must be finite and nowhere negative; got {n_odd} other values at "
                    f"{energy:g} GeV; correct the map"
                )


def _stencil(pixels, vectors):
    """Pixels (k, n_inside) and weights around directions (n, 3), and which of them lie inside."""
    if not isinstance(pixels, HealpixPixelization):
        return _image_stencil(pixels, vectors)
    if pixels.pixels is not None:  # a part of the sphere has no neighbours at its border
        index = pixels.index(vectors)
        inside = index >= 0
        return index[inside][None], np.ones((1, inside.sum())), inside
    import healpy

    turned = rotate(vectors, frame_rotation(pixels.frame).T)
    lon, lat = lonlat_from_vectors(turned)
    index, weight = healpy.get_interp_weights(pixels.nside, lon, lat, nest=pixels.nest, lonlat=True)
    return index, weight, np.ones(len(vectors), dtype=bool)


def _image_stencil(pixels, vectors):
    """The four pixels of bilinear interpolation; at the border the nearest ones."""
    inside = pixels.index(vectors) >= 0
    lon, lat = lonlat_from_vectors(rotate(vectors[inside], frame_rotation(pixels.frame).T))
    x, y = pixels.wcs.wcs_world2pix(lon, lat, 0)
    ny, nx = pixels.shape
    period = pixels.period_pix
    if period:
        x = (x + 0.5) % period - 0.5
    left, low = np.floor(x).astype(int), np.floor(y).astype(int)
    fraction_x, fraction_y = x - left, y - low
    index, weight = [], []
    for dx, weight_x in ((0, 1 - fraction_x), (1, fraction_x)):
        column = left + dx
        column = column % nx if period == nx else np.clip(column, 0, nx - 1)
        for dy, weight_y in ((0, 1 - fraction_y), (1, fraction_y)):
            index.append(np.clip(low + dy, 0, ny - 1) * nx + column)
            weight.append(weight_x * weight_y)
    return np.array(index), np.array(weight), inside


def find_cube(hdus, name=None):
    """The HDU with a cube over energy: by name, else HEALPix, else an image of three axes."""
    named = None if name is None else find_hdu(hdus, name)
    if named is not None:
        return named
    for hdu in hdus:
        if hdu.header.get("PIXTYPE") == "HEALPIX":
            return hdu
    images = (hdu for hdu in hdus if hdu.is_image and hdu.header.get("NAXIS") == 3)
    return next(images, None)


def read_sky_cube(path, what, *, unit, frame=None, name=None):
    """A cube of smooth values at single energies.

    Parameters
    ----------
    path : str or pathlib.Path
        FITS image with three axes or HEALPix table, and a table ENERGIES or ``*_BANDS``.
    what : str
        What it is to be, for messages: "exposure".
    unit : str
        Unit of the result, and of a file that states none.
    frame : str, optional
        Frame of a HEALPix file without COORDSYS; of an exposure the values may tell.
    name : str, optional
        Name of the HDU, if there is one of that name.

    Returns
    -------
    SkyCube

    Raises
    ------
    ValueError
        If there is no cube, no energies, or another unit.
    """
    hdus, _ = open_fits(path)
    with hdus:
        hdu = find_cube(hdus, name)
        if hdu is None:
            raise InputError(
                f"{what} must be a cube over energy; got {path}, which holds neither an image with "
                "three axes nor a HEALPix table; give the file of all energies"
            )
        energy = _energies(hdus, hdu, what, path)
        if hdu.is_image:
            planes, pixels = hdu.data.reshape(len(hdu.data), -1), _image_pixels(hdu)
            stated = hdu.header.get("BUNIT")
        else:
            frame = _healpix_frame(hdu, frame, what, path)
            planes, pixels, stated = _healpix_planes(hdu, len(energy), frame)
        if len(planes) != len(energy):
            raise InputError(
                f"{what} must have one plane for each energy; got {len(planes)} planes and "
                f"{len(energy)} energies in {path}; write the cube with its own table"
            )
        factor = _unit_factor(stated, unit, what, path)
        return SkyCube(energy, planes if factor == 1 else planes * factor, pixels)


def _image_pixels(hdu):
    return image_pixelization(celestial_wcs(hdu.header), hdu.data.shape[-2:])


def _energies(hdus, hdu, what, path):
    """Energies in GeV of the planes of a cube."""
    names = [hdu.header.get("BANDSHDU", ""), f"{hdu.name}_BANDS", "ENERGIES"]
    table = find_hdu(hdus, *(name for name in names if name))
    columns = {c.upper(): c for c in getattr(getattr(table, "columns", None), "names", ())}
    column = next((columns[name] for name in _ENERGY_COLUMNS if name in columns), None)
    if column is None:
        raise InputError(
            f"{what} needs a table ENERGIES or *_BANDS with a column ENERGY; got the HDUs "
            f"{', '.join(part.name for part in hdus)} in {path}; give the whole file"
        )
    energy = column_gev(table, column)
    if not (np.all(np.isfinite(energy)) and np.all(energy > 0) and np.all(np.diff(energy) > 0)):
        raise InputError(f"energies must be positive and increase; got others in {path}; sort them")
    return energy


def _healpix_frame(hdu, frame, what, path):
    frame = healpix_frame(hdu.header) or frame
    if frame is None and what != "exposure":
        raise InputError(
            f"{what} as a HEALPix cube must say its frame; got no COORDSYS in {path}; add "
            "COORDSYS = 'GAL' or 'EQU'"
        )
    return frame or exposure_frame_of(hdu, path)


def _healpix_planes(hdu, n_energy, frame):
    """Planes, pixels and stated unit of a HEALPix table: a column for each energy, or a vector."""
    columns = [c for c in hdu.columns if c.name.upper() not in _NO_VALUES]
    if len(columns) == 1 and n_energy > 1:
        planes = np.asarray(hdu.data[columns[0].name]).reshape(-1, n_energy).T
    else:
        planes = np.stack([np.ravel(hdu.data[c.name]) for c in columns])
    number = next((c.name for c in hdu.columns if c.name.upper() in _NO_VALUES[:4]), None)
    numbers = None if number is None else np.ravel(hdu.data[number]).astype(np.int64)
    nside, nest, numbers = healpix_layout(hdu.header, planes.shape[1], numbers)
    return planes, HealpixPixelization(nside, nest, frame, numbers), columns[0].unit


def _unit_factor(stated, wanted, what, path):
    """What turns values of a stated unit into the wanted one; 1 if none is stated."""
    import astropy.units as u

    text = str(stated or "").strip()
    if not text:
        return 1.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            unit = u.Unit(text.replace("photons", "photon"))
        for factor in (u.dimensionless_unscaled, u.photon):
            if (unit / factor).is_equivalent(wanted):
                scale = (unit / factor).to(wanted)
                return 1.0 if np.isclose(scale, 1, rtol=1e-12) else scale
    except (ValueError, TypeError):
        pass  # not a unit: refused below with the others
    raise InputError(
        f"{what} must be in {wanted}; got BUNIT {text!r} in {path}; convert the map or correct it"
    )


_COORDSYS = {"galactic": "GAL", "icrs": "CEL"}


_CLEAR_RATIO = 2.0  # the 3FHL and 2FHL files differ by more than 10


def attach_map(value, what, *, frame=None):
    """An exposure or background: the gammapy map, or a function that reads it.

    Parameters
    ----------
    value : str, pathlib.Path, gammapy.maps.Map or None
        What the user gave.
    what : str
        "exposure" or "background".
    frame : str or None
        Frame of a HEALPix file without COORDSYS, "galactic" or "icrs".

    Returns
    -------
    gammapy.maps.Map, callable or None
    """
    if frame not in (None, *_COORDSYS):
        raise InputError(f"exposure_frame must be 'galactic' or 'icrs'; got {frame!r}")
    if value is None or is_gammapy(value, "Map"):
        return value
    path = _path(value, what, "a gammapy Map")
    hdus, _ = open_fits(path)
    with hdus:
        table = next((hdu for hdu in hdus if hdu.header.get("PIXTYPE") == "HEALPIX"), None)
        if table is not None:
            frame = healpix_frame(table.header) or frame or exposure_frame_of(table, path)
            return partial(_load_map, path, _COORDSYS[frame])
        if not any(hdu.is_image and hdu.data is not None for hdu in hdus):
            raise InputError(f"{what} must be a map; got {path}, which holds no image or HEALPix")
    return partial(_load_map, path, None)


def exposure_frame_of(table, path):
    """Frame in which exposure scatters less at fixed declination.

    Exposure of an orbiting telescope depends on declination far more than on right ascension.

    Raises
    ------
    ValueError
        If both frames do about equally well.
    """
    values = np.asarray(table.data[table.columns.names[0]], dtype=float).ravel()
    nside, nest, numbers = healpix_layout(table.header, len(values))
    scatter = {frame: _scatter(values, nside, nest, numbers, frame) for frame in _COORDSYS}
    best, other = sorted(scatter, key=scatter.get)
    if not scatter[other] > _CLEAR_RATIO * scatter[best]:
        raise InputError(
            f"the frame of a HEALPix exposure must be known; got {path} without COORDSYS, and its "
            "values do not tell; give exposure_frame 'galactic' or 'icrs'"
        )
    return best


def _scatter(values, nside, nest, numbers, frame):
    """Spread of values around their mean in bands of declination of 2 deg."""
    pixels = HealpixPixelization(nside, nest, frame, numbers)
    vectors = pixels.centers(np.arange(pixels.n_pixels)) @ frame_rotation("icrs")
    band = ((lonlat_from_vectors(vectors)[1] + 90) / 2).astype(int)
    number = np.maximum(np.bincount(band), 1)
    mean = np.bincount(band, values) / number
    return np.sqrt(np.mean((values - mean[band]) ** 2))


def _path(value, what, kind):
    if not isinstance(value, (str, Path)):
        raise TypeError(f"{what} must be a path or {kind}; got {type(value).__name__}")
    return Path(value).expanduser()


def _load_map(path, coordsys):
    from gammapy.maps import Map

    hdus, _ = open_fits(path)
    with hdus:
        for hdu in hdus:
            if coordsys and hdu.header.get("PIXTYPE") == "HEALPIX":
                hdu.header["COORDSYS"] = coordsys  # gammapy takes ICRS where it is absent
        return Map.from_hdulist(hdus)


def exposure_at(exposure, vectors, energy_gev):
    """Exposure in cm2 s at directions and energies.

    Parameters
    ----------
    exposure : gammapy.maps.Map
        Without a unit it is in cm2 s, as gtexpcube2 writes it.
    vectors : ndarray (n, 3)
        Unit vectors, Galactic.
    energy_gev : ndarray (n_energy,)
        Energies.

    Returns
    -------
    ndarray (n_energy, n)
        Zero outside the exposure map.
    """
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    lon, lat = lonlat_from_vectors(vectors)
    sky = SkyCoord(lon, lat, unit="deg", frame="galactic")
    unit = exposure.unit if exposure.unit.is_equivalent("cm2 s") else u.Unit("cm2 s")
    planes = []
    for energy in energy_gev:
        axes = {axis.name: energy * u.GeV for axis in exposure.geom.axes}
        planes.append(exposure.interp_by_coord({"skycoord": sky} | axes))
    inside = exposure.geom.to_image().contains({"skycoord": sky})  # gammapy extrapolates
    return np.nan_to_num(np.array(planes)) * inside * unit.to("cm2 s")


def background_at(background, vectors, energy_edges):
    """Expected background at directions, in energy bins that need not be those of its map.

    Parameters
    ----------
    background : gammapy.maps.Map
        Counts per pixel and energy bin.
    vectors : ndarray (n, 3)
        Unit vectors, Galactic.
    energy_edges : ndarray (n_energy + 1,)
        Edges of the bins that are asked for, in GeV.

    Returns
    -------
    ndarray (n_energy, n)
        Counts per square degree and bin, zero outside the map.
    """
    from astropy.coordinates import SkyCoord

    geom = background.geom
    lon, lat = lonlat_from_vectors(vectors)
    sky = SkyCoord(lon, lat, unit="deg", frame="galactic")
    density = background.copy(data=background.data / geom.solid_angle().to_value("deg2"))
    inside = geom.to_image().contains({"skycoord": sky})
    if not geom.axes:
        plane = density.interp_by_coord({"skycoord": sky})[None]
        share = np.ones((len(energy_edges) - 1, 1)) / (len(energy_edges) - 1)
    else:
        axis = geom.axes[0]
        plane = np.array(
            [density.interp_by_coord({"skycoord": sky, axis.name: e}) for e in axis.center]
        )
        share = bin_fractions(axis.edges.to_value("GeV"), np.asarray(energy_edges, float)).T
    return share @ (np.maximum(np.nan_to_num(plane), 0.0) * inside)


def read_exposure(path, *, frame=None):
    """Exposure of a simulation from a cube of gtexpcube2 or of gammapy.

    Parameters
    ----------
    path : str or pathlib.Path
        WCS or HEALPix cube with its energies; of a gammapy dataset the HDU EXPOSURE.
    frame : str, optional
        Frame of a HEALPix file without COORDSYS, "galactic" or "icrs"; without it the values tell,
        because exposure depends on declination.

    Returns
    -------
    MapExposure

    Raises
    ------
    ValueError
        If the file is no exposure cube, its unit is no area x time, the frame is not known, or an
        exposure is negative or not finite.

    Examples
    --------
    >>> exposure = read_exposure("exposure.fits")  # doctest: +SKIP
    """
    if frame not in (None, "galactic", "icrs"):
        raise InputError(f"frame must be 'galactic' or 'icrs'; got {frame!r}; choose one")
    cube = read_sky_cube(path, "exposure", unit="cm2 s", frame=frame, name="EXPOSURE")
    return MapExposure(cube)


def exposure_of(exposure, vectors):
    """The exposure that goes with a map, in directions.

    Parameters
    ----------
    exposure : None, gammapy.maps.Map, SurveyExposure or MapExposure
        None is unknown: then the built-in one tells how exposure depends on energy.
    vectors : ndarray (n, 3)
        Galactic unit vectors.

    Returns
    -------
    known : ndarray (n,) of bool
        Where it is known and positive.
    table : callable
        Of energies (m,) in GeV, gives the exposure (n, m) in cm2 s; where it is not known, or for
        all directions as (m,), that of the built-in one in other units.
    """
    built_in = SurveyExposure()
    if exposure is None:
        return np.zeros(len(vectors), dtype=bool), built_in.relative
    if hasattr(exposure, "table"):
        known = np.asarray(exposure.sky(vectors)) > 0

        def table(energy):
            return exposure.table(vectors, energy)

    else:
        axis = next(axis for axis in exposure.geom.axes if axis.name.startswith("energy"))
        ends = axis.center.to_value("GeV")[[0, -1]]

        def table(energy):
            return exposure_at(exposure, vectors, np.clip(energy, *ends)).T

        known = table(ends).min(axis=1) > 0

    def filled(energy):
        return np.where(known[:, None], table(energy), built_in.relative(energy))

    return known, filled


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
        """Exposure at 50 GeV in cm2 s of Galactic unit vectors (..., 3)."""
        sin_dec = np.asarray(vectors) @ frame_rotation("icrs")[:, 2]
        shape = np.polynomial.polynomial.polyval(sin_dec, _DECLINATION_SHAPE)
        return _EXPOSURE_PER_YEAR * self.years * shape

    def relative(self, energy):
        """Exposure at an energy in GeV relative to that at 50 GeV; at most 1."""
        return np.interp(np.log(energy), np.log(_EXPOSURE_ENERGY), _EXPOSURE_FACTOR)

    def __call__(self, vectors, energy):
        """Exposure in cm2 s of directions (n, 3) and energies (n,) in GeV."""
        return self.sky(vectors) * self.relative(energy)

    def table(self, vectors, energies):
        """Exposure in cm2 s, shape (n, m), of directions (n, 3) and energies (m,) in GeV."""
        return self.sky(vectors)[:, None] * self.relative(energies)


@dataclass(frozen=True, eq=False)
class MapExposure:
    """Exposure from a cube; the same methods as `SurveyExposure`, zero outside the cube.

    Attributes
    ----------
    cube : SkyCube
        Exposure in cm2 s at its energies.

    Raises
    ------
    ValueError
        If an exposure is negative or not finite, or zero everywhere.
    """

    cube: SkyCube
    _mean: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        self.cube.check("exposure")
        mean = np.array([np.mean(plane, dtype=float) for plane in self.cube.values])
        if not np.all(mean > 0):
            raise InputError(
                "exposure must be positive somewhere at every energy; got only zeros at "
                f"{self.cube.energy[np.argmin(mean)]:g} GeV; give the exposure of an observation"
            )
        object.__setattr__(self, "_mean", mean)

    def sky(self, vectors):
        """Exposure in cm2 s of Galactic vectors (..., 3) at the energy where it is largest."""
        vectors = np.asarray(vectors, dtype=float)
        plane = self.cube.at(vectors.reshape(-1, 3), rows=[np.argmax(self._mean)])[0]
        return np.nan_to_num(plane).reshape(vectors.shape[:-1])

    def relative(self, energy):
        """Mean exposure at an energy in GeV relative to the largest; at most 1."""
        self._check_energies(energy)
        log_mean = np.interp(np.log(energy), np.log(self.cube.energy), np.log(self._mean))
        return np.exp(log_mean - np.log(self._mean.max()))

    def __call__(self, vectors, energy):
        """Exposure in cm2 s of directions (n, 3) and energies (n,) in GeV."""
        energy = np.broadcast_to(np.asarray(energy, dtype=float), len(vectors))
        self._check_energies(energy)
        planes = np.nan_to_num(self.cube.at(vectors))
        row, weight = _log_nodes(energy, self.cube.energy)
        each = np.arange(len(vectors))
        above = planes[np.minimum(row + 1, len(planes) - 1), each]
        return planes[row, each] + weight * (above - planes[row, each])

    def table(self, vectors, energies):
        """Exposure in cm2 s, shape (n, m), of directions (n, 3) and energies (m,) in GeV."""
        self._check_energies(energies)
        planes = np.nan_to_num(self.cube.at(vectors))
        row, weight = _log_nodes(energies, self.cube.energy)
        above = planes[np.minimum(row + 1, len(planes) - 1)]
        return (planes[row] + weight[:, None] * (above - planes[row])).T

    def _check_energies(self, energy):
        low, high = self.cube.energy[[0, -1]]
        if np.any(np.asarray(energy) < low * 0.999) or np.any(np.asarray(energy) > high * 1.001):
            raise InputError(
                f"the exposure covers {low:g}-{high:g} GeV; got energies from {np.min(energy):g} "
                f"to {np.max(energy):g} GeV; compute it for all of them"
            )
