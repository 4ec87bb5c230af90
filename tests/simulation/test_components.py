import errno
import os
import shutil

import numpy as np
import pytest
from astropy.io import fits
from made_sets import assert_same_set

from astro_unetloc import read_catalog, read_map
from astro_unetloc.irf.psf import KingPSF, read_psf
from astro_unetloc.simulation.files import COMPONENTS, read_components, simulate_components, sky_of
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat
from astro_unetloc.training.make import make_patch_set
from astro_unetloc.training.patch_set import read_patch_set

FILES = ["agn.fits", "background.fits", "events.fits", "gal.fits", "psr.fits", "sources.xml"]
FILES += ["truth.fits"]
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
    import warnings

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


def test_photons_of_a_component_are_those_of_its_sources(image):
    folder = image[0]
    truth = read_catalog(folder / "truth.fits")
    source = fits.getdata(folder / "events.fits")["MC_SRC_ID"]
    components = read(folder)
    assert components.maps["background"].n_photons == np.sum(source == -1)
    classes = np.append(np.array(truth["Class"]), ["none", "none"])[source]
    n_outside = np.sum(source == -2)
    assert n_outside < 0.05 * np.sum(source != -1)
    for name in COMPONENTS[1:]:
        number = np.sum((classes == name.upper()) & (source >= 0))
        assert number <= components.maps[name].n_photons <= number + n_outside


def test_photons_lie_near_the_source_they_name(image):
    events = fits.getdata(image[0] / "events.fits")
    truth = read_catalog(image[0] / "truth.fits")
    named = events["MC_SRC_ID"] >= 0
    row = events["MC_SRC_ID"][named]
    offset = separation_deg(
        vectors_from_lonlat(events["L"][named].astype(float), events["B"][named].astype(float)),
        vectors_from_lonlat(truth["GLON"].value[row], truth["GLAT"].value[row]),
    )
    point = truth["Radius"].value[row] == 0
    assert np.median(offset[point]) < 0.15


def test_truth_library_and_catalogue_agree(image):
    truth, sources = read_catalog(image[0] / "truth.fits"), read(image[0]).sources
    positions = vectors_from_lonlat(truth["GLON"].value, truth["GLAT"].value)
    assert separation_deg(positions, sources.vectors).max() < 1e-6
    np.testing.assert_allclose(sources.flux, truth["Flux"].value, rtol=1e-5)
    np.testing.assert_allclose(sources.radius_deg, truth["Radius"].value, rtol=1e-5)


def test_cubes_are_read_as_any_other_map(image, whole_sky):
    sky_map = read_map(image[0] / "background.fits")
    assert sky_map.counts.shape == (16, 3600)
    assert sky_map.energy_edges[[0, -1]] == pytest.approx([10, 2000])
    with pytest.warns(match="coarser than"):
        sky_map = read_map(whole_sky[0] / "agn.fits")
    assert sky_map.counts.shape == (16, 12 * 32**2)
    header = fits.getheader(whole_sky[0] / "agn.fits", 1)
    assert header["SEED"] == 1
    assert header["CREATOR"].startswith("astro_unetloc ")


def test_pixels_of_a_whole_sky_are_where_the_photons_are(whole_sky):
    components = read(whole_sky[0])
    events = fits.getdata(whole_sky[0] / "events.fits")
    truth = read_catalog(whole_sky[0] / "truth.fits")
    classes = np.append(np.array(truth["Class"]), "none")[events["MC_SRC_ID"]]
    lat = [np.degrees(np.arcsin(p.vectors[:, 2])) for p in components.maps["psr"].photons(0)]
    expected = np.abs(events["B"][classes == "PSR"])
    assert np.mean(np.abs(np.concatenate(lat))) == pytest.approx(expected.mean(), abs=0.3)


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
    for name in ("gal.fits", "events.fits", "truth.fits"):
        (copy / name).unlink()
    components = read(copy)
    assert set(components.maps) == {"background", "agn", "psr"}
    n = len(components.sources) // 2
    first, second = (np.sum(components.sources.source_class[s] == 0) for s in np.s_[:n, n:])
    assert first > 0
    assert second == 0  # sources of psr.xml without a class are pulsars


@pytest.mark.parametrize("gone", ["background.fits", "sources.xml"])
def test_incomplete_folder_is_refused(copy, gone):
    (copy / gone).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"expected background.fits, one or more of agn.fit"
    ):
        read_components(copy)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="components must be a folder"):
        read_components(tmp_path / "none")


