import healpy
import numpy as np
import pytest
from made_files import event_hdus
from made_maps import refuse

from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.maps.photons import DiscFootprint, MaskFootprint, estimate_footprint
from astro_unetloc.maps.read import read_map
from astro_unetloc.sphere import lonlat_from_vectors, vectors_from_lonlat


def test_the_northern_events_cover_the_northern_sky(real_data):
    sky_map = read_map(real_data / "2fhl/fermi_2fhl_events_north.fits.gz")
    vectors = np.stack(healpy.pix2vec(64, np.arange(49152), nest=False), axis=-1)
    _, lat = lonlat_from_vectors(vectors)
    covered = sky_map.covers(vectors)
    assert covered[lat > 0.7].all()
    assert not covered[lat < -1].any()


@pytest.mark.parametrize("threshold_gev, margin_deg", [(10, 0.2), (50, 0.6)])
def test_the_events_of_the_galactic_centre_cover_their_box(real_data, threshold_gev, margin_deg):
    sky_map = read_map(real_data / "gc/fermi-3fhl-gc-events.fits.gz")
    events = sky_map.events.select(sky_map.events.energy > threshold_gev)
    footprint = estimate_footprint(events.vectors)
    lon, lat = np.meshgrid(np.linspace(-14, 14, 281), np.linspace(-9, 9, 181))
    covered = footprint.covers(vectors_from_lonlat(lon, lat))
    assert covered[(np.abs(lon) < 10 - margin_deg) & (np.abs(lat) < 5 - margin_deg)].all()
    assert not covered[(np.abs(lon) > 10 + margin_deg) | (np.abs(lat) > 5 + margin_deg)].any()


@pytest.mark.parametrize("n_photons", [3000, 300_000])
def test_photons_from_everywhere_cover_everything(n_photons, rng):
    vectors = rng.normal(size=(n_photons, 3))
    footprint = estimate_footprint(vectors / np.linalg.norm(vectors, axis=1)[:, None])
    assert footprint.mask.all()


def test_no_photons_cover_nothing_and_one_covers_its_place():
    assert not estimate_footprint(np.empty((0, 3))).covers(np.eye(3)).any()
    one = estimate_footprint(np.array([[0.0, 0.0, 1.0]]))
    assert isinstance(one, MaskFootprint)
    assert one.covers(np.array([0.0, 0.0, 1.0]))
    assert not one.covers(np.array([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("text", ["CIRCLE(83.63,22.01,15)", "circle( 83.63 , 22.01 , 15.0 )"])
def test_a_circle_in_the_header_is_the_footprint(text):
    hdus = event_hdus(
        [83.63, 84],
        [22, 23],
        [2e4, 3e4],
        cuts=[("POS(RA,DEC)", "deg", text), ("ENERGY", "MeV", "10000:500000")],
    )
    sky_map = read_map(hdus)
    assert isinstance(sky_map.footprint, DiscFootprint)
    assert sky_map.footprint.radius_deg == 15
    lon, lat = lonlat_from_vectors(sky_map.footprint.center)
    assert (float(lon), float(lat)) == pytest.approx((184.56, -5.78), abs=0.02)  # the Crab
    away = vectors_from_lonlat(np.array([184.56, 184.56]), np.array([-5.78 + 14.9, -5.78 + 15.1]))
    np.testing.assert_array_equal(sky_map.covers(away), [True, False])
    np.testing.assert_array_equal(sky_map.energy_edges, [10, 500])


def test_a_circle_that_the_photons_contradict_is_not_used(rng):
    ra, dec = 83.63 + rng.uniform(-3, 3, 2000), 22.01 + rng.uniform(-3, 3, 2000)
    cuts = [("POS(RA,DEC)", "deg", "CIRCLE(93.63,22.01,8)"), ("ENERGY", "MeV", "10000:500000")]
    with pytest.warns(UnetlocWarning, match="of 2,000 photons lie outside the circle of the head"):
        sky_map = read_map(event_hdus(ra, dec, np.full(2000, 2e4), cuts=cuts))
    assert sky_map.covers(sky_map.events.vectors).all()


def test_an_empty_event_list_is_valid():
    sky_map = read_map(event_hdus([], [], [], cuts=[("ENERGY", "MeV", "10000:500000")]))
    assert sky_map.n_photons == 0
    assert not sky_map.covers(np.eye(3)).any()


def test_an_energy_range_cuts_events_exactly_and_without_one_the_ends_are_round():
    hdus = event_hdus([0, 1, 2, 3, 4], [0] * 5, [10030, 20000, 49999, 50000, 1783000])
    np.testing.assert_allclose(read_map(hdus).energy_edges, [10, 1800])
    sky_map = read_map(hdus, energy_range=(20, 50))
    np.testing.assert_allclose(sky_map.events.energy, [20, 49.999])
    np.testing.assert_array_equal(sky_map.energy_edges, [20, 50])


def test_events_that_cannot_be_used_are_refused():
    hdus = event_hdus([0], [0], [2e4], cuts=[("ENERGY", "MeV", "10000:100000")])
    refuse(hdus, "must overlap the 10 to 100 GeV of the events", energy_range=(200, 300))
    hdus = event_hdus([0], [0], [1e4], cuts=[("POS(RA,DEC)", "deg", "CIRCLE(a,b,c)")])
    refuse(hdus, r"DSVAL1 must be CIRCLE\(ra,dec,radius\)")
    refuse(event_hdus([0, np.nan], [0, 0], [1e4, 1e4]), "finite positions .* got 1 without")
    hdus[1].columns["RA"].name = "DETX"
    refuse(hdus, "ENERGY, RA and DEC; got ENERGY, DETX, DEC")
