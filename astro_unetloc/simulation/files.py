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

import numpy as np

from astro_unetloc.catalog.models import format_source_library, read_source_library
from astro_unetloc.catalog.write import check_outputs, check_place, write_outputs
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.psf import KingPSF
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
from astro_unetloc.sphere import lonlat_from_vectors, vectors_from_lonlat

__all__ = [
    "COMPONENTS",
    "SkyComponents",
    "counts_cube_bytes",
    "events_bytes",
    "healpix_cube_bytes",
    "read_components",
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
        check_place(folder)
        return
    check_outputs([folder / "truth.fits"], overwrite=overwrite)
    for name in _FILES:
        check_place(folder / name, overwrite=overwrite)


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
