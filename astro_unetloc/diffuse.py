"""Diffuse emission: interstellar shapes or cubes and isotropic, normalized to the LAT's sky."""

from dataclasses import dataclass, field, replace

import numpy as np

from astro_unetloc.galaxy import Galaxy, add_clouds, draw_galaxy, galaxy_shapes, tilt
from astro_unetloc.spectral_bins import integrate_intensity, rebin_intensity
from astro_unetloc.templates import (
    is_template_cube,
    read_isotropic,
    read_template_cube,
    read_template_shapes,
)

__all__ = [
    "ENERGY_EDGES",
    "LOW_ENERGY_EDGES",
    "TEMPLATE_SETS",
    "Diffuse",
    "energy_bins",
    "interstellar",
    "perturb",
]

# Edges (GeV) of the bins in which intensities are given.
ENERGY_EDGES = np.array([10.0, 18.651314, 47.50874, 165.26936, 574.925, 2000.0])
# Edges (GeV) of the bins below them.
LOW_ENERGY_EDGES = np.array([0.3, 0.5, 1.0, 2.0, 4.0, 7.0, 10.0])
# Intensities (ph cm-2 s-1 sr-1 per bin, for a shape of mean 1) of the built-in shapes and of each
# set of templates: `python benchmarks/fit_diffuse.py DATA`, a fit to the 3FHL all-sky counts cube
# and its |b| and longitude profiles, with the mean numbers of `astro_unetloc.population`.
# Above 20 GeV the built-in halo and loop are too faint to fit; their spectra are those of the gas
# and of inverse Compton emission, E^-2.6.
_INTENSITY = {
    "GAS": (5.9e-08, 2.68e-08, 7.74e-09, 1.32e-09, 2.35e-10),
    "IC": (2.1e-09, 1.05e-09, 2.5e-10, 3.5e-11, 5e-12),
    "BUBBLES": (2.24e-09, 1.32e-09, 4.48e-10, 4.43e-11, 2.82e-12),
    "LOOP": (3.47e-10, 1.58e-10, 4.6e-11, 7.7e-12, 1.3e-12),
    "ISOTROPIC": (2.84e-08, 1.38e-08, 3.34e-09, 3.76e-10, 9.37e-11),
}
TEMPLATE_SETS = {
    "PIBREM+ICS": {
        "PIBREM": (4.13e-08, 1.94e-08, 5.77e-09, 1.03e-09, 2.04e-10),
        "ICS": (1.67e-08, 7.12e-09, 1.72e-09, 1.89e-10, 3.79e-12),
        "BUBBLES": (2.67e-09, 1.62e-09, 5e-10, 5.15e-11, 2.04e-12),
        "ISOTROPIC": (2.96e-08, 1.45e-08, 3.65e-09, 4.8e-10, 1.3e-10),
    },
    "API+AIC": {
        "API": (4.81e-08, 2.21e-08, 6.87e-09, 1.23e-09, 2.22e-10),
        "AIC": (1.28e-08, 5.79e-09, 7.37e-10, 1.47e-11, 2.95e-13),
        "BUBBLES": (2.3e-09, 1.44e-09, 4.42e-10, 4.28e-11, 1.09e-12),
        "ISOTROPIC": (2.73e-08, 1.33e-08, 3.61e-09, 4.83e-10, 1.12e-10),
    },
    "FPI+FIC": {
        "FPI": (5.37e-08, 2.39e-08, 6.98e-09, 1.21e-09, 2.09e-10),
        "FIC": (1.05e-08, 5.69e-09, 1.34e-09, 1.46e-10, 3.73e-11),
        "BUBBLES": (1.67e-09, 1.04e-09, 3.48e-10, 3.3e-11, 6.59e-13),
        "ISOTROPIC": (2.65e-08, 1.28e-08, 3.15e-09, 3.81e-10, 9.02e-11),
    },
    "P6V11": {
        "P6V11": (6.11e-08, 2.79e-08, 7.95e-09, 1.32e-09, 2.37e-10),
        "BUBBLES": (1.58e-09, 1.08e-09, 3.36e-10, 2.35e-11, 4.71e-13),
        "ISOTROPIC": (2.95e-08, 1.43e-08, 3.52e-09, 4.23e-10, 9.98e-11),
    },
}
# Weights of the gas of each set, from the same fit: see `astro_unetloc.galaxy.tilt`. The templates
# alone leave 25-35 % of the inner Galaxy.
_TILT = {
    "PIBREM": (2.485, 0.419, 0.096, 0.099),
    "API": (1.642, 0.719, 0.639, 0.793),
    "FPI": (0.997, 1.01, 0.993, 0.554),
    "P6V11": (1.19, 0.923, 0.887, 0.244),
}
# Intensities in the bins of LOW_ENERGY_EDGES relative to the first of ENERGY_EDGES: of gas and
# inverse Compton the official model gll_iem_v07 within 5 deg of the Galactic centre, of isotropic
# emission iso_P8R2_SOURCE_V6_v06, of the bubbles and the loop E^-1.9 (arXiv:1407.7905).
_LOW_RATIO = {
    "": (84.1, 67.7, 31.8, 12.58, 3.99, 1.211),
    "ISOTROPIC": (47.0, 25.9, 9.06, 3.28, 1.546, 0.838),
    "BUBBLES": (20.1, 16.0, 8.59, 4.60, 2.10, 0.882),
    "LOOP": (20.1, 16.0, 8.59, 4.60, 2.10, 0.882),
}
_SMOOTH = ("ISOTROPIC", "BUBBLES", "IC", "LOOP")
_CUBE = "INTERSTELLAR"


