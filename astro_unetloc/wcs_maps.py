"""Counts images and cubes with a WCS, in any celestial projection."""

import warnings

import numpy as np

from astro_unetloc.energies import table_edges_gev, wcs_edges_gev
from astro_unetloc.pixelization import WcsPixelization

__all__ = ["celestial_wcs", "image_pixelization", "read_wcs_counts"]


def read_wcs_counts(hdus, hdu):
    """Counts of an image HDU.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The file, which may hold a table of energies.
    hdu : HDU
        Image with axes (longitude, latitude[, energy]) in FITS order.

    Returns
    -------
    counts : ndarray (n_energy, n_pixels)
        As stored, in native byte order.
    pixels : WcsPixelization
        Its pixels.
    edges : ndarray (n_energy + 1,) or None
        Energies in GeV; None for an image that has no table of energies.

    Raises
    ------
    ValueError
        If there are no sky coordinates, too many axes or no energies.
    """
    data = np.asarray(hdu.data)
    while data.ndim > 3 and data.shape[0] == 1:  # a degenerate axis, such as STOKES
        data = data[0]
    if data.ndim not in (2, 3):
        raise ValueError(
            f"counts must have the axes longitude, latitude and at most one energy; got "
            f"{data.ndim} axes of shape {data.shape}; sum over the others"
        )
    pixels = image_pixelization(celestial_wcs(hdu.header), data.shape[-2:])
    planes = data.reshape(-1, pixels.n_pixels)
    edges = table_edges_gev(hdus, hdu)
    if edges is None and len(planes) > 1:
        edges = wcs_edges_gev(hdu.header, len(planes))
    if edges is not None and len(edges) != len(planes) + 1:
        raise ValueError(
            f"one energy bin for each plane was expected; got {len(edges) - 1} bins and "
            f"{len(planes)} planes; write the map with its own table of energies"
        )
    return planes.astype(planes.dtype.newbyteorder("="), copy=True), pixels, edges


def image_pixelization(wcs, shape):
    """The pixels of an image from a WCS with celestial axes, longitude first."""
    kinds = [axis.split("-")[0].strip() for axis in wcs.wcs.ctype]
    if kinds == ["GLON", "GLAT"]:
        return WcsPixelization(wcs, shape, "galactic")
    if kinds == ["RA", "DEC"]:
        return WcsPixelization(wcs, shape, _equatorial_frame(wcs))
    raise ValueError(
        f"the first two axes must be GLON, GLAT or RA, DEC in this order; got "
        f"{', '.join(kind or 'nothing' for kind in kinds)}; reproject or transpose the map"
    )


def celestial_wcs(header):
    """The two celestial axes of a header as an `astropy.wcs.WCS`."""
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates and old keywords, which do not matter here
        try:
            wcs = WCS(header, naxis=2)
        except Exception as err:  # wcslib raises its own kinds
            raise ValueError(f"the WCS of the image cannot be used: {_one_line(err)}") from err
    if not wcs.has_celestial:
        axes = ", ".join(f"{axis!r}" for axis in wcs.wcs.ctype)
        raise ValueError(
            f"an image with sky coordinates (CTYPE1 such as GLON-CAR) was expected; got the axes "
            f"{axes}; add the WCS keywords"
        )
    return wcs


def _equatorial_frame(wcs):
    system, equinox = wcs.wcs.radesys.strip().upper(), wcs.wcs.equinox
    if not system:
        system = "ICRS" if np.isnan(equinox) else "FK5"
    if system == "ICRS":
        return "icrs"
    if system == "FK5" and (np.isnan(equinox) or equinox == 2000):
        return "fk5"
    raise ValueError(
        f"equatorial coordinates must be ICRS or FK5 J2000; got {system} {equinox:g}; reproject"
    )


def _one_line(err):
    return " ".join(str(err).split())
