"""What the command line says on the terminal: messages, warnings, errors and progress on stderr.

What the commands share: common options, and words that become values.
"""

import logging
import os
import sys
import warnings
from functools import partial

import click
from click.core import ParameterSource

__all__ = [
    "EXIT_FAULT",
    "EXIT_INCOMPLETE",
    "EXIT_USAGE",
    "check_apart",
    "check_variant",
    "flags",
    "given",
    "options",
    "progress_bar",
    "report",
    "say",
    "show_warning",
    "sky_cone",
    "take_warnings",
]


# A fault of ours; wrong usage or input; done but for some patches.
EXIT_FAULT, EXIT_USAGE, EXIT_INCOMPLETE = 1, 2, 3


def say(text, quiet=False):
    """Write a line to stderr, unless quiet."""
    if not quiet:
        click.echo(text, err=True)


def progress_bar(quiet):
    """A tqdm that draws on stderr, None if that is no terminal or quiet is asked for."""
    if quiet or not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return partial(tqdm, leave=False, file=sys.stderr, dynamic_ncols=True)


def report(error, debug):
    """Say what went wrong in one line, after the traceback if ``debug``; returns the exit code."""
    if isinstance(error, click.Abort):
        say("interrupted")
        return EXIT_FAULT
    if debug:
        import traceback

        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, click.ClickException):
        text = " ".join(error.format_message().split()).rstrip(".")
        say(f"error: {text}; see 'astro-unetloc --help'")
        return EXIT_USAGE
    from astro_unetloc.exceptions import InputError

    if isinstance(error, InputError | OSError):
        # the library speaks of its argument, the command line of its option
        say(f"error: {text.replace('allow overwriting', 'add --overwrite')}")
        return EXIT_USAGE
    where = "see above" if debug else "--debug shows where"
    say(f"fault of astro-unetloc: {type(error).__name__}: {text}; {where}, please report it")
    return EXIT_FAULT


def take_warnings():
    """Let `show_warning` say all warnings from now on."""
    # astropy takes them over when it is first imported: that must come before
    import astropy  # noqa: F401

    warnings.simplefilter("always")
    warnings.showwarning = show_warning


def show_warning(message, category, filename, lineno, file=None, line=None):
    """Say a warning of the package in one line; those of others go to the log."""
    text = " ".join(str(message).split())
    if category.__module__.startswith("astro_unetloc"):
        say(f"warning: {text}")
    else:
        logging.getLogger("astro_unetloc").debug("%s: %s", category.__name__, text)


_common = [
    click.option("--overwrite", is_flag=True, help="Replace outputs that exist."),
    click.option("--quiet", is_flag=True, help="No messages but warnings and errors."),
    click.option("--debug", is_flag=True, help="Show the log, and the traceback of an error."),
]


def options(*own):
    """Decorator: the options of a command, and those that all of them have."""

    def decorate(function):
        for option in reversed([*own, *_common]):
            function = option(function)
        return function

    return decorate


def given(context):
    """Names of the parameters of a command that its user has given."""
    source = context.get_parameter_source
    return {name for name in context.params if source(name) is ParameterSource.COMMANDLINE}


def flags(context, names):
    """How parameters of a command are written, in the order of their names."""
    spelled = {parameter.name: parameter.opts[-1] for parameter in context.command.params}
    return [spelled[name] for name in sorted(names)]


def check_variant(chosen, *, variant, template, **_):
    """Refuse a set of templates that is chosen without their file."""
    if "variant" in chosen and not template:
        raise click.UsageError(
            f"--variant chooses among the templates of --template FILE; got {variant!r} without; "
            "give the file too"
        )


def check_apart(path, others):
    """Refuse an output that is also another output or an input."""
    if os.path.realpath(path) in {os.path.realpath(other) for other in others}:
        raise click.UsageError(f"each output must be a file of its own; got {path!r} twice")


def sky_cone(region, frame):
    """Centre and radius from the three words of --region; None without them."""
    if not region:
        return None
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    try:
        words = (u.Quantity(word) for word in region)
        lon, lat, radius = (q.value * u.deg if q.unit == "" else q for q in words)
        if not 0 < radius.to_value("deg") <= 180:
            raise ValueError(f"a radius of {radius}")
        return SkyCoord(lon, lat, frame=frame), radius
    except (TypeError, ValueError) as err:
        raise click.UsageError(
            f"--region must be a longitude, a latitude and a radius, such as 83.6 22 5 or "
            f"83.6deg 22deg 30arcmin; got {' '.join(region)} ({err})"
        ) from err
