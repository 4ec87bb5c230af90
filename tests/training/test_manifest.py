import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sets import write_made_set, write_schema_1
from made_skies import made_patches

from astro_unetloc.training.patch_set import is_validation, sky_checksum, verify_patch_set


def made_columns(seed=3):
    columns, sources = made_patches(seed, n_patches=2, n_pix=16)
    return columns | {"validation": is_validation(columns["sky"])}, sources


@pytest.fixture
def path(tmp_path):
    write_made_set(tmp_path / "set.h5", [4, 5, 6], n_patches=2, n_pix=16)
    return tmp_path / "set.h5"


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


def test_damaged_images_are_found(path):
    with h5py.File(path) as file:
        chunk = file["image"].id.get_chunk_info(5)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"got others for 1 of 3 skies \(6\)"):
        verify_patch_set(path)


def test_first_schema_has_no_checksums(tmp_path):
    write_schema_1(tmp_path / "old.h5")
    with pytest.raises(ValueError, match="with checksums, schema 2; got schema 1; make it again"):
        verify_patch_set(tmp_path / "old.h5")


def test_progress_counts_skies(path):
    seen = []
    verify_patch_set(path, progress=lambda skies, total: seen.append(total) or skies)
    assert seen == [3]
