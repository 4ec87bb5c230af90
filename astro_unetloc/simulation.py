"""Simulated skies as a user asks for them: photons or counts cubes, with their truth."""

import os

import numpy as np

from astro_unetloc.diffuse import interstellar, perturb
from astro_unetloc.event_lists import DiscFootprint
from astro_unetloc.maps import SkyMap
from astro_unetloc.population import counted_band, draw_sources
from astro_unetloc.realization import DEFAULT_RANGE, draw_photons
from astro_unetloc.response import KingPSF, SurveyExposure
from astro_unetloc.response_files import read_exposure, read_psf
from astro_unetloc.sky_files import counts_cube, inside_image
from astro_unetloc.truth import truth_table

__all__ = [
    "check_image",
    "simulate_cube",
    "simulate_photons",
    "simulate_sky",
]

_WHOLE_SKY = DiscFootprint(np.array([0.0, 0.0, 1.0]), 180.0)
_NO_SOURCES = dict.fromkeys(("agn", "pulsars", "galactic", "extended"), 0.0)
_N_CUBE_BINS = 16
# A tangent plane stretches without end: its corners must stay well within 90 deg of its centre.
_MAX_WIDTH_DEG = 80.0


def simulate_photons(
    *,
    years=7.0,
    template=None,
    variant="P6V11",
    isotropic=None,
    exposure=None,
    psf=None,
    psf_scale=1.0,
    energy_range=DEFAULT_RANGE,
    with_sources=True,
    cone=None,
    rng=0,
):
    """Simulate the photons of the sky, each with its origin.

    Parameters
    ----------
    years, template, variant, isotropic, exposure, psf, psf_scale, energy_range, with_sources
        See `simulate_sky`.
    cone : DiscFootprint, optional
        The part of the sky whose photons are kept; the whole sky without it.
    rng : int or numpy.random.Generator
        Seed or source of randomness.

    Returns
    -------
    sky : SimulatedSky
        The photons, their origin and the true sources.
    exposure : SurveyExposure or MapExposure
        The exposure that detected them.

    Raises
    ------
    ValueError
        If the variant is unknown, a number is not positive, or a file does not fit.
    """
    _check_positive(years=years, psf_scale=psf_scale)
    rng = np.random.default_rng(rng)
    diffuse = interstellar(template, variant=variant, isotropic=isotropic)
    exposure = SurveyExposure(years) if exposure is None else _read(exposure, read_exposure)
    psf = KingPSF(psf_scale) if psf is None else _read(psf, read_psf)
    energy_range = tuple(float(energy) for energy in energy_range)
    diffuse = perturb(diffuse, rng)
    numbers = {} if with_sources else _NO_SOURCES
    sources = draw_sources(rng, band=counted_band(energy_range), **numbers)
    sky = draw_photons(
        diffuse, sources, exposure=exposure, psf=psf, rng=rng, energy_range=energy_range, cone=cone
    )
    return sky, exposure


def _read(response, read):
    """A response itself, or read from its file."""
    return read(response) if isinstance(response, str | os.PathLike) else response


