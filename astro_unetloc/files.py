"""FITS files: opened once, checked to be whole, and recognised for what they hold."""

import hashlib
import warnings
import zlib
from pathlib import Path

from astro_unetloc.exceptions import InputError

__all__ = ["find_hdu", "open_fits"]


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
