import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import Angle, SkyCoord
from gammapy.irf import PSFKernel, PSFMap
from gammapy.maps import HpxGeom, Map, MapAxis, WcsGeom, WcsNDMap
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.psf import KingPSF, TablePSF, make_profiles, psf_of, read_psf

energies = st.floats(0.3, 2000.0)
properties = settings(derandomize=True, max_examples=30, deadline=None)
EDGES = np.array([10.0, 20.0, 50.0, 150.0, 500.0, 2000.0])


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("3fhl/fermi_3fhl_psf_gc.fits.gz", 0.03),
        ("2fhl/fermi_2fhl_psf_gc.fits.gz", 0.03),
        ("gc/fermi-3fhl-gc-psf-cube.fits.gz", 0.03),
        ("crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits", 0.05),
    ],
)
def test_built_in_psf_is_that_of_every_file(real_data, name, tolerance):
    table, psf = psf_of(read_psf(real_data / name)), KingPSF()
    for energy in table.energy:
        for fraction, rel in ((0.68, 0.03), (0.95, tolerance)):
            expected = table.containment_radius(fraction, energy)
            found = psf.containment_radius(fraction, min(energy, 2000.0))
            assert found == pytest.approx(expected, rel=rel), energy


@pytest.mark.parametrize(("energy", "radius"), [(1.78, 0.508), (8.72, 0.167), (10.2, 0.154)])
def test_containment_radius_is_that_of_p8r3(energy, radius):
    assert KingPSF().containment_radius(0.68, energy) == pytest.approx(radius, rel=0.02)


def test_containment_radius_at_low_energy_scales_as_published():
    # sqrt((0.8 E^-0.8)^2 + 0.06^2) deg; from 6 GeV on it is narrower than the tables
    energy = np.geomspace(0.3, 5.5, 30)
    found = [KingPSF().containment_radius(0.68, e) for e in energy]
    np.testing.assert_allclose(found, np.hypot(0.8 * energy**-0.8, 0.06), rtol=0.05)


@pytest.mark.parametrize("fraction", [0.3, 0.68, 0.95, 0.99])
def test_psf_is_continuous_at_10_gev_and_shrinks_up_to_there(fraction):
    psf = KingPSF()
    below, above = (psf.containment_radius(fraction, 10 * f) for f in (1 - 1e-6, 1 + 1e-6))
    assert below == pytest.approx(above, rel=1e-5)
    radii = [psf.containment_radius(fraction, e) for e in np.geomspace(0.3, 10, 60)]
    assert np.all(np.diff(radii) < 0)


@properties
@given(energies, st.floats(0.05, 0.98))
def test_containment_grows_from_none_to_all_and_its_radius_inverts_it(energy, fraction):
    psf = KingPSF()
    inside = psf.containment(np.geomspace(1e-5, 180, 300), energy)
    assert np.all(np.diff(inside) >= 0)
    assert inside[0] < 1e-4
    assert inside[-1] > 0.995
    radius = psf.containment_radius(fraction, energy)
    assert psf.containment(radius, energy) == pytest.approx(fraction, abs=1e-4)


@pytest.mark.parametrize("energy", [0.5, 2.0, 10.0, 37.0, 300.0, 2000.0])
def test_drawn_offsets_follow_the_containment(energy, rng):
    psf, n = KingPSF(), 40_000
    offset = psf.sample_offset(np.full(n, energy), rng)
    assert psf.sample_offset(np.zeros(0), rng).shape == (0,)
    for fraction in (0.3, 0.68, 0.95, 0.99):
        found = np.mean(offset <= psf.containment_radius(fraction, energy))
        assert abs(found - fraction) < 4.5 * np.sqrt(fraction * (1 - fraction) / n)


def test_scale_stretches_all_radii():
    radii = [KingPSF(scale).containment_radius(0.9, 50.0) for scale in (1.0, 2.0)]
    assert radii[1] == pytest.approx(2 * radii[0], rel=1e-3)


@pytest.fixture(scope="module")
def table_psf():
    """A `TablePSF` of the built-in PSF."""
    energy, step = np.geomspace(10, 100, 12), 1e-5
    angle = np.concatenate([[0.0], np.geomspace(1e-3, 30, 600)])
    ring = [np.maximum(angle - step, 0)[:, None], (angle + step)[:, None]]
    low, high = (KingPSF().containment(radius, energy) for radius in ring)
    density = ((high - low) / np.maximum(np.sin(np.radians(angle)), 1e-9)[:, None]).T
    density[:, 0] = density[:, 1]
    return TablePSF(energy, angle, density)


