"""The report of an evaluation.

Debian's Chromium opens the page, where it is installed with its driver.
"""

import json
import os
import re
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from made_pages import Reader, refers_outside
from made_predictions import made_matches, made_predictions

from astro_unetloc.evaluation import report as report_module
from astro_unetloc.evaluation.classes import classified
from astro_unetloc.evaluation.predictions import worst_patches, write_predictions
from astro_unetloc.evaluation.report import (
    check_folder,
    report_paragraphs,
    report_tables,
    write_evaluation,
)
from astro_unetloc.evaluation.runs import EvaluationRun
from astro_unetloc.evaluation.truth import join_matches

METADATA = {"model": "made", "seeds": range(2), "note": "<script>alert(1)</script> & so on"}


PART = np.array([0.5, 1.0, 0.875, 0.75, 0.625, 0.25])
ODD = QTable(
    {
        "Name": ["b", "a", "c", "d", "10", "9"],
        "Value": [10.0, np.nan, 9.0, -0.5, 99.0, np.inf],
        "Whole": [3, 1, 2, 10, 5, 4],
        "Yes": [True, False, True, True, False, False],
        "Low": [8.0, 12.0, 20.0, 40.0, 100.0, 1000.0],
        "Offset": [0.0171, 0.0169, 0.0181, 0.2, np.nan, 0.1] * u.deg,
        "Flux": [1.5e-11, 3e-11, 1e-10, 4e-10, 1e-9, np.nan] / (u.cm**2 * u.s),
        **{"Part": PART, "Part_Low": PART - 0.03, "Part_High": PART + 0.03},
    },
    meta={"title": "Odd <numbers>", "about": "Some are unknown."},
)


@pytest.fixture(scope="module")
def run():
    return EvaluationRun(made_matches(3), 0.5, METADATA, source_free=made_matches(3))


def example_file(path, **options):
    """A file of predictions."""
    write_predictions(path, *made_predictions(3, **options), {"pixel_deg": 10 / 32})
    return path


@pytest.fixture
def out(tmp_path, monkeypatch):
    """Folder of a report without figures, which take their time."""
    monkeypatch.setattr(report_module, "draw", lambda name, table: None)
    return tmp_path / "out"


def scores_of(folder):
    return json.loads((folder / "scores.json").read_text())


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """Files of a report with figures and examples."""
    folder = tmp_path_factory.mktemp("report")
    run = replace(run, predictions=example_file(folder / "predictions.h5"))
    tables, names = (
        report_tables(run),
        ("summary_table", "by_photons", "expected_numbers", "class_scores"),
    )
    tables = {name: tables[name] for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "report_tables", lambda run: tables | {"odd": ODD})
        return write_evaluation(run, folder / "scores", codes=["sky000003-p001"])[0]


@pytest.fixture(scope="module")
def folder(written):
    return written[0].parent


def test_scores_are_those_of_the_list_but_for_average_precision(run):
    listed, whole = run.matches.select(0.5).evaluation(), run.matches.evaluation()
    expected = listed.summary().replace(
        f"{listed.average_precision:.3f}", f"{whole.average_precision:.3f}"
    )
    assert len(listed.correct) < len(whole.correct)
    assert listed.average_precision < whole.average_precision
    lines, numbers, classes = report_paragraphs(replace(run, source_free=None))
    n_real, n = np.sum(run.matches.select(0.5).is_real), len(listed.correct)
    assert numbers[0].startswith(f"all sky       {n_real} of {n} detections are real, ")
    assert lines[0] == f"all sky       {expected}"
    assert lines[1].startswith("|b| > 10 deg  0 true sources")
    n_psr = int(np.sum(classified(run.matches.select(0.5)).true_class == 1))
    assert classes[0].startswith(f"all sky             {n_psr} pulsars, ")


def test_tables_are_those_of_the_threshold(run):
    tables = report_tables(run)
    listed = run.matches.select(0.5)
    assert tables["summary_table"]["N_Listed"][0] == len(listed.catalog)
    assert len(set(tables["by_threshold"]["Score"])) > len(listed.catalog)
    n_false = listed.has_status("false positive").sum()
    assert tables["source_free"]["N_False"][0] == n_false
    assert tables["source_free"].meta["title"] == "False positives on a sky without sources"
    assert tables["false_positives"].meta["title"] == "False positives"
    assert "comparison" not in tables
    assert report_paragraphs(run, tables)[3] == [
        f"A sky without sources: {n_false} false positives, {n_false:.2f} per 100 square degrees"
    ]


def test_baseline_is_compared(run):
    both = join_matches([made_matches(seed) for seed in (3, 40)])
    run = replace(run, matches=both, baseline=both, baseline_name="other", baseline_threshold=0.5)
    words = report_paragraphs(run)
    assert words[-1][0] == "Compared with other:"
    assert "no significant difference of average precision" in words[-1][1]
    table = report_tables(run)["comparison"]
    assert np.all(table["Difference"][:4] == 0)
    assert "about 5% of the rows are significant by chance" in table.meta["about"]


