import h5py
import numpy as np
import pytest
from made_skies import BAND_EDGES

from astro_unetloc.datasets import (
    SCHEMA,
    SOURCE_DTYPE,
    append_patches,
    create_patch_set,
    read_patch_set,
)

N_PIX = 16


def make_columns(n=3, *, sky=0, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "counts": rng.poisson(0.1, (n, N_PIX, N_PIX, 5)).astype(np.uint16),
        "coverage": np.ones((n, N_PIX, N_PIX, 1), np.uint8),
        "mask": rng.integers(0, 2, (n, N_PIX, N_PIX, 1)).astype(np.uint8),
        "bands": rng.random((n, 5, 4)).astype(np.float32),
        "center": rng.random((n, 3)),
        "sky": np.full(n, sky),
        "code": np.array([f"sky{sky}-{i}" for i in range(n)], "S24"),
    }


def make_sources(patch=(0, 0, 2)):
    rows = np.zeros(len(patch), SOURCE_DTYPE)
    rows["patch"], rows["x"], rows["flux"] = patch, np.arange(len(patch)), 1e-11
    return rows


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "set.h5"
    create_patch_set(path, n_pix=N_PIX, pixel_deg=0.1, band_edges=BAND_EDGES, seed=7)
    return path


def assert_same(found, columns):
    for name, values in columns.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_what_was_appended_is_read_back(path):
    first, second = make_columns(3, sky=0), make_columns(2, sky=1, seed=1)
    append_patches(path, first, make_sources())
    append_patches(path, second, make_sources([0, 1]), complete=True)
    found = read_patch_set(path)
    assert_same(found, {n: np.concatenate([first[n], second[n]]) for n in first})
    assert found["sources"]["patch"].tolist() == [0, 0, 2, 3, 4]
    assert found["seed"] == 7
    assert found["pixel_deg"] == 0.1
    assert found["complete"]
    np.testing.assert_array_equal(found["band_edges_gev"], BAND_EDGES)


def test_plain_h5py_reads_the_schema(path):
    append_patches(path, make_columns(), make_sources())
    with h5py.File(path) as file:
        shapes = {name: (*dataset.shape, dataset.dtype.str) for name, dataset in file.items()}
        assert shapes.pop("sources")[0] == 3
        assert shapes == {
            "counts": (3, N_PIX, N_PIX, 5, "<u2"),
            "coverage": (3, N_PIX, N_PIX, 1, "|u1"),
            "mask": (3, N_PIX, N_PIX, 1, "|u1"),
            "bands": (3, 5, 4, "<f4"),
            "center": (3, 3, "<f8"),
            "sky": (3, "<i8"),
            "code": (3, "|S24"),
        }
        assert file["sources"].dtype == SOURCE_DTYPE
        assert file.attrs["schema"] == SCHEMA
        assert not file.attrs["complete"]
        assert (file.attrs["n_patches"], file.attrs["n_sources"]) == (3, 3)


def test_new_set_is_empty_and_readable(path):
    found = read_patch_set(path)
    assert len(found["counts"]) == len(found["sources"]) == 0
    assert not found["complete"]


@pytest.mark.parametrize("rows", [slice(1, 3), slice(-2, None), slice(0, 99), slice(None, None, 2)])
def test_rows_are_those_of_a_slice(path, rows):
    columns = make_columns(5)
    append_patches(path, columns, make_sources())
    assert_same(read_patch_set(path, rows=rows), {n: v[rows] for n, v in columns.items()})


def test_sky_without_sources_may_be_appended(path):
    append_patches(path, make_columns(), make_sources([]))
    assert len(read_patch_set(path)["sources"]) == 0


def test_half_written_append_is_not_read_and_is_written_again(path):
    first, second = make_columns(3), make_columns(2, seed=1)
    append_patches(path, first, make_sources())
    with h5py.File(path, "r+") as file:  # as if killed between two columns
        file["counts"].resize(5, axis=0)
        file["counts"][3:] = 9
        file["sources"].resize(4, axis=0)
    assert_same(read_patch_set(path), first)
    append_patches(path, second, make_sources([1]))
    found = read_patch_set(path)
    assert_same(found, {n: np.concatenate([first[n], second[n]]) for n in first})
    assert found["sources"]["patch"].tolist() == [0, 0, 2, 4]


def test_failed_append_leaves_the_set_as_it_was(path):
    first = make_columns(3)
    append_patches(path, first, make_sources())
    wrong = make_columns(2) | {"mask": np.zeros((2, 3, 3, 1))}
    with pytest.raises(TypeError):
        append_patches(path, wrong, make_sources())
    assert_same(read_patch_set(path), first)


def test_set_that_does_not_count_its_rows_is_read_whole(path):
    append_patches(path, make_columns(), make_sources())
    with h5py.File(path, "r+") as file:
        del file.attrs["n_patches"], file.attrs["n_sources"]
    assert len(read_patch_set(path)["counts"]) == len(read_patch_set(path)["sources"]) == 3


@pytest.mark.parametrize("change", [{"sky": np.zeros(2)}, {"mask": None}])
def test_columns_must_be_there_and_of_one_length(path, change):
    columns = {n: v for n, v in (make_columns() | change).items() if v is not None}
    with pytest.raises(ValueError, match="expected arrays of one length for counts, coverage"):
        append_patches(path, columns, make_sources())


def test_existing_file_is_never_replaced(path):
    with pytest.raises(FileExistsError, match="patch set must not exist; got .*set.h5"):
        create_patch_set(path, n_pix=N_PIX, pixel_deg=0.1, band_edges=BAND_EDGES)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such patch set: .*nothing.h5"):
        read_patch_set(tmp_path / "nothing.h5")


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", None])
def test_damaged_file_is_refused(path, content):
    append_patches(path, make_columns(), make_sources())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match="expected an HDF5 patch set; .*; make it again"):
        read_patch_set(path)


def test_damaged_images_are_refused(path):
    append_patches(path, make_columns(), make_sources())
    with h5py.File(path) as file:
        chunk = file["counts"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a whole patch set"):
        read_patch_set(path)


def test_other_schema_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 99
    with pytest.raises(ValueError, match="of schema 1; got schema 99; make it again"):
        read_patch_set(path)


def test_other_hdf5_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with pytest.raises(ValueError, match="got schema None"):
        read_patch_set(tmp_path / "other.h5")


def test_set_without_a_column_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file["mask"]
    with pytest.raises(ValueError, match="got one without mask"):
        read_patch_set(path)
