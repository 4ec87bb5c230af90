"""Islands of bright pixels in probability maps, and circles around positions in them.

Islands are so far apart that circles around clusters of one and of another cannot overlap.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Islands", "circle_pixels", "circle_score", "find_islands", "ragged_ranges"]


@dataclass(frozen=True)
class Islands:
    """Bright pixels; island i holds the pixels ``first[i]`` to ``first[i + 1]``.

    Attributes
    ----------
    images : ndarray (n, ny, nx)
        The probability maps.
    row : ndarray (m,) of int
        Which of the maps each island lies in.
    xy : ndarray (n_pixels, 2)
        Positions of the bright pixels.
    weight : ndarray (n_pixels,)
        Their probability.
    first : ndarray (m + 1,) of int
        First pixel of each island, and the number of pixels.
    """

    images: np.ndarray
    row: np.ndarray
    xy: np.ndarray
    weight: np.ndarray
    first: np.ndarray

    def __len__(self):
        return len(self.row)

    @property
    def size(self):
        """Number of pixels of each island, (m,)."""
        return np.diff(self.first)

    @cached_property
    def mean(self):
        """Weighted mean position of each island, (m, 2)."""
        total = np.add.reduceat(self.weight, self.first[:-1])
        return np.add.reduceat(self.xy * self.weight[:, None], self.first[:-1]) / total[:, None]

    @cached_property
    def extent(self):
        """Width or height of each island in pixels, whichever is larger, (m,)."""
        highest = np.maximum.reduceat(self.xy, self.first[:-1])
        return (highest - np.minimum.reduceat(self.xy, self.first[:-1])).max(axis=1)

    def pixels(self, island):
        """Pixels of some islands one after the other, and which of the islands each is of."""
        return ragged_ranges(self.first[island], self.first[island + 1])

    def sum_in_circles(self, island, xy, radius_pix):
        """Probability within circles around n positions in some islands, (n,)."""
        pixel, inside = circle_pixels(self.images.shape, self.row[island], xy, radius_pix)
        return np.where(inside, self.images.reshape(-1)[pixel], 0).sum(axis=1, dtype=float)


def ragged_ranges(first, last):
    """The numbers ``first[i]`` to ``last[i]`` of all i, one after the other, and the i of each."""
    n = last - first
    which = np.repeat(np.arange(len(n)), n)
    return np.arange(n.sum()) + np.repeat(first - np.cumsum(n) + n, n), which


def find_islands(images, bright, link_pix):
    """Islands of bright pixels that are linked in steps up to a distance.

    Parameters
    ----------
    images : ndarray (n, ny, nx)
        Probability maps.
    bright : ndarray (n, ny, nx) of bool
        The pixels to link.
    link_pix : float
        Largest distance of a step.

    Returns
    -------
    Islands
        By map and first pixel; the pixels of an island in the order of the map.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    row, y, x = np.nonzero(bright)
    xy = np.column_stack([x, y]).astype(float)
    apart = 2 * (max(images.shape[1:]) + link_pix)
    tree = KDTree(np.column_stack([xy, row * apart]))
    links = tree.query_pairs(link_pix, output_type="ndarray")
    graph = coo_array((np.ones(len(links), dtype=bool), links.T), shape=(len(row), len(row)))
    label = connected_components(graph, directed=False)[1]
    order = np.argsort(label, kind="stable")
    first = np.searchsorted(label[order], np.arange(label.max(initial=-1) + 2))
    weight = images[row, y, x].astype(float)
    return Islands(images, row[order][first[:-1]], xy[order], weight[order], first)


def circle_pixels(shape, row, xy, radius_pix):
    """Pixels near positions in a stack of images, and which of them lie in a circle around each.

    Parameters
    ----------
    shape : tuple of int
        (n, ny, nx) of the stack.
    row : ndarray (m,) of int
        Which image each position is in.
    xy : ndarray (m, 2)
        Positions.
    radius_pix : float
        Radius of the circles.

    Returns
    -------
    pixel : ndarray (m, k) of int
        Indices into the flat stack, 0 outside the image.
    inside : ndarray (m, k) of bool
        Whether the pixel exists and the circle holds its centre.
    """
    reach = int(np.ceil(radius_pix)) + 1
    dy, dx = (d.ravel() for d in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    x, y = (np.floor(xy[:, axis, None] + 0.5).astype(int) + d for axis, d in ((0, dx), (1, dy)))
    inside = (x - xy[:, :1]) ** 2 + (y - xy[:, 1:]) ** 2 <= radius_pix**2
    inside &= (x >= 0) & (x < shape[2]) & (y >= 0) & (y < shape[1])
    return np.where(inside, (row[:, None] * shape[1] + y) * shape[2] + x, 0), inside


def circle_score(images, row, owner, xy, *, radius_pix, overlap_penalty):
    """Objective of the clustering, for several sets of clusters.

    Parameters
    ----------
    images : ndarray (n, ny, nx)
        Probability maps.
    row : ndarray (n_centroids,) of int
        Which of the maps each centroid lies in.
    owner : ndarray (n_centroids,) of int
        Which set each centroid is of, from 0 upwards.
    xy : ndarray (n_centroids, 2)
        Centres of the circles.
    radius_pix : float
        Radius of the circles.
    overlap_penalty : float
        Added for each further circle of the same set that holds a pixel.

    Returns
    -------
    ndarray (n_sets,)
    """
    pixel, inside = circle_pixels(images.shape, row, xy, radius_pix)
    owner_of_pixel = np.broadcast_to(owner[:, None], pixel.shape)[inside]
    order = np.lexsort((pixel[inside], owner_of_pixel))
    owner_of_pixel, pixel = owner_of_pixel[order], pixel[inside][order]
    again = np.zeros(len(pixel), dtype=bool)
    again[1:] = (np.diff(owner_of_pixel) == 0) & (np.diff(pixel) == 0)
    value = np.where(again, overlap_penalty, images.reshape(-1)[pixel])
    return np.bincount(owner_of_pixel, value, minlength=owner.max(initial=-1) + 1)
