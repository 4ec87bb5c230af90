import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_sets import assert_same_set
from made_skies import made_patches, make_sky

from astro_unetloc.exceptions import InputError
from astro_unetloc.executors import local_workers, process_pool
from astro_unetloc.files import locked_folder
from astro_unetloc.maps.patches import TangentPlane
from astro_unetloc.sphere import vectors_from_lonlat
from astro_unetloc.training import make as training_make
from astro_unetloc.training.make import make_patch_set, patches_of_sky
from astro_unetloc.training.observation import TrainingConfig, source_mask
from astro_unetloc.training.patch_set import open_patch_set, read_patch_set

# Subprocesses import what this process does.
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


SMALL = {"n_skies": 2, "patches_per_sky": 4, "first_seed": 900}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "set.h5"
    make_patch_set(path, **SMALL)
    return path


# What a set holds


def test_patch_set_is_whole_and_consistent(small_set):
    found = read_patch_set(small_set)
    assert found["counts"].shape == (8, 128, 128, 5)
    assert found["counts"].sum() > 0
    assert found["sky"].tolist() == [900] * 4 + [901] * 4
    assert found["validation"].tolist() == [True] * 4 + [False] * 4
    assert found["code"][5] == b"sky000901-0001"
    assert found["counts"][found["coverage"][..., 0] == 0].sum() == 0
    absent = ~found["bands"][:, :, 0].astype(bool)
    assert found["counts"].sum(axis=(1, 2))[absent].sum() == 0
    assert os.listdir(small_set.parent) == ["set.h5"]


def test_sources_lie_on_the_sky_and_in_the_mask_where_they_lie_in_the_image(small_set):
    found = read_patch_set(small_set)
    assert np.all((found["sources"]["patch"] >= 0) & (found["sources"]["patch"] < 8))
    for patch, (lon, lat, rotation) in enumerate(found["center"]):
        rows = found["sources"][found["sources"]["patch"] == patch]
        plane = TangentPlane(lon, lat, 128, 10 / 128, rotation)
        x, y = plane.pixel_from_vectors(vectors_from_lonlat(rows["glon"], rows["glat"]))
        np.testing.assert_allclose([x, y], [rows["x"], rows["y"]], atol=1e-4)
        assert np.all(rows["flux"] > 0)
        rows = rows[rows["labelled"]]
        assert np.all(rows["significance"] >= TrainingConfig().min_significance)
        expected = source_mask(rows["x"], rows["y"], 2.0, 128)
        np.testing.assert_array_equal(found["mask"][patch, ..., 0], expected)


def test_metadata_are_the_options_of_a_set(small_set):
    metadata = read_patch_set(small_set)
    expected = vars(TrainingConfig()) | {"seed": 900, "patches_per_sky": 4, "classes": ["source"]}
    expected |= {"template": "", "template_sha256": ""}
    assert {name: metadata[name] for name in expected} == expected
    assert metadata["version"]


