"""Source populations: fluxes, spectra, positions and sizes of true sources, always drawn.

The spectral parameters are normal in transformed variables, so that index, curvature and pivot keep
the correlations of 4FGL sources, no file is needed and no real source is reproduced. Photons above
a higher energy select harder spectra; a shape is therefore kept with a probability that follows the
fraction of its flux in the band in which sources are counted.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from astro_unetloc.catalog import columns
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.spectra import KINDS, Spectra
from astro_unetloc.sphere import vectors_from_lonlat

# AGN, pulsars, and other sources of the Galaxy: supernova remnants, nebulae, unassociated sources.
CLASSES = tuple(name.upper() for name in columns.CLASSES)
SHAPES = ("point", "disc", "gaussian")

# A Gaussian in two dimensions holds 1 - exp(-k**2 / 2) of its flux within k standard deviations,
# and so 68 % within sqrt(-2 ln 0.32) of them.
_GAUSSIAN_68 = 1.5096

# Mean and covariance of (index, ln beta or ln a, ln(pivot / GeV)), a in GeV**-b: those of the 4FGL
# sources in the tables that tests/simulation/test_population.py reads and fits again. AGN: 416
# with a flux of more than 1.2e-9 ph cm-2 s-1 in 1-100 GeV and beta > 0.01; fainter ones have
# the same indices, but betas that are mostly noise. Pulsars: 135 within 10 deg of the plane and
# 89 ("MSP", most of them millisecond pulsars) beyond, all with a cut-off.
_NORMAL = {
    "AGN": (
        (2.117, -2.506, 0.034),
        ((0.0655, 0.0571, -0.0854), (0.0571, 0.3256, -0.0769), (-0.0854, -0.0769, 0.3244)),
    ),
    "PSR": (
        (1.094, 0.092, 0.597),
        ((0.2471, -0.1685, -0.0282), (-0.1685, 0.2145, -0.0693), (-0.0282, -0.0693, 0.1569)),
    ),
    "MSP": (
        (0.768, 0.237, 0.286),
        ((0.252, -0.1982, -0.0503), (-0.1982, 0.2228, -0.0217), (-0.0503, -0.0217, 0.1025)),
    ),
    # Supernova remnants, wind nebulae and sources without a name: by hand, so that indices near
    # the plane are those of 4FGL-DR3 in 1-100 GeV and of 3FHL above 10 GeV (tested).
    "GAL": ((2.45, -2.8, 0.9), ((0.14, 0.0, 0.0), (0.0, 0.8, 0.0), (0.0, 0.0, 0.16))),
    "SGU": ((2.6, -2.8, 0.9), ((0.05, 0.0, 0.0), (0.0, 0.8, 0.0), (0.0, 0.0, 0.16))),
}

_CUT_OFF = ("PSR", "MSP")
_EXP_INDEX = 2 / 3  # of nearly all 4FGL pulsars
# Less curvature than this is not detected even in the brightest AGN: such spectra are power laws.
_MIN_BETA = 0.03
_MAX_BETA = 1.0  # as in 4FGL
# No AGN of 3FHL is clearly harder.
_MIN_INDEX = 1.4

# Band in GeV whose flux limit selected the sources behind the distributions.
_SELECTED_IN = (1.0, 100.0)
# If N(>S) ~ S**-slope in 1-100 GeV, the sources of one flux in another band have shapes in
# proportion to this power of the ratio of the fluxes in both bands. Slopes are 0.9 to 1.2.
_SLOPE = 1.0
# Larger ratios (one or two shapes in a thousand above 10 GeV) are treated as these.
_MAX_RATIO = {"AGN": 0.4, "PSR": 0.07, "MSP": 0.06, "GAL": 0.4}

# Complexes along the plane in which half of the other Galactic sources gather, as in spiral arms,
# and their standard deviations in longitude and latitude.
_N_CLUMPS = 60
_CLUMP_DEG = (1.2, 0.25)


def draw_shapes(population, n, rng, *, band=_SELECTED_IN):
    """Spectra of unit amplitude of n sources that are counted by their photon flux in a band (GeV).

    ``population`` is "AGN", "PSR" (pulsars along the plane), "MSP" (millisecond pulsars), "GAL"
    (others in the Galaxy) or "SGU" (faint soft unassociated sources, counted in 1-100 GeV only).
    """
    if tuple(band) == _SELECTED_IN or n == 0:
        return _draw_unselected(population, n, rng)
    parts, missing = [], n
    while missing > 0:
        shapes = _draw_unselected(population, max(4 * missing, 256), rng)
        ratio = shapes.flux(*band) / shapes.flux(*_SELECTED_IN)
        kept = rng.random(len(shapes)) < (ratio / _MAX_RATIO[population]) ** _SLOPE
        parts.append(shapes.select(np.flatnonzero(kept)[:missing]))
        missing -= len(parts[-1])
    return Spectra.concatenate(parts)


def _draw_unselected(population, n, rng):
    """Spectral shapes as they are in 1-100 GeV."""
    index, curve, log_pivot = rng.multivariate_normal(*_NORMAL[population], size=n).T
    ones, zeros = np.ones(n), np.zeros(n)
    pivot, curve = np.exp(log_pivot), np.exp(curve)
    if population in _CUT_OFF:
        kind = np.full(n, KINDS.index("PLSuperExpCutoff2"), dtype=np.int8)
        index = np.maximum(index, 0.0)
        return Spectra(kind, ones, pivot, index, zeros, curve, np.full(n, _EXP_INDEX))
    beta = np.where(curve < _MIN_BETA, 0.0, np.minimum(curve, _MAX_BETA))
    kind = np.where(beta > 0, KINDS.index("LogParabola"), KINDS.index("PowerLaw")).astype(np.int8)
    return Spectra(kind, ones, pivot, np.maximum(index, _MIN_INDEX), beta, zeros, ones)


@dataclass(frozen=True)
class Sources:
    """True sources, n of them."""

    vectors: np.ndarray  # (n, 3), Galactic unit vectors
    spectra: Spectra
    source_class: np.ndarray  # (n,) of int8, index into CLASSES
    shape: np.ndarray  # (n,) of int8, index into SHAPES
    size_deg: np.ndarray  # (n,): radius of a disc, sigma of a Gaussian, 0 for a point source

    def __len__(self):
        return len(self.spectra)

    def __repr__(self):
        return f"<{len(self)} sources, {np.sum(self.size_deg > 0)} of them extended>"

    @cached_property  # used once for each patch
    def flux(self):
        """Photon flux above 10 GeV in ph cm-2 s-1, shape (n,)."""
        return self.spectra.flux(10.0, 2000.0)

    @cached_property
    def index(self):
        """Photon index averaged over the photons above 10 GeV, shape (n,)."""
        return self.spectra.mean_index(10.0, 2000.0)

    @cached_property
    def radius_deg(self):
        """Radius of a disc, 68 % radius of a Gaussian, 0 for a point source, shape (n,)."""
        return np.where(self.shape == SHAPES.index("gaussian"), _GAUSSIAN_68, 1.0) * self.size_deg

    def select(self, mask):
        """Sources of a mask or an index array."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        spectra = parts.pop("spectra").select(mask)
        return Sources(spectra=spectra, **{name: a[mask] for name, a in parts.items()})

    @classmethod
    def concatenate(cls, parts):
        """Sources of several `Sources`, in their order."""
        names = [f.name for f in fields(cls) if f.name != "spectra"]
        arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
        return cls(spectra=Spectra.concatenate([p.spectra for p in parts]), **arrays)


