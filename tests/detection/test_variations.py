import numpy as np

from astro_unetloc.detection.clustering import (
    Trials,
    choose_parts,
    divide,
    find_islands,
    potential,
    vary,
)


def parts_of(images, xy):
    """The map as one part with these clusters."""
    islands = find_islands(images, images > 0, 5.0)
    division = divide(islands, Trials(np.array([0]), np.array([0, len(xy)]), np.array(xy, float)))
    windows = {"width_pix": 10.0, "gap_pix": 0.0, "offset": np.zeros(2), "whole": 4}
    return choose_parts(islands, division, np.ones(len(xy), dtype=bool), **windows)


def strip(n_pixels=12):
    images = np.zeros((1, 9, n_pixels + 4))
    images[0, 4, 2:-2] = 0.8
    return images


def test_variations_are_distinct_starts_about_as_many_as_now():
    parts = parts_of(strip(), [[4, 4], [9, 4], [12, 4]])
    trials = vary(parts, np.random.default_rng(0), 2.0)
    assert len(trials) >= 7
    assert set(trials.k) <= {1, 2, 3, 4, 5}
    for number in range(len(trials)):
        xy = trials.select([number]).xy
        assert len(np.unique(xy, axis=0)) == len(xy)


def test_many_clusters_have_more_variations():
    few, many = (parts_of(strip(6 * n), [[4 + 6 * i, 4] for i in range(n)]) for n in (2, 4))
    n_few, n_many = (len(vary(parts, np.random.default_rng(0), 2.0)) for parts in (few, many))
    assert n_many > n_few


def test_one_cluster_of_one_pixel_has_no_variation():
    parts = parts_of(strip(1), [[2, 4]])
    assert len(vary(parts, np.random.default_rng(0), 2.0)) == 0


def test_nothing_can_be_gained_where_circles_hold_all_and_do_not_overlap():
    objective = {"radius_pix": 2.0, "overlap_penalty": -10.0}
    assert potential(parts_of(strip(5), [[4, 4]]), **objective) == 0
    free = potential(parts_of(strip(10), [[4, 4]]), **objective)
    np.testing.assert_allclose(free, 1.0)
    # three shared pixels of 0.8 that are lost and cost ten each
    overlap = potential(parts_of(strip(7), [[4, 4], [6, 4]]), **objective)
    assert overlap > 3.0
