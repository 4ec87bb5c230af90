"""Small patch sets to test on, and a disk that is full."""

import resource
from contextlib import contextmanager

import numpy as np
from made_skies import BAND_EDGES, made_patches

from astro_unetloc.training.patch_set import (
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
