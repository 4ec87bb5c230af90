"""The state of a folder of catalogues: options, maps with their checksums, what became of them."""

import inspect
import json
import os
import re
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import joblib
import numpy as np

from astro_unetloc.exceptions import InputError, counted
from astro_unetloc.files import checksum, split_choice, write_files
from astro_unetloc.maps.read import input_paths
from astro_unetloc.pipeline import as_seed, check_finder, find_sources, score_limits
from astro_unetloc.unet.model import load_model

STATE = "state.json"
SUFFIXES = ".fits", ".reg"  # of the files of a map
# Files of the folder that are no catalogue of a map.
_RESERVED = {"state", "catalogs", "variability", "lightcurve"}
_ENDING = re.compile(r"(\.(fits?|ya?ml|txt))?(\.(gz|bz2|xz|fz))?$", re.IGNORECASE)
_PATTERN = set("*?[")


@dataclass(frozen=True)
class Search:
    """A map that is searched, and what distinguishes its search from those of other maps."""

    name: str  # of its files
    map: object  # what `find_sources` takes
    own: dict  # options of `read_map` for this map alone
    inputs: dict  # sha256 of each of its files


def checked_options(options):
    """Options of `find_sources` that a worker in another directory understands, or an error."""
    known = set(inspect.signature(find_sources).parameters) - {"map", "progress"}
    if unknown := sorted(options.keys() - known):
        raise TypeError(
            f"options must be those of find_sources; got {', '.join(unknown)}; "
            f"choose among {', '.join(sorted(known))}"
        )
    score_limits(options.get("threshold"), options.get("purity"))
    check_finder(options.get("finder", "unet"), options.get("measure", True))
    options = {name: _absolute(value) for name, value in options.items() if value is not None}
    if "rng" in options:
        options["rng"] = as_seed(options["rng"])
    if "model" in options:
        options["model"] = load_model(options["model"]).path
    return options


def _absolute(value):
    """An option whose files are absolute paths."""
    if isinstance(value, list | tuple):
        return type(value)(map(_absolute, value))
    is_file = isinstance(value, str | Path) and split_choice(value)[0].exists()
    return os.path.abspath(Path(value).expanduser()) if is_file else value


def as_text(value):
    """An option as the state holds it: text, with the checksum of a file or an object."""
    if isinstance(value, list | tuple):
        return [as_text(part) for part in value]
    if isinstance(value, str | Path) and split_choice(value)[0].is_file():
        return f"{Path(value).name} sha256 {checksum(value)}"
    if value is None or isinstance(value, str | Path | bool | int | float | np.generic):
        return str(value)
    is_text = type(value).__module__.startswith(("astropy", "regions"))
    return repr(value) if is_text else f"{type(value).__name__} {joblib.hash(value)}"


def texts_of_options(own):
    """The options of one map as the state holds them."""
    return {name: as_text(value) for name, value in own.items()}


def searches_of(maps, own, known):
    """`Search` of each map; a map of the state keeps its name."""
    if isinstance(maps, str | Path) or not len(maps):
        raise InputError(f"maps must be a list of one or more maps; got {maps!r}; give a list")
    names = {tuple(entry["inputs"]): name for name, entry in known.items()}
    pairs = list(maps.items() if isinstance(maps, dict) else ((None, map) for map in maps))
    searches, taken, read = [], set(), {}
    for given, map in pairs:
        if id(map) not in read:  # slices of time are of one map
            read[id(map)] = _inputs(map)
        map, inputs = read[id(map)]
        if given is None and tuple(inputs) in taken:
            raise InputError(f"maps must differ; got {', '.join(inputs)} twice; drop one")
        taken.add(tuple(inputs))
        name = _given_name(given) or names.get(tuple(inputs)) or _new_name(inputs, names.values())
        names[tuple(inputs)] = name
        options = {key: _absolute(value) for key, value in own.get(given, {}).items()}
        searches.append(Search(name, map, options, inputs))
    return searches


def _inputs(map):
    """A map with absolute paths, and the sha256 of each of its files."""
    if not isinstance(map, str | Path | list | tuple):
        return map, {f"{type(map).__name__} {joblib.hash(map)}": ""}
    for path in [map] if isinstance(map, str | Path) else map:
        if _PATTERN & set(str(path)) and not split_choice(path)[0].exists():
            found = input_paths(path)
            raise InputError(
                f"each map must be a file; got the pattern {str(path)!r} of "
                f"{counted(sum(p.exists() for p in found), 'file')}; leave out its quotes so that "
                "the shell lists them, or write names into a file and give @list.txt for one map"
            )
    paths = [os.path.abspath(path) for path in input_paths(map)]
    return paths[0] if len(paths) == 1 else paths, {path: checksum(path) for path in paths}


def _given_name(name):
    """A name of files that was given; None if none was."""
    if name is None or re.fullmatch(r"\w[\w.+-]*", name) and name.lower() not in _RESERVED:
        return name
    raise InputError(f"names of maps must be names of files; got {name!r}; use letters and digits")


def name_of(map):
    """Return the name of the files of a map, that of its first file."""
    first = split_choice(map[0] if isinstance(map, list | tuple) else map)[0].name
    return re.sub(r"[^\w.+-]", "_", _ENDING.sub("", first)).strip("._+-") or "map"


def _new_name(inputs, taken):
    """The name of a map; a number follows if it is taken."""
    stem = name_of(list(inputs))
    used = _RESERVED | {name.lower() for name in taken}  # some file systems ignore capitals
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))
    return next(name for name in names if name.lower() not in used)


def is_done(search, entry, folder):
    """Whether a map was searched with the same files, and its catalogue is there."""
    if entry is None or entry["status"] != "done":
        return False
    same = entry["inputs"] == search.inputs and entry["own"] == texts_of_options(search.own)
    return same and all((folder / f"{search.name}{suffix}").exists() for suffix in SUFFIXES)


def read_state(folder):
    """Content of the state of a folder; empty without one."""
    path = folder / STATE
    if not path.exists():
        return {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        for entry in state["maps"].values():
            entry["inputs"], entry["own"], entry["status"]
        return {"options": state["options"], "maps": state["maps"]}
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise InputError(
            f"{path} must be the state of such a run; got another file; choose another folder"
        ) from err


def write_state(folder, state):
    """Write the state of a folder, whole or not at all."""
    content = json.dumps(state, indent=1, ensure_ascii=False).encode()
    write_files({folder / STATE: content}, overwrite=True)


def remove_catalogues(folder, state):
    """Remove the catalogues that were made with other options."""
    for name in state["maps"]:
        for suffix in SUFFIXES:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)


def differences(folder, before, after):
    """Message on the options of a folder that are not those of this run."""
    names = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    texts = (
        f"{n} {before.get(n, 'not given')} before, {after.get(n, 'not given')} now" for n in names
    )
    return (
        f"options must be those that made {folder}; got {'; '.join(texts)}; give the same options, "
        "choose another folder or allow overwriting"
    )
