"""Predictions: patches with what a model made of them, beside the truth.

Predictions on disk: what the network read and answered, what is true and what was found.

The pre-evaluation file: HDF5 in the layout of a patch set (see `patch_set`), for n
patches of simulated skies or of a set, with what a model made of them:

===============  ========================  =====================================================
``image``        (n, ny, nx, n_band) u2    photons
``coverage``     (n, ny, nx, 1) u1         1 where observed
``mask``         (n, ny, nx, n_class) u1   discs of true sources, see below
``probability``  (n, ny, nx) f2            of a source, by the network
``bands``        (n, n_band, 4) f4         see `astro_unetloc.maps.patches.band_inputs`
``center``       (n, 3) f8                 Galactic longitude, latitude and rotation in deg
``sky``          (n,) i8                   seed of the simulated sky
``code``         (n,) S24                  name of the patch
``sources``      (m,) `SOURCE_DTYPE`       true sources inside each patch
``found``        (k,) `FOUND_DTYPE`        detections inside each patch, of any score
``catalog``      table                     all detections of the skies, each judged
``truth``        table                     all true sources of the skies
===============  ========================  =====================================================

``mask`` is 1 within the mask radius of the true sources that count (of simulated skies: point-like,
with N >= 8) or that the label rule chose (of a patch set, as it is there). In the two tables
``<column>.mask`` is true where a column is unknown, and strings are bytes.

A source near the border of a patch lies in its neighbours too; the two tables have it once, see
`astro_unetloc.evaluation.truth.Judgement`. Attributes: its ``area_deg2`` and ``brightest``, and the
recipe: what made the file, such as ``model``, ``model_sha256``, ``band_edges_gev``, ``pixel_deg``.

Workplace: where the finished parts of an evaluation are kept until the report is written.

A run that was killed goes on where it was.

Whole simulated skies to evaluate on: searched, judged, and some of their patches kept.

Patch sets to evaluate on: each patch is a sky of its own, searched and judged alone.

A patch set holds less than a whole sky. The photons of a source are those that were seen in the
image, not those expected. Without the map nothing is measured: ``Score`` is that of candidates
without a fit. Extended sources are those that the set does not label although they are bright
enough; how wide they are it does not say. What was found within the match radius of the border and
belongs to no true source may belong to one outside, and is left out.

Evaluation runs: from skies, a patch set or a catalogue to a judgement of all that was found.
"""

import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc import __version__
from astro_unetloc.catalog.columns import set_column
from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.table import (
    degrees,
    galactic_vectors,
    glon_glat_vectors,
    make_catalog,
    numbers_of,
)
from astro_unetloc.detection.clustering import find_clusters
from astro_unetloc.detection.localization import (
    LocalizationConfig,
    local_coverage,
    nearest_neighbor_deg,
    source_table,
)
from astro_unetloc.evaluation.truth import Judgement, join, judge, patch_parts
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.maps.patches import GridConfig, Patches, PatchGrid, TangentPlane
from astro_unetloc.maps.selection import parse_energy_range
from astro_unetloc.maps.skymap import HealpixPixelization, SkyMap
from astro_unetloc.pipeline import clustering_config, detect, source_probability
from astro_unetloc.simulation.sky import healpix_cube, simulate_sky
from astro_unetloc.sphere import SKY_DEG2, lonlat_from_vectors, vectors_from_lonlat
from astro_unetloc.training.make import file_digest
from astro_unetloc.training.observation import TrainingConfig, source_mask
from astro_unetloc.training.patch_set import (
    COLUMNS,
    COMPRESSED,
    IN_FILE,
    open_patch_set,
    whole_hdf5,
    write_whole,
)
from astro_unetloc.unet.model import load_model

__all__ = [
    "BRIGHTEST_BELOW_GEV",
    "Case",
    "EvaluationRun",
    "FOUND_DTYPE",
    "PredictedPatches",
    "SOURCE_DTYPE",
    "SkyRows",
    "Workplace",
    "check_bands",
    "check_codes",
    "chosen_patches",
    "chosen_rows",
    "join_predictions",
    "narrowed",
    "observed_sky",
    "patch_code",
    "predict_rows",
    "predict_sky",
    "predictions_bytes",
    "read_case",
    "read_judgement",
    "read_recipe",
    "run_on_catalog",
    "run_on_set",
    "run_on_skies",
    "sky_patches",
    "worst_patches",
]


