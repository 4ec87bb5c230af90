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
from gammapy.maps import Map
from made_maps import binned_map, healpix_pixels, wcs_pixels
from made_runs import make_run, with_pixels
from made_sources import RANGE, as_events, background_around, sources_at
from mocpy import MOC

from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.maps.patches import PatchGrid
from astro_unetloc.maps.photons import DiscFootprint
from astro_unetloc.measurement.limits import detection_limits
from astro_unetloc.measurement.predicted import compare_counts
from astro_unetloc.products import (
    limit_map_bytes,
    moc_bytes,
    probability_image,
    probability_map_bytes,
    residual_map_bytes,
)
from astro_unetloc.sphere import frame_rotation

SKY_DEG2 = 41252.96
PATCH_DEG2 = SKY_DEG2 / 768

# Probability maps


def read(content, number=1):
    """Header and data of an HDU of a valid file."""
    with fits.open(io.BytesIO(content), checksum=True) as hdus:
        hdus.verify("exception")
        return hdus[number].header, hdus[number].data


def read_probability(run):
    """Pixels and values of the probability map of a run, and directions of the pixels."""
    header, data = read(probability_map_bytes(run))
    assert (header["ORDERING"], header["COORDSYS"], header["NSIDE"]) == ("NESTED", "G", 1024)
    assert (header["PIXTYPE"], header["INDXSCHM"]) == ("HEALPIX", "EXPLICIT")
    assert (header["TTYPE1"], header["TTYPE2"]) == ("PIXEL", "PROBABILITY")
    assert (header["MODEL"], header["SEED"]) == ("lat-10gev", 3)  # those of the run
    pixels = data["PIXEL"].astype(int)
    vectors = np.stack(healpy.pix2vec(1024, pixels, nest=True), axis=-1)
    return pixels, data["PROBABILITY"].astype(float), vectors


def image_around(patch, n, pixel_deg):
    """Pixels of a square image around the centre of a patch."""
    lon, lat = healpy.vec2ang(PatchGrid().centers[patch], lonlat=True)
    wcs = make_wcs((n, n), lon=float(lon[0]), lat=float(lat[0]), pixel_deg=pixel_deg)
    return wcs_pixels(wcs, (n, n))


def test_probability_map_covers_each_direction_once():
    run = make_run([300, 301], [0.25, 0.75])
    pixels, values, vectors = read_probability(run)
    assert np.all(np.diff(pixels) > 0)
    owner = run.patches.grid.owner(vectors)
    np.testing.assert_array_equal(values, np.where(owner == 300, 0.25, 0.75))
    area = len(pixels) * healpy.nside2pixarea(1024, degrees=True)
    assert area == pytest.approx(2 * PATCH_DEG2, rel=0.1)


def test_probability_map_has_the_pixels_of_the_patch():
    run = make_run([400])
    run.probability[0, 90, 70] = 0.9
    _, values, vectors = read_probability(run)
    x, y = run.patches.grid.plane(400).pixel_from_vectors(vectors[values > 0])
    assert len(x) >= 1
    np.testing.assert_array_equal(np.rint([x, y]).T, [[70, 90]] * len(x))


def test_unobserved_sky_is_not_in_the_map():
    runs = (make_run([400], covered=rows) for rows in (slice(80, None), slice(None)))
    half, whole = (len(read_probability(run)[0]) for run in runs)
    assert 0.3 < half / whole < 0.7
    assert len(read_probability(make_run([]))[0]) == 0


def test_healpy_reads_the_probability_map(tmp_path):
    (tmp_path / "p.fits").write_bytes(probability_map_bytes(make_run([400], 0.25)))
    sky, header = healpy.read_map(tmp_path / "p.fits", h=True, nest=None)
    lon, lat = healpy.vec2ang(PatchGrid().centers[400], lonlat=True)
    assert dict(header)["ORDERING"] == "NESTED"
    assert sky[healpy.ang2pix(1024, lon, lat, lonlat=True, nest=True)] == 0.25
    assert healpy.npix2nside(len(sky)) == 1024


