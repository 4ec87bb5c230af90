"""The command batch: what it prints and writes, and its exit codes."""

import json
import shutil
from pathlib import Path

import pytest
from astropy.io import fits

from astro_unetloc import read_catalog


@pytest.fixture
def maps(write_map):
    """Names of two maps, and of a file that is none."""
    shutil.copy(write_map("a.fits"), "b.fits")
    Path("c.fits").write_text("no map")
    return "a.fits", "b.fits", "c.fits"


def test_catalogues_are_in_the_folder_and_a_failed_map_has_its_reason(run, passes, maps):
    code, stdout, stderr = run("batch", *maps, "-o", "out", "--cores", "1")
    assert (code, stdout) == (3, "")
    failed, summary = stderr.splitlines()
    assert failed.startswith("failed: c: a FITS file was expected; got ")
    assert summary == "2 sources in 2 of 3 maps -> out/catalogs.fits"
    assert read_catalog("out/catalogs.fits")["Map"].tolist() == ["a", "b"]
    assert passes("batch", *maps[:2], "-o", "out", "--cores", "1", "--quiet") == ["", ""]


def test_options_of_the_search_reach_it(passes, run, maps):
    words = "--threshold 0.5 --region 121 42 0.5 --frame galactic --no-classify --seed 4".split()
    passes("batch", "a.fits", "-o", "out", "--cores", "1", *words)
    options = json.loads(Path("out/state.json").read_text())["options"]
    found = [options[name] for name in ("threshold", "classify", "rng", "frame")]
    assert found == ["0.5", "False", "4", "galactic"]
    assert len(read_catalog("out/a.fits")) == 0


def test_wrong_use_is_one_line(refused, maps):
    refused("the pattern '*.fits' of 3 files; leave out its quotes", "batch", "*.fits", "-o", "out")
    refused("no such file", "batch", "no.fits", "-o", "out", "--cores", 1)
    refused("--cores and --cluster exclude", *"batch a.fits -o o --cores 2 --cluster x".split())
    refused("Missing option '-o'", "batch", "a.fits")
    refused("must have an address such as", *"batch a.fits -o o --cluster http://x:1".split())


def test_slices_of_time_are_reported(passes, real_data):
    events = real_data / "gc" / "fermi-3fhl-gc-events.fits.gz"
    words = "--time-bins 300000000,380000000,460250000 --region 0 0 2 --frame galactic".split()
    _, stderr = passes("batch", events, "-o", "out", "--cores", 1, *words, "--no-classify")
    *_, variable, maps = stderr.splitlines()
    assert " vary between 2 slices of time (by chance less than 0.001) -> out/variab" in variable
    assert maps.endswith("in 3 of 3 maps -> out/catalogs.fits")
    curves = fits.getdata("out/lightcurve.fits", 1)
    assert len(curves) == 2 * len(read_catalog("out/variability.fits")) > 0


def test_slices_of_what_is_no_event_list_are_refused(refused, maps):
    refused("a time range needs an event list", *"batch a.fits -o out --time-bins 30d".split())
    refused("goes with --time-bins", *"batch a.fits -o out --slice-exposure e.fits".split())
