import io
import sys

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from conftest import make_wcs
from gammapy.maps import HpxGeom, Map, MapAxis, WcsGeom
from made_catalogs import make_catalog, make_measured, make_sources
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from astro_unetloc import plot_sources
from astro_unetloc.catalog.columns import CLASS_COLORS
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.plot import save_figure
from astro_unetloc.sphere import vectors_from_lonlat

EDGES = np.array([10.0, 100.0])
AXIS = MapAxis.from_energy_edges(EDGES * u.GeV)


def make_image(shape=(40, 60), *, lon=0.0, lat=0.0, unseen=0, **others):
    """A map of one photon a pixel; the first columns were not observed."""
    geom = WcsGeom(make_wcs(shape, lon=lon, lat=lat, **others), shape[::-1], axes=[AXIS])
    data = np.ones(geom.data_shape)
    data[..., :unseen] = np.nan
    return SkyMap(counts=Map.from_geom(geom, data=data), name="folder/m.fits")


def make_events(n=2000, *, lon=(-5.0, 5.0), lat=(-3.0, 3.0), radius_deg=6.0):
    rng = np.random.default_rng(0)
    vectors = vectors_from_lonlat(rng.uniform(*lon, n), rng.uniform(*lat, n))
    center = vectors_from_lonlat(np.mean(lon), np.mean(lat))
    footprint = DiscFootprint(center, radius_deg)
    return SkyMap(events=Photons(vectors, np.full(n, 20.0)), footprint=footprint,
                  energy_edges=EDGES)  # fmt: skip


def place_sources(n, *, size=(2.5, 1.5), seed=0):
    """A catalogue of n sources at random places of the map of `make_image`."""
    rng = np.random.default_rng(seed)
    catalog = make_catalog(make_sources(lon=rng.uniform(-1, 1, n) * size[0],
                                        lat=rng.uniform(-1, 1, n) * size[1]))  # fmt: skip
    catalog["Sqrt_TS"] = np.arange(n, 0.0, -1) + 3
    return catalog


def image_of(figure):
    return figure.axes[0].images[0].get_array()


def labels_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def legends_of(figure):
    """Texts of the legends below the picture."""
    return [[text.get_text() for text in legend.get_texts()] for legend in figure.artists]


def rings_of(figure):
    """Number of circles and of squares."""
    return [len(c.get_offsets()) for c in figure.axes[0].collections[-2:]]


def bare(catalog):
    return [name.removeprefix("UNL ") for name in catalog["Source_Name"]]


def test_small_image_is_drawn_in_its_own_pixels_and_the_unobserved_is_hatched():
    sky_map = make_image(unseen=20)
    figure = plot_sources(sky_map, make_measured(0))
    axes, image = figure.axes[0], image_of(figure)
    assert axes.wcs.to_header() == sky_map.pixels.wcs.to_header()
    assert image.shape == (40, 60)
    np.testing.assert_array_equal(np.ma.getmaskarray(image).all(axis=0), np.arange(60) < 20)
    np.testing.assert_allclose(image.compressed(), 100.0, rtol=0.01)  # pixels of 0.01 deg2
    assert axes.patch.get_hatch()
    unseen = axes.patch.get_facecolor()[:3]
    assert np.ptp(unseen) > 0.1  # a color, no gray of the counts
    assert axes.get_title() == "m.fits, 10\N{EN DASH}100 GeV, 1,600 photons, 0 sources".replace(
        "0 GeV", "0\N{NO-BREAK SPACE}GeV"
    ).replace("0 photons", "0\N{NO-BREAK SPACE}photons")
    assert not labels_of(figure)


def test_title_has_the_files_energies_exposure_and_numbers():
    exposure, photons = SurveyExposure(years=1.0), Photons(np.eye(3)[:1], np.ones(1))
    about = {"footprint": DiscFootprint(np.eye(3)[0], 2.0), "energy_edges": EDGES}
    for others, expected in (
        ({"name": "a.fits, b.fits", "header": {"ONTIME": 864000.0}}, "a.fits and 1 more"),
        ({"exposure": exposure}, "10\N{EN DASH}100 GeV"),
    ):  # fmt: skip
        sky_map = SkyMap(events=photons, **about, **others)
        title = plot_sources(sky_map, make_measured(0)).axes[0].get_title()
        title = title.replace("\N{NO-BREAK SPACE}", " ")
        assert title.startswith(expected)
        assert title.endswith("1 photon, 0 sources")
        assert ("10 days on time" in title) == ("header" in others)
        assert ("exposure 4." in title) == ("exposure" in others)


