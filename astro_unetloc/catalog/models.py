"""Point sources for a likelihood fit: models of gammapy, source library of the Fermi tools.

The spectra are those of 4FGL-DR3 (arXiv:2201.11184, section 3.3): a power law, for pulsars a power
law with a cut-off, for others a log-parabola where the counts of the bands are curved. With
x = ln(E / pivot) all of them are ``amplitude * exp(-index * x - curvature * bend(x))``; the bend is
``x**2`` of a log-parabola and ``(exp(b x) - 1 - b x) / b**2`` of a cut-off.
"""

from xml.sax.saxutils import quoteattr

import astropy.units as u
import numpy as np
from astropy.table import Table
from scipy.special import gammaincc, gammainccinv

from astro_unetloc.catalog.read import as_table, energy_range
from astro_unetloc.catalog.table import (
    band_edges,
    numbers,
    numbers_of,
    one_line,
    sky_positions,
    source_classes,
    texts_of,
    unique_names,
)
from astro_unetloc.exceptions import InputError, warn

_PHOTON_INDEX = 2.4  # of a source of unknown index: that of `astro_unetloc.irf.spectra`
_GAUSSIAN_68 = 1.5096  # sigmas within which 68 % of a Gaussian in two dimensions lies
_FREEDOM = 1e4  # by which the amplitude of a fit may differ from its start
_MAX_NAMES = 5  # in a warning
_PER_AREA_TIME = "cm-2 s-1"
OF_BAND = ("counts", "background", "seen", "flux")  # of `band_counts`
# Level of upper limits on the counts of a band, and test statistic from which it is measured.
LIMIT_LEVEL, MIN_BAND_TS = 0.95, 4.0
# Counts of background at least: errors are rounded to single precision.
_MIN_BACKGROUND = 1e-3
_N_NODES = 24  # Gauss-Legendre nodes in ln E between two energies

_CUT_OFF, _LOG_PARABOLA, _POWER_LAW = "PLSuperExpCutoff4", "LogParabola", "PowerLaw"
# Names of amplitude, index, pivot and curvature in libraries.
_LIBRARY_NAMES = {
    _CUT_OFF: ("Prefactor", "IndexS", "Scale", "ExpfactorS"),
    _LOG_PARABOLA: ("norm", "alpha", "Eb", "beta"),
    _POWER_LAW: ("Prefactor", "Index", "Scale", ""),
}
_EXP_INDEX = 2 / 3  # b of nearly all pulsars of 4FGL
# Index of pulsars far below the cut-off, ``index - curvature / b``, and its standard deviation: of
# the pulsars in `astro_unetloc.simulation.population`. Their curvature is positive.
_LOW_INDEX, _SIGMA_LOW_INDEX, _MIN_CURVATURE = 0.9, 0.5, 0.01
_OF_LOW_INDEX = np.array([0.0, 1.0, -1 / _EXP_INDEX])  # of the parameters of `_photons`
# A log-parabola is taken if its curvature is so many standard deviations above zero.
_MIN_SIGMAS = 3.0
# Standard deviations of the priors on the logarithm of the counts, the index and the curvature,
# which keep a fit to few counts finite; number of steps of the fit, and the longest one.
_WEAK, _N_STEPS, _MAX_STEP = (10.0, 3.0, 2.0), 30, 0.7


def to_gammapy_models(catalog):
    """Return the catalogue as `gammapy.modeling.models.Models`, from which a fit can start.

    Parameters
    ----------
    catalog : QTable
        From `astro_unetloc.find_sources` with an exposure, or read back from FITS, ECSV or VOTable.

    Returns
    -------
    gammapy.modeling.models.Models
        For each source with a ``Flux`` a point source under its name, with the errors of the
        catalogue and the covariance of the position from its 68 % ellipse. The spectrum is a power
        law between the energies of the flux (``PowerLaw2SpectralModel``), of pulsars one with a
        cut-off (``SuperExpCutoffPowerLaw4FGLDR3SpectralModel``), of others a log-parabola
        (``LogParabolaSpectralModel``) where ``Counts_Band`` is curved by 3 sigma. Its flux is that
        of the catalogue. An unknown index is 2.4.

    Raises
    ------
    InputError
        If there are sources and none has a flux, or the header does not state its energies.

    Warns
    -----
    UnetlocWarning
        If sources without a flux are left out.

    Examples
    --------
    >>> from astro_unetloc import read_catalog, to_gammapy_models
    >>> models = to_gammapy_models(read_catalog("catalog.fits"))  # doctest: +SKIP
    >>> dataset.models = [*models, *dataset.models]  # doctest: +SKIP
    """
    from gammapy.modeling.models import Models, SkyModel

    sources = _point_sources(as_table(catalog))
    return Models([SkyModel(*_spectrum_and_place(s), name=str(s["name"])) for s in sources])


