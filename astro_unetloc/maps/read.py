"""Counts images and cubes with a WCS, in any celestial projection.

HEALPix counts: gtbin, gammapy and healpy files, whole sky or part of it.

gammapy maps and datasets as plain arrays and pixelizations.

gammapy itself is imported only where an object of it is made; objects that come in are known by
the names of their classes.

Maps: whatever holds counts becomes one `SkyMap`.
"""

import logging
import re
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.files import find_hdu, open_fits
from astro_unetloc.irf.exposure import attach_map, exposure_at
from astro_unetloc.irf.psf import attach_psf
from astro_unetloc.maps.events import estimate_footprint, read_events
from astro_unetloc.maps.photons import whole_counts
from astro_unetloc.maps.selection import (
    ASSUMED_RANGE_GEV,
    image_range_gev,
    parse_energy_range,
    select_bins,
    table_edges_gev,
    wcs_edges_gev,
)
from astro_unetloc.maps.skymap import (
    HealpixPixelization,
    SkyMap,
    celestial_wcs,
    healpix_frame,
    healpix_layout,
    image_pixelization,
    is_gammapy,
)
from astro_unetloc.sphere import lonlat_from_vectors

__all__ = [
    "dataset_part",
    "dataset_path",
    "describe_product",
    "find_counts_hdu",
    "read_gammapy",
    "read_healpix_counts",
    "read_map",
    "read_wcs_counts",
    "select_header",
]


_HEADER_KEYS = ("TELESCOP", "INSTRUME", "OBJECT", "CREATOR", "ORIGIN", "DATE-OBS", "DATE-END")


_DSS_KEY = re.compile(r"DS(TYP|VAL|UNI|REF)\d+$")


def find_counts_hdu(hdus):
    """The image or HEALPix table that holds counts: by name, else the first; or None.

    A gammapy dataset without counts has other maps, which are not taken for counts.
    """
    found = [hdu for hdu in hdus if _is_map(hdu)]
    named = find_hdu(found, "COUNTS", "SKYMAP")
    if named is not None:
        return named
    if {"MASK_SAFE", "MASK_FIT", "BACKGROUND", "EXPOSURE"} & {hdu.name.upper() for hdu in hdus}:
        return None
    return found[0] if found else None


def _is_map(hdu):
    if hdu.is_image:
        return hdu.header.get("NAXIS", 0) >= 2
    return hdu.header.get("PIXTYPE") == "HEALPIX"


def select_header(*headers):
    """Keywords worth carrying to a catalogue, as a dict: DSS cuts, telescope, dates.

    Of several headers the first that has a keyword wins; the DSS keywords come from one header.
    """
    selected = {}
    for header in headers:
        cuts = {key: header[key] for key in header if _DSS_KEY.match(key)}
        has_cuts = any(_DSS_KEY.match(key) for key in selected)
        found = {key: header[key] for key in _HEADER_KEYS if key in header}
        selected = found | ({} if has_cuts else cuts) | selected
    return selected


def describe_product(hdus):
    """What a file holds if it is a known product without counts, else None.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        An open file.

    Returns
    -------
    str or None
        A phrase such as "an exposure map (gtexpcube2)".
    """
    names = {hdu.name.upper() for hdu in hdus}
    columns = {
        c.upper() for hdu in hdus for c in getattr(getattr(hdu, "columns", None), "names", ())
    }
    if {"COUNTS", "EVENTS", "EXPOSURE_BANDS"} & names:  # the last: a dataset of gammapy
        return None
    if "SOURCE_NAME" in columns or any(name.startswith("LAT_POINT_SOURCE") for name in names):
        return "a source catalogue"
    if "HPXEXPOSURES" in names:
        return "an exposure map"
    if "PSF" in names and "THETA" in names or {"PSF", "EXPOSURE", "THETA"} <= columns:
        return "a PSF table (gtpsf)"
    if "WEIGHTED_EXPOSURE" in names or "CTHETABOUNDS" in names:
        return "a livetime cube (gtltcube)"
    if "SC_DATA" in names:
        return "a spacecraft file"
    kinds = (_describe_map(hdu, hdus) for hdu in hdus if _is_map(hdu))
    return next((kind for kind in kinds if kind), None)


