"""The catalogue as a `SourceCatalog` of gammapy."""

import astropy.units as u
import numpy as np
import pytest
from gammapy.catalog import CATALOG_REGISTRY
from made_catalogs import META, make_catalog, make_measured, make_sources
from regions import EllipseSkyRegion

from astro_unetloc import read_catalog, register_catalog, to_gammapy_models, to_regions
from astro_unetloc.catalog.gammapy import SourceCatalogUNL

EDGES = (10.0, 20.0, 50.0, 150.0, 500.0)


@pytest.fixture
def catalog():
    """Three sources: one of many counts, one of few, one that was not measured."""
    counts = np.array([[400.0, 100, 30, 5], [3, 0, 0, np.nan], [np.nan] * 4])
    error = np.sqrt(counts + 1)
    error[counts == 0] = 0.5
    values = {"Counts_Band": counts, "Unc_Counts_Band": error}
    values |= {"Flux_Band": 2e-12 * counts, "Unc_Flux_Band": 2e-12 * error}
    known = np.array([1.0, 1.0, np.nan])
    values |= {"Flux": 1e-9 * known, "Unc_Flux": 1e-10 * known, "Spectral_Index": 2.4 * known}
    for percent, size in ((68, 0.02), (95, 0.03)):
        values |= {f"Conf_{percent}_SemiMajor": size * known, f"Conf_{percent}_PosAng": 20 * known}
        values[f"Conf_{percent}_SemiMinor"] = 0.5 * size * known
    edges = {"BANDS": " ".join(map(str, EDGES)), "FLUXEMIN": 10.0, "FLUXEMAX": 1000.0}
    sources = make_sources(3)
    sources["Score"] = [0.99, 0.9, 0.8]
    return make_catalog(sources, values=values, meta=META | edges)


def test_catalog_is_registered_once_and_reads_a_file(tmp_path, catalog):
    assert register_catalog() is register_catalog() is CATALOG_REGISTRY.get_cls("unl")
    assert CATALOG_REGISTRY.count(SourceCatalogUNL) == 1
    catalog.write(tmp_path / "c.fits")
    for given in (catalog, tmp_path / "c.fits", str(tmp_path / "c.fits")):
        found = SourceCatalogUNL(given)
        assert [source.name for source in found] == list(catalog["Source_Name"])
        assert found.positions.separation(catalog["skycoord"]).max() < 1e-6 * u.arcsec
    assert "sources: 3" in str(found)
    with pytest.raises(FileNotFoundError, match="a file or one of "):
        read_catalog("unl")
    with pytest.raises(ValueError, match="find_sources was expected; got the columns skycoord"):
        SourceCatalogUNL(catalog["skycoord"])


@pytest.mark.filterwarnings("ignore:models leave out")
def test_models_are_those_of_the_catalog(catalog):
    found, expected = SourceCatalogUNL(catalog), to_gammapy_models(catalog)
    assert found.to_models().to_dict() == expected.to_dict()
    name = catalog["Source_Name"][1]
    source = found[name]
    assert source.sky_model().name == source.name == name
    assert source.spectral_model().to_dict() == expected[1].spectral_model.to_dict()
    assert source.spatial_model().to_dict() == expected[1].spatial_model.to_dict()
    assert found[np.array([False, True, False])].to_models().names == [name]
    with pytest.raises(ValueError, match="models need the Flux"):
        found[2].sky_model()


def test_position_error_is_the_ellipse_of_the_regions(catalog):
    found = SourceCatalogUNL(catalog)
    expected = [r for r in to_regions(catalog) if isinstance(r, EllipseSkyRegion)]
    for source, ellipse in zip(found, expected):
        error = source.position_error
        assert error.center.separation(ellipse.center) < 0.01 * u.arcsec
        assert (error.width - ellipse.width, error.height - ellipse.height) < (1e-6 * u.deg,) * 2
        assert error.angle.to_value("deg") == pytest.approx(ellipse.angle.to_value("deg"), abs=1e-4)
    assert found[2].position_error is None


def test_flux_points_are_the_bands_and_limits_where_ts_is_small(catalog):
    strong, faint = (source.flux_points for source in list(SourceCatalogUNL(catalog))[:2])
    np.testing.assert_allclose(strong.geom.axes["energy"].edges.to_value("GeV"), EDGES)
    flux = strong.flux.quantity.to_value("cm-2 s-1").ravel()
    np.testing.assert_allclose(flux, [8e-10, 2e-10, 6e-11, 1e-11], rtol=1e-5)
    error = strong.flux_err.quantity.to_value("cm-2 s-1").ravel()
    np.testing.assert_allclose(error, 2e-12 * np.sqrt([401, 101, 31, 6]), rtol=1e-5)
    assert not strong.is_ul.data.any()
    # that of many counts is Gaussian
    limit = strong.flux_ul.quantity.to_value("cm-2 s-1").ravel()
    np.testing.assert_allclose(limit[0], flux[0] + 1.645 * error[0], rtol=0.02)
    assert faint.geom.axes["energy"].nbin == 3
    assert faint.is_ul.data.ravel().tolist() == [False, True, True]
    # without counts and background 3.0, whatever is seen of one
    limit = faint.flux_ul.quantity.to_value("cm-2 s-1").ravel()
    np.testing.assert_allclose(limit[1:], 2.9957 * 2e-12, rtol=1e-4)


def test_source_without_band_fluxes_has_no_flux_points(catalog):
    with pytest.raises(ValueError, match=r"need Flux_Band of UNL .*; find it with an exposure"):
        _ = SourceCatalogUNL(catalog)[2].flux_points_table
    del catalog.meta["BANDS"]
    with pytest.raises(ValueError, match="BANDS in the header"):
        _ = SourceCatalogUNL(catalog)[0].flux_points_table


def test_info_lists_what_is_known(catalog):
    catalog["Flags"] = np.array([18, 0, 0], "i2")
    source = SourceCatalogUNL(catalog)[0]
    assert str(source) == source.info()
    lines = dict(line.split(":", 1) for line in source.info().splitlines())
    lines = {name.strip(): text.strip() for name, text in lines.items()}
    assert lines["Source_Name"] == source.name
    assert lines["Flux"] == "1e-09 +- 1e-10 ph cm-2 s-1"
    assert lines["Counts_Band"] == "400 +- 20, 100 +- 10, 30 +- 5.6, 5 +- 2.4"
    assert lines["Flags"] == "blended, low_latitude"
    assert "Npred" not in lines
    assert "Flags               : none" in SourceCatalogUNL(make_measured(1))[0].info()
