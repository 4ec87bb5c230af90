import numpy as np
import pytest

from astro_unetloc.catalog.match import (
    SIGMAS_95,
    Positions,
    _stretched,
    _stretched_area,
    association_probability,
    chance_rate,
    find_counterparts,
    match_catalogs,
)
from astro_unetloc.catalog.read import read_catalog, within_sky
from astro_unetloc.sphere import move, tangent_axes, vectors_from_lonlat

SKY_DEG2 = 4 * np.pi * np.degrees(1.0) ** 2


def make_random(n, rng, size_deg=np.nan):
    """Positions anywhere on the sky with a circular 95 % error."""
    vectors = rng.standard_normal((n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Positions(vectors, np.tile([size_deg, size_deg, 0.0], (n, 1)))


def rate_of(left, right, *, by_errors=False):
    return chance_rate(left, right, 0.3, by_errors=by_errors, reach_deg=0.3)


# Chance rate


def test_both_rates_are_that_of_a_uniform_sky():
    rng = np.random.default_rng(0)
    rate = rate_of(make_random(1000, rng), make_random(8000, rng))
    expected = -np.expm1(-8000 / SKY_DEG2 * np.pi * 0.3**2)
    assert np.mean(rate.density) == pytest.approx(8000 / SKY_DEG2, rel=0.05)
    assert rate.expected == pytest.approx(expected, rel=0.05)
    assert rate.shifted == pytest.approx(expected, rel=0.05)


def test_rates_by_errors_take_the_area_of_both_ellipses():
    rng = np.random.default_rng(1)
    left, right = make_random(1000, rng, 0.2), make_random(8000, rng, 0.1)
    rate = rate_of(left, right, by_errors=True)
    area = np.pi * -2 * np.log(0.001) * (0.2**2 + 0.1**2) / SIGMAS_95**2
    expected = -np.expm1(-8000 / SKY_DEG2 * area)
    assert rate.expected == pytest.approx(expected, rel=0.05)
    assert rate.shifted == pytest.approx(expected, rel=0.08)


def test_counterparts_of_the_detections_are_no_chance():
    rng = np.random.default_rng(2)
    reference = make_random(8000, rng)
    expected = -np.expm1(-8000 / SKY_DEG2 * np.pi * 0.3**2)
    rate = rate_of(reference[:1000], reference)
    assert rate.expected == pytest.approx(expected, rel=0.05)
    assert rate.shifted == pytest.approx(expected, rel=0.05)


def test_rate_is_known_where_sources_crowd():
    rng = np.random.default_rng(9)
    lon, lat = rng.uniform(20, 30, 20_000), rng.uniform(-5, 5, 20_000)
    nowhere = np.full((20_000, 3), np.nan)
    places = vectors_from_lonlat(rng.uniform(24, 26, 100), rng.uniform(-2, 2, 100))
    crowd = Positions(vectors_from_lonlat(lon, lat), nowhere)
    rate = rate_of(Positions(places, nowhere[:100]), crowd)
    assert rate.density.mean() == pytest.approx(200, rel=0.1)
    assert rate.expected > 0.999


def test_density_follows_the_plane():
    rng = np.random.default_rng(3)
    lon, lat = rng.uniform(0, 360, 4000), rng.normal(0, 2, 4000)
    plane = vectors_from_lonlat(lon, lat)
    nowhere = np.full((len(plane), 3), np.nan)
    places = vectors_from_lonlat(np.full(3, 40.0), np.array([0.0, 2.0, 4.0]))
    rate = rate_of(Positions(places, nowhere[:3]), Positions(plane, nowhere))
    peak = 4000 / (360 * 2 * np.sqrt(2 * np.pi))
    assert rate.density == pytest.approx(peak * np.exp([0, -0.5, -2.0]), rel=0.5)
    assert (np.diff(rate.density) < 0).all()


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_or_no_sources_have_a_rate_too(n):
    rng = np.random.default_rng(4)
    rate = rate_of(make_random(3, rng), make_random(n, rng))
    assert rate.probability.shape == rate.density.shape == (3,)
    assert np.isfinite(rate.density).all()
    assert (rate.probability < 0.1).all()
    assert rate.shifted < 0.1
    assert np.isnan(rate_of(make_random(0, rng), make_random(5, rng)).expected)


def test_unknown_positions_are_left_out():
    rng = np.random.default_rng(5)
    left, right = make_random(100, rng), make_random(4000, rng)
    lost = Positions(np.full((50, 3), -10.0), np.full((50, 3), np.nan))
    more = Positions(np.vstack([right.vectors, lost.vectors]), np.full((4050, 3), np.nan))
    np.testing.assert_array_equal(rate_of(left, more).density, rate_of(left, right).density)


@pytest.mark.parametrize(("lat", "distance"), [(0, 0.3), (60, 0.3), (89, 0.2), (-30, 1.5)])
def test_area_of_a_neighborhood_is_that_of_random_points(lat, distance):
    rng, n = np.random.default_rng(6), 800_000
    low, high = np.sin(np.radians(np.clip([lat - 3.0, lat + 3.0], -90, 90)))
    points = vectors_from_lonlat(
        rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(low, high, n)))
    )
    center = vectors_from_lonlat(77.0, lat)[None]
    near = np.linalg.norm(_stretched(points) - _stretched(center), axis=1) <= distance
    area = _stretched_area(np.array([lat]), np.array([distance]))[0]
    assert area == pytest.approx(near.mean() * SKY_DEG2 * (high - low) / 2, rel=0.05)


