"""Files of simulated skies: counts cubes and events, libraries of sources, folders of components.

Layout of a folder:

==================  ===============================================================================
``events.fits``     all photons as an FT1-like list; ``MC_SRC_ID`` is the row of the source in
                    ``truth.fits``, counted from 0, -1 for diffuse emission, -2 for a source outside
``background.fits`` counts cube of the photons of interstellar and isotropic emission
``agn.fits``        counts cube of the photons of AGN; as gtbin writes them, WCS or HEALPix
``psr.fits``        of pulsars
``other.fits``      of other sources of the Galaxy
``truth.fits``      the true sources, see `astro_unetloc.simulation.sky.truth_table`
``sources.xml``     the true sources as a source library of the Fermi tools
``psf.fits``        the point-spread function, as gtpsf or gammapy write it; without it the photons
                    have the built-in one
==================  ===============================================================================

To be read, a folder made elsewhere needs ``background.fits``, one or more of the other cubes in the
same energies (each may end in ``.fits.gz``), and ``sources.xml``, or a library for each class
(``agn.xml``, ``psr.xml``, ``other.xml``).
"""

import gzip
import os
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import astropy.units as u
import healpy
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from scipy.spatial import KDTree

from astro_unetloc.catalog.models import (
    library_amplitude,
    library_parameter,
    library_source,
    library_text,
)
from astro_unetloc.catalog.write import write_outputs
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import check_output, checksum, locked_folder
from astro_unetloc.irf.psf import psf_of, read_psf
from astro_unetloc.irf.spectra import KINDS, Spectra
from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.times import FERMI_CLOCK
from astro_unetloc.simulation.diffuse import ENERGY_EDGES, LOW_ENERGY_EDGES, energy_bins
from astro_unetloc.simulation.population import CLASSES, Sources
from astro_unetloc.simulation.sky import (
    N_CUBE_BINS,
    SimulatedSky,
    check_image,
    count_photons,
    counts_cube,
    healpix_cube,
    inside_image,
    simulate_photons,
    truth_table,
)
from astro_unetloc.sphere import (
    frame_rotation,
    healpix_centers,
    lonlat_from_vectors,
    vectors_from_lonlat,
)

COMPONENTS = ("background", *(name.lower() for name in CLASSES))
_FILES = ("events.fits", *(f"{name}.fits" for name in COMPONENTS), "truth.fits", "sources.xml")
_OLD_CLASS = "GAL"  # name of the class "OTHER" in folders that earlier versions wrote
_DIFFUSE, _OUTSIDE = -1, -2  # values of MC_SRC_ID
# Files that a sky is simulated from, and the beginning of their keywords.
_INPUTS = {"template": "TMPL", "isotropic": "ISO", "exposure": "EXP", "psf": "PSF"}

# To find the origin of photons of a counts cube: how many sources are considered for each photon,
# and the width of a source (a pixel and the PSF) beside its own size.
_N_NEAREST = 8
_WIDTH_DEG = 0.15
# Resolution and smoothing of the background of a folder.
_BACKGROUND_NSIDE, _BACKGROUND_SIGMA_DEG = 64, 1.0

# Parameters of the models, see the page "Source Model Definitions for gtlike" of the Fermi Science
# Support Center: https://fermi.gsfc.nasa.gov/ssc/data/analysis/scitools/source_models.html
_SPECTRA = {
    "PowerLaw": ("Prefactor", "Index", "Scale"),
    "LogParabola": ("norm", "alpha", "beta", "Eb"),
    "PLSuperExpCutoff2": ("Prefactor", "Index1", "Scale", "Expfactor", "Index2"),
    "PLSuperExpCutoff4": ("Prefactor", "IndexS", "Scale", "ExpfactorS", "Index2"),
}
_POSITIVE = ("norm", "Prefactor", "Eb", "Scale", "Index2")
# In the order of `SHAPES`.
_SHAPES = {
    "SkyDirFunction": ("RA", "DEC"),
    "RadialDisk": ("RA", "DEC", "Radius"),
    "RadialGaussian": ("RA", "DEC", "Sigma"),
}
_MEV = 1e3  # in a GeV
_RANGE = (0.3, 2000.0)  # energies that are ever simulated, GeV


