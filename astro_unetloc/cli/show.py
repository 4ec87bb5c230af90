"""The commands that look at files: the sources of a catalogue, what a file is."""

import sys
import warnings
from pathlib import Path

import click

from astro_unetloc.cli.options import Command, number_option, options, print_sources

_N_BEST, _N_SHOWN = 10, 30


def print_best(outputs, catalog, quiet):
    """Print the best sources of a search on a terminal, unless they are printed on stdout."""
    if len(catalog) and not quiet and "-" not in outputs and sys.stderr.isatty():
        print_sources(catalog, n_shown=_N_BEST, err=True)


@click.command(cls=Command)
@click.argument("catalog", type=click.Path())
@options(
    number_option("--limit", default=_N_SHOWN, help="Number of sources to print."),
    click.option("--all", "print_all", is_flag=True, help="Print all sources."),
    click.option("--frame", default="icrs", type=click.Choice(["icrs", "fk5", "galactic"]),
                 help="Frame of the positions."),
)  # fmt: skip
def show(catalog, limit, print_all, frame, overwrite, quiet):
    """Print the sources of a CATALOG as a table, the most probable ones first.

    CATALOG is a file, ours or that of others, or a name such as 4fgl or 3fhl of a catalogue in
    $GAMMAPY_DATA.
    """
    from astro_unetloc.catalog.read import read_catalog

    print_sources(read_catalog(catalog), n_shown=None if print_all else limit, frame=frame)


@click.command(cls=Command)
@click.argument("files", nargs=-1, type=click.Path())
@options()
def info(files, overwrite, quiet):
    """State what FILES are, one line each; without files versions, models, cores and GPUs.

    A file may be a map, events, an exposure, a PSF, a background, a catalogue, regions, models of
    sources, a patch set, or a folder: a model, a simulated sky, the catalogues of many maps.
    """
    for line in map(_describe, files) if files else _environment():
        click.echo(line)


def _environment():
    """Lines on the versions, the shipped models, and the hardware."""
    from astro_unetloc.catalog.table import creator
    from astro_unetloc.exceptions import counted
    from astro_unetloc.executors import usable_cores
    from astro_unetloc.run import versions
    from astro_unetloc.unet.model import list_models, sees_gpu

    yield f"{creator()}: {', '.join(versions())}"
    yield from map(_model, list_models())
    gpu = f"{'a' if sees_gpu() else 'no'} GPU that TensorFlow sees"
    yield f"{counted(usable_cores(), 'core')}, {gpu}"


# What a file is


def _describe(name):
    """Line on a file or a folder, by the first reader that takes it."""
    from astro_unetloc.exceptions import InputError
    from astro_unetloc.files import split_choice

    path = split_choice(name)[0]
    if not path.exists():
        raise FileNotFoundError(f"a file or a folder was expected; got {name!r}; check the path")
    if path.is_dir():
        readers, names = _FOLDERS, [file.name for file in path.iterdir()]
        readers = [read for file, read in readers.items() if file in names]
        if not readers:
            wanted = "model, a simulated sky, an evaluation or catalogues of many maps"
            raise InputError(f"a folder with a {wanted} was expected; got {name!r}; name a file")
    else:
        readers = _FILES.get(path.suffix.lower()) or _fits_readers(name)
    reasons = []
    for read in readers:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return f"{name}: {read(name)}"
        except (InputError, OSError) as err:
            reasons.append(err)
    raise reasons[0]


def _fits_readers(name):
    """Functions that may describe a FITS file, the likely one first."""
    from astro_unetloc.files import open_fits
    from astro_unetloc.maps.read import describe_product

    with open_fits(name)[0] as hdus:
        product = describe_product(hdus)
        made = [_PRODUCTS[hdu.name] for hdu in hdus if hdu.name in _PRODUCTS]
    readers = {
        "a source catalogue": [_catalog], "an exposure map": [_exposure],
        "a PSF table (gtpsf)": [_psf], "a diffuse emission template": [_background],
        "a model cube (gtmodel), which is no observation": [_background],
        None: [_map, _background, _catalog, _exposure, _psf],
    }  # fmt: skip
    if made or product not in readers:
        return [lambda _: (made or [product])[0]]
    return readers[product]


