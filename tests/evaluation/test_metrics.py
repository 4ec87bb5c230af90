import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn
from hypothesis import given, settings
from hypothesis import strategies as st
from made_truth import make_catalog, make_sky, make_truth

from astro_unetloc.evaluation import metrics
from astro_unetloc.evaluation.metrics import (
    CompletenessCurve,
    all_tables,
    evaluate,
    expected_numbers,
    false_positives,
    fit_completeness,
    found_scores,
    reliability,
    summary_table,
)
from astro_unetloc.evaluation.truth import combine, grid_tiles, join_matches, match_truth

FLUX = u.Unit("ph cm-2 s-1")
NAMES = [
    "summary_table", "by_threshold", "by_photons", "by_flux", "by_sqrt_ts", "by_latitude",
    "by_class", "numbers_per_tile", "measurement_errors", "reliability", "expected_numbers",
    "false_positives", "false_negatives", "class_scores", "class_by_photons", "class_by_latitude",
    "confusion", "class_reliability",
]  # fmt: skip
FOUR = make_truth([0, 10, 20, 30], [0, 0, 0, 0])


def counts(scores):
    n_correct = int(scores.correct.sum())
    return scores.n_true, n_correct, len(scores.correct) - n_correct, scores.n_ignored


# One evaluation


@pytest.mark.parametrize(
    ("catalog", "truth", "expected"),
    [
        (([0, 10, 20, 30], [0] * 4), FOUR, (4, 4, 0, 0)),
        (([0, 10, 20, 30], [0.299] * 4), FOUR, (4, 4, 0, 0)),
        (([0, 10, 20, 30], [0.301] * 4), FOUR, (4, 0, 4, 0)),
        (([0, 0.05, 0.1], [0] * 3), FOUR, (4, 1, 2, 0)),  # duplicates
        (([100, 200, 300], [50, -50, 10]), FOUR, (4, 0, 3, 0)),
        (([], []), FOUR, (4, 0, 0, 0)),
        (([0], [0]), make_truth([], []), (0, 0, 1, 0)),
        (([0], [0]), make_truth([0], [0], 8.0), (1, 1, 0, 0)),
        (([0], [0]), make_truth([0], [0], 7.99), (0, 0, 0, 1)),
        (([0], [0]), make_truth([0], [0], 3.0), (0, 0, 0, 1)),
        (([0], [0]), make_truth([0], [0], 2.99), (0, 0, 1, 0)),
        (([0.9], [0]), make_truth([0], [0], 500.0, 1.0), (0, 0, 0, 1)),  # extended
        (([1.1], [0]), make_truth([0], [0], 500.0, 1.0), (0, 0, 1, 0)),
        (([0.25], [0]), make_truth([0], [0], 500.0, 0.1), (0, 0, 0, 1)),
        (([0.35], [0]), make_truth([0], [0], 500.0, 0.1), (0, 0, 1, 0)),
        (([0], [90]), make_truth([77], [90]), (1, 1, 0, 0)),
        (([0], [-90]), make_truth([77], [-90]), (1, 1, 0, 0)),
        (([359.95], [0]), make_truth([0.05], [0]), (1, 1, 0, 0)),
    ],
)
def test_true_positives_false_positives_and_ignored_detections(catalog, truth, expected):
    assert counts(evaluate(make_catalog(*catalog), truth)) == expected


def test_average_precision_by_hand():
    # true, false, true, false; of four true sources: (1/1 + 2/3) / 4
    catalog = make_catalog([0, 50, 10, 60], [0] * 4)
    scores, again = evaluate(catalog, FOUR), evaluate(catalog[[2, 0, 3, 1]], FOUR[::-1])
    assert scores.correct.tolist() == again.correct.tolist() == [True, False, True, False]
    assert scores.average_precision == again.average_precision == pytest.approx((1 + 2 / 3) / 4)
    assert scores.completeness_at(0.6) == (0.5, pytest.approx(scores.score[2]))
    nothing = evaluate(catalog[:0], FOUR)
    assert nothing.completeness_at(0.9) == (0.0, 1.0)
    assert "0 detections: completeness 0.000, purity nan" in nothing.summary()


