"""Trials of k-means: clusters for islands of pixels, many of them fitted in one call.

Trials of many islands are laid side by side in one plane, far enough apart that the iterations of
scikit-learn cannot mix them.
"""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from astro_unetloc.islands import ragged_ranges

__all__ = [
    "Trials",
    "iterate",
    "largest",
    "light_sklearn",
    "make_trials",
    "nearest_centroid",
]

# Most trials that are fitted together, and most of their pixels times their centroids: a call costs
# 0.5 ms, and each pair of a pixel and a centroid of any trial 2 ns in each of some ten iterations.
_TRIALS, _DISTANCES = 64, 35_000


@dataclass(frozen=True)
class Trials:
    """Clusters for islands; trial t has the centroids ``first[t]`` to ``first[t + 1]``.

    Attributes
    ----------
    island : ndarray (n,) of int
        Which island each trial is for.
    first : ndarray (n + 1,) of int
        First centroid of each trial, and the number of centroids.
    xy : ndarray (n_centroids, 2)
        Centroids.
    """

    island: np.ndarray
    first: np.ndarray
    xy: np.ndarray

    def __len__(self):
        return len(self.island)

    @property
    def k(self):
        """Number of clusters of each trial, (n,)."""
        return np.diff(self.first)

    @property
    def owner(self):
        """Which trial each centroid is of, (n_centroids,)."""
        return np.repeat(np.arange(len(self)), self.k)

    def select(self, chosen):
        """The trials of a mask or index array."""
        island = self.island[chosen]
        centroid, _ = ragged_ranges(self.first[:-1][chosen], self.first[1:][chosen])
        first = np.concatenate([[0], np.cumsum(self.k[chosen])])
        return Trials(island, first, self.xy[centroid])


def make_trials(island, owner, xy):
    """Trials from centroids in any order and which trial each is of."""
    first = np.searchsorted(np.sort(owner), np.arange(len(island) + 1))
    return Trials(island, first, xy[np.argsort(owner, kind="stable")])


def largest(value, group):
    """Index of the largest value, the first on ties, of each of the groups 0, 1, ..."""
    order = np.lexsort((-value, group))
    return order[np.searchsorted(group[order], np.arange(group.max(initial=-1) + 1))]


def _sheared(xy):
    """Positions with a hair of shear: what lies midway goes to the same side in any company."""
    return xy + xy[:, ::-1] * (1e-6, 1.7e-6)


def nearest_centroid(islands, trials):
    """The centroid nearest to every pixel of the islands of trials.

    Returns
    -------
    pixel, trial : ndarray (n,) of int
        Pixels of the islands, and the trial of each.
    centroid : ndarray (n,) of int
        Which centroid is nearest.
    distance : ndarray (n,)
        How far it is.
    """
    from scipy.spatial import KDTree

    pixel, trial = islands.pixels(trials.island)
    # trials far apart along a third axis
    apart = 4 * (1 + max(islands.images.shape[1:]))
    tree = KDTree(np.column_stack([_sheared(trials.xy), trials.owner * apart]))
    position = islands.xy[pixel]
    _, centroid = tree.query(np.column_stack([_sheared(position), trial * apart]))
    return pixel, trial, centroid, np.hypot(*(position - trials.xy[centroid]).T)


@contextmanager
def light_sklearn():
    """Settings for many small fits: 20 ms became 0.5 ms on a busy machine.

    Threads would only wait for each other; they are limited of those libraries alone that are
    loaded already, so scikit-learn comes first. What the fits are given needs no checks.
    """
    import sklearn.cluster
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    unchecked = {"assume_finite": True, "skip_parameter_validation": True}
    with (
        threadpool_limits(limits=1),
        sklearn.config_context(**unchecked),
        warnings.catch_warnings(),
    ):
        # a start that leaves a cluster without pixels is one of many, and its score tells
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def iterate(islands, trials, max_iter=300):
    """Trials after k-means from their centroids, until no pixel changes its cluster.

    Parameters
    ----------
    islands : Islands
        The pixels.
    trials : Trials
        Where k-means starts.
    max_iter : int
        Most iterations.

    Returns
    -------
    Trials
    """
    xy = trials.xy.copy()
    k, size = trials.k, islands.size[trials.island]
    # trials of about the same cost go together
    order = np.argsort(k * size, kind="stable")
    while len(order):
        some = order[:_TRIALS]
        cost = np.cumsum(size[some]) * np.cumsum(k[some])
        n = max(1, int(np.searchsorted(cost, _DISTANCES, side="right")))
        _iterate_together(islands, trials, order[:n], xy, max_iter)
        order = order[n:]
    return Trials(trials.island, trials.first, xy)


def _iterate_together(islands, trials, chosen, xy, max_iter):
    """Fit some of the trials in one call; their new centroids are written to ``xy``."""
    from sklearn.cluster import KMeans

    island = trials.island[chosen]
    pixel, pixel_tile = islands.pixels(island)
    centroid, centroid_tile = ragged_ranges(trials.first[chosen], trials.first[chosen + 1])
    position, weight = islands.xy[pixel], islands.weight[pixel]
    pitch = 5 * islands.extent[island].max() + 5
    columns = int(np.ceil(np.sqrt(len(chosen))))
    tile = np.stack(np.divmod(np.arange(len(chosen)), columns), axis=-1) * pitch
    tile = tile - islands.xy[islands.first[island]]

    def lay(position, tile_of):
        return _sheared(position) + tile[tile_of]

    start = lay(trials.xy[centroid], centroid_tile)
    fit = KMeans(len(start), init=start, n_init=1, tol=0, max_iter=max_iter)
    label = fit.fit(lay(position, pixel_tile), sample_weight=weight).labels_
    total = np.bincount(label, weight, minlength=len(start))
    if len(chosen) > 1 and (not total.all() or np.any(centroid_tile[label] != pixel_tile)):
        # a cluster that loses its pixels is given some of the farthest, perhaps of another trial
        for half in np.array_split(chosen, 2):
            _iterate_together(islands, trials, half, xy, max_iter)
        return
    used = total > 0
    for axis in (0, 1):
        moment = np.bincount(label, weight * position[:, axis], minlength=len(start))
        xy[centroid[used], axis] = moment[used] / total[used]
