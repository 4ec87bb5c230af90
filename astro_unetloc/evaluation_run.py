"""Evaluation runs: from skies, a patch set or a catalogue to a judgement of all that was found."""

import hashlib
import json
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
from astro_unetloc.geometry import lonlat_from_vectors
from astro_unetloc.judgement import Judgement, judge, patch_parts
from astro_unetloc.pretrained import load_model
from astro_unetloc.references import galactic_vectors
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
    rival_threshold: float = -np.inf
    predictions: Path | None = None


def _thresholds(threshold, *models):
    """Smallest ``Score`` that is listed of each model, -inf where there is none (None)."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold of a model must be a Score from 0 to 1; got {threshold}; choose another"
        )
    own = [-np.inf if model is None else model.threshold for model in models]
    return own if threshold is None else [float(threshold)] * len(models)


def _recipe(model, **others):
    """What parts are made with: attributes of their files."""
    values = {
        "model": model.name,
        "model_sha256": model.sha256,
        "card_sha256": _card_digest(model),
        "band_edges_gev": model.band_edges.tolist(),
        "version": __version__,
    }
    return values | {name: value for name, value in others.items() if value is not None}


def _card_digest(model):
    """Twelve digits of all that the card says: presets, thresholds and calibration count too."""
    card = json.dumps(model.card, sort_keys=True)
    return hashlib.sha256(card.encode()).hexdigest()[:12]


def _told(recipe):
    """What a report says of a recipe."""
    return {name: value for name, value in recipe.items() if name != "codes"}


def _of_models(judgement, rival, against, thresholds, place):
    """What an `EvaluationRun` of a model, and of another one, holds."""
    return {
        "judgement": judgement,
        "threshold": thresholds[0],
        "rival": rival,
        "rival_name": against.name if against else "",
        "rival_threshold": thresholds[1],
        "predictions": place.folder and place.folder / "predictions.h5",
    }


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
        If the threshold is not within 0 and 1, if unfinished skies are there that were made
        otherwise, or as `astro_unetloc.find_sources`.
    """
    model, place, seeds = load_model(model), place or Workplace(), list(seeds)
    against = None if against is None else load_model(against)
    thresholds = _thresholds(threshold, model, against)
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
        **_of_models(judgement, rival, against, thresholds, place),
        about={"seeds": seeds} | _told(recipe),
        source_free=empty,
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
        Code names of patches to keep in any case; those that were not drawn do not count.
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
        If the set cannot be read, has other bands than a model or no sky to validate on, or if the
        threshold is not within 0 and 1.
    """
    model, place = load_model(model), place or Workplace()
    against = None if against is None else load_model(against)
    thresholds = _thresholds(threshold, model, against)
    rival = None
    with open_patch_set(path) as patch_set:
        for each in filter(None, (model, against)):
            check_bands(patch_set, each)
        rows, named = chosen_rows(patch_set, n_patches, codes=codes, everything=all_skies)
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

        recipe, mine = _recipe(model, **told), jobs(model)
        if len(named) and place.folder:
            mine["named"] = partial(predict_rows, patch_set, named, model, judged=False)
        joined = "predictions.h5" if place.folder else None
        judgement = place.judged(recipe, mine, joined=joined, progress=progress)
        if against is not None:
            beside, bare = place.beside("against"), _recipe(against, **told)
            rival = beside.judged(bare, jobs(against), progress=progress)
    return EvaluationRun(
        **_of_models(judgement, rival, against, thresholds, place), about=_told(recipe)
    )


def _checksum(patch_set):
    """Twelve digits that tell one set from another: of the checksums of its skies."""
    return hashlib.sha256(patch_set.skies.tobytes()).hexdigest()[:12]


def run_on_catalog(catalog, truth, *, threshold=None, against=None):
    """Judge a catalogue by the truth of its simulated sky.

    Parameters
    ----------
    catalog, truth : str or path
        Files that `astro_unetloc.read_catalog` reads, with positions as
        `astro_unetloc.references.sky_positions` takes them. The catalogue has a column ``Score``,
        the truth is as `astro_unetloc.simulate_sky` gives it.
    threshold : float, optional
        Smallest score of a detection, on the scale of the catalogue; all are taken by default.
    against : str or path, optional
        Another catalogue of the same sky.

    Returns
    -------
    EvaluationRun

    Raises
    ------
    FileNotFoundError, ValueError
        If a file cannot be read, lacks a column or has rows without a position.
    """
    # scores of other programs may be negative
    cut = -np.inf if threshold is None else float(threshold)
    tables = [_read_placed(path) for path in (catalog, truth)]
    options = {"part": patch_parts(Path(truth).name)}
    lowest = tables[0].meta.get("FITEMIN", tables[0].meta.get("EMIN", np.inf))
    options["brightest"] = float(lowest) < BRIGHTEST_BELOW_GEV
    rival = None if against is None else judge(_read_placed(against), tables[1], **options)
    about = {"catalog": Path(catalog).name, "truth": Path(truth).name, "version": __version__}
    names = {"MODEL": "model", "MODELSHA": "model_sha256", "INFILE": "map"}
    about |= {ours: tables[0].meta[name] for name, ours in names.items() if name in tables[0].meta}
    return EvaluationRun(
        judgement=judge(*tables, **options),
        threshold=cut,
        about=about,
        rival=rival,
        rival_name=Path(against).name if against else "",
        rival_threshold=cut,
    )


def _read_placed(path):
    """The catalogue in a file, with ``GLON`` and ``GLAT`` whatever positions it has."""
    import astropy.units as u

    table = read_catalog(path)
    vectors = galactic_vectors(table)
    n_unknown = int(np.sum(~np.isfinite(vectors).all(axis=1)))
    if n_unknown:
        raise ValueError(
            f"{path}: expected a position in each row; got {n_unknown} rows without; remove them"
        )
    if not {"GLON", "GLAT"} <= set(table.colnames):
        table["GLON"], table["GLAT"] = (angle * u.deg for angle in lonlat_from_vectors(vectors))
    return table
