"""Patch sets on disk: HDF5 files that plain h5py reads (``docs/datasets.rst`` describes them).

Schema (version 2), n patches of N skies with m true sources:

==============  =========================  ====================================================
``image``       (n, ny, nx, n_band) u2     photons; called counts where the package reads them
``coverage``    (n, ny, nx, 1) u1          1 where observed
``mask``        (n, ny, nx, n_class) u1    1 within the mask radius of a labelled source
``bands``       (n, n_band, 4) f4          see `astro_unetloc.maps.patches.band_inputs`
``center``      (n, 3) f8                  Galactic longitude, latitude and rotation in deg
``sky``         (n,) i8                    seed of the simulated sky
``validation``  (n,) bool                  whether the sky is used for validation
``code``        (n,) S24                   name of the patch
``sources``     (m,) `SOURCE_DTYPE`        true sources, by patch
``skies``       (N,) `SKY_DTYPE`           rows, subset and checksum of each sky
==============  =========================  ====================================================

Attributes: ``schema``, and the metadata, which are the options that all patches were made with.

A file is never changed once it exists, because HDF5 does not survive a kill in the middle of an
append. It is written under a temporary name and renamed, so that it is whole or absent. The skies
of a set are written to one file each and joined at the end.
"""

import hashlib
import io
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astro_unetloc.exceptions import InputError

__all__ = [
    "COLUMNS",
    "PatchSet",
    "SCHEMA",
    "SKY_DTYPE",
    "SOURCE_DTYPE",
    "is_validation",
    "join_patch_sets",
    "open_patch_set",
    "read_patch_set",
    "sky_checksum",
    "sky_file_bytes",
    "verify_patch_set",
    "write_whole",
]


SCHEMA = 2


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


SKY_DTYPE = np.dtype(
    [
        ("seed", "<i8"),
        ("first_patch", "<i8"),
        ("n_patches", "<i8"),
        ("first_source", "<i8"),
        ("n_sources", "<i8"),
        ("validation", "?"),
        ("sha256", "S64"),  # see `astro_unetloc.training.patch_set`
    ]
)


# Names in memory, with their types, and those in the file where they differ.
COLUMNS = {
    "counts": "<u2",
    "coverage": "u1",
    "mask": "u1",
    "bands": "<f4",
    "center": "<f8",
    "sky": "<i8",
    "validation": "?",
    "code": "S24",
}


_IN_FILE = {"counts": "image"}


# Readable since HDF5 1.10 (2016); its index of chunks halves the time to write many small ones.
_FORMAT = ("v110", "v110")


# 0.9 ms a patch; level 4 saves a quarter of the size for half a millisecond more.
_COMPRESSED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


_IMAGES = ("counts", "coverage", "mask")


# One sky in five is used for validation.
_SKIES_PER_VALIDATION = 5


def is_validation(seed):
    """Return whether a sky is used for validation, which depends on its seed alone.

    Parameters
    ----------
    seed : int or ndarray of int
        Seed of the sky.

    Returns
    -------
    bool or ndarray of bool
        True for seeds that five divides.

    Examples
    --------
    >>> [seed for seed in range(12) if is_validation(seed)]
    [0, 5, 10]
    """
    return seed % _SKIES_PER_VALIDATION == 0


