"""What the commands share: common options, and words that become values."""

import os

import click
from click.core import ParameterSource

__all__ = ["check_apart", "check_variant", "flags", "given", "options", "sky_cone"]

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
