"""Figures of an evaluation: one of each table, drawn from its columns alone, and single patches."""

from functools import partial

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.legend_handler import HandlerPatch
from matplotlib.patches import Circle, Ellipse, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.ndimage import gaussian_filter

from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.table import numbers_of
from astro_unetloc.plot import canvas, stretch

# Colours that colour-blind readers can tell apart (Okabe & Ito 2008, Color Universal Design), each
# with a marker of its own.
_BLACK, _BLUE, _VERMILION, _GREEN = "#333333", "#0072b2", "#d55e00", "#009e73"
_STYLES = {"Completeness": (_BLUE, "o"), "Purity": (_VERMILION, "s")}
_CLASS_STYLES = {"AGN": (_BLUE, "o"), "PSR": (_VERMILION, "s"), "OTHER": (_GREEN, "D")}
_CLASS_SCORES = {
    "AUC": (_BLACK, "o"), "Balanced_Accuracy": (_BLUE, "s"), "Macro_Recall": (_GREEN, "D"),
    "PSR_Recall": (_VERMILION, "^"),
}  # fmt: skip
_MIN_PULLS = 5  # the width of fewer pulls is not drawn
_UNIT = -0.03, 1.03  # from 0 to 1, with room for the points at the ends
_GUIDE = {"color": "0.5", "linewidth": 0.9, "linestyle": "--"}


def draw(name, table):
    """Figure of a table of an evaluation, by its name; None without rows or drawer."""
    if not len(table) or name not in _DRAWERS:
        return None
    drawer, height, options = _DRAWERS[name]
    figure, axes = _panels(height=height[0] + height[1] * len(table), **options)
    drawer(axes, table)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels and not any(each.get_legend() for each in axes):
        options = {"ncols": min(len(labels), 4), "frameon": False}
        figure.legend(handles, labels, loc="outside lower center", **options)
    figure.suptitle(str(table.meta.get("title", "")), fontsize=12)
    return figure


# Parts of figures


def _panels(width=6.4, height=4.2, **options):
    """A figure and its axes, without frames above and to the right."""
    figure = canvas(width, height)
    axes = figure.subplots(squeeze=False, **options)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="#e6e6e6", linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes.ravel()


def _by_sky(table, column="Sky"):
    """Name, rows and style of each region of the sky; a region looks alike in all figures."""
    styles = {">": (_BLUE, "s"), "<": (_VERMILION, "^"), "photons": (_GREEN, "D")}
    skies = np.asarray(table[column], str)
    for sky in dict.fromkeys(skies.tolist()):
        style = next((styles[mark] for mark in styles if mark in sky), (_BLACK, "o"))
        yield sky, table[skies == sky], style


def _fractions(table):
    """Names of the columns that have an interval and any known value."""
    names = [name for name in table.colnames if f"{name}_Low" in table.colnames]
    return [name for name in names if np.isfinite(numbers_of(table, name)).any()]


def _interval(table, name):
    """Lengths of the error bars of a column (2, n); 0 without an interval."""
    value = numbers_of(table, name)
    low, high = (numbers_of(table, f"{name}_{end}") for end in ("Low", "High"))
    return np.nan_to_num(np.clip([value - low, high - value], 0, None))


def _points(axes, x, y, style, *, label=None, xerr=None, yerr=None, **options):
    """Points with error bars and without a line; ``style`` is a colour and a marker."""
    color, marker = style
    look = {"linestyle": "none", "markersize": 4.5, "elinewidth": 1.1, "capsize": 0} | options
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, color=color, marker=marker, label=label, **look)


def _dodged(items, width):
    """Each of some series of points with a shift, so that they do not hide each other."""
    items = list(items)
    return [(width * (i - (len(items) - 1) / 2), item) for i, item in enumerate(items)]


def _bins(table, *, log=True):
    """Lower end, middle and upper end of each bin; an open one is as wide as a factor of two."""
    low, high = numbers_of(table, "Low"), numbers_of(table, "High")
    if not log:
        return low, (low + high) / 2, high
    high = np.where(np.isfinite(high), high, 2 * low)
    low = np.where(low > 0, low, high / 2)
    return low, np.sqrt(low * high), high


def _unit(table, name):
    """Unit of a column in brackets with a space before them; empty without a unit."""
    text = unit_text(table[name].unit)
    return f" ({text})" if text else ""