def gammapy_yaml(catalog):
    """`to_gammapy_models` as YAML (str), made 30 times faster without the `SkyModel`."""
    from gammapy.utils.scripts import to_yaml

    components = []
    for source in _point_sources(catalog):
        component = {"name": str(source["name"]), "type": "SkyModel"}
        for part in _spectrum_and_place(source):
            component |= part.to_dict()
        components.append(component)
    return to_yaml({"components": components})


def _spectrum_and_place(source):
    """Spectral and spatial model of gammapy for one row of `_point_sources`."""
    from gammapy.modeling.models import PointSpatialModel, PowerLaw2SpectralModel

    if source["kind"] == _POWER_LAW:
        spectral = PowerLaw2SpectralModel(
            amplitude=source["flux"] * u.Unit(_PER_AREA_TIME), index=source["index"],
            emin=source["flux_min"] * u.GeV, emax=source["flux_max"] * u.GeV,
        )  # fmt: skip
        spectral.amplitude.error = np.nan_to_num(source["flux_err"])
        spectral.index.error = np.nan_to_num(source["index_err"])
    else:
        spectral = _curved_spectrum(source)
    place = PointSpatialModel(lon_0=source["ra"] * u.deg, lat_0=source["dec"] * u.deg, frame="icrs")
    if np.isfinite(source["covariance"]).all():
        place.covariance = source["covariance"]
    return spectral, place


def _curved_spectrum(source):
    """Log-parabola or power law with a cut-off of gammapy for one row of `_point_sources`."""
    from gammapy.modeling import models

    values = {"amplitude": source["amplitude"] * u.Unit(_PER_AREA_TIME) / u.GeV}
    values["reference"] = source["pivot"] * u.GeV
    if source["kind"] == _LOG_PARABOLA:
        spectral = models.LogParabolaSpectralModel(**values)
        index, curvature = spectral.alpha, spectral.beta
    else:
        values["index_2"] = _EXP_INDEX
        spectral = models.SuperExpCutoffPowerLaw4FGLDR3SpectralModel(**values)
        index, curvature = spectral.index_1, spectral.expfactor
        spectral.index_2.frozen = True
    parameters = {"amplitude": spectral.amplitude, "index": index, "curvature": curvature}
    for name, parameter in parameters.items():
        parameter.value, parameter.error = source[name], np.nan_to_num(source[f"{name}_err"])
    curvature.frozen = not source["is_free"]
    return spectral


def _point_sources(catalog):
    """Table of the sources that have a flux, in deg, GeV and ph cm-2 s-1; errors may be NaN.

    The pivot is the energy at which, for a given flux, the amplitude of a power law does not depend
    on the index: the mean logarithm of the photon energies in the flux range. There the relative
    error of the amplitude is that of the flux.
    """
    names = unique_names([name or "source" for name in texts_of(catalog, "Source_Name")])
    known = np.nan_to_num(numbers_of(catalog, "Flux", _PER_AREA_TIME)) > 0
    if len(catalog) and not known.any():
        raise InputError(
            "models need the Flux of sources; got a catalogue without; find them with an exposure"
        )
    if not known.all():
        left = [name for name, is_known in zip(names, known) if not is_known]
        some = ", ".join(left[:_MAX_NAMES] + ["..."] * (len(left) > _MAX_NAMES))
        warn(f"models leave out {len(left)} of {len(names)} sources, whose Flux is unknown: {some}")
    energies = energy_range(catalog, "FLUX")
    if energies is None and len(catalog):
        raise InputError(
            "models need the energies of Flux, FLUXEMIN and FLUXEMAX in GeV; got a catalogue whose "
            "header does not state them, as in .csv; read that of .fits, .ecsv or .vot"
        )
    edges = np.array(energies or (1.0, 2.0))
    rows = catalog[known]
    positions, index = sky_positions(rows), numbers_of(rows, "Spectral_Index")
    sources = Table({"name": np.array(names, str)[known], "class": source_classes(rows)})
    sources["ra"], sources["dec"] = positions.ra.deg, positions.dec.deg
    sources["covariance"] = _position_covariance(rows, positions.dec.rad)
    sources["flux"] = numbers_of(rows, "Flux", _PER_AREA_TIME)
    sources["flux_err"] = numbers_of(rows, "Unc_Flux", _PER_AREA_TIME)
    sources["flux_min"], sources["flux_max"] = np.tile(edges, (len(rows), 1)).T
    sources["index"] = np.where(np.isfinite(index), index, _PHOTON_INDEX)
    sources["index_err"] = numbers_of(rows, "Unc_Spectral_Index")
    _set_shapes(sources, rows, edges)
    return sources


