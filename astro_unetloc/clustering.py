"""k-means with the number of clusters chosen by the algorithm: sources in probability maps.

Pixels with a probability above a cut are clustered for k = 1, 2, ...; each k is scored by the sum
of probability in circles around its centroids, where a pixel that is used again counts as a
penalty; the best k wins. Islands of pixels whose circles cannot overlap are independent, so each
is clustered alone.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from astro_unetloc.config import ClusteringConfig

__all__ = ["PixelSources", "choose_clusters", "circle_score", "find_clusters"]

# An island of up to _SMALL circles in area is given up on after _PATIENCE values of k in a row that
# do not score better. In a larger one, such as a ring or a ridge, the score may fall for many k
# before it rises: there every k is tried until circles must overlap, each from several starts.
_SMALL, _PATIENCE, _RESTARTS = 2.0, 2, 4


@dataclass(frozen=True)
class PixelSources:
    """m candidates in pixel coordinates of their patches.

    Attributes
    ----------
    row : ndarray (m,) of int
        Which of the patches.
    x, y : ndarray (m,)
        Centroid, sub-pixel.
    probability : ndarray (m,)
        Highest probability within the circle.
    n_pixels : ndarray (m,) of int
        Pixels above the cut in the cluster.
    """

    row: np.ndarray
    x: np.ndarray
    y: np.ndarray
    probability: np.ndarray
    n_pixels: np.ndarray

    def __len__(self):
        return len(self.row)

    def select(self, mask):
        """The candidates of a mask or index array."""
        return PixelSources(*(getattr(self, f)[mask] for f in self.__dataclass_fields__))


def circle_score(centroids, xy, probability, *, radius_pix, overlap_penalty):
    """Objective of the clustering.

    Parameters
    ----------
    centroids : ndarray (k, 2)
        Centres of the circles.
    xy : ndarray (n, 2)
        Pixel coordinates.
    probability : ndarray (n,)
        Probability in these pixels.
    radius_pix : float
        Radius of the circles.
    overlap_penalty : float
        Added for each further circle that holds a pixel.

    Returns
    -------
    float
    """
    offset = xy[None, :, :] - centroids[:, None, :]
    used = np.sum(np.sum(offset**2, axis=-1) <= radius_pix**2, axis=0)
    again = np.sum(np.maximum(used - 1, 0))
    return float(probability[used > 0].sum() + overlap_penalty * again)


@contextmanager
def _light_sklearn():
    """Settings for thousands of fits to tens of pixels: 20 ms became 0.5 ms on a busy machine.

    Threads would only wait for each other; they are limited of those libraries alone that are
    loaded already, so scikit-learn comes first. What the fits are given needs no checks.
    """
    import sklearn.cluster
    from threadpoolctl import threadpool_limits

    unchecked = {"assume_finite": True, "skip_parameter_validation": True}
    with threadpool_limits(limits=1), sklearn.config_context(**unchecked):
        yield


def _kmeans(xy, weight, n_clusters, start, seed=0):
    """Centroids and labels of a fit from given centroids or from those that a method draws."""
    from sklearn.cluster import KMeans

    fit = KMeans(n_clusters, init=start, n_init=1, random_state=seed)
    fit.fit(xy, sample_weight=weight)
    return fit.cluster_centers_, fit.labels_


def _next_start(centroids, xy, weight, radius_pix):
    """The last centroids and the brightest pixel that no circle holds (else the farthest)."""
    distance = np.min(np.linalg.norm(xy[:, None] - centroids, axis=-1), axis=1)
    free = distance > radius_pix
    best = np.argmax(np.where(free, weight, -1.0)) if free.any() else np.argmax(distance)
    return np.concatenate([centroids, xy[best : best + 1]])


def choose_clusters(xy, weight, window_xy, window_probability, config):
    """Cluster the pixels of one island with the best number of clusters, the smallest on ties.

    Parameters
    ----------
    xy : ndarray (n, 2)
        Coordinates of the pixels above the cut.
    weight : ndarray (n,)
        Their probability.
    window_xy, window_probability : ndarray (m, 2), (m,)
        All pixels that a circle can reach.
    config : ClusteringConfig
        Radius, penalty and ceiling.

    Returns
    -------
    centroids : ndarray (k, 2)
        Centres of the clusters.
    labels : ndarray (n,) of int
        Cluster of each pixel.
    """
    order = np.lexsort(xy.T)  # sums and ties do not depend on the order of the pixels
    centroids, labels = _best_clusters(
        xy[order], weight[order], window_xy, window_probability, config
    )
    return centroids, labels[np.argsort(order)]


def _best_clusters(xy, weight, window_xy, window_probability, config):
    """The work of `choose_clusters` on sorted pixels."""

    def score(centroids):
        return circle_score(
            centroids,
            window_xy,
            window_probability,
            radius_pix=config.radius_pix,
            overlap_penalty=config.overlap_penalty,
        )

    centroids = np.average(xy, axis=0, weights=weight)[None]
    labels = np.zeros(len(xy), dtype=int)
    best, best_score, failures = (centroids, labels), score(centroids), 0
    area = len(xy) / (np.pi * config.radius_pix**2)
    small = area <= _SMALL
    ceiling = min(len(xy), config.max_clusters or len(xy), int(2 * area) + 3)
    for k in range(2, ceiling + 1):
        if small and failures == _PATIENCE:
            break
        start = _next_start(centroids, xy, weight, config.radius_pix)
        fits = [_kmeans(xy, weight, k, start)]
        if not small:
            draws = [(way, seed) for seed in range(_RESTARTS) for way in ("k-means++", "random")]
            fits += [_kmeans(xy, weight, k, way, seed) for way, seed in draws]
        values = [score(fit[0]) for fit in fits]
        centroids, labels = fits[np.argmax(values)]
        if max(values) > best_score + 1e-9:
            best, best_score, failures = (centroids, labels), max(values), 0
        else:
            failures += 1
    return best


def _islands(row, xy, link_pix):
    """Label pixels of the same patch that are linked in steps up to a distance, shape (n,)."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    far_apart = 10 * (xy.max() + link_pix)
    points = np.column_stack([xy, row * far_apart])
    links = KDTree(points).sparse_distance_matrix(
        KDTree(points), link_pix, output_type="coo_matrix"
    )
    links.data[:] = 1
    return connected_components(links, directed=False)[1]


