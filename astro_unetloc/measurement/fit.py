"""The fit of the sources of one map, step by step: from where they were found to what they are.

Measurement: positions, counts, spectra and their errors of localized sources, by likelihood.
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from astro_unetloc.catalog.columns import FLAGS
from astro_unetloc.detection.localization import LocalizationConfig
from astro_unetloc.exceptions import warn
from astro_unetloc.irf.exposure import exposure_of
from astro_unetloc.irf.psf import KingPSF, make_profiles, psf_of
from astro_unetloc.irf.spectra import PowerLawFractions, power_laws
from astro_unetloc.measurement.background import BackgroundFit, model_background
from astro_unetloc.measurement.data import (
    MeasurementConfig,
    fitted_energies,
    gather_counts,
    make_neighborhoods,
    sum_groups,
)
from astro_unetloc.measurement.likelihood import (
    SourceModel,
    SourcesFit,
    curvatures,
    derivatives,
    fit_sources,
    joint_covariances,
    neighbor_pairs,
    take_turns,
)
from astro_unetloc.measurement.posterior import Ellipses, position_posterior
from astro_unetloc.sphere import lonlat_from_vectors, move

__all__ = [
    "FieldFit",
    "FieldSetup",
    "Measurement",
    "fit_groups",
    "measure_sources",
    "neighbor_margin_deg",
    "systematic_weights",
]


# Of a curvature that counts as one of a maximum, in the units of the errors of the parameters.
_LEAST_TOLD = 1e-3


class FieldSetup:
    """What is the same for all sources of a map.

    Parameters
    ----------
    sky_map : SkyMap
        The map, with its PSF, exposure and background where it has them.
    counts : Counts
        Its counts.
    vectors : ndarray (n, 3)
        The sources, in whose middle a PSF map is read.
    config : MeasurementConfig
        Radii and limits.
    """

    def __init__(self, sky_map, counts, vectors, config):
        self.sky_map, self.counts, self.config = sky_map, counts, config
        self._psf = psf_of(sky_map.psf, vectors)
        pixel_deg = sky_map.pixel_size_deg
        _, table = exposure_of(sky_map.exposure, vectors)
        self._exposure = lambda energy: np.atleast_2d(table(energy)).mean(axis=0)
        of_points = self._profiles(0.0)
        self.n_split = _divisions(pixel_deg, of_points.containment_radius(0.68), config)
        self.part_disc_deg = pixel_deg / self.n_split / np.sqrt(np.pi)
        self.profiles = self._profiles(self.part_disc_deg) if pixel_deg else of_points
        least_deg = max(config.min_core_deg, config.core_pixels * pixel_deg)
        self.core_deg = np.maximum(self.profiles.containment_radius(0.9), least_deg)
        widest_deg = config.radius_psf * self.profiles.containment_radius(0.68).max()
        self.radius_deg = max(config.min_radius_deg, widest_deg, 3 * least_deg)
        self.core_deg = np.minimum(self.core_deg, max(self.radius_deg / 2, least_deg))
        # of discs instead of points
        self.wide_profiles = [
            self._profiles(np.hypot(radius_deg, self.part_disc_deg))
            for radius_deg in config.wide_radii_deg
        ]

    def _profiles(self, disc_deg):
        edges = self.counts.energy_edges
        return make_profiles(self._psf, edges, disc_deg=disc_deg, exposure=self._exposure)

    def reach_deg(self, vectors):
        """How far (n,) the photons of a source are followed: until half of one is left."""
        inner = np.median(self.profiles.containment_radius(0.5))
        seen = self.counts.number_near(vectors, inner)
        outside = np.minimum(0.5 / np.maximum(seen, 1), 0.5)
        radius = np.array([self.profiles.containment_radius(1 - o)[0] for o in outside])
        return np.clip(radius, self.radius_deg, 3 * self.radius_deg)

    def pairs_per_source(self, vectors):
        """About how many numbers (n,) are held for each source."""
        places = self.counts.tree.query_ball_point(
            vectors, np.radians(self.radius_deg), return_length=True
        )
        close = np.minimum(self.core_deg / self.radius_deg, 1.0) ** 2
        entries = np.bincount(self.counts.energy_bin, minlength=len(close))
        entries = entries / len(self.counts.vectors)
        return places * (entries * (1 + close * self.n_split**2)).sum()


class FieldFit:
    """The fit of n sources: its steps, and what they share.

    Parameters
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors of where the sources were found.
    setup : FieldSetup
        The map.
    members : ndarray (k,) of int, optional
        Those of the sources that are asked for, all by default; the others only shine on them.
    """

    def __init__(self, vectors, setup, members=None):
        self.setup, self.config = setup, setup.config
        self.members = np.arange(len(vectors)) if members is None else members
        self.vectors, self.n, counts = vectors, len(vectors), setup.counts
        self.exposed, exposure = exposure_of(setup.sky_map.exposure, vectors)
        self.spectrum = PowerLawFractions(counts.energy_edges, exposure)
        self.hood = make_neighborhoods(
            counts, vectors, setup.radius_deg, setup.core_deg, setup.reach_deg(vectors),
            n_split=setup.n_split,
        )  # fmt: skip
        self.weight = systematic_weights(
            self.hood, setup.profiles.effective_area(), self.config.systematic
        )
        self.fit = SourcesFit(
            self.hood, len(counts.number), setup.profiles, self.spectrum, setup.core_deg,
            self.weight,
        )  # fmt: skip
        model = setup.sky_map.background
        if model is not None:
            model = model_background(model, self.hood, counts)
        self.background_fit = BackgroundFit(
            self.hood, self.spectrum, model, self.config, self.weight
        )
        self.neighbors = neighbor_pairs(vectors, 2 * setup.core_deg.max())
        self.turns = take_turns(self.n, self.neighbors)

    def run(self, flux_range):
        """Fit everything, in the order in which it becomes known.

        Parameters
        ----------
        flux_range : pair of float
            Energies of the flux, GeV.

        Returns
        -------
        dict
            Arrays and ellipses of the k members, named as in
            `astro_unetloc.measurement.fit.Measurement`.
        """
        model = self._start()
        background = self.background_fit.start()
        state, background, _ = self._maximize(model, background, 3, (0, 0, 1, 0))
        state, background, rest = self._maximize(
            state.model, background, self.config.n_rounds, (1, 1, 1, 1)
        )
        alone, joint = self._covariances(state, rest, background)
        part, pairs = self.fit.part(self.members)
        state_of_part = state.part(self.members, pairs)
        posterior = position_posterior(part, state_of_part, rest[pairs], alone[:, :2, :2])
        posterior = posterior.widened((joint - alone)[:, :2, :2])
        failed = self._failed(posterior, state_of_part.model)
        x, y = state.model.x.copy(), state.model.y.copy()
        x[self.members] = np.where(failed, 0.0, posterior.x)
        y[self.members] = np.where(failed, 0.0, posterior.y)
        model = replace(state.model, x=x, y=y)
        state, background, rest = self._maximize(model, background, 4, (0, 0, 1, 1))
        covariance = np.where(failed[:, None, None], np.nan, posterior.covariance)
        vectors = move(self.vectors, self.hood.east, self.hood.north, x, y)
        vectors[self.members[failed]] = self.vectors[self.members[failed]]
        near_brighter = _near_brighter(vectors, state.model.counts, self.config)
        scales = posterior.scale_68, posterior.scale_95
        ellipses = (
            Ellipses.from_covariance(posterior.covariance, np.where(failed, np.nan, scale))
            for scale in scales
        )
        return {
            "vectors": vectors[self.members],
            "covariance": covariance,
            **dict(zip(("ellipse_68", "ellipse_95"), ellipses)),
            "sqrt_ts": self._sqrt_ts(state, background)[self.members],
            **self._spectra(state, rest, background, flux_range),
            "failed": failed,
            "wide": self._wide(state, rest),
            "bright_neighbor": near_brighter[self.members],
        }

    def fit_strengths(self):
        """State of the sources with counts and indices fitted where they were found."""
        background = self.background_fit.start()
        free = (0, 0, 1, 1)
        return self._maximize(self._start(), background, self.config.n_rounds, free)[0]

    def _maximize(self, model, background, n_rounds, free):
        return fit_sources(
            self.fit, self.background_fit, model, background,
            n_rounds=n_rounds, turns=self.turns, free=free,
        )  # fmt: skip

    def _covariances(self, state, rest, background):
        """Covariances (k, 4, 4) of each member alone, and with its neighbours free."""
        _, curvature, information = curvatures(self.fit, state, rest)
        slopes = np.stack(derivatives(self.fit, state, rest), axis=1)
        own, others, _ = self.fit.at_all_pairs(state)
        surface = self.background_fit.density(background)
        cost = self.background_fit.cost(surface / (surface + others + own), slopes)
        curvature = _positive(curvature - cost, information - cost)
        core = self.fit.core
        slopes *= np.sqrt(core.number)[:, None]
        return joint_covariances(
            slopes, self.neighbors, curvature, core.entry, core.source, wanted=self.members
        )

    def _start(self):
        """Counts within the 68 % radius without those that the surroundings let expect."""
        core, tail = self.hood.core, self.hood.tail.select(self.hood.in_region)
        radius = self.setup.profiles.containment_radius(0.68)
        inside = np.hypot(core.x, core.y) < radius[core.energy_bin]
        found = core.sum(core.number * inside, self.n)
        around = np.pi * (self.hood.radius_deg**2 - np.median(self.setup.core_deg) ** 2)
        density = tail.sum(tail.number, self.n) / around
        counts = np.maximum(found - density * np.pi * np.median(radius) ** 2, 2.0) / 0.68
        zero = np.zeros(self.n)
        return SourceModel(zero, zero, counts, np.full(self.n, 2.3))

    def _failed(self, posterior, model):
        """Which positions (k,) could not be fitted."""
        size = np.sqrt(np.einsum("naa->n", posterior.covariance))
        moved = np.hypot(posterior.x, posterior.y)
        limit = self.config.max_offset_deg
        good = (size < limit) & (moved < limit) & (model.counts > self.config.min_counts)
        good &= np.isfinite(posterior.scale_95)
        return ~good

    def _sqrt_ts(self, state, background):
        """Root of the test statistic, the background fitted again without the source.

        Its slope and curvature stay: with them a parabola would rise where the source is.
        """
        own, others, _ = self.fit.at_all_pairs(state)
        fit = self.background_fit
        with_source = others + own + fit.density(background)
        inside = self.fit.contained(self.hood.radius_deg)
        expected = fit.total(background) + state.model.counts[:, None] * state.rates[0] * inside
        for _ in range(4):
            surface = fit.density(background)
            share = surface / (surface + others)
            background = fit.step(background, share, surface_free=False)
        without = others + fit.density(background)
        gain = sum_groups(fit.source, fit.weighted * np.log(with_source / without), self.n)
        gain -= ((expected - fit.total(background)) * self.weight).sum(axis=1)
        return np.sqrt(2 * np.maximum(gain, 0.0))

    def _spectra(self, state, rest, background, flux_range):
        """Counts, flux and index of the members, each with its error, by name."""
        counts, index = state.model.counts[self.members], state.model.index[self.members]
        exposed = self.exposed[self.members]
        covariance = self._covariances(state, rest, background)[1][:, 2:, 2:]
        error, index_error = np.sqrt(np.einsum("naa->na", covariance)).T
        flux, above = (self.flux_per_count(index + change, flux_range) for change in (0, 0.01))
        jacobian = np.stack([flux, counts * (above - flux) / 0.01], axis=1)
        flux_error = np.sqrt(np.einsum("na,nab,nb->n", jacobian, covariance, jacobian))
        known = exposed & (index_error < self.config.max_index_error)
        return {
            "npred": counts,
            "npred_err": error,
            "flux": np.where(exposed, flux * counts, np.nan),
            "flux_err": np.where(exposed, flux_error, np.nan),
            "index": np.where(known, index, np.nan),
            "index_err": np.where(known, index_error, np.nan),
        }

    def flux_per_count(self, index, flux_range):
        """Photon flux (k,) of power laws of which one count of a member is detected."""
        detected = self.spectrum.select(self.members).detected(index).sum(axis=1)
        pivot = self.setup.counts.energy_edges[0]
        laws = power_laws(np.ones(len(index)), index, emin=pivot, emax=2 * pivot)
        norm = 1 / np.maximum(detected, 1e-300)  # of (E / GeV) ** -index
        return laws.flux(*flux_range) / laws.amplitude * pivot ** (-index) * norm

    def _wide(self, state, rest):
        """Whether a disc fits a member better than a point, by more than chance lets expect."""
        part, pairs = self.fit.part(self.members)
        state, rest = state.part(self.members, pairs), rest[pairs]
        point = _best_log_likelihood(part, state, rest)
        discs = (
            _best_log_likelihood(self.fit.of_profiles(part, self.members, profiles), state, rest)
            for profiles in self.setup.wide_profiles
        )
        return 2 * (np.max(list(discs), axis=0) - point) > self.config.wide_ts


def _best_log_likelihood(fit, state, rest):
    """Logarithm of the likelihood (n,) over that of no source, best in the counts."""
    core, share = fit.core, state.rates[0]
    ratio = share.ravel()[fit.cell] * fit.densities(state.model)[0] / rest
    observed = (share * fit.inside).sum(axis=1)
    counts = state.model.counts
    for _ in range(6):
        part = ratio / (1 + counts[core.source] * ratio)
        slope = core.sum(core.number * part, fit.n) - observed
        bend = core.sum(core.number * part**2, fit.n)
        counts = np.clip(counts + slope / np.maximum(bend, 1e-12), counts / 3, counts * 3)
    gain = core.sum(core.number * np.log1p(counts[core.source] * ratio), fit.n)
    return gain - counts * observed


def _positive(curvature, information):
    """Curvatures (n, 4, 4) where they are those of a maximum, else the expected ones.

    What the data do not tell at all gets a thousandth of what they tell best, in the units of each
    parameter's own error, so that its error is large and not infinite.
    """
    size = np.sqrt(np.maximum(np.einsum("naa->na", information), 1e-12))
    unit = size[:, :, None] * size[:, None, :]
    least = np.linalg.eigvalsh(curvature / unit)[:, 0]
    expected = information + _LEAST_TOLD * unit * np.eye(4)
    return np.where((least > _LEAST_TOLD)[:, None, None], curvature, expected)


def _divisions(pixel_deg, psf_deg, config):
    """In how many parts along a side the pixels of each bin are divided, (n_energy,)."""
    fine = config.part_psf * psf_deg
    halvings = np.ceil(np.log2(np.maximum(pixel_deg / np.maximum(config.part_deg, fine), 1.0)))
    halvings = np.maximum(halvings.astype(int), pixel_deg > fine)
    return np.minimum(2**halvings, config.max_split)


def systematic_weights(hood, area_deg2, systematic):
    """What a count says (n, n_energy) where the background is not known exactly.

    ``1 / (1 + systematic**2 B)`` (arXiv:1902.10045, appendix B), with B the counts within the
    point-spread function at this energy and above, where the same error is made again.
    """
    ring = hood.tail.select(hood.in_region)
    shape = len(hood.vectors), len(area_deg2)
    counts = sum(
        sum_groups(pairs.source * shape[1] + pairs.energy_bin, pairs.number, shape[0] * shape[1])
        for pairs in (hood.core, ring)
    ).reshape(shape)
    covered = np.maximum(hood.place_area.sum(axis=1, keepdims=True), area_deg2.min())
    above = np.cumsum((counts / covered * area_deg2)[:, ::-1], axis=1)[:, ::-1]
    return 1 / (1 + systematic**2 * above)


def _near_brighter(vectors, counts, config):
    """Whether (n,) a much brighter source is near."""
    from scipy.spatial import KDTree

    near = np.zeros(len(vectors), dtype=bool)
    pairs = KDTree(vectors).query_pairs(np.radians(config.bright_radius_deg), output_type="ndarray")
    for one, other in (pairs.T, pairs[:, ::-1].T):
        near[one[counts[other] > config.bright_ratio * counts[one]]] = True
    return near


log = logging.getLogger(__name__)


# Groups that are fitted, and held in memory, at the same time.
_MAX_THREADS = 4


_BIT = {name: bit for name, (bit, _) in FLAGS.items()}


@dataclass(frozen=True)
class Measurement:
    """What the likelihood says of n sources; NaN where it does not tell.

    Attributes
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors; where the fit failed those that the network found.
    covariance : ndarray (n, 2, 2)
        Of the position, towards ICRS east and north, in deg2.
    ellipse_68, ellipse_95 : Ellipses
        They hold 68 and 95 % of true positions.
    sqrt_ts : ndarray (n,)
        Square root of twice the logarithm of the likelihood ratio with and without the source.
    npred, npred_err : ndarray (n,)
        Expected counts in the range of the measurement, and their 1 sigma error.
    flux, flux_err : ndarray (n,)
        Photon flux in ph cm-2 s-1; NaN without an exposure.
    index, index_err : ndarray (n,)
        Photon index of a power law; NaN without an exposure.
    failed : ndarray (n,) of bool
        Whether the position could not be fitted.
    wide : ndarray (n,) of bool
        Whether a disc fits better than a point.
    bright_neighbor : ndarray (n,) of bool
        Whether a much brighter source is near.
    """

    vectors: np.ndarray
    covariance: np.ndarray
    ellipse_68: Ellipses
    ellipse_95: Ellipses
    sqrt_ts: np.ndarray
    npred: np.ndarray
    npred_err: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    index: np.ndarray
    index_err: np.ndarray
    failed: np.ndarray
    wide: np.ndarray
    bright_neighbor: np.ndarray

    def __len__(self):
        return len(self.npred)

    def select(self, mask):
        """The sources of a mask or index array."""

        def part(value):
            """The rows of an array or of ellipses."""
            if isinstance(value, Ellipses):
                return Ellipses(*(getattr(value, k)[mask] for k in value.__dataclass_fields__))
            return value[mask]

        return Measurement(*(part(getattr(self, k)) for k in self.__dataclass_fields__))

    @classmethod
    def concatenate(cls, parts):
        """The sources of several measurements, one after the other."""

        def join(values):
            """Arrays or ellipses, one after the other."""
            if isinstance(values[0], Ellipses):
                names = Ellipses.__dataclass_fields__
                return Ellipses(*(join([getattr(v, k) for v in values]) for k in names))
            return np.concatenate(values)

        return cls(*(join([getattr(p, k) for p in parts]) for k in cls.__dataclass_fields__))

    def columns(self):
        """Values (n,) of the catalogue's columns by their names."""
        values = {
            "Sqrt_TS": self.sqrt_ts, "Npred": self.npred, "Unc_Npred": self.npred_err,
            "Flux": self.flux, "Unc_Flux": self.flux_err,
            "Spectral_Index": self.index, "Unc_Spectral_Index": self.index_err,
        }  # fmt: skip
        for percent, ellipse in ((68, self.ellipse_68), (95, self.ellipse_95)):
            values[f"Conf_{percent}_SemiMajor"] = ellipse.semi_major
            values[f"Conf_{percent}_SemiMinor"] = ellipse.semi_minor
            values[f"Conf_{percent}_PosAng"] = ellipse.position_angle
        return values

    def refine(self, sources, grid):
        """The sources at their measured positions, with flags of the measurement.

        Parameters
        ----------
        sources : SkySources
            Those that were measured.
        grid : PatchGrid
            Tells which patch owns a position.

        Returns
        -------
        SkySources
        """
        config = LocalizationConfig()
        latitude = np.abs(lonlat_from_vectors(self.vectors)[1])
        flags = sources.flags & ~_BIT["low_latitude"]
        for name, where in (
            ("low_latitude", latitude < config.plane_latitude_deg),
            ("fit_failed", self.failed),
            ("wide", self.wide),
            ("bright_neighbor", self.bright_neighbor),
        ):
            flags = flags | np.where(where, _BIT[name], 0)
        return replace(
            sources,
            vectors=self.vectors,
            patch=grid.owner(self.vectors) if len(self) else sources.patch,
            flags=flags.astype(np.int16),
        )


