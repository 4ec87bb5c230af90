"""Slices of time: their forms, live times and dates; events between two times."""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from astro_unetloc import read_map
from astro_unetloc.exceptions import InputError
from astro_unetloc.maps.times import as_mjd, time_slices

GOOD = np.array([[0.0, 10.0], [20.0, 30.0], [30.0, 40.0]])
CLOCK = {"MJDREFI": 51910, "MJDREFF": 7.428703703703703e-4, "TIMESYS": "TT"}


def write_events(path, time, good_times=GOOD, **columns):
    """An event list of photons at these times, on a line of the sky."""
    n = len(time)
    table = Table({"ENERGY": np.full(n, 2e4), "RA": np.linspace(10, 20, n), "DEC": np.zeros(n),
                   "TIME": np.asarray(time, float)} | columns)  # fmt: skip
    table["ENERGY"].unit = "MeV"
    events = fits.BinTableHDU(table, name="EVENTS")
    events.header.update(CLOCK)
    gti = fits.BinTableHDU(
        Table(np.reshape(good_times, (-1, 2)), names=["START", "STOP"]), name="GTI"
    )
    fits.HDUList([fits.PrimaryHDU(), events, gti]).writeto(path)
    return path


@pytest.mark.parametrize("bins", ["20s", 20 * u.s, "0, 20, 40", [0, 20, 40], [(0, 20), (20, 40)]])
def test_forms_of_slices_agree(bins):
    slices, live = time_slices(bins, GOOD)
    assert slices.tolist() == [[0, 20], [20, 40]]
    assert live.tolist() == [10, 20]


def test_file_of_good_times_has_the_slices(tmp_path):
    path = write_events(tmp_path / "gti.fits", [1.0], [[5, 10], [10, 25]])
    slices, live = time_slices(str(path), GOOD)
    assert slices.tolist() == [[5, 10], [10, 25]]
    assert live.tolist() == [5, 5]


def test_last_slice_may_be_shorter_and_one_without_good_times_is_left_out():
    slices, live = time_slices("9 s", GOOD)
    assert slices[[0, -1]].tolist() == [[0, 9], [36, 40]]
    assert live.tolist() == [9, 1, 7, 9, 4]
    slices, _ = time_slices([0, 10, 20, 40], GOOD)
    assert slices.tolist() == [[0, 10], [20, 40]]


@pytest.mark.parametrize(
    ("bins", "message"),
    [
        ("30d", "two slices of time or more were expected; got 1 in"),
        ([50, 60, 70], "got 0 in the good times of 0 to 40 s"),
        ([0, 20, 10], "must follow each other"),
        ([(0, 20), (10, 30)], "must follow each other"),
        ("1,two", "seconds with commas between"),
        ("-3 s", "must be longer"),
        ("1 us", "must be longer"),
        ("30 m", "no such file: 30 m"),
    ],
)
def test_slices_that_cannot_be_are_refused(bins, message):
    with pytest.raises((InputError, FileNotFoundError), match=message):
        time_slices(bins, GOOD)


def test_file_without_good_times_is_refused(tmp_path):
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(tmp_path / "map.fits")
    with pytest.raises(InputError, match=r"a table GTI with START and STOP was expected in .*map"):
        time_slices(tmp_path / "map.fits", GOOD)


def test_seconds_become_mjd():
    assert as_mjd(0.0, CLOCK) == as_mjd(0.0, {}) == pytest.approx(51910.0007428704)
    assert as_mjd([86400.0], {"MJDREF": 50000.0}).tolist() == [50001.0]


def test_part_of_an_event_list_covers_the_sky_and_energies_of_the_whole(tmp_path):
    path = write_events(tmp_path / "events.fits", np.arange(40))
    whole, part = read_map(path), read_map(path, time_range=(5, 25))
    assert whole.events.time is None
    assert part.events.time.tolist() == list(range(5, 25))
    assert np.array_equal(part.footprint.mask, whole.footprint.mask)
    assert part.energy_edges.tolist() == whole.energy_edges.tolist()
    assert part.good_times.tolist() == [[5, 10], [20, 25]]
    assert (whole.header["ONTIME"], part.header["ONTIME"]) == (30, 10)
    assert (part.header["TSTART"], part.header["TSTOP"]) == (5, 25)
    assert part.header["DATE-OBS"].startswith("2001-01-01T00:01:09")


def test_time_range_needs_events(tmp_path):
    path = write_events(tmp_path / "events.fits", np.arange(4))
    with pytest.raises(InputError, match="must increase; got 5 to 5"):
        read_map(path, time_range=(5, 5))
    with pytest.raises(InputError, match="must be two times"):
        read_map(path, time_range=5)
    with pytest.raises(InputError, match="when events are read; got a map"):
        read_map(read_map(path), time_range=(1, 2))
    with fits.open(path) as hdus:
        hdus["EVENTS"].columns.del_col("TIME")
        hdus.writeto(tmp_path / "timeless.fits")
    with pytest.raises(InputError, match="with a column TIME were expected"):
        read_map(tmp_path / "timeless.fits", time_range=(1, 2))
