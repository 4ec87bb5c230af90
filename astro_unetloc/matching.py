"""Matching a catalogue to another one: which sources are found, which detections are known."""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.catalog import with_match_columns
from astro_unetloc.columns import MATCH_COLUMNS
from astro_unetloc.config import MATCH_RADIUS_DEG
from astro_unetloc.geometry import chord
from astro_unetloc.references import catalog_name, degrees, sky_positions

__all__ = ["MatchResult", "is_known", "match_catalogs"]


@dataclass(frozen=True)
class MatchResult:
    """Which rows of a catalogue of n rows and of a reference of m rows belong together.

    Attributes
    ----------
    catalog_index, reference_index : ndarray (k,) of int
        Rows of the one-to-one matches with point-like reference sources, by descending ``Score``.
    separation_deg : ndarray (k,)
        Their distances in degrees.
    catalog_inside, reference_inside : ndarray (j,) of int
        Rows of the other detections that lie in an extended reference source, and of that source.
    inside_separation_deg : ndarray (j,)
        Distances to its centre in degrees.
    catalog_unmatched : ndarray of int
        Detections that are neither matched nor inside an extended source.
    reference_unmatched : ndarray of int
        Point-like reference sources that are not matched.
    extended : ndarray of int
        Rows of the extended reference sources, which take no part in the one-to-one match.
    n_catalog, n_reference : int
        Number of rows of both.
    radius_deg : float
        Largest distance of a match.
    reference_names : ndarray (m,) of str
        Names of the reference sources.
    reference_name : str
        Name of the reference catalogue.
    """

    catalog_index: np.ndarray
    reference_index: np.ndarray
    separation_deg: np.ndarray
    catalog_inside: np.ndarray
    reference_inside: np.ndarray
    inside_separation_deg: np.ndarray
    catalog_unmatched: np.ndarray
    reference_unmatched: np.ndarray
    extended: np.ndarray
    n_catalog: int
    n_reference: int
    radius_deg: float
    reference_names: np.ndarray
    reference_name: str

    @property
    def n_matched(self):
        """Number of one-to-one matches."""
        return len(self.catalog_index)

    def summary(self):
        """What was found, in words.

        Returns
        -------
        str
            A few lines.
        """
        n_point = self.n_reference - len(self.extended)
        n_known = self.n_catalog - len(self.catalog_unmatched)
        found, known = _share(self.n_matched, n_point), _share(n_known, self.n_catalog)
        lines = [
            f"{found} point-like {self.reference_name} sources found (<= {self.radius_deg:g} deg).",
            f"{known} detections known, {len(self.catalog_inside)} of them in extended sources.",
        ]
        if self.n_matched:
            median = np.median(self.separation_deg)
            lines.append(f"Median distance of the matches: {median:.3f} deg.")
        if len(self.extended):
            n_seen = len(np.unique(self.reference_inside))
            apart = f"{len(self.extended)} extended sources, {n_seen} with a detection inside"
            lines.append(f"Listed apart: {apart} that matches no point-like one.")
        return "\n".join(lines)

    def apply(self, catalog):
        """The catalogue with the columns ``ASSOC*`` of the matches.

        Parameters
        ----------
        catalog : QTable
            The one that was matched.

        Returns
        -------
        QTable
            A copy with the match columns, masked where there is no match.

        Raises
        ------
        ValueError
            If the catalogue has another number of rows than the one that was matched.
        """
        if len(catalog) != self.n_catalog:
            raise ValueError(
                f"catalog must have the {self.n_catalog} rows that were matched; "
                f"got {len(catalog)}; match it again"
            )
        rows = np.concatenate([self.catalog_index, self.catalog_inside])
        partner = np.concatenate([self.reference_index, self.reference_inside])
        names = np.full(self.n_catalog, "", self.reference_names.dtype)
        names[rows] = self.reference_names[partner]
        separation = np.full(self.n_catalog, np.nan)
        separation[rows] = np.concatenate([self.separation_deg, self.inside_separation_deg])
        origin = np.where(names == "", "", self.reference_name)
        # Without calibrated errors on both sides there is no normalized distance or probability.
        unknown = np.full(self.n_catalog, np.nan)
        values = (names, separation, unknown, unknown, origin)
        return with_match_columns(catalog, dict(zip((s.name for s in MATCH_COLUMNS), values)))