def unit_text(unit):
    """Text of a unit, such as s⁻¹ cm⁻² or deg; empty without a unit."""
    return f"{unit:unicode}".replace("°", "deg") if unit else ""


def _log_axis(axes, which, values):
    """Logarithmic axis for values, if any of them is positive; call it after drawing."""
    values = np.asarray(values, dtype=float).ravel()
    values = values[values > 0]
    if len(values) and np.isfinite(getattr(axes.dataLim, f"minpos{which}")):
        getattr(axes, f"set_{which}scale")("log")
        _plain_ticks(getattr(axes, f"{which}axis"), values.min(), values.max())


def _plain_ticks(axis, low, high):
    """10, 20, 50 instead of powers on a logarithmic axis of ordinary numbers or a short range."""
    if high < 300 * low or 0.001 <= low <= high < 1e5:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1, 3)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _rows_axis(axes, labels):
    """Labels of rows from top to bottom; returns their places."""
    places = np.arange(len(labels))[::-1]
    axes.set_yticks(places, [str(label).replace("_", " ") for label in labels])
    axes.set_ylim(-0.6, len(labels) - 0.4)
    return places


# Tables


def _summary(axes, table):
    """Scores of each region of the sky, and the fluxes of 50 and 90 % completeness."""
    scores = ["Completeness", "Purity", "F1", "Average_Precision", "Completeness_At_95"]
    fluxes = {"Flux_50": "50 % found", "Flux_90": "90 % found"}
    labels = [*scores[:-1], "Completeness\nat 95 % purity"], fluxes.values()
    places = [_rows_axis(*each) for each in zip(axes, labels)]
    lowest = 1.0
    for shift, (sky, row, style) in _dodged(_by_sky(table), 0.2):
        value = np.array([numbers_of(row, score)[0] for score in scores])
        error = np.hstack([_interval(row, score) for score in scores])
        _points(axes[0], value, places[0] - shift, style, label=sky, xerr=error)
        flux = [numbers_of(row, flux)[0] for flux in fluxes]
        _points(axes[1], flux, places[1] - shift, style)
        lowest = np.nanmin([lowest, *value])
    axes[0].set_xlim(min(0.5, np.floor(10 * lowest) / 10) if lowest > 0.1 else -0.03, 1.01)
    _log_axis(axes[1], "x", [numbers_of(table, flux) for flux in fluxes])
    axes[1].set_xlabel(f"Flux{_unit(table, 'Flux_50')}")


def _by_threshold(axes, table):
    """Purity over completeness, and F1 over the threshold."""
    for label, rows, (color, _) in _by_sky(table):
        style = {"color": color, "linewidth": 1.5, "label": label}
        axes[0].plot(numbers_of(rows, "Completeness"), numbers_of(rows, "Purity"), **style)
        axes[1].plot(numbers_of(rows, "Score"), numbers_of(rows, "F1"), **style)
    axes[0].set(xlabel="Completeness", ylabel="Purity", xlim=_UNIT, ylim=_UNIT)
    axes[1].set(xlabel="Smallest Score listed", ylabel="F1", xlim=_UNIT, ylim=_UNIT)


def _binned(axes, table, *, label, log=True):
    """Completeness and purity over the bins, above the numbers of sources."""
    upper, lower = axes
    low, middle, high = _bins(table, log=log)
    for shift, column in _dodged(_fractions(table), 1.0):
        place = middle * 1.05**shift if log else middle + 0.6 * shift
        _points(upper, place, numbers_of(table, column), _STYLES[column], label=column,
                yerr=_interval(table, column))  # fmt: skip
    kinds = {"N_True": ("Completeness", "true sources"), "N_Listed": ("Purity", "detections")}
    for column, (fraction, kind) in kinds.items():
        if column in table.colnames and np.any(table[column] > 0):
            color = _STYLES[fraction][0]
            lower.bar(low, numbers_of(table, column), high - low, align="edge", label=kind,
                      facecolor=f"{color}22", edgecolor=color, linewidth=1.0)  # fmt: skip
    if log:
        _log_axis(lower, "x", middle)
    else:
        # the bins near the plane are narrow
        upper.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        upper.set_xticks(np.unique([low, high]))
        upper.xaxis.set_major_formatter("{x:g}")
    upper.set(ylabel="Fraction", ylim=_UNIT)
    lower.set(ylabel="Number", xlabel=label.replace("{unit}", _unit(table, "Low")))
    for each, where in ((upper, "lower right"), (lower, "best")):
        if each.containers:
            each.legend(frameon=False, loc=where)


