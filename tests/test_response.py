import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.geometry import frame_rotation
from astro_unetloc.response import KingPSF, SurveyExposure

energies = st.floats(10.0, 2000.0)


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
    "name", ["3fhl/fermi_3fhl_psf_gc.fits.gz", "2fhl/fermi_2fhl_psf_gc.fits.gz"]
)
def test_containment_radii_are_those_of_the_official_response(real_data, name):
    energy, expected = containment_radii(real_data / name, [0.68, 0.95])
    psf = KingPSF()
    found = [[psf.containment_radius(f, min(e, 2000.0)) for f in (0.68, 0.95)] for e in energy]
    np.testing.assert_allclose(found, expected, rtol=0.03)


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


@pytest.mark.parametrize("energy", [10.0, 37.0, 300.0, 2000.0])
def test_drawn_offsets_follow_the_containment(energy, rng):
    psf, n = KingPSF(), 40_000
    offset = psf.sample_offset(np.full(n, energy), rng)
    for fraction in (0.3, 0.68, 0.95, 0.99):
        found = np.mean(offset <= psf.containment_radius(fraction, energy))
        assert abs(found - fraction) < 4.5 * np.sqrt(fraction * (1 - fraction) / n)


def test_scale_stretches_all_radii():
    radii = [KingPSF(scale).containment_radius(0.9, 50.0) for scale in (1.0, 2.0)]
    assert radii[1] == pytest.approx(2 * radii[0], rel=1e-3)


@pytest.mark.parametrize("energy", [1.0, 9.9, 2100.0])
def test_energies_outside_the_tables_are_refused(energy):
    with pytest.raises(ValueError, match="covers 10-2000 GeV; got energies from .* give a PSF"):
        KingPSF().containment(0.1, energy)


def test_no_photons_draw_no_offsets(rng):
    assert KingPSF().sample_offset(np.zeros(0), rng).shape == (0,)


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
