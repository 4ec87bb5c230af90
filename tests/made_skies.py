"""Small simulated skies to test on."""

import numpy as np

from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.irf.spectra import power_laws
from astro_unetloc.maps.photons import Photons
from astro_unetloc.simulation.diffuse import ENERGY_EDGES
from astro_unetloc.simulation.population import SHAPES, Sources
from astro_unetloc.simulation.sky import SimulatedSky
from astro_unetloc.sphere import vectors_from_lonlat
from astro_unetloc.training.patch_set import SOURCE_DTYPE

BAND_EDGES = np.array([10.0, 20.0, 50.0, 150.0, 500.0, 2000.0])
NSIDE = 8


def make_sources(lon, lat, *, flux=1e-10, index=2.4, radius_deg=0.0, shape="disc"):
    """Sources at Galactic positions in degrees."""
    n = len(lon)
    flux, index, size = (np.broadcast_to(a, n).astype(float) for a in (flux, index, radius_deg))
    shape = np.where(size > 0, SHAPES.index(shape), 0).astype(np.int8)
    vectors = vectors_from_lonlat(np.array(lon, float), np.array(lat, float))
    return Sources(vectors, power_laws(flux, index), np.zeros(n, np.int8), shape, size)


def make_sky(lon=(), lat=(), *, photons_each=20, density=0.0, seed=0, radius_deg=0.0):
    """A sky near the origin: sources of so many photons, and ``density`` diffuse ones per deg2."""
    rng = np.random.default_rng(seed)
    sources = make_sources(lon, lat, radius_deg=radius_deg)
    origin = np.repeat(np.arange(len(lon)), photons_each)
    n_diffuse = rng.poisson(density * 30 * 30)
    diffuse = vectors_from_lonlat(rng.uniform(-15, 15, n_diffuse), rng.uniform(-15, 15, n_diffuse))
    vectors = np.concatenate([diffuse, sources.vectors[origin]])
    energy = 10 * (1 - rng.random(len(vectors)) * 0.99) ** (-1 / 1.4)
    expected = density * -np.diff(ENERGY_EDGES**-1.4) / (10**-1.4 - 2000**-1.4)
    background = np.tile(expected.astype(np.float32), (12 * NSIDE**2, 1))
    origin = np.concatenate([np.full(n_diffuse, -1), origin]).astype(np.int32)
    photons = Photons(vectors, np.minimum(energy, 1999.0))
    parts = {"nside": NSIDE, "energy_edges": ENERGY_EDGES, "psf": KingPSF()}
    return SimulatedSky(
        photons=photons, origin=origin, sources=sources, background=background, **parts
    )


def made_patches(seed, *, n_patches, n_pix=128, **options):
    """Like `patches_of_sky`: noise with a bright square that is a source."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((n_patches, n_pix, n_pix, 1), np.uint8)
    mask[:, 8:12, 8:12] = 1
    sources = np.zeros(n_patches, SOURCE_DTYPE)
    sources["patch"] = np.arange(n_patches)
    columns = {
        "counts": rng.poisson(0.05 + 2.0 * mask, (n_patches, n_pix, n_pix, 5)).astype(np.uint16),
        "coverage": np.ones((n_patches, n_pix, n_pix, 1), np.uint8),
        "mask": mask,
        "bands": np.ones((n_patches, 5, 4), np.float32),
        "center": np.zeros((n_patches, 3)),
        "sky": np.full(n_patches, seed),
        "code": np.array([f"{seed}-{i}" for i in range(n_patches)], "S24"),
    }
    return columns, sources
