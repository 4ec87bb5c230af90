"""Patch sets to train on: simulated skies, each observed in many ways, written to HDF5."""

import os
import shutil
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc import __version__
from astro_unetloc.config import GridConfig, TrainingConfig
from astro_unetloc.datasets import SCHEMA, SOURCE_DTYPE, open_patch_set
from astro_unetloc.geometry import lonlat_from_vectors
from astro_unetloc.observation import PatchObserver, draw_observation, source_mask
from astro_unetloc.patch_files import join_patch_sets, sky_file_bytes, write_whole
from astro_unetloc.population import CLASSES
from astro_unetloc.shards import run_shards
from astro_unetloc.training_skies import (
    YEARS,
    check_template,
    components_within,
    file_digest,
    folder_digest,
    observed_directions,
    random_plane,
    simulated_sky,
    sky_of_folder,
)

__all__ = ["BAND_EDGES", "make_patch_set", "patches_of_sky"]

# Bands of `lat-10gev` in GeV, those of 3FHL (arXiv:1702.00664).
BAND_EDGES = (10.0, 20.0, 50.0, 150.0, 500.0, 2000.0)
_N_SKIES = 60


def _source_rows(patch, number, sky, source_class):
    """True sources of a patch that are seen or asked for, of `SOURCE_DTYPE`."""
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
        raise ValueError(
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
    seed,
    *,
    n_patches,
    template=None,
    folder=None,
    band_edges=BAND_EDGES,
    classes=("source",),
    label_rule=None,
):
    """Simulate one sky, or read it from a folder, and observe patches of it.

    Parameters
    ----------
    seed : int
        Seed of the sky; the patches depend on nothing else.
    n_patches : int
        How many.
    template : str or path, optional
        See `astro_unetloc.diffuse.interstellar`.
    folder : str or path, optional
        Components of a sky to take instead, see `astro_unetloc.components.read_components`.
    band_edges : array-like (n_band + 1,)
        In GeV.
    classes : sequence of str
        Classes of the mask, names of `astro_unetloc.population.CLASSES`, or one name for all.
    label_rule : TrainingConfig, optional
        Radius of the mask, and which sources are bright enough for it.

    Returns
    -------
    columns : dict of str to ndarray
        As `astro_unetloc.patch_files.sky_file_bytes` takes them.
    sources : ndarray of `astro_unetloc.datasets.SOURCE_DTYPE`
        The true sources.

    Raises
    ------
    ValueError
        If a class of the sources is not named, or a pixel holds more than 65535 photons.
    """
    rng = np.random.default_rng([20190, seed])
    config, grid = label_rule or TrainingConfig(), GridConfig()
    energy_range = (band_edges[0], band_edges[-1])
    if folder is None:
        sky = simulated_sky(rng, template, energy_range)
    else:
        sky = sky_of_folder(folder, energy_range, seed)
    observer = PatchObserver(sky, band_edges, config=config)
    sky, directions = observer.sky, observed_directions(sky)
    source_class = _classes_of(sky.sources, classes)
    patches, sources = [], []
    for number in range(n_patches):
        observation = draw_observation(rng, band_edges=np.array(band_edges), years=YEARS)
        patch = observer.observe(random_plane(rng, grid, directions), observation, rng)
        patches.append(patch)
        sources.append(_source_rows(patch, number, sky, source_class))
    shape = (len(classes), config.mask_radius_pix, grid.patch_pixels)
    columns = {
        "counts": np.stack([_small_integers(p.counts) for p in patches]),
        "coverage": np.stack([p.coverage for p in patches]),
        "mask": np.stack([_class_masks(rows, *shape) for rows in sources]),
        "bands": np.stack([p.bands for p in patches]),
        "center": np.array(
            [(p.plane.lon_deg, p.plane.lat_deg, p.plane.rotation_deg) for p in patches]
        ),
        "sky": np.full(n_patches, seed),
        "code": np.array([f"sky{seed:06d}-{i:04d}" for i in range(n_patches)], dtype="S24"),
    }
    return columns, np.concatenate(sources)


