"""The sub-commands: each parses its options, calls the package, writes and reports."""

import os
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click

from astro_unetloc.cli.options import (
    Command,
    GroupedCommand,
    background_psf_options,
    check_kind,
    checked_paths,
    cluster_option,
    command_line,
    companions,
    given_options,
    labels_option,
    map_options,
    number_option,
    options,
    output_option,
    path_option,
    print_catalog,
    print_message,
    prior_option,
    progress_bar,
    seed_option,
    show_dashboard,
    sky_cone,
)


@click.command(cls=Command)
@options(path_option("-o", "--output", "folder", default="astro-unetloc-demo",
                     help="Folder for the results."))  # fmt: skip
def demo(folder, overwrite, quiet):
    """Find the sources of the example map that ships with the package."""
    from astro_unetloc.catalog.read import read_catalog
    from astro_unetloc.catalog.write import check_outputs
    from astro_unetloc.evaluation.metrics import evaluate
    from astro_unetloc.exceptions import counted
    from astro_unetloc.files import check_output
    from astro_unetloc.pipeline import detect
    from astro_unetloc.products import write_run

    example, folder = Path(__file__).parents[1] / "data" / "example", Path(folder)
    paths = [folder / f"catalog{suffix}" for suffix in (".fits", ".reg", ".png", ".html")]
    if folder.is_dir():
        check_outputs(paths, overwrite=overwrite)
    else:
        check_output(folder)
    run = detect(example / "map.fits.gz", progress=progress_bar(quiet))
    folder.mkdir(exist_ok=True)
    write_run(run, paths, overwrite=overwrite)
    print_message(run.summary(paths), quiet)
    scores = evaluate(run.catalog, read_catalog(example / "truth.ecsv"))
    n_found, n_false = scores.correct.sum(), (~scores.correct).sum()
    print_message(
        f"The example is a simulated sky: {n_found} of its {scores.n_true} sources with at least 8 "
        f"expected photons were found, with {counted(n_false, 'false detection')}.\n"
        f"Look at it:    {paths[3]} in a browser, {paths[2]}, or: "
        f"ds9 {example / 'map.fits.gz'} -regions {paths[1]}\n"
        "Your own map:  astro-unetloc map.fits -o catalog.fits\n"
        "Match it:      astro-unetloc match catalog.fits gll_psc.fit",
        quiet,
    )


@click.command(cls=Command)
@options()
def models(overwrite, quiet):
    """List the shipped models."""
    from astro_unetloc.unet.model import list_models, load_model

    for name in list_models():
        model = load_model(name)
        edges = "-".join(f"{edge:g}" for edge in model.band_edges)
        click.echo(f"{name}  {edges} GeV  threshold {model.threshold:g}  {model.sha256[:12]}")
        if "description" in model.card:
            click.echo(f"    {model.card['description']}")


# The options of `simulate` that only some kinds of output take; all take -o, --seed, --template.
_CUBE, _FOLDER, _PATCHES = "a cube (.fits, .fits.gz)", "a folder (sky/)", "a patch set (.h5)"
_SKY = {"years", "variant", "isotropic", "exposure", "psf", "energy_range", "center", "width_deg",
        "pixel_deg"}  # fmt: skip
_LABELS = {"mask_radius_pix", "min_photons", "min_significance"}
_SET = {"n_skies", "patches_per_sky", "n_workers", "cluster", "append", "by_class", "folders",
        "band_edges"}  # fmt: skip
_SIMULATE_OPTIONS = {_CUBE: _SKY | {"truth"}, _FOLDER: _SKY | {"nside"}, _PATCHES: _SET | _LABELS}
_SIMULATE_GROUPS = {"Sky": _SKY | {"truth", "nside", "template"}, "Patch set": _SET | _LABELS}
_OBSERVATION = (
    click.option("--years", default=7.0, help="Observing time."),
    path_option("--template", help="HEALPix table of interstellar templates."),
    click.option("--variant", default="P6V11", help="Set of --template."),
)


