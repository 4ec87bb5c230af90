import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from made_skies import make_sources

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.simulation.diffuse import ENERGY_EDGES, TEMPLATE_SETS, Diffuse, interstellar
from astro_unetloc.simulation.population import draw_sources
from astro_unetloc.simulation.sky import draw_photons, expected_photons, simulate_cube, simulate_sky
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat

LATITUDES = [0, 5, 10, 20, 30, 45, 60, 90]
CENTER = SkyCoord(120 * u.deg, 40 * u.deg, frame="galactic")


def profile(vectors, energy):
    """Photons in the bins of ENERGY_EDGES and LATITUDES."""
    latitude = np.degrees(np.arcsin(np.clip(np.abs(vectors[:, 2]), 0, 1)))
    return np.histogram2d(energy, latitude, (ENERGY_EDGES, LATITUDES))[0]


@pytest.fixture(scope="module")
def real_profile(real_data):
    """Photons of the 3FHL counts cube."""
    from astro_unetloc.maps.read import read_map

    with pytest.warns(match="coarser than"):
        sky_map = read_map(real_data / "3fhl/fermi_3fhl_counts_cube_hpx.fits.gz")
    return sum(profile(p.vectors, p.energy) for p in sky_map.photons(0))


def simulated_profile(template, variant, n_populations, nside=128):
    """Photons of seven years, of so many populations on the mean."""
    diffuse = interstellar(template, variant=variant, nside=nside)
    none = make_sources([], [])
    rng = np.random.default_rng(1)
    response = {"exposure": SurveyExposure(7.0), "psf": KingPSF(), "rng": rng}
    sky = draw_photons(diffuse, none, **response)
    total = profile(sky.photons.vectors, sky.photons.energy)
    nothing = Diffuse(1, {"ISOTROPIC": np.ones(12)}, {"ISOTROPIC": np.zeros(5)})
    for _ in range(n_populations):
        sky = draw_photons(nothing, draw_sources(rng), **response)
        total += profile(sky.photons.vectors, sky.photons.energy) / n_populations
    return total


def assert_like_3fhl(found, real, rtol):
    np.testing.assert_allclose(found.sum(axis=1), real.sum(axis=1), rtol=rtol)
    np.testing.assert_allclose(found.sum(axis=0), real.sum(axis=0), rtol=rtol)


