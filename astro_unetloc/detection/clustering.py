"""Islands of bright pixels in probability maps, and circles around positions in them.

Islands are so far apart that circles around clusters of one and of another cannot overlap.

Trials of k-means: clusters for islands of pixels, many of them fitted in one call.

Trials of many islands are laid side by side in one plane, far enough apart that the iterations of
scikit-learn cannot mix them.

Variations of clusters: where else k-means may start in a part of an island.

Parts of islands: a few neighbouring clusters and their pixels, refitted while the rest stays.

What changes in a part is small beside its island: a trial costs the pixels and centroids of the
part alone, and its score is compared with what the same part held before, in the circles of the
rest. Parts of one round lie so far apart that all of them can change at once.

k-means with the number of clusters chosen by the algorithm: sources in probability maps.

Pixels with a probability above a cut are clustered for k = 1, 2, ...; each k is scored by the sum
of probability in circles around its centroids, where a pixel that is used again counts as a
penalty; the best k wins.

Islands of pixels whose circles cannot overlap are independent. Each is searched for its own best
k from several starts: a small one from one cluster upwards, others from packed circles; then parts
of the best are varied, most where most could be gained. What a variation costs does not grow with
the island.
"""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from astro_unetloc.sphere import ragged_ranges

__all__ = [
    "ClusteringConfig",
    "Division",
    "Islands",
    "PRESETS",
    "Parts",
    "PixelSources",
    "Trials",
    "best_few",
    "best_of_each",
    "choose_parts",
    "circle_pixels",
    "circle_score",
    "circle_sums",
    "divide",
    "find_clusters",
    "find_islands",
    "gains",
    "iterate",
    "largest",
    "light_sklearn",
    "make_trials",
    "nearest_centroid",
    "potential",
    "relaxed",
    "replace_parts",
    "vary",
]


@dataclass(frozen=True)
class ClusteringConfig:
    """k-means with the number of clusters chosen by the algorithm.

    Attributes
    ----------
    cut : float
        Pixels with a probability above this are clustered.
    radius_pix : float
        Radius of the circles around the centroids, in pixels.
    overlap_penalty : float
        Added to the score for each pixel that a circle uses again (negative).
    max_clusters : int or None
        Ceiling of the number of clusters; None for none.
    """

    cut: float = 0.05
    radius_pix: float = 2.0
    overlap_penalty: float = -10.0
    max_clusters: int | None = None


PRESETS = {
    "default": ClusteringConfig(),
    # The numbers of the first description of the method (2019).
    "reference": ClusteringConfig(cut=0.2, radius_pix=3.0, overlap_penalty=-10.0, max_clusters=49),
}


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


# How many clusters a variation drops and how many it adds.
_EXCHANGES = ((0, 1), (1, 0), (1, 1), (1, 1), (1, 2), (2, 1), (2, 2))


# How many clusters more or less than now are drawn anew.
_REDRAWS = (0, 1, -1)


# Further draws, of those that come to more clusters than _MANY: there are more ways to draw them.
_MANY, _FURTHER = 4, (0, 1, -1, 2, -2, 0)


# Pixels that are tried for a new cluster until one lies apart from the others.
_DRAWS = 6


def _exchanged(parts, free_first, dropped, added, rng, radius_pix):
    """Trials with some centroids dropped and some pixels added, for the parts where it can be."""
    now, pixels = parts.clusters, parts.pixels
    n, owner = len(parts), now.owner
    number = np.arange(len(owner)) - now.first[owner]
    one = (rng.random() * now.k).astype(int)
    other = (one + 1 + (rng.random() * np.maximum(now.k - 1, 1)).astype(int)) % now.k
    kept = ~((dropped > 0) & (number == one[owner]) | (dropped > 1) & (number == other[owner]))
    position, n_free = free_first
    # new clusters first where no circle is, if there is such a place
    size = np.where((n_free > 0) & (dropped == 0), n_free, pixels.size)
    draw = pixels.first[:-1, None] + (rng.random(_DRAWS) * size[:, None]).astype(int)
    place = position[draw]
    distance = np.where(kept[:, None], np.hypot(*(place[owner] - now.xy[:, None]).T).T, np.inf)
    apart = np.minimum.reduceat(distance, now.first[:-1]) > radius_pix / 2
    possible = now.k >= dropped
    new_owner, new = [], []
    for _ in range(added):
        possible &= apart.any(axis=1)
        chosen = place[np.arange(n), np.argmax(apart, axis=1)]
        new_owner.append(np.arange(n))
        new.append(chosen)
        apart &= np.hypot(*(place - chosen[:, None]).T).T > radius_pix / 2
    owner = np.concatenate([owner[kept], *new_owner])
    trials = make_trials(np.arange(n), owner, np.concatenate([now.xy[kept], *new]))
    # one cluster ends at the same place from any start
    return trials.select(possible & (trials.k > (added > 0)))


