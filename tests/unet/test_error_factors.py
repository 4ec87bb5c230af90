import numpy as np
import pytest
from made_sources import RANGE, lonely_sources

from astro_unetloc.catalog.table import numbers_of
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.sphere import lonlat_from_vectors
from astro_unetloc.unet.calibration import ErrorFactors
from astro_unetloc.unet.model import load_model

FACTORS = ErrorFactors(
    (0.0, 3.0, 10.0), (2.0, 1.5, 1.0), (7.0, 1.5, 1.0), (4.0, 2.0, 1.0), (3, 2, 1)
)


@pytest.mark.parametrize(
    ("latitude", "factor"), [(0, 7), (-2.99, 7), (3, 1.5), (-9.9, 1.5), (10, 1), (-90, 1)]
)
def test_factor_is_that_of_the_latitude(latitude, factor):
    np.testing.assert_array_equal(FACTORS.at("ellipse_95", [latitude]), [factor])


def test_errors_grow_and_what_was_measured_stays():
    sky_map, sources, _ = lonely_sources(30, nside=2)
    before = measure_sources(sources, sky_map, energy_range=RANGE, flux_range=(10.0, 1000.0))
    latitude = lonlat_from_vectors(before.vectors)[1]
    after = FACTORS.apply(before, latitude)
    for name in ("vectors", "sqrt_ts", "npred", "flux", "index", "failed"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name, kind in (("npred_err", "counts"), ("flux_err", "counts"), ("index_err", "index")):
        expected = getattr(before, name) * FACTORS.at(kind, latitude)
        np.testing.assert_allclose(getattr(after, name), expected)
    for name in ("ellipse_68", "ellipse_95"):
        factor = FACTORS.at(name, latitude)
        for axis in ("semi_major", "semi_minor"):
            old, new = (getattr(getattr(m, name), axis) for m in (before, after))
            np.testing.assert_allclose(new, old * factor)
        angles = (getattr(m, name).position_angle for m in (before, after))
        np.testing.assert_array_equal(*angles)
    size = FACTORS.at("ellipse_68", latitude)[:, None, None]
    np.testing.assert_allclose(after.covariance, before.covariance * size**2)


def test_only_the_model_below_10_gev_needs_them():
    factors = load_model("lat-500mev").error_factors
    assert min(factors.ellipse_68 + factors.ellipse_95 + factors.counts + factors.index) >= 1
    assert factors.latitude_deg[0] == 0
    assert load_model("lat-10gev").error_factors is None


def test_a_search_applies_them(monkeypatch):
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    from astro_unetloc import find_sources, simulate_sky

    center = SkyCoord(120 * u.deg, 40 * u.deg, frame="galactic")
    sky_map, _ = simulate_sky(center=center, radius=5 * u.deg, rng=1)
    model = load_model("lat-10gev")
    plain = find_sources(sky_map, model=model)
    model.card["error_factors"] = {
        "latitude_deg": [0.0], "ellipse_68": [2.0], "ellipse_95": [3.0], "counts": [1.0],
        "index": [1.0],
    }  # fmt: skip
    scaled = find_sources(sky_map, model=model)
    assert len(plain) > 0
    for name, factor in (("Conf_68_SemiMajor", 2), ("Conf_95_SemiMinor", 3), ("Unc_Npred", 1)):
        ratio = numbers_of(scaled, name) / numbers_of(plain, name)
        np.testing.assert_allclose(ratio, factor, rtol=1e-5)