def counts_cube_bytes(counts, wcs, energy_edges, *, keywords=None, compress=False):
    """FITS file (bytes) of a counts cube (n_energy, ny, nx) as gtbin writes it; edges in GeV."""
    primary = fits.PrimaryHDU(counts.astype(np.int32), header=wcs.to_header())
    first, step = energy_edges[0] * _MEV, np.diff(energy_edges)[0] * _MEV
    primary.header.update(WCSAXES=3, CTYPE3="Energy", CRPIX3=1.0, CUNIT3="MeV", BUNIT="count")
    primary.header.update(CRVAL3=first, CDELT3=step)
    content = _fits_bytes(primary, energy_edges, keywords, _energy_bounds(energy_edges))
    # no time in the header of the archive: the same cube is the same file
    return gzip.compress(content, mtime=0) if compress else content


def healpix_cube_bytes(counts, energy_edges, *, keywords=None):
    """FITS file (bytes) of whole-sky counts (n_energy, n_pixels) (RING, Galactic); edges in GeV."""
    options = {"format": "I" if counts.max(initial=0) < 2**15 else "J", "unit": "count"}
    columns = [fits.Column(f"CHANNEL{i}", array=c, **options) for i, c in enumerate(counts, 1)]
    table = fits.BinTableHDU.from_columns(columns, name="SKYMAP")
    n_pixels = counts.shape[1]
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="RING", COORDSYS="GAL", NSIDE=healpy.npix2nside(n_pixels),
        INDXSCHM="IMPLICIT", FIRSTPIX=0, LASTPIX=n_pixels - 1, HPX_CONV="FGST-CCUBE",
    )  # fmt: skip
    return _fits_bytes(table, energy_edges, keywords, _energy_bounds(energy_edges))


def events_bytes(photons, energy_edges, *, source_id=None, good_times=None, keywords=None):
    """FITS file (bytes) of events with the columns of FT1 files for direction and energy.

    Parameters
    ----------
    photons : Photons
        Such as the ``events`` of a sky map; the times, if they have any, are the column ``TIME``.
    energy_edges : ndarray
        In GeV; the first and the last are the energy cut in the header.
    source_id : ndarray (n_photons,), optional
        Numbers that are written as a column ``MC_SRC_ID`` like that of gtobssim.
    good_times : ndarray (n, 2), optional
        Start and stop in seconds, written as the table ``GTI``.
    keywords : dict, optional
        Further keywords of the header, such as ``DSVAL2``.

    Returns
    -------
    bytes
    """
    lon, lat = lonlat_from_vectors(photons.vectors)
    icrs = SkyCoord(lon * u.deg, lat * u.deg, frame="galactic").icrs
    values = {"RA": icrs.ra.deg, "DEC": icrs.dec.deg, "L": lon, "B": lat}
    columns = [fits.Column("ENERGY", "E", unit="MeV", array=photons.energy * _MEV)]
    columns += [fits.Column(n, "E", unit="deg", array=v) for n, v in values.items()]
    if photons.time is not None:
        columns.append(fits.Column("TIME", "D", unit="s", array=photons.time))
    if source_id is not None:
        columns.append(fits.Column("MC_SRC_ID", "J", array=source_id))
    table = fits.BinTableHDU.from_columns(columns, name="EVENTS")
    table.header.update(TELESCOP="GLAST", INSTRUME="LAT", HDUCLAS1="EVENTS", RADECSYS="FK5")
    others = []
    if photons.time is not None:
        table.header.update(FERMI_CLOCK)
    if good_times is not None:
        times = dict(zip(("START", "STOP"), np.transpose(good_times)))
        times = [fits.Column(name, "D", unit="s", array=time) for name, time in times.items()]
        others.append(fits.BinTableHDU.from_columns(times, name="GTI"))
    return _fits_bytes(table, energy_edges, keywords, *others)


def _fits_bytes(hdu, energy_edges, keywords, *others):
    """Content of a file of an HDU, whose header gets keywords and its energies, and of others."""
    low, high = (energy * _MEV for energy in (energy_edges[0], energy_edges[-1]))
    hdu.header.update(DSTYP1="ENERGY", DSUNI1="MeV", DSVAL1=f"{low:g}:{high:g}")
    hdu.header.update(keywords or {})
    primary = [] if isinstance(hdu, fits.PrimaryHDU) else [fits.PrimaryHDU()]
    stream = BytesIO()
    fits.HDUList([*primary, hdu, *others]).writeto(stream)
    return stream.getvalue()


def _energy_bounds(energy_edges):
    """Table of energy bins in keV, as gtbin writes it."""
    edges = np.asarray(energy_edges, dtype=np.float32) * 1e6
    columns = [
        fits.Column("CHANNEL", "I", array=np.arange(1, len(edges))),
        fits.Column("E_MIN", "1E", unit="keV", array=edges[:-1]),
        fits.Column("E_MAX", "1E", unit="keV", array=edges[1:]),
    ]
    return fits.BinTableHDU.from_columns(columns, name="EBOUNDS")


