import re
import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from made_judgements import make_catalog, make_sky, make_truth

from astro_unetloc.evaluation.metrics import (
    all_tables,
    by_threshold,
    false_alarms,
    misses,
    numbers_per_part,
    real_by_score,
    reliability,
    summary_table,
)
from astro_unetloc.evaluation.truth import join, judge, patch_parts

FLUX = u.Unit("ph cm-2 s-1")
NAMES = [
    "summary_table", "by_threshold", "by_photons", "by_flux", "by_sqrt_ts", "by_latitude",
    "by_class", "flux_limits", "numbers_per_part", "position_errors", "flux_errors",
    "index_errors", "reliability", "real_by_score", "false_alarms", "misses",
]  # fmt: skip
# Four counted sources, two of them below 10 deg.
TRUTH = make_truth([0, 10, 20, 30], [0, 0, 50, 50])


def row(table, sky="all sky"):
    """The row of a part of the sky as plain numbers."""
    (found,) = table[np.asarray(table["Sky"]) == sky]
    names = [name for name in table.colnames if name != "Sky"]
    return {name: float(getattr(found[name], "value", found[name])) for name in names}


def main_scores(catalog, truth=TRUTH, sky="all sky", **options):
    values = row(summary_table(judge(catalog, truth), **options), sky)
    names = ("N_True", "N_Listed", "Completeness", "Purity", "F1", "Average_Precision")
    return [values[name] for name in names]


# Worked out by hand


def test_perfect_catalog():
    perfect = make_catalog([0, 10, 20, 30], [0, 0, 50, 50])
    assert main_scores(perfect) == [4, 4, 1, 1, 1, 1]
    assert main_scores(perfect, sky="|b| < 10 deg") == [2, 2, 1, 1, 1, 1]
    table = summary_table(judge(perfect, TRUTH))
    assert table["Completeness_At_95"].tolist() == [1, 1, 1]
    assert table["Median_Offset"].unit == u.deg
    np.testing.assert_allclose(table["Median_Offset"].value, 0, atol=1e-9)
    np.testing.assert_allclose(table["Completeness_Low"], [0.8, 2 / 3, 2 / 3])  # (4 + 0) / (4 + 1)
    assert table["Completeness_High"].tolist() == [1, 1, 1]


def test_empty_catalog():
    nan = np.nan
    np.testing.assert_array_equal(main_scores(make_catalog([], [])), [4, 0, 0, nan, 0, 0])
    no_truth = main_scores(make_catalog([0], [0]), make_truth([], []))
    np.testing.assert_array_equal(no_truth, [0, 1, nan, 0, 0, nan])
    nothing = main_scores(make_catalog([], []), make_truth([], []))
    np.testing.assert_array_equal(nothing, [0, 0, nan, nan, nan, nan])


@pytest.mark.parametrize(("shift", "share"), [(0.1, 1), (0.31, 0)])
def test_shifted_catalog(shift, share):
    shifted = make_catalog([0, 10, 20, 30], np.array([0, 0, 50, 50]) + shift)
    assert main_scores(shifted) == [4, 4, share, share, share, share]
    offset = row(summary_table(judge(shifted, TRUTH)))["Median_Offset"]
    np.testing.assert_allclose(offset, shift if share else np.nan)


def test_duplicated_catalog():
    # in descending score right, wrong, right, wrong, ... of four
    twice = make_catalog(np.repeat([0, 10, 20, 30], 2), np.repeat([0, 0, 50, 50], 2))
    expected = [4, 8, 1, 0.5, 2 / 3, (1 + 2 / 3 + 3 / 5 + 4 / 7) / 4]
    assert main_scores(twice) == pytest.approx(expected)
    assert row(false_alarms(judge(twice, TRUTH)))["N_Duplicates"] == 4


def test_random_catalog():
    # four detections far from everything, above the only right one
    spread = make_catalog([100, 120, 140, 160, 0], [-50, -20, 20, 5, 0])
    assert main_scores(spread) == pytest.approx([4, 5, 0.25, 0.2, 2 / 9, 0.2 / 4])
    alarms = false_alarms(judge(spread, TRUTH, area_deg2=200))
    assert row(alarms)["N_Wrong"] == 4
    assert row(alarms)["Per_100_Deg2"] == 2
    assert alarms["N_Wrong"].tolist() == [4, 3, 1]


def test_threshold_cuts_the_list_and_not_the_curve():
    catalog = make_catalog([0, 10, 99, 20], [0, 0, 0, 50], [0.9, 0.8, 0.7, 0.6])
    assert main_scores(catalog, threshold=0.75)[:4] == [4, 2, 0.5, 1]
    average = (1 + 1 + 3 / 4) / 4
    assert main_scores(catalog, threshold=0.75)[5] == main_scores(catalog)[5] == average
    assert row(summary_table(judge(catalog, TRUTH)))["Completeness_At_95"] == 0.5


