"""Close neighbours: whose turn it is in the fit, and what they cost each other in precision."""

import numpy as np

from astro_unetloc.geometry import chord

__all__ = ["joint_covariances", "neighbor_pairs", "take_turns"]

# Neighbours of a source that are taken into account, the nearest ones.
_MOST_NEIGHBORS = 6


def neighbor_pairs(vectors, radius_deg):
    """Pairs of sources within a radius in degrees, each in both orders, by the first then distance.

    Parameters
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    radius_deg : float
        Largest distance.

    Returns
    -------
    ndarray (m, 2) of int
    """
    from scipy.spatial import KDTree

    pairs = KDTree(vectors).query_pairs(chord(radius_deg), output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    away = np.linalg.norm(vectors[pairs[:, 0]] - vectors[pairs[:, 1]], axis=1)
    return pairs[np.lexsort((away, pairs[:, 0]))]


def take_turns(n, pairs):
    """Numbers (n,) such that no two sources of a pair have the same, few of them.

    Greedy colouring: each source takes the first number that none of its neighbours before it has.
    """
    turns = np.zeros(n, dtype=int)
    first = np.searchsorted(pairs[:, 0], np.arange(n + 1))
    for source in np.unique(pairs[:, 0]):
        neighbors = pairs[first[source] : first[source + 1], 1]
        taken = turns[neighbors[neighbors < source]]
        turns[source] = np.setdiff1d(np.arange(len(taken) + 1), taken)[0]
    return turns


def joint_covariances(derivatives, pairs, curvature, entry, source, *, wanted=None):
    """Covariances of sources alone, and with their neighbours free beside them.

    Parameters
    ----------
    derivatives : ndarray (m, 4)
        Of the expected counts at pairs of an entry and a source by the source's parameters, over
        the square root of the variance, so that their products are the information.
    pairs : ndarray (k, 2) of int
        From `neighbor_pairs`.
    curvature : ndarray (n, 4, 4)
        Negative second derivatives of the logarithm of the likelihood of each source alone.
    entry, source : ndarray (m,) of int
        The pairs.
    wanted : ndarray (k,) of int, optional
        The sources that are asked for, all by default.

    Returns
    -------
    alone, joint : ndarray (k, 4, 4)
    """
    n = len(curvature)
    wanted = np.arange(n) if wanted is None else wanted
    alone = np.linalg.inv(curvature[wanted])
    joint = alone.copy()
    if not len(pairs):
        return alone, joint
    crowded = np.zeros(n, dtype=bool)
    crowded[pairs[:, 0]] = True
    information = _information(derivatives, crowded, entry, source, n)
    first = np.searchsorted(pairs[:, 0], np.arange(n + 1))
    for row in np.flatnonzero(crowded[wanted]):
        one = wanted[row]
        group = pairs[first[one] : first[one + 1], 1][:_MOST_NEIGHBORS]
        group = np.append(one, group)
        rows = (4 * group[:, None] + np.arange(4)).ravel()
        matrix = information[rows][:, rows].toarray()
        for place, member in enumerate(group):
            block = slice(4 * place, 4 * place + 4)
            matrix[block, block] = curvature[member]
        scale = 1 / np.sqrt(np.diag(matrix))
        value, vector = np.linalg.eigh(matrix * scale[:, None] * scale)
        # a direction that the data do not tell at all is none of a maximum
        value = np.maximum(value, 1e-2)
        inverse = (vector / value) @ vector.T * scale[:, None] * scale
        joint[row] = inverse[:4, :4]
    return alone, joint


def _information(derivatives, crowded, entry, source, n):
    """Sparse information matrix (4 n, 4 n) of the crowded sources."""
    from scipy.sparse import csr_array

    used = np.flatnonzero(crowded[source])
    columns = 4 * source[used, None] + np.arange(4)
    rows = np.repeat(entry[used], 4)
    shape = (entry.max(initial=0) + 1, 4 * n)
    matrix = csr_array((derivatives[used].ravel(), (rows, columns.ravel())), shape=shape)
    return (matrix.T @ matrix).tocsr()
