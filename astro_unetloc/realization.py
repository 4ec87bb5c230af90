"""Realizations of a sky: photons, not pixels, drawn from emission, exposure and PSF.

Every photon starts at a true direction and energy and is displaced by the point-spread function;
no noise is ever drawn on an image.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from astro_unetloc.config import CHUNK_PHOTONS
from astro_unetloc.diffuse import energy_bins
from astro_unetloc.diffuse_photons import draw_true_photons, expected_density
from astro_unetloc.geometry import separation_deg
from astro_unetloc.maps import OnFirstUse
from astro_unetloc.photons import Photons
from astro_unetloc.population import SHAPES, Sources

__all__ = ["DEFAULT_RANGE", "SimulatedSky", "draw_photons"]

# Energies (GeV) that are simulated if nothing else is asked for: those of 3FHL.
DEFAULT_RANGE = (10.0, 2000.0)


@dataclass(frozen=True)
class SimulatedSky:
    """A realization: photons with their origin, and the truth they came from.

    Attributes
    ----------
    photons : Photons
        All photons, in no order.
    origin : ndarray (n_photons,) of int32
        Index of the source that emitted each photon; -1 for diffuse emission.
    sources : Sources
        The true sources, those without photons included.
    nside : int
        HEALPix resolution of ``background`` (RING, Galactic).
    energy_edges : ndarray (n_bins + 1,)
        Edges of the bins of ``background`` in GeV; photons lie between the ends.
    psf : KingPSF or TablePSF
        Point-spread function of the photons.
    background : ndarray (n_pixels, n_bins) of float32
        Expected diffuse photons per square degree and bin; made when it is first read.
    diffuse_drawn : bool
        Whether ``photons`` holds those of diffuse emission, not only those of sources.
    footprint : SkyMap, optional
        Where photons were kept; everywhere without it.
    """

    photons: Photons
    origin: np.ndarray
    sources: Sources
    nside: int
    energy_edges: np.ndarray
    psf: object
    background: np.ndarray = OnFirstUse()
    diffuse_drawn: bool = True
    footprint: object = None


def _displace(vectors, offset_deg, rng):
    """Move unit vectors (n, 3) by given angles in random directions."""
    x, y, z = vectors.T
    angle, offset = rng.uniform(0, 2 * np.pi, len(vectors)), np.radians(offset_deg)
    # unit vectors to the east and north; near a pole any pair will do
    rho = np.hypot(x, y)
    polar = rho < 1e-9
    east_x, east_y = np.where(polar, [[1.0], [0.0]], [-y, x] / np.where(polar, 1.0, rho))
    along, east, north = np.cos(offset), np.sin(offset) * np.cos(angle), np.sin(offset)
    north = north * np.sin(angle)
    moved = np.stack(
        [
            along * x + east * east_x - north * z * east_y,
            along * y + east * east_y + north * z * east_x,
            along * z + north * (x * east_y - y * east_x),
        ],
        axis=-1,
    )
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def _draw_from_sources(sources, expected, exposure, band, rng):
    """Source index (n,), true positions (n, 3) and energies (n,) of the photons of sources.

    Of the ``expected`` photons of each source those stay that the exposure at their energy sees.
    """
    emin, emax = band
    number = rng.poisson(expected)
    origin = np.repeat(np.arange(len(sources), dtype=np.int32), number)
    energy = sources.spectra.draw_energy(origin, rng, emin=emin, emax=emax)
    seen = rng.random(len(origin)) < exposure.relative(energy)
    origin, energy = origin[seen], energy[seen]
    return origin, _draw_directions(sources, origin, rng), energy


def _draw_directions(sources, origin, rng):
    """True directions (n, 3) of photons of sources: their position, or a point of their shape."""
    vectors = sources.vectors[origin]
    wide = np.flatnonzero(sources.size_deg[origin])
    source = origin[wide]
    u = 1 - rng.random(len(wide))  # never zero
    gaussian = sources.shape[source] == SHAPES.index("gaussian")
    offset = sources.size_deg[source] * np.where(gaussian, np.sqrt(-2 * np.log(u)), np.sqrt(u))
    vectors[wide] = _displace(vectors[wide], offset, rng)
    return vectors


def draw_photons(
    diffuse,
    sources,
    *,
    exposure,
    psf,
    rng,
    energy_range=DEFAULT_RANGE,
    cone=None,
    with_diffuse=True,
):
    """Photons of a sky.

    Parameters
    ----------
    diffuse : Diffuse
        Interstellar and isotropic emission.
    sources : Sources
        True sources.
    exposure : SurveyExposure or MapExposure
        Exposure of the sky.
    psf : KingPSF or TablePSF
        Point-spread function.
    rng : numpy.random.Generator
        Source of randomness.
    energy_range : pair of float
        In GeV.
    cone : DiscFootprint, optional
        The part of the sky whose photons are kept; the whole sky without it.
    with_diffuse : bool
        Whether photons of diffuse emission are drawn; the expected ones are known in any case.

    Returns
    -------
    SimulatedSky
    """
    edges = energy_bins(*energy_range)
    parts = list(_draw_source_photons(sources, exposure, psf, edges[[0, -1]], cone, rng))
    if with_diffuse:
        wanted = None if cone is None else _pixels_around(cone, psf.max_offset_deg, diffuse.nside)
        for true in draw_true_photons(diffuse, exposure, edges, rng, wanted=wanted):
            photons = _see(true, psf, rng)
            photons = photons if cone is None else photons.select(cone.covers(photons.vectors))
            parts.append((photons, np.full(len(photons), -1, dtype=np.int32)))
    return SimulatedSky(
        photons=Photons.concatenate([part for part, _ in parts]),
        origin=np.concatenate([origin for _, origin in parts]),
        sources=sources,
        background=partial(expected_density, diffuse, exposure, psf, edges),
        nside=diffuse.nside,
        energy_edges=edges,
        psf=psf,
        diffuse_drawn=with_diffuse,
    )


def _draw_source_photons(sources, exposure, psf, band, cone, rng):
    """Photons of sources and the index of their source, (Photons, (n,)), a chunk at a time."""
    rows = np.arange(len(sources))
    if cone is not None:
        near = separation_deg(sources.vectors, cone.center)
        rows = rows[near <= cone.radius_deg + psf.max_offset_deg + 5 * sources.radius_deg]
    chosen = sources.select(rows)
    expected = chosen.spectra.flux(*band) * exposure.sky(chosen.vectors)
    chunk = (np.cumsum(expected) // CHUNK_PHOTONS).astype(int)
    for number in range(chunk.max(initial=0) + 1):
        here = np.flatnonzero(chunk == number)
        origin, vectors, energy = _draw_from_sources(
            chosen.select(here), expected[here], exposure, band, rng
        )
        photons, origin = _see(Photons(vectors, energy), psf, rng), rows[here][origin]
        if cone is not None:
            inside = cone.covers(photons.vectors)
            photons, origin = photons.select(inside), origin[inside]
        yield photons, origin.astype(np.int32)


def _see(photons, psf, rng):
    """Photons displaced by the point-spread function."""
    offset = psf.sample_offset(photons.energy, rng)
    return Photons(_displace(photons.vectors, offset, rng), photons.energy)


def _pixels_around(cone, reach_deg, nside):
    """HEALPix pixels (RING) from which a photon may be displaced into a cone, mask (n_pixels,)."""
    import healpy

    radius = min(cone.radius_deg + reach_deg, 180.0)
    wanted = np.zeros(12 * nside**2, dtype=bool)
    wanted[healpy.query_disc(nside, cone.center, np.radians(radius), inclusive=True)] = True
    return wanted
