"""What lies beneath positions at which no source is known: the background and known sources.

Upper limits: how many counts a source at a given position may have and go unseen.

The likelihood is that of the measurement. Its profile over the background and the counts of close
known sources is integrated over the counts of the source with a flat prior (Helene 1983, NIM 212,
319), as the Fermi-LAT catalogues do for faint sources (4FGL, arXiv:1902.10045): where no
photon is seen this gives 3.0 counts, while a fall of the logarithm by 2.71/2 gives 1.35, which
one in four sources of 1.4 counts would exceed.

Detection limits: the counts and fluxes at which half of the sources at a place are found.

Half of them are found when their expected sqrt(TS) has a value that depends on the threshold of the
search and is measured on simulated skies (``benchmarks/fit_limits.py``). The expected sqrt(TS) is
that of exactly the counts that are expected (Cowan et al. 2011, EPJC 71, 1554, section 3.2, "Asimov
data set"), on the background that the map itself shows.
"""

from dataclasses import replace

import numpy as np

from astro_unetloc.catalog.table import galactic_vectors, sky_positions, with_limit_columns
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.irf.exposure import background_at
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.selection import parse_energy_range
from astro_unetloc.measurement.data import MeasurementConfig, gather_counts, sum_groups
from astro_unetloc.measurement.fit import FieldFit, FieldSetup, fit_groups
from astro_unetloc.measurement.likelihood import INDEX_PRIOR, SourceModel, evaluate
from astro_unetloc.sphere import chord, separation_deg
from astro_unetloc.unet.model import MAX_FLUX_GEV

__all__ = [
    "KnownSources",
    "background_beside",
    "detection_limits",
    "expected_sqrt_ts",
    "fields_at",
    "known_near",
    "one_count",
    "significances",
    "upper_limits",
]


# Pairs of a position and an entry that are held at once.
_MAX_PAIRS = 1e6


# Steps of the background.
_N_ROUNDS = 12


def fields_at(sky_map, vectors, energy_range=None):
    """The observed ones of n positions in groups that fit into memory.

    Parameters
    ----------
    sky_map : SkyMap
        The map.
    vectors : ndarray (n, 3)
        Galactic unit vectors; NaN where a position is unknown.
    energy_range : pair of float, optional
        Energies of the counts in GeV; all of the map by default.

    Yields
    ------
    rows : ndarray of int
        Positions of a group.
    field : FieldFit
        Their regions. Nothing where the map holds no photons: then nothing is known of them.
    """
    inside = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    inside = inside[sky_map.covers(vectors[inside])] if len(inside) else inside
    if not len(inside):
        return
    counts = gather_counts(sky_map, *(energy_range or sky_map.energy_edges[[0, -1]]))
    if not len(counts.number):
        return
    config = replace(MeasurementConfig(), max_pairs=_MAX_PAIRS)
    setup = FieldSetup(sky_map, counts, vectors[inside], config)
    for members, _ in fit_groups(vectors[inside], setup):
        rows = inside[members]
        yield rows, FieldFit(vectors[rows], setup)


def known_near(field, known):
    """The known directions (k, 3) that shine on the regions of a field.

    Parameters
    ----------
    field : FieldFit
        The regions.
    known : ndarray (n_known, 3)
        Galactic unit vectors.

    Returns
    -------
    ndarray (k, 3)
    """
    from scipy.spatial import KDTree

    if not len(known):
        return known
    found = KDTree(known).query_ball_point(field.vectors, chord(2 * field.setup.radius_deg))
    return known[np.unique(np.concatenate([np.asarray(rows, int) for rows in found]))]


def one_count(field, index):
    """What one detected count of a source gives at each position of a field.

    Parameters
    ----------
    field : FieldFit
        The n positions.
    index : ndarray (n,)
        Photon indices.

    Returns
    -------
    density : ndarray (m,)
        Counts per square degree and bin at the pairs.
    expected : ndarray (n,)
        Weighted counts in the region.
    """
    zero = np.zeros(field.n)
    state = evaluate(field.fit, SourceModel(zero, zero, np.ones(field.n), index))
    seen = field.fit.contained(field.hood.radius_deg) * field.weight
    return field.fit.at_all_pairs(state)[0], (state.rates[0] * seen).sum(axis=1)


