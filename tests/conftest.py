"""What all tests share: where real data lie, and tiny worlds to test on."""

import importlib
import os
import shutil
import sys
from pathlib import Path

import pytest

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


def in_ci():
    """Whether this run must not skip for want of data or programs."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def skip_unless_in_ci(reason):
    """Skip the test, saying why; in continuous integration fail instead."""
    if in_ci():
        pytest.fail(f"{reason}; it must be there in CI", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def distributed():
    """The package dask.distributed."""
    try:
        import distributed
    except ImportError:
        skip_unless_in_ci("dask.distributed is not installed")
    return distributed


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real Fermi-LAT files."""
    if not REAL_DATA.is_dir():
        skip_unless_in_ci("real Fermi-LAT data not present")
    return REAL_DATA


@pytest.fixture(scope="module")
def import_benchmark():
    """Function that imports a module of the benchmarks, which may import others of them."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(folder)


@pytest.fixture
def rng():
    """A generator that draws the same numbers in every run."""
    import numpy as np

    return np.random.default_rng(0)


def make_wcs(
    shape=(32, 32), *, lon=0.0, lat=0.0, pixel_deg=0.1, projection="TAN", frame="galactic"
):
    """Celestial WCS of an image ``shape`` (ny, nx) with its reference point in the middle."""
    from astropy.wcs import WCS

    prefix = {"galactic": ("GLON", "GLAT"), "icrs": ("RA--", "DEC-")}[frame]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"{axis}-{projection}" for axis in prefix]
    wcs.wcs.crval = [lon, lat]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cdelt = [-pixel_deg, pixel_deg]
    return wcs


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window; it may not look for anything on the network."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        skip_unless_in_ci("Chromium not installed (Debian: chromium chromium-driver)")
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    # no sandbox: a container's root has none
    for option in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
                   "window-size=1400,1000"):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield chrome
    chrome.quit()
