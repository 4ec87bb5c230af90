"""Pictures of a search: the counts on the sky with the sources."""

import textwrap
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.visualization.wcsaxes import WCSAxes
from astropy.visualization.wcsaxes.frame import EllipticalFrame
from gammapy.maps import WcsGeom
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import AsinhNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox, ScaledTranslation
from scipy.ndimage import gaussian_filter

from astro_unetloc.catalog.columns import (
    CLASS_COLORS,
    CLASS_WORDS,
    DOUBTS,
    has_flag,
    is_doubted,
)
from astro_unetloc.catalog.table import (
    confidence_ellipses,
    numbers_of,
    sky_positions,
    source_classes,
    texts_of,
)
from astro_unetloc.catalog.write import PICTURE_SUFFIXES
from astro_unetloc.exceptions import InputError, counted
from astro_unetloc.files import suffix_of, whole_file
from astro_unetloc.maps.patches import TangentPlane
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.skymap import SkyMap, pixels_of
from astro_unetloc.plot.labels import TEXT_POINTS, free_places
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg

# Width of a page of a journal.
_PAGE_INCH = 7.1
# Fields of a larger radius are drawn as the whole sky, in pixels of this size.
_MAX_FIELD_DEG, _SKY_SHAPE, _SKY_PIXEL_DEG = 50.0, (1082, 542), 0.3
# Pixels of a field that is not drawn in its own: on a side, at most, ratio of their areas at most;
# pixels around what was observed.
_N_PIXELS, _MAX_PIXELS, _MAX_AREA_RATIO, _EDGE = 600, 2000, 2.0, 6
# Pixels of a map that are read at once.
_CHUNK = 2_000_000
# Standard deviation of the Gaussian that smooths the counts: half the distance of photons, between
# these fractions of the width of a field; of the sky.
_SMOOTHING, _SKY_SMOOTHING_DEG = (1 / 250, 1 / 120), 0.5
# Not observed: no gray of the counts, and hatched.
_COLOR_MAP, _UNSEEN = "gray_r", {"facecolor": "#fdf3d8", "edgecolor": "#b9a77c", "hatch": "////"}
# Radii in points of the rings of sources whose ellipse is smaller, at this fraction of the mean
# distance of the sources; points of an outline.
_RINGS, _SPACING, _STEPS = (0.7, 3.2), 0.2, np.linspace(0, 2 * np.pi, 64)
_MARKER = {"marker": "o", "linestyle": "", "markerfacecolor": "none", "markersize": 2 * _RINGS[1]}
_MAX_COLUMNS, _MARGIN_INCH = 6, 0.04
# On gray only black is free for sources without a class.
_COLORS = CLASS_COLORS | {"": "#000000"}
# Least Score, width of the lines, text; the first holds for sources without a Score.
_SCORES = (0.99, 1.4, "Score ≥ 0.99"), (0.9, 0.9, "Score ≥ 0.9"), (0.0, 0.5, "Score < 0.9")
# Sources are numbered up to this number of them, of more the most significant are named, by the
# first of these columns, up to so many names, which cover rings of others only for lack of room.
_MAX_KEYS, _NAMES_PER_INCH, _N_OBSTACLES, _LIGHT = 150, 3, 300, 0.003
_RANKS = dict.fromkeys(("Sqrt_TS", "Signif_Avg", "Score"), "most significant")
_RANKS |= {"Flux": "brightest"}
_HALO = [withStroke(linewidth=1.8, foreground="white")]
# Behind names: a halo would make paths of their letters in PDF and SVG.
_BOX = {"boxstyle": "square,pad=0.05", "facecolor": "white", "alpha": 0.6, "linewidth": 0}
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def plot_sources(
    map, catalog, *, ax=None, center=None, radius=None, frame=None, width=_PAGE_INCH, title=None,
    path=None,
):  # fmt: skip
    """Return a picture of the counts and the sources, of a field or, if it is wide, of the sky.

    Small images are drawn in their own pixels, so that you can go on drawing in the coordinates of
    the map: ``figure.axes[0]`` is a `~astropy.visualization.wcsaxes.WCSAxes`. Other fields, and
    those with a ``frame`` that is not the one of the map, are in the equal-area projection ZEA. The
    whole sky is in the Hammer-Aitoff projection in Galactic coordinates. What was not observed is
    hatched.

    Colors are classes; lines are wider for a higher ``Score``, and dashed (rings: square) where a
    flag questions the source. Ellipses are 95 % confident and to scale, with a ring where they are
    too small to see or unknown. Every source has its name, or its number with a key below, in the
    order of the catalogue; of more than 150 sources the most significant ones have names, and the
    legend states how many.

    Parameters
    ----------
    map : SkyMap, str, path-like, gammapy map or dataset, or None
        Anything that `read_map` takes; None draws only the sources into ``ax``.
    catalog : QTable
        Sources with positions, ours or of any catalogue; may have zero rows.
    ax : WCSAxes, optional
        Where to draw, in its projection and its limits if it has a picture; a new figure by
        default.
    center : SkyCoord, optional
        Centre of the field; the middle of the map by default.
    radius : Quantity [angle], optional
        Radius of the field; up to the farthest part of the map by default.
    frame : {"galactic", "icrs"}, optional
        Frame of a field; that of the map by default.
    width : float
        Width of a new figure in inches: 7.1 for a page, 3.5 for a column.
    title : str, optional
        Title; by default the map, its energies, exposure or time, photons and sources.
    path : str, path-like, optional
        Where to write the picture as PNG, PDF (fonts embedded) or SVG by its suffix.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If ``ax`` is not a WCSAxes, the frame is another one, or the path has another suffix.

    Examples
    --------
    >>> from astro_unetloc import find_sources, plot_sources, read_map
    >>> sky_map = read_map("map.fits")  # doctest: +SKIP
    >>> figure = plot_sources(sky_map, find_sources(sky_map), path="map.pdf")  # doctest: +SKIP
    """
    if path is not None and not suffix_of(path, PICTURE_SUFFIXES):
        raise InputError(f"a picture must end in {', '.join(PICTURE_SUFFIXES)}; got {str(path)!r}")
    if ax is not None and not isinstance(ax, WCSAxes):
        raise InputError(f"ax must be a WCSAxes; got {type(ax).__name__}; make one with a WCS")
    if map is None and ax is None:
        raise InputError("a picture without a map needs axes; got neither; give a map or ax")
    if frame not in (None, "galactic", "icrs"):
        raise InputError(f"frame must be galactic or icrs; got {frame!r}")
    sky_map = map if map is None or isinstance(map, SkyMap) else read_map(map)
    axes = ax if ax is not None else _new_axes(_geometry(sky_map, center, radius, frame), width)
    if sky_map is not None:
        _draw_counts(axes, sky_map)
    if ax is None:
        axes.figure.draw_without_rendering()
        axes.figure.set_layout_engine("none")  # below there is room; the height is cut at the end
    n_sources = _draw_sources(axes, catalog)
    if title is None and sky_map is not None:
        title = f"{_title(sky_map)}, {counted(n_sources, 'source')}"
    if title:
        n_letters = int(axes.bbox.width / axes.figure.dpi * 72 / (0.5 * TEXT_POINTS))
        whole = {"break_on_hyphens": False, "break_long_words": False}
        lines = textwrap.wrap(title, n_letters, **whole)
        axes.set_title("\n".join(lines), fontsize=TEXT_POINTS, pad=5, parse_math=False)
    if ax is None:
        _trim(axes.figure)
    if path is not None:
        with whole_file(path, overwrite=True) as fresh:
            save_figure(axes.figure, fresh, suffix_of(path, PICTURE_SUFFIXES)[1:], catalog.meta)
    return axes.figure