def _by_class(axes, table):
    """Completeness of each class."""
    (axes,) = axes
    places = _rows_axis(axes, [f"{c} ({n})" for c, n in zip(table["Class"], table["N_True"])])
    _points(axes, numbers_of(table, "Completeness"), places, _STYLES["Completeness"],
            xerr=_interval(table, "Completeness"))  # fmt: skip
    axes.set(xlabel="Completeness", xlim=_UNIT)


def _numbers(axes, table):
    """Numbers of tiles by their numbers of true sources and of detections."""
    (axes,) = axes
    true, listed = (numbers_of(table, column) for column in ("N_True", "N_Listed"))
    top = max(true.max(), listed.max(), 1)
    step = max(1, round(top / 50))
    edges = np.arange(-0.5, top + 0.5 + step, step)
    counts = np.histogram2d(true, listed, bins=(edges, edges))[0].T
    shown, norm = np.where(counts > 0, counts, np.nan), LogNorm(1, max(counts.max(), 2))
    image = axes.pcolormesh(edges, edges, shown, cmap="viridis_r", norm=norm)
    axes.plot(edges[[0, -1]], edges[[0, -1]], color=_VERMILION, linewidth=1, label="equal numbers")
    for key in ("correlation", "bias", "scatter"):
        axes.plot([], [], " ", label=f"{key} {float(table.meta.get(key, np.nan)):.3g}")
    axes.set(xlabel="True sources in a patch", ylabel="Detections listed in it", aspect="equal")
    axes.legend(loc="upper left", frameon=False)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.85, label="Patches")
    _plain_ticks(bar.ax.yaxis, norm.vmin, norm.vmax)


def _measurement_errors(axes, table):
    """Errors of position, flux and index over the expected photons."""
    for shift, (label, rows, style) in _dodged(_by_sky(table), 1.0):
        middle = _bins(rows)[1] * 1.05**shift
        _points(axes[0], middle, numbers_of(rows, "Median_Offset"), style, label=label)
        for column in ("In_68", "In_95"):
            _points(axes[1], middle, numbers_of(rows, column), style, yerr=_interval(rows, column))
        for left, kind, column in ((2, "Flux", "Flux_Ratio"), (4, "Index", "Index_Difference")):
            _points(axes[left], middle, numbers_of(rows, column), style)
            many = numbers_of(rows, f"N_{kind}") >= _MIN_PULLS
            for pull, look in (("Width", {}), ("Median", {"mfc": "white"})):
                values = numbers_of(rows, f"{kind}_Pull_{pull}")
                _points(axes[left + 1], middle[many], values[many], style, **look)
    panels = (
        (f"Median offset{_unit(table, 'Median_Offset')}", ()),
        ("Fraction in the 68 and 95 % ellipses", (0.68, 0.95)),
        ("Median of measured / true flux", (1,)), ("Flux pull: width, median (open)", (0, 1)),
        ("Median of measured - true index", (0,)), ("Index pull: width, median (open)", (0, 1)),
    )  # fmt: skip
    for each, (label, levels) in zip(axes, panels):
        for level in levels:
            each.axhline(level, **_GUIDE)
        each.set(xlabel="Expected photons", ylabel=label)
        _log_axis(each, "x", _bins(table)[1])
    _log_axis(axes[0], "y", numbers_of(table, "Median_Offset"))
    axes[1].set_ylim(top=1.01)


def _reliability(axes, table):
    """Fraction of real sources over the Score, and of all from a Score on with the expected one."""
    errors = table.meta.get("ece", {})
    for label, rows, style in _by_sky(table):
        error = f"{label}: calibration error {errors.get(label, np.nan):.3f}"
        places = numbers_of(rows, "Mean_Score"), numbers_of(rows, "Low")
        columns = ("Fraction_Real", "Real_Above")
        for each, x, column, text in zip(axes, places, columns, (error, label)):
            _points(each, x, numbers_of(rows, column), style, label=text,
                    yerr=_interval(rows, column))  # fmt: skip
        axes[1].plot(places[1], numbers_of(rows, "Expected_Above"), color=style[0], linewidth=1)
    axes[0].plot([0, 1], [0, 1], label="equal", **_GUIDE)
    axes[0].set(xlabel="Mean Score", ylabel="Fraction that is real", xlim=_UNIT, ylim=_UNIT)
    axes[1].set(xlabel="Smallest Score listed", ylabel="Real (lines: expected)", xlim=_UNIT)
    for each in axes:
        each.legend(loc="lower right", frameon=False, fontsize=9)


