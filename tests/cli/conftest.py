"""Fixtures of the tests of the command line."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from made_files import cube_hdus, image_header

from astro_unetloc.cli.main import main


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Function of words that runs the command in an empty folder: (code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        return stop.value.code or 0, *capfd.readouterr()

    return call


@pytest.fixture
def passes(run):
    """Function of words that expects exit code 0 and returns what was printed: (stdout, stderr)."""

    def call(*words):
        code, *printed = run(*words)
        assert code == 0, printed
        return printed

    return call


@pytest.fixture
def refused(run):
    """Function of a message and words that expects exit code 2 and the message on one line."""

    def call(message, *words):
        code, stdout, stderr = run(*words)
        assert (code, stdout) == (2, ""), stderr
        *warnings, error = stderr.splitlines()
        assert error.startswith("error: ")
        assert message in error
        assert all(line.startswith("warning: ") for line in warnings)

    return call


@pytest.fixture
def files(run):
    """Function that returns the names of the files in the folder of `run`."""
    return lambda: sorted(path.name for path in Path.cwd().iterdir())


@pytest.fixture
def write_map(run):
    """Function that writes a field of 3 x 3 deg with one bright source in the middle."""

    def write(path="map.fits", edges=(10, 20, 50, 150, 500, 2000.0)):
        counts = np.random.default_rng(0).poisson(0.01, (len(edges) - 1, 30, 30))
        counts[:, 14:16, 14:16] += np.array([6, 3, 1, 0, 0])[: len(edges) - 1, None, None]
        cube_hdus(counts.astype(">i4"), np.array(edges), lon=120.0, lat=40.0).writeto(path)
        return path

    return write


@pytest.fixture
def write_image(run):
    """Function that writes an image without energies."""

    def write(pixel_deg=0.1):
        header = image_header((10, 10), pixel_deg=pixel_deg)
        fits.PrimaryHDU(np.ones((10, 10), int), header).writeto("image.fits")
        return "image.fits"

    return write
