"""Variations of clusters: where else k-means may start in a part of an island."""

import numpy as np

from astro_unetloc.islands import circle_score
from astro_unetloc.trials import Trials, make_trials, nearest_centroid

__all__ = ["potential", "vary"]

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