def _parse_bands(context, parameter, text):
    """Band edges in GeV from the text of --bands; None without the option."""
    if not text:
        return None
    try:
        return tuple(float(edge) for edge in text.split(","))
    except ValueError as err:
        raise click.UsageError(
            f"--bands must be numbers in GeV with commas between; got {text!r}; "
            "for example 0.5,1,2,7,20,1000"
        ) from err


@click.command(cls=GroupedCommand, groups=_SIMULATE_GROUPS)
@options(
    path_option("-o", "--output", required=True, help="Counts cube (.fits, .fits.gz), patch set "
                "(.h5), or folder (sky/): events, one cube for the background and for each source "
                "class, truth, source library."),
    path_option("--truth", help="True sources to write (.ecsv, .fits)."),
    click.option("--center", nargs=2, type=float, default=(120.0, 10.0), metavar="L B",
                 help="Centre of the cube, Galactic, degrees."),
    click.option("--width", "width_deg", default=15.0, help="Degrees."),
    click.option("--pixel", "pixel_deg", default=0.1, help="Degrees."),
    click.option("--nside", type=int,
                 help="Folder: write HEALPix cubes of the whole sky instead of images."),
    *_OBSERVATION,
    path_option("--isotropic", help="Isotropic spectrum (official text)."),
    path_option("--exposure", help="Exposure cube instead of --years."),
    path_option("--psf", help="PSF table of gtpsf, not the built-in one."),
    click.option("--energy-range", nargs=2, type=float, metavar="EMIN EMAX",
                 help="GeV, between 0.3 and 2000.  [default: 10 2000]"),
    click.option("--bands", "band_edges", metavar="E0,E1,...", callback=_parse_bands,
                 help="Band edges in GeV.  [default: 10,20,50,150,500,2000]"),
    number_option("--skies", "n_skies", help="Number of skies to simulate.  [default: 60]"),
    path_option("--components", "folders", multiple=True, metavar="FOLDER", help="Use a "
                "folder of components (from -o sky/ or another simulator) instead of a simulated "
                "sky; may be repeated."),
    number_option("--patches-per-sky", default=400, help="Number of patches of each sky."),
    number_option("--workers", "n_workers", default=1, help="Number of processes."),
    cluster_option,
    click.option("--append", is_flag=True, help="Add skies to a finished set, up to --skies."),
    click.option("--by-class", is_flag=True,
                 help="One mask for each class (AGN, PSR, OTHER) instead of one for all."),
    click.option("--mask-radius", "mask_radius_pix", type=float, metavar="PIX",
                 help="Radius of the disc that labels a source."),
    click.option("--min-photons", type=float, metavar="N",
                 help="Minimum number of photons of a labelled source."),
    click.option("--min-significance", type=float, metavar="S",
                 help="Minimum significance of a labelled source."),
    seed_option(default=0),
)  # fmt: skip
@click.pass_context
def simulate(context, output, overwrite, quiet, seed, template, **options):
    """Simulate a counts cube, a patch set to train on (-o set.h5), or a folder of products."""
    if output.endswith(("/", os.sep)) or Path(output).is_dir():
        kind, make = _FOLDER, _simulate_folder
    elif output.endswith(".h5"):
        kind, make = _PATCHES, _simulate_patches
    elif output.endswith((".fits", ".fits.gz")):
        kind, make = _CUBE, _simulate_cube
    else:
        raise click.UsageError(
            f"output must end in .fits, .fits.gz or .h5, or in / for a folder; got {output!r}"
        )
    _check_simulation(context, kind)
    chosen = {key: options[key] for key in _SIMULATE_OPTIONS[kind] if options[key] is not None}
    chosen |= {"template": template, "overwrite": overwrite}
    show_dashboard(quiet)
    print_message(make(output, seed, progress=progress_bar(quiet), **chosen), quiet)


