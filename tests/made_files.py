"""Tiny FITS files and maps that tests write."""

import astropy.units as u
import numpy as np
from astropy.io import fits

EDGES_GEV = np.array([10.0, 20.0, 50.0, 150.0])


def flip_bits(path, rng, *, n=4, n_bytes=6000):
    """Change random bits among the first bytes of a file."""
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, min(n_bytes, len(content)), n):
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def ebounds(edges_gev=EDGES_GEV):
    """The EBOUNDS table of gtbin, in keV as float32."""
    columns = [
        fits.Column("CHANNEL", "I", array=np.arange(len(edges_gev) - 1)),
        fits.Column("E_MIN", "E", unit="keV", array=edges_gev[:-1] * 1e6),
        fits.Column("E_MAX", "E", unit="keV", array=edges_gev[1:] * 1e6),
    ]
    return fits.BinTableHDU.from_columns(columns, name="EBOUNDS")


def image_header(shape, *, projection="CAR", frame="galactic", pixel_deg=0.1, lon=0.0, lat=0.0):
    """Header of an image (ny, nx) with its reference point in the middle."""
    prefix = {"galactic": ("GLON", "GLAT"), "icrs": ("RA--", "DEC-")}[frame]
    header = fits.Header()
    for number, (axis, n_pix) in enumerate(zip(prefix, shape[::-1]), 1):
        header[f"CTYPE{number}"] = f"{axis}-{projection}"
        header[f"CRPIX{number}"] = (n_pix + 1) / 2
        header[f"CRVAL{number}"] = (lon, lat)[number - 1]
        header[f"CDELT{number}"] = (-pixel_deg, pixel_deg)[number - 1]
        header[f"CUNIT{number}"] = "deg"
    return header


def cube_hdus(counts, edges_gev=EDGES_GEV, **header):
    """A counts cube (n_energy, ny, nx) as gtbin writes it."""
    counts = np.asarray(counts)
    primary = fits.PrimaryHDU(counts, image_header(counts.shape[-2:], **header))
    return fits.HDUList([primary, ebounds(edges_gev)])


def poisson_cube(rng, shape=(3, 20, 30), mean=0.5):
    """Integer counts."""
    return rng.poisson(mean, shape).astype(">i4")


def healpix_hdus(planes, edges_gev=EDGES_GEV, *, pixels=None, **keywords):
    """A HEALPix table as gtbin writes it; ``planes`` is (n_energy, n_pixels)."""
    columns = [fits.Column(f"CHANNEL{i + 1}", "D", array=plane) for i, plane in enumerate(planes)]
    if pixels is not None:
        columns.insert(0, fits.Column("PIX", "K", array=pixels))
        keywords = {"INDXSCHM": "EXPLICIT"} | keywords
    hdu = fits.BinTableHDU.from_columns(columns, name="SKYMAP")
    hdu.header.update({"PIXTYPE": "HEALPIX", "ORDERING": "RING", "COORDSYS": "GAL"} | keywords)
    return fits.HDUList(
        [fits.PrimaryHDU(), hdu] + ([] if edges_gev is None else [ebounds(edges_gev)])
    )


def event_hdus(ra_deg, dec_deg, energy_mev, cuts=()):
    """An FT1 list; ``cuts`` are (type, unit, value) of DSS keywords."""
    columns = [
        fits.Column("ENERGY", "E", unit="MeV", array=np.asarray(energy_mev, dtype=float)),
        fits.Column("RA", "E", unit="deg", array=np.asarray(ra_deg, dtype=float)),
        fits.Column("DEC", "E", unit="deg", array=np.asarray(dec_deg, dtype=float)),
    ]
    hdu = fits.BinTableHDU.from_columns(columns, name="EVENTS")
    for number, (kind, unit, value) in enumerate(cuts, 1):
        hdu.header[f"DSTYP{number}"] = kind
        hdu.header[f"DSUNI{number}"] = unit
        hdu.header[f"DSVAL{number}"] = value
    return fits.HDUList([fits.PrimaryHDU(), hdu])


def energies_hdu(energy_gev=(10.0, 100.0, 1000.0), name="ENERGIES", column="Energy", unit="MeV"):
    """A table of single energies, as gtexpcube2 writes it."""
    scale = u.GeV.to(unit or "MeV")
    column = fits.Column(column, "D", unit=unit, array=np.array(energy_gev) * scale)
    return fits.BinTableHDU.from_columns([column], name=name)


def write_image_cube(path, planes, *, unit=None, energies=None, **header):
    """A cube of gtexpcube2 or gll_iem: planes (n_energy, ny, nx)."""
    planes = np.asarray(planes)
    primary = fits.PrimaryHDU(planes, image_header(planes.shape[-2:], **header))
    if unit is not None:
        primary.header["BUNIT"] = unit
    fits.HDUList([primary, energies_hdu() if energies is None else energies]).writeto(path)
    return path


def write_healpix_cube(path, planes, *, vector=False, unit=None, **keywords):
    """A HEALPix cube of intensity or exposure: planes (n_energy, n_pixels)."""
    planes = np.asarray(planes, dtype=float)
    columns = [fits.Column(f"ENERGY{i}", "D", unit=unit, array=p) for i, p in enumerate(planes, 1)]
    if vector:
        columns = [fits.Column("Spectra", f"{len(planes)}D", unit=unit, array=planes.T)]
    hdu = fits.BinTableHDU.from_columns(columns, name="SKYMAP")
    hdu.header.update({"PIXTYPE": "HEALPIX", "ORDERING": "RING", "COORDSYS": "GAL"} | keywords)
    fits.HDUList([fits.PrimaryHDU(), hdu, energies_hdu()]).writeto(path)
    return path
