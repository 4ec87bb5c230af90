import numpy as np
import pytest

from astro_unetloc.classification.features import flux_log_likelihood
from astro_unetloc.irf.spectra import spectral_grid

EDGES = np.array([0.3, 1.0, 3.0, 10.0, 100.0])
GRID = spectral_grid(0.3)


def band_fluxes(node):
    spectra = GRID.spectra.select([node])
    bands = zip(EDGES[:-1], EDGES[1:])
    return np.array([[spectra.flux(*band)[0] for band in bands]])


def errors_of(flux, lower, upper):
    return np.stack([lower * flux, upper * flux], axis=-1)


@pytest.mark.parametrize("node", [60, 83, 110])
def test_exact_fluxes_name_their_spectrum_whatever_the_unit(node):
    flux = band_fluxes(node) * np.array([[1.0], [1e-12]])
    logs = flux_log_likelihood(flux, errors_of(flux, 0.05, 0.05), EDGES, GRID)
    assert logs.argmax(axis=1).tolist() == [node, node]
    assert logs.max() == 0
    np.testing.assert_allclose(*logs, atol=1e-6)


def test_it_is_chi_square_at_the_best_amplitude():
    """Against a minimization of each node; the errors differ towards either side."""
    from scipy.optimize import minimize_scalar

    flux = band_fluxes(80) * np.array([1.3, 0.8, 1.1, 0.9])
    errors, systematic = errors_of(flux, 0.1, 0.3), 0.05
    logs = flux_log_likelihood(flux, errors, EDGES, GRID, systematic=systematic)[0]
    lower, upper = np.hypot(errors[0].T, systematic * flux[0])

    def chi_square(node):
        shape = band_fluxes(node)[0]

        def at(log_amplitude):
            excess = flux[0] - np.exp(log_amplitude) * shape
            return np.sum((excess / np.where(excess > 0, lower, upper)) ** 2)

        start = np.log(flux.sum() / shape.sum())
        return minimize_scalar(at, bracket=(start - 0.1, start + 0.1)).fun

    nodes = [70, 80, 81, 90]
    expected = np.array([chi_square(node) for node in nodes])
    np.testing.assert_allclose(logs[nodes] - logs[80], (expected[1] - expected) / 2, atol=0.02)


def test_upper_limit_excludes_bright_spectra_only():
    """Without a lower error a flux is as far from zero as its upper error is wide."""
    hard, soft = np.argmax(GRID.weights(np.array([[1.5], [4.0]])[:, 0], np.zeros(2)), axis=1)
    flux = band_fluxes(soft)
    errors = errors_of(flux, 0.1, 0.1)
    errors[0, -1] = np.nan, 3 * flux[0, -1]
    logs = flux_log_likelihood(flux, errors, EDGES, GRID)[0]
    assert logs[hard] < logs[soft] - 10


def test_source_without_errors_is_unknown():
    flux = np.repeat(band_fluxes(80), 3, axis=0)
    errors = errors_of(flux, 0.1, 0.1)
    errors[1, 2, 1], flux[2, 0] = np.inf, np.nan
    logs = flux_log_likelihood(flux, errors, EDGES, GRID)
    assert np.isfinite(logs).all(axis=1).tolist() == [True, False, False]
    assert flux_log_likelihood(flux[:0], errors[:0], EDGES, GRID).shape == (0, len(GRID))
