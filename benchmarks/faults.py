"""Commands that are killed, run out of disk or memory, or meet another one: what is left behind.

    python benchmarks/faults.py [--tries 20] [--only find batch simulate train evaluate] [--seed 0]

Every command runs once undisturbed. Then it is killed (SIGKILL, with its workers) at random moments
and given again. A try is lost if an output is there that is not whole, or if the second run ends in
other bytes. Where there are workers, one of them alone is killed in other tries; these are lost
unless the run goes on and ends in the same bytes. Other faults, of a search: a disk that is full
after some kilobytes (a limit on the size of files), memory of 3 GB (of an all-sky list), a folder
where nothing can be written, and two commands with the same output at once.

Bytes are equal but for dates and, of a model, ``unet.keras``; ``unet.tflite`` has its weights.
"""

import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from options import options_of

import astro_unetloc
from astro_unetloc.simulation.files import events_bytes
from astro_unetloc.simulation.sky import simulate_sky

EXAMPLE = Path(astro_unetloc.__file__).parent / "data" / "example" / "map.fits.gz"
SMALL_SET = ["--skies", 2, "--patches-per-sky", 24, "--seed", 4]
# Words of each command; {home} is its folder, {set} a patch set that is ready.
COMMANDS = {
    "find": [EXAMPLE, "-o", "{home}/x.fits", "-o", "{home}/x.png", "--moc", "{home}/x.moc.fits"],
    "batch": ["batch", EXAMPLE, "{maps}/a.fits.gz", "{maps}/b.fits.gz", "-o", "{home}/many"],
    "simulate": ["simulate", "-o", "{home}/set.h5", *SMALL_SET, "--workers", 2],
    "train": ["train", "{set}", "-o", "{home}/model", "--epochs", 3, "--steps-per-epoch", 3],
    "evaluate": ["evaluate", "--data", "{set}", "--all-skies", "-o", "{home}/scores"],
}
WITH_WORKERS = ("batch", "simulate")
# Not the same in two runs: files with times, and cards of FITS files that have a date.
VARYING = ("state.json", "history.csv", "card.json", "unet.keras", "last.keras")
DATED = re.compile(rb"(CHECKSUM|DATASUM |DATE {4})=.{70}")
MEMORY, DISK = 3 * 10**9, 20_000  # bytes


def start(words, **limits):
    """Process of a command in a group of its own, under limits of `resource` by name."""

    def limit():
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    command = [sys.executable, "-m", "astro_unetloc", *map(str, words)]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True, preexec_fn=limit,
    )  # fmt: skip


def finished(process):
    """Exit code of a process and the last line that it printed."""
    _, text = process.communicate()
    return process.returncode, (text.strip().splitlines() or [""])[-1]


def contents(home):
    """Hash of each finished output in a folder; not of what a restart goes on from."""
    found = {}
    for path in sorted(home.rglob("*")):
        inside = path.relative_to(home)
        unfinished = any(p.endswith(("parts", ".lock")) or p == "training" for p in inside.parts)
        if path.is_file() and not unfinished and path.name not in VARYING:
            content = DATED.sub(b"", path.read_bytes())
            found[str(inside)] = hashlib.sha256(content).hexdigest()
    return found


def emptied(home):
    """The folder of the outputs, the same for each run: files name the command that made them."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    return home


def killed(words, home, seconds, whole, rng):
    """Whether a command that was killed left nothing but whole files and could be finished."""
    emptied(home)
    process = start(words)
    time.sleep(rng.uniform(0, seconds))
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was faster
    process.communicate()
    left = contents(home)
    kept = all(whole.get(name) == value for name, value in left.items())
    code, line = finished(start(words))
    done = code == 0 or code == 2 and "overwrite" in line and left  # it had finished
    done = done and contents(home) == whole
    if not (kept and done):
        print(f"  lost: exit {code}, {line}; the first run left {sorted(left)}", flush=True)
    return kept and done


def workers_of(process):
    """Process ids of the workers of a command, which `multiprocessing` spawned."""
    words = ["pgrep", "-g", str(process.pid), "-f", "spawn_main"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()


def worker_killed(words, home, seconds, whole, rng):
    """Whether a command of which one worker was killed did its work nevertheless."""
    emptied(home)
    process = start(words)
    while not workers_of(process) and process.poll() is None:
        time.sleep(0.1)
    time.sleep(rng.uniform(0, seconds / 2))
    for worker in workers_of(process)[:1]:
        os.kill(int(worker), signal.SIGKILL)
    code, line = finished(process)
    kept = code == 0 and contents(home) == whole
    if not kept:
        print(f"  lost: exit {code}, {line}", flush=True)
    return kept


def try_kills(name, places, n_tries, rng):
    """Print how many of the killed runs of a command were lost."""
    words = [str(word).format(**places) for word in COMMANDS[name]]
    emptied(places["home"])
    started = time.perf_counter()
    code, line = finished(start(words))
    seconds, whole = time.perf_counter() - started, contents(places["home"])
    if code or not whole:
        raise RuntimeError(f"{name} must end with code 0; got {code}: {line}")
    kinds = {name: killed}
    if name in WITH_WORKERS:
        kinds[f"{name}, one worker"] = worker_killed
    for kind, survives in kinds.items():
        lost = sum(not survives(words, places["home"], seconds, whole, rng) for _ in range(n_tries))
        print(f"{kind:<24} killed in {seconds:5.1f} s {n_tries:5} tries {lost:4} lost", flush=True)


def try_limits(places):
    """Print what a search does that is short of disk, memory or a folder, or meets another."""
    events = places["maps"] / "events.fits"
    events.write_bytes(events_bytes(simulate_sky(rng=5)[0].events, np.array([10.0, 2000.0])))
    for name, path, limits in (
        ("disk full", EXAMPLE, {"RLIMIT_FSIZE": DISK}),
        ("3 GB of memory", events, {"RLIMIT_DATA": MEMORY}),
        ("no such folder", EXAMPLE, {}),
    ):
        home = emptied(places["home"])
        out = home / ("none/x.fits" if name == "no such folder" else "x.fits")
        code, line = finished(start([path, "-o", out], **limits))
        print(f"{name:<24} exit {code}, {len(contents(home))} files: {line}", flush=True)
    home = emptied(places["home"])
    both = [start([EXAMPLE, "-o", home / "x.fits"]) for _ in range(2)]
    codes = sorted(finished(process)[0] for process in both)
    print(f"{'two with one output':<24} exit {codes}, files {sorted(contents(home))}")


def main(arguments=None):
    """Make the inputs and print the table."""
    options = options_of(__doc__, tries=20, only=list(COMMANDS), seed=0).parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        places = {"set": folder / "set.h5", "maps": folder, "home": folder / "home"}
        for name in ("a", "b"):
            shutil.copy(EXAMPLE, folder / f"{name}.fits.gz")
        code, line = finished(start(["simulate", "-o", places["set"], *SMALL_SET]))
        if code:
            raise RuntimeError(line)
        for name in options.only:
            try_kills(name, places, options.tries, rng)
        try_limits(places)


if __name__ == "__main__":
    main()
