import gzip
import hashlib
from itertools import product
from pathlib import Path

import healpy
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from gammapy.datasets import MapDataset
from gammapy.maps import HpxGeom, HpxNDMap, Map, MapAxis, RegionNDMap, WcsGeom
from made_files import (
    EDGES_GEV,
    cube_hdus,
    ebounds,
    energies_hdu,
    healpix_hdus,
    image_header,
    poisson_cube,
    write_healpix_cube,
)
from made_maps import all_photons, assert_same_photons, refuse, wcs_pixels

from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.maps.read import read_map
from astro_unetloc.sphere import lonlat_from_vectors, vectors_from_lonlat

COARSE = "ignore:pixels of .* coarser"
AXIS = MapAxis.from_energy_edges(EDGES_GEV, unit="GeV", name="energy")

REAL_FILES = {  # photons (by astropy alone, inside mask_safe), pixel size, energy range
    "gc/fermi-3fhl-gc-counts-cube.fits.gz": (32684, 0.05, (10, 500)),
    "gc/fermi-3fhl-gc-counts.fits.gz": (32684, 0.05, (10, 2000)),
    "gc/fermi-3fhl-gc-events.fits.gz": (32843, 0, (10, 2000)),
    "3fhl/fermi_3fhl_counts_cube_hpx.fits.gz": (696519, 0.916, (10, 2000)),
    "2fhl/fermi_2fhl_events_north.fits.gz": (30339, 0, (50, 2000)),
    "crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits": (2932, 0.1, (10, 2000)),
    "crab/Fermi-LAT-3FHL_datasets.yaml": (2932, 0.1, (10, 2000)),
    "diffuse/fermi_counts_2_20gev_ucv_psf3_nside128.fits.gz": (1481467, 0.458, (10, 2000)),
}


@pytest.mark.filterwarnings(COARSE, "ignore:.*does not state its energies")
@pytest.mark.parametrize("name", REAL_FILES)
def test_every_real_file_with_counts_keeps_its_photons(name, real_data):
    n_photons, pixel_deg, range_gev = REAL_FILES[name]
    sky_map = read_map(real_data / name)
    assert sky_map.n_photons == n_photons
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


def test_a_file_is_read_as_gammapy_reads_it(real_data):
    path = real_data / "gc/fermi-3fhl-gc-counts-cube.fits.gz"
    ours, theirs = read_map(path), Map.read(path)
    edges = theirs.geom.axes[0].edges.to_value("GeV")
    np.testing.assert_allclose(ours.energy_edges, edges, rtol=2e-7)  # theirs pass as float32
    assert ours.energy_edges[0] == 10
    as_object = read_map(theirs)
    np.testing.assert_array_equal(as_object.planes, ours.planes)
    assert as_object.pixels.frame == ours.pixels.frame
    index = np.arange(0, ours.pixels.n_pixels, 1000)
    np.testing.assert_array_equal(as_object.pixels.key(index), ours.pixels.key(index))
    assert ours.header["TELESCOP"] == "GLAST"
    assert (ours.header["DSTYP4"], ours.header["DSVAL4"]) == ("ENERGY", "10000:2000000")
    assert "CTYPE1" not in ours.header


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
        background=str(real_data / "gc/fermi-3fhl-gc-background-cube.fits.gz"),
        psf=real_data / "gc/fermi-3fhl-gc-psf-cube.fits.gz",
    )
    assert sky_map.background.data.shape == (11, 200, 400)
    assert "energy_true" in sky_map.psf.psf_map.geom.axes.names
    celestial = read_map(sky_map, exposure=real_data / "3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz")
    assert celestial.exposure.map.geom.frame == "icrs"
    assert celestial.psf is sky_map.psf
    path = real_data / "2fhl/fermi_2fhl_exposure_cube_hpx.fits.gz"
    for frame in ("galactic", "icrs"):  # the first is found, the second stated
        options = {} if frame == "galactic" else {"exposure_frame": frame}
        with pytest.warns(
            UnetlocWarning, match="exposure covers 50-2000 GeV|varies .* as galactic"
        ):
            read = read_map(sky_map, exposure=path, **options)
        assert read.exposure.map.geom.frame == frame


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
    hdus = cube_hdus(rng.poisson(1.0, (3, *shape)) * 1.0, projection="AIT", pixel_deg=2.0)
    on_sky = wcs_pixels(WCS(hdus[0].header, naxis=2), shape).on_sky(np.arange(90 * 180))
    hdus[0].data[:, np.isnan(on_sky[:, 0]).reshape(shape)] = np.nan
    sky_map = read_map(hdus)
    assert len(all_photons(sky_map)[0]) == sky_map.n_photons == int(np.nansum(hdus[0].data))
    sphere = np.stack(healpy.pix2vec(32, np.arange(12288), nest=False), axis=-1)
    assert sky_map.covers(sphere).all()


