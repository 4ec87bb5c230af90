"""The command ``batch``: many maps in one run."""

import sys

import click

from astro_unetloc.cli.options import (
    EXIT_INCOMPLETE,
    SEARCH_GROUPS,
    GroupedCommand,
    cluster_option,
    companions,
    map_options,
    number_option,
    options,
    path_option,
    print_message,
    progress_bar,
    search_options,
    show_dashboard,
    sky_cone,
)

_GROUPS = {
    "Workers": {"n_cores", "cluster"},
    "Slices of time": {"time_bins", "slice_exposures"},
    **SEARCH_GROUPS,
}
# Sources with a smaller probability of being constant are counted as variable.
_BY_CHANCE = 1e-3


@click.command(cls=GroupedCommand, groups=_GROUPS)
@click.argument("maps", type=click.Path(), nargs=-1, required=True, metavar="MAP...")
@options(
    path_option("-o", "--output", "folder", required=True,
                help="Folder of the catalogues; an interrupted run in it is continued."),
    number_option("--cores", "n_cores", metavar="N",
                  help="Number of cores of this machine.  [default: all]"),
    cluster_option,
    click.option("--time-bins", metavar="BINS", help="Search slices of time of an event list, and "
                 "measure light curves: a length such as 30d, edges in seconds (MET) with commas "
                 "between, or a file of good time intervals."),
    path_option("--slice-exposure", "slice_exposures", multiple=True, metavar="FILE",
                help="Exposure of each slice, in their order; else the live time is taken."),
    *map_options,
    *search_options,
)  # fmt: skip
def batch(maps, folder, n_cores, cluster, time_bins, slice_exposures, region, seed, quiet,
          **others):  # fmt: skip
    """Find the sources of many MAPs, each searched alone, on all cores or on a cluster.

    The folder gets a catalogue and DS9 regions of each map, catalogs.fits (all sources, with the
    name of the map) and state.json. Given again, the command searches only maps that failed, that
    were not reached or that have changed. Several event lists in @list.txt are one map.

    With --time-bins the MAPs are one event list. The folder also gets variability.fits (its sources
    with their variability), lightcurve.fits and lightcurve.png.
    """
    from astro_unetloc.batch import find_light_curves, find_sources_in

    if None not in (n_cores, cluster):
        raise click.UsageError("--cores and --cluster exclude each other; got both; drop one")
    if slice_exposures and not time_bins:
        raise click.UsageError("--slice-exposure goes with --time-bins BINS; give the slices")
    parts = {"energy_range": others["energy_range"], "backgrounds": others.pop("backgrounds")}
    others |= companions(others["psf"], others.pop("psf_radius"), **parts)
    others |= {"region": sky_cone(region, others["frame"]), "rng": seed}
    show_dashboard(quiet)
    others |= {"executor": cluster, "n_cores": n_cores, "progress": progress_bar(quiet)}
    maps, curves = list(maps), None
    if time_bins:
        exposures = list(slice_exposures) or None
        events = maps if len(maps) > 1 else maps[0]
        slices = {"time_bins": time_bins, "slice_exposures": exposures}
        table, catalog, curves = find_light_curves(events, folder, **slices, **others)
    else:
        table = find_sources_in(maps, folder, **others)
    if curves is not None:
        _report_variability(catalog, len(table) - 1, folder, quiet)
    _report(table, folder, quiet)


def _report_variability(catalog, n_slices, folder, quiet):
    """Print how many sources vary."""
    from astro_unetloc.batch.light_curves import VARIABILITY
    from astro_unetloc.exceptions import counted

    n = (catalog["Prob_Constant"].filled(1.0) < _BY_CHANCE).sum()
    sources = counted(len(catalog), "source")
    print_message(
        f"{n} of {sources} {'varies' if n == 1 else 'vary'} between {n_slices} slices of time (by "
        f"chance less than {_BY_CHANCE:g}) -> {folder}/{VARIABILITY}",
        quiet,
    )


def _report(table, folder, quiet):
    """Print what became of the maps, and exit if some of them failed."""
    from astro_unetloc.batch.search import ALL
    from astro_unetloc.exceptions import counted

    failed = table[table["Status"] == "failed"]
    for name, reason in failed["Map", "Reason"]:
        print_message(f"failed: {name}: {reason}")
    n_done, sources = len(table) - len(failed), counted(int(table["N_Sources"].sum()), "source")
    maps = f"{n_done} of {counted(len(table), 'map')}"
    print_message(f"{sources} in {maps} -> {folder}/{ALL}", quiet)
    if len(failed) or table["N_Failed"].sum():
        sys.exit(EXIT_INCOMPLETE)
