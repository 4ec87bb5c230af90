import numpy as np
import pytest
from made_sources import RANGE, lonely_sources

from astro_unetloc.catalog.table import numbers_of
from astro_unetloc.measurement.fit import measure_sources
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
    kinds = {"Unc_Npred": "counts", "Unc_Flux": "counts", "Unc_Spectral_Index": "index"}
    kinds |= {
        f"Conf_{n}_Semi{axis}": f"ellipse_{n}" for n in (68, 95) for axis in ("Major", "Minor")
    }
    after = FACTORS.apply(before)
    assert after.colnames == before.colnames
    for name in before.colnames:
        factor = FACTORS.at(kinds[name], before["GLAT"].value) if name in kinds else 1
        np.testing.assert_array_equal(after[name].value, before[name].value * factor)


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
