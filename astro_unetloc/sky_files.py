"""FITS files of simulated photons: counts cubes and events, as bytes."""

import gzip
from io import BytesIO

import numpy as np

from astro_unetloc.geometry import lonlat_from_vectors, vectors_from_lonlat

__all__ = [
    "counts_cube",
    "counts_cube_bytes",
    "events_bytes",
    "healpix_cube",
    "healpix_cube_bytes",
    "inside_image",
]


def _tangent_wcs(center, width_deg, pixel_deg):
    """Tangent-plane WCS around ``center`` (Galactic, degrees) and its pixels per side."""
    from astropy.wcs import WCS

    n_pix = int(round(width_deg / pixel_deg))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    wcs.wcs.crval = list(center)
    wcs.wcs.crpix = [(n_pix + 1) / 2] * 2
    wcs.wcs.cdelt = [-pixel_deg, pixel_deg]
    return wcs, n_pix


def counts_cube(photons, energy_edges, *, center, width_deg, pixel_deg):
    """Bin photons into a square counts cube.

    Parameters
    ----------
    photons : Photons
        Those outside are left out.
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    center : pair of float
        Galactic longitude and latitude in degrees.
    width_deg, pixel_deg : float
        Size of the image and of a pixel.

    Returns
    -------
    counts : ndarray (n_energy, ny, nx) of int32
        Photons.
    wcs : WCS
        Tangent-plane coordinates of the image.
    """
    wcs, n_pix = _tangent_wcs(center, width_deg, pixel_deg)
    # all_world2pix knows no side of the sky: the far one is cut first
    near = photons.vectors @ vectors_from_lonlat(*center) > 0.5
    x, y = wcs.wcs_world2pix(*lonlat_from_vectors(photons.vectors[near]), 0)
    edges = np.arange(n_pix + 1) - 0.5
    sample = np.column_stack([photons.energy[near], y, x])
    counts, _ = np.histogramdd(sample, bins=(np.asarray(energy_edges), edges, edges))
    return counts.astype(np.int32), wcs


def inside_image(wcs, shape, lon, lat):
    """Whether positions (Quantity, in the frame of a WCS) lie in an image of shape (ny, nx)."""
    x, y = wcs.wcs_world2pix(lon.to_value("deg"), lat.to_value("deg"), 0)
    return (x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)


def counts_cube_bytes(counts, wcs, energy_edges, *, keywords=None, compress=False):
    """A counts cube in the format of gtbin (CCUBE): image with EBOUNDS in keV.

    Parameters
    ----------
    counts : ndarray (n_energy, ny, nx)
        Photons.
    wcs : WCS
        Celestial coordinates of the image.
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    keywords : dict, optional
        Further keywords of the primary header.
    compress : bool
        Whether to gzip it.

    Returns
    -------
    bytes
    """
    from astropy.io import fits

    primary = fits.PrimaryHDU(counts.astype(np.int32), header=wcs.to_header())
    header = primary.header
    header["WCSAXES"] = 3
    header["CTYPE3"], header["CRPIX3"], header["CUNIT3"] = "Energy", 1.0, "MeV"
    header["CRVAL3"], header["CDELT3"] = energy_edges[0] * 1e3, np.diff(energy_edges)[0] * 1e3
    header["BUNIT"] = "count"
    header["DSTYP1"], header["DSUNI1"] = "ENERGY", "MeV"
    header["DSVAL1"] = f"{energy_edges[0] * 1e3:g}:{energy_edges[-1] * 1e3:g}"
    header.update(keywords or {})
    bounds = _energy_bounds(energy_edges)
    stream = BytesIO()
    fits.HDUList([primary, bounds]).writeto(stream)
    content = stream.getvalue()
    # no time in the header of the archive: the same cube is the same file
    return gzip.compress(content, mtime=0) if compress else content


def _energy_bounds(energy_edges):
    """Table of energy bins in keV, as gtbin writes it."""
    from astropy.io import fits

    edges = np.asarray(energy_edges, dtype=np.float32) * 1e6
    columns = [
        fits.Column("CHANNEL", "I", array=np.arange(1, len(edges))),
        fits.Column("E_MIN", "1E", unit="keV", array=edges[:-1]),
        fits.Column("E_MAX", "1E", unit="keV", array=edges[1:]),
    ]
    return fits.BinTableHDU.from_columns(columns, name="EBOUNDS")


