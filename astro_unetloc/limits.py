"""Upper limits: how many counts a source at a given position may have and go unseen.

The likelihood is that of the measurement. Its profile over the background and the counts of close
known sources is integrated over the counts of the source with a flat prior (Helene 1983, NIM 212,
319), as the Fermi-LAT catalogues do for faint sources (4FGL, arXiv:1902.10045): where no
photon is seen this gives 3.0 counts, while a fall of the logarithm by 2.71/2 gives 1.35, which
one in four sources of 1.4 counts would exceed.
"""

import numpy as np

from astro_unetloc.beneath import KnownSources, background_beside, fields_at, known_near, one_count
from astro_unetloc.catalog import with_limit_columns
from astro_unetloc.config import MAX_FLUX_GEV
from astro_unetloc.energies import parse_energy_range
from astro_unetloc.likelihood import INDEX_PRIOR
from astro_unetloc.maps import read_map
from astro_unetloc.pairs import sum_groups
from astro_unetloc.references import galactic_vectors, sky_positions

__all__ = ["upper_limits"]

_LEVEL = 0.95
# Known sources whose counts are fitted beside each position, the nearest ones.
_MOST_NEIGHBORS = 4
# Steps of all that is free at each number of counts.
_N_STEPS = 2
# Numbers of counts that are tried, more and more closely; beyond a fall of the logarithm of the
# likelihood of this much nothing adds to the integral.
_N_COUNTS, _DEEP = (20, 16, 24), 12.0
_N_FINE = 400


def upper_limits(
    map,
    positions,
    *,
    exposure=None,
    background=None,
    psf=None,
    exposure_frame=None,
    sources=None,
    index=INDEX_PRIOR[0],
    energy_range=None,
    flux_range=None,
):
    """95 % upper limits on the counts and fluxes of sources at given positions.

    Each position is taken alone, on top of the background and of the known sources.

    Parameters
    ----------
    map : str, pathlib.Path, HDUList, gammapy Map or MapDataset, or SkyMap
        Counts as `astro_unetloc.read_map` takes them.
    positions : SkyCoord or Table
        n positions, or a table that has them.
    exposure, background, psf : path or gammapy object, optional
        What goes with the map, as in `find_sources`; without an exposure there are no fluxes.
    exposure_frame : {"galactic", "icrs"}, optional
        Frame of a HEALPix exposure that does not say it.
    sources : Table, optional
        Known sources with positions, such as the catalogue found in the map. Their counts and
        indices are fitted. A position must not be one of them.
    index : float or array_like (n,)
        Photon index of the sources sought.
    energy_range : pair of Quantity or float, optional
        Energies of the counts, GeV if bare; those of the map by default.
    flux_range : pair of Quantity or float, optional
        Energies of the flux, GeV if bare; those of the counts, up to 1000 GeV, by default.

    Returns
    -------
    QTable
        n rows with ``Source_Name`` where the positions have it, ``RAJ2000``, ``DEJ2000``,
        ``Npred_UL95``, ``Flux_UL95`` (ph cm-2 s-1) and ``skycoord``; limits are masked where the
        map was not observed.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        If an input cannot be used; the message says what to do.

    Examples
    --------
    >>> from astro_unetloc import find_sources, simulate_sky, upper_limits
    >>> from astropy.coordinates import SkyCoord
    >>> import astropy.units as u
    >>> center = SkyCoord(120 * u.deg, 40 * u.deg, frame="galactic")
    >>> sky_map, truth = simulate_sky(center=center, radius=8 * u.deg, rng=1)
    >>> limits = upper_limits(sky_map, center, sources=find_sources(sky_map))
    >>> bool(limits["Npred_UL95"][0] > 3)
    True
    """
    sky_map = read_map(
        map,
        energy_range=energy_range,
        exposure=exposure,
        background=background,
        psf=psf,
        exposure_frame=exposure_frame,
    )
    if sky_map.n_photons == 0:
        raise ValueError("the map must hold photons; got none; give another map or energy range")
    table = _position_table(positions)
    vectors = galactic_vectors(table)
    index = np.broadcast_to(np.asarray(index, dtype=float), len(vectors))
    known = np.zeros((0, 3)) if sources is None else galactic_vectors(sources)
    known = known[np.isfinite(known).all(axis=1)]
    low, high = sky_map.energy_edges[[0, -1]]
    flux_range = parse_energy_range(flux_range) or (low, min(high, max(MAX_FLUX_GEV, 2 * low)))
    limit, flux = _limits(sky_map, vectors, known, index, flux_range)
    table = with_limit_columns(table, {"Npred_UL95": limit, "Flux_UL95": flux})
    table.meta |= {"EMIN": float(low), "EMAX": float(high)}
    table.meta |= dict(zip(("FLUXEMIN", "FLUXEMAX"), (float(energy) for energy in flux_range)))
    return table


def _position_table(positions):
    """Table of names, where there are any, and positions."""
    import astropy.units as u
    from astropy.table import QTable

    is_table = hasattr(positions, "colnames")
    coordinates = sky_positions(positions) if is_table else positions.icrs.reshape(-1)
    columns = {"RAJ2000": coordinates.ra.to(u.deg), "DEJ2000": coordinates.dec.to(u.deg)}
    if is_table and "Source_Name" in positions.colnames:
        columns = {"Source_Name": positions["Source_Name"]} | columns
    return QTable(columns | {"skycoord": coordinates})


