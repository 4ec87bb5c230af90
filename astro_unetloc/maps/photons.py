"""Photons: event lists with the sky that they cover, and the counts of maps placed in their pixels.

Each count of a map is placed once at a random point inside its pixel. The random stream is counter
based: the random numbers of a photon depend only on the seed, on the identity of its pixel and
energy bin, and on its number inside the bin. A cut-out and the whole sky therefore place the same
photon at the same point, whatever the order and the chunks.
"""

import re
from dataclasses import dataclass, replace

import astropy.units as u
import healpy
import numpy as np

from astro_unetloc.cubes import energy_column, values_of
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.executors import usable_cores
from astro_unetloc.files import find_hdu
from astro_unetloc.irf.spectra import draw_energy
from astro_unetloc.maps.selection import (
    common_range,
    dss_cuts,
    header_range_gev,
    warn_of_no_unit,
)
from astro_unetloc.sphere import (
    SKY_DEG2,
    chord,
    frame_rotation,
    healpix_centers,
    quick_tree,
    rotate,
    separation_deg,
    vectors_from_lonlat,
)

CHUNK_PHOTONS = 2_000_000  # photons in memory at once when a map is placed
COUNT_TOLERANCE = 0.01  # a pixel value this close to an integer is a count
_MAX_COUNT = 1e7  # all photons of the LAT above 100 MeV are about 1e9
DEFAULT_SEED = 0

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Photons:
    """A list of n photons."""

    vectors: np.ndarray  # (n, 3) Galactic unit vectors
    energy: np.ndarray  # (n,) in GeV
    time: np.ndarray | None = None  # (n,) in seconds as in the event list, where it is wanted

    def __len__(self):
        return len(self.energy)

    def select(self, mask):
        """The photons of a mask or an index array."""
        time = None if self.time is None else self.time[mask]
        return Photons(self.vectors[mask], self.energy[mask], time)

    @classmethod
    def concatenate(cls, parts):
        """The photons of several lists."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((part.vectors, part.energy, part.time) for part in parts))
        return cls(*(None if column[0] is None else np.concatenate(column) for column in columns))


def _mix(x):
    """Finalizer of SplitMix64 (Steele et al. 2014, doi:10.1145/2714064.2660195, figure 17)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _combine(state, value):
    return _mix((state ^ np.asarray(value).astype(np.uint64)) + _GOLDEN)


def hash_uniform(seed, *keys, n_draws):
    """Uniform random numbers in [0, 1) that depend on the seed and integer keys alone.

    A list of ``n_draws`` arrays (n,); the keys, integers or arrays (n,), identify the elements.
    """
    state = _mix(np.atleast_1d(np.uint64(seed)) + _GOLDEN)
    for key in keys:
        state = _combine(state, np.asarray(key, dtype=np.int64))
    return [(_combine(state, i) >> np.uint64(11)) * 2.0**-53 for i in range(1, n_draws + 1)]


def _energy_key(energy_min, energy_max):
    """Integer identity of an energy bin, the same in every map that has this bin."""
    low, high = (int(round(np.log10(energy) * 1e5)) for energy in (energy_min, energy_max))
    return low * 10_000_019 + high


def place_counts(pixels, counts, energy_edges, *, seed, max_photons=CHUNK_PHOTONS):
    """Yield `Photons`, at most ``max_photons`` at once, of whole counts (n_energy, n_pixels).

    Every count is placed at a random point inside its pixel, with an energy inside its bin; the
    edges are in GeV, and counts may be NaN.
    """
    for energy_min, energy_max, plane in zip(energy_edges[:-1], energy_edges[1:], counts):
        index = np.flatnonzero(plane > 0)  # NaN compares false
        number = np.rint(plane[index]).astype(np.int64)
        last = np.cumsum(number)
        total = int(last[-1]) if len(last) else 0
        for start in range(0, total, max_photons):
            stop = min(start + max_photons, total)
            rows = slice(*np.searchsorted(last, [start, stop - 1], side="right") + [0, 1])
            before = last[rows] - number[rows]  # photons before each pixel
            taken = np.minimum(last[rows], stop) - np.maximum(before, start)
            order = np.arange(start, stop) - np.repeat(before, taken)
            pixel = np.repeat(index[rows], taken)
            key = np.repeat(pixels.key(index[rows]), taken)
            u, v, w = hash_uniform(seed, key, _energy_key(energy_min, energy_max), order, n_draws=3)
            yield Photons(pixels.points(pixel, u, v), draw_energy(w, energy_min, energy_max))


