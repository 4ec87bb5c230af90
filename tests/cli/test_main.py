"""The program: choice of the command, help, messages, exit codes."""

import importlib.metadata
import subprocess
import sys

import pytest

from astro_unetloc import pipeline
from astro_unetloc.cli.main import COMMANDS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected a MAP or a COMMAND"),
        (("nothing.fits",), "Missing option '-o'"),
        (("-o", "c.fits"), "Missing argument 'MAP'"),
        (("modles",), "did you mean 'models'?"),
        (("models", "extra"), "unexpected extra argument"),
        (("map.fits", "-o", "c.fits", "--no-such-option"), "No such option"),
    ],
)
def test_wrong_usage_is_one_line(refused, words, message):
    refused(message, *words)


def test_file_with_the_name_of_a_command_is_a_map_by_its_path(run, files, write_map):
    assert run("./" + write_map("train"), "-o", "c.csv", "--quiet", "--no-measure") == (0, "", "")
    assert files() == ["c.csv", "train"]


def test_help_lists_commands_and_options(run):
    code, stdout, stderr = run("--help")
    assert (code, stderr) == (0, "")
    for word in (*COMMANDS, "--energy-range", "--region", "--overwrite", "MAP -o OUT"):
        assert word in stdout
    assert run("map.fits", "--help")[1] == stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command):
    code, stdout, _ = run(command, "--help")
    assert code == 0
    assert f"astro-unetloc {command}" in stdout


def test_version_is_that_of_the_package(run):
    try:
        expected = importlib.metadata.version("astro_unetloc")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")
    assert run("--version")[:2] == (0, f"astro_unetloc {expected}\n")


# Messages and exit codes


def test_progress_is_not_drawn_where_stderr_is_not_a_terminal(run, write_map):
    _, _, stderr = run(write_map(), "-o", "c.csv", "--no-measure")
    assert len(stderr.splitlines()) == 1
    assert "%|" not in stderr


def test_warnings_are_one_line_each(run, write_image):
    code, _, stderr = run(write_image(pixel_deg=0.5), "-o", "c.csv", "--quiet", "--no-measure")
    assert code == 0
    lines = stderr.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("warning: ") for line in lines)
    assert "does not state its energies" in stderr
    assert "coarser than" in stderr


@pytest.fixture
def search_raises(run, write_map, monkeypatch):
    """Function of an error and options that runs a search in which the error is raised."""

    def call(error, *options):
        def project(*args, **kwargs):
            raise error

        monkeypatch.setattr(pipeline, "project", project)
        return run(write_map(), "-o", "c.csv", *options)

    return call


@pytest.mark.parametrize("error", [KeyError, ValueError, TypeError])
def test_fault_of_the_package_is_one_line_and_exit_code_one(search_raises, files, error):
    code, stdout, stderr = search_raises(error(7))
    assert (code, stdout) == (1, "")
    line = f"fault of astro-unetloc: {error.__name__}: 7; --debug shows where, please report it\n"
    assert stderr == line
    assert files() == ["map.fits"]


def test_error_of_the_system_is_not_a_fault_of_the_package(search_raises):
    assert search_raises(OSError("disk full"))[::2] == (2, "error: disk full\n")


def test_debug_shows_the_traceback(search_raises):
    code, _, stderr = search_raises(KeyError("missing"), "--debug")
    assert code == 1
    assert "Traceback (most recent call last)" in stderr
    assert "raise error" in stderr


def test_interrupt_is_one_word(search_raises, files):
    code, _, stderr = search_raises(KeyboardInterrupt())
    assert (code, stderr.strip()) == (1, "interrupted")
    assert files() == ["map.fits"]


# As a program


def run_module(module, *words):
    """Run ``python -m module`` in a process of its own."""
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def test_module_prints_the_catalog_on_stdout_and_warnings_on_stderr(write_image):
    done = run_module("astro_unetloc", write_image(), "-o", "-", "--no-measure", "--quiet")
    assert done.stdout.startswith("# %ECSV")
    assert done.stderr.startswith("warning: image.fits does not state its energies")


def test_file_of_the_command_line_is_a_program_too():
    assert run_module("astro_unetloc.cli.main", "--help").stdout.startswith("Usage: astro-unetloc")
