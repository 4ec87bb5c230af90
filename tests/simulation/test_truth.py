import astropy.units as u
import numpy as np
import pytest
from made_skies import make_sources

from astro_unetloc.catalog.columns import COLUMNS
from astro_unetloc.evaluation.metrics import evaluate
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.simulation.population import draw_sources
from astro_unetloc.simulation.sky import expected_photons, truth_table


@pytest.fixture(scope="module")
def sources():
    return draw_sources(np.random.default_rng(0), agn=0.05)


def test_columns_are_those_of_the_catalogue_where_it_has_them(sources):
    truth = truth_table(sources, SurveyExposure())
    units = {spec.name: spec.unit for spec in COLUMNS}
    shared = [name for name in truth.colnames if name in units]
    assert shared == [
        "Source_Name", "RAJ2000", "DEJ2000", "GLON", "GLAT", "Flux", "Spectral_Index", "Class",
        "Npred",
    ]  # fmt: skip
    for name in shared:
        assert str(truth[name].unit or "") == str(u.Unit(units[name]))


def test_every_source_has_its_row_with_a_name_of_its_own(sources):
    truth = truth_table(sources, SurveyExposure())
    assert len(truth) == len(sources)
    assert len(set(truth["Source_Name"])) == len(truth)
    assert truth["Source_Name"][0].startswith("UNL J")
    assert set(truth["Class"]) == {"AGN", "PSR", "GAL"}
    assert set(truth["Shape"]) == {"point", "disc", "gaussian"}
    np.testing.assert_array_equal(truth["Radius"].value == 0, truth["Shape"] == "point")


def test_photons_are_those_of_flux_and_exposure():
    sources = make_sources([0.0, 120.0], [0.0, 60.0], flux=[1e-10, 3e-10], index=2.0)
    exposure = SurveyExposure(7.0)
    found = expected_photons(sources, exposure, (10.0, 2000.0))
    energy = np.geomspace(10, 2000, 4001)
    seen = np.trapezoid(exposure.relative(energy) / energy, np.log(energy))
    seen /= np.trapezoid(1 / energy, np.log(energy))
    expected = np.array([1e-10, 3e-10]) * exposure.sky(sources.vectors) * seen
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_another_band_has_other_fluxes(sources):
    low, high = (truth_table(sources, SurveyExposure(), band=b) for b in ((10, 20), (20, 2000)))
    whole = truth_table(sources, SurveyExposure())
    np.testing.assert_allclose(low["Flux"] + high["Flux"], whole["Flux"], rtol=1e-4)
    assert low.meta == {"FLUXEMIN": 10.0, "FLUXEMAX": 20.0}


def test_truth_found_by_itself_is_complete_and_pure(sources):
    truth = truth_table(sources, SurveyExposure())
    point = truth[(truth["Shape"] == "point") & (truth["Npred"] >= 8)]
    point["Score"] = 1.0
    scores = evaluate(point, truth)
    assert scores.completeness == 1
    assert scores.purity == 1


def test_no_sources_make_an_empty_table():
    truth = truth_table(make_sources([], []), SurveyExposure())
    assert len(truth) == 0
    assert truth["Flux"].unit == u.Unit("ph cm-2 s-1")
