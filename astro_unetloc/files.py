"""Files: FITS files are opened once and checked to be whole; output files are written whole."""

import hashlib
import os
import secrets
import warnings
import zlib
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from astro_unetloc.exceptions import InputError

__all__ = [
    "check_output",
    "check_outputs",
    "energies_in_gev",
    "energy_axis",
    "energy_column",
    "find_hdu",
    "healpix_frame",
    "healpix_numbers",
    "is_map",
    "joined_edges",
    "open_fits",
    "read_sky_map",
    "suffix_of",
    "with_axes",
    "whole_file",
    "write_files",
]


_BLOCK = 1 << 22


def open_fits(path):
    """Open a FITS file, plain or gzipped, and make sure that it is whole.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    hdus : astropy.io.fits.HDUList
        All its HDUs, to be closed by the caller.
    checksum : str
        sha256 of the file as it lies on disk, hexadecimal.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a directory, no FITS file, or cut off.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise InputError(f"a FITS file was expected; got the directory {path}; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}; check the name and the directory")
    try:
        checksum, content = _read_bytes(path)
    except (EOFError, zlib.error) as err:
        raise InputError(_damaged(path, "its gzip stream ends too early or is corrupt")) from err
    except OSError as err:
        raise InputError(f"{path} cannot be read: {err.strerror or err}; check the file") from err
    hdus = _open_hdus(path, content)
    try:
        _check_whole(path, hdus, path.stat().st_size if content is None else len(content))
    except ValueError:
        hdus.close()
        raise
    return hdus, checksum


def _read_bytes(path):
    """Hash of a file, and what its gzip stream holds (None for a plain file)."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        magic = file.read(9)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            import gzip

            packed = file.read()
            digest.update(packed)
            content = gzip.decompress(packed)
            magic = content[:9]
        else:
            content = None
            while block := file.read(_BLOCK):
                digest.update(block)
    if magic != b"SIMPLE  =":
        raise InputError(
            f"a FITS file was expected; got {path}, which does not start like one; "
            "give a counts map, an event list or a gammapy dataset"
        )
    return digest.hexdigest(), content


def _open_hdus(path, content):
    from io import BytesIO

    from astropy.io import fits

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if content is None:
                hdus = fits.open(path, memmap=True)
            else:
                hdus = fits.open(BytesIO(content), memmap=False)
            len(hdus)  # reads every header
        except Exception as err:  # astropy raises many kinds for damaged headers
            raise InputError(_damaged(path, "a header is cut off or corrupt")) from err
    if any("validating header" in str(item.message) for item in caught):
        n_hdus = len(hdus)
        hdus.close()
        raise InputError(_damaged(path, f"the header of HDU {n_hdus} is cut off or corrupt"))
    return hdus


def _check_whole(path, hdus, size):
    for number, hdu in enumerate(hdus):
        end = hdu.fileinfo()["datLoc"] + hdu.size
        if end > size:
            reason = f"HDU {number} needs {end} bytes and the file has {size}"
            raise InputError(_damaged(path, reason))


def _damaged(path, reason):
    return f"{path} is truncated or damaged: {reason}; copy or download it again"


def find_hdu(hdus, *names):
    """The first HDU with one of these names (any case), or None."""
    for name in names:
        for hdu in hdus:
            if hdu.name.upper() == name.upper():
                return hdu
    return None


def is_map(hdu):
    """Whether an HDU is an image of two or more axes or a HEALPix table."""
    if hdu.is_image:
        return hdu.header.get("NAXIS", 0) >= 2
    return hdu.header.get("PIXTYPE") == "HEALPIX"


# gammapy reads neither COORDSYS = 'EQU' of gtbin, explicit pixels without HPX_REG, FIRSTPIX, nor
# tables of healpy; it takes ICRS where COORDSYS is missing, MeV whatever the unit of ENERGIES, and
# leaves edges in keV as float32, so that 10 GeV becomes 9.9999998 GeV and falls out of a band.
# The functions below therefore build gammapy's maps themselves.


