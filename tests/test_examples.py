"""The examples in the docstrings run."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "astro_unetloc"
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def has_examples(module):
    """Whether a module has an example that runs without a file of the user."""
    lines = (PACKAGE / module).read_text(encoding="utf-8").splitlines()
    return any(">>> " in line and "+SKIP" not in line for line in lines)


MODULES = sorted(
    filter(has_examples, (str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("[!_]*.py")))
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = ".".join(Path(module).with_suffix("").parts)
    result = doctest.testmod(import_module(f"astro_unetloc.{name}"), optionflags=OPTIONS)
    assert result.attempted
    assert result.failed == 0, "see the captured output"
