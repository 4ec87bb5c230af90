"""Small patch sets to test on, and a disk that is full."""

import resource
from contextlib import contextmanager

import h5py
import numpy as np
from made_skies import BAND_EDGES, made_patches

from astro_unetloc.training.patch_set import (
    SOURCE_DTYPE,
    join_patch_sets,
    read_patch_set,
    sky_file_bytes,
    write_whole,
)

RECIPE = {
    "band_edges_gev": BAND_EDGES,
    "pixel_deg": 0.1,
    "seed": 0,
    "classes": ["source"],
    "mask_radius_pix": 2.0,
}


def write_made_set(path, seeds, *, recipe=RECIPE, **options):
    """A patch set of skies as `made_patches` makes them."""
    parts = [path.with_name(f"{path.name}.{seed}") for seed in seeds]
    for seed, part in zip(seeds, parts):
        write_whole(part, sky_file_bytes(*made_patches(seed, **options), recipe=recipe))
    join_patch_sets(parts, path)
    for part in parts:
        part.unlink()


def write_schema_1(path, *, whole=5):
    """A set as the first version wrote it: 5 patches of two skies, ``whole`` of them finished."""
    columns, _ = made_patches(3, n_patches=5, n_pix=16)
    columns["sky"] = np.array([5, 5, 5, 6, 6])
    old = [n for n in SOURCE_DTYPE.descr if n[0] not in ("glon", "glat", "source_class")]
    sources = np.zeros(6, [n for n in old if n[0] != "significance"])
    sources["patch"], sources["x"], sources["flux"] = [0, 0, 2, 3, 4, 4], 7.5, 1e-11
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {
                "schema": 1,
                "band_edges_gev": BAND_EDGES,
                "pixel_deg": 0.1,
                "seed": 5,
                "complete": whole == 5,
                "n_patches": whole,
                "n_sources": int(np.sum(sources["patch"] < whole)),
            }
        )
        for name, values in (columns | {"sources": sources}).items():
            file[name] = values
    return columns


def assert_same_set(path, other):
    first, second = read_patch_set(path), read_patch_set(other)
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@contextmanager
def full_disk(n_bytes):
    """No file may grow beyond so many bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
