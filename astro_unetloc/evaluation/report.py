"""A page that shows an evaluation, and the files beside it: tables, figures, JSON.

The page asks nothing of the network: pictures, style and script are inside, and its policy forbids
the rest.

Evaluation report: what a run found as words, tables, figures and pictures of cases.
"""

import base64
import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astro_unetloc import __version__
from astro_unetloc.catalog.write import format_catalog
from astro_unetloc.evaluation.figures import draw, draw_case, unit_text
from astro_unetloc.evaluation.metrics import (
    all_tables,
    compare,
    compare_words,
    false_alarms,
    summary_table,
)
from astro_unetloc.evaluation.runs import read_case, worst_patches
from astro_unetloc.evaluation.truth import score_words
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import check_output, write_files

__all__ = [
    "check_folder",
    "report_tables",
    "report_words",
    "summary_lines",
    "write_evaluation",
    "write_report",
]


_PAGES = Path(__file__).parents[1] / "data" / "pages"


_DPI, _CSS_DPI = 150, 96


# Longer tables are folded, and left out of print.
_LONGEST = 40


# What files of a report are called.
_FILE_NAME = r"[A-Za-z0-9_-]+\.(ecsv|png|json|html|h5)"


_UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True)
class _Picture:
    """A figure inside the page."""

    png: bytes
    width: int
    height: int
    alt: str

    @property
    def uri(self):
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class _Cell:
    """What a cell says, what it is sorted by (empty if unknown), and its interval."""

    text: str
    value: str
    note: str = ""


def write_report(
    folder, tables, figures, *, cases=(), meta, about, title="Evaluation", more=(), overwrite=False
):
    """Write the tables, the figures, a JSON of all numbers and the page: all files or none.

    Parameters
    ----------
    folder : str or path-like
        Where the files go; it is made if its parent exists. ``<name>.ecsv`` for each table,
        ``<name>.png`` for each figure, ``case-<code>.png`` for each case, ``scores.json`` and
        ``index.html``.
    tables : dict of str to QTable
        Tables by name; ``meta["title"]`` and ``meta["about"]`` stand above them. Columns ``X_Low``
        and ``X_High`` are shown as the interval of ``X``.
    figures : dict of str to matplotlib.figure.Figure or None
        Figures by the name of their table; None is left out.
    cases : iterable of (str, matplotlib.figure.Figure) or (str, Figure, str)
        Pictures of patches: code name, picture and what there is to see.
    meta : dict
        What was run: model, seeds, command, versions. In the JSON as it is, on the page as text.
    about : str
        Summary in words; empty lines part paragraphs.
    title : str
        Title of the page.
    more : iterable of str
        Names of other files of the report in the folder, which are not written here.
    overwrite : bool
        Whether files that exist may be replaced. Those of the report before, as ``files`` of its
        ``scores.json`` names them, are removed if this one has no such file.

    Returns
    -------
    list of Path
        The files written, the page last.

    Raises
    ------
    ValueError
        If a name cannot be that of a file, or two are the same.
    FileNotFoundError, FileExistsError, PermissionError
        If the files cannot be put there; see `astro_unetloc.files.check_output`.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc.evaluation.report import write_report
    >>> table = QTable({"Sky": ["all sky"], "Completeness": [0.91]}, meta={"title": "Summary"})
    >>> about = "91 % of the sources were found."
    >>> write_report("scores", {"summary": table}, {}, meta={}, about=about)  # doctest: +SKIP
    [PosixPath('scores/summary.ecsv'), PosixPath('scores/scores.json'), ...]
    """
    folder = Path(folder)
    figures = {name: figure for name, figure in figures.items() if figure is not None}
    pictures = {name: _picture(fig, _alt(tables.get(name), name)) for name, fig in figures.items()}
    cases = [_case_block(*case) for case in cases]
    contents = {f"{_checked(n)}.ecsv": format_catalog(t, ".ecsv") for n, t in tables.items()}
    contents |= {f"{_checked(name)}.png": picture.png for name, picture in pictures.items()}
    for case in cases:
        name = f"case-{re.sub('[^A-Za-z0-9_-]', '_', case['code'])}.png"
        if name in contents:
            raise InputError(f"each case must have a name of its own; got {name!r} twice; drop one")
        contents[name] = case["picture"].png
    files = [*contents, "scores.json", "index.html", *more]
    contents["scores.json"] = _json_bytes(title, about, meta, tables, files)
    contents["index.html"] = _page(title, about, meta, tables, pictures, cases).encode()
    former = _former(folder) if overwrite else []
    paths = _write(folder, contents, overwrite)
    for name in set(former) - set(files):
        (folder / name).unlink(missing_ok=True)
    return paths


