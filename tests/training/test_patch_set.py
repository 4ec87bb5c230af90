import os
from contextlib import suppress

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import flip_bits
from made_sets import METADATA, assert_same_set, damage_set, write_made_set
from made_skies import BAND_EDGES, made_patches

from astro_unetloc.exceptions import InputError
from astro_unetloc.training.patch_set import (
    SCHEMA,
    SOURCE_DTYPE,
    is_validation,
    join_patch_sets,
    open_patch_set,
    read_patch_set,
    sky_file_bytes,
)

N_PIX = 16


@pytest.fixture
def path(tmp_path):
    """Three skies of two patches."""
    return write_made_set(tmp_path / "set.h5", [4, 5, 6])


def assert_same(found, columns):
    for name, values in columns.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


# Reading


def test_what_was_written_is_read_back(path):
    found = read_patch_set(path)
    skies = [made_patches(seed, n_patches=2, n_pix=N_PIX)[0] for seed in (4, 5, 6)]
    assert_same(found, {n: np.concatenate([s[n] for s in skies]) for n in skies[0]})
    assert found["sources"]["patch"].tolist() == list(range(6))
    assert found["validation"].tolist() == [False, False, True, True, False, False]
    assert_same(found, METADATA)


def test_plain_h5py_reads_the_schema(path):
    with h5py.File(path) as file:
        shapes = {name: (*dataset.shape, dataset.dtype.str) for name, dataset in file.items()}
        assert shapes.pop("sources")[0] == 6
        assert shapes == {
            "counts": (6, N_PIX, N_PIX, 5, "<u2"),
            "coverage": (6, N_PIX, N_PIX, 1, "|u1"),
            "mask": (6, N_PIX, N_PIX, 1, "|u1"),
            "bands": (6, 5, 4, "<f4"),
            "center": (6, 3, "<f8"),
            "sky": (6, "<i8"),
            "validation": (6, "|b1"),
            "code": (6, "|S24"),
        }
        assert file["sources"].dtype == SOURCE_DTYPE
        assert file.attrs["schema"] == SCHEMA
        assert list(file.attrs["classes"]) == ["source"]
        assert file.attrs["mask_radius_pix"] == 2.0
        assert file["counts"].chunks == (1, N_PIX, N_PIX, 5)
        assert all(dataset.fletcher32 for dataset in file.values())
        validation = file["counts"][file["validation"][:]]
    expected = made_patches(5, n_patches=2, n_pix=N_PIX)[0]["counts"]
    np.testing.assert_array_equal(validation, expected)


@pytest.mark.parametrize("rows", [slice(-2, 99), slice(None, None, 2), [5, 0, 3, 3], []])
def test_rows_are_those_that_are_asked_for(path, rows):
    whole = read_patch_set(path)
    names = ("counts", "bands", "code", "validation")
    rows = rows if isinstance(rows, slice) else np.array(rows, int)
    with open_patch_set(path) as found:
        part = found.read(rows, names=names)
    assert list(part) == list(names)
    assert_same(part, {n: whole[n][rows] for n in names})


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(0, 2**40))
def test_one_of_any_five_skies_in_a_row_is_to_validate_on(first):
    assert is_validation(np.arange(first, first + 5)).sum() == 1


def test_metadata_are_plain_values_and_subsets_are_skies(path):
    with open_patch_set(path) as found:
        assert found.metadata == METADATA | {"band_edges_gev": BAND_EDGES.tolist()}
        assert found.classes == ("source",)
        assert found.rows(validation=True).tolist() == [2, 3]
        assert found.rows(validation=False).tolist() == [0, 1, 4, 5]


# Other files


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", None])
def test_damaged_file_is_refused(path, content):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match="expected a(n HDF5| whole) patch set; .*; make "):
        read_patch_set(path)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_of_the_metadata_are_found_or_do_not_matter(path, seed):
    whole = read_patch_set(path)
    flip_bits(path, np.random.default_rng(seed))
    with suppress(InputError):
        assert_same(read_patch_set(path), {n: whole[n] for n in ("counts", "sky", "mask")})


