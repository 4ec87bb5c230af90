"""What follows a search: a dataset of gammapy with its sources as models, ready to be fitted."""

from math import ceil, log10

import astropy.units as u
import numpy as np
from gammapy.datasets import MapDataset
from gammapy.irf import EDispKernelMap, PSFMap
from gammapy.maps import Map, MapAxis, WcsGeom
from gammapy.modeling.models import FoVBackgroundModel, Models

from astro_unetloc.catalog.models import to_gammapy_models
from astro_unetloc.catalog.read import as_table
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.exposure import background_at, exposure_of, square_degree_density
from astro_unetloc.irf.psf import psf_of
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.selection import check_psf
from astro_unetloc.maps.skymap import pixels_of

# Images of events: pixels in degrees, energy bins per decade; the same for true energies, over
# which the exposure changes by a few per cent.
_PIXEL_DEG, _BINS_PER_DECADE = 0.05, 8
# Sources outside of the image are part of the model within the radius of this fraction of photons.
_CONTAINED = 0.95
_N_RADII, _SMALLEST_DEG = 200, 1e-3  # of the profile of the PSF


def to_gammapy_dataset(map, catalog, *, free=(), center=None, width=None, exposure=None,
                       background=None, psf=None, energy_range=None):  # fmt: skip
    """Return a map and its sources as a `gammapy.datasets.MapDataset`, ready to be fitted.

    Parameters
    ----------
    map : str, path-like, Map, MapDataset or SkyMap
        Counts cube with a WCS, or events, as `read_map` takes them.
    catalog : QTable, str or path-like
        Sources with fluxes, from `find_sources` with an exposure.
    free : str or list of str
        Names of the sources whose parameters are free; all others are frozen.
    center : SkyCoord, optional
        Centre of the image; by default that of the map.
    width : Quantity [angle], optional
        Width of the image; by default that of the map, of events it must be given.
    exposure, background, psf, energy_range
        As `read_map` takes them. The background is needed: expected counts, such as those in the
        file of ``--residual-map``, or intensities.

    Returns
    -------
    gammapy.datasets.MapDataset
        Counts, exposure, PSF and background in the pixels of the map, an energy dispersion without
        width, and as models the sources and a free factor on the background.

    Raises
    ------
    InputError
        If the map is HEALPix, exposure or background are missing, or a name is unknown.

    Examples
    --------
    >>> from gammapy.modeling import Fit
    >>> files = {"exposure": "exposure.fits", "background": "background.fits"}
    >>> dataset = to_gammapy_dataset(
    ...     "map.fits", "catalog.fits", free="UNL J1745.6-2900", **files
    ... )  # doctest: +SKIP
    >>> Fit().run(dataset)  # doctest: +SKIP
    """
    sky_map = read_map(
        map, exposure=exposure, background=background, psf=psf, energy_range=energy_range
    )
    needed = {"exposure": "give it", "background": "give it, or the file of --residual-map"}
    for what, advice in needed.items():
        if getattr(sky_map, what) is None:
            raise InputError(
                f"a dataset of gammapy needs the {what} of the map; got none; {advice}"
            )
    check_psf(sky_map.header, sky_map.energy_edges, sky_map.psf, "a dataset of gammapy needs")
    counts = _counts_image(sky_map, center, width)
    axis, image = counts.geom.axes["energy"], counts.geom.to_image()
    true = _true_axis(axis)
    pixels = pixels_of(image)
    vectors = pixels.centers(np.arange(pixels.n_pixels))
    spread = psf_of(sky_map.psf, vectors[np.isfinite(vectors[:, 0])])
    seen = np.isfinite(counts.data)
    counts.data = np.where(seen, counts.data, 0.0)
    known, exposure_at = exposure_of(sky_map.exposure, vectors)
    planes = np.where(known, exposure_at(true.center.to_value("GeV")).T, 0.0)
    dataset = MapDataset(
        name="unetloc",
        counts=counts,
        exposure=_cube(image, true, planes, unit="cm2 s"),
        background=_cube(image, axis, _background(sky_map, pixels, vectors, axis)),
        psf=sky_map.psf if isinstance(sky_map.psf, PSFMap) else _psf_map(spread, true),
        edisp=EDispKernelMap.from_diagonal_response(axis, true),
        mask_safe=Map.from_geom(counts.geom, data=seen),
    )
    lowest = np.clip(axis.edges[0].to_value("GeV"), *spread.energy_range)
    margin = spread.containment_radius(_CONTAINED, lowest) * u.deg
    free = [free] if isinstance(free, str) else list(free)
    models = _models(as_table(catalog), image, margin, free)
    dataset.models = Models([*models, FoVBackgroundModel(dataset_name=dataset.name)])
    return dataset


