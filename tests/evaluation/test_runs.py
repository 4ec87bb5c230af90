from dataclasses import replace
from pathlib import Path

import astropy.units as u
import h5py
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from made_catalogs import make_catalog as catalog_of
from made_catalogs import make_sources
from made_predictions import made_matches, made_predictions
from made_truth import make_catalog, make_truth
from mocpy import MOC

import astro_unetloc
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.table import sky_positions
from astro_unetloc.catalog.write import write_catalog
from astro_unetloc.evaluation import predictions as predictions_module
from astro_unetloc.evaluation import run_on_catalog, run_on_set, run_on_skies
from astro_unetloc.evaluation import runs as runs_module
from astro_unetloc.evaluation.metrics import evaluate
from astro_unetloc.evaluation.predictions import read_example, read_matches, read_metadata
from astro_unetloc.evaluation.report import report_paragraphs, report_tables
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import checksum
from astro_unetloc.pipeline import find_sources
from astro_unetloc.training.make import make_patch_set
from astro_unetloc.unet.model import load_model

EXAMPLE = Path(astro_unetloc.__file__).parent / "data" / "example"


@pytest.fixture
def searches(monkeypatch):
    """Searches are made up; the list says which were made."""
    asked = []

    def search_sky(model, seed, *, numbers=(), with_sources=True, band_edges=None, **options):
        asked.append((model.name, seed, len(numbers), with_sources))
        patches, matches = made_predictions(seed)
        return (patches if len(numbers) else None), matches

    monkeypatch.setattr(predictions_module, "search_sky", search_sky)
    return asked


# Skies


