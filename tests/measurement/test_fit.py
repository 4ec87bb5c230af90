from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from astropy.table import vstack
from hypothesis import given, settings
from hypothesis import strategies as st
from made_maps import binned_map, healpix_pixels, image_pixels
from made_sources import (
    RANGE,
    as_counts,
    as_events,
    background_around,
    join,
    lonely_sources,
    photons_of,
    scatter,
    sources_at,
    with_background,
)

from astro_unetloc.catalog.columns import COLUMNS, has_flag
from astro_unetloc.catalog.table import numbers_of
from astro_unetloc.evaluation.comparison import offset_over_ellipse
from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.irf.spectra import power_laws
from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.measurement.data import MeasurementConfig, Pairs, gather_counts
from astro_unetloc.measurement.fit import (
    FieldSetup,
    ellipse_columns,
    measure_sources,
    neighbor_margin_deg,
    systematic_weights,
)
from astro_unetloc.simulation.sky import healpix_cube
from astro_unetloc.sphere import (
    frame_rotation,
    lonlat_from_vectors,
    separation_deg,
    tangent_axes,
    tangent_offsets,
    vectors_from_lonlat,
)
from astro_unetloc.unet.model import load_model

FLUX_RANGE = (10.0, 1000.0)
LON = np.arange(0.0, 360.0, 10.0)


def measured(sky_map, sources, **options):
    return measure_sources(sources, sky_map, band_edges=RANGE, flux_range=FLUX_RANGE, **options)


def setup_of(sky_map, vectors):
    return FieldSetup(sky_map, gather_counts(sky_map, RANGE), vectors, MeasurementConfig())


# The regions and weights


@pytest.mark.parametrize(
    ("pixel_deg", "n_split"), [(0.03, 1), (0.1, 2), (0.2, 4), (0.3, 4), (0.5, 8), (1.0, 8)]
)
def test_large_pixels_are_divided_more(pixel_deg, n_split):
    counts = np.zeros((1, 100), dtype=np.int32)
    counts[0, 55] = 3
    sky_map = binned_map(counts, image_pixels(10, pixel_deg=pixel_deg), RANGE)
    setup = setup_of(sky_map, np.array([[1.0, 0, 0]]))
    assert setup.n_split == n_split
    assert setup.radius_deg >= 6 * pixel_deg
    assert np.all(setup.core_deg >= 2 * pixel_deg)


def test_the_region_grows_with_the_psf():
    sky_map, sources, _ = lonely_sources(30, nside=1)
    wide = setup_of(replace(sky_map, psf=KingPSF(6.0)), sources.vectors)
    expected = MeasurementConfig().radius_psf * KingPSF(6.0).containment_radius(0.68, 11.3)
    assert wide.radius_deg == pytest.approx(expected, rel=0.05)


def test_photons_of_bright_sources_are_followed_farther():
    (faint, sources, _), (bright, _, _) = (lonely_sources(n, nside=1) for n in (10, 3000))
    near, far = (setup_of(m, sources.vectors).reach_deg(sources.vectors) for m in (faint, bright))
    assert np.all(near == 2.0)
    assert np.all((far > 2.5) & (far <= 6.0))


def test_counts_weigh_less_where_the_background_is_not_known():
    """The weight of 4FGL: with a systematic of 3 %, a half for 1 / 0.03**2 counts in the PSF."""
    source, energy_bin = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    number = np.array([10.0, 0.0, 10 / 0.03**2, 20 / 0.03**2])
    regions = mock.MagicMock(sample_area=np.full((2, 5), 2.0))  # ten square degrees
    regions.pairs = Pairs(source, np.arange(4), energy_bin, number, *np.zeros((2, 4)))
    regions.__len__.return_value = 2
    weight = systematic_weights(regions, np.array([1.0, 0.5]), 0.03)
    np.testing.assert_allclose(weight[1], [1 / 3, 1 / 2])  # counts at higher energies count too
    np.testing.assert_allclose(weight[0], [1 / (1 + 0.03**2), 1.0])
    np.testing.assert_array_equal(systematic_weights(regions, np.array([1.0, 0.5]), 0.0), 1.0)


