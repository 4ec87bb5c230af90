"""Simulated skies: photons of emission and sources, whole skies, truth, images and cubes."""

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from made_skies import make_sources

from astro_unetloc.catalog.columns import COLUMNS
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.photons import Photons
from astro_unetloc.maps.read import read_map
from astro_unetloc.simulation.diffuse import ENERGY_EDGES, TEMPLATE_SETS, Diffuse, interstellar
from astro_unetloc.simulation.population import draw_sources
from astro_unetloc.simulation.sky import (
    counts_cube,
    draw_photons,
    expected_photons,
    healpix_cube,
    inside_image,
    simulate_cube,
    simulate_sky,
    truth_table,
)
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat

LATITUDES = [0, 5, 10, 20, 30, 45, 60, 90]
CONE = {"center": SkyCoord(120, 40, unit="deg", frame="galactic"), "radius": 10 * u.deg}
SMALL = {"center": SkyCoord(60, 40, unit="deg", frame="galactic"), "radius": 4 * u.deg}
NOTHING = Diffuse(1, {"ISOTROPIC": np.ones(12)}, {"ISOTROPIC": np.zeros(5)})


def profile(photons):
    """Photons in the bins of ENERGY_EDGES and LATITUDES."""
    latitude = np.degrees(np.arcsin(np.clip(np.abs(photons.vectors[:, 2]), 0, 1)))
    return np.histogram2d(photons.energy, latitude, (ENERGY_EDGES, LATITUDES))[0]


@pytest.fixture(scope="module")
def real_profile(real_data):
    """Photons of the 3FHL counts cube."""
    with pytest.warns(match="coarser than"):
        sky_map = read_map(real_data / "3fhl/fermi_3fhl_counts_cube_hpx.fits.gz")
    return sum(profile(photons) for photons in sky_map.photons(0))


@pytest.mark.parametrize(
    ("variant", "rtol"),
    [(None, 0.1), *(pytest.param(v, 0.15, marks=pytest.mark.slow) for v in TEMPLATE_SETS)],
)
def test_photons_per_band_and_latitude_are_those_of_3fhl(real_profile, real_data, variant, rtol):
    """Seven years, and the mean of eight populations."""
    template = real_data / "diffuse/diffuse_shapes_nside128.fits.gz" if variant else None
    diffuse = interstellar(template, variant=variant or "P6V11", nside=128)
    rng = np.random.default_rng(1)
    response = {"exposure": SurveyExposure(7.0), "psf": KingPSF(), "rng": rng}
    total = profile(draw_photons(diffuse, make_sources([], []), **response).photons)
    for _ in range(8):
        total += profile(draw_photons(NOTHING, draw_sources(rng), **response).photons) / 8
    for axis in (0, 1):
        np.testing.assert_allclose(total.sum(axis=axis), real_profile.sum(axis=axis), rtol=rtol)


# Photons of emission


def test_diffuse_photons_are_poisson_around_their_expectation():
    diffuse, exposure = interstellar(nside=8), SurveyExposure(0.3)
    options = {"exposure": exposure, "psf": KingPSF(1e-3), "with_background": True}
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sky = draw_photons(diffuse, make_sources([], []), **options, rng=rng)
        found.append(np.histogram(sky.photons.energy, ENERGY_EDGES)[0])
        expected = sky.background.sum(axis=0) * 41252.96 / 768
    found = np.array(found)
    assert np.all(np.abs(found.mean(axis=0) - expected) < 4 * np.sqrt(expected / len(found)) + 0.01)
    bright = expected > 100
    np.testing.assert_allclose((found.var(axis=0) / expected)[bright], 1, atol=0.75)


def test_diffuse_photons_follow_the_exposure():
    flat = Diffuse(8, {"ISOTROPIC": np.ones(768)}, {"ISOTROPIC": np.full(5, 1e-8)})
    exposure, rng = SurveyExposure(7.0), np.random.default_rng(0)
    sky = draw_photons(flat, make_sources([], []), exposure=exposure, psf=KingPSF(), rng=rng)
    mean = exposure.sky(np.vstack([np.eye(3), -np.eye(3)])).mean()
    assert exposure.sky(sky.photons.vectors).mean() > mean  # photons come where the exposure is


