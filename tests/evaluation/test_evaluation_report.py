import json
import os
from dataclasses import replace

import numpy as np
import pytest
from made_predictions import made_judgement, made_predictions

from astro_unetloc.evaluation import report as evaluation_report
from astro_unetloc.evaluation.report import (
    check_folder,
    report_tables,
    report_words,
    summary_lines,
    write_evaluation,
)
from astro_unetloc.evaluation.runs import EvaluationRun, predictions_bytes, worst_patches
from astro_unetloc.evaluation.truth import join
from astro_unetloc.training.patch_set import write_whole


@pytest.fixture
def run():
    about = {"model": "made", "seeds": range(2)}
    return EvaluationRun(made_judgement(3), 0.5, about, source_free=made_judgement(3))


@pytest.fixture
def plain(monkeypatch):
    """A report without figures, which take their time."""
    monkeypatch.setattr(evaluation_report, "draw", lambda name, table: None)


def test_lines_are_of_what_is_listed_but_for_average_precision(run):
    listed, whole = run.judgement.select(0.5).evaluation(), run.judgement.evaluation()
    expected = listed.summary().replace(
        f"{listed.average_precision:.3f}", f"{whole.average_precision:.3f}"
    )
    assert len(listed.correct) < len(whole.correct)
    assert listed.average_precision < whole.average_precision
    lines = summary_lines(run)
    assert lines[0] == f"all sky       {expected}"
    assert lines[1].startswith("|b| > 10 deg  0 true sources")


def test_tables_are_those_of_the_threshold(run):
    tables = report_tables(run)
    listed = run.judgement.select(0.5).catalog
    assert tables["summary_table"]["N_Listed"][0] == len(listed)
    assert len(set(tables["by_threshold"]["Score"])) > len(listed)
    wrong = np.sum(listed["Verdict"] == "wrong")
    assert tables["source_free"]["N_Wrong"][0] == wrong
    assert tables["source_free"].meta["title"] == "False alarms on a sky without sources"
    assert tables["false_alarms"].meta["title"] == "False alarms"
    assert "comparison" not in tables


def test_false_alarms_of_an_empty_sky_are_said(run):
    words = report_words(run, report_tables(run))
    wrong = np.sum(run.source_free.select(0.5).catalog["Verdict"] == "wrong")
    assert words[1] == [
        f"A sky without sources: {wrong} false alarms, {wrong:.2f} per 100 square degrees"
    ]


def test_rival_is_compared(run):
    parts = [made_judgement(seed) for seed in (3, 40)]
    both = replace(
        run, judgement=join(parts), rival=join(parts), rival_name="other", rival_threshold=0.5
    )
    words = report_words(both, {})
    assert words[-1][0] == "Against other:"
    assert "no difference is seen in average precision" in words[-1][1]
    table = report_tables(both)["comparison"]
    assert np.all(table["Difference"][:4] == 0)
    assert "about 5% of the rows is called real by chance" in table.meta["about"]


def test_words_stand_on_the_page(run, tmp_path, plain):
    paths, words = write_evaluation(run, tmp_path / "out", command="astro-unetloc evaluate")
    assert paths[-1].name == "index.html"
    page = paths[-1].read_text()
    assert words[0][0].replace("all sky       ", "all sky: ") in page
    assert "astro-unetloc evaluate" in page
    meta = json.loads((tmp_path / "out" / "scores.json").read_text())["meta"]
    assert meta == {
        "command": "astro-unetloc evaluate", "model": "made", "seeds": [0, 1], "threshold": 0.5
    }  # fmt: skip


def test_report_without_a_threshold_lists_all(run, tmp_path, plain):
    every = replace(run, threshold=-np.inf)
    write_evaluation(every, tmp_path / "out")
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["meta"]["threshold"] == "none"
    listed = scores["tables"]["summary_table"]["columns"]["N_Listed"]["values"][0]
    assert listed == len(run.judgement.catalog)


def test_cases_are_the_worst_and_those_asked_for(run, tmp_path, plain):
    path = tmp_path / "predictions.h5"
    recipe = {"model": "made", "pixel_deg": 10 / 32}
    write_whole(path, predictions_bytes(*made_predictions(3, n_patches=3), recipe=recipe))
    worst = worst_patches(path, 1, threshold=0.5)
    other = next(c for c in ("sky000003-p000", "sky000003-p001") if c not in worst)
    with_file = replace(run, predictions=path)
    paths, _ = write_evaluation(with_file, tmp_path / "out", codes=[other], n_cases=1)
    names = sorted(p.name for p in paths if p.name.startswith("case-"))
    assert names == sorted([f"case-{worst[0]}.png", f"case-{other}.png"])
    assert paths[0] == tmp_path / "out" / "predictions.h5"
    assert paths[0].exists()
    assert not path.exists()
    assert "false" in paths[-1].read_text()
    write_evaluation(run, tmp_path / "out", overwrite=True)
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert "predictions.h5" not in left
    assert not any(name.startswith("case-") for name in left)


def test_true_sources_of_a_case_are_drawn_with_their_radii(run, tmp_path, monkeypatch):
    patches, judgement = made_predictions(3)
    patches.sources["radius"] = patches.sources["x"]
    path, recipe = tmp_path / "predictions.h5", {"model": "made", "pixel_deg": 10 / 32}
    write_whole(path, predictions_bytes(patches, judgement, recipe=recipe))
    drawn = []
    monkeypatch.setattr(
        evaluation_report, "draw_case", lambda *args, **kwargs: drawn.append((args, kwargs))
    )
    evaluation_report._case(replace(run, predictions=path), "sky000003-p000")
    (((*_, true_xy, _), options),) = drawn
    assert len(true_xy) > 3
    assert options["radius_deg"].tolist() == true_xy[:, 0].tolist()


@pytest.mark.parametrize("name", ["index.html", "scores.json", "predictions.h5"])
def test_finished_report_is_kept(tmp_path, name):
    check_folder(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match="allow overwriting"):
        check_folder(tmp_path)
    check_folder(tmp_path, overwrite=True)


def test_folder_must_be_possible(tmp_path):
    check_folder(tmp_path / "new")
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="directory must exist"):
        check_folder(tmp_path / "no" / "new")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        check_folder(tmp_path / "file")
