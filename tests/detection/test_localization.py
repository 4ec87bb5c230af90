import numpy as np
import pytest

from astro_unetloc.catalog.columns import FLAGS
from astro_unetloc.detection.clustering import PixelSources
from astro_unetloc.detection.localization import LocalizationConfig, localize, near_owned_cell
from astro_unetloc.maps.patches import Patches, PatchGrid
from astro_unetloc.maps.photons import Photons
from astro_unetloc.maps.skymap import HealpixPixelization, SkyMap
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat

GRID = PatchGrid()
BIT = {name: bit for name, (bit, _) in FLAGS.items()}
# At high latitude and next to each other; the second is the nearest neighbour of the first.
FIRST = 130
SECOND = int(np.argsort(separation_deg(GRID.centers, GRID.centers[FIRST]))[1])


def patches_of(*index, coverage=1.0):
    """Empty patches, observed everywhere."""
    index = np.sort(np.array(index, dtype=int))
    n = len(index)
    return Patches(
        grid=GRID,
        index=index,
        counts=np.zeros((n, 160, 160, 5), dtype=np.float32),
        coverage=np.full((n, 160, 160, 1), coverage, dtype=np.float32),
        bands=np.zeros((5, 4), dtype=np.float32),
    )


def candidates_at(patches, *found):
    """Candidates from (patch, direction, probability)."""
    row = np.array([np.searchsorted(patches.index, patch) for patch, _, _ in found], dtype=int)
    x, y = np.array(
        [GRID.plane(patch).pixel_from_vectors(vector) for patch, vector, _ in found]
    ).T.reshape(2, -1)
    probability = np.array([p for _, _, p in found], dtype=float)
    return PixelSources(row, x, y, probability, np.full(len(row), 13))


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
    patches = patches_of(FIRST)
    truth = [towards(GRID.centers[FIRST], GRID.centers[SECOND], d) for d in (0.0, 1.7, 3.0)]
    found = candidates_at(patches, *((FIRST, v, p) for v, p in zip(truth, (0.9, 0.8, 0.3))))
    sources = localize(found, patches)
    assert separation_deg(sources.vectors, np.array(truth)).max() < 1e-9
    np.testing.assert_array_equal(sources.score, [0.9, 0.8, 0.3])
    np.testing.assert_array_equal(sources.probability, sources.score)
    np.testing.assert_array_equal(sources.patch, FIRST)
    np.testing.assert_array_equal(sources.coverage, 1)
    np.testing.assert_allclose(sources.separation_deg, [1.7, 1.3, 1.3])
    np.testing.assert_array_equal(sources.flags, 0)


def test_nothing_found_gives_empty_arrays_of_the_same_types():
    patches = patches_of(FIRST)
    one = localize(candidates_at(patches, (FIRST, GRID.centers[FIRST], 0.9)), patches)
    none = localize(candidates_at(patches), patches)
    assert len(none) == 0
    for name in one.__dataclass_fields__:
        assert getattr(none, name).dtype.kind == getattr(one, name).dtype.kind
    assert none.vectors.shape == (0, 3)
    no_patches = patches_of()
    assert len(localize(candidates_at(no_patches), no_patches)) == 0


def test_a_source_on_the_border_is_reported_once_and_the_stronger_wins():
    patches = patches_of(FIRST, SECOND)
    place, other = on_border(0.1), sideways(on_border(0.1), 0.05)
    for stronger, vector in ((FIRST, place), (SECOND, other)):
        found = candidates_at(
            patches,
            (FIRST, place, 0.9 if stronger == FIRST else 0.7),
            (SECOND, other, 0.9 if stronger == SECOND else 0.7),
        )
        sources = localize(found, patches)
        assert len(sources) == 1
        assert sources.score == 0.9
        assert separation_deg(sources.vectors, vector)[0] < 1e-9
        np.testing.assert_array_equal(sources.patch, [SECOND])  # of its owner, whoever found it
        assert np.isnan(sources.separation_deg[0])


def test_equally_strong_candidates_are_one_source_too():
    patches = patches_of(FIRST, SECOND)
    found = candidates_at(patches, (FIRST, on_border(), 0.8), (SECOND, on_border(0.01), 0.8))
    assert len(localize(found, patches)) == 1


def test_two_sources_of_one_patch_both_stay_however_close():
    patches = patches_of(FIRST)
    center = GRID.centers[FIRST]
    close = towards(center, GRID.centers[SECOND], 0.1)
    sources = localize(candidates_at(patches, (FIRST, center, 0.9), (FIRST, close, 0.8)), patches)
    assert len(sources) == 2
    np.testing.assert_allclose(sources.separation_deg, 0.1)
    np.testing.assert_array_equal(sources.flags, BIT["blended"])


def test_sources_of_two_patches_beyond_the_merge_radius_both_stay():
    patches = patches_of(FIRST, SECOND)
    radius = LocalizationConfig().merge_radius_deg
    for distance, number in ((radius - 0.01, 1), (radius + 0.01, 2)):
        found = candidates_at(
            patches, (FIRST, on_border(), 0.9), (SECOND, sideways(on_border(), distance), 0.8)
        )
        assert len(localize(found, patches)) == number


