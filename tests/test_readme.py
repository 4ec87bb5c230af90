"""The project files agree: the README with CI, versions, licence, dependencies."""

import configparser
import importlib
import json
import os
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import astro_unetloc

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.rst"))]


def text_of(*path):
    """Content of a file of the project."""
    return ROOT.joinpath(*path).read_text(encoding="utf-8")


README, CITATION = text_of("README.md"), text_of("CITATION.cff")
CODEMETA = json.loads(text_of("codemeta.json"))
PYPROJECT = tomllib.loads(text_of("pyproject.toml"))
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
INSTALL = "python -m pip install . && astro-unetloc demo"
TESTS = "python -m pip install tox && tox -e test"


def lines(text):
    """Lines without indentation."""
    return [line.strip() for line in text.splitlines()]


def test_scores_of_the_documents_are_those_of_the_card():
    card = json.loads(text_of("astro_unetloc", "data", "models", "lat-10gev", "card.json"))
    accuracy = text_of("docs", "accuracy.rst")
    scores, errors = card["scores"]["average_precision"], card["calibration"]["errors"]["all"]
    parts = ("|b| > 10 deg", "|b| < 10 deg")
    for part in parts:
        found = [line for line in accuracy.splitlines() if part in line]
        assert any(f"average precision {scores[part]:.3f}" in line for line in found), part
        error = f"calibration error {errors[part]:.4f}"
        assert any(line.split()[0] == "all" and error in line for line in found), part
    expected = "{:.3f} at |b| > 10° and {:.3f} below".format(*map(scores.get, parts))
    assert expected in " ".join(README.split())


@pytest.mark.parametrize("command", [INSTALL, TESTS])
def test_readme_command_is_what_ci_runs(command):
    assert command in lines(README)
    assert command in lines(text_of(".ci", "run"))
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_install_command_of_the_documentation_is_that_of_the_readme():
    assert f"$ {INSTALL}" in lines(text_of("docs", "installation.rst"))


def test_readme_python_example_uses_public_names():
    names = re.findall(r"^from astro_unetloc import (.+)$", README, flags=re.MULTILINE)
    assert names
    for name in ", ".join(names).split(", "):
        assert name in astro_unetloc.__all__
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        compile(block, "README.md", "exec")


def test_files_that_the_readme_links_to_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_and_modules_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\b(?:astro_unetloc|benchmarks|docs|tests)/[\w/]+\.\w+", text):
        assert (ROOT / target).is_file(), target
    for module, name in re.findall(r"\bfrom (astro_unetloc[\w.]*) import (\w+)", text):
        assert hasattr(importlib.import_module(module), name), (module, name)
    for name in re.findall(r"``(astro_unetloc\.[\w.]+)``", text):
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ImportError:
            assert hasattr(importlib.import_module(module), attribute), name


def test_reference_lists_all_public_names():
    pattern = r"^\.\. auto(?:function|class|exception):: (\w+)$"
    listed = re.findall(pattern, text_of("docs", "api.rst"), re.MULTILINE)
    assert sorted(listed) == sorted(set(astro_unetloc.__all__) - {"__version__"})


def test_version_and_licence_are_the_same_everywhere():
    metadata = SETUP["metadata"]
    assert "project" not in PYPROJECT
    for key, value in (("version", metadata["version"]), ("license", metadata["license"])):
        assert re.search(f"^{key}: (.+)$", CITATION, flags=re.MULTILINE)[1] == value
        assert CODEMETA[key].rpartition("/")[2] == value
    assert astro_unetloc.__version__ == version("astro_unetloc") == metadata["version"]
    assert metadata["license"] == "BSD-3-Clause"
    assert "BSD 3-Clause" in text_of("LICENSE")
    assert "BSD-3-Clause" in README


def test_codemeta_lists_the_dependencies():
    required = SETUP["options"]["install_requires"].split("\n")
    names = [re.match(r"[\w-]+", line)[0] for line in required if line and line[0] != "#"]
    assert CODEMETA["softwareRequirements"] == names


def test_pythons_are_the_same_everywhere():
    pythons = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert pythons == ["3.11", "3.12", "3.13"]
    assert ", ".join(pythons) in README
    assert f"py{{{','.join(p.replace('.', '') for p in pythons)}}}-test" in text_of("tox.ini")


def test_changelog_fragments_have_known_types():
    types = "|".join(entry["directory"] for entry in PYPROJECT["tool"]["towncrier"]["type"])
    names = {path.name for path in (ROOT / "docs" / "changes").iterdir()}
    for name in names - {"README.rst", "template.rst"}:
        assert re.fullmatch(rf"(\d+|\+[\w-]+)\.({types})(\.\d+)?\.rst", name), name


def test_citation_of_the_command_line_is_that_of_the_project():
    bib = text_of("astro_unetloc", "data", "CITATION.bib")
    found = re.findall(r"(?:doi|version) = \{(.*?)\}", bib)
    assert found == [SETUP["metadata"]["version"], *re.findall(r"doi: (10\.\S+)", CITATION)]


def test_tables_of_the_columns_are_those_of_the_package(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    tables = importlib.import_module("tables")
    text = tables.PAGE.read_text(encoding="utf-8")
    assert tables.with_tables(text) == text, "run: python docs/tables.py"


# Reference and measured performance may be long.
LONG = {
    "accuracy", "api", "benchmarks", "class_performance", "columns", "evaluation_files",
    "model_training", "robustness",
}  # fmt: skip


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.rst")), ids=lambda page: page.stem)
def test_page_is_short(page):
    n_words = len(page.read_text(encoding="utf-8").split())
    assert n_words <= 1500 or page.stem in LONG


def test_conda_recipe_has_the_requirements_of_the_package():
    recipe = text_of("conda", "meta.yaml")
    assert f"version: {SETUP['metadata']['version']}" in recipe
    for line in lines(SETUP["options"]["install_requires"]):
        name, bounds = re.match(r"([\w-]*)(.*)", line).groups()
        if name and name != "ai-edge-litert":  # conda-forge has none
            name = {"matplotlib": "matplotlib-base"}.get(name, name.lower())
            assert f"- {name} {bounds}" in lines(recipe)