@pytest.mark.parametrize(("n", "is_keyed", "width"), [(5, False, 7.1), (60, True, 3.5)])
def test_every_source_has_its_name_or_a_number_with_a_key(n, is_keyed, width):
    catalog = place_sources(n)
    figure = plot_sources(make_image(), catalog, width=width)
    assert figure.get_figwidth() == width
    assert sum(rings_of(figure)) == n
    if not is_keyed:
        assert sorted(labels_of(figure)) == sorted(bare(catalog))
        return
    assert sorted(map(int, labels_of(figure))) == list(range(1, n + 1))
    key = [text.split() for text in legends_of(figure)[-1]]
    assert key == [[f"{k}", name] for k, name in enumerate(bare(catalog), 1)]
    for label in figure.axes[0].texts:  # each stands beside its source
        place = np.array(figure.axes[0].wcs.world_to_pixel(catalog["skycoord"]))
        np.testing.assert_allclose(label.xy, place[:, int(label.get_text()) - 1])


def test_names_cover_neither_each_other_nor_a_source():
    figure = plot_sources(make_image(), place_sources(9, seed=2))
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    centers = figure.axes[0].transData.transform([text.xy for text in figure.axes[0].texts])
    assert len(boxes) == 9
    for k, box in enumerate(boxes):
        assert box.count_overlaps(boxes[:k]) == 0
        assert not any(box.contains(*center) for center in centers)


def test_of_very_many_sources_all_are_drawn_and_the_most_significant_named():
    catalog = place_sources(400)
    figure = plot_sources(make_image(), catalog)
    labels, legends = labels_of(figure), legends_of(figure)
    assert sum(rings_of(figure)) == 400
    assert 3 <= len(labels) < 30
    assert sorted(labels) == sorted(bare(catalog)[: len(labels)])
    assert legends[-1] == [f"names: of 400 sources the {len(labels)} most significant"]


def test_ellipse_has_its_size_and_angle_on_the_sky():
    sky_map, catalog = make_image(lon=120.0, lat=50.0), make_measured(1)
    position = SkyCoord(120.8, 50.5, unit="deg", frame="galactic").icrs
    catalog["skycoord"][0], catalog["RAJ2000"], catalog["DEJ2000"] = (
        position,
        position.ra,
        position.dec,
    )
    catalog["Conf_95_SemiMajor"], catalog["Conf_95_SemiMinor"] = 0.6 * u.deg, 0.3 * u.deg
    axes = plot_sources(sky_map, catalog).axes[0]
    (outline,) = axes.collections[0].get_paths()
    ends = axes.wcs.pixel_to_world(*outline.vertices.T).icrs
    distance = position.separation(ends).deg
    assert (distance.max(), distance.min()) == pytest.approx((0.6, 0.3), rel=2e-3)
    angle = position.position_angle(ends[np.argmax(distance)]).deg
    assert angle % 180 == pytest.approx(30.0, abs=1.5)
    assert rings_of(axes.figure) == [0, 0]  # large enough to see


def test_color_is_the_class_width_the_score_and_shape_the_flags():
    catalog = place_sources(4)
    catalog["Class"] = np.array(["agn", "psr", "other", ""])
    catalog["Flags"] = np.array([16, 2, 4, 0], "i2")
    catalog["Score"] = np.array([0.999, 0.95, 0.5, 0.999], "f4")
    figure = plot_sources(make_image(), catalog)
    circles, squares = figure.axes[0].collections[-2:]
    assert [to_hex(c) for c in circles.get_edgecolors()] == [CLASS_COLORS["agn"], "#000000"]
    assert [to_hex(c) for c in squares.get_edgecolors()] == [
        CLASS_COLORS["psr"],
        CLASS_COLORS["other"],
    ]
    assert circles.get_linewidths()[0] > squares.get_linewidths()[0] > squares.get_linewidths()[1]
    legend, flags = legends_of(figure)
    assert legend[:4] == ["AGN (1)", "pulsar (1)", "other (1)", "class unknown (1)"]
    assert legend[4:7] == ["Score \u2265 0.99", "Score \u2265 0.9", "Score < 0.9"]
    assert flags == ["flagged: blended, wide"]


