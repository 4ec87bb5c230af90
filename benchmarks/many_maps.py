"""Time of many maps on one and on two workers of dask, of which one may be killed half-way.

    python benchmarks/many_maps.py [--maps 60] [--width 20] [--workers 1 2] [--kill]

Simulates one sky, cuts maps of --width degrees out of it, and searches them with each number of
workers, each of one thread. With --kill a worker gets the signal SIGKILL when half of the maps are
done (not where there is one worker alone). Prints for each number the wall time without the start
of the workers, the processor time of all workers that lived to the end, how many maps are done, and
whether the catalogues are those of the first run. The processor time tells how busy the cores were
with other programs.
"""

import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import healpy
import numpy as np
from astropy.io import fits
from options import options_of

from astro_unetloc import find_sources_in, simulate_sky
from astro_unetloc.executors import local_workers
from astro_unetloc.simulation.files import counts_cube_bytes
from astro_unetloc.simulation.sky import counts_cube

SEED, PIXEL_DEG = 7, 0.1
ENERGY_EDGES = np.array([10.0, 20.0, 50.0, 150.0, 500.0, 2000.0])


def write_maps(folder, n_maps, width_deg):
    """Paths of maps spread over one simulated sky."""
    photons = simulate_sky(years=7.0, rng=SEED)[0].events
    lon, lat = healpy.pix2ang(4, np.arange(192), lonlat=True)
    paths = []
    for number in np.linspace(0, 191, n_maps).astype(int):
        center = float(lon[number]), float(lat[number])
        image = {"center": center, "width_deg": width_deg, "pixel_deg": PIXEL_DEG}
        counts, wcs = counts_cube(photons, ENERGY_EDGES, **image)
        paths.append(folder / f"map{len(paths):03d}.fits")
        paths[-1].write_bytes(counts_cube_bytes(counts, wcs, ENERGY_EDGES))
    return paths


def n_done(folder):
    """Number of maps that the state of a folder calls done."""
    try:
        state = json.loads((folder / "state.json").read_text())
    except FileNotFoundError:
        return 0
    return sum(entry["status"] == "done" for entry in state["maps"].values())


def kill_half_way(client, folder, n_maps, stop):
    """Kill the first worker of a client when half of the maps are done."""
    pid = list(client.run(os.getpid).values())[0]
    while not stop.wait(0.2):
        if n_done(folder) >= n_maps / 2:
            os.kill(pid, signal.SIGKILL)
            print(f"  worker {pid} killed after {n_done(folder)} maps", flush=True)
            return


def search(paths, folder, n_workers, kill):
    """Wall and processor seconds of the search of all maps, and what became of each."""
    stop = threading.Event()
    with local_workers(n_workers) as client:
        client.run(lambda: __import__("astro_unetloc.pipeline"))  # the imports of a start
        killer = threading.Thread(target=kill_half_way, args=(client, folder, len(paths), stop))
        if kill and n_workers > 1:
            killer.start()
        before, started = client.run(time.process_time), time.perf_counter()
        table = find_sources_in(paths, folder, executor=client)
        wall, after = time.perf_counter() - started, client.run(time.process_time)
        stop.set()
    busy = sum(seconds - before.get(worker, 0.0) for worker, seconds in after.items())
    return wall, busy, table


def catalogues(folder):
    """Content of the tables of all maps of a folder."""
    return [fits.getdata(path, 1).tobytes() for path in sorted(folder.glob("map*.fits"))]


def main():
    defaults = {"maps": 60, "width": 20.0, "workers": [1, 2], "kill": False}
    options = options_of(__doc__, **defaults).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder, first = Path(folder), None
        paths = write_maps(folder, options.maps, options.width)
        for n_workers in options.workers:
            out = folder / f"out{n_workers}"
            wall, busy, table = search(paths, out, n_workers, options.kill)
            first = first or (wall, catalogues(out))
            done, n_sources = (table["Status"] == "done").sum(), table["N_Sources"].sum()
            same = "the same" if catalogues(out) == first[1] else "OTHER"
            print(f"{n_workers} workers: {wall:.1f} s ({first[0] / wall:.2f} times as fast), "
                  f"processor {busy:.0f} s, {done} of {len(paths)} maps, {n_sources} sources, "
                  f"{same} catalogues", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
