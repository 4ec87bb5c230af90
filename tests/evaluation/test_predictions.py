import subprocess
import sys
from types import SimpleNamespace

import astropy.units as u
import h5py
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from made_predictions import made_matches, made_predictions
from made_sets import write_made_set

from astro_unetloc.evaluation import predictions as predictions_module
from astro_unetloc.evaluation.predictions import (
    _sky_patches,
    check_bands,
    chosen_patches,
    chosen_rows,
    join_predictions,
    narrowed,
    observed_sky,
    patch_code,
    read_example,
    read_matches,
    read_metadata,
    search_patches,
    search_sky,
    worst_patches,
    write_predictions,
)
from astro_unetloc.evaluation.truth import grid_tiles, match_truth
from astro_unetloc.maps.patches import PatchGrid, TangentPlane
from astro_unetloc.maps.photons import Photons
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.pipeline import detect
from astro_unetloc.simulation.sky import simulate_sky
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat
from astro_unetloc.training.make import make_patch_set
from astro_unetloc.training.observation import source_mask
from astro_unetloc.training.patch_set import open_patch_set
from astro_unetloc.unet.model import load_model

# Simulated skies

NUMBER = 100


@pytest.fixture(scope="module")
def searched():
    """A search of the surroundings of one patch, and its matches."""
    lon, lat = lonlat_from_vectors(PatchGrid().centers[NUMBER])
    center = SkyCoord(lon, lat, unit="deg", frame="galactic")
    sky_map, truth = simulate_sky(center=center, radius=9 * u.deg, rng=1010)
    run = detect(sky_map, threshold=0.0, measure=False)
    return run, match_truth(run.catalog, truth, tile=grid_tiles(1010))


@pytest.fixture(scope="module")
def patches(searched):
    return _sky_patches(*searched, 1010, [NUMBER])


def test_the_middle_of_the_patch_is_kept(searched, patches):
    run = searched[0]
    row, middle = list(run.patches.index).index(NUMBER), slice(16, 144)
    assert patches["image"].shape == (1, 128, 128, 5)
    np.testing.assert_array_equal(patches["image"][0], run.patches.counts[row, middle, middle])
    expected = run.probability[row, middle, middle]
    np.testing.assert_allclose(patches["probability"][0], expected, atol=5e-4)
    assert patches["code"] == ["sky001010-p100"]


def check_pixels(plane, rows, atol):
    """Pixels of records are those of their positions, inside the patch."""
    x, y = plane.pixel_from_vectors(vectors_from_lonlat(rows["glon"], rows["glat"]))
    np.testing.assert_allclose(rows["x"], x, atol=atol)
    np.testing.assert_allclose(rows["y"], y, atol=atol)
    assert np.all((x > -0.5) & (x < 127.5) & (y > -0.5) & (y < 127.5))


def test_records_are_the_sources_inside_the_patch_with_their_pixels(searched, patches):
    _, matches = searched
    plane = TangentPlane(*map(float, patches["center"][0][:2]), 128, 10 / 128, 0.0)
    np.testing.assert_allclose(plane.basis[2], PatchGrid().centers[NUMBER], atol=1e-12)
    for name, table in (("sources", matches.truth), ("found", matches.catalog)):
        rows = patches[name]
        check_pixels(plane, rows, 1e-4)
        assert len(rows) > 2
        assert np.all(rows["patch"] == 0)
        of_lon = {lon: row for row, lon in enumerate(table["GLON"].value)}
        table = table[[of_lon[lon] for lon in rows["glon"]]]
        if name == "found":
            np.testing.assert_allclose(rows["score"], table["Score"], rtol=1e-6)
            np.testing.assert_array_equal(rows["status"].astype(str), table["Status"])
            continue
        for column in ("Npred", "Flux", "Radius"):
            np.testing.assert_allclose(rows[column.lower()], table[column].value, rtol=1e-6)
        np.testing.assert_array_equal(rows["truth_class"].astype(str), table["Truth_Class"])
        np.testing.assert_array_equal(rows["score"] > 0, table["Status"] == "found")


def test_mask_is_a_disc_around_what_should_be_found_where_the_probability_is_high(patches):
    counted = patches["sources"][patches["sources"]["truth_class"] == b"counted"]
    expected = source_mask(counted["x"], counted["y"], 2.0, 128)
    mask = patches["mask"][0, ..., 0]
    assert len(counted)
    assert np.all(mask[expected > 0] == 1)
    assert mask.sum() <= expected.sum() + 20  # and parts of discs from outside
    sure = patches["found"][patches["found"]["score"] > 0.8]
    x, y = (np.rint(sure[name]).astype(int) for name in ("x", "y"))
    assert len(sure)
    assert np.all(patches["probability"][0, y, x] > 0.3)


