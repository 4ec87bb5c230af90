"""The search: read map, project patches, predict, cluster, localize, measure, classify, catalogue.

The scan, a search without the network, stands beside or instead of the steps from the patches to
the candidates. `classify_sources` begins at the measurement, with the sources of any catalogue.
"""

import inspect
import logging
from functools import partial

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from astro_unetloc.catalog.columns import BANDS, COLUMNS, LOG_LIKELIHOOD, set_flag
from astro_unetloc.catalog.match import inside_extended
from astro_unetloc.catalog.read import as_reference, as_table, read_extended
from astro_unetloc.catalog.table import (
    degrees,
    galactic_vectors,
    glon_glat_vectors,
    is_catalog,
    numbers,
    with_columns,
)
from astro_unetloc.classification.classifiers import Classifier, class_fractions
from astro_unetloc.classification.mixture import fit_mixture
from astro_unetloc.detection.clustering import ClusteringConfig, find_clusters
from astro_unetloc.detection.localization import (
    in_patches,
    localize,
    near_owned_cell,
    source_table,
    strongest,
    with_neighbors,
)
from astro_unetloc.detection.odds import with_log_odds
from astro_unetloc.detection.scan import Scan
from astro_unetloc.exceptions import InputError, counted, warn
from astro_unetloc.irf.psf import psf_of
from astro_unetloc.irf.spectra import PHOTON_INDEX
from astro_unetloc.maps.patches import cover, project
from astro_unetloc.maps.photons import DEFAULT_SEED, DiscFootprint
from astro_unetloc.maps.read import COARSE_PIXEL_DEG, read_map
from astro_unetloc.maps.selection import check_domain, other_telescope
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.measurement.data import MeasurementConfig, fitted_energies
from astro_unetloc.measurement.fit import measure_sources, neighbor_margin_deg
from astro_unetloc.run import FINDERS, Run, band_text, energy_keywords, prior_text
from astro_unetloc.sphere import neighbors
from astro_unetloc.unet.model import (
    SCAN_SQRT_TS,
    load_model,
    model_without_network,
    shipped_bands,
)

log = logging.getLogger(__name__)

# Below this Galactic latitude a source carries the flag "low latitude".
_PLANE_LATITUDE_DEG = 5.0
# The scan: energy bands of a map of another telescope; pairs of source and photon that are fitted
# at once; sources of a lower sqrt(TS) are dropped before the last fit; a candidate of the network
# is the same source as one of the scan within so many 68 % radii of the PSF.
_BANDS_PER_DECADE, _MAX_BANDS, _SCAN_PAIRS = 2, 5, 1e6
_LEAST_SQRT_TS, _SAME_PSF = 3.0, 1.6
_TYPICAL = 1.5  # energy of a typical photon in units of the lowest
# Of the 1508 point sources of 3FHL in its cube of 0.92 deg the network finds 379, the scan 436.
_WIDEST_PIXEL_DEG = 0.5
_MAX_EXTRAPOLATION = 1.6  # ratio of energies below which a flux is extended without a warning


