"""The whole chain: read map, project patches, predict, cluster, localize, measure, catalogue."""

import logging
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np

from astro_unetloc.catalog.columns import FLAGS
from astro_unetloc.catalog.match import inside_extended
from astro_unetloc.catalog.read import read_extended
from astro_unetloc.catalog.table import make_catalog
from astro_unetloc.detection.clustering import find_clusters
from astro_unetloc.detection.localization import SkySources, localize, near_owned_cell
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.irf.spectra import PHOTON_INDEX
from astro_unetloc.maps.events import DiscFootprint
from astro_unetloc.maps.patches import Patches, project
from astro_unetloc.maps.photons import DEFAULT_SEED
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.selection import check_domain
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.measurement.data import fitted_energies
from astro_unetloc.measurement.fit import Measurement, measure_sources, neighbor_margin_deg
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg
from astro_unetloc.unet.model import (
    _SHIPPED,
    DEFAULT_MODEL,
    Model,
    _read_card,
    list_models,
    load_model,
)

__all__ = ["Detection", "detect", "find_sources", "select_model", "source_probability"]


def select_model(energy_edges):
    """The shipped model for the energies of a map.

    The default one if its bands hold half of the map's photons or more, else the one whose bands
    hold most, on ties the default: maps from 8 GeV on go to that of 10 GeV, from 5 GeV on not.

    Parameters
    ----------
    energy_edges : ndarray (n_energy + 1,)
        Edges of a map in GeV.

    Returns
    -------
    Model
    """
    ends = np.asarray(energy_edges, float)[[0, -1]]
    names = sorted(list_models(), key=DEFAULT_MODEL.__ne__)
    bands = [_read_card(_SHIPPED / name / "card.json")["band_edges_gev"] for name in names]
    ranges = np.clip([ends, *([edges[0], edges[-1]] for edges in bands)], *ends)
    # of a power law, up to a factor
    whole, *seen = -np.diff(ranges ** (1 - PHOTON_INDEX))[:, 0]
    return load_model(names[0 if seen[0] >= whole / 2 else int(np.argmax(seen))])


log = logging.getLogger(__name__)


# The summary counts the sources above this Score apart.
_SURE = 0.5


_VERSIONS = ("numpy", "scipy", "astropy", "healpy", "scikit-learn")


@dataclass(frozen=True)
class Detection:
    """Everything that one run made.

    Attributes
    ----------
    sky_map : SkyMap
        What was read.
    model : Model
        What was used.
    patches : Patches
        What the network read.
    probability : ndarray (n, ny, nx)
        Probability of a source in each pixel of the patches, of any class.
    sources : SkySources
        What was found.
    catalog : QTable
        The same as a catalogue.
    n_failed : int
        Patches without an answer from the network.
    measurement : Measurement or None
        What the likelihood says of the sources.
    cone : DiscFootprint or None
        The region outside of which nothing is listed.
    neighbors : ndarray (k, 3)
        Galactic unit vectors of all that has a Score of the threshold or more, also outside the
        region.
    """

    sky_map: SkyMap
    model: Model
    patches: Patches
    probability: np.ndarray
    sources: SkySources
    catalog: object
    n_failed: int
    measurement: Measurement | None = None
    cone: DiscFootprint | None = None
    neighbors: np.ndarray | None = None

    def summary(self):
        """What was found, in one line."""
        low, high = np.clip(self.sky_map.energy_edges[[0, -1]], *self.model.band_edges[[0, -1]])
        n_sure = int((self.sources.score >= _SURE).sum())
        return (
            f"{len(self.catalog)} sources with Score >= {self.catalog.meta['THRESH']:g} "
            f"({n_sure} of them >= {_SURE:g}) in "
            f"{self.patches.n_photons:,} photons of {low:.4g}-{high:.4g} GeV "
            f"({len(self.patches)} patches, model {self.model.name})"
        )

    def report(self, paths):
        """The summary, and where the results are."""
        return self.summary() + (f" -> {', '.join(map(str, paths))}" if paths else "")


def _cone(region):
    """The cone that a user asked for; None for no region."""
    if region is None:
        return None
    try:
        center, radius = region if isinstance(region, tuple) else (region.center, region.radius)
        axis, radius_deg = center.galactic.cartesian.xyz.value, float(radius.to_value("deg"))
    except (AttributeError, TypeError, ValueError) as err:
        raise TypeError(
            f"region must be (SkyCoord, Quantity) or a regions.CircleSkyRegion; got {region!r}; "
            "give a centre and a radius"
        ) from err
    if axis.shape != (3,) or not 0 < radius_deg <= 180:
        raise InputError(
            f"region must have one centre and a radius of up to 180 deg; got {region!r}; "
            "give another"
        )
    return DiscFootprint(axis, radius_deg)


