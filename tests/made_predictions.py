"""Small predictions to test on."""

import numpy as np
from astropy.table import MaskedColumn, QTable

from astro_unetloc.evaluation.predictions import patch_records
from astro_unetloc.evaluation.truth import match_truth
from astro_unetloc.maps.patches import TangentPlane

N_PIX = 32


def made_matches(seed=0, n=12):
    """Two in three of ``n`` true sources found, and two false detections, near (seed, 0)."""
    rng = np.random.default_rng(seed)
    lon, lat = seed + rng.uniform(-4, 4, n), rng.uniform(-4, 4, n)
    truth = QTable(
        {
            "Source_Name": [f"S{i}" for i in range(n)],
            "GLON": lon, "GLAT": lat, "Npred": rng.uniform(9, 40, n), "Radius": np.zeros(n),
            "Flux": rng.uniform(1e-11, 1e-10, n), "Class": ["AGN"] * n,
        }
    )  # fmt: skip
    found = np.arange(n) % 3 > 0
    n_found = int(found.sum())
    catalog = QTable(
        {
            "GLON": np.append(lon[found] + 0.01, [seed + 4.5, seed - 4.5]),
            "GLAT": np.append(lat[found], [4.5, -4.5]),
            "Score": rng.uniform(0.3, 1, n_found + 2).astype(np.float32),
            "Npred": MaskedColumn(np.ones(n_found + 2), mask=[True] + [False] * (n_found + 1)),
        }
    )
    return match_truth(catalog, truth, tile=f"{seed}/0", area_deg2=100.0)


def made_predictions(seed=0, *, n_patches=2):
    """Patches around (seed, 0), the first of them in the middle, and the matches of the sky."""
    rng, matches = np.random.default_rng(seed), made_matches(seed)
    center = np.array([(seed + 3.0 * i, 0.0, 0.0) for i in range(n_patches)])
    planes = [TangentPlane(lon, 0.0, N_PIX, 10 / N_PIX) for lon, *_ in center]
    shape = (n_patches, N_PIX, N_PIX)
    predictions = {
        "image": rng.poisson(0.3, (*shape, 5)),
        "coverage": np.ones((*shape, 1)),
        "mask": rng.integers(0, 2, (*shape, 1)),
        "probability": rng.random(shape),
        "bands": np.ones((n_patches, 5, 4)),
        "center": center,
        "sky": np.full(n_patches, seed),
        "code": np.array([f"sky{seed:06d}-p{i:03d}" for i in range(n_patches)], "S24"),
    }
    return predictions | patch_records(matches, planes), matches
