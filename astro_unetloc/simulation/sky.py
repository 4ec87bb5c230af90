"""Skies as the LAT would observe them: photons drawn from emission, exposure and PSF.

Every photon starts at a true direction and energy and is displaced by the point-spread function;
no noise is drawn on an image. `simulate_sky` returns the photons with the table of true sources.
"""

from dataclasses import dataclass

import astropy.units as u
import healpy
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from astropy.wcs import WCS

from astro_unetloc.catalog.table import source_names
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.exposure import SurveyExposure, read_exposure
from astro_unetloc.irf.psf import KingPSF, psf_of, read_psf
from astro_unetloc.irf.spectra import KINDS
from astro_unetloc.maps.photons import CHUNK_PHOTONS, DiscFootprint, Photons
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.simulation.diffuse import (
    check_number,
    draw_true_photons,
    energy_bins,
    expected_density,
    interstellar,
    perturb,
)
from astro_unetloc.simulation.population import CLASSES, SHAPES, Sources, counted_band, draw_sources
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat

# Energies (GeV) that are simulated by default: those of 3FHL.
DEFAULT_RANGE = (10.0, 2000.0)

WHOLE_SKY = DiscFootprint(np.array([0.0, 0.0, 1.0]), 180.0)
_NO_SOURCES = dict.fromkeys(("agn", "pulsars", "galactic", "extended"), 0.0)
N_CUBE_BINS = 16
# The corners of an image on a tangent plane must stay well within 90 deg of its centre.
_MAX_WIDTH_DEG = 80.0


@dataclass(frozen=True)
class SimulatedSky:
    """A realization: photons with their origin, and the true sources."""

    photons: Photons  # in no order
    origin: np.ndarray  # (n_photons,) of int32: row of the source, -1 for diffuse emission
    sources: Sources  # those without photons included
    nside: int  # HEALPix resolution of `background` (RING, Galactic)
    energy_edges: np.ndarray  # (n_bins + 1,) in GeV; the photons lie between the ends
    psf: object  # of the photons: KingPSF or TablePSF
    # Expected diffuse photons per square degree (n_pixels, n_bins) of float32, if computed.
    background: np.ndarray | None = None
    diffuse_drawn: bool = True  # whether `photons` includes those of diffuse emission
    footprint: object = None  # SkyMap of the sky area of the photons; None is the whole sky


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
    """Photons that the LAT would detect in survey mode, and the sources that emitted them.

    Parameters
    ----------
    years : float
        Time of observation; 7 years is the exposure of 3FHL.
    template : str or path, optional
        HEALPix FITS table of interstellar templates or a cube, see
        `astro_unetloc.simulation.diffuse.interstellar`; built-in shapes without it.
    variant : str
        Set of templates of ``template``: "PIBREM+ICS", "API+AIC", "FPI+FIC" or "P6V11".
    isotropic : str or path, optional
        Isotropic spectrum in the official text format; built in without it.
    exposure : str, path, SurveyExposure or MapExposure, optional
        Exposure, such as a cube of gtexpcube2, instead of ``years`` of survey.
    psf : str, path, KingPSF or TablePSF, optional
        Point-spread function, such as a table of gtpsf, instead of the built-in one.
    psf_scale : float
        Factor on the width of the built-in point-spread function.
    energy_range : pair of float
        In GeV, between 0.3 and 2000. Below 10 GeV the whole sky holds tens of millions of photons:
        give a ``center`` and a ``radius`` if a part of it is enough.
    with_sources : bool
        Whether the sky has sources; without them every detection is a false positive.
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
        The true sources in that part of the sky: names, positions, ``Flux``
        (above 10 GeV, or of 1-100 GeV if the range starts lower), ``Spectral_Index``, ``Class``,
        ``Npred`` (the expected number of detected photons), ``Counts`` (their number),
        ``Shape``, ``Radius`` (0 for point sources) and spectrum.

    Examples
    --------
    >>> from astro_unetloc import simulate_sky
    >>> sky_map, truth = simulate_sky(years=0.1, rng=1)
    >>> sky_map.n_photons > 5_000
    True
    """
    if (center is None) != (radius is None):
        raise InputError(
            f"center and radius belong together; got center {center} and radius {radius}; "
            "give both, or neither for the whole sky"
        )
    cone = None
    if center is not None:
        cone = DiscFootprint(center.galactic.cartesian.xyz.value, float(radius.to_value("deg")))
    sky, exposure = simulate_photons(
        years=years, template=template, variant=variant, isotropic=isotropic, exposure=exposure,
        psf=psf, psf_scale=psf_scale, energy_range=energy_range, with_sources=with_sources,
        cone=cone, rng=rng,
    )  # fmt: skip
    edges, footprint = sky.energy_edges[[0, -1]], cone or WHOLE_SKY
    inside = footprint.covers(sky.sources.vectors)
    counts = count_photons(sky.origin, len(inside))[inside]
    options = {"footprint": footprint, "energy_edges": edges, "name": "simulated sky"}
    sky_map, sources = SkyMap(events=sky.photons, **options), sky.sources.select(inside)
    return sky_map, truth_table(sources, exposure, band=tuple(edges), counts=counts)


