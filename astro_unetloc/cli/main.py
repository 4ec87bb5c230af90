"""The command line: ``astro-unetloc MAP -o OUT`` and its sub-commands."""

import logging
import os
import sys
import warnings
from difflib import get_close_matches

import click

from astro_unetloc.cli import commands
from astro_unetloc.cli.options import (
    EXIT_INCOMPLETE,
    check_apart,
    options,
    progress_bar,
    report,
    say,
    sky_cone,
    take_warnings,
)

__all__ = ["main"]


COMMANDS = ("demo", "simulate", "train", "evaluate", "match", "models")


class _Commands(click.Group):
    """What is not the name of a sub-command is a map to search."""

    def parse_args(self, ctx, args):
        if not args:
            raise click.UsageError("expected a MAP or a COMMAND; got nothing")
        is_name = not args[0].startswith("-") and not os.path.exists(args[0])
        similar = get_close_matches(args[0], COMMANDS, 1, 0.7)
        if is_name and args[0] not in COMMANDS and similar:
            raise click.UsageError(f"no map or command {args[0]!r}; did you mean {similar[0]!r}?")
        if args[0] not in ("--help", "-h", "--version", *COMMANDS):
            args = ["find", *args] if {"--help", "-h"}.isdisjoint(args) else ["--help"]
        return super().parse_args(ctx, args)

    def invoke(self, ctx):
        take_warnings()
        return super().invoke(ctx)

    def list_commands(self, ctx):
        return COMMANDS

    def format_usage(self, ctx, formatter):
        formatter.write_usage("astro-unetloc", "MAP -o OUT [-o OUT2 ...] | COMMAND ...")

    def format_options(self, ctx, formatter):
        find.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="astro_unetloc", message="%(package)s %(version)s")
def cli():
    """Find the point sources in a gamma-ray counts MAP; no background model is needed.

    MAP is a counts cube or image (WCS or HEALPix), an event list or a gammapy dataset. The format
    of each output follows its suffix: .fits .ecsv .csv .vot catalogue, .reg DS9 and .crtf CASA
    regions, .yaml gammapy models, .xml Fermi source library, .png picture; a lone -o catalog.fits
    also writes catalog.reg, and -o - prints ECSV to stdout.
    """


_map_options = (
    click.argument("map", type=click.Path()),
    click.option("-o", "--output", "outputs", multiple=True, required=True, metavar="OUT",
                 help="File to write; may be repeated."),
    click.option("--model", metavar="NAME|FOLDER", help="A shipped model or a model folder."),
    click.option("--threshold", type=float, metavar="P", help="Smallest Score listed."),
    click.option("--exposure", type=click.Path(), help="Exposure cube, for fluxes and indices; "
                 "also turns a flux map into counts."),
    click.option("--exposure-frame", type=click.Choice(["galactic", "icrs"]),
                 help="Frame of a HEALPix exposure that does not say it."),
    click.option("--background", type=click.Path(), help="Background cube; without it the "
                 "background is estimated around each source."),
    click.option("--psf", type=click.Path(), help="PSF file of gtpsf; that of the LAT "
                 "is built in."),
    click.option("--measure/--no-measure", default=True, show_default=True,
                 help="Fit positions, counts and fluxes by likelihood."),
    click.option("--extended", metavar="FILE|NAME", help="Catalogue, such as a Fermi one or 4fgl, "
                 "whose extended sources flag what lies inside them."),
    click.option("--energy-range", nargs=2, metavar="EMIN EMAX",
                 help="Energies of the photons: quantities, or numbers in GeV."),
    click.option("--region", nargs=3, metavar="LON LAT RADIUS",
                 help="List only sources in this cone (degrees or quantities, in --frame)."),
    click.option("--frame", default="icrs", type=click.Choice(["icrs", "fk5", "galactic"]),
                 help="Frame of --region and of the DS9 regions.", show_default=True),
    click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True,
                 help="Seed of the placement of counts inside their pixels."),
    click.option("--probability-map", type=click.Path(), metavar="FILE",
                 help="Write the probability of a source as a FITS map, HEALPix and, if the map "
                 "has a WCS, in that."),
    click.option("--moc", type=click.Path(), metavar="FILE",
                 help="Write the area that was searched as a MOC (FITS)."),
    click.option("--limit-map", type=click.Path(), metavar="FILE",
                 help="Write the counts and fluxes at which half of the sources are found as a "
                 "HEALPix FITS map."),
)  # fmt: skip


@cli.command(hidden=True)
@options(*_map_options)
def find(map, outputs, model, threshold, measure, extended, energy_range, region, frame, seed,
         probability_map, moc, limit_map, overwrite, quiet, debug, **files):  # fmt: skip
    """Find the sources of MAP."""
    from astro_unetloc.catalog.write import (
        check_fluxes,
        check_outputs,
        format_catalog,
        output_paths,
    )
    from astro_unetloc.files import check_output
    from astro_unetloc.maps.read import read_map
    from astro_unetloc.pipeline import detect, select_model
    from astro_unetloc.products import write_run
    from astro_unetloc.unet.model import load_model

    to_stdout = "-" in outputs
    paths = output_paths([path for path in outputs if path != "-"])
    inputs = [map, *(files[name] for name in ("exposure", "background", "psf") if files[name])]
    check_outputs(paths, overwrite=overwrite, inputs=inputs)
    taken = [*paths, *inputs]
    maps = {"probability_map": probability_map, "moc": moc, "limit_map": limit_map}
    for path in filter(None, maps.values()):
        check_apart(path, taken)
        check_output(path, overwrite=overwrite)
        taken.append(path)
    region = sky_cone(region, frame)
    sky_map = read_map(map, energy_range=energy_range or None, **files)
    check_fluxes(paths, known=measure and sky_map.exposure is not None)
    model = load_model(model) if model else select_model(sky_map.energy_edges)
    if limit_map:
        _check_limits(model, threshold, measure)
    run = detect(
        sky_map, model=model, threshold=threshold, measure=measure, extended=extended,
        region=region, rng=seed, progress=progress_bar(quiet),
    )  # fmt: skip
    write_run(run, paths, frame=frame, overwrite=overwrite, progress=progress_bar(quiet), **maps)
    if to_stdout:
        click.get_binary_stream("stdout").write(format_catalog(run.catalog, ".ecsv"))
    say(run.report([*paths, *filter(None, maps.values())]), quiet)
    if run.n_failed:
        sys.exit(EXIT_INCOMPLETE)


def _check_limits(model, threshold, measure):
    """Refuse a map of detection limits where they are not known."""
    if not measure:
        raise click.UsageError("--limit-map is of measured sources; leave --no-measure out")
    if model.half_found(model.threshold if threshold is None else threshold) is None:
        raise click.UsageError(
            f"--limit-map needs a model whose card says what it finds; {model.name} was not fitted "
            "(benchmarks/fit_limits.py); leave the map out"
        )


for _name in COMMANDS:
    cli.add_command(getattr(commands, _name))


def main(args=None):
    """Entry point of ``astro-unetloc``."""
    args = sys.argv[1:] if args is None else list(args)
    debug = "--debug" in args
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no greetings of TensorFlow
    logging.basicConfig(format="%(message)s", level=logging.INFO if debug else logging.ERROR)
    with warnings.catch_warnings():
        try:
            code = cli.main(args=args, prog_name="astro-unetloc", standalone_mode=False)
        except Exception as error:
            code = report(error, debug)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
