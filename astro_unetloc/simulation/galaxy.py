"""Built-in shapes of interstellar emission that need no file: a few parameters, fitted to the sky.

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


_PLANE_HEIGHT = 0.03  # sine of latitude; the molecular gas


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
        How fast it falls outside.
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
    """Shapes, mean 1, on HEALPix pixels (RING, Galactic).

    Parameters
    ----------
    galaxy : Galaxy
        Parameters.
    nside : int
        Resolution.
    normalized : bool
        Whether every shape has mean 1.

    Returns
    -------
    dict of str to ndarray (n_pixels,)
        "GAS", "IC", "BUBBLES" and "LOOP".
    """
    import healpy

    lon, lat = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=False, lonlat=True)
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


def _gas(galaxy, lon, sin_lat):
    thin = _around(galaxy.disc_profile, lon) * np.exp(-sin_lat / galaxy.disc_height)
    local = _around(galaxy.local_profile, lon) / (1 + sin_lat / galaxy.local_height) ** 2
    return thin + local


def _around(profile, lon):
    """A profile at equal steps of longitude, between its nodes a straight line."""
    nodes = np.arange(len(profile)) * 360 / len(profile)
    return np.interp(lon, nodes, profile, period=360)


def _halo(galaxy, lon, lat):
    radius = np.hypot(lat / galaxy.halo_height_deg, lon / galaxy.halo_width_deg)
    return (1 + radius) ** -galaxy.halo_index


def _bubbles(galaxy, lon, lat):
    middle = galaxy.bubble_height_deg / 2
    ellipse = (lon / galaxy.bubble_width_deg) ** 2 + ((np.abs(lat) - middle) / middle) ** 2
    return (ellipse < 1).astype(float)


def tilt(shape, weights):
    """A shape (n_pixels,) (RING) weighted anew: centre, two sides, plane.

    The first three weights belong to the windows (1 + cos l) / 2 and (1 - cos l)(1 +- sin l) / 4 of
    Galactic longitude, which add up to one: cosmic rays are not alike all over the Galaxy. The
    fourth, if there is one, adds the first window times exp(-abs(sin b) / 0.03).
    """
    import healpy

    nside = healpy.npix2nside(len(shape))
    lon, lat = (
        np.radians(angle)
        for angle in healpy.pix2ang(nside, np.arange(len(shape)), nest=False, lonlat=True)
    )
    cos, sin = np.cos(lon), np.sin(lon)
    windows = [(1 + cos) / 2, (1 - cos) * (1 + sin) / 4, (1 - cos) * (1 - sin) / 4]
    windows.append(windows[0] * np.exp(-np.abs(np.sin(lat)) / _PLANE_HEIGHT))
    return shape * sum(weight * window for weight, window in zip(weights, windows))


def _loop(galaxy, lon, lat):
    """Depth of a shell along the line of sight, seen from a point inside its far distance."""
    center = vectors_from_lonlat(*_LOOP_CENTER_DEG)
    distance = separation_deg(vectors_from_lonlat(lon, lat), center) / _LOOP_RADIUS_DEG
    outer = np.sqrt(np.clip(1 - distance**2, 0, None))
    inner = np.sqrt(np.clip((1 - galaxy.loop_thickness) ** 2 - distance**2, 0, None))
    return outer - inner


def draw_galaxy(galaxy, rng, *, scatter):
    """Another galaxy: every parameter scattered.

    Parameters
    ----------
    galaxy : Galaxy
        Parameters to scatter.
    rng : numpy.random.Generator
        Source of randomness.
    scatter : float
        Standard deviation of the logarithm of each parameter.

    Returns
    -------
    Galaxy
    """
    drawn = {}
    for field in fields(galaxy):
        value = np.array(getattr(galaxy, field.name))
        value = value * np.exp(rng.normal(0, scatter, value.shape))
        drawn[field.name] = tuple(value) if value.shape else float(value)
    return replace(galaxy, **drawn)


def add_clouds(shape, nside, rng, *, share, n_clouds=400):
    """Gas of which a share is in clouds, drawn where the gas is; the mean stays the same.

    Parameters
    ----------
    shape : ndarray (n_pixels,)
        Smooth gas (RING).
    nside : int
        Its resolution.
    rng : numpy.random.Generator
        Source of randomness.
    share : float
        Share of the emission that clouds have, 0 to 1.
    n_clouds : int
        How many. Their sizes are log-normal around 1.5 deg.

    Returns
    -------
    ndarray (n_pixels,)
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
    return (1 - share) * shape + share * clouds * (shape.sum() / clouds.sum())
