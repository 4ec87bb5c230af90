"""Maps and cubes on the sky: read from FITS files as objects of gammapy, and interpolated.

gammapy itself reads neither COORDSYS = 'EQU' of gtbin, explicit HEALPix pixels without HPX_REG,
FIRSTPIX, nor tables of healpy. It takes MeV whatever the unit of ENERGIES, and edges in keV as
float32, so that 10 GeV becomes 9.9999998 GeV and falls out of a band.

Smooth maps (exposure, background, emission) are interpolated; counts are photons and never are.
"""

import contextlib
import re
import warnings

import astropy.units as u
import healpy
import numpy as np
from astropy.wcs import WCS
from gammapy.maps import HpxGeom, Map, MapAxis, WcsGeom

from astro_unetloc.exceptions import InputError
from astro_unetloc.files import find_hdu, is_map
from astro_unetloc.sphere import frame_rotation, lonlat_from_vectors, rotate


def values_of(hdu, column=None):
    """Numbers of an image or of a table column; blank ones are NaN, damaged ones an error."""
    what = (
        f"the data of HDU {hdu.name or 'without a name'}" if column is None else f"column {column}"
    )
    try:
        values = np.asarray(hdu.data if column is None else hdu.data[column])
        if column is not None and hdu.columns[column].null is not None:
            spec = hdu.columns[column]
            blank = float(spec.null) * (spec.bscale or 1) + (spec.bzero or 0)
            values = np.where(values == blank, np.nan, values)
    except Exception as err:  # astropy raises many kinds for damaged data
        raise InputError(f"{what} cannot be read: it is damaged; download it again") from err
    if values.dtype.kind not in "biuf":
        raise InputError(f"{what} must be real numbers; got {values.dtype}; convert it")
    return values


def read_sky_map(hdus, hdu, *, what="counts", axis=None, frame=None, unit=None):
    """Map of an image or HEALPix table, blank pixels NaN, with the energies of the file or none.

    ``frame`` is that of a HEALPix table without COORDSYS, ``unit`` that of values without a unit;
    others must be equivalent, and without ``unit`` the map has that of the file, if it is one.
    ``what`` names the values in messages.
    """
    axis = energy_axis(hdus, hdu) if axis is None else axis
    if hdu.is_image or "WCSSHAPE" in hdu.header:
        geom, planes = _read_image(hdu, what, 1 if axis is None else axis.nbin)
        stated = hdu.header.get("BUNIT")
    else:
        geom, planes, stated = _read_healpix(hdu, None if axis is None else axis.nbin, what, frame)
    if axis is None and len(planes) > 1:
        wanted = f"{what} with {len(planes)} planes must state their energies"
        raise InputError(f"{wanted}; got no EBOUNDS, ENERGIES or *_BANDS; write one with the map")
    if axis is not None and len(planes) != axis.nbin:
        got = f"got {axis.nbin} energies and {len(planes)} planes"
        raise InputError(f"one energy for each plane was expected; {got}; write its own table")
    geom = geom if axis is None else with_axes(geom, [axis])
    unit = _known_unit(stated) if unit is None else _mended_unit(stated, unit, what)
    return Map.from_geom(geom, data=planes.reshape(geom.data_shape), unit=unit)


def with_axes(geom, axes):
    """Geometry of the same pixels of the sky with one other axis or none."""
    if not geom.is_hpx or geom.region != "explicit":
        return geom.to_image().to_cube(axes)
    # gammapy 2.1 can neither copy nor slice geometries of explicit pixels
    region = (healpix_numbers(geom),)
    for axis in axes:
        bands = np.arange(axis.nbin)
        region = (np.tile(region[0], axis.nbin), np.repeat(bands, len(region[0])))
    nside = int(np.max(geom.nside))
    return HpxGeom(nside, nest=geom.nest, frame=geom.frame, region=region, axes=axes)


def healpix_numbers(geom):
    """Increasing pixel numbers of a HEALPix geometry; None for the whole sphere."""
    if geom.is_allsky:
        return None
    local = np.arange(np.ravel(geom.npix)[0])
    numbers = geom.local_to_global((local, *[np.zeros_like(local)] * len(geom.axes)))[0]
    return numbers.astype(np.int64)


def _known_unit(stated):
    """Stated unit without photons and counts; dimensionless if it is none."""
    with warnings.catch_warnings(), contextlib.suppress(ValueError, TypeError):
        warnings.simplefilter("ignore", u.UnitsWarning)
        text = re.sub(
            r"(?i)\b(photon|ph|count|ct|event|pixel|pix|bin)s?\b", "1", str(stated or "").strip()
        )
        return u.Unit(re.sub(r"^1 +(?=[a-z])", "", text))
    return u.dimensionless_unscaled