SOURCE_DTYPE = np.dtype(
    [
        ("patch", "<i8"),  # row of the patch
        ("x", "<f4"),  # pixel position, 0 at the centre of the first pixel
        ("y", "<f4"),
        ("glon", "<f8"),  # deg
        ("glat", "<f8"),
        ("npred", "<f8"),  # expected photons; of a set those that were seen
        ("flux", "<f8"),  # ph cm-2 s-1
        ("radius", "<f4"),  # deg; 0 of a point source
        ("role", "S8"),  # counted, faint, extended or below
        ("score", "<f4"),  # of its detection; NaN where it was missed
    ]
)


FOUND_DTYPE = np.dtype(
    [
        ("patch", "<i8"),
        ("x", "<f4"),
        ("y", "<f4"),
        ("glon", "<f8"),
        ("glat", "<f8"),
        ("score", "<f4"),
        ("verdict", "S7"),  # right, wrong or ignored
    ]
)


@dataclass(frozen=True)
class PredictedPatches:
    """n patches and what a model made of them.

    Attributes
    ----------
    columns : dict of str to ndarray (n, ...)
        "counts", "coverage", "mask", "bands", "center", "sky", "code" as in a patch set, and
        "probability" (n, ny, nx).
    sources : ndarray (m,) of `SOURCE_DTYPE`
        True sources inside the patches.
    found : ndarray (k,) of `FOUND_DTYPE`
        Detections inside the patches.
    """

    columns: dict
    sources: np.ndarray
    found: np.ndarray


@dataclass(frozen=True)
class Case:
    """One patch of the file, to look at.

    Attributes
    ----------
    code : str
        Its name.
    center : tuple of float
        Galactic longitude, latitude and rotation in degrees.
    counts : ndarray (ny, nx, n_band)
        Photons.
    mask, probability : ndarray (ny, nx)
        Discs of the true sources that count (of a set: that are labelled), of any class, and what
        the network said.
    sources : ndarray of `SOURCE_DTYPE`
        True sources.
    found : ndarray of `FOUND_DTYPE`
        Detections.
    pixel_deg : float
        Pixel scale.
    """

    code: str
    center: tuple
    counts: np.ndarray
    mask: np.ndarray
    probability: np.ndarray
    sources: np.ndarray
    found: np.ndarray
    pixel_deg: float


class SkyRows:
    """True sources and detections of a judgement, to be placed in patches.

    Parameters
    ----------
    judgement : Judgement
        Of the sky.
    """

    def __init__(self, judgement):
        catalog, truth = judgement.catalog, judgement.truth
        self.sources = _positions(truth, SOURCE_DTYPE)
        for name, column in (("npred", "Npred"), ("flux", "Flux"), ("radius", "Radius")):
            self.sources[name] = numbers_of(truth, column)
        self.sources["role"] = np.asarray(truth["Role"], "S8")
        self.found = _positions(catalog, FOUND_DTYPE)
        self.found["score"] = np.asarray(catalog["Score"], float)
        self.found["verdict"] = np.asarray(catalog["Verdict"], "S7")
        row = np.asarray(truth["Found_Row"], int)
        score = np.append(self.found["score"], np.nan)  # the last one is for -1
        self.sources["score"] = score[row]
        self._vectors = {
            name: vectors_from_lonlat(rows["glon"], rows["glat"])
            for name, rows in (("sources", self.sources), ("found", self.found))
        }

    def inside(self, name, plane, number, *, margin_pix=0.0, among=None):
        """Rows inside a patch, with their pixel positions.

        Parameters
        ----------
        name : {"sources", "found"}
            Which rows.
        plane : TangentPlane
            The patch.
        number : int
            Its row in the file.
        margin_pix : float
            So far outside the image still counts.
        among : ndarray of int, optional
            Only these rows; all by default.

        Returns
        -------
        ndarray of `SOURCE_DTYPE` or `FOUND_DTYPE`
        """
        among = slice(None) if among is None else among
        rows, vectors = getattr(self, name)[among], self._vectors[name][among]
        x, y = plane.pixel_from_vectors(vectors)
        low, high = -0.5 - margin_pix, plane.n_pix - 0.5 + margin_pix
        inside = (x >= low) & (x < high) & (y >= low) & (y < high)
        rows = rows[inside]
        rows["patch"], rows["x"], rows["y"] = number, x[inside], y[inside]
        return rows


def _positions(table, dtype):
    rows = np.zeros(len(table), dtype)
    rows["glon"], rows["glat"] = degrees(table["GLON"]), degrees(table["GLAT"])
    return rows


_DTYPES = {
    **{name: dtype for name, dtype in COLUMNS.items() if name != "validation"},
    "probability": "<f2",
}


_IMAGES = ("counts", "coverage", "mask", "probability")


