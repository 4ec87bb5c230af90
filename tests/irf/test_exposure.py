import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from gammapy.maps import HpxGeom, Map, MapAxis
from made_files import energies_hdu, image_header, write_healpix_cube, write_image_cube

from astro_unetloc.cubes import check_smooth, is_map, read_sky_map, values_at
from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.files import open_fits
from astro_unetloc.irf.exposure import MapExposure, SurveyExposure, exposure_of, read_exposure
from astro_unetloc.sphere import frame_rotation, vectors_from_lonlat

SOME = vectors_from_lonlat(np.array([10.0, 100.0, 200.0]), np.array([0.0, 40.0, -60.0]))
ENERGY_GEV = np.array([10.0, 100.0, 1000.0])
ignore_dates = pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")


def test_built_in_exposure_has_the_mean_and_the_declinations_of_3fhl(real_data):
    with fits.open(real_data / "3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz") as hdus:
        energy = hdus["ENERGIES"].data["Energy"].astype(float) / 1e3
        planes = np.array([hdus[1].data[f"ENERGY{i + 1}"] for i in range(len(energy))], float)
        nside = hdus[1].header["NSIDE"]
    vectors = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2), nest=False), axis=-1)
    inside, exposure = (energy >= 10) & (energy <= 2000), SurveyExposure(7.0)
    sky = exposure.sky(vectors @ frame_rotation("icrs").T)
    mean = sky.mean() * exposure.relative(energy[inside])
    np.testing.assert_allclose(mean, planes[inside].mean(axis=1), rtol=0.03)
    plane = planes[np.argmin(np.abs(energy - 50))]
    band = np.digitize(vectors[:, 2], np.linspace(-1, 1, 13)) - 1
    found, expected = (np.bincount(band, v) / np.bincount(band) for v in (sky, plane))
    np.testing.assert_allclose(found, expected, rtol=0.04)


def test_relative_exposure_is_a_fraction_and_exposure_proportional_to_time():
    relative = SurveyExposure().relative(np.geomspace(0.3, 2000.0, 200))
    assert np.all((relative > 0) & (relative <= 1))
    np.testing.assert_allclose(SurveyExposure(14).sky(SOME), 2 * SurveyExposure(7).sky(SOME))


def test_exposure_falls_towards_low_energy_as_published():
    found = SurveyExposure().relative(np.sqrt([0.5 * 1, 1 * 2, 2 * 7, 7 * 20]))
    np.testing.assert_allclose(found[:3] / found[3], np.array([2.2, 2.9, 3.6]) / 3.6, rtol=0.01)


def cube_of(*values, energy=(10.0, 100.0)):
    """The same exposure everywhere, at some energies."""
    axis = MapAxis.from_nodes(energy, unit="GeV", name="energy_true", interp="log")
    cube = Map.create(binsz=10, proj="CAR", frame="galactic", axes=[axis], unit="cm2 s")
    cube.data += np.array(values)[:, None, None]
    return cube


def test_exposure_of_a_cube_is_interpolated_in_log_energy():
    exposure = MapExposure(cube_of(2e11, 4e11))
    np.testing.assert_allclose(exposure.at(SOME, [np.sqrt(1000)]), np.full((3, 1), 3e11))
    np.testing.assert_allclose(exposure.sky(SOME), 4e11)
    np.testing.assert_allclose(exposure.relative([10.0, 100.0]), [0.5, 1])
    assert exposure.sky(SOME[0]).shape == ()


@pytest.mark.parametrize("exposure", [SurveyExposure(), MapExposure(cube_of(3.8e11, 4e11))])
def test_exposure_of_directions_and_energies_is_their_product(exposure):
    energy = np.array([10.0, 30.0, 70.0, 100.0])
    expected = exposure.sky(SOME)[:, None] * exposure.relative(energy)
    np.testing.assert_allclose(exposure.at(SOME, energy), expected, rtol=1e-3)
    np.testing.assert_array_equal(exposure_of(exposure, SOME)[1](energy), exposure.at(SOME, energy))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ((1e11, -1.0), "exposure must be finite and nowhere negative; got 648 other .* at 100 GeV"),
        ((np.nan, 1e11), "got only zeros at 10 GeV"),
        ((1e11, np.inf), "648 other values at 100 GeV"),
        ((1e11, 0.0), "got only zeros at 100 GeV"),
    ],
)
def test_senseless_exposure_is_refused(values, match):
    with pytest.raises(ValueError, match=match):
        MapExposure(cube_of(*values)).relative(20.0)


