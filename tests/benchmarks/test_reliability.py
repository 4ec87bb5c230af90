from made_predictions import made_matches

from astro_unetloc.evaluation.runs import EvaluationRun


def test_each_setting_and_region_has_a_row(import_benchmark, capsys, monkeypatch):
    benchmark, asked = import_benchmark("reliability"), []

    def run_on_skies(model, *, seeds, years, energy_range, **options):
        asked.append((list(seeds), years, energy_range))
        return EvaluationRun(made_matches(3), 0.5, {})

    monkeypatch.setattr(benchmark, "run_on_skies", run_on_skies)
    benchmark.main(["--skies", "2", "--seed", "5", "--years", "3", "--lowest", "10", "20"])
    assert asked == [([5, 6], 3.0, (10.0, 2000.0)), ([5, 6], 3.0, (20.0, 2000.0))]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 3
    matches = made_matches(3).select(0.5)
    n_real, expected = matches.is_real.sum(), matches.catalog["Score"].sum()
    words = lines[1].split()
    assert words[:6] == ["3", "10", "all", "sky", str(len(matches.catalog)), f"{expected:.1f}"]
    assert words[8:10] == [str(n_real), f"{n_real / expected:.3f}"]
