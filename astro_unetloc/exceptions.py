"""Warnings and errors of the package."""

import warnings

from astropy.utils.exceptions import AstropyUserWarning


class UnetlocWarning(AstropyUserWarning):
    """A property of a map, a model or a result that the user should know."""


class InputError(ValueError):
    """An input that cannot be used; the message says what was expected, what came, what to do."""


def warn(message, stacklevel=3):
    """Issue a `UnetlocWarning` of one line."""
    warnings.warn(message, UnetlocWarning, stacklevel=stacklevel)
