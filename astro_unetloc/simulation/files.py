"""FITS files of simulated photons: counts cubes and events, as bytes.

A simulated sky as a folder of files of the field, its components apart, written and read back.

Layout of a folder:

==================  ===============================================================================
``events.fits``     all photons as an FT1-like list; ``MC_SRC_ID`` is the row of the source in
                    ``truth.fits``, counted from 0, -1 for diffuse emission, -2 for a source outside
``background.fits`` counts cube of the photons of interstellar and isotropic emission
``agn.fits``        counts cube of the photons of AGN; as gtbin writes them, WCS or HEALPix
``psr.fits``        of pulsars
``gal.fits``        of other Galactic sources
``truth.fits``      the true sources, see `astro_unetloc.simulation.sky.truth_table`
``sources.xml``     the true sources as a source library of the Fermi tools
==================  ===============================================================================

To be read, a folder made elsewhere needs ``background.fits``, one or more of the other cubes in the
same energies (each may end in ``.fits.gz``), and ``sources.xml``, or a library for each class
(``agn.xml``, ``psr.xml``, ``gal.xml``).
"""

import gzip
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from astro_unetloc.catalog.models import (
    library_amplitude,
    library_parameter,
    library_source,
    library_text,
)
from astro_unetloc.catalog.write import write_outputs
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import check_output
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.irf.spectra import KINDS, Spectra
from astro_unetloc.maps.events import DiscFootprint
from astro_unetloc.maps.photons import Photons
from astro_unetloc.maps.read import read_map
from astro_unetloc.simulation.diffuse import ENERGY_EDGES, LOW_ENERGY_EDGES, energy_bins
from astro_unetloc.simulation.population import CLASSES, Sources
from astro_unetloc.simulation.sky import (
    SimulatedSky,
    check_image,
    counts_cube,
    healpix_cube,
    inside_image,
    simulate_photons,
    truth_table,
)
from astro_unetloc.sphere import frame_rotation, lonlat_from_vectors, vectors_from_lonlat

__all__ = [
    "COMPONENTS",
    "SkyComponents",
    "counts_cube_bytes",
    "events_bytes",
    "format_source_library",
    "healpix_cube_bytes",
    "read_components",
    "read_source_library",
    "simulate_components",
    "sky_of",
]


def counts_cube_bytes(counts, wcs, energy_edges, *, keywords=None, compress=False):
    """A counts cube in the format of gtbin (CCUBE): image with EBOUNDS in keV.

    Parameters
    ----------
    counts : ndarray (n_energy, ny, nx)
        Photons.
    wcs : WCS
        Celestial coordinates of the image.
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    keywords : dict, optional
        Further keywords of the primary header.
    compress : bool
        Whether to gzip it.

    Returns
    -------
    bytes
    """
    from astropy.io import fits

    primary = fits.PrimaryHDU(counts.astype(np.int32), header=wcs.to_header())
    header = primary.header
    header["WCSAXES"] = 3
    header["CTYPE3"], header["CRPIX3"], header["CUNIT3"] = "Energy", 1.0, "MeV"
    header["CRVAL3"], header["CDELT3"] = energy_edges[0] * 1e3, np.diff(energy_edges)[0] * 1e3
    header["BUNIT"] = "count"
    header["DSTYP1"], header["DSUNI1"] = "ENERGY", "MeV"
    header["DSVAL1"] = f"{energy_edges[0] * 1e3:g}:{energy_edges[-1] * 1e3:g}"
    header.update(keywords or {})
    bounds = _energy_bounds(energy_edges)
    stream = BytesIO()
    fits.HDUList([primary, bounds]).writeto(stream)
    content = stream.getvalue()
    # no time in the header of the archive: the same cube is the same file
    return gzip.compress(content, mtime=0) if compress else content


def _energy_bounds(energy_edges):
    """Table of energy bins in keV, as gtbin writes it."""
    from astropy.io import fits

    edges = np.asarray(energy_edges, dtype=np.float32) * 1e6
    columns = [
        fits.Column("CHANNEL", "I", array=np.arange(1, len(edges))),
        fits.Column("E_MIN", "1E", unit="keV", array=edges[:-1]),
        fits.Column("E_MAX", "1E", unit="keV", array=edges[1:]),
    ]
    return fits.BinTableHDU.from_columns(columns, name="EBOUNDS")


