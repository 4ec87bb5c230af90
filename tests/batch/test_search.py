"""Many maps: what a folder holds, what is searched again, and what a lost worker leaves."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from astropy.io import fits
from made_files import cube_hdus

from astro_unetloc import find_sources, find_sources_in, read_catalog
from astro_unetloc.batch import search
from astro_unetloc.catalog.columns import COLUMNS
from astro_unetloc.exceptions import InputError
from astro_unetloc.executors import process_pool, usable_cores

BANDS = np.array([10, 20, 50, 150, 500, 2000.0])


def write_map(path, seed=0, edges=BANDS):
    """A field of 3 x 3 deg with one bright source in the middle."""
    counts = np.random.default_rng(seed).poisson(0.01, (len(edges) - 1, 30, 30))
    counts[:, 14:16, 14:16] += np.array([6, 3, 1, 0, 0])[: len(edges) - 1, None, None]
    path.parent.mkdir(exist_ok=True)
    cube_hdus(counts.astype(">i4"), edges, lon=120.0, lat=40.0 + seed).writeto(path, overwrite=True)
    return path


@pytest.fixture
def maps(tmp_path):
    """Two maps, and a file that is none."""
    paths = [write_map(tmp_path / f"map{seed}.fits", seed) for seed in range(2)]
    (tmp_path / "damaged.fits").write_bytes(b"no map")
    return [*paths, tmp_path / "damaged.fits"]


@pytest.fixture
def searched(monkeypatch):
    """Names of the maps that are searched, in this process."""
    names, detect = [], search.detect

    def noted(map, **options):
        names.append(os.path.basename(map))
        return detect(map, **options)

    monkeypatch.setattr(search, "detect", noted)
    return names


class Killer:
    """A map that ends the process that receives it."""

    def __reduce__(self):
        return os._exit, (9,)


def contents(folder):
    """Columns of the catalogues of a folder; the files state when they were written."""
    paths = sorted(folder.glob("*.fits"))
    assert paths
    return {path.name: fits.getdata(path, 1).tobytes() for path in paths}


def plain(column):
    """Values of a column as text, empty where masked."""
    values = np.asarray(getattr(column, "unmasked", column)).astype(str)
    return np.where(getattr(column, "mask", False), "", values)


def test_folder_holds_a_catalogue_of_each_map_and_one_of_all(maps, tmp_path):
    table = find_sources_in(maps, tmp_path / "out", n_cores=1, finder="unet")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["catalogs.fits", "map0.fits", "map0.reg", "map1.fits", "map1.reg",
                     "state.json"]  # fmt: skip
    assert table["Status"].tolist() == ["done", "done", "failed"]
    assert "which does not start like one" in table["Reason"][2]
    assert table["N_Sources"].tolist() == [1, 1, 0]
    alone = [find_sources(path) for path in maps[:2]]
    assert fits.getdata(tmp_path / "out" / "catalogs.fits", 1).names[0] == "Map"
    together = read_catalog(tmp_path / "out" / "catalogs.fits")
    assert together["Map"].tolist() == ["map0", "map1"]
    for column in COLUMNS:
        expected = np.concatenate([plain(part[column.name]) for part in alone])
        assert plain(together[column.name]).tolist() == expected.tolist(), column.name


def test_only_what_changed_or_failed_is_searched_again(maps, tmp_path, searched):
    out = tmp_path / "out"
    find_sources_in(maps, out, n_cores=1)
    del searched[:]
    find_sources_in(maps, out, n_cores=1)
    assert searched == ["damaged.fits"]
    write_map(maps[0], seed=5)
    write_map(maps[2], seed=6)
    del searched[:]
    table = find_sources_in(maps[::-1], out, n_cores=1)
    assert searched == ["damaged.fits", "map0.fits"]
    assert table["Status"].tolist() == ["done"] * 3
    (out / "map1.fits").unlink()
    del searched[:]
    find_sources_in(maps, out, n_cores=1)
    assert searched == ["map1.fits"]
    del searched[:]
    find_sources_in(maps[:1], out, n_cores=1, overwrite=True)
    assert searched == ["map0.fits"]
    assert len(read_catalog(out / "catalogs.fits")) == 3


def test_workers_start_only_if_a_map_is_to_be_searched(maps, tmp_path):
    find_sources_in(maps[:2], tmp_path / "out", n_cores=1)
    done = find_sources_in(maps[:2], tmp_path / "out", executor="no address")
    assert done["Status"].tolist() == ["done", "done"]
    for folder in ("out", "new"):
        with pytest.raises(InputError, match="must have an address such as .*; got 'no address'"):
            find_sources_in(maps, tmp_path / folder, executor="no address")
    assert not (tmp_path / "new").exists()


def test_options_of_a_folder_are_the_same_for_all_of_its_maps(maps, tmp_path):
    out = tmp_path / "out"
    find_sources_in(maps[:1], out, n_cores=1, threshold=0.5)
    with pytest.raises(InputError, match=r"got threshold 0.5 before, 0.6 now; give the same"):
        find_sources_in(maps[:1], out, n_cores=1, threshold=0.6)
    with pytest.raises(InputError, match=r"measure not given before, False now"):
        find_sources_in(maps[:1], out, n_cores=1, threshold=0.5, measure=False)
    find_sources_in(maps[1:2], out, n_cores=1, threshold=0.6, overwrite=True)
    assert read_catalog(out / "catalogs.fits")["Map"].tolist() == ["map1"]


def test_maps_of_equal_names_have_their_own_files_and_keep_them(tmp_path):
    paths = [write_map(tmp_path / folder / "map.fits", n) for n, folder in enumerate("ab")]
    out = tmp_path / "out"
    assert find_sources_in(paths, out, n_cores=1)["Map"].tolist() == ["map", "map-2"]
    assert find_sources_in(paths[::-1], out, n_cores=1)["Map"].tolist() == ["map-2", "map"]
    assert sorted(read_catalog(out / "catalogs.fits")["Map"]) == ["map", "map-2"]


def test_name_of_the_state_is_no_name_of_a_map(tmp_path):
    path = write_map(tmp_path / "state.fits.gz")
    assert find_sources_in([path], tmp_path / "out", n_cores=1)["Map"].tolist() == ["state-2"]
    with pytest.raises(InputError, match=r"must be names of files; got 'state'"):
        find_sources_in({"state": path}, tmp_path / "out", n_cores=1)


def test_what_cannot_be_used_is_refused_before_anything_is_searched(maps, tmp_path, searched):
    out = tmp_path / "out"
    for match, given, options in (
        (r"got the pattern .*map\*.fits' of 2 files", [tmp_path / "map*.fits"], {}),
        ("no such file: .*no.fits", [*maps, tmp_path / "no.fits"], {}),
        ("got .*map0.fits twice", [*maps, maps[0]], {}),
        ("must be a list", str(maps[0]), {}),
        ("must be a list", [], {}),
        ("threshold must lie between 0 and 1", maps, {"threshold": 2}),
        ("finder must be one of", maps, {"finder": "eyes"}),
        ("expected one of the models", maps, {"model": "no-model"}),
    ):
        with pytest.raises((InputError, FileNotFoundError), match=match):
            find_sources_in(given, out, n_cores=1, **options)
    with pytest.raises(TypeError, match="got treshold; choose among .*threshold"):
        find_sources_in(maps, out, n_cores=1, treshold=0.5)
    assert not searched
    assert not out.exists()


def test_file_of_somebody_else_is_not_replaced(maps, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "map1.reg").write_text("mine")
    with pytest.raises(FileExistsError, match=r"map1.reg"):
        find_sources_in(maps, out, n_cores=1)
    assert (out / "map1.reg").read_text() == "mine"
    (out / "state.json").write_text("[]")
    with pytest.raises(InputError, match=r"state.json must be the state of such a run"):
        find_sources_in(maps, out, n_cores=1)


def test_warning_of_many_maps_is_given_once_and_is_in_the_state(tmp_path):
    edges = np.array([10.0, 100.0])  # one bin
    paths = [write_map(tmp_path / f"map{n}.fits", n, edges) for n in range(2)]
    with pytest.warns(match=r"map0: ") as caught:
        find_sources_in(paths, tmp_path / "out", n_cores=1)
    entries = json.loads((tmp_path / "out" / "state.json").read_text())["maps"]
    assert entries["map0"]["warnings"] == entries["map1"]["warnings"]
    assert len(caught) == len(entries["map0"]["warnings"])


@pytest.mark.filterwarnings("ignore::astro_unetloc.exceptions.UnetlocWarning")
def test_maps_of_models_with_other_bands_are_joined(tmp_path):
    low = np.array([0.5, 1, 2, 7, 20.0])
    paths = [write_map(tmp_path / "high.fits"), write_map(tmp_path / "low.fits", 1, low)]
    options = {"threshold": 0.0, "region": None}
    find_sources_in(paths, tmp_path / "out", n_cores=1, **options)
    table = read_catalog(tmp_path / "out" / "catalogs.fits")
    n_bands = {name: len(bands.split()) - 1 for name, bands in table["Map", "Bands"]}
    assert len(n_bands) == 2
    for name, counts in zip(table["Map"], table["Counts_Band"]):
        assert np.all(np.ma.getmaskarray(counts)[n_bands[name] :])


def test_map_whose_workers_are_lost_fails_alone(maps, tmp_path):
    class Losing(ThreadPoolExecutor):
        """Loses the workers of one map."""

        def submit(self, function, given):
            if given.name == "map0":
                return super().submit(self.lose)
            return super().submit(function, given)

        def lose(self):
            raise ChildProcessError("expected a worker to live")

    with Losing(2) as pool:
        table = find_sources_in(maps, tmp_path / "out", executor=pool)
    assert table["Status"].tolist() == ["failed", "done", "failed"]
    assert table["Reason"][0] == "expected a worker to live"
    table = find_sources_in(maps[:2], tmp_path / "out", n_cores=1)
    assert table["Status"].tolist() == ["done", "done"]


@pytest.mark.slow
def test_map_that_kills_its_workers_fails_alone(maps, tmp_path):
    given = {"one": maps[0], "killer": Killer(), "two": maps[1]}
    with process_pool(2) as pool:
        table = find_sources_in(given, tmp_path / "out", executor=pool)
    assert table["Status"].tolist() == ["done", "failed", "done"]
    assert "2 died of the same work" in table["Reason"][1]
    find_sources_in(maps[:2], tmp_path / "alone", n_cores=1)
    alone, together = contents(tmp_path / "alone"), contents(tmp_path / "out")
    assert together["one.fits"] == alone["map0.fits"]
    assert together["two.fits"] == alone["map1.fits"]


def test_workers_share_the_cores(maps, tmp_path, monkeypatch):
    cores = []

    def noted(map, **options):
        cores.append(usable_cores())
        raise InputError("nothing to do")

    monkeypatch.setattr(search, "detect", noted)
    with ThreadPoolExecutor(2) as pool:
        find_sources_in(maps, tmp_path / "a", executor=pool, n_cores=6)
        find_sources_in(maps, tmp_path / "b", executor=pool)
    find_sources_in(maps, tmp_path / "c", n_cores=1)
    find_sources_in(maps[:1], tmp_path / "d", n_cores=4)
    assert cores == [3] * 3 + [1] * 6 + [4]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:ResourceWarning")
@pytest.mark.usefixtures("distributed")
def test_cluster_of_dask_finds_the_same(maps, tmp_path):
    for n_cores in (1, 2):
        find_sources_in(maps, tmp_path / f"out{n_cores}", n_cores=n_cores)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")
