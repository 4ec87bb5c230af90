"""A real DS9 reads the regions: Debian's saods9 under Xvfb, where both are installed."""

import os
import shutil
import subprocess

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from conftest import make_wcs, skip_unless_in_ci
from made_catalogs import make_catalog, make_sources, split_regions
from regions import Regions

from astro_unetloc.catalog.columns import CLASS_COLORS
from astro_unetloc.catalog.write import format_regions, write_outputs

MISSING = [name for name in ("ds9", "Xvfb") if not shutil.which(name)]


@pytest.fixture(scope="module")
def screen():
    """Name of a display without a monitor."""
    if MISSING:
        skip_unless_in_ci(f"{', '.join(MISSING)} not installed (Debian: saods9 xvfb)")
    reader, writer = os.pipe()
    options = ["-screen", "0", "1000x900x24", "-nolisten", "tcp"]
    command = ["Xvfb", "-displayfd", str(writer), *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, pass_fds=[writer], **quiet)
    os.close(writer)
    with os.fdopen(reader) as stream:
        number = stream.readline().strip()
    assert number, "Xvfb did not start"
    yield f":{number}"
    server.terminate()
    server.wait(timeout=20)


@pytest.fixture(scope="module")
def run_ds9(screen, tmp_path_factory):
    """Function that runs DS9 with arguments in a folder until it exits, without a message."""
    home = tmp_path_factory.mktemp("ds9_home")
    env = {**os.environ, "HOME": str(home), "DISPLAY": screen, "LC_ALL": "C.UTF-8"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

    def run(folder, *arguments):
        # a dialogue would wait for ever
        done = subprocess.run(
            ["ds9", *arguments], cwd=folder, env=env, text=True, timeout=60, check=False, **pipes
        )
        assert (done.returncode, done.stdout.strip()) == (0, "")

    return run


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Folder with a counts map of four sources; the first and the third have error ellipses."""
    folder = tmp_path_factory.mktemp("field")
    lon, lat = np.array([184.56, 186.0, 183.2, 184.0]), np.array([-5.78, -4.5, -7.0, -4.2])
    sources = make_sources(lon=lon, lat=lat)
    sources["Score"], sources["Flags"] = [0.99, 0.9, 0.8, 0.7], [0, 16, 2, 0]
    ellipse, known = {"SemiMajor": 0.3, "SemiMinor": 0.1, "PosAng": 30.0}, [1, np.nan, 1, np.nan]
    values = {f"Conf_95_{name}": value * np.array(known) for name, value in ellipse.items()}
    values["Class"] = np.array(["psr", "agn", "", "other"])
    catalog = make_catalog(sources, values=values)
    wcs = make_wcs((100, 120), lon=184.5, lat=-5.5, pixel_deg=0.05)
    counts = np.random.default_rng(0).poisson(0.3, (100, 120)).astype(np.int32)
    x, y = np.rint(wcs.world_to_pixel(catalog["skycoord"])).astype(int)
    counts[y, x] += 40
    fits.PrimaryHDU(counts, wcs.to_header()).writeto(folder / "map.fits")
    return folder, catalog


SAVE = ("-regions", "system", "wcs", "-regions", "sky", "icrs", "-regions", "skyformat", "degrees")


def load_and_save(run_ds9, folder, name):
    """Regions that DS9 holds after it loaded a file: points and ellipses."""
    save = [*SAVE, "-regions", "save", f"saved_{name}", "-exit"]
    run_ds9(folder, "map.fits", "-regions", "load", name, *save)
    return split_regions(Regions.read(folder / f"saved_{name}", format="ds9"))


@pytest.mark.parametrize("frame", ["icrs", "fk5", "galactic"])
def test_ds9_holds_every_source_and_draws_the_same_ellipse_in_any_frame(run_ds9, field, frame):
    folder, catalog = field
    write_outputs(catalog, [folder / f"{frame}.reg"], frame=frame)
    points, ellipses = load_and_save(run_ds9, folder, f"{frame}.reg")
    assert [point.meta["text"] for point in points] == list(catalog["Source_Name"])
    colors = [CLASS_COLORS[name] for name in ("psr", "agn", "", "other")]
    assert [point.visual["color"].lower() for point in points] == colors
    assert len(ellipses) == 2
    positions = SkyCoord([point.center for point in points]).icrs
    assert positions.separation(catalog["skycoord"]).max() < 0.1 * u.arcsec
    assert ellipses[0].width.to_value("deg") / 2 == pytest.approx(0.3, abs=1e-3)
    assert ellipses[0].height.to_value("deg") / 2 == pytest.approx(0.1, abs=1e-3)
    assert ellipses[0].angle.to_value("deg") % 180 == pytest.approx(120.0, abs=0.1)


def test_ds9_survives_odd_characters_and_a_single_source(run_ds9, field):
    folder, catalog = field
    one = catalog[:1].copy()
    one["Source_Name"] = ['a{b}c\\ \n"d"; #e $f [g] =h é']
    write_outputs(one, [folder / "odd.reg"])
    points, ellipses = load_and_save(run_ds9, folder, "odd.reg")
    assert len(points) == len(ellipses) == 1
    assert points[0].meta["text"] == 'a(b)c/ "d"; #e $f [g] =h e'


def test_ds9_groups_the_regions_of_a_source_without_labels(run_ds9, field):
    folder, catalog = field
    write_outputs(catalog, [folder / "bare.reg"], labels=False)
    points, ellipses = load_and_save(run_ds9, folder, "bare.reg")
    assert [point.meta["tag"][0] for point in points] == list(catalog["Source_Name"])
    assert not any(region.meta.get("text") for region in points + ellipses)


def test_ds9_takes_regions_of_an_empty_catalog(run_ds9, field):
    folder, catalog = field
    (folder / "empty.reg").write_text(format_regions(catalog[:0]))
    run_ds9(folder, "map.fits", "-regions", "load", "empty.reg", "-exit")
