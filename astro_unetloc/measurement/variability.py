"""Light curves: counts of sources in slices of time, and whether they vary.

All photons together give the background b and the expected counts s of each source per square
degree and energy bin. In a slice with the fraction e of the exposure the expected counts are
``e (beta b + sum_j f_j s_j)``. The rates f_j of all sources, relative to their means, and the local
factor beta of the background, which has a narrow prior around 1, are fitted together in each slice
by expectation maximization, so that a neighbour that flares does not make a source vary.

Without exposures of the slices e follows from the live times and from all photons within 15 deg
that belong to no source, since a telescope does not look at all directions equally long: in the
seven years of 3FHL the Galactic centre has 0.83 to 1.31 times the photons that live times predict.

``Variability`` is the square root of twice the log-likelihood ratio between one rate for each slice
and a constant one. With few photons in a slice its square does not follow a chi2 distribution: of
constant sources of 20 photons in 30 slices 0.5 % instead of 10 % had a probability of chi2 below
0.1. So the photons around each source are distributed over the slices at random, each slice with
the probability e, which is exact for a constant sky. Beyond the highest 5 % of the simulations the
probability by chance falls exponentially, as their mean excess shows.
"""

from functools import partial

import healpy
import numpy as np

from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.irf.exposure import exposure_of
from astro_unetloc.irf.spectra import PowerLawFractions, power_law_integrals
from astro_unetloc.measurement.data import MeasurementConfig, sum_groups
from astro_unetloc.measurement.fit import fit_in_groups
from astro_unetloc.measurement.limits import counts_limits
from astro_unetloc.sphere import healpix_centers

# Rounds of expectation maximization, and Newton steps to the maximum of one rate.
_N_ROUNDS, _N_NEWTON = 30, 14
# Counts that weigh as much as the prior on the factor of the background: a width of 10 %.
_PRIOR_COUNTS = 100.0
# Without exposures of the slices: photons so far around a source, in pixels of this nside, and
# counts in a slice that weigh as much as the live time: exposures follow it to 15 %.
_AROUND_DEG, _NSIDE, _LIVE_TIME_COUNTS = 15.0, 16, 44.0
# Below this test statistic a slice has an upper limit.
MIN_TS = 4.0
# Simulations of a constant source, many of them where the fraction of the tail or less is as
# variable; classes of photons by their ratio of source to background.
_N_SIMULATIONS, _TAIL, _N_CLASSES, _LEAST_RATIO = (200, 2000), 0.05, 16, 1e-3
# A simulation is as variable from this fraction of the test statistic on: of few photons the values
# are discrete, and the fit of neighbours and background changes them a little.
_SAME = 0.99
_TINY = 1e-30


def light_curves(
    sources, sky_map, *, slices, live, exposures=None, band_edges, flux_range, config=None, seed=0
):
    """Return the counts of sources in slices of time and their variability, a dict of arrays.

    Parameters
    ----------
    sources : QTable (n rows)
        With ``GLON`` and ``GLAT``; the positions stay as they are.
    sky_map : SkyMap
        Events that keep their times, see `astro_unetloc.read_map`.
    slices : ndarray (m, 2)
        Start and stop of the slices in seconds.
    live : ndarray (m,)
        Live times of the slices in units of that of the map.
    exposures : list of MapExposure (m), optional
        Exposures of the slices; by default that of the map is divided by live time and the photons
        around the sources.
    band_edges : array_like (n_band + 1,)
        The energies between the ends are used, GeV.
    flux_range : pair of float
        Energies of the flux, GeV.
    config : MeasurementConfig, optional
        Radii and limits of the fit.
    seed : int
        Seed of the simulations.

    Returns
    -------
    dict
        Arrays (n, m): ``exposure``, the fraction of the exposure of the map; ``counts``,
        ``counts_err``, ``counts_ul`` (95 % limit where TS < 4, else NaN), ``sqrt_ts``, and
        ``flux_per_count`` (NaN without an exposure). Arrays (n,): ``variability``, and
        ``probability`` that a constant source has this variability or more. Empty without sources
        or photons.
    """
    # the systematic error of the background is that of its shape, the same in all slices
    config = MeasurementConfig(systematic=0.0) if config is None else config
    run = partial(
        _run, slices=slices, live=live, exposures=exposures, flux_range=flux_range, seed=seed
    )
    return fit_in_groups(glon_glat_vectors(sources), sky_map, band_edges, config, run)


