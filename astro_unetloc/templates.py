"""Files of interstellar and isotropic emission: tables of shapes, cubes over energy, spectra."""

import numpy as np

from astro_unetloc.fits_files import find_hdu, open_fits
from astro_unetloc.messages import warn
from astro_unetloc.sky_cubes import find_cube, read_sky_cube

__all__ = ["is_template_cube", "read_isotropic", "read_template_cube", "read_template_shapes"]

_INTENSITY_UNIT = "cm-2 s-1 sr-1 MeV-1"
_MAX_SUBPIXELS = 4  # per side of a HEALPix pixel


def is_template_cube(path):
    """Whether a file holds emission at several energies, not shapes without energy."""
    hdus, _ = open_fits(path)
    with hdus:
        hdu = find_cube(hdus)
        if hdu is None:
            return False
        return hdu.is_image or find_hdu(hdus, "ENERGIES", f"{hdu.name}_BANDS") is not None


def read_template_shapes(path, names, nside):
    """Shapes, mean 1, of a Galactic HEALPix FITS table with one named column per template.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    names : list of str
        Columns.
    nside : int
        Resolution of the result (RING).

    Returns
    -------
    dict of str to ndarray (n_pixels,)

    Raises
    ------
    ValueError
        If a column is missing, or the table is not Galactic, not of the whole sky or negative.
    """
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
    for name, column in columns.items():
        if not (np.all(np.isfinite(column)) and column.min() >= 0 and column.max() > 0):
            raise ValueError(
                f"{path}: expected a template that is finite and nowhere negative; got other "
                f"values in {name}; correct it"
            )
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=False)
    nest = order.startswith("NEST")
    # interpolation rounds zeros to a little below zero, which no probability can be
    shapes = {
        n: np.maximum(healpy.get_interp_val(c, theta, phi, nest=nest), 0.0)
        for n, c in columns.items()
    }
    return {name: shape / shape.mean() for name, shape in shapes.items()}


def read_template_cube(path, nside):
    """Emission at several energies, such as the official model of the Galaxy, on HEALPix pixels.

    Parameters
    ----------
    path : str or pathlib.Path
        A WCS cube as ``gll_iem`` or a HEALPix cube, with its table of energies; without a unit it
        is in ph cm-2 s-1 sr-1 MeV-1. A part of the sky is enough; only that part emits.
    nside : int
        Resolution of the result (RING, Galactic).

    Returns
    -------
    energy : ndarray (m,)
        Energies in GeV.
    values : ndarray (m, n_pixels) of float32
        Intensity in ph cm-2 s-1 sr-1 GeV-1.

    Raises
    ------
    ValueError
        If there is no cube, no energies, another unit, or intensities are negative or not finite.
    """
    import healpy

    cube = read_sky_cube(path, "interstellar emission", unit=_INTENSITY_UNIT)
    cube.check("interstellar emission")
    if len(cube.energy) < 2:
        raise ValueError(f"interstellar emission needs two or more energies; got one in {path}")
    # small pixels of the cube must all be seen: several points in each pixel of the result
    size_deg = np.degrees(np.sqrt(np.pi / 3)) / nside
    step = 2 ** int(np.ceil(np.log2(np.clip(size_deg / cube.pixels.pixel_size_deg, 1, None))))
    step = min(step, _MAX_SUBPIXELS)
    n_pixels = 12 * nside**2
    values = np.empty((len(cube.energy), n_pixels), dtype=np.float32)
    n_seen = 0
    for pixels in np.array_split(np.arange(n_pixels), max(n_pixels * step**2 // 500_000, 1)):
        nested = healpy.ring2nest(nside, pixels)[:, None] * step**2 + np.arange(step**2)
        vectors = np.stack(healpy.pix2vec(nside * step, nested.ravel(), nest=True), axis=-1)
        found = cube.at(vectors)
        n_seen += np.isfinite(found[0]).sum()
        mean = np.nan_to_num(found).reshape(len(found), len(pixels), step**2).mean(axis=2)
        values[:, pixels] = 1e3 * mean
    share = n_seen / (n_pixels * step**2)
    if share == 0:
        raise ValueError(f"{path} covers no HEALPix pixel of nside {nside}; choose a finer one")
    if share < 0.999:
        warn(f"{path} covers {100 * share:.2g} % of the sky; nothing else of the sky emits")
    return cube.energy, values


def read_isotropic(path):
    """Spectrum of isotropic emission in the official text format.

    Parameters
    ----------
    path : str or pathlib.Path
        Three columns: energy in MeV, intensity in ph cm-2 s-1 sr-1 MeV-1, and its error.

    Returns
    -------
    energy : ndarray (m,)
        In GeV.
    intensity : ndarray (m,)
        In ph cm-2 s-1 sr-1 GeV-1.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it has not three columns of numbers, or the energies do not increase, or an intensity is
        not positive.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.split("#")[0].split() for line in file]
        rows = np.array([[float(word) for word in line] for line in lines if line])
        if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) < 2:
            raise ValueError(f"{rows.shape}")
    except FileNotFoundError as err:
        raise FileNotFoundError(f"no such file: {path}; check the name and the directory") from err
    except ValueError as err:
        raise ValueError(
            "an isotropic spectrum has three columns of numbers: MeV, ph cm-2 s-1 sr-1 MeV-1 and "
            f"its error; got something else in {path}; give the official text file"
        ) from err
    energy, intensity = rows[:, 0], rows[:, 1]
    if not (np.all(np.isfinite(rows)) and np.all(intensity > 0) and np.all(np.diff(energy) > 0)):
        raise ValueError(
            "an isotropic spectrum needs increasing energies and positive intensities; got others "
            f"in {path}; correct it"
        )
    if energy[0] <= 0:
        raise ValueError(f"energies must be positive; got {energy[0]:g} MeV in {path}; correct it")
    return energy / 1e3, intensity * 1e3