def test_photons_per_band_and_latitude_are_those_of_3fhl(real_profile):
    assert_like_3fhl(simulated_profile(None, "P6V11", 8), real_profile, rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("variant", TEMPLATE_SETS)
def test_every_set_of_templates_gives_the_photons_of_3fhl(real_profile, real_data, variant):
    template = real_data / "diffuse/diffuse_shapes_nside128.fits.gz"
    assert_like_3fhl(simulated_profile(template, variant, 8), real_profile, rtol=0.15)


# Photons of emission


def test_diffuse_photons_are_poisson_around_their_expectation():
    diffuse, exposure = interstellar(nside=8), SurveyExposure(0.3)
    none, psf = make_sources([], []), KingPSF(1e-3)
    expected, found = 0.0, []
    for seed in range(60):
        sky = draw_photons(
            diffuse, none, exposure=exposure, psf=psf, rng=np.random.default_rng(seed),
            with_background=True,
        )  # fmt: skip
        found.append(np.histogram(sky.photons.energy, ENERGY_EDGES)[0])
        expected = sky.background.sum(axis=0) * 41252.96 / 768
    found = np.array(found)
    assert np.all(np.abs(found.mean(axis=0) - expected) < 4 * np.sqrt(expected / len(found)) + 0.01)
    bright = expected > 100
    np.testing.assert_allclose((found.var(axis=0) / expected)[bright], 1, atol=0.75)


def test_diffuse_photons_follow_the_exposure():
    flat = Diffuse(8, {"ISOTROPIC": np.ones(768)}, {"ISOTROPIC": np.full(5, 1e-8)})
    exposure = SurveyExposure(7.0)
    sky = draw_photons(
        flat, make_sources([], []), exposure=exposure, psf=KingPSF(), rng=np.random.default_rng(0)
    )
    weight = exposure.sky(sky.photons.vectors)
    mean = exposure.sky(np.vstack([np.eye(3), -np.eye(3)]))
    assert weight.mean() > mean.mean()  # photons come where the exposure is


def test_photons_of_a_source_scatter_as_the_psf():
    sources, psf = make_sources([30.0], [60.0], flux=3e-7), KingPSF()
    nothing = Diffuse(1, {"ISOTROPIC": np.ones(12)}, {"ISOTROPIC": np.zeros(5)})
    sky = draw_photons(
        nothing, sources, exposure=SurveyExposure(), psf=psf, rng=np.random.default_rng(0)
    )
    assert np.all(sky.origin == 0)
    offset = separation_deg(sky.photons.vectors, sources.vectors[0])
    inside = psf.containment(offset, sky.photons.energy)  # uniform if the offsets are right
    steps = np.linspace(0, 1, 11)
    found = np.histogram(inside, steps)[0]
    np.testing.assert_allclose(found, len(inside) / 10, atol=4.5 * np.sqrt(len(inside) / 10))


@pytest.mark.parametrize("index", [1.8, 2.5])
def test_photons_of_a_source_have_its_spectrum(index):
    sources = make_sources([30.0], [60.0], flux=5e-7, index=index)
    nothing = Diffuse(1, {"ISOTROPIC": np.ones(12)}, {"ISOTROPIC": np.zeros(5)})
    sky = draw_photons(
        nothing, sources, exposure=SurveyExposure(), psf=KingPSF(), rng=np.random.default_rng(0)
    )
    energy = sky.photons.energy
    assert np.all((energy >= 10) & (energy < 2000))
    share = (10 ** (1 - index) - 50 ** (1 - index)) / (10 ** (1 - index) - 2000 ** (1 - index))
    assert np.mean(energy < 50) == pytest.approx(share, abs=0.015)


def test_extended_source_fills_its_disc():
    sources = make_sources([30.0], [60.0], flux=3e-7, radius_deg=3.0)
    nothing = Diffuse(1, {"ISOTROPIC": np.ones(12)}, {"ISOTROPIC": np.zeros(5)})
    sky = draw_photons(
        nothing, sources, exposure=SurveyExposure(), psf=KingPSF(1e-3), rng=np.random.default_rng(0)
    )
    offset = separation_deg(sky.photons.vectors, sources.vectors[0])
    assert np.mean(offset < 3 / np.sqrt(2)) == pytest.approx(0.5, abs=0.02)
    assert np.quantile(offset, 0.999) < 3.01


def test_extended_gaussian_source_holds_68_percent_within_its_radius():
    sources = make_sources([30.0], [60.0], flux=3e-7, radius_deg=1.0, shape="gaussian")
    nothing = Diffuse(1, {"ISOTROPIC": np.ones(12)}, {"ISOTROPIC": np.zeros(5)})
    sky = draw_photons(
        nothing, sources, exposure=SurveyExposure(), psf=KingPSF(1e-3), rng=np.random.default_rng(0)
    )
    offset = separation_deg(sky.photons.vectors, sources.vectors[0])
    assert np.mean(offset < 1.0) == pytest.approx(1 - np.exp(-0.5), abs=0.02)
    assert np.mean(offset < sources.radius_deg[0]) == pytest.approx(0.68, abs=0.02)


# Whole skies


@pytest.fixture(scope="module")
def small_sky():
    return simulate_sky(center=CENTER, radius=10 * u.deg, years=2.0, rng=4)


def test_same_seed_gives_the_same_sky(small_sky):
    sky_map, truth = simulate_sky(center=CENTER, radius=10 * u.deg, years=2.0, rng=4)
    np.testing.assert_array_equal(sky_map.events.vectors, small_sky[0].events.vectors)
    np.testing.assert_array_equal(sky_map.events.energy, small_sky[0].events.energy)
    np.testing.assert_array_equal(truth["Npred"], small_sky[1]["Npred"])


def test_other_seed_gives_another_sky(small_sky):
    sky_map, _ = simulate_sky(center=CENTER, radius=10 * u.deg, years=2.0, rng=5)
    assert sky_map.n_photons != small_sky[0].n_photons


def test_sky_without_sources_has_the_diffuse_photons_alone(small_sky):
    cone = {"center": CENTER, "radius": 10 * u.deg}
    sky_map, truth = simulate_sky(**cone, years=2.0, rng=4, with_sources=False)
    assert len(truth) == 0
    assert truth.colnames == small_sky[1].colnames
    expected = small_sky[0].n_photons - np.sum(small_sky[1]["Npred"])
    assert sky_map.n_photons == pytest.approx(expected, abs=6 * np.sqrt(small_sky[0].n_photons))


def test_generator_may_stand_for_the_seed(small_sky):
    rng = np.random.default_rng(4)
    sky_map, _ = simulate_sky(center=CENTER, radius=10 * u.deg, years=2.0, rng=rng)
    assert sky_map.n_photons == small_sky[0].n_photons


def test_cone_holds_its_photons_and_truth_alone(small_sky):
    sky_map, truth = small_sky
    center = vectors_from_lonlat(120.0, 40.0)
    assert separation_deg(sky_map.events.vectors, center).max() <= 10
    positions = vectors_from_lonlat(truth["GLON"].to_value("deg"), truth["GLAT"].to_value("deg"))
    assert separation_deg(positions, center).max() <= 10
    assert sky_map.covers(center[None])
    assert not sky_map.covers(-center[None])


def test_truth_is_the_mean_number_of_photons_over_realizations():
    """Sources of one population, observed again and again."""
    sources = draw_sources(np.random.default_rng(0))
    sources = sources.select(np.argsort(-sources.flux)[:300])
    nothing = Diffuse(1, {"ISOTROPIC": np.ones(12)}, {"ISOTROPIC": np.zeros(5)})
    exposure, n = SurveyExposure(7.0), 40
    counts = np.zeros(len(sources))
    for seed in range(n):
        rng = np.random.default_rng(seed)
        sky = draw_photons(nothing, sources, exposure=exposure, psf=KingPSF(), rng=rng)
        counts += np.bincount(sky.origin, minlength=len(sources))
    expected = expected_photons(sources, exposure, ENERGY_EDGES[[0, -1]]) * n
    pull = (counts - expected) / np.sqrt(expected)
    assert abs(pull.mean()) < 4 / np.sqrt(len(pull))
    assert pull.std() == pytest.approx(1, abs=0.15)


def test_truth_holds_the_sources_of_all_classes_with_their_photons(small_sky):
    truth = small_sky[1]
    assert truth["GLON"].unit == truth["Radius"].unit == u.deg
    assert np.all(truth["Npred"] > 0)
    assert "AGN" in truth["Class"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"center": CENTER}, "center and radius belong together"),
        ({"radius": 3 * u.deg}, "center and radius belong together"),
        ({"years": 0}, "years must be a positive number; got 0"),
        ({"years": -1.0}, "years must be a positive"),
        ({"psf_scale": 0}, "psf_scale must be a positive"),
        ({"variant": "X"}, "variant must be one of"),
    ],
)
def test_senseless_skies_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        simulate_sky(**options)


