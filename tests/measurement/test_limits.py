from dataclasses import replace

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from made_maps import image_pixels
from made_sources import (
    RANGE,
    as_counts,
    as_events,
    background_around,
    join,
    lonely_sources,
    photons_of,
    scatter,
    with_background,
)
from scipy.stats import gamma

from astro_unetloc import read_catalog, upper_limits
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF, make_profiles
from astro_unetloc.irf.spectra import power_laws
from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.measurement.data import Pairs
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.measurement.limits import (
    _ProfileLikelihood,
    detection_limits,
    expected_sqrt_ts,
    significances,
)
from astro_unetloc.sphere import lonlat_from_vectors, vectors_from_lonlat

N = 192
ALL_SKY = np.stack(healpy.pix2vec(4, np.arange(N)), axis=-1)
FLUX = {"flux_range": (10.0, 1000.0)}


def at(vectors):
    return SkyCoord(*lonlat_from_vectors(vectors), unit="deg", frame="galactic")


def count_limits(sky_map, vectors, **options):
    """Upper limits on the counts (n,) at vectors, NaN where masked."""
    return np.ma.filled(upper_limits(sky_map, at(vectors), **options)["Npred_UL95"], np.nan)


def n_above(fraction, n):
    """Least fraction of n limits above the truth, three sigma below the expected one."""
    return fraction - 3 * np.sqrt(fraction * (1 - fraction) / n)


# A single bin: Poisson counts of a source on a known background


def limit_of(number, *, background=0.0, efficiency=1.0):
    pair = Pairs(np.zeros(1, int), *np.zeros((5, 1)))
    return _ProfileLikelihood(
        pair, np.array([float(number)]), np.ones(1), np.full(1, efficiency),
        np.full((1, 1), 1e-12), np.zeros((1, 1)), np.full(1, background),
    ).upper_bound()[0]  # fmt: skip


@pytest.mark.parametrize("number", [0, 1, 5, 100, 10_000])
def test_limit_without_a_background_is_that_of_helene(number):
    """With a flat prior n counts have the posterior Gamma(n + 1)."""
    expected = gamma.ppf(0.95, number + 1) / 0.5
    assert limit_of(number, efficiency=0.5) == pytest.approx(expected, rel=0.003)


def test_limit_on_a_known_background_is_that_of_its_integral():
    """On 4 expected counts, with 9 seen."""
    below = gamma.cdf(4.0, 10)
    expected = gamma.ppf(below + 0.95 * (1 - below), 10) - 4.0
    assert limit_of(9, background=4.0) == pytest.approx(expected, rel=0.003)


# Upper limits on skies


@pytest.mark.parametrize("density", [1.0, 17.0])
@pytest.mark.parametrize("counts", [2.0, 10.0, 40.0])
def test_95_percent_of_the_limits_are_above_the_counts(density, counts):
    rng = np.random.default_rng(int(1000 + counts))
    sky_map = as_events(with_background(ALL_SKY, counts, rng, density=density))
    limits = count_limits(sky_map, ALL_SKY)
    assert np.mean(limits >= counts) >= n_above(0.95, N)
    # not higher than need be: those of a source of so many counts
    assert np.median(limits) < gamma.ppf(0.95, counts + 1) + 2 * np.sqrt(density)


