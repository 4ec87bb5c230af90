"""Pictures of a search: the counts on the sky with the sources."""

import astropy.units as u
import healpy
import numpy as np
from astropy.visualization.wcsaxes.frame import EllipticalFrame
from gammapy.maps import WcsGeom
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from scipy.ndimage import gaussian_filter

from astro_unetloc.catalog.table import galactic_vectors, numbers, source_classes, texts_of
from astro_unetloc.maps.patches import TangentPlane
from astro_unetloc.maps.photons import DEFAULT_SEED
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.sphere import healpix_centers, lonlat_from_vectors, separation_deg

# Fields of a larger radius are drawn as the whole sky.
_MAX_FIELD_DEG = 20.0
# Pixels per side of the image of a field, standard deviation of the Gaussian that smooths its
# counts, and radius of the circle around a source.
_N_PIXELS, _SMOOTHING_DEG, _CIRCLE_DEG = 500, 0.08, 0.25
# The same of the whole sky in the Hammer-Aitoff projection, whose pixels have equal areas.
_SKY_PIXELS, _SKY_PIXEL_DEG, _SKY_SMOOTHING_DEG, _SKY_CIRCLE_DEG = (1082, 542), 0.3, 0.5, 0.9
# Longer lists of photons are held as counts in pixels of this nside, so that memory stays bounded.
_MAX_PHOTONS, _FINE_NSIDE = 5_000_000, 512
# Sources get names up to this number, the first of the catalogue.
_MAX_LABELS, _LABEL_POINTS = 60, 6.5
_LONGEST_INCH, _LONGEST_SKY_INCH = 8.0, 11.0
_COLOR_MAP, _LABEL_COLOR = "inferno", "white"
# Circles by class, in colors that the map does not have; the last one is of sources without one.
_COLORS = {"agn": "#5fe3ff", "psr": "#6bff4a", "other": "#ff8df2", "": "white"}
_CLASS_LABELS = {"agn": "AGN", "psr": "pulsar", "other": "other", "": "class unknown"}
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
    geom = _geometry(*_field_of_view(vectors, center, radius))
    x, y = _pixels(geom, vectors)
    bins = [np.arange(n + 1) - 0.5 for n in geom.data_shape]
    counts = np.histogram2d(y, x, bins=bins, weights=weights)[0]
    places = np.column_stack(_pixels(geom, galactic_vectors(catalog)))
    shown = np.all((places > -0.5) & (places < np.array(counts.T.shape) - 0.5), axis=1)
    places, catalog = places[shown], catalog[shown]
    classes = source_classes(catalog)
    figure = _draw(geom, counts, places, texts_of(catalog, "Source_Name"), classes)
    numbers = f"{int(counts.sum()):,} photons, {len(catalog):,} sources"
    figure.axes[0].set_title(numbers if title is None else title, pad=9)
    if path is not None:
        made_by = {"Title": catalog.meta.get("COMMAND"), "Creator": catalog.meta.get("CREATOR")}
        kind = "png" if hasattr(path, "write") else None
        about = {key: str(text) for key, text in made_by.items() if text}
        figure.savefig(path, format=kind, dpi=150, facecolor="white", metadata=about)
    return figure


def plot_light_curves(catalog, curves, *, path=None, n_sources=6):
    """Return a picture of the light curves of the most variable sources.

    Parameters
    ----------
    catalog : QTable
        Sources with ``Variability`` and ``Prob_Constant``.
    curves : QTable
        Their light curves, see `astro_unetloc.find_light_curves`.
    path : str, path-like or file, optional
        Where to write the picture as PNG.
    n_sources : int
        Largest number of sources.

    Returns
    -------
    matplotlib.figure.Figure
        Fluxes, or without an exposure counts in slices of the mean exposure, with 1 sigma errors;
        95 % limits where TS < 4. The line is the constant source.
    """
    order = np.argsort(-np.ma.filled(catalog["Variability"], 0.0), kind="stable")[:n_sources]
    figure = canvas(8.0, 1.0 + 1.7 * max(len(order), 1))
    panels = figure.subplots(max(len(order), 1), sharex=True, squeeze=False)[:, 0]
    with_flux = not np.all(curves["Flux"].mask)
    for axes, row in zip(panels, order):
        name = catalog["Source_Name"][row]
        _draw_curve(axes, curves[curves["Source_Name"] == name], with_flux)
        chance = catalog["Prob_Constant"][row]
        text = f"{name}: variability {catalog['Variability'][row]:.1f}, by chance {chance:.2g}"
        axes.set_title(text, fontsize=9, loc="left")
    if not len(order):
        panels[0].text(0.5, 0.5, "no sources", ha="center", transform=panels[0].transAxes)
    panels[-1].set_xlabel("MJD")
    what = "Photon flux (cm$^{-2}$ s$^{-1}$)" if with_flux else "Counts in a slice of mean exposure"
    figure.supylabel(what, fontsize=10)
    if path is not None:
        figure.savefig(path, format="png", dpi=150, facecolor="white")
    return figure


