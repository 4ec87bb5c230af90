"""Point sources with a power law: what a likelihood fit starts from, in two formats."""

from dataclasses import dataclass, replace

import numpy as np

from astro_unetloc.catalog import unique_names
from astro_unetloc.config import PHOTON_INDEX
from astro_unetloc.geometry import frame_rotation, vectors_from_lonlat
from astro_unetloc.messages import warn
from astro_unetloc.population import CLASSES, GAUSSIAN_68, SHAPES, Sources
from astro_unetloc.references import degrees, numbers, sky_positions, texts_of
from astro_unetloc.source_library import format_source_library
from astro_unetloc.spectra import power_laws

__all__ = ["PointModels", "format_gammapy_models", "format_library", "point_models"]

# So many sources that are left out are named in the warning.
_MAX_NAMES = 5


@dataclass(frozen=True)
class PointModels:
    """n point sources with power laws, and their errors; errors are NaN where unknown.

    Attributes
    ----------
    names : list of str
        Unique.
    ra, dec : ndarray (n,)
        ICRS, degrees.
    covariance : ndarray (n, 2, 2)
        Of the right ascension and declination, in deg2.
    flux, flux_err : ndarray (n,)
        Photon flux in ``flux_range``, ph cm-2 s-1.
    index, index_err : ndarray (n,)
        Photon index; where it is unknown ``config.PHOTON_INDEX``.
    classes : ndarray (n,) of str
        One of `astro_unetloc.population.CLASSES`, or empty.
    flux_range : pair of float
        In GeV.
    """

    names: list
    ra: np.ndarray
    dec: np.ndarray
    covariance: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    index: np.ndarray
    index_err: np.ndarray
    classes: np.ndarray
    flux_range: tuple

    def __len__(self):
        return len(self.names)


def point_models(catalog):
    """The sources of a catalogue that have a flux, as power laws.

    Parameters
    ----------
    catalog : QTable
        From `astro_unetloc.find_sources` with an exposure, or read back from FITS, ECSV or VOTable.

    Returns
    -------
    PointModels

    Raises
    ------
    ValueError
        If there are sources and none has a ``Flux``, or the header does not state its energies.

    Warns
    -----
    UnetlocWarning
        If sources without a flux are left out.
    """
    flux = _numbers(catalog, "Flux", "cm-2 s-1")
    known = np.isfinite(flux) & (flux > 0)
    if len(catalog) and not known.any():
        raise ValueError(
            "models need the Flux of sources; got a catalogue without; find them with an exposure"
        )
    rows = catalog[known]
    names = _names(catalog)
    if not known.all():
        left = [name for name, is_known in zip(names, known) if not is_known]
        some = ", ".join(left[:_MAX_NAMES] + ["..."] * (len(left) > _MAX_NAMES))
        warn(f"models leave out {len(left)} of {len(names)} sources, whose Flux is unknown: {some}")
    positions = sky_positions(rows)
    index = _numbers(rows, "Spectral_Index")
    return PointModels(
        names=[name for name, is_known in zip(names, known) if is_known],
        ra=positions.ra.deg,
        dec=positions.dec.deg,
        covariance=_position_covariance(rows, positions.dec.rad),
        flux=flux[known],
        flux_err=_numbers(rows, "Unc_Flux", "cm-2 s-1"),
        index=np.where(np.isfinite(index), index, PHOTON_INDEX),
        index_err=_numbers(rows, "Unc_Spectral_Index"),
        classes=texts_of(rows, "Class"),
        flux_range=_flux_range(catalog),
    )


def _names(catalog):
    names = [name or "source" for name in texts_of(catalog, "Source_Name")]
    return [str(name) for name in unique_names(names)]


def _numbers(table, name, unit=""):
    """Plain float64 values of a column in a unit, photons being none; NaN where unknown."""
    import astropy.units as u

    if name not in table.colnames:
        return np.full(len(table), np.nan)
    counts_photons = u.ph in getattr(getattr(table[name], "unit", None), "bases", ())
    return numbers(table[name], u.ph * u.Unit(unit) if counts_photons else unit)


def _flux_range(catalog):
    """Energies of ``Flux`` in GeV, from the header."""
    try:
        low, high = (float(catalog.meta[key]) for key in ("FLUXEMIN", "FLUXEMAX"))
    except (KeyError, TypeError, ValueError):
        low = high = np.nan
    if len(catalog) and not 0 < low < high:
        raise ValueError(
            "models need the energies of Flux, FLUXEMIN and FLUXEMAX in GeV; got a catalogue whose "
            "header does not state them, as in .csv; read that of .fits, .ecsv or .vot"
        )
    return low, high