def _run(field, *, slices, live, exposures, flux_range, seed):
    """Results of the members of a `FieldFit`."""
    state, background, npred_other = field.fit_spectra()
    time = field.setup.counts.time
    number = np.searchsorted(slices[:, 0], time, side="right") - 1
    number[(number >= 0) & (time >= slices[number, 1])] = -1
    around = _photons_around(field, number, live) if exposures is None else None
    exposure, flux_per_count = _exposures(field, state.index, live, exposures, around, flux_range)
    fit = _SliceFit(field, state, background, exposure, number)
    counts, error, ratio = fit.best_counts()
    constant = fit.constant_log_likelihood()
    variability = np.sqrt(2 * np.maximum(ratio.sum(axis=1) - constant, 0.0))
    found = {
        "exposure": exposure,
        "counts": counts,
        "counts_err": error,
        "counts_ul": np.where(2 * ratio < MIN_TS, fit.limits(2 * ratio < MIN_TS), np.nan),
        "sqrt_ts": np.sqrt(2 * ratio),
        "flux_per_count": flux_per_count,
        "variability": variability,
    }
    found = {name: values[field.members] for name, values in found.items()}
    core = field.regions.core.select(number[field.regions.core.bin] >= 0)
    ratio = (state.npred / npred_other)[number[field.regions.core.bin] >= 0]
    expected = exposure * fit.in_core[:, None]
    probability = [
        chance_probability(
            variability[row] ** 2, ratio[core.source == row], expected[row],
            rng=[seed, *np.rint((field.vectors[row] + 1) * 1e6).astype(int)],
        )
        for row in field.members
    ]  # fmt: skip
    return found | {"probability": np.array(probability)}


def _photons_around(field, number, live):
    """Photons (n, m) around each source that are in no core, with those of the prior."""
    counts, n_pixels = field.setup.counts, 12 * _NSIDE**2
    outside = number >= 0
    outside[field.regions.core.bin] = False
    vectors = counts.vectors[counts.position[outside]]
    cell = healpy.vec2pix(_NSIDE, *vectors.T, nest=True) * len(live) + number[outside]
    photons = sum_groups(cell, counts.number[outside], n_pixels * len(live)).reshape(n_pixels, -1)
    centers = healpix_centers(_NSIDE, np.arange(n_pixels), nest=True)
    near = field.vectors @ centers.T > np.cos(np.radians(_AROUND_DEG))
    return near @ photons + _LIVE_TIME_COUNTS


def _exposures(field, index, live, exposures, around, flux_range):
    """Fraction of the exposure (n, m) in each slice, and flux (n, m) of one detected count."""
    edges, photons = field.setup.counts.energy_edges, power_law_integrals(index, flux_range)
    if exposures is None:
        found = around - _LIVE_TIME_COUNTS
        at_live_time = found.sum(axis=1, keepdims=True) * live / live.sum()
        fraction = live * around / (at_live_time + _LIVE_TIME_COUNTS)
        fraction *= live.sum() / fraction.sum(axis=1, keepdims=True)
        detected = field.spectrum.detected(index).sum(axis=1)[:, None] * fraction
        known = field.exposed[:, None]
    else:
        parts = [exposure_of(exposure, field.vectors) for exposure in exposures]
        known = np.stack([of_slice for of_slice, _ in parts], axis=1)
        spectra = (PowerLawFractions(edges, exposure) for _, exposure in parts)
        detected = np.stack([law.detected(index).sum(axis=1) for law in spectra], axis=1)
        detected = np.where(known, detected, 0.0)
        total = np.maximum(detected.sum(axis=1, keepdims=True), _TINY)
        fraction = detected / total * live.sum()
    return fraction, np.where(known, photons / np.maximum(detected, _TINY), np.nan)


