"""Pictures of single patches: what was there, what the network saw, what was found."""

import numpy as np

from astro_unetloc.config import MATCH_RADIUS_DEG, GridConfig
from astro_unetloc.figures import canvas, stretch

__all__ = ["draw_case"]

_TRUE_COLOR = "#5fe3ff"
# How true sources of each role and detections of each verdict are drawn, and what they are called.
_ROLES = {
    "counted": ({"linestyle": "-"}, "true source"),
    "faint": ({"linestyle": (0, (3, 2))}, "faint true source"),
    "extended": ({"linestyle": ":"}, "extended true source"),
}
_VERDICTS = {
    "right": ({"marker": "+", "color": "#8cff66"}, "found, right"),
    "wrong": ({"marker": "x", "color": "#ff5b5b"}, "found, wrong"),
    "ignored": ({"marker": "+", "color": "#ffd24d"}, "found, ignored"),
}
_SMOOTHING_PIX = 1.3


def draw_case(
    counts, mask, probability, true_xy, found_xy, *, code, about="", center=None, roles=None,
    radius_deg=None, verdicts=None, pixel_deg=None,
):  # fmt: skip
    """A patch in four panels: counts, mask, probability, and the sources on the counts.

    Parameters
    ----------
    counts : ndarray (ny, nx) or (ny, nx, n_band)
        Photons; the bands are added up.
    mask, probability : ndarray (ny, nx) or (ny, nx, n_class)
        What the network should have said and what it said, of source classes without the
        background; of several the highest is drawn.
    true_xy, found_xy : array-like (n, 2)
        Pixel positions x, y of true sources and detections, 0 at the centre of the first pixel.
        Those outside the patch are left out.
    code : str
        Name of the patch.
    about : str
        What there is to see, for the title.
    center : pair of float, optional
        Galactic longitude and latitude of the centre in deg, for the title.
    roles : sequence of str (n_true,), optional
        "counted" (a circle, the default), "faint" (dashed), "extended" (dotted); others are left
        out.
    radius_deg : sequence of float (n_true,), optional
        Radii of extended sources. No circle is smaller than the radius within which a detection
        counts, which is the default.
    verdicts : sequence of str (n_found,), optional
        "right" (+, the default), "wrong" (x) or "ignored" (another colour).
    pixel_deg : float, optional
        Pixel scale; that of the patch grid by default.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ValueError
        If images differ in shape, or there is not one role, radius or verdict for each position.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_unetloc.case_pictures import draw_case
    >>> empty = np.zeros((128, 128))
    >>> figure = draw_case(empty, empty, empty, [(60, 64)], [(61, 64)], code="sky000000-0001")
    >>> figure.savefig("case.png")  # doctest: +SKIP
    """
    images = [np.asarray(counts, float), np.asarray(mask, float), np.asarray(probability, float)]
    images[0] = images[0].sum(axis=-1) if images[0].ndim == 3 else images[0]
    images[1:] = [image.max(axis=-1) if image.ndim == 3 else image for image in images[1:]]
    if len({image.shape for image in images}) != 1:
        raise ValueError(
            "counts, mask and probability must have one shape; got "
            f"{', '.join(str(image.shape) for image in images)}; cut them to the same patch"
        )
    shape, least = images[0].shape, MATCH_RADIUS_DEG
    truth = _marks(true_xy, shape, roles=(roles, "counted"), radius_deg=(radius_deg, least))
    found = _marks(found_xy, shape, verdicts=(verdicts, "right"))
    return _picture(images, truth, found, _title(code, center, about), pixel_deg)


def _marks(xy, shape, **values):
    """Positions (n, 2) inside the image, and values of each, all the default where None."""
    xy = np.asarray(xy, dtype=float).reshape(-1, 2)
    half = np.array(shape[::-1]) / 2
    inside = np.all(np.abs(xy + 0.5 - half) <= half, axis=1)
    marks = [xy[inside]]
    for what, (given, default) in values.items():
        given = np.full(len(xy), default) if given is None else np.asarray(given)
        if given.shape != (len(xy),):
            raise ValueError(
                f"{what} must be one for each position; got {given.size} for {len(xy)}; give as "
                "many"
            )
        marks.append(given[inside])
    return marks


