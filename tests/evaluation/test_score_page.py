"""The page of an evaluation and the files beside it.

Debian's Chromium opens the page, where it is installed with its driver.
"""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from astropy.table import MaskedColumn, QTable
from conftest import skip_unless_in_ci
from made_scores import make_tables

from astro_unetloc.evaluation.figures import draw, draw_case
from astro_unetloc.evaluation.report import _formatter, write_report

META = {"Model": "lat-10gev", "Seeds": range(1010, 1012), "Versions": {"numpy": "2.1"}}
ABOUT = "All sky: 91 % found.\n\nAnd <script>alert(1)</script> & so on."
ODD = {"title": "Odd <numbers>", "about": "Some are unknown."}
ODD_TABLE = QTable(
    {
        "Name": ["b", "a", "c", "d", "10", "9"],
        "Value": [10.0, np.nan, 9.0, -0.5, 99.0, np.inf],
        "Whole": MaskedColumn([3, 1, 2, 10, 5, 4], mask=[0, 0, 0, 0, 0, 1]),
        "Yes": [True, False, True, True, False, False],
    },
    meta=ODD,
)


def write(folder, names=("summary_table", "by_photons"), *, with_cases=True, **options):
    """A report on hand-made tables, and its paths."""
    tables = {**make_tables(names), "odd": ODD_TABLE}
    image = np.zeros((16, 16))
    case = draw_case(image, image, image, [(1, 2)], [(3, 4)], code="sky000001-0002")
    options = {"meta": META, "about": ABOUT} | options
    if with_cases:
        options["cases"] = [("sky000001-0002", case, "1 missed & 1 wrong")]
    return write_report(folder, tables, {n: draw(n, t) for n, t in tables.items()}, **options)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Files of a report that was written."""
    return write(tmp_path_factory.mktemp("page") / "scores")


@pytest.fixture(scope="module")
def folder(paths):
    """Folder of the report."""
    return paths[0].parent


def test_files_have_the_names_of_what_they_hold(paths, folder):
    names = [path.name for path in paths]
    assert names == [
        "summary_table.ecsv",
        "by_photons.ecsv",
        "odd.ecsv",
        "summary_table.png",
        "by_photons.png",
        "case-sky000001-0002.png",
        "scores.json",
        "index.html",
    ]
    assert sorted(names) == sorted(path.name for path in folder.iterdir())


def test_tables_are_read_back_as_they_were(folder):
    for name, table in {**make_tables(["by_photons"]), "odd": ODD_TABLE}.items():
        read = QTable.read(folder / f"{name}.ecsv")
        assert read.colnames == table.colnames
        assert read.meta["title"] == table.meta["title"]
        for column in table.colnames:
            np.testing.assert_array_equal(read[column], table[column], err_msg=column)


def test_json_holds_numbers_as_numbers_and_null_for_unknown(folder):
    content = json.loads((folder / "scores.json").read_text())
    assert content["meta"] == {
        "Model": "lat-10gev", "Seeds": [1010, 1011], "Versions": {"numpy": "2.1"}
    }  # fmt: skip
    assert content["about"] == ABOUT
    columns = content["tables"]["odd"]["columns"]
    assert columns["Value"] == {"unit": None, "values": [10.0, None, 9.0, -0.5, 99.0, None]}
    assert columns["Whole"]["values"] == [3, 1, 2, 10, 5, None]
    assert columns["Yes"]["values"] == [True, False, True, True, False, False]
    summary = content["tables"]["summary_table"]["columns"]
    assert summary["Median_Offset"] == {"unit": "deg", "values": [0.0171, 0.0169, 0.0181]}


def test_cases_say_what_the_mask_shows(folder, tmp_path):
    said = "on simulated skies at those that count"
    assert said in (folder / "index.html").read_text()
    paths = write(tmp_path / "none", ["summary_table"], with_cases=False)
    assert said not in paths[-1].read_text()


def test_json_names_all_files(folder):
    content = json.loads((folder / "scores.json").read_text())
    assert sorted(content["files"]) == sorted(path.name for path in folder.iterdir())


def test_files_of_the_report_before_are_removed_and_no_others(tmp_path):
    out = tmp_path / "out"
    write(out, more=["predictions.h5"])
    mine = [out / "notes.txt", out / "by_flux.png", out / "parts.h5", tmp_path / "outside.png"]
    (out / "folder.png").mkdir()
    for path in [*mine, out / "predictions.h5"]:
        path.touch()
    content = json.loads((out / "scores.json").read_text())
    content["files"] += ["../outside.png", str(mine[-1]), "notes.txt", "folder.png", ".", "", 3]
    (out / "scores.json").write_text(json.dumps(content))
    write(out, ["summary_table"], with_cases=False, overwrite=True)
    names = ["summary_table.ecsv", "summary_table.png", "odd.ecsv", "scores.json", "index.html"]
    kept = [out / name for name in (*names, "folder.png")]
    assert sorted(out.iterdir()) == sorted([*kept, *mine[:-1]])
    assert mine[-1].exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"creator": "other 1", "files": ["mine.png"]}', '{"creator": "x"}']
)
def test_another_scores_json_names_nothing_to_remove(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    (tmp_path / "mine.png").touch()
    write_report(tmp_path, {}, {}, meta={}, about="", overwrite=True)
    assert (tmp_path / "mine.png").exists()


def test_what_a_table_says_of_itself_is_in_the_json(tmp_path):
    tables = make_tables(["reliability"])
    write_report(tmp_path / "s", tables, {}, meta={}, about="")
    content = json.loads((tmp_path / "s" / "scores.json").read_text())
    assert content["tables"]["reliability"]["meta"]["ece"]["all sky"] == 0.01


class Reader(HTMLParser):
    """Which elements a page has, with what attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_page_refers_to_nothing_outside(folder):
    page = Reader((folder / "index.html").read_text(encoding="utf-8"))
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value[:80])
    policy = next(a["content"] for t, a in page.elements if "Policy" in a.get("http-equiv", ""))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_page_escapes_what_it_is_given(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<numbers>" not in text
    page = Reader(text)
    assert "And <script>alert(1)</script> & so on." in page.texts
    assert "Odd <numbers>" in page.texts


def test_pictures_have_words_for_those_who_do_not_see_them(folder):
    page = Reader((folder / "index.html").read_text(encoding="utf-8"))
    alts = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert alts == [
        "Figure: Summary table. What summary_table says. The numbers are in the table.",
        "Figure: By photons. What by_photons says. The numbers are in the table.",
        "Patch sky000001-0002: counts, mask, probability, true and found sources. "
        "1 missed & 1 wrong",
    ]


def test_page_can_be_written_without_tables_figures_or_cases(tmp_path):
    paths = write_report(tmp_path / "s", {}, {"x": None}, meta={}, about="Nothing.")
    assert [path.name for path in paths] == ["scores.json", "index.html"]
    empty = make_tables(["misses"])["misses"][:0]
    write_report(tmp_path / "t", {"misses": empty}, {}, meta={}, about="")
    assert "Nothing of this kind." in (tmp_path / "t" / "index.html").read_text()


def test_nothing_is_overwritten_unasked_and_nothing_half_written(tmp_path):
    folder = tmp_path / "scores"
    options = {"names": (), "with_cases": False}
    names = {path.name for path in write(folder, **options)}
    (folder / "odd.ecsv").unlink()
    with pytest.raises(FileExistsError, match=r"scores.json"):
        write(folder, **options)
    assert not (folder / "odd.ecsv").exists()
    write(folder, **options, overwrite=True)
    assert {path.name for path in folder.iterdir()} == names


def test_folder_is_not_left_behind_by_a_failure(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr("astro_unetloc.evaluation.report.write_files", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "scores", names=(), with_cases=False)
    assert not (tmp_path / "scores").exists()


def test_folder_needs_a_parent(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "a" / "b", {}, {}, meta={}, about="")


@pytest.mark.parametrize("name", ["../x", "a b", "", "a.b"])
def test_names_that_no_file_can_have_are_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="names must be of letters, digits and _"):
        write_report(tmp_path / "s", {name: ODD_TABLE}, {}, meta={}, about="")


def test_two_cases_of_one_name_are_an_error(tmp_path):
    image = np.zeros((8, 8))
    case = ("a/b", draw_case(image, image, image, [], [], code="a/b"))
    assert write_report(tmp_path / "s", {}, {}, cases=[case], meta={}, about="")[0].name == (
        "case-a_b.png"
    )
    with pytest.raises(ValueError, match=r"got 'case-a_b.png' twice"):
        write_report(tmp_path / "t", {}, {}, cases=[case, case], meta={}, about="")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.93412, 0.9, None], ["0.934", "0.900", "–"]),
        ([0.0171234, np.nan], ["0.0171", "–"]),
        ([41253.4, 8.5, 0.3], ["41253", "8.5", "0.3"]),
        ([1.234e-11, np.inf], ["1.23e-11", "∞"]),
        ([8.0, 20.0], ["8", "20"]),
        ([12, 3], ["12", "3"]),
        (["AGN", ""], ["AGN", ""]),
        ([None], ["–"]),
        ([-4.87e-5, 0.0444, 0.0, -0.0], ["-4.9e-05", "0.0444", "0.0000", "0.0000"]),
    ],
)
def test_numbers_of_a_column_are_rounded_alike(values, shown):
    say = _formatter(values, is_edge=False)
    assert [say(value) for value in values] == shown