def test_skies_are_matched_together(searches, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_on_skies(seeds=[10, 60])
    assert searches == [("lat-10gev", 10, 0, True), ("lat-10gev", 60, 0, True)]
    assert run.matches.evaluation().n_true == 24
    assert run.threshold == load_model().threshold
    assert run.metadata["seeds"] == [10, 60]
    assert (run.source_free, run.baseline, run.predictions) == (None, None, None)
    assert not list(tmp_path.iterdir())


def test_finished_skies_are_not_searched_again(searches, tmp_path, monkeypatch):
    place = tmp_path / "parts"
    work = predictions_module.search_sky

    def killed(model, seed, **options):
        if seed == 60:
            raise KeyboardInterrupt
        return work(model, seed, **options)

    with monkeypatch.context() as patch:
        patch.setattr(predictions_module, "search_sky", killed)
        with pytest.raises(KeyboardInterrupt):
            run_on_skies(seeds=[10, 60], n_patches=25, checkpoints=place)
    assert [seed for _, seed, *_ in searches] == [10]
    run = run_on_skies(seeds=[10, 60], n_patches=25, checkpoints=place)
    assert [(seed, n) for _, seed, n, _ in searches] == [(10, 13), (60, 13)]
    assert run.predictions == place / "predictions.h5"
    assert len(read_matches(run.predictions).truth) == 24
    assert read_metadata(run.predictions)["model_sha256"] == load_model().sha256
    whole = run_on_skies(seeds=[10, 60])
    np.testing.assert_array_equal(run.matches.catalog["Score"], whole.matches.catalog["Score"])


def test_checkpoints_of_other_options_are_refused_before_any_search_or_replaced(searches, tmp_path):
    run_on_skies(seeds=[10], years=7.0, checkpoints=tmp_path)
    message = r"unfinished evaluation .*sky000010.h5: .* years 7.0, not 2.0; give the same options"
    with pytest.raises(ValueError, match=message):
        run_on_skies(seeds=[5, 10], years=2.0, n_patches=2000, checkpoints=tmp_path)
    assert len(searches) == 1
    run_on_skies(seeds=[10], years=2.0, checkpoints=tmp_path, overwrite=True)
    assert len(searches) == 2
    # the threshold is none of them
    run = run_on_skies(seeds=[10], years=2.0, threshold=0.8, checkpoints=tmp_path)
    assert len(searches) == 2
    assert run.threshold == 0.8


def test_checkpoints_of_a_changed_card_are_refused(searches, tmp_path, monkeypatch):
    run_on_skies(seeds=[10], checkpoints=tmp_path)
    model = load_model()
    other = {n: model.card[n] for n in reversed(model.card)}
    monkeypatch.setattr(runs_module, "load_model", lambda name: replace(model, card=other))
    run_on_skies(seeds=[10], checkpoints=tmp_path)
    other["clustering"] = other["clustering"] | {"max_clusters": 7}
    with pytest.raises(ValueError, match="unfinished evaluation .* got card_sha256 '"):
        run_on_skies(seeds=[10], checkpoints=tmp_path)
    assert len(searches) == 1


def test_a_sky_without_sources_and_a_baseline_are_searched_too(searches, tmp_path):
    model, folder = load_model(), tmp_path / "parts"
    options = {"seeds": [10, 11], "source_free": True, "baseline": model.folder}
    run = run_on_skies(**options, checkpoints=folder)
    assert searches[2:] == [
        (model.name, 10, 0, False), (model.name, 10, 0, True), (model.name, 11, 0, True)
    ]  # fmt: skip
    assert len(run.source_free.truth) == len(made_matches(10).truth)
    assert len(run.baseline.truth) == len(run.matches.truth)
    assert run.baseline_name == run.metadata["baseline"] == model.name
    assert run.metadata["baseline_sha256"] == model.sha256
    # checkpoints are removed, and no files of others
    assert len(list(folder.rglob("*.h5"))) == 6
    run.remove_checkpoints()
    assert not list(tmp_path.iterdir())
    run, others = run_on_skies(**options, checkpoints=folder), [folder / "a.txt", folder / "sky.h5"]
    for path in others:
        path.touch()
    run.remove_checkpoints()
    assert sorted(folder.iterdir()) == others


def damaged(path, kind):
    """Damage a file of predictions."""
    content = path.read_bytes()
    if kind in ("text", "empty", "half"):
        path.write_bytes({"text": b"no", "empty": b"", "half": content[: len(content) // 2]}[kind])
        return
    with h5py.File(path, "w" if kind == "other" else "a") as file:
        file.attrs["version"] = 3
        if kind == "area":
            file.attrs["area_deg2"] = "wide"
        elif kind != "other":
            del file[kind]
            if kind == "catalog":
                file.create_dataset(kind, (5,), "f4")


@pytest.mark.parametrize("kind", ["text", "empty", "half", "other", "area", "catalog", "truth"])
def test_damaged_checkpoint_is_refused_in_one_line(searches, tmp_path, kind):
    run_on_skies(seeds=[10], checkpoints=tmp_path)
    path = tmp_path / "sky000010.h5"
    metadata = read_metadata(path)
    damaged(path, kind)
    with pytest.raises(InputError, match="sky000010.h5: expected .*; (remove|give)") as caught:
        run_on_skies(seeds=[10], checkpoints=tmp_path)
    assert "\n" not in str(caught.value)
    if kind in ("area", "catalog", "truth"):  # of the metadata that are expected
        with h5py.File(path, "a") as file:
            file.attrs["version"] = metadata["version"]
        with pytest.raises(InputError, match="expected predictions in HDF5; .*; remove the file"):
            run_on_skies(seeds=[10], checkpoints=tmp_path)


# Patch sets


@pytest.fixture(scope="module")
def set_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "set.h5"
    make_patch_set(path, n_skies=1, patches_per_sky=5, first_seed=1010)
    return path


def test_set_is_searched_in_parts(set_path, tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module, "_CHUNK", 2)
    described = []

    def progress(iterable, desc):
        described.append((desc, len(iterable)))
        return iterable

    run = run_on_set(set_path, checkpoints=tmp_path, baseline=load_model(), progress=progress)
    assert described == [("parts", 3)] * 2
    assert len(list(tmp_path.glob("patches*.h5"))) == 3
    whole = run_on_set(set_path)
    scores = [np.sort(each.matches.catalog["Score"]) for each in (run, whole)]
    np.testing.assert_array_equal(*scores)
    assert run.matches.area_deg2 == pytest.approx(whole.matches.area_deg2)
    assert len(run.baseline.catalog) == len(run.matches.catalog)
    assert run.metadata["patch_set"] == "set.h5"
    assert run.metadata["n_patches"] == 5


def test_named_patches_are_kept_and_do_not_count(set_path, tmp_path):
    codes = [f"sky001010-{i:04d}" for i in range(5)]
    plain = run_on_set(set_path, n_patches=2)
    run = run_on_set(set_path, n_patches=2, codes=codes, checkpoints=tmp_path)
    assert run.matches.evaluation().summary() == plain.matches.evaluation().summary()
    assert run.matches.area_deg2 == pytest.approx(plain.matches.area_deg2)
    assert run.metadata["n_patches"] == 2
    assert len(set(run.matches.truth["Tile"])) == 2
    for code in codes:
        assert len(read_example(run.predictions, code)["sources"]) > 0, code
    # checkpoints of another set are refused
    make_patch_set(tmp_path / "set.h5", n_skies=1, patches_per_sky=5, first_seed=1015)
    with pytest.raises(ValueError, match="got patch_set_checksum '"):
        run_on_set(tmp_path / "set.h5", n_patches=2, codes=[], checkpoints=tmp_path)


# Catalogues


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalog") / "found.ecsv"
    table = find_sources(EXAMPLE / "map.fits.gz", measure=False)
    del table.meta["MOC"]  # a true source lies just outside of it
    table.write(path)
    return path


def test_catalog_is_matched_with_the_truth(catalog):
    run = run_on_catalog(catalog, EXAMPLE / "truth.ecsv", baseline=catalog)
    expected = evaluate(read_catalog(catalog), read_catalog(EXAMPLE / "truth.ecsv"))
    assert run.matches.evaluation().summary() == expected.summary()
    assert run.baseline.evaluation().summary() == expected.summary()
    assert run.threshold == run.baseline_threshold == -np.inf
    assert run.metadata["model"] == "lat-10gev"
    assert run.metadata["catalog_sha256"] == run.metadata["baseline_sha256"]
    assert run.metadata["truth_sha256"] == checksum(EXAMPLE / "truth.ecsv")
    assert len(set(run.matches.truth["Tile"])) > 3


def test_all_of_a_catalog_count_whatever_the_scale_of_its_scores(catalog, tmp_path):
    table = read_catalog(catalog)
    table["Score"] = table["Score"] - 5.0
    table.write(tmp_path / "other.ecsv")
    run = run_on_catalog(tmp_path / "other.ecsv", EXAMPLE / "truth.ecsv", baseline=catalog)
    assert len(run.matches.select(run.threshold).catalog) == len(table)
    lines, compared = report_paragraphs(run)  # without a sum of Score, which is none of theirs
    assert [lines, compared] == report_paragraphs(replace(run, matches=run.baseline))[::2]
    cut = float(np.median(table["Score"]))
    run = run_on_catalog(tmp_path / "other.ecsv", EXAMPLE / "truth.ecsv", threshold=cut)
    assert run.threshold == cut


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "vot"])
def test_true_sources_outside_the_searched_area_are_not_counted(tmp_path, suffix):
    # the detections are one of two sources inside, one of a source outside, and nothing
    truth = make_truth([0, 1, 2.2, 9], [0, 0, 0, 0])
    center = SkyCoord(0 * u.deg, 0 * u.deg, frame="galactic").icrs
    found = catalog_of(make_sources(lon=[0.01, 1.95, 0.5], lat=[0, 0, 0.5]))
    found.meta["MOC"] = MOC.from_cone(
        center.ra, center.dec, radius=2 * u.deg, max_depth=10
    ).to_string()
    write_catalog(found, tmp_path / f"found.{suffix}")
    truth.write(tmp_path / "truth.ecsv")
    run = run_on_catalog(*(tmp_path / name for name in (f"found.{suffix}", "truth.ecsv")))
    scores = run.matches.evaluation()
    assert (scores.n_true, scores.correct.sum(), len(scores.correct)) == (2, 1, 2)
    assert run.matches.area_deg2 == run.metadata["area_deg2"] == pytest.approx(4 * np.pi, rel=0.05)


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "csv"])
def test_catalogs_of_other_programs_have_positions_of_their_own(catalog, tmp_path, suffix):
    tables = [read_catalog(path) for path in (catalog, EXAMPLE / "truth.ecsv")]
    paths = [tmp_path / f"{name}.{suffix}" for name in ("found", "truth")]
    for path, table, columns in zip(paths, tables, (["Score"], ["Npred", "Radius"])):
        position = sky_positions(table)
        other = Table({"RAJ2000": position.ra.deg, "DEJ2000": position.dec.deg})
        for name in columns:
            other[name] = np.asarray(table[name], float)
        other.write(path)
    run = run_on_catalog(*paths, baseline=paths[0])
    expected = evaluate(*tables).summary()
    assert run.matches.evaluation().summary() == run.baseline.evaluation().summary() == expected


