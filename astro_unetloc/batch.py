"""Many maps: a catalogue of each in one folder, a table of all, and a state that a restart reads.

The catalogues do not depend on the number of workers. Workers return the content of the files and
this process writes them, so that a cluster needs to share the maps but not the folder.
"""

import inspect
import json
import os
import re
import time
import warnings
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path

import joblib
import numpy as np
from astropy.table import QTable
from tqdm import tqdm

from astro_unetloc.catalog.read import join_catalogs, read_catalog
from astro_unetloc.catalog.table import creator
from astro_unetloc.catalog.write import file_content
from astro_unetloc.exceptions import InputError, UnetlocWarning, counted, warn
from astro_unetloc.executors import (
    limited_cores,
    local_workers,
    n_workers_of,
    run_shards,
    usable_cores,
)
from astro_unetloc.files import (
    check_outputs,
    checksum,
    locked_folder,
    split_choice,
    write_files,
)
from astro_unetloc.maps.read import input_paths
from astro_unetloc.pipeline import as_seed, check_finder, detect, find_sources, score_limits
from astro_unetloc.unet.model import load_model

STATE, ALL = "state.json", "catalogs.fits"
# Files of the folder that are no catalogue of a map.
_RESERVED = {"state", "catalogs", "variability", "lightcurve"}
_SUFFIXES = ".fits", ".reg"
_ENDING = re.compile(r"(\.(fits?|ya?ml|txt))?(\.(gz|bz2|xz|fz))?$", re.IGNORECASE)
# Searches that are submitted and not yet finished; the results of few are held at once.
_N_PENDING = 200
_PATTERN = set("*?[")


@dataclass(frozen=True)
class Search:
    """A map that is searched, and what distinguishes its search from those of other maps."""

    name: str  # of its files
    map: object  # what `find_sources` takes
    own: dict  # options of `read_map` for this map alone
    inputs: dict  # sha256 of each of its files


def find_sources_in(
    maps, folder, *, executor=None, n_cores=None, overwrite=False, progress=None, frame="icrs",
    **options,
):  # fmt: skip
    """Find the sources of many maps and return what became of each.

    For each map a catalogue ``NAME.fits`` and its regions ``NAME.reg`` are written to the folder,
    for all together ``catalogs.fits``, one table with the name of the map in its first column, and
    ``state.json``. A finished map whose files and options are unchanged is not searched again when
    the same is called again; one that failed is.

    Parameters
    ----------
    maps : sequence or dict
        Maps as `find_sources` takes them, each searched alone. Their names are those of the files,
        with a number where two are equal, or the keys of a dict.
    folder : str or path
        Where the files are written; it is made if absent.
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        What runs the searches. By default processes of this machine: a ``LocalCluster`` of dask
        where that is installed. A script that starts processes needs the line
        ``if __name__ == "__main__":``.
    n_cores : int, optional
        Number of cores that the workers of this machine share; all by default. With 1 the maps are
        searched in this process.
    overwrite : bool
        Whether maps are searched again that are finished, and a folder made with other options
        is replaced.
    progress : bool or callable, optional
        Wraps an iterable, as `tqdm.tqdm` does, which True stands for.
    frame : {"icrs", "fk5", "galactic"}
        Frame of the regions.
    **options
        Those of `find_sources`, for all maps.

    Returns
    -------
    QTable
        One row for each map: ``Map`` (name of its files), ``File``, ``Status`` ("done" or
        "failed"), ``Reason`` of a failure, ``N_Sources``, ``N_Failed`` patches and ``Seconds``.

    Raises
    ------
    InputError
        If the options cannot be used or are not those of the folder, or another run uses it.
    FileNotFoundError, FileExistsError
        If a map does not exist, or a file of the folder is not of such a run.

    Examples
    --------
    >>> from glob import glob
    >>> from astro_unetloc import find_sources_in
    >>> table = find_sources_in(glob("maps/*.fits"), "catalogues")  # doctest: +SKIP
    >>> table[table["Status"] == "failed"]  # doctest: +SKIP
    """
    own = {name: {} for name in maps} if isinstance(maps, dict) else {}
    return search_all(
        maps, folder, own=own, executor=executor, n_cores=n_cores, overwrite=overwrite,
        progress=progress, frame=frame, options=options,
    )  # fmt: skip