def simulate_photons(
    *,
    years=7.0,
    exposure=None,
    psf=None,
    psf_scale=1.0,
    energy_range=DEFAULT_RANGE,
    with_sources=True,
    with_background=False,
    cone=None,
    rng=0,
    **emission,
):
    """`SimulatedSky` of the options of `simulate_sky`, and the exposure that detected its photons.

    ``cone`` is the `DiscFootprint` of the photons that are kept; ``with_background`` also computes
    the expected diffuse photons.
    """
    for name, value in (("years", years), ("psf_scale", psf_scale)):
        if not 0 < value < np.inf:
            raise InputError(f"{name} must be a positive number; got {value:g}; give another")
    rng = np.random.default_rng(rng)
    diffuse = interstellar(**emission)
    response = {
        "exposure": SurveyExposure(years) if exposure is None else read_exposure(exposure),
        "psf": KingPSF(psf_scale) if psf is None else psf_of(read_psf(psf)),
    }
    energy_range = tuple(float(energy) for energy in energy_range)
    diffuse, numbers = perturb(diffuse, rng), {} if with_sources else _NO_SOURCES
    sources = draw_sources(rng, band=counted_band(energy_range), **numbers)
    options = {"energy_range": energy_range, "cone": cone, "with_background": with_background}
    return draw_photons(diffuse, sources, rng=rng, **response, **options), response["exposure"]


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
    with_background=False,
):
    """`SimulatedSky` of given emission and sources, in the response ``exposure`` and ``psf``.

    ``cone`` is the `DiscFootprint` of the photons that are kept; ``with_diffuse`` draws photons of
    diffuse emission, ``with_background`` computes the expected ones.
    """
    edges = energy_bins(*energy_range)
    parts = list(_draw_source_photons(sources, exposure, psf, edges[[0, -1]], cone, rng))
    if with_diffuse:
        wanted = None
        if cone is not None:  # photons of pixels around it may be displaced into the cone
            reach = np.radians(min(cone.radius_deg + psf.max_offset_deg, 180.0))
            wanted = np.zeros(12 * diffuse.nside**2, dtype=bool)
            wanted[healpy.query_disc(diffuse.nside, cone.center, reach, inclusive=True)] = True
        for true in draw_true_photons(diffuse, exposure, edges, rng, wanted=wanted):
            photons = _blur(true, psf, rng)
            photons = photons if cone is None else photons.select(cone.covers(photons.vectors))
            parts.append((photons, np.full(len(photons), -1, dtype=np.int32)))
    background = expected_density(diffuse, exposure, psf, edges) if with_background else None
    photons = Photons.concatenate([part for part, _ in parts])
    origin = np.concatenate([origin for _, origin in parts])
    response = diffuse.nside, edges, psf
    return SimulatedSky(photons, origin, sources, *response, background, with_diffuse)


