import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.detection.clustering import (
    Trials,
    best_few,
    best_of_each,
    choose_parts,
    circle_score,
    divide,
    find_islands,
    gains,
    make_trials,
    replace_parts,
)

properties = settings(derandomize=True, deadline=None, max_examples=20)
OBJECTIVE = {"radius_pix": 2.0, "overlap_penalty": -10.0}


def divided(seed, k=12):
    """Two maps that are bright all over, each with k clusters."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.5, 1, (2, 30, 30))
    islands = find_islands(images, images > 0, 5.0)
    trials = Trials(np.arange(2), np.array([0, k, 2 * k]), rng.uniform(0, 29, (2 * k, 2)))
    return islands, divide(islands, trials)


def parts_of(islands, division, wanted=None):
    wanted = np.ones(len(division.trials.xy), dtype=bool) if wanted is None else wanted
    windows = {"width_pix": 10.0, "gap_pix": 5.0, "offset": np.array([0.2, 0.4]), "whole": 4}
    return choose_parts(islands, division, wanted, **windows)


def total_score(islands, trials):
    row = islands.row[trials.island[trials.owner]]
    return circle_score(islands.images, row, trials.owner, trials.xy, **OBJECTIVE)


@properties
@given(seed=st.integers(0, 1000))
def test_the_gain_of_a_part_is_that_of_its_island(seed):
    islands, division = divided(seed)
    parts = parts_of(islands, division)
    rng = np.random.default_rng(seed)
    moved = parts.clusters.xy + rng.normal(0, 2, parts.clusters.xy.shape)
    trials = Trials(parts.clusters.island, parts.clusters.first, moved)
    gain = gains(division, parts, trials, **OBJECTIVE)
    before = total_score(islands, division.trials)
    for number in range(len(parts)):
        new, _ = replace_parts(islands, division, parts, trials.select([number]))
        change = total_score(islands, new.trials) - before
        assert change[parts.island[number]] == pytest.approx(gain[number])
        assert change[1 - parts.island[number]] == 0


@properties
@given(seed=st.integers(0, 1000))
def test_parts_hold_the_pixels_of_their_clusters_and_no_other(seed):
    islands, division = divided(seed)
    parts = parts_of(islands, division)
    part_of = np.full(len(division.trials.xy), -1)
    part_of[parts.member] = parts.clusters.owner
    expected = np.flatnonzero(part_of[division.label] >= 0)
    np.testing.assert_array_equal(np.sort(parts.pixel), expected)
    part = np.repeat(np.arange(len(parts)), parts.pixels.size)
    np.testing.assert_array_equal(part_of[division.label[parts.pixel]], part)


def test_only_parts_with_a_wanted_cluster_are_chosen():
    islands, division = divided(0)
    member = parts_of(islands, division).member[0]
    parts = parts_of(islands, division, np.arange(24) == member)
    assert len(parts) == 1
    assert member in parts.member


def test_replaced_clusters_are_new_and_the_others_stay():
    islands, division = divided(1)
    parts = parts_of(islands, division)
    new = make_trials(np.array([0]), np.array([0, 0]), parts.pixels.xy[:2])
    replaced, origin = replace_parts(islands, division, parts, new)
    assert (origin < 0).sum() == 2
    kept = origin >= 0
    np.testing.assert_array_equal(replaced.trials.xy[kept], division.trials.xy[origin[kept]])
    owner = replaced.trials.owner[replaced.label]
    np.testing.assert_array_equal(owner, np.repeat([0, 1], islands.size))


def test_the_best_trials_of_each_part():
    trials = Trials(np.array([0, 0, 1, 1]), np.array([0, 1, 3, 4, 6]), np.zeros((6, 2)))
    gain = np.array([1.0, 1.0, 0.0, -5.0])
    np.testing.assert_array_equal(best_of_each(gain, trials, np.array([2, 2]), 1e-9), [0, 2])
    np.testing.assert_array_equal(best_of_each(gain, trials, np.array([1, 1]), 1e-9), [0])
    np.testing.assert_array_equal(best_few(gain, trials, 1), [0, 2])
    assert len(best_few(gain, trials, 2)) == 4
