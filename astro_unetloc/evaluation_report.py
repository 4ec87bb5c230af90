"""Evaluation report: what a run found as words, tables, figures and pictures of cases."""

import os
import re
from pathlib import Path

import numpy as np

from astro_unetloc.comparison import compare, compare_words
from astro_unetloc.export import check_place
from astro_unetloc.judgement import score_words
from astro_unetloc.prediction_files import read_case, worst_patches
from astro_unetloc.score_figures import draw, draw_case
from astro_unetloc.score_page import write_report
from astro_unetloc.score_tables import all_tables, false_alarms, summary_table

__all__ = ["check_folder", "report_tables", "report_words", "summary_lines", "write_evaluation"]

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
        As `astro_unetloc.export.check_outputs`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        check_place(folder)
        return
    for name in _FINISHED:
        check_place(folder / name, overwrite=overwrite)


def summary_lines(run, table=None):
    """The scores, a line for each part of the sky.

    Parameters
    ----------
    run : EvaluationRun
        The run.
    table : QTable, optional
        Its `astro_unetloc.score_tables.summary_table`, if that is known.

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
        As `astro_unetloc.score_tables.all_tables`, "source_free" for the false alarms of a sky
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
