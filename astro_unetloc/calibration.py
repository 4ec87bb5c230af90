"""Calibration: from what the chain knows of a candidate to the probability that it is real.

A logistic regression on the logit of the network's probability, the likelihood's sqrt(TS) and how
dense the field is, fitted to candidates of simulated skies that no training has seen
(``benchmarks/calibrate.py``). A candidate is real when a true source explains it, see
`astro_unetloc.judgement.Judgement.explained`. The coefficients travel in the card of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["FEATURES", "Calibration", "features"]

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
