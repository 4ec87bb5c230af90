"""Likelihood of spectra, as a classifier takes it, from the band fluxes of a catalogue."""

import numpy as np

# Steps in which the amplitude and the sides of the errors agree.
_N_STEPS = 8


def flux_log_likelihood(flux, errors, energy_edges, grid, *, systematic=0.05):
    """Log-likelihood (n, n_nodes), at most 0, of photon fluxes in bands for spectra of a grid.

    The amplitude of each spectrum is the likeliest one. Fluxes are taken as normal, with errors of
    their own towards either side.

    Parameters
    ----------
    flux : ndarray (n, n_band)
        Photon fluxes, in any unit.
    errors : ndarray (n, n_band, 2)
        Lower and upper 1 sigma errors, both positive; the lower one of an upper limit is NaN.
    energy_edges : ndarray (n_band + 1,)
        Edges of the bands in GeV.
    grid : SpectralGrid
        Its nodes are the spectra.
    systematic : float
        Relative systematic error of each flux, added in quadrature.

    Returns
    -------
    ndarray (n, n_nodes)
        NaN for a source with an unknown flux or upper error.

    Examples
    --------
    >>> from astro_unetloc.classification.features import flux_log_likelihood
    >>> from astro_unetloc.irf.spectra import spectral_grid
    >>> grid, edges = spectral_grid(0.3), [0.3, 1.0, 3.0, 10.0]
    >>> logs = flux_log_likelihood([[7.0, 2.0, 0.7]], [3 * [[0.1, 0.1]]], edges, grid)
    >>> index, beta = grid.nodes
    >>> float(index[logs[0].argmax()]), float(beta[logs[0].argmax()])
    (2.0, 0.0)
    """
    flux, errors = np.asarray(flux, dtype=float), np.asarray(errors, dtype=float)
    lower = np.where(np.isnan(errors[..., 0]), errors[..., 1], errors[..., 0])
    lower, upper = (np.hypot(e, systematic * np.abs(flux)) for e in (lower, errors[..., 1]))
    bands = zip(energy_edges[:-1], energy_edges[1:])
    shapes = np.stack([grid.spectra.flux(*band) for band in bands], axis=1)
    shapes /= shapes.sum(axis=1, keepdims=True)
    result = np.full((len(flux), len(shapes)), np.nan)
    for row in np.flatnonzero(np.isfinite(flux + lower + upper).all(axis=1)):
        values, low, high = flux[row], lower[row] ** -2.0, upper[row] ** -2.0
        weight = np.broadcast_to(np.sqrt(low * high), shapes.shape)
        for _ in range(_N_STEPS):
            amplitude = (weight * shapes) @ values / (weight * shapes**2).sum(axis=1)
            excess = values - np.maximum(amplitude, 0.0)[:, None] * shapes
            weight = np.where(excess > 0, low, high)
        result[row] = -0.5 * (weight * excess**2).sum(axis=1)
    return result - result.max(axis=1, keepdims=True)
