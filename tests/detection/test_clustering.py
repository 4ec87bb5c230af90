import numpy as np
import pytest
from literal_score import literal_score

from astro_unetloc.detection.clustering import (
    PRESETS,
    ClusteringConfig,
    PixelSources,
    find_clusters,
)


@pytest.fixture(autouse=True)
def one_thread():
    """scikit-learn's threads wait for each other on a busy machine."""
    import sklearn.cluster  # noqa: F401 (threads are limited of what is loaded)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


SIZE = 40


def objective(centroids, image, config):
    """The score of the first description, pixel by pixel."""
    return literal_score(image, centroids, config.radius_pix, config.overlap_penalty)


def literal_kmeans(image, config, *, max_clusters=49, restarts=3):
    """The first description taken at its word: k = 1, 2, ... on all pixels of the patch."""
    from sklearn.cluster import KMeans

    y, x = np.nonzero(image > config.cut)
    xy = np.column_stack([x, y]).astype(float)
    best, best_score = np.zeros((0, 2)), -np.inf
    for k in range(1, min(max_clusters, len(xy)) + 1):
        fit = KMeans(k, init="random", n_init=restarts, random_state=1)
        centroids = fit.fit(xy, sample_weight=image[y, x]).cluster_centers_
        score = objective(centroids, image, config)
        if score > best_score:
            best, best_score = centroids, score
    return best, best_score


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