def test_scores_by_threshold_by_hand():
    catalog = make_catalog([0, 10, 99, 20], [0, 0, 0, 50], [0.9, 0.8, 0.8, 0.6])
    table = by_threshold(judge(catalog, TRUTH))
    whole = table[np.asarray(table["Sky"]) == "all sky"]
    assert whole["Score"].tolist() == [0.9, 0.8, 0.6]  # both of 0.8 are listed or none
    assert whole["Completeness"].tolist() == [0.25, 0.5, 0.75]
    assert whole["Purity"].tolist() == [1, 2 / 3, 0.75]
    assert whole["F1"].tolist() == pytest.approx([2 / 5, 4 / 7, 6 / 8])


def test_scores_by_threshold_are_not_too_many():
    n = 1000
    table = by_threshold(judge(make_catalog(np.arange(n) / 3, [20] * n), TRUTH))
    assert len(table) == 400  # none at low latitudes
    assert table["Score"][[0, 199]].tolist() == [0.9, 0.5]


def test_numbers_per_part_by_hand():
    truth = make_truth([0, 1, 2, 50, 51, 120], [0] * 6, [10, 10, 10, 10, 5, 1])
    catalog = make_catalog([0, 1, 50, 51, 53, 54], [0] * 6)
    east = {True: "east", False: "west"}
    part = lambda vectors: [east[y > 0.5] for y in vectors[:, 1]]  # noqa: E731
    judged = judge(catalog, truth, part=part)
    table = numbers_per_part(judged)
    assert table["Part"].tolist() == ["east", "west"]
    assert table["N_True"].tolist() == [1, 3]
    assert table["N_Listed"].tolist() == [3, 2]  # the match to the faint one is ignored
    assert table.meta["correlation"] == pytest.approx(-1)
    assert (table.meta["bias"], table.meta["scatter"]) == (0.5, 1.5)


def test_part_of_faint_sources_alone_has_no_source():
    table = numbers_per_part(judge(make_catalog([], []), make_truth([0], [0], 1), part="1/7"))
    assert [table[name].tolist() for name in table.colnames] == [["1/7"], [0], [0]]
    assert np.isnan(table.meta["correlation"])


def test_honest_scores_are_reliable():
    # thirty candidates of each score, of which that share is right
    right = np.repeat(np.arange(1, 16) / 15, 30) > np.tile((np.arange(30) + 0.5) / 30, 15)
    score = np.repeat(np.arange(1, 16) / 15, 30)
    lon, lat = np.arange(450) % 360, np.where(np.arange(450) < 360, 20, 40)
    judged = judge(make_catalog(lon, lat, score), make_truth(lon[right], lat[right]))
    table = reliability(judged)
    assert table["N"].tolist() == [30] * 15
    np.testing.assert_allclose(table["Share"], table["Mean_Score"])
    assert table.meta["ece"]["all sky"] == pytest.approx(0, abs=1e-12)
    assert np.isnan(table.meta["ece"]["|b| < 10 deg"])
    bold = judge(make_catalog(lon, lat, np.sqrt(score)), make_truth(lon[right], lat[right]))
    expected = np.mean(np.sqrt(score) - score)
    assert reliability(bold).meta["ece"]["|b| > 10 deg"] == pytest.approx(expected)


def test_sources_are_real_however_faint():
    # of 10, 5 and 1 expected photons, an extended one, and nothing
    truth = make_truth([0, 10, 20, 30], [50] * 4, [10, 5, 1, 10], [0, 0, 0, 0.5])
    places, scores = [0, 10, 20, 30, 40, 20], [0.9, 0.85, 0.25, 0.84, 0.22, 0.04]
    table = real_by_score(judge(make_catalog(places, [50] * 6, scores), truth))
    table = table[np.asarray(table["Sky"]) == "|b| > 10 deg"]
    rows = dict(zip(table["Low"].tolist(), table["N", "N_Counted", "N_Real"].as_array().tolist()))
    assert rows[0.8] == (2, 1, 2)
    assert rows[0.2] == (2, 0, 1)
    assert table["N"].sum() == 4  # neither the one in the extended source nor that of Score 0.04
    above = dict(zip(table["Low"].tolist(), table["Real_Above"].tolist()))
    assert above[0.8] == above[0.5] == above[0.3] == 1
    assert above[0.2] == above[0.05] == 0.75


