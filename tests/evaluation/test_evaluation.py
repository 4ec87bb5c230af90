import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.evaluation.metrics import combine, evaluate, found_scores, paired_interval


def make_truth(lon, lat, npred=10.0, radius=0.0):
    n = len(lon)
    return QTable(
        {
            "GLON": np.array(lon, float) * u.deg,
            "GLAT": np.array(lat, float) * u.deg,
            "Npred": np.broadcast_to(npred, n).astype(float),
            "Radius": np.broadcast_to(radius, n).astype(float) * u.deg,
        }
    )


def make_catalog(lon, lat, score=None):
    score = np.linspace(0.9, 0.5, len(lon)) if score is None else score
    return QTable(
        {
            "GLON": np.array(lon, float) * u.deg,
            "GLAT": np.array(lat, float) * u.deg,
            "Score": np.array(score, float),
        }
    )


TRUTH = make_truth([0, 10, 20, 30], [0, 0, 0, 0])


def separation(lon_1, lat_1, lon_2, lat_2):
    """Angle in degrees by the haversine formula."""
    lon_1, lat_1, lon_2, lat_2 = np.radians([lon_1, lat_1, lon_2, lat_2])
    a = np.sin((lat_2 - lat_1) / 2) ** 2
    a += np.cos(lat_1) * np.cos(lat_2) * np.sin((lon_2 - lon_1) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(a)))


def score_by_hand(catalog, truth):
    """The definition of what counts as found, word by word: (n_true, right, wrong, ignored)."""
    point = [t for t in truth if t["Radius"].value == 0 and t["Npred"] >= 3]
    extended = [t for t in truth if t["Radius"].value > 0 and t["Npred"] >= 3]
    free = list(range(len(point)))
    right = wrong = ignored = 0
    for row in sorted(catalog, key=lambda row: -row["Score"]):
        here = (row["GLON"].value, row["GLAT"].value)
        near = []
        for number in free:
            there = point[number]["GLON"].value, point[number]["GLAT"].value
            if separation(*here, *there) <= 0.3:
                near.append((separation(*here, *there), number))
        if near:
            number = min(near)[1]
            free.remove(number)
            if point[number]["Npred"] >= 8:
                right += 1
            else:
                ignored += 1
        elif any(
            separation(*here, t["GLON"].value, t["GLAT"].value) <= max(0.3, t["Radius"].value)
            for t in extended
        ):
            ignored += 1
        else:
            wrong += 1
    return sum(t["Npred"] >= 8 for t in point), right, wrong, ignored


def counts(scores):
    right = int(scores.correct.sum())
    return scores.n_true, right, len(scores.correct) - right, scores.n_ignored


# Worked out by hand


def test_perfect_catalog_scores_one():
    scores = evaluate(make_catalog([0, 10, 20, 30], [0, 0, 0, 0]), TRUTH)
    assert (scores.completeness, scores.purity, scores.average_precision) == (1, 1, 1)
    np.testing.assert_allclose(scores.offset_deg, 0, atol=1e-9)
    assert scores.completeness_at(0.9) == (1.0, 0.5)


def test_empty_catalog_finds_nothing():
    scores = evaluate(make_catalog([], []), TRUTH)
    assert counts(scores) == (4, 0, 0, 0)
    assert scores.completeness == 0
    assert np.isnan(scores.purity)
    assert scores.average_precision == 0
    assert scores.completeness_at(0.9) == (0.0, 1.0)
    assert "0 detections" in scores.summary()


@pytest.mark.parametrize("catalog", [make_catalog([], []), make_catalog([0], [0])])
def test_no_truth_leaves_completeness_undefined(catalog):
    scores = evaluate(catalog, make_truth([], []))
    assert np.isnan(scores.completeness)
    assert np.isnan(scores.average_precision)
    assert counts(scores) == (0, 0, len(catalog), 0)


@pytest.mark.parametrize(("shift", "found"), [(0.1, 4), (0.299, 4), (0.301, 0)])
def test_shifted_catalog_is_found_up_to_the_radius(shift, found):
    scores = evaluate(make_catalog([0, 10, 20, 30], [shift] * 4), TRUTH)
    assert counts(scores) == (4, found, 4 - found, 0)
    np.testing.assert_allclose(scores.offset_deg, [shift] * found, atol=1e-9)


def test_duplicates_are_wrong():
    scores = evaluate(make_catalog([0, 0.05, 0.1], [0, 0, 0]), TRUTH)
    assert counts(scores) == (4, 1, 2, 0)
    assert scores.purity == pytest.approx(1 / 3)


def test_random_positions_are_wrong():
    scores = evaluate(make_catalog([100, 200, 300], [50, -50, 10]), TRUTH)
    assert counts(scores) == (4, 0, 3, 0)


