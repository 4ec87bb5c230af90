import numpy as np
import pytest
from astropy.io import fits
from made_files import image_header

from astro_unetloc.irf.exposure import SkyCube, read_sky_cube
from astro_unetloc.sphere import frame_rotation, vectors_from_lonlat

ENERGY_GEV = np.array([10.0, 100.0, 1000.0])


def energies_hdu(energy_gev=ENERGY_GEV, name="ENERGIES", column="Energy", unit="MeV"):
    scale = {"MeV": 1e3, "GeV": 1.0}[unit or "MeV"]
    return fits.BinTableHDU.from_columns(
        [fits.Column(column, "D", unit=unit, array=energy_gev * scale)], name=name
    )


def write_image_cube(path, planes, *, unit=None, energies=None, **header):
    """A cube of gtexpcube2 or gll_iem: planes (n_energy, ny, nx)."""
    planes = np.asarray(planes)
    primary = fits.PrimaryHDU(planes, image_header(planes.shape[-2:], **header))
    if unit is not None:
        primary.header["BUNIT"] = unit
    hdus = [primary, energies_hdu() if energies is None else energies]
    fits.HDUList(hdus).writeto(path)
    return path


def write_healpix_cube(path, planes, *, vector=False, unit=None, **keywords):
    """A HEALPix cube: planes (n_energy, n_pixels)."""
    planes = np.asarray(planes, dtype=float)
    if vector:
        columns = [fits.Column("Spectra", f"{len(planes)}D", unit=unit, array=planes.T)]
    else:
        columns = [
            fits.Column(f"ENERGY{i + 1}", "D", unit=unit, array=p) for i, p in enumerate(planes)
        ]
    hdu = fits.BinTableHDU.from_columns(columns, name="SKYMAP")
    hdu.header.update({"PIXTYPE": "HEALPIX", "ORDERING": "RING", "COORDSYS": "GAL"} | keywords)
    fits.HDUList([fits.PrimaryHDU(), hdu, energies_hdu()]).writeto(path)
    return path


def read(path, what="intensity", unit="cm-2 s-1 sr-1 MeV-1", **options):
    return read_sky_cube(path, what, unit=unit, **options)


@pytest.mark.parametrize("frame", ["galactic", "icrs"])
def test_values_of_an_image_are_interpolated(tmp_path, frame):
    y, x = np.mgrid[:20, :30].astype(float)
    path = write_image_cube(tmp_path / "c.fits", [x + 100 * y, x, y], frame=frame)
    cube = read(path)
    np.testing.assert_allclose(cube.energy, ENERGY_GEV)
    lon, lat = np.array([0.0, 0.13, -0.41, 9.0]), np.array([0.0, 0.22, 0.37, 0.0])
    vectors = vectors_from_lonlat(lon, lat) @ frame_rotation(frame).T
    column, row = 14.5 - lon / 0.1, 9.5 + lat / 0.1
    expected = np.array([column + 100 * row, column, row])
    expected[:, 3] = np.nan
    np.testing.assert_allclose(cube.at(vectors), expected, atol=1e-6)
    np.testing.assert_allclose(cube.at(vectors, rows=[2]), expected[2:], atol=1e-6)


def test_an_all_sky_image_has_no_seam(tmp_path, rng):
    planes = np.tile(np.cos(np.radians(np.arange(0.5, 360) + 180)), (3, 180, 1))
    path = write_image_cube(tmp_path / "c.fits", planes, pixel_deg=1.0)
    cube = read(path)
    lon, lat = np.linspace(0, 360, 100), rng.uniform(-89, 89, 100)
    found = cube.at(vectors_from_lonlat(lon, lat))[0]
    np.testing.assert_allclose(found, np.cos(np.radians(lon)), atol=1e-3)


@pytest.mark.parametrize("order", ["RING", "NESTED"])
@pytest.mark.parametrize("vector", [False, True])
def test_healpix_cubes_are_read_in_either_layout(tmp_path, order, vector):
    import healpy

    nside = 16
    lon, lat = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=order != "RING", lonlat=True)
    height = np.sin(np.radians(lat))
    path = write_healpix_cube(
        tmp_path / "c.fits", [2 + height, 3 + height, 4 + height], vector=vector, ORDERING=order
    )
    lon, lat = np.array([10.0, 123.0, 200.0]), np.array([5.0, -40.0, 60.0])
    found = read(path).at(vectors_from_lonlat(lon, lat))
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
    path = write_image_cube(tmp_path / "c.fits", np.ones((3, 8, 8)), unit=unit)
    np.testing.assert_allclose(read(path).at(np.eye(3)[:1]), factor)


@pytest.mark.parametrize("unit", ["cm-2 s-1 sr-1", "cm2 s", "mag?"])
def test_another_unit_is_refused(tmp_path, unit):
    path = write_image_cube(tmp_path / "c.fits", np.ones((3, 8, 8)), unit=unit)
    with pytest.raises(ValueError, match="intensity must be in cm-2 s-1 sr-1 MeV-1; got BUNIT"):
        read(path)


NO_ENERGY = fits.BinTableHDU.from_columns([fits.Column("X", "D", array=[1.0])], name="ENERGIES")


@pytest.mark.parametrize(
    ("energies", "match"),
    [
        (NO_ENERGY, "column ENERGY"),
        (fits.ImageHDU(np.ones(3), name="ENERGIES"), "got the HDUs PRIMARY, ENERGIES in"),
        (energies_hdu(ENERGY_GEV[:2]), "got 3 planes and 2 energies"),
        (energies_hdu(ENERGY_GEV[::-1]), "must be positive and increase"),
    ],
)
def test_cubes_without_their_energies_are_refused(tmp_path, energies, match):
    path = write_image_cube(tmp_path / "c.fits", np.ones((3, 8, 8)), energies=energies)
    with pytest.raises(ValueError, match=match):
        read(path)


def test_bands_of_gammapy_are_energies(tmp_path):
    bands = energies_hdu(name="PRIMARY_BANDS", column="ENERGY_TRUE", unit="GeV")
    path = write_image_cube(tmp_path / "c.fits", np.ones((3, 8, 8)), energies=bands)
    np.testing.assert_allclose(read(path).energy, ENERGY_GEV)


def test_an_image_without_energies_is_refused(tmp_path):
    fits.PrimaryHDU(np.ones((8, 8)), image_header((8, 8))).writeto(tmp_path / "i.fits")
    with pytest.raises(ValueError, match="neither an image with three axes nor a HEALPix"):
        read(tmp_path / "i.fits")


def test_a_healpix_intensity_must_say_its_frame(tmp_path):
    path = write_healpix_cube(tmp_path / "c.fits", np.ones((3, 192)), COORDSYS="")
    with pytest.raises(ValueError, match="must say its frame"):
        read(path)
    assert read(path, frame="icrs").pixels.frame == "icrs"


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_values_that_cannot_be_are_counted(value):
    planes = np.ones((3, 192))
    planes[1, :7] = value
    with pytest.raises(ValueError, match="got 7 other values at 100 GeV"):
        SkyCube(ENERGY_GEV, planes, None).check("intensity")
