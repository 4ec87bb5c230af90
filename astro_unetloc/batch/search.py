"""Many maps: a catalogue of each in one folder, a table of all, and a state that a restart reads.

The catalogues do not depend on the number of workers. Workers return the content of the files and
this process writes them, so that a cluster needs to share the maps but not the folder.
"""

import time
import warnings
from contextlib import closing
from functools import partial
from pathlib import Path

from astropy.table import QTable
from tqdm import tqdm

from astro_unetloc.batch.state import (
    SUFFIXES,
    as_text,
    checked_options,
    differences,
    is_done,
    read_state,
    remove_catalogues,
    searches_of,
    texts_of_options,
    write_state,
)
from astro_unetloc.catalog.read import join_catalogs, read_catalog
from astro_unetloc.catalog.table import creator
from astro_unetloc.catalog.write import file_content
from astro_unetloc.exceptions import InputError, UnetlocWarning, warn
from astro_unetloc.executors import (
    limited_cores,
    n_workers_of,
    open_workers,
    run_shards,
    usable_cores,
)
from astro_unetloc.files import check_outputs, locked_folder, write_files
from astro_unetloc.pipeline import detect

ALL = "catalogs.fits"
# What became of a map whose search did not end.
_FAILED = {"status": "failed", "n_sources": 0, "n_failed": 0}


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
    executor : concurrent.futures.Executor, dask.distributed.Client or str, optional
        What runs the searches, or the address of a dask cluster such as ``tcp://node1:8786``. By
        default processes of this machine: a ``LocalCluster`` of dask where that is installed. A
        script that starts processes needs the line ``if __name__ == "__main__":``.
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
    maps, folder, *, own, executor, n_cores, overwrite, progress, frame, options, stated=None,
    others=(),
):  # fmt: skip
    """Do the work of `find_sources_in`.

    ``own`` are options of `read_map` of single maps by name, ``stated`` further options of the
    folder, ``others`` names of files that the caller will write there.
    """
    options = checked_options(options)
    folder, progress = Path(folder), tqdm if progress is True else progress or None
    stated = {"frame": frame} | (stated or {})
    stated |= {name: as_text(value) for name, value in sorted(options.items())}
    with locked_folder(folder):
        state = read_state(folder)
        if state.get("options", stated) != stated:
            if not overwrite:
                raise InputError(differences(folder, state["options"], stated))
            remove_catalogues(folder, state)
            state = {}
        known = state.get("maps", {})
        searches = searches_of(maps, own, known)
        fresh = [s.name + suffix for s in searches if s.name not in known for suffix in SUFFIXES]
        fresh += [] if state else [ALL, *others]
        check_outputs([folder / name for name in fresh], overwrite=overwrite)
        entries = {
            s.name: known[s.name]
            if not overwrite and is_done(s, known.get(s.name), folder)
            else {"inputs": s.inputs, "own": texts_of_options(s.own), "status": "waiting"}
            for s in searches
        }
        state = {"creator": creator(), "options": stated, "maps": known | entries}
        missing = [s for s in searches if entries[s.name]["status"] != "done"]
        if executor is None:
            n_cores = n_cores or usable_cores()
        n_cores, executor = n_cores or 1, executor if missing else None
        with open_workers(executor, min(n_cores, len(missing))) as workers:
            write_state(folder, state)
            _search_missing(missing, folder, state, workers, n_cores, progress, frame, options)
        if missing or not (folder / ALL).exists():
            _write_all(folder, state)
    return _table(searches, state)


def _search_missing(missing, folder, state, executor, n_cores, progress, frame, options):
    """Search maps and write, one by one, their files and the state."""
    n_each = max(n_cores // n_workers_of(executor), 1)
    job = partial(_search, frame=frame, n_cores=n_each, options=options)
    with closing(run_shards(job, missing, executor=executor, lost=_lost)) as results:
        shown = progress(results, total=len(missing), desc="maps") if progress else results
        seen = set()
        for search, outcome in shown:
            files, entry = outcome.pop("files", {}), state["maps"][search.name]
            for text in outcome["warnings"]:
                if text not in seen:
                    warn(f"{search.name}: {text}", 5)
                seen.add(text)
            paths = {folder / f"{search.name}{suffix}": files[suffix] for suffix in files}
            write_files(paths, overwrite=True)
            entry |= outcome
            write_state(folder, state)


def _search(search, *, frame, n_cores, options):
    """What became of the search of a map, with the content of its files."""
    started, outcome = time.perf_counter(), dict(_FAILED)
    with warnings.catch_warnings(record=True) as caught, limited_cores(n_cores):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UnetlocWarning)
        try:
            run = detect(search.map, **options | search.own)
            outcome |= {
                "status": "done",
                "n_sources": len(run.catalog),
                "n_failed": run.n_failed,
                "files": {s: file_content(run.catalog, f"x{s}", frame=frame) for s in SUFFIXES},
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
    return _FAILED | {"seconds": 0.0, "warnings": [], "reason": _reason(err)}


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