def whole_counts(counts, get_exposure=None):
    """Counts (n_energy, n_pixels) as whole numbers; anything else raises an `InputError`.

    ``counts`` may be a flux in ph cm-2 s-1; ``get_exposure`` returns the exposure in cm2 s or None
    and is called only for these. Integers become int32, others, which may be NaN (not observed),
    float32, both of which are exact.
    """
    counts = np.asarray(counts)
    _check_values(counts)
    if counts.dtype.kind in "iub":
        return counts.astype(np.int32)
    odd, what = _odd_pixels(counts), "counts"
    exposure = get_exposure() if get_exposure and odd.any() else None
    if exposure is not None:
        counts, what = counts * exposure, "flux x exposure"
        _check_values(counts)
        odd = _odd_pixels(counts)
    if odd.any():
        raise InputError(
            f"{what} must be whole numbers (within {COUNT_TOLERANCE}); got {odd.sum()} pixels such "
            f"as {counts[odd][0]:.4g}; give the counts, or a flux map together with its exposure"
        )
    return np.rint(counts).astype(np.float32)


def _check_values(counts):
    """Refuse values that are no counts."""
    if counts.dtype.kind not in "iubf":
        raise InputError(f"counts must be real numbers; got {counts.dtype}; convert the map")
    low, high = (f.reduce(counts, axis=None, initial=0) for f in (np.fmin, np.fmax))
    if counts.size and np.isnan(counts).all():
        raise InputError("counts must not be all NaN (not observed); got no other pixel")
    if np.isinf([low, high]).any():
        n = np.isinf(counts).sum()
        raise InputError(f"counts must be finite or NaN (not observed); got {n} infinite pixels")
    if high > _MAX_COUNT:
        got = f"got {high:.4g}, which no instrument counts; is the map damaged?"
        raise InputError(f"counts must be at most {_MAX_COUNT:g} in a pixel and energy bin; {got}")
    if low < 0:
        got = f"{low:.4g} and {(counts < 0).sum()} negative pixels"
        raise InputError(f"counts must not be negative; got {got}; subtract no background")


def _odd_pixels(counts):
    """Where values are not whole numbers, an array of bool."""
    odd = np.zeros(counts.shape, dtype=bool)
    for row, plane in zip(odd, counts):  # one plane at a time: cubes are large
        row[:] = np.abs(plane - np.rint(plane)) > COUNT_TOLERANCE
    # fluxes are within 0.01 of zero: if all would round to zero, all positive ones are odd
    return odd if any(np.any(plane > 0.5) for plane in counts) else counts > 0


# Event lists and their footprint

# A circle of a header is not used if more than this fraction of photons or of pixels with counts
# lies outside; photons are allowed a margin, the rounding of its numbers.
MAX_OUTSIDE, _CIRCLE_MARGIN_DEG = 0.01, 0.05
_CIRCLE = re.compile(r"CIRCLE\s*\(([^)]*)\)", re.IGNORECASE)

_CELL_PHOTONS = 16  # photons in a cell where the density is measured
_LOW_DENSITY = 0.1  # quantile of the cells: the radius must close the thin parts too
_VOID_MARGIN = 8.0  # the expected number of false holes is about exp(-margin)
_MIN_RADIUS_DEG, _MAX_RADIUS_DEG = 0.4, 20.0
_MIN_ORDER, _MAX_ORDER = 5, 9  # of the HEALPix grid of a footprint
_MAX_GRID = 1_000_000  # pixels of that grid


@dataclass(frozen=True, eq=False)
class DiscFootprint:
    """A cone on the sky around a Galactic unit vector (3,)."""

    center: np.ndarray
    radius_deg: float

    def covers(self, vectors):
        """Whether directions (..., 3) lie inside."""
        return separation_deg(np.asarray(vectors), self.center) <= self.radius_deg

    def grown(self, margin_deg):
        """The footprint with a margin around it."""
        return DiscFootprint(self.center, self.radius_deg + margin_deg)


@dataclass(frozen=True, eq=False)
class MaskFootprint:
    """A part of the sky in HEALPix pixels: ``mask`` (n_pixels,) of bool, NESTED, Galactic."""

    nside: int
    mask: np.ndarray

    def covers(self, vectors):
        """Whether directions (..., 3) lie in a covered pixel."""
        return self.mask[_pixel(self.nside, vectors)]