@dataclass(frozen=True)
class _Counts:
    """Source counts: N(>S) falls as ``S**-faint`` below and ``S**-bright`` above the knee."""

    number: float  # mean number above `minimum`
    minimum: float  # fluxes are in ph cm-2 s-1
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


# Source counts of each population in the bands (GeV) in which sources can be counted, down to a
# tenth of what is detected. Above 10 GeV: 3FHL (arXiv:1702.00664), 682 sources above
# 4e-11 and 245 above 1e-10 ph cm-2 s-1 at |b| > 10 deg, and nearer the plane those of its classes.
# In 1-100 GeV: 4FGL-DR3 (arXiv:2201.11184) and its pulsars. "SGU" are its soft Galactic
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

_CLASS_OF = {"AGN": "AGN", "PSR": "PSR", "MSP": "PSR"}  # of the others "OTHER"


def counted_band(energy_range):
    """Band (GeV) in which the sources of a sky of an energy range (GeV) are counted."""
    high, low = _COUNTS
    return high if energy_range[0] >= high[0] else low


def draw_sources(rng, *, band=(10.0, 2000.0), agn=1.0, pulsars=1.0, galactic=1.0, extended=1.0):
    """Random `Sources`: AGN all over the sky, pulsars and other sources along the plane.

    Positions, fluxes, spectra and sizes are drawn, never those of real sources. The mean numbers in
    the ``band`` (GeV), (10, 2000) or (1, 100), are those of 3FHL and 4FGL, times the factors on
    AGN, pulsars (millisecond pulsars included), other point-like and extended Galactic sources.
    """
    counts = _COUNTS.get(tuple(band))
    if counts is None:
        known = " or ".join(f"{low:g}-{high:g}" for low, high in _COUNTS)
        raise InputError(f"band must be {known} GeV; got {band}; choose one of them")
    factors = {"AGN": agn, "PSR": pulsars, "MSP": pulsars, "GAL": galactic, "SGU": galactic}
    factors["EXT"] = extended
    weight = rng.exponential(size=_N_CLUMPS)
    clump_lat = rng.laplace(0, 0.4, _N_CLUMPS)
    clumps = _draw_longitude(_N_CLUMPS, rng), clump_lat, weight / weight.sum()
    parts = []
    for name, distribution in counts.items():
        n = rng.poisson(distribution.number * factors[name])
        shapes = draw_shapes("GAL" if name == "EXT" else name, n, rng, band=band)
        spectra = shapes.scaled(distribution.draw(n, rng), *band)
        shape, size = np.zeros(n, dtype=np.int8), np.zeros(n)
        if name == "EXT":  # as many discs as Gaussians
            shape = rng.integers(1, 3, n).astype(np.int8)
            radius = np.clip(rng.lognormal(np.log(0.56), 0.7, n), 0.15, 3.0)
            size = radius / np.where(shape == SHAPES.index("gaussian"), _GAUSSIAN_68, 1.0)
        vectors = _draw_positions(name, n, rng, clumps)
        class_index = np.full(n, CLASSES.index(_CLASS_OF.get(name, "OTHER")), dtype=np.int8)
        parts.append(Sources(vectors, spectra, class_index, shape, size))
    return Sources.concatenate(parts)


