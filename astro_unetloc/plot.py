"""Pictures of a run: the counts on the sky with the sources found."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from astro_unetloc.catalog.table import galactic_vectors, sky_positions, texts
from astro_unetloc.maps.patches import TangentPlane
from astro_unetloc.sphere import lonlat_from_vectors, vectors_from_lonlat

__all__ = ["plot_sources"]


_COLOR_MAP = "inferno"


_LONGEST_INCH, _LABEL_POINTS = 8.0, 6.5


_SOURCE_COLOR, _LABEL_COLOR = "#5fe3ff", "white"


@dataclass(frozen=True)
class FigureConfig:
    """How a picture of the sky is drawn.

    Attributes
    ----------
    max_field_deg : float
        Fields of a larger radius are drawn as the whole sky.
    n_pixels : int
        Pixels per side of the image of a field.
    smoothing_deg : float
        Standard deviation of the Gaussian that smooths the counts.
    nside : int
        Of the HEALPix map behind the picture of the whole sky.
    circle_deg : float
        Radius of the circle around a source in a field.
    max_labels : int
        Names are drawn for this many sources, the first of the catalogue.
    max_photons : int
        Longer lists of photons are held as counts in pixels.
    fine_nside : int
        Of those pixels.
    """

    max_field_deg: float = 20.0
    n_pixels: int = 500
    smoothing_deg: float = 0.08
    nside: int = 128
    circle_deg: float = 0.25
    max_labels: int = 60
    max_photons: int = 5_000_000
    fine_nside: int = 512


def plot_sources(photons, catalog, *, center=None, radius_deg=None, path=None, title=None):
    """A picture of the counts with the sources: of a field, or of the whole sky if it is wide.

    Parameters
    ----------
    photons : Photons or iterable of Photons
        The photons of the map, in one list or in chunks.
    catalog : QTable
        Sources with positions; zero rows are welcome.
    center : SkyCoord, optional
        Centre of the field; the middle of the photons by default.
    radius_deg : float, optional
        Radius of the field in degrees; as far as the photons reach by default.
    path : str, path-like or file, optional
        Where to write the picture as PNG; not written by default.
    title : str, optional
        Title; says what is shown by default.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Examples
    --------
    >>> from astro_unetloc import find_sources, read_map
    >>> from astro_unetloc.plot import plot_sources
    >>> sky_map = read_map("map.fits")  # doctest: +SKIP
    >>> photons = sky_map.photons(seed=0)  # doctest: +SKIP
    >>> figure = plot_sources(photons, find_sources(sky_map), path="map.png")  # doctest: +SKIP
    """
    config = FigureConfig()
    vectors, weights = _gather(photons, config)
    axis, reach_deg = _footprint(vectors, center, radius_deg)
    draw = _whole_sky
    if reach_deg <= config.max_field_deg:
        plane = _plane(axis, reach_deg, config.n_pixels)
        catalog = catalog[_within(plane, galactic_vectors(catalog))]
        shown = _within(plane, vectors)
        vectors, weights = vectors[shown], weights[shown]
        draw = partial(_field, plane=plane)
    title = title or f"{_spaced(weights.sum())} photons, {_spaced(len(catalog))} sources"
    figure = draw(vectors, weights, catalog, title=title, config=config)
    if path is not None:
        figure.savefig(path, format="png", dpi=150, facecolor="white")
    return figure


def _gather(photons, config):
    """Galactic unit vectors (n, 3) of the photons and how many photons each stands for (n,).

    Long lists are held as counts in small pixels, so that memory stays bounded.
    """
    chunks = [photons] if hasattr(photons, "vectors") else photons
    kept, counts, n_kept = [np.zeros((0, 3))], None, 0
    for chunk in chunks:
        kept.append(chunk.vectors)
        n_kept += len(chunk.vectors)
        if counts is not None or n_kept > config.max_photons:
            counts = _add_counts(counts, np.concatenate(kept), config.fine_nside)
            kept = [np.zeros((0, 3))]
    if counts is None:
        vectors = np.concatenate(kept)
        return vectors, np.ones(len(vectors))
    import healpy

    filled = np.flatnonzero(counts)
    centers = np.stack(healpy.pix2vec(config.fine_nside, filled, nest=False), axis=-1)
    return centers, counts[filled].astype(float)


def _add_counts(counts, vectors, nside):
    import healpy

    index = healpy.vec2pix(nside, *vectors.T, nest=False)
    added = np.bincount(index, minlength=healpy.nside2npix(nside))
    return added if counts is None else counts + added


def _footprint(vectors, center, radius_deg):
    """Centre as a Galactic unit vector and radius in degrees of what is to be shown."""
    if center is not None:
        galactic = center.galactic
        axis = vectors_from_lonlat(galactic.l.deg, galactic.b.deg)
    else:
        axis = _middle(vectors)
    if radius_deg is not None:
        return axis, float(radius_deg)
    if not len(vectors):
        return axis, 180.0 if center is None else 5.0
    # At least a degree, so that a single photon makes a picture too.
    return axis, float(np.clip(_angle_deg(vectors, axis).max(), 1.0, 180.0))


def _angle_deg(vectors, axis):
    return np.degrees(np.arccos(np.clip(vectors @ axis, -1, 1)))


def _spaced(number):
    """12345 -> 12 345."""
    return f"{int(number):,}".replace(",", "\N{NO-BREAK SPACE}")


def _middle(vectors):
    """Middle of the directions: the centre of their box around the mean direction."""
    mean = vectors.mean(axis=0) if len(vectors) else np.zeros(3)
    if np.linalg.norm(mean) < 0.5:  # spread over much of the sky
        return np.array([1.0, 0.0, 0.0])
    plane = TangentPlane(*(float(x) for x in lonlat_from_vectors(mean)), 1, 1.0)
    x, y = plane.pixel_from_vectors(vectors)
    return plane.vectors_from_pixel(
        (np.nanmin(x) + np.nanmax(x)) / 2, (np.nanmin(y) + np.nanmax(y)) / 2
    )


def canvas(width, height):
    """Figure of a width and height in inches that is drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _field_image(vectors, weights, plane, smoothing_deg):
    """Smoothed counts per square degree, indexed [y, x], of a tangent plane."""
    from scipy.ndimage import gaussian_filter

    x, y = plane.pixel_from_vectors(vectors)
    edges = np.arange(plane.n_pix + 1) - 0.5
    counts = np.histogram2d(y, x, bins=(edges, edges), weights=weights)[0]
    return gaussian_filter(counts, smoothing_deg / plane.pixel_deg) / plane.pixel_deg**2