@dataclass(frozen=True)
class PatchSet:
    """An open patch set, a context manager; images stay on disk until they are read.

    Attributes
    ----------
    path : Path
        The file.
    recipe : dict of str to value
        Metadata, the attributes of the file: the options that all patches were made with.
    skies : ndarray (n_skies,) of `SKY_DTYPE`
        Rows, subset and checksum of each sky.
    n_patches : int
        Patches of all skies.
    """

    path: Path
    recipe: dict
    skies: np.ndarray
    n_patches: int
    _file: object

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    @property
    def classes(self):
        """Return the names of the classes of the mask, a tuple of str."""
        return tuple(self.recipe["classes"])

    def rows(self, *, validation):
        """Return the rows (n,) of the patches for validation, or of those for training."""
        skies = self.skies[self.skies["validation"] == validation]
        ranges = [np.arange(s["first_patch"], s["first_patch"] + s["n_patches"]) for s in skies]
        return np.concatenate([np.zeros(0, np.int64), *ranges])

    def read(self, rows=slice(None), *, names=tuple(COLUMNS)):
        """Return some columns of some patches, a dict of arrays."""
        try:
            return {name: self._column(name, rows) for name in names}
        except OSError as err:
            raise _damaged(self.path, err) from err

    def _column(self, name, rows):
        dataset = self._file[_IN_FILE.get(name, name)]
        if isinstance(rows, slice):
            return dataset[slice(*rows.indices(self.n_patches))]
        # one by one: HDF5's selection of many single rows takes longer than reading them
        values = [dataset[row] for row in rows]
        return np.array(values, dtype=dataset.dtype).reshape(-1, *dataset.shape[1:])

    def layout(self):
        """Return the shape of a patch, chunks and compression of each column."""
        datasets = {n: self._file[_IN_FILE.get(n, n)] for n in COLUMNS}
        return {
            name: (d.shape[1:], d.chunks, d.compression, d.shuffle) for name, d in datasets.items()
        }

    def compressed(self, name):
        """Yield the compressed bytes of each image of a column."""
        dataset = self._file[_IN_FILE.get(name, name)]
        try:
            for row in range(self.n_patches):
                yield dataset.id.read_direct_chunk((row, 0, 0, 0))[1]
        except OSError as err:
            raise _damaged(self.path, err) from err

    def sources(self, first=0, number=None):
        """Return rows of the table of true sources, ndarray (n,) of `SOURCE_DTYPE`."""
        last = int(self.skies["n_sources"].sum()) if number is None else first + number
        try:
            return self._file["sources"][first:last]
        except OSError as err:
            raise _damaged(self.path, err) from err


def _damaged(path, err):
    return ValueError(f"{path}: expected a whole patch set; {err}; make it again")


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
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such patch set: {path}; make it with 'astro-unetloc simulate'")
    try:
        file = h5py.File(path, "r")
    except OSError as err:
        raise InputError(f"{path}: expected an HDF5 patch set; {err}; make it again") from err
    try:
        return _checked(path, file)
    except BaseException:
        file.close()
        raise


def _checked(path, file):
    """Return the patch set of an open file, or raise if it is another file."""
    schema = file.attrs.get("schema")
    if schema != SCHEMA:
        raise InputError(
            f"{path}: expected a patch set of schema {SCHEMA}; got schema {schema}; "
            "make it again with 'astro-unetloc simulate'"
        )
    names = [*(_IN_FILE.get(name, name) for name in COLUMNS), "sources", "skies"]
    missing = [name for name in names if name not in file]
    missing += [n for n in ("band_edges_gev", "pixel_deg", "seed") if n not in file.attrs]
    if missing:
        raise InputError(
            f"{path}: expected a patch set of schema {schema}; got one without "
            f"{', '.join(missing)}; make it again with 'astro-unetloc simulate'"
        )
    try:
        values = {name: file.attrs[name] for name in file.attrs}
        skies = file["skies"][:]
    except OSError as err:
        raise _damaged(path, err) from err
    recipe = {n: v.tolist() if hasattr(v, "tolist") else v for n, v in values.items()}
    return PatchSet(path, recipe, skies, int(skies["n_patches"].sum()), file)


def read_patch_set(path, *, rows=slice(None)):
    """Return a patch set in memory.

    Parameters
    ----------
    path : str or path
        HDF5 file.
    rows : slice or ndarray (n,) of int
        Which patches.

    Returns
    -------
    dict of str to value
        Arrays of `COLUMNS`, the tables "sources" (of all patches) and "skies", and the
        metadata: "band_edges_gev", "pixel_deg", "seed", "classes", "mask_radius_pix" and others.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or not a patch set.
    """
    with open_patch_set(path) as found:
        return found.recipe | found.read(rows) | {"sources": found.sources(), "skies": found.skies}


