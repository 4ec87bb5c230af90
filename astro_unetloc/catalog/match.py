"""Matching a catalogue with a reference: pairs, their probabilities and the chance rate.

Directions are Galactic unit vectors; errors are one standard deviation along the two axes of the
error ellipse, as vectors of degrees tangent to the sky, which need no angle near a pole.
"""

from dataclasses import dataclass
from html import escape

import astropy.units as u
import numpy as np
from astropy.table import QTable, Table, vstack
from astropy.utils.masked import Masked

from astro_unetloc.catalog.columns import AREA, CLASSES, MATCH_COLUMNS
from astro_unetloc.catalog.read import as_reference, as_table, catalog_name, was_searched
from astro_unetloc.catalog.table import (
    confidence_ellipses,
    degrees,
    flux_column,
    galactic_vectors,
    numbers,
    numbers_of,
    source_classes,
    texts,
    with_columns,
)
from astro_unetloc.exceptions import InputError, counted
from astro_unetloc.sphere import (
    lonlat_from_vectors,
    neighbors,
    separation_deg,
    tangent_axes,
    tangent_offsets,
)

MATCH_RADIUS_DEG = 0.3

# A circle of r standard deviations holds 1 - exp(-r**2 / 2) of a Gaussian in two dimensions:
# 95 % of it within the first, 99.9 % within the second.
SIGMAS_95 = np.sqrt(-2 * np.log(0.05))
MAX_SIGMAS = np.sqrt(-2 * np.log(0.001))

_ROUNDING_DEG = 1e-10  # keeps a pair at exactly the radius

_RELIABLE = 0.8  # the smallest probability in the Fermi-LAT catalogues (arXiv:1902.10045)

# The density at a position is that of this number of nearest sources, in an ellipse so many times
# longer along Galactic longitude than along latitude: the sources of the plane lie in a band of
# 1 deg. With 5 instead of 60 the chance rate in the plane comes out at half of what catalogues
# shifted in longitude match.
_N_NEIGHBORS = 10
_ELONGATION = 60.0