def _position_covariance(table, dec):
    """Covariance (n, 2, 2) of right ascension and declination in deg2 from the 68 % ellipses."""
    names = ("Conf_68_SemiMajor", "Conf_68_SemiMinor", "Conf_68_PosAng")
    if not set(names) <= set(table.colnames):
        return np.full((len(table), 2, 2), np.nan)
    major, minor, angle = (degrees(table[name]) for name in names)
    angle = np.radians(np.where(major == minor, np.nan_to_num(angle), angle))  # a circle has none
    axes = np.array([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]])
    # from degrees on the sky towards the east to those of right ascension
    axes = axes / np.array([np.maximum(np.cos(dec), 1e-6), np.ones(len(dec))])
    sigma = np.array([major, minor]) / GAUSSIAN_68
    return np.einsum("an,ain,ajn->nij", sigma**2, axes, axes)


def format_gammapy_models(models):
    """The sources as the YAML that `gammapy.modeling.models.Models` reads.

    ``PowerLaw2SpectralModel`` and ``PointSpatialModel``: the amplitude is the photon flux between
    ``emin`` and ``emax``, so that its error is that of the catalogue. Errors are written, their
    correlations not: gammapy keeps these in a further file, of (6 n)**2 numbers.

    Parameters
    ----------
    models : PointModels
        The sources.

    Returns
    -------
    str
    """
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    components = [_gammapy_component(models, row) for row in range(len(models))]
    return yaml.dump({"components": components}, Dumper=dumper, sort_keys=False, indent=4)


def _gammapy_component(models, row):
    """One source in the form of ``SkyModel.to_dict``; written here, which is 30 times faster."""
    low, high = models.flux_range
    ra_err, dec_err = np.sqrt(np.diagonal(models.covariance[row]))
    spectral = [
        _parameter("amplitude", models.flux[row], models.flux_err[row], unit="cm-2 s-1"),
        _parameter("index", models.index[row], models.index_err[row]),
        _parameter("emin", low, unit="GeV", frozen=True),
        _parameter("emax", high, unit="GeV", frozen=True),
    ]
    spatial = [
        _parameter("lon_0", models.ra[row], ra_err, unit="deg"),
        _parameter("lat_0", models.dec[row], dec_err, unit="deg", min=-90.0, max=90.0),
    ]
    return {
        "name": models.names[row],
        "type": "SkyModel",
        "spectral": {"type": "PowerLaw2SpectralModel", "parameters": spectral},
        "spatial": {"type": "PointSpatialModel", "frame": "icrs", "parameters": spatial},
    }


def _parameter(name, value, error=np.nan, **others):
    error = {"error": float(error)} if np.isfinite(error) else {}
    return {"name": name, "value": float(value)} | error | others


def format_library(models):
    """The sources as a source library of the Fermi tools, ``PowerLaw`` in MeV.

    The pivot is the energy at which, for a given flux, the amplitude does not depend on the index:
    the mean logarithm of the photon energies in the flux range. There the relative error of the
    amplitude is that of the flux.

    Parameters
    ----------
    models : PointModels
        The sources.

    Returns
    -------
    bytes
    """
    pivot = _mean_energy(models.index, *models.flux_range)
    spectra = replace(power_laws(models.flux, models.index), pivot=pivot)
    spectra = spectra.scaled(models.flux, *models.flux_range)
    classes = [CLASSES.index(name) if name in CLASSES else -1 for name in models.classes]
    sources = Sources(
        vectors=vectors_from_lonlat(models.ra, models.dec) @ frame_rotation("icrs").T,
        spectra=spectra,
        source_class=np.array(classes, np.int8),
        shape=np.full(len(models), SHAPES.index("point"), np.int8),
        size_deg=np.zeros(len(models)),
    )
    amplitude_err = spectra.amplitude * models.flux_err / models.flux
    errors = {"amplitude": amplitude_err, "index": models.index_err}
    return format_source_library(sources, models.names, title="astro_unetloc", errors=errors)


def _mean_energy(index, low, high):
    """exp of the mean ln E of the photons of power laws (n,) between two energies.

    With g = index - 1 and x = ln(high / low) the mean of ln(E / low) is 1 / g - x / (exp(g x) - 1).
    """
    x = np.log(high / low)
    flat = np.abs(index - 1) * x < 1e-4
    g = np.where(flat, 1.0, index - 1)
    mean = 1 / g - x / np.expm1(np.minimum(g * x, 700.0))  # exp(710) is too large a number
    return low * np.exp(np.where(flat, x / 2, mean))