# Libraries of sources


def format_source_library(sources, names):
    """XML source library (bytes) of n sources and their names, with spectra in MeV."""
    lon, lat = lonlat_from_vectors(sources.vectors.reshape(-1, 3) @ frame_rotation("icrs"))
    elements = []
    for row, name in enumerate(names):
        shape = list(_SHAPES)[sources.shape[row]]
        place = dict(zip(_SHAPES[shape], (lon[row], lat[row], sources.size_deg[row])))
        spectrum = (KINDS[sources.spectra.kind[row]], _spectrum_parameters(sources.spectra, row))
        stated = CLASSES[sources.source_class[row]]
        elements.append(library_source(name, spectrum, shape, place, source_class=stated))
    return library_text("simulated sky", elements)


def _spectrum_parameters(spectra, row):
    """XML parameters of one spectrum; the amplitude is that of the spectrum without cut-off."""
    kind = KINDS[spectra.kind[row]]
    exp_index, expfactor = float(spectra.exp_index[row]), float(spectra.expfactor[row])
    factor = np.exp(expfactor * spectra.pivot[row] ** exp_index) / _MEV
    norm, index, *names = _SPECTRA[kind]
    values = {"beta": spectra.beta[row], "Expfactor": expfactor / _MEV**exp_index}
    values["Index2"] = exp_index
    pivot, sign = ("Eb", 1) if kind == "LogParabola" else ("Scale", -1)
    return [
        library_amplitude(norm, spectra.amplitude[row] * factor),
        library_parameter(index, spectra.index[row], sign, -5, 10, free=True),
        *(library_parameter(name, values[name], 1, -10, 10) for name in names if name != pivot),
        library_parameter(pivot, spectra.pivot[row] * _MEV, 1, 10, 1e7),
    ]


def read_source_library(path, *, source_class=None):
    """Sources of an XML source library of the Fermi tools.

    Parameters
    ----------
    path : str or path-like
        The file. Spectra may be ``PowerLaw``, ``LogParabola``, ``PLSuperExpCutoff2`` or
        ``PLSuperExpCutoff4``, shapes ``SkyDirFunction``, ``RadialDisk`` or ``RadialGaussian``.
    source_class : str, optional
        Class of sources without an attribute ``class``: "AGN", "PSR" or "OTHER"; without it
        those with a cut-off are "PSR", extended ones "OTHER" and others "AGN".

    Returns
    -------
    astro_unetloc.simulation.population.Sources
    """
    path = Path(path)
    if source_class not in (None, *CLASSES):
        raise InputError(f"source_class must be one of {', '.join(CLASSES)}; got {source_class!r}")
    if not path.is_file():
        raise FileNotFoundError(f"source library must be a file; got {str(path)!r}; check the path")
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "source_library":
            raise ValueError(f"a <{root.tag}>")
    except (ElementTree.ParseError, ValueError, LookupError) as err:
        raise InputError(f"{path}: expected an XML <source_library>; got {err}") from err
    elements = root.findall("source")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # refused below
        rows = [_read_source(element, path, source_class) for element in elements]
        ra, dec, size, *columns = np.array(rows, dtype=float).reshape(-1, 12).T
        shape, class_index, kind = (code.astype(np.int8) for code in columns[:3])
        spectra = Spectra(kind, *columns[3:])
        flux = spectra.flux(*_RANGE)
    bad = np.flatnonzero(~(np.isfinite(flux) & (flux > 0)))
    if len(bad):
        name = elements[bad[0]].get("name", "")
        raise InputError(
            f"{path}: source {name!r}: expected a finite, positive flux in {_RANGE[0]:g}-"
            f"{_RANGE[1]:g} GeV; got {flux[bad[0]]:g}; correct its parameters"
        )
    vectors = vectors_from_lonlat(ra, dec) @ frame_rotation("icrs").T
    return Sources(vectors, spectra, class_index, shape, size)