def test_edges_of_bins_are_not_rounded_away():
    say = _formatter([0.05, 2.5, 250.0], is_edge=True)
    assert [say(value) for value in (0.05, 2.5, 250.0)] == ["0.05", "2.5", "250"]


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; it may not look for anything on the network."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        skip_unless_in_ci("Chromium not installed (Debian: chromium chromium-driver)")
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    # no sandbox: a container's root has none
    for option in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser, folder):
    """The report, opened."""
    browser.get((folder / "index.html").as_uri())
    return browser


def column(page, number, table="odd"):
    """Text of the cells of a column of a table, without intervals."""
    cells = page.find_elements("css selector", f"#{table} tbody tr td:nth-child({number})")
    return [cell.text.split(" ")[0] for cell in cells]


def head(page, number, table="odd"):
    """The button of a column, and what it is said to be sorted by."""
    cell = page.find_element("css selector", f"#{table} thead th:nth-child({number})")
    return cell.find_element("tag name", "button"), cell


def test_browser_has_nothing_to_complain_of(page):
    assert page.get_log("browser") == []
    assert page.title == "Evaluation"


def test_browser_would_complain(browser, folder, tmp_path):
    """The silence above means something: what the policy forbids is refused, and said."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    image = '<img src="http://localhost:9/x.png" alt=""><script>document.title = "run"</script>'
    (tmp_path / "index.html").write_text(text.replace("</main>", f"{image}</main>"), "utf-8")
    browser.get((tmp_path / "index.html").as_uri())
    messages = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "localhost:9" in messages
    assert browser.title == "Evaluation"


def test_no_request_leaves_the_page(page):
    names = page.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in names if not name.startswith("data:")] == []


def test_every_picture_is_there(page):
    widths = page.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 3
    assert all(width > 300 for width in widths)


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
    assert column(page, 3) == ["1", "2", "3", "5", "10", "–"]
    assert cell.get_attribute("aria-sort") == "none"


def test_text_is_sorted_too_and_whole_rows_move(page):
    button, _ = head(page, 1)
    button.click()
    assert column(page, 1) == ["9", "10", "a", "b", "c", "d"]
    assert column(page, 3) == ["–", "5", "1", "3", "2", "10"]


def test_table_with_intervals_is_sorted_by_the_share(page):
    number = 1 + list(make_tables(["by_photons"])["by_photons"].colnames).index("Completeness")
    button, _ = head(page, number, "by_photons")
    button.click()
    button.click()
    assert column(page, number, "by_photons") == ["1.000", "0.875", "0.750", "0.625", "0.500"]


def test_keyboard_sorts(page):
    button, _ = head(page, 2)
    button.send_keys(" ")
    assert column(page, 2)[0] == "-0.5"
    button.send_keys("\n")
    assert column(page, 2)[0] == "∞"


@pytest.mark.parametrize("width", [360, 1200])
def test_page_is_as_wide_as_the_screen(page, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_mode_is_dark(page):
    def ground():
        color = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return max(int(number) for number in re.findall(r"\d+", color)[:3])

    for scheme, dark in (("light", False), ("dark", True)):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert (ground() < 100) == dark
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
