"""Point sources with a power law: what a likelihood fit starts from, in two formats.

`Models` of gammapy, and the XML source library of the Fermi tools, whose spectra are in MeV.
"""

from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np

from astro_unetloc.catalog.table import degrees, numbers, sky_positions, texts_of, unique_names
from astro_unetloc.exceptions import InputError, warn

__all__ = [
    "PointModels",
    "format_gammapy_models",
    "format_library",
    "library_amplitude",
    "library_parameter",
    "library_source",
    "library_text",
    "point_models",
]

# Where the index of a source is unknown: that of `astro_unetloc.irf.spectra`.
_PHOTON_INDEX = 2.4

# Standard deviations of a Gaussian in two dimensions within which 68 % of it lies.
_GAUSSIAN_68 = 1.5096

# Classes that a source of a library may state, see `astro_unetloc.simulation`.
_CLASSES = ("AGN", "PSR", "GAL")

# Decades by which a parameter of a fit may go away from its value.
_FREEDOM = 1e4


def library_text(title, sources):
    """XML source library (bytes) of elements from `library_source`."""
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f"<source_library title={quoteattr(title)}>",
        *sources,
        "</source_library>",
        "",
    ]
    return "\n".join(lines).encode()


def library_source(name, spectrum, shape, position, *, source_class=""):
    """XML element of one source.

    Parameters
    ----------
    name : str
        Its name.
    spectrum : tuple of str and list of str
        Type of the spectrum and its parameters, from `library_parameter`.
    shape : str
        Type of the spatial model: ``SkyDirFunction`` or that of an extended source.
    position : dict of str to float
        Its parameters, in degrees.
    source_class : str
        Written as an attribute ``class``, which the Fermi tools ignore; empty if unknown.

    Returns
    -------
    str
    """
    kind = "PointSource" if shape == "SkyDirFunction" else "DiffuseSource"
    stated = f' class="{source_class}"' if source_class else ""
    places = (library_parameter(n, value, 1, -360, 360) for n, value in position.items())
    return "\n".join(
        [
            f'  <source name={quoteattr(str(name))} type="{kind}"{stated}>',
            f'    <spectrum type="{spectrum[0]}">',
            *spectrum[1],
            "    </spectrum>",
            f'    <spatialModel type="{shape}">',
            *places,
            "    </spatialModel>",
            "  </source>",
        ]
    )


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
        Photon index; where it is unknown 2.4.
    classes : ndarray (n,) of str
        One of AGN, PSR and GAL for those that a library names, or another, or empty.
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
        raise InputError(
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
        index=np.where(np.isfinite(index), index, _PHOTON_INDEX),
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
        raise InputError(
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
    sigma = np.array([major, minor]) / _GAUSSIAN_68
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
    low, high = models.flux_range
    pivot = _mean_energy(models.index, low, high)
    x, power = np.log(high / low), 1 - models.index
    flat = np.abs(power) * x < 1e-6
    safe = np.where(flat, 1.0, power)
    integral = np.where(flat, x, np.expm1(safe * x) / safe) * low * (low / pivot) ** -models.index
    amplitude = models.flux / integral / 1e3  # per MeV
    amplitude_err = amplitude * models.flux_err / models.flux
    sources = []
    for row, name in enumerate(models.names):
        parameters = [
            library_amplitude("Prefactor", amplitude[row], error=amplitude_err[row]),
            library_parameter(
                "Index", models.index[row], -1, -5, 10, error=models.index_err[row], free=True
            ),
            library_parameter("Scale", pivot[row] * 1e3, 1, 10, 1e7),
        ]
        place = {"RA": models.ra[row], "DEC": models.dec[row]}
        stated = models.classes[row] if models.classes[row] in _CLASSES else ""
        spectrum = ("PowerLaw", parameters)
        sources.append(library_source(name, spectrum, "SkyDirFunction", place, source_class=stated))
    return library_text("astro_unetloc", sources)


def _mean_energy(index, low, high):
    """exp of the mean ln E of the photons of power laws (n,) between two energies.

    With g = index - 1 and x = ln(high / low) the mean of ln(E / low) is 1 / g - x / (exp(g x) - 1).
    """
    x = np.log(high / low)
    flat = np.abs(index - 1) * x < 1e-4
    g = np.where(flat, 1.0, index - 1)
    mean = 1 / g - x / np.expm1(np.minimum(g * x, 700.0))  # exp(710) is too large a number
    return low * np.exp(np.where(flat, x / 2, mean))