def _draw_longitude(n, rng):
    """Galactic longitudes: 60 % in a broad hump around the centre, the others uniform."""
    hump = rng.random(n) < 0.6
    return np.where(hump, rng.normal(0, 45, n), rng.uniform(-180, 180, n))


def _draw_positions(name, n, rng, clumps):
    """Galactic unit vectors (n, 3) of a population."""
    if name == "AGN":
        vectors = rng.normal(size=(n, 3))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if name == "SGU":
        return vectors_from_lonlat(rng.normal(0, 40, n), np.clip(rng.laplace(0, 4, n), -80, 80))
    lon = _draw_longitude(n, rng)
    if name == "MSP":  # a thick disc around the Sun: half of them beyond 17 deg
        lat = rng.laplace(0, 25, n)
        return vectors_from_lonlat(lon, (lat + 90) % 180 - 90)
    lat = rng.laplace(0, np.where(rng.random(n) < 0.6, 0.5, 3.0))
    if name in ("GAL", "EXT"):
        clumped = rng.random(n) < 0.5
        which = rng.choice(_N_CLUMPS, n, p=clumps[2])
        lon = np.where(clumped, clumps[0][which] + rng.normal(0, _CLUMP_DEG[0], n), lon)
        lat = np.where(clumped, clumps[1][which] + rng.normal(0, _CLUMP_DEG[1], n), lat)
    return vectors_from_lonlat(lon, np.clip(lat, -80, 80))
