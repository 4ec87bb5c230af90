"""Runs with no more than the attributes that their products need."""

from types import SimpleNamespace

import numpy as np

from astro_unetloc.maps.patches import PatchGrid

PROVENANCE = {"MODEL": "lat-10gev", "SEED": 3, "TTYPE1": "not this"}


def make_run(index, probability=0.0, *, covered=slice(None), **parts):
    """A run over some patches, each of one probability."""
    grid = PatchGrid()
    n = grid.config.read_pixels
    coverage = np.zeros((len(index), n, n, 1), np.float32)
    coverage[:, covered] = 1
    image = np.zeros((len(index), n, n), np.float32) + np.reshape(probability, (-1, 1, 1))
    patches = SimpleNamespace(grid=grid, index=np.array(index, int), coverage=coverage)
    defaults = {"region": None, "keywords": lambda: PROVENANCE, **with_pixels(None)}
    return SimpleNamespace(patches=patches, probability=image, **(defaults | parts))


def with_pixels(pixels):
    """A map of these pixels."""
    return {"sky_map": SimpleNamespace(pixels=pixels)}
