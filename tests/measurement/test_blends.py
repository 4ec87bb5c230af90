import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.measurement.likelihood import joint_covariances, neighbor_pairs, take_turns
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat


def crowd(n, seed=0, width_deg=3.0):
    rng = np.random.default_rng(seed)
    return vectors_from_lonlat(rng.uniform(0, width_deg, n), rng.uniform(0, width_deg, n))


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_no_two_neighbours_take_the_same_turn(n, seed):
    vectors = crowd(n, seed)
    pairs = neighbor_pairs(vectors, 0.8)
    turns = take_turns(n, pairs)
    assert np.all(turns[pairs[:, 0]] != turns[pairs[:, 1]])
    away = separation_deg(vectors[:, None], vectors[None])
    assert len(pairs) == np.sum(away < 0.8) - n
    assert turns.max() <= np.bincount(pairs[:, 0], minlength=n).max()


def test_lonely_sources_take_one_turn():
    vectors = vectors_from_lonlat(np.arange(0.0, 360.0, 30.0), np.zeros(12))
    pairs = neighbor_pairs(vectors, 1.0)
    assert pairs.shape == (0, 2)
    assert np.all(take_turns(12, pairs) == 0)


def test_neighbours_are_listed_by_distance():
    vectors = vectors_from_lonlat(np.array([0.0, 0.5, 0.2, 40.0]), np.zeros(4))
    pairs = neighbor_pairs(vectors, 1.0)
    np.testing.assert_array_equal(pairs[pairs[:, 0] == 0, 1], [2, 1])
    assert 3 not in pairs


def correlated(rho):
    """Two sources whose counts share one entry each and both a third; 4 parameters each."""
    rng = np.random.default_rng(1)
    slopes = np.concatenate([rng.normal(size=(200, 4)), rng.normal(size=(200, 4))])
    slopes[200:] = rho * slopes[:200] + np.sqrt(1 - rho**2) * slopes[200:]
    entry = np.tile(np.arange(200), 2)
    source = np.repeat([0, 1], 200)
    curvature = np.stack([slopes[source == k].T @ slopes[source == k] for k in (0, 1)])
    return slopes, np.array([[0, 1], [1, 0]]), curvature, entry, source


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_a_shared_photon_costs_precision(rho):
    alone, joint = joint_covariances(*correlated(rho))
    ratio = np.trace(joint[0]) / np.trace(alone[0])
    assert ratio == pytest.approx(1 / (1 - rho**2), rel=0.1)


def test_the_joint_covariance_is_that_of_the_whole_matrix():
    slopes, pairs, curvature, entry, source = correlated(0.7)
    both = np.hstack([slopes[source == 0], slopes[source == 1]])
    expected = np.linalg.inv(both.T @ both)
    _, joint = joint_covariances(slopes, pairs, curvature, entry, source)
    np.testing.assert_allclose(joint[0], expected[:4, :4], rtol=1e-6)
    np.testing.assert_allclose(joint[1], expected[4:, 4:], rtol=1e-6)


def test_without_neighbours_nothing_changes():
    slopes, _, curvature, entry, source = correlated(0.7)
    alone, joint = joint_covariances(slopes, np.zeros((0, 2), int), curvature, entry, source)
    np.testing.assert_array_equal(alone, joint)