def test_counts_of_pixels_at_the_limb_of_a_whole_sky_count(rng):
    lon, lat = rng.normal(180, 0.3, 300) % 360, rng.normal(30, 0.3, 300)
    wcs = WCS(image_header((360, 720), projection="AIT", pixel_deg=0.5))
    x, y = wcs.wcs_world2pix(lon, lat, 0)
    image = np.zeros((360, 720), np.int32)
    np.add.at(image, (np.rint(y).astype(int), np.rint(x).astype(int)), 1)
    hdus = fits.HDUList([fits.PrimaryHDU(image, wcs.to_header())])
    with pytest.warns(UnetlocWarning, match="pixels of 0.50 deg"):
        sky_map = read_map(hdus, energy_range=(10, 2000))
    assert len(all_photons(sky_map)[0]) == 300
    filled = np.flatnonzero(sky_map.planes[0])
    assert np.isnan(sky_map.pixels.centers(filled)).any()
    assert np.isfinite(sky_map.pixels.on_sky(filled)).all()


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
    assert (sky_map.n_photons, list(sky_map.photons(0))) == (0, [])
    assert sky_map.covers(sky_map.pixels.centers([5])).all()


def test_degenerate_axes_are_dropped_and_a_cube_beside_an_empty_primary_is_found(rng):
    counts = poisson_cube(rng)
    hdus = cube_hdus(counts)
    image = fits.ImageHDU(counts, hdus[0].header, name="COUNTS")
    assert read_map(fits.HDUList([fits.PrimaryHDU(), image, hdus[1]])).n_photons == counts.sum()
    hdus[0].data = counts[None]
    assert read_map(hdus).n_photons == counts.sum()


@pytest.mark.filterwarnings(COARSE)
@pytest.mark.parametrize("system", ["GAL", "EQU", "CEL", "G", "C", "icrs"])
@pytest.mark.parametrize("order", ["RING", "NESTED"])
def test_healpix_of_every_frame_and_order_holds_the_same_sky(system, order, rng):
    counts = rng.poisson(0.5, (3, 768))
    again = read_map(healpix_hdus(counts, COORDSYS=system, NSIDE=8))
    if order == "NESTED":
        counts = counts[:, healpy.nest2ring(8, np.arange(768))]
    sky_map = read_map(healpix_hdus(counts, ORDERING=order, COORDSYS=system, NSIDE=8))
    assert sky_map.n_photons == counts.sum()
    assert sky_map.pixels.nest == (order == "NESTED")
    assert sky_map.pixels.frame == ("galactic" if system[0] == "G" else "icrs")
    assert_same_photons(sky_map, again)


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
        geom = HpxGeom(8, nest=False, frame="galactic", axes=[AXIS], region="DISK(110.,75.,30)")
        inside = geom.to_image().get_idx(flat=True)[0]
        part = HpxNDMap(geom, counts[:, inside])
        part.write(tmp_path / "part.fits")
        hdus = tmp_path / "part.fits"
        from_object = read_map(part)
        np.testing.assert_array_equal(from_object.pixels.numbers, inside)
    part, whole = read_map(hdus), read_map(healpix_hdus(counts, NSIDE=8))
    assert part.n_photons == counts[:, inside].sum()
    others = all_photons(whole)[0]
    heights = [np.sort(v[:, 2]) for v in (all_photons(part)[0], others[part.covers(others)])]
    np.testing.assert_allclose(*heights, atol=1e-12)


HEALPIX = {
    f"nest={nest}": HpxGeom(8, nest=nest, frame="icrs", axes=[AXIS]) for nest in (False, True)
}
IMAGES = {
    proj: WcsGeom.create((12, 8), binsz=0.1, proj=proj, frame="icrs", axes=[AXIS], skydir=(83.6, 0))
    for proj in ("CAR", "TAN", "AIT")
}


