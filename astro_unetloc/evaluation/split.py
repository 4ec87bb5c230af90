"""Sources detected in one half of the photons of a map, tested with the other half.

An estimate of the fraction of real sources on a user's own map: no truth, no simulation.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.catalog.table import glon_glat_vectors, numbers_of
from astro_unetloc.detection.localization import source_table
from astro_unetloc.exceptions import counted
from astro_unetloc.maps.photons import DEFAULT_SEED
from astro_unetloc.maps.read import MAP_OPTIONS
from astro_unetloc.maps.skymap import halves
from astro_unetloc.pipeline import as_seed, as_sky_map, detect, fit_sources
from astro_unetloc.sphere import move, neighbors, tangent_axes

_BESIDE_DEG = 1.0  # of the places beside sources
_MIN_TS = 1.0  # of an excess in the other half that confirms a source
# Number counts of sources (3FHL, arXiv:1702.00664): without them the counts of a source that was
# found because it fluctuated up would be taken for its expected ones.
_SLOPE, _COUNTS, _N_DRAWS = 2.15, np.geomspace(0.3, 1e5, 300), 300
# Part of the photons of a source that are near enough to its position to confirm it: of simulated
# skies (seeds 1003 and 1004; above 10 and 50 GeV, and of one year).
_NEAR = 0.65
_N_GROUPS = 5  # of sources of similar power
_CHANCE = 0.16  # of one sigma, where the map has no place beside sources


@dataclass(frozen=True)
class SplitCheck:
    """What one half of the photons of a map confirms of the sources found in the other half."""

    confirmed: np.ndarray  # (n,) of bool: with an excess of one sigma or more
    # (n,), the probability of such an excess by the counts of each source, if it is real
    power: np.ndarray
    chance: float  # fraction of such excesses at places without a source
    score: float  # sum of ``Score`` of the sources

    @property
    def n_sources(self):
        """Number of sources found in the first half."""
        return len(self.confirmed)

    @property
    def fraction(self):
        """Estimated fraction of real sources, 0 to 1."""
        return float(np.clip(self._by_group[0].sum() / max(self.n_sources, 1), 0.0, 1.0))

    @property
    def error(self):
        """Its binomial error."""
        return float(np.sqrt(self._by_group[1].sum()) / max(self.n_sources, 1))

    @property
    def _by_group(self):
        """Real sources (2, k), estimated number and variance, of groups of similar power.

        The more counts, the more of the sources are real: a mean power of all would be too low.
        """
        groups = np.array_split(np.argsort(self.power, kind="stable"), _N_GROUPS)
        parts = []
        for rows in groups:
            n, confirmed = max(len(rows), 1), self.confirmed[rows].sum()
            step = max(self.power[rows].mean() - self.chance, 1e-3) if len(rows) else 1.0
            fraction = confirmed / n
            variance = n * fraction * (1 - fraction) + 0.25
            parts.append(((confirmed - self.chance * len(rows)) / step, variance / step**2))
        return np.array(parts).T

    def __str__(self):
        power = self.power.mean() if self.n_sources else 1.0
        found = f"{self.confirmed.sum()} of {counted(self.n_sources, 'source')}"
        return (
            f"split check: the other half of the photons confirms {found} found in one half "
            f"({power:.0%} of real ones and {self.chance:.0%} of others are expected): "
            f"{self.fraction:.3f} +- {self.error:.3f} of them are real; their mean Score is "
            f"{self.score / max(self.n_sources, 1):.3f}"
        )


def split_check(map, *, rng=DEFAULT_SEED, **options):
    """Return an estimate of the fraction of real sources in the list of a map.

    One random half of the photons is searched, and the other half is fitted at the position of each
    detection. Fits at positions beside the detections measure the chance coincidence rate.

    Parameters
    ----------
    map : str, pathlib.Path, HDUList, gammapy Map or MapDataset, or SkyMap
        As in `astro_unetloc.find_sources`.
    rng : int, Generator or None
        Seed of the division and of the placement of counts in their pixels.
    **options
        Those of `astro_unetloc.find_sources`.

    Returns
    -------
    SplitCheck

    Examples
    --------
    >>> from astro_unetloc import simulate_sky, split_check
    >>> from astropy.coordinates import SkyCoord
    >>> import astropy.units as u
    >>> center = SkyCoord(120 * u.deg, 40 * u.deg, frame="galactic")
    >>> sky_map, truth = simulate_sky(center=center, radius=12 * u.deg, rng=1)
    >>> check = split_check(sky_map)
    >>> 0 <= check.fraction <= 1
    True
    """
    sky_map = as_sky_map(map, {name: options.pop(name, None) for name in MAP_OPTIONS})
    seed = as_seed(rng)
    first, second = halves(sky_map, seed)
    run = detect(first, rng=seed, **options)
    places = glon_glat_vectors(run.catalog)
    beside = _beside(places, glon_glat_vectors(run.sources), sky_map)

    def confirmed(vectors):
        fitted = fit_sources(source_table(vectors), second, run.model, fixed=True)
        return np.asarray(fitted["Sqrt_TS"]) ** 2 >= _MIN_TS

    chance = confirmed(beside).mean() if len(beside) else _CHANCE
    score = float(run.catalog["Score"].sum())
    return SplitCheck(confirmed(places), _power(run.catalog, seed), float(chance), score)


def _beside(places, known, sky_map):
    """Directions (k, 3) on the map beside places, not near any known source."""
    axes = [axis[:, None] for axis in (places, *tangent_axes(places))]
    steps = _BESIDE_DEG * np.array([[1, 0, -1, 0], [0, 1, 0, -1]])
    beside = move(*axes, *steps).reshape(-1, 3)
    beside = beside[sky_map.covers(beside)]
    if not len(known) or not len(beside):
        return beside
    return np.delete(beside, neighbors(beside, known, _BESIDE_DEG / 2)[0], axis=0)


def _power(catalog, seed):
    """Probability (n,) that another observation like theirs confirms sources that are real.

    The expected counts of a source are drawn from their posterior, the likelihood times the number
    counts, those of the other observation from these and the background. The likelihood is that of
    as many photons without background as have the same relative error, but no source is excluded
    by more than its own TS. TS grows with the counts, between linearly without background and as
    their square with much of it.
    """
    ts, counts, error = (numbers_of(catalog, n) for n in ("Sqrt_TS", "Npred", "Unc_Npred"))
    known, power = np.isfinite(ts * counts * error) & (counts > 0), np.ones(len(catalog))
    ts, counts, error = (values[known, None] for values in (ts**2, counts, error))
    rng, ratio = np.random.default_rng(seed), _COUNTS / counts
    log_likelihood = (counts / error) ** 2 * (np.log(ratio) - ratio + 1)
    weight = np.exp(np.maximum(log_likelihood, -ts / 2)) * _COUNTS ** (1 - _SLOPE)
    cumulative = np.cumsum(weight, axis=1)
    drawn = rng.random((len(ts), _N_DRAWS)) * cumulative[:, -1:]
    expected = _COUNTS[[np.searchsorted(*pair) for pair in zip(cumulative, drawn)]]
    noise = np.sqrt(np.maximum(error**2 - counts, 0.0))
    again = rng.poisson(_NEAR * expected) + noise * rng.standard_normal(expected.shape)
    growth = 1 + np.minimum(noise**2 / error**2, 1.0)
    excess = ts * (np.maximum(again, 0.0) / counts) ** growth
    power[known] = (excess >= _MIN_TS).mean(axis=1)
    return power