def test_errors_grow_with_the_systematic_of_the_background():
    sky_map, sources, _ = lonely_sources(300, nside=1, density=3000.0, seed=2)
    known, unknown = (
        measured(sky_map, sources, config=MeasurementConfig(systematic=systematic))
        for systematic in (0.0, 0.1)
    )
    assert np.median(unknown["Unc_Npred"] / known["Unc_Npred"]) > 1.1
    assert np.median(unknown["Sqrt_TS"] / known["Sqrt_TS"]) < 0.95


# The measured columns


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.floats(0.01, 1.0), st.floats(0.1, 1.0), st.floats(0.0, 179.0))
def test_an_ellipse_comes_back_from_its_covariance(major, ratio, angle_deg):
    minor, angle = 0.95 * ratio * major, np.radians(angle_deg)
    along = np.array([np.sin(angle), np.cos(angle)])  # east, north
    across = np.array([along[1], -along[0]])
    covariance = major**2 * np.outer(along, along) + minor**2 * np.outer(across, across)
    columns = ellipse_columns(covariance[None], np.array([[1.0], [2.0]]))
    for name, factor in (("Conf_68", 1), ("Conf_95", 2)):
        axes = columns[f"{name}_SemiMajor"][0], columns[f"{name}_SemiMinor"][0]
        np.testing.assert_allclose(axes, [factor * major, factor * minor], rtol=1e-6)
        difference = (columns[f"{name}_PosAng"][0] - angle_deg + 90) % 180 - 90
        assert difference == pytest.approx(0, abs=1e-3)


def held(result, percent, true):
    """Which ellipses around the measured positions contain the true ones."""
    offsets = tangent_offsets(result.vectors, *tangent_axes(result.vectors), true)
    names = ("SemiMajor", "SemiMinor", "PosAng")
    ellipse = (numbers_of(result, f"Conf_{percent}_{name}") for name in names)
    return offset_over_ellipse(*offsets, *ellipse) < 1


def spread(values):
    """Half of the width that holds 68 %."""
    return np.diff(np.percentile(values, [16, 84]))[0] / 2


@pytest.fixture(scope="module", params=[15, 100])
def lonely(request):
    """Photons of each of twice 192 lonely sources, measured and found tables, true positions."""
    skies = [lonely_sources(request.param, seed=seed) for seed in (5, 6)]
    result = vstack([measured(sky_map, sources) for sky_map, sources, _ in skies])
    found, true = (np.concatenate(v) for v in zip(*((f.vectors, t) for _, f, t in skies)))
    return request.param, result, found, true


def test_ellipses_contain_their_fraction_of_the_true_positions(lonely):
    _, result, _, true = lonely
    for percent, margin in ((68, 0.08), (95, 0.04)):  # three sigma of 384 sources
        assert np.mean(held(result, percent, true)) == pytest.approx(percent / 100, abs=margin)


def test_positions_are_better_than_the_found_ones(lonely):
    n_photons, result, found, true = lonely
    after, before = separation_deg(result.vectors, true), separation_deg(found, true)
    expected = {15: 0.019, 100: 0.0068}[n_photons]
    assert np.median(after) < expected * 1.15
    if n_photons == 100:
        assert np.median(after) < 0.6 * np.median(before)


def test_pulls_of_counts_fluxes_and_indices_have_unit_width(lonely):
    n_photons, result, _, true = lonely
    law = power_laws(np.ones(1), np.full(1, 2.3), emin=RANGE[0], emax=RANGE[1])
    exposure = SurveyExposure()
    per_count = law.flux(*FLUX_RANGE) / law.flux(*RANGE, weight=exposure.relative)
    flux = n_photons * per_count / exposure.sky(true)
    for name, expected in (("Npred", n_photons), ("Flux", flux), ("Spectral_Index", 2.3)):
        value, error = numbers_of(result, name), numbers_of(result, f"Unc_{name}")
        known = np.isfinite(value)
        assert known.mean() > 0.95
        pull = ((value - expected) / error)[known]
        assert np.median(pull) == pytest.approx(0, abs=0.25)
        assert spread(pull) == pytest.approx(1, abs=0.15)
    assert np.median(numbers_of(result, "Flux") / flux) == pytest.approx(1, abs=0.06)


