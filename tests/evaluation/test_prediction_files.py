import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from made_predictions import made_judgement, made_predictions
from made_sets import full_disk

from astro_unetloc.evaluation.runs import (
    join_predictions,
    predictions_bytes,
    read_case,
    read_judgement,
    read_recipe,
    worst_patches,
)
from astro_unetloc.training.patch_set import write_whole

RECIPE = {
    "model": "made",
    "pixel_deg": 10 / 32,
    "years": 7.0,
    "all_skies": False,
    "codes": ["a", "b"],
}


def assert_same_table(table, other):
    assert table.colnames == other.colnames
    for name in table.colnames:
        np.testing.assert_array_equal(
            np.ma.filled(np.ma.asarray(table[name].value), np.nan)
            if table[name].dtype.kind == "f"
            else np.asarray(table[name]),
            np.ma.filled(np.ma.asarray(other[name].value), np.nan)
            if other[name].dtype.kind == "f"
            else np.asarray(other[name]),
            err_msg=name,
        )


@pytest.fixture
def parts(tmp_path):
    paths = []
    for seed in (3, 40):
        paths.append(tmp_path / f"{seed}.h5")
        write_whole(paths[-1], predictions_bytes(*made_predictions(seed), recipe=RECIPE))
    return paths


@pytest.fixture
def joined(parts, tmp_path):
    join_predictions(parts, tmp_path / "all.h5", recipe=RECIPE)
    return tmp_path / "all.h5"


def test_recipe_comes_back_as_plain_values(parts):
    assert read_recipe(parts[0]) == RECIPE


def test_judgement_comes_back_as_it_was(parts):
    found, expected = read_judgement(parts[0]), made_judgement(3)
    assert_same_table(found.catalog, expected.catalog)
    assert_same_table(found.truth, expected.truth)
    assert found.area_deg2 == 100.0
    assert found.catalog["Npred"].mask[0] == expected.catalog["Npred"].mask[0]
    assert found.catalog["Offset"].unit == "deg"
    assert found.select(0.6).evaluation().n_true == expected.select(0.6).evaluation().n_true


def test_which_source_took_a_detection_comes_back(tmp_path):
    patches, judgement = made_predictions(3)
    for brightest in (False, True):
        path = tmp_path / f"{brightest}.h5"
        told = replace(judgement, brightest=brightest)
        write_whole(path, predictions_bytes(patches, told, recipe=RECIPE))
        assert read_judgement(path).brightest is brightest
        assert read_recipe(path) == RECIPE


def test_sky_of_nothing_comes_back(tmp_path):
    whole = made_judgement(0)
    write_whole(
        tmp_path / "none.h5",
        predictions_bytes(None, whole._take(np.zeros(0, int), np.zeros(0, int)), recipe=RECIPE),
    )
    found = read_judgement(tmp_path / "none.h5")
    assert (len(found.catalog), len(found.truth)) == (0, 0)
    assert found.catalog.colnames == whole.catalog.colnames


def test_joined_file_holds_the_patches_of_all_parts(joined):
    with h5py.File(joined) as file:
        for name in ("image", "coverage", "mask", "bands", "center", "sky", "code", "probability"):
            values = np.concatenate(
                [
                    made_predictions(seed)[0].columns["counts" if name == "image" else name]
                    for seed in (3, 40)
                ]
            )
            np.testing.assert_array_equal(file[name][:], values.astype(file[name].dtype), name)
        assert file["probability"].dtype == np.float16
        for name in ("sources", "found"):
            rows = [getattr(made_predictions(seed)[0], name) for seed in (3, 40)]
            patch = np.concatenate([rows[0]["patch"], rows[1]["patch"] + 2])
            np.testing.assert_array_equal(file[name]["patch"], patch)
            np.testing.assert_array_equal(file[name]["x"], np.concatenate([r["x"] for r in rows]))


def test_joined_judgement_is_that_of_all_parts(joined):
    found = read_judgement(joined)
    assert len(found.truth) == 24
    assert found.area_deg2 == 200.0
    assert set(found.truth["Part"]) == {"3/0", "40/0"}
    row = found.catalog["True_Row"]
    assert np.all(found.truth["Found_Row"][row[row >= 0]] == np.flatnonzero(row >= 0))