def healpix_cube(photons, energy_edges, nside):
    """Bin photons into HEALPix pixels (RING, Galactic).

    Parameters
    ----------
    photons : Photons
        Those outside the energies are left out.
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    nside : int
        Resolution.

    Returns
    -------
    ndarray (n_energy, 12 * nside**2) of int32
        Photons.
    """
    import healpy

    pixel = healpy.vec2pix(nside, *photons.vectors.T, nest=False)
    energy_bin = np.searchsorted(energy_edges, photons.energy, side="right") - 1
    n_bins, n_pixels = len(energy_edges) - 1, 12 * nside**2
    inside = (energy_bin >= 0) & (energy_bin < n_bins)
    place = energy_bin[inside] * n_pixels + pixel[inside]
    return np.bincount(place, minlength=n_bins * n_pixels).reshape(n_bins, -1).astype(np.int32)


def healpix_cube_bytes(counts, energy_edges, *, keywords=None):
    """A whole-sky HEALPix counts cube in the format of gtbin: SKYMAP, with EBOUNDS in keV.

    Parameters
    ----------
    counts : ndarray (n_energy, n_pixels)
        Photons; RING, Galactic.
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    keywords : dict, optional
        Further keywords of the table's header.

    Returns
    -------
    bytes
    """
    from astropy.io import fits

    code = "I" if counts.max(initial=0) < 2**15 else "J"
    columns = [
        fits.Column(f"CHANNEL{i}", code, unit="count", array=c) for i, c in enumerate(counts, 1)
    ]
    table = fits.BinTableHDU.from_columns(columns, name="SKYMAP")
    n_pixels = counts.shape[1]
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="RING", COORDSYS="GAL", NSIDE=int(np.sqrt(n_pixels / 12)),
        INDXSCHM="IMPLICIT", FIRSTPIX=0, LASTPIX=n_pixels - 1, HPX_CONV="FGST-CCUBE",
        DSTYP1="ENERGY", DSUNI1="MeV",
        DSVAL1=f"{energy_edges[0] * 1e3:g}:{energy_edges[-1] * 1e3:g}",
    )  # fmt: skip
    table.header.update(keywords or {})
    stream = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table, _energy_bounds(energy_edges)]).writeto(stream)
    return stream.getvalue()


def events_bytes(photons, energy_edges, *, source_id=None, keywords=None):
    """An event list in the columns of FT1 files that describe direction and energy.

    Parameters
    ----------
    photons : Photons
        The events.
    energy_edges : ndarray (2,)
        Their energy range in GeV, for the DSS keywords.
    source_id : ndarray (n_photons,) of int, optional
        Source of each photon, for a column ``MC_SRC_ID`` as gtobssim has it.
    keywords : dict, optional
        Further keywords of the table's header.

    Returns
    -------
    bytes
    """
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from astropy.io import fits

    lon, lat = lonlat_from_vectors(photons.vectors)
    icrs = SkyCoord(lon * u.deg, lat * u.deg, frame="galactic").icrs
    values = {"RA": icrs.ra.deg, "DEC": icrs.dec.deg, "L": lon, "B": lat}
    columns = [fits.Column("ENERGY", "E", unit="MeV", array=photons.energy * 1e3)]
    columns += [fits.Column(n, "E", unit="deg", array=v) for n, v in values.items()]
    if source_id is not None:
        columns.append(fits.Column("MC_SRC_ID", "J", array=source_id))
    table = fits.BinTableHDU.from_columns(columns, name="EVENTS")
    table.header.update(
        TELESCOP="GLAST", INSTRUME="LAT", HDUCLAS1="EVENTS", RADECSYS="FK5", DSTYP1="ENERGY",
        DSUNI1="MeV", DSVAL1=f"{energy_edges[0] * 1e3:g}:{energy_edges[-1] * 1e3:g}",
    )  # fmt: skip
    table.header.update(keywords or {})
    stream = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(stream)
    return stream.getvalue()
