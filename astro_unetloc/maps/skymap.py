"""Pixelizations: which pixel a direction falls in, and points inside a pixel.

Two kinds with the same methods: images with a WCS of any celestial projection, and HEALPix. A
pixel is known by its ``index``, the position in the flat array of one map, and by its ``key``, an
integer that stays the same when the map is cut out of a larger one.
"""

import warnings
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from astro_unetloc.exceptions import InputError
from astro_unetloc.maps.photons import CHUNK_PHOTONS, Photons, place_counts
from astro_unetloc.sphere import frame_rotation, lonlat_from_vectors, vectors_from_lonlat

__all__ = [
    "FRAMES",
    "HealpixPixelization",
    "OnFirstUse",
    "SkyMap",
    "WcsPixelization",
    "celestial_wcs",
    "healpix_frame",
    "healpix_layout",
    "image_pixelization",
    "is_gammapy",
    "rotate",
]


FRAMES = ("galactic", "icrs", "fk5")


# Projections whose pixels repeat after 360 deg of native longitude.
_CYLINDRICAL = ("CAR", "CEA", "MER")


_KEY_STEPS = 1024  # per pixel: cut-outs shift the reference pixel by whole pixels


_MAX_ORDER = 29  # of HEALPix in 64 bits


_MAX_SUBORDER = 20  # sub-pixels are 4**20 per pixel: 0.003 arcsec at nside 64


