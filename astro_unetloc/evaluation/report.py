"""Report of an evaluation: a page that loads nothing else, with tables and figures as files."""

import base64
import io
import json
import os
import re
from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc import __version__
from astro_unetloc.evaluation.classes import class_line
from astro_unetloc.evaluation.comparison import compare, comparison_lines
from astro_unetloc.evaluation.figures import draw, draw_example, unit_text
from astro_unetloc.evaluation.metrics import all_tables, false_positives
from astro_unetloc.evaluation.predictions import read_example, worst_patches
from astro_unetloc.evaluation.truth import summary_line
from astro_unetloc.files import check_output, write_files
from astro_unetloc.report import render

_PNG_DPI, _CSS_DPI = 150, 96
_LISTS = list | tuple | range | np.ndarray
_MAX_ROWS = 40  # longer tables are folded
# Each of these files shows that the folder holds a finished report.
_FINISHED = ("index.html", "scores.json", "predictions.h5")


def check_folder(folder, *, overwrite=False):
    """Raise an error unless a report can be written into a folder; call it before the run."""
    folder = Path(folder)
    for path in [folder / name for name in _FINISHED] if folder.is_dir() else [folder]:
        check_output(path, overwrite=overwrite and folder.is_dir())


def report_tables(run):
    """Every table of a run: all of the metrics, "source_free" and "comparison"."""
    tables = all_tables(run.matches, threshold=run.threshold)
    if run.source_free is not None:
        table = tables["source_free"] = false_positives(run.source_free.select(run.threshold))
        table.meta["title"] = "False positives on a sky without sources"
        about = "Detections listed on a simulated sky of diffuse emission alone, and their number"
        table.meta["about"] = f"{about} per 100 square degrees."
    if run.baseline is not None:
        thresholds = run.threshold, run.baseline_threshold
        tables["comparison"] = compare(run.matches, run.baseline, thresholds=thresholds)
    return tables


def report_paragraphs(run, tables=None):
    """Main results of a run in words, paragraphs of lines; of `report_tables` if they are given."""
    tables, lines = tables or report_tables(run), []
    names = ("N_True", "N_Listed", "Completeness", "Purity", "Average_Precision")
    for row in tables["summary_table"]:
        offset_deg = row["Median_Offset"].to_value("deg")
        lines.append(f"{row['Sky']:<14}{summary_line(*(row[n] for n in names), offset_deg)}")
    expected = [
        f"{row['Sky']:<14}{row['N_Real']} of {row['N_Listed']} detections are real, "
        f"{row['Expected']:.1f} were expected (sum of Score)"
        for row in tables["expected_numbers"]
        if row["Expected"] > 0
    ]
    paragraphs = [lines, expected] if expected else [lines]
    if len(tables["class_scores"]):
        paragraphs.append([class_line(row) for row in tables["class_scores"]])
    if "source_free" in tables:
        row = tables["source_free"][0]
        text = f"A sky without sources: {row['N_False']} false positives, "
        paragraphs.append([text + f"{row['Per_100_Deg2']:.2f} per 100 square degrees"])
    if "comparison" in tables:
        lines = comparison_lines(tables["comparison"])
        paragraphs.append([f"Compared with {run.baseline_name}:", *lines])
    return paragraphs


def write_evaluation(run, folder, *, codes=(), n_examples=6, command="", overwrite=False):
    """Write the report of a run: page, tables, figures, ``scores.json``, examples, predictions.

    Parameters
    ----------
    run : EvaluationRun
        The run; its checkpoints are removed.
    folder : str or path
        Folder of the report; it is made if its parent exists.
    codes : sequence of str
        Codes of patches to show besides the worst ones.
    n_examples : int
        Number of patches to show, those with most false positives and negatives.
    command : str
        The command of the run.
    overwrite : bool
        Whether the files of a former report may be replaced or removed.

    Returns
    -------
    paths : list of Path
        The files, the page last.
    paragraphs : list of list of str
        See `report_paragraphs`.
    """
    folder, tables = Path(folder), report_tables(run)
    paragraphs = report_paragraphs(run, tables)
    contents, pictures = {}, {}
    for name, table in tables.items():
        contents[f"{name}.ecsv"] = partial(table.write, format="ascii.ecsv")
        figure = draw("false_positives" if name == "source_free" else name, table)
        if figure is not None:
            pictures[name] = _picture(figure)
            contents[f"{name}.png"] = pictures[name]["png"]
    examples = _examples(run, codes, n_examples)
    contents |= {f"case-{example['code']}.png": example["png"] for example in examples}
    predictions = [] if run.predictions is None else [run.predictions.name]
    metadata = ({"command": command} if command else {}) | run.metadata
    metadata["threshold"] = run.threshold if np.isfinite(run.threshold) else "none"
    content = {
        "title": "Evaluation",
        # lines are aligned in columns on the terminal
        "about": re.sub(" {2,}", ": ", "\n\n".join("\n".join(lines) for lines in paragraphs)),
        "creator": f"astro_unetloc {__version__}",
        "meta": metadata,
        "files": [*contents, *predictions, "scores.json", "index.html"],
    }
    values = content | {"tables": {name: _json_table(t) for name, t in tables.items()}}
    contents["scores.json"] = json.dumps(_plain(values), indent=1, allow_nan=False).encode() + b"\n"
    contents["index.html"] = _page(content, tables, pictures, examples).encode()
    former = _former_files(folder) if overwrite else []
    folder.mkdir(exist_ok=True)
    paths = write_files({folder / n: c for n, c in contents.items()}, overwrite=overwrite)
    if predictions:
        os.replace(run.predictions, folder / predictions[0])
        paths.insert(0, folder / predictions[0])
    for name in set(former) - set(content["files"]):
        (folder / name).unlink(missing_ok=True)
    run.remove_checkpoints()
    return paths, paragraphs


