"""Diffuse emission: built-in shapes, templates and cubes, other energies, photons."""

import os
from contextlib import suppress
from dataclasses import fields, replace

import healpy
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import flip_bits, write_healpix_cube, write_image_cube

from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.photons import Photons
from astro_unetloc.simulation.diffuse import (
    ENERGY_EDGES,
    LOW_ENERGY_EDGES,
    TEMPLATE_SETS,
    Diffuse,
    Galaxy,
    _rebin_intensity,
    add_clouds,
    draw_galaxy,
    draw_true_photons,
    energy_bins,
    expected_density,
    galaxy_shapes,
    interstellar,
    perturb,
    tilt,
)
from astro_unetloc.simulation.sky import _blur

BUILT_IN = {"GAS", "IC", "BUBBLES", "LOOP", "ISOTROPIC"}
TEMPLATES = "diffuse/diffuse_shapes_nside128.fits.gz"


def write_templates(path, nside=4, *, names=("P6V11", "BUBBLES"), **keywords):
    """A tiny table of templates: constant but for a bright first half."""
    n_pixels = 12 * nside**2 if nside else 10
    shape = np.where(np.arange(n_pixels) < n_pixels / 2, 3.0, 1.0)
    columns = [fits.Column(name, "E", array=shape) for name in names]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header.update({"ORDERING": "RING", "COORDSYS": "G"} | keywords)
    hdu.writeto(path)
    return path


@pytest.mark.parametrize("variant", [None, *TEMPLATE_SETS])
def test_shapes_have_mean_one_and_intensities_fall_with_energy(real_data, variant):
    template = None if variant is None else real_data / TEMPLATES
    diffuse = interstellar(template, variant=variant or "P6V11", nside=64)
    expected = TEMPLATE_SETS.get(variant, BUILT_IN)
    found = {name: (shape, per_bin) for name, shape, per_bin in diffuse.maps()}
    assert set(found) == set(diffuse.intensity) == set(expected)
    for name, (shape, per_bin) in found.items():
        assert shape.shape == (12 * 64**2,)
        assert shape.min() >= 0
        assert shape.mean() == pytest.approx(1), name
        # the bins of the table are the table
        np.testing.assert_allclose(per_bin, diffuse.intensity[name], rtol=1e-10)
        assert len(per_bin) == len(ENERGY_EDGES) - 1
        assert np.all(np.diff(per_bin) < 0)
        assert np.all(per_bin > 0)


def test_builtin_shapes_resemble_the_templates(real_data):
    template = interstellar(real_data / TEMPLATES, nside=32)
    diffuse = interstellar(nside=32)
    found = sum(diffuse.shapes[n] * diffuse.intensity[n][0] for n in ("GAS", "IC", "LOOP"))
    assert np.corrcoef(found, template.shapes["P6V11"])[0, 1] > 0.84
    assert np.corrcoef(diffuse.shapes["BUBBLES"], template.shapes["BUBBLES"])[0, 1] > 0.84


def test_nested_templates_are_read_as_nested(tmp_path):
    path = write_templates(tmp_path / "nest.fits", ORDERING="NESTED")
    shape = interstellar(path, nside=4).shapes["BUBBLES"]
    bright = healpy.ring2nest(4, np.arange(192)) < 96
    np.testing.assert_allclose(shape, np.where(bright, 1.5, 0.5), atol=1e-6)


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"names": ("GAS",)}, "expected the template columns P6V11, BUBBLES; got GAS; choose"),
        ({"COORDSYS": "C"}, "Galactic coordinates; .*, ORDERING RING and COORDSYS C; convert"),
        ({"ORDERING": ""}, "ORDERING unknown"),
        ({"nside": 0}, "whole-sky templates .*; got 10 pixels"),
    ],
)
def test_unsuitable_templates_are_refused(tmp_path, keywords, match):
    with pytest.raises(ValueError, match=match):
        interstellar(write_templates(tmp_path / "t.fits", **keywords))


