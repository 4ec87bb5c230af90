"""Reading of maps: whatever holds counts or events becomes one `SkyMap`."""

import logging
import re
from dataclasses import replace
from glob import glob
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from gammapy.maps import Map, MapAxis

from astro_unetloc.cubes import energy_axis, read_sky_map, values_at, values_of, with_axes
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.files import check_cards, check_file, find_hdu, is_map, open_fits
from astro_unetloc.irf.exposure import (
    Emission,
    MapExposure,
    background_at,
    background_from_hdus,
    check_background,
    exposure_from_hdus,
    exposure_of,
    read_background,
    read_exposure,
    square_degree_density,
)
from astro_unetloc.irf.psf import psf_from_hdus, psf_of, read_psf
from astro_unetloc.maps.photons import (
    MAX_OUTSIDE,
    join_events,
    read_events,
    stated_footprint,
    whole_counts,
)
from astro_unetloc.maps.selection import (
    ASSUMED_RANGE_GEV,
    header_range_gev,
    parse_energy_range,
    select_bins,
    stated_selection,
    wcs_edges_gev,
)
from astro_unetloc.maps.skymap import SkyMap, expected_counts, pixels_of
from astro_unetloc.maps.times import clipped, dates_of, parse_time_range
from astro_unetloc.sphere import lonlat_from_vectors

# Positions cannot be better than the pixels of a map; wider ones are warned about and flagged.
COARSE_PIXEL_DEG = 0.2

_MANY = 100_000  # photons in one pixel, more than in all others together, may be a flipped bit

log = logging.getLogger(__name__)

_HEADER_KEYS = ("TELESCOP", "INSTRUME", "OBJECT", "CREATOR", "ORIGIN", "DATE-OBS", "DATE-END")
_DSS_KEY = re.compile(r"DS(TYP|VAL|UNI|REF)\d+$")


# The options of `read_map`.
MAP_OPTIONS = ("energy_range", "exposure", "background", "psf", "exposure_frame", "time_range")


def read_map(
    map, *, energy_range=None, exposure=None, background=None, psf=None, exposure_frame=None,
    time_range=None,
):  # fmt: skip
    """Read counts from a file or an object.

    Parameters
    ----------
    map : str, pathlib.Path, HDUList, gammapy Map or MapDataset, SkyMap, or list of paths
        FITS files (``.gz``, ``.bz2``, ``.xz`` and ``.fz`` too) with a counts image or cube in any
        projection, a HEALPix table of gtbin, gammapy or healpy, or events; a gammapy dataset file
        or its ``.yaml`` list. ``file.fits[EVENTS]`` and ``file.fits[1]`` choose an HDU. Several
        event lists, also as ``@list.txt`` or a pattern such as ``week*.fits``, are read as one.
    energy_range : pair of Quantity, float in GeV or str, optional
        Of an image, the range of its photons, which overrules the header; of a cube, the range
        whose whole bins are taken; of events, the range that is cut out.
    exposure, background : str, pathlib.Path or gammapy Map, optional
        Carried for measurement. The exposure also turns a flux map into counts. Intensities, see
        `astro_unetloc.irf.exposure.read_background`, become the counts expected in the map.
    psf : str, pathlib.Path, Quantity or gammapy PSFMap, optional
        Carried for measurement, in the format of gtpsf or of gammapy, or the radius that holds 68 %
        of the photons of a Gaussian, such as ``0.06 * u.deg``.
    exposure_frame : {"galactic", "icrs"}, optional
        Frame of a HEALPix exposure without COORDSYS.
    time_range : pair of float, optional
        Of events, the first and the last time in seconds as in the event list (MET). The sky that
        they cover is that of the whole list. The photons keep their times.

    Returns
    -------
    SkyMap
        The counts or events, with energies in GeV.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If the file holds no usable counts; the message names what it holds.
    TypeError
        If ``map`` is of another type.

    Examples
    --------
    >>> from astro_unetloc import read_map
    >>> sky_map = read_map("counts-cube.fits.gz")  # doctest: +SKIP
    >>> sky_map.n_photons  # doctest: +SKIP
    32843
    """
    given = {
        "map": map, "exposure": exposure, "exposure_frame": exposure_frame,
        "background": background, "psf": psf, "energy_range": energy_range,
        "time_range": time_range,
    }  # fmt: skip
    given = {name: part for name, part in given.items() if part is not None}
    energy_range, time_range = parse_energy_range(energy_range), parse_time_range(time_range)
    companions = {
        "exposure": read_exposure(exposure, frame=exposure_frame),
        "background": read_background(background),
        "psf": read_psf(psf),
    }
    companions = {name: value for name, value in companions.items() if value is not None}
    if isinstance(map, SkyMap):
        if time_range is not None:
            raise InputError("time_range must be given when events are read; got a map; read them")
        given = map.given | {name: part for name, part in given.items() if name != "map"}
        sky_map = _cut(replace(map, **companions, given=given), energy_range)
    else:
        parts = _read_any(map, time_range) | companions | {"given": given}
        sky_map = _make_sky_map(**parts, energy_range=energy_range)
        size = sky_map.pixel_size_deg
        if size > COARSE_PIXEL_DEG:
            limits = f"pixels of {size:.2f} deg are coarser than {COARSE_PIXEL_DEG} deg"
            warn(f"{limits}: positions cannot be better; use a finer map or the events")
    sky_map = _with_companions(sky_map)
    low, high = sky_map.energy_edges[[0, -1]]
    log.info("%s: %d photons, %.4g to %.4g GeV", sky_map.name, sky_map.n_photons, low, high)
    return sky_map