def detect(
    map, *, model=None, exposure=None, background=None, psf=None, exposure_frame=None,
    energy_range=None, time_range=None, region=None, threshold=None, purity=None, finder="unet",
    measure=True, classify=True, class_prior=None, extended=None, progress=None, rng=DEFAULT_SEED,
):  # fmt: skip
    """Return the `Run` of a search; the parameters are those of `astro_unetloc.find_sources`."""
    threshold, purity = score_limits(threshold, purity)
    check_finder(finder, measure)
    if progress is not None and not callable(progress):
        progress = tqdm if progress else None
    given = {} if extended is None else {"extended": extended}
    if class_prior is not None:
        class_prior = given["class_prior"] = class_fractions(class_prior)
    extended = None if extended is None else read_extended(extended)
    parts = {
        "exposure": exposure, "background": background, "psf": psf, "time_range": time_range,
        "exposure_frame": exposure_frame, "energy_range": energy_range,
    }  # fmt: skip
    sky_map = as_sky_map(map, parts)
    given |= sky_map.given
    model = model_of(sky_map, model, finder)
    _check_purity(purity, model, finder)
    threshold = model.threshold if threshold is None else threshold
    seed, cone = as_seed(rng), _cone(region)
    fit_edges = _fit_edges(sky_map, model) if measure else None
    classifier = _classifier(model, fit_edges) if measure and classify else None
    searched = cone
    if cone is not None and measure:  # a scan takes its background from the whole map
        searched = _searched(cone, sky_map, model) if finder == "unet" else None
    looked = _looked(sky_map, model, finder, searched, seed, progress)
    patches, found, probability, n_failed = looked
    if cone is not None and not _touched(patches, cone):
        warn("the region lies outside the map; nothing can be found there")
    log.info("%d photons on %d patches", sky_map.n_photons, len(patches))
    # Sources below the threshold affect the fit of those that are listed, and a calibrated score
    # is known only after the fit.
    least = min(threshold, model.threshold) if measure else threshold
    if model.calibration is not None:
        least = model.calibration.least_probability
    sources = source_table(np.zeros((0, 3)))
    if found is not None:
        sources = localize(found, patches, min_probability=least, pixel_deg=sky_map.pixel_size_deg)
    if finder != "unet":
        sources = _scanned(sources, sky_map, model, classifier, seed, progress)
    elif measure:
        sources = fit_sources(sources, sky_map, model, classifier)
    if measure:
        sources = _placed(sources, patches, probability, model, finder)
    norm = sources.meta.get("background_norm")
    sources = _scored(sources, sky_map, model, finder, measure)
    if purity is not None:
        inside = slice(None) if cone is None else cone.covers(glon_glat_vectors(sources))
        threshold = threshold_of_purity(np.asarray(sources["Score"])[inside], purity)
    sources = with_neighbors(sources[np.asarray(sources["Score"]) >= threshold])
    if classifier is not None:
        sources = classifier.apply(sources, class_prior=class_prior)
    sources = flag_sources(sources, sky_map, extended)
    how = finder, threshold, purity, seed, cone, fit_edges, classify
    run = Run(sky_map, model, *how, patches, probability, n_failed, norm, sources, given)
    log.info("%d sources with Score >= %g", len(run.catalog), threshold)
    return run