class _SliceFit:
    """Rates of n sources in m slices of time, and factors of the background around them."""

    def __init__(self, field, state, background, exposure, number):
        reached = field.regions.reached
        used = number[reached.bin] >= 0
        # of the pairs of a source and a counts bin those of its core come first, then its region
        n_core, n_region = len(field.regions.core), len(field.regions.pairs)
        self._n_core, self._n_region = used[:n_core].sum(), used[:n_region].sum()
        self._bin, self._number = reached.bin[used], reached.number[used]
        self.exposure, self.n_bins = np.maximum(exposure, _TINY), len(number)
        self._source = reached.source[used]
        self._cell = self._source * exposure.shape[1] + number[self._bin]
        # expected counts of the source, in its core and of one count, and of the background
        self._npred = field.likelihood.npred_reached(state)[used]
        self.counts, self.in_core_of_one = state.counts, state.observed[0]
        self.in_core = state.counts * state.observed[0]
        self._background = background.npred[used[:n_region]]
        in_region = self.exposure * background.in_regions.sum(axis=1)[:, None]
        rate = factor = np.ones(exposure.shape)
        for _ in range(_N_ROUNDS):
            npred_source, npred_background, npred = self._expected(rate, factor)
            of_source = self._number[: self._n_core] * npred_source / npred[: self._n_core]
            of_background = self._number[: self._n_region] * npred_background / npred
            rate = self._sums(of_source) / (self.exposure * self.in_core[:, None])
            factor = (self._sums(of_background) + _PRIOR_COUNTS) / (in_region + _PRIOR_COUNTS)
        npred_source, _, npred = self._expected(rate, factor)
        core = slice(self._n_core)
        others = (
            np.maximum(npred[core] - npred_source, _TINY) * self.exposure.ravel()[self._cell[core]]
        )
        self._others, self._start = others, np.maximum(rate, 1e-3)
        self._density = self._npred[core] / state.counts[self._source[core]]
        self._ratio = self._density / others

    def _expected(self, rate, factor):
        """Expected counts of an exposure of 1: own source in the core, background and all."""
        at_pairs = rate.ravel()[self._cell] * self._npred
        total = sum_groups(self._bin, at_pairs, self.n_bins)
        region = slice(self._n_region)
        background = factor.ravel()[self._cell[region]] * self._background
        return at_pairs[: self._n_core], background, background + total[self._bin[region]]

    def _sums(self, values):
        """Sums (n, m) of values at the first pairs."""
        shape = self.exposure.shape
        return sum_groups(self._cell[: len(values)], values, np.prod(shape)).reshape(shape)

    def best_counts(self):
        """Counts (n, m) of each slice alone, their errors, and the log-likelihood ratio to none.

        Where no counts are best, the error is the counts at which it is half a unit less.
        """
        cell, number = self._cell[: self._n_core], self._number[: self._n_core]
        observed = np.broadcast_to(self.in_core_of_one[:, None], self.exposure.shape)
        rise, squared = self._sums(number * self._ratio), self._sums(number * self._ratio**2)
        counts = self._start * self.exposure * self.counts[:, None]
        for _ in range(_N_NEWTON):
            fraction = self._ratio / (1 + counts.ravel()[cell] * self._ratio)
            gradient = self._sums(number * fraction) - observed
            step = gradient / np.maximum(self._sums(number * fraction**2), _TINY)
            counts = np.clip(counts + step, counts / 4, 4 * counts + 1e-3)
        excess = np.maximum(observed - rise, 0.0)  # where it is positive no counts are best
        counts = np.where(excess > 0, 0.0, counts)
        fraction = self._ratio / (1 + counts.ravel()[cell] * self._ratio)
        squared = np.where(excess > 0, squared, self._sums(number * fraction**2))
        error = 1 / np.maximum(excess + np.sqrt(excess**2 + squared), _TINY)
        ratio = self._sums(number * np.log1p(counts.ravel()[cell] * self._ratio))
        return counts, error, np.maximum(ratio - counts * observed, 0.0)

    def constant_log_likelihood(self):
        """Log-likelihood ratio (n,) between the best constant rate and none."""
        source, number = self._source[: self._n_core], self._number[: self._n_core]
        # of a rate of 1
        ratio = (
            self._ratio * (self.exposure * self.counts[:, None]).ravel()[self._cell[: self._n_core]]
        )
        observed = self.exposure.sum(axis=1) * self.in_core
        return _best_rates(source, number, ratio, observed)

    def limits(self, wanted):
        """95 % upper limits (n, m) on the counts of the slices that are wanted; NaN of others."""
        number = np.full(wanted.size, -1)
        number[wanted.ravel()] = np.arange(np.count_nonzero(wanted))
        source = number[self._cell[: self._n_core]]
        rows = np.flatnonzero(source >= 0)
        expected = np.broadcast_to(self.in_core_of_one[:, None], wanted.shape)[wanted]
        found = np.full(wanted.shape, np.nan)
        found[wanted] = counts_limits(
            source[rows], self._number[rows], self._density[rows], self._others[rows], expected
        )
        return found


