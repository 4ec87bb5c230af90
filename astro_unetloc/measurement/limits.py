"""Upper limits and detection limits at positions without a known source.

Upper limits: the profile likelihood over the background and the counts of close known sources is
integrated over the counts of the source with a flat prior (Helene 1983, NIM 212, 319), as for
faint sources of 4FGL (arXiv:1902.10045). Without a photon this gives 3.0 counts; a decrease of the
log-likelihood by 2.71/2 would give 1.35, which one in four sources of 1.4 counts exceeds.

Detection limits: counts at which half of the sources are found. Their expected sqrt(TS) depends on
the threshold of the search and is measured on simulated skies (``benchmarks/fit_limits.py``). It is
computed for exactly the expected counts (Cowan et al. 2011, EPJC 71, 1554, section 3.2, "Asimov
data set") on the background of the map itself.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline

from astro_unetloc.catalog.columns import LIMIT_COLUMNS
from astro_unetloc.catalog.read import as_table, was_searched
from astro_unetloc.catalog.read import energy_range as energies_of
from astro_unetloc.catalog.table import galactic_vectors, sky_positions, with_columns
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.selection import check_psf, parse_energy_range
from astro_unetloc.measurement.data import MeasurementConfig, Pairs, gather_counts
from astro_unetloc.measurement.fit import FieldFit, FieldSetup, fit_groups
from astro_unetloc.measurement.likelihood import INDEX_PRIOR
from astro_unetloc.sphere import neighbors, separation_deg
from astro_unetloc.unet.model import flux_energies

_LEVEL = 0.95
# Limits that are computed at once.
_MAX_LIMITS = 5000
# Pairs of a position and a counts bin that are held at once.
_MAX_PAIRS = 1e6
# Steps of the fit of background and counts at each position.
_N_ROUNDS = 12
# Number of nearest known sources with free counts, and Newton steps of the free factors.
_MAX_NEIGHBORS, _N_STEPS = 4, 2
# Grids of counts, finer and finer, over the likelihood down to exp(-12) of its maximum; points
# between which the last one is interpolated.
_N_COUNTS, _MAX_FALL, _N_FINE = (20, 16, 24), 12.0, 400
# Steps to the counts of a given sqrt(TS), and their exponent: sqrt(TS) is proportional to a power
# of the counts between one half (no background) and one (high background).
_N_LIMIT_STEPS, _EXPONENT = 14, 1.2
# Nodes of a PSF profile per ring: 128 rings hold sqrt(TS) to a part in a thousand.
_STRIDE = 4
_MIN_DENSITY = 1e-9


class _TestPositions:
    """A group of n observed positions, with the background and the known sources around them."""

    def __init__(self, field, known, index):
        self.field, self.index, self.profiles = field, index, field.setup.profiles
        regions = field.regions
        one_count = np.column_stack([np.zeros((field.n, 2)), np.ones(field.n), index])
        state = field.likelihood.evaluate(one_count)
        self.fraction = state.fraction[0]
        # of one detected count: density (m,) at the pairs, weighted counts (n,) in the region
        self.density = field.likelihood.npred_reached(state)[: len(regions.pairs)]
        contained = regions.contained(self.profiles, regions.radius_deg)
        self.expected = (self.fraction * contained * field.weight).sum(axis=1)
        known = known[np.unique(neighbors(field.vectors, known, 2 * regions.radius_deg)[1])]
        fit = FieldFit(known, field.setup)
        state, _, _ = fit.fit_spectra()
        self._known_counts = state.counts[:, None] * state.fraction[0]
        self._npred_by_known = fit.likelihood.npred_by_source(state)
        self.npred_known = self._npred_by_known.sum(axis=1)[regions.pairs.bin]
        contained = fit.regions.contained(self.profiles, regions.radius_deg)
        self._known_observed = contained / self.profiles.containment(regions.radius_deg)
        self._separation_deg = separation_deg(field.vectors[:, None], known[None])
        self.background = self._fit_background()

    def _fit_background(self):
        """The background, fitted together with the counts of a source at each position alone."""
        background, pairs, n = self.field.background, self.field.regions.pairs, self.field.n
        counts = np.ones(n)
        for _ in range(_N_ROUNDS):
            npred_sources = self.npred_known + counts[pairs.source] * self.density
            background = background.step(background.npred / (background.npred + npred_sources))
            relative = self.density / (background.npred + npred_sources)
            gradient = pairs.sum(background.weighted * relative, n) - self.expected
            hessian = pairs.sum(background.weighted * relative**2, n)
            change = gradient / np.maximum(hessian, 1e-9)
            counts = np.clip(counts + change, counts / 4, 4 * counts + 1)
        return background

    @cached_property
    def _density_at_positions(self):
        """Expected counts (n, n_energy) per deg2 of background and known sources."""
        density = self.background.at_sources
        # bin by bin: the separations of a sky of sources are many
        offset2, known = self._separation_deg**2, enumerate(self._known_counts.T)
        psf = [self.profiles.density(number, offset2)[0] @ counts for number, counts in known]
        return density + np.stack(psf, axis=1)

    def sqrt_ts(self, counts):
        """Expected sqrt(TS) of counts (n,)."""
        background, weight = self._density_at_positions, self.field.weight
        return expected_sqrt_ts(counts, self.fraction, background, self.profiles, weight)

    def detection_limit(self, sqrt_ts):
        """Counts (n,) with an expected sqrt(TS)."""
        counts = np.full(self.field.n, sqrt_ts**2)
        for _ in range(_N_LIMIT_STEPS):
            counts = counts * (sqrt_ts / np.maximum(self.sqrt_ts(counts), 1e-9)) ** _EXPONENT
        return counts

    def upper_limit(self):
        """Upper limits (n,) on the counts."""
        npred, in_region = self._nearest_known()
        background = self.background
        in_background = (background.in_regions * self.field.weight).sum(axis=1)
        return _ProfileLikelihood(
            background.pairs, background.weighted, self.density, self.expected,
            components=np.column_stack([background.npred, npred]),
            total=np.column_stack([in_background, in_region]),
            fixed=np.maximum(self.npred_known - npred.sum(axis=1), 0.0),
        ).upper_bound()  # fmt: skip

    def _nearest_known(self):
        """Counts of the nearest known sources: (m, j) at pairs, (n, j) weighted in the regions."""
        field, pairs = self.field, self.field.regions.pairs
        rows = np.argsort(self._separation_deg, axis=1, kind="stable")[:, :_MAX_NEIGHBORS]
        distance_deg = np.take_along_axis(self._separation_deg, rows, axis=1)
        close = distance_deg < 2 * field.setup.core_deg.max()
        npred = self._npred_by_known[pairs.bin[:, None], rows[pairs.source]].toarray()
        inside = self.profiles.containment_off(distance_deg.ravel(), field.regions.radius_deg)
        inside = inside.reshape(*rows.shape, self.fraction.shape[1]) * field.weight[:, None]
        in_region = ((self._known_counts * self._known_observed)[rows] * inside).sum(axis=2)
        return npred * close[pairs.source], in_region * close

    def flux(self, counts, flux_range):
        """Photon fluxes (n,) of detected counts; NaN where the exposure is unknown."""
        return counts * self.field.flux_per_count(self.index, flux_range)


def _test_positions(sky_map, vectors, known, index, energy_range=None):
    """Rows and `_TestPositions` of the observed positions, in groups that fit into memory."""
    rows = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    rows = rows[sky_map.covers(vectors[rows])] if len(rows) else rows
    if not len(rows):
        return
    counts = gather_counts(sky_map, energy_range or sky_map.energy_edges[[0, -1]])
    if not len(counts.number):
        return
    known = np.zeros((0, 3)) if known is None else known
    config = replace(MeasurementConfig(), max_pairs=_MAX_PAIRS)
    setup = FieldSetup(sky_map, counts, vectors[rows], config)
    index = np.broadcast_to(np.asarray(index, dtype=float), len(vectors))
    for members, _ in fit_groups(vectors[rows], setup):
        group = rows[members]
        yield group, _TestPositions(FieldFit(vectors[group], setup), known, index[group])


def upper_limits(map, positions, *, exposure=None, background=None, psf=None, exposure_frame=None,
                 sources=None, index=INDEX_PRIOR[0], energy_range=None,
                 flux_range=None):  # fmt: skip
    """95 % upper limits on the counts and fluxes of sources at given positions.

    Each position is taken alone, on top of the background and of the known sources.

    Parameters
    ----------
    map : str, pathlib.Path, HDUList, gammapy Map or MapDataset, or SkyMap
        Counts as `astro_unetloc.read_map` takes them.
    positions : SkyCoord, Table, str or path
        n positions, or a table with positions, or its file.
    exposure, background, psf, exposure_frame : optional
        Companions of the map, as in `find_sources`; without an exposure there are no fluxes.
    sources : Table, optional
        Known sources with positions, such as the catalogue of the map. Their counts and indices
        are fitted. A position must not be one of them.
    index : float or array_like (n,)
        Photon index of the sources.
    energy_range, flux_range : pair of Quantity or float, optional
        Energies of the counts and of the flux, GeV if bare; by default those of the map, for the
        flux those of ``Flux`` in the sources or else those of the map up to 1000 GeV.

    Returns
    -------
    QTable
        n rows with ``Source_Name`` where the positions have it, ``RAJ2000``, ``DEJ2000``,
        ``Npred_UL95``, ``Flux_UL95`` (ph cm-2 s-1) and ``skycoord``; limits are masked where the
        map was not observed.

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
        map, energy_range=energy_range, exposure=exposure, background=background, psf=psf,
        exposure_frame=exposure_frame,
    )  # fmt: skip
    if sky_map.n_photons == 0:
        raise InputError("the map must hold photons; got none; give another map or energy range")
    check_psf(sky_map.header, sky_map.energy_edges, sky_map.psf, "upper limits need")
    table = _position_table(positions)
    vectors = galactic_vectors(table)
    sources = None if sources is None else as_table(sources)
    known = None if sources is None else galactic_vectors(sources)
    n_outside = 0 if sources is None else np.sum(~was_searched(sources, table["skycoord"]))
    if n_outside:
        warn(
            f"{n_outside} of {len(table)} positions lie outside the area in which the sources were "
            "searched; their limits do not take sources around them into account"
        )
    stated = None if sources is None else energies_of(sources, "FLUX")
    flux_range = parse_energy_range(flux_range) or stated
    low, high = sky_map.energy_edges[[0, -1]]
    flux_range = flux_range or flux_energies(low, high)
    limit, flux = np.full((2, len(vectors)), np.nan)
    for rows, group in _test_positions(sky_map, vectors, known, index):
        limit[rows] = group.upper_limit()
        flux[rows] = group.flux(limit[rows], flux_range)
    table = with_columns(table, LIMIT_COLUMNS, (limit, flux))
    table.meta |= {"EMIN": float(low), "EMAX": float(high)}
    table.meta |= {"FLUXEMIN": float(flux_range[0]), "FLUXEMAX": float(flux_range[1])}
    return table