def test_cubes_of_other_energies_are_refused(copy):
    with fits.open(copy / "agn.fits", mode="update") as hdus:
        hdus["EBOUNDS"].data["E_MAX"] *= 2
        hdus["EBOUNDS"].data["E_MIN"] *= 2
    with pytest.raises(ValueError, match=r"same energies; got 16 bins of 10-2000 GeV .* agn.fits"):
        read_components(copy)


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
    import healpy

    sky = sky_of(read(whole_sky[0]))
    counted = read(whole_sky[0]).maps["background"].n_photons
    assert sky.background.sum() * healpy.nside2pixarea(sky.nside, True) == pytest.approx(
        counted, rel=0.01
    )
    components = read(image[0])
    pixel = healpy.ang2pix(64, 10.0, 0.0, lonlat=True)
    near = sky_of(components).background[pixel].sum()
    vectors = np.concatenate([p.vectors for p in components.maps["background"].photons(0)])
    inside = separation_deg(vectors, vectors_from_lonlat(10.0, 0.0)) < 1
    assert near == pytest.approx(inside.sum() / np.pi, rel=0.25)


def test_patches_can_be_observed(image):
    from made_skies import BAND_EDGES

    from astro_unetloc.maps.patches import TangentPlane
    from astro_unetloc.training.observation import Observation, PatchObserver

    sky = sky_of(read(image[0]))
    observation = Observation(1.0, BAND_EDGES[[0, -1]], True, 0.0, None)
    plane = TangentPlane(10.0, 0.0, 128, 10 / 128)
    patch = PatchObserver(sky, BAND_EDGES).observe(plane, observation, np.random.default_rng(0))
    assert patch.counts.sum() > 1000
    assert patch.labelled.any()


def test_photons_have_the_psf_that_the_folder_states_or_that_is_given(copy, real_data):
    assert read(copy).psf == KingPSF()
    table = real_data / "3fhl/fermi_3fhl_psf_gc.fits.gz"
    shutil.copy(table, copy / "psf.fits.gz")
    components = read(copy)
    expected = read_psf(table).containment_radius(0.68, 20.0)
    assert sky_of(components).psf.containment_radius(0.68, 20.0) == expected
    assert sky_of(components, psf=KingPSF(2.0)).psf == KingPSF(2.0)


def test_psf_file_of_a_simulated_folder_is_kept_in_it(tmp_path, real_data):
    table = real_data / "3fhl/fermi_3fhl_psf_gc.fits.gz"
    folder = tmp_path / "sky"
    simulate_components(folder, **IMAGE | {"width_deg": 2.0}, psf=table)
    expected = read_psf(table).containment_radius(0.68, 20.0)
    assert read(folder).psf.containment_radius(0.68, 20.0) == expected


# Whole or not at all


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        simulate_components(tmp_path / "sky", **IMAGE)
    assert list(tmp_path.iterdir()) == []


def test_failure_in_an_old_folder_keeps_its_files(copy, monkeypatch):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        simulate_components(copy, **IMAGE, rng=2, overwrite=True)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_old_files_are_replaced_only_if_that_is_allowed(copy):
    with pytest.raises(FileExistsError, match="output must not exist"):
        simulate_components(copy, **IMAGE)
    (copy / "truth.fits").unlink()
    with pytest.raises(FileExistsError, match=r"output must not exist; got '.*events.fits'"):
        simulate_components(copy, **IMAGE)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"nside": 3}, "nside must be a power of 2 up to 1024; got 3"),
        ({"nside": 0}, "nside must be a power of 2"),
        ({"nside": 4096}, "nside must be a power of 2"),
        ({"width_deg": 0.0}, "pixel <= width"),
        ({"years": -1.0}, "years must be a positive"),
    ],
)
def test_senseless_skies_are_refused_before_anything_is_written(tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        simulate_components(tmp_path / "sky", **options)
    assert list(tmp_path.iterdir()) == []


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
        ({"n_skies": 2}, "as many skies as folders"),
        ({"template": "t.fits"}, "no template"),
        ({"band_edges": (5, 20, 100)}, "expected cubes of 5-100 GeV, the bands of the set"),
    ],
)
def test_patch_set_that_folders_do_not_fit_is_refused(image, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_patch_set(tmp_path / "set.h5", **{"folders": [image[0]]} | change)
    with pytest.raises(FileNotFoundError, match="components must be a folder"):
        make_patch_set(tmp_path / "set.h5", folders=[tmp_path / "no"])
    assert os.listdir(tmp_path) == []
