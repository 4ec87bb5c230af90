"""Binned scores: completeness, purity and class by what true sources and detections are like.

Each takes a judgement of the detections that are listed. A column ``X`` with ``X_Low`` and
``X_High`` is a share with its 68 % interval (Wilson 1927). Detections that are ignored count
nowhere; bins that hold nothing are left out.
"""

import numpy as np

from astro_unetloc.completeness import fit_completeness
from astro_unetloc.judgement import SKIES
from astro_unetloc.references import numbers_of, texts_of
from astro_unetloc.residuals import FLUX_UNIT, PHOTON_EDGES, true_flux
from astro_unetloc.shares import edges_around, score_table, share_columns

__all__ = ["by_class", "by_flux", "by_latitude", "by_photons", "by_sqrt_ts", "flux_limits"]

# Quarter decades in ph cm-2 s-1.
FLUX_EDGES = 10.0 ** (np.arange(-80, 1) / 4)
SQRT_TS_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 3000, 10_000)
# The pole belongs to the last bin.
LATITUDE_EDGES = (0, 2, 5, 10, 20, 30, 45, 60, np.nextafter(90, 91))


def by_photons(judgement):
    """Completeness by true and purity by measured photons.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Low``, ``High``, ``N_True``, ``N_Found``, ``Completeness``, ``N_Listed``, ``N_Right`` and
        ``Purity``. Point-like true sources count from 3 photons on.
    """
    photons = numbers_of(judgement.truth, "Npred"), numbers_of(judgement.catalog, "Npred")
    return _by(
        judgement,
        PHOTON_EDGES,
        photons,
        ("counted", "faint"),
        title="By photons",
        about="Completeness in bins of the expected photons of the true sources, from 3 on, though "
        "only those of 8 or more count in the summary; purity in bins of the measured photons.",
    )


def by_flux(judgement):
    """Completeness by true and purity by measured flux.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        As `by_photons`, with edges in ph cm-2 s-1.
    """
    flux = true_flux(judgement), numbers_of(judgement.catalog, "Flux", FLUX_UNIT)
    return _by(
        judgement,
        FLUX_EDGES,
        flux,
        ("counted", "faint"),
        unit=FLUX_UNIT,
        title="By flux",
        about="Completeness in bins of the flux of the true sources, of which a bin lacks only "
        "those of fewer than 3 expected photons, though the summary lacks those of fewer than 8; "
        "purity in bins of the measured flux.",
    )


def by_sqrt_ts(judgement):
    """Purity by the square root of the test statistic.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Low``, ``High``, ``N_Listed``, ``N_Right`` and ``Purity``.
    """
    values = np.full(len(judgement.truth), np.nan), numbers_of(judgement.catalog, "Sqrt_TS")
    table = _by(
        judgement,
        SQRT_TS_EDGES,
        values,
        (),
        title="By sqrt(TS)",
        about="Purity in bins of the square root of the likelihood test statistic.",
    )
    return table[["Low", "High", "N_Listed", "N_Right", "Purity", "Purity_Low", "Purity_High"]]


def by_latitude(judgement):
    """Completeness and purity by Galactic latitude.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        As `by_photons`, with edges of the absolute latitude in degrees. A detection that matches
        lies where its true source lies.
    """
    return _by(
        judgement,
        LATITUDE_EDGES,
        (judgement.true_latitude, judgement.latitude),
        ("counted",),
        unit="deg",
        title="By latitude",
        about="Completeness and purity in bins of the absolute Galactic latitude.",
    )


def by_class(judgement):
    """Completeness by true class, and how often the class of the catalogue is right.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Class``, ``N_True``, ``N_Found``, ``Completeness``; ``N_Classified``, found ones that the
        catalogue gives a class, ``N_Class_Right`` and their share ``Class_Right``.
    """
    truth, counted, found = judgement.truth, judgement.has_role("counted"), judgement.is_found
    true_class = texts_of(truth, "Class")
    given = np.full(len(truth), "", object)
    row = np.asarray(truth["Found_Row"], int)
    given[row >= 0] = texts_of(judgement.catalog, "Class")[row[row >= 0]]
    names = np.unique(true_class[counted & (true_class != "")])
    of_class = [counted & (true_class == name) for name in names]
    n_true, n_found, n_given, n_same = (
        np.array([np.sum(rows & mask) for rows in of_class], int)
        for mask in (counted, found, found & (given != ""), found & (given == true_class))
    )
    return score_table(
        "By class",
        "Completeness by the class of the true sources, and the share of found ones whose class "
        "is right in the catalogue, of those that have one.",
        {
            "Class": names.astype(str),
            "N_True": n_true,
            "N_Found": n_found,
            **share_columns("Completeness", n_found, n_true),
            "N_Classified": n_given,
            "N_Class_Right": n_same,
            **share_columns("Class_Right", n_same, n_given),
        },
    )


def flux_limits(judgement):
    """Fluxes at which 50 and 90 % of the true sources are found.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``Flux_50``, ``Flux_90`` (ph cm-2 s-1) and ``Plateau`` of the fitted curve (see
        `astro_unetloc.completeness.CompletenessCurve`); NaN where it cannot be fitted or lies
        below.
    """
    flux, latitude = true_flux(judgement), judgement.true_latitude
    used, found = judgement.has_role("counted", "faint") & (flux > 0), judgement.is_found
    fitted = []
    for least, most in SKIES.values():
        here = used & (latitude >= least) & (latitude < most)
        try:
            curve = fit_completeness(flux[here], found[here])
        except ValueError:  # too few of either kind
            fitted.append([np.nan] * 3)
            continue
        limits = [curve.flux_at(share) for share in (0.5, 0.9)]
        fitted.append([*(x if np.isfinite(x) else np.nan for x in limits), curve.plateau])
    columns = dict(zip(("Flux_50", "Flux_90", "Plateau"), np.array(fitted).T))
    return score_table(
        "Flux limits",
        "Fluxes at which 50 and 90 % of the true sources are found, by a logistic curve in the "
        "logarithm of the flux with a plateau; true sources count from 3 expected photons on, as "
        "in the bins of flux.",
        {"Sky": list(SKIES), **columns},
        units=dict.fromkeys(("Flux_50", "Flux_90"), FLUX_UNIT),
    )


def _by(judgement, ladder, values, roles, *, title, about, unit=None):
    """Completeness and purity in bins of values (n_true,) and (n,) of both tables."""
    used, listed = judgement.has_role(*roles), judgement.is_listed
    true_values, found_values = values
    edges = edges_around(np.append(true_values[used], found_values[listed]), ladder)
    n_true, n_found, n_listed, n_right = (
        np.histogram(x[rows], edges)[0] if len(edges) > 1 else np.zeros(0, int)
        for x, rows in (
            (true_values, used),
            (true_values, used & judgement.is_found),
            (found_values, listed),
            (found_values, judgement.is_right),
        )
    )
    table = score_table(
        title,
        about,
        {
            "Low": edges[:-1],
            "High": edges[1:],
            "N_True": n_true,
            "N_Found": n_found,
            **share_columns("Completeness", n_found, n_true),
            "N_Listed": n_listed,
            "N_Right": n_right,
            **share_columns("Purity", n_right, n_listed),
        },
        units=dict.fromkeys(("Low", "High"), unit),
    )
    return table[(n_true > 0) | (n_listed > 0)]
