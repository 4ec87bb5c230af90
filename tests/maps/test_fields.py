"""What was selected and observed: cuts, masks, units and several files, in every kind of file."""

import bz2
import lzma

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from gammapy.datasets import MapDataset
from gammapy.maps import HpxGeom, Map, MapAxis, WcsGeom
from made_files import EDGES_GEV, cube_hdus, ebounds, event_hdus, healpix_hdus, image_header
from made_maps import refuse

from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.maps.read import read_map

AXIS = MapAxis.from_energy_edges(EDGES_GEV, unit="GeV", name="energy")
COUNTS = np.random.default_rng(1).poisson(0.5, (3, 20, 30)).astype(np.int32)
COARSE = "ignore:pixels of .* coarser"


def energy_cuts(*values, unit="MeV"):
    return [("ENERGY", unit, value) for value in values]


def with_cuts(hdu, cuts):
    for number, (kind, unit, value) in enumerate(cuts, 1):
        hdu.header.update({f"DSTYP{number}": kind, f"DSUNI{number}": unit, f"DSVAL{number}": value})
    return hdu


def some_events(rows=slice(None), cuts=(), **columns):
    """Some of 100 events on a line, with further columns (100,)."""
    number = np.arange(100)[rows]
    hdus = event_hdus(150 + 0.02 * number, np.full(len(number), 40.0), 2e4 + 10 * number, cuts)
    extra = fits.ColDefs([fits.Column(n, "D", array=v[rows]) for n, v in columns.items()])
    hdus[1] = fits.BinTableHDU.from_columns(hdus[1].columns + extra, hdus[1].header)
    return hdus


def an_image(cuts=(), counts=1):
    counts = np.zeros((60, 60), np.int32) + counts
    header = image_header((60, 60), projection="TAN", frame="icrs", lon=150.0, lat=40.0)
    return fits.HDUList([with_cuts(fits.PrimaryHDU(counts, header), cuts)])


@pytest.mark.parametrize("made", [some_events, an_image])
@pytest.mark.parametrize(
    "cuts, expected",
    [
        (energy_cuts("100:300000", "10000:2000000"), (10, 300)),
        (energy_cuts("10000:2000000", "100:300000", "15000:400000"), (15, 300)),
        (energy_cuts("10:300", unit="GeV") + energy_cuts("5000:100000"), (10, 100)),
        (
            energy_cuts("100:1000", "10000:30000"),
            "cuts of the header must overlap; got 0.1-1, 10-3",
        ),
        (energy_cuts("100:1000,10000:30000"), "two energies were expected in DSVAL1"),
    ],
)
def test_energy_cuts_mean_their_intersection(made, cuts, expected):
    if isinstance(expected, str):
        refuse(made(cuts=cuts), expected)
    else:
        assert tuple(read_map(made(cuts=cuts)).energy_edges) == pytest.approx(expected)


def test_cuts_may_stand_in_the_primary_header():
    hdus = some_events()
    with_cuts(hdus[0], energy_cuts("10000:300000", "1000:40000"))
    assert tuple(read_map(hdus).energy_edges) == (10, 40)
    image = an_image()[0]
    hdus = fits.HDUList([hdus[0], *(fits.ImageHDU(n * image.data, image.header) for n in (1, 5))])
    with pytest.warns(UnetlocWarning, match="the first of the maps .* is read; choose another"):
        sky_map = read_map(hdus)
    assert (*sky_map.energy_edges, sky_map.n_photons) == (10, 40, 3600)


@pytest.mark.filterwarnings(COARSE)
@pytest.mark.parametrize("made", ["events", "image", "cube", "healpix"])
@pytest.mark.parametrize(
    "circles, seen",
    [
        ([("deg", "CIRCLE(150,40,2)")], [True, False, True]),
        ([("deg", "CIRCLE(150,40,9)"), ("deg", "circle(150, 40, 2)")], [True, False, True]),
        ([("deg", "CIRCLE(150,40,2)"), ("deg", "CIRCLE(150,41.8,2)")], [True, False, False]),
        ([("rad", "CIRCLE(2.617994,0.698132,0.034907)")], [True, False, True]),
    ],
)
def test_circles_are_what_was_observed(made, circles, seen):
    cuts = energy_cuts("10000:150000") + [("POS(RA,DEC)", *circle) for circle in circles]
    image = np.zeros((60, 60), np.int32)
    image[40, 30] = 3
    hdus = some_events([0, 1], cuts) if made == "events" else an_image(cuts, image)
    if made == "cube":
        hdus[0].data = np.stack([image] * 3)
        hdus.append(ebounds())
    elif made == "healpix":
        hdus = healpix_hdus(np.zeros((3, 12 * 128**2)), NSIDE=128, COORDSYS="CEL")
        with_cuts(hdus[1], cuts)
    center = SkyCoord(150 * u.deg, 40 * u.deg)
    places = [center.directional_offset_by(a * u.deg, r * u.deg) for a, r in
              ((0, 1.2), (0, 2.7), (180, 1.2))]  # fmt: skip
    vectors = np.array([place.galactic.cartesian.xyz.value for place in places])
    np.testing.assert_array_equal(read_map(hdus).covers(vectors), seen)


