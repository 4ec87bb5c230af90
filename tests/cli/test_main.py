"""The program: choice of the command, search of a map, messages, exit codes."""

import gzip
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from made_files import cube_hdus

import astro_unetloc
from astro_unetloc import pipeline, read_catalog, read_source_library
from astro_unetloc.catalog.write import SUFFIXES
from astro_unetloc.cli.main import COMMANDS
from astro_unetloc.unet import model as unet_model

# The source of `write_map`.
RA_DEC = SkyCoord(120, 40, unit="deg", frame="galactic").icrs.to_string()
EXAMPLE = Path(astro_unetloc.__file__).parent / "data" / "example" / "map.fits.gz"

# Commands and help


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected a MAP or a COMMAND"),
        (("nothing.fits",), "Missing option '-o'"),
        (("-o", "c.fits"), "Missing argument 'MAP'"),
        (("modles",), "did you mean 'models'?"),
        (("plot",), "no map or command 'plot'; name a file"),
        (("find",), "Missing argument 'MAP'"),
        (("models", "extra"), "unexpected extra argument"),
        (("map.fits", "-o", "c.fits", "--no-such-option"), "No such option"),
    ],
)
def test_wrong_usage_is_one_line(refused, words, message):
    refused(message, *words)


def test_word_find_may_be_given_and_a_file_with_the_name_of_a_command_is_a_map_by_its_path(
    run, files, write_map
):
    assert run("./" + write_map("train"), "-o", "c.csv", "--quiet", "--no-measure") == (0, "", "")
    assert run("find", "train", "-o", "d.csv", "--quiet", "--no-measure") == (0, "", "")
    assert files() == ["c.csv", "d.csv", "train"]


def test_help_lists_commands_and_options(run, passes):
    stdout, stderr = passes("--help")
    assert stderr == ""
    words = ("Outputs:", "Search:", "--version", "--energy-range", "--overwrite", "MAP -o OUT")
    for word in (*COMMANDS, *words):
        assert word in stdout
    assert run("map.fits", "--help")[1] == stdout
    for command in COMMANDS:
        assert f"astro-unetloc {command}" in passes(command, "--help")[0]


def test_version_is_that_of_the_package(run):
    assert run("--version")[:2] == (0, f"astro_unetloc {version('astro_unetloc')}\n")
    assert run("--cite")[1].count("@") == 3


# Messages and exit codes


def test_warnings_are_one_line_each(passes, write_image):
    stderr = passes(write_image(pixel_deg=0.5), "-o", "c.csv", "--quiet", "--no-measure")[1]
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


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError(7), 1, "fault of astro-unetloc: KeyError: 7; --debug shows where, please report"),
        (ValueError(7), 1, "fault of astro-unetloc: ValueError: 7; --debug shows where"),
        (OSError("disk full"), 2, "error: disk full"),  # no fault of the package
        (KeyboardInterrupt(), 1, "interrupted"),
    ],
)
def test_error_is_one_line_and_leaves_no_file(search_raises, files, error, code, line):
    found, stdout, stderr = search_raises(error)
    assert (found, stdout, len(stderr.strip().splitlines())) == (code, "", 1)
    assert stderr.strip().startswith(line)
    assert files() == ["map.fits"]


def test_debug_shows_the_traceback(search_raises):
    stderr = search_raises(KeyError("missing"), "--debug")[2]
    assert "Traceback (most recent call last)" in stderr
    assert "raise error" in stderr


# Search: maps


@pytest.mark.parametrize("order", [1, -1])
def test_map_may_stand_before_or_after_its_options(passes, files, write_map, order):
    options = ["-o", "c.ecsv"], ["--threshold", "0.4"], ["--model", "lat-10gev"], ["--no-measure"]
    stdout, stderr = passes(*sum([[write_map()], *options][::order], []))
    assert stdout == ""
    assert files() == ["c.ecsv", "map.fits"]
    assert re.match(r"1 source, \d\.\d of it real as expected, with Score >= 0.4 in ", stderr)
    assert "-> c.ecsv" in stderr