def twenty_sources(seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    image = np.zeros((SIZE, SIZE), dtype=np.float32)
    for x_center, y_center in rng.uniform(2, SIZE - 3, (20, 2)):
        blob = np.exp(-((x - x_center) ** 2 + (y - y_center) ** 2) / 2 / rng.uniform(0.8, 1.6) ** 2)
        image = np.maximum(image, np.float32(rng.uniform(0.3, 1.0)) * blob.astype(np.float32))
    return image


MAPS = {
    "touching discs": image_of((15.3, 20, 2, 0.9), (20.0, 20.4, 2, 0.8)),
    "three discs": image_of((15.3, 20, 2, 0.9), (19.0, 20.4, 2, 0.8), (17, 23.6, 2, 0.8)),
    "ring": image_of(ring=(20, 20, 8, 3)),
    "wide ring": image_of(ring=(20, 20, 14, 3)),
    "disc in a ring": image_of((20, 20, 2, 0.9), ring=(20, 20, 12, 2)),
    "large disc": image_of((20, 20, 7, 0.9)),
    "single pixel": image_of((7, 33, 0.1, 0.7)),
    "in the corner": image_of((0, 0, 2, 0.9), (39, 39, 2, 0.9)),
    "twenty sources": twenty_sources(),
}


def positions(found):
    return np.column_stack([found.x, found.y])


def hard_map(seed):
    """Clumps of discs, or sixty blobs, a ragged ridge, or scattered single pixels."""
    rng = np.random.default_rng([5, seed])
    n = 64
    y, x = np.mgrid[:n, :n]
    image = np.zeros((n, n))
    if seed % 4 == 0:
        for center in np.repeat(rng.uniform(10, n - 10, (5, 2)), 4, axis=0):
            dx, dy = rng.normal(0, 3, 2)
            disc = np.hypot(x - center[0] - dx, y - center[1] - dy) <= rng.uniform(1.5, 3)
            image = np.maximum(image, disc * rng.uniform(0.3, 1))
    elif seed % 4 == 1:
        for x_center, y_center in rng.uniform(0, n - 1, (60, 2)):
            r2, width = (x - x_center) ** 2 + (y - y_center) ** 2, rng.uniform(0.7, 1.7)
            image = np.maximum(image, rng.uniform(0.2, 1) * np.exp(-r2 / 2 / width**2))
    elif seed % 4 == 2:
        angle, wiggle = rng.uniform(0, np.pi), rng.uniform(0.6, 1, (n, n))
        across = (x - n / 2) * np.cos(angle) + (y - n / 2) * np.sin(angle)
        image = wiggle * np.exp(-(across**2) / 2 / rng.uniform(1, 3) ** 2)
    else:
        image[rng.random((n, n)) < 0.01] = 0.6
    return image.astype(np.float32)


MAPS |= {f"hard {seed}": hard_map(seed) for seed in range(4)}


@pytest.mark.parametrize("preset", ["default", "reference"])
@pytest.mark.parametrize("name", MAPS)
def test_the_literal_algorithm_scores_no_better(name, preset):
    image, config = MAPS[name], PRESETS[preset]
    found = find_clusters(image[None], config=config)
    _, literal = literal_kmeans(image, config)
    assert objective(positions(found), image, config) >= literal - 1e-3


def test_clear_sources_are_found_at_their_centres():
    image = image_of((10, 12, 2, 0.9), (30, 25, 2, 0.6))
    for config in PRESETS.values():
        found = find_clusters(np.stack([np.zeros_like(image), image]), config=config)
        np.testing.assert_array_equal(found.row, [1, 1])
        np.testing.assert_allclose(positions(found), [[10, 12], [30, 25]], atol=1e-6)
        np.testing.assert_allclose(found.probability, [0.9, 0.6], rtol=1e-6)
        np.testing.assert_array_equal(found.n_pixels, [13, 13])


def test_centroids_are_weighted_and_not_truncated():
    image = np.zeros((1, 9, 9))
    image[0, 4, 4], image[0, 4, 5] = 0.9, 0.3
    found = find_clusters(image)
    np.testing.assert_allclose(positions(found), [[4.25, 4]])


def test_a_close_pair_is_split_by_the_smaller_radius_alone():
    image = MAPS["touching discs"]
    assert len(find_clusters(image[None], config=PRESETS["default"])) == 2
    assert len(find_clusters(image[None], config=PRESETS["reference"])) == 1


def test_there_are_never_more_clusters_than_pixels_or_the_ceiling():
    image = np.zeros((1, 30, 30))
    image[0, ::10, ::10] = 0.9
    assert len(find_clusters(image)) == 9
    ridge = image_of(ring=(20, 20, 12, 2))[None]
    assert len(find_clusters(ridge, config=ClusteringConfig(max_clusters=3))) == 3


@pytest.mark.parametrize("shape", [(0, 160, 160), (3, 8, 8)])
def test_nothing_above_the_cut_gives_no_candidates(shape):
    found = find_clusters(np.full(shape, ClusteringConfig().cut))
    assert len(found) == 0
    kinds = [getattr(found, name).dtype.kind for name in found.__dataclass_fields__]
    assert kinds == ["i", "f", "f", "f", "i"]


def test_not_a_number_is_no_candidate():
    assert len(find_clusters(np.full((1, 8, 8), np.nan))) == 0


def test_pixels_that_are_not_kept_are_not_clustered():
    image = image_of((10, 12, 2, 0.9), (30, 25, 2, 0.6))[None]
    found = find_clusters(image, keep=lambda row, x, y: x > 20)
    np.testing.assert_allclose(positions(found), [[30, 25]], atol=1e-6)
    assert len(find_clusters(image, keep=lambda row, x, y: x > 90)) == 0


def test_patches_do_not_influence_each_other():
    images = [MAPS["twenty sources"], MAPS["ring"], MAPS["single pixel"]]
    together = find_clusters(np.stack(images))
    for row, image in enumerate(images):
        alone = find_clusters(image[None])
        here = together.select(together.row == row)
        np.testing.assert_array_equal(positions(here), positions(alone))
        np.testing.assert_array_equal(here.probability, alone.probability)


def test_a_large_faint_island_holds_circles_that_do_not_overlap():
    image = np.random.default_rng(0).uniform(0.009, 0.02, (32, 32))
    config = ClusteringConfig(cut=0.01)
    found = find_clusters(image[None], config=config)
    # most of a plane of circles: the densest packing holds 0.9 of the probability
    assert objective(positions(found), image, config) > 0.4 * image.sum()
    assert found.n_pixels.min() > 0


def test_candidates_can_be_selected():
    found = find_clusters(image_of((10, 12, 2, 0.9), (30, 25, 2, 0.6))[None])
    assert isinstance(found.select(found.x > 20), PixelSources)
    assert len(found.select(found.x > 20)) == 1