def _describe_map(hdu, hdus):
    """What an image or HEALPix table is by its creator, unit, third axis and energies."""
    header = hdu.header
    if str(header.get("CREATOR", "")).strip().lower() == "gtmodel":
        return "a model cube (gtmodel), which is no observation"
    unit = re.sub(r"[ *^]", "", str(header.get("BUNIT", ""))).lower()
    per_area = "m-2" in unit or "/" in unit
    if "m2" in unit and "s" in unit.split("m2")[-1] and not per_area:
        return "an exposure map"
    axis = str(header.get("CTYPE3", "")).strip().lower()
    single_energies = "AXCOLS1" in header and "," not in header["AXCOLS1"]
    cube = hdu.is_image and header.get("NAXIS") == 3 and find_hdu(hdus, "EBOUNDS") is None
    if single_energies or axis == "log_energy" or cube and find_hdu(hdus, "ENERGIES") is not None:
        values = hdu.data if hdu.is_image else hdu.data[hdu.columns.names[-1]]
        exposure = axis == "log_energy" or not per_area and np.nanmax(values) > 1e3
        return "an exposure map" if exposure else "a diffuse emission template"
    return None


def read_wcs_counts(hdus, hdu):
    """Counts of an image HDU.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The file, which may hold a table of energies.
    hdu : HDU
        Image with axes (longitude, latitude[, energy]) in FITS order.

    Returns
    -------
    counts : ndarray (n_energy, n_pixels)
        As stored, in native byte order.
    pixels : WcsPixelization
        Its pixels.
    edges : ndarray (n_energy + 1,) or None
        Energies in GeV; None for an image that has no table of energies.

    Raises
    ------
    ValueError
        If there are no sky coordinates, too many axes or no energies.
    """
    data = np.asarray(hdu.data)
    while data.ndim > 3 and data.shape[0] == 1:  # a degenerate axis, such as STOKES
        data = data[0]
    if data.ndim not in (2, 3):
        raise InputError(
            f"counts must have the axes longitude, latitude and at most one energy; got "
            f"{data.ndim} axes of shape {data.shape}; sum over the others"
        )
    pixels = image_pixelization(celestial_wcs(hdu.header), data.shape[-2:])
    planes = data.reshape(-1, pixels.n_pixels)
    edges = table_edges_gev(hdus, hdu)
    if edges is None and len(planes) > 1:
        edges = wcs_edges_gev(hdu.header, len(planes))
    if edges is not None and len(edges) != len(planes) + 1:
        raise InputError(
            f"one energy bin for each plane was expected; got {len(edges) - 1} bins and "
            f"{len(planes)} planes; write the map with its own table of energies"
        )
    return planes.astype(planes.dtype.newbyteorder("="), copy=True), pixels, edges


_PIXEL_COLUMNS = ("PIX", "PIXEL", "HPX_INDEX", "IPIX")


_UNSEEN = -1.6375e30


_BLANK_RTOL = 1e-5  # healpy's own tolerance for its blank value


