"""Checksums of patch sets, sky by sky: whether a file holds what was written."""

import hashlib

import numpy as np

from astro_unetloc.datasets import COLUMNS, SCHEMA, SOURCE_DTYPE, open_patch_set

__all__ = ["sky_checksum", "verify_patch_set"]


def sky_checksum(columns, sources):
    """SHA-256 of the arrays of one sky, however they are compressed and wherever they stand.

    Parameters
    ----------
    columns : dict of str to ndarray (n, ...)
        One array for each of `COLUMNS`.
    sources : ndarray (m,) of `SOURCE_DTYPE`
        True sources, ``patch`` counted from the first patch of the sky.

    Returns
    -------
    str
        64 hexadecimal digits of the names, types, shapes and little-endian bytes, in the order of
        `COLUMNS`, then of the fields of the sources.
    """
    digest = hashlib.sha256()
    fields = {f"sources.{name}": sources[name] for name in SOURCE_DTYPE.names}
    types = COLUMNS | {name: SOURCE_DTYPE[name.partition(".")[2]] for name in fields}
    for name, values in ({n: columns[n] for n in COLUMNS} | fields).items():
        values = np.ascontiguousarray(values, dtype=types[name])
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.view(np.uint8) if values.size else b"")
    return digest.hexdigest()


def verify_patch_set(path, *, progress=None):
    """Compare the arrays of every sky with the checksum that the manifest holds.

    Parameters
    ----------
    path : str or path
        Patch set of schema 2.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    ndarray (n_skies,) of `SKY_DTYPE`
        The manifest.

    Raises
    ------
    ValueError
        If a sky is not what was written, or the file is of schema 1, which holds no checksums.
    """
    with open_patch_set(path) as found:
        if found.recipe["schema"] != SCHEMA:
            raise ValueError(
                f"{path}: expected a patch set with checksums, schema {SCHEMA}; got schema "
                f"{found.recipe['schema']}; make it again"
            )
        skies = found.skies
        wrong = [
            str(sky["seed"])
            for sky in (progress(skies, total=len(skies)) if progress else skies)
            if _read_checksum(found, sky) != sky["sha256"].decode()
        ]
        if wrong:
            raise ValueError(
                f"{path}: expected the arrays that were written; got others for {len(wrong)} of "
                f"{len(skies)} skies ({', '.join(wrong[:5])}); make it again"
            )
        return skies


def _read_checksum(found, sky):
    """Checksum of one sky as it stands in the file; empty where it cannot be read."""
    first, stop = sky["first_patch"], sky["first_patch"] + sky["n_patches"]
    try:
        sources = found.sources(sky["first_source"], sky["n_sources"])
        sources["patch"] -= first
        return sky_checksum(found.read(slice(first, stop)), sources)
    except ValueError:
        return ""
