import numpy as np
import pytest


@pytest.fixture
def benchmark(import_benchmark):
    return import_benchmark("faults")


def test_contents_are_those_of_finished_outputs_but_for_dates(benchmark, tmp_path):
    card = b"DATE    = '2026-11-29T12:14:57' / UTC, when written".ljust(80)
    (tmp_path / "x.fits").write_bytes(b"SIMPLE" + card)
    before = benchmark.contents(tmp_path)
    (tmp_path / "x.fits").write_bytes(b"SIMPLE" + card.replace(b"12:14", b"13:15"))
    (tmp_path / "set.h5.parts").mkdir()
    (tmp_path / "set.h5.parts" / "sky.h5").write_text("unfinished")
    assert benchmark.contents(tmp_path) == before
    (tmp_path / "x.fits").write_bytes(b"OTHER" + card)
    assert benchmark.contents(tmp_path) != before


@pytest.mark.slow
def test_a_killed_search_is_not_lost(benchmark, tmp_path, capsys):
    places = {"home": tmp_path / "home", "set": None, "maps": None}
    benchmark.try_kills("find", places, 1, np.random.default_rng(0))
    assert capsys.readouterr().out.split()[-4:] == ["1", "tries", "0", "lost"]
