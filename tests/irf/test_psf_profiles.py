import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.irf.psf import KingPSF, TablePSF, make_profiles, psf_of

EDGES = np.array([10.0, 20.0, 50.0, 150.0, 500.0, 2000.0])


@pytest.fixture(scope="module")
def profiles():
    return make_profiles(KingPSF(), EDGES)


@pytest.fixture(scope="module")
def gaussian():
    """A PSF of which everything is known: sigma 0.1 deg at all energies."""
    angle = np.linspace(0, 1.5, 3000)
    return TablePSF(
        np.array([1.0, 3000.0]), angle, np.tile(np.exp(-(angle**2) / (2 * 0.1**2)), (2, 1))
    )


@pytest.mark.parametrize("disc_deg", [0.0, 0.03, 0.3])
def test_all_photons_are_somewhere(disc_deg):
    profiles = make_profiles(KingPSF(), EDGES, disc_deg=disc_deg)
    radius = np.linspace(0, 6, 60_001)
    middle = (radius[1:] + radius[:-1]) / 2
    for energy_bin in range(5):
        density = profiles.density(np.full(len(middle), energy_bin), middle**2)[0]
        total = np.sum(density * np.pi * np.diff(radius**2))
        assert total == pytest.approx(profiles.containment(6.0)[energy_bin], abs=2e-3)
        assert total > 0.99


def test_containment_is_that_of_the_psf(gaussian):
    profiles = make_profiles(gaussian, EDGES)
    for radius in (0.02, 0.1, 0.2, 0.3):
        expected = 1 - np.exp(-(radius**2) / (2 * 0.1**2))
        np.testing.assert_allclose(profiles.containment(radius), expected, atol=2e-3)
    np.testing.assert_allclose(profiles.containment_radius(0.68), 0.15096, rtol=5e-3)


def test_one_radius_is_that_of_all_bins(profiles):
    expected = profiles.containment(np.full(5, 0.3))
    np.testing.assert_array_equal(profiles.containment(0.3), expected)
    radii = np.array([[0.1], [0.3]])
    np.testing.assert_array_equal(profiles.containment(radii)[1], expected)


def test_a_disc_widens_by_its_own_variance(gaussian):
    profiles = make_profiles(gaussian, EDGES, disc_deg=0.2)
    radius = np.linspace(0, 1.4, 20_001)
    middle = (radius[1:] + radius[:-1]) / 2
    density = profiles.density(np.zeros(len(middle), int), middle**2)[0]
    weight = density * np.diff(radius**2)
    # of one axis: half the mean squared offset, 0.1^2 of the PSF and 0.2^2 / 4 of the disc
    assert np.sum(weight * middle**2) / np.sum(weight) / 2 == pytest.approx(0.02, rel=0.01)


def test_a_pixel_is_as_good_as_its_disc(gaussian):
    """Square pixels half as wide as the PSF, integrated point by point."""
    pixel = 0.1
    profiles = make_profiles(gaussian, EDGES, disc_deg=pixel / np.sqrt(np.pi))
    x, y = (a.ravel() for a in np.meshgrid(*[np.linspace(-0.045, 0.045, 10)] * 2))
    for dx, dy in ((0.0, 0.0), (0.1, 0.0), (0.08, 0.07), (0.25, 0.1)):
        offset2 = (dx + x) ** 2 + (dy + y) ** 2
        expected = np.mean(np.exp(-offset2 / (2 * 0.1**2))) / (2 * np.pi * 0.1**2)
        found = profiles.density(np.array([0]), np.array([dx**2 + dy**2]))[0]
        np.testing.assert_allclose(found, expected, rtol=0.01)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(0, 4), st.floats(0.02, 3.0))
def test_derivatives_are_those_of_the_density(energy_bin, offset):
    profiles = make_profiles(KingPSF(), EDGES)
    at = np.array([offset**2])
    bins = np.array([energy_bin])
    _, slope, bend = profiles.density(bins, at)
    step = 0.1 * offset**2
    low, high = (np.log(profiles.density(bins, at + s)[0]) for s in (-step, step))
    np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=0.05)
    low, high = (profiles.density(bins, at + s)[1] for s in (-step, step))
    np.testing.assert_allclose(bend, (high - low) / (2 * step), rtol=0.3, atol=0.05 * slope[0] ** 2)