def test_file_that_is_no_template_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file: .*nothing.fits"):
        interstellar(tmp_path / "nothing.fits")
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match="got no table"):
        interstellar(tmp_path / "image.fits")
    with pytest.raises(ValueError, match=r"variant must be one of PIBREM\+ICS.*; got 'P7'"):
        interstellar(variant="P7")


# Built-in shapes


def sky(nside):
    """Longitude within 180 deg and latitude of the pixels."""
    lon, lat = healpy.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)
    return (lon + 180) % 360 - 180, lat


def test_gas_lies_in_the_plane_and_the_loop_north_of_it():
    shapes = galaxy_shapes(Galaxy(), 64)
    lon, lat = sky(64)
    assert shapes["GAS"][np.abs(lat) < 3].mean() > 5 * shapes["GAS"][np.abs(lat) > 30].mean()
    assert shapes["IC"][np.abs(lat) < 10].mean() > shapes["IC"][np.abs(lat) > 60].mean()
    assert np.all(np.abs(lon[shapes["BUBBLES"] > 0]) < 25)
    assert shapes["LOOP"][(lat > 30) & (np.abs(lon) < 60)].mean() > 1
    assert shapes["LOOP"][(np.abs(lon) > 120) & (lat < 0)].max() == 0
    for edge in (0.0, 180.0):  # no seam at the centre or behind
        near = (np.abs(lat) < 2) & (np.abs(np.abs(lon) - edge) < 2)
        left, right = (shapes["GAS"][near & side].mean() for side in (lon > 0, lon < 0))
        assert left == pytest.approx(right, rel=0.05)


def test_drawn_galaxies_differ_and_stay_valid():
    rng = np.random.default_rng(0)
    drawn = [draw_galaxy(Galaxy(), rng, scatter=0.2) for _ in range(5)]
    assert len({g.disc_height for g in drawn}) == 5
    for galaxy in drawn:
        assert len(galaxy.disc_profile) == len(Galaxy().disc_profile)
        for shape in galaxy_shapes(galaxy, 8).values():
            assert np.all(np.isfinite(shape))
            assert shape.min() >= 0
    assert draw_galaxy(Galaxy(), rng, scatter=0.0) == Galaxy()
    assert {type(getattr(drawn[0], f.name)) for f in fields(Galaxy)} == {tuple, float}


def test_clouds_move_emission_but_keep_it():
    gas = galaxy_shapes(Galaxy(), 64)["GAS"]
    cloudy = [add_clouds(gas, 64, np.random.default_rng(s), fraction=0.2) for s in (1, 1, 2)]
    np.testing.assert_array_equal(cloudy[0], cloudy[1])
    assert not np.array_equal(cloudy[0], cloudy[2])
    assert cloudy[0].mean() == pytest.approx(gas.mean())
    assert cloudy[0].min() >= 0
    np.testing.assert_allclose(add_clouds(gas, 64, np.random.default_rng(1), fraction=0.0), gas)


def test_equal_weights_do_not_tilt():
    shape = np.random.default_rng(0).random(768)
    np.testing.assert_allclose(tilt(shape, (2, 2, 2, 0)), 2 * shape)
    lon, lat = sky(8)
    plane = tilt(np.ones(768), (1, 1, 1, 2))
    assert plane.min() >= 1 - 1e-12
    assert np.abs(lat[plane.argmax()]) < 3
    inner = tilt(np.ones(768), (1, 0, 0, 0))
    assert inner[np.abs(lon) < 10].mean() > 0.95
    assert inner[np.abs(lon) > 170].mean() < 0.05


# Other skies of the same kind


