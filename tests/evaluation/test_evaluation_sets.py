from types import SimpleNamespace

import numpy as np
import pytest
from made_sets import write_made_set

from astro_unetloc.evaluation.runs import check_bands, chosen_rows, predict_rows
from astro_unetloc.maps.patches import TangentPlane
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat
from astro_unetloc.training.make import make_patch_set
from astro_unetloc.training.patch_set import open_patch_set
from astro_unetloc.unet.model import load_model


@pytest.fixture(scope="module")
def patch_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "set.h5"
    make_patch_set(path, n_skies=2, patches_per_sky=6, first_seed=1010)
    with open_patch_set(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def predicted(patch_set):
    return predict_rows(patch_set, np.array([0, 2, 3, 5, 8]), load_model())


def test_only_skies_to_validate_on_are_taken(patch_set):
    assert chosen_rows(patch_set, 100)[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert chosen_rows(patch_set, 100, everything=True)[0].tolist() == list(range(12))
    drawn, named = chosen_rows(patch_set, 4)
    assert (len(drawn), len(named)) == (4, 0)
    np.testing.assert_array_equal(drawn, chosen_rows(patch_set, 4)[0])
    assert np.all(np.diff(drawn) > 0)


def test_names_do_not_change_what_is_drawn(patch_set):
    drawn, _ = chosen_rows(patch_set, 2)
    codes = [f"sky001010-{i:04d}" for i in range(6)]
    again, named = chosen_rows(patch_set, 2, codes=codes)
    np.testing.assert_array_equal(again, drawn)
    assert sorted([*again, *named]) == [0, 1, 2, 3, 4, 5]


def test_names_of_training_patches_and_of_none_are_refused(patch_set):
    with pytest.raises(ValueError, match=r"to validate on, such as sky001010-0000; .*--all-skies"):
        chosen_rows(patch_set, 2, codes=["sky001011-0003"])
    rows = chosen_rows(patch_set, 1, codes=["sky001011-0003"], everything=True)
    assert 9 in np.concatenate(rows)
    with pytest.raises(ValueError, match="code names of its patches, such as sky001010-0000; got"):
        chosen_rows(patch_set, 2, codes=["sky5"])


def test_set_without_such_skies_is_refused(tmp_path):
    write_made_set(tmp_path / "set.h5", [3, 4], n_patches=1, n_pix=16)
    with open_patch_set(tmp_path / "set.h5") as opened:
        with pytest.raises(ValueError, match="skies to validate on, .* got none; .* --all-skies"):
            chosen_rows(opened, 10)


def test_other_bands_are_refused(patch_set):
    model = SimpleNamespace(name="other", band_edges=np.array([10.0, 100.0]))
    with pytest.raises(ValueError, match=r"in the bands \[10.0, 100.0\] GeV of model other; got"):
        check_bands(patch_set, model)
    check_bands(patch_set, load_model())


def test_patches_are_kept_as_they_were(patch_set, predicted):
    columns = predicted[0].columns
    for name, values in patch_set.read(np.array([0, 2, 3, 5, 8])).items():
        if name != "validation":
            np.testing.assert_array_equal(columns[name], values)
    assert columns["probability"].shape == (5, 128, 128)
    assert columns["probability"][columns["coverage"][..., 0] == 0].max(initial=0) == 0


def test_sources_are_found_where_they_are(patch_set, predicted):
    _, judgement = predicted
    evaluation = judgement.select(load_model().threshold).evaluation()
    assert evaluation.n_true > 20
    assert evaluation.completeness > 0.6
    assert evaluation.purity > 0.6
    assert np.median(evaluation.offset_deg) < 0.08


def test_each_patch_is_judged_alone(predicted):
    patches, judgement = predicted
    codes = patches.columns["code"].astype(str)
    for table in (judgement.catalog, judgement.truth):
        np.testing.assert_array_equal(table["Part"], codes[table["Patch"]])
    matched = judgement.catalog[judgement.catalog["True_Row"] >= 0]
    source = judgement.truth[matched["True_Row"]]
    np.testing.assert_array_equal(matched["Patch"], source["Patch"])
    vectors = [
        vectors_from_lonlat(table["GLON"].value, table["GLAT"].value) for table in (matched, source)
    ]
    np.testing.assert_allclose(separation_deg(*vectors), matched["Offset"].value, atol=1e-9)


def test_pixels_are_those_of_the_set(patch_set, predicted):
    patches, _ = predicted
    stored = patch_set.sources()
    for number, row in enumerate([0, 2, 3, 5, 8]):
        true = stored[stored["patch"] == row]
        mine = patches.sources[patches.sources["patch"] == number]
        assert len(mine) == len(true)
        np.testing.assert_allclose(np.sort(mine["x"]), np.sort(true["x"]), atol=1e-3)
        plane = TangentPlane(
            *patches.columns["center"][number][:2], 128, 10 / 128,
            patches.columns["center"][number][2],
        )  # fmt: skip
        found = patches.found[patches.found["patch"] == number]
        x, y = plane.pixel_from_vectors(vectors_from_lonlat(found["glon"], found["glat"]))
        np.testing.assert_allclose(found["x"], x, atol=1e-3)
        assert np.all((y > -0.5) & (y < 127.5))


def test_unlabelled_bright_sources_are_extended(patch_set, predicted):
    _, judgement = predicted
    stored = patch_set.sources()
    stored = stored[np.isin(stored["patch"], [0, 2, 3, 5, 8])]
    bright = (stored["n_photons"] >= 3) & (stored["significance"] >= 3)
    assert np.sum(judgement.truth["Role"] == "extended") == np.sum(bright & ~stored["labelled"])


def test_false_detections_at_the_border_are_left_out(predicted):
    patches, judgement = predicted
    wrong = patches.found[patches.found["verdict"] == b"wrong"]
    duplicate = judgement.catalog["Is_Duplicate"] & (judgement.catalog["Verdict"] == "wrong")
    border = 0.3 / (10 / 128)
    inside = np.all(
        [(wrong[n] >= border - 0.5) & (wrong[n] < 127.5 - border) for n in ("x", "y")], axis=0
    )
    assert np.sum(~inside) <= duplicate.sum()
    assert 0 < judgement.area_deg2 < 5 * 9.4**2