def _former_files(folder):
    """Names of the files of the report in a folder, as its ``scores.json`` lists them."""
    try:
        content = json.loads((folder / "scores.json").read_bytes())
        names = map(str, content["files"] if "astro_unetloc" in content["creator"] else [])
    except (OSError, ValueError, TypeError, KeyError):
        return []
    # a path in the list could lead out of the folder
    return [name for name in names if re.fullmatch(r"[\w-]+\.(ecsv|png|json|html|h5)", name)]


def _examples(run, codes, n):
    if run.predictions is None:
        return []
    examples, worst = [], worst_patches(run.predictions, n, threshold=run.threshold)
    for code in dict.fromkeys([*codes, *worst]):
        example = read_example(run.predictions, code)
        sources, found = example["sources"], example["found"]
        score = sources["score"][sources["truth_class"] == b"counted"]
        is_false = (found["score"] >= run.threshold) & (found["status"] == b"false positive")
        about = f"{np.sum(score >= run.threshold)} of {len(score)} true sources found, "
        about += f"{is_false.sum()} false positives"
        figure = draw_example(example, threshold=run.threshold, about=about)
        examples.append({"code": code, "about": about} | _picture(figure))
    return examples


def _picture(figure):
    """PNG of a figure, and what the page needs of it."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_PNG_DPI, facecolor="white")
    width, height = (round(inches * _CSS_DPI) for inches in figure.get_size_inches())
    uri = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return {"png": stream.getvalue(), "uri": uri, "width": width, "height": height}


def _values(column):
    return np.asarray(getattr(column, "value", column)).tolist()


def _json_table(table):
    """Title, text, metadata and columns with their units of a table."""
    meta, columns = dict(table.meta), {}
    for name, column in table.items():
        columns[name] = {"unit": str(column.unit or "") or None, "values": _values(column)}
    texts = {key: meta.pop(key) for key in ("title", "about")}
    return texts | {"meta": meta, "columns": columns}


def _plain(value):
    """Values that JSON knows; NaN and infinity are null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, _LISTS):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, int | float) else str(value)


def _page(content, tables, pictures, examples):
    """The page as HTML."""
    sections = [
        {"name": name, "picture": pictures.get(name)} | _shown_table(table)
        for name, table in tables.items()
    ]
    metadata = {
        key: ", ".join(map(str, value)) if isinstance(value, _LISTS) else str(value)
        for key, value in content["meta"].items()
    }
    return render(
        "scores.html", content, paragraphs=content["about"].split("\n\n"), metadata=metadata,
        sections=sections, examples=examples, max_rows=_MAX_ROWS,
    )  # fmt: skip


def _shown_table(table):
    """Heads and rows of a table as text; intervals are shown in the cells of their fractions."""
    heads, columns = [], []
    intervals = {name for name in table.colnames if f"{name}_Low" in table.colnames}
    ends = {f"{name}_{end}" for name in intervals for end in ("Low", "High")}
    for name in (name for name in table.colnames if name not in ends):
        kind = "number" if table[name].dtype.kind in "fiu" else "text"
        label = name.replace("N_", "N\N{NO-BREAK SPACE}").replace("_", " ")
        heads.append({"name": label, "unit": unit_text(table[name].unit), "kind": kind})
        values, notes = _values(table[name]), [""] * len(table)
        style = _number_format(values, is_edge=name in ("Low", "High"))
        if name in intervals:
            low, high = (_values(table[f"{name}_{end}"]) for end in ("Low", "High"))
            notes = [f"{_text(a, style)}–{_text(b, style)}" * (a == a) for a, b in zip(low, high)]
        columns.append([(_text(value, style), note) for value, note in zip(values, notes)])
    texts = {name: table.meta[name] for name in ("title", "about")}
    return texts | {"heads": heads, "rows": list(zip(*columns))}


def _number_format(values, *, is_edge):
    """Format of the numbers of a column: three digits of the largest, the same for all."""
    numbers = [abs(v) for v in values if isinstance(v, float) and np.isfinite(v)]
    top = max(numbers, default=0.0)
    if top < 1e6 and all(number.is_integer() for number in numbers):
        return ".0f"
    if is_edge or top < 1e-3 or top >= 1e6:
        return ".4g" if is_edge else ".2e"
    return f"z.{int(np.clip(3 - np.ceil(np.log10(top)), 0, 6))}f"


def _text(value, style):
    if not isinstance(value, float):
        return str(value)
    if np.isnan(value):
        return "\N{EN DASH}"
    return f"{value:{style}}" if np.isfinite(value) else str(value).replace("inf", "\N{INFINITY}")
