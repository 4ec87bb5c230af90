"""The command line: ``astro-unetloc MAP -o OUT`` and its sub-commands."""

import logging
import os
import sys
import warnings
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path

import click

from astro_unetloc import terminal
from astro_unetloc.terminal import progress_bar, say

__all__ = ["main"]

COMMANDS = ("demo", "simulate", "train", "evaluate", "match", "models")


class _Commands(click.Group):
    """What is not the name of a sub-command is a map to search."""

    def parse_args(self, ctx, args):
        if not args:
            raise click.UsageError("expected a MAP or a COMMAND; got nothing")
        similar = get_close_matches(args[0], COMMANDS, 1, 0.7)
        if args[0] not in COMMANDS and similar and not os.path.exists(args[0]):
            raise click.UsageError(f"no map or command {args[0]!r}; did you mean {similar[0]!r}?")
        if args[0] not in ("--help", "-h", "--version", *COMMANDS):
            args = ["find", *args] if {"--help", "-h"}.isdisjoint(args) else ["--help"]
        return super().parse_args(ctx, args)

    def invoke(self, ctx):
        terminal.take_warnings()
        return super().invoke(ctx)

    def list_commands(self, ctx):
        return COMMANDS

    def format_usage(self, ctx, formatter):
        formatter.write_usage("astro-unetloc", "MAP -o OUT [-o OUT2 ...] | COMMAND ...")

    def format_options(self, ctx, formatter):
        find.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


_common = [
    click.option("--overwrite", is_flag=True, help="Replace outputs that exist."),
    click.option("--quiet", is_flag=True, help="No messages but warnings and errors."),
    click.option("--debug", is_flag=True, help="Show the log, and the traceback of an error."),
]


def _options(*options):
    def decorate(function):
        for option in reversed([*options, *_common]):
            function = option(function)
        return function

    return decorate


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="astro_unetloc", message="%(package)s %(version)s")
def cli():
    """Find the point sources in a gamma-ray counts MAP; no background model is needed.

    MAP is a counts cube or image (WCS or HEALPix), an event list or a gammapy dataset. The format
    of each output follows its suffix: .fits .ecsv .csv .vot catalogue, .reg DS9 regions, .png
    picture; a lone -o catalog.fits also writes catalog.reg, and -o - prints ECSV to stdout.
    """


_map_options = (
    click.argument("map", type=click.Path()),
    click.option("-o", "--output", "outputs", multiple=True, required=True, metavar="OUT",
                 help="File to write; may be repeated."),
    click.option("--model", metavar="NAME|FOLDER", help="A shipped model or a model folder."),
    click.option("--threshold", type=float, metavar="P", help="Smallest Score listed."),
    click.option("--exposure", type=click.Path(), help="Exposure cube; turns a flux map into "
                 "counts (this release measures no fluxes)."),
    click.option("--exposure-frame", type=click.Choice(["galactic", "icrs"]),
                 help="Frame of a HEALPix exposure that does not say it."),
    click.option("--background", type=click.Path(), help="Background cube, kept for measurement."),
    click.option("--psf", type=click.Path(), help="PSF file of gtpsf, kept for measurement."),
    click.option("--energy-range", nargs=2, metavar="EMIN EMAX",
                 help="Energies of the photons: quantities, or numbers in GeV."),
    click.option("--region", nargs=3, metavar="LON LAT RADIUS",
                 help="List only sources in this cone (degrees or quantities, in --frame)."),
    click.option("--frame", default="icrs", type=click.Choice(["icrs", "fk5", "galactic"]),
                 help="Frame of --region and of the DS9 regions.", show_default=True),
    click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True,
                 help="Seed of the placement of counts inside their pixels."),
    click.option("--probability-map", type=click.Path(), metavar="FILE",
                 help="Write the probability of a source as a HEALPix FITS map."),
)  # fmt: skip