@pytest.mark.parametrize("finder", ["scan", "both"])
def test_finders_and_the_split_check_say_what_they_found(passes, write_map, finder):
    stderr = passes(write_map(), "-o", "c.ecsv", "--finder", finder, "--split-check")[1]
    assert {"scan": "scan, model", "both": "scan and model"}[finder] in stderr
    assert re.search(r"^split check: the other half .* confirms \d of \d source", stderr, re.M)
    meta = read_catalog("c.ecsv").meta
    assert meta["FINDER"] == finder
    assert f"--finder {finder}" in meta["COMMAND"]


def test_photons_outside_the_bands_of_the_model_are_counted(passes, write_map):
    options = ("--model", "lat-10gev", "--threshold", "0", "-o", "c.fits")
    stderr = passes(write_map(edges=(5, 20.0)), *options)[1]
    assert "photons lie outside 10-2000 GeV, the bands of the model" in stderr
    assert " photons of 10-20 GeV" in stderr
    assert "sources are not measured: no energy bin of the map" in stderr
    header = fits.getheader("c.fits", 1)
    assert (header["EMIN"], header["EMAX"]) == (5, 20)
    assert "FITEMIN" not in header
    assert header["NAXIS2"] > 0


def test_empty_map_gives_an_empty_catalog(passes):
    cube_hdus(np.zeros((3, 20, 20), ">i4")).writeto("empty.fits")
    stderr = passes("empty.fits", "-o", "c.fits")[1]
    assert "0 sources" in stderr
    with fits.open("c.fits") as hdus:
        assert len(hdus[1].data) == 0
        assert "Source_Name" in hdus[1].columns.names


def test_failed_patches_give_exit_code_three(run, files, monkeypatch):
    predict = unet_model.Model.predict_batches

    def fails(self, *args, **kwargs):
        for rows, probability in predict(self, *args, **kwargs):
            probability[0] = np.nan
            yield rows, probability

    monkeypatch.setattr(unet_model.Model, "predict_batches", fails)
    monkeypatch.setattr(unet_model.Model, "check", lambda self: None)
    code, _, stderr = run(EXAMPLE, "-o", "c.csv", "--no-measure")
    assert code == 3
    assert "warning: the network returned no finite probability for patches" in stderr
    assert files() == ["c.csv"]


# Outputs


def test_dash_prints_ecsv_alone_on_stdout(passes, files, write_map):
    stdout, stderr = passes(write_map(), "-o", "-", "--no-measure")
    assert files() == ["map.fits"]
    assert stdout.startswith("# %ECSV")
    assert stderr.startswith("1 source, ")
    assert stderr.count("\n") == 1  # no progress where stderr is not a terminal
    table = QTable.read(stdout.splitlines(), format="ascii.ecsv")
    assert {"Source_Name", "Score", "Flags"} <= set(table.colnames)


def test_lone_fits_catalog_comes_with_regions_that_are_not_replaced_without_permission(
    passes, refused, files, write_map
):
    map = write_map()
    Path("c.reg").write_text("mine")
    refused("output must not exist; got 'c.reg'; choose another name or add --overwrite",
            map, "-o", "c.fits")  # fmt: skip
    assert files() == ["c.reg", "map.fits"]
    assert Path("c.reg").read_text() == "mine"
    assert passes(map, "-o", "c.fits", "--overwrite", "--quiet") == ["", ""]
    assert files() == ["c.fits", "c.reg", "map.fits"]
    assert "\nicrs;ellipse(" in Path("c.reg").read_text()


def write_exposure():
    """Write an exposure of the field of `write_map`."""
    cube = np.full((4, 30, 30), 3e11)
    hdus = cube_hdus(cube, np.array([10, 31.6, 316, 1500, 2500.0]), lon=120.0, lat=40.0)
    energies = fits.Column("Energy", "D", unit="MeV", array=[1e4, 1e5, 1e6, 2e6])
    hdus[0].header["BUNIT"] = "cm2 s"
    energies = fits.BinTableHDU.from_columns([energies], name="ENERGIES")
    fits.HDUList([hdus[0], energies]).writeto("exposure.fits")


