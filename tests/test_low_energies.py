"""Maps below 10 GeV, which the model lat-500mev reads."""

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import vstack
from made_maps import binned_map, healpix_pixels
from made_sources import photons_of, sources_at

from astro_unetloc import find_sources, match_catalogs, read_catalog, simulate_sky
from astro_unetloc.evaluation.metrics import evaluate, found_scores
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.simulation.sky import healpix_cube
from astro_unetloc.sphere import separation_deg
from astro_unetloc.unet.model import load_model

CENTER = SkyCoord(75 * u.deg, 40 * u.deg, frame="galactic")
EDGES = load_model("lat-500mev").band_edges
PIXELS = healpix_pixels(256, False, "galactic")


@pytest.fixture(scope="module")
def field():
    """A HEALPix cube of a cone above 0.5 GeV, and its true sources."""
    events, truth = simulate_sky(
        center=CENTER, radius=9 * u.deg, years=8, energy_range=EDGES[[0, -1]], rng=1010
    )
    counts = healpix_cube(events.events, EDGES, 256).astype(float)
    counts[:, ~events.covers(PIXELS.centers(np.arange(PIXELS.n_pixels)))] = np.nan
    return binned_map(counts=counts, pixels=PIXELS, energy_edges=EDGES), truth


@pytest.mark.parametrize("photons_each", [500.0, pytest.param(3000.0, marks=pytest.mark.slow)])
def test_lonely_sources_on_a_flat_background_are_measured_within_their_errors(photons_each):
    rng = np.random.default_rng(0)
    true = np.stack(healpy.pix2vec(4, np.arange(192)), axis=-1)
    band = tuple(EDGES[[0, -1]])
    # 300 per square degree, with the spectrum of diffuse emission
    density = 300 * np.diff(EDGES**-1.45) / np.diff(EDGES[[0, -1]] ** -1.45)
    skies = []
    for _ in range(2):
        counts = healpix_cube(photons_of(true, photons_each, rng, band=band), EDGES, 256)
        counts += rng.poisson(density[:, None] * PIXELS.pixel_size_deg**2, counts.shape)
        sky_map = binned_map(counts=counts, pixels=PIXELS, energy_edges=EDGES)
        ranges = {"energy_range": band, "flux_range": (1.0, 100.0)}
        skies.append(measure_sources(sources_at(true), sky_map, **ranges))
    found = vstack(skies)
    assert np.median(found["Npred"]) == pytest.approx(photons_each, rel=0.03)
    pull = (found["Npred"] - photons_each) / found["Unc_Npred"]
    assert 0.8 < np.diff(np.percentile(pull, [16, 84]))[0] / 2 < 1.2
    offset = separation_deg(
        np.concatenate([sky.vectors for sky in skies]), np.concatenate([true, true])
    )
    for percent in (68, 95):  # nearly circles: the radius is that of the same area
        major, minor = (found[f"Conf_{percent}_Semi{axis}"].value for axis in ("Major", "Minor"))
        held = np.mean(offset < np.sqrt(major * minor))
        assert held == pytest.approx(percent / 100, abs=0.08)


@pytest.mark.filterwarnings("ignore:pixels of 0.23 deg")
def test_sources_of_a_map_from_half_a_gev_on_are_found(field):
    sky_map, truth = field
    catalog = find_sources(sky_map)
    assert catalog.meta["MODEL"] == "lat-500mev"
    assert (catalog.meta["FLUXEMIN"], catalog.meta["FLUXEMAX"]) == (1, 100)
    assert catalog["Score"].min() >= load_model("lat-500mev").threshold
    assert catalog["Probability"].min() >= load_model("lat-500mev").calibration.least_probability
    # what lies beyond the border is no truth
    center = np.array(CENTER.cartesian.xyz)
    within = evaluate(catalog, truth, region=lambda v: separation_deg(v, center) < 8.4)
    assert within.purity > 0.85  # of 28; 0.95 on whole skies
    found = np.isfinite(found_scores(catalog, truth, brightest=True))
    places = SkyCoord(truth["GLON"], truth["GLAT"], frame="galactic")
    inside = places.separation(CENTER) < 8.5 * u.deg
    point = inside & (truth["Radius"] == 0) & (truth["Flux"].value > 4e-10)
    assert point.sum() >= 5
    assert found[point].mean() > 0.75
    bright = np.argmax(truth["Flux"] * point)
    away = catalog["skycoord"].separation(places[bright])
    nearest = catalog[np.argmin(away)]
    assert nearest["Npred"] == pytest.approx(truth["Npred"][bright], rel=0.2)
    assert away.min() < 0.05 * u.deg


def test_real_photons_of_2_to_20_gev_come_from_known_sources(real_data):
    """The one map below 10 GeV at hand: one band, pixels of 0.46 deg, events of the best quarter.

    Pixels displace by up to 0.33 deg, so that sources within 0.5 deg are known ones; one random
    direction in seven has one so near.
    """
    with fits.open(real_data / "diffuse/fermi_counts_2_20gev_ucv_psf3_nside128.fits.gz") as hdus:
        counts = np.ravel(hdus[1].data["COUNTS"]).astype(int)
    sky_map = binned_map(
        counts=counts[None],
        pixels=healpix_pixels(128, False, "galactic"),
        energy_edges=np.array([2.0, 20.0]),
    )
    region = SkyCoord(0 * u.deg, 90 * u.deg, frame="galactic"), 25 * u.deg
    with pytest.warns(UserWarning, match="lie across the model's band edges"):
        catalog = find_sources(sky_map, region=region, threshold=0.9, measure=False)
    assert len(catalog) > 40
    known = read_catalog(real_data / "catalogs/4fgl_dr3_reduced.fits")
    result = match_catalogs(catalog, known, radius=0.5)
    assert len(result.catalog_unmatched) < 0.1 * len(catalog)
