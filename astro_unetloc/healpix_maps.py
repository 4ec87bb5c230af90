"""HEALPix counts: gtbin, gammapy and healpy files, whole sky or part of it."""

import numpy as np

from astro_unetloc.energies import table_edges_gev
from astro_unetloc.geometry import lonlat_from_vectors
from astro_unetloc.messages import warn
from astro_unetloc.pixelization import HealpixPixelization

__all__ = ["healpix_frame", "healpix_layout", "read_healpix_counts"]

_FRAMES = {"G": "galactic", "GAL": "galactic", "GALACTIC": "galactic"} | dict.fromkeys(
    ("C", "CEL", "EQU", "EQ", "ICRS", "J2000", "CELESTIAL", "EQUATORIAL"), "icrs"
)
_PIXEL_COLUMNS = ("PIX", "PIXEL", "HPX_INDEX", "IPIX")
_UNSEEN = -1.6375e30
_BLANK_RTOL = 1e-5  # healpy's own tolerance for its blank value


def read_healpix_counts(hdus, hdu):
    """Counts of a HEALPix table.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The file, which may hold a table of energies.
    hdu : BinTableHDU
        The table.

    Returns
    -------
    counts : ndarray (n_energy, n_pixels)
        As stored, in native byte order; blank pixels are NaN.
    pixels : HealpixPixelization
        Its pixels.
    edges : ndarray (n_energy + 1,) or None
        Energies in GeV; None for a single plane without a table of energies.

    Raises
    ------
    ValueError
        If the table has no counts, or does not say its pixels, order or energies.
    """
    edges = table_edges_gev(hdus, hdu)
    names = {name.upper(): name for name in hdu.columns.names}
    if {"CHANNEL", "VALUE"} <= set(names):
        numbers, planes = _sparse_planes(hdu, names, 1 if edges is None else len(edges) - 1)
    else:
        columns = _value_columns(names, None if edges is None else len(edges) - 1)
        planes = np.stack([_native(hdu.data[column]).ravel() for column in columns])
        pixel_column = next((names[name] for name in _PIXEL_COLUMNS if name in names), None)
        numbers = None if pixel_column is None else _native(hdu.data[pixel_column]).ravel()
    if planes.dtype.kind == "f":
        planes[np.isclose(planes, _UNSEEN, rtol=_BLANK_RTOL, atol=0)] = np.nan
    nside, nest, numbers = healpix_layout(hdu.header, planes.shape[1], numbers)
    frame = healpix_frame(hdu.header) or _frame_of_plane(planes, nside, nest, numbers)
    return planes, HealpixPixelization(nside, nest, frame, numbers), edges


def _native(values):
    values = np.asarray(values)
    return values.astype(values.dtype.newbyteorder("="))


def _value_columns(names, n_energy):
    """Names of the columns that hold counts, in the order of energy."""
    values = [name for name in names if name not in _PIXEL_COLUMNS]
    if n_energy is None and "COUNTS" in values:
        values = ["COUNTS"]
    if len(values) != (n_energy or 1):
        bins = "one column or one called COUNTS" if n_energy is None else f"{n_energy} columns"
        raise ValueError(
            f"{bins} of counts was expected in the HEALPix table; got {len(values)}: "
            f"{', '.join(values[:6])}{', ...' if len(values) > 6 else ''}; "
            "give a counts map, with a table EBOUNDS if it has several energies"
        )
    return [names[name] for name in values]


def _sparse_planes(hdu, names, n_energy):
    """Planes of a table with one row per filled pixel and channel (gammapy, sparse)."""
    numbers, place = np.unique(_native(hdu.data[names["PIX"]]), return_inverse=True)
    planes = np.zeros((n_energy, len(numbers)))
    np.add.at(planes, (_native(hdu.data[names["CHANNEL"]]), place), hdu.data[names["VALUE"]])
    return numbers, planes


def healpix_layout(header, n_values, numbers=None):
    """Resolution, order and pixel numbers of a HEALPix table.

    Parameters
    ----------
    header : mapping
        Header of the table.
    n_values : int
        Values of one column.
    numbers : ndarray (n_values,) of int or None
        Explicit pixel numbers.

    Returns
    -------
    nside : int
    nest : bool
    numbers : ndarray (n_values,) or None
        None is the whole sphere.
    """
    order = str(header.get("ORDERING", "")).strip().upper()
    if order not in ("RING", "NESTED", "NEST"):
        raise ValueError(
            f"ORDERING of a HEALPix map must be RING or NESTED; got {order or 'nothing'!r}; "
            "add the keyword"
        )
    nside = int(header.get("NSIDE", 0)) or int(np.sqrt(n_values / 12))
    n_sphere = 12 * nside**2
    if numbers is None and n_values != n_sphere:
        first, last = int(header.get("FIRSTPIX", 0)), int(header.get("LASTPIX", -1))
        if last - first + 1 != n_values:
            raise ValueError(
                f"{n_sphere} pixels (nside {nside}), a column PIX, or FIRSTPIX and LASTPIX that "
                f"fit were expected; got {n_values} pixels; complete the HEALPix table"
            )
        numbers = np.arange(first, last + 1)
    elif numbers is not None and str(header.get("INDXSCHM", "")).strip().upper() == "LOCAL":
        raise ValueError("HEALPix pixel numbers must be global; got INDXSCHM LOCAL; rewrite it")
    return nside, order != "RING", numbers


def healpix_frame(header):
    """Frame that COORDSYS states, or None if it is absent."""
    name = str(header.get("COORDSYS", "")).strip().upper()
    if name and name not in _FRAMES:
        raise ValueError(
            f"COORDSYS of a HEALPix map must be GAL or EQU (or G, C, CEL, ICRS); got {name!r}; "
            "rotate the map or correct the keyword"
        )
    return _FRAMES.get(name)


def _frame_of_plane(planes, nside, nest, numbers):
    """Frame in which the counts crowd along the Galactic plane."""
    total = np.nansum(planes, axis=0)
    seen = np.isfinite(planes).any(axis=0)
    excess = {}
    for frame in ("galactic", "icrs"):
        pixels = HealpixPixelization(nside, nest, frame, numbers)
        latitude = lonlat_from_vectors(pixels.centers(np.arange(pixels.n_pixels)))[1]
        plane = seen & (np.abs(latitude) < 10)
        outside = max(total[seen & ~plane].sum(), 1) / max((seen & ~plane).sum(), 1)
        excess[frame] = total[plane].sum() / max(plane.sum(), 1) / outside
    best, other = sorted(excess, key=excess.get, reverse=True)
    if excess[best] < 1.5 * excess[other] or excess[best] < 1.5:
        raise ValueError(
            "a HEALPix map must say its frame; got no COORDSYS keyword, and the counts do not "
            "tell; add COORDSYS = 'GAL' or 'EQU'"
        )
    warn(f"the HEALPix map has no COORDSYS; its counts follow the Galactic plane if {best}")
    return best
