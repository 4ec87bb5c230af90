"""What the figures of an evaluation share: columns as plain numbers, and axes to draw them on.

Figures of an evaluation: one for each table of `astro_unetloc.evaluation.metrics`, drawn from what
the table holds and nothing else.

Pictures of single patches: what was there, what the network saw, what was found.
"""

import numpy as np

from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.table import numbers_of
from astro_unetloc.exceptions import InputError
from astro_unetloc.maps.patches import GridConfig
from astro_unetloc.plot import canvas, stretch

__all__ = [
    "BLUE",
    "GREEN",
    "SKY_STYLES",
    "VERMILION",
    "bins",
    "dodged",
    "draw",
    "draw_case",
    "interval",
    "legend",
    "log_axis",
    "panels",
    "plain_ticks",
    "points",
    "share_axis",
    "share_names",
    "sky_parts",
    "unit_of",
]


# Colours that colour-blind readers can tell apart (Okabe & Ito 2008, Color Universal Design);
# each goes with a marker of its own.
BLACK, BLUE, VERMILION, GREEN = "#333333", "#0072b2", "#d55e00", "#009e73"


SKY_STYLES = ((BLACK, "o"), (BLUE, "s"), (VERMILION, "^"))


def unit_of(table, name):
    """Unit of a column in brackets with a space before them; nothing if it has none."""
    unit = table[name].unit
    return f" ({unit_text(unit)})" if unit and str(unit) else ""


def unit_text(unit):
    """A unit as it is written under a figure: s⁻¹ cm⁻², deg."""
    return f"{unit:unicode}".replace("°", "deg")


def sky_parts(table):
    """Name, rows and style of each part of the sky, in the order of the table.

    What lies off the plane, in it, and the rest look alike in all figures.
    """
    if "Sky" not in table.colnames:
        return [("", table, SKY_STYLES[0])]
    skies = [str(sky) for sky in table["Sky"]]
    names = list(dict.fromkeys(skies))
    rows = [np.flatnonzero([sky == name for sky in skies]) for name in names]
    styles = (SKY_STYLES[1 if ">" in name else 2 if "<" in name else 0] for name in names)
    return [(name, table[row], style) for name, row, style in zip(names, rows, styles)]


def dodged(middle, number, n_series, *, log):
    """Places of the points of one of several series, so that they do not hide each other."""
    shift = number - (n_series - 1) / 2
    if log:
        return middle * 1.05**shift
    return middle + 0.012 * shift * np.ptp(middle[np.isfinite(middle)], axis=None)


def share_names(table):
    """Names of the columns that have an interval and any known value."""
    names = set(table.colnames)
    shares = [name for name in table.colnames if {f"{name}_Low", f"{name}_High"} <= names]
    return [name for name in shares if np.isfinite(numbers_of(table, name)).any()]


def interval(table, name):
    """Lengths of the error bars of a share (2, n)."""
    share = numbers_of(table, name)
    low, high = (numbers_of(table, f"{name}_{end}") for end in ("Low", "High"))
    return np.clip([share - low, high - share], 0, None)


def bins(table, *, log):
    """Middle of each bin and how far it reaches to both sides (2, n).

    What is open is drawn as wide as a factor of two, or as the bin beside it.
    """
    low, high = numbers_of(table, "Low"), numbers_of(table, "High")
    if log:
        high = np.where(np.isfinite(high), high, 2 * low)
        low = np.where(low > 0, low, high / 2)
        middle = np.sqrt(low * high)
    else:
        width = np.nanmax(np.where(np.isfinite(high - low), high - low, 0)) or 1.0
        high = np.where(np.isfinite(high), high, low + width)
        middle = (low + high) / 2
    return middle, np.array([middle - low, high - middle])


def panels(n_columns=1, *, width=6.4, height=4.2, **options):
    """A figure and its axes, without frames above and to the right."""
    figure = canvas(width, height)
    axes = figure.subplots(ncols=n_columns, squeeze=False, **options)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="#e6e6e6", linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes.squeeze(0) if axes.shape[0] == 1 else axes