@dataclass(frozen=True, eq=False)
class CombinedFootprint:
    """What several footprints cover, all of them (``all``) or any of them (``any``)."""

    parts: tuple
    which: str

    def covers(self, vectors):
        """Whether directions (..., 3) lie inside."""
        return getattr(np, self.which)([part.covers(vectors) for part in self.parts], axis=0)

    def grown(self, margin_deg):
        """The footprint with a margin around it."""
        return CombinedFootprint(tuple(p.grown(margin_deg) for p in self.parts), self.which)


@dataclass(frozen=True, eq=False)
class EventList:
    """What one EVENTS table holds and states."""

    name: str
    photons: Photons
    identity: dict  # columns (n,) that tell photons apart
    footprint: object  # stated by the header, or None
    energy_range: tuple | None  # stated by the header, GeV
    good_times: np.ndarray  # (m, 2) start and stop in seconds
    clock: dict  # keywords of the reference of the times


_EVENT_COLUMNS = (("RA", "DEC", "icrs"), ("L", "B", "galactic"), ("GLON", "GLAT", "galactic"))
_IDENTITY = ("RUN_ID", "EVENT_ID", "TIME", "ENERGY")
_CLOCK = ("MJDREFI", "MJDREFF", "MJDREF", "TIMESYS", "TIMEUNIT")


def read_events(hdus, hdu, name):
    """The `EventList` of an HDU of a file."""
    names = {name.upper(): name for name in hdu.columns.names}
    found = [kind for kind in _EVENT_COLUMNS if set(kind[:2]) <= set(names)]
    if not found or "ENERGY" not in names:
        columns = ", ".join(hdu.columns.names)
        raise InputError(f"events must have ENERGY, RA and DEC; got {columns}; give an FT1 file")
    columns = [names[column] for column in found[0][:2]]
    keys = [key for key in _IDENTITY if key in names]
    identity = {key: values_of(hdu, names[key]) for key in keys}
    lon, lat = (_angle_deg(values_of(hdu, c), hdu.columns[c].unit, c) for c in columns)
    warn_of_no_unit(hdu.columns[names["ENERGY"]].unit, "energies of events")
    energy = energy_column(hdu, names["ENERGY"])
    if any(values.ndim > 1 for values in (lon, lat, *identity.values())):
        raise InputError(f"one number a row was expected in {', '.join([*columns, *keys])}")
    n_bad = np.count_nonzero(~(np.isfinite(energy) & (np.abs(lon) <= 360) & (np.abs(lat) <= 90)))
    if n_bad:
        raise InputError(f"events must have finite positions and energies; got {n_bad} without")
    if np.any(energy <= 0):
        raise InputError(f"energies must be positive; got {energy.min():g} GeV; check the events")
    vectors = rotate(vectors_from_lonlat(lon, lat), frame_rotation(found[0][2]))
    identity |= {"x": vectors[:, 0], "y": vectors[:, 1]}
    headers = (hdu.header, hdus[0].header)
    clock = {key: hdu.header[key] for key in _CLOCK if key in hdu.header}
    stated = [
        next(filter(None, map(f, headers)), None) for f in (stated_footprint, header_range_gev)
    ]
    photons = Photons(vectors, energy)
    return EventList(name, photons, identity, *stated, good_times_of(hdus), clock)


def good_times_of(hdus):
    """Start and stop (m, 2) in seconds of the good time intervals of an open file, in order."""
    times = find_hdu(hdus, "GTI")
    if not {"START", "STOP"} <= set(getattr(getattr(times, "columns", None), "names", ())):
        return np.zeros((0, 2))
    intervals = np.column_stack([values_of(times, key) for key in ("START", "STOP")]).astype(float)
    intervals = intervals[np.isfinite(intervals).all(axis=1)]
    return intervals[np.argsort(intervals[:, 0], kind="stable")]


def _angle_deg(values, unit, what):
    """Angles of a stated unit in degrees as float64; without a unit they are in degrees."""
    text = str(unit or "deg").strip()
    try:
        unit = "deg" if text.lower().startswith("deg") else text
        return values.astype(float) * u.Unit(unit).to("deg")
    except (ValueError, u.UnitConversionError) as err:
        raise InputError(f"{what} must be in deg, rad or hourangle; got {unit!r}") from err


