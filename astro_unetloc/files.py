"""Files: FITS files are opened once and checked to be whole; output files are written whole."""

import errno
import glob
import gzip
import hashlib
import os
import platform
import secrets
import warnings
import zlib
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from astro_unetloc.exceptions import InputError, warn

_TEMPORARY = ".unetloc-"  # beginning of the names of files that are not whole yet


def open_fits(path):
    """Open HDUList of a FITS file, plain or gzipped, and sha256 of the file; whole or an error."""
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
    with open(path, "rb") as file:
        magic, content = file.read(9), None
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        if magic[:2] == b"\x1f\x8b":
            file.seek(0)
            content = gzip.decompress(file.read())
            magic = content[:9]
    if magic != b"SIMPLE  =":
        raise InputError(
            f"a FITS file was expected; got {path}, which does not start like one; "
            "give a counts map, an event list or a gammapy dataset"
        )
    return digest.hexdigest(), content


def _open_hdus(path, content):
    from astropy.io import fits

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            source = path if content is None else BytesIO(content)
            hdus = fits.open(source, memmap=content is None)
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


def file_sha256(path):
    """SHA-256 of a file, as text."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksum(path):
    """Return the sha256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_hdu(hdus, *names):
    """The first HDU with one of these names (any case), or None."""
    for name in names:
        for hdu in hdus:
            if hdu.name.upper() == name.upper():
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