def energy_bins(emin, emax):
    """Bins in which skies of an energy range are simulated.

    Parameters
    ----------
    emin, emax : float
        In GeV, from 0.3 to 2000.

    Returns
    -------
    ndarray (n_bins + 1,)
        Edges in GeV: the range, and those of `LOW_ENERGY_EDGES` and `ENERGY_EDGES` inside it.

    Raises
    ------
    ValueError
        If the range is empty or goes beyond what is known.

    Examples
    --------
    >>> from astro_unetloc.diffuse import energy_bins
    >>> energy_bins(5, 30).round(1).tolist()
    [5.0, 7.0, 10.0, 18.7, 30.0]
    """
    low, high = LOW_ENERGY_EDGES[0], ENERGY_EDGES[-1]
    if not low <= emin < emax <= high:
        raise ValueError(
            f"energies must increase and lie within {low:g}-{high:g} GeV; got {emin:g} to "
            f"{emax:g} GeV; choose others"
        )
    edges = np.concatenate([LOW_ENERGY_EDGES, ENERGY_EDGES[1:]])
    return np.concatenate([[emin], edges[(edges > emin) & (edges < emax)], [emax]])


@dataclass(frozen=True)
class Diffuse:
    """Interstellar and isotropic emission.

    Attributes
    ----------
    nside : int
        HEALPix resolution of the shapes (RING, Galactic).
    shapes : dict of str to ndarray (n_pixels,)
        Shape of each component, mean 1.
    intensity : dict of str to ndarray (n_bins,)
        Photon intensity in ph cm-2 s-1 sr-1 in each bin of ``ENERGY_EDGES``.
    low : dict of str to ndarray (n_low,)
        The same in each bin of ``LOW_ENERGY_EDGES``; empty if it is not known.
    cube : tuple or None
        Energies (m,) in GeV and intensities (m, n_pixels) in ph cm-2 s-1 sr-1 GeV-1 of emission
        whose shape changes with energy; ``shapes`` then holds it bin by bin for ``ENERGY_EDGES``,
        under names that begin with "INTERSTELLAR".
    galaxy : Galaxy or None
        Parameters of the built-in shapes.
    """

    nside: int
    shapes: dict
    intensity: dict
    low: dict = field(default_factory=dict)
    cube: tuple | None = None
    galaxy: Galaxy | None = None

    def maps(self, energy_edges=ENERGY_EDGES):
        """Components for any energy bins, one at a time.

        Parameters
        ----------
        energy_edges : ndarray (n_bins + 1,)
            In GeV, from 0.3 to 2000.

        Yields
        ------
        name : str
            Of the component.
        shape : ndarray (n_pixels,)
            Its shape, mean 1. A cube comes bin by bin.
        per_bin : ndarray (n_bins,)
            Photon intensity in ph cm-2 s-1 sr-1 in each bin.

        Raises
        ------
        ValueError
            If the bins reach beyond what is known.
        """
        edges = np.asarray(energy_edges, dtype=float)
        for name, shape in self.shapes.items():
            if self.cube is None or not name.startswith(_CUBE):
                yield name, shape, self._rebinned(name, edges)
        if self.cube is not None:
            yield from _bins_of_cube(*self.cube, edges)

    def _rebinned(self, name, edges):
        intensity, known = self.intensity[name], ENERGY_EDGES
        if edges[0] < ENERGY_EDGES[0] * (1 - 1e-6) and name in self.low:
            intensity = np.concatenate([self.low[name], intensity])
            known = np.concatenate([LOW_ENERGY_EDGES, ENERGY_EDGES[1:]])
        return rebin_intensity(intensity, known, edges)