def healpix_cube_bytes(counts, energy_edges, *, keywords=None):
    """A whole-sky HEALPix counts cube in the format of gtbin: SKYMAP, with EBOUNDS in keV.

    Parameters
    ----------
    counts : ndarray (n_energy, n_pixels)
        Photons; RING, Galactic.
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    keywords : dict, optional
        Further keywords of the table's header.

    Returns
    -------
    bytes
    """
    from astropy.io import fits

    code = "I" if counts.max(initial=0) < 2**15 else "J"
    columns = [
        fits.Column(f"CHANNEL{i}", code, unit="count", array=c) for i, c in enumerate(counts, 1)
    ]
    table = fits.BinTableHDU.from_columns(columns, name="SKYMAP")
    n_pixels = counts.shape[1]
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="RING", COORDSYS="GAL", NSIDE=int(np.sqrt(n_pixels / 12)),
        INDXSCHM="IMPLICIT", FIRSTPIX=0, LASTPIX=n_pixels - 1, HPX_CONV="FGST-CCUBE",
        DSTYP1="ENERGY", DSUNI1="MeV",
        DSVAL1=f"{energy_edges[0] * 1e3:g}:{energy_edges[-1] * 1e3:g}",
    )  # fmt: skip
    table.header.update(keywords or {})
    stream = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table, _energy_bounds(energy_edges)]).writeto(stream)
    return stream.getvalue()


def events_bytes(photons, energy_edges, *, source_id=None, keywords=None):
    """An event list in the columns of FT1 files that describe direction and energy.

    Parameters
    ----------
    photons : Photons
        The events.
    energy_edges : ndarray (2,)
        Their energy range in GeV, for the DSS keywords.
    source_id : ndarray (n_photons,) of int, optional
        Source of each photon, for a column ``MC_SRC_ID`` as gtobssim has it.
    keywords : dict, optional
        Further keywords of the table's header.

    Returns
    -------
    bytes
    """
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from astropy.io import fits

    lon, lat = lonlat_from_vectors(photons.vectors)
    icrs = SkyCoord(lon * u.deg, lat * u.deg, frame="galactic").icrs
    values = {"RA": icrs.ra.deg, "DEC": icrs.dec.deg, "L": lon, "B": lat}
    columns = [fits.Column("ENERGY", "E", unit="MeV", array=photons.energy * 1e3)]
    columns += [fits.Column(n, "E", unit="deg", array=v) for n, v in values.items()]
    if source_id is not None:
        columns.append(fits.Column("MC_SRC_ID", "J", array=source_id))
    table = fits.BinTableHDU.from_columns(columns, name="EVENTS")
    table.header.update(
        TELESCOP="GLAST", INSTRUME="LAT", HDUCLAS1="EVENTS", RADECSYS="FK5", DSTYP1="ENERGY",
        DSUNI1="MeV", DSVAL1=f"{energy_edges[0] * 1e3:g}:{energy_edges[-1] * 1e3:g}",
    )  # fmt: skip
    table.header.update(keywords or {})
    stream = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(stream)
    return stream.getvalue()


COMPONENTS = ("background", *(name.lower() for name in CLASSES))


_FILES = ("events.fits", *(f"{name}.fits" for name in COMPONENTS), "truth.fits", "sources.xml")


_N_BINS = 16


_DIFFUSE, _OUTSIDE = -1, -2  # values of MC_SRC_ID


# To find the origin of photons of a counts cube: how many sources are considered for each, how
# wide a source is beside its own size (a pixel and the PSF), and the resolution and the smoothing
# of the background.
_N_NEAREST = 8


_WIDTH_DEG = 0.15


_BACKGROUND_NSIDE, _BACKGROUND_SIGMA_DEG = 64, 1.0