def test_words_stand_on_the_page(run, out):
    paths, words = write_evaluation(run, out, command="astro-unetloc evaluate")
    assert paths[-1].name == "index.html"
    page = paths[-1].read_text()
    assert words[0][0].replace("all sky       ", "all sky: ") in page
    assert "astro-unetloc evaluate" in page
    assert "There is nothing to list." in page
    content = scores_of(out)
    expected = {"command": "astro-unetloc evaluate", "seeds": [0, 1], "threshold": 0.5}
    assert content["meta"] == METADATA | expected
    assert set(content["tables"]["reliability"]["meta"]["ece"]) >= {"all sky"}
    with pytest.raises(FileExistsError):
        write_evaluation(run, out)
    # without a threshold all are listed
    write_evaluation(replace(run, threshold=-np.inf), out, overwrite=True)
    scores = scores_of(out)
    assert scores["meta"]["threshold"] == "none"
    listed = scores["tables"]["summary_table"]["columns"]["N_Listed"]["values"][0]
    assert listed == len(run.matches.catalog)


def test_examples_are_the_worst_patches_and_those_asked_for(run, tmp_path, out):
    path = example_file(tmp_path / "predictions.h5", n_patches=3)
    worst = worst_patches(path, 1, threshold=0.5)
    other = next(c for c in ("sky000003-p000", "sky000003-p001") if c not in worst)
    with_file = replace(run, predictions=path)
    paths, _ = write_evaluation(with_file, out, codes=[other], n_examples=1)
    names = {p.name for p in paths if p.name.startswith("case-")}
    assert names == {f"case-{worst[0]}.png", f"case-{other}.png"}
    assert paths[0] == out / "predictions.h5"
    assert paths[0].exists()
    assert not path.exists()
    assert "false positives" in paths[-1].read_text()
    write_evaluation(run, out, overwrite=True)
    left = {p.name for p in out.iterdir()}
    assert not left & {"predictions.h5", *names}


def test_finished_report_is_kept_and_the_folder_possible(tmp_path):
    for name in ("index.html", "scores.json", "predictions.h5"):
        check_folder(tmp_path)
        (tmp_path / name).touch()
        with pytest.raises(FileExistsError, match="allow overwriting"):
            check_folder(tmp_path)
        check_folder(tmp_path, overwrite=True)
        (tmp_path / name).unlink()
    check_folder(tmp_path / "new")
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="directory must exist"):
        check_folder(tmp_path / "no" / "new")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        check_folder(tmp_path / "file")


def test_files_have_the_names_of_their_tables(written, folder):
    names = sorted(path.name for path in written)
    assert names == sorted([
        "predictions.h5", "summary_table.ecsv", "by_photons.ecsv", "odd.ecsv", "summary_table.png",
        "by_photons.png", "expected_numbers.ecsv", "class_scores.ecsv", "class_scores.png",
        "case-sky000003-p000.png",
        "case-sky000003-p001.png", "scores.json", "index.html",
    ])  # fmt: skip
    assert names == sorted(os.listdir(folder)) == sorted(scores_of(folder)["files"])


def test_tables_are_read_back_as_they_were(folder):
    """JSON holds numbers as numbers and null for unknown ones."""
    read = QTable.read(folder / "odd.ecsv")
    assert (read.colnames, read.meta["title"]) == (ODD.colnames, ODD.meta["title"])
    for column in ODD.colnames:
        np.testing.assert_array_equal(read[column], ODD[column], err_msg=column)
    columns = scores_of(folder)["tables"]["odd"]["columns"]
    assert columns["Value"] == {"unit": None, "values": [10.0, None, 9.0, -0.5, 99.0, None]}
    assert columns["Yes"]["values"] == [True, False, True, True, False, False]
    offset = {"unit": "deg", "values": [0.0171, 0.0169, 0.0181, 0.2, None, 0.1]}
    assert columns["Offset"] == offset


def test_files_of_the_report_before_are_removed_and_no_others(run, tmp_path, out):
    write_evaluation(run, out)
    mine = [out / "notes.txt", out / "mine.png", tmp_path / "outside.png"]
    for path in [*mine, out / "old.png"]:
        path.touch()
    content = scores_of(out)
    content["files"] += ["../outside.png", "notes.txt", ".", "", 3, "old.png"]
    (out / "scores.json").write_text(json.dumps(content))
    write_evaluation(replace(run, source_free=None), out, overwrite=True)
    assert all(path.exists() for path in mine)
    assert not (out / "old.png").exists()
    assert not (out / "source_free.ecsv").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"creator": "other 1", "files": ["mine.png"]}', '{"creator": "x"}']
)
def test_another_scores_json_names_nothing_to_remove(run, tmp_path, out, text):
    (tmp_path / "scores.json").write_text(text)
    (tmp_path / "mine.png").touch()
    write_evaluation(run, tmp_path, overwrite=True)
    assert (tmp_path / "mine.png").exists()