def test_table_of_the_built_in_psf_has_its_containment(table_psf):
    psf, radius = KingPSF(), np.geomspace(0.01, 3, 20)
    for energy in (10.0, 14.0, 37.0, 100.0):
        found = table_psf.containment(radius, energy)
        np.testing.assert_allclose(found, psf.containment(radius, energy), atol=1e-2)
        for fraction in (0.3, 0.68, 0.95):
            expected = psf.containment_radius(fraction, energy)
            assert table_psf.containment_radius(fraction, energy) == pytest.approx(
                expected, rel=0.02
            )


def test_offsets_of_a_table_follow_its_containment(table_psf, rng):
    energy = np.exp(rng.uniform(np.log(10), np.log(100), 200_000))
    inside = table_psf.containment(table_psf.sample_offset(energy, rng), energy)
    found = np.histogram(inside, np.linspace(0, 1, 11))[0]
    np.testing.assert_allclose(found, 20_000, atol=4.5 * np.sqrt(20_000))


@properties
@given(energy=st.floats(10, 100), fraction=st.floats(0.05, 0.98))
def test_containment_radius_of_a_table_inverts_its_containment(table_psf, energy, fraction):
    radius = table_psf.containment_radius(fraction, energy)
    assert table_psf.containment(radius, energy) == pytest.approx(fraction, abs=1e-6)


@pytest.mark.parametrize("energy", [0.1, 0.29, 9.9, 101.0, 2100.0])
def test_energies_outside_the_tables_are_refused(table_psf, energy, rng):
    with pytest.raises(ValueError, match="PSF table covers 10-100 GeV; got energies from"):
        table_psf.sample_offset(np.array([energy]), rng)
    if not 0.3 < energy < 2000:
        with pytest.raises(ValueError, match="built-in PSF covers 0.3-2000 GeV; got .* compute it"):
            KingPSF().containment(0.1, energy)


SENSELESS = {
    "energy": ([20.0, 10.0], [10.0]),
    "angle_deg": ([0.0, 2.0, 1.0], [0.1, 0.2, 1.0]),
    "density": (np.ones((3, 2)), -np.ones((2, 3)), np.full((2, 3), np.nan), np.zeros((2, 3))),
}


@pytest.mark.parametrize("name", SENSELESS)
def test_senseless_tables_are_refused(name):
    table = {"energy": [10.0, 20.0], "angle_deg": [0.0, 1.0, 2.0], "density": np.ones((2, 3))}
    table = {name: np.array(value) for name, value in table.items()}
    TablePSF(**table)
    for value in SENSELESS[name]:
        with pytest.raises(ValueError, match="PSF table must have .* got|photons at every energy"):
            TablePSF(**table | {name: np.array(value)})


@pytest.fixture(scope="module")
def profiles():
    return make_profiles(KingPSF(), EDGES)


@pytest.fixture(scope="module")
def gaussian():
    """A PSF of which everything is known: sigma 0.1 deg at all energies."""
    return gaussian_psf(0.1)


def gaussian_psf(sigma):
    angle = np.linspace(0, 15 * sigma, 3000)
    density = np.exp(-0.5 * (angle / sigma) ** 2)
    return TablePSF(np.array([1.0, 3000.0]), angle, np.tile(density, (2, 1)))


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
        found = profiles.containment(radius)
        np.testing.assert_allclose(found, expected, atol=2e-3)
        np.testing.assert_array_equal(profiles.containment(np.full(5, radius)), found)
        np.testing.assert_array_equal(profiles.containment([[9.0], [radius]])[1], found)
    np.testing.assert_allclose(profiles.containment_radius(0.68), 0.15096, rtol=5e-3)


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