def _window(image, xy, radius_pix):
    """Coordinates (m, 2) and probabilities (m,) of the pixels around an island."""
    reach = int(np.ceil(radius_pix)) + 1
    x_min, y_min = np.maximum(xy.min(axis=0).astype(int) - reach, 0)
    x_max, y_max = xy.max(axis=0).astype(int) + reach + 1
    cut = image[y_min:y_max, x_min:x_max]
    y, x = np.mgrid[y_min : y_min + cut.shape[0], x_min : x_min + cut.shape[1]]
    return np.column_stack([x.ravel(), y.ravel()]).astype(float), cut.ravel().astype(float)


def _island_sources(probability, row, xy, config):
    """Candidates of one island as tuples (row, x, y, peak probability, pixels)."""
    image = probability[row[0]]
    weight = image[xy[:, 1].astype(int), xy[:, 0].astype(int)].astype(float)
    window_xy, window_probability = _window(image, xy, config.radius_pix)
    centroids, labels = choose_clusters(xy, weight, window_xy, window_probability, config)
    distance = np.linalg.norm(window_xy[:, None] - centroids, axis=-1)
    inside = distance <= config.radius_pix
    peak = np.where(inside, window_probability[:, None], 0).max(axis=0)
    size = np.bincount(labels, minlength=len(centroids))
    return [(row[0], *c, p, n) for c, p, n in zip(centroids, peak, size, strict=True)]


def find_clusters(probability, *, config=None, keep=None):
    """Candidates in probability maps.

    Parameters
    ----------
    probability : ndarray (n, ny, nx)
        Probability of a source in each pixel of n patches.
    config : ClusteringConfig, optional
        Cut, radius, penalty and ceiling.
    keep : callable, optional
        Takes the patch rows (m,), x and y (m,) of bright pixels and returns which to cluster.

    Returns
    -------
    PixelSources
        Sorted by patch; the same whatever the order of pixels.
    """
    config = ClusteringConfig() if config is None else config
    row, y, x = np.nonzero(probability > config.cut)
    if keep is not None and len(row):
        kept = keep(row, x.astype(float), y.astype(float))
        row, y, x = row[kept], y[kept], x[kept]
    if len(row) == 0:
        empty = np.zeros(0)
        return PixelSources(empty.astype(int), empty, empty, empty, empty.astype(int))
    xy = np.column_stack([x, y]).astype(float)
    island = _islands(row, xy, 2 * config.radius_pix + 1)
    order = np.argsort(island, kind="stable")
    found = []
    with _light_sklearn():
        for pixels in np.split(order, np.flatnonzero(np.diff(island[order])) + 1):
            found += _island_sources(probability, row[pixels], xy[pixels], config)
    rows, x, y, peak, size = np.array(sorted(found)).T
    return PixelSources(rows.astype(int), x, y, peak, size.astype(int))