def find_sources(map, **options):  # numpydoc ignore=PR02
    """Return the catalogue of the point sources in a counts map.

    Parameters
    ----------
    map : str, pathlib.Path, HDUList, gammapy Map or MapDataset, or SkyMap
        Counts as `astro_unetloc.read_map` takes them.
    model : str, path or Model, optional
        A shipped model or a model folder; by default the shipped model for the map's
        energies, see `astro_unetloc.pipeline.select_model`.
    exposure, background, psf : path or gammapy object, optional
        Companions of the map. Without an exposure there are counts but no fluxes and indices;
        without a background it is estimated around each source; without a PSF that of the LAT is
        used; an angle is the 68 % containment radius of a Gaussian PSF. An exposure also converts a
        flux map into counts. Background is a cube of expected counts or, with an exposure, one or a
        list of: intensity cubes such as gll_iem, isotropic text files, diffuse models of gammapy.
    exposure_frame : {"galactic", "icrs"}, optional
        Frame of a HEALPix exposure whose header does not name it.
    energy_range : pair of Quantity or float, optional
        Energies of the map's photons, GeV if bare, see `astro_unetloc.read_map`.
    time_range : pair of float, optional
        Times of the events that are used, in seconds (MET).
    region : tuple of (SkyCoord, Quantity) or regions.CircleSkyRegion, optional
        Only sources inside this cone are listed; the map around it is still used, so they are
        those of the whole map.
    threshold : float, optional
        Smallest ``Score`` listed; that of the model's card by default.
    purity : float, optional
        Instead of a threshold, the expected purity: the longest list whose mean ``Score`` is at
        least this.
    finder : {"unet", "scan", "both"}
        What finds candidates: the network; a scan of the photons over a background estimated from
        them, which needs no training and fits any telescope of which the PSF is given; or both.
    measure : bool
        Whether to refine the sources by a likelihood fit; without it their positions are those of
        the network and all columns of the fit are masked.
    classify : bool
        Whether to fill the columns of the class, which takes a fit.
    class_prior : "flat" or (3,) of float, optional
        Fractions of AGN, pulsars and others among the sources, or "flat" for equal ones; by default
        those of the simulated population at the position of each source.
    extended : str, path or QTable, optional
        A catalogue, as `astro_unetloc.read_catalog` takes or returns it. Sources inside one of its
        extended sources, within their extension or 0.3 deg, are flagged.
    progress : bool or callable, optional
        Wraps an iterable, as `tqdm.tqdm` does, which True stands for.
    rng : int, numpy.random.Generator or None
        Seed of the placement of counts inside their pixels.

    Returns
    -------
    QTable
        One row per source by descending ``Score``, all columns of
        :doc:`/columns` and ``skycoord``; zero rows if nothing is found.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        If an input cannot be used; the message names what was expected.

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
    return detect(map, **options).catalog


# The options are listed once, in `detect`.
find_sources.__signature__ = inspect.signature(detect)

# Columns that the classification of a catalogue adds, those of the fit before those of the class.
_CLASSIFIED = [
    "Sqrt_TS", "Npred", "Unc_Npred", "Flux", "Unc_Flux", "Spectral_Index", "Unc_Spectral_Index",
    "Counts_Band", "Unc_Counts_Band", "Flux_Band", "Unc_Flux_Band", "Class", "Prob_AGN", "Prob_PSR",
    "Prob_OTHER", "Unc_Prob_PSR", "Flags",
]  # fmt: skip


def classify_sources(
    catalog, map, *, model=None, exposure=None, background=None, psf=None, exposure_frame=None,
    energy_range=None, class_prior=None, unsupervised=False,
):  # fmt: skip
    """Return a catalogue with the classes of its sources, by the photons of a map.

    The sources are fitted at their positions, all of them together.

    Parameters
    ----------
    catalog : str, path or table
        A catalogue of ours, of the Fermi-LAT or any with positions, as
        `astro_unetloc.match_catalogs` takes it.
    map : str, path, HDUList, gammapy Map or MapDataset, or SkyMap
        Counts as `astro_unetloc.read_map` takes them.
    model : str, path or Model, optional
        A shipped model or a model folder, whose classifier is used; by default the shipped model
        for the map's energies.
    exposure, background, psf, exposure_frame, energy_range : optional
        As in `astro_unetloc.find_sources`.
    class_prior : "flat" or (3,) of float, optional
        Fractions of AGN, pulsars and others among the sources, or "flat" for equal ones; by default
        those of the simulated population at the position of each source.
    unsupervised : bool
        Whether the classes are found in the spectra and latitudes of these sources, 50 or more,
        by a mixture of groups: soft or curved ones are pulsars, others along the plane are other
        sources. By default the classes have the spectra of the simulated population.

    Returns
    -------
    QTable
        The catalogue with ``Sqrt_TS``, ``Npred``, ``Flux``, ``Spectral_Index``, ``Counts_Band``,
        ``Flux_Band`` and their errors, ``Class``, ``Prob_AGN``, ``Prob_PSR``, ``Prob_OTHER``,
        ``Unc_Prob_PSR`` and ``Flags``, masked outside of the map. Columns of other catalogues that
        have these names, capitals or not, get ``_Ref`` behind them.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        If an input cannot be used; the message names what was expected.

    Examples
    --------
    >>> from astro_unetloc import classify_sources, simulate_sky
    >>> from astropy.coordinates import SkyCoord
    >>> import astropy.units as u
    >>> center = SkyCoord(120 * u.deg, 40 * u.deg, frame="galactic")
    >>> sky_map, truth = simulate_sky(center=center, radius=8 * u.deg, rng=1)
    >>> bright = truth[truth["Npred"] > 20]
    >>> str(classify_sources(bright, sky_map)["Class"][1])
    'agn'
    """
    class_prior = None if class_prior is None else class_fractions(class_prior)
    parts = {"exposure": exposure, "background": background, "psf": psf}
    parts |= {"exposure_frame": exposure_frame, "energy_range": energy_range}
    sky_map = as_sky_map(map, parts)
    model = select_model(sky_map.energy_edges) if model is None else load_model(model)
    fit_edges = fitted_energies(sky_map, *model.energy_range)
    classifier = _classifier(model, fit_edges)
    if classifier is None:
        raise InputError(
            f"a model with a classifier and a map of its energies were expected; got {model.name} "
            f"and {sky_map.energy_edges[0]:g}-{sky_map.energy_edges[-1]:g} GeV; choose another"
        )
    check_domain(sky_map.header, sky_map.energy_edges, model.card)
    catalog = as_table(catalog)
    catalog = catalog.copy() if is_catalog(catalog) else _with_own_names(as_reference(catalog))
    vectors = galactic_vectors(catalog)
    rows = np.flatnonzero(np.isfinite(vectors[:, 0]))
    rows = rows[sky_map.covers(vectors[rows])]
    if len(rows) < len(catalog):
        n_all = counted(len(catalog), "source")
        warn(f"the map shows {len(rows)} of {n_all}; the others get no class")
    sources = source_table(vectors[rows])
    if "Flags" in catalog.colnames:
        sources["Flags"] = catalog["Flags"][rows]
    sources = fit_sources(sources, sky_map, model, classifier, fixed=True)
    if unsupervised:
        likelihood, latitude = sources[LOG_LIKELIHOOD], degrees(sources["GLAT"])
        mixture = fit_mixture(likelihood, classifier.grid, latitude_deg=latitude)
        classifier = mixture.classifier(classifier)
    sources = flag_sources(classifier.apply(sources, class_prior=class_prior), sky_map)
    specs = [spec for spec in COLUMNS if spec.name in _CLASSIFIED]
    result = with_columns(catalog, specs, [_spread(sources[s.name], rows, catalog) for s in specs])
    result.meta |= {BANDS: band_text(model), "CLMODEL": model.name, "CLMAP": sky_map.name}
    result.meta |= energy_keywords(sky_map, fit_edges)
    result.meta |= dict(zip(("FLUXEMIN", "FLUXEMAX"), model.flux_range))
    if class_prior is not None:
        result.meta["CLPRIOR"] = prior_text(class_prior)
    if unsupervised:
        result.meta["CLGROUPS"] = " ".join(mixture.classes)
    return result


def _with_own_names(table):
    """A table of another catalogue, whose columns with names of ours get others."""
    ours = {name.upper() for name in _CLASSIFIED}
    for name in table.colnames:
        if name.upper() in ours:
            table.rename_column(name, f"{name}_Ref")
    return table


def _spread(column, rows, table):
    """Values of some rows of a table as a column of all, NaN, empty or zero elsewhere."""
    values = np.ma.getdata(getattr(column, "value", column))
    missing = np.nan if values.dtype.kind == "f" else np.zeros((), values.dtype)
    result = np.full((len(table), *values.shape[1:]), missing, values.dtype)
    result[rows] = values
    unit = getattr(column, "unit", None)
    return result if unit is None else result * unit


def threshold_of_purity(score, purity):
    """Return the smallest ``Score`` of the longest list whose mean ``Score`` is at least a purity.

    Examples
    --------
    >>> import numpy as np
    >>> threshold_of_purity(np.array([0.5, 1.0, 0.75]), 0.8)
    0.75
    """
    score = np.sort(score.astype(float))[::-1]
    mean = np.cumsum(score) / np.arange(1, len(score) + 1)
    n = np.count_nonzero(mean >= purity)  # the mean falls with the length of the list
    return float(score[n - 1]) if n else 1.0


def select_model(energy_edges):
    """Return the shipped model for the energy edges (n_energy + 1,) of a map in GeV.

    The default model if its bands hold half of the map's photons or more, else the one whose bands
    hold most, on ties the default: maps that begin at 8 GeV get that of 10 GeV, at 5 GeV not.
    """
    ends = np.asarray(energy_edges, float)[[0, -1]]
    bands = shipped_bands()
    ranges = np.clip([ends, *(edges[[0, -1]] for edges in bands.values())], *ends)
    # photons of a power law, up to a factor
    whole, *seen = -np.diff(ranges ** (1 - PHOTON_INDEX))[:, 0]
    return load_model(list(bands)[0 if seen[0] >= whole / 2 else int(np.argmax(seen))])


def clustering_config(model):
    """Return the `ClusteringConfig` of the card of a model."""
    return ClusteringConfig(**model.card["clustering"])


def find_candidates(patches, model, *, keep=None, progress=None):
    """Return the clusters of probable pixels, the probability (n, ny, nx) and the failures.

    The pixels of some patches are clustered while the network sees the next ones; ``keep`` is that
    of `find_clusters`. The probability of a source is zero in the patches, as many as there are
    failures, for which the network returned no finite values.
    """
    probability, failed = np.zeros(patches.counts.shape[:3], np.float32), []
    inputs = patches.counts, patches.coverage, patches.bands

    def batches():
        """Yield the probability of a source in some patches after others."""
        for rows, output in model.predict_batches(*inputs, progress=progress):
            # All classes but the last, the background; unobserved pixels hold no source.
            source = output[..., :-1].sum(axis=-1) * patches.coverage[rows][..., 0]
            finite = np.isfinite(source).all(axis=(1, 2))
            failed.extend(patches.index[rows][~finite])
            probability[rows] = np.where(finite[:, None, None], source, 0.0)
            yield probability[rows]

    found = find_clusters(batches(), config=clustering_config(model), keep=keep)
    if failed:
        numbers = ", ".join(map(str, failed))
        warn(f"the network returned no finite probability for patches {numbers}; no sources there")
    return found, probability, len(failed)


def flag_sources(sources, sky_map, extended=None):
    """Return a copy of a table of sources with the flags of their positions and of the map."""
    sources = sources.copy()
    set_flag(sources, "low_latitude", np.abs(sources["GLAT"].value) < _PLANE_LATITUDE_DEG)
    set_flag(sources, "coarse_pixels", sky_map.pixel_size_deg > COARSE_PIXEL_DEG)
    set_flag(sources, "energy_assumed", sky_map.energy_assumed)
    if extended is not None and len(sources):
        inside = inside_extended(glon_glat_vectors(sources), extended)
        set_flag(sources, "known_extended", inside)
    return sources


def score_limits(threshold, purity):
    """Return threshold and purity as floats from 0 to 1, or None; not both may be given."""
    threshold, purity = _fraction("threshold", threshold), _fraction("purity", purity)
    if threshold is not None and purity is not None:
        raise InputError("threshold and purity exclude each other; got both; give one of them")
    return threshold, purity


def _check_purity(purity, model, finder):
    """Refuse a purity where ``Score`` is no calibrated probability."""
    if purity is not None and model.calibration_of(finder) is None:
        wanted = "purity needs a model whose Score is calibrated"
        raise InputError(f"{wanted}; got {model.name}; give a threshold or calibrate the model")


def check_finder(finder, measure):
    """Raise an error for a finder that is not known, or for one without the fit that it needs."""
    if finder not in FINDERS:
        raise InputError(f"finder must be one of {', '.join(FINDERS)}; got {finder!r}")
    if finder != "unet" and not measure:
        raise InputError(f"finder {finder} fits its sources; got measure=False; use finder unet")


def model_of(sky_map, model, finder):
    """Return the `Model` for a map, of bands alone for the scan of another telescope's map."""
    header, edges, psf = sky_map.header, sky_map.energy_edges, sky_map.psf
    if model is None and finder == "scan" and other_telescope(header, edges):
        n_bands = int(np.rint(_BANDS_PER_DECADE * np.log10(edges[-1] / edges[0])))
        n_bands = int(np.clip(n_bands, 1, _MAX_BANDS))
        model = model_without_network(np.geomspace(edges[0], edges[-1], n_bands + 1))
    else:
        model = select_model(edges) if model is None else load_model(model)
    check_domain(header, edges, model.card, finder=finder, psf=psf)
    if finder == "unet" and sky_map.pixel_size_deg > _WIDEST_PIXEL_DEG:
        size = f"pixels of {sky_map.pixel_size_deg:.2g} deg"
        warn(f"{size} are wider than those of the training; finder scan finds more in such maps")
    return model


