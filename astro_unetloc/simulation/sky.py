"""The truth of a simulated sky as a table: every true source, with the catalogue's column names.

Realizations of a sky: photons, not pixels, drawn from emission, exposure and PSF.

Every photon starts at a true direction and energy and is displaced by the point-spread function;
no noise is ever drawn on an image.

Simulated skies as a user asks for them: photons or counts cubes, with their truth.
"""

import os
from dataclasses import dataclass
from functools import partial

import numpy as np

from astro_unetloc.catalog.table import source_names
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.exposure import SurveyExposure, read_exposure
from astro_unetloc.irf.psf import KingPSF, read_psf
from astro_unetloc.irf.spectra import KINDS
from astro_unetloc.maps.events import DiscFootprint
from astro_unetloc.maps.photons import CHUNK_PHOTONS, Photons
from astro_unetloc.maps.skymap import OnFirstUse, SkyMap
from astro_unetloc.simulation.diffuse import (
    draw_true_photons,
    energy_bins,
    expected_density,
    interstellar,
    perturb,
)
from astro_unetloc.simulation.population import CLASSES, SHAPES, Sources, counted_band, draw_sources
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat

__all__ = [
    "DEFAULT_RANGE",
    "SimulatedSky",
    "check_image",
    "counts_cube",
    "draw_photons",
    "expected_photons",
    "healpix_cube",
    "inside_image",
    "simulate_cube",
    "simulate_photons",
    "simulate_sky",
    "truth_table",
]


def _tangent_wcs(center, width_deg, pixel_deg):
    """Tangent-plane WCS around ``center`` (Galactic, degrees) and its pixels per side."""
    from astropy.wcs import WCS

    n_pix = int(round(width_deg / pixel_deg))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    wcs.wcs.crval = list(center)
    wcs.wcs.crpix = [(n_pix + 1) / 2] * 2
    wcs.wcs.cdelt = [-pixel_deg, pixel_deg]
    return wcs, n_pix


def counts_cube(photons, energy_edges, *, center, width_deg, pixel_deg):
    """Bin photons into a square counts cube.

    Parameters
    ----------
    photons : Photons
        Those outside are left out.
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    center : pair of float
        Galactic longitude and latitude in degrees.
    width_deg, pixel_deg : float
        Size of the image and of a pixel.

    Returns
    -------
    counts : ndarray (n_energy, ny, nx) of int32
        Photons.
    wcs : WCS
        Tangent-plane coordinates of the image.
    """
    wcs, n_pix = _tangent_wcs(center, width_deg, pixel_deg)
    # all_world2pix knows no side of the sky: the far one is cut first
    near = photons.vectors @ vectors_from_lonlat(*center) > 0.5
    x, y = wcs.wcs_world2pix(*lonlat_from_vectors(photons.vectors[near]), 0)
    edges = np.arange(n_pix + 1) - 0.5
    sample = np.column_stack([photons.energy[near], y, x])
    counts, _ = np.histogramdd(sample, bins=(np.asarray(energy_edges), edges, edges))
    return counts.astype(np.int32), wcs


def inside_image(wcs, shape, lon, lat):
    """Whether positions (Quantity, in the frame of a WCS) lie in an image of shape (ny, nx)."""
    x, y = wcs.wcs_world2pix(lon.to_value("deg"), lat.to_value("deg"), 0)
    return (x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)


def healpix_cube(photons, energy_edges, nside):
    """Bin photons into HEALPix pixels (RING, Galactic).

    Parameters
    ----------
    photons : Photons
        Those outside the energies are left out.
    energy_edges : ndarray (n_energy + 1,)
        In GeV.
    nside : int
        Resolution.

    Returns
    -------
    ndarray (n_energy, 12 * nside**2) of int32
        Photons.
    """
    import healpy

    pixel = healpy.vec2pix(nside, *photons.vectors.T, nest=False)
    energy_bin = np.searchsorted(energy_edges, photons.energy, side="right") - 1
    n_bins, n_pixels = len(energy_edges) - 1, 12 * nside**2
    inside = (energy_bin >= 0) & (energy_bin < n_bins)
    place = energy_bin[inside] * n_pixels + pixel[inside]
    return np.bincount(place, minlength=n_bins * n_pixels).reshape(n_bins, -1).astype(np.int32)


