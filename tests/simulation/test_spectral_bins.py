import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.simulation.diffuse import _integrate_intensity, _rebin_intensity


def integral(index, low, high):
    return (high ** (1 - index) - low ** (1 - index)) / (1 - index)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.floats(0.2, 4.0).filter(lambda index: abs(index - 1) > 0.01))
def test_power_law_is_integrated_exactly(index):
    energy = np.array([1.0, 3.0, 20.0, 100.0])
    edges = np.array([0.5, 1.0, 2.0, 50.0, 300.0])
    found = list(_integrate_intensity(energy, energy**-index, edges))
    np.testing.assert_allclose(found, integral(index, edges[:-1], edges[1:]), rtol=1e-9)


def test_index_of_one_is_a_logarithm():
    energy = np.array([1.0, 10.0])
    found = list(_integrate_intensity(energy, 1 / energy, np.array([1.0, 10.0])))
    np.testing.assert_allclose(found, np.log(10))


def test_zero_intensity_gives_no_photons_there():
    values = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    low, high = _integrate_intensity(np.array([1.0, 2.0, 4.0]), values, np.array([1.0, 2.0, 4.0]))
    assert low[0] > 0
    assert low[1] == high[0] == high[1] == 0


@pytest.mark.parametrize("edges", [[0.1, 5.0], [5.0, 60.0]])
def test_bins_far_beyond_the_energies_are_refused(edges):
    with pytest.raises(ValueError, match="cannot be continued"):
        list(_integrate_intensity(np.array([1.0, 10.0]), np.ones(2), np.array(edges)))


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(1, 30))
def test_rebinning_conserves_photons(values, n_new):
    edges = np.geomspace(1, 100, len(values) + 1)
    found = _rebin_intensity(values, edges, np.geomspace(1, 100, n_new + 1))
    assert found.sum() == pytest.approx(sum(values))
    assert np.all(found >= 0)


def test_rebinning_follows_a_power_law():
    edges, new = np.geomspace(1, 1000, 7), np.geomspace(1, 1000, 20)
    found = _rebin_intensity(integral(2.5, edges[:-1], edges[1:]), edges, new)
    np.testing.assert_allclose(found, integral(2.5, new[:-1], new[1:]), rtol=1e-6)


def test_bins_without_photons_stay_empty():
    np.testing.assert_array_equal(_rebin_intensity([0, 0], [1, 2, 4], [1, 3, 4]), [0, 0])