def _small_integers(counts):
    if counts.max(initial=0) > np.iinfo(np.uint16).max:
        raise ValueError(
            f"expected at most 65535 photons in a pixel; got {counts.max():g}; raise the energies"
        )
    return counts.astype(np.uint16)


def _sky_file(seed, *, recipe, folders, **options):
    """The patch set of one sky as bytes, compressed where it was made: a worker gives no more."""
    columns = patches_of_sky(seed, folder=folders.get(seed), **options)
    return sky_file_bytes(*columns, recipe=recipe)


def make_patch_set(
    path,
    *,
    n_skies=None,
    patches_per_sky=400,
    first_seed=0,
    template=None,
    folders=(),
    band_edges=BAND_EDGES,
    classes=("source",),
    label_rule=None,
    append=False,
    overwrite=False,
    executor=None,
    n_pending=16,
    progress=None,
):
    """Simulate skies and write observed patches of them as an HDF5 set.

    Every sky that is finished is kept in the folder ``<path>.parts``; the set is put together of
    them at the end. A run that ended early is continued by calling it again, whenever and however
    it ended, and the set is the same, whatever the executor and the order in which skies come.

    Parameters
    ----------
    path : str or path
        File to write.
    n_skies : int, optional
        Skies are seeded ``first_seed``, ``first_seed + 1``, ...; by default 60 of them.
    patches_per_sky : int
        Patches of each.
    first_seed : int
        Seed of the first sky; every sky whose seed five divides is one to validate on.
    template : str or path, optional
        Interstellar templates; built-in shapes without.
    folders : sequence of str or path
        Components of skies that were made elsewhere, to take instead of simulated skies: each is
        one sky, see `astro_unetloc.components.read_components`.
    band_edges : array-like (n_band + 1,)
        In GeV.
    classes : sequence of str
        Classes of the mask, names of `astro_unetloc.population.CLASSES`, or one name for all.
    label_rule : TrainingConfig, optional
        Radius of the mask, and which sources are bright enough for it.
    append : bool
        Whether a finished set is made longer, up to ``n_skies`` skies in all.
    overwrite : bool
        Whether a finished set may be replaced, once the new one is whole.
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        Runs the skies in parallel; for processes see `astro_unetloc.shards.process_pool`.
    n_pending : int
        Most skies given to the executor at once, no less than it has workers.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Raises
    ------
    FileExistsError
        If the file holds a finished set that is neither to be made longer nor replaced.
    ValueError
        If it holds a set of another kind or is none, an option is impossible, or a folder cannot
        be read.
    OSError
        If something cannot be written, because the disk is full for one, or a worker died;
        finished skies are kept.
    """
    rule = label_rule or TrainingConfig()
    n_skies = _number_of_skies(n_skies, folders, template)
    _check_options(n_skies, patches_per_sky, first_seed, band_edges, classes, rule)
    path, parts = Path(path), Path(f"{path}.parts")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"output directory must exist; got {str(path.parent)!r}; create it first"
        )
    for folder in folders:
        components_within(folder, (band_edges[0], band_edges[-1]))
    recipe = _recipe(patches_per_sky, first_seed, template, folders, band_edges, classes, rule)
    n_done = 0 if overwrite else _skies_to_keep(path, parts, recipe, n_skies, append)
    _check_parts(parts, recipe, overwrite)
    check_template(template)
    seeds = range(first_seed + n_done, first_seed + n_skies)
    files = {seed: parts / f"sky{seed:06d}.h5" for seed in seeds}
    missing = [seed for seed in seeds if not files[seed].exists()]
    job = partial(
        _sky_file,
        recipe=recipe,
        n_patches=patches_per_sky,
        template=template,
        folders=dict(enumerate(map(str, folders), start=first_seed)),
        band_edges=tuple(band_edges),
        classes=tuple(classes),
        label_rule=rule,
    )
    with closing(run_shards(job, missing, executor=executor, n_pending=n_pending)) as results:
        for seed, content in progress(results, total=len(missing)) if progress else results:
            parts.mkdir(exist_ok=True)
            write_whole(files[seed], content)
    # beside the parts, so that nothing of it stays elsewhere when this is killed
    join_patch_sets([path] * bool(n_done) + list(files.values()), parts / "joined.h5")
    os.replace(parts / "joined.h5", path)
    shutil.rmtree(parts)