@cli.command(hidden=True)
@_options(*_map_options)
def find(map, outputs, model, threshold, energy_range, region, frame, seed, probability_map,
         overwrite, quiet, debug, **files):  # fmt: skip
    """Find the sources of MAP."""
    from astro_unetloc.export import check_outputs, check_place, output_paths
    from astro_unetloc.pipeline import detect

    to_stdout = "-" in outputs
    paths = output_paths([path for path in outputs if path != "-"])
    inputs = [map, *(files[name] for name in ("exposure", "background", "psf") if files[name])]
    check_outputs(paths, overwrite=overwrite, inputs=inputs)
    if probability_map:
        _check_apart(probability_map, [*paths, *inputs])
        check_place(probability_map, overwrite=overwrite)
    run = detect(
        map, model=model, threshold=threshold, energy_range=energy_range or None,
        region=_cone(region, frame), rng=seed, progress=progress_bar(quiet), **files,
    )  # fmt: skip
    _write(run, paths, to_stdout, probability_map, frame, overwrite)
    _say_found(run, paths, quiet)
    if run.n_failed:
        sys.exit(terminal.EXIT_INCOMPLETE)


def _check_apart(path, others):
    if os.path.realpath(path) in {os.path.realpath(other) for other in others}:
        raise click.UsageError(f"each output must be a file of its own; got {path!r} twice")


def _say_found(run, paths, quiet):
    say(run.summary() + (f" -> {', '.join(str(path) for path in paths)}" if paths else ""), quiet)


def _cone(region, frame):
    """Centre and radius from the three words of --region; None without them."""
    if not region:
        return None
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    try:
        words = (u.Quantity(word) for word in region)
        lon, lat, radius = (q.value * u.deg if q.unit == "" else q for q in words)
        if not 0 < radius.to_value("deg") <= 180:
            raise ValueError(f"a radius of {radius}")
        return SkyCoord(lon, lat, frame=frame), radius
    except (TypeError, ValueError) as err:
        raise click.UsageError(
            f"--region must be a longitude, a latitude and a radius, such as 83.6 22 5 or "
            f"83.6deg 22deg 30arcmin; got {' '.join(region)} ({err})"
        ) from err


def _picture(run):
    """Function of a binary file that draws the counts and the sources of a run."""
    from astro_unetloc.figures import plot_sources

    name = Path(run.sky_map.name).name
    title = f"{name}: {run.sky_map.n_photons:,} photons, {len(run.catalog)} sources"
    return lambda file: plot_sources(
        run.sky_map.photons(run.catalog.meta["SEED"]), run.catalog, path=file, title=title
    )


def _write(run, paths, to_stdout, probability_map, frame, overwrite):
    from astro_unetloc.export import write_outputs
    from astro_unetloc.sky_files import probability_map_bytes

    others = {}
    if probability_map:
        others[probability_map] = probability_map_bytes(run.patches, run.probability)
    write_outputs(
        run.catalog, paths, overwrite=overwrite, frame=frame, figure=_picture(run), others=others
    )
    if to_stdout:
        from astro_unetloc.formats import format_catalog

        click.get_binary_stream("stdout").write(format_catalog(run.catalog, ".ecsv"))


@cli.command()
@_options(click.option("-o", "--output", "folder", default="astro-unetloc-demo", show_default=True,
                       type=click.Path(), help="Folder for the results."))  # fmt: skip
def demo(folder, overwrite, quiet, debug):
    """Find the sources of the example map that ships with the package."""
    from astro_unetloc.catalog import read_catalog
    from astro_unetloc.evaluation import evaluate
    from astro_unetloc.export import check_outputs, check_place
    from astro_unetloc.pipeline import detect

    data = Path(__file__).parent / "data" / "example"
    folder = Path(folder)
    paths = [folder / f"catalog{suffix}" for suffix in (".fits", ".reg", ".png")]
    if folder.is_dir():
        check_outputs(paths, overwrite=overwrite)
    else:
        check_place(folder)
    run = detect(data / "map.fits.gz", progress=progress_bar(quiet))
    folder.mkdir(exist_ok=True)
    _write(run, paths, False, None, "icrs", overwrite)
    _say_found(run, paths, quiet)
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


