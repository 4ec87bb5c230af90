"""The split check beside the fraction of sources that are real, on simulated skies and on files.

    python benchmarks/check_split.py [--finders unet scan] [--kinds 10gev 20gev 50gev 1yr]
        [--thresholds 0.8 0.3] [--seed 2000] [--template SHAPES --variant NAME]
    python benchmarks/check_split.py --maps EVENTS ... --catalogs FILE ...

A row has the sources found in one half of the photons, the fraction that the other half estimates
to be real, with its error, the fraction that is, and the mean Score. On files a source is known if
a catalogue has one within 0.3 deg.
"""

from pathlib import Path

import numpy as np
from finders import KINDS, make_map
from options import options_of

from astro_unetloc import read_catalog
from astro_unetloc.catalog.read import as_reference
from astro_unetloc.catalog.table import galactic_vectors, glon_glat_vectors
from astro_unetloc.evaluation.split import split_check
from astro_unetloc.evaluation.truth import match_truth
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.skymap import halves
from astro_unetloc.pipeline import detect
from astro_unetloc.sphere import neighbors
from astro_unetloc.unet.model import load_model

RADIUS_DEG = 0.3


def fields(options):
    """Name, map and a function of the catalogue, the real fraction, of each field."""
    if options.maps:
        tables = [as_reference(read_catalog(path)) for path in options.catalogs]
        known = np.concatenate([galactic_vectors(table) for table in tables])
        known = known[np.isfinite(known[:, 0])]

        def known_fraction(catalog):
            near = neighbors(glon_glat_vectors(catalog), known, RADIUS_DEG)[0]
            return len(np.unique(near)) / max(len(catalog), 1)

        for path in options.maps:
            yield Path(path).name[:24], read_map(path), known_fraction
        return
    emission = {"template": options.template, "variant": options.variant}
    for kind in options.kinds:
        sky_map, truth = make_map(load_model(), options.seed, **KINDS[kind], **emission)

        def real_fraction(catalog, truth=truth):
            matches = match_truth(catalog, truth)
            return matches.is_real[matches.is_judged].mean()

        yield kind, sky_map, real_fraction


def main(arguments=None):
    """Check every field and print a row for each finder and threshold."""
    options = options_of(
        __doc__, finders=["unet", "scan"], kinds=["10gev", "20gev", "50gev", "1yr"],
        thresholds=[0.8, 0.3], seed=2000, template=Path, variant="PIBREM+ICS", maps=[""],
        catalogs=[""],
    ).parse_args(arguments)  # fmt: skip
    options.maps = [path for path in options.maps if path]
    print("field                    finder threshold sources  estimated      real   mean Score")
    for name, sky_map, fraction in fields(options):
        for finder in options.finders:
            for threshold in options.thresholds:
                how = {"finder": finder, "threshold": threshold, "classify": False, "rng": 0}
                check = split_check(sky_map, **how)
                real = fraction(detect(halves(sky_map, 0)[0], **how).catalog)
                print(
                    f"{name:24} {finder:6} {threshold:9.2f} {check.n_sources:7} "
                    f"{check.fraction:6.3f} +- {check.error:.3f} {real:6.3f} "
                    f"{check.score / max(check.n_sources, 1):10.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
