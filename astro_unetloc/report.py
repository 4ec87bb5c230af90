"""The report of a search: one page with its picture, its sources and their cut-outs.

The page loads nothing else. Images are packed arrays of whole numbers, 0 where nothing was
observed, which its script (``data/pages/report.js``) smooths, stretches and draws.
"""

import base64
import json
import re
import zlib
from pathlib import Path

import matplotlib
import numpy as np
from gammapy.maps import WcsGeom
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from astro_unetloc.catalog import columns
from astro_unetloc.catalog.models import MIN_BAND_TS, band_counts, band_limits
from astro_unetloc.catalog.read import as_reference, as_table
from astro_unetloc.catalog.table import (
    band_edges,
    creator,
    galactic_vectors,
    glon_glat_vectors,
    is_catalog,
    numbers,
    source_classes,
    texts,
)
from astro_unetloc.catalog.write import KEYWORDS
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import check_outputs, write_files
from astro_unetloc.irf.psf import psf_of
from astro_unetloc.maps.patches import SortedPhotons, TangentPlane
from astro_unetloc.maps.photons import DEFAULT_SEED
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.skymap import pixels_of
from astro_unetloc.measurement.limits import detection_limits
from astro_unetloc.sphere import (
    frame_rotation,
    lonlat_from_vectors,
    move,
    separation_deg,
    tangent_axes,
    tangent_offsets,
)

_PAGES = Path(__file__).parent / "data" / "pages"
# Maps of a larger radius are shown as the whole sky, in the Hammer-Aitoff projection.
_MAX_FIELD_DEG, _SKY_PIXEL_DEG, _SKY_WIDTH_DEG = 30.0, 0.16, 324.1
# Pixels of a field, and the largest number of them on a side.
_PIXEL_DEG, _MAX_PIXELS = (0.05, 0.1), 1000
# A cut-out has this many pixels on a side and reaches out to so many 68 % radii of the PSF at a
# typical energy, 1.5 times the lowest one, or to a degree.
_CUTOUT_PIXELS, _CUTOUT_PSF, _CUTOUT_DEG, _TYPICAL = 40, 3.0, 1.0, 1.5
# Whole numbers of the images: probabilities, logarithms of counts per deg2 and their residuals.
_PROBABILITY_STEPS, _DENSITY_STEP, _LEAST_DENSITY, _SIGMA_STEP = 254, 0.005, 1e-6, 1 / 16
# Detection limits are computed at this many positions and listed in these ranges of latitude.
_N_LIMITS, _LATITUDES_DEG = 100, (0, 2, 5, 10, 30, 90)
_COLOR_MAPS = {"counts": "inferno", "residual": "RdBu_r"}


def write_report(map, catalog, path, *, overwrite=False):
    """Write a page with the picture of a map and the sources of a catalogue.

    Parameters
    ----------
    map : str, path, HDUList, gammapy Map or MapDataset, or SkyMap
        Counts as `astro_unetloc.read_map` takes them.
    catalog : str, path or table
        Sources as `astro_unetloc.read_catalog` takes or returns them.
    path : str or path-like
        File to write, ``.html``.
    overwrite : bool
        Whether a file that exists may be replaced.

    Raises
    ------
    InputError
        If the map or the catalogue cannot be used.
    FileExistsError, FileNotFoundError, PermissionError
        If the file cannot be written.

    Examples
    --------
    >>> from astro_unetloc import write_report
    >>> write_report("map.fits", "catalog.fits", "report.html")  # doctest: +SKIP
    """
    check_outputs([path], overwrite=overwrite, suffixes=(".html",))
    catalog = as_table(catalog)
    catalog = catalog if is_catalog(catalog) else as_reference(catalog)
    content = report_bytes(read_map(map), catalog)
    write_files({path: content}, overwrite=overwrite)


