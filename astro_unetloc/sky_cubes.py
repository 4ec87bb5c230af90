"""Smooth cubes over the sky at single energies: exposure of gtexpcube2, models of emission.

Their values are interpolated, as those of densities; counts are photons and never come here.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from astro_unetloc.energies import column_gev
from astro_unetloc.fits_files import find_hdu, open_fits
from astro_unetloc.geometry import frame_rotation, lonlat_from_vectors
from astro_unetloc.healpix_maps import healpix_frame, healpix_layout
from astro_unetloc.irf_files import exposure_frame_of
from astro_unetloc.pixelization import HealpixPixelization, rotate
from astro_unetloc.wcs_maps import celestial_wcs, image_pixelization

__all__ = ["SkyCube", "find_cube", "read_sky_cube"]

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
                raise ValueError(
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
            raise ValueError(
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
            raise ValueError(
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
        raise ValueError(
            f"{what} needs a table ENERGIES or *_BANDS with a column ENERGY; got the HDUs "
            f"{', '.join(part.name for part in hdus)} in {path}; give the whole file"
        )
    energy = column_gev(table, column)
    if not (np.all(np.isfinite(energy)) and np.all(energy > 0) and np.all(np.diff(energy) > 0)):
        raise ValueError(f"energies must be positive and increase; got others in {path}; sort them")
    return energy


def _healpix_frame(hdu, frame, what, path):
    frame = healpix_frame(hdu.header) or frame
    if frame is None and what != "exposure":
        raise ValueError(
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
    raise ValueError(
        f"{what} must be in {wanted}; got BUNIT {text!r} in {path}; convert the map or correct it"
    )
