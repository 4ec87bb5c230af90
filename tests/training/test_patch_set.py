import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sets import RECIPE, assert_same_set, full_disk, write_made_set
from made_skies import BAND_EDGES, made_patches

from astro_unetloc.training.patch_set import (
    SCHEMA,
    SKY_DTYPE,
    SOURCE_DTYPE,
    is_validation,
    join_patch_sets,
    open_patch_set,
    read_patch_set,
    sky_checksum,
    sky_file_bytes,
    verify_patch_set,
    write_whole,
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
    with pytest.raises(ValueError, match="of schema 2; got schema 99; make it again"):
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


# Checksums


def made_columns(seed=3):
    columns, sources = made_patches(seed, n_patches=2, n_pix=16)
    return columns | {"validation": is_validation(columns["sky"])}, sources


def test_whole_set_is_verified(path):
    skies = verify_patch_set(path)
    assert skies["seed"].tolist() == [4, 5, 6]
    assert skies["sha256"][1].decode() == sky_checksum(*made_columns(5))


def test_checksum_of_a_sky_stays_the_same():
    # changes with the schema alone: sets made elsewhere must still be verified
    columns, sources = made_columns()
    columns["counts"] = np.full_like(columns["counts"], 2)
    assert sky_checksum(columns, sources).startswith("9a7a6ad521163f64")


def test_checksum_does_not_depend_on_the_order_of_bytes():
    columns, sources = made_columns()
    other = {n: v.astype(v.dtype.newbyteorder(">")) for n, v in columns.items()}
    assert sky_checksum(other, sources.astype(sources.dtype.newbyteorder(">"))) == sky_checksum(
        columns, sources
    )


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.data())
def test_any_change_of_a_value_changes_the_checksum(data):
    columns, sources = made_columns()
    before = sky_checksum(columns, sources)
    name = data.draw(st.sampled_from([*columns, "sources"]))
    values = sources.view("u1") if name == "sources" else columns[name].view("u1").ravel()
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] ^= 1
    assert sky_checksum(columns, sources) != before


@pytest.mark.parametrize("name", ["image", "mask", "code", "sources", "validation"])
def test_changed_arrays_are_found(path, name):
    with h5py.File(path, "r+") as file:
        rows = file[name][2:4]
        if name == "sources":
            rows["flux"] += 1e-11
        elif name == "code":
            rows[0] = b"another"
        else:
            rows = rows == 0
        file[name][2:4] = rows
    with pytest.raises(ValueError, match=r"got others for 1 of 3 skies \(5\); make it again"):
        verify_patch_set(path)


def test_damaged_images_are_found_by_verify(path):
    with h5py.File(path) as file:
        chunk = file["image"].id.get_chunk_info(5)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"got others for 1 of 3 skies \(6\)"):
        verify_patch_set(path)


def test_progress_counts_skies(path):
    seen = []
    verify_patch_set(path, progress=lambda skies, total: seen.append(total) or skies)
    assert seen == [3]


# Writing


def made_set(path, seeds, **options):
    write_made_set(path, seeds, n_patches=2, **({"n_pix": 16} | options))
    return path


# One sky


@pytest.mark.parametrize("change", [{"sky": np.zeros(3, int)}, {"mask": None}])
def test_columns_must_be_there_and_of_one_length(change):
    columns, sources = made_patches(0, n_patches=2, n_pix=16)
    columns = {n: v for n, v in (columns | change).items() if v is not None}
    with pytest.raises(ValueError, match="expected arrays of one length for counts, coverage"):
        sky_file_bytes(columns, sources, recipe=RECIPE)


def test_file_of_one_sky_holds_no_other():
    columns, sources = made_patches(0, n_patches=2, n_pix=16)
    columns["sky"] = np.array([3, 4])
    with pytest.raises(ValueError, match=r"expected patches of one sky; got those of \[3 4\]"):
        sky_file_bytes(columns, sources, recipe=RECIPE)


def test_sky_without_sources_is_a_sky(tmp_path):
    columns, sources = made_patches(0, n_patches=2, n_pix=16)
    write_whole(tmp_path / "sky.h5", sky_file_bytes(columns, sources[:0], recipe=RECIPE))
    made_set(tmp_path / "other.h5", [1])
    join_patch_sets([tmp_path / n for n in ("sky.h5", "other.h5")], tmp_path / "set.h5")
    assert read_patch_set(tmp_path / "set.h5")["sources"]["patch"].tolist() == [2, 3]
    verify_patch_set(tmp_path / "set.h5")


# Whole or not at all


def test_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "set.h5"
    write_whole(path, b"before")
    with (
        full_disk(1000),
        pytest.raises(OSError, match="set.h5: expected to write it; .* make room"),
    ):
        write_whole(path, bytes(2000))
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["set.h5"]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_full_disk_leaves_no_half_joined_set(tmp_path, share):
    parts = [made_set(tmp_path / f"{seed}.h5", [seed], n_pix=64) for seed in range(4)]
    join_patch_sets(parts, tmp_path / "set.h5")
    before = (tmp_path / "set.h5").read_bytes()
    with full_disk(int(len(before) * share)):
        with pytest.raises(OSError, match="set.h5: expected to write it; got File too large"):
            join_patch_sets(parts, tmp_path / "set.h5")
    assert (tmp_path / "set.h5").read_bytes() == before
    assert len(os.listdir(tmp_path)) == 5
    join_patch_sets(parts, tmp_path / "again.h5")
    verify_patch_set(tmp_path / "again.h5")


# Many skies


def test_parts_of_any_size_give_one_set(tmp_path):
    whole = made_set(tmp_path / "whole.h5", range(4))
    first = made_set(tmp_path / "first.h5", [0])
    rest = made_set(tmp_path / "rest.h5", [1, 2, 3])
    join_patch_sets([first, rest], tmp_path / "set.h5")
    assert_same_set(tmp_path / "set.h5", whole)
    with open_patch_set(whole) as one, open_patch_set(tmp_path / "set.h5") as other:
        assert list(one.compressed("counts")) == list(other.compressed("counts"))
    verify_patch_set(tmp_path / "set.h5")


def test_seed_of_the_set_is_that_of_its_first_part(tmp_path):
    parts = [made_set(tmp_path / f"{s}.h5", [s], recipe=RECIPE | {"seed": s}) for s in (3, 8)]
    join_patch_sets(parts, tmp_path / "set.h5")
    assert read_patch_set(tmp_path / "set.h5")["seed"] == 3


def test_sets_of_other_recipes_are_not_joined(tmp_path):
    first = made_set(tmp_path / "first.h5", [0])
    other = made_set(tmp_path / "other.h5", [1], recipe=RECIPE | {"mask_radius_pix": 3.0})
    with pytest.raises(ValueError, match="other.h5: .* got other mask_radius_pix; join only sets"):
        join_patch_sets([first, other], tmp_path / "set.h5")
    larger = made_set(tmp_path / "larger.h5", [1], n_pix=32)
    with pytest.raises(ValueError, match="larger.h5: .* got other arrays; join only sets"):
        join_patch_sets([first, larger], tmp_path / "set.h5")
    assert not (tmp_path / "set.h5").exists()


def test_same_sky_is_not_joined_twice(tmp_path):
    first, again = (made_set(tmp_path / n, [0]) for n in ("first.h5", "again.h5"))
    with pytest.raises(ValueError, match="expected every sky once; got sky 0 twice"):
        join_patch_sets([first, again], tmp_path / "set.h5")


def test_nothing_is_not_joined(tmp_path):
    with pytest.raises(ValueError, match="expected patch sets to join; got none"):
        join_patch_sets([], tmp_path / "set.h5")