def _map(name):
    from astro_unetloc.exceptions import counted
    from astro_unetloc.maps.read import read_map
    from astro_unetloc.maps.selection import stated_selection

    sky_map = read_map(name)
    if sky_map.events is None:
        kind = f"counts map, {_pixels(sky_map.counts.geom)}"
    else:
        kind = "event list"
        days = sky_map.header.get("ONTIME", 0.0) / 86400
        kind += f" of {days:,.1f} days" if days else ""
    bins = len(sky_map.energy_edges) - 1
    bins = f" in {counted(bins, 'bin')}" if sky_map.events is None else ""
    companions = [part for part in ("exposure", "background", "psf") if getattr(sky_map, part)]
    cuts = stated_selection(sky_map.header)
    classes = [word for name in _CUTS for word in cuts.get(name, [])]
    zenith = [f"zenith below {cuts['max_zenith_deg']:g} deg"] if "max_zenith_deg" in cuts else []
    cuts = [" ".join([cuts.get("release", ""), *classes]).strip(), *zenith]
    energies = _energies(sky_map.energy_edges) + " (assumed)" * sky_map.energy_assumed
    parts = [kind, _sky(*sky_map.observed_points), f"{energies}{bins}"]
    parts += [counted(sky_map.n_photons, "photon"), *filter(None, cuts)]
    return ", ".join([*parts, *(f"with {part}" for part in companions)])


def _exposure(name):
    import numpy as np

    from astro_unetloc.cubes import planes_of
    from astro_unetloc.irf.exposure import read_exposure

    exposure = read_exposure(name)
    mean = np.max([np.nanmean(plane) for plane in planes_of(exposure.map)])
    return (
        f"exposure, {_pixels(exposure.map.geom)}, {_energies(exposure.energy_range)}, "
        f"mean {mean:.3g} {exposure.map.unit or 'cm2 s'}"
    )


def _psf(name):
    from astro_unetloc.irf.psf import psf_of

    psf = psf_of(name)
    radii = (f"{psf.containment_radius(0.68, e):.3g} deg at {e:.4g} GeV" for e in psf.energy_range)
    return f"PSF, 68 % of the photons within {', '.join(radii)}"


def _background(name):
    import numpy as np
    from gammapy.maps import Map

    from astro_unetloc.irf.exposure import read_background

    background = read_background(name)
    if isinstance(background, Map):
        counts = f"{np.nansum(background.data):,.0f} expected counts"
        return f"background, {_pixels(background.geom)}, {counts}"
    cubes = [_pixels(part.geom) for part in background.parts if isinstance(part, Map)]
    energies = _energies(background.energy_range)
    return ", ".join(["intensity of diffuse emission", *cubes, energies])


def _catalog(name):
    import numpy as np

    from astro_unetloc.catalog.read import catalog_name, energy_range, read_catalog
    from astro_unetloc.catalog.table import is_catalog, numbers_of
    from astro_unetloc.exceptions import counted

    table = read_catalog(name)
    parts = [f"catalogue of {counted(len(table), 'source')}"]
    if not is_catalog(table):
        n_extended = int(np.sum(table["Extended"]))
        return ", ".join([*parts, f"{n_extended} extended", catalog_name(table)])
    parts += [f"{key} {table.meta[word]}" for word, key in _MADE.items() if word in table.meta]
    if energies := energy_range(table):
        parts.append(_energies(energies))
    n_fluxes = int(np.isfinite(numbers_of(table, "Flux", "ph cm-2 s-1")).sum())
    return ", ".join([*parts, f"{n_fluxes} with a flux"])


def _library(name):
    from astro_unetloc.exceptions import counted
    from astro_unetloc.simulation.files import read_source_library

    return f"source library of {counted(len(read_source_library(name).flux), 'source')}"


def _models(name):
    from gammapy.modeling.models import Models

    from astro_unetloc.exceptions import InputError, counted

    try:
        return f"{counted(len(Models.read(name)), 'model')} of gammapy"
    except Exception as err:  # gammapy raises many kinds
        raise InputError(f"{name} must be a dataset or models of gammapy; got {err}") from err


