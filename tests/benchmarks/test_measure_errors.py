"""The benchmark of the measurement's errors, on a small part of a sky."""

import numpy as np
import pytest

from astro_unetloc.maps.photons import DiscFootprint
from astro_unetloc.sphere import vectors_from_lonlat


@pytest.fixture(scope="module")
def benchmark(import_benchmark):
    return import_benchmark("measure_errors")


def test_a_part_of_a_sky_is_measured_and_printed(benchmark, capsys):
    cone = DiscFootprint(vectors_from_lonlat(np.array(100.0), np.array(35.0)), 16.0)
    matched, (seconds, number) = benchmark.measured_sky(7, years=12, footprint=cone)
    assert number > 10
    assert seconds < 60
    assert 0.4 < np.mean(matched["held_68"]) < 0.9
    assert np.mean(matched["held_95"]) > 0.8
    assert np.median(matched["oracle"]) < 0.03
    assert 0.8 < np.median(matched["bound"]) / np.median(matched["oracle"]) < 1.25
    benchmark.print_table(matched)
    assert "|b|>10" in capsys.readouterr().out
    rows = [("3FHL J0000.0+0000", 0.01, 1e-10, 1e-11, 2.5, 0.1, 1e-10, 1e-11, 2.4, 0.1)] * 2
    benchmark.print_real(rows)
    assert "2 sources, median flux ratio 1.000" in capsys.readouterr().out