def report_bytes(sky_map, catalog, *, run=None):
    """Content of the page (bytes); with the `Run` of the catalogue it shows what that adds."""
    seed, vectors = DEFAULT_SEED if run is None else run.seed, galactic_vectors(catalog)
    catalog, vectors = (part[np.isfinite(vectors[:, 0])] for part in (catalog, vectors))
    geom = _geometry(*_observed(sky_map), sky_map.pixel_size_deg)
    cutouts = _Cutouts(vectors, _half_width_deg(sky_map))
    pixels, (ny, nx) = pixels_of(geom), map(int, geom.data_shape)
    centers = pixels.centers(np.arange(nx * ny))
    observed = np.isfinite(centers[:, 0])
    observed[observed] = sky_map.covers(centers[observed])
    counts = np.zeros(nx * ny, np.int64)
    for photons in sky_map.photons(seed):
        index = pixels.index(photons.vectors)
        counts += np.bincount(index[index >= 0], minlength=len(counts))
        cutouts.add(photons)
    observed |= counts > 0
    layers = {"counts": _packed(np.where(observed, counts + 1, 0))}
    if run is not None and run.probability is not None:
        steps = run.patches.values_at(run.probability, centers) * _PROBABILITY_STEPS
        layers["probability"] = _packed(steps + 1)
    around = cutouts.directions()
    seen = sky_map.covers(around) | (cutouts.counts.ravel() > 0)
    images = {"counts": _packed(np.where(seen, cutouts.counts.ravel() + 1, 0))}
    if run is not None and _is_measured(run):
        for parts, found in zip((layers, images), _predicted(run.predicted, centers, around)):
            parts |= found
    lon, lat = (float(c.value) for c in geom.center_coord[:2])
    content = {
        "plane": {
            "projection": geom.projection, "lon": lon, "lat": lat, "nx": nx, "ny": ny,
            "step": float(geom.pixel_scales[0].deg), "box": _box(observed.reshape(ny, nx)),
        },
        "icrs": frame_rotation("icrs").tolist(),
        "scales": {
            "probability": 1 / _PROBABILITY_STEPS, "sigma": _SIGMA_STEP,
            "density": [_LEAST_DENSITY, _DENSITY_STEP],
        },
        "layers": layers,
        "cutouts": images,
        "cutout": {"n": _CUTOUT_PIXELS, "half_deg": cutouts.half_deg},
        "colors": {name: _color_table(name) for name in set(_COLOR_MAPS.values())},
        **_sources(catalog),
    }  # fmt: skip
    limits = None if run is None else _limits(run)
    return _page(sky_map, catalog, content, limits).encode()


def render(template, content, **more):
    """Text of a page from one of the templates."""
    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=FileSystemLoader(_PAGES), autoescape=True, **options)
    return environment.get_template(template).render(content, **more)


def _observed(sky_map):
    """Observed directions (n, 3) and their distance in degrees."""
    points, area_deg2 = sky_map.observed_points
    if sky_map.events is None:
        points = sky_map.pixels.centers(np.flatnonzero(~np.isnan(sky_map.planes).all(axis=0)))
        points = points[np.isfinite(points[:, 0])]
    return points, sky_map.pixel_size_deg or np.sqrt(area_deg2.max())


def _geometry(points, spacing_deg, pixel_deg):
    """Pixels of the picture: an image around observed points (n, 3), or the whole sky."""
    mean = points.mean(axis=0)
    axis = mean / max(np.linalg.norm(mean), 1e-9)
    if separation_deg(points, axis).max() > _MAX_FIELD_DEG:
        shape = np.ceil(_SKY_WIDTH_DEG / _SKY_PIXEL_DEG / np.array([1, 2])).astype(int) + 2
        shape = tuple(shape.tolist())
        return WcsGeom.create(npix=shape, binsz=_SKY_PIXEL_DEG, proj="AIT", frame="galactic")
    pixel_deg = np.clip(pixel_deg, *_PIXEL_DEG)
    plane = TangentPlane(*map(float, lonlat_from_vectors(axis)), 1, pixel_deg)
    x, y = plane.pixel_from_vectors(points)
    middle = plane.vectors_from_pixel((x.min() + x.max()) / 2, (y.min() + y.max()) / 2)
    sizes_deg = np.array([np.ptp(x), np.ptp(y)]) * pixel_deg + 2 * spacing_deg
    pixel_deg = max(pixel_deg, sizes_deg.max() / _MAX_PIXELS)
    place = tuple(map(float, lonlat_from_vectors(middle)))
    shape = tuple(np.ceil(sizes_deg / pixel_deg).astype(int).tolist())
    return WcsGeom.create(skydir=place, npix=shape, binsz=pixel_deg, proj="TAN", frame="galactic")


def _box(observed):
    """First and last column, first and last row of the observed pixels (ny, nx)."""
    filled = (np.flatnonzero(observed.any(axis=axis)) for axis in (0, 1))
    return [int(edge) for places in filled for edge in places[[0, -1]]]


def _half_width_deg(sky_map):
    """Half of the width of a cut-out."""
    psf, low = psf_of(sky_map.psf, sky_map.observed_points[0]), sky_map.energy_edges[0]
    radius_deg = psf.containment_radius(0.68, _TYPICAL * low)
    return float(f"{max(_CUTOUT_DEG, _CUTOUT_PSF * radius_deg):.3g}")