def _mended_unit(stated, wanted, what):
    """Stated unit without photons, or the wanted one if none is stated."""
    text = str(stated or "").strip()
    with warnings.catch_warnings(), contextlib.suppress(ValueError, TypeError):  # no unit: refused
        warnings.simplefilter("ignore", u.UnitsWarning)
        unit = u.Unit(text.replace("photons", "photon") or wanted)
        for factor in (u.dimensionless_unscaled, u.photon):
            if (unit / factor).is_equivalent(wanted):
                return unit / factor
    raise InputError(f"{what} must be in {wanted}; got the unit {text!r}; convert the map")


def _read_image(hdu, what, n_energy):
    """Geometry and planes (n, ny, nx) of an image."""
    data = values_of(hdu) if hdu.is_image else _sparse_image(hdu, n_energy)
    while data.ndim > 3 and data.shape[0] == 1:  # a degenerate axis, such as STOKES
        data = data[0]
    if data.ndim not in (2, 3) or not data.size:
        got = f"got {data.ndim} axes of shape {data.shape}; sum over the others"
        raise InputError(f"{what} must have longitude, latitude and at most one energy; {got}")
    wcs = _celestial_wcs(hdu.header)
    return WcsGeom(wcs, data.shape[:-3:-1]), data.reshape(-1, *data.shape[-2:])


def _sparse_image(hdu, n_energy):
    """Planes (n_energy, ny, nx) of a table of gammapy with a row for each filled pixel."""
    numbers = re.findall(r"\d+", str(hdu.header["WCSSHAPE"]))
    planes = np.zeros((n_energy, *map(int, numbers[1::-1])))
    place = values_of(hdu, "PIX").astype(np.int64)
    if "CHANNEL" in hdu.columns.names:
        place += values_of(hdu, "CHANNEL").astype(np.int64) * planes[0].size
    if np.any((place < 0) | (place >= planes.size)):
        raise InputError("pixels must lie in the image of WCSSHAPE; got others; write it again")
    np.add.at(planes.reshape(-1), place, values_of(hdu, "VALUE"))
    return planes


_WCS_NUMBER = re.compile(r"(CRPIX|CRVAL|CDELT|CROTA)[12]|(CD|PC)[12]_[12]|LONPOLE|LATPOLE")


def _celestial_wcs(header):
    """The two celestial axes of a header."""
    for key in filter(_WCS_NUMBER.fullmatch, header):  # wcslib takes 0 for a text
        if not isinstance(header[key], (int, float)):
            raise InputError(f"{key} must be a number; got {header[key]!r}; correct the header")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates and old keywords do not matter here
        try:
            wcs = WCS(header, naxis=2)
            wcs.wcs.set()
        except Exception as err:  # wcslib raises its own kinds
            reason = " ".join(str(err).split())[-150:]
            raise InputError(f"the WCS of the image cannot be used; got {reason}") from err
    if not wcs.has_celestial:
        got = f"got the axes {', '.join(map(repr, wcs.wcs.ctype))}; add the WCS keywords"
        raise InputError(f"an image with sky coordinates, as CTYPE1 GLON-CAR, was expected; {got}")
    kinds = [axis.split("-")[0].strip() for axis in wcs.wcs.ctype]
    if kinds not in (["GLON", "GLAT"], ["RA", "DEC"]):
        got = f"got {', '.join(kinds)}; reproject or transpose the map"
        raise InputError(f"the first two axes must be GLON, GLAT or RA, DEC in this order; {got}")
    return wcs


_FRAMES = dict.fromkeys(("G", "GAL", "GALACTIC"), "galactic") | dict.fromkeys(
    ("C", "CEL", "EQU", "EQ", "ICRS", "J2000", "CELESTIAL", "EQUATORIAL"), "icrs"
)
_PIXEL_COLUMNS = ("PIX", "PIXEL", "HPX_INDEX", "IPIX")
_UNSEEN, _UNSEEN_RTOL = -1.6375e30, 1e-5  # blank value of healpy and healpy's tolerance


def healpix_frame(header):
    """Frame of the keyword COORDSYS, None if it is missing."""
    name = str(header.get("COORDSYS", "")).strip().upper()
    if name and name not in _FRAMES:
        wanted = "COORDSYS of a HEALPix map must be GAL or EQU (or G, C, CEL, ICRS)"
        raise InputError(f"{wanted}; got {name!r}; rotate the map")
    return _FRAMES.get(name)


