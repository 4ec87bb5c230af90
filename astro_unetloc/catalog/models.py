"""Source libraries: point and extended sources as an XML model of the Fermi tools, and back.

Spectra are in MeV there and a cut-off is not normalized at the pivot, so that the amplitude of
``PLSuperExpCutoff2`` differs from that of `astro_unetloc.irf.spectra.Spectra`.

Point sources with a power law: what a likelihood fit starts from, in two formats.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np

from astro_unetloc.catalog.table import degrees, numbers, sky_positions, texts_of, unique_names
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.irf.spectra import KINDS, PHOTON_INDEX, Spectra, power_laws
from astro_unetloc.simulation.population import CLASSES, GAUSSIAN_68, SHAPES, Sources
from astro_unetloc.sphere import frame_rotation, lonlat_from_vectors, vectors_from_lonlat

__all__ = [
    "PointModels",
    "format_gammapy_models",
    "format_library",
    "format_source_library",
    "point_models",
    "read_source_library",
]


# Parameters of the models, see the page "Source Model Definitions for gtlike" of the Fermi Science
# Support Center: https://fermi.gsfc.nasa.gov/ssc/data/analysis/scitools/source_models.html
_SPECTRA = {
    "PowerLaw": ("Prefactor", "Index", "Scale"),
    "LogParabola": ("norm", "alpha", "beta", "Eb"),
    "PLSuperExpCutoff2": ("Prefactor", "Index1", "Scale", "Expfactor", "Index2"),
}


_SHAPES = {
    "SkyDirFunction": ("RA", "DEC"),
    "RadialDisk": ("RA", "DEC", "Radius"),
    "RadialGaussian": ("RA", "DEC", "Sigma"),
}


_SHAPE_OF = dict(zip(SHAPES, _SHAPES))


# Decades by which a parameter of a fit may go away from its value.
_FREEDOM = 1e4


_MEV = 1e3  # in a GeV


_RANGE = (0.3, 2000.0)  # energies that are ever simulated, GeV


def format_source_library(sources, names, *, title="simulated sky", errors=None):
    """Sources as an XML source library.

    Parameters
    ----------
    sources : Sources
        The n sources; a negative ``source_class`` is an unknown one.
    names : sequence of str (n,)
        A name for each.
    title : str
        Title of the library.
    errors : dict of str to ndarray (n,), optional
        1 sigma errors of ``amplitude`` (ph cm-2 s-1 GeV-1) and ``index``, written as the attribute
        ``error`` where they are finite.

    Returns
    -------
    bytes
        The file. ``SkyDirFunction``, ``RadialDisk`` and ``RadialGaussian`` (``Sigma`` is the
        standard deviation) stand for the shapes. Each source has its class as an attribute
        ``class``, which the Fermi tools pass over.
    """
    lon, lat = lonlat_from_vectors(sources.vectors.reshape(-1, 3) @ frame_rotation("icrs"))
    lines = ['<?xml version="1.0" encoding="utf-8"?>', f"<source_library title={quoteattr(title)}>"]
    for row, name in enumerate(names):
        shape = SHAPES[sources.shape[row]]
        kind = "PointSource" if shape == "point" else "DiffuseSource"
        place = (lon[row], lat[row], sources.size_deg[row])
        known = sources.source_class[row] >= 0
        source_class = f' class="{CLASSES[sources.source_class[row]]}"' if known else ""
        error = {name: values[row] for name, values in (errors or {}).items()}
        lines += [
            f"  <source name={quoteattr(str(name))} type={quoteattr(kind)}{source_class}>",
            *_spectrum_lines(sources.spectra, row, **error),
            f'    <spatialModel type="{_SHAPE_OF[shape]}">',
            *(_fixed(n, value) for n, value in zip(_SHAPES[_SHAPE_OF[shape]], place)),
            "    </spatialModel>",
            "  </source>",
        ]
    return "\n".join([*lines, "</source_library>", ""]).encode()


def _spectrum_lines(spectra, row, *, amplitude=np.nan, index=np.nan):
    """The spectrum of one source, in MeV, and the errors of its amplitude and index."""
    kind = KINDS[spectra.kind[row]]
    norm, slope, pivot, *further = _SPECTRA[kind]
    if kind == "LogParabola":
        norm, slope, *further, pivot = _SPECTRA[kind]
    exp_index, expfactor = float(spectra.exp_index[row]), float(spectra.expfactor[row])
    to_norm = np.exp(expfactor * spectra.pivot[row] ** exp_index) / _MEV
    value = spectra.amplitude[row] * to_norm
    values = {"beta": float(spectra.beta[row]), "Index2": exp_index}
    values["Expfactor"] = expfactor / _MEV**exp_index
    scale = 10.0 ** np.floor(np.log10(value))
    sign = 1 if kind == "LogParabola" else -1
    return [
        f'    <spectrum type="{kind}">',
        _line(norm, value / scale, scale, 1 / _FREEDOM, _FREEDOM, 1, amplitude * to_norm / scale),
        _line(slope, spectra.index[row], sign, -5, 10, 1, index),
        *(_line(name, values[name], 1, -10, 10) for name in further),
        _line(pivot, spectra.pivot[row] * _MEV, 1, 10, 1e7),
        "    </spectrum>",
    ]


def _line(name, value, scale, low, high, free=0, error=np.nan):
    error = f' error="{float(error)!r}"' if np.isfinite(error) else ""
    return (
        f'      <parameter name="{name}" value="{float(value)!r}"{error} scale="{scale:g}" '
        f'min="{low:g}" max="{high:g}" free="{free}"/>'
    )


def _fixed(name, value):
    return _line(name, value, 1, -360, 360)


def read_source_library(path, *, source_class=None):
    """Sources of an XML source library of the Fermi tools.

    Parameters
    ----------
    path : str or path-like
        The file. Spectra may be ``PowerLaw``, ``LogParabola`` or ``PLSuperExpCutoff2``, shapes
        ``SkyDirFunction``, ``RadialDisk`` or ``RadialGaussian``.
    source_class : str, optional
        Class of sources that do not state theirs in an attribute ``class``, one of
        `CLASSES`; without it those with a cut-off are "PSR", extended
        ones "GAL" and others "AGN".

    Returns
    -------
    Sources

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no source library, a spectrum or shape is of another type, or a parameter is
        missing or makes no sense.
    """
    path = Path(path)
    if source_class not in (None, *CLASSES):
        raise InputError(f"source_class must be one of {', '.join(CLASSES)}; got {source_class!r}")
    if not path.is_file():
        raise FileNotFoundError(f"source library must be a file; got {str(path)!r}; check the path")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as err:
        raise InputError(f"{path}: expected an XML source library; got {err}") from err
    if root.tag != "source_library":
        raise InputError(f"{path}: expected a <source_library>; got a <{root.tag}>; give another")
    elements = root.findall("source")
    with np.errstate(over="ignore", under="ignore"):  # refused below
        rows = [_read_source(element, path, source_class) for element in elements]
    columns = np.array(rows, dtype=float).reshape(-1, 12).T
    vectors = vectors_from_lonlat(columns[0], columns[1]) @ frame_rotation("icrs").T
    spectra = Spectra(columns[5].astype(np.int8), *columns[6:12])
    _check_fluxes(spectra, elements, path)
    return Sources(
        vectors, spectra, columns[4].astype(np.int8), columns[3].astype(np.int8), columns[2]
    )


def _check_fluxes(spectra, elements, path):
    """Raise for a spectrum that grows beyond all bounds or vanishes where photons are simulated."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        flux = spectra.flux(*_RANGE)
    bad = np.flatnonzero(~(np.isfinite(flux) & (flux > 0)))
    if len(bad):
        name = elements[bad[0]].get("name", "")
        raise InputError(
            f"{path}: source {name!r}: expected a finite, positive flux in {_RANGE[0]:g}-"
            f"{_RANGE[1]:g} GeV; got {flux[bad[0]]:g}; correct its parameters"
        )


