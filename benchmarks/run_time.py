"""Time and memory of whole runs of ``astro-unetloc``, from process start to written catalogue.

    python benchmarks/run_time.py [--runs 3] [--network]

Makes three maps in a temporary folder, all simulated with seed 5, and runs the command on each:
a 10 x 10 deg cube, an all-sky list of about 700 000 photons above 10 GeV, and an all-sky HEALPix
cube of nside 256 and 17 bins with 40 million photons above 0.5 GeV. Prints the median wall time and
the largest peak memory. With --network instead the time of the network of each shipped model alone,
loaded and run once before, on the 768 padded patches of a sky: photons drawn with the same seed.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from options import options_of

from astro_unetloc.maps.patches import GridConfig, PatchGrid, band_inputs
from astro_unetloc.simulation.files import counts_cube_bytes, events_bytes, healpix_cube_bytes
from astro_unetloc.simulation.sky import healpix_cube, simulate_cube, simulate_sky
from astro_unetloc.unet.model import list_models, load_model

SEED = 5
NSIDE, N_BINS = 256, 17  # of the cube
COUNTS = 0.2  # photons in each pixel and band of the patches that the network alone is timed on


def write_maps(folder):
    """Path of each map, by name."""
    *cube, _ = simulate_cube(center=(75.0, 20.0), width_deg=10.0, pixel_deg=0.1, rng=SEED)
    events = simulate_sky(years=7.0, rng=SEED)[0].events
    many = simulate_sky(years=9.5, energy_range=(0.5, 1000.0), rng=SEED)[0].events
    edges = np.geomspace(0.5, 1000.0, N_BINS + 1)
    maps = {
        "10 x 10 deg cube": counts_cube_bytes(*cube),
        "all-sky events": events_bytes(events, np.array([10.0, 2000.0])),
        "all-sky HEALPix cube": healpix_cube_bytes(healpix_cube(many, edges, NSIDE), edges),
    }
    paths = {name: Path(folder) / f"map{number}.fits" for number, name in enumerate(maps)}
    for name, path in paths.items():
        path.write_bytes(maps[name])
    return paths


def run_once(path):
    """Wall seconds and peak memory in GB of one run, and its last line."""
    out = path.with_suffix(".out.fits")
    command = [sys.executable, "-m", "astro_unetloc", path, "-o", out, "--overwrite"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(message)
    scale = 1e9 if sys.platform == "darwin" else 1e6
    return time.perf_counter() - started, usage.ru_maxrss / scale, message.splitlines()[-1]


def print_network_times(n_runs):
    """One line for each shipped model: seconds for the patches of a sky."""
    shape = (PatchGrid().n_patches, GridConfig().read_pixels, GridConfig().read_pixels)
    for name in list_models():
        model = load_model(name)
        n_band = len(model.band_edges) - 1
        counts = np.random.default_rng(SEED).poisson(COUNTS, (*shape, n_band)).astype(np.float32)
        bands = band_inputs(model.band_edges, model.band_edges[[0, -1]], events=True)
        seconds = []
        for _ in range(n_runs):
            started = time.perf_counter()
            model.predict(counts, np.ones((*shape, 1), np.float32), bands)
            seconds.append(time.perf_counter() - started)
        print(f"network of {name}: {shape[0]} patches, {np.median(seconds):.1f} s", flush=True)


def main():
    """Make the maps, run, and print a table."""
    options = options_of(__doc__, runs=3, network=False).parse_args()
    if options.network:
        print_network_times(options.runs)
        return
    with tempfile.TemporaryDirectory() as folder:
        # A process of its own: the peak of a child includes the memory of its parent.
        with ProcessPoolExecutor(1) as pool:
            paths = pool.submit(write_maps, folder).result()
        for name, path in paths.items():
            seconds, memory, lines = zip(*(run_once(path) for _ in range(options.runs)))
            print(f"{name:<22}{np.median(seconds):8.1f} s {max(memory):6.2f} GB   {lines[-1]}")


if __name__ == "__main__":
    main()
