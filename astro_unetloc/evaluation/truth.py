"""Truth matches: which detections are true positives, and which true sources were found.

N is the expected number of detected photons of a true source in the model's range. Point-like true
sources with N >= 8 are counted. A match to a faint one, 3 <= N < 8, and a detection inside an
extended one are ignored: they are neither true nor false positives. A source with N < 3 is no
truth. Each detection, in descending ``Score``, takes the nearest true source within 0.3 deg that no
better one has taken.

``Score`` is the probability of something else: that the detection is real, however faint its
source. Then at least a third of its counts are photons of a true source within 0.3 deg that no
better detection has taken.
"""

from dataclasses import dataclass, replace

import numpy as np
from astropy.table import vstack
from astropy.units import Quantity
from scipy.spatial import KDTree

from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.table import degrees, glon_glat_vectors, numbers, numbers_of
from astro_unetloc.exceptions import InputError
from astro_unetloc.maps.patches import PatchGrid
from astro_unetloc.sphere import chord

MIN_PHOTONS_COUNTED, MIN_PHOTONS_TRUTH = 8.0, 3.0
# A true source gives at least this fraction of the counts of a real detection (three photons where
# they are unknown). One of fewer photons than this minimum is not detected.
_MIN_FRACTION_REAL, _MIN_PHOTONS_REAL = 1 / 3, 0.3

# Regions that are scored separately: lower and upper limit of |b| in degrees, the upper excluded.
SKIES = {"all sky": (0.0, np.inf), "|b| > 10 deg": (10.0, np.inf), "|b| < 10 deg": (0.0, 10.0)}


@dataclass(frozen=True)
class Evaluation:
    """Scores of one catalogue, from its true and false positives in descending ``Score``."""

    n_true: int  # number of counted true sources
    score: np.ndarray  # (n,) of the true and false positives, descending
    correct: np.ndarray  # (n,) of bool: which of them are true positives
    n_ignored: int  # number of detections of faint or extended true sources
    offset_deg: np.ndarray  # (n_correct,) separations of true positives from their sources

    def __repr__(self):
        return f"<Evaluation: {self.summary()}>"

    @property
    def completeness(self):
        """Fraction of the true sources that are found; NaN if there is none."""
        return self.correct.sum() / self.n_true if self.n_true else np.nan

    @property
    def purity(self):
        """Fraction of the detections that are true positives; NaN if there is none."""
        return self.correct.mean() if len(self.correct) else np.nan

    @property
    def average_precision(self):
        """Area under the precision-recall curve."""
        return self._precision[self.correct].sum() / self.n_true if self.n_true else np.nan

    @property
    def _precision(self):
        """Purity (n,) of the list that ends at each detection."""
        return np.cumsum(self.correct) / np.arange(1, len(self.correct) + 1)

    def completeness_at(self, purity):
        """Completeness and ``Score`` at the lowest score at which a purity is still reached."""
        reached = np.flatnonzero(self._precision >= purity)
        end = reached[-1] + 1 if len(reached) else 0
        completeness = self.correct[:end].sum() / self.n_true if self.n_true else np.nan
        return completeness, self.score[end - 1] if end else 1.0

    @property
    def median_offset_deg(self):
        """Median of the offsets; NaN if there is none."""
        return np.median(self.offset_deg) if len(self.offset_deg) else np.nan

    def summary(self):
        """Scores in one line."""
        fractions = self.completeness, self.purity, self.average_precision
        return summary_line(self.n_true, len(self.correct), *fractions, self.median_offset_deg)


def summary_line(n_true, n_listed, completeness, purity, precision, offset_deg):
    """One line with the main scores."""
    return (
        f"{n_true} true sources, {n_listed} detections: completeness {completeness:.3f}, purity "
        f"{purity:.3f}, average precision {precision:.3f}, median offset {offset_deg:.4f} deg"
    )