# Photons of a source


def observed(psf_scale=1e-3, **source):
    """Photons of one source, their sky, and their offsets in degrees."""
    sources = make_sources([30.0], [60.0], **{"flux": 3e-7} | source)
    response = {"exposure": SurveyExposure(), "psf": KingPSF(psf_scale)}
    sky = draw_photons(NOTHING, sources, **response, rng=np.random.default_rng(0))
    return sky, separation_deg(sky.photons.vectors, sources.vectors[0])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_photons_of_a_source_scatter_as_the_psf(scale):
    sky, offset = observed(psf_scale=scale)
    assert np.all(sky.origin == 0)
    inside = sky.psf.containment(offset, sky.photons.energy)  # uniform if the offsets are right
    found = np.histogram(inside, np.linspace(0, 1, 11))[0]
    np.testing.assert_allclose(found, len(inside) / 10, atol=4.5 * np.sqrt(len(inside) / 10))


@pytest.mark.parametrize("index", [1.8, 2.5])
def test_photons_of_a_source_have_its_spectrum(index):
    energy = observed(flux=5e-7, index=index, psf_scale=1.0)[0].photons.energy
    assert np.all((energy >= 10) & (energy < 2000))
    below, whole = (10 ** (1 - index) - e ** (1 - index) for e in (50, 2000))
    assert np.mean(energy < 50) == pytest.approx(below / whole, abs=0.015)


def test_extended_sources_fill_their_disc_or_gaussian():
    _, offset = observed(radius_deg=3.0)
    assert np.mean(offset < 3 / np.sqrt(2)) == pytest.approx(0.5, abs=0.02)
    assert np.quantile(offset, 0.999) < 3.01
    sky, offset = observed(radius_deg=1.0, shape="gaussian")
    assert np.mean(offset < 1.0) == pytest.approx(1 - np.exp(-0.5), abs=0.02)
    assert np.mean(offset < sky.sources.radius_deg[0]) == pytest.approx(0.68, abs=0.02)


def test_truth_is_the_mean_number_of_photons_over_realizations():
    """Sources of one population, observed again and again."""
    sources = draw_sources(np.random.default_rng(0))
    sources = sources.select(np.argsort(-sources.flux)[:300])
    exposure, n = SurveyExposure(7.0), 40
    counts = np.zeros(len(sources))
    for seed in range(n):
        rng = np.random.default_rng(seed)
        sky = draw_photons(NOTHING, sources, exposure=exposure, psf=KingPSF(), rng=rng)
        counts += np.bincount(sky.origin, minlength=len(sources))
    expected = expected_photons(sources, exposure, ENERGY_EDGES[[0, -1]]) * n
    pull = (counts - expected) / np.sqrt(expected)
    assert abs(pull.mean()) < 4 / np.sqrt(len(pull))
    assert pull.std() == pytest.approx(1, abs=0.15)


# Whole skies


@pytest.fixture(scope="module")
def small_sky():
    return simulate_sky(**CONE, years=2.0, rng=4)


@pytest.mark.parametrize("rng", [4, np.random.default_rng(4)], ids=["seed", "generator"])
def test_same_seed_or_generator_gives_the_same_sky(small_sky, rng):
    sky_map, truth = simulate_sky(**CONE, years=2.0, rng=rng)
    np.testing.assert_array_equal(sky_map.events.vectors, small_sky[0].events.vectors)
    np.testing.assert_array_equal(sky_map.events.energy, small_sky[0].events.energy)
    np.testing.assert_array_equal(truth["Npred"], small_sky[1]["Npred"])
    other, _ = simulate_sky(**CONE, years=2.0, rng=5)
    assert other.n_photons != sky_map.n_photons