def _limits(sky_map, vectors, known, index, flux_range):
    """Limits (n,) of counts and flux at positions (n, 3); NaN where they are not known."""
    limit, flux = np.full((2, len(vectors)), np.nan)
    for rows, field in fields_at(sky_map, vectors):
        limit[rows] = _upper_bound(_profile(field, known_near(field, known), index[rows]))
        per_count = field.flux_per_count(index[rows], flux_range)
        flux[rows] = np.where(field.exposed, limit[rows] * per_count, np.nan)
    return limit, flux


def _profile(field, known, index):
    """The likelihood of the counts at the positions of a field, as a `_Profile`."""
    one = one_count(field, index)
    others = KnownSources(field, known)
    total = others.at_pairs()
    apart, apart_expected = others.nearest(_MOST_NEIGHBORS)
    background = background_beside(field, one, total)
    fit = field.background_fit
    return _Profile(
        fit.source, fit.weighted, *one,
        np.column_stack([fit.density(background), apart]),
        np.column_stack([(fit.total(background) * field.weight).sum(axis=1), apart_expected]),
        np.maximum(total - apart.sum(axis=1), 0.0),
    )  # fmt: skip


class _Profile:
    """The likelihood of the counts of n sources, best in the factors of what lies beneath.

    Parameters
    ----------
    source : ndarray (m,) of int
        Source of each pair.
    weighted : ndarray (m,)
        Counts of each pair, times their weight.
    density, expected : ndarray (m,), ndarray (n,)
        What one count of the source gives: at the pairs, and in all.
    beneath, total : ndarray (m, k), ndarray (n, k)
        What lies beneath, in k parts that have a factor each, likewise.
    fixed : ndarray (m,)
        What else lies beneath.
    """

    def __init__(self, source, weighted, density, expected, beneath, total, fixed):
        self.source, self.weighted, self.density = source, weighted, density
        self.expected, self.beneath, self.total, self.fixed = expected, beneath, total, fixed
        self.n, self.k = total.shape

    def _sums(self, values):
        return sum_groups(self.source, self.weighted * values, self.n)

    def most_counts(self):
        """More counts (n,) than any source has."""
        close = self._sums(self.density > 0.01 * self._peak()[self.source])
        return 2 * (close + 10) / self.expected

    def _peak(self):
        peak = np.zeros(self.n)
        np.maximum.at(peak, self.source, self.density)
        return peak

    def log_likelihood(self, counts):
        """Logarithm (n, q), less a constant, at ascending numbers of counts (n, q)."""
        result = np.empty(counts.shape)
        logs = np.zeros((self.n, self.k))
        for place, number in enumerate(counts.T):
            for _ in range(_N_STEPS):
                logs = self._step(logs, number)
            mean = self._mean(logs, number)[0]
            result[:, place] = self._sums(np.log(mean)) - number * self.expected
            result[:, place] -= (np.exp(logs) * self.total).sum(axis=1)
        return result

    def _mean(self, logs, counts):
        """Expected counts at the pairs (m,), and the parts beneath (m, k) of them."""
        parts = np.exp(logs)[self.source] * self.beneath
        mean = counts[self.source] * self.density + self.fixed + parts.sum(axis=1)
        return np.maximum(mean, 1e-30), parts

    def _step(self, logs, counts):
        """The logarithms (n, k) of the factors after a Newton step towards their best."""
        mean, parts = self._mean(logs, counts)
        parts /= mean[:, None]
        slope = np.stack([self._sums(part) for part in parts.T], axis=1)
        slope -= np.exp(logs) * self.total
        bend = np.empty((self.n, self.k, self.k))
        for a in range(self.k):
            for b in range(a, self.k):
                bend[:, a, b] = bend[:, b, a] = self._sums(parts[:, a] * parts[:, b])
        # what is not there, or not seen, keeps its factor
        bend += 1e-3 * np.eye(self.k)
        change = np.linalg.solve(bend, slope[..., None])[..., 0]
        return np.clip(logs + np.clip(change, -1.0, 1.0), -12.0, 12.0)


def _upper_bound(profile):
    """Counts (n,) below which lies the level of the integral of the likelihood."""
    most = profile.most_counts()
    first = np.append(0.0, np.geomspace(1e-3, 1.0, _N_COUNTS[0] - 1))
    counts = most[:, None] * first
    for n_counts in _N_COUNTS[1:]:
        low, high = _bracket(counts, profile.log_likelihood(counts))
        counts = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, n_counts)
    return _quantile(counts, profile.log_likelihood(counts))


def _bracket(counts, log_likelihood):
    """Ends (n,) of where the likelihood is not negligible, on a grid (n, q) of counts."""
    rows, last = np.arange(len(counts)), counts.shape[1] - 1
    kept = log_likelihood > log_likelihood.max(axis=1, keepdims=True) - _DEEP
    low = np.maximum(kept.argmax(axis=1) - 1, 0)
    high = np.minimum(last - kept[:, ::-1].argmax(axis=1) + 1, last)
    return counts[rows, low], counts[rows, high]


def _quantile(counts, log_likelihood):
    """Counts (n,) below which lies the level of the likelihood, on even grids (n, q)."""
    from scipy.interpolate import CubicSpline

    place = np.linspace(0, 1, counts.shape[1])
    fine = np.linspace(0, 1, _N_FINE)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    # a polynomial times an exponential; its logarithm may be singular at no counts
    density = np.maximum(CubicSpline(place, likelihood, axis=1)(fine), 0.0)
    below = np.cumsum((density[:, 1:] + density[:, :-1]) / 2, axis=1)
    below = np.pad(below / below[:, -1:], ((0, 0), (1, 0)))
    part = np.array([np.interp(_LEVEL, row, fine) for row in below])
    return counts[:, 0] + part * (counts[:, -1] - counts[:, 0])