def test_perturbed_sky_depends_on_the_seed_alone():
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    diffuse = interstellar(nside=16)
    first, again, other = (perturb(diffuse, np.random.default_rng(s)) for s in (1, 1, 2))
    for name in BUILT_IN - {"ISOTROPIC"}:
        np.testing.assert_array_equal(first.shapes[name], again.shapes[name])
        assert not np.array_equal(first.shapes[name], other.shapes[name])
        assert first.shapes[name].mean() == pytest.approx(1, abs=0.2)
    assert first.intensity["ISOTROPIC"][0] != other.intensity["ISOTROPIC"][0]
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_lumps_have_their_scatter_and_leave_smooth_components_alone():
    diffuse = replace(interstellar(nside=128), galaxy=None)  # as that of a file
    lumpy = perturb(diffuse, np.random.default_rng(3), small_scale=0.3)
    field = np.log(lumpy.shapes["GAS"] / diffuse.shapes["GAS"])
    assert field.std() == pytest.approx(0.3, rel=0.05)
    assert np.exp(field).mean() == pytest.approx(1, abs=0.02)
    for name in ("ISOTROPIC", "BUBBLES", "IC", "LOOP"):
        np.testing.assert_array_equal(lumpy.shapes[name], diffuse.shapes[name])
    # no scatter changes nothing but rounding
    diffuse = interstellar(nside=16)
    same = perturb(diffuse, np.random.default_rng(3), scatter=0.0, small_scale=0.0)
    for name in diffuse.shapes:
        np.testing.assert_allclose(same.shapes[name], diffuse.shapes[name])
        np.testing.assert_allclose(same.intensity[name], diffuse.intensity[name])


# Any energies


def test_maps_reach_down_to_low_energies_without_a_step():
    diffuse = interstellar(nside=4)
    for name, _, per_bin in diffuse.maps(np.geomspace(0.3, 2000, 60)):
        assert np.all(np.diff(np.log(per_bin)) < 0.8), name
    whole = {n: p.sum() for n, _, p in diffuse.maps([0.3, 10.0, 2000.0])}
    for name, total in whole.items():
        expected = diffuse.intensity[name].sum() + diffuse.low[name].sum()
        assert total == pytest.approx(expected)


def in_bins(values, edges):
    """Intensities of a component of ``ENERGY_EDGES`` in other bins."""
    [(_, _, per_bin)] = Diffuse(1, {"A": np.ones(12)}, {"A": np.array(values)}).maps(edges)
    return per_bin


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=5, max_size=5), st.integers(1, 30))
def test_rebinning_conserves_photons(values, n_new):
    found = in_bins(values, np.geomspace(10, 2000, n_new + 1))
    assert found.sum() == pytest.approx(sum(values))
    assert np.all(found >= 0)


def power_law(index, edges):
    return -np.diff(edges ** (1 - index)) / (index - 1)


def test_rebinning_follows_a_power_law_and_keeps_empty_bins_empty():
    edges, new = np.geomspace(1, 1000, 7), np.geomspace(1, 1000, 20)
    found = _rebin_intensity(power_law(2.5, edges), edges, new)
    np.testing.assert_allclose(found, power_law(2.5, new), rtol=1e-6)
    np.testing.assert_array_equal(in_bins(np.zeros(5), [10, 30, 2000]), [0, 0])


def of_cube(energy, values, edges):
    """Intensity per bin of a cube of one pixel."""
    cube = np.array(energy), np.array(values)[:, None]
    return sum(per_bin for _, _, per_bin in Diffuse(1, {}, {}, cube=cube).maps(edges))


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.floats(0.2, 4.0).filter(lambda index: abs(index - 1) > 0.01))
def test_power_law_of_a_cube_is_integrated_exactly(index):
    energy, edges = np.array([1.0, 3.0, 20.0, 100.0]), np.array([0.5, 1.0, 2.0, 50.0, 300.0])
    found = of_cube(energy, energy**-index, edges)
    np.testing.assert_allclose(found, power_law(index, edges), rtol=1e-9)


def test_index_of_one_is_a_logarithm_and_zero_emits_nothing():
    np.testing.assert_allclose(of_cube([1.0, 10.0], [1.0, 0.1], [1.0, 10.0]), np.log(10))
    low, high = of_cube([1.0, 2.0, 4.0], [1.0, 0.0, 0.0], [1.0, 2.0, 4.0])
    assert low > high == 0


