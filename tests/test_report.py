"""The page of a search; Debian's Chromium drives it, where it is installed with its driver."""

import json
import re
import zlib
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from made_catalogs import make_catalog, make_sources
from made_pages import Reader, refers_outside
from made_sources import lonely_sources

import astro_unetloc
from astro_unetloc import read_catalog, write_report
from astro_unetloc.exceptions import InputError
from astro_unetloc.pipeline import detect
from astro_unetloc.products import write_run
from astro_unetloc.report import report_bytes

EXAMPLE = f"{astro_unetloc.__path__[0]}/data/example/map.fits.gz"


@pytest.fixture(scope="module")
def run():
    return detect(EXAMPLE)


@pytest.fixture(scope="module")
def page_path(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_run(run, [path])
    return path


def data_of(text):
    """What the script of a page reads."""
    return json.loads(re.search(r'<script type="application/json".*?>(.*?)</script>', text)[1])


def unpack(packed):
    """Values of a packed image; NaN where it was not observed."""
    content = zlib.decompress(b64decode(packed["data"]))
    values = np.frombuffer(content, f"<u{packed['bits'] // 8}")
    values = np.cumsum(values, dtype=values.dtype) if packed["steps"] else values
    return np.where(values > 0, values - 1.0, np.nan)


def test_page_holds_all_sources_and_photons_and_loads_nothing(page_path, run):
    text = page_path.read_text()
    assert list(refers_outside(text)) == []
    policy = next(a["content"] for t, a in Reader(text).elements if "Policy" in str(a))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"https?:|fetch\(|XMLHttp|import\(", text)
    assert len(text) < 200_000
    data = data_of(text)
    assert data["columns"]["Source_Name"] == run.catalog["Source_Name"].tolist()
    np.testing.assert_allclose(data["columns"]["Npred"], run.catalog["Npred"], rtol=1e-3)
    assert np.nansum(unpack(data["layers"]["counts"])) == run.sky_map.n_photons
    least, factor = data["scales"]["density"]
    model = least * np.exp(factor * unpack(data["layers"]["model"])) * data["plane"]["step"] ** 2
    expected = np.nansum(run.predicted.sources.data + run.predicted.background.data)
    # pixels of a tangent plane are smaller than at its centre, by 4 % in the corners
    assert np.nansum(model) == pytest.approx(expected, rel=0.04)
    residual = data["scales"]["sigma"] * (unpack(data["layers"]["residual"]) - 127)
    assert np.nanstd(residual) == pytest.approx(
        np.nanstd(run.predicted.total_significance.data), rel=0.1
    )
    n = data["cutout"]["n"]
    cutouts = unpack(data["cutouts"]["counts"]).reshape(len(run.catalog), n, n)
    y, x = np.unravel_index(cutouts[0].argmax(), (n, n))
    assert abs(y - n / 2) <= 3  # the brightest pixel is near the middle
    assert abs(x - n / 2) <= 3
    assert run.command().replace("'", "&#39;") in text
    assert "Half of the sources of these counts" in text


def test_page_without_limits_has_the_reason(run):
    for other, reason in (
        (replace(run, threshold=0.01), "limits are known for thresholds from"),
        (replace(run, finder="both"), "by the network with a threshold"),
    ):
        assert reason in report_bytes(run.sky_map, run.catalog[:1], run=other).decode()


def test_texts_of_a_catalogue_cannot_leave_the_data(tmp_path):
    catalog = make_catalog(make_sources(2))
    catalog["Source_Name"] = ["</script><script>alert(1)", "b"]
    sky_map = lonely_sources(20)[0]
    text = report_bytes(sky_map, catalog).decode()
    assert "<script>alert" not in text
    assert data_of(text)["columns"]["Source_Name"][0] == "</script><script>alert(1)"
    assert data_of(text)["plane"]["projection"] == "AIT"  # photons all over the sky


def test_report_of_any_catalogue_and_of_none(tmp_path):
    catalog = read_catalog(EXAMPLE.replace("map.fits.gz", "truth.ecsv"))
    write_report(EXAMPLE, catalog, tmp_path / "a.html")
    assert len(data_of((tmp_path / "a.html").read_text())["columns"]["RAJ2000"]) == len(catalog)
    write_report(EXAMPLE, make_catalog(make_sources(0)), tmp_path / "b.html")
    assert "0 sources in" in (tmp_path / "b.html").read_text()
    with pytest.raises(FileExistsError, match="must not exist"):
        write_report(EXAMPLE, catalog, tmp_path / "a.html")
    with pytest.raises(InputError, match=r"must end in one of \.html"):
        write_report(EXAMPLE, catalog, tmp_path / "a.fits")
    with pytest.raises(InputError, match="a page needs the photons"):
        astro_unetloc.write_catalog(catalog, tmp_path / "c.html")


