"""Evaluation runs: simulated skies, a patch set or a catalogue, matched with the truth.

Each finished sky (or every hundred patches of a set) is a checkpoint, from which a run that was
killed is resumed; all of them are joined to ``predictions.h5``.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.units import Quantity

from astro_unetloc import __version__
from astro_unetloc.catalog.read import read_catalog, searched_area, was_searched
from astro_unetloc.catalog.table import galactic_vectors
from astro_unetloc.evaluation import predictions
from astro_unetloc.evaluation.comparison import energies_of
from astro_unetloc.evaluation.truth import TruthMatch, grid_tiles, join_matches, match_truth
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import checksum
from astro_unetloc.maps.patches import GridConfig
from astro_unetloc.sphere import SKY_DEG2, lonlat_from_vectors
from astro_unetloc.training.patch_set import open_patch_set
from astro_unetloc.unet.model import load_model

_CHUNK = 100  # patches of a set in one checkpoint


@dataclass(frozen=True)
class EvaluationRun:
    """Matches of everything that a run found."""

    matches: TruthMatch  # of every candidate, whatever its ``Score``
    threshold: float  # smallest ``Score`` of the detections that are listed
    metadata: dict  # model, seeds and the like
    source_free: TruthMatch | None = None  # of a sky without sources
    baseline: TruthMatch | None = None  # of another model or catalogue, with the same truth
    baseline_name: str = ""
    baseline_threshold: float = -np.inf
    predictions: Path | None = None  # file of predictions
    checkpoints: tuple = ()  # files that are not needed once the report is written

    def remove_checkpoints(self):
        """Remove the files of the run, and the folders that are empty without them."""
        for path in self.checkpoints:
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in self.checkpoints}, reverse=True):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def run_on_skies(
    model=None, *, baseline=None, seeds, years=7.0, template=None, variant="P6V11",
    energy_range=None, threshold=None, n_patches=1000, codes=(), source_free=False,
    checkpoints=None, overwrite=False, progress=None,
):  # fmt: skip
    """Matches of a model on whole simulated skies.

    Parameters
    ----------
    model, baseline : str, path or Model, optional
        The model to evaluate, the default model if None, and another that searches the same skies.
    seeds : sequence of int
        One sky for each; use seeds that were not trained or tuned on.
    years, template, variant
        See `astro_unetloc.simulate_sky`.
    energy_range : pair of Quantity or float, optional
        Energies of the photons, GeV if bare, as of a map that has not all of the model's.
    threshold : float, optional
        Smallest ``Score`` of a detection; that of the model's card by default.
    n_patches : int
        Number of patches to keep, the same of each sky.
    codes : sequence of str
        Names of further patches to keep.
    source_free : bool
        Whether a sky without sources is searched too, with the first seed.
    checkpoints : str or path, optional
        Folder of the finished skies; nothing is kept without one.
    overwrite : bool
        Whether checkpoints of other options may be replaced.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    EvaluationRun
    """
    runner, seeds = _Runner(model, baseline, threshold, checkpoints, overwrite), list(seeds)
    edges = predictions.narrowed(runner.model.band_edges, energy_range)
    per_sky = -(-n_patches // len(seeds))
    numbers = predictions.chosen_patches(seeds, per_sky, codes)
    sky = {"years": float(years), "pixel_deg": GridConfig().pixel_deg}
    if template:
        digest = checksum(template)
        sky |= {"template": Path(template).name, "template_sha256": digest, "variant": variant}
    if energy_range is not None:
        sky["sky_band_edges_gev"] = edges.tolist()
    search = partial(
        predictions.search_sky, years=float(years), template=template, variant=variant,
        band_edges=edges, progress=progress,
    )  # fmt: skip
    kept = numbers if checkpoints else dict.fromkeys(seeds, ())
    jobs = {f"sky{s:06d}": partial(search, runner.model, s, numbers=kept[s]) for s in seeds}
    about = sky | {"patches_per_sky": per_sky, "codes": list(codes)}
    empty, other, matches = None, None, runner.run(jobs, about, joined=True)
    if source_free:
        job = partial(search, runner.model, seeds[0], with_sources=False)
        empty = runner.run({f"source-free{seeds[0]:06d}": job}, sky)
    if runner.baseline is not None:
        jobs = {f"sky{seed:06d}": partial(search, runner.baseline, seed) for seed in seeds}
        other = runner.run(jobs, sky | {"sky_band_edges_gev": edges.tolist()}, is_baseline=True)
    return runner.finished(matches, {"seeds": seeds}, about, baseline=other, source_free=empty)


def run_on_set(
    path, model=None, *, threshold=None, baseline=None, checkpoints=None, overwrite=False,
    progress=None, n_patches=1000, codes=(), all_skies=False,
):  # fmt: skip
    """Matches of a model on the patches of a patch set, each of which is a sky of its own.

    A set holds no map to measure in: ``Score`` is that of unmeasured candidates. A false positive
    within the match radius of the border may be a source outside and is left out.

    Parameters
    ----------
    path : str or path
        Patch set in the bands of the model, see `astro_unetloc.training.patch_set`.
    model, threshold, baseline, checkpoints, overwrite, progress
        See `run_on_skies`.
    n_patches : int
        Largest number of patches.
    codes : sequence of str
        Names of patches to keep as well; those that were not drawn are not counted.
    all_skies : bool
        Whether patches that a model may have been trained on are used too.

    Returns
    -------
    EvaluationRun
    """
    runner = _Runner(model, baseline, threshold, checkpoints, overwrite)
    with open_patch_set(path) as patch_set:
        for each in filter(None, (runner.model, runner.baseline)):
            predictions.check_bands(patch_set, each)
        rows, named = predictions.chosen_rows(patch_set, n_patches, codes, all_skies)
        digest = hashlib.sha256(patch_set.sources().tobytes()).hexdigest()[:12]
        about = {
            "patch_set": Path(path).name, "patch_set_checksum": digest, "n_patches": len(rows),
            "all_skies": bool(all_skies), "pixel_deg": float(patch_set.metadata["pixel_deg"]),
            "codes": list(codes),
        }  # fmt: skip
        chunks = np.array_split(rows, -(-len(rows) // _CHUNK))

        search = partial(predictions.search_patches, patch_set)

        def jobs(model):
            return {f"patches{i:04d}": partial(search, c, model) for i, c in enumerate(chunks)}

        own, other = jobs(runner.model), None
        if len(named) and checkpoints:
            own["named"] = partial(search, named, runner.model, counted=False)
        matches = runner.run(own, about, joined=True, progress=progress)
        if runner.baseline is not None:
            other = runner.run(jobs(runner.baseline), about, is_baseline=True, progress=progress)
    return runner.finished(matches, {}, about, baseline=other)


def run_on_catalog(catalog, truth, *, baseline=None, threshold=None):
    """Matches of a catalogue with the truth of its simulated sky.

    If the catalogue has its searched area, only the true sources inside it are counted.

    Parameters
    ----------
    catalog, truth, baseline : str or path
        Files that `astro_unetloc.read_catalog` reads, with positions in any usual columns: a
        catalogue with ``Score``, the truth of `astro_unetloc.simulate_sky`, another catalogue.
        True sources outside of the area that the catalogue states cannot be missing.
    threshold : float, optional
        Smallest ``Score`` of a detection, on the scale of the catalogue; all are listed by default.

    Returns
    -------
    EvaluationRun
    """
    # scores of other programs may be negative
    threshold = -np.inf if threshold is None else float(threshold)
    found, true, other = (path and _read_positions(path) for path in (catalog, truth, baseline))
    energies = energies_of(found, "FITEMIN", "FITEMAX") or energies_of(found, "EMIN", "EMAX")
    options = {"tile": grid_tiles(Path(truth).name)}
    options["brightest"] = bool(energies and energies[0] < predictions.BRIGHTEST_BELOW_GEV)
    about = {"version": __version__}
    for name, path in {"catalog": catalog, "truth": truth, "baseline": baseline}.items():
        if path:
            about |= {name: Path(path).name, f"{name}_sha256": checksum(path)}
    names = {"MODEL": "model", "MODELSHA": "model_sha256", "INFILE": "map"}
    about |= {name: found.meta[key] for key, name in names.items() if key in found.meta}
    area = searched_area(found)
    if area is not None:
        options["area_deg2"] = about["area_deg2"] = float(area.sky_fraction * SKY_DEG2)

    def matched(table):
        matches = match_truth(table, true, **options)
        return matches if area is None else matches.inside(in_area)

    def in_area(vectors):
        lon, lat = lonlat_from_vectors(vectors)
        return was_searched(found, SkyCoord(lon, lat, unit="deg", frame="galactic").icrs)

    return EvaluationRun(
        matched(found), threshold, about, baseline=None if other is None else matched(other),
        baseline_name=Path(baseline).name if baseline else "", baseline_threshold=threshold,
    )  # fmt: skip


def _read_positions(path):
    """Catalogue of a file, with ``GLON`` and ``GLAT`` whatever positions it has."""
    table = read_catalog(path)
    vectors = galactic_vectors(table)
    if n_unknown := int(np.sum(~np.isfinite(vectors).all(axis=1))):
        raise InputError(
            f"{path}: expected a position in each row; {n_unknown} of {len(table)} have none; "
            "remove these rows"
        )
    if not {"GLON", "GLAT"} <= set(table.colnames):
        table["GLON"], table["GLAT"] = Quantity(lonlat_from_vectors(vectors), "deg")
    return table


class _Runner:
    """Jobs of a model and a baseline, which return predictions and matches; with checkpoints."""

    def __init__(self, model, baseline, threshold, folder, overwrite):
        if threshold is not None and not 0 <= threshold <= 1:
            raise InputError(
                f"threshold of a model must be a Score from 0 to 1; got {threshold}; choose another"
            )
        self.model = load_model(model)
        self.baseline = None if baseline is None else load_model(baseline)
        self.threshold, self.overwrite = threshold, overwrite
        self.folder, self.files = folder and Path(folder), []

    def metadata(self, model, about):
        """Metadata of checkpoints and report; all of it must agree before a checkpoint is used."""
        card = json.dumps(model.card, sort_keys=True)  # with presets, thresholds and calibration
        values = {
            "model": model.name, "model_sha256": model.sha256,
            "card_sha256": hashlib.sha256(card.encode()).hexdigest()[:12],
            "band_edges_gev": model.band_edges.tolist(), "version": __version__,
        }  # fmt: skip
        return values | {name: value for name, value in about.items() if value != []}

    def run(self, jobs, about, *, is_baseline=False, joined=False, progress=None):
        """Joined matches of all jobs; only those without a checkpoint are done."""
        names = progress(jobs, desc="parts") if progress and len(jobs) > 1 else jobs
        if self.folder is None:
            return join_matches([jobs[name]()[1] for name in names])
        metadata = self.metadata(self.baseline if is_baseline else self.model, about)
        folder = self.folder / "baseline" if is_baseline else self.folder
        folder.mkdir(parents=True, exist_ok=True)
        paths = {name: folder / f"{name}.h5" for name in jobs}
        for path in filter(Path.exists, paths.values()):
            self._check_checkpoint(path, metadata)
        self.files += paths.values()
        for name in names:
            if not paths[name].exists():
                predictions.write_predictions(paths[name], *jobs[name](), metadata)
        if not joined:
            return join_matches([predictions.read_matches(path) for path in paths.values()])
        self.files.append(self.folder / "predictions.h5")
        return predictions.join_predictions(paths.values(), self.files[-1], metadata)

    def _check_checkpoint(self, path, metadata):
        """Refuse or remove a checkpoint that was made with other options."""
        found = predictions.read_metadata(path)
        differ = [n for n in metadata | found if metadata.get(n) != found.get(n)]
        if differ and not self.overwrite:
            pairs = ", ".join(f"{n} {found.get(n)!r}, not {metadata.get(n)!r}" for n in differ)
            raise InputError(
                f"unfinished evaluation {path}: expected one made with the same options; got "
                f"{pairs}; give the same options, choose another folder or allow overwriting"
            )
        if differ:
            path.unlink()

    def finished(self, matches, first, about, *, baseline, source_free=None):
        """The run, with metadata of which some come first."""
        metadata = first | self.metadata(self.model, about)
        metadata.pop("codes", None)
        if self.baseline:
            metadata |= {"baseline": self.baseline.name, "baseline_sha256": self.baseline.sha256}
        own, other = (
            float(m.threshold if self.threshold is None else self.threshold)
            for m in (self.model, self.baseline or self.model)
        )
        return EvaluationRun(
            matches, own, metadata, source_free=source_free, baseline=baseline,
            baseline_name=self.baseline.name if self.baseline else "", baseline_threshold=other,
            checkpoints=tuple(self.files),
            predictions=self.folder and self.folder / "predictions.h5",
        )  # fmt: skip
