"""Shapes of the spectra of source classes, drawn from distributions that 4FGL sources follow.

The distributions are normal in transformed parameters, so that index, curvature and pivot keep
their correlations, no file is needed and no real source is reproduced. Photons above a higher
energy select harder spectra; a shape is therefore kept with a probability that follows the share
of its flux in the band in which sources are counted.
"""

import numpy as np

from astro_unetloc.spectra import KINDS, Spectra

__all__ = ["draw_shapes"]

# Mean and covariance of (index, ln beta or ln a, ln(pivot / GeV)), a in GeV**-b: those of the 4FGL
# sources in the tables that tests/test_spectral_shapes.py reads, which fits them again. AGN: 416
# with a flux of more than 1.2e-9 ph cm-2 s-1 in 1-100 GeV and beta > 0.01; fainter ones have
# the same indices, but betas that are mostly noise. Pulsars: 135 within 10 deg of the plane and
# 89 ("MSP", most of them millisecond pulsars) beyond, all with a cut-off.
_NORMAL = {
    "AGN": (
        (2.117, -2.506, 0.034),
        ((0.0655, 0.0571, -0.0854), (0.0571, 0.3256, -0.0769), (-0.0854, -0.0769, 0.3244)),
    ),
    "PSR": (
        (1.094, 0.092, 0.597),
        ((0.2471, -0.1685, -0.0282), (-0.1685, 0.2145, -0.0693), (-0.0282, -0.0693, 0.1569)),
    ),
    "MSP": (
        (0.768, 0.237, 0.286),
        ((0.252, -0.1982, -0.0503), (-0.1982, 0.2228, -0.0217), (-0.0503, -0.0217, 0.1025)),
    ),
    # Supernova remnants, wind nebulae and sources without a name: by hand, so that indices near
    # the plane are those of 4FGL-DR3 in 1-100 GeV and of 3FHL above 10 GeV (tested).
    "GAL": ((2.45, -2.8, 0.9), ((0.14, 0.0, 0.0), (0.0, 0.8, 0.0), (0.0, 0.0, 0.16))),
    "SGU": ((2.6, -2.8, 0.9), ((0.05, 0.0, 0.0), (0.0, 0.8, 0.0), (0.0, 0.0, 0.16))),
}
_CUT_OFF = ("PSR", "MSP")
# Less curvature than this is not seen even in the brightest AGN: such spectra are power laws.
_MIN_BETA = 0.03
_MAX_BETA = 1.0  # as in 4FGL
# No AGN of 3FHL is clearly harder.
_MIN_INDEX = 1.4
_EXP_INDEX = 2 / 3  # of nearly all 4FGL pulsars
# Band in which the flux limit selected the sources behind the distributions, in GeV.
_SELECTED_IN = (1.0, 100.0)
# Where N(>S) ~ S**-slope in 1-100 GeV, the sources of one flux in another band have shapes in
# proportion to this power of the ratio of the fluxes in both bands. Slopes are 0.9 to 1.2.
_SLOPE = 1.0
# Ratios above these (one or two shapes in a thousand above 10 GeV) are taken for these.
_MAX_RATIO = {"AGN": 0.4, "PSR": 0.07, "MSP": 0.06, "GAL": 0.4}


def draw_shapes(population, n, rng, *, band=_SELECTED_IN):
    """Spectral shapes of sources that are counted by their photon flux in a band.

    Parameters
    ----------
    population : str
        "AGN", "PSR" (pulsars along the plane), "MSP" (millisecond pulsars), "GAL" (others in
        the Galaxy) or "SGU" (faint soft ones without a name, counted in 1-100 GeV only).
    n : int
        How many.
    rng : numpy.random.Generator
        Source of randomness.
    band : pair of float
        In GeV.

    Returns
    -------
    Spectra
        With unit amplitude at the pivot.
    """
    if tuple(band) == _SELECTED_IN or n == 0:
        return _draw(population, n, rng)
    parts, missing = [], n
    while missing > 0:
        shapes = _draw(population, max(4 * missing, 256), rng)
        ratio = shapes.flux(*band) / shapes.flux(*_SELECTED_IN)
        kept = rng.random(len(shapes)) < (ratio / _MAX_RATIO[population]) ** _SLOPE
        parts.append(shapes.select(np.flatnonzero(kept)[:missing]))
        missing -= len(parts[-1])
    return Spectra.concatenate(parts)


def _draw(population, n, rng):
    index, curve, log_pivot = rng.multivariate_normal(*_NORMAL[population], size=n).T
    ones, zeros = np.ones(n), np.zeros(n)
    pivot, curve = np.exp(log_pivot), np.exp(curve)
    if population in _CUT_OFF:
        kind = np.full(n, KINDS.index("PLSuperExpCutoff2"), dtype=np.int8)
        index = np.maximum(index, 0.0)
        return Spectra(kind, ones, pivot, index, zeros, curve, np.full(n, _EXP_INDEX))
    beta = np.where(curve < _MIN_BETA, 0.0, np.minimum(curve, _MAX_BETA))
    kind = np.where(beta > 0, KINDS.index("LogParabola"), KINDS.index("PowerLaw")).astype(np.int8)
    return Spectra(kind, ones, pivot, np.maximum(index, _MIN_INDEX), beta, zeros, ones)
