import gzip
import hashlib
import logging
import pickle
import shutil
from pathlib import Path

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from gammapy.datasets import MapDataset
from gammapy.maps import HpxGeom, HpxNDMap, Map, MapAxis
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import (
    EDGES_GEV,
    cube_hdus,
    ebounds,
    event_hdus,
    healpix_hdus,
    image_header,
    poisson_cube,
)
from made_maps import wcs_pixels

from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.maps.events import DiscFootprint, MaskFootprint, estimate_footprint
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat

COARSE = "ignore:pixels of .* coarser"


def all_photons(sky_map, seed=0):
    chunks = list(sky_map.photons(seed))
    if not chunks:
        return np.empty((0, 3)), np.empty(0)
    return np.concatenate([c.vectors for c in chunks]), np.concatenate([c.energy for c in chunks])


# ---------------------------------------------------------------------------- real files

REAL_FILES = {
    "gc/fermi-3fhl-gc-counts-cube.fits.gz": (32684, 0.05, (10, 500)),
    "gc/fermi-3fhl-gc-counts.fits.gz": (32684, 0.05, (10, 2000)),
    "gc/fermi-3fhl-gc-events.fits.gz": (32843, 0, (10, 2000)),
    "3fhl/fermi_3fhl_counts_cube_hpx.fits.gz": (696519, 0.916, (10, 2000)),
    "2fhl/fermi_2fhl_events_north.fits.gz": (30339, 0, (50, 2000)),
    "crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits": (3004, 0.1, (10, 2000)),
    "crab/Fermi-LAT-3FHL_datasets.yaml": (3004, 0.1, (10, 2000)),
    "diffuse/fermi_counts_2_20gev_ucv_psf3_nside128.fits.gz": (1481467, 0.458, (10, 2000)),
}


def photons_in_file(path):
    """The total by astropy alone."""
    if path.suffix == ".yaml":
        path = path.parent / "Fermi-LAT-3FHL_data_Fermi-LAT.fits"
    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.name == "EVENTS":
                return len(hdu.data)
            if hdu.header.get("PIXTYPE") == "HEALPIX":
                names = [n for n in hdu.columns.names if n == "COUNTS" or n.startswith("CHANNEL")]
                return round(sum(float(np.sum(hdu.data[n], dtype=float)) for n in names))
            if hdu.is_image and hdu.data is not None and hdu.data.ndim > 1:
                return round(float(hdu.data.sum(dtype=float)))
    return None


@pytest.mark.filterwarnings(COARSE, "ignore:.*does not state its energies")
@pytest.mark.parametrize("name", REAL_FILES)
def test_every_real_file_with_counts_keeps_its_photons(name, real_data):
    n_photons, pixel_deg, range_gev = REAL_FILES[name]
    sky_map = read_map(real_data / name)
    assert sky_map.n_photons == n_photons == photons_in_file(real_data / name)
    assert sky_map.pixel_size_deg == pytest.approx(pixel_deg, abs=5e-4)
    assert sky_map.energy_edges.dtype == np.float64
    assert tuple(sky_map.energy_edges[[0, -1]]) == pytest.approx(range_gev)
    vectors, energy = all_photons(sky_map)
    assert len(vectors) == len(energy) == n_photons
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-9)
    assert sky_map.covers(vectors).all()
    assert energy.min() >= range_gev[0] * (1 - 1e-6)
    assert energy.max() <= range_gev[1] * (1 + 1e-6)


def test_the_celestial_healpix_cube_has_its_galactic_plane_where_it_belongs(real_data):
    with pytest.warns(UnetlocWarning, match="pixels of 0.92 deg are coarser than 0.2 deg"):
        sky_map = read_map(str(real_data / "3fhl/fermi_3fhl_counts_cube_hpx.fits.gz"))
    vectors, energy = all_photons(sky_map)
    _, lat = lonlat_from_vectors(vectors)
    assert np.mean(np.abs(lat) < 5) > 0.25  # 9 % of the sky
    bins = np.histogram(energy, sky_map.energy_edges)[0]
    np.testing.assert_array_equal(bins, sky_map.planes.sum(axis=1))
    np.testing.assert_array_equal(bins[[0, 1, -1]], [260023, 162018, 175])


