"""Comparisons: measured values with true ones, and two catalogues with each other."""

from typing import NamedTuple

import numpy as np
from astropy.stats import binom_conf_interval
from astropy.table import QTable
from astropy.units import Quantity

from astro_unetloc.catalog.table import degrees, glon_glat_vectors, numbers_of
from astro_unetloc.evaluation.truth import SKIES, Evaluation
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.spectra import KINDS, Spectra, fitted_index
from astro_unetloc.sphere import tangent_axes, tangent_offsets

FLUX_UNIT = "ph cm-2 s-1"
# Bin edges of expected photons: narrow where the measurement changes fast, then half decades.
PHOTON_EDGES = (0, 3, 5, 8, 12, 20, 40, 100, *(s * 10**d for d in range(2, 9) for s in (3, 10)))
_N_ERROR_BINS = 15  # bins of equal numbers of the expected calibration error
_SPECTRUM = {
    "Flux_Density": "ph cm-2 s-1 GeV-1", "Pivot_Energy": "GeV", "Index": None, "beta": None,
    "Expfactor": None, "Exp_Index": None,
}  # fmt: skip


def score_table(title, about, columns, *, units=None, meta=None):
    """QTable with a title and a text about it."""
    table = QTable(meta={"title": title, "about": about} | (meta or {}))
    for name, values in columns.items():
        unit = (units or {}).get(name)
        table[name] = Quantity(values, unit, dtype=float) if unit else np.asarray(values)
    return table


def fraction_columns(name, k, n):
    """Columns ``<name>``, ``<name>_Low`` and ``<name>_High``: k of n and the 68 % interval."""
    k, n = np.asarray(k, float), np.asarray(n, float)
    known = n > 0
    values = np.full((3, len(n)), np.nan)
    values[0, known] = k[known] / n[known]
    if known.any():
        values[1:, known] = binom_conf_interval(k[known], n[known], interval="wilson")
    return dict(zip((name, f"{name}_Low", f"{name}_High"), values))


def edges_around(values, edges):
    """The ascending edges of the bins from the smallest to the largest value within them."""
    edges = np.asarray(edges, float)
    values = values[(values >= edges[0]) & (values < edges[-1])]  # NaN are left out too
    if not len(values):
        return edges[:1]
    first, last = np.searchsorted(edges, [values.min(), values.max()], side="right")
    return edges[first - 1 : last + 1]


