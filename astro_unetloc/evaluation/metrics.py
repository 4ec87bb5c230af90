"""Shares: k of n with an interval, in bins; and the small tables that hold them.

Completeness: how the share of sources that are found grows with their flux.

Scores: a catalogue against the truth, by the definition of `astro_unetloc.evaluation.truth`.

Residuals: how far measured positions, fluxes and indices of right detections lie from the truth.

Each is a table with a row for each part of the sky and bin of expected photons of the true sources
that holds any.

Binned scores: completeness, purity and class by what true sources and detections are like.

Each takes a judgement of the detections that are listed. A column ``X`` with ``X_Low`` and
``X_High`` is a share with its 68 % interval (Wilson 1927). Detections that are ignored count
nowhere; bins that hold nothing are left out.

Score tables: how good a catalogue is, one table for each question.

Each takes a judgement of the detections that are listed, or of all candidates where it says so, and
gives a table whose ``meta`` has a ``title`` and says what it is ``about``. A column ``X`` with
``X_Low`` and ``X_High`` is a share with its 68 % interval (Wilson 1927). Detections that are
ignored count nowhere.

Comparison: whether one catalogue of a sky is better than another, or only luckier.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.table import degrees, glon_glat_vectors, numbers, numbers_of, texts_of
from astro_unetloc.evaluation.truth import SKIES, Evaluation, judge
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.spectra import KINDS, Spectra, fitted_index
from astro_unetloc.sphere import SKY_DEG2, tangent_axes, tangent_offsets

__all__ = [
    "CompletenessCurve",
    "FLUX_UNIT",
    "PHOTON_EDGES",
    "all_tables",
    "by_class",
    "by_flux",
    "by_latitude",
    "by_photons",
    "by_sqrt_ts",
    "by_threshold",
    "combine",
    "compare",
    "compare_words",
    "edges_around",
    "evaluate",
    "false_alarms",
    "fit_completeness",
    "flux_errors",
    "flux_limits",
    "found_scores",
    "index_errors",
    "misses",
    "normalized_offset",
    "numbers_per_part",
    "offset_over_ellipse",
    "paired_interval",
    "position_errors",
    "real_by_score",
    "reliability",
    "score_table",
    "share_columns",
    "summary_table",
    "true_flux",
    "true_index",
    "wilson_interval",
]


def wilson_interval(k, n, *, n_sigma=1.0):
    r"""Interval of the share that k of n estimate.

    .. math:: \frac{1}{n + z^2} \left(k + \frac{z^2}{2} \pm
              z \sqrt{\frac{k (n - k)}{n} + \frac{z^2}{4}}\right)

    (Wilson 1927, J. Am. Stat. Assoc. 22, 209, doi:10.1080/01621459.1927.10502953).

    Parameters
    ----------
    k, n : array_like of int
        Successes and trials, broadcast against each other.
    n_sigma : float
        z; 1 for 68 %.

    Returns
    -------
    low, high : ndarray
        NaN where n is 0.

    Examples
    --------
    >>> from astro_unetloc.evaluation.metrics import wilson_interval
    >>> [round(float(end), 3) for end in wilson_interval(9, 10)]
    [0.766, 0.961]
    """
    k, n = (np.asarray(x, float) for x in (k, n))
    n = np.where(n > 0, n, np.nan)
    square = n_sigma**2
    half = n_sigma * np.sqrt(k * (n - k) / n + square / 4)
    return (k + square / 2 - half) / (n + square), (k + square / 2 + half) / (n + square)


def share_columns(name, k, n):
    """Columns ``<name>``, ``<name>_Low`` and ``<name>_High``: the share and its 68 % interval.

    Parameters
    ----------
    name : str
        What the share is called.
    k, n : array_like (m,) of int
        Successes and trials.

    Returns
    -------
    dict of str to ndarray (m,)
        NaN where n is 0.
    """
    k, n = np.asarray(k, float), np.asarray(n, float)
    low, high = wilson_interval(k, n)
    share = k / np.where(n > 0, n, np.nan)
    return {name: share, f"{name}_Low": low, f"{name}_High": high}


def edges_around(values, ladder):
    """The steps of a ladder that hold all values.

    Parameters
    ----------
    values : ndarray (n,)
        What is not finite, below the ladder or at its top or above is left out.
    ladder : array_like (m,)
        Ascending edges.

    Returns
    -------
    ndarray
        From the last edge below the smallest value to the first above the largest; a single edge,
        of no bin, without values.
    """
    ladder = np.asarray(ladder, float)
    values = values[np.isfinite(values)]
    values = values[(values >= ladder[0]) & (values < ladder[-1])]
    if not len(values):
        return ladder[:1]
    first, last = np.searchsorted(ladder, [values.min(), values.max()], side="right")
    return ladder[first - 1 : last + 1]


def score_table(title, about, columns, *, units=None, meta=None):
    """A table that says what it holds.

    Parameters
    ----------
    title, about : str
        A heading, and one or two sentences; ``title`` and ``about`` of its ``meta``.
    columns : dict of str to array_like (n,)
        The columns.
    units : dict of str to str, optional
        Units of columns.
    meta : dict, optional
        More of ``meta``.

    Returns
    -------
    QTable
    """
    from astropy.table import QTable
    from astropy.units import Quantity

    table = QTable(meta={"title": title, "about": about} | (meta or {}))
    for name, values in columns.items():
        unit = (units or {}).get(name)
        table[name] = Quantity(values, unit, dtype=float) if unit else np.asarray(values)
    return table


# Fewer sources found or missed than this do not make a curve.
_MIN_SOURCES = 5


@dataclass(frozen=True)
class CompletenessCurve:
    r"""A logistic curve in the logarithm of the flux, with a plateau.

    .. math:: C(S) = \frac{p}{1 + (S / S_0)^{-k}}

    Attributes
    ----------
    plateau : float
        Completeness p of the brightest sources.
    half_flux : float
        Flux S0 at which half of the plateau is reached.
    steepness : float
        Exponent k.
    """

    plateau: float
    half_flux: float
    steepness: float

    def __call__(self, flux):
        """Completeness at fluxes (n,)."""
        return self.plateau / (1 + (np.asarray(flux) / self.half_flux) ** -self.steepness)

    def flux_at(self, completeness):
        """Flux at which a completeness is reached; infinite if it lies above the plateau."""
        if completeness >= self.plateau:
            return np.inf
        return self.half_flux * (self.plateau / completeness - 1) ** (-1 / self.steepness)


def fit_completeness(flux, found):
    """The curve of highest likelihood.

    Each source is found with the probability of the curve at its flux, independently of others.

    Parameters
    ----------
    flux : array-like (n,)
        True fluxes, in any unit.
    found : array-like (n,) of bool
        Whether each source was found.

    Returns
    -------
    CompletenessCurve

    Raises
    ------
    ValueError
        If the fluxes are not positive, or there are not five found and five missed sources.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_unetloc.evaluation.metrics import CompletenessCurve, fit_completeness
    >>> rng = np.random.default_rng(0)
    >>> flux = 10 ** rng.uniform(-2, 2, 20_000)
    >>> curve = fit_completeness(flux, rng.random(20_000) < CompletenessCurve(0.9, 1.0, 3.0)(flux))
    >>> bool(abs(curve.flux_at(0.45) - 1) < 0.05)
    True
    """
    from scipy.optimize import minimize
    from scipy.special import expit, logit

    flux, found = np.asarray(flux, dtype=float), np.asarray(found, dtype=bool)
    if np.any(flux <= 0) or not np.all(np.isfinite(flux)):
        raise InputError("fluxes must be positive numbers; got others; leave such sources out")
    if min(found.sum(), (~found).sum()) < _MIN_SOURCES:
        raise InputError(
            f"expected {_MIN_SOURCES} found and {_MIN_SOURCES} missed sources or more; got "
            f"{found.sum()} and {(~found).sum()}; take more sources"
        )
    log_flux = np.log(flux)
    middle = log_flux[found].min() * 0.5 + np.median(log_flux[found]) * 0.5
    start = np.array([logit(0.95), middle, np.log(3.0)])

    def cost(values):
        share = expit(values[0]) * expit(np.exp(values[2]) * (log_flux - values[1]))
        share = np.clip(share, 1e-12, 1 - 1e-12)
        return -np.sum(np.log(np.where(found, share, 1 - share)))

    # the plateau is 1 in the limit: keep it finite
    limits = [(-10.0, 10.0), (log_flux.min() - 1, log_flux.max() + 1), (-3.0, 4.0)]
    best = minimize(cost, start, method="Nelder-Mead", bounds=limits, options={"maxiter": 2000}).x
    return CompletenessCurve(float(expit(best[0])), float(np.exp(best[1])), float(np.exp(best[2])))


def evaluate(
    catalog,
    truth,
    *,
    radius_deg=MATCH_RADIUS_DEG,
    min_latitude=0.0,
    max_latitude=np.inf,
    region=None,
):
    """Score a catalogue against the truth of a simulated sky.

    Parameters
    ----------
    catalog : QTable
        From `astro_unetloc.find_sources`, with ``GLON``, ``GLAT`` and ``Score``.
    truth : QTable
        From `astro_unetloc.simulate_sky`, with ``GLON``, ``GLAT``, ``Npred`` and ``Radius``.
    radius_deg : float
        Largest distance of a match.
    min_latitude, max_latitude : float
        Only true sources and detections with an absolute Galactic latitude in this range, the
        upper end excluded, count; a match lies where its true source lies.
    region : callable, optional
        Takes Galactic unit vectors (n, 3), returns which of them count, by the same rule; all do
        by default. Tables that reach 0.3 deg over its border keep its matches whole.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If a table lacks a column, or a detection its ``Score``.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc import evaluate
    >>> truth = QTable({"GLON": [0.0, 5.0], "GLAT": [0.0, 0.0], "Npred": [9, 20], "Radius": [0, 0]})
    >>> catalog = QTable({"GLON": [0.1, 40.0], "GLAT": [0.0, 1.0], "Score": [0.9, 0.8]})
    >>> scores = evaluate(catalog, truth)
    >>> float(scores.completeness), float(scores.purity)
    (0.5, 0.5)
    """
    judged = judge(catalog, truth, radius_deg=radius_deg)
    return judged.evaluation(min_latitude=min_latitude, max_latitude=max_latitude, region=region)


def found_scores(catalog, truth, *, radius_deg=MATCH_RADIUS_DEG, brightest=False):
    """``Score`` of the detection of each true source, by the matching of `evaluate`.

    Parameters
    ----------
    catalog, truth : QTable
        See `evaluate`.
    radius_deg : float
        Largest distance of a match.
    brightest : bool
        Whether a detection is matched to the source of most expected photons within the radius
        instead of the nearest one. Above 0.5 GeV one direction in five has a true source of three
        photons that near, which would take the detection of a brighter one beside it.

    Returns
    -------
    ndarray (n_true,)
        One for each row of ``truth``; NaN where the source was missed, has fewer than three
        expected photons or is extended.

    Raises
    ------
    ValueError
        If a table lacks a column, or a detection its ``Score``.
    """
    judged = judge(catalog, truth, radius_deg=radius_deg, brightest=brightest)
    row = np.asarray(judged.truth["Found_Row"])
    found = np.full(len(truth), np.nan)
    found[row >= 0] = numbers(judged.catalog["Score"])[row[row >= 0]]
    return found


def combine(evaluations):
    """One `Evaluation` of several catalogues on different skies.

    Parameters
    ----------
    evaluations : sequence of Evaluation
        At least one.

    Returns
    -------
    Evaluation
    """
    score = np.concatenate([e.score for e in evaluations])
    order = np.argsort(-score, kind="stable")
    return Evaluation(
        n_true=sum(e.n_true for e in evaluations),
        score=score[order],
        correct=np.concatenate([e.correct for e in evaluations])[order],
        n_ignored=sum(e.n_ignored for e in evaluations),
        offset_deg=np.concatenate([e.offset_deg for e in evaluations]),
    )


def paired_interval(first, second, statistic, *, level=0.95, n_samples=1000, rng=0):
    """Difference of a score between two finders on the same parts of the sky, and its interval.

    The percentile bootstrap (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section
    13.3): the parts are drawn again with replacement, the same ones for both finders.

    Parameters
    ----------
    first, second : sequence of Evaluation
        One for each part, in the same order.
    statistic : callable
        Takes the `Evaluation` of many parts together, returns a number.
    level : float
        Probability inside the interval.
    n_samples : int
        How often the parts are drawn.
    rng : int or numpy.random.Generator
        Source of randomness.

    Returns
    -------
    difference : float
        Of all parts together, first minus second.
    low, high : float
        Ends of the interval.

    Raises
    ------
    ValueError
        If the parts are not those of the same sky, or hold no true source.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_unetloc.evaluation.truth import Evaluation
    >>> from astro_unetloc.evaluation.metrics import paired_interval
    >>> found = Evaluation(1, np.array([0.9]), np.array([True]), 0, np.array([0.01]))
    >>> missed = Evaluation(1, np.zeros(0), np.zeros(0, bool), 0, np.zeros(0))
    >>> paired_interval([found, found], [found, missed], lambda e: float(e.completeness))
    (0.5, 0.0, 1.0)
    """
    numbers = [[e.n_true for e in parts] for parts in (first, second)]
    if numbers[0] != numbers[1] or not any(numbers[0]):
        raise InputError(
            "expected evaluations of the same parts of a sky with true sources; got "
            f"{len(first)} and {len(second)} parts with {sum(numbers[0])} and {sum(numbers[1])} "
            "of them; score both finders on one truth"
        )
    rng = np.random.default_rng(rng)
    drawn = rng.integers(0, len(first), (n_samples, len(first)))
    # a sample without any true source has no score
    samples = [
        statistic(combine([first[i] for i in rows])) - statistic(combine([second[i] for i in rows]))
        for rows in drawn
        if any(first[i].n_true for i in rows)
    ]
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(statistic(combine(first)) - statistic(combine(second))), float(low), float(high)


# Expected photons: few where the measurement changes fast, then half decades.
PHOTON_EDGES = (0, 3, 5, 8, 12, 20, 40, 100, *(s * 10**d for d in range(2, 9) for s in (3, 10)))


FLUX_UNIT = "ph cm-2 s-1"


_SPECTRUM = ("Flux_Density", "Pivot_Energy", "Index", "beta", "Expfactor", "Exp_Index")


_SPECTRUM_UNITS = ("ph cm-2 s-1 GeV-1", "GeV", None, None, None, None)


def position_errors(judgement):
    """Distances of right detections from their true sources, and what their ellipses hold.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``Low`` and ``High`` (true Npred), ``N``, ``Median_Offset`` (deg), ``N_Ellipse``
        (those with an error ellipse) and ``In_68``, ``In_95`` with their intervals: the share of
        these that holds the true position.
    """
    rows, true_rows = _right(judgement)
    offset = degrees(judgement.catalog["Offset"])[rows]
    norm_68, norm_95 = (normalized_offset(judgement, rows, true_rows, level) for level in (68, 95))
    has_ellipse = np.isfinite(norm_68) & np.isfinite(norm_95)

    def columns(inside):
        known = inside & has_ellipse
        return {
            "N": inside.sum(),
            "Median_Offset": _median_of_matches(offset[inside]),
            "N_Ellipse": known.sum(),
            **share_columns("In_68", np.sum(norm_68[known] <= 1), known.sum()),
            **share_columns("In_95", np.sum(norm_95[known] <= 1), known.sum()),
        }

    return _binned(
        judgement,
        true_rows,
        np.ones(len(rows), bool),
        columns,
        title="Position errors",
        about="Distance of right detections from their true sources, by their expected photons, "
        "and the share of the 68 and 95 % error ellipses that hold the true position.",
        units={"Median_Offset": "deg"},
    )


def flux_errors(judgement):
    """Measured fluxes of right detections over the true ones, and their pulls.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``Low`` and ``High`` (true Npred), ``N``, ``Median_Ratio``, ``Pull_Width`` (half
        the range from 16 to 84 % of difference over error) and ``Pull_Median``.
    """
    rows, true_rows = _right(judgement)
    measured, error = (
        numbers_of(judgement.catalog, name, FLUX_UNIT)[rows] for name in ("Flux", "Unc_Flux")
    )
    true = true_flux(judgement)[true_rows]
    ratio, pull = _over(measured, true), _over(measured - true, error)
    return _binned(
        judgement,
        true_rows,
        np.isfinite(ratio) & np.isfinite(pull),
        lambda inside: {
            "N": inside.sum(),
            "Median_Ratio": _median_of_matches(ratio[inside]),
            **_pulls(pull[inside]),
        },
        title="Flux errors",
        about="Measured over true flux of right detections, by the expected photons of their true "
        "sources, and the pulls: difference over error, of width 1 where errors are honest.",
    )


def index_errors(judgement):
    """Measured photon indices of right detections minus the true ones, and their pulls.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``Low`` and ``High`` (true Npred), ``N``, ``Median_Difference``, ``Pull_Width``
        (half the range from 16 to 84 % of difference over error) and ``Pull_Median``.
    """
    rows, true_rows = _right(judgement)
    measured, error = (
        numbers_of(judgement.catalog, name)[rows]
        for name in ("Spectral_Index", "Unc_Spectral_Index")
    )
    difference = measured - true_index(judgement, true_rows)
    pull = _over(difference, error)
    return _binned(
        judgement,
        true_rows,
        np.isfinite(pull),
        lambda inside: {
            "N": inside.sum(),
            "Median_Difference": _median_of_matches(difference[inside]),
            **_pulls(pull[inside]),
        },
        title="Index errors",
        about="Measured minus true photon index of right detections, by the expected photons of "
        "their true sources, and the pulls: difference over error. Of a curved spectrum the true "
        "index is that of the power law that a fit to the detected photons finds.",
    )


def true_flux(judgement):
    """True fluxes in the energy range of the fluxes of the catalogue.

    Parameters
    ----------
    judgement : Judgement
        Its tables say the ranges in GeV as ``FLUXEMIN`` and ``FLUXEMAX`` of their ``meta``; one
        that does not is taken at its word.

    Returns
    -------
    ndarray (n_true,)
        In ph cm-2 s-1, integrated anew from the spectrum where the range of the truth is another
        one; NaN where that cannot be done.
    """
    wanted = _energies(judgement.catalog, "FLUXEMIN", "FLUXEMAX")
    given = _energies(judgement.truth, "FLUXEMIN", "FLUXEMAX")
    if None in (wanted, given) or np.allclose(wanted, given):
        return numbers_of(judgement.truth, "Flux", FLUX_UNIT)
    return _spectra(judgement.truth).flux(*wanted)


def true_index(judgement, rows):
    """Photon indices that a fit of power laws to the detected photons of true sources finds.

    Parameters
    ----------
    judgement : Judgement
        Its catalogue says the energies of the photons that were fitted in GeV as ``FITEMIN`` and
        ``FITEMAX`` of its ``meta``, or without these as ``EMIN`` and ``EMAX``, those of its map.
    rows : ndarray (k,) of int
        The true sources.

    Returns
    -------
    ndarray (k,)
        With the energy dependence of the built-in exposure. Where the energies or the spectra are
        unknown, ``Spectral_Index`` of the truth.
    """
    truth = judgement.truth[rows]
    energies = _energies(judgement.catalog, "FITEMIN", "FITEMAX")
    energies = energies or _energies(judgement.catalog, "EMIN", "EMAX")
    given = numbers_of(truth, "Spectral_Index")
    if energies is None:
        return given
    index = fitted_index(_spectra(truth), *energies, weight=SurveyExposure().relative)
    return np.where(np.isfinite(index), index, given)


def _energies(table, *keys):
    """Two energies in GeV that the ``meta`` of a table holds, None without."""
    found = tuple(table.meta.get(key) for key in keys)
    return None if None in found else tuple(float(energy) for energy in found)


def _spectra(truth):
    """The spectra of true sources; NaN where they are unknown."""
    amplitude, *parameters = (
        numbers_of(truth, name, unit) for name, unit in zip(_SPECTRUM, _SPECTRUM_UNITS)
    )
    kind = np.full(len(truth), KINDS.index("PowerLaw"), np.int8)  # one formula for all
    return Spectra(kind, amplitude, *parameters)


def _right(judgement):
    """Rows of the right detections and of their true sources."""
    rows = np.flatnonzero(judgement.is_right)
    return rows, np.asarray(judgement.catalog["True_Row"], int)[rows]


def _over(values, by):
    """Quotients; NaN where the divisor is not positive."""
    return values / np.where(by > 0, by, np.nan)


def _median_of_matches(values):
    return np.median(values) if len(values) else np.nan


def _pulls(pull):
    low, high = np.percentile(pull, [16, 84]) if len(pull) else (np.nan, np.nan)
    return {"Pull_Width": (high - low) / 2, "Pull_Median": _median_of_matches(pull)}


def normalized_offset(judgement, rows, true_rows, level):
    """Distances of true positions in units of the error ellipse: 1 on it.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.
    rows, true_rows : ndarray (k,) of int
        Detections, and the true source of each.
    level : {68, 95}
        Percentage that the ellipse holds.

    Returns
    -------
    ndarray (k,)
        NaN without an ellipse.
    """
    catalog, truth = judgement.catalog, judgement.truth
    major, minor, angle = (
        numbers_of(catalog, f"Conf_{level}_{name}", "deg")[rows]
        for name in ("SemiMajor", "SemiMinor", "PosAng")
    )
    center, true = glon_glat_vectors(catalog)[rows], glon_glat_vectors(truth)[true_rows]
    east, north = tangent_axes(center)
    x, y = tangent_offsets(center, east, north, true)
    return offset_over_ellipse(x, y, major, minor, angle)


def offset_over_ellipse(x, y, major, minor, angle_deg):
    """Distances (n,) from the centres of ellipses in units of these: 1 on them, NaN without one.

    Parameters
    ----------
    x, y : ndarray (n,)
        Offsets to the east and to the north.
    major, minor : ndarray (n,)
        Semi-axes in the unit of the offsets.
    angle_deg : ndarray (n,)
        Position angle of the major axis, from north to east.
    """
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.hypot(_over(x * sin + y * cos, major), _over(x * cos - y * sin, minor))


def _binned(judgement, true_rows, use, columns, *, title, about, units=None):
    """A row of ``columns(mask)`` for each part of the sky and bin of photons that holds any.

    The masks are of the right detections, in the order of ``true_rows``.
    """
    n_photons = numbers_of(judgement.truth, "Npred")[true_rows]
    latitude = judgement.true_latitude[true_rows]
    edges = edges_around(n_photons[use], PHOTON_EDGES)
    # a row of no source, thrown away at the end, says which columns there are
    nothing = np.zeros(len(n_photons), bool)
    found = [{"Sky": next(iter(SKIES)), "Low": 0.0, "High": 0.0} | columns(nothing)]
    for sky, (least, most) in SKIES.items():
        here = use & (latitude >= least) & (latitude < most)
        for low, high in zip(edges[:-1], edges[1:]):
            inside = here & (n_photons >= low) & (n_photons < high)
            if inside.any():
                found.append({"Sky": sky, "Low": low, "High": high} | columns(inside))
    values = {name: [row[name] for row in found] for name in found[0]}
    return score_table(title, about, values, units=units)[1:]


# Quarter decades in ph cm-2 s-1.
FLUX_EDGES = 10.0 ** (np.arange(-80, 1) / 4)


SQRT_TS_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 3000, 10_000)


# The pole belongs to the last bin.
LATITUDE_EDGES = (0, 2, 5, 10, 20, 30, 45, 60, np.nextafter(90, 91))


def by_photons(judgement):
    """Completeness by true and purity by measured photons.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Low``, ``High``, ``N_True``, ``N_Found``, ``Completeness``, ``N_Listed``, ``N_Right`` and
        ``Purity``. Point-like true sources count from 3 photons on.
    """
    photons = numbers_of(judgement.truth, "Npred"), numbers_of(judgement.catalog, "Npred")
    return _by(
        judgement,
        PHOTON_EDGES,
        photons,
        ("counted", "faint"),
        title="By photons",
        about="Completeness in bins of the expected photons of the true sources, from 3 on, though "
        "only those of 8 or more count in the summary; purity in bins of the measured photons.",
    )


def by_flux(judgement):
    """Completeness by true and purity by measured flux.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        As `by_photons`, with edges in ph cm-2 s-1.
    """
    flux = true_flux(judgement), numbers_of(judgement.catalog, "Flux", FLUX_UNIT)
    return _by(
        judgement,
        FLUX_EDGES,
        flux,
        ("counted", "faint"),
        unit=FLUX_UNIT,
        title="By flux",
        about="Completeness in bins of the flux of the true sources, of which a bin lacks only "
        "those of fewer than 3 expected photons, though the summary lacks those of fewer than 8; "
        "purity in bins of the measured flux.",
    )


def by_sqrt_ts(judgement):
    """Purity by the square root of the test statistic.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Low``, ``High``, ``N_Listed``, ``N_Right`` and ``Purity``.
    """
    values = np.full(len(judgement.truth), np.nan), numbers_of(judgement.catalog, "Sqrt_TS")
    table = _by(
        judgement,
        SQRT_TS_EDGES,
        values,
        (),
        title="By sqrt(TS)",
        about="Purity in bins of the square root of the likelihood test statistic.",
    )
    return table[["Low", "High", "N_Listed", "N_Right", "Purity", "Purity_Low", "Purity_High"]]


def by_latitude(judgement):
    """Completeness and purity by Galactic latitude.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        As `by_photons`, with edges of the absolute latitude in degrees. A detection that matches
        lies where its true source lies.
    """
    return _by(
        judgement,
        LATITUDE_EDGES,
        (judgement.true_latitude, judgement.latitude),
        ("counted",),
        unit="deg",
        title="By latitude",
        about="Completeness and purity in bins of the absolute Galactic latitude.",
    )


def by_class(judgement):
    """Completeness by true class, and how often the class of the catalogue is right.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Class``, ``N_True``, ``N_Found``, ``Completeness``; ``N_Classified``, found ones that the
        catalogue gives a class, ``N_Class_Right`` and their share ``Class_Right``.
    """
    truth, counted, found = judgement.truth, judgement.has_role("counted"), judgement.is_found
    true_class = texts_of(truth, "Class")
    given = np.full(len(truth), "", object)
    row = np.asarray(truth["Found_Row"], int)
    given[row >= 0] = texts_of(judgement.catalog, "Class")[row[row >= 0]]
    names = np.unique(true_class[counted & (true_class != "")])
    of_class = [counted & (true_class == name) for name in names]
    n_true, n_found, n_given, n_same = (
        np.array([np.sum(rows & mask) for rows in of_class], int)
        for mask in (counted, found, found & (given != ""), found & (given == true_class))
    )
    return score_table(
        "By class",
        "Completeness by the class of the true sources, and the share of found ones whose class "
        "is right in the catalogue, of those that have one.",
        {
            "Class": names.astype(str),
            "N_True": n_true,
            "N_Found": n_found,
            **share_columns("Completeness", n_found, n_true),
            "N_Classified": n_given,
            "N_Class_Right": n_same,
            **share_columns("Class_Right", n_same, n_given),
        },
    )


def flux_limits(judgement):
    """Fluxes at which 50 and 90 % of the true sources are found.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``Flux_50``, ``Flux_90`` (ph cm-2 s-1) and ``Plateau`` of the fitted curve (see
        `astro_unetloc.evaluation.metrics.CompletenessCurve`); NaN where it cannot be fitted or lies
        below.
    """
    flux, latitude = true_flux(judgement), judgement.true_latitude
    used, found = judgement.has_role("counted", "faint") & (flux > 0), judgement.is_found
    fitted = []
    for least, most in SKIES.values():
        here = used & (latitude >= least) & (latitude < most)
        try:
            curve = fit_completeness(flux[here], found[here])
        except ValueError:  # too few of either kind
            fitted.append([np.nan] * 3)
            continue
        limits = [curve.flux_at(share) for share in (0.5, 0.9)]
        fitted.append([*(x if np.isfinite(x) else np.nan for x in limits), curve.plateau])
    columns = dict(zip(("Flux_50", "Flux_90", "Plateau"), np.array(fitted).T))
    return score_table(
        "Flux limits",
        "Fluxes at which 50 and 90 % of the true sources are found, by a logistic curve in the "
        "logarithm of the flux with a plateau; true sources count from 3 expected photons on, as "
        "in the bins of flux.",
        {"Sky": list(SKIES), **columns},
        units=dict.fromkeys(("Flux_50", "Flux_90"), FLUX_UNIT),
    )


def _by(judgement, ladder, values, roles, *, title, about, unit=None):
    """Completeness and purity in bins of values (n_true,) and (n,) of both tables."""
    used, listed = judgement.has_role(*roles), judgement.is_listed
    true_values, found_values = values
    edges = edges_around(np.append(true_values[used], found_values[listed]), ladder)
    n_true, n_found, n_listed, n_right = (
        np.histogram(x[rows], edges)[0] if len(edges) > 1 else np.zeros(0, int)
        for x, rows in (
            (true_values, used),
            (true_values, used & judgement.is_found),
            (found_values, listed),
            (found_values, judgement.is_right),
        )
    )
    table = score_table(
        title,
        about,
        {
            "Low": edges[:-1],
            "High": edges[1:],
            "N_True": n_true,
            "N_Found": n_found,
            **share_columns("Completeness", n_found, n_true),
            "N_Listed": n_listed,
            "N_Right": n_right,
            **share_columns("Purity", n_right, n_listed),
        },
        units=dict.fromkeys(("Low", "High"), unit),
    )
    return table[(n_true > 0) | (n_listed > 0)]


PURITY = 0.95


# Rows of each part of the sky in the table of thresholds.
_N_THRESHOLDS = 200


# Bins of the reliability diagram, and the least score in them.
_N_RELIABILITY, _LEAST_SCORE = 15, 0.05


# Ranges of Score in which true sources of any brightness are counted.
_SCORE_RANGES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0)


# Where misses lie: deg, deg, photons.
_BLENDED_DEG, _PLANE_DEG, _FAINT = 0.5, 5.0, 15.0


def summary_table(judgement, *, threshold=None):
    """The main scores, over the sky and its parts.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.
    threshold : float, optional
        Smallest ``Score`` listed; all are by default.

    Returns
    -------
    QTable
        ``Sky``, ``N_True``, ``N_Listed``, ``Completeness``, ``Purity`` and ``F1`` of the listed
        ones; of all ``Average_Precision`` and ``Completeness_At_95``, the completeness at the
        lowest score where the purity is 95 %; ``Median_Offset`` (deg) of the right ones listed.
    """
    listed = judgement if threshold is None else judgement.select(threshold)
    whole, part = ([j.evaluation(**limits) for limits in _limits()] for j in (judgement, listed))
    n_true, n_listed, n_right = np.array(
        [(e.n_true, len(e.correct), e.correct.sum()) for e in part], int
    ).T
    return score_table(
        "Summary",
        "What was found of the true sources with at least 8 expected photons, and how much of what "
        "is listed is right; average precision and completeness at 95 % purity are of all "
        "candidates, the other numbers of those listed.",
        {
            "Sky": list(SKIES),
            "N_True": n_true,
            "N_Listed": n_listed,
            **share_columns("Completeness", n_right, n_true),
            **share_columns("Purity", n_right, n_listed),
            "F1": _f1(n_right, n_true, n_listed),
            "Average_Precision": [e.average_precision for e in whole],
            "Completeness_At_95": [
                e.completeness_at(PURITY)[0] if e.n_true else np.nan for e in whole
            ],
            "Median_Offset": [
                np.median(e.offset_deg) if len(e.offset_deg) else np.nan for e in part
            ],
        },
        units={"Median_Offset": "deg"},
        meta={} if threshold is None else {"threshold": float(threshold)},
    )


def by_threshold(judgement):
    """Completeness, purity and F1 of all candidates listed down to a score.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.

    Returns
    -------
    QTable
        ``Sky``, ``Score``, ``Completeness``, ``Purity`` and ``F1``, at most 200 rows for each part
        of the sky, in descending score.
    """
    parts = {name: [] for name in ("Sky", "Score", "Completeness", "Purity", "F1")}
    for sky, limits in zip(SKIES, _limits()):
        scores = judgement.evaluation(**limits)
        last = np.flatnonzero(np.diff(scores.score, append=-np.inf))  # of equal scores
        if len(last) > _N_THRESHOLDS:
            last = last[np.linspace(0, len(last) - 1, _N_THRESHOLDS).round().astype(int)]
        right, number = np.cumsum(scores.correct)[last], last + 1.0
        parts["Sky"].append(np.full(len(last), sky))
        parts["Score"].append(scores.score[last])
        parts["Completeness"].append(right / (scores.n_true or np.nan))
        parts["Purity"].append(right / number)
        parts["F1"].append(_f1(right, scores.n_true, number))
    return score_table(
        "Scores by threshold",
        "Completeness, purity and F1 of the list that holds every candidate down to a Score.",
        {name: np.concatenate(values) for name, values in parts.items()},
    )


def numbers_per_part(judgement):
    """Numbers of true sources and of listed detections in each part, such as a patch.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Part``, ``N_True`` and ``N_Listed``; ``meta`` has their ``correlation``, the ``bias``
        (mean of listed minus true) and the ``scatter`` (standard deviation of it).
    """
    used = judgement.has_role("counted")
    parts = [np.asarray(table["Part"], str) for table in (judgement.truth, judgement.catalog)]
    names = np.unique(np.concatenate(parts))
    n_true, n_listed = (
        np.bincount(np.searchsorted(names, part[rows]), minlength=len(names))
        for part, rows in zip(parts, (used, judgement.is_listed))
    )
    difference = n_listed - n_true
    varied = len(names) > 1 and np.ptp(n_true) > 0 and np.ptp(n_listed) > 0
    meta = {
        "correlation": float(np.corrcoef(n_true, n_listed)[0, 1]) if varied else np.nan,
        "bias": float(difference.mean()) if len(names) else np.nan,
        "scatter": float(difference.std()) if len(names) else np.nan,
    }
    return score_table(
        "Numbers of sources",
        "True sources with at least 8 expected photons and listed detections in each patch.",
        {"Part": names, "N_True": n_true, "N_Listed": n_listed},
        meta=meta,
    )


def reliability(judgement):
    """Whether of the candidates of a ``Score`` so many are real.

    Those are real that a true source explains, see `astro_unetloc.judgement.Judgement.explained`.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.

    Returns
    -------
    QTable
        15 bins of equal numbers of candidates with ``Score`` of at least 0.05: ``Low``, ``High``,
        ``Mean_Score``, ``N``, ``N_Right`` and ``Share``; ``meta["ece"]`` is the expected
        calibration error of each part of the sky, the mean distance of both over the candidates.
    """
    bins, judgement = {}, judgement.explained()
    for sky, limits in zip(SKIES, _limits()):
        scores = judgement.evaluation(**limits)
        kept = scores.score >= _LEAST_SCORE
        score, right = scores.score[kept][::-1], scores.correct[kept][::-1]
        rows = [r for r in np.array_split(np.arange(len(score)), _N_RELIABILITY) if len(r)]
        columns = {
            "Low": [score[r[0]] for r in rows],
            "High": [score[r[-1]] for r in rows],
            "Mean_Score": [score[r].mean() for r in rows],
            "N": [len(r) for r in rows],
            "N_Right": [right[r].sum() for r in rows],
        }
        bins[sky] = {name: np.array(values, float) for name, values in columns.items()}
        for name in ("N", "N_Right"):
            bins[sky][name] = bins[sky][name].astype(int)
    error = {
        sky: float(np.sum(np.abs(b["N_Right"] - b["N"] * b["Mean_Score"])) / b["N"].sum())
        if len(b["N"])
        else np.nan
        for sky, b in bins.items()
    }
    whole = bins[next(iter(SKIES))]
    return score_table(
        "Reliability",
        "Share of the candidates that are real, in bins of equal numbers by their Score (below 10 "
        "GeV not those with more than three times the counts of their true source); the expected "
        "calibration error is their mean distance.",
        whole | share_columns("Share", whole["N_Right"], whole["N"]),
        meta={"ece": error},
    )


def real_by_score(judgement):
    """Of candidates in ranges of ``Score``, how many are true sources, however faint.

    ``Score`` is calibrated to sources of at least 8 expected photons. Fainter ones are found too,
    where their photons fluctuated upwards, and are real to whoever reads the catalogue.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.

    Returns
    -------
    QTable
        For each part of the sky and range of scores from ``Low`` to below ``High``: ``N``
        candidates outside extended sources, ``N_Counted`` of sources with at least 8 expected
        photons, ``N_Real`` of point sources of any brightness (see
        `astro_unetloc.judgement.Judgement.is_source`) and their ``Share_Real``; ``Real_Above`` is
        the same share of all candidates from ``Low`` on.
    """
    judgement = judgement.explained()
    every = judgement.of_any_brightness()
    numbers, above = [], []
    for limits in _limits():
        counted, real = (j.evaluation(**limits) for j in (judgement, every))
        scores = real.score, counted.score[counted.correct], real.score[real.correct]
        numbers.append([np.histogram(score, _SCORE_RANGES)[0] for score in scores])
        n, n_real = (np.cumsum(numbers[-1][i][::-1])[::-1] for i in (0, 2))
        above.append(n_real / np.where(n > 0, n, np.nan))
    n, n_counted, n_real = np.concatenate(numbers, axis=1)
    return score_table(
        "Real by score",
        "Candidates of a range of Score; those of true sources with at least 8 expected photons, "
        "for which Score is made; those of true point sources of any brightness, and their share, "
        "in the range and of all that a list from its lower end on would hold. Inside extended "
        "sources none are counted.",
        {
            "Sky": np.repeat(list(SKIES), len(_SCORE_RANGES) - 1),
            "Low": np.tile(_SCORE_RANGES[:-1], len(SKIES)),
            "High": np.tile(_SCORE_RANGES[1:], len(SKIES)),
            "N": n,
            "N_Counted": n_counted,
            "N_Real": n_real,
            **share_columns("Share_Real", n_real, n),
            "Real_Above": np.concatenate(above),
        },
    )


def false_alarms(judgement):
    """Wrong detections, and how many there are per area.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``N_Wrong``, ``N_Duplicates`` (those of them within the match radius of a true
        source that another detection took), ``N_Below`` (those within 0.1 deg of a point source of
        0.3 to 3 expected photons), ``Area`` (deg2; of the parts only where whole skies
        were searched) and ``Per_100_Deg2``, wrong ones.
    """
    wrong = np.asarray(judgement.catalog["Verdict"]) == "wrong"
    duplicate = np.asarray(judgement.catalog["Is_Duplicate"])
    below = judgement.is_source & wrong
    latitude = judgement.latitude
    skies = judgement.area_deg2 / SKY_DEG2
    is_whole = skies > 0.5 and abs(skies - round(skies)) < 1e-3
    number, area = [], []
    for least, most in SKIES.values():
        here = wrong & (latitude >= least) & (latitude < most)
        number.append((here.sum(), (here & duplicate).sum(), (here & below).sum()))
        share = np.sin(np.radians(min(most, 90.0))) - np.sin(np.radians(least))
        area.append(judgement.area_deg2 * (share if is_whole or share == 1 else np.nan))
    n_wrong, n_duplicates, n_below = np.array(number).T
    area = np.array(area)
    return score_table(
        "False alarms",
        "Detections that are no true source; those of them that are a second detection of one; "
        "those within 0.1 deg of a point source of 0.3 to 3 expected photons, which are real but "
        "do not count (below 10 GeV, where such a one is near any position, none); and wrong ones "
        "per 100 square degrees.",
        {
            "Sky": list(SKIES),
            "N_Wrong": n_wrong,
            "N_Duplicates": n_duplicates,
            "N_Below": n_below,
            "Area": area,
            "Per_100_Deg2": 100 * n_wrong / np.where(area > 0, area, np.nan),
        },
        units={"Area": "deg2"},
    )


def misses(judgement):
    """Where the true sources lie that were missed.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Reason``, ``N_Missed``, ``N_True`` (counted sources of which that is true) and
        ``Share_Missed``. A source may have several reasons.
    """
    truth, counted, found = judgement.truth, judgement.has_role("counted"), judgement.is_found
    reasons = {
        "blended": numbers_of(truth, "Sep_Counted", "deg") < _BLENDED_DEG,
        "near an extended source": numbers_of(truth, "Sep_Extended", "deg") < _BLENDED_DEG,
        "plane": judgement.true_latitude < _PLANE_DEG,
        "faint": numbers_of(truth, "Npred") < _FAINT,
    }
    reasons["none of these"] = ~np.any(list(reasons.values()), axis=0)
    n_true, n_missed = (
        np.array([np.sum(rows & mask) for rows in reasons.values()], int)
        for mask in (counted, counted & ~found)
    )
    return score_table(
        "Misses",
        "Where missed true sources lie: another counted one within 0.5 deg (blended), within 0.5 "
        "deg of the edge of an extended source or inside, below 5 deg of latitude (plane), fewer "
        "than 15 expected photons (faint). A source may have several reasons.",
        {
            "Reason": list(reasons),
            "N_Missed": n_missed,
            "N_True": n_true,
            **share_columns("Share_Missed", n_missed, n_true),
        },
    )


# What is asked of all candidates; the others of those that are listed.
_OF_ALL = (by_threshold, reliability, real_by_score)


_TABLES = (
    summary_table, by_threshold, by_photons, by_flux, by_sqrt_ts, by_latitude, by_class,
    flux_limits, numbers_per_part, position_errors, flux_errors, index_errors, reliability,
    real_by_score, false_alarms, misses,
)  # fmt: skip


def all_tables(judgement, *, threshold=None):
    """Every table of this module, of `binned_scores` and of `residuals`.

    Parameters
    ----------
    judgement : Judgement
        Of all candidates.
    threshold : float, optional
        Smallest ``Score`` listed; all are by default.

    Returns
    -------
    dict of str to QTable
        By the names of the functions.
    """
    listed = judgement if threshold is None else judgement.select(threshold)
    tables = {"summary_table": summary_table(judgement, threshold=threshold)}
    for table in _TABLES[1:]:
        tables[table.__name__] = table(judgement if table in _OF_ALL else listed)
    return tables


def _limits():
    """Keywords of `Judgement.evaluation` for each of ``SKIES``."""
    return [{"min_latitude": low, "max_latitude": high} for low, high in SKIES.values()]


def _f1(n_right, n_true, n_listed):
    """Harmonic mean of completeness and purity; NaN where there is neither truth nor detection."""
    total = np.asarray(n_true + n_listed, float)
    return 2 * n_right / np.where(total > 0, total, np.nan)


STATISTICS = (
    "average precision",
    "completeness at 95 % purity",
    "completeness",
    "purity",
    "median offset",
)


def compare(first, second, *, thresholds=None, level=0.95, n_samples=1000, rng=0):
    """Differences between two catalogues of the same sky, and whether they are real.

    The percentile bootstrap of `paired_interval`: the parts of the sky are
    drawn again with replacement, the same ones for both catalogues.

    Parameters
    ----------
    first, second : Judgement
        Of all candidates, by the same truth and in the same parts, such as patches.
    thresholds : pair of float, optional
        Smallest ``Score`` of each that is listed: of what is listed are completeness, purity and
        median offset. All are by default.
    level : float
        Probability inside the interval.
    n_samples : int
        How often the parts are drawn.
    rng : int or numpy.random.Generator
        Source of randomness.

    Returns
    -------
    QTable
        ``Sky``, ``Statistic``, ``First``, ``Second``, ``Difference`` (first minus second) with the
        ends ``Low`` and ``High`` of its interval, and ``Real``, whether that leaves out 0; median
        offsets in degrees. NaN where a part of the sky has no true source or no detection.

    Raises
    ------
    ValueError
        If they are not of the same true sources, or of fewer than two parts.

    Examples
    --------
    >>> from astropy.table import QTable
    >>> from astro_unetloc.evaluation.metrics import compare
    >>> from astro_unetloc.evaluation.truth import join, judge
    >>> truth = QTable({"GLON": [0.0], "GLAT": [0.0], "Npred": [9], "Radius": [0]})
    >>> catalog = QTable({"GLON": [0.1, 9], "GLAT": [0.0, 0], "Score": [0.9, 0.2]})
    >>> one, other = (
    ...     join([judge(listed, truth, part=str(i)) for i in range(9)])
    ...     for listed in (catalog, catalog[1:])
    ... )
    >>> table = compare(one, other)
    >>> float(table["Difference"][0]), bool(table["Real"][0])
    (1.0, True)
    """
    names = _parts(first, second)
    rng = np.random.default_rng(rng)
    drawn = rng.integers(0, len(names), (n_samples, len(names)))
    weights = np.stack([np.bincount(rows, minlength=len(names)) for rows in drawn])
    cuts = thresholds or (-np.inf, -np.inf)
    rows = []
    for sky, limits in SKIES.items():
        finders = [_finder(j, names, cut, limits) for j, cut in zip((first, second), cuts)]
        whole = [finder.statistics(np.ones(len(names), int)) for finder in finders]
        samples = np.subtract(
            *(np.array([finder.statistics(w) for w in weights]) for finder in finders)
        )
        for i, statistic in enumerate(STATISTICS):
            difference = whole[0][i] - whole[1][i]
            known = samples[np.isfinite(samples[:, i]), i]
            low, high = np.nan, np.nan
            if np.isfinite(difference) and len(known):
                low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
            is_real = bool(low > 0 or high < 0)
            rows.append((sky, statistic, whole[0][i], whole[1][i], difference, low, high, is_real))
    columns = ("Sky", "Statistic", "First", "Second", "Difference", "Low", "High", "Real")
    return score_table(
        "Comparison",
        f"Scores of two catalogues of the same sky, their difference (first minus second) and its "
        f"{level:.0%} interval, from {n_samples} paired bootstraps over {len(names)} parts.",
        dict(zip(columns, zip(*rows))),
        meta={"level": level, "n_samples": n_samples, "n_parts": len(names)},
    )


def compare_words(table):
    """What a comparison says, one line for each part of the sky.

    Parameters
    ----------
    table : QTable
        From `compare`.

    Returns
    -------
    str
    """
    lines = []
    for sky in SKIES:
        rows = table[(np.asarray(table["Sky"]) == sky) & np.isfinite(table["Low"])]
        real = [
            f"{row['Statistic']} {row['First']:.4g} against {row['Second']:.4g} "
            f"({row['Low']:+.2g} to {row['High']:+.2g})"
            for row in rows[rows["Real"]]
        ]
        alike = [str(row["Statistic"]) for row in rows[~rows["Real"]]]
        parts = ["really differ: " + ", ".join(real)] if real else []
        parts += ["no difference is seen in " + ", ".join(alike)] if alike else []
        if parts:
            lines.append(f"{sky}: {'; '.join(parts)}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Finder:
    """n detections that are right or wrong, in descending score.

    Attributes
    ----------
    n_true : ndarray (n_parts,) of int
        True sources that count.
    part : ndarray (n,) of int
        Part of each detection.
    right, listed : ndarray (n,) of bool
        Whether it is right, and whether it is listed.
    offset : ndarray (n,)
        Distance from its true source in degrees.
    nearest : ndarray (n_right,) of int
        The right ones that are listed, in ascending offset.
    """

    n_true: np.ndarray
    part: np.ndarray
    right: np.ndarray
    listed: np.ndarray
    offset: np.ndarray
    nearest: np.ndarray

    def statistics(self, weight):
        """The numbers of ``STATISTICS`` where each part counts so many times (n_parts,)."""
        n_true, w = (self.n_true @ weight) or np.nan, weight[self.part]
        right, number = self.right * w, np.cumsum(w)
        hits = np.cumsum(right)
        drawn = np.flatnonzero(w)
        good = hits[drawn][hits[drawn] / number[drawn] >= PURITY]
        n_listed, n_found = np.sum(w * self.listed), np.sum(right * self.listed)
        return np.array(
            [
                _sum_of_precision(right, hits, number) / n_true,
                (good[-1] if len(good) else 0) / n_true,
                n_found / n_true,
                n_found / n_listed if n_listed else np.nan,
                _median(self.offset[self.nearest], w[self.nearest]),
            ]
        )


def _finder(judgement, names, threshold, limits):
    """The `_Finder` of a part of the sky, its parts numbered as in ``names``."""
    low, high = limits
    latitude, true_latitude = judgement.latitude, judgement.true_latitude
    score = numbers(judgement.catalog["Score"])
    rows = np.flatnonzero(judgement.is_listed & (latitude >= low) & (latitude < high))
    rows = rows[np.argsort(-score[rows], kind="stable")]
    offset = degrees(judgement.catalog["Offset"])[rows]
    right, listed = judgement.is_right[rows], score[rows] >= threshold
    nearest = np.flatnonzero(right & listed)
    counted = judgement.has_role("counted") & (true_latitude >= low) & (true_latitude < high)
    true_part, part = (
        np.searchsorted(names, np.asarray(table["Part"], str)[some])
        for table, some in ((judgement.truth, counted), (judgement.catalog, rows))
    )
    return _Finder(
        n_true=np.bincount(true_part, minlength=len(names)),
        part=part,
        right=right,
        listed=listed,
        offset=offset,
        nearest=nearest[np.argsort(offset[nearest], kind="stable")],
    )


def _sum_of_precision(right, hits, number):
    """Sum of the precision at each right detection of those (n,) that count several times.

    Copies of a detection follow each other: after m others of which h are right, the w copies of a
    right one have precisions (h + 1) / (m + 1) to (h + w) / (m + w), whose sum is
    w - (m - h) (H(m + w) - H(m)) with the harmonic numbers H.
    """
    rows = np.flatnonzero(right)
    if not len(rows):
        return 0.0
    copies, after = right[rows], number[rows]
    harmonic = _harmonic_numbers(int(after[-1]).bit_length())
    wrong = after - hits[rows]
    return float(np.sum(copies - wrong * (harmonic[after] - harmonic[after - copies])))


@lru_cache(maxsize=64)
def _harmonic_numbers(n_bits):
    """Harmonic numbers H(0), H(1), ... of ``n_bits`` bits."""
    return np.append(0.0, np.cumsum(1 / np.arange(1, 2**n_bits)))


def _median(ascending, weight):
    """Median of ascending values that count so many times; NaN without any."""
    total = np.cumsum(weight)
    if not len(total) or not total[-1]:
        return np.nan
    middle = (total[-1] - 1) // 2, total[-1] // 2
    return float(ascending[np.searchsorted(total, middle, side="right")].mean())


def _parts(first, second):
    """Names of the parts of both, sorted."""
    tables = [table for j in (first, second) for table in (j.truth, j.catalog)]
    names = np.unique(np.concatenate([np.asarray(table["Part"], str) for table in tables]))
    number = [
        np.bincount(
            np.searchsorted(names, np.asarray(j.truth["Part"], str)[j.has_role("counted")]),
            minlength=len(names),
        )
        for j in (first, second)
    ]
    if len(names) < 2 or np.any(number[0] != number[1]):
        raise InputError(
            "expected judgements by the same true sources in two parts of the sky or more; got "
            f"{number[0].sum()} and {number[1].sum()} sources in {len(names)} parts; judge both "
            "catalogues by one truth with part=patch_parts(...)"
        )
    return names
