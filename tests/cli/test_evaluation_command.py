import json
import re
from pathlib import Path

import pytest
from made_predictions import made_predictions

import astro_unetloc
from astro_unetloc.cli import main as cli
from astro_unetloc.evaluation import report as evaluation_report
from astro_unetloc.evaluation import runs as evaluation_run
from astro_unetloc.evaluation.runs import check_codes
from astro_unetloc.pipeline import find_sources
from astro_unetloc.training.make import make_patch_set

EXAMPLE = Path(astro_unetloc.__file__).parent / "data" / "example"
SKIES = ["all", "|b|", "|b|"]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the command in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main(["evaluate", *map(str, words)])
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return call


@pytest.fixture
def searches(monkeypatch):
    """Searches are made up; the list says which were asked for."""
    asked = []

    def predict_sky(model, seed, *, numbers=(), with_sources=True, **options):
        asked.append((seed, len(numbers), with_sources))
        patches, judgement = made_predictions(seed)
        return (patches if len(numbers) else None), judgement

    monkeypatch.setattr(evaluation_run, "predict_sky", predict_sky)
    return asked


@pytest.fixture
def plain(monkeypatch):
    """A report without figures, which take their time."""
    monkeypatch.setattr(evaluation_report, "draw", lambda name, table: None)
    monkeypatch.setattr(evaluation_report, "_cases", lambda run, codes, n_cases: [])


# Skies


def test_scores_of_skies_are_printed(run, searches):
    code, stdout, stderr = run("--skies", 2, "--seed", 7)
    assert code == 0
    assert [line.split(" ")[0] for line in stdout.splitlines()] == SKIES
    assert "24 true sources" in stdout
    assert "average precision" in stdout
    assert [seed for seed, *_ in searches] == [7, 8]
    assert stderr == ""
    assert not list(Path().iterdir())


def test_report_holds_tables_figures_page_cases_and_predictions(run, searches):
    code, stdout, stderr = run("--skies", 2, "--seed", 7, "-o", "out", "--case", "sky000008-p001")
    assert code == 0
    folder = Path("out")
    assert (folder / "index.html").read_text().count("data:image/png") >= 5
    assert json.loads((folder / "scores.json").read_text())["meta"]["seeds"] == [7, 8]
    assert {"summary_table.ecsv", "by_flux.png", "source_free.ecsv", "predictions.h5"} <= {
        path.name for path in folder.iterdir()
    }
    assert (folder / "case-sky000008-p001.png").exists()
    assert not (folder / ".unetloc-parts").exists()
    assert searches[2] == (7, 0, False)
    assert "A sky without sources: " in stdout
    line = stdout.splitlines()[0].replace("all sky       ", "all sky: ")
    assert line in (folder / "index.html").read_text()
    assert stderr.endswith(f"files -> {folder / 'index.html'}\n")


def test_finished_report_is_kept_unless_told(run, searches, plain):
    assert run("-o", "out", "--seed", 7)[0] == 0
    code, _, stderr = run("-o", "out", "--seed", 7)
    assert code == 2
    assert "add --overwrite" in stderr
    assert len(searches) == 2
    assert run("-o", "out", "--seed", 7, "--overwrite")[0] == 0


def test_killed_run_goes_on(run, searches, plain, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_report, "write_report", killed)
        assert run("-o", "out", "--seed", 7)[0] == 1
    assert Path("out/.unetloc-parts/sky000007.h5").exists()
    assert run("-o", "out", "--seed", 7)[0] == 0
    assert len(searches) == 2


def test_case_that_the_help_names_is_on_the_first_sky(run):
    code, stdout, _ = run("--help")
    assert code == 0
    check_codes(re.findall("sky[0-9]+-p[0-9]+", stdout), [2000])
    assert "such as sky002000-p123" in " ".join(stdout.split())


def test_unknown_case_is_refused_before_the_search(run, searches):
    code, _, stderr = run("-o", "out", "--seed", 7, "--case", "sky000008-p001")
    assert code == 2
    assert "expected code names such as sky000007-p000 to sky000007-p767" in stderr
    assert not searches


def test_model_is_compared_with_another(run, searches, plain):
    model = Path(astro_unetloc.__file__).parent / "data" / "models" / "lat-10gev"
    code, stdout, _ = run("--seed", 7, "--skies", 2, "--against", model, "-o", "out")
    assert code == 0
    assert "Against lat-10gev:" in stdout
    assert "no difference is seen in" in stdout
    assert Path("out/comparison.ecsv").exists()


# Patch sets and catalogues


@pytest.fixture(scope="module")
def set_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "set.h5"
    make_patch_set(path, n_skies=1, patches_per_sky=6, first_seed=1010)
    return path


def test_patch_set_is_evaluated(run, set_path, monkeypatch):
    monkeypatch.setattr(evaluation_report, "draw", lambda name, table: None)
    code, stdout, _ = run("--data", set_path, "-o", "out", "--patches", 4)
    assert code == 0
    assert [line.split(" ")[0] for line in stdout.splitlines()] == SKIES
    scores = json.loads(Path("out/scores.json").read_text())
    assert scores["meta"]["n_patches"] == 4
    assert list(Path("out").glob("case-sky001010-*.png"))
    assert Path("out/predictions.h5").exists()


def test_catalog_is_evaluated(run, plain):
    find_sources(EXAMPLE / "map.fits.gz", measure=False).write("found.ecsv")
    words = ("--catalog", "found.ecsv", "--truth", EXAMPLE / "truth.ecsv")
    mine = [Path("out", name, "notes.txt") for name in ("parts", ".unetloc-parts")]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.touch()
    code, stdout, _ = run(*words)
    assert code == 0
    assert [line.split(" ")[0] for line in stdout.splitlines()] == SKIES
    code, again, _ = run(*words, "-o", "out", "--against", "found.ecsv")
    assert code == 0
    assert again.startswith(stdout)
    assert "Against found.ecsv:" in again
    assert not Path("out/predictions.h5").exists()
    assert Path("out/index.html").exists()
    assert all(path.exists() for path in mine)


# Wrong usage


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "set.h5", "--skies", "2"], "--skies cannot go with --data"),
        (["--data", "set.h5", "--seed", "2", "--years", "1"], "--seed, --years cannot go with"),
        (["--catalog", "c.fits"], "--catalog goes with --truth"),
        (["--catalog", "c.fits", "--truth", "t.fits", "--model", "m"], "--model cannot go with"),
        (["--catalog", "c.fits", "--truth", "t.fits", "--data", "s.h5"], "cannot go with --data"),
        (["--truth", "t.fits"], "--truth goes with --catalog CATALOG"),
        (["--all-skies"], "--all-skies goes with --data SET.h5"),
        (["--case", "sky000000-p001"], "--case goes with -o FOLDER"),
        (["--patches", "10"], "--patches goes with -o FOLDER or --data SET.h5; give one"),
        (["--catalog", "c.fits", "--truth", "t.fits", "--case", "c"], "--case cannot go with"),
        (["--variant", "PIBREM+ICS"], "--variant chooses among the templates of --template FILE"),
        (["--data", "none.h5"], "no such patch set: none.h5"),
        (["-o", "no/out"], "output directory must exist"),
        (["--model", "none", "-o", "out"], "expected one of the models"),
    ],
)
def test_wrong_usage_is_one_line(run, searches, words, message):
    code, stdout, stderr = run(*words)
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert (stdout, searches) == ("", [])
    assert not list(Path().iterdir())
