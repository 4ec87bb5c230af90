"""Patch sets made of simulated skies, each observed under many conditions.

Skies are simulated, or read from folders of components, by any executor.
"""

import hashlib
import os
import shutil
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc import __version__
from astro_unetloc.exceptions import InputError
from astro_unetloc.executors import open_workers, run_shards
from astro_unetloc.files import check_output, checksum, locked_folder, write_files
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.patches import GridConfig, TangentPlane
from astro_unetloc.simulation.diffuse import TEMPLATE_SETS, interstellar, perturb
from astro_unetloc.simulation.files import read_components, sky_of
from astro_unetloc.simulation.population import CLASSES, counted_band, draw_sources
from astro_unetloc.simulation.sky import draw_photons
from astro_unetloc.sphere import healpix_centers, lonlat_from_vectors
from astro_unetloc.training.observation import (
    PatchObserver,
    TrainingConfig,
    draw_observation,
    source_mask,
)
from astro_unetloc.training.patch_set import (
    SOURCE_DTYPE,
    differences,
    join_patch_sets,
    open_patch_set,
    sky_file_bytes,
)

# Bands of `lat-10gev` in GeV, those of 3FHL (arXiv:1702.00664).
BAND_EDGES = (10.0, 20.0, 50.0, 150.0, 500.0, 2000.0)
# Exposure of a simulated sky; an observation takes a part of it.
_YEARS = 16.0
# Grid of the directions in which patches of an incomplete sky are centred: 0.2 deg.
_CENTER_NSIDE = 256


def _simulated_sky(rng, template, energy_range):
    """A sky with random interstellar model, populations and PSF."""
    variant = str(rng.choice([*TEMPLATE_SETS, "built-in"]))
    builtin = template is None or variant == "built-in"
    diffuse = interstellar(None if builtin else template, variant="P6V11" if builtin else variant)
    shape = {"small_scale": rng.uniform(0.1, 0.45), "slope": rng.uniform(2.2, 3.2)}
    diffuse = perturb(diffuse, rng, scatter=0.2, **shape)
    sources = draw_sources(
        rng, band=counted_band(energy_range), agn=rng.uniform(0.6, 1.4),
        pulsars=rng.uniform(0.6, 2.5), galactic=rng.uniform(0.6, 2.5),
        extended=rng.uniform(0.5, 1.5),
    )  # fmt: skip
    return draw_photons(
        diffuse, sources, exposure=SurveyExposure(_YEARS), psf=KingPSF(rng.uniform(0.92, 1.1)),
        rng=rng, energy_range=energy_range, with_diffuse=False, with_background=True,
    )  # fmt: skip


def _components_within(folder, energy_range):
    """Components of a folder; its cubes must cover an energy range (GeV)."""
    components = read_components(folder)
    (low, high), found = energy_range, components.maps["background"].energy_edges[[0, -1]]
    if low < found[0] * 0.999 or high > found[1] * 1.001:
        raise InputError(
            f"{folder}: expected cubes of {low:g}-{high:g} GeV, the bands of the set; got "
            f"{found[0]:g}-{found[1]:g} GeV; choose other bands or make other cubes"
        )
    return components


def _sky_of_folder(folder, energy_range, seed):
    """Sky of a folder of components, limited to an energy range (GeV)."""
    sky = sky_of(_components_within(folder, energy_range), rng=seed)
    low, high = energy_range
    inside = (sky.photons.energy >= low) & (sky.photons.energy < high)
    return replace(sky, photons=sky.photons.select(inside), origin=sky.origin[inside])


