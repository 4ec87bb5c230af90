import numpy as np
import pytest
from made_sources import as_events, background_around, regions_of

from astro_unetloc.irf.exposure import SurveyExposure, square_degree_density
from astro_unetloc.irf.spectra import PowerLawFractions
from astro_unetloc.measurement.background import LocalBackground, model_background
from astro_unetloc.sphere import vectors_from_lonlat

CENTERS = vectors_from_lonlat(np.arange(0.0, 360.0, 10.0), 20.0)


def background_of(regions, model=None):
    spectrum = PowerLawFractions(regions.counts.energy_edges, SurveyExposure().relative)
    return LocalBackground(regions, spectrum, model)


def fitted(photons, *, fraction=1.0):
    """The background of photons around the centres."""
    background = background_of(regions_of(as_events(photons), CENTERS))
    for _ in range(8):
        background = background.step(np.full(len(background.pairs), fraction))
    return background


def test_a_flat_background_is_found_and_explains_its_counts(rng):
    background = fitted(background_around(CENTERS, 30.0, rng))
    assert background.level.sum(axis=1).mean() == pytest.approx(30.0, rel=0.03)
    # the level at the centre is known to 9 % from 380 photons if the curvature is free
    assert background.level.sum(axis=1).std() < 6.0
    assert np.all(np.abs(background.surface.mean(axis=0)) < 0.15)
    assert background.index.mean() == pytest.approx(2.45, abs=0.05)
    found = background.pairs.sum(background.pairs.number, 36)
    np.testing.assert_allclose(background.in_regions.sum(axis=1), found, rtol=1e-3)


def test_counts_that_are_half_explained_count_half(rng):
    photons = background_around(CENTERS, 30.0, rng)
    whole, half = (fitted(photons, fraction=f).level.sum(axis=1).mean() for f in (1.0, 0.5))
    np.testing.assert_allclose(half / whole, 0.5, rtol=0.02)


def test_a_gradient_does_not_bias_the_level(rng):
    """Density falls by e in 1 deg of latitude: at the centre it is that at the centre."""
    uniform = background_around(CENTERS, 60.0, rng)
    latitude = np.degrees(np.arcsin(uniform.vectors[:, 2])) - 20.0
    kept = rng.random(len(latitude)) < np.exp(-(latitude + 3.0))
    background = fitted(uniform.select(kept))
    assert background.level.sum(axis=1).mean() == pytest.approx(60.0 * np.exp(-3.0), rel=0.15)
    gradient = np.hypot(background.surface[:, 0], background.surface[:, 1])
    assert gradient.mean() == pytest.approx(2.0, rel=0.2)  # per radius of the region, 2 deg


def test_empty_bins_keep_a_background(rng):
    photons = background_around(CENTERS, 10.0, rng)
    background = fitted(photons.select(photons.energy < 200))
    assert np.all(background.level > 0)
    assert background.level[:, -1].max() < 0.05


def test_a_model_is_scaled_to_the_counts(rng):
    from gammapy.maps import MapAxis, WcsGeom, WcsNDMap

    center, edges = vectors_from_lonlat([0.0], 0.0), np.array([5.0, 20.0, 100.0, 3000.0])
    axis = MapAxis.from_edges(edges, unit="GeV", name="energy", interp="log")
    geom = WcsGeom.create(skydir=(0, 0), binsz=0.1, width=8, frame="galactic", axes=[axis])
    # 20 per square degree above 10 GeV with the spectrum of a power law of index 2.4
    power = -np.diff(edges**-1.4) / (10**-1.4 - 2000**-1.4)
    model = WcsNDMap(geom, (20.0 * power[:, None, None]) * geom.solid_angle().to_value("deg2"))
    beyond = vectors_from_lonlat([3.5], 0.0)  # half of this region is outside of the model
    vectors = np.concatenate([center, beyond])
    regions = regions_of(as_events(background_around(center, 40.0, rng, 6.0)), vectors)
    model = model_background(square_degree_density(model), regions)
    np.testing.assert_array_equal(model.known, [True, False])
    assert model.in_regions[0].sum() == pytest.approx(20 * 4 * np.pi, rel=0.02)
    background = background_of(regions, model)
    for _ in range(8):
        background = background.step(np.ones(len(regions.pairs)))
    number = regions.pairs.sum(regions.pairs.number, 2)
    np.testing.assert_allclose(background.in_regions.sum(axis=1), number, rtol=0.01)
    np.testing.assert_allclose(
        background.level[0], number[0] / model.in_regions[0].sum(), rtol=0.01
    )
    np.testing.assert_allclose(background.at_sources.sum(axis=1), 40.0, rtol=0.15)
    loss = background.information_loss(
        np.ones(len(regions.pairs)), np.full((1, len(regions.core)), 1e-2)
    )
    assert np.all(loss > 0)
    assert loss[0] < loss[1], "a factor costs less than a free surface"


def test_an_unknown_background_costs_information_on_a_source(rng):
    """A source as wide as the region is hardly separable from its background, a narrow one is."""
    background = fitted(background_around(CENTERS, 30.0, rng))
    pairs, n = background.pairs, len(background.core)
    away, lost = np.hypot(pairs.x, pairs.y)[:n], []
    for derivative in (np.full(n, 1e-2), 1e-2 * (away < 0.1)):
        information = np.bincount(pairs.source[:n], derivative**2, minlength=36)
        loss = background.information_loss(np.ones(len(pairs)), derivative[None])[:, 0, 0]
        assert np.all((loss >= 0) & (loss <= information * (1 + 1e-6)))
        lost.append(loss.sum() / information.sum())
    assert lost[0] > 0.2
    assert lost[1] < 0.1
