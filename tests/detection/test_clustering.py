from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.detection.clustering import (
    REFERENCE,
    ClusteringConfig,
    find_clusters,
)

properties = settings(derandomize=True, deadline=None, max_examples=25)

SMALL = ClusteringConfig(cut=0.05, radius_pix=2.0)
CONFIGS = {"small": SMALL, "reference": REFERENCE}
SIZE = 40


@pytest.fixture(autouse=True)
def one_thread():
    """scikit-learn's threads wait for each other on a busy machine."""
    import sklearn.cluster  # noqa: F401 (threads are limited of what is loaded)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


def objective(centroids, image, config):
    """The score of the first description, circle by circle and pixel by pixel."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    used, score = np.zeros(image.shape, dtype=bool), 0.0
    for x_center, y_center in centroids:
        circle = np.hypot(x - x_center, y - y_center) <= config.radius_pix
        score += image[circle & ~used].sum() + config.overlap_penalty * np.sum(circle & used)
        used |= circle
    return score


def literal_kmeans(image, config):
    """The first description taken literally: k = 1, 2, ... on all pixels of the patch."""
    from sklearn.cluster import KMeans

    y, x = np.nonzero(image > config.cut)
    xy = np.column_stack([x, y]).astype(float)
    best = -np.inf
    for k in range(1, min(49, len(xy)) + 1):
        fit = KMeans(k, init="random", n_init=3, random_state=1)
        centroids = fit.fit(xy, sample_weight=image[y, x]).cluster_centers_
        best = max(best, objective(centroids, image, config))
    return best


def image_of(*discs, ring=None):
    """Image with discs (x, y, radius, probability), and a ring (x, y, radius, width)."""
    y, x = np.mgrid[:SIZE, :SIZE]
    image = np.zeros((SIZE, SIZE), dtype=np.float32)
    for x_center, y_center, radius, probability in discs:
        inside = np.hypot(x - x_center, y - y_center) <= radius
        image = np.maximum(image, np.float32(probability) * inside)
    if ring:
        distance = np.hypot(x - ring[0], y - ring[1])
        image[np.abs(distance - ring[2]) <= ring[3] / 2] = 0.9
    return image


def blobs(seed, n_sources, size=SIZE):
    """Image with Gaussian blobs at random positions."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    image = np.zeros((size, size))
    for x_center, y_center in rng.uniform(2, size - 3, (n_sources, 2)):
        blob = np.exp(-((x - x_center) ** 2 + (y - y_center) ** 2) / 2 / rng.uniform(0.8, 1.6) ** 2)
        image = np.maximum(image, rng.uniform(0.3, 1.0) * blob)
    return image.astype(np.float32)


def clumps(n=64):
    """Image with five clumps of discs."""
    rng = np.random.default_rng([5, 0])
    y, x = np.mgrid[:n, :n]
    image = np.zeros((n, n))
    for center in np.repeat(rng.uniform(10, n - 10, (5, 2)), 4, axis=0):
        dx, dy = rng.normal(0, 3, 2)
        disc = np.hypot(x - center[0] - dx, y - center[1] - dy) <= rng.uniform(1.5, 3)
        image = np.maximum(image, disc * rng.uniform(0.3, 1))
    return image.astype(np.float32)


def ragged_ridge(n=64):
    """Image with one straight ridge."""
    rng = np.random.default_rng([5, 1])
    y, x = np.mgrid[:n, :n]
    angle, wiggle = rng.uniform(0, np.pi), rng.uniform(0.6, 1, (n, n))
    across = (x - n / 2) * np.cos(angle) + (y - n / 2) * np.sin(angle)
    return (wiggle * np.exp(-(across**2) / 2 / rng.uniform(1, 3) ** 2)).astype(np.float32)


