"""Measurement: positions, counts, spectra and their errors of localized sources, by likelihood."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from astro_unetloc.blends import joint_covariances, neighbor_pairs, take_turns
from astro_unetloc.columns import FLAGS
from astro_unetloc.config import LocalizationConfig, MeasurementConfig
from astro_unetloc.error_ellipses import Ellipses, position_posterior
from astro_unetloc.geometry import lonlat_from_vectors
from astro_unetloc.likelihood import SourceModel, SourcesFit, curvatures, derivatives, fit_sources
from astro_unetloc.local_background import BackgroundFit, model_background
from astro_unetloc.localization import nearest_other_deg
from astro_unetloc.neighborhoods import gather_counts, make_neighborhoods, move
from astro_unetloc.psf_profiles import make_profiles, psf_of
from astro_unetloc.response import KingPSF
from astro_unetloc.response_files import exposure_of
from astro_unetloc.spectra import PowerLawShares, power_laws

__all__ = ["Measurement", "measure_sources", "neighbor_margin_deg"]

log = logging.getLogger(__name__)

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
        separation = nearest_other_deg(self.vectors)
        latitude = np.abs(lonlat_from_vectors(self.vectors)[1])
        flags = sources.flags & ~(_BIT["blended"] | _BIT["low_latitude"])
        for name, where in (
            ("blended", separation < config.blend_radius_deg),
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
            separation_deg=separation,
            flags=flags.astype(np.int16),
        )


def measure_sources(sources, sky_map, *, energy_range, flux_range, config=None):
    """Measure localized sources on the map's own counts.

    Parameters
    ----------
    sources : SkySources
        Sources of `astro_unetloc.localization.localize`.
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
    counts = gather_counts(sky_map, *energy_range)
    if not len(counts.number):
        return _unknown(sources.vectors)
    fitter = _Fitter(sources.vectors, sky_map, counts, config)
    result = fitter.run(flux_range)
    log.info("%d sources measured, %d fits failed", n, int(result.failed.sum()))
    return result


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