def _former(folder):
    """Names of the files of the report that a folder holds; nothing else may be removed."""
    try:
        content = json.loads((folder / "scores.json").read_bytes())
        is_ours = str(content["creator"]).startswith("astro_unetloc ")
        names = [str(name) for name in content["files"]] if is_ours else []
    except (OSError, ValueError, TypeError, KeyError):
        return []
    # a path in the list could lead out of the folder
    plain = [name for name in names if re.fullmatch(_FILE_NAME, name)]
    return [name for name in plain if not (folder / name).is_dir()]


def _checked(name):
    """The name of a table or figure, if a file can be called so."""
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
        raise InputError(f"names must be of letters, digits and _; got {name!r}; rename it")
    return name


def _write(folder, contents, overwrite):
    """Write files into a folder; no new folder is left behind if that fails."""
    fresh = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        for name in contents:
            check_output(folder / name, overwrite=overwrite)
        contents = {folder / name: content for name, content in contents.items()}
        return write_files(contents, overwrite=overwrite)
    except BaseException:
        if fresh:
            folder.rmdir()
        raise


def _alt(table, name):
    """What a figure shows, for those who do not see it."""
    if table is None:
        return f"Figure: {_words(name)}."
    about = table.meta.get("about", "")
    return f"Figure: {_title(name, table)}. {about} The numbers are in the table.".replace(
        "  ", " "
    )


def _picture(figure, alt):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, facecolor="white")
    width, height = (round(inches * _CSS_DPI) for inches in figure.get_size_inches())
    return _Picture(stream.getvalue(), width, height, alt)


def _case_block(code, figure, about=""):
    alt = f"Patch {code}: counts, mask, probability, true and found sources. {about}".strip()
    return {"code": str(code), "about": about, "picture": _picture(figure, alt)}


def _words(name):
    return name.replace("_", " ")


def _title(name, table):
    return str(table.meta.get("title") or _words(name).capitalize())


def _json_bytes(title, about, meta, tables, files):
    """All tables, files and what made them; NaN and infinity, unknown to JSON, are null."""
    content = {
        "title": title,
        "about": about,
        "creator": f"astro_unetloc {__version__}",
        "meta": _plain(meta),
        "files": files,
        "tables": {name: _json_table(name, table) for name, table in tables.items()},
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _json_table(name, table):
    rest = {key: value for key, value in table.meta.items() if key not in ("title", "about")}
    columns = {
        column: {"unit": _unit(table[column]) or None, "values": _plain(_column(table, column))}
        for column in table.colnames
    }
    about = str(table.meta.get("about", ""))
    return {
        "title": _title(name, table), "about": about, "meta": _plain(rest), "columns": columns
    }  # fmt: skip


def _column(table, name):
    """Values of a column as a list, None where it is masked."""
    column = table[name]
    bare = getattr(column, "unmasked", column)
    bare = np.ma.getdata(getattr(bare, "value", bare))
    mask = np.broadcast_to(getattr(column, "mask", False), len(bare))
    return [None if hidden else value for value, hidden in zip(bare.tolist(), mask)]


def _unit(column):
    return str(getattr(column, "unit", None) or "")


def _plain(value):
    """What JSON knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range | np.ndarray):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else _text(value)


def _text(value):
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _page(title, about, meta, tables, pictures, cases):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_PAGES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = (
        (_PAGES / name).read_text(encoding="utf-8") for name in ("scores.css", "sorting.js")
    )
    return environment.get_template("scores.html").render(
        title=title,
        about=[part.strip() for part in re.split(r"\n\s*\n", about) if part.strip()],
        meta={key: _said(value) for key, value in meta.items()},
        sections=[_section(name, tables, pictures) for name in dict.fromkeys([*tables, *pictures])],
        cases=cases,
        longest=_LONGEST,
        style=style,
        script=script,
        policy=_policy(style, script),
        generator=f"astro_unetloc {__version__}",
    )


def _policy(style, script):
    """The pictures, style and script inside the page, and nothing else, may be loaded or run."""
    style, script = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src {style}; script-src {script}; "
        "base-uri 'none'; form-action 'none'"
    )


def _said(value):
    """A value of the provenance as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(item)}" for key, item in value.items())
    if isinstance(value, list | tuple | range | np.ndarray):
        return ", ".join(_said(item) for item in value)
    return _text(value)


