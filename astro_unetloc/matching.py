"""Matching a catalogue to another one: which sources are found, which detections are known."""

import numpy as np

from astro_unetloc.association import association_probability, chance_rate
from astro_unetloc.config import MATCH_RADIUS_DEG
from astro_unetloc.counterparts import (
    MAX_SIGMAS,
    Counterparts,
    Positions,
    find_counterparts,
    inside,
    one_to_one,
)
from astro_unetloc.match_results import MatchResult
from astro_unetloc.references import (
    catalog_name,
    confidence_ellipses,
    degrees,
    flux_column,
    galactic_vectors,
    numbers,
    texts,
)

__all__ = ["inside_extended", "is_known", "match_catalogs"]


def match_catalogs(catalog, reference, *, radius=None, surroundings=None):
    """One-to-one matches of a catalogue with a reference.

    By default the errors decide. Where both positions have a 95 % error ellipse, a detection and a
    point-like reference source may match up to a normalized separation of 3.72, which 99.9 % of
    true pairs keep, and where one has none up to 0.3 deg. Pairs are made in ascending normalized
    separation, 0.3 deg standing for 3.72, of detections and sources that are still free.

    With a ``radius``, or where neither table has ellipses, in descending ``Score`` each detection
    takes the nearest source within the radius that is still free; of equal scores, or without, the
    nearest pair comes first.

    Either way a detection left over that lies within the extension or the radius of an extended
    source counts as known.

    Parameters
    ----------
    catalog : QTable
        From `find_sources` or `read_catalog`, restricted to the sky of interest.
    reference : QTable
        From `read_catalog`, or any table with positions, restricted to the same sky.
    radius : Quantity [angle] or float, optional
        Largest distance, whatever the errors are; degrees if bare.
    surroundings : QTable, optional
        The reference of the sky around too, if it was restricted: chance rates are told from it.

    Returns
    -------
    MatchResult
        Pairs of rows with distances and probabilities, and rows without a partner.

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
    found, known = _positions(catalog, 10.0), _positions(reference, -10.0)
    by_errors = radius is None and bool(found.has_error.any() or known.has_error.any())
    extended, extension_deg = _extension(reference)
    point = np.flatnonzero(~extended)
    rank = _ranks(catalog)
    pairs = find_counterparts(found, known[point], radius_deg, by_errors=by_errors)
    chosen = _choose(pairs, rank, radius_deg, by_errors)
    around = known[point]
    if surroundings is not None:
        around = _positions(surroundings, -10.0)[~_extension(surroundings)[0]]
    chance = chance_rate(
        found, around, radius_deg, by_errors=by_errors, reach_deg=_reach(pairs, radius_deg)
    )
    probability, _ = association_probability(pairs, chance.density, len(found))
    rows, partner = pairs.catalog_index[chosen], point[pairs.reference_index[chosen]]
    free = np.setdiff1d(np.arange(len(found)), rows)
    hit, around_hit, hit_deg = _inside(found.vectors, known, extended, extension_deg, radius_deg)
    first = _first_of_each(hit, free)
    return MatchResult(
        catalog_index=rows,
        reference_index=partner,
        separation_deg=pairs.separation_deg[chosen],
        separation_norm=pairs.separation_norm[chosen],
        probability=probability[chosen],
        catalog_inside=hit[first],
        reference_inside=around_hit[first],
        inside_separation_deg=hit_deg[first],
        catalog_unmatched=np.setdiff1d(free, hit),
        reference_unmatched=np.setdiff1d(point, partner),
        extended=np.flatnonzero(extended),
        candidates=_with_extended(pairs, point, (hit, around_hit, hit_deg)),
        candidate_probability=np.append(probability, np.full(len(hit), np.nan)),
        chance=chance,
        n_catalog=len(found),
        n_reference=len(known),
        radius_deg=radius_deg,
        by_errors=by_errors,
        reference_names=_names(reference),
        reference_flux=_fluxes(reference),
        reference_name=catalog_name(reference),
    )


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
    found = _positions(catalog, 10.0).vectors
    known = np.zeros(len(found), bool)
    for reference in references:
        # Every reference source is a disc here: a point-like one of no extension.
        extension_deg = _extension(reference)[1]
        everything = np.ones(len(reference), bool)
        positions = _positions(reference, -10.0)
        known[_inside(found, positions, everything, extension_deg, radius_deg)[0]] = True
    return known


def inside_extended(vectors, reference):
    """Which directions lie inside an extended source.

    Parameters
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    reference : QTable
        From `read_catalog`, with ``Extended`` and ``Extension``; any other has none.

    Returns
    -------
    ndarray (n,) of bool
        True within the extension of a source, or 0.3 deg where that is more or the extension is
        unknown.
    """
    extended, extension_deg = _extension(reference)
    found = np.zeros(len(vectors), bool)
    positions = _positions(reference, -10.0)
    found[_inside(vectors, positions, extended, extension_deg, MATCH_RADIUS_DEG)[0]] = True
    return found


def _radius_deg(radius):
    from astropy.units import Quantity

    radius_deg = MATCH_RADIUS_DEG if radius is None else float(Quantity(radius, "deg").value)
    if not 0 < radius_deg <= 180:
        raise ValueError(f"radius must be an angle above 0; got {radius}; give it in degrees")
    return radius_deg


def _positions(table, nowhere):
    """Directions and errors; ``nowhere``, far outside the sphere, where they are unknown."""
    xyz = galactic_vectors(table)
    xyz = np.where(np.isfinite(xyz).all(axis=1, keepdims=True), xyz, nowhere)
    return Positions(xyz, confidence_ellipses(table))


def _ranks(table):
    """Place of each row in descending ``Score``; equal scores share it."""
    if "Score" not in table.colnames:
        return np.zeros(len(table), int)
    return np.unique(-np.nan_to_num(numbers(table["Score"])), return_inverse=True)[1]


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
    return texts(table["Source_Name"])


def _fluxes(table):
    """Fluxes in the unit of the table; NaN where unknown."""
    name = flux_column(table)
    return np.full(len(table), np.nan) if name is None else numbers(table[name])


def _choose(pairs, rank, radius_deg, by_errors):
    """The pairs of the one-to-one match, in descending score of the detections."""
    rows, columns = pairs.catalog_index, pairs.reference_index
    if by_errors:
        plain = pairs.separation_deg * (MAX_SIGMAS / radius_deg)
        distance = np.where(np.isfinite(pairs.separation_norm), pairs.separation_norm, plain)
        order = np.lexsort((columns, rows, distance))
    else:
        order = np.lexsort((columns, rows, pairs.separation_deg, rank[rows]))
    chosen = one_to_one(rows, columns, order[pairs.eligible[order]])
    return chosen[np.lexsort((rows[chosen], rank[rows[chosen]]))]


def _reach(pairs, radius_deg):
    """Distance that few matches exceed; a single source of huge errors does not count."""
    eligible = pairs.separation_deg[pairs.eligible]
    return max(radius_deg, float(np.quantile(eligible, 0.95)) if len(eligible) else 0.0)


def _inside(vectors, known, extended, extension_deg, radius_deg):
    """Pairs of a direction and an extended source that it lies in, nearest first, and distances.

    Inside is within its extension or the radius, whichever is larger.
    """
    candidates = np.flatnonzero(extended)
    reach_deg = np.maximum(extension_deg[candidates], radius_deg)
    rows, columns, angle = inside(vectors, known.vectors[candidates], reach_deg)
    return rows, candidates[columns], angle


def _first_of_each(rows, wanted):
    """Index of the first occurrence in sorted rows of each wanted one that occurs."""
    unique, first = np.unique(rows, return_index=True)
    return first[np.isin(unique, wanted)]


def _with_extended(pairs, point, hits):
    """The candidates by rows of the whole reference, with those inside extended sources."""
    rows, columns, angle = hits
    unknown = np.full(len(rows), np.nan)
    return Counterparts(
        np.append(pairs.catalog_index, rows),
        np.append(point[pairs.reference_index], columns),
        np.append(pairs.separation_deg, angle),
        np.append(pairs.separation_norm, unknown),
        np.append(pairs.offset_density, unknown),
        np.append(pairs.eligible, np.ones(len(rows), bool)),
    )
