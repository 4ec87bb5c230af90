import numpy as np
import pytest
from test_sky_cubes import write_healpix_cube, write_image_cube

from astro_unetloc.simulation.diffuse import _is_template_cube, _read_isotropic, _read_template_cube


def test_cubes_are_told_from_tables_of_shapes(tmp_path, real_data):
    cube = write_image_cube(tmp_path / "c.fits", np.ones((3, 8, 8)))
    assert _is_template_cube(cube)
    assert _is_template_cube(write_healpix_cube(tmp_path / "h.fits", np.ones((3, 192))))
    assert not _is_template_cube(real_data / "diffuse/diffuse_shapes_nside128.fits.gz")


def test_fine_pixels_of_a_cube_are_all_averaged(tmp_path):
    y, x = np.mgrid[:180, :360]
    planes = np.repeat(((x + y) % 2)[None].astype(float), 3, axis=0)  # a chess board
    path = write_image_cube(tmp_path / "c.fits", planes, pixel_deg=1.0)
    _, values = _read_template_cube(path, 16)
    assert values.mean() == pytest.approx(500, rel=0.01)  # per GeV
    assert values.std() < 100


def test_isotropic_text_is_read_in_gev(tmp_path):
    path = tmp_path / "iso.txt"
    path.write_text("# MeV\n1000 1e-9 1e-11\n\n2000 2e-10 1e-11 # last\n")
    energy, intensity = _read_isotropic(path)
    np.testing.assert_allclose(energy, [1, 2])
    np.testing.assert_allclose(intensity, [1e-6, 2e-7])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1000 1e-9\n2000 1e-10\n", "three columns of numbers"),
        ("1000 1e-9 x\n2000 1e-10 1\n", "three columns of numbers"),
        ("1000 1e-9 1\n", "three columns"),
        ("1000 1e-9 1\n2000 1e-9\n", "three columns"),
        ("", "three columns"),
        ("2000 1e-9 1\n1000 1e-10 1\n", "increasing energies"),
        ("1000 -1e-9 1\n2000 1e-10 1\n", "positive intensities"),
        ("1000 nan 1\n2000 1e-10 1\n", "positive intensities"),
        ("-1000 1e-9 1\n2000 1e-10 1\n", "energies must be positive"),
    ],
)
def test_damaged_isotropic_text_is_refused(tmp_path, text, match):
    path = tmp_path / "iso.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        _read_isotropic(path)


def test_missing_or_binary_isotropic_text_is_named(tmp_path, real_data):
    with pytest.raises(FileNotFoundError, match="no such file"):
        _read_isotropic(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="three columns"):
        _read_isotropic(real_data / "diffuse/gll_iem_v07_gc.fits.gz")