@pytest.mark.parametrize("edges", [[0.1, 5.0], [5.0, 60.0]])
def test_bins_beyond_the_model_are_refused(edges):
    with pytest.raises(ValueError, match="cannot be continued"):
        of_cube([1.0, 10.0], np.ones(2), edges)
    with pytest.raises(ValueError, match="the spectrum is known from"):
        list(interstellar(nside=4).maps(np.array(edges) * [1, 100]))


def test_bins_of_a_range_hold_its_ends_and_the_known_edges_between():
    np.testing.assert_array_equal(energy_bins(10.0, 2000.0), ENERGY_EDGES)
    np.testing.assert_allclose(energy_bins(0.5, 3.0), [0.5, 1.0, 2.0, 3.0])
    for energies in [(0.1, 10.0), (10.0, 3000.0), (20.0, 20.0), (30.0, 20.0)]:
        with pytest.raises(ValueError, match="energies must increase and lie within 0.3-2000 GeV"):
            energy_bins(*energies)


# Cubes and spectra from files


def intensity_cube():
    """Planes at 10, 100 and 1000 GeV of an E^-2.5 spectrum in ph cm-2 s-1 sr-1 MeV-1."""
    shape = np.linspace(0.5, 1.5, 192)
    return 1e-11 * np.array([1e4, 1e5, 1e6])[:, None] ** -2.5 * 1e10 * shape


@pytest.mark.parametrize("vector", [False, True])
def test_cube_over_energy_gives_its_power_law(tmp_path, vector):
    path = write_healpix_cube(tmp_path / "c.fits", intensity_cube(), vector=vector)
    diffuse = interstellar(path, nside=4)
    edges = np.array([5.0, 20.0, 300.0, 2000.0])
    per_bin = sum(p for n, _, p in diffuse.maps(edges) if n.startswith("INTERSTELLAR"))
    # 1e-1 E^-2.5 per MeV and unit shape: its integral between energies in MeV
    expected = 0.1 / 1.5 * -np.diff((edges * 1e3) ** -1.5)
    np.testing.assert_allclose(per_bin, expected, rtol=1e-5)
    shapes = [s for n, s, _ in diffuse.maps(edges) if n.startswith("INTERSTELLAR")]
    assert len(shapes) == 3
    np.testing.assert_allclose(shapes[0], np.linspace(0.5, 1.5, 192), atol=0.1)


def test_perturbing_a_cube_keeps_its_spectrum(tmp_path):
    diffuse = interstellar(write_healpix_cube(tmp_path / "c.fits", intensity_cube()), nside=4)
    changed = perturb(diffuse, np.random.default_rng(1), small_scale=0.3)
    ratio = changed.cube[1] / diffuse.cube[1]
    np.testing.assert_allclose(ratio[0], ratio[2], rtol=1e-5)
    assert ratio[0].std() > 0.01
    first, other = (
        next(p[0] for n, _, p in d.maps() if n == "INTERSTELLAR 1") for d in (diffuse, changed)
    )
    assert other / first == pytest.approx(
        np.average(ratio[0], weights=diffuse.cube[1][0]), rel=1e-3
    )


def test_fine_pixels_of_a_cube_are_all_averaged(tmp_path):
    y, x = np.mgrid[:180, :360]
    planes = np.repeat(((x + y) % 2)[None].astype(float), 3, axis=0)  # a chess board
    path = write_image_cube(tmp_path / "c.fits", planes, pixel_deg=1.0)
    with pytest.warns(UserWarning, match="the whole diffuse emission of .* times that of the sky"):
        values = interstellar(path, nside=16).cube[1]
    assert values.mean() == pytest.approx(500, rel=0.01)  # per GeV
    assert values.std() < 100


