import astropy.units as u
import numpy as np
import pytest
from astropy.table import MaskedColumn
from made_judgements import make_catalog, make_truth

from astro_unetloc.evaluation.metrics import (
    CompletenessCurve,
    by_class,
    by_flux,
    by_latitude,
    by_photons,
    by_sqrt_ts,
    flux_limits,
)
from astro_unetloc.evaluation.truth import judge

FLUX = u.Unit("ph cm-2 s-1")


def rows_of(table, *names):
    """Rows as tuples of plain numbers."""
    values = [np.asarray(getattr(table[name], "value", table[name])).tolist() for name in names]
    return list(zip(*values))


LON = np.arange(6) * 10.0
TRUTH = make_truth(LON, [0, 3, 20, 20, 20, 20], [4, 9, 9, 25, 25, 200])


def test_photons_by_hand():
    # found: the faint one, one of 9, both of 25; and two wrong ones, one of unknown photons
    catalog = make_catalog(
        [0, 10, 30, 40, 100, 120],
        [0, 3, 20, 20, 0, 0],
        Npred=MaskedColumn([5.0, 7.0, 21.0, 50.0, 8.0, 9.0], mask=[0, 0, 0, 0, 0, 1]),
    )
    table = by_photons(judge(catalog, TRUTH))
    assert rows_of(table, "Low", "High", "N_True", "N_Found", "N_Listed", "N_Right") == [
        (3, 5, 1, 1, 0, 0),  # what matches the faint one is not listed
        (5, 8, 0, 0, 1, 1),
        (8, 12, 2, 1, 1, 0),
        (20, 40, 2, 2, 1, 1),
        (40, 100, 0, 0, 1, 1),
        (100, 300, 1, 0, 0, 0),
    ]
    np.testing.assert_array_equal(table["Completeness"], [1, np.nan, 0.5, 1, np.nan, 0])
    np.testing.assert_array_equal(table["Purity"], [np.nan, 1, 0, 1, 1, np.nan])
    # one of two: (1 + 1/2 -+ sqrt(1/2 + 1/4)) / 3
    assert table["Completeness_Low"][2] == pytest.approx((1.5 - np.sqrt(0.75)) / 3)


def test_flux_by_hand():
    truth, catalog = TRUTH.copy(), make_catalog([0, 10, 20], [0, 3, 20])
    truth["Flux"] = np.array([1.1, 1.1, 1.2, 2, 4, 4]) * 1e-10 * FLUX
    catalog["Flux"] = np.array([5, 1.5, 3]) * 1e-10 * FLUX
    table = by_flux(judge(catalog, truth))
    assert table["Low"].unit == FLUX
    np.testing.assert_allclose(table["Low"].value, 10 ** np.array([-10, -9.75, -9.5]))
    assert rows_of(table, "N_True", "N_Found", "N_Listed", "N_Right") == [
        (3, 3, 1, 1),
        (1, 0, 1, 1),
        (2, 0, 0, 0),
    ]


def test_sqrt_ts_by_hand():
    catalog = make_catalog([10, 20, 100, 120], [3, 20, 0, 0], Sqrt_TS=[5.5, 5.1, 5.2, 4.0])
    table = by_sqrt_ts(judge(catalog, TRUTH))
    names = ("Low", "High", "N_Listed", "N_Right")
    assert rows_of(table, *names) == [(4, 5, 1, 0), (5, 6, 3, 2)]
    assert set(table.colnames) == {*names, "Purity", "Purity_Low", "Purity_High"}


def test_latitudes_are_those_of_the_true_sources():
    truth = make_truth([0, 10, 20], [4.9, -4.9, 90])
    table = by_latitude(judge(make_catalog([0, 10, 70], [5.1, -5.1, -5.1]), truth))
    assert table["Low"].unit == u.deg
    assert rows_of(table, "Low", "N_True", "N_Found", "N_Listed", "N_Right") == [
        (2, 2, 2, 2, 2),
        (5, 0, 0, 1, 0),
        (60, 1, 0, 0, 0),
    ]


def test_classes_by_hand():
    truth, catalog = TRUTH.copy(), make_catalog([10, 20, 30, 0], [3, 20, 20, 0])
    truth["Class"] = ["PSR", "AGN", "AGN", "AGN", "PSR", "PSR"]
    catalog["Class"] = MaskedColumn(["AGN", "PSR", "", "AGN"], mask=[0, 0, 1, 0])
    table = by_class(judge(catalog, truth))
    names = ("Class", "N_True", "N_Found", "N_Classified", "N_Class_Right")
    assert rows_of(table, *names) == [("AGN", 3, 3, 2, 1), ("PSR", 2, 0, 0, 0)]
    np.testing.assert_array_equal(table["Class_Right"], [0.5, np.nan])


def test_flux_limits_are_those_of_the_curve(rng):
    curve = CompletenessCurve(0.95, 1e-10, 4.0)
    n = 6000
    flux = 1e-10 * 10 ** rng.uniform(-1, 1, n)
    lon, lat = rng.uniform(0, 360, n), np.where(rng.random(n) < 0.5, 5.0, 40.0)
    found = rng.random(n) < curve(flux)
    judged = judge(
        make_catalog(lon[found], lat[found], np.linspace(1, 0, found.sum())),
        make_truth(lon, lat, 5.0, Flux=flux * FLUX),
        radius_deg=1e-6,
    )
    table = flux_limits(judged)
    assert table["Flux_50"].unit == FLUX
    for name, share in (("Flux_50", 0.5), ("Flux_90", 0.9)):
        np.testing.assert_allclose(table[name].value, curve.flux_at(share), rtol=0.1)
    np.testing.assert_allclose(table["Plateau"], 0.95, atol=0.02)


def test_flux_limits_above_the_plateau_are_unknown(rng):
    n = 2000
    flux = 1e-10 * 10 ** rng.uniform(-1, 1, n)
    lon, found = np.arange(n) * 0.18, rng.random(n) < CompletenessCurve(0.7, 1e-10, 4.0)(flux)
    truth = make_truth(lon, np.full(n, 20.0), Flux=flux * FLUX)
    judged = judge(make_catalog(lon[found], np.full(found.sum(), 20.0)), truth, radius_deg=0.01)
    table = flux_limits(judged)
    assert np.isfinite(table["Flux_50"].value).tolist() == [True, True, False]
    assert np.isnan(table["Flux_90"].value).all()