def test_sqrt_ts_grows_with_the_photons(lonely):
    n_photons, result, *_ = lonely
    expected = {15: 6.8, 100: 21.5}[n_photons]
    assert np.median(result["Sqrt_TS"]) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("photons_each", [500.0, pytest.param(3000.0, marks=pytest.mark.slow)])
def test_errors_of_sources_below_10_gev_are_honest_too(photons_each):
    edges, pixels = load_model("lat-500mev").band_edges, healpix_pixels(256, False, "galactic")
    rng, band = np.random.default_rng(0), tuple(edges[[0, -1]])
    true = healpix_pixels(4, False, "galactic").centers(np.arange(192))
    # 300 per square degree, with the spectrum of diffuse emission
    density = 300 * np.diff(edges**-1.45) / np.diff(edges[[0, -1]] ** -1.45)
    results = []
    for _ in range(2):
        counts = healpix_cube(photons_of(true, photons_each, rng, band=band), edges, 256)
        counts += rng.poisson(density[:, None] * pixels.pixel_size_deg**2, counts.shape)
        ranges = {"band_edges": band, "flux_range": (1.0, 100.0)}
        sky_map = binned_map(counts, pixels, edges)
        results.append(measure_sources(sources_at(true), sky_map, **ranges))
    result = vstack(results)
    assert np.median(result["Npred"]) == pytest.approx(photons_each, rel=0.03)
    assert 0.8 < spread((result["Npred"] - photons_each) / result["Unc_Npred"]) < 1.2
    for percent in (68, 95):
        inside = np.mean(held(result, percent, np.concatenate([true, true])))
        assert inside == pytest.approx(percent / 100, abs=0.08)


@pytest.mark.parametrize(("nside", "lowest"), [(128, (0.62, 0.92)), (64, (0.56, 0.88))])
def test_ellipses_span_pixels_wider_than_the_psf(nside, lowest):
    rng, edges = np.random.default_rng(0), np.geomspace(*RANGE, 9)
    centers = healpix_pixels(8, False, "galactic").centers(np.arange(0, 768, 2))
    true = scatter(centers, np.sqrt(rng.random(len(centers))), rng)  # anywhere in a pixel
    photons = with_background(true, 20, rng, density=8.0)
    found = sources_at(scatter(true, np.abs(rng.normal(0, 12 / nside, len(true))), rng))
    sky_map = as_counts(photons, healpix_pixels(nside, False, "galactic"), edges)
    result = measured(sky_map, found)
    fitted = ~has_flag(result, "fit_failed")
    assert fitted.mean() > 0.8
    for percent, least in zip((68, 95), lowest):
        assert least < np.mean(held(result, percent, true)[fitted]) < percent / 100 + 0.07


def test_sources_without_common_counts_are_measured():
    center = np.array([[0.0, 0.0, 1.0]])
    vectors = np.concatenate([center, scatter(center, np.array([0.2]), np.random.default_rng(0))])
    far = scatter(center, np.array([2.5]), np.random.default_rng(1))
    photons = Photons(np.repeat(far, 5, axis=0), np.full(5, 20.0))
    sky_map = as_counts(photons, healpix_pixels(64, False, "galactic"), np.array(RANGE))
    result = measured(sky_map, sources_at(vectors))
    assert np.all(numbers_of(result, "Npred") < 1)


def test_empty_positions_are_not_significant():
    vectors = vectors_from_lonlat(LON, 0.0)
    sky_map = as_events(background_around(vectors, 17.0, np.random.default_rng(1)))
    result = measured(sky_map, sources_at(vectors))
    assert np.median(result["Sqrt_TS"]) < 2
    # also where the Hessian is not that of a maximum
    assert np.all(np.isfinite(result["Npred"]) & (result["Unc_Npred"] > 0))


def test_flags_of_points_are_not_those_of_discs():
    rng, vectors = np.random.default_rng(4), vectors_from_lonlat(LON, 30.0)
    for size_deg, expected in ((0.0, 0.0), (0.4, 1.0)):
        sky_map = as_events(with_background(vectors, 150, rng, size_deg=size_deg))
        wide = has_flag(measured(sky_map, sources_at(vectors)), "wide")
        assert np.mean(wide) == pytest.approx(expected, abs=0.06)


