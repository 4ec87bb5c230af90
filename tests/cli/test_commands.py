"""The sub-commands: demo, classify, match, simulate, train, evaluate, models."""

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from made_predictions import made_predictions
from made_skies import made_patches

import astro_unetloc
from astro_unetloc import find_sources, load_model, read_catalog
from astro_unetloc.catalog.table import source_classes
from astro_unetloc.evaluation import predictions as evaluation_predictions
from astro_unetloc.evaluation import report as evaluation_report
from astro_unetloc.evaluation.metrics import evaluate
from astro_unetloc.evaluation.predictions import chosen_patches
from astro_unetloc.files import checksum, locked_folder
from astro_unetloc.training import make as training_make
from astro_unetloc.training.patch_set import open_patch_set

DATA = Path(astro_unetloc.__file__).parent / "data"
EXAMPLE = DATA / "example"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("demo -o no/where", "output directory must exist; got 'no'"),
        ("train no.h5 -o model", "no such patch set: no.h5"),
        (
            f"train {EXAMPLE / 'map.fits.gz'} -o model",
            "expected an HDF5 patch set; got another kind",
        ),
        ("match a.fits b.fits", "a.fits"),
        ("simulate -o sky.txt", "output must end in .fits, .fits.gz or .h5"),
        ("simulate -o s.fits --years -1", "years must be a positive number"),
        ("simulate -o s.fits --width 0", "pixel <= width"),
        ("simulate -o s.fits --variant X", "--variant chooses among"),
        ("simulate -o s.fits --template no.fits", "no such file: no.fits"),
        ("simulate -o s.fits --exposure no.fits", "no such file: no.fits"),
        ("simulate -o s.fits --truth s.fits", "outputs must differ"),
        ("simulate -o s.fits --energy-range 0.1 10", "lie within 0.3-2000 GeV"),
        ("simulate -o s.fits --bands 1,10", "--bands goes with a patch set (.h5)"),
        ("simulate -o s.fits --skies 2", "--skies goes with a patch set (.h5)"),
        ("simulate -o s.fits --cluster tcp://x:1", "--cluster goes with a patch set (.h5)"),
        ("simulate -o s.h5 --workers 2 --cluster x", "--workers and --cluster exclude each other"),
        ("simulate -o s.h5 --cluster http://x:1", "must have an address such as tcp://node1:8786"),
        ("simulate -o s.fits --components sky", "--components goes with a patch set"),
        ("simulate -o s.fits --nside 64", "--nside goes with a folder"),
        ("simulate -o s.fits --exposure e --years 4", "instead of --years"),
        ("simulate -o s.h5 --bands 1;10", "--bands must be numbers in GeV"),
        ("simulate -o s.h5 --psf p.fits", "--psf cannot go with a patch set (.h5)"),
        ("simulate -o s.h5 --truth t.fits --years 4", "--truth, --years"),
        ("simulate -o s.h5 --components no", "components must be a folder; got 'no'"),
        ("simulate -o s/ --nside 64 --width 4", "the whole sky"),
        ("simulate -o s/ --truth t.fits", "--truth goes with a cube"),
    ],
)
def test_wrong_usage_is_refused_and_leaves_nothing(refused, files, words, message):
    refused(message, *words.split())
    assert files() == []


@pytest.fixture
def calibrated(monkeypatch):
    """Folders of models of which a calibration was asked; none is made."""
    folders, where = [], "astro_unetloc.evaluation.calibration.calibrate"
    monkeypatch.setattr(where, lambda folder, **options: folders.append(folder))
    return folders


def test_progress_of_a_training_is_on_stderr(passes, monkeypatch, calibrated):
    def trained(patch_set, folder, **options):
        sys.stdout.write("Epoch 1/38\n")  # as Keras does
        return SimpleNamespace(folder=folder)

    monkeypatch.setattr("astro_unetloc.training.train.train", trained)
    words = "train", "set.h5", "-o", "m"
    assert passes(*words, "--no-calibrate") == ["", "Epoch 1/38\nmodel -> m\n"]
    assert calibrated == []
    assert passes(*words)[1].startswith("Epoch 1/38\ncalibrating Score")
    assert calibrated == ["m"]