def read_sky_map(hdus, hdu, *, what="counts", axis=None, frame=None, unit=None):
    """Map of an image or a HEALPix table with the energies that the file states.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The file.
    hdu : HDU
        Image with the axes longitude, latitude and energy, or HEALPix table of the whole sphere or
        of a part, with one column for each energy, one vector column, or sparse values.
    what : str
        What the values are, for messages.
    axis : gammapy.maps.MapAxis, optional
        Energies; read from the table that belongs to the map by default.
    frame : str, optional
        Frame of a HEALPix table without the keyword COORDSYS.
    unit : str, optional
        Unit to which that of the file must be equivalent, and that of values without a unit.

    Returns
    -------
    gammapy.maps.WcsNDMap or gammapy.maps.HpxNDMap
        Values as they are stored, blank HEALPix pixels NaN; without an axis if the file states no
        energies and has one plane.
    """
    from gammapy.maps import Map

    axis = energy_axis(hdus, hdu) if axis is None else axis
    if hdu.is_image:
        geom, planes = _read_image(hdu, what)
        stated = hdu.header.get("BUNIT")
    else:
        geom, planes, stated = _read_healpix(hdu, None if axis is None else axis.nbin, what, frame)
    if axis is None and len(planes) > 1:
        raise InputError(
            f"{what} with {len(planes)} planes must state their energies (a table EBOUNDS, "
            "ENERGIES or *_BANDS); got none; write the map with its table"
        )
    if axis is not None and len(planes) != axis.nbin:
        raise InputError(
            f"one energy for each plane was expected; got {axis.nbin} energies and {len(planes)} "
            "planes; write the map with its own table of energies"
        )
    geom = geom if axis is None else with_axes(geom, [axis])
    unit = "" if unit is None else _mended_unit(stated, unit, what)
    return Map.from_geom(geom, data=planes.reshape(geom.data_shape), unit=unit)


def with_axes(geom, axes):
    """Geometry of the same pixels of the sky with one other axis or none."""
    from gammapy.maps import HpxGeom

    if not geom.is_hpx or geom.region != "explicit":
        return geom.to_image().to_cube(axes)
    # gammapy 2.1 can neither copy nor slice geometries of explicit pixels
    region = (healpix_numbers(geom),)
    for axis in axes:
        bands = np.arange(axis.nbin)
        region = (np.tile(region[0], axis.nbin), np.repeat(bands, len(region[0])))
    nside = int(np.max(geom.nside))
    return HpxGeom(nside, nest=geom.nest, frame=geom.frame, region=region, axes=axes)


def healpix_numbers(geom):
    """Increasing pixel numbers of a HEALPix geometry; None for the whole sphere."""
    if geom.is_allsky:
        return None
    # the public get_idx fails for explicit pixels with an axis of one bin
    return geom._ipix[: np.ravel(geom.npix)[0]].astype(np.int64)


def _mended_unit(stated, wanted, what):
    """Stated unit without photons, or the wanted one if none is stated."""
    import astropy.units as u

    text = str(stated or "").strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            unit = u.Unit(text.replace("photons", "photon") or wanted)
        for factor in (u.dimensionless_unscaled, u.photon):
            if (unit / factor).is_equivalent(wanted):
                return unit / factor
    except (ValueError, TypeError):
        pass  # not a unit: refused below
    raise InputError(
        f"{what} must be in {wanted}; got the unit {text!r}; convert the map or correct its unit"
    )


def _read_image(hdu, what):
    """Geometry and planes (n, ny, nx) of an image."""
    from gammapy.maps import WcsGeom

    data = np.asarray(hdu.data)
    while data.ndim > 3 and data.shape[0] == 1:  # a degenerate axis, such as STOKES
        data = data[0]
    if data.ndim not in (2, 3):
        raise InputError(
            f"{what} must have the axes longitude, latitude and at most one energy; got "
            f"{data.ndim} axes of shape {data.shape}; sum over the others"
        )
    wcs = _celestial_wcs(hdu.header)
    return WcsGeom(wcs, data.shape[:-3:-1]), data.reshape(-1, *data.shape[-2:])


def _celestial_wcs(header):
    """The two celestial axes of a header."""
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates and old keywords do not matter here
        try:
            wcs = WCS(header, naxis=2)
        except Exception as err:  # wcslib raises its own kinds
            reason = " ".join(str(err).split())
            raise InputError(f"the WCS of the image cannot be used: {reason}") from err
    kinds = [axis.split("-")[0].strip() for axis in wcs.wcs.ctype]
    if not wcs.has_celestial:
        raise InputError(
            f"an image with sky coordinates (CTYPE1 such as GLON-CAR) was expected; got the axes "
            f"{', '.join(map(repr, wcs.wcs.ctype))}; add the WCS keywords"
        )
    if kinds not in (["GLON", "GLAT"], ["RA", "DEC"]):
        raise InputError(
            f"the first two axes must be GLON, GLAT or RA, DEC in this order; got "
            f"{', '.join(kind or 'nothing' for kind in kinds)}; reproject or transpose the map"
        )
    return wcs