@pytest.mark.parametrize("name", ["counts", "bands", "code", "sources", "sky"])
def test_changed_bytes_are_found(path, name):
    damage_set(path, name)
    with pytest.raises(ValueError, match="expected a whole patch set; .*; make it again"):
        read_patch_set(path)


def without(file, name):
    del file[name]
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.attrs.update(schema=2), f"expected schema {SCHEMA}, got 2"),
        (lambda f: f.attrs.update(pixel_deg=np.nan), "expected a seed, a pixel_deg and band_edges"),
        (lambda f: f.attrs.update(pixel_deg="wide"), "could not convert"),
        (lambda f: f.attrs.update(band_edges_gev=[3.0, 2.0]), "band_edges_gev that increase"),
        (lambda f: f.attrs.update(classes=3), "not iterable"),
        (lambda f: without(f, "mask"), "mask"),
        (lambda f: f.attrs.__delitem__("seed"), "seed"),
        (lambda f: f["counts"].resize(7, axis=0), "expected coverage of type u1 and shape .7, "),
        (lambda f: [d.resize(10**9, axis=0) for d in f.values()], "claims .* bytes that are not"),
        (lambda f: without(f, "code").create_group("code"), "no attribute"),
        (
            lambda f: without(f, "sky").__setitem__("sky", h5py.ExternalLink("o.h5", "sky")),
            "can't open file",
        ),
        (
            lambda f: without(f, "bands").create_dataset(
                "bands", (6, 5, 4), "<f4", external=[("/dev/zero", 0, 480)]
            ),
            "expected bands of type",
        ),
    ],
)
def test_damaged_and_hostile_sets_are_refused(path, change, message):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=f"expected a whole patch set; .*{message}.*; make it ag"):
        read_patch_set(path)


# Many skies


def test_parts_of_any_size_give_one_set(tmp_path):
    whole = write_made_set(tmp_path / "whole.h5", range(4), n_patches=130)
    first = write_made_set(tmp_path / "first.h5", [0], n_patches=130)
    rest = write_made_set(tmp_path / "rest.h5", [1, 2, 3], n_patches=130)
    join_patch_sets([first, rest], tmp_path / "set.h5")
    assert_same_set(tmp_path / "set.h5", whole)


def test_sky_without_sources_is_a_sky(tmp_path):
    columns, sources = made_patches(0, n_patches=2, n_pix=N_PIX)
    (tmp_path / "sky.h5").write_bytes(sky_file_bytes(columns, sources[:0], metadata=METADATA))
    other = write_made_set(tmp_path / "other.h5", [1])
    join_patch_sets([tmp_path / "sky.h5", other], tmp_path / "set.h5")
    assert read_patch_set(tmp_path / "set.h5")["sources"]["patch"].tolist() == [2, 3]


def test_seed_of_the_set_is_that_of_its_first_part(tmp_path):
    parts = [
        write_made_set(tmp_path / f"{s}.h5", [s], metadata=METADATA | {"seed": s}) for s in (3, 8)
    ]
    join_patch_sets(parts, tmp_path / "set.h5")
    assert read_patch_set(tmp_path / "set.h5")["seed"] == 3


@pytest.mark.parametrize(
    ("seed", "other", "message"),
    [(1, {"mask_radius_pix": 3.0}, "got mask_radius_pix 3.0, not 2.0"), (0, {}, "got sky 0 twice")],
)
def test_sets_of_other_options_or_the_same_skies_are_not_joined(tmp_path, seed, other, message):
    first = write_made_set(tmp_path / "first.h5", [0])
    second = write_made_set(tmp_path / "second.h5", [seed], metadata=METADATA | other)
    with pytest.raises(ValueError, match=f"second.h5: expected other skies made as .*; {message}"):
        join_patch_sets([first, second], tmp_path / "set.h5")
    assert sorted(os.listdir(tmp_path)) == ["first.h5", "second.h5"]