def sky_checksum(columns, sources):
    """Return the SHA-256 of the uncompressed arrays of one sky, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    fields = {f"sources.{name}": sources[name] for name in SOURCE_DTYPE.names}
    types = COLUMNS | {name: SOURCE_DTYPE[name.partition(".")[2]] for name in fields}
    for name, values in ({n: columns[n] for n in COLUMNS} | fields).items():
        values = np.ascontiguousarray(values, dtype=types[name])
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.view(np.uint8) if values.size else b"")
    return digest.hexdigest()


def verify_patch_set(path, *, progress=None):
    """Return the table of skies, once the arrays of each agree with its checksum.

    Parameters
    ----------
    path : str or path
        The patch set.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    ndarray (n_skies,) of `SKY_DTYPE`
        Rows, subset and checksum of each sky.

    Raises
    ------
    ValueError
        If the arrays of a sky have changed.
    """
    with open_patch_set(path) as found:
        skies = found.skies
        wrong = [
            str(sky["seed"])
            for sky in (progress(skies, total=len(skies)) if progress else skies)
            if _read_checksum(found, sky) != sky["sha256"].decode()
        ]
        if wrong:
            raise InputError(
                f"{path}: expected the arrays that were written; got others for {len(wrong)} of "
                f"{len(skies)} skies ({', '.join(wrong[:5])}); make it again"
            )
        return skies


def _read_checksum(found, sky):
    """Return the checksum of one sky in the file; empty if it cannot be read."""
    first, stop = sky["first_patch"], sky["first_patch"] + sky["n_patches"]
    try:
        sources = found.sources(sky["first_source"], sky["n_sources"])
        sources["patch"] -= first
        return sky_checksum(found.read(slice(first, stop)), sources)
    except ValueError:
        return ""


def sky_file_bytes(columns, sources, *, recipe):
    """Return the HDF5 patch set of one sky, bytes."""
    import h5py

    columns = dict(columns)
    if "sky" in columns:
        columns["validation"] = is_validation(np.asarray(columns["sky"]))
    lengths = {name: len(columns[name]) for name in COLUMNS if name in columns}
    if set(lengths) != set(COLUMNS) or len(set(lengths.values())) != 1 or not lengths["sky"]:
        raise InputError(
            f"expected arrays of one length for {', '.join(COLUMNS)}; got {lengths}; "
            "give every column"
        )
    seeds = np.unique(columns["sky"])
    if len(seeds) > 1:
        raise InputError(f"expected patches of one sky; got those of {seeds}; write one file each")
    columns = {name: np.asarray(columns[name]).astype(COLUMNS[name]) for name in COLUMNS}
    skies = np.zeros(1, SKY_DTYPE)
    skies["seed"], skies["validation"] = seeds, is_validation(seeds)
    skies["n_patches"], skies["n_sources"] = lengths["sky"], len(sources)
    skies["sha256"] = sky_checksum(columns, sources)
    content = io.BytesIO()
    with h5py.File(content, "w", libver=_FORMAT) as file:
        shapes = {name: values.shape[1:] for name, values in columns.items()}
        _create(file, shapes, skies, recipe)
        for name, values in columns.items():
            file[_IN_FILE.get(name, name)][:] = values
        file["sources"][:] = sources
    return content.getvalue()


def _create(file, shapes, skies, recipe):
    """Create the empty datasets of the schema and write the attributes."""
    file.attrs.update(recipe | {"schema": SCHEMA})
    n_patches, n_sources = (int(skies[name].sum()) for name in ("n_patches", "n_sources"))
    for name, dtype in COLUMNS.items():
        # an image is read alone: batches take them in random order
        options = _COMPRESSED | {"chunks": (1, *shapes[name])} if name in _IMAGES else {}
        file.create_dataset(
            _IN_FILE.get(name, name), (n_patches, *shapes[name]), dtype=dtype, **options
        )
    options = _COMPRESSED | {"chunks": (min(n_sources, 8192),)} if n_sources else {}
    file.create_dataset("sources", (n_sources,), SOURCE_DTYPE, **options)
    file.create_dataset("skies", data=skies)


def write_whole(path, content):
    """Write bytes to a temporary file, flush it to disk and rename it."""
    path = Path(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(fresh, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, path)
    except OSError as err:
        raise _no_room(path, err) from err
    finally:
        fresh.unlink(missing_ok=True)


def _no_room(path, err):
    return OSError(
        f"{path}: expected to write it; got {err.strerror or err}; "
        "make room and run the same again: finished skies are kept"
    )


def join_patch_sets(paths, path):
    """Write one patch set that holds the skies of several."""
    paths = [Path(part) for part in paths]
    recipe, shapes, skies = _survey(paths)
    with _whole_hdf5(path) as (file, check):
        _create(file, shapes, skies, recipe)
        first_patch = first_source = 0
        for part in paths:
            with open_patch_set(part) as found:
                _copy(found, file, first_patch, first_source)
                first_patch += found.n_patches
                first_source += int(found.skies["n_sources"].sum())
            check()


@contextmanager
def _whole_hdf5(path):
    """Yield a temporary HDF5 file and a check for errors; rename it at the end."""
    import h5py

    path = Path(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _StrictFile(fresh, "w+") as stream:
            try:
                with h5py.File(stream, "w", libver=_FORMAT) as file:
                    yield file, stream.check
            except RuntimeError:  # raised by HDF5 after a failed write
                stream.check()
                raise
            stream.check()
            os.fsync(stream.fileno())
        os.replace(fresh, path)
    except OSError as err:
        raise _no_room(path, err) from err
    finally:
        fresh.unlink(missing_ok=True)


class _StrictFile(io.FileIO):
    """A file that keeps the first error of writing: HDF5 cannot close a file on a full disk."""

    error = None

    def write(self, content):
        """Write everything, or keep the error."""
        content = memoryview(content).cast("B")
        n_bytes = len(content)
        try:
            while len(content):
                content = content[super().write(content) :]
        except OSError as err:
            self.error = self.error or err
        return n_bytes

    def truncate(self, size=None):
        """Set the length, or keep the error."""
        try:
            return super().truncate(size)
        except OSError as err:
            self.error = self.error or err
            return size

    def check(self):
        """Raise the error that was kept."""
        if self.error:
            raise self.error


def _survey(paths):
    """Return metadata, shapes and table of skies of several patch sets together."""
    kinds, skies = [], [np.zeros(0, SKY_DTYPE)]
    for part in paths:
        with open_patch_set(part) as found:
            recipe = {n: v for n, v in found.recipe.items() if n != "seed"}
            kinds.append((recipe, found.recipe.get("seed"), found.layout()))
            skies.append(found.skies)
    if not kinds:
        raise InputError("expected patch sets to join; got none; name at least one")
    for part, (recipe, _, layout) in zip(paths, kinds):
        differ = [n for n in recipe | kinds[0][0] if recipe.get(n) != kinds[0][0].get(n)]
        if differ or layout != kinds[0][2]:
            raise InputError(
                f"{part}: expected a patch set of schema {SCHEMA} made as {paths[0]}; got other "
                f"{', '.join(differ) or 'arrays'}; join only sets made with the same options"
            )
    skies = np.concatenate(skies)
    seeds, number = np.unique(skies["seed"], return_counts=True)
    if np.any(number > 1):
        raise InputError(
            f"expected every sky once; got sky {seeds[number > 1][0]} twice; leave one out"
        )
    for first, number in (("first_patch", "n_patches"), ("first_source", "n_sources")):
        skies[first] = np.cumsum(skies[number]) - skies[number]
    recipe, seed, layout = kinds[0]
    return recipe | {"seed": seed}, {n: shape for n, (shape, *_) in layout.items()}, skies


def _copy(found, file, first_patch, first_source):
    """Copy all patches of an open set, without decompressing the images."""
    rows = slice(first_patch, first_patch + found.n_patches)
    for name in COLUMNS:
        target = file[_IN_FILE.get(name, name)]
        if name not in _IMAGES:
            target[rows] = found.read(names=[name])[name]
            continue
        for row, chunk in enumerate(found.compressed(name)):
            target.id.write_direct_chunk((first_patch + row, 0, 0, 0), chunk)
    for sky in found.skies:
        sources = found.sources(sky["first_source"], sky["n_sources"])
        sources["patch"] += first_patch
        first = first_source + int(sky["first_source"])
        file["sources"][first : first + len(sources)] = sources