def test_a_circle_that_the_counts_contradict_is_not_used():
    with pytest.warns(UnetlocWarning, match="2.* pixels with counts lie outside the circle of the"):
        sky_map = read_map(
            an_image([*energy_cuts("10000:20000"), ("POS(RA,DEC)", "deg", "CIRCLE(150,40,1)")])
        )
    assert sky_map.n_photons == 3600
    assert not np.isnan(sky_map.planes).any()


TIMES = {"TIME": np.arange(100.0)}
IDS = {"RUN_ID": np.full(100, 7.0), "EVENT_ID": np.arange(100.0)}


@pytest.mark.parametrize("columns", [TIMES, IDS, {}])
@pytest.mark.parametrize("how", ["list", "text", "pattern", "hdus"])
def test_several_event_lists_are_one_and_no_photon_counts_twice(
    how, columns, tmp_path, monkeypatch
):
    cuts = energy_cuts("10000:150000")
    parts = [some_events(rows, cuts, **columns) for rows in (slice(60), slice(50, None))]
    starts = np.array([0.0, 40.0])
    for number, (part, start) in enumerate(zip(parts, starts)):
        times = [
            fits.Column("START", "D", array=[start]),
            fits.Column("STOP", "D", array=[start + 60]),
        ]
        part.append(fits.BinTableHDU.from_columns(times, name="GTI"))
        part[1].header.update({"DATE-OBS": f"2020-01-0{number + 1}", "DATE-END": "2020-01-09"})
        part.writeto(tmp_path / f"week{number}.fits")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weeks.txt").write_text("week0.fits\n# a comment\n\nweek1.fits  # another\n")
    given = {
        "list": ["week0.fits", tmp_path / "week1.fits"],
        "text": "@weeks.txt",
        "pattern": "week?.fits",
        "hdus": fits.HDUList([fits.PrimaryHDU(), *parts[0][1:], *parts[1][1:]]),
    }
    with pytest.warns(UnetlocWarning, match="10 photons stand in the event lists twice; each is"):
        sky_map = read_map(given[how])
    assert sky_map.n_photons == 100
    np.testing.assert_array_equal(sky_map.energy_edges, [10, 150])
    if how != "hdus":
        assert sky_map.header["ONTIME"] == 100
        assert (sky_map.header["DATE-OBS"], sky_map.header["DATE-END"]) == (
            "2020-01-01",
            "2020-01-09",
        )
        assert sky_map.name == "week0.fits, week1.fits"


def test_a_list_that_holds_a_photon_twice_counts_it_once():
    rows = [*range(50), *range(10)]
    with pytest.warns(UnetlocWarning, match="10 photons stand"):
        assert read_map(some_events(rows, **TIMES)).n_photons == 50


def test_event_lists_with_other_cuts_have_what_is_common(tmp_path):
    paths = [tmp_path / f"{number}.fits" for number in range(3)]
    for path, rows, cut, zenith in zip(
        paths,
        (slice(50), slice(50, None), slice(60, 69)),
        ("10000:20900", "20200:90000", "1:2"),
        (90, 90, 105),
    ):
        some_events(rows, [*energy_cuts(cut), ("ZENITH_ANGLE", "deg", f"0:{zenith}")]).writeto(path)
    with pytest.warns(UnetlocWarning, match="29 of 100 photons lie outside 20.2-20.9 GeV"):
        assert read_map(paths[:2]).n_photons == 71
    refuse(paths[::2], "the energies of the event lists must overlap; got")
    some_events(
        slice(60, 69), [*energy_cuts("10000:20900"), ("ZENITH_ANGLE", "deg", "0:105")]
    ).writeto(paths[2], overwrite=True)
    with pytest.warns(UnetlocWarning) as caught:
        read_map(paths[::2])
    assert any("other selections of events" in str(item.message) for item in caught)


