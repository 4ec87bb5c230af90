"""Calibration of ``Score``: a logistic regression on the candidates of simulated skies."""

import warnings
from dataclasses import replace
from itertools import product

import numpy as np

from astro_unetloc.catalog.table import degrees, make_catalog, numbers
from astro_unetloc.evaluation.predictions import BRIGHTEST_BELOW_GEV, narrowed, observed_sky
from astro_unetloc.evaluation.truth import join_matches, match_truth
from astro_unetloc.exceptions import InputError, UnetlocWarning
from astro_unetloc.pipeline import detect
from astro_unetloc.unet.model import (
    CALIBRATIONS,
    FEATURES,
    SCAN_SQRT_TS,
    Calibration,
    features,
    list_models,
    load_model,
    update_card,
)

# Skies on which nothing is trained, and none of those that are reported.
SEEDS = range(1003, 1008)
# Lowest energies of the maps, over that of the model.
_LOWEST = (1.0, 2.0, 5.0)
# Below 10 GeV most of the time would go into fits of candidates of a lower probability.
_LEAST_BELOW_10_GEV = 0.4
# The fewest real and false candidates that a regression is fitted to.
_FEWEST = 20


def calibrate(
    model, *, seeds=SEEDS, energies=None, years=(1.0, 10.0), threshold=0.8, progress=None
):
    """Calibrate the ``Score`` of a model on simulated skies, and write it into its card.

    Each sky is searched above each of the energies with each exposure. A logistic regression is
    fitted to the candidates, of the probability of the network, sqrt(TS), counts and latitude. Real
    candidates are those to which a true source of any brightness gave a third of their counts.

    Parameters
    ----------
    model : str or path
        Model folder, made by `train`.
    seeds : sequence of int
        Seeds of the skies. Training sets have seeds below 1000, evaluations from 2000 on.
    energies : sequence of Quantity or float, optional
        Lowest energies of the maps, GeV if bare; the lowest energy of the model and, from 10 GeV
        on, two and five times as much by default.
    years : sequence of float
        Exposures.
    threshold : float
        Smallest ``Score`` that the model lists by default from now on.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    Model
        Its card holds the calibration.

    Raises
    ------
    InputError
        If the model is one that ships, or if the skies have too few real or false candidates.

    Examples
    --------
    >>> from astro_unetloc import calibrate, train
    >>> train("set.h5", "my_model")  # doctest: +SKIP
    >>> calibrate("my_model")  # doctest: +SKIP
    """
    if str(model) in list_models():
        raise InputError(
            f"model must be a folder of your own; got {model}, which ships and is calibrated; name "
            "another"
        )
    model = load_model(model)
    low, high = model.energy_range
    is_low = low < BRIGHTEST_BELOW_GEV
    if energies is None:
        energies = [low * factor for factor in (_LOWEST[:1] if is_low else _LOWEST)]
        energies = [energy for energy in energies if energy < high]
    bands = [narrowed(model.band_edges, (energy, high)) for energy in energies]
    least = _LEAST_BELOW_10_GEV if is_low else 0.0
    plain = uncalibrated(model, least)
    settings = list(product(bands, years, seeds))
    found = join_matches(
        matched_candidates(plain, seed, band_edges=edges, years=float(time))
        for edges, time, seed in (progress(settings, desc="skies") if progress else settings)
    )
    entry = {
        "seeds": list(map(int, seeds)), "lowest_gev": [float(edges[0]) for edges in bands],
        "years": list(map(float, years)),
    }  # fmt: skip
    entry |= vars(fit_calibration(found, least))
    return update_card(model, threshold=float(threshold), **{CALIBRATIONS["unet"]: entry})


def uncalibrated(model, least=0.0):
    """A copy of a model whose ``Score`` is the probability of its network, from the least on."""
    kept = {key: value for key, value in model.card.items() if key not in CALIBRATIONS.values()}
    return replace(model, card=kept | {"threshold": least})


def matched_candidates(model, seed, *, band_edges, finder="unet", **sky):
    """`TruthMatch` of the candidates of a simulated sky of some bands (GeV)."""
    sky_map, truth = observed_sky(band_edges, seed, **sky)
    with warnings.catch_warnings():  # fluxes are not used
        warnings.filterwarnings("ignore", "Flux is that of", UnetlocWarning)
        run = detect(sky_map, model=model, finder=finder, threshold=model.threshold, classify=False)
    brightest = bool(band_edges[0] < BRIGHTEST_BELOW_GEV)
    return match_truth(make_catalog(run.sources), truth, brightest=brightest)


def evidence(matches):
    """Probability of the network, latitude, sqrt(TS), counts and, of a scan, its sqrt(TS)."""
    catalog = matches.catalog
    names = [n for n in ("Sqrt_TS", "Npred", SCAN_SQRT_TS) if n in catalog.colnames]
    fitted = (numbers(catalog[name]) for name in names)
    return numbers(catalog["Probability"]), degrees(catalog["GLAT"]), *fitted


def fit_calibration(matches, least=0.0):
    """The `Calibration` of candidates, by scikit-learn's logistic regression."""
    probability, latitude, *fitted = (values[matches.is_judged] for values in evidence(matches))
    real, known = matches.is_real[matches.is_judged], np.isfinite(fitted[0])
    fewest = min(np.sum(real & known), np.sum(~real & known))
    if fewest < _FEWEST:
        raise InputError(
            f"a calibration needs {_FEWEST} real and as many false candidates; got "
            f"{np.sum(real & known)} and {np.sum(~real & known)}; simulate more skies"
        )
    n_terms = len(FEATURES) if len(fitted) > 2 else FEATURES.index("scan")
    terms = features(probability, latitude, *fitted)[known, :n_terms]
    # without a fit its terms are zero for all
    blind = features(probability, latitude, *np.full((2, len(real)), np.nan))[:, :n_terms]
    return Calibration(_regression(terms, real[known]), _regression(blind, real), least)


def _regression(terms, real):
    """Constant and factors, in the units of the terms."""
    from sklearn.linear_model import LogisticRegression

    mean, width = terms.mean(axis=0), terms.std(axis=0)
    width = np.where(width > 0, width, 1.0)
    found = LogisticRegression(C=10.0, max_iter=5000).fit((terms - mean) / width, real)
    factors = found.coef_[0] / width
    return (float(found.intercept_[0] - factors @ mean), *map(float, factors))