def _regions(name):
    from regions import Regions

    from astro_unetloc.exceptions import InputError, counted

    try:
        return counted(len(Regions.read(name)), "region")
    except Exception as err:  # of many kinds
        raise InputError(f"{name} must be regions of DS9 or CASA; got {err}") from err


def _patches(name):
    from astro_unetloc.exceptions import counted
    from astro_unetloc.training.patch_set import open_patch_set

    with open_patch_set(name) as patches:
        return (
            f"patch set of {counted(patches.n_patches, 'patch', 'patches')} of "
            f"{counted(len(patches.seeds), 'sky', 'skies')}, "
            f"{_energies(patches.metadata['band_edges_gev'])}, classes {' '.join(patches.classes)}"
        )


def _model(name):
    from astro_unetloc.unet.model import load_model

    model = load_model(name)
    edges = "-".join(f"{edge:g}" for edge in model.band_edges)
    return f"model {model.name}, {edges} GeV, threshold {model.threshold:g}, {model.sha256[:12]}"


def _components(name):
    from astro_unetloc.exceptions import counted
    from astro_unetloc.simulation.files import read_components

    components = read_components(name)
    photons = sum(sky_map.n_photons for sky_map in components.maps.values())
    sources = counted(len(components.sources.flux), "source")
    return f"simulated sky, {counted(photons, 'photon')}, {sources}"


def _batch(name):
    from astro_unetloc.batch.state import read_state
    from astro_unetloc.exceptions import counted

    maps = read_state(Path(name))["maps"].values()
    n_done = sum(entry["status"] == "done" for entry in maps)
    return f"catalogues of {n_done} of {counted(len(maps), 'map')}"


def _evaluation(name):
    return "evaluation of a model or a catalogue, see index.html"


def _energies(edges):
    return f"{edges[0]:.4g}-{edges[-1]:.4g} GeV"


def _pixels(geom):
    """Pixels of a map."""
    from astro_unetloc.maps.skymap import pixels_of

    pixels = pixels_of(geom)
    if not pixels.is_image:
        part = "" if pixels.numbers is None else f"{pixels.n_pixels:,} pixels of "
        order = "NESTED" if pixels.nest else "RING"
        return f"{part}HEALPix nside {pixels.nside} ({order}, {pixels.frame})"
    ny, nx = pixels.shape
    size = f"{pixels.pixel_size_deg:.3g} deg"
    return f"{nx} x {ny} pixels of {size} ({geom.projection}, {pixels.frame})"


def _sky(points, area_deg2):
    """Part of the sky that was observed, of its points (n, 3) and their areas (n,)."""
    import numpy as np

    from astro_unetloc.sphere import lonlat_from_vectors

    total, middle = area_deg2.sum(), (points * area_deg2[:, None]).sum(axis=0)
    if total > 0.99 * _WHOLE_SKY_DEG2:
        return "the whole sky"
    if np.linalg.norm(middle) < 0.1 * total:
        return f"{total:,.4g} deg2"
    lon, lat = (float(angle) for angle in lonlat_from_vectors(middle))
    return f"{total:,.4g} deg2 around l {lon:.1f}, b {lat:.1f}"


_WHOLE_SKY_DEG2 = 41253.0
_CUTS = ("event_class", "event_type")
# What keywords of a catalogue state.
_MADE = {"INFILE": "in", "MODEL": "found by"}
# Names of HDUs of our own products.
_PRODUCTS = {
    "PROBABILITY": "map of the probability of a source",
    "LIMITS": "map of the counts and fluxes at which half of the sources are found",
    "SIGNIFICANCE_ALL": "maps of observed and predicted counts, and of residuals",
}
_FILES = {
    ".h5": [_patches], ".ecsv": [_catalog], ".csv": [_catalog], ".vot": [_catalog],
    ".xml": [_library, _catalog], ".yaml": [_map, _models], ".yml": [_map, _models],
    ".reg": [_regions], ".crtf": [_regions], ".txt": [_background],
}  # fmt: skip
# A file of each kind of folder.
_FOLDERS = {
    "card.json": _model, "state.json": _batch, "scores.json": _evaluation,
    "background.fits": _components, "background.fits.gz": _components,
}  # fmt: skip
