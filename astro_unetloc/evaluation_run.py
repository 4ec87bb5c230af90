"""Evaluation runs: from skies, a patch set or a catalogue to a judgement of all that was found."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc import __version__
from astro_unetloc.catalog import read_catalog
from astro_unetloc.config import GridConfig
from astro_unetloc.datasets import open_patch_set
from astro_unetloc.evaluation_sets import check_bands, chosen_rows, predict_rows
from astro_unetloc.evaluation_skies import (
    BRIGHTEST_BELOW_GEV,
    check_codes,
    chosen_patches,
    narrowed,
    predict_sky,
)
from astro_unetloc.judgement import Judgement, judge, patch_parts
from astro_unetloc.pretrained import load_model
from astro_unetloc.training_skies import file_digest
from astro_unetloc.workplace import Workplace

__all__ = ["EvaluationRun", "run_on_catalog", "run_on_set", "run_on_skies"]

# Patches of a set that are searched together, and kept in one file until the end.
_CHUNK = 100


@dataclass(frozen=True)
class EvaluationRun:
    """What was found, judged.

    Attributes
    ----------
    judgement : Judgement
        Of every candidate, whatever its score.
    threshold : float
        Smallest ``Score`` of a detection.
    about : dict of str to value
        What was run: model, seeds and the like.
    source_free : Judgement or None
        Of a sky without sources.
    rival : Judgement or None
        Of another model or catalogue, by the same truth.
    rival_name : str
        Its name.
    rival_threshold : float
        Smallest ``Score`` of a detection of it.
    predictions : Path or None
        File of predictions, see `astro_unetloc.prediction_files`.
    """

    judgement: Judgement
    threshold: float
    about: dict
    source_free: Judgement | None = None
    rival: Judgement | None = None
    rival_name: str = ""
    rival_threshold: float = 0.0
    predictions: Path | None = None


def _threshold(model, threshold):
    return model.threshold if threshold is None else float(threshold)


def _recipe(model, **others):
    """What parts are made with: attributes of their files."""
    values = {
        "model": model.name,
        "model_sha256": model.sha256,
        "band_edges_gev": model.band_edges.tolist(),
        "version": __version__,
    }
    return values | {name: value for name, value in others.items() if value is not None}


def run_on_skies(
    model=None,
    *,
    seeds,
    years=7.0,
    template=None,
    variant="P6V11",
    energy_range=None,
    threshold=None,
    n_patches=1000,
    codes=(),
    source_free=False,
    against=None,
    place=None,
    progress=None,
):
    """Search whole simulated skies and judge what is found.

    Parameters
    ----------
    model : str, path or Model, optional
        The model to evaluate; the default model if None.
    seeds : sequence of int
        One sky for each; use seeds that were not trained or tuned on.
    years, template, variant
        See `astro_unetloc.simulate_sky`.
    energy_range : pair of Quantity or float, optional
        Energies of the photons, GeV if bare, as of a map that has not all of the model's.
    threshold : float, optional
        Smallest score of a detection; that of the model's card by default.
    n_patches : int
        Patches to keep, as many of each sky.
    codes : sequence of str
        Code names of patches to keep in any case.
    source_free : bool
        Whether a sky without sources is searched too, with the first seed.
    against : str, path or Model, optional
        Another model, to search the same skies with.
    place : Workplace, optional
        Where finished skies and patches are kept; nothing is kept without one.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    EvaluationRun

    Raises
    ------
    ValueError
        If unfinished skies are there that were made otherwise, or as `astro_unetloc.find_sources`.
    """
    model, place, seeds = load_model(model), place or Workplace(), list(seeds)
    against = None if against is None else load_model(against)
    edges = narrowed(model.band_edges, energy_range)
    sky = {
        "years": float(years), "template": template, "variant": variant, "band_edges": edges
    }  # fmt: skip
    told = {
        "years": float(years),
        "template": Path(template).name if template else None,
        "template_sha256": file_digest(template) if template else None,
        "variant": variant if template else None,
        "pixel_deg": GridConfig().pixel_deg,
        "sky_band_edges_gev": None if energy_range is None else edges.tolist(),
    }
    check_codes(codes, seeds)
    share = -(-n_patches // len(seeds))
    recipe = _recipe(model, **told, patches_per_sky=share, codes=list(codes) or None)
    options = sky | {"progress": progress}
    jobs = {}
    for seed in seeds:
        numbers = chosen_patches(seed, share, codes=codes) if place.folder else ()
        jobs[f"sky{seed:06d}"] = partial(predict_sky, model, seed, numbers=numbers, **options)
    joined = "predictions.h5" if place.folder else None
    judgement = place.judged(recipe, jobs, joined=joined)
    empty = rival = None
    if source_free:
        job = partial(predict_sky, model, seeds[0], with_sources=False, **options)
        bare = _recipe(model, **told)
        empty = place.judged(bare, {f"source-free{seeds[0]:06d}": job})
    if against is not None:
        jobs = {f"sky{seed:06d}": partial(predict_sky, against, seed, **options) for seed in seeds}
        bare = _recipe(against, **told | {"sky_band_edges_gev": edges.tolist()})
        rival = place.beside("against").judged(bare, jobs)
    return EvaluationRun(
        judgement=judgement,
        threshold=_threshold(model, threshold),
        about={"seeds": seeds} | {n: v for n, v in recipe.items() if n != "codes"},
        source_free=empty,
        rival=rival,
        rival_name=against.name if against else "",
        rival_threshold=_threshold(against, threshold) if against else 0.0,
        predictions=place.folder and place.folder / "predictions.h5",
    )


def run_on_set(
    path,
    model=None,
    *,
    threshold=None,
    n_patches=1000,
    codes=(),
    all_skies=False,
    against=None,
    place=None,
    progress=None,
):
    """Search patches of a patch set and judge what is found.

    Parameters
    ----------
    path : str or path
        Patch set in the bands of the model, see `astro_unetloc.datasets`.
    model : str, path or Model, optional
        The model to evaluate; the default model if None.
    threshold : float, optional
        Smallest score of a detection; that of the model's card by default.
    n_patches : int
        At most so many.
    codes : sequence of str
        Code names of patches to take in any case.
    all_skies : bool
        Whether patches that a model may have been trained on are taken too.
    against : str, path or Model, optional
        Another model in the same bands.
    place : Workplace, optional
        Where finished patches are kept; nothing is kept without one.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    EvaluationRun

    Raises
    ------
    FileNotFoundError, ValueError
        If the set cannot be read, has other bands than a model or no sky to validate on.
    """
    model, place = load_model(model), place or Workplace()
    against = None if against is None else load_model(against)
    rival = None
    with open_patch_set(path) as patch_set:
        for each in filter(None, (model, against)):
            check_bands(patch_set, each)
        rows = chosen_rows(patch_set, n_patches, codes=codes, everything=all_skies)
        told = {
            "patch_set": Path(path).name,
            "patch_set_checksum": _checksum(patch_set),
            "n_patches": len(rows),
            "all_skies": bool(all_skies),
            "pixel_deg": float(patch_set.recipe["pixel_deg"]),
            "codes": list(codes) or None,
        }
        chunks = np.array_split(rows, -(-len(rows) // _CHUNK))

        def jobs(of):
            return {
                f"patches{i:04d}": partial(predict_rows, patch_set, chunk, of)
                for i, chunk in enumerate(chunks)
            }

        recipe = _recipe(model, **told)
        joined = "predictions.h5" if place.folder else None
        judgement = place.judged(recipe, jobs(model), joined=joined, progress=progress)
        if against is not None:
            beside, bare = place.beside("against"), _recipe(against, **told)
            rival = beside.judged(bare, jobs(against), progress=progress)
    return EvaluationRun(
        judgement=judgement,
        threshold=_threshold(model, threshold),
        about={n: v for n, v in recipe.items() if n != "codes"},
        rival=rival,
        rival_name=against.name if against else "",
        rival_threshold=_threshold(against, threshold) if against else 0.0,
        predictions=place.folder and place.folder / "predictions.h5",
    )


def _checksum(patch_set):
    """Twelve digits that tell one set from another: of the checksums of its skies."""
    import hashlib

    return hashlib.sha256(patch_set.skies.tobytes()).hexdigest()[:12]


def run_on_catalog(catalog, truth, *, threshold=None, against=None):
    """Judge a catalogue by the truth of its simulated sky.

    Parameters
    ----------
    catalog, truth : str or path
        Files that `astro_unetloc.read_catalog` reads; the truth as `astro_unetloc.simulate_sky`
        gives it.
    threshold : float, optional
        Smallest score of a detection; all are taken by default.
    against : str or path, optional
        Another catalogue of the same sky.

    Returns
    -------
    EvaluationRun

    Raises
    ------
    FileNotFoundError, ValueError
        If a file cannot be read or lacks a column.
    """
    tables = [read_catalog(path) for path in (catalog, truth)]
    options = {"part": patch_parts(Path(truth).name)}
    lowest = tables[0].meta.get("FITEMIN", tables[0].meta.get("EMIN", np.inf))
    options["brightest"] = float(lowest) < BRIGHTEST_BELOW_GEV
    rival = None if against is None else judge(read_catalog(against), tables[1], **options)
    about = {"catalog": Path(catalog).name, "truth": Path(truth).name, "version": __version__}
    names = {"MODEL": "model", "MODELSHA": "model_sha256", "INFILE": "map"}
    about |= {ours: tables[0].meta[name] for name, ours in names.items() if name in tables[0].meta}
    return EvaluationRun(
        judgement=judge(*tables, **options),
        threshold=threshold or 0.0,
        about=about,
        rival=rival,
        rival_name=Path(against).name if against else "",
        rival_threshold=threshold or 0.0,
    )
