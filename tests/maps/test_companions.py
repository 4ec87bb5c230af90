"""Exposure, background and PSF are recognized for what they are, and compared with the map."""

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.io import fits
from gammapy.datasets import MapDataset
from gammapy.irf import PSFMap
from gammapy.maps import Map, MapAxis, WcsGeom
from gammapy.modeling.models import (
    ConstantSpatialModel,
    Models,
    PointSpatialModel,
    PowerLawNormSpectralModel,
    PowerLawSpectralModel,
    SkyModel,
    TemplateSpatialModel,
)
from made_files import cube_hdus, energies_hdu, write_healpix_cube, write_image_cube
from made_maps import refuse
from made_sources import sources_at

from astro_unetloc import read_map
from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF, psf_of
from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.sphere import vectors_from_lonlat

EDGES = np.array([10.0, 20.0, 50.0, 150.0])
NODES = np.array([10.0, 50.0, 200.0])
SHAPE = (3, 40, 40)  # 4 x 4 deg
INTENSITY = "cm-2 s-1 sr-1 MeV-1"


@pytest.fixture
def counts(rng):
    """A counts cube around the Galactic centre, of 3 counts in each pixel of the first bin."""
    return cube_hdus(rng.poisson([[[3.0]], [[1.0]], [[0.3]]], SHAPE))


def write_cube(path, kind, value, *, unit=None, energy_unit="MeV", lon=0.0, energy=NODES):
    """A cube over three energies of gtexpcube2 or gll_iem with the same value everywhere."""
    planes = np.reshape(np.broadcast_to(value, 3), (3, 1, 1)) * np.ones((3, 60, 60))
    if kind == "image":
        energies = energies_hdu(energy, unit=energy_unit)
        return write_image_cube(path, planes, unit=unit, energies=energies, lon=lon)
    sphere = planes[:, 0, :1] * np.ones((3, 3072))
    write_healpix_cube(path, sphere, vector=kind == "vector", unit=unit)
    with fits.open(path) as hdus:
        hdus["ENERGIES"] = energies_hdu(energy, unit=energy_unit)
        hdus.writeto(path, overwrite=True)
    return path


def expected(path, tmp_path, counts, **options):
    """The background of the map as counts per square degree, (3,), from a file or object."""
    background = read_map(counts, background=path, **options).background
    density = background.data / background.geom.solid_angle().to_value("deg2")
    return np.nanmean(density.reshape(3, -1), axis=1)


# Exposures


@pytest.mark.parametrize("kind", ["image", "columns", "vector"])
@pytest.mark.parametrize("unit", [None, "cm2 s", "m2 s", "km2 s"])
@pytest.mark.parametrize("energy_unit", ["keV", "MeV", "GeV", "TeV"])
def test_units_of_exposures_are_read(tmp_path, kind, unit, energy_unit):
    value = 3e11 * u.Unit("cm2 s").to(unit or "cm2 s")
    options = {"unit": unit, "energy_unit": energy_unit}
    path = write_cube(tmp_path / "e.fits", kind, [value, 2 * value, value], **options)
    exposure = read_map(cube_hdus(np.ones(SHAPE)), exposure=path).exposure
    found = exposure.at(np.array([[1.0, 0, 0]]), [10.0, 50.0, 200.0])
    np.testing.assert_allclose(found, [[3e11, 6e11, 3e11]], rtol=1e-6)
    np.testing.assert_allclose(exposure.energy, NODES)


@pytest.mark.parametrize("kind", ["image", "columns", "vector"])
@pytest.mark.parametrize(
    ("value", "options", "match"),
    [
        (0.8, {"unit": "m2"}, "exposure must be in cm2 s; got the unit 'm2'"),
        (3e11, {"unit": "s"}, "got the unit 's'"),
        (1e-9, {"unit": "ph cm-2 s-1"}, "got the unit 'ph cm-2 s-1'"),
        (3e7, {}, "exposure must be 1e.08 to 1e.18 cm2 s .*; got 3e.07"),
        (3.0, {}, "got 3, as of another unit"),
        (0.0, {}, "got only zeros"),
        (3e11, {"energy": NODES / 1e3}, "covers 0.01-0.2 GeV and the map 10-150 GeV"),
    ],
)  # fmt: skip
def test_what_is_no_exposure_of_the_map_is_refused(tmp_path, counts, kind, value, options, match):
    path = write_cube(tmp_path / "e.fits", kind, value, **options)
    refuse(counts, match, exposure=path)


