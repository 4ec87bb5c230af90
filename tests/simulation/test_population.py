"""Populations: their numbers and latitudes are those of 3FHL and 4FGL, and so are their spectra."""

from dataclasses import fields

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from scipy.spatial import KDTree
from scipy.stats import ks_2samp

from astro_unetloc.irf.spectra import KINDS
from astro_unetloc.simulation.population import (
    _NORMAL,
    CLASSES,
    Sources,
    draw_shapes,
    draw_sources,
)

NONE = dict.fromkeys(("agn", "pulsars", "galactic", "extended"), 0)


@pytest.fixture(scope="module")
def populations():
    return [draw_sources(np.random.default_rng(seed)) for seed in range(8)]


@pytest.fixture(scope="module")
def faint_populations():
    return [draw_sources(np.random.default_rng(seed), band=(1.0, 100.0)) for seed in range(4)]


@pytest.fixture(scope="module")
def catalog_3fhl(real_data):
    """Flux, index, class and latitude of the sources of 3FHL."""
    with fits.open(real_data / "catalogs/gll_psch_v13.fit.gz") as hdus:
        table = hdus[1].data
        classes = np.char.upper(np.char.strip(np.array(table["CLASS"], str)))
        return table["Flux"], table["PowerLaw_Index"], classes, np.abs(table["GLAT"])


@pytest.fixture(scope="module")
def catalog_4fgl(real_data):
    """Flux in 1-100 GeV and latitude of the sources of 4FGL-DR3."""
    with fits.open(real_data / "catalogs/4fgl_dr3_reduced.fits") as hdus:
        table = hdus[1].data
        where = SkyCoord(table["RA"], table["Dec"], unit="deg").galactic
        return table["Flux"], np.abs(where.b.deg)


def latitude(sources):
    return np.abs(np.degrees(np.arcsin(np.clip(sources.vectors[:, 2], -1, 1))))


def number(populations, flux, *, high=True, min_flux_of=lambda s: s.flux):
    """Sources above a flux on one side of |b| = 10 deg in each population."""
    return [np.sum(((latitude(s) > 10) == high) & (min_flux_of(s) > flux)) for s in populations]


# Numbers


@pytest.mark.parametrize(("flux", "expected"), [(4e-11, 682), (1e-10, 245)])
def test_number_of_bright_sources_off_the_plane_is_that_of_3fhl(
    populations, faint_populations, catalog_3fhl, flux, expected
):
    assert np.sum((catalog_3fhl[3] > 10) & (catalog_3fhl[0] > flux)) == expected
    found = np.array(number(populations, flux))
    assert np.all(np.abs(found - expected) < 3 * np.sqrt(expected) + 0.2 * expected)
    assert found.mean() == pytest.approx(expected, rel=0.1)
    # those that are counted in 1-100 GeV shine above 10 GeV as well
    assert np.mean(number(faint_populations, flux)) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(("flux", "expected"), [(4e-11, 272), (1e-10, 154), (3e-10, 66)])
def test_mean_numbers_near_the_plane_are_those_of_3fhl(populations, flux, expected):
    found = number(populations, flux, high=False)
    assert np.mean(found) == pytest.approx(expected, rel=0.12)
    pulsars = [s.select(s.source_class == CLASSES.index("PSR")) for s in populations]
    assert np.mean(number(pulsars, 1e-10, high=False)) == pytest.approx(29, rel=0.25)  # 3FHL: 29


@pytest.mark.parametrize("high", [True, False])
@pytest.mark.parametrize("flux", [5e-10, 1e-9, 2e-9, 5e-9])
def test_numbers_in_1_100_gev_are_those_of_4fgl(faint_populations, catalog_4fgl, flux, high):
    real = np.sum((catalog_4fgl[0] > flux) & ((catalog_4fgl[1] > 10) == high))
    found = number(faint_populations, flux, high=high, min_flux_of=lambda s: s.spectra.flux(1, 100))
    assert np.mean(found) == pytest.approx(real, rel=0.12, abs=2 * np.sqrt(real))


@pytest.mark.parametrize(("low", "high"), [(2, 5), (5, 10), (10, 20), (20, 45), (45, 90)])
def test_faint_sources_lie_at_the_latitudes_of_those_of_4fgl(
    faint_populations, catalog_4fgl, low, high
):
    """Where 4FGL is complete: not within 2 deg of the plane."""

    def count(flux, glat):
        return np.sum((glat >= low) & (glat < high) & (flux > 4.5e-10) & (flux < 2e-9))

    real = count(*catalog_4fgl)
    found = [count(s.spectra.flux(1, 100), latitude(s)) for s in faint_populations]
    assert np.mean(found) == pytest.approx(real, rel=0.2, abs=2 * np.sqrt(real))


