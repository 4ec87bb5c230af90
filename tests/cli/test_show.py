"""Printing of catalogues, and what files are."""

import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from made_catalogs import make_measured
from made_files import cube_hdus
from made_sets import write_made_set

from astro_unetloc import list_models, load_model, to_gammapy_models, write_catalog
from astro_unetloc.cli import show


@pytest.fixture
def catalog(run):
    """A catalogue of five sources in the folder of `run`, as a table and a file."""
    catalog = make_measured(5, meta={"MODEL": "lat-10gev", "INFILE": "map.fits"})
    catalog["Flags"] = np.array([0, 2, 18, 0, 0], "i2")
    write_catalog(catalog, "c.fits")
    return catalog


def test_sources_are_printed_as_a_table(passes, catalog):
    head, _, *rows = passes("show", "c.fits")[0].splitlines()
    wanted = "Source RA Dec Score Counts Flux (1e-11 cm-2 s-1) Class Flags"
    assert head.split() == wanted.split()
    assert [row[:16] for row in rows] == list(catalog["Source_Name"])
    known = np.flatnonzero(~catalog["Flux"].mask)[0]
    position = [f"{catalog[name].value[known]:.4f}" for name in ("RAJ2000", "DEJ2000")]
    score = f"{catalog['Score'][known]:.3f}"
    assert rows[known].split()[2:6] == [*position, score, "12.5"]
    assert rows[known].split()[6:8] == ["3.30", "agn"]
    assert rows[2].endswith("blended low_latitude")
    stdout, stderr = passes("show", "c.fits", "--limit", "2", "--frame", "galactic")
    assert stdout.splitlines()[0].split()[1:3] == ["l", "b"]
    assert len(stdout.splitlines()) == 4
    assert "2 of 5 sources; " in stderr


def test_sources_of_another_catalog_are_sorted_by_significance(passes):
    names, significance = [f"3FGL J000{n}.0+0000" for n in range(3)], [5.0, 11.25, np.nan]
    table = Table({"Source_Name": names, "RAJ2000": [0, 1, 2], "DEJ2000": [0, 0, 0]})
    table["Signif_Avg"], table["ASSOC1"] = significance, ["", "Crab", ""]
    table.write("c.ecsv")
    rows = passes("show", "c.ecsv")[0].splitlines()[2:]
    assert [row[:17] for row in rows] == [names[i] for i in (1, 0, 2)]
    assert rows[0].split()[-2:] == ["11.2", "Crab"]


def test_empty_catalog_prints_nothing(passes, catalog):
    write_catalog(catalog[:0], "empty.ecsv")
    assert passes("show", "empty.ecsv") == ["", ""]


def test_best_sources_are_printed_only_on_a_terminal(catalog, capfd, monkeypatch):
    show.print_best(["c.fits"], catalog, False)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for outputs, quiet, n_lines in ((["c.fits"], False, 7), (["-"], False, 0), ([], True, 0)):
        show.print_best(outputs, catalog, quiet)
        stdout, stderr = capfd.readouterr()
        assert (stdout, len(stderr.splitlines())) == ("", n_lines)


def test_info_states_versions_models_and_hardware(passes):
    first, *models, last = passes("info")[0].splitlines()
    assert first.startswith("astro_unetloc ")
    assert "numpy " in first
    assert [line.split(",")[0] for line in models] == [f"model {name}" for name in list_models()]
    assert "GPU that TensorFlow sees" in last


def test_info_states_what_each_file_is(passes, catalog):
    edges = np.array([10.0, 100.0, 1000.0])
    counts = np.ones((2, 20, 30), ">i4")
    cube_hdus(counts, edges, lon=120.0, lat=40.0).writeto("map.fits")
    cube_hdus(counts + 0.5, edges, lon=120.0, lat=40.0).writeto("bkg.fits")
    known = catalog[~catalog["Flux"].mask]
    known.meta |= {"FLUXEMIN": 10.0, "FLUXEMAX": 1000.0}
    to_gammapy_models(known).write("m.yaml")
    write_catalog(known, "m.xml", "c.reg")
    write_made_set(Path("set.h5"), [1, 2])
    kinds = {
        "map.fits": "counts map, 30 x 20 pixels of 0.1 deg (CAR, galactic), ",
        "bkg.fits": "background, 30 x 20 pixels of 0.1 deg (CAR, galactic), 1,800 expected counts",
        "c.fits": "catalogue of 5 sources, in map.fits, found by lat-10gev, 3 with a flux",
        "m.yaml": "3 models of gammapy",
        "m.xml": "source library of 3 sources",
        "c.reg": "6 regions",
        "set.h5": "patch set of 4 patches of 2 skies, ",
        str(load_model().folder): "model lat-10gev, 10-20-50-150-500-2000 GeV, ",
    }
    lines = passes("info", *kinds)[0].splitlines()
    for line, (name, text) in zip(lines, kinds.items(), strict=True):
        assert line.startswith(f"{name}: {text}")
    assert "10-1000 GeV in 2 bins, 1,200 photons" in lines[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.fits", "a file or a folder was expected; got 'no.fits'"),
        (".", "a folder with a model, a simulated sky, "),
        ("table.fits", "no counts found in table.fits"),
        ("text.yaml", "text.yaml"),
        ("text.reg", "must be regions of DS9 or CASA"),
    ],
)
def test_info_refuses_other_files_in_one_line(refused, name, message):
    columns = [fits.Column("X", "E", array=np.zeros(2))]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto("table.fits")
    for path in ("text.yaml", "text.reg"):
        Path(path).write_text("icrs;circle(\n")
    refused(message, "info", name)
