"""The simulated sky is that of Fermi-LAT, as benchmarks/compare_with_real.py compares them."""

import numpy as np
import pytest

from astro_unetloc.simulation.diffuse import interstellar


@pytest.fixture(scope="module")
def benchmark(import_benchmark):
    return import_benchmark("compare_with_real")


@pytest.fixture(scope="module")
def skies(benchmark, real_data):
    with pytest.warns(match="coarser than"):
        return benchmark.compare(real_data, n_skies=4, seed=1)


def test_profiles_are_within_a_tenth_of_3fhl(skies):
    real, found = skies
    seen = real["profiles"] > 1000
    assert seen.sum() > 60
    ratio = found["profiles"][seen] / real["profiles"][seen]
    # clouds and bright sources stand at other longitudes in the real sky
    assert np.mean(np.abs(ratio - 1) < 0.1) > 0.95
    assert np.all(np.abs(ratio - 1) < 0.15)
    assert np.sqrt(np.mean((ratio - 1) ** 2)) < 0.05


def test_spectrum_is_within_a_tenth_up_to_200_gev(skies):
    real, found = skies
    np.testing.assert_allclose(found["spectrum"][:9], real["spectrum"][:9], rtol=0.1)


def test_pixels_hold_as_many_photons_as_those_of_3fhl(skies):
    real, found = skies
    difference = np.abs(found["pixels"] - real["pixels"])
    assert np.all(difference < 0.2 * real["pixels"] + 2 * np.sqrt(real["pixels"]))


def test_bright_sources_are_as_wide_as_real_ones(skies):
    real, found = skies
    np.testing.assert_allclose(found["radial"], real["radial"], atol=0.06)
    np.testing.assert_allclose(found["radial"][1:], real["radial"][1:], atol=0.03)


def test_numbers_of_bright_sources_are_those_of_3fhl(skies):
    real, found = skies
    np.testing.assert_allclose(found["n_sources"], real["n_sources"], rtol=0.1)


def test_low_energies_agree_without_a_fit(benchmark, real_data):
    _, counts, expected, sources = benchmark.low_energy_profile(real_data, interstellar(nside=128))
    np.testing.assert_allclose(expected + sources, counts, rtol=0.12)
