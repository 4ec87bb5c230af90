"""The program ``astro-unetloc``: choice of the command, exit codes."""

import logging
import os
import sys
import warnings
from difflib import get_close_matches

import click

from astro_unetloc.cli.commands import demo, evaluate, match, models, simulate, train
from astro_unetloc.cli.find import find
from astro_unetloc.cli.options import report_error, route_warnings

__all__ = ["COMMANDS", "main"]

COMMANDS = ("demo", "simulate", "train", "evaluate", "match", "models")


class _MapOrCommand(click.Group):
    """A group of commands in which ``find`` is understood where no command is named."""

    def parse_args(self, ctx, args):
        if not args:
            raise click.UsageError("expected a MAP or a COMMAND; got nothing")
        first = args[0]
        if first not in ("--help", "-h", "--version", *COMMANDS):
            similar = get_close_matches(first, COMMANDS, 1, 0.7)
            if similar and not first.startswith("-") and not os.path.exists(first):
                raise click.UsageError(f"no map or command {first!r}; did you mean {similar[0]!r}?")
            args = ["--help"] if {"--help", "-h"} & set(args) else ["find", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx):
        route_warnings()
        return super().invoke(ctx)

    def list_commands(self, ctx):
        return COMMANDS

    def format_usage(self, ctx, formatter):
        formatter.write_usage("astro-unetloc", "MAP -o OUT [-o OUT2 ...] | COMMAND ...")

    def format_options(self, ctx, formatter):
        find.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(
    cls=_MapOrCommand,
    commands=[find, demo, simulate, train, evaluate, match, models],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="astro_unetloc", message="%(package)s %(version)s")
def cli():
    """Find the point sources in a gamma-ray counts MAP; no background model is needed.

    MAP is a counts cube or image (WCS or HEALPix), an event list or a gammapy dataset. The suffix
    of each output sets its format: .fits .ecsv .csv .vot catalogue, .reg DS9 and .crtf CASA
    regions, .yaml gammapy models, .xml Fermi source library, .png picture. A lone -o catalog.fits
    also writes catalog.reg, and -o - prints ECSV to stdout.
    """


def main(args=None):
    """Run the command line and exit with its code."""
    args = sys.argv[1:] if args is None else list(args)
    debug = "--debug" in args
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow logs its start otherwise
    logging.basicConfig(format="%(message)s", level=logging.INFO if debug else logging.ERROR)
    with warnings.catch_warnings():
        try:
            code = cli.main(args=args, prog_name="astro-unetloc", standalone_mode=False)
        except Exception as error:
            code = report_error(error, debug)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
