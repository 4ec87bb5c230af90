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
and a constant one. ``Sqrt_TS_Flare`` is the same between one rate for the slice that differs most
and another one for all the rest, as a flare in one of many slices hardly changes the first. With
few photons such ratios do not follow a chi2 distribution: of constant sources of 20 photons in 30
slices 0.5 % instead of 10 % had a probability of chi2 below 0.1. So the photons around each source
are distributed over the slices at random, each slice with the probability e, which is exact for a
constant sky. The probability by chance is that of the larger of the two ratios, in units of their
standard deviations in these simulations. Beyond the highest 5 % of them it falls exponentially, as
their mean excess shows.
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
        ``flux_per_count`` (NaN without an exposure). Arrays (n,): ``variability``, ``flare``, and
        the ``probability`` that a constant source varies as much by chance. Empty without sources
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
    rate, constant = fit.rates()
    unit, ts = exposure * state.counts[:, None], 2 * fit.log_likelihood(rate)
    statistics = fit.statistics(rate, constant)
    found = {
        "exposure": exposure,
        "counts": rate * unit,
        "counts_err": fit.errors(rate) * unit,
        "counts_ul": fit.limits(ts < MIN_TS) * unit,
        "sqrt_ts": np.sqrt(np.maximum(ts, 0.0)),
        "flux_per_count": flux_per_count,
        **dict(zip(("variability", "flare"), np.sqrt(statistics))),
    }
    used = number[field.regions.core.bin] >= 0
    ratio = (state.npred / npred_other)[used]
    first = np.searchsorted(field.regions.core.source[used], np.arange(field.n + 1))
    found["probability"] = np.ones(field.n)
    for row in field.members:
        seen = None if around is None else around[row]
        rng = [seed, *np.rint((field.vectors[row] + 1) * 1e6).astype(int)]
        found["probability"][row] = chance_probability(
            statistics[:, row], ratio[first[row] : first[row + 1]], fit.expected[row], seen, rng=rng
        )
    return {name: values[field.members] for name, values in found.items()}


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
    """Counts of the cores of n sources in m slices of time, and what else is expected there.

    The log-likelihood of a rate f, relative to none, is ``sum(log(1 + f ratio)) - f expected`` over
    the counts of a slice: the exposure cancels in the ratio of the source to all else.
    """

    def __init__(self, field, state, background, exposure, number):
        n_core, reached = len(field.regions.core), field.regions.reached
        used = number[reached.bin] >= 0
        pairs, n_core = reached.select(used), np.count_nonzero(used[:n_core])
        self._cell = pairs.source * exposure.shape[1] + number[pairs.bin]
        self.expected = np.maximum(exposure * (state.counts * state.observed[0])[:, None], _TINY)
        npred = field.likelihood.npred_reached(state)[used]
        others = _npred_others(
            pairs, self._cell, npred, background.npred[used[: len(background.npred)]],
            n_core=n_core, n_bins=len(number), expected=self.expected,
            in_region=exposure * background.in_regions.sum(axis=1)[:, None],
        )  # fmt: skip
        self._cell, self._source = self._cell[:n_core], pairs.source[:n_core]
        self._number, self._ratio = pairs.number[:n_core], npred[:n_core] / others[:n_core]

    def _spread(self, rate):
        """Values (n, m) at the counts."""
        return rate.ravel()[self._cell]

    def _total(self, values):
        """Sums (n, m) over the counts."""
        shape = self.expected.shape
        return sum_groups(self._cell, values, np.prod(shape)).reshape(shape)

    def rates(self):
        """Best rates (n, m), each of its slice alone, and the best constant ones (n, m)."""
        each = _best_rates(
            self._number, self._ratio, self.expected, spread=self._spread, total=self._total
        )
        constant = _best_rates(
            self._number, self._ratio, self.expected.sum(axis=1),
            spread=lambda rate: rate[self._source],
            total=lambda values: sum_groups(self._source, values, len(each)),
        )  # fmt: skip
        return each, np.broadcast_to(constant[:, None], each.shape)

    def log_likelihood(self, rate):
        """Log-likelihood ratio (n, m) between rates and none."""
        gain = self._total(self._number * np.log1p(self._spread(rate) * self._ratio))
        return gain - rate * self.expected

    def statistics(self, rate, constant):
        """Test statistics (2, n) of variability and of the flare."""
        parts = self._number, self._ratio, self.expected, rate, constant
        return _statistics(*parts, spread=self._spread, total=self._total)

    def errors(self, rate):
        """Errors (n, m) of the best rates, by the curvature of the likelihood.

        Where a rate is zero, it is the rate at which the log-likelihood is half a unit less.
        """
        rise = self._total(self._number * self._ratio)
        excess = np.where(rate > 0, 0.0, np.maximum(self.expected - rise, 0.0))
        fraction = self._ratio / (1 + self._spread(rate) * self._ratio)
        squared = self._total(self._number * fraction**2)
        return 1 / np.maximum(excess + np.sqrt(excess**2 + squared), _TINY)

    def limits(self, wanted):
        """95 % upper limits (n, m) on the rates of the slices that are wanted; NaN of others."""
        number, found = np.full(wanted.size, -1), np.full(wanted.shape, np.nan)
        number[wanted.ravel()] = np.arange(np.count_nonzero(wanted))
        source = number[self._cell]
        rows = np.flatnonzero(source >= 0)
        parts = source[rows], self._number[rows], self._ratio[rows], np.ones(len(rows))
        found[wanted] = counts_limits(*parts, self.expected[wanted])
        return found


