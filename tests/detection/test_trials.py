import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.detection.clustering import (
    Trials,
    find_islands,
    iterate,
    largest,
    light_sklearn,
    make_trials,
    nearest_centroid,
)

properties = settings(derandomize=True, deadline=None, max_examples=20)


def islands_and_trials(seed, n_islands=4, k=2):
    """Ragged blobs, and for each as many of its pixels as centroids."""
    rng = np.random.default_rng(seed)
    images = np.zeros((n_islands, 20, 20))
    images[:, 5:13, 4:14] = rng.random((n_islands, 8, 10))
    islands = find_islands(images, images > 0.3, 3.0)
    xy = [
        rng.permutation(islands.xy[a:b])[:k] for a, b in zip(islands.first[:-1], islands.first[1:])
    ]
    number = np.arange(len(islands))
    return islands, Trials(number, k * np.arange(len(islands) + 1), np.concatenate(xy))


@properties
@given(seed=st.integers(0, 1000))
def test_trials_end_where_every_centroid_is_the_mean_of_its_pixels(seed):
    islands, trials = islands_and_trials(seed)
    with light_sklearn():
        trials = iterate(islands, trials)
    pixel, _, centroid, _ = nearest_centroid(islands, trials)
    weight = islands.weight[pixel]
    total = np.bincount(centroid, weight, minlength=len(trials.xy))
    for axis in (0, 1):
        mean = np.bincount(centroid, weight * islands.xy[pixel, axis]) / total
        np.testing.assert_allclose(trials.xy[:, axis], mean, atol=1e-6)


@properties
@given(seed=st.integers(0, 1000))
def test_trials_do_not_depend_on_their_company(seed):
    islands, trials = islands_and_trials(seed)
    with light_sklearn():
        together = iterate(islands, trials)
        alone = [iterate(islands, trials.select([number])) for number in range(len(trials))]
    np.testing.assert_array_equal(together.xy, np.concatenate([a.xy for a in alone]))


def test_trials_can_be_selected_by_mask_and_by_index():
    trials = make_trials(
        np.array([4, 7]), np.array([1, 0, 1]), np.array([[1, 1], [2, 2], [3, 3.0]])
    )
    np.testing.assert_array_equal(trials.k, [1, 2])
    np.testing.assert_array_equal(trials.owner, [0, 1, 1])
    for chosen in ([1], [False, True]):
        second = trials.select(np.array(chosen))
        np.testing.assert_array_equal(second.island, [7])
        np.testing.assert_array_equal(second.xy, [[1, 1], [3, 3]])


def test_the_first_of_the_largest_values_of_each_group():
    value, group = np.array([1.0, 5.0, 5.0, 2.0]), np.array([1, 0, 0, 1])
    np.testing.assert_array_equal(largest(value, group), [1, 3])


@pytest.mark.parametrize("max_iter", [1, 300])
def test_iterations_can_be_few(max_iter):
    islands, trials = islands_and_trials(3, k=3)
    with light_sklearn():
        fitted = iterate(islands, trials, max_iter)
        further = iterate(islands, fitted)
    assert np.allclose(fitted.xy, further.xy) == (max_iter > 1)


def test_a_start_that_leaves_a_cluster_without_pixels_is_quiet():
    islands, trials = islands_and_trials(3)
    twice = Trials(trials.island, trials.first, np.repeat(islands.mean, 2, axis=0))
    with light_sklearn():
        assert np.isfinite(iterate(islands, twice).xy).all()
