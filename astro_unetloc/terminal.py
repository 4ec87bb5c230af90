"""What the command line says on the terminal: messages, warnings, errors and progress on stderr."""

import logging
import sys
import warnings
from functools import partial

import click

from astro_unetloc.messages import is_refusal

__all__ = [
    "EXIT_FAULT",
    "EXIT_INCOMPLETE",
    "EXIT_USAGE",
    "progress_bar",
    "report",
    "say",
    "show_warning",
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
    if is_refusal(error):
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
