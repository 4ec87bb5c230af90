from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import h5py
import numpy as np
import pytest
from made_skies import BAND_EDGES, made_patches

from astro_unetloc import training_sets
from astro_unetloc.datasets import append_patches, create_patch_set, read_patch_set
from astro_unetloc.training_sets import make_patch_set, patches_of_sky


def assert_same_set(path, other):
    first, second = read_patch_set(path), read_patch_set(other)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "set.h5"
    make_patch_set(path, n_skies=2, patches_per_sky=4, first_seed=900)
    return path


def test_patch_set_is_whole_and_consistent(small_set):
    found = read_patch_set(small_set)
    assert found["complete"]
    assert found["counts"].shape == (8, 128, 128, 5)
    assert found["counts"].sum() > 0
    assert found["sky"].tolist() == [900] * 4 + [901] * 4
    assert found["code"][5] == b"sky000901-0001"
    assert found["counts"][found["coverage"][..., 0] == 0].sum() == 0
    assert (
        found["counts"][
            ~found["bands"][:, :, 0].astype(bool)[:, None, None, :].repeat(128, 1).repeat(128, 2)
        ].sum()
        == 0
    )
    sources = found["sources"]
    assert np.all((sources["patch"] >= 0) & (sources["patch"] < 8))
    for source in sources[sources["labelled"]]:
        x, y = (int(np.clip(round(float(source[n])), 0, 127)) for n in ("x", "y"))
        assert found["mask"][source["patch"], y, x, 0] == 1
    unlabelled = np.setdiff1d(np.arange(8), sources["patch"][sources["labelled"]])
    assert found["mask"][unlabelled].sum() == 0


def test_two_processes_make_the_same_set_as_one(small_set, tmp_path):
    # spawned: a forked process hangs where OpenMP (healpy) has run before
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        make_patch_set(
            tmp_path / "set.h5", n_skies=2, patches_per_sky=4, first_seed=900, executor=executor
        )
    assert_same_set(tmp_path / "set.h5", small_set)


def test_patches_of_a_sky_depend_on_its_seed_alone(small_set):
    columns, _ = patches_of_sky(901, n_patches=4)
    found = read_patch_set(small_set)
    for name, values in columns.items():
        np.testing.assert_array_equal(found[name][4:], values, err_msg=name)


@pytest.fixture
def quick(monkeypatch):
    """Make patches without simulating a sky."""
    monkeypatch.setattr(training_sets, "patches_of_sky", made_patches)


def test_interrupted_set_is_continued_to_the_same_set(quick, tmp_path, monkeypatch):
    options = {"n_skies": 4, "patches_per_sky": 3, "first_seed": 10}
    make_patch_set(tmp_path / "whole.h5", **options)

    def fails(seed, **kwargs):
        if seed == 12:
            raise KeyboardInterrupt
        return made_patches(seed, **kwargs)

    monkeypatch.setattr(training_sets, "patches_of_sky", fails)
    with pytest.raises(KeyboardInterrupt):
        make_patch_set(tmp_path / "set.h5", **options)
    assert read_patch_set(tmp_path / "set.h5")["sky"].tolist() == [10] * 3 + [11] * 3
    with h5py.File(tmp_path / "set.h5", "r+") as file:  # and killed in the middle of an append
        file["counts"].resize(9, axis=0)
        file["sky"].resize(8, axis=0)
    monkeypatch.setattr(training_sets, "patches_of_sky", made_patches)
    make_patch_set(tmp_path / "set.h5", **options)
    assert_same_set(tmp_path / "set.h5", tmp_path / "whole.h5")


def test_whole_set_is_not_touched(quick, tmp_path):
    make_patch_set(tmp_path / "set.h5", n_skies=2, patches_per_sky=2)
    before = (tmp_path / "set.h5").read_bytes()
    with pytest.raises(FileExistsError, match="must be unfinished or new; got the whole set"):
        make_patch_set(tmp_path / "set.h5", n_skies=3, patches_per_sky=2)
    assert (tmp_path / "set.h5").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [{"first_seed": 5}, {"patches_per_sky": 3}, {"band_edges": (10, 20, 50, 150, 500, 1e3)}],
)
def test_unfinished_set_of_another_kind_is_refused(quick, tmp_path, change):
    create_patch_set(tmp_path / "set.h5", n_pix=128, pixel_deg=10 / 128, band_edges=BAND_EDGES)
    append_patches(tmp_path / "set.h5", *made_patches(0, n_patches=2))
    options = {"n_skies": 3, "patches_per_sky": 2} | change
    with pytest.raises(ValueError, match="unfinished patch set .*: expected seed .*; got seed 0"):
        make_patch_set(tmp_path / "set.h5", **options)


def test_file_that_is_no_patch_set_is_refused(tmp_path):
    (tmp_path / "set.h5").write_text("hello")
    with pytest.raises(ValueError, match="expected an HDF5 patch set"):
        make_patch_set(tmp_path / "set.h5", n_skies=1)