class KnownSources:
    """Known sources, their counts and indices fitted where they are.

    Parameters
    ----------
    field : FieldFit
        The n positions on which they shine.
    known : ndarray (k, 3)
        Galactic unit vectors.
    """

    def __init__(self, field, known):
        self.field, self.known = field, known
        if len(known):
            self._fit = FieldFit(known, field.setup)
            self._state = self._fit.fit_strengths()
            self._by_entry = self._fit.fit.by_entry(self._state).tocsr()

    def at_pairs(self):
        """Counts (m,) per square degree and bin of all of them at the pairs of the field."""
        entry = self.field.hood.region_entry
        if not len(self.known):
            return np.zeros(len(entry))
        return np.asarray(self._by_entry.sum(axis=1)).ravel()[entry]

    def nearest(self, number):
        """The same of those nearest to each position, one by one (m, j), and of these the weighted
        counts (n, j) in its region.
        """
        source, hood = self.field.background_fit.source, self.field.hood
        if not len(self.known):
            return np.zeros((len(source), 0)), np.zeros((self.field.n, 0))
        away = separation_deg(self.field.vectors[:, None], self.known[None])
        rows = np.argsort(away, axis=1, kind="stable")[:, :number]
        offset = np.take_along_axis(away, rows, axis=1)
        close = offset < 2 * self.field.setup.core_deg.max()
        entry = hood.region_entry
        density = np.stack([self._by_entry[entry, row[source]] for row in rows.T], axis=1)
        profiles, radius_deg = self.field.setup.profiles, hood.radius_deg
        observed = self._fit.fit.contained(radius_deg) / profiles.containment(radius_deg)
        inside = profiles.containment_off(offset.ravel(), radius_deg).reshape(*offset.shape, -1)
        counts = (self._counts() * observed)[rows]
        expected = (counts * inside * self.field.weight[:, None]).sum(axis=2)
        return density * close[source], expected * close

    def at_positions(self):
        """Counts (n, n_energy) per square degree of all of them at the positions."""
        n_energy = self.field.spectrum.n_energy
        if not len(self.known):
            return np.zeros((self.field.n, n_energy))
        away = separation_deg(self.field.vectors[:, None], self.known[None])
        profiles, counts = self.field.setup.profiles, self._counts()
        shine = (profiles.density(number, away**2)[0] @ counts[:, number]
                 for number in range(n_energy))  # fmt: skip
        return np.stack(list(shine), axis=1)

    def _counts(self):
        """Detected counts (k, n_energy)."""
        return self._state.model.counts[:, None] * self._state.rates[0]


def background_beside(field, one, total):
    """The background at the best counts of each position, whatever the other positions have.

    Parameters
    ----------
    field : FieldFit
        The n positions.
    one : tuple of ndarray
        From `one_count`.
    total : ndarray (m,)
        What the known sources give at the pairs.

    Returns
    -------
    LocalBackground
    """
    fit, (density, expected) = field.background_fit, one
    background, counts = fit.start(), np.ones(field.n)
    for _ in range(_N_ROUNDS):
        surface = fit.density(background)
        own = counts[fit.source] * density
        background = fit.step(background, surface / (surface + total + own))
        part = density / (fit.density(background) + total + own)
        slope = sum_groups(fit.source, fit.weighted * part, field.n) - expected
        bend = sum_groups(fit.source, fit.weighted * part**2, field.n)
        change = slope / np.maximum(bend, 1e-9)
        counts = np.clip(counts + change, counts / 4, 4 * counts + 1)
    return background


_LEVEL = 0.95


