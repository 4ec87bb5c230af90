"""Light curves: counts by slice of time, and whether a constant or a flaring source varies."""

from dataclasses import replace

import healpy
import numpy as np
import pytest
from made_sources import (
    as_events,
    background_around,
    join,
    photons_of,
    sources_at,
    with_background,
)
from scipy.stats import chi2, kstest

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.measurement.variability import chance_probability, light_curves
from astro_unetloc.sphere import vectors_from_lonlat

ALL_SKY = np.stack(healpy.pix2vec(4, np.arange(192)), axis=-1)
BANDS = np.array([10, 20, 50, 150, 500, 2000.0])


def equal_slices(n):
    """Slices of the times from 0 to 1, and their live times."""
    edges = np.linspace(0, 1, n + 1)
    return {"slices": np.column_stack([edges[:-1], edges[1:]]), "live": np.full(n, 1 / n)}


def at_times(photons, time):
    """Photons, with a time of each."""
    return replace(photons, time=np.asarray(time, dtype=float))


def curves_of(photons, vectors, *, exposure=None, **options):
    """Light curves of sources at vectors in all the photons of a sky."""
    sky_map = as_events(photons, exposure=exposure)
    options = {"band_edges": BANDS, "flux_range": (10.0, 1000.0)} | options
    return light_curves(sources_at(vectors), sky_map, **options)


def test_constant_sources_vary_by_chance_alone():
    rng = np.random.default_rng(1)
    photons = with_background(ALL_SKY, 20, rng)
    photons = at_times(photons, rng.random(len(photons)))
    found = curves_of(photons, ALL_SKY, **equal_slices(12))
    assert kstest(found["probability"], "uniform").pvalue > 0.01
    # chi2 would be wrong
    assert kstest(chi2.sf(found["variability"] ** 2, 11), "uniform").pvalue < 1e-3


def test_counts_of_the_slices_are_those_of_the_photons():
    rng = np.random.default_rng(2)
    parts = [photons_of(ALL_SKY, n, rng) for n in (60, 10, 0)]
    parts.append(background_around(ALL_SKY, 5.0, rng))
    slices = equal_slices(3)
    time = [np.full(len(part), number / 3 + 0.1) for number, part in enumerate(parts[:3])]
    time.append(rng.random(len(parts[3])))
    photons = at_times(join(*parts), np.concatenate(time))
    found = curves_of(photons, ALL_SKY, exposure=SurveyExposure(), **slices)
    mean, n = found["counts"].mean(axis=0), len(ALL_SKY)
    assert np.all(np.abs(mean - [60, 10, 0]) < 4 * np.sqrt([60, 12, 3]) / np.sqrt(n) + 0.5)
    pull = (found["counts"] - [60, 10, 0])[:, :2] / found["counts_err"][:, :2]
    assert np.all(np.abs(pull.std(axis=0) - 1) < 0.2)
    assert np.array_equal(np.isfinite(found["counts_ul"]), found["sqrt_ts"] ** 2 < 4)
    assert np.nanmedian(found["counts_ul"][:, 2]) == pytest.approx(3.2, abs=0.5)
    assert np.all(found["probability"] < 1e-5)
    # the exposure of a slice is a third
    assert found["exposure"] == pytest.approx(1 / 3, rel=0.2)
    flux = found["flux_per_count"] * found["exposure"]
    assert np.allclose(flux, flux[:, :1])


def test_flare_of_a_neighbor_does_not_make_a_source_vary():
    rng = np.random.default_rng(3)
    lon = np.arange(0, 360, 15.0)
    steady = vectors_from_lonlat(lon, np.full(24, 30.0))
    flaring = vectors_from_lonlat(lon + 0.35, np.full(24, 30.0))
    parts = [photons_of(steady, 60, rng), background_around(steady, 10.0, rng)]
    parts.append(photons_of(flaring, 200, rng))
    time = [rng.random(len(parts[0])), rng.random(len(parts[1])), np.full(len(parts[2]), 0.55)]
    photons = at_times(join(*parts), np.concatenate(time))
    found = curves_of(photons, np.concatenate([steady, flaring]), **equal_slices(6))
    assert np.all(found["probability"][24:] < 1e-10)
    assert np.mean(found["probability"][:24] < 0.05) < 0.25


