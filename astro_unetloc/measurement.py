"""Measurement: positions, counts, spectra and their errors of localized sources, by likelihood."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from astro_unetloc.columns import FLAGS
from astro_unetloc.config import LocalizationConfig, MeasurementConfig
from astro_unetloc.error_ellipses import Ellipses
from astro_unetloc.field_fit import FieldFit, FieldSetup
from astro_unetloc.geometry import lonlat_from_vectors
from astro_unetloc.messages import warn
from astro_unetloc.neighborhoods import fitted_energies, gather_counts
from astro_unetloc.response import KingPSF

__all__ = ["Measurement", "fit_groups", "measure_sources", "neighbor_margin_deg"]

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
