import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.catalog.match import (
    MAX_SIGMAS,
    SIGMAS_95,
    Positions,
    find_counterparts,
    inside,
    near,
    one_to_one,
)
from astro_unetloc.sphere import frame_rotation, move, tangent_axes, vectors_from_lonlat


def make_positions(ra, dec, ellipse=(np.nan, np.nan, np.nan)):
    """Positions from ICRS degrees, with one 95 % ellipse for all or one each."""
    ra, dec = np.broadcast_arrays(np.atleast_1d(ra).astype(float), np.atleast_1d(dec))
    vectors = vectors_from_lonlat(ra, dec) @ frame_rotation("icrs").T
    return Positions(vectors, np.broadcast_to(np.asarray(ellipse, float), (len(ra), 3)))


def find_both(left, right, radius_deg=0.3, by_errors=True):
    return find_counterparts(left, right, radius_deg, by_errors=by_errors)


# Normalized separation


@pytest.mark.parametrize(
    ("angle", "expected"), [(0.0, 0.2 / 0.3), (90.0, 0.2 / 0.1), (180.0, 0.2 / 0.3)]
)
def test_separation_is_measured_along_the_ellipse(angle, expected):
    # One standard deviation is 0.3 deg along the position angle and 0.1 deg across; the offset is
    # 0.2 deg to the north.
    ellipse = (0.3 * SIGMAS_95, 0.1 * SIGMAS_95, angle)
    left = make_positions(10.0, 20.0, ellipse)
    right = make_positions(10.0, 20.2, (1e-6, 1e-6, 0.0))
    assert find_both(left, right).separation_norm == pytest.approx([expected], rel=1e-3)


def test_position_angle_is_east_of_north():
    ellipse = (0.3 * SIGMAS_95, 0.1 * SIGMAS_95, 45.0)
    north_east, north_west = make_positions(10.1, 0.1), make_positions(9.9, 0.1)
    point = np.array([[1e-6, 1e-6, 0.0]])
    distance = np.hypot(0.1, 0.1)
    for other, sigma in ((north_east, 0.3), (north_west, 0.1)):
        pair = find_both(make_positions(10.0, 0.0, ellipse), Positions(other.vectors, point))
        assert pair.separation_norm == pytest.approx([distance / sigma], rel=1e-3)


def test_errors_of_both_add_in_quadrature():
    left = make_positions(10.0, 0.0, (0.3, 0.3, 0.0))
    right = make_positions(10.25, 0.0, (0.4, 0.4, 70.0))
    assert find_both(left, right).separation_norm == pytest.approx([0.5 * SIGMAS_95], rel=1e-4)


def test_ellipse_does_not_turn_on_the_way_across_the_pole():
    # North is opposite on the two sides: both ellipses lie along the line that joins them.
    left = make_positions(0.0, 89.9, (0.3, 0.03, 0.0))
    right = make_positions(180.0, 89.9, (0.3, 0.03, 0.0))
    sigma = np.hypot(0.3, 0.3) / SIGMAS_95
    assert find_both(left, right).separation_norm == pytest.approx([0.2 / sigma], rel=1e-3)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_normalized_separation_does_not_depend_on_the_side(seed):
    rng = np.random.default_rng(seed)
    sizes = np.sort(rng.uniform(0.02, 0.3, (2, 2)), axis=1)[:, ::-1]
    ellipses = np.column_stack([sizes, rng.uniform(-90, 270, 2)])
    ra, dec = rng.uniform(0, 360), rng.uniform(-85, 85)
    left = make_positions(ra, dec, ellipses[0])
    right = make_positions(ra + 0.05 / np.cos(np.radians(dec)), dec + 0.05, ellipses[1])
    pair, other = find_both(left, right), find_both(right, left)
    assert pair.separation_norm == pytest.approx(other.separation_norm, rel=0.02)


def test_one_in_twenty_true_pairs_exceeds_the_limit_of_95_percent():
    rng, n = np.random.default_rng(0), 20_000
    ellipse = np.column_stack(
        [rng.uniform(0.1, 0.2, n), rng.uniform(0.02, 0.1, n), rng.uniform(0, 180, n)]
    )
    truth = make_positions(rng.uniform(0, 360, n), rng.uniform(-80, 80, n), ellipse)
    east, north = tangent_axes(truth.vectors)
    seen = []
    for _ in range(2):
        offset = np.einsum("nkx,nk->nx", truth.axes(np.arange(n)), rng.standard_normal((n, 2)))
        x, y = np.einsum("nx,nx->n", offset, east), np.einsum("nx,nx->n", offset, north)
        seen.append(Positions(move(truth.vectors, east, north, x, y), ellipse))
    pairs = find_both(*seen)
    own = pairs.catalog_index == pairs.reference_index
    norm = pairs.separation_norm[own & pairs.eligible]
    assert len(norm) / n == pytest.approx(0.999, abs=0.001)
    assert (norm <= SIGMAS_95).sum() / n == pytest.approx(0.95, abs=0.005)


