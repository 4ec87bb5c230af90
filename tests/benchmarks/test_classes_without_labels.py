"""The benchmark of classes without labels, on the real sources of 3FHL."""

import re


def test_pulsars_of_3fhl_are_a_group_of_soft_sources_near_the_plane(
    import_benchmark, real_data, capsys
):
    benchmark = import_benchmark("classes_without_labels")
    benchmark.main(["--catalog", str(real_data / "catalogs" / "gll_psch_v13.fit.gz")])
    output = capsys.readouterr().out.split("with latitudes")[1]
    assert sorted(re.findall("agn|psr|other", output)) == ["agn", "other", "psr"]
    values = [float(value) for value in re.findall(r"  (?:ARI|balanced accuracy) +(\S+)", output)]
    assert values[0] > 0.6
    assert values[1] > 0.9