# Machado et al. (2009), severity 1.0, in linear RGB.
DEUTERANOPE = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
PROTANOPE = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]


@pytest.mark.parametrize("eye", [np.eye(3), DEUTERANOPE, PROTANOPE])
def test_classes_differ_for_every_eye(eye):
    def lab(rgb):
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(linear @ np.transpose(eye), 0, 1)
        to_xyz = [[0.434, 0.213, 0.018], [0.376, 0.715, 0.110], [0.190, 0.072, 0.872]]
        xyz = seen @ np.array(to_xyz)
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
        return np.column_stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    colors = lab(np.array([to_rgb(CLASS_COLORS[name]) for name in ("agn", "psr", "other")]))
    grays = lab(np.repeat(np.linspace(0, 1, 50)[:, None], 3, axis=1))
    apart = np.linalg.norm(colors[:, None] - colors, axis=-1)[np.triu_indices(3, 1)]
    assert apart.min() > 25  # 2.3 are just noticeable
    assert np.linalg.norm(colors[:, None] - grays, axis=-1).min() > 15


def test_wide_field_is_the_whole_sky_hatched_where_unobserved_without_streaks_at_the_poles():
    shape = (180, 360)
    geom = WcsGeom(make_wcs(shape, pixel_deg=1.0, projection="CAR"), shape[::-1], axes=[AXIS])
    counts = (
        np.random.default_rng(0).poisson(100 * geom.solid_angle().to_value("deg2")).astype(float)
    )
    counts[:, :90] = np.nan
    sky_map = SkyMap(counts=Map.from_geom(geom, data=counts))
    figure = plot_sources(sky_map, make_measured(30))
    axes, image = figure.axes[0], image_of(figure)
    assert axes.wcs.wcs.ctype[0] == "GLON-AIT"
    assert axes.patch.get_hatch()
    assert np.ma.getmaskarray(image)[:265].all()
    assert not np.ma.getmaskarray(image)[280:540, 541].any()
    assert image[500:].compressed() == pytest.approx(100.0, rel=0.5)
    assert image.sum() * 0.3**2 == pytest.approx(sky_map.n_photons, rel=0.03)
    assert sum(rings_of(figure)) == 30


@pytest.mark.parametrize("kind", ["hpx", "events", "pole"])
def test_other_fields_are_drawn_in_an_equal_area_projection(kind):
    if kind == "hpx":
        geom = HpxGeom(64, frame="icrs", region="DISK(80, 20, 6)", axes=[AXIS])
        sky_map = SkyMap(counts=Map.from_geom(geom, data=np.full(geom.data_shape, 20.0)))
    elif kind == "events":
        sky_map = make_events()
    else:  # the pixels of this image become smaller towards the pole
        sky_map = make_image((40, 400), lat=0.0, projection="CAR", pixel_deg=0.1)
        wcs = make_wcs((40, 400), projection="CAR")
        wcs.wcs.crpix[1] -= 860  # from 84 to 88 degrees
        geom = WcsGeom(wcs, (400, 40), axes=[AXIS])
        sky_map = SkyMap(counts=Map.from_geom(geom, data=np.ones(geom.data_shape)))
    figure = plot_sources(sky_map, make_measured(0))
    lon, projection = figure.axes[0].wcs.wcs.ctype[0][:4], figure.axes[0].wcs.wcs.ctype[0][-3:]
    assert (lon, projection) == ("RA--" if kind == "hpx" else "GLON", "ZEA")
    image, pixel_deg = image_of(figure), figure.axes[0].wcs.wcs.cdelt[1]
    assert image.sum() * pixel_deg**2 == pytest.approx(sky_map.n_photons, rel=0.05)


def test_frame_turns_a_field():
    sky_map = make_image()
    own = plot_sources(sky_map, make_measured(0), frame="galactic").axes[0]
    assert own.wcs.wcs.ctype[0] == sky_map.pixels.wcs.wcs.ctype[0]  # its own pixels
    figure = plot_sources(sky_map, place_sources(3), frame="icrs")
    assert figure.axes[0].wcs.wcs.ctype[0] == "RA---ZEA"
    assert figure.axes[0].coords[0].get_axislabel() == "Right ascension"
    with pytest.raises(InputError, match="frame must be galactic or icrs; got 'fk4'"):
        plot_sources(sky_map, make_measured(0), frame="fk4")


