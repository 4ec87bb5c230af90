"""Candidate sources in probability maps, by k-means with the number of clusters chosen.

The pixels with a probability above a cut are clustered by k-means. A set of clusters scores the sum
of probability in circles around its centroids, where each further use of a pixel adds a penalty;
the set with the highest score wins, the one with fewest clusters on ties.

Circles of pixels that lie far apart cannot overlap, so connected groups of pixels, the islands, are
clustered independently of each other. Most islands fit into one circle. In the others, k-means
starts from circles that are packed at several distances, and from the local maxima; then single
clusters are added and removed as long as the score grows.
"""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class ClusteringConfig:
    """Options of the clustering; those of a shipped model are in its card.

    Attributes
    ----------
    cut : float
        Pixels with a probability above this are clustered.
    radius_pix : float
        Radius of the circles around the centroids, in pixels.
    overlap_penalty : float
        Added to the score for each pixel that a circle uses again (negative).
    max_clusters : int or None
        Largest number of clusters of one island; None for no limit.
    """

    cut: float
    radius_pix: float
    overlap_penalty: float = -10.0
    max_clusters: int | None = None


# The numbers of the first description of the method (2019).
REFERENCE = ClusteringConfig(cut=0.2, radius_pix=3.0, overlap_penalty=-10.0, max_clusters=49)

# Distances between the circles that k-means starts from, in diameters. Centroids move together when
# k-means takes in the pixels between the circles, so that wider packings often overlap less.
_PACKINGS = (1.0, 1.25, 1.6)

# Local maxima are the highest of the pixels within this radius. Circles packed by mass alone miss
# sources beside a brighter one: in the 3FHL events of the Galactic centre they find 16 of 19 point
# sources, together with this start 18.
_PEAK_RADIUS_PIX = 1.5

# Scores that differ by less are equal.
_TIE = 1e-9


@dataclass(frozen=True)
class PixelSources:
    """m candidates in pixel coordinates of their patches.

    Attributes
    ----------
    row : ndarray (m,) of int
        Index of the patch.
    x, y : ndarray (m,)
        Centroid, with sub-pixel precision.
    probability : ndarray (m,)
        Highest probability within the circle.
    """

    row: np.ndarray
    x: np.ndarray
    y: np.ndarray
    probability: np.ndarray

    def __len__(self):
        return len(self.row)

    def select(self, mask):
        """Return the candidates of a mask or index array."""
        return PixelSources(*(getattr(self, field.name)[mask] for field in fields(self)))


def find_clusters(probability, *, config, keep=None):
    """Return the candidate sources in probability maps.

    Parameters
    ----------
    probability : ndarray (n, ny, nx) or iterable of them
        Probability of a source in each pixel of n patches, or of some patches after others.
    config : ClusteringConfig
        Cut, radius, penalty and largest number of clusters.
    keep : callable, optional
        Takes the patch rows (m,), x and y (m,) of bright pixels and returns which to cluster.

    Returns
    -------
    PixelSources
        Sorted by patch, x and y.
    """
    parts = [probability] if isinstance(probability, np.ndarray) else probability
    found, first_row = [np.zeros((4, 0))], 0
    with _light_sklearn():
        for images in parts:
            found.append(_clusters(images, config, keep, first_row))
            first_row += len(images)
    row, x, y, peak = np.concatenate(found, axis=1)
    return PixelSources(row.astype(int), x, y, peak).select(np.lexsort((y, x, row)))


def _clusters(images, config, keep, first_row):
    """Return row, x, y and peak (4, m) of the clusters in images, rows counted from a number."""
    bright = images > config.cut
    row, y, x = np.nonzero(bright)
    if keep is not None and len(row):
        bright[row, y, x] = keep(row + first_row, x.astype(float), y.astype(float))
    row, xy, weight, around, first = _pixels_by_island(images, bright, config.radius_pix)
    if not len(first):
        return np.zeros((4, 0))
    mean, peak, large = _one_cluster_each(xy, weight, around, first, config.radius_pix)
    centroids, peaks, island = [mean[~large]], [peak[~large]], [np.flatnonzero(~large)]
    stop = np.append(first[1:], len(row))
    for number in np.flatnonzero(large):
        here = slice(first[number], stop[number])
        pixels = _Island(xy[here], weight[here], around[here], config)
        found, found_peak = pixels.best_clusters(mean[number])
        centroids.append(found)
        peaks.append(found_peak)
        island.append(np.full(len(found), number))
    x, y = np.concatenate(centroids).T
    row = row[first[np.concatenate(island)]] + first_row
    return np.stack([row, x, y, np.concatenate(peaks)])


