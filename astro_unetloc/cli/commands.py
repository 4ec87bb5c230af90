"""The sub-commands of the command line: each parses, calls one public function and reports.

The command ``evaluate``: it takes the options, runs the evaluation and says what came of it.
"""

import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

import click

from astro_unetloc.cli.options import (
    check_apart,
    check_variant,
    flags,
    given,
    options,
    progress_bar,
    say,
    sky_cone,
)

__all__ = ["demo", "evaluate", "match", "models", "simulate", "train"]


# What each kind of output of `simulate` takes beside its place, its seed and the template.
_OF_SKIES = {"years", "variant", "isotropic", "exposure", "psf", "energy_range", "center", "width",
             "pixel"}  # fmt: skip


_OF_KINDS = {
    "a cube (.fits, .fits.gz)": _OF_SKIES | {"truth"},
    "a folder (sky/)": _OF_SKIES | {"nside"},
    "a patch set (.h5)": {
        "skies", "patches_per_sky", "workers", "append", "by_class", "mask_radius", "min_photons",
        "min_significance", "components", "bands",
    },
}  # fmt: skip


@click.command()
@options(click.option("-o", "--output", "folder", default="astro-unetloc-demo", show_default=True,
                       type=click.Path(), help="Folder for the results."))  # fmt: skip
def demo(folder, overwrite, quiet, debug):
    """Find the sources of the example map that ships with the package."""
    from astro_unetloc.catalog.read import read_catalog
    from astro_unetloc.catalog.write import check_outputs
    from astro_unetloc.evaluation.metrics import evaluate
    from astro_unetloc.files import check_output
    from astro_unetloc.pipeline import detect
    from astro_unetloc.products import write_run

    data = Path(__file__).parents[1] / "data" / "example"
    folder = Path(folder)
    paths = [folder / f"catalog{suffix}" for suffix in (".fits", ".reg", ".png")]
    if folder.is_dir():
        check_outputs(paths, overwrite=overwrite)
    else:
        check_output(folder)
    run = detect(data / "map.fits.gz", progress=progress_bar(quiet))
    folder.mkdir(exist_ok=True)
    write_run(run, paths, overwrite=overwrite)
    say(run.report(paths), quiet)
    scores = evaluate(run.catalog, read_catalog(data / "truth.ecsv"))
    say(
        f"The example is a simulated sky: {scores.correct.sum()} of its {scores.n_true} sources "
        f"with at least 8 expected photons were found, {(~scores.correct).sum()} of the detections "
        "are false.\n"
        f"Look at it:    {paths[2]}, or: ds9 {data / 'map.fits.gz'} -regions {paths[1]}\n"
        "Your own map:  astro-unetloc map.fits -o catalog.fits\n"
        "Match it:      astro-unetloc match catalog.fits gll_psc.fit",
        quiet,
    )