def test_center_and_radius_choose_the_field():
    center = SkyCoord(1.0, 0.5, unit="deg", frame="galactic")
    figure = plot_sources(make_image(), make_measured(3), center=center, radius=1 * u.deg)
    lon, lat = figure.axes[0].wcs.pixel_to_world_values([0, 19], [0, 19])
    assert lon == pytest.approx([2.0, 0.0], abs=0.11)
    assert lat == pytest.approx([-0.5, 1.5], abs=0.11)


@pytest.mark.parametrize("limits", [None, (9.5, 29.5)])
def test_axes_of_the_user_are_drawn_on_in_their_projection_and_limits(limits):
    sky_map, catalog = make_image(), place_sources(3, size=(0.2, 0.2))
    figure = Figure()
    axes = figure.add_subplot(projection=sky_map.pixels.wcs)
    if limits:
        axes.set(xlim=limits, ylim=limits)
    assert plot_sources(sky_map, catalog, ax=axes, title="mine") is figure
    assert axes.get_title() == "mine"
    assert image_of(figure).shape == ((20, 20) if limits else (40, 60))
    assert len(labels_of(figure)) == (3 if limits is None else len(labels_of(figure)))
    other = Figure().add_subplot(projection=sky_map.pixels.wcs)
    other.imshow(np.zeros((40, 60)))
    plot_sources(None, catalog, ax=other)
    legend = other.figure.artists[0].get_window_extent()
    assert legend.y1 < other.bbox.y0  # below, and not cut off by bbox_inches="tight"
    assert other.figure.get_tightbbox().y0 * other.figure.dpi <= legend.y0 + 1
    assert len(other.images) == 1
    assert len(other.texts) == 3


def test_wrong_axes_and_suffixes_are_refused(tmp_path):
    with pytest.raises(InputError, match="ax must be a WCSAxes; got Axes; make one with a WCS"):
        plot_sources(make_image(), make_measured(0), ax=Figure().add_subplot())
    with pytest.raises(InputError, match="got neither; give a map or ax"):
        plot_sources(None, make_measured(0))
    with pytest.raises(InputError, match="a picture must end in .png, .pdf, .svg; got 'x.jpg'"):
        plot_sources(make_image(), make_measured(0), path="x.jpg")


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_files_are_small_the_same_each_time_and_hold_text_as_text(tmp_path, suffix):
    catalog, path, stream = place_sources(5), tmp_path / f"x{suffix}", io.BytesIO()
    figure = plot_sources(make_image(), catalog, path=path)
    save_figure(figure, stream, suffix[1:], catalog.meta)
    content = path.read_bytes()
    assert content == stream.getvalue()
    assert content.startswith({".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix])
    assert len(content) < 200_000
    if suffix == ".svg":
        assert all(name in content.decode() for name in bare(catalog))
    else:
        assert catalog.meta["CREATOR"].encode() in content
    if suffix == ".pdf":
        assert b"/CIDFontType2" in content  # TrueType (Type 42), not Type 3
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize("n_photons", [0, 1])
def test_few_or_no_photons_make_a_picture_too(n_photons):
    sky_map = make_events(n_photons, radius_deg=2.0)
    for n_sources in (0, 1):
        assert plot_sources(sky_map, make_measured(n_sources)).axes


def test_odd_names_do_not_break_the_picture():
    catalog = place_sources(1)
    catalog["Source_Name"] = ["$x_{ \\ & {"]
    figure = plot_sources(make_image(), catalog)
    save_figure(figure, io.BytesIO(), "svg", catalog.meta)
    assert labels_of(figure) == ["$x_{ \\ & {"]


def test_real_field_is_keyed_with_all_sources_of_a_catalogue(real_data):
    reference = read_catalog(real_data / "catalogs" / "gll_psch_v13.fit.gz")
    folder = real_data / "gc"
    figure = plot_sources(folder / "fermi-3fhl-gc-counts-cube.fits.gz", reference, width=3.5)
    assert "32,684\N{NO-BREAK SPACE}photons" in figure.axes[0].get_title()
    place = np.array(figure.axes[0].wcs.world_to_pixel(reference["skycoord"]))
    n_inside = np.sum((place > -0.5).all(axis=0) & (place[0] < 399.5) & (place[1] < 199.5))
    assert len(labels_of(figure)) == len(legends_of(figure)[-1]) == n_inside
