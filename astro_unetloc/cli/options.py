"""The options that commands share, the parsing of their values, and messages on the terminal."""

import logging
import os
import shlex
import sys
import warnings
from contextlib import suppress
from functools import partial

import click
from click.core import ParameterSource

# A fault of the package; wrong usage or input; finished, but some patches failed.
EXIT_FAULT, EXIT_USAGE, EXIT_INCOMPLETE = 1, 2, 3

_TEXT_COLUMNS = ("Source", "Class", "Association", "Flags")

# Terminal: the results of a command go to stdout, everything else to stderr.


def open_closed_streams():
    """Open the null device for closed standard streams, so that no file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


def print_message(text, quiet=False):
    """Write a line to stderr unless ``quiet`` is set; nobody may read it any more."""
    if not quiet:
        with suppress(OSError):
            click.echo(text, err=True)


def show_dashboard(quiet):
    """Print where the work of the workers can be watched, which they log."""
    level = logging.ERROR if quiet else logging.INFO
    logging.getLogger("astro_unetloc.executors").setLevel(level)


def command_line():
    """Return the command that runs, as it was typed."""
    return shlex.join(["astro-unetloc", *click.get_current_context().obj])


def progress_bar(quiet):
    """Return a tqdm that draws on stderr; None if ``quiet`` is set or stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return partial(tqdm, leave=False, file=sys.stderr, dynamic_ncols=True)


def report_error(error, debug):
    """Print an exception as one line, with its traceback if ``debug``, and return the exit code."""
    if isinstance(error, click.Abort):
        print_message("interrupted")
        return EXIT_FAULT
    if isinstance(error, BrokenPipeError):  # whoever reads stdout has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAULT
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        text = _one_line(error.format_message()).rstrip(".")
        print_message(f"error: {text}; see 'astro-unetloc --help'")
        return EXIT_USAGE
    from astro_unetloc.exceptions import InputError

    text = _one_line(error) or type(error).__name__
    if isinstance(error, InputError | OSError):
        # The library names its argument; on the command line it is an option.
        print_message(f"error: {text.replace('allow overwriting', 'add --overwrite')}")
        return EXIT_USAGE
    text = f"{type(error).__name__}: {text}; {'see above' if debug else '--debug shows where'}"
    print_message(f"fault of astro-unetloc: {text}, please report it")
    return EXIT_FAULT


def _one_line(text):
    """Join the lines of a text."""
    return " ".join(str(text).split())


def route_warnings():
    """Print warnings of the package as one line each and send those of others to the log."""
    # The first import of astropy replaces `warnings.showwarning`, so it has to come before.
    import astropy  # noqa: F401

    warnings.simplefilter("always")
    warnings.showwarning = _show_warning


def _show_warning(message, category, filename, lineno, file=None, line=None):
    """Replacement for `warnings.showwarning`."""
    if category.__module__.startswith("astro_unetloc"):
        print_message(f"warning: {_one_line(message)}")
    else:
        logging.getLogger("astro_unetloc").debug("%s: %s", category.__name__, _one_line(message))


# Options and their values


