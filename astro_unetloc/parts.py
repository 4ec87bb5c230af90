"""Parts of islands: a few neighbouring clusters and their pixels, refitted while the rest stays.

What changes in a part is small beside its island: a trial costs the pixels and centroids of the
part alone, and its score is compared with what the same part held before, in the circles of the
rest. Parts of one round lie so far apart that all of them can change at once.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.islands import Islands, circle_pixels, circle_score
from astro_unetloc.trials import Trials, iterate, make_trials, nearest_centroid

__all__ = [
    "Division",
    "Parts",
    "best_few",
    "best_of_each",
    "choose_parts",
    "divide",
    "gains",
    "relaxed",
    "replace_parts",
]

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