def simulate_sky(
    *,
    years=7.0,
    template=None,
    variant="P6V11",
    isotropic=None,
    exposure=None,
    psf=None,
    psf_scale=1.0,
    energy_range=DEFAULT_RANGE,
    with_sources=True,
    center=None,
    radius=None,
    rng=0,
):
    """Simulate all photons that the LAT would detect in survey mode.

    Parameters
    ----------
    years : float
        Time of observation; 7 years is the exposure of 3FHL.
    template : str or path, optional
        HEALPix FITS table of interstellar templates or a cube, see
        `astro_unetloc.diffuse.interstellar`; built-in shapes without it.
    variant : str
        Which set of templates of ``template``: "PIBREM+ICS", "API+AIC", "FPI+FIC" or "P6V11".
    isotropic : str or path, optional
        Isotropic spectrum in the official text format; built in without it.
    exposure : str, path, SurveyExposure or MapExposure, optional
        Exposure, such as a cube of gtexpcube2, instead of so many years of survey.
    psf : str, path, KingPSF or TablePSF, optional
        Point-spread function, such as a table of gtpsf, instead of the built-in one.
    psf_scale : float
        Factor on the width of the built-in point-spread function.
    energy_range : pair of float
        In GeV, between 0.3 and 2000. Below 10 GeV the whole sky holds tens of millions of photons:
        give a ``center`` and a ``radius`` where a part will do.
    with_sources : bool
        Whether the sky has sources; without them everything that is found is a false alarm.
    center : SkyCoord, optional
        Centre of a cone to keep; the whole sky without it.
    radius : Quantity [angle], optional
        Radius of the cone; given with ``center``, and only with it.
    rng : int or numpy.random.Generator
        Seed or source of randomness. A cone has the sources of the whole sky of the same seed, but
        photons of its own.

    Returns
    -------
    sky_map : SkyMap
        The photons as events.
    truth : QTable
        The true sources of that part of the sky, see `astro_unetloc.truth.truth_table`: names,
        positions, ``Flux`` (above 10 GeV, or of 1-100 GeV if the range starts lower),
        ``Spectral_Index``, ``Class``, ``Npred`` (the expected number of detected photons),
        ``Shape``, ``Radius`` (0 for point sources) and spectrum.

    Raises
    ------
    ValueError
        If the variant is unknown, a number is not positive, the energies are not covered, or only
        one of ``center`` and ``radius`` is given.

    Examples
    --------
    >>> from astro_unetloc import simulate_sky
    >>> sky_map, truth = simulate_sky(years=0.1, rng=1)
    >>> sky_map.n_photons > 5_000
    True
    """
    cone = _cone(center, radius)
    sky, exposure = simulate_photons(
        years=years, template=template, variant=variant, isotropic=isotropic, exposure=exposure,
        psf=psf, psf_scale=psf_scale, energy_range=energy_range, with_sources=with_sources,
        cone=cone, rng=rng,
    )  # fmt: skip
    edges = sky.energy_edges[[0, -1]]
    sky_map = SkyMap(
        events=sky.photons,
        footprint=_WHOLE_SKY if cone is None else cone,
        energy_edges=edges,
        name="simulated sky",
    )
    sources = sky.sources
    if cone is not None:
        sources = sources.select(cone.covers(sources.vectors))
    return sky_map, truth_table(sources, exposure, band=tuple(edges))


def _check_positive(**values):
    for name, value in values.items():
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be a positive number; got {value:g}; give another")


def _cone(center, radius):
    """The part of the sky to keep; None for all of it."""
    if (center is None) != (radius is None):
        raise ValueError(
            f"center and radius belong together; got center {center} and radius {radius}; "
            "give both, or neither for the whole sky"
        )
    if center is None:
        return None
    return DiscFootprint(center.galactic.cartesian.xyz.value, float(radius.to_value("deg")))


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


def simulate_cube(*, center, width_deg, pixel_deg, **options):
    """Simulate a square counts cube in sixteen logarithmic energy bins.

    Parameters
    ----------
    center : pair of float
        Galactic longitude and latitude in degrees.
    width_deg, pixel_deg : float
        Size of the image and of a pixel.
    **options
        As `simulate_sky`.

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
        **options,
        center=SkyCoord(*center, unit="deg", frame="galactic"),
        radius=0.75 * width_deg * u.deg,
    )
    edges = np.geomspace(*sky_map.energy_edges, _N_CUBE_BINS + 1)
    counts, wcs = counts_cube(
        sky_map.events, edges, center=center, width_deg=width_deg, pixel_deg=pixel_deg
    )
    inside = inside_image(wcs, counts.shape[1:], truth["GLON"], truth["GLAT"])
    return counts, wcs, edges, truth[inside]
