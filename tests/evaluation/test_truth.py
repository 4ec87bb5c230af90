import astropy.units as u
import numpy as np
import pytest
from astropy.table import MaskedColumn, vstack
from astropy.utils.masked import Masked
from hypothesis import given, settings
from hypothesis import strategies as st
from made_catalogs import make_measured
from made_truth import by_tile, make_catalog, make_sky, make_truth

from astro_unetloc.evaluation.metrics import evaluate
from astro_unetloc.evaluation.truth import combine, grid_tiles, join_matches, match_truth
from astro_unetloc.maps.patches import PatchGrid
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat


def columns(table, *names):
    return [table[name].tolist() for name in names]


# A sky with one of each
TRUTH = make_truth([0, 10, 20, 30, 40], [0] * 5, [10, 5, 2, 100, 50], [0, 0, 0, 1, 0])
CATALOG = make_catalog([0.1, 0.2, 10, 20, 30.5, 60], [0] * 6, [0.8, 0.9, 0.7, 0.6, 0.5, 0.4])


def test_each_true_source_has_its_role():
    truth = make_truth([0] * 7, range(7), [8, 7.9, 3, 2.9, 3, 2.9, np.nan], [0, 0, 0, 0, 1, 1, 0])
    role = match_truth(make_catalog([], []), truth).truth["Truth_Class"]
    assert role.tolist() == ["counted", "faint", "faint", "below", "extended", "below", "below"]
    # unknown photons or radius
    truth = make_truth([0, 10, 20], [0] * 3, [50, 50, 50])
    truth["Npred"] = MaskedColumn(truth["Npred"], mask=[True, False, False])
    truth["Radius"] = Masked(truth["Radius"], mask=[False, True, False])
    matches = match_truth(make_catalog([0, 10, 20], [0] * 3), truth)
    assert matches.truth["Truth_Class"].tolist() == ["below", "below", "counted"]
    assert matches.catalog["Status"].tolist() == ["false positive"] * 2 + ["true positive"]
    assert matches.is_real.tolist() == [False, False, True]


@pytest.mark.parametrize(
    "score", [[0.9, np.nan], [0.9, np.inf], MaskedColumn([0.9, 0.8], mask=[False, True])]
)
def test_detection_without_score_is_refused(score):
    catalog = make_catalog([0, 1], [0, 0])
    catalog["Score"] = score
    with pytest.raises(ValueError, match="1 of 2 have none; leave these rows out"):
        match_truth(catalog, TRUTH)


@pytest.mark.parametrize("maybe_masked", [False, True])
def test_each_detection_has_its_status(maybe_masked):
    catalog = CATALOG.copy()
    if maybe_masked:
        catalog["Score"] = MaskedColumn(catalog["Score"], mask=False)
    matches = match_truth(catalog, TRUTH)
    assert columns(matches.catalog, "Score", "True_Row", "Is_Duplicate") == [
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0, -1, 1, -1, -1, -1],
        [False, True, False, False, False, False],
    ]  # fmt: skip
    assert matches.catalog["Status"].tolist() == [
        "true positive", "false positive", "ignored", "false positive", "ignored", "false positive"
    ]  # fmt: skip
    assert matches.truth["Found_Row"].tolist() == [0, 2, -1, -1, -1]
    assert matches.truth["Status"].tolist() == ["found"] * 2 + ["missed"] * 3
    assert matches.select(0.85).truth["Status"].tolist() == ["found"] + ["missed"] * 4
    assert matches.select(0.6).evaluation().score.tolist() == [0.9, 0.8, 0.6]
    assert matches.catalog["Offset"].unit == u.deg
    np.testing.assert_allclose(matches.catalog["Offset"].value, [0.2, np.nan, 0] + [np.nan] * 3)
    # inputs stay as they were
    assert catalog.colnames == ["GLON", "GLAT", "Score"]
    assert TRUTH.colnames == ["GLON", "GLAT", "Npred", "Radius"]


