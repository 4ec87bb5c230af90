"""Truth matches: which true source each detection has found, and what a true source counts for.

N is the expected number of detected photons of a true source in the model's range. Sources with
N >= 8 count for completeness; a match to one with 3 <= N < 8 is ignored, neither right nor wrong;
below 3 is not truth. Matches are one-to-one in descending ``Score``, nearest within 0.3 deg.
Detections inside extended sources are listed apart.
"""

import numpy as np

from astro_unetloc.geometry import chord, separation_deg
from astro_unetloc.references import degrees, numbers

__all__ = ["beyond_edge", "match_in_order", "roles", "separation_of_others"]

MIN_PHOTONS_COUNTED = 8.0
MIN_PHOTONS_TRUTH = 3.0
# A detection of more than so many times the photons of its true source is something else.
MOST_TIMES = 3.0
# A wrong detection this near to a true source of fewer photons, but so many, is a fluctuation of
# that rather than of the background.
MIN_PHOTONS_BELOW, BELOW_RADIUS_DEG = 0.3, 0.1


def roles(catalog, truth):
    """Role, expected photons and radius (deg) of the true sources of tables that can be judged.

    Parameters
    ----------
    catalog, truth : QTable
        With the columns that `astro_unetloc.evaluate` asks for.

    Returns
    -------
    role : ndarray (n_true,) of str
        "counted", "faint", "extended" or "below", as those of unknown photons or radius.
    n_photons, radius_deg : ndarray (n_true,)

    Raises
    ------
    ValueError
        If a table lacks a column, or a detection its ``Score``.
    """
    _check_columns(catalog, "catalog", ("GLON", "GLAT", "Score"))
    _check_columns(truth, "truth", ("GLON", "GLAT", "Npred", "Radius"))
    n_unknown = int(np.sum(~np.isfinite(numbers(catalog["Score"]))))
    if n_unknown:
        raise ValueError(
            f"every detection must have a Score; {n_unknown} of {len(catalog)} have none; leave "
            "these rows out"
        )
    n_photons, radius = numbers(truth["Npred"]), degrees(truth["Radius"])
    is_truth = (n_photons >= MIN_PHOTONS_TRUTH) & (radius >= 0)  # unknown ones are none
    role = np.select(
        [~is_truth, radius > 0, n_photons < MIN_PHOTONS_COUNTED],
        ["below", "extended", "faint"],
        "counted",
    )
    return role, n_photons, radius


def _check_columns(table, what, names):
    missing = [name for name in names if name not in table.colnames]
    if missing:
        raise ValueError(
            f"{what} must have the columns {', '.join(names)}; missing {', '.join(missing)}; "
            "score found sources against the truth of a simulated sky, match_catalogs compares "
            "with other catalogues"
        )


def match_in_order(vectors, truth_vectors, radius_deg, choice=None):
    """The true source that each detection takes, one-to-one in the order of the detections.

    Parameters
    ----------
    vectors, truth_vectors : ndarray (n, 3), (n_true, 3)
        Unit vectors.
    radius_deg : float
        Largest distance.
    choice : ndarray (n_true,), optional
        Of several sources within the radius the one of smallest value is taken; the nearest one
        by default.

    Returns
    -------
    matched : ndarray (n,) of int
        Row of the true source, -1 for none.
    is_near : ndarray (n,) of bool
        Whether any true source, taken before or not, lies within the radius.
    """
    from scipy.spatial import KDTree

    matched, is_near = np.full(len(vectors), -1), np.zeros(len(vectors), bool)
    if not len(vectors) or not len(truth_vectors):
        return matched, is_near
    free = np.ones(len(truth_vectors), dtype=bool)
    near = KDTree(truth_vectors).query_ball_point(vectors, chord(radius_deg))
    for row, candidates in enumerate(near):
        is_near[row] = bool(candidates)
        candidates = np.array([c for c in candidates if free[c]], dtype=int)
        if len(candidates):
            offset = np.linalg.norm(truth_vectors[candidates] - vectors[row], axis=1)
            matched[row] = candidates[np.argmin(offset if choice is None else choice[candidates])]
            free[matched[row]] = False
    return matched, is_near


def separation_of_others(vectors, others):
    """Distance of the nearest other direction.

    Parameters
    ----------
    vectors : ndarray (n, 3)
        Unit vectors.
    others : ndarray (m,) of int
        The rows that count.

    Returns
    -------
    ndarray (n,)
        Degrees to the nearest one of ``others`` that is not the row itself; NaN without one.
    """
    from scipy.spatial import KDTree

    if not len(vectors) or not len(others):
        return np.full(len(vectors), np.nan)
    distance, row = KDTree(vectors[others]).query(vectors, k=[1, 2])
    itself = np.append(others, -1)[row[:, 0]] == np.arange(len(vectors))
    nearest = np.where(itself, distance[:, 1], distance[:, 0])
    angle = np.degrees(2 * np.arcsin(np.clip(nearest / 2, 0, 1)))
    return np.where(np.isfinite(nearest), angle, np.nan)


def beyond_edge(vectors, centers, radius_deg):
    """How far directions lie outside the nearest of some discs.

    Parameters
    ----------
    vectors, centers : ndarray (n, 3), (m, 3)
        Unit vectors.
    radius_deg : ndarray (m,)
        Radii of the discs.

    Returns
    -------
    ndarray (n,)
        Degrees, negative inside; NaN without a disc.
    """
    beyond = np.full(len(vectors), np.nan)
    for center, radius in zip(centers, radius_deg):
        beyond = np.fmin(beyond, separation_deg(vectors, center) - radius)
    return beyond