def test_counts_and_backgrounds_are_no_exposures(tmp_path, counts):
    counts.writeto(tmp_path / "c.fits")
    refuse(counts, "exposure must be 1e.08 to 1e.18 cm2 s", exposure=tmp_path / "c.fits")


def test_an_exposure_of_a_part_of_the_map_is_warned_about(tmp_path, counts):
    aside = write_cube(tmp_path / "a.fits", "image", 3e11, lon=4.0)
    with pytest.warns(UnetlocWarning, match=r"exposure covers 2[0-9.]+ % of the map"):
        read_map(counts, exposure=aside)
    short = write_cube(tmp_path / "s.fits", "image", 3e11, energy=NODES * 2)
    with pytest.warns(UnetlocWarning, match="exposure covers 20-400 GeV and the map 10-150 GeV"):
        read_map(counts, exposure=short)


# Backgrounds


@pytest.mark.parametrize("kind", ["image", "columns"])
@pytest.mark.parametrize(
    ("value", "options", "match"),
    [
        (3e11, {"unit": "cm2 s"}, "background must be in cm-2 .*; got the unit 'cm2 s'"),
        (3e11, {}, "got values up to 3e.11"),
        (1e-8, {}, "becomes counts by an exposure; got none"),
        (1e-8, {"unit": INTENSITY}, "becomes counts by an exposure; got none"),
        (1e-8, {"unit": "counts"}, "got .* in ct with 1 energy axes"),
        (-1e-8, {}, "finite and nowhere negative"),
        (0.0, {}, "got values up to 0"),
    ],
)  # fmt: skip
def test_what_is_no_background_is_refused(tmp_path, counts, kind, value, options, match):
    path = write_cube(tmp_path / "b.fits", kind, value, **options)
    refuse(counts, match, background=path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda hdus, data: data * 1e5, "e.0[0-9] expected counts beside"),
        (lambda hdus, data: data * 1e-5, "expected counts beside"),
        (lambda hdus, data: np.rint(data), "got .* with integers only"),
        (lambda hdus, data: -data, "finite and nowhere negative"),
        (lambda hdus, data: hdus[0].header.update(CRVAL1=90.0), "another part of the sky"),
        (lambda hdus, data: hdus[0].header.update(BUNIT="deg"), "got the unit 'deg'"),
        (lambda hdus, data: hdus["EBOUNDS"].columns.del_col("E_MIN"), "energies were expected"),
    ],
)  # fmt: skip
def test_expected_counts_are_compared_with_those_of_the_map(tmp_path, counts, change, match):
    hdus = cube_hdus(np.full(SHAPE, [[[2.9]], [[1.1]], [[0.3]]]))
    changed = change(hdus, hdus[0].data)
    if isinstance(changed, np.ndarray):
        hdus[0].data = changed
    hdus.writeto(tmp_path / "b.fits")
    refuse(counts, match, background=tmp_path / "b.fits")


def test_a_background_of_a_part_of_the_map_is_warned_about(counts):
    model = read_map(cube_hdus(np.ones(SHAPE))).counts
    model.data = np.full(SHAPE, 1.4)
    aside = model.cutout(model.geom.center_skydir, 2 * u.deg)
    with pytest.warns(UnetlocWarning, match="background covers 2[0-9.]+ % of the map: elsewhere"):
        read_map(counts, background=aside)
    low = model.slice_by_idx({"energy": slice(0, 2)})
    with pytest.warns(UnetlocWarning, match="background covers 10-50 GeV and the map 10-150 GeV"):
        sky_map = read_map(counts, background=low)
    assert sky_map.background.data.shape == (2, 40, 40)
    image = model.sum_over_axes(keepdims=False)
    with pytest.warns(UnetlocWarning, match="background has no energies; taken for 10-150 GeV"):
        assert read_map(counts, background=image).background.data.shape == (1, 40, 40)