def test_the_cube_and_the_events_of_one_field_agree(real_data):
    cube = read_map(real_data / "gc/fermi-3fhl-gc-counts-cube.fits.gz")
    events = read_map(real_data / "gc/fermi-3fhl-gc-events.fits.gz", energy_range=(10, 500))
    index = cube.pixels.index(events.events.vectors)
    binned = np.bincount(index[index >= 0], minlength=cube.pixels.n_pixels)
    total = cube.planes.sum(axis=0)
    # The list holds 50 photons that the cube does not; some lie on pixel borders as float32.
    assert events.n_photons - cube.n_photons == 50
    assert np.abs(binned - total).sum() < 0.03 * cube.n_photons
    assert np.all(index >= 0)


def test_edges_are_those_of_gammapy(real_data):
    for name in ("gc/fermi-3fhl-gc-counts-cube.fits.gz",):
        ours, theirs = read_map(real_data / name), Map.read(real_data / name)
        edges = theirs.geom.axes[0].edges.to_value("GeV")
        np.testing.assert_allclose(ours.energy_edges, edges, rtol=2e-7)  # theirs pass as float32
        assert ours.energy_edges[0] == 10
        as_object = read_map(theirs)
        np.testing.assert_array_equal(as_object.planes, ours.planes)
        assert as_object.pixels.frame == ours.pixels.frame
        index = np.arange(0, ours.pixels.n_pixels, 1000)
        np.testing.assert_array_equal(as_object.pixels.key(index), ours.pixels.key(index))


def test_the_crab_dataset_carries_its_response(real_data):
    path = real_data / "crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits"
    from_file = read_map(path)
    dataset = MapDataset.read(path)
    from_object = read_map(dataset)
    assert from_file.energy_edges[0] == 10  # 0.01 TeV as float32
    np.testing.assert_allclose(from_file.energy_edges, from_object.energy_edges, rtol=1e-6)
    np.testing.assert_array_equal(from_file.planes, from_object.planes)
    for sky_map in (from_file, from_object):
        assert sky_map.exposure.map.geom.axes.names == ["energy_true"]
        assert sky_map.background.data.sum() == pytest.approx(dataset.background.data.sum())
        assert type(sky_map.psf) is type(dataset.psf)
    assert from_file.exposure is from_file.exposure  # read once


@pytest.mark.filterwarnings(COARSE)
def test_response_files_are_carried_and_frames_of_exposure_found(real_data):
    sky_map = read_map(
        real_data / "gc/fermi-3fhl-gc-counts-cube.fits.gz",
        exposure=real_data / "2fhl/fermi_2fhl_exposure_cube_hpx.fits.gz",
        background=str(real_data / "gc/fermi-3fhl-gc-background-cube.fits.gz"),
        psf=real_data / "gc/fermi-3fhl-gc-psf-cube.fits.gz",
    )
    assert sky_map.exposure.map.geom.frame == "galactic"
    assert sky_map.background.data.shape == (11, 200, 400)
    assert "energy_true" in sky_map.psf.psf_map.geom.axes.names
    celestial = read_map(sky_map, exposure=real_data / "3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz")
    assert celestial.exposure.map.geom.frame == "icrs"
    assert celestial.psf is sky_map.psf


def test_a_stated_frame_of_exposure_wins(real_data):
    path = real_data / "2fhl/fermi_2fhl_exposure_cube_hpx.fits.gz"
    sky_map = read_map(
        real_data / "gc/fermi-3fhl-gc-counts-cube.fits.gz", exposure=path, exposure_frame="icrs"
    )
    assert sky_map.exposure.map.geom.frame == "icrs"