@click.command()
@options(
    click.option("-o", "--output", required=True, type=click.Path(),
                 help="Counts cube (.fits, .fits.gz), patch set (.h5), or folder (sky/): events, "
                 "cubes of background and source classes apart, truth, source library."),
    click.option("--truth", type=click.Path(), help="True sources to write (.ecsv, .fits)."),
    click.option("--center", nargs=2, type=float, default=(120.0, 10.0), metavar="L B",
                 show_default=True, help="Centre of the cube, Galactic, degrees."),
    click.option("--width", type=float, default=15.0, show_default=True, help="Degrees."),
    click.option("--pixel", type=float, default=0.1, show_default=True, help="Degrees."),
    click.option("--nside", type=int, help="Of a folder: HEALPix cubes of the whole sky instead."),
    click.option("--years", type=float, default=7.0, show_default=True, help="Time observed."),
    click.option("--template", type=click.Path(), help="HEALPix table of interstellar templates."),
    click.option("--variant", default="P6V11", show_default=True, help="Set of --template."),
    click.option("--isotropic", type=click.Path(), help="Isotropic spectrum (official text)."),
    click.option("--exposure", type=click.Path(), help="Exposure cube instead of --years."),
    click.option("--psf", type=click.Path(), help="PSF table of gtpsf, not the built-in one."),
    click.option("--energy-range", nargs=2, type=float, metavar="EMIN EMAX",
                 help="GeV, between 0.3 and 2000.  [default: 10 2000]"),
    click.option("--bands", metavar="E0,E1,...",
                 help="Of a patch set: edges in GeV.  [default: 10,20,50,150,500,2000]"),
    click.option("--skies", type=click.IntRange(1),
                 help="Of a patch set: skies to simulate.  [default: 60]"),
    click.option("--components", multiple=True, type=click.Path(), metavar="FOLDER",
                 help="Of a patch set: a folder of components (-o sky/, or made elsewhere) instead "
                 "of a simulated sky; may be given again."),
    click.option("--patches-per-sky", type=click.IntRange(1), default=400, show_default=True,
                 help="Of a patch set: patches of each sky."),
    click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
                 help="Of a patch set: processes."),
    click.option("--append", is_flag=True,
                 help="Of a patch set: add skies to a finished one, up to --skies."),
    click.option("--by-class", is_flag=True,
                 help="Of a patch set: a mask for each class (AGN, PSR, GAL), not one for all."),
    click.option("--mask-radius", type=float, metavar="PIX",
                 help="Of a patch set: radius of the disc that labels a source."),
    click.option("--min-photons", type=float, metavar="N",
                 help="Of a patch set: fewest photons of a labelled source."),
    click.option("--min-significance", type=float, metavar="S",
                 help="Of a patch set: smallest significance of a labelled source."),
    click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True),
)  # fmt: skip
@click.pass_context
def simulate(context, output, overwrite, quiet, debug, **options):
    """Simulate a counts cube, a patch set to train on (-o set.h5), or a folder of products."""
    if output.endswith(("/", os.sep)) or Path(output).is_dir():
        kind, make = "a folder (sky/)", _simulate_folder
    elif output.endswith(".h5"):
        kind, make = "a patch set (.h5)", _simulate_patches
    elif output.endswith((".fits", ".fits.gz")):
        kind, make = "a cube (.fits, .fits.gz)", _simulate_cube
    else:
        raise click.UsageError(
            f"output must end in .fits, .fits.gz or .h5, or in / for a folder; got {output!r}"
        )
    _check_kind(context, kind, options)
    make(output, overwrite, quiet, **options)


def _check_kind(context, kind, options):
    """Refuse options that say nothing of the kind of output that is asked for."""
    chosen = given(context)
    wrong = (chosen & set().union(*_OF_KINDS.values())) - _OF_KINDS[kind]
    if wrong:
        first = min(wrong)
        kinds = " or ".join(name for name, of in _OF_KINDS.items() if first in of)
        raise click.UsageError(
            f"{', '.join(flags(context, wrong))} cannot go with {kind}; got "
            f"{context.params['output']!r}; {flags(context, [first])[0]} goes with {kinds}"
        )
    check_variant(chosen, **options)
    if {"years", "exposure"} <= chosen:
        raise click.UsageError("--exposure stands instead of --years; got both; drop one")
    if "nside" in chosen and chosen & {"center", "width", "pixel"}:
        raise click.UsageError(
            "--nside makes cubes of the whole sky; --center, --width and --pixel go with an image; "
            "drop them"
        )


def _sky_options(years, template, variant, isotropic, exposure, psf, energy_range, **_):
    """Options of `astro_unetloc.simulate_sky`."""
    chosen = {"energy_range": energy_range} if energy_range else {}
    return chosen | {
        "years": years, "template": template, "variant": variant, "isotropic": isotropic,
        "exposure": exposure, "psf": psf,
    }  # fmt: skip


def _simulate_folder(output, overwrite, quiet, *, center, width, pixel, nside, seed, **others):
    from astro_unetloc.simulation.files import simulate_components

    n_photons, n_sources = simulate_components(
        output, center=center, width_deg=width, pixel_deg=pixel, nside=nside, rng=seed,
        overwrite=overwrite, **_sky_options(**others),
    )  # fmt: skip
    say(f"{n_photons} photons, {n_sources} true sources -> {output}", quiet)


def _simulate_patches(
    output, overwrite, quiet, *, skies, patches_per_sky, workers, append, by_class, mask_radius,
    min_photons, min_significance, seed, template, components, bands, **_,
):  # fmt: skip
    from astro_unetloc.files import check_output
    from astro_unetloc.simulation.population import CLASSES
    from astro_unetloc.training.make import make_patch_set, process_pool
    from astro_unetloc.training.observation import TrainingConfig
    from astro_unetloc.training.patch_set import open_patch_set

    check_output(output, overwrite=True)  # an unfinished set is continued
    rule = {"mask_radius_pix": mask_radius, "min_photons": min_photons}
    rule["min_significance"] = min_significance
    rule = TrainingConfig(**{name: value for name, value in rule.items() if value is not None})
    classes = CLASSES if by_class else ("source",)
    with process_pool(workers) if workers > 1 else nullcontext() as executor:
        make_patch_set(
            output, n_skies=skies, patches_per_sky=patches_per_sky, first_seed=seed,
            template=template, folders=components, classes=classes, label_rule=rule, append=append,
            overwrite=overwrite, executor=executor, progress=progress_bar(quiet),
            **_band_edges(bands),
        )  # fmt: skip
    with open_patch_set(output) as made:
        say(f"{made.n_patches} patches of {len(made.skies)} skies -> {output}", quiet)