def _looked(sky_map, model, finder, region, seed, progress):
    """`Patches` of a map, and as of `find_candidates` what the network sees in them."""
    if finder == "scan":
        return cover(sky_map, model.band_edges), None, None, 0
    patches = project(sky_map, model.band_edges, region=region, seed=seed, progress=progress)
    keep = near_cell(patches, model)
    return patches, *find_candidates(patches, model, keep=keep, progress=progress)


def _placed(sources, patches, probability, model, finder):
    """The table of measured sources with their patches and, after a scan, the values of these."""
    if finder != "unet":
        radius_pix = None if probability is None else clustering_config(model).radius_pix
        return in_patches(sources, patches, probability, radius_pix=radius_pix)
    if len(sources):
        sources["Patch"] = patches.grid.owner(glon_glat_vectors(sources))
    return sources


def _scanned(candidates, sky_map, model, classifier, seed, progress):
    """The table of sources that the scan finds, with the candidates that it missed, measured.

    What a round finds is fitted together with all sources before, and is part of the background of
    the next round.
    """
    scan, sources = Scan(sky_map, model.band_edges, seed=seed), source_table(np.zeros((0, 3)))
    measured = partial(fit_sources, sky_map=sky_map, model=model, max_pairs=_SCAN_PAIRS)
    rounds = scan.config.least_ts
    for least_ts in progress(rounds, desc="scan") if progress else rounds:
        found = np.concatenate([glon_glat_vectors(sources), scan.search(sources, least_ts)])
        sources = _without_duplicates(found, scan.duplicate_deg, partial(measured, classifier=None))
    vectors = glon_glat_vectors(sources[np.asarray(sources["Sqrt_TS"]) >= _LEAST_SQRT_TS])
    others = glon_glat_vectors(candidates)
    if len(vectors) and len(others):
        near, *_ = neighbors(others, vectors, _SAME_PSF * scan.psf_deg)
        others = np.delete(others, near, axis=0)
    vectors = np.concatenate([vectors, others])
    sources = _without_duplicates(
        vectors, scan.duplicate_deg, partial(measured, classifier=classifier)
    )
    sources[SCAN_SQRT_TS] = scan.sqrt_ts(sources)
    return sources