def test_interrupted_calibration_is_resumed_without_a_training(passes, refused, calibrated):
    make_patch_set = partial(training_make.make_patch_set, patches_per_sky=2)
    shutil.copytree(load_model().folder, "m")
    make_patch_set("set.h5", n_skies=2, first_seed=4)
    with open_patch_set("set.h5") as patch_set:
        training = {"patch_set_id": patch_set.identity}
    card = Path("m", "card.json")
    plain = {k: v for k, v in json.loads(card.read_text()).items() if "calibration" not in k}
    card.write_text(json.dumps(plain | {"training": training}))
    passes("train", "set.h5", "-o", "m")
    assert calibrated == ["m"]
    refused("must not hold a model", "train", "set.h5", "-o", "m", "--no-calibrate")
    card.write_text(json.dumps(plain))  # of another set
    refused("must not hold a model", "train", "set.h5", "-o", "m")
    assert calibrated == ["m"]


def files_in(folder):
    """Names of the files in a folder."""
    return {path.name for path in Path(folder).iterdir()}


def test_demo_finds_most_of_the_example(passes, refused):
    stdout, stderr = passes("demo")
    assert stdout == ""
    assert files_in("astro-unetloc-demo") == {
        f"catalog.{kind}" for kind in ("fits", "reg", "png", "html")
    }
    assert "The example is a simulated sky" in stderr
    catalog = read_catalog("astro-unetloc-demo/catalog.fits")
    assert evaluate(catalog, read_catalog(EXAMPLE / "truth.ecsv")).completeness > 0.5
    refused("add --overwrite", "demo")


def test_models_are_listed(passes):
    stdout = passes("models")[0]
    assert "lat-10gev  10-20-50-150-500-2000 GeV" in stdout


# simulate


def test_simulated_cube_is_found_again(passes, refused, files):
    words = ("simulate", "-o", "sky.fits.gz", "--truth", "truth.ecsv", "--width", "6")
    words += ("--center", "-120", "-10", "--years", "3", "--energy-range", "1", "100")
    stdout, stderr = passes(*words, "--seed", "5")
    assert stdout == ""
    assert "true sources -> sky.fits.gz, truth.ecsv" in stderr
    assert files() == ["sky.fits.gz", "truth.ecsv"]
    header = fits.getheader("sky.fits.gz")
    assert header["DSVAL1"] == "1000:100000"
    assert header["COMMAND"].startswith("astro-unetloc simulate -o sky.fits.gz --truth truth.ecsv ")
    truth = QTable.read("truth.ecsv")
    assert truth.meta["FLUXEMIN"] == 1.0
    assert np.all(np.abs(truth["GLON"].value - 240) < 4)
    passes("sky.fits.gz", "-o", "c.csv", "--no-measure")
    refused("add --overwrite", *words)


def test_simulated_folder_holds_components_and_truth(passes, refused):
    words = ("simulate", "-o", "sky/", "--width", "6", "--center", "10", "0", "--years", "2")
    stdout, stderr = passes(*words)
    assert stdout == ""
    assert "true sources -> sky/" in stderr
    expected = {"background.fits", "agn.fits", "psr.fits", "sources.xml", "truth.fits"}
    assert expected <= files_in("sky")
    refused("add --overwrite", *words)


def test_whole_patch_set_is_kept_without_overwrite(run, refused, monkeypatch):
    monkeypatch.setattr(training_make, "patches_of_sky", made_patches)
    words = ("simulate", "-o", "set.h5", "--skies", "2", "--patches-per-sky", "2")
    assert run(*words) == (0, "", "4 patches of 2 skies -> set.h5\n")
    refused("got the whole set 'set.h5'", *words)
    assert run(*words, "--overwrite", "--quiet") == (0, "", "")


# match


@pytest.fixture
def found(run, write_map):
    """Catalogue of a map with one source at l = 120, b = 40 deg."""
    run(write_map(), "-o", "c.fits", "--quiet")
    return "c.fits"