@cli.command()
@_options(
    click.option("-o", "--output", required=True, type=click.Path(),
                 help="Counts cube (.fits, .fits.gz) or patch set (.h5) to write."),
    click.option("--truth", type=click.Path(), help="True sources to write (.ecsv, .fits)."),
    click.option("--center", nargs=2, type=float, default=(120.0, 10.0), metavar="L B",
                 show_default=True, help="Centre of the cube, Galactic, degrees."),
    click.option("--width", type=float, default=15.0, show_default=True, help="Degrees."),
    click.option("--pixel", type=float, default=0.1, show_default=True, help="Degrees."),
    click.option("--years", type=float, default=7.0, show_default=True, help="Time observed."),
    click.option("--template", type=click.Path(), help="HEALPix table of interstellar templates."),
    click.option("--variant", default="P6V11", show_default=True, help="Set of templates."),
    click.option("--skies", type=click.IntRange(1), default=60, show_default=True,
                 help="Of a patch set: skies to simulate."),
    click.option("--patches-per-sky", type=click.IntRange(1), default=400, show_default=True,
                 help="Of a patch set: patches of each sky."),
    click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
                 help="Of a patch set: processes."),
    click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True),
)  # fmt: skip
def simulate(output, overwrite, quiet, debug, **options):
    """Simulate a counts cube with its true sources, or a patch set to train on (-o set.h5)."""
    if output.endswith(".h5"):
        _simulate_patches(output, overwrite, quiet, **options)
    elif not output.endswith((".fits", ".fits.gz")):
        raise click.UsageError(f"output must end in .fits, .fits.gz or .h5; got {output!r}")
    else:
        _simulate_cube(output, overwrite, quiet, **options)


def _simulate_patches(
    output, overwrite, quiet, *, skies, patches_per_sky, workers, seed, template, **_
):
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from astro_unetloc.export import check_place
    from astro_unetloc.training_sets import make_patch_set

    check_place(output, overwrite=True)  # an unfinished set is continued
    if overwrite:
        Path(output).unlink(missing_ok=True)
    spawn = get_context("spawn")  # OpenMP hangs in a fork
    pool = ProcessPoolExecutor(workers, spawn) if workers > 1 else nullcontext()
    with pool as executor:
        make_patch_set(
            output, n_skies=skies, patches_per_sky=patches_per_sky, first_seed=seed,
            template=template, executor=executor, progress=progress_bar(quiet),
        )  # fmt: skip
    say(f"{skies * patches_per_sky} patches of {skies} skies -> {output}", quiet)


def _simulate_cube(
    output, overwrite, quiet, *, truth, center, width, pixel, years, template, variant, seed, **_
):
    from astro_unetloc.export import check_outputs, check_place, write_outputs
    from astro_unetloc.simulation import simulate_cube
    from astro_unetloc.sky_files import counts_cube_bytes

    truths = [truth] if truth else []
    _check_apart(output, truths)
    check_place(output, overwrite=overwrite)
    check_outputs(truths, overwrite=overwrite)
    *cube, sources = simulate_cube(
        center=center, width_deg=width, pixel_deg=pixel, years=years, template=template,
        variant=variant, rng=seed,
    )  # fmt: skip
    header = {"OBJECT": "simulated sky", "SEED": seed, "YEARS": years}
    content = counts_cube_bytes(*cube, keywords=header, compress=output.endswith(".gz"))
    write_outputs(sources, truths, overwrite=overwrite, others={output: content})
    counts, where = cube[0].sum(), ", ".join([output, *truths])
    say(f"{counts} photons, {len(sources)} true sources -> {where}", quiet)


@cli.command()
@click.argument("patch_set", type=click.Path())
@_options(
    click.option("-o", "--output", "folder", required=True, type=click.Path(),
                 help="Model folder to write; an interrupted training in it is resumed."),
    click.option("--epochs", type=click.IntRange(1), default=38, show_default=True),
    click.option("--steps-per-epoch", type=click.IntRange(1), default=200, show_default=True),
    click.option("--initial", type=click.Path(), help="A .keras file to start from."),
    click.option("--learning-rate", default=2e-3, show_default=True),
    click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True),
)  # fmt: skip
def train(patch_set, folder, seed, overwrite, quiet, debug, **options):
    """Train a model on a PATCH_SET made by 'simulate'."""
    from astro_unetloc.training import train as train_model

    model = train_model(
        patch_set, folder, rng=seed, verbose=0 if quiet else 2, overwrite=overwrite, **options
    )
    say(f"model -> {model.folder}", quiet)