def _check_simulation(context, kind):
    """Refuse options that do not go with the kind of output or with each other."""
    if kind == _PATCHES and "energy_range" in given_options(context):
        raise click.UsageError(
            "--energy-range goes with a cube or a folder; got a patch set; give the edges of its "
            "bands, such as --bands 30,50,100,200,500,2000"
        )
    check_kind(context, kind, _SIMULATE_OPTIONS)
    given = given_options(context)
    if {"n_workers", "cluster"} <= given:
        raise click.UsageError("--workers and --cluster exclude each other; got both; drop one")
    if {"years", "exposure"} <= given:
        raise click.UsageError("--exposure stands instead of --years; got both; drop one")
    if "nside" in given and given & {"center", "width_deg", "pixel_deg"}:
        raise click.UsageError(
            "--nside makes cubes of the whole sky; --center, --width and --pixel go with an image; "
            "drop them"
        )


def _simulate_cube(output, seed, *, overwrite, progress, truth=None, **options):
    """Write a counts cube and its true sources; returns the report."""
    from astro_unetloc import files
    from astro_unetloc.catalog.write import check_outputs, write_outputs
    from astro_unetloc.simulation.files import counts_cube_bytes, sky_keywords
    from astro_unetloc.simulation.sky import simulate_cube

    truths = [truth] if truth else []
    check_outputs(truths, overwrite=overwrite)
    files.check_outputs([output, *truths], overwrite=overwrite)
    counts, *axes, sources = simulate_cube(rng=seed, **options)
    header = sky_keywords(rng=seed, command=command_line(), **options)
    sources.meta |= header
    content = counts_cube_bytes(counts, *axes, keywords=header, compress=output.endswith(".gz"))
    write_outputs(sources, truths, overwrite=overwrite, others={output: content})
    return _made(counts.sum(), len(sources), ", ".join([output, *truths]))


def _simulate_folder(output, seed, *, progress, **options):
    """Write a folder of components; returns the report."""
    from astro_unetloc.simulation.files import simulate_components

    made = simulate_components(output, rng=seed, command=command_line(), **options)
    return _made(*made, output)


def _made(n_photons, n_sources, where):
    """Line on a simulated sky."""
    from astro_unetloc.exceptions import counted

    return f"{counted(n_photons, 'photon')}, {counted(n_sources, 'true source')} -> {where}"


def _simulate_patches(output, seed, *, by_class, cluster=None, **options):
    """Write a patch set; returns the report."""
    from astro_unetloc.exceptions import counted
    from astro_unetloc.files import check_output
    from astro_unetloc.simulation.population import CLASSES
    from astro_unetloc.training.make import make_patch_set
    from astro_unetloc.training.observation import TrainingConfig
    from astro_unetloc.training.patch_set import open_patch_set

    check_output(output, overwrite=True)  # an unfinished set is continued
    rule = TrainingConfig(**{name: options.pop(name) for name in _LABELS & set(options)})
    classes = CLASSES if by_class else ("source",)
    options |= {"classes": classes, "label_rule": rule, "executor": cluster}
    make_patch_set(output, first_seed=seed, **options)
    with open_patch_set(output) as made:
        n_patches, n_skies = made.n_patches, len(made.seeds)
    patches, skies = counted(n_patches, "patch", "patches"), counted(n_skies, "sky", "skies")
    return f"{patches} of {skies} -> {output}"


