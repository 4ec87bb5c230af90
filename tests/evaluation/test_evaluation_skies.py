import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from astro_unetloc.evaluation import runs as evaluation_skies
from astro_unetloc.evaluation.runs import (
    check_codes,
    chosen_patches,
    narrowed,
    observed_sky,
    patch_code,
    predict_sky,
    sky_patches,
)
from astro_unetloc.evaluation.truth import judge, patch_parts
from astro_unetloc.maps.patches import PatchGrid, TangentPlane
from astro_unetloc.maps.photons import Photons
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.pipeline import detect
from astro_unetloc.simulation.sky import simulate_sky
from astro_unetloc.sphere import vectors_from_lonlat
from astro_unetloc.training.observation import source_mask
from astro_unetloc.unet.model import load_model

NUMBER = 100


@pytest.fixture(scope="module")
def searched():
    """A search of the surroundings of one patch, and its judgement."""
    center = SkyCoord(*PatchGrid().centers[NUMBER], representation_type="cartesian", frame="icrs")
    lon, lat = center.spherical.lon.deg, center.spherical.lat.deg
    center = SkyCoord(lon, lat, unit="deg", frame="galactic")
    sky_map, truth = simulate_sky(center=center, radius=9 * u.deg, rng=1010)
    run = detect(sky_map, threshold=0.0, measure=False)
    return run, judge(run.catalog, truth, part=patch_parts(1010))


@pytest.fixture(scope="module")
def patches(searched):
    return sky_patches(*searched, 1010, [NUMBER])


def test_the_middle_of_the_patch_is_kept(searched, patches):
    run, _ = searched
    row = list(run.patches.index).index(NUMBER)
    columns = patches.columns
    assert columns["counts"].shape == (1, 128, 128, 5)
    np.testing.assert_array_equal(columns["counts"][0], run.patches.counts[row, 16:144, 16:144])
    np.testing.assert_allclose(
        columns["probability"][0], run.probability[row, 16:144, 16:144], atol=5e-4
    )
    assert columns["code"].tolist() == [b"sky001010-p100"]


def test_center_and_pixels_tell_where_a_patch_lies(searched, patches):
    run, _ = searched
    plane = TangentPlane(*map(float, patches.columns["center"][0][:2]), 128, 10 / 128, 0.0)
    np.testing.assert_allclose(plane.basis[2], PatchGrid().centers[NUMBER], atol=1e-12)
    for rows in (patches.sources, patches.found):
        x, y = plane.pixel_from_vectors(vectors_from_lonlat(rows["glon"], rows["glat"]))
        np.testing.assert_allclose(rows["x"], x, atol=1e-4)
        np.testing.assert_allclose(rows["y"], y, atol=1e-4)
    assert len(patches.found) > 2
    assert np.all(patches.sources["patch"] == 0)


def test_mask_is_a_disc_around_what_should_be_found(patches):
    counted = patches.sources[patches.sources["role"] == b"counted"]
    expected = source_mask(counted["x"], counted["y"], 2.0, 128)
    mask = patches.columns["mask"][0, ..., 0]
    assert len(counted)
    assert np.all(mask[expected > 0] == 1)
    assert mask.sum() <= expected.sum() + 20  # and parts of discs from outside


def test_found_ones_lie_where_the_probability_is_high(patches):
    sure = patches.found[patches.found["score"] > 0.8]
    x, y = (np.rint(sure[name]).astype(int) for name in ("x", "y"))
    assert len(sure)
    assert np.all(patches.columns["probability"][0, y, x] > 0.3)


def test_patches_are_drawn_by_the_seed_and_named_ones_kept():
    drawn = chosen_patches(5, 30)
    assert len(drawn) == 30
    np.testing.assert_array_equal(drawn, chosen_patches(5, 30))
    assert set(drawn) != set(chosen_patches(6, 30))
    other = next(i for i in range(768) if i not in drawn)
    codes = [patch_code(5, other), patch_code(6, other - 1)]
    assert set(chosen_patches(5, 30, codes=codes)) == {*drawn.tolist(), other}
    assert len(chosen_patches(5, 5000)) == 768


def test_names_of_other_patches_are_refused():
    check_codes(["sky000005-p000", "sky000006-p767"], [5, 6])
    message = "such as sky000005-p000 to sky000006-p767; got 'sky000007-p000'; name patches"
    with pytest.raises(ValueError, match=message):
        check_codes(["sky000005-p000", "sky000007-p000"], [5, 6])


def few_photons(**options):
    """A sky of 30 photons from the lowest energy on, and none or one true source."""
    assert options["rng"] == 4
    truth = simulate_sky(
        rng=4, years=1e-3, center=SkyCoord(0 * u.deg, 80 * u.deg, frame="galactic"),
        radius=1 * u.deg, with_sources=options["with_sources"],
    )[1]  # fmt: skip
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    low, high = options["energy_range"]
    events = Photons(vectors, np.geomspace(low, high * 0.999, 30))
    return SkyMap(events=events, energy_edges=np.array([low, high])), truth


def test_sky_has_the_energies_of_the_model(monkeypatch):
    monkeypatch.setattr(evaluation_skies, "simulate_sky", few_photons)
    sky_map, _ = observed_sky([10.0, 20.0, 2000.0], 4)
    assert sky_map.events is not None
    assert sky_map.exposure.years == 7.0
    assert sky_map.energy_edges.tolist() == [10.0, 2000.0]


def test_sky_from_below_10_gev_on_is_binned(monkeypatch):
    monkeypatch.setattr(evaluation_skies, "simulate_sky", few_photons)
    sky_map, _ = observed_sky([0.5, 1.0, 1000.0], 4)
    assert sky_map.energy_edges.tolist() == [0.5, 1.0, 1000.0]
    assert sky_map.n_photons == 30
    assert sky_map.exposure.years == 7.0


@pytest.mark.slow
def test_whole_sky_is_searched_and_judged():
    patches, judgement = predict_sky(load_model(), 1011, numbers=[3, 500], years=1.0)
    assert patches.columns["code"].tolist() == [b"sky001011-p003", b"sky001011-p500"]
    assert judgement.area_deg2 == pytest.approx(41252.96, abs=0.01)
    assert judgement.evaluation().average_precision > 0.5
    assert set(judgement.catalog["Part"]) <= {f"1011/{i}" for i in range(768)}


def test_energy_range_narrows_the_bands():
    edges = np.array([10.0, 20, 50, 150])
    np.testing.assert_array_equal(narrowed(edges), edges)
    np.testing.assert_array_equal(narrowed(edges, (50, 2000)), [50, 150])
    np.testing.assert_array_equal(narrowed(edges, ("15 GeV", "0.1 TeV")), [15, 20, 50, 100])
    with pytest.raises(ValueError, match="must overlap 10-150 GeV.*got 1-5 GeV; choose another"):
        narrowed(edges, (1, 5))
