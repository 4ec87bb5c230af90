import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_judgements import by_part, make_catalog, make_sky, make_truth

from astro_unetloc.evaluation.metrics import compare, compare_words, paired_interval
from astro_unetloc.evaluation.truth import SKIES, join, judge

STATISTICS = {
    "average precision": lambda e: e.average_precision,
    "completeness at 95 % purity": lambda e: e.completeness_at(0.95)[0],
    "completeness": lambda e: e.completeness,
    "purity": lambda e: e.purity,
    "median offset": lambda e: np.median(e.offset_deg),
}


def make_patches(seed, n_parts, share, *, n=30, shift=0.01, n_wrong=5):
    """Judgement of many parts with the same n true sources each, of which a share is found."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(n_parts):
        place = np.random.default_rng(number)
        lon, lat = place.uniform(0, 20, n), place.uniform(-20, 20, n)
        truth = make_truth(lon, lat, place.choice([5.0, 10.0, 50.0], n))
        found = rng.random(n) < share
        found_lon = np.append(lon[found], rng.uniform(30, 50, n_wrong))
        found_lat = np.append(lat[found] + rng.normal(0, shift, found.sum()), rng.uniform(-20, 20,
                              n_wrong))  # fmt: skip
        score = np.append(rng.random(found.sum()) ** 0.2, rng.random(n_wrong) ** 2)
        parts.append(judge(make_catalog(found_lon, found_lat, score), truth, part=f"1/{number}"))
    return join(parts)


def values(table, sky, statistic):
    (row,) = table[
        (np.asarray(table["Sky"]) == sky) & (np.asarray(table["Statistic"]) == statistic)
    ]
    return row


def test_catalog_does_not_differ_from_itself():
    judged = make_patches(0, 20, 0.7)
    table = compare(judged, judged, n_samples=50)
    assert len(table) == len(SKIES) * len(STATISTICS)
    assert not np.any(table["Real"])
    for name in ("Difference", "Low", "High"):
        assert np.all(table[name] == 0)
    assert compare_words(table).count("\n") == 2
    assert "really" not in compare_words(table)


@pytest.mark.parametrize("thresholds", [None, (0.5, 0.7)])
def test_intervals_are_those_of_the_slow_bootstrap(thresholds):
    first, second = make_patches(0, 12, 0.8), make_patches(1, 12, 0.7, n_wrong=8, shift=0.02)
    table = compare(first, second, thresholds=thresholds, n_samples=40, rng=3)
    for sky, (low, high) in SKIES.items():
        for statistic, of in STATISTICS.items():
            cuts = (0, 0) if thresholds is None or "precision" in statistic else thresholds
            cuts = (0, 0) if "95" in statistic else cuts
            parts = [
                [
                    part.evaluation(min_latitude=low, max_latitude=high)
                    for part in by_part(judged.select(cut)).values()
                ]
                for judged, cut in zip((first, second), cuts)
            ]
            expected = paired_interval(*parts, of, n_samples=40, rng=3)
            row = values(table, sky, statistic)
            found = [row[name] for name in ("Difference", "Low", "High")]
            np.testing.assert_allclose(found, expected, atol=1e-10, err_msg=f"{sky} {statistic}")


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(0, 2**31))
def test_statistics_are_those_of_the_evaluation(seed):
    # scores with ties and extended sources
    first, second = (
        join(
            [
                judge(catalog, make_sky(seed + i)[1], part=str(i))
                for i, catalog in enumerate(make_sky(seed + j)[0] for j in numbers)
            ]
        )
        for numbers in ((0, 1), (1, 0))
    )
    table = compare(first, second, n_samples=2)
    for column, judged in (("First", first), ("Second", second)):
        whole = judged.evaluation()
        for statistic, of in STATISTICS.items():
            found = values(table, "all sky", statistic)[column]
            if statistic != "median offset" or len(whole.offset_deg):
                assert found == pytest.approx(of(whole), nan_ok=True), statistic
            else:
                assert np.isnan(found)


def test_better_catalog_is_really_better():
    table = compare(make_patches(0, 40, 0.9), make_patches(1, 40, 0.5), n_samples=200)
    for statistic in ("average precision", "completeness"):
        row = values(table, "all sky", statistic)
        assert row["Real"]
        assert 0 < row["Low"] < row["Difference"] < row["High"]
    worse = compare(make_patches(1, 40, 0.5), make_patches(0, 40, 0.9), n_samples=200)
    assert values(worse, "all sky", "completeness")["Real"]
    assert values(worse, "all sky", "completeness")["High"] < 0
    assert "all sky: really differ: average precision" in compare_words(table)


def test_interval_holds_what_it_says():
    # two catalogues of the same skill are found different in about one case of five
    lon = np.arange(0, 360, 2.0)
    truth = make_truth(lon, np.full(len(lon), 30.0))

    def twelfth(vectors):
        return np.arctan2(vectors[:, 1], vectors[:, 0]) // np.radians(12)

    def caught(rng):
        found = rng.random(len(lon)) < 0.6
        return judge(make_catalog(lon[found], np.full(found.sum(), 30)), truth, part=twelfth)

    rng = np.random.default_rng(0)
    real = [
        values(
            compare(caught(rng), caught(rng), level=0.8, n_samples=100), "all sky", "completeness"
        )["Real"]
        for _ in range(60)
    ]
    assert 0.08 < np.mean(real) < 0.35


def test_same_seed_gives_the_same_table():
    pair = make_patches(0, 10, 0.9), make_patches(1, 10, 0.8)
    first, again, other = (compare(*pair, n_samples=20, rng=seed) for seed in (1, 1, 2))
    assert np.array_equal(first["Low"], again["Low"], equal_nan=True)
    assert not np.array_equal(first["Low"], other["Low"], equal_nan=True)
    assert first.meta["n_parts"] == 10


def test_sky_without_truth_or_detections_is_unknown():
    truth = make_truth([0, 50], [30, 30])
    nothing = join([judge(make_catalog([], []), truth[i : i + 1], part=str(i)) for i in range(2)])
    table = compare(nothing, nothing, n_samples=20)
    high, low = (values(table, sky, "completeness") for sky in ("|b| > 10 deg", "|b| < 10 deg"))
    assert (high["First"], high["Difference"], bool(high["Real"])) == (0, 0, False)
    assert np.isnan([low["First"], low["Difference"], low["Low"]]).all()
    assert np.isnan(values(table, "all sky", "purity")["First"])
    assert "|b| < 10" not in compare_words(table)


def test_other_truth_or_a_single_part_is_refused():
    judged = make_patches(0, 3, 0.5)
    with pytest.raises(ValueError, match="same true sources .*; got .* in 3 parts; judge both"):
        compare(judged, make_patches(0, 2, 0.5))
    alone = judge(make_catalog([0], [0]), make_truth([0], [0]))
    with pytest.raises(ValueError, match="got 1 and 1 sources in 1 parts"):
        compare(alone, alone)