# What is eligible


def test_errors_decide_where_both_are_known_and_the_radius_elsewhere():
    ellipses = [(0.02, 0.02, 0.0), (0.4, 0.4, 0.0), (np.nan, np.nan, np.nan)]
    left = make_positions([10.0, 20.0, 30.0], 0.0, ellipses)
    right = make_positions([10.2, 20.5, 30.2], 0.0, (0.02, 0.02, 0.0))
    pairs = find_both(left, right)
    assert dict(zip(pairs.catalog_index.tolist(), pairs.eligible.tolist())) == {
        0: False,  # listed, as it lies within the radius, but 17 standard deviations away
        1: True,  # beyond the radius, 3 standard deviations away
        2: True,
    }
    assert np.isnan(pairs.separation_norm[pairs.catalog_index == 2]).all()


def test_without_errors_the_radius_decides_everywhere():
    left = make_positions([10.0, 20.0], 0.0, (0.02, 0.02, 0.0))
    right = make_positions([10.2, 20.4], 0.0, (0.02, 0.02, 0.0))
    pairs = find_both(left, right, by_errors=False)
    assert pairs.catalog_index.tolist() == [0]
    assert pairs.eligible.all()


def test_density_of_offsets_integrates_to_one():
    x, y = np.meshgrid(np.arange(-0.5, 0.5, 0.01), np.arange(-0.5, 0.5, 0.01))
    right = make_positions(10 + x.ravel(), y.ravel(), (0.1, 0.05, 60.0))
    # Where an error is unknown the radius, beyond which no pair is listed, stands for 95 %.
    for ellipse, expected in (((0.1, 0.1, 0.0), 1.0), ((np.nan,) * 3, 0.95)):
        left = make_positions(10.0, 0.0, ellipse)
        density = find_both(left, right, radius_deg=0.45).offset_density
        assert density.sum() * 0.01**2 == pytest.approx(expected, abs=0.01)


def test_large_and_small_errors_are_searched_alike():
    """Groups of like size give what one search of everything gives."""
    rng, n = np.random.default_rng(1), 200
    size = 10 ** rng.uniform(-2.5, 0.3, (2, n))
    sides = [
        make_positions(
            rng.uniform(0, 20, n),
            rng.uniform(-10, 10, n),
            np.column_stack([s, s * rng.uniform(0.3, 1, n), rng.uniform(0, 180, n)]),
        )
        for s in size
    ]
    found = find_both(*sides)
    everything = find_counterparts(*sides, 60.0, by_errors=True)
    wanted = everything.separation_norm <= MAX_SIGMAS
    expected = set(zip(everything.catalog_index[wanted], everything.reference_index[wanted]))
    chosen = found.eligible
    assert set(zip(found.catalog_index[chosen], found.reference_index[chosen])) == expected
    assert len(expected) > 100


# One to one


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=40))
def test_one_to_one_is_what_a_loop_takes(pairs):
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    order = np.random.default_rng(len(pairs)).permutation(len(pairs))
    free_rows, free_columns, expected = set(range(9)), set(range(9)), []
    for pair in order:
        if rows[pair] in free_rows and columns[pair] in free_columns:
            free_rows.remove(rows[pair])
            free_columns.remove(columns[pair])
            expected.append(int(pair))
    assert one_to_one(rows, columns, order).tolist() == expected


# Searching


def test_near_takes_pairs_at_exactly_the_radius():
    left, right = make_positions([0.0, 50.0], 0.0), make_positions([0.25, 50.3], 0.0)
    rows, columns, angle = near(left.vectors, right.vectors, 0.25)
    assert (rows.tolist(), columns.tolist()) == ([0], [0])
    assert angle == pytest.approx([0.25])
    assert [len(part) for part in near(left.vectors[:0], right.vectors, 1.0)] == [0, 0, 0]


def test_inside_sorts_by_row_and_distance():
    left, centers = make_positions([10.0, 10.6], 0.0), make_positions([10.5, 10.1, 80.0], 0.0)
    rows, columns, angle = inside(left.vectors, centers.vectors, np.array([1.0, 0.3, 1.0]))
    assert rows.tolist() == [0, 0, 1]
    assert columns.tolist() == [1, 0, 0]
    assert angle == pytest.approx([0.1, 0.5, 0.1])
