import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from astro_unetloc.detection.localization import source_table
from astro_unetloc.detection.odds import with_log_odds
from astro_unetloc.sphere import SKY_DEG2, vectors_from_lonlat

TRIAL_DEG2 = 0.05


def log_odds(sqrt_ts, counts, *, n_bright=300, latitude=50.0):
    """``Log_Odds`` of candidates among bright sources at the same latitude."""
    n = len(sqrt_ts)
    lon = np.linspace(0, 360, n + n_bright, endpoint=False)
    sources = source_table(vectors_from_lonlat(lon, latitude))
    sources["Sqrt_TS"] = np.append(sqrt_ts, np.full(n_bright, 9.0))
    sources["Npred"] = np.append(counts, np.full(n_bright, 30.0))
    points = vectors_from_lonlat(np.linspace(0, 360, 100), latitude)
    found = with_log_odds(sources, points, np.full(100, SKY_DEG2 / 100), TRIAL_DEG2)
    return np.asarray(found["Log_Odds"])[:n]


@given(st.floats(0.5, 9), st.floats(0.1, 2), st.floats(1, 300))
def test_odds_grow_with_the_significance_and_with_the_density_of_sources(sqrt_ts, step, counts):
    low, high = log_odds([sqrt_ts, sqrt_ts + step], [max(counts, 8.0)] * 2)
    assert high > low
    few, many = (log_odds([sqrt_ts], [counts], n_bright=n)[0] for n in (10, 1000))
    assert many > few


def test_a_faint_excess_is_no_source_of_eight_counts():
    faint, bright = log_odds([4.0, 4.0], [2.0, 12.0])
    assert bright > faint + 3


def test_odds_are_those_of_the_integral():
    # one candidate of 12 counts: L(A) = exp(TS / 2 (2 sqrt(A / 12) - A / 12)), dN/dA ~ A^-1.9
    found = log_odds([4.0], [12.0], n_bright=300)[0]

    def expected(low, high):
        a, step = np.linspace(low, high, 400_000, retstep=True)
        density = 300.5 / SKY_DEG2 * 0.09 * (a / 10) ** -1.9
        likelihood = np.exp(8.0 * (2 * np.sqrt(a / 12) - a / 12))
        return TRIAL_DEG2 * (density * likelihood).sum() * step

    assert abs(found - np.log(expected(8, 400) / (1 + expected(0.02, 0.5)))) < 0.1


def test_odds_are_unknown_without_a_fit():
    assert np.isnan(log_odds([np.nan], [10.0])[0])
    assert len(log_odds([], [])) == 0
