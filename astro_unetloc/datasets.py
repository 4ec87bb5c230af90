"""Patch sets on disk: HDF5 files that plain h5py reads (``docs/datasets.rst`` describes them).

Schema (version 2), n patches of N skies with m true sources:

==============  =========================  ====================================================
``image``       (n, ny, nx, n_band) u2     photons; called counts where the package reads them
``coverage``    (n, ny, nx, 1) u1          1 where observed
``mask``        (n, ny, nx, n_class) u1    1 within the mask radius of a labelled source
``bands``       (n, n_band, 4) f4          see `astro_unetloc.patches.band_inputs`
``center``      (n, 3) f8                  Galactic longitude, latitude and rotation in deg
``sky``         (n,) i8                    seed of the simulated sky
``validation``  (n,) bool                  whether the sky is kept to validate on
``code``        (n,) S24                   name of the patch
``sources``     (m,) `SOURCE_DTYPE`        true sources, by patch
``skies``       (N,) `SKY_DTYPE`           manifest: rows, subset and checksum of each sky
==============  =========================  ====================================================

Attributes: ``schema``, and the recipe: what all patches were made with. A file is never changed
once it is there: HDF5 does not survive a kill in the middle of an append (see
`astro_unetloc.patch_files`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astro_unetloc.config import TrainingConfig

__all__ = [
    "COLUMNS",
    "SCHEMA",
    "SKY_DTYPE",
    "SOURCE_DTYPE",
    "PatchSet",
    "is_validation",
    "open_patch_set",
    "read_patch_set",
]

SCHEMA = 2
SOURCE_DTYPE = np.dtype(
    [
        ("patch", "<i8"),  # row of the patch
        ("x", "<f4"),  # pixel position, 0 at the centre of the first pixel
        ("y", "<f4"),
        ("glon", "<f8"),  # deg
        ("glat", "<f8"),
        ("source_class", "u1"),  # index into the attribute ``classes``
        ("n_photons", "<i4"),  # its own photons in the image
        ("background", "<f4"),  # expected photons of everything else near it
        ("significance", "<f4"),  # of n_photons above the background, in standard deviations
        ("flux", "<f8"),  # ph cm-2 s-1
        ("labelled", "?"),  # whether it is in the mask
    ]
)
SKY_DTYPE = np.dtype(
    [
        ("seed", "<i8"),
        ("first_patch", "<i8"),
        ("n_patches", "<i8"),
        ("first_source", "<i8"),
        ("n_sources", "<i8"),
        ("validation", "?"),
        ("sha256", "S64"),  # see `astro_unetloc.manifest`
    ]
)
# Names in memory, with their types, and those in the file where they differ.
COLUMNS = {
    "counts": "<u2",
    "coverage": "u1",
    "mask": "u1",
    "bands": "<f4",
    "center": "<f8",
    "sky": "<i8",
    "validation": "?",
    "code": "S24",
}
IN_FILE = {"counts": "image"}
# One sky in five is kept to validate on.
_SKIES_PER_VALIDATION = 5


def is_validation(seed):
    """Whether a sky is one to validate on: every fifth, a property of its seed alone.

    Parameters
    ----------
    seed : int or ndarray of int
        Seed of the sky.

    Returns
    -------
    bool or ndarray of bool
        True for seeds that five divides.

    Examples
    --------
    >>> [seed for seed in range(12) if is_validation(seed)]
    [0, 5, 10]
    """
    return seed % _SKIES_PER_VALIDATION == 0


@dataclass(frozen=True)
class PatchSet:
    """An open patch set; images stay on disk until they are read. Closes as a context manager.

    Attributes
    ----------
    path : Path
        The file.
    recipe : dict of str to value
        What all patches were made with: the attributes of the file.
    skies : ndarray (n_skies,) of `SKY_DTYPE`
        The manifest.
    n_patches : int
        Patches of all skies.
    """

    path: Path
    recipe: dict
    skies: np.ndarray
    n_patches: int
    _file: object

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    @property
    def classes(self):
        """Names of the classes of the mask, tuple of str."""
        return tuple(self.recipe["classes"])

    def rows(self, *, validation):
        """Rows (n,) of the patches to validate on, or of those to train on."""
        skies = self.skies[self.skies["validation"] == validation]
        ranges = [np.arange(s["first_patch"], s["first_patch"] + s["n_patches"]) for s in skies]
        return np.concatenate([np.zeros(0, np.int64), *ranges])

    def read(self, rows=slice(None), *, names=tuple(COLUMNS)):
        """Some columns of some patches.

        Parameters
        ----------
        rows : slice or ndarray (n,) of int
            Which patches, in any order.
        names : iterable of str
            Which of `COLUMNS`.

        Returns
        -------
        dict of str to ndarray (n, ...)

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        try:
            return {name: self._column(name, rows) for name in names}
        except OSError as err:
            raise _damaged(self.path, err) from err

    def _column(self, name, rows):
        if self.recipe["schema"] == 1 and name == "validation":
            return is_validation(self._column("sky", rows))
        dataset = self._file[_name_in_file(name, self.recipe["schema"])]
        if isinstance(rows, slice):
            return dataset[slice(*rows.indices(self.n_patches))]
        # one by one: HDF5's selection of many single rows takes longer than reading them
        values = [dataset[row] for row in rows]
        return np.array(values, dtype=dataset.dtype).reshape(-1, *dataset.shape[1:])

    def layout(self):
        """Shape of one patch, chunks and compression of each column, to compare sets by."""
        datasets = {n: self._file[_name_in_file(n, self.recipe["schema"])] for n in COLUMNS}
        return {
            name: (d.shape[1:], d.chunks, d.compression, d.shuffle) for name, d in datasets.items()
        }

    def compressed(self, name):
        """Images of a column one after the other, as the bytes that stand in the file."""
        dataset = self._file[_name_in_file(name, self.recipe["schema"])]
        try:
            for row in range(self.n_patches):
                yield dataset.id.read_direct_chunk((row, 0, 0, 0))[1]
        except OSError as err:
            raise _damaged(self.path, err) from err

    def sources(self, first=0, number=None):
        """True sources from one row of the table on, ndarray of `SOURCE_DTYPE`."""
        last = int(self.skies["n_sources"].sum()) if number is None else first + number
        try:
            found = self._file["sources"][first:last]
        except OSError as err:
            raise _damaged(self.path, err) from err
        return found if self.recipe["schema"] == SCHEMA else _of_schema_1(found)