class _Cutouts:
    """Images of the counts around sources (n, 3): north (ICRS) is up, east to the left."""

    def __init__(self, vectors, half_deg):
        self.vectors, self.half_deg = vectors, half_deg
        self.pixel_deg = 2 * half_deg / _CUTOUT_PIXELS
        self.axes = tangent_axes(vectors)
        self.counts = np.zeros((len(vectors), _CUTOUT_PIXELS**2), np.int64)

    def add(self, photons):
        """Count photons."""
        nearby, n = SortedPhotons(photons), _CUTOUT_PIXELS
        for image, center, *axes in zip(self.counts, self.vectors, *self.axes):
            rows = nearby.near(center, 1.5 * self.half_deg)
            offsets = tangent_offsets(center, *axes, nearby.photons.vectors[rows])
            x, y = (np.floor(o / self.pixel_deg + n / 2).astype(int) for o in offsets)
            inside = (x >= 0) & (x < n) & (y >= 0) & (y < n)
            image += np.bincount(y[inside] * n + (n - 1 - x[inside]), minlength=n * n)

    def directions(self):
        """Directions (n * n_pixels, 3) of the pixels."""
        steps = (np.arange(_CUTOUT_PIXELS) + 0.5) * self.pixel_deg - self.half_deg
        y, x = (offset.ravel() for offset in np.meshgrid(steps, -steps, indexing="ij"))
        center, east, north = (axis[:, None] for axis in (self.vectors, *self.axes))
        return move(center, east, north, x, y).reshape(-1, 3)


def _predicted(predicted, *places):
    """Yield predicted counts per deg2 and significances of the residual at directions (n, 3)."""
    residual, shape = predicted.total_significance, (len(predicted.radius_deg), -1)
    pixels = pixels_of(residual.geom)
    sums = sum(np.nansum(m.data.reshape(shape), axis=0)
               for m in (predicted.sources, predicted.background))  # fmt: skip
    density = sums / pixels.area_deg2(np.arange(pixels.n_pixels))
    steps = np.log(np.maximum(density / _LEAST_DENSITY, 1)) / _DENSITY_STEP
    sigma = np.clip(residual.data.ravel() / _SIGMA_STEP, -127, 127) + 127
    steps = np.where(np.isfinite(sigma), steps, np.nan)
    values = {"model": steps, "residual": sigma}
    for directions in places:
        index = np.full(len(directions), -1)
        on_sky = np.isfinite(directions[:, 0])
        index[on_sky] = pixels.index(directions[on_sky])
        yield {n: _packed(np.where(index >= 0, v[index] + 1, np.nan)) for n, v in values.items()}


def _packed(values):
    """Whole numbers, rounded, 0 where unknown, as compressed bytes in the smallest type.

    Those of smooth images are smaller as differences between neighbours.
    """
    values = np.rint(np.nan_to_num(values, nan=0.0)).ravel()
    kind = next(k for k in ("u1", "u2", "u4") if values.max(initial=0) <= np.iinfo(k).max)
    values = values.astype(f"<{kind}")
    forms = {"sums": values, "steps": np.diff(values, prepend=values.dtype.type(0))}
    forms = {name: zlib.compress(form.tobytes(), 5) for name, form in forms.items()}
    name = min(forms, key=lambda name: len(forms[name]))
    data = base64.b64encode(forms[name]).decode()
    return {"bits": 8 * int(kind[1]), "steps": name == "steps", "data": data}


def _color_table(name):
    """Colors of a colormap of matplotlib as text: six hexadecimal digits for each of 256."""
    colors = matplotlib.colormaps[name](np.arange(256), bytes=True)
    return colors[:, :3].tobytes().hex()


def _sources(catalog):
    """Columns of the catalogue, those that the package has written or can compute, and words."""
    specs = columns.COLUMNS + columns.MATCH_COLUMNS + columns.LIMIT_COLUMNS
    specs = [s for s in specs + columns.VARIABILITY_COLUMNS if s.name in catalog.colnames]
    values = {spec.name: _column(catalog[spec.name], spec) for spec in specs}
    lon, lat = lonlat_from_vectors(galactic_vectors(catalog))
    values |= {"GLON": np.round(lon, 5).tolist(), "GLAT": np.round(lat, 5).tolist()}
    icrs = catalog["skycoord"].icrs
    values |= {"RAJ2000": np.round(icrs.ra.deg, 5).tolist()}
    values |= {"DEJ2000": np.round(icrs.dec.deg, 5).tolist()}
    return {
        "columns": values,
        "about": {spec.name: [spec.description, spec.unit] for spec in specs},
        "shown_class": source_classes(catalog).tolist(),
        "doubted": np.asarray(columns.is_doubted(catalog)).astype(int).tolist(),
        "flags": [[bit, text] for bit, text in columns.FLAGS.values()],
        "classes": {
            name: [columns.CLASS_WORDS[name], color] for name, color in columns.CLASS_COLORS.items()
        },
        "bands": band_edges(catalog).tolist(),
        "limits": _band_limits(catalog),
    }