# Emission


def power_law_counts(level=3e11):
    """Photons (3,) per square degree of 1e-8 (E / 1 GeV)^-2 cm-2 s-1 sr-1 MeV-1."""
    return 1e-8 * 1e3 * -np.diff(1 / EDGES) * level * np.radians(1) ** 2


def emission_of(kind, tmp_path):
    """The same isotropic intensity as a file or object of each kind."""
    values = 1e-8 * NODES**-2.0
    if kind in ("image", "columns", "vector"):
        return write_cube(tmp_path / "i.fits", kind, values)
    if kind == "GeV":
        return write_cube(tmp_path / "i.fits", "image", values * 1e3, unit="ph cm-2 s-1 sr-1 GeV-1")
    if kind == "text":
        np.savetxt(tmp_path / "iso.txt", np.stack([NODES * 1e3, values, values / 10], axis=1))
        return tmp_path / "iso.txt"
    amplitude = 1e-8 * u.Unit("cm-2 s-1 sr-1 MeV-1")
    if kind == "template":
        cube = Map.read(write_cube(tmp_path / "t.fits", "image", values, unit=INTENSITY))
        template = TemplateSpatialModel(cube, normalize=False)
        return SkyModel(PowerLawNormSpectralModel(), template, name="galaxy")
    law = PowerLawSpectralModel(index=2, amplitude=amplitude * u.sr, reference="1 GeV")
    model = SkyModel(law, ConstantSpatialModel(), name="isotropic")
    if kind == "models":
        return Models([model])
    Models([model]).write(tmp_path / "m.yaml")
    return tmp_path / "m.yaml"


@pytest.mark.parametrize(
    "kind", ["image", "columns", "vector", "GeV", "text", "template", "models", "yaml"]
)
def test_emission_of_every_kind_becomes_counts(tmp_path, counts, kind):
    exposure = write_cube(tmp_path / "e.fits", "image", 3e11)
    emission = emission_of(kind, tmp_path)
    found = expected(emission, tmp_path, counts, exposure=exposure)
    np.testing.assert_allclose(found, power_law_counts(), rtol=5e-3)
    twice = expected([emission, emission], tmp_path, counts, exposure=exposure)
    np.testing.assert_allclose(twice, 2 * found, rtol=1e-6)


def test_sources_among_models_are_left_out_of_the_background(tmp_path, counts):
    exposure = write_cube(tmp_path / "e.fits", "image", 3e11)
    diffuse = emission_of("models", tmp_path)
    source = SkyModel(PowerLawSpectralModel(), PointSpatialModel(frame="galactic"), name="source")
    with pytest.warns(UnetlocWarning, match="source are no diffuse emission and left out"):
        found = expected(Models([*diffuse, source]), tmp_path, counts, exposure=exposure)
    np.testing.assert_allclose(found, power_law_counts(), rtol=5e-3)
    with pytest.raises(TypeError, match="diffuse emission, a SkyModel with .* got SkyModel"):
        read_map(counts, background=source, exposure=exposure)


def test_emission_is_blurred_by_the_psf_and_keeps_its_photons(tmp_path):
    """A line of emission along the plane, 0.2 deg wide, in a map of 0.05 deg."""
    planes = np.full((3, 200, 200), 1e-30)
    planes[:, 98:102] = 2e-9
    options = {"energies": energies_hdu(NODES), "pixel_deg": 0.05}
    line = write_image_cube(tmp_path / "i.fits", planes, **options)
    counts = cube_hdus(np.ones((3, 120, 120), int), pixel_deg=0.05)
    exposure = write_cube(tmp_path / "e.fits", "image", 3e11)
    sharp, wide = (
        read_map(counts, background=line, exposure=exposure, psf=KingPSF(s)).background.data
        for s in (0.1, 3.0)
    )
    assert np.isfinite(wide).all()
    latitude = (np.arange(120) - 59.5) * 0.05
    middle = np.abs(latitude) < 0.1
    profile = [cube[0, :, 60] / cube[0, :, 60].sum() for cube in (sharp, wide)]
    assert profile[0][middle].sum() > 0.75
    within = KingPSF(3.0).containment_radius(0.68, 13.0)
    assert profile[1][middle].sum() < 0.4
    assert profile[1][np.abs(latitude) < within].sum() == pytest.approx(0.75, abs=0.1)
    # what leaves the map on one side comes from the other
    np.testing.assert_allclose(wide[2].sum(), sharp[2].sum(), rtol=0.05)


