"""The figures of the documentation are those that its scripts draw, and pages show them."""

import importlib
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
TEXTS = [path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.rst")]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The command that draws a figure stands in its caption, and may be broken into lines.
NAMES = sorted(set(re.findall(r"python\s+docs/figures\.py\s+(\w+)``", "\n".join(TEXTS))))
CHEAP = ["patch"]


@pytest.fixture
def figures(monkeypatch):
    """The module of the figures."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("figures")


def test_every_image_is_shown():
    shown = re.findall(r"images/(\w+\.png)", "\n".join([*TEXTS, README]))
    assert set(shown) == {path.name for path in (ROOT / "docs" / "images").iterdir()}


def test_every_figure_has_its_page(figures):
    assert sorted(figures.FIGURES) == NAMES
    for name in NAMES:
        page = next(text for text in TEXTS if re.search(rf"figures\.py\s+{name}``", text))
        assert f"images/{name}.png" in page


@pytest.mark.parametrize(
    "name", [n if n in CHEAP else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
@pytest.mark.filterwarnings("ignore:pixels of 0.50 deg")
def test_figure_is_drawn_as_it_is_shown(figures, name, tmp_path):
    figures.save(name, tmp_path)
    shown = figures.IMAGES / f"{name}.png"
    with Image.open(tmp_path / shown.name) as new, Image.open(shown) as old:
        assert new.size == old.size
    assert shown.stat().st_size < 110_000
