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

# The network's probability is kept away from 0 and 1 by this much, sqrt(TS) below this.
_MIN_PROBABILITY, _MAX_SQRT_TS = 1e-4, 12.0
# Galactic latitude in degrees at which the weight of the plane has fallen to a half.
_PLANE_DEG = 5.0

FEATURES = (
    "logit", "logit2", "sqrt_ts", "sqrt_ts2", "logit sqrt_ts", "plane", "plane logit",
    "plane sqrt_ts",
)  # fmt: skip

# Columns of a table of sources that each kind of factor scales.
_SCALED = {
    "ellipse_68": ("Conf_68_SemiMajor", "Conf_68_SemiMinor"),
    "ellipse_95": ("Conf_95_SemiMajor", "Conf_95_SemiMinor"),
    "counts": ("Unc_Npred", "Unc_Flux"),
    "index": ("Unc_Spectral_Index",),
}


def features(probability, sqrt_ts, latitude_deg):
    """Return the terms `FEATURES` (n, 8); those with sqrt(TS) are zero where it is NaN."""
    p = np.clip(np.asarray(probability, float), _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    logit = np.log(p / (1 - p))
    ts = np.clip(np.nan_to_num(sqrt_ts), 0.0, _MAX_SQRT_TS)
    plane = 1 / (1 + (np.asarray(latitude_deg) / _PLANE_DEG) ** 2)
    terms = [logit, logit**2, ts, ts**2, logit * ts, plane, plane * logit, plane * ts]
    return np.stack(terms, axis=-1)


@dataclass(frozen=True)
class Calibration:
    """Coefficients of the regression: a constant and the factors of `FEATURES`."""

    measured: Sequence  # for candidates whose sqrt(TS) is known
    unmeasured: Sequence  # for the others; factors of terms with sqrt(TS) are zero
    # Candidates of a lower probability of the network are not listed: the regression saw none.
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
        """Return a copy of a table of sources with the calibrated ``Score``."""
        sources, unknown = sources.copy(), np.full(len(sources), np.nan)
        sqrt_ts = np.asarray(sources["Sqrt_TS"]) if "Sqrt_TS" in sources.colnames else unknown
        probability, latitude_deg = np.asarray(sources["Probability"]), sources["GLAT"].value
        sources["Score"] = self.score(probability, sqrt_ts, latitude_deg)
        return sources


@dataclass(frozen=True)
class ErrorFactors:
    """Factors on errors in k ranges of Galactic latitude, each a tuple (k,) of float."""

    latitude_deg: tuple  # where each range of the absolute latitude begins, ascending, first 0
    ellipse_68: tuple  # on the axes of the error ellipses
    ellipse_95: tuple
    counts: tuple  # on the errors of counts and flux
    index: tuple  # on the error of the photon index

    def apply(self, sources):
        """Return a copy of a table of measured sources, its errors multiplied by the factors."""
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
