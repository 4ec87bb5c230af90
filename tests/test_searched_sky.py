import io
from types import SimpleNamespace

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from conftest import make_wcs
from made_sources import as_events, background_around

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.maps.events import DiscFootprint
from astro_unetloc.maps.patches import PatchGrid
from astro_unetloc.maps.skymap import HealpixPixelization, image_pixelization
from astro_unetloc.measurement.limits import detection_limits
from astro_unetloc.products import (
    limit_map_bytes,
    moc_bytes,
    probability_image,
    probability_map_bytes,
)
from astro_unetloc.sphere import vectors_from_lonlat

PROVENANCE = {"MODEL": "lat-10gev", "SEED": 3, "TTYPE1": "not this"}

# Probability maps


def read_probability(content):
    with fits.open(io.BytesIO(content)) as hdus:
        hdus.verify("exception")
        header, data = hdus[1].header, hdus[1].data
        assert (header["ORDERING"], header["COORDSYS"], header["NSIDE"]) == ("NESTED", "G", 1024)
        return data["PIXEL"].astype(int), data["PROBABILITY"].astype(float)


def make_patches(index, covered=slice(None)):
    grid = PatchGrid()
    n = grid.config.read_pixels
    coverage = np.zeros((len(index), n, n, 1), np.float32)
    coverage[:, covered] = 1
    return SimpleNamespace(grid=grid, index=np.array(index, int), coverage=coverage)


def test_probability_map_covers_each_direction_once():
    patches = make_patches([300, 301])
    n = patches.coverage.shape[1]
    probability = np.stack([np.full((n, n), 0.25), np.full((n, n), 0.75)])
    pixels, values = read_probability(probability_map_bytes(patches, probability))
    assert np.all(np.diff(pixels) > 0)
    owner = patches.grid.owner(np.stack(healpy.pix2vec(1024, pixels, nest=True), axis=-1))
    np.testing.assert_array_equal(values, np.where(owner == 300, 0.25, 0.75))
    area = len(pixels) * healpy.nside2pixarea(1024, degrees=True)
    assert area == pytest.approx(2 * 41252.96 / 768, rel=0.1)


def test_probability_is_found_where_it_was():
    patches = make_patches([400])
    n = patches.coverage.shape[1]
    probability = np.zeros((1, n, n))
    probability[0, 90, 70] = 0.9
    pixels, values = read_probability(probability_map_bytes(patches, probability))
    vectors = np.stack(healpy.pix2vec(1024, pixels[values > 0], nest=True), axis=-1)
    x, y = patches.grid.plane(400).pixel_from_vectors(vectors)
    assert len(x) >= 1
    np.testing.assert_array_equal(np.rint(x), 70)
    np.testing.assert_array_equal(np.rint(y), 90)


def test_unobserved_sky_is_not_in_the_map():
    patches = make_patches([400], covered=slice(80, None))
    n = patches.coverage.shape[1]
    all_pixels, _ = read_probability(
        probability_map_bytes(make_patches([400]), np.zeros((1, n, n)))
    )
    pixels, _ = read_probability(probability_map_bytes(patches, np.zeros((1, n, n))))
    assert 0.3 < len(pixels) / len(all_pixels) < 0.7


def test_no_patches_make_an_empty_map():
    pixels, values = read_probability(probability_map_bytes(make_patches([]), np.zeros((0, 9, 9))))
    assert len(pixels) == len(values) == 0


def test_probability_map_says_what_it_is_and_who_made_it():
    patches = make_patches([400])
    probability = np.zeros(patches.coverage.shape[:3])
    content = probability_map_bytes(patches, probability, keywords=PROVENANCE)
    with fits.open(io.BytesIO(content), checksum=True) as hdus:
        header = hdus[1].header
        assert hdus[0].data is None
        assert (header["PIXTYPE"], header["INDXSCHM"]) == ("HEALPIX", "EXPLICIT")
        assert (header["TTYPE1"], header["TTYPE2"]) == ("PIXEL", "PROBABILITY")
        assert (header["MODEL"], header["SEED"]) == ("lat-10gev", 3)


def test_healpy_reads_the_probability_map(tmp_path):
    patches = make_patches([400])
    probability = np.full(patches.coverage.shape[:3], 0.25)
    (tmp_path / "p.fits").write_bytes(probability_map_bytes(patches, probability))
    sky, header = healpy.read_map(tmp_path / "p.fits", h=True, nest=None)
    lon, lat = healpy.vec2ang(patches.grid.centers[400], lonlat=True)
    assert dict(header)["ORDERING"] == "NESTED"
    assert sky[healpy.ang2pix(1024, lon, lat, lonlat=True, nest=True)] == 0.25
    assert healpy.npix2nside(len(sky)) == 1024


