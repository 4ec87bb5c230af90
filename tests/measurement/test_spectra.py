from types import SimpleNamespace

import numpy as np
import pytest
from made_maps import image_pixels
from made_sources import (
    RANGE,
    as_counts,
    background_around,
    join,
    lonely_sources,
    photons_of,
    sources_at,
)
from scipy.optimize import minimize_scalar

from astro_unetloc.catalog.columns import LOG_LIKELIHOOD
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.spectra import PowerLawFractions, spectral_grid
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.measurement.spectra import BinLikelihood

BANDS = np.array([10.0, 20.0, 50.0, 150.0, 500.0, 2000.0])


def measured(sky_map, sources):
    ranges = {"band_edges": BANDS, "flux_range": (10.0, 1000.0)}
    return measure_sources(sources, sky_map, **ranges, grid=spectral_grid(BANDS[0]))


def test_tabulated_likelihood_is_that_of_the_counts():
    """Two sources of 120 and 40 counts in three bins, on backgrounds from none to many."""
    rng = np.random.default_rng(0)
    source = np.repeat([0, 1], [60, 20])
    energy_bin, number = rng.integers(0, 3, 80), rng.integers(1, 4, 80).astype(float)
    ratio, observed = 10 ** rng.uniform(-4, 4, 80), rng.uniform(0.5, 1.0, (2, 3))
    core = SimpleNamespace(source=source, number=number)
    cell = source * 3 + energy_bin
    likelihood = SimpleNamespace(core=core, n=2, n_energy=3, cell=cell, in_core=observed)
    state = SimpleNamespace(psf=ratio[None], counts=np.array([60.0, 10.0]))
    fractions = np.array([[[0.9, 0.09, 0.01], [0.1, 0.3, 0.6]]] * 2)
    bins = BinLikelihood(likelihood, state, np.ones(80))
    counts, error, best = bins.profile(fractions, n_newton=12)
    for i, k in np.ndindex(2, 2):
        shape, seen = fractions[i, k][energy_bin], fractions[i, k] @ observed[i]

        def loss(s, mine=source == i, shape=shape, seen=seen):
            return s * seen - np.sum(mine * number * np.log1p(s * shape * ratio))

        found = minimize_scalar(loss, bounds=(0, 300), method="bounded")
        assert counts[i, k] == pytest.approx(found.x, abs=0.05 * error[i, k])
        assert best[i, k] == pytest.approx(-found.fun, abs=0.03)
        if counts[i, k] > 0:
            slopes = shape * ratio / (1 + found.x * shape * ratio)
            curvature = np.sum((source == i) * number * slopes**2)
            assert error[i, k] == pytest.approx(curvature**-0.5, rel=0.12)
        else:
            assert loss(error[i, k]) == pytest.approx(0.5, abs=0.1)


def test_counts_by_band_are_those_of_the_spectrum():
    sky_map, sources, _ = lonely_sources(60, nside=4, seed=1)
    result = measured(sky_map, sources)
    counts, error = (np.asarray(result[f"{name}Counts_Band"]) for name in ("", "Unc_"))
    assert counts.shape == (192, 5)
    assert np.median(counts.sum(axis=1) / result["Npred"]) == pytest.approx(1, abs=0.01)
    fractions = PowerLawFractions(BANDS, SurveyExposure().relative).fractions([2.3])[0]
    assert counts.mean(axis=0) == pytest.approx(60 * fractions, rel=0.05, abs=0.1)
    pull = (counts - 60 * fractions)[:, :2] / error[:, :2]
    assert np.std(pull) == pytest.approx(1, abs=0.12)
    assert np.all(error > 0)  # also where a band has no photon
    flux = result["Flux_Band"].to_value("ph cm-2 s-1").sum(axis=1)
    assert np.median(flux / result["Flux"].value) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("photons_each", [10, 200])
def test_the_true_spectrum_is_as_likely_as_it_should_be(photons_each):
    """Twice the loss of log-likelihood at the truth is a chi-squared of up to two parameters."""
    sky_map, sources, _ = lonely_sources(photons_each, nside=4, index=2.5, seed=2)
    ratio = np.asarray(measured(sky_map, sources)[LOG_LIKELIHOOD])
    assert ratio.max(axis=1) == pytest.approx(0)
    index, beta = spectral_grid(BANDS[0]).nodes
    loss = -ratio[:, (index == 2.5) & (beta == 0)][:, 0]
    assert 0.4 < loss.mean() < 1.15
    assert np.mean(loss > 4.6) < 0.05  # 1 % of a chi-squared of two


def test_bands_that_a_map_does_not_cover_are_unknown():
    rng, edges = np.random.default_rng(0), np.array([10.0, 14.0, 20.0, 40.0, 100.0])
    pixels = image_pixels(80)
    place = pixels.centers(np.array([80 * 40 + 40]))
    photons = join(photons_of(place, 200, rng), background_around(place, 17.0, rng))
    sky_map = as_counts(photons, pixels, edges, exposure=SurveyExposure())
    result = measured(sky_map, sources_at(place))
    known = np.isfinite(np.asarray(result["Counts_Band"]))
    assert known.tolist() == [[True, True, True, False, False]]
    # bins of 20-40 and 40-100 GeV belong to 20-50 and 50-150 GeV
    expected = 200 * PowerLawFractions(BANDS, SurveyExposure().relative).fractions([2.3])[0]
    counts, error = (np.asarray(result[f"{n}Counts_Band"])[0, :3] for n in ("", "Unc_"))
    assert np.all(np.abs(counts - expected[:3]) < 3 * error)


def test_nothing_is_known_without_a_fit():
    sky_map, sources, _ = lonely_sources(10, nside=1)
    result = measured(sky_map, sources[:0])
    assert result["Counts_Band"].shape == (0, 5)
    assert len(result[LOG_LIKELIHOOD]) == 0
    assert RANGE == (BANDS[0], BANDS[-1])