def test_file_is_read_with_h5py_alone(joined):
    code = f"""
import h5py, sys
with h5py.File({str(joined)!r}) as file:
    row = list(file["code"][:]).index(b"sky000040-p001")
    sources = file["sources"][:]
    print(file["image"][row].shape, file["probability"][row].max() > 0,
          len(sources[sources["patch"] == row]), file["catalog"][:]["Verdict"][0] in
          (b"right", b"wrong"), file["truth"].dtype["Npred"], file.attrs["model"],
          "astro_unetloc" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n = (made_predictions(40)[0].sources["patch"] == 1).sum()
    assert done.stdout.split("\n")[0] == f"(32, 32, 5) True {n} True float64 made False"


def test_tables_have_the_columns_that_are_promised(joined):
    with h5py.File(joined) as file:
        catalog, truth = file["catalog"][:], file["truth"][:]
    assert catalog["Npred.mask"].dtype == bool
    assert set(catalog["Verdict"]) <= {b"right", b"wrong", b"ignored"}
    assert {"Sep_Counted", "Sep_Extended"} <= set(truth.dtype.names)


def test_case_is_one_patch_with_its_sources(joined):
    case, (patches, _) = read_case(joined, "sky000040-p001"), made_predictions(40)
    np.testing.assert_array_equal(case.counts, patches.columns["counts"][1])
    assert case.mask.shape == case.probability.shape == (32, 32)
    assert case.center == (43.0, 0.0, 0.0)
    for name in ("sources", "found"):
        rows = getattr(patches, name)
        rows = rows[rows["patch"] == 1]
        np.testing.assert_array_equal(getattr(case, name)["x"], rows["x"])
        assert len(rows)


def test_unknown_case_is_refused(joined):
    with pytest.raises(ValueError, match="got 'sky9'; its 4 patches are named as sky000003-p000"):
        read_case(joined, "sky9")


def test_worst_patches_have_most_misses_and_false_detections(joined):
    def errors(code, threshold):
        case = read_case(joined, code)
        missed = (case.sources["role"] == b"counted") & ~(case.sources["score"] >= threshold)
        wrong = (case.found["verdict"] == b"wrong") & (case.found["score"] >= threshold)
        return missed.sum() + wrong.sum()

    codes = worst_patches(joined, 4, threshold=0.5)
    numbers = [errors(code, 0.5) for code in codes]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > 0
    assert worst_patches(joined, 1, threshold=0.5) == codes[:1]


def test_perfect_patches_are_no_bad_cases(tmp_path):
    patches, judgement = made_predictions(3)
    right = patches.sources[patches.sources["score"] > 0]
    perfect = type(patches)(patches.columns, right, patches.found[:0])
    write_whole(tmp_path / "a.h5", predictions_bytes(perfect, judgement, recipe=RECIPE))
    assert worst_patches(tmp_path / "a.h5", 4, threshold=0.0) == []


def test_parts_without_patches_add_to_the_judgement_alone(parts, tmp_path):
    bare = tmp_path / "bare.h5"
    write_whole(bare, predictions_bytes(None, made_judgement(80), recipe=RECIPE))
    judgement = join_predictions([parts[0], bare, parts[1]], tmp_path / "all.h5", recipe=RECIPE)
    assert len(judgement.truth) == 36
    with h5py.File(tmp_path / "all.h5") as file:
        assert len(file["image"]) == 4
        assert file["sources"]["patch"].max() == 3


def test_damaged_file_is_refused(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"no")
    with pytest.raises(ValueError, match="expected predictions in HDF5"):
        read_judgement(tmp_path / "bad.h5")


def test_full_disk_leaves_nothing(parts, tmp_path):
    with full_disk(30_000), pytest.raises(OSError, match="make room and run the same again"):
        join_predictions(parts, tmp_path / "all.h5", recipe=RECIPE)
    assert not list(tmp_path.glob("*all.h5*"))
