"""Source populations above 10 GeV: fluxes, spectra, positions and sizes, always drawn."""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.geometry import vectors_from_lonlat

__all__ = ["Sources", "draw_sources"]


@dataclass(frozen=True)
class Sources:
    """n true sources.

    Attributes
    ----------
    vectors : ndarray (n, 3)
        Galactic unit vectors.
    flux : ndarray (n,)
        Photon flux above 10 GeV in ph cm-2 s-1.
    index : ndarray (n,)
        Photon index of the power law.
    radius_deg : ndarray (n,)
        Radius of the disc of an extended source; 0 for a point source.
    """

    vectors: np.ndarray
    flux: np.ndarray
    index: np.ndarray
    radius_deg: np.ndarray

    def __len__(self):
        return len(self.flux)


def _draw_flux(n, rng, *, minimum, knee, faint, bright):
    """Fluxes with N(>S) ~ S^-bright above the knee and S^-faint below it (continuous)."""
    at_knee = (minimum / knee) ** faint
    u = rng.random(n)
    below = minimum * np.maximum(u, at_knee) ** (-1 / faint)
    above = knee * (np.minimum(u, at_knee) / at_knee) ** (-1 / bright)
    return np.minimum(np.where(u > at_knee, below, above), 2e-8)


def draw_sources(rng, *, n_extragalactic=12000, n_galactic=550, n_extended=40, minimum_flux=2e-12):
    """A population above 10 GeV: isotropic AGN, sources along the plane, extended discs.

    The numbers follow 3FHL (arXiv:1702.00664): 682 sources above 4e-11 and 245 above
    1e-10 ph cm-2 s-1 at \\|b\\| > 10 deg with N(>S) ~ S^-1.15, flatter below, and the latitude and
    longitude profile of those nearer the plane. Positions are always drawn, never real ones.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    n_extragalactic, n_galactic, n_extended : float
        Mean numbers of sources above ``minimum_flux`` (extended: above 1e-10).
    minimum_flux : float
        In ph cm-2 s-1, about a tenth of what 7 years detect.

    Returns
    -------
    Sources
    """
    n_agn, n_plane, n_discs = rng.poisson([n_extragalactic, n_galactic, n_extended])
    vectors = rng.normal(size=(n_agn, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Galactic longitude: half in a broad hump around the centre, half everywhere.
    n_disc = n_plane + n_discs
    lon = np.where(
        rng.random(n_disc) < 0.6, rng.normal(0, 45, n_disc), rng.uniform(-180, 180, n_disc)
    )
    lat = rng.laplace(0, np.where(rng.random(n_disc) < 0.6, 0.5, 3.0))
    vectors = np.concatenate([vectors, vectors_from_lonlat(lon, np.clip(lat, -80, 80))])
    knee = {"knee": 2.5e-11, "bright": 1.15, "faint": 0.85}
    flux = np.concatenate(
        [
            _draw_flux(n_agn, rng, minimum=minimum_flux, **knee),
            _draw_flux(n_plane, rng, minimum=minimum_flux, knee=1e-10, bright=1.6, faint=0.6),
            _draw_flux(n_discs, rng, minimum=1e-10, knee=1e-9, bright=1.5, faint=0.8),
        ]
    )
    # 3FHL: median index 2.5 at high latitude; 3.3 within 1 deg of the plane, 10 % above 4.7
    index = np.concatenate([rng.normal(2.45, 0.5, n_agn), rng.normal(3.0, 1.0, n_disc)])
    index = np.clip(index, 1.4, 5.5)
    radius = np.zeros(len(flux))
    radius[n_agn + n_plane :] = np.clip(rng.lognormal(np.log(0.56), 0.7, n_discs), 0.15, 3.0)
    return Sources(vectors, flux, index, radius)
