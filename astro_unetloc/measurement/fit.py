"""Fit of the sources of a map: positions, counts, spectra, their errors and significance.

`FieldSetup` holds what all sources of the map share. `FieldFit` fits a group of them step by step:
counts alone, all parameters, the position posterior, then counts and spectra at the final
positions.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from scipy.spatial import KDTree
from threadpoolctl import threadpool_limits

from astro_unetloc.catalog.columns import LOG_LIKELIHOOD, set_column, set_flag
from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.exceptions import warn
from astro_unetloc.executors import usable_cores
from astro_unetloc.irf.exposure import exposure_of, square_degree_density
from astro_unetloc.irf.psf import KingPSF, make_profiles, psf_of
from astro_unetloc.irf.spectra import PowerLawFractions, power_law_integrals
from astro_unetloc.measurement.background import LocalBackground, model_background
from astro_unetloc.measurement.data import (
    MeasurementConfig,
    Regions,
    fitted_energies,
    gather_counts,
    neighbor_pairs,
    sum_groups,
)
from astro_unetloc.measurement.likelihood import (
    INDEX_PRIOR,
    N_GRID,
    N_GRID_WIDE,
    Likelihood,
    background_fraction,
    joint_covariances,
    maximize,
    position_posterior,
)
from astro_unetloc.measurement.spectra import BAND_COLUMNS, BinLikelihood, band_columns
from astro_unetloc.sphere import chord, lonlat_from_vectors, move

log = logging.getLogger(__name__)

# Columns and flags of the catalogue that the fit sets.
_ELLIPSES = [f"Conf_{n}_{axis}" for n in (68, 95) for axis in ("SemiMajor", "SemiMinor", "PosAng")]
_SPECTRUM = "Npred", "Unc_Npred", "Flux", "Unc_Flux", "Spectral_Index", "Unc_Spectral_Index"
_FLAGS = "fit_failed", "wide", "bright_neighbor"
# A background with a fitted factor outside of these is warned about.
_NORMS = 0.5, 2.0
# Groups that are fitted, and held in memory, at the same time.
_MAX_THREADS = 4
# Sources whose spectra are compared with those of the grid at the same time.
_MAX_SPECTRA = 300
# Pixels hide the positions in them from so many 68 % radii of the PSF on.
_WIDE_PIXEL = 2.0
# Of a position, to begin its posterior with: fits with a larger one fail.
_MAX_SIGMA_DEG = 1.0
# Errors of counts that are so many times the counts, or one, are unknown.
_MAX_ERROR = 1e3
# Least eigenvalue of a Hessian at a maximum, in the units of the errors of the parameters.
_MIN_HESSIAN = 1e-3
# Indices of the parameters x, y, counts and index that are free in the steps of the fit.
_COUNTS, _COUNTS_AND_INDEX, _ALL = [2], [2, 3], [0, 1, 2, 3]


def pixel_profiles(sky_map, energy_edges, vectors, config):
    """Maker of `PsfProfiles` for sources at vectors (n, 3), and sub-pixels per side (n_energy,)."""
    psf = psf_of(sky_map.psf, vectors)
    _, exposure = exposure_of(sky_map.exposure, vectors)

    def mean_exposure(energy):
        return np.atleast_2d(exposure(energy)).mean(axis=0)

    profiles = partial(make_profiles, psf, energy_edges, exposure=mean_exposure)
    pixel_deg = sky_map.pixel_size_deg
    # sub-pixels in each energy bin, a power of two
    fine_deg = config.part_psf * profiles().containment_radius(0.68)
    width_deg = np.maximum(config.part_deg, fine_deg)
    halvings = np.ceil(np.log2(np.maximum(pixel_deg / width_deg, 1.0))).astype(int)
    halvings = np.maximum(halvings, pixel_deg > fine_deg)
    return profiles, np.minimum(2**halvings, config.max_split)


class FieldSetup:
    """Counts, PSF profiles and radii that all sources of a map share."""

    def __init__(self, sky_map, counts, vectors, config):
        self.sky_map, self.counts, self.config = sky_map, counts, config
        self.background = None  # per square degree
        if sky_map.background is not None:
            self.background = square_degree_density(sky_map.background)
        edges, pixel_deg = counts.energy_edges, sky_map.pixel_size_deg
        profiles, self.n_split = pixel_profiles(sky_map, edges, vectors, config)
        disc_deg = pixel_deg / self.n_split / np.sqrt(np.pi)
        self.profiles = profiles(disc_deg=disc_deg)
        wide_deg = [np.hypot(radius_deg, disc_deg) for radius_deg in config.wide_radii_deg]
        self.wide_profiles = [profiles(disc_deg=radius_deg) for radius_deg in wide_deg]
        min_core_deg = max(config.min_core_deg, config.core_pixels * pixel_deg)
        psf_deg = self.profiles.containment_radius(0.68).max()
        # of the regions of interest, and of the core in each energy bin
        self.radius_deg = max(config.min_radius_deg, config.radius_psf * psf_deg, 3 * min_core_deg)
        core_deg = np.maximum(self.profiles.containment_radius(0.9), min_core_deg)
        self.core_deg = np.minimum(core_deg, max(self.radius_deg / 2, min_core_deg))

    def reach_deg(self, vectors):
        """Radius (n,) around each source with hardly an expected photon outside.

        That is half a photon, or a small part of the noise of the counts in the region.
        """
        half_deg = np.median(self.profiles.containment_radius(0.5))
        seen = self._counts_within(vectors, half_deg)
        beside = 4 * (self._counts_within(vectors, self.radius_deg / 2) - seen)
        least = np.maximum(0.5, self.config.left_out * np.sqrt(beside))
        outside = np.minimum(least / np.maximum(seen, 1), 0.5)
        radius_deg = self.profiles.containment_radius(1 - outside)[0]
        return np.clip(radius_deg, self.radius_deg, 3 * self.radius_deg)

    def _counts_within(self, vectors, radius_deg):
        """Counts (n,) within a radius of directions."""
        near = self.counts.tree.query_ball_point(vectors, chord(radius_deg))
        return np.array([self.counts.at_position[np.asarray(rows, int)].sum() for rows in near])


class FieldFit:
    """Fit of n sources. The results are those of the members (k,).

    The other sources are fitted because their photons reach the members.
    """

    def __init__(self, vectors, setup, members=None):
        self.setup, self.config = setup, setup.config
        self.members = np.arange(len(vectors)) if members is None else members
        self.vectors, self.n, counts = vectors, len(vectors), setup.counts
        self.exposed, exposure = exposure_of(setup.sky_map.exposure, vectors)
        self.spectrum = PowerLawFractions(counts.energy_edges, exposure)
        radii_deg = setup.radius_deg, setup.core_deg, setup.reach_deg(vectors)
        self.regions = Regions(counts, vectors, *radii_deg, n_split=setup.n_split)
        area_deg2 = setup.profiles.effective_area()
        self.weight = systematic_weights(self.regions, area_deg2, self.config.systematic)
        self.likelihood = Likelihood(self.regions, setup.profiles, self.spectrum, self.weight)
        model = setup.background
        model = None if model is None else model_background(model, self.regions)
        parts = self.regions, self.spectrum, model, self.config, self.weight
        self.background = LocalBackground(*parts)
        self._neighbors = neighbor_pairs(vectors, 2 * setup.core_deg.max())

    def run(self, flux_range, *, grid=None, fixed=False):
        """Dict of arrays (k, ...): Galactic unit vectors, columns and flags of the catalogue.

        Values are NaN where they are unknown; fluxes are between two energies in GeV. ``fixed``
        positions stay as they are, without errors.
        """
        members, n_rounds = self.members, self.config.n_rounds
        state, background, _ = self._maximize(self._initial(), self.background, 3, _COUNTS)
        free = _COUNTS_AND_INDEX if fixed else _ALL
        best = self._maximize(state.parameters, background, n_rounds, free)
        if fixed:
            failed = best[0].counts[members] < self.config.min_counts
            offsets, ellipses = np.zeros((len(members), 2)), {}
        else:
            offsets, ellipses, failed = self._positions(*best)
        parameters = best[0].parameters.copy()
        parameters[members, :2] = np.where(failed[:, None], 0.0, offsets)
        # counts and spectra at the mean of the posterior
        best = self._maximize(parameters, best[1], 4, _COUNTS_AND_INDEX)
        x, y, counts, _ = best[0].parameters.T
        vectors = move(self.vectors, self.regions.east, self.regions.north, x, y)
        source, other = neighbor_pairs(vectors, self.config.bright_radius_deg).T
        outshone = source[counts[other] > self.config.bright_ratio * counts[source]]
        return {
            "vectors": vectors[members],
            **{name: np.where(failed, np.nan, values) for name, values in ellipses.items()},
            "Sqrt_TS": self._sqrt_ts(*best[:2])[members],
            **self._spectra(*best, flux_range),
            **self._bands(*best, grid),
            "background_norm": np.where(best[1].known, best[1].level[:, 0], np.nan)[members],
            "fit_failed": failed,
            "wide": self._wide(*best),
            "bright_neighbor": np.isin(members, outshone),
        }

    def fit_spectra(self):
        """The results of `maximize`, counts and indices fitted at the given positions."""
        n_rounds = self.config.n_rounds
        return self._maximize(self._initial(), self.background, n_rounds, _COUNTS_AND_INDEX)

    def _maximize(self, parameters, background, n_rounds, free):
        options = {"n_rounds": n_rounds, "neighbors": self._neighbors, "free": free}
        return maximize(self.likelihood, background, parameters, **options)

    def _initial(self):
        """Parameters (n, 4): counts within the 68 % radius less those of the surroundings."""
        core, pairs = self.regions.core, self.regions.pairs
        outside = pairs.select(slice(len(core), None))
        radius_deg = self.setup.profiles.containment_radius(0.68)
        inside = np.hypot(core.x, core.y) < radius_deg[core.energy_bin]
        found = core.sum(core.number * inside, self.n)
        area = np.pi * (self.regions.radius_deg**2 - np.median(self.setup.core_deg) ** 2)
        background = outside.sum(outside.number, self.n) / area * np.pi * np.median(radius_deg) ** 2
        counts = np.maximum(found - background, 2.0) / 0.68
        zero = np.zeros(self.n)
        return np.stack([zero, zero, counts, np.full(self.n, INDEX_PRIOR[0])], axis=1)

    def _positions(self, state, background, npred_other):
        """Offsets (k, 2) of the members in degrees, columns of their ellipses, failed fits."""
        alone, joint = self._covariances(state, background, npred_other)[:, :, :2, :2]
        part, pairs = self.likelihood.select(self.members)
        state = state.select(self.members, pairs)
        start, n_grid = _bounded(alone, _MAX_SIGMA_DEG), N_GRID
        pixel_deg = self.setup.sky_map.pixel_size_deg
        if pixel_deg > _WIDE_PIXEL * np.median(self.setup.profiles.containment_radius(0.68)):
            # inside of such a pixel the likelihood is flat, and its Hessian arbitrary
            start, n_grid = start + pixel_deg**2 / 12 * np.eye(2), N_GRID_WIDE
        mean, covariance, scales = position_posterior(
            part, state, npred_other[pairs], start, n_grid=n_grid
        )
        # the positive part of what free neighbours add
        value, vector = np.linalg.eigh(joint - alone)
        covariance += (vector * np.maximum(value, 0.0)[:, None]) @ np.swapaxes(vector, 1, 2)
        size_deg = np.sqrt(np.einsum("naa->n", covariance))
        shift_deg, limit_deg = np.hypot(*mean.T), max(self.config.max_offset_deg, pixel_deg)
        good = (size_deg < limit_deg) & (shift_deg < limit_deg)
        good &= (state.counts > self.config.min_counts) & np.isfinite(scales[1])
        return mean, ellipse_columns(covariance, scales), ~good

    def _covariances(self, state, background, npred_other):
        """Covariances (2, k, 4, 4) of each member alone, and with its neighbours free."""
        likelihood, core = self.likelihood, self.likelihood.core
        _, *matrices, derivatives = likelihood.gradient_and_hessian(state, npred_other)
        fraction, _ = background_fraction(likelihood, background, state)
        loss = background.information_loss(fraction, derivatives)
        hessian = _positive(*(matrix - loss for matrix in matrices))
        derivatives = (derivatives * np.sqrt(core.number)).T
        return joint_covariances(derivatives, core, hessian, self._neighbors, self.members)

    def _sqrt_ts(self, state, background):
        """Root of the test statistic (n,), the background fitted again without the source.

        Gradient and curvature of the background stay: a free parabola would rise at the source.
        """
        likelihood, pairs = self.likelihood, background.pairs
        npred_sources = likelihood.npred_sources(state)[pairs.bin]
        npred = npred_sources + background.npred
        npred_neighbors = npred_sources - likelihood.npred_reached(state)[: len(pairs)]
        npred_neighbors = np.maximum(npred_neighbors, 0.0)
        contained = self.regions.contained(self.setup.profiles, self.regions.radius_deg)
        total = background.in_regions + state.counts[:, None] * state.fraction[0] * contained
        for _ in range(4):
            fraction = background.npred / (background.npred + npred_neighbors)
            background = background.step(fraction, surface_free=False)
        ratio = npred / (npred_neighbors + background.npred)
        gain = pairs.sum(background.weighted * np.log(ratio), self.n)
        gain -= ((total - background.in_regions) * self.weight).sum(axis=1)
        return np.sqrt(2 * np.maximum(gain, 0.0))

    def _spectra(self, state, background, npred_other, flux_range):
        """Columns of counts, flux and index of the members, each with its error."""
        counts, index = state.counts[self.members], state.index[self.members]
        covariance = self._covariances(state, background, npred_other)[1, :, 2:, 2:]
        error, index_error = np.sqrt(np.einsum("naa->na", covariance)).T
        flux, above = (self.flux_per_count(index + step, flux_range) for step in (0, 0.01))
        jacobian = np.stack([flux, counts * (above - flux) / 0.01], axis=1)
        flux_error = np.sqrt(np.einsum("na,nab,nb->n", jacobian, covariance, jacobian))
        unknown = error > _MAX_ERROR * np.maximum(counts, 1.0)  # not constrained
        error, flux_error = (np.where(unknown, np.nan, values) for values in (error, flux_error))
        known = self.exposed[self.members] & (index_error < self.config.max_index_error)
        indices = (np.where(known, value, np.nan) for value in (index, index_error))
        return dict(zip(_SPECTRUM, (counts, error, flux * counts, flux_error, *indices)))

    def _bands(self, state, _, npred_other, grid):
        """Columns of counts and flux by band, and the log-likelihood of the spectra of a grid."""
        n_parts = len(self.members) // _MAX_SPECTRA + 1
        rows = np.array_split(self.members, n_parts)
        parts = [self._bands_of(r, state, npred_other, grid) for r in rows]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _bands_of(self, rows, state, npred_other, grid):
        """The same of the sources of some rows (k,)."""
        likelihood, pairs = self.likelihood.select(rows)
        state, counts = state.select(rows, pairs), self.setup.counts
        bins = BinLikelihood(likelihood, state, npred_other[pairs])
        edges = counts.energy_edges, counts.band_edges
        columns = band_columns(bins, likelihood.spectrum, state.index, *edges)
        for name in BAND_COLUMNS[2:]:
            columns[name] = np.where(self.exposed[rows, None], columns[name], np.nan)
        if grid is not None:
            ratio = bins.profile(likelihood.spectrum.grid_fractions(grid))[2]
            columns[LOG_LIKELIHOOD] = (ratio - ratio.max(axis=1, keepdims=True)).astype(np.float32)
        return columns

    def flux_per_count(self, index, flux_range):
        """Photon flux (k,) in ph cm-2 s-1 of power laws with one detected count of a member.

        NaN where the exposure is unknown.
        """
        detected = self.spectrum.select(self.members).detected(index).sum(axis=1)
        flux = power_law_integrals(index, flux_range)[:, 0] / np.maximum(detected, 1e-300)
        return np.where(self.exposed[self.members], flux, np.nan)

    def _wide(self, state, _, npred_other):
        """Whether (k,) a disc fits a member better than a point, by ``wide_ts``."""

        def log_likelihood(profiles):
            """Largest log-likelihood ratio (k,) between source and no source for a PSF."""
            likelihood = Likelihood(self.regions, profiles, self.spectrum, self.weight)
            part, pairs = likelihood.select(self.members)
            selected = state.select(self.members, pairs)
            return _best_log_likelihood(part, selected, npred_other[pairs])

        discs = np.max([log_likelihood(p) for p in self.setup.wide_profiles], axis=0)
        return 2 * (discs - log_likelihood(self.setup.profiles)) > self.config.wide_ts


def _bounded(covariance, largest):
    """Covariances (n, 2, 2) with standard deviations of at most this; the others are unchanged."""
    value, vector = np.linalg.eigh(covariance)
    bounded = (vector * np.minimum(value, largest**2)[:, None]) @ np.swapaxes(vector, 1, 2)
    return np.where((value[:, 1] > largest**2)[:, None, None], bounded, covariance)


def ellipse_columns(covariance, scales):
    """Columns of the 68 and 95 % ellipses of covariances (k, 2, 2) and radii (2, k) in sigma.

    The position angle is that of the major axis in degrees east of north, 0 to 180.
    """
    value, vector = np.linalg.eigh(covariance)
    minor, major = np.sqrt(np.maximum(value, 0.0)).T
    angle = np.degrees(np.arctan2(vector[:, 0, 1], vector[:, 1, 1])) % 180.0
    columns = [column for s in scales for column in (s * major, s * minor, angle)]
    return dict(zip(_ELLIPSES, columns))


def _best_log_likelihood(likelihood, state, npred_other):
    """Log-likelihood ratio (n,) between source and no source, at the best counts."""
    core, n = likelihood.core, likelihood.n
    at_one_count = likelihood.evaluate(np.where([0, 0, 1, 0], 1.0, state.parameters))
    ratio, observed = at_one_count.npred / npred_other, at_one_count.observed[0]
    counts = state.counts
    for _ in range(6):
        fraction = ratio / (1 + counts[core.source] * ratio)
        gradient = core.sum(core.number * fraction, n) - observed
        hessian = core.sum(core.number * fraction**2, n)
        counts = np.clip(counts + gradient / np.maximum(hessian, 1e-12), counts / 3, counts * 3)
    gain = core.sum(core.number * np.log1p(counts[core.source] * ratio), n)
    return gain - counts * observed


def _positive(hessian, information):
    """Hessians (n, 4, 4) that are those of a maximum, else the expected information.

    Directions without information get a little, so that their errors are large but finite.
    """
    size = np.sqrt(np.maximum(np.einsum("naa->na", information), 1e-12))
    unit = size[:, :, None] * size[:, None, :]
    least = np.linalg.eigvalsh(hessian / unit)[:, 0]
    expected = information + _MIN_HESSIAN * unit * np.eye(4)
    return np.where((least > _MIN_HESSIAN)[:, None, None], hessian, expected)


def systematic_weights(regions, area_deg2, systematic):
    """Weights (n, n_energy) of counts for a relative systematic error of the background.

    ``1 / (1 + systematic**2 B)`` (arXiv:1902.10045, appendix B) for B counts in the effective area
    of the PSF, (n_energy,), at this energy and above: energies are taken as fully correlated.
    """
    pairs, shape = regions.pairs, (len(regions), len(area_deg2))
    cell = pairs.cell(shape[1])
    counts = sum_groups(cell, pairs.number, shape[0] * shape[1]).reshape(shape)
    observed = np.maximum(regions.sample_area.sum(axis=1, keepdims=True), area_deg2.min())
    above = np.cumsum((counts / observed * area_deg2)[:, ::-1], axis=1)[:, ::-1]
    return 1 / (1 + systematic**2 * above)


def measure_sources(
    sources, sky_map, *, band_edges, flux_range, grid=None, fixed=False, config=None
):
    """Return the table of sources with what a likelihood fit of the map's own counts measures.

    Parameters
    ----------
    sources : QTable (n rows)
        With ``GLON``, ``GLAT`` and ``Flags``, see `astro_unetloc.detection.localize`.
    sky_map : SkyMap
        Counts, and exposure, background and PSF where it has them.
    band_edges : array_like (n_band + 1,)
        Edges in GeV of the bands of the columns by band; the counts between the ends are used.
    flux_range : pair of float
        Energies of the flux, GeV.
    grid : SpectralGrid, optional
        Spectra whose log-likelihood is wanted for each source.
    fixed : bool
        Whether the positions and their errors stay as they are.
    config : MeasurementConfig, optional
        Radii and limits.

    Returns
    -------
    QTable
        A copy with ``GLON`` and ``GLAT`` of the fit, the axes of the 68 % and 95 % confidence
        ellipses, ``Sqrt_TS``, ``Npred``, ``Flux``, ``Spectral_Index`` and their errors (NaN where
        unknown; without an exposure fluxes and ``Spectral_Index`` are), counts and fluxes by band,
        with a grid ``Spectral_LnL`` (n, n_nodes), the log-likelihood of each of its spectra minus
        the largest, NaN where nothing was fitted, and the flags "fit_failed", "wide" and
        "bright_neighbor". With a background, ``meta`` has its fitted factor "background_norm", the
        median over the sources.
    """
    result, vectors = sources.copy(), glon_glat_vectors(sources)
    config = MeasurementConfig() if config is None else config
    run = partial(FieldFit.run, flux_range=flux_range, grid=grid, fixed=fixed)
    values = fit_in_groups(vectors, sky_map, band_edges, config, run)
    for name in (*([] if fixed else _ELLIPSES), "Sqrt_TS", *_SPECTRUM):
        set_column(result, name, values.get(name, np.full(len(result), np.nan)))
    for name in BAND_COLUMNS:
        unknown = np.full((len(result), len(band_edges) - 1), np.nan)
        set_column(result, name, values.get(name, unknown))
    if grid is not None:
        unknown = np.full((len(result), len(grid)), np.nan, np.float32)
        result[LOG_LIKELIHOOD] = values.get(LOG_LIKELIHOOD, unknown)
    for name in _FLAGS:
        set_flag(result, name, values.get(name, name == "fit_failed"))
    if values:
        for name, lonlat in zip(("GLON", "GLAT"), lonlat_from_vectors(values["vectors"])):
            set_column(result, name, lonlat)
        norms = values["background_norm"][np.isfinite(values["background_norm"])]
        if len(norms):
            norm = result.meta["background_norm"] = float(np.median(norms))
            if not _NORMS[0] <= norm <= _NORMS[1]:
                warn(
                    f"the counts need {norm:.3g} times the background; expected {_NORMS[0]:g} to "
                    f"{_NORMS[1]:g}; check its time, events and exposure"
                )
        n_failed = int(values["fit_failed"].sum())
        log.info("%d sources measured, %d fits failed", len(result), n_failed)
    return result


def fit_in_groups(vectors, sky_map, band_edges, config, run):
    """Return a dict of the results (n, ...) of ``run``, a function of a `FieldFit`.

    They are those of all sources at vectors (n, 3); empty where nothing is fitted.
    """
    if not len(vectors):
        return {}
    counts = gather_counts(sky_map, band_edges)
    if not len(counts.number):
        ends = counts.band_edges[[0, -1]]
        if not len(fitted_energies(sky_map, *ends)):
            low, high = sky_map.energy_edges[[0, -1]]
            warn(
                "sources are not measured: no energy bin of the map has its middle within the "
                f"model's {ends[0]:g}-{ends[1]:g} GeV (bins of {low:g}-{high:g} "
                "GeV); give a map with finer bins"
            )
        return {}
    setup = FieldSetup(sky_map, counts, vectors, config)
    groups = list(fit_groups(vectors, setup))

    def fit(members, everyone):
        """The members of a group, fitted with their neighbours."""
        return run(FieldFit(vectors[everyone], setup, np.searchsorted(everyone, members)))

    # Array operations leave the interpreter to other threads meanwhile; those of linear algebra
    # are too small to be shared between threads of their own.
    n_threads = min(usable_cores(), _MAX_THREADS)
    with threadpool_limits(limits=1), ThreadPoolExecutor(max_workers=n_threads) as pool:
        parts = list(pool.map(fit, *zip(*groups)))
    order = np.argsort(np.concatenate([members for members, _ in groups]))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def fit_groups(vectors, setup):
    """Yield indices of sources whose results are computed together, and of these with neighbours.

    The sky is halved until the pairs of each group fit into memory, see ``max_pairs``.
    """
    counts, radius_deg, core_deg = setup.counts, setup.radius_deg, setup.core_deg
    # approximate number of pairs and sub-pixels of each source
    cost = counts.tree.query_ball_point(vectors, np.radians(radius_deg), return_length=True)
    bins = np.bincount(counts.energy_bin, minlength=len(core_deg)) / len(counts.vectors)
    in_core = np.minimum(core_deg / radius_deg, 1.0) ** 2
    cost = cost * (bins * (1 + in_core * setup.n_split**2)).sum()
    tree, margin = KDTree(vectors), np.radians(radius_deg + 2 * core_deg.max())
    waiting = [np.arange(len(vectors))]
    while waiting:
        members = waiting.pop()
        near = tree.query_ball_point(vectors[members], margin)
        group = np.unique(np.concatenate([np.asarray(n, int) for n in near]))
        if cost[group].sum() <= setup.config.max_pairs or len(members) == 1:
            yield members, group
            continue
        axis = np.argmax(np.ptp(vectors[members], axis=0))
        ordered = members[np.argsort(vectors[members, axis], kind="stable")]
        waiting += [np.sort(half) for half in np.array_split(ordered, 2)]


def neighbor_margin_deg(emin, psf=None):
    """Distance in degrees within which sources matter to each other: two fit radii at ``emin``."""
    config = MeasurementConfig()
    psf_deg = (psf or KingPSF()).containment_radius(0.68, emin)
    return 2 * max(config.min_radius_deg, config.radius_psf * psf_deg)
