import numpy as np
import pytest
from made_predictions import made_matches

from astro_unetloc.unet.model import load_model


def test_each_kind_and_finder_has_a_row_and_each_other_finder_a_difference(
    import_benchmark, capsys, monkeypatch
):
    benchmark, searched = import_benchmark("finders"), []

    def search(model, finder, sky_map, truth, seed, rank):
        searched.append((model.name, finder, seed, rank))
        matches = made_matches(3)
        for table in (matches.catalog, matches.truth):
            table["Tile"] = np.full(len(table), str(seed))
        return matches, (20, 19, 18.75), 2.0

    monkeypatch.setattr(benchmark, "make_map", lambda model, seed, **options: (None, None))
    monkeypatch.setattr(benchmark, "search", search)
    monkeypatch.setattr(benchmark, "false_of_blank", lambda *setting: 0.25)
    benchmark.main(["--kinds", "20gev", "500mev", "--finders", "unet", "scan", "--seed", "7",
                    "--skies", "2"])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["20gev"] * 3 + ["500mev"] * 3
    assert searched[0] == ("lat-10gev", "unet", 7, "Score")
    assert searched[-1][:2] == ("lat-500mev", "scan")
    assert "real 38/40, sum of Score 37.5  blank 0.25" in lines[0]
    assert "scan - unet: all sky +0.0000" in lines[2]


@pytest.mark.parametrize("nside", [None, 64])
def test_maps_have_the_energies_of_their_kind(import_benchmark, nside):
    benchmark = import_benchmark("finders")
    setting = {"lowest": 150.0, "years": 0.1, "with_sources": False}
    sky_map, truth = benchmark.make_map(load_model(), 1, nside=nside, **setting)
    assert sky_map.energy_edges[0] == 150.0
    assert (sky_map.events is None) == (nside is not None)
    assert len(truth) == 0
    assert np.isfinite(sky_map.n_photons)