def read_healpix_counts(hdus, hdu):
    """Counts of a HEALPix table.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The file, which may hold a table of energies.
    hdu : BinTableHDU
        The table.

    Returns
    -------
    counts : ndarray (n_energy, n_pixels)
        As stored, in native byte order; blank pixels are NaN.
    pixels : HealpixPixelization
        Its pixels.
    edges : ndarray (n_energy + 1,) or None
        Energies in GeV; None for a single plane without a table of energies.

    Raises
    ------
    ValueError
        If the table has no counts, or does not say its pixels, order or energies.
    """
    edges = table_edges_gev(hdus, hdu)
    names = {name.upper(): name for name in hdu.columns.names}
    if {"CHANNEL", "VALUE"} <= set(names):
        numbers, planes = _sparse_planes(hdu, names, 1 if edges is None else len(edges) - 1)
    else:
        columns = _value_columns(names, None if edges is None else len(edges) - 1)
        planes = np.stack([_native(hdu.data[column]).ravel() for column in columns])
        pixel_column = next((names[name] for name in _PIXEL_COLUMNS if name in names), None)
        numbers = None if pixel_column is None else _native(hdu.data[pixel_column]).ravel()
    if planes.dtype.kind == "f":
        planes[np.isclose(planes, _UNSEEN, rtol=_BLANK_RTOL, atol=0)] = np.nan
    nside, nest, numbers = healpix_layout(hdu.header, planes.shape[1], numbers)
    frame = healpix_frame(hdu.header) or _frame_of_plane(planes, nside, nest, numbers)
    return planes, HealpixPixelization(nside, nest, frame, numbers), edges


def _native(values):
    values = np.asarray(values)
    return values.astype(values.dtype.newbyteorder("="))


def _value_columns(names, n_energy):
    """Names of the columns that hold counts, in the order of energy."""
    values = [name for name in names if name not in _PIXEL_COLUMNS]
    if n_energy is None and "COUNTS" in values:
        values = ["COUNTS"]
    if len(values) != (n_energy or 1):
        bins = "one column or one called COUNTS" if n_energy is None else f"{n_energy} columns"
        raise InputError(
            f"{bins} of counts was expected in the HEALPix table; got {len(values)}: "
            f"{', '.join(values[:6])}{', ...' if len(values) > 6 else ''}; "
            "give a counts map, with a table EBOUNDS if it has several energies"
        )
    return [names[name] for name in values]


def _sparse_planes(hdu, names, n_energy):
    """Planes of a table with one row per filled pixel and channel (gammapy, sparse)."""
    numbers, place = np.unique(_native(hdu.data[names["PIX"]]), return_inverse=True)
    planes = np.zeros((n_energy, len(numbers)))
    np.add.at(planes, (_native(hdu.data[names["CHANNEL"]]), place), hdu.data[names["VALUE"]])
    return numbers, planes


def _frame_of_plane(planes, nside, nest, numbers):
    """Frame in which the counts crowd along the Galactic plane."""
    total = np.nansum(planes, axis=0)
    seen = np.isfinite(planes).any(axis=0)
    excess = {}
    for frame in ("galactic", "icrs"):
        pixels = HealpixPixelization(nside, nest, frame, numbers)
        latitude = lonlat_from_vectors(pixels.centers(np.arange(pixels.n_pixels)))[1]
        plane = seen & (np.abs(latitude) < 10)
        outside = max(total[seen & ~plane].sum(), 1) / max((seen & ~plane).sum(), 1)
        excess[frame] = total[plane].sum() / max(plane.sum(), 1) / outside
    best, other = sorted(excess, key=excess.get, reverse=True)
    if excess[best] < 1.5 * excess[other] or excess[best] < 1.5:
        raise InputError(
            "a HEALPix map must say its frame; got no COORDSYS keyword, and the counts do not "
            "tell; add COORDSYS = 'GAL' or 'EQU'"
        )
    warn(f"the HEALPix map has no COORDSYS; its counts follow the Galactic plane if {best}")
    return best