def _band_edges(bands):
    """Edges of the bands of a patch set as an option of `make_patch_set`."""
    if not bands:
        return {}
    try:
        return {"band_edges": tuple(float(edge) for edge in bands.split(","))}
    except ValueError as err:
        raise click.UsageError(
            f"--bands must be numbers in GeV with commas between; got {bands!r}; "
            "for example 0.5,1,2,7,20,1000"
        ) from err


def _simulate_cube(output, overwrite, quiet, *, truth, center, width, pixel, seed, **others):
    from astro_unetloc.catalog.write import check_outputs, write_outputs
    from astro_unetloc.files import check_output
    from astro_unetloc.simulation.files import counts_cube_bytes
    from astro_unetloc.simulation.sky import simulate_cube

    truths = [truth] if truth else []
    check_apart(output, truths)
    check_output(output, overwrite=overwrite)
    check_outputs(truths, overwrite=overwrite)
    *cube, sources = simulate_cube(
        center=center, width_deg=width, pixel_deg=pixel, rng=seed,
        **_sky_options(**others),
    )  # fmt: skip
    header = {"OBJECT": "simulated sky", "SEED": seed}
    if not others["exposure"]:
        header["YEARS"] = others["years"]
    content = counts_cube_bytes(*cube, keywords=header, compress=output.endswith(".gz"))
    write_outputs(sources, truths, overwrite=overwrite, others={output: content})
    counts, where = cube[0].sum(), ", ".join([output, *truths])
    say(f"{counts} photons, {len(sources)} true sources -> {where}", quiet)


@click.command()
@click.argument("patch_set", type=click.Path())
@options(
    click.option("-o", "--output", "folder", required=True, type=click.Path(),
                 help="Model folder to write; an interrupted training in it is resumed."),
    click.option("--epochs", type=click.IntRange(1), default=38, show_default=True),
    click.option("--steps-per-epoch", type=click.IntRange(1), default=200, show_default=True),
    click.option("--initial", type=click.Path(), help="A .keras file to start from."),
    click.option("--learning-rate", default=2e-3, show_default=True),
    click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True,
                 help="Patches of a step; 64 or more on a GPU."),
    click.option("--patience", type=click.IntRange(1), metavar="N",
                 help="Stop when the validation loss has not fallen for N epochs."),
    click.option("--loss", default="cross-entropy", show_default=True,
                 type=click.Choice(["cross-entropy", "weighted", "focal", "dice"])),
    click.option("--mixed-precision", is_flag=True, help="Compute in bfloat16, for recent GPUs."),
    click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True),
)  # fmt: skip
def train(patch_set, folder, seed, overwrite, quiet, debug, **options):
    """Train a model on a PATCH_SET made by 'simulate'."""
    from astro_unetloc.training.train import train as train_model

    model = train_model(
        patch_set, folder, rng=seed, verbose=0 if quiet else 2, overwrite=overwrite, **options
    )
    say(f"model -> {model.folder}", quiet)