def search_all(
    maps, folder, *, own, executor, n_cores, overwrite, progress, frame, options
):  # fmt: skip
    """Do the work of `find_sources_in`; ``own`` are options of `read_map` of the maps by name."""
    options = _checked(options)
    folder, progress = Path(folder), tqdm if progress is True else progress or None
    stated = {name: _stated(value) for name, value in sorted(options.items())} | {"frame": frame}
    with locked_folder(folder):
        state = _read_state(folder)
        if state.get("options", stated) != stated:
            if not overwrite:
                raise InputError(_differences(folder, state["options"], stated))
            state = {}
        known = state.get("maps", {})
        searches = _searches(maps, own, known)
        fresh = [s.name + suffix for s in searches if s.name not in known for suffix in _SUFFIXES]
        fresh += [] if state else [ALL]
        check_outputs([folder / name for name in fresh], overwrite=overwrite)
        entries = {
            s.name: known[s.name]
            if not overwrite and _is_done(s, known.get(s.name), folder)
            else {"inputs": s.inputs, "own": _texts(s.own), "status": "waiting"}
            for s in searches
        }
        state = {"creator": creator(), "options": stated, "maps": known | entries}
        _write_state(folder, state)
        missing = [s for s in searches if entries[s.name]["status"] != "done"]
        _search_missing(missing, folder, state, executor, n_cores, progress, frame, options)
        if missing or not (folder / ALL).exists():
            _write_all(folder, state)
    return _table(searches, state)


def _checked(options):
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


def _stated(value):
    """An option as the state holds it: text, with the checksum of a file or an object."""
    if isinstance(value, list | tuple):
        return [_stated(part) for part in value]
    if isinstance(value, str | Path) and split_choice(value)[0].is_file():
        return f"{Path(value).name} sha256 {checksum(value)}"
    if value is None or isinstance(value, str | Path | bool | int | float | np.generic):
        return str(value)
    is_text = type(value).__module__.startswith(("astropy", "regions"))
    return repr(value) if is_text else f"{type(value).__name__} {joblib.hash(value)}"


def _texts(own):
    return {name: _stated(value) for name, value in own.items()}


def _searches(maps, own, known):
    """`Search` of each map; a map of the state keeps its name."""
    if isinstance(maps, str | Path) or not len(maps):
        raise InputError(f"maps must be a list of one or more maps; got {maps!r}; give a list")
    names = {tuple(entry["inputs"]): name for name, entry in known.items()}
    searches, taken = [], set()
    for given, map in maps.items() if isinstance(maps, dict) else ((None, map) for map in maps):
        map, inputs = _inputs(map)
        if given is None and tuple(inputs) in taken:
            raise InputError(f"maps must differ; got {', '.join(inputs)} twice; drop one")
        taken.add(tuple(inputs))
        name = _given_name(given) or names.get(tuple(inputs)) or _new_name(inputs, names.values())
        names[tuple(inputs)] = name
        searches.append(Search(name, map, own.get(given, {}), inputs))
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


def _new_name(inputs, taken):
    """Name of the files of a map, that of its first file; a number follows if it is taken."""
    first = split_choice(next(iter(inputs)))[0].name
    stem = re.sub(r"[^\w.+-]", "_", _ENDING.sub("", first)) or "map"
    used = _RESERVED | {name.lower() for name in taken}  # some file systems ignore capitals
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))
    return next(name for name in names if name.lower() not in used)


def _is_done(search, entry, folder):
    """Whether a map was searched with the same files, and its catalogue is there."""
    if entry is None or entry["status"] != "done":
        return False
    same = entry["inputs"] == search.inputs and entry["own"] == _texts(search.own)
    return same and all((folder / f"{search.name}{suffix}").exists() for suffix in _SUFFIXES)


