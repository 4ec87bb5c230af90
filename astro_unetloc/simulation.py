"""Simulated skies: photons, not pixels, drawn from emission, exposure and PSF, with their truth.

Every photon starts at a true direction and energy and is displaced by the point-spread function;
no noise is ever drawn on an image.
"""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.diffuse import ENERGY_EDGES, interstellar, perturb
from astro_unetloc.event_lists import DiscFootprint
from astro_unetloc.geometry import separation_deg
from astro_unetloc.maps import SkyMap
from astro_unetloc.photons import Photons, draw_energy
from astro_unetloc.population import SHAPES, Sources, draw_sources
from astro_unetloc.response import KingPSF, SurveyExposure
from astro_unetloc.sky_files import counts_cube, inside_image
from astro_unetloc.truth import truth_table

__all__ = [
    "SimulatedSky",
    "check_image",
    "draw_photons",
    "simulate_cube",
    "simulate_photons",
    "simulate_sky",
]

_N_CUBE_BINS = 16
# A tangent plane stretches without end: its corners must stay well within 90 deg of its centre.
_MAX_WIDTH_DEG = 80.0


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
    background : ndarray (n_pixels, n_bins) of float32
        Expected diffuse photons per square degree and bin of ``ENERGY_EDGES``.
    nside : int
        HEALPix resolution of ``background`` (RING, Galactic).
    """

    photons: Photons
    origin: np.ndarray
    sources: Sources
    background: np.ndarray
    nside: int


def _displace(vectors, offset_deg, rng):
    """Move unit vectors (n, 3) by given angles in random directions."""
    helper = np.where(np.abs(vectors[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(vectors, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(vectors, first)
    angle, offset = rng.uniform(0, 2 * np.pi, len(vectors)), np.radians(offset_deg)
    sideways = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    moved = np.cos(offset)[:, None] * vectors + np.sin(offset)[:, None] * sideways
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def _diffuse_rate(diffuse, exposure_map, exposure):
    """Expected photons per pixel and bin, (n_pixels, n_bins) for each component, lazily."""
    import healpy

    area = healpy.nside2pixarea(diffuse.nside)
    centers = np.sqrt(ENERGY_EDGES[1:] * ENERGY_EDGES[:-1])
    for _, shape, per_bin in diffuse.maps(ENERGY_EDGES):
        yield shape * exposure_map * area, per_bin * exposure.relative(centers)


def _draw_diffuse(diffuse, exposure, rng):
    """True positions (n, 3) and energies (n,) of diffuse photons, and the expected density."""
    import healpy

    n_pixels = 12 * diffuse.nside**2
    centers = np.stack(healpy.pix2vec(diffuse.nside, np.arange(n_pixels), nest=False), axis=-1)
    exposure_map = exposure.sky(centers)
    expected = np.zeros((n_pixels, len(ENERGY_EDGES) - 1), dtype=np.float32)
    pixels, energies = [], []
    for spatial, per_bin in _diffuse_rate(diffuse, exposure_map, exposure):
        expected += spatial[:, None] * per_bin
        cumulative = np.cumsum(spatial)
        number = rng.poisson(cumulative[-1] * per_bin)
        draws = rng.random(number.sum()) * cumulative[-1]
        pixels.append(np.searchsorted(cumulative, draws))
        low, high = np.repeat(ENERGY_EDGES[:-1], number), np.repeat(ENERGY_EDGES[1:], number)
        energies.append(draw_energy(rng.random(len(low)), low, high))
    pixels = healpy.ring2nest(diffuse.nside, np.concatenate(pixels))
    # A random one of 4^10 sub-pixels is a random point in an equal-area pixel.
    fine = pixels.astype(np.int64) * 4**10 + rng.integers(0, 4**10, len(pixels))
    vectors = np.stack(healpy.pix2vec(diffuse.nside * 2**10, fine, nest=True), axis=-1)
    return vectors, np.concatenate(energies), expected / healpy.nside2pixarea(diffuse.nside, True)


def _draw_from_sources(sources, exposure, rng):
    """Source index (n,), true positions (n, 3) and energies (n,) of the photons of sources."""
    band = {"emin": ENERGY_EDGES[0], "emax": ENERGY_EDGES[-1]}
    number = rng.poisson(sources.spectra.flux(**band) * exposure.sky(sources.vectors))
    origin = np.repeat(np.arange(len(sources), dtype=np.int32), number)
    energy = sources.spectra.draw_energy(origin, rng, **band)
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


def draw_photons(diffuse, sources, *, exposure, psf, rng):
    """Photons of a sky.

    Parameters
    ----------
    diffuse : Diffuse
        Interstellar and isotropic emission.
    sources : Sources
        True sources.
    exposure : SurveyExposure
        Exposure of the sky.
    psf : KingPSF
        Point-spread function.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    SimulatedSky
    """
    vectors, energy, background = _draw_diffuse(diffuse, exposure, rng)
    origin, source_vectors, source_energy = _draw_from_sources(sources, exposure, rng)
    vectors = np.concatenate([vectors, source_vectors])
    energy = np.concatenate([energy, source_energy])
    origin = np.concatenate([np.full(len(vectors) - len(origin), -1, dtype=np.int32), origin])
    vectors = _displace(vectors, psf.sample_offset(energy, rng), rng)
    return SimulatedSky(Photons(vectors, energy), origin, sources, background, diffuse.nside)


def simulate_photons(*, years=7.0, template=None, variant="P6V11", psf_scale=1.0, rng=0):
    """Simulate all photons above 10 GeV of the whole sky, each with its origin.

    Parameters
    ----------
    years, template, variant, psf_scale, rng
        See `simulate_sky`.

    Returns
    -------
    sky : SimulatedSky
        The photons, their origin and the true sources.
    exposure : SurveyExposure
        The exposure that detected them.

    Raises
    ------
    ValueError
        If the variant is unknown or a number is not positive.
    """
    _check_positive(years=years, psf_scale=psf_scale)
    rng = np.random.default_rng(rng)
    diffuse = perturb(interstellar(template, variant=variant), rng)
    exposure, psf = SurveyExposure(years), KingPSF(psf_scale)
    sources = draw_sources(rng)
    return draw_photons(diffuse, sources, exposure=exposure, psf=psf, rng=rng), exposure


def simulate_sky(
    *, years=7.0, template=None, variant="P6V11", psf_scale=1.0, center=None, radius=None, rng=0
):
    """Simulate all photons above 10 GeV that the LAT would detect in survey mode.

    Parameters
    ----------
    years : float
        Time of observation; 7 years is the exposure of 3FHL.
    template : str or path, optional
        HEALPix FITS table of interstellar templates; built-in shapes without it.
    variant : str
        Which set of templates of ``template``: "PIBREM+ICS", "API+AIC", "FPI+FIC" or "P6V11".
    psf_scale : float
        Factor on the width of the point-spread function.
    center : SkyCoord, optional
        Centre of a cone to keep; the whole sky without it.
    radius : Quantity [angle], optional
        Radius of the cone; given with ``center``, and only with it.
    rng : int or numpy.random.Generator
        Seed or source of randomness.

    Returns
    -------
    sky_map : SkyMap
        The photons as events.
    truth : QTable
        The true sources of that part of the sky, see `astro_unetloc.truth.truth_table`: names,
        positions, ``Flux`` and ``Spectral_Index`` above 10 GeV, ``Class``, ``Npred`` (the expected
        number of detected photons), ``Shape``, ``Radius`` (0 for point sources) and spectrum.

    Raises
    ------
    ValueError
        If the variant is unknown, a number is not positive, or only one of ``center`` and
        ``radius`` is given.

    Examples
    --------
    >>> from astro_unetloc import simulate_sky
    >>> sky_map, truth = simulate_sky(years=0.1, rng=1)
    >>> sky_map.n_photons > 5_000
    True
    """
    axis, reach = _cone(center, radius)
    sky, exposure = simulate_photons(
        years=years, template=template, variant=variant, psf_scale=psf_scale, rng=rng
    )
    kept = separation_deg(sky.photons.vectors, axis) <= reach
    sky_map = SkyMap(
        events=sky.photons.select(kept),
        footprint=DiscFootprint(axis, reach),
        energy_edges=ENERGY_EDGES[[0, -1]],
        name="simulated sky",
    )
    inside = separation_deg(sky.sources.vectors, axis) <= reach
    return sky_map, truth_table(sky.sources.select(inside), exposure)


def _check_positive(**values):
    for name, value in values.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be a positive number; got {value:g}; give another")


def _cone(center, radius):
    """Unit vector and radius in degrees of the part of the sky to keep."""
    if (center is None) != (radius is None):
        raise ValueError(
            f"center and radius belong together; got center {center} and radius {radius}; "
            "give both, or neither for the whole sky"
        )
    if center is None:
        return np.array([0.0, 0.0, 1.0]), 180.0
    return center.galactic.cartesian.xyz.value, float(radius.to_value("deg"))


def check_image(center, width_deg, pixel_deg):
    """Raise unless a square image around a Galactic position (degrees) fits a tangent plane."""
    if not 0 < pixel_deg <= width_deg <= _MAX_WIDTH_DEG:
        raise ValueError(
            f"expected 0 < pixel <= width <= {_MAX_WIDTH_DEG:g} deg; got a pixel of {pixel_deg:g} "
            f"and a width of {width_deg:g} deg; choose others"
        )
    if not (np.isfinite(center[0]) and abs(center[1]) <= 90):
        raise ValueError(
            f"center must be a Galactic longitude and a latitude within 90 deg; got {center[0]:g} "
            f"{center[1]:g}; choose another"
        )


def simulate_cube(
    *, center, width_deg, pixel_deg, years=7.0, template=None, variant="P6V11", rng=0
):
    """Simulate a square counts cube in sixteen logarithmic energy bins.

    Parameters
    ----------
    center : pair of float
        Galactic longitude and latitude in degrees.
    width_deg, pixel_deg : float
        Size of the image and of a pixel.
    years, template, variant, rng
        See `simulate_sky`.

    Returns
    -------
    counts : ndarray (16, ny, nx) of int32
        Photons.
    wcs : WCS
        Celestial coordinates of the image.
    energy_edges : ndarray (17,)
        In GeV.
    truth : QTable
        The true sources inside the image.

    Raises
    ------
    ValueError
        If the image has no pixels or does not fit on a tangent plane, or as `simulate_sky`.
    """
    check_image(center, width_deg, pixel_deg)
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    sky_map, truth = simulate_sky(
        years=years,
        template=template,
        variant=variant,
        rng=rng,
        center=SkyCoord(*center, unit="deg", frame="galactic"),
        radius=0.75 * width_deg * u.deg,
    )
    edges = np.geomspace(*sky_map.energy_edges, _N_CUBE_BINS + 1)
    counts, wcs = counts_cube(
        sky_map.events, edges, center=center, width_deg=width_deg, pixel_deg=pixel_deg
    )
    inside = inside_image(wcs, counts.shape[1:], truth["GLON"], truth["GLAT"])
    return counts, wcs, edges, truth[inside]
