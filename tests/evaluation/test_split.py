import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from made_maps import image_pixels
from made_sources import as_counts

from astro_unetloc import read_map, split_check
from astro_unetloc.evaluation.split import SplitCheck
from astro_unetloc.evaluation.truth import match_truth
from astro_unetloc.maps.skymap import halves
from astro_unetloc.pipeline import detect
from astro_unetloc.simulation.sky import simulate_sky

CENTER = SkyCoord(100 * u.deg, 35 * u.deg, frame="galactic")


@pytest.fixture(scope="module")
def simulated():
    """Photons of a cone above 10 GeV and the true sources."""
    return simulate_sky(center=CENTER, radius=18 * u.deg, years=10, rng=11)


def test_halves_share_the_photons(simulated):
    first, second = halves(simulated[0], 5)
    assert first.n_photons + second.n_photons == simulated[0].n_photons
    assert abs(first.n_photons - second.n_photons) < 5 * np.sqrt(simulated[0].n_photons)
    pixels = image_pixels(60, pixel_deg=0.5, lon=CENTER.l.deg, lat=CENTER.b.deg)
    sky_map = as_counts(simulated[0].events, pixels, np.array([10.0, 2000.0]))
    total = sum(part.counts.data for part in halves(sky_map, 5))
    np.testing.assert_array_equal(total, sky_map.counts.data)


@pytest.mark.parametrize("threshold", [None, 0.1])
def test_fraction_is_that_of_real_sources(simulated, threshold):
    sky_map, truth = simulated
    check = split_check(sky_map, rng=1, threshold=threshold)
    found = detect(halves(sky_map, 1)[0], rng=1, threshold=threshold, classify=False)
    matches = match_truth(found.catalog, truth)
    real = matches.is_real[matches.is_judged].mean()
    assert check.n_sources == len(found.catalog)
    assert check.chance < 0.3 < check.power.mean() <= 1
    assert abs(check.fraction - real) < 3 * check.error + 0.02


def made_check(n, n_confirmed, power, **others):
    """A check of n sources, of which some were confirmed, the same part of any power."""
    confirmed = np.arange(n) % n < n_confirmed
    return SplitCheck(np.random.default_rng(0).permutation(confirmed), power, 0.1, **others)


def test_fraction_of_hand_made_numbers():
    check = made_check(100, 55, np.full(100, 0.9), score=60.0)
    assert check.fraction == pytest.approx(0.45 / 0.8)
    assert check.error == pytest.approx(np.sqrt(0.55 * 0.45 / 100) / 0.8, rel=0.1)
    assert "confirms 55 of 100 sources" in str(check)
    assert f"{check.fraction:.3f} +- {check.error:.3f} of them are real" in str(check)
    assert str(check).endswith("their mean Score is 0.600")
    assert SplitCheck(np.zeros(0, bool), np.zeros(0), 0.1, 0.0).fraction == 0


def test_sources_that_are_hardly_confirmed_do_not_count_as_false(rng):
    # bright sources are real, half of the faint ones are, and these are rarely confirmed
    power = np.repeat([1.0, 0.4], 5000)
    real = rng.random(10_000) < np.repeat([1.0, 0.5], 5000)
    confirmed = rng.random(10_000) < np.where(real, power, 0.1)
    check = SplitCheck(confirmed, power, 0.1, 0.0)
    assert abs(check.fraction - real.mean()) < 3 * check.error < 0.06


def test_both_halves_are_of_the_same_time(real_data):
    path = real_data / "gc" / "fermi-3fhl-gc-events.fits.gz"
    how = {"energy_range": (50, 500), "time_range": (2.4e8, 3.4e8)}
    check, expected = split_check(path, **how), split_check(read_map(path, **how))
    np.testing.assert_array_equal(check.confirmed, expected.confirmed)
    assert str(check) == str(expected)


def test_split_check_of_real_photons(real_data):
    sky_map = read_map(real_data / "gc" / "fermi-3fhl-gc-events.fits.gz")
    check = split_check(sky_map)
    assert check.confirmed.sum() >= 0.8 * check.n_sources > 3
    assert check.fraction > 0.8
