"""Event lists (FT1 and similar tables) and the part of the sky that they cover."""

import re
from dataclasses import dataclass

import healpy
import numpy as np
from scipy.spatial import KDTree

from astro_unetloc.cubes import energy_column
from astro_unetloc.exceptions import InputError
from astro_unetloc.maps.photons import Photons
from astro_unetloc.sphere import (
    SKY_DEG2,
    chord,
    frame_rotation,
    rotate,
    separation_deg,
    vectors_from_lonlat,
)

_CIRCLE = re.compile(r"CIRCLE\s*\(\s*([^,]+),([^,]+),([^)]+)\)", re.IGNORECASE)

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


@dataclass(frozen=True, eq=False)
class MaskFootprint:
    """A part of the sky in HEALPix pixels: ``mask`` (n_pixels,) of bool, NESTED, Galactic."""

    nside: int
    mask: np.ndarray

    def covers(self, vectors):
        """Whether directions (..., 3) lie in a covered pixel."""
        return self.mask[_pixel(self.nside, vectors)]


def read_events(hdu):
    """`Photons` of an event list, and the `DiscFootprint` of its DSS keyword CIRCLE, or None."""
    names = {name.upper(): name for name in hdu.columns.names}
    kinds = (("RA", "DEC", "icrs"), ("L", "B", "galactic"), ("GLON", "GLAT", "galactic"))
    found = [kind for kind in kinds if set(kind[:2]) <= set(names)]
    if not found or "ENERGY" not in names:
        columns = ", ".join(hdu.columns.names)
        raise InputError(f"events must have ENERGY, RA and DEC; got {columns}; give an FT1 file")
    lon_name, lat_name, frame = found[0]
    lon, lat = (hdu.data[names[name]].astype(float) for name in (lon_name, lat_name))
    energy = energy_column(hdu, names["ENERGY"])
    good = np.isfinite(lon) & np.isfinite(lat) & np.isfinite(energy)
    if not good.all():
        raise InputError(
            f"events must have finite positions and energies; got {np.sum(~good)} events without"
        )
    if np.any(energy <= 0):
        raise InputError(f"energies must be positive; got {energy.min():g} GeV; check the events")
    vectors = rotate(vectors_from_lonlat(lon, lat), frame_rotation(frame))
    return Photons(vectors, energy), _stated_disc(hdu.header)


def _stated_disc(header):
    """Disc of the first DSS keyword with a CIRCLE, or None."""
    for key in header:
        cut = _CIRCLE.search(str(header[key])) if key.startswith("DSVAL") else None
        kind = str(header.get(f"DSTYP{key[5:]}", "")).replace(" ", "").upper()
        if cut and kind.startswith("POS(RA,DEC"):
            try:
                ra, dec, radius = map(float, cut.groups())
            except ValueError as err:
                raise InputError(
                    f"{key} must be CIRCLE(ra,dec,radius) in degrees; got {header[key]!r}"
                ) from err
            return DiscFootprint(vectors_from_lonlat(ra, dec) @ frame_rotation("icrs").T, radius)
    return None


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
    centers = np.stack(healpy.pix2vec(nside, grid, nest=True), axis=-1)
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
    centers = np.stack(healpy.pix2vec(2**coarse, np.arange(12 * 4**coarse), nest=True), axis=-1)
    parents = _degrade(occupied, coarse) > 0
    reach_deg = margin_deg + 2 * np.degrees(healpy.max_pixrad(2**coarse))
    near = np.flatnonzero(_within(centers, centers[parents], reach_deg))
    n_children = 4 ** (order - coarse)
    return (near[:, None] * n_children + np.arange(n_children)).ravel()


def _within(vectors, others, radius_deg):
    """Whether any of the other directions lies within a radius of each direction."""
    if not len(others) or not len(vectors):
        return np.zeros(len(vectors), dtype=bool)
    tree = KDTree(others, compact_nodes=False, balanced_tree=False)
    nearest, _ = tree.query(vectors, distance_upper_bound=chord(radius_deg), workers=-1)
    return np.isfinite(nearest)