def _draw_curve(axes, curve, with_flux):
    """Points with errors, limits, and the constant source, in axes."""
    exposure = np.ma.filled(curve["Exposure"], np.nan)
    name, scale = ("Flux", 1.0) if with_flux else ("Npred", np.nanmean(exposure) / exposure)
    value, error, limit = (
        scale * numbers(curve[column]) for column in (name, f"Unc_{name}", f"{name}_UL95")
    )
    start, stop = (curve[key].value for key in ("MJD_START", "MJD_STOP"))
    middle, half = (start + stop) / 2, (stop - start) / 2
    mean = np.nansum(value * exposure) / np.nansum(exposure)
    axes.axhline(mean, color="0.6", linewidth=0.8)
    seen = np.isnan(limit)
    points = {"linestyle": "none", "linewidth": 1.2, "color": "#1f5fa8"}
    axes.errorbar(middle[seen], value[seen], error[seen], half[seen], marker="o", ms=3, **points)
    arrow = 0.15 * np.nanmax(np.append(value + error, limit))
    axes.errorbar(middle[~seen], limit[~seen], arrow, half[~seen], uplims=True, **points)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)


def canvas(width, height):
    """Return a figure of a width and height in inches that is drawn without a screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def stretch(image):
    """Return a power-law norm, which shows both faint and bright sources."""
    top = np.percentile(image, 99.8)
    return PowerNorm(0.5, vmin=0.0, vmax=float(top) if top > 0 else max(float(image.max()), 1.0))


def _log_stretch(image):
    """Logarithmic norm from the faint sky to the brightest pixels."""
    filled = image[image > 1e-3 * np.nanmax(image)] if np.nanmax(image) > 0 else np.ones(1)
    low, high = np.percentile(filled, [5, 99.9])
    return LogNorm(vmin=max(low, high / 1e3), vmax=max(high, low * 10), clip=True)


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
    centers = healpix_centers(_FINE_NSIDE, filled, nest=False)
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


def _geometry(axis, radius_deg):
    """Pixels in Galactic coordinates of a disc of the sky or, if it is wide, of the whole sky."""
    if radius_deg > _MAX_FIELD_DEG:
        shape = {"npix": _SKY_PIXELS, "binsz": _SKY_PIXEL_DEG, "proj": "AIT"}
        return WcsGeom.create(**shape, frame="galactic")
    place = tuple(float(value) for value in lonlat_from_vectors(axis))
    pixel_deg = 2 * np.degrees(np.tan(np.radians(radius_deg))) / _N_PIXELS
    shape = {"npix": _N_PIXELS, "binsz": pixel_deg, "proj": "TAN"}
    return WcsGeom.create(skydir=place, **shape, frame="galactic")


def _pixels(geom, vectors):
    """Pixels x, y of directions; NaN behind the plane."""
    return geom.coord_to_pix(lonlat_from_vectors(vectors))


def _smooth(counts, geom, width_deg):
    """Counts per square degree of the sky, smoothed; NaN off the sky."""
    pixel_deg = geom.pixel_scales[0].deg
    on_sky = np.isfinite(geom.get_coord().lon.value)
    sigma = max(width_deg / pixel_deg, 1.0)
    area = pixel_deg**2 * gaussian_filter(on_sky.astype(float), sigma)
    nothing = np.full(counts.shape, np.nan)
    return np.divide(gaussian_filter(counts, sigma), area, out=nothing, where=on_sky)


def _draw(geom, counts, places, names, classes):
    """Picture of the counts in the pixels of a geometry, and of sources at pixels (n, 2)."""
    is_field, (ny, nx) = geom.projection == "TAN", counts.shape
    image = _smooth(counts, geom, _SMOOTHING_DEG if is_field else _SKY_SMOOTHING_DEG)
    box = _bounding_box(image) if is_field else [(-0.5, nx - 0.5), (-0.5, ny - 0.5)]
    sizes = np.diff(box)[:, 0]
    width, height = sizes / sizes.max() * (_LONGEST_INCH if is_field else _LONGEST_SKY_INCH)
    figure = canvas(max(width, 4.0) + 1.8, max(height, 3.2) + 0.9)
    frame = {} if is_field else {"frame_class": EllipticalFrame}
    axes = figure.add_subplot(projection=geom.wcs, **frame)
    norm = stretch(image) if is_field else _log_stretch(image)
    picture = axes.imshow(image, origin="lower", cmap=_COLOR_MAP, norm=norm)
    axes.set(xlim=box[0], ylim=box[1], facecolor="black" if is_field else "white")
    axes.coords.grid(color="white", alpha=0.15, linestyle="-", linewidth=0.6)
    bar = figure.colorbar(picture, ax=axes, pad=0.02, fraction=0.046, shrink=0.9)
    bar.set_label("Counts per square degree")
    radius = (_CIRCLE_DEG if is_field else _SKY_CIRCLE_DEG) / geom.pixel_scales[0].deg
    size = np.full(len(places), 2 * radius)
    colors = [_COLORS[name] for name in classes]
    circles = EllipseCollection(
        size, size, 0 * size, units="xy", offsets=places, offset_transform=axes.transData,
        linewidths=1.2 if is_field else 0.7, facecolors="none", edgecolors=colors,
    )  # fmt: skip
    axes.add_collection(circles, autolim=False)
    if (classes != "").any():
        _add_legend(figure, classes)
    if not is_field:
        bar.ax.yaxis.set_major_formatter("{x:g}")
        axes.coords[0].set_ticks(spacing=30 * u.deg)
        axes.coords[0].set_ticklabel(color="white", size=7, path_effects=_OUTLINE)
        return figure
    for coordinate, name in zip(axes.coords, ("longitude", "latitude")):
        coordinate.set_axislabel(f"Galactic {name}")
        coordinate.set_major_formatter("d.d")
    style = {"ha": "center", "va": "center", "fontsize": _LABEL_POINTS, "color": _LABEL_COLOR}
    for label in _labels(*places.T, 1.15 * radius, box, names):
        axes.text(*label, clip_on=True, path_effects=_OUTLINE, **style)
    return figure


def _add_legend(figure, classes):
    """Below the picture, the color and the number of the sources of each class."""
    numbers = {name: np.count_nonzero(classes == name) for name in _COLORS}
    circles = [
        Line2D([], [], marker="o", linestyle="", markerfacecolor="none", color=_COLORS[name],
               label=f"{_CLASS_LABELS[name]} ({number:,})")
        for name, number in numbers.items() if number
    ]  # fmt: skip
    style = {"facecolor": "black", "labelcolor": "white", "ncols": len(circles)}
    figure.legend(handles=circles, loc="outside lower center", **style)


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


def _labels(x, y, offset, box, names):
    """Positions and names of sources, above or else below, where they cover no other name."""
    pix_per_point = max(high - low for low, high in box) / (72 * _LONGEST_INCH)
    height, labels = 1.4 * _LABEL_POINTS * pix_per_point, []
    for row, name in enumerate(names[:_MAX_LABELS]):
        name = name.removeprefix("UNL ").replace("$", r"\$")  # a dollar would start a formula
        width = 0.62 * _LABEL_POINTS * pix_per_point * len(name)
        for place in (y[row] + offset + height / 2, y[row] - offset - height / 2):
            if all(abs(x[row] - a) > width or abs(place - b) > height for a, b, _ in labels):
                labels.append((x[row], place, name))
                break
    return labels
