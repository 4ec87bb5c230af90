import os

import numpy as np
import pytest
from made_sets import RECIPE, assert_same_set, full_disk, write_made_set
from made_skies import made_patches

from astro_unetloc.training.patch_set import (
    join_patch_sets,
    open_patch_set,
    read_patch_set,
    sky_file_bytes,
    verify_patch_set,
    write_whole,
)


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
