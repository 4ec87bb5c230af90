import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.irf.exposure import MapExposure, SkyCube, SurveyExposure
from astro_unetloc.irf.psf import KingPSF, TablePSF
from astro_unetloc.maps.skymap import HealpixPixelization
from astro_unetloc.sphere import frame_rotation

energies = st.floats(0.3, 2000.0)


def containment_radii(path, fractions):
    """Energies in GeV and radii (n_energy, n_fraction) in degrees of a table of gtpsf."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        theta = hdus["THETA"].data["Theta"].astype(float)
        energy = hdus["PSF"].data["Energy"].astype(float) / 1e3
        psf = hdus["PSF"].data["Psf"].astype(float)
    angle = np.radians(theta)
    density = psf * 2 * np.pi * np.sin(angle)
    steps = (density[:, 1:] + density[:, :-1]) / 2 * np.diff(angle)
    inside = np.cumsum(steps, axis=1) / steps.sum(axis=1, keepdims=True)
    return energy, np.array([np.interp(fractions, row, theta[1:]) for row in inside])


# Point-spread function


@pytest.mark.parametrize(
    "name",
    [
        "3fhl/fermi_3fhl_psf_gc.fits.gz",
        "2fhl/fermi_2fhl_psf_gc.fits.gz",
        "gc/fermi-3fhl-gc-psf-cube.fits.gz",
    ],
)
def test_containment_radii_are_those_of_the_official_response(real_data, name):
    energy, expected = containment_radii(real_data / name, [0.68, 0.95])
    psf = KingPSF()
    found = [[psf.containment_radius(f, min(e, 2000.0)) for f in (0.68, 0.95)] for e in energy]
    np.testing.assert_allclose(found, expected, rtol=0.03)


@pytest.mark.parametrize(("energy", "radius"), [(1.78, 0.508), (8.72, 0.167), (10.2, 0.154)])
def test_containment_radius_is_that_of_p8r3(energy, radius):
    assert KingPSF().containment_radius(0.68, energy) == pytest.approx(radius, rel=0.02)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.floats(0.3, 5.5))
def test_containment_radius_at_low_energy_scales_as_published(energy):
    # sqrt((0.8 E^-0.8)^2 + 0.06^2) deg; from 6 GeV on it is narrower than the tables
    found = KingPSF().containment_radius(0.68, energy)
    assert found == pytest.approx(np.hypot(0.8 * energy**-0.8, 0.06), rel=0.05)


@pytest.mark.parametrize("fraction", [0.3, 0.68, 0.95, 0.99])
def test_psf_is_continuous_at_10_gev_and_shrinks_up_to_there(fraction):
    psf = KingPSF()
    below, above = (psf.containment_radius(fraction, 10 * f) for f in (1 - 1e-6, 1 + 1e-6))
    assert below == pytest.approx(above, rel=1e-5)
    radii = [psf.containment_radius(fraction, e) for e in np.geomspace(0.3, 10, 60)]
    assert np.all(np.diff(radii) < 0)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(energies)
def test_containment_grows_from_none_to_all(energy):
    inside = KingPSF().containment(np.geomspace(1e-5, 180, 300), energy)
    assert np.all(np.diff(inside) >= 0)
    assert inside[0] < 1e-4
    assert inside[-1] > 0.995


@settings(derandomize=True, max_examples=20, deadline=None)
@given(energies, st.floats(0.05, 0.98))
def test_containment_radius_inverts_containment(energy, fraction):
    psf = KingPSF()
    assert psf.containment(psf.containment_radius(fraction, energy), energy) == pytest.approx(
        fraction, abs=1e-4
    )


@pytest.mark.parametrize("energy", [0.5, 2.0, 10.0, 37.0, 300.0, 2000.0])
def test_drawn_offsets_follow_the_containment(energy, rng):
    psf, n = KingPSF(), 40_000
    offset = psf.sample_offset(np.full(n, energy), rng)
    for fraction in (0.3, 0.68, 0.95, 0.99):
        found = np.mean(offset <= psf.containment_radius(fraction, energy))
        assert abs(found - fraction) < 4.5 * np.sqrt(fraction * (1 - fraction) / n)


def test_scale_stretches_all_radii():
    radii = [KingPSF(scale).containment_radius(0.9, 50.0) for scale in (1.0, 2.0)]
    assert radii[1] == pytest.approx(2 * radii[0], rel=1e-3)


@pytest.mark.parametrize("energy", [0.1, 0.29, 2100.0])
def test_energies_outside_the_tables_are_refused(energy):
    with pytest.raises(ValueError, match="covers 0.3-2000 GeV; got energies from .* give a PSF"):
        KingPSF().containment(0.1, energy)


def test_no_photons_draw_no_offsets(rng):
    assert KingPSF().sample_offset(np.zeros(0), rng).shape == (0,)


# Tables


def king_table(psf, energy, angle_deg):
    """A `TablePSF` of a `KingPSF`."""
    step = 1e-5
    density = [
        (psf.containment(angle_deg + step, e) - psf.containment(np.maximum(angle_deg - step, 0), e))
        / (2 * step * np.maximum(np.sin(np.radians(angle_deg)), 1e-9))
        for e in energy
    ]
    density = np.array(density)
    density[:, 0] = density[:, 1]
    return TablePSF(energy, angle_deg, density)


@pytest.fixture(scope="module")
def table_psf():
    angle = np.concatenate([[0.0], np.geomspace(1e-3, 30, 600)])
    return king_table(KingPSF(), np.geomspace(10, 100, 12), angle)


def test_table_of_the_built_in_psf_has_its_containment(table_psf):
    psf, radius = KingPSF(), np.geomspace(0.01, 3, 20)
    for energy in (10.0, 14.0, 37.0, 100.0):
        np.testing.assert_allclose(
            table_psf.containment(radius, energy), psf.containment(radius, energy), atol=1e-2
        )
        for fraction in (0.3, 0.68, 0.95):
            assert table_psf.containment_radius(fraction, energy) == pytest.approx(
                psf.containment_radius(fraction, energy), rel=0.02
            )


def test_offsets_of_a_table_follow_its_containment(table_psf, rng):
    energy = np.exp(rng.uniform(np.log(10), np.log(100), 200_000))
    inside = table_psf.containment(table_psf.sample_offset(energy, rng), energy)
    found = np.histogram(inside, np.linspace(0, 1, 11))[0]
    np.testing.assert_allclose(found, 20_000, atol=4.5 * np.sqrt(20_000))


@settings(derandomize=True, max_examples=20, deadline=None)
@given(energy=st.floats(10, 100), fraction=st.floats(0.05, 0.98))
def test_containment_radius_of_a_table_inverts_its_containment(table_psf, energy, fraction):
    radius = table_psf.containment_radius(fraction, energy)
    assert table_psf.containment(radius, energy) == pytest.approx(fraction, abs=1e-6)


@pytest.mark.parametrize("energy", [9.9, 101.0])
def test_energies_outside_a_table_are_refused(table_psf, energy, rng):
    with pytest.raises(ValueError, match="PSF table covers 10-100 GeV; got energies from"):
        table_psf.sample_offset(np.array([energy]), rng)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"energy": [20.0, 10.0]}, "increasing positive energies"),
        ({"energy": [10.0]}, "two or more"),
        ({"angle_deg": [0.0, 2.0, 1.0]}, "3 angles of a PSF table must increase"),
        ({"angle_deg": [0.1, 0.2, 1.0]}, "increase from 0"),
        ({"density": np.ones((3, 2))}, r"got the shape \(3, 2\)"),
        ({"density": -np.ones((2, 3))}, "nowhere negative"),
        ({"density": np.full((2, 3), np.nan)}, "must be finite"),
        ({"density": np.zeros((2, 3))}, "photons at every energy"),
    ],
)
def test_senseless_tables_are_refused(changes, match):
    table = {"energy": [10.0, 20.0], "angle_deg": [0.0, 1.0, 2.0], "density": np.ones((2, 3))}
    with pytest.raises(ValueError, match=match):
        TablePSF(**{name: np.array(value) for name, value in (table | changes).items()})


# Exposure


@pytest.fixture(scope="module")
def exposure_cube(real_data):
    """Energies in GeV, exposure (n_energy, n_pixels) in cm2 s, and Galactic vectors of pixels."""
    import healpy
    from astropy.io import fits

    with fits.open(real_data / "3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz") as hdus:
        energy = hdus["ENERGIES"].data["Energy"].astype(float) / 1e3
        planes = [hdus[1].data[f"ENERGY{i + 1}"].astype(float) for i in range(len(energy))]
        nside = hdus[1].header["NSIDE"]
    vectors = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2), nest=False), axis=-1)
    return energy, np.array(planes), vectors


def test_mean_exposure_of_seven_years_is_that_of_3fhl(exposure_cube):
    energy, planes, vectors = exposure_cube
    inside = (energy >= 10) & (energy <= 2000)
    galactic = vectors @ frame_rotation("icrs").T
    sky = SurveyExposure(7.0).sky(galactic).mean()
    found = sky * SurveyExposure().relative(energy[inside])
    np.testing.assert_allclose(found, planes[inside].mean(axis=1), rtol=0.03)


def test_exposure_follows_the_declination_as_that_of_3fhl(exposure_cube):
    energy, planes, vectors = exposure_cube
    plane = planes[np.argmin(np.abs(energy - 50))]
    found = SurveyExposure(7.0).sky(vectors @ frame_rotation("icrs").T)
    band = np.digitize(vectors[:, 2], np.linspace(-1, 1, 13))
    for number in np.unique(band):
        here = band == number
        assert found[here].mean() == pytest.approx(plane[here].mean(), rel=0.04)


def test_exposure_is_proportional_to_time(rng):
    vectors = rng.normal(size=(10, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(SurveyExposure(14).sky(vectors), 2 * SurveyExposure(7).sky(vectors))


@settings(derandomize=True, max_examples=30, deadline=None)
@given(energies)
def test_relative_exposure_is_a_probability(energy):
    assert 0 < SurveyExposure().relative(energy) <= 1


def test_exposure_of_direction_and_energy_is_their_product():
    exposure, vectors = SurveyExposure(), np.eye(3)
    energy = np.array([10.0, 50.0, 2000.0])
    np.testing.assert_allclose(
        exposure(vectors, energy), exposure.sky(vectors) * exposure.relative(energy)
    )


def test_exposure_falls_towards_low_energy_as_published():
    relative = SurveyExposure().relative
    centers = np.sqrt([0.5 * 1, 1 * 2, 2 * 7])
    np.testing.assert_allclose(
        relative(centers) / relative(np.sqrt(7 * 20)), np.array([2.2, 2.9, 3.6]) / 3.6, rtol=0.01
    )


def cube_of(*values, energy=(10.0, 100.0), nside=4):
    """The same exposure everywhere, at some energies."""
    planes = np.repeat(np.array(values, dtype=float)[:, None], 12 * nside**2, axis=1)
    return SkyCube(np.array(energy), planes, HealpixPixelization(nside, False, "icrs"))


def test_exposure_of_a_cube_is_interpolated_in_log_energy():
    exposure, vectors = MapExposure(cube_of(2e11, 4e11)), np.eye(3)
    np.testing.assert_allclose(exposure(vectors, np.sqrt(1000)), 3e11)
    np.testing.assert_allclose(exposure.sky(vectors), 4e11)
    np.testing.assert_allclose(exposure.relative([10.0, 100.0]), [0.5, 1])
    assert exposure.sky(vectors[0]).shape == ()


@pytest.mark.parametrize("exposure", [SurveyExposure(), MapExposure(cube_of(2e11, 4e11))])
def test_table_of_exposure_holds_every_direction_at_every_energy(exposure):
    vectors, energies = np.vstack([np.eye(3), -np.eye(3)]), np.array([10.0, 30.0, 70.0, 100.0])
    table = exposure.table(vectors, energies)
    assert table.shape == (6, 4)
    for column, energy in zip(table.T, energies):
        np.testing.assert_allclose(column, exposure(vectors, energy))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ((1e11, -1.0), "exposure must be finite and nowhere negative; got 192 other .* at 100 GeV"),
        ((np.nan, 1e11), "192 other values at 10 GeV"),
        ((1e11, np.inf), "192 other values at 100 GeV"),
        ((1e11, 0.0), "got only zeros at 100 GeV"),
    ],
)
def test_senseless_exposure_is_refused(values, match):
    with pytest.raises(ValueError, match=match):
        MapExposure(cube_of(*values))


def test_energies_outside_an_exposure_are_refused():
    exposure = MapExposure(cube_of(1e11, 1e11))
    for ask in (exposure.relative, lambda e: exposure.table(np.eye(3), e)):
        with pytest.raises(ValueError, match="exposure covers 10-100 GeV; got energies from 5"):
            ask(np.array([5.0, 20.0]))
