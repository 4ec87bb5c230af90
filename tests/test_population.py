import numpy as np
import pytest

from astro_unetloc.population import draw_sources


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


def test_counts_of_bright_sources_follow_their_power_law():
    sources = draw_sources(
        np.random.default_rng(1), n_extragalactic=2e6, n_galactic=0, n_extended=0
    )
    n = [np.sum(sources.flux > flux) for flux in (3e-11, 3e-10)]
    assert np.log10(n[0] / n[1]) == pytest.approx(1.15, abs=0.03)
    n = [np.sum(sources.flux > flux) for flux in (2e-12, 2e-11)]
    assert np.log10(n[0] / n[1]) == pytest.approx(0.85, abs=0.01)


def test_values_stay_in_their_ranges(populations):
    for sources in populations:
        np.testing.assert_allclose(np.linalg.norm(sources.vectors, axis=1), 1)
        assert sources.flux.min() >= 2e-12
        assert sources.flux.max() <= 2e-8
        assert 1.4 <= sources.index.min() <= sources.index.max() <= 5.5
        size = sources.radius_deg[sources.radius_deg > 0]
        assert 0.15 <= size.min() <= size.max() <= 3
        assert len({len(a) for a in vars(sources).values()}) == 1


def test_agn_are_isotropic():
    sources = draw_sources(
        np.random.default_rng(2), n_extragalactic=40_000, n_galactic=0, n_extended=0
    )
    assert np.all(np.abs(sources.vectors.mean(axis=0)) < 4 * np.sqrt(1 / 3 / len(sources)))


def test_galactic_sources_lie_along_the_plane():
    sources = draw_sources(
        np.random.default_rng(2), n_extragalactic=0, n_galactic=5000, n_extended=0
    )
    assert np.mean(latitude(sources) < 10) > 0.9


def test_numbers_are_poisson_around_what_is_asked_for():
    drawn = [
        len(
            draw_sources(np.random.default_rng(s), n_extragalactic=50, n_galactic=30, n_extended=20)
        )
        for s in range(200)
    ]
    assert np.mean(drawn) == pytest.approx(100, abs=3.5)
    assert np.var(drawn) == pytest.approx(100, rel=0.35)


def test_the_same_seed_draws_the_same_sources():
    first, again = (draw_sources(np.random.default_rng(3)) for _ in range(2))
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(again, name))


def test_no_sources_make_an_empty_population():
    none = draw_sources(np.random.default_rng(0), n_extragalactic=0, n_galactic=0, n_extended=0)
    assert len(none) == 0
    assert none.vectors.shape == (0, 3)