# ------------------------------------------------------------------------ footprints


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


# ------------------------------------------------------------------------------- images


@pytest.mark.parametrize("projection", ["CAR", "TAN", "AIT", "ZEA", "SIN", "STG"])
@pytest.mark.parametrize("frame", ["galactic", "icrs"])
def test_cubes_of_every_projection_keep_their_counts(projection, frame, rng):
    counts = poisson_cube(rng)
    sky_map = read_map(cube_hdus(counts, projection=projection, frame=frame, lon=80.0, lat=20.0))
    np.testing.assert_array_equal(sky_map.counts.data, counts)
    assert sky_map.counts.data.dtype == np.dtype("int32")
    np.testing.assert_array_equal(sky_map.energy_edges, EDGES_GEV)
    vectors, energy = all_photons(sky_map)
    placed = np.zeros(sky_map.planes.shape)
    bins = np.searchsorted(EDGES_GEV, energy, side="right") - 1
    np.add.at(placed, (bins, sky_map.pixels.index(vectors)), 1)
    np.testing.assert_array_equal(placed, sky_map.planes)


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">f4", ">f8", "u1"])
def test_every_number_type_becomes_native(dtype, rng):
    sky_map = read_map(cube_hdus(poisson_cube(rng).astype(dtype)))
    assert sky_map.counts.data.dtype.isnative
    assert sky_map.counts.data.dtype in (np.dtype("int32"), np.dtype("float32"))
    assert sky_map.n_photons == poisson_cube(np.random.default_rng(0)).sum()


@pytest.mark.filterwarnings(COARSE)
def test_all_sky_aitoff_with_empty_corners_keeps_counts_and_covers_the_sky(rng):
    shape = (90, 180)
    header = image_header(shape, projection="AIT", pixel_deg=2.0)
    off = wcs_pixels(WCS(header), shape).off_sky(np.arange(90 * 180)).reshape(shape)
    counts = rng.poisson(1.0, (3, *shape)).astype(float)
    counts[:, off] = np.nan
    hdus = fits.HDUList([fits.PrimaryHDU(counts, header), ebounds()])
    sky_map = read_map(hdus)
    vectors, _ = all_photons(sky_map)
    assert len(vectors) == sky_map.n_photons == int(np.nansum(counts))
    sphere = np.stack(healpy.pix2vec(32, np.arange(12288), nest=False), axis=-1)
    assert sky_map.covers(sphere).all()


def test_pixels_that_are_nan_are_not_covered(rng):
    counts = poisson_cube(rng).astype(float)
    counts[:, :, :10] = np.nan
    counts[0, 3, 20] = np.nan  # seen in the other bands
    sky_map = read_map(cube_hdus(counts))
    covered = sky_map.covers(sky_map.pixels.centers(np.arange(600))).reshape(20, 30)
    assert not covered[:, :10].any()
    assert covered[:, 10:].all()
    assert not sky_map.covers(vectors_from_lonlat(90.0, 0.0))


def test_an_empty_map_is_valid():
    sky_map = read_map(cube_hdus(np.zeros((3, 20, 30))))
    assert sky_map.n_photons == 0
    assert list(sky_map.photons(0)) == []
    assert sky_map.covers(sky_map.pixels.centers([5])).all()


def test_an_empty_event_list_is_valid():
    sky_map = read_map(event_hdus([], [], [], cuts=[("ENERGY", "MeV", "10000:500000")]))
    assert sky_map.n_photons == 0
    assert not sky_map.covers(np.eye(3)).any()


def test_degenerate_axes_are_dropped(rng):
    counts = poisson_cube(rng)
    hdus = cube_hdus(counts)
    hdus[0].data = counts[None]
    assert read_map(hdus).n_photons == counts.sum()