@click.command(cls=Command)
@click.argument("patch_set", type=click.Path())
@options(
    path_option("-o", "--output", "folder", required=True,
                help="Model folder to write; what was interrupted in it is resumed."),
    number_option("--epochs", default=38),
    number_option("--steps-per-epoch", default=200),
    path_option("--initial", help="A .keras file to start from."),
    click.option("--learning-rate", default=2e-3),
    number_option("--batch-size", default=8,
                  help="Number of patches in a step, on all GPUs together; 64 or more on each."),
    number_option("--patience", metavar="N",
                  help="Stop when the validation loss has not fallen for N epochs."),
    click.option("--loss", default="cross-entropy", type=click.Choice(["cross-entropy", "dice"])),
    click.option("--mixed-precision", is_flag=True, help="Compute in bfloat16, for recent GPUs."),
    click.option("--no-calibrate", is_flag=True,
                 help="Leave Score the output of the network: search no skies after the training."),
    seed_option(default=0),
)  # fmt: skip
def train(patch_set, folder, seed, no_calibrate, overwrite, quiet, **options):
    """Train a model on a PATCH_SET made by 'simulate', then calibrate its Score.

    The calibration searches five simulated skies with two exposures, from 10 GeV on above three
    energies (some minutes on one core); the threshold of the model is then 0.8.
    """
    from astro_unetloc.evaluation.calibration import calibrate
    from astro_unetloc.training.train import train as train_model

    if no_calibrate or overwrite or not _is_trained(folder, patch_set):
        options |= {"rng": seed, "verbose": 0 if quiet else 2, "overwrite": overwrite}
        with redirect_stdout(sys.stderr):  # Keras prints its progress
            train_model(patch_set, folder, **options)
    if not no_calibrate:
        print_message("calibrating Score on simulated skies, some minutes", quiet)
        calibrate(folder, progress=progress_bar(quiet))
    print_message(f"model -> {folder}", quiet)


def _is_trained(folder, patch_set):
    """Whether a folder holds a model that was trained on a patch set and has no calibration."""
    from astro_unetloc.training.patch_set import open_patch_set
    from astro_unetloc.unet.model import load_model

    if not (Path(folder) / "card.json").exists():
        return False
    model = load_model(folder)
    with open_patch_set(patch_set) as known:
        same = model.card.get("training", {}).get("patch_set_id") == known.identity
    return same and model.calibration is None


@click.command(cls=Command)
@click.argument("catalog", type=click.Path())
@options(
    path_option("--map", "path", required=True, help="Counts map with the photons of the sources."),
    output_option,
    labels_option,
    *map_options,
    prior_option,
    click.option(
        "--unsupervised",
        is_flag=True,
        help="Find the classes in the spectra and latitudes of these sources.",
    ),
)
def classify(catalog, path, outputs, labels, backgrounds, energy_range, model, class_prior,
             unsupervised, overwrite, quiet, **others):  # fmt: skip
    """Classify the sources of a CATALOG by the energies of their photons in a map.

    The sources are fitted at their positions. CATALOG is a file, ours or that of others, or a name
    such as 4fgl or 3fhl of a catalogue in $GAMMAPY_DATA.
    """
    from astro_unetloc.catalog.columns import CLASSES
    from astro_unetloc.catalog.read import read_catalog
    from astro_unetloc.catalog.table import numbers_of, source_classes
    from astro_unetloc.catalog.write import write_outputs
    from astro_unetloc.exceptions import counted
    from astro_unetloc.files import checksum
    from astro_unetloc.maps.read import read_map
    from astro_unetloc.pipeline import classify_sources
    from astro_unetloc.plot import plot_sources, save_figure
    from astro_unetloc.report import report_bytes

    inputs = [catalog, path, *backgrounds, *filter(None, (others["exposure"], others["psf"]))]
    paths = checked_paths(outputs, [], inputs, overwrite)
    table = read_catalog(catalog)
    others |= companions(others["psf"], others.pop("psf_radius"), backgrounds, energy_range)
    sky_map = read_map(path, **others)
    how = {"class_prior": class_prior, "unsupervised": unsupervised}
    result = classify_sources(table, sky_map, model=model, **how)
    result.meta["CLASSED"] = command_line()
    if Path(catalog).is_file():
        result.meta["CATSHA"] = checksum(catalog)

    def figure(file, kind):
        save_figure(plot_sources(sky_map, result), file, kind, result.meta)

    write_outputs(result, paths, overwrite=overwrite, labels=labels, figure=figure,
                  page=lambda: report_bytes(sky_map, result))  # fmt: skip
    print_catalog(outputs, result)
    classes = source_classes(result[numbers_of(result, "Prob_PSR") >= 0]).tolist()
    numbers = [f"{classes.count(name)} {name or 'uncertain'}" for name in (*CLASSES, "")]
    where = f" -> {', '.join(map(str, paths))}" if paths else ""
    n_sources = counted(len(classes), "source")
    print_message(f"{n_sources} on the map: {', '.join(numbers)}{where}", quiet)


