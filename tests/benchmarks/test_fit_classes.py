"""The benchmark that fits families and prior of the classes, on made-up sources."""

from types import SimpleNamespace

import numpy as np
import pytest

from astro_unetloc.evaluation.metrics import CompletenessCurve
from astro_unetloc.irf.spectra import spectral_grid


@pytest.fixture(scope="module")
def benchmark(import_benchmark):
    return import_benchmark("fit_classes")


@pytest.fixture(scope="module")
def observation(benchmark):
    return benchmark.Observation((10.0, 2000.0), (10.0, 1000.0), 7.0, None)


def test_prior_gives_back_the_number_of_each_class_at_each_place_and_brightness(benchmark):
    rng, n = np.random.default_rng(0), 40_000
    counts, lat = 5 * (1 + rng.pareto(1.0, n)), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    lon = rng.uniform(0, 360, n)
    odds = np.stack([np.ones(n), 0.1 * counts**0.4, 5 * np.exp(-np.abs(lat) / 3)])
    true = (rng.random(n) > (odds / odds.sum(axis=0)).cumsum(axis=0)).sum(axis=0)
    weight = rng.uniform(0.5, 1, n)
    tables = benchmark.prior(true, lon, lat, 1e-11 * counts, counts, weight)
    assert tables["flux_per_count"] == pytest.approx(1e-11)
    latitude, longitude, bright = (
        tables[name] for name in ("latitude_deg", "longitude_deg", "flux")
    )
    assert tables["fractions"].shape == (3, len(latitude), len(longitude))
    np.testing.assert_allclose(tables["fractions"].sum(axis=0), 1)
    ratios = np.log(tables["flux_factors"][1:] / tables["flux_factors"][0])
    power, _ = np.polyfit(np.log(bright), ratios.T, 1)
    np.testing.assert_allclose(power, [0.4, 0.0], atol=0.1)
    other = tables["fractions"][2].mean(axis=1)
    assert other[0] > 0.5
    assert other[-1] < 0.01


def test_families_are_distributions_without_a_gap(benchmark):
    grid = spectral_grid(10.0)
    family = benchmark.families(np.array([0, 1, 1, 2]), np.array([50, 100, 101, 60]),
                                np.array([1.0, 1.0, 3.0, 1.0]), grid, 0.7)  # fmt: skip
    np.testing.assert_allclose(family.sum(axis=1), 1)
    assert family.min() > 0
    assert family.argmax(axis=1).tolist() == [50, 101, 60]


def test_curves_of_detection_are_those_of_the_searched_skies(benchmark, observation, monkeypatch):
    """Half of the sources with a sqrt(TS) of 6 are found, in a search that is made up."""

    def search_sky(model, seed, *, years):
        assert years == 7.0
        rng = np.random.default_rng(seed)
        benchmark.perturb(benchmark.interstellar(), rng)
        rows, *_, sqrt_ts = observation.draw(rng)
        found = np.random.default_rng(0).random(len(rows)) < 1 / (1 + (6.0 / sqrt_ts) ** 8)
        listed = SimpleNamespace(catalog={"Real_Row": np.append(rows[found], -1)})
        return None, SimpleNamespace(select=lambda threshold: listed)

    monkeypatch.setattr(benchmark, "search_sky", search_sky)
    curves = benchmark.detection_curves(SimpleNamespace(threshold=0.8), observation, [1, 2])
    halves = [curve.flux_at(0.5) for curve in curves]
    assert len(halves) == len(benchmark.RANGES_DEG) - 1
    np.testing.assert_allclose(halves, 6.0, rtol=0.15)


def test_population_is_detected_where_it_can_be(benchmark, observation, capsys):
    curve = CompletenessCurve(1.0, 4.5, 8.0)
    source_class, node, *_, counts, weight = benchmark.draw_population(observation, 1, [curve] * 5)
    detected = np.bincount(source_class, weight)
    assert "AGN " in capsys.readouterr().out
    assert 1200 < detected[0] < 2400  # 3FHL has 1556 sources
    assert 20 < detected[1] < 150
    bright = counts > 40
    assert weight[bright].min() > 0.5
    assert weight[counts < 4].max() < 0.5
    index = observation.grid.nodes[0][node]
    assert np.mean(index[source_class == 1]) > np.mean(index[source_class == 0]) + 1.5
