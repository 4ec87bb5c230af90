"""Truth matches: which true source each detection has found, and what a true source counts for.

N is the expected number of detected photons of a true source in the model's range. Sources with
N >= 8 count for completeness; a match to one with 3 <= N < 8 is ignored, neither right nor wrong;
below 3 is not truth. Matches are one-to-one in descending ``Score``, nearest within 0.3 deg.
Detections inside extended sources are listed apart.

Judgement: what each detection and each true source of a sky is worth.

By the definition of what counts as found in `astro_unetloc.evaluation.truth`.
"""

from dataclasses import dataclass, replace

import numpy as np

from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.table import degrees, glon_glat_vectors, numbers, numbers_of
from astro_unetloc.exceptions import InputError
from astro_unetloc.maps.patches import PatchGrid
from astro_unetloc.sphere import chord, separation_deg

__all__ = [
    "Evaluation",
    "Judgement",
    "SKIES",
    "beyond_edge",
    "join",
    "judge",
    "match_in_order",
    "patch_parts",
    "roles",
    "score_words",
    "separation_of_others",
]


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
        raise InputError(
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
        raise InputError(
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


# The parts of the sky that are scored apart: least and largest |b| in degrees, this one excluded.
SKIES = {"all sky": (0.0, np.inf), "|b| > 10 deg": (10.0, np.inf), "|b| < 10 deg": (0.0, 10.0)}


def score_words(n_true, n_listed, completeness, purity, average_precision, offset_deg):
    """Scores in one line."""
    return (
        f"{n_true} true sources, {n_listed} detections: "
        f"completeness {completeness:.3f}, purity {purity:.3f}, "
        f"average precision {average_precision:.3f}, median offset {offset_deg:.4f} deg"
    )


@dataclass(frozen=True)
class Evaluation:
    """Scores of one catalogue.

    Attributes
    ----------
    n_true : int
        Point-like true sources with N >= 8.
    score : ndarray (n,)
        Score of the detections that are right or wrong, descending.
    correct : ndarray (n,) of bool
        Which of them are right.
    n_ignored : int
        Detections of faint or extended true sources.
    offset_deg : ndarray (n_correct,)
        Distance of right detections to their true source.
    """

    n_true: int
    score: np.ndarray
    correct: np.ndarray
    n_ignored: int
    offset_deg: np.ndarray

    @property
    def completeness(self):
        """Share of the true sources that were found; NaN if there is none."""
        return self.correct.sum() / self.n_true if self.n_true else np.nan

    @property
    def purity(self):
        """Share of the detections that are right; NaN if there is none."""
        return self.correct.mean() if len(self.correct) else np.nan

    @property
    def average_precision(self):
        """Area under the precision-recall curve."""
        if self.n_true == 0:
            return np.nan
        precision = np.cumsum(self.correct) / np.arange(1, len(self.correct) + 1)
        return float(precision[self.correct].sum() / self.n_true)

    def completeness_at(self, purity):
        """Completeness and threshold at the lowest score where the purity still holds."""
        precision = np.cumsum(self.correct) / np.arange(1, len(self.correct) + 1)
        good = np.flatnonzero(precision >= purity)
        if len(good) == 0 or self.n_true == 0:
            return 0.0, 1.0
        last = good[-1]
        return float(self.correct[: last + 1].sum() / self.n_true), float(self.score[last])

    def summary(self):
        """The scores in one line."""
        offset = np.median(self.offset_deg) if len(self.offset_deg) else np.nan
        shares = self.completeness, self.purity, self.average_precision
        return score_words(self.n_true, len(self.correct), *shares, offset)


@dataclass(frozen=True)
class Judgement:
    """A catalogue and the truth of its sky, each row with what it is worth.

    Attributes
    ----------
    catalog : QTable
        The detections in descending ``Score``, of a joined judgement so in each of its parts. Their
        columns and ``Verdict`` ("right", "wrong" or "ignored"), ``True_Row`` (row of ``truth`` that
        it was matched to, -1 for none), ``Offset`` (distance from there in degrees, NaN for none),
        ``Is_Below`` (whether it is wrong, but within 0.1 deg of a point source of 0.3 to 3 expected
        photons: real, and not truth), ``Is_Duplicate`` (whether it is wrong because another
        detection took each true source
        within the radius) and ``Part`` (name of the piece of sky in which it counts: that of its
        true source, its own without one).
    truth : QTable
        The true sources. Their columns and ``Role`` ("counted": point-like with N >= 8, "faint":
        with 3 <= N < 8, "extended": with N >= 3, "below": the others), ``Found_Row`` (row of
        ``catalog``, -1 for none), ``Part``, ``Sep_Counted`` (degrees to the nearest other counted
        one of its sky) and ``Sep_Extended`` (degrees to the edge of the nearest extended one,
        negative inside); NaN without one.
    area_deg2 : float
        Searched sky in square degrees; NaN where unknown.
    brightest : bool
        Whether the brightest true source within the radius took a detection, as below 10 GeV.
    """

    catalog: object
    truth: object
    area_deg2: float = np.nan
    brightest: bool = False

    @property
    def latitude(self):
        """Absolute latitude (n,) in degrees at which each detection counts, as for ``Part``."""
        return self._placed(np.abs(degrees(self.catalog["GLAT"])), self.true_latitude)

    @property
    def true_latitude(self):
        """Absolute Galactic latitude (n_true,) of the true sources in degrees."""
        return np.abs(degrees(self.truth["GLAT"]))

    @property
    def is_listed(self):
        """Which detections (n,) are right or wrong."""
        return np.asarray(self.catalog["Verdict"]) != "ignored"

    @property
    def is_right(self):
        """Which detections (n,) are right."""
        return np.asarray(self.catalog["Verdict"]) == "right"

    @property
    def is_found(self):
        """Which true sources (n_true,) a detection was matched to."""
        return np.asarray(self.truth["Found_Row"]) >= 0

    @property
    def is_source(self):
        """Which detections (n,) are a true point source, however faint.

        Those are that were matched to one of at least 3 expected photons, and those within 0.1 deg
        of one of 0.3 to 3 (not below 10 GeV, where such a one is near any position).
        """
        verdict = np.asarray(self.catalog["Verdict"])
        matched = (np.asarray(self.catalog["True_Row"]) >= 0) & (verdict != "wrong")
        return matched | (np.asarray(self.catalog["Is_Below"]) & (not self.brightest))

    def of_any_brightness(self):
        """The judgement by which every detection of a true point source is right."""
        catalog = self.catalog.copy()
        catalog["Verdict"] = np.where(self.is_source, "right", catalog["Verdict"])
        return replace(self, catalog=catalog)

    def has_role(self, *roles):
        """Which true sources (n_true,) have one of some roles."""
        return np.isin(np.asarray(self.truth["Role"]), roles)

    def _placed(self, own, true):
        """Values of the detections, those of the true source where they have one."""
        row = np.asarray(self.catalog["True_Row"])
        placed = np.array(own)
        placed[row >= 0] = true[row[row >= 0]]
        return placed

    def evaluation(self, *, min_latitude=0.0, max_latitude=np.inf, region=None):
        """The scores of the detections and true sources of a piece of sky.

        Parameters
        ----------
        min_latitude, max_latitude, region
            See `astro_unetloc.evaluate`.

        Returns
        -------
        Evaluation
        """
        latitude, true_latitude = self.latitude, self.true_latitude
        here = (latitude >= min_latitude) & (latitude < max_latitude)
        true_here = (true_latitude >= min_latitude) & (true_latitude < max_latitude)
        if region is not None:
            vectors, true_vectors = (glon_glat_vectors(t) for t in (self.catalog, self.truth))
            here &= region(self._placed(vectors, true_vectors))
            true_here &= region(true_vectors)
        score, is_right = numbers(self.catalog["Score"]), self.is_right
        judged = np.flatnonzero(here & self.is_listed)
        judged = judged[np.argsort(-score[judged], kind="stable")]
        return Evaluation(
            n_true=int(np.sum(true_here & self.has_role("counted"))),
            score=score[judged],
            correct=is_right[judged],
            n_ignored=int(np.sum(here & ~self.is_listed)),
            offset_deg=degrees(self.catalog["Offset"])[judged[is_right[judged]]],
        )

    def select(self, threshold):
        """The judgement of the detections with ``Score >= threshold``; the same as judging them."""
        rows = np.flatnonzero(numbers(self.catalog["Score"]) >= threshold)
        return self._take(rows, np.arange(len(self.truth)))

    def explained(self):
        """The judgement of what ``Score`` is the probability of.

        Where the brightest source within the radius takes a detection, so many faint ones are true
        that every fifth random position has one: there a detection is wrong if even the brightest
        has less than a third of its measured counts.

        Returns
        -------
        Judgement
            The same one where the nearest source takes a detection, or nothing was measured.
        """
        if not self.brightest:
            return self
        row = np.asarray(self.catalog["True_Row"])
        expected = np.append(numbers(self.truth["Npred"]), np.nan)[row]  # the last one is for -1
        other = numbers_of(self.catalog, "Npred") > MOST_TIMES * expected
        catalog = self.catalog.copy()
        catalog["Verdict"] = np.where(other, "wrong", catalog["Verdict"])
        return replace(self, catalog=catalog)

    def _take(self, rows, true_rows):
        """Some rows (in ascending order) of both tables; a match needs both of its rows."""
        catalog, truth = self.catalog[rows], self.truth[true_rows]
        catalog["True_Row"] = _renumbered(catalog["True_Row"], true_rows, len(self.truth))
        truth["Found_Row"] = _renumbered(truth["Found_Row"], rows, len(self.catalog))
        return replace(self, catalog=catalog, truth=truth)


def _renumbered(old, kept, n):
    """Row numbers among the ``kept`` rows of n; -1 where it was or is gone."""
    new = np.full(n + 1, -1)  # the last one is for -1
    new[kept] = np.arange(len(kept))
    return new[np.asarray(old, int)]


def judge(
    catalog,
    truth,
    *,
    radius_deg=MATCH_RADIUS_DEG,
    brightest=False,
    part="",
    area_deg2=np.nan,
):
    """Judge the detections of a simulated sky by its truth.

    Parameters
    ----------
    catalog, truth : QTable
        See `astro_unetloc.evaluate`.
    radius_deg : float
        Largest distance of a match.
    brightest : bool
        Whether a detection is matched to the source of most expected photons within the radius
        instead of the nearest one, see `astro_unetloc.evaluation.metrics.found_scores`.
    part : str or callable
        Name of the piece of sky that all lie in, or a function that takes Galactic unit vectors
        (n, 3) and returns the names (n,), such as `patch_parts`.
    area_deg2 : float
        Searched sky in square degrees.

    Returns
    -------
    Judgement
        Of copies of the tables.

    Raises
    ------
    ValueError
        If a table lacks a column, or a detection its ``Score``.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc.evaluation.truth import judge
    >>> truth = QTable({"GLON": [0.0, 5.0], "GLAT": [0.0, 0.0], "Npred": [9, 4], "Radius": [0, 0]})
    >>> catalog = QTable({"GLON": [5, 0.1, 0.2], "GLAT": [0, 0, 0], "Score": [0.6, 0.9, 0.8]})
    >>> judged = judge(catalog, truth)
    >>> judged.catalog["Verdict"].tolist(), judged.truth["Found_Row"].tolist()
    (['right', 'wrong', 'ignored'], [0, 2])
    """
    from astropy.units import Quantity

    role, n_photons, radius = roles(catalog, truth)
    catalog = catalog[np.argsort(-numbers(catalog["Score"]), kind="stable")]
    truth = truth.copy()
    vectors, true_vectors = glon_glat_vectors(catalog), glon_glat_vectors(truth)
    point = np.flatnonzero((role == "counted") | (role == "faint"))
    choice = -n_photons[point] if brightest else None
    true_row, near = match_in_order(vectors, true_vectors[point], radius_deg, choice)
    hit = np.flatnonzero(true_row >= 0)
    true_row[hit] = point[true_row[hit]]
    found_row = np.full(len(truth), -1)
    found_row[true_row[hit]] = hit
    offset = np.full(len(catalog), np.nan)
    offset[hit] = separation_deg(vectors[hit], true_vectors[true_row[hit]])
    extended = role == "extended"
    discs = true_vectors[extended], radius[extended]
    reach = beyond_edge(vectors, discs[0], np.maximum(discs[1], radius_deg))
    verdict = np.where(reach <= 0, "ignored", "wrong")
    verdict[hit] = np.where(role[true_row[hit]] == "counted", "right", "ignored")
    place = vectors.copy()
    place[hit] = true_vectors[true_row[hit]]
    catalog["Verdict"], catalog["True_Row"] = verdict, true_row
    catalog["Offset"] = Quantity(offset, "deg")
    catalog["Is_Duplicate"] = (verdict == "wrong") & near
    below = (role == "below") & (radius == 0) & (n_photons >= MIN_PHOTONS_BELOW)
    near_below = match_in_order(vectors, true_vectors[below], BELOW_RADIUS_DEG)[1]
    catalog["Is_Below"] = (verdict == "wrong") & near_below
    catalog["Part"] = _names(part, place)
    truth["Role"], truth["Found_Row"], truth["Part"] = role, found_row, _names(part, true_vectors)
    nearest = separation_of_others(true_vectors, np.flatnonzero(role == "counted"))
    truth["Sep_Counted"] = Quantity(nearest, "deg")
    truth["Sep_Extended"] = Quantity(beyond_edge(true_vectors, *discs), "deg")
    return Judgement(catalog, truth, float(area_deg2), brightest)


def patch_parts(name):
    """Names of the patches of the sky grid as parts of a judgement.

    Parameters
    ----------
    name : str or int
        What all of them begin with, such as the seed of the sky.

    Returns
    -------
    callable
        Takes Galactic unit vectors (n, 3), returns names (n,) such as "2000/123".

    Examples
    --------
    >>> from astro_unetloc.maps.patches import PatchGrid
    >>> from astro_unetloc.evaluation.truth import patch_parts
    >>> print(patch_parts(2000)(PatchGrid().centers[:2]))
    ['2000/0' '2000/1']
    """
    return lambda vectors: np.array([f"{name}/{i}" for i in PatchGrid().owner(vectors)], str)


def join(judgements):
    """One judgement of several skies.

    Parameters
    ----------
    judgements : sequence of Judgement
        At least one. Their tables keep the columns that all of them have.

    Returns
    -------
    Judgement
        Their rows one after the other, ``True_Row`` and ``Found_Row`` counted through.
    """
    from astropy.table import vstack

    judgements = list(judgements)
    tables = {}
    for name, column, other in (
        ("catalog", "True_Row", "truth"),
        ("truth", "Found_Row", "catalog"),
    ):
        parts = [getattr(j, name) for j in judgements]
        before = np.cumsum([0] + [len(getattr(j, other)) for j in judgements[:-1]])
        rows = [np.asarray(part[column], int) for part in parts]
        rows = [np.where(row >= 0, row + first, -1) for row, first in zip(rows, before)]
        tables[name] = vstack(parts, join_type="inner", metadata_conflicts="silent")
        tables[name][column] = np.concatenate(rows)
    area_deg2 = float(sum(j.area_deg2 for j in judgements))
    return Judgement(**tables, area_deg2=area_deg2, brightest=any(j.brightest for j in judgements))


def _names(part, vectors):
    """The names (n,) of the parts in which directions (n, 3) lie."""
    if not callable(part):
        return np.full(len(vectors), str(part))
    return np.asarray(part(vectors), str) if len(vectors) else np.zeros(0, "U1")