def _read_any(map, time_range=None):
    """Fields of a `SkyMap` from any known type; counts may still be fluxes or have no axis."""
    is_file = isinstance(map, fits.HDUList | str | Path | list | tuple)
    if time_range is not None and not is_file:
        raise InputError(f"a time range needs an event list; got {type(map).__name__}; give events")
    if isinstance(map, fits.HDUList):  # which is a list
        name = str(map.filename() or "HDUList")
        check_cards(map, name)
        return _join([_read_hdus(map, name)], time_range)
    if isinstance(map, (str, Path, list, tuple)):
        return _join([_read_file(path) for path in input_paths(map)], time_range)
    if isinstance(map, Map) and not map.geom.is_region:
        return {"counts": map, "name": type(map).__name__, "header": _plain_header(map)}
    if any(base.__name__ == "MapDataset" for base in type(map).__mro__):
        if map.counts is None:
            raise InputError(f"a dataset with counts was expected; {map.name!r} has none")
        if getattr(map, "counts_off", None) is None:
            background = map.background
        else:
            background = _off_background(map.counts_off, map.acceptance, map.acceptance_off)
        return {
            "counts": _masked(map.counts, map.mask_safe),
            "name": map.name,
            "header": _telescope(map.meta_table) | _plain_header(map.counts),
            "exposure": read_exposure(_filled(map.exposure)),
            "background": read_background(_filled(background)),
            "psf": map.psf if _filled(getattr(map.psf, "psf_map", map.psf)) else None,
        }
    raise TypeError(
        "map must be a path (str or Path) or paths, an astropy HDUList, a gammapy WcsNDMap, "
        f"HpxNDMap or MapDataset, or a SkyMap; got {type(map).__name__}; use read_map(path)"
    )


def _filled(part):
    """The map of a part of a dataset, or None if it is zero: gammapy makes datasets of zeros."""
    return part if part is not None and np.any(part.data) else None


