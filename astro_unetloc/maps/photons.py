"""Photons: each count of a map is placed once at a random point inside its pixel.

The random stream is counter based: the random numbers of a photon depend only on the seed, on the
identity of its pixel and energy bin, and on its number inside the bin. A cut-out and the whole sky
therefore place the same photon at the same point, whatever the order and the chunks.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.spectra import draw_energy

CHUNK_PHOTONS = 2_000_000  # photons in memory at once when a map is placed
COUNT_TOLERANCE = 0.01  # a pixel value this close to an integer is a count
DEFAULT_SEED = 0

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Photons:
    """A list of n photons.

    Attributes
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    energy : ndarray (n,)
        Energies in GeV.
    """

    vectors: np.ndarray
    energy: np.ndarray

    def __len__(self):
        return len(self.energy)

    def select(self, mask):
        """The photons of a mask or an index array."""
        return Photons(self.vectors[mask], self.energy[mask])

    @classmethod
    def concatenate(cls, parts):
        """The photons of several lists."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("vectors", "energy")))


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
    and is called only for these. Integers become int32 or int64, others, which may be NaN where not
    observed, float32 (float64 for counts above 2**24).
    """
    counts = np.asarray(counts)
    largest = _check_values(counts)
    if counts.dtype.kind in "iub":
        return counts.astype(np.int32 if largest < 2**31 else np.int64)
    odd, what = _odd_pixels(counts), "counts"
    exposure = get_exposure() if get_exposure and odd.any() else None
    if exposure is not None:
        counts, what = counts * exposure, "flux x exposure"
        largest = _check_values(counts)
        odd = _odd_pixels(counts)
    if odd.any():
        raise InputError(
            f"{what} must be whole numbers (within {COUNT_TOLERANCE}); got {odd.sum()} pixels such "
            f"as {counts[odd][0]:.4g}; give the counts, or a flux map together with its exposure"
        )
    return np.rint(counts).astype(np.float32 if largest < 2**24 else np.float64)


def _check_values(counts):
    """Largest count; values that are no counts are refused."""
    if counts.dtype.kind not in "iubf":
        raise InputError(f"counts must be real numbers; got {counts.dtype}; convert the map")
    low, high = (f.reduce(counts, axis=None, initial=0) for f in (np.fmin, np.fmax))
    if counts.size and np.isnan(counts).all():
        raise InputError("counts must not be all NaN (not observed); got no other pixel")
    if np.isinf(low) or np.isinf(high):
        n_odd = np.isinf(counts).sum()
        raise InputError(
            f"counts must be finite or NaN (not observed); got {n_odd} infinite pixels"
        )
    if low < 0:
        raise InputError(
            f"counts must not be negative; got {low:.4g} and {(counts < 0).sum()} negative pixels; "
            "subtract no background"
        )
    return high


def _odd_pixels(counts):
    """Where values are not whole numbers, an array of bool."""
    odd = np.zeros(counts.shape, dtype=bool)
    for row, plane in zip(odd, counts):  # one plane at a time: cubes are large
        row[:] = np.abs(plane - np.rint(plane)) > COUNT_TOLERANCE
    # fluxes are within 0.01 of zero: if all would round to zero, all positive ones are odd
    return odd if any(np.any(plane > 0.5) for plane in counts) else counts > 0
