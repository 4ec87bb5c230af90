"""What becomes of mutated maps, companions, catalogues, models and sets, each in its own process.

    python benchmarks/fuzz.py ../shared/data [--number 10000] [--seed 0] [--workers 2]
        [--only WORD ...] [--keep FOLDER]

Cuts small files out of real ones, changes bits, length, header cards, columns, units or words of
one, and gives it to the package: a map is read, and every eighth one searched and its catalogue
written; a companion is given to a good map, a catalogue is matched, a model is loaded, a patch set
is read. A process has 4 GB of memory and 60 s. Counts how often it was ``done``; ``warned``, done
with a warning; or ``refused`` as an input error; and what must not be: ``silent``, another number
of photons than astropy reads in the mutated map, without a warning; ``fault``, any other exception
or a crash; ``memory``; ``hang``. --only restricts to files and mutations with such a word in their
names; --keep keeps the mutated files of bad outcomes with what was said.
"""

import gzip
import os
import re
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ai_edge_litert.interpreter  # noqa: F401 (loaded once, before the processes are forked)
import numpy as np
import scipy.optimize  # noqa: F401
import sklearn.cluster  # noqa: F401
from astropy.io import fits
from options import options_of

from astro_unetloc.catalog.match import match_catalogs
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.write import write_catalog
from astro_unetloc.exceptions import InputError, UnetlocWarning
from astro_unetloc.maps.read import read_map
from astro_unetloc.pipeline import detect
from astro_unetloc.training.make import make_patch_set
from astro_unetloc.training.patch_set import open_patch_set
from astro_unetloc.unet.model import load_model

LIMIT_BYTES, LIMIT_S = 4 << 30, 60
SEARCH_EVERY = 8
OUTCOMES = ("done", "warned", "refused", "silent", "fault", "memory", "hang")
GC = "gc/fermi-3fhl-gc-"
SOURCES = {
    "cube": f"{GC}counts-cube.fits.gz", "image": f"{GC}counts.fits.gz",
    "events": f"{GC}events.fits.gz", "healpix": "3fhl/fermi_3fhl_counts_cube_hpx.fits.gz",
    "dataset": "crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits", "exposure": f"{GC}exposure-cube.fits.gz",
    "background": f"{GC}background-cube.fits.gz", "psf": f"{GC}psf-cube.fits.gz",
    "3fhl": "catalogs/gll_psch_v13.fit.gz",
}  # fmt: skip
MAPS, COMPANIONS = list(SOURCES)[:5], list(SOURCES)[5:8]
# What replaces the values of header cards, units, and the words of texts.
VALUES = (
    b"0 -1 1 2 7 1E300 -1E-300 NaN T F '' 'x' 'x 99999999999999999999 2147483647 '1E' 'J' 'PE(9)' "
    b"'RA' 'ENERGY' 'GLON-TAN' 'RA---SIN' 'EVENTS' 'NESTED' '\xe9\xff' {}"
).split()
UNITS = (
    b"'deg','rad','MeV','GeV','keV','m2 s','cm2 s','s','cm-2 s-1 sr-1 MeV-1','xy','','MeV,3"
).split(b",")
WORDS = b'0 -1 1e999 nan null true "" [] {} \xef\xbb\xbf \x00 \xff , " & <a> deg 99999999'.split()


# Small files


def cut_file(path, target):
    """Write a small part of a real FITS file, with checksums."""
    with fits.open(path) as hdus:
        for hdu in hdus:
            columns = [] if hdu.is_image else hdu.columns.names
            if hdu.is_image and hdu.shape[-2:] == (200, 400):
                hdu.data = hdu.data[..., 80:120, 180:220]
                hdu.header["CRPIX1"] -= 180
                hdu.header["CRPIX2"] -= 80
            elif hdu.name == "EVENTS":
                hdu.data = hdu.data[np.hypot(hdu.data["L"] - 1.0, hdu.data["B"]) < 0.7]
            elif hdu.name == "GTI" or "Source_Name" in columns:
                hdu.data = hdu.data[:20]
            elif "PIXTYPE" in hdu.header:
                pixels = np.arange(20000, 20040)
                hdu.data = hdu.data[pixels]
                columns = fits.ColDefs([fits.Column("PIX", "J", array=pixels)]) + hdu.columns
                hdus[hdus.index(hdu)] = fits.BinTableHDU.from_columns(columns, hdu.header)
                hdus[1].header.update(INDXSCHM="EXPLICIT", OBJECT="PARTIAL")
        hdus.writeto(target, output_verify="silentfix", checksum=True)


