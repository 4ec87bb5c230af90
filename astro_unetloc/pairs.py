"""Pairs of a source and a count near it: what the likelihood sums over."""

from dataclasses import dataclass, fields, replace

import numpy as np

from astro_unetloc.geometry import chord, tangent_offsets
from astro_unetloc.islands import ragged_ranges

__all__ = ["Pairs", "SplitPairs", "find_pairs", "split_pixels", "sum_groups"]


def sum_groups(group, values, n_groups):
    """Sums (n_groups,) of values by group; floats also of no values, where bincount gives ints."""
    return np.bincount(group, values, minlength=n_groups).astype(float, copy=False)


@dataclass(frozen=True, eq=False)
class Pairs:
    """m pairs of a source and an entry near it, sorted by source.

    Attributes
    ----------
    source, entry : ndarray (m,) of int
        Index of the source and of the entry.
    energy_bin : ndarray (m,) of int
        Energy bin of the entry.
    number : ndarray (m,)
        Counts of the entry.
    x, y : ndarray (m,)
        Degrees east and north of the source, on its tangent plane.
    """

    source: np.ndarray
    entry: np.ndarray
    energy_bin: np.ndarray
    number: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def select(self, mask):
        """The pairs of a mask or index array."""
        return Pairs(*(getattr(self, field.name)[mask] for field in fields(self)))

    def sum(self, values, n):
        """Sums (n,) over the pairs of each source."""
        return sum_groups(self.source, values, n)


@dataclass(frozen=True, eq=False)
class SplitPairs(Pairs):
    """Pairs whose entries are divided into parts, so that a pixel is more than its centre.

    Attributes
    ----------
    first : ndarray (m + 1,) of int
        Where the parts of each pair begin, and the number of parts.
    part_x, part_y : ndarray (n_parts,)
        Degrees east and north of the source, as ``x`` and ``y``.
    """

    first: np.ndarray
    part_x: np.ndarray
    part_y: np.ndarray

    @classmethod
    def whole(cls, pairs):
        """Pairs with one part each."""
        first = np.arange(len(pairs.source) + 1)
        return cls(*(getattr(pairs, f.name) for f in fields(Pairs)), first, pairs.x, pairs.y)

    @property
    def n_parts(self):
        """Number of parts of each pair, (m,)."""
        return np.diff(self.first)

    def select(self, mask):
        """The pairs of a mask or index array."""
        rows = np.arange(len(self.source))[mask]
        part, _ = ragged_ranges(self.first[rows], self.first[rows + 1])
        first = np.append(0, np.cumsum(self.n_parts[rows]))
        own = (getattr(self, f.name)[rows] for f in fields(Pairs))
        return SplitPairs(*own, first, self.part_x[part], self.part_y[part])

    def to_parts(self, values):
        """Values (m,) of the pairs, for each of their parts (n_parts,)."""
        return values if self._undivided else np.repeat(values, self.n_parts)

    def mean_of_parts(self, values):
        """Means (m, ...) over the parts of each pair of values (n_parts, ...)."""
        if self._undivided:
            return values
        n_parts = self.n_parts.reshape(-1, *[1] * (values.ndim - 1))
        return np.add.reduceat(values, self.first[:-1], axis=0) / n_parts

    @property
    def _undivided(self):
        return len(self.part_x) == len(self.source)


def find_pairs(counts, vectors, east, north, radius_deg):
    """Pairs of the sources and the entries within a radius (n,) of each."""
    found = counts.tree.query_ball_point(vectors, chord(radius_deg), return_sorted=True)
    size = np.array([len(places) for places in found], dtype=np.int64)
    place = np.concatenate([np.zeros(0, np.int64), *(np.asarray(f, np.int64) for f in found)])
    source = np.repeat(np.arange(len(size)), size)
    x, y = tangent_offsets(vectors[source], east[source], north[source], counts.vectors[place])
    entry, pair = ragged_ranges(counts.first[place], counts.first[place + 1])
    number = counts.number[entry]
    return Pairs(source[pair], entry, counts.energy_bin[entry], number, x[pair], y[pair])


def split_pixels(pairs, counts, vectors, east, north, n_split):
    """The pairs with n_split**2 parts, by the energy bin, that are even inside each pixel."""
    place = np.searchsorted(counts.first, pairs.entry, side="right") - 1
    pixels, splits = counts.sky_map.pixels, n_split[pairs.energy_bin]
    first = np.append(0, np.cumsum(splits**2))
    x, y = np.empty((2, first[-1]))
    for split in np.unique(splits):
        rows = np.flatnonzero(splits == split)
        used, of_pair = np.unique(place[rows], return_inverse=True)
        pixel, source = counts.pixel[used], pairs.source[rows]
        where = vectors[source], east[source], north[source]
        for k in range(split**2):
            if hasattr(pixels, "nside"):
                # nested digits k 0 3 3 3 ...: the middle of sub-pixel k
                u, v = (k + 0.25 - 1e-9) / split**2, 0.5
            else:
                u, v = (k % split + 0.5) / split, (k // split + 0.5) / split
            points = pixels.points(pixel, np.full(len(used), u), np.full(len(used), v))
            part = first[rows] + k
            x[part], y[part] = tangent_offsets(*where, points[of_pair])
    return replace(pairs, first=first, part_x=x, part_y=y)