def combine(evaluations):
    """One `Evaluation` of several catalogues of different skies."""
    n_true, n_ignored = (sum(getattr(e, n) for e in evaluations) for n in ("n_true", "n_ignored"))
    arrays = zip(*((e.score, e.correct, e.offset_deg) for e in evaluations))
    score, correct, offset_deg = map(np.concatenate, arrays)
    order = np.argsort(-score, kind="stable")
    return Evaluation(n_true, score[order], correct[order], n_ignored, offset_deg)


@dataclass(frozen=True)
class TruthMatch:
    """A catalogue matched with the truth of its sky; docs/evaluation.rst has the new columns."""

    catalog: object  # QTable in descending ``Score`` (of joined matches: within each sky)
    truth: object  # QTable of all true sources
    area_deg2: float = np.nan  # searched area, NaN if unknown

    def has_status(self, *status):
        """Which detections (n,) have one of the given values of ``Status``."""
        return np.isin(np.asarray(self.catalog["Status"]), status)

    def is_class(self, *classes):
        """Which true sources (n_true,) have one of the given values of ``Truth_Class``."""
        return np.isin(np.asarray(self.truth["Truth_Class"]), classes)

    @property
    def is_listed(self):
        """Which detections (n,) are true or false positives."""
        return ~self.has_status("ignored")

    @property
    def is_true_positive(self):
        """Which detections (n,) are true positives."""
        return self.has_status("true positive")

    @property
    def is_found(self):
        """Which true sources (n_true,) are matched with a detection."""
        return np.asarray(self.truth["Found_Row"]) >= 0

    @property
    def is_real(self):
        """Which detections (n,) are real as ``Score`` means it: sources of any brightness."""
        return np.asarray(self.catalog["Is_Real"])

    @property
    def is_judged(self):
        """Which detections (n,) are known to be real or not: those in extended sources may be."""
        return self.is_real | ~np.asarray(self.catalog["In_Extended"])

    @property
    def latitude(self):
        """Absolute Galactic latitude (n,) of the detections, of their true source if matched."""
        latitude = np.abs(degrees(self.catalog["GLAT"]))
        return _replaced(latitude, self.true_row, self.true_latitude)

    @property
    def true_latitude(self):
        """Absolute Galactic latitude (n_true,) of the true sources in degrees."""
        return np.abs(degrees(self.truth["GLAT"]))

    @property
    def true_row(self):
        """Row of the matched true source (n,), -1 without one."""
        return np.asarray(self.catalog["True_Row"], int)

    def of_detection(self, values, missing=np.nan):
        """Value (n_true,) of the detection of each true source, ``missing`` without one."""
        return np.append(values, missing)[np.asarray(self.truth["Found_Row"])]  # -1: the last

    def in_latitudes(self, limits):
        """Which detections (n,) and true sources (n_true,) lie in a range of latitude."""
        low, high = limits
        return [(b >= low) & (b < high) for b in (self.latitude, self.true_latitude)]

    def inside(self, region):
        """Matches of the sources of a region, see `astro_unetloc.evaluate`."""
        vectors, true_vectors = (glon_glat_vectors(t) for t in (self.catalog, self.truth))
        vectors = _replaced(vectors, self.true_row, true_vectors)
        return self.take(*(np.flatnonzero(region(v)) for v in (vectors, true_vectors)))

    def evaluation(self, *, min_latitude=0.0, max_latitude=np.inf):
        """Scores of a range of latitude; the parameters are those of `astro_unetloc.evaluate`."""
        inside, true_inside = self.in_latitudes((min_latitude, max_latitude))
        _, score, correct, offset_deg = self.ranked(inside)
        n_true = int(np.sum(true_inside & self.is_class("counted")))
        n_ignored = int(np.sum(inside & ~self.is_listed))
        return Evaluation(n_true, score, correct, n_ignored, offset_deg[correct])

    def ranked(self, inside):
        """Row, score, correctness and offset (k,) of listed detections in descending ``Score``."""
        score, rows = numbers(self.catalog["Score"]), np.flatnonzero(inside & self.is_listed)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        offset_deg = degrees(self.catalog["Offset"])[rows]
        return rows, score[rows], self.is_true_positive[rows], offset_deg

    def by_sky(self):
        """`Evaluation` of each region of ``SKIES``."""
        names = ("min_latitude", "max_latitude")
        return {sky: self.evaluation(**dict(zip(names, ends))) for sky, ends in SKIES.items()}

    def select(self, threshold):
        """Matches of the detections with ``Score >= threshold``."""
        return self.take(np.flatnonzero(numbers(self.catalog["Score"]) >= threshold))

    def take(self, rows, true_rows=None):
        """Matches of some rows of both tables, in ascending order; all true sources by default."""
        true_rows = np.arange(len(self.truth)) if true_rows is None else true_rows
        catalog, truth = self.catalog[rows], self.truth[true_rows]
        for name in ("True_Row", "Real_Row"):
            catalog[name] = _renumbered(catalog[name], true_rows, len(self.truth))
        truth["Found_Row"] = _renumbered(truth["Found_Row"], rows, len(self.catalog))
        truth["Status"] = np.where(truth["Found_Row"] >= 0, "found", "missed")
        return replace(self, catalog=catalog, truth=truth)

    def judged(self):
        """Score and reality (k,) of the detections that are real or not, by region of ``SKIES``."""
        score, regions = numbers(self.catalog["Score"]), {}
        for sky, limits in SKIES.items():
            rows = np.flatnonzero(self.is_judged & self.in_latitudes(limits)[0])
            regions[sky] = score[rows], self.is_real[rows]
        return regions