# Known sources whose counts are fitted beside each position, the nearest ones.
_MOST_NEIGHBORS = 4


# Steps of all that is free at each number of counts.
_N_LIMIT_STEPS = 2


# Numbers of counts that are tried, more and more closely; beyond a fall of the logarithm of the
# likelihood of this much nothing adds to the integral.
_N_COUNTS, _DEEP = (20, 16, 24), 12.0


_N_FINE = 400


def upper_limits(
    map,
    positions,
    *,
    exposure=None,
    background=None,
    psf=None,
    exposure_frame=None,
    sources=None,
    index=INDEX_PRIOR[0],
    energy_range=None,
    flux_range=None,
):
    """95 % upper limits on the counts and fluxes of sources at given positions.

    Each position is taken alone, on top of the background and of the known sources.

    Parameters
    ----------
    map : str, pathlib.Path, HDUList, gammapy Map or MapDataset, or SkyMap
        Counts as `astro_unetloc.read_map` takes them.
    positions : SkyCoord or Table
        n positions, or a table that has them.
    exposure, background, psf : path or gammapy object, optional
        What goes with the map, as in `find_sources`; without an exposure there are no fluxes.
    exposure_frame : {"galactic", "icrs"}, optional
        Frame of a HEALPix exposure that does not say it.
    sources : Table, optional
        Known sources with positions, such as the catalogue found in the map. Their counts and
        indices are fitted. A position must not be one of them.
    index : float or array_like (n,)
        Photon index of the sources sought.
    energy_range : pair of Quantity or float, optional
        Energies of the counts, GeV if bare; those of the map by default.
    flux_range : pair of Quantity or float, optional
        Energies of the flux, GeV if bare; those of the counts, up to 1000 GeV, by default.

    Returns
    -------
    QTable
        n rows with ``Source_Name`` where the positions have it, ``RAJ2000``, ``DEJ2000``,
        ``Npred_UL95``, ``Flux_UL95`` (ph cm-2 s-1) and ``skycoord``; limits are masked where the
        map was not observed.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        If an input cannot be used; the message says what to do.

    Examples
    --------
    >>> from astro_unetloc import find_sources, simulate_sky, upper_limits
    >>> from astropy.coordinates import SkyCoord
    >>> import astropy.units as u
    >>> center = SkyCoord(120 * u.deg, 40 * u.deg, frame="galactic")
    >>> sky_map, truth = simulate_sky(center=center, radius=8 * u.deg, rng=1)
    >>> limits = upper_limits(sky_map, center, sources=find_sources(sky_map))
    >>> bool(limits["Npred_UL95"][0] > 3)
    True
    """
    sky_map = read_map(
        map,
        energy_range=energy_range,
        exposure=exposure,
        background=background,
        psf=psf,
        exposure_frame=exposure_frame,
    )
    if sky_map.n_photons == 0:
        raise InputError("the map must hold photons; got none; give another map or energy range")
    table = _position_table(positions)
    vectors = galactic_vectors(table)
    index = np.broadcast_to(np.asarray(index, dtype=float), len(vectors))
    known = np.zeros((0, 3)) if sources is None else galactic_vectors(sources)
    known = known[np.isfinite(known).all(axis=1)]
    low, high = sky_map.energy_edges[[0, -1]]
    flux_range = parse_energy_range(flux_range) or (low, min(high, max(MAX_FLUX_GEV, 2 * low)))
    limit, flux = _limits(sky_map, vectors, known, index, flux_range)
    table = with_limit_columns(table, {"Npred_UL95": limit, "Flux_UL95": flux})
    table.meta |= {"EMIN": float(low), "EMAX": float(high)}
    table.meta |= dict(zip(("FLUXEMIN", "FLUXEMAX"), (float(energy) for energy in flux_range)))
    return table


