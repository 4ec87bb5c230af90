import time
from dataclasses import FrozenInstanceError

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn, QTable
from astropy.utils.masked import Masked
from hypothesis import given, settings
from hypothesis import strategies as st
from made_catalogs import make_measured

from astro_unetloc.catalog import MATCH_COLUMNS, read_catalog
from astro_unetloc.matching import is_known, match_catalogs


def make_table(ra, dec=None, **columns):
    """Table of positions in degrees, on the equator by default."""
    ra = np.asarray(ra, float)
    dec = np.zeros(len(ra)) if dec is None else np.asarray(dec, float)
    return QTable({"RAJ2000": ra * u.deg, "DEJ2000": dec * u.deg, **columns})


def make_reference(ra, extension_deg=None):
    """Reference with names A, B, ...; extended where ``extension_deg`` is not None."""
    names = [chr(ord("A") + row) for row in range(len(ra))]
    extension_deg = extension_deg or [None] * len(ra)
    radius = np.array([np.nan if value is None else value for value in extension_deg])
    extended = np.array([value is not None for value in extension_deg], bool)
    extension = Masked(radius * u.deg, mask=np.isnan(radius))
    return make_table(ra, Source_Name=names, Extended=extended, Extension=extension)


def pairs(match):
    return list(zip(match.catalog_index.tolist(), match.reference_index.tolist()))


def test_nearest_source_within_the_radius_matches():
    match = match_catalogs(make_table([10.0, 50.0]), make_reference([10.2, 9.9, 51.0]))
    assert pairs(match) == [(0, 1)]
    assert match.separation_deg == pytest.approx([0.1])
    assert match.catalog_unmatched.tolist() == [1]
    assert match.reference_unmatched.tolist() == [0, 2]


def test_higher_score_chooses_first():
    reference = make_reference([10.0])
    near_but_weak = make_table([10.01, 10.1], Score=[0.3, 0.9])
    assert pairs(match_catalogs(near_but_weak, reference)) == [(1, 0)]
    assert pairs(match_catalogs(make_table([10.01, 10.1], Score=[0.9, 0.3]), reference)) == [(0, 0)]


def test_second_choice_is_taken_when_the_nearest_is_gone():
    catalog = make_table([10.0, 10.02], Score=[0.9, 0.8])
    match = match_catalogs(catalog, make_reference([10.01, 10.2]))
    assert pairs(match) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("radius", [0.2, 0.2 * u.deg, 12 * u.arcmin])
def test_radius_is_degrees_or_an_angle_and_belongs_to_the_disc(radius):
    reference = make_reference([10.2, 30.2001])
    match = match_catalogs(make_table([10.0, 30.0]), reference, radius=radius)
    assert pairs(match) == [(0, 0)]
    assert match.radius_deg == pytest.approx(0.2)


def test_default_radius_is_that_of_the_design():
    match = match_catalogs(make_table([10.0, 30.0]), make_reference([10.299, 30.301]))
    assert pairs(match) == [(0, 0)]


@pytest.mark.parametrize("radius", [0, -1.0, np.nan, 200 * u.deg])
def test_impossible_radius_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be an angle above 0"):
        match_catalogs(make_table([1.0]), make_reference([1.0]), radius=radius)


def test_match_crosses_longitude_zero_and_the_pole():
    catalog = make_table([359.95, 10.0], [0.0, 89.95])
    reference = make_table([0.05, 190.0], [0.0, 89.95])
    assert pairs(match_catalogs(catalog, reference)) == [(0, 0), (1, 1)]


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_empty_tables_match_nothing(n, m):
    catalog, reference = make_table(np.arange(n)), make_reference(np.arange(m))
    match = match_catalogs(catalog, reference)
    assert match.n_matched == 0
    assert match.catalog_unmatched.tolist() == list(range(n))
    assert match.reference_unmatched.tolist() == list(range(m))
    assert len(match.apply(catalog)) == n
    assert f"0 of {m}" in match.summary()
    assert is_known(catalog, [reference]).tolist() == [False] * n


