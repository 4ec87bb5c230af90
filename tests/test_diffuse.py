import numpy as np
import pytest
from astropy.io import fits

from astro_unetloc.diffuse import ENERGY_EDGES, TEMPLATE_SETS, interstellar, perturb

TEMPLATES = "diffuse/diffuse_shapes_nside128.fits.gz"


def write_templates(path, nside=4, *, names=("P6V11", "BUBBLES"), **keywords):
    """A tiny table of templates: constant but for a bright first half."""
    n_pixels = 12 * nside**2
    shape = np.where(np.arange(n_pixels) < n_pixels / 2, 3.0, 1.0)
    columns = [fits.Column(name, "E", array=shape) for name in names]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header.update({"ORDERING": "RING", "COORDSYS": "G"} | keywords)
    hdu.writeto(path)
    return path


@pytest.mark.parametrize("nside", [16, 64])
def test_builtin_shapes_have_mean_one_and_need_no_file(nside):
    diffuse = interstellar(nside=nside)
    assert set(diffuse.shapes) == set(diffuse.intensity) == {"INTERSTELLAR", "BUBBLES", "ISOTROPIC"}
    for name, shape in diffuse.shapes.items():
        assert shape.shape == (12 * nside**2,)
        assert shape.min() >= 0
        assert shape.mean() == pytest.approx(1), name


@pytest.mark.parametrize("variant", TEMPLATE_SETS)
def test_templates_have_mean_one(real_data, variant):
    diffuse = interstellar(real_data / TEMPLATES, variant=variant, nside=64)
    assert list(diffuse.intensity) == list(TEMPLATE_SETS[variant])
    for shape in diffuse.shapes.values():
        assert shape.mean() == pytest.approx(1)
        assert shape.min() >= 0


@pytest.mark.parametrize("name", ["INTERSTELLAR", "BUBBLES"])
def test_builtin_shapes_resemble_the_templates(real_data, name):
    template = interstellar(real_data / TEMPLATES, nside=32).shapes
    shape = interstellar(nside=32).shapes[name]
    other = template["P6V11" if name == "INTERSTELLAR" else name]
    assert np.corrcoef(shape, other)[0, 1] > 0.84


@pytest.mark.parametrize("parts", [None, *TEMPLATE_SETS.values()])
def test_intensities_fall_with_energy(parts):
    for values in (parts or interstellar(nside=16).intensity).values():
        assert len(values) == len(ENERGY_EDGES) - 1
        assert np.all(np.diff(values) < 0)
        assert np.all(np.array(values) > 0)


def test_nested_templates_are_read_as_nested(tmp_path):
    import healpy

    path = write_templates(tmp_path / "nest.fits", ORDERING="NESTED")
    shape = interstellar(path, nside=4).shapes["P6V11"]
    bright = healpy.ring2nest(4, np.arange(192)) < 96
    np.testing.assert_allclose(shape, np.where(bright, 1.5, 0.5), atol=1e-6)


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"names": ("GAS",)}, "expected the template columns P6V11, BUBBLES; got GAS; choose"),
        ({"COORDSYS": "C"}, "Galactic coordinates; got ORDERING RING and COORDSYS C; convert"),
        ({"ORDERING": ""}, "got ORDERING unknown"),
    ],
)
def test_unsuitable_templates_are_refused(tmp_path, keywords, match):
    path = write_templates(tmp_path / "t.fits", **keywords)
    with pytest.raises(ValueError, match=match):
        interstellar(path)


def test_templates_of_a_part_of_the_sky_are_refused(tmp_path):
    fits.BinTableHDU.from_columns(
        [fits.Column(name, "E", array=np.ones(10)) for name in ("P6V11", "BUBBLES")],
        header=fits.Header({"ORDERING": "RING"}),
    ).writeto(tmp_path / "t.fits")
    with pytest.raises(ValueError, match="whole-sky HEALPix templates; got 10 pixels"):
        interstellar(tmp_path / "t.fits")


def test_missing_template_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file: .*nothing.fits"):
        interstellar(tmp_path / "nothing.fits")


def test_image_as_template_is_refused(tmp_path):
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match="got no table"):
        interstellar(tmp_path / "image.fits")


@pytest.mark.parametrize("template", [None, "nothing.fits"])
def test_unknown_variant_is_never_ignored(template):
    with pytest.raises(ValueError, match=r"variant must be one of PIBREM\+ICS.*; got 'P7'"):
        interstellar(template, variant="P7")


# Other skies of the same kind


def test_perturbed_sky_depends_on_the_seed_alone():
    diffuse = interstellar(nside=16)
    first, again, other = (perturb(diffuse, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.shapes["INTERSTELLAR"], again.shapes["INTERSTELLAR"])
    assert not np.array_equal(first.shapes["INTERSTELLAR"], other.shapes["INTERSTELLAR"])
    assert first.intensity["ISOTROPIC"][0] != other.intensity["ISOTROPIC"][0]


def test_perturbing_leaves_the_global_random_state_alone():
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    perturb(interstellar(nside=8), np.random.default_rng(0))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_lumps_have_the_scatter_that_is_asked_for():
    diffuse = interstellar(nside=128)
    lumpy = perturb(diffuse, np.random.default_rng(3), small_scale=0.3)
    field = np.log(lumpy.shapes["INTERSTELLAR"] / diffuse.shapes["INTERSTELLAR"])
    assert field.std() == pytest.approx(0.3, rel=0.05)
    assert np.exp(field).mean() == pytest.approx(1, abs=0.02)


def test_smooth_components_stay_smooth():
    diffuse = interstellar(nside=16)
    lumpy = perturb(diffuse, np.random.default_rng(3))
    for name in ("ISOTROPIC", "BUBBLES"):
        np.testing.assert_array_equal(lumpy.shapes[name], diffuse.shapes[name])


def test_no_scatter_changes_nothing_but_rounding():
    diffuse = interstellar(nside=16)
    same = perturb(diffuse, np.random.default_rng(3), scatter=0.0, small_scale=0.0)
    for name in diffuse.shapes:
        np.testing.assert_allclose(same.shapes[name], diffuse.shapes[name])
        np.testing.assert_allclose(same.intensity[name], diffuse.intensity[name])
