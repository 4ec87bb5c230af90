import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import healpix_pixels

from astro_unetloc.irf.spectra import bin_fractions, draw_energy
from astro_unetloc.maps.photons import Photons, hash_uniform, place_counts, whole_counts
from astro_unetloc.simulation.diffuse import ENERGY_EDGES
from astro_unetloc.sphere import separation_deg

properties = settings(derandomize=True, deadline=None, max_examples=60)
EDGES = np.array([10.0, 20.0, 50.0])


def all_photons(*arguments, **options):
    return Photons.concatenate(place_counts(*arguments, **options))


def test_uniform_numbers_are_uniform_and_independent():
    u, v, w = hash_uniform(0, np.arange(200_000), n_draws=3)
    for draws in (u, v, w):
        assert 0 <= draws.min() < draws.max() < 1
        number = np.histogram(draws, bins=50, range=(0, 1))[0]
        assert np.sum((number - 4000) ** 2 / 4000) < 49 + 5 * np.sqrt(2 * 49)
    correlation = np.corrcoef([u, v, w, np.roll(u, 1)])
    assert np.abs(correlation - np.eye(4)).max() < 5 / np.sqrt(200_000)


@properties
@given(seed=st.integers(0, 2**64 - 1), key=st.integers(-(2**63), 2**63 - 1))
def test_uniform_numbers_depend_on_seed_and_keys_alone(seed, key):
    alone = hash_uniform(seed, key, 7, n_draws=2)
    among = hash_uniform(seed, np.array([1, key, 2]), 7, n_draws=2)
    assert [a[0] for a in alone] == [b[1] for b in among]


@properties
@given(
    low=st.floats(1e-3, 1e3),
    factor=st.floats(1.0001, 100),
    uniform=st.floats(0, 1, exclude_max=True),
    index=st.floats(1.1, 5),
)
def test_energies_stay_inside_their_bin(low, factor, uniform, index):
    assert low <= draw_energy(uniform, low, low * factor, index) < low * factor


def test_a_selection_of_pixels_and_bins_places_the_same_photons(rng):
    counts = rng.poisson(1.0, (2, 768))
    some = np.sort(rng.choice(768, 100, replace=False))
    whole = healpix_pixels(8, False, "galactic")
    part = healpix_pixels(8, False, "galactic", some)
    first = all_photons(whole, counts, EDGES, seed=9)
    first = first.select((part.index(first.vectors) >= 0) & (first.energy >= 20))
    second = all_photons(part, counts[1:, some], EDGES[1:], seed=9)
    order = [np.argsort(photons.energy) for photons in (first, second)]
    np.testing.assert_array_equal(first.energy[order[0]], second.energy[order[1]])
    apart = separation_deg(first.vectors[order[0]], second.vectors[order[1]])
    assert apart.max() < 1e-9


@pytest.mark.parametrize("dtype", ["u1", ">i4", "i8", "?"])
def test_integers_stay_integers(dtype):
    counts = whole_counts(np.array([[0, 1, 1]], dtype=dtype))
    assert counts.dtype == "i4"
    np.testing.assert_array_equal(counts, [[0, 1, 1]])


def test_large_counts_are_exact_and_those_within_a_hundredth_of_whole_numbers_rounded():
    with pytest.raises(ValueError, match="must be real numbers; got complex128"):
        whole_counts(np.array([[1 + 1j]]))
    np.testing.assert_array_equal(whole_counts(np.array([[2**23]])), [[2**23]])
    np.testing.assert_array_equal(whole_counts(np.array([[1e7 - 1, 0]])), [[9_999_999, 0]])
    # their exposure is not computed
    counts = whole_counts(np.array([[0.0, 0.995, 3.004, np.nan]]), lambda: 1 / 0)
    assert counts.dtype == np.float32
    np.testing.assert_array_equal(counts, [[0, 1, 3, np.nan]])


def test_a_flux_becomes_counts_with_its_exposure():
    exposure = np.array([[2e11, 5e11, 1e11]])
    flux = np.array([[3.0, 0.0, 7.0]]) / exposure
    np.testing.assert_array_equal(whole_counts(flux, lambda: exposure), [[3, 0, 7]])
    with pytest.raises(ValueError, match="flux x exposure must be whole numbers"):
        whole_counts(flux * 1.05, lambda: exposure)
    with pytest.raises(ValueError, match="counts must be whole numbers .* exposure"):
        whole_counts(flux)
    with pytest.raises(ValueError, match="must not be negative"):
        whole_counts(flux, lambda: -exposure)


@settings(max_examples=30)
@given(st.lists(st.floats(5.0, 3000.0), min_size=2, max_size=6, unique=True))
def test_fractions_are_those_of_drawn_photons(new_edges):
    new_edges = np.sort(new_edges)
    rng = np.random.default_rng(0)
    found = bin_fractions(ENERGY_EDGES, new_edges)
    for row, low, high in zip(found, ENERGY_EDGES[:-1], ENERGY_EDGES[1:]):
        energy = draw_energy(rng.random(4000), low, high)
        drawn = np.histogram(energy, new_edges)[0] / 4000
        np.testing.assert_allclose(row, drawn, atol=0.04)