def _redrawn(parts, more, rng, above=1):
    """Trials with all centroids on pixels, in the order of the map, about as many as now."""
    k = np.minimum(parts.clusters.k + more, parts.pixels.size)
    part = np.flatnonzero(k > above)
    k = k[part]
    owner = np.repeat(np.arange(len(k)), k)
    first = np.concatenate([[0], np.cumsum(k)])
    number = np.arange(len(owner)) - first[owner]
    step = parts.pixels.size[part][owner] / k[owner]
    draw = ((number + rng.random(16)[number % 16]) * step).astype(int)
    pixel = parts.pixels.first[part][owner] + draw
    return Trials(part, first, parts.pixels.xy[pixel])


def _free_pixels(parts, radius_pix):
    """Whether no circle of the part holds each pixel, (n_pixels,)."""
    return nearest_centroid(parts.pixels, parts.clusters)[3] > radius_pix


def _free_first(parts, radius_pix):
    """Positions of the pixels of each part, those first that no circle holds; number of these."""
    free = _free_pixels(parts, radius_pix)
    part = np.repeat(np.arange(len(parts)), parts.pixels.size)
    order = np.lexsort((~free, part))
    n_free = np.bincount(part, free, minlength=len(parts)).astype(int)
    return parts.pixels.xy[order], n_free


def potential(parts, *, radius_pix, overlap_penalty):
    """What better clusters might gain at most, as a share of what a circle holds, (n_parts,).

    The probability of the bright pixels that no circle holds and all that overlaps cost.
    """
    pixels, now = parts.pixels, parts.clusters
    part = np.repeat(np.arange(len(parts)), pixels.size)
    free = np.bincount(part, pixels.weight * _free_pixels(parts, radius_pix), len(parts))
    options = {"radius_pix": radius_pix, "overlap_penalty": overlap_penalty}
    where = pixels.images, pixels.row[now.owner]
    alone = circle_score(*where, np.arange(len(now.xy)), now.xy, **options)
    held = np.add.reduceat(alone, now.first[:-1])
    lost = held - circle_score(*where, now.owner, now.xy, **options)
    return (free + lost) / np.maximum(held / now.k, 1e-9)


def vary(parts, rng, radius_pix):
    """Trials for parts.

    Parameters
    ----------
    parts : Parts
        What is varied.
    rng : Generator
        All parts share the numbers that are drawn: a part's trials do not depend on the others.
    radius_pix : float
        A new cluster is not put within half of this of another.

    Returns
    -------
    Trials
        Some ten for each part, fewer of small ones.
    """
    free_first = _free_first(parts, radius_pix)
    trials = [_exchanged(parts, free_first, *e, rng, radius_pix) for e in _EXCHANGES]
    trials += [_redrawn(parts, more, rng) for more in _REDRAWS]
    trials += [_redrawn(parts, more, rng, _MANY) for more in _FURTHER]
    island = np.concatenate([t.island for t in trials])
    k, xy = np.concatenate([t.k for t in trials]), np.concatenate([t.xy for t in trials])
    return Trials(island, np.concatenate([[0], np.cumsum(k)]), xy)


# An island of up to so many clusters is one part when islands are only fitted.
_WHOLE = 4


