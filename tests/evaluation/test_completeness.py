import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.evaluation.metrics import CompletenessCurve, fit_completeness

curves = st.builds(
    CompletenessCurve, st.floats(0.6, 0.99), st.floats(1e-11, 1e-9), st.floats(1.0, 8.0)
)


def drawn(curve, n, seed=0):
    rng = np.random.default_rng(seed)
    flux = curve.half_flux * 10 ** rng.uniform(-1.5, 1.5, n)
    return flux, rng.random(n) < curve(flux)


@given(curves)
def test_flux_at_a_completeness_is_where_it_is_reached(curve):
    for share in (0.1, 0.5, 0.59):
        assert curve(curve.flux_at(share)) == pytest.approx(share)
    assert curve.flux_at(curve.plateau) == np.inf
    assert curve(1.0) == pytest.approx(curve.plateau, rel=1e-6)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(curves)
def test_curve_that_was_drawn_from_is_fitted(curve):
    fitted = fit_completeness(*drawn(curve, 20_000))
    assert fitted.plateau == pytest.approx(curve.plateau, abs=0.03)
    assert fitted.flux_at(0.5) == pytest.approx(curve.flux_at(0.5), rel=0.1)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(curves, st.floats(1e-6, 1e6))
def test_units_of_the_flux_do_not_matter(curve, unit):
    flux, found = drawn(curve, 500)
    one, other = fit_completeness(flux, found), fit_completeness(flux * unit, found)
    assert other.half_flux / unit == pytest.approx(one.half_flux, rel=0.01)


@pytest.mark.parametrize(
    ("flux", "found", "message"),
    [
        ([1.0, 0.0] * 10, [True] * 20, "fluxes must be positive"),
        ([1.0] * 20, [True] * 20, "expected 5 found and 5 missed sources or more; got 20 and 0"),
    ],
)
def test_sources_that_make_no_curve_are_refused(flux, found, message):
    with pytest.raises(ValueError, match=message):
        fit_completeness(flux, found)