def _without_duplicates(vectors, duplicate_deg, measured):
    """The table of measured sources, fitted again without those that end beside a brighter one."""
    while True:
        sources = measured(source_table(vectors))
        vectors, counts = glon_glat_vectors(sources), np.nan_to_num(numbers(sources["Npred"]))
        single = strongest(vectors, counts, duplicate_deg)
        if single.all():
            return sources
        vectors = vectors[single]


def _fit_edges(sky_map, model):
    """Energy edges (k + 1,) of the fit in GeV; warns if fluxes are those of far lower energies."""
    edges, (low, high) = fitted_energies(sky_map, *model.energy_range), model.flux_range
    if sky_map.exposure is not None and len(edges) and edges[0] > _MAX_EXTRAPOLATION * low:
        fitted = f"{edges[0]:g}-{edges[-1]:g} GeV"
        warn(f"Flux is that of {low:g}-{high:g} GeV, by the power law of the photons of {fitted}")
    return edges


def _scored(sources, sky_map, model, finder, measure):
    """The table of sources with ``Score`` and, if they were measured, ``Log_Odds``."""
    sources = _with_odds(sources, sky_map, model) if measure else sources
    calibration = model.calibration_of(finder)
    if calibration is not None:
        return calibration.apply(sources)
    if finder != "unet":
        sources["Score"] = expit(np.nan_to_num(np.asarray(sources["Log_Odds"]), nan=-np.inf))
    return sources