# Width of the windows that parts are cut out with when an island is only fitted, in radii.
_RELAX_RADII = 6


_RELAX_ROUNDS = 2


@dataclass(frozen=True)
class Division:
    """Islands divided into clusters.

    Attributes
    ----------
    trials : Trials
        One for each island, in the order of the islands.
    label : ndarray (n_pixels,) of int
        Which centroid each pixel belongs to.
    """

    trials: Trials
    label: np.ndarray


@dataclass(frozen=True)
class Parts:
    """Parts of some islands.

    Attributes
    ----------
    island : ndarray (n,) of int
        Which island each part is of.
    member : ndarray (n_members,) of int
        Clusters of the parts one after the other.
    clusters : Trials
        The same clusters as trials for the parts.
    pixel : ndarray (n_pixels,) of int
        Pixels of the parts one after the other.
    pixels : Islands
        The same pixels as islands, one for each part.
    """

    island: np.ndarray
    member: np.ndarray
    clusters: Trials
    pixel: np.ndarray
    pixels: Islands

    def __len__(self):
        return len(self.island)


def divide(islands, trials):
    """Each pixel of the islands to the nearest centroid of the island's trial."""
    return Division(trials, nearest_centroid(islands, trials)[2])


def choose_parts(islands, division, wanted, *, width_pix, gap_pix, offset, whole):
    """Cut parts out of islands with a grid of square windows.

    Parameters
    ----------
    islands : Islands
        The islands.
    division : Division
        Their clusters.
    wanted : ndarray (n_centroids,) of bool
        Parts without any of these clusters are left out.
    width_pix, gap_pix : float
        Width of the windows and of the space between them.
    offset : ndarray (2,)
        Where the grid begins, as a fraction of its pitch.
    whole : int
        An island of up to so many clusters is one part, wherever the windows are.

    Returns
    -------
    Parts
        By island.
    """
    trials = division.trials
    pitch = width_pix + gap_pix
    cell, within = np.divmod(trials.xy / pitch + offset, 1)
    undivided = trials.k[trials.owner] <= whole
    chosen = undivided | (within < width_pix / pitch).all(axis=1)
    cell = np.where(undivided[:, None], 0, cell.astype(int) + 1)
    n_cells = cell.max(initial=0) + 1
    key = (trials.owner * n_cells + cell[:, 0]) * n_cells + cell[:, 1]
    # only parts that hold a wanted cluster
    member = np.flatnonzero(chosen & np.isin(key, key[chosen & wanted]))
    member = member[np.argsort(key[member], kind="stable")]
    _, first, number = np.unique(key[member], return_index=True, return_inverse=True)
    part_of = np.full(len(key), -1)
    part_of[member] = number
    pixel = np.flatnonzero(part_of[division.label] >= 0)
    part_of_pixel = part_of[division.label[pixel]]
    order = np.argsort(part_of_pixel, kind="stable")
    pixel, part_of_pixel = pixel[order], part_of_pixel[order]
    edges = np.searchsorted(part_of_pixel, np.arange(len(first) + 1))
    island = trials.owner[member[first]]
    pixels = Islands(
        islands.images, islands.row[island], islands.xy[pixel], islands.weight[pixel], edges
    )
    clusters = make_trials(np.arange(len(first)), number, trials.xy[member])
    return Parts(island, member, clusters, pixel, pixels)


def replace_parts(islands, division, parts, trials):
    """Divisions with other clusters in parts.

    Parameters
    ----------
    islands, division, parts
        What is changed.
    trials : Trials
        New clusters for some of the parts.

    Returns
    -------
    division : Division
        The new one.
    origin : ndarray (n_centroids,) of int
        Which cluster each was before, -1 for a new one.
    """
    old = division.trials
    changed = np.zeros(len(parts), dtype=bool)
    changed[trials.island] = True
    kept = np.ones(len(old.xy), dtype=bool)
    kept[parts.member[changed[parts.clusters.owner]]] = False
    owner = np.concatenate([old.owner[kept], parts.island[trials.island[trials.owner]]])
    order = np.argsort(owner, kind="stable")
    place = np.empty(len(order), dtype=int)
    place[order] = np.arange(len(order))
    n_kept = int(kept.sum())
    number = np.full(len(old.xy), -1)
    number[kept] = place[:n_kept]
    label = number[division.label]
    pixel, _, centroid, _ = nearest_centroid(parts.pixels, trials)
    label[parts.pixel[pixel]] = place[n_kept:][centroid]
    xy = np.concatenate([old.xy[kept], trials.xy])
    origin = np.concatenate([np.flatnonzero(kept), np.full(len(trials.xy), -1)])[order]
    return Division(make_trials(old.island, owner, xy), label), origin