def test_better_score_chooses_first():
    # the better one lies nearer to the second source and takes it; the other takes the first
    truth = make_truth([0.0, 0.2], [0.0, 0.0])
    scores = evaluate(make_catalog([0.12, 0.18], [0, 0], [0.9, 0.5]), truth)
    assert counts(scores) == (2, 2, 0, 0)
    np.testing.assert_allclose(scores.offset_deg, [0.08, 0.18], atol=1e-9)


@pytest.mark.parametrize(
    ("npred", "expected"),
    [(8.0, (1, 1, 0, 0)), (7.99, (0, 0, 0, 1)), (3.0, (0, 0, 0, 1)), (2.99, (0, 0, 1, 0))],
)
def test_expected_photons_decide_what_a_match_is_worth(npred, expected):
    scores = evaluate(make_catalog([0], [0]), make_truth([0], [0], npred=npred))
    assert counts(scores) == expected


@pytest.mark.parametrize(
    ("offset", "radius", "expected"),
    [
        (0.9, 1.0, (0, 0, 0, 1)),
        (1.1, 1.0, (0, 0, 1, 0)),
        (0.25, 0.1, (0, 0, 0, 1)),
        (0.35, 0.1, (0, 0, 1, 0)),
    ],
)
def test_detections_in_extended_sources_are_listed_apart(offset, radius, expected):
    scores = evaluate(make_catalog([offset], [0]), make_truth([0], [0], 500.0, radius))
    assert counts(scores) == expected


def test_average_precision_by_hand():
    # right, wrong, right, wrong; of four true sources: (1/1 + 2/3) / 4
    scores = evaluate(make_catalog([0, 50, 10, 60], [0] * 4), TRUTH)
    assert scores.correct.tolist() == [True, False, True, False]
    assert scores.average_precision == pytest.approx((1 + 2 / 3) / 4)
    completeness, threshold = scores.completeness_at(0.6)
    assert completeness == 0.5
    assert threshold == pytest.approx(scores.score[2])


def test_order_of_the_rows_does_not_matter():
    catalog = make_catalog([0, 50, 10, 60], [0] * 4)
    first, again = evaluate(catalog, TRUTH), evaluate(catalog[[2, 0, 3, 1]], TRUTH[::-1])
    np.testing.assert_array_equal(first.score, again.score)
    np.testing.assert_array_equal(first.correct, again.correct)


def test_match_counts_in_the_latitudes_of_its_true_source():
    truth, catalog = make_truth([0, 5], [9.9, 30.0]), make_catalog([0, 60], [10.1, 5.0])
    low = evaluate(catalog, truth, max_latitude=10.0)
    high = evaluate(catalog, truth, min_latitude=10.0)
    assert counts(low) == (1, 1, 1, 0)
    assert counts(high) == (1, 0, 0, 0)


def test_match_counts_in_the_region_of_its_true_source():
    # sources on both sides of the border at longitude 0, found on the other side; one wrong each
    truth = make_truth([0.1, 359.9, 5, 355], [0, 1, 2, 2])
    catalog = make_catalog([359.95, 0.05, 7, 353], [0, 1, 2, 2])
    east = evaluate(catalog, truth, region=lambda vectors: vectors[:, 1] > 0)
    west = evaluate(catalog, truth, region=lambda vectors: vectors[:, 1] < 0)
    assert counts(east) == counts(west) == (2, 1, 1, 0)
    assert counts(evaluate(catalog, truth)) == (4, 2, 2, 0)


def test_region_without_truth_or_detections_is_empty():
    for catalog in (make_catalog([], []), make_catalog([1], [0])):
        scores = evaluate(catalog, make_truth([], []), region=lambda v: np.zeros(len(v), bool))
        assert counts(scores) == (0, 0, 0, 0)


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_poles_count(pole):
    assert counts(evaluate(make_catalog([0], [pole]), make_truth([77], [pole]))) == (1, 1, 0, 0)


def test_longitude_zero_is_no_border():
    scores = evaluate(make_catalog([359.95], [0]), make_truth([0.05], [0]))
    assert counts(scores) == (1, 1, 0, 0)


@pytest.mark.parametrize("column", ["Npred", "Radius", "GLAT"])
def test_catalog_of_others_is_no_truth(column):
    truth = TRUTH.copy()
    truth.remove_column(column)
    with pytest.raises(ValueError, match=f"truth must have the columns .*missing {column}; score"):
        evaluate(make_catalog([0], [0]), truth)


def test_catalog_needs_a_score():
    with pytest.raises(ValueError, match="catalog must have the columns .*missing Score"):
        evaluate(TRUTH, TRUTH)


