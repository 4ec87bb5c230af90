"""Parts of the benchmark of baseline classifiers, on hand-made arrays."""

import numpy as np
import pytest

from astro_unetloc.simulation.sky import expected_photons
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat


@pytest.fixture(scope="module")
def benchmark(import_benchmark):
    return import_benchmark("try_classes")


def test_members_of_a_pair_are_a_pulsar_and_an_agn_near_each_other(benchmark):
    pairs = benchmark.drawn_pairs(np.random.default_rng(0), (0.25, 0.5))
    first, second = np.split(np.arange(len(pairs)), 2)
    assert set(pairs.source_class[first]) == {0}
    assert set(pairs.source_class[second]) == {1}
    distance = separation_deg(pairs.vectors[first], pairs.vectors[second])
    assert 0.249 < distance.min() < distance.max() < 0.501
    photons = expected_photons(pairs, benchmark.EXPOSURE, benchmark.DEFAULT_RANGE)
    assert 29.9 < photons.min() < photons.max() < 300.1


def test_probabilities_are_corrected_for_the_sources_of_training_skies(benchmark):
    found = benchmark.natural(np.array([[0.2, 0.8, 0.0], [1 / 7, 4 / 7, 2 / 7]]))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])


def test_weights_give_pulsars_the_latitudes_of_agn(benchmark):
    latitude, true_class = (
        np.repeat([3.0, 50.0, 3.0, 50.0], [10, 90, 60, 40]),
        np.repeat([0, 1], 100),
    )
    weight = benchmark.even_latitudes(vectors_from_lonlat(0.0 * latitude, latitude), true_class)
    np.testing.assert_allclose(weight[true_class == 0], 1.0)
    pulsars = weight[true_class == 1]
    assert pulsars[latitude[100:] == 3.0].sum() / pulsars.sum() == pytest.approx(0.1, abs=0.02)


def test_all_outputs_of_the_class_unet_count_in_its_loss(benchmark):
    target = np.zeros((1, 2, 1, 4), np.float32)
    target[0, 0, 0, 1], target[0, 1, 0, 3] = 1.0, 1.0  # a pixel of a pulsar, one of the background
    right = np.concatenate([[[1, 0], [0, 1]], target[0, :, 0], target[0, :, 0, :3]], axis=1)
    right = np.concatenate([right, np.full((2, 3), [0, 1, 0])], axis=1)[None, :, None]
    right = right.astype(np.float32)
    assert np.max(benchmark.class_loss(target, right)) < 1e-5
    for first, second in ((0, 1), (2, 3), (6, 7), (9, 10)):
        wrong = right.copy()
        wrong[..., [first, second]] = right[..., [second, first]]
        assert np.max(benchmark.class_loss(target, wrong)) > 10