def relaxed(islands, trials, radius_pix):
    """Trials for all islands after k-means; that of large islands part by part.

    A few rounds with windows that lie side by side, each round at another place.
    """
    division = divide(islands, trials)
    wanted = np.ones(len(trials.xy), dtype=bool)
    for number in range(_RELAX_ROUNDS):
        windows = {"width_pix": _RELAX_RADII * radius_pix, "gap_pix": 0.0, "whole": _WHOLE}
        offset = np.array([0.5, 0.5]) * number
        parts = choose_parts(islands, division, wanted, offset=offset, **windows)
        fitted = iterate(parts.pixels, parts.clusters)
        division, _ = replace_parts(islands, division, parts, fitted)
        # an island that is one part is done
        wanted = (np.bincount(parts.island, minlength=len(islands)) != 1)[division.trials.owner]
        if not wanted.any():
            break
    return division


def _circle_counts(images, row, owner, xy, radius_pix):
    """Keys of owners and pixels, ascending, and how many circles of the owner hold the pixel."""
    pixel, inside = circle_pixels(images.shape, row, xy, radius_pix)
    return np.unique((owner[:, None] * images.size + pixel)[inside], return_counts=True)


def _look_up(wanted, key, value):
    """The values of some keys, 0 for those that do not exist."""
    if len(key) == 0:
        return np.zeros(len(wanted), dtype=int)
    place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    return np.where(key[place] == wanted, value[place], 0)


def gains(division, parts, trials, *, radius_pix, overlap_penalty):
    """What the objective gains when clusters of parts are exchanged for trials.

    Parameters
    ----------
    division : Division
        The clusters as they are.
    parts : Parts
        Parts of them.
    trials : Trials
        New clusters for parts.
    radius_pix, overlap_penalty : float
        Of the objective.

    Returns
    -------
    ndarray (n_trials,)
    """
    images, row, before = parts.pixels.images, parts.pixels.row, parts.clusters
    # parts that are whole islands have no other circles around
    alone = before.k == division.trials.k[parts.island]
    changing = np.zeros(len(division.trials), dtype=bool)
    changing[parts.island[~alone]] = True
    row_of_island = np.zeros(len(changing), dtype=int)
    row_of_island[parts.island] = row
    island = division.trials.owner
    here = changing[island]
    circles = row_of_island[island[here]], island[here], division.trials.xy[here]
    all_key, n_all = _circle_counts(images, *circles, radius_pix)
    own_key, n_own = _circle_counts(images, row[before.owner], before.owner, before.xy, radius_pix)

    def score(clusters):
        def used(trial, pixel):
            part, number = clusters.island[trial], np.zeros(len(trial), dtype=int)
            some = ~alone[part]
            part, pixel = part[some], pixel[some]
            n_own_here = _look_up(part * images.size + pixel, own_key, n_own)
            n_here = _look_up(parts.island[part] * images.size + pixel, all_key, n_all)
            number[some] = n_here - n_own_here
            return number

        where = row[clusters.island[clusters.owner]], clusters.owner, clusters.xy
        options = {"radius_pix": radius_pix, "overlap_penalty": overlap_penalty}
        return circle_score(images, *where, used=used, **options)

    return score(trials) - score(before)[trials.island]