@click.command(cls=Command)
@click.argument("catalog", type=click.Path())
@click.argument("references", nargs=-1, required=True, type=click.Path())
@options(
    click.option("-o", "--output", "outputs", multiple=True, metavar="OUT",
                 help="Catalogue with ASSOC columns to write."),
    labels_option,
    path_option("--missing", metavar="FILE",
                help="Write the sources of the first reference that are not found."),
    path_option("--counts", metavar="MAP", help="The map that was searched: only sources in it are "
                "matched, and --missing has 95 % upper limits."),
    path_option("--exposure", help="Exposure of --counts, for fluxes."),
    *background_psf_options,
    path_option("--new", metavar="FILE",
                help="Write the detections that are not in the first reference."),
    path_option("--candidates", metavar="FILE",
                help="Write all pairs that may be the same source, not only the best."),
    click.option("--radius", type=float, help="Matching radius in degrees, whatever the errors "
                 "are.  [default: set by the error ellipses of both; 0.3 where one is unknown]"),
    click.option("--min-latitude", default=0.0,
                 help="Only sources at this Galactic latitude or above, in degrees."),
    click.option("--region", nargs=3, metavar="LON LAT RADIUS",
                 help="Only sources in this cone (degrees or quantities, Galactic)."),
    click.option("--box", nargs=4, type=float, metavar="L B DL DB",
                 help="Only sources in this Galactic box: centre and widths in degrees."),
)  # fmt: skip
@click.pass_context
def match(context, catalog, references, outputs, labels, counts, exposure, backgrounds, psf,
          psf_radius, radius, min_latitude, region, box, overwrite, quiet, **lists):  # fmt: skip
    """Match a CATALOG with one or more REFERENCES, the first one being written as ASSOC.

    A reference is a file, or a name such as 4fgl or 3fhl of a catalogue in $GAMMAPY_DATA.
    """
    from astro_unetloc.catalog.columns import AREA
    from astro_unetloc.catalog.match import MATCH_RADIUS_DEG, is_known, match_catalogs
    from astro_unetloc.catalog.read import energy_range, read_catalog, within_sky
    from astro_unetloc.catalog.table import texts
    from astro_unetloc.catalog.write import check_outputs, file_content, write_outputs
    from astro_unetloc.exceptions import counted
    from astro_unetloc.files import checksum
    from astro_unetloc.maps.read import read_map

    lists = {name: path for name, path in lists.items() if path}
    given = given_options(context) & {"exposure", "backgrounds", "psf", "psf_radius"}
    if given and not counts:
        name = min(given).rstrip("s").replace("_", "-")
        raise click.UsageError(f"--{name} goes with --counts MAP; give the map")
    inputs = [catalog, *references, *backgrounds, *filter(None, (counts, exposure, psf))]
    check_outputs([*outputs, *lists.values()], overwrite=overwrite, inputs=inputs)
    found, whole = read_catalog(catalog), [read_catalog(path) for path in references]
    area = {"min_latitude_deg": min_latitude, "cone": sky_cone(region, "galactic"), "box": box}
    if counts:
        parts = companions(psf, psf_radius, backgrounds, energy_range(found))
        area["footprint"] = read_map(counts, exposure=exposure, **parts)
    detections, inside = within_sky(found, **area), [within_sky(table, **area) for table in whole]
    results = [
        match_catalogs(detections, table, radius=radius, surroundings=surroundings)
        for table, surroundings in zip(inside, whole)
    ]
    for path, result in zip(references, results):
        click.echo(f"{path}: {result.summary()}")
    known = is_known(detections, whole, radius=radius).sum()
    radius = MATCH_RADIUS_DEG if radius is None else radius
    lie = f"{counted(len(detections), 'detection')} {'lies' if len(detections) == 1 else 'lie'}"
    click.echo(f"{known} of {lie} within {radius:g} deg of any of them.")
    matched, missing = results[0].apply(), results[0].not_found()
    if len(detections) < len(found):
        matched.meta.pop(AREA, None)  # that of the whole search
    if counts and "missing" in lists:
        missing = _with_limits(missing, found, area["footprint"])
    new, candidates = matched[results[0].catalog_unmatched], results[0].candidate_table()
    tables = {"missing": missing, "new": new, "candidates": candidates}
    files = {"CATSHA": catalog, "REFSHA": references[0]}
    about = {key: checksum(path) for key, path in files.items() if Path(path).is_file()}
    for table in (matched, *tables.values()):
        table.meta |= {"MATCHED": command_line(), **about}
    others = {path: file_content(tables[name], path, labels=labels) for name, path in lists.items()}
    write_outputs(matched, outputs, overwrite=overwrite, labels=labels, others=others)
    names = texts(new["Source_Name"])[:_MAX_NAMES].tolist() + ["..."] * (len(new) > _MAX_NAMES)
    report = f"{counted(len(new), 'detection')} not in {Path(references[0]).name}"
    report += ": " * bool(names)
    written = [*outputs, *lists.values()]
    where = f" -> {', '.join(written)}" if written else ""
    print_message(f"{report}{', '.join(names)}{where}", quiet)


