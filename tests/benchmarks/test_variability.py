import numpy as np
import pytest
from made_sources import as_events, scatter, with_background

from astro_unetloc import load_model
from astro_unetloc.measurement.limits import significances
from astro_unetloc.sphere import vectors_from_lonlat


@pytest.fixture
def variability(import_benchmark):
    return import_benchmark("variability")


def test_times_follow_tilted_exposures(variability, rng):
    vectors = scatter(np.tile([1.0, 0.0, 0.0], (40_000, 1)), rng.uniform(0, 5, 40_000), rng)
    even = np.bincount((4 * variability.draw_times(vectors, 4, 0.0, rng)).astype(int))
    tilted = np.bincount((4 * variability.draw_times(vectors, 4, 0.5, rng)).astype(int))
    assert np.ptp(even) < 600
    assert np.ptp(tilted) > 2000
    assert tilted.min() > 0.5 / 1.5 * 10_000 - 300


def test_flare_has_the_significance_that_was_wanted(variability, rng):
    """Without a steady source the flare is a source in a slice of the background."""
    vectors = vectors_from_lonlat(np.arange(0, 360, 40.0), np.full(9, 20.0))
    sky_map, model = as_events(with_background(vectors, 0, rng, density=60.0)), load_model()
    flare = variability.flare_counts(sky_map, vectors, model, 1, 5.0)
    found = significances(sky_map, vectors, flare)
    assert np.median(found) == pytest.approx(5.0, rel=0.1)
