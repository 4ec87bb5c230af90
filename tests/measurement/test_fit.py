from dataclasses import replace

import numpy as np
import pytest
from conftest import make_wcs
from made_sources import RANGE, lonely_sources

from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.skymap import SkyMap, image_pixelization
from astro_unetloc.measurement.data import MeasurementConfig, Pairs, gather_counts
from astro_unetloc.measurement.fit import FieldFit, FieldSetup, _positive, systematic_weights

CONFIG = MeasurementConfig()


def setup_of(sky_map, vectors):
    return FieldSetup(sky_map, gather_counts(sky_map, *RANGE), vectors, CONFIG)


@pytest.mark.parametrize(
    ("pixel_deg", "n_split"), [(0.03, 1), (0.1, 2), (0.2, 4), (0.3, 4), (0.5, 8), (1.0, 8)]
)
def test_large_pixels_are_divided_more(pixel_deg, n_split):
    counts = np.zeros((1, 100), dtype=np.int32)
    counts[0, 55] = 3
    pixels = image_pixelization(make_wcs((10, 10), pixel_deg=pixel_deg), (10, 10))
    sky_map = SkyMap(counts=counts, pixels=pixels, energy_edges=np.array(RANGE))
    setup = setup_of(sky_map, np.array([[1.0, 0, 0]]))
    assert setup.n_split == n_split
    assert setup.radius_deg >= 6 * pixel_deg
    assert np.all(setup.core_deg >= 2 * pixel_deg)


def test_events_are_points():
    sky_map, sources, _ = lonely_sources(30, nside=1)
    setup = setup_of(sky_map, sources.vectors)
    assert np.all(setup.n_split == 1)
    assert not np.any(setup.subpixel_radius_deg)
    assert setup.radius_deg == CONFIG.min_radius_deg


def test_the_region_grows_with_the_psf():
    sky_map, sources, _ = lonely_sources(30, nside=1)
    wide = setup_of(replace(sky_map, psf=KingPSF(6.0)), sources.vectors)
    expected = CONFIG.radius_psf * KingPSF(6.0).containment_radius(0.68, 11.3)
    assert wide.radius_deg == pytest.approx(expected, rel=0.05)


def test_bright_sources_are_followed_farther():
    faint, sources, _ = lonely_sources(10, nside=1)
    bright = lonely_sources(3000, nside=1)[0]
    assert np.all(setup_of(faint, sources.vectors).reach_deg(sources.vectors) == 2.0)
    reach = setup_of(bright, sources.vectors).reach_deg(sources.vectors)
    assert np.all(reach > 2.5)
    assert np.all(reach <= 6.0)


def test_counts_weigh_less_where_the_background_is_not_known():
    """The weight of 4FGL: with a systematic of 3 %, a half for 1 / 0.03**2 counts in the PSF."""

    class TwoRegions:
        pairs = Pairs(
            np.array([0, 0, 1, 1]),
            np.arange(4),
            np.array([0, 1, 0, 1]),
            np.array([10.0, 0.0, 10 / 0.03**2, 20 / 0.03**2]),
            *np.zeros((2, 4)),
        )
        sample_area = np.full((2, 5), 2.0)  # ten square degrees
        __len__ = lambda self: 2  # noqa: E731

    weight = systematic_weights(TwoRegions(), np.array([1.0, 0.5]), 0.03)
    np.testing.assert_allclose(weight[1], [1 / 3, 1 / 2])  # counts at higher energies count too
    np.testing.assert_allclose(weight[0], [1 / (1 + 0.03**2), 1.0])
    none = systematic_weights(TwoRegions(), np.array([1.0, 0.5]), 0.0)
    np.testing.assert_array_equal(none, 1.0)


def test_errors_grow_with_the_systematic_of_the_background():
    sky_map, sources, _ = lonely_sources(300, nside=1, density=3000.0, seed=2)
    counts = gather_counts(sky_map, *RANGE)
    known, vague = (
        FieldFit(
            sources.vectors,
            FieldSetup(sky_map, counts, sources.vectors, replace(CONFIG, systematic=systematic)),
        ).run((10.0, 1000.0))
        for systematic in (0.0, 0.1)
    )
    assert np.median(vague["npred_err"] / known["npred_err"]) > 1.1
    assert np.median(vague["sqrt_ts"] / known["sqrt_ts"]) < 0.95


def test_a_curvature_that_is_none_of_a_maximum_is_replaced_by_the_expected_one():
    """In the units of each parameter: counts of thousands have an information of a millionth."""
    size = np.array([1e2, 1e2, 1e-3, 1.0])
    information = np.eye(4) * size**2
    curvature = np.stack([information, information.copy()])
    curvature[1, 0, 0] *= -1
    result = _positive(curvature, np.stack([information, information]))
    np.testing.assert_array_equal(result[0], information)
    error = 1 / np.sqrt(np.diag(result[1]))
    np.testing.assert_allclose(error, 1 / size, rtol=1e-3)


def test_sources_that_only_shine_on_others_are_not_reported():
    sky_map, sources, _ = lonely_sources(30, nside=1, seed=4)
    setup = setup_of(sky_map, sources.vectors)
    whole = FieldFit(sources.vectors, setup).run((10.0, 1000.0))
    some = np.array([1, 4, 7])
    part = FieldFit(sources.vectors, setup, some).run((10.0, 1000.0))
    np.testing.assert_allclose(part["npred"], whole["npred"][some], rtol=1e-6)
    np.testing.assert_allclose(part["vectors"], whole["vectors"][some], atol=1e-9)
    np.testing.assert_array_equal(part["wide"], whole["wide"][some])


def test_counts_of_single_sources_add_up_to_those_of_all():
    sky_map, sources, _ = lonely_sources(100, nside=1)
    field = FieldFit(sources.vectors, setup_of(sky_map, sources.vectors))
    state = field.fit_spectra()
    assert np.all(state.x == 0)
    assert np.median(state.counts) == pytest.approx(100, rel=0.1)
    by_source = field.likelihood.npred_by_source(state)
    total = field.likelihood.npred_in_regions(state)[2] + field.likelihood.npred_cores(state)
    np.testing.assert_allclose(by_source.sum(axis=1), total)