def _npred_others(pairs, cell, npred, background, *, n_core, n_bins, expected, in_region):
    """Expected counts of all but the own source at the first pairs, for an exposure of 1.

    The rates of all sources and the factors of the background are fitted in each slice. Arrays of
    pairs are ``cell``, source and slice, and ``npred``, that of the source; those with a
    ``background``, in the region of the source, come first, and of these ``n_core`` of its core.
    """
    region = slice(len(background))
    rate = factor = np.ones(expected.shape)

    def sums(values, cells):
        return sum_groups(cells, values, expected.size).reshape(expected.shape)

    for number in range(_N_ROUNDS + 1):
        own = rate.ravel()[cell] * npred
        around = factor.ravel()[cell[region]] * background
        everything = around + sum_groups(pairs.bin, own, n_bins)[pairs.bin[region]]
        if number == _N_ROUNDS:
            return np.maximum(everything - own[region], _TINY)
        counts = pairs.number[region] / everything
        rate = sums((counts * own[region])[:n_core], cell[:n_core]) / expected
        of_background = sums(counts * around, cell[region])
        factor = (of_background + _PRIOR_COUNTS) / (in_region + _PRIOR_COUNTS)


def _best_rates(number, ratio, expected, *, spread, total):
    """Rates with the largest ``total(number * log(1 + spread(rate) * ratio)) - rate * expected``.

    ``spread`` returns the rate at each of the counts and ``total`` sums over them.
    """
    rise = total(number * ratio)
    rate = np.ones_like(rise)
    for _ in range(_N_NEWTON):
        fraction = ratio / (1 + spread(rate) * ratio)
        gradient = total(number * fraction) - expected
        curvature = np.maximum(total(number * fraction**2), _TINY)
        rate = np.clip(rate + gradient / curvature, rate / 4, 4 * rate)
    return np.where(rise > expected, rate, 0.0)


def _statistics(number, ratio, expected, rate, constant, *, spread, total):
    """Test statistics (2, ...) of a rate for each slice, and of another one for one of them alone.

    Both against the best constant rate; slices are the last axis of ``expected``. The rate of the
    slices but one is the constant one after a step, which is exact where they hold no counts.
    """
    at_rates, at_constant = (
        total(number * np.log1p(spread(value) * ratio)) - value * expected
        for value in (rate, constant)
    )
    gain = 2 * np.maximum(at_rates - at_constant, 0.0)
    fraction = ratio / (1 + spread(constant) * ratio)
    gradient = np.abs(total(number * fraction) - expected)  # the others have its negative
    curvature = total(number * fraction**2)
    others = curvature.sum(axis=-1, keepdims=True) - curvature
    others = gradient**2 / np.maximum(others + gradient / np.maximum(2 * constant, _TINY), _TINY)
    return np.stack([gain.sum(axis=-1), (gain + others).max(axis=-1)])


def chance_probability(statistics, ratio, expected, around=None, *, rng=0):
    """Probability that a constant source is as variable by chance.

    ``statistics`` (2,) are the test statistics of variability and of the flare. ``ratio`` (k,) is
    that of the expected counts of the source to those of all else at each of its photons;
    ``expected`` (m,) are its counts in the slices if it is constant, ``around`` (m,) the photons
    from which the exposures were estimated, whose scatter is simulated.
    """
    if not len(ratio) or not expected.sum():
        return 1.0
    rng = np.random.default_rng(rng)
    kind = np.arange(len(ratio))
    if len(ratio) > _N_CLASSES:
        edges = np.geomspace(_LEAST_RATIO, 1.0, _N_CLASSES) * ratio.max()
        kind = np.searchsorted(edges[:-1], ratio)
    number = np.bincount(kind)
    mean = (np.bincount(kind, ratio)[number > 0] / number[number > 0])[:, None, None]
    number, chance = number[number > 0], expected / expected.sum()
    sums = {"spread": lambda rate: rate, "total": lambda values: values.sum(axis=0)}
    constant = _best_rates(number[:, None, None], mean, expected.sum(), **sums)
    for n_simulations in _N_SIMULATIONS:
        if around is not None:
            chance = expected * rng.gamma(around, size=(n_simulations, len(around))) / around
            chance /= chance.sum(axis=1, keepdims=True)
        # (classes, simulations, slices)
        drawn = np.stack([rng.multinomial(n, chance, size=n_simulations) for n in number])
        rate = _best_rates(drawn, mean, expected, **sums)
        drawn = _statistics(drawn, mean, expected, rate, constant, **sums)
        average, spread = drawn.mean(axis=1), np.maximum(drawn.std(axis=1), 1e-9)
        found = np.sort(((drawn - average[:, None]) / spread[:, None]).max(axis=0))
        statistic = ((_SAME * statistics - average) / spread).max()
        n_above = np.count_nonzero(found >= statistic)
        if n_above > _TAIL * n_simulations:
            return (n_above + 1) / (n_simulations + 1)
    tail = found[-int(_TAIL * n_simulations) :]
    excess = max(np.mean(tail - tail[0]), 1e-9)
    return float(_TAIL * np.exp(-max(statistic - tail[0], 0.0) / excess))