def test_a_cube_beside_an_empty_primary_is_found(rng):
    counts = poisson_cube(rng)
    cube = cube_hdus(counts)
    image = fits.ImageHDU(counts, cube[0].header, name="COUNTS")
    assert read_map(fits.HDUList([fits.PrimaryHDU(), image, cube[1]])).n_photons == counts.sum()


# ------------------------------------------------------------------------------ energies


@pytest.mark.parametrize(
    "keywords, expected",
    [
        ({"DSTYP1": "ENERGY", "DSUNI1": "MeV", "DSVAL1": "10000:500000"}, (10, 500)),
        ({"DSTYP3": "ENERGY", "DSVAL3": "1000:2000"}, (1, 2)),
        ({"DSTYP1": "ENERGY", "DSUNI1": "GeV", "DSVAL1": "10:20"}, (10, 20)),
        ({"EMIN": 3000.0, "EMAX": 10000.0}, (3, 10)),
        ({"E_MIN": (0.05, "[TeV] lower"), "E_MAX": 2.0}, (50, 2000)),
    ],
)
def test_the_header_of_an_image_states_its_energies(keywords, expected, rng):
    hdu = fits.PrimaryHDU(poisson_cube(rng)[0], image_header((20, 30)))
    hdu.header.update(keywords)
    sky_map = read_map(fits.HDUList([hdu]))
    assert tuple(sky_map.energy_edges) == pytest.approx(expected, rel=1e-12)
    assert not sky_map.energy_assumed


def test_an_image_without_energies_is_assumed_to_have_the_model_range(rng):
    hdus = fits.HDUList([fits.PrimaryHDU(poisson_cube(rng)[0], image_header((20, 30)))])
    with pytest.warns(UnetlocWarning, match="does not state its energies; assuming 10 to 2000 GeV"):
        sky_map = read_map(hdus)
    assert sky_map.energy_assumed
    np.testing.assert_array_equal(sky_map.energy_edges, [10, 2000])


@pytest.mark.parametrize(
    "energy_range",
    [
        (10, 500),
        (10 * u.GeV, 0.5 * u.TeV),
        [1e4, 5e5] * u.MeV,
        ("10 GeV", "0.5 TeV"),
        ("10", "500"),
    ],
)
def test_an_energy_range_is_taken_for_an_image(energy_range, rng):
    hdus = fits.HDUList([fits.PrimaryHDU(poisson_cube(rng)[0], image_header((20, 30)))])
    sky_map = read_map(hdus, energy_range=energy_range)
    np.testing.assert_allclose(sky_map.energy_edges, [10, 500], rtol=1e-12)
    assert not sky_map.energy_assumed


def test_an_energy_range_overrules_the_header_of_an_image_aloud(rng):
    hdu = fits.PrimaryHDU(poisson_cube(rng)[0], image_header((20, 30)))
    hdu.header.update({"EMIN": 1000.0, "EMAX": 10000.0})
    with pytest.warns(UnetlocWarning, match="overrules the 1 to 10 GeV"):
        sky_map = read_map(fits.HDUList([hdu]), energy_range=(2, 10))
    np.testing.assert_array_equal(sky_map.energy_edges, [2, 10])


def test_an_energy_range_selects_the_bins_of_a_cube(rng):
    counts = poisson_cube(rng)
    sky_map = read_map(cube_hdus(counts), energy_range=(20, 150))
    np.testing.assert_array_equal(sky_map.energy_edges, [20, 50, 150])
    assert sky_map.n_photons == counts[1:].sum()
    with pytest.warns(UnetlocWarning, match="taking the whole bins inside: 20 to 50 GeV"):
        sky_map = read_map(cube_hdus(counts), energy_range=(15, 100))
    assert sky_map.n_photons == counts[1].sum()