def test_match_counts_in_the_latitudes_and_the_region_of_its_true_source():
    truth, catalog = make_truth([0, 5], [9.9, 30.0]), make_catalog([0, 60], [10.1, 5.0])
    assert counts(evaluate(catalog, truth, max_latitude=10.0)) == (1, 1, 1, 0)
    assert counts(evaluate(catalog, truth, min_latitude=10.0)) == (1, 0, 0, 0)
    # sources on both sides of the border at longitude 0, found on the other side; one wrong each
    truth = make_truth([0.1, 359.9, 5, 355], [0, 1, 2, 2])
    catalog = make_catalog([359.95, 0.05, 7, 353], [0, 1, 2, 2])
    east = evaluate(catalog, truth, region=lambda vectors: vectors[:, 1] > 0)
    west = evaluate(catalog, truth, region=lambda vectors: vectors[:, 1] < 0)
    assert counts(east) == counts(west) == (2, 1, 1, 0)
    assert counts(evaluate(catalog, truth)) == (4, 2, 2, 0)
    for empty in (make_catalog([], []), make_catalog([1], [0])):
        nowhere = evaluate(empty, truth[:0], region=lambda vectors: np.zeros(len(vectors), bool))
        assert counts(nowhere) == (0, 0, 0, 0)


@pytest.mark.parametrize("column", ["Npred", "Radius", "GLAT"])
def test_catalog_of_others_is_no_truth(column):
    truth = FOUR.copy()
    truth.remove_column(column)
    with pytest.raises(ValueError, match=f"truth must have the columns .*missing {column}; eval"):
        evaluate(make_catalog([0], [0]), truth)
    with pytest.raises(ValueError, match="catalog must have the columns .*missing Score"):
        evaluate(FOUR, FOUR)


