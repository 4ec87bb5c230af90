from dataclasses import fields

import numpy as np
import pytest
from scipy.spatial import KDTree

from astro_unetloc.simulation.population import CLASSES, Sources, draw_sources


@pytest.fixture(scope="module")
def populations():
    return [draw_sources(np.random.default_rng(seed)) for seed in range(8)]


def latitude(sources):
    return np.abs(np.degrees(np.arcsin(np.clip(sources.vectors[:, 2], -1, 1))))


@pytest.mark.parametrize(("flux", "expected"), [(4e-11, 682), (1e-10, 245)])
def test_number_of_bright_sources_off_the_plane_is_that_of_3fhl(populations, flux, expected):
    for sources in populations:
        found = np.sum((latitude(sources) > 10) & (sources.flux > flux))
        assert abs(found - expected) < 3 * np.sqrt(expected) + 0.2 * expected


def test_3fhl_has_these_numbers(real_data):
    from astropy.io import fits

    with fits.open(real_data / "catalogs/gll_psch_v13.fit.gz") as hdus:
        table = hdus[1].data
        high = np.abs(table["GLAT"]) > 10
        assert [np.sum(high & (table["Flux"] > f)) for f in (4e-11, 1e-10)] == [682, 245]


def test_mean_numbers_are_within_a_tenth_of_3fhl(populations):
    for flux, expected in ((4e-11, 682), (1e-10, 245)):
        found = [np.sum((latitude(s) > 10) & (s.flux > flux)) for s in populations]
        assert np.mean(found) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("flux", "expected"), [(4e-11, 272), (1e-10, 154), (3e-10, 66)])
def test_mean_numbers_near_the_plane_are_those_of_3fhl(populations, flux, expected):
    """Counted in the catalogue as at high latitudes."""
    found = [np.sum((latitude(s) < 10) & (s.flux > flux)) for s in populations]
    assert np.mean(found) == pytest.approx(expected, rel=0.12)


@pytest.fixture(scope="module")
def faint_populations():
    return [draw_sources(np.random.default_rng(seed), band=(1.0, 100.0)) for seed in range(4)]


@pytest.mark.parametrize("high", [True, False])
@pytest.mark.parametrize("flux", [5e-10, 1e-9, 2e-9, 5e-9])
def test_numbers_in_1_100_gev_are_those_of_4fgl(faint_populations, real_data, flux, high):
    from astropy.coordinates import SkyCoord
    from astropy.io import fits

    with fits.open(real_data / "catalogs/4fgl_dr3_reduced.fits") as hdus:
        table = hdus[1].data
        table = table[table["Flux"] > flux]
    glat = SkyCoord(table["RA"], table["Dec"], unit="deg").galactic.b.deg
    real = np.sum((np.abs(glat) > 10) == high)
    found = np.mean(
        [
            np.sum(((latitude(s) > 10) == high) & (s.spectra.flux(1, 100) > flux))
            for s in faint_populations
        ]
    )
    assert found == pytest.approx(real, rel=0.12, abs=2 * np.sqrt(real))


@pytest.mark.parametrize(("low", "high"), [(2, 5), (5, 10), (10, 20), (20, 45), (45, 90)])
def test_faint_sources_lie_at_the_latitudes_of_those_of_4fgl(
    faint_populations, real_data, low, high
):
    """Where 4FGL is complete: not within 2 deg of the plane."""
    from astropy.coordinates import SkyCoord
    from astropy.io import fits

    def count(glat, flux):
        return np.sum(
            (np.abs(glat) >= low) & (np.abs(glat) < high) & (flux > 4.5e-10) & (flux < 2e-9)
        )

    with fits.open(real_data / "catalogs/4fgl_dr3_reduced.fits") as hdus:
        table = hdus[1].data
        where = SkyCoord(table["RA"], table["Dec"], unit="deg").galactic
        real = count(where.b.deg, table["Flux"])
    found = [count(latitude(s), s.spectra.flux(1, 100)) for s in faint_populations]
    assert np.mean(found) == pytest.approx(real, rel=0.2, abs=2 * np.sqrt(real))


def test_sources_counted_in_1_100_gev_shine_above_10_gev_as_those_of_3fhl(faint_populations):
    for flux, expected in ((4e-11, 682), (1e-10, 245)):
        found = [np.sum((latitude(s) > 10) & (s.flux > flux)) for s in faint_populations]
        assert np.mean(found) == pytest.approx(expected, rel=0.2)