def _one_cluster_each(xy, weight, around, first, radius_pix):
    """Return mean and peak of each island, and whether it may hold more than one cluster."""
    size = np.diff(first, append=len(xy))
    bright = around > -np.inf
    mass = np.where(bright, weight, 0)
    mean = np.add.reduceat(xy * mass[:, None], first) / np.add.reduceat(mass, first)[:, None]
    inside = np.hypot(*(xy - np.repeat(mean, size, axis=0)).T) <= radius_pix
    peak = np.maximum.reduceat(np.where(inside, weight, 0), first)
    # no second circle can be packed where all pixels are near the best one
    best = np.lexsort((-np.arange(len(xy)), around, np.repeat(first, size)))[first + size - 1]
    away = np.hypot(*(xy - np.repeat(xy[best], size, axis=0)).T)
    large = np.logical_or.reduceat(bright & (away >= 2 * radius_pix * _PACKINGS[0]), first)
    return mean, peak, large


def _pixels_by_island(images, bright, radius_pix):
    """Return the pixels near bright ones, those of one island after those of another.

    These are the row, (x, y), the probability and the sum of probability in the circle around each
    pixel, -inf for faint pixels; and the first pixel of each island.
    """
    from scipy.ndimage import label

    row, y, x = np.nonzero(bright)
    near, total = np.zeros(images.shape, dtype=bool), np.zeros(len(row))
    reach = int(radius_pix + 0.5)
    for dy, dx in np.argwhere(np.ones((2 * reach + 1,) * 2)) - reach:
        inside = (0 <= y + dy) & (y + dy < images.shape[1])
        inside &= (0 <= x + dx) & (x + dx < images.shape[2])
        where = row[inside], y[inside] + dy, x[inside] + dx
        if np.hypot(dy, dx) <= radius_pix:
            total[inside] += images[where]
        # circles are a pixel apart where the pixels around their centres do not touch
        if np.hypot(dy, dx) <= radius_pix + 0.5:
            near[where] = True
    in_plane = np.zeros((3, 3, 3), dtype=int)
    in_plane[1] = 1
    where = np.flatnonzero(near)
    around = np.full(len(where), -np.inf)
    around[np.searchsorted(where, np.flatnonzero(bright))] = total
    number = label(near, in_plane)[0].reshape(-1)[where]
    order = np.argsort(number, kind="stable")
    where, first = where[order], np.flatnonzero(np.diff(number[order], prepend=0))
    row, y, x = np.unravel_index(where, images.shape)
    xy = np.column_stack([x, y]).astype(float)
    return row, xy, images[row, y, x].astype(float), around[order], first


@contextmanager
def _light_sklearn():
    """Let scikit-learn do many small fits: 20 ms became 0.5 ms on a busy machine."""
    import sklearn.cluster  # first: threads are limited of those libraries that are loaded
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with (
        threadpool_limits(limits=1),
        sklearn.config_context(assume_finite=True, skip_parameter_validation=True),
        warnings.catch_warnings(),
    ):
        # a start may leave a cluster without pixels; its score decides
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


