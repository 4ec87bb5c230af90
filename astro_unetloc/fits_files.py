"""FITS files: opened once, checked to be whole, and recognised for what they hold."""

import hashlib
import re
import warnings
import zlib
from pathlib import Path

import numpy as np

__all__ = ["describe_product", "find_counts_hdu", "find_hdu", "open_fits", "select_header"]

_BLOCK = 1 << 22
_HEADER_KEYS = ("TELESCOP", "INSTRUME", "OBJECT", "CREATOR", "ORIGIN", "DATE-OBS", "DATE-END")
_DSS_KEY = re.compile(r"DS(TYP|VAL|UNI|REF)\d+$")


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
        raise ValueError(f"a FITS file was expected; got the directory {path}; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}; check the name and the directory")
    try:
        checksum, content = _read_bytes(path)
    except (EOFError, zlib.error) as err:
        raise ValueError(_damaged(path, "its gzip stream ends too early or is corrupt")) from err
    except OSError as err:
        raise ValueError(f"{path} cannot be read: {err.strerror or err}; check the file") from err
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
        raise ValueError(
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
            raise ValueError(_damaged(path, "a header is cut off or corrupt")) from err
    if any("validating header" in str(item.message) for item in caught):
        n_hdus = len(hdus)
        hdus.close()
        raise ValueError(_damaged(path, f"the header of HDU {n_hdus} is cut off or corrupt"))
    return hdus


def _check_whole(path, hdus, size):
    for number, hdu in enumerate(hdus):
        end = hdu.fileinfo()["datLoc"] + hdu.size
        if end > size:
            reason = f"HDU {number} needs {end} bytes and the file has {size}"
            raise ValueError(_damaged(path, reason))


def _damaged(path, reason):
    return f"{path} is truncated or damaged: {reason}; copy or download it again"


def find_hdu(hdus, *names):
    """The first HDU with one of these names (any case), or None."""
    for name in names:
        for hdu in hdus:
            if hdu.name.upper() == name.upper():
                return hdu
    return None


def find_counts_hdu(hdus):
    """The image or HEALPix table that holds counts: by name, else the first; or None.

    A gammapy dataset without counts has other maps, which are not taken for counts.
    """
    found = [hdu for hdu in hdus if _is_map(hdu)]
    named = find_hdu(found, "COUNTS", "SKYMAP")
    if named is not None:
        return named
    if {"MASK_SAFE", "MASK_FIT", "BACKGROUND", "EXPOSURE"} & {hdu.name.upper() for hdu in hdus}:
        return None
    return found[0] if found else None


def _is_map(hdu):
    if hdu.is_image:
        return hdu.header.get("NAXIS", 0) >= 2
    return hdu.header.get("PIXTYPE") == "HEALPIX"


def select_header(*headers):
    """Keywords worth carrying to a catalogue, as a dict: DSS cuts, telescope, dates.

    Of several headers the first that has a keyword wins; the DSS keywords come from one header.
    """
    selected = {}
    for header in headers:
        cuts = {key: header[key] for key in header if _DSS_KEY.match(key)}
        has_cuts = any(_DSS_KEY.match(key) for key in selected)
        found = {key: header[key] for key in _HEADER_KEYS if key in header}
        selected = found | ({} if has_cuts else cuts) | selected
    return selected


def describe_product(hdus):
    """What a file holds if it is a known product without counts, else None.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        An open file.

    Returns
    -------
    str or None
        A phrase such as "an exposure map (gtexpcube2)".
    """
    names = {hdu.name.upper() for hdu in hdus}
    columns = {
        c.upper() for hdu in hdus for c in getattr(getattr(hdu, "columns", None), "names", ())
    }
    if {"COUNTS", "EVENTS", "EXPOSURE_BANDS"} & names:  # the last: a dataset of gammapy
        return None
    if "SOURCE_NAME" in columns or any(name.startswith("LAT_POINT_SOURCE") for name in names):
        return "a source catalogue"
    if "HPXEXPOSURES" in names:
        return "an exposure map"
    if "PSF" in names and "THETA" in names or {"PSF", "EXPOSURE", "THETA"} <= columns:
        return "a PSF table (gtpsf)"
    if "WEIGHTED_EXPOSURE" in names or "CTHETABOUNDS" in names:
        return "a livetime cube (gtltcube)"
    if "SC_DATA" in names:
        return "a spacecraft file"
    kinds = (_describe_map(hdu, hdus) for hdu in hdus if _is_map(hdu))
    return next((kind for kind in kinds if kind), None)


def _describe_map(hdu, hdus):
    """What an image or HEALPix table is by its creator, unit, third axis and energies."""
    header = hdu.header
    if str(header.get("CREATOR", "")).strip().lower() == "gtmodel":
        return "a model cube (gtmodel), which is no observation"
    unit = re.sub(r"[ *^]", "", str(header.get("BUNIT", ""))).lower()
    per_area = "m-2" in unit or "/" in unit
    if "m2" in unit and "s" in unit.split("m2")[-1] and not per_area:
        return "an exposure map"
    axis = str(header.get("CTYPE3", "")).strip().lower()
    single_energies = "AXCOLS1" in header and "," not in header["AXCOLS1"]
    cube = hdu.is_image and header.get("NAXIS") == 3 and find_hdu(hdus, "EBOUNDS") is None
    if single_energies or axis == "log_energy" or cube and find_hdu(hdus, "ENERGIES") is not None:
        values = hdu.data if hdu.is_image else hdu.data[hdu.columns.names[-1]]
        exposure = axis == "log_energy" or not per_area and np.nanmax(values) > 1e3
        return "an exposure map" if exposure else "a diffuse emission template"
    return None