def _band_limits(catalog):
    """Upper limits by source on counts and fluxes of the bands without a detection, else null."""
    bands = band_counts(catalog)
    if bands is None:
        return {}
    limit, ts = band_limits(bands)
    limit = np.where(ts < MIN_BAND_TS, limit, np.nan)
    return {"Counts_Band": _short(limit), "Flux_Band": _short(limit * bands["flux"])}


def _column(column, spec):
    """Values of a column for JSON: positions to 1e-5 deg, others to four digits, or null."""
    if spec.dtype.startswith("U"):
        return texts(column).tolist()
    values = numbers(column, spec.unit or None, ndim=2)
    return _short(values, ".5f" if spec.dtype == "f8" else ".4g")


def _short(values, form=".4g"):
    """Numbers (n,) or (n, k) for JSON in a format, null where unknown."""
    if values.ndim == 2:
        return [_short(row, form) for row in values]
    return [float(f"{v:{form}}") if v == v else None for v in values.tolist()]


def _is_measured(run):
    return run.fit_edges is not None and len(run.fit_edges) > 0


def _limits(run):
    """Text and table of the counts and fluxes at which half of the sources are found."""
    heads = ["Galactic latitude", "counts", "flux, ph cm-2 s-1"]
    if run.finder != "unet" or run.purity is not None or not _is_measured(run):
        about = "Limits are known for searches by the network with a threshold and the fit."
        return {"about": about, "heads": heads, "rows": []}
    try:
        sqrt_ts = run.model.half_found(run.threshold)
    except InputError as err:  # the page is written all the same, and shows why they are missing
        return {"about": f"The limits are not known: {err}.", "heads": heads, "rows": []}
    points = run.sky_map.observed_points[0]
    if run.region is not None:
        points = points[run.region.covers(points)]
    rng = np.random.default_rng(run.seed)
    points = points[rng.permutation(len(points))[:_N_LIMITS]]
    counts, flux = detection_limits(
        run.sky_map, points, sqrt_ts, sources=glon_glat_vectors(run.sources),
        energy_range=run.model.energy_range, flux_range=run.model.flux_range,
    )  # fmt: skip
    latitude, rows = np.abs(lonlat_from_vectors(points)[1]), []
    for low, high in zip(_LATITUDES_DEG[:-1], _LATITUDES_DEG[1:]):
        inside = (latitude >= low) & (latitude < high) & np.isfinite(counts)
        if inside.any():
            texts = (_median(values[inside]) for values in (counts, flux))
            rows.append([f"{low:g}\N{EN DASH}{high:g}\N{DEGREE SIGN}", *texts])
    low, high = run.model.flux_range
    about = (
        f"Half of the sources of these counts, or fluxes of {low:g}-{high:g} GeV, are found (an "
        f"expected sqrt(TS) of {sqrt_ts:.2f}): median and central 68 % at {len(points)} positions."
    )
    return {"about": about, "heads": heads, "rows": rows}


def _median(values):
    """Median of numbers and the range of the central 68 % of them as text."""
    if not np.isfinite(values).any():
        return "unknown"
    low, middle, high = np.nanpercentile(values, [16, 50, 84])
    return f"{middle:.3g} ({low:.2g}\N{EN DASH}{high:.2g})"


def _words(comment):
    """Comment of a keyword as a label: the unit last."""
    unit, text = re.fullmatch(r"(\[\w+\] )?(.*)", comment).groups(default="")
    return f"{text[0].upper()}{text[1:]} {unit}".strip()


def _page(sky_map, catalog, content, limits):
    """The page as text."""
    meta = catalog.meta
    title = Path(str(meta.get("INFILE", sky_map.name))).name or "Sources"
    used = {key: (meta[key], _words(about)) for key, about in KEYWORDS.items() if key in meta}
    low, high = sky_map.energy_edges[[0, -1]]
    # no text of a catalogue may end the script that holds the data
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return render("report.html", {
        "title": title, "creator": creator(), "command": used.pop("COMMAND", [""])[0],
        "n_sources": len(catalog), "n_photons": sky_map.n_photons, "low": low, "high": high,
        "used": used, "data": data, "limits": limits,
    })  # fmt: skip