def test_exposure_begins_and_ends_where_it_is_positive():
    nodes = 10.0 ** np.arange(6)
    exposure = read_exposure(cube_of(0.0, 0.0, 1e13, 1e16, 1e17, 0.0, energy=nodes))
    np.testing.assert_allclose(exposure.energy, nodes[2:5])
    np.testing.assert_allclose(exposure.at(SOME, [1e2, 1e4]), [[1e13, 1e17]] * 3)
    with pytest.raises(ValueError, match="got only zeros at 10 GeV"):
        read_exposure(cube_of(1e13, 0.0, 1e16, energy=nodes[:3]))


def test_energies_outside_an_exposure_are_refused():
    exposure = MapExposure(cube_of(1e11, 1e11))
    for function in (exposure.relative, lambda energy: exposure.at(np.eye(3), energy)):
        with pytest.raises(ValueError, match="exposure covers 10-100 GeV; got energies from 5"):
            function(np.array([5.0, 20.0]))


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
    energy = exposure.energy[1:4]
    np.testing.assert_allclose(
        exposure.at(vectors, energy), SurveyExposure(years).at(vectors, energy), rtol=0.12
    )


@ignore_dates
def test_exposure_file_is_read_as_gammapy_reads_it(real_data):
    path = real_data / "gc/fermi-3fhl-gc-exposure-cube.fits.gz"
    lon, lat, energy = np.array([1.03, 358.0]), np.array([-0.51, 2.0]), np.array([50.0, 60.0])
    sky, cube = SkyCoord(lon, lat, unit="deg", frame="galactic"), Map.read(path)
    expected = cube.interp_by_coord({"skycoord": sky[:, None], "energy_true": energy * u.GeV})
    vectors = vectors_from_lonlat(lon, lat)
    for exposure in (read_exposure(path), read_exposure(cube)):
        np.testing.assert_allclose(exposure.at(vectors, energy), expected, rtol=1e-3)


def test_a_frame_that_the_declinations_contradict_is_warned_about(real_data, tmp_path):
    with fits.open(real_data / "3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz") as hdus:
        for name in ("CEL", "GAL"):
            hdus[1].header["COORDSYS"] = name
            hdus.writeto(tmp_path / f"{name}.fits")
    assert read_exposure(tmp_path / "CEL.fits").map.geom.frame == "icrs"
    with pytest.warns(UnetlocWarning, match="stated to be galactic, but varies .* as icrs"):
        assert read_exposure(tmp_path / "GAL.fits").map.geom.frame == "galactic"


@ignore_dates
def test_exposure_beyond_its_map_is_zero_or_has_the_shape_of_the_built_in_one(real_data):
    exposure = read_exposure(real_data / "gc/fermi-3fhl-gc-exposure-cube.fits.gz")
    vectors = vectors_from_lonlat(np.array([0.0, 3.0, 90.0]), np.array([0.0, -2.0, 0.0]))
    energy = np.array([12.0, 60.0, 400.0])
    assert exposure.sky(vectors)[2] == 0
    np.testing.assert_array_equal(exposure.at(vectors, energy)[2], 0)
    known, table = exposure_of(exposure, vectors)
    np.testing.assert_array_equal(known, [True, True, False])
    np.testing.assert_allclose(table(energy)[2], SurveyExposure().relative(energy))
    low, high = exposure.energy[[0, -1]]  # energies beyond take the ends
    ends = table(np.array([low, high]))
    np.testing.assert_allclose(table(np.array([low / 2, 3 * high]))[:2], ends[:2])