# Laws


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_independent_script_agrees(seed):
    rng = np.random.default_rng(seed)
    n = 40
    truth = make_truth(
        rng.uniform(-2, 2, n) % 360,
        rng.uniform(-2, 2, n),
        npred=rng.choice([1.0, 5.0, 12.0, 80.0], n),
        radius=np.where(rng.random(n) < 0.1, 0.5, 0.0),
    )
    catalog = make_catalog(rng.uniform(-2, 2, n) % 360, rng.uniform(-2, 2, n), rng.random(n))
    assert counts(evaluate(catalog, truth)) == score_by_hand(catalog, truth)


def test_each_true_source_knows_the_score_that_found_it():
    truth = make_truth([0, 10, 20, 30, 40], [0] * 5, npred=[9, 2, 5, 9, 9], radius=[0, 0, 0, 1, 0])
    catalog = make_catalog([0.2, 0.1, 10, 20, 30, 50], [0] * 6, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    expected = [0.6, np.nan, 0.8, np.nan, np.nan]
    np.testing.assert_array_equal(found_scores(catalog, truth), expected)
    assert np.isnan(found_scores(catalog[:0], truth)).all()
    pair = make_truth([0, 0.25], [0, 0], npred=[5, 50])
    np.testing.assert_array_equal(found_scores(catalog[:1], pair), [np.nan, 0.5])
    np.testing.assert_array_equal(found_scores(catalog[1:2], pair), [0.6, np.nan])
    np.testing.assert_array_equal(found_scores(catalog[1:2], pair, brightest=True), [np.nan, 0.6])
    assert len(found_scores(catalog, truth[:0])) == 0


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_sources_with_a_score_are_those_that_count_as_found(seed):
    rng = np.random.default_rng(seed)
    truth = make_truth(rng.uniform(0, 3, 40), rng.uniform(-2, 2, 40), npred=rng.uniform(1, 20, 40))
    catalog = make_catalog(rng.uniform(0, 3, 50), rng.uniform(-2, 2, 50), rng.random(50))
    found = np.isfinite(found_scores(catalog, truth))
    assert np.sum(found & (truth["Npred"] >= 8)) == evaluate(catalog, truth).correct.sum()


def test_several_skies_are_one_evaluation():
    perfect = evaluate(make_catalog([0, 10], [0, 0], [0.9, 0.3]), make_truth([0, 10], [0, 0]))
    wrong = evaluate(make_catalog([50], [0], [0.6]), make_truth([0], [0]))
    both = combine([perfect, wrong])
    assert counts(both) == (3, 2, 1, 0)
    assert both.score.tolist() == [0.9, 0.6, 0.3]
    assert both.correct.tolist() == [True, False, True]
    assert both.average_precision == pytest.approx((1 + 2 / 3) / 3)
    assert combine([perfect]).summary() == perfect.summary()


# The paired bootstrap


def make_parts(rng, n, *, skill):
    """Evaluations of n parts with two true sources each, found with a probability."""
    parts = []
    for chance in rng.random(n):
        found = np.array([chance < skill, chance < skill / 2])
        parts.append(evaluate(make_catalog(np.array([0, 10])[found], [0] * found.sum()), TRUTH[:2]))
    return parts


def completeness(scores):
    return scores.completeness


def test_finder_does_not_differ_from_itself(rng):
    parts = make_parts(rng, 30, skill=0.7)
    assert paired_interval(parts, parts, completeness, n_samples=50) == (0.0, 0.0, 0.0)


def test_interval_is_that_of_the_mean(rng):
    # of parts with one source each the completeness is a mean; so is the difference
    first, second = (rng.random(400) < chance for chance in (0.8, 0.6))
    truth = TRUTH[:1]
    parts = [
        [evaluate(make_catalog([0] * found, [0] * found), truth) for found in finder.astype(int)]
        for finder in (first, second)
    ]
    difference, low, high = paired_interval(*parts, completeness, level=0.68, n_samples=400)
    each = first.astype(float) - second
    assert difference == pytest.approx(each.mean())
    assert (high - low) / 2 == pytest.approx(each.std() / 20, rel=0.1)
    assert low < difference < high


def test_same_seed_gives_the_same_interval(rng):
    parts = make_parts(rng, 20, skill=0.8), make_parts(rng, 20, skill=0.5)
    first, again, other = (paired_interval(*parts, completeness, rng=seed) for seed in (1, 1, 2))
    assert first == again
    assert first[0] == other[0]


def test_parts_must_be_those_of_one_truth(rng):
    parts = make_parts(rng, 3, skill=0.8)
    with pytest.raises(ValueError, match="same parts of a sky .*; got 3 and 2 parts"):
        paired_interval(parts, parts[:2], completeness)
    with pytest.raises(ValueError, match="got 0 and 0 parts with 0 and 0 of them; score both"):
        paired_interval([], [], completeness)
