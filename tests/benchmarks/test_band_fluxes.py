"""Fluxes by band are those of 3FHL, as benchmarks/band_fluxes.py compares them."""

import numpy as np
import pytest

from astro_unetloc import find_sources, read_catalog


@pytest.mark.filterwarnings("ignore:the energy bins .* lie across the model's band edges")
def test_band_fluxes_of_the_crab_are_those_of_3fhl_and_add_up(import_benchmark, real_data):
    benchmark = import_benchmark("band_fluxes")
    path, companions = benchmark.FIELDS["Crab"]
    assert not companions
    catalog = find_sources(real_data / path)
    reference = read_catalog(real_data / "catalogs" / "gll_psch_v13.fit.gz")
    result = benchmark.band_fluxes(catalog, reference)
    brightest = np.nanargmax(result["ours"][:, 0])
    ratio = result["ours"][brightest] / result["theirs"][brightest]
    # the bins of the map are others than the bands
    np.testing.assert_allclose(ratio[:2], 1, atol=0.05)
    np.testing.assert_allclose(ratio, 1, atol=0.25)
    summed, flux = result["total"][brightest]
    assert summed == pytest.approx(flux, rel=0.03)
    assert result["alone"][brightest]
