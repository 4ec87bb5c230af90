"""Pictures of a search: the counts on the sky with the sources."""

import healpy
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.ndimage import gaussian_filter

from astro_unetloc.catalog.table import galactic_vectors, sky_positions, texts_of
from astro_unetloc.maps.patches import TangentPlane
from astro_unetloc.maps.photons import DEFAULT_SEED
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg

# Fields of a larger radius are drawn as the whole sky.
_MAX_FIELD_DEG = 20.0
# Pixels per side of the image of a field, standard deviation of the Gaussian that smooths its
# counts, and radius of the circle around a source.
_N_PIXELS, _SMOOTHING_DEG, _CIRCLE_DEG = 500, 0.08, 0.25
# The map behind the whole sky, and the pixels of its image in latitude and longitude.
_SKY_NSIDE, _SKY_SMOOTHING_DEG, _SKY_SHAPE = 128, 0.5, (540, 1080)
# Longer lists of photons are held as counts in pixels of this nside, so that memory stays bounded.
_MAX_PHOTONS, _FINE_NSIDE = 5_000_000, 512
# Sources get names up to this number, the first of the catalogue.
_MAX_LABELS, _LABEL_POINTS = 60, 6.5
_LONGEST_INCH = 8.0
_COLOR_MAP, _SOURCE_COLOR, _LABEL_COLOR = "inferno", "#5fe3ff", "white"
_OUTLINE = [withStroke(linewidth=1.5, foreground="black")]


def plot_sources(photons, catalog, *, center=None, radius=None, path=None, title=None):
    """Return a picture of the counts and the sources, of a field or, if it is wide, of the sky.

    Parameters
    ----------
    photons : SkyMap, Photons or iterable of Photons
        The map, or its photons in one list or in chunks.
    catalog : QTable
        Sources with positions; may have zero rows.
    center : SkyCoord, optional
        Centre of the field; the middle of the photons by default.
    radius : Quantity [angle], optional
        Radius of the field; up to the farthest photon by default.
    path : str, path-like or file, optional
        Where to write the picture, in the format of the suffix (PNG into an open file).
    title : str, optional
        Title; the numbers of photons and sources by default.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from astro_unetloc import find_sources, plot_sources, read_map
    >>> sky_map = read_map("map.fits")  # doctest: +SKIP
    >>> figure = plot_sources(sky_map, find_sources(sky_map), path="map.png")  # doctest: +SKIP
    """
    if isinstance(photons, SkyMap):
        photons = photons.photons(DEFAULT_SEED)
    vectors, weights = _gather([photons] if hasattr(photons, "vectors") else photons)
    axis, radius_deg = _field_of_view(vectors, center, radius)
    is_field = radius_deg <= _MAX_FIELD_DEG
    if is_field:
        plane = _plane(axis, radius_deg)
        catalog = catalog[_within(plane, galactic_vectors(catalog))]
        shown = _within(plane, vectors)
        vectors, weights = vectors[shown], weights[shown]
    if title is None:
        title = f"{int(weights.sum()):,} photons, {len(catalog):,} sources"
    shown = vectors, weights, catalog, title
    figure = _draw_field(plane, *shown) if is_field else _draw_sky(*shown)
    if path is not None:
        kind = "png" if hasattr(path, "write") else None
        figure.savefig(path, format=kind, dpi=150, facecolor="white")
    return figure


