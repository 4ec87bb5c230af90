"""Time, memory and size of patch sets, against patches and workers.

    python benchmarks/make_patch_sets.py [--skies 2 4] [--patches-per-sky 400] [--workers 1 2]

Makes a set for each number of skies (seeds from 0) and workers in a temporary folder, in a process
of its own, and prints its wall time, that of the processors (all processes together), the peak
memory of the parent and of its largest worker, bytes per patch, and the time to read
at random. The last column is the wall time of 200 000 patches at the rate of that row.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from astro_unetloc.training.make import make_patch_set, process_pool
from astro_unetloc.training.patch_set import open_patch_set

GOAL = 200_000
# ru_maxrss is in bytes there, in kB elsewhere
PER_GB = 1e9 if sys.platform == "darwin" else 1e6


def make(path, n_skies, patches_per_sky, n_workers):
    """Make a set; prints seconds, those of the processors, GB of parent and worker as JSON."""
    started = time.perf_counter()
    with process_pool(n_workers) if n_workers > 1 else nullcontext() as executor:
        make_patch_set(path, n_skies=n_skies, patches_per_sky=patches_per_sky, executor=executor)
    seconds = time.perf_counter() - started
    own, workers = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    busy = sum(usage.ru_utime + usage.ru_stime for usage in (own, workers))
    print(json.dumps([seconds, busy, own.ru_maxrss / PER_GB, workers.ru_maxrss / PER_GB]))


def read(path):
    """Milliseconds a patch to read patches of a set at random in batches of 8."""
    started = time.perf_counter()
    with open_patch_set(path) as found:
        order = np.random.default_rng(0).permutation(found.n_patches)[:400]
        for rows in np.array_split(order, len(order) // 8):
            found.read(rows)
    return 1e3 * (time.perf_counter() - started) / len(order)


def main():
    """Print one row for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skies", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--patches-per-sky", type=int, default=400)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the set to make in this process
    options = parser.parse_args()
    if options.only:
        make(options.only, options.skies[0], options.patches_per_sky, options.workers[0])
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    print(
        " skies  patches  workers  seconds  busy/s  parent/GB  worker/GB  bytes/patch"
        "  read/ms  200k/min"
    )
    with tempfile.TemporaryDirectory() as folder:
        for n_skies in options.skies:
            for n_workers in options.workers:
                path = Path(folder) / f"{n_skies}-{n_workers}.h5"
                words = ["--only", path, "--skies", n_skies, "--workers", n_workers]
                words += ["--patches-per-sky", options.patches_per_sky]
                command = [sys.executable, __file__, *map(str, words)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                seconds, busy, parent, worker = json.loads(done.stdout)
                n_patches = n_skies * options.patches_per_sky
                print(
                    f"{n_skies:6d}{n_patches:9d}{n_workers:9d}{seconds:9.1f}"
                    f"{busy:8.1f}{parent:11.2f}{worker:11.2f}"
                    f"{path.stat().st_size / n_patches:13.0f}{read(path):9.2f}"
                    f"{seconds / n_patches * GOAL / 60:10.1f}"
                )


if __name__ == "__main__":
    main()
