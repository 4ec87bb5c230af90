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
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL = "python -m pip install . && astro-unetloc demo"
TESTS = "python -m pip install tox && tox -e test"


@pytest.fixture(scope="module")
def setup_cfg():
    """Parsed setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def pyproject():
    """Parsed pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lines(text):
    """Lines without indentation."""
    return [line.strip() for line in text.splitlines()]


def test_scores_of_the_documents_are_those_of_the_card():
    folder = Path(astro_unetloc.__file__).parent / "data" / "models" / "lat-10gev"
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    accuracy = (ROOT / "docs" / "accuracy.rst").read_text(encoding="utf-8")
    scores, errors = card["scores"]["average_precision"], card["calibration"]["errors"]
    parts = ("|b| > 10 deg", "|b| < 10 deg")
    for part in parts:
        found = [line for line in accuracy.splitlines() if part in line]
        assert any(f"average precision {scores[part]:.3f}" in line for line in found), part
        error = f"calibration error {errors[part]:.4f}"
        assert any("as shipped" in line and error in line for line in found), part
    expected = "{:.3f} at |b| > 10° and {:.3f} below".format(*map(scores.get, parts))
    assert expected in " ".join(README.split())


@pytest.mark.parametrize("command", [INSTALL, TESTS])
def test_readme_command_is_what_ci_runs(command):
    assert command in lines(README)
    assert command in lines((ROOT / ".ci" / "run").read_text(encoding="utf-8"))


def test_ci_script_can_be_executed():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_install_command_of_the_documentation_is_that_of_the_readme():
    assert f"$ {INSTALL}" in lines((ROOT / "docs" / "installation.rst").read_text(encoding="utf-8"))


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
    reference = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", reference, re.MULTILINE)
    assert sorted(listed) == sorted(set(astro_unetloc.__all__) - {"__version__"})


def test_version_is_the_same_everywhere(setup_cfg):
    stated = setup_cfg["metadata"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, flags=re.MULTILINE)[1] == stated
    codemeta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    assert codemeta["version"] == stated
    assert astro_unetloc.__version__ == version("astro_unetloc") == stated


def test_codemeta_lists_the_dependencies(setup_cfg):
    required = setup_cfg["options"]["install_requires"].split("\n")
    names = [re.match(r"[\w-]+", line)[0] for line in required if line and line[0] != "#"]
    codemeta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    assert codemeta["softwareRequirements"] == names


def test_licence_is_the_same_everywhere(setup_cfg):
    licence = setup_cfg["metadata"]["license"]
    assert licence == "BSD-3-Clause"
    assert f"license: {licence}" in lines((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    codemeta = json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))
    assert codemeta["license"].endswith(f"/{licence}")
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert licence in README


def test_metadata_are_in_setup_cfg_alone(pyproject):
    assert "project" not in pyproject


def test_pythons_are_the_same_everywhere(setup_cfg):
    pythons = re.findall(r"Python :: (3\.\d+)", setup_cfg["metadata"]["classifiers"])
    assert pythons == ["3.11", "3.12", "3.13"]
    assert ", ".join(pythons) in README
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    assert f"py{{{','.join(p.replace('.', '') for p in pythons)}}}-test" in tox["tox"]["env_list"]


def test_changelog_fragments_have_known_types(pyproject):
    types = {entry["directory"] for entry in pyproject["tool"]["towncrier"]["type"]}
    fragments = [
        path
        for path in (ROOT / "docs" / "changes").iterdir()
        if path.name not in {"README.rst", "template.rst"}
    ]
    for path in fragments:
        assert re.fullmatch(rf"(\d+|\+[\w-]+)\.({'|'.join(types)})(\.\d+)?\.rst", path.name), path