def _with_odds(sources, sky_map, model):
    """The table of measured sources with ``Log_Odds``."""
    trial_deg2 = np.pi * _psf_deg(sky_map, model) ** 2
    return with_log_odds(sources, *sky_map.observed_points, trial_deg2)


def _psf_deg(sky_map, model):
    """Radius in degrees that contains 68 % of typical photons."""
    low = max(model.energy_range[0], sky_map.energy_edges[0])
    psf = psf_of(sky_map.psf, sky_map.observed_points[0])
    return psf.containment_radius(0.68, np.clip(_TYPICAL * low, *psf.energy_range))


def near_cell(patches, model):
    """Return the function that chooses bright pixels in and near the cells that patches own."""
    radius_pix, grid = clustering_config(model).radius_pix, patches.grid.config
    reach_deg = grid.border_deg + 3 * radius_pix * grid.pixel_deg
    return partial(near_owned_cell, patches, margin_deg=reach_deg)


def fit_sources(sources, sky_map, model, classifier=None, *, fixed=False, **config):
    """Return the table of sources with the results of the fit, and what a classifier needs."""
    sources = measure_sources(
        sources, sky_map, band_edges=model.band_edges, flux_range=model.flux_range, fixed=fixed,
        grid=None if classifier is None else classifier.grid,
        config=measurement_config(sky_map, model, **config),
    )  # fmt: skip
    return sources if model.error_factors is None else model.error_factors.apply(sources)


