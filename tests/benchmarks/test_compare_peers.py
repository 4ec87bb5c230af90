"""The peers find what is there, and benchmarks/compare_peers.py scores all by one rule."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from made_skies import NSIDE, make_sky

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.patches import SortedPhotons
from astro_unetloc.pipeline import detect
from astro_unetloc.simulation.sky import truth_table
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat

# centred on longitude 0 and latitude -4.78 deg
PATCH = 400
LON, LAT = np.array([0.5, 359.4, 0.1]), np.array([-4.5, -4.0, -5.5])
DENSITY = 12.0
NAMES = ["ts-true", "ts-fit", "dao", "log", "dbscan", "mst"]


@pytest.fixture(scope="module")
def compare(import_benchmark):
    return import_benchmark("compare_peers")


@pytest.fixture(scope="module")
def peers(compare):
    return compare.peers


@pytest.fixture(scope="module")
def psf(peers):
    return peers.psf_map()


@pytest.fixture(scope="module")
def kernel(peers, psf):
    return peers.psf_kernel(psf)


@pytest.fixture(scope="module")
def sky(compare):
    made, exposure = make_sky(LON, LAT, photons_each=25, density=DENSITY), SurveyExposure()
    truth = truth_table(made.sources, exposure)
    # the photons of a source are made at one point, where a spanning tree has no edges
    blur = np.random.default_rng(0).normal(0, np.radians(0.02), made.photons.vectors.shape)
    photons = SortedPhotons(replace(made.photons, vectors=made.photons.vectors + blur))
    return compare.Sky(made, photons, exposure, 0.5 * made.background, truth)


def table(compare, arguments, capsys):
    compare.main(arguments)
    return capsys.readouterr().out


@pytest.fixture
def small_run(compare, sky, monkeypatch):
    """A run on one patch of the small sky, which stands for two skies."""
    center = SkyCoord(0 * u.deg, -4.8 * u.deg, frame="galactic")
    monkeypatch.setattr(compare, "SEARCH_DEG", -2.5)
    monkeypatch.setattr(compare, "make_sky", lambda *_, **__: sky)
    monkeypatch.setattr(compare, "choose_patches", lambda *_: np.array([[0, PATCH], [1, PATCH]]))
    monkeypatch.setattr(compare, "detect", partial(detect, region=(center, 6 * u.deg)))
    return compare


# What the peers are told


def test_psf_of_a_band_lies_between_those_of_its_ends(peers, psf):
    middle = np.sqrt(peers.EDGES[1:] * peers.EDGES[:-1]) * u.GeV
    radius = psf.containment_radius(0.68, middle).to_value("deg").ravel()
    limits = [KingPSF().containment_radius(0.68, energy) for energy in peers.EDGES]
    # above 50 GeV the two ends differ by less than a percent
    assert np.all(radius < np.array(limits[:-1]) * 1.02)
    assert np.all(radius > np.array(limits[1:]) * 0.98)


def test_expected_photons_are_those_of_the_sky(compare, peers, kernel, sky):
    plane = compare.GRID.plane(PATCH)
    image = peers.expected_photons(sky.sky.background, NSIDE, plane, kernel)
    # pixels grow smaller away from the centre, by a percent at 4 deg
    pixel = DENSITY * plane.pixel_deg**2
    np.testing.assert_allclose(image.sum(axis=0)[60:68, 60:68], pixel, rtol=2e-3)
    assert image.shape == (5, 128, 128)


def test_step_of_the_sky_is_blurred_by_the_psf(compare, peers, kernel):
    density = np.zeros((12 * NSIDE**2, 5))
    density[healpy.query_disc(NSIDE, (1, 0, 0), np.radians(20)), 0] = 1.0
    plane = compare.GRID.plane(PATCH)
    inside = peers.expected_photons(density, NSIDE, plane, kernel)[0]
    density[compare.GRID.owner(plane.basis[2])] = 0.0
    image = peers.expected_photons(density, NSIDE, plane, kernel)[0] / inside
    assert image[64, 64] < 0.01
    assert np.any((image > 0.2) & (image < 0.8))
    assert image.max() == pytest.approx(1, abs=1e-3)


def test_fitted_background_does_not_see_sources(peers, rng):
    template = np.full((5, 128, 128), 0.05) * np.array([1, 0.5, 0.2, 0.1, 0.0005])[:, None, None]
    counts = rng.poisson(1.7 * template)
    counts[:, 60:64, 60:64] += 40
    norm = peers.fitted_background(counts, template)[:, 0, 0] / template[:, 0, 0]
    # 1400, 700 and 280 photons; with the source it would be 1.7 times as much in the first band
    np.testing.assert_allclose(norm[:3], 1.7, rtol=0.12)
    assert np.all(norm > 0)


def test_exposure_is_that_of_the_survey(compare, peers):
    plane, exposure = compare.GRID.plane(PATCH), SurveyExposure()
    image = peers.mean_exposure(exposure, plane)
    center = exposure.at(plane.basis[2:], np.array([30.0]))
    assert image[1, 64, 64] == pytest.approx(center[0, 0], rel=0.02)


# Finders


@pytest.mark.parametrize("name", NAMES)
def test_peer_finds_the_sources(compare, sky, psf, kernel, name, monkeypatch):
    if name == "dao":
        pytest.importorskip("photutils")
    # a pixel of a TS map costs 0.2 ms
    monkeypatch.setattr(compare, "SEARCH_DEG", -2.5)
    found, seconds = compare.run_peer(name, sky, PATCH, psf, kernel)
    best = found[np.argsort(-found[:, 2])[: len(LON)]]
    away = separation_deg(
        vectors_from_lonlat(best[:, :1], best[:, 1:2]), vectors_from_lonlat(LON, LAT)
    )
    # the photons of a source lie in a few pixels of 0.08 deg
    assert np.all(away.min(axis=0) < 0.06)
    assert seconds > 0


@pytest.mark.parametrize("name", ["dao", "log", "dbscan", "mst"])
def test_peer_finds_nothing_without_photons(compare, peers, name):
    if name == "dao":
        pytest.importorskip("photutils")
    plane, nothing = compare.GRID.plane(PATCH), np.zeros((5, 128, 128))
    field = peers.Field(plane, nothing, nothing + 1, None, np.zeros((3, 0)))
    found = getattr(peers, f"{name}_sources")(field)
    assert [len(values) for values in found] == [0, 0, 0]


def test_magnitude_is_photons_times_ratio_of_edges(compare, peers):
    # a cross of five photons in a grid of 2 pixels, which is too sparse to cluster
    x, y = np.mgrid[0:128:2, 0:128:2].reshape(2, -1).astype(float)
    cross = 65 + np.array([[0, 0.2, -0.2, 0, 0], [0, 0, 0, 0.2, -0.2]])
    photons = np.vstack([np.hstack([[x, y], cross]), np.full(len(x) + 5, 100.0)])
    field = peers.Field(compare.GRID.plane(PATCH), None, None, None, photons)
    found = peers.mst_sources(field)
    density = 0.25 + 5 / (2 * np.pi * peers.CLUSTERS["mst"]["noise_pix"] ** 2)
    np.testing.assert_allclose(found[:2], 65, atol=0.01)
    assert found[2] == pytest.approx(5 * 0.65 / np.sqrt(density) / 0.2, rel=0.01)


def test_photons_of_high_energy_fix_the_position(compare, peers, rng):
    # their PSF is narrower by a factor of 1.5
    low, high = rng.normal([60.0, 60.0], 0.3, (20, 2)), rng.normal([61.0, 60.0], 0.3, (20, 2))
    energy = np.repeat([10.0, 200.0], 20)
    photons = np.vstack([np.concatenate([low, high]).T, energy])
    field = peers.Field(compare.GRID.plane(PATCH), None, None, None, photons)
    x, y, score = peers.dbscan_sources(field)
    assert len(x) == 1
    assert 60.55 < x[0] < 61
    assert score[0] > 5


# Scores


def test_half_of_the_patches_lie_near_the_plane(compare, rng):
    chosen = compare.choose_patches(240, 2, rng)
    latitude = np.abs(lonlat_from_vectors(compare.GRID.centers[chosen[:, 1]])[1])
    assert np.sum(latitude < 10) == 120
    assert len(np.unique(chosen, axis=0)) == 240
    assert set(chosen[:, 0]) == {0, 1}
    with pytest.raises(ValueError, match="of 1000 patches; simulate more skies"):
        compare.choose_patches(2000, 2, rng)


def test_source_counts_in_one_patch_at_most(compare, rng):
    vectors = rng.normal(size=(500, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    times = sum(compare.counted_region(patch)(vectors).astype(int) for patch in range(768))
    assert times.max() == 1
    # the corners of the cells lie outside the images
    assert 0.95 < times.mean() < 1


def test_nothing_found_scores_zero(compare, sky):
    found = compare.Found(np.zeros((0, 4)), np.zeros(1))
    scores = compare.score_patches(found, lambda _: sky, np.array([[0, PATCH]]))
    assert [evaluation.n_true for evaluation in scores.by_sky().values()] == [3, 0, 3]
    assert scores.evaluation().average_precision == 0


def test_table_has_a_row_for_each_finder(small_run, capsys):
    pytest.importorskip("photutils")
    arguments = ["--peers", "network", "ts-true", "dao", "--patches", "1", "--skies", "1"]
    lines = table(small_run, arguments, capsys).splitlines()
    assert "all sky 6, |b|>10 0, |b|<10 6" in lines[0]
    assert [line.split()[0] for line in lines[3:6]] == ["network", "ts-true", "dao"]
    assert [line.split()[1] for line in lines[3:6]] == ["1.000", "1.000", "1.000"]
    assert "+0.000 (+0.000 to +0.000)" in lines[7]


def test_finders_of_the_package_are_ranked_by_a_column(small_run, capsys, monkeypatch):
    # all three list the sources and a false positive, which has the highest Score, but low odds
    columns = {"GLON": np.append(LON, 1.5), "GLAT": np.append(LAT, -5.5)}
    columns |= {"Score": np.array([0.7, 0.8, 0.6, 0.9]), "Log_Odds": np.array([5.0, 6, 4, -1])}
    finders = []

    def detect(*_, finder, **__):
        finders.append(finder)
        return SimpleNamespace(catalog=QTable(columns), patches=[PATCH])

    monkeypatch.setattr(small_run, "detect", detect)
    arguments = ["--peers", "network", "scan", "both", "--patches", "1", "--skies", "1"]
    lines = table(small_run, [*arguments, "--rank", "Log_Odds"], capsys).splitlines()
    rows = [[name, "1.000"] for name in ("network", "scan", "both")]
    assert [line.split()[:2] for line in lines[3:6]] == rows
    # two patches were chosen
    assert finders == ["unet", "unet", "scan", "scan", "both", "both"]
    pairs = [line.partition(",")[0] for line in lines[6:] if "paired" in line]
    assert pairs == ["scan - network", "both - network"]
    by_score = table(small_run, arguments, capsys).splitlines()
    assert float(by_score[3].split()[1]) < 0.8


def test_saved_results_are_not_computed_again(small_run, capsys, tmp_path, monkeypatch):
    path = tmp_path / "peers"
    arguments = ["--peers", "log", "--patches", "1", "--skies", "1", "--save", str(path)]
    first = table(small_run, arguments, capsys)
    monkeypatch.setattr(small_run, "run_peer", None)
    figure = tmp_path / "curves.png"
    assert table(small_run, [*arguments, "--figure", str(figure)], capsys) == first
    assert figure.stat().st_size > 5000
    with pytest.raises(TypeError, match="not callable"):
        small_run.main([*arguments, "--seed", "2001"])


def test_saved_results_are_computed_again_if_the_numbers_of_the_peer_change(
    small_run, capsys, tmp_path, monkeypatch
):
    arguments = ["--peers", "mst", "log", "--patches", "1", "--skies", "1", "--save", str(tmp_path)]
    table(small_run, arguments, capsys)
    monkeypatch.setattr(small_run, "run_peer", None)
    monkeypatch.setitem(small_run.peers.CLUSTERS, "mst", {"cut": 0.5})
    small_run.main([*arguments, "--peers", "log"])
    with pytest.raises(TypeError, match="not callable"):
        small_run.main([*arguments, "--peers", "mst"])