def test_an_energy_range_cuts_events_exactly():
    hdus = event_hdus([0, 1, 2, 3], [0] * 4, [10000, 20000, 49999, 50000])
    sky_map = read_map(hdus, energy_range=(20, 50))
    np.testing.assert_allclose(sky_map.events.energy, [20, 49.999])
    np.testing.assert_array_equal(sky_map.energy_edges, [20, 50])


def test_events_without_a_stated_range_take_round_ends():
    sky_map = read_map(event_hdus([0, 1], [0, 0], [10030, 1783000]))
    np.testing.assert_allclose(sky_map.energy_edges, [10, 1800])


def test_a_gtbin_cube_without_its_table_has_logarithmic_bins(rng):
    hdus = cube_hdus(poisson_cube(rng))[:1]
    hdus[0].header.update(
        {"CREATOR": "gtbin", "CTYPE3": "Energy", "CRVAL3": 1e4, "CDELT3": 1e4, "CUNIT3": "MeV"}
    )
    with pytest.warns(UnetlocWarning, match="no table of energies; taking the logarithmic bins"):
        sky_map = read_map(fits.HDUList(hdus))
    np.testing.assert_allclose(sky_map.energy_edges, [10, 20, 40, 80])


def test_a_linear_energy_axis_is_the_last_resort(rng):
    hdus = cube_hdus(poisson_cube(rng))[:1]
    hdus[0].header.update(
        {"CTYPE3": "ENERGY", "CRVAL3": 15.0, "CDELT3": 10.0, "CRPIX3": 1, "CUNIT3": "GeV"}
    )
    with pytest.warns(UnetlocWarning, match="taking linear bins"):
        sky_map = read_map(fits.HDUList(hdus))
    np.testing.assert_allclose(sky_map.energy_edges, [10, 20, 30, 40])


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.sampled_from(["keV", "MeV", "GeV", "TeV", "erg"]),
    st.lists(st.integers(1, 10**6), min_size=2, max_size=6, unique=True),
)
def test_edges_in_any_unit_come_out_in_gev(unit, edges):
    edges = np.sort(np.array(edges, dtype=float))
    table = ebounds(edges)
    scale = (1 * u.GeV).to_value(unit)
    for name, values in (("E_MIN", edges[:-1]), ("E_MAX", edges[1:])):
        table.data[name] = values * scale
        table.columns[name].unit = unit
    cube = cube_hdus(np.zeros((len(edges) - 1, 2, 2)))
    sky_map = read_map(fits.HDUList([cube[0], table]))
    np.testing.assert_allclose(sky_map.energy_edges, edges, rtol=1e-7)


# ------------------------------------------------------------------------------ HEALPix


@pytest.mark.filterwarnings(COARSE)
@pytest.mark.parametrize(
    "system, frame",
    [
        ("GAL", "galactic"),
        ("EQU", "icrs"),
        ("CEL", "icrs"),
        ("G", "galactic"),
        ("C", "icrs"),
        ("icrs", "icrs"),
    ],
)
@pytest.mark.parametrize("order", ["RING", "NESTED"])
def test_healpix_of_every_frame_and_order_holds_the_same_sky(system, frame, order, rng):
    counts = rng.poisson(0.5, (3, 768))
    if order == "NESTED":
        counts = counts[:, healpy.nest2ring(8, np.arange(768))]
    sky_map = read_map(healpix_hdus(counts, ORDERING=order, COORDSYS=system, NSIDE=8))
    assert sky_map.n_photons == counts.sum()
    assert (sky_map.pixels.frame, sky_map.pixels.nest) == (frame, order == "NESTED")
    again = read_map(
        healpix_hdus(np.random.default_rng(0).poisson(0.5, (3, 768)), COORDSYS=system, NSIDE=8)
    )
    first, second = (np.sort(all_photons(m)[0][:, 2]) for m in (sky_map, again))
    np.testing.assert_allclose(first, second, atol=1e-12)