def test_sky_without_sources_has_the_diffuse_photons_alone(small_sky):
    sky_map, truth = simulate_sky(**CONE, years=2.0, rng=4, with_sources=False)
    assert len(truth) == 0
    assert truth.colnames == small_sky[1].colnames
    expected = small_sky[0].n_photons - np.sum(small_sky[1]["Npred"])
    assert sky_map.n_photons == pytest.approx(expected, abs=6 * np.sqrt(small_sky[0].n_photons))


def test_cone_holds_its_part_of_the_photons_and_sources_of_the_whole_sky():
    part, truth = simulate_sky(years=4.0, rng=3, **SMALL)
    center = vectors_from_lonlat(60.0, 40.0)
    assert separation_deg(part.events.vectors, center).max() <= 4
    positions = vectors_from_lonlat(truth["GLON"].value, truth["GLAT"].value)
    assert separation_deg(positions, center).max() <= 4
    assert part.covers(np.array([center, -center])).tolist() == [True, False]
    assert np.all(truth["Npred"] > 0)
    whole, all_sources = simulate_sky(years=4.0, rng=3)
    inside = np.sum(separation_deg(whole.events.vectors, center) <= 4)
    assert abs(part.n_photons - inside) < 4 * np.sqrt(part.n_photons + inside)
    assert set(truth["Source_Name"]) <= set(all_sources["Source_Name"])


def test_counts_of_the_true_sources_are_photons_of_the_sky():
    sky_map, truth = simulate_sky(years=1.0, rng=8)
    excess = truth["Counts"] - truth["Npred"]
    assert 0 < truth["Counts"].sum() < sky_map.n_photons
    assert np.mean(excess**2 / truth["Npred"]) == pytest.approx(1.0, abs=0.1)
    assert truth["Counts"].dtype.kind == "i"


def test_sky_below_10_gev_has_its_photons_and_sources():
    sky_map, truth = simulate_sky(energy_range=(1.0, 100.0), years=1.0, **SMALL)
    energy = sky_map.events.energy
    assert 1.0 <= energy.min() < 1.2 < energy.max() < 100.0
    assert sky_map.energy_edges.tolist() == [1.0, 100.0]
    assert (truth.meta["FLUXEMIN"], truth.meta["FLUXEMAX"]) == (1.0, 100.0)
    ratio = np.sum(energy > 2) / len(energy)  # about E^-2.4 and a rising exposure
    assert 0.3 < ratio < 0.5


def test_response_files_are_used(real_data):
    """The files of 3FHL: exposure of seven years, PSF as it is built in."""
    built_in, _ = simulate_sky(years=7.0, rng=5, **SMALL)
    from_files, truth = simulate_sky(
        exposure=real_data / "3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz",
        psf=real_data / "3fhl/fermi_3fhl_psf_gc.fits.gz",
        isotropic=real_data / "diffuse/iso_P8R2_SOURCE_V6_v06.txt",
        rng=5,
        **SMALL,
    )
    assert from_files.n_photons == pytest.approx(built_in.n_photons, rel=0.25)
    assert truth["Npred"].max() > 1
    with pytest.raises(ValueError, match="PSF table covers 50"):
        simulate_sky(psf=real_data / "2fhl/fermi_2fhl_psf_gc.fits.gz", **SMALL)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"center": CONE["center"]}, "center and radius belong together"),
        ({"radius": 3 * u.deg}, "center and radius belong together"),
        ({"years": 0}, "years must be a positive number; got 0"),
        ({"years": 1e9}, "a simulated sky may have 2e.09 photons; got .*; simulate fewer years"),
        ({"psf_scale": 0}, "psf_scale must be a positive"),
        ({"variant": "X"}, "variant must be one of"),
    ],
)
def test_senseless_skies_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        simulate_sky(**options)


# True sources


@pytest.fixture(scope="module")
def sources():
    return draw_sources(np.random.default_rng(0), agn=0.05)