def stated_footprint(header):
    """The sky inside all DSS cuts with a CIRCLE, or None."""
    discs = []
    for key, value, unit in dss_cuts(header, r"POS\(\w+,\w+\)"):
        cut, kind = _CIRCLE.search(value), str(header[f"DSTYP{key[5:]}"]).upper()
        if not cut:
            continue
        try:
            lon, lat, radius = _angle_deg(np.array(cut[1].split(","), float), unit, key)
            if not (abs(lon) <= 360 and abs(lat) <= 90 and 0 < radius):
                raise ValueError("no place on the sky")
        except ValueError as err:
            wanted = "CIRCLE(ra,dec,radius) in degrees"
            raise InputError(f"{key} must be {wanted}; got {header[key]!r}") from err
        frame = "icrs" if "RA" in kind else "galactic"
        vector = rotate(vectors_from_lonlat(lon, lat), frame_rotation(frame))
        discs.append(DiscFootprint(vector, float(radius)))
    return _combined(discs, "all") if discs else None


def _combined(footprints, which):
    """What all or any of several footprints cover, without discs that change nothing."""
    discs, kept = [part for part in footprints if isinstance(part, DiscFootprint)], []
    for disc in sorted(discs, key=lambda disc: disc.radius_deg, reverse=which == "any"):
        pairs = ((disc, other) if which == "all" else (other, disc) for other in kept)
        if not any(_holds(*pair) for pair in pairs):
            kept.append(disc)
    kept += [part for part in footprints if not isinstance(part, DiscFootprint)]
    return kept[0] if len(kept) == 1 else CombinedFootprint(tuple(kept), which)


def _holds(outer, inner):
    """Whether a disc holds another one."""
    apart = separation_deg(outer.center, inner.center)
    return apart + inner.radius_deg <= outer.radius_deg + 1e-6


def join_events(lists, *, with_times=False):
    """Photons, footprint, energy range and good times of several event lists together.

    A photon that stands in them twice is counted once. ``with_times`` the photons keep theirs.
    """
    photons = Photons.concatenate([part.photons for part in lists])
    if with_times:
        missing = [part.name for part in lists if "TIME" not in part.identity]
        if missing:
            raise InputError(f"events with a column TIME were expected; got {missing[0]} without")
        photons = replace(photons, time=np.concatenate([p.identity["TIME"] for p in lists]))
    again = _repeated(lists)
    if again.any():
        warn(f"{again.sum():,} photons stand in the event lists twice; each is counted once", 6)
        photons = photons.select(~again)
    footprint = _common_footprint([part.footprint for part in lists], photons.vectors)
    ranges = {part.energy_range for part in lists} - {None}
    stated = common_range(ranges, "the energies of the event lists") if ranges else None
    outside = stated and (photons.energy < stated[0]) | (photons.energy > stated[1])
    if stated and outside.any():
        found = (
            f"{outside.sum():,} of {len(photons):,} photons lie outside {stated[0]:g}-{stated[1]:g}"
        )
        warn(f"{found} GeV, the energy cut of all event lists, and are left out", 6)
        photons = photons.select(~outside)
    return photons, footprint, stated, _union([part.good_times for part in lists])


def _common_footprint(footprints, vectors):
    """The sky that several lists with photons at vectors (n, 3) cover together."""
    if None in footprints:
        return estimate_footprint(vectors)
    footprint = _combined(footprints, "any")
    n_outside = np.count_nonzero(~footprint.grown(_CIRCLE_MARGIN_DEG).covers(vectors))
    if n_outside <= MAX_OUTSIDE * len(vectors):
        return footprint
    found = f"{n_outside:,} of {len(vectors):,} photons lie outside the circle of the header"
    warn(f"{found}: it is not used, the observed sky is estimated from the photons", 7)
    return estimate_footprint(vectors)


def _repeated(lists):
    """Whether each photon (n,) of several lists stands in them before."""
    names = set.intersection(*(set(part.identity) for part in lists))
    columns = [np.concatenate([part.identity[name] for part in lists]) for name in sorted(names)]
    n, again = len(columns[0]), np.zeros(len(columns[0]), dtype=bool)
    if len(lists) == 1 and ("TIME" not in names or len(np.unique(lists[0].identity["TIME"])) == n):
        return again
    order = np.lexsort(columns)
    same = [column[order][1:] == column[order][:-1] for column in columns]
    again[order[1:]] = np.all(same, axis=0)
    return again


