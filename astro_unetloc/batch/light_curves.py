"""Slices of time of an event list: a search of each, and the light curves of all sources."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.table import QTable

from astro_unetloc.batch.search import search_all
from astro_unetloc.batch.state import as_text, name_of
from astro_unetloc.catalog.columns import LIGHT_CURVE_COLUMNS, VARIABILITY_COLUMNS
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.table import numbers, with_columns
from astro_unetloc.catalog.write import file_content
from astro_unetloc.exceptions import InputError, UnetlocWarning, warn
from astro_unetloc.files import write_files
from astro_unetloc.irf.exposure import read_exposure
from astro_unetloc.maps.read import MAP_OPTIONS, input_paths, read_map
from astro_unetloc.maps.times import as_mjd, time_slices
from astro_unetloc.measurement.variability import light_curves
from astro_unetloc.pipeline import as_seed, measurement_config, model_of
from astro_unetloc.plot import canvas

VARIABILITY, CURVES, PICTURE = "variability.fits", "lightcurve.fits", "lightcurve.png"
# Name of several event lists together: that of the first one would be taken for its own.
_JOINED = "joined"
# Results of the fit in the order of `VARIABILITY_COLUMNS`.
_OF_SOURCES = "variability", "flare", "probability"


class LightCurves(NamedTuple):
    """What `find_light_curves` found."""

    searches: QTable  # what became of each search, see `astro_unetloc.find_sources_in`
    catalog: QTable | None  # sources of the whole list with ``Variability``; None if that failed
    curves: QTable | None  # one row for each source and slice


def find_light_curves(
    events, folder, *, time_bins, slice_exposures=None, executor=None, n_cores=None,
    overwrite=False, progress=None, frame="icrs", **options,
):  # fmt: skip
    """Search an event list and its slices of time, and return the light curves of its sources.

    The folder gets what `find_sources_in` writes, for the whole list ``NAME`` (``joined``, if it is
    several files) and its slices ``NAME-001`` and so on, and ``variability.fits``, the catalogue of
    the whole list with the columns ``Variability`` and ``Prob_Constant``; ``lightcurve.fits``, the
    counts of each of its sources in each slice; and ``lightcurve.png``, the most variable sources.

    Parameters
    ----------
    events : str, path or list of paths
        Event lists with the columns TIME and good time intervals; several are one list.
    folder : str or path
        Where the files are written; it is made if absent.
    time_bins : Quantity [time], str, path or array_like
        The slices: their length such as ``"30d"``, edges in seconds (MET) as numbers or as text
        with commas between, or a file whose good time intervals are the slices.
    slice_exposures : list of str or path, optional
        The exposure of each slice with good times. By default exposures follow from the live times
        and the photons around the sources.
    executor, n_cores, overwrite, progress, frame : optional
        As in `find_sources_in`.
    **options
        Those of `find_sources`; exposure and background are those of the whole list.

    Returns
    -------
    LightCurves
        Tables ``searches``, ``catalog`` and ``curves``.

    Raises
    ------
    InputError, FileNotFoundError, FileExistsError
        If the events, the slices or the options cannot be used.

    Examples
    --------
    >>> from astro_unetloc import find_light_curves
    >>> found = find_light_curves("events.fits", "months", time_bins="30d")  # doctest: +SKIP
    >>> found.catalog["Source_Name", "Variability", "Prob_Constant"]  # doctest: +SKIP
    """
    sky_map, good_times = _read_events(events, options)
    slices, live = time_slices(time_bins, good_times)
    exposures = _read_exposures(slice_exposures, len(slices), options.get("exposure_frame"))
    name = _JOINED if len(input_paths(events)) > 1 else name_of(events)
    width = max(len(str(len(slices))), 3)
    own = {name: {}}
    for number, slice_ in enumerate(slices.tolist()):
        exposure = None if exposures is None else slice_exposures[number]
        of_slice = {"time_range": slice_, "exposure": exposure, "background": None}
        own[f"{name}-{number + 1:0{width}d}"] = of_slice
    searches = search_all(
        dict.fromkeys(own, events), folder, own=own, executor=executor, n_cores=n_cores,
        overwrite=overwrite, progress=progress, frame=frame, options=options,
        stated={"time_bins": as_text(time_bins)}, others=(VARIABILITY, CURVES, PICTURE),
    )  # fmt: skip
    if searches["Status"][0] != "done":
        return LightCurves(searches, None, None)
    catalog, live = read_catalog(Path(folder) / f"{name}.fits"), live / np.diff(good_times).sum()
    catalog, curves = _light_curves(catalog, sky_map, slices, live, exposures, options)
    contents = {
        VARIABILITY: file_content(catalog, VARIABILITY),
        CURVES: file_content(curves, CURVES),
        PICTURE: lambda path: plot_light_curves(catalog, curves, path=path),
    }
    write_files({Path(folder) / name: contents[name] for name in contents}, overwrite=True)
    return LightCurves(searches, catalog, curves)


def _read_events(events, options):
    """The whole event list, whose photons keep their times, and its good times (m, 2)."""
    with warnings.catch_warnings():  # the search of the whole list warns of the same
        warnings.simplefilter("ignore", UnetlocWarning)
        parts = {name: options.get(name) for name in MAP_OPTIONS}
        sky_map = read_map(events, **parts | {"time_range": (-np.inf, np.inf)})
    good_times = sky_map.good_times
    if not len(good_times):
        warn("the events have no good time intervals; taken from the first to the last event", 4)
        good_times = np.array([[sky_map.events.time.min(), sky_map.events.time.max()]])
    return sky_map, good_times


def _read_exposures(paths, n_slices, frame):
    """The exposure of each slice; None if they are not given."""
    if paths is None:
        return None
    if len(paths) != n_slices:
        raise InputError(
            f"slice_exposures must be one for each of the {n_slices} slices with good times; "
            f"got {len(paths)}; give them in the order of the slices"
        )
    return [read_exposure(path, frame=frame) for path in paths]


def _light_curves(catalog, sky_map, slices, live, exposures, options):
    """Catalogue with the variability of its sources, and the table of their light curves."""
    model = model_of(sky_map, options.get("model"), options.get("finder", "unet"))
    found = light_curves(
        catalog, sky_map, slices=slices, live=live, exposures=exposures,
        band_edges=model.band_edges, flux_range=model.flux_range,
        config=measurement_config(sky_map, model, systematic=0.0),
        seed=as_seed(options.get("rng", 0)),
    )  # fmt: skip
    n, m = len(catalog), len(slices)
    variability = [found.get(key, np.full(n, np.nan)) for key in _OF_SOURCES]
    catalog = with_columns(catalog, VARIABILITY_COLUMNS, variability)
    per_count = found.get("flux_per_count")
    values = [*slices.T, *as_mjd(slices, sky_map.header).T]
    values = [np.tile(column, n) for column in values]
    for key in ("exposure", "counts", "counts_err", "counts_ul", "sqrt_ts"):
        values.append(found.get(key, np.full((n, m), np.nan)))
    values += [(per_count if found else np.nan) * column for column in values[5:8]]
    names = np.repeat(np.asarray(catalog["Source_Name"]), m)
    curves = QTable({"Source_Name": names}, meta=dict(catalog.meta))
    values = [np.reshape(column, -1) for column in values]
    return catalog, with_columns(curves, LIGHT_CURVE_COLUMNS, values)


def plot_light_curves(catalog, curves, *, path=None, n_sources=6):
    """Return a picture of the light curves of the sources that are least likely constant.

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
    variability, chance = (numbers(catalog[name]) for name in ("Variability", "Prob_Constant"))
    order = np.lexsort([-np.nan_to_num(variability), np.nan_to_num(chance, nan=1.0)])[:n_sources]
    figure = canvas(8.0, 1.0 + 1.7 * max(len(order), 1))
    panels = figure.subplots(max(len(order), 1), sharex=True, squeeze=False)[:, 0]
    with_flux = np.isfinite(numbers(curves["Flux"])).any()
    for axes, row in zip(panels, order):
        name = catalog["Source_Name"][row]
        _draw_curve(axes, curves[curves["Source_Name"] == name], with_flux)
        text = f"{name}: variability {variability[row]:.1f}, by chance {chance[row]:.2g}"
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
