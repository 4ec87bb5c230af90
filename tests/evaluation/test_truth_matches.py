import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.evaluation.truth import beyond_edge, match_in_order, separation_of_others
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat


def on_equator(*lon):
    return vectors_from_lonlat(np.array(lon, float), 0.0)


def test_first_detection_takes_the_nearest_and_the_next_what_is_left():
    matched, is_near = match_in_order(on_equator(0.12, 0.18, 0.1, 5), on_equator(0, 0.2), 0.3)
    assert matched.tolist() == [1, 0, -1, -1]
    assert is_near.tolist() == [True, True, True, False]


def test_smallest_choice_is_taken():
    choice = np.array([1.0, 2.0])
    matched, _ = match_in_order(on_equator(0.12), on_equator(0, 0.2), 0.3, choice)
    assert matched.tolist() == [0]


@pytest.mark.parametrize("sizes", [(0, 0), (2, 0), (0, 2)])
def test_nothing_matches_nothing(sizes):
    found, true = (on_equator(*range(n)).reshape(n, 3) for n in sizes)
    matched, is_near = match_in_order(found, true, 0.3)
    assert matched.tolist() == [-1] * len(found)
    assert not is_near.any()


def test_a_source_is_no_other_to_itself():
    vectors = on_equator(0, 0.25, 0.75, 0.75, 9)
    near = separation_of_others(vectors, np.array([1, 2, 3]))
    np.testing.assert_allclose(near, [0.25, 0.5, 0, 0, 8.25], atol=1e-12)
    near = separation_of_others(vectors, np.array([1]))
    np.testing.assert_allclose(near, [0.25, np.nan, 0.5, 0.5, 8.75])
    assert np.isnan(separation_of_others(vectors, np.zeros(0, int))).all()
    assert separation_of_others(vectors[:0], np.zeros(0, int)).shape == (0,)


def test_distance_to_the_edge_is_negative_inside():
    beyond = beyond_edge(on_equator(0, 2, 5), on_equator(0, 4), np.array([1.0, 0.5]))
    np.testing.assert_allclose(beyond, [-1, 1, 0.5])
    assert np.isnan(beyond_edge(on_equator(0, 2), np.zeros((0, 3)), np.zeros(0))).all()


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(0, 12))
def test_nearest_other_is_that_of_all_pairs(seed, n_others):
    rng = np.random.default_rng(seed)
    vectors = vectors_from_lonlat(rng.uniform(0, 3, 12), rng.uniform(-2, 2, 12))
    others = rng.permutation(12)[:n_others]
    angle = separation_deg(vectors[:, None], vectors[None])
    np.fill_diagonal(angle, np.nan)
    expected = [np.nanmin(np.append(row, np.inf)) for row in angle[:, others]]
    near = separation_of_others(vectors, others)
    np.testing.assert_allclose(np.nan_to_num(near, nan=np.inf), expected, atol=1e-9)