def _position_table(positions):
    """Table of names, where there are any, and positions."""
    import astropy.units as u
    from astropy.table import QTable

    is_table = hasattr(positions, "colnames")
    coordinates = sky_positions(positions) if is_table else positions.icrs.reshape(-1)
    columns = {"RAJ2000": coordinates.ra.to(u.deg), "DEJ2000": coordinates.dec.to(u.deg)}
    if is_table and "Source_Name" in positions.colnames:
        columns = {"Source_Name": positions["Source_Name"]} | columns
    return QTable(columns | {"skycoord": coordinates})


def _limits(sky_map, vectors, known, index, flux_range):
    """Limits (n,) of counts and flux at positions (n, 3); NaN where they are not known."""
    limit, flux = np.full((2, len(vectors)), np.nan)
    for rows, field in fields_at(sky_map, vectors):
        limit[rows] = _upper_bound(_profile(field, known_near(field, known), index[rows]))
        per_count = field.flux_per_count(index[rows], flux_range)
        flux[rows] = np.where(field.exposed, limit[rows] * per_count, np.nan)
    return limit, flux


def _profile(field, known, index):
    """The likelihood of the counts at the positions of a field, as a `_Profile`."""
    one = one_count(field, index)
    others = KnownSources(field, known)
    total = others.at_pairs()
    apart, apart_expected = others.nearest(_MOST_NEIGHBORS)
    background = background_beside(field, one, total)
    fit = field.background_fit
    return _Profile(
        fit.source, fit.weighted, *one,
        np.column_stack([fit.density(background), apart]),
        np.column_stack([(fit.total(background) * field.weight).sum(axis=1), apart_expected]),
        np.maximum(total - apart.sum(axis=1), 0.0),
    )  # fmt: skip


class _Profile:
    """The likelihood of the counts of n sources, best in the factors of what lies beneath.

    Parameters
    ----------
    source : ndarray (m,) of int
        Source of each pair.
    weighted : ndarray (m,)
        Counts of each pair, times their weight.
    density, expected : ndarray (m,), ndarray (n,)
        What one count of the source gives: at the pairs, and in all.
    beneath, total : ndarray (m, k), ndarray (n, k)
        What lies beneath, in k parts that have a factor each, likewise.
    fixed : ndarray (m,)
        What else lies beneath.
    """

    def __init__(self, source, weighted, density, expected, beneath, total, fixed):
        self.source, self.weighted, self.density = source, weighted, density
        self.expected, self.beneath, self.total, self.fixed = expected, beneath, total, fixed
        self.n, self.k = total.shape

    def _sums(self, values):
        return sum_groups(self.source, self.weighted * values, self.n)

    def most_counts(self):
        """More counts (n,) than any source has."""
        close = self._sums(self.density > 0.01 * self._peak()[self.source])
        return 2 * (close + 10) / self.expected

    def _peak(self):
        peak = np.zeros(self.n)
        np.maximum.at(peak, self.source, self.density)
        return peak

    def log_likelihood(self, counts):
        """Logarithm (n, q), less a constant, at ascending numbers of counts (n, q)."""
        result = np.empty(counts.shape)
        logs = np.zeros((self.n, self.k))
        for place, number in enumerate(counts.T):
            for _ in range(_N_LIMIT_STEPS):
                logs = self._step(logs, number)
            mean = self._mean(logs, number)[0]
            result[:, place] = self._sums(np.log(mean)) - number * self.expected
            result[:, place] -= (np.exp(logs) * self.total).sum(axis=1)
        return result

    def _mean(self, logs, counts):
        """Expected counts at the pairs (m,), and the parts beneath (m, k) of them."""
        parts = np.exp(logs)[self.source] * self.beneath
        mean = counts[self.source] * self.density + self.fixed + parts.sum(axis=1)
        return np.maximum(mean, 1e-30), parts

    def _step(self, logs, counts):
        """The logarithms (n, k) of the factors after a Newton step towards their best."""
        mean, parts = self._mean(logs, counts)
        parts /= mean[:, None]
        slope = np.stack([self._sums(part) for part in parts.T], axis=1)
        slope -= np.exp(logs) * self.total
        bend = np.empty((self.n, self.k, self.k))
        for a in range(self.k):
            for b in range(a, self.k):
                bend[:, a, b] = bend[:, b, a] = self._sums(parts[:, a] * parts[:, b])
        # what is not there, or not seen, keeps its factor
        bend += 1e-3 * np.eye(self.k)
        change = np.linalg.solve(bend, slope[..., None])[..., 0]
        return np.clip(logs + np.clip(change, -1.0, 1.0), -12.0, 12.0)