def _damaged(path, err):
    return ValueError(f"{path}: expected a whole patch set; {err}; make it again")


def _name_in_file(name, schema):
    return IN_FILE.get(name, name) if schema == SCHEMA else name


def open_patch_set(path):
    """Open a patch set to read.

    Parameters
    ----------
    path : str or path
        HDF5 file of schema 2, or of schema 1, which had one class and no manifest.

    Returns
    -------
    PatchSet

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or not a patch set.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such patch set: {path}; make it with 'astro-unetloc simulate'")
    try:
        file = h5py.File(path, "r")
    except OSError as err:
        raise ValueError(f"{path}: expected an HDF5 patch set; {err}; make it again") from err
    try:
        return _checked(path, file)
    except BaseException:
        file.close()
        raise


def _checked(path, file):
    """The patch set of an open file, which is one."""
    schema = file.attrs.get("schema")
    if schema not in (1, SCHEMA):
        raise ValueError(
            f"{path}: expected a patch set of schema 1 or {SCHEMA}; got schema {schema}; "
            "make it again with 'astro-unetloc simulate'"
        )
    names = [n for n in COLUMNS if schema == SCHEMA or n != "validation"]
    names = [_name_in_file(n, schema) for n in names] + ["sources", *["skies"][: schema - 1]]
    missing = [name for name in names if name not in file]
    missing += [n for n in ("band_edges_gev", "pixel_deg", "seed") if n not in file.attrs]
    if missing:
        raise ValueError(
            f"{path}: expected a patch set of schema {schema}; got one without "
            f"{', '.join(missing)}; make it again with 'astro-unetloc simulate'"
        )
    try:
        recipe = _recipe(file, schema)
        skies = file["skies"][:] if schema == SCHEMA else _skies_of_schema_1(file)
    except OSError as err:
        raise _damaged(path, err) from err
    return PatchSet(path, recipe, skies, int(skies["n_patches"].sum()), file)


def _recipe(file, schema):
    """Attributes as plain values."""
    values = {name: file.attrs[name] for name in file.attrs}
    if schema == 1:
        values |= vars(TrainingConfig()) | {"classes": ["source"]}
        values = {n: v for n, v in values.items() if n not in ("n_patches", "n_sources")}
    return {n: v.tolist() if hasattr(v, "tolist") else v for n, v in values.items()}


def _skies_of_schema_1(file):
    """A manifest without checksums; rows that were not whole are left out."""
    n_patches = int(file.attrs.get("n_patches", len(file["counts"])))
    n_sources = int(file.attrs.get("n_sources", len(file["sources"])))
    sky, patch = file["sky"][:n_patches], file["sources"]["patch"][:n_sources]
    seeds, first, number = np.unique(sky, return_index=True, return_counts=True)
    skies = np.zeros(len(seeds), SKY_DTYPE)
    skies["seed"], skies["first_patch"], skies["n_patches"] = seeds, first, number
    skies["validation"] = is_validation(seeds)
    skies["first_source"] = np.searchsorted(patch, first)
    skies["n_sources"] = np.searchsorted(patch, first + number) - skies["first_source"]
    return skies


def _of_schema_1(found):
    """Sources of schema 1, which knew less of them: NaN where it did not say."""
    rows = np.zeros(len(found), SOURCE_DTYPE)
    for name in SOURCE_DTYPE.names:
        if name in found.dtype.names:
            rows[name] = found[name]
        elif rows[name].dtype.kind == "f":
            rows[name] = np.nan
    return rows


def read_patch_set(path, *, rows=slice(None)):
    """Read a patch set into memory.

    Parameters
    ----------
    path : str or path
        HDF5 file of schema 1 or 2.
    rows : slice or ndarray (n,) of int
        Which patches.

    Returns
    -------
    dict of str to value
        Arrays of `COLUMNS`, "sources" for those of all patches, "skies" for the manifest, and the
        recipe: "band_edges_gev", "pixel_deg", "seed", "classes", "mask_radius_pix" and others.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or not a patch set.
    """
    with open_patch_set(path) as found:
        return found.recipe | found.read(rows) | {"sources": found.sources(), "skies": found.skies}