def _number_of_skies(n_skies, folders, template):
    if not folders:
        return _N_SKIES if n_skies is None else n_skies
    if isinstance(folders, str):
        raise ValueError(f"folders must be a list; got {folders!r}; put it in brackets")
    if template or n_skies not in (None, len(folders)):
        raise ValueError(
            f"expected as many skies as folders, and no template; got {n_skies} skies, "
            f"{len(folders)} folders and template {template}; give the folders alone"
        )
    return len(folders)


def _check_options(n_skies, patches_per_sky, first_seed, band_edges, classes, rule):
    numbers = {"n_skies": n_skies, "patches_per_sky": patches_per_sky}
    bad = [f"{name} {value}" for name, value in numbers.items() if value < 1]
    bad += [f"first_seed {first_seed}"] * (first_seed < 0)
    bad += [f"{name} {value:g}" for name, value in asdict(rule).items() if not 0 <= value < np.inf]
    if bad:
        raise ValueError(f"expected at least one sky, and no negative number; got {', '.join(bad)}")
    if not classes or len(set(classes)) != len(classes) or isinstance(classes, str):
        raise ValueError(f"classes must be a list of different names; got {classes!r}")
    edges = np.asarray(band_edges, dtype=float)
    if len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"band_edges must be at least two that increase; got {edges.tolist()}")


def _recipe(patches_per_sky, first_seed, template, folders, band_edges, classes, rule):
    """Attributes of the file: what its patches are made with, for skies of any number."""
    if folders:
        origin = {
            "folders": [Path(folder).name for folder in folders],
            "folders_sha256": [folder_digest(folder) for folder in folders],
        }
    else:
        origin = {
            "years": YEARS,
            "template": Path(template).name if template else "",
            "template_sha256": file_digest(template) if template else "",
        }
    return {
        "band_edges_gev": [float(edge) for edge in band_edges],
        "pixel_deg": GridConfig().pixel_deg,
        "classes": list(classes),
        **{name: float(value) for name, value in asdict(rule).items()},
        "seed": int(first_seed),
        "patches_per_sky": int(patches_per_sky),
        **origin,
        "version": __version__,
    }


def _differences(found, recipe):
    """What a set was made with that is not asked for, as text; empty for the same recipe."""
    asked = recipe | {"schema": SCHEMA}
    names = [name for name in asked | found if asked.get(name) != found.get(name)]
    return ", ".join(f"{name} {found.get(name)!r}, not {asked.get(name)!r}" for name in names)


def _skies_to_keep(path, parts, recipe, n_skies, append):
    """How many skies of a finished set stay; 0 where there is none."""
    if not path.exists():
        return 0
    with open_patch_set(path) as found:
        n_found, differences = len(found.skies), _differences(found.recipe, recipe)
    if append and differences:
        raise ValueError(
            f"patch set {path}: expected one made with the same options; got {differences}; "
            "choose another name"
        )
    if not append or n_skies <= n_found:
        if not differences and n_skies <= n_found:
            shutil.rmtree(parts, ignore_errors=True)  # of a run killed after its last step
        raise FileExistsError(
            f"patch set must be unfinished or new; got the whole set {str(path)!r} of {n_found} "
            "skies; choose another name, append more skies or allow overwriting"
        )
    return n_found


def _check_parts(parts, recipe, overwrite):
    """Refuse the unfinished skies of another recipe, or throw them away."""
    for part in sorted(parts.glob("sky*.h5")):
        with open_patch_set(part) as found:
            differences = _differences(found.recipe, recipe)
        if differences and not overwrite:
            raise ValueError(
                f"unfinished patch set {parts}: expected one made with the same options; got "
                f"{differences}; give the same options, choose another name or allow overwriting"
            )
        if differences:
            part.unlink()
