import io
import sys

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from made_catalogs import make_catalog, make_measured, make_sources
from matplotlib.colors import to_rgba

from astro_unetloc import plot, plot_sources
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.sphere import vectors_from_lonlat


def make_photons(n=2000, *, lon=(-5.0, 5.0), lat=(-3.0, 3.0), seed=0):
    rng = np.random.default_rng(seed)
    vectors = vectors_from_lonlat(rng.uniform(*lon, n), rng.uniform(*lat, n))
    return Photons(vectors, np.full(n, 20.0))


NOTHING = Photons(np.zeros((0, 3)), np.zeros(0))
ORIGIN = SkyCoord(0, 0, unit="deg", frame="galactic")


def projection(figure):
    return figure.axes[0].wcs.wcs.ctype[0][-3:]


def image_of(figure):
    """Counts per deg2 in the pixels of a field, and the number of photons in them."""
    image, step_deg = np.asarray(figure.axes[0].images[0].get_array()), figure.axes[0].wcs.wcs.cdelt
    return image, image.sum() * step_deg[1] ** 2


def test_field_is_drawn_with_coordinates_and_sources(tmp_path):
    catalog = make_catalog(make_sources(lon=[0.0, 2.0, 180.0], lat=[0.0, 1.0, 0.0]))
    path = tmp_path / "field.png"
    figure = plot_sources(make_photons(), catalog, path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert catalog.meta["CREATOR"].encode() in path.read_bytes()
    assert projection(figure) == "TAN"
    assert figure.axes[0].get_title() == "2,000 photons, 2 sources"
    texts = [text.get_text() for text in figure.axes[0].texts]
    shown = catalog["Source_Name"][catalog["GLON"].value < 90]
    assert sorted(texts) == sorted(name.removeprefix("UNL ") for name in shown)


def test_source_stands_on_its_photons():
    catalog = make_catalog(make_sources(lon=[1.5], lat=[-0.7]))
    bright = Photons(np.repeat(vectors_from_lonlat([1.5], [-0.7]), 900, axis=0), np.ones(900))
    figure = plot_sources([make_photons(5000), bright], catalog)
    image, n_photons = image_of(figure)
    y, x = np.unravel_index(image.argmax(), image.shape)
    circle = figure.axes[0].collections[0].get_offsets()[0]
    assert np.hypot(*(circle - (x, y))) < 1.5
    assert n_photons == pytest.approx(5900, rel=0.01)  # smoothing loses a few beyond the edge


def test_center_and_radius_choose_the_field():
    center = SkyCoord(2.0, 1.0, unit="deg", frame="galactic")
    figure = plot_sources(make_photons(), make_measured(3), center=center, radius=1 * u.deg)
    wcs = figure.axes[0].wcs
    assert wcs.wcs.crval == pytest.approx([2.0, 1.0])
    count = int(figure.axes[0].get_title().split(" ")[0])
    assert count == pytest.approx(2000 * 4 / 60, abs=40)


def test_wide_footprint_is_drawn_as_the_whole_sky():
    photons = make_photons(3000, lon=(0, 360), lat=(-80, 80))
    stream = io.BytesIO()
    figure = plot_sources(photons, make_measured(30), path=stream)
    assert projection(figure) == "AIT"
    assert stream.getvalue().startswith(b"\x89PNG")
    assert len(figure.axes[0].collections[-1].get_offsets()) == 30
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert np.nansum(image) * 0.3**2 == pytest.approx(3000, rel=0.01)


def test_circles_are_colored_by_class_and_the_legend_has_their_numbers():
    catalog = make_catalog(make_sources(lon=[0.0, 1.0, 2.0, 180.0], lat=np.zeros(4)))
    assert not plot_sources(make_photons(), catalog).legends  # no class is known
    catalog["Class"] = np.where(catalog["GLON"].value == 180, "other", "agn")
    catalog["Class"][catalog["GLON"].value == 1] = "psr"
    figure = plot_sources(make_photons(), catalog)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["AGN (2)", "pulsar (1)"]
    circles = figure.axes[0].collections[0]
    x, colors = circles.get_offsets()[:, 0], circles.get_edgecolors()
    of_pulsar = colors[np.argsort(x)[1]]
    legend = [to_rgba(line.get_color()) for line in figure.legends[0].get_lines()]
    assert tuple(of_pulsar) == legend[1] != legend[0]
    assert (colors == legend[0]).all(axis=1).sum() == 2


@pytest.mark.parametrize("n_sources", [0, 1])
def test_few_or_no_photons_make_a_picture_too(n_sources):
    catalog = make_measured(n_sources)
    for photons, options in (
        ([], {}), (make_photons(1), {}), (NOTHING, {"center": ORIGIN}),
    ):  # fmt: skip
        assert plot_sources(photons, catalog, path=io.BytesIO(), **options).axes


@pytest.mark.parametrize(("lon", "lat"), [((355.0, 365.0), (-3.0, 3.0)), ((0.0, 360.0), (86, 90))])
def test_field_across_longitude_zero_or_at_the_pole_is_one_field(lon, lat):
    assert projection(plot_sources(make_photons(lon=lon, lat=lat), make_measured(0))) == "TAN"


def test_odd_names_do_not_break_the_picture():
    catalog = make_catalog(make_sources(lon=[0.0], lat=[0.0]))
    catalog["Source_Name"] = ["$x_{ \\ & {"]
    assert plot_sources(make_photons(), catalog, path=io.BytesIO()).axes


def test_long_lists_are_held_in_pixels(monkeypatch):
    monkeypatch.setattr(plot, "_MAX_PHOTONS", 1500)
    monkeypatch.setattr(plot, "_FINE_NSIDE", 64)
    chunks = [make_photons(1000, seed=seed) for seed in range(4)]
    figure = plot_sources(iter(chunks), make_measured(0))
    assert figure.axes[0].get_title().startswith("4,000 photons")
    assert image_of(figure)[1] == pytest.approx(4000, rel=0.01)


def test_a_map_and_its_photons_make_the_same_picture():
    footprint = DiscFootprint(vectors_from_lonlat(0.0, 0.0), 8.0)
    photons = make_photons()
    sky_map = SkyMap(events=photons, footprint=footprint, energy_edges=np.array([10.0, 100.0]))
    one, two = (plot_sources(p, make_measured(0)).axes[0].images[0] for p in (sky_map, photons))
    np.testing.assert_array_equal(one.get_array(), two.get_array())


def test_picture_has_the_format_of_its_suffix_and_leaves_pyplot_alone(tmp_path):
    plot_sources(make_photons(), make_measured(1), path=tmp_path / "p.pdf")
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


def test_real_field_is_drawn(real_data, tmp_path):
    events = fits.getdata(real_data / "gc" / "fermi-3fhl-gc-events.fits.gz", 1)
    vectors = vectors_from_lonlat(events["L"].astype(float), events["B"].astype(float))
    photons = Photons(vectors, events["ENERGY"] / 1e3)
    reference = read_catalog(real_data / "catalogs" / "gll_psch_v13.fit.gz")
    figure = plot_sources(photons, reference, path=tmp_path / "gc.png")
    assert figure.axes[0].get_title().startswith("32,843 photons, ")