_ROWS = {"sources": SOURCE_DTYPE, "found": FOUND_DTYPE}


_TABLES = ("catalog", "truth")


# Other fields of a `Judgement`.
_OF_JUDGEMENT = ("area_deg2", "brightest")


def predictions_bytes(patches, judgement, *, recipe):
    """Predictions of one sky, or of some patches of a set, as the content of an HDF5 file.

    Parameters
    ----------
    patches : PredictedPatches or None
        The patches that are kept; None for none.
    judgement : Judgement
        Of the whole sky, or of the patches.
    recipe : dict of str to value
        Attributes: what they were made with.

    Returns
    -------
    bytes
    """
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w", libver=("v110", "v110")) as file:
        file.attrs.update(recipe)
        if patches is not None:
            _create(file, {name: np.shape(a) for name, a in patches.columns.items()})
            for name in _DTYPES:
                file[IN_FILE.get(name, name)][:] = np.asarray(patches.columns[name])
            for name in _ROWS:
                _write_rows(file, name, getattr(patches, name))
        _write_judgement(file, judgement)
    return content.getvalue()


def _create(file, shapes):
    """Empty datasets of patches of these shapes (n, ...)."""
    for name, dtype in _DTYPES.items():
        shape = shapes[name]
        options = COMPRESSED | {"chunks": (1, *shape[1:])} if name in _IMAGES else {}
        file.create_dataset(IN_FILE.get(name, name), shape, dtype=dtype, **options)


def _write_rows(file, name, rows):
    file.create_dataset(
        name, data=np.asarray(rows, _ROWS[name]), **(COMPRESSED if len(rows) else {})
    )


def _write_judgement(file, judgement):
    from astropy.io.misc.hdf5 import write_table_hdf5

    for name in _OF_JUDGEMENT:
        file.attrs[name] = getattr(judgement, name)
    for name in _TABLES:
        table = getattr(judgement, name)
        # read back from its longitude and latitude
        table = table[[column for column in table.colnames if column != "skycoord"]]
        write_table_hdf5(table, file, path=name, serialize_meta=True, append=True)


def _open(path):
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as err:
        raise InputError(f"{path}: expected predictions in HDF5; {err}; remove the file") from err


def read_recipe(path):
    """What a file of predictions was made with, a dict of plain values."""
    with _open(path) as file:
        values = {name: value for name, value in file.attrs.items() if name not in _OF_JUDGEMENT}
    return {n: v.tolist() if hasattr(v, "tolist") else v for n, v in values.items()}