def _sha256(path):
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if file.is_file())
        listing = "\n".join(f"{file.name} {checksum(file)}" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    return checksum(path)


def _observed_directions(sky):
    """Observed directions (n, 3), 0.2 deg apart; None for the whole sky."""
    if sky.footprint is None:
        return None
    pixels = np.arange(12 * _CENTER_NSIDE**2)
    centers = healpix_centers(_CENTER_NSIDE, pixels, nest=False)
    seen = sky.footprint.covers(centers)
    if not seen.any():
        raise InputError("expected a sky that was observed somewhere; got none; check its cubes")
    return None if seen.all() else centers[seen]


def _random_plane(rng, config, directions=None):
    """A random tangent plane: half anywhere, half near the Galactic plane or centre."""
    lon, lat = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-1, 1)))
    place = rng.random()
    if directions is not None:
        lon, lat = lonlat_from_vectors(rng.choice(directions))
    elif place < 0.25:  # along the Galactic plane
        lat = rng.normal(0, 5)
    elif place < 0.5:  # around the Galactic centre
        lon, lat = rng.normal(0, 25) % 360, rng.normal(0, 3)
    lat = float(np.clip(lat, -90, 90))
    return TangentPlane(lon, lat, config.patch_pixels, config.pixel_deg, rng.uniform(0, 360))


def _source_rows(patch, number, sky, source_class):
    """Detected or labelled true sources of a patch, of `SOURCE_DTYPE`."""
    rows = np.zeros(len(patch.source), dtype=SOURCE_DTYPE)
    for name in ("x", "y", "n_photons", "background", "significance", "labelled"):
        rows[name] = getattr(patch, name)
    rows["patch"], rows["flux"] = number, sky.sources.flux[patch.source]
    rows["source_class"] = source_class[patch.source]
    rows["glon"], rows["glat"] = lonlat_from_vectors(sky.sources.vectors[patch.source])
    return rows[(rows["n_photons"] > 0) | rows["labelled"]]


def _classes_of(sources, classes):
    """Class of each source (n,), an index into ``classes``; with one class all are of it."""
    if len(classes) == 1:
        return np.zeros(len(sources), dtype=np.uint8)
    present = [CLASSES[number] for number in np.unique(sources.source_class)]
    missing = [name for name in present if name not in classes]
    if missing:
        raise InputError(
            f"expected the classes of all sources ({', '.join(present)}), or one name for all; got "
            f"{', '.join(classes)}; name {', '.join(missing)} too"
        )
    index = [classes.index(name) if name in classes else 0 for name in CLASSES]
    return np.array(index, dtype=np.uint8)[sources.source_class]


def _class_masks(rows, n_class, radius_pix, n_pix):
    """Discs around the labelled sources of a patch, (n_pix, n_pix, n_class) of uint8."""
    rows = rows[rows["labelled"]]
    of_class = (rows[rows["source_class"] == number] for number in range(n_class))
    return np.stack([source_mask(r["x"], r["y"], radius_pix, n_pix) for r in of_class], axis=-1)


def patches_of_sky(
    seed, *, n_patches, template=None, folder=None, band_edges=BAND_EDGES, classes=("source",),
    label_rule=None,
):  # fmt: skip
    """Columns and true sources of random patches of one sky, which depend on its seed alone."""
    rng = np.random.default_rng([20190, seed])
    config, grid = label_rule or TrainingConfig(), GridConfig()
    energy_range = (band_edges[0], band_edges[-1])
    if folder is None:
        sky = _simulated_sky(rng, template, energy_range)
    else:
        sky = _sky_of_folder(folder, energy_range, seed)
    observer = PatchObserver(sky, band_edges, config=config)
    sky, directions = observer.sky, _observed_directions(sky)
    source_class = _classes_of(sky.sources, classes)
    patches, sources = [], []
    for number in range(n_patches):
        observation = draw_observation(rng, band_edges=np.array(band_edges), years=_YEARS)
        patch = observer.observe(_random_plane(rng, grid, directions), observation, rng)
        patches.append(patch)
        sources.append(_source_rows(patch, number, sky, source_class))
    planes = [patch.plane for patch in patches]
    shape = (len(classes), config.mask_radius_pix, grid.patch_pixels)
    brightest = max(patch.counts.max() for patch in patches)
    if brightest > np.iinfo(np.uint16).max:
        raise InputError(
            f"expected at most 65535 photons in a pixel; got {brightest:g}; raise the energies"
        )
    columns = {
        "counts": np.stack([patch.counts.astype(np.uint16) for patch in patches]),
        "coverage": np.stack([p.coverage for p in patches]),
        "mask": np.stack([_class_masks(rows, *shape) for rows in sources]),
        "bands": np.stack([p.bands for p in patches]),
        "center": np.array([(p.lon_deg, p.lat_deg, p.rotation_deg) for p in planes]),
        "sky": np.full(n_patches, seed),
        "code": np.array([f"sky{seed:06d}-{i:04d}" for i in range(n_patches)], dtype="S24"),
    }
    return columns, np.concatenate(sources)