def small_files(data, folder):
    """Small parts of real files and files of the package: paths by name."""
    paths = {name: folder / f"{name}.fits" for name in SOURCES}
    for name, path in SOURCES.items():
        cut_file(data / path, paths[name])
    catalog = detect(read_map(paths["cube"], exposure=paths["exposure"])).catalog
    for name in ("own.fits", "own.ecsv", "own.csv", "own.vot"):
        paths[name] = folder / name
        write_catalog(catalog, paths[name])
    paths["set.h5"] = folder / "set.h5"
    make_patch_set(paths["set.h5"], n_skies=2, patches_per_sky=2)
    return paths | {path.name: path for path in load_model().folder.iterdir()}


# Mutations


def flip_bits(data, rng):
    """Flip 1 to 64 bits."""
    data = np.frombuffer(data, np.uint8).copy()
    number = rng.integers(1, 65)
    data[rng.integers(len(data), size=number)] ^= (1 << rng.integers(8, size=number)).astype("u1")
    return data.tobytes()


def truncate(data, rng):
    """Cut the end off."""
    return data[: rng.integers(len(data))]


def compress(data, rng):
    """Compress, and in half of the cases damage the stream."""
    change = (flip_bits, truncate)[rng.integers(2)]
    packed = gzip.compress(data, 1)
    return change(packed, rng) if rng.random() < 0.5 else packed


def change_cards(data, rng, cards, values):
    """Give other values to 1 to 3 of the header cards of a pattern, or blank them."""
    data, cards = bytearray(data), re.compile(cards)
    places = [place for place in range(0, len(data), 80) if cards.match(data, place)]
    for place in rng.choice(places, min(rng.integers(1, 4), len(places)), replace=False):
        card = bytes(data[place : place + 8]) + b"= " + values[rng.integers(len(values))]
        data[place : place + 80] = (card if rng.random() < 0.85 else b"").ljust(80)
    return bytes(data)


def change_words(data, rng):
    """Replace 1 to 3 words of a text."""
    for _ in range(rng.integers(1, 4)):
        words = list(re.finditer(rb"[\w.+-]+|[^\s\w]", data))
        word = words[rng.integers(len(words))]
        data = data[: word.start()] + WORDS[rng.integers(len(WORDS))] + data[word.end() :]
    return data


MUTATIONS = {
    "bits": flip_bits, "length": truncate, "words": change_words, "gzip": compress,
    "cards": partial(change_cards, cards=rb"[A-Z][A-Z0-9_-]{0,7} *= ", values=VALUES),
    "columns": partial(change_cards, cards=rb"T(TYPE|FORM|DIM|NULL|SCAL)\d+ *= ", values=VALUES),
    "units": partial(change_cards, cards=rb"(TUNIT\d+|CUNIT\d|BUNIT) *= ", values=UNITS),
}  # fmt: skip
OF_SUFFIX = {".fits": ["bits", "length", "gzip", "cards", "columns", "units"]}
OF_SUFFIX |= dict.fromkeys((".json", ".ecsv", ".csv", ".vot"), ["bits", "length", "words"])


# One process for each mutated file


def photons_in(path):
    """Photons that astropy reads in a map: the rows of EVENTS, or the sum of the first counts."""
    with fits.open(path, memmap=False) as hdus:
        for hdu in hdus:
            if hdu.name == "EVENTS":
                return len(hdu.data)
            if "PIXTYPE" in hdu.header:
                return sum(np.nansum(hdu.data[n]) for n in hdu.columns.names if n != "PIX")
            if hdu.is_image and hdu.header["NAXIS"] > 1:
                return np.nansum(
                    hdu.data[hdus["MASK_SAFE"].data > 0 if "MASK_SAFE" in hdus else ...]
                )


