"""Point sources with power laws for a likelihood fit: models of gammapy, XML of the Fermi tools."""

from xml.sax.saxutils import quoteattr

import astropy.units as u
import numpy as np
from astropy.table import Table

from astro_unetloc.catalog.read import as_table, energy_range
from astro_unetloc.catalog.table import (
    numbers_of,
    one_line,
    sky_positions,
    texts_of,
    unique_names,
)
from astro_unetloc.exceptions import InputError, warn

_PHOTON_INDEX = 2.4  # of a source of unknown index: that of `astro_unetloc.irf.spectra`
_GAUSSIAN_68 = 1.5096  # sigmas within which 68 % of a Gaussian in two dimensions lies
_CLASSES = ("AGN", "PSR", "OTHER")  # that a source of a library may state
_FREEDOM = 1e4  # by which the amplitude of a fit may differ from its start
_MAX_NAMES = 5  # in a warning
_PER_AREA_TIME = "cm-2 s-1"


def to_gammapy_models(catalog):
    """Return the catalogue as `gammapy.modeling.models.Models`, from which a fit can start.

    Parameters
    ----------
    catalog : QTable
        From `astro_unetloc.find_sources` with an exposure, or read back from FITS, ECSV or VOTable.

    Returns
    -------
    gammapy.modeling.models.Models
        For each source with a ``Flux`` a point source with a power law between the energies of the
        flux (``PowerLaw2SpectralModel``), under its name, with the errors of the catalogue and the
        covariance of the position from its 68 % ellipse. An unknown index is 2.4.

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

    sources = _power_laws(as_table(catalog))
    return Models([SkyModel(*_spectrum_and_place(s), name=str(s["name"])) for s in sources])


def gammapy_yaml(catalog):
    """`to_gammapy_models` as YAML (str), made 30 times faster without the `SkyModel`."""
    from gammapy.utils.scripts import to_yaml

    components = []
    for source in _power_laws(catalog):
        component = {"name": str(source["name"]), "type": "SkyModel"}
        for part in _spectrum_and_place(source):
            component |= part.to_dict()
        components.append(component)
    return to_yaml({"components": components})


def _spectrum_and_place(source):
    """Spectral and spatial model of gammapy for one row of `_power_laws`."""
    from gammapy.modeling.models import PointSpatialModel, PowerLaw2SpectralModel

    spectral = PowerLaw2SpectralModel(
        amplitude=source["flux"] * u.Unit(_PER_AREA_TIME), index=source["index"],
        emin=source["flux_min"] * u.GeV, emax=source["flux_max"] * u.GeV,
    )  # fmt: skip
    spectral.amplitude.error = np.nan_to_num(source["flux_err"])
    spectral.index.error = np.nan_to_num(source["index_err"])
    place = PointSpatialModel(lon_0=source["ra"] * u.deg, lat_0=source["dec"] * u.deg, frame="icrs")
    if np.isfinite(source["covariance"]).all():
        place.covariance = source["covariance"]
    return spectral, place


def _power_laws(catalog):
    """Table of the sources that have a flux, in deg, GeV and ph cm-2 s-1; errors may be NaN."""
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
    low, high = energies or (np.nan, np.nan)
    rows = catalog[known]
    positions, index = sky_positions(rows), numbers_of(rows, "Spectral_Index")
    laws = Table({"name": np.array(names, str)[known], "class": texts_of(rows, "Class")})
    laws["ra"], laws["dec"] = positions.ra.deg, positions.dec.deg
    laws["covariance"] = _position_covariance(rows, positions.dec.rad)
    laws["flux"] = numbers_of(rows, "Flux", _PER_AREA_TIME)
    laws["flux_err"] = numbers_of(rows, "Unc_Flux", _PER_AREA_TIME)
    laws["flux_min"], laws["flux_max"] = np.full(len(rows), low), np.full(len(rows), high)
    laws["index"] = np.where(np.isfinite(index), index, _PHOTON_INDEX)
    laws["index_err"] = numbers_of(rows, "Unc_Spectral_Index")
    return laws


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
    """XML source library of the Fermi tools (bytes, in MeV); see `to_gammapy_models`.

    The pivot is the energy at which, for a given flux, the amplitude does not depend on the index:
    the mean logarithm of the photon energies in the flux range. There the relative error of the
    amplitude is that of the flux.
    """
    from gammapy.modeling.models import PowerLaw2SpectralModel

    sources = _power_laws(catalog)
    index, low, high = (sources[name].data for name in ("index", "flux_min", "flux_max"))
    pivot = _mean_energy(index, low, high)
    safe = np.where(index == 1, 1 + 1e-6, index)  # the formula divides by index - 1
    flux = sources["flux"].data
    amplitude = PowerLaw2SpectralModel.evaluate(pivot, flux, safe, low, high) / 1e3  # per MeV
    error = amplitude * sources["flux_err"] / flux
    elements = []
    for row, source in enumerate(sources):
        index_fit = {"error": source["index_err"], "free": True}
        parameters = [
            library_amplitude("Prefactor", amplitude[row], error=error[row]),
            library_parameter("Index", index[row], -1, -5, 10, **index_fit),
            library_parameter("Scale", pivot[row] * 1e3, 1, 10, 1e7),
        ]
        position = {"RA": source["ra"], "DEC": source["dec"]}
        model = (("PowerLaw", parameters), "SkyDirFunction", position)
        stated = source["class"] if source["class"] in _CLASSES else ""
        elements.append(library_source(source["name"], *model, source_class=stated))
    return library_text("astro_unetloc", elements)


def _mean_energy(index, low, high):
    """exp of the mean ln E of the photons of power laws between two energies.

    With g = index - 1 and x = ln(high / low) the mean of ln(E / low) is 1 / g - x / (exp(g x) - 1).
    """
    x = np.log(high / low)
    flat = np.abs(index - 1) * x < 1e-4
    g = np.where(flat, 1.0, index - 1)
    mean = 1 / g - x / np.expm1(np.minimum(g * x, 700.0))  # exp(710) overflows
    return low * np.exp(np.where(flat, x / 2, mean))


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
