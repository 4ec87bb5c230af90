"""Detection limit of a model: the expected sqrt(TS) at which half of the sources are found.

    python benchmarks/fit_limits.py --seeds 1003 1004 --check 1008 [--model FOLDER]
        [--template SHAPES] [--thresholds 0.3 0.6 0.9] [--photons 3] [--write]

Searches simulated skies in the energies of the model, computes for every true point source of three
or more expected photons (--photons; below 10 GeV most of these are far too faint) their sqrt(TS) on
the background and beside the found sources around it, as a map of limits does, and fits the
fraction of found sources at several thresholds of Score by a logistic curve. For the skies of
--check it prints how many of the sources near the limit (0.8 to 1.25 of its counts) are found at
the default threshold: half of them should be. --write puts the curve into the card of the model.
"""

import numpy as np
from calibrate import validation_sky
from options import options_of
from scipy.spatial import KDTree

from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.table import galactic_vectors
from astro_unetloc.evaluation.metrics import fit_completeness, found_scores
from astro_unetloc.evaluation.predictions import BRIGHTEST_BELOW_GEV
from astro_unetloc.measurement.limits import detection_limits, significances
from astro_unetloc.pipeline import find_sources
from astro_unetloc.sphere import chord, vectors_from_lonlat
from astro_unetloc.unet.model import load_model, update_card

THRESHOLDS = [0.05, 0.1, 0.2, 0.3, 0.42, 0.6, 0.8, 0.9]
NEAR = (0.8, 1.25)
# Sources of a larger expected sqrt(TS) are found in any case.
FAR = 8.0


class SearchedSky:
    """A searched simulated sky: its true point sources, their photons, latitude and Score."""

    def __init__(self, model, seed, options):
        self.sky_map, truth = validation_sky(model.band_edges, seed, options.template)
        catalog = find_sources(self.sky_map, model=model, threshold=0.0)
        brightest = model.band_edges[0] < BRIGHTEST_BELOW_GEV
        score = np.nan_to_num(found_scores(catalog, truth, brightest=brightest))
        kept = (truth["Radius"].value == 0) & (truth["Npred"] >= options.photons)
        lon, lat = (truth[name].to_value("deg")[kept] for name in ("GLON", "GLAT"))
        self.vectors, self.latitude = vectors_from_lonlat(lon, lat), lat
        self.photons, self.score = np.asarray(truth["Npred"][kept], float), score[kept]
        self.known = galactic_vectors(catalog[catalog["Score"] >= model.threshold])

    def around(self, rows):
        """Directions of the detections that belong to none of some true sources."""
        near = KDTree(self.vectors[rows]).query(self.known)[0] < chord(MATCH_RADIUS_DEG)
        return self.known[~near]

    def significances(self):
        """Expected sqrt(TS) of the true sources."""
        sqrt_ts = significances(self.sky_map, self.vectors, self.photons)
        rows = np.flatnonzero(sqrt_ts < FAR)
        sqrt_ts[rows] = significances(
            self.sky_map, self.vectors[rows], self.photons[rows], sources=self.around(rows)
        )
        return sqrt_ts


def half_at(sqrt_ts, score, threshold):
    """The sqrt(TS) at which half of the sources have a Score of the threshold or more."""
    return float(fit_completeness(sqrt_ts, score >= threshold).flux_at(0.5))


def main():
    """Fit, check and write."""
    options = options_of(
        __doc__, model=str, template=str, seeds=[1003, 1004], check=[], photons=3.0,
        thresholds=THRESHOLDS, write=False,
    ).parse_args()  # fmt: skip
    model = load_model(options.model)
    skies = [SearchedSky(model, seed, options) for seed in options.seeds]
    sqrt_ts = np.concatenate([sky.significances() for sky in skies])
    latitude, score = (
        np.concatenate([getattr(s, n) for s in skies]) for n in ("latitude", "score")
    )
    print(f"{len(score)} true sources\nthreshold   all sky   |b|>10   |b|<10")
    plane = np.abs(latitude) < 10
    for threshold in options.thresholds:
        halves = [half_at(sqrt_ts[k], score[k], threshold) for k in (plane | True, ~plane, plane)]
        print(f"{threshold:9.2f} " + " ".join(f"{half:9.2f}" for half in halves), flush=True)
    curve = [round(half_at(sqrt_ts, score, threshold), 2) for threshold in options.thresholds]
    half = float(np.interp(model.threshold, options.thresholds, curve))
    for seed in options.check:
        sky = SearchedSky(model, seed, options)
        limit, _ = detection_limits(sky.sky_map, sky.vectors, half)
        rows = np.flatnonzero(sky.photons < 2 * limit)
        limit, _ = detection_limits(sky.sky_map, sky.vectors[rows], half, sources=sky.around(rows))
        part = sky.photons[rows] / limit
        rows = rows[(part > NEAR[0]) & (part < NEAR[1])]
        low = np.abs(sky.latitude[rows]) < 10
        for name, here in (("|b|>10", rows[~low]), ("|b|<10", rows[low])):
            fraction = (sky.score[here] >= model.threshold).mean()
            print(f"sky {seed} {name}: {fraction:.3f} of {len(here)} near the limit are found")
    if options.write:
        curve = {"threshold": options.thresholds, "sqrt_ts": curve, "seeds": options.seeds}
        update_card(model, half_found=curve)


if __name__ == "__main__":
    main()
