"""Calibration of scores and factors on the errors of the fit, both stored in the card of a model.

Calibration: a logistic regression on the logit of the network's probability, the sqrt(TS) of the
likelihood and the density of the field, fitted to candidates of simulated skies that no training
has seen (``benchmarks/calibrate.py``). A candidate is real when a true source explains it, see
`astro_unetloc.evaluation.truth.TruthMatch.explained`.

Error factors: the fit estimates Poisson errors. Sources that merge within the point-spread function
and structure in the background that is finer than the region of interest add to them, mostly below
10 GeV. The factors are measured on simulated skies (``benchmarks/fit_errors.py``). The Fermi-LAT
catalogues scale their ellipses likewise, by what known counterparts show (4FGL, arXiv:1902.10045,
section 3.1.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Calibration", "ErrorFactors", "FEATURES", "features"]


# The network's probability is kept away from 0 and 1 by this much, sqrt(TS) below this.
_MIN_PROBABILITY, _MAX_SQRT_TS = 1e-4, 12.0


FEATURES = (
    "logit", "logit2", "sqrt_ts", "sqrt_ts2", "logit sqrt_ts", "plane", "plane logit",
    "plane sqrt_ts",
)  # fmt: skip


# Galactic latitude in degrees at which the weight of the plane has fallen to a half.
_PLANE_DEG = 5.0


# Columns of a table of sources that each kind of factor scales.
_SCALED = {
    "ellipse_68": ("Conf_68_SemiMajor", "Conf_68_SemiMinor"),
    "ellipse_95": ("Conf_95_SemiMajor", "Conf_95_SemiMinor"),
    "counts": ("Unc_Npred", "Unc_Flux"),
    "index": ("Unc_Spectral_Index",),
}


def features(probability, sqrt_ts, latitude_deg):
    """Return the terms of the regression, `FEATURES`.

    Parameters
    ----------
    probability : ndarray (n,)
        Probability of the network.
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
        Lowest probability of the network among the candidates of the regression; candidates below
        are not listed.
    """

    measured: Sequence
    unmeasured: Sequence
    least_probability: float = 0.0

    def score(self, probability, sqrt_ts, latitude_deg):
        """Return the probability (n,) that candidates are real; parameters as in `features`.

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

    def apply(self, sources):
        """Return a copy of a table of sources with the calibrated ``Score``.

        Parameters
        ----------
        sources : QTable
            With ``Probability``, ``GLAT`` and, where it was measured, ``Sqrt_TS``.

        Returns
        -------
        QTable
        """
        sources, unknown = sources.copy(), np.full(len(sources), np.nan)
        sqrt_ts = sources["Sqrt_TS"] if "Sqrt_TS" in sources.colnames else unknown
        sources["Score"] = self.score(
            np.asarray(sources["Probability"]), np.asarray(sqrt_ts), sources["GLAT"].to_value("deg")
        )
        return sources


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

    def apply(self, sources):
        """Return a copy of a table of measured sources whose errors are multiplied by the factors.

        Parameters
        ----------
        sources : QTable
            From `astro_unetloc.measurement.measure_sources`.

        Returns
        -------
        QTable
        """
        sources, latitude_deg = sources.copy(), sources["GLAT"].to_value("deg")
        for kind, names in _SCALED.items():
            for name in names:
                sources[name] = sources[name] * self.at(kind, latitude_deg)
        return sources

    def at(self, kind, latitude_deg):
        """Return the factors (n,) of one kind of error at Galactic latitudes (n,).

        Examples
        --------
        >>> factors = ErrorFactors((0.0, 10.0), (2.0, 1.0), (3.0, 1.0), (2.0, 1.5), (1.0, 1.0))
        >>> factors.at("counts", [-3.0, 40.0]).tolist()
        [2.0, 1.5]
        """
        begins = np.searchsorted(self.latitude_deg, np.abs(latitude_deg), side="right") - 1
        return np.asarray(getattr(self, kind), dtype=float)[begins]