def test_95_percent_of_the_limits_near_known_sources_are_above_the_counts():
    rng = np.random.default_rng(1)
    vectors = ALL_SKY[::2]
    known = scatter(vectors, np.full(N // 2, 0.3), rng)
    parts = photons_of(known, 100, rng), background_around(vectors, 17.0, rng)
    sky_map = as_events(join(*parts, photons_of(vectors, 10, rng)))
    limits = count_limits(sky_map, vectors, sources=QTable({"skycoord": at(known)}))
    assert np.mean(limits >= 10) >= n_above(0.95, N // 2)
    assert np.median(limits) < 22
    assert np.median(count_limits(sky_map, vectors)) > 1.5 * np.median(limits)


def test_each_position_is_taken_alone():
    vectors = vectors_from_lonlat([30.0, 30.1, 30.2], 40.0)
    sky_map = as_events(with_background(vectors, 8, np.random.default_rng(2)))
    alone = [count_limits(sky_map, vector[None])[0] for vector in vectors]
    np.testing.assert_allclose(count_limits(sky_map, vectors), alone, rtol=0.01)


def test_counts_in_pixels_and_events_have_the_same_limits():
    rng = np.random.default_rng(3)
    lon, lat = np.meshgrid([-1.5, 0.0, 1.5], [-1.5, 0.0, 1.5])
    vectors = vectors_from_lonlat(100.0 + lon.ravel(), lat.ravel())
    photons = photons_of(vectors[::2], 10, rng)
    center = vectors_from_lonlat([100.0], 0.0)
    photons = join(photons, background_around(center, 17.0, rng, radius_deg=9.0))
    pixels = image_pixels(160, lon=100.0, pixel_deg=0.05)
    binned = as_counts(photons, pixels, np.geomspace(*RANGE, 17))
    limits = [count_limits(sky_map, vectors) for sky_map in (binned, as_events(photons))]
    np.testing.assert_allclose(*limits, rtol=0.15)


def test_fluxes_are_those_of_the_exposure_and_index():
    photons = background_around(ALL_SKY, 17.0, np.random.default_rng(4))
    sky_map = as_events(photons, exposure=SurveyExposure())
    limits = upper_limits(sky_map, at(ALL_SKY), index=2.0, flux_range=("20 GeV", "1 TeV"))
    assert limits["Flux_UL95"].unit == "ph cm-2 s-1"
    law = power_laws(np.ones(1), np.full(1, 2.0), emin=20, emax=1000)
    seen = law.flux(*RANGE, weight=SurveyExposure().relative) * SurveyExposure().sky(ALL_SKY)
    expected = np.ma.filled(limits["Npred_UL95"]) / seen
    np.testing.assert_allclose(limits["Flux_UL95"].unmasked.value, expected, rtol=0.01)
    assert (limits.meta["FLUXEMIN"], limits.meta["FLUXEMAX"]) == (20.0, 1000.0)


def test_what_was_not_observed_has_no_limit():
    vector = vectors_from_lonlat([0.0], 0.0)
    photons = background_around(vector, 17.0, np.random.default_rng(5), radius_deg=5.0)
    sky_map = replace(as_events(photons), footprint=DiscFootprint(vector[0], 5.0))
    table = QTable({"GLON": [0.0, 50.0, np.nan], "GLAT": [0.0, 0.0, 0.0]})
    table["Source_Name"] = ["seen", "not seen", "nowhere"]
    limits = upper_limits(sky_map, table)
    names = ["Source_Name", "RAJ2000", "DEJ2000", "Npred_UL95", "Flux_UL95", "skycoord"]
    assert limits.colnames == names
    assert list(limits["Source_Name"]) == ["seen", "not seen", "nowhere"]
    assert list(limits["Npred_UL95"].mask) == [False, True, True]
    assert limits["Flux_UL95"].mask.all()  # no exposure
    assert upper_limits(sky_map, table[:0]).colnames == names
    single = upper_limits(sky_map, SkyCoord(0 * u.deg, 0 * u.deg, frame="galactic"))
    assert len(single) == 1
    assert single["Npred_UL95"][0] == limits["Npred_UL95"][0]
    known = table[2:]
    known.meta["MOC"] = "10/"  # an empty area
    with pytest.warns(match="3 of 3 positions lie outside the area in which the sources were sea"):
        assert upper_limits(sky_map, table, sources=known)["Npred_UL95"].mask.sum() == 2


@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_real_limits_are_above_the_fluxes_of_faint_sources(real_data):
    """3FHL lists fluxes in the Galactic centre that were measured with these very photons."""
    reference = read_catalog(real_data / "catalogs" / "gll_psch_v13.fit.gz")
    position = reference["skycoord"].galactic
    field = (np.abs(position.l.wrap_at("180d").deg) < 9) & (np.abs(position.b.deg) < 4)
    field &= ~reference["Extended"]
    rows = np.flatnonzero(field & (reference["Flux"].value < 1e-10))[:5]
    assert len(rows) == 5
    counts, exposure = (
        real_data / "gc" / f"fermi-3fhl-gc-{name}-cube.fits.gz" for name in ("counts", "exposure")
    )
    for row in rows:
        others = field & (np.arange(len(field)) != row)
        limits = upper_limits(
            counts, reference[[row]], sources=reference[others], exposure=exposure, **FLUX,
            energy_range=(10, 500), index=float(reference["PowerLaw_Index"][row]),
        )  # fmt: skip
        ratio = limits["Flux_UL95"].unmasked.value[0] / reference["Flux"].value[row]
        assert 1.0 < ratio < 3.0


# Detection limits


def test_sqrt_ts_on_much_background_is_the_signal_over_its_noise():
    """King (1983): N over the root of the background within the effective area, bin by bin."""
    profiles = make_profiles(KingPSF(), np.array([10.0, 30.0, 2000.0]))
    fractions, background = np.array([[0.7, 0.3]]), np.array([[1e6, 3e5]])
    found = expected_sqrt_ts(np.array([10.0]), fractions, background, profiles)[0]
    noise = np.sqrt(background * profiles.effective_area())
    assert found == pytest.approx(np.sqrt(np.sum((10 * fractions / noise) ** 2)), rel=0.01)


def test_the_expected_sqrt_ts_is_what_the_fit_measures_on_average():
    sky_map, sources, true = lonely_sources(30, seed=5)
    measured = measure_sources(sources, sky_map, band_edges=RANGE, **FLUX)["Sqrt_TS"]
    expected = significances(sky_map, true, np.full(len(true), 30.0), index=2.3)
    assert np.median(measured) == pytest.approx(np.median(expected), rel=0.05)


@pytest.mark.parametrize("sqrt_ts", [3.0, 5.0])
def test_counts_at_the_limit_have_the_given_sqrt_ts(sqrt_ts):
    sky_map, _, true = lonely_sources(5, seed=6)
    counts, flux = detection_limits(sky_map, true, sqrt_ts, **FLUX)
    np.testing.assert_allclose(significances(sky_map, true, counts), sqrt_ts, rtol=1e-3)
    assert np.all(flux > 0)


def test_more_background_and_a_bright_neighbor_raise_the_limit():
    rng = np.random.default_rng(7)
    vectors = vectors_from_lonlat([10.0, 60.0, 110.0], 40.0)
    bright = vectors_from_lonlat([110.2], 40.0)
    densities = zip(vectors, (17.0, 170.0, 17.0))
    backgrounds = [background_around(vector[None], density, rng) for vector, density in densities]
    photons = join(*backgrounds, photons_of(bright, 500, rng))
    sky_map = as_events(photons, exposure=SurveyExposure())
    counts, _ = detection_limits(sky_map, vectors, 4.5, sources=bright, **FLUX)
    assert 4 < counts[0] < 12
    assert np.all(counts[1:] > 1.3 * counts[0])


def test_there_is_no_detection_limit_where_nothing_was_observed():
    center = vectors_from_lonlat([10.0], 40.0)
    photons = background_around(center, 17.0, np.random.default_rng(8))
    sky_map = replace(as_events(photons), footprint=DiscFootprint(center[0], 3.0))
    vectors = np.concatenate([center, -center, np.full((1, 3), np.nan)])
    counts, flux = detection_limits(sky_map, vectors, 4.5, **FLUX)
    np.testing.assert_array_equal(np.isfinite(counts), [True, False, False])
    assert np.isnan(flux).all(), "the exposure is not known"


def test_a_map_without_photons_has_no_limits():
    nothing = as_events(Photons(np.zeros((0, 3)), np.zeros(0)))
    with pytest.warns(UserWarning, match="no photons at these positions"):
        limits = detection_limits(nothing, np.eye(3), 4.5, **FLUX)
    assert np.isnan(limits).all()
    with pytest.raises(ValueError, match="must hold photons; got none"):
        upper_limits(nothing, at(np.eye(3)))


def test_limits_of_another_telescope_need_its_psf():
    center = vectors_from_lonlat([10.0], 40.0)
    sky_map = as_events(background_around(center, 17.0, np.random.default_rng(8)))
    sky_map = replace(sky_map, header={"TELESCOP": "HESS"})
    with pytest.raises(ValueError, match="upper limits need the PSF of the .*got photons of HESS"):
        upper_limits(sky_map, at(center))
    limits = upper_limits(replace(sky_map, psf=KingPSF()), at(center))
    assert limits["Npred_UL95"][0] > 3


def test_fluxes_have_the_energies_of_those_of_the_sources():
    center = vectors_from_lonlat([10.0], 40.0)
    sky_map = as_events(background_around(center, 17.0, np.random.default_rng(8)))
    known = QTable({"skycoord": at(vectors_from_lonlat([12.0], 40.0))})
    known.meta = {"FLUXEMIN": 20.0, "FLUXEMAX": 700.0}
    meta = upper_limits(sky_map, at(center), sources=known).meta
    assert (meta["FLUXEMIN"], meta["FLUXEMAX"]) == (20.0, 700.0)