def write_reference(*rows):
    """Write a table of names and Galactic positions."""
    Path("ref.csv").write_text("\n".join(["Source_Name,GLON,GLAT", *rows]) + "\n")
    return "ref.csv"


def test_sources_of_any_catalog_are_classified_by_their_photons(passes, refused, files, write_map):
    Path("c.csv").write_text("Name,GLON,GLAT,CLASS\nA,120.0,40.0,bll\nB,10.0,-60.0,psr\n")
    words = ("classify", "c.csv", "--map", write_map(), "-o", "k.fits", "-o", "k.png")
    stderr = passes(*words)[1]
    assert "the map shows 1 of 2 sources" in stderr
    assert "1 source on the map: 1 agn, 0 psr, 0 other, 0 uncertain -> k.fits, k.png\n" in stderr
    assert files() == ["c.csv", "k.fits", "k.png", "map.fits"]
    table = read_catalog("k.fits")
    assert source_classes(table).tolist() == ["agn", ""]
    assert list(table["CLASS_Ref"]) == ["bll", "psr"]
    total = sum(table[name][0] for name in ("Prob_AGN", "Prob_PSR", "Prob_OTHER"))
    assert total == pytest.approx(1, abs=1e-6)
    assert table["Counts_Band"].shape == (2, 5)
    assert table.meta["CLASSED"].startswith("astro-unetloc classify c.csv --map map.fits")
    assert table.meta["CATSHA"] == checksum("c.csv")
    refused("must not exist", *words)
    refused("need at least 50 sources", *words, "--unsupervised", "--overwrite")


def test_prior_of_the_classes_decides_where_it_is_certain(passes, refused, write_map):
    passes(write_map(), "-o", "c.ecsv", "--class-prior", "0 1 0")
    table = read_catalog("c.ecsv")
    assert (table["Class"][0], table["Prob_PSR"][0]) == ("psr", 1)
    stdout = passes("classify", "c.ecsv", "--map", "map.fits", "-o", "-", "--class-prior", "2 0 0")
    assert QTable.read(stdout[0].splitlines(), format="ascii.ecsv")["Prob_AGN"][0] == 1
    passes("map.fits", "-o", "d.csv", "--no-classify")
    assert read_catalog("d.csv")["Prob_PSR"].mask.all()
    for switch in ("--no-classify", "--no-measure"):
        message = f"--class-prior needs the classification; got {switch}"
        refused(message, "map.fits", "-o", "e.csv", "--class-prior", "flat", switch)
    message = "class_prior must be 'flat' or three fractions"
    refused(message, "map.fits", "-o", "e.csv", "--class-prior", "0.5 0.5")


def test_match_writes_known_missing_new_and_possible_sources(passes, refused, found, monkeypatch):
    words = ("match", found, write_reference("A,120.02,40.01", "B,120.2,40.01", "C,10,0"))
    stdout = passes(*words, "-o", "m.ecsv", "--region", 120, 40, 5)[0]
    assert "ref.csv: 1 of 2 (50 %) point-like" in stdout
    assert "1 of 1 detection lies within 0.3 deg" in stdout
    matched = QTable.read("m.ecsv")
    assert matched["ASSOC"][0] == "A"
    assert matched.meta["MATCHED"].startswith("astro-unetloc match c.fits ref.csv -o m.ecsv --reg")
    assert matched.meta["REFSHA"] == checksum("ref.csv")
    lists = ("--missing", "missing.csv", "--new", "new.reg", "--candidates", "all.fits")
    stdout = passes(*words, *lists, "--radius", "0.5")[0]
    assert "1 of 2 (50 %) point-like ref.csv sources in the searched area found (<= 0" in stdout
    assert list(QTable.read("missing.csv")["Source_Name"]) == ["B"]  # C was not searched
    assert "point(" not in Path("new.reg").read_text()
    assert list(QTable.read("all.fits")["ASSOC"]) == ["A", "B"]
    refused("must not exist", *words, "--new", "all.fits")
    refused("must not be the input", *words, "--new", found)
    refused("twice", *words, "-o", "x.fits", "--new", "x.fits")
    monkeypatch.delenv("GAMMAPY_DATA", raising=False)
    refused("catalogue '4fgl' must be in", "match", found, "4fgl")


