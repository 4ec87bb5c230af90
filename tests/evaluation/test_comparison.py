import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn
from astropy.utils.masked import Masked
from hypothesis import given, settings
from hypothesis import strategies as st
from made_truth import by_tile, make_catalog, make_sky, make_truth

from astro_unetloc.evaluation.comparison import (
    compare,
    comparison_lines,
    measurement_errors,
    offset_over_ellipse,
    true_flux,
    true_index,
)
from astro_unetloc.evaluation.truth import SKIES, combine, join_matches, match_truth

FLUX = u.Unit("ph cm-2 s-1")

# Two catalogues

STATISTICS = {
    "average precision": lambda e: e.average_precision,
    "completeness at 95 % purity": lambda e: e.completeness_at(0.95)[0],
    "completeness": lambda e: e.completeness,
    "purity": lambda e: e.purity,
    "median offset": lambda e: e.median_offset_deg,
}


def make_patches(seed, n_tiles, fraction, *, n=30, shift=0.01, n_wrong=5):
    """Matches of many tiles with the same n true sources each, of which a fraction is found."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(n_tiles):
        place = np.random.default_rng(number)
        lon, lat = place.uniform(0, 20, n), place.uniform(-20, 20, n)
        truth = make_truth(lon, lat, place.choice([5.0, 10.0, 50.0], n))
        found = rng.random(n) < fraction
        found_lon = np.append(lon[found], rng.uniform(30, 50, n_wrong))
        found_lat = lat[found] + rng.normal(0, shift, found.sum())
        found_lat = np.append(found_lat, rng.uniform(-20, 20, n_wrong))
        score = np.append(rng.random(found.sum()) ** 0.2, rng.random(n_wrong) ** 2)
        catalog = make_catalog(found_lon, found_lat, score)
        parts.append(match_truth(catalog, truth, tile=f"1/{number}"))
    return join_matches(parts)


def values(table, sky, statistic):
    rows = (np.asarray(table["Sky"]) == sky) & (np.asarray(table["Statistic"]) == statistic)
    (row,) = table[rows]
    return row


def test_catalog_does_not_differ_from_itself():
    matches = make_patches(0, 20, 0.7)
    table = compare(matches, matches, n_samples=50)
    assert len(table) == len(SKIES) * len(STATISTICS)
    assert not np.any(table["Significant"])
    for name in ("Difference", "Low", "High"):
        assert np.all(table[name] == 0)
    lines = comparison_lines(table)
    assert len(lines) == 3
    assert all("no significant difference" in line for line in lines)


@pytest.mark.parametrize("thresholds", [(-np.inf, -np.inf), (0.5, 0.7)])
def test_intervals_are_those_of_the_bootstrap_of_evaluations(thresholds):
    both = make_patches(0, 12, 0.8), make_patches(1, 12, 0.7, n_wrong=8, shift=0.02)
    table = compare(*both, thresholds=thresholds, n_samples=40, rng=3)
    other = compare(*both, thresholds=thresholds, n_samples=40, rng=4)
    assert not np.array_equal(table["Low"], other["Low"], equal_nan=True)
    assert table.meta["n_tiles"] == 12
    for sky, (low, high) in SKIES.items():
        for statistic, of in STATISTICS.items():
            of_all = "precision" in statistic or "95" in statistic
            tiles = []
            for matches, threshold in zip(both, (0, 0) if of_all else thresholds):
                parts = by_tile(matches.select(threshold)).values()
                tiles.append([p.evaluation(min_latitude=low, max_latitude=high) for p in parts])
            drawn = np.random.default_rng(3).integers(0, 12, (40, 12))
            difference, *samples = (
                np.subtract(*(of(combine([finder[i] for i in rows])) for finder in tiles))
                for rows in (range(12), *drawn)
            )
            expected = [difference, *np.quantile(samples, [0.025, 0.975])]
            row = values(table, sky, statistic)
            found = [row[name] for name in ("Difference", "Low", "High")]
            np.testing.assert_allclose(found, expected, atol=1e-10, err_msg=f"{sky} {statistic}")


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(0, 2**31))
def test_statistics_are_those_of_the_evaluation(seed):
    # scores with ties and extended sources
    (found, truth), (other, other_truth) = make_sky(seed), make_sky(seed + 1)
    skies = [(found, truth), (other, other_truth)], [(other, truth), (found, other_truth)]
    pair = [
        join_matches([match_truth(*sky, tile=str(i)) for i, sky in enumerate(both)])
        for both in skies
    ]
    table = compare(*pair, n_samples=2)
    for column, matches in zip(("First", "Second"), pair):
        for statistic, of in STATISTICS.items():
            found = values(table, "all sky", statistic)[column]
            assert found == pytest.approx(of(matches.evaluation()), nan_ok=True), statistic


def test_better_catalog_is_significantly_better():
    pair = make_patches(0, 40, 0.9), make_patches(1, 40, 0.5)
    for sign, both in ((1, pair), (-1, pair[::-1])):
        table = compare(*both, n_samples=200)
        for statistic in ("average precision", "completeness"):
            row = values(table, "all sky", statistic)
            assert row["Significant"]
            low, high = np.sort([sign * row["Low"], sign * row["High"]])
            assert 0 < low < sign * row["Difference"] < high
        assert comparison_lines(table)[0].startswith("all sky: significant difference of average")


def test_sky_without_truth_or_detections_is_unknown():
    truth = make_truth([0, 50], [30, 30])
    nothing = join_matches(
        [match_truth(make_catalog([], []), truth[i : i + 1], tile=str(i)) for i in range(2)]
    )
    table = compare(nothing, nothing, n_samples=20)
    high, low = (values(table, sky, "completeness") for sky in ("|b| > 10 deg", "|b| < 10 deg"))
    assert (high["First"], high["Difference"], bool(high["Significant"])) == (0, 0, False)
    assert np.isnan([low["First"], low["Difference"], low["Low"]]).all()
    assert np.isnan(values(table, "all sky", "purity")["First"])
    assert not any("|b| < 10" in line for line in comparison_lines(table))


def test_other_truth_or_a_single_tile_is_refused():
    matches = make_patches(0, 3, 0.5)
    with pytest.raises(ValueError, match="same true sources .*; got .* in 3 tiles; match both"):
        compare(matches, make_patches(0, 2, 0.5))
    alone = match_truth(make_catalog([0], [0]), make_truth([0], [0]))
    with pytest.raises(ValueError, match="got 1 and 1 sources in 1 tiles"):
        compare(alone, alone)


def test_interval_is_that_of_the_mean(rng):
    # of tiles with one source each the completeness is a mean; so is the difference
    finders = [rng.random(400) < chance for chance in (0.8, 0.6)]
    lon = np.linspace(0, 359, 400)
    tile = lambda vectors: np.arctan2(vectors[:, 1], vectors[:, 0]).round(5)  # noqa: E731
    truth = make_truth(lon, lon * 0)
    both = [match_truth(make_catalog(lon[f], lon[f] * 0), truth, tile=tile) for f in finders]
    row = values(compare(*both, level=0.68, n_samples=400), "all sky", "completeness")
    each = finders[0].astype(float) - finders[1]
    assert row["Difference"] == pytest.approx(each.mean())
    assert (row["High"] - row["Low"]) / 2 == pytest.approx(each.std() / 20, rel=0.1)
    assert row["Low"] < row["Difference"] < row["High"]


# Measured and true values


def ellipses(n, major, minor, angle, level=68):
    axes = {"SemiMajor": major, "SemiMinor": minor, "PosAng": angle}
    return {f"Conf_{level}_{name}": np.full(n, value) * u.deg for name, value in axes.items()}


@pytest.mark.parametrize(
    ("angle", "held"), [(30, (1, 1)), (210, (1, 1)), (120, (0, 1)), (-60, (0, 1)), (90, (0, 1))]
)
def test_ellipse_holds_what_lies_along_it(angle, held):
    # the true source lies at a position angle from the detection, as ICRS has it
    here = SkyCoord(40 * u.deg, 60 * u.deg, frame="galactic").icrs
    there = here.directional_offset_by(angle * u.deg, 0.1 * u.deg).galactic
    errors = ellipses(1, 0.11, 0.05, 30.0) | ellipses(1, 0.22, 0.11, 30.0, 95)
    truth = make_truth([there.l.deg], [there.b.deg])
    table = measurement_errors(match_truth(make_catalog([40], [60], **errors), truth))
    assert (table["In_68"][0], table["In_95"][0]) == held
    assert table["Median_Offset"].unit == u.deg
    assert table["Median_Offset"][0].value == pytest.approx(0.1)


def test_position_errors_by_hand():
    lon, lat = np.arange(8) * 10.0, np.repeat([5.0, 50.0], 4)
    npred = np.array([9, 10, 15, 15, 9, 30, 5, 2])
    shift = np.array([0.01, 0.03, 0.02, 0.02, 0.05, 0.04, 0.01, 0.01])
    errors = ellipses(8, 0.025, 0.025, 0.0) | ellipses(8, 0.05001, 0.05001, 0.0, 95)
    matches = match_truth(make_catalog(lon, lat + shift, **errors), make_truth(lon, lat, npred))
    table = measurement_errors(matches)
    rows = [(r["Sky"], r["Low"], r["High"], r["N"]) for r in table]
    assert rows == [
        ("all sky", 8, 12, 3), ("all sky", 12, 20, 2), ("all sky", 20, 40, 1),
        ("|b| > 10 deg", 8, 12, 1), ("|b| > 10 deg", 20, 40, 1),
        ("|b| < 10 deg", 8, 12, 2), ("|b| < 10 deg", 12, 20, 2),
    ]  # fmt: skip
    offsets = table["Median_Offset"].value
    np.testing.assert_allclose(offsets, [0.03, 0.02, 0.04, 0.05, 0.04, 0.02, 0.02], atol=1e-6)
    np.testing.assert_allclose(table["In_68"], [1 / 3, 1, 0, 0, 0, 0.5, 1])
    assert np.all(table["In_95"] == 1)
    assert table["N_Ellipse"].tolist() == table["N"].tolist()
    # detections without an ellipse
    table = measurement_errors(match_truth(make_catalog([0], [0.1]), make_truth([0], [0])))
    assert table["Median_Offset"].value == pytest.approx([0.1, 0.1])
    assert table["N_Ellipse"].tolist() == [0, 0]
    assert np.isnan(table["In_68"]).all()


def test_flux_and_index_errors_by_hand():
    lon, known = np.arange(4) * 10.0, [False, False, False, True]
    truth = make_truth(lon, [20] * 4, Flux=[1e-10] * 4 * FLUX, Spectral_Index=[2.0, 2.0, 2.5, 3.0])
    catalog = make_catalog(
        lon, [20] * 4,
        Flux=Masked([1.1e-10, 1.2e-10, 0.9e-10, 9e-10] * FLUX, mask=known),
        Unc_Flux=Masked([1e-11] * 4 * FLUX, mask=known),
        Spectral_Index=MaskedColumn([2.1, 2.2, 2.5, 9.0], mask=known),
        Unc_Spectral_Index=MaskedColumn([0.1] * 4, mask=known),
    )  # fmt: skip
    matches = match_truth(catalog, truth)
    table = measurement_errors(matches)
    assert table["Sky"].tolist() == ["all sky", "|b| > 10 deg"]
    assert table["N"].tolist() == [4, 4]
    assert table["N_Flux"].tolist() == table["N_Index"].tolist() == [3, 3]
    # pulls 1, 2, -1 and 1, 2, 0: of three numbers the 16th percentile lies 0.32 above the lowest
    assert table["Flux_Ratio"].tolist() == pytest.approx([1.1, 1.1])
    assert table["Flux_Pull_Median"].tolist() == pytest.approx([1, 1])
    assert table["Flux_Pull_Width"][0] == pytest.approx((1.68 - (-1 + 0.32 * 2)) / 2)
    assert table["Index_Difference"].tolist() == pytest.approx([0.1, 0.1])
    assert table["Index_Pull_Width"][0] == pytest.approx((1.68 - 0.32) / 2)


def test_offsets_in_units_of_ellipses():
    # the major axis points north, east, and half way; the last one has none
    x, y = np.array([0.0, 0.2, 0.3, 1.0]), np.array([0.4, 0.1, 0.3, 0.0])
    major, minor = np.array([0.4, 0.2, np.sqrt(0.18), 0.0]), np.array([0.1, 0.1, 0.1, 0.0])
    found = offset_over_ellipse(x, y, major, minor, np.array([0.0, 90.0, 45.0, 0.0]))
    np.testing.assert_allclose(found, [1, np.sqrt(2), 1, np.nan])


def spectra(**columns):
    """True sources with spectra: power laws of index 2, with other columns as given."""
    zeros = np.zeros(len(next(iter(columns.values()))))
    shape = {"Index": zeros + 2, "beta": zeros, "Expfactor": zeros, "Exp_Index": zeros + 1}
    return make_truth(np.arange(len(zeros)) * 10.0, zeros, **shape | columns)


DENSITY = u.Unit("ph cm-2 s-1 GeV-1")


def test_true_flux_is_in_the_range_of_the_catalogue():
    truth = spectra(Flux=[3.0] * FLUX, Flux_Density=[2.0] * DENSITY, Pivot_Energy=[1e4] * u.MeV)
    catalog = make_catalog([0], [0])
    for table in (truth, catalog):
        table.meta |= {"FLUXEMIN": 10.0, "FLUXEMAX": 2000.0}
        assert true_flux(match_truth(catalog, truth)).tolist() == [3]
    catalog.meta["FLUXEMAX"] = 100.0
    # 2 (10 / E)^2 from 10 to 100 GeV
    assert true_flux(match_truth(catalog, truth)) == pytest.approx([2 * 100 * (1 / 10 - 1 / 100)])
    truth.remove_column("Index")
    assert np.isnan(true_flux(match_truth(catalog, truth))).all()


def test_true_index_is_what_a_fit_finds():
    # of a log-parabola an index that it has at energies of its photons
    truth = spectra(
        Spectral_Index=[7.0, 7.0, 2.8], Flux_Density=[1e-12, 1e-12, np.nan] * DENSITY,
        Pivot_Energy=[5.0, 5.0, 5.0] * u.GeV, Index=[2.3, 2.0, 2.0], beta=[0.0, 0.1, 0.0],
    )  # fmt: skip
    catalog, rows = make_catalog([0], [0]), np.arange(3)
    assert true_index(match_truth(catalog, truth), rows).tolist() == [7.0, 7.0, 2.8]
    catalog.meta |= {"EMIN": 10.0, "EMAX": 2000.0}
    index = true_index(match_truth(catalog, truth), rows)
    assert index[0] == pytest.approx(2.3, abs=1e-4)
    assert 2 + 0.2 * np.log(10 / 5) < index[1] < 2 + 0.2 * np.log(50 / 5)
    assert index[2] == 2.8
    # a map from 1 GeV that a model of 10 GeV and more searched
    catalog.meta |= {"EMIN": 1.0, "FITEMIN": 10.0, "FITEMAX": 2000.0}
    assert true_index(match_truth(catalog, truth), rows).tolist() == index.tolist()
    del catalog.meta["FITEMIN"]
    assert true_index(match_truth(catalog, truth), rows)[1] < index[1]
