import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from test_sky_cubes import write_healpix_cube, write_image_cube

from astro_unetloc.irf.exposure import SurveyExposure, exposure_of, read_exposure
from astro_unetloc.irf.psf import KingPSF, read_psf
from astro_unetloc.sphere import vectors_from_lonlat

PSF_FILES = [
    "3fhl/fermi_3fhl_psf_gc.fits.gz",
    "2fhl/fermi_2fhl_psf_gc.fits.gz",
    "gc/fermi-3fhl-gc-psf-cube.fits.gz",
    "crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits",
]


def psf_hdus(density, energy_mev=(1e4, 1e5), theta_deg=(0.0, 0.1, 1.0)):
    """A table of gtpsf."""
    columns = [
        fits.Column("Energy", "D", array=energy_mev),
        fits.Column("Exposure", "D", array=np.ones(len(energy_mev))),
        fits.Column("Psf", f"{len(theta_deg)}D", array=density),
    ]
    theta = fits.BinTableHDU.from_columns(
        [fits.Column("Theta", "D", array=theta_deg)], name="THETA"
    )
    return fits.HDUList(
        [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="PSF"), theta]
    )


@pytest.mark.parametrize("name", PSF_FILES)
def test_built_in_psf_is_that_of_every_file(real_data, name):
    table, psf = read_psf(real_data / name), KingPSF()
    for energy in table.energy:
        for fraction, tolerance in ((0.68, 0.03), (0.95, 0.05)):
            expected = table.containment_radius(fraction, energy)
            found = psf.containment_radius(fraction, min(energy, 2000.0))
            assert found == pytest.approx(expected, rel=tolerance), energy


def test_psf_map_of_gammapy_is_read_as_gammapy_reads_it(real_data):
    from gammapy.irf import PSFMap

    path = real_data / "crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits"
    position = SkyCoord(83.6 * u.deg, 22.0 * u.deg)
    expected = PSFMap.read(path, format="gadf").containment_radius(
        fraction=0.68, energy_true=[20, 100] * u.GeV, position=position
    )
    psf = read_psf(path, position=position)
    found = [psf.containment_radius(0.68, energy) for energy in (20.0, 100.0)]
    np.testing.assert_allclose(found, expected.to_value("deg"), rtol=0.03)


def test_position_outside_a_psf_map_is_refused(tmp_path):
    from made_files import image_header

    image = fits.ImageHDU(np.ones((2, 3, 4, 4)), image_header((4, 4), pixel_deg=1.0), name="PSF")
    columns = [
        fits.Column("THETA", "D", unit="deg", array=np.tile([0.0, 1.0, 2.0], 2)),
        fits.Column("ENERGY_TRUE", "D", unit="GeV", array=np.repeat([10.0, 100.0], 3)),
    ]
    bands = fits.BinTableHDU.from_columns(columns, name="PSF_BANDS")
    path = tmp_path / "psf.fits"
    fits.HDUList([fits.PrimaryHDU(), image, bands]).writeto(path)
    assert read_psf(path).angle_deg[-1] == 2
    with pytest.raises(ValueError, match="position must lie inside the PSF map"):
        read_psf(path, position=SkyCoord(100, 40, unit="deg", frame="galactic"))


@pytest.mark.parametrize(
    ("density", "match"),
    [
        (-np.ones((2, 3)), "nowhere negative"),
        (np.full((2, 3), np.nan), "must be finite"),
    ],
)
def test_damaged_psf_tables_are_refused(tmp_path, density, match):
    psf_hdus(density).writeto(tmp_path / "psf.fits")
    with pytest.raises(ValueError, match=match):
        read_psf(tmp_path / "psf.fits")


def test_file_without_psf_is_refused(tmp_path):
    path = write_image_cube(tmp_path / "c.fits", np.ones((3, 8, 8)))
    with pytest.raises(ValueError, match="psf must be a file of gtpsf .* HDUs PRIMARY, ENERGIES"):
        read_psf(path)


# Exposure


