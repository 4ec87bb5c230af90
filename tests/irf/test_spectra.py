import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.spectra import (
    KINDS,
    PowerLawFractions,
    Spectra,
    fitted_index,
    power_laws,
    spectral_grid,
)

PARAMETERS = {
    "PowerLaw": st.tuples(st.floats(0.5, 5.5), st.just(0.0), st.just(0.0), st.just(1.0)),
    "LogParabola": st.tuples(st.floats(0.5, 3.5), st.floats(0.0, 1.0), st.just(0.0), st.just(1.0)),
    "PLSuperExpCutoff2": st.tuples(
        st.floats(0.0, 2.8), st.just(0.0), st.floats(0.01, 8.0), st.floats(0.4, 1.0)
    ),
}


def make_spectra(kind, parameters, *, amplitude=1e-9, pivot=1.6):
    """One spectrum of a kind: (index, beta, expfactor, exp_index)."""
    values = (np.array([v]) for v in (amplitude, pivot, *parameters))
    return Spectra(np.array([KINDS.index(kind)], np.int8), *values)


def any_spectrum(draw_from=KINDS):
    return st.sampled_from(draw_from).flatmap(
        lambda kind: st.builds(make_spectra, st.just(kind), PARAMETERS[kind])
    )


def test_power_law_has_its_flux_and_density():
    spectra = power_laws(np.array([1e-10, 4e-10]), np.array([2.0, 3.0]))
    np.testing.assert_allclose(spectra.flux(10, 2000), [1e-10, 4e-10])
    fraction = (1 / 10 - 1 / 100) / (1 / 10 - 1 / 2000)
    np.testing.assert_allclose(spectra.flux(10, 100)[0], 1e-10 * fraction)
    ratio = spectra.density(10)[:, 0] / spectra.density(100)[:, 0]
    np.testing.assert_allclose(ratio, [100, 1000])


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        ("PowerLaw", (2.0, 0.0, 0.0, 1.0), 4.0**-2),
        ("LogParabola", (2.0, 0.1, 0.0, 1.0), 4.0 ** -(2 + 0.1 * np.log(4))),
        ("PLSuperExpCutoff2", (1.0, 0.0, 0.5, 0.5), np.exp(0.5 * (1 - 2)) / 4),
    ],
)
def test_density_is_that_of_4fgl(kind, parameters, expected):
    spectra = make_spectra(kind, parameters, pivot=1.0, amplitude=3e-9)
    np.testing.assert_allclose(spectra.density([1.0, 4.0]), [[3e-9, 3e-9 * expected]])


@settings(derandomize=True, deadline=None)
@given(any_spectrum(), st.floats(0.3, 30), st.floats(1.3, 60))
def test_flux_is_the_integral_of_the_density(spectra, emin, ratio):
    fine = np.geomspace(emin, emin * ratio, 20_001)
    rate = spectra.density(fine)[0] * fine
    expected = np.sum((rate[1:] + rate[:-1]) / 2) * np.log(ratio) / 20_000
    np.testing.assert_allclose(spectra.flux(emin, emin * ratio), expected, rtol=1e-3)


@settings(derandomize=True, deadline=None)
@given(any_spectrum(), st.floats(1e-13, 1e-7))
def test_scaled_spectra_have_the_flux_and_keep_their_shape(spectra, flux):
    scaled = spectra.scaled(np.array([flux]), 1.0, 100.0)
    np.testing.assert_allclose(scaled.flux(1.0, 100.0), flux)
    np.testing.assert_allclose(scaled.mean_index(1, 100), spectra.mean_index(1, 100))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(any_spectrum(), st.sampled_from([(0.3, 2000.0), (1.0, 100.0), (10.0, 2000.0)]))