def canvas(width, height):
    """Return a figure of a width and height in inches that is drawn without a screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def stretch(image):
    """Return a power-law norm, which shows both faint and bright sources."""
    top = np.percentile(image, 99.8)
    return PowerNorm(0.5, vmin=0.0, vmax=float(top) if top > 0 else max(float(image.max()), 1.0))


def _gather(chunks):
    """Galactic unit vectors (n, 3) of photons or of pixels, and the number of photons in each."""
    kept, counts, n_kept = [np.zeros((0, 3))], 0, 0
    for chunk in chunks:
        kept.append(chunk.vectors)
        n_kept += len(chunk.vectors)
        if n_kept > _MAX_PHOTONS:
            index = healpy.vec2pix(_FINE_NSIDE, *np.concatenate(kept).T, nest=False)
            counts = counts + np.bincount(index, minlength=healpy.nside2npix(_FINE_NSIDE))
            kept = [np.zeros((0, 3))]
    vectors, filled = np.concatenate(kept), np.flatnonzero(counts)
    centers = np.stack(healpy.pix2vec(_FINE_NSIDE, filled, nest=False), axis=-1)
    weights = np.append(np.ones(len(vectors)), np.atleast_1d(counts)[filled])
    return np.concatenate([vectors, centers]), weights


def _field_of_view(vectors, center, radius):
    """Centre as a Galactic unit vector, and radius in degrees, of the picture."""
    axis = _middle(vectors) if center is None else center.galactic.cartesian.xyz.value
    if radius is not None:
        return axis, float(radius.to_value("deg"))
    if not len(vectors):
        return axis, 180.0 if center is None else 5.0
    # At least a degree, so that a single photon makes a picture too.
    return axis, float(np.clip(separation_deg(vectors, axis).max(), 1.0, 180.0))


def _middle(vectors):
    """Middle of the directions: the centre of their box around the mean direction."""
    mean = vectors.mean(axis=0) if len(vectors) else np.zeros(3)
    if np.linalg.norm(mean) < 0.5:  # spread over much of the sky
        return np.array([1.0, 0.0, 0.0])
    plane = TangentPlane(*(float(x) for x in lonlat_from_vectors(mean)), 1, 1.0)
    middle = ((np.nanmin(c) + np.nanmax(c)) / 2 for c in plane.pixel_from_vectors(vectors))
    return plane.vectors_from_pixel(*middle)


def _plane(axis, radius_deg):
    """Tangent plane that holds a disc of the sky."""
    lon, lat = (float(value) for value in lonlat_from_vectors(axis))
    half_deg = np.degrees(np.tan(np.radians(radius_deg)))
    return TangentPlane(lon, lat, _N_PIXELS, 2 * half_deg / _N_PIXELS)


def _within(plane, vectors):
    """Which directions lie in the image of a plane."""
    x, y = plane.pixel_from_vectors(vectors)  # NaN, so not within, behind the plane
    half = plane.n_pix / 2
    return (np.abs(x + 0.5 - half) < half) & (np.abs(y + 0.5 - half) < half)


# A field


def _draw_field(plane, vectors, weights, catalog, title):
    """Picture of a field in a tangent plane, in Galactic coordinates."""
    image = _field_image(plane, vectors, weights)
    box = _bounding_box(image)
    sizes = np.diff(box)[:, 0]
    width, height = sizes / sizes.max() * _LONGEST_INCH
    figure = canvas(max(width, 4.0) + 1.8, max(height, 3.2) + 0.9)
    axes = figure.add_subplot(projection=plane.wcs)
    picture = axes.imshow(image, origin="lower", cmap=_COLOR_MAP, norm=stretch(image))
    axes.set(xlim=box[0], ylim=box[1], title=title, facecolor="black")
    for coordinate, name in zip(axes.coords, ("longitude", "latitude")):
        coordinate.set_axislabel(f"Galactic {name}")
        coordinate.set_major_formatter("d.d")
    axes.coords.grid(color="white", alpha=0.15, linestyle="-", linewidth=0.6)
    bar = figure.colorbar(picture, ax=axes, pad=0.02, fraction=0.046, shrink=0.9)
    bar.set_label("Counts per square degree")
    x, y = plane.pixel_from_vectors(galactic_vectors(catalog))
    radius = _CIRCLE_DEG / plane.pixel_deg
    size = np.full(len(x), 2 * radius)
    circles = EllipseCollection(
        size, size, 0 * x, units="xy", offsets=np.column_stack([x, y]), linewidths=1.2,
        offset_transform=axes.transData, facecolors="none", edgecolors=_SOURCE_COLOR,
    )  # fmt: skip
    axes.add_collection(circles, autolim=False)
    style = {"ha": "center", "va": "center", "fontsize": _LABEL_POINTS, "color": _LABEL_COLOR}
    for label in _labels(x, y, 1.15 * radius, box, catalog):
        axes.text(*label, clip_on=True, path_effects=_OUTLINE, **style)
    return figure


def _field_image(plane, vectors, weights):
    """Smoothed counts per square degree in the pixels of a plane, [y, x]."""
    x, y = plane.pixel_from_vectors(vectors)
    edges = np.arange(plane.n_pix + 1) - 0.5
    counts = np.histogram2d(y, x, bins=(edges, edges), weights=weights)[0]
    sigma = max(_SMOOTHING_DEG / plane.pixel_deg, 1.0)
    return gaussian_filter(counts, sigma) / plane.pixel_deg**2


def _bounding_box(image):
    """Limits (x, y) in pixels of the counts, with a margin of 2 % of the size."""
    box = []
    for axis in (0, 1):
        filled = np.flatnonzero((image > 1e-3 * image.max()).any(axis=axis))
        last = image.shape[1 - axis] - 1
        low, high = (filled[0], filled[-1]) if len(filled) else (0, last)
        margin = 0.02 * (high - low + 1)
        box.append((max(low - margin, 0) - 0.5, min(high + margin, last) + 0.5))
    return box


def _labels(x, y, offset, box, catalog):
    """Positions and names of sources, above or else below, where they cover no other name."""
    pix_per_point = max(high - low for low, high in box) / (72 * _LONGEST_INCH)
    height, labels = 1.4 * _LABEL_POINTS * pix_per_point, []
    for row, name in enumerate(texts_of(catalog, "Source_Name")[:_MAX_LABELS]):
        name = name.removeprefix("UNL ").replace("$", r"\$")  # a dollar would start a formula
        width = 0.62 * _LABEL_POINTS * pix_per_point * len(name)
        for place in (y[row] + offset + height / 2, y[row] - offset - height / 2):
            if all(abs(x[row] - a) > width or abs(place - b) > height for a, b, _ in labels):
                labels.append((x[row], place, name))
                break
    return labels


# The whole sky


def _draw_sky(vectors, weights, catalog, title):
    """Picture of the whole sky in Galactic coordinates, with longitude growing to the left."""
    lon, lat, image = _sky_image(vectors, weights)
    figure = canvas(11, 6.2)
    axes = figure.add_subplot(projection="mollweide")
    picture = axes.pcolormesh(
        -np.radians(lon), np.radians(lat), image, cmap=_COLOR_MAP, norm=_log_stretch(image),
        rasterized=True,
    )  # fmt: skip
    galactic = sky_positions(catalog).galactic
    x, y = -galactic.l.wrap_at("180d").radian, galactic.b.radian
    axes.scatter(x, y, s=16, facecolors="none", edgecolors=_SOURCE_COLOR, linewidths=0.7)
    axes.set_title(title, pad=14)
    degrees = np.arange(-150, 151, 30)
    axes.set_xticks(np.radians(degrees), [f"{-d % 360}°" for d in degrees], color="white")
    axes.tick_params(labelsize=7)
    for label in axes.get_xticklabels():
        label.set_path_effects(_OUTLINE)
    axes.grid(color="white", alpha=0.2, linewidth=0.5)
    style = {"orientation": "horizontal", "shrink": 0.55, "aspect": 40, "pad": 0.03}
    bar = figure.colorbar(picture, ax=axes, **style)
    bar.set_label("Counts per square degree")
    bar.ax.xaxis.set_major_formatter("{x:g}")
    return figure


def _sky_image(vectors, weights):
    """Smoothed counts per square degree on a grid of longitude (from 180 to -180) and latitude."""
    index = healpy.vec2pix(_SKY_NSIDE, *vectors.T, nest=False)
    counts = np.bincount(index, weights, minlength=healpy.nside2npix(_SKY_NSIDE))
    counts = counts / healpy.nside2pixarea(_SKY_NSIDE, degrees=True)
    lon = np.linspace(180, -180, _SKY_SHAPE[1] + 1)
    lat = np.linspace(-90, 90, _SKY_SHAPE[0] + 1)
    middle = np.meshgrid((lon[1:] + lon[:-1]) / 2, (lat[1:] + lat[:-1]) / 2)
    sigma = np.radians(_SKY_SMOOTHING_DEG)
    smooth = healpy.smoothing(counts, sigma=sigma) if len(vectors) else counts
    image = healpy.get_interp_val(np.clip(smooth, 0, None), *middle, nest=False, lonlat=True)
    return lon, lat, image


def _log_stretch(image):
    """Logarithmic norm from the faint sky to the brightest pixels."""
    filled = image[image > 1e-3 * image.max()] if image.max() > 0 else np.ones(1)
    low, high = np.percentile(filled, [5, 99.9])
    return LogNorm(vmin=max(low, high / 1e3), vmax=max(high, low * 10), clip=True)