def input_paths(map):
    """Paths of the files that a path, a pattern, ``@list.txt`` or a list of these names."""
    if isinstance(map, (list, tuple)):
        if not map or not all(isinstance(path, (str, Path)) for path in map):
            raise TypeError(f"map must be a path or a list of paths; got {map!r}")
        return [path for pattern in map for path in input_paths(pattern)]
    path, listing = Path(map).expanduser(), Path(str(map)[1:]).expanduser()
    if path.is_dir():
        raise InputError(
            f"a map was expected; got the directory {path}; name a file in it, or several event "
            f"lists as '{path}/*.fits'"
        )
    if path.exists() or not str(map).startswith("@"):
        found = [] if path.exists() else sorted(glob(str(path)))
        return [Path(name) for name in found] or [path]
    check_file(listing, "a list of files")
    lines = listing.read_bytes().decode(errors="replace").splitlines()
    names = [name for line in lines if (name := line.partition("#")[0].strip())]
    if not names or any(name.startswith("@") for name in names):
        raise InputError(f"names of files, one a line, were expected in {listing}; got others")
    # from the folder of the command, as for the Fermi tools, else beside the list
    found = [name if Path(name).exists() else listing.parent / name for name in names]
    return [path for name in found for path in input_paths(name)]


def _read_file(path):
    """Fields of a `SkyMap` from one file."""
    if path.suffix.lower() in (".yaml", ".yml"):
        path = _dataset_path(path)
    hdus, checksum = open_fits(path)
    with hdus:
        return _read_hdus(hdus, path.name) | {"checksum": checksum}


def _join(parts, time_range=None):
    """Fields of one `SkyMap` from those of one or several files; event lists become one."""
    first, lists = parts[0], [events for part in parts for events in part.get("lists", ())]
    others = [part["name"] for part in parts if "lists" not in part]
    if others and len(parts) > 1:
        raise InputError(f"several files must be event lists; got {others[0]}; give one map")
    if not lists:
        if time_range is not None:
            raise InputError(
                f"a time range needs an event list; got the map {first['name']}; give events"
            )
        return first
    with_times = time_range is not None
    events, footprint, stated_range, good_times = join_events(lists, with_times=with_times)
    stated = [stated_selection(part["header"]) | {"energy_gev": None} for part in parts]
    if stated.count(stated[0]) < len(stated):
        warn(f"the event lists are other selections of events: {first['name']} and others", 6)
    header = dict(first["header"])
    for key, ends in (("DATE-OBS", min), ("DATE-END", max)):
        dates = [str(part["header"][key]) for part in parts if key in part["header"]]
        header |= {key: ends(dates)} if dates else {}
    if with_times:  # what the whole list covers, the sky and energies, is that of each part
        stated_range = stated_range or _range_of_events(events.energy)
        events = events.select((events.time >= time_range[0]) & (events.time < time_range[1]))
        good_times = clipped(good_times, time_range)
        header |= lists[0].clock | dates_of(time_range, lists[0].clock)
    if len(good_times):
        header["ONTIME"] = float(np.diff(good_times).sum())
    return {
        "good_times": good_times,
        "name": ", ".join(part["name"] for part in parts),
        "checksum": ", ".join(part["checksum"] for part in parts if "checksum" in part),
        "header": header,
        "events": events,
        "footprint": footprint,
        "stated_range": stated_range,
    }


def _masked(counts, mask):
    """Counts that are NaN, not observed, where a mask of the same pixels is False."""
    if mask is None or np.all(mask.data):
        return counts
    try:
        data = np.where(np.broadcast_to(mask.data, counts.data.shape), counts.data, np.nan)
    except ValueError as err:
        got = f"got {np.shape(mask.data)} and {counts.data.shape}; write the dataset again"
        raise InputError(f"mask_safe must have the pixels of the counts; {got}") from err
    if not np.any(mask.data):
        raise InputError("mask_safe must be True in some pixels; got none, as of a new dataset")
    n_masked = np.nansum(counts.data) - np.nansum(data)
    log.info("%d photons lie where mask_safe is False and are not used", n_masked)
    return Map.from_geom(counts.geom, data=data)


def _telescope(table):
    """Keyword of the telescope from the metadata of a gammapy dataset, a table or None."""
    if table is None or "TELESCOP" not in table.colnames or not len(table):
        return {}
    name = str(table["TELESCOP"][0])
    return {} if name == "Unknown" else {"TELESCOP": name}


