"""Small tables of true sources and detections, to be matched."""

import astropy.units as u
import numpy as np
from astropy.table import QTable


def make_truth(lon, lat, npred=10.0, radius=0.0, **more):
    """True sources at Galactic positions in degrees; further columns as they are."""
    npred, radius = (np.broadcast_to(x, len(lon)).astype(float) for x in (npred, radius))
    return QTable({**_positions(lon, lat), "Npred": npred, "Radius": radius * u.deg, **more})


def make_catalog(lon, lat, score=None, **more):
    """Detections at Galactic positions in degrees; further columns as they are."""
    score = np.linspace(0.9, 0.5, len(lon)) if score is None else score
    return QTable({**_positions(lon, lat), "Score": np.array(score, float), **more})


def _positions(lon, lat):
    return {"GLON": np.array(lon, float) * u.deg, "GLAT": np.array(lat, float) * u.deg}


def make_sky(seed, n=40):
    """A crowded random field: catalogue and truth."""
    rng = np.random.default_rng(seed)
    lon, lat = rng.uniform(-2, 2, n) % 360, rng.uniform(-2, 2, n)
    npred, radius = rng.choice([1.0, 5.0, 12.0, 80.0], n), np.where(rng.random(n) < 0.1, 0.5, 0.0)
    truth = make_truth(lon, lat, npred, radius)
    n_found = rng.integers(0, 2 * n)
    lon, lat = rng.uniform(-2, 2, (2, n_found))
    return make_catalog(lon % 360, lat, np.round(rng.random(n_found), 2)), truth


def by_tile(matches):
    """The matches of each tile, by their names."""
    tiles = [np.asarray(table["Tile"], str) for table in (matches.catalog, matches.truth)]
    return {
        str(name): matches.take(*(np.flatnonzero(tile == name) for tile in tiles))
        for name in np.unique(np.concatenate(tiles))
    }