def _replaced(values, row, others):
    """Values (n, ...), replaced by those of ``others`` where there is a row."""
    values = np.array(values)
    values[row >= 0] = others[row[row >= 0]]
    return values


def _renumbered(old, kept, n):
    """Row numbers among the ``kept`` rows of n; -1 where the row was or is gone."""
    new = np.full(n + 1, -1)  # the last one stands for -1
    new[kept] = np.arange(len(kept))
    return new[np.asarray(old, int)]


def match_truth(
    catalog, truth, *, radius_deg=MATCH_RADIUS_DEG, brightest=False, tile="", area_deg2=np.nan,
    groups=None,
):  # fmt: skip
    """Matches of the detections of a simulated sky with its true sources.

    Parameters
    ----------
    catalog, truth : QTable
        See `astro_unetloc.evaluate`; copies are returned. ``Npred`` of the detections and
        ``Counts`` (or else ``Npred``) of the true sources show which detections are real.
    radius_deg : float
        Largest separation of a match.
    brightest : bool
        Whether a detection takes the source of most expected photons within the radius instead of
        the nearest. Above 0.5 GeV one direction in five has a true source of three photons that
        near, which would take the detection of a brighter one beside it.
    tile : str or callable
        Name of the tile of the sky that holds all rows, or a function from Galactic unit vectors
        (n, 3) to names (n,), such as `~astro_unetloc.evaluation.truth.grid_tiles`.
    area_deg2 : float
        Searched area.
    groups : pair of ndarray (n,), (n_true,) of int, optional
        Only rows of the same group are compared: each group is a sky of its own.

    Returns
    -------
    TruthMatch

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc.evaluation import match_truth
    >>> truth = QTable({"GLON": [0.0, 5.0], "GLAT": [0.0, 0.0], "Npred": [9, 4], "Radius": [0, 0]})
    >>> catalog = QTable({"GLON": [5, 0.1, 0.2], "GLAT": [0, 0, 0], "Score": [0.6, 0.9, 0.8]})
    >>> match_truth(catalog, truth).catalog["Status"].tolist()
    ['true positive', 'false positive', 'ignored']
    """
    truth_class, n_photons, radius = _truth_classes(catalog, truth)
    order = np.argsort(-numbers(catalog["Score"]), kind="stable")
    catalog, truth = catalog[order], truth.copy()
    sky, true_sky = vectors, true_vectors = glon_glat_vectors(catalog), glon_glat_vectors(truth)
    if groups is not None:
        # a fourth coordinate keeps the groups further apart than any two unit vectors
        sky = np.column_stack([vectors, 10.0 * np.asarray(groups[0])[order]])
        true_sky = np.column_stack([true_vectors, 10.0 * np.asarray(groups[1])])
    point = np.flatnonzero(np.isin(truth_class, ("counted", "faint")))
    priority = -n_photons[point] if brightest else None
    true_row, is_near = _match_in_order(sky, true_sky[point], radius_deg, priority=priority)
    hit = np.flatnonzero(true_row >= 0)
    true_row[hit] = point[true_row[hit]]
    found_row = np.full(len(truth), -1)
    found_row[true_row[hit]] = hit
    offset = np.full(len(catalog), np.nan)
    offset[hit] = _angle_deg(np.linalg.norm(sky[hit] - true_sky[true_row[hit]], axis=1))
    extended = truth_class == "extended"
    discs = true_sky[extended], radius[extended]
    inside = _beyond_edge(sky, discs[0], np.maximum(discs[1], radius_deg)) <= 0
    status = np.where(inside, "ignored", "false positive")
    status[hit] = np.where(truth_class[true_row[hit]] == "counted", "true positive", "ignored")
    given = numbers_of(truth, "Counts")  # without: the expected ones
    given = np.where(np.isfinite(given), given, n_photons)
    n_measured = numbers_of(catalog, "Npred")
    needed = np.where(np.isfinite(n_measured), _MIN_FRACTION_REAL * n_measured, MIN_PHOTONS_TRUTH)
    real = np.flatnonzero((radius == 0) & (given >= _MIN_PHOTONS_REAL))
    real_row, _ = _match_in_order(sky, true_sky[real], radius_deg, given[real], needed)
    is_real = real_row >= 0
    real_row[is_real] = real[real_row[is_real]]
    counted = np.flatnonzero(truth_class == "counted")
    catalog["Status"], catalog["True_Row"] = status, true_row
    catalog["Offset"] = Quantity(offset, "deg")
    catalog["Is_Duplicate"] = (status == "false positive") & is_near
    catalog["Is_Real"], catalog["Real_Row"], catalog["In_Extended"] = is_real, real_row, inside
    catalog["Tile"] = _tile_names(tile, _replaced(vectors, true_row, true_vectors))
    truth["Truth_Class"] = truth_class
    truth["Status"] = np.where(found_row >= 0, "found", "missed")
    truth["Found_Row"], truth["Tile"] = found_row, _tile_names(tile, true_vectors)
    truth["Sep_Counted"] = Quantity(_nearest_other_deg(true_sky, counted), "deg")
    truth["Sep_Extended"] = Quantity(_beyond_edge(true_sky, *discs), "deg")
    return TruthMatch(catalog, truth, float(area_deg2))


