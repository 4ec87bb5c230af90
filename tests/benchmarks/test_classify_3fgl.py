"""The benchmark of 3FGL, with a classifier of few simulated skies."""

import re


def test_pulsars_are_recognized_among_sources_that_were_not_associated(
    import_benchmark, real_data, capsys
):
    benchmark = import_benchmark("classify_3fgl")
    names = "gll_psc_v16.fit.gz", "gll_psc_4fgl_dr2.fits.gz"
    paths = [str(real_data / "catalogs" / name) for name in names]
    benchmark.main([*paths, "--skies", "3"])
    output = capsys.readouterr().out
    later, before = output.split("without a class in 3FGL: ")[1].split("with a class in 3FGL: ")
    assert later.startswith("282 agn, 37 psr, 14 other")
    assert before.startswith("1745 agn, 167 psr, 112 other")
    areas = [float(re.search(r"AUC +(\S+)", part)[1]) for part in (later, before)]
    assert areas[0] > 0.9
    assert areas[1] > 0.95