@pytest.fixture(scope="module")
def page_text(folder):
    return (folder / "index.html").read_text(encoding="utf-8")


def test_page_refers_to_nothing_outside_and_escapes_its_texts(page_text):
    page = Reader(page_text)
    assert list(refers_outside(page_text)) == []
    policy = next(a["content"] for t, a in page.elements if "Policy" in a.get("http-equiv", ""))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http" not in policy

    # texts are escaped, and pictures have a text for those who do not see them
    assert "<script>alert" not in page_text
    assert "<numbers>" not in page_text
    assert {"<script>alert(1)</script> & so on", "Odd <numbers>"} <= set(page.texts)
    alts = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert alts[0] == "Figure: Summary. The numbers are in the table."
    assert alts[-1].startswith("Patch sky000003-p00")
    assert len(alts) == 5


def test_numbers_are_rounded_alike_and_edges_are_not(page_text):
    texts = [text.strip() for text in Reader(page_text).texts if text.strip()]
    assert {"deg", "s⁻¹ cm⁻²"} <= set(texts)
    for shown in (
        ["b", "10.0", "3", "True", "8", "0.017", "1.50e-11", "0.500", "0.470–0.530"],
        ["a", "–", "1", "False", "12"],
        ["9", "∞", "4", "False", "1000", "0.100", "–", "0.250"],
    ):
        n = len(shown)
        assert shown in [texts[k : k + n] for k in range(len(texts))]


@pytest.fixture
def page(browser, folder):
    """The report, opened."""
    browser.get((folder / "index.html").as_uri())
    return browser


def column(page, number):
    """Text of the cells of a column of the table, without intervals."""
    cells = page.find_elements("css selector", f"#odd tbody tr td:nth-child({number})")
    return [cell.text.split(" ")[0] for cell in cells]


def head(page, number):
    """The button of a column, and the cell that holds it."""
    cell = page.find_element("css selector", f"#odd thead th:nth-child({number})")
    return cell.find_element("tag name", "button"), cell


def test_browser_loads_the_page_alone_and_every_picture(page):
    assert page.get_log("browser") == []
    assert page.title == "Evaluation"
    names = page.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in names if not name.startswith("data:")] == []
    widths = page.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 5
    assert all(width > 300 for width in widths)


def test_browser_refuses_to_load_anything(browser, page_text, tmp_path):
    """The silence above means something: a picture of another place is refused, with a message."""
    image = '<img src="http://localhost:9/x.png" alt="">'
    (tmp_path / "index.html").write_text(page_text.replace("</main>", f"{image}</main>"), "utf-8")
    browser.get((tmp_path / "index.html").as_uri())
    messages = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "localhost:9" in messages
    assert "Content Security Policy" in messages


def test_click_on_a_head_sorts_numbers_up_and_a_second_one_down(page):
    button, cell = head(page, 2)
    assert cell.get_attribute("aria-sort") == "none"
    button.click()
    assert column(page, 2) == ["-0.5", "9.0", "10.0", "99.0", "∞", "–"]
    assert cell.get_attribute("aria-sort") == "ascending"
    button.click()
    assert column(page, 2) == ["∞", "99.0", "10.0", "9.0", "-0.5", "–"]
    assert cell.get_attribute("aria-sort") == "descending"
    button, _ = head(page, 3)
    button.click()
    assert column(page, 3) == ["1", "2", "3", "4", "5", "10"]
    assert cell.get_attribute("aria-sort") == "none"


def test_text_and_fractions_are_sorted_too_by_keys_too_and_whole_rows_move(page):
    head(page, 1)[0].click()
    assert column(page, 1) == ["9", "10", "a", "b", "c", "d"]
    assert column(page, 3) == ["4", "5", "1", "3", "2", "10"]
    button, _ = head(page, 8)
    button.click()
    button.click()
    assert column(page, 8) == ["1.000", "0.875", "0.750", "0.625", "0.500", "0.250"]
    button, _ = head(page, 2)
    for key, first in ((" ", "-0.5"), ("\n", "∞")):
        button.send_keys(key)
        assert column(page, 2)[0] == first


def test_page_is_as_wide_as_the_screen_and_dark_in_dark_mode(page):
    for width in (360, 1200):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def ground():
        color = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return max(int(number) for number in re.findall(r"\d+", color)[:3])

    for scheme, dark in (("light", False), ("dark", True)):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert (ground() < 100) == dark
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
