"""Source libraries: point and extended sources as an XML model of the Fermi tools, and back.

Spectra are in MeV there and a cut-off is not normalized at the pivot, so that the amplitude of
``PLSuperExpCutoff2`` differs from that of `astro_unetloc.spectra.Spectra`.
"""

from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np

from astro_unetloc.geometry import frame_rotation, lonlat_from_vectors, vectors_from_lonlat
from astro_unetloc.population import CLASSES, SHAPES, Sources
from astro_unetloc.spectra import KINDS, Spectra

__all__ = ["format_source_library", "read_source_library"]

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
        `astro_unetloc.population.CLASSES`; without it those with a cut-off are "PSR", extended
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
        raise ValueError(f"source_class must be one of {', '.join(CLASSES)}; got {source_class!r}")
    if not path.is_file():
        raise FileNotFoundError(f"source library must be a file; got {str(path)!r}; check the path")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as err:
        raise ValueError(f"{path}: expected an XML source library; got {err}") from err
    if root.tag != "source_library":
        raise ValueError(f"{path}: expected a <source_library>; got a <{root.tag}>; give another")
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
        raise ValueError(
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
        raise ValueError(
            f"{where}: expected a declination within 90 deg and an extension of 0 to 90 deg; got "
            f"{dec:g} and {size:g} deg; correct the file"
        )
    stated = element.get("class", source_class)
    if stated is None:
        stated = "PSR" if kind == "PLSuperExpCutoff2" else "GAL" if shape else "AGN"
    if stated not in CLASSES:
        raise ValueError(
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
        raise ValueError(
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
        raise ValueError(f"{where}: expected a <{tag}>; got none; correct the file")
    kind = element.get("type")
    if kind not in known:
        raise ValueError(
            f"{where}: {tag} must be one of {', '.join(known)}; got {kind!r}; take the source out "
            "or convert it"
        )
    found = {p.get("name"): p for p in element.findall("parameter")}
    missing = [name for name in known[kind] if name not in found]
    if missing:
        raise ValueError(
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
        raise ValueError(
            f"{where}: {parameter.get('name')} must have a finite value and scale; got "
            f"{words[0]!r} and {words[1]!r}; correct the file"
        )
    return value