def _position_table(positions):
    """Table of the positions, with their names where they have any."""
    import astropy.units as u
    from astropy.table import QTable

    positions = as_table(positions)
    coordinates = sky_positions(positions)
    columns = {"RAJ2000": coordinates.ra.to(u.deg), "DEJ2000": coordinates.dec.to(u.deg)}
    if "Source_Name" in positions.colnames:
        columns = {"Source_Name": positions["Source_Name"]} | columns
    return QTable(columns | {"skycoord": coordinates})


@dataclass(frozen=True, eq=False)
class _ProfileLikelihood:
    """Likelihood of the counts of n sources, maximized over the factors of k components."""

    pairs: Pairs  # of sources and counts bins, m of them
    weighted: np.ndarray  # (m,), weighted counts
    density: np.ndarray  # (m,), expected counts at the pairs for one count of the source
    expected: np.ndarray  # (n,), the same in total
    components: np.ndarray  # (m, k), expected counts of components, such as the background
    total: np.ndarray  # (n, k), the same in total
    fixed: np.ndarray  # (m,), further expected counts

    def _sums(self, values):
        return self.pairs.sum(self.weighted * values, len(self.expected))

    def upper_bound(self):
        """Counts (n,) below which the likelihood has the fraction ``_LEVEL`` of its integral."""
        peak = np.zeros(len(self.expected))
        np.maximum.at(peak, self.pairs.source, self.density)
        close = self._sums(self.density > 0.01 * peak[self.pairs.source])
        # more counts than any source has
        largest = 2 * (close + 10) / self.expected
        counts = largest[:, None] * np.append(0.0, np.geomspace(1e-3, 1.0, _N_COUNTS[0] - 1))
        for n_counts in _N_COUNTS[1:]:
            logs = self.log_likelihood(counts)
            # the range of counts with a likelihood that matters
            kept = logs > logs.max(axis=1, keepdims=True) - _MAX_FALL
            last = counts.shape[1] - 1
            low = np.maximum(kept.argmax(axis=1) - 1, 0)
            high = np.minimum(last - kept[:, ::-1].argmax(axis=1) + 1, last)
            low, high = (counts[np.arange(len(counts)), column] for column in (low, high))
            counts = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, n_counts)
        return _quantile(counts, self.log_likelihood(counts))

    def log_likelihood(self, counts):
        """Log-likelihood (n, q), less a constant, at ascending counts (n, q)."""
        result, logs = np.empty(counts.shape), np.zeros(self.total.shape)
        for column, number in enumerate(counts.T):
            for _ in range(_N_STEPS):
                logs = self._newton_step(logs, number)
            result[:, column] = self._sums(np.log(self._npred(logs, number)[0]))
            result[:, column] -= number * self.expected + (np.exp(logs) * self.total).sum(axis=1)
        return result

    def _npred(self, logs, counts):
        """Expected counts at the pairs (m,), and those of the components (m, k)."""
        source = self.pairs.source
        components = np.exp(logs)[source] * self.components
        npred = counts[source] * self.density + self.fixed + components.sum(axis=1)
        return np.maximum(npred, 1e-30), components

    def _newton_step(self, logs, counts):
        """Logarithms (n, k) of the factors after one step."""
        npred, components = self._npred(logs, counts)
        components /= npred[:, None]
        parts = np.ascontiguousarray(components.T)
        gradient = self._sums(parts).T - np.exp(logs) * self.total
        hessian = np.stack([self._sums(parts * part).T for part in parts], axis=1)
        hessian += 1e-3 * np.eye(len(parts))  # components without counts keep their factor
        change = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        return np.clip(logs + np.clip(change, -1.0, 1.0), -12.0, 12.0)