def source_probability(patches, model, progress=None):
    """What the network of a model says of patches.

    Parameters
    ----------
    patches : Patches
        The patches.
    model : Model
        The model.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    probability : ndarray (n, ny, nx)
        Of any source class; zero in patches that failed.
    n_failed : int
        Patches without a finite answer.
    """
    probability = model.predict(
        patches.counts, patches.coverage, patches.bands, views=model.views, progress=progress
    )
    # classes but the last, the background; a direction that was not observed holds no source
    source = probability[..., :-1].sum(axis=-1) * patches.coverage[..., 0]
    failed = ~np.isfinite(source).all(axis=(1, 2))
    if failed.any():
        numbers = ", ".join(map(str, patches.index[failed]))
        warn(f"the network gave no finite answer for patches {numbers}; they hold no sources")
        source[failed] = 0.0
    return source, int(failed.sum())


def _provenance(sky_map, model, threshold, seed, n_failed):
    """What made a catalogue, as FITS keywords."""
    edges, fitted = sky_map.energy_edges, fitted_energies(sky_map, *model.band_edges[[0, -1]])
    return {
        "VERSIONS": ", ".join(f"{name} {version(name)}" for name in _VERSIONS),
        "MODEL": model.name,
        "MODELSHA": model.sha256,
        "THRESH": threshold,
        "SEED": seed,
        "INFILE": sky_map.name,
        "INSHA256": sky_map.checksum,
        "NPHOTONS": sky_map.n_photons,
        "EMIN": float(edges[0]),
        "EMAX": float(edges[-1]),
        **({"FITEMIN": float(fitted[0]), "FITEMAX": float(fitted[-1])} if len(fitted) else {}),
        "NFAILED": n_failed,
        # what made the map did not make the catalogue
        **{key: value for key, value in sky_map.header.items() if key != "CREATOR"},
    }


def detect(
    map,
    *,
    model=None,
    exposure=None,
    background=None,
    psf=None,
    exposure_frame=None,
    energy_range=None,
    region=None,
    threshold=None,
    measure=True,
    extended=None,
    progress=None,
    rng=DEFAULT_SEED,
):
    """Find sources and keep everything that was made on the way.

    Parameters are those of `find_sources`.

    Returns
    -------
    Detection
    """
    extended = None if extended is None else read_extended(extended)
    sky_map = read_map(
        map,
        energy_range=energy_range,
        exposure=exposure,
        background=background,
        psf=psf,
        exposure_frame=exposure_frame,
    )
    model = select_model(sky_map.energy_edges) if model is None else load_model(model)
    check_domain(sky_map.header, sky_map.energy_edges, model.card)
    threshold = model.threshold if threshold is None else float(threshold)
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold must lie between 0 and 1; got {threshold:g}; give another")
    seed = _seed(rng)
    cone = _cone(region)
    patches = project(
        sky_map, model.band_edges, region=_searched(cone, model, measure), seed=seed,
        progress=progress,
    )  # fmt: skip
    if cone is not None and not _touched(patches, cone):
        warn("the region lies outside the map; nothing can be found there")
    log.info("%d photons on %d patches", sky_map.n_photons, len(patches))
    probability, n_failed = source_probability(patches, model, progress)
    grid = patches.grid.config
    reach_deg = grid.border_deg + 3 * model.clustering.radius_pix * grid.pixel_deg
    candidates = find_clusters(
        probability,
        config=model.clustering,
        keep=lambda row, x, y: near_owned_cell(patches, row, x, y, reach_deg),
    )
    # sources below the threshold or outside the region still shine on those that are listed, and a
    # calibrated score is known only when they are measured
    lowest = _lowest_probability(model, threshold, measure)
    sources = localize(candidates, patches, threshold=lowest, sky_map=sky_map)
    measurement = None
    if measure:
        ranges = {"energy_range": model.band_edges[[0, -1]], "flux_range": model.flux_range}
        measurement = measure_sources(sources, sky_map, **ranges)
        measurement = _with_factors(measurement, model.error_factors)
        sources = measurement.refine(sources, patches.grid)
    sqrt_ts = None if measurement is None else measurement.sqrt_ts
    sources = sources.calibrated(model.calibration, sqrt_ts)
    listed = np.flatnonzero(sources.score >= threshold)
    sources = sources.select(listed).separated()
    neighbors = sources.vectors
    if cone is not None:
        inside = cone.covers(neighbors)
        listed, sources = listed[inside], sources.select(inside)
    sources = _flagged_inside(sources, extended)
    log.info("%d sources with Score >= %g", len(sources), threshold)
    meta = _provenance(sky_map, model, threshold, seed, n_failed)
    values = None
    if measure:
        measurement = measurement.select(listed)
        values = measurement.columns()
        meta |= dict(zip(("FLUXEMIN", "FLUXEMAX"), model.flux_range))
    catalog = make_catalog(sources, values=values, meta=meta)
    return Detection(
        sky_map, model, patches, probability, sources, catalog, n_failed, measurement, cone,
        neighbors,
    )  # fmt: skip


