"""What is no usable map is refused in one line that says what it is."""

import gzip

import numpy as np
import pytest
from astropy.io import fits
from made_files import (
    EDGES_GEV,
    cube_hdus,
    ebounds,
    energies_hdu,
    event_hdus,
    healpix_hdus,
    image_header,
    poisson_cube,
)

from astro_unetloc.maps.read import read_map


def refuse(map, match, kind=ValueError, **options):
    """Reading fails with one line."""
    with pytest.raises(kind, match=match) as caught:
        read_map(map, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# --------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["missing.fits", "missing.yaml", "no/such/directory/map.fits.gz"])
def test_a_missing_file(name, tmp_path):
    refuse(tmp_path / name, "no such file: .*missing|no such file: .*map", FileNotFoundError)


def test_a_directory(tmp_path):
    refuse(tmp_path, "got the directory .*; name a file in it")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n", b"SIMPLE", b"x" * 10000])
def test_a_file_that_is_not_fits(content, tmp_path):
    path = tmp_path / "map.fits"
    path.write_bytes(content)
    refuse(path, "a FITS file was expected; got .*map.fits")
    packed = tmp_path / "map.fits.gz"
    packed.write_bytes(gzip.compress(content))
    refuse(packed, "a FITS file was expected; got .*map.fits.gz")


# Inside the first header, the counts, the second header, and the first bytes of EBOUNDS.
CUTS = [100, 2000, 5000, 8000, 12000, -2860]


@pytest.mark.parametrize("stop", CUTS)
def test_a_truncated_file(stop, rng, tmp_path):
    path = tmp_path / "cube.fits"
    cube_hdus(poisson_cube(rng)).writeto(path)
    path.write_bytes(path.read_bytes()[:stop])
    refuse(path, "cube.fits is truncated or damaged: .*; copy or download it again")


@pytest.mark.parametrize("stop", CUTS)
def test_a_truncated_file_inside_a_sound_gzip(stop, rng, tmp_path):
    cube_hdus(poisson_cube(rng)).writeto(tmp_path / "cube.fits")
    content = (tmp_path / "cube.fits").read_bytes()
    (tmp_path / "cube.fits.gz").write_bytes(gzip.compress(content[:stop]))
    refuse(tmp_path / "cube.fits.gz", "is truncated or damaged: .*; copy or download it again")


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_gzip(part, rng, tmp_path):
    path = tmp_path / "cube.fits.gz"
    cube_hdus(poisson_cube(rng)).writeto(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refuse(path, "cube.fits.gz is truncated or damaged: .*; copy or download it again")


def test_a_gzip_with_a_flipped_byte(rng, tmp_path):
    path = tmp_path / "cube.fits.gz"
    cube_hdus(poisson_cube(rng)).writeto(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    refuse(path, "is truncated or damaged|cannot be read")


def test_a_file_without_its_last_padding_is_read(rng, tmp_path):
    path = tmp_path / "cube.fits"
    counts = poisson_cube(rng)
    cube_hdus(counts).writeto(path)
    path.write_bytes(path.read_bytes()[:-2000])  # 30 bytes of EBOUNDS and 2850 of nothing
    assert read_map(path).n_photons == counts.sum()


def test_a_file_without_maps(tmp_path):
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    refuse(tmp_path / "empty.fits", "no counts found in empty.fits, with the HDUs PRIMARY")
    fits.HDUList([fits.PrimaryHDU(), ebounds()]).writeto(tmp_path / "table.fits")
    refuse(tmp_path / "table.fits", "no counts found in table.fits, with the HDUs PRIMARY, EBOUNDS")
    fits.PrimaryHDU(np.ones(30)).writeto(tmp_path / "spectrum.fits")
    refuse(tmp_path / "spectrum.fits", "no counts found in spectrum.fits")


def test_a_dataset_without_counts(real_data, tmp_path):
    with fits.open(real_data / "crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits") as hdus:
        left = [hdu for hdu in hdus if not hdu.name.startswith("COUNTS")]
        fits.HDUList(left).writeto(tmp_path / "dataset.fits")
    refuse(tmp_path / "dataset.fits", "no counts found in dataset.fits, with the HDUs")


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


# ------------------------------------------------------------------- other Fermi products

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


@pytest.mark.parametrize(
    "names, match",
    [
        (("SC_DATA",), "got a spacecraft file"),
        (("EXPOSURE", "WEIGHTED_EXPOSURE", "CTHETABOUNDS"), "got a livetime cube"),
        (("LAT_Point_Source_Catalog",), "got a source catalogue"),
    ],
)
def test_other_tables_of_the_fermi_tools_are_named(names, match):
    column = fits.Column("X", "D", array=np.ones(3))
    tables = [fits.BinTableHDU.from_columns([column], name=name) for name in names]
    refuse(fits.HDUList([fits.PrimaryHDU(), *tables]), match)


@pytest.mark.parametrize(
    "unit, match", [("cm2 s", "exposure"), ("m**2 s", "exposure"), ("cm^2 s", "exposure")]
)
def test_a_map_in_units_of_exposure_is_named(unit, match, rng):
    hdus = cube_hdus(poisson_cube(rng))
    hdus[0].header["BUNIT"] = unit
    refuse(hdus, f"got an {match} map")


@pytest.mark.parametrize(
    "typical, match", [(1e11, "an exposure map"), (1e-6, "a diffuse emission template")]
)
def test_a_cube_at_single_energies_is_named(typical, match):
    energies = fits.BinTableHDU.from_columns(
        [fits.Column("Energy", "D", unit="MeV", array=[1e3, 1e4, 1e5])], name="ENERGIES"
    )
    cube = fits.PrimaryHDU(np.full((3, 20, 30), typical), image_header((20, 30)))
    refuse(fits.HDUList([cube, energies]), f"got {match}")


# --------------------------------------------------------------------------- coordinates


def test_an_image_without_sky_coordinates(rng):
    refuse(
        fits.HDUList([fits.PrimaryHDU(poisson_cube(rng)[0])]),
        "an image with sky coordinates .* was expected",
    )
    header = image_header((20, 30))
    header["CTYPE1"], header["CTYPE2"] = "DETX", "DETY"
    refuse(fits.HDUList([fits.PrimaryHDU(poisson_cube(rng)[0], header)]), "axes 'DETX', 'DETY'")


def test_axes_in_the_wrong_order_or_of_another_frame(rng):
    header = image_header((20, 30))
    header["CTYPE1"], header["CTYPE2"] = "GLAT-TAN", "GLON-TAN"
    refuse(fits.HDUList([fits.PrimaryHDU(poisson_cube(rng)[0], header)]), "in this order; got GLAT")
    header["CTYPE1"], header["CTYPE2"] = "ELON-TAN", "ELAT-TAN"
    refuse(fits.HDUList([fits.PrimaryHDU(poisson_cube(rng)[0], header)]), "got ELON, ELAT")
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["RADESYS"] = "FK4"
    header["EQUINOX"] = 1950.0
    refuse(
        fits.HDUList([fits.PrimaryHDU(poisson_cube(rng)[0], header)]), "ICRS or FK5 J2000; got FK4"
    )


def test_a_projection_that_does_not_exist(rng):
    header = image_header((20, 30), projection="QQQ")
    hdus = fits.HDUList([fits.PrimaryHDU(poisson_cube(rng)[0], header)])
    refuse(hdus, "the WCS of the image cannot be used|sky coordinates")


def test_four_axes(rng):
    hdus = cube_hdus(poisson_cube(rng))
    hdus[0].data = np.zeros((2, 3, 20, 30))
    refuse(hdus, r"at most one energy; got 4 axes of shape \(2, 3, 20, 30\)")


def test_four_axes_of_gammapy():
    from gammapy.maps import Map, MapAxis

    axes = [
        MapAxis.from_energy_bounds("1 GeV", "10 GeV", 2),
        MapAxis.from_edges([0, 1, 2], unit="s", name="time"),
    ]
    cube = Map.create(npix=4, axes=axes, frame="icrs")
    refuse(cube, "one energy axis or none; got the axes energy, time")
    refuse(Map.create(npix=4, axes=axes[1:], frame="icrs"), "got the axis 'time'")


def test_counts_beyond_the_limb(rng):
    counts = rng.poisson(1.0, (3, 90, 180))
    refuse(cube_hdus(counts, projection="AIT", pixel_deg=2.0), "on the sky; got .* beyond the limb")


# -------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "value, match",
    [
        (np.inf, "counts must be finite.* got 1 infinite"),
        (-np.inf, "counts must be finite.* got 1 infinite"),
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


def test_all_nan():
    refuse(cube_hdus(np.full((3, 20, 30), np.nan)), "counts must not be all NaN")


def test_a_model_map_is_no_counts(rng):
    refuse(cube_hdus(rng.uniform(0, 5, (3, 20, 30))), "must be whole numbers .*within 0.01")


def test_flux_times_a_wrong_exposure(rng, tmp_path):
    from gammapy.maps import Map, MapAxis

    axis = MapAxis.from_energy_edges(EDGES_GEV, unit="GeV", name="energy_true")
    exposure = Map.create(
        skydir=(0, 0), npix=(30, 20), binsz=0.1, frame="galactic", axes=[axis], unit="cm2 s"
    )
    exposure.data += 1.1e11
    refuse(cube_hdus(poisson_cube(rng) / 1e11), "flux x exposure must be whole", exposure=exposure)


# ------------------------------------------------------------------------------ energies


@pytest.mark.parametrize(
    "energy_range, match",
    [
        ((500, 10), "increasing positive energies; got 500 to 10 GeV"),
        ((-1, 10), "increasing positive energies; got -1 to 10"),
        ((10, np.inf), "increasing positive"),
        ((np.nan, 10), "increasing positive"),
        (10, "two energies"),
        ((1, 2, 3), "two energies"),
        (("a", "b"), "two energies"),
        (("10 deg", "20 deg"), "two energies"),
        ((1000, 2000), "no energy bin lies inside energy_range 1000 to 2000 GeV; the map has bins"),
        ((11, 19), "no energy bin lies inside"),
    ],
)
def test_an_energy_range_that_cannot_be(energy_range, match, rng):
    refuse(cube_hdus(poisson_cube(rng)), match, energy_range=energy_range)


def test_an_energy_range_outside_the_events():
    hdus = event_hdus([0], [0], [2e4], cuts=[("ENERGY", "MeV", "10000:100000")])
    refuse(hdus, "must overlap the 10 to 100 GeV of the events", energy_range=(200, 300))


def test_energies_below_zero(rng):
    refuse(cube_hdus(poisson_cube(rng), np.array([-10.0, 20, 50, 150])), "energy edges must be pos")
    refuse(event_hdus([0, 1], [0, 0], [1e4, -1e4]), "energies must be positive; got -10 GeV")
    hdu = fits.PrimaryHDU(poisson_cube(rng)[0], image_header((20, 30)))
    hdu.header.update({"EMIN": -5.0, "EMAX": 10.0})
    refuse(fits.HDUList([hdu]), "EMIN, EMAX must be two increasing positive energies")
    hdu.header.update({"DSTYP1": "ENERGY", "DSVAL1": "TABLE"})
    refuse(fits.HDUList([hdu]), "two energies were expected in DSVAL1")


def test_energy_bins_with_gaps(rng):
    hdus = cube_hdus(poisson_cube(rng))
    hdus[1].data["E_MIN"][1] *= 1.2
    refuse(hdus, "energy bins must touch and increase")
    refuse(cube_hdus(poisson_cube(rng), EDGES_GEV[::-1]), "energy bins must touch and increase")


def test_energies_that_do_not_fit_the_planes(rng):
    refuse(cube_hdus(poisson_cube(rng), EDGES_GEV[:3]), "got 2 energies and 3 planes")
    refuse(fits.HDUList(cube_hdus(poisson_cube(rng))[:1]), "3 planes must state their energies")


def test_an_energy_unit_that_is_none(rng):
    hdus = cube_hdus(poisson_cube(rng))
    hdus[1].columns["E_MIN"].unit = "parsec"
    refuse(hdus, "an energy unit was expected; got 'p")


# --------------------------------------------------------------------- HEALPix and events


@pytest.mark.parametrize(
    "keywords, match",
    [
        ({"ORDERING": "SPIRAL"}, "must be RING or NESTED; got 'SPIRAL'"),
        ({"COORDSYS": "E"}, "COORDSYS of a HEALPix map must be GAL or EQU .*; got 'E'"),
        ({"NSIDE": 4}, "192 pixels .nside 4.* got 768 pixels"),
        ({"NSIDE": 16}, "3072 pixels .nside 16.* got 768 pixels"),
    ],
)
def test_a_healpix_table_that_contradicts_itself(keywords, match, rng):
    refuse(healpix_hdus(rng.poisson(1.0, (3, 768)), **({"NSIDE": 8} | keywords)), match)


def test_a_healpix_table_with_too_many_columns(rng):
    refuse(healpix_hdus(rng.poisson(1.0, (4, 768)), NSIDE=8), "3 columns of counts .*; got 4")
    refuse(healpix_hdus(rng.poisson(1.0, (3, 768)), None, NSIDE=8), "one called COUNTS .* got 3")


def test_healpix_pixels_that_do_not_exist(rng):
    hdus = healpix_hdus(rng.poisson(1.0, (3, 2)), pixels=[5, 768], NSIDE=8)
    refuse(hdus, "must lie in 0..767 at nside 8")


def test_a_healpix_map_without_a_frame_nor_a_plane(rng):
    hdus = healpix_hdus(rng.poisson(1.0, (3, 768)), NSIDE=8)
    del hdus[1].header["COORDSYS"]
    refuse(hdus, "frame of a HEALPix map of counts must be known; got no COORDSYS; add the keyword")


def test_events_without_positions():
    table = fits.BinTableHDU.from_columns(
        [fits.Column("ENERGY", "E", array=[1.0]), fits.Column("DETX", "E", array=[1.0])],
        name="EVENTS",
    )
    refuse(fits.HDUList([fits.PrimaryHDU(), table]), "ENERGY, RA and DEC; got ENERGY, DETX")


def test_events_that_are_nowhere():
    refuse(event_hdus([0, np.nan], [0, 0], [1e4, 1e4]), "finite positions .* got 1 events without")


def test_a_circle_that_is_none():
    hdus = event_hdus([0], [0], [1e4], cuts=[("POS(RA,DEC)", "deg", "CIRCLE(a,b,c)")])
    refuse(hdus, r"DSVAL1 must be CIRCLE\(ra,dec,radius\)")


# ---------------------------------------------------------------------------------- types


@pytest.mark.parametrize("value", [None, 5, np.zeros((3, 4)), b"map.fits", ["map.fits"], {}])
def test_a_type_that_is_no_map(value):
    refuse(value, "map must be a path .*, an astropy HDUList, a gammapy WcsNDMap", TypeError)


def test_gammapy_objects_that_are_no_map():
    from gammapy.datasets import MapDataset
    from gammapy.maps import MapAxis, RegionNDMap

    axis = MapAxis.from_energy_bounds("1 GeV", "10 GeV", 2)
    refuse(axis, "gammapy WcsNDMap, HpxNDMap or MapDataset, .*; got MapAxis", TypeError)
    region = RegionNDMap.create("icrs;circle(0,0,1)", axes=[axis])
    refuse(region, "or a SkyMap; got RegionNDMap", TypeError)
    refuse(MapDataset(name="bare"), "a dataset with counts was expected; 'bare' has none")


def test_gammapy_maps_at_single_energies():
    from gammapy.maps import Map, MapAxis

    axis = MapAxis.from_nodes([1, 10, 100], unit="GeV", name="energy_true", interp="log")
    refuse(Map.create(npix=4, axes=[axis], frame="icrs"), "'energy_true' has single energies")


# ------------------------------------------------------------------------------- response


@pytest.mark.parametrize("name", ["exposure", "background", "psf"])
def test_response_files_that_are_missing_or_of_a_wrong_type(name, rng, tmp_path):
    hdus = cube_hdus(poisson_cube(rng))
    refuse(
        hdus, "no such file: .*nothing.fits", FileNotFoundError, **{name: tmp_path / "nothing.fits"}
    )
    refuse(hdus, f"{name} must be a path or a gammapy .*; got int", TypeError, **{name: 5})


def test_response_files_that_hold_something_else(real_data):
    cube = real_data / "gc/fermi-3fhl-gc-counts-cube.fits.gz"
    psf = real_data / "gc/fermi-3fhl-gc-psf-cube.fits.gz"
    refuse(cube, "psf must be a file of gtpsf .* with the HDUs EBOUNDS, GTI, PRIMARY", psf=cube)
    refuse(cube, "exposure must be a map; got .* no image or HEALPix", exposure=psf)
    refuse(cube, "background must be a map", background=psf)


def test_an_exposure_frame_that_is_unknown_or_cannot_be_told(rng, tmp_path):
    columns = [fits.Column("ENERGY1", "D", array=rng.uniform(1, 2, 768))]
    table = fits.BinTableHDU.from_columns(columns, name="HPXEXPOSURES")
    table.header.update({"PIXTYPE": "HEALPIX", "ORDERING": "RING", "NSIDE": 8})
    path = tmp_path / "exposure.fits"
    energies = energies_hdu([10.0])
    fits.HDUList([fits.PrimaryHDU(), table, energies]).writeto(path)
    hdus = cube_hdus(poisson_cube(rng))
    refuse(hdus, "give exposure_frame 'galactic' or 'icrs'", exposure=path)
    refuse(hdus, "exposure_frame must be .*; got 'fk4'", exposure=path, exposure_frame="fk4")
    assert read_map(hdus, exposure=path, exposure_frame="icrs").n_photons > 0