MAPS = {
    "touching discs": image_of((15.3, 20, 2, 0.9), (20.0, 20.4, 2, 0.8)),
    "four discs": image_of(*((x, 20, 2, 0.9) for x in (10, 15, 20, 25))),
    "disc in a ring": image_of((20, 20, 2, 0.9), ring=(20, 20, 12, 2)),
    "single pixel": image_of((7, 33, 0.1, 0.7)),
    "in the corner": image_of((0, 0, 2, 0.9), (39, 39, 2, 0.9)),
    "twenty sources": blobs(0, 20),
    "sixty sources": blobs(1, 60, 64),
    "clumps": clumps(),
    "single pixels": np.float32(0.6) * (np.random.default_rng(2).random((64, 64)) < 0.01),
}
# No network draws these: without peaks there are many ways to pack circles.
FLAT_MAPS = {
    "ring": image_of(ring=(20, 20, 8, 3)),
    "wide ring": image_of(ring=(20, 20, 14, 3)),
    "three discs": image_of((15.3, 20, 2, 0.9), (19.0, 20.4, 2, 0.8), (17, 23.6, 2, 0.8)),
    "large disc": image_of((20, 20, 7, 0.9)),
    "ridge": ragged_ridge(),
}


def positions(found):
    return np.column_stack([found.x, found.y])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", [*MAPS, *FLAT_MAPS])
def test_the_literal_algorithm_scores_no_better_or_on_flat_maps_twice_as_high(name, config):
    image, config = (MAPS | FLAT_MAPS)[name], CONFIGS[config]
    found = find_clusters(image[None], config=config)
    score, literal = objective(positions(found), image, config), literal_kmeans(image, config)
    assert score >= (literal - 1e-3 if name in MAPS else 0.5 * literal)


def test_clear_sources_are_found_at_their_centres():
    image = image_of((10, 12, 2, 0.9), (30, 25, 2, 0.6))
    for config in CONFIGS.values():
        found = find_clusters(np.stack([np.zeros_like(image), image]), config=config)
        np.testing.assert_array_equal(found.row, [1, 1])
        np.testing.assert_allclose(positions(found), [[10, 12], [30, 25]], atol=1e-6)
        np.testing.assert_allclose(found.probability, [0.9, 0.6], rtol=1e-6)


def test_centroids_are_weighted_and_not_truncated():
    image = np.zeros((1, 9, 9))
    image[0, 4, 4], image[0, 4, 5] = 0.9, 0.3
    np.testing.assert_allclose(positions(find_clusters(image, config=SMALL)), [[4.25, 4]])


def test_a_close_pair_is_split_by_the_smaller_radius_alone():
    image = MAPS["touching discs"]
    assert len(find_clusters(image[None], config=SMALL)) == 2
    assert len(find_clusters(image[None], config=REFERENCE)) == 1


def test_there_are_never_more_clusters_than_pixels_or_the_ceiling():
    image = np.zeros((1, 30, 30))
    image[0, ::10, ::10] = 0.9
    assert len(find_clusters(image, config=SMALL)) == 9
    ridge = image_of(ring=(20, 20, 12, 2))[None]
    assert len(find_clusters(ridge, config=replace(SMALL, max_clusters=3))) == 3


@pytest.mark.parametrize("shape", [(0, 160, 160), (3, 8, 8)])
def test_nothing_above_the_cut_gives_no_candidates(shape):
    found = find_clusters(np.full(shape, SMALL.cut), config=SMALL)
    assert len(found) == 0
    kinds = [getattr(found, name).dtype.kind for name in found.__dataclass_fields__]
    assert kinds == ["i", "f", "f", "f"]


def test_not_a_number_is_no_candidate_and_does_not_spoil_a_source_beside_it():
    image = image_of((10, 12, 2, 0.9), (20, 12, 2, 0.9))
    image[12, 13] = np.nan
    assert np.isfinite(positions(find_clusters(image[None], config=SMALL))).all()
    assert len(find_clusters(image[None] * np.nan, config=SMALL)) == 0