def test_models_are_written_of_a_map_with_an_exposure(passes, files, write_map):
    write_exposure()
    outputs = ("-o", "m.yaml", "-o", "s.xml", "-o", "c.crtf")
    passes(write_map(), "--exposure", "exposure.fits", *outputs)
    assert len(read_source_library("s.xml")) >= 1
    assert files() == ["c.crtf", "exposure.fits", "m.yaml", "map.fits", "s.xml"]


def test_pictures_and_sky_maps_are_written_with_the_catalog(run, passes, files, write_map):
    words = ("--no-measure", "--probability-map", "p.fits", "--moc", "m.fits")
    passes(write_map(), "-o", "c.csv", "-o", "c.vot", "-o", "c.png", *words)
    assert files() == ["c.csv", "c.png", "c.vot", "m.fits", "map.fits", "p.fits"]
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    with fits.open("p.fits") as hdus:
        assert hdus[0].data.shape == (30, 30)
        assert 0.5 < np.nanmax(hdus[0].data) <= 1
        assert hdus[1].header["INFILE"] == "map.fits"
        assert hdus[1].header["CREATOR"].startswith("astro_unetloc ")
    uniq = fits.getdata("m.fits", 1)["UNIQ"].astype(float)
    area = np.sum(4.0 ** -np.floor(np.log2(uniq / 4) / 2)) * 41252.96 / 12
    assert area == pytest.approx(9.0, rel=0.02)
    assert run("map.fits", "-o", "d.csv", *words)[0] == 2
    assert "d.csv" not in files()


def test_limits_of_a_region_are_those_of_the_whole_map(passes, write_map):
    passes(write_map(), "-o", "c.csv", "--limit-map", "whole.fits")
    # The bright source lies outside of the region and contributes counts to it.
    words = ("--region", "121.2", "40", "0.85", "--frame", "galactic", "--limit-map", "part.fits")
    passes("map.fits", "-o", "d.csv", *words)
    whole, part = (fits.getdata(name, 1) for name in ("whole.fits", "part.fits"))
    assert 0 < len(part) < len(whole)
    rows = np.searchsorted(whole["PIXEL"], part["PIXEL"])
    np.testing.assert_allclose(part["NPRED_50"], whole["NPRED_50"][rows], rtol=0.2)


def test_residual_map_holds_the_counts_of_the_map_and_of_its_source(passes, write_map):
    passes(write_map(), "-o", "c.csv", "--residual-map", "r.fits", "--limit-map", "l.fits")
    counts, sources, background, residual, _, total = (
        fits.getdata("r.fits", number) for number in (1, 3, 5, 7, 9, 11)
    )
    observed = fits.getdata("map.fits")
    np.testing.assert_array_equal(np.nan_to_num(counts), observed)
    np.testing.assert_allclose(residual, counts - sources - background, atol=1e-5)
    bright = float(QTable.read("c.csv")["Npred"][0])
    assert np.nansum(sources) == pytest.approx(bright, rel=0.05)
    n_predicted = np.nansum(sources + background)
    assert n_predicted == pytest.approx(observed.sum(), abs=2 * observed.sum() ** 0.5)
    assert np.nanmax(np.abs(total)) < 6


# Options


def test_known_extended_sources_flag_what_lies_inside_and_the_seed_is_kept(passes, write_map):
    Path("known.csv").write_text("Source_Name,GLON,GLAT,size_x\nA,120.0,41.0,1.5\n")
    passes(write_map(), "-o", "c.ecsv", "--extended", "known.csv", "--seed", "7")
    table = QTable.read("c.ecsv")
    assert table["Flags"][0] & 256
    assert table.meta["SEED"] == 7


@pytest.mark.parametrize("words", [("10 GeV", "0.5 TeV"), ("10", "500"), ("10000 MeV", "500")])
def test_energy_range_takes_quantities_and_numbers(passes, write_image, words):
    stderr = passes(write_image(), "-o", "c.csv", "--no-measure", "--energy-range", *words)[1]
    assert "photons of 10-500 GeV" in stderr