# Cubes


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width_deg": 0.0}, "pixel <= width"),
        ({"pixel_deg": 0.0}, "0 < pixel"),
        ({"width_deg": 120.0}, "width <= 80 deg; got a pixel of 0.1 and a width of 120"),
        ({"pixel_deg": 20.0}, "pixel <= width"),
        ({"center": (0.0, 91.0)}, "latitude within 90 deg; got 0 91"),
    ],
)
def test_senseless_cubes_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        simulate_cube(**({"center": (0.0, 0.0), "width_deg": 5.0, "pixel_deg": 0.1} | options))


def test_cube_holds_the_photons_and_truth_of_its_image():
    counts, wcs, edges, truth = simulate_cube(
        center=(300.0, -30.0), width_deg=8.0, pixel_deg=0.2, years=1.0, rng=2
    )
    assert counts.shape == (16, 40, 40)
    assert counts.dtype == np.int32
    assert edges[0] == pytest.approx(10)
    assert edges[-1] == pytest.approx(2000)
    x, y = wcs.wcs_world2pix(truth["GLON"].value, truth["GLAT"].value, 0)
    assert np.all((np.abs(x - 19.5) < 20) & (np.abs(y - 19.5) < 20))
    sky_map, _ = simulate_sky(
        years=1.0,
        rng=2,
        center=SkyCoord(300, -30, unit="deg", frame="galactic"),
        radius=6 * u.deg,
    )
    lon = np.degrees(np.arctan2(sky_map.events.vectors[:, 1], sky_map.events.vectors[:, 0]))
    lat = np.degrees(np.arcsin(sky_map.events.vectors[:, 2]))
    x, y = wcs.wcs_world2pix(lon, lat, 0)
    assert counts.sum() == np.sum((np.abs(x - 19.5) < 20) & (np.abs(y - 19.5) < 20))