def _upper_bound(profile):
    """Counts (n,) below which lies the level of the integral of the likelihood."""
    most = profile.most_counts()
    first = np.append(0.0, np.geomspace(1e-3, 1.0, _N_COUNTS[0] - 1))
    counts = most[:, None] * first
    for n_counts in _N_COUNTS[1:]:
        low, high = _bracket(counts, profile.log_likelihood(counts))
        counts = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, n_counts)
    return _quantile(counts, profile.log_likelihood(counts))


def _bracket(counts, log_likelihood):
    """Ends (n,) of where the likelihood is not negligible, on a grid (n, q) of counts."""
    rows, last = np.arange(len(counts)), counts.shape[1] - 1
    kept = log_likelihood > log_likelihood.max(axis=1, keepdims=True) - _DEEP
    low = np.maximum(kept.argmax(axis=1) - 1, 0)
    high = np.minimum(last - kept[:, ::-1].argmax(axis=1) + 1, last)
    return counts[rows, low], counts[rows, high]


def _quantile(counts, log_likelihood):
    """Counts (n,) below which lies the level of the likelihood, on even grids (n, q)."""
    from scipy.interpolate import CubicSpline

    place = np.linspace(0, 1, counts.shape[1])
    fine = np.linspace(0, 1, _N_FINE)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    # a polynomial times an exponential; its logarithm may be singular at no counts
    density = np.maximum(CubicSpline(place, likelihood, axis=1)(fine), 0.0)
    below = np.cumsum((density[:, 1:] + density[:, :-1]) / 2, axis=1)
    below = np.pad(below / below[:, -1:], ((0, 0), (1, 0)))
    part = np.array([np.interp(_LEVEL, row, fine) for row in below])
    return counts[:, 0] + part * (counts[:, -1] - counts[:, 0])


# Steps towards the counts of a value of sqrt(TS), and the exponent of each: sqrt(TS) grows with a
# power of the counts between a half, without background, and one, on much of it.
_N_STEPS, _EXPONENT = 14, 1.2


# Nodes of a profile that stand for one: 128 rings hold sqrt(TS) to a part in a thousand.
_STRIDE = 4


_LEAST_DENSITY = 1e-9


def expected_sqrt_ts(counts, shares, background, profiles, weight=1.0):
    """The sqrt(TS) that sources have when exactly the expected counts are detected.

    Parameters
    ----------
    counts : ndarray (n,)
        Expected counts of each source.
    shares : ndarray (n, n_energy)
        Their part in each energy bin.
    background : ndarray (n, n_energy)
        Counts per square degree beneath, even as far as the point-spread function reaches.
    profiles : PsfProfiles
        Where the counts of a source lie.
    weight : ndarray (n, n_energy) or float
        What a count says in each bin, see `astro_unetloc.measurement.fit.systematic_weights`.

    Returns
    -------
    ndarray (n,)
    """
    contained = profiles.contained[:, ::_STRIDE]
    density, area = profiles.rings(_STRIDE)
    beneath = np.maximum(background, _LEAST_DENSITY)
    total = np.zeros(len(counts))
    for number, (ring, part) in enumerate(zip(density, np.diff(contained, axis=1))):
        source = (counts * shares[:, number])[:, None]
        ratio = source * ring / beneath[:, [number]]
        gain = (source * part + beneath[:, [number]] * area) * np.log1p(ratio) - source * part
        total += np.broadcast_to(weight, shares.shape)[:, number] * gain.sum(axis=1)
    return np.sqrt(2 * np.maximum(total, 0.0))