def test_patches_are_drawn_by_the_seed_and_named_ones_kept():
    drawn, other = chosen_patches([5, 6], 30).values()
    assert (len(drawn), len(chosen_patches([5], 5000)[5])) == (30, 768)
    np.testing.assert_array_equal(drawn, chosen_patches([5], 30)[5])
    assert set(drawn) != set(other)
    number = next(i for i in range(768) if i not in drawn)
    named = chosen_patches([5, 6], 30, codes=[patch_code(5, number), "sky000006-p767"])
    assert set(named[5]) == {*drawn.tolist(), number}
    message = "such as sky000005-p000 to sky000006-p767; got 'sky000007-p000'; name patches"
    with pytest.raises(ValueError, match=message):
        chosen_patches([5, 6], 30, codes=["sky000005-p000", "sky000007-p000"])


def few_photons(**options):
    """A sky of 30 photons from the lowest energy on, without truth."""
    assert options["rng"] == 4
    vectors = np.random.default_rng(0).normal(size=(30, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    low, high = options["energy_range"]
    events = Photons(vectors, np.geomspace(low, high * 0.999, 30))
    return SkyMap(events=events, energy_edges=np.array([low, high])), None


@pytest.mark.parametrize(
    ("edges", "kept"),
    [([10.0, 20.0, 2000.0], [10.0, 2000.0]), ([0.5, 1.0, 1000.0], [0.5, 1.0, 1000.0])],
)
def test_sky_has_the_energies_of_the_model_and_is_binned_below_10_gev(monkeypatch, edges, kept):
    monkeypatch.setattr(predictions_module, "simulate_sky", few_photons)
    sky_map, _ = observed_sky(edges, 4)
    assert (sky_map.events is not None) == (edges[0] == 10)
    assert sky_map.energy_edges.tolist() == kept
    assert sky_map.n_photons == 30
    assert sky_map.exposure.years == 7.0


@pytest.mark.slow
def test_whole_sky_is_searched_and_matched():
    patches, matches = search_sky(load_model(), 1011, numbers=[3, 500], years=1.0)
    assert patches["code"] == ["sky001011-p003", "sky001011-p500"]
    assert matches.area_deg2 == pytest.approx(41252.96, abs=0.01)
    assert matches.evaluation().average_precision > 0.5
    assert set(matches.catalog["Tile"]) <= {f"1011/{i}" for i in range(768)}


def test_energy_range_narrows_the_bands():
    edges = np.array([10.0, 20, 50, 150])
    np.testing.assert_array_equal(narrowed(edges), edges)
    np.testing.assert_array_equal(narrowed(edges, (50, 2000)), [50, 150])
    np.testing.assert_array_equal(narrowed(edges, ("15 GeV", "0.1 TeV")), [15, 20, 50, 100])
    with pytest.raises(ValueError, match="must overlap 10-150 GeV.*got 1-5 GeV; choose another"):
        narrowed(edges, (1, 5))


# Patch sets


@pytest.fixture(scope="module")
def patch_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "set.h5"
    make_patch_set(path, n_skies=2, patches_per_sky=6, first_seed=1010)
    with open_patch_set(path) as opened:
        yield opened


ROWS = np.array([0, 2, 3, 5, 8])


@pytest.fixture(scope="module")
def predicted(patch_set):
    return search_patches(patch_set, ROWS, load_model())


def test_only_skies_to_validate_on_are_taken(patch_set):
    assert chosen_rows(patch_set, 100)[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert chosen_rows(patch_set, 100, all_skies=True)[0].tolist() == list(range(12))
    drawn, named = chosen_rows(patch_set, 4)
    assert (len(drawn), len(named)) == (4, 0)
    np.testing.assert_array_equal(drawn, chosen_rows(patch_set, 4)[0])
    assert np.all(np.diff(drawn) > 0)
    codes = [f"sky001010-{i:04d}" for i in range(6)]
    again, named = chosen_rows(patch_set, 4, codes=codes)
    np.testing.assert_array_equal(again, drawn)
    assert sorted([*again, *named]) == [0, 1, 2, 3, 4, 5]


def test_names_of_training_patches_and_of_none_are_refused(patch_set, tmp_path):
    with pytest.raises(ValueError, match=r"to validate on, such as sky001010-0000; .*--all-skies"):
        chosen_rows(patch_set, 2, codes=["sky001011-0003"])
    rows = chosen_rows(patch_set, 1, codes=["sky001011-0003"], all_skies=True)
    assert 9 in np.concatenate(rows)
    with pytest.raises(ValueError, match="code names of its patches, such as sky001010-0000; got"):
        chosen_rows(patch_set, 2, codes=["sky5"], all_skies=True)
    write_made_set(tmp_path / "set.h5", [3, 4], n_patches=1, n_pix=16)
    with open_patch_set(tmp_path / "set.h5") as opened:
        with pytest.raises(ValueError, match="skies to validate on, .* got none; .* --all-skies"):
            chosen_rows(opened, 10)


def test_other_bands_are_refused(patch_set):
    model = SimpleNamespace(name="other", band_edges=np.array([10.0, 100.0]))
    with pytest.raises(ValueError, match=r"in the bands \[10.0, 100.0\] GeV of model other; got"):
        check_bands(patch_set, model)
    check_bands(patch_set, load_model())


def test_patches_are_kept_as_they_were(patch_set, predicted):
    predictions = predicted[0]
    stored = patch_set.read(ROWS)
    for name in set(stored) - {"validation"}:
        kept = predictions["image" if name == "counts" else name]
        np.testing.assert_array_equal(kept, stored[name])
    assert predictions["probability"].shape == (5, 128, 128)
    assert predictions["probability"][predictions["coverage"][..., 0] == 0].max(initial=0) == 0


def test_sources_are_found_where_they_are(patch_set, predicted):
    _, matches = predicted
    evaluation = matches.select(load_model().threshold).evaluation()
    assert evaluation.n_true > 20
    assert evaluation.completeness > 0.6
    assert evaluation.purity > 0.6
    assert np.median(evaluation.offset_deg) < 0.08


def test_each_patch_is_a_sky_of_its_own_with_the_sources_of_the_set(patch_set, predicted):
    patches, matches = predicted
    for table in (matches.catalog, matches.truth):
        np.testing.assert_array_equal(table["Tile"], patches["code"].astype(str)[table["Patch"]])
    matched = matches.catalog[matches.catalog["True_Row"] >= 0]
    source = matches.truth[matched["True_Row"]]
    np.testing.assert_array_equal(matched["Patch"], source["Patch"])
    vectors = [vectors_from_lonlat(t["GLON"].value, t["GLAT"].value) for t in (matched, source)]
    np.testing.assert_allclose(separation_deg(*vectors), matched["Offset"].value, atol=1e-9)
    stored = patch_set.sources()
    for number, row in enumerate(ROWS):
        true = stored[stored["patch"] == row]
        mine, found = (patches[n][patches[n]["patch"] == number] for n in ("sources", "found"))
        assert len(mine) == len(true)
        np.testing.assert_allclose(np.sort(mine["x"]), np.sort(true["x"]), atol=1e-3)
        lon, lat, turn = patches["center"][number]
        check_pixels(TangentPlane(lon, lat, 128, 10 / 128, turn), found, 1e-3)
    # unlabelled bright sources are extended
    stored = stored[np.isin(stored["patch"], ROWS) & ~stored["labelled"]]
    bright = (stored["n_photons"] >= 3) & (stored["significance"] >= 3)
    assert np.sum(matches.is_class("extended")) == bright.sum()


def test_false_positives_at_the_border_are_left_out(predicted):
    patches, matches = predicted
    wrong = patches["found"][patches["found"]["status"] == b"false positive"]
    duplicate = matches.catalog["Is_Duplicate"] & matches.has_status("false positive")
    border = 0.3 / (10 / 128)
    inside = [(wrong[n] >= border - 0.5) & (wrong[n] < 127.5 - border) for n in ("x", "y")]
    assert np.sum(~np.all(inside, axis=0)) <= duplicate.sum()
    assert 0 < matches.area_deg2 < 5 * 9.4**2


# Files

METADATA = {"model": "made", "pixel_deg": 10 / 32, "all_skies": False, "codes": ["a", "b"]}


@pytest.fixture
def parts(tmp_path):
    paths = {seed: tmp_path / f"{seed}.h5" for seed in (3, 40)}
    for seed, path in paths.items():
        write_predictions(path, *made_predictions(seed), METADATA)
    return list(paths.values())


@pytest.fixture
def joined(parts, tmp_path):
    join_predictions(parts, tmp_path / "all.h5", METADATA)
    return tmp_path / "all.h5"


def test_matches_come_back_as_they_were(tmp_path):
    predictions, matches = made_predictions(3)
    write_predictions(tmp_path / "a.h5", predictions, matches, METADATA)
    assert read_metadata(tmp_path / "a.h5") == METADATA
    found = read_matches(tmp_path / "a.h5")
    for table, other in ((found.catalog, matches.catalog), (found.truth, matches.truth)):
        assert table.colnames == other.colnames
        for name in other.colnames:
            np.testing.assert_array_equal(np.ma.filled(table[name]), np.ma.filled(other[name]))
    assert found.area_deg2 == 100.0
    assert found.catalog["Npred"].mask.tolist() == matches.catalog["Npred"].mask.tolist()
    assert found.catalog["Offset"].unit == "deg"
    assert found.select(0.6).evaluation().summary() == matches.select(0.6).evaluation().summary()
    nothing = np.zeros(0, int)
    write_predictions(tmp_path / "none.h5", None, matches.take(nothing, nothing), METADATA)
    found = read_matches(tmp_path / "none.h5")
    assert (len(found.catalog), len(found.truth)) == (0, 0)
    assert found.catalog.colnames == matches.catalog.colnames


def test_joined_file_holds_the_patches_and_matches_of_all_parts(joined):
    made = [made_predictions(seed)[0] for seed in (3, 40)]
    with h5py.File(joined) as file:
        for name in set(made[0]) - {"sources", "found"}:
            values = np.concatenate([predictions[name] for predictions in made])
            np.testing.assert_array_equal(file[name][:], values.astype(file[name].dtype), name)
        for name in ("sources", "found"):
            first, second = (predictions[name] for predictions in made)
            number = np.concatenate([first["patch"], second["patch"] + 2])
            np.testing.assert_array_equal(file[name]["patch"], number)
            np.testing.assert_array_equal(
                file[name]["x"], np.concatenate([first["x"], second["x"]])
            )
        assert file["probability"].dtype == np.float16
    found = read_matches(joined)
    assert len(found.truth) == 24
    assert found.area_deg2 == 200.0
    assert set(found.truth["Tile"]) == {"3/0", "40/0"}
    row = found.catalog["True_Row"]
    assert np.all(found.truth["Found_Row"][row[row >= 0]] == np.flatnonzero(row >= 0))


def test_parts_without_patches_add_to_the_matches_alone(parts, tmp_path):
    bare = tmp_path / "bare.h5"
    write_predictions(bare, None, made_matches(80), METADATA)
    matches = join_predictions([parts[0], bare, parts[1]], tmp_path / "all.h5", METADATA)
    assert len(matches.truth) == 36
    with h5py.File(tmp_path / "all.h5") as file:
        assert len(file["image"]) == 4
        assert file["sources"]["patch"].max() == 3


def test_file_is_read_with_h5py_alone(joined):
    code = f"""
import h5py as h5, sys
with h5.File({str(joined)!r}) as file:
    row = list(file["code"][:]).index(b"sky000040-p001")
    sources, catalog = file["sources"][:], file["catalog"][:]
    print(file["image"][row].shape, file["probability"][row].max() > 0,
          len(sources[sources["patch"] == row]), catalog["Status"][0], catalog["Npred.mask"].dtype,
          file["truth"].dtype["Npred"], file.attrs["model"], "astro_unetloc" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n = (made_predictions(40)[0]["sources"]["patch"] == 1).sum()
    expected = f"(32, 32, 5) True {n} b'true positive' bool float64 made False"
    assert done.stdout.split("\n")[0] == expected


def test_example_is_one_patch_with_its_sources(joined):
    example, (predictions, _) = read_example(joined, "sky000040-p001"), made_predictions(40)
    np.testing.assert_array_equal(example["image"], predictions["image"][1])
    assert example["probability"].shape == (32, 32)
    assert example["center"].tolist() == [43.0, 0.0, 0.0]
    for name in ("sources", "found"):
        rows = predictions[name][predictions[name]["patch"] == 1]
        np.testing.assert_array_equal(example[name]["x"], rows["x"])
        assert len(rows)
    with pytest.raises(ValueError, match="got 'sky9'; its 4 patches are named as sky000003-p000"):
        read_example(joined, "sky9")


def test_worst_patches_have_most_false_positives_and_negatives(joined, tmp_path):
    def n_errors(code):
        example = read_example(joined, code)
        sources, found = example["sources"], example["found"]
        missed = (sources["truth_class"] == b"counted") & ~(sources["score"] >= 0.5)
        wrong = (found["status"] == b"false positive") & (found["score"] >= 0.5)
        return missed.sum() + wrong.sum()

    codes = worst_patches(joined, 4, threshold=0.5)
    numbers = [n_errors(code) for code in codes]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > 0
    assert worst_patches(joined, 1, threshold=0.5) == codes[:1]
    predictions, matches = made_predictions(3)
    found = predictions["sources"][predictions["sources"]["score"] > 0]
    perfect = predictions | {"sources": found, "found": predictions["found"][:0]}
    write_predictions(tmp_path / "a.h5", perfect, matches, METADATA)
    assert worst_patches(tmp_path / "a.h5", 4, threshold=0.0) == []


def test_damaged_file_is_refused_and_a_file_is_written_whole_or_not_at_all(
    parts, tmp_path, monkeypatch
):
    (tmp_path / "bad.h5").write_bytes(b"no")
    with pytest.raises(ValueError, match="expected predictions in HDF5"):
        read_matches(tmp_path / "bad.h5")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(predictions_module, "_append", fail)
    with pytest.raises(OSError, match="disk full"):
        join_predictions(parts, tmp_path / "all.h5", METADATA)
    assert not list(tmp_path.glob("*all.h5*"))
