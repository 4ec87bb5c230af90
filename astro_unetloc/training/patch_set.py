"""Patch sets on disk: HDF5 files that plain h5py reads, described in ``docs/patch_set_file.rst``.

A file is never changed once it exists, because HDF5 does not survive a kill in the middle of an
append. It is written under a temporary name and renamed, so that it is whole or absent. The skies
of a set are written to one file each and joined at the end.
"""

import errno
import hashlib
import io
import json
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from astro_unetloc.exceptions import InputError
from astro_unetloc.files import whole_file

SCHEMA = 3

SOURCE_DTYPE = np.dtype(
    [
        ("patch", "<i8"),  # row of the patch
        ("x", "<f4"),  # pixel position, 0 at the centre of the first pixel
        ("y", "<f4"),
        ("glon", "<f8"),  # deg
        ("glat", "<f8"),
        ("source_class", "u1"),  # index into the attribute ``classes``
        ("n_photons", "<i4"),  # its own photons in the image
        ("background", "<f4"),  # expected photons of everything else near it
        ("significance", "<f4"),  # of n_photons above the background, in standard deviations
        ("flux", "<f8"),  # ph cm-2 s-1
        ("labelled", "?"),  # whether it is in the mask
    ]
)

# Datasets of n patches with their types.
COLUMNS = {
    "counts": "<u2",  # (n, ny, nx, n_band) photons
    "coverage": "u1",  # (n, ny, nx, 1), 1 where observed
    "mask": "u1",  # (n, ny, nx, n_class), 1 within the mask radius of a labelled source
    "bands": "<f4",  # (n, n_band, 4), see `astro_unetloc.maps.patches.band_inputs`
    "center": "<f8",  # (n, 3) Galactic longitude, latitude and rotation in deg
    "sky": "<i8",  # (n,) seed of the simulated sky
    "validation": "?",  # (n,) whether the sky is used for validation
    "code": "S24",  # (n,) name of the patch
}

# Readable since HDF5 1.10 (2016); its index of chunks halves the time to write many small ones.
_FORMAT = ("v110", "v110")
# 0.9 ms a patch; level 4 saves a quarter of the size for half a millisecond more.
_FILTERS = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
# gzip does not compress further; datasets that are larger claim what is not in the file.
_MAX_RATIO = 1100
# Rows of a chunk, and patches in memory at once. Each image is a chunk, read in random order.
_ROWS = 256


def is_validation(seed):
    """Whether skies of these seeds (int or array of int) are used for validation: one in five."""
    return seed % 5 == 0


@dataclass(frozen=True)
class PatchSet:
    """An open patch set, a context manager; images stay on disk until they are read."""

    path: Path
    metadata: dict  # attributes of the file: the options that all patches were made with
    sky: np.ndarray  # (n_patches,) seed of the sky of each patch
    _file: h5py.File

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    @property
    def n_patches(self):
        """Number of patches of all skies."""
        return len(self.sky)

    @property
    def seeds(self):
        """Seeds (n_skies,) of the skies, increasing."""
        return np.unique(self.sky)

    @property
    def classes(self):
        """Names of the classes of the mask, a tuple of str."""
        return tuple(self.metadata["classes"])

    @property
    def identity(self):
        """Checksum of the metadata and the seeds of the skies, a str of 16 letters."""
        content = json.dumps(self.metadata, sort_keys=True).encode() + self.sky.tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def rows(self, *, validation):
        """Rows (n,) of the patches for validation, or of those for training."""
        return np.flatnonzero(is_validation(self.sky) == validation)

    def read(self, rows=slice(None), *, names=tuple(COLUMNS)):
        """Some columns of the patches of a slice or an array of rows, a dict of arrays."""
        with damage_is_an_error(self.path):
            return {name: _read_rows(self._file[name], rows) for name in names}

    def sources(self):
        """Table of true sources, ndarray (n,) of `SOURCE_DTYPE`."""
        with damage_is_an_error(self.path):
            return self._file["sources"][:]


def _read_rows(dataset, rows):
    if isinstance(rows, slice):
        return dataset[rows]
    # one by one: HDF5's selection of many single rows takes longer than reading them
    values = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
    for number, row in enumerate(rows):
        values[number] = dataset[row]
    return values


@contextmanager
def damage_is_an_error(path):
    """Raise an InputError where a file cannot be read: checksums of HDF5 find damaged chunks."""
    try:
        yield
    except InputError:
        raise
    except Exception as err:  # h5py raises many kinds for damaged files, from KeyError on
        reason = " ".join(str(err).strip("'\"").split()) or type(err).__name__
        raise InputError(f"{path}: expected a whole patch set; {reason}; make it again") from err


