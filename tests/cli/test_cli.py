import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from made_files import cube_hdus, event_hdus, image_header

from astro_unetloc.cli import main as cli
from astro_unetloc.cli.main import COMMANDS, main
from astro_unetloc.unet import model as pretrained

EXAMPLE = Path(cli.__file__).parents[1] / "data" / "example"
MAP = str(EXAMPLE / "map.fits.gz")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Function of words that runs the command in an empty folder: (code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        return stop.value.code or 0, *capfd.readouterr()

    return call


def files():
    return sorted(path.name for path in Path.cwd().iterdir())


def assert_refused(result, *words):
    """One line on stderr that says these words, exit code 2, nothing on stdout."""
    code, stdout, stderr = result
    assert code == 2, stderr
    assert stdout == ""
    lines = stderr.splitlines()
    assert lines[-1].startswith("error: ")
    assert all(line.startswith("warning: ") for line in lines[:-1])
    for word in words:
        assert word in lines[-1], lines[-1]


def write_small_map(path="map.fits", edges=(10, 20, 50, 150, 500, 2000.0), **header):
    """A field of 3 x 3 deg with one bright source in the middle."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.01, (len(edges) - 1, 30, 30))
    counts[:, 14:16, 14:16] += np.array([6, 3, 1, 0, 0])[: len(edges) - 1, None, None]
    header = {"lon": 120.0, "lat": 40.0} | header
    cube_hdus(counts.astype(">i4"), np.array(edges), **header).writeto(path)
    return path


# The map and its outputs


OPTIONS = [["-o", "c.ecsv"], ["--threshold", "0.4"], ["--model", "lat-10gev"]]


@pytest.mark.parametrize("first", ["map", "-o", "--model"])
def test_map_may_stand_before_or_after_its_options(run, first):
    words = sum(sorted(OPTIONS, key=lambda option: option[0] != first), [])
    code, stdout, stderr = run(*([MAP, *words] if first == "map" else [*words, MAP]))
    assert code == 0, stderr
    assert stdout == ""
    assert files() == ["c.ecsv"]
    assert "sources with Score >= 0.4 (" in stderr
    assert "-> c.ecsv" in stderr


def test_a_map_whose_bins_do_not_fit_the_model_is_searched_and_says_what_is_not_used(run):
    write_small_map("low.fits", edges=(5, 20.0))
    options = ("--model", "lat-10gev", "--threshold", "0", "-o", "c.fits")
    code, _, stderr = run("low.fits", *options)
    assert code == 0, stderr
    assert "photons lie outside 10-2000 GeV, the bands of the model" in stderr
    assert " photons of 10-20 GeV" in stderr
    header = fits.getheader("c.fits", 1)
    assert (header["EMIN"], header["EMAX"]) == (5, 20)
    assert "FITEMIN" not in header
    assert header["NAXIS2"] > 0
    assert "sources are not measured: no energy bin of the map" in stderr


def test_lone_fits_catalog_comes_with_regions(run):
    assert run(MAP, "-o", "c.fits", "--quiet") == (0, "", "")
    assert files() == ["c.fits", "c.reg"]
    assert "\nicrs;ellipse(" in Path("c.reg").read_text()


def test_dash_prints_ecsv_alone_on_stdout(run):
    code, stdout, stderr = run(MAP, "-o", "-")
    assert code == 0
    assert files() == []
    assert stdout.startswith("# %ECSV")
    assert "sources with Score" in stderr
    table = QTable.read(stdout.splitlines(), format="ascii.ecsv")
    assert {"Source_Name", "Score", "Flags"} <= set(table.colnames)


def test_all_outputs_are_written_at_once(run):
    code, _, _ = run(
        MAP, "-o", "a.csv", "-o", "b.vot", "-o", "c.png", "--probability-map", "p.fits"
    )
    assert code == 0
    assert files() == ["a.csv", "b.vot", "c.png", "p.fits"]
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")


def test_seed_changes_and_repeats_the_placement(run):
    texts = []
    for number, seed in enumerate((1, 1, 2)):
        run(write_small_map(f"m{number}.fits"), "-o", f"{number}.csv", "--seed", seed)
        texts.append(Path(f"{number}.csv").read_text())
    assert texts[0] == texts[1]


def test_file_named_like_a_command_is_a_map_by_its_path(run):
    shutil.copy(MAP, "train")
    assert run("./train", "-o", "c.csv", "--quiet")[0] == 0
    assert files() == ["c.csv", "train"]


def test_progress_is_silent_where_stderr_is_no_terminal(run):
    _, _, stderr = run(MAP, "-o", "c.csv")
    assert len(stderr.splitlines()) == 1
    assert "%|" not in stderr


def test_existing_outputs_need_permission(run):
    Path("c.reg").write_text("mine")
    assert_refused(run(MAP, "-o", "c.fits"), "output must not exist; got 'c.reg'", "--overwrite")
    assert files() == ["c.reg"]
    assert Path("c.reg").read_text() == "mine"
    assert run(MAP, "-o", "c.fits", "--overwrite", "--quiet")[0] == 0
    assert Path("c.reg").read_text() != "mine"


def test_warnings_are_one_line_each(run):
    from astropy.io import fits

    image = fits.PrimaryHDU(np.ones((10, 10), int), image_header((10, 10), pixel_deg=0.5))
    image.writeto("image.fits")
    code, _, stderr = run("image.fits", "-o", "c.csv", "--quiet")
    assert code == 0
    lines = stderr.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("warning: ") for line in lines)
    assert "does not state its energies" in stderr
    assert "coarser than" in stderr


# Energies and regions


def test_known_extended_sources_flag_what_lies_inside(run):
    write_small_map()
    Path("known.csv").write_text("Source_Name,GLON,GLAT,size_x\nA,120.0,41.0,1.5\n")
    code, _, stderr = run("map.fits", "-o", "c.ecsv", "--extended", "known.csv")
    assert code == 0, stderr
    assert QTable.read("c.ecsv")["Flags"][0] & 256
    assert_refused(run("map.fits", "-o", "d.ecsv", "--extended", "no.fits"), "must be a file")


@pytest.mark.parametrize("words", [("10 GeV", "0.5 TeV"), ("10", "500"), ("10000 MeV", "500")])
def test_energy_range_takes_quantities_and_numbers(run, words):
    from astropy.io import fits

    image = fits.PrimaryHDU(np.ones((10, 10), int), image_header((10, 10)))
    image.writeto("image.fits")
    code, _, stderr = run("image.fits", "-o", "c.csv", "--energy-range", *words)
    assert code == 0
    assert "photons of 10-500 GeV" in stderr


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("30 MeV", "0.3 GeV"), "within the model's range 10-2000 GeV; got a map of 0.03-0.3 GeV"),
        (("ten", "20"), "must be two energies"),
        (("20", "10"), "two increasing positive energies; got 20 to 10 GeV"),
        (("10 m", "20 m"), "must be two energies"),
    ],
)
def test_impossible_energy_ranges_are_refused(run, words, match):
    from astropy.io import fits

    fits.PrimaryHDU(np.ones((9, 9), int), image_header((9, 9))).writeto("image.fits")
    assert_refused(run("image.fits", "-o", "c.csv", "--energy-range", *words), match)
    assert files() == ["image.fits"]


def sources_of(path):
    return QTable.read(path, format="ascii.csv")


@pytest.mark.parametrize("longitude", ["120", "-240", "120deg", "-240.0 deg"])
def test_region_lists_the_sources_of_a_cone(run, longitude):
    write_small_map()
    words = ("-o", "c.csv", "--quiet", "--frame", "galactic", "--region", longitude)
    assert run("map.fits", *words, "40", "30 arcmin") == (0, "", "")
    found = sources_of("c.csv")
    assert len(found) == 1
    assert found["GLAT"][0] == pytest.approx(40, abs=0.1)
    assert run("map.fits", *words, "43", "1", "--overwrite")[0] == 0
    assert len(sources_of("c.csv")) == 0


def test_frame_of_a_region_is_icrs_if_not_said(run):
    from astropy.coordinates import SkyCoord

    write_small_map()
    center = SkyCoord(120, 40, unit="deg", frame="galactic").icrs
    run("map.fits", "-o", "c.csv", "--quiet", "--region", center.ra.deg, center.dec.deg, 0.5)
    assert len(sources_of("c.csv")) == 1


@pytest.mark.parametrize(
    "region",
    [("a", "b", "c"), ("1", "95", "3"), ("1", "2", "-3"), ("1", "2", "3 GeV"), ("1", "2", "0")],
)
def test_impossible_regions_are_refused(run, region):
    assert_refused(
        run(MAP, "-o", "c.csv", "--region", *region), "--region must be a longitude, a latitude"
    )


def test_sky_maps_are_written_with_the_catalog(run):
    write_small_map("map.fits")
    words = ("--no-measure", "--probability-map", "p.fits", "--moc", "m.fits")
    assert run("map.fits", "-o", "c.csv", *words)[0] == 0
    assert files() == ["c.csv", "m.fits", "map.fits", "p.fits"]
    with fits.open("p.fits") as hdus:
        assert hdus[0].data.shape == (30, 30)
        assert 0.5 < np.nanmax(hdus[0].data) <= 1
        assert hdus[1].header["INFILE"] == "map.fits"
        assert hdus[1].header["CREATOR"].startswith("astro_unetloc ")
    with fits.open("m.fits") as hdus:
        uniq = hdus[1].data["UNIQ"].astype(float)
    area = np.sum(4.0 ** -np.floor(np.log2(uniq / 4) / 2)) * 41252.96 / 12
    assert area == pytest.approx(9.0, rel=0.02)
    assert run("map.fits", "-o", "d.csv", *words)[0] == 2
    assert "d.csv" not in files()


def test_limits_of_a_region_are_those_of_the_whole_map(run):
    write_small_map("map.fits")
    assert run("map.fits", "-o", "c.csv", "--limit-map", "whole.fits")[0] == 0
    # the bright source lies outside and shines in
    words = ("--region", "121.2", "40", "0.85", "--frame", "galactic", "--limit-map", "part.fits")
    assert run("map.fits", "-o", "d.csv", *words)[0] == 0
    whole, part = (fits.getdata(name, 1) for name in ("whole.fits", "part.fits"))
    assert 0 < len(part) < len(whole)
    rows = np.searchsorted(whole["PIXEL"], part["PIXEL"])
    np.testing.assert_allclose(part["NPRED_50"], whole["NPRED_50"][rows], rtol=0.2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--no-measure",), "--limit-map is of measured sources; leave --no-measure out"),
        (("--threshold", "0.01"), "thresholds from 0.05 to 0.9; got 0.01; choose another"),
        (("--model", "lat-500mev"), "lat-500mev was not fitted"),
    ],
)
def test_limits_that_are_not_known_are_refused(run, words, message):
    write_small_map("map.fits")
    assert_refused(run("map.fits", "-o", "c.csv", "--limit-map", "l.fits", *words), message)
    assert files() == ["map.fits"]


def test_models_are_written_of_a_map_with_an_exposure(run):
    from astro_unetloc import read_source_library

    write_small_map("map.fits")
    centers = np.array([10, 100, 1000, 2000.0])
    cube = np.full((4, 30, 30), 3e11)
    hdus = cube_hdus(cube, np.array([10, 31.6, 316, 1500, 2500.0]), lon=120.0, lat=40.0)
    energies = fits.BinTableHDU.from_columns(
        [fits.Column("Energy", "D", unit="MeV", array=centers * 1e3)], name="ENERGIES"
    )
    hdus[0].header["BUNIT"] = "cm2 s"
    fits.HDUList([hdus[0], energies]).writeto("exposure.fits")
    outputs = ("-o", "m.yaml", "-o", "s.xml", "-o", "c.crtf")
    result = run("map.fits", "--exposure", "exposure.fits", *outputs)
    assert result[0] == 0, result[2]
    assert len(read_source_library("s.xml")) >= 1
    assert files() == ["c.crtf", "exposure.fits", "m.yaml", "map.fits", "s.xml"]


# Wrong usage and input


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ((), "expected a MAP or a COMMAND"),
        (("nothing.fits",), "Missing option '-o'"),
        (("-o", "c.fits"), "Missing argument 'MAP'"),
        (("modles",), "did you mean 'models'?"),
        ((MAP, "-o", "c.fits", "--no-such-option"), "No such option"),
        ((MAP, "-o", "c.fits", "--threshold", "high"), "'high' is not a valid float"),
        (
            (MAP, "-o", "c.fits", "--threshold", "1.5"),
            "threshold must lie between 0 and 1; got 1.5",
        ),
        ((MAP, "-o", "c.fits", "--frame", "b1950"), "'b1950' is not one of"),
        ((MAP, "-o", "c.fits", "--model", "lat-1mev"), "one of the models lat-10gev"),
        ((MAP, "-o", "c.txt"), "output must end in one of"),
        ((MAP, "-o", "c.fits", "-o", "m.yaml"), "got 'm.yaml' without an exposure"),
        ((MAP, "-o", "m.xml", "--no-measure"), "models need the flux of each source"),
        ((MAP, "-o", "no/c.fits"), "output directory must exist; got 'no'"),
        ((MAP, "-o", "c.csv", "-o", "c.csv"), "outputs must differ"),
        ((MAP, "-o", "c.csv", "--probability-map", "c.csv"), "outputs must differ"),
        ((MAP, "-o", "c.csv", "--moc", MAP, "--overwrite"), "output must not be the input"),
        ((MAP, "-o", "c.csv", "--moc", "c.csv"), "outputs must differ"),
        ((MAP, "-o", "c.csv", "--moc", "m", "--probability-map", "m"), "outputs must differ"),
        ((MAP, "-o", "c.csv", "--moc", "no/m.fits"), "output directory must exist; got 'no'"),
        (("nothing.fits", "-o", "c.fits"), "no such file: nothing.fits"),
        ((MAP, "-o", "c.csv", "--exposure", "nothing.fits"), "nothing.fits"),
        (("models", "extra"), "unexpected extra argument"),
        (("simulate", "-o", "sky.txt"), "output must end in .fits, .fits.gz or .h5"),
        (("simulate", "-o", "sky.fits", "--years", "-1"), "years must be a positive number"),
        (("simulate", "-o", "sky.fits", "--width", "0"), "pixel <= width"),
        (("simulate", "-o", "sky.fits", "--variant", "X"), "--variant chooses among"),
        (("simulate", "-o", "sky.fits", "--template", "no.fits"), "no such file: no.fits"),
        (("simulate", "-o", "s.fits", "--truth", "s.fits"), "outputs must differ"),
        (("simulate", "-o", "s.fits", "--energy-range", "0.1", "10"), "lie within 0.3-2000 GeV"),
        (("simulate", "-o", "s.fits", "--bands", "1,10"), "--bands goes with a patch set (.h5)"),
        (("simulate", "-o", "s.h5", "--bands", "1;10"), "--bands must be numbers in GeV"),
        (("simulate", "-o", "s.h5", "--psf", "p.fits"), "--psf cannot go with a patch set (.h5)"),
        (
            ("simulate", "-o", "s.h5", "--truth", "t.fits", "--years", "4"),
            "--truth, --years",
        ),
        (("simulate", "-o", "s.fits", "--skies", "2"), "--skies goes with a patch set (.h5)"),
        (
            ("simulate", "-o", "s/", "--nside", "64", "--width", "4"),
            "the whole sky",
        ),
        (
            ("simulate", "-o", "s.fits", "--exposure", "e", "--years", "4"),
            "instead of --years",
        ),
        (("simulate", "-o", "s.h5", "--components", "no"), "components must be a folder; got 'no'"),
        (("simulate", "-o", "s.fits", "--components", "sky"), "--components goes with a patch set"),
        (("simulate", "-o", "s.fits", "--exposure", "no.fits"), "no such file: no.fits"),
        (("train", "no.h5", "-o", "model"), "no such patch set: no.h5"),
        (("match", "a.fits", "b.fits"), "a.fits"),
        (("demo", "-o", "no/where"), "output directory must exist; got 'no'"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(run, words, match):
    assert_refused(run(*words), match)
    assert files() == []


def test_input_is_never_replaced(run):
    write_small_map("map.fits")
    before = Path("map.fits").read_bytes()
    assert_refused(run("map.fits", "-o", "map.fits", "--overwrite"), "output must not be the input")
    assert Path("map.fits").read_bytes() == before


def test_text_is_no_map(run):
    Path("notes.txt").write_text("hello")
    assert_refused(run("notes.txt", "-o", "c.fits"), "notes.txt")
    assert files() == ["notes.txt"]


def test_damaged_model_is_refused(run):
    folder = shutil.copytree(pretrained._SHIPPED / "lat-10gev", "mine")
    content = bytearray(Path(folder, "unet.tflite").read_bytes())
    content[1000] ^= 255
    Path(folder, "unet.tflite").write_bytes(content)
    assert_refused(run(MAP, "-o", "c.fits", "--model", "mine"), "unet.tflite", "is damaged")
    assert files() == ["mine"]


def test_empty_map_gives_an_empty_catalog(run):
    from astropy.io import fits

    hdus = cube_hdus(np.zeros((3, 20, 20), ">i4"))
    hdus.writeto("empty.fits")
    code, _, stderr = run("empty.fits", "-o", "c.fits")
    assert code == 0
    assert "0 sources" in stderr
    with fits.open("c.fits") as hdus:
        assert len(hdus[1].data) == 0
        assert "Source_Name" in hdus[1].columns.names


def test_events_are_a_map(run):
    rng = np.random.default_rng(0)
    ra, dec = 83 + rng.normal(0, 2, 400), 22 + rng.normal(0, 2, 400)
    cuts = [("POS(RA,DEC)", "deg", "CIRCLE(83,22,8)"), ("ENERGY", "MeV", "10000:2000000")]
    event_hdus(ra, dec, 10_000 / (1 - rng.random(400)) ** 0.7, cuts).writeto("events.fits")
    code, _, stderr = run("events.fits", "-o", "c.csv")
    assert code == 0, stderr


def test_failed_patches_give_exit_code_three(run, monkeypatch):
    predict = pretrained.Model.predict

    def fails(self, counts, *args, **kwargs):
        probability = predict(self, counts, *args, **kwargs)
        if len(counts) != len(np.load(self.folder / "probe.npz")["counts"]):
            probability[0] = np.nan
        return probability

    monkeypatch.setattr(pretrained.Model, "predict", fails)
    code, _, stderr = run(MAP, "-o", "c.csv")
    assert code == 3
    assert "warning: the network gave no finite answer for patches" in stderr
    assert files() == ["c.csv"]


@pytest.fixture
def broken(monkeypatch):
    """A fault of ours in the middle of the chain."""
    from astro_unetloc import pipeline

    def project(*args, **kwargs):
        return {}["missing"]

    monkeypatch.setattr(pipeline, "project", project)


def test_fault_of_ours_is_one_line_and_exit_code_one(run, broken):
    code, stdout, stderr = run(MAP, "-o", "c.csv")
    assert (code, stdout) == (1, "")
    assert stderr.startswith("fault of astro-unetloc: KeyError: 'missing'; --debug shows where")
    assert len(stderr.splitlines()) == 1
    assert files() == []


def test_debug_shows_the_traceback(run, broken):
    code, _, stderr = run(MAP, "-o", "c.csv", "--debug")
    assert code == 1
    assert "Traceback (most recent call last)" in stderr
    assert 'return {}["missing"]' in stderr


def test_interrupt_is_no_traceback(run, monkeypatch):
    from astro_unetloc import pipeline

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "project", interrupted)
    code, _, stderr = run(MAP, "-o", "c.csv")
    assert code == 1
    assert stderr.strip() == "interrupted"
    assert files() == []


# Help


def test_help_names_commands_and_options(run):
    code, stdout, stderr = run("--help")
    assert (code, stderr) == (0, "")
    for word in (*COMMANDS, "--energy-range", "--region", "--overwrite", "MAP -o OUT"):
        assert word in stdout
    assert run(MAP, "--help")[1] == stdout


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


def test_models_are_listed(run):
    code, stdout, _ = run("models")
    assert code == 0
    assert "lat-10gev  10-20-50-150-500-2000 GeV" in stdout


# Sub-commands


def test_demo_finds_most_of_the_example(run):
    from astro_unetloc.catalog.read import read_catalog
    from astro_unetloc.evaluation.metrics import evaluate

    code, stdout, stderr = run("demo")
    assert (code, stdout) == (0, "")
    found = {path.name for path in Path("astro-unetloc-demo").iterdir()}
    assert found == {"catalog.fits", "catalog.reg", "catalog.png"}
    assert "The example is a simulated sky" in stderr
    assert "Your own map:" in stderr
    catalog = read_catalog("astro-unetloc-demo/catalog.fits")
    scores = evaluate(catalog, read_catalog(EXAMPLE / "truth.ecsv"))
    assert scores.completeness > 0.5
    assert_refused(run("demo"), "output must not exist", "--overwrite")
    assert run("demo", "--overwrite", "--quiet") == (0, "", "")


def test_simulated_cube_is_found_again(run):
    words = ("simulate", "-o", "sky.fits.gz", "--truth", "truth.ecsv", "--width", "6")
    code, stdout, stderr = run(*words, "--center", "-120", "-10", "--years", "3", "--seed", "5")
    assert (code, stdout) == (0, "")
    assert "true sources -> sky.fits.gz, truth.ecsv" in stderr
    assert files() == ["sky.fits.gz", "truth.ecsv"]
    assert run("sky.fits.gz", "-o", "c.csv")[0] == 0
    truth = QTable.read("truth.ecsv")
    assert np.all(np.abs(truth["GLON"].value - 240) < 4)
    assert_refused(run(*words), "output must not exist", "--overwrite")


def test_cube_below_10_gev_is_simulated(run):
    words = ("simulate", "-o", "sky.fits", "--width", "4", "--energy-range", "1", "100")
    code, _, stderr = run(*words, "--years", "1", "--truth", "truth.ecsv")
    assert code == 0, stderr
    header = fits.getheader("sky.fits")
    assert header["DSVAL1"] == "1000:100000"
    assert fits.getdata("sky.fits").sum() > 1000
    assert QTable.read("truth.ecsv").meta["FLUXEMIN"] == 1.0


def test_simulated_folder_holds_components_and_truth(run):
    words = ("simulate", "-o", "sky/", "--width", "6", "--center", "10", "0", "--years", "2")
    code, stdout, stderr = run(*words)
    assert (code, stdout) == (0, ""), stderr
    assert "true sources -> sky/" in stderr
    assert {"background.fits", "agn.fits", "psr.fits", "sources.xml", "truth.fits"} <= {
        path.name for path in Path("sky").iterdir()
    }
    assert_refused(run(*words), "output must not exist", "--overwrite")
    assert_refused(run(*words, "--truth", "t.fits"), "--truth goes with a cube")
    assert_refused(run("simulate", "-o", "s.fits", "--nside", "64"), "--nside goes with a folder")


def test_interrupted_patch_set_is_continued_and_a_whole_one_kept(run, monkeypatch):
    from made_skies import made_patches

    from astro_unetloc.training import make as training_sets

    monkeypatch.setattr(training_sets, "patches_of_sky", made_patches)
    words = ("simulate", "-o", "set.h5", "--skies", "2", "--patches-per-sky", "2")
    code, _, stderr = run(*words)
    assert code == 0
    assert stderr == "4 patches of 2 skies -> set.h5\n"
    assert_refused(run(*words), "got the whole set 'set.h5'", "--overwrite")
    assert run(*words, "--overwrite", "--quiet") == (0, "", "")


def test_match_says_what_is_known_and_writes_it(run):
    write_small_map()
    run("map.fits", "-o", "c.fits", "--quiet")
    Path("ref.csv").write_text("Source_Name,GLON,GLAT\nA,120.02,40.01\nB,10,0\n")
    code, stdout, stderr = run("match", "c.fits", "ref.csv", "-o", "m.ecsv", "--region", 120, 40, 5)
    assert code == 0, stderr
    assert "ref.csv: 1 of 1 (100 %) point-like" in stdout
    assert "1 of 1 detections lie within 0.3 deg" in stdout
    assert QTable.read("m.ecsv")["ASSOC"][0] == "A"


def test_match_lists_what_is_missing_new_or_possible(run):
    write_small_map()
    run("map.fits", "-o", "c.fits", "--quiet")
    Path("ref.csv").write_text("Source_Name,GLON,GLAT\nA,120.02,40.01\nB,120.2,40.01\nC,10,0\n")
    lists = ("--missing", "missing.csv", "--new", "new.reg", "--candidates", "all.fits")
    code, stdout, stderr = run("match", "c.fits", "ref.csv", *lists, "--radius", "0.5")
    assert code == 0, stderr
    assert "1 of 3 (33 %) point-like ref.csv sources found (<= 0.5 deg)" in stdout
    assert list(QTable.read("missing.csv")["Source_Name"]) == ["B", "C"]
    assert "point(" not in Path("new.reg").read_text()
    assert list(QTable.read("all.fits")["ASSOC"]) == ["A", "B"]
    assert_refused(run("match", "c.fits", "ref.csv", "--new", "all.fits"), "must not exist")
    assert_refused(run("match", "c.fits", "ref.csv", "--new", "c.fits"), "must not be the input")
    assert_refused(run("match", "c.fits", "ref.csv", "-o", "x.fits", "--new", "x.fits"), "twice")


def test_match_gives_limits_of_what_is_missing(run):
    write_small_map()
    run("map.fits", "-o", "c.fits", "--quiet")
    Path("ref.csv").write_text("Source_Name,GLON,GLAT\nA,120.02,40.01\nB,120.9,40.8\nC,10,0\n")
    words = ("match", "c.fits", "ref.csv", "--missing", "missing.fits")
    code, _, stderr = run(*words, "--counts", "map.fits")
    assert code == 0, stderr
    missing = QTable.read("missing.fits")
    assert list(missing["Source_Name"]) == ["B"]  # C lies outside of the map
    assert 2.5 < missing["Npred_UL95"][0] < 20
    assert missing["Flux_UL95"].mask.all()
    header = fits.getheader("missing.fits", 1)
    assert (header["EMIN"], header["FLUXEMAX"]) == (10, 1000)
    assert "stat.max;phot.flux;em.gamma" in header.values()
    assert_refused(run(*words, "--overwrite", "--exposure", "e.fits"), "goes with --counts")
    code, stdout, _ = run(*words[:3], "--counts", "map.fits")
    assert "1 of 2 (50 %)" in stdout


def test_match_reads_catalogs_by_their_names(run, monkeypatch):
    write_small_map()
    run("map.fits", "-o", "c.fits", "--quiet")
    monkeypatch.delenv("GAMMAPY_DATA", raising=False)
    assert_refused(run("match", "c.fits", "4fgl"), "'4fgl' is read from $GAMMAPY_DATA")


@pytest.mark.slow
def test_evaluate_scores_simulated_skies(run):
    code, stdout, _ = run("evaluate", "--years", "2", "--seed", "77")
    assert code == 0
    assert [line.split(" ")[0] for line in stdout.splitlines()] == ["all", "|b|", "|b|"]
    assert "average precision" in stdout


# As a program


def test_program_prints_nothing_but_the_catalog_on_stdout(tmp_path):
    words = [sys.executable, "-m", "astro_unetloc.cli.main", MAP, "-o", "-", "--quiet"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# %ECSV")
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_program_says_warnings_in_one_line(tmp_path):
    from astropy.io import fits

    path = tmp_path / "image.fits"
    fits.PrimaryHDU(np.ones((9, 9), int), image_header((9, 9))).writeto(path)
    words = [sys.executable, "-m", "astro_unetloc.cli.main", path, "-o", "-"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: image.fits does not state its energies")
