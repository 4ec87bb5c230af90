"""Skies to train on: simulated, each unlike any other, or read from folders of components."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from astro_unetloc.components import read_components, sky_of
from astro_unetloc.diffuse import TEMPLATE_SETS, interstellar, perturb
from astro_unetloc.geometry import TangentPlane, lonlat_from_vectors
from astro_unetloc.population import counted_band, draw_sources
from astro_unetloc.realization import draw_photons
from astro_unetloc.response import KingPSF, SurveyExposure

__all__ = [
    "YEARS",
    "check_template",
    "components_within",
    "file_digest",
    "folder_digest",
    "observed_directions",
    "random_plane",
    "simulated_sky",
    "sky_of_folder",
]

# Exposure of a simulated sky; an observation takes a part of it.
YEARS = 16.0
# Grid of the directions in which patches of an incomplete sky are centred: 0.2 deg.
_CENTER_NSIDE = 256


def simulated_sky(rng, template, energy_range):
    """A sky with another interstellar model, populations and PSF than any other.

    The photons of diffuse emission are drawn patch by patch, see `astro_unetloc.observation`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    template : str, path or None
        File of interstellar templates, one set of which or the built-in shapes are taken.
    energy_range : pair of float
        In GeV.

    Returns
    -------
    SimulatedSky
    """
    variant = str(rng.choice([*TEMPLATE_SETS, "built-in"]))
    builtin = template is None or variant == "built-in"
    diffuse = interstellar(None if builtin else template, variant="P6V11" if builtin else variant)
    diffuse = perturb(
        diffuse,
        rng,
        scatter=0.2,
        small_scale=rng.uniform(0.1, 0.45),
        slope=rng.uniform(2.2, 3.2),
    )
    sources = draw_sources(
        rng,
        band=counted_band(energy_range),
        agn=rng.uniform(0.6, 1.4),
        pulsars=rng.uniform(0.6, 2.5),
        galactic=rng.uniform(0.6, 2.5),
        extended=rng.uniform(0.5, 1.5),
    )
    psf = KingPSF(rng.uniform(0.92, 1.1))
    return draw_photons(
        diffuse,
        sources,
        exposure=SurveyExposure(YEARS),
        psf=psf,
        rng=rng,
        energy_range=energy_range,
        with_diffuse=False,
    )


def components_within(folder, energy_range):
    """The components of a folder, whose cubes must cover an energy range.

    Parameters
    ----------
    folder : str or path
        See `astro_unetloc.components.read_components`.
    energy_range : pair of float
        In GeV.

    Returns
    -------
    SkyComponents

    Raises
    ------
    FileNotFoundError, ValueError
        If the folder is not complete, a file cannot be read, or the cubes do not cover the range.
    """
    components = read_components(folder)
    (low, high), found = energy_range, components.maps["background"].energy_edges[[0, -1]]
    if low < found[0] * 0.999 or high > found[1] * 1.001:
        raise ValueError(
            f"{folder}: expected cubes of {low:g}-{high:g} GeV, the bands of the set; got "
            f"{found[0]:g}-{found[1]:g} GeV; choose other bands or make other cubes"
        )
    return components


def sky_of_folder(folder, energy_range, seed):
    """The sky of a folder of components, limited to an energy range.

    Parameters
    ----------
    folder, energy_range
        See `components_within`, which raises the same errors.
    seed : int
        Of the places of the photons inside their pixels and of their origins.

    Returns
    -------
    SimulatedSky
    """
    sky = sky_of(components_within(folder, energy_range), rng=seed)
    low, high = energy_range
    inside = (sky.photons.energy >= low) & (sky.photons.energy < high)
    return replace(sky, photons=sky.photons.select(inside), origin=sky.origin[inside])


def check_template(template):
    """Read all that skies may take of a file here, where an error is seen, not in a worker."""
    for variant in TEMPLATE_SETS if template else ():
        interstellar(template, variant=variant)


def file_digest(path):
    """SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def folder_digest(folder):
    """SHA-256 of the names and contents of all files of a folder of components."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    listing = "\n".join(f"{path.name} {file_digest(path)}" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def observed_directions(sky):
    """Directions in which a sky was observed.

    Parameters
    ----------
    sky : SimulatedSky
        The sky.

    Returns
    -------
    ndarray (n, 3) or None
        Galactic unit vectors, 0.2 deg apart; None for the whole sky.

    Raises
    ------
    ValueError
        If nothing was observed.
    """
    if sky.footprint is None:
        return None
    import healpy

    pixels = np.arange(12 * _CENTER_NSIDE**2)
    centers = np.stack(healpy.pix2vec(_CENTER_NSIDE, pixels, nest=False), axis=-1)
    seen = sky.footprint.covers(centers)
    if not seen.any():
        raise ValueError("expected a sky that was observed somewhere; got none; check its cubes")
    return None if seen.all() else centers[seen]


def random_plane(rng, config, directions=None):
    """A tangent plane at any rotation.

    Half of the planes of a whole sky lie anywhere, half where it is crowded: along the Galactic
    plane and around the Galactic centre. Those of a part of the sky are centred anywhere in it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    config : GridConfig
        Size and pixels of the plane.
    directions : ndarray (n, 3), optional
        Where it may be centred, from `observed_directions`; anywhere without.

    Returns
    -------
    TangentPlane
    """
    lon, lat = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-1, 1)))
    place = rng.random()
    if directions is not None:
        lon, lat = lonlat_from_vectors(rng.choice(directions))
    elif place < 0.25:  # along the Galactic plane
        lat = rng.normal(0, 5)
    elif place < 0.5:  # around the Galactic centre
        lon, lat = rng.normal(0, 25) % 360, rng.normal(0, 3)
    return TangentPlane(
        lon,
        float(np.clip(lat, -90, 90)),
        config.patch_pixels,
        config.pixel_deg,
        rng.uniform(0, 360),
    )