def expected_photons(sources, exposure, band):
    """Photons that a survey detects of each source on average.

    Parameters
    ----------
    sources : Sources
        The n true sources.
    exposure : SurveyExposure
        Exposure of the sky.
    band : pair of float
        In GeV.

    Returns
    -------
    ndarray (n,)
    """
    return sources.spectra.flux(*band, weight=exposure.relative) * exposure.sky(sources.vectors)


def truth_table(sources, exposure, *, band=(10.0, 2000.0)):
    """True sources in the columns of the catalogue, and their spectra and shapes.

    Parameters
    ----------
    sources : Sources
        The n true sources.
    exposure : SurveyExposure
        Exposure of the sky, for ``Npred``.
    band : pair of float
        Band in GeV of ``Npred``, and of ``Flux`` and ``Spectral_Index`` too if it begins at 10 GeV
        or above; these are of 1-100 GeV otherwise, as in the 4FGL catalogue.

    Returns
    -------
    QTable
        ``Source_Name``, ``RAJ2000``, ``DEJ2000``, ``GLON``, ``GLAT``, ``Flux`` and
        ``Spectral_Index`` (mean over the photons), ``Class``, ``Npred`` (expected
        number of detected photons), ``Shape`` and ``Radius`` (of a disc; of a Gaussian the one
        that holds 68 %; 0 of a point source), then the spectrum: ``SpectrumType`` and the
        parameters of `astro_unetloc.irf.spectra.Spectra`, ``Flux_Density`` being its amplitude.
    """
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable

    lon, lat = lonlat_from_vectors(sources.vectors.reshape(-1, 3))
    icrs = SkyCoord(lon, lat, unit="deg", frame="galactic").icrs
    spectra = sources.spectra
    flux_band = band if band[0] >= 10.0 else (1.0, 100.0)
    table = QTable(
        {
            "Source_Name": source_names(icrs.ra.deg, icrs.dec.deg),
            "RAJ2000": icrs.ra.deg * u.deg,
            "DEJ2000": icrs.dec.deg * u.deg,
            "GLON": lon * u.deg,
            "GLAT": lat * u.deg,
            "Flux": spectra.flux(*flux_band) * u.Unit("ph cm-2 s-1"),
            "Spectral_Index": spectra.mean_index(*flux_band),
            "Class": np.array(CLASSES)[sources.source_class],
            "Npred": expected_photons(sources, exposure, band),
            "Shape": np.array(SHAPES)[sources.shape],
            "Radius": sources.radius_deg * u.deg,
            "SpectrumType": np.array(KINDS)[spectra.kind],
            "Pivot_Energy": spectra.pivot * u.GeV,
            "Flux_Density": spectra.amplitude * u.Unit("ph cm-2 s-1 GeV-1"),
            "Index": spectra.index,
            "beta": spectra.beta,
            "Expfactor": spectra.expfactor,
            "Exp_Index": spectra.exp_index,
        }
    )
    table.meta = {"FLUXEMIN": float(flux_band[0]), "FLUXEMAX": float(flux_band[1])}
    return table


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
        `astro_unetloc.simulation.diffuse.interstellar`; built-in shapes without it.
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
        The true sources of that part of the sky, see `truth_table`: names,
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
            raise InputError(f"{name} must be a positive number; got {value:g}; give another")


def _cone(center, radius):
    """The part of the sky to keep; None for all of it."""
    if (center is None) != (radius is None):
        raise InputError(
            f"center and radius belong together; got center {center} and radius {radius}; "
            "give both, or neither for the whole sky"
        )
    if center is None:
        return None
    return DiscFootprint(center.galactic.cartesian.xyz.value, float(radius.to_value("deg")))


def check_image(center, width_deg, pixel_deg):
    """Raise unless a square image around a Galactic position (degrees) fits a tangent plane."""
    if not 0 < pixel_deg <= width_deg <= _MAX_WIDTH_DEG:
        raise InputError(
            f"expected 0 < pixel <= width <= {_MAX_WIDTH_DEG:g} deg; got a pixel of {pixel_deg:g} "
            f"and a width of {width_deg:g} deg; choose others"
        )
    if not (np.isfinite(center[0]) and abs(center[1]) <= 90):
        raise InputError(
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
