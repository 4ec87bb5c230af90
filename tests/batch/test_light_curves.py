"""Slices of time of an event list: the files of a folder, and what their tables hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from made_files import cube_hdus
from made_sources import background_around, join, photons_of

from astro_unetloc import find_light_curves, read_catalog
from astro_unetloc.batch import search
from astro_unetloc.batch.light_curves import plot_light_curves
from astro_unetloc.exceptions import InputError, UnetlocWarning
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.maps.photons import DiscFootprint
from astro_unetloc.simulation.files import events_bytes
from astro_unetloc.sphere import vectors_from_lonlat

DAY = 86400.0


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """A file of events of 30 days with a steady source, and one that flares on the last ten."""
    rng = np.random.default_rng(0)
    steady, flaring = vectors_from_lonlat(np.array([120.0, 121.5]), np.array([40.0, 41.0]))[:, None]
    parts = [photons_of(steady, 90, rng), background_around(steady, 4.0, rng)]
    parts.append(photons_of(flaring, 50, rng))
    time = [rng.random(len(part)) * 30 * DAY for part in parts]
    time[2] = 20 * DAY + time[2] / 3
    path = tmp_path_factory.mktemp("events") / "events.fits"
    photons = join(*parts)
    photons = photons.select(DiscFootprint(steady[0], 3.0).covers(photons.vectors))
    return write_events(path, join(*parts), np.concatenate(time))


def write_events(path, photons, time):
    """A file of photons with their times, and the good time intervals of three times ten days."""
    start = np.arange(3) * 10 * DAY
    content = events_bytes(
        replace(photons, time=time),
        np.array([10.0, 2000.0]),
        good_times=np.column_stack([start, start + 10 * DAY]),
    )
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def found(events, tmp_path_factory):
    """The folder of the light curves and what was returned."""
    folder = tmp_path_factory.mktemp("out") / "out"
    return folder, find_light_curves(events, folder, time_bins="10d", n_cores=1)


def test_folder_holds_the_whole_and_its_slices(found):
    folder, _ = found
    names = ["events", "events-001", "events-002", "events-003"]
    files = [f"{name}{suffix}" for name in names for suffix in (".fits", ".reg")]
    files += [
        "catalogs.fits",
        "lightcurve.fits",
        "lightcurve.png",
        "state.json",
        "variability.fits",
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    part = fits.getheader(folder / "events-002.fits", 1)
    assert (part["TSTART"], part["TSTOP"], part["ONTIME"]) == (10 * DAY, 20 * DAY, 10 * DAY)
    assert "--time-range 864000.0 1728000.0" in part["COMMAND"]
    numbers = [fits.getheader(folder / f"{name}.fits", 1)["NPHOTONS"] for name in names]
    assert numbers[0] == sum(numbers[1:])


def test_flare_varies_and_the_steady_source_does_not(found):
    folder, (searches, catalog, curves) = found
    assert searches["Status"].tolist() == ["done"] * 4
    steady, flaring = np.argsort(catalog["GLON"].value)
    assert catalog["Prob_Constant"][steady] > 0.01
    assert catalog["Prob_Constant"][flaring] < 1e-6
    assert catalog["Variability"][flaring] > 5
    curve = curves[curves["Source_Name"] == catalog["Source_Name"][flaring]]
    assert curve["TSTART"].value.tolist() == [0, 10 * DAY, 20 * DAY]
    assert curve["MJD_STOP"].value[0] - curve["MJD_START"].value[0] == pytest.approx(10)
    assert curve["Npred_UL95"].mask.tolist() == [False, False, True]
    assert abs(curve["Npred"][2] - 50) < 3.5 * np.sqrt(50)
    assert curve["Flux"].mask.all()
    written = read_catalog(folder / "variability.fits")
    assert written["Variability"].tolist() == catalog["Variability"].tolist()
    table = fits.getdata(folder / "lightcurve.fits", 1)
    assert table.names[:3] == ["Source_Name", "TSTART", "TSTOP"]
    assert len(table) == 3 * len(catalog)


def test_finished_slices_are_not_searched_again(found, events, monkeypatch):
    folder, (_, catalog, _) = found
    monkeypatch.setattr(search, "detect", None)
    again = find_light_curves(events, folder, time_bins="10d", n_cores=1)
    assert again.catalog["Variability"].tolist() == catalog["Variability"].tolist()
    with pytest.raises(InputError, match="time_bins 10d before, 15d now"):
        find_light_curves(events, folder, time_bins="15d", n_cores=1)


def test_exposures_of_slices_give_fluxes(events, tmp_path, monkeypatch):
    paths = [tmp_path / f"exposure{number}.fits" for number in range(3)]
    for path in paths:
        path.write_text("an exposure")
    read = []

    def read_exposure(path, *, frame):
        read.append(path)
        return SurveyExposure(years=1.0)

    monkeypatch.setattr("astro_unetloc.batch.light_curves.read_exposure", read_exposure)
    monkeypatch.setattr("astro_unetloc.maps.read.read_exposure",
                        lambda path, frame=None: path and SurveyExposure(years=1.0))  # fmt: skip
    options = {"time_bins": "10d", "n_cores": 1}
    with pytest.warns(UnetlocWarning, match="each is counted once"):
        found = find_light_curves(
            [events, events], tmp_path / "out", slice_exposures=paths, **options
        )
    assert read == paths
    assert not found.curves["Flux"].mask.any()
    written = QTable.read(tmp_path / "out" / "lightcurve.fits", hdu=1)  # nothing is masked
    axes = plot_light_curves(found.catalog[:1], written).axes[0]
    assert axes.get_title(loc="left").startswith(found.catalog["Source_Name"][0])
    own = json.loads((tmp_path / "out" / "state.json").read_text())["maps"]["joined-002"]["own"]
    assert own["exposure"].startswith("exposure1.fits sha256")
    with pytest.raises(InputError, match="one for each of the 3 slices with good times; got 2"):
        find_light_curves(events, tmp_path / "out", slice_exposures=paths[:2], **options)


def test_maps_that_are_no_events_are_refused(tmp_path):
    cube_hdus(np.ones((1, 4, 4), int), np.array([10.0, 2000.0])).writeto(tmp_path / "map.fits")
    with pytest.raises(InputError, match=r"time range needs an event list; got the map map.fits"):
        find_light_curves(tmp_path / "map.fits", tmp_path / "out", time_bins="1d")