def _false_positives(axes, table):
    """False positives per area, second detections of a source apart."""
    (axes,) = axes
    names = ("N_False", "N_Duplicates", "Per_100_Deg2")
    n_false, n_double, rate = (numbers_of(table, name) for name in names)
    known = np.isfinite(rate).all()
    scale = rate / np.maximum(n_false, 1) if known else 1.0
    places = _rows_axis(axes, [f"{sky} ({int(n)})" for sky, n in zip(table["Sky"], n_false)])
    single, double = (n_false - n_double) * scale, n_double * scale
    axes.barh(places, single, 0.55, color=_VERMILION, label="elsewhere")
    axes.barh(places, double, 0.55, left=single, color=_BLUE, label="second detection of a source")
    axes.set_xlabel("False positives per 100 square degrees" if known else "False positives")


def _false_negatives(axes, table):
    """Fractions of true sources that are missed, by reason."""
    (axes,) = axes
    numbers = zip(table["Reason"], table["N_Missed"], table["N_True"])
    places = _rows_axis(axes, [f"{reason} ({int(n)} of {int(m)})" for reason, n, m in numbers])
    fraction = np.nan_to_num(numbers_of(table, "Fraction_Missed"))
    axes.barh(places, fraction, height=0.6, color=_BLUE, alpha=0.75, ecolor="0.25",
              xerr=_interval(table, "Fraction_Missed"), error_kw={"elinewidth": 1.1})  # fmt: skip
    axes.set_xlabel("Fraction of such sources that is missed")


def _class_scores(axes, table):
    """Scores of the classes in each sample, and the true over the expected number of pulsars."""
    places = _rows_axis(axes[0], _CLASS_SCORES), _rows_axis(axes[1], [""])
    for shift, (sample, row, style) in _dodged(_by_sky(table, "Sample"), 0.18):
        value = [numbers_of(row, score)[0] for score in _CLASS_SCORES]
        error = np.hstack([_interval(row, score) for score in _CLASS_SCORES])
        _points(axes[0], value, places[0] - shift, style, label=sample, xerr=error)
        error = numbers_of(row, "Ratio") * _relative(row, "Expected_PSR")
        _points(axes[1], numbers_of(row, "Ratio"), places[1] - shift, style, xerr=error)
    axes[0].set(xlabel="Value", xlim=(None, 1.01))
    axes[1].axvline(1, **_GUIDE)
    axes[1].set_xlabel("True / expected pulsars")


def _relative(table, name):
    """Errors of a column over its values."""
    return numbers_of(table, f"Unc_{name}") / np.maximum(numbers_of(table, name), 1e-9)


def _class_bins(axes, table, *, label, log=True):
    """Scores of the classes over the bins, above the numbers of sources of each class."""
    upper, lower = axes
    _, middle, _ = _bins(table, log=log)
    middle = middle if log else np.sqrt(middle)
    for shift, (score, style) in _dodged(_CLASS_SCORES.items(), 1.0):
        place = middle * 1.04**shift if log else middle + 0.1 * shift
        _points(upper, place, numbers_of(table, score), style, label=score.replace("_", " "),
                yerr=_interval(table, score))  # fmt: skip
    for name, style in _CLASS_STYLES.items():
        number = numbers_of(table, f"N_{name}")
        _points(lower, middle, np.where(number > 0, number, np.nan), style, label=name)
    if log:
        _log_axis(lower, "x", middle)
    else:
        edges = np.unique([numbers_of(table, end) for end in ("Low", "High")])
        lower.set_xticks(np.sqrt(edges), [f"{edge:g}" for edge in edges])
    _log_axis(lower, "y", [numbers_of(table, f"N_{name}") for name in _CLASS_STYLES])
    upper.set(ylabel="Value", ylim=(None, 1.02))
    lower.set(ylabel="Number", xlabel=label)
    for each, n in ((upper, 4), (lower, 3)):  # above, since points may lie anywhere
        each.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.99), ncols=n)


