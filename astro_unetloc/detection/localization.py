"""From candidates in patches to sources on the sky, each owned by one patch."""

from dataclasses import dataclass, fields, replace

import numpy as np

from astro_unetloc.catalog.columns import FLAGS
from astro_unetloc.sphere import chord, lonlat_from_vectors, separation_deg

__all__ = [
    "LocalizationConfig",
    "SkySources",
    "local_coverage",
    "localize",
    "near_owned_cell",
    "nearest_other_deg",
]


@dataclass(frozen=True)
class LocalizationConfig:
    """From candidates of single patches to sources on the sky.

    Attributes
    ----------
    merge_radius_deg : float
        Candidates of different patches closer than this are one source.
    blend_radius_deg : float
        Sources with a neighbour closer than this carry the flag "blended".
    edge_radius_deg : float
        Coverage is averaged over a disc of this radius around a source.
    edge_coverage : float
        Below this coverage a source carries the flag "near the edge".
    plane_latitude_deg : float
        Galactic latitude below which a source carries the flag "low latitude".
    coarse_pixel_deg : float
        Input pixels larger than this are warned about and flagged.
    """

    merge_radius_deg: float = 0.15
    blend_radius_deg: float = 0.5
    edge_radius_deg: float = 0.5
    edge_coverage: float = 0.9
    plane_latitude_deg: float = 5.0
    coarse_pixel_deg: float = 0.2


_BIT = {name: bit for name, (bit, _) in FLAGS.items()}


@dataclass(frozen=True)
class SkySources:
    """n sources on the sky.

    Attributes
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    probability : ndarray (n,)
        Of the network.
    score : ndarray (n,)
        Probability that the source is real; before calibration equal to ``probability``.
    patch : ndarray (n,) of int
        Owning patch.
    coverage : ndarray (n,)
        Observed fraction of the surroundings.
    flags : ndarray (n,) of int16
        Sum of the bits of `astro_unetloc.catalog.columns.FLAGS`.
    separation_deg : ndarray (n,)
        Distance to the nearest other source; NaN if there is none.
    """

    vectors: np.ndarray
    probability: np.ndarray
    score: np.ndarray
    patch: np.ndarray
    coverage: np.ndarray
    flags: np.ndarray
    separation_deg: np.ndarray

    def __len__(self):
        return len(self.score)

    def select(self, mask):
        """The sources of a mask or index array."""
        return SkySources(*(getattr(self, f.name)[mask] for f in fields(self)))

    def separated(self, config=None):
        """The sources with the distances between them, flagged where they blend.

        Parameters
        ----------
        config : LocalizationConfig, optional
            Says how near that is.

        Returns
        -------
        SkySources
        """
        separation = nearest_other_deg(self.vectors)
        blended = separation < (config or LocalizationConfig()).blend_radius_deg
        flags = (self.flags & ~_BIT["blended"]) | np.where(blended, _BIT["blended"], 0)
        return replace(self, separation_deg=separation, flags=flags.astype(np.int16))

    def calibrated(self, calibration, sqrt_ts=None):
        """The sources with the score of a calibration.

        Parameters
        ----------
        calibration : Calibration or None
            Without one they stay as they are.
        sqrt_ts : ndarray (n,), optional
            Of a likelihood fit.

        Returns
        -------
        SkySources
        """
        if calibration is None:
            return self
        sqrt_ts = np.full(len(self), np.nan) if sqrt_ts is None else sqrt_ts
        latitude = lonlat_from_vectors(np.reshape(self.vectors, (-1, 3)))[1]
        return replace(self, score=calibration.score(self.probability, sqrt_ts, latitude))


def near_owned_cell(patches, rows, x, y, margin_deg):
    """Whether positions in patches lie within a margin of the cell that the patch owns.

    Parameters
    ----------
    patches : Patches
        The patches.
    rows, x, y : ndarray (m,)
        Which patch, and where in it.
    margin_deg : float
        Allowed distance outside the cell.

    Returns
    -------
    ndarray (m,) of bool
    """
    near = np.zeros(len(rows), dtype=bool)
    for row in np.unique(rows):
        here = rows == row
        patch = patches.index[row]
        vectors = patches.grid.plane(patch).vectors_from_pixel(x[here], y[here])
        near[here] = patches.grid.border_distance_deg(vectors, patch) <= margin_deg
    return near


