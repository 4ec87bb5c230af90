"""Small patch sets to test on."""

import os
import signal
import time

import h5py
import numpy as np
from made_skies import BAND_EDGES, made_patches

from astro_unetloc.training.patch_set import join_patch_sets, read_patch_set, sky_file_bytes

METADATA = {"band_edges_gev": BAND_EDGES, "pixel_deg": 0.1, "mask_radius_pix": 2.0}
METADATA |= {"seed": 0, "classes": ["source"]}


def write_made_set(path, seeds, *, metadata=METADATA, n_patches=2, n_pix=16):
    """Write a patch set of skies as `made_patches` makes them; returns its path."""
    parts = [path.with_name(f"{path.name}.{seed}") for seed in seeds]
    for seed, part in zip(seeds, parts):
        patches = made_patches(seed, n_patches=n_patches, n_pix=n_pix)
        part.write_bytes(sky_file_bytes(*patches, metadata=metadata))
    join_patch_sets(parts, path)
    for part in parts:
        part.unlink()
    return path


def damage_set(path, name):
    """Change a byte of the first chunk of a dataset of a set."""
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 255
    path.write_bytes(content)


def assert_same_set(path, other, *, rtol=0.0):
    """Sets hold the same arrays and metadata; fields of sources may differ by ``rtol``."""
    first, second = read_patch_set(path), read_patch_set(other)
    assert list(first) == list(second)
    sources, expected = first.pop("sources"), second.pop("sources")
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    for name in sources.dtype.names:
        np.testing.assert_allclose(sources[name], expected[name], rtol=rtol, err_msg=name)


def die_once(marker):
    """Kill the worker that comes first. Here, where a process of a cluster can import it."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return marker
    time.sleep(0.3)  # the other worker is at work by then
    os.kill(os.getpid(), signal.SIGKILL)
