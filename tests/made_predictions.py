"""Small predictions to test on."""

import numpy as np
from astropy.table import MaskedColumn
from made_truth import make_catalog, make_truth

from astro_unetloc.evaluation.predictions import patch_records
from astro_unetloc.evaluation.truth import match_truth
from astro_unetloc.maps.patches import TangentPlane

N_PIX = 32


def made_matches(seed=0, n=12):
    """Two in three of ``n`` true sources found, and two false detections, near (seed, 0)."""
    rng = np.random.default_rng(seed)
    lon, lat = seed + rng.uniform(-4, 4, n), rng.uniform(-4, 4, n)
    values = {"Npred": rng.uniform(9, 40, n), "Flux": rng.uniform(1e-11, 1e-10, n)}
    classes = np.resize(["AGN", "PSR", "OTHER", "AGN"], n)
    truth = make_truth(lon, lat, Class=classes, **values)
    found = np.arange(n) % 3 > 0
    lon = np.append(lon[found] + 0.01, [seed + 4.5, seed - 4.5])
    score = rng.uniform(0.3, 1, len(lon)).astype(np.float32)
    npred = MaskedColumn(np.ones(len(lon)), mask=np.arange(len(lon)) == 0)
    more = dict(zip(("Prob_AGN", "Prob_PSR", "Prob_OTHER"), rng.dirichlet(np.ones(3), len(lon)).T))
    more |= {"Npred": npred, "Class": np.resize(["agn", "", "psr"], len(lon))}
    catalog = make_catalog(lon, np.append(lat[found], [4.5, -4.5]), score, **more)
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
