from dataclasses import replace

import numpy as np
import pytest
from made_sources import RANGE, as_events, background_around, join, lonely_sources, photons_of

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF, make_profiles
from astro_unetloc.maps.events import DiscFootprint
from astro_unetloc.maps.photons import Photons
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.measurement.limits import detection_limits, expected_sqrt_ts, significances
from astro_unetloc.sphere import vectors_from_lonlat

EDGES = np.array([10.0, 30.0, 2000.0])
FLUX = {"flux_range": (10.0, 1000.0)}


@pytest.fixture(scope="module")
def profiles():
    return make_profiles(KingPSF(), EDGES)


def test_on_much_background_it_is_the_signal_over_its_noise(profiles):
    """King (1983): N over the root of the background within the effective area, bin by bin."""
    shares, background = np.array([[0.7, 0.3]]), np.array([[1e6, 3e5]])
    found = expected_sqrt_ts(np.array([10.0]), shares, background, profiles)[0]
    noise = np.sqrt(background * profiles.effective_area())
    assert found == pytest.approx(np.sqrt(np.sum((10 * shares / noise) ** 2)), rel=0.01)


def test_it_is_that_of_photons_in_a_single_cell():
    """All photons of a source in one ring of even density: the formula of a counting experiment."""

    class Disc:
        contained = np.array([[0.0, *[1.0] * 8]])

        def rings(self, stride):
            return np.array([[2.0, 0.0]]), np.array([0.5, 1.0])

    s, b = 7.0, 3.0 * 0.5
    found = expected_sqrt_ts(np.array([s]), np.ones((1, 1)), np.full((1, 1), 3.0), Disc())
    assert found[0] == pytest.approx(np.sqrt(2 * ((s + b) * np.log1p(s / b) - s)))


def test_it_is_what_the_fit_measures_on_average():
    sky_map, sources, true = lonely_sources(30, seed=5)
    measured = measure_sources(sources, sky_map, energy_range=RANGE, **FLUX).sqrt_ts
    expected = significances(sky_map, true, np.full(len(true), 30.0), index=2.3)
    assert np.median(measured) == pytest.approx(np.median(expected), rel=0.05)


def test_counts_at_the_limit_have_the_sqrt_ts_that_was_asked_for():
    sky_map, _, true = lonely_sources(5, seed=6)
    for sqrt_ts in (3.0, 5.0):
        counts, flux = detection_limits(sky_map, true, sqrt_ts, **FLUX)
        np.testing.assert_allclose(significances(sky_map, true, counts), sqrt_ts, rtol=1e-3)
        assert np.all(flux > 0)


def test_more_background_and_a_bright_neighbour_raise_the_limit():
    rng = np.random.default_rng(7)
    vectors = vectors_from_lonlat(np.array([10.0, 60.0, 110.0]), np.array([40.0, 40.0, 40.0]))
    bright = vectors_from_lonlat(np.array([110.2]), np.array([40.0]))
    sky_map = as_events(
        join(
            background_around(vectors[:1], 17.0, rng),
            background_around(vectors[1:2], 170.0, rng),
            background_around(vectors[2:], 17.0, rng),
            photons_of(bright, 500, rng),
        ),
        exposure=SurveyExposure(),
    )
    counts, _ = detection_limits(sky_map, vectors, 4.5, sources=bright, **FLUX)
    assert 4 < counts[0] < 12
    assert counts[1] > 1.3 * counts[0]
    assert counts[2] > 1.3 * counts[0]


def test_there_is_no_limit_where_nothing_was_observed():
    rng = np.random.default_rng(8)
    center = vectors_from_lonlat(np.array([10.0]), np.array([40.0]))
    photons = background_around(center, 17.0, rng)
    sky_map = replace(as_events(photons), footprint=DiscFootprint(center[0], 3.0))
    vectors = np.concatenate([center, -center, np.full((1, 3), np.nan)])
    counts, flux = detection_limits(sky_map, vectors, 4.5, **FLUX)
    np.testing.assert_array_equal(np.isfinite(counts), [True, False, False])
    assert np.isnan(flux).all(), "the exposure is not known"


def test_a_map_without_photons_has_no_limits_and_says_so():
    nothing = Photons(np.zeros((0, 3)), np.zeros(0))
    vectors = vectors_from_lonlat(np.array([10.0]), np.array([40.0]))
    with pytest.warns(UserWarning, match="no photons at these positions"):
        counts, flux = detection_limits(as_events(nothing), vectors, 4.5, **FLUX)
    assert np.isnan(counts).all()
    assert np.isnan(flux).all()