def test_cut_out_of_the_official_model_emits_there_alone(real_data):
    with pytest.warns(match="covers 0.24 % of the sky; nothing else of the sky emits"):
        diffuse = interstellar(real_data / "diffuse/gll_iem_v07_gc.fits.gz", nside=128)
    lon, lat = healpy.pix2ang(128, np.arange(12 * 128**2), lonlat=True)
    seen = diffuse.cube[1][5] > 0
    assert np.all(np.abs(lat[seen]) < 6)
    assert np.all(np.abs((lon[seen] + 180) % 360 - 180) < 6)
    # the built-in emission of the inner Galaxy is of the same kind
    inner = seen & (np.abs(lat) < 4) & (np.abs((lon + 180) % 360 - 180) < 4)
    low = [0.5, 1, 2, 10, 50]
    found = sum(s[inner].mean() * p for n, s, p in diffuse.maps(low) if n[:5] == "INTER")
    built_in = sum(
        s[inner].mean() * p for n, s, p in interstellar(nside=128).maps(low) if n != "ISOTROPIC"
    )
    np.testing.assert_allclose(built_in, found, rtol=0.3)


@pytest.mark.parametrize(
    ("value", "unit", "match"),
    [
        (-1.0, None, "interstellar emission must be finite and nowhere negative"),
        (np.nan, None, "interstellar emission must be finite and nowhere negative"),
        (1.0, "cm2 s", "interstellar emission must be in cm-2 s-1 sr-1 MeV-1"),
    ],
)
def test_emission_that_cannot_be_is_refused(tmp_path, value, unit, match):
    planes = np.ones((3, 8, 8))
    planes[0, 1, 1] = value
    with pytest.raises(ValueError, match=match):
        interstellar(write_image_cube(tmp_path / "c.fits", planes, unit=unit), nside=64)


def test_isotropic_spectrum_replaces_the_built_in_one(real_data):
    path = real_data / "diffuse/iso_P8R2_SOURCE_V6_v06.txt"
    diffuse, own = interstellar(nside=4, isotropic=path), interstellar(nside=4)
    np.testing.assert_allclose(diffuse.intensity["ISOTROPIC"][0], 2.943e-8, rtol=1e-3)
    ratio = 2.943e-8 / own.intensity["ISOTROPIC"][0]
    np.testing.assert_allclose(diffuse.low["ISOTROPIC"] / own.low["ISOTROPIC"], ratio, rtol=0.01)
    assert len(diffuse.low["ISOTROPIC"]) == len(LOW_ENERGY_EDGES) - 1
    np.testing.assert_array_equal(diffuse.intensity["GAS"], own.intensity["GAS"])


ISOTROPIC = "# MeV\n200 1e-9 1e-11\n\n2000000 1e-17 1e-18 # last\n"


def test_isotropic_text_is_read_in_mev_with_comments_and_blank_lines(tmp_path):
    path = tmp_path / "iso.txt"
    path.write_text(ISOTROPIC)
    intensity = interstellar(nside=4, isotropic=path).intensity["ISOTROPIC"]
    # 4e-5 E^-2 per MeV
    np.testing.assert_allclose(intensity, 4e-5 * power_law(2.0, ENERGY_EDGES * 1e3))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1000 1e-9\n2000 1e-10\n", "three columns"),
        ("1000 1e-9 x\n2000 1e-10 1\n", "three columns"),
        ("1000 1e-9 1\n", "three columns"),
        ("1000 1e-9 1\n2000 1e-9\n", "three columns"),
        ("", "three columns"),
        ("2000 1e-9 1\n1000 1e-10 1\n", "expected increasing, positive energies"),
        ("1000 -1e-9 1\n2000 1e-10 1\n", "and positive intensities"),
        ("1000 nan 1\n2000 1e-10 1\n", "expected two rows or more of finite numbers"),
        ("-1000 1e-9 1\n2000 1e-10 1\n", "expected increasing, positive energies"),
    ],
)
def test_damaged_isotropic_text_is_refused(tmp_path, text, match):
    path = tmp_path / "iso.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        interstellar(nside=4, isotropic=path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["template", "cube", "isotropic"])
