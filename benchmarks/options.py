"""The options of a benchmark from their names and defaults."""

import argparse


def options_of(doc, **defaults):
    """Parser of the options of a command, by name and default.

    A type stands for an option without a default, a list for several values (whole numbers if it
    is empty), False for a switch.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    for name, default in defaults.items():
        flag = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(flag, action="store_true")
        elif isinstance(default, type):
            parser.add_argument(flag, type=default)
        elif isinstance(default, list):
            kind = type(default[0]) if default else int
            parser.add_argument(flag, type=kind, nargs="*", default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default)
    return parser