# Curved spectra


def _set_shapes(sources, catalog, edges):
    """Set kind, pivot, index, curvature and amplitude of the spectra in a table of sources (n)."""
    is_pulsar, n = sources["class"] == "psr", len(sources)
    parameters = np.zeros((n, 3))  # logarithm of the amplitude, index and curvature
    parameters[:, 1] = sources["index"]
    photons, slopes = _photons(np.zeros(n, bool), np.full(n, edges[0]), parameters, edges)
    pivot = sources["pivot"] = edges[0] * np.exp(-slopes[:, 0, 1] / photons[:, 0])
    typical = np.maximum(_EXP_INDEX * (parameters[:, 1] - _LOW_INDEX), _MIN_CURVATURE)
    parameters[is_pulsar, 2] = typical[is_pulsar]
    fitted, covariance = _fit_bands(is_pulsar, pivot, parameters, catalog)
    _, index_err, curvature_err = np.sqrt(np.einsum("naa->an", covariance))
    use = fitted[:, 2] > np.where(is_pulsar, _MIN_CURVATURE, _MIN_SIGMAS * curvature_err)
    use &= np.isfinite(curvature_err)
    parameters[use, 1:] = fitted[use, 1:]
    sources["kind"] = np.select([is_pulsar, use], [_CUT_OFF, _LOG_PARABOLA], _POWER_LAW)
    sources["index"], sources["curvature"] = parameters.T[1:]
    sources["index_err"] = np.where(use, index_err, sources["index_err"])
    sources["curvature_err"] = np.where(use, curvature_err, np.nan)
    # The curvature of a pulsar is free in a fit if its photons constrain it more than the prior.
    variance = np.einsum("a,nab,b->n", _OF_LOW_INDEX, covariance, _OF_LOW_INDEX)
    sources["is_free"] = use & (~is_pulsar | (variance < _SIGMA_LOW_INDEX**2 / 2))
    of_amplitude = _photons(is_pulsar, pivot, parameters, edges)[0][:, 0]
    sources["amplitude"] = sources["flux"] / of_amplitude
    sources["amplitude_err"] = sources["flux_err"] / of_amplitude


def _photons(is_cut, pivot, parameters, edges):
    """Photons of n spectra in bands (n, n_band), and their derivatives (n, n_band, 3).

    ``parameters`` (n, 3) are the logarithm of the amplitude, the index and the curvature, in which
    the exponent of the spectra is linear.
    """
    node, weight = np.polynomial.legendre.leggauss(_N_NODES)
    width = np.diff(np.log(edges))[:, None]
    log_energy = np.log(edges[:-1, None]) + width * (node + 1) / 2
    x = log_energy - np.log(pivot)[:, None, None]
    bx = _EXP_INDEX * x
    bend = np.where(is_cut[:, None, None], (np.expm1(bx) - bx) / _EXP_INDEX**2, x**2)
    bases = np.stack([np.ones_like(x), -x, -bend], axis=-1)
    exponent = np.einsum("nbma,na->nbm", bases, parameters)
    photons = np.exp(log_energy + exponent) * width * weight / 2
    return photons.sum(axis=2), np.einsum("nbm,nbma->nba", photons, bases)


