"""Write the tables of columns and flags into ``columns.rst``: ``python docs/tables.py``.

A code host shows the page as it stands, so that the tables stand in it.
"""

import re
from pathlib import Path

from astro_unetloc.catalog import columns

PAGE = Path(__file__).parent / "columns.rst"


def list_table(head, rows, widths):
    """Return reStructuredText of a table; each cell is one line."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [head, *rows]:
        lines += [f"   {'*' if i == 0 else ' '} - {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def columns_table(specs):
    """Return the table of column specifications."""
    rows = [
        (f"``{c.name}``", c.unit, f"``{c.dtype}``" + " per band" * c.per_band,
         f"``{c.ucd}``" if c.ucd else "", c.description)
        for c in specs
    ]  # fmt: skip
    return list_table(("name", "unit", "type", "UCD", "description"), rows, "18 10 7 28 37")


def flags_table(flags):
    """Return the table of the bits of ``Flags``."""
    rows = [(str(bit), f"``{name}``", text) for name, (bit, text) in flags.items()]
    return list_table(("bit", "name", "meaning"), rows, "10 25 65")


def tables():
    """Return the tables of the page, by name."""
    return {
        "columns": columns_table(columns.COLUMNS),
        "flags": flags_table(columns.FLAGS),
        "columns of matches": columns_table(columns.MATCH_COLUMNS),
        "columns of limits": columns_table(columns.LIMIT_COLUMNS),
        "columns of variability": columns_table(columns.VARIABILITY_COLUMNS),
        "columns of light curves": columns_table(columns.LIGHT_CURVE_COLUMNS),
    }


def with_tables(text):
    """Return the text of the page with its tables, each between two comments, renewed."""
    for name, table in tables().items():
        start, end = f".. {name}, written by tables.py\n", f"\n.. end of {name}\n"
        pattern = re.compile(f"({re.escape(start)}\n).*?({re.escape(end)})", re.DOTALL)
        text, n_found = pattern.subn(lambda match, new=table: match[1] + new + match[2], text)
        if n_found != 1:
            raise ValueError(f"expected one table {name!r} in {PAGE.name}; got {n_found}")
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