def _truth_classes(catalog, truth):
    """Class, expected photons and radius (deg) of the true sources of tables that are checked."""
    wanted = [("catalog", catalog, ["Score"]), ("truth", truth, ["Npred", "Radius"])]
    for what, table, names in wanted:
        names = ["GLON", "GLAT", *names]
        missing = ", ".join(name for name in names if name not in table.colnames)
        if missing:
            raise InputError(
                f"{what} must have the columns {', '.join(names)}; missing {missing}; evaluate "
                "needs the truth of a simulated sky, match_catalogs compares other catalogues"
            )
    if n_unknown := int(np.sum(~np.isfinite(numbers(catalog["Score"])))):
        raise InputError(
            f"every detection must have a Score; {n_unknown} of {len(catalog)} have none; leave "
            "these rows out"
        )
    n_photons, radius = numbers(truth["Npred"]), degrees(truth["Radius"])
    if np.any(np.isinf(n_photons)) or np.any(np.abs(radius) > 180):
        raise InputError(
            "truth must have finite Npred and a Radius up to 180 deg; got others; correct the rows"
        )
    is_truth = (n_photons >= MIN_PHOTONS_TRUTH) & (radius >= 0)  # false where unknown
    conditions = [~is_truth, radius > 0, n_photons < MIN_PHOTONS_COUNTED]
    return np.select(conditions, ["below", "extended", "faint"], "counted"), n_photons, radius