def _with_limits(missing, found, sky_map):
    """Sources that were not found, with upper limits from the map that was searched."""
    from astro_unetloc.catalog.columns import LIMIT_COLUMNS
    from astro_unetloc.catalog.table import with_columns
    from astro_unetloc.measurement.limits import upper_limits

    limits = upper_limits(sky_map, missing, sources=found)
    result = with_columns(missing, LIMIT_COLUMNS, [limits[s.name] for s in LIMIT_COLUMNS])
    result.meta |= limits.meta
    return result


_MAX_NAMES = 5  # of sources in a message

# The options of `evaluate` that only some ways to evaluate take.
_ON_SKIES, _ON_SET, _ON_CATALOG = "simulated skies", "--data SET.h5", "--catalog CATALOG"
_SEARCH = {"model", "n_patches", "codes"}
_EVALUATE_OPTIONS = {
    _ON_SKIES: {"skies", "seed", "years", "template", "variant", "energy_range", *_SEARCH},
    _ON_SET: {"data", "all_skies", *_SEARCH},
    _ON_CATALOG: {"catalog", "truth"},
}
_EVALUATE_GROUPS = {
    "Simulated skies": _EVALUATE_OPTIONS[_ON_SKIES] - _SEARCH,
    "Patch set": _EVALUATE_OPTIONS[_ON_SET] - _SEARCH,
    "Catalogue": _EVALUATE_OPTIONS[_ON_CATALOG],
}