def _read_healpix(hdu, n_energy, what, frame):
    """Geometry, planes (n, n_pixels) and stated unit of a HEALPix table."""
    frame = healpix_frame(hdu.header) or frame
    if frame is None:
        wanted = f"the frame of a HEALPix map of {what} must be known"
        raise InputError(f"{wanted}; got no COORDSYS; add the keyword COORDSYS = 'GAL' or 'CEL'")
    names = {name.upper(): name for name in hdu.columns.names}
    pixel = next((names[name] for name in _PIXEL_COLUMNS if name in names), None)
    numbers = None if pixel is None else np.ravel(values_of(hdu, pixel)).astype(np.int64)
    if {"CHANNEL", "VALUE"} <= set(names):  # gammapy: a row for each filled pixel and channel
        columns = [names["VALUE"]]
        numbers, row = np.unique(numbers, return_inverse=True)
        planes = np.zeros((n_energy or 1, len(numbers)))
        channel = values_of(hdu, names["CHANNEL"]).astype(np.int64)
        if np.any((channel < 0) | (channel >= len(planes))):
            wanted = f"CHANNEL must lie in 0..{len(planes) - 1}"
            raise InputError(f"{wanted}; got others; write the map again")
        np.add.at(planes, (channel, row), values_of(hdu, names["VALUE"]))
    else:
        columns = _value_columns(names, n_energy, what)
        planes = [values_of(hdu, column) for column in columns]
        if len(planes) == 1:  # healpy's rows of 1024 pixels, or a vector of energies in each row
            vector = planes[0].size % (n_energy or 1) == 0
            planes = planes[0].reshape(-1, n_energy if n_energy and vector else 1).T
        planes = np.stack([plane.ravel() for plane in planes])
    if planes.dtype.kind == "f":
        for plane in planes:
            plane[np.isclose(plane, _UNSEEN, rtol=_UNSEEN_RTOL, atol=0)] = np.nan
    nside, nest, numbers = _healpix_layout(hdu.header, planes.shape[1], numbers)
    if numbers is not None:  # gammapy keeps pixels in increasing order
        order = np.argsort(numbers)
        numbers, planes = (numbers[order],), planes[:, order]
    geom = HpxGeom(nside, nest=nest, frame=frame, region=numbers)
    return geom, planes, hdu.columns[columns[0]].unit


def _value_columns(names, n_energy, what):
    """Names of the columns that hold values, in the order of energy."""
    values = [name for name in names if name not in (*_PIXEL_COLUMNS, "CHANNEL")]
    if n_energy is None and "COUNTS" in values:
        values = ["COUNTS"]
    if len(values) not in (1, n_energy):
        bins = "one column or one called COUNTS" if n_energy is None else f"{n_energy} columns"
        raise InputError(
            f"{bins} of {what} was expected in the HEALPix table; got {len(values)}: "
            f"{', '.join(values[:6])}; give a map with a table of energies if it has several"
        )
    return [names[name] for name in values]


def _healpix_layout(header, n_values, numbers):
    """Resolution, order and pixel numbers of a HEALPix table; None for the whole sphere."""
    order = str(header.get("ORDERING", "")).strip().upper()
    if order not in ("RING", "NESTED", "NEST"):
        raise InputError(f"ORDERING must be RING or NESTED; got {order!r}; correct the keyword")
    try:
        default = {"NSIDE": int(np.sqrt(n_values / 12)), "FIRSTPIX": 0, "LASTPIX": -1}
        nside, first, last = (int(header.get(name, value)) for name, value in default.items())
    except (ValueError, TypeError) as err:
        got = {name: header[name] for name in default if name in header}
        raise InputError(f"NSIDE, FIRSTPIX and LASTPIX must be integers; got {got}") from err
    nside = max(nside, 1)
    n_sphere = 12 * nside**2
    if numbers is None and n_values != n_sphere:
        if last - first + 1 != n_values:
            raise InputError(
                f"{n_sphere} pixels (nside {nside}), a column PIX, or FIRSTPIX and LASTPIX were "
                f"expected; got {n_values} pixels; complete the HEALPix table"
            )
        numbers = np.arange(first, last + 1)
    if numbers is not None:
        if str(header.get("INDXSCHM", "")).strip().upper() == "LOCAL":
            raise InputError("HEALPix pixel numbers must be global; got INDXSCHM LOCAL; rewrite it")
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < n_sphere:
            wanted = f"HEALPix pixel numbers must lie in 0..{n_sphere - 1} at nside {nside}"
            raise InputError(f"{wanted}; got {numbers.min()}..{numbers.max()}")
        if len(np.unique(numbers)) != len(numbers):
            raise InputError("HEALPix pixel numbers must be unique; got repetitions; sum them")
    return nside, order != "RING", numbers