def test_exposure_that_live_times_do_not_tell_is_that_of_the_photons_around():
    rng = np.random.default_rng(4)
    near = ALL_SKY[:96]
    photons = with_background(near, 100, rng, density=30.0)
    # half of the slices are seen twice as long as the live times tell
    time = np.where(rng.random(len(photons)) < 2 / 3, 0.0, 0.5) + 0.5 * rng.random(len(photons))
    photons, slices = at_times(photons, time), equal_slices(4)
    found = curves_of(photons, near, **slices)
    assert found["exposure"][:, :2].mean() == pytest.approx(1 / 3, rel=0.05)
    assert np.mean(found["probability"] < 0.05) < 0.12


def test_exposures_of_the_slices_are_taken_where_they_are_given():
    rng = np.random.default_rng(5)
    photons = photons_of(ALL_SKY[:40], 100, rng)
    photons = at_times(photons, np.where(rng.random(len(photons)) < 0.75, 0.2, 0.7))
    exposures = [SurveyExposure(years=6.0), SurveyExposure(years=2.0)]
    found = curves_of(photons, ALL_SKY[:40], exposures=exposures, **equal_slices(2))
    assert found["exposure"] == pytest.approx(np.tile([0.75, 0.25], (40, 1)))
    assert np.mean(found["probability"] < 0.05) < 0.2
    flux = found["counts"] * found["flux_per_count"]
    assert flux[:, 0].mean() == pytest.approx(flux[:, 1].mean(), rel=0.1)


def test_photons_outside_of_the_slices_do_not_count():
    rng = np.random.default_rng(6)
    photons = photons_of(ALL_SKY[:20], 40, rng)
    photons = at_times(photons, rng.choice([0.1, 0.5, 0.9], len(photons)))
    slices = np.array([[0.0, 0.4], [0.6, 1.0]])
    found = curves_of(photons, ALL_SKY[:20], slices=slices, live=np.array([0.4, 0.4]))
    assert found["counts"].sum() == pytest.approx(20 * 40 * 2 / 3, rel=0.1)
    assert found["exposure"].sum(axis=1) == pytest.approx(0.8)


def test_probability_of_a_few_photons_is_that_of_counting():
    """Two photons of a source without background, in the same of ten slices."""
    ratio, expected = np.full(2, 1e6), np.full(10, 0.2)
    # n photons have the log-likelihood n ln(rate) at the best rate
    apart, together = 2 * 2 * np.log([5.0, 10.0])
    # the others lose one photon of two, or both
    of_one = 2 * np.log(5) + 2 * np.log(5 / 9)
    assert chance_probability(np.array([apart, of_one]), ratio, expected) > 0.99
    both = chance_probability(np.array([together, together]), ratio, expected)
    assert both == pytest.approx(0.1, abs=0.03)
    assert chance_probability(np.array([5.0, 5.0]), ratio[:0], expected) == 1.0


def test_flare_is_found_by_the_slice_that_differs():
    """Of 40 slices one has a third of the photons."""
    rng = np.random.default_rng(8)
    photons = photons_of(ALL_SKY[:60], 20, rng)
    time = np.where(np.arange(len(photons)) % 3 == 0, 0.301, rng.random(len(photons)))
    found = curves_of(at_times(photons, time), ALL_SKY[:60], **equal_slices(40))
    assert np.median(found["flare"]) > 3.5
    assert np.mean(found["probability"] < 0.01) > 0.9


def test_no_sources_give_nothing():
    photons = at_times(photons_of(ALL_SKY[:2], 5, np.random.default_rng(7)), 0.0)
    photons = replace(photons, time=np.zeros(len(photons)))
    assert curves_of(photons, ALL_SKY[:0], **equal_slices(2)) == {}
