"""Islands of bright pixels in probability maps, and circles around positions in them.

Islands are so far apart that circles around clusters of one and of another cannot overlap.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = [
    "Islands",
    "circle_pixels",
    "circle_score",
    "circle_sums",
    "find_islands",
    "ragged_ranges",
]


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
    def _box(self):
        """Width and height of each island in pixels, (m, 2)."""
        highest = np.maximum.reduceat(self.xy, self.first[:-1])
        return highest - np.minimum.reduceat(self.xy, self.first[:-1])

    @cached_property
    def extent(self):
        """Width or height of each island in pixels, whichever is larger, (m,)."""
        return self._box.max(axis=1)

    @property
    def diagonal(self):
        """Diagonal of the box around each island in pixels, (m,)."""
        return np.hypot(*self._box.T)

    def pixels(self, island):
        """Pixels of some islands one after the other, and which of the islands each is of."""
        return ragged_ranges(self.first[island], self.first[island + 1])

    def select(self, island):
        """Some of the islands."""
        pixel, _ = self.pixels(island)
        first = np.concatenate([[0], np.cumsum(self.size[island])])
        return Islands(self.images, self.row[island], self.xy[pixel], self.weight[pixel], first)


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
    # a position is at most half a diagonal from the centre of its pixel
    near = np.hypot(dx, dy) <= radius_pix + 0.7072
    x, y = (
        np.floor(xy[:, axis, None] + 0.5).astype(int) + d[near] for axis, d in ((0, dx), (1, dy))
    )
    inside = (x - xy[:, :1]) ** 2 + (y - xy[:, 1:]) ** 2 <= radius_pix**2
    inside &= (x >= 0) & (x < shape[2]) & (y >= 0) & (y < shape[1])
    return np.where(inside, (row[:, None] * shape[1] + y) * shape[2] + x, 0), inside


def circle_sums(islands, radius_pix):
    """Probability within circles around all pixels of islands, (n_pixels,)."""
    ny, nx = islands.images.shape[1:]
    row = np.repeat(islands.row, islands.size)
    x, y = islands.xy.T.astype(int)
    flat, at = islands.images.reshape(-1), (row * ny + y) * nx + x
    reach, total = int(radius_pix), np.zeros(len(at))
    for dy, dx in np.argwhere(np.ones((2 * reach + 1,) * 2)) - reach:
        if np.hypot(dx, dy) <= radius_pix:
            inside = (x >= -dx) & (x < nx - dx) & (y >= -dy) & (y < ny - dy)
            total += np.where(inside, flat[np.where(inside, at + dy * nx + dx, 0)], 0)
    return total


def circle_score(images, row, owner, xy, *, radius_pix, overlap_penalty, used=None):
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
    used : callable, optional
        Takes sets (m,) and pixels of the flat stack (m,) and returns how many circles beside those
        of the set hold each; none by default.

    Returns
    -------
    ndarray (n_sets,)
    """
    pixel, inside = circle_pixels(images.shape, row, xy, radius_pix)
    # one number for a set and a pixel: sorting these is faster than sorting by two keys
    key = np.sort((owner[:, None] * images.size + pixel)[inside])
    first = np.flatnonzero(np.diff(key, prepend=-1))
    owner_of_pixel, pixel = np.divmod(key[first], images.size)
    again = np.diff(first, append=len(key)) - 1
    value = images.reshape(-1)[pixel].astype(float)
    if used is not None:
        taken = used(owner_of_pixel, pixel) > 0
        value, again = np.where(taken, 0, value), again + taken
    value += overlap_penalty * again
    return np.bincount(owner_of_pixel, value, minlength=owner.max(initial=-1) + 1)