@pytest.mark.parametrize(
    ("region", "n_found"),
    [
        ("--frame galactic --region 120 40 30arcmin", 1),
        ("--frame galactic --region -240.0deg 40 1", 1),
        ("--frame galactic --region -240 43 1", 0),
        (f"--region {RA_DEC} 0.5", 1),  # ICRS by default
    ],
)
def test_region_lists_the_sources_of_a_cone(passes, write_map, region, n_found):
    words = (write_map(), "-o", "c.csv", "--quiet", "--no-measure")
    passes(*words, *region.split())
    found = QTable.read("c.csv", format="ascii.csv")
    assert len(found) == n_found
    assert found["GLAT"] == pytest.approx([40] * n_found, abs=0.1)


# Provenance


@pytest.mark.parametrize("name", ["map.fits", "карта 1.fits"])
@pytest.mark.parametrize(
    "options",
    [
        "--threshold 0.1 --region 120 40 1deg --frame galactic --seed 3 --extended known.csv "
        "--no-classify",
        "--purity 0.9 --no-measure --model ./copy --energy-range 20GeV 0.5TeV",
        f"--exposure exposure.fits --region {RA_DEC} 2 --class-prior flat --psf-radius 9arcmin",
    ],
)
def test_command_in_the_header_makes_the_same_catalog_again(passes, write_map, options, name):
    write_map(name)
    write_exposure()
    Path("known.csv").write_text("Source_Name,GLON,GLAT,size_x\nA,120.0,41.0,1.5\n")
    shutil.copytree(EXAMPLE.parents[1] / "models" / "lat-10gev", "copy")
    passes(name, "-o", "c.fits", *options.split())
    program, *words = shlex.split(read_catalog("c.fits").meta["COMMAND"])
    assert program == "astro-unetloc"
    passes(*words)
    first, again = (fits.getheader(name, 1) for name in ("c.fits", "catalog.fits"))
    ignored = {"DATE", "CHECKSUM", "DATASUM"}
    assert {k: v for k, v in first.items() if k not in ignored | {""}} == {
        k: v for k, v in again.items() if k not in ignored | {""}
    }
    assert first["NAXIS2"] == 1
    assert first.get("PSFFILE") == ("0.15 deg" if "--psf-radius" in options else None)
    for name in ("GLON", "Score", "Npred", "Flux", "Prob_PSR", "Flags"):
        one, two = (fits.getdata(file, 1)[name] for file in ("c.fits", "catalog.fits"))
        np.testing.assert_array_equal(one, two)


def test_every_product_but_csv_holds_the_command(passes, write_map):
    write_exposure()
    outputs = [f"c{s}" for s in SUFFIXES if s != ".csv"] + ["p.fits", "m.fits", "l.fits", "r.fits"]
    flags = ["-o"] * len(outputs)
    flags[-4:] = ["--probability-map", "--moc", "--limit-map", "--residual-map"]
    words = [word for pair in zip(flags, outputs) for word in pair]
    passes(write_map(), *words, "--exposure", "exposure.fits")
    for name in outputs:
        content = Path(name).read_bytes()
        content = gzip.decompress(content) if name.endswith(".gz") else content
        assert b"astro-unetloc map.fits -o catalog.fits --exposure" in content, name