def read_judgement(path):
    """The judgement in a file of predictions.

    Parameters
    ----------
    path : str or path
        As `predictions_bytes` or `join_predictions` made it.

    Returns
    -------
    Judgement

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    from astropy.table import QTable

    with _open(path) as file:
        values = {name: file.attrs[name].item() for name in _OF_JUDGEMENT}
        tables = [
            QTable.read(file, path=name, format="hdf5", character_as_bytes=False)
            for name in _TABLES
        ]
    return Judgement(*tables, **values)


def join_predictions(parts, path, *, recipe):
    """Join predictions of different skies or patches to one file; the parts stay as they are.

    Parameters
    ----------
    parts : sequence of str or path
        Files of predictions with patches of one shape, at least one.
    path : str or path
        File to write.
    recipe : dict of str to value
        Its attributes.

    Returns
    -------
    Judgement
        Of all parts together.
    """
    parts = [Path(part) for part in parts]
    shapes, rows = _survey(parts)
    judgement = join([read_judgement(part) for part in parts])
    with whole_hdf5(path) as (file, check):
        file.attrs.update(recipe)
        _create(file, shapes)
        first = 0
        for part in parts:
            with _open(part) as found:
                if "image" in found:
                    first = _copy(found, file, first)
            check()
        for name in _ROWS:
            _write_rows(file, name, rows[name])
        _write_judgement(file, judgement)
    return judgement


def _survey(parts):
    """Shapes of the patches of files together, and their rows of sources, counted through."""
    shapes, first = {}, 0
    rows = {name: [np.zeros(0, dtype)] for name, dtype in _ROWS.items()}
    for part in parts:
        with _open(part) as file:
            if "image" not in file:
                continue
            for name in _ROWS:
                rows[name].append(file[name][:])
                rows[name][-1]["patch"] += first
            first += len(file["image"])
            for name in _DTYPES:
                shapes[name] = (first, *file[IN_FILE.get(name, name)].shape[1:])
    return shapes, {name: np.concatenate(parts) for name, parts in rows.items()}


def _copy(found, file, first):
    """Copy all patches of an open file, images as they are compressed; returns the next row."""
    n = len(found["image"])
    for name in _DTYPES:
        source, target = (f[IN_FILE.get(name, name)] for f in (found, file))
        if name not in _IMAGES:
            target[first : first + n] = source[:]
            continue
        rest = (0,) * (source.ndim - 1)
        for row in range(n):
            chunk = source.id.read_direct_chunk((row, *rest))[1]
            target.id.write_direct_chunk((first + row, *rest), chunk)
    return first + n


def read_case(path, code):
    """One patch of a file of predictions, by its code name.

    Parameters
    ----------
    path : str or path
        The file.
    code : str
        Name of the patch.

    Returns
    -------
    Case

    Raises
    ------
    ValueError
        If the file does not hold this patch.
    """
    with _open(path) as file:
        codes = np.asarray(file["code"][:], str)
        row = np.flatnonzero(codes == code)
        if not len(row):
            raise InputError(
                f"expected the code name of a patch of {path}; got {code!r}; its {len(codes)} "
                f"patches are named as {codes[0]}"
            )
        row = int(row[0])
        rows = {name: file[name][:] for name in _ROWS}
        return Case(
            code=code,
            center=tuple(map(float, file["center"][row])),
            counts=file["image"][row],
            mask=file["mask"][row].max(axis=-1),
            probability=file["probability"][row].astype(np.float32),
            pixel_deg=float(file.attrs["pixel_deg"]),
            **{name: values[values["patch"] == row] for name, values in rows.items()},
        )


def worst_patches(path, n, *, threshold):
    """Code names of the patches with most missed and false sources.

    Parameters
    ----------
    path : str or path
        File of predictions.
    n : int
        At most so many.
    threshold : float
        Smallest ``Score`` of a detection.

    Returns
    -------
    list of str
        The worst first; none without a miss or a false source.
    """
    with _open(path) as file:
        codes = np.asarray(file["code"][:], str)
        sources, found = (file[name][:] for name in _ROWS)
    missed = (sources["role"] == b"counted") & ~(sources["score"] >= threshold)
    wrong = (found["verdict"] == b"wrong") & (found["score"] >= threshold)
    number = np.bincount(sources["patch"][missed], minlength=len(codes))
    number += np.bincount(found["patch"][wrong], minlength=len(codes))
    order = np.argsort(-number, kind="stable")[:n]
    return [str(codes[row]) for row in order if number[row]]


@dataclass(frozen=True)
class Workplace:
    """Where finished parts of a run are kept.

    Attributes
    ----------
    folder : Path or None
        Their folder; None to keep nothing.
    overwrite : bool
        Whether parts that were made otherwise may be replaced.
    files : set of Path
        The files of the parts so far, those of the places within this one too.
    """

    folder: Path | None = None
    overwrite: bool = False
    files: set = field(default_factory=set, repr=False, compare=False)

    def beside(self, name):
        """A workplace within this one."""
        return Workplace(self.folder and self.folder / name, self.overwrite, self.files)

    def judged(self, recipe, jobs, *, joined=None, progress=None):
        """Do what is not done, and join everything.

        Parameters
        ----------
        recipe : dict of str to value
            What the parts are made with.
        jobs : dict of str to callable
            Each returns patches and their judgement, as `predict_sky`.
        joined : str, optional
            Name of the file of predictions to make of all parts; none without it.
        progress : callable, optional
            Wraps an iterable, as `tqdm.tqdm` does.

        Returns
        -------
        Judgement
            Of all parts together.

        Raises
        ------
        ValueError
            If there are parts that were made otherwise.
        """
        names = progress(jobs, desc="parts") if progress and len(jobs) > 1 else jobs
        if self.folder is None:
            return join([jobs[name]()[1] for name in names])
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = {name: self.folder / f"{name}.h5" for name in jobs}
        for path in paths.values():
            self._check(path, recipe)
        self.files.update(paths.values(), [self.folder / joined] if joined else [])
        for name in names:
            if not paths[name].exists():
                patches, judgement = jobs[name]()
                write_whole(paths[name], predictions_bytes(patches, judgement, recipe=recipe))
        if joined:
            return join_predictions(paths.values(), self.folder / joined, recipe=recipe)
        return join([read_judgement(path) for path in paths.values()])

    def _check(self, path, recipe):
        """Refuse a part that was made otherwise, or throw it away."""
        if not path.exists():
            return
        found = read_recipe(path)
        differ = [n for n in recipe | found if recipe.get(n) != found.get(n)]
        if differ and not self.overwrite:
            said = ", ".join(f"{n} {found.get(n)!r}, not {recipe.get(n)!r}" for n in differ)
            raise InputError(
                f"unfinished evaluation {path}: expected one made with the same options; got "
                f"{said}; give the same options, choose another folder or allow overwriting"
            )
        if differ:
            path.unlink()

    def clear(self):
        """Remove the files of all parts, and the folders that are empty without them."""
        for path in self.files:
            path.unlink(missing_ok=True)
        # the deepest first; a folder with files of others stays
        folders = {path.parent for path in self.files}
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


# Below this energy a true source of three photons is so often near that the nearest one is not the
# one that was found, and a sky holds so many photons that they are binned.
BRIGHTEST_BELOW_GEV = 10.0


# 0.23 deg: finer than the point-spread function below 10 GeV.
_NSIDE = 256


def observed_sky(band_edges, seed, *, years=7.0, template=None, variant="P6V11", with_sources=True):
    """A simulated sky in the energies of a model, as such a sky would be given to it.

    Parameters
    ----------
    band_edges : ndarray (n_band + 1,)
        Edges of the model's bands in GeV.
    seed : int
        Seed of the sky.
    years, template, variant, with_sources
        See `astro_unetloc.simulate_sky`.

    Returns
    -------
    sky_map : SkyMap
        Events; from below 10 GeV on a counts cube, HEALPix of nside 256, in the bands. Its
        exposure is the one that detected the photons, so that fluxes are measured.
    truth : QTable
        See `astro_unetloc.simulate_sky`.
    """
    edges = np.asarray(band_edges, dtype=float)
    sky_map, truth = simulate_sky(
        years=years, template=template, variant=variant, energy_range=tuple(edges[[0, -1]]),
        with_sources=with_sources, rng=seed,
    )  # fmt: skip
    exposure = SurveyExposure(years)
    if edges[0] >= BRIGHTEST_BELOW_GEV:
        return replace(sky_map, exposure=exposure), truth
    counts = healpix_cube(sky_map.events, edges, _NSIDE)
    pixels = HealpixPixelization(_NSIDE, False, "galactic")
    sky_map = SkyMap(
        counts=counts, pixels=pixels, energy_edges=edges, exposure=exposure, name="simulated sky"
    )
    return sky_map, truth


def narrowed(band_edges, energy_range=None):
    """The bands of a model, or what an energy range leaves of them.

    Parameters
    ----------
    band_edges : ndarray (n_band + 1,)
        In GeV.
    energy_range : pair of Quantity or float, optional
        GeV if bare; all energies by default.

    Returns
    -------
    ndarray (k + 1,)
        In GeV.

    Raises
    ------
    ValueError
        If nothing is left.
    """
    band_edges, wanted = np.asarray(band_edges, float), parse_energy_range(energy_range)
    if wanted is None:
        return band_edges
    left = np.unique(np.clip(wanted, *band_edges[[0, -1]]))
    if len(left) < 2:
        raise InputError(
            f"the energy range must overlap {band_edges[0]:g}-{band_edges[-1]:g} GeV, the bands of "
            f"the model; got {wanted[0]:g}-{wanted[1]:g} GeV; choose another"
        )
    inside = (band_edges > left[0]) & (band_edges < left[1])
    return np.concatenate([left[:1], band_edges[inside], left[1:]])


def patch_code(seed, number):
    """Code name of a patch of the grid on a simulated sky."""
    return f"sky{seed:06d}-p{number:03d}"


def check_codes(codes, seeds):
    """Raise unless code names are those of patches of some skies.

    Parameters
    ----------
    codes : iterable of str
        The names.
    seeds : sequence of int
        Seeds of the skies, at least one.

    Raises
    ------
    ValueError
        If a name is another.
    """
    n_patches = PatchGrid().n_patches
    known = {patch_code(seed, number) for seed in seeds for number in range(n_patches)}
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise InputError(
            f"expected code names such as {patch_code(seeds[0], 0)} to "
            f"{patch_code(seeds[-1], n_patches - 1)}; got {unknown[0]!r}; name patches of the skies"
        )


def chosen_patches(seed, n, *, codes=()):
    """Patches of a sky that are kept: drawn by its seed, and those asked for by name.

    Parameters
    ----------
    seed : int
        Seed of the sky.
    n : int
        How many are drawn; all if there are not so many.
    codes : iterable of str
        Code names of further ones; those of other skies are left out.

    Returns
    -------
    ndarray of int
        Patch numbers in ascending order.
    """
    n_patches = PatchGrid().n_patches
    drawn = np.random.default_rng([20270, seed]).permutation(n_patches)[:n]
    named = [i for i in range(n_patches) if patch_code(seed, i) in set(codes)]
    return np.union1d(drawn, named).astype(int)


def predict_sky(model, seed, *, numbers=(), band_edges=None, progress=None, **options):
    """Search a simulated sky, judge what was found, and keep some patches.

    Parameters
    ----------
    model : Model
        The model.
    seed : int
        Seed of the sky.
    numbers : sequence of int
        Patches to keep.
    band_edges : ndarray, optional
        Energies of the sky and of its true sources, if not those of the model.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.
    **options
        See `observed_sky`.

    Returns
    -------
    patches : PredictedPatches or None
        Those that were asked for; None for none.
    judgement : Judgement
        Of every candidate, whatever its score; parts are the patches of the grid.
    """
    edges = model.band_edges if band_edges is None else band_edges
    sky_map, truth = observed_sky(edges, seed, **options)
    run = detect(sky_map, model=model, threshold=0.0, progress=progress)
    judgement = judge(
        run.catalog, truth, brightest=bool(edges[0] < BRIGHTEST_BELOW_GEV),
        part=patch_parts(seed), area_deg2=SKY_DEG2,
    )  # fmt: skip
    patches = sky_patches(run, judgement, seed, numbers) if len(numbers) else None
    return patches, judgement


def sky_patches(run, judgement, seed, numbers):
    """Some patches of a search: the part that the network is trained on, without what is padded.

    Parameters
    ----------
    run : Run
        The search of a whole sky.
    judgement : Judgement
        Of what it found.
    seed : int
        Seed of the sky.
    numbers : sequence of int
        Which patches.

    Returns
    -------
    PredictedPatches
    """
    grid, config = GridConfig(), TrainingConfig()
    pad = (grid.read_pixels - grid.patch_pixels) // 2
    middle = slice(pad, pad + grid.patch_pixels)
    rows = np.searchsorted(run.patches.index, numbers)
    lon, lat = lonlat_from_vectors(run.patches.grid.centers[np.asarray(numbers)])
    center = np.stack([lon, lat, np.zeros(len(rows))], axis=-1)
    sky_rows, masks, sources, found = SkyRows(judgement), [], [], []
    for row, (lon, lat, _) in enumerate(center):
        plane = TangentPlane(float(lon), float(lat), grid.patch_pixels, grid.pixel_deg)
        # a disc may reach into the image from outside
        around = sky_rows.inside("sources", plane, row, margin_pix=config.mask_radius_pix)
        counted = around[around["role"] == b"counted"]
        masks.append(source_mask(counted["x"], counted["y"], config.mask_radius_pix, plane.n_pix))
        sources.append(sky_rows.inside("sources", plane, row))
        found.append(sky_rows.inside("found", plane, row))
    columns = {
        "counts": _small_integers(run.patches.counts[rows][:, middle, middle]),
        "coverage": run.patches.coverage[rows][:, middle, middle].astype(np.uint8),
        "mask": np.stack(masks)[..., None],
        "probability": run.probability[rows][:, middle, middle].astype(np.float16),
        "bands": np.broadcast_to(run.patches.bands, (len(rows), *run.patches.bands.shape)),
        "center": center,
        "sky": np.full(len(rows), seed),
        "code": np.array([patch_code(seed, number) for number in numbers], COLUMNS["code"]),
    }
    empty = np.zeros(0, SOURCE_DTYPE), np.zeros(0, FOUND_DTYPE)
    return PredictedPatches(
        columns, np.concatenate([empty[0], *sources]), np.concatenate([empty[1], *found])
    )


def _small_integers(counts):
    """Photons as they are stored; a pixel of more than 65535 of them shows that many."""
    return np.minimum(counts, np.iinfo(np.uint16).max).astype(np.uint16)


# Radius of extended sources, which a set does not hold: the median of those that are simulated.
_EXTENDED_DEG = 0.56


def check_bands(patch_set, model):
    """Raise unless a set was made in the bands of a model.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    model : Model
        The model.

    Raises
    ------
    ValueError
        If the bands differ.
    """
    found = np.asarray(patch_set.recipe["band_edges_gev"], dtype=float)
    if len(found) != len(model.band_edges) or not np.allclose(found, model.band_edges):
        raise InputError(
            f"{patch_set.path}: expected patches in the bands {model.band_edges.tolist()} GeV of "
            f"model {model.name}; got {found.tolist()}; choose another model or set"
        )


def chosen_rows(patch_set, n, *, codes=(), everything=False):
    """Rows of a set to evaluate on: of skies that are kept to validate on, unless all are wanted.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    n : int
        At most so many, drawn at random, always the same.
    codes : iterable of str
        Code names of patches to show in any case, of the same skies.
    everything : bool
        Whether patches that a model may have been trained on are taken too.

    Returns
    -------
    drawn : ndarray of int
        In ascending order, whatever names are given: scores of what a person picks out would
        be no measure.
    named : ndarray of int
        Those of these names that were not drawn, in ascending order.

    Raises
    ------
    ValueError
        If there are none, or none of such a name.
    """
    rows = patch_set.rows(validation=True)
    if everything:
        rows = np.arange(patch_set.n_patches)
    if not len(rows):
        raise InputError(
            f"{patch_set.path}: expected skies to validate on, whose seeds five divides; got "
            "none; make a set with such a sky, or evaluate on all with --all-skies"
        )
    drawn = np.sort(np.random.default_rng(20270).permutation(rows)[:n])
    return drawn, np.setdiff1d(_named(patch_set, codes, rows), drawn)


def _named(patch_set, codes, rows):
    """Rows of patches by their code names, which must be among some rows."""
    if not codes:
        return np.zeros(0, int)
    known = {code.decode(): row for row, code in enumerate(patch_set.read(names=["code"])["code"])}
    allowed = set(rows.tolist())
    wrong = [code for code in codes if known.get(code) not in allowed]
    if wrong:
        kind, cure = "its patches", "name others"
        if wrong[0] in known:
            kind, cure = "patches of its skies to validate on", "name others, or add --all-skies"
        example = next(code for code, row in known.items() if row in allowed)
        raise InputError(
            f"{patch_set.path}: expected code names of {kind}, such as {example}; "
            f"got {wrong[0]!r}; {cure}"
        )
    return np.array([known[code] for code in codes])


def predict_rows(patch_set, rows, model, *, judged=True, progress=None):
    """Search some patches of a set and judge what was found.

    Parameters
    ----------
    patch_set : PatchSet
        The set, in the bands of the model.
    rows : ndarray (n,) of int
        Which patches.
    model : Model
        The model.
    judged : bool
        Whether they count; if not, the judgement is of nothing.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    patches : PredictedPatches
        The patches.
    judgement : Judgement
        Of every candidate, whatever its score; parts are the patches.
    """
    columns = patch_set.read(rows)
    counts, coverage = (columns[n].astype(np.float32) for n in ("counts", "coverage"))
    pixel_deg, n_pix = patch_set.recipe["pixel_deg"], counts.shape[1]
    planes = [
        TangentPlane(*map(float, center[:2]), n_pix, pixel_deg, float(center[2]))
        for center in columns["center"]
    ]
    patches = Patches(PatchGrid(), np.asarray(rows), counts, coverage, columns["bands"])
    probability, _ = source_probability(patches, model, progress)
    candidates = find_clusters(probability, config=clustering_config(model))
    catalog = _catalog(candidates, patches, planes, model)
    truth = _truth(patch_set, rows)
    codes = columns["code"].astype(str)
    brightest = bool(model.band_edges[0] < BRIGHTEST_BELOW_GEV)
    judgement = _judgement(catalog, truth, planes, codes, coverage[..., 0], brightest)
    kept = {name: values for name, values in columns.items() if name != "validation"}
    kept["probability"] = probability.astype(np.float16)
    predicted = PredictedPatches(kept, *_inside(judgement, planes, codes))
    if not judged:
        judgement = Judgement(judgement.catalog[:0], judgement.truth[:0], area_deg2=0.0)
    return predicted, judgement


def _catalog(candidates, patches, planes, model):
    """The candidates as a catalogue; ``Patch`` counts the patches."""
    vectors, nearest = np.zeros((len(candidates), 3)), np.full(len(candidates), np.nan)
    for row in np.unique(candidates.row):
        here = candidates.row == row
        vectors[here] = planes[row].vectors_from_pixel(candidates.x[here], candidates.y[here])
        nearest[here] = nearest_neighbor_deg(vectors[here])
    coverage = local_coverage(candidates, patches, LocalizationConfig().edge_radius_deg)
    sources = source_table(vectors, candidates.probability, patch=candidates.row, coverage=coverage)
    set_column(sources, "Sep_Nearest", nearest)
    calibration = model.calibration
    return make_catalog(sources if calibration is None else calibration.apply(sources))


def _truth(patch_set, rows):
    """True sources of patches in the columns of a simulated sky; ``Patch`` counts the patches."""
    import astropy.units as u
    from astropy.table import QTable

    sources = patch_set.sources()
    number = np.full(patch_set.n_patches, -1)
    number[rows] = np.arange(len(rows))
    sources = sources[number[sources["patch"]] >= 0]
    recipe = patch_set.recipe
    bright = sources["n_photons"] >= recipe["min_photons"]
    bright &= sources["significance"] >= recipe["min_significance"]
    return QTable(
        {
            "GLON": sources["glon"] * u.deg,
            "GLAT": sources["glat"] * u.deg,
            "Flux": sources["flux"] * u.Unit("ph cm-2 s-1"),
            "Class": np.array(patch_set.classes)[sources["source_class"]],
            "Npred": sources["n_photons"].astype(float),
            "Radius": np.where(bright & ~sources["labelled"], _EXTENDED_DEG, 0.0) * u.deg,
            "Patch": number[sources["patch"]],
        }
    )


def _judgement(catalog, truth, planes, codes, coverage, brightest):
    """The judgement of all patches, each on its own."""
    from astropy.table import QTable

    # few columns: tables of one patch each are made by the thousand
    few = QTable({n: np.asarray(catalog[n], float) for n in ("GLON", "GLAT", "Score")})
    true = QTable({n: np.asarray(truth[n], float) for n in ("GLON", "GLAT", "Npred", "Radius")})
    few["Row"], true["Row"] = np.arange(len(few)), np.arange(len(true))
    margin_pix = MATCH_RADIUS_DEG / planes[0].pixel_deg
    parts, area = [], 0.0
    for number, (plane, code) in enumerate(zip(planes, codes)):
        here, true_here = few[catalog["Patch"] == number], true[truth["Patch"] == number]
        judged = judge(here, true_here, brightest=brightest, part=code)
        outside = _may_be_of_outside(judged.catalog, plane, margin_pix)
        if outside.any():
            kept = judged.catalog[~outside]
            judged = judge(few[kept["Row"]], true_here, brightest=brightest, part=code)
        parts.append(judged)
        area += _searched_deg2(plane, coverage[number], margin_pix)
    joined = join(parts)
    tables = []
    for whole, part in ((catalog, joined.catalog), (truth, joined.truth)):
        table = whole[np.asarray(part["Row"])]
        for name in part.colnames:
            if name not in ("Row", *whole.colnames):
                table[name] = part[name]
        tables.append(table)
    return Judgement(*tables, area_deg2=area, brightest=brightest)


def _may_be_of_outside(catalog, plane, margin_pix):
    """Which detections, judged wrong, are so near the border that their source may lie outside."""
    x, y = plane.pixel_from_vectors(glon_glat_vectors(catalog))
    low, high = margin_pix - 0.5, plane.n_pix - 0.5 - margin_pix
    inside = (x >= low) & (x < high) & (y >= low) & (y < high)
    wrong = (catalog["Verdict"] == "wrong") & ~catalog["Is_Duplicate"]
    return np.asarray(wrong & ~inside, bool)


def _searched_deg2(plane, coverage, margin_pix):
    """Observed sky of a patch where false detections count, in square degrees."""
    border = int(np.ceil(margin_pix))
    middle = slice(border, plane.n_pix - border)
    # solid angle of a pixel of a tangent plane (Calabretta & Greisen 2002, section 5.1.3)
    shrinking = (plane.pixel_vectors @ plane.basis[2]) ** 3
    return float((coverage * shrinking)[middle, middle].sum() * plane.pixel_deg**2)


def _inside(judgement, planes, codes):
    """True sources and detections with their pixel positions, each in its own patch."""
    rows = SkyRows(judgement)
    of_source, of_found = (
        np.asarray(table["Patch"], int) for table in (judgement.truth, judgement.catalog)
    )
    sources, found = [], []
    for number, plane in enumerate(planes):
        among = np.flatnonzero(of_source == number)
        sources.append(rows.inside("sources", plane, number, among=among))
        among = np.flatnonzero(of_found == number)
        found.append(rows.inside("found", plane, number, among=among))
    return np.concatenate(sources), np.concatenate(found)


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
        File of predictions, see `astro_unetloc.evaluation.runs`.
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
        raise InputError(
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
        Patch set in the bands of the model, see `astro_unetloc.training.patch_set`.
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
        `sky_positions` takes them. The catalogue has a column ``Score``,
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
        raise InputError(
            f"{path}: expected a position in each row; got {n_unknown} rows without; remove them"
        )
    if not {"GLON", "GLAT"} <= set(table.colnames):
        table["GLON"], table["GLAT"] = (angle * u.deg for angle in lonlat_from_vectors(vectors))
    return table