def _match_in_order(vectors, truth_vectors, radius_deg, photons=None, needed=None, priority=None):
    """True source (n,) that each detection takes in turn, -1 for none; whether any (n,) is near.

    The free one of smallest priority (n_true,) is taken, by default the nearest, of those whose
    photons (n_true,) are those that the detection needs (n,) or more.
    """
    matched, is_near = np.full(len(vectors), -1), np.zeros(len(vectors), bool)
    if not len(vectors) or not len(truth_vectors):
        return matched, is_near
    free = np.ones(len(truth_vectors), dtype=bool)
    near = KDTree(truth_vectors).query_ball_point(vectors, chord(radius_deg))
    for row, candidates in enumerate(near):
        is_near[row] = bool(candidates)
        candidates = np.array([c for c in candidates if free[c]], dtype=int)
        if needed is not None:
            candidates = candidates[photons[candidates] >= needed[row]]
        if len(candidates):
            distance = np.linalg.norm(truth_vectors[candidates] - vectors[row], axis=1)
            rank = distance if priority is None else priority[candidates]
            matched[row] = candidates[np.argmin(rank)]
            free[matched[row]] = False
    return matched, is_near


def _angle_deg(distance):
    """Angles in degrees of distances of unit vectors; NaN for those of different groups."""
    angle = np.degrees(2 * np.arcsin(np.clip(distance / 2, 0, 1)))
    return np.where(distance <= 2.1, angle, np.nan)


def _nearest_other_deg(vectors, others):
    """Angle (n,) to the nearest of the rows ``others`` that is not the row itself; NaN without."""
    if not len(vectors) or not len(others):
        return np.full(len(vectors), np.nan)
    distance, row = KDTree(vectors[others]).query(vectors, k=[1, 2])
    itself = np.append(others, -1)[row[:, 0]] == np.arange(len(vectors))
    return _angle_deg(np.where(itself, distance[:, 1], distance[:, 0]))


def _beyond_edge(vectors, centers, radius_deg):
    """Degrees (n,) outside the nearest of some discs, negative inside; NaN without a disc."""
    beyond = np.full(len(vectors), np.nan)
    for center, radius in zip(centers, radius_deg):
        beyond = np.fmin(beyond, _angle_deg(np.linalg.norm(vectors - center, axis=1)) - radius)
    return beyond


def _tile_names(tile, vectors):
    """Names (n,) of the tiles that hold directions (n, 3)."""
    if not callable(tile):
        return np.full(len(vectors), str(tile))
    return np.asarray(tile(vectors), str) if len(vectors) else np.zeros(0, "U1")


def grid_tiles(name):
    """Function from Galactic unit vectors (n, 3) to names of patches, such as "2000/123"."""
    return lambda vectors: np.array([f"{name}/{i}" for i in PatchGrid().owner(vectors)], str)


def join_matches(matches):
    """One `TruthMatch` of several skies, with the columns that all of them have."""
    matches = list(matches)
    catalogs, truths = zip(*((m.catalog, m.truth) for m in matches))
    joined = []
    numbered = (catalogs, ("True_Row", "Real_Row"), truths), (truths, ("Found_Row",), catalogs)
    for tables, columns, others in numbered:
        table = vstack(list(tables), join_type="inner", metadata_conflicts="silent")
        n_before = np.repeat(np.cumsum([0, *map(len, others[:-1])]), [*map(len, tables)])
        for column in columns:
            row = np.asarray(table[column], int)
            table[column] = np.where(row >= 0, row + n_before, -1)
        joined.append(table)
    area_deg2 = float(sum(m.area_deg2 for m in matches))
    return TruthMatch(*joined, area_deg2=area_deg2)