def read_gammapy(value):
    """Fields of a sky map from a gammapy map or dataset.

    Parameters
    ----------
    value : gammapy.maps.WcsNDMap, gammapy.maps.HpxNDMap or gammapy.datasets.MapDataset
        With one energy axis or none.

    Returns
    -------
    dict
        ``counts``, ``pixels``, ``energy_edges`` (None without an axis), ``name``, ``header``, and
        ``exposure``, ``background``, ``psf`` of a dataset.

    Raises
    ------
    TypeError
        If it is another gammapy object.
    ValueError
        If it has no counts, or its axes are not those of counts.
    """
    parts = {}
    counts = value
    if is_gammapy(value, "MapDataset"):
        counts = value.counts
        parts = {name: getattr(value, name) for name in ("exposure", "background", "psf")}
        if counts is None:
            raise InputError(f"a dataset with counts was expected; {value.name!r} has none")
    if not is_gammapy(counts, "WcsNDMap", "HpxNDMap"):
        raise TypeError(
            f"a gammapy WcsNDMap, HpxNDMap or MapDataset was expected; got "
            f"{type(value).__name__}; give its counts as a map of the sky"
        )
    geom = counts.geom
    pixels = _healpix(geom) if geom.is_hpx else _image(geom)
    edges = _edges_gev(geom.axes)
    planes = np.array(counts.data).reshape(-1, pixels.n_pixels)
    return parts | {
        "counts": planes.astype(planes.dtype.newbyteorder("=")),
        "pixels": pixels,
        "energy_edges": edges,
        "name": getattr(value, "name", None) or type(value).__name__,
        "header": {
            k: v for k, v in (counts.meta or {}).items() if isinstance(v, (str, int, float))
        },
    }


def _image(geom):
    if not geom.is_regular:
        raise InputError(
            "a map with one pixel size was expected; got one for each energy; rebin it"
        )
    return image_pixelization(geom.wcs, geom.to_image().data_shape)


def _healpix(geom):
    if np.size(geom.nside) != 1:
        raise InputError("a map with one nside was expected; got one for each energy; rebin it")
    numbers = None if geom.is_allsky else np.ravel(geom.to_image().get_idx(flat=True)[0])
    return HealpixPixelization(int(np.ravel(geom.nside)[0]), geom.nest, geom.frame, numbers)


def _edges_gev(axes):
    if len(axes) > 1:
        raise InputError(
            f"counts must have one energy axis or none; got the axes {', '.join(axes.names)}; "
            "sum over the others"
        )
    if not len(axes):
        return None
    axis = axes[0]
    if not axis.name.startswith("energy") or not axis.unit.is_equivalent("GeV"):
        raise InputError(f"an energy axis was expected; got the axis {axis.name!r}; sum over it")
    if axis.node_type != "edges":
        raise InputError(
            f"energy bins were expected; the axis {axis.name!r} has single energies (centers), as "
            "exposure and flux have; give counts"
        )
    return axis.edges.to_value("GeV").astype(float)


