"""Warnings and refusals: how the package speaks of what it was given.

`UnetlocWarning` derives from `astropy.utils.exceptions.AstropyUserWarning`; astropy is imported
when the first warning is given or the class is asked for, so that this module costs nothing.
"""

import warnings

__all__ = ["UnetlocWarning", "is_refusal", "warn"]


def __getattr__(name):
    """Make `UnetlocWarning` on first use (PEP 562)."""
    if name != "UnetlocWarning":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from astropy.utils.exceptions import AstropyUserWarning

    doc = "Something about a map, a model or a result that the user should know."
    body = {"__doc__": doc, "__module__": __name__}
    return globals().setdefault(name, type(name, (AstropyUserWarning,), body))


def warn(message, stacklevel=3):
    """Give a `UnetlocWarning` of one line."""
    category = globals().get("UnetlocWarning") or __getattr__("UnetlocWarning")
    warnings.warn(message, category, stacklevel=stacklevel)


def is_refusal(error):
    """Whether an exception says that an input cannot be used, rather than being a fault of ours.

    Errors of the operating system are; of the others those that the package itself raised, not
    those of something that failed inside.
    """
    if isinstance(error, OSError):
        return True
    innermost = error.__traceback__
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    module = innermost.tb_frame.f_globals.get("__name__", "")
    return isinstance(error, ValueError | TypeError) and module.startswith("astro_unetloc")
