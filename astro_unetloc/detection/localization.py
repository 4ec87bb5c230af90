"""Sources on the sky from candidates in patches, each owned by one patch."""

from dataclasses import dataclass

import numpy as np
from astropy.table import QTable
from scipy.spatial import KDTree

from astro_unetloc.catalog.columns import set_column, set_flag
from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.detection.clustering import PixelSources
from astro_unetloc.sphere import chord, lonlat_from_vectors, separation_deg

# Separation of the centres of pixels with a common corner, and some more, in pixels.
_NEIGHBORING = 1.5


@dataclass(frozen=True)
class LocalizationConfig:
    """Radii of the localization.

    Attributes
    ----------
    merge_radius_deg : float
        Candidates of different patches closer than this are one source.
    wide_pixel_deg : float
        In pixels wider than this, candidates of neighbouring pixels are one source.
    blend_radius_deg : float
        Sources with a neighbour closer than this carry the flag "blended".
    edge_radius_deg : float
        Coverage is averaged over a disc of this radius around a source.
    edge_coverage : float
        Below this coverage a source carries the flag "near the edge".
    """

    merge_radius_deg: float = 0.15
    wide_pixel_deg: float = 0.25
    blend_radius_deg: float = 0.5
    edge_radius_deg: float = 0.5
    edge_coverage: float = 0.9

    def unresolved_deg(self, pixel_deg):
        """Return the radius within which a map of some pixels, 0 for events, shows one source."""
        return _NEIGHBORING * pixel_deg if pixel_deg > self.wide_pixel_deg else 0.0


def localize(candidates, patches, *, min_probability=0.0, pixel_deg=0.0, config=None):
    """Return the table of sources on the sky from candidates in patches.

    Candidates up to the grid's border outside the cell of their patch are kept. Those of different
    patches that lie within the merge radius are one source; the most probable one is kept. Each
    source is given to the patch with the nearest centre.

    Parameters
    ----------
    candidates : PixelSources
        From `astro_unetloc.detection.clustering.find_clusters`.
    patches : Patches
        The patches in which they were found.
    min_probability : float
        Candidates of a lower probability of the network are dropped.
    pixel_deg : float
        Width of the pixels of the map, 0 for events.
    config : LocalizationConfig, optional
        Radii.

    Returns
    -------
    QTable
        One row per source with ``GLON``, ``GLAT`` (deg), ``Score`` (before calibration the
        probability), ``Probability``, ``Patch``, ``Coverage`` and ``Flags`` ("near the edge").
    """
    config = LocalizationConfig() if config is None else config
    candidates = candidates.select(candidates.probability >= min_probability)
    where, border_deg = (candidates.row, candidates.x, candidates.y), patches.grid.config.border_deg
    candidates = candidates.select(near_owned_cell(patches, *where, border_deg))
    vectors = _sky_vectors(candidates, patches)
    radius_deg, row = config.merge_radius_deg, candidates.row
    kept = strongest(vectors, candidates.probability, radius_deg, row)
    unresolved_deg = config.unresolved_deg(pixel_deg)
    kept[kept] = strongest(vectors[kept], candidates.probability[kept], unresolved_deg)
    candidates, vectors = candidates.select(kept), vectors[kept]
    patch = patches.grid.owner(vectors) if len(vectors) else np.zeros(0, dtype=int)
    coverage = local_coverage(candidates, patches, config.edge_radius_deg)
    sources = source_table(vectors, candidates.probability, patch=patch, coverage=coverage)
    set_flag(sources, "edge", coverage < config.edge_coverage)
    return sources


def in_patches(sources, patches, probability=None, *, radius_pix=None, config=None):
    """Return the sources of a table that lie in patches, with the values of the patches there.

    Parameters
    ----------
    sources : QTable
        With ``GLON``, ``GLAT`` and ``Flags``.
    patches : Patches
        The patches of a map.
    probability : ndarray (n, ny, nx), optional
        That of the network in each pixel; without it ``Probability`` is NaN.
    radius_pix : float, optional
        Radius of the circles in which the highest probability is taken.
    config : LocalizationConfig, optional
        Radii.

    Returns
    -------
    QTable
        With ``Patch``, ``Coverage``, ``Probability`` and the flag "near the edge".
    """
    config, owner = LocalizationConfig() if config is None else config, np.zeros(0, int)
    if len(sources):
        owner = patches.grid.owner(glon_glat_vectors(sources))
    inside = np.isin(owner, patches.index)
    sources, owner = sources[inside], owner[inside]
    row, (x, y) = np.searchsorted(patches.index, owner), np.zeros((2, len(owner)))
    for number in np.unique(row):
        here, plane = row == number, patches.grid.plane(patches.index[number])
        x[here], y[here] = plane.pixel_from_vectors(glon_glat_vectors(sources[here]))
    candidates = PixelSources(row, x, y, np.full(len(row), np.nan))
    sources["Patch"] = owner
    sources["Coverage"] = local_coverage(candidates, patches, config.edge_radius_deg)
    set_flag(sources, "edge", sources["Coverage"] < config.edge_coverage)
    sources["Probability"] = candidates.probability
    if probability is not None:
        in_circles = _in_circles(candidates, probability, radius_pix)
        sources["Probability"] = in_circles.max(axis=1, initial=0.0)
    return sources