def test_unknown_positions_match_nothing():
    reference = make_table([np.nan, 10.0])
    match = match_catalogs(make_table([10.0, np.nan]), reference)
    assert pairs(match) == [(0, 1)]


# Extended sources


def test_extended_source_is_listed_apart_and_takes_no_match():
    match = match_catalogs(make_table([10.0]), make_reference([10.0, 10.1], [1.0, None]))
    assert pairs(match) == [(0, 1)]
    assert match.extended.tolist() == [0]
    assert match.reference_unmatched.tolist() == []
    assert match.catalog_inside.tolist() == []


def test_detections_inside_an_extension_are_known():
    catalog = make_table([10.0, 10.9, 11.1, 20.2, 20.4])
    match = match_catalogs(catalog, make_reference([10.0, 20.0], [1.0, 0.1]))
    # The second source is smaller than the radius, which then decides.
    assert match.catalog_inside.tolist() == [0, 1, 3]
    assert match.reference_inside.tolist() == [0, 0, 1]
    assert match.inside_separation_deg == pytest.approx([0.0, 0.9, 0.2])
    assert match.catalog_unmatched.tolist() == [2, 4]


def test_extended_source_of_unknown_size_reaches_to_the_radius():
    reference = make_reference([10.0], [0.0])
    reference["Extension"].mask[:] = True
    match = match_catalogs(make_table([10.29, 10.31]), reference)
    assert match.catalog_inside.tolist() == [0]


def test_nearest_of_two_extended_sources_counts():
    match = match_catalogs(make_table([10.6]), make_reference([10.0, 11.0], [2.0, 2.0]))
    assert match.reference_inside.tolist() == [1]


# Known


def test_known_is_not_one_to_one_and_takes_any_reference():
    catalog = make_table([10.0, 10.05, 20.0, 30.0])
    references = [make_reference([10.1]), make_reference([20.1], [0.0])]
    assert is_known(catalog, references).tolist() == [True, True, True, False]
    assert is_known(catalog, []).tolist() == [False] * 4


def test_known_inside_an_extension():
    assert is_known(make_table([10.0, 12.0]), [make_reference([11.0], [1.0])]).tolist() == [1, 1]


# Results


def test_apply_adds_the_match_columns_to_a_copy():
    catalog = make_measured(3)
    reference = QTable(
        {
            "RAJ2000": catalog["RAJ2000"][[2, 0]],
            "DEJ2000": catalog["DEJ2000"][[2, 0]] + 0.05 * u.deg,
            "Source_Name": ["4FGL J0000.1+0000", "4FGL J0000.2+0000e"],
            "Extended": [False, True],
        }
    )
    matched = match_catalogs(catalog, reference).apply(catalog)
    assert list(matched["ASSOC"].filled("-")) == ["4FGL J0000.2+0000e", "-", "4FGL J0000.1+0000"]
    assert list(matched["ASSOC_Sep"].mask) == [False, True, False]
    assert matched["ASSOC_Sep"][0].unmasked.to_value("deg") == pytest.approx(0.05, rel=1e-4)
    assert matched["ASSOC_Sep_Norm"].mask.all()
    assert matched["ASSOC_Prob"].mask.all()
    assert list(matched["ASSOC_Catalog"].filled("-")) == ["4FGL", "-", "4FGL"]
    assert {spec.name for spec in MATCH_COLUMNS}.isdisjoint(catalog.colnames)


def test_apply_refuses_another_catalog():
    match = match_catalogs(make_table([1.0, 2.0]), make_reference([1.0]))
    with pytest.raises(ValueError, match="must have the 2 rows that were matched; got 1"):
        match.apply(make_table([1.0]))


def test_summary_says_what_was_found():
    catalog = make_table([10.0, 20.0, 30.0, 40.0])
    match = match_catalogs(catalog, make_reference([10.1, 20.0, 50.0], [None, 1.0, None]))
    summary = match.summary()
    assert "1 of 2 (50 %) point-like" in summary
    assert "2 of 4 (50 %) detections known, 1 of them in extended sources" in summary
    assert "0.100 deg" in summary
    assert "1 extended sources, 1 with a detection inside" in summary