def _sky_file(seed, *, metadata, folders, **options):
    """The patch set of one sky, bytes; compressed in the worker."""
    columns, sources = patches_of_sky(seed, folder=folders.get(seed), **options)
    return sky_file_bytes(columns, sources, metadata=metadata)


def make_patch_set(
    path, *, n_skies=None, patches_per_sky=400, first_seed=0, template=None, folders=(),
    band_edges=BAND_EDGES, classes=("source",), label_rule=None, append=False, overwrite=False,
    executor=None, n_workers=1, progress=None,
):  # fmt: skip
    """Simulate skies and write observed patches of them to an HDF5 set.

    Finished skies are kept in the folder ``<path>.parts`` and joined at the end. An interrupted run
    is continued by calling it again. The set does not depend on interruptions, on the executor or
    on the order in which skies are finished.

    Parameters
    ----------
    path : str or path
        File to write.
    n_skies : int, optional
        Skies are seeded ``first_seed``, ``first_seed + 1``, ...; by default 60 of them.
    patches_per_sky : int
        Number of patches of each sky.
    first_seed : int
        Seed of the first sky; skies whose seed is a multiple of five are used for validation.
    template : str or path, optional
        Interstellar templates; built-in shapes without.
    folders : sequence of str or path
        Components of skies simulated elsewhere, each of one sky, used instead of own simulations,
        see `astro_unetloc.read_components`.
    band_edges : array-like (n_band + 1,)
        In GeV.
    classes : sequence of str
        Classes of the mask, AGN, PSR and OTHER, or one name for all.
    label_rule : TrainingConfig, optional
        Radius of the mask, and which sources are bright enough for it.
    append : bool
        Whether skies are appended to a finished set, up to ``n_skies`` in total.
    overwrite : bool
        Whether a finished set may be replaced once the new one is complete.
    executor : concurrent.futures.Executor, dask.distributed.Client or str, optional
        Runs the skies in parallel; or the address of a dask cluster such as ``tcp://node1:8786``.
    n_workers : int
        Number of processes of this machine without an executor.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Raises
    ------
    FileExistsError
        If the file holds a finished set that is neither appended to nor replaced.
    InputError, OSError
        If the file holds another set or none, an option is invalid, a folder cannot be read, a
        file cannot be written or a worker died; finished skies are kept.
    """
    rule, band_edges = label_rule or TrainingConfig(), tuple(map(float, band_edges))
    if isinstance(folders, str) or folders and (template or n_skies not in (None, len(folders))):
        raise InputError(
            f"folders must be a list, of one folder for each sky, and stand instead of a template; "
            f"got {folders!r}, {n_skies} skies and template {template}; give the folders alone"
        )
    n_skies = (len(folders) or 60) if n_skies is None else n_skies
    _check_options(n_skies, patches_per_sky, first_seed, band_edges, classes, rule)
    path, parts = Path(path), Path(f"{path}.parts")
    check_output(path, overwrite=True)
    for folder in folders:  # errors are raised here and not in a worker
        _components_within(folder, (band_edges[0], band_edges[-1]))
    for variant in TEMPLATE_SETS if template else ():
        interstellar(template, variant=variant)
    metadata = {
        "band_edges_gev": list(band_edges), "pixel_deg": GridConfig().pixel_deg,
        "classes": list(classes), **{name: float(value) for name, value in asdict(rule).items()},
        "seed": int(first_seed), "patches_per_sky": int(patches_per_sky),
        **_origin(template, folders), "version": __version__,
    }  # fmt: skip
    job = partial(
        _sky_file, metadata=metadata, n_patches=patches_per_sky, template=template,
        folders=dict(enumerate(map(str, folders), start=first_seed)),
        band_edges=band_edges, classes=tuple(classes), label_rule=rule,
    )  # fmt: skip
    with locked_folder(parts):
        n_done = 0 if overwrite else _skies_to_keep(path, parts, metadata, n_skies, append)
        _check_parts(parts, metadata, overwrite)
        seeds = range(first_seed + n_done, first_seed + n_skies)
        files = {seed: parts / f"sky{seed:06d}.h5" for seed in seeds}
        missing = [seed for seed in seeds if not files[seed].exists()]
        with (
            open_workers(executor if missing else None, min(n_workers, len(missing))) as workers,
            closing(run_shards(job, missing, executor=workers)) as results,
        ):
            for seed, content in progress(results, total=len(missing)) if progress else results:
                write_files({files[seed]: content}, overwrite=True)
        # in the folder of the parts, so that a killed run leaves no other file
        joined = [path] * bool(n_done) + list(files.values())
        join_patch_sets(joined, parts / "joined.h5", overwrite=True)
        os.replace(parts / "joined.h5", path)
        shutil.rmtree(parts)


