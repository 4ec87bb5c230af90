"""Predictions on disk: what the network read and answered, what is true and what was found.

The pre-evaluation file: HDF5 in the layout of a patch set (see `astro_unetloc.datasets`), for n
patches of simulated skies or of a set, with what a model made of them:

===============  ========================  =====================================================
``image``        (n, ny, nx, n_band) u2    photons
``coverage``     (n, ny, nx, 1) u1         1 where observed
``mask``         (n, ny, nx, n_class) u1   discs of true sources, see below
``probability``  (n, ny, nx) f2            of a source, by the network
``bands``        (n, n_band, 4) f4         see `astro_unetloc.patches.band_inputs`
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
`astro_unetloc.judgement.Judgement`. Attributes: its ``area_deg2`` and ``brightest``, and the
recipe: what made the file, such as ``model``, ``model_sha256``, ``band_edges_gev``, ``pixel_deg``.
"""

import io
from pathlib import Path

import numpy as np

from astro_unetloc.datasets import COLUMNS, IN_FILE
from astro_unetloc.judgement import Judgement, join
from astro_unetloc.patch_files import COMPRESSED, whole_hdf5
from astro_unetloc.predictions import FOUND_DTYPE, SOURCE_DTYPE, Case

__all__ = [
    "join_predictions",
    "predictions_bytes",
    "read_case",
    "read_judgement",
    "read_recipe",
    "worst_patches",
]

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
        raise ValueError(f"{path}: expected predictions in HDF5; {err}; remove the file") from err


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
            raise ValueError(
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