def test_drawn_energies_follow_the_spectrum(spectra, band):
    rng, n = np.random.default_rng(0), 20_000
    energy = np.sort(spectra.draw_energy(np.zeros(n, int), rng, emin=band[0], emax=band[1]))
    assert energy[0] >= band[0]
    assert energy[-1] < band[1]
    at = energy[[n // 20, n // 4, n // 2, 3 * n // 4, 19 * n // 20]]
    total = spectra.flux(*band)[0]
    fraction = [spectra.flux(band[0], e)[0] / total for e in at]
    # 4.5 sigma of a binomial; the grid itself is good to 0.1 %
    np.testing.assert_allclose(fraction, [0.05, 0.25, 0.5, 0.75, 0.95], atol=0.017)


def test_each_photon_has_the_spectrum_of_its_own_source():
    spectra = power_laws(np.full(3, 1e-10), np.array([1.5, 2.5, 4.0]))
    which = np.random.default_rng(1).integers(0, 3, 300_000)
    energy = spectra.draw_energy(which, np.random.default_rng(2), emin=10.0, emax=2000.0)
    for source in range(3):
        fraction = spectra.flux(10, 20)[source] / 1e-10
        assert np.mean(energy[which == source] < 20) == pytest.approx(fraction, abs=0.006)


def test_sources_without_photons_do_not_matter():
    spectra = power_laws(np.full(5, 1e-10), np.linspace(1.5, 4, 5))
    rng = [np.random.default_rng(3) for _ in range(2)]
    which = np.array([4, 1, 1, 4, 4])
    some = spectra.draw_energy(which, rng[0], emin=10, emax=2000)
    alone = spectra.select([1, 4]).draw_energy(which // 4, rng[1], emin=10, emax=2000)
    np.testing.assert_array_equal(some, alone)


def test_no_photons_draw_no_energies():
    nothing, rng = power_laws(np.zeros(0), np.zeros(0)), np.random.default_rng(0)
    assert len(nothing) == 0
    assert nothing.draw_energy(np.zeros(0, int), rng, emin=1, emax=2).shape == (0,)
    assert nothing.flux(1, 10).shape == (0,)


def test_mean_index_of_a_power_law_is_its_index_and_of_a_parabola_that_of_its_photons():
    spectra = power_laws(np.full(2, 1e-10), np.array([1.7, 3.1]))
    np.testing.assert_allclose(spectra.mean_index(10, 2000), [1.7, 3.1])
    parabola = make_spectra("LogParabola", (2.0, 0.1, 0.0, 1.0), pivot=1.0)
    energy = parabola.draw_energy(
        np.zeros(200_000, int), np.random.default_rng(0), emin=10, emax=1e3
    )
    local = 2.0 + 0.2 * np.log(energy)
    np.testing.assert_allclose(parabola.mean_index(10, 1e3), local.mean(), rtol=2e-3)


def test_weighted_flux_is_that_of_the_photons_seen():
    spectra = power_laws(np.array([1e-10]), np.array([2.2]))
    np.testing.assert_allclose(spectra.flux(10, 2000, weight=lambda e: 0.5 + 0 * e), 5e-11)


def test_fitted_index_of_a_power_law_is_its_own():
    index = np.array([1.2, 2.3, 4.0, 6.0])
    spectra = power_laws(np.full(4, 1e-10), index)
    found = fitted_index(spectra, 10, 2000, weight=SurveyExposure().relative)
    np.testing.assert_allclose(found, index, atol=2e-3)


def test_concatenated_spectra_keep_their_order():
    first, second = power_laws([1e-10], [2.0]), power_laws([2e-10, 3e-10], [3.0, 4.0])
    both = Spectra.concatenate([first, second])
    np.testing.assert_allclose(both.flux(10, 2000), [1e-10, 2e-10, 3e-10])
    np.testing.assert_array_equal(both.select(both.index > 2.5).index, [3, 4])


def test_all_sources_of_a_sky_draw_their_photons_in_seconds():
    rng = np.random.default_rng(0)
    spectra = power_laws(np.full(20_000, 1e-10), rng.normal(2.5, 0.3, 20_000))
    which = rng.integers(0, 20_000, 500_000)
    start = time.perf_counter()
    spectra.draw_energy(which, rng, emin=0.3, emax=2000)
    assert time.perf_counter() - start < 10  # 1 s on an idle core


def test_weights_of_a_grid_keep_index_and_curvature():
    grid = spectral_grid(10.0)
    index, beta = np.array([2.3, 4.9, 0.5]), np.array([0.02, 1.2, 0.0])
    weights = grid.weights(index, beta)
    assert weights.sum(axis=1) == pytest.approx(1)
    for values, nodes in zip((index, beta), grid.nodes):
        assert weights @ nodes == pytest.approx(values)
    outside = grid.weights(np.array([9.0]), np.array([3.0]))
    assert [outside[0] @ nodes for nodes in grid.nodes] == pytest.approx([7.5, 1.5])


def test_fractions_of_a_grid_without_curvature_are_those_of_power_laws():
    grid, edges = spectral_grid(10.0), np.geomspace(10, 2000, 20)
    fractions = PowerLawFractions(edges, lambda energy: energy**0.3)
    index, beta = grid.nodes
    found = fractions.grid_fractions(grid)[0]
    assert found[beta == 0] == pytest.approx(fractions.fractions(index[beta == 0]))
    node = (index == 4) & (beta == 1.1)
    spectra = make_spectra("LogParabola", (4.0, 1.1, 0.0, 1.0), pivot=grid.pivot)
    ends = zip(edges, edges[1:])
    photons = [spectra.flux(*pair, weight=lambda energy: energy**0.3)[0] for pair in ends]
    assert found[node][0] == pytest.approx(photons / np.sum(photons), rel=1e-4)