@pytest.mark.parametrize("brightest", [False, True])
@pytest.mark.parametrize(
    ("counts", "n_photons", "away_deg", "real"),
    [
        (30, 10, 0, True),
        (30.1, 10, 0, False),  # less than a third of the counts
        (30, 10, 0.299, True),
        (30, 10, 0.301, False),
        (1, 500, 0.1, True),
        (6, 2, 0.2, True),  # too faint to be truth
        (0.5, 0.29, 0, False),  # a source of no photon
        (np.nan, 3, 0.1, True),
        (np.nan, 2.9, 0.1, False),
        (9, np.nan, 0, False),
    ],
)
def test_a_third_of_the_counts_of_a_real_detection_are_those_of_a_source(
    counts, n_photons, away_deg, real, brightest
):
    catalog, options = make_catalog([away_deg], [0], Npred=[counts]), {"brightest": brightest}
    matches = match_truth(catalog, make_truth([0], [0], n_photons), **options)
    assert (matches.is_real.tolist(), matches.is_judged.tolist()) == ([real], [True])
    # photons that were detected are known better than expected ones
    truth = make_truth([0], [0], 5.0, Counts=[n_photons])
    assert match_truth(catalog, truth, **options).is_real[0] == (real or np.isnan(n_photons))


def test_a_source_makes_one_detection_real():
    # two of the bright one, of which the worse has only the faint one left, as has the third
    truth, score = make_truth([0, 0.1], [0, 0], [100, 5]), [0.5, 0.9, 0.7]
    for counts, real in ((20, [True, False, False]), (14, [True, True, False])):
        catalog = make_catalog([0, 0.1, 0.05], [0, 0, 0], score, Npred=[200, counts, 120])
        found = join_matches([match_truth(catalog, truth)] * 2)
        assert found.is_real.tolist() == [*real] * 2


def test_detections_in_extended_sources_are_real_by_a_point_source_or_not_judged():
    truth = make_truth([0, 0.5, 10], [0, 0, 0], [500, 9, 9], [1, 0, 0])
    catalog = make_catalog([0.5, 0.9, 10, 20], [0] * 4, Npred=[10, 10, 10, 10])
    matches = match_truth(catalog, truth)
    assert matches.is_real.tolist() == [True, False, True, False]
    assert matches.is_judged.tolist() == [True, False, True, True]
    score, real = matches.judged()["|b| < 10 deg"]
    assert (len(score), real.tolist()) == (3, [True, True, False])


def test_surroundings_of_true_sources_are_those_of_their_sky():
    truth = make_truth([0, 0.4, 0.5, 3], [0] * 4, [10, 10, 5, 90], [0, 0, 0, 1])
    both = join_matches([match_truth(make_catalog([], []), sky) for sky in (truth, truth[:1])])
    np.testing.assert_allclose(both.truth["Sep_Counted"].value, [0.4, 0.4, 0.1, 2.6, np.nan])
    np.testing.assert_allclose(both.truth["Sep_Extended"].value, [2, 1.6, 1.5, -1, np.nan])


@pytest.mark.parametrize("n_true", [0, 2])
@pytest.mark.parametrize("n_found", [0, 2])
def test_empty_tables_have_all_columns(n_true, n_found):
    matches = match_truth(
        make_catalog([0, 50][:n_found], [0, 1][:n_found]),
        make_truth([0, 50][:n_true], [0, 1][:n_true]),
        tile=grid_tiles(1),
    )
    names = {"Status", "True_Row", "Offset", "Is_Duplicate", "Is_Real", "Real_Row", "In_Extended"}
    assert (len(matches.catalog), len(matches.truth)) == (n_found, n_true)
    assert names | {"Tile"} < set(matches.catalog.colnames)
    assert {"Truth_Class", "Status", "Found_Row", "Tile"} < set(matches.truth.colnames)
    assert matches.evaluation().n_true == n_true
    assert matches.select(0.8).evaluation().n_true == n_true
    assert len(by_tile(matches)) == max(n_true, n_found)


def test_match_belongs_to_the_part_of_its_true_source():
    # two patches meet somewhere on the way from one centre to the other
    centers = PatchGrid().centers[[0, 1]]
    part = np.linspace(0, 1, 1001)[:, None]
    between = centers[0] * (1 - part) + centers[1] * part
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    border = np.flatnonzero(np.diff(PatchGrid().owner(between)))[0]
    lon, lat = lonlat_from_vectors(between[[border - 5, border + 5]])
    truth, catalog = make_truth(lon[:1], lat[:1]), make_catalog(lon[[1, 1]], lat[[1, 1]])
    matches = match_truth(catalog, truth, tile=grid_tiles("7"))
    here, there = (f"7/{i}" for i in PatchGrid().owner(vectors_from_lonlat(lon, lat)))
    assert (matches.truth["Tile"], *matches.catalog["Tile"]) == (here, here, there)
    parts = by_tile(matches)
    assert parts[here].evaluation().completeness == 1
    assert parts[there].evaluation().n_true == 0
    assert parts[there].evaluation().purity == 0
    assert match_truth(catalog, truth, tile="a").catalog["Tile"].tolist() == ["a", "a"]