# In the pixels of the input


@pytest.mark.parametrize(("frame", "projection"), [("galactic", "ZEA"), ("icrs", "TAN")])
def test_image_has_the_wcs_of_the_input_and_the_peak_where_it_is(frame, projection):
    peak = PatchGrid().plane(400).vectors_from_pixel(70.0, 89.0)
    place = SkyCoord(*peak, representation_type="cartesian", frame="galactic")
    corner = place.transform_to(frame).spherical
    wcs = make_wcs((40, 50), lon=corner.lon.deg + 0.3, lat=corner.lat.deg, pixel_deg=0.05,
                   projection=projection, frame=frame)  # fmt: skip
    run = make_run([400], **with_pixels(wcs_pixels(wcs, (40, 50))))
    run.probability[0, 88:91, 69:72] = 0.9
    content = probability_map_bytes(run)
    assert len(read(content)[1]) > 1000
    header, image = read(content, 0)
    assert header["MODEL"] == "lat-10gev"
    assert image.shape == (40, 50)
    y, x = np.nonzero(image > 0.5)
    found = WCS(header).pixel_to_world(x.mean(), y.mean())
    assert found.separation(place) < 0.05 * u.deg
    assert 0.5 < len(x) * 0.05**2 / (9 * 0.078**2) < 1.5


def test_image_is_nan_where_nothing_was_searched():
    run = make_run([400], 0.5, covered=slice(80, None))
    image = probability_image(run.patches, run.probability, image_around(400, 300, 0.1))
    assert set(np.unique(image[np.isfinite(image)])) == {np.float32(0.5)}
    assert 0.3 < np.isfinite(image).sum() * 0.01 / (PATCH_DEG2 / 2) < 1.7
    assert np.isnan(image[:100]).all()


def test_coarse_pixels_lose_no_source_and_may_lie_off_the_sky():
    run = make_run([400])
    run.probability[0, 85, 75] = 0.9
    all_sky = wcs_pixels(make_wcs((90, 180), pixel_deg=2.0, projection="AIT"), (90, 180))
    for pixels in (image_around(400, 8, 1.0), all_sky):
        image = probability_image(run.patches, run.probability, pixels)
        assert (image == np.float32(0.9)).sum() == 1
    assert 3 < np.isfinite(image).sum() < 60


@pytest.mark.parametrize("pixels", [None, healpix_pixels(64, False, "galactic")])
def test_input_without_a_wcs_has_no_image(pixels):
    assert read(probability_map_bytes(make_run([400], **with_pixels(pixels))), 0)[1] is None


# Detection limits


def test_limits_are_a_map_of_the_searched_cells():
    center = PatchGrid().centers[400]
    photons = background_around(center[None], 17.0, np.random.default_rng(1), radius_deg=9.0)
    sky_map, fluxes = as_events(photons, exposure=SurveyExposure()), (10.0, 1000.0)
    model = SimpleNamespace(half_found={0.2: 4.5}.get, flux_range=fluxes, energy_range=RANGE)
    parts = {"sky_map": sky_map, "model": model, "threshold": 0.2}
    run = make_run([400], covered=slice(80, None), sources=sources_at(np.zeros((0, 3))), **parts)
    header, data = read(limit_map_bytes(run))
    assert (header["NSIDE"], header["MODEL"], header["SQRT_TS"]) == (64, "lat-10gev", 4.5)
    assert header["TUNIT3"] == "ph cm-2 s-1"
    vectors = np.stack(healpy.pix2vec(64, data["PIXEL"].astype(int), nest=True), axis=-1)
    assert set(run.patches.grid.owner(vectors)) == {400}
    area = len(data) * healpy.nside2pixarea(64, degrees=True)
    assert area == pytest.approx(PATCH_DEG2 / 2, rel=0.15)
    counts, flux = detection_limits(sky_map, vectors, 4.5, flux_range=fluxes)
    np.testing.assert_allclose(data["NPRED_50"], counts, rtol=1e-5)
    np.testing.assert_allclose(data["FLUX_50"], flux, rtol=1e-5)
    run.region = DiscFootprint(center, 2.0)
    assert 0 < len(read(limit_map_bytes(run))[1]) < len(data)


