"""The command ``batch``: many maps in one run."""

import sys
from contextlib import ExitStack

import click

from astro_unetloc.cli.options import (
    EXIT_INCOMPLETE,
    SEARCH_GROUPS,
    GroupedCommand,
    companions,
    map_options,
    number_option,
    options,
    path_option,
    print_message,
    progress_bar,
    search_options,
    sky_cone,
)

_GROUPS = {"Workers": {"n_cores", "cluster"}, **SEARCH_GROUPS}


@click.command(cls=GroupedCommand, groups=_GROUPS)
@click.argument("maps", type=click.Path(), nargs=-1, required=True, metavar="MAP...")
@options(
    path_option("-o", "--output", "folder", required=True,
                help="Folder of the catalogues; an interrupted run in it is continued."),
    number_option("--cores", "n_cores", metavar="N",
                  help="Number of cores of this machine.  [default: all]"),
    click.option("--cluster", metavar="ADDRESS",
                 help="Address of the scheduler of a dask cluster, such as tcp://node1:8786."),
    *map_options,
    *search_options,
)  # fmt: skip
def batch(maps, folder, n_cores, cluster, frame, region, seed, overwrite, quiet, **others):
    """Find the sources of many MAPs, each searched alone, on all cores or on a cluster.

    The folder gets a catalogue and DS9 regions of each map, catalogs.fits (all sources, with the
    name of the map) and state.json. Given again, the command searches only maps that failed, that
    were not reached or that have changed. Several event lists in @list.txt are one map.
    """
    from astro_unetloc.batch import find_sources_in
    from astro_unetloc.executors import usable_cores

    if None not in (n_cores, cluster):
        raise click.UsageError("--cores and --cluster exclude each other; got both; drop one")
    parts = {"energy_range": others["energy_range"], "backgrounds": others.pop("backgrounds")}
    others |= companions(others["psf"], others.pop("psf_radius"), **parts)
    others |= {"region": sky_cone(region, frame), "rng": seed}
    n_cores = None if cluster else n_cores or usable_cores()
    with ExitStack() as stack:
        executor = _executor(stack, cluster, min(n_cores or 1, len(maps)), quiet)
        table = find_sources_in(
            maps, folder, executor=executor, n_cores=n_cores, overwrite=overwrite, frame=frame,
            progress=progress_bar(quiet), **others,
        )  # fmt: skip
    report(table, folder, quiet)


def _executor(stack, cluster, n_workers, quiet):
    """What runs the searches, open until the stack ends; None is this process."""
    from astro_unetloc.executors import cluster_client, dashboard_of, local_workers

    if not cluster and n_workers == 1:
        return None
    executor = stack.enter_context(cluster_client(cluster) if cluster else local_workers(n_workers))
    if dashboard := dashboard_of(executor):
        print_message(f"dashboard of the workers: {dashboard}", quiet)
    return executor


def report(table, folder, quiet):
    """Print what became of the maps, and exit if some of them failed."""
    from astro_unetloc.batch import ALL
    from astro_unetloc.exceptions import counted

    failed = table[table["Status"] == "failed"]
    for name, reason in failed["Map", "Reason"]:
        print_message(f"failed: {name}: {reason}")
    n_done, sources = len(table) - len(failed), counted(int(table["N_Sources"].sum()), "source")
    maps = f"{n_done} of {counted(len(table), 'map')}"
    print_message(f"{sources} in {maps} -> {folder}/{ALL}", quiet)
    if len(failed) or table["N_Failed"].sum():
        sys.exit(EXIT_INCOMPLETE)