class _Island:
    """The pixels of one island, which does not fit into one circle, and their clusters."""

    def __init__(self, xy, weight, around, config):
        from scipy.spatial import KDTree

        self.xy, self.weight, self.around, self.config = xy, weight, around, config
        self.bright = around > -np.inf
        self.tree = KDTree(xy)
        self.most = min(self.bright.sum(), config.max_clusters or np.inf)
        self.around_pixels = self._pixels_within(config.radius_pix)

    def _pixels_within(self, radius_pix):
        """Return a sparse (n_pixels, n_pixels): ones for the pixels within a radius of each."""
        from scipy.sparse import csr_array

        pairs = self.tree.sparse_distance_matrix(self.tree, radius_pix, output_type="ndarray")
        shape = (len(self.xy),) * 2
        return csr_array((np.ones(len(pairs)), (pairs["i"], pairs["j"])), shape)

    def best_clusters(self, mean):
        """Return the centroids (k, 2) with the highest score, and the peak of each circle."""
        starts = {}
        for packing in _PACKINGS:
            seeds = self._packed(2 * self.config.radius_pix * packing, self.around)
            starts.setdefault(len(seeds), seeds)
        packed = [self._fit(starts[k]) for k in sorted(starts.keys() - {1})]
        packed = max([self._scored(mean[None]), *packed], key=lambda found: found[0])
        ends = [self._climb(packed, starts), self._climb(self._fit(self._maxima()))]
        best = max(ends, key=lambda found: found[0])
        circles = self._circles(best[1])
        return best[1], np.array([self.weight[pixel].max(initial=0) for pixel in circles])

    def _circles(self, centroids):
        """Return the pixels of each circle, a list of k lists."""
        return self.tree.query_ball_point(centroids, self.config.radius_pix)

    def _times_used(self, centroids):
        """Return how many circles hold each pixel, (n_pixels,)."""
        pixel = np.concatenate(self._circles(centroids)).astype(int)
        return np.bincount(pixel, minlength=len(self.xy))

    def _scored(self, centroids):
        """Return the score of centroids, rounded so that ties are equal, and the centroids."""
        times = self._times_used(centroids)
        value = self.weight + self.config.overlap_penalty * (times - 1)
        return round(value[times > 0].sum() / _TIE) * _TIE, centroids

    def _fit(self, seeds):
        """Return score and centroids of k-means that starts from some positions."""
        from sklearn.cluster import KMeans

        fit = KMeans(len(seeds), init=seeds, n_init=1, tol=0)
        fit.fit(self.xy[self.bright], sample_weight=self.weight[self.bright])
        return self._scored(fit.cluster_centers_)

    def _packed(self, distance_pix, value):
        """Return the pixels of highest value, none nearer to another than a distance."""
        value, chosen = value.copy(), []
        while len(chosen) < self.most and value.max() > -np.inf:
            chosen.append(value.argmax())
            away = np.hypot(*(self.xy - self.xy[chosen[-1]]).T)
            value[away < distance_pix] = -np.inf
        return self.xy[chosen]

    def _maxima(self):
        """Return local maxima of the probability, one of equal ones side by side."""
        bright = np.where(self.bright, self.weight, -np.inf)
        near = self._pixels_within(_PEAK_RADIUS_PIX)
        highest = np.maximum.reduceat(bright[near.indices], near.indptr[:-1])
        value = np.where(bright >= highest, self.around, -np.inf)
        return self._packed(_PEAK_RADIUS_PIX, value)

    def _climb(self, best, tried=()):
        """Return the clusters reached by steps of one more or one less while the score grows."""
        changed = True
        while changed:
            best, changed = self._step(best, tried)
        return best

    def _step(self, best, tried):
        """Return the better clusters with one more or one less, and whether there are any."""
        score, centroids = best
        times = self._times_used(centroids)
        if len(centroids) < self.most and len(centroids) + 1 not in tried:
            value = np.where(times > 0, self.config.overlap_penalty, self.weight)
            gain = np.where(self.bright, self.around_pixels @ value, -np.inf)
            if gain.max() > 0:
                found = self._fit(np.vstack([centroids, self.xy[gain.argmax()]]))
                if found[0] > score:
                    return found, True
        if times.max() > 1:
            # what a circle alone holds, and the penalties that its pixels cost
            value = np.where(times > 1, self.config.overlap_penalty, self.weight)
            worth = [value[pixel].sum() for pixel in self._circles(centroids)]
            found = self._fit(np.delete(centroids, np.argmin(worth), axis=0))
            if found[0] >= score:
                return found, True
        return best, False