def test_truth_has_the_columns_of_the_catalogue_and_one_row_for_each_source(sources):
    truth = truth_table(sources, SurveyExposure())
    units = {spec.name: spec.unit for spec in COLUMNS}
    shared = [name for name in truth.colnames if name in units]
    names = "Source_Name RAJ2000 DEJ2000 GLON GLAT Flux Spectral_Index Class Npred"
    assert shared == names.split()
    for name in shared:
        assert str(truth[name].unit or "") == str(u.Unit(units[name]))
    assert len(truth) == len(set(truth["Source_Name"])) == len(sources)
    assert truth["Source_Name"][0].startswith("UNL J")
    assert set(truth["Class"]) == {"AGN", "PSR", "OTHER"}
    assert set(truth["Shape"]) == {"point", "disc", "gaussian"}
    np.testing.assert_array_equal(truth["Radius"].value == 0, truth["Shape"] == "point")


def test_another_band_has_other_fluxes(sources):
    low, high = (truth_table(sources, SurveyExposure(), band=b) for b in ((10, 20), (20, 2000)))
    whole = truth_table(sources, SurveyExposure())
    np.testing.assert_allclose(low["Flux"] + high["Flux"], whole["Flux"], rtol=1e-4)
    assert low.meta == {"FLUXEMIN": 10.0, "FLUXEMAX": 20.0}
    empty = truth_table(make_sources([], []), SurveyExposure())
    assert len(empty) == 0
    assert empty["Flux"].unit == u.Unit("ph cm-2 s-1")


# Images and cubes

EDGES = np.array([10.0, 30.0, 100.0])


def photons_at(lon, lat, energy):
    return Photons(vectors_from_lonlat(lon, lat), np.array(energy))


def test_photons_fall_into_their_pixel_and_bin():
    photons = photons_at([0.05, -0.05, 0.05, 180], [0.05, 0.05, 0.05, 0], [15.0, 15, 50, 15])
    counts, wcs = counts_cube(photons, EDGES, center=(0.0, 0.0), width_deg=4.0, pixel_deg=0.1)
    assert counts.shape == (2, 40, 40)
    assert counts.sum() == 3  # the photon on the far side of the sky is left out
    # longitude increases to the left: pixel 19 is left of the centre
    assert counts[0, 20, 19] == counts[0, 20, 20] == counts[1, 20, 19] == 1
    lon, lat = wcs.wcs_pix2world(19, 20, 0)
    assert (float(lon), float(lat)) == pytest.approx((0.05, 0.05), abs=1e-6)
    vectors = vectors_from_lonlat([0.0, 1.9, 2.1, 0.0, 180.0], [0.0, 1.9, 0.0, -3.0, 0.0])
    assert inside_image(wcs, (40, 40), vectors).tolist() == [True, True, False, False, False]


def test_photons_fall_into_their_healpix_pixel_and_bin():
    photons = photons_at([3, 3, 90, 200], [2, 2, 45, -60], [15.0, 50.0, 15.0, 200.0])
    counts = healpix_cube(photons, EDGES, 16)
    assert counts.shape == (2, 12 * 16**2)
    assert counts.sum() == 3  # one lies above the energies
    assert counts[:, healpy.ang2pix(16, 3, 2, lonlat=True)].tolist() == [1, 1]
    assert counts[0, healpy.ang2pix(16, 90, 45, lonlat=True)] == 1


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
    assert (counts.shape, counts.dtype) == ((16, 40, 40), np.int32)
    assert edges[[0, -1]] == pytest.approx([10, 2000])

    def inside(lon, lat):
        x, y = wcs.wcs_world2pix(lon, lat, 0)
        return (np.abs(x - 19.5) < 20) & (np.abs(y - 19.5) < 20)

    assert np.all(inside(truth["GLON"].value, truth["GLAT"].value))
    center = SkyCoord(300, -30, unit="deg", frame="galactic")
    sky_map, _ = simulate_sky(years=1.0, rng=2, center=center, radius=6 * u.deg)
    assert counts.sum() == np.sum(inside(*lonlat_from_vectors(sky_map.events.vectors)))
