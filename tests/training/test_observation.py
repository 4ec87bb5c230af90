from dataclasses import replace

import healpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_skies import BAND_EDGES, make_sky

from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.patches import TangentPlane
from astro_unetloc.simulation.diffuse import ENERGY_EDGES
from astro_unetloc.sphere import separation_deg
from astro_unetloc.training.observation import (
    Detectability,
    Observation,
    PatchObserver,
    _pixelize,
    draw_observation,
    significance,
    source_mask,
)

PLANE = TangentPlane(0.0, 0.0, 128, 10 / 128)
EVENTS = Observation(1.0, BAND_EDGES[[0, -1]], True, 0.0, None)


def observe(sky, plane=PLANE, *, seed=0, **conditions):
    observation = Observation(**(vars(EVENTS) | conditions))
    return PatchObserver(sky, BAND_EDGES).observe(plane, observation, np.random.default_rng(seed))


# One patch


def test_all_photons_of_the_image_are_counted_under_ideal_conditions():
    sky = make_sky([0.0, 2.0], [0.0, 1.0], density=1.0)
    patch = observe(sky)
    x, y = PLANE.pixel_from_vectors(sky.photons.vectors)
    assert patch.counts.sum() == np.sum((np.abs(x - 63.5) < 64) & (np.abs(y - 63.5) < 64))
    assert (patch.counts.shape, patch.coverage.shape) == ((128, 128, 5), (128, 128, 1))
    assert patch.coverage.all()
    assert patch.bands[:, 0].all()


def test_sources_are_where_they_are_with_their_own_photons():
    patch = observe(make_sky([0.0, 2.0, 20.0], [0.0, 1.0, 0.0], photons_each=12))
    assert patch.source.tolist() == [0, 1]  # the third lies outside
    expected = PLANE.pixel_from_vectors(make_sky([0.0, 2.0], [0.0, 1.0]).sources.vectors)
    np.testing.assert_allclose([patch.x, patch.y], expected, atol=1e-9)
    assert patch.n_photons.tolist() == [12, 12]
    assert patch.labelled.all()
    assert patch.counts.sum() == 24


def expected_background(density, low=10.0):
    """Photons above an energy in the circles that hold 68 % of the PSF, bin by bin."""
    edges = np.maximum(ENERGY_EDGES, low)
    share = -np.diff(edges**-1.4) / (10**-1.4 - 2000**-1.4)
    centers = np.sqrt(ENERGY_EDGES[1:] * ENERGY_EDGES[:-1])
    radius = np.array([KingPSF().containment_radius(0.68, energy) for energy in centers])
    return density * np.sum(share * np.pi * radius**2)


@pytest.mark.parametrize(
    ("conditions", "expected", "rel"),
    [
        ({}, expected_background(3.0), 1e-3),
        ({"exposure_fraction": 0.5}, expected_background(1.5), 1e-3),
        ({"energy_edges": np.array([50.0, 2000.0])}, expected_background(3.0, 50.0), 0.01),
    ],
)
def test_background_is_what_is_expected_within_the_psf(conditions, expected, rel):
    sky = make_sky([0.0], [0.0], density=3.0)
    assert observe(sky, **conditions).background[0] == pytest.approx(expected, rel=rel)
    # larger input pixels mean more background
    fine, coarse = (observe(sky, pixel_deg=p, **conditions).background[0] for p in (0.02, 0.25))
    assert coarse > 1.5 * fine


@pytest.mark.parametrize(
    ("photons", "density", "radius_deg", "labelled"),
    [(2, 0, 0, False), (3, 0, 0, True), (5, 400, 0, False), (40, 400, 0, True), (99, 0, 1, False)],
)
def test_label_rule(photons, density, radius_deg, labelled):
    """Fewer than three photons, a few on a bright background and extended sources are not."""
    sky = make_sky([0.0], [0.0], photons_each=photons, density=density, radius_deg=radius_deg)
    patch = observe(sky)
    assert (patch.source.tolist(), patch.labelled.tolist()) == ([0], [labelled])


# Diffuse emission drawn on the image


def without_diffuse(sky):
    own = sky.origin >= 0
    return replace(
        sky, photons=sky.photons.select(own), origin=sky.origin[own], diffuse_drawn=False
    )


