"""The search of a map, which is what ``astro-unetloc MAP -o OUT`` and ``demo`` do."""

import sys

import click

from astro_unetloc.cli.options import (
    EXIT_INCOMPLETE,
    options,
    print_message,
    progress_bar,
    sky_cone,
)

__all__ = ["find"]

_OPTIONS = (
    click.argument("map", type=click.Path()),
    click.option("-o", "--output", "outputs", multiple=True, required=True, metavar="OUT",
                 help="File to write; may be repeated."),
    click.option("--model", metavar="NAME|FOLDER", help="A shipped model or a model folder."),
    click.option("--threshold", type=float, metavar="P", help="Smallest Score listed."),
    click.option("--exposure", type=click.Path(), help="Exposure cube, for fluxes and indices; "
                 "also turns a flux map into counts."),
    click.option("--exposure-frame", type=click.Choice(["galactic", "icrs"]),
                 help="Frame of a HEALPix exposure whose header does not state it."),
    click.option("--background", type=click.Path(), help="Background cube; without it the "
                 "background is estimated around each source."),
    click.option("--psf", type=click.Path(), help="PSF file of gtpsf; that of the LAT "
                 "is built in."),
    click.option("--measure/--no-measure", default=True, show_default=True,
                 help="Fit positions, counts and fluxes by likelihood."),
    click.option("--extended", metavar="FILE|NAME", help="Catalogue (a file, or a name such as "
                 "4fgl); sources inside its extended sources are flagged."),
    click.option("--energy-range", nargs=2, metavar="EMIN EMAX",
                 help="Energies of the photons: quantities, or numbers in GeV."),
    click.option("--region", nargs=3, metavar="LON LAT RADIUS",
                 help="List only sources in this cone (degrees or quantities, in --frame)."),
    click.option("--frame", default="icrs", type=click.Choice(["icrs", "fk5", "galactic"]),
                 help="Frame of --region and of the DS9 regions.", show_default=True),
    click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True,
                 help="Seed of the placement of counts inside their pixels."),
    click.option("--probability-map", type=click.Path(), metavar="FILE",
                 help="Write the probability of a source as a FITS file: a HEALPix map and, for a "
                 "map with a WCS, an image in its pixels."),
    click.option("--moc", type=click.Path(), metavar="FILE",
                 help="Write the area that was searched as a MOC (FITS)."),
    click.option("--limit-map", type=click.Path(), metavar="FILE",
                 help="Write the counts and fluxes at which half of the sources are found as a "
                 "HEALPix FITS map."),
)  # fmt: skip


@click.command(hidden=True)
@options(*_OPTIONS)
def find(map, outputs, model, threshold, measure, extended, energy_range, region, frame, seed,
         probability_map, moc, limit_map, overwrite, quiet, **companions):  # fmt: skip
    """Find the sources of MAP."""
    from astro_unetloc.catalog.write import check_fluxes, format_catalog
    from astro_unetloc.maps.read import read_map
    from astro_unetloc.pipeline import detect, select_model
    from astro_unetloc.products import write_run
    from astro_unetloc.unet.model import load_model

    maps = {"probability_map": probability_map, "moc": moc, "limit_map": limit_map}
    inputs = [map, *(companions[name] for name in ("exposure", "background", "psf"))]
    paths = _checked_paths(outputs, maps.values(), inputs, overwrite)
    region = sky_cone(region, frame)
    sky_map = read_map(map, energy_range=energy_range or None, **companions)
    check_fluxes(paths, known=measure and sky_map.exposure is not None)
    model = load_model(model) if model else select_model(sky_map.energy_edges)
    if limit_map:
        _check_limits(model, threshold, measure)
    run = detect(
        sky_map, model=model, threshold=threshold, measure=measure, extended=extended,
        region=region, rng=seed, progress=progress_bar(quiet),
    )  # fmt: skip
    write_run(run, paths, frame=frame, overwrite=overwrite, progress=progress_bar(quiet), **maps)
    if "-" in outputs:
        click.get_binary_stream("stdout").write(format_catalog(run.catalog, ".ecsv"))
    print_message(run.report([*paths, *filter(None, maps.values())]), quiet)
    if run.n_failed:
        sys.exit(EXIT_INCOMPLETE)


def _checked_paths(outputs, maps, inputs, overwrite):
    """Paths of the catalogue files, after a check that all outputs can be written."""
    from astro_unetloc import files
    from astro_unetloc.catalog.write import check_outputs, output_paths

    paths = output_paths([path for path in outputs if path != "-"])
    inputs = [path for path in inputs if path]
    check_outputs(paths, overwrite=overwrite, inputs=inputs)
    files.check_outputs(
        [*paths, *(path for path in maps if path)], overwrite=overwrite, inputs=inputs
    )
    return paths


def _check_limits(model, threshold, measure):
    """Refuse a map of detection limits that the model does not have."""
    if not measure:
        raise click.UsageError("--limit-map needs the likelihood fit; got --no-measure; drop one")
    if model.half_found(model.threshold if threshold is None else threshold) is None:
        raise click.UsageError(
            f"--limit-map needs a model whose card has detection limits; got {model.name}; "
            "measure them with benchmarks/fit_limits.py or drop the option"
        )