def measure_sources(sources, sky_map, *, energy_range, flux_range, config=None):
    """Measure localized sources on the map's own counts.

    Parameters
    ----------
    sources : SkySources
        Sources of `astro_unetloc.detection.localization.localize`.
    sky_map : SkyMap
        Counts, and exposure, background and PSF where it has them.
    energy_range : pair of float
        The counts between these energies are used, GeV.
    flux_range : pair of float
        Energies of the flux, GeV.
    config : MeasurementConfig, optional
        Radii and limits.

    Returns
    -------
    Measurement
    """
    config = MeasurementConfig() if config is None else config
    n = len(sources)
    if not n:
        return _unknown(np.zeros((0, 3)))
    if not len(fitted_energies(sky_map, *energy_range)):
        low, high = sky_map.energy_edges[[0, -1]]
        warn(
            "sources are not measured: no energy bin of the map has its middle within the model's "
            f"{energy_range[0]:g}-{energy_range[1]:g} GeV (bins of {low:g}-{high:g} GeV); give a "
            "map with finer bins"
        )
        return _unknown(sources.vectors)
    counts = gather_counts(sky_map, *energy_range)
    if not len(counts.number):
        return _unknown(sources.vectors)
    setup = FieldSetup(sky_map, counts, sources.vectors, config)
    groups = list(fit_groups(sources.vectors, setup))

    def fit(group):
        """The members of a group, fitted with their neighbours."""
        members, everyone = group
        rows = np.searchsorted(everyone, members)
        field = FieldFit(sources.vectors[everyone], setup, rows)
        return Measurement(**field.run(flux_range))

    from threadpoolctl import threadpool_limits

    # array operations leave the interpreter to other threads meanwhile; those of linear algebra
    # are too small to be shared between threads of their own
    n_threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with threadpool_limits(limits=1), ThreadPoolExecutor(max_workers=n_threads) as pool:
        parts = list(pool.map(fit, groups))
    order = np.argsort(np.concatenate([members for members, _ in groups]))
    result = Measurement.concatenate(parts).select(order)
    log.info("%d sources measured, %d fits failed", n, int(result.failed.sum()))
    return result