@pytest.mark.filterwarnings(COARSE)
@pytest.mark.parametrize("how", ["PIX", "FIRSTPIX", "gammapy"])
def test_part_of_a_healpix_sphere_places_photons_like_the_whole(how, rng, tmp_path):
    counts = rng.poisson(0.5, (3, 768)).astype(float)
    inside = np.arange(100, 300)
    if how == "PIX":
        inside = rng.permutation(inside)
        hdus = healpix_hdus(counts[:, inside], pixels=inside, NSIDE=8, HPX_REG="DISK(110.,75.,2.0)")
    elif how == "FIRSTPIX":
        hdus = healpix_hdus(counts[:, inside], NSIDE=8, FIRSTPIX=100, LASTPIX=299)
    else:
        axis = MapAxis.from_energy_edges(EDGES_GEV, unit="GeV")
        geom = HpxGeom(8, nest=False, frame="galactic", axes=[axis], region="DISK(110.,75.,30)")
        inside = geom.to_image().get_idx(flat=True)[0]
        part = HpxNDMap(geom, counts[:, inside])
        part.write(tmp_path / "part.fits")
        hdus = tmp_path / "part.fits"
        from_object = read_map(part)
        np.testing.assert_array_equal(from_object.pixels.numbers, inside)
    part, whole = read_map(hdus), read_map(healpix_hdus(counts, NSIDE=8))
    assert part.n_photons == counts[:, inside].sum()
    vectors, _ = all_photons(part)
    others, _ = all_photons(whole)
    others = others[part.covers(others)]
    assert len(vectors) == len(others)
    np.testing.assert_allclose(np.sort(vectors[:, 2]), np.sort(others[:, 2]), atol=1e-12)


@pytest.mark.filterwarnings(COARSE)
@pytest.mark.parametrize("fmt", ["gadf", "fgst-ccube", "gadf-sparse"])
@pytest.mark.parametrize("nest", [True, False])
def test_healpix_files_of_gammapy_read_like_the_object(fmt, nest, rng, tmp_path):
    axis = MapAxis.from_energy_edges(EDGES_GEV, unit="GeV")
    geom = HpxGeom(8, nest=nest, frame="icrs", axes=[axis])
    gammapy_map = HpxNDMap(geom, rng.poisson(0.3, (3, 768)).astype(float))
    gammapy_map.write(
        tmp_path / "map.fits", format=fmt.removesuffix("-sparse"), sparse=fmt.endswith("sparse")
    )
    sky_map, same = read_map(tmp_path / "map.fits"), read_map(gammapy_map)
    assert sky_map.n_photons == same.n_photons == gammapy_map.data.sum()
    np.testing.assert_allclose(sky_map.energy_edges, EDGES_GEV, rtol=1e-6)
    np.testing.assert_allclose(same.energy_edges, EDGES_GEV)
    first, second = (np.sort(all_photons(m)[0][:, 2]) for m in (sky_map, same))
    np.testing.assert_allclose(first, second, atol=1e-12)


@pytest.mark.filterwarnings(COARSE)
@pytest.mark.parametrize(
    "keywords", [{"coord": "G"}, {"coord": "C", "nest": True}, {"coord": "C", "partial": True}]
)
def test_healpy_files_are_read(keywords, rng, tmp_path):
    counts = rng.poisson(2.0, 12 * 16**2).astype(float)
    counts[:500] = healpy.UNSEEN
    path = tmp_path / "map.fits.gz"
    healpy.write_map(path, counts, dtype=np.float32, **keywords)
    sky_map = read_map(path, energy_range=(10, 500))
    assert sky_map.n_photons == counts[500:].sum()
    assert sky_map.pixels.frame == {"G": "galactic", "C": "icrs"}[keywords["coord"]]
    pixel = np.array([100, 1000])
    vectors = np.stack(healpy.pix2vec(16, pixel, nest=keywords.get("nest", False)), axis=-1)
    if keywords["coord"] == "G":
        np.testing.assert_array_equal(sky_map.covers(vectors), [False, True])