@pytest.mark.parametrize(
    ("name", "years"),
    [
        ("3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz", 7.0),
        ("2fhl/fermi_2fhl_exposure_cube_hpx.fits.gz", 80 / 12),
        ("gc/fermi-3fhl-gc-exposure-cube.fits.gz", 7.0),
        ("crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits", 7.0),
    ],
)
def test_built_in_exposure_is_near_that_of_every_file(real_data, name, years):
    exposure = read_exposure(real_data / name)
    where = {"gc": (0.5, 1.0), "crab": (184.5, -5.8)}.get(name.split("/")[0], (75.0, 20.0))
    vectors = vectors_from_lonlat(*where)[None]
    energy = exposure.cube.energy[1:4]
    np.testing.assert_allclose(
        exposure.table(vectors, energy), SurveyExposure(years).table(vectors, energy), rtol=0.12
    )


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_exposure_file_gives_what_gammapy_reads(real_data):
    from gammapy.maps import Map

    path = real_data / "gc/fermi-3fhl-gc-exposure-cube.fits.gz"
    lon, lat, energy = np.array([1.03, 358.0]), np.array([-0.51, 2.0]), np.array([50.0, 60.0])
    expected = Map.read(path).interp_by_coord(
        {
            "skycoord": SkyCoord(lon, lat, unit="deg", frame="galactic"),
            "energy_true": energy * u.GeV,
        }
    )
    found = read_exposure(path)(vectors_from_lonlat(lon, lat), energy)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_exposure_is_zero_outside_its_map(real_data):
    exposure = read_exposure(real_data / "gc/fermi-3fhl-gc-exposure-cube.fits.gz")
    outside = vectors_from_lonlat([90.0], [0.0])
    assert exposure.sky(outside) == 0
    assert exposure.table(outside, np.array([20.0])) == 0


def test_square_metres_are_converted(tmp_path):
    path = write_image_cube(tmp_path / "e.fits", np.full((3, 8, 8), 3e7), unit="m2 s")
    np.testing.assert_allclose(read_exposure(path).sky(np.eye(3)[:1]), 3e11)


def test_frame_without_coordsys_is_taken_or_asked_for(tmp_path):
    path = write_healpix_cube(tmp_path / "e.fits", np.full((3, 192), 3e11), COORDSYS="")
    with pytest.raises(ValueError, match="frame of a HEALPix exposure must be known"):
        read_exposure(path)
    assert read_exposure(path, frame="icrs").cube.pixels.frame == "icrs"
    with pytest.raises(ValueError, match="frame must be 'galactic' or 'icrs'; got 'fk5'"):
        read_exposure(path, frame="fk5")


@pytest.mark.parametrize(("value", "match"), [(-1.0, "nowhere negative"), (np.nan, "finite")])
def test_exposure_that_cannot_be_is_refused(tmp_path, value, match):
    planes = np.full((3, 8, 8), 3e11)
    planes[1, 2, 2] = value
    with pytest.raises(ValueError, match=match):
        read_exposure(write_image_cube(tmp_path / "e.fits", planes))


def test_intensity_is_no_exposure(tmp_path):
    path = write_image_cube(tmp_path / "e.fits", np.ones((3, 8, 8)), unit="cm-2 s-1 sr-1 MeV-1")
    with pytest.raises(ValueError, match="exposure must be in cm2 s; got BUNIT"):
        read_exposure(path)


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_the_exposure_of_a_map_is_that_of_its_cube(real_data):
    from gammapy.maps import Map

    path = real_data / "gc/fermi-3fhl-gc-exposure-cube.fits.gz"
    vectors = vectors_from_lonlat(np.array([0.0, 3.0, 90.0]), np.array([0.0, -2.0, 0.0]))
    energy = np.array([12.0, 60.0, 400.0])
    known, table = exposure_of(Map.read(path), vectors)
    ours, same = exposure_of(read_exposure(path), vectors)
    np.testing.assert_array_equal(known, [True, True, False])
    np.testing.assert_array_equal(ours, known)
    np.testing.assert_allclose(table(energy)[:2], same(energy)[:2], rtol=0.01)
    # where the map does not reach, the energies share out as in the built-in exposure
    np.testing.assert_allclose(table(energy)[2], SurveyExposure().relative(energy))


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_energies_beyond_an_exposure_map_take_its_ends(real_data):
    from gammapy.maps import Map

    exposure = Map.read(real_data / "gc/fermi-3fhl-gc-exposure-cube.fits.gz")
    _, table = exposure_of(exposure, vectors_from_lonlat(np.array([0.0]), np.array([0.0])))
    low, high = exposure.geom.axes[0].center.to_value("GeV")[[0, -1]]
    np.testing.assert_allclose(table(np.array([low / 2, 3 * high])), table(np.array([low, high])))


def test_without_an_exposure_only_its_shape_is_known():
    known, table = exposure_of(None, np.eye(3))
    assert not known.any()
    np.testing.assert_array_equal(table(np.array([50.0])), SurveyExposure().relative([50.0]))