def best_of_each(gain, trials, now, tie):
    """The trial of each part that gains most, or as much with fewer clusters than now."""
    # the smallest k first: it wins on ties
    order = np.lexsort((trials.k, -gain))
    _, first = np.unique(trials.island[order], return_index=True)
    best = np.sort(order[first])
    fewer = trials.k[best] < now[trials.island[best]]
    return best[(gain[best] > tie) | ((gain[best] > -tie) & fewer)]


def best_few(gain, trials, n_most):
    """The trials of each part that gain most, at most so many of each."""
    order = np.lexsort((trials.k, -gain, trials.island))
    part = trials.island[order]
    place = np.arange(len(order)) - np.searchsorted(part, part)
    return np.sort(order[place < n_most])


# The search from one cluster upwards ends after this many values of k in a row that do not score
# better, and is left out for islands that hold more packed circles than _CLIMB.
_PATIENCE, _CLIMB = 2, 6


# Distances, in diameters, of the packed circles that a search starts from. An island that does not
# hold two circles at the smallest of them is searched from one cluster upwards alone.
_PACKINGS = (0.8, 1.0, 1.2, 1.6)


# Each cluster is part of variations until so many rounds in a row found nothing better: five more
# than its part has clusters, at most _STALE.
_STALE, _MAX_ROUNDS = 9, 300


# Where pixels times clusters exceed _COSTLY, in parts of up to _FEW clusters, only the best
# variations of a part are continued after so many iterations.
_COSTLY, _FIRST_LOOK, _CONTINUED, _FEW = 200, 3, 2, 6


# One round is enough where better clusters could not gain this share of a circle, and in islands of
# more clusters than _CROWD, which no map of sources has: such a map must end as well.
_POTENTIAL, _CROWD = 0.1, 300


# Widths of the windows that parts are cut out with, and the space between them, in radii; an island
# of no more clusters than stand beside a width is one part, since rings and the like change whole.
_WINDOWS, _GAP = ((3.0, 4), (12.0, 40), (4.0, 4), (2.5, 4)), 2.5


# Scores that differ by less are equal.
_TIE = 1e-9


# Islands are searched together until they have this many pixels: memory stays bounded.
_TOGETHER = 400_000


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


# Where to start


def _with_one_more(islands, trials, radius_pix):
    """Trials with a further centroid: the brightest pixel that no circle holds, or the farthest."""
    pixel, trial, _, nearest = nearest_centroid(islands, trials)
    free = nearest > radius_pix
    any_free = np.bincount(trial, free)[trial] > 0
    value = np.where(any_free, np.where(free, islands.weight[pixel], -1.0), nearest)
    new = islands.xy[pixel[largest(value, trial)]]
    owner = np.concatenate([trials.owner, np.arange(len(trials))])
    return make_trials(trials.island, owner, np.concatenate([trials.xy, new]))


