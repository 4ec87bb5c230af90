"""Lonely sources on a flat background, with the built-in response: worlds to measure."""

import numpy as np
from astropy.table import QTable
from made_maps import binned_map

from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.detection.localization import source_table
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.irf.spectra import draw_energy, power_laws
from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.measurement.data import Regions, gather_counts

RANGE = (10.0, 2000.0)


def scatter(vectors, offset_deg, rng):
    """Unit vectors (n, 3) moved by angles (n,) in random directions."""
    helper = np.where(np.abs(vectors[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(vectors, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    angle, offset = rng.uniform(0, 2 * np.pi, (len(vectors), 1)), np.radians(offset_deg)[:, None]
    sideways = np.cos(angle) * first + np.sin(angle) * np.cross(vectors, first)
    return np.cos(offset) * vectors + np.sin(offset) * sideways


class SourceTable(QTable):
    """A table of sources, and where they are as Galactic unit vectors (n, 3)."""

    vectors = property(glon_glat_vectors)


def sources_at(vectors):
    """Localized sources at Galactic vectors (n, 3)."""
    zeros = np.zeros(len(vectors), int)
    return SourceTable(source_table(vectors, zeros + 0.9, patch=zeros, coverage=zeros + 1.0))


def photons_of(vectors, photons_each, rng, *, index=2.3, size_deg=0.0, psf=None, band=RANGE):
    """Photons of sources at vectors (n, 3) that are seen by the built-in exposure."""
    psf, exposure = psf or KingPSF(), SurveyExposure()
    law = power_laws(np.ones(1), np.full(1, index), emin=band[0], emax=band[1])
    seen = law.flux(*band, weight=exposure.relative)[0]
    origin = np.repeat(np.arange(len(vectors)), rng.poisson(photons_each / seen, len(vectors)))
    energy = law.draw_energy(np.zeros(len(origin), int), rng, emin=band[0], emax=band[1])
    kept = rng.random(len(origin)) < exposure.relative(energy)
    origin, energy = origin[kept], energy[kept]
    from_place = scatter(vectors[origin], size_deg * np.sqrt(rng.random(len(origin))), rng)
    return Photons(scatter(from_place, psf.sample_offset(energy, rng), rng), energy)


def background_around(vectors, density, rng, radius_deg=3.0):
    """Photons of a flat background of so many per square degree around directions (n, 3)."""
    number = rng.poisson(density * np.pi * radius_deg**2, len(vectors))
    center = np.repeat(vectors, number, axis=0)
    offset = radius_deg * np.sqrt(rng.random(len(center)))
    return Photons(
        scatter(center, offset, rng), draw_energy(rng.random(len(center)), *RANGE, index=2.45)
    )


def join(*parts):
    """All photons of several lists."""
    return Photons(*(np.concatenate([getattr(p, k) for p in parts]) for k in ("vectors", "energy")))


def with_background(vectors, photons_each, rng, *, density=17.0, **options):
    """Photons of sources at vectors (n, 3) and of a flat background around them."""
    photons = photons_of(vectors, photons_each, rng, **options)
    return join(photons, background_around(vectors, density, rng))


def as_events(photons, **parts):
    """A sky map of photons, the whole sky observed."""
    sky = DiscFootprint(np.array([0.0, 0.0, 1.0]), 180.0)
    return SkyMap(events=photons, footprint=sky, energy_edges=np.array(RANGE), **parts)


def lonely_sources(photons_each, *, nside=4, density=17.0, seed=0, off_deg=0.02, **options):
    """A sky map, the sources as they were found, and where they are: one per HEALPix pixel."""
    import healpy

    rng = np.random.default_rng(seed)
    true = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2)), axis=-1)
    photons = with_background(true, photons_each, rng, density=density, **options)
    found = scatter(true, np.abs(rng.normal(0, off_deg, len(true))), rng)
    return as_events(photons, exposure=SurveyExposure()), sources_at(found), true


def regions_of(sky_map, vectors, *, radius_deg=2.0, core_deg=0.5, reach_deg=None, n_split=1):
    """Regions of interest around vectors (n, 3)."""
    counts = gather_counts(sky_map, RANGE)
    core_deg = np.broadcast_to(core_deg, counts.n_energy)
    reach_deg = np.full(len(vectors), radius_deg) if reach_deg is None else reach_deg
    return Regions(counts, vectors, radius_deg, core_deg, reach_deg, n_split=n_split)


def as_counts(photons, pixels, energy_edges, **parts):
    """A sky map of the counts of photons in pixels."""
    counts = np.zeros((len(energy_edges) - 1, pixels.n_pixels), dtype=np.int32)
    index = pixels.index(photons.vectors)
    inside = (index >= 0) & (photons.energy < energy_edges[-1])
    energy_bin = np.searchsorted(energy_edges, photons.energy[inside], side="right") - 1
    np.add.at(counts, (energy_bin, index[inside]), 1)
    return binned_map(counts, pixels, energy_edges, **parts)
