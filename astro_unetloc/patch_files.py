"""Files of patches: one whole HDF5 patch set for each sky, joined to the set of all.

Nothing is ever appended in place. HDF5 keeps its tables in memory and writes them in no order that
survives a kill: a file that was open then may be lost. Here every file is written under another
name, forced to disk and renamed, so that it is whole or not there.
"""

import io
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from astro_unetloc.datasets import (
    COLUMNS,
    IN_FILE,
    SCHEMA,
    SKY_DTYPE,
    SOURCE_DTYPE,
    is_validation,
    open_patch_set,
)
from astro_unetloc.manifest import sky_checksum

__all__ = ["COMPRESSED", "join_patch_sets", "sky_file_bytes", "whole_hdf5", "write_whole"]

# Readable since HDF5 1.10 (2016); its index of chunks halves the time to write many small ones.
_FORMAT = ("v110", "v110")
# 0.9 ms a patch; level 4 saves a quarter of the size for half a millisecond more.
COMPRESSED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
_IMAGES = ("counts", "coverage", "mask")


def sky_file_bytes(columns, sources, *, recipe):
    """The patches of one sky as the content of an HDF5 patch set.

    Parameters
    ----------
    columns : dict of str to ndarray (n, ...)
        One array for each of `astro_unetloc.datasets.COLUMNS` but "validation".
    sources : ndarray (m,) of `astro_unetloc.datasets.SOURCE_DTYPE`
        True sources, ``patch`` counted from 0.
    recipe : dict of str to value
        Attributes: what the patches were made with.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If an array is missing, their lengths differ, there are no patches or more than one sky.
    """
    import h5py

    columns = dict(columns)
    if "sky" in columns:
        columns["validation"] = is_validation(np.asarray(columns["sky"]))
    lengths = {name: len(columns[name]) for name in COLUMNS if name in columns}
    if set(lengths) != set(COLUMNS) or len(set(lengths.values())) != 1 or not lengths["sky"]:
        raise ValueError(
            f"expected arrays of one length for {', '.join(COLUMNS)}; got {lengths}; "
            "give every column"
        )
    seeds = np.unique(columns["sky"])
    if len(seeds) > 1:
        raise ValueError(f"expected patches of one sky; got those of {seeds}; write one file each")
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
            file[IN_FILE.get(name, name)][:] = values
        file["sources"][:] = sources
    return content.getvalue()


def _create(file, shapes, skies, recipe):
    """Empty datasets of the schema, and the attributes."""
    file.attrs.update(recipe | {"schema": SCHEMA})
    n_patches, n_sources = (int(skies[name].sum()) for name in ("n_patches", "n_sources"))
    for name, dtype in COLUMNS.items():
        # an image is read alone: batches take them in random order
        options = COMPRESSED | {"chunks": (1, *shapes[name])} if name in _IMAGES else {}
        file.create_dataset(
            IN_FILE.get(name, name), (n_patches, *shapes[name]), dtype=dtype, **options
        )
    options = COMPRESSED | {"chunks": (min(n_sources, 8192),)} if n_sources else {}
    file.create_dataset("sources", (n_sources,), SOURCE_DTYPE, **options)
    file.create_dataset("skies", data=skies)


def write_whole(path, content):
    """Write a file under another name, force it to disk and rename it.

    Parameters
    ----------
    path : str or path
        File to write; an existing one is replaced.
    content : bytes
        What it holds.

    Raises
    ------
    OSError
        If it cannot be written, because the disk is full for one; nothing is left of it then.
    """
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
    """Join patch sets of different skies to one; the parts stay as they are.

    Parameters
    ----------
    paths : iterable of str or path
        Patch sets of schema 2 of one recipe, but for its seed, in the order that they shall have.
    path : str or path
        File to write; an existing one is replaced once the new one is whole.

    Raises
    ------
    ValueError
        If a part is no patch set of schema 2 or was made with another recipe, a sky comes twice,
        or there are no parts.
    OSError
        If the file cannot be written, because the disk is full for one; nothing is left of it.
    """
    paths = [Path(part) for part in paths]
    recipe, shapes, skies = _survey(paths)
    with whole_hdf5(path) as (file, check):
        _create(file, shapes, skies, recipe)
        first_patch = first_source = 0
        for part in paths:
            with open_patch_set(part) as found:
                _copy(found, file, first_patch, first_source)
                first_patch += found.n_patches
                first_source += int(found.skies["n_sources"].sum())
            check()


@contextmanager
def whole_hdf5(path):
    """Write an HDF5 file that is at its place once it is whole, for a ``with`` statement.

    Parameters
    ----------
    path : str or path
        File to write; an existing one is replaced.

    Yields
    ------
    file : h5py.File
        To be filled.
    check : callable
        Raises what went wrong in writing so far, which HDF5 does not say.

    Raises
    ------
    OSError
        If it cannot be written, because the disk is full for one; nothing is left of it then.
    """
    import h5py

    path = Path(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _StrictFile(fresh, "w+") as stream:
            try:
                with h5py.File(stream, "w", libver=_FORMAT) as file:
                    yield file, stream.check
            except RuntimeError:  # of HDF5, which met what was not written
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
    """A file that keeps the first error of writing to itself.

    HDF5 can neither say that a disk is full nor close a file on it.
    """

    error = None

    def write(self, content):
        """Write all of it, or remember why not."""
        content = memoryview(content).cast("B")
        n_bytes = len(content)
        try:
            while len(content):
                content = content[super().write(content) :]
        except OSError as err:
            self.error = self.error or err
        return n_bytes

    def truncate(self, size=None):
        """Set the length, or remember why not."""
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
    """Recipe, shapes and manifest of patch sets together."""
    kinds, skies = [], [np.zeros(0, SKY_DTYPE)]
    for part in paths:
        with open_patch_set(part) as found:
            recipe = {n: v for n, v in found.recipe.items() if n != "seed"}
            kinds.append((recipe, found.recipe.get("seed"), found.layout()))
            skies.append(found.skies)
    if not kinds:
        raise ValueError("expected patch sets to join; got none; name at least one")
    for part, (recipe, _, layout) in zip(paths, kinds):
        differ = [n for n in recipe | kinds[0][0] if recipe.get(n) != kinds[0][0].get(n)]
        if differ or layout != kinds[0][2] or recipe["schema"] != SCHEMA:
            raise ValueError(
                f"{part}: expected a patch set of schema {SCHEMA} made as {paths[0]}; got other "
                f"{', '.join(differ) or 'arrays'}; join only sets made with the same options"
            )
    skies = np.concatenate(skies)
    seeds, number = np.unique(skies["seed"], return_counts=True)
    if np.any(number > 1):
        raise ValueError(
            f"expected every sky once; got sky {seeds[number > 1][0]} twice; leave one out"
        )
    for first, number in (("first_patch", "n_patches"), ("first_source", "n_sources")):
        skies[first] = np.cumsum(skies[number]) - skies[number]
    recipe, seed, layout = kinds[0]
    return recipe | {"seed": seed}, {n: shape for n, (shape, *_) in layout.items()}, skies


def _copy(found, file, first_patch, first_source):
    """Copy all patches of an open set; images as they are compressed."""
    rows = slice(first_patch, first_patch + found.n_patches)
    for name in COLUMNS:
        target = file[IN_FILE.get(name, name)]
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