def test_emission_of_event_lists_and_wide_pixels_is_the_same(tmp_path, rng):
    iso = emission_of("text", tmp_path)
    vectors = np.stack(healpy.pix2vec(256, np.arange(12 * 256**2)), axis=-1)
    sky = DiscFootprint(np.array([1.0, 0, 0]), 20.0)
    vectors = vectors[sky.covers(vectors)]
    events = Photons(vectors, np.full(len(vectors), 12.0))
    exposure = SurveyExposure()
    of_events = read_map(
        SkyMap(events=events, footprint=sky, energy_edges=EDGES[[0, -1]]),
        background=iso, exposure=exposure,
    ).background  # fmt: skip
    density = exposure.at(np.array([[1.0, 0, 0]]), [12.0])[0, 0]
    area_deg2 = len(vectors) * np.degrees(np.degrees(4 * np.pi / (12 * 256**2)))
    found = of_events.data.sum() / area_deg2
    assert found == pytest.approx(power_law_counts(density).sum(), rel=0.1)


def test_the_official_model_of_the_galactic_centre_is_that_of_gtmodel(real_data):
    """The intensity model and the isotropic text beside the background cube of this field."""
    field = real_data / "gc"
    companions = {
        name: field / f"fermi-3fhl-gc-{name}-cube.fits.gz" for name in ("exposure", "psf")
    }
    counts = field / "fermi-3fhl-gc-counts-cube.fits.gz"
    official = [real_data / "diffuse/gll_iem_v06_gc.fits.gz"]
    official.append(real_data / "diffuse/iso_P8R2_SOURCE_V6_v06.txt")
    with pytest.warns(UnetlocWarning, match="background covers 60.[0-9] % of the map"):
        found = read_map(counts, background=official, **companions).background
    cube = read_map(counts, background=field / "fermi-3fhl-gc-background-cube.fits.gz").background
    known = np.isfinite(found.data[0])
    ratio = found.data[:, known].sum(axis=1) / cube.data[:, known].sum(axis=1)
    np.testing.assert_allclose(ratio, 1, atol=0.05)
    in_pixels = np.percentile(found.data[0, known] / cube.data[0, known], [5, 95])
    np.testing.assert_allclose(in_pixels, 1, atol=0.05)


@pytest.mark.parametrize(("factor", "warned"), [(1.0, False), (0.25, True)])
def test_the_factor_of_the_background_is_fitted(rng, factor, warned, recwarn):
    model = read_map(cube_hdus(np.ones((3, 80, 80)))).counts
    model.data = np.full((3, 80, 80), 0.8)
    sky_map = read_map(cube_hdus(rng.poisson(model.data)), background=model * factor)
    sources = sources_at(vectors_from_lonlat([0.5, -0.5], [0.5, -0.5]))
    found = measure_sources(sources, sky_map, band_edges=EDGES[[0, -1]], flux_range=(10, 100))
    assert found.meta["background_norm"] == pytest.approx(1 / factor, rel=0.1)
    assert any("times the background" in str(w.message) for w in recwarn) == warned


# Point-spread functions


def psf_file(path, *, energy_unit="MeV", angle_unit="deg", scale=1.0, change=None):
    """A table of gtpsf of the built-in PSF."""
    energy, theta = np.geomspace(5, 200, 8), np.concatenate([[0.0], np.geomspace(1e-3, 20, 200)])
    inside = np.array([KingPSF().containment(theta / scale, e) for e in energy])
    density = np.diff(inside, axis=1) / np.diff(1 - np.cos(np.radians(theta)))
    density = np.concatenate([density[:, :1], density], axis=1)
    factor, turn = u.GeV.to(energy_unit or "MeV"), u.deg.to(angle_unit)
    columns = [
        fits.Column("Energy", "D", unit=energy_unit, array=energy * factor),
        fits.Column("Exposure", "D", array=np.ones(8)),
        fits.Column("Psf", f"{len(theta)}D", array=density),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="PSF")
    angle = fits.Column("Theta", "D", unit=angle_unit, array=theta * turn)
    hdus = [fits.PrimaryHDU(), table, fits.BinTableHDU.from_columns([angle], name="THETA")]
    hdus = fits.HDUList(hdus)
    if change:
        change(hdus)
    hdus.writeto(path)
    return path