def test_below_10_gev_a_source_of_three_photons_is_no_detection():
    truth = make_truth([0, 10], [50, 50], [30, 1])
    catalog = make_catalog([0, 10], [50, 50], [0.9, 0.9], Npred=[100.0, 4.0])
    for brightest, n_real in ((False, 2), (True, 0)):
        table = real_by_score(judge(catalog, truth, brightest=brightest))
        assert row(table[np.asarray(table["Low"]) == 0.8])["N_Real"] == n_real


@given(st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_what_counts_is_real_and_what_is_real_was_found(seed):
    table = real_by_score(judge(*make_sky(seed)))
    n, n_counted, n_real = (np.asarray(table[name]) for name in ("N", "N_Counted", "N_Real"))
    assert np.all((n_counted <= n_real) & (n_real <= n))
    known = n > 0
    above = table["Real_Above"][known]
    assert np.all((above >= 0) & (above <= 1))


def test_candidates_of_low_score_are_not_in_the_reliability():
    table = reliability(judge(make_catalog([0, 1, 2], [0] * 3, [0.9, 0.05, 0.04]), TRUTH))
    assert table["N"].tolist() == [1, 1]
    assert table["Low"].tolist() == [0.05, 0.9]


def test_area_of_whole_skies_is_that_of_the_parts():
    whole = 4 * np.pi * np.degrees(1) ** 2
    table = false_alarms(judge(make_catalog([50], [3]), TRUTH, area_deg2=2 * whole))
    share = np.sin(np.radians(10))
    np.testing.assert_allclose(table["Area"].value, whole * np.array([2, 2 - 2 * share, 2 * share]))
    part = false_alarms(judge(make_catalog([50], [3]), TRUTH, area_deg2=100))
    np.testing.assert_array_equal(part["Area"].value, [100, np.nan, np.nan])
    assert part["Per_100_Deg2"].tolist()[0] == 1
    unknown = false_alarms(judge(make_catalog([50], [3]), TRUTH))
    assert np.isnan(unknown["Per_100_Deg2"]).all()


def test_misses_have_their_reasons():
    # a pair in the plane of which one is found; a faint one; one in an extended source; one more
    truth = make_truth(
        [0, 0.4, 50, 90, 90, 150, 200],
        [0, 0, 50, 50, 50.4, 50, 50],
        [50, 50, 10, 50, 500, 50, 50],
        [0, 0, 0, 0, 0.5, 0, 0],
    )
    table = misses(judge(make_catalog([0, 200], [0, 50]), truth))
    counts = {r["Reason"]: (r["N_Missed"], r["N_True"]) for r in table}
    assert counts == {
        "blended": (1, 2),
        "near an extended source": (1, 1),
        "plane": (1, 2),
        "faint": (1, 1),
        "none of these": (1, 2),
    }
    assert table["Share_Missed"].tolist() == [0.5, 1, 0.5, 1, 0.5]


@pytest.mark.parametrize("n_true", [0, 30])
@pytest.mark.parametrize("n_found", [0, 30])
def test_all_tables_of_bare_tables(n_true, n_found):
    lon = np.arange(30) * 10
    judged = judge(
        make_catalog(lon[:n_found], lon[:n_found] / 5), make_truth(lon[:n_true], lon[:n_true] / 5)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables = all_tables(judged, threshold=0.7)
    assert list(tables) == NAMES
    for name, table in tables.items():
        assert table.meta["title"], name
        assert table.meta["about"].endswith("."), name
    for name in ("by_sqrt_ts", "by_class", "flux_errors", "index_errors"):
        assert len(tables[name]) == 0
    full = all_tables(judge(make_catalog([0], [0]), TRUTH))
    for name in NAMES:
        assert tables[name].colnames == full[name].colnames


# The same sky scored by a plain script


def plain_scores(lon, lat, score, true_lon, true_lat, npred, radius):
    """The definition of DESIGN.md with numpy alone: numbers and scores of one sky."""

    def separations(i):
        b, c = np.radians(lat[i]), np.radians(true_lat)
        a = np.sin((b - c) / 2) ** 2
        a += np.cos(b) * np.cos(c) * np.sin(np.radians(lon[i] - true_lon) / 2) ** 2
        return np.degrees(2 * np.arcsin(np.sqrt(a)))

    is_point, is_extended = (radius == 0) & (npred >= 3), (radius > 0) & (npred >= 3)
    verdicts, offsets, taken = [], [], set()
    for i in np.argsort(-score, kind="stable"):
        away = separations(i)
        near = np.flatnonzero(is_point & (away <= 0.3))
        free = [j for j in near if j not in taken]
        if free:
            j = min(free, key=away.__getitem__)
            taken.add(j)
            verdicts.append("right" if npred[j] >= 8 else "ignored")
            offsets += [away[j]] if npred[j] >= 8 else []
        elif np.any(is_extended & (away <= np.maximum(0.3, radius))):
            verdicts.append("ignored")
        else:
            verdicts.append("duplicate" if len(near) else "wrong")
    n_true = np.sum(is_point & (npred >= 8))
    right = np.array([v == "right" for v in verdicts if v != "ignored"], bool)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return {
        "N_True": n_true,
        "N_Listed": len(right),
        "N_Duplicates": verdicts.count("duplicate"),
        "Completeness": right.sum() / n_true,
        "Purity": right.mean(),
        "F1": 2 * right.sum() / (n_true + len(right)),
        "Average_Precision": precision[right].sum() / n_true,
        "Completeness_At_95": max(np.cumsum(right)[precision >= 0.95], default=0) / n_true,
        "Median_Offset": np.median(offsets),
    }


def check_against_plain_script(catalog, truth):
    plain = [np.asarray(getattr(catalog[n], "value", catalog[n])) for n in ("GLON", "GLAT")]
    plain += [np.asarray(catalog["Score"], float)]
    plain += [np.asarray(getattr(truth[n], "value", truth[n])) for n in ("GLON", "GLAT")]
    plain += [np.asarray(truth["Npred"], float), truth["Radius"].to_value("deg")]
    expected = plain_scores(*plain)
    judged = judge(catalog, truth)
    table = row(summary_table(judged)) | row(false_alarms(judged))
    for name, value in expected.items():
        if name == "Median_Offset":
            assert table[name] == pytest.approx(value, abs=1e-9)
        else:
            assert table[name] == value, name


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 2**31))
def test_plain_script_agrees_exactly_on_random_skies(seed):
    rng = np.random.default_rng(seed)
    n = 300
    truth = make_truth(
        rng.uniform(-4, 4, n) % 360,
        rng.uniform(-4, 4, n),
        npred=10 ** rng.uniform(0, 2, n),
        radius=np.where(rng.random(n) < 0.05, rng.uniform(0, 0.6, n), 0.0),
    )
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
    tables = all_tables(judge(catalog, truth, part=patch_parts(1010)), threshold=0.5)
    assert all(len(tables[name]) for name in NAMES if name not in ("flux_errors", "index_errors"))