@pytest.fixture
def page(browser, page_path):
    """The page, opened and drawn."""
    browser.get(page_path.as_uri())
    wait_until(browser, "return document.documentElement.dataset.ready === 'yes'")
    return browser


def wait_until(browser, script):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 20, 0.05).until(lambda _: browser.execute_script(script))


def find(page, selector):
    return page.find_element("css selector", selector)


def texts(page, selector):
    return [element.text for element in page.find_elements("css selector", selector)]


def act(page):
    """Actions of the mouse, with the whole map in view."""
    page.execute_script("document.getElementById('sky').scrollIntoView({block: 'center'})")
    return pytest.importorskip("selenium.webdriver").ActionChains(page)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def test_browser_loads_the_page_alone(page):
    assert page.get_log("browser") == []
    resources = page.execute_script("return performance.getEntriesByType('resource')")
    assert [entry["name"] for entry in resources if not entry["name"].startswith("data:")] == []


def test_source_of_the_table_is_shown_in_card_and_map(page, run):
    """The map is centred on it, and the cursor reads its coordinates there."""
    row = 3
    source = run.catalog[row]
    page.find_elements("css selector", "#table tbody button")[row].click()
    assert find(page, "#card h3").text == source["Source_Name"]
    assert find(page, "#table tr[aria-current]").text.startswith(source["Source_Name"])
    sky = find(page, "#sky")
    act(page).move_to_element(sky).perform()
    words = find(page, "#place").text
    np.testing.assert_allclose(
        numbers(words)[:4], [source[n].value for n in ("RAJ2000", "DEJ2000", "GLON", "GLAT")],
        atol=0.02,
    )  # fmt: skip
    assert source["Source_Name"] in words


def test_map_is_dragged_zoomed_and_clicked(page, run):
    page.find_elements("css selector", "#table tbody button")[2].click()
    sky = find(page, "#sky")
    act(page).move_to_element(sky).perform()
    start = find(page, "#place").text
    act(page).move_to_element(sky).click_and_hold().move_by_offset(90, 40).release().perform()
    here = find(page, "#place").text
    np.testing.assert_allclose(numbers(here)[:4], numbers(start)[:4], atol=0.02)  # it went along
    find(page, "#card [aria-label^=Next]").click()
    find(page, "#card [aria-label^=Previous]").click()
    act(page).move_to_element(sky).move_by_offset(-30, 0).perform()
    steps = [numbers(find(page, "#place").text)[2]]
    for key in ("+", "-"):
        sky.send_keys(key)
        act(page).move_to_element(sky).move_by_offset(-30, 1).move_by_offset(0, -1).perform()
        steps.append(numbers(find(page, "#place").text)[2])
    lon = run.catalog["GLON"][2].value
    np.testing.assert_allclose((steps[1] - lon) * 1.5, steps[0] - lon, atol=0.005)
    assert steps[2] == pytest.approx(steps[0], abs=2e-3)
    find(page, "#fit").click()
    find(page, "#card [aria-label^=Next]").click()
    act(page).move_to_element(sky).click().perform()  # a click on the map opens the card
    assert find(page, "#card h3").text == run.catalog["Source_Name"][3]


def test_picture_changes_with_the_layer_and_the_sliders(page):
    layers = ["Counts", "Probability", "Model", "Residuals"]
    assert texts(page, "#layers button") == layers
    assert texts(page, "#card figcaption")[:3] == ["Counts", "Model", "Residuals, ±5 σ"]
    seen = set()
    for button in page.find_elements("css selector", "#layers button"):
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        seen.add(page.execute_script("return document.getElementById('sky').toDataURL()"))
    assert len(seen) == len(layers)
    find(page, "#layers button").click()
    script = "const s = document.getElementById('{}'); s.value = {}; s.oninput();"
    for name, value in (("stretch", 0.9), ("smoothing", 0.5)):
        page.execute_script(script.format(name, value))
        page.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
    assert page.execute_script("return document.getElementById('sky').toDataURL()") not in seen


