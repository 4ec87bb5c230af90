"""Time and memory of whole runs of ``astro-unetloc``, from process start to written catalogue.

    python benchmarks/run_time.py [--runs 3] [--network]
    python benchmarks/run_time.py --scale [--runs 1] [--figure scale.png]

Makes three maps in a temporary folder, all simulated with seed 5, and runs the command on each:
a 10 x 10 deg cube, an all-sky list of about 700 000 photons above 10 GeV, and an all-sky HEALPix
cube of nside 256 and 17 bins with 40 million photons above 0.5 GeV. Prints the median wall
and processor times and the largest peak memory. With --network instead the time of the network of
each shipped model alone, loaded and run once before, on the 768 padded patches of a sky: photons
drawn with the same seed.

With --scale the maps are lists and cubes of other exposures, 10^5 to 10^8 photons, and fields of
other radii, and a figure shows how time and memory grow with the photons. The largest one takes 20
GB of memory to simulate.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from options import options_of

from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.maps.patches import GridConfig, PatchGrid, band_inputs
from astro_unetloc.simulation.files import counts_cube_bytes, events_bytes, healpix_cube_bytes
from astro_unetloc.simulation.sky import healpix_cube, simulate_cube, simulate_sky
from astro_unetloc.unet.model import list_models, load_model

SEED = 5
NSIDE, N_BINS = 256, 17  # of the cube
COUNTS = 0.2  # photons in each pixel and band of the patches that the network alone is timed on
CENTER = SkyCoord(75.0, 20.0, unit="deg", frame="galactic")  # of the smaller maps


def write_cube(path):
    """Write a cube of 10 x 10 deg; the number of its photons."""
    center = CENTER.l.deg, CENTER.b.deg
    counts, wcs, edges, _ = simulate_cube(center=center, width_deg=10.0, pixel_deg=0.1, rng=SEED)
    path.write_bytes(counts_cube_bytes(counts, wcs, edges))
    return int(counts.sum())


def write_list(path, *, years=7.0, radius_deg=None):
    """Write a list of photons above 10 GeV, of the whole sky or a field; their number."""
    field = {} if radius_deg is None else {"center": CENTER, "radius": radius_deg * u.deg}
    events = simulate_sky(years=years, rng=SEED, **field)[0].events
    path.write_bytes(events_bytes(events, np.array([10.0, 2000.0])))
    return len(events)


def write_healpix(path, *, years=9.5):
    """Write an all-sky cube above 0.5 GeV; the number of its photons."""
    events = simulate_sky(years=years, energy_range=(0.5, 1000.0), rng=SEED)[0].events
    edges = np.geomspace(0.5, 1000.0, N_BINS + 1)
    path.write_bytes(healpix_cube_bytes(healpix_cube(events, edges, NSIDE), edges))
    return len(events)


MAPS = {
    "10 x 10 deg cube": write_cube,
    "all-sky events": write_list,
    "all-sky HEALPix cube": write_healpix,
}
WEEK = 7 / 365.25  # in years
# The maps of --scale: what is varied, and its values.
SERIES = {
    "all-sky list above 10 GeV": (write_list, "years", (WEEK, 1.0, 3.0, 7.0, 25.0)),
    "all-sky cube above 0.5 GeV": (write_healpix, "years", (0.25, 1.0, 3.0, 9.5, 24.0)),
    "field of a list above 10 GeV": (write_list, "radius_deg", (5.0, 10.0, 20.0, 40.0, 80.0)),
}


def measure(write, n_runs):
    """Photons and sources of a map; wall and processor seconds and peak GB of its search."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.fits"
        # A process of its own: the peak of a child includes the memory of its parent.
        with ProcessPoolExecutor(1) as pool:
            n_photons = pool.submit(write, path).result()
        wall, busy, memory = np.transpose([run_once(path) for _ in range(n_runs)])
        n_sources = len(read_catalog(path.with_suffix(".out.fits")))
    return n_photons, n_sources, np.median(wall), np.median(busy), memory.max()


def run_once(path):
    """Wall and processor seconds and peak memory in GB of one run."""
    out = path.with_suffix(".out.fits")
    command = [sys.executable, "-m", "astro_unetloc", path, "-o", out, "--overwrite"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(message)
    scale = 1e9 if sys.platform == "darwin" else 1e6
    wall, busy = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    return wall, busy, usage.ru_maxrss / scale


def print_row(name, row):
    """Print what was measured of a map, and return it."""
    n_photons, n_sources, wall, busy, memory = row
    text = f"{name:<40}{n_photons:>12,} photons {n_sources:6} sources"
    print(f"{text} {wall:8.1f} s, processor {busy:.1f} s, {memory:.2f} GB", flush=True)
    return row


def draw_scale(found):
    """Figure of time and memory against photons, a line for each of the `SERIES`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for name, rows in found.items():
        _, varied, values = SERIES[name]
        n_photons, _, wall, _, memory = np.transpose(rows)
        for axes, numbers in zip(panels, (wall, memory)):
            axes.loglog(n_photons, numbers, "o-", label=name)
            unit = "yr" if varied == "years" else "deg"
            for number in (0, -1):
                text = "week" if values[number] == WEEK else f"{values[number]:g} {unit}"
                at = n_photons[number], numbers[number]
                axes.annotate(text, at, (0, 6), textcoords="offset points", ha="center", size=8)
    panels[1].set_yscale("linear")
    for axes, label in zip(panels, ("wall time (s)", "peak memory (GB)")):
        axes.set(xlabel="photons", ylabel=label)
        axes.margins(0.1, 0.14)
        axes.grid(alpha=0.3)
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[1].set_ylim(bottom=0)
    panels[0].legend(fontsize=8)
    return figure


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
    options = options_of(__doc__, runs=3, network=False, scale=False, figure=Path).parse_args()
    if options.network:
        print_network_times(options.runs)
    elif options.scale:
        found = {
            name: [
                print_row(f"{name}, {value:g} {varied}", measure(job, options.runs))
                for value, job in ((v, partial(write, **{varied: v})) for v in values)
            ]
            for name, (write, varied, values) in SERIES.items()
        }
        if options.figure:
            draw_scale(found).savefig(options.figure, dpi=120)
    else:
        for name, write in MAPS.items():
            print_row(name, measure(write, options.runs))


if __name__ == "__main__":
    main()