# Laws


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_tables_agree_about_the_numbers(seed, threshold):
    judged = join([judge(*make_sky(seed + i), part=str(i)) for i in range(2)])
    tables = all_tables(judged, threshold=threshold)
    whole = row(tables["summary_table"])
    n_true, n_listed = whole["N_True"], whole["N_Listed"]
    assert tables["numbers_per_part"]["N_True"].sum() == n_true
    assert tables["numbers_per_part"]["N_Listed"].sum() == n_listed
    assert tables["by_latitude"]["N_True"].sum() == n_true
    assert tables["by_latitude"]["N_Listed"].sum() == n_listed
    counted = tables["by_photons"]["Low"] >= 8
    assert tables["by_photons"]["N_True"][counted].sum() == n_true
    n_right = tables["by_latitude"]["N_Right"].sum()
    assert tables["by_photons"]["N_Found"][counted].sum() == n_right
    assert row(tables["false_alarms"])["N_Wrong"] == n_listed - n_right
    errors = tables["position_errors"]
    assert errors["N"][np.asarray(errors["Sky"]) == "all sky"].sum() == n_right
    below = tables["by_threshold"][tables["by_threshold"]["Score"] >= threshold]
    below = below[np.asarray(below["Sky"]) == "all sky"]
    if len(below):
        assert below["Purity"][-1] == pytest.approx(whole["Purity"])
        assert below["Completeness"][-1] == pytest.approx(whole["Completeness"])


def test_tables_that_count_fainter_sources_than_the_summary_say_so():
    # one that counts and one of five photons
    truth = make_truth([0, 10], [20, 20], [50, 5], Class=["AGN", "AGN"])
    truth["Flux"] = np.array([1e-10, 2e-11]) * u.Unit("ph cm-2 s-1")
    tables = all_tables(judge(make_catalog([0], [20]), truth))
    for name, table in tables.items():
        if name in ("by_photons", "by_flux"):
            assert table["N_True"].sum() == 2
            about = table.meta["about"]
            assert re.search(
                "of the true sources, .*(from 3 on|3 expected photons).* summary", about
            )
            assert "every" not in about
        elif name in ("by_latitude", "by_class", "numbers_per_part"):
            assert table["N_True"].sum() == 1
            assert " 3 " not in table.meta["about"]
    assert row(tables["summary_table"])["N_True"] == 1