def _confusion(axes, table):
    """Fractions of each true class by the class in the catalogue, with their errors."""
    (axes,) = axes
    names = [*(f"As_{name}" for name in _CLASS_STYLES), "Unassigned"]
    places = _rows_axis(axes, [f"{c} ({n})" for c, n in zip(table["Class"], table["N"])])
    axes.grid(visible=False)
    for column, name in enumerate(names):
        for place, row in zip(places, table):
            value, low, high = (float(row[name + end]) for end in ("", "_Low", "_High"))
            axes.add_patch(
                Rectangle(
                    (column - 0.5, place - 0.5), 1, 1, color=_BLUE, alpha=np.nan_to_num(value)
                )
            )
            axes.text(column, place, f"{value:.3f}\n{low:.3f}–{high:.3f}", ha="center", va="center")
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set(xlim=(-0.5, len(names) - 0.5), ylabel="True class", xlabel="Class in the catalogue")


def _class_reliability(axes, table):
    """Fraction of the sources of a class over its probability."""
    (axes,) = axes
    errors = table.meta.get("ece", {})
    for name, style in _CLASS_STYLES.items():
        rows = table[np.asarray(table["Class"], str) == name]
        label = f"{name}: calibration error {errors.get(name, np.nan):.3f}"
        _points(axes, numbers_of(rows, "Mean_Probability"), numbers_of(rows, "Fraction_True"),
                style, label=label, yerr=_interval(rows, "Fraction_True"))  # fmt: skip
    axes.plot([0, 1], [0, 1], label="equal", **_GUIDE)
    axes.set(xlabel="Mean probability", ylabel="Fraction of the class", xlim=_UNIT, ylim=_UNIT)
    axes.legend(loc="upper left", frameon=False, fontsize=9)


def _comparison(axes, table):
    """Differences of two catalogues with their intervals, filled where they are significant."""
    statistics = np.asarray(table["Statistic"], str)
    is_offset = np.char.find(statistics, "offset") >= 0
    labels = ("First - second (open: not significant)", "Difference (deg)")
    for each, chosen, label, n_ticks in zip(axes, (~is_offset, is_offset), labels, (7, 3)):
        group, names = table[chosen], list(dict.fromkeys(statistics[chosen].tolist()))
        places = dict(zip(names, _rows_axis(each, names)))
        each.axvline(0, **_GUIDE)
        for shift, (sky, rows, style) in _dodged(_by_sky(group), 0.2):
            for i, row in enumerate(rows):
                value, low, high = (float(row[n]) for n in ("Difference", "Low", "High"))
                error = np.clip([[value - low], [high - value]], 0, None)
                _points(each, [value], [places[str(row["Statistic"])] - shift], style,
                        label=sky if i == 0 else None, xerr=error,
                        mfc=style[0] if row["Significant"] else "white")  # fmt: skip
        each.set_xlabel(label)
        each.locator_params(axis="x", nbins=n_ticks)


def _over_bins(label, drawer=_binned, **options):
    """Drawer of a table of bins, with its height and panels."""
    panels = {"nrows": 2, "sharex": True, "height_ratios": [2.4, 1]}
    return partial(drawer, label=label, **options), (5.2, 0), panels


_TWO = {"ncols": 2, "width": 9.2}
# Drawer of each table, height of the figure (at all and for each row) and its panels.
_DRAWERS = {
    "summary_table": (_summary, (4.0, 0), _TWO | {"width_ratios": [3, 2]}),
    "by_threshold": (_by_threshold, (4.2, 0), _TWO),
    "by_photons": _over_bins("Photons: expected of true sources, measured of detections"),
    "by_flux": _over_bins("Flux{unit}: true of true sources, measured of detections"),
    "by_sqrt_ts": _over_bins("$\\sqrt{TS}$"),
    "by_latitude": _over_bins("|b| (deg)", log=False),
    "by_class": (_by_class, (1.6, 0.5), {}),
    "numbers_per_tile": (_numbers, (4.9, 0), {"width": 5.6}),
    "measurement_errors": (_measurement_errors, (10.5, 0), _TWO | {"nrows": 3}),
    "reliability": (_reliability, (5.0, 0), _TWO),
    "false_positives": (_false_positives, (1.7, 0.4), {}),
    "false_negatives": (_false_negatives, (1.5, 0.38), {}),
    "class_scores": (_class_scores, (4.0, 0), _TWO | {"width_ratios": [3, 1.3]}),
    "class_by_photons": _over_bins("Measured photons", _class_bins),
    "class_by_latitude": _over_bins("|b| (deg)", _class_bins, log=False),
    "confusion": (_confusion, (1.4, 0.8), {}),
    "class_reliability": (_class_reliability, (5.0, 0), {}),
    "comparison": (_comparison, (4.0, 0), _TWO | {"width_ratios": [3, 1.3]}),
}