def _union(lists):
    """Intervals (m, 2) in order and without overlaps that several lists of them cover together."""
    intervals = np.concatenate(lists)
    start, stop = intervals[np.argsort(intervals[:, 0])].T
    ended = np.maximum.accumulate(np.append(-np.inf, stop))[:-1]
    joined = np.column_stack([np.maximum(start, ended), stop])
    return joined[joined[:, 0] < joined[:, 1]]


def estimate_footprint(vectors):
    """Footprint of photons (n, 3): the morphological closing of their positions.

    The sky is taken as unobserved inside every disc of a radius r that holds no photon. Among n
    photons of density d, a disc is empty by chance with probability of about
    ``n exp(-pi r**2 d)``, and r makes this small. Straight and convex borders come out sharp; bays
    narrower than the disc are filled.
    """
    vectors = np.asarray(vectors, dtype=float)
    if not len(vectors):
        return MaskFootprint(1, np.zeros(12, dtype=bool))
    finest = _pixel(2**_MAX_ORDER, vectors)
    number = np.bincount(finest, minlength=12 * 4**_MAX_ORDER)
    radius_deg, gap_deg = _closing_radius_deg(number)
    order = _grid_order(number, radius_deg)
    nside, occupied = 2**order, _degrade(number, order) > 0
    grid = _grid_around(order, occupied, 3 * radius_deg)
    centers = healpix_centers(nside, grid, nest=True)
    filled, empty = occupied[grid], ~occupied[grid]
    empty[empty] = ~_within(centers[empty], centers[filled], radius_deg)
    covered = ~empty
    covered[covered] = ~_within(centers[covered], centers[empty], radius_deg - gap_deg)
    mask = occupied  # the pixel of a photon is covered in any case
    mask[grid[covered]] = True
    return MaskFootprint(nside, mask)


def _pixel(nside, vectors):
    x, y, z = np.moveaxis(np.asarray(vectors, dtype=float), -1, 0)
    return np.asarray(healpy.vec2pix(nside, x, y, z, nest=True))


def _degrade(number, order):
    """Photons in the pixels of a coarser NESTED grid."""
    return number.reshape(12 * 4**order, -1).sum(axis=1)


def _closing_radius_deg(number):
    """Radius of the disc that closes the gaps, and the usual gap at a border."""
    for order in range(_MAX_ORDER, -1, -1):
        cells = _degrade(number, order)
        cells = cells[cells > 0]
        if np.median(cells) >= _CELL_PHOTONS:
            break
    density = np.quantile(cells, _LOW_DENSITY) / (SKY_DEG2 / (12 * 4**order))
    radius = np.sqrt((np.log(number.sum()) + _VOID_MARGIN) / (np.pi * density))
    radius = float(np.clip(radius, _MIN_RADIUS_DEG, _MAX_RADIUS_DEG))
    # A disc that touches a straight border reaches over it until its cap holds a photon; a cap of
    # height h has the area 4/3 h sqrt(2 r h). Half of this height is given back.
    gap = 0.5 * (0.53 / (density * np.sqrt(radius))) ** (2 / 3)
    return radius, min(gap, 0.15 * radius)


def _grid_order(number, radius_deg):
    """Order of a grid with pixels of a fifth of the radius, of at most about a million pixels."""
    order = int(np.clip(np.ceil(np.log2(58.6 / (radius_deg / 5))), _MIN_ORDER, _MAX_ORDER))
    part = np.mean(_degrade(number, 3) > 0)
    while order > _MIN_ORDER and part * 12 * 4**order > _MAX_GRID:
        order -= 1
    return order


def _grid_around(order, occupied, margin_deg):
    """Pixels of the grid within a margin of the occupied ones, and some more."""
    coarse = int(np.clip(np.log2(58.6 / margin_deg) + 1, 0, order))
    centers = healpix_centers(2**coarse, np.arange(12 * 4**coarse), nest=True)
    parents = _degrade(occupied, coarse) > 0
    reach_deg = margin_deg + 2 * np.degrees(healpy.max_pixrad(2**coarse))
    near = np.flatnonzero(_within(centers, centers[parents], reach_deg))
    n_children = 4 ** (order - coarse)
    return (near[:, None] * n_children + np.arange(n_children)).ravel()


def _within(vectors, others, radius_deg):
    """Whether any of the other directions lies within a radius of each direction."""
    if not len(others) or not len(vectors):
        return np.zeros(len(vectors), dtype=bool)
    tree = quick_tree(others)
    options = {"distance_upper_bound": chord(radius_deg), "workers": usable_cores()}
    nearest, _ = tree.query(vectors, **options)
    return np.isfinite(nearest)