@pytest.mark.parametrize(
    "circle",
    ["CIRCLE(1,2)", "CIRCLE(1,2,-5)", "CIRCLE(nan,2,5)", "circle(1,200,5)", "CIRCLE(a,b,c)"],
)
@pytest.mark.parametrize("made", [some_events, an_image])
def test_circles_that_are_none_are_refused(made, circle):
    refuse(made(cuts=[("POS(RA,DEC)", "deg", circle)]), r"DSVAL1 must be CIRCLE\(ra,dec,radius\)")


@pytest.mark.parametrize(
    "column, match",
    [
        (fits.Column("RA", "5A", array=["a"] * 100), "column RA must be real numbers; got <U5"),
        (fits.Column("RA", "C", array=np.ones(100, complex)), "must be real numbers; got complex"),
        (fits.Column("RA", "2E", array=np.ones((100, 2))), "one number a row was expected in RA"),
        (
            fits.Column("TIME", "2E", array=np.ones((100, 2))),
            "one number a row was .* TIME, ENERGY",
        ),
        (fits.Column("RA", "D", array=np.full(100, 1e300)), "finite positions .* got 100 without"),
        (fits.Column("DEC", "D", array=np.full(100, 95.0)), "finite positions .* got 100 without"),
        (fits.Column("RA", "J", null=0, array=np.arange(100)), "finite positions .* got 1 without"),
    ],
)
def test_columns_of_events_that_cannot_be_used(column, match):
    hdus = some_events()
    others = [other for other in hdus[1].columns if other.name != column.name]
    hdus[1] = fits.BinTableHDU.from_columns([*others, column], hdus[1].header)
    refuse(hdus, match)


def test_what_are_not_several_event_lists(tmp_path):
    some_events().writeto(tmp_path / "e.fits")
    an_image().writeto(tmp_path / "m.fits")
    refuse([tmp_path / "e.fits", tmp_path / "m.fits"], "must be event lists; got m.fits; give one")
    for text in (b"# nothing", b"@none.txt"):
        (tmp_path / "none.txt").write_bytes(text)
        refuse(f"@{tmp_path}/none.txt", "names of files, one a line, were expected in .*none.txt")
    refuse(f"@{tmp_path}/missing.txt", "no such file", FileNotFoundError)
    refuse(f"{tmp_path}/*.fit", "no such file", FileNotFoundError)
    refuse(tmp_path, "several event lists as '.*/*.fits'")
    refuse([], "a path or a list of paths; got", TypeError)
    refuse(["a", 5], "a path or a list of paths; got", TypeError)


@pytest.mark.filterwarnings(COARSE)
@pytest.mark.parametrize("how", ["object", "file", "healpix file"])
def test_counts_outside_of_mask_safe_are_not_observed(how, tmp_path):
    geom = WcsGeom.create(npix=(30, 20), binsz=0.1, frame="galactic", axes=[AXIS])
    if how == "healpix file":
        geom = HpxGeom(256, nest=False, frame="galactic", axes=[AXIS], region="DISK(110,75,6)")
    counts = Map.from_geom(geom, data=np.ones(geom.data_shape, np.float32))
    mask = Map.from_geom(geom, data=np.ones(geom.data_shape, bool))
    mask.data[..., :5] = False
    mask.data[0] = False
    if how == "healpix file":
        counts.write(tmp_path / "d.fits", hdu="COUNTS")
        mask.data = mask.data.astype(np.float32)
        mask.write(tmp_path / "m.fits", hdu="MASK_SAFE")
        with fits.open(tmp_path / "d.fits") as first, fits.open(tmp_path / "m.fits") as second:
            fits.HDUList([*first, *second[1:]]).writeto(tmp_path / "all.fits")
        sky_map = read_map(tmp_path / "all.fits")
    else:
        dataset = MapDataset(counts=counts, mask_safe=mask, name="d")
        dataset.write(tmp_path / "d.fits")
        sky_map = read_map(dataset if how == "object" else tmp_path / "d.fits")
    assert sky_map.n_photons == mask.data.sum()
    assert np.isnan(sky_map.counts.data).sum() == (mask.data == 0).sum()