_EDGE_COLUMNS = [(f"{e}_MIN", f"{e}_MAX") for e in ("E", "ENERGY", "ENERGY_TRUE")]
_CENTER_COLUMNS = ("ENERGY", "ENERGY_TRUE")
_EDGE_RTOL = 1e-4  # edges in keV as float32 agree this well and better


def energy_axis(hdus, hdu):
    """Axis in GeV of the bins in EBOUNDS or ``*_BANDS`` or the energies in ENERGIES, else None."""
    names = [hdu.header.get("BANDSHDU", ""), f"{hdu.name}_BANDS", "EBOUNDS", "ENERGIES"]
    table = find_hdu(hdus, *(name for name in names if name))
    if table is None or not hasattr(table, "columns"):
        return None
    if "AXCOLS2" in hdu.header or "AXCOLS2" in table.header:
        raise InputError(f"a map must have one energy axis or none; got more in {table.name}")
    columns = {name.upper(): name for name in table.columns.names}
    pair = next((pair for pair in _EDGE_COLUMNS if set(pair) <= set(columns)), None)
    center = next((name for name in _CENTER_COLUMNS if name in columns), None)
    stated = str(hdu.header.get("AXCOLS1", table.header.get("AXCOLS1", ","))).upper()
    if pair is not None and ("," in stated or center is None):
        default = "keV" if table.name.upper() == "EBOUNDS" else "MeV"
        edges = _edges_of_bins(table, [columns[name] for name in pair], default)
        name = "energy_true" if "TRUE" in pair[0] else "energy"
        return MapAxis.from_energy_edges(edges, unit="GeV", name=name)
    if center is None:
        got = f"got the columns {', '.join(columns)}; give the whole file"
        raise InputError(f"energies were expected in table {table.name}; {got}")
    energy = energy_column(table, columns[center])
    if not (np.all(np.isfinite(energy)) and np.all(energy > 0) and np.all(np.diff(energy) > 0)):
        raise InputError(f"energies must be positive and increase; got others in {table.name}")
    return MapAxis.from_nodes(energy, unit="GeV", name="energy_true", interp="log")


def joined_edges(low, high):
    """Edges of bins that touch and increase, from their lower and upper ends."""
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high)) and np.all(low > 0)):
        raise InputError("energy edges must be positive; got negative, zero or infinite energies")
    if np.any(high <= low) or not np.allclose(low[1:], high[:-1], rtol=_EDGE_RTOL):
        raise InputError("energy bins must touch and increase; got gaps or overlaps; rebin the map")
    return np.append(low, high[-1])


def energy_column(hdu, name, default="MeV"):
    """Energies of a table column in GeV as float64."""
    return energies_in_gev(values_of(hdu, name).astype(float), hdu.columns[name].unit, default)


def _edges_of_bins(hdu, names, default):
    """Edges in GeV of the bins in two columns of a table, 0.01 of a float32 as 0.01."""
    ends = []
    for name in names:
        values = values_of(hdu, name)
        if values.dtype.kind == "f" and values.dtype.itemsize == 4:
            values = [float(str(value)) for value in values.astype(np.float32)]
        ends.append(energies_in_gev(np.array(values, float), hdu.columns[name].unit, default))
    return joined_edges(*ends)


def energies_in_gev(values, unit, default="MeV"):
    """Energies (n,) of a stated unit in GeV; powers of ten are exact (1e7 keV is 10 GeV)."""
    text = str(unit or default).strip() or default
    try:
        scale = u.Unit(text).to("GeV")
    except (ValueError, u.UnitConversionError) as err:
        raise InputError(f"an energy unit was expected; got {text!r}; correct TUNIT") from err
    power = 10.0 ** round(-np.log10(scale))
    return values / power if np.isclose(scale * power, 1, rtol=1e-12) else values * scale


def planes_of(sky_map):
    """Values (m, n_pixels) of a map, the planes of its axes one after the other."""
    n_axes = len(sky_map.geom.axes)
    return sky_map.data.reshape(-1, np.prod(sky_map.data.shape[n_axes:], dtype=int))