def _check_options(n_skies, patches_per_sky, first_seed, band_edges, classes, rule):
    numbers = {"n_skies": n_skies, "patches_per_sky": patches_per_sky}
    bad = [f"{name} {value}" for name, value in numbers.items() if value < 1]
    bad += [f"first_seed {first_seed}"] * (first_seed < 0)
    bad += [f"{name} {value:g}" for name, value in asdict(rule).items() if not 0 <= value < np.inf]
    if bad:
        raise InputError(f"expected at least one sky, and no negative number; got {', '.join(bad)}")
    if not classes or len(set(classes)) != len(classes) or isinstance(classes, str):
        raise InputError(f"classes must be a list of different names; got {classes!r}")
    if len(band_edges) < 2 or not np.all(np.diff(band_edges) > 0):
        raise InputError(f"band_edges must be at least two that increase; got {band_edges}")


def _origin(template, folders):
    """Metadata of the files that skies are made of."""
    if not folders:
        checksum = _sha256(template) if template else ""
        name = Path(template).name if template else ""
        return {"years": _YEARS, "template": name, "template_sha256": checksum}
    names = [Path(folder).name for folder in folders]
    return {"folders": names, "folders_sha256": [_sha256(folder) for folder in folders]}


def _skies_to_keep(path, parts, metadata, n_skies, append):
    """Number of skies of a finished set that are kept, 0 without one."""
    if not path.exists():
        return 0
    with open_patch_set(path) as found:
        n_found, other = len(found.seeds), differences(found.metadata, metadata)
    if append and other:
        raise InputError(
            f"patch set {path}: expected one made with the same options; got {other}; "
            "choose another name"
        )
    if not append or n_skies <= n_found:
        if not other and n_skies <= n_found:
            shutil.rmtree(parts, ignore_errors=True)  # of a run killed after its last step
        raise FileExistsError(
            f"patch set must be unfinished or new; got the whole set {str(path)!r} of {n_found} "
            "skies; choose another name, append more skies or allow overwriting"
        )
    return n_found


def _check_parts(parts, metadata, overwrite):
    """Refuse unfinished skies made with other options, or delete them with ``overwrite``."""
    for part in sorted(parts.glob("sky*.h5")):
        with open_patch_set(part) as found:
            other = differences(found.metadata, metadata)
        if other and not overwrite:
            raise InputError(
                f"unfinished patch set {parts}: expected one made with the same options; got "
                f"{other}; give the same options, choose another name or allow overwriting"
            )
        if other:
            part.unlink()