def counts_limits(source, number, density, others, expected):
    """95 % upper limits (n,) on the counts of n sources on top of known expected counts.

    Arrays (m,) of counts bins: the source, the counts, the expected counts of one count of the
    source, and those of all else; ``expected`` (n,) of one count are in all bins of a source.
    """
    limits = np.empty(len(expected))
    for rows in np.array_split(np.arange(len(expected)), len(expected) // _MAX_LIMITS + 1):
        inside = np.flatnonzero(np.isin(source, rows))
        pairs = Pairs(source[inside] - rows[:1].sum(), *np.zeros((5, len(inside))))
        # a component that does not count
        parts = {"components": np.full((len(inside), 1), 1e-30), "total": np.zeros((len(rows), 1))}
        limits[rows] = _ProfileLikelihood(
            pairs, number[inside], density[inside], expected[rows], fixed=others[inside], **parts
        ).upper_bound()
    return limits


def _quantile(counts, log_likelihood):
    """Counts (n,) at the ``_LEVEL`` quantile of the likelihood, on even grids (n, q)."""
    coarse, fine = np.linspace(0, 1, counts.shape[1]), np.linspace(0, 1, _N_FINE)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    # a polynomial times an exponential; its logarithm may be singular at no counts
    density = np.maximum(CubicSpline(coarse, likelihood, axis=1)(fine), 0.0)
    below = np.cumsum((density[:, 1:] + density[:, :-1]) / 2, axis=1)
    below = np.pad(below / below[:, -1:], ((0, 0), (1, 0)))
    quantile = np.array([np.interp(_LEVEL, row, fine) for row in below])
    return counts[:, 0] + quantile * (counts[:, -1] - counts[:, 0])


def expected_sqrt_ts(counts, fraction, background, profiles, weight=1.0):
    """Expected sqrt(TS) (n,) of sources with expected counts (n,).

    ``fraction`` (n, n_energy) of the counts falls in each energy bin, on ``background`` (n,
    n_energy) counts per square degree, taken as flat over the PSF; counts have the ``weight``.
    """
    in_rings = np.diff(profiles.contained[:, ::_STRIDE], axis=1)
    density, area = profiles.rings(_STRIDE)
    weight, total = np.broadcast_to(weight, fraction.shape), np.zeros(len(counts))
    for number, (ring, contained) in enumerate(zip(density, in_rings)):
        source = (counts * fraction[:, number])[:, None]
        other = np.maximum(background[:, [number]], _MIN_DENSITY)
        gain = (source * contained + other * area) * np.log1p(source * ring / other)
        total += weight[:, number] * (gain - source * contained).sum(axis=1)
    return np.sqrt(2 * np.maximum(total, 0.0))


def significances(sky_map, vectors, counts, *, sources=None, index=INDEX_PRIOR[0],
                  energy_range=None):  # fmt: skip
    """Expected sqrt(TS) (n,) of sources of expected counts (n,) at vectors (n, 3).

    NaN where the map was not observed; for the other arguments see `detection_limits`.
    """
    sqrt_ts = np.full(len(vectors), np.nan)
    for rows, group in _test_positions(sky_map, vectors, sources, index, energy_range):
        sqrt_ts[rows] = group.sqrt_ts(counts[rows])
    return sqrt_ts


def detection_limits(sky_map, vectors, sqrt_ts, *, sources=None, index=INDEX_PRIOR[0],
                     energy_range=None, flux_range=(1.0, 100.0), progress=None):  # fmt: skip
    """Counts (n,) and fluxes (n,) in ph cm-2 s-1 at which half of the sources are found.

    These have an expected ``sqrt_ts``, at Galactic unit vectors (n, 3), beside known ``sources``
    (k, 3) and with a photon ``index``. ``energy_range`` are the energies of the counts in GeV, all
    of the map by default, and ``flux_range`` those of the flux. ``progress`` wraps an iterable, as
    `tqdm.tqdm` does. Limits are NaN where the map was not observed, the flux also where the
    exposure is unknown.
    """
    counts, flux = np.full((2, len(vectors)), np.nan)
    groups = _test_positions(sky_map, vectors, sources, index, energy_range)
    for rows, group in progress(groups) if progress else groups:
        counts[rows] = group.detection_limit(sqrt_ts)
        flux[rows] = group.flux(counts[rows], flux_range)
    if len(vectors) and not np.isfinite(counts).any():
        warn("the map has no photons at these positions; detection limits are not known")
    return counts, flux
