"""k-means with the number of clusters chosen by the algorithm: sources in probability maps.

Pixels with a probability above a cut are clustered for k = 1, 2, ...; each k is scored by the sum
of probability in circles around its centroids, where a pixel that is used again counts as a
penalty; the best k wins.

Islands of pixels whose circles cannot overlap are independent. Each is searched for its own best
k from several starts: from one cluster upwards, from packed circles up- and downwards, and from
variations of the best. Trials of many islands are laid side by side in one plane, far enough apart
that the iterations of scikit-learn cannot mix them, and fitted in one call.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from astro_unetloc.config import ClusteringConfig
from astro_unetloc.islands import circle_pixels, circle_score, find_islands, ragged_ranges

__all__ = ["PixelSources", "find_clusters"]

# A search up or down in k ends after this many values of k in a row that do not score better.
_PATIENCE = 2
# Distances, in diameters, of the packed circles that a search starts from. An island that does not
# hold two circles at the smallest of them is searched from one cluster upwards alone.
_PACKINGS = (0.8, 1.0, 1.2)
# The best clusters are varied, up to _VARIATIONS at a time, until _STALE times none was better.
_VARIATIONS, _STALE = 16, 8
# Scores that differ by less are equal.
_TIE = 1e-9
# Most trials that are fitted together, and most of their pixels times their centroids.
_TRIALS, _DISTANCES = 64, 200_000


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


@dataclass(frozen=True)
class _Trials:
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

    @property
    def centroids(self):
        """The centroids of each trial, a list of ndarray (k, 2)."""
        return np.split(self.xy, self.first[1:-1])

    def select(self, mask):
        """The trials of a mask."""
        first = np.concatenate([[0], np.cumsum(self.k[mask])])
        return _Trials(self.island[mask], first, self.xy[mask[self.owner]])


def _trials(island, owner, xy):
    """Trials from centroids in any order and which trial each is of."""
    first = np.searchsorted(np.sort(owner), np.arange(len(island) + 1))
    return _Trials(island, first, xy[np.argsort(owner, kind="stable")])


def _largest(value, group):
    """Index of the largest value, the first on ties, of each of the groups 0, 1, ..."""
    order = np.lexsort((-value, group))
    return order[np.searchsorted(group[order], np.arange(group.max() + 1))]


# k-means of many trials


@contextmanager
def _light_sklearn():
    """Settings for many small fits: 20 ms became 0.5 ms on a busy machine.

    Threads would only wait for each other; they are limited of those libraries alone that are
    loaded already, so scikit-learn comes first. What the fits are given needs no checks.
    """
    import sklearn.cluster
    from threadpoolctl import threadpool_limits

    unchecked = {"assume_finite": True, "skip_parameter_validation": True}
    with threadpool_limits(limits=1), sklearn.config_context(**unchecked):
        yield


def _iterate(islands, trials):
    """Trials after k-means from their centroids, until no pixel changes its cluster."""
    xy = trials.xy.copy()
    # islands of about the same size go together
    order = np.argsort(islands.extent[trials.island], kind="stable")
    while len(order):
        some = order[:_TRIALS]
        cost = np.cumsum(islands.size[trials.island[some]]) * np.cumsum(trials.k[some])
        n = max(1, int(np.searchsorted(cost, _DISTANCES, side="right")))
        _iterate_together(islands, trials, order[:n], xy)
        order = order[n:]
    return _Trials(trials.island, trials.first, xy)


def _iterate_together(islands, trials, chosen, xy):
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
        # a hair of shear: pixels midway between two centroids go to the same one in any company
        return position + position[:, ::-1] * (1e-6, 1.7e-6) + tile[tile_of]

    start = lay(trials.xy[centroid], centroid_tile)
    fit = KMeans(len(start), init=start, n_init=1, tol=0)
    label = fit.fit(lay(position, pixel_tile), sample_weight=weight).labels_
    total = np.bincount(label, weight, minlength=len(start))
    if len(chosen) > 1 and (not total.all() or np.any(centroid_tile[label] != pixel_tile)):
        # a cluster that loses its pixels is given some of the farthest, perhaps of another trial
        for half in np.array_split(chosen, 2):
            _iterate_together(islands, trials, half, xy)
        return
    used = total > 0
    for axis in (0, 1):
        moment = np.bincount(label, weight * position[:, axis], minlength=len(start))
        xy[centroid[used], axis] = moment[used] / total[used]


# Where to look


def _distances(islands, trials):
    """Every pixel of the islands with every centroid of its trial.

    Returns the pixels and their trials, and of each pair the number of the pixel among these, the
    centroid and the distance.
    """
    pixel, trial = islands.pixels(trials.island)
    centroid, number = ragged_ranges(trials.first[trial], trials.first[trial + 1])
    offset = islands.xy[pixel][number] - trials.xy[centroid]
    return pixel, trial, number, centroid, np.hypot(*offset.T)


def _with_one_more(islands, trials, radius_pix):
    """Trials with a further centroid: the brightest pixel that no circle holds, or the farthest."""
    pixel, trial, number, _, distance = _distances(islands, trials)
    nearest = np.full(len(pixel), np.inf)
    np.minimum.at(nearest, number, distance)
    free = nearest > radius_pix
    any_free = np.bincount(trial, free)[trial] > 0
    value = np.where(any_free, np.where(free, islands.weight[pixel], -1.0), nearest)
    new = islands.xy[pixel[_largest(value, trial)]]
    owner = np.concatenate([trials.owner, np.arange(len(trials))])
    return _trials(trials.island, owner, np.concatenate([trials.xy, new]))


def _with_one_less(islands, trials, radius_pix):
    """Trials without the centroid whose circle holds least."""
    owner = trials.owner
    held = islands.sum_in_circles(trials.island[owner], trials.xy, radius_pix)
    keep = np.ones(len(owner), dtype=bool)
    keep[_largest(-held, owner)] = False
    return _trials(trials.island, owner[keep], trials.xy[keep])


def _packed(islands, island, distance_pix, radius_pix):
    """Trials with centroids on pixels, the best circles first, none nearer than a distance."""
    pixel, trial = islands.pixels(island)
    xy = islands.xy[pixel]
    value = islands.sum_in_circles(island[trial], xy, radius_pix)
    owner, centroids = [], []
    while np.any(value > 0):
        best = _largest(value, trial)
        best = best[value[best] > 0]
        owner.append(trial[best])
        centroids.append(xy[best])
        center = np.full((len(island), 2), np.inf)
        center[trial[best]] = xy[best]
        value = np.where(np.hypot(*(xy - center[trial]).T) < distance_pix, 0, value)
    return _trials(island, np.concatenate(owner), np.concatenate(centroids))


def _varied(pixels, centroids, rng, *, most, radius_pix):
    """Variations of the clusters of one island: some exchanged, or about as many drawn anew."""
    k, variations = len(centroids), []
    distance = np.linalg.norm(pixels[:, None] - centroids, axis=-1)
    for number in range(min(_VARIATIONS, 2 * k)):
        if number % 2:
            n = int(np.clip(k + number // 2 % 3 - 1, 2, most))
            variations.append(rng.permutation(pixels)[:n])
            continue
        kept = rng.permutation(k)[: k - rng.integers(min(3, k))]
        free = pixels[distance[:, kept].min(axis=1) > radius_pix / 2]
        n_new = rng.integers(int(len(kept) == k), 3)
        variation = np.concatenate([centroids[kept], rng.permutation(free)[:n_new]])
        if 2 <= len(variation) <= most:
            variations.append(variation)
    return variations


# The search


class _Search:
    """The best clusters of each island so far.

    Parameters
    ----------
    islands : Islands
        What is searched.
    config : ClusteringConfig
        Radius, penalty and ceiling.
    """

    def __init__(self, islands, config):
        self.islands, self.radius_pix = islands, config.radius_pix
        self.penalty = config.overlap_penalty
        self.most = np.minimum(islands.size, config.max_clusters or islands.size)
        one_each = np.arange(len(islands))
        one = _Trials(one_each, np.arange(len(islands) + 1), islands.mean)
        self.centroids, self.score = one.centroids, self._score(one)
        self._climb(one, _with_one_more)
        packed = _packed(islands, one_each, _PACKINGS[0] * 2 * self.radius_pix, self.radius_pix)
        large = np.flatnonzero(packed.k > 1)
        if len(large):
            self._search_packed(large)
            self._search_varied(large)

    def _score(self, trials):
        return circle_score(
            self.islands.images,
            self.islands.row[trials.island[trials.owner]],
            trials.owner,
            trials.xy,
            radius_pix=self.radius_pix,
            overlap_penalty=self.penalty,
        )

    def _fit(self, trials):
        """Fit trials and keep what is best; the fitted trials and whether each scored better."""
        trials = _iterate(self.islands, trials)
        score, before = self._score(trials), self.score.copy()
        centroids = trials.centroids
        # the smallest k first: it wins on ties
        for number in np.lexsort((trials.k, -score)):
            island = trials.island[number]
            gain = score[number] - self.score[island]
            fewer = trials.k[number] < len(self.centroids[island])
            if gain > _TIE or (gain > -_TIE and fewer):
                self.centroids[island], self.score[island] = centroids[number], score[number]
        return trials, score > before[trials.island] + _TIE

    def _climb(self, trials, step):
        """Take steps from trials as long as one in a few scores better."""
        failures = np.zeros(len(trials), dtype=int)
        while True:
            k = trials.k + (1 if step is _with_one_more else -1)
            going = (failures < _PATIENCE) & (k > 1) & (k <= self.most[trials.island])
            trials, failures = trials.select(going), failures[going]
            if len(trials) == 0:
                return
            trials, better = self._fit(step(self.islands, trials, self.radius_pix))
            failures = np.where(better, 0, failures + 1)

    def _search_packed(self, island):
        for packing in _PACKINGS:
            distance = packing * 2 * self.radius_pix
            trials = _packed(self.islands, island, distance, self.radius_pix)
            trials = trials.select(trials.k <= self.most[island])
            if len(trials):
                trials, _ = self._fit(trials)
                self._climb(trials, _with_one_more)
                self._climb(trials, _with_one_less)

    def _search_varied(self, island):
        # one generator for each island: what is found in one does not depend on the others
        rngs, stale = [np.random.default_rng(0) for _ in island], np.zeros(len(island), dtype=int)
        while np.any(stale < _STALE):
            numbers, owner, xy = [], [], []
            for number in np.flatnonzero(stale < _STALE):
                i = island[number]
                pixels = self.islands.xy[self.islands.first[i] : self.islands.first[i + 1]]
                limits = {"most": self.most[i], "radius_pix": self.radius_pix}
                for variation in _varied(pixels, self.centroids[i], rngs[number], **limits):
                    owner.append(np.full(len(variation), len(numbers)))
                    numbers.append(number)
                    xy.append(variation)
            stale += 1
            if not numbers:
                continue
            numbers = np.array(numbers)
            trials = _trials(island[numbers], np.concatenate(owner), np.concatenate(xy))
            stale[numbers[self._fit(trials)[1]]] = 0


def _cluster_sizes(islands, trials):
    """Number of pixels of each cluster, (n_centroids,)."""
    *_, number, centroid, distance = _distances(islands, trials)
    return np.bincount(centroid[_largest(-distance, number)], minlength=len(trials.xy))


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
        Sorted by patch, x and y.
    """
    config = ClusteringConfig() if config is None else config
    bright = probability > config.cut
    row, y, x = np.nonzero(bright)
    if keep is not None and len(row):
        bright[row, y, x] = keep(row, x.astype(float), y.astype(float))
    islands = find_islands(probability, bright, 2 * config.radius_pix + 1)
    if len(islands) == 0:
        empty = np.zeros(0)
        return PixelSources(empty.astype(int), empty, empty, empty, empty.astype(int))
    with _light_sklearn():
        centroids = _Search(islands, config).centroids
    owner = np.repeat(np.arange(len(islands)), [len(c) for c in centroids])
    best = _trials(np.arange(len(islands)), owner, np.concatenate(centroids))
    row = islands.row[owner]
    pixel, inside = circle_pixels(probability.shape, row, best.xy, config.radius_pix)
    peak = np.where(inside, probability.reshape(-1)[pixel], 0).max(axis=1).astype(float)
    order = np.lexsort((*best.xy.T[::-1], row))
    size = _cluster_sizes(islands, best)
    return PixelSources(row[order], *best.xy[order].T, peak[order], size[order])