def column(page, number):
    return texts(page, f"#table tbody td:nth-child({number})")


def test_table_is_sorted_and_filtered(page, run):
    button = find(page, "th[data-name=GLAT] button")
    expected = sorted(f"{b:.3f}" for b in run.catalog["GLAT"].value)
    for order, ascending in (("ascending", True), ("descending", False)):
        button.send_keys("\n")  # by the keyboard too
        assert find(page, "th[data-name=GLAT]").get_attribute("aria-sort") == order
        values = column(page, 4)
        assert sorted(values) == expected
        assert values == sorted(values, key=float, reverse=not ascending)
    find(page, "th[data-name=Source_Name] button").click()
    assert column(page, 2) == sorted(column(page, 2))
    find(page, "[name=text]").send_keys(run.catalog["Source_Name"][4][5:])
    assert column(page, 2) == [run.catalog["Source_Name"][4]]
    find(page, "[name=text]").clear()
    find(page, "[name=low]").send_keys("0.9999")
    kept = np.asarray(run.catalog["Score"]) >= 0.9999
    page.execute_script("document.getElementById('filters').dispatchEvent(new Event('input'))")
    assert len(column(page, 2)) == kept.sum() < len(run.catalog)
    assert find(page, "#number").text == f"{kept.sum()} of {len(run.catalog)}"


def export(page, name):
    page.execute_script(
        f"document.querySelector('#format [value={name}]').selected = true;"
        "document.getElementById('format').dispatchEvent(new Event('change'))"
    )
    return find(page, "#text").get_attribute("value")


def test_selected_sources_are_exported(page, run):
    """Rows are selected by their boxes or by a box over the map, all of them by the whole map."""
    names = run.catalog["Source_Name"].tolist()
    assert export(page, "csv").count("\n") == 1 + len(names)
    boxes = page.find_elements("css selector", "#table tbody input")
    boxes[1].send_keys(" ")
    boxes[2].click()
    assert find(page, "#chosen").text == "2 selected"
    lines = export(page, "csv").splitlines()
    assert lines[0].startswith("Source_Name,RAJ2000,DEJ2000")
    assert [line.split(",")[0] for line in lines[1:]] == names[1:3]
    regions = export(page, "reg")
    assert regions.startswith("# Region file format: DS9")
    assert regions.count("point(") == regions.count("ellipse(") == 2
    assert all(f"text={{{name}}}" in regions for name in names[1:3])
    snippet = export(page, "py")
    compile(snippet, "snippet", "exec")
    assert all(name in snippet for name in names[1:3])
    find(page, "#clear").click()
    find(page, "#box").click()
    sky = find(page, "#sky")
    size, corner = sky.size, (5 - sky.size["width"] // 2, 5 - sky.size["height"] // 2)
    act(page).move_to_element_with_offset(sky, *corner).click_and_hold().move_by_offset(
        size["width"] - 10, size["height"] - 10).release().perform()  # fmt: skip
    assert find(page, "#chosen").text == f"{len(names)} selected"


def test_page_fits_a_phone_and_all_controls_have_names(page):
    for width in (360, 390, 1400):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    controls = page.find_elements("css selector", "button, input, select, textarea, canvas[role]")
    unnamed = [c.get_attribute("outerHTML") for c in controls if not c.accessible_name.strip()]
    assert unnamed == []
    for control in controls:
        if control.tag_name != "canvas":
            assert control.get_attribute("tabindex") != "-1"


# Smallest contrast of texts, WCAG 2.2, 1.4.3, and those below it.
CONTRAST = """
const parts = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (text) => parts(text).slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
const ground = (e) => {
  const color = getComputedStyle(e).backgroundColor;
  return parts(color)[3] === 0 && e.parentElement ? ground(e.parentElement) : color;
};
const hasText = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
return [...document.querySelectorAll("body *")].filter((e) => hasText(e) && e.offsetParent)
  .map((e) => {
    const [a, b] = [getComputedStyle(e).color, ground(e)].map(light).sort();
    return [(b + 0.05) / (a + 0.05), e.outerHTML.slice(0, 80)];
  });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(page, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    found = page.execute_script(CONTRAST)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(found) > 50
    assert [part for part in found if part[0] < 4.5] == []
