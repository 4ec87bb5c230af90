"""Maps below 10 GeV, which the model lat-500mev reads."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

from astro_unetloc import find_sources, match_catalogs, read_catalog, simulate_sky
from astro_unetloc.evaluation import evaluate, found_scores
from astro_unetloc.maps import SkyMap
from astro_unetloc.pixelization import HealpixPixelization
from astro_unetloc.pretrained import load_model
from astro_unetloc.sky_files import healpix_cube

CENTER = SkyCoord(75 * u.deg, 40 * u.deg, frame="galactic")
EDGES = load_model("lat-500mev").band_edges


@pytest.fixture(scope="module")
def field():
    """A HEALPix cube of a cone above 0.5 GeV, and its true sources."""
    events, truth = simulate_sky(
        center=CENTER, radius=9 * u.deg, years=8, energy_range=EDGES[[0, -1]], rng=1010
    )
    counts = healpix_cube(events.events, EDGES, 256).astype(float)
    pixels = HealpixPixelization(256, False, "galactic")
    counts[:, ~events.covers(pixels.centers(np.arange(pixels.n_pixels)))] = np.nan
    return SkyMap(counts=counts, pixels=pixels, energy_edges=EDGES), truth


@pytest.mark.filterwarnings("ignore:pixels of 0.23 deg")
def test_sources_of_a_map_from_half_a_gev_on_are_found(field):
    sky_map, truth = field
    catalog = find_sources(sky_map)
    assert catalog.meta["MODEL"] == "lat-500mev"
    assert (catalog.meta["FLUXEMIN"], catalog.meta["FLUXEMAX"]) == (1, 100)
    assert evaluate(catalog, truth).purity > 0.9
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
    sky_map = SkyMap(
        counts=counts[None],
        pixels=HealpixPixelization(128, False, "galactic"),
        energy_edges=np.array([2.0, 20.0]),
    )
    region = SkyCoord(0 * u.deg, 90 * u.deg, frame="galactic"), 25 * u.deg
    with pytest.warns(UserWarning, match="lie across the model's band edges"):
        catalog = find_sources(sky_map, region=region, threshold=0.8, measure=False)
    assert len(catalog) > 40
    known = read_catalog(real_data / "catalogs/4fgl_dr3_reduced.fits")
    result = match_catalogs(catalog, known, radius=0.5)
    assert len(result.catalog_unmatched) < 0.1 * len(catalog)
