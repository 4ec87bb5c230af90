"""Completeness: how the share of sources that are found grows with their flux."""

from dataclasses import dataclass

import numpy as np

__all__ = ["CompletenessCurve", "fit_completeness"]

# Fewer sources found or missed than this do not make a curve.
_MIN_SOURCES = 5


@dataclass(frozen=True)
class CompletenessCurve:
    r"""A logistic curve in the logarithm of the flux, with a plateau.

    .. math:: C(S) = \frac{p}{1 + (S / S_0)^{-k}}

    Attributes
    ----------
    plateau : float
        Completeness p of the brightest sources.
    half_flux : float
        Flux S0 at which half of the plateau is reached.
    steepness : float
        Exponent k.
    """

    plateau: float
    half_flux: float
    steepness: float

    def __call__(self, flux):
        """Completeness at fluxes (n,)."""
        return self.plateau / (1 + (np.asarray(flux) / self.half_flux) ** -self.steepness)

    def flux_at(self, completeness):
        """Flux at which a completeness is reached; infinite if it lies above the plateau."""
        if completeness >= self.plateau:
            return np.inf
        return self.half_flux * (self.plateau / completeness - 1) ** (-1 / self.steepness)


def fit_completeness(flux, found):
    """The curve of highest likelihood.

    Each source is found with the probability of the curve at its flux, independently of others.

    Parameters
    ----------
    flux : array-like (n,)
        True fluxes, in any unit.
    found : array-like (n,) of bool
        Whether each source was found.

    Returns
    -------
    CompletenessCurve

    Raises
    ------
    ValueError
        If the fluxes are not positive, or there are not five found and five missed sources.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_unetloc.completeness import CompletenessCurve, fit_completeness
    >>> rng = np.random.default_rng(0)
    >>> flux = 10 ** rng.uniform(-2, 2, 20_000)
    >>> curve = fit_completeness(flux, rng.random(20_000) < CompletenessCurve(0.9, 1.0, 3.0)(flux))
    >>> bool(abs(curve.flux_at(0.45) - 1) < 0.05)
    True
    """
    from scipy.optimize import minimize
    from scipy.special import expit, logit

    flux, found = np.asarray(flux, dtype=float), np.asarray(found, dtype=bool)
    if np.any(flux <= 0) or not np.all(np.isfinite(flux)):
        raise ValueError("fluxes must be positive numbers; got others; leave such sources out")
    if min(found.sum(), (~found).sum()) < _MIN_SOURCES:
        raise ValueError(
            f"expected {_MIN_SOURCES} found and {_MIN_SOURCES} missed sources or more; got "
            f"{found.sum()} and {(~found).sum()}; take more sources"
        )
    log_flux = np.log(flux)
    middle = log_flux[found].min() * 0.5 + np.median(log_flux[found]) * 0.5
    start = np.array([logit(0.95), middle, np.log(3.0)])

    def cost(values):
        share = expit(values[0]) * expit(np.exp(values[2]) * (log_flux - values[1]))
        share = np.clip(share, 1e-12, 1 - 1e-12)
        return -np.sum(np.log(np.where(found, share, 1 - share)))

    # the plateau is 1 in the limit: keep it finite
    limits = [(-10.0, 10.0), (log_flux.min() - 1, log_flux.max() + 1), (-3.0, 4.0)]
    best = minimize(cost, start, method="Nelder-Mead", bounds=limits, options={"maxiter": 2000}).x
    return CompletenessCurve(float(expit(best[0])), float(np.exp(best[1])), float(np.exp(best[2])))