def _packed(xy, value, distance_pix):
    """Positions of one island, the best first, none nearer to another than a distance."""
    order = np.argsort(-value, kind="stable")
    xy, free, number, chosen = xy[order], value[order] > 0, 0, []
    while free[number:].any():
        number += int(np.argmax(free[number:]))
        chosen.append(xy[number])
        near = np.hypot(*(xy[number:] - xy[number]).T) < distance_pix
        free[number:] &= ~near
        number += 1
    return np.array(chosen)


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
        self.objective = {
            "radius_pix": config.radius_pix,
            "overlap_penalty": config.overlap_penalty,
        }
        self.most = np.minimum(islands.size, config.max_clusters or islands.size)
        one_each = np.arange(len(islands))
        self.best = Trials(one_each, np.arange(len(islands) + 1), islands.mean)
        self.score = self._score(islands, self.best)
        packed = self._packings()
        n_circles = np.ones(len(islands), dtype=int)
        n_circles[packed[0].island] = packed[0].k
        climbing = (n_circles <= _CLIMB) | (n_circles > self.most)
        self._climb(np.flatnonzero(climbing), n_circles)
        large = np.flatnonzero(n_circles > 1)
        if len(large):
            small, score = self.best, self.score.copy()
            # a large island starts from packed circles even if these score less at first
            self.score[(n_circles > _CLIMB) & (n_circles <= self.most)] = -np.inf
            self._start_packed([p.select(p.k > 1) for p in packed])
            self._vary(large)
            self._keep_best(small, score)

    def _score(self, islands, trials):
        row = islands.row[trials.island[trials.owner]]
        return circle_score(islands.images, row, trials.owner, trials.xy, **self.objective)

    def _keep_best(self, trials, score):
        """Keep what is best; whether each trial scored better."""
        before = self.score.copy()
        best = best_of_each(score - before[trials.island], trials, self.best.k, _TIE)
        self._set(trials.select(best))
        self.score[trials.island[best]] = score[best]
        return score > before[trials.island] + _TIE

    def _set(self, trials):
        """Replace the best clusters of some islands."""
        replaced = np.zeros(len(self.islands), dtype=bool)
        replaced[trials.island] = True
        kept = ~replaced[self.best.owner]
        owner = np.concatenate([self.best.owner[kept], trials.island[trials.owner]])
        xy = np.concatenate([self.best.xy[kept], trials.xy])
        self.best = make_trials(self.best.island, owner, xy)

    def _climb(self, island, n_circles):
        """From one cluster upwards as long as one step in a few scores better."""
        trials = self.best.select(island)
        failures = np.where(n_circles[island] > 1, 0, _PATIENCE - 1)
        while True:
            going = (failures < _PATIENCE) & (trials.k < self.most[trials.island])
            trials, failures = trials.select(going), failures[going]
            if len(trials) == 0:
                return
            trials = iterate(self.islands, _with_one_more(self.islands, trials, self.radius_pix))
            better = self._keep_best(trials, self._score(self.islands, trials))
            failures = np.where(better, 0, failures + 1)

    def _packings(self):
        """Trials with packed circles, at each distance, of islands wide enough for two."""
        distances = np.array(_PACKINGS) * 2 * self.radius_pix
        island = np.flatnonzero(self.islands.diagonal >= distances[0])
        islands = self.islands.select(island)
        value = circle_sums(islands, self.radius_pix)
        pixels = [slice(a, b) for a, b in zip(islands.first[:-1], islands.first[1:])]
        packings = []
        for distance in distances:
            centroids = [_packed(islands.xy[p], value[p], distance) for p in pixels]
            first = np.concatenate([[0], np.cumsum([len(c) for c in centroids], dtype=int)])
            packings.append(Trials(island, first, np.concatenate([np.zeros((0, 2)), *centroids])))
        return packings

    def _start_packed(self, packings):
        for packed in packings:
            if len(packed) == 0:
                continue
            islands = self.islands.select(packed.island)
            trials = Trials(np.arange(len(packed)), packed.first, packed.xy)
            fitted = relaxed(islands, trials, self.radius_pix).trials
            trials = Trials(packed.island, fitted.first, fitted.xy)
            trials = trials.select(trials.k <= self.most[packed.island])
            self._keep_best(trials, self._score(self.islands, trials))

    def _vary(self, island):
        """Vary parts of islands until nothing scores better."""
        islands, now = self.islands.select(island), self.best.select(island)
        division = divide(islands, Trials(np.arange(len(island)), now.first, now.xy))
        # what is drawn does not depend on the islands: nor does what is found in one on the others
        rng, stale = np.random.default_rng(0), np.zeros(len(now.xy))
        for number in range(_MAX_ROUNDS):
            going = stale < _STALE - 0.1
            if not going.any():
                break
            width, whole = _WINDOWS[number % len(_WINDOWS)]
            windows = {
                "width_pix": width * self.radius_pix,
                "gap_pix": _GAP * self.radius_pix,
                "offset": rng.random(2),
                "whole": whole,
            }
            parts = choose_parts(islands, division, going, **windows)
            if len(parts):
                draws, limit = np.random.default_rng([1, number]), self.most[island]
                fitted, gain = self._varied(division, parts, draws, limit)
                stale[parts.member] += self._weariness(division, parts)[parts.clusters.owner]
                division, origin = self._changed(islands, division, parts, fitted, gain, limit)
                stale = np.where(origin < 0, 0, stale[origin])
        trials = Trials(island, division.trials.first, division.trials.xy)
        self._set(trials)
        self.score[island] = self._score(self.islands, self.best)[island]

    def _weariness(self, division, parts):
        """What a round without gain adds towards _STALE: less where more can be gained."""
        might = potential(parts, **self.objective) > _POTENTIAL
        might &= division.trials.k[parts.island] <= _CROWD
        return _STALE / np.where(might, np.minimum(parts.clusters.k + 5, _STALE), 1)

    def _varied(self, division, parts, draws, limit):
        """The best variation of each part that has a better one, and what they gain."""
        trials = vary(parts, draws, self.radius_pix)
        others = division.trials.k[parts.island] - parts.clusters.k
        allowed = others[trials.island] + trials.k <= limit[parts.island[trials.island]]
        allowed &= trials.k <= parts.pixels.size[trials.island]
        trials = self._first_look(division, parts, trials.select(allowed))
        trials = iterate(parts.pixels, trials)
        gain = gains(division, parts, trials, **self.objective)
        best = best_of_each(gain, trials, parts.clusters.k, _TIE)
        return trials.select(best), gain[best]

    def _changed(self, islands, division, parts, trials, gain, limit):
        """The division with other clusters in parts, and which cluster each was before.

        Where parts of an island get in each other's way, only the best of them changes.
        """
        new, origin = replace_parts(islands, division, parts, trials)
        island = parts.island[trials.island]
        changed, group = np.unique(island, return_inverse=True)
        if len(changed) == 0:
            return new, origin
        before, after = (
            self._score(islands, t.select(changed)) for t in (division.trials, new.trials)
        )
        promised = np.bincount(group, gain)
        wrong = (after < before + promised - 1e-6) | (new.trials.k > limit)[changed]
        if not wrong.any():
            return new, origin
        alone = np.zeros(len(trials), dtype=bool)
        alone[largest(gain, group)] = True
        return replace_parts(islands, division, parts, trials.select(alone | ~wrong[group]))

    def _first_look(self, division, parts, trials):
        """Of variations that cost much, the few that look best after a few iterations."""
        costly = parts.pixels.size * parts.clusters.k > _COSTLY
        # where many clusters change together a few iterations do not tell
        costly = (costly & (parts.clusters.k <= _FEW))[trials.island]
        cheap, some = trials.select(~costly), trials.select(costly)
        if len(some) == 0:
            return trials
        some = iterate(parts.pixels, some, _FIRST_LOOK)
        gain = gains(division, parts, some, **self.objective)
        some = some.select(best_few(gain, some, _CONTINUED))
        xy = np.concatenate([cheap.xy, some.xy])
        owner = np.concatenate([cheap.owner, some.owner + len(cheap)])
        return make_trials(np.concatenate([cheap.island, some.island]), owner, xy)


