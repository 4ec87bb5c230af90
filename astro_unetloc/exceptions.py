"""Warnings and errors of the package."""

import warnings

from astropy.utils.exceptions import AstropyUserWarning


class UnetlocWarning(AstropyUserWarning):
    """A property of a map, a model or a result that the user should know."""


class InputError(ValueError):
    """An input that cannot be used; the message says what was expected, what came, what to do."""


def counted(n, noun, plural=None):
    """Return a number with its noun, such as "1 source" and "2,345 sources"."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def warn(message, stacklevel=3):
    """Issue a `UnetlocWarning` of one line."""
    warnings.warn(message, UnetlocWarning, stacklevel=stacklevel)