def _plane(axis, radius_deg, n_pixels):
    """Tangent plane that holds a disc of the sky."""
    lon, lat = (float(value) for value in lonlat_from_vectors(axis))
    half_deg = np.degrees(np.tan(np.radians(radius_deg)))
    return TangentPlane(lon, lat, n_pixels, 2 * half_deg / n_pixels)


def _within(plane, vectors):
    """Which directions the image shows."""
    x, y = plane.pixel_from_vectors(vectors)  # NaN, so not within, behind the plane
    half = plane.n_pix / 2
    return (np.abs(x + 0.5 - half) < half) & (np.abs(y + 0.5 - half) < half)


def _field(vectors, weights, catalog, *, plane, title, config):
    """Picture of a field in a tangent plane, in Galactic coordinates."""
    image = _field_image(vectors, weights, plane, max(config.smoothing_deg, plane.pixel_deg))
    box = _bounding_box(image)
    figure = canvas(*_field_size(box))
    axes = figure.add_subplot(projection=plane.wcs)
    picture = axes.imshow(image, origin="lower", cmap=_COLOR_MAP, norm=stretch(image))
    axes.set_xlim(*box[0])
    axes.set_ylim(*box[1])
    axes.set_title(title)
    _field_axes(axes)
    bar = figure.colorbar(picture, ax=axes, pad=0.02, fraction=0.046, shrink=0.9)
    bar.set_label("Counts per square degree")
    x, y = plane.pixel_from_vectors(galactic_vectors(catalog))
    radius_pix = config.circle_deg / plane.pixel_deg
    _draw_circles(axes, x, y, radius_pix)
    _draw_labels(axes, _labels(x, y, 1.15 * radius_pix, box, _names(catalog), config))
    return figure


def stretch(image):
    """Power-law stretch: faint sources show beside bright ones."""
    from matplotlib.colors import PowerNorm

    top = np.percentile(image, 99.8)
    return PowerNorm(0.5, vmin=0.0, vmax=float(top) if top > 0 else max(float(image.max()), 1.0))


def _bounding_box(image):
    """Limits (x, y) in pixels of what holds counts, with a margin of 2 % of its size."""
    box = []
    for axis in (0, 1):
        filled = np.flatnonzero((image > 1e-3 * image.max()).any(axis=axis))
        low, high = (filled[0], filled[-1]) if len(filled) else (0, image.shape[1 - axis] - 1)
        margin, last = 0.02 * (high - low + 1), image.shape[1 - axis] - 1
        box.append((max(low - margin, 0) - 0.5, min(high + margin, last) + 0.5))
    return box


def _field_size(box):
    """Width and height of the figure in inches for the shape of the box."""
    width, height = (high - low for low, high in box)
    longest = _LONGEST_INCH / max(width, height)
    return max(width * longest, 4.0) + 1.8, max(height * longest, 3.2) + 0.9


def _field_axes(axes):
    axes.coords[0].set_axislabel("Galactic longitude")
    axes.coords[1].set_axislabel("Galactic latitude")
    for coordinate in axes.coords:
        coordinate.set_major_formatter("d.d")
    axes.coords.grid(color="white", alpha=0.15, linestyle="-", linewidth=0.6)
    axes.set_facecolor("black")