def test_frame_without_coordsys_is_taken_or_asked_for(tmp_path):
    path = write_healpix_cube(tmp_path / "e.fits", np.full((3, 192), 3e11), COORDSYS="")
    with pytest.raises(ValueError, match="frame of a HEALPix exposure must be known"):
        read_exposure(path)
    assert read_exposure(path, frame="icrs").map.geom.frame == "icrs"
    with pytest.raises(ValueError, match="frame must be 'galactic' or 'icrs'; got 'fk5'"):
        read_exposure(path, frame="fk5")
    with pytest.raises(ValueError, match="frame of a HEALPix map of intensity must be known"):
        read(path)
    assert read(path, frame="icrs", unit="cm2 s").geom.frame == "icrs"


def test_without_an_exposure_only_its_shape_is_known():
    known, table = exposure_of(None, np.eye(3))
    assert not known.any()
    np.testing.assert_array_equal(table(np.array([50.0])), SurveyExposure().relative([50.0]))


def write_ones(tmp_path, **options):
    return write_image_cube(tmp_path / "c.fits", np.ones((3, 8, 8)), **options)


def read(path, **options):
    """A cube of intensities."""
    hdus, _ = open_fits(path)
    options = {"what": "intensity", "unit": "cm-2 s-1 sr-1 MeV-1"} | options
    with hdus:
        return read_sky_map(hdus, next(filter(is_map, hdus)), **options)


@pytest.mark.parametrize("frame", ["galactic", "icrs"])
def test_values_of_an_image_are_interpolated(tmp_path, frame):
    y, x = np.mgrid[:20, :30].astype(float)
    path = write_image_cube(tmp_path / "c.fits", [x + 100 * y, x, y], frame=frame)
    cube = read(path)
    np.testing.assert_allclose(cube.geom.axes[0].center.to_value("GeV"), ENERGY_GEV)
    lon, lat = np.array([0.0, 0.13, -0.41, 9.0]), np.array([0.0, 0.22, 0.37, 0.0])
    vectors = vectors_from_lonlat(lon, lat) @ frame_rotation(frame).T
    column, row = 14.5 - lon / 0.1, 9.5 + lat / 0.1
    expected = np.array([column + 100 * row, column, row])
    expected[:, 3] = np.nan
    np.testing.assert_allclose(values_at(cube, vectors), expected, atol=1e-6)
    np.testing.assert_allclose(values_at(cube, vectors, rows=[2]), expected[2:], atol=1e-6)


@pytest.mark.parametrize("order", ["RING", "NESTED"])
@pytest.mark.parametrize("vector", [False, True])
def test_healpix_cubes_are_read_in_either_layout(tmp_path, order, vector):
    nside = 16
    lon, lat = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=order != "RING", lonlat=True)
    height = np.sin(np.radians(lat))
    path = write_healpix_cube(
        tmp_path / "c.fits", [2 + height, 3 + height, 4 + height], vector=vector, ORDERING=order
    )
    lon, lat = np.array([10.0, 123.0, 200.0]), np.array([5.0, -40.0, 60.0])
    found = values_at(read(path), vectors_from_lonlat(lon, lat))
    expected = np.array([[2.0], [3.0], [4.0]]) + np.sin(np.radians(lat))
    np.testing.assert_allclose(found, expected, atol=3e-3)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        (None, 1.0),
        ("", 1.0),
        ("MeV-1 s-1 sr-1 cm-2", 1.0),
        ("photon/cm**2/s/MeV/sr", 1.0),
        ("ph cm-2 s-1 sr-1 GeV-1", 1e-3),
        ("photons m-2 s-1 sr-1 MeV-1", 1e-4),
    ],
)
def test_units_are_converted(tmp_path, unit, factor):
    cube = read(write_ones(tmp_path, unit=unit))
    assert cube.unit.to("cm-2 s-1 sr-1 MeV-1") == pytest.approx(factor)
    np.testing.assert_array_equal(cube.data, 1)