@pytest.mark.slow
def test_whole_sky_takes_less_than_twenty_seconds():
    import time

    start = time.perf_counter()
    sky_map, truth = simulate_sky(rng=0)
    assert time.perf_counter() - start < 20  # 3 s on two busy cores
    assert sky_map.n_photons > 400_000
    assert len(truth) > 10_000


# Energies, responses and cones


def small_cone():
    from astropy.coordinates import SkyCoord

    return {"center": SkyCoord(60 * u.deg, 40 * u.deg, frame="galactic"), "radius": 4 * u.deg}


def test_sky_below_10_gev_has_its_photons_and_sources():
    sky_map, truth = simulate_sky(energy_range=(1.0, 100.0), years=1.0, **small_cone())
    energy = sky_map.events.energy
    assert 1.0 <= energy.min() < 1.2
    assert energy.max() < 100.0
    assert sky_map.energy_edges.tolist() == [1.0, 100.0]
    assert (truth.meta["FLUXEMIN"], truth.meta["FLUXEMAX"]) == (1.0, 100.0)
    ratio = np.sum(energy > 2) / len(energy)  # about E^-2.4 and a rising exposure
    assert 0.3 < ratio < 0.5


def test_cone_holds_as_many_photons_as_the_same_part_of_the_whole_sky():
    cone = small_cone()
    axis = cone["center"].cartesian.xyz.value
    part, truth = simulate_sky(years=4.0, rng=3, **cone)
    whole, all_sources = simulate_sky(years=4.0, rng=3)
    inside = np.sum(separation_deg(whole.events.vectors, axis) <= 4)
    assert abs(part.n_photons - inside) < 4 * np.sqrt(part.n_photons + inside)
    assert set(truth["Source_Name"]) <= set(all_sources["Source_Name"])


def test_wider_psf_moves_photons_of_sources():
    rng = np.random.default_rng(0)
    sources = make_sources([0.0], [0.0], flux=1e-8)
    nothing = Diffuse(8, {"A": np.ones(768)}, {"A": np.zeros(5)})
    spread = {}
    for scale in (1.0, 3.0):
        sky = draw_photons(
            nothing, sources, exposure=SurveyExposure(1.0), psf=KingPSF(scale), rng=rng
        )
        spread[scale] = np.median(separation_deg(sky.photons.vectors, sources.vectors[0]))
    assert spread[3.0] == pytest.approx(3 * spread[1.0], rel=0.2)


def test_response_files_are_used(real_data):
    """The files of 3FHL: exposure of seven years, PSF as it is built in."""
    options = small_cone() | {"rng": 5}
    built_in, _ = simulate_sky(years=7.0, **options)
    folder = real_data / "3fhl"
    from_files, truth = simulate_sky(
        exposure=folder / "fermi_3fhl_exposure_cube_hpx.fits.gz",
        psf=folder / "fermi_3fhl_psf_gc.fits.gz",
        isotropic=real_data / "diffuse" / "iso_P8R2_SOURCE_V6_v06.txt",
        **options,
    )
    assert from_files.n_photons == pytest.approx(built_in.n_photons, rel=0.25)
    assert truth["Npred"].max() > 1


def test_energies_that_a_response_does_not_cover_are_refused(real_data):
    psf = real_data / "2fhl" / "fermi_2fhl_psf_gc.fits.gz"
    with pytest.raises(ValueError, match="PSF table covers"):
        simulate_sky(psf=psf, **small_cone())