@dataclass(frozen=True, eq=False)
class WcsPixelization:
    """The pixels of an image; ``index = y * nx + x``.

    Attributes
    ----------
    wcs : astropy.wcs.WCS
        The celestial part, two axes, longitude first.
    shape : tuple of int
        ``(ny, nx)``.
    frame : str
        Frame of the world coordinates, one of `FRAMES`.
    period_pix : float or None
        Pixels in 360 deg of native longitude for cylindrical projections.
    """

    wcs: object
    shape: tuple
    frame: str
    period_pix: float | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self):
        if self.frame not in FRAMES:
            raise InputError(f"frame must be one of {', '.join(FRAMES)}; got {self.frame!r}")
        object.__setattr__(self, "period_pix", _period_pix(self.wcs, self.shape[1]))

    @property
    def n_pixels(self):
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

    @property
    def pixel_size_deg(self):
        """Square root of the solid angle of a pixel at the reference pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.wcs.pixel_scale_matrix))))

    def index(self, vectors):
        """Pixel of each direction (..., 3); -1 outside the image."""
        vectors = np.asarray(vectors, dtype=float)
        lon, lat = lonlat_from_vectors(rotate(vectors, frame_rotation(self.frame).T))
        x, y = self.wcs.wcs_world2pix(lon.ravel(), lat.ravel(), 0)
        ny, nx = self.shape
        if self.period_pix:
            x = (x + 0.5) % self.period_pix - 0.5  # of several repetitions the lowest
            x = np.where(x >= self.period_pix - 0.5, -0.5, x)  # % rounds up to its divisor
        column, row = (np.floor(np.nan_to_num(pixel, nan=-9.0) + 0.5) for pixel in (x, y))
        column = np.where(x == nx - 0.5, nx - 1, column).astype(np.int64)  # the edge belongs to it:
        row = np.where(y == ny - 0.5, ny - 1, row).astype(np.int64)  # a pole may lie there
        inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
        return np.where(inside, row * nx + column, -1).reshape(vectors.shape[:-1])

    def key(self, index):
        """Identity of pixels that survives cutting the image, int64."""
        row, column = np.divmod(np.asarray(index, dtype=np.int64), self.shape[1])
        x_ref, y_ref = np.rint((1 - self.wcs.wcs.crpix) * _KEY_STEPS).astype(np.int64)
        return ((column * _KEY_STEPS + x_ref) << 32) ^ (row * _KEY_STEPS + y_ref)

    def points(self, index, u, v):
        """Unit vectors (n, 3) of points at fractions u, v inside pixels.

        A point beyond the limb of an all-sky projection falls back on a place near the centre of
        its pixel that lies on the sky; it is NaN where the whole pixel is off the sky.
        """
        row, column = np.divmod(np.asarray(index, dtype=np.int64), self.shape[1])
        vectors = self._vectors(column + u - 0.5, row + v - 0.5)
        off = np.isnan(vectors[..., 0])
        if off.any():
            vectors[off] = self._inside(column[off], row[off])
        return vectors

    def centers(self, index):
        """Unit vectors (n, 3) of pixel centres; NaN where a centre is off the sky."""
        row, column = np.divmod(np.asarray(index, dtype=np.int64), self.shape[1])
        return self._vectors(column.astype(float), row.astype(float))

    def off_sky(self, index):
        """Whether pixels lie beyond the limb of the projection, with all of their area."""
        row, column = np.divmod(np.asarray(index, dtype=np.int64), self.shape[1])
        off = np.isnan(self._vectors(column.astype(float), row.astype(float))[:, 0])
        off[off] = np.isnan(self._inside(column[off], row[off])[:, 0])
        return off

    def _inside(self, column, row):
        """Of 25 places in each pixel the one nearest to its centre on the sky; NaN if none is."""
        steps = np.linspace(-0.49, 0.49, 5)
        dx, dy = (step.ravel() for step in np.meshgrid(steps, steps))
        order = np.argsort(np.hypot(dx, dy), kind="stable")
        vectors = self._vectors(column[:, None] + dx[order], row[:, None] + dy[order])
        first = np.argmax(~np.isnan(vectors[..., 0]), axis=1)
        return vectors[np.arange(len(vectors)), first]

    def _vectors(self, x, y):
        if self.period_pix:
            offset = x + 1 - self.wcs.wcs.crpix[0]
            x = x - self.period_pix * np.rint(offset / self.period_pix)
        lon, lat = self.wcs.wcs_pix2world(np.ravel(x), np.ravel(y), 0)
        lon, lat = np.reshape(lon, np.shape(x)), np.reshape(lat, np.shape(x))
        return rotate(vectors_from_lonlat(lon, lat), frame_rotation(self.frame))


@dataclass(frozen=True, eq=False)
class HealpixPixelization:
    """HEALPix pixels, the whole sphere or a list of them.

    Attributes
    ----------
    nside : int
        A power of two.
    nest : bool
        Order of the pixel numbers: NESTED or RING.
    frame : str
        One of `FRAMES`.
    pixels : ndarray (n_pixels,) of int64 or None
        Pixel numbers in the order of the map; None is the whole sphere.
    """

    nside: int
    nest: bool
    frame: str
    pixels: np.ndarray | None = None

    def __post_init__(self):
        if self.frame not in FRAMES:
            raise InputError(f"frame must be one of {', '.join(FRAMES)}; got {self.frame!r}")
        nside = int(self.nside)
        if nside < 1 or nside & (nside - 1) or nside > 2**_MAX_ORDER:
            raise InputError(f"HEALPix nside must be a power of two; got {self.nside}")
        if self.pixels is not None:
            pixels = np.asarray(self.pixels, dtype=np.int64)
            if pixels.size and not 0 <= pixels.min() <= pixels.max() < 12 * nside**2:
                raise InputError(
                    f"HEALPix pixel numbers must lie in 0..{12 * nside**2 - 1} at nside {nside}; "
                    f"got {pixels.min()}..{pixels.max()}"
                )
            if len(np.unique(pixels)) != len(pixels):
                raise InputError("HEALPix pixel numbers must be unique; some stand there twice")
            object.__setattr__(self, "pixels", pixels)

    @property
    def n_pixels(self):
        """Number of pixels of the map."""
        return 12 * self.nside**2 if self.pixels is None else len(self.pixels)

    @property
    def pixel_size_deg(self):
        """Square root of the solid angle of a pixel."""
        return float(np.degrees(np.sqrt(np.pi / 3) / self.nside))

    def index(self, vectors):
        """Pixel of each direction (..., 3); -1 where the map has no pixel."""
        import healpy

        vectors = rotate(np.asarray(vectors, dtype=float), frame_rotation(self.frame).T)
        number = healpy.vec2pix(self.nside, *np.moveaxis(vectors, -1, 0), nest=self.nest)
        number = np.asarray(number, dtype=np.int64)
        if self.pixels is None:
            return number
        if not len(self.pixels):
            return np.full_like(number, -1)
        order, ordered = self._ordered
        place = np.minimum(np.searchsorted(ordered, number), len(order) - 1)
        return np.where(ordered[place] == number, order[place], -1)

    @cached_property
    def _ordered(self):
        order = np.argsort(self.pixels)
        return order, self.pixels[order]

    def key(self, index):
        """Identity of pixels whatever the order and the coverage of the map, int64."""
        return self._nested(index) + 12 * self.nside**2  # unlike for every nside

    def off_sky(self, index):
        """Whether pixels lie off the sky: none does."""
        return np.zeros(np.shape(index), dtype=bool)

    def points(self, index, u, v):
        """Unit vectors (n, 3) of points inside pixels.

        ``u`` alone chooses one of 4**20 nested sub-pixels, which are equal in area; ``v`` is taken
        so that all pixelizations are called alike.
        """
        import healpy

        suborder = min(_MAX_SUBORDER, _MAX_ORDER - int(self.nside).bit_length() + 1)
        inside = (np.asarray(u) * 4.0**suborder).astype(np.int64)
        number = (self._nested(index) << (2 * suborder)) + inside
        vectors = healpy.pix2vec(self.nside << suborder, number, nest=True)
        return rotate(np.stack(vectors, axis=-1), frame_rotation(self.frame))

    def centers(self, index):
        """Unit vectors (n, 3) of pixel centres."""
        import healpy

        vectors = healpy.pix2vec(self.nside, self._numbers(index), nest=self.nest)
        return rotate(np.stack(vectors, axis=-1), frame_rotation(self.frame))

    def _numbers(self, index):
        index = np.asarray(index, dtype=np.int64)
        return index if self.pixels is None else self.pixels[index]

    def _nested(self, index):
        import healpy

        number = self._numbers(index)
        return number if self.nest else healpy.ring2nest(self.nside, number)


def rotate(vectors, matrix):
    """Vectors (..., 3) in other axes, ``vectors @ matrix.T`` without BLAS.

    Millions of rows of three: the threads of BLAS took 0.6 s for 2 million on a busy machine where
    this takes 0.05 s, and their last bit depends on the number of rows.
    """
    if np.array_equal(matrix, np.eye(3)):
        return vectors
    x, y, z = np.moveaxis(vectors, -1, 0)
    rotated = np.empty(vectors.shape)
    for axis, row in enumerate(matrix):
        rotated[..., axis] = row[0] * x + row[1] * y + row[2] * z
    return rotated


def _period_pix(wcs, n_columns):
    """Pixels in 360 deg of native longitude for cylindrical projections, else None."""
    if wcs.wcs.ctype[0][-3:] not in _CYLINDRICAL:
        return None
    scale = wcs.pixel_scale_matrix
    if scale[0, 1] or scale[1, 0]:  # rotated images do not repeat along x
        return None
    period = 360.0 / abs(scale[0, 0])
    return float(n_columns) if abs(period - n_columns) < 1e-3 else period


def is_gammapy(value, *names):
    """Whether value is a gammapy object, of one of these classes if any are named."""
    return any(
        base.__module__.startswith("gammapy.") and (not names or base.__name__ in names)
        for base in type(value).__mro__
    )


_FRAMES = {"G": "galactic", "GAL": "galactic", "GALACTIC": "galactic"} | dict.fromkeys(
    ("C", "CEL", "EQU", "EQ", "ICRS", "J2000", "CELESTIAL", "EQUATORIAL"), "icrs"
)


def healpix_layout(header, n_values, numbers=None):
    """Resolution, order and pixel numbers of a HEALPix table.

    Parameters
    ----------
    header : mapping
        Header of the table.
    n_values : int
        Values of one column.
    numbers : ndarray (n_values,) of int or None
        Explicit pixel numbers.

    Returns
    -------
    nside : int
    nest : bool
    numbers : ndarray (n_values,) or None
        None is the whole sphere.
    """
    order = str(header.get("ORDERING", "")).strip().upper()
    if order not in ("RING", "NESTED", "NEST"):
        raise InputError(
            f"ORDERING of a HEALPix map must be RING or NESTED; got {order or 'nothing'!r}; "
            "add the keyword"
        )
    nside = int(header.get("NSIDE", 0)) or int(np.sqrt(n_values / 12))
    n_sphere = 12 * nside**2
    if numbers is None and n_values != n_sphere:
        first, last = int(header.get("FIRSTPIX", 0)), int(header.get("LASTPIX", -1))
        if last - first + 1 != n_values:
            raise InputError(
                f"{n_sphere} pixels (nside {nside}), a column PIX, or FIRSTPIX and LASTPIX that "
                f"fit were expected; got {n_values} pixels; complete the HEALPix table"
            )
        numbers = np.arange(first, last + 1)
    elif numbers is not None and str(header.get("INDXSCHM", "")).strip().upper() == "LOCAL":
        raise InputError("HEALPix pixel numbers must be global; got INDXSCHM LOCAL; rewrite it")
    return nside, order != "RING", numbers


def healpix_frame(header):
    """Frame that COORDSYS states, or None if it is absent."""
    name = str(header.get("COORDSYS", "")).strip().upper()
    if name and name not in _FRAMES:
        raise InputError(
            f"COORDSYS of a HEALPix map must be GAL or EQU (or G, C, CEL, ICRS); got {name!r}; "
            "rotate the map or correct the keyword"
        )
    return _FRAMES.get(name)


class OnFirstUse:
    """A field that may be given as a `functools.partial`, called when the field is first read."""

    def __set_name__(self, owner, name):
        self.name = f"_{name}"

    def __get__(self, instance, owner=None):
        if instance is None:
            return None  # the default of the field
        value = instance.__dict__[self.name]
        if isinstance(value, partial):
            value = instance.__dict__[self.name] = value()
        return value

    def __set__(self, instance, value):
        instance.__dict__[self.name] = value


@dataclass(frozen=True, eq=False)
class SkyMap:
    """Counts on the sky, as pixels or as events.

    Attributes
    ----------
    counts : ndarray (n_energy, n_pixels) or None
        Whole counts, NaN where not observed; None for events.
    pixels : WcsPixelization, HealpixPixelization or None
        Where the pixels lie; None for events.
    events : Photons or None
        The photons of an event list; None for pixels.
    footprint : DiscFootprint, MaskFootprint or None
        The part of the sky that events cover.
    energy_edges : ndarray (n_energy + 1,)
        Edges of the energy bins in GeV; for events the two ends of their range.
    energy_assumed : bool
        Whether the energy range is a guess because nothing stated it.
    exposure, background, psf : gammapy object or None
        What goes with the map, for measurement; files are read on first use.
    name : str
        Name of the file or object.
    checksum : str
        sha256 of the file, or "".
    header : dict
        DSS cuts, telescope and dates of the input.
    """

    counts: np.ndarray | None = None
    pixels: object = None
    events: Photons | None = None
    footprint: object = None
    energy_edges: np.ndarray | None = None
    energy_assumed: bool = False
    exposure: object = OnFirstUse()
    background: object = OnFirstUse()
    psf: object = OnFirstUse()
    name: str = ""
    checksum: str = ""
    header: dict = field(default_factory=dict)

    def __post_init__(self):
        if (self.counts is None) == (self.events is None):
            raise InputError("a SkyMap must have either counts or events; got both or neither")

    @property
    def n_photons(self):
        """Number of photons."""
        if self.events is not None:
            return len(self.events)
        return int(np.nansum(self.counts, dtype=np.float64))

    @property
    def pixel_size_deg(self):
        """Square root of the solid angle of a pixel; 0 for events."""
        return 0.0 if self.pixels is None else self.pixels.pixel_size_deg

    def photons(self, seed, max_photons=CHUNK_PHOTONS):
        """Iterate over all photons, in chunks of at most ``max_photons``.

        Counts are placed at random inside their pixel and bin (`place_counts`); events keep their
        positions and energies.
        """
        if self.events is None:
            yield from place_counts(
                self.pixels, self.counts, self.energy_edges, seed=seed, max_photons=max_photons
            )
            return
        for start in range(0, len(self.events), max_photons):
            yield self.events.select(slice(start, start + max_photons))

    def covers(self, vectors):
        """Whether directions (..., 3), Galactic unit vectors, were observed in any energy bin."""
        if self.events is not None:
            return self.footprint.covers(vectors)
        index = self.pixels.index(vectors)
        return (index >= 0) & self._observed[index]

    @cached_property
    def _observed(self):
        observed = np.zeros(self.pixels.n_pixels, dtype=bool)
        for plane in self.counts:  # one plane at a time: cubes are large
            observed |= ~np.isnan(plane)
        return observed


def image_pixelization(wcs, shape):
    """The pixels of an image from a WCS with celestial axes, longitude first."""
    kinds = [axis.split("-")[0].strip() for axis in wcs.wcs.ctype]
    if kinds == ["GLON", "GLAT"]:
        return WcsPixelization(wcs, shape, "galactic")
    if kinds == ["RA", "DEC"]:
        return WcsPixelization(wcs, shape, _equatorial_frame(wcs))
    raise InputError(
        f"the first two axes must be GLON, GLAT or RA, DEC in this order; got "
        f"{', '.join(kind or 'nothing' for kind in kinds)}; reproject or transpose the map"
    )


def celestial_wcs(header):
    """The two celestial axes of a header as an `astropy.wcs.WCS`."""
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates and old keywords, which do not matter here
        try:
            wcs = WCS(header, naxis=2)
        except Exception as err:  # wcslib raises its own kinds
            raise InputError(f"the WCS of the image cannot be used: {_one_line(err)}") from err
    if not wcs.has_celestial:
        axes = ", ".join(f"{axis!r}" for axis in wcs.wcs.ctype)
        raise InputError(
            f"an image with sky coordinates (CTYPE1 such as GLON-CAR) was expected; got the axes "
            f"{axes}; add the WCS keywords"
        )
    return wcs


def _equatorial_frame(wcs):
    system, equinox = wcs.wcs.radesys.strip().upper(), wcs.wcs.equinox
    if not system:
        system = "ICRS" if np.isnan(equinox) else "FK5"
    if system == "ICRS":
        return "icrs"
    if system == "FK5" and (np.isnan(equinox) or equinox == 2000):
        return "fk5"
    raise InputError(
        f"equatorial coordinates must be ICRS or FK5 J2000; got {system} {equinox:g}; reproject"
    )


def _one_line(err):
    return " ".join(str(err).split())