def _plain_header(counts):
    return {k: v for k, v in (counts.meta or {}).items() if isinstance(v, (str, int, float))}


def _dataset_path(path):
    """The file of the one map dataset that a gammapy ``.yaml`` file names."""
    import yaml

    check_file(path, "a gammapy datasets file")
    try:
        entries = yaml.safe_load(path.read_text())["datasets"]
        kinds = [(str(e.get("type", "")), str(e["filename"])) for e in entries]
        found = [name for kind, name in kinds if kind.startswith("MapDataset")]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as err:
        raise InputError(f"a gammapy datasets file was expected; got {path}; give a map") from err
    if len(found) != 1:
        raise InputError(f"one MapDataset was expected in {path}; got {len(found)}; give its file")
    return path.parent / found[0]


def _read_hdus(hdus, name):
    """Fields of a `SkyMap` from an open file."""
    product = describe_product(hdus)
    if product is not None:
        kind = f"got {product}: {name}; give the file made by gtbin or the events"
        raise InputError(f"a counts map or event list was expected; {kind}")
    events = [hdu for hdu in hdus if hdu.name.upper() == "EVENTS" and hasattr(hdu, "columns")]
    hdu = events[0] if events else _find_counts(hdus)
    if hdu is None:
        found = f"no counts found in {name}, with the HDUs {', '.join(h.name for h in hdus)}"
        raise InputError(f"{found}; give a counts map, an event list or a dataset with counts")
    parts = {"name": name, "header": _select_header(hdu.header, hdus[0].header)}
    if events:
        return parts | {"lists": [read_events(hdus, hdu, name) for hdu in events]}
    axis = _axis_of_counts(hdus, hdu)
    counts = read_sky_map(hdus, hdu, axis=axis)
    if axis is None:
        parts["stated_range"] = header_range_gev(hdu.header) or header_range_gev(hdus[0].header)
    parts["footprint"] = stated_footprint(parts["header"])
    parts["counts"] = counts
    if hdu.name.upper() == "COUNTS":  # a dataset of gammapy
        table = find_hdu(hdus, "META_TABLE")
        parts["header"] = _telescope(table and Table(table.data)) | parts["header"]
        for kind, (part, read) in _PARTS_OF_DATASET.items():
            found = find_hdu(hdus, kind)
            try:
                parts |= {} if found is None else {part: read(hdus, found, name)}
            except InputError as err:
                warn(f"the HDU {kind.upper()} of {name} is not used: {err}", 7)
        parts["counts"] = _masked(counts, parts.pop("mask_safe", None))
    return parts


def _read_off_background(hdus, off, name):
    """Background of an open file of a `MapDatasetOnOff`."""
    scales = [find_hdu(hdus, key) for key in ("ACCEPTANCE", "ACCEPTANCE_OFF")]
    if None in scales:
        raise InputError("it needs the HDUs ACCEPTANCE and ACCEPTANCE_OFF; got one or none")
    maps = (read_sky_map(hdus, hdu, what="background") for hdu in (off, *scales))
    return check_background(_off_background(*maps), name)