def _flagged_inside(sources, extended):
    """The sources with a flag on those inside an extended one."""
    if extended is None or not len(sources):
        return sources
    bit = np.where(inside_extended(sources.vectors, extended), FLAGS["known_extended"][0], 0)
    return replace(sources, flags=(sources.flags | bit).astype(np.int16))


def _lowest_probability(model, threshold, measure):
    """Smallest probability of the network with which a candidate is looked at more closely."""
    if model.calibration is not None:
        return model.calibration.least_probability
    return min(threshold, model.threshold) if measure else threshold


def _with_factors(measurement, factors):
    """The measurement with errors as simulations show them, where the model knows these."""
    if factors is None:
        return measurement
    return factors.apply(measurement, lonlat_from_vectors(measurement.vectors)[1])


def _searched(cone, model, measure):
    """The part of the sky that must be searched for the sources of a cone."""
    if cone is None or not measure:
        return cone
    margin_deg = neighbor_margin_deg(model.band_edges[0])  # neighbours are fitted together
    return DiscFootprint(cone.center, min(cone.radius_deg + margin_deg, 180.0))


def _touched(patches, cone):
    """Whether any observed pixel of the patches lies in the cone."""
    reach_deg = cone.radius_deg + patches.grid.config.pixel_deg
    away = separation_deg(patches.grid.centers[patches.index], cone.center)
    for row in np.argsort(away):
        vectors = patches.grid.plane(patches.index[row]).pixel_vectors
        inside = separation_deg(vectors, cone.center) <= reach_deg
        if np.any(inside & (patches.coverage[row, ..., 0] > 0)):
            return True
    return False


def _seed(rng):
    """Seed of the counter-based stream from an int, a Generator or None."""
    if rng is None or isinstance(rng, np.random.Generator):
        return int(np.random.default_rng(rng).integers(2**31))
    if isinstance(rng, int | np.integer) and 0 <= rng < 2**64:
        return int(rng)
    raise InputError(
        f"rng must be an int from 0 to 2**64 - 1, a Generator or None; got {rng!r}; give an int"
    )


def find_sources(
    map,
    *,
    model=None,
    exposure=None,
    background=None,
    psf=None,
    exposure_frame=None,
    energy_range=None,
    region=None,
    threshold=None,
    measure=True,
    extended=None,
    progress=None,
    rng=DEFAULT_SEED,
):
    """Find the point sources in a counts map.

    Parameters
    ----------
    map : str, pathlib.Path, HDUList, gammapy Map or MapDataset, or SkyMap
        Counts as `astro_unetloc.read_map` takes them.
    model : str, path or Model, optional
        A shipped model or a model folder; by default the shipped model for the map's
        energies, see `astro_unetloc.pipeline.select_model`.
    exposure, background, psf : path or gammapy object, optional
        What goes with the map. Without an exposure there are counts but no fluxes and indices;
        without a background it is estimated around each source; without a PSF that of the LAT is
        used. An exposure also turns a flux map into counts.
    exposure_frame : {"galactic", "icrs"}, optional
        Frame of a HEALPix exposure that does not say it.
    energy_range : pair of Quantity or float, optional
        Energies of the map's photons, GeV if bare, see `astro_unetloc.read_map`.
    region : tuple of (SkyCoord, Quantity) or regions.CircleSkyRegion, optional
        Only sources inside this cone are listed; the map around it is still used, so they are
        those of the whole map.
    threshold : float, optional
        Smallest ``Score`` listed; that of the model's card by default.
    measure : bool
        Whether to refine the sources by a likelihood fit; without it their positions are those of
        the network and all columns of the fit are masked.
    extended : str, path or QTable, optional
        A catalogue as `read_catalog` takes or gives it. Sources inside one of its extended sources,
        within their extension or 0.3 deg, are flagged.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.
    rng : int, numpy.random.Generator or None
        Seed of the placement of counts inside their pixels.

    Returns
    -------
    QTable
        One row per source by descending ``Score``, all columns of
        `astro_unetloc.catalog.columns.COLUMNS` and ``skycoord``; zero rows if nothing is found.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        If an input cannot be used; the message says what to do.

    Examples
    --------
    >>> from astro_unetloc import find_sources, simulate_sky
    >>> from astropy.coordinates import SkyCoord
    >>> import astropy.units as u
    >>> center = SkyCoord(120 * u.deg, 40 * u.deg, frame="galactic")
    >>> sky_map, truth = simulate_sky(center=center, radius=8 * u.deg, rng=1)
    >>> catalog = find_sources(sky_map)
    >>> catalog.colnames[:3]
    ['Source_Name', 'RAJ2000', 'DEJ2000']
    """
    run = detect(
        map,
        model=model,
        exposure=exposure,
        background=background,
        psf=psf,
        exposure_frame=exposure_frame,
        energy_range=energy_range,
        region=region,
        threshold=threshold,
        measure=measure,
        extended=extended,
        progress=progress,
        rng=rng,
    )
    return run.catalog
