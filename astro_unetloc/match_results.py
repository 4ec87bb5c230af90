"""What a match found: pairs, what has no partner, words, completeness and tables to write."""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.association import ChanceRate
from astro_unetloc.catalog import with_match_columns
from astro_unetloc.columns import MATCH_COLUMNS
from astro_unetloc.counterparts import MAX_SIGMAS, Counterparts
from astro_unetloc.references import as_reference, confidence_ellipses, flux_column

__all__ = ["MatchResult"]

# Associations of the Fermi-LAT catalogues have this probability or a higher one (arXiv:1902.10045).
_RELIABLE = 0.8


@dataclass(frozen=True)
class MatchResult:
    """Which rows of a catalogue of n rows and of a reference of m rows belong together.

    Attributes
    ----------
    catalog_index, reference_index : ndarray (k,) of int
        Rows of the one-to-one matches with point-like reference sources, by descending ``Score``.
    separation_deg : ndarray (k,)
        Their distances in degrees.
    separation_norm : ndarray (k,)
        Their distances in standard deviations of both positions; NaN where an error is unknown.
    probability : ndarray (k,)
        Probability that they are the same source.
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
    candidates : Counterparts
        All pairs near enough to be listed, matched or not, extended sources included.
    candidate_probability : ndarray (p,)
        Probability of each of them; NaN for extended sources.
    chance : ChanceRate
        How many unrelated detections would match.
    n_catalog, n_reference : int
        Number of rows of both.
    radius_deg : float
        Largest distance of a match, where the errors do not decide.
    by_errors : bool
        Whether the errors of both positions decide where they are known.
    reference_names : ndarray (m,) of str
        Names of the reference sources.
    reference_flux : ndarray (m,)
        Their fluxes as the reference gives them; NaN where unknown.
    reference_name : str
        Name of the reference catalogue.
    """

    catalog_index: np.ndarray
    reference_index: np.ndarray
    separation_deg: np.ndarray
    separation_norm: np.ndarray
    probability: np.ndarray
    catalog_inside: np.ndarray
    reference_inside: np.ndarray
    inside_separation_deg: np.ndarray
    catalog_unmatched: np.ndarray
    reference_unmatched: np.ndarray
    extended: np.ndarray
    candidates: Counterparts
    candidate_probability: np.ndarray
    chance: ChanceRate
    n_catalog: int
    n_reference: int
    radius_deg: float
    by_errors: bool
    reference_names: np.ndarray
    reference_flux: np.ndarray
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
        rule = f"<= {self.radius_deg:g} deg"
        if self.by_errors:
            rule = f"<= {MAX_SIGMAS:.2f} sigma, or {rule} where an error is unknown"
        lines = [
            f"{found} point-like {self.reference_name} sources found ({rule}).",
            f"{known} detections known, {len(self.catalog_inside)} of them in extended sources.",
        ]
        if self.n_matched:
            lines += self._quality()
        if self.n_catalog:
            lines.append(
                f"By chance {_percent(self.chance.expected)} of unrelated detections would match "
                f"(from the local density); {_percent(self.chance.shifted)} do when shifted "
                f"({self.chance.n_shifts} shifts)."
            )
        if len(self.extended):
            n_seen = len(np.unique(self.reference_inside))
            apart = f"{len(self.extended)} extended sources, {n_seen} with a detection inside"
            lines.append(f"Listed apart: {apart} that matches no point-like one.")
        return "\n".join([*lines, *self._completeness_lines()])

    def _quality(self):
        """Lines on how near the matches are and how likely they are true."""
        norm = self.separation_norm[np.isfinite(self.separation_norm)]
        sigma = f", {np.median(norm):.2f} sigma" if len(norm) else ""
        n_sure = int((self.probability >= _RELIABLE).sum())
        return [
            f"Median distance of the matches: {np.median(self.separation_deg):.3f} deg{sigma}.",
            f"{_share(n_sure, self.n_matched)} matches have an association probability of "
            f"{_RELIABLE:g} or more; {np.sum(1 - self.probability):.1f} of all are expected to "
            "be false.",
        ]

    def _completeness_lines(self):
        table = self.completeness()
        if not len(table):
            return []
        rows = zip(table["Flux_Min"], table["Flux_Max"], table["N_Found"], table["N"])
        return ["Found by flux, as the reference gives it:"] + [
            f"  {low:8.2g} - {high:<8.2g} {_share(found, number)}"
            for low, high, found, number in rows
        ]

    def completeness(self, edges=None):
        """How many of the point-like reference sources were found, by their flux.

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
        from astropy.table import QTable

        flux = self.reference_flux
        use = np.isfinite(flux) & (flux > 0)
        use[self.extended] = False
        if edges is None:
            steps = 2 * np.log10(flux[use]) if use.any() else np.zeros(1)
            edges = 10 ** (np.arange(np.floor(steps.min()), np.floor(steps.max()) + 2) / 2)
        found = np.zeros(self.n_reference, bool)
        found[self.reference_index] = True
        number = np.histogram(flux[use], edges)[0]
        n_found = np.histogram(flux[use & found], edges)[0]
        filled = number > 0
        number, n_found = number[filled], n_found[filled]
        low, high = binom_conf_interval(n_found, number, interval="wilson") if filled.any() else (
            np.zeros((2, 0))
        )  # fmt: skip
        return QTable(
            {
                "Flux_Min": np.asarray(edges)[:-1][filled],
                "Flux_Max": np.asarray(edges)[1:][filled],
                "N": number,
                "N_Found": n_found,
                "Completeness": n_found / np.maximum(number, 1),
                "Completeness_Low": low,
                "Completeness_High": high,
            }
        )

    def apply(self, catalog):
        """The catalogue with the columns ``ASSOC*`` of the matches.

        Parameters
        ----------
        catalog : QTable
            The one that was matched.

        Returns
        -------
        QTable
            A copy with the match columns, masked where there is no match. Inside an extended source
            only its name, catalogue and distance are given.

        Raises
        ------
        ValueError
            If the catalogue has another number of rows than the one that was matched.
        """
        self._check_rows(catalog, self.n_catalog, "catalog")
        rows = np.concatenate([self.catalog_index, self.catalog_inside])
        partner = np.concatenate([self.reference_index, self.reference_inside])
        names = np.full(self.n_catalog, "", self.reference_names.dtype)
        names[rows] = self.reference_names[partner]
        origin = np.full(self.n_catalog, "", f"U{max(len(self.reference_name), 1)}")
        origin[rows] = self.reference_name
        separation, norm, probability = np.full((3, self.n_catalog), np.nan)
        separation[rows] = np.concatenate([self.separation_deg, self.inside_separation_deg])
        norm[self.catalog_index] = self.separation_norm
        probability[self.catalog_index] = self.probability
        values = (names, separation, norm, probability, origin)
        return _with_matches(catalog, values)

    def candidate_table(self, catalog):
        """All candidates of all detections, the most probable first.

        Parameters
        ----------
        catalog : QTable
            The one that was matched.

        Returns
        -------
        QTable
            One row a pair: ``Source_Name``, ``RAJ2000``, ``DEJ2000`` of the detection, the match
            columns, ``Matched`` (1 for those that were chosen) and ``Extended`` (1 for extended
            reference sources).

        Raises
        ------
        ValueError
            If the catalogue has another number of rows than the one that was matched.
        """
        self._check_rows(catalog, self.n_catalog, "catalog")
        pairs = self.candidates
        order = np.lexsort(
            (pairs.separation_deg, -np.nan_to_num(self.candidate_probability), pairs.catalog_index)
        )
        rows, partner = pairs.catalog_index[order], pairs.reference_index[order]
        chosen = np.full(self.n_catalog, -1)
        chosen[self.catalog_index], chosen[self.catalog_inside] = (
            self.reference_index, self.reference_inside,
        )  # fmt: skip
        is_extended = np.isin(partner, self.extended)
        table = as_reference(catalog)[["Source_Name", "RAJ2000", "DEJ2000"]][rows]
        table.meta = {}
        origin = np.full(len(rows), self.reference_name)
        values = (
            self.reference_names[partner], pairs.separation_deg[order],
            pairs.separation_norm[order], self.candidate_probability[order], origin,
        )  # fmt: skip
        table = _with_matches(table, values)
        table["Matched"] = (chosen[rows] == partner).astype("i2")
        table["Extended"] = is_extended.astype("i2")
        return table

    def not_known(self, catalog):
        """The detections that match nothing; ``catalog`` is the QTable that was matched."""
        self._check_rows(catalog, self.n_catalog, "catalog")
        return catalog[self.catalog_unmatched]

    def not_found(self, reference):
        """The point-like reference sources that were not found.

        Parameters
        ----------
        reference : QTable
            The one that was matched.

        Returns
        -------
        QTable
            Names, positions, 95 % error ellipses where known, and fluxes where known.

        Raises
        ------
        ValueError
            If the reference has another number of rows than the one that was matched.
        """
        import astropy.units as u
        from astropy.utils.masked import Masked

        self._check_rows(reference, self.n_reference, "reference")
        rows = self.reference_unmatched
        table = as_reference(reference)[rows]
        galactic = table["skycoord"].galactic
        result = table[["Source_Name", "RAJ2000", "DEJ2000"]]
        result.meta = {"REFNAME": self.reference_name}
        result["GLON"], result["GLAT"] = galactic.l.to(u.deg), galactic.b.to(u.deg)
        for name, values in zip(("SemiMajor", "SemiMinor", "PosAng"), confidence_ellipses(table).T):
            result[f"Conf_95_{name}"] = Masked(values * u.deg, mask=~np.isfinite(values))
        if flux_column(table):
            result[flux_column(table)] = table[flux_column(table)]
        return result

    @staticmethod
    def _check_rows(table, n_rows, name):
        if len(table) != n_rows:
            raise ValueError(
                f"{name} must have the {n_rows} rows that were matched; "
                f"got {len(table)}; match it again"
            )


def _with_matches(table, values):
    """A copy of the table with the match columns, whose values come in their order."""
    return with_match_columns(table, dict(zip((spec.name for spec in MATCH_COLUMNS), values)))


def _share(part, whole):
    percent = f" ({100 * part / whole:.0f} %)" if whole else ""
    return f"{part} of {whole}{percent}"


def _percent(share):
    return f"{100 * share:.2g} %"