@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"exposure_fraction": 0.4},
        {"energy_edges": np.array([20.0, 150.0])},
        {"events": False},
        {"events": False, "energy_edges": np.array([10.0, 30.0, 400.0])},
        {"hidden": (30.0, -20.0, 20.0)},
    ],
)
def test_diffuse_counts_are_those_of_drawn_photons(conditions):
    """Mean and variance in every band, with photons drawn one by one beside them."""
    sky = make_sky(density=60.0, seed=3)
    found = [observe(s, seed=4, **conditions).counts for s in (sky, without_diffuse(sky))]
    one, other = (counts.sum(axis=(0, 1)) for counts in found)
    assert np.all(np.abs(one - other) <= 5 * np.sqrt(one + other))
    seen = found[1][observe(sky, **conditions).coverage[..., 0] > 0].astype(float)
    mean = seen.mean(axis=0)
    np.testing.assert_allclose(seen.var(axis=0)[mean > 0.05], mean[mean > 0.05], rtol=0.1)


def test_diffuse_counts_follow_the_expected_map():
    """A sky whose brightness grows with longitude: density times the solid angle of a pixel."""
    sky = without_diffuse(make_sky(density=100.0))
    x, y, _ = healpy.pix2vec(sky.nside, np.arange(12 * sky.nside**2))
    background = sky.background * np.clip(1 + 5 * y / np.abs(x), 0, 3)[:, None]
    counts = observe(replace(sky, background=background.astype(np.float32))).counts
    found = counts.sum(axis=(0, 2))
    lon = np.radians((63.5 - np.arange(128)) * 10 / 128)  # to the left it grows
    expected = 100.0 * 128 * (10 / 128) ** 2 * (1 + 5 * lon)
    for columns, rtol in ((slice(None), 0.02), (slice(32), 0.05), (slice(-32, None), 0.15)):
        np.testing.assert_allclose(found[columns].sum(), expected[columns].sum(), rtol=rtol)


def test_hidden_sky_holds_no_photons_and_no_labels():
    # observed: a strip of 20 pixels to both sides of x = 33.5
    sky = make_sky([0.0, 2.0], [0.0, 0.0], density=2.0)
    patch = observe(sky, hidden=(0.0, -30.0, 20.0))
    observed = patch.coverage[..., 0].astype(bool)
    assert 0.25 < observed.mean() < 0.4
    assert observed[64, [33, 64]].tolist() == [True, False]
    assert patch.counts[~observed].sum() == 0
    assert patch.counts[observed].sum() > 0
    # longitude 2 deg lies at x = 38: observed; the centre is hidden
    assert dict(zip(patch.x.round(), patch.n_photons)) == {38.0: 20, 64.0: 0}


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_thinning_keeps_its_fraction_of_the_photons(fraction):
    sky = make_sky(density=20.0)
    whole, part = observe(sky).counts.sum(), observe(sky, exposure_fraction=fraction).counts.sum()
    assert abs(part - whole * fraction) < 4 * np.sqrt(whole * fraction * (1 - fraction))


def test_energies_outside_the_range_are_left_out_and_bins_that_fit_the_bands_keep_counts():
    sky = make_sky(density=5.0)
    whole, patch = observe(sky), observe(sky, energy_edges=np.array([20.0, 150.0]))
    assert patch.bands[:, 0].tolist() == [0, 1, 1, 0, 0]
    np.testing.assert_array_equal(patch.counts[..., [0, 3, 4]], 0)
    np.testing.assert_array_equal(patch.counts[..., 1:3], whole.counts[..., 1:3])
    binned = observe(sky, events=False, energy_edges=BAND_EDGES)
    np.testing.assert_array_equal(binned.counts, whole.counts)
    wide = observe(sky, events=False)  # one bin
    assert wide.counts.sum() == whole.counts.sum()
    np.testing.assert_allclose(wide.bands[:, 3], np.log10(200))


def test_patch_depends_on_the_generator_alone():
    sky = make_sky([0.0], [0.0], density=5.0)
    conditions = {"exposure_fraction": 0.4, "pixel_deg": 0.2}
    first, again, other = (observe(sky, seed=s, **conditions) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.counts, again.counts)
    assert not np.array_equal(first.counts, other.counts)


@pytest.mark.parametrize("lat", [90.0, -90.0])
def test_patch_at_a_pole_or_without_sources_and_photons_is_valid(lat):
    plane = TangentPlane(0.0, lat, 128, 10 / 128, 33.0)
    assert observe(make_sky([0.0], [lat]), plane).n_photons.tolist() == [20]
    patch = observe(make_sky([0.0], [lat]))
    assert patch.counts.sum() == 0
    assert len(patch.source) == len(patch.labelled) == len(patch.background) == 0