class _Fitter:
    """The steps of a measurement, and what they share."""

    def __init__(self, vectors, sky_map, counts, config):
        self.vectors, self.config, self.counts = vectors, config, counts
        self.n, edges = len(vectors), counts.energy_edges
        psf = psf_of(sky_map.psf, vectors)
        pixel_deg = sky_map.pixel_size_deg
        self.n_split = 1 if not pixel_deg else 2 if pixel_deg < 0.15 else 4
        self._profiles = lambda disc_deg: make_profiles(psf, edges, disc_deg=disc_deg)
        self.pixel_disc_deg = pixel_deg / self.n_split / np.sqrt(np.pi)
        self.profiles = self._profiles(self.pixel_disc_deg)
        least_deg = max(config.min_core_deg, config.core_pixels * pixel_deg)
        self.core_deg = np.maximum(self.profiles.containment_radius(0.95), least_deg)
        widest_deg = self.profiles.containment_radius(0.68).max()
        self.radius_deg = max(config.min_radius_deg, config.radius_psf * widest_deg, 3 * least_deg)
        self.core_deg = np.minimum(self.core_deg, self.radius_deg)
        self.exposed, exposure = exposure_of(sky_map.exposure, vectors)
        self.spectrum = PowerLawShares(edges, exposure)
        self.hood = make_neighborhoods(
            sky_map, counts, vectors, self.radius_deg, self.core_deg, self._reach_deg(),
            n_split=self.n_split,
        )  # fmt: skip
        self.fit = SourcesFit(
            self.hood, len(counts.number), self.profiles, self.spectrum, self.core_deg
        )
        model = sky_map.background
        if model is not None:
            model = model_background(model, self.hood, counts)
        self.background_fit = BackgroundFit(self.hood, self.spectrum, model, config)
        self.neighbors = neighbor_pairs(vectors, 2 * self.core_deg.max())
        self.turns = take_turns(self.n, self.neighbors)

    def _reach_deg(self):
        """How far (n,) the photons of a source are followed: until one is left."""
        from scipy.spatial import KDTree

        inner = np.median(self.profiles.containment_radius(0.5))
        chord = np.radians(inner)
        tree = KDTree(self.counts.vectors, compact_nodes=False, balanced_tree=False)
        places = tree.query_ball_point(self.vectors, chord)
        per_place = np.add.reduceat(self.counts.number, self.counts.first[:-1])
        seen = np.array([per_place[np.asarray(p, int)].sum() for p in places])
        outside = np.minimum(0.5 / np.maximum(seen, 1), 0.5)
        radius = np.array([self.profiles.containment_radius(1 - o)[0] for o in outside])
        return np.clip(radius, self.radius_deg, 3 * self.radius_deg)

    def run(self, flux_range):
        """Fit everything, in the order in which it becomes known."""
        model = self._start()
        background = self.background_fit.start()
        state, background, _ = self._maximize(model, background, 3, (0, 0, 1, 0))
        state, background, rest = self._maximize(
            state.model, background, self.config.n_rounds, (1, 1, 1, 1)
        )
        alone, joint = self._covariances(state, rest)
        posterior = position_posterior(self.fit, state, rest, alone[:, :2, :2])
        posterior = posterior.widened((joint - alone)[:, :2, :2])
        failed = self._failed(posterior, state.model)
        x, y = (np.where(failed, 0.0, offset) for offset in (posterior.x, posterior.y))
        model = replace(state.model, x=x, y=y)
        state, background, rest = self._maximize(model, background, 4, (0, 0, 1, 1))
        covariance = np.where(failed[:, None, None], np.nan, posterior.covariance)
        vectors = move(self.vectors, self.hood.east, self.hood.north, x, y)
        vectors[failed] = self.vectors[failed]
        return Measurement(
            vectors,
            covariance,
            *self._ellipses(posterior, failed),
            self._sqrt_ts(state, background),
            *self._spectra(state, rest, flux_range),
            failed,
            self._wide(state, rest),
            _near_brighter(vectors, state.model.counts, self.config),
        )

    def _maximize(self, model, background, n_rounds, free):
        return fit_sources(
            self.fit, self.background_fit, model, background,
            n_rounds=n_rounds, turns=self.turns, free=free,
        )  # fmt: skip

    def _covariances(self, state, rest):
        """Covariances (n, 4, 4) of each source alone, and with its neighbours free."""
        _, curvature, information = curvatures(self.fit, state, rest)
        curvature = curvature + 1e-9 * np.eye(4)
        good = np.linalg.eigvalsh(curvature)[:, 0] > 0
        curvature = np.where(good[:, None, None], curvature, information + 1e-3 * np.eye(4))
        core = self.fit.core
        slopes = np.sqrt(core.number)[:, None] * np.stack(
            derivatives(self.fit, state, rest), axis=1
        )
        return joint_covariances(slopes, self.neighbors, curvature, core.entry, core.source)

    def _start(self):
        """Counts within the 68 % radius without those that the surroundings let expect."""
        core, tail = self.hood.core, self.hood.tail.select(self.hood.in_region)
        radius = self.profiles.containment_radius(0.68)
        inside = np.hypot(core.x.mean(axis=1), core.y.mean(axis=1)) < radius[core.energy_bin]
        found = core.sum(core.number * inside, self.n)
        around = np.pi * (self.radius_deg**2 - np.median(self.core_deg) ** 2)
        density = tail.sum(tail.number, self.n) / around
        counts = np.maximum(found - density * np.pi * np.median(radius) ** 2, 2.0) / 0.68
        zero = np.zeros(self.n)
        return SourceModel(zero, zero, counts, np.full(self.n, 2.3))

    def _failed(self, posterior, model):
        """Which positions (n,) could not be fitted."""
        size = np.sqrt(np.einsum("naa->n", posterior.covariance))
        moved = np.hypot(posterior.x, posterior.y)
        limit = self.config.max_offset_deg
        good = (size < limit) & (moved < limit) & (model.counts > self.config.min_counts)
        good &= np.isfinite(posterior.scale_95)
        return ~good

    @staticmethod
    def _ellipses(posterior, failed):
        return [
            Ellipses.from_covariance(posterior.covariance, np.where(failed, np.nan, scale))
            for scale in (posterior.scale_68, posterior.scale_95)
        ]

    def _sqrt_ts(self, state, background):
        """Test statistic with the background fitted again without the source."""
        own, others, _ = self.fit.at_all_pairs(state)
        fit, number = self.background_fit, self.background_fit.number
        with_source = others + own + fit.density(background)
        inside = self.fit.contained(np.full(self.spectrum.n_energy, self.radius_deg))
        expected = fit.total(background) + state.model.counts * (state.rates[0] * inside).sum(
            axis=1
        )
        for _ in range(4):
            surface = fit.density(background)
            background = fit.step(background, surface / (surface + others))
        without = others + fit.density(background)
        gain = np.bincount(fit.source, number * np.log(with_source / without), minlength=self.n)
        gain -= expected - fit.total(background)
        return np.sqrt(2 * np.maximum(gain, 0.0))

    def _spectra(self, state, rest, flux_range):
        """Counts, flux and index, each with its error."""
        model = state.model
        covariance = self._covariances(state, rest)[1][:, 2:, 2:]
        error, index_error = np.sqrt(np.einsum("naa->na", covariance)).T
        per_count = [self._flux(np.ones(self.n), model.index + d, flux_range) for d in (0, 0.01)]
        flux, slope = per_count[0], (per_count[1] - per_count[0]) / 0.01
        jacobian = np.stack([flux, model.counts * slope], axis=1)
        flux_error = np.sqrt(np.einsum("na,nab,nb->n", jacobian, covariance, jacobian))
        known = self.exposed & (index_error < self.config.max_index_error)
        values = [model.counts, error]
        values += [np.where(self.exposed, v, np.nan) for v in (flux * model.counts, flux_error)]
        return values + [np.where(known, v, np.nan) for v in (model.index, index_error)]

    def _flux(self, counts, index, flux_range):
        """Photon flux (n,) of power laws of which so many counts are detected."""
        detected = self.spectrum.detected(index).sum(axis=1)
        pivot = self.counts.energy_edges[0]
        laws = power_laws(np.ones(len(index)), index, emin=pivot, emax=2 * pivot)
        norm = counts / np.maximum(detected, 1e-300)  # of (E / GeV) ** -index
        return laws.flux(*flux_range) / laws.amplitude * pivot ** (-index) * norm

    def _wide(self, state, rest):
        """Whether a disc fits better than a point, by more than chance lets expect."""
        point, best = self._best_log_likelihood(state, rest, self.fit), -np.inf
        for radius in self.config.wide_radii_deg:
            disc = self._profiles(np.hypot(radius, self.pixel_disc_deg))
            other = SourcesFit(
                self.hood, len(self.counts.number), disc, self.spectrum, self.core_deg
            )
            best = np.maximum(best, self._best_log_likelihood(state, rest, other))
        return 2 * (best - point) > self.config.wide_ts

    def _best_log_likelihood(self, state, rest, fit):
        """Logarithm of the likelihood (n,) over that of no source, best in the counts."""
        core, share = fit.core, state.rates[0]
        ratio = share.ravel()[fit.cell] * fit.densities(state.model)[0] / rest
        observed = (share * fit.inside).sum(axis=1)
        counts = state.model.counts
        for _ in range(6):
            part = ratio / (1 + counts[core.source] * ratio)
            slope = core.sum(core.number * part, self.n) - observed
            bend = core.sum(core.number * part**2, self.n)
            counts = np.clip(counts + slope / np.maximum(bend, 1e-12), counts / 3, counts * 3)
        gain = core.sum(core.number * np.log1p(counts[core.source] * ratio), self.n)
        return gain - counts * observed


def _near_brighter(vectors, counts, config):
    """Whether (n,) a much brighter source is near."""
    from scipy.spatial import KDTree

    near = np.zeros(len(vectors), dtype=bool)
    pairs = KDTree(vectors).query_pairs(np.radians(config.bright_radius_deg), output_type="ndarray")
    for one, other in (pairs.T, pairs[:, ::-1].T):
        near[one[counts[other] > config.bright_ratio * counts[one]]] = True
    return near