# In the pixels of the input


@pytest.mark.parametrize(("frame", "projection"), [("galactic", "CAR"), ("icrs", "TAN")])
def test_image_has_the_wcs_of_the_input_and_the_peak_where_it_is(frame, projection):
    patches = make_patches([400])
    probability = np.zeros(patches.coverage.shape[:3])
    probability[0, 88:91, 69:72] = 0.9
    peak = patches.grid.plane(400).vectors_from_pixel(70.0, 89.0)
    place = SkyCoord(*peak, representation_type="cartesian", frame="galactic")
    corner = place.transform_to(frame).spherical
    wcs = make_wcs((40, 50), lon=corner.lon.deg + 0.3, lat=corner.lat.deg, pixel_deg=0.05,
                   projection=projection, frame=frame)  # fmt: skip
    if projection == "CAR":  # which is along a meridian only at its equator
        wcs.wcs.crpix[1] -= wcs.wcs.crval[1] / 0.05
        wcs.wcs.crval[1] = 0
    pixels = image_pixelization(wcs, (40, 50))
    content = probability_map_bytes(patches, probability, pixels=pixels, keywords=PROVENANCE)
    with fits.open(io.BytesIO(content), checksum=True) as hdus:
        hdus.verify("exception")
        image, read = hdus[0].data, WCS(hdus[0].header)
        assert hdus[0].header["MODEL"] == "lat-10gev"
        assert len(hdus[1].data) > 1000
    assert image.shape == (40, 50)
    y, x = np.nonzero(image > 0.5)
    found = read.pixel_to_world(x.mean(), y.mean())
    assert found.separation(place) < 0.05 * u.deg
    assert 0.5 < len(x) * 0.05**2 / (9 * 0.078**2) < 1.5


def test_image_is_nan_where_nothing_was_searched():
    patches = make_patches([400], covered=slice(80, None))
    lon, lat = healpy.vec2ang(patches.grid.centers[400], lonlat=True)
    wcs = make_wcs((300, 300), lon=float(lon[0]), lat=float(lat[0]), pixel_deg=0.1)
    image = probability_image(
        patches, np.full(patches.coverage.shape[:3], 0.5), image_pixelization(wcs, (300, 300))
    )
    assert set(np.unique(image[np.isfinite(image)])) == {np.float32(0.5)}
    assert 0.3 < np.isfinite(image).sum() * 0.01 / (41252.96 / 768 / 2) < 1.7
    assert np.isnan(image[:100]).all()


def test_coarse_pixels_lose_no_source():
    patches = make_patches([400])
    probability = np.zeros(patches.coverage.shape[:3])
    probability[0, 85, 75] = 0.9
    lon, lat = healpy.vec2ang(patches.grid.centers[400], lonlat=True)
    wcs = make_wcs((8, 8), lon=float(lon[0]), lat=float(lat[0]), pixel_deg=1.0)
    image = probability_image(patches, probability, image_pixelization(wcs, (8, 8)))
    assert (image == np.float32(0.9)).sum() == 1


def test_all_sky_image_may_have_pixels_off_the_sky():
    wcs = make_wcs((90, 180), pixel_deg=2.0, projection="AIT")
    patches = make_patches([400])
    image = probability_image(
        patches, np.ones(patches.coverage.shape[:3]), image_pixelization(wcs, (90, 180))
    )
    assert 3 < np.nansum(image) < 60


def test_healpix_input_has_no_image():
    patches = make_patches([400])
    content = probability_map_bytes(
        patches, np.zeros(patches.coverage.shape[:3]),
        pixels=HealpixPixelization(64, False, "galactic"),
    )  # fmt: skip
    with fits.open(io.BytesIO(content)) as hdus:
        assert hdus[0].data is None


# Detection limits


