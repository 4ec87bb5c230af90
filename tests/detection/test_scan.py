"""The scan, and the finders that use it, through the search."""

from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from made_maps import image_pixels
from made_sources import as_counts
from made_telescope import make_field

from astro_unetloc import find_sources, match_catalogs, read_catalog
from astro_unetloc.catalog.columns import COLUMNS, has_flag
from astro_unetloc.catalog.table import numbers_of
from astro_unetloc.evaluation.metrics import evaluate
from astro_unetloc.exceptions import InputError
from astro_unetloc.pipeline import detect
from astro_unetloc.simulation.sky import simulate_sky

CENTER = SkyCoord(100 * u.deg, 35 * u.deg, frame="galactic")
PLACE = {"lon": CENTER.l.deg, "lat": CENTER.b.deg}
EDGES = np.array([10.0, 20.0, 50.0, 150.0, 500.0, 2000.0])
FINDERS = ("scan", "both")


@pytest.fixture(scope="module")
def simulated():
    """Photons of a cone above 10 GeV and the true sources."""
    return simulate_sky(center=CENTER, radius=14 * u.deg, years=10, rng=11)


@pytest.fixture(scope="module")
def runs(simulated):
    """A search with each finder."""
    return {name: detect(simulated[0], finder=name, threshold=0.1) for name in ("unet", *FINDERS)}


@pytest.mark.parametrize("finder", FINDERS)
def test_finds_what_the_network_finds(simulated, runs, finder):
    network = evaluate(runs["unet"].catalog, simulated[1])
    scores = evaluate(runs[finder].catalog, simulated[1])
    assert scores.average_precision > network.average_precision - 0.04
    assert scores.median_offset_deg < network.median_offset_deg + 0.004


def test_catalogue_of_the_scan_has_all_columns(runs):
    catalog = runs["scan"].catalog
    assert [name for name in catalog.colnames if name != "skycoord"] == [s.name for s in COLUMNS]
    assert np.isnan(numbers_of(catalog, "Probability")).all()
    assert np.isfinite(numbers_of(catalog, "Log_Odds")).all()
    assert numbers_of(catalog, "Coverage").min() > 0.2
    assert catalog.meta["FINDER"] == "scan"
    assert "scan" in runs["scan"].summary()


def test_both_know_the_probability_of_the_network(runs):
    catalog = runs["both"].catalog
    probability = numbers_of(catalog, "Probability")
    assert np.all((probability >= 0) & (probability <= 1))
    sure = numbers_of(catalog, "Score") > 0.99
    assert np.mean(probability[sure] > 0.5) > 0.9


def test_region_of_a_scan_holds_the_sources_of_the_whole_map(simulated, runs):
    region = CENTER, 5 * u.deg
    catalog = find_sources(simulated[0], finder="scan", threshold=0.1, region=region)
    whole = runs["scan"].catalog
    inside = whole["skycoord"].separation(CENTER) <= region[1]
    assert catalog["Source_Name"].tolist() == whole["Source_Name"][inside].tolist()


def test_scan_does_not_depend_on_the_order_of_events(simulated, rng):
    sky_map = simulated[0]
    order = rng.permutation(len(sky_map.events))
    shuffled = replace(sky_map, events=sky_map.events.select(order))
    first, second = (find_sources(m, finder="scan") for m in (sky_map, shuffled))
    assert first["Source_Name"].tolist() == second["Source_Name"].tolist()
    np.testing.assert_allclose(first["Sqrt_TS"], second["Sqrt_TS"], rtol=1e-3)


def test_counts_in_pixels_show_what_the_events_show(simulated, runs):
    pixels = image_pixels(300, **PLACE)
    sky_map = as_counts(simulated[0].events, pixels, EDGES)
    catalog = find_sources(sky_map, finder="scan", threshold=0.8)
    sure = runs["scan"].catalog
    sure = sure[numbers_of(sure, "Score") > 0.98]
    matches = match_catalogs(sure, catalog)
    assert matches.pairs["matched"].sum() > 0.9 * len(sure)


@pytest.mark.parametrize("wider", [1.0, 1.04])
def test_bright_source_is_not_two_if_the_psf_differs_a_little(wider):
    psf, sources = 0.06 * wider * u.deg, [(0.3, -0.2, 5000, 2.3)]
    field = make_field(2, psf=psf, sources=sources, n_background=5000)
    catalog = find_sources(field.events(), finder="scan", psf=0.06 * u.deg)
    near = catalog["skycoord"].separation(field.truth["skycoord"][0]) < 0.1 * u.deg
    assert catalog["Npred"][near].tolist() == pytest.approx([5000], rel=0.05)


@pytest.mark.parametrize("kind", ["events", "counts", "dataset"])
def test_field_of_another_telescope(kind, tmp_path):
    field = make_field(1)
    made = getattr(field, kind)()
    options = {} if kind == "dataset" else {"psf": field.psf}
    catalog = find_sources(made, finder="scan", **options)
    true = field.truth["skycoord"]
    separation = true[:, None].separation(catalog["skycoord"]).deg
    assert len(catalog) <= len(true) + 1
    nearest = separation.argmin(axis=1)
    assert np.all(separation.min(axis=1) < numbers_of(catalog, "Conf_95_SemiMajor")[nearest])
    counts, error = (numbers_of(catalog, n)[nearest] for n in ("Npred", "Unc_Npred"))
    assert np.all(np.abs(counts - field.truth["Npred"]) < 4 * error)
    assert catalog["Class"].mask.all()
    assert not has_flag(catalog, "fit_failed").any()
    path = tmp_path / "catalog.fits"
    catalog.write(path)
    assert len(read_catalog(path)) == len(catalog)


def test_another_telescope_needs_its_psf():
    with pytest.raises(InputError, match="needs the PSF of the telescope; got photons of HESS"):
        find_sources(make_field(1, n_background=500).events(), finder="scan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"finder": "eye"}, "finder must be one of unet, scan, both; got 'eye'"),
        ({"finder": "scan", "measure": False}, "finder scan fits its sources"),
    ],
)
def test_bad_finders_are_refused_in_one_line(simulated, options, message):
    with pytest.raises(InputError, match=message):
        find_sources(simulated[0], **options)


@pytest.mark.parametrize("finder", FINDERS)
def test_map_without_photons_has_no_sources(finder):
    pixels = image_pixels(100, **PLACE)
    none = simulate_sky(center=CENTER, radius=1 * u.deg, rng=0)[0].events.select(np.zeros(0, int))
    with pytest.warns(match="no photons"):
        catalog = find_sources(as_counts(none, pixels, EDGES), finder=finder)
    assert len(catalog) == 0
    assert "Log_Odds" in catalog.colnames


def test_bands_without_photons_are_no_obstacle(simulated):
    soft = simulated[0].events
    soft = replace(simulated[0], events=soft.select(soft.energy < 100.0))
    catalog = find_sources(soft, finder="scan")
    assert len(catalog) > 20
