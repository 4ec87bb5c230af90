"""Diffuse emission above 10 GeV: interstellar shapes and isotropic, normalized to the LAT's sky."""

from dataclasses import dataclass, replace

import numpy as np

from astro_unetloc.fits_files import open_fits

__all__ = ["ENERGY_EDGES", "TEMPLATE_SETS", "Diffuse", "interstellar", "perturb"]

# Edges (GeV) of the bins in which intensities are given.
ENERGY_EDGES = np.array([10.0, 18.651314, 47.50874, 165.26936, 574.925, 2000.0])
# Intensities (ph cm-2 s-1 sr-1 per bin, for a shape of mean 1) of the built-in shapes and of each
# set of templates: a Poisson likelihood fit to the 3FHL all-sky counts cube, nside 64, with its
# catalogue sources added, scaled to the mean numbers of `astro_unetloc.population`. The latitude
# profile of the sum is within 14 % of the cube for all sets, within 6 % for P6V11 and the built-in
# shapes. The last bin is scaled by 0.85: sources are power laws, too bright at TeV energies.
_INTENSITY = {
    "INTERSTELLAR": (6.54e-8, 2.98e-8, 8.58e-9, 1.39e-9, 2.18e-10),
    "BUBBLES": (2.28e-9, 1.32e-9, 3.86e-10, 3.30e-11, 1.0e-13),
    "ISOTROPIC": (2.36e-8, 1.15e-8, 2.82e-9, 3.99e-10, 8.58e-11),
}
TEMPLATE_SETS = {
    "PIBREM+ICS": {
        "PIBREM": (4.10e-8, 1.83e-8, 5.38e-9, 9.35e-10, 1.39e-10),
        "ICS": (2.04e-8, 9.67e-9, 2.60e-9, 3.36e-10, 5.95e-11),
        "BUBBLES": (3.43e-9, 1.83e-9, 5.44e-10, 5.95e-11, 2.04e-12),
        "ISOTROPIC": (2.58e-8, 1.25e-8, 3.18e-9, 4.77e-10, 1.00e-10),
    },
    "API+AIC": {
        "API": (4.49e-8, 1.93e-8, 5.62e-9, 9.60e-10, 1.28e-10),
        "AIC": (2.81e-8, 1.46e-8, 3.99e-9, 5.64e-10, 1.19e-10),
        "BUBBLES": (2.60e-9, 1.45e-9, 4.37e-10, 4.34e-11, 1.0e-13),
        "ISOTROPIC": (1.49e-8, 6.89e-9, 1.64e-9, 2.35e-10, 5.31e-11),
    },
    "FPI+FIC": {
        "FPI": (5.60e-8, 2.49e-8, 7.30e-9, 1.24e-9, 1.82e-10),
        "FIC": (1.10e-8, 5.93e-9, 1.42e-9, 1.54e-10, 3.68e-11),
        "BUBBLES": (1.58e-9, 9.26e-10, 3.03e-10, 2.68e-11, 1.0e-13),
        "ISOTROPIC": (2.28e-8, 1.09e-8, 2.78e-9, 4.11e-10, 8.67e-11),
    },
    "P6V11": {
        "P6V11": (6.50e-8, 2.95e-8, 8.46e-9, 1.37e-9, 2.10e-10),
        "BUBBLES": (1.90e-9, 1.13e-9, 3.43e-10, 2.85e-11, 1.0e-13),
        "ISOTROPIC": (2.45e-8, 1.21e-8, 3.02e-9, 4.28e-10, 9.52e-11),
    },
}


@dataclass(frozen=True)
class Diffuse:
    """Interstellar and isotropic emission.

    Attributes
    ----------
    nside : int
        HEALPix resolution of the shapes (RING, Galactic).
    shapes : dict of str to ndarray (n_pixels,)
        Shape of each component, mean 1.
    intensity : dict of str to ndarray (n_bins,)
        Photon intensity in ph cm-2 s-1 sr-1 in each bin of ``ENERGY_EDGES``.
    """

    nside: int
    shapes: dict
    intensity: dict


def _builtin_shapes(nside):
    """Gas disc with halo, and two bubbles: few-parameter shapes fitted to P6V11 and BUBBLES."""
    import healpy

    lon, lat = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=False, lonlat=True)
    lon, sin_b = np.radians((lon + 180) % 360 - 180), np.abs(np.sin(np.radians(lat)))
    halo = 2.572 / (1 + sin_b / 0.335) ** 2.384 * (1 + 0.782 * np.cos(lon / 2) ** 8)
    disc = 24.84 * np.exp(-sin_b / 0.0349) / (1 + (lon / 0.762) ** 2)
    bubble = (np.degrees(lon) / 24) ** 2 + ((np.abs(lat) - 28) / 27) ** 2 < 1
    shapes = {"INTERSTELLAR": halo + disc, "BUBBLES": bubble.astype(float)}
    return {name: shape / shape.mean() for name, shape in shapes.items()}