def dataset_path(path):
    """The file of the one map dataset that a gammapy ``.yaml`` file names."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; check the name and the directory")
    try:
        entries = yaml.safe_load(path.read_text())["datasets"]
        found = [e["filename"] for e in entries if str(e.get("type", "")).startswith("MapDataset")]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as err:
        raise InputError(f"a gammapy datasets file was expected; got {path}; give a map") from err
    if len(found) != 1:
        raise InputError(
            f"one MapDataset was expected in {path}; got {len(found)}; give the file of one of them"
        )
    return path.parent / found[0]


def dataset_part(source, name):
    """A function that reads one part of a gammapy MapDataset from a path or HDUList."""
    return partial(_load_dataset_part, source, name)


def _load_dataset_part(source, name):
    from gammapy.datasets import MapDataset

    hdus = isinstance(source, list)
    dataset = MapDataset.from_hdulist(source) if hdus else MapDataset.read(source)
    return getattr(dataset, name)


# Larger pixels of the input are warned about, and their sources flagged.
COARSE_PIXEL_DEG = 0.2


log = logging.getLogger(__name__)


_KNOWN_TYPES = (
    "a path (str or pathlib.Path), an astropy HDUList, a gammapy Map or MapDataset, or a SkyMap"
)


def read_map(
    map, *, energy_range=None, exposure=None, background=None, psf=None, exposure_frame=None
):
    """Read counts from whatever holds them.

    Parameters
    ----------
    map : str, pathlib.Path, HDUList, gammapy Map or MapDataset, or SkyMap
        FITS files (``.gz`` too) with a counts image or cube in any projection, a HEALPix table of
        gtbin, gammapy or healpy, or events; a gammapy dataset file or its ``.yaml`` list.
    energy_range : pair of Quantity, float in GeV or str, optional
        Of an image, the range of its photons, which overrules the header; of a cube, the range
        whose whole bins are taken; of events, the range that is cut out.
    exposure, background : str, pathlib.Path or gammapy Map, optional
        Carried for measurement. The exposure also turns a flux map into counts.
    psf : str, pathlib.Path or gammapy PSFMap, optional
        Carried for measurement, in the format of gtpsf or of gammapy.
    exposure_frame : {"galactic", "icrs"}, optional
        Frame of a HEALPix exposure without COORDSYS.

    Returns
    -------
    SkyMap
        The counts, energies in GeV.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no usable counts; the message says what it holds.
    TypeError
        If ``map`` is none of the known types.

    Examples
    --------
    >>> from astro_unetloc import read_map
    >>> sky_map = read_map("counts-cube.fits.gz")  # doctest: +SKIP
    >>> sky_map.n_photons  # doctest: +SKIP
    32843
    """
    energy_range = parse_energy_range(energy_range)
    parts = _read_any(map) | {
        name: value
        for name, value in (
            ("exposure", attach_map(exposure, "exposure", frame=exposure_frame)),
            ("background", attach_map(background, "background")),
            ("psf", attach_psf(psf)),
        )
        if value is not None
    }
    if parts.get("events") is not None:
        parts |= _event_energies(parts, energy_range)
    else:
        parts |= _bin_energies(parts, energy_range)
        parts["counts"] = whole_counts(parts["counts"], partial(_exposure_of_bins, parts))
        _check_on_sky(parts["counts"], parts["pixels"])
    sky_map = SkyMap(**parts)
    low, high = sky_map.energy_edges[[0, -1]]
    log.info("%s: %d photons, %.4g to %.4g GeV", sky_map.name, sky_map.n_photons, low, high)
    if not isinstance(map, SkyMap):  # else it was said when that was read
        _warn_of_coarse_pixels(sky_map)
    return sky_map


def _warn_of_coarse_pixels(sky_map):
    if sky_map.pixel_size_deg > COARSE_PIXEL_DEG:
        warn(
            f"pixels of {sky_map.pixel_size_deg:.2f} deg are coarser than {COARSE_PIXEL_DEG} deg: "
            "positions cannot be better than that; use a finer map or the events",
            stacklevel=4,
        )


def _read_any(map):
    """Fields of a `SkyMap` from any known type; edges may still be unknown (None)."""
    if isinstance(map, SkyMap):
        return {
            f.name: map.__dict__.get(f"_{f.name}", map.__dict__.get(f.name)) for f in fields(map)
        }
    if isinstance(map, (str, Path)):
        return _read_path(Path(map).expanduser())
    if is_gammapy(map):
        return read_gammapy(map)
    if isinstance(map, list) and hasattr(map, "info") and hasattr(map, "writeto"):  # an HDUList
        return _read_hdus(map, str(map.filename() or "HDUList"), map)
    raise TypeError(f"map must be {_KNOWN_TYPES}; got {type(map).__name__}; use read_map(path)")


def _read_path(path):
    if path.suffix.lower() in (".yaml", ".yml"):
        path = dataset_path(path)
    hdus, checksum = open_fits(path)
    with hdus:
        return _read_hdus(hdus, path.name, path) | {"checksum": checksum}


def _read_hdus(hdus, name, source):
    """Fields from an open file; ``source`` is what a dataset reads its other parts from."""
    product = describe_product(hdus)
    if product is not None:
        raise InputError(
            f"a counts map or event list was expected; got {product}: {name}; "
            "give the file made by gtbin or the events"
        )
    events = find_hdu(hdus, "EVENTS")
    hdu = events if events is not None else find_counts_hdu(hdus)
    if hdu is None:
        raise InputError(
            f"no counts found in {name}, with the HDUs {', '.join(h.name for h in hdus)}; "
            "give a counts map, an event list or a gammapy dataset with counts"
        )
    parts = {"name": name, "header": select_header(hdu.header, hdus[0].header)}
    if events is not None:
        photons, footprint = read_events(events)
        return parts | {
            "events": photons,
            "footprint": footprint or estimate_footprint(photons.vectors),
            "energy_edges": image_range_gev(events.header),
        }
    read = read_wcs_counts if hdu.is_image else read_healpix_counts
    parts["counts"], parts["pixels"], parts["energy_edges"] = read(hdus, hdu)
    if parts["energy_edges"] is None:
        parts["stated_range"] = image_range_gev(hdu.header) or image_range_gev(hdus[0].header)
    if hdu.name.upper() == "COUNTS":
        others = {n for n in ("exposure", "background", "psf") if find_hdu(hdus, n) is not None}
        parts |= {other: dataset_part(source, other) for other in others}
    return parts


def _event_energies(parts, energy_range):
    """Events inside the range asked for, and the range that they stand for."""
    events, stated = parts["events"], parts["energy_edges"]
    if stated is None:
        stated = _range_of_events(events.energy)
    if energy_range is None:
        return {"energy_edges": np.array(stated, dtype=float)}
    low, high = max(stated[0], energy_range[0]), min(stated[-1], energy_range[1])
    if low >= high:
        raise InputError(
            f"energy_range {energy_range[0]:g} to {energy_range[1]:g} GeV must overlap the "
            f"{stated[0]:g} to {stated[-1]:g} GeV of the events; choose another range"
        )
    inside = (events.energy >= low) & (events.energy < high)
    return {"events": events.select(inside), "energy_edges": np.array([low, high])}


def _range_of_events(energy):
    """Ends of the energies, rounded outwards to two digits: cuts are made at round numbers."""
    if not len(energy):
        return ASSUMED_RANGE_GEV
    low, high = energy.min(), energy.max() * (1 + 1e-12)
    steps = 10.0 ** (np.floor(np.log10([low, high])) - 1)
    return float(np.floor(low / steps[0]) * steps[0]), float(np.ceil(high / steps[1]) * steps[1])


def _bin_energies(parts, energy_range):
    """Bins inside the range asked for; the range of an image that has no bins."""
    stated, edges = parts.pop("stated_range", None), parts["energy_edges"]
    if edges is not None:
        if energy_range is None:
            return {}
        counts, edges = select_bins(parts["counts"], edges, energy_range)
        return {"counts": counts, "energy_edges": edges}
    if stated is not None and energy_range is not None and not np.allclose(stated, energy_range):
        warn(
            f"energy_range {energy_range[0]:g} to {energy_range[1]:g} GeV overrules the "
            f"{stated[0]:g} to {stated[1]:g} GeV that the header of the image states",
            stacklevel=4,
        )
    found = energy_range or stated
    if found is None:
        warn(
            f"{parts['name']} does not state its energies; assuming "
            f"{ASSUMED_RANGE_GEV[0]:g} to {ASSUMED_RANGE_GEV[1]:g} GeV; give energy_range",
            stacklevel=4,
        )
    return {
        "energy_edges": np.array(found or ASSUMED_RANGE_GEV, dtype=float),
        "energy_assumed": found is None,
    }


def _check_on_sky(counts, pixels):
    filled = np.zeros(pixels.n_pixels, dtype=bool)
    for plane in counts:
        filled |= plane > 0
    n_off = np.count_nonzero(pixels.off_sky(np.flatnonzero(filled)))
    if n_off:
        raise InputError(
            f"counts must lie on the sky; got {n_off} pixels with counts beyond the limb of the "
            "projection; check the WCS keywords"
        )


def _exposure_of_bins(parts):
    """Exposure in cm2 s at the pixel centres and bins of a map, or None without exposure."""
    exposure = SkyMap(**parts).exposure
    if exposure is None:
        return None
    edges = parts["energy_edges"]
    centers = parts["pixels"].centers(np.arange(parts["pixels"].n_pixels))
    return exposure_at(exposure, centers, np.sqrt(edges[:-1] * edges[1:]))
