"""Point-spread functions and exposures that simulations read from files or maps carry."""

import numpy as np

from astro_unetloc.energies import column_gev
from astro_unetloc.fits_files import find_hdu, open_fits
from astro_unetloc.irf_files import exposure_at
from astro_unetloc.response import MapExposure, SurveyExposure, TablePSF
from astro_unetloc.sky_cubes import read_sky_cube
from astro_unetloc.wcs_maps import celestial_wcs, image_pixelization

__all__ = ["exposure_of", "read_exposure", "read_psf"]


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
        raise ValueError(f"frame must be 'galactic' or 'icrs'; got {frame!r}; choose one")
    cube = read_sky_cube(path, "exposure", unit="cm2 s", frame=frame, name="EXPOSURE")
    return MapExposure(cube)


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
            raise ValueError(
                "psf must be a file of gtpsf (HDUs PSF and THETA) or a gammapy PSFMap (PSF and "
                f"PSF_BANDS); got {path} with the HDUs {', '.join(hdu.name for hdu in hdus)}; "
                "compute it with gtpsf"
            )
        return _psf_of_map(table, bands, position, path)


def _psf_of_map(image, bands, position, path):
    """PSF at one position of a gammapy PSF map, whose axes are energy, angle, y, x."""
    from astropy.units import Unit

    n_energy, n_angle, ny, nx = image.data.shape
    names = {"THETA", "ENERGY_TRUE"}
    if names - set(bands.columns.names) or len(bands.data) != n_energy * n_angle:
        raise ValueError(
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
            raise ValueError(f"position must lie inside the PSF map {path}; got {position}")
    density = np.asarray(image.data, dtype=float).reshape(n_energy, n_angle, -1)[..., pixel]
    return TablePSF(energy, angle_deg, density)


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