def _section(name, tables, pictures):
    table = tables.get(name)
    return {
        "name": _checked(name),
        "title": _words(name).capitalize() if table is None else _title(name, table),
        "about": "" if table is None else str(table.meta.get("about", "")),
        "picture": pictures.get(name),
        "table": None if table is None else _shown(table),
    }


def _shown(table):
    """Heads and rows of cells of a table, intervals folded into the cells of their share."""
    names = set(table.colnames)
    shares = {name for name in names if {f"{name}_Low", f"{name}_High"} <= names}
    folded = {f"{name}_{end}" for name in shares for end in ("Low", "High")}
    heads, columns = [], []
    for name in (name for name in table.colnames if name not in folded):
        column = table[name]
        kind = "number" if column.dtype.kind in "fiu" else "text"
        about = column.info.description or ""
        unit = unit_text(column.unit) if _unit(column) else ""
        heads.append(
            {
                "name": _words(name).replace("N ", "N\N{NO-BREAK SPACE}"),
                "unit": unit,
                "kind": kind,
                "about": about,
            }
        )
        columns.append(_cells(table, name, name in shares))
    return {"heads": heads, "rows": list(zip(*columns))}


def _cells(table, name, has_interval):
    values = _column(table, name)
    say = _formatter(values, is_edge=name in ("Low", "High"))
    notes = [""] * len(values)
    if has_interval:
        low, high = (_column(table, f"{name}_{end}") for end in ("Low", "High"))
        notes = [f"{say(a)}\N{EN DASH}{say(b)}" if _known(a) else "" for a, b in zip(low, high)]
    return [_Cell(say(value), _key(value), note) for value, note in zip(values, notes)]


def _known(value):
    return value is not None and value == value


def _key(value):
    """What a cell is sorted by, as JavaScript reads numbers; empty if unknown."""
    if not _known(value):
        return ""
    return _text(value).replace("inf", "Infinity") if isinstance(value, float) else _text(value)


def _formatter(values, *, is_edge):
    """A function that rounds the values of a column: to three digits of the largest, all alike,
    but for those that would keep less than two digits.
    """
    numbers = [v for v in values if isinstance(v, float) and np.isfinite(v)]
    top = max(map(abs, numbers), default=0.0)
    n_digits = int(np.clip(3 - np.ceil(np.log10(top or 1)), 0, 6))
    style, least = f"z.{n_digits}f", 10.0 ** (1 - n_digits)
    if all(number.is_integer() for number in numbers) and top < 1e6:
        style, least = ".0f", 0.0
    elif is_edge:
        style, least = ".4g", 0.0
    elif top < 1e-3 or top >= 1e6:
        style, least = ".2e", 0.0

    def say(value):
        if not _known(value):
            return _UNKNOWN
        if not isinstance(value, float):
            return _text(value)
        if not np.isfinite(value):
            return str(value).replace("inf", "\N{INFINITY}")
        return f"{value:.2g}" if 0 < abs(value) < least else f"{value:{style}}"

    return say


# Files of which one says that there is a finished report.
_FINISHED = ("index.html", "scores.json", "predictions.h5")


# Each difference has an interval of its own, whatever their number.
_BY_CHANCE = "Of two that are alike a share of about {:.0%} of the rows is called real by chance."