def test_what_a_dropped_candidate_would_have_dropped_stays():
    # In a row: strong, weaker, weakest, each within the merge radius of the next one only.
    patches = patches_of(FIRST, SECOND)
    step = 0.12
    found = candidates_at(
        patches,
        (FIRST, on_border(), 0.9),
        (SECOND, sideways(on_border(), step), 0.8),
        (FIRST, sideways(on_border(), 2 * step), 0.7),
    )
    np.testing.assert_array_equal(np.sort(localize(found, patches).score), [0.7, 0.9])


def test_candidates_are_kept_up_to_the_border_and_no_farther():
    patches = patches_of(FIRST)
    border = GRID.config.border_deg
    found = candidates_at(
        patches,
        (FIRST, on_border(-0.5), 0.9),
        (FIRST, on_border(border - 0.01), 0.9),
        (FIRST, on_border(border + 0.01), 0.9),
    )
    where = (patches, found.row, found.x, found.y)
    np.testing.assert_array_equal(near_owned_cell(*where, border), [True, True, False])
    np.testing.assert_array_equal(near_owned_cell(*where, 1.0), [True, True, True])
    np.testing.assert_array_equal(near_owned_cell(*where, 0.0), [True, False, False])
    np.testing.assert_array_equal(localize(found, patches).patch, [FIRST, SECOND])


def test_every_source_belongs_to_its_nearest_centre(rng):
    patches = patches_of(FIRST, SECOND)
    vectors = [sideways(on_border(o), s) for o, s in rng.uniform(-0.25, 0.25, (30, 2))]
    found = candidates_at(patches, *((FIRST, v, 0.9) for v in vectors))
    sources = localize(found, patches)
    assert len(sources) == 30
    np.testing.assert_array_equal(sources.patch, GRID.owner(np.array(vectors)))


def test_the_order_of_candidates_does_not_matter(rng):
    patches = patches_of(FIRST, SECOND)
    found = candidates_at(
        patches,
        *(
            (patch, sideways(on_border(a), b), p)
            for patch, a, b, p in zip(
                rng.choice([FIRST, SECOND], 40),
                *rng.uniform(-0.28, 0.28, (2, 40)),
                rng.random(40),
            )
        ),
    )
    one = localize(found, patches)
    two = localize(found.select(rng.permutation(40)), patches)
    assert 5 < len(one) < 40
    order = [np.argsort(sources.score) for sources in (one, two)]
    for name in one.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name)[order[0]], getattr(two, name)[order[1]])


def test_the_threshold_is_the_smallest_score_listed():
    patches = patches_of(FIRST)
    center = GRID.centers[FIRST]
    found = candidates_at(patches, (FIRST, center, 0.5), (FIRST, on_border(-0.5), 0.49))
    np.testing.assert_array_equal(localize(found, patches, threshold=0.5).score, [0.5])
    np.testing.assert_array_equal(localize(found, patches, threshold=0.4).score, [0.5, 0.49])


def test_sources_at_the_edge_of_coverage_are_flagged():
    patches = patches_of(FIRST)
    patches.coverage[0, :, 80:] = 0
    found = PixelSources(
        np.zeros(3, dtype=int),
        np.array([79.0, 76.0, 60.0]),
        np.array([70.0, 80.0, 90.0]),
        np.array([0.9, 0.8, 0.7]),
        np.full(3, 13),
    )
    sources = localize(found, patches)
    assert sources.coverage[0] == pytest.approx(0.5, abs=0.06)
    assert 0.5 < sources.coverage[1] < 0.9
    assert sources.coverage[2] == 1
    np.testing.assert_array_equal(sources.flags & BIT["edge"], [BIT["edge"], BIT["edge"], 0])


def test_sources_in_the_galactic_plane_are_flagged():
    vectors = vectors_from_lonlat(50.0, [-4.9, 5.1])
    owners = GRID.owner(vectors)
    patches = patches_of(*set(owners))
    found = candidates_at(patches, *((o, v, 0.9) for o, v in zip(owners, vectors)))
    sources = localize(found, patches)
    low = np.abs(lonlat_from_vectors(sources.vectors)[1]) < 5
    assert low.sum() == 1
    np.testing.assert_array_equal(sources.flags, np.where(low, BIT["low_latitude"], 0))
    assert sources.flags.dtype == np.int16


@pytest.mark.parametrize("nside, coarse", [(64, True), (512, False)])
@pytest.mark.parametrize("assumed", [True, False])
def test_coarse_pixels_and_assumed_energies_are_flagged(nside, coarse, assumed):
    patches = patches_of(FIRST)
    sky_map = SkyMap(
        counts=np.zeros((1, 1)),
        pixels=HealpixPixelization(nside, True, "icrs", np.array([0])),
        energy_edges=np.array([10.0, 20.0]),
        energy_assumed=assumed,
    )
    found = candidates_at(patches, (FIRST, GRID.centers[FIRST], 0.9))
    expected = coarse * BIT["coarse_pixels"] + assumed * BIT["energy_assumed"]
    assert localize(found, patches, sky_map=sky_map).flags == [expected]


def test_events_are_never_coarse():
    patches = patches_of(FIRST)
    events = Photons(np.zeros((0, 3)), np.zeros(0))
    sky_map = SkyMap(events=events, energy_edges=np.array([10.0, 20.0]))
    found = candidates_at(patches, (FIRST, GRID.centers[FIRST], 0.9))
    assert localize(found, patches, sky_map=sky_map).flags == [0]