# ---------------------------------------------------------------------- gammapy objects


@pytest.mark.parametrize("name", ["energy", "energy_true"])
def test_gammapy_maps_are_read_with_either_axis(name, rng):
    axis = MapAxis.from_edges([0.01, 0.1, 1], unit="TeV", name=name, interp="log")
    gammapy_map = Map.create(skydir=(83.6, 22), npix=(12, 8), binsz=0.1, frame="icrs", axes=[axis])
    gammapy_map.data = rng.poisson(1.0, gammapy_map.data.shape)
    sky_map = read_map(gammapy_map)
    assert sky_map.n_photons == gammapy_map.data.sum()
    np.testing.assert_allclose(sky_map.energy_edges, [10, 100, 1000])
    sky = gammapy_map.geom.to_image().get_coord().skycoord.galactic
    centers = vectors_from_lonlat(sky.l.deg, sky.b.deg).reshape(-1, 3)
    np.testing.assert_array_equal(sky_map.pixels.index(centers), np.arange(96))


def test_a_gammapy_image_has_no_axis(rng):
    image = Map.create(skydir=(0, 0), npix=(12, 8), binsz=0.1, frame="galactic", proj="TAN")
    image.data = rng.poisson(1.0, image.data.shape)
    assert read_map(image, energy_range=(1, 10)).n_photons == image.data.sum()


@pytest.mark.parametrize("fmt", ["gadf", "fgst-ccube"])
@pytest.mark.parametrize("projection", ["CAR", "TAN", "AIT"])
def test_wcs_files_of_gammapy_read_like_the_object(fmt, projection, rng, tmp_path):
    axis = MapAxis.from_energy_edges(EDGES_GEV, unit="GeV")
    gammapy_map = Map.create(
        skydir=(83.6, 0), npix=(12, 8), binsz=0.1, frame="icrs", proj=projection, axes=[axis]
    )
    gammapy_map.data = rng.poisson(1.0, gammapy_map.data.shape).astype(float)
    gammapy_map.write(tmp_path / "map.fits", format=fmt)
    sky_map, same = read_map(tmp_path / "map.fits"), read_map(gammapy_map)
    np.testing.assert_array_equal(sky_map.planes, same.planes)
    np.testing.assert_allclose(sky_map.energy_edges, same.energy_edges, rtol=1e-6)
    for first, second in zip(all_photons(sky_map), all_photons(same)):
        np.testing.assert_allclose(first, second, rtol=1e-6)


# --------------------------------------------------------------------------------- rest


def test_plain_gzipped_and_path_inputs_are_the_same(rng, tmp_path, monkeypatch):
    plain, packed = tmp_path / "cube.fits", tmp_path / "cube.fits.gz"
    cube_hdus(poisson_cube(rng)).writeto(plain)
    with open(plain, "rb") as source, gzip.open(packed, "wb") as target:
        shutil.copyfileobj(source, target)
    monkeypatch.chdir(tmp_path)
    maps = [read_map(path) for path in (str(plain), plain, packed, str(packed), Path("cube.fits"))]
    for sky_map in maps:
        np.testing.assert_array_equal(sky_map.planes, maps[0].planes)
    assert maps[0].checksum == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert maps[2].checksum == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert maps[2].name == "cube.fits.gz"


def test_reading_leaves_no_file_open_and_the_map_outlives_it(rng, tmp_path):
    path = tmp_path / "cube.fits"
    cube_hdus(poisson_cube(rng)).writeto(path)
    sky_map = read_map(path)
    path.write_bytes(b"")
    assert sky_map.n_photons == poisson_cube(np.random.default_rng(0)).sum()


def test_cuts_of_the_header_are_carried(real_data):
    header = read_map(real_data / "gc/fermi-3fhl-gc-counts-cube.fits.gz").header
    assert header["TELESCOP"] == "GLAST"
    assert header["DSTYP4"] == "ENERGY"
    assert header["DSVAL4"] == "10000:2000000"
    assert "CTYPE1" not in header