# Predicted counts


@pytest.mark.parametrize(
    "pixels",
    [
        image_around(400, 60, 0.1),
        healpix_pixels(16, False, "galactic"),
        healpix_pixels(64, True, "icrs", np.arange(100, 400)),
    ],
)
def test_gammapy_and_healpy_read_the_residual_map(tmp_path, pixels):
    area = pixels.area_deg2(np.arange(pixels.n_pixels))
    expected = np.tile(7.0 * area, (3, 1))
    counts = np.random.default_rng(1).poisson(expected).astype(np.float32)
    counts[:, 5] = np.nan
    sky_map = binned_map(counts, pixels, [10.0, 20.0, 50.0, 150.0])
    run = make_run([400], predicted=compare_counts(sky_map, 0.25 * expected, 0.75 * expected))
    path = tmp_path / "r.fits"
    path.write_bytes(residual_map_bytes(run))
    maps = {name: Map.read(path, hdu=name) for name in run.predicted.maps()}
    for name, one in maps.items():
        made = run.predicted.maps()[name]
        data = one.data.reshape(*one.data.shape[: len(made.geom.axes)], -1)
        data = data if pixels.is_image or pixels.numbers is None else data[..., pixels.numbers]
        np.testing.assert_array_equal(data.reshape(made.data.shape), made.data, name)
        assert one.geom.frame == made.geom.frame, name
    axis = maps["RESIDUAL"].geom.axes["energy"]
    np.testing.assert_allclose(axis.edges.to_value("GeV"), [10.0, 20.0, 50.0, 150.0])
    with fits.open(path, checksum=True) as hdus:
        assert {hdus[name].header["MODEL"] for name in maps} == {"lat-10gev"}
    if not pixels.is_image:
        index = 40 if pixels.numbers is None else pixels.numbers[40]
        for row in range(3):
            sky = healpy.read_map(path, hdu="SOURCES", field=row, nest=None)
            assert sky[index] == np.float32(0.25 * 7.0 * area[40])


# The searched area


def read_moc(run):
    """The MOC of a run, and its area in deg2."""
    content = moc_bytes(run)
    header = read(content)[0]
    assert (header["PIXTYPE"], header["ORDERING"], header["COORDSYS"]) == ("HEALPIX", "NUNIQ", "C")
    assert (header["MOCVERS"], header["MOCDIM"], header["MODEL"]) == ("2.0", "SPACE", "lat-10gev")
    moc = MOC.from_fits(io.BytesIO(content))
    assert moc.max_order == header["MOCORDER"]
    return moc, moc.sky_fraction * SKY_DEG2


def test_moc_is_the_area_that_the_patches_own():
    moc, area = read_moc(make_run([300, 301]))
    assert area == pytest.approx(2 * PATCH_DEG2, rel=0.1)
    assert len(moc.uniq_hpx) < 0.1 * len(moc.flatten())  # whole cells are merged
    vectors = np.stack(healpy.pix2vec(1024, moc.flatten().astype(int), nest=True), axis=-1)
    assert set(PatchGrid().owner(vectors @ frame_rotation("icrs").T)) == {300, 301}


def test_moc_ends_where_the_region_ends():
    region = DiscFootprint(PatchGrid().centers[400], 1.0)
    assert read_moc(make_run([400], region=region))[1] == pytest.approx(np.pi, rel=0.02)


def test_moc_of_the_whole_sky_and_of_nothing():
    assert read_moc(make_run(range(768)))[1] == pytest.approx(SKY_DEG2)
    assert read_moc(make_run([]))[1] == 0