class Command(click.Command):
    """A command that refuses an option of one value that is given twice; click takes the last."""

    def parse_args(self, ctx, args):
        """Parse the words of the command line."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option in given:
            once = isinstance(option, click.Option) and not (option.multiple or option.is_flag)
            if once and given.count(option) > 1:
                raise click.UsageError(f"{option.opts[-1]} was given twice; it takes one value")
        return super().parse_args(ctx, args)


class GroupedCommand(Command):
    """A command whose help lists its options in groups, a dict of title to names of options."""

    def __init__(self, *args, groups=None, **options):
        super().__init__(*args, **options)
        self.groups = groups

    def format_options(self, ctx, formatter):
        """Write the options of each group, and those of no group last."""
        options = (param for param in self.get_params(ctx) if isinstance(param, click.Option))
        records = {option.name: option.get_help_record(ctx) for option in options}
        grouped = set().union(*self.groups.values())
        for title, names in {**self.groups, "Other options": records.keys() - grouped}.items():
            rows = [row for name, row in records.items() if name in names and row]
            with formatter.section(title):
                formatter.write_dl(rows)


cluster_option = click.option(
    "--cluster", metavar="ADDRESS", help="Address of the scheduler of a dask cluster, such as "
    "tcp://node1:8786.",
)  # fmt: skip
path_option = partial(click.option, type=click.Path())
seed_option = partial(click.option, "--seed", type=click.IntRange(min=0))
number_option = partial(click.option, type=click.IntRange(1))


def _angle(word):
    """A word as a quantity; a number without a unit is in degrees."""
    import astropy.units as u

    value = u.Quantity(word)
    return value.value * u.deg if value.unit == "" else value


def _parse_angle(context, parameter, text):
    """Value of --psf-radius for the package."""
    try:
        return None if text is None else _angle(text)
    except (TypeError, ValueError) as err:
        raise click.UsageError(
            f"{parameter.opts[0]} must be an angle, such as 0.06deg; got {text!r}"
        ) from err


background_psf_options = (
    path_option("--background", "backgrounds", multiple=True,
                help="Cube of expected counts, or with --exposure gll_iem and isotropic text files "
                "(repeat it); else the background is estimated around each source."),
    path_option("--psf", help="PSF file of gtpsf or gammapy; that of the LAT is built in."),
    click.option("--psf-radius", metavar="ANGLE", callback=_parse_angle, help="Instead of --psf: "
                 "radius that holds 68 % of the photons of a Gaussian PSF, degrees if bare."),
)  # fmt: skip
# The files that belong to a map, its energies, and the model.
map_options = (
    click.option("--model", metavar="NAME|FOLDER", help="A shipped model or a model folder."),
    path_option("--exposure",
                help="Exposure cube, for fluxes and indices; also turns a flux map into counts."),
    click.option("--exposure-frame", type=click.Choice(["galactic", "icrs"]),
                 help="Frame of a HEALPix exposure whose header does not state it."),
    *background_psf_options,
    click.option("--energy-range", nargs=2, metavar="EMIN EMAX",
                 help="Energies of the photons: quantities, or numbers in GeV."),
)  # fmt: skip
output_option = click.option("-o", "--output", "outputs", multiple=True, required=True,
                             metavar="OUT", help="File to write; may be repeated.")  # fmt: skip

labels_option = click.option("--region-labels/--no-region-labels", "labels", default=True,
                             help="Show the names of the sources in region files.")  # fmt: skip


def _parse_prior(context, parameter, text):
    """Value of --class-prior for the package: "flat" or a list of words."""
    return text.split() if text and text != "flat" else text


prior_option = click.option(
    "--class-prior", metavar='flat|"A P O"', callback=_parse_prior,
    help="Fractions of AGN, pulsars and others among all sources, or flat for equal ones.  "
    "[default: those of simulated skies at the position of each source]",
)  # fmt: skip

# The options of a search.
search_options = (
    click.option("--finder", default="unet", type=click.Choice(["unet", "scan", "both"]),
                 help="The network, a scan of the photons without it (any telescope), or both."),
    click.option("--threshold", type=float, metavar="P", help="Smallest Score listed."),
    click.option("--purity", type=float, metavar="P", help="Instead of --threshold: list as many "
                 "sources as the mean of their Score, the expected purity, allows."),
    click.option("--measure/--no-measure", default=True,
                 help="Fit positions, counts and fluxes by likelihood."),
    click.option("--classify/--no-classify", default=True,
                 help="Classify sources as AGN, pulsars or others."),
    prior_option,
    click.option("--extended", metavar="FILE|NAME", help="Catalogue (a file, or a name such as "
                 "4fgl); sources inside its extended sources are flagged."),
    click.option("--region", nargs=3, metavar="LON LAT RADIUS",
                 help="List only sources in this cone (degrees or quantities, in --frame)."),
    click.option("--frame", default="icrs", type=click.Choice(["icrs", "fk5", "galactic"]),
                 help="Frame of --region and of the DS9 regions."),
    seed_option(default=0, help="Seed of the placement of counts inside their pixels."),
)  # fmt: skip
# Those that `find_sources` takes as they are, and the titles under which the help lists them all.
SEARCH = ("finder", "threshold", "purity", "measure", "classify", "class_prior", "extended")
SEARCH_GROUPS = {
    "Map and companions": {
        "energy_range", "exposure", "exposure_frame", "backgrounds", "psf", "psf_radius",
    },
    "Search": {"model", *SEARCH, "region", "seed"},
}  # fmt: skip

_COMMON = [
    click.option("--overwrite", is_flag=True, help="Replace outputs that exist."),
    click.option("--quiet", is_flag=True, help="Print only warnings and errors."),
    click.option("--debug", is_flag=True, expose_value=False,
                 help="Show the log, and the traceback of an error."),
]  # fmt: skip


def options(*own):
    """Return a decorator that adds the options of a command and those that all commands have."""

    def decorate(function):
        for option in reversed([*own, *_COMMON]):
            function = option(function)
        return function

    return decorate


def companions(psf, psf_radius, backgrounds, energy_range):
    """Options of `astro_unetloc.read_map` from those of the command line."""
    if None not in (psf, psf_radius):
        raise click.UsageError("--psf and --psf-radius exclude each other; got both; drop one")
    parts = {"background": list(backgrounds) or None, "energy_range": energy_range or None}
    return parts | {"psf": psf if psf_radius is None else psf_radius}


def checked_paths(outputs, maps, inputs, overwrite):
    """Paths of the catalogue files, after a check that all outputs can be written."""
    from astro_unetloc import files
    from astro_unetloc.catalog.write import check_outputs, output_paths

    if "-" in outputs and sys.stdout is None:
        raise click.UsageError("-o - prints on stdout, which is closed; name a file")
    paths = output_paths([path for path in outputs if path != "-"])
    check_outputs(paths, overwrite=overwrite, inputs=inputs)
    files.check_outputs([*paths, *maps], overwrite=overwrite, inputs=inputs)
    return paths


def print_catalog(outputs, catalog):
    """Print a catalogue on stdout if one of the outputs is -: for reading, or ECSV for a pipe."""
    from astro_unetloc.catalog.write import format_catalog

    if "-" in outputs and sys.stdout.isatty():
        print_sources(catalog)
    elif "-" in outputs:
        click.get_binary_stream("stdout").write(format_catalog(catalog, ".ecsv"))


def print_sources(table, *, n_shown=None, frame="icrs", err=False):
    """Print the sources of a catalogue, all or the first ones, for reading."""
    from astro_unetloc.catalog.table import summary_table

    summary = summary_table(table, frame=frame)
    kept = summary[:n_shown]
    sides = ["<" if name in _TEXT_COLUMNS else ">" for name in kept.colnames]
    lines = kept.pformat(max_lines=-1, max_width=-1, align=sides) if len(kept) else []
    for line in lines:
        click.echo(line.rstrip(), err=err)
    if len(kept) < len(summary):
        n_all = f"{len(summary):,} sources"
        print_message(f"{len(kept)} of {n_all}; 'astro-unetloc show CATALOG --all' prints all")


def given_options(context):
    """Names of the parameters that stand on the command line."""
    source = context.get_parameter_source
    return {name for name in context.params if source(name) is ParameterSource.COMMANDLINE}


def check_kind(context, kind, options_of):
    """Refuse options of other kinds of run; ``options_of`` maps each kind to its parameters."""
    given, values = given_options(context), context.params
    if "variant" in given and not values["template"]:
        raise click.UsageError(
            "--variant chooses among the templates of --template FILE; got "
            f"{values['variant']!r} without a file; give the file too"
        )
    wrong = sorted(given & set().union(*options_of.values()) - options_of[kind])
    if wrong:
        flags = {parameter.name: parameter.opts[-1] for parameter in context.command.params}
        kinds = " or ".join(other for other, names in options_of.items() if wrong[0] in names)
        raise click.UsageError(
            f"{', '.join(flags[name] for name in wrong)} cannot go with {kind}; "
            f"{flags[wrong[0]]} goes with {kinds}"
        )


def sky_cone(region, frame):
    """Centre and radius from the three words of --region; None if the option is not given."""
    if not region:
        return None
    from astropy.coordinates import SkyCoord

    try:
        lon, lat, radius = map(_angle, region)
        if not 0 < radius.to_value("deg") <= 180:
            raise ValueError(f"a radius of {radius}")
        return SkyCoord(lon, lat, frame=frame), radius
    except (TypeError, ValueError) as err:
        raise click.UsageError(
            f"--region must be a longitude, a latitude and a radius, such as 83.6 22 5 or "
            f"83.6deg 22deg 30arcmin; got {' '.join(region)} ({err})"
        ) from err