def _counts_image(sky_map, center, width):
    """Counts in the pixels of an image over energy, NaN where not observed."""
    if sky_map.events is None:
        counts = sky_map.counts
        if counts.geom.is_hpx:
            raise InputError("gammapy fits images; got a HEALPix map; give the events or an image")
        axis = MapAxis.from_energy_edges(sky_map.energy_edges, unit="GeV", name="energy")
        counts = _cube(counts.geom.to_image(), axis, np.asarray(counts.data, float))
        if width is not None:
            counts = counts.cutout(counts.geom.center_skydir if center is None else center, width)
        return counts
    if center is None or width is None:
        raise InputError("events need the center and the width of an image; got none; give both")
    low, high = sky_map.energy_edges[[0, -1]]
    edges = np.geomspace(low, high, ceil(_BINS_PER_DECADE * log10(high / low)) + 1)
    axis = MapAxis.from_energy_edges(edges, unit="GeV", name="energy")
    frame = {"skydir": center.galactic, "frame": "galactic", "proj": "TAN"}
    image = WcsGeom.create(**frame, width=width, binsz=_PIXEL_DEG)
    pixels = pixels_of(image)
    index = pixels.index(sky_map.events.vectors)
    inside = index >= 0
    planes, _, _ = np.histogram2d(
        sky_map.events.energy[inside],
        index[inside],
        bins=[edges, np.arange(pixels.n_pixels + 1) - 0.5],
    )
    covered = sky_map.covers(pixels.centers(np.arange(pixels.n_pixels)))
    return _cube(image, axis, np.where(covered, planes, np.nan))


def _cube(image, axis, planes, **options):
    """Map over energy of planes (n_energy, ...) in the pixels of an image."""
    geom = image.to_cube([axis])
    return Map.from_geom(geom, data=np.reshape(planes, geom.data_shape).astype(float), **options)


def _true_axis(axis):
    """Axis of true energies with the edges of another one and more between them."""
    decades = np.log10(axis.edges[-1] / axis.edges[0]) / axis.nbin
    true = MapAxis.from_energy_edges(axis.edges, name="energy_true")
    return true.upsample(max(ceil(_BINS_PER_DECADE * decades), 2))


def _background(sky_map, pixels, vectors, axis):
    """Expected counts (n_energy, n) of the background in pixels."""
    density = square_degree_density(sky_map.background)
    area = np.nan_to_num(pixels.area_deg2(np.arange(pixels.n_pixels)))
    return np.nan_to_num(background_at(density, vectors, axis.edges.to_value("GeV")) * area)


def _psf_map(psf, true):
    """PSF of gammapy, the same in all directions, of a `KingPSF` or a `TablePSF`."""
    edges = np.append(0.0, np.geomspace(_SMALLEST_DEG, psf.max_offset_deg, _N_RADII))
    energy = np.clip(true.center.to_value("GeV"), *psf.energy_range)
    contained = psf.containment(edges[:, None], energy)
    solid_angle = np.pi * np.diff(np.radians(edges) ** 2)[:, None]
    density = (np.diff(contained, axis=0) / solid_angle).T[:, :, None, None]
    rad = MapAxis.from_edges(edges, unit="deg", name="rad")
    geom = WcsGeom.create(npix=(2, 1), proj="CAR", binsz=180.0).to_cube([rad, true])
    data = np.broadcast_to(density, geom.data_shape).copy()
    weight = Map.from_geom(geom.squash(axis_name="rad"), unit="cm2 s", data=1.0)
    return PSFMap(Map.from_geom(geom, data=data, unit="sr-1"), exposure_map=weight)


def _models(catalog, image, margin, free):
    """Models of the sources in and around an image, frozen but for those of some names."""
    models = to_gammapy_models(catalog)
    if unknown := sorted(set(free) - set(models.names)):
        raise InputError(
            f"free must be names of sources with a flux; got {', '.join(unknown)}; see Source_Name"
        )
    reach = image.width.max() / np.sqrt(2) + margin
    near = [m for m in models if m.position.separation(image.center_skydir) < reach]
    for model in near:
        if model.name not in free:
            model.freeze()
    return near