_FRAMES = dict.fromkeys(("G", "GAL", "GALACTIC"), "galactic") | dict.fromkeys(
    ("C", "CEL", "EQU", "EQ", "ICRS", "J2000", "CELESTIAL", "EQUATORIAL"), "icrs"
)
_PIXEL_COLUMNS = ("PIX", "PIXEL", "HPX_INDEX", "IPIX")
_UNSEEN, _UNSEEN_RTOL = -1.6375e30, 1e-5  # blank value of healpy and healpy's tolerance


def healpix_frame(header):
    """Frame of the keyword COORDSYS, None if it is missing."""
    name = str(header.get("COORDSYS", "")).strip().upper()
    if name and name not in _FRAMES:
        raise InputError(
            f"COORDSYS of a HEALPix map must be GAL or EQU (or G, C, CEL, ICRS); got {name!r}; "
            "rotate the map or correct the keyword"
        )
    return _FRAMES.get(name)


def _read_healpix(hdu, n_energy, what, frame):
    """Geometry, planes (n, n_pixels) and stated unit of a HEALPix table."""
    from gammapy.maps import HpxGeom

    frame = healpix_frame(hdu.header) or frame
    if frame is None:
        raise InputError(
            f"the frame of a HEALPix map of {what} must be known; got no COORDSYS; add the keyword "
            "COORDSYS = 'GAL' or 'CEL'"
        )
    names = {name.upper(): name for name in hdu.columns.names}
    pixel_column = next((names[name] for name in _PIXEL_COLUMNS if name in names), None)
    numbers = None
    if pixel_column is not None:
        numbers = np.ravel(hdu.data[pixel_column]).astype(np.int64)
    if {"CHANNEL", "VALUE"} <= set(names):
        columns, (numbers, planes) = [names["VALUE"]], _sparse_planes(hdu, names, numbers, n_energy)
    else:
        columns = _value_columns(names, n_energy, what)
        planes = [np.asarray(hdu.data[column]) for column in columns]
        if len(planes) == 1:
            planes = planes[0].reshape(-1, n_energy or 1).T
        planes = np.stack([plane.ravel() for plane in planes])
    if planes.dtype.kind == "f":
        for plane in planes:
            plane[np.isclose(plane, _UNSEEN, rtol=_UNSEEN_RTOL, atol=0)] = np.nan
    nside, nest, numbers = _healpix_layout(hdu.header, planes.shape[1], numbers)
    if numbers is not None:  # gammapy keeps pixels in increasing order
        order = np.argsort(numbers)
        numbers, planes = (numbers[order],), planes[:, order]
    geom = HpxGeom(nside, nest=nest, frame=frame, region=numbers)
    return geom, planes, hdu.columns[columns[0]].unit


def _value_columns(names, n_energy, what):
    """Names of the columns that hold values, in the order of energy."""
    values = [name for name in names if name not in (*_PIXEL_COLUMNS, "CHANNEL")]
    if n_energy is None and "COUNTS" in values:
        values = ["COUNTS"]
    if len(values) not in (1, n_energy):
        bins = "one column or one called COUNTS" if n_energy is None else f"{n_energy} columns"
        raise InputError(
            f"{bins} of {what} was expected in the HEALPix table; got {len(values)}: "
            f"{', '.join(values[:6])}{', ...' if len(values) > 6 else ''}; "
            "give a map with a table of energies if it has several"
        )
    return [names[name] for name in values]


def _sparse_planes(hdu, names, numbers, n_energy):
    """Pixels and planes of a table with one row for each filled pixel and channel (gammapy)."""
    numbers, row = np.unique(numbers, return_inverse=True)
    planes = np.zeros((n_energy or 1, len(numbers)))
    channel = np.asarray(hdu.data[names["CHANNEL"]]).astype(np.int64)
    np.add.at(planes, (channel, row), hdu.data[names["VALUE"]])
    return numbers, planes