def measurement_config(sky_map, model, **config):
    """Return the `MeasurementConfig` of a map, with lengths of its PSF for other telescopes."""
    config = MeasurementConfig(**config)
    if model.has_network:
        return config
    density = sky_map.n_photons / max(sky_map.observed_points[1].sum(), 1e-3)
    return config.scaled(_psf_deg(sky_map, model), density)


def _classifier(model, fit_edges):
    """`Classifier` of a model for the energies that were fitted; None without either."""
    if not len(fit_edges) or fit_edges[0] >= fit_edges[-1]:
        return None
    return Classifier.of(model, fit_edges[[0, -1]])


def as_sky_map(map, parts):
    """Return the `SkyMap` of a map and its parts; the map itself if it is one without any."""
    is_read = isinstance(map, SkyMap) and all(part is None for part in parts.values())
    return map if is_read else read_map(map, **parts)


def _fraction(name, value):
    """An option from 0 to 1 as a float; None if it is not given."""
    try:
        if value is None or 0 <= float(value) <= 1:
            return None if value is None else float(value)
    except (TypeError, ValueError):
        pass
    raise InputError(f"{name} must lie between 0 and 1; got {value!r}; give another")


def _cone(region):
    """The cone of the sky of the option ``region``; None for no region."""
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


def _searched(cone, sky_map, model):
    """The cone with a margin for the neighbours that are fitted together with its sources."""
    psf = psf_of(sky_map.psf, cone.center[None])
    margin_deg = neighbor_margin_deg(model.band_edges[0], psf)
    return DiscFootprint(cone.center, min(cone.radius_deg + margin_deg, 180.0))


def _touched(patches, cone):
    """Whether any observed pixel of the patches lies in the cone."""
    # a pixel more, so that a cone smaller than a pixel touches the one around it
    wider = DiscFootprint(cone.center, cone.radius_deg + patches.grid.config.pixel_deg)
    return any(
        np.any(wider.covers(patches.grid.plane(patch).pixel_vectors) & (coverage[..., 0] > 0))
        for patch, coverage in zip(patches.index, patches.coverage)
    )


def as_seed(rng):
    """Return the seed of the counter-based stream from an int, a Generator or None."""
    if rng is None or isinstance(rng, np.random.Generator):
        return int(np.random.default_rng(rng).integers(2**31))
    if isinstance(rng, int | np.integer) and 0 <= rng < 2**64:
        return int(rng)
    raise InputError(
        f"rng must be an int from 0 to 2**64 - 1, a Generator or None; got {rng!r}; give an int"
    )
