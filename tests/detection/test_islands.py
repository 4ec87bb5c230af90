import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_score import literal_score

from astro_unetloc.detection.clustering import (
    circle_pixels,
    circle_score,
    circle_sums,
    find_islands,
)
from astro_unetloc.sphere import ragged_ranges

properties = settings(derandomize=True, deadline=None, max_examples=20)


def bright_images(seed, density):
    images = np.random.default_rng(seed).random((3, 20, 25))
    return images, images > 1 - density


@properties
@given(seed=st.integers(0, 1000), n=st.integers(1, 5), radius=st.floats(0.5, 4))
def test_the_score_of_many_sets_is_the_literal_one_of_each(seed, n, radius):
    rng = np.random.default_rng(seed)
    images, owner = rng.random((2, 12, 15)), np.repeat([0, 1, 2], n)
    row, xy = np.repeat([1, 0, 1], n), rng.uniform(-1, 13, (3 * n, 2))
    score = circle_score(images, row, owner, xy, radius_pix=radius, overlap_penalty=-3.0)
    for number in range(3):
        here = owner == number
        literal = literal_score(images[row[here][0]], xy[here], radius, -3.0)
        assert score[number] == pytest.approx(literal)


def test_a_set_whose_circles_hold_no_pixel_scores_zero():
    images, xy = np.ones((1, 5, 5)), np.array([[2.0, 2.0], [90.0, 2.0]])
    score = circle_score(
        images, np.zeros(2, int), np.array([0, 1]), xy, radius_pix=1.0, overlap_penalty=-10.0
    )
    np.testing.assert_array_equal(score, [5.0, 0.0])


def test_circles_end_at_the_border_of_their_own_image():
    pixel, inside = circle_pixels((2, 4, 4), np.array([1]), np.array([[0.0, 0.0]]), 1.0)
    np.testing.assert_array_equal(np.sort(pixel[inside]), [16, 17, 20])


@properties
@given(seed=st.integers(0, 1000), density=st.floats(0.005, 0.1))
def test_every_bright_pixel_is_in_one_island(seed, density):
    images, bright = bright_images(seed, density)
    islands = find_islands(images, bright, 3.0)
    row = np.repeat(islands.row, islands.size)
    x, y = islands.xy.T.astype(int)
    seen = np.zeros(images.shape, dtype=int)
    np.add.at(seen, (row, y, x), 1)
    np.testing.assert_array_equal(seen, bright)
    np.testing.assert_array_equal(islands.weight, images[row, y, x])


@properties
@given(seed=st.integers(0, 1000), density=st.floats(0.005, 0.1))
def test_islands_are_further_apart_than_a_step_and_hang_together(seed, density):
    images, bright = bright_images(seed, density)
    islands = find_islands(images, bright, 3.0)
    label = np.repeat(np.arange(len(islands)), islands.size)
    row = islands.row[label]
    distance = np.linalg.norm(islands.xy[:, None] - islands.xy, axis=-1)
    linked = (distance <= 3.0) & (row[:, None] == row)
    assert not np.any(linked & (label[:, None] != label))
    for number in range(len(islands)):
        here = linked[np.ix_(label == number, label == number)]
        reached = np.linalg.matrix_power(here.astype(float), len(here)) > 0
        assert reached.all()


def test_mean_and_extent_of_an_island():
    images = np.zeros((1, 9, 9))
    images[0, 4, 4], images[0, 4, 6] = 0.9, 0.3
    islands = find_islands(images, images > 0, 2.0)
    assert len(islands) == 1
    np.testing.assert_allclose(islands.mean, [[4.5, 4.0]])
    np.testing.assert_array_equal(islands.extent, [2.0])
    np.testing.assert_array_equal(islands.diagonal, [2.0])


@properties
@given(seed=st.integers(0, 1000), radius=st.floats(0.5, 4))
def test_sums_around_pixels_are_those_of_circles(seed, radius):
    images, bright = bright_images(seed, 0.1)
    islands = find_islands(images, bright, 3.0)
    row = np.repeat(islands.row, islands.size)
    pixel, inside = circle_pixels(images.shape, row, islands.xy, radius)
    expected = np.where(inside, images.reshape(-1)[pixel], 0).sum(axis=1)
    np.testing.assert_allclose(circle_sums(islands, radius), expected)


def test_some_islands_are_islands():
    images, bright = bright_images(3, 0.05)
    islands = find_islands(images, bright, 3.0)
    some = islands.select(np.array([4, 1]))
    np.testing.assert_array_equal(some.size, islands.size[[4, 1]])
    np.testing.assert_allclose(some.mean, islands.mean[[4, 1]])


@properties
@given(seed=st.integers(0, 1000))
def test_a_set_scores_beside_others_what_it_adds(seed):
    rng = np.random.default_rng(seed)
    images, xy = rng.random((1, 12, 15)), rng.uniform(0, 12, (5, 2))
    options = {"radius_pix": 2.0, "overlap_penalty": -3.0}
    row = np.zeros(5, dtype=int)
    pixel, inside = circle_pixels(images.shape, row[:3], xy[:3], 2.0)
    held = np.bincount(pixel[inside], minlength=images.size)
    added = circle_score(
        images, row[3:], row[3:], xy[3:], used=lambda owner, pixel: held[pixel], **options
    )
    first, both = (circle_score(images, row[:n], row[:n], xy[:n], **options) for n in (3, 5))
    assert first + added == pytest.approx(both)


def test_no_bright_pixels_make_no_islands():
    assert len(find_islands(np.zeros((2, 5, 5)), np.zeros((2, 5, 5), dtype=bool), 3.0)) == 0


def test_ragged_ranges():
    number, which = ragged_ranges(np.array([3, 7, 7]), np.array([5, 7, 9]))
    np.testing.assert_array_equal(number, [3, 4, 7, 8])
    np.testing.assert_array_equal(which, [0, 0, 2, 2])