def _read_source(element, path, source_class):
    """RA, Dec, size, shape, class, then the fields of `Spectra`, of one source."""
    where = f"{path}: source {element.get('name', '')!r}"
    place_type, place = _parameters(element.find("spatialModel"), "spatialModel", _SHAPES, where)
    kind, values = _parameters(element.find("spectrum"), "spectrum", _SPECTRA, where)
    shape = list(_SHAPES).index(place_type)
    ra, dec, size = (*place, 0.0)[:3]
    if abs(dec) > 90 or (shape and not 0 < size < 90):
        raise InputError(
            f"{where}: expected a declination within 90 deg and an extension of 0 to 90 deg; got "
            f"{dec:g} and {size:g} deg; correct the file"
        )
    stated = element.get("class", source_class)
    if stated is None:
        stated = "PSR" if kind == "PLSuperExpCutoff2" else "GAL" if shape else "AGN"
    if stated not in CLASSES:
        raise InputError(
            f"{where}: class must be one of {', '.join(CLASSES)}; got {stated!r}; correct the file"
        )
    spectrum = _spectrum(kind, values, where)
    return ra, dec, size, shape, CLASSES.index(stated), KINDS.index(kind), *spectrum


def _spectrum(kind, values, where):
    """Amplitude, pivot, index, beta, a and b in GeV of parameters in MeV."""
    beta, expfactor, exp_index = 0.0, 0.0, 1.0
    if kind == "LogParabola":
        amplitude, index, beta, pivot = values
    else:
        amplitude, index, pivot = values[0], -values[1], values[2]
        if kind == "PLSuperExpCutoff2":
            expfactor, exp_index = values[3:]
    if not (amplitude > 0 and pivot > 0 and exp_index > 0):
        raise InputError(
            f"{where}: expected a positive {', '.join(_positive(kind))}; got "
            f"{amplitude:g}, {pivot:g}"
            + (f", {exp_index:g}" if kind == "PLSuperExpCutoff2" else "")
            + "; correct the file"
        )
    expfactor *= _MEV**exp_index
    pivot /= _MEV
    amplitude *= _MEV * np.exp(-expfactor * pivot**exp_index)
    return amplitude, pivot, index, beta, expfactor, exp_index


