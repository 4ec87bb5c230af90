"""k-means with the number of clusters chosen by the algorithm: sources in probability maps.

Pixels with a probability above a cut are clustered for k = 1, 2, ...; each k is scored by the sum
of probability in circles around its centroids, where a pixel that is used again counts as a
penalty; the best k wins.

Islands of pixels whose circles cannot overlap are independent. Each is searched for its own best
k from several starts: a small one from one cluster upwards, others from packed circles; then parts
of the best are varied, most where most could be gained. What a variation costs does not grow with
the island.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.config import ClusteringConfig
from astro_unetloc.islands import circle_pixels, circle_score, circle_sums, find_islands
from astro_unetloc.parts import (
    best_few,
    best_of_each,
    choose_parts,
    divide,
    gains,
    relaxed,
    replace_parts,
)
from astro_unetloc.trials import (
    Trials,
    iterate,
    largest,
    light_sklearn,
    make_trials,
    nearest_centroid,
)
from astro_unetloc.variations import potential, vary

__all__ = ["PixelSources", "find_clusters"]

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