def _read_source(element, path, source_class):
    """RA, Dec, size, shape, class, then the fields of `Spectra`, of one source."""
    where = f"{path}: source {element.get('name', '')!r}"
    shape_type, place = _parameters(element, "spatialModel", _SHAPES, where)
    kind, spectrum = _parameters(element, "spectrum", _SPECTRA, where)
    shape = list(_SHAPES).index(shape_type)
    ra, dec, size = (*place.values(), 0.0)[:3]
    if abs(dec) > 90 or (shape and not 0 < size < 90):
        raise InputError(
            f"{where}: expected a declination within 90 deg and an extension of 0 to 90 deg; got "
            f"{dec:g} and {size:g} deg; correct the file"
        )
    stated = element.get("class", source_class)
    stated = "OTHER" if stated == _OLD_CLASS else stated
    if stated is None:
        stated = "PSR" if kind.startswith("PLSuperExpCutoff") else "OTHER" if shape else "AGN"
    if stated not in CLASSES:
        raise InputError(
            f"{where}: class must be one of {', '.join(CLASSES)}; got {stated!r}; correct the file"
        )
    code = CLASSES.index(stated), KINDS.index(kind.replace("Cutoff4", "Cutoff2"))
    return ra, dec, size, shape, *code, *_spectrum(spectrum, where)


def _spectrum(values, where):
    """Amplitude, pivot, index, beta, a and b in GeV of parameters in MeV."""
    positive = [name for name in _POSITIVE if name in values]
    if not all(values[name] > 0 for name in positive):
        raise InputError(
            f"{where}: expected a positive {', '.join(positive)}; got "
            f"{', '.join(f'{values[name]:g}' for name in positive)}; correct the file"
        )
    if "alpha" in values:
        amplitude, index, beta, pivot = values.values()
        return amplitude * _MEV, pivot / _MEV, index, beta, 0.0, 1.0
    amplitude, index, pivot, expfactor, exp_index = (*values.values(), 0.0, 1.0)[:5]
    pivot /= _MEV
    if "IndexS" in values:  # index and curvature, expfactor, are those at the pivot
        index += expfactor / exp_index
        expfactor /= exp_index**2 * pivot**exp_index
        return amplitude * _MEV, pivot, -index, 0.0, expfactor, exp_index
    expfactor *= _MEV**exp_index
    amplitude *= _MEV * np.exp(-expfactor * pivot**exp_index)
    return amplitude, pivot, -index, 0.0, expfactor, exp_index


def _parameters(source, tag, known, where):
    """Type of the spectrum or shape of a source, and its parameters by name."""
    element = source.find(tag)
    if element is None:
        raise InputError(f"{where}: expected a <{tag}>; got none; correct the file")
    kind = element.get("type")
    if kind not in known:
        raise InputError(
            f"{where}: {tag} must be one of {', '.join(known)}; got {kind!r}; take the source out "
            "or convert it"
        )
    found = {p.get("name"): (p.get("value"), p.get("scale", "1")) for p in element}
    values = {}
    for name in known[kind]:
        value, scale = found.get(name, (None, None))
        try:
            values[name] = float(value) * float(scale)
        except (TypeError, ValueError):
            values[name] = np.nan
        if not np.isfinite(values[name]):
            raise InputError(
                f"{where}: {kind} must have finite values of {', '.join(known[kind])}; got {name} "
                f"of value {value!r} and scale {scale!r}; correct the file"
            )
    return kind, values


# Folders of components


@dataclass(frozen=True)
class SkyComponents:
    """A sky whose components are known."""

    maps: dict  # SkyMap of the counts of those of `COMPONENTS` that there are
    sources: Sources
    psf: object  # of the photons: KingPSF or TablePSF