def test_each_true_source_has_the_score_of_its_detection():
    truth = make_truth([0, 10, 20, 30, 40], [0] * 5, npred=[9, 2, 5, 9, 9], radius=[0, 0, 0, 1, 0])
    catalog = make_catalog([0.2, 0.1, 10, 20, 30, 50], [0] * 6, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    pair = make_truth([0, 0.25], [0, 0], npred=[5, 50])
    for expected, found in (
        ([0.6, np.nan, 0.8, np.nan, np.nan], found_scores(catalog, truth)),
        ([np.nan] * 5, found_scores(catalog[:0], truth)),
        ([np.nan, 0.5], found_scores(catalog[:1], pair)),
        ([0.6, np.nan], found_scores(catalog[1:2], pair)),
        ([np.nan, 0.6], found_scores(catalog[1:2], pair, brightest=True)),
        ([], found_scores(catalog, truth[:0])),
    ):
        np.testing.assert_array_equal(found, expected)


def test_several_skies_are_one_evaluation():
    perfect = evaluate(make_catalog([0, 10], [0, 0], [0.9, 0.3]), make_truth([0, 10], [0, 0]))
    wrong = evaluate(make_catalog([50], [0], [0.6]), make_truth([0], [0]))
    both = combine([perfect, wrong])
    assert counts(both) == (3, 2, 1, 0)
    assert both.score.tolist() == [0.9, 0.6, 0.3]
    assert both.correct.tolist() == [True, False, True]
    assert both.average_precision == pytest.approx((1 + 2 / 3) / 3)
    assert repr(combine([perfect])) == f"<Evaluation: {perfect.summary()}>"


# Tables


def rows_of(table, *names):
    """Rows as tuples of plain numbers."""
    return list(zip(*(np.asarray(table[name]).tolist() for name in names)))


# Four counted sources, two of them below 10 deg.
HALVES = make_truth([0, 10, 20, 30], [0, 0, 50, 50])


def of_sky(table, sky="all sky"):
    """The rows of a part of the sky."""
    return table[np.asarray(table["Sky"]) == sky]


def row(table, sky="all sky"):
    """The row of a part of the sky as plain numbers."""
    (found,) = of_sky(table, sky)
    names = [name for name in table.colnames if name != "Sky"]
    return {name: float(getattr(found[name], "value", found[name])) for name in names}


def main_scores(catalog, truth=HALVES, sky="all sky", **options):
    values = row(summary_table(match_truth(catalog, truth), **options), sky)
    names = ("N_True", "N_Listed", "Completeness", "Purity", "F1", "Average_Precision")
    return [values[name] for name in names]


PERFECT = make_catalog([0, 10, 20, 30], [0, 0, 50, 50])
NOTHING, NO_TRUTH, NAN = make_catalog([], []), make_truth([], []), np.nan
# in descending score true, false, true, false, ... of four
TWICE = make_catalog(np.repeat([0, 10, 20, 30], 2), np.repeat([0, 0, 50, 50], 2))
# four detections far from everything, above the only true one
SPREAD = make_catalog([100, 120, 140, 160, 0], [-50, -20, 20, 5, 0])


@pytest.mark.parametrize(
    ("catalog", "truth", "expected"),
    [
        (PERFECT, HALVES, [4, 4, 1, 1, 1, 1]),
        (NOTHING, HALVES, [4, 0, 0, NAN, 0, 0]),
        (make_catalog([0], [0]), NO_TRUTH, [0, 1, NAN, 0, 0, NAN]),
        (NOTHING, NO_TRUTH, [0, 0, NAN, NAN, NAN, NAN]),
        (TWICE, HALVES, [4, 8, 1, 0.5, 2 / 3, (1 + 2 / 3 + 3 / 5 + 4 / 7) / 4]),
        (SPREAD, HALVES, [4, 5, 0.25, 0.2, 2 / 9, 0.2 / 4]),
    ],
)
def test_summary_of_perfect_empty_duplicated_and_random_catalogs(catalog, truth, expected):
    assert main_scores(catalog, truth) == pytest.approx(expected, nan_ok=True)


def test_summary_has_intervals_offsets_and_parts_of_the_sky():
    assert main_scores(PERFECT, sky="|b| < 10 deg") == [2, 2, 1, 1, 1, 1]
    table = summary_table(match_truth(PERFECT, HALVES))
    for name in ("Completeness_At_95", "Completeness_High"):
        assert table[name].tolist() == [1, 1, 1]
    assert table["Median_Offset"].unit == u.deg
    np.testing.assert_allclose(table["Median_Offset"].value, 0, atol=1e-9)
    low = table["Completeness_Low"]  # (4 + 0) / (4 + 1)
    np.testing.assert_allclose(low, [0.8, 2 / 3, 2 / 3], rtol=1e-5)


def test_threshold_cuts_the_list_and_not_the_curve():
    catalog = make_catalog([0, 10, 99, 20], [0, 0, 0, 50], [0.9, 0.8, 0.7, 0.6])
    assert main_scores(catalog, threshold=0.75)[:4] == [4, 2, 0.5, 1]
    average = (1 + 1 + 3 / 4) / 4
    assert main_scores(catalog, threshold=0.75)[5] == main_scores(catalog)[5] == average
    assert row(summary_table(match_truth(catalog, HALVES)))["Completeness_At_95"] == 0.5


def test_scores_by_threshold_by_hand():
    catalog = make_catalog([0, 10, 99, 20], [0, 0, 0, 50], [0.9, 0.8, 0.8, 0.6])
    whole = of_sky(metrics.by_threshold(match_truth(catalog, HALVES)))
    assert whole["Score"].tolist() == [0.9, 0.8, 0.6]  # both of 0.8 are listed or none
    assert whole["Completeness"].tolist() == [0.25, 0.5, 0.75]
    assert whole["Purity"].tolist() == [1, 2 / 3, 0.75]
    assert whole["F1"].tolist() == pytest.approx([2 / 5, 4 / 7, 6 / 8])
    catalog = make_catalog(np.arange(1000) / 3, [20] * 1000)
    table = metrics.by_threshold(match_truth(catalog, HALVES))
    assert len(table) == 400  # none at low latitudes
    assert table["Score"][[0, 199]].tolist() == [0.9, 0.5]


def test_numbers_per_tile_by_hand():
    truth = make_truth([0, 1, 2, 50, 51, 120], [0] * 6, [10, 10, 10, 10, 5, 1])
    catalog = make_catalog([0, 1, 50, 51, 53, 54], [0] * 6)
    tile = lambda vectors: np.where(vectors[:, 1] > 0.5, "east", "west")  # noqa: E731
    table = metrics.numbers_per_tile(match_truth(catalog, truth, tile=tile))
    assert table["Tile"].tolist() == ["east", "west"]
    assert table["N_True"].tolist() == [1, 3]
    assert table["N_Listed"].tolist() == [3, 2]  # the match to the faint one is ignored
    assert table.meta["correlation"] == pytest.approx(-1)
    assert (table.meta["bias"], table.meta["scatter"]) == (0.5, 1.5)
    # a tile of faint sources alone
    table = metrics.numbers_per_tile(match_truth(NOTHING, make_truth([0], [0], 1), tile="1/7"))
    assert [table[name].tolist() for name in table.colnames] == [["1/7"], [0], [0]]
    assert np.isnan(table.meta["correlation"])


def test_correct_scores_are_reliable():
    # thirty candidates of each score, of which that fraction is real
    score = np.repeat(np.arange(1, 16) / 15, 30)
    real = score > np.tile((np.arange(30) + 0.5) / 30, 15)
    lon, lat = np.arange(450) % 360, np.where(np.arange(450) < 360, 20, 40)
    truth = make_truth(lon[real], lat[real])
    table = reliability(match_truth(make_catalog(lon, lat, score), truth))
    whole = of_sky(table)
    assert whole["N"].sum() == 450
    np.testing.assert_allclose(whole["Fraction_Real"], whole["Mean_Score"])
    assert table.meta["ece"]["all sky"] == pytest.approx(0, abs=1e-12)
    assert np.isnan(table.meta["ece"]["|b| < 10 deg"])
    high = reliability(match_truth(make_catalog(lon, lat, np.sqrt(score)), truth))
    expected = np.mean(np.sqrt(score) - score)
    assert high.meta["ece"]["|b| > 10 deg"] == pytest.approx(expected)


def test_sources_are_real_however_faint():
    # of 10, 5 and 1 expected photons, an extended one, and nothing
    truth = make_truth([0, 10, 20, 30], [50] * 4, [10, 5, 1, 10], [0, 0, 0, 0.5])
    places, scores = [0, 10, 20, 30, 40, 20], [0.85, 0.82, 0.25, 0.84, 0.22, 0.04]
    catalog = make_catalog(places, [50] * 6, scores, Npred=[9, 9, 3, 9, 3, 2])
    table = of_sky(reliability(match_truth(catalog, truth)), "|b| > 10 deg")
    rows = {low: numbers for low, *numbers in rows_of(table, "Low", "N", "N_Real")}
    assert (rows[0.8], rows[0.2]) == ([2, 2], [2, 1])
    # neither the one in the extended source nor that of Score 0.04
    assert table["N"].sum() == 4
    above = dict(rows_of(table, "Low", "Real_Above"))
    assert above[0.8] == above[0.5] == above[0.3] == 1
    assert above[0.2] == above[0.05] == 0.75
    expected = dict(rows_of(table, "Low", "Expected_Above"))
    assert expected[0.3] == pytest.approx((0.85 + 0.82) / 2)


def test_expected_numbers_by_hand():
    catalog = make_catalog([0, 10, 20, 99], [0, 0, 50, 50], [0.9, 0.8, 0.5, 0.3])
    found = row(expected_numbers(match_truth(catalog, HALVES)))
    assert found == pytest.approx(
        {"N_Listed": 4, "Expected": 2.5, "Unc_Expected": np.sqrt(0.09 + 0.16 + 0.25 + 0.21),
         "N_Real": 3, "Ratio": 1.2}
    )  # fmt: skip
    assert row(expected_numbers(match_truth(catalog, HALVES)), "|b| < 10 deg")["N_Listed"] == 2
    catalog["Score"] *= 10  # of another program
    assert np.isnan(row(expected_numbers(match_truth(catalog, HALVES)))["Ratio"])
    assert np.isnan(row(expected_numbers(match_truth(NOTHING, HALVES)))["Ratio"])


def test_candidates_of_low_score_are_not_in_the_reliability():
    catalog = make_catalog([0, 1, 2], [0] * 3, [0.9, 0.05, 0.04])
    whole = of_sky(reliability(match_truth(catalog, HALVES)))
    assert whole["N"].tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert whole["Mean_Score"][[0, -1]].tolist() == pytest.approx([0.05, 0.9])


def test_false_positives_and_their_areas_by_hand():
    assert row(false_positives(match_truth(TWICE, HALVES)))["N_Duplicates"] == 4
    table = false_positives(match_truth(SPREAD, HALVES, area_deg2=200))
    assert table["N_False"].tolist() == [4, 3, 1]
    assert row(table)["Per_100_Deg2"] == 2
    # whole skies are divided by latitude, others are not
    whole, catalog = 4 * np.pi * np.degrees(1) ** 2, make_catalog([50], [3])
    table = false_positives(match_truth(catalog, HALVES, area_deg2=2 * whole))
    sine = np.sin(np.radians(10))
    np.testing.assert_allclose(table["Area"].value, 2 * whole * np.array([1, 1 - sine, sine]))
    part = false_positives(match_truth(catalog, HALVES, area_deg2=100))
    np.testing.assert_array_equal(part["Area"].value, [100, np.nan, np.nan])
    assert np.isnan(false_positives(match_truth(catalog, HALVES))["Per_100_Deg2"]).all()


def test_false_negatives_have_their_reasons():
    # a pair in the plane of which one is found; a faint one; one in an extended source; one more
    truth = make_truth(
        [0, 0.4, 50, 90, 90, 150, 200], [0, 0, 50, 50, 50.4, 50, 50],
        [50, 50, 10, 50, 500, 50, 50], [0, 0, 0, 0, 0.5, 0, 0],
    )  # fmt: skip
    table = metrics.false_negatives(match_truth(make_catalog([0, 200], [0, 50]), truth))
    assert rows_of(table, "Reason", "N_Missed", "N_True") == [
        ("blended", 1, 2), ("near an extended source", 1, 1), ("plane", 1, 2), ("faint", 1, 1),
        ("none of these", 1, 2),
    ]  # fmt: skip
    assert table["Fraction_Missed"].tolist() == [0.5, 1, 0.5, 1, 0.5]


@pytest.mark.parametrize("n_true", [0, 30])
@pytest.mark.parametrize("n_found", [0, 30])
def test_all_tables_of_bare_tables(n_true, n_found):
    lon = np.arange(30) * 10
    places = [(lon[:n], lon[:n] / 5) for n in (n_found, n_true)]
    matches = match_truth(make_catalog(*places[0]), make_truth(*places[1]))
    tables = all_tables(matches, threshold=0.7)
    assert list(tables) == NAMES
    for name, table in tables.items():
        assert table.meta["title"], name
        assert table.meta["about"].endswith("."), name
    for name in ("by_sqrt_ts", "by_class", "class_scores", "confusion"):
        assert len(tables[name]) == 0
    full = all_tables(match_truth(make_catalog([0], [0]), HALVES))
    for name in NAMES:
        assert tables[name].colnames == full[name].colnames


# The same sky scored by an independent script


def plain_scores(lon, lat, score, true_lon, true_lat, npred, radius):
    """The definition of the scores with numpy alone: numbers and scores of one sky."""

    def separations(i):
        b, c = np.radians(lat[i]), np.radians(true_lat)
        a = np.sin((b - c) / 2) ** 2
        a += np.cos(b) * np.cos(c) * np.sin(np.radians(lon[i] - true_lon) / 2) ** 2
        return np.degrees(2 * np.arcsin(np.sqrt(a)))

    is_point, is_extended = (radius == 0) & (npred >= 3), (radius > 0) & (npred >= 3)
    status, offsets, taken = [], [], set()
    for i in np.argsort(-score, kind="stable"):
        away = separations(i)
        near = np.flatnonzero(is_point & (away <= 0.3))
        free = [j for j in near if j not in taken]
        if free:
            j = min(free, key=away.__getitem__)
            taken.add(j)
            status.append("true positive" if npred[j] >= 8 else "ignored")
            offsets += [away[j]] if npred[j] >= 8 else []
        elif np.any(is_extended & (away <= np.maximum(0.3, radius))):
            status.append("ignored")
        else:
            status.append("duplicate" if len(near) else "false positive")
    n_true = np.sum(is_point & (npred >= 8))
    right = np.array([v == "true positive" for v in status if v != "ignored"], bool)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return {
        "N_True": n_true, "N_Listed": len(right), "N_Duplicates": status.count("duplicate"),
        "Completeness": right.sum() / n_true, "Purity": right.mean(),
        "F1": 2 * right.sum() / (n_true + len(right)),
        "Average_Precision": precision[right].sum() / n_true,
        "Completeness_At_95": max(np.cumsum(right)[precision >= 0.95], default=0) / n_true,
        "Median_Offset": np.median(offsets),
    }  # fmt: skip


def check_against_plain_script(catalog, truth):
    plain = [catalog["GLON"].value, catalog["GLAT"].value, np.asarray(catalog["Score"], float)]
    plain += [truth["GLON"].value, truth["GLAT"].value, np.asarray(truth["Npred"])]
    expected = plain_scores(*plain, truth["Radius"].to_value("deg"))
    matches = match_truth(catalog, truth)
    table = row(summary_table(matches)) | row(false_positives(matches))
    offset = expected.pop("Median_Offset")
    assert table["Median_Offset"] == pytest.approx(offset, abs=1e-9)
    assert {name: table[name] for name in expected} == expected


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 2**31))
def test_plain_script_agrees_exactly_on_random_skies(seed):
    rng = np.random.default_rng(seed)
    n = 300
    place, npred = (rng.uniform(-4, 4, n) % 360, rng.uniform(-4, 4, n)), 10 ** rng.uniform(0, 2, n)
    truth = make_truth(*place, npred, np.where(rng.random(n) < 0.05, rng.uniform(0, 0.6, n), 0.0))
    # half of them near true sources, some twice
    chosen = rng.integers(0, n, n // 2)
    lon, lat = (truth[name].value[chosen] + rng.normal(0, 0.1, n // 2) for name in ("GLON", "GLAT"))
    lon = np.append(lon, rng.uniform(-4, 4, n)) % 360
    lat = np.append(lat, rng.uniform(-4, 4, n))
    check_against_plain_script(make_catalog(lon, lat, rng.random(len(lon))), truth)


def test_plain_script_agrees_exactly_on_a_simulated_sky():
    from astro_unetloc import find_sources, simulate_sky

    center = SkyCoord(30 * u.deg, 2 * u.deg, frame="galactic")
    sky_map, truth = simulate_sky(center=center, radius=6 * u.deg, rng=1010)
    catalog = find_sources(sky_map, threshold=0.0)
    assert len(catalog) > 20
    check_against_plain_script(catalog, truth)
    tables = all_tables(match_truth(catalog, truth, tile=grid_tiles(1010)), threshold=0.5)
    assert all(len(tables[name]) for name in NAMES)


# Laws


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_tables_agree_about_the_numbers(seed, threshold):
    matches = join_matches([match_truth(*make_sky(seed + i), tile=str(i)) for i in range(2)])
    tables = all_tables(matches, threshold=threshold)
    whole = row(tables["summary_table"])
    n_true, n_listed = whole["N_True"], whole["N_Listed"]
    for name in ("numbers_per_tile", "by_latitude"):
        assert [tables[name][n].sum() for n in ("N_True", "N_Listed")] == [n_true, n_listed]
    counted = tables["by_photons"]["Low"] >= 8
    assert tables["by_photons"]["N_True"][counted].sum() == n_true
    n_right = tables["by_latitude"]["N_True_Positive"].sum()
    assert tables["by_photons"]["N_Found"][counted].sum() == n_right
    assert row(tables["false_positives"])["N_False"] == n_listed - n_right
    assert of_sky(tables["measurement_errors"])["N"].sum() == n_right
    below = of_sky(tables["by_threshold"])
    below = below[below["Score"] >= threshold]
    if len(below):
        assert below["Purity"][-1] == pytest.approx(whole["Purity"])
        assert below["Completeness"][-1] == pytest.approx(whole["Completeness"])


# Bins


LON = np.arange(6) * 10.0
SIX = make_truth(LON, [0, 3, 20, 20, 20, 20], [4, 9, 9, 25, 25, 200])


def test_photons_by_hand():
    # found: the faint one, one of 9, both of 25; and two false positives, one of unknown photons
    photons = MaskedColumn([5.0, 7.0, 21.0, 50.0, 8.0, 9.0], mask=[0, 0, 0, 0, 0, 1])
    catalog = make_catalog([0, 10, 30, 40, 100, 120], [0, 3, 20, 20, 0, 0], Npred=photons)
    table = metrics.binned_scores(match_truth(catalog, SIX), "by_photons")
    assert rows_of(table, "Low", "High", "N_True", "N_Found", "N_Listed", "N_True_Positive") == [
        (3, 5, 1, 1, 0, 0),  # what matches the faint one is not listed
        (5, 8, 0, 0, 1, 1),
        (8, 12, 2, 1, 1, 0),
        (20, 40, 2, 2, 1, 1),
        (40, 100, 0, 0, 1, 1),
        (100, 300, 1, 0, 0, 0),
    ]
    np.testing.assert_array_equal(table["Completeness"], [1, np.nan, 0.5, 1, np.nan, 0])
    np.testing.assert_array_equal(table["Purity"], [np.nan, 1, 0, 1, 1, np.nan])
    # one of two: (1 + 1/2 -+ sqrt(1/2 + 1/4)) / 3
    assert table["Completeness_Low"][2] == pytest.approx((1.5 - np.sqrt(0.75)) / 3)
    assert np.isnan(table["Completeness_High"][1])


def test_flux_by_hand():
    truth, catalog = SIX.copy(), make_catalog([0, 10, 20], [0, 3, 20])
    truth["Flux"] = np.array([1.1, 1.1, 1.2, 2, 4, 4]) * 1e-10 * FLUX
    catalog["Flux"] = np.array([5, 1.5, 3]) * 1e-10 * FLUX
    table = metrics.binned_scores(match_truth(catalog, truth), "by_flux")
    assert table["Low"].unit == FLUX
    np.testing.assert_allclose(table["Low"].value, 10 ** np.array([-10, -9.75, -9.5]))
    rows = rows_of(table, "N_True", "N_Found", "N_Listed", "N_True_Positive")
    assert rows == [(3, 3, 1, 1), (1, 0, 1, 1), (2, 0, 0, 0)]


def test_sqrt_ts_by_hand():
    catalog = make_catalog([10, 20, 100, 120], [3, 20, 0, 0], Sqrt_TS=[5.5, 5.1, 5.2, 4.0])
    table = metrics.binned_scores(match_truth(catalog, SIX), "by_sqrt_ts")
    names = ("Low", "High", "N_Listed", "N_True_Positive")
    assert rows_of(table, *names) == [(4, 5, 1, 0), (5, 6, 3, 2)]
    assert set(table.colnames) == {*names, "Purity", "Purity_Low", "Purity_High"}


def test_latitudes_are_those_of_the_true_sources():
    truth = make_truth([0, 10, 20], [4.9, -4.9, 90])
    matches = match_truth(make_catalog([0, 10, 70], [5.1, -5.1, -5.1]), truth)
    table = metrics.binned_scores(matches, "by_latitude")
    assert table["Low"].unit == u.deg
    rows = rows_of(table, "Low", "N_True", "N_Found", "N_Listed", "N_True_Positive")
    assert rows == [(2, 2, 2, 2, 2), (5, 0, 0, 1, 0), (60, 1, 0, 0, 0)]


def test_classes_by_hand():
    truth, catalog = SIX.copy(), make_catalog([10, 20, 30, 0], [3, 20, 20, 0])
    truth["Class"] = ["PSR", "AGN", "AGN", "AGN", "PSR", "PSR"]
    table = metrics.by_class(match_truth(catalog, truth))
    assert rows_of(table, "Class", "N_True", "N_Found") == [("AGN", 3, 3), ("PSR", 2, 0)]
    assert table["Completeness"].tolist() == [1, 0]


@pytest.mark.parametrize("plateau", [0.95, 0.7])
def test_flux_limits_are_those_of_the_curve(rng, plateau):
    curve, n = CompletenessCurve(plateau, 1e-10, 4.0), 6000
    flux = 1e-10 * 10 ** rng.uniform(-1, 1, n)
    lon, lat = rng.uniform(0, 360, n), np.where(rng.random(n) < 0.5, 5.0, 40.0)
    found = rng.random(n) < curve(flux)
    catalog = make_catalog(lon[found], lat[found], np.linspace(1, 0, found.sum()))
    truth = make_truth(lon, lat, 5.0, Flux=flux * FLUX)
    table = summary_table(match_truth(catalog, truth, radius_deg=1e-6))
    assert table["Flux_50"].unit == FLUX
    np.testing.assert_allclose(table["Flux_50"].value, curve.flux_at(0.5), rtol=0.1)
    expected = curve.flux_at(0.9) if plateau > 0.9 else np.nan
    np.testing.assert_allclose(table["Flux_90"].value, expected, rtol=0.1)
    np.testing.assert_allclose(table["Plateau"], plateau, atol=0.02)
    # too few sources for a curve
    table = summary_table(match_truth(catalog[:5], truth[:9], radius_deg=1e-6))
    assert np.isnan(table["Flux_50"].value).all()


# The curve of completeness


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.floats(0.6, 0.99), st.floats(1e-11, 1e-9), st.floats(1.0, 8.0))
def test_curve_that_was_drawn_from_is_fitted(plateau, half_flux, steepness):
    curve, rng = CompletenessCurve(plateau, half_flux, steepness), np.random.default_rng(0)
    for fraction in (0.1, 0.5, 0.59):
        assert curve(curve.flux_at(fraction)) == pytest.approx(fraction)
    assert curve.flux_at(plateau) == np.inf
    assert curve(1.0) == pytest.approx(plateau, rel=1e-6)
    flux = half_flux * 10 ** rng.uniform(-1.5, 1.5, 20_000)
    fitted = fit_completeness(flux, rng.random(len(flux)) < curve(flux))
    assert fitted.plateau == pytest.approx(curve.plateau, abs=0.03)
    assert fitted.flux_at(0.5) == pytest.approx(curve.flux_at(0.5), rel=0.1)


@pytest.mark.parametrize(
    ("flux", "found", "message"),
    [
        ([1.0, 0.0] * 10, [True] * 20, "fluxes must be positive"),
        ([1.0] * 20, [True] * 20, "expected 5 found and 5 missed sources or more; got 20 and 0"),
    ],
)
def test_sources_that_make_no_curve_are_refused(flux, found, message):
    with pytest.raises(ValueError, match=message):
        fit_completeness(flux, found)