@pytest.mark.filterwarnings(COARSE)
@pytest.mark.parametrize(
    "name, fmt",
    [*product([*HEALPIX, *IMAGES], ["gadf", "fgst-ccube"]), *product(HEALPIX, ["gadf-sparse"])],
)
def test_files_of_gammapy_are_read_like_the_object(name, fmt, rng, tmp_path):
    geom = (HEALPIX | IMAGES)[name]
    gammapy_map = Map.from_geom(geom, data=rng.poisson(0.3, geom.data_shape).astype(float))
    fmt, _, sparse = fmt.partition("-s")
    gammapy_map.write(tmp_path / "map.fits", format=fmt, sparse=bool(sparse))
    sky_map, same = read_map(tmp_path / "map.fits"), read_map(gammapy_map)
    assert sky_map.n_photons == same.n_photons == gammapy_map.data.sum()
    np.testing.assert_allclose(same.energy_edges, EDGES_GEV)
    np.testing.assert_allclose(sky_map.energy_edges, EDGES_GEV, rtol=1e-6)
    assert_same_photons(sky_map, same, rtol=1e-6)


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
    image = gammapy_map.sum_over_axes(keepdims=False)
    assert read_map(image, energy_range=(1, 10)).n_photons == image.data.sum()


def test_plain_gzipped_and_path_inputs_are_the_same(rng, tmp_path, monkeypatch):
    plain, packed = tmp_path / "cube.fits", tmp_path / "cube.fits.gz"
    cube_hdus(poisson_cube(rng)).writeto(plain)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    monkeypatch.chdir(tmp_path)
    maps = [read_map(path) for path in (str(plain), plain, packed, str(packed), Path("cube.fits"))]
    for sky_map in maps:
        np.testing.assert_array_equal(sky_map.planes, maps[0].planes)
    assert maps[0].checksum == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert maps[2].checksum == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert maps[2].name == "cube.fits.gz"


def test_a_flux_map_with_its_exposure_becomes_counts(rng, tmp_path):
    geom = WcsGeom.create((30, 20), frame="galactic", binsz=0.1, axes=[AXIS], skydir=(0, 0))
    exposure = Map.from_geom(geom, unit="m2 s")
    exposure.data = rng.uniform(1e7, 2e7, exposure.data.shape)
    counts = poisson_cube(rng)
    hdus = cube_hdus(counts / (exposure.data * 1e4))
    refuse(hdus, "counts must be whole numbers .* give the counts")  # all below 0.01, no zeros
    assert read_map(hdus, exposure=exposure).n_photons == counts.sum()
    exposure.write(tmp_path / "exposure.fits")
    assert read_map(hdus, exposure=tmp_path / "exposure.fits").n_photons == counts.sum()
    exposure.data *= 1.1
    refuse(hdus, "flux x exposure must be whole", exposure=exposure)


def test_a_sky_map_passes_through_and_the_photon_total_is_logged(rng, caplog):
    with caplog.at_level("INFO", logger="astro_unetloc"):
        sky_map = read_map(cube_hdus(poisson_cube(rng)))
    assert f"{sky_map.n_photons} photons, 10 to 150 GeV" in caplog.text
    again = read_map(sky_map, energy_range=(10, 50))
    assert again.n_photons == sky_map.planes[:2].sum()
    assert again.name == sky_map.name


@pytest.mark.parametrize(
    "hdus",
    [
        [fits.PrimaryHDU()],
        [fits.PrimaryHDU(), ebounds()],
        [fits.PrimaryHDU(np.ones(30))],
        [fits.PrimaryHDU(), fits.ImageHDU(np.ones((2, 2)), name="MASK_SAFE")],  # a dataset
    ],
)
def test_a_file_without_counts(hdus, tmp_path):
    fits.HDUList(hdus).writeto(tmp_path / "file.fits")
    names = ", ".join(hdu.name for hdu in hdus)
    refuse(tmp_path / "file.fits", f"no counts found in file.fits, with the HDUs {names};")


@pytest.mark.parametrize(
    "text, match",
    [
        ("a: 1", "a gammapy datasets file was expected"),
        ("- 1", "a gammapy datasets file was expected"),
        ("{", "a gammapy datasets file was expected"),
        ("datasets: []", "one MapDataset was expected in .*; got 0"),
        ("datasets: [{type: SpectrumDataset, filename: a}]", "got 0; give"),
        ("datasets: [{type: MapDataset, filename: a}, {type: MapDataset, filename: b}]", "got 2"),
    ],
)
def test_a_yaml_file_without_one_dataset(text, match, tmp_path):
    (tmp_path / "sets.yaml").write_text(text)
    refuse(tmp_path / "sets.yaml", match)