def test_match_writes_upper_limits_of_missing_sources(passes, refused, found):
    reference = write_reference("A,120.02,40.01", "B,120.9,40.8", "C,10,0")
    words = ("match", found, reference, "--missing", "missing.fits")
    passes(*words, "--counts", "map.fits")
    missing = QTable.read("missing.fits")
    assert list(missing["Source_Name"]) == ["B"]  # C lies outside of the map
    assert 2.5 < missing["Npred_UL95"][0] < 20
    assert missing["Flux_UL95"].mask.all()
    header = fits.getheader("missing.fits", 1)
    assert (header["EMIN"], header["FLUXEMAX"]) == (10, 1000)
    assert "stat.max;phot.flux;em.gamma" in header.values()
    assert "Counts UL95" in passes("show", "missing.fits")[0]
    passes(*words, "--counts", "map.fits", "--psf-radius", "0.5deg", "--overwrite")
    assert QTable.read("missing.fits")["Npred_UL95"][0] > 1.2 * missing["Npred_UL95"][0]
    for option in ("--exposure", "--background", "--psf"):
        refused(f"{option} goes with --counts", *words, "--overwrite", option, "e.fits")
    assert "1 of 2 (50 %)" in passes(*words[:3], "--counts", "map.fits")[0]


# evaluate


PARTS_OF_THE_SKY = ["all", "|b|", "|b|"]


def first_words(text):
    """First words of the lines of a text."""
    return [line.split(" ")[0] for line in text.splitlines()]


@pytest.fixture
def searches(monkeypatch):
    """Replace the searches of skies; a list of (seed, number of patches, whether with sources)."""
    searched = []

    def search_sky(model, seed, *, numbers=(), with_sources=True, **options):
        searched.append((seed, len(numbers), with_sources))
        patches, judgement = made_predictions(seed)
        return (patches if len(numbers) else None), judgement

    monkeypatch.setattr(evaluation_predictions, "search_sky", search_sky)
    return searched


@pytest.fixture
def plain(monkeypatch):
    """Leave the figures of a report out, which take time."""
    monkeypatch.setattr(evaluation_report, "draw", lambda name, table: None)
    monkeypatch.setattr(evaluation_report, "_examples", lambda run, codes, n: [])


def test_scores_of_skies_are_printed_beside_a_baseline(passes, searches, files):
    words = (
        "--skies",
        2,
        "--seed",
        7,
        "--threshold",
        0.3,
        "--against",
        DATA / "models" / "lat-10gev",
    )
    stdout, stderr = passes("evaluate", *words)
    assert stderr == ""
    assert "Compared with lat-10gev:" in stdout
    assert "no significant difference of" in stdout
    stdout = stdout.partition("Compared")[0]
    assert first_words(stdout)[:3] == PARTS_OF_THE_SKY
    assert "24 true sources" in stdout
    assert "average precision" in stdout
    assert "16 of 20 detections are real, " in stdout
    assert [seed for seed, *_ in searches] == [7, 8, 7, 8]
    assert files() == []


def test_report_holds_tables_figures_page_examples_and_predictions(passes, searches):
    words = ("--skies", 2, "--seed", 7, "-o", "out", "--case", "sky000008-p001")
    stdout, stderr = passes("evaluate", *words)
    page, written = Path("out/index.html").read_text(), files_in("out")
    assert page.count("data:image/png") >= 5
    assert json.loads(Path("out/scores.json").read_text())["meta"]["seeds"] == [7, 8]
    assert {"summary_table.ecsv", "by_flux.png", "source_free.ecsv", "predictions.h5"} <= written
    assert "case-sky000008-p001.png" in written
    assert ".unetloc-parts" not in written
    assert searches[2] == (7, 0, False)
    assert "A sky without sources: " in stdout
    line = stdout.splitlines()[0].replace("all sky       ", "all sky: ")
    assert line in page
    assert stderr.endswith(f"files -> {Path('out', 'index.html')}\n")