def source_table(vectors, probability=np.nan, *, patch=-1, coverage=np.nan):
    """Return the table of n sources at Galactic unit vectors (n, 3), as `localize`, no flag set."""
    sources = QTable()
    for name, values in zip(("GLON", "GLAT"), lonlat_from_vectors(np.reshape(vectors, (-1, 3)))):
        set_column(sources, name, values)
    columns = {"Score": probability, "Probability": probability, "Coverage": coverage}
    for name, values in columns.items():
        sources[name] = np.broadcast_to(values, len(sources)).astype(float)
    sources["Patch"] = np.broadcast_to(patch, len(sources))
    sources["Flags"] = np.zeros(len(sources), dtype=np.int16)
    return sources


def with_neighbors(sources):
    """Return a copy with ``Sep_Nearest`` (deg; NaN for a single source) and the flag "blended"."""
    sources = sources.copy()
    separation = nearest_neighbor_deg(glon_glat_vectors(sources))
    set_column(sources, "Sep_Nearest", separation)
    set_flag(sources, "blended", separation < LocalizationConfig().blend_radius_deg)
    return sources


def near_owned_cell(patches, rows, x, y, margin_deg):
    """Whether positions (m,) in patches lie within a margin of the cell that their patch owns."""
    near = np.zeros(len(rows), dtype=bool)
    for row in np.unique(rows):
        here = rows == row
        patch = patches.index[row]
        vectors = patches.grid.plane(patch).vectors_from_pixel(x[here], y[here])
        near[here] = patches.grid.border_distance_deg(vectors, patch) <= margin_deg
    return near


def local_coverage(candidates, patches, radius_deg):
    """Observed fraction (m,) of a disc around each of m candidates."""
    radius_pix = radius_deg / patches.grid.config.pixel_deg
    return _in_circles(candidates, patches.coverage[..., 0], radius_pix).mean(axis=1)


def _in_circles(candidates, images, radius_pix):
    """Values (m, k) of the pixels of images (n, ny, nx) in circles around m candidates."""
    n, reach = images.shape[1], int(np.ceil(radius_pix))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(dx, dy) <= radius_pix
    x = np.clip(np.rint(candidates.x).astype(int)[:, None] + dx[disc], 0, n - 1)
    y = np.clip(np.rint(candidates.y).astype(int)[:, None] + dy[disc], 0, n - 1)
    return images[candidates.row[:, None], y, x]


def _sky_vectors(candidates, patches):
    """Galactic unit vectors (m, 3) of candidates."""
    vectors = np.zeros((len(candidates), 3))
    for row in np.unique(candidates.row):
        here = candidates.row == row
        plane = patches.grid.plane(patches.index[row])
        vectors[here] = plane.vectors_from_pixel(candidates.x[here], candidates.y[here])
    return vectors


def strongest(vectors, strength, radius_deg, group=None):
    """Mask (m,) of the directions without a stronger one of another group within a radius.

    Those that are left out leave none out; of equal ones the first stays. Without groups each
    direction is one, without a radius all stay.
    """
    keep = np.ones(len(vectors), dtype=bool)
    if len(vectors) < 2 or radius_deg == 0:
        return keep
    group = np.arange(len(vectors)) if group is None else group
    near = KDTree(vectors).query_ball_point(vectors, chord(radius_deg))
    for row in np.lexsort((group, -strength)):
        if keep[row]:
            others = np.asarray(near[row])
            keep[others[group[others] != group[row]]] = False
    return keep


def nearest_neighbor_deg(vectors):
    """Separation (n,) in degrees of each direction to its nearest neighbour; NaN for a lone one."""
    if len(vectors) < 2:
        return np.full(len(vectors), np.nan)
    nearest = KDTree(vectors).query(vectors, k=2)[1][:, 1]
    return separation_deg(vectors, vectors[nearest])