@cli.command()
@_options(
    click.option("--model", metavar="NAME|FOLDER", help="A shipped model or a model folder."),
    click.option("--skies", type=click.IntRange(1), default=1, show_default=True),
    click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True,
                 help="Seed of the first sky; the next ones follow."),
    click.option("--years", type=float, default=7.0, show_default=True, help="Time observed."),
    click.option("--template", type=click.Path(), help="HEALPix table of interstellar templates."),
    click.option("--variant", default="P6V11", show_default=True, help="Set of templates."),
    click.option("--threshold", type=float, metavar="P", help="Smallest Score listed."),
)  # fmt: skip
def evaluate(model, skies, seed, years, template, variant, threshold, overwrite, quiet, debug):
    """Score a model on simulated all-sky observations that it has never seen."""
    from astro_unetloc.pipeline import evaluate_skies

    for name, scores in evaluate_skies(
        model, seeds=range(seed, seed + skies), years=years, template=template, variant=variant,
        threshold=threshold, progress=progress_bar(quiet),
    ).items():  # fmt: skip
        click.echo(f"{name:<14}{scores.summary()}")


@cli.command()
@click.argument("catalog", type=click.Path())
@click.argument("references", nargs=-1, required=True, type=click.Path())
@_options(
    click.option("-o", "--output", "outputs", multiple=True, metavar="OUT",
                 help="Catalogue with ASSOC columns to write."),
    click.option("--radius", type=float, default=0.3, show_default=True, help="Degrees."),
    click.option("--min-latitude", type=float, default=0.0, show_default=True,
                 help="Only sources at this Galactic latitude or above, in degrees."),
    click.option("--region", nargs=3, metavar="LON LAT RADIUS",
                 help="Only sources in this cone (degrees or quantities, Galactic)."),
    click.option("--box", nargs=4, type=float, metavar="L B DL DB",
                 help="Only sources in this Galactic box: centre and widths in degrees."),
)  # fmt: skip
def match(catalog, references, outputs, radius, min_latitude, region, box, overwrite, quiet, debug):
    """Match a CATALOG with one or more REFERENCES, the first one being written as ASSOC."""
    from astro_unetloc.catalog import read_catalog
    from astro_unetloc.export import check_outputs, write_outputs
    from astro_unetloc.matching import is_known, match_catalogs, within_sky

    check_outputs(outputs, overwrite=overwrite, inputs=(catalog, *references))
    cone = _cone(region, "galactic")
    tables = [
        within_sky(read_catalog(path), min_latitude_deg=min_latitude, cone=cone, box=box)
        for path in (catalog, *references)
    ]
    results = [match_catalogs(tables[0], table, radius=radius) for table in tables[1:]]
    for path, result in zip(references, results):
        click.echo(f"{path}: {result.summary()}")
    everything = [read_catalog(path) for path in references]
    known = is_known(tables[0], everything, radius=radius)
    click.echo(
        f"{known.sum()} of {len(known)} detections lie within {radius:g} deg of any of them."
    )
    write_outputs(results[0].apply(tables[0]), outputs, overwrite=overwrite)


@cli.command()
@_options()
def models(overwrite, quiet, debug):
    """List the shipped models."""
    from astro_unetloc.pretrained import list_models, load_model

    for name in list_models():
        model = load_model(name)
        edges = "-".join(f"{edge:g}" for edge in model.band_edges)
        facts = f"{name}  {edges} GeV  threshold {model.threshold:g}  {model.sha256[:12]}"
        click.echo("\n    ".join([facts, *filter(None, [model.card.get("description")])]))


def main(args=None):
    """Entry point of ``astro-unetloc``."""
    args = sys.argv[1:] if args is None else list(args)
    debug = "--debug" in args
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no greetings of TensorFlow
    logging.basicConfig(format="%(message)s", level=logging.INFO if debug else logging.ERROR)
    with warnings.catch_warnings():
        try:
            code = cli.main(args=args, prog_name="astro-unetloc", standalone_mode=False)
        except Exception as error:
            code = terminal.report(error, debug)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