def test_interrupted_evaluation_is_resumed_and_a_finished_one_is_kept(
    run, passes, refused, searches, plain, monkeypatch
):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    words = ("evaluate", "-o", "out", "--seed", 7)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation_report, "write_files", interrupted)
        assert run(*words)[0] == 1
    assert Path("out/.unetloc-parts/sky000007.h5").exists()
    passes(*words)
    refused("add --overwrite", *words)
    assert len(searches) == 2
    passes(*words, "--overwrite")


def test_code_in_the_help_is_on_the_first_sky(run):
    stdout = run("evaluate", "--help")[1]
    chosen_patches([2000], 0, re.findall("sky[0-9]+-p[0-9]+", stdout))
    assert "such as sky002000-p123" in " ".join(stdout.split())


@pytest.fixture(scope="module")
def set_path(tmp_path_factory):
    """A patch set of one validation sky."""
    path = tmp_path_factory.mktemp("set") / "set.h5"
    training_make.make_patch_set(path, n_skies=1, patches_per_sky=6, first_seed=1010)
    return path


def test_patch_set_is_evaluated(passes, set_path, monkeypatch):
    monkeypatch.setattr(evaluation_report, "draw", lambda name, table: None)
    stdout = passes("evaluate", "--data", set_path, "-o", "out", "--patches", 4)[0]
    assert first_words(stdout)[:3] == PARTS_OF_THE_SKY
    assert json.loads(Path("out/scores.json").read_text())["meta"]["n_patches"] == 4
    assert list(Path("out").glob("case-sky001010-*.png"))
    assert Path("out/predictions.h5").exists()


def test_catalog_is_evaluated(passes, refused, plain):
    find_sources(EXAMPLE / "map.fits.gz", measure=False).write("found.ecsv")
    words = ("evaluate", "--catalog", "found.ecsv", "--truth", EXAMPLE / "truth.ecsv")
    others = [Path("out", name, "notes.txt") for name in ("parts", ".unetloc-parts")]
    for path in others:
        path.parent.mkdir(parents=True)
        path.touch()
    stdout = passes(*words)[0]
    assert first_words(stdout)[:3] == PARTS_OF_THE_SKY
    again = passes(*words, "-o", "out", "--against", "found.ecsv")[0]
    assert again.startswith(stdout)
    assert "Compared with found.ecsv:" in again
    assert not Path("out/predictions.h5").exists()
    assert Path("out/index.html").exists()
    assert all(path.exists() for path in others)
    with locked_folder("out"):
        refused("out is in use by another run; wait", *words, "-o", "out", "--overwrite")


@pytest.mark.slow
def test_evaluation_scores_simulated_skies(passes):
    stdout = passes("evaluate", "--years", "2", "--seed", "77")[0]
    assert first_words(stdout)[:3] == PARTS_OF_THE_SKY
    assert "average precision" in stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data set.h5 --skies 2", "--skies cannot go with --data"),
        ("--data set.h5 --seed 2 --years 1", "--seed, --years cannot go with"),
        ("--catalog c.fits", "--catalog goes with --truth"),
        ("--catalog c.fits --truth t.fits --model m", "--model cannot go with"),
        ("--catalog c.fits --truth t.fits --data s.h5", "cannot go with --data"),
        ("--catalog c.fits --truth t.fits --case c", "--case cannot go with"),
        ("--truth t.fits", "--truth goes with --catalog CATALOG"),
        ("--all-skies", "--all-skies goes with --data SET.h5"),
        ("--case sky000000-p001", "--case goes with -o FOLDER"),
        ("--patches 10", "--patches goes with -o FOLDER or --data SET.h5; give one"),
        ("--variant PIBREM+ICS", "--variant chooses among the templates of --template FILE"),
        ("--data none.h5", "no such patch set: none.h5"),
        ("-o no/out", "output directory must exist"),
        ("--model none -o out", "expected one of the models"),
        ("-o out --seed 7 --case sky000008-p001", "code names such as sky000007-p000 to sky000007"),
    ],
)
def test_wrong_evaluations_are_refused_before_the_search(refused, searches, files, words, message):
    refused(message, "evaluate", *words.split())
    assert searches == []
    assert files() == []
