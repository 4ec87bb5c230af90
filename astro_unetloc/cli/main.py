"""The program ``astro-unetloc``: the search of a map, choice of another command, exit codes."""

import logging
import os
import re
import sys
import warnings
from difflib import get_close_matches
from pathlib import Path

import click

from astro_unetloc.cli.batch import batch
from astro_unetloc.cli.commands import classify, demo, evaluate, match, models, simulate, train
from astro_unetloc.cli.options import (
    EXIT_INCOMPLETE,
    SEARCH,
    SEARCH_GROUPS,
    GroupedCommand,
    checked_paths,
    companions,
    labels_option,
    map_options,
    open_closed_streams,
    options,
    output_option,
    path_option,
    print_catalog,
    print_message,
    progress_bar,
    report_error,
    route_warnings,
    search_options,
    sky_cone,
)
from astro_unetloc.cli.show import info, print_best, show

COMMANDS = (
    "find", "batch", "demo", "show", "classify", "match", "simulate", "train", "evaluate", "models",
    "info",
)  # fmt: skip
_MAPS = "probability_map", "moc", "residual_map", "limit_map"  # of the result
_GROUPS = {
    "Outputs": {"outputs", "frame", "labels", *_MAPS, "overwrite"},
    **SEARCH_GROUPS,
}
_GROUPS["Map and companions"] = _GROUPS["Map and companions"] | {"time_range"}
_GROUPS["Search"] = _GROUPS["Search"] | {"split"}


def _cite(context, parameter, value):
    """Print the references of the package."""
    if value and not context.resilient_parsing:
        click.echo((Path(__file__).parents[1] / "data" / "CITATION.bib").read_text("utf-8").strip())
        context.exit()


@click.command(cls=GroupedCommand, groups=_GROUPS)
@click.version_option(package_name="astro_unetloc", message="%(package)s %(version)s")
@click.option(
    "--cite",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_cite,
    help="Print what to cite, as BibTeX, and exit.",
)
@options(
    click.argument("map", type=click.Path(), nargs=-1, required=True, metavar="MAP"),
    output_option,
    labels_option,
    *map_options,
    click.option("--time-range", nargs=2, type=float, metavar="TSTART TSTOP",
                 help="Times of the events that are used, in seconds (MET)."),
    *search_options,
    click.option("--split-check", "split", is_flag=True, help="Estimate the fraction of real "
                 "sources: search half of the photons, look what the other half confirms."),
    path_option("--probability-map", metavar="FILE", help="Write the probability of a source as a "
                "FITS file: a HEALPix map and, for a map with a WCS, an image in its pixels."),
    path_option("--moc", metavar="FILE", help="Write the area that was searched as a MOC (FITS)."),
    path_option("--residual-map", metavar="FILE", help="Write the counts that sources and "
                "background predict, the residual and its significance as FITS maps."),
    path_option("--limit-map", metavar="FILE", help="Write the counts and fluxes at which half of "
                "the sources are found as a HEALPix FITS map."),
)  # fmt: skip
def find(map, outputs, labels, backgrounds, model, energy_range, region, frame, split, seed,
         overwrite, quiet, **others):  # fmt: skip
    """Find the sources of a MAP; the word may be left out."""
    from astro_unetloc.catalog.write import check_fluxes
    from astro_unetloc.maps.read import input_paths, read_map
    from astro_unetloc.pipeline import detect, select_model
    from astro_unetloc.products import write_run
    from astro_unetloc.unet.model import load_model

    maps = {name: others.pop(name) for name in _MAPS}
    search = {name: others.pop(name) for name in SEARCH}
    if search["class_prior"] and not (search["measure"] and search["classify"]):
        got = "--no-classify" if search["measure"] else "--no-measure"
        raise click.UsageError(f"--class-prior needs the classification; got {got}; drop one")
    map = list(map) if len(map) > 1 else map[0]
    inputs = [*input_paths(map), others["exposure"], others["psf"], *backgrounds]
    map_paths = [path for path in maps.values() if path]
    paths = checked_paths(outputs, map_paths, [path for path in inputs if path], overwrite)
    region = sky_cone(region, frame)
    others |= companions(others["psf"], others.pop("psf_radius"), backgrounds, energy_range)
    sky_map = read_map(map, **others)
    check_fluxes(paths, known=search["measure"] and sky_map.exposure is not None)
    model = load_model(model) if model else None
    _check_maps(maps, search)
    if maps["limit_map"]:
        model = model or select_model(sky_map.energy_edges)
        threshold = search["threshold"]
        model.half_found(model.threshold if threshold is None else threshold)
    progress = progress_bar(quiet)
    run = detect(sky_map, model=model, region=region, rng=seed, progress=progress, **search)
    maps |= {"frame": frame, "labels": labels, "overwrite": overwrite}
    write_run(run, paths, progress=progress, **maps)
    print_catalog(outputs, run.catalog)
    print_best(outputs, run.catalog, quiet)
    print_message(run.summary([*paths, *map_paths]), quiet)
    if split:
        from astro_unetloc.evaluation.split import split_check

        print_message(
            split_check(sky_map, model=run.model, region=region, rng=seed, **search), quiet
        )
    if run.n_failed:
        sys.exit(EXIT_INCOMPLETE)


