"""Classes of sources of 3FGL without a counterpart, tried on those that 4FGL-DR2 associates.

    python benchmarks/classify_3fgl.py gll_psc_v16.fit gll_psc_4fgl_dr2.fits [--skies 60]
        [--template SHAPES] [--years 4] [--sqrt-ts 5] [--smooth 0.5] [--systematic 0.05]

A classifier is made as for the models (``fit_classes.py``), from simulated sources as 3FGL detects
them (4 years, sqrt(TS) of 5 in 0.3-100 GeV); no real source trains it. It takes the fluxes of 3FGL
in the four bands above 0.3 GeV, where simulated spectra begin, with the systematic error of the
effective area, and position and flux; no light curve. Sources are the same where the errors of both
positions agree. Prints the scores of `astro_unetloc.evaluation.classes` with 68 % intervals, and
the sum of the probabilities of pulsars beside their number, for the sources without a class in 3FGL
that have one in 4FGL-DR2, and for those with a class in 3FGL.
"""

import numpy as np
from fit_classes import RANGES_DEG, Observation, draw_population, families, prior
from options import options_of

from astro_unetloc import match_catalogs, read_catalog
from astro_unetloc.catalog.columns import CLASSES
from astro_unetloc.catalog.table import degrees, numbers_of, source_classes
from astro_unetloc.classification import Classifier
from astro_unetloc.classification.features import flux_log_likelihood
from astro_unetloc.evaluation.classes import class_scores, score_intervals
from astro_unetloc.evaluation.metrics import CompletenessCurve

EDGES_GEV = (0.3, 1.0, 3.0, 10.0, 100.0)
FLUX_GEV = (1.0, 100.0)
BANDS = ("300_1000", "1000_3000", "3000_10000", "10000_100000")  # in MeV, as the columns are named


def trained(options):
    """`Classifier` of the sources that 3FGL would detect of the simulated population."""
    energy_range = EDGES_GEV[0], EDGES_GEV[-1]
    observation = Observation(energy_range, FLUX_GEV, options.years, options.template)
    # steep as the scatter of sqrt(TS) by one
    curve = CompletenessCurve(1.0, options.sqrt_ts, 1.6 * options.sqrt_ts)
    curves = [curve] * (len(RANGES_DEG) - 1)
    source_class, node, *place, weight = draw_population(observation, options.skies, curves)
    family = families(source_class, node, weight, observation.grid, options.smooth)
    tables = prior(source_class, *place, weight)
    return Classifier(observation.grid, family, **tables, confidence=0.8, energy_range=energy_range)


def spectra(table, grid, systematic):
    """Log-likelihoods (n, n_nodes) of the fluxes of 3FGL, whose lower errors are negative."""
    flux = np.stack([np.ma.filled(table[f"Flux{band}"].value, np.nan) for band in BANDS], axis=1)
    errors = np.stack([np.abs(table[f"Unc_Flux{band}"].value) for band in BANDS], axis=1)
    return flux_log_likelihood(flux, errors, EDGES_GEV, grid, systematic=systematic)


def report(name, probability, classes):
    """Print the scores of the sources of known classes (n,), "" where they are unknown."""
    known = classes != ""
    probability = probability[known]
    true_class = (classes[known, None] == np.array(CLASSES)).argmax(axis=1)
    pulsar = probability[:, CLASSES.index("psr")]
    error = np.sqrt((pulsar * (1 - pulsar)).sum())
    print(f"{name}: {', '.join(f'{np.sum(classes == c)} {c}' for c in CLASSES)}")
    print(f"  pulsars expected {pulsar.sum():.1f} +- {error:.1f}")
    intervals = score_intervals(probability, true_class, n_samples=500)
    for (score, value), (low, high) in zip(
        class_scores(probability, true_class).items(), intervals, strict=True
    ):
        print(f"  {score:20} {value:.3f} ({low:.3f}-{high:.3f})")


def main(arguments=None):
    """Train, classify and compare."""
    parser = options_of(
        __doc__, skies=60, template=str, years=4.0, sqrt_ts=5.0, smooth=0.5, systematic=0.05
    )
    parser.add_argument("catalogs", nargs=2)
    options = parser.parse_args(arguments)
    old, new = (read_catalog(path) for path in options.catalogs)
    classifier = trained(options)
    position = (degrees(old[name]) for name in ("GLON", "GLAT"))
    likelihood = spectra(old, classifier.grid, options.systematic)
    before_photons = classifier.prior(*position, numbers_of(old, "Flux1000"))
    probability, *_ = classifier.probabilities(likelihood, before_photons)
    match = match_catalogs(old, new)
    before, after = source_classes(old), np.full(len(old), "", "U5")
    after[match.catalog_index] = source_classes(new)[match.reference_index]
    report("without a class in 3FGL", probability, np.where(before == "", after, ""))
    report("with a class in 3FGL", probability, before)


if __name__ == "__main__":
    main()