@click.command()
@click.argument("catalog", type=click.Path())
@click.argument("references", nargs=-1, required=True, type=click.Path())
@options(
    click.option("-o", "--output", "outputs", multiple=True, metavar="OUT",
                 help="Catalogue with ASSOC columns to write."),
    click.option("--missing", type=click.Path(), metavar="FILE",
                 help="Write the sources of the first reference that are not found."),
    click.option("--counts", type=click.Path(), metavar="MAP",
                 help="The map that was searched: only sources in it; --missing has 95 % upper "
                 "limits then."),
    click.option("--exposure", type=click.Path(), help="Of --counts: its exposure, for fluxes."),
    click.option("--new", type=click.Path(), metavar="FILE",
                 help="Write the detections that the first reference does not know."),
    click.option("--candidates", type=click.Path(), metavar="FILE",
                 help="Write all pairs that may be one source, not only the best."),
    click.option("--radius", type=float,
                 help="Degrees, whatever the errors are.  [default: the error ellipses of both "
                 "decide; 0.3 where one is unknown]"),
    click.option("--min-latitude", type=float, default=0.0, show_default=True,
                 help="Only sources at this Galactic latitude or above, in degrees."),
    click.option("--region", nargs=3, metavar="LON LAT RADIUS",
                 help="Only sources in this cone (degrees or quantities, Galactic)."),
    click.option("--box", nargs=4, type=float, metavar="L B DL DB",
                 help="Only sources in this Galactic box: centre and widths in degrees."),
)  # fmt: skip
def match(catalog, references, outputs, counts, exposure, radius, min_latitude, region, box,
          overwrite, quiet, debug, **lists):  # fmt: skip
    """Match a CATALOG with one or more REFERENCES, the first one being written as ASSOC.

    A reference is a file, or a name such as 4fgl or 3fhl of a catalogue in $GAMMAPY_DATA.
    """
    from astro_unetloc.catalog.match import MATCH_RADIUS_DEG, is_known, match_catalogs
    from astro_unetloc.catalog.read import read_catalog, within_sky
    from astro_unetloc.catalog.write import check_outputs, table_bytes, write_outputs
    from astro_unetloc.maps.read import read_map

    lists = {name: path for name, path in lists.items() if path}
    if exposure and not counts:
        raise click.UsageError("--exposure goes with --counts MAP; give the map")
    inputs = [catalog, *references, *filter(None, (counts, exposure))]
    check_outputs([*outputs, *lists.values()], overwrite=overwrite, inputs=inputs)
    found, everything = read_catalog(catalog), [read_catalog(path) for path in references]
    sky = {"min_latitude_deg": min_latitude, "cone": sky_cone(region, "galactic"), "box": box}
    if counts:
        energies = _range(found, "EMIN", "EMAX")
        sky_map = sky["footprint"] = read_map(counts, energy_range=energies, exposure=exposure)
    catalog, tables = within_sky(found, **sky), [within_sky(t, **sky) for t in everything]
    results = [
        match_catalogs(catalog, table, radius=radius, surroundings=whole)
        for table, whole in zip(tables, everything)
    ]
    for path, result in zip(references, results):
        click.echo(f"{path}: {result.summary()}")
    known = is_known(catalog, everything, radius=radius).sum()
    radius = MATCH_RADIUS_DEG if radius is None else radius
    click.echo(f"{known} of {len(catalog)} detections lie within {radius:g} deg of any of them.")
    matched = results[0].apply(catalog)
    contents = {
        "missing": results[0].not_found(tables[0]),
        "new": results[0].not_known(matched),
        "candidates": results[0].candidate_table(catalog),
    }
    if counts and "missing" in lists:
        contents["missing"] = _with_limits(contents["missing"], found, sky_map)
    others = {path: table_bytes(contents[name], path) for name, path in lists.items()}
    write_outputs(matched, outputs, overwrite=overwrite, others=others)


def _range(catalog, *keys):
    """Energies that a catalogue says, GeV; None if it does not."""
    return (
        tuple(float(catalog.meta[key]) for key in keys) if set(keys) <= set(catalog.meta) else None
    )


def _with_limits(missing, found, sky_map):
    """Sources that were not found, with upper limits by the map in which others were."""
    from astro_unetloc.catalog.columns import LIMIT_COLUMNS
    from astro_unetloc.catalog.table import with_limit_columns
    from astro_unetloc.measurement.limits import upper_limits

    flux_range = _range(found, "FLUXEMIN", "FLUXEMAX")
    limits = upper_limits(sky_map, missing, sources=found, flux_range=flux_range)
    result = with_limit_columns(missing, {spec.name: limits[spec.name] for spec in LIMIT_COLUMNS})
    result.meta |= limits.meta
    return result


@click.command()
@options()
def models(overwrite, quiet, debug):
    """List the shipped models."""
    from astro_unetloc.unet.model import list_models, load_model

    for name in list_models():
        model = load_model(name)
        edges = "-".join(f"{edge:g}" for edge in model.band_edges)
        facts = f"{name}  {edges} GeV  threshold {model.threshold:g}  {model.sha256[:12]}"
        click.echo("\n    ".join([facts, *filter(None, [model.card.get("description")])]))


# Options that say something of one way to evaluate, and nothing of the others.
_SKY_OPTIONS = ("skies", "seed", "years", "template", "variant", "energy_range")


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
    from astro_unetloc.evaluation.report import check_folder, report_words, write_evaluation
    from astro_unetloc.evaluation.runs import Workplace

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
    ways = {"--data": _OF_SETS, "--catalog": _OF_CATALOGS, "--skies": _SKY_OPTIONS}
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
    from astro_unetloc.evaluation import runs as evaluation_run

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