def test_pixels_that_are_not_kept_are_not_clustered():
    image = image_of((10, 12, 2, 0.9), (30, 25, 2, 0.6))[None]
    found = find_clusters(image, config=SMALL, keep=lambda row, x, y: x > 20)
    np.testing.assert_allclose(positions(found), [[30, 25]], atol=1e-6)
    assert len(find_clusters(image, config=SMALL, keep=lambda row, x, y: x > 90)) == 0


def assert_equal(found, other):
    for name in found.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name))


def test_patches_do_not_influence_each_other():
    images = [MAPS["twenty sources"], FLAT_MAPS["ring"], MAPS["single pixel"]]
    together = find_clusters(np.stack(images), config=SMALL)
    for row, image in enumerate(images):
        here = together.select(together.row == row)
        assert_equal(replace(here, row=0 * here.row), find_clusters(image[None], config=SMALL))


def test_islands_do_not_influence_each_other():
    left, right = np.zeros((2, SIZE, SIZE + 60))
    left[:, :SIZE], right[:, 60:] = MAPS["twenty sources"], MAPS["four discs"]
    both, first, second = (
        find_clusters(image[None], config=SMALL) for image in (left + right, left, right)
    )
    assert_equal(both.select(both.x < 50), first)
    assert_equal(both.select(both.x >= 50), second)


def test_the_number_of_threads_does_not_matter():
    from threadpoolctl import threadpool_limits

    image = MAPS["sixty sources"][None]
    with threadpool_limits(limits=4):
        threads = find_clusters(image, config=SMALL)
    assert_equal(threads, find_clusters(image, config=SMALL))


@properties
@given(seed=st.integers(0, 1000), n_sources=st.integers(1, 12), radius=st.floats(1, 4))
def test_candidates_are_peaked_means_of_the_pixels_nearest_to_them(seed, n_sources, radius):
    image, config = blobs(seed, n_sources), replace(SMALL, radius_pix=radius)
    found = find_clusters(image[None], config=config)
    y, x = np.nonzero(image > config.cut)
    away = np.hypot(x[:, None] - found.x, y[:, None] - found.y)
    nearest = np.argmin(away, axis=1)
    between = np.ptp(np.sort(away, axis=1)[:, :2], axis=1) < 1e-6
    for number in range(len(found)):
        here = nearest == number
        if len(found) > 1 and between[here].any():
            continue  # a pixel midway between two centroids may belong to either
        weight = image[y[here], x[here]].astype(float)
        mean = np.average(np.column_stack([x[here], y[here]]), axis=0, weights=weight)
        np.testing.assert_allclose(positions(found)[number], mean, atol=1e-4)
    yy, xx = np.mgrid[:SIZE, :SIZE]
    for x_center, y_center, peak in zip(found.x, found.y, found.probability):
        circle = np.hypot(xx - x_center, yy - y_center) <= radius
        assert peak == pytest.approx(image[circle].max())


@properties
@given(seed=st.integers(0, 1000), n_sources=st.integers(1, 12))
def test_all_clusters_score_more_than_one_cluster_for_each_group_of_pixels(seed, n_sources):
    from scipy.ndimage import center_of_mass, label

    image = blobs(seed, n_sources)
    found = find_clusters(image[None], config=SMALL)
    bright = np.where(image > SMALL.cut, image, 0)
    number, n_groups = label(bright, np.ones((3, 3)))
    means = np.array(center_of_mass(bright, number, range(1, n_groups + 1)))[:, ::-1]
    one_each = objective(means, image, SMALL)
    assert objective(positions(found), image, SMALL) >= one_each - 1e-6


def test_a_large_faint_island_holds_circles_that_do_not_overlap():
    image = np.random.default_rng(0).uniform(0.009, 0.02, (32, 32))
    config = replace(SMALL, cut=0.01)
    found = find_clusters(image[None], config=config)
    # most of a plane of circles: the densest packing holds 0.9 of the probability
    assert objective(positions(found), image, config) > 0.4 * image.sum()