@dataclass(frozen=True)
class SkyComponents:
    """A sky of which the components are known.

    Attributes
    ----------
    maps : dict of str to SkyMap
        Counts of ``COMPONENTS``, those that there are.
    sources : Sources
        The true sources.
    """

    maps: dict
    sources: Sources


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
    **options,
):
    """Simulate a sky and write its components and truth into a folder: all files or none.

    Parameters
    ----------
    folder : str or path-like
        Folder to write; made if it does not exist.
    center : pair of float
        Galactic longitude and latitude in degrees of a square image.
    width_deg, pixel_deg : float
        Size of the image and of a pixel.
    nside : int, optional
        HEALPix resolution of cubes of the whole sky, instead of an image.
    years, rng
        See `astro_unetloc.simulate_sky`.
    overwrite : bool
        Whether files of the folder may be replaced.
    **options
        As `astro_unetloc.simulation.sky.simulate_photons`.

    Returns
    -------
    n_photons, n_sources : int
        Photons and true sources in the files.

    Raises
    ------
    ValueError
        If the image or the resolution makes no sense, or as `astro_unetloc.simulate_sky`.
    FileExistsError, FileNotFoundError, PermissionError
        If the folder cannot be written.
    """
    folder = Path(folder)
    _check_sky(nside, center, width_deg, pixel_deg)
    _check_folder(folder, overwrite)
    cone = None
    if nside is None:
        cone = DiscFootprint(vectors_from_lonlat(*center), 0.75 * width_deg)
    sky, exposure = simulate_photons(years=years, rng=rng, cone=cone, **options)
    seed = rng if isinstance(rng, int) else -1
    keywords = {"OBJECT": "simulated sky", "SEED": seed}
    if options.get("exposure") is None:
        keywords["YEARS"] = float(years)
    keywords["CREATOR"] = f"astro_unetloc {metadata.version('astro_unetloc')}"
    edges = np.geomspace(sky.energy_edges[0], sky.energy_edges[-1], _N_BINS + 1)
    image = {"center": center, "width_deg": width_deg, "pixel_deg": pixel_deg}
    seen, kept, cubes = _cut(sky, edges, nside, image)
    cubes = {f"{name}.fits": make(keywords) for name, make in cubes.items()}
    sources, photons, origin = sky.sources.select(kept), sky.photons.select(seen), sky.origin[seen]
    row = np.full(len(sky.sources) + 1, _OUTSIDE)
    row[np.append(kept, len(sky.sources))] = np.append(np.arange(len(kept)), _DIFFUSE)
    truth = truth_table(sources, exposure, band=tuple(edges[[0, -1]]))
    truth.meta |= keywords
    contents = cubes | {
        "events.fits": events_bytes(
            photons, edges[[0, -1]], source_id=row[origin], keywords=keywords
        ),
        "sources.xml": format_source_library(sources, truth["Source_Name"]),
    }
    _write(folder, truth, contents, overwrite)
    return len(photons), len(sources)


def _check_sky(nside, center, width_deg, pixel_deg):
    if nside is None:
        check_image(center, width_deg, pixel_deg)
    elif nside < 1 or nside > 1024 or nside & (nside - 1):
        raise InputError(f"nside must be a power of 2 up to 1024; got {nside}; choose another")


def _check_folder(folder, overwrite):
    """Raise now what would keep the files from being written later."""
    if not folder.is_dir():
        check_output(folder)
        return
    for name in _FILES:
        check_output(folder / name, overwrite=overwrite)


def _cut(sky, edges, nside, image):
    """Rows of photons and sources in the map, and functions that make the cube of a component."""
    component = np.append(sky.sources.source_class + 1, 0)[sky.origin]  # origin -1 is the last
    parts = [sky.photons.select(component == i) for i in range(len(COMPONENTS))]
    if nside is not None:
        cubes = {
            name: _healpix_file(healpix_cube(part, edges, nside), edges)
            for name, part in zip(COMPONENTS, parts)
        }
        return np.arange(len(sky.photons)), np.arange(len(sky.sources)), cubes
    found = {name: counts_cube(part, edges, **image) for name, part in zip(COMPONENTS, parts)}
    counts, wcs = found["background"]
    inside = (
        np.flatnonzero(_inside(wcs, counts.shape[1:], vectors, image["center"]))
        for vectors in (sky.photons.vectors, sky.sources.vectors)
    )
    return *inside, {name: _image_file(cube, wcs, edges) for name, (cube, _) in found.items()}


def _inside(wcs, shape, vectors, center):
    """Whether directions (n, 3) lie in an image of shape (ny, nx)."""
    import astropy.units as u

    near = vectors @ vectors_from_lonlat(*center) > 0.5  # the WCS knows no side of the sky
    lon, lat = lonlat_from_vectors(vectors[near])
    near[near] = inside_image(wcs, shape, lon * u.deg, lat * u.deg)
    return near


