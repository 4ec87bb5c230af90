"""Exposure, background and PSF that go with a map, as gammapy objects made on first use.

`import gammapy.maps` costs 1.6-3 s and only the measurement needs these, so that files are
checked when the map is read and opened by gammapy when somebody asks.
"""

from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc.fits_files import open_fits
from astro_unetloc.gammapy_maps import is_gammapy
from astro_unetloc.geometry import frame_rotation, lonlat_from_vectors
from astro_unetloc.healpix_maps import healpix_frame, healpix_layout
from astro_unetloc.photons import bin_shares
from astro_unetloc.pixelization import HealpixPixelization

__all__ = ["attach_map", "attach_psf", "background_at", "exposure_at", "exposure_frame_of"]

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
        raise ValueError(f"exposure_frame must be 'galactic' or 'icrs'; got {frame!r}")
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
            raise ValueError(f"{what} must be a map; got {path}, which holds no image or HEALPix")
    return partial(_load_map, path, None)


def attach_psf(value):
    """A PSF: the gammapy object, or a function that reads it; None stays None."""
    if value is None or is_gammapy(value, "PSFMap", "PSFKernel"):
        return value
    path = _path(value, "psf", "a gammapy PSFMap")
    hdus, _ = open_fits(path)
    with hdus:
        names = {hdu.name.upper() for hdu in hdus}
    if not {"PSF", "THETA"} <= names and "PSF_BANDS" not in names:
        raise ValueError(
            f"psf must be a file of gtpsf or a gammapy PSFMap; got {path} with the HDUs "
            f"{', '.join(sorted(names))}; compute it with gtpsf"
        )
    return partial(_load_psf, path, "gtpsf" if "THETA" in names else "gadf")


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
        raise ValueError(
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


def _load_psf(path, format):
    from gammapy.irf import PSFMap

    return PSFMap.read(path, format=format)


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
        share = bin_shares(axis.edges.to_value("GeV"), np.asarray(energy_edges, float)).T
    return share @ (np.maximum(np.nan_to_num(plane), 0.0) * inside)
