"""What the figures of an evaluation share: columns as plain numbers, and axes to draw them on."""

import numpy as np

from astro_unetloc.figures import canvas
from astro_unetloc.references import numbers_of

__all__ = [
    "BLUE",
    "GREEN",
    "SKY_STYLES",
    "VERMILION",
    "bins",
    "dodged",
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