def test_catalogs_of_the_chain_are_joined():
    # one with masked columns and one without, of other provenance
    truth = make_truth([0], [0])
    first, second = make_measured(4), make_measured(3, seed=1, meta={"SEED": 5})
    second["Flux"] = second["Flux"].unmasked
    both = [
        match_truth(first, truth, tile="1", area_deg2=30),
        match_truth(second, truth, tile="20"),
    ]
    assert np.isnan(join_matches(both).area_deg2)
    assert join_matches(both[:1] * 2).area_deg2 == 60
    assert both[0].select(0.6).area_deg2 == 30
    both = join_matches(both)
    assert both.catalog["Tile"].tolist() == ["1"] * 4 + ["20"] * 3
    assert both.catalog["Flux"].unit == first["Flux"].unit
    assert "skycoord" in both.catalog.colnames


# Laws

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)


def assert_same_matches(matches, expected):
    for one, other in ((matches.catalog, expected.catalog), (matches.truth, expected.truth)):
        for name in other.colnames:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@SETTINGS
@given(st.integers(0, 2**31))
def test_rows_of_both_tables_point_at_each_other(seed):
    matches = match_truth(*make_sky(seed))
    catalog, row, back = matches.catalog, matches.true_row, np.asarray(matches.truth["Found_Row"])
    np.testing.assert_array_equal(back[row[row >= 0]], np.flatnonzero(row >= 0))
    np.testing.assert_array_equal(row[back[back >= 0]], np.flatnonzero(back >= 0))
    np.testing.assert_array_equal(np.isfinite(catalog["Offset"].value), row >= 0)
    assert not np.any(catalog["Is_Duplicate"] & (row >= 0))


@SETTINGS
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
def test_selected_detections_are_matched_alike(seed, threshold):
    catalog, truth = make_sky(seed)
    again = match_truth(catalog[catalog["Score"] >= threshold], truth)
    assert_same_matches(match_truth(catalog, truth).select(threshold), again)


@SETTINGS
@given(st.integers(0, 2**31), st.sampled_from([(0, 91), (0, 1), (1, 91)]))
def test_joined_matches_give_the_combined_evaluation(seed, band):
    skies = [make_sky(seed + i) for i in range(3)]
    limits = {"min_latitude": band[0], "max_latitude": band[1]}
    both = join_matches([match_truth(*sky, tile=str(i)) for i, sky in enumerate(skies)])
    one, other = both.evaluation(**limits), combine([evaluate(*sky, **limits) for sky in skies])
    for name in ("n_true", "n_ignored", "score", "correct"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(np.sort(one.offset_deg), np.sort(other.offset_deg))
    for part, sky in by_tile(both).items():
        assert_same_matches(sky, match_truth(*skies[int(part)], tile=part))


@SETTINGS
@given(st.integers(0, 2**31))
def test_nearest_counted_source_is_that_of_all_pairs(seed):
    truth = make_sky(seed)[1]
    matches = match_truth(make_catalog([], []), truth)
    vectors = vectors_from_lonlat(truth["GLON"].value, truth["GLAT"].value)
    angle = separation_deg(vectors[:, None], vectors[None])
    np.fill_diagonal(angle, np.inf)
    expected = angle[:, matches.is_class("counted")].min(axis=1)
    np.testing.assert_allclose(matches.truth["Sep_Counted"].value, expected, atol=1e-9)


@SETTINGS
@given(st.integers(0, 2**31), st.booleans())
def test_groups_are_skies_of_their_own(seed, brightest):
    skies = [make_sky(seed + i) for i in range(3)]
    catalog, truth = (vstack([sky[i] for sky in skies]) for i in (0, 1))
    groups = [np.repeat(range(3), [len(sky[i]) for sky in skies]) for i in (0, 1)]
    catalog["Group"], truth["Group"] = groups
    whole = match_truth(catalog, truth, brightest=brightest, groups=groups)
    for number, sky in enumerate(skies):
        alone = match_truth(*sky, brightest=brightest)
        rows = [np.flatnonzero(table["Group"] == number) for table in (whole.catalog, whole.truth)]
        assert_same_matches(whole.take(*rows), alone)