# Parts


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.5), st.floats(0, 360), st.floats(-90, 90))
def test_pixelized_photons_move_at_most_a_pixel_diagonal(seed, pixel_deg, rotation, lat):
    rng = np.random.default_rng(seed)
    plane = TangentPlane(10.0, lat, 128, 10 / 128, rotation)
    vectors = plane.vectors_from_pixel(*rng.uniform(0, 127, (2, 50)))
    moved = _pixelize(plane, vectors, pixel_deg, rng)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1)
    before, after = (np.array(plane.pixel_from_vectors(v)) for v in (vectors, moved))
    diagonal_deg = pixel_deg * np.sqrt(2)
    assert np.hypot(*(after - before)).max() * plane.pixel_deg <= diagonal_deg * (1 + 1e-9)
    assert separation_deg(moved, vectors).max() <= diagonal_deg * 1.001


def test_photons_of_one_input_pixel_spread_over_it():
    rng = np.random.default_rng(0)
    vectors = np.repeat(PLANE.vectors_from_pixel(64.0, 64.0)[None], 4000, axis=0)
    x, y = PLANE.pixel_from_vectors(_pixelize(PLANE, vectors, 0.25, rng))
    area = 12 * np.linalg.det(np.cov(x, y)) ** 0.5 * PLANE.pixel_deg**2
    assert area == pytest.approx(0.25**2, rel=0.06)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.integers(0, 2**31))
def test_drawn_conditions_are_possible(seed):
    drawn = draw_observation(np.random.default_rng(seed), band_edges=BAND_EDGES, years=16.0)
    assert 0 < drawn.exposure_fraction <= 1
    assert drawn.exposure_fraction * 16 >= 0.499
    assert np.all(np.diff(drawn.energy_edges) > 0)
    assert 9.99 <= drawn.energy_edges[0] < drawn.energy_edges[-1] <= 2000.1
    assert drawn.pixel_deg == 0 or 0.02 <= drawn.pixel_deg <= 0.25
    assert not drawn.events or len(drawn.energy_edges) == 2


def test_every_kind_of_observation_is_drawn():
    rng = np.random.default_rng(0)
    drawn = [draw_observation(rng, band_edges=BAND_EDGES) for _ in range(400)]
    assert 0.4 < np.mean([d.events for d in drawn]) < 0.6
    assert sum(len(d.energy_edges) == 2 and not d.events for d in drawn) > 10
    assert any(np.array_equal(d.energy_edges, BAND_EDGES) for d in drawn)
    assert sum(d.hidden is not None for d in drawn) > 50
    assert sum(d.energy_edges[0] > 40 for d in drawn) > 20


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.floats(-3, 13), st.floats(-3, 13), st.floats(0.5, 4))
def test_mask_holds_the_pixels_within_the_radius(x, y, radius):
    grid_y, grid_x = np.mgrid[:11, :11]
    expected = np.hypot(grid_x - x, grid_y - y) <= radius
    np.testing.assert_array_equal(source_mask([x], [y], radius, 11), expected)
    assert source_mask([5.0], [5.0], 2.0, 11).sum() == 13
    assert source_mask(np.zeros(0), np.zeros(0), 2.0, 8).sum() == 0


# Detectability


@pytest.mark.parametrize(
    ("n_photons", "background", "expected"),
    [(0, 1.0, 0.0), (10, 1e6, 0.01), (100, 1e6, 0.1), (1, 0.0, 2.706), (1, 0.01, 2.706)],
)
def test_significance_is_that_of_a_known_background(n_photons, background, expected):
    assert significance(n_photons, background) == pytest.approx(expected, abs=0.005)


def test_significances_of_energy_bins_add_in_quadrature():
    single = significance(4.0, 1.0), significance(3.0, 0.2)
    assert significance([[4.0, 3.0]], np.array([[1.0, 0.2]]))[0] == pytest.approx(np.hypot(*single))


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.1, 0.2, 0.5, 1.5])
def test_light_of_a_neighbour_is_what_the_psf_puts_there(distance):
    """Against photons of the neighbour drawn one by one: within 5 %."""
    n, energy, rng = 200_000, 15.0, np.random.default_rng(1)
    sky = make_sky([0.0, distance], [0.0, 0.0], photons_each=1)
    sky = replace(sky, photons=replace(sky.photons, energy=np.full(2, energy)))
    _, background = Detectability(sky).near(np.array([0]), sky.photons, sky.origin)
    center = np.sqrt(ENERGY_EDGES[0] * ENERGY_EDGES[1])
    offset = KingPSF().sample_offset(np.full(n, center), rng)
    angle = rng.uniform(0, 2 * np.pi, n)
    x, y = distance + offset * np.cos(angle), offset * np.sin(angle)
    expected = np.mean(np.hypot(x, y) < KingPSF().containment_radius(0.68, center))
    assert background[0, 0] == pytest.approx(expected, rel=0.05, abs=2e-3)
