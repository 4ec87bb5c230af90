import numpy as np
import pytest
from made_predictions import made_predictions

from astro_unetloc.evaluation.runs import Workplace, read_judgement

RECIPE = {"model": "made", "pixel_deg": 10 / 32}


@pytest.fixture
def jobs():
    """Two parts, and a list of those that were made."""
    done = []

    def job(seed):
        def make():
            done.append(seed)
            return made_predictions(seed)

        return make

    return {f"sky{seed}": job(seed) for seed in (3, 40)}, done


def test_without_a_folder_nothing_is_kept(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judgement = Workplace().judged(RECIPE, jobs[0])
    assert len(judgement.truth) == 24
    assert not list(tmp_path.iterdir())


def test_parts_are_made_once(jobs, tmp_path):
    place = Workplace(tmp_path / "parts")
    first, again = (place.judged(RECIPE, jobs[0]) for _ in range(2))
    assert jobs[1] == [3, 40]
    np.testing.assert_array_equal(first.catalog["Score"], again.catalog["Score"])
    fresh = Workplace().judged(RECIPE, jobs[0])
    np.testing.assert_array_equal(first.catalog["Score"], fresh.catalog["Score"])


def test_parts_are_joined_to_one_file(jobs, tmp_path):
    judgement = Workplace(tmp_path).judged(RECIPE, jobs[0], joined="all.h5")
    found = read_judgement(tmp_path / "all.h5")
    assert len(found.catalog) == len(judgement.catalog)
    assert found.area_deg2 == judgement.area_deg2 == 200.0


def test_parts_of_another_recipe_are_refused_before_any_work(jobs, tmp_path):
    only = {"sky40": jobs[0]["sky40"]}
    Workplace(tmp_path).judged(RECIPE, only)
    other = RECIPE | {"model": "other"}
    with pytest.raises(ValueError, match=r"sky40.h5: .* got model 'made', not 'other'; give the"):
        Workplace(tmp_path).judged(other, jobs[0])
    assert jobs[1] == [40]
    Workplace(tmp_path, overwrite=True).judged(other, jobs[0])
    assert jobs[1] == [40, 3, 40]


def test_progress_is_told_of_parts(jobs):
    said = []

    def progress(iterable, desc):
        said.append(desc)
        return iterable

    Workplace().judged(RECIPE, jobs[0], progress=progress)
    assert said == ["parts"]


def test_a_cleared_place_is_gone(jobs, tmp_path):
    place = Workplace(tmp_path / "parts")
    place.judged(RECIPE, jobs[0], joined="all.h5")
    place.beside("against").judged(RECIPE, jobs[0])
    place.clear()
    Workplace().clear()
    assert not list(tmp_path.iterdir())


def test_files_of_others_stay_when_a_place_is_cleared(jobs, tmp_path):
    place = Workplace(tmp_path / "parts")
    place.judged(RECIPE, jobs[0], joined="all.h5")
    mine = [tmp_path / "parts" / "notes.txt", tmp_path / "parts" / "sky.h5"]
    for path in mine:
        path.touch()
    place.clear()
    assert sorted((tmp_path / "parts").iterdir()) == mine
