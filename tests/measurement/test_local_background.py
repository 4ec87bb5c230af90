import numpy as np
import pytest
from made_sources import RANGE, as_events, background_around

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.spectra import PowerLawFractions
from astro_unetloc.measurement.background import BackgroundFit, model_background, surface_terms
from astro_unetloc.measurement.data import gather_counts, make_neighborhoods
from astro_unetloc.sphere import vectors_from_lonlat

CENTERS = vectors_from_lonlat(np.arange(0.0, 360.0, 10.0), np.full(36, 20.0))


def fitted(photons, *, n_steps=8, share=1.0, vectors=CENTERS):
    """The background of photons, and what fitted it."""
    counts = gather_counts(as_events(photons), *RANGE)
    n_energy = len(counts.energy_edges) - 1
    hood = make_neighborhoods(
        counts, vectors, 2.0, np.full(n_energy, 0.5), np.full(len(vectors), 2.0)
    )
    spectrum = PowerLawFractions(counts.energy_edges, SurveyExposure().relative)
    fit = BackgroundFit(hood, spectrum)
    background = fit.start()
    for _ in range(n_steps):
        background = fit.step(background, np.full(len(fit.number), share))
    return fit, background


def test_a_flat_background_is_found(rng):
    fit, background = fitted(background_around(CENTERS, 30.0, rng))
    assert background.level.sum(axis=1).mean() == pytest.approx(30.0, rel=0.03)
    # the level at the centre is known to 9 % from 380 photons if the curvature is free
    assert background.level.sum(axis=1).std() < 6.0
    assert np.all(np.abs(background.surface.mean(axis=0)) < 0.15)
    assert background.index.mean() == pytest.approx(2.45, abs=0.05)


def test_expected_counts_are_those_that_are_there(rng):
    fit, background = fitted(background_around(CENTERS, 30.0, rng))
    found = np.bincount(fit.source, fit.number, minlength=36)
    np.testing.assert_allclose(fit.total(background).sum(axis=1), found, rtol=1e-3)


def test_half_explained_photons_count_half(rng):
    photons = background_around(CENTERS, 30.0, rng)
    _, whole = fitted(photons)
    _, half = fitted(photons, share=0.5)
    np.testing.assert_allclose(
        half.level.sum(axis=1).mean() / whole.level.sum(axis=1).mean(), 0.5, rtol=0.02
    )


def test_a_plane_of_the_galaxy_does_not_bias_the_level(rng):
    """Density falls by e in 1 deg of latitude: at the centre it is that at the centre."""
    uniform = background_around(CENTERS, 60.0, rng)
    latitude = np.degrees(np.arcsin(uniform.vectors[:, 2])) - 20.0
    kept = rng.random(len(latitude)) < np.exp(-(latitude + 3.0))
    _, background = fitted(uniform.select(kept))
    expected = 60.0 * np.exp(-3.0)
    assert background.level.sum(axis=1).mean() == pytest.approx(expected, rel=0.15)
    slope = np.hypot(background.surface[:, 0], background.surface[:, 1])
    assert slope.mean() == pytest.approx(2.0, rel=0.2)  # per radius of the region, 2 deg


def test_empty_bins_keep_a_background(rng):
    photons = background_around(CENTERS, 10.0, rng)
    _, background = fitted(photons.select(photons.energy < 200))
    assert np.all(background.level > 0)
    assert background.level[:, -1].max() < 0.05


def test_terms_are_a_parabola():
    x, y = np.array([1.0, 2.0]), np.array([0.0, -1.0])
    np.testing.assert_allclose(
        surface_terms(x, y, 2.0), [[0.5, 0, 0.25, 0, 0], [1, -0.5, 1, -0.5, 0.25]]
    )


def test_a_model_is_scaled_to_the_counts(rng):
    from gammapy.maps import MapAxis, WcsGeom, WcsNDMap

    center = vectors_from_lonlat(np.array([0.0]), np.array([0.0]))
    edges = np.array([5.0, 20.0, 100.0, 3000.0])
    axis = MapAxis.from_edges(edges, unit="GeV", name="energy", interp="log")
    geom = WcsGeom.create(skydir=(0, 0), binsz=0.1, width=8, frame="galactic", axes=[axis])
    # so many per square degree as a power law of index 2.4 has in each bin
    power = -np.diff(edges**-1.4) / (10**-1.4 - 2000**-1.4)
    model = WcsNDMap(geom, (20.0 * power[:, None, None]) * geom.solid_angle().to_value("deg2"))
    photons = background_around(center, 40.0, rng)
    counts = gather_counts(as_events(photons), *RANGE)
    n_energy = len(counts.energy_edges) - 1
    hood = make_neighborhoods(counts, center, 2.0, np.full(n_energy, 0.5), np.array([2.0]))
    at_pairs, in_regions = model_background(model, hood, counts)
    assert in_regions.sum() == pytest.approx(20 * 4 * np.pi, rel=0.02)
    assert len(at_pairs) == len(hood.core.source) + hood.in_region.sum()
    spectrum = PowerLawFractions(counts.energy_edges, SurveyExposure().relative)
    fit = BackgroundFit(hood, spectrum, (at_pairs, in_regions))
    background = fit.step(fit.start(), np.ones(len(fit.number)))
    expected = fit.number.sum() / in_regions.sum()
    np.testing.assert_allclose(background.level, expected, rtol=0.01)
    assert fit.total(background)[0].sum() == pytest.approx(fit.number.sum(), rel=0.01)


def test_an_unknown_background_costs_the_counts_of_a_source(rng):
    """A source as wide as the region is hardly told from its background, a narrow one is."""
    fit, background = fitted(background_around(CENTERS, 30.0, rng))
    number = np.ones((fit.n_core, 1))
    away = np.hypot(*fit.terms[:2, : fit.n_core]) * 2.0
    share = np.ones(len(fit.number))
    cost = {}
    for name, slope in (("wide", 1e-2 * number), ("narrow", 1e-2 * (away < 0.1)[:, None])):
        information = np.bincount(fit.source[: fit.n_core], slope[:, 0] ** 2, minlength=fit.n)
        taken = fit.cost(share, slope)[:, 0, 0]
        assert np.all(taken >= 0)
        assert np.all(taken <= information * (1 + 1e-6))
        cost[name] = taken.sum() / information.sum()
    assert cost["narrow"] < 0.1
    assert cost["wide"] > 0.2