def fit_groups(vectors, setup):
    """Sources that are fitted together: indices of members, and of these with all neighbours.

    All of a map, unless the pairs of source and entry would not fit into memory; then halves of
    the sky, halves of these and so on.

    Parameters
    ----------
    vectors : ndarray (n, 3)
        The sources.
    setup : FieldSetup
        The map.

    Yields
    ------
    members, group : ndarray of int
    """
    from scipy.spatial import KDTree

    cost = setup.pairs_per_source(vectors)
    tree, margin = KDTree(vectors), np.radians(setup.radius_deg + 2 * setup.core_deg.max())
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


def neighbor_margin_deg(emin, config=None):
    """How far around a part of the sky sources matter for those in it.

    Parameters
    ----------
    emin : float
        Lowest energy in GeV.
    config : MeasurementConfig, optional
        Radii.

    Returns
    -------
    float
        In degrees: twice the radius of a region.
    """
    config = MeasurementConfig() if config is None else config
    psf_deg = KingPSF().containment_radius(0.68, emin)
    return 2 * max(config.min_radius_deg, config.radius_psf * psf_deg)


def _unknown(vectors):
    """A measurement that tells nothing."""
    n = len(vectors)
    nothing = [np.full(n, np.nan) for _ in range(7)]
    ellipse = Ellipses(*(np.full(n, np.nan) for _ in range(3)))
    no = np.zeros(n, dtype=bool)
    covariance = np.full((n, 2, 2), np.nan)
    return Measurement(vectors, covariance, ellipse, ellipse, *nothing, ~no, no, no)