def _positive(kind):
    if kind == "LogParabola":
        return "norm", "Eb"
    return ("Prefactor", "Scale", "Index2")[: 3 if kind == "PLSuperExpCutoff2" else 2]


def _parameters(element, tag, known, where):
    """Type of a spectrum or shape and its parameters, value times scale, in their order."""
    if element is None:
        raise InputError(f"{where}: expected a <{tag}>; got none; correct the file")
    kind = element.get("type")
    if kind not in known:
        raise InputError(
            f"{where}: {tag} must be one of {', '.join(known)}; got {kind!r}; take the source out "
            "or convert it"
        )
    found = {p.get("name"): p for p in element.findall("parameter")}
    missing = [name for name in known[kind] if name not in found]
    if missing:
        raise InputError(
            f"{where}: {kind} must have the parameters {', '.join(known[kind])}; missing "
            f"{', '.join(missing)}; correct the file"
        )
    return kind, [_number(found[name], where) for name in known[kind]]


def _number(parameter, where):
    words = parameter.get("value"), parameter.get("scale", "1")
    try:
        value = float(words[0]) * float(words[1])
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise InputError(
            f"{where}: {parameter.get('name')} must have a finite value and scale; got "
            f"{words[0]!r} and {words[1]!r}; correct the file"
        )
    return value


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
        One of `astro_unetloc.simulation.population.CLASSES`, or empty.
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
