import csv

import numpy as np
import pytest

from astro_unetloc.irf.spectra import KINDS
from astro_unetloc.simulation.population import _NORMAL, draw_shapes


def read_4fgl(path):
    """Columns of a table of spectral parameters of 4FGL sources (MeV)."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    numbers = ("Flux1000", "GLAT", "Pivot_Energy", "LP_Index", "LP_beta", "PL_Index")
    numbers += ("PLEC_Index", "PLEC_Expfactor", "PLEC_Exp_Index")
    table = {name: np.array([float(row[name]) for row in rows]) for name in numbers}
    table["SpectrumType"] = np.array([row["SpectrumType"].strip() for row in rows])
    return table


@pytest.fixture(scope="module")
def agn(real_data):
    return read_4fgl(real_data / "population/AGN_LP_FS.csv")


@pytest.fixture(scope="module")
def pulsars(real_data):
    return read_4fgl(real_data / "population/PSR_PLEC_FS.csv")


def agn_parameters(table):
    """(index, ln beta, ln pivot) of the AGN that are bright enough to have a curvature."""
    rows = (table["Flux1000"] > 1.2e-9) & (table["LP_beta"] > 0.01)
    pivot = table["Pivot_Energy"][rows] / 1e3
    return np.array([table["LP_Index"][rows], np.log(table["LP_beta"][rows]), np.log(pivot)])


def pulsar_parameters(table, population):
    """(index, ln a, ln pivot) of the pulsars with a cut-off on their side of |b| = 10 deg."""
    rows = (np.abs(table["GLAT"]) < 10) == (population == "PSR")
    rows &= (table["SpectrumType"] == "PLSuperExpCutoff") & (table["PLEC_Expfactor"] > 0.001)
    table = {name: values[rows] for name, values in table.items()}
    factor = table["PLEC_Expfactor"] * 1e3 ** table["PLEC_Exp_Index"]
    return np.array([table["PLEC_Index"], np.log(factor), np.log(table["Pivot_Energy"] / 1e3)])


def distance(first, second):
    """Kolmogorov-Smirnov distance of two samples."""
    from scipy.stats import ks_2samp

    return ks_2samp(first, second).statistic


def test_agn_follow_the_distribution_fitted_to_4fgl(agn):
    sample = agn_parameters(agn)
    np.testing.assert_allclose(sample.mean(axis=1), _NORMAL["AGN"][0], atol=6e-4)
    np.testing.assert_allclose(np.cov(sample), _NORMAL["AGN"][1], atol=6e-5)


@pytest.mark.parametrize("population", ["PSR", "MSP"])
def test_pulsars_follow_the_distribution_fitted_to_4fgl(pulsars, population):
    sample = pulsar_parameters(pulsars, population)
    np.testing.assert_allclose(sample.mean(axis=1), _NORMAL[population][0], atol=6e-4)
    np.testing.assert_allclose(np.cov(sample), _NORMAL[population][1], atol=6e-5)


def test_indices_and_curvatures_of_agn_are_those_of_4fgl(agn):
    """0.066 is what 1 in 20 samples of 422 sources of one distribution would exceed."""
    drawn = draw_shapes("AGN", 20_000, np.random.default_rng(0))
    bright = agn["Flux1000"] > 1.2e-9
    assert distance(drawn.index, agn["LP_Index"][bright]) < 0.07
    curved = bright & (agn["LP_beta"] > 0.03)
    assert distance(drawn.beta[drawn.beta > 0], agn["LP_beta"][curved]) < 0.1
    # a power law fitted to all of them, faint ones included
    assert distance(drawn.mean_index(1, 100), agn["PL_Index"]) < 0.12


@pytest.mark.parametrize("population", ["PSR", "MSP"])
def test_indices_and_cut_offs_of_pulsars_are_those_of_4fgl(pulsars, population):
    """0.13 is what 1 in 20 samples of 100 sources of one distribution would exceed."""
    drawn = draw_shapes(population, 20_000, np.random.default_rng(0))
    index, log_factor, log_pivot = pulsar_parameters(pulsars, population)
    assert distance(drawn.index, index) < 0.13
    assert distance(np.log(drawn.expfactor), log_factor) < 0.13
    assert distance(np.log(drawn.pivot), log_pivot) < 0.13


def test_correlations_are_those_of_4fgl(agn, pulsars):
    drawn = draw_shapes("AGN", 20_000, np.random.default_rng(0))
    found = np.corrcoef(drawn.index, np.log(drawn.pivot))[0, 1]
    assert found == pytest.approx(np.corrcoef(agn_parameters(agn))[0, 2], abs=0.03)
    drawn = draw_shapes("PSR", 20_000, np.random.default_rng(0))
    found = np.corrcoef(drawn.index, np.log(drawn.expfactor))[0, 1]
    assert found == pytest.approx(np.corrcoef(pulsar_parameters(pulsars, "PSR"))[0, 1], abs=0.03)


@pytest.fixture(scope="module")
def hard_catalog(real_data):
    """3FHL: indices above 10 GeV, classes and latitudes of sources above 4e-11 ph cm-2 s-1."""
    from astropy.io import fits

    with fits.open(real_data / "catalogs/gll_psch_v13.fit.gz") as hdus:
        table = hdus[1].data
        table = table[table["Flux"] > 4e-11]
        classes = np.char.upper(np.char.strip(np.array(table["CLASS"], str)))
        return table["PowerLaw_Index"], classes, np.abs(table["GLAT"])


@pytest.mark.parametrize(
    ("population", "of_3fhl", "tolerance"),
    [
        ("AGN", lambda classes, lat: lat > 10, 0.3),
        ("PSR", lambda classes, lat: (classes == "PSR") & (lat < 10), 0.3),
        ("MSP", lambda classes, lat: (classes == "PSR") & (lat > 10), 0.5),  # 12 of them
        ("GAL", lambda classes, lat: (classes != "PSR") & (lat < 2), 0.3),
    ],
)
def test_indices_above_10_gev_are_those_of_3fhl(hard_catalog, population, of_3fhl, tolerance):
    index, classes, latitude = hard_catalog
    real = np.median(index[of_3fhl(classes, latitude)])
    drawn = draw_shapes(population, 4000, np.random.default_rng(0), band=(10.0, 2000.0))
    assert np.median(drawn.mean_index(10, 2000)) == pytest.approx(real, abs=tolerance)


def test_sources_selected_above_10_gev_are_harder():
    for population in ("AGN", "PSR", "MSP", "GAL"):
        medians = [
            np.median(
                draw_shapes(population, 2000, np.random.default_rng(0), band=band).mean_index(
                    1, 100
                )
            )
            for band in ((1.0, 100.0), (10.0, 2000.0))
        ]
        assert medians[1] < medians[0] - 0.1


def test_selection_in_another_band_is_that_of_a_flux_limited_sample():
    """Sources drawn in 1-100 GeV with N(>S) ~ 1/S, and cut by their flux above 10 GeV."""
    rng = np.random.default_rng(1)
    n = 200_000
    sky = draw_shapes("AGN", n, rng).scaled(1e-11 / (1 - rng.random(n)), 1.0, 100.0)
    hard = sky.select(sky.flux(10.0, 2000.0) > 1e-11)
    drawn = draw_shapes("AGN", 20_000, rng, band=(10.0, 2000.0))
    assert distance(hard.index, drawn.index) < 0.03


def test_kinds_are_those_of_their_class():
    kinds = {
        name: {KINDS[k] for k in draw_shapes(name, 500, np.random.default_rng(0)).kind}
        for name in ("AGN", "PSR", "MSP", "GAL")
    }
    assert kinds["AGN"] == kinds["GAL"] == {"PowerLaw", "LogParabola"}
    assert kinds["PSR"] == kinds["MSP"] == {"PLSuperExpCutoff2"}


@pytest.mark.parametrize("band", [(1.0, 100.0), (10.0, 2000.0)])
def test_any_number_of_shapes_can_be_drawn(band):
    for n in (0, 1, 7):
        assert len(draw_shapes("PSR", n, np.random.default_rng(0), band=band)) == n
