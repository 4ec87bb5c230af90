"""Times of events: slices of time, good time intervals, and the clock of an event list.

Times are seconds since the reference of the event list, for the LAT the mission elapsed time (MET).
"""

import astropy.units as u
import numpy as np
from astropy.time import Time

from astro_unetloc.exceptions import InputError
from astro_unetloc.files import check_file, open_fits, split_choice
from astro_unetloc.maps.photons import good_times_of

# The reference of the Fermi tools.
FERMI_CLOCK = {"MJDREFI": 51910, "MJDREFF": 7.428703703703703e-4, "TIMESYS": "TT"}
_MAX_SLICES = 5000


def parse_time_range(time_range):
    """A pair of times in seconds as floats; None stays None."""
    if time_range is None:
        return None
    try:
        start, stop = map(float, time_range)
    except (TypeError, ValueError) as err:
        wanted = "time_range must be two times in seconds (MET)"
        raise InputError(f"{wanted}; got {time_range!r}; give a start and a stop") from err
    if not start < stop:
        raise InputError(f"time_range must increase; got {start:g} to {stop:g}; give another")
    return start, stop


def clipped(intervals, time_range):
    """The part of intervals (m, 2) inside a time range."""
    inside = np.clip(intervals, *time_range)
    return inside[inside[:, 0] < inside[:, 1]]


def as_mjd(seconds, header):
    """MJD, in the time scale of the event list, of times in seconds; of Fermi without keywords."""
    clock = header if {"MJDREFI", "MJDREF"} & set(header) else FERMI_CLOCK
    reference = clock.get("MJDREF", 0.0), clock.get("MJDREFI", 0.0), clock.get("MJDREFF", 0.0)
    return sum(map(float, reference)) + np.asarray(seconds, dtype=float) / 86400


def dates_of(time_range, header):
    """Keywords of the start and stop of a part of an event list; none of an infinite range."""
    if not np.isfinite(time_range).all():
        return {}
    scale = str(header.get("TIMESYS", "TT")).lower()
    dates = Time(as_mjd(time_range, header), format="mjd", scale=scale).isot
    return dict(zip(("TSTART", "TSTOP", "DATE-OBS", "DATE-END"), (*time_range, *map(str, dates))))


def time_slices(bins, good_times):
    """Start and stop (n, 2) in seconds of slices of time, in order, and their live times (n,).

    Parameters
    ----------
    bins : Quantity [time], str, path or array_like
        A length, such as ``"30d"``: slices of it from the first good time on, the last one may be
        shorter. Edges (n + 1,), also as text with commas between, or starts and stops (n, 2), in
        seconds. Or a file of good time intervals, each of which is a slice.
    good_times : ndarray (m, 2)
        Good time intervals in order, without overlaps.

    Returns
    -------
    slices : ndarray (n, 2)
        Those with a live time of more than zero.
    live : ndarray (n,)
        Seconds.
    """
    slices = _slices(bins, good_times)
    if not len(slices) or slices.ndim != 2 or not np.all(np.diff(slices.ravel()) >= 0):
        raise InputError(f"slices of time must follow each other; got {bins!r}; correct them")
    if len(slices) > _MAX_SLICES:
        n, limit = f"{len(slices):,}", f"{_MAX_SLICES:,}"
        raise InputError(f"at most {limit} slices of time were expected; got {n}; make them longer")
    start, stop = good_times.T
    edges = np.column_stack([start, stop]).ravel()
    before = np.column_stack([np.cumsum(stop - start) - (stop - start), np.cumsum(stop - start)])
    live = np.diff(np.interp(slices, edges, before.ravel()), axis=1)[:, 0]
    n = np.count_nonzero(live)
    if n < 2:
        span = f"{n} in the good times of {edges[0]:.9g} to {edges[-1]:.9g} s"
        raise InputError(f"two slices of time or more were expected; got {span}; choose others")
    return slices[live > 0], live[live > 0]


def _slices(bins, good_times):
    """Slices of time (n, 2) in any of the forms of `time_slices`."""
    if isinstance(bins, u.Quantity) or isinstance(bins, str) and _is_length(bins):
        length = u.Quantity(bins).to_value("s")
        first, last = good_times[0, 0], good_times[-1, 1]
        if not 0 < length or (last - first) / length > 2 * _MAX_SLICES:
            raise InputError(f"slices of time must be longer; got {bins}; give a longer time")
        edges = np.append(np.arange(first, last, length), last)
        return np.column_stack([edges[:-1], edges[1:]])
    if isinstance(bins, str) and "," in bins and not split_choice(bins)[0].exists():
        try:
            bins = [float(edge) for edge in bins.split(",")]
        except ValueError as err:
            raise InputError(f"edges must be seconds with commas between; got {bins!r}") from err
    if not isinstance(bins, np.ndarray | list | tuple):
        path = split_choice(bins)[0]
        check_file(path, "a length such as 30d, edges in seconds or a file of good time intervals")
        hdus, _ = open_fits(path)
        with hdus:
            intervals = good_times_of(hdus)
        if not len(intervals):
            raise InputError(f"a table GTI with START and STOP was expected in {path}; got none")
        return intervals
    edges = np.asarray(bins, dtype=float)
    return np.column_stack([edges[:-1], edges[1:]]) if edges.ndim == 1 else edges


def _is_length(text):
    try:
        return u.Quantity(text).unit.is_equivalent("s")
    except (TypeError, ValueError):
        return False
