"""Time and memory of whole runs of ``astro-unetloc``, from process start to written catalogue.

    python benchmarks/run_time.py [--runs 3]

Makes three maps in a temporary folder, all simulated with seed 5, and runs the command on each:
a 10 x 10 deg cube, an all-sky list of about 600 000 photons, and an all-sky HEALPix cube of nside
256 with 40 million counts. Prints the median wall time and the largest peak memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import healpy
import numpy as np
from astropy.io import fits

from astro_unetloc.simulation import simulate_cube, simulate_sky
from astro_unetloc.sky_files import counts_cube_bytes, events_bytes

SEED = 5


def write_small_cube(path):
    """A 10 x 10 deg cube at middle latitude."""
    *cube, _ = simulate_cube(center=(75.0, 20.0), width_deg=10.0, pixel_deg=0.1, rng=SEED)
    path.write_bytes(counts_cube_bytes(*cube))


def write_all_sky_events(path):
    """All photons above 10 GeV of seven years."""
    sky_map, _ = simulate_sky(years=7.0, rng=SEED)
    path.write_bytes(events_bytes(sky_map.events, sky_map.energy_edges))


def write_large_cube(path, n_counts=40_000_000, nside=256, n_bins=17):
    """The same sky as a gtbin HEALPix cube, brightened to the counts of an all-sky map at low
    energy; only its size is like that of a real one."""
    sky_map, _ = simulate_sky(years=7.0, rng=SEED)
    edges = np.geomspace(10.0, 2000.0, n_bins + 1)
    pixel = healpy.vec2pix(nside, *sky_map.events.vectors.T, nest=False)
    energy_bin = np.clip(np.searchsorted(edges, sky_map.events.energy) - 1, 0, n_bins - 1)
    n_pixels = 12 * nside**2
    counts = np.bincount(energy_bin * n_pixels + pixel, minlength=n_bins * n_pixels)
    smooth = counts.reshape(n_bins, n_pixels) + counts.mean()
    counts = np.random.default_rng(SEED).poisson(smooth * n_counts / smooth.sum())
    columns = [fits.Column(f"CHANNEL{i + 1}", "J", array=c) for i, c in enumerate(counts)]
    table = fits.BinTableHDU.from_columns(columns, name="SKYMAP")
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="RING", COORDSYS="GAL", NSIDE=nside, FIRSTPIX=0,
        LASTPIX=n_pixels - 1,
    )  # fmt: skip
    bounds = fits.BinTableHDU.from_columns(
        [
            fits.Column("CHANNEL", "I", array=np.arange(n_bins) + 1),
            fits.Column("E_MIN", "E", unit="keV", array=edges[:-1] * 1e6),
            fits.Column("E_MAX", "E", unit="keV", array=edges[1:] * 1e6),
        ],
        name="EBOUNDS",
    )
    fits.HDUList([fits.PrimaryHDU(), table, bounds]).writeto(path)


def run_once(path):
    """Wall seconds and peak memory in GB of one run, and its last line."""
    out = path.with_suffix(".out.fits")
    command = [sys.executable, "-m", "astro_unetloc.cli", str(path), "-o", str(out), "--overwrite"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(message)
    scale = 1e9 if sys.platform == "darwin" else 1e6
    return time.perf_counter() - started, usage.ru_maxrss / scale, message.splitlines()[-1]


def main():
    """Make the maps, run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    n_runs = parser.parse_args().runs
    cases = {
        "10 x 10 deg cube": write_small_cube,
        "all-sky events": write_all_sky_events,
        "all-sky HEALPix cube": write_large_cube,
    }
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, write) in enumerate(cases.items()):
            path = Path(folder) / f"map{number}.fits"
            write(path)
            results = [run_once(path) for _ in range(n_runs)]
            seconds = np.median([r[0] for r in results])
            memory = max(r[1] for r in results)
            print(f"{name:<22}{seconds:8.1f} s {memory:6.2f} GB   {results[-1][2]}")


if __name__ == "__main__":
    main()