def _draw_source_photons(sources, exposure, psf, band, cone, rng):
    """Photons of sources and the row of their source, (Photons, (n,)), a chunk at a time."""
    rows = np.arange(len(sources))
    if cone is not None:
        distance = separation_deg(sources.vectors, cone.center)
        rows = rows[distance <= cone.radius_deg + psf.max_offset_deg + 5 * sources.radius_deg]
    chosen = sources.select(rows)
    expected = chosen.spectra.flux(*band) * exposure.sky(chosen.vectors)
    check_number(expected.sum())
    chunk = (np.cumsum(expected) // CHUNK_PHOTONS).astype(int)
    for number in range(chunk.max(initial=0) + 1):
        here = np.flatnonzero(chunk == number)
        part = chosen.select(here)
        origin = np.repeat(np.arange(len(part), dtype=np.int32), rng.poisson(expected[here]))
        energy = part.spectra.draw_energy(origin, rng, emin=band[0], emax=band[1])
        detected = rng.random(len(origin)) < exposure.relative(energy)
        origin, energy = origin[detected], energy[detected]
        true = Photons(_draw_directions(part, origin, rng), energy)
        photons, origin = _blur(true, psf, rng), rows[here][origin]
        if cone is not None:
            inside = cone.covers(photons.vectors)
            photons, origin = photons.select(inside), origin[inside]
        yield photons, origin.astype(np.int32)


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


def _blur(photons, psf, rng):
    """Photons displaced by the point-spread function."""
    offset = psf.sample_offset(photons.energy, rng)
    return Photons(_displace(photons.vectors, offset, rng), photons.energy)


def _displace(vectors, offset_deg, rng):
    """Move unit vectors (n, 3) by given angles in random directions."""
    x, y, z = vectors.T
    angle, offset = rng.uniform(0, 2 * np.pi, len(vectors)), np.radians(offset_deg)
    # unit vectors to the east and north; any pair serves near a pole
    rho = np.hypot(x, y)
    polar = rho < 1e-9
    east_x, east_y = np.where(polar, [[1.0], [0.0]], [-y, x] / np.where(polar, 1.0, rho))
    along, east, north = np.cos(offset), np.sin(offset) * np.cos(angle), np.sin(offset)
    north = north * np.sin(angle)
    x_moved = along * x + east * east_x - north * z * east_y
    y_moved = along * y + east * east_y + north * z * east_x
    z_moved = along * z + north * (x * east_y - y * east_x)
    moved = np.stack([x_moved, y_moved, z_moved], axis=-1)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


# True sources


def expected_photons(sources, exposure, band):
    """Mean number of detected photons (n,) of n sources in a band (GeV) and an exposure."""
    return sources.spectra.flux(*band, weight=exposure.relative) * exposure.sky(sources.vectors)


def count_photons(origin, n):
    """Photons (n,) of each of n sources, from the row of the source of each photon."""
    return np.bincount(origin[origin >= 0], minlength=n)


def truth_table(sources, exposure, *, band=(10.0, 2000.0), counts=None):
    """Table of the true sources in the columns of the catalogue, with their spectra and shapes.

    ``Npred`` is the mean number of detected photons in ``band`` (GeV), ``Counts`` the number that
    was drawn, a column only if they are given. ``Flux`` and the mean
    ``Spectral_Index`` are of the same band if it begins at 10 GeV or above, else of 1-100 GeV as in
    4FGL. ``Radius`` is 0 for a point source and holds 68 % of a Gaussian.
    """
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
    if counts is not None:
        table.add_column(counts, name="Counts", index=table.colnames.index("Npred") + 1)
    table.meta = {"FLUXEMIN": float(flux_band[0]), "FLUXEMAX": float(flux_band[1])}
    return table


# Images and cubes


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


def counts_cube(photons, energy_edges, *, center, width_deg, pixel_deg):
    """Counts (n_energy, ny, nx) of int32 of photons in a square image, and its tangent-plane WCS.

    ``energy_edges`` are in GeV, ``center`` is a Galactic longitude and latitude in degrees. Photons
    outside are left out.
    """
    n_pix = int(round(width_deg / pixel_deg))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["GLON-TAN", "GLAT-TAN"], list(center)
    wcs.wcs.crpix, wcs.wcs.cdelt = [(n_pix + 1) / 2] * 2, [-pixel_deg, pixel_deg]
    x, y = _image_position(wcs, photons.vectors)
    edges = np.arange(n_pix + 1) - 0.5
    sample = np.column_stack([photons.energy, y, x])
    counts, _ = np.histogramdd(sample, bins=(np.asarray(energy_edges), edges, edges))
    return counts.astype(np.int32), wcs


def _image_position(wcs, vectors):
    """0-based pixel coordinates x, y of directions (n, 3); NaN on the far side of the sky."""
    near = vectors @ vectors_from_lonlat(*wcs.wcs.crval) > 0.5  # the projection is ambiguous
    position = np.full((2, len(vectors)), np.nan)
    position[:, near] = wcs.wcs_world2pix(*lonlat_from_vectors(vectors[near]), 0)
    return position


def inside_image(wcs, shape, vectors):
    """Whether directions (n, 3) lie in an image of shape (ny, nx) and a tangent-plane WCS."""
    x, y = _image_position(wcs, vectors)
    return (x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)


def healpix_cube(photons, energy_edges, nside):
    """Counts (n_energy, n_pixels) of int32 of photons in HEALPix pixels (RING, Galactic).

    Photons outside the ``energy_edges`` (n_energy + 1,) in GeV are left out.
    """
    n_bins, n_pixels = len(energy_edges) - 1, 12 * nside**2
    index = (np.searchsorted(energy_edges, photons.energy, side="right") - 1) * n_pixels
    index += healpy.vec2pix(nside, *photons.vectors.T, nest=False)
    inside = index[(index >= 0) & (index < n_bins * n_pixels)]
    return np.bincount(inside, minlength=n_bins * n_pixels).reshape(n_bins, -1).astype(np.int32)


def simulate_cube(*, center, width_deg, pixel_deg, **options):
    """Square counts cube of a simulated sky in sixteen logarithmic energy bins.

    ``center`` is a Galactic longitude and latitude in degrees, ``options`` are those of
    `simulate_sky`. Returns counts (16, ny, nx), the WCS, the edges (17,) in GeV and the table of
    the true sources inside the image.
    """
    check_image(center, width_deg, pixel_deg)
    place = {"center": SkyCoord(*center, unit="deg", frame="galactic")}
    sky_map, truth = simulate_sky(**options, **place, radius=0.75 * width_deg * u.deg)
    edges = np.geomspace(*sky_map.energy_edges, N_CUBE_BINS + 1)
    image = {"center": center, "width_deg": width_deg, "pixel_deg": pixel_deg}
    counts, wcs = counts_cube(sky_map.events, edges, **image)
    positions = vectors_from_lonlat(truth["GLON"].to_value("deg"), truth["GLAT"].to_value("deg"))
    return counts, wcs, edges, truth[inside_image(wcs, counts.shape[1:], positions)]