def _bins_of_cube(energy, values, edges):
    """Name, shape and intensity per bin of every bin of a cube."""
    n_bins = len(edges) - 1
    for number, plane in enumerate(integrate_intensity(energy, values, edges)):
        mean = plane.mean()
        shape = plane / mean if mean > 0 else np.ones(len(plane))
        yield f"{_CUBE} {number + 1}", shape, mean * (np.arange(n_bins) == number)


def _low_intensity(intensity):
    """Intensities below 10 GeV of components, by name."""
    return {
        name: np.array(_LOW_RATIO.get(name, _LOW_RATIO[""])) * values[0]
        for name, values in intensity.items()
    }


def _with_cube(diffuse, cube):
    """The same with a cube, also bin by bin among the shapes."""
    shapes = {n: s for n, s in diffuse.shapes.items() if not n.startswith(_CUBE)}
    intensity = {n: diffuse.intensity[n] for n in shapes}
    for name, shape, per_bin in _bins_of_cube(*cube, ENERGY_EDGES):
        shapes[name], intensity[name] = shape, per_bin
    return replace(diffuse, shapes=shapes, intensity=intensity, cube=cube)


def interstellar(template=None, *, variant="P6V11", nside=256, isotropic=None):
    """Diffuse emission from 0.3 GeV to 2 TeV, normalized to the sky that the LAT sees.

    Parameters
    ----------
    template : str or path, optional
        HEALPix FITS table with one column per template, or a cube over energy such as the official
        ``gll_iem`` (WCS or HEALPix); without it built-in gas, inverse Compton halo, bubbles and
        Loop I that need no file.
    variant : str
        Which set of templates: one of ``TEMPLATE_SETS``. Without ``template``, and for a cube, it
        is not used.
    nside : int
        HEALPix resolution of the result.
    isotropic : str or path, optional
        Isotropic spectrum in the official text format; the built-in one without it, which leaves
        out what simulated sources emit that are too faint to be found.

    Returns
    -------
    Diffuse

    Raises
    ------
    ValueError
        If the variant or a column is not known, or a file is not what it should be.
    """
    if variant not in TEMPLATE_SETS:
        raise ValueError(
            f"variant must be one of {', '.join(TEMPLATE_SETS)}; got {variant!r}; choose one"
        )
    galaxy = cube = None
    if template is None:
        galaxy = Galaxy()
        shapes, intensity = galaxy_shapes(galaxy, nside), dict(_INTENSITY)
    elif is_template_cube(template):
        cube = read_template_cube(template, nside)
        shapes, intensity = {}, {"ISOTROPIC": _INTENSITY["ISOTROPIC"]}
    else:
        intensity = dict(TEMPLATE_SETS[variant])
        names = [name for name in intensity if name != "ISOTROPIC"]
        shapes = read_template_shapes(template, names, nside)
        for name in shapes.keys() & _TILT.keys():
            tilted = tilt(shapes[name], _TILT[name])
            shapes[name] = tilted / tilted.mean()
    shapes["ISOTROPIC"] = np.ones(12 * nside**2)
    intensity = {name: np.array(values) for name, values in intensity.items()}
    low = _low_intensity(intensity)
    if isotropic is not None:
        spectrum = [values[:, None] for values in read_isotropic(isotropic)]
        for target, edges in ((intensity, ENERGY_EDGES), (low, LOW_ENERGY_EDGES)):
            bins = integrate_intensity(spectrum[0][:, 0], spectrum[1], edges)
            target["ISOTROPIC"] = np.concatenate(list(bins))
    diffuse = Diffuse(nside, shapes, intensity, low, galaxy=galaxy)
    return diffuse if cube is None else _with_cube(diffuse, cube)