def test_a_faint_source_near_a_bright_one_is_flagged_and_not_biased():
    rng = np.random.default_rng(4)
    bright, faint = (vectors_from_lonlat(LON, lat) for lat in (30.0, 30.5))
    parts = photons_of(bright, 600, rng), photons_of(faint, 30, rng)
    sky_map = as_events(join(*parts, background_around(bright, 17, rng)))
    result = measured(sky_map, sources_at(np.concatenate([bright, faint])))
    np.testing.assert_array_equal(has_flag(result, "bright_neighbor"), np.arange(72) >= 36)
    faint = result[36:]
    assert np.median(faint["Npred"]) == pytest.approx(30, rel=0.12)
    assert spread((faint["Npred"] - 30) / faint["Unc_Npred"]) == pytest.approx(1, abs=0.35)


def test_a_source_far_from_any_photons_keeps_its_position_and_is_flagged():
    vectors = vectors_from_lonlat([0.0, 90.0], 0.0)
    photons = with_background(vectors[:1], 50, np.random.default_rng(2))
    result = measured(as_events(photons), sources_at(vectors))
    np.testing.assert_array_equal(has_flag(result, "fit_failed"), [False, True])
    np.testing.assert_allclose(result.vectors[1], vectors[1], atol=1e-12)
    for name in ("Conf_68_SemiMajor", "Conf_95_SemiMinor", "Conf_68_PosAng", "Conf_95_PosAng"):
        np.testing.assert_array_equal(np.isnan(result[name]), [False, True])


@pytest.mark.parametrize("kind", [0.05, 0.1, "healpix"])
def test_maps_and_events_agree(kind):
    """One field, as photons and in pixels: the same results within what pixels cost."""
    rng = np.random.default_rng(9)
    lon, lat = np.meshgrid(np.arange(-6.0, 7.0, 3.0), np.arange(-6.0, 7.0, 3.0))
    true, center = vectors_from_lonlat(lon.ravel(), lat.ravel()), np.array([[1.0, 0, 0]])
    photons = photons_of(true, 80, rng)
    photons = join(photons, background_around(center, 17.0, rng, radius_deg=14.0))
    found = sources_at(scatter(true, np.full(25, 0.02), rng))
    if kind == "healpix":
        pixels = healpix_pixels(512, False, "galactic")
    else:
        lon, lat = lonlat_from_vectors(center[0] @ frame_rotation("icrs"))
        place = {"lon": lon, "lat": lat, "frame": "icrs"}
        pixels = image_pixels(round(22 / kind), pixel_deg=kind, **place)
    edges = np.geomspace(10, 2000, 19)
    exposure, disc = SurveyExposure(), DiscFootprint(center[0], 14.0)
    one = measured(replace(as_events(photons, exposure=exposure), footprint=disc), found)
    two = measured(as_counts(photons, pixels, edges, exposure=exposure), found)
    size_deg = one["Conf_68_SemiMajor"].value
    assert np.median(separation_deg(one.vectors, two.vectors) / size_deg) < 0.7
    away = separation_deg(two.vectors, true) / two["Conf_68_SemiMajor"].value
    assert np.mean(away < 1) > 0.45
    np.testing.assert_allclose(np.median(two["Npred"] / one["Npred"]), 1.0, atol=0.04)
    change = two["Spectral_Index"] - one["Spectral_Index"]
    np.testing.assert_allclose(np.median(change), 0.0, atol=0.06)
    np.testing.assert_allclose(np.median(two["Sqrt_TS"] / one["Sqrt_TS"]), 1.0, atol=0.12)
    assert np.median(two["Conf_95_SemiMajor"] / one["Conf_95_SemiMajor"]) < 1.5


def test_the_psf_of_the_map_is_used():
    sky_map, sources, _ = lonely_sources(100, seed=5, psf=KingPSF(2.0))
    known = measured(replace(sky_map, psf=KingPSF(2.0)), sources)
    built_in = measured(sky_map, sources)
    assert np.median(known["Npred"]) == pytest.approx(100, rel=0.04)
    assert np.mean(known["Sqrt_TS"] > built_in["Sqrt_TS"]) > 0.9
    assert np.mean(has_flag(known, "wide")) < 0.05
    assert np.mean(has_flag(built_in, "wide")) > 0.2