def _healpix_file(counts, edges):
    return lambda keywords: healpix_cube_bytes(counts, edges, keywords=keywords)


def _image_file(counts, wcs, edges):
    return lambda keywords: counts_cube_bytes(counts, wcs, edges, keywords=keywords)


def _write(folder, truth, contents, overwrite):
    """Write all files of a folder or none, and leave no new folder behind if it fails."""
    fresh = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        others = {folder / name: content for name, content in contents.items()}
        write_outputs(truth, [folder / "truth.fits"], overwrite=overwrite, others=others)
    except BaseException:
        if fresh:
            folder.rmdir()
        raise


def read_components(folder):
    """Counts of the components and true sources of a folder in the layout of this module.

    Parameters
    ----------
    folder : str or path-like
        The folder, written by `simulate_components` or made elsewhere.

    Returns
    -------
    SkyComponents

    Raises
    ------
    FileNotFoundError
        If the folder or a file that it needs is missing.
    ValueError
        If a file cannot be read or cubes differ in their energies.

    Examples
    --------
    >>> from astro_unetloc.simulation.files import read_components
    >>> components = read_components("sky/")  # doctest: +SKIP
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"components must be a folder; got {str(folder)!r}; make one with 'simulate -o FOLDER/'"
        )
    paths = {name: _find(folder, name) for name in COMPONENTS}
    maps = {name: read_map(path) for name, path in paths.items() if path is not None}
    libraries = [folder / "sources.xml", *(folder / f"{name}.xml" for name in COMPONENTS[1:])]
    libraries = [path for path in libraries if path.is_file()]
    if "background" not in maps or len(maps) < 2 or not libraries:
        found = sorted(path.name for path in folder.iterdir())
        raise FileNotFoundError(
            f"{folder}: expected background.fits, one or more of agn.fits, psr.fits and gal.fits, "
            f"and sources.xml or a library for each class; got {', '.join(found) or 'nothing'}; "
            "complete the folder"
        )
    _check_energies(folder, maps)
    parts = [read_source_library(path, source_class=_class_of(path)) for path in libraries]
    return SkyComponents(maps, Sources.concatenate(parts))


def _find(folder, name):
    places = (folder / f"{name}{suffix}" for suffix in (".fits", ".fits.gz"))
    return next((path for path in places if path.is_file()), None)


def _class_of(path):
    return None if path.stem == "sources" else path.stem.upper()


def _check_energies(folder, maps):
    edges = maps["background"].energy_edges
    for name, sky_map in maps.items():
        other = sky_map.energy_edges
        if len(other) != len(edges) or not np.allclose(other, edges, rtol=1e-4):
            raise InputError(
                f"{folder}: cubes must have the same energies; got {len(edges) - 1} bins of "
                f"{edges[0]:g}-{edges[-1]:g} GeV in background.fits and {len(other) - 1} of "
                f"{other[0]:g}-{other[-1]:g} GeV in {name}.fits; bin them alike"
            )


def sky_of(components, *, rng=0):
    """The photons of a folder as a simulated sky, from which patches to train on can be observed.

    Counts are placed inside their pixels. A photon of a class comes from one of the sources of that
    class around it, drawn in proportion to their flux and closeness; the expected background is the
    smoothed one that was counted.

    Parameters
    ----------
    components : SkyComponents
        From `read_components`.
    rng : int
        Seed of the placement and of the origins.

    Returns
    -------
    SimulatedSky
        As `astro_unetloc.training.observation.PatchObserver` takes it.
    """
    generator = np.random.default_rng(rng)
    photons, origins = [], []
    for name, sky_map in components.maps.items():
        for part in sky_map.photons(rng):
            photons.append(part)
            origins.append(_draw_origin(name, part, components.sources, generator))
    low, high = components.maps["background"].energy_edges[[0, -1]]
    edges = energy_bins(max(low, LOW_ENERGY_EDGES[0]), min(high, ENERGY_EDGES[-1]))
    origin = np.concatenate(origins).astype(np.int32)
    return SimulatedSky(
        photons=Photons.concatenate(photons),
        origin=origin,
        sources=components.sources,
        background=_smooth_background(components.maps["background"], edges, rng),
        nside=_BACKGROUND_NSIDE,
        energy_edges=edges,
        psf=KingPSF(),
        footprint=components.maps["background"],
    )


def _draw_origin(name, photons, sources, rng):
    """Source of each photon of a component, -1 for diffuse emission."""
    from scipy.spatial import KDTree

    rows = np.flatnonzero(sources.source_class == COMPONENTS.index(name) - 1)
    if name == "background" or not len(rows):
        return np.full(len(photons), _DIFFUSE)
    n_nearest = min(_N_NEAREST, len(rows))
    chord, near = KDTree(sources.vectors[rows]).query(photons.vectors, k=n_nearest)
    near = rows[np.reshape(near, (-1, n_nearest))]
    width = np.radians(np.hypot(_WIDTH_DEG, sources.size_deg[near]))
    ratio = (np.reshape(chord, near.shape) / width) ** 2
    # falls as the tail of the PSF, not as a Gaussian: no photon is without a source
    weight = np.cumsum(sources.flux[near] / width**2 / (1 + ratio / 4) ** 2, axis=1)
    chosen = np.sum(weight < rng.random((len(near), 1)) * weight[:, -1:], axis=1)
    return near[np.arange(len(near)), np.minimum(chosen, n_nearest - 1)]


def _smooth_background(sky_map, energy_edges, seed):
    """Photons per square degree in energy bins (GeV), (n_pixels, n_bins) of float32."""
    import healpy

    nside, area = _BACKGROUND_NSIDE, healpy.nside2pixarea(_BACKGROUND_NSIDE, degrees=True)
    cubes = (healpix_cube(part, energy_edges, nside) for part in sky_map.photons(seed))
    counts = sum(cubes, np.zeros((len(energy_edges) - 1, 12 * nside**2)))
    centers = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2), nest=False), axis=-1)
    sigma = np.radians(_BACKGROUND_SIGMA_DEG)
    seen = healpy.smoothing(sky_map.covers(centers).astype(float), sigma=sigma)
    smooth = [healpy.smoothing(c, sigma=sigma) for c in counts]
    return (np.maximum(smooth, 0) / np.maximum(seen, 0.1) / area).T.astype(np.float32)


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


_MEV = 1e3  # in a GeV


_RANGE = (0.3, 2000.0)  # energies that are ever simulated, GeV


def format_source_library(sources, names, *, title="simulated sky"):
    """XML source library (bytes) of n sources and their names, with spectra in MeV.

    Each source states its class in an attribute ``class``, which the Fermi tools ignore. An
    extended source is a ``RadialDisk`` or a ``RadialGaussian``.
    """
    lon, lat = lonlat_from_vectors(sources.vectors.reshape(-1, 3) @ frame_rotation("icrs"))
    elements = []
    for row, name in enumerate(names):
        shape = list(_SHAPES)[sources.shape[row]]
        place = dict(zip(_SHAPES[shape], (lon[row], lat[row], sources.size_deg[row])))
        spectrum = (KINDS[sources.spectra.kind[row]], _spectrum_parameters(sources.spectra, row))
        stated = CLASSES[sources.source_class[row]]
        elements.append(library_source(name, spectrum, shape, place, source_class=stated))
    return library_text(title, elements)


def _spectrum_parameters(spectra, row):
    """Parameters of one spectrum as XML; the amplitude of a cut-off is that without it."""
    kind = KINDS[spectra.kind[row]]
    exp_index, expfactor = float(spectra.exp_index[row]), float(spectra.expfactor[row])
    factor = np.exp(expfactor * spectra.pivot[row] ** exp_index) / _MEV
    norm, index, *names = _SPECTRA[kind]
    values = {
        "beta": spectra.beta[row], "Expfactor": expfactor / _MEV**exp_index, "Index2": exp_index
    }  # fmt: skip
    scale = -1 if index.startswith("Index") else 1
    others = sorted(values.keys() & set(names), key=names.index)
    return [
        library_amplitude(norm, spectra.amplitude[row] * factor),
        library_parameter(index, spectra.index[row], scale, -5, 10, free=True),
        *(library_parameter(name, values[name], 1, -10, 10) for name in others),
        library_parameter(
            "Eb" if "Eb" in names else "Scale", spectra.pivot[row] * _MEV, 1, 10, 1e7
        ),
    ]


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