def test_counts_of_bright_sources_follow_their_power_law():
    sources = draw_sources(np.random.default_rng(1), **NONE | {"agn": 6})
    n = [np.sum(sources.flux > flux) for flux in (3e-11, 3e-10)]
    assert np.log10(n[0] / n[1]) == pytest.approx(1.15, abs=0.08)
    n = [np.sum(sources.flux > flux) for flux in (2.0001e-12, 2e-11)]
    assert np.log10(n[0] / n[1]) == pytest.approx(0.85, abs=0.02)


def test_numbers_are_poisson_around_their_mean():
    only = NONE | {"extended": 1}
    drawn = [len(draw_sources(np.random.default_rng(seed), **only)) for seed in range(300)]
    assert np.mean(drawn) == pytest.approx(40, abs=1.5)
    assert np.var(drawn) == pytest.approx(40, rel=0.35)


# Values and positions


def test_values_stay_in_their_ranges(populations):
    for sources in populations:
        np.testing.assert_allclose(np.linalg.norm(sources.vectors, axis=1), 1)
        assert sources.flux.min() >= 2e-12 * (1 - 1e-9)
        assert sources.flux.max() <= 2e-8 * (1 + 1e-9)
        assert 1.39 <= sources.index.min() <= sources.index.max() <= 50
        size = sources.radius_deg[sources.shape > 0]
        assert 0.149 <= size.min() <= size.max() <= 3.001
        assert not sources.radius_deg[sources.shape == 0].any()
        lengths = {len(getattr(sources, field.name)) for field in fields(sources)}
        assert lengths == {len(sources)}
        assert repr(sources).startswith(f"<{len(sources)} sources, ")


def test_agn_are_isotropic_and_others_lie_along_the_plane_millisecond_pulsars_beyond():
    rng = np.random.default_rng(2)
    agn = draw_sources(rng, **NONE | {"agn": 3})
    assert np.all(np.abs(agn.vectors.mean(axis=0)) < 4 * np.sqrt(1 / 3 / len(agn)))
    galactic = draw_sources(rng, **NONE | {"galactic": 20, "extended": 1})
    assert np.mean(latitude(galactic) < 10) > 0.9
    pulsars = draw_sources(rng, **NONE | {"pulsars": 20})
    assert 0.15 < np.mean(latitude(pulsars) > 10) < 0.4


def test_galactic_sources_gather_in_clumps():
    """Pairs closer than half a degree, against sources of 40 other skies."""

    def pairs(sources):
        return len(KDTree(sources.vectors).query_pairs(np.radians(0.5)))

    sky = [draw_sources(np.random.default_rng(s), **NONE | {"galactic": 1}) for s in range(40)]
    mixed = Sources.concatenate(sky)
    shuffled = np.random.default_rng(0).permutation(len(mixed))
    alone = [pairs(mixed.select(rows)) for rows in np.array_split(shuffled, 40)]
    assert np.mean([pairs(s) for s in sky]) > 1.5 * np.mean(alone)


@pytest.mark.parametrize(
    ("factor", "name"),
    [("agn", "AGN"), ("pulsars", "PSR"), ("galactic", "OTHER"), ("extended", "OTHER")],
)
def test_every_class_has_its_factor(factor, name):
    sources = draw_sources(np.random.default_rng(3), **NONE | {factor: 1})
    assert {CLASSES[i] for i in sources.source_class} == {name}
    assert (sources.shape > 0).all() == (factor == "extended")


def test_the_same_seed_draws_the_same_sources(populations):
    again = draw_sources(np.random.default_rng(3))
    np.testing.assert_array_equal(again.vectors, populations[3].vectors)
    np.testing.assert_array_equal(again.flux, populations[3].flux)


def test_no_sources_make_an_empty_population_and_an_unknown_band_is_refused():
    none = draw_sources(np.random.default_rng(0), **NONE)
    assert none.vectors.shape == (0, 3)
    assert none.flux.shape == none.radius_deg.shape == (len(none),) == (0,)
    with pytest.raises(ValueError, match="band must be 10-2000 or 1-100 GeV; got"):
        draw_sources(np.random.default_rng(0), band=(3.0, 300.0))


# Spectra


@pytest.fixture(scope="module")
def agn(real_data):
    """Spectral parameters of the AGN of 4FGL (MeV)."""
    return Table.read(real_data / "population/AGN_LP_FS.csv")