def _sky_vectors(candidates, patches):
    vectors = np.zeros((len(candidates), 3))
    for row in np.unique(candidates.row):
        here = candidates.row == row
        plane = patches.grid.plane(patches.index[row])
        vectors[here] = plane.vectors_from_pixel(candidates.x[here], candidates.y[here])
    return vectors


def _strongest(vectors, strength, row, radius_deg):
    """Drop candidates with a stronger one of another patch within a radius; mask (m,)."""
    from scipy.spatial import KDTree

    keep = np.ones(len(vectors), dtype=bool)
    if len(vectors) < 2:
        return keep
    pairs = KDTree(vectors).query_pairs(chord(radius_deg), output_type="ndarray")
    pairs = pairs[row[pairs[:, 0]] != row[pairs[:, 1]]]
    rank = np.empty(len(vectors), dtype=int)
    rank[np.lexsort((row, -strength))] = np.arange(len(vectors))
    pairs = np.take_along_axis(pairs, np.argsort(rank[pairs], axis=1), axis=1)
    for strong, weak in pairs[np.lexsort(rank[pairs].T[::-1])]:
        if keep[strong]:
            keep[weak] = False
    return keep


def local_coverage(candidates, patches, radius_deg):
    """Observed fraction of a disc around each candidate.

    Parameters
    ----------
    candidates : PixelSources
        The m candidates.
    patches : Patches
        The patches they were found in.
    radius_deg : float
        Radius of the disc.

    Returns
    -------
    ndarray (m,)
    """
    radius = radius_deg / patches.grid.config.pixel_deg
    n = patches.coverage.shape[1]
    reach = int(np.ceil(radius))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(dx, dy) <= radius
    x = np.clip(np.rint(candidates.x).astype(int)[:, None] + dx[disc], 0, n - 1)
    y = np.clip(np.rint(candidates.y).astype(int)[:, None] + dy[disc], 0, n - 1)
    return patches.coverage[candidates.row[:, None], y, x, 0].mean(axis=1)


def nearest_other_deg(vectors):
    """Distance in degrees to the nearest other of the directions (n, 3); NaN if there is none."""
    from scipy.spatial import KDTree

    if len(vectors) < 2:
        return np.full(len(vectors), np.nan)
    nearest = KDTree(vectors).query(vectors, k=2)[1][:, 1]
    return separation_deg(vectors, vectors[nearest])


def localize(candidates, patches, *, threshold=0.0, sky_map=None, config=None):
    """Sources on the sky from candidates in patches.

    Candidates up to the grid's border outside the cell of their patch are kept, those of
    different patches that are one source are merged (the stronger wins), and each source is given
    to its owner.

    Parameters
    ----------
    candidates : PixelSources
        From `astro_unetloc.detection.clustering.find_clusters`.
    patches : Patches
        The patches they were found in.
    threshold : float
        Smallest score that makes a source.
    sky_map : SkyMap, optional
        Tells whether the map's pixels are coarse and its energies assumed.
    config : LocalizationConfig, optional
        Radii and limits.

    Returns
    -------
    SkySources
    """
    config = LocalizationConfig() if config is None else config
    border = patches.grid.config.border_deg
    where = (candidates.row, candidates.x, candidates.y)
    candidates = candidates.select(near_owned_cell(patches, *where, border))
    candidates = candidates.select(candidates.probability >= threshold)
    vectors = _sky_vectors(candidates, patches)
    keep = _strongest(vectors, candidates.probability, candidates.row, config.merge_radius_deg)
    candidates, vectors = candidates.select(keep), vectors[keep]
    coverage = local_coverage(candidates, patches, config.edge_radius_deg)
    flags = np.where(coverage < config.edge_coverage, _BIT["edge"], 0)
    latitude = np.abs(lonlat_from_vectors(vectors)[1])
    flags |= np.where(latitude < config.plane_latitude_deg, _BIT["low_latitude"], 0)
    if sky_map is not None and sky_map.pixel_size_deg > config.coarse_pixel_deg:
        flags |= _BIT["coarse_pixels"]
    if sky_map is not None and sky_map.energy_assumed:
        flags |= _BIT["energy_assumed"]
    return SkySources(
        vectors=vectors,
        probability=candidates.probability,
        score=candidates.probability,
        patch=patches.grid.owner(vectors) if len(vectors) else np.zeros(0, dtype=int),
        coverage=coverage,
        flags=flags.astype(np.int16),
        separation_deg=np.full(len(vectors), np.nan),
    ).separated(config)