def _healpix_layout(header, n_values, numbers):
    """Resolution, order and pixel numbers of a HEALPix table; None for the whole sphere."""
    order = str(header.get("ORDERING", "")).strip().upper()
    if order not in ("RING", "NESTED", "NEST"):
        raise InputError(
            f"ORDERING of a HEALPix map must be RING or NESTED; got {order or 'nothing'!r}; "
            "add the keyword"
        )
    nside = int(header.get("NSIDE", 0)) or int(np.sqrt(n_values / 12))
    n_sphere = 12 * nside**2
    if numbers is None and n_values != n_sphere:
        first, last = int(header.get("FIRSTPIX", 0)), int(header.get("LASTPIX", -1))
        if last - first + 1 != n_values:
            raise InputError(
                f"{n_sphere} pixels (nside {nside}), a column PIX, or FIRSTPIX and LASTPIX that "
                f"fit were expected; got {n_values} pixels; complete the HEALPix table"
            )
        numbers = np.arange(first, last + 1)
    if numbers is not None:
        if str(header.get("INDXSCHM", "")).strip().upper() == "LOCAL":
            raise InputError("HEALPix pixel numbers must be global; got INDXSCHM LOCAL; rewrite it")
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < n_sphere:
            raise InputError(
                f"HEALPix pixel numbers must lie in 0..{n_sphere - 1} at nside {nside}; got "
                f"{numbers.min()}..{numbers.max()}; correct the map"
            )
        if len(np.unique(numbers)) != len(numbers):
            raise InputError("HEALPix pixel numbers must be unique; got repetitions; sum them")
    return nside, order != "RING", numbers


_EDGE_COLUMNS = (
    ("E_MIN", "E_MAX"),
    ("ENERGY_MIN", "ENERGY_MAX"),
    ("ENERGY_TRUE_MIN", "ENERGY_TRUE_MAX"),
)
_CENTER_COLUMNS = ("ENERGY", "ENERGY_TRUE")
_EDGE_RTOL = 1e-4  # edges in keV as float32 agree this well and better


def energy_axis(hdus, hdu):
    """Energy axis in GeV of a map from the table that belongs to it.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The file.
    hdu : HDU
        The map.

    Returns
    -------
    gammapy.maps.MapAxis or None
        The bins "energy" of EBOUNDS (gtbin) and ``*_BANDS`` (gammapy), or the single energies
        "energy_true" of ENERGIES (gtexpcube2); None if the file has no such table.
    """
    from gammapy.maps import MapAxis

    names = [hdu.header.get("BANDSHDU", ""), f"{hdu.name}_BANDS", "EBOUNDS", "ENERGIES"]
    table = find_hdu(hdus, *(name for name in names if name))
    if table is None or not hasattr(table, "columns"):
        return None
    for header in (hdu.header, table.header):
        if "AXCOLS2" in header:
            axes = "; ".join(str(header.get(f"AXCOLS{i}")) for i in (1, 2))
            raise InputError(
                f"a map must have one energy axis or none; got several axes ({axes}); sum over "
                "the others"
            )
    columns = {name.upper(): name for name in table.columns.names}
    pair = next((pair for pair in _EDGE_COLUMNS if set(pair) <= set(columns)), None)
    center = next((name for name in _CENTER_COLUMNS if name in columns), None)
    stated = str(hdu.header.get("AXCOLS1", table.header.get("AXCOLS1", ","))).upper()
    if pair is not None and ("," in stated or center is None):
        default = "keV" if table.name.upper() == "EBOUNDS" else "MeV"
        edges = _edges_of_bins(table, [columns[name] for name in pair], default)
        name = "energy_true" if "TRUE" in pair[0] else "energy"
        return MapAxis.from_energy_edges(edges, unit="GeV", name=name)
    if center is None:
        raise InputError(
            f"energies were expected in table {table.name}; got the columns {', '.join(columns)}; "
            "give the whole file as the Fermi tools or gammapy wrote it"
        )
    energy = energy_column(table, columns[center])
    if not (np.all(np.isfinite(energy)) and np.all(energy > 0) and np.all(np.diff(energy) > 0)):
        raise InputError(
            f"energies must be positive and increase; got others in table {table.name}; sort them"
        )
    return MapAxis.from_nodes(energy, unit="GeV", name="energy_true", interp="log")


def joined_edges(low, high):
    """Edges of bins that touch and increase, from their lower and upper ends."""
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high)) and np.all(low > 0)):
        raise InputError("energy edges must be positive; got negative, zero or infinite energies")
    if np.any(high <= low) or not np.allclose(low[1:], high[:-1], rtol=_EDGE_RTOL):
        raise InputError(
            "energy bins must touch and increase; got gaps, overlaps or another order; "
            "rebin the map"
        )
    return np.append(low, high[-1])


def energy_column(hdu, name, default="MeV"):
    """Energies of a table column in GeV as float64."""
    return energies_in_gev(np.asarray(hdu.data[name], dtype=float), hdu.columns[name].unit, default)


def _edges_of_bins(hdu, names, default):
    """Edges in GeV of the bins in two columns of a table, 0.01 of a float32 as 0.01."""
    ends = []
    for name in names:
        values = np.asarray(hdu.data[name])
        if values.dtype.kind == "f" and values.dtype.itemsize == 4:
            values = np.array([float(str(value)) for value in values.astype(np.float32)])
        ends.append(energies_in_gev(values.astype(float), hdu.columns[name].unit, default))
    return joined_edges(*ends)