def use(name, path, paths, search):
    """Give a mutated file to the package as a user would; the number of photons of a map."""
    if name in MAPS or name in COMPANIONS:
        sky_map = read_map(path) if name in MAPS else read_map(paths["cube"], **{name: path})
        if search:
            catalog = detect(sky_map).catalog
            for suffix in (".fits", ".ecsv", ".vot"):
                write_catalog(catalog, path.with_name(f"out{suffix}"), overwrite=True)
        return sky_map.n_photons if name in MAPS else None
    if name.startswith(("own", "3fhl")):
        return match_catalogs(read_catalog(paths["own.fits"]), read_catalog(path)) and None
    if name == "set.h5":
        with open_patch_set(path) as patches:
            return patches.read(np.arange(patches.n_patches)) and None
    for other in paths["card.json"].parent.iterdir():
        if other.name != name:
            (path.parent / other.name).symlink_to(other)
    load_model(path.parent)


def outcome(name, path, paths, search, known=()):
    """One of ``OUTCOMES``, and the warnings but those of the whole file, or the error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = use(name, path, paths, search)
        except (InputError, OSError) as err:
            return "refused", str(err)
        except BaseException as err:
            return "memory" if isinstance(err, MemoryError) else "fault", traceback.format_exc()
    said = {str(w.message) for w in caught if issubclass(w.category, UnetlocWarning)} - set(known)
    if said or found is None:
        return "warned" if said else "done", "\n".join(said)
    try:
        expected = photons_in(path)
    except Exception as err:  # the package reads what astropy does not
        return "silent", f"{found} photons; astropy: {type(err).__name__}: {err}"
    return "done" if np.isclose(found, expected) else "silent", f"{found}; astropy: {expected}"


def fuzz(name, mutation, seed, home, paths, known):
    """Mutate and use a file in this process; the number of the outcome."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    signal.alarm(LIMIT_S)
    home.mkdir()
    path = home / paths[name].name
    path.write_bytes(MUTATIONS[mutation](paths[name].read_bytes(), np.random.default_rng(seed)))
    found, said = outcome(name, path, paths, seed[1] % SEARCH_EVERY == 0, known)
    (home / "said.txt").write_text(f"{name} {mutation} {seed}\n{said}\n")
    return OUTCOMES.index(found)


def run(job, folder, paths, known, keep):
    """File, mutation and outcome of a job in a process of its own."""
    name, mutation, seed = job
    home, code = folder / str(seed[1]), OUTCOMES.index("fault")
    pid = os.fork()
    if pid == 0:
        try:
            code = fuzz(*job, home, paths, known[name])
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # that of a signal is negative
    found = "hang" if code == -signal.SIGALRM else OUTCOMES[code] if code >= 0 else "fault"
    if keep and found in OUTCOMES[3:]:
        shutil.move(home, keep / f"{found}-{home.name}")
    shutil.rmtree(home, ignore_errors=True)
    return name, mutation, found


def main(arguments=None):
    """Mutate, run and print."""
    parser = options_of(__doc__, number=10000, seed=0, workers=2, only=[""], keep=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    counts = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as executor:
        paths = small_files(options.folder, Path(folder))
        kinds = [(n, m) for n in paths for m in OF_SUFFIX.get(paths[n].suffix, ["bits", "length"])]
        kinds = [k for k in kinds if any(word in " ".join(k) for word in options.only)]
        jobs = [(*kinds[n % len(kinds)], (options.seed, n)) for n in range(options.number)]
        known = {n: outcome(n, paths[n], paths, True)[1].splitlines() for n in SOURCES}
        known = {name: known.get(name, []) for name in paths}
        go = partial(run, folder=Path(folder), paths=paths, known=known, keep=options.keep)
        for *names, found in executor.map(go, jobs):
            for name in (*names, "all"):
                counts.setdefault(name, Counter())[found] += 1
    print(f"{'':<12}" + "".join(f"{name:>9}" for name in OUTCOMES))
    for name, row in counts.items():
        print(f"{name:<12}" + "".join(f"{row[found]:9d}" for found in OUTCOMES))


if __name__ == "__main__":
    main()