def test_without_an_exposure_there_are_counts_but_no_fluxes():
    sky_map, sources, _ = lonely_sources(100, nside=2, seed=5)
    known, unknown = measured(sky_map, sources), measured(replace(sky_map, exposure=None), sources)
    assert np.all(np.isnan(unknown["Flux"]))
    assert np.all(np.isnan(unknown["Unc_Spectral_Index"]))
    np.testing.assert_allclose(unknown["Npred"], known["Npred"], rtol=1e-6)
    np.testing.assert_allclose(unknown["Sqrt_TS"], known["Sqrt_TS"], rtol=1e-6)


def test_half_of_a_source_is_outside_the_footprint():
    vectors = vectors_from_lonlat([30.0], 0.0)
    photons = with_background(vectors, 4000, np.random.default_rng(3))
    beyond = DiscFootprint(vectors_from_lonlat(np.array(60.0), np.array(0.0)), 30.0)
    sky_map = replace(as_events(photons.select(beyond.covers(photons.vectors))), footprint=beyond)
    result = measured(sky_map, sources_at(vectors))
    assert result["Npred"][0] == pytest.approx(4000, rel=0.15)


def test_a_map_without_counts_near_any_source_keeps_the_sources():
    counts = np.zeros((1, 3600), dtype=np.int32)
    counts[0, 0] = 1
    sky_map = binned_map(counts, image_pixels(60), RANGE)
    result = measured(sky_map, sources_at(vectors_from_lonlat([0.0, 1.0], [0.0, 0.5])))
    assert np.all(np.isfinite(result.vectors))
    assert np.all(result["Sqrt_TS"] < 1)


def test_a_map_whose_bins_do_not_fit_the_model_is_not_measured():
    sky_map = binned_map(np.ones((1, 3600), dtype=np.int32), image_pixels(60), [2, 20])
    with pytest.warns(UnetlocWarning, match="no energy bin of the map .*bins of 2-20 GeV"):
        result = measured(sky_map, sources_at(vectors_from_lonlat([0.0, 1.0], [0.0, 0.5])))
    assert np.all(has_flag(result, "fit_failed") & np.isnan(result["Npred"]))


@pytest.fixture(scope="module")
def small():
    """A sky of 48 sources, their table and the measured one."""
    sky_map, sources, _ = lonely_sources(30, nside=2, seed=5)
    return sky_map, sources, measured(sky_map, sources)


def test_columns_are_those_of_the_catalogue(small):
    sky_map, sources, result = small
    assert len(result) == 48
    assert set(sources.colnames) < set(result.colnames) < {spec.name for spec in COLUMNS}
    assert np.all(result["Conf_68_SemiMajor"] < result["Conf_95_SemiMajor"])
    assert np.all(result["Conf_68_SemiMinor"] <= result["Conf_68_SemiMajor"])
    assert np.all(sources == lonely_sources(30, nside=2, seed=5)[1])  # not changed


def test_no_sources_and_no_photons_give_all_columns(small):
    sky_map, sources, result = small
    none = measured(sky_map, sources[:0])
    assert len(none) == 0
    assert none.colnames == result.colnames
    nothing = measured(as_events(Photons(np.zeros((0, 3)), np.zeros(0))), sources)
    assert has_flag(nothing, "fit_failed").all()
    assert np.isnan(nothing["Npred"]).all()


def test_a_map_too_large_for_memory_is_fitted_in_parts(small):
    sky_map, sources, whole = small
    parts = measured(sky_map, sources, config=MeasurementConfig(max_pairs=3000))
    np.testing.assert_allclose(parts["Npred"], whole["Npred"], rtol=1e-3)
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-6)
    np.testing.assert_array_equal(parts["Flags"], whole["Flags"])


def test_the_margin_follows_the_psf():
    assert neighbor_margin_deg(10.0) == 4.0
    assert neighbor_margin_deg(0.5) > 5.0
    assert neighbor_margin_deg(10.0, KingPSF(4.0)) > 5.0
