"""Shapes of interstellar emission that need no file: a few parameters, fitted to the sky.

Gas in a disc and around the Sun, inverse Compton emission of a halo, the two bubbles and Loop I.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from astro_unetloc.sphere import separation_deg, vectors_from_lonlat

__all__ = ["Galaxy", "add_clouds", "draw_galaxy", "galaxy_shapes", "tilt"]

# Loop I is a shell around this Galactic direction with this outer radius (Berkhuijsen et al. 1971,
# A&A 14, 252); the bubbles are two ellipses (arXiv:1407.7905) that meet at the centre.
_LOOP_CENTER_DEG = (329.0, 17.5)
_LOOP_RADIUS_DEG = 58.0

_PLANE_HEIGHT = 0.03  # sine of the latitude scale of the molecular gas


@dataclass(frozen=True)
class Galaxy:
    """Parameters of the shapes; the defaults are a fit to the 3FHL photons.

    The command that made them is ``python benchmarks/fit_diffuse.py``.

    Attributes
    ----------
    disc_height : float
        Scale of the sine of latitude on which the gas of the thin disc falls.
    disc_profile : tuple of float
        Brightness of the disc at equal steps of longitude, from 0 upwards, the largest about 1.
    local_profile : tuple of float
        Brightness of the gas around the Sun at equal steps of longitude, relative to the disc.
    local_height : float
        Sine of latitude on which it falls.
    halo_height_deg, halo_width_deg : float
        Half axes of the inverse Compton halo in latitude and longitude.
    halo_index : float
        Power with which the halo falls outside.
    bubble_width_deg, bubble_height_deg : float
        Half axis in longitude, and full height in latitude, of a bubble.
    loop_thickness : float
        Thickness of the shell of Loop I relative to its radius.
    """

    disc_height: float = 0.0229
    disc_profile: tuple = (
        0.734, 0.686, 0.936, 0.534, 0.06, 0.436, 0.067, 0.045, 0.028, 0.046, 0.0, 0.0, 0.0, 0.016,
        0.0, 0.0, 0.0, 0.009, 0.098, 0.193, 0.223, 0.632, 0.638, 1.0,
    )  # fmt: skip
    local_profile: tuple = (0.1182, 0.0749, 0.089, 0.0615, 0.0506, 0.0799)
    local_height: float = 0.2168
    halo_height_deg: float = 25.6
    halo_width_deg: float = 53.6
    halo_index: float = 4.96
    bubble_width_deg: float = 21.7
    bubble_height_deg: float = 56.1
    loop_thickness: float = 0.142


def galaxy_shapes(galaxy, nside, *, normalized=True):
    """Maps (n_pixels,) of "GAS", "IC", "BUBBLES" and "LOOP" on HEALPix pixels (RING, Galactic).

    Each has mean 1 if ``normalized``.
    """
    lon, lat = _pixel_lonlat(nside)
    lon = (lon + 180) % 360 - 180
    shapes = {
        "GAS": _gas(galaxy, lon, np.abs(np.sin(np.radians(lat)))),
        "IC": _halo(galaxy, lon, lat),
        "BUBBLES": _bubbles(galaxy, lon, lat),
        "LOOP": _loop(galaxy, lon, lat),
    }
    if not normalized:
        return shapes
    return {name: shape / shape.mean() for name, shape in shapes.items()}


def _pixel_lonlat(nside):
    """Galactic longitude and latitude in degrees of all HEALPix pixels (RING)."""
    import healpy

    return healpy.pix2ang(nside, np.arange(12 * nside**2), nest=False, lonlat=True)


def _gas(galaxy, lon, sin_lat):
    """Brightness of the gas of the thin disc and around the Sun."""
    thin = _around(galaxy.disc_profile, lon) * np.exp(-sin_lat / galaxy.disc_height)
    local = _around(galaxy.local_profile, lon) / (1 + sin_lat / galaxy.local_height) ** 2
    return thin + local


def _around(profile, lon):
    """Linear interpolation of a profile at equal steps of longitude."""
    nodes = np.arange(len(profile)) * 360 / len(profile)
    return np.interp(lon, nodes, profile, period=360)


def _halo(galaxy, lon, lat):
    """Brightness of the inverse Compton halo."""
    radius = np.hypot(lat / galaxy.halo_height_deg, lon / galaxy.halo_width_deg)
    return (1 + radius) ** -galaxy.halo_index


def _bubbles(galaxy, lon, lat):
    """1 inside the two bubbles, 0 outside."""
    middle = galaxy.bubble_height_deg / 2
    ellipse = (lon / galaxy.bubble_width_deg) ** 2 + ((np.abs(lat) - middle) / middle) ** 2
    return (ellipse < 1).astype(float)


def _loop(galaxy, lon, lat):
    """Depth of a shell along the line of sight, observed from a point inside its far distance."""
    center = vectors_from_lonlat(*_LOOP_CENTER_DEG)
    distance = separation_deg(vectors_from_lonlat(lon, lat), center) / _LOOP_RADIUS_DEG
    outer = np.sqrt(np.clip(1 - distance**2, 0, None))
    inner = np.sqrt(np.clip((1 - galaxy.loop_thickness) ** 2 - distance**2, 0, None))
    return outer - inner


def tilt(shape, weights):
    """Shape (n_pixels,) (RING) times a sum of weighted windows: centre, two sides, plane.

    The first three weights belong to the windows (1 + cos l) / 2 and (1 - cos l)(1 +- sin l) / 4 of
    Galactic longitude, which add up to one: the density of cosmic rays varies over the Galaxy. The
    fourth, if there is one, adds the first window times exp(-abs(sin b) / 0.03).
    """
    nside = int(np.sqrt(len(shape) / 12))
    lon, lat = np.radians(_pixel_lonlat(nside))
    cos, sin = np.cos(lon), np.sin(lon)
    windows = [(1 + cos) / 2, (1 - cos) * (1 + sin) / 4, (1 - cos) * (1 - sin) / 4]
    windows.append(windows[0] * np.exp(-np.abs(np.sin(lat)) / _PLANE_HEIGHT))
    return shape * sum(weight * window for weight, window in zip(weights, windows))


def draw_galaxy(galaxy, rng, *, scatter):
    """Galaxy each of whose parameters is scattered; ``scatter`` is the sigma of its logarithm."""
    drawn = {}
    for field in fields(galaxy):
        value = np.array(getattr(galaxy, field.name))
        value = value * np.exp(rng.normal(0, scatter, value.shape))
        drawn[field.name] = tuple(value) if value.shape else float(value)
    return replace(galaxy, **drawn)


def add_clouds(shape, nside, rng, *, fraction, n_clouds=400):
    """Gas (n_pixels,) (RING) of which a fraction is moved into clouds; its mean stays the same.

    Clouds are drawn where the gas is; their sizes are log-normal around 1.5 deg.
    """
    import healpy

    cumulative = np.cumsum(shape)
    centers = np.searchsorted(cumulative, rng.random(n_clouds) * cumulative[-1])
    size_deg = np.clip(rng.lognormal(np.log(1.5), 0.6, n_clouds), 0.3, 6.0)
    brightness = rng.lognormal(0.0, 0.8, n_clouds)
    clouds = np.zeros(len(shape))
    for center, size, total in zip(centers, np.radians(size_deg), brightness):
        vector = np.array(healpy.pix2vec(nside, center, nest=False))
        near = healpy.query_disc(nside, vector, 3 * size, inclusive=True)
        away = np.stack(healpy.pix2vec(nside, near, nest=False), axis=-1) - vector
        profile = np.exp(-np.sum(away**2, axis=1) / (2 * size**2))
        clouds[near] += total * profile / profile.sum()
    return (1 - fraction) * shape + fraction * clouds * (shape.sum() / clouds.sum())
