"""Files of simulated skies: cubes, events, libraries of sources, folders of components."""

import errno
import gzip
import io
import os
import shutil
import warnings
from contextlib import suppress
from xml.etree import ElementTree

import healpy
import numpy as np
import pytest
from astropy.io import fits
from gammapy.data import EventList
from gammapy.maps import Map
from made_files import flip_bits
from made_sets import assert_same_set

from astro_unetloc import read_catalog, read_map
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import checksum, locked_folder
from astro_unetloc.irf.psf import KingPSF, psf_of, read_psf
from astro_unetloc.irf.spectra import KINDS
from astro_unetloc.maps.photons import Photons
from astro_unetloc.simulation.files import (
    COMPONENTS,
    counts_cube_bytes,
    events_bytes,
    format_source_library,
    healpix_cube_bytes,
    read_components,
    read_source_library,
    simulate_components,
    sky_of,
)
from astro_unetloc.simulation.population import CLASSES, SHAPES, draw_sources
from astro_unetloc.simulation.sky import counts_cube
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat
from astro_unetloc.training.make import make_patch_set
from astro_unetloc.training.patch_set import read_patch_set

EDGES = np.array([10.0, 30.0, 100.0])


def make_cube(center=(0.0, 0.0), n=500):
    """Directions around a position, and their counts cube, WCS and energies."""
    rng = np.random.default_rng(0)
    vectors = vectors_from_lonlat(*center) + rng.normal(0, 0.02, (n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    photons = Photons(vectors, rng.uniform(10, 100, n))
    cube = counts_cube(photons, EDGES, center=center, width_deg=10.0, pixel_deg=0.1)
    return vectors, (*cube, EDGES)


@pytest.mark.parametrize("center", [(0.0, 0.0), (123.0, 89.0), (359.9, -45.0)])
def test_cube_that_was_written_reads_with_every_photon_and_in_gammapy(tmp_path, center):
    vectors, cube = make_cube(center)
    (tmp_path / "map.fits").write_bytes(counts_cube_bytes(*cube))
    sky_map, read = read_map(tmp_path / "map.fits"), Map.read(tmp_path / "map.fits")
    assert sky_map.n_photons == cube[0].sum() == 500
    placed = np.concatenate([p.vectors for p in sky_map.photons(0)])
    assert np.linalg.norm(placed.mean(axis=0) - vectors.mean(axis=0)) < 0.001
    np.testing.assert_array_equal(read.data, cube[0])
    assert read.geom.frame == "galactic"
    for edges in (sky_map.energy_edges, read.geom.axes[0].edges.to_value("GeV")):
        np.testing.assert_allclose(edges, EDGES, rtol=1e-6)


def test_same_cube_is_the_same_file_with_its_keywords_even_when_compressed():
    cube = make_cube()[1]
    first, again = (counts_cube_bytes(*cube, keywords={"SEED": 7}, compress=True) for _ in "12")
    assert first == again
    with fits.open(io.BytesIO(gzip.decompress(first))) as hdus:
        assert hdus[0].header["SEED"] == 7
        assert hdus[0].header["DSVAL1"] == "10000:100000"
        np.testing.assert_allclose(hdus["EBOUNDS"].data["E_MIN"], EDGES[:-1] * 1e6)
        hdus.verify("exception")


@pytest.mark.parametrize("largest", [3, 40_000])
def test_healpix_cube_that_was_written_reads_with_every_photon(tmp_path, largest):
    counts = np.zeros((2, 12 * 32**2), np.int32)
    counts[1, 77], counts[0, 5] = largest, 2
    path = tmp_path / "cube.fits"
    path.write_bytes(healpix_cube_bytes(counts, EDGES, keywords={"SEED": 4}))
    with pytest.warns(match="coarser than"):
        sky_map = read_map(path)
    np.testing.assert_allclose(sky_map.energy_edges, EDGES, rtol=1e-6)
    np.testing.assert_array_equal(Map.read(path).data, counts)
    np.testing.assert_array_equal(healpy.read_map(path, field=None, dtype=np.int32), counts)
    photons = Photons.concatenate(list(sky_map.photons(0)))
    pixel = healpy.vec2pix(32, *photons.vectors.T)
    assert [np.sum((pixel == i) & (photons.energy > 30)) for i in (77, 5)] == [largest, 0]
    assert len(pixel) == largest + 2
    assert fits.getheader(path, 1)["SEED"] == 4


def test_events_may_name_their_source():
    photons = Photons(vectors_from_lonlat([0.0, 10.0], [0.0, 5.0]), np.array([15.0, 50.0]))
    with fits.open(io.BytesIO(events_bytes(photons, EDGES, keywords={"SEED": 4}))) as hdus:
        assert hdus["EVENTS"].header["SEED"] == 4
        assert "MC_SRC_ID" not in hdus["EVENTS"].columns.names
    with fits.open(io.BytesIO(events_bytes(photons, EDGES, source_id=[-1, 7]))) as hdus:
        assert hdus["EVENTS"].data["MC_SRC_ID"].tolist() == [-1, 7]


def test_events_with_times_are_read_by_gammapy(tmp_path):
    path = tmp_path / "events.fits"
    photons = Photons(np.eye(3)[:2], np.array([20.0, 30.0]), time=np.array([0.0, 86400.0]))
    path.write_bytes(events_bytes(photons, EDGES, good_times=[[0, 86400]]))
    events = EventList.read(path)
    assert (events.time[1] - events.time[0]).to_value("d") == pytest.approx(1)
    assert events.time[0].mjd == pytest.approx(51910.00074287, abs=1e-7)
    assert fits.getdata(path, "GTI")["STOP"].tolist() == [86400]


# Libraries of sources

POINT = """<spatialModel type="SkyDirFunction"><parameter name="RA" value="83.63" scale="1"/>
<parameter name="DEC" value="22.01" scale="1"/></spatialModel>"""
POWER_LAW = """<spectrum type="PowerLaw"><parameter name="Prefactor" value="2" scale="1e-12"/>
<parameter name="Index" value="-2.2" scale="1"/><parameter name="Scale" value="1000"/></spectrum>"""


def library(tmp_path, *parts, attributes='name="A" type="PointSource"'):
    """File of a library of one source."""
    path = tmp_path / "model.xml"
    path.write_text(
        f"<source_library title='t'><source {attributes}>{''.join(parts)}</source></source_library>"
    )
    return path


def test_a_whole_population_reads_back_and_its_values_lie_within_their_bounds(tmp_path):
    sources = draw_sources(np.random.default_rng(0), agn=0.05, extended=2)
    assert {KINDS[k] for k in sources.spectra.kind} == set(KINDS)
    assert {SHAPES[s] for s in sources.shape} == set(SHAPES)
    content = format_source_library(sources, [f"UNL <J{i}> & 'co'" for i in range(len(sources))])
    (tmp_path / "s.xml").write_bytes(content)
    found = read_source_library(tmp_path / "s.xml")
    assert separation_deg(found.vectors, sources.vectors).max() < 1e-9
    for name in ("source_class", "shape"):
        np.testing.assert_array_equal(getattr(found, name), getattr(sources, name))
    np.testing.assert_allclose(found.size_deg, sources.size_deg, rtol=1e-12)
    for name, values in vars(sources.spectra).items():
        np.testing.assert_allclose(vars(found.spectra)[name], values, rtol=1e-11, err_msg=name)
    for p in ElementTree.fromstring(content).iter("parameter"):
        assert float(p.get("min")) <= float(p.get("value")) <= float(p.get("max")), p.attrib


def test_spectra_are_those_of_the_fermi_tools_in_mev(tmp_path):
    """The formulas of gtlike, evaluated from the numbers in the file."""
    sources = draw_sources(np.random.default_rng(1), agn=0.02, extended=0)
    root = ElementTree.fromstring(format_source_library(sources, range(len(sources))))
    energy = np.array([300.0, 1e3, 1e4, 1e5])  # MeV
    density = sources.spectra.density(energy / 1e3) / 1e3
    for row, source in enumerate(root):
        spectrum = source.find("spectrum")
        p = {e.get("name"): float(e.get("value")) * float(e.get("scale")) for e in spectrum}
        if spectrum.get("type") == "PowerLaw":
            found = p["Prefactor"] * (energy / p["Scale"]) ** p["Index"]
        elif spectrum.get("type") == "LogParabola":
            x = energy / p["Eb"]
            found = p["norm"] * x ** -(p["alpha"] + p["beta"] * np.log(x))
        else:
            found = p["Prefactor"] * (energy / p["Scale"]) ** p["Index1"]
            found *= np.exp(-p["Expfactor"] * energy ** p["Index2"])
        np.testing.assert_allclose(found, density[row], rtol=1e-9)


def test_hand_made_source_is_read_in_gev_and_galactic_coordinates(tmp_path):
    sources = read_source_library(library(tmp_path, POWER_LAW, POINT))
    np.testing.assert_allclose(sources.spectra.density(10.0), [[2e-9 * 10**-2.2]])
    glon = np.degrees(np.arctan2(sources.vectors[0, 1], sources.vectors[0, 0])) % 360
    assert glon == pytest.approx(184.56, abs=0.02)  # the Crab
    assert CLASSES[sources.source_class[0]] == "AGN"


def test_class_follows_from_the_spectrum_and_shape_unless_it_is_given(tmp_path):
    disc = POINT.replace("SkyDirFunction", "RadialDisk").replace(
        "</spatial", '<parameter name="Radius" value="0.5"/></spatial'
    )
    path = library(tmp_path, POWER_LAW, disc)
    sources = read_source_library(path)
    assert CLASSES[sources.source_class[0]] == "OTHER"
    assert sources.size_deg[0] == 0.5
    assert read_source_library(path, source_class="PSR").source_class[0] == CLASSES.index("PSR")
    with pytest.raises(ValueError, match="source_class must be one of AGN, PSR, OTHER; got 'QSO'"):
        read_source_library(path, source_class="QSO")
    path = library(tmp_path, POWER_LAW, POINT, attributes='name="A" class="QSO"')
    with pytest.raises(ValueError, match="class must be one of AGN, PSR, OTHER; got 'QSO'"):
        read_source_library(path)


def test_empty_library_has_no_sources(tmp_path):
    (tmp_path / "m.xml").write_text("<source_library title='t'></source_library>")
    assert read_source_library(tmp_path / "m.xml").vectors.shape == (0, 3)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ((POWER_LAW.replace("PowerLaw", "BandFunction"), POINT),
         "LogParabola, PLSuperExpCutoff2, PLSuperExpCutoff4; got 'BandFunction'"),
        ((POWER_LAW, POINT.replace("SkyDirFunction", "SpatialMap")),
         "must be one of SkyDirFunction, RadialDisk, RadialGaussian; got 'SpatialMap'"),
        ((POWER_LAW.replace("Scale", "Other"), POINT), "got Scale of value None"),
        ((POWER_LAW, POINT.replace("DEC", "B")), "finite values of RA, DEC; got DEC of value None"),
        ((POWER_LAW.replace('value="2"', 'value="-2"'), POINT), "positive Prefactor, Scale; got"),
        ((POWER_LAW.replace('value="2"', 'value="two"'), POINT), "got Prefactor of value 'two'"),
        ((POWER_LAW.replace('value="2"', 'value="nan"'), POINT), "got Prefactor of value 'nan'"),
        ((POWER_LAW, POINT.replace("22.01", "95")), "declination within 90 deg"),
        ((POINT,), "expected a <spectrum>; got none"),
        ((POWER_LAW,), "expected a <spatialModel>; got none"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_with_the_name_of_the_source(tmp_path, parts, match):
    with pytest.raises(ValueError, match=match) as caught:
        read_source_library(library(tmp_path, *parts))
    assert "source 'A'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("factor", "flux"), [(-9.0, "inf"), (1e6, "nan")])
def test_spectrum_without_a_flux_is_refused(tmp_path, factor, flux):
    values = {"Prefactor": 1e-12, "Index1": -1, "Scale": 1e3, "Expfactor": factor, "Index2": 0.7}
    lines = (f'<parameter name="{n}" value="{v}"/>' for n, v in values.items())
    spectrum = f'<spectrum type="PLSuperExpCutoff2">{"".join(lines)}</spectrum>'
    with pytest.raises(ValueError, match=f"source 'A': expected a finite, positive .*got {flux};"):
        read_source_library(library(tmp_path, spectrum, POINT))


def test_libraries_with_changed_bits_are_read_or_refused_in_one_line(tmp_path, rng):
    for _ in range(100):
        path = library(tmp_path, POWER_LAW, POINT)
        flip_bits(path, rng, n=2)
        with suppress(InputError):
            read_source_library(path)


@pytest.mark.parametrize("content", ["not xml", "<source_library>", "<model/>"])
def test_what_is_no_library_is_refused(tmp_path, content):
    with pytest.raises(FileNotFoundError, match="must be a file; got"):
        read_source_library(tmp_path / "m.xml")
    (tmp_path / "m.xml").write_text(content)
    with pytest.raises(ValueError, match="expected an XML <source_library>; got .*[me]"):
        read_source_library(tmp_path / "m.xml")


# Folders of components

FILES = "agn.fits background.fits events.fits other.fits psr.fits sources.xml truth.fits".split()
IMAGE = {"center": (10.0, 0.0), "width_deg": 12.0, "pixel_deg": 0.2, "years": 2.0}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Folder of an image around the Galactic centre, with its number of photons and sources."""
    folder = tmp_path_factory.mktemp("image") / "sky"
    return folder, *simulate_components(folder, **IMAGE, rng=1)


@pytest.fixture(scope="module")
def whole_sky(tmp_path_factory):
    """Folder of HEALPix cubes of the whole sky, with its number of photons and sources."""
    folder = tmp_path_factory.mktemp("whole") / "sky"
    return folder, *simulate_components(folder, nside=32, years=0.5, rng=1)


@pytest.fixture
def copy(image, tmp_path):
    """A copy of the folder to damage."""
    return shutil.copytree(image[0], tmp_path / "copy")


def read(folder):
    """The components of a folder, without the warning of coarse pixels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*coarser than")
        return read_components(folder)


@pytest.mark.parametrize("kind", ["image", "whole_sky"])
def test_folder_holds_every_photon_and_source_once(kind, request):
    folder, n_photons, n_sources = request.getfixturevalue(kind)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    components = read(folder)
    assert set(components.maps) == set(COMPONENTS)
    assert sum(m.n_photons for m in components.maps.values()) == n_photons
    assert all(m.n_photons > 0 for m in components.maps.values())
    assert read_map(folder / "events.fits").n_photons == n_photons
    truth = read_catalog(folder / "truth.fits")
    assert len(truth) == len(components.sources) == n_sources


def test_photons_of_a_component_are_those_of_its_sources_and_lie_near_them(image):
    folder = image[0]
    truth = read_catalog(folder / "truth.fits")
    events = fits.getdata(folder / "events.fits")
    source = events["MC_SRC_ID"]
    components = read(folder)
    assert components.maps["background"].n_photons == np.sum(source == -1)
    classes = np.append(np.array(truth["Class"]), ["none", "none"])[source]
    n_outside = np.sum(source == -2)
    assert n_outside < 0.05 * np.sum(source != -1)
    for name in COMPONENTS[1:]:
        number = np.sum((classes == name.upper()) & (source >= 0))
        assert number <= components.maps[name].n_photons <= number + n_outside
    events, row = events[source >= 0], source[source >= 0]
    placed = vectors_from_lonlat(events["L"].astype(float), events["B"].astype(float))
    offset = separation_deg(placed, positions_of(truth)[row])
    assert np.median(offset[truth["Radius"].value[row] == 0]) < 0.15


def positions_of(truth):
    return vectors_from_lonlat(truth["GLON"].value, truth["GLAT"].value)


def test_truth_library_and_catalogue_agree(image):
    truth, sources = read_catalog(image[0] / "truth.fits"), read(image[0]).sources
    assert separation_deg(positions_of(truth), sources.vectors).max() < 1e-6
    np.testing.assert_allclose(sources.flux, truth["Flux"].value, rtol=1e-5)
    np.testing.assert_allclose(sources.radius_deg, truth["Radius"].value, rtol=1e-5)


def test_cubes_are_read_as_any_other_map(image, whole_sky):
    sky_map = read_map(image[0] / "background.fits")
    assert sky_map.energy_edges[[0, -1]] == pytest.approx([10, 2000])
    assert (len(sky_map.energy_edges), sky_map.pixels.n_pixels) == (17, 3600)
    assert read(whole_sky[0]).maps["agn"].pixels.n_pixels == 12 * 32**2
    header = fits.getheader(whole_sky[0] / "agn.fits", 1)
    assert header["SEED"] == 1
    assert header["CREATOR"].startswith("astro_unetloc ")


def test_same_seed_writes_the_same_cubes(image, tmp_path):
    simulate_components(tmp_path / "again", **IMAGE, rng=1)
    for name in ("background.fits", "agn.fits", "events.fits", "sources.xml"):
        assert (tmp_path / "again" / name).read_bytes() == (image[0] / name).read_bytes(), name


# Folders made elsewhere


def test_classes_may_come_in_files_of_their_own(copy):
    (copy / "sources.xml").rename(copy / "agn.xml")
    shutil.copy(copy / "agn.xml", copy / "psr.xml")
    text = (copy / "psr.xml").read_text()
    (copy / "psr.xml").write_text(text.replace('class="AGN"', ""))
    for name in ("other.fits", "events.fits", "truth.fits"):
        (copy / name).unlink()
    components = read(copy)
    assert set(components.maps) == {"background", "agn", "psr"}
    n = len(components.sources) // 2
    first, second = (np.sum(components.sources.source_class[s] == 0) for s in np.s_[:n, n:])
    assert first > 0
    assert second == 0  # sources of psr.xml without a class are pulsars


def test_folder_of_an_earlier_version_is_read_alike(copy, image):
    """Other sources of the Galaxy were called GAL, and their files gal.fits and gal.xml."""
    (copy / "other.fits").rename(copy / "gal.fits")
    text = (copy / "sources.xml").read_text()
    assert 'class="OTHER"' in text
    (copy / "sources.xml").write_text(text.replace('class="OTHER"', 'class="GAL"'))
    old, new = read(copy), read(image[0])
    assert old.maps["other"].n_photons == new.maps["other"].n_photons
    np.testing.assert_array_equal(old.sources.source_class, new.sources.source_class)
    (copy / "sources.xml").write_text(text.replace('class="OTHER"', ""))
    (copy / "sources.xml").rename(copy / "gal.xml")
    kept = new.sources.source_class == CLASSES.index("OTHER")
    assert (read(copy).sources.source_class[kept] == CLASSES.index("OTHER")).all()


def test_incomplete_folder_and_cubes_of_other_energies_are_refused(copy):
    with fits.open(copy / "agn.fits", mode="update") as hdus:
        hdus["EBOUNDS"].data["E_MAX"] *= 2
        hdus["EBOUNDS"].data["E_MIN"] *= 2
    with pytest.raises(ValueError, match=r"same energies; got 16 bins of 10-2000 GeV .* agn.fits"):
        read_components(copy)
    for gone in ("background.fits", "sources.xml"):
        (copy / gone).rename(copy / "away")
        with pytest.raises(FileNotFoundError, match=r"expected background.fits, one or more of ag"):
            read_components(copy)
        (copy / "away").rename(copy / gone)
    with pytest.raises(FileNotFoundError, match="components must be a folder"):
        read_components(copy / "none")


# As training material


def test_photons_find_the_sources_they_came_from(image):
    """The counts of bright sources, from the cubes alone, against the list of events."""
    sky = sky_of(read(image[0]))
    source = fits.getdata(image[0] / "events.fits")["MC_SRC_ID"]
    assert len(sky.photons) == len(source)
    assert np.sum(sky.origin == -1) == np.sum(source == -1)
    n = len(sky.sources)
    true = np.bincount(source[source >= 0], minlength=n)
    found = np.bincount(sky.origin[sky.origin >= 0], minlength=n)
    bright = (true >= 8) & (sky.sources.shape == 0)
    assert bright.sum() > 4
    assert np.median(np.abs(found - true)[bright] / np.sqrt(true[bright])) < 1.5
    assert np.corrcoef(found[bright], true[bright])[0, 1] > 0.95


def test_background_is_that_of_its_cube(image, whole_sky):
    components = read(whole_sky[0])
    sky, counted = sky_of(components), components.maps["background"].n_photons
    found = sky.background.sum() * healpy.nside2pixarea(sky.nside, True)
    assert found == pytest.approx(counted, rel=0.01)
    components = read(image[0])
    pixel = healpy.ang2pix(64, 10.0, 0.0, lonlat=True)
    near = sky_of(components).background[pixel].sum()
    vectors = np.concatenate([p.vectors for p in components.maps["background"].photons(0)])
    inside = separation_deg(vectors, vectors_from_lonlat(10.0, 0.0)) < 1
    assert near == pytest.approx(inside.sum() / np.pi, rel=0.25)


def test_photons_have_the_psf_that_the_folder_states_or_that_is_given(image, tmp_path, real_data):
    assert read(image[0]).psf == KingPSF()
    table, folder = real_data / "3fhl/fermi_3fhl_psf_gc.fits.gz", tmp_path / "sky"
    simulate_components(folder, **IMAGE | {"width_deg": 2.0}, psf=table)
    for header in (fits.getheader(folder / "agn.fits"), read_catalog(folder / "truth.fits").meta):
        assert (header["PSFFILE"], header["PSFSHA"]) == (table.name, checksum(table))
    components = read(folder)
    expected = psf_of(read_psf(table)).containment_radius(0.68, 20.0)
    assert sky_of(components).psf.containment_radius(0.68, 20.0) == expected
    assert sky_of(components, psf=KingPSF(2.0)).psf == KingPSF(2.0)


# Whole or not at all


def test_full_disk_changes_nothing(copy, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(FileExistsError, match=r"output must not exist; got '.*events.fits'"):
        simulate_components(copy, **IMAGE)
    monkeypatch.setattr(os, "fsync", full)
    for folder in (tmp_path / "sky", copy):
        with pytest.raises(OSError, match="No space left"):
            simulate_components(folder, **IMAGE, rng=2, overwrite=True)
    assert list(tmp_path.iterdir()) == [copy]
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "match"),
    [
        *(({"nside": n}, f"nside must be a power of 2 up to 1024; got {n}") for n in (3, 0, 4096)),
        ({"width_deg": 0.0}, "pixel <= width"),
        ({"years": -1.0}, "years must be a positive"),
    ],
)
def test_senseless_skies_are_refused_before_anything_is_written(tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        simulate_components(tmp_path / "sky", **options)
    assert list(tmp_path.iterdir()) == []
    with locked_folder(tmp_path / "sky"), pytest.raises(InputError, match="in use by another run"):
        simulate_components(tmp_path / "sky")


# Patch sets


def test_patch_set_of_folders_holds_what_they_hold(image, whole_sky, tmp_path):
    for name in ("set.h5", "again.h5"):
        with pytest.warns(UserWarning, match="coarser than"):
            make_patch_set(
                tmp_path / name, folders=[image[0], whole_sky[0]], patches_per_sky=6, first_seed=3
            )
    assert_same_set(tmp_path / "set.h5", tmp_path / "again.h5")
    found = read_patch_set(tmp_path / "set.h5")
    assert found["sky"].tolist() == [3] * 6 + [4] * 6
    assert list(found["folders"]) == ["sky", "sky"]
    assert len(set(found["folders_sha256"])) == 2
    assert "template" not in found
    seen = found["coverage"][..., 0] > 0
    assert found["counts"].sum(axis=-1)[~seen].sum() == 0
    assert found["counts"].sum(axis=(1, 2, 3)).min() > 0
    # an image of 12 deg does not fill patches around its border; the whole sky does
    assert seen[:6].mean() < 0.95
    center = vectors_from_lonlat(*found["center"][:6, :2].T)
    assert separation_deg(center, vectors_from_lonlat(*IMAGE["center"])).max() < 6 * np.sqrt(2)
    known = read(image[0]).sources.vectors
    mine = found["sources"][found["sources"]["patch"] < 6]
    away = [separation_deg(known, v).min() for v in vectors_from_lonlat(mine["glon"], mine["glat"])]
    assert np.max(away) < 1e-4
    assert mine["labelled"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_skies": 2}, "one folder for each sky, .*, 2 skies and template None"),
        ({"template": "t.fits"}, "instead of a template; got .* and template t.fits"),
        ({"folders": "sky"}, "folders must be a list, .*; got 'sky'"),
        ({"band_edges": (5, 20, 100)}, "expected cubes of 5-100 GeV, the bands of the set"),
    ],
)
def test_patch_set_that_folders_do_not_fit_is_refused(image, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_patch_set(tmp_path / "set.h5", **{"folders": [image[0]]} | change)
    with pytest.raises(FileNotFoundError, match="components must be a folder"):
        make_patch_set(tmp_path / "set.h5", folders=[tmp_path / "no"])
    assert os.listdir(tmp_path) == []