def energies_in_gev(values, unit, default="MeV"):
    """Energies (n,) of a stated unit in GeV; powers of ten are exact (1e7 keV is 10 GeV)."""
    from astropy.units import Unit, UnitConversionError

    text = str(unit or default).strip() or default
    try:
        scale = Unit(text).to("GeV")
    except (ValueError, UnitConversionError) as err:
        raise InputError(f"an energy unit was expected; got {text!r}; correct TUNIT") from err
    power = 10.0 ** round(-np.log10(scale))
    return values / power if np.isclose(scale * power, 1, rtol=1e-12) else values * scale


def check_output(path, *, overwrite=False):
    """Raise an error unless a file can be written at a path.

    Parameters
    ----------
    path : str or path-like
        File to write.
    overwrite : bool
        Whether a file that exists may be replaced.

    Raises
    ------
    FileExistsError
        If the path is a folder, or a file exists and may not be replaced.
    FileNotFoundError
        If the folder does not exist.
    PermissionError
        If the folder cannot be written to.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise FileExistsError(f"output must be a file; got the directory {str(path)!r}; add a name")
    folder = str(Path(path).parent)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"output directory must exist; got {folder!r}; create it first")
    if target.exists() and not overwrite:
        raise _exists(path)
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"output directory must be writable; got {folder!r}; choose another")


def _exists(path):
    return FileExistsError(
        f"output must not exist; got {str(path)!r}; choose another name or allow overwriting"
    )


def check_outputs(paths, *, overwrite=False, inputs=(), suffixes=None):
    """Raise an error unless all files can be written; call it before a long computation.

    Parameters
    ----------
    paths : iterable of str or path-like
        Files to write.
    overwrite : bool
        Whether files that exist may be replaced.
    inputs : iterable of str or path-like
        Files that are read, none of which may be written.
    suffixes : sequence of str, optional
        Endings of which each path must have one.

    Raises
    ------
    InputError
        If a path has another ending, is given twice or is also an input.
    FileExistsError, FileNotFoundError, PermissionError
        As `check_output`.
    """
    taken = {os.path.realpath(path): "output must not be the input; got {!r}" for path in inputs}
    for path in paths:
        if suffixes is not None and not suffix_of(path, suffixes):
            raise InputError(
                f"output must end in one of {' '.join(suffixes)}; got {str(path)!r}; rename it"
            )
        real = os.path.realpath(path)
        if real in taken:
            raise InputError(taken[real].format(str(path)) + "; rename it")
        taken[real] = "outputs must differ; got {!r} twice"
        check_output(path, overwrite=overwrite)


def suffix_of(path, suffixes):
    """Longest of the suffixes that ends the name of a file, in any case; empty if there is none."""
    name = Path(path).name.lower()
    found = (suffix for suffix in suffixes if name.endswith(suffix) and len(name) > len(suffix))
    return max(found, key=len, default="")


@contextmanager
def whole_file(path, *, overwrite=False):
    """Temporary path beside a file, which takes the place of the file when the block ends.

    An error inside the block removes the temporary file, so that the file is written whole or not
    at all. A file that exists is not replaced unless ``overwrite`` is true, even if it appeared
    after the check of the outputs.

    Parameters
    ----------
    path : str or path-like
        File to write; a symbolic link stays and its target is written.
    overwrite : bool
        Whether a file that exists may be replaced.

    Yields
    ------
    Path
        Name that ends with the name of the file; write to it.
    """
    target = Path(os.path.realpath(path))
    fresh = target.with_name(f".{secrets.token_hex(6)}.{target.name}")
    try:
        yield fresh
        with open(fresh, "rb+") as stream:
            os.fsync(stream.fileno())
        if target.exists() and not overwrite:
            raise _exists(path)
        os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)


def write_files(contents, *, overwrite=False):
    """Write files, each of them whole or not at all, and none if the content of one cannot be made.

    Parameters
    ----------
    contents : dict of path to bytes or callable
        Content of each file, or a function that writes it to the path that it is given.
    overwrite : bool
        Whether files that exist may be replaced.

    Returns
    -------
    list of Path
        The files.
    """
    with ExitStack() as stack:
        for path, content in contents.items():
            fresh = stack.enter_context(whole_file(path, overwrite=overwrite))
            content(fresh) if callable(content) else fresh.write_bytes(content)
    return [Path(path) for path in contents]
