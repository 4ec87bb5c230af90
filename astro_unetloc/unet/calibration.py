"""Calibration: from what the chain knows of a candidate to the probability that it is real.

A logistic regression on the logit of the network's probability, the likelihood's sqrt(TS) and how
dense the field is, fitted to candidates of simulated skies that no training has seen
(``benchmarks/calibrate.py``). A candidate is real when a true source explains it, see
`astro_unetloc.judgement.Judgement.explained`. The coefficients travel in the card of the model.

Error factors: what the errors of the fit must be multiplied by to hold what they say.

A fit knows the Poisson errors of its counts. It does not know of sources that merge within the
point-spread function, nor of structure in the background that is finer than its region. Below 10
GeV these are larger; how much is measured on simulated skies (``benchmarks/fit_errors.py``) and
travels in the card of the model. The Fermi-LAT catalogues scale their ellipses likewise, by what
known counterparts show (4FGL, arXiv:1902.10045, section 3.1.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Calibration", "ErrorFactors", "FEATURES", "features"]


# The network's probability is kept away from 0 and 1 by this much, sqrt(TS) below this.
_MIN_PROBABILITY = 1e-4


_MAX_SQRT_TS = 12.0


FEATURES = (
    "logit", "logit2", "sqrt_ts", "sqrt_ts2", "logit sqrt_ts", "plane", "plane logit",
    "plane sqrt_ts",
)  # fmt: skip


# Galactic latitude in degrees at which the weight of the plane has fallen to a half.
_PLANE_DEG = 5.0


def features(probability, sqrt_ts, latitude_deg):
    """Terms of the regression, `FEATURES`.

    Parameters
    ----------
    probability : ndarray (n,)
        Of the network.
    sqrt_ts : ndarray (n,)
        Of the likelihood fit; NaN where there is none, its terms are zero then.
    latitude_deg : ndarray (n,)
        Galactic latitude.

    Returns
    -------
    ndarray (n, 8)
    """
    p = np.clip(np.asarray(probability, float), _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    logit = np.log(p / (1 - p))
    ts = np.clip(np.nan_to_num(sqrt_ts), 0.0, _MAX_SQRT_TS)
    plane = 1 / (1 + (np.asarray(latitude_deg) / _PLANE_DEG) ** 2)
    terms = [logit, logit**2, ts, ts**2, logit * ts, plane, plane * logit, plane * ts]
    return np.stack(terms, axis=-1)


@dataclass(frozen=True)
class Calibration:
    """Coefficients of the regression, as in the card of a model.

    Attributes
    ----------
    measured : sequence of float
        Constant and factors of ``FEATURES``, for candidates whose sqrt(TS) is known.
    unmeasured : sequence of float
        The same for the others; factors of terms with sqrt(TS) are zero.
    least_probability : float
        Of the network, among the candidates that it was fitted to; those below are not listed.
    """

    measured: Sequence
    unmeasured: Sequence
    least_probability: float = 0.0

    def score(self, probability, sqrt_ts, latitude_deg):
        """Probability that candidates are real.

        Parameters
        ----------
        probability : ndarray (n,)
            Of the network.
        sqrt_ts : ndarray (n,)
            Of the likelihood fit; NaN where there is none.
        latitude_deg : ndarray (n,)
            Galactic latitude.

        Returns
        -------
        ndarray (n,)
            Between 0 and 1.

        Examples
        --------
        >>> import numpy as np
        >>> calibration = Calibration((0.0, 1.0) + 7 * (0.0,), (0.0, 1.0) + 7 * (0.0,))
        >>> calibration.score(np.array([0.25]), np.array([np.nan]), np.array([40.0])).round(2)
        array([0.25])
        """
        terms = features(probability, sqrt_ts, latitude_deg)
        known = np.isfinite(np.asarray(sqrt_ts, float))[:, None]
        constant = np.where(known[:, 0], self.measured[0], self.unmeasured[0])
        factors = np.where(known, self.measured[1:], self.unmeasured[1:])
        exponent = constant + np.sum(terms * factors, axis=1)
        return 1 / (1 + np.exp(-np.clip(exponent, -50, 50)))


@dataclass(frozen=True)
class ErrorFactors:
    """Factors on errors in k ranges of Galactic latitude.

    Attributes
    ----------
    latitude_deg : tuple of float (k,)
        Where each range of the absolute latitude begins, ascending, the first at 0.
    ellipse_68, ellipse_95 : tuple of float (k,)
        Factors on the axes of the error ellipses.
    counts : tuple of float (k,)
        Factors on the errors of counts and flux.
    index : tuple of float (k,)
        Factors on the error of the photon index.
    """

    latitude_deg: tuple
    ellipse_68: tuple
    ellipse_95: tuple
    counts: tuple
    index: tuple

    def apply(self, measurement, latitude_deg):
        """A measurement with larger errors.

        Parameters
        ----------
        measurement : Measurement
            Of n sources.
        latitude_deg : ndarray (n,)
            Their Galactic latitudes.

        Returns
        -------
        Measurement
            What was measured stays.
        """
        counts, index, size = (
            self.at(name, latitude_deg) for name in ("counts", "index", "ellipse_68")
        )
        return replace(
            measurement,
            covariance=measurement.covariance * (size**2)[:, None, None],
            ellipse_68=_scaled(measurement.ellipse_68, size),
            ellipse_95=_scaled(measurement.ellipse_95, self.at("ellipse_95", latitude_deg)),
            npred_err=measurement.npred_err * counts,
            flux_err=measurement.flux_err * counts,
            index_err=measurement.index_err * index,
        )

    def at(self, name, latitude_deg):
        """The factors (n,) of one kind of error at Galactic latitudes (n,).

        Examples
        --------
        >>> factors = ErrorFactors((0.0, 10.0), (2.0, 1.0), (3.0, 1.0), (2.0, 1.5), (1.0, 1.0))
        >>> factors.at("counts", [-3.0, 40.0]).tolist()
        [2.0, 1.5]
        """
        begins = np.searchsorted(self.latitude_deg, np.abs(latitude_deg), side="right") - 1
        return np.asarray(getattr(self, name), dtype=float)[begins]


def _scaled(ellipses, factor):
    return replace(
        ellipses,
        semi_major=ellipses.semi_major * factor,
        semi_minor=ellipses.semi_minor * factor,
    )
