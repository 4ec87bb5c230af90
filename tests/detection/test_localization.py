import numpy as np
import pytest

from astro_unetloc.catalog.columns import has_flag
from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.detection.clustering import PixelSources
from astro_unetloc.detection.localization import (
    LocalizationConfig,
    localize,
    near_owned_cell,
    with_neighbors,
)
from astro_unetloc.maps.patches import Patches, PatchGrid
from astro_unetloc.sphere import separation_deg

GRID = PatchGrid()
# At high latitude and next to each other; the second is the nearest neighbour of the first.
FIRST = 130
SECOND = int(np.argsort(separation_deg(GRID.centers, GRID.centers[FIRST]))[1])


def patches_of(*index):
    """Empty patches, observed everywhere."""
    index = np.sort(np.array(index, dtype=int))
    counts, coverage = (np.zeros((len(index), 160, 160, n), dtype=np.float32) for n in (5, 1))
    return Patches(GRID, index, counts, coverage + 1, np.zeros((5, 4), dtype=np.float32))


def candidates_at(patches, *found):
    """Candidates from (patch, direction, probability)."""
    row = np.array([np.searchsorted(patches.index, patch) for patch, _, _ in found], dtype=int)
    places = [GRID.plane(patch).pixel_from_vectors(vector) for patch, vector, _ in found]
    probability = np.array([p for _, _, p in found], dtype=float)
    return PixelSources(row, *np.reshape(places, (-1, 2)).T, probability)


def found_at(*found):
    """Sources of candidates (patch, direction, probability) in the patches that they name."""
    patches = patches_of(*{patch for patch, _, _ in found})
    return localize(candidates_at(patches, *found), patches)


def towards(vector, other, distance_deg):
    """Direction at a distance from one direction towards another."""
    side = other - vector * (vector @ other)
    side /= np.linalg.norm(side)
    return np.cos(np.radians(distance_deg)) * vector + np.sin(np.radians(distance_deg)) * side


def on_border(offset_deg=0.0):
    """Direction on the border between the two patches, an offset beyond it into the second."""
    half = separation_deg(GRID.centers[FIRST], GRID.centers[SECOND]) / 2
    return towards(GRID.centers[FIRST], GRID.centers[SECOND], half + offset_deg)


def sideways(vector, distance_deg):
    """Direction at a distance along the border."""
    along = np.cross(GRID.centers[FIRST], GRID.centers[SECOND])
    return towards(vector, along / np.linalg.norm(along), distance_deg)


def test_sources_come_out_where_they_are_with_their_probability():
    truth = [towards(GRID.centers[FIRST], GRID.centers[SECOND], d) for d in (0.0, 1.7, 3.0)]
    sources = found_at(*((FIRST, v, p) for v, p in zip(truth, (0.9, 0.8, 0.3))))
    assert separation_deg(glon_glat_vectors(sources), np.array(truth)).max() < 1e-9
    np.testing.assert_array_equal(sources["Score"], [0.9, 0.8, 0.3])
    np.testing.assert_array_equal(sources["Probability"], sources["Score"])
    for name, value in {"Patch": FIRST, "Coverage": 1, "Flags": 0}.items():
        np.testing.assert_array_equal(sources[name], value)
    neighbors = with_neighbors(sources)
    np.testing.assert_allclose(neighbors["Sep_Nearest"].to_value("deg"), [1.7, 1.3, 1.3])
    assert not has_flag(neighbors, "blended").any()


@pytest.mark.parametrize("patches", [(), (FIRST,)])
def test_nothing_found_gives_empty_columns_of_the_same_types(patches):
    one, patches = found_at((FIRST, GRID.centers[FIRST], 0.9)), patches_of(*patches)
    none = localize(candidates_at(patches), patches)
    assert len(none) == len(with_neighbors(none)) == 0
    assert none.colnames == one.colnames
    for name in one.colnames:
        assert (none[name].dtype, none[name].unit) == (one[name].dtype, one[name].unit)


@pytest.mark.parametrize("stronger", [FIRST, SECOND])
def test_a_source_on_the_border_is_reported_once_and_the_stronger_wins(stronger):
    assert len(found_at((FIRST, on_border(), 0.8), (SECOND, on_border(0.01), 0.8))) == 1
    places = {FIRST: on_border(0.1), SECOND: sideways(on_border(0.1), 0.05)}
    sources = found_at(*((n, place, 0.9 if n == stronger else 0.7) for n, place in places.items()))
    assert len(sources) == 1
    assert sources["Score"] == 0.9
    assert separation_deg(glon_glat_vectors(sources), places[stronger])[0] < 1e-9
    np.testing.assert_array_equal(sources["Patch"], [SECOND])  # of its owner, whoever found it
    assert np.isnan(with_neighbors(sources)["Sep_Nearest"][0])