def _best_rates(group, number, ratio, observed):
    """Log-likelihood (k,) at the best rate of each of k groups of counts.

    It is ``sum(number * log(1 + rate * ratio)) - rate * observed``, 0 without a source.
    """
    rate, n_groups = np.ones(len(observed)), len(observed)
    for _ in range(_N_NEWTON):
        fraction = ratio / (1 + rate[group] * ratio)
        gradient = sum_groups(group, number * fraction, n_groups) - observed
        curvature = sum_groups(group, number * fraction**2, n_groups)
        rate = np.clip(rate + gradient / np.maximum(curvature, _TINY), rate / 4, 4 * rate + 1e-3)
    best = sum_groups(group, number * np.log1p(rate[group] * ratio), n_groups) - rate * observed
    return np.maximum(best, 0.0)


def chance_probability(statistic, ratio, expected, around=None, *, rng=0):
    """Probability that a constant source has this test statistic of variability or more.

    ``ratio`` (k,) is that of the expected counts of the source to those of all else at each of its
    photons; ``expected`` (m,) are its counts in the slices if it is constant, ``around`` (m,) the
    photons from which the exposures were estimated, whose scatter is simulated.
    """
    if not len(ratio) or not expected.sum():
        return 1.0
    rng = np.random.default_rng(rng)
    kind = np.arange(len(ratio))
    if len(ratio) > _N_CLASSES:
        edges = np.geomspace(_LEAST_RATIO, 1.0, _N_CLASSES) * ratio.max()
        kind = np.searchsorted(edges[:-1], ratio)
    number = np.bincount(kind)
    mean = np.bincount(kind, ratio)[number > 0] / number[number > 0]
    mean = mean[:, None, None]  # (classes, simulations, slices)
    number, chance = number[number > 0], expected / expected.sum()
    for n_simulations in _N_SIMULATIONS:
        if around is not None:
            chance = expected * rng.gamma(around, size=(n_simulations, len(around))) / around
            chance /= chance.sum(axis=1, keepdims=True)
        drawn = np.stack([rng.multinomial(n, chance, size=n_simulations) for n in number])
        constant = _best_log_likelihood(drawn.sum(axis=2, keepdims=True), mean, expected.sum())
        each = _best_log_likelihood(drawn, mean, expected).sum(axis=1)
        found = np.sort(2 * np.maximum(each - constant[:, 0], 0.0))
        n_above = np.count_nonzero(found >= _SAME * statistic)
        if n_above > _TAIL * n_simulations:
            return (n_above + 1) / (n_simulations + 1)
    tail = found[-int(_TAIL * n_simulations) :]
    return float(_TAIL * np.exp(-(statistic - tail[0]) / max(np.mean(tail - tail[0]), _TINY)))


def _best_log_likelihood(number, ratio, observed):
    """The same as `_best_rates` of counts (classes, ...) of the same ratios (classes, 1, 1)."""
    rate = np.ones(number.shape[1:])
    for _ in range(_N_NEWTON):
        fraction = ratio / (1 + rate * ratio)
        gradient = (number * fraction).sum(axis=0) - observed
        curvature = np.maximum((number * fraction**2).sum(axis=0), _TINY)
        rate = np.clip(rate + gradient / curvature, rate / 4, 4 * rate + 1e-3)
    best = (number * np.log1p(rate * ratio)).sum(axis=0) - rate * observed
    return np.maximum(best, 0.0)