def check_smooth(cube, what, *, allow_nan=False):
    """Refuse values of a cube over energy that are negative or not finite."""
    for energy, plane in zip(cube.geom.axes[0].center.to_value("GeV"), planes_of(cube)):
        # one plane at a time, and the two sums only where they are needed: cubes are large
        if not (np.min(plane, initial=0) >= 0 and np.max(plane, initial=0) < np.inf):
            good = (plane >= 0) & (plane < np.inf) | allow_nan & np.isnan(plane)
            if not np.all(good):
                raise InputError(
                    f"{what} must be finite and nowhere negative; got {np.count_nonzero(~good)} "
                    f"other values at {energy:g} GeV; correct the map"
                )


def values_at(sky_map, vectors, *, rows=None):
    """Interpolated values (m, n) of the planes of a smooth map at Galactic vectors (n, 3).

    They are in the unit of the map, NaN outside; ``rows`` selects planes. Maps may stay on disk.
    """
    image = with_axes(sky_map.geom, [])
    vectors = rotate(np.asarray(vectors, dtype=float), frame_rotation(image.frame).T)
    lon, lat = lonlat_from_vectors(vectors)
    planes = planes_of(sky_map)[slice(None) if rows is None else rows]
    result = np.full((len(planes), len(lon)), np.nan)
    if len(lon):
        index, weight = (_healpix_stencil if image.is_hpx else _image_stencil)(image, lon, lat)
        for row, plane in zip(result, planes):
            # only what is used is read from the disk and made float64
            row[:] = np.einsum("kn,kn->n", plane.ravel()[index].astype(float), weight)
    return result


def _image_stencil(image, lon, lat):
    """The four pixels (4, n) around each direction and their bilinear weights; NaN outside.

    gammapy extrapolates beyond the centres of the outer pixels, even at the seam of a whole sky;
    here the nearest pixels count there.
    """
    ny, nx = image.data_shape
    x, y = image.wcs.wcs_world2pix(lon, lat, 0)
    period = period_pix(image.wcs, nx)
    if period:
        x = (x + 0.5) % period - 0.5
    inside = (x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)
    x, y = np.where(inside, x, 0.0), np.where(inside, y, 0.0)
    left, low = np.floor(x).astype(int), np.floor(y).astype(int)
    index, weight = [], []
    for dx, weight_x in ((0, 1 - (x - left)), (1, x - left)):
        column = (left + dx) % nx if period == nx else np.clip(left + dx, 0, nx - 1)
        for dy, weight_y in ((0, 1 - (y - low)), (1, y - low)):
            index.append(np.clip(low + dy, 0, ny - 1) * nx + column)
            weight.append(weight_x * weight_y)
    return np.array(index), np.where(inside, weight, np.nan)


def period_pix(wcs, n_columns):
    """Pixels in 360 deg of native longitude of a cylindrical projection, else None."""
    scale = wcs.pixel_scale_matrix
    # rotated images do not repeat along x
    if wcs.wcs.ctype[0][-3:] not in ("CAR", "CEA", "MER") or scale[0, 1] or scale[1, 0]:
        return None
    period = 360.0 / abs(scale[0, 0])
    return float(n_columns) if abs(period - n_columns) < 1e-3 else period


def _healpix_stencil(image, lon, lat):
    """The four nearest pixels (4, n) of each direction and their weights; NaN outside.

    gammapy fails for explicit pixels. At the border of a map only some of the four count.
    """
    nside, numbers = int(np.max(image.nside)), healpix_numbers(image)
    on_sky = np.isfinite(lon)
    lon, lat = np.where(on_sky, lon, 0.0), np.where(on_sky, lat, 0.0)
    index, weight = healpy.get_interp_weights(nside, lon, lat, nest=image.nest, lonlat=True)
    inside = on_sky
    if numbers is not None:
        nearest = healpy.ang2pix(nside, lon, lat, nest=image.nest, lonlat=True)
        inside = on_sky & np.isin(nearest, numbers)
        weight = np.where(np.isin(index, numbers), weight, 0.0)
        weight = weight / np.where(inside, weight.sum(axis=0), 1.0)
        index = np.minimum(np.searchsorted(numbers, index), len(numbers) - 1)
    return index, np.where(inside, weight, np.nan)


def find_map(hdus, name, what, path):
    """The image or HEALPix table of a file: by name, else the first one."""
    found = [hdu for hdu in hdus if is_map(hdu)]
    if not found:
        raise InputError(f"{what} must be a map; got {path}, which holds no image or HEALPix")
    return find_hdu(found, name, found[0].name)