def simulate_components(
    folder,
    *,
    center=(120.0, 10.0),
    width_deg=15.0,
    pixel_deg=0.1,
    nside=None,
    years=7.0,
    rng=0,
    overwrite=False,
    command=None,
    **options,
):
    """Number of photons and of true sources of a sky that is simulated and written into a folder.

    The cubes are square images around ``center`` (Galactic longitude and latitude in degrees), or,
    with an ``nside``, HEALPix cubes of the whole sky. ``command`` is stated in their headers. The
    other options are those of `astro_unetloc.simulation.sky.simulate_photons`.
    """
    folder = Path(folder)
    if nside is None:
        check_image(center, width_deg, pixel_deg)
    elif nside < 1 or nside > 1024 or nside & (nside - 1):
        raise InputError(f"nside must be a power of 2 up to 1024; got {nside}; choose another")
    psf = _psf_file(options.get("psf"))
    for path in [folder / name for name in (*_FILES, *psf)] if folder.is_dir() else [folder]:
        check_output(path, overwrite=overwrite)
    cone = DiscFootprint(vectors_from_lonlat(*center), 0.75 * width_deg) if nside is None else None
    with locked_folder(folder):  # the files of two runs are never mixed
        sky, exposure = simulate_photons(years=years, rng=rng, cone=cone, **options)
        keywords = sky_keywords(years=years, rng=rng, command=command, **options)
        edges = np.geomspace(sky.energy_edges[0], sky.energy_edges[-1], N_CUBE_BINS + 1)
        image = {"center": center, "width_deg": width_deg, "pixel_deg": pixel_deg}
        cubes, seen, kept = _component_cubes(sky, edges, nside, image, keywords)
        sources, photons = sky.sources.select(kept), sky.photons.select(seen)
        # row of each source among those that are kept; the last is that of origin -1
        row = np.append(np.where(kept, np.cumsum(kept) - 1, _OUTSIDE), _DIFFUSE)[sky.origin[seen]]
        counts = count_photons(row, len(sources))
        truth = truth_table(sources, exposure, band=tuple(edges[[0, -1]]), counts=counts)
        truth.meta |= keywords
        events = events_bytes(photons, edges[[0, -1]], source_id=row, keywords=keywords)
        library = format_source_library(sources, truth["Source_Name"])
        contents = cubes | psf | {"events.fits": events, "sources.xml": library}
        others = {folder / name: content for name, content in contents.items()}
        write_outputs(truth, [folder / "truth.fits"], overwrite=overwrite, others=others)
    return len(photons), len(sources)


def sky_keywords(*, years=7.0, rng=0, command=None, **options):
    """FITS keywords of a sky simulated with these options: the files have names and checksums."""
    keywords = {"OBJECT": "simulated sky", "SEED": rng if isinstance(rng, int) else -1}
    keywords |= {} if options.get("exposure") else {"YEARS": float(years)}
    for name, key in _INPUTS.items():
        if isinstance(path := options.get(name), str | os.PathLike):
            keywords |= {f"{key}FILE": Path(path).name, f"{key}SHA": checksum(path)}
    keywords |= {"VARIANT": options.get("variant", "P6V11")} if options.get("template") else {}
    keywords |= {"COMMAND": command} if command else {}
    return keywords | {"CREATOR": f"astro_unetloc {metadata.version('astro_unetloc')}"}


def _psf_file(psf):
    """Name and content of the PSF in a folder, if it was given as a file."""
    if not isinstance(psf, str | os.PathLike):
        return {}
    path = Path(psf).expanduser()
    psf_of(read_psf(path))  # refused before the simulation
    return {"psf.fits.gz" if path.suffix == ".gz" else "psf.fits": path.read_bytes()}


def _component_cubes(sky, edges, nside, image, keywords):
    """Content of the cube files by name, and which photons and sources lie inside of them."""
    component = np.append(sky.sources.source_class + 1, 0)[sky.origin]  # origin -1 is the last
    parts = [sky.photons.select(component == i) for i in range(len(COMPONENTS))]
    if nside is None:
        cubes = [counts_cube(part, edges, **image) for part in parts]
        contents = [counts_cube_bytes(*cube, edges, keywords=keywords) for cube in cubes]
        counts, wcs = cubes[0]
        places = sky.photons.vectors, sky.sources.vectors
        inside = [inside_image(wcs, counts.shape[1:], vectors) for vectors in places]
    else:
        counts = (healpix_cube(part, edges, nside) for part in parts)
        contents = [healpix_cube_bytes(c, edges, keywords=keywords) for c in counts]
        inside = [np.ones(len(items), dtype=bool) for items in (sky.photons, sky.sources)]
    return {f"{name}.fits": c for name, c in zip(COMPONENTS, contents)}, *inside