def _draw_circles(axes, x, y, radius_pix):
    from matplotlib.collections import EllipseCollection

    size = np.full(len(x), 2 * radius_pix)
    style = {"facecolors": "none", "edgecolors": _SOURCE_COLOR, "linewidths": 1.2}
    offsets = np.column_stack([x, y])
    circles = EllipseCollection(
        size,
        size,
        np.zeros(len(x)),
        units="xy",
        offsets=offsets,
        offset_transform=axes.transData,
        **style,
    )
    axes.add_collection(circles, autolim=False)


def _labels(x, y, offset, box, names, config):
    """Places and names (x, y, name) of sources, above or else below, that cover no other label."""
    (x_low, x_high), (y_low, y_high) = box
    pix_per_point = max(x_high - x_low, y_high - y_low) / (72 * _LONGEST_INCH)
    height, labels = 1.4 * _LABEL_POINTS * pix_per_point, []
    for row in range(min(len(x), config.max_labels)):
        width = 0.62 * _LABEL_POINTS * pix_per_point * len(names[row])
        for place in (y[row] + offset + height / 2, y[row] - offset - height / 2):
            if all(abs(x[row] - a) > width or abs(place - b) > height for a, b, _ in labels):
                labels.append((x[row], place, names[row]))
                break
    return labels


def _draw_labels(axes, labels):
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=1.5, foreground="black")]
    style = {"ha": "center", "va": "center", "fontsize": _LABEL_POINTS, "color": _LABEL_COLOR}
    for x, y, name in labels:
        axes.text(x, y, name, clip_on=True, path_effects=outline, **style)


def _names(catalog):
    """The part of the names that tells sources apart: ``J0534.5+2200``."""
    if "Source_Name" not in catalog.colnames:
        return [""] * len(catalog)
    names = texts(catalog["Source_Name"])
    # A dollar sign would start a formula.
    return [name.removeprefix("UNL ").replace("$", r"\$") for name in names]


def _sky_image(vectors, weights, config, shape=(540, 1080)):
    """Smoothed counts per square degree on a grid of longitude (from 180 to -180) and latitude."""
    import healpy

    n_side = config.nside
    index = healpy.vec2pix(n_side, *vectors.T, nest=False) if len(vectors) else np.zeros(0, int)
    counts = np.bincount(index, weights, minlength=healpy.nside2npix(n_side))
    counts = counts / healpy.nside2pixarea(n_side, degrees=True)
    lon = np.linspace(180, -180, shape[1] + 1)
    lat = np.linspace(-90, 90, shape[0] + 1)
    middle = np.meshgrid((lon[1:] + lon[:-1]) / 2, (lat[1:] + lat[:-1]) / 2)
    smooth = healpy.smoothing(counts, sigma=np.radians(0.5)) if len(vectors) else counts
    image = healpy.get_interp_val(np.clip(smooth, 0, None), *middle, nest=False, lonlat=True)
    return lon, lat, image


def _whole_sky(vectors, weights, catalog, *, title, config):
    """Picture of the whole sky in Galactic coordinates, longitude growing to the left."""
    lon, lat, image = _sky_image(vectors, weights, config)
    figure = canvas(11, 6.2)
    axes = figure.add_subplot(projection="mollweide")
    picture = axes.pcolormesh(
        -np.radians(lon),
        np.radians(lat),
        image,
        cmap=_COLOR_MAP,
        norm=_log_stretch(image),
        rasterized=True,
    )
    galactic = sky_positions(catalog).galactic
    x, y = -galactic.l.wrap_at("180d").radian, galactic.b.radian
    axes.scatter(x, y, s=16, facecolors="none", edgecolors=_SOURCE_COLOR, linewidths=0.7)
    axes.set_title(title, pad=14)
    _sky_axes(axes)
    bar = figure.colorbar(
        picture, ax=axes, orientation="horizontal", shrink=0.55, aspect=40, pad=0.03
    )
    bar.set_label("Counts per square degree")
    bar.ax.xaxis.set_major_formatter("{x:g}")
    return figure


def _sky_axes(axes):
    from matplotlib.patheffects import withStroke

    degrees = np.arange(-150, 151, 30)
    axes.set_xticks(np.radians(degrees), [f"{-d % 360}°" for d in degrees], color="white")
    axes.tick_params(labelsize=7)
    for label in axes.get_xticklabels():
        label.set_path_effects([withStroke(linewidth=1.5, foreground="black")])
    axes.grid(color="white", alpha=0.2, linewidth=0.5)


def _log_stretch(image):
    """Logarithmic stretch from the faint sky to the brightest pixels."""
    from matplotlib.colors import LogNorm

    filled = image[image > 1e-3 * image.max()] if image.max() > 0 else np.ones(1)
    low, high = np.percentile(filled, [5, 99.9])
    return LogNorm(vmin=max(low, high / 1e3), vmax=max(high, low * 10), clip=True)