def test_single_precision_is_the_same(profiles):
    offset2 = np.geomspace(1e-6, 4, 50).astype(np.float32)
    bins = np.arange(50) % 5
    expected = profiles.density(bins, offset2.astype(float))[0]
    np.testing.assert_allclose(profiles.densities32(bins, offset2), expected, rtol=2e-3)


def test_a_psf_that_begins_too_high_is_refused():
    with pytest.raises(ValueError, match=r"from 0.1 GeV; got one from 0.3 GeV"):
        make_profiles(KingPSF(), np.array([0.1, 1.0]))


def test_an_unknown_psf_is_refused():
    with pytest.raises(TypeError, match="got str"):
        psf_of("psf.fits", np.eye(3))


def test_without_a_psf_that_of_the_lat_is_taken():
    assert psf_of(None, np.eye(3)) == KingPSF()
    psf = KingPSF(1.2)
    assert psf_of(psf, np.eye(3)) is psf


@pytest.mark.parametrize("name", ["gc/fermi-3fhl-gc-psf-cube", "3fhl/fermi_3fhl_psf_gc"])
def test_a_psf_map_of_gammapy_is_as_wide_as_the_built_in_one(real_data, name):
    from gammapy.irf import PSFMap

    psf = psf_of(PSFMap.read(real_data / f"{name}.fits.gz", format="gtpsf"), np.eye(3)[:1])
    edges = np.array([10.0, 30.0, 100.0, 400.0])
    found = make_profiles(psf, edges).containment_radius(0.68)
    expected = make_profiles(KingPSF(), edges).containment_radius(0.68)
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_a_kernel_of_gammapy_is_read(gaussian):
    pytest.importorskip("gammapy")
    from gammapy.irf import PSFKernel
    from gammapy.maps import MapAxis, WcsGeom, WcsNDMap

    axis = MapAxis.from_energy_edges(EDGES, unit="GeV")
    geom = WcsGeom.create(npix=41, binsz=0.03, axes=[axis])
    y, x = np.mgrid[:41, :41] - 20.0
    image = np.exp(-(x**2 + y**2) * 0.03**2 / (2 * 0.1**2))
    kernel = PSFKernel(WcsNDMap(geom, np.tile(image, (5, 1, 1))))
    found = make_profiles(psf_of(kernel, np.eye(3)[:1]), EDGES).containment_radius(0.68)
    np.testing.assert_allclose(found, 0.151, rtol=0.03)


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_effective_area_of_a_gaussian_is_known(sigma):
    angle = np.linspace(0, 10 * sigma, 2000)
    density = np.tile(np.exp(-0.5 * (angle / sigma) ** 2), (2, 1))
    gaussian = TablePSF(np.array([5.0, 5000.0]), angle, density)
    area = make_profiles(gaussian, EDGES).effective_area()
    np.testing.assert_allclose(area, 4 * np.pi * sigma**2, rtol=0.02)


def test_exposure_that_grows_with_energy_makes_profiles_narrow():
    edges = np.array([0.5, 1.0, 2.0])
    flat = make_profiles(KingPSF(), edges).containment_radius(0.68)
    grown = make_profiles(KingPSF(), edges, exposure=lambda energy: energy**0.7)
    assert np.all(grown.containment_radius(0.68) < 0.99 * flat)
    scaled = make_profiles(KingPSF(), edges, exposure=lambda energy: np.full_like(energy, 7.0))
    np.testing.assert_allclose(scaled.containment_radius(0.68), flat, rtol=1e-12)


def test_a_disc_beside_a_source_holds_the_photons_that_fall_in_it(gaussian):
    profiles = make_profiles(gaussian, EDGES)
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.1, (2, 200_000))
    for offset, radius in ((0.0, 0.2), (0.15, 0.2), (0.3, 0.2), (0.05, 1.0)):
        expected = np.mean(np.hypot(x - offset, y) < radius)
        inside = profiles.containment_off(np.array([offset]), radius)
        assert inside.shape == (1, 5)
        np.testing.assert_allclose(inside[0], expected, atol=0.004)