def save_figure(figure, file, kind, meta):
    """Write a figure as png, pdf or svg, the same bytes each time, with text as text."""
    about = {"Title": meta.get("COMMAND"), "Creator": meta.get("CREATOR")}
    about = {key: str(text) for key, text in about.items() if text}
    about |= {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {})
    text_as_text = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "astro_unetloc"}
    with rc_context(text_as_text):
        figure.savefig(file, format=kind, dpi=200, facecolor="white", metadata=about)


def canvas(width, height):
    """Return a figure of a width and height in inches that is drawn without a screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def stretch(image):
    """Return a power-law norm, which shows both faint and bright sources."""
    top = np.percentile(image, 99.8)
    return PowerNorm(0.5, vmin=0.0, vmax=float(top) if top > 0 else max(float(image.max()), 1.0))


# The counts


def _geometry(sky_map, center, radius, frame=None):
    """Pixels of a picture: those of the map for a small image, else of a disc or of the sky."""
    points, pixels = sky_map.observed_points[0], sky_map.pixels
    axis = _middle(points) if center is None else center.galactic.cartesian.xyz.value
    farthest = separation_deg(points, axis).max(initial=0.5)  # a single photon makes a picture too
    radius_deg = farthest if radius is None else float(radius.to_value("deg"))
    if radius_deg > _MAX_FIELD_DEG:
        return WcsGeom.create(npix=_SKY_SHAPE, binsz=_SKY_PIXEL_DEG, proj="AIT", frame="galactic")
    place = _sky(axis)
    own = "galactic" if pixels is None else pixels.frame
    frame = frame or own
    if pixels is not None and pixels.is_image and frame == own and farthest <= _MAX_FIELD_DEG:
        geom = pixels.geom
        if center is not None or radius is not None:
            geom = geom.cutout(place, 2 * radius_deg * u.deg)
        area = pixels_of(geom).area_deg2(np.arange(geom.data_shape[0] * geom.data_shape[1]))
        if max(geom.data_shape) <= _MAX_PIXELS and np.ptp(np.log(area)) < np.log(_MAX_AREA_RATIO):
            return geom
    pixel_deg = 2 * np.degrees(2 * np.sin(np.radians(radius_deg / 2))) / _N_PIXELS
    shape = {"npix": _N_PIXELS, "binsz": pixel_deg, "proj": "ZEA"}
    geom = WcsGeom.create(skydir=place.transform_to(frame), **shape, frame=frame)
    seen = np.array(geom.coord_to_pix(_sky(points)))
    if radius is not None or not np.ptp(seen, axis=1).all():
        return geom
    first, last = np.floor(seen.min(axis=1)).astype(int), np.ceil(seen.max(axis=1)).astype(int)
    return _part(geom.wcs, first - _EDGE, last + _EDGE)


def _sky(vectors):
    """Galactic unit vectors (n, 3) as `SkyCoord`."""
    return SkyCoord(*lonlat_from_vectors(vectors), unit="deg", frame="galactic")


def _part(wcs, first, last):
    """Geometry of the pixels from a first to a last one (x, y) of a WCS."""
    wcs = wcs.deepcopy()
    wcs.wcs.crpix -= first
    return WcsGeom(wcs, tuple(int(n) for n in last - first + 1))


def _middle(vectors):
    """Middle of the directions: the centre of their box around the mean direction."""
    mean = vectors.mean(axis=0) if len(vectors) else np.zeros(3)
    if np.linalg.norm(mean) < 0.5:  # spread over much of the sky
        return np.array([1.0, 0.0, 0.0])
    plane = TangentPlane(*(float(x) for x in lonlat_from_vectors(mean)), 1, 1.0)
    middle = ((np.nanmin(c) + np.nanmax(c)) / 2 for c in plane.pixel_from_vectors(vectors))
    return plane.vectors_from_pixel(*middle)


def _new_axes(geom, width):
    """Axes of a new figure, which is too high: `_trim` follows."""
    figure, is_sky = canvas(width, 3 * width), geom.projection == "AIT"
    frame = {"frame_class": EllipticalFrame} if is_sky else {}
    axes = figure.add_subplot(projection=geom.wcs, **frame)
    ny, nx = geom.data_shape
    axes.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5), aspect="equal")
    axes.coords.grid(color="0.3", alpha=0.25, linestyle="-", linewidth=0.4)
    names = {"galactic": ("Galactic longitude", "Galactic latitude")}
    names = names.get(geom.frame, ("Right ascension", "Declination"))
    for coordinate, name in zip(axes.coords, names):
        coordinate.set_ticklabel(size=TEXT_POINTS, exclude_overlapping=True)
        if geom.frame == "galactic":
            coordinate.set_major_formatter("d" if geom.width.value.max() > 8 else "d.d")
        if not is_sky:  # the best side may be the upper one, where the title stands
            side = "b" if coordinate.coord_type == "longitude" else "l"
            coordinate.set_ticklabel_position(side)
            coordinate.set_axislabel_position(side)
            coordinate.set_axislabel(name, fontsize=TEXT_POINTS)
    if is_sky:
        axes.coords[1].set_ticklabel_position("v")
        for coordinate, spacing in zip(axes.coords, (60, 30)):
            coordinate.set_ticks(spacing=spacing * u.deg)
            coordinate.set_ticklabel(size=TEXT_POINTS, path_effects=_HALO)
    return axes


def _draw_counts(axes, sky_map):
    """The counts of a map in the pixels of axes, and their scale."""
    first, last = np.sort([axes.get_xlim(), axes.get_ylim()]).T
    if not axes.has_data() and (first == 0).all() and (last == 1).all():  # new: all of the map
        pixels = axes.wcs.world_to_pixel(_sky(sky_map.observed_points[0]))
        first, last = np.nanmin(pixels, axis=1), np.nanmax(pixels, axis=1)
    first, last = np.ceil(first).astype(int), np.floor(last).astype(int)
    image = _density(sky_map, _part(axes.wcs, first, last))
    edges = np.column_stack([first - 0.5, last + 0.5])
    axes.set(xlim=edges[0], ylim=edges[1], aspect="equal")
    axes.patch.set(**_UNSEEN)
    norm = _asinh_stretch(image)
    picture = axes.imshow(
        image,
        origin="lower",
        extent=edges.ravel(),
        cmap=_COLOR_MAP,
        norm=norm,
        interpolation="nearest",
    )
    ticks = [0.0, *(10.0**k for k in range(-3, 7) if 0.1 < norm(10.0**k) <= 1)]
    ticks += [3 * tick for tick in ticks if len(ticks) < 5 and 0.1 < norm(3 * tick) <= 1]
    bar = axes.figure.colorbar(picture, cax=axes.inset_axes([1.02, 0.0, 0.025, 1.0]))
    bar.set_ticks(ticks, labels=[f"{tick:,g}" for tick in ticks], minor=False)
    bar.set_label("Counts per deg$^2$", fontsize=TEXT_POINTS)
    bar.ax.tick_params(labelsize=TEXT_POINTS)


def _density(sky_map, geom):
    """Counts per square degree in the pixels of an image, smoothed; NaN where not observed."""
    pixels = pixels_of(geom)
    index = np.arange(pixels.n_pixels)
    centers, counts = pixels.centers(index), np.zeros(len(index))
    seen = np.isfinite(centers[:, 0])
    seen[seen] = sky_map.covers(centers[seen])
    for vectors, weight in _weights(sky_map, pixels.pixel_size_deg):
        inside = pixels.index(vectors)
        on = inside >= 0
        counts += np.bincount(inside[on], weight[on], minlength=len(index))
    area = np.where(seen, np.nan_to_num(pixels.area_deg2(index)), 0.0)
    extent_deg = max(pixels.shape) * pixels.pixel_size_deg
    spacing_deg = np.sqrt(area.sum() / max(counts.sum(), 1))
    low, high = (width * extent_deg for width in _SMOOTHING)
    is_sky = geom.projection == "AIT"
    width_deg = _SKY_SMOOTHING_DEG if is_sky else np.clip(0.5 * spacing_deg, low, high)
    if sky_map.pixel_size_deg > 1.5 * pixels.pixel_size_deg:
        width_deg = max(width_deg, 0.5 * sky_map.pixel_size_deg)
    counts, area = (
        gaussian_filter(values.reshape(pixels.shape), width_deg / pixels.pixel_size_deg)
        for values in (counts * seen, area)
    )
    nothing = np.full(pixels.shape, np.nan)
    return np.divide(counts, area, out=nothing, where=seen.reshape(pixels.shape) & (area > 0))


def _weights(sky_map, step_deg):
    """Yield directions (n, 3) and the counts (n,) there: of photons, or of parts of map pixels."""
    if sky_map.events is not None:
        yield sky_map.events.vectors, np.ones(len(sky_map.events))
        return
    counts = np.nansum(sky_map.planes, axis=0, dtype=float)
    filled = np.flatnonzero(counts)
    n_split = 2 ** min(max(int(np.ceil(np.log2(2 * sky_map.pixel_size_deg / step_deg))), 0), 4)
    for start in range(0, len(filled), _CHUNK):
        index = filled[start : start + _CHUNK]
        for vectors in sky_map.pixels.parts(index, n_split):
            yield vectors, counts[index] / n_split**2


def _asinh_stretch(image):
    """Norm that is linear up to the typical sky and logarithmic to the brightest source."""
    filled = image[image > 0]
    top = np.percentile(filled, 99.95) if len(filled) else 1.0
    middle = np.median(filled) if len(filled) else 1.0
    return AsinhNorm(np.clip(3 * middle, top / 1e3, top), 0.0, top)


def _title(sky_map):
    """What a map holds: its name, energies, exposure or time, and photons."""
    low, high = sky_map.energy_edges[[0, -1]]
    first, *others = sky_map.name.split(", ")
    name = f"{Path(first).name} and {len(others)} more" if others else Path(first).name
    parts = [*filter(None, [name]), f"{low:.4g}\N{EN DASH}{high:.4g} GeV"]
    points = sky_map.observed_points[0]
    exposure = np.zeros(1) if sky_map.exposure is None else sky_map.exposure.sky(points)
    if exposure.any():
        mean = exposure[exposure > 0].mean()
        power = int(np.floor(np.log10(mean)))
        text = f"{mean / 10.0**power:.1f}\N{MULTIPLICATION SIGN}10{str(power).translate(_RAISED)}"
        parts.append(f"exposure {text} cm\N{SUPERSCRIPT TWO} s")
    elif "ONTIME" in sky_map.header:
        parts.append(f"{sky_map.header['ONTIME'] / 86400:,.4g} days on time")
    parts.append(counted(sky_map.n_photons, "photon"))
    return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


# The sources


def _draw_sources(axes, catalog):
    """Draw and key the sources inside axes, with legends below, and return their number."""
    axes.figure.draw_without_rendering()  # places the axes
    places = np.column_stack(axes.wcs.world_to_pixel(sky_positions(catalog)))
    limits = np.sort([axes.get_xlim(), axes.get_ylim()])
    inside = np.all((places > limits[:, 0]) & (places < limits[:, 1]), axis=1)
    places, catalog = places[inside], catalog[inside]
    ring = _SPACING * np.sqrt(axes.bbox.width * axes.bbox.height / max(len(places), 1))
    ring = np.clip(ring * 72 / axes.figure.dpi, *_RINGS)
    handles = _draw_shapes(axes, places, catalog, ring)
    about, key = _draw_labels(axes, places, catalog, ring)
    _add_legend(axes, handles)
    _add_legend(axes, _flag_handles(catalog))
    for texts in (about, key):
        lines = [_handle(text, linestyle="", marker="") for text in texts]
        _add_legend(axes, lines, handlelength=0)
    return len(places)


def _draw_shapes(axes, places, catalog, ring):
    """Draw ellipses and rings of sources at pixels (n, 2); return the handles of a legend."""
    classes, doubted, score = (
        source_classes(catalog), is_doubted(catalog), numbers_of(catalog, "Score"),
    )  # fmt: skip
    rank = np.argmax(np.nan_to_num(score, nan=1.0)[:, None] >= [low for low, *_ in _SCORES], axis=1)
    widths = np.array([width for _, width, _ in _SCORES])[rank] * np.sqrt(ring / _RINGS[1])
    colors = np.array([_COLORS[name] for name in classes], "U7")
    degree = _points(axes, [(0, 0), (1, 0)])[:, 0] / axes.wcs.proj_plane_pixel_scales()[0].value
    size = np.nan_to_num(confidence_ellipses(catalog)[:, 0]) * np.ptp(degree)
    large, small = size >= 0.3 * ring, size < 1.2 * ring
    outlines = np.moveaxis(axes.wcs.world_to_pixel(_outlines(catalog[large])), 0, -1)
    halo = _HALO if ring > _RINGS[1] / 2 else None  # of many sources it would hide others
    style = {"facecolors": "none", "path_effects": halo, "zorder": 3}
    dashes = np.where(doubted[large], "--", "-").tolist()
    lines = {"edgecolors": colors[large], "linewidths": widths[large], "linestyles": dashes}
    axes.add_collection(PolyCollection(outlines, **lines, **style), autolim=False)
    for marker, rows in (("o", small & ~doubted), ("s", small & doubted)):
        lines = {"edgecolors": colors[rows], "linewidths": widths[rows]}
        axes.scatter(*places[rows].T, s=(2 * ring) ** 2, marker=marker, **lines, **style)
    handles = [
        _handle(f"{CLASS_WORDS[name]} ({number:,})", color=color, markeredgewidth=1.4)
        for name, color in _COLORS.items() if (number := np.count_nonzero(classes == name))
    ]  # fmt: skip
    handles += [
        _handle(text, markeredgewidth=width) for number, (_, width, text) in enumerate(_SCORES)
        if (rank == number).any() and (rank != number).any()
    ]  # fmt: skip
    if large.any():
        handles.append(_handle("95 % ellipse (ring: smaller)", marker="", linestyle="-"))
    return handles


def _flag_handles(catalog):
    """Handle of a legend of the flags that question sources, if any do."""
    if not is_doubted(catalog).any():
        return []
    names = (name for name in DOUBTS if has_flag(catalog, name).any())
    words = ", ".join(name.replace("_", " ") for name in names)
    return [_handle(f"flagged: {words}", marker="s", linestyle="--")]


def _outlines(catalog):
    """Outlines (n, n_steps) on the sky of the 95 % ellipses of sources."""
    (major, minor, turn), angle = confidence_ellipses(catalog).T[:, :, None], _STEPS
    x, y = major * np.cos(angle), minor * np.sin(angle)
    angle, distance = turn + np.degrees(np.arctan2(y, x)), np.hypot(x, y)
    return sky_positions(catalog)[:, None].directional_offset_by(angle * u.deg, distance * u.deg)


def _draw_labels(axes, places, catalog, ring):
    """Draw names, or numbers, of sources at pixels (n, 2); texts for the legend and of the key."""
    names = [name.removeprefix("UNL ") for name in texts_of(catalog, "Source_Name").tolist()]
    names = [name or f"{n}" for n, name in enumerate(names, 1)]
    rank = next((name for name in _RANKS if name in catalog.colnames), "")
    order = np.argsort(-np.nan_to_num(numbers_of(catalog, rank)), kind="stable")
    anchors, about, key = _points(axes, places)[order], [], []
    room = {"limits": _points(axes, None), "taken": _tick_labels(axes), "ring": ring}
    n_texts, texts = len(order), [names[row] for row in order]
    if n_texts > _MAX_KEYS:
        n_texts = int(_NAMES_PER_INCH * axes.bbox.width / axes.figure.dpi)
        near = anchors[:_N_OBSTACLES]
        while not (found := free_places(near, texts[:n_texts], weight=_LIGHT, **room)):
            n_texts = int(0.8 * n_texts)
        which = _RANKS.get(rank, "first of the catalogue")
        about = [f"names: of {len(order):,} sources the {n_texts} {which}"]
    elif not (found := free_places(anchors, texts, **room)):
        texts = [f"{row + 1}" for row in order]
        found = free_places(anchors, texts, force=True, **room)
        width = len(f"{len(names)}")
        key = [f"{n:\N{FIGURE SPACE}>{width}}  {name}" for n, name in enumerate(names, 1)]
    line = {"arrowstyle": "-", "lw": 0.5, "color": "0.1", "shrinkA": 0, "shrinkB": ring}
    line |= {"path_effects": _HALO}
    for row, anchor, text, center, far in zip(order, anchors, texts, *found):
        axes.annotate(
            text, places[row], xytext=center - anchor, textcoords="offset points", ha="center",
            va="center", fontsize=TEXT_POINTS, parse_math=False, bbox=_BOX, zorder=5,
            arrowprops=line if far else None,
        )  # fmt: skip
    return about, key


def _tick_labels(axes):
    """Points (n, 2) on paper that the labels of ticks cover on a picture of the sky."""
    if axes.frame_class is not EllipticalFrame:
        return np.zeros((0, 2))
    ticks = SkyCoord(np.arange(-120, 121, 60), 0.0, unit="deg", frame="galactic")
    below = _points(axes, np.column_stack(axes.wcs.world_to_pixel(ticks))) - [0, 1.4 * TEXT_POINTS]
    ticks = SkyCoord(0.0, np.arange(-60, 61, 30), unit="deg", frame="galactic")
    beside = _points(axes, np.column_stack(axes.wcs.world_to_pixel(ticks))) + [2 * TEXT_POINTS, 0]
    middles = np.concatenate([below, beside])
    return np.concatenate([middles + [x, 0] for x in (-TEXT_POINTS, 0, TEXT_POINTS)])


def _points(axes, pixels):
    """Points (n, 2) on paper of pixels of axes; of their two corners for None."""
    dots = axes.bbox.extents.reshape(2, 2) if pixels is None else axes.transData.transform(pixels)
    return dots * 72 / axes.figure.dpi


def _extent(axes):
    """Box in dots of all that is drawn at axes."""
    renderer = axes.figure._get_renderer()
    legends = (part for part in axes.figure.artists if part.axes is axes)
    boxes = (part.get_tightbbox(renderer) for part in (axes, *axes.child_axes, *legends))
    return Bbox.union([box for box in boxes if box is not None])


def _handle(text, **style):
    """Handle of a legend."""
    return Line2D([], [], label=text, **{"color": "0.45", **_MARKER, **style})


def _add_legend(axes, handles, **style):
    """Add a legend below all that is at axes, in as many columns as it has room for."""
    if not handles:
        return
    box, scale = _extent(axes), axes.figure.dpi_scale_trans
    shift = ScaledTranslation(0, (box.y0 - axes.bbox.y0 - 2) / axes.figure.dpi, scale)
    middle = ((box.x0 + box.x1) / 2 - axes.bbox.x0) / axes.bbox.width
    style |= {"loc": "upper center", "bbox_to_anchor": (middle, 0.0), "frameon": False}
    style |= {"bbox_transform": axes.transAxes + shift, "fontsize": TEXT_POINTS, "borderpad": 0.1}
    style |= {"columnspacing": 1.0, "handletextpad": 0.4, "labelspacing": 0.25, "borderaxespad": 0}
    labels = [handle.get_label() for handle in handles]
    for n_columns in range(min(len(handles), _MAX_COLUMNS), 0, -1):
        legend = Legend(axes, handles, labels, ncols=n_columns, **style)
        for text in legend.get_texts():
            text.set_parse_math(False)
        axes.figure.add_artist(legend)  # a WCSAxes leaves its artists out of its tight box
        if n_columns == 1 or legend.get_window_extent().width <= box.width:
            return
        legend.remove()


def _trim(figure):
    """Cut the height of a figure to what is on it."""
    axes, width = figure.axes[0], figure.get_figwidth()
    inside, box = np.array(axes.bbox.bounds) / figure.dpi, _extent(axes).extents / figure.dpi
    bottom, top = box[1] - _MARGIN_INCH, box[3] + _MARGIN_INCH
    figure.set_size_inches(width, top - bottom)
    x, y, nx, ny = inside
    axes.set_position([x / width, (y - bottom) / (top - bottom), nx / width, ny / (top - bottom)])