def test_limits_are_a_map_of_the_searched_cells():
    patches = make_patches([400], covered=slice(80, None))
    center = patches.grid.centers[400]
    photons = background_around(center[None], 17.0, np.random.default_rng(1), radius_deg=9.0)
    sky_map = as_events(photons, exposure=SurveyExposure())
    content = limit_map_bytes(patches, sky_map, 4.5, flux_range=(10.0, 1000.0), keywords=PROVENANCE)
    with fits.open(io.BytesIO(content), checksum=True) as hdus:
        hdus.verify("exception")
        header, data = hdus[1].header, hdus[1].data
    assert (header["NSIDE"], header["MODEL"], header["SQRT_TS"]) == (64, "lat-10gev", 4.5)
    assert header["TUNIT3"] == "ph cm-2 s-1"
    vectors = np.stack(healpy.pix2vec(64, data["PIXEL"].astype(int), nest=True), axis=-1)
    assert set(patches.grid.owner(vectors)) == {400}
    area = len(data) * healpy.nside2pixarea(64, degrees=True)
    assert area == pytest.approx(41252.96 / 768 / 2, rel=0.15)
    counts, flux = detection_limits(sky_map, vectors, 4.5, flux_range=(10.0, 1000.0))
    np.testing.assert_allclose(data["NPRED_50"], counts, rtol=1e-5)
    np.testing.assert_allclose(data["FLUX_50"], flux, rtol=1e-5)
    cone = DiscFootprint(center, 2.0)
    content = limit_map_bytes(patches, sky_map, 4.5, flux_range=(10.0, 1000.0), cone=cone)
    with fits.open(io.BytesIO(content)) as hdus:
        assert 0 < len(hdus[1].data) < len(data)


# The searched area


def read_moc(content):
    """Order and number of the cells of a MOC, from their NUNIQ numbers."""
    with fits.open(io.BytesIO(content), checksum=True) as hdus:
        hdus.verify("exception")
        header, uniq = hdus[1].header, hdus[1].data["UNIQ"].astype(np.int64)
    assert (header["PIXTYPE"], header["ORDERING"], header["COORDSYS"]) == ("HEALPIX", "NUNIQ", "C")
    assert (header["MOCORDER"], header["MOCVERS"], header["MOCDIM"]) == (10, "2.0", "SPACE")
    order = (np.log2(uniq // 4) // 2).astype(int)
    return order, uniq - 4 * 4**order


def test_moc_is_the_area_that_the_patches_own():
    patches = make_patches([300, 301])
    order, cell = read_moc(moc_bytes(patches))
    assert np.sum(4.0**-order) * 41252.96 / 12 == pytest.approx(2 * 41252.96 / 768, rel=0.1)
    assert order.min() < 6  # whole cells are merged
    for level in np.unique(order):
        vectors = np.stack(healpy.pix2vec(2**level, cell[order == level], nest=True), axis=-1)
        place = SkyCoord(*vectors.T, representation_type="cartesian", frame="icrs").galactic
        owner = patches.grid.owner(place.cartesian.xyz.value.T)
        assert set(owner) <= {300, 301}


def test_no_cell_of_a_moc_lies_in_another_and_four_sisters_are_one():
    order, cell = read_moc(moc_bytes(make_patches([0, 1, 2, 3])))
    low, high = cell * 4 ** (10 - order), (cell + 1) * 4 ** (10 - order)
    rows = np.argsort(low)
    assert np.all(low[rows][1:] >= high[rows][:-1])
    _, sisters = np.unique(np.stack([order, cell // 4]), axis=1, return_counts=True)
    assert sisters.max() < 4


def test_moc_ends_where_the_region_ends():
    patches = make_patches([400])
    cone = DiscFootprint(patches.grid.centers[400], 1.0)
    order, _ = read_moc(moc_bytes(patches, cone=cone))
    assert np.sum(4.0**-order) * 41252.96 / 12 == pytest.approx(np.pi, rel=0.02)


def test_whole_sky_is_twelve_cells_and_nothing_is_none(monkeypatch):
    from astro_unetloc import products as searched_sky

    monkeypatch.setattr(searched_sky, "_ORDER", 4)
    everything = searched_sky._uniq_numbers(np.arange(12 * 4**4))
    np.testing.assert_array_equal(everything, np.arange(4, 16))
    assert len(searched_sky._uniq_numbers(np.zeros(0, int))) == 0


def test_mocpy_reads_the_same_sky(tmp_path):
    mocpy = pytest.importorskip("mocpy")
    patches = make_patches([400, 401])
    (tmp_path / "m.fits").write_bytes(moc_bytes(patches, keywords=PROVENANCE))
    moc = mocpy.MOC.from_fits(tmp_path / "m.fits")
    assert moc.max_order == 10
    order, cell = read_moc(moc_bytes(patches))
    np.testing.assert_array_equal(np.sort(moc.uniq_hpx), np.sort(4 * 4**order + cell))
    assert moc.sky_fraction == pytest.approx(2 / 768, rel=0.1)
    inside = vectors_from_lonlat(*healpy.vec2ang(patches.grid.centers[400], lonlat=True))[0]
    place = SkyCoord(*inside, representation_type="cartesian", frame="galactic").icrs.spherical
    assert moc.contains_lonlat(place.lon, place.lat).all()