def _share(part, whole):
    percent = f" ({100 * part / whole:.0f} %)" if whole else ""
    return f"{part} of {whole}{percent}"


def match_catalogs(catalog, reference, *, radius=None):
    """One-to-one matches of a catalogue with a reference.

    In descending ``Score`` each detection takes the nearest point-like reference source within the
    radius that is still free. A detection left over that lies within the extension or the radius
    of an extended source counts as known.

    Parameters
    ----------
    catalog : QTable
        From `find_sources` or `read_catalog`, restricted to the sky of interest.
    reference : QTable
        From `read_catalog`, or any table with positions, restricted to the same sky.
    radius : Quantity [angle] or float, optional
        Largest distance; degrees if bare, 0.3 deg by default.

    Returns
    -------
    MatchResult
        Pairs of rows, and rows without a partner.

    Raises
    ------
    ValueError
        If a table has no positions, or the radius is not positive.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc import match_catalogs
    >>> catalog = QTable({"RA": [10.0, 20.0], "Dec": [0.0, 0.0], "Score": [0.9, 0.8]})
    >>> reference = QTable({"RA": [20.1, 50.0], "Dec": [0.0, 0.0], "Source_Name": ["A", "B"]})
    >>> match = match_catalogs(catalog, reference)
    >>> match.catalog_index, match.reference_index
    (array([1]), array([0]))
    """
    radius_deg = _radius_deg(radius)
    found, known = _vectors(catalog, 10.0), _vectors(reference, -10.0)
    extended, extension_deg = _extension(reference)
    point = np.flatnonzero(~extended)
    rank = np.argsort(np.argsort(-_scores(catalog), kind="stable"))
    rows, partner, separation = _one_to_one(found, known[point], rank, radius_deg)
    free = np.setdiff1d(np.arange(len(found)), rows)
    inside, around, distance = _inside(found[free], known, extended, extension_deg, radius_deg)
    return MatchResult(
        catalog_index=rows,
        reference_index=point[partner],
        separation_deg=separation,
        catalog_inside=free[inside],
        reference_inside=around,
        inside_separation_deg=distance,
        catalog_unmatched=np.setdiff1d(free, free[inside]),
        reference_unmatched=np.setdiff1d(point, point[partner]),
        extended=np.flatnonzero(extended),
        n_catalog=len(found),
        n_reference=len(known),
        radius_deg=radius_deg,
        reference_names=_names(reference),
        reference_name=catalog_name(reference),
    )


def within_sky(table, *, min_latitude_deg=0.0, cone=None, box=None):
    """The rows of a table that lie in a part of the sky.

    Parameters
    ----------
    table : QTable
        Table with positions.
    min_latitude_deg : float
        Smallest absolute Galactic latitude.
    cone : tuple of (SkyCoord, Quantity), optional
        Centre and radius.
    box : tuple of float, optional
        Galactic longitude and latitude of the centre, and full widths in both, in degrees.

    Returns
    -------
    QTable
    """
    position = sky_positions(table).galactic
    lon, lat = position.l.deg, position.b.deg
    keep = np.abs(lat) >= min_latitude_deg
    if cone is not None:
        keep &= position.separation(cone[0].galactic) <= cone[1]
    if box is not None:
        offset = (lon - box[0] + 180) % 360 - 180
        keep &= (np.abs(offset) <= box[2] / 2) & (np.abs(lat - box[1]) <= box[3] / 2)
    return table[keep]


def is_known(catalog, references, *, radius=None):
    """Which sources of a catalogue have a source of any reference near, not one-to-one.

    Parameters
    ----------
    catalog : QTable
        Table of n sources.
    references : list of QTable
        Tables with positions.
    radius : Quantity [angle] or float, optional
        Largest distance; degrees if bare, 0.3 deg by default.

    Returns
    -------
    ndarray (n,) of bool
        True where a reference source lies within the radius, or the source within the extension of
        an extended one.
    """
    radius_deg = _radius_deg(radius)
    found = _vectors(catalog, 10.0)
    known = np.zeros(len(found), bool)
    for reference in references:
        # Every reference source is a disc here: a point-like one of no extension.
        extension_deg = _extension(reference)[1]
        everything = np.ones(len(reference), bool)
        rows, _, _ = _inside(
            found, _vectors(reference, -10.0), everything, extension_deg, radius_deg
        )
        known[rows] = True
    return known