def _fit_bands(is_pulsar, pivot, start, catalog):
    """Parameters (n, 3) that fit the counts of the bands best, and their covariances (n, 3, 3).

    Covariances are NaN where fewer than two bands are known. A prior relates the curvature of a
    pulsar to its index as in other pulsars, which decides where there are few photons.
    """
    bands = band_counts(catalog)
    if bands is None:
        return start, np.full((len(start), 3, 3), np.nan)
    edges = band_edges(catalog)
    counts, background, seen, per_count = (bands[name] for name in OF_BAND)
    known = np.isfinite(counts + per_count)
    counts, seen, per_count = (np.where(known, a, 1.0) for a in (counts, seen, per_count))
    few = known.sum(axis=1) < 2
    known[few] = True  # any numbers will do, the result is dropped
    seen, found = known * seen, known * (counts + background)
    low = np.outer(_OF_LOW_INDEX, _OF_LOW_INDEX) / _SIGMA_LOW_INDEX**2
    prior = np.diag(1 / np.square(_WEAK)) + is_pulsar[:, None, None] * low
    parameters = start.copy()
    expected = np.sum(known * _photons(is_pulsar, pivot, start, edges)[0] / per_count, axis=1)
    parameters[:, 0] = np.log(np.maximum(np.sum(known * counts, axis=1), 1.0) / expected)
    center = parameters.copy()
    for _ in range(_N_STEPS):
        photons, slopes = _photons(is_pulsar, pivot, parameters, edges)
        slopes = slopes / per_count[:, :, None]
        total = np.maximum(photons / per_count + background, 1e-300)
        gradient = np.einsum("nb,nba->na", found / total - seen, slopes)
        gradient -= np.einsum("nac,nc->na", prior, parameters - center)
        information = np.einsum("nb,nba,nbc->nac", seen / total, slopes, slopes) + prior
        step = np.linalg.solve(information, gradient[:, :, None])[:, :, 0]
        longest = np.abs(step).max(axis=1, keepdims=True, initial=_MAX_STEP)
        parameters += step * _MAX_STEP / longest
    return parameters, np.where(few[:, None, None], np.nan, np.linalg.inv(information))


def band_counts(catalog):
    """Poisson likelihoods of the counts of n sources in bands, a dict of arrays (n, n_band).

    That of s counts is ``(counts + background) * ln(s + background) - seen * s``. The error of the
    counts shows how many counts of background there are; that of zero counts is where the
    log-likelihood is half a unit less. ``flux`` is that of one count, in ph cm-2 s-1. Values are
    NaN where a band is unknown, the names are `OF_BAND`. None without columns or edges of bands.
    """
    edges, names = band_edges(catalog), ("Counts_Band", "Unc_Counts_Band", "Unc_Flux_Band")
    n_bands = [np.shape(catalog[name])[1:] for name in names if name in catalog.colnames]
    if len(edges) < 2 or n_bands != [(len(edges) - 1,)] * 3:
        return None
    counts, error, flux_error = (
        numbers(catalog[name], unit, ndim=2) for name, unit in zip(names, ("", "", _PER_AREA_TIME))
    )
    is_known = np.isfinite(counts + error)
    positive = is_known & (counts > 0)
    background = np.where(positive, np.maximum(error**2 - counts, 0.0), 0.0)
    seen = np.where(positive, 1.0, np.minimum(0.5 / error, 1.0))
    counts = np.where(is_known, counts, np.nan)
    return dict(zip(OF_BAND, (counts, background, seen, flux_error / error)))


def band_limits(bands):
    """95 % upper limits (n, n_band) on the counts of `band_counts`, and their test statistic.

    Bayesian with a flat prior (Helene 1983, NIM 212, 319), as those of
    `astro_unetloc.upper_limits`. A band of TS < `MIN_BAND_TS` is shown as its limit.
    """
    counts, background, seen, _ = (bands[name] for name in OF_BAND)
    found = counts + background
    outside = gammaincc(found + 1, seen * background) * (1 - LIMIT_LEVEL)
    limit = gammainccinv(found + 1, outside) / seen - background
    ratio = np.maximum(found, _MIN_BACKGROUND) / np.maximum(background, _MIN_BACKGROUND)
    return limit, np.where(counts > 0, 2 * (found * np.log(ratio) - counts), 0.0)


