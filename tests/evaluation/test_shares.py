import astropy.units as u
import numpy as np
import pytest
from astropy.stats import binom_conf_interval
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.evaluation.metrics import (
    edges_around,
    score_table,
    share_columns,
    wilson_interval,
)


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 1000), st.floats(0, 1))
def test_interval_is_that_of_astropy(n, share):
    k = round(share * n)
    expected = binom_conf_interval(k, n, confidence_level=0.6826894921370859, interval="wilson")
    np.testing.assert_allclose(wilson_interval(k, n), expected, rtol=1e-9, atol=1e-12)


def test_share_of_nothing_is_unknown():
    columns = share_columns("Purity", [0, 0, 1], [0, 4, 4])
    assert list(columns) == ["Purity", "Purity_Low", "Purity_High"]
    np.testing.assert_array_equal(columns["Purity"], [np.nan, 0, 0.25])
    assert np.isnan([columns["Purity_Low"][0], columns["Purity_High"][0]]).all()
    assert columns["Purity_Low"][1] == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.5], [3, 5]),
        ([3, 4.9], [3, 5]),
        ([3, 5], [3, 5, 8]),
        ([0.1, np.nan, 7, -1, 9], [0, 3, 5, 8]),
        ([np.nan], [0]),
        ([], [0]),
    ],
)
def test_edges_hold_the_values(values, expected):
    assert edges_around(np.array(values, float), (0, 3, 5, 8)).tolist() == expected


def test_table_says_what_it_holds():
    table = score_table("A", "B.", {"x": [1], "y": [2]}, units={"y": "deg"}, meta={"ece": 0.1})
    assert table.meta == {"title": "A", "about": "B.", "ece": 0.1}
    assert table["y"].unit == u.deg