def _search(islands, config):
    """The best clusters of islands, a trial for each; some islands after the others."""
    group = np.cumsum(islands.size) // _TOGETHER
    edges = np.flatnonzero(np.diff(group, prepend=-1, append=group[-1] + 1))
    groups = [np.arange(a, b) for a, b in zip(edges[:-1], edges[1:])]
    best = [_Search(islands.select(island), config).best for island in groups]
    k = np.concatenate([trials.k for trials in best])
    first = np.concatenate([[0], np.cumsum(k)])
    return Trials(np.arange(len(islands)), first, np.concatenate([trials.xy for trials in best]))


def _cluster_sizes(islands, trials):
    """Number of pixels of each cluster, (n_centroids,)."""
    return np.bincount(nearest_centroid(islands, trials)[2], minlength=len(trials.xy))


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
    with light_sklearn():
        best = _search(islands, config)
    row = islands.row[best.owner]
    pixel, inside = circle_pixels(probability.shape, row, best.xy, config.radius_pix)
    peak = np.where(inside, probability.reshape(-1)[pixel], 0).max(axis=1).astype(float)
    order = np.lexsort((*best.xy.T[::-1], row))
    size = _cluster_sizes(islands, best)
    return PixelSources(row[order], *best.xy[order].T, peak[order], size[order])