@pytest.mark.parametrize(
    "dtype, bzero, blank", [(">i2", 0, -1), (">i4", 0, -99), (">i2", 32768, 32767), ("u1", 0, 255)]
)
@pytest.mark.parametrize("pack", [lambda content: content, bz2.compress, lzma.compress])
def test_blank_integers_are_not_observed(dtype, bzero, blank, pack, tmp_path):
    hdus = cube_hdus(COUNTS)
    table = hdus[1]
    raw = (COUNTS - bzero).astype(dtype)
    raw[0, 0, :3] = blank
    cards = dict(hdus[0].header) | {"BLANK": blank} | ({"BZERO": bzero} if bzero else {})
    names = ("CTYPE", "CRPIX", "CRVAL", "CDELT", "CUNIT", "BLANK", "BZERO")
    head = [("SIMPLE", "T"), ("BITPIX", 8 * raw.dtype.itemsize), ("NAXIS", 3)]
    head += [(f"NAXIS{n + 1}", size) for n, size in enumerate(raw.shape[::-1])]
    head += [(k, repr(v)) for k, v in cards.items() if k.startswith(names)]
    text = "".join(f"{k:<8}= {v:>20}".ljust(80) for k, v in head) + "END"
    content = text.ljust(2880).encode() + raw.tobytes().ljust(-(-raw.nbytes // 2880) * 2880, b"\0")
    table.writeto(tmp_path / "t.fits")
    content += (tmp_path / "t.fits").read_bytes()[2880:]
    (tmp_path / "m.fits").write_bytes(pack(content))
    sky_map = read_map(tmp_path / "m.fits")
    assert sky_map.n_photons == COUNTS.sum() - COUNTS[0, 0, :3].sum()
    assert np.isnan(sky_map.planes).sum() == 3


@pytest.mark.filterwarnings(COARSE)
def test_blank_integers_of_a_table_are_not_observed():
    hdus = healpix_hdus(np.ones((3, 768)), NSIDE=8)
    columns = [
        fits.Column(f"CHANNEL{n}", "J", null=-1, array=np.arange(768) % 4 - 1) for n in (1, 2, 3)
    ]
    hdus[1] = fits.BinTableHDU.from_columns(columns, hdus[1].header)
    sky_map = read_map(hdus)
    assert sky_map.n_photons == 3 * 192 * (0 + 1 + 2)
    assert np.isnan(sky_map.planes).sum() == 3 * 192


@pytest.mark.parametrize("kind", ["RICE_1", "GZIP_2", "uint16", "sparse", "sparse image"])
def test_compressed_scaled_and_sparse_images_are_read(kind, tmp_path):
    path, hdus = tmp_path / "m.fits", cube_hdus(COUNTS)
    if kind.startswith("sparse"):
        geom = WcsGeom.create(npix=(30, 20), binsz=0.1, frame="galactic", axes=[AXIS])
        sparse = Map.from_geom(geom, data=COUNTS.astype(float))
        if kind == "sparse image":
            sparse = sparse.sum_over_axes(keepdims=False)
        sparse.write(path, sparse=True)
    elif kind == "uint16":
        hdus[0].data = COUNTS.astype(np.uint16)
        hdus.writeto(path)
    else:
        image = fits.CompImageHDU(COUNTS, hdus[0].header, compression_type=kind, name="COUNTS")
        fits.HDUList([fits.PrimaryHDU(), image, hdus[1]]).writeto(path)
    sky_map = read_map(path, energy_range=(10, 150))
    expected = COUNTS.sum(axis=0)[None] if kind == "sparse image" else COUNTS
    np.testing.assert_array_equal(sky_map.counts.data, expected)


@pytest.mark.parametrize("unit", ["rad", "deg", "arcmin", "DEG", "degrees", None])
def test_positions_of_events_are_read_in_their_unit(unit):
    hdus, known = some_events(), {"rad": u.rad, "arcmin": u.arcmin}.get(unit, u.deg)
    for name in ("RA", "DEC"):
        hdus[1].data[name] = (hdus[1].data[name] * u.deg).to_value(known)
        hdus[1].columns[name].unit = unit
    vectors = read_map(some_events()).events.vectors
    np.testing.assert_allclose(read_map(hdus).events.vectors, vectors, atol=1e-6)
    hdus[1].columns["RA"].unit = "GeV"
    refuse(hdus, "RA must be in deg, rad or hourangle; got 'GeV'")


@pytest.mark.parametrize(
    "unit, area", [("cm-2 s-1", 1), ("m-2 s-1", 1e4), ("ph/cm2/s", 1), ("photon m**-2 s**-1", 1e4)]
)
def test_fluxes_are_read_in_their_unit(unit, area):
    geom = WcsGeom.create((30, 20), frame="galactic", binsz=0.1, axes=[AXIS], skydir=(0, 0))
    exposure = Map.from_geom(geom, data=np.full(geom.data_shape, 1e11), unit="cm2 s")
    hdus = cube_hdus(COUNTS / 1e11 * area)
    hdus[0].header["BUNIT"] = unit
    assert read_map(hdus, exposure=exposure).n_photons == COUNTS.sum()


@pytest.mark.parametrize("unit", ["counts", "photon", "ct", "", "count/pixel", "photons"])
def test_counts_have_no_unit(unit):
    hdus = cube_hdus(COUNTS)
    hdus[0].header["BUNIT"] = unit
    assert read_map(hdus).n_photons == COUNTS.sum()
    hdus[0].header["BUNIT"] = "1/(cm2 s sr MeV)"
    refuse(hdus, "counts, or a flux per area and time, were expected; got .*MeV")


@pytest.mark.parametrize("unit", [3, "3", "%"])
def test_a_number_in_the_place_of_the_unit_is_refused(unit):
    hdus = cube_hdus(COUNTS)
    hdus[0].header["BUNIT"] = unit
    refuse(hdus, "counts, or a flux per area and time, were expected")


@pytest.mark.filterwarnings("ignore:9 photons stand in the event lists twice")
def test_brackets_choose_an_hdu(tmp_path):
    image = an_image(energy_cuts("10000:150000"))[0]
    second = fits.ImageHDU(2 * image.data, image.header, name="COUNTS2")
    hdus = [image, second, *some_events()[1:], some_events(slice(9))[1]]
    fits.HDUList(hdus).writeto(tmp_path / "f.fits")
    expected = {"": 100, "[0]": 3600, "[1]": 7200, "[counts2]": 7200, "[3]": 9, "[2]": 100}
    for choice, n_photons in expected.items():
        assert read_map(f"{tmp_path}/f.fits{choice}").n_photons == n_photons
    refuse(f"{tmp_path}/f.fits[8]", "an HDU '8' was expected in .*; got PRIMARY, COUNTS2, EVENTS")
    (tmp_path / "f.fits").rename(tmp_path / "f[1].fits")
    assert read_map(f"{tmp_path}/f[1].fits[1]").n_photons == 7200


def test_unusable_parts_of_a_file_are_named_and_not_used():
    image = an_image(energy_cuts("10000:150000"))[0]
    header = image.header
    parts = {"EXPOSURE": 4e11, "BACKGROUND": 0.5}
    hdus = [
        fits.ImageHDU(np.full((60, 60), v, np.float32), header, name=n) for n, v in parts.items()
    ]
    hdus[0].header["BUNIT"] = "kelvin"
    counts = fits.ImageHDU(image.data, header, name="COUNTS")
    with pytest.warns(UnetlocWarning) as caught:
        sky_map = read_map(fits.HDUList([fits.PrimaryHDU(), counts, *hdus]))
    found = "the HDU EXPOSURE of HDUList is not used: exposure must be in cm2 s; got"
    assert any(str(item.message).startswith(found) for item in caught)
    assert sky_map.exposure is None
    assert sky_map.background.data.sum() == pytest.approx(1800)


@pytest.mark.parametrize("value", [2.0**24, 2.0**40, 1e30, 1e300])
def test_counts_that_no_instrument_has_are_refused(value):
    counts = np.ones((3, 20, 30))
    counts[1, 5, 5] = value
    refuse(
        cube_hdus(counts), "counts must be at most 1e.07 in a pixel .* got .* is the map damaged"
    )
    counts[1, 5, 5] = 2**20
    with pytest.warns(UnetlocWarning, match="one pixel holds 1,048,576 of 1,050,375 photons"):
        read_map(cube_hdus(counts))


def test_a_file_with_old_keywords_is_read_without_warnings(tmp_path):
    hdus = cube_hdus(COUNTS)
    old = {
        "DATE-OBS": "15/02/99",
        "MJD-OBS": 1.0,
        "EQUINOX": 2000.0,
        "RADECSYS": "FK5",
        "VELREF": 0,
    }
    hdus[0].header.update(old)
    hdus.writeto(tmp_path / "m.fits")
    sky_map = read_map(tmp_path / "m.fits")
    assert sky_map.covers(sky_map.pixels.centers([5])).all()
    assert len(list(sky_map.photons(0))) > 0