def significances(sky_map, vectors, counts, *, sources=None, index=INDEX_PRIOR[0],
                  energy_range=None):  # fmt: skip
    """The expected sqrt(TS) of sources of given counts at given positions of a map.

    Parameters
    ----------
    sky_map, vectors
        As `detection_limits`.
    counts : ndarray (n,)
        Expected counts of each source in the energy range.
    sources, index, energy_range
        As `detection_limits`.

    Returns
    -------
    ndarray (n,)
        NaN where the map was not observed.
    """
    found = np.full(len(vectors), np.nan)
    for rows, field, known in _fields(sky_map, vectors, sources, energy_range):
        found[rows] = _Place(field, known, index).sqrt_ts(counts[rows])
    return found


def detection_limits(sky_map, vectors, sqrt_ts, *, sources=None, index=INDEX_PRIOR[0],
                     energy_range=None, flux_range=(1.0, 100.0), progress=None):  # fmt: skip
    """Counts and fluxes at which half of the sources at given positions are found.

    Parameters
    ----------
    sky_map : SkyMap
        The map that was searched.
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    sqrt_ts : float
        Expected sqrt(TS) of a source that is found in half of the cases.
    sources : ndarray (k, 3), optional
        Galactic unit vectors of the known sources, which outshine others.
    index : float
        Photon index of the sources sought.
    energy_range : pair of float, optional
        Energies of the counts in GeV, those of the search; all of the map by default.
    flux_range : pair of float
        Energies of the flux in GeV.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    counts, flux : ndarray (n,)
        Detected counts, and photon fluxes in ph cm-2 s-1; NaN where the map was not observed, the
        flux also where the exposure is unknown.
    """
    counts, flux = np.full((2, len(vectors)), np.nan)
    fields = _fields(sky_map, vectors, sources, energy_range)
    for rows, field, known in progress(fields) if progress else fields:
        counts[rows] = _Place(field, known, index).counts(sqrt_ts)
        per_count = field.flux_per_count(np.full(field.n, float(index)), flux_range)
        flux[rows] = np.where(field.exposed, counts[rows] * per_count, np.nan)
    if len(vectors) and not np.isfinite(counts).any():
        warn("the map has no photons at these positions; detection limits are not known")
    return counts, flux


def _fields(sky_map, vectors, sources, energy_range):
    """Groups of observed positions: their rows, their `FieldFit`, the known sources near."""
    known = np.zeros((0, 3)) if sources is None else sources
    for rows, field in fields_at(sky_map, vectors, energy_range):
        yield rows, field, known_near(field, known)


class _Place:
    """The positions of a field, and what lies beneath a source of an index there."""

    def __init__(self, field, known, index):
        self.field = field
        slopes = np.full(field.n, float(index))
        self.shares = field.spectrum.fractions(slopes)
        others = KnownSources(field, known)
        one = one_count(field, slopes)
        level = background_beside(field, one, others.at_pairs()).level
        background, edges = field.setup.sky_map.background, field.setup.counts.energy_edges
        if background is not None:  # then the level is a factor on it
            level = level * background_at(background, field.vectors, edges).T
        self.beneath = level + others.at_positions()

    def sqrt_ts(self, counts):
        """Expected sqrt(TS) of counts (n,)."""
        profiles, weight = self.field.setup.profiles, self.field.weight
        return expected_sqrt_ts(counts, self.shares, self.beneath, profiles, weight)

    def counts(self, sqrt_ts):
        """Counts (n,) of which the expected sqrt(TS) is the one asked for."""
        counts = np.full(self.field.n, sqrt_ts**2)
        for _ in range(_N_STEPS):
            reached = np.maximum(self.sqrt_ts(counts), 1e-9)
            counts = counts * (sqrt_ts / reached) ** _EXPONENT
        return counts