# Wrong options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--threshold high", "'high' is not a valid float"),
        ("--threshold 1.5", "threshold must lie between 0 and 1; got 1.5"),
        ("--frame b1950", "'b1950' is not one of"),
        ("--model lat-1mev", "one of the models lat-10gev"),
        ("--exposure nothing.fits", "nothing.fits"),
        ("--energy-range ten 20", "must be two energies"),
        ("--energy-range 10m 20m", "must be two energies"),
        ("--energy-range 20 10", "two increasing positive energies; got 20 to 10 GeV"),
        ("-o c.txt", "output must end in one of"),
        ("-o m.yaml", "got 'm.yaml' without an exposure"),
        ("-o m.xml --no-measure", "models need the flux of each source"),
        ("-o no/c.fits", "output directory must exist; got 'no'"),
        ("-o c.csv", "outputs must differ"),
        ("--probability-map c.csv", "outputs must differ"),
        ("--probability-map map.fits --overwrite", "output must not be the input"),
        ("-o map.fits --overwrite", "output must not be the input"),
        ("--moc c.csv", "outputs must differ"),
        ("--moc m --probability-map m", "outputs must differ"),
        ("--moc no/m.fits", "output directory must exist; got 'no'"),
        ("--limit-map l --no-measure", "a threshold and the likelihood fit; got --no-measure"),
        ("--limit-map l --purity 0.9", "a threshold and the likelihood fit; got --purity"),
        ("--limit-map l --finder scan", "a threshold and the likelihood fit; got --finder scan"),
        ("--residual-map r --no-measure", "needs the likelihood fit; got --no-measure"),
        ("--probability-map p --finder scan", "needs the network; got --finder scan"),
        ("--finder scan --no-measure", "finder scan fits its sources; got measure=False"),
        ("--finder eye", "'eye' is not one of"),
        ("--purity 0.9 --threshold 0.2", "threshold and purity exclude each other; got both"),
        ("--purity 95", "purity must lie between 0 and 1; got 95.0"),
        ("--purity nan", "purity must lie between 0 and 1; got nan"),
        ("--psf-radius 0.06 --psf p.fits", "--psf and --psf-radius exclude each other; got both"),
        ("--psf-radius wide", "--psf-radius must be an angle, such as 0.06deg; got 'wide'"),
        ("--psf-radius 1GeV", "an angle of at most 10 deg; got 1.0 GeV"),
        ("--psf-radius -1", "an angle of at most 10 deg; got -1.0 deg"),
        ("--limit-map l --threshold 0.01", "thresholds from 0.05 to 0.9; got 0.01;"),
        (
            "--limit-map l --model lat-500mev",
            "detection limits was expected; got lat-500mev",
        ),
        ("--extended no.fits", "must be a file"),
        ("--region a b c", "--region must be a longitude, a latitude"),
        ("--region 1 95 3", "--region must be a longitude, a latitude"),
        ("--region 1 2 -3", "--region must be a longitude, a latitude"),
        ("--region 1 2 3GeV", "--region must be a longitude, a latitude"),
        ("--region 1 2 0", "--region must be a longitude, a latitude"),
    ],
)
def test_wrong_options_are_refused_before_the_search(refused, files, write_map, words, message):
    before = Path(write_map()).read_bytes()
    refused(message, "map.fits", "-o", "c.csv", *words.split())
    assert files() == ["map.fits"]
    assert Path("map.fits").read_bytes() == before


@pytest.mark.parametrize("name", ["nothing.fits", "notes.txt"])
def test_map_that_is_missing_or_none_is_refused(refused, files, name):
    Path("notes.txt").write_text("hello")
    refused(name, name, "-o", "c.fits")
    assert files() == ["notes.txt"]


# As a program


def test_closed_streams_are_no_fault(write_map):
    words = f"{sys.executable} -m astro_unetloc {write_map()} -o c.fits --no-measure"
    subprocess.run(["bash", "-c", f"{words} <&- >&- 2>&-"], check=True)
    assert len(read_catalog("c.fits")) == 1


def test_closed_stdout_is_no_output(refused, files, write_map, monkeypatch):
    write_map()
    monkeypatch.setattr(sys, "stdout", None)
    refused("-o - prints on stdout, which is closed; name a file", "map.fits", "-o", "-")
    assert files() == ["map.fits"]


def test_reader_that_has_enough_is_no_fault(write_map):
    words = f"{sys.executable} -m astro_unetloc {write_map()} -o - --quiet --no-measure | head -1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("# %ECSV 1.0\n", "")


def test_module_prints_the_catalog_on_stdout_and_warnings_on_stderr(write_image):
    command = [sys.executable, "-m", "astro_unetloc", write_image()]
    command += ["-o", "-", "--no-measure", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("# %ECSV")
    assert done.stderr.startswith("warning: image.fits does not state its energies")


def test_an_option_of_one_value_is_refused_when_it_is_given_twice(run):
    code, _, stderr = run("map.fits", "-o", "x.fits", "--model", "a", "--model", "b")
    assert code == 2
    assert "--model was given twice; it takes one value" in stderr