def test_pulsars_of_3fhl_are_as_many_near_the_plane(populations):
    pulsar = CLASSES.index("PSR")
    found = [
        np.sum((s.source_class == pulsar) & (latitude(s) < 10) & (s.flux > 1e-10))
        for s in populations
    ]
    assert np.mean(found) == pytest.approx(29, rel=0.25)  # 3FHL: 29


def test_counts_of_bright_sources_follow_their_power_law():
    sources = draw_sources(np.random.default_rng(1), agn=6, pulsars=0, galactic=0, extended=0)
    n = [np.sum(sources.flux > flux) for flux in (3e-11, 3e-10)]
    assert np.log10(n[0] / n[1]) == pytest.approx(1.15, abs=0.08)
    n = [np.sum(sources.flux > flux) for flux in (2.0001e-12, 2e-11)]
    assert np.log10(n[0] / n[1]) == pytest.approx(0.85, abs=0.02)


def test_values_stay_in_their_ranges(populations):
    for sources in populations:
        np.testing.assert_allclose(np.linalg.norm(sources.vectors, axis=1), 1)
        assert sources.flux.min() >= 2e-12 * (1 - 1e-9)
        assert sources.flux.max() <= 2e-8 * (1 + 1e-9)
        assert 1.39 <= sources.index.min() <= sources.index.max() <= 50
        size = sources.radius_deg[sources.shape > 0]
        assert 0.149 <= size.min() <= size.max() <= 3.001
        assert not sources.radius_deg[sources.shape == 0].any()
        lengths = {len(getattr(sources, field.name)) for field in fields(sources)}
        assert lengths == {len(sources)}


def test_agn_are_isotropic():
    sources = draw_sources(np.random.default_rng(2), agn=3, pulsars=0, galactic=0, extended=0)
    assert np.all(np.abs(sources.vectors.mean(axis=0)) < 4 * np.sqrt(1 / 3 / len(sources)))


def test_galactic_sources_lie_along_the_plane():
    sources = draw_sources(np.random.default_rng(2), agn=0, pulsars=0, galactic=20)
    assert np.mean(latitude(sources) < 10) > 0.9


def test_galactic_sources_gather_in_clumps():
    """Pairs closer than half a degree, against sources of 40 other skies."""

    def pairs(sources):
        return len(KDTree(sources.vectors).query_pairs(np.radians(0.5)))

    options = {"agn": 0, "pulsars": 0, "extended": 0}
    sky = [draw_sources(np.random.default_rng(s), **options) for s in range(40)]
    mixed = Sources.concatenate(sky)
    shuffled = np.random.default_rng(0).permutation(len(mixed))
    alone = [pairs(mixed.select(rows)) for rows in np.array_split(shuffled, 40)]
    assert np.mean([pairs(s) for s in sky]) > 1.5 * np.mean(alone)


def test_millisecond_pulsars_reach_high_latitudes():
    sources = draw_sources(np.random.default_rng(2), agn=0, pulsars=20, galactic=0, extended=0)
    assert 0.15 < np.mean(latitude(sources) > 10) < 0.4


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ({"pulsars": 0, "galactic": 0, "extended": 0}, "AGN"),
        ({"agn": 0, "galactic": 0, "extended": 0}, "PSR"),
        ({"agn": 0, "pulsars": 0, "extended": 0}, "GAL"),
        ({"agn": 0, "pulsars": 0, "galactic": 0}, "GAL"),
    ],
)
def test_every_class_has_its_factor(others, name):
    sources = draw_sources(np.random.default_rng(3), **others)
    assert {CLASSES[i] for i in sources.source_class} == {name}
    assert (sources.shape > 0).all() == (others.get("galactic") == 0 and name == "GAL")


def test_numbers_are_poisson_around_what_is_asked_for():
    none = {"agn": 0, "pulsars": 0, "galactic": 0}
    drawn = [len(draw_sources(np.random.default_rng(s), **none)) for s in range(300)]
    assert np.mean(drawn) == pytest.approx(40, abs=1.5)
    assert np.var(drawn) == pytest.approx(40, rel=0.35)


def test_the_same_seed_draws_the_same_sources():
    first, again = (draw_sources(np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.flux, again.flux)
    np.testing.assert_array_equal(first.spectra.index, again.spectra.index)


def test_no_sources_make_an_empty_population():
    none = draw_sources(np.random.default_rng(0), agn=0, pulsars=0, galactic=0, extended=0)
    assert len(none) == 0
    assert none.vectors.shape == (0, 3)
    assert none.flux.shape == none.radius_deg.shape == (0,)


def test_unknown_band_is_refused():
    with pytest.raises(ValueError, match="band must be 10-2000 or 1-100 GeV; got"):
        draw_sources(np.random.default_rng(0), band=(3.0, 300.0))
