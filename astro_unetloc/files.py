"""Files: FITS files are opened once and checked to be whole; output files are written whole."""

import bz2
import errno
import glob
import gzip
import hashlib
import lzma
import math
import os
import platform
import re
import secrets
import warnings
import zlib
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path

from astro_unetloc.exceptions import InputError, warn

_TEMPORARY = ".unetloc-"  # beginning of the names of files that are not whole yet

_UNPACK = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}  # by the first two bytes
_BLOCK = 2880  # bytes of a FITS block
_MAX_HEADER, _MAX_HDUS = 1000, 1000  # blocks of a header (36 000 cards), HDUs of a file
# A compressed file is unpacked in memory. A map of the whole sky packs about 50:1.
_MAX_UNPACKED, _MAX_RATIO = 10**9, 200
_CHOSEN = re.compile(r"(.+)\[(\w+)\]$")  # as of cfitsio


def open_fits(path):
    """Open HDUList of a FITS file and sha256 of the file; whole and readable, or an error.

    It may be compressed (.gz, .bz2, .xz, and .fz inside). ``file.fits[EVENTS]`` and
    ``file.fits[1]`` choose an HDU; the other maps and event lists are then left out.
    """
    path, chosen = split_choice(path)
    check_file(path, "a FITS file")
    try:
        with open(path, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            unpack = _UNPACK.get(file.read(2))
            file.seek(0)
            content = None if unpack is None else BytesIO()
            stream = file if unpack is None else unpack(file)
            scaled = _check_whole(path, stream, content)
    except (EOFError, zlib.error, lzma.LZMAError) as err:
        raise _damaged(path, "its compressed stream ends too early or is corrupt") from err
    except OSError as err:
        raise InputError(f"{path} cannot be read: {err.strerror or err}; check the file") from err
    hdus = _open_hdus(path, content, memmap=content is None and not scaled)
    if chosen is not None:
        with ExitStack() as stack:
            stack.enter_context(hdus)
            _choose(hdus, chosen, path)
            stack.pop_all()  # the file stays open
    return hdus, checksum


def split_choice(path):
    """Path of a file, and the name or number of the HDU that brackets behind it choose, or None."""
    path = Path(path).expanduser()
    named = _CHOSEN.match(str(path))
    chosen = named and not path.exists() and Path(named[1]).exists()
    return (Path(named[1]), named[2]) if chosen else (path, None)


def check_file(path, what):
    """Refuse a path that is no file; ``what`` names what was expected."""
    if path.is_dir():
        raise InputError(f"{what} was expected; got the directory {path}; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}; check the name and the directory")
    if not path.is_file():
        raise InputError(f"{what} was expected; got {path}, a pipe or device; write it to a file")


def _check_whole(path, stream, content):
    """Check the sizes that the headers state before anything relies on them.

    Returns whether an image has scaled or blank values, which astropy cannot map into memory. What
    is read of a compressed file is written to ``content``; the data of a plain one are skipped.
    """
    scaled, number, n_bytes, n_packed = False, 0, 0, os.path.getsize(path)
    while True:
        header = _read_header(path, stream, content, number)
        if header is None:
            (content or stream).seek(0)
            return scaled
        prefixes = ("", "Z") if "ZNAXIS" in header else ("",)
        try:
            sizes = [_data_size(header, prefix) for prefix in prefixes]
        except (KeyError, ValueError) as err:
            raise _damaged(path, f"the header of HDU {number} is cut off or corrupt") from err
        scaled |= not header.keys().isdisjoint(("BSCALE", "BZERO", "BLANK"))
        n_bytes += max(sizes)
        if number > _MAX_HDUS:
            raise _damaged(path, f"more than {_MAX_HDUS} HDUs")
        packed = content is not None or len(sizes) > 1
        if packed and n_bytes > max(_MAX_UNPACKED, _MAX_RATIO * n_packed):
            got = f"{path}, {n_bytes / n_packed:.0f} times as large"
            raise InputError(f"a file of at most 1 GB unpacked was expected; got {got}; unpack it")
        whole = -(-sizes[0] // _BLOCK) * _BLOCK
        if content is None:
            n_left = n_packed - stream.tell()
            stream.seek(min(whole, n_left), os.SEEK_CUR)
        else:
            n_left = content.write(stream.read(whole))
        if n_left < sizes[0]:  # the last padding may be missing
            reason = f"HDU {number} needs {sizes[0]} bytes and the file has {n_left}"
            raise _damaged(path, reason)
        number += 1


def _read_header(path, stream, content, number):
    """Keywords of the next header and their values as text; None at the end of the file."""
    header, n_blocks = {}, 0
    while "END" not in header:
        block, n_blocks = stream.read(_BLOCK), n_blocks + 1
        if not block and not header and number:
            return None
        if not header and not number and not re.match(rb"SIMPLE  = +T", block):
            got = f"{path}, which does not start like one"
            raise InputError(f"a FITS file was expected; got {got}; give a map or an event list")
        if len(block) < _BLOCK or n_blocks > _MAX_HEADER:
            raise _damaged(path, f"the header of HDU {number} is cut off or corrupt")
        cards = (block[start : start + 80].decode("latin-1") for start in range(0, _BLOCK, 80))
        header |= {card[:8].strip(): card[10:].split("/")[0].strip() for card in cards}
        if content is not None:
            content.write(block)
    return header


def _data_size(header, prefix):
    """Bytes of the data that a header states, or its compressed image (``prefix`` Z) unpacked."""
    axes = [int(header[f"{prefix}NAXIS{n + 1}"]) for n in range(int(header[f"{prefix}NAXIS"]))]
    n_bytes = {8: 1, 16: 2, 32: 4, 64: 8}[abs(int(header[f"{prefix}BITPIX"]))]
    n_more, n_groups = int(header.get("PCOUNT", 0)), int(header.get("GCOUNT", 1))
    if min([*axes, n_more, n_groups]) < 0 or not 0 <= int(header.get("TFIELDS", 0)) < 1000:
        raise ValueError("sizes must be positive, and a table has at most 999 columns")
    size = math.prod(axes) + (0 if prefix else n_more) if axes else 0
    return n_bytes * n_groups * size


def _open_hdus(path, content, memmap):
    """HDUs whose cards and columns have all been read once, because astropy reads them late."""
    from astropy.io import fits

    with warnings.catch_warnings(record=True) as caught, ExitStack() as stack:
        warnings.simplefilter("always")
        try:
            source = stack.enter_context(open(path, "rb") if content is None else content)
            # unsigned integers become floats, so that blank ones can be NaN
            hdus = fits.open(source, memmap=memmap, uint=False)
            len(hdus)  # reads every header
        except Exception as err:  # astropy raises many kinds for damaged headers
            raise _damaged(path, "a header is cut off or corrupt") from err
        if any("validating header" in str(item.message) for item in caught):
            raise _damaged(path, f"the header of HDU {len(hdus)} is cut off or corrupt")
        check_cards(hdus, path)
        stack.pop_all()  # the file stays open
    return hdus


def check_cards(hdus, path):
    """Raise an error if a card, a column or an HDU of an open file cannot be understood."""
    from astropy.io import fits

    tables = (fits.TableHDU, fits.BinTableHDU)
    kinds = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU, *tables)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for hdu in hdus:
                cards = [(card.keyword, card.value, card.comment) for card in hdu.header.cards]
                columns = getattr(hdu, "columns", ())
                texts = [hdu.name, *(text for c in columns for text in (c.name, c.unit or ""))]
                is_known = bool(cards) and isinstance(hdu, kinds)
                if not is_known or not all(isinstance(text, str) for text in texts):
                    raise TypeError("names and units must be text, HDUs images or tables")
        except Exception as err:  # astropy raises many kinds for damaged headers
            raise _damaged(path, "a header is cut off or corrupt") from err


def _choose(hdus, chosen, path):
    """Leave out the maps and event lists of a file but for those of a name or of a number."""
    wanted = [hdu for n, hdu in enumerate(hdus) if is_named(hdu, n, chosen)]
    if not wanted:
        names = ", ".join(hdu.name for hdu in hdus)
        raise InputError(f"an HDU {chosen!r} was expected in {path}; got {names}; choose another")
    for number, hdu in reversed(list(enumerate(hdus))):
        if not any(hdu is other for other in wanted) and (is_map(hdu) or hdu.name == "EVENTS"):
            if number:
                del hdus[number]
            else:
                hdu.data = None


def is_named(hdu, number, chosen):
    """Whether the HDU of a number in its file is the one that is chosen, by number or name."""
    return chosen is None or chosen.upper() in (str(number), hdu.name.upper())


def _damaged(path, reason):
    return InputError(f"{path} is truncated or damaged: {reason}; copy or download it again")


def is_map(hdu):
    """Whether an HDU is an image of two or more axes, a HEALPix table or a sparse image."""
    if getattr(hdu, "is_image", False):
        n_axes = hdu.header.get("NAXIS")
        return isinstance(n_axes, int) and n_axes >= 2  # a damaged header may hold text
    return hdu.header.get("PIXTYPE") == "HEALPIX" or "WCSSHAPE" in hdu.header


def checksum(path):
    """Return the sha256 (hex) of a file, of the whole one where brackets choose an HDU."""
    path, _ = split_choice(path)
    check_file(path, "a file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_hdu(hdus, *names):
    """The first HDU with one of these names (any case), or None."""
    for name in names:
        for hdu in hdus:
            if hdu.name.upper() == str(name).upper():
                return hdu
    return None


def check_output(path, *, overwrite=False):
    """Raise an error unless a file can be written at a path."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise FileExistsError(f"output must be a file; got the directory {str(path)!r}; add a name")
    folder = str(Path(path).parent)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"output directory must exist; got {folder!r}; create it first")
    if target.exists() and not target.is_file():
        raise FileExistsError(
            f"output must be a regular file; got {str(path)!r}, a pipe or a device; give a name"
        )
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

    They must have one of the ``suffixes``, differ, and not be one of the ``inputs`` that are read.
    """
    inputs = [split_choice(path)[0] for path in inputs]
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
    """Temporary path beside a file, which takes the place of the file when the block ends."""
    with _whole_files([path], overwrite) as (fresh,):
        yield fresh


def write_files(contents, *, overwrite=False):
    """Write files, all of them or none, and return their paths.

    ``contents`` is a dict of path to bytes or to a function that writes to the path it is given.
    """
    with _whole_files(contents, overwrite) as temporary:
        for fresh, content in zip(temporary, contents.values()):
            content(fresh) if callable(content) else fresh.write_bytes(content)
    return [Path(path) for path in contents]


@contextmanager
def _whole_files(paths, overwrite):
    """Temporary paths beside files, which take the places of all of them when the block ends.

    After an error none of them is there, so that files are written whole or not at all. A symbolic
    link stays and its target is written.
    """
    targets, placed = [Path(os.path.realpath(path)) for path in paths], []
    mark = f"{_TEMPORARY}{_host()}-{os.getpid()}-{secrets.token_hex(4)}."
    temporary = [target.with_name(mark + target.name) for target in targets]
    try:
        for target in targets:
            _remove_left_over(target)
        yield temporary
        for fresh in temporary:
            with open(fresh, "rb+") as stream:
                os.fsync(stream.fileno())
        for fresh, target in zip(temporary, targets):
            _place(fresh, target, overwrite)
            placed.append(target)
    except BaseException:
        for target in placed if not overwrite else ():
            target.unlink(missing_ok=True)
        raise
    finally:
        for fresh in temporary:
            fresh.unlink(missing_ok=True)


def _place(fresh, target, overwrite):
    """Move a file; without ``overwrite`` it does not replace one that another run just wrote."""
    if overwrite:
        os.replace(fresh, target)
        return
    try:
        os.link(fresh, target)
    except FileExistsError as err:
        raise _exists(target) from err
    except OSError as err:
        if err.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        # a file system without hard links
        if target.exists():
            raise _exists(target) from err
        os.replace(fresh, target)


def _host():
    """Short name of this computer in the names of temporary files."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _remove_left_over(target):
    """Remove temporary files of this target whose process, on this computer, was killed."""
    pattern = f"{_TEMPORARY}{_host()}-*.{glob.escape(target.name)}"
    for path in target.parent.glob(pattern) if os.name == "posix" else ():
        try:
            os.kill(int(path.name.removeprefix(_TEMPORARY).split("-")[1]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            continue  # the process of another user, or a file that is not ours


@contextmanager
def locked_folder(folder):
    """Keep a folder, which is made if absent, from other runs until the block ends.

    The lock ends with the process, however that ends. A folder made here is removed if it is empty.
    """
    import fcntl

    folder = Path(folder)
    fresh, path = not folder.exists(), folder / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                raise BlockingIOError  # that of a run that has just ended, which removed it
        except (BlockingIOError, FileNotFoundError) as err:
            raise InputError(
                f"{folder} is in use by another run; wait until that ends, or choose another name"
            ) from err
        except OSError as err:  # a file system without locks
            warn(f"{folder} cannot be kept from other runs, {err}; start no other one there")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty, or gone
                if fresh:
                    folder.rmdir()