def test_rows_without_a_position_and_a_catalog_without_truth_are_refused(catalog, tmp_path):
    with pytest.raises(ValueError, match="truth must have the columns"):
        run_on_catalog(catalog, catalog)
    path = tmp_path / "found.fits"
    Table({"RAJ2000": [1.0, np.nan], "DEJ2000": [1.0, 2.0], "Score": [1.0, 1.0]}).write(path)
    with pytest.raises(ValueError, match=r"found.fits: .* 1 of 2 have none; remove these rows"):
        run_on_catalog(path, EXAMPLE / "truth.ecsv")


@pytest.mark.parametrize("threshold", [-0.1, 1.5, np.nan])
def test_threshold_of_a_model_is_a_score(searches, threshold):
    with pytest.raises(ValueError, match=f"a Score from 0 to 1; got {threshold}; choose another"):
        run_on_skies(seeds=[10], threshold=threshold)
    assert searches == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Score": ["a", "b"]}, "Score must hold numbers, one in each row; got a, b"),
        ({"Npred": [[1.0, 2.0]] * 2}, "Npred must hold numbers, one in each row"),
        ({"Flux": [1, 2] * u.m}, "Flux must hold numbers in ph cm-2 s-1"),
        ({"Radius": [0, np.inf] * u.deg}, "truth must have .* a Radius up to 180 deg"),
        ({"FLUXEMIN": "a", "FLUXEMAX": 3}, "FLUXEMIN and FLUXEMAX must be ascending energies"),
        ({"FITEMIN": 50.0, "FITEMAX": 10.0}, "FITEMIN and FITEMAX must be .*; got 50.0 and 10.0"),
        ({"EMIN": -1.0, "EMAX": np.inf}, "EMIN and EMAX must be .*; correct or remove"),
    ],
)
def test_damaged_columns_and_energies_are_refused_in_one_line(tmp_path, change, message):
    keys = ("FLUXEMIN", "FLUXEMAX", "FITEMIN", "FITEMAX", "EMIN", "EMAX")
    tables = {"found": make_catalog([0, 5], [0, 0]), "truth": make_truth([0, 5], [0, 0])}
    for name, table in tables.items():
        table["Npred"] = [10.0, 20.0]
        for column in set(change) - set(keys):
            table[column] = change[column]
        table.meta |= {key: value for key, value in change.items() if key in keys}
        table.write(tmp_path / f"{name}.ecsv")
    with pytest.raises(InputError, match=message) as caught:
        report_tables(run_on_catalog(tmp_path / "found.ecsv", tmp_path / "truth.ecsv"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("meta", "taken"), [({}, 0), ({"EMIN": 1.0}, 1), ({"EMIN": 1.0, "FITEMIN": 10.0}, 0)]
)
def test_brightest_source_near_is_taken_by_the_energies_of_the_fit(tmp_path, meta, taken):
    truth, found = make_truth([0, 0.2], [0, 0], [9, 90]), make_catalog([0.05], [0])
    found.meta |= meta | {key.replace("MIN", "MAX"): 2000.0 for key in meta}
    for table, name in ((truth, "truth.ecsv"), (found, "found.ecsv")):
        table.write(tmp_path / name)
    run = run_on_catalog(tmp_path / "found.ecsv", tmp_path / "truth.ecsv")
    assert run.matches.catalog["True_Row"].tolist() == [taken]
