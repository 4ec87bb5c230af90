"""Fraction of close pairs of sources that are found as two, by distance.

    python benchmarks/resolve_pairs.py [--seed 2000] [--model FOLDER] [--years 7]
        [--template FILE --variant NAME] [--threshold T]

A sky of diffuse emission and 768 pairs of point sources, one around each centre of the package's
grid: at random distances of 0.1 to 0.7 deg, each member with 30 to 300 expected photons above
10 GeV. A pair counts as separated when two detections lie within 0.3 deg of its members, one of
each; and as resolved when each is also nearer to its member than half of their distance.
"""

import healpy
import numpy as np
from options import options_of

from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.irf.spectra import power_laws
from astro_unetloc.maps.patches import GridConfig
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.pipeline import detect
from astro_unetloc.simulation.diffuse import interstellar, perturb
from astro_unetloc.simulation.population import Sources
from astro_unetloc.simulation.sky import DEFAULT_RANGE, WHOLE_SKY, draw_photons
from astro_unetloc.sphere import lonlat_from_vectors, move, separation_deg, tangent_axes
from astro_unetloc.unet.model import load_model

DISTANCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # deg
PHOTONS = (30.0, 300.0)
NUMBER_COUNTS, INDEX = 2.15, 2.3
MATCH_DEG = 0.3


def draw_pairs(exposure, rng):
    """True sources (2 n,), the members of a pair one after the other, and distances (n,)."""
    nside = GridConfig().nside
    center = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2)), axis=-1)
    distance = rng.uniform(DISTANCES[0], DISTANCES[-1], len(center))
    angle = rng.uniform(0, 2 * np.pi, len(center))
    axes = tangent_axes(center)
    half = distance / 2 * np.stack([np.cos(angle), np.sin(angle)])
    members = np.stack([move(center, *axes, *half), move(center, *axes, *-half)], axis=1)
    vectors = members.reshape(-1, 3)
    # N ** -NUMBER_COUNTS between the limits
    power = 1 - NUMBER_COUNTS
    low, high = (n**power for n in PHOTONS)
    photons = (low + rng.random(len(vectors)) * (high - low)) ** (1 / power)
    law = power_laws(np.ones(1), np.full(1, INDEX), emin=10.0, emax=DEFAULT_RANGE[1])
    seen = law.flux(*DEFAULT_RANGE, weight=exposure.relative)[0]
    flux = photons / (exposure.sky(vectors) * seen)
    n = len(vectors)
    spectra = power_laws(flux, np.full(n, INDEX), emin=10.0, emax=DEFAULT_RANGE[1])
    codes = np.zeros((2, n), dtype=np.int8)  # AGN, all of them points
    return Sources(vectors, spectra, *codes, np.zeros(n)), distance


def separated(found, true, distance):
    """Which pairs (n,) are separated, and which resolved."""
    away = np.stack([separation_deg(found[:, None], true[None, k::2]) for k in (0, 1)])
    both, near = np.zeros((2, len(distance)), dtype=bool)
    for pair in range(len(distance)):
        for number, limit in ((0, MATCH_DEG), (1, distance[pair] / 2)):
            first, second = (np.flatnonzero(a[:, pair] < limit) for a in away)
            two = len(first) and len(second) and len(np.union1d(first, second)) > 1
            (both, near)[number][pair] = two
    return both, near


def main():
    """Simulate, search and print."""
    options = options_of(
        __doc__, seed=2000, model=str, years=7.0, template=str, variant="P6V11", threshold=float
    ).parse_args()
    rng = np.random.default_rng(options.seed)
    exposure = SurveyExposure(options.years)
    sources, distance = draw_pairs(exposure, rng)
    diffuse = perturb(interstellar(options.template, variant=options.variant), rng)
    sky = draw_photons(diffuse, sources, exposure=exposure, psf=KingPSF(), rng=rng)
    edges = np.array(DEFAULT_RANGE)
    sky_map = SkyMap(events=sky.photons, footprint=WHOLE_SKY, energy_edges=edges)
    run = detect(sky_map, model=load_model(options.model), threshold=options.threshold)
    both, near = separated(glon_glat_vectors(run.catalog), sources.vectors, distance)
    latitude = np.abs(lonlat_from_vectors(sources.vectors[::2])[1])
    print(f"{len(run.catalog)} detections with Score >= {run.threshold:g}")
    print("distance (deg)   pairs  separated  resolved   |b|>10 only: pairs  separated  resolved")
    for low, high in (*zip(DISTANCES[:-1], DISTANCES[1:]), (0.3, 0.5), (0.5, 0.7)):
        here = (distance >= low) & (distance < high)
        high_b = here & (latitude >= 10)
        print(
            f"{low:.1f} - {high:.1f} {here.sum():13} {both[here].mean():10.3f} "
            f"{near[here].mean():9.3f} {high_b.sum():25} {both[high_b].mean():10.3f} "
            f"{near[high_b].mean():9.3f}"
        )


if __name__ == "__main__":
    main()