@pytest.fixture(scope="module")
def parameters(agn, real_data):
    """(index, ln beta or ln a, ln pivot) of the real sources of each population.

    AGN are those that are bright enough to have a curvature, pulsars those with a cut-off on their
    side of |b| = 10 deg.
    """
    rows = (agn["Flux1000"] > 1.2e-9) & (agn["LP_beta"] > 0.01)
    values = [agn["LP_Index"], agn["LP_beta"], agn["Pivot_Energy"] / 1e3]
    index, beta, pivot = np.array(values)[:, rows]
    found = {"AGN": np.array([index, np.log(beta), np.log(pivot)])}
    table = Table.read(real_data / "population/PSR_PLEC_FS.csv")
    cut = np.char.strip(np.array(table["SpectrumType"])) == "PLSuperExpCutoff"
    table = table[cut & (table["PLEC_Expfactor"] > 0.001)]
    factor = table["PLEC_Expfactor"] * 1e3 ** table["PLEC_Exp_Index"]
    values = np.array([table["PLEC_Index"], np.log(factor), np.log(table["Pivot_Energy"] / 1e3)])
    near = np.abs(table["GLAT"]) < 10
    return found | {"PSR": values[:, near], "MSP": values[:, ~near]}


def distance(first, second):
    """Kolmogorov-Smirnov distance of two samples."""
    return ks_2samp(first, second).statistic


def drawn_shapes(population, n=20_000, **options):
    return draw_shapes(population, n, np.random.default_rng(0), **options)


@pytest.mark.parametrize("population", ["AGN", "PSR", "MSP"])
def test_spectra_follow_the_distribution_fitted_to_4fgl(parameters, population):
    sample = parameters[population]
    np.testing.assert_allclose(sample.mean(axis=1), _NORMAL[population][0], atol=6e-4)
    np.testing.assert_allclose(np.cov(sample), _NORMAL[population][1], atol=6e-5)


def test_indices_and_curvatures_of_agn_are_those_of_4fgl(agn):
    """0.066 is what 1 in 20 samples of 422 sources of one distribution would exceed."""
    drawn, bright = drawn_shapes("AGN"), agn["Flux1000"] > 1.2e-9
    assert distance(drawn.index, agn["LP_Index"][bright]) < 0.07
    curved = bright & (agn["LP_beta"] > 0.03)
    assert distance(drawn.beta[drawn.beta > 0], agn["LP_beta"][curved]) < 0.1
    # a power law fitted to all of them, faint ones included
    assert distance(drawn.mean_index(1, 100), agn["PL_Index"]) < 0.12


@pytest.mark.parametrize("population", ["PSR", "MSP"])
def test_indices_and_cut_offs_of_pulsars_are_those_of_4fgl(parameters, population):
    """0.13 is what 1 in 20 samples of 100 sources of one distribution would exceed."""
    drawn = drawn_shapes(population)
    values = drawn.index, np.log(drawn.expfactor), np.log(drawn.pivot)
    for found, real in zip(values, parameters[population]):
        assert distance(found, real) < 0.13


@pytest.mark.parametrize(
    ("population", "of_3fhl", "tolerance"),
    [
        ("AGN", lambda classes, lat: lat > 10, 0.3),
        ("PSR", lambda classes, lat: (classes == "PSR") & (lat < 10), 0.3),
        ("MSP", lambda classes, lat: (classes == "PSR") & (lat > 10), 0.5),  # 12 of them
        ("GAL", lambda classes, lat: (classes != "PSR") & (lat < 2), 0.3),
    ],
)
def test_indices_above_10_gev_are_those_of_3fhl(catalog_3fhl, population, of_3fhl, tolerance):
    flux, index, classes, lat = catalog_3fhl
    real = np.median(index[(flux > 4e-11) & of_3fhl(classes, lat)])
    drawn = drawn_shapes(population, 4000, band=(10.0, 2000.0))
    assert np.median(drawn.mean_index(10, 2000)) == pytest.approx(real, abs=tolerance)


def test_selection_in_another_band_is_that_of_a_flux_limited_sample():
    """Sources drawn in 1-100 GeV with N(>S) ~ 1/S, and cut by their flux above 10 GeV."""
    rng = np.random.default_rng(1)
    n = 200_000
    sky = draw_shapes("AGN", n, rng).scaled(1e-11 / (1 - rng.random(n)), 1.0, 100.0)
    hard = sky.select(sky.flux(10.0, 2000.0) > 1e-11)
    drawn = draw_shapes("AGN", 20_000, rng, band=(10.0, 2000.0))
    assert distance(hard.index, drawn.index) < 0.03


@pytest.mark.parametrize("name", ["AGN", "GAL", "PSR", "MSP"])
def test_kinds_are_those_of_their_class_and_any_number_can_be_drawn(name):
    cut_off = name in ("PSR", "MSP")
    expected = {"PLSuperExpCutoff2"} if cut_off else {"PowerLaw", "LogParabola"}
    assert {KINDS[k] for k in drawn_shapes(name, 500).kind} == expected
    for band in [(1.0, 100.0), (10.0, 2000.0)]:
        assert [len(drawn_shapes(name, n, band=band)) for n in (0, 1, 7)] == [0, 1, 7]