@pytest.mark.parametrize("energy_unit", ["keV", "MeV", "GeV", None])
@pytest.mark.parametrize("angle_unit", ["deg", "rad", "arcmin"])
def test_units_of_psf_tables_are_read(tmp_path, counts, energy_unit, angle_unit):
    path = psf_file(tmp_path / "p.fits", energy_unit=energy_unit, angle_unit=angle_unit)
    psf = psf_of(read_map(counts, psf=path).psf)
    np.testing.assert_allclose(psf.energy[[0, -1]], [5, 200])
    expected = KingPSF().containment_radius(0.68, 30.0)
    assert psf.containment_radius(0.68, 30.0) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scale": 1e-2}, "must hold 68 % of the photons in .* deg; got 0.00"),
        ({"change": lambda h: h["PSF"].columns.del_col("Psf")}, "psf cannot be read"),
        ({"change": lambda h: h["THETA"].columns.change_name("Theta", "X")}, "psf cannot be read"),
        ({"change": lambda h: h["PSF"].data["Psf"].fill(np.nan)}, "it is zero everywhere"),
        ({"change": lambda h: h["PSF"].data["Energy"].fill(7.0)}, "PSF table must|cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_psf_is_refused(tmp_path, counts, options, match):
    refuse(counts, match, psf=psf_file(tmp_path / "p.fits", **options))


@pytest.mark.parametrize(("column", "unit"), [("ENERGY", "deg"), ("ENERGY", None), ("RAD", "s")])
def test_psf_map_in_units_of_something_else_is_refused(tmp_path, counts, column, unit):
    rad = MapAxis.from_edges(np.linspace(0, 3, 61), unit="deg", name="rad")
    true = MapAxis.from_energy_edges([5, 50, 300], unit="GeV", name="energy_true")
    geom = WcsGeom.create(npix=(2, 1), proj="CAR", binsz=180, axes=[rad, true])
    path = tmp_path / "psf.fits"
    hdus = PSFMap(Map.from_geom(geom, unit="sr-1")).to_hdulist()
    for name in [n for n in hdus["PSF_BANDS"].columns.names if n.startswith(column)]:
        hdus["PSF_BANDS"].columns[name].unit = unit
    hdus.writeto(path)
    refuse(counts, "psf cannot be read", psf=path)


def test_parts_of_a_dataset_of_another_field_or_without_content_are_known(counts):
    """gammapy makes datasets with a background of zeros, and PSF maps of a part of the sky."""
    sky_map = read_map(counts)
    empty = Map.from_geom(sky_map.counts.geom)
    rad = MapAxis.from_edges(np.linspace(0, 3, 61), unit="deg", name="rad")
    true = MapAxis.from_energy_edges([5, 50, 300], unit="GeV", name="energy_true")
    aside = WcsGeom.create(skydir=(40, 0), width=2, binsz=1, frame="galactic", axes=[rad, true])
    density = Map.from_geom(aside, unit="sr-1")
    density.data += np.exp(-((rad.center.value / 0.1) ** 2))[:, None, None]
    psf = PSFMap(density)
    dataset = MapDataset(counts=sky_map.counts, background=empty, psf=psf)
    with pytest.warns(UnetlocWarning, match="the PSF is of another part of the sky"):
        assert read_map(dataset).background is None


def test_a_psf_of_a_part_of_the_energies_is_warned_about(tmp_path):
    counts = cube_hdus(np.ones((2, 20, 20)), np.array([10.0, 300.0, 2000.0]))
    with pytest.warns(UnetlocWarning, match="PSF covers 5-200 GeV and the map 10-2000 GeV"):
        read_map(counts, psf=psf_file(tmp_path / "p.fits"))