def calibration_error(probability, is_true):
    """Expected calibration error of probabilities (n,), in bins of equal numbers; NaN of none."""
    if not len(is_true):
        return np.nan
    rank = np.searchsorted(np.sort(probability), probability)  # equal ones share a bin
    excess = np.bincount(rank * _N_ERROR_BINS // len(rank), weights=is_true - probability)
    return float(np.abs(excess).sum() / len(rank))


def measurement_errors(matches):
    """Errors of position, flux and index of the true positives, by region and expected photons."""
    rows = np.flatnonzero(matches.is_true_positive)
    true_rows = matches.true_row[rows]
    units = {"Flux": FLUX_UNIT, "Unc_Flux": FLUX_UNIT}
    units |= {"Spectral_Index": None, "Unc_Spectral_Index": None}
    flux, flux_err, index, index_err = (
        numbers_of(matches.catalog, name, unit)[rows] for name, unit in units.items()
    )
    expected_flux = true_flux(matches)[true_rows]
    difference = index - true_index(matches, true_rows)
    in_68, in_95 = (normalized_offset(matches, rows, true_rows, level) for level in (68, 95))
    flux_pull, index_pull = _over(flux - expected_flux, flux_err), _over(difference, index_err)
    values = {
        "offset": degrees(matches.catalog["Offset"])[rows],
        "in_68": in_68 + 0 * in_95, "in_95": in_95 + 0 * in_68,  # both ellipses or none
        "flux": _over(flux, expected_flux) + 0 * flux_pull, "flux_pull": flux_pull,
        "index": difference + 0 * index_pull, "index_pull": index_pull,
    }  # fmt: skip
    return score_table(
        "Measurement errors",
        "True positives by the expected photons of their true sources: separation from the true "
        "position and fraction of the 68 and 95 % error ellipses that contain it; measured over "
        "true flux, measured minus true photon index, and pulls of both: difference over error, "
        "of width 1 where the errors are correct. The true index of a curved spectrum is that of "
        "the power law that a fit to the detected photons finds.",
        _binned_errors(matches, true_rows, values),
        units={"Median_Offset": "deg"},
    )


def _binned_errors(matches, true_rows, values):
    """Columns of the errors in each region and bin of photons that holds a true positive."""
    n_photons = numbers_of(matches.truth, "Npred")[true_rows]
    edges, bins, inside = edges_around(n_photons, PHOTON_EDGES), [], []
    for sky, limits in SKIES.items():
        in_sky = matches.in_latitudes(limits)[1][true_rows]
        for low, high in zip(edges[:-1], edges[1:]):
            mask = in_sky & (n_photons >= low) & (n_photons < high)
            if mask.any():
                bins.append((sky, low, high))
                inside.append(mask)

    def each(function, name):
        finite = [values[name][mask & np.isfinite(values[name])] for mask in inside]
        return np.array([function(v) if len(v) else np.nan for v in finite], float)

    def number(name):
        return np.array([np.sum(np.isfinite(values[name][mask])) for mask in inside], int)

    sky, low, high = zip(*bins) if bins else ((), (), ())
    columns = {
        "Sky": np.array(sky, str), "Low": np.array(low, float), "High": np.array(high, float),
        "N": number("offset"), "Median_Offset": each(np.median, "offset"),
        "N_Ellipse": number("in_68"),
    }  # fmt: skip
    for level in ("68", "95"):
        n_inside = np.nan_to_num(each(lambda v: np.sum(v <= 1), f"in_{level}"))
        columns |= fraction_columns(f"In_{level}", n_inside, columns["N_Ellipse"])
    for kind, column in (("Flux", "Flux_Ratio"), ("Index", "Index_Difference")):
        name, pull = kind.lower(), f"{kind.lower()}_pull"
        columns |= {f"N_{kind}": number(pull), column: each(np.median, name)}
        columns[f"{kind}_Pull_Width"] = each(lambda v: np.ptp(np.percentile(v, [16, 84])) / 2, pull)
        columns[f"{kind}_Pull_Median"] = each(np.median, pull)
    return columns


def _over(values, by):
    """Quotients; NaN where the divisor is not positive."""
    return values / np.where(by > 0, by, np.nan)


def true_flux(matches):
    """True fluxes (n_true,) in ph cm-2 s-1, in the energy range of the fluxes of the catalogue.

    The ranges are FLUXEMIN and FLUXEMAX (GeV) of the ``meta`` of both tables. Fluxes of another
    range are integrated from the spectrum; NaN where that is unknown.
    """
    tables = matches.catalog, matches.truth
    wanted, given = (energies_of(table, "FLUXEMIN", "FLUXEMAX") for table in tables)
    if None in (wanted, given) or np.allclose(wanted, given):
        return numbers_of(matches.truth, "Flux", FLUX_UNIT)
    return true_spectra(matches.truth).flux(*wanted)


def true_index(matches, rows):
    """Photon indices (k,) that a power-law fit to the photons of some true sources finds.

    The fit is from FITEMIN to FITEMAX (GeV) of the ``meta`` of the catalogue, else from EMIN to
    EMAX; the index is ``Spectral_Index`` of the truth where energies or spectrum are unknown.
    """
    truth, meta = matches.truth[rows], matches.catalog
    energies = energies_of(meta, "FITEMIN", "FITEMAX") or energies_of(meta, "EMIN", "EMAX")
    given = numbers_of(truth, "Spectral_Index")
    if energies is None:
        return given
    index = fitted_index(true_spectra(truth), *energies, weight=SurveyExposure().relative)
    return np.where(np.isfinite(index), index, given)


def energies_of(table, *keys):
    """Two ascending energies in GeV of the ``meta`` of a table, None without."""
    found = tuple(table.meta.get(key) for key in keys)
    if None in found:
        return None
    try:
        low, high = map(float, found)
    except (TypeError, ValueError):
        low = high = np.nan
    if not 0 < low < high < np.inf:
        raise InputError(
            f"{' and '.join(keys)} must be ascending energies in GeV; got {found[0]} and "
            f"{found[1]}; correct or remove these keywords"
        )
    return low, high


def true_spectra(truth):
    """Spectra of true sources; NaN where they are unknown."""
    kind = np.full(len(truth), KINDS.index("PowerLaw"), np.int8)  # one formula for all kinds
    return Spectra(kind, *(numbers_of(truth, name, unit) for name, unit in _SPECTRUM.items()))


def normalized_offset(matches, rows, true_rows, level):
    """Offsets (k,) of true positions in units of the error ellipse of a level, 68 or 95 %."""
    names = (f"Conf_{level}_{name}" for name in ("SemiMajor", "SemiMinor", "PosAng"))
    axes = (numbers_of(matches.catalog, name, "deg")[rows] for name in names)
    center = glon_glat_vectors(matches.catalog)[rows]
    true = glon_glat_vectors(matches.truth)[true_rows]
    return offset_over_ellipse(*tangent_offsets(center, *tangent_axes(center), true), *axes)


def offset_over_ellipse(x, y, major, minor, angle_deg):
    """Offsets (n,) east and north over ellipses with a position angle: 1 on them, NaN without."""
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.hypot(_over(x * sin + y * cos, major), _over(x * cos - y * sin, minor))


# Two catalogues


_STATISTICS = {
    "average precision": lambda whole, listed: whole.average_precision,
    "completeness at 95 % purity": lambda whole, listed: whole.completeness_at(0.95)[0],
    "completeness": lambda whole, listed: listed.completeness,
    "purity": lambda whole, listed: listed.purity,
    "median offset": lambda whole, listed: listed.median_offset_deg,
}


class _Tiles(NamedTuple):
    """Detections in descending score with their tile numbers, and true sources of each tile."""

    score: np.ndarray
    correct: np.ndarray
    offset_deg: np.ndarray
    tile: np.ndarray
    n_true: np.ndarray

    def statistics(self, weight, threshold):
        """``_STATISTICS`` if each tile is drawn ``weight`` (n_tiles,) times."""
        scores, n_true = [], int(self.n_true @ weight)
        for lowest in (-np.inf, threshold):
            n_listed = np.searchsorted(-self.score, -lowest, side="right")
            rows = np.repeat(np.arange(n_listed), weight[self.tile[:n_listed]])
            correct, offset_deg = self.correct[rows], self.offset_deg[rows]
            scores.append(Evaluation(n_true, self.score[rows], correct, 0, offset_deg[correct]))
        return [function(*scores) for function in _STATISTICS.values()]


def compare(first, second, *, thresholds=(-np.inf, -np.inf), level=0.95, n_samples=1000, rng=0):
    """Differences of the scores of two catalogues of one sky, with bootstrap intervals.

    The tiles of the sky are drawn again with replacement, the same ones for both (Efron &
    Tibshirani 1993, An Introduction to the Bootstrap, section 13.3). Samples in which a score is
    unknown are left out.

    Parameters
    ----------
    first, second : TruthMatch
        Matches with one truth in the same tiles, see `astro_unetloc.evaluation.truth.grid_tiles`.
    thresholds : pair of float
        Smallest ``Score`` in each of the lists whose completeness, purity and median offset are
        compared; average precision and completeness at 95 % purity are those of all detections.
    level : float
        Fraction of the differences inside the interval.
    n_samples : int
        Number of draws.
    rng : int or numpy.random.Generator
        Seed or source of randomness.

    Returns
    -------
    QTable
        One row for each score and part of the sky: ``First``, ``Second``, their ``Difference``
        (first minus second), the interval ``Low`` to ``High`` and whether it excludes zero.
    """
    names, rows = _common_tiles(first, second), []
    drawn = np.random.default_rng(rng).integers(0, len(names), (n_samples, len(names)))
    weights = [np.bincount(tiles, minlength=len(names)) for tiles in (range(len(names)), *drawn)]
    for sky, limits in SKIES.items():
        pairs = [(_tiles_in(m, names, limits), t) for m, t in zip((first, second), thresholds)]
        scores = np.array([[tiles.statistics(w, t) for tiles, t in pairs] for w in weights])
        differences = scores[:, 0] - scores[:, 1]
        for name, values, (value, *samples) in zip(_STATISTICS, scores[0].T, differences.T):
            samples = np.array(samples)[np.isfinite(samples)]
            low = high = np.nan
            if np.isfinite(value) and len(samples):
                low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
            rows.append((sky, name, *values, value, low, high, bool(low > 0 or high < 0)))
    columns = ("Sky", "Statistic", "First", "Second", "Difference", "Low", "High", "Significant")
    return score_table(
        "Comparison",
        "Scores of two catalogues of the same sky, their difference (first minus second) and its "
        f"{level:.0%} interval, from {n_samples} paired bootstraps over {len(names)} tiles. Of two "
        f"equal catalogues about {1 - level:.0%} of the rows are significant by chance.",
        dict(zip(columns, zip(*rows))),
        meta={"level": level, "n_samples": n_samples, "n_tiles": len(names)},
    )


def _tiles_in(matches, names, limits):
    """`_Tiles` of a range of latitude, numbered as in the sorted ``names``."""
    inside, true_inside = matches.in_latitudes(limits)
    rows, *values = matches.ranked(inside)
    tile = np.searchsorted(names, np.asarray(matches.catalog["Tile"], str)[rows])
    n_true = _true_numbers(matches, names, matches.is_class("counted") & true_inside)
    return _Tiles(*values, tile, n_true)


def _true_numbers(matches, names, rows):
    """Numbers of some true sources in each of the tiles."""
    tile = np.searchsorted(names, np.asarray(matches.truth["Tile"], str)[rows])
    return np.bincount(tile, minlength=len(names))


def _common_tiles(first, second):
    """Sorted names of the tiles of both, which must have the same true sources."""
    tables = first.truth, first.catalog, second.truth, second.catalog
    names = np.unique(np.concatenate([np.asarray(table["Tile"], str) for table in tables]))
    number = [_true_numbers(m, names, m.is_class("counted")) for m in (first, second)]
    if len(names) < 2 or np.any(number[0] != number[1]):
        raise InputError(
            f"expected the same true sources in two tiles or more; got {number[0].sum()} and "
            f"{number[1].sum()} sources in {len(names)} tiles; match both catalogues with one truth"
        )
    return names


def comparison_lines(table):
    """Lines, one for each region of the sky, with the significant differences of a comparison."""
    lines = []
    for sky in SKIES:
        rows = table[(np.asarray(table["Sky"]) == sky) & np.isfinite(table["Low"])]
        different = ", ".join(
            f"{row['Statistic']} {row['First']:.4g} and {row['Second']:.4g} "
            f"({row['Low']:+.2g} to {row['High']:+.2g})"
            for row in rows[rows["Significant"]]
        )
        alike = ", ".join(rows["Statistic"][~rows["Significant"]])
        parts = [f"significant difference of {different}"] if different else []
        parts += [f"no significant difference of {alike}"] if alike else []
        if parts:
            lines.append(f"{sky}: {'; '.join(parts)}")
    return lines