def _template_shapes(path, names, nside):
    """Shapes, mean 1, of a Galactic HEALPix FITS table with one named column per template."""
    import healpy

    hdus, _ = open_fits(path)
    with hdus:
        table = hdus[1] if len(hdus) > 1 else hdus[0]
        known = [] if table.is_image else table.columns.names
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f"{path}: expected the template columns {', '.join(names)}; got "
                f"{', '.join(known) or 'no table'}; choose another set of templates"
            )
        columns = {n: np.ravel(table.data[n]).astype(float) for n in names}
        order = str(table.header.get("ORDERING", "")).upper()
        frame = str(table.header.get("COORDSYS", "G")).upper()
    n_pixels = len(columns[names[0]])
    if order not in ("RING", "NESTED", "NEST") or not frame.startswith("G"):
        raise ValueError(
            f"{path}: expected templates in RING or NESTED order and Galactic coordinates; got "
            f"ORDERING {order or 'unknown'} and COORDSYS {frame}; convert them"
        )
    if not healpy.isnpixok(n_pixels):
        raise ValueError(
            f"{path}: expected whole-sky HEALPix templates; got {n_pixels} pixels; choose another"
        )
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=False)
    nest = order.startswith("NEST")
    # interpolation rounds zeros to a little below zero, which no probability can be
    shapes = {
        n: np.maximum(healpy.get_interp_val(c, theta, phi, nest=nest), 0.0)
        for n, c in columns.items()
    }
    return {name: shape / shape.mean() for name, shape in shapes.items()}


def interstellar(template=None, *, variant="P6V11", nside=256):
    """Diffuse emission above 10 GeV, normalized to the sky that the LAT sees.

    Parameters
    ----------
    template : str or path, optional
        HEALPix FITS table with one column per template; without it a built-in disc, halo and
        bubbles that need no file.
    variant : str
        Which set of templates: one of ``TEMPLATE_SETS``. Without ``template`` it is not used.
    nside : int
        HEALPix resolution of the result.

    Returns
    -------
    Diffuse

    Raises
    ------
    ValueError
        If the variant or a column is not known.
    """
    if variant not in TEMPLATE_SETS:
        raise ValueError(
            f"variant must be one of {', '.join(TEMPLATE_SETS)}; got {variant!r}; choose one"
        )
    if template is None:
        shapes, intensity = _builtin_shapes(nside), dict(_INTENSITY)
    else:
        intensity = dict(TEMPLATE_SETS[variant])
        shapes = _template_shapes(template, [n for n in intensity if n != "ISOTROPIC"], nside)
    shapes["ISOTROPIC"] = np.ones(12 * nside**2)
    return Diffuse(nside, shapes, {n: np.array(v) for n, v in intensity.items()})


def perturb(diffuse, rng, *, scatter=0.15, small_scale=0.25, slope=2.6):
    """Another sky of the same kind: normalizations scattered, gas made lumpy at small scales.

    Parameters
    ----------
    diffuse : Diffuse
        Emission to change.
    rng : numpy.random.Generator
        Source of randomness.
    scatter : float
        Standard deviation of the logarithm of each component's normalization.
    small_scale : float
        Standard deviation of the log-normal field on the interstellar components.
    slope : float
        Its angular power spectrum is ``l ** -slope`` between l = 20 and the resolution.

    Returns
    -------
    Diffuse
    """
    import healpy

    degree = np.arange(2 * diffuse.nside + 1)
    power = np.where(degree >= min(20, diffuse.nside), np.maximum(degree, 1.0) ** -slope, 0.0)
    power *= 4 * np.pi * small_scale**2 / np.sum((2 * degree + 1) * power)
    # healpy draws from NumPy's global generator; its coefficients are drawn here instead.
    ell, m = healpy.Alm.getlm(degree[-1])
    alm = rng.normal(size=len(ell)) + 1j * rng.normal(size=len(ell)) * (m > 0)
    alm *= np.sqrt(power[ell] / np.where(m > 0, 2, 1))
    field = healpy.alm2map(alm, diffuse.nside)
    lumps = np.exp(field - small_scale**2 / 2)
    smooth = ("ISOTROPIC", "BUBBLES")
    shapes = {n: s if n in smooth else s * lumps for n, s in diffuse.shapes.items()}
    intensity = {n: v * np.exp(rng.normal(0, scatter)) for n, v in diffuse.intensity.items()}
    return replace(diffuse, shapes=shapes, intensity=intensity)