PRODUCTS = {
    "gc/fermi-3fhl-gc-exposure-cube.fits.gz": "got an exposure map",
    "3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz": "got an exposure map",
    "2fhl/fermi_2fhl_exposure_cube_hpx.fits.gz": "got an exposure map",
    "gc/fermi-3fhl-gc-psf-cube.fits.gz": r"got a PSF table \(gtpsf\)",
    "3fhl/fermi_3fhl_psf_gc.fits.gz": r"got a PSF table \(gtpsf\)",
    "2fhl/fermi_2fhl_psf_gc.fits.gz": r"got a PSF table \(gtpsf\)",
    "gc/fermi-3fhl-gc-background-cube.fits.gz": r"got a model cube \(gtmodel\)",
    "diffuse/gll_iem_v06_gc.fits.gz": "got a diffuse emission template",
    "diffuse/gll_iem_v07_gc.fits.gz": "got a diffuse emission template",
    "crab/Fermi-LAT-3FHL_iem.fits": "got a diffuse emission template",
    "diffuse/diffuse_shapes_nside128.fits.gz": "one called COUNTS .*; got 8: PIBREM, ICS",
    "catalogs/gll_psch_v13.fit.gz": "got a source catalogue",
    "catalogs/gll_psch_v09.fit.gz": "got a source catalogue",
    "catalogs/gll_psc_v16.fit.gz": "got a source catalogue",
    "catalogs/4fgl_dr3_reduced.fits": "got a source catalogue",
    "catalogs/does-not-exist.fits": "no such file",
    "diffuse/iso_P8R2_SOURCE_V6_v06.txt": "a FITS file was expected",
    "population/AGN_LP_FS.csv": "a FITS file was expected",
    "crab/Fermi-LAT-3FHL_models.yaml": "a gammapy datasets file was expected",
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_without_counts_is_named(name, real_data):
    kind = FileNotFoundError if "no such" in PRODUCTS[name] else ValueError
    refuse(real_data / name, PRODUCTS[name], kind)


def tables(*names):
    column = fits.Column("X", "D", array=np.ones(3))
    return [fits.PrimaryHDU(), *(fits.BinTableHDU.from_columns([column], name=n) for n in names)]


def single_energies(value):
    return [fits.PrimaryHDU(np.full((3, 20, 30), value), image_header((20, 30))), energies_hdu()]


def changed(hdus=None, number=0, **keywords):
    """A counts cube, or other HDUs, with keywords changed."""
    hdus = cube_hdus(np.ones((3, 20, 30))) if hdus is None else hdus
    hdus[number].header.update(keywords)
    return hdus


def healpix(n_columns=3, n_pixels=768, **options):
    return healpix_hdus(np.ones((n_columns, n_pixels)), **({"NSIDE": 8} | options))


@pytest.mark.parametrize(
    "hdus, match",
    [
        (tables("SC_DATA"), "got a spacecraft file"),
        (tables("EXPOSURE", "WEIGHTED_EXPOSURE", "CTHETABOUNDS"), "got a livetime cube"),
        (tables("LAT_Point_Source_Catalog"), "got a source catalogue"),
        (changed(BUNIT="cm2 s"), "got an exposure map"),
        (changed(BUNIT="m**2 s"), "got an exposure map"),
        (changed(BUNIT="cm^2 s"), "got an exposure map"),
        (single_energies(1e11), "got an exposure map"),
        (single_energies(1e-6), "got a diffuse emission template"),
        ([fits.PrimaryHDU(np.ones((20, 30)))], "image with sky coordinates.* was expected"),
        (changed(CTYPE1="DETX", CTYPE2="DETY"), "axes 'DETX', 'DETY'"),
        (changed(CTYPE1="GLAT-TAN", CTYPE2="GLON-TAN"), "in this order; got GLAT"),
        (changed(CTYPE1="ELON-TAN", CTYPE2="ELAT-TAN"), "got ELON, ELAT"),
        (
            changed(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", RADESYS="FK4", EQUINOX=1950.0),
            "ICRS or FK5 J2000; got FK4",
        ),
        (changed(CTYPE1="GLON-QQQ", CTYPE2="GLAT-QQQ"), "WCS of the image cannot|sky coordinates"),
        (cube_hdus(np.zeros((2, 3, 20, 30))), r"one energy; got 4 axes of shape \(2, 3, 20, 30\)"),
        (
            cube_hdus(np.ones((3, 90, 180)), projection="AIT", pixel_deg=2.0),
            "on the sky; got .* beyond the limb",
        ),
        (cube_hdus(np.full((3, 20, 30), np.nan)), "counts must not be all NaN"),
        (cube_hdus(np.linspace(0, 5, 1800).reshape(3, 20, 30)), "whole numbers .*within 0.01"),
        (healpix(ORDERING="SPIRAL"), "must be RING or NESTED; got 'SPIRAL'"),
        (healpix(COORDSYS="E"), "COORDSYS of a HEALPix map must be GAL or EQU .*; got 'E'"),
        (healpix(COORDSYS=""), "map of counts must be known; got no COORDSYS; add the keyword"),
        (healpix(NSIDE=4), "192 pixels .nside 4.* got 768 pixels"),
        (healpix(NSIDE=16), "3072 pixels .nside 16.* got 768 pixels"),
        (healpix(4), "3 columns of counts .*; got 4"),
        (healpix(edges_gev=None), "one called COUNTS .* got 3"),
        (healpix(3, 2, pixels=[5, 768]), "must lie in 0..767 at nside 8"),
        (healpix(3, 2, pixels=[5, 5]), "must be unique; got repetitions"),
        (healpix(3, 2, pixels=[5, 7], INDXSCHM="LOCAL"), "must be global; got INDXSCHM LOCAL"),
    ],
)
def test_what_holds_no_usable_counts_is_refused(hdus, match):
    refuse(fits.HDUList(hdus), match)


@pytest.mark.parametrize(
    "value, match",
    [
        (np.inf, "counts must be finite.* got 1 infinite"),
        (-3, "counts must not be negative; got -3 and 1 negative"),
        (0.5, "counts must be whole numbers .*; got 1 pixels such as 0.5"),
    ],
)
@pytest.mark.parametrize("others", [0.0, np.nan])
def test_bad_values(value, match, others, rng):
    counts = poisson_cube(rng).astype(float)
    counts[1, :, :5] = others
    counts[0, 3, 4] = value
    refuse(cube_hdus(counts), match)


BINS = MapAxis.from_energy_bounds("1 GeV", "10 GeV", 2)
TIMES = MapAxis.from_edges([0, 1, 2], unit="s", name="time")
ENERGIES = MapAxis.from_nodes([1, 10, 100], unit="GeV", name="energy_true", interp="log")


@pytest.mark.parametrize(
    "value, match, kind",
    [
        (value, "map must be a path .* or paths, an astropy HDUList, a gammapy WcsNDMap", TypeError)
        for value in (None, 5, np.zeros((3, 4)), b"map.fits", {})
    ]
    + [
        (BINS, "gammapy WcsNDMap, HpxNDMap or MapDataset, .*; got MapAxis", TypeError),
        (RegionNDMap.create("icrs;circle(0,0,1)", axes=[BINS]), "got RegionNDMap", TypeError),
        (MapDataset(name="bare"), "a dataset with counts was expected; 'bare'", ValueError),
        (
            Map.create(npix=4, axes=[BINS, TIMES], frame="icrs"),
            "one energy axis or none was expected; got energy, time",
            ValueError,
        ),
        (Map.create(npix=4, axes=[TIMES], frame="icrs"), "got the axis 'time'", ValueError),
        (
            Map.create(npix=4, axes=[ENERGIES], frame="icrs"),
            "'energy_true' with single energies",
            ValueError,
        ),
    ],
)
def test_objects_that_are_no_counts_map(value, match, kind):
    refuse(value, match, kind)


@pytest.mark.parametrize("name", ["exposure", "background", "psf"])
def test_response_files_that_are_missing_or_hold_something_else(name, real_data, tmp_path):
    cube, psf = (real_data / f"gc/fermi-3fhl-gc-{n}-cube.fits.gz" for n in ("counts", "psf"))
    refuse(cube, "no such file: .*none.fits", FileNotFoundError, **{name: tmp_path / "none.fits"})
    refuse(cube, f"{name} must be a path.* a gammapy .*; got int", TypeError, **{name: 5})
    match = "must be a file of gtpsf .* EBOUNDS, GTI, PRIMARY" if name == "psf" else "must be a map"
    refuse(cube, f"{name} {match}", **{name: cube if name == "psf" else psf})


def test_an_exposure_frame_that_is_unknown_or_fits_either_frame(rng, tmp_path):
    path = write_healpix_cube(tmp_path / "e.fits", rng.uniform(1e11, 2e11, (3, 768)), COORDSYS="")
    hdus = cube_hdus(poisson_cube(rng))
    refuse(hdus, "give exposure_frame 'galactic' or 'icrs'", exposure=path)
    refuse(hdus, "exposure_frame must be .*; got 'fk4'", exposure=path, exposure_frame="fk4")
    assert read_map(hdus, exposure=path, exposure_frame="icrs").n_photons > 0