def perturb(diffuse, rng, *, scatter=0.15, small_scale=0.25, slope=2.6):
    """Another sky of the same kind: normalizations scattered, gas made lumpy at small scales.

    The built-in shapes are drawn anew: their parameters are scattered and a share of the gas goes
    into clouds, so that no two skies have the same model.

    Parameters
    ----------
    diffuse : Diffuse
        Emission to change.
    rng : numpy.random.Generator
        Source of randomness.
    scatter : float
        Standard deviation of the logarithm of each component's normalization, and of each
        parameter of the built-in shapes.
    small_scale : float
        Standard deviation of the log-normal field on the interstellar components, and the largest
        share of built-in gas in clouds.
    slope : float
        Its angular power spectrum is ``l ** -slope`` between l = 20 and the resolution.

    Returns
    -------
    Diffuse
    """
    import healpy

    degree = np.arange(2 * diffuse.nside + 1)
    power = np.where(degree >= min(20, diffuse.nside), np.maximum(degree, 1.0) ** -slope, 0.0)
    power *= 4 * np.pi * small_scale**2 / np.sum((2 * degree + 1) * power)
    # healpy draws from NumPy's global generator; its coefficients are drawn here instead.
    ell, m = healpy.Alm.getlm(degree[-1])
    alm = rng.normal(size=len(ell)) + 1j * rng.normal(size=len(ell)) * (m > 0)
    alm *= np.sqrt(power[ell] / np.where(m > 0, 2, 1))
    field = healpy.alm2map(alm, diffuse.nside)
    lumps = np.exp(field - small_scale**2 / 2)
    factor = {n: np.exp(rng.normal(0, scatter)) for n in diffuse.intensity}
    shapes = dict(diffuse.shapes)
    if diffuse.galaxy is not None:
        shapes |= galaxy_shapes(draw_galaxy(diffuse.galaxy, rng, scatter=scatter), diffuse.nside)
        share = small_scale * rng.random()
        shapes["GAS"] = add_clouds(shapes["GAS"], diffuse.nside, rng, share=share)
    shapes = {n: s if n in _SMOOTH else s * lumps for n, s in shapes.items()}
    intensity = {n: v * factor[n] for n, v in diffuse.intensity.items()}
    low = {n: v * factor[n] for n, v in diffuse.low.items()}
    changed = replace(diffuse, shapes=shapes, intensity=intensity, low=low, galaxy=None)
    if diffuse.cube is None:
        return changed
    energy, values = diffuse.cube  # one factor for all energies: a cube keeps its spectrum
    scale = next(factor[n] for n in factor if n.startswith(_CUBE))
    return _with_cube(changed, (energy, values * (scale * lumps).astype(np.float32)))