@click.command(cls=GroupedCommand, groups=_EVALUATE_GROUPS)
@options(
    click.option("--model", metavar="NAME|FOLDER", help="A shipped model or a model folder."),
    number_option("--skies", default=1, help="Number of whole skies to simulate."),
    seed_option(default=2000, help="Seed of the first sky; the next ones follow. Shipped models "
                "were trained on seeds below 1000 and tuned on those below 2000."),
    *_OBSERVATION,
    click.option("--energy-range", nargs=2, metavar="EMIN EMAX", help="Only photons of these "
                 "energies: quantities, or numbers in GeV.  [default: those of the model]"),
    path_option("--data", metavar="SET.h5",
                help="Evaluate on the validation skies of a patch set instead of simulated skies."),
    click.option("--all-skies", is_flag=True,
                 help="Of --data: evaluate also on the skies on which a model may be trained."),
    path_option("--catalog",
                help="Evaluate a catalogue, with --truth, instead of simulated skies."),
    path_option("--truth", help="True sources of the sky of --catalog."),
    click.option("--threshold", type=float, metavar="P",
                 help="Smallest Score listed.  [default: that of the model; of a catalogue all]"),
    click.option("--against", metavar="MODEL|CATALOG",
                 help="Baseline: another model, or with --catalog another catalogue."),
    path_option("-o", "--output", "folder", help="Folder for tables, figures, page (index.html), "
                "scores.json, pictures of examples and predictions.h5."),
    number_option("--patches", "n_patches", default=1000, help="Number of patches in "
                  "predictions.h5 (with -o); with --data, number of patches that are searched."),
    click.option("--case", "codes", multiple=True, metavar="CODE",
                 help="Show this patch too, such as sky002000-p123; may be repeated."),
)  # fmt: skip
@click.pass_context
def evaluate(context, folder, overwrite, quiet, **options):
    """Score a model on simulated skies or patches that it has never seen, or a catalogue.

    With -o, an interrupted evaluation is resumed when the same command is given again.
    """
    from astro_unetloc.evaluation.report import check_folder, report_paragraphs, write_evaluation
    from astro_unetloc.files import locked_folder

    way = _ON_SET if options["data"] else _ON_CATALOG if options["catalog"] else _ON_SKIES
    _check_evaluation(context, way)
    if folder:
        check_folder(folder, overwrite=overwrite)
    with locked_folder(folder) if folder else nullcontext():
        run = _evaluate(way, options, folder, overwrite=overwrite, progress=progress_bar(quiet))
        if folder:
            more = {"command": command_line(), "overwrite": overwrite}
            options = {"codes": options["codes"]} | more
            paths, paragraphs = write_evaluation(run, folder, **options)
            print_message(f"{len(paths)} files -> {paths[-1]}", quiet)
        else:
            paragraphs = report_paragraphs(run)
    for lines in paragraphs:
        click.echo("\n".join(lines))


def _check_evaluation(context, way):
    """Refuse options that do not go with the way to evaluate."""
    values, given = context.params, given_options(context)
    check_kind(context, way, _EVALUATE_OPTIONS)
    if way == _ON_CATALOG and not values["truth"]:
        raise click.UsageError("--catalog goes with --truth TABLE; give the true sources")
    if values["codes"] and not values["folder"]:
        raise click.UsageError("--case goes with -o FOLDER, where its picture is written; give it")
    if "n_patches" in given and way == _ON_SKIES and not values["folder"]:
        raise click.UsageError("--patches goes with -o FOLDER or --data SET.h5; give one")


def _evaluate(way, options, folder, **search):
    """Evaluate a catalogue, or a model on simulated skies or on a patch set."""
    from astro_unetloc.evaluation import run_on_catalog, run_on_set, run_on_skies

    chosen = {name: options[name] for name in _EVALUATE_OPTIONS[way] | {"threshold"}}
    chosen["baseline"] = options["against"]
    if way == _ON_CATALOG:
        return run_on_catalog(**chosen)
    chosen |= search | {"checkpoints": Path(folder) / ".unetloc-parts" if folder else None}
    if way == _ON_SET:
        return run_on_set(chosen.pop("data"), **chosen)
    first, n_skies = chosen.pop("seed"), chosen.pop("skies")
    return run_on_skies(seeds=range(first, first + n_skies), source_free=bool(folder), **chosen)