def read_components(folder):
    """Counts of the components, true sources and PSF of a folder in the layout of this module.

    Parameters
    ----------
    folder : str or path-like
        The folder, written by ``astro-unetloc simulate`` or made elsewhere.

    Returns
    -------
    SkyComponents
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"components must be a folder; got {str(folder)!r}; make one with 'simulate -o FOLDER/'"
        )
    paths = {name: _find(folder, name) for name in COMPONENTS}
    maps = {name: read_map(path) for name, path in paths.items() if path is not None}
    classes = dict.fromkeys(("sources",)) | {name: name.upper() for name in COMPONENTS[1:]}
    libraries = {_find(folder, name, (".xml",)): stated for name, stated in classes.items()}
    libraries.pop(None, None)
    if "background" not in maps or len(maps) < 2 or not libraries:
        found = sorted(path.name for path in folder.iterdir())
        raise FileNotFoundError(
            f"{folder}: expected background.fits, one or more of agn.fits, psr.fits and "
            "other.fits, and sources.xml or a library for each class; got "
            f"{', '.join(found) or 'nothing'}; complete the folder"
        )
    edges = maps["background"].energy_edges
    for name, sky_map in maps.items():
        other = sky_map.energy_edges
        if len(other) != len(edges) or not np.allclose(other, edges, rtol=1e-4):
            raise InputError(
                f"{folder}: cubes must have the same energies; got {len(edges) - 1} bins of "
                f"{edges[0]:g}-{edges[-1]:g} GeV in background.fits and {len(other) - 1} of "
                f"{other[0]:g}-{other[-1]:g} GeV in {name}.fits; bin them alike"
            )
    parts = [read_source_library(path, source_class=name) for path, name in libraries.items()]
    psf = psf_of(read_psf(_find(folder, "psf")))
    return SkyComponents(maps, Sources.concatenate(parts), psf)


def _find(folder, name, suffixes=(".fits", ".fits.gz")):
    """Path of a file of a folder, under its name of today or an earlier one; None without it."""
    names = (name, _OLD_CLASS.lower()) if name == "other" else (name,)
    paths = (folder / f"{name}{suffix}" for name in names for suffix in suffixes)
    return next((path for path in paths if path.is_file()), None)


def sky_of(components, *, psf=None, rng=0):
    """`SimulatedSky` with the photons of a folder, from which training patches can be observed.

    Counts are placed inside their pixels. A photon of a class comes from one of the sources of that
    class around it, drawn in proportion to their flux and closeness; the expected background is the
    smoothed background cube. ``psf`` replaces that of the components.
    """
    generator = np.random.default_rng(rng)
    photons, origins = [], []
    for name, sky_map in components.maps.items():
        for part in sky_map.photons(rng):
            photons.append(part)
            origins.append(_draw_origin(name, part, components.sources, generator))
    counted = components.maps["background"]
    low, high = counted.energy_edges[[0, -1]]
    edges = energy_bins(max(low, LOW_ENERGY_EDGES[0]), min(high, ENERGY_EDGES[-1]))
    return SimulatedSky(
        photons=Photons.concatenate(photons),
        origin=np.concatenate(origins).astype(np.int32),
        sources=components.sources,
        nside=_BACKGROUND_NSIDE,
        energy_edges=edges,
        psf=components.psf if psf is None else psf,
        background=_smooth_background(counted, edges, rng),
        footprint=counted,
    )


def _draw_origin(name, photons, sources, rng):
    """Source of each photon of a component, -1 for diffuse emission."""
    rows = np.flatnonzero(sources.source_class == COMPONENTS.index(name) - 1)
    if name == "background" or not len(rows):
        return np.full(len(photons), _DIFFUSE)
    n_nearest = min(_N_NEAREST, len(rows))
    chord, near = KDTree(sources.vectors[rows]).query(photons.vectors, k=n_nearest)
    near = rows[np.reshape(near, (-1, n_nearest))]
    width = np.radians(np.hypot(_WIDTH_DEG, sources.size_deg[near]))
    ratio = (np.reshape(chord, near.shape) / width) ** 2
    # falls as the tail of the PSF, not as a Gaussian, so that every photon has a source
    weight = np.cumsum(sources.flux[near] / width**2 / (1 + ratio / 4) ** 2, axis=1)
    chosen = np.sum(weight < rng.random((len(near), 1)) * weight[:, -1:], axis=1)
    return near[np.arange(len(near)), np.minimum(chosen, n_nearest - 1)]


def _smooth_background(sky_map, energy_edges, seed):
    """Photons per square degree in energy bins (GeV), (n_pixels, n_bins) of float32."""
    nside, area = _BACKGROUND_NSIDE, healpy.nside2pixarea(_BACKGROUND_NSIDE, degrees=True)
    cubes = (healpix_cube(part, energy_edges, nside) for part in sky_map.photons(seed))
    counts = sum(cubes, np.zeros((len(energy_edges) - 1, 12 * nside**2)))
    centers = healpix_centers(nside, np.arange(12 * nside**2), nest=False)
    sigma = np.radians(_BACKGROUND_SIGMA_DEG)
    seen = healpy.smoothing(sky_map.covers(centers).astype(float), sigma=sigma)
    smooth = [healpy.smoothing(c, sigma=sigma) for c in counts]
    return (np.maximum(smooth, 0) / np.maximum(seen, 0.1) / area).T.astype(np.float32)