def _radius_deg(radius):
    from astropy.units import Quantity

    radius_deg = MATCH_RADIUS_DEG if radius is None else float(Quantity(radius, "deg").value)
    if not 0 < radius_deg <= 180:
        raise ValueError(f"radius must be an angle above 0; got {radius}; give it in degrees")
    return radius_deg


def _vectors(table, nowhere):
    """ICRS unit vectors (n, 3); ``nowhere``, far outside the sphere, where they are unknown."""
    xyz = sky_positions(table).cartesian.xyz.value.T
    return np.where(np.isfinite(xyz).all(axis=1, keepdims=True), xyz, nowhere)


def _scores(table):
    if "Score" not in table.colnames:
        return np.zeros(len(table))
    return np.nan_to_num(np.ma.filled(np.ma.asarray(table["Score"], dtype=float), 0.0))


def _extension(table):
    """Which sources are extended and their radii in degrees, 0 where unknown."""
    if "Extended" not in table.colnames:
        return np.zeros(len(table), bool), np.zeros(len(table))
    extended = np.asarray(table["Extended"], bool)
    known = degrees(table["Extension"]) if "Extension" in table.colnames else np.nan
    return extended, np.where(extended, np.nan_to_num(known), 0.0)


def _names(table):
    if "Source_Name" not in table.colnames:
        return np.array([str(row) for row in range(len(table))], "U8")
    return np.ma.filled(np.ma.asarray(table["Source_Name"]), "").astype(str)


def _angle_deg(chord):
    return np.degrees(2 * np.arcsin(np.clip(np.asarray(chord) / 2, 0, 1)))


def _pairs(left, right, radius_deg):
    """All pairs within the radius: rows of both and the distance in degrees."""
    from scipy.spatial import KDTree

    if not len(left) or not len(right):
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    # The margin keeps a pair at exactly the radius; the cut below decides.
    near = KDTree(left).sparse_distance_matrix(
        KDTree(right), chord(radius_deg) + 1e-12, output_type="coo_matrix"
    )
    angle = _angle_deg(near.data)
    keep = angle <= radius_deg + 1e-10
    return near.row[keep].astype(int), near.col[keep].astype(int), angle[keep]


def _one_to_one(left, right, rank, radius_deg):
    """Greedy matches: by rank, each takes the nearest partner that is still free."""
    rows, columns, angle = _pairs(left, right, radius_deg)
    order = np.lexsort((columns, angle, rank[rows]))
    free_left, free_right = np.ones(len(left), bool), np.ones(len(right), bool)
    taken = []
    for pair in order:
        if free_left[rows[pair]] and free_right[columns[pair]]:
            free_left[rows[pair]] = free_right[columns[pair]] = False
            taken.append(pair)
    taken = np.array(taken, int)
    return rows[taken], columns[taken], angle[taken]


def _inside(vectors, known, extended, extension_deg, radius_deg):
    """Rows inside an extended source, that source, and the distance to its centre in degrees.

    Inside is within its extension or the radius, whichever is larger; of several the nearest.
    """
    candidates = np.flatnonzero(extended)
    reach_deg = np.maximum(extension_deg[candidates], radius_deg)
    rows, columns, angle = _by_reach(vectors, known[candidates], reach_deg)
    order = np.lexsort((angle, rows))
    first = np.unique(rows[order], return_index=True)[1]
    best = order[first]
    return rows[best], candidates[columns[best]], angle[best]


def _by_reach(vectors, centers, reach_deg):
    """Pairs within a reach of each centre; one search for all centres of the same reach."""
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    for reach in np.unique(reach_deg):
        group = np.flatnonzero(reach_deg == reach)
        rows, columns, angle = _pairs(vectors, centers[group], reach)
        found.append((rows, group[columns], angle))
    return tuple(np.concatenate(parts) for parts in zip(*found))