@properties
@given(st.integers(0, 4), st.floats(0.02, 3.0))
def test_derivatives_are_those_of_the_density(profiles, energy_bin, offset):
    at, bins = np.array([offset**2]), np.array([energy_bin])
    _, gradient, hessian = profiles.density(bins, at)
    step = 0.1 * offset**2
    (low, first, _), (high, last, _) = (profiles.density(bins, at + s) for s in (-step, step))
    np.testing.assert_allclose(gradient, np.log(high / low) / (2 * step), rtol=0.05)
    margin = {"rtol": 0.3, "atol": 0.05 * gradient[0] ** 2}
    np.testing.assert_allclose(hessian, (last - first) / (2 * step), **margin)


def test_a_psf_that_begins_too_high_is_refused():
    with pytest.raises(ValueError, match="above 0.3 GeV, .*; got one from 0.1 GeV"):
        make_profiles(KingPSF(), np.array([0.1, 1.0]))


def test_a_psf_of_this_package_is_taken_as_it_is_and_another_type_is_refused():
    assert psf_of(None, np.eye(3)) == KingPSF()
    psf = KingPSF(1.2)
    assert psf_of(psf, np.eye(3)) is read_psf(psf) is psf
    with pytest.raises(TypeError, match=r"psf must be a path, a radius such as .* got int"):
        psf_of(3, np.eye(3))


@pytest.mark.parametrize("radius", [0.06 * u.deg, 216 * u.arcsec, Angle("0d3m36s")])
def test_a_radius_is_a_gaussian_of_all_energies(radius, rng):
    psf = psf_of(radius)
    for energy in (1e-3, 1.0, 1e5):
        for fraction in (0.3, 0.68, 0.95, 0.99):
            expected = 0.06 * np.sqrt(np.log(1 - fraction) / np.log(0.32))
            assert psf.containment_radius(fraction, energy) == pytest.approx(expected, rel=1e-3)
    offset = psf.sample_offset(np.full(40_000, 300.0), rng)
    assert np.mean(offset < 0.06) == pytest.approx(0.68, abs=0.01)
    profiles = make_profiles(read_psf(radius), EDGES * 1e3)
    np.testing.assert_allclose(profiles.containment_radius(0.68), 0.06, rtol=2e-3)


@pytest.mark.parametrize(
    "radius", [0 * u.deg, -1 * u.deg, 10.1 * u.deg, np.nan * u.deg, 1 * u.GeV, [1, 2] * u.deg]
)
def test_a_radius_that_is_none_is_refused(radius):
    with pytest.raises(InputError, match=r"radius of the psf .* at most 10 deg; got .* 0.06 deg$"):
        read_psf(radius)


def test_a_psf_map_in_healpix_pixels_is_refused():
    axes = PSFMap.from_gauss(MapAxis.from_energy_bounds("0.1 TeV", "9 TeV", 3, name="energy_true"))
    geom = HpxGeom.create(nside=4, axes=axes.psf_map.geom.axes)
    with pytest.raises(InputError, match="PSF map with a WCS was expected; got one of HEALPix"):
        psf_of(PSFMap(Map.from_geom(geom, unit="sr-1")))


def test_a_kernel_of_gammapy_is_read(gaussian):
    axis = MapAxis.from_energy_edges(EDGES, unit="GeV")
    geom = WcsGeom.create(npix=41, binsz=0.03, axes=[axis])
    y, x = np.mgrid[:41, :41] - 20.0
    image = np.exp(-(x**2 + y**2) * 0.03**2 / (2 * 0.1**2))
    kernel = PSFKernel(WcsNDMap(geom, np.tile(image, (5, 1, 1))))
    found = make_profiles(psf_of(kernel, np.eye(3)[:1]), EDGES).containment_radius(0.68)
    np.testing.assert_allclose(found, 0.151, rtol=0.03)


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_effective_area_of_a_gaussian_is_known(sigma):
    area = make_profiles(gaussian_psf(sigma), EDGES).effective_area()
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


def test_psf_map_of_gammapy_is_read_as_gammapy_reads_it(real_data):
    path = real_data / "crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits"
    position = SkyCoord(83.6 * u.deg, 22.0 * u.deg)
    expected = PSFMap.read(path, format="gadf").containment_radius(
        fraction=0.68, energy_true=[20, 100] * u.GeV, position=position
    )
    psf = psf_of(read_psf(path), position.galactic.cartesian.xyz.value[None])
    found = [psf.containment_radius(0.68, energy) for energy in (20.0, 100.0)]
    np.testing.assert_allclose(found, expected.to_value("deg"), rtol=0.03)
