"""The command ``evaluate``: it takes the options, runs the evaluation and says what came of it."""

import shlex
import sys
from pathlib import Path

import click

from astro_unetloc.options import check_variant, flags, given, options
from astro_unetloc.terminal import progress_bar, say

__all__ = ["evaluate"]

# Options that say something of one way to evaluate, and nothing of the others.
_OF_SKIES = ("skies", "seed", "years", "template", "variant", "energy_range")
_OF_SETS = ("data", "all_skies")
_OF_CATALOGS = ("catalog", "truth")


@click.command()
@options(
    click.option("--model", metavar="NAME|FOLDER", help="A shipped model or a model folder."),
    click.option("--skies", type=click.IntRange(1), default=1, show_default=True,
                 help="Whole skies to simulate."),
    click.option("--seed", default=2000, type=click.IntRange(min=0), show_default=True,
                 help="Seed of the first sky; the next ones follow. Shipped models were trained on "
                 "seeds below 1000 and tuned on those below 2000."),
    click.option("--years", type=float, default=7.0, show_default=True, help="Time observed."),
    click.option("--template", type=click.Path(), help="HEALPix table of interstellar templates."),
    click.option("--variant", default="P6V11", show_default=True, help="Set of --template."),
    click.option("--energy-range", nargs=2, metavar="EMIN EMAX",
                 help="Only photons of these energies: quantities, or numbers in GeV.  [default: "
                 "those of the model]"),
    click.option("--data", type=click.Path(), metavar="SET.h5",
                 help="Instead of skies: a patch set; only skies to validate on are taken."),
    click.option("--all-skies", is_flag=True,
                 help="Of a patch set: take the skies that a model may be trained on too."),
    click.option("--catalog", type=click.Path(),
                 help="Instead of skies: a catalogue, with --truth."),
    click.option("--truth", type=click.Path(), help="True sources of the sky of --catalog."),
    click.option("--threshold", type=float, metavar="P",
                 help="Smallest Score listed.  [default: that of the model; of a catalogue all]"),
    click.option("--against", metavar="MODEL|CATALOG",
                 help="Compare with another model, or of --catalog another catalogue."),
    click.option("-o", "--output", "folder", type=click.Path(),
                 help="Folder for tables, figures, page (index.html), scores.json, pictures of "
                 "cases and predictions.h5."),
    click.option("--patches", "n_patches", type=click.IntRange(1), default=1000, show_default=True,
                 help="Patches of predictions.h5 (with -o); of a set those that are searched."),
    click.option("--case", "codes", multiple=True, metavar="CODE",
                 help="Show this patch too, such as sky002000-p123; may be given again."),
)  # fmt: skip
@click.pass_context
def evaluate(context, folder, threshold, codes, overwrite, quiet, debug, **chosen):
    """Score a model on simulated skies or patches that it has never seen, or a catalogue.

    With -o a killed run goes on where it was when the same is run again.
    """
    from astro_unetloc.evaluation_report import check_folder, report_words, write_evaluation
    from astro_unetloc.workplace import Workplace

    _check_ways(context, chosen, folder, codes)
    place = Workplace()
    if folder:
        check_folder(folder, overwrite=overwrite)
        if not chosen["catalog"]:
            place = Workplace(Path(folder) / ".unetloc-parts", overwrite)
    run = _run(threshold=threshold, codes=codes, place=place, quiet=quiet, **chosen)
    if not folder:
        _echo(report_words(run, {}))
        return
    command = shlex.join(["astro-unetloc", *sys.argv[1:]])
    paths, words = write_evaluation(run, folder, codes=codes, command=command, overwrite=overwrite)
    place.clear()
    _echo(words)
    say(f"{len(paths)} files -> {paths[-1]}", quiet)


def _echo(paragraphs):
    for line in (line for lines in paragraphs for line in lines):
        click.echo(line)


def _check_ways(context, chosen, folder, codes):
    """Refuse options of two ways to evaluate at once."""
    chosen_names = given(context)
    ways = {"--data": _OF_SETS, "--catalog": _OF_CATALOGS, "--skies": _OF_SKIES}
    way = next((way for way, of in ways.items() if chosen[of[0]] and way != "--skies"), "--skies")
    allowed = {*ways[way], *(() if way == "--catalog" else ("model", "n_patches", "codes"))}
    others = {"model", "n_patches", "codes"}.union(*ways.values()) - allowed
    wrong = flags(context, chosen_names & others)
    if wrong:
        raise click.UsageError(
            f"{', '.join(wrong)} cannot go with {way}"
            if way != "--skies"
            else f"{', '.join(wrong)} goes with {_wanted(wrong[0])}, which is not given"
        )
    check_variant(chosen_names, **chosen)
    if way == "--catalog" and not chosen["truth"]:
        raise click.UsageError("--catalog goes with --truth TABLE; give the true sources")
    if codes and not folder:
        raise click.UsageError("--case goes with -o FOLDER, where its picture is written; give it")
    if "n_patches" in chosen_names and way == "--skies" and not folder:
        raise click.UsageError("--patches goes with -o FOLDER or --data SET.h5; give one")


def _wanted(option):
    return "--catalog CATALOG" if option == "--truth" else "--data SET.h5"


def _run(
    *, model, skies, seed, years, template, variant, energy_range, data, all_skies, catalog, truth,
    threshold, against, n_patches, codes, place, quiet,
):  # fmt: skip
    """The run that was asked for."""
    from astro_unetloc import evaluation_run

    common = {"threshold": threshold, "against": against}
    if catalog:
        return evaluation_run.run_on_catalog(catalog, truth, **common)
    common |= {
        "model": model, "n_patches": n_patches, "codes": codes, "place": place,
        "progress": progress_bar(quiet),
    }  # fmt: skip
    if data:
        return evaluation_run.run_on_set(data, all_skies=all_skies, **common)
    return evaluation_run.run_on_skies(
        seeds=range(seed, seed + skies), years=years, template=template, variant=variant,
        energy_range=energy_range or None, source_free=place.folder is not None, **common,
    )  # fmt: skip