def points(axes, x, y, style, *, label="", xerr=None, yerr=None, **options):
    """Points with error bars and without a line; ``style`` is a colour and a marker."""
    color, marker = style
    look = {"linestyle": "none", "markersize": 4.5, "elinewidth": 1.1, "capsize": 0} | options
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, color=color, marker=marker, label=label, **look)


def legend(figure, axes):
    """One legend for the figure, below its panels, of what the axes show."""
    handles, labels = axes.get_legend_handles_labels()
    if any(labels):
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False
        )


def share_axis(axes, which="y"):
    """An axis from 0 to 1, with room for the points at its ends."""
    getattr(axes, f"set_{which}lim")(-0.03, 1.03)


def log_axis(axes, which, shown):
    """A logarithmic axis, if anything drawn on it is positive; draw first."""
    shown = np.asarray(shown, dtype=float)
    if np.any(shown > 0) and np.isfinite(getattr(axes.dataLim, f"minpos{which}")):
        getattr(axes, f"set_{which}scale")("log")
        plain_ticks(getattr(axes, f"{which}axis"), shown[shown > 0])


def plain_ticks(axis, shown):
    """10, 20, 50 instead of powers, on a logarithmic axis that shows ordinary numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = np.min(shown), np.max(shown)
    if 0.001 <= low <= high < 1e5:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1, 3)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


_SHARE_STYLES = {"Completeness": (BLUE, "o"), "Purity": (VERMILION, "s")}


# The width of fewer pulls says nothing.
_MIN_PULLS = 5


_X_LABELS = {
    "by_photons": "Photons: true of true sources, measured of detections",
    "by_flux": "Flux{unit}: true of true sources, measured of detections",
    "by_sqrt_ts": "$\\sqrt{TS}$",
    "by_latitude": "|b| (deg)",
}


def draw(name, table):
    """The figure of a table of scores.

    Parameters
    ----------
    name : str
        Which table of `astro_unetloc.evaluation.metrics`, or "comparison".
    table : QTable
        With the columns of that table; ``meta["title"]`` is the title.

    Returns
    -------
    matplotlib.figure.Figure or None
        None if the table has no rows or is not one that a figure is made of.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc.evaluation.figures import draw
    >>> table = QTable({"Sky": ["all sky"], "Flux_50": [2e-11], "Flux_90": [4e-11]})
    >>> draw("flux_limits", table).savefig("flux_limits.png")  # doctest: +SKIP
    """
    if not len(table) or name not in _DRAWERS:
        return None
    figure = _DRAWERS[name](name, table)
    figure.suptitle(str(table.meta.get("title", "")), fontsize=12)
    return figure


def _binned(name, table):
    """Completeness and purity over the bins, above how many sources they are of."""
    figure, axes = panels(nrows=2, height=5.2, sharex=True, height_ratios=[2.4, 1])
    log = name in ("by_photons", "by_flux", "by_sqrt_ts")
    middle, reach = bins(table, log=log)
    shares = share_names(table)
    for number, share in enumerate(shares):
        place = dodged(middle, number, len(shares), log=log)
        points(
            axes[0, 0], place, numbers_of(table, share), _SHARE_STYLES.get(share, (GREEN, "D")),
            label=share, yerr=interval(table, share),
        )  # fmt: skip
    kinds = {"N_True": (_SHARE_STYLES["Completeness"][0], "true sources"),
               "N_Listed": (_SHARE_STYLES["Purity"][0], "detections")}  # fmt: skip
    for column, (color, label) in kinds.items():
        if column in table.colnames and np.any(table[column] > 0):
            axes[1, 0].bar(
                middle - reach[0], numbers_of(table, column), reach.sum(axis=0), align="edge",
                facecolor=f"{color}22", edgecolor=color, linewidth=1.0, label=label,
            )  # fmt: skip
    if log:
        log_axis(axes[1, 0], "x", middle)
    elif (middle >= reach[0]).all():
        # the bins near the plane are narrow
        axes[0, 0].set_xscale("function", functions=(_root, np.square))
        axes[0, 0].set_xticks(np.unique([middle - reach[0], middle + reach[1]]))
        axes[0, 0].xaxis.set_major_formatter("{x:g}")
    share_axis(axes[0, 0])
    axes[0, 0].set_ylabel("Share")
    if shares:
        axes[0, 0].legend(frameon=False, loc="lower right")
    axes[1, 0].set_ylabel("Number")
    if axes[1, 0].containers:
        axes[1, 0].legend(frameon=False, loc="best")
    axes[1, 0].set_xlabel(_X_LABELS[name].replace("{unit}", unit_of(table, "Low")))
    return figure


def _root(x):
    return np.sqrt(np.maximum(x, 0))


def _by_class(name, table):
    """The shares of each class, one under the other."""
    figure, (axes,) = panels(height=1.6 + 0.5 * len(table))
    place = np.arange(len(table))[::-1]
    shares = share_names(table)
    for number, share in enumerate(shares):
        shift = 0.16 * (number - (len(shares) - 1) / 2)
        points(
            axes, numbers_of(table, share), place - shift,
            _SHARE_STYLES.get(share, (GREEN, "D")),
            label=share.replace("_", " "), xerr=interval(table, share),
        )  # fmt: skip
    names = [f"{kind} ({int(n)})" for kind, n in zip(table["Class"], table["N_True"])]
    axes.set_yticks(place, names)
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlabel("Share")
    share_axis(axes, "x")
    legend(figure, axes)
    return figure


def _by_threshold(name, table):
    """Purity over completeness, and F1 over the threshold."""
    figure, axes = panels(2, width=9.2)
    for label, rows, (color, _) in sky_parts(table):
        style = {"color": color, "linewidth": 1.5, "label": label}
        axes[0].plot(numbers_of(rows, "Completeness"), numbers_of(rows, "Purity"), **style)
        axes[1].plot(numbers_of(rows, "Score"), numbers_of(rows, "F1"), **style)
    axes[0].set(xlabel="Completeness", ylabel="Purity")
    axes[1].set(xlabel="Smallest Score listed", ylabel="F1")
    for each in axes:
        share_axis(each)
        share_axis(each, "x")
    legend(figure, axes[0])
    return figure


def _summary(name, table):
    """The scores of each part of the sky."""
    scores = ["Completeness", "Purity", "F1", "Average_Precision", "Completeness_At_95"]
    scores = [score for score in scores if score in table.colnames]
    labels = {"Completeness_At_95": "Completeness\nat 95 % purity"}
    figure, (axes,) = panels(height=4.0)
    parts = sky_parts(table)
    for number, (sky, row, style) in enumerate(parts):
        place = np.arange(len(scores))[::-1] - 0.2 * (number - (len(parts) - 1) / 2)
        error = np.array(
            [interval(row, s)[:, 0] if s in share_names(row) else (0, 0) for s in scores]
        ).T
        share = np.array([numbers_of(row, score)[0] for score in scores])
        points(axes, share, place, style, label=sky, xerr=np.nan_to_num(error))
    axes.set_yticks(
        np.arange(len(scores))[::-1], [labels.get(s, s.replace("_", " ")) for s in scores]
    )
    low = np.nanmin([numbers_of(table, score) for score in scores] + [np.ones(len(table))])
    axes.set_xlim(min(0.5, np.floor(10 * low) / 10) if low > 0.1 else -0.03, 1.01)
    legend(figure, axes)
    return figure


def _flux_limits(name, table):
    """Fluxes at 50 and 90 % completeness."""
    figure, (axes,) = panels(height=1.7 + 0.4 * len(table))
    place = np.arange(len(table))[::-1]
    styles = {"Flux_50": (BLUE, "o"), "Flux_90": (VERMILION, "s")}
    for column, style in styles.items():
        points(axes, numbers_of(table, column), place, style, label=f"{column[-2:]} % found")
    axes.set_yticks(place, [str(sky) for sky in table["Sky"]])
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlabel(f"Flux{unit_of(table, 'Flux_50')}")
    log_axis(axes, "x", [numbers_of(table, column) for column in styles])
    legend(figure, axes)
    return figure


def _numbers(name, table):
    """How many detections are listed where how many sources are, as numbers of patches."""
    from matplotlib.colors import LogNorm, Normalize

    figure, (axes,) = panels(width=5.6, height=4.9)
    true, listed = (numbers_of(table, column) for column in ("N_True", "N_Listed"))
    top = max(true.max(), listed.max(), 1)
    step = max(1, round(top / 50))
    edges = np.arange(-0.5, top + 0.5 + step, step)
    counts = np.histogram2d(true, listed, bins=(edges, edges))[0].T
    norm = LogNorm(1, counts.max()) if counts.max() > 20 else Normalize(1, max(counts.max(), 2))
    shown = np.where(counts > 0, counts, np.nan)
    picture = axes.pcolormesh(edges, edges, shown, cmap="viridis_r", norm=norm)
    axes.plot(edges[[0, -1]], edges[[0, -1]], color=VERMILION, linewidth=1, label="equal numbers")
    for key in ("correlation", "bias", "scatter"):
        if key in table.meta:
            axes.plot([], [], " ", label=f"{key} {float(table.meta[key]):.3g}")
    axes.set(xlabel="True sources in a patch", ylabel="Detections listed in it", aspect="equal")
    axes.legend(loc="upper left", frameon=False)
    bar = figure.colorbar(picture, ax=axes, shrink=0.85)
    if counts.max() > 20:
        plain_ticks(bar.ax.yaxis, counts[counts > 0])
    bar.set_label("Patches")
    return figure


def _position_errors(name, table):
    """Offsets, and the shares of true positions inside the error ellipses, over the photons."""
    figure, axes = panels(2, width=9.2)
    parts = sky_parts(table)
    for number, (label, rows, style) in enumerate(parts):
        middle = dodged(bins(rows, log=True)[0], number, len(parts), log=True)
        points(axes[0], middle, numbers_of(rows, "Median_Offset"), style, label=label)
        for share in ("In_68", "In_95"):
            yerr = interval(rows, share) if share in share_names(rows) else None
            points(axes[1], middle, numbers_of(rows, share), style, yerr=yerr)
    for level in (0.68, 0.95):
        axes[1].axhline(level, color="0.5", linewidth=0.9, linestyle="--")
    axes[0].set_ylabel(f"Median offset{unit_of(table, 'Median_Offset')}")
    axes[1].set_ylabel("Share inside the 68 and 95 % ellipses")
    log_axis(axes[0], "y", numbers_of(table, "Median_Offset"))
    axes[1].set_ylim(top=1.01)
    _over_photons(figure, axes, table)
    return figure


def _fit_errors(name, table):
    """The typical error of a fitted value, and the width and middle of its pulls."""
    figure, axes = panels(2, width=9.2)
    ratio = "Median_Ratio" in table.colnames
    column = "Median_Ratio" if ratio else "Median_Difference"
    parts = sky_parts(table)
    for number, (label, rows, style) in enumerate(parts):
        middle = dodged(bins(rows, log=True)[0], number, len(parts), log=True)
        points(axes[0], middle, numbers_of(rows, column), style, label=label)
        many = numbers_of(rows, "N") >= _MIN_PULLS
        for pull, look in (("Pull_Width", {}), ("Pull_Median", {"mfc": "white"})):
            points(axes[1], middle[many], numbers_of(rows, pull)[many], style, **look)
    axes[0].axhline(float(ratio), color="0.5", linewidth=0.9, linestyle="--")
    for level in (0, 1):
        axes[1].axhline(level, color="0.5", linewidth=0.9, linestyle="--")
    axes[0].set_ylabel("Median of measured / true" if ratio else "Median of measured - true")
    axes[1].set_ylabel("Pulls: width (filled), median (open)")
    _over_photons(figure, axes, table)
    return figure


def _over_photons(figure, axes, table):
    """Photons on the horizontal axes of both panels, and the legend."""
    for each in axes:
        each.set_xlabel("True photons")
        log_axis(each, "x", bins(table, log=True)[0])
    legend(figure, axes[0])


def _reliability(name, table):
    """The share of right detections over their score."""
    figure, (axes,) = panels(width=5.4, height=5.2)
    errors = table.meta.get("ece", {})
    errors = errors if isinstance(errors, dict) else {"": errors}
    for sky, rows, style in sky_parts(table):
        share = numbers_of(rows, "Share")
        points(axes, numbers_of(rows, "Mean_Score"), share, style, label=sky or None,
                yerr=interval(rows, "Share"))  # fmt: skip
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=0.9, linestyle="--", label="as it should be")
    for sky, error in errors.items():
        text = f"calibration error {float(error):.3f}"
        axes.plot([], [], " ", label=f"{text}, {sky}" if sky else text)
    axes.set(xlabel="Mean Score", ylabel="Share that is right", aspect="equal")
    share_axis(axes)
    share_axis(axes, "x")
    axes.legend(loc="upper left", frameon=False)
    return figure


def _real_by_score(name, table):
    """The share of true sources of any brightness in ranges of Score."""
    figure, (axes,) = panels(width=5.4)
    parts = sky_parts(table)
    for number, (sky, rows, style) in enumerate(parts):
        place = np.arange(len(rows)) + 0.12 * (number - (len(parts) - 1) / 2)
        points(axes, place, numbers_of(rows, "Share_Real"), style, label=sky or None,
                yerr=interval(rows, "Share_Real"))  # fmt: skip
    low, high = (numbers_of(parts[0][1], end) for end in ("Low", "High"))
    axes.set_xticks(range(len(low)), [f"{a:g}-\n{b:g}" for a, b in zip(low, high)])
    axes.set(xlabel="Score", ylabel="Share that is a true source")
    share_axis(axes)
    legend(figure, axes)
    return figure


def _false_alarms(name, table):
    """Wrong detections, those beside a source that another took apart."""
    figure, (axes,) = panels(height=1.7 + 0.4 * len(table))
    place = np.arange(len(table))[::-1]
    wrong, double, rate = (
        numbers_of(table, n) for n in ("N_Wrong", "N_Duplicates", "Per_100_Deg2")
    )
    known = np.isfinite(rate).all()
    scale = np.where(wrong > 0, rate / np.maximum(wrong, 1), 0) if known else np.ones(len(table))
    style = {"height": 0.55, "left": np.zeros(len(table))}
    axes.barh(place, (wrong - double) * scale, color=VERMILION, label="elsewhere", **style)
    style["left"] = (wrong - double) * scale
    axes.barh(place, double * scale, color=BLUE, label="second detection of a source", **style)
    axes.set_yticks(place, [f"{sky} ({int(n)})" for sky, n in zip(table["Sky"], wrong)])
    axes.set_xlim(0, 1.06 * max((wrong * scale).max(), 0.01))
    axes.set_xlabel("Wrong detections per 100 square degrees" if known else "Wrong detections")
    legend(figure, axes)
    return figure


def _misses(name, table):
    """Where the missed sources lie."""
    figure, (axes,) = panels(height=1.5 + 0.38 * len(table))
    place = np.arange(len(table))[::-1]
    share = np.nan_to_num(numbers_of(table, "Share_Missed"))
    error = np.zeros((2, len(table)))
    if "Share_Missed" in share_names(table):
        error = np.nan_to_num(interval(table, "Share_Missed"))
    look = {"ecolor": "0.25", "error_kw": {"elinewidth": 1.1}}
    axes.barh(place, share, height=0.6, color=BLUE, alpha=0.75, xerr=error, **look)
    top = share + error[1]
    for y, x, missed, true in zip(place, top, table["N_Missed"], table["N_True"]):
        axes.text(x, y, f"  {int(missed)} of {int(true)}", va="center", fontsize=9)
    axes.set_yticks(place, [str(reason) for reason in table["Reason"]])
    axes.set_xlim(0, 1.25 * max(top.max(), 0.01))
    axes.set_xlabel("Share of such sources that is missed")
    return figure


def _comparison(name, table):
    """Differences of two finders with their intervals, filled where they are real."""
    statistics = list(dict.fromkeys(str(s) for s in table["Statistic"]))
    angles = [s for s in statistics if "offset" in s.lower()]
    groups = [g for g in ([s for s in statistics if s not in angles], angles) if g]
    figure, axes = panels(
        len(groups), width=9.2, height=1.6 + 0.5 * len(groups[0]),
        width_ratios=[3, 1.3][: len(groups)],
    )  # fmt: skip
    for each, group in zip(axes, groups):
        each.axvline(0, color="0.5", linewidth=0.9, linestyle="--")
        each.set_yticks(range(len(group))[::-1], [g.replace("_", " ") for g in group])
        each.set_ylim(-0.6, len(group) - 0.4)
        each.set_xlabel(
            "Difference (deg)" if group is angles else "First - second (open: may be chance)"
        )
        each.locator_params(axis="x", nbins=3 if group is angles else 7)
        _differences(each, table, group)
    legend(figure, axes[0])
    return figure


def _differences(axes, table, group):
    parts = sky_parts(table)
    for number, (sky, rows, style) in enumerate(parts):
        for row in rows:
            if str(row["Statistic"]) not in group:
                continue
            place = len(group) - 1 - group.index(str(row["Statistic"]))
            one = rows[row.index : row.index + 1]
            value, low, high = (numbers_of(one, c)[0] for c in ("Difference", "Low", "High"))
            shift = 0.2 * (number - (len(parts) - 1) / 2)
            label = sky if row["Statistic"] == rows["Statistic"][0] else ""
            points(axes, [value], [place - shift], style, label=label,
                    xerr=np.clip([[value - low], [high - value]], 0, None),
                    mfc=style[0] if row["Real"] else "white")  # fmt: skip


_DRAWERS = {
    "summary_table": _summary,
    "by_threshold": _by_threshold,
    "by_photons": _binned,
    "by_flux": _binned,
    "by_sqrt_ts": _binned,
    "by_latitude": _binned,
    "by_class": _by_class,
    "flux_limits": _flux_limits,
    "numbers_per_part": _numbers,
    "position_errors": _position_errors,
    "flux_errors": _fit_errors,
    "index_errors": _fit_errors,
    "reliability": _reliability,
    "real_by_score": _real_by_score,
    "false_alarms": _false_alarms,
    "misses": _misses,
    "comparison": _comparison,
}


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
    >>> from astro_unetloc.evaluation.figures import draw_case
    >>> empty = np.zeros((128, 128))
    >>> figure = draw_case(empty, empty, empty, [(60, 64)], [(61, 64)], code="sky000000-0001")
    >>> figure.savefig("case.png")  # doctest: +SKIP
    """
    images = [np.asarray(counts, float), np.asarray(mask, float), np.asarray(probability, float)]
    images[0] = images[0].sum(axis=-1) if images[0].ndim == 3 else images[0]
    images[1:] = [image.max(axis=-1) if image.ndim == 3 else image for image in images[1:]]
    if len({image.shape for image in images}) != 1:
        raise InputError(
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
            raise InputError(
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
