import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn
from astropy.utils.masked import Masked
from made_judgements import make_catalog, make_truth

from astro_unetloc.evaluation.metrics import (
    flux_errors,
    index_errors,
    offset_over_ellipse,
    position_errors,
    true_flux,
    true_index,
)
from astro_unetloc.evaluation.truth import judge

FLUX = u.Unit("ph cm-2 s-1")


def ellipses(n, major, minor, angle, level=68):
    return {
        f"Conf_{level}_SemiMajor": np.full(n, major) * u.deg,
        f"Conf_{level}_SemiMinor": np.full(n, minor) * u.deg,
        f"Conf_{level}_PosAng": np.full(n, angle) * u.deg,
    }


def judged_offset(angle_deg, away_deg=0.1, *, lon=40.0, lat=60.0, tilt=0.0):
    """One detection with the true source at a position angle from it, as ICRS has it."""
    here = SkyCoord(lon * u.deg, lat * u.deg, frame="galactic").icrs
    there = here.directional_offset_by(angle_deg * u.deg, away_deg * u.deg).galactic
    errors = ellipses(1, 0.11, 0.05, tilt) | ellipses(1, 0.22, 0.11, tilt, 95)
    return judge(make_catalog([lon], [lat], **errors), make_truth([there.l.deg], [there.b.deg]))


@pytest.mark.parametrize(
    ("angle", "held"), [(30, (1, 1)), (210, (1, 1)), (120, (0, 1)), (-60, (0, 1)), (90, (0, 1))]
)
def test_ellipse_holds_what_lies_along_it(angle, held):
    table = position_errors(judged_offset(angle, tilt=30.0))
    assert (table["In_68"][0], table["In_95"][0]) == held
    assert table["Median_Offset"].unit == u.deg
    assert table["Median_Offset"][0].value == pytest.approx(0.1)


def test_position_errors_by_hand():
    lon = np.arange(8) * 10.0
    lat = np.array([5.0] * 4 + [50.0] * 4)
    npred = np.array([9, 10, 15, 15, 9, 30, 5, 2])
    shift = np.array([0.01, 0.03, 0.02, 0.02, 0.05, 0.04, 0.01, 0.01])
    errors = ellipses(8, 0.025, 0.025, 0.0) | ellipses(8, 0.05001, 0.05001, 0.0, 95)
    judged = judge(make_catalog(lon, lat + shift, **errors), make_truth(lon, lat, npred))
    table = position_errors(judged)
    rows = [
        (r["Sky"], r["Low"], r["High"], r["N"], round(r["Median_Offset"].value, 6), r["In_68"])
        for r in table
    ]
    assert rows == [
        ("all sky", 8, 12, 3, 0.03, pytest.approx(1 / 3)),
        ("all sky", 12, 20, 2, 0.02, 1),
        ("all sky", 20, 40, 1, 0.04, 0),
        ("|b| > 10 deg", 8, 12, 1, 0.05, 0),
        ("|b| > 10 deg", 20, 40, 1, 0.04, 0),
        ("|b| < 10 deg", 8, 12, 2, 0.02, 0.5),
        ("|b| < 10 deg", 12, 20, 2, 0.02, 1),
    ]
    assert np.all(table["In_95"] == 1)
    assert table["N_Ellipse"].tolist() == table["N"].tolist()


def test_gaussian_ellipses_hold_what_they_say(rng):
    # 0.05 deg along one axis, 0.02 along the other, turned by 25 deg
    n, tilt = 4000, np.radians(25.0)
    lon, lat = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    here = SkyCoord(lon * u.deg, lat * u.deg, frame="galactic").icrs
    along, across = 0.05 * rng.normal(size=n), 0.02 * rng.normal(size=n)
    east = along * np.sin(tilt) + across * np.cos(tilt)
    north = along * np.cos(tilt) - across * np.sin(tilt)
    angle, away = np.arctan2(east, north) * u.rad, np.hypot(east, north) * u.deg
    there = here.directional_offset_by(angle, away).galactic
    scale_68, scale_95 = np.sqrt(-2 * np.log([0.32, 0.05]))
    errors = ellipses(n, 0.05 * scale_68, 0.02 * scale_68, 25.0)
    errors |= ellipses(n, 0.05 * scale_95, 0.02 * scale_95, 25.0, 95)
    catalog, truth = make_catalog(lon, lat, **errors), make_truth(there.l.deg, there.b.deg)
    (whole,) = position_errors(judge(catalog, truth))[:1]
    assert whole["N"] > 3900
    assert whole["In_68"] == pytest.approx(0.68, abs=0.02)
    assert whole["In_95"] == pytest.approx(0.95, abs=0.01)


def test_detections_without_an_ellipse_have_an_offset():
    table = position_errors(judge(make_catalog([0], [0.1]), make_truth([0], [0])))
    assert table["Median_Offset"].value == pytest.approx([0.1, 0.1])
    assert table["N_Ellipse"].tolist() == [0, 0]
    assert np.isnan(table["In_68"]).all()


