"""Patch sets to train on: simulated skies, each observed in many ways, written to HDF5."""

from pathlib import Path

import numpy as np

from astro_unetloc.config import GridConfig, TrainingConfig
from astro_unetloc.datasets import SOURCE_DTYPE, append_patches, create_patch_set, read_patch_set
from astro_unetloc.diffuse import TEMPLATE_SETS, interstellar, perturb
from astro_unetloc.geometry import TangentPlane
from astro_unetloc.observation import PatchObserver, draw_observation, source_mask
from astro_unetloc.population import draw_sources
from astro_unetloc.response import KingPSF, SurveyExposure
from astro_unetloc.simulation import draw_photons

__all__ = ["BAND_EDGES", "make_patch_set", "patches_of_sky"]

# Bands of `lat-10gev` in GeV, those of 3FHL (arXiv:1702.00664).
BAND_EDGES = (10.0, 20.0, 50.0, 150.0, 500.0, 2000.0)
_YEARS = 16.0


def _training_sky(rng, template):
    """A sky unlike any other: another interstellar model, populations and PSF scattered."""
    variant = str(rng.choice([*TEMPLATE_SETS, "built-in"]))
    builtin = template is None or variant == "built-in"
    diffuse = interstellar(None if builtin else template, variant="P6V11" if builtin else variant)
    diffuse = perturb(
        diffuse,
        rng,
        scatter=0.2,
        small_scale=rng.uniform(0.1, 0.45),
        slope=rng.uniform(2.2, 3.2),
    )
    sources = draw_sources(
        rng,
        agn=rng.uniform(0.6, 1.4),
        pulsars=rng.uniform(0.6, 2.5),
        galactic=rng.uniform(0.6, 2.5),
        extended=rng.uniform(0.5, 1.5),
    )
    psf = KingPSF(rng.uniform(0.92, 1.1))
    return draw_photons(diffuse, sources, exposure=SurveyExposure(_YEARS), psf=psf, rng=rng)


def _random_plane(rng, config):
    """A tangent plane at any rotation: half of them anywhere, half where skies are crowded."""
    lon, lat = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-1, 1)))
    place = rng.random()
    if place < 0.25:  # along the Galactic plane
        lat = rng.normal(0, 5)
    elif place < 0.5:  # around the Galactic centre
        lon, lat = rng.normal(0, 25) % 360, rng.normal(0, 3)
    return TangentPlane(
        lon,
        float(np.clip(lat, -90, 90)),
        config.patch_pixels,
        config.pixel_deg,
        rng.uniform(0, 360),
    )


def patches_of_sky(seed, *, n_patches, template=None, band_edges=BAND_EDGES):
    """Simulate one sky and observe patches of it.

    Parameters
    ----------
    seed : int
        Seed of the sky; the patches depend on nothing else.
    n_patches : int
        How many.
    template : str or path, optional
        See `astro_unetloc.simulation.interstellar`.
    band_edges : array-like (n_band + 1,)
        In GeV.

    Returns
    -------
    columns : dict of str to ndarray
        As `astro_unetloc.datasets.append_patches` takes them.
    sources : ndarray of `astro_unetloc.datasets.SOURCE_DTYPE`
        The true sources.
    """
    rng = np.random.default_rng([20190, seed])
    config, grid = TrainingConfig(), GridConfig()
    sky = _training_sky(rng, template)
    observer = PatchObserver(sky, band_edges, config=config)
    patches, sources = [], []
    for number in range(n_patches):
        observation = draw_observation(rng, band_edges=np.array(band_edges), years=_YEARS)
        patch = observer.observe(_random_plane(rng, grid), observation, rng)
        patches.append(patch)
        rows = np.zeros(len(patch.source), dtype=SOURCE_DTYPE)
        rows["patch"], rows["flux"] = number, sky.sources.flux[patch.source]
        for name in ("x", "y", "n_photons", "background", "labelled"):
            rows[name] = getattr(patch, name)
        sources.append(rows[(rows["n_photons"] > 0) | rows["labelled"]])
    masks = [
        source_mask(p.x[p.labelled], p.y[p.labelled], config.mask_radius_pix, grid.patch_pixels)
        for p in patches
    ]
    columns = {
        "counts": np.stack([p.counts for p in patches]).astype(np.uint16),
        "coverage": np.stack([p.coverage for p in patches]),
        "mask": np.stack(masks)[..., None],
        "bands": np.stack([p.bands for p in patches]),
        "center": np.array(
            [(p.plane.lon_deg, p.plane.lat_deg, p.plane.rotation_deg) for p in patches]
        ),
        "sky": np.full(n_patches, seed),
        "code": np.array([f"sky{seed:06d}-{i:04d}" for i in range(n_patches)], dtype="S24"),
    }
    return columns, np.concatenate(sources)


def make_patch_set(
    path,
    *,
    n_skies,
    patches_per_sky=400,
    first_seed=0,
    template=None,
    band_edges=BAND_EDGES,
    executor=None,
    progress=None,
):
    """Simulate skies and write observed patches of them as an HDF5 set.

    Parameters
    ----------
    path : str or path
        File to write; if it holds an unfinished set of the same seed it is continued.
    n_skies, patches_per_sky : int
        Skies are seeded ``first_seed``, ``first_seed + 1``, ...
    first_seed : int
        Seed of the first sky.
    template : str or path, optional
        Interstellar templates; built-in shapes without.
    band_edges : array-like (n_band + 1,)
        In GeV.
    executor : concurrent.futures.Executor, optional
        Runs the skies in parallel; the result is the same. Processes must be spawned, not forked:
        OpenMP, which healpy uses, hangs in a fork.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Raises
    ------
    FileExistsError
        If the file holds a finished set.
    ValueError
        If it holds an unfinished set of another kind, or is none.
    """
    from functools import partial

    grid = GridConfig()
    path = Path(path)
    if path.exists():
        done = _skies_done(path, patches_per_sky, first_seed, band_edges)
    else:
        done = 0
        create_patch_set(
            path,
            n_pix=grid.patch_pixels,
            pixel_deg=grid.pixel_deg,
            band_edges=band_edges,
            seed=first_seed,
        )
    seeds = range(first_seed + done, first_seed + n_skies)
    job = partial(
        patches_of_sky, n_patches=patches_per_sky, template=template, band_edges=band_edges
    )
    results = executor.map(job, seeds) if executor else map(job, seeds)
    pairs = zip(seeds, results)
    for seed, (columns, sources) in progress(pairs, total=len(seeds)) if progress else pairs:
        append_patches(path, columns, sources, complete=seed == seeds[-1])


def _skies_done(path, patches_per_sky, first_seed, band_edges):
    """How many skies an unfinished patch set holds, if it is of the kind that is asked for."""
    found = read_patch_set(path)
    if found["complete"]:
        raise FileExistsError(
            f"patch set must be unfinished or new; got the whole set {str(path)!r}; choose another "
            "name or allow overwriting"
        )
    skies, n_patches = np.unique(found["sky"], return_counts=True)
    same = found["seed"] == first_seed and np.array_equal(found["band_edges_gev"], band_edges)
    if not same or np.any(n_patches != patches_per_sky):
        raise ValueError(
            f"unfinished patch set {path}: expected seed {first_seed}, {patches_per_sky} patches "
            f"of each sky and the same bands; got seed {found['seed']} and "
            f"{', '.join(map(str, np.unique(n_patches))) or 'no'} patches; choose another name"
        )
    return len(skies)
