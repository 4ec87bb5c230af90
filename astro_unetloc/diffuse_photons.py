"""Photons of diffuse emission: how many are expected where, and a random draw of them."""

import numpy as np

from astro_unetloc.config import CHUNK_PHOTONS
from astro_unetloc.photons import Photons, draw_energy

__all__ = ["draw_true_photons", "expected_density"]


def _rates(diffuse, exposure, energy_edges):
    """Expected photons of each component: of a pixel (n_pixels,), and a factor per bin."""
    import healpy

    centers = np.stack(healpy.pix2vec(diffuse.nside, np.arange(12 * diffuse.nside**2)), axis=-1)
    area = healpy.nside2pixarea(diffuse.nside)
    relative = exposure.relative(np.sqrt(energy_edges[1:] * energy_edges[:-1]))
    exposure_map = exposure.sky(centers) * area
    for _, shape, per_bin in diffuse.maps(energy_edges):
        yield shape * exposure_map, per_bin * relative


def expected_density(diffuse, exposure, psf, energy_edges):
    """Expected photons as the telescope sees them, blurred where its PSF is wider than a pixel.

    Parameters
    ----------
    diffuse : Diffuse
        The emission.
    exposure : SurveyExposure or MapExposure
        Exposure of the sky.
    psf : KingPSF or TablePSF
        Point-spread function.
    energy_edges : ndarray (n_bins + 1,)
        In GeV.

    Returns
    -------
    ndarray (n_pixels, n_bins) of float32
        Photons per square degree; HEALPix of the resolution of ``diffuse``, RING, Galactic.
    """
    import healpy

    density = np.zeros((12 * diffuse.nside**2, len(energy_edges) - 1), dtype=np.float32)
    for spatial, per_bin in _rates(diffuse, exposure, energy_edges):
        density += spatial[:, None] * per_bin
    resolution = healpy.nside2resol(diffuse.nside, arcmin=True) / 60
    for number, energy in enumerate(np.sqrt(energy_edges[1:] * energy_edges[:-1])):
        if psf.containment_radius(0.68, energy) > resolution:
            window = _window(psf, energy, 3 * diffuse.nside - 1)
            smooth = healpy.smoothing(density[:, number], beam_window=window, iter=1)
            smooth = np.maximum(smooth, 0)  # sharp edges ring; no photon is won or lost by it
            density[:, number] = smooth * (density[:, number].sum() / max(smooth.sum(), 1e-30))
    return density / np.float32(healpy.nside2pixarea(diffuse.nside, degrees=True))


def _window(psf, energy, lmax):
    """Legendre coefficients (lmax + 1,) of the PSF at an energy in GeV: the mean of P_l."""
    edges = np.concatenate([[0.0], np.geomspace(1e-2, 20.0, 400)])
    share = np.diff(psf.containment(edges, energy))
    share[-1] += 1 - share.sum()  # what falls beyond ends there, as in `sample_offset`
    cos = np.cos(np.radians((edges[1:] + edges[:-1]) / 2))
    return share @ np.polynomial.legendre.legvander(cos, lmax)


def draw_true_photons(diffuse, exposure, energy_edges, rng, *, wanted=None):
    """Random true directions and energies of diffuse photons, a chunk at a time.

    Parameters
    ----------
    diffuse : Diffuse
        The emission.
    exposure : SurveyExposure or MapExposure
        Exposure of the sky.
    energy_edges : ndarray (n_bins + 1,)
        In GeV.
    rng : numpy.random.Generator
        Source of randomness.
    wanted : ndarray (n_pixels,) of bool, optional
        Pixels from which photons are asked for; all of them without.

    Yields
    ------
    Photons
        Up to `astro_unetloc.config.CHUNK_PHOTONS`.
    """
    for spatial, per_bin in _rates(diffuse, exposure, energy_edges):
        cumulative = np.cumsum(spatial if wanted is None else spatial * wanted)
        for number, low, high in zip(
            rng.poisson(cumulative[-1] * per_bin), energy_edges[:-1], energy_edges[1:]
        ):
            for start in range(0, number, CHUNK_PHOTONS):
                n = min(CHUNK_PHOTONS, number - start)
                draws = np.sort(rng.random(n)) * cumulative[-1]  # sorted: a quicker search
                pixels = np.searchsorted(cumulative, draws, side="right")
                vectors = _points_inside(diffuse.nside, pixels, rng)
                yield Photons(vectors, draw_energy(rng.random(n), low, high))


def _points_inside(nside, pixels, rng):
    """A random direction inside each HEALPix pixel (RING), unit vectors (n, 3)."""
    import healpy

    # A random one of 4^10 sub-pixels is a random point in an equal-area pixel.
    fine = healpy.ring2nest(nside, pixels).astype(np.int64) * 4**10
    fine += rng.integers(0, 4**10, len(pixels))
    return np.stack(healpy.pix2vec(nside * 2**10, fine, nest=True), axis=-1)
