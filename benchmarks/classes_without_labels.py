"""Pulsars that a mixture finds without labels, in simulated skies or in 3FHL.

    python benchmarks/classes_without_labels.py [--model lat-10gev] [--seeds 2000 2001] [--years 7]
    python benchmarks/classes_without_labels.py --catalog gll_psch_v13.fit

Searches the skies of --seeds, or takes the five band fluxes of 3FHL, and fits a mixture to the
spectra of the detections, without and with latitudes. Prints the groups with their mean index and
curvature and, for AGN and pulsars of known class, the adjusted Rand index of the groups, the
balanced accuracy where a pulsar has more than its mean probability, and the area under the curve.
"""

import numpy as np
from options import options_of
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score, roc_auc_score

from astro_unetloc import read_catalog
from astro_unetloc.catalog.columns import LOG_LIKELIHOOD
from astro_unetloc.catalog.table import degrees, glon_glat_vectors, source_classes, texts_of
from astro_unetloc.classification import fit_mixture
from astro_unetloc.classification.features import flux_log_likelihood
from astro_unetloc.detection.localization import source_table
from astro_unetloc.evaluation.predictions import observed_sky, search_sky
from astro_unetloc.irf.spectra import spectral_grid
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.unet.model import load_model

EDGES_GEV = (10.0, 20.0, 50.0, 150.0, 500.0, 2000.0)  # of 3FHL


def searched(model, seed, years):
    """Log-likelihoods, grid, latitudes and true classes, "" of false positives, of a sky."""
    matches = search_sky(model, seed, years=years)[1].select(model.threshold)
    found, grid = matches.catalog, spectral_grid(model.band_edges[0])
    sources = source_table(glon_glat_vectors(found), np.nan, patch=-1, coverage=np.nan)
    measured = measure_sources(
        sources, observed_sky(model.band_edges, seed, years=years)[0], band_edges=model.band_edges,
        flux_range=model.flux_range, grid=grid, fixed=True,
    )  # fmt: skip
    classes = np.append(texts_of(matches.truth, "Class"), "")[np.asarray(found["Real_Row"])]
    return measured[LOG_LIKELIHOOD], grid, degrees(found["GLAT"]), np.char.lower(classes)


def catalogued(path):
    """The same of the sources of 3FHL, with its classes."""
    table, grid = read_catalog(path), spectral_grid(EDGES_GEV[0])
    flux, errors = (np.ma.getdata(table[name]) for name in ("Flux_Band", "Unc_Flux_Band"))
    flux, errors = (np.asarray(getattr(v, "value", v), dtype=float) for v in (flux, errors))
    likelihood = flux_log_likelihood(flux, np.abs(errors), EDGES_GEV, grid)
    return likelihood, grid, degrees(table["GLAT"]), source_classes(table)


def scores(likelihood, grid, latitude, classes):
    """Fit and print the groups; adjusted Rand index, balanced accuracy and AUC."""
    mixture = fit_mixture(likelihood, grid, latitude_deg=latitude)
    for name, weight, mean in zip(mixture.classes, mixture.weights, mixture.means):
        index, beta = np.exp(mean[0]), max(mean[1], 0.0) ** 2
        print(f"    {weight:.3f} {name:5} index {index:.2f} beta {beta:.2f}")
    responsibilities = mixture.responsibilities(likelihood, latitude)
    pulsar = responsibilities[:, mixture.classes == "psr"].sum(axis=1)
    pair = np.isin(classes, ("agn", "psr"))
    true, found = classes[pair] == "psr", pulsar[pair]
    balanced = balanced_accuracy_score(true, found > pulsar.mean())
    return adjusted_rand_score(true, found > 0.5), balanced, roc_auc_score(true, found)


def main(arguments=None):
    """Fit mixtures and compare them with the known classes."""
    parser = options_of(__doc__, model="lat-10gev", seeds=[2000, 2001], years=7.0, catalog=str)
    options = parser.parse_args(arguments)
    if options.catalog:
        samples = [catalogued(options.catalog)]
    else:
        model = load_model(options.model)
        samples = [searched(model, seed, options.years) for seed in options.seeds]
    for text, column in (("spectra alone", False), ("with latitudes", True)):
        print(text)
        rows = [
            scores(likelihood, grid, latitude if column else None, classes)
            for likelihood, grid, latitude, classes in samples
        ]
        means = np.mean(rows, axis=0)
        for name, mean in zip(("ARI", "balanced accuracy", "AUC"), means, strict=True):
            print(f"  {name:18} {mean:.3f}")


if __name__ == "__main__":
    main()