def _search_missing(missing, folder, state, executor, n_cores, progress, frame, options):
    """Search maps and write, one by one, their files and the state."""
    if not missing:
        return
    with ExitStack() as stack:
        n_cores = n_cores or (usable_cores() if executor is None else None)
        n_workers = min(n_cores, len(missing)) if executor is None else n_workers_of(executor)
        if executor is None and n_workers > 1:
            executor = stack.enter_context(local_workers(n_workers))
        n_each = max((n_cores or 1) // n_workers, 1)
        job = partial(_search, frame=frame, n_cores=n_each, options=options)
        results = run_shards(
            job, missing, executor=executor, n_pending=max(_N_PENDING, n_workers), lost=_lost
        )
        results, seen = stack.enter_context(closing(results)), set()
        for search, outcome in (
            progress(results, total=len(missing), desc="maps") if progress else results
        ):
            files, entry = outcome.pop("files", {}), state["maps"][search.name]
            for text in outcome["warnings"]:
                if text not in seen:
                    warn(f"{search.name}: {text}", 5)
                seen.add(text)
            paths = {folder / f"{search.name}{suffix}": files[suffix] for suffix in files}
            write_files(paths, overwrite=True)
            entry |= outcome
            _write_state(folder, state)


def _search(search, *, frame, n_cores, options):
    """What became of the search of a map, with the content of its files."""
    started, outcome = time.perf_counter(), {"status": "failed", "n_sources": 0, "n_failed": 0}
    with warnings.catch_warnings(record=True) as caught, limited_cores(n_cores):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UnetlocWarning)
        try:
            run = detect(search.map, **options | search.own)
            outcome |= {
                "status": "done",
                "n_sources": len(run.catalog),
                "n_failed": run.n_failed,
                "files": {s: file_content(run.catalog, f"x{s}", frame=frame) for s in _SUFFIXES},
            }
        except Exception as err:  # a map that cannot be searched does not stop the others
            outcome |= {"reason": _reason(err)}
    texts = dict.fromkeys(" ".join(str(item.message).split()) for item in caught)
    outcome["seconds"] = round(time.perf_counter() - started, 2)
    return outcome | {"warnings": list(texts)}


def _reason(err):
    """An error in one line, with its type if it is a fault of the program."""
    text = " ".join(str(err).split())
    is_input = isinstance(err, InputError | OSError) and text
    return text if is_input else f"{type(err).__name__}: {text}".rstrip(": ")


def _lost(search, err):
    """What became of a map whose workers died."""
    failed = {"status": "failed", "n_sources": 0, "n_failed": 0, "seconds": 0.0, "warnings": []}
    return failed | {"reason": _reason(err)}


def _read_state(folder):
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


def _write_state(folder, state):
    content = json.dumps(state, indent=1, ensure_ascii=False).encode()
    write_files({folder / STATE: content}, overwrite=True)


def _differences(folder, before, after):
    """Message on the options of a folder that are not those of this run."""
    names = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    texts = (
        f"{n} {before.get(n, 'not given')} before, {after.get(n, 'not given')} now" for n in names
    )
    return (
        f"options must be those that made {folder}; got {'; '.join(texts)}; give the same options, "
        "choose another folder or allow overwriting"
    )


def _write_all(folder, state):
    """Write the table of the sources of all finished maps of a folder."""
    done = [name for name, entry in state["maps"].items() if entry["status"] == "done"]
    done = sorted(name for name in done if (folder / f"{name}.fits").exists())
    table = join_catalogs([read_catalog(folder / f"{name}.fits") for name in done], done)
    write_files({folder / ALL: file_content(table, ALL)}, overwrite=True)


def _table(searches, state):
    """What became of each map."""
    rows = [state["maps"][search.name] for search in searches]
    columns = {
        "Map": [search.name for search in searches],
        "File": [", ".join(search.inputs) for search in searches],
        "Status": [row["status"] for row in rows],
        "Reason": [row.get("reason", "") for row in rows],
    }
    numbers = {"N_Sources": "n_sources", "N_Failed": "n_failed", "Seconds": "seconds"}
    return QTable(columns | {name: [row[key] for row in rows] for name, key in numbers.items()})