def _title(code, center, about):
    """Name of the patch, where it lies, what there is to see."""
    parts = [str(code)]
    if center is not None:
        lon, lat = (float(angle) for angle in center)
        parts.append(f"l = {lon % 360:.2f}°, b = {lat:+.2f}°")
    # a dollar sign would start a formula
    return "   ".join([*parts, str(about)] if about else parts).replace("$", r"\$")


def _picture(images, truth, found, title, pixel_deg):
    from scipy.ndimage import gaussian_filter

    counts, mask, probability = images
    smooth = gaussian_filter(counts, _SMOOTHING_PIX)
    figure = canvas(13.0, 4.3)
    axes = figure.subplots(ncols=4, sharex=True, sharey=True)
    norm = stretch(smooth)
    limits = {"vmin": 0.0, "vmax": 1.0}
    top = f"Counts, to {norm.vmax:.2g} per pixel"
    panels = [
        (top, smooth, {"cmap": "inferno", "norm": norm}),
        ("Mask", mask, {"cmap": "gray", **limits}),
        ("Probability, 0 to 1", probability, {"cmap": "inferno", **limits}),
        ("Sources", smooth, {"cmap": "gray", "norm": norm, "alpha": 0.65}),
    ]
    for each, (name, image, style) in zip(axes, panels):
        each.imshow(image, origin="lower", **style)
        each.set_facecolor("black")
        each.autoscale(enable=False)
        each.set_title(name, fontsize=10)
        each.set_xlabel("x (pixel)")
    axes[0].set_ylabel("y (pixel)")
    pixel_deg = GridConfig().pixel_deg if pixel_deg is None else pixel_deg
    _draw_true(axes[3], *truth, pixel_deg)
    _draw_found(axes[3], *found)
    _draw_scale(axes[0], 2.0 / pixel_deg)
    figure.suptitle(title, fontsize=11)
    _legend(figure, axes[3])
    return figure


def _legend(figure, axes):
    """What the marks mean, on a dark ground as they are drawn on."""
    from matplotlib.legend_handler import HandlerPatch
    from matplotlib.patches import Circle, Ellipse

    def ring(xdescent, ydescent, width, height, **options):
        middle = (width / 2 - xdescent, height / 2 - ydescent)
        return Ellipse(middle, 1.3 * height, 1.3 * height)

    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=6, fontsize=9, labelcolor="white",
            facecolor="#333333", handler_map={Circle: HandlerPatch(ring)},
        )  # fmt: skip


def _draw_true(axes, xy, roles, radius_deg, pixel_deg):
    from matplotlib.patches import Circle

    radius_pix = np.fmax(radius_deg, MATCH_RADIUS_DEG) / pixel_deg
    for role, (style, label) in _ROLES.items():
        look = {"edgecolor": _TRUE_COLOR, "facecolor": "none", "linewidth": 1.1, **style}
        for number, row in enumerate(np.flatnonzero(np.asarray(roles, str) == role)):
            name = label if number == 0 else None
            axes.add_patch(Circle(xy[row], radius_pix[row], label=name, **look))


def _draw_found(axes, xy, verdicts):
    for verdict, (style, label) in _VERDICTS.items():
        here = xy[verdicts == verdict]
        if len(here):
            axes.scatter(*here.T, s=34, linewidths=1.3, label=label, **style)


def _draw_scale(axes, length_pix):
    """A bar of two degrees."""
    axes.plot([6, 6 + length_pix], [5, 5], color="white", linewidth=2)
    axes.text(6 + length_pix / 2, 7, "2°", color="white", ha="center", va="bottom", fontsize=9)