def _position_covariance(table, dec):
    """Covariance (n, 2, 2) of right ascension and declination in deg2 from the 68 % ellipses."""
    names = ("Conf_68_SemiMajor", "Conf_68_SemiMinor", "Conf_68_PosAng")
    major, minor, angle = (numbers_of(table, name, "deg") for name in names)
    angle = np.radians(np.where(major == minor, np.nan_to_num(angle), angle))  # a circle has none
    axes = np.array([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]])
    # from degrees on the sky towards the east to those of right ascension
    axes = axes / np.array([np.maximum(np.cos(dec), 1e-6), np.ones(len(dec))])
    sigma = np.array([major, minor]) / _GAUSSIAN_68
    return np.einsum("an,ain,ajn->nij", sigma**2, axes, axes)


def fermi_library(catalog):
    """XML source library of the Fermi tools (bytes, in MeV); see `to_gammapy_models`."""
    elements = []
    for source in _point_sources(catalog):
        spectrum = source["kind"], _library_spectrum(source)
        position = {"RA": source["ra"], "DEC": source["dec"]}
        stated = str(source["class"]).upper()
        model = (spectrum, "SkyDirFunction", position)
        elements.append(library_source(source["name"], *model, source_class=stated))
    return library_text("astro_unetloc", elements)


def _library_spectrum(source):
    """XML parameters of the spectrum in one row of `_point_sources`."""
    norm, index, scale, curvature = _LIBRARY_NAMES[source["kind"]]
    per_mev, error = source["amplitude"] / 1e3, source["amplitude_err"] / 1e3
    sign = 1 if source["kind"] == _LOG_PARABOLA else -1
    fit = {"error": source["curvature_err"], "free": source["is_free"]}
    parameters = [
        library_amplitude(norm, per_mev, error=error),
        library_parameter(index, source["index"], sign, -5, 10, error=source["index_err"], free=1),
        library_parameter(scale, source["pivot"] * 1e3, 1, 10, 1e7),
    ]
    if curvature:
        parameters.append(library_parameter(curvature, source["curvature"], 1, -10, 10, **fit))
    if source["kind"] == _CUT_OFF:
        parameters.append(library_parameter("Index2", _EXP_INDEX, 1, 0, 10))
    return parameters


def library_text(title, sources):
    """XML source library (bytes) of elements from `library_source`."""
    head = ['<?xml version="1.0" encoding="utf-8"?>', f"<source_library title={quoteattr(title)}>"]
    return "\n".join([*head, *sources, "</source_library>", ""]).encode()


def library_source(name, spectrum, shape, position, *, source_class=""):
    """XML element of a source of one spectrum (type, parameters) and spatial model.

    ``position`` are the parameters of the spatial model by name, in degrees. The Fermi tools ignore
    the attribute ``class``.
    """
    kind = "PointSource" if shape == "SkyDirFunction" else "DiffuseSource"
    stated = f' class="{source_class}"' if source_class else ""
    lines = [
        f'  <source name={quoteattr(one_line(name))} type="{kind}"{stated}>',
        f'    <spectrum type="{spectrum[0]}">',
        *spectrum[1],
        "    </spectrum>",
        f'    <spatialModel type="{shape}">',
        *(library_parameter(n, value, 1, -360, 360) for n, value in position.items()),
        "    </spatialModel>",
        "  </source>",
    ]
    return "\n".join(lines)


def library_parameter(name, value, scale, low, high, *, error=np.nan, free=False):
    """XML element of a parameter; a finite ``error`` is written as an attribute."""
    error = f' error="{float(error)!r}"' if np.isfinite(error) else ""
    return (
        f'      <parameter name="{name}" value="{float(value)!r}"{error} scale="{scale:g}" '
        f'min="{low:g}" max="{high:g}" free="{int(free)}"/>'
    )


def library_amplitude(name, value, *, error=np.nan):
    """XML element of a free amplitude, its scale a power of ten."""
    scale = 10.0 ** np.floor(np.log10(value))
    limits = (1 / _FREEDOM, _FREEDOM)
    return library_parameter(name, value / scale, scale, *limits, error=error / scale, free=True)
