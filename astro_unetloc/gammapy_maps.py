"""gammapy maps and datasets as plain arrays and pixelizations.

gammapy itself is imported only where an object of it is made; objects that come in are known by
the names of their classes.
"""

from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc.pixelization import HealpixPixelization
from astro_unetloc.wcs_maps import image_pixelization

__all__ = ["dataset_part", "dataset_path", "is_gammapy", "read_gammapy"]


def is_gammapy(value, *names):
    """Whether value is a gammapy object, of one of these classes if any are named."""
    return any(
        base.__module__.startswith("gammapy.") and (not names or base.__name__ in names)
        for base in type(value).__mro__
    )


def read_gammapy(value):
    """Fields of a sky map from a gammapy map or dataset.

    Parameters
    ----------
    value : gammapy.maps.WcsNDMap, gammapy.maps.HpxNDMap or gammapy.datasets.MapDataset
        With one energy axis or none.

    Returns
    -------
    dict
        ``counts``, ``pixels``, ``energy_edges`` (None without an axis), ``name``, ``header``, and
        ``exposure``, ``background``, ``psf`` of a dataset.

    Raises
    ------
    TypeError
        If it is another gammapy object.
    ValueError
        If it has no counts, or its axes are not those of counts.
    """
    parts = {}
    counts = value
    if is_gammapy(value, "MapDataset"):
        counts = value.counts
        parts = {name: getattr(value, name) for name in ("exposure", "background", "psf")}
        if counts is None:
            raise ValueError(f"a dataset with counts was expected; {value.name!r} has none")
    if not is_gammapy(counts, "WcsNDMap", "HpxNDMap"):
        raise TypeError(
            f"a gammapy WcsNDMap, HpxNDMap or MapDataset was expected; got "
            f"{type(value).__name__}; give its counts as a map of the sky"
        )
    geom = counts.geom
    pixels = _healpix(geom) if geom.is_hpx else _image(geom)
    edges = _edges_gev(geom.axes)
    planes = np.array(counts.data).reshape(-1, pixels.n_pixels)
    return parts | {
        "counts": planes.astype(planes.dtype.newbyteorder("=")),
        "pixels": pixels,
        "energy_edges": edges,
        "name": getattr(value, "name", None) or type(value).__name__,
        "header": {
            k: v for k, v in (counts.meta or {}).items() if isinstance(v, (str, int, float))
        },
    }


def _image(geom):
    if not geom.is_regular:
        raise ValueError(
            "a map with one pixel size was expected; got one for each energy; rebin it"
        )
    return image_pixelization(geom.wcs, geom.to_image().data_shape)


def _healpix(geom):
    if np.size(geom.nside) != 1:
        raise ValueError("a map with one nside was expected; got one for each energy; rebin it")
    numbers = None if geom.is_allsky else np.ravel(geom.to_image().get_idx(flat=True)[0])
    return HealpixPixelization(int(np.ravel(geom.nside)[0]), geom.nest, geom.frame, numbers)


def _edges_gev(axes):
    if len(axes) > 1:
        raise ValueError(
            f"counts must have one energy axis or none; got the axes {', '.join(axes.names)}; "
            "sum over the others"
        )
    if not len(axes):
        return None
    axis = axes[0]
    if not axis.name.startswith("energy") or not axis.unit.is_equivalent("GeV"):
        raise ValueError(f"an energy axis was expected; got the axis {axis.name!r}; sum over it")
    if axis.node_type != "edges":
        raise ValueError(
            f"energy bins were expected; the axis {axis.name!r} has single energies (centers), as "
            "exposure and flux have; give counts"
        )
    return axis.edges.to_value("GeV").astype(float)


def dataset_path(path):
    """The file of the one map dataset that a gammapy ``.yaml`` file names."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; check the name and the directory")
    try:
        entries = yaml.safe_load(path.read_text())["datasets"]
        found = [e["filename"] for e in entries if str(e.get("type", "")).startswith("MapDataset")]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as err:
        raise ValueError(f"a gammapy datasets file was expected; got {path}; give a map") from err
    if len(found) != 1:
        raise ValueError(
            f"one MapDataset was expected in {path}; got {len(found)}; give the file of one of them"
        )
    return path.parent / found[0]


def dataset_part(source, name):
    """A function that reads one part of a gammapy MapDataset from a path or HDUList."""
    return partial(_load_dataset_part, source, name)


def _load_dataset_part(source, name):
    from gammapy.datasets import MapDataset

    hdus = isinstance(source, list)
    dataset = MapDataset.from_hdulist(source) if hdus else MapDataset.read(source)
    return getattr(dataset, name)