def test_files_with_changed_bits_are_read_or_refused_in_one_line(tmp_path, rng, kind):
    path = tmp_path / "file"
    write = {"template": write_templates, "isotropic": lambda p: p.write_text(ISOTROPIC)}
    write["cube"] = lambda p: write_healpix_cube(p, intensity_cube())
    for _ in range(40):
        path.unlink(missing_ok=True)
        write[kind](path)
        flip_bits(path, rng)
        with suppress(InputError):
            interstellar(**{"isotropic" if kind == "isotropic" else "template": path}, nside=4)


def test_missing_or_binary_isotropic_text_is_named(tmp_path, real_data):
    with pytest.raises(FileNotFoundError, match="no such file"):
        interstellar(nside=4, isotropic=tmp_path / "none.txt")
    with pytest.raises(ValueError, match="three columns"):
        interstellar(nside=4, isotropic=real_data / "diffuse/gll_iem_v07_gc.fits.gz")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match="got .*, a pipe or device; write it to a file"):
            interstellar(nside=4, isotropic=path)


# Photons

NSIDE = 32
N_PIXELS = 12 * NSIDE**2
EDGES = energy_bins(0.5, 100.0)


def emission(shape=None, nside=NSIDE):
    """Isotropic emission of one shape, bright enough for thousands of photons."""
    shape = np.ones(12 * nside**2) if shape is None else shape / shape.mean()
    low, high = np.full(6, 1e-8), np.full(5, 1e-9)
    return Diffuse(nside, {"A": shape}, {"A": high}, {"A": low})


def drawn_pixels(diffuse, seed, **options):
    rng = np.random.default_rng(seed)
    parts = draw_true_photons(diffuse, SurveyExposure(5.0), EDGES, rng, **options)
    return np.concatenate([healpy.vec2pix(NSIDE, *part.vectors.T) for part in parts])


def test_drawn_photons_are_as_many_as_expected_in_every_bin():
    exposure, rng = SurveyExposure(5.0), np.random.default_rng(0)
    parts = list(draw_true_photons(emission(), exposure, EDGES, rng))
    energy = np.concatenate([part.energy for part in parts])
    found = np.histogram(energy, EDGES)[0]
    density = expected_density(emission(), exposure, KingPSF(), EDGES)
    expected = density.mean(axis=0) * 4 * np.pi * np.degrees(1) ** 2
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected) + 1e-3 * expected)


def test_photons_come_from_wanted_pixels_alone_and_follow_the_shape():
    pixels = drawn_pixels(emission(), 1, wanted=np.arange(N_PIXELS) < 100)
    assert len(pixels) > 1000
    assert pixels.max() < 100
    pixels = drawn_pixels(emission(np.linspace(0.0, 2.0, N_PIXELS)), 2)
    assert np.mean(pixels >= N_PIXELS // 2) == pytest.approx(0.75, abs=0.02)  # exposure tilts it


def test_expected_photons_are_blurred_but_none_are_lost():
    """A bright spot of 1 deg: at 0.7 GeV it spreads, at 70 GeV it stays."""
    nside = 128
    shape = np.zeros(12 * nside**2)
    shape[healpy.query_disc(nside, [0.6, 0.0, 0.8], np.radians(1.0))] = 1.0
    density, sharp = (
        expected_density(emission(shape, nside), SurveyExposure(5.0), psf, EDGES)
        for psf in (KingPSF(), KingPSF(1e-3))
    )
    np.testing.assert_allclose(density.sum(axis=0), sharp.sum(axis=0), rtol=0.02)
    bright = shape > 0
    kept = density[bright].sum(axis=0) / sharp[bright].sum(axis=0)
    assert kept[-1] == 1.0
    psf, vectors = KingPSF(), np.stack(healpy.pix2vec(nside, np.flatnonzero(bright)), axis=-1)
    true = np.repeat(vectors, 3000, axis=0)
    energy = np.full(len(true), np.sqrt(EDGES[0] * EDGES[1]))
    moved = _blur(Photons(true, energy), psf, np.random.default_rng(3)).vectors
    assert kept[0] == pytest.approx(bright[healpy.vec2pix(nside, *moved.T)].mean(), abs=0.01)