def test_flux_and_index_errors_by_hand():
    lon = np.arange(4) * 10.0
    truth = make_truth(
        lon, [20] * 4, Flux=[1e-10] * 4 * FLUX, Spectral_Index=np.array([2.0, 2.0, 2.5, 3.0])
    )
    known = [False, False, False, True]
    catalog = make_catalog(
        lon,
        [20] * 4,
        Flux=Masked([1.1e-10, 1.2e-10, 0.9e-10, 9e-10] * FLUX, mask=known),
        Unc_Flux=Masked([1e-11] * 4 * FLUX, mask=known),
        Spectral_Index=MaskedColumn([2.1, 2.2, 2.5, 9.0], mask=known),
        Unc_Spectral_Index=MaskedColumn([0.1] * 4, mask=known),
    )
    judged = judge(catalog, truth)
    flux, index = flux_errors(judged), index_errors(judged)
    assert flux["Sky"].tolist() == index["Sky"].tolist() == ["all sky", "|b| > 10 deg"]
    assert flux["N"].tolist() == index["N"].tolist() == [3, 3]
    # pulls 1, 2, -1 and 1, 2, 0: of three numbers the 16th percentile lies 0.32 above the lowest
    assert flux["Median_Ratio"].tolist() == pytest.approx([1.1, 1.1])
    assert flux["Pull_Median"].tolist() == pytest.approx([1, 1])
    assert flux["Pull_Width"][0] == pytest.approx((1.68 - (-1 + 0.32 * 2)) / 2)
    assert index["Median_Difference"].tolist() == pytest.approx([0.1, 0.1])
    assert index["Pull_Width"][0] == pytest.approx((1.68 - 0.32) / 2)


def test_offsets_in_units_of_ellipses():
    # the major axis points north, east, and half way; the last one has none
    x, y = np.array([0.0, 0.2, 0.3, 1.0]), np.array([0.4, 0.1, 0.3, 0.0])
    major, minor = np.array([0.4, 0.2, np.sqrt(0.18), 0.0]), np.array([0.1, 0.1, 0.1, 0.0])
    found = offset_over_ellipse(x, y, major, minor, np.array([0.0, 90.0, 45.0, 0.0]))
    np.testing.assert_allclose(found, [1, np.sqrt(2), 1, np.nan])


def test_true_flux_is_in_the_range_of_the_catalogue():
    shape = {
        "Flux": [3.0] * FLUX,
        "Flux_Density": [2.0] * u.Unit("ph cm-2 s-1 GeV-1"),
        "Pivot_Energy": [10000.0] * u.MeV,
        "Index": [2.0],
        "beta": [0.0],
        "Expfactor": [0.0],
        "Exp_Index": [1.0],
    }
    truth, catalog = make_truth([0], [0], **shape), make_catalog([0], [0])
    truth.meta |= {"FLUXEMIN": 10.0, "FLUXEMAX": 2000.0}
    assert true_flux(judge(catalog, truth)).tolist() == [3]
    catalog.meta |= {"FLUXEMIN": 10.0, "FLUXEMAX": 2000.0}
    assert true_flux(judge(catalog, truth)).tolist() == [3]
    catalog.meta["FLUXEMAX"] = 100.0
    # 2 (10 / E)^2 from 10 to 100 GeV
    assert true_flux(judge(catalog, truth)) == pytest.approx([2 * 100 * (1 / 10 - 1 / 100)])
    truth.remove_column("Index")
    assert np.isnan(true_flux(judge(catalog, truth))).all()


def test_true_index_is_what_a_fit_finds():
    # of a log-parabola an index that it has at energies of its photons
    shape = {
        "Spectral_Index": [7.0, 7.0, 2.8],
        "Flux_Density": [1e-12, 1e-12, np.nan] * u.Unit("ph cm-2 s-1 GeV-1"),
        "Pivot_Energy": [5.0, 5.0, 5.0] * u.GeV,
        "Index": [2.3, 2.0, 2.0],
        "beta": [0.0, 0.1, 0.0],
        "Expfactor": [0.0] * 3,
        "Exp_Index": [1.0] * 3,
    }
    truth, catalog = make_truth([0, 10, 20], [0] * 3, **shape), make_catalog([0], [0])
    rows = np.arange(3)
    assert true_index(judge(catalog, truth), rows).tolist() == [7.0, 7.0, 2.8]
    catalog.meta |= {"EMIN": 10.0, "EMAX": 2000.0}
    index = true_index(judge(catalog, truth), rows)
    assert index[0] == pytest.approx(2.3, abs=1e-4)
    assert 2 + 0.2 * np.log(10 / 5) < index[1] < 2 + 0.2 * np.log(50 / 5)
    assert index[2] == 2.8
    # a map from 1 GeV that a model of 10 GeV and more searched
    catalog.meta |= {"EMIN": 1.0, "FITEMIN": 10.0, "FITEMAX": 2000.0}
    assert true_index(judge(catalog, truth), rows).tolist() == index.tolist()
    del catalog.meta["FITEMIN"]
    assert true_index(judge(catalog, truth), rows)[1] < index[1]