# Single patches

_TRUTH_LINES = {
    "counted": ("-", "true source"), "faint": ((0, (3, 2)), "faint true source"),
    "extended": (":", "extended true source"),
}  # fmt: skip
_STATUS_MARKS = {
    "true positive": ("+", "#8cff66"), "false positive": ("x", "#ff5b5b"),
    "ignored": ("+", "#ffd24d"),
}  # fmt: skip


def draw_example(example, *, threshold=-np.inf, about=""):
    """Four panels of a patch of `read_example`: counts, mask, probability, sources from a Score."""
    smooth = gaussian_filter(example["image"].sum(axis=-1, dtype=float), 1.3)
    norm, limits = stretch(smooth), {"vmin": 0.0, "vmax": 1.0}
    figure = canvas(13.0, 4.3)
    axes = figure.subplots(ncols=4, sharex=True, sharey=True)
    panels = (
        (f"Counts, to {norm.vmax:.2g} per pixel", smooth, {"cmap": "inferno", "norm": norm}),
        ("Mask", example["mask"].max(axis=-1), {"cmap": "gray", **limits}),
        ("Probability, 0 to 1", example["probability"], {"cmap": "inferno", **limits}),
        ("Sources", smooth, {"cmap": "gray", "norm": norm, "alpha": 0.65}),
    )
    for each, (name, image, style) in zip(axes, panels):
        each.imshow(np.asarray(image, float), origin="lower", **style)
        each.autoscale(enable=False)
        each.set(facecolor="black", xlabel="x (pixel)")
        each.set_title(name, fontsize=10)
    axes[0].set_ylabel("y (pixel)")
    length = 2 / example["pixel_deg"]
    axes[0].plot([6, 6 + length], [5, 5], color="white", linewidth=2)
    axes[0].text(6 + length / 2, 7, "2°", color="white", ha="center", va="bottom", fontsize=9)
    _draw_sources(axes[3], example["sources"], example["pixel_deg"])
    found = example["found"][example["found"]["score"] >= threshold]
    for status, (marker, color) in _STATUS_MARKS.items():
        rows = found[found["status"] == status.encode()]
        if len(rows):
            axes[3].scatter(rows["x"], rows["y"], s=34, linewidths=1.3, label=status,
                            marker=marker, color=color)  # fmt: skip
    lon, lat = example["center"][:2]
    title = f"{example['code']}   l = {lon % 360:.2f}°, b = {lat:+.2f}°   {about}".rstrip()
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)  # a dollar sign would start a formula
    handles, labels = axes[3].get_legend_handles_labels()
    if labels:  # on a dark ground like that of the marks
        figure.legend(
            handles, labels, loc="outside lower center", ncols=6, fontsize=9, labelcolor="white",
            facecolor="#333333", handler_map={Circle: HandlerPatch(_legend_ring)},
        )  # fmt: skip
    return figure


def _legend_ring(legend, orig_handle, xdescent, ydescent, width, height, fontsize):
    return Ellipse((width / 2 - xdescent, height / 2 - ydescent), 1.3 * height, 1.3 * height)


def _draw_sources(axes, sources, pixel_deg):
    """Circles of the true sources, of the match radius or as wide as an extended source."""
    radius_pix = np.fmax(sources["radius"], MATCH_RADIUS_DEG) / pixel_deg
    for truth_class, (line, label) in _TRUTH_LINES.items():
        look = {"edgecolor": "#5fe3ff", "facecolor": "none", "linewidth": 1.1, "linestyle": line}
        rows = np.flatnonzero(sources["truth_class"] == truth_class.encode())
        for i, row in enumerate(rows):
            center = float(sources["x"][row]), float(sources["y"][row])
            axes.add_patch(Circle(center, radius_pix[row], label=None if i else label, **look))