def test_two_sources_of_one_patch_both_stay_however_close():
    close = towards(GRID.centers[FIRST], GRID.centers[SECOND], 0.1)
    sources = found_at((FIRST, GRID.centers[FIRST], 0.9), (FIRST, close, 0.8))
    assert len(sources) == 2
    neighbors = with_neighbors(sources)
    np.testing.assert_allclose(neighbors["Sep_Nearest"].to_value("deg"), 0.1)
    assert has_flag(neighbors, "blended").all()
    assert "Sep_Nearest" not in sources.colnames
    assert not has_flag(sources, "blended").any()


@pytest.mark.parametrize(("beyond_deg", "number"), [(-0.01, 1), (0.01, 2)])
def test_sources_of_two_patches_beyond_the_merge_radius_both_stay(beyond_deg, number):
    distance_deg = LocalizationConfig().merge_radius_deg + beyond_deg
    found = (FIRST, on_border(), 0.9), (SECOND, sideways(on_border(), distance_deg), 0.8)
    assert len(found_at(*found)) == number


@pytest.mark.parametrize(
    ("pixel_deg", "apart_deg", "number"),
    [(0.25, 0.2, 2), (0.46, 0.65, 1), (0.46, 0.75, 2), (0.92, 1.3, 1), (0.92, 1.45, 2)],
)
def test_sources_of_neighboring_wide_pixels_are_one(pixel_deg, apart_deg, number):
    patches, center = patches_of(FIRST), GRID.centers[FIRST]
    other = towards(center, GRID.centers[SECOND], apart_deg)
    candidates = candidates_at(patches, (FIRST, center, 0.6), (FIRST, other, 0.9))
    sources = localize(candidates, patches, pixel_deg=pixel_deg)
    assert len(sources) == number
    assert sources["Probability"].max() == 0.9


def test_what_a_dropped_candidate_would_have_dropped_stays():
    # In a row: strong, weaker, weakest, each within the merge radius of the next one only.
    row = ((FIRST, 0.0, 0.9), (SECOND, 0.12, 0.8), (FIRST, 0.24, 0.7))
    sources = found_at(*((patch, sideways(on_border(), deg), p) for patch, deg, p in row))
    np.testing.assert_array_equal(np.sort(sources["Score"]), [0.7, 0.9])


def test_candidates_are_kept_up_to_the_border_and_no_farther():
    patches, border = patches_of(FIRST), GRID.config.border_deg
    places = [on_border(offset) for offset in (-0.5, border - 0.01, border + 0.01)]
    found = candidates_at(patches, *((FIRST, place, 0.9) for place in places))
    where = (patches, found.row, found.x, found.y)
    for margin, near in ((border, [1, 1, 0]), (1.0, [1, 1, 1]), (0.0, [1, 0, 0])):
        np.testing.assert_array_equal(near_owned_cell(*where, margin), near)
    np.testing.assert_array_equal(localize(found, patches)["Patch"], [FIRST, SECOND])


def test_every_source_belongs_to_its_nearest_centre(rng):
    vectors = [sideways(on_border(o), s) for o, s in rng.uniform(-0.25, 0.25, (30, 2))]
    sources = found_at(*((FIRST, v, 0.9) for v in vectors))
    np.testing.assert_array_equal(sources["Patch"], GRID.owner(np.array(vectors)))


def test_the_order_of_candidates_does_not_matter(rng):
    patches = patches_of(FIRST, SECOND)
    drawn = rng.choice([FIRST, SECOND], 40), *rng.uniform(-0.28, 0.28, (2, 40)), rng.random(40)
    rows = [(patch, sideways(on_border(a), b), p) for patch, a, b, p in zip(*drawn)]
    found = candidates_at(patches, *rows)
    one, two = (localize(f, patches) for f in (found, found.select(rng.permutation(40))))
    assert 5 < len(one) < 40
    order = [np.argsort(sources["Score"]) for sources in (one, two)]
    for name in one.colnames:
        np.testing.assert_array_equal(one[name][order[0]], two[name][order[1]])


def test_candidates_below_the_smallest_probability_are_dropped():
    patches = patches_of(FIRST)
    rows = (FIRST, GRID.centers[FIRST], 0.5), (FIRST, on_border(-0.5), 0.49)
    for least, kept in ((0.5, [0.5]), (0.4, [0.5, 0.49])):
        sources = localize(candidates_at(patches, *rows), patches, min_probability=least)
        np.testing.assert_array_equal(sources["Score"], kept)


def test_sources_at_the_edge_of_coverage_are_flagged():
    patches = patches_of(FIRST)
    patches.coverage[0, :, 80:] = 0
    x, y = np.array([79.0, 76.0, 60.0]), np.array([70.0, 80.0, 90.0])
    found = PixelSources(np.zeros(3, dtype=int), x, y, np.array([0.9, 0.8, 0.7]))
    sources = localize(found, patches)
    assert sources["Coverage"][0] == pytest.approx(0.5, abs=0.06)
    assert 0.5 < sources["Coverage"][1] < 0.9
    assert sources["Coverage"][2] == 1
    np.testing.assert_array_equal(has_flag(sources, "edge"), [True, True, False])