# Probability


def test_probabilities_are_shares_of_true_pairs():
    """Six of ten detections have a counterpart, in a sky full of other sources."""
    rng, n = np.random.default_rng(7), 12_000
    reference = make_random(40_000, rng, 0.1)
    left = make_random(n, rng, 0.2)
    true = rng.random(n) < 0.6
    vectors = np.where(true[:, None], reference.vectors[:n], left.vectors)
    sigma = np.hypot(0.1, 0.2) / SIGMAS_95
    x, y = sigma * rng.standard_normal((2, n))
    left = Positions(move(vectors, *tangent_axes(vectors), x, y), left.ellipse)
    pairs = find_counterparts(left, reference, 0.3, by_errors=True)
    density = np.full(n, len(reference) / SKY_DEG2)
    probability, share = association_probability(pairs, density, n)
    assert share == pytest.approx(0.6, abs=0.03)
    right = true[pairs.catalog_index] & (pairs.catalog_index == pairs.reference_index)
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1.0)):
        chosen = (probability > low) & (probability <= high)
        assert chosen.sum() > 200
        assert right[chosen].mean() == pytest.approx(probability[chosen].mean(), abs=0.05)
    total = np.bincount(pairs.catalog_index, probability, n)
    assert (total < 1).all()


def test_no_pairs_have_no_probability():
    rng = np.random.default_rng(8)
    pairs = find_counterparts(make_random(3, rng), make_random(0, rng), 0.3, by_errors=False)
    probability, share = association_probability(pairs, np.zeros(3), 3)
    assert len(probability) == 0
    assert 0 < share < 0.5


# Real catalogues


@pytest.mark.parametrize("radius", [None, 0.3])
@pytest.mark.parametrize("max_latitude_deg", [90, 5])
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("gll_psch_v09.fit.gz", "gll_psch_v13.fit.gz"),
        ("gll_psch_v09.fit.gz", "4fgl_dr3_reduced.fits"),
        ("gll_psch_v13.fit.gz", "4fgl_dr3_reduced.fits"),
        ("gll_psch_v13.fit.gz", "gll_psc_v16.fit.gz"),
    ],
)
def test_rates_of_real_catalogs_agree(real_data, name, other, max_latitude_deg, radius):
    catalog, reference = (read_catalog(real_data / "catalogs" / n) for n in (name, other))
    catalog = within_sky(catalog, box=(0, 0, 360, 2 * max_latitude_deg))
    chance = match_catalogs(catalog, reference, radius=radius).chance
    n_events = chance.shifted * len(catalog) * chance.n_shifts
    assert n_events > 100  # else the shifts themselves are not known to a tenth
    assert chance.expected == pytest.approx(chance.shifted, rel=0.2)