def test_result_is_frozen():
    match = match_catalogs(make_table([1.0]), make_reference([1.0]))
    with pytest.raises(FrozenInstanceError):
        match.radius_deg = 1.0


def test_tables_are_not_changed():
    catalog, reference = make_measured(3), make_reference([1.0, 2.0])
    names = catalog.colnames, reference.colnames
    match_catalogs(catalog, reference).apply(catalog)
    assert (catalog.colnames, reference.colnames) == names


def test_masked_scores_come_last():
    score = MaskedColumn([0.5, 0.1], mask=[True, False])
    assert pairs(match_catalogs(make_table([10.0, 10.1], Score=score), make_reference([10.0]))) == [
        (1, 0)
    ]


# Against the plain algorithm


def match_slowly(catalog, reference, radius_deg):
    """DESIGN, word by word: in descending Score, each takes the nearest that is free."""
    free, result = set(range(len(reference))), []
    left = SkyCoord(catalog["RAJ2000"], catalog["DEJ2000"])
    right = SkyCoord(reference["RAJ2000"], reference["DEJ2000"])
    for row in np.argsort(-np.asarray(catalog["Score"]), kind="stable"):
        angle = {other: left[row].separation(right[other]).deg for other in free}
        inside = {other: value for other, value in angle.items() if value <= radius_deg}
        if inside:
            best = min(inside, key=inside.get)
            free.remove(best)
            result.append((int(row), best))
    return result


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 12))
def test_fast_match_agrees_with_the_slow_one(seed, n, m):
    rng = np.random.default_rng(seed)
    catalog = make_table(rng.uniform(10, 11, n), rng.uniform(60, 60.5, n), Score=rng.random(n))
    reference = make_table(rng.uniform(10, 11, m), rng.uniform(60, 60.5, m))
    assert pairs(match_catalogs(catalog, reference)) == match_slowly(catalog, reference, 0.3)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_row_is_accounted_for_once(seed):
    rng = np.random.default_rng(seed)
    catalog = make_table(rng.uniform(0, 5, 40), rng.uniform(-2, 2, 40), Score=rng.random(40))
    size = [float(rng.uniform(0, 1)) if rng.random() < 0.2 else None for _ in range(20)]
    reference = make_reference(rng.uniform(0, 5, 20), size)
    match = match_catalogs(catalog, reference)
    rows = [match.catalog_index, match.catalog_inside, match.catalog_unmatched]
    assert sorted(np.concatenate(rows).tolist()) == list(range(40))
    rows = [match.reference_index, match.reference_unmatched, match.extended]
    assert sorted(np.concatenate(rows).tolist()) == list(range(20))
    known = np.delete(np.arange(40), match.catalog_unmatched)
    assert is_known(catalog, [reference])[known].all()


def test_hundred_thousand_rows_match_in_seconds():
    rng = np.random.default_rng(0)
    n = 100_000
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    catalog = make_table(rng.uniform(0, 360, n), dec, Score=rng.random(n))
    reference = make_table(catalog["RAJ2000"].value, dec + 1e-4)
    start = time.perf_counter()
    assert match_catalogs(catalog, reference).n_matched > 0.99 * n
    assert time.perf_counter() - start < 20


# Real catalogues


def test_3fhl_sources_are_in_4fgl(real_data):
    hard = read_catalog(real_data / "catalogs" / "gll_psch_v13.fit.gz")
    soft = read_catalog(real_data / "catalogs" / "4fgl_dr3_reduced.fits")
    match = match_catalogs(hard, soft)
    assert match.reference_name == "4FGL"
    assert len(match.extended) == 77
    assert len(match.catalog_unmatched) < 0.02 * len(hard)
    assert np.median(match.separation_deg) < 0.02


def test_a_catalog_matches_itself(real_data):
    hard = read_catalog(real_data / "catalogs" / "gll_psch_v13.fit.gz")
    match = match_catalogs(hard, hard, radius=0.01)
    point = np.flatnonzero(~np.asarray(hard["Extended"]))
    assert sorted(match.catalog_index.tolist()) == point.tolist()
    np.testing.assert_array_equal(match.catalog_index, match.reference_index)
    assert is_known(hard, [hard], radius=0.01).all()