def _off_background(counts_off, acceptance, acceptance_off):
    """Expected counts of the off counts of a `MapDatasetOnOff`; gammapy's may be infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.nan_to_num(acceptance.data / acceptance_off.data, posinf=0.0)
    return Map.from_geom(counts_off.geom, data=scale * counts_off.data)


# HDUs of a dataset, the field of a `SkyMap` that each becomes, and the function that reads it.
_PARTS_OF_DATASET = {
    "exposure": ("exposure", lambda hdus, _, name: exposure_from_hdus(hdus, name)),
    "background": ("background", lambda hdus, _, name: background_from_hdus(hdus, name)),
    "counts_off": ("background", _read_off_background),
    "psf": ("psf", lambda hdus, _, name: psf_from_hdus(hdus, name)),
    "mask_safe": ("mask_safe", lambda hdus, hdu, _: read_sky_map(hdus, hdu, what="mask_safe")),
}


def _axis_of_counts(hdus, hdu):
    """Energy axis of a counts HDU; None for an image that has no table of energies."""
    axis = energy_axis(hdus, hdu)
    if axis is None and hdu.is_image and hdu.header["NAXIS"] == 3 and hdu.header["NAXIS3"] > 1:
        edges = wcs_edges_gev(hdu.header, hdu.header["NAXIS3"])
        axis = MapAxis.from_energy_edges(edges, unit="GeV", name="energy")
    return axis


def _find_counts(hdus):
    """The image or HEALPix table that holds counts: by name, else the first; or None."""
    # the other maps of a gammapy dataset without counts are no counts
    others = {"MASK_SAFE", "MASK_FIT", "BACKGROUND", "EXPOSURE"}
    found = [hdu for hdu in hdus if is_map(hdu)]
    named = find_hdu(found, "COUNTS", "SKYMAP")
    if named is not None or not found or others & {hdu.name.upper() for hdu in hdus}:
        return named
    if len(found) > 1:
        names = ", ".join(hdu.name for hdu in found)
        warn(f"the first of the maps {names} is read; choose another as file.fits[NAME]", 7)
    return found[0]


def _select_header(*headers):
    """Telescope, dates and DSS cuts of headers as a dict; the first header that has them counts."""
    cuts = ({key: header[key] for key in header if _DSS_KEY.match(key)} for header in headers)
    found = {key: header[key] for header in headers[::-1] for key in _HEADER_KEYS if key in header}
    return found | next(filter(None, cuts), {})


def describe_product(hdus):
    """Phrase such as "an exposure map" for a known product without counts, else None."""
    names = {hdu.name.upper() for hdu in hdus}
    tables = [hdu for hdu in hdus if hasattr(hdu, "columns")]
    columns = {column.upper() for hdu in tables for column in hdu.columns.names}
    if {"COUNTS", "EVENTS", "EXPOSURE_BANDS"} & names:  # the last: a dataset of gammapy
        return None
    kinds = {
        "a source catalogue": "SOURCE_NAME" in columns
        or any("LAT_POINT_SOURCE" in n for n in names),
        "an exposure map": "HPXEXPOSURES" in names,
        "a PSF table (gtpsf)": {"PSF", "THETA"} <= names or {"PSF", "EXPOSURE", "THETA"} <= columns,
        "a livetime cube (gtltcube)": {"WEIGHTED_EXPOSURE", "CTHETABOUNDS"} & names,
        "a spacecraft file": "SC_DATA" in names,
    }
    maps = (_describe_map(hdu, hdus) for hdu in hdus if is_map(hdu))
    found = [kind for kind, holds in kinds.items() if holds]
    return found[0] if found else next(filter(None, maps), None)


def _describe_map(hdu, hdus):
    """Phrase on an image or HEALPix table, from its creator, unit, third axis and energies."""
    header = hdu.header
    if str(header.get("CREATOR", "")).strip().lower() == "gtmodel":
        return "a model cube (gtmodel), which is no observation"
    unit = re.sub(r"[ *^]", "", str(header.get("BUNIT", ""))).lower()
    per_area = "m-2" in unit or "/" in unit
    if "m2" in unit and "s" in unit.split("m2")[-1] and not per_area:
        return "an exposure map"
    axis = str(header.get("CTYPE3", "")).strip().lower()
    single_energies = "," not in str(header.get("AXCOLS1", ","))
    cube = hdu.is_image and header.get("NAXIS") == 3 and find_hdu(hdus, "EBOUNDS") is None
    if single_energies or axis == "log_energy" or cube and find_hdu(hdus, "ENERGIES") is not None:
        values = values_of(hdu, None if hdu.is_image else hdu.columns.names[-1])
        exposure = axis == "log_energy" or not per_area and np.nanmax(values) > 1e3
        return "an exposure map" if exposure else "a diffuse emission template"
    return None


def _make_sky_map(
    *, energy_range, stated_range=None, counts=None, events=None, footprint=None, **parts
):
    """The `SkyMap` of what was read: energies known and selected, counts whole and on the sky."""
    if events is not None:
        edges = np.array(stated_range or _range_of_events(events.energy), float)
        parts |= {"events": events, "footprint": footprint}
        return _cut(SkyMap(energy_edges=edges, **parts), energy_range)
    counts = _without_unit(counts)
    _check_axes(counts.geom.axes)
    pixels_of(counts.geom)  # an unknown frame is refused first
    if not counts.geom.axes:
        found = _range_of_image(stated_range, energy_range, parts["name"])
        parts["energy_assumed"] = found is None
        axis = MapAxis.from_energy_edges(found or ASSUMED_RANGE_GEV, unit="GeV", name="energy")
        counts = Map.from_geom(with_axes(counts.geom, [axis]), data=counts.data[None])
    sky_map = _cut(SkyMap(counts=counts, **parts), energy_range)
    whole = whole_counts(sky_map.planes, lambda: _exposure_of_bins(sky_map))
    filled = (whole > 0).any(axis=0)
    n_off = np.count_nonzero(np.isnan(sky_map.pixels.on_sky(np.flatnonzero(filled))[:, 0]))
    if n_off:
        got = f"{n_off} pixels with counts beyond the limb of the projection"
        raise InputError(f"counts must lie on the sky; got {got}; check the WCS keywords")
    largest, total = np.fmax.reduce(whole, axis=None, initial=0), np.nansum(whole, dtype=float)
    if largest > _MANY and largest > total / 2:
        warn(f"one pixel holds {largest:,.0f} of {total:,.0f} photons; is the map damaged?", 5)
    if footprint is not None:
        whole = _inside_cuts(whole, filled, sky_map.pixels, footprint)
    geom = sky_map.counts.geom
    return replace(sky_map, counts=Map.from_geom(geom, data=whole.reshape(geom.data_shape)))


def _without_unit(counts):
    """Counts, or fluxes in cm-2 s-1, as plain numbers; other units are refused."""
    unit = (counts.unit or u.dimensionless_unscaled).decompose()
    for wanted in ("", "ct", "ph", "cm-2 s-1", "ph cm-2 s-1", "ct cm-2 s-1"):
        if unit.is_equivalent(wanted):
            scale = unit.to(wanted)
            if not wanted and scale != 1:  # a number in the place of a unit, or per cent
                break
            # a power of ten is exact: 1e-4 of m-2 s-1 in cm-2 s-1
            data = counts.data if scale == 1 else counts.data * float(f"{scale:.12g}")
            return Map.from_geom(counts.geom, data=data)
    got = f"got {counts.unit}; give the counts, or a flux map together with its exposure"
    raise InputError(f"counts, or a flux per area and time, were expected; {got}")


def _inside_cuts(counts, filled, pixels, footprint):
    """Counts that are NaN, not observed, outside of the circles that the header states."""
    if getattr(footprint, "radius_deg", 0) >= 180:
        return counts
    centers = pixels.centers(np.arange(pixels.n_pixels))
    on_sky, centers = np.isfinite(centers[:, 0]), np.nan_to_num(centers)
    n_outside = np.sum(filled & on_sky & ~footprint.grown(pixels.pixel_size_deg).covers(centers))
    if n_outside > MAX_OUTSIDE * filled.sum():
        warn(f"{n_outside} pixels with counts lie outside the circle of the header: not used", 7)
        return counts
    unseen = on_sky & ~filled & ~footprint.covers(centers)
    return np.where(unseen, np.nan, counts).astype(np.float32) if unseen.any() else counts


def _check_axes(axes):
    """Refuse what is no single axis of energy bins."""
    if len(axes) > 1:
        names = ", ".join(axes.names)
        raise InputError(f"one energy axis or none was expected; got {names}; sum over the others")
    for axis in axes:
        if not axis.name.startswith("energy") or not axis.unit.is_equivalent("GeV"):
            raise InputError(f"energy bins were expected; got the axis {axis.name!r}; sum over it")
        if axis.node_type != "edges":
            kind = f"{axis.name!r} with single energies, as exposures have"
            raise InputError(f"energy bins were expected; got the axis {kind}; give counts")


def _range_of_image(stated, energy_range, name):
    """Energy range of an image without bins; None, with a warning, if it is unknown."""
    if stated is not None and energy_range is not None and not np.allclose(stated, energy_range):
        wanted, found = ("{:g} to {:g} GeV".format(*ends) for ends in (energy_range, stated))
        warn(f"energy_range {wanted} overrules the {found} that the header of the image states", 5)
    if energy_range is None and stated is None:
        assumed = "{:g} to {:g} GeV".format(*ASSUMED_RANGE_GEV)
        warn(f"{name} does not state its energies; assuming {assumed}; give energy_range", 5)
    return energy_range or stated


def _range_of_events(energy):
    """Ends of the energies, rounded outwards to two digits: cuts are made at round numbers."""
    if not len(energy):
        return ASSUMED_RANGE_GEV
    low, high = energy.min(), energy.max() * (1 + 1e-12)
    steps = 10.0 ** (np.floor(np.log10([low, high])) - 1)
    return float(np.floor(low / steps[0]) * steps[0]), float(np.ceil(high / steps[1]) * steps[1])


def _cut(sky_map, energy_range):
    """The part of a `SkyMap` inside an energy range: whole bins, or events."""
    if energy_range is None:
        return sky_map
    edges = sky_map.energy_edges
    if sky_map.events is None:
        first, last = select_bins(edges, energy_range)
        edges = edges[first : last + 1]
        axis = MapAxis.from_energy_edges(edges, unit="GeV", name="energy")
        geom = with_axes(sky_map.counts.geom, [axis])
        counts = Map.from_geom(geom, data=sky_map.counts.data[first:last])
        return replace(sky_map, counts=counts, energy_edges=edges)
    low, high = max(edges[0], energy_range[0]), min(edges[-1], energy_range[1])
    if low >= high:
        wanted, events = ("{:g} to {:g} GeV".format(*ends) for ends in (energy_range, edges))
        raise InputError(f"energy_range {wanted} must overlap the {events} of the events")
    inside = (sky_map.events.energy >= low) & (sky_map.events.energy < high)
    events = sky_map.events.select(inside)
    return replace(sky_map, events=events, energy_edges=np.array([low, high]))


def _exposure_of_bins(sky_map):
    """Exposure in cm2 s at the pixel centres and bins of a map, or None without exposure."""
    if sky_map.exposure is None:
        return None
    edges, pixels = sky_map.energy_edges, sky_map.pixels
    centers = pixels.centers(np.arange(pixels.n_pixels))
    return sky_map.exposure.at(centers, np.sqrt(edges[:-1] * edges[1:])).T


# Ratios of expected to observed counts that are warned about and refused; one bright source, as
# the Crab in its field, may hold ten times the photons of the background.
_WARNED_RATIOS, _REFUSED_RATIOS = (0.03, 10.0), (1e-3, 1e3)
_PSF_RADII_DEG = 0.003, 30.0  # containing 68 %


def _with_companions(sky_map):
    """The sky map with its background in expected counts; companions cover it, or are refused."""
    if sky_map.exposure is None and sky_map.psf is None and sky_map.background is None:
        return sky_map
    edges, (points, area_deg2) = sky_map.energy_edges, sky_map.observed_points
    if isinstance(sky_map.exposure, MapExposure):
        _check_energies("exposure", sky_map.exposure.energy_range, edges, "its ends are taken")
        known = exposure_of(sky_map.exposure, points)[0]
        _check_sky("exposure", known, "sources elsewhere get no flux")
    if sky_map.psf is not None:
        _check_psf(sky_map.psf, points, edges)
    if sky_map.background is None:
        return sky_map
    sky_map = replace(sky_map, background=_background_in_bins(sky_map))
    density = square_degree_density(sky_map.background)
    known = np.isfinite(values_at(density, points)).any(axis=0)
    _check_sky("background", known, "elsewhere it is estimated around each source", refuse=True)
    expected = np.nan_to_num(background_at(density, points, edges)).sum(axis=0)
    expected = float(expected @ area_deg2) / known.mean()
    ratio = expected / max(sky_map.n_photons, 1)
    text = f"background of {expected:.3g} expected counts beside {sky_map.n_photons} observed; "
    text += "check its time, unit and exposure"
    if max(expected, sky_map.n_photons) > 100:
        if not _REFUSED_RATIOS[0] < ratio < _REFUSED_RATIOS[1]:
            raise InputError(f"background about as large as the counts was expected; got a {text}")
        if not _WARNED_RATIOS[0] < ratio < _WARNED_RATIOS[1]:
            warn(text, 4)
    return sky_map


def _background_in_bins(sky_map):
    """The background of a sky map as expected counts in energy bins."""
    background, edges = sky_map.background, sky_map.energy_edges
    is_emission = isinstance(background, Emission)
    if not is_emission and not background.geom.axes:
        warn(f"background has no energies; taken for {edges[0]:g}-{edges[-1]:g} GeV", 5)
        axis = MapAxis.from_energy_edges(edges[[0, -1]], unit="GeV", name="energy")
        return Map.from_geom(with_axes(background.geom, [axis]), data=background.data[None])
    ends = background.energy_range if is_emission else background.geom.axes[0].edges.to_value("GeV")
    _check_energies("background", ends, edges, "its spectrum is continued")
    return expected_counts(sky_map) if is_emission else background


def _check_psf(psf, points, edges):
    """Warn of a PSF of other directions or energies than the map, refuse what is no PSF."""
    geom = getattr(getattr(psf, "psf_map", None), "geom", None)
    if geom is not None and not geom.is_region:
        where = SkyCoord(*lonlat_from_vectors(points), unit="deg", frame="galactic")
        if not geom.to_image().contains(where).any():
            warn("the PSF is of another part of the sky than the map", 5)
    psf, energy = psf_of(psf, points), np.sqrt(edges[0] * edges[-1])
    # a table may have the middles of wide bins
    _check_energies("PSF", psf.energy_range, edges, "its ends are taken", margin=2.0)
    radius_deg = psf.containment_radius(0.68, np.clip(energy, *psf.energy_range))
    if not _PSF_RADII_DEG[0] < radius_deg < _PSF_RADII_DEG[1]:
        raise InputError(
            "the PSF must hold 68 % of the photons in {:g}-{:g} deg; got {:.2g} deg at {:.3g} GeV; "
            "correct the unit of its angles".format(*_PSF_RADII_DEG, radius_deg, energy)
        )


def _check_energies(what, energy, edges, consequence, *, margin=1.25):
    """Warn of a companion that covers a part of the energies of the map, refuse if it is none."""
    (low, high), (emin, emax) = np.asarray(energy)[[0, -1]], edges[[0, -1]]
    text = f"the {what} covers {low:.4g}-{high:.4g} GeV and the map {emin:.4g}-{emax:.4g} GeV"
    if low > emax or high < emin:
        raise InputError(f"{text}; compute it for these, or correct the unit of its energies")
    if low > margin * emin or high < emax / margin:
        warn(f"{text}: beyond, {consequence}", 5)


def _check_sky(what, known, consequence, *, refuse=False):
    """Warn of a companion that covers a part of the map."""
    if refuse and not known.any():
        raise InputError(f"the {what} must cover the map; got one of another part of the sky")
    if known.mean() < 0.99:
        warn(f"the {what} covers {100 * known.mean():.3g} % of the map: {consequence}", 5)