def open_patch_set(path):
    """Return a patch set, opened for reading.

    Parameters
    ----------
    path : str or path
        HDF5 file.

    Returns
    -------
    PatchSet

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or not a patch set.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such patch set: {path}; make it with 'astro-unetloc simulate'")
    if not h5py.is_hdf5(path):
        raise InputError(
            f"{path}: expected an HDF5 patch set; got another kind of file or an incomplete one; "
            "make a set with 'astro-unetloc simulate -o set.h5'"
        )
    with damage_is_an_error(path), ExitStack() as stack:
        file = stack.enter_context(h5py.File(path, "r"))
        _check_content(file)
        values = {name: file.attrs[name] for name in file.attrs if name != "schema"}
        metadata = {n: v.tolist() if hasattr(v, "tolist") else v for n, v in values.items()}
        found = PatchSet(path, metadata, file["sky"][:], file)
        stack.pop_all()  # the patch set stays open
        return found


def _check_content(file):
    """Raise an error unless an open file has the attributes and datasets of a patch set."""
    schema, classes = file.attrs.get("schema"), file.attrs.get("classes", ())
    if schema != SCHEMA:
        raise ValueError(f"expected schema {SCHEMA}, got {schema}")
    edges, pixel_deg = (np.array(file.attrs[n], float) for n in ("band_edges_gev", "pixel_deg"))
    if not (int(file.attrs["seed"]) >= 0 and pixel_deg > 0 and edges[0] > 0):
        raise ValueError("expected a seed, a pixel_deg and band_edges_gev that are positive")
    if not (np.all(np.diff(edges) > 0) and all(isinstance(name, str) for name in classes)):
        raise ValueError("expected band_edges_gev that increase, and names of classes")
    n_patches, *size, _ = file["counts"].shape
    image, n_band = (n_patches, *size), len(edges) - 1
    shapes = {
        "counts": (*image, n_band), "coverage": (*image, 1), "mask": (*image, len(classes)),
        "bands": (n_patches, n_band, 4), "center": (n_patches, 3),
        "sources": file["sources"].shape[:1],
    }  # fmt: skip
    for name, dtype in {**COLUMNS, "sources": SOURCE_DTYPE}.items():
        data, shape = file[name], shapes.get(name, (n_patches,))
        if data.dtype != dtype or data.shape != shape or data.is_virtual or data.external:
            raise ValueError(f"expected {name} of type {dtype} and shape {shape}")
        if data.file != file or data.nbytes > _MAX_RATIO * file.id.get_filesize():
            raise ValueError(f"{name} claims {data.nbytes} bytes that are not in the file")


def read_patch_set(path, *, rows=slice(None)):
    """A patch set in memory: a dict of its columns, its metadata and all its "sources"."""
    with open_patch_set(path) as found:
        return found.metadata | found.read(rows) | {"sources": found.sources()}


def sky_file_bytes(columns, sources, *, metadata):
    """The HDF5 patch set of one sky, bytes."""
    columns = columns | {"validation": is_validation(columns["sky"])}
    content = io.BytesIO()
    with h5py.File(content, "w", libver=_FORMAT) as file:
        file.attrs.update(metadata | {"schema": SCHEMA})
        _append(file, {name: columns[name] for name in COLUMNS} | {"sources": sources})
    return content.getvalue()


def _append(file, arrays):
    """Append rows to the datasets of an open file, which are made when they are absent."""
    for name, rows in arrays.items():
        if name not in file:
            dtype, shape = COLUMNS.get(name, SOURCE_DTYPE), rows.shape[1:]
            chunks = (_ROWS if rows.ndim < 4 else 1, *shape)
            options = {"maxshape": (None, *shape), "chunks": chunks} | _FILTERS
            file.create_dataset(name, (0, *shape), dtype, **options)
        first = len(file[name])
        file[name].resize(first + len(rows), axis=0)
        file[name][first:] = rows


def join_patch_sets(paths, path, *, overwrite=False):
    """Write one patch set that holds the skies of several, made with the same options."""
    _check_room(paths, path)
    with (
        whole_file(path, overwrite=overwrite) as fresh,
        h5py.File(fresh, "w", libver=_FORMAT) as file,
    ):
        metadata, seeds = {}, np.zeros(0, int)
        for part in paths:
            with open_patch_set(part) as found:
                metadata = metadata or found.metadata
                other = differences(found.metadata | {"seed": metadata["seed"]}, metadata)
                twice = np.intersect1d(seeds, found.seeds)
                if other or len(twice):
                    raise InputError(
                        f"{part}: expected other skies made as those of {paths[0]}; got "
                        f"{other or f'sky {twice[0]} twice'}; leave it out"
                    )
                seeds = np.append(seeds, found.seeds)
                _copy(found, file)
        file.attrs.update(metadata | {"schema": SCHEMA})


def _check_room(paths, path):
    """Raise an error on a full disk at once: HDF5 crashes when it cannot close a file."""
    n_bytes = sum(Path(part).stat().st_size for part in paths)
    if n_bytes > shutil.disk_usage(Path(path).parent).free:
        reason = f"expected {n_bytes / 1e9:.2g} GB of free disk; make room and run the same again"
        raise OSError(errno.ENOSPC, reason, str(path))


def _copy(found, file):
    """Append all patches of an open set to an open file."""
    sources = found.sources()
    sources["patch"] += len(file["sky"]) if "sky" in file else 0
    _append(file, {"sources": sources})
    for first in range(0, found.n_patches, _ROWS):
        _append(file, found.read(slice(first, first + _ROWS)))


def differences(found, wanted):
    """How the metadata of a set differ from those wanted, as text; empty where they agree."""
    names = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    return ", ".join(f"{name} {found.get(name)!r}, not {wanted.get(name)!r}" for name in names)