def test_the_photon_total_is_logged(rng, caplog):
    counts = poisson_cube(rng)
    with caplog.at_level(logging.INFO, logger="astro_unetloc"):
        read_map(cube_hdus(counts))
    assert f"{counts.sum()} photons, 10 to 150 GeV" in caplog.text


@pytest.mark.parametrize("noise", [0, 0.009])
def test_floats_near_whole_numbers_are_counts(noise, rng):
    counts = poisson_cube(rng)
    sky_map = read_map(cube_hdus(counts + rng.uniform(-noise, noise, counts.shape) * (counts > 0)))
    np.testing.assert_array_equal(sky_map.counts.data, counts)


def test_a_flux_map_with_its_exposure_becomes_counts(rng, tmp_path):
    axis = MapAxis.from_energy_edges(EDGES_GEV, unit="GeV", name="energy_true")
    exposure = Map.create(
        skydir=(0, 0), npix=(30, 20), binsz=0.1, frame="galactic", axes=[axis], unit="m2 s"
    )
    exposure.data = rng.uniform(1e7, 2e7, exposure.data.shape)
    counts = poisson_cube(rng)
    hdus = cube_hdus(counts / (exposure.data * 1e4))
    with pytest.raises(ValueError, match="counts must be whole numbers .* give the counts"):
        read_map(hdus)  # all below 0.01, and yet no zeros
    assert read_map(hdus, exposure=exposure).n_photons == counts.sum()
    exposure.write(tmp_path / "exposure.fits")
    assert read_map(hdus, exposure=tmp_path / "exposure.fits").n_photons == counts.sum()


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    projection=st.sampled_from(["CAR", "TAN", "AIT"]),
    frame=st.sampled_from(["galactic", "icrs"]),
    lon=st.floats(0, 360),
    lat=st.floats(-90, 90),
)
def test_counts_are_conserved_wherever_the_image_lies(seed, projection, frame, lon, lat):
    if projection != "TAN":
        lat = 0.0  # oblique cylinders and Aitoffs are defined, and nobody uses them
    counts = np.random.default_rng(seed).poisson(0.3, (3, 9, 14))
    sky_map = read_map(cube_hdus(counts, projection=projection, frame=frame, lon=lon, lat=lat))
    vectors, _ = all_photons(sky_map, seed)
    assert len(vectors) == counts.sum()
    assert np.all(sky_map.pixels.index(vectors) >= 0)


def test_different_seeds_place_photons_differently(rng):
    sky_map = read_map(cube_hdus(poisson_cube(rng)))
    first, second = (all_photons(sky_map, seed)[0] for seed in (0, 1))
    apart = separation_deg(first, second)
    assert 0.01 < apart.mean() < 0.1
    np.testing.assert_array_equal(first, all_photons(sky_map, 0)[0])


def test_a_sky_map_needs_counts_or_events():
    with pytest.raises(ValueError, match="either counts or events"):
        SkyMap()


def test_a_sky_map_passes_through(rng):
    sky_map = read_map(cube_hdus(poisson_cube(rng)))
    again = read_map(sky_map, energy_range=(10, 50))
    assert again.n_photons == sky_map.planes[:2].sum()
    assert again.name == sky_map.name


@pytest.mark.filterwarnings(COARSE)
def test_a_sky_map_can_be_sent_to_another_process(real_data):
    for name in ("crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits", "gc/fermi-3fhl-gc-events.fits.gz"):
        sky_map = read_map(real_data / name)
        again = pickle.loads(pickle.dumps(sky_map))
        np.testing.assert_array_equal(all_photons(again)[0], all_photons(sky_map)[0])
        vectors = all_photons(sky_map)[0][::100]
        assert again.covers(vectors).all()