@pytest.mark.parametrize("unit", ["cm-2 s-1 sr-1", "cm2 s", "mag?"])
def test_another_unit_is_refused(tmp_path, unit):
    with pytest.raises(ValueError, match="intensity must be in cm-2 s-1 sr-1 MeV-1; got the unit"):
        read(write_ones(tmp_path, unit=unit))


NO_ENERGY = fits.BinTableHDU.from_columns([fits.Column("X", "D", array=[1.0])], name="ENERGIES")


@pytest.mark.parametrize(
    ("energies", "match"),
    [
        (NO_ENERGY, "energies were expected in table ENERGIES"),
        (fits.ImageHDU(np.ones(3), name="ENERGIES"), "3 planes must state their energies"),
        (energies_hdu(ENERGY_GEV[:2]), "got 2 energies and 3 planes"),
        (energies_hdu(ENERGY_GEV[::-1]), "must be positive and increase"),
    ],
)
def test_cubes_without_their_energies_are_refused(tmp_path, energies, match):
    with pytest.raises(ValueError, match=match):
        read(write_ones(tmp_path, energies=energies))


def test_bands_of_gammapy_are_energies(tmp_path):
    bands = energies_hdu(name="PRIMARY_BANDS", column="ENERGY_TRUE", unit="GeV")
    cube = read(write_ones(tmp_path, energies=bands))
    np.testing.assert_allclose(cube.geom.axes[0].center.to_value("GeV"), ENERGY_GEV)


def test_an_exposure_image_is_the_same_at_all_energies(tmp_path):
    path = tmp_path / "i.fits"
    fits.PrimaryHDU(np.full((8, 8), 3e11), image_header((8, 8))).writeto(path)
    with pytest.warns(UnetlocWarning, match="same at all energies"):
        exposure = read_exposure(path)
    np.testing.assert_allclose(exposure.at(np.eye(3)[:1], [1.0, 50.0, 2000.0]), 3e11)


def test_values_that_are_no_intensity_are_counted():
    cube = cube_of(1.0, 1.0)
    cube.data[1, 0, :7] = -1.0
    with pytest.raises(ValueError, match="intensity must be .* got 7 other values at 100 GeV"):
        check_smooth(cube, "intensity")


def test_parts_of_a_healpix_sphere_are_interpolated_inside_and_unknown_outside():
    numbers = np.flatnonzero(healpy.pix2ang(8, np.arange(768), lonlat=True)[1] > 30)
    whole = Map.from_geom(HpxGeom(8, nest=False, frame="galactic"), data=np.arange(768.0))
    geom = HpxGeom(8, nest=False, frame="galactic", region=(numbers,))
    part = Map.from_geom(geom, data=whole.data[numbers])
    inside = vectors_from_lonlat(np.array([10.0, 200.0]), np.array([60.0, 80.0]))
    np.testing.assert_allclose(values_at(part, inside), values_at(whole, inside))
    border = vectors_from_lonlat(np.linspace(0, 360, 50), np.full(50, 31.0))
    found = values_at(part, border)[0]
    nearest = np.isin(healpy.vec2pix(8, *border.T), numbers)
    np.testing.assert_array_equal(np.isfinite(found), nearest)
    assert np.isnan(values_at(part, -inside)).all()


def test_outer_pixels_are_not_extrapolated_and_a_whole_sky_has_no_seam(tmp_path):
    x = np.arange(36)
    wave = 2 + np.cos(np.radians(10 * x + 5))
    planes = np.broadcast_to(wave, (3, 18, 36))
    cube = read(write_image_cube(tmp_path / "sky.fits", planes, pixel_deg=10.0))
    # pixel centres are at +-175 deg, the seam between them at 180 deg
    lon = np.array([175.0, 180.0, 185.0])
    np.testing.assert_allclose(values_at(cube, vectors_from_lonlat(lon, 0.0))[0], wave[0])
    part = read(write_image_cube(tmp_path / "part.fits", planes[:, :4, :4] * 1.0, pixel_deg=1.0))
    edge = values_at(part, vectors_from_lonlat([1.9, 1.5], [0.0, 0.0]))[0]
    np.testing.assert_allclose(edge, wave[0])