def test_template_is_known_by_its_content(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(training_make, "interstellar", lambda template, variant: None)
    for name, content in {"a.fits": b"1", "b.fits": b"2"}.items():
        (tmp_path / name).write_bytes(content)
    options = {"n_skies": 1, "patches_per_sky": 2, "append": True}
    make_patch_set(tmp_path / "set.h5", template=tmp_path / "a.fits", **options)
    with open_patch_set(tmp_path / "set.h5") as found:
        assert found.metadata["template"] == "a.fits"
        assert found.metadata["template_sha256"].startswith("6b86b273")
    with pytest.raises(ValueError, match="got template 'a.fits', not 'b.fits', template_sha256"):
        make_patch_set(tmp_path / "set.h5", template=tmp_path / "b.fits", **options)


def test_real_templates_are_accepted(quick, real_data, tmp_path):
    template = real_data / "diffuse" / "diffuse_shapes_nside128.fits.gz"
    make_patch_set(tmp_path / "set.h5", n_skies=1, patches_per_sky=1, template=template)
    assert read_patch_set(tmp_path / "set.h5")["template"] == template.name


def test_label_rule_is_an_option(monkeypatch):
    sky = make_sky([0.0, 2.0], [0.0, 0.0], photons_each=20)
    monkeypatch.setattr(training_make, "_simulated_sky", lambda *_: sky)
    monkeypatch.setattr(training_make, "_random_plane", centred_plane)
    n_mask = {}
    rules = {"default": {}, "wide": {"mask_radius_pix": 4.0}, "strict": {"min_photons": 1000.0}}
    for name, rule in rules.items():
        columns, sources = patches_of_sky(1, n_patches=20, label_rule=TrainingConfig(**rule))
        n_mask[name] = columns["mask"].sum()
        assert sources["labelled"].any() == (name != "strict")
    assert n_mask["strict"] == 0 < n_mask["default"] < n_mask["wide"] / 3


def centred_plane(rng, config, directions):
    return TangentPlane(0.0, 0.0, config.patch_pixels, config.pixel_deg)


def test_each_class_has_its_mask(monkeypatch):
    """A sky of an AGN and a pulsar."""
    sky = make_sky([0.0, 2.0], [0.0, 0.0], photons_each=400)
    sky = replace(sky, sources=replace(sky.sources, source_class=np.array([0, 1])))
    monkeypatch.setattr(training_make, "_simulated_sky", lambda *_: sky)
    monkeypatch.setattr(training_make, "_random_plane", centred_plane)
    columns, sources = patches_of_sky(1, n_patches=10, classes=("PSR", "AGN"))
    assert columns["mask"].shape == (10, 128, 128, 2)
    labelled = sources[sources["labelled"]]
    assert set(labelled["source_class"]) == {0, 1}
    for row in labelled:
        x, y = round(float(row["x"])), round(float(row["y"]))
        agn = abs(row["glon"] - 180) > 179
        assert row["source_class"] == agn
        assert columns["mask"][row["patch"], y, x].tolist() == [not agn, agn]

    # one class takes all sources, several must name all
    columns, sources = patches_of_sky(1, n_patches=2, classes=("AGN",))
    assert set(sources["source_class"]) == {0}
    assert columns["mask"].shape[-1] == 1
    with pytest.raises(ValueError, match="got AGN, OTHER; name PSR too"):
        patches_of_sky(1, n_patches=1, classes=("AGN", "OTHER"))


# The same set in every way of making it


def test_two_processes_make_the_same_set_as_one(small_set, tmp_path):
    """To 1e-12: BLAS sums the fluxes of sources where two of its threads meet in another order."""
    with process_pool(2) as executor:
        make_patch_set(tmp_path / "set.h5", **SMALL, executor=executor)
    assert_same_set(tmp_path / "set.h5", small_set, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:ResourceWarning")
@pytest.mark.usefixtures("distributed")
def test_cluster_of_dask_makes_the_same_set(small_set, tmp_path):
    make_patch_set(tmp_path / "own.h5", **SMALL, n_workers=2)
    with local_workers(2) as client:
        make_patch_set(tmp_path / "other.h5", **SMALL, executor=client.scheduler.address)
    for name in ("own.h5", "other.h5"):
        assert_same_set(tmp_path / name, small_set, rtol=1e-12)


def test_patches_of_a_sky_depend_on_its_seed_alone(small_set):
    columns, _ = patches_of_sky(901, n_patches=4)
    found = read_patch_set(small_set)
    for name, values in columns.items():
        np.testing.assert_array_equal(found[name][4:], values, err_msg=name)


@pytest.fixture
def quick(monkeypatch):
    """Make small patches without simulating a sky."""
    monkeypatch.setattr(training_make, "patches_of_sky", small_patches)


def small_patches(seed, *, n_patches, **options):
    return made_patches(seed, n_patches=n_patches, n_pix=16)


def test_order_of_skies_does_not_matter_nor_whether_they_are_appended(quick, tmp_path, monkeypatch):
    make_patch_set(tmp_path / "whole.h5", n_skies=4, patches_per_sky=2)
    for n_skies in (1, 3, 4):
        make_patch_set(tmp_path / "appended.h5", n_skies=n_skies, patches_per_sky=2, append=True)

    def late_first(seed, **options):
        time.sleep(0.2 / (1 + seed))
        return small_patches(seed, **options)

    monkeypatch.setattr(training_make, "patches_of_sky", late_first)
    with ThreadPoolExecutor(4) as executor:
        make_patch_set(tmp_path / "set.h5", n_skies=4, patches_per_sky=2, executor=executor)
    for name in ("set.h5", "appended.h5"):
        assert_same_set(tmp_path / name, tmp_path / "whole.h5")


def test_killed_at_any_step_the_set_is_the_same_when_made_again(tmp_path):
    code = [sys.executable, str(Path(__file__).parents[1] / "killed_sets.py"), str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    n_steps, n_append = map(int, done.stdout.split())
    assert min(n_steps, n_append) > 8
    made, appended = range(1, n_steps + 1), range(1, n_append + 1, 2)
    for number in made:
        assert_same_set(tmp_path / f"made{number}.h5", tmp_path / "whole.h5")
    for number in appended:
        assert_same_set(tmp_path / f"appended{number}.h5", tmp_path / "longer.h5")
    assert len(os.listdir(tmp_path)) == len(made) + len(appended) + 2  # and nothing beside them


# Refusals


def test_whole_set_is_not_touched(quick, tmp_path):
    make_patch_set(tmp_path / "set.h5", n_skies=2, patches_per_sky=2)
    before = (tmp_path / "set.h5").read_bytes()
    for options in ({"n_skies": 3}, {"n_skies": 2, "append": True}):
        with pytest.raises(FileExistsError, match="got the whole set .*set.h5' of 2 skies"):
            make_patch_set(tmp_path / "set.h5", **options, patches_per_sky=2)
    assert (tmp_path / "set.h5").read_bytes() == before


def test_second_run_on_a_set_is_refused_at_its_start(quick, tmp_path):
    with locked_folder(tmp_path / "set.h5.parts"):
        with pytest.raises(InputError, match="set.h5.parts is in use by another run; wait until"):
            make_patch_set(tmp_path / "set.h5", n_skies=1)
    assert os.listdir(tmp_path) == []


OTHERS = [
    ({"first_seed": 5}, "seed 0, not 5"),
    ({"patches_per_sky": 3}, "patches_per_sky 2, not 3"),
    ({"band_edges": (10, 20, 50, 150, 500, 1e3)}, "band_edges_gev .*2000.0.*, not .*1000.0"),
    ({"classes": ("AGN",)}, r"classes \['source'\], not \['AGN'\]"),
    ({"label_rule": TrainingConfig(mask_radius_pix=3.0)}, "mask_radius_pix 2.0, not 3.0"),
]


def interrupt(tmp_path, monkeypatch, **options):
    """An unfinished set of one sky."""

    def fails(seed, **kwargs):
        if seed == options.get("first_seed", 0) + 1:
            raise KeyboardInterrupt
        return small_patches(seed, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(training_make, "patches_of_sky", fails)
        with pytest.raises(KeyboardInterrupt):
            make_patch_set(tmp_path / "set.h5", **options)


@pytest.mark.parametrize(("change", "message"), OTHERS)
def test_set_of_another_kind_is_refused(quick, tmp_path, monkeypatch, change, message):
    options = {"n_skies": 3, "patches_per_sky": 2}
    make_patch_set(tmp_path / "old.h5", **options | {"n_skies": 1})
    interrupt(tmp_path, monkeypatch, **options)
    with pytest.raises(ValueError, match=f"made with the same options; got {message}"):
        make_patch_set(tmp_path / "old.h5", **options | change, append=True)
    with pytest.raises(ValueError, match=f"unfinished patch set .*; got {message}"):
        make_patch_set(tmp_path / "set.h5", **options | change)
    make_patch_set(tmp_path / "set.h5", **options | change, overwrite=True)
    make_patch_set(tmp_path / "whole.h5", **options | change)
    assert_same_set(tmp_path / "set.h5", tmp_path / "whole.h5")


def test_old_set_stays_until_the_new_one_is_whole(quick, tmp_path, monkeypatch):
    make_patch_set(tmp_path / "set.h5", n_skies=1, patches_per_sky=3)
    before = (tmp_path / "set.h5").read_bytes()
    interrupt(tmp_path, monkeypatch, n_skies=3, patches_per_sky=2, overwrite=True)
    assert (tmp_path / "set.h5").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["set.h5", "set.h5.parts"]
    assert os.listdir(tmp_path / "set.h5.parts") == ["sky000000.h5"]
    assert len(read_patch_set(tmp_path / "set.h5.parts" / "sky000000.h5")["sky"]) == 2
    make_patch_set(tmp_path / "set.h5", n_skies=3, patches_per_sky=2, overwrite=True)
    assert len(read_patch_set(tmp_path / "set.h5")["sky"]) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_skies": 0}, "at least one sky, .*; got n_skies 0"),
        ({"first_seed": -1}, "no negative number; got first_seed -1"),
        ({"label_rule": TrainingConfig(mask_radius_pix=-1.0)}, "got mask_radius_pix -1"),
        ({"label_rule": TrainingConfig(min_photons=np.nan)}, "got min_photons nan"),
        ({"classes": ()}, r"classes must be a list of different names; got \(\)"),
        ({"classes": ("a", "a")}, "classes must be a list of different names"),
        ({"band_edges": (10, 10)}, "band_edges must be at least two that increase"),
    ],
)
def test_impossible_options_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_patch_set(tmp_path / "set.h5", **{"n_skies": 2} | change)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        ("set.h5", {"template": "no.fits"}, FileNotFoundError, "no.fits"),
        ("set.h5", {"template": "text"}, ValueError, "text"),
        ("text", {}, ValueError, "expected an HDF5 patch set; got another kind of file"),
        ("none/set.h5", {}, FileNotFoundError, "directory must exist; got .*none.; create it"),
    ],
)
def test_wrong_files_are_refused_before_anything_is_made(
    tmp_path, monkeypatch, path, options, error, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(error, match=message):
        make_patch_set(path, n_skies=1, **options)
    assert os.listdir(tmp_path) == ["text"]


def test_set_is_finished_when_there_is_room_again(quick, tmp_path, monkeypatch):
    options = {"n_skies": 4, "patches_per_sky": 4}
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))
        with pytest.raises(OSError, match="make room and run the same again"):
            make_patch_set(tmp_path / "set.h5", **options)
    left = sorted(os.listdir(tmp_path / "set.h5.parts"))
    assert left == [f"sky00000{n}.h5" for n in range(4)]
    make_patch_set(tmp_path / "set.h5", **options)
    make_patch_set(tmp_path / "whole.h5", **options)
    assert_same_set(tmp_path / "set.h5", tmp_path / "whole.h5")


@pytest.mark.slow
def test_set_below_10_gev_has_the_photons_of_its_bands():
    edges = (1.0, 3.0, 10.0, 100.0)
    columns, sources = patches_of_sky(901, n_patches=4, band_edges=edges)
    counts = columns["counts"].sum(axis=(0, 1, 2))
    assert columns["counts"].shape == (4, 128, 128, 3)
    assert counts[0] > counts[1] > counts[2] > 100
    assert sources["labelled"].any()
