import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sets import RECIPE, write_made_set, write_schema_1
from made_skies import BAND_EDGES, made_patches

from astro_unetloc.training.patch_set import (
    SCHEMA,
    SKY_DTYPE,
    SOURCE_DTYPE,
    is_validation,
    open_patch_set,
    read_patch_set,
)

N_PIX = 16


@pytest.fixture
def path(tmp_path):
    """Three skies of two patches."""
    write_made_set(tmp_path / "set.h5", [4, 5, 6], n_patches=2, n_pix=N_PIX)
    return tmp_path / "set.h5"


def assert_same(found, columns):
    for name, values in columns.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_what_was_written_is_read_back(path):
    found = read_patch_set(path)
    skies = [made_patches(seed, n_patches=2, n_pix=N_PIX)[0] for seed in (4, 5, 6)]
    assert_same(found, {n: np.concatenate([s[n] for s in skies]) for n in skies[0]})
    assert found["sources"]["patch"].tolist() == list(range(6))
    assert found["validation"].tolist() == [False, False, True, True, False, False]
    assert found["skies"]["seed"].tolist() == [4, 5, 6]
    assert found["seed"] == 0
    assert found["pixel_deg"] == 0.1
    assert found["classes"] == ["source"]
    np.testing.assert_array_equal(found["band_edges_gev"], BAND_EDGES)


def test_plain_h5py_reads_the_schema(path):
    with h5py.File(path) as file:
        shapes = {name: (*dataset.shape, dataset.dtype.str) for name, dataset in file.items()}
        assert shapes.pop("sources")[0] == 6
        assert shapes.pop("skies")[0] == 3
        assert shapes == {
            "image": (6, N_PIX, N_PIX, 5, "<u2"),
            "coverage": (6, N_PIX, N_PIX, 1, "|u1"),
            "mask": (6, N_PIX, N_PIX, 1, "|u1"),
            "bands": (6, 5, 4, "<f4"),
            "center": (6, 3, "<f8"),
            "sky": (6, "<i8"),
            "validation": (6, "|b1"),
            "code": (6, "|S24"),
        }
        assert file["sources"].dtype == SOURCE_DTYPE
        assert file["skies"].dtype == SKY_DTYPE
        assert file.attrs["schema"] == SCHEMA
        assert list(file.attrs["classes"]) == ["source"]
        assert file.attrs["mask_radius_pix"] == 2.0
        assert file["image"].chunks == (1, N_PIX, N_PIX, 5)
        validation = file["image"][file["validation"][:]]
    np.testing.assert_array_equal(
        validation, made_patches(5, n_patches=2, n_pix=N_PIX)[0]["counts"]
    )


@pytest.mark.parametrize(
    "rows",
    [slice(1, 3), slice(-2, None), slice(0, 99), slice(None, None, 2), np.array([5, 0, 3, 3])],
)
def test_rows_are_those_that_are_asked_for(path, rows):
    whole = read_patch_set(path)
    names = ("counts", "bands", "code", "validation")
    assert_same(read_patch_set(path, rows=rows), {n: whole[n][rows] for n in names})


def test_no_rows_give_arrays_of_no_rows(path):
    with open_patch_set(path) as found:
        columns = found.read(np.zeros(0, int))
    assert columns["counts"].shape == (0, N_PIX, N_PIX, 5)
    assert columns["code"].shape == (0,)


def test_subsets_are_skies_and_together_all(path):
    with open_patch_set(path) as found:
        assert found.rows(validation=True).tolist() == [2, 3]
        assert found.rows(validation=False).tolist() == [0, 1, 4, 5]


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(0, 2**40))
def test_one_of_any_five_skies_in_a_row_is_to_validate_on(first):
    assert is_validation(np.arange(first, first + 5)).sum() == 1


def test_first_schema_is_still_read(tmp_path):
    columns = write_schema_1(tmp_path / "old.h5")
    found = read_patch_set(tmp_path / "old.h5")
    assert_same(found, columns)
    assert found["validation"].tolist() == [True] * 3 + [False] * 2
    skies = found["skies"][["seed", "first_patch", "n_patches", "first_source", "n_sources"]]
    assert skies.tolist() == [(5, 0, 3, 0, 3), (6, 3, 2, 3, 3)]
    sources = found["sources"]
    assert sources["x"].tolist() == [7.5] * 6
    assert np.isnan(sources["glon"]).all()
    assert sources["source_class"].tolist() == [0] * 6
    assert found["classes"] == ["source"]
    assert found["min_photons"] == 3.0


def test_unfinished_rows_of_the_first_schema_are_not_read(tmp_path):
    columns = write_schema_1(tmp_path / "old.h5", whole=3)
    found = read_patch_set(tmp_path / "old.h5")
    assert_same(found, {n: v[:3] for n, v in columns.items()})
    assert len(found["sources"]) == 3


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such patch set: .*nothing.h5"):
        read_patch_set(tmp_path / "nothing.h5")


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", None])
def test_damaged_file_is_refused(path, content):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match="expected an HDF5 patch set; .*; make it again"):
        read_patch_set(path)


def test_damaged_images_are_refused(path):
    with h5py.File(path) as file:
        chunk = file["image"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a whole patch set"):
        read_patch_set(path)


def test_other_schema_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 99
    with pytest.raises(ValueError, match="of schema 1 or 2; got schema 99; make it again"):
        read_patch_set(path)


def test_other_hdf5_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(ValueError, match="got schema None"):
        read_patch_set(tmp_path / "other.h5")


@pytest.mark.parametrize("name", ["mask", "image", "skies"])
def test_set_without_a_dataset_is_refused(path, name):
    with h5py.File(path, "r+") as file:
        del file[name]
    with pytest.raises(ValueError, match=f"got one without {name}; make it again"):
        read_patch_set(path)


def test_set_without_its_recipe_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["pixel_deg"]
    with pytest.raises(ValueError, match="got one without pixel_deg"):
        read_patch_set(path)


def test_recipe_is_of_plain_values(path):
    with open_patch_set(path) as found:
        assert found.recipe == RECIPE | {"band_edges_gev": BAND_EDGES.tolist(), "schema": SCHEMA}
        assert found.classes == ("source",)
