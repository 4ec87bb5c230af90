"""Source populations by class: fluxes, spectra, positions and sizes, always drawn."""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from astro_unetloc.geometry import vectors_from_lonlat
from astro_unetloc.spectra import Spectra
from astro_unetloc.spectral_shapes import draw_shapes

__all__ = ["CLASSES", "GAUSSIAN_68", "SHAPES", "Sources", "counted_band", "draw_sources"]

# AGN, pulsars, and whatever else shines in the Galaxy: remnants, nebulae, sources without a name.
CLASSES = ("AGN", "PSR", "GAL")
SHAPES = ("point", "disc", "gaussian")
# A Gaussian in two dimensions holds 1 - exp(-k**2 / 2) of it within k standard deviations, so 68 %
# within sqrt(-2 ln 0.32) of them.
GAUSSIAN_68 = 1.5096


@dataclass(frozen=True)
class Sources:
    """n true sources.

    Attributes
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    spectra : Spectra
        Their spectra.
    source_class : ndarray (n,) of int8
        Index into ``CLASSES``.
    shape : ndarray (n,) of int8
        Index into ``SHAPES``.
    size_deg : ndarray (n,)
        Radius of a disc, standard deviation of a Gaussian on each axis; 0 for a point source.
    """

    vectors: np.ndarray
    spectra: Spectra
    source_class: np.ndarray
    shape: np.ndarray
    size_deg: np.ndarray

    def __len__(self):
        return len(self.spectra)

    @cached_property  # asked for once a patch
    def flux(self):
        """Photon flux above 10 GeV in ph cm-2 s-1, shape (n,)."""
        return self.spectra.flux(10.0, 2000.0)

    @cached_property
    def index(self):
        """Photon index above 10 GeV, the mean over the photons, shape (n,)."""
        return self.spectra.mean_index(10.0, 2000.0)

    @cached_property
    def radius_deg(self):
        """Radius of a disc, 68 % radius of a Gaussian, 0 for a point source, shape (n,)."""
        return np.where(self.shape == SHAPES.index("gaussian"), GAUSSIAN_68, 1.0) * self.size_deg

    def select(self, mask):
        """The sources of a mask or index array."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        spectra = parts.pop("spectra").select(mask)
        return Sources(spectra=spectra, **{name: a[mask] for name, a in parts.items()})

    @classmethod
    def concatenate(cls, parts):
        """The sources of several `Sources`, one after the other."""
        names = [f.name for f in fields(cls) if f.name != "spectra"]
        arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
        return cls(spectra=Spectra.concatenate([p.spectra for p in parts]), **arrays)


@dataclass(frozen=True)
class _Counts:
    """Counts distribution: N(>S) falls as ``S**-faint`` below a knee, as ``S**-bright`` above it.

    Attributes
    ----------
    number : float
        Mean number of sources on the sky above ``minimum``.
    minimum, knee, maximum : float
        Photon fluxes in ph cm-2 s-1: the faintest, where the slope changes, and the brightest.
    faint, bright : float
        The slopes.
    """

    number: float
    minimum: float
    knee: float
    faint: float
    bright: float
    maximum: float

    def draw(self, n, rng):
        """Fluxes of n sources."""
        at_knee = (self.minimum / self.knee) ** self.faint
        u = 1 - rng.random(n)  # never zero
        below = self.minimum * np.maximum(u, at_knee) ** (-1 / self.faint)
        above = self.knee * (np.minimum(u, at_knee) / at_knee) ** (-1 / self.bright)
        return np.minimum(np.where(u > at_knee, below, above), self.maximum)


# Counts distributions of each population in the bands in which sources can be counted (GeV),
# down to a tenth of what is detected. Above 10 GeV: 3FHL (arXiv:1702.00664), 682 sources above
# 4e-11 and 245 above 1e-10 ph cm-2 s-1 at |b| > 10 deg, and nearer the plane those of its classes.
# In 1-100 GeV: 4FGL-DR3 (arXiv:2201.11184) and the pulsars in it. "SGU" are its soft Galactic
# unassociated sources, faint ones between 2 and 20 deg from the plane and towards the inner Galaxy.
_COUNTS = {
    (10.0, 2000.0): {
        "AGN": _Counts(12000, 2e-12, 2.5e-11, 0.85, 1.15, 2e-8),
        "PSR": _Counts(312, 2e-12, 3e-10, 0.65, 1.1, 2e-8),
        "MSP": _Counts(170, 2e-12, 1e-10, 0.8, 1.0, 2e-8),
        "GAL": _Counts(223, 2e-12, 1e-9, 0.5, 1.2, 2e-8),
        "EXT": _Counts(40, 1e-10, 1e-9, 0.8, 1.5, 2e-8),
    },
    (1.0, 100.0): {
        "AGN": _Counts(32000, 1.5e-11, 1e-9, 0.95, 1.2, 1.5e-6),
        "PSR": _Counts(1030, 1.5e-11, 3e-9, 0.45, 1.0, 1.5e-6),
        "MSP": _Counts(750, 1.5e-11, 1e-9, 0.5, 1.0, 1.5e-6),
        "GAL": _Counts(610, 1e-10, 2e-9, 0.35, 1.45, 1.5e-6),
        "EXT": _Counts(60, 1e-9, 1e-8, 0.8, 1.5, 1.5e-6),
        "SGU": _Counts(1700, 2e-10, 6e-10, 1.3, 2.5, 2e-8),
    },
}
_CLASS_OF = {
    "AGN": "AGN", "PSR": "PSR", "MSP": "PSR", "GAL": "GAL", "EXT": "GAL", "SGU": "GAL",
}  # fmt: skip
# Complexes along the plane in which half of the other Galactic sources gather, as in spiral arms.
_N_CLUMPS = 60
_CLUMP_DEG = (1.2, 0.25)


def counted_band(energy_range):
    """Band (GeV) in which the sources of a sky of an energy range (GeV) are counted."""
    bands = list(_COUNTS)
    return bands[0] if energy_range[0] >= bands[0][0] else bands[1]


def draw_sources(rng, *, band=(10.0, 2000.0), agn=1.0, pulsars=1.0, galactic=1.0, extended=1.0):
    """A population: AGN all over the sky, pulsars and other sources along the plane.

    Positions, fluxes, spectra and sizes are drawn, never those of real sources. In either band the
    numbers are those of the catalogues: 3FHL above 10 GeV, 4FGL in 1-100 GeV.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    band : pair of float
        Band in GeV in which the sources are counted: (10, 2000) or (1, 100).
    agn, pulsars, galactic, extended : float
        Factors on the mean numbers of AGN, of pulsars (millisecond pulsars included), of other
        point-like and of extended Galactic sources.

    Returns
    -------
    Sources

    Raises
    ------
    ValueError
        If sources are not counted in this band.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_unetloc.population import CLASSES, draw_sources
    >>> sources = draw_sources(np.random.default_rng(0), agn=0, galactic=0, extended=0)
    >>> {CLASSES[i] for i in sources.source_class}
    {'PSR'}
    """
    counts = _COUNTS.get(tuple(band))
    if counts is None:
        known = " or ".join(f"{low:g}-{high:g}" for low, high in _COUNTS)
        raise ValueError(f"band must be {known} GeV; got {band}; choose one of them")
    factors = {"AGN": agn, "PSR": pulsars, "GAL": galactic}
    clumps = _draw_clumps(rng)
    parts = []
    for name, distribution in counts.items():
        factor = extended if name == "EXT" else factors[_CLASS_OF[name]]
        n = rng.poisson(distribution.number * factor)
        shapes = draw_shapes("GAL" if name == "EXT" else name, n, rng, band=band)
        spectra = shapes.scaled(distribution.draw(n, rng), *band)
        kind, size = _draw_extension(n, rng) if name == "EXT" else _points(n)
        vectors = _draw_positions(name, n, rng, clumps)
        class_index = np.full(n, CLASSES.index(_CLASS_OF[name]), dtype=np.int8)
        parts.append(Sources(vectors, spectra, class_index, kind, size))
    return Sources.concatenate(parts)


def _points(n):
    return np.zeros(n, dtype=np.int8), np.zeros(n)


def _draw_extension(n, rng):
    """Shape and size in degrees: discs and Gaussians, as many of each."""
    shape = rng.integers(1, 3, n).astype(np.int8)
    radius = np.clip(rng.lognormal(np.log(0.56), 0.7, n), 0.15, 3.0)
    return shape, np.where(shape == SHAPES.index("gaussian"), radius / GAUSSIAN_68, radius)


def _draw_longitude(n, rng):
    """Galactic longitudes: 60 % in a broad hump around the centre, the others everywhere."""
    hump = rng.random(n) < 0.6
    return np.where(hump, rng.normal(0, 45, n), rng.uniform(-180, 180, n))


def _draw_clumps(rng):
    """Longitudes, latitudes and weights of the complexes of one Galaxy."""
    weight = rng.exponential(size=_N_CLUMPS)
    lat = rng.laplace(0, 0.4, _N_CLUMPS)
    return _draw_longitude(_N_CLUMPS, rng), lat, weight / weight.sum()


def _draw_positions(name, n, rng, clumps):
    """Galactic unit vectors (n, 3) of a population."""
    if name == "AGN":
        vectors = rng.normal(size=(n, 3))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if name == "SGU":
        return vectors_from_lonlat(rng.normal(0, 40, n), np.clip(rng.laplace(0, 4, n), -80, 80))
    lon = _draw_longitude(n, rng)
    if name == "MSP":  # a thick disc seen from inside: half of them beyond 17 deg
        lat = rng.laplace(0, 25, n)
        return vectors_from_lonlat(lon, (lat + 90) % 180 - 90)
    lat = rng.laplace(0, np.where(rng.random(n) < 0.6, 0.5, 3.0))
    if name in ("GAL", "EXT"):
        clumped = rng.random(n) < 0.5
        which = rng.choice(_N_CLUMPS, n, p=clumps[2])
        lon = np.where(clumped, clumps[0][which] + rng.normal(0, _CLUMP_DEG[0], n), lon)
        lat = np.where(clumped, clumps[1][which] + rng.normal(0, _CLUMP_DEG[1], n), lat)
    return vectors_from_lonlat(lon, np.clip(lat, -80, 80))