def _check_maps(maps, search):
    """Refuse maps of the result that do not go with the options of the search."""
    finder, got = search["finder"], ["--no-measure"] * (not search["measure"])
    got += ["--purity"] * (search["purity"] is not None)
    got += [f"--finder {finder}"] * (finder != "unet")
    if maps["limit_map"] and got:
        wanted = "--limit-map needs the network, a threshold and the likelihood fit"
        raise click.UsageError(f"{wanted}; got {got[0]}; drop one")
    if maps["residual_map"] and not search["measure"]:
        raise click.UsageError(
            "--residual-map needs the likelihood fit; got --no-measure; drop one"
        )
    if maps["probability_map"] and finder == "scan":
        raise click.UsageError("--probability-map needs the network; got --finder scan; drop one")


class _MapOrCommand(click.Group):
    """A group of commands in which ``find`` is understood where no command is named."""

    def parse_args(self, ctx, args):
        if not args:
            raise click.UsageError("expected a MAP or a COMMAND; got nothing")
        first = args[0]
        if first not in ("--help", "-h", *COMMANDS):
            if re.fullmatch(r"\w[\w-]*", first) and not os.path.exists(first):
                similar = get_close_matches(first, COMMANDS, 1, 0.7)
                hint = f"did you mean {similar[0]!r}?" if similar else "name a file"
                raise click.UsageError(f"no map or command {first!r}; {hint}")
            args = ["--help"] if {"--help", "-h"} & set(args) else ["find", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx):
        route_warnings()
        return super().invoke(ctx)

    def list_commands(self, ctx):
        return COMMANDS

    def format_options(self, ctx, formatter):
        find.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(
    cls=_MapOrCommand,
    commands=[
        find,
        batch,
        demo,
        show,
        classify,
        match,
        simulate,
        train,
        evaluate,
        models,
        info,
    ],
    options_metavar="",
    subcommand_metavar="MAP -o OUT [-o OUT2 ...] | COMMAND ...",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },  # fmt: skip
)
def cli():
    """Find the point sources in a gamma-ray counts MAP; no background model is needed.

    MAP is a counts cube or image (WCS or HEALPix), an event list or a gammapy dataset. The suffix
    of each output sets its format: .fits .ecsv .csv .vot catalogue, .reg DS9 and .crtf CASA
    regions, .yaml gammapy models, .xml Fermi source library, .png .pdf .svg picture, .html report.
    A lone -o catalog.fits also writes catalog.reg, and -o - prints a table on a terminal and ECSV
    to a pipe.
    """


def main(args=None):
    """Run the command line and exit with its code."""
    open_closed_streams()
    args = sys.argv[1:] if args is None else list(args)
    debug = "--debug" in args
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow logs its start otherwise
    logging.basicConfig(format="%(message)s", level=logging.INFO if debug else logging.ERROR)
    with warnings.catch_warnings():
        try:
            options = {"prog_name": "astro-unetloc", "standalone_mode": False}
            code = cli.main(args=args, obj=tuple(args), **options)
        except Exception as error:
            code = report_error(error, debug)
    sys.exit(code or 0)
