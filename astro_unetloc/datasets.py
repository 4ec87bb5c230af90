"""Patch sets on disk: HDF5 files that plain h5py reads, written shard by shard.

Schema (version 1), n patches:

============  ========================  =======================================================
``counts``    (n, ny, nx, n_band) u2    photons
``coverage``  (n, ny, nx, 1) u1         1 where observed
``mask``      (n, ny, nx, n_class) u1   1 within the label radius of a labelled source
``bands``     (n, n_band, 4) f4         see `astro_unetloc.patches.band_inputs`
``center``    (n, 3) f8                 Galactic longitude, latitude and rotation in deg
``sky``       (n,) i8                   seed of the simulated sky
``code``      (n,) S                    name of the patch
``sources``   (m,) record               true sources: patch, x, y, n_photons, background, flux,
                                        labelled
============  ========================  =======================================================

Attributes: ``schema``, ``band_edges_gev``, ``pixel_deg``, ``seed``, ``complete``, and
``n_patches`` and ``n_sources``, the rows that are whole: what stands beyond them was being written
when a run was interrupted, is not read and is written again.
"""

from pathlib import Path

import numpy as np

__all__ = ["SCHEMA", "SOURCE_DTYPE", "append_patches", "create_patch_set", "read_patch_set"]

SCHEMA = 1
SOURCE_DTYPE = np.dtype(
    [
        ("patch", "i8"),
        ("x", "f4"),
        ("y", "f4"),
        ("n_photons", "i4"),
        ("background", "f4"),
        ("flux", "f8"),
        ("labelled", "?"),
    ]
)
_PATCH_SETS = {
    "counts": "u2",
    "coverage": "u1",
    "mask": "u1",
    "bands": "f4",
    "center": "f8",
    "sky": "i8",
    "code": "S24",
}
_ATTRIBUTES = ("band_edges_gev", "pixel_deg", "seed", "complete")


def create_patch_set(path, *, n_pix, pixel_deg, band_edges, n_class=1, seed=0):
    """Create an empty patch set.

    Parameters
    ----------
    path : str or path
        File to create; an existing one is an error.
    n_pix : int
        Pixels per side.
    pixel_deg : float
        Pixel scale.
    band_edges : array-like (n_band + 1,)
        In GeV.
    n_class : int
        Classes of the mask.
    seed : int
        Seed of the set.

    Raises
    ------
    FileExistsError
        If there is such a file.
    """
    import h5py

    n_band = len(band_edges) - 1
    shapes = {
        "counts": (n_pix, n_pix, n_band),
        "coverage": (n_pix, n_pix, 1),
        "mask": (n_pix, n_pix, n_class),
        "bands": (n_band, 4),
        "center": (3,),
    }
    if Path(path).exists():
        raise FileExistsError(f"patch set must not exist; got {str(path)!r}; choose another name")
    with h5py.File(path, "x") as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["band_edges_gev"] = np.asarray(band_edges, dtype=float)
        file.attrs["pixel_deg"] = pixel_deg
        file.attrs["seed"] = seed
        file.attrs["complete"] = False
        file.attrs["n_patches"] = file.attrs["n_sources"] = 0
        for name, dtype in _PATCH_SETS.items():
            shape = shapes.get(name, ())
            image = len(shape) == 3
            file.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                dtype=dtype,
                chunks=(1 if image else 1024, *shape),
                **(
                    {"compression": "gzip", "compression_opts": 1, "shuffle": True} if image else {}
                ),
            )
        file.create_dataset("sources", (0,), SOURCE_DTYPE, maxshape=(None,), chunks=(4096,))


def append_patches(path, columns, sources, *, complete=False):
    """Append n patches to a set.

    Parameters
    ----------
    path : str or path
        An existing patch set.
    columns : dict of str to ndarray (n, ...)
        One array for each of counts, coverage, mask, bands, center, sky, code.
    sources : ndarray (m,) of `SOURCE_DTYPE`
        True sources, ``patch`` counted from the first of these n patches.
    complete : bool
        Whether the set is now whole.

    Raises
    ------
    ValueError
        If an array is missing or their lengths differ.
    """
    lengths = {name: len(columns[name]) for name in _PATCH_SETS if name in columns}
    if set(lengths) != set(_PATCH_SETS) or len(set(lengths.values())) != 1:
        raise ValueError(
            f"expected arrays of one length for {', '.join(_PATCH_SETS)}; got {lengths}; "
            "give every column"
        )
    with _open(path, "r+") as file:
        start, first = _whole_rows(file)
        stop, last = start + lengths["counts"], first + len(sources)
        for name in _PATCH_SETS:
            file[name].resize(stop, axis=0)
            file[name][start:stop] = columns[name]
        rows = sources.copy()
        rows["patch"] += start
        file["sources"].resize(last, axis=0)
        file["sources"][first:last] = rows
        file.flush()
        # these make the rows count: written last
        file.attrs["n_patches"], file.attrs["n_sources"] = stop, last
        file.attrs["complete"] = complete


def _open(path, mode):
    """An open patch set, checked."""
    import h5py

    if not Path(path).is_file():
        raise FileNotFoundError(f"no such patch set: {path}; make it with 'astro-unetloc simulate'")
    try:
        file = h5py.File(path, mode)
    except OSError as err:
        raise ValueError(f"{path}: expected an HDF5 patch set; {err}; make it again") from err
    schema = file.attrs.get("schema")
    missing = [name for name in (*_PATCH_SETS, "sources") if name not in file]
    missing += [name for name in _ATTRIBUTES if name not in file.attrs]
    if schema != SCHEMA or missing:
        file.close()
        what = f"one without {', '.join(missing)}" if schema == SCHEMA else f"schema {schema}"
        raise ValueError(
            f"{path}: expected a patch set of schema {SCHEMA}; got {what}; "
            "make it again with 'astro-unetloc simulate'"
        )
    return file


def _whole_rows(file):
    """Numbers of patches and of sources that are whole; all rows of a set that does not say it."""
    n_patches = file.attrs.get("n_patches", len(file["counts"]))
    return int(n_patches), int(file.attrs.get("n_sources", len(file["sources"])))


def read_patch_set(path, *, rows=slice(None)):
    """Read a patch set into memory.

    Parameters
    ----------
    path : str or path
        File written by `create_patch_set` and `append_patches`.
    rows : slice
        Which patches.

    Returns
    -------
    dict of str to ndarray
        The columns of the schema, "sources" for those of all patches, and the attributes
        "band_edges_gev", "pixel_deg", "seed", "complete".

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or not a patch set of this schema.
    """
    with _open(path, "r") as file:
        n_patches, n_sources = _whole_rows(file)
        rows = slice(*rows.indices(n_patches))
        try:
            out = {name: file[name][rows] for name in _PATCH_SETS}
            out["sources"] = file["sources"][:n_sources]
        except OSError as err:
            raise ValueError(f"{path}: expected a whole patch set; {err}; make it again") from err
        return out | {name: file.attrs[name] for name in _ATTRIBUTES}
