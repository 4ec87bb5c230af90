"""Runs with no more than the attributes that their products need."""

from types import SimpleNamespace

import numpy as np

from astro_unetloc.maps.patches import Patches, PatchGrid

PROVENANCE = {"MODEL": "lat-10gev", "SEED": 3, "TTYPE1": "not this"}


def make_run(index, probability=0.0, *, covered=slice(None), **parts):
    """A run over some patches, each of one probability."""
    grid = PatchGrid()
    n = grid.config.read_pixels
    coverage = np.zeros((len(index), n, n, 1), np.float32)
    coverage[:, covered] = 1
    image = np.zeros((len(index), n, n), np.float32) + np.reshape(probability, (-1, 1, 1))
    patches = Patches(grid, np.array(index, int), None, coverage, None)
    parts = {"region": None, "keywords": lambda: PROVENANCE, **with_pixels(None)} | parts
    area = patches.observed_area(parts["region"])
    return SimpleNamespace(patches=patches, probability=image, area=area, **parts)


def with_pixels(pixels):
    """A map of these pixels."""
    return {"sky_map": SimpleNamespace(pixels=pixels)}