def match_catalogs(catalog, reference, *, radius=None, surroundings=None):
    """Return the one-to-one matches of a catalogue with a reference.

    By default the errors decide. Where both positions have a 95 % error ellipse, a detection and a
    point-like reference source may match up to a normalized separation of 3.72, which contains
    99.9 % of the true pairs; elsewhere up to 0.3 deg, which counts as 3.72. Pairs are taken in
    ascending normalized separation.

    With a ``radius``, or if neither table has ellipses, each detection takes the nearest source
    within the radius that is still free, in descending ``Score``.

    A detection without a match that lies within the extension of an extended source, or within the
    radius if that is larger, counts as known.

    Parameters
    ----------
    catalog : QTable
        From `find_sources` or `read_catalog`. If it states the area that was searched, only the
        reference sources in this area can be missing; else restrict both to the same sky.
    reference : QTable, SkyCoord, FITS records, catalogue of gammapy, str or path
        From `read_catalog`, or any table with positions, or the name of a file.
    radius : Quantity [angle] or float, optional
        Largest distance, whatever the errors are; degrees if bare.
    surroundings : QTable, optional
        The whole reference, if ``reference`` is restricted; used for the chance rate.

    Returns
    -------
    MatchResult

    Raises
    ------
    InputError
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
    radius_deg, reference = _radius_deg(radius), as_reference(reference)
    catalog = as_table(catalog)
    found, known = _positions(catalog), _positions(reference, ~reference["Extended"])
    by_errors = radius is None and any(
        np.isfinite(_variances(side)).all(axis=1).any() for side in (found, known)
    )
    pairs = _candidates(found, known, radius_deg, by_errors)
    if surroundings is not None:
        surroundings = as_reference(surroundings)
        known = _positions(surroundings, ~surroundings["Extended"])
    eligible = pairs["separation"][pairs["eligible"]]
    # Few matches are farther apart; a single source of huge errors does not count.
    reach_deg = max(radius_deg, np.quantile(eligible, 0.95) if len(eligible) else 0.0)
    density, chance = _chance_matches(found, known, radius_deg, reach_deg, by_errors)
    pairs["probability"] = _association_probability(pairs, density)
    rank = np.unique(-np.nan_to_num(numbers_of(catalog, "Score")), return_inverse=True)[1]
    pairs["matched"] = _one_to_one(pairs, rank, radius_deg, by_errors)
    pairs["extended"] = False
    pairs.remove_columns(["offset_density", "eligible"])
    hits = _inside(found["vectors"], reference, radius_deg)
    free = np.isin(hits["catalog_index"], pairs["catalog_index"][pairs["matched"]], invert=True)
    hits["matched"] = free & (np.diff(hits["catalog_index"], prepend=-1) > 0)  # the nearest
    pairs = vstack([pairs, hits])
    pairs["separation"].unit = "deg"
    row = pairs["catalog_index"]
    order = (pairs["separation"], -np.nan_to_num(pairs["probability"]), row, rank[row])
    pairs = QTable(pairs[np.lexsort(order)])
    searched = was_searched(catalog, reference["skycoord"])
    return MatchResult(catalog, reference, pairs, chance, searched, radius_deg, by_errors)


def is_known(catalog, references, *, radius=None):
    """Which sources (n,) of a table have a source of any reference near, or around them."""
    radius_deg, vectors = _radius_deg(radius), galactic_vectors(catalog)
    known = np.zeros(len(catalog), bool)
    for reference in references:
        hits = _inside(vectors, as_reference(reference), radius_deg, point_like=True)
        known[hits["catalog_index"]] = True
    return known


def inside_extended(vectors, reference):
    """Which Galactic unit vectors (n, 3) lie in an extended source, of at least 0.3 deg."""
    hits = _inside(vectors, as_reference(reference), MATCH_RADIUS_DEG)
    return np.isin(np.arange(len(vectors)), hits["catalog_index"])


@dataclass(frozen=True)
class MatchResult:
    """Which rows of a catalogue and of a reference belong together.

    Attributes
    ----------
    catalog : QTable
        The n detections.
    reference : QTable
        The m reference sources, with ``Source_Name``, ``Extended`` and ``Extension``.
    pairs : QTable
        All pairs near enough to be one source, by descending ``Score``: ``catalog_index`` and
        ``reference_index`` (rows), ``separation`` (deg), ``separation_norm`` (in standard
        deviations of both positions, NaN where an error is unknown), ``probability`` (that both
        are one source, NaN for extended sources), ``matched`` and ``extended`` (bool).
    chance_probability : ndarray (n,)
        Probability that a detection which has nothing to do with the reference would match.
    searched : ndarray (m,)
        Which reference sources lie in the area that was searched; all where it is unknown.
    radius_deg : float
        Largest distance of a match, where the errors do not decide.
    by_errors : bool
        Whether the errors decide where they are known.
    """

    catalog: object
    reference: object
    pairs: object
    chance_probability: np.ndarray
    searched: np.ndarray
    radius_deg: float
    by_errors: bool

    def __repr__(self):
        n_known = len(self.catalog) - len(self.catalog_unmatched)
        return (
            f"<MatchResult: {_fraction(n_known, len(self.catalog))} detections known in "
            f"{catalog_name(self.reference)}>"
        )

    def _repr_html_(self):
        return f"<pre>{escape(self.summary())}</pre>"

    @property
    def matches(self):
        """Rows of ``pairs`` of the one-to-one matches with point-like sources."""
        return self.pairs[self.pairs["matched"] & ~self.pairs["extended"]]

    @property
    def inside(self):
        """Rows of ``pairs`` of the detections left over, with the extended source around each."""
        return self.pairs[self.pairs["matched"] & self.pairs["extended"]]

    @property
    def catalog_index(self):
        """Rows of the catalogue (k,) that match, by descending ``Score``."""
        return self.matches["catalog_index"].data

    @property
    def reference_index(self):
        """Rows of the reference (k,) that match, in the same order."""
        return self.matches["reference_index"].data

    @property
    def catalog_unmatched(self):
        """Rows of the detections that neither match nor lie inside an extended source."""
        known = self.pairs["catalog_index"][self.pairs["matched"]]
        return np.setdiff1d(np.arange(len(self.catalog)), known)

    @property
    def reference_unmatched(self):
        """Rows of the point-like reference sources in the searched area that do not match."""
        point_like = ~self.reference["Extended"] & self.searched
        return np.setdiff1d(np.flatnonzero(point_like), self.reference_index)

    @property
    def chance_rate(self):
        """Fraction of unrelated detections that would match; NaN without detections."""
        chance = self.chance_probability
        return float(np.mean(chance)) if len(chance) else np.nan

    def summary(self):
        """Return the numbers of matches, their quality and the chance rate in a few lines (str)."""
        matches, n_found = self.matches, len(self.catalog)
        n_known, name = n_found - len(self.catalog_unmatched), catalog_name(self.reference)
        n_point = len(matches) + len(self.reference_unmatched)
        seen = np.unique(self.inside["reference_index"])
        extended = np.flatnonzero(self.reference["Extended"] & self.searched)
        n_extended = len(np.union1d(seen, extended))
        where = " in the searched area" if AREA in self.catalog.meta else ""
        rule = f"<= {self.radius_deg:g} deg"
        if self.by_errors:
            rule = f"<= {MAX_SIGMAS:.2f} sigma, or {rule} where an error is unknown"
        lines = [
            f"{_fraction(len(matches), n_point)} point-like {name} sources{where} found ({rule}).",
            f"{_fraction(n_known, n_found)} detections known, {len(self.inside)} of them in "
            "extended sources.",
        ]
        if len(matches):
            norm = matches["separation_norm"][np.isfinite(matches["separation_norm"])]
            sigma = f", {np.median(norm):.2f} sigma" if len(norm) else ""
            reliable = _fraction(np.sum(matches["probability"] >= _RELIABLE), len(matches))
            distance_deg = np.median(matches["separation"].value)
            lines += [
                f"Median distance of the matches: {distance_deg:.3f} deg{sigma}.",
                f"{reliable} matches have an association probability of {_RELIABLE:g} or more; "
                f"{np.sum(1 - matches['probability']):.1f} of all are expected to be false.",
            ]
        if n_found:
            rate = f"By chance {100 * self.chance_rate:.2g} % of unrelated detections would match"
            lines.append(f"{rate} (from the local density).")
        if n_extended:
            inside = f"{len(seen)} with a detection inside that matches no point-like one"
            lines.append(f"Listed apart: {counted(n_extended, 'extended source')}, {inside}.")
        bins = self.completeness().iterrows("Flux_Min", "Flux_Max", "N", "N_Found")
        by_flux = [f"  {low:8.2g} - {high:<8.2g} {_fraction(k, n)}" for low, high, n, k in bins]
        lines += ["Found by flux, as the reference gives it:", *by_flux] if by_flux else []
        confusion = self.confusion()
        names = confusion.colnames[1:]
        if any(confusion[name].any() for name in names[:-1]):
            title = f"Matches by class in {name} (rows) and in the catalogue:"
            lines += [title, "  " + "".join(f"{name:>9}" for name in ["", *names])]
            for row in confusion:
                lines.append("  " + "".join(f"{value:>9}" for value in row))
        return "\n".join(lines)

    def confusion(self):
        """Return how many matches have each class in the reference and in the catalogue.

        Returns
        -------
        QTable
            A row for each ``Class`` of the reference, and the numbers of its sources that are
            ``agn``, ``psr``, ``other`` or ``none`` (no class) in the catalogue. The classes of the
            Fermi-LAT catalogues are put together as AGN, pulsars and others; matches with sources
            without a class are left out.
        """
        found = source_classes(self.catalog)[self.catalog_index]
        known = source_classes(self.reference)[self.reference_index]
        table = QTable({"Class": CLASSES})
        for name in (*CLASSES, ""):
            of_name = known[found == name]
            table[name or "none"] = [np.count_nonzero(of_name == kind) for kind in CLASSES]
        return table

    def completeness(self, edges=None):
        """Return how many point-like reference sources in the searched area were found, by flux.

        Parameters
        ----------
        edges : array_like (b + 1,), optional
            Edges of the bins of flux, in the unit of the reference; half decades by default.

        Returns
        -------
        QTable
            For each bin that holds a source ``Flux_Min``, ``Flux_Max``, ``N``, ``N_Found``,
            ``Completeness`` and its 68 % Wilson interval ``Completeness_Low``,
            ``Completeness_High``; without rows if the reference has no fluxes.
        """
        from astropy.stats import binom_conf_interval

        name = flux_column(self.reference)
        flux = numbers(self.reference[name]) if name else np.full(len(self.reference), np.nan)
        counted = np.append(self.reference_index, self.reference_unmatched)
        use = np.isfinite(flux) & (flux > 0) & np.isin(np.arange(len(flux)), counted)
        if edges is None:
            steps = 2 * np.log10(flux[use]) if use.any() else np.zeros(1)
            edges = 10 ** (np.arange(np.floor(steps.min()), np.floor(steps.max()) + 2) / 2)
        found = np.isin(np.arange(len(flux)), self.reference_index)
        number, n_found = (np.histogram(flux[w], edges)[0] for w in (use, use & found))
        columns = {"Flux_Min": edges[:-1], "Flux_Max": edges[1:], "N": number, "N_Found": n_found}
        table = QTable(columns)[number > 0]
        number, n_found = table["N"], table["N_Found"]
        table["Completeness"] = n_found / number
        interval = np.zeros((2, 0))  # `binom_conf_interval` refuses empty arrays
        if len(number):
            interval = binom_conf_interval(n_found, number, interval="wilson")
        table["Completeness_Low"], table["Completeness_High"] = interval
        return table

    def apply(self, catalog=None):
        """Return a copy of the catalogue with the columns ``ASSOC*``, masked without a match.

        Of a detection inside an extended source only name, catalogue and distance are known.
        ``catalog`` (QTable, optional) is the one that was matched, or a copy with more columns.
        """
        catalog = self.catalog if catalog is None else catalog
        if len(catalog) != len(self.catalog):
            raise InputError(
                f"catalog must have the {len(self.catalog)} rows that were matched; "
                f"got {len(catalog)}; match it again"
            )
        best = self.pairs[self.pairs["matched"]]
        row = np.full(len(catalog), -1)
        row[best["catalog_index"]] = np.arange(len(best))
        return self._with_columns(catalog, best, row)

    def candidate_table(self):
        """Return a QTable of all candidates of each detection, the most probable first.

        One row for each pair: ``Source_Name``, ``RAJ2000``, ``DEJ2000`` of the detection, the match
        columns, ``Matched`` (1 if chosen) and ``Extended`` (1 for extended reference sources).
        """
        pairs = self.pairs[np.argsort(self.pairs["catalog_index"], kind="stable")]
        detections = as_reference(self.catalog)["Source_Name", "RAJ2000", "DEJ2000"]
        table = self._with_columns(detections[pairs["catalog_index"]], pairs, np.arange(len(pairs)))
        table["Matched"] = pairs["matched"].astype("i2")
        table["Extended"] = pairs["extended"].astype("i2")
        table.meta = {}
        return table

    def _with_columns(self, table, pairs, row):
        """A copy of a table with the match columns of the pair in each row; -1 is none."""
        names = np.append(texts(self.reference["Source_Name"])[pairs["reference_index"]], "")
        columns = (pairs["separation"].value, pairs["separation_norm"], pairs["probability"])
        origin = np.where(row < 0, "", catalog_name(self.reference))
        values = (names[row], *(np.append(column, np.nan)[row] for column in columns), origin)
        return with_columns(table, MATCH_COLUMNS, values)

    def not_known(self):
        """Return the detections (QTable) that match nothing."""
        return self.catalog[self.catalog_unmatched]

    def not_found(self):
        """Return a QTable of the point-like reference sources in the searched area not found.

        It has names, positions, 95 % error ellipses and fluxes, where known.
        """
        table = self.reference[self.reference_unmatched]
        galactic = table["skycoord"].galactic
        result = table["Source_Name", "RAJ2000", "DEJ2000"]
        result.meta = {"REFNAME": catalog_name(self.reference)}
        result["GLON"], result["GLAT"] = galactic.l.to(u.deg), galactic.b.to(u.deg)
        for name, values in zip(("SemiMajor", "SemiMinor", "PosAng"), confidence_ellipses(table).T):
            result[f"Conf_95_{name}"] = Masked(values * u.deg, mask=~np.isfinite(values))
        if flux_column(table):
            result[flux_column(table)] = table[flux_column(table)]
        return result


def _fraction(part, whole):
    return f"{part} of {whole}" + (f" ({100 * part / whole:.0f} %)" if whole else "")


def _radius_deg(radius):
    try:
        radius_deg = MATCH_RADIUS_DEG if radius is None else float(u.Quantity(radius, "deg").value)
    except (TypeError, ValueError):
        radius_deg = np.nan
    if not 0 < radius_deg <= 180:
        raise InputError(f"radius must be an angle above 0; got {radius}; give it in degrees")
    return radius_deg


# Positions and their errors


def _positions(table, use=True):
    """Directions (n, 3) and the standard deviations along the axes of their errors (n, 2, 3).

    Both are unknown for rows that are not of use.
    """
    vectors, ellipse = galactic_vectors(table), confidence_ellipses(table)
    east, north = tangent_axes(vectors)
    angle = np.radians(ellipse[:, 2])[:, None]
    major = np.cos(angle) * north + np.sin(angle) * east
    minor = np.cos(angle) * east - np.sin(angle) * north
    sigmas = ellipse[:, :2] / SIGMAS_95
    positions = np.zeros(len(table), [("vectors", float, 3), ("axes", float, (2, 3))])
    positions["vectors"] = np.where(np.broadcast_to(use, len(table))[:, None], vectors, np.nan)
    positions["axes"] = np.stack([major, minor], axis=1) * sigmas[:, :, None]
    return positions


def _variances(positions):
    """Variances (n, 2) along both axes of the errors in deg2; NaN where unknown."""
    return np.sum(positions["axes"] ** 2, axis=2)


# Pairs


def _candidates(left, right, radius_deg, by_errors):
    """Table of all pairs within the radius or, if the errors decide, within those of both."""
    # A normalized separation above r occurs for exp(-r**2 / 2) of the true counterparts. The
    # density of their offsets is per deg2; where an error is unknown, the radius is that of 95 %.
    reach_deg = radius_deg
    if by_errors:
        largest = sum(np.nan_to_num(_variances(s)).max(initial=0.0) for s in (left, right))
        reach_deg = max(radius_deg, MAX_SIGMAS * np.sqrt(largest))
    rows, columns, angle = neighbors(left["vectors"], right["vectors"], reach_deg)
    norm, area = _normalized(left[rows], right[columns])
    known, is_near = np.isfinite(norm), angle <= radius_deg + _ROUNDING_DEG
    eligible = np.where(known, norm <= MAX_SIGMAS, is_near) if by_errors else is_near
    radius_sigma = radius_deg / SIGMAS_95
    distance = np.where(known, norm, angle / radius_sigma)
    density = np.exp(-0.5 * distance**2) / (2 * np.pi * np.where(known, area, radius_sigma**2))
    names = ("catalog_index", "reference_index", "separation", "separation_norm")
    table = Table([rows, columns, angle, norm], names=names)
    table["offset_density"], table["eligible"] = density, eligible
    return table[eligible | is_near]


def _normalized(left, right):
    """Normalized separations and square roots of the determinants of the covariances (deg2)."""
    # For ellipses r**2 = d (C1 + C2)**-1 d with the offset d and the covariances C (de Ruiter,
    # Willis & Arp 1977, A&AS 28, 211, there for errors along the coordinate axes).
    east, north = tangent_axes(left["vectors"])
    x, y = tangent_offsets(left["vectors"], east, north, right["vectors"])
    axes = np.concatenate([left["axes"], right["axes"]], axis=1)
    u, v = np.einsum("pax,px->pa", axes, east), np.einsum("pax,px->pa", axes, north)
    xx, xy, yy = (u * u).sum(axis=1), (u * v).sum(axis=1), (v * v).sum(axis=1)
    determinant = xx * yy - xy**2
    square = (yy * x**2 - 2 * xy * x * y + xx * y**2) / determinant
    return np.sqrt(np.maximum(square, 0.0)), np.sqrt(determinant)


def _one_to_one(pairs, rank, radius_deg, by_errors):
    """Which pairs (p,) match: the best first, each row and column once."""
    rows, columns = pairs["catalog_index"], pairs["reference_index"]
    separation, norm = pairs["separation"], pairs["separation_norm"]
    keys = (columns, rows, separation, rank[rows])
    if by_errors:
        distance = np.where(np.isfinite(norm), norm, separation * (MAX_SIGMAS / radius_deg))
        keys = (columns, rows, distance)
    order = np.lexsort(keys)
    matched, taken = np.zeros(len(pairs), bool), set()
    for pair in order[pairs["eligible"][order]]:
        ends = {("row", rows[pair]), ("column", columns[pair])}
        if taken.isdisjoint(ends):
            matched[pair] = True
            taken |= ends
    return matched


def _inside(vectors, reference, radius_deg, point_like=False):
    """Pairs of a direction and an extended, or any, source that it lies in, nearest first."""
    centers = np.flatnonzero(reference["Extended"] | point_like)
    reach_deg = np.fmax(degrees(reference["Extension"])[centers], radius_deg)
    rows, columns, angle = neighbors(
        vectors, galactic_vectors(reference[centers]), reach_deg.max(initial=radius_deg)
    )
    keep = angle <= reach_deg[columns] + _ROUNDING_DEG
    rows, columns, angle = rows[keep], centers[columns[keep]], angle[keep]
    hits = Table({"catalog_index": rows, "reference_index": columns, "separation": angle})
    hits["separation_norm"] = hits["probability"] = np.full(len(hits), np.nan)
    hits["extended"] = True
    return hits[np.lexsort((columns, angle, rows))]


# Probabilities


def _association_probability(pairs, density, n_rounds=100):
    """Probability (p,) that each pair is one source, from the density (n,) of the reference."""
    # The reliability of Sutherland & Saunders (1992, MNRAS 259, 413): L_j / (sum(L_i) + 1 - Q) with
    # L = Q f / rho, the densities f of offsets of true counterparts and rho of unrelated sources,
    # and the fraction Q of detections with a counterpart, the mean of their probabilities.
    rows, n_detections = pairs["catalog_index"], len(density)
    ratio = pairs["offset_density"] / np.maximum(density[rows], 1e-12)
    total = np.bincount(rows, ratio, n_detections)
    fraction = 0.5
    for _ in range(n_rounds):
        known = fraction * total / (fraction * total + 1 - fraction)
        # never quite 0 or 1, as one detection with a counterpart and one without are added
        fraction = (known.sum() + 1) / (n_detections + 2)
    return ratio / (total[rows] + (1 - fraction) / fraction)


def _chance_matches(left, right, radius_deg, reach_deg, by_errors):
    """Density of the reference around each detection (deg-2), probability of a chance match."""
    # Chance matches are Poisson distributed: one or more has the probability 1 - exp(-rho A) with
    # the density rho and the area A in which a neighbour would match (Downes et al. 1986, MNRAS
    # 218, 31, for circles). Neighbours within reach_deg may be true counterparts and are left out.
    right = right[np.isfinite(right["vectors"]).all(axis=1)]
    known = np.isfinite(left["vectors"]).all(axis=1)
    density, probability = np.zeros((2, len(left["vectors"])))
    if not known.any() or not len(right["vectors"]):
        return density, probability
    left = left[known]
    rho, nearest, apart = _local_density(left["vectors"], right["vectors"], reach_deg)
    area = np.full(nearest.shape, np.pi * radius_deg**2)
    if by_errors:
        # For ellipses of any orientation the mean determinant of the sum of two covariances is
        # det C1 + det C2 + tr C1 tr C2 / 2.
        one, other = _variances(left)[:, None], _variances(right)[nearest]
        determinant = one.prod(axis=-1) + other.prod(axis=-1)
        determinant = determinant + 0.5 * one.sum(axis=-1) * other.sum(axis=-1)
        by_errors = np.pi * MAX_SIGMAS**2 * np.sqrt(determinant)
        area = np.where(np.isfinite(by_errors), by_errors, area)
    # Counterparts are brighter and better known than what is near by chance: they do not count.
    mean = np.where(apart, area, 0.0).sum(axis=1) / np.maximum(apart.sum(axis=1), 1)
    mean = np.where(apart.any(axis=1), mean, np.pi * radius_deg**2)
    density[known], probability[known] = rho, -np.expm1(-rho * mean)
    return density, probability


def _local_density(vectors, others, reach_deg):
    """Sources per square degree around directions (n, 3), neighbours and which count (n, k)."""
    from scipy.spatial import KDTree

    n_neighbors = min(_N_NEIGHBORS, len(others))
    distance, nearest = KDTree(_stretched(others)).query(
        _stretched(vectors), np.arange(1, n_neighbors + 1)
    )
    area = _stretched_area(lonlat_from_vectors(vectors)[1], distance[:, -1])
    core = np.pi * reach_deg**2
    # Where many sources lie within the reach of a match, at most one of them is the counterpart.
    crowded = (area < 4 * core) & (n_neighbors == _N_NEIGHBORS)
    apart = separation_deg(vectors[:, None], others[nearest]) > reach_deg
    apart |= crowded[:, None]
    # The last neighbour defines the area and is not counted: the estimate has no bias then.
    number = np.maximum(apart[:, :-1].sum(axis=1), 0.5)
    area = np.where(crowded, np.maximum(area, 1e-12), np.maximum(area - core, core))
    return number / area, nearest, apart


def _stretched(vectors):
    """Points (n, 3) whose distance is that on the sky, times the elongation along latitude."""
    lon, lat = (np.radians(value) for value in lonlat_from_vectors(vectors))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), _ELONGATION * lat], -1)


def _stretched_area(lat_deg, distance, n_steps=32):
    """Square degrees of the sky within a distance of places (n,), as `_stretched` measures it."""
    center = np.radians(lat_deg)[:, None]
    half = (distance / _ELONGATION)[:, None]
    low, high = np.maximum(center - half, -np.pi / 2), np.minimum(center + half, np.pi / 2)
    lat = low + (high - low) * (np.arange(n_steps) + 0.5) / n_steps
    left = np.cos(lat) ** 2 + np.cos(center) ** 2 - half**2 * _ELONGATION**2
    left = left + _ELONGATION**2 * (lat - center) ** 2
    cosine = left / np.maximum(2 * np.cos(lat) * np.cos(center), 1e-12)
    width = 2 * np.arccos(np.clip(cosine, -1, 1)) * np.cos(lat)
    return np.degrees(np.degrees((width * (high - low)).mean(axis=1)))