def check_folder(folder, *, overwrite=False):
    """Raise now what would keep the report from being written later.

    Parameters
    ----------
    folder : str or path
        Where it is to go; made if its parent exists.
    overwrite : bool
        Whether a finished report may be replaced.

    Raises
    ------
    FileExistsError, FileNotFoundError, PermissionError
        As `astro_unetloc.files.check_output`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        check_output(folder)
        return
    for name in _FINISHED:
        check_output(folder / name, overwrite=overwrite)


def summary_lines(run, table=None):
    """The scores, a line for each part of the sky.

    Parameters
    ----------
    run : EvaluationRun
        The run.
    table : QTable, optional
        Its `astro_unetloc.evaluation.metrics.summary_table`, if that is known.

    Returns
    -------
    list of str
        Average precision is that of all candidates, the other numbers are of those listed.
    """
    if table is None:
        table = summary_table(run.judgement, threshold=run.threshold)
    names = ("N_True", "N_Listed", "Completeness", "Purity", "Average_Precision")
    offsets = table["Median_Offset"].to_value("deg")
    return [
        f"{row['Sky']:<14}{score_words(*(row[name] for name in names), offset)}"
        for row, offset in zip(table, offsets)
    ]


def report_tables(run):
    """Every table of a run.

    Parameters
    ----------
    run : EvaluationRun
        The run.

    Returns
    -------
    dict of str to QTable
        As `all_tables`, "source_free" for the false alarms of a sky
        without sources, and "comparison" if there is a rival.
    """
    tables = all_tables(run.judgement, threshold=run.threshold)
    if run.source_free is not None:
        table = false_alarms(run.source_free.select(run.threshold))
        table.meta["title"] = "False alarms on a sky without sources"
        table.meta["about"] = (
            "What is listed on a simulated sky of diffuse emission alone, and per 100 square "
            "degrees."
        )
        tables["source_free"] = table
    if run.rival is not None:
        tables["comparison"] = _comparison(run)
    return tables


def _comparison(run):
    thresholds = run.threshold, run.rival_threshold
    table = compare(run.judgement, run.rival, thresholds=thresholds)
    about = table.meta["about"]
    table.meta["about"] = f"{about} {_BY_CHANCE.format(1 - table.meta['level'])}"
    return table


def report_words(run, tables):
    """What a run says, paragraphs of lines.

    Parameters
    ----------
    run : EvaluationRun
        The run.
    tables : dict of str to QTable
        From `report_tables`, or some of them.

    Returns
    -------
    list of list of str
    """
    paragraphs = [summary_lines(run, tables.get("summary_table"))]
    if "source_free" in tables:
        row = tables["source_free"][0]
        paragraphs.append(
            [
                f"A sky without sources: {row['N_Wrong']} false alarms, "
                f"{row['Per_100_Deg2']:.2f} per 100 square degrees"
            ]
        )
    if run.rival is not None:
        table = tables["comparison"] if "comparison" in tables else _comparison(run)
        paragraphs.append([f"Against {run.rival_name}:", *compare_words(table).splitlines()])
    return paragraphs


def write_evaluation(run, folder, *, codes=(), n_cases=6, command="", overwrite=False):
    """Write the report of a run: tables, figures, JSON, page, pictures of cases, predictions.

    Parameters
    ----------
    run : EvaluationRun
        The run.
    folder : str or path
        Where the files go.
    codes : sequence of str
        Code names of patches to show besides the worst ones.
    n_cases : int
        How many of the patches with most misses and false detections are shown.
    command : str
        The command that was given.
    overwrite : bool
        Whether files that exist may be replaced, and those of the report before removed.

    Returns
    -------
    paths : list of Path
        The files, the page last.
    words : list of list of str
        See `report_words`.
    """
    folder, tables = Path(folder), report_tables(run)
    words = report_words(run, tables)
    figures = {
        name: draw("false_alarms" if name == "source_free" else name, table)
        for name, table in tables.items()
    }
    meta = {"command": command} if command else {}
    listed = run.threshold if np.isfinite(run.threshold) else "none"
    paths = write_report(
        folder, tables, figures, cases=_cases(run, codes, n_cases), overwrite=overwrite,
        more=[run.predictions.name] if run.predictions is not None else [],
        meta=meta | run.about | {"threshold": listed},
        about="\n\n".join("\n".join(map(_prose, lines)) for lines in words),
    )  # fmt: skip
    if run.predictions is not None:
        os.replace(run.predictions, folder / run.predictions.name)
        paths.insert(0, folder / run.predictions.name)
    return paths, words


def _prose(line):
    """A line that is set in columns on the terminal."""
    return re.sub(" {2,}", ": ", line)


def _cases(run, codes, n_cases):
    """Code name, picture and what there is to see of patches that are asked for and the worst."""
    if run.predictions is None:
        return []
    worst = worst_patches(run.predictions, n_cases, threshold=run.threshold)
    return [_case(run, code) for code in dict.fromkeys([*codes, *worst])]


def _case(run, code):
    case = read_case(run.predictions, code)
    sources = case.sources[case.sources["role"] != b"below"]
    found = case.found[case.found["score"] >= run.threshold]
    counted = sources["role"] == b"counted"
    n_found = int(np.sum(sources["score"][counted] >= run.threshold))
    n_wrong = int(np.sum(found["verdict"] == b"wrong"))
    about = f"{n_found} of {counted.sum()} true sources found, {n_wrong} false"
    figure = draw_case(
        case.counts, case.mask, case.probability,
        np.stack([sources["x"], sources["y"]], axis=-1),
        np.stack([found["x"], found["y"]], axis=-1),
        code=code, about=about, center=case.center[:2], roles=sources["role"].astype(str),
        radius_deg=sources["radius"], verdicts=found["verdict"].astype(str),
        pixel_deg=case.pixel_deg,
    )  # fmt: skip
    return code, figure, about
