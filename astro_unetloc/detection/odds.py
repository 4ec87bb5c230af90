"""Odds that a source is behind an excess, in closed form and without any label.

The prior of the counts of a source are the number counts of the map's own bright sources, its
likelihood is that of the fit.
"""

import numpy as np

from astro_unetloc.catalog.columns import set_column
from astro_unetloc.catalog.table import glon_glat_vectors, numbers_of
from astro_unetloc.sphere import lonlat_from_vectors

# A source has at least so many counts; one of fewer than the other number is as good as none.
_MIN_COUNTS, _FAINT = 8.0, 0.5
# Number counts are dN/dA ~ A^-1.9; the density is that of sources with so many counts and this
# test statistic, in zones of absolute Galactic latitude between these degrees.
_SLOPE, _BRIGHT_COUNTS, _BRIGHT_TS = 1.9, 10.0, 25.0
_LATITUDES = np.array([0.0, 2.0, 5.0, 10.0, 20.0, 40.0, 90.1])
_COUNTS = np.geomspace(0.02, 1e5, 300)
_LEAST_COUNTS = 0.3  # of a fit
_MAX_LOG = 600.0
_CHUNK = 1000


def log_likelihood_ratio(ts, ratio):
    """Logarithm of the likelihood of a source against none, to second order in the root of counts.

    ``ratio`` are its counts relative to the fitted ones, of test statistic ``ts``, broadcast.
    """
    return ts / 2 * (2 * np.sqrt(ratio) - ratio)


def with_log_odds(sources, points, area_deg2, trial_deg2):
    """Return a copy of a table of measured sources with ``Log_Odds``.

    The logarithm of the odds is that of a source of 8 counts or more against none, or one of
    less than half a count: integrals over the counts of dN/dA times the likelihood ratio.

    Parameters
    ----------
    sources : QTable
        With ``GLON``, ``GLAT``, ``Sqrt_TS`` and ``Npred``.
    points, area_deg2 : ndarray (k, 3), (k,)
        Observed directions and the area that each of them stands for, for the density of sources.
    trial_deg2 : float
        Area in which an excess has one position, that of the point-spread function.

    Returns
    -------
    QTable
    """
    result, edges = sources.copy(), _LATITUDES[1:-1]
    ts, counts = numbers_of(sources, "Sqrt_TS") ** 2, numbers_of(sources, "Npred")
    zone, zones = (
        np.digitize(np.abs(lonlat_from_vectors(v)[1]), edges)
        for v in (glon_glat_vectors(sources), points)
    )
    n_zones = len(_LATITUDES) - 1
    bright = (counts > _BRIGHT_COUNTS) & (ts > _BRIGHT_TS)
    number = np.bincount(zone[bright], minlength=n_zones) + 0.5
    density = number / np.maximum(np.bincount(zones, area_deg2, minlength=n_zones), trial_deg2)
    expected = np.minimum(density * trial_deg2, 1.0)[zone]
    found = np.full(len(sources), np.nan)
    for rows in np.array_split(np.flatnonzero(np.isfinite(ts + counts)), len(ts) // _CHUNK + 1):
        found[rows] = _log_odds(ts[rows], counts[rows], expected[rows])
    set_column(result, "Log_Odds", found)
    return result


def _log_odds(ts, counts, expected):
    """Logarithm (n,) of the odds, of sources of 10 counts or more expected in each trial."""
    ratio = _COUNTS / np.maximum(counts, _LEAST_COUNTS)[:, None]
    log_likelihood = np.minimum(log_likelihood_ratio(ts[:, None], ratio), _MAX_LOG)
    density = (_SLOPE - 1) / _BRIGHT_COUNTS * (_COUNTS / _BRIGHT_COUNTS) ** -_SLOPE
    weight = expected[:, None] * density * np.gradient(_COUNTS) * np.exp(log_likelihood)
    source, none = weight[:, _COUNTS >= _MIN_COUNTS], weight[:, _COUNTS < _FAINT]
    return np.log(source.sum(axis=1) / (1 + none.sum(axis=1)) + 1e-300)
