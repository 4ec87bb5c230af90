"""Maps: whatever holds counts becomes one `SkyMap`."""

import logging
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from astro_unetloc import messages
from astro_unetloc.config import CHUNK_PHOTONS, LocalizationConfig
from astro_unetloc.energies import (
    ASSUMED_RANGE_GEV,
    image_range_gev,
    parse_energy_range,
    select_bins,
)
from astro_unetloc.event_lists import estimate_footprint, read_events
from astro_unetloc.fits_files import (
    describe_product,
    find_counts_hdu,
    find_hdu,
    open_fits,
    select_header,
)
from astro_unetloc.gammapy_maps import dataset_part, dataset_path, is_gammapy, read_gammapy
from astro_unetloc.healpix_maps import read_healpix_counts
from astro_unetloc.irf_files import attach_map, attach_psf, exposure_at
from astro_unetloc.messages import warn
from astro_unetloc.photons import Photons, place_counts, whole_counts
from astro_unetloc.wcs_maps import read_wcs_counts

__all__ = ["OnFirstUse", "SkyMap", "UnetlocWarning", "read_map"]

log = logging.getLogger(__name__)

_KNOWN_TYPES = (
    "a path (str or pathlib.Path), an astropy HDUList, a gammapy Map or MapDataset, or a SkyMap"
)


def __getattr__(name):
    """`UnetlocWarning`, which is made on first use (see `astro_unetloc.messages`)."""
    if name == "UnetlocWarning":
        return messages.UnetlocWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class OnFirstUse:
    """A field that may be given as a `functools.partial`, called when the field is first read."""

    def __set_name__(self, owner, name):
        self.name = f"_{name}"

    def __get__(self, instance, owner=None):
        if instance is None:
            return None  # the default of the field
        value = instance.__dict__[self.name]
        if isinstance(value, partial):
            value = instance.__dict__[self.name] = value()
        return value

    def __set__(self, instance, value):
        instance.__dict__[self.name] = value


@dataclass(frozen=True, eq=False)
class SkyMap:
    """Counts on the sky, as pixels or as events.

    Attributes
    ----------
    counts : ndarray (n_energy, n_pixels) or None
        Whole counts, NaN where not observed; None for events.
    pixels : WcsPixelization, HealpixPixelization or None
        Where the pixels lie; None for events.
    events : Photons or None
        The photons of an event list; None for pixels.
    footprint : DiscFootprint, MaskFootprint or None
        The part of the sky that events cover.
    energy_edges : ndarray (n_energy + 1,)
        Edges of the energy bins in GeV; for events the two ends of their range.
    energy_assumed : bool
        Whether the energy range is a guess because nothing stated it.
    exposure, background, psf : gammapy object or None
        What goes with the map, for measurement; files are read on first use.
    name : str
        Name of the file or object.
    checksum : str
        sha256 of the file, or "".
    header : dict
        DSS cuts, telescope and dates of the input.
    """

    counts: np.ndarray | None = None
    pixels: object = None
    events: Photons | None = None
    footprint: object = None
    energy_edges: np.ndarray | None = None
    energy_assumed: bool = False
    exposure: object = OnFirstUse()
    background: object = OnFirstUse()
    psf: object = OnFirstUse()
    name: str = ""
    checksum: str = ""
    header: dict = field(default_factory=dict)

    def __post_init__(self):
        if (self.counts is None) == (self.events is None):
            raise ValueError("a SkyMap must have either counts or events; got both or neither")

    @property
    def n_photons(self):
        """Number of photons."""
        if self.events is not None:
            return len(self.events)
        return int(np.nansum(self.counts, dtype=np.float64))

    @property
    def pixel_size_deg(self):
        """Square root of the solid angle of a pixel; 0 for events."""
        return 0.0 if self.pixels is None else self.pixels.pixel_size_deg

    def photons(self, seed, max_photons=CHUNK_PHOTONS):
        """Iterate over all photons, in chunks of at most ``max_photons``.

        Counts are placed at random inside their pixel and bin (`place_counts`); events keep their
        positions and energies.
        """
        if self.events is None:
            yield from place_counts(
                self.pixels, self.counts, self.energy_edges, seed=seed, max_photons=max_photons
            )
            return
        for start in range(0, len(self.events), max_photons):
            yield self.events.select(slice(start, start + max_photons))

    def covers(self, vectors):
        """Whether directions (..., 3), Galactic unit vectors, were observed in any energy bin."""
        if self.events is not None:
            return self.footprint.covers(vectors)
        index = self.pixels.index(vectors)
        return (index >= 0) & self._observed[index]

    @cached_property
    def _observed(self):
        observed = np.zeros(self.pixels.n_pixels, dtype=bool)
        for plane in self.counts:  # one plane at a time: cubes are large
            observed |= ~np.isnan(plane)
        return observed


def read_map(
    map, *, energy_range=None, exposure=None, background=None, psf=None, exposure_frame=None
):
    """Read counts from whatever holds them.

    Parameters
    ----------
    map : str, pathlib.Path, HDUList, gammapy Map or MapDataset, or SkyMap
        FITS files (``.gz`` too) with a counts image or cube in any projection, a HEALPix table of
        gtbin, gammapy or healpy, or events; a gammapy dataset file or its ``.yaml`` list.
    energy_range : pair of Quantity, float in GeV or str, optional
        Of an image, the range of its photons, which overrules the header; of a cube, the range
        whose whole bins are taken; of events, the range that is cut out.
    exposure, background : str, pathlib.Path or gammapy Map, optional
        Carried for measurement. The exposure also turns a flux map into counts.
    psf : str, pathlib.Path or gammapy PSFMap, optional
        Carried for measurement, in the format of gtpsf or of gammapy.
    exposure_frame : {"galactic", "icrs"}, optional
        Frame of a HEALPix exposure without COORDSYS.

    Returns
    -------
    SkyMap
        The counts, energies in GeV.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no usable counts; the message says what it holds.
    TypeError
        If ``map`` is none of the known types.

    Examples
    --------
    >>> from astro_unetloc import read_map
    >>> sky_map = read_map("counts-cube.fits.gz")  # doctest: +SKIP
    >>> sky_map.n_photons  # doctest: +SKIP
    32843
    """
    energy_range = parse_energy_range(energy_range)
    parts = _read_any(map) | {
        name: value
        for name, value in (
            ("exposure", attach_map(exposure, "exposure", frame=exposure_frame)),
            ("background", attach_map(background, "background")),
            ("psf", attach_psf(psf)),
        )
        if value is not None
    }
    if parts.get("events") is not None:
        parts |= _event_energies(parts, energy_range)
    else:
        parts |= _bin_energies(parts, energy_range)
        parts["counts"] = whole_counts(parts["counts"], partial(_exposure_of_bins, parts))
        _check_on_sky(parts["counts"], parts["pixels"])
    sky_map = SkyMap(**parts)
    low, high = sky_map.energy_edges[[0, -1]]
    log.info("%s: %d photons, %.4g to %.4g GeV", sky_map.name, sky_map.n_photons, low, high)
    if not isinstance(map, SkyMap):  # else it was said when that was read
        _warn_of_coarse_pixels(sky_map)
    return sky_map


def _warn_of_coarse_pixels(sky_map):
    coarse_deg = LocalizationConfig().coarse_pixel_deg
    if sky_map.pixel_size_deg > coarse_deg:
        warn(
            f"pixels of {sky_map.pixel_size_deg:.2f} deg are coarser than {coarse_deg} deg: "
            "positions cannot be better than that; use a finer map or the events",
            stacklevel=4,
        )


def _read_any(map):
    """Fields of a `SkyMap` from any known type; edges may still be unknown (None)."""
    if isinstance(map, SkyMap):
        return {
            f.name: map.__dict__.get(f"_{f.name}", map.__dict__.get(f.name)) for f in fields(map)
        }
    if isinstance(map, (str, Path)):
        return _read_path(Path(map).expanduser())
    if is_gammapy(map):
        return read_gammapy(map)
    if isinstance(map, list) and hasattr(map, "info") and hasattr(map, "writeto"):  # an HDUList
        return _read_hdus(map, str(map.filename() or "HDUList"), map)
    raise TypeError(f"map must be {_KNOWN_TYPES}; got {type(map).__name__}; use read_map(path)")


def _read_path(path):
    if path.suffix.lower() in (".yaml", ".yml"):
        path = dataset_path(path)
    hdus, checksum = open_fits(path)
    with hdus:
        return _read_hdus(hdus, path.name, path) | {"checksum": checksum}


def _read_hdus(hdus, name, source):
    """Fields from an open file; ``source`` is what a dataset reads its other parts from."""
    product = describe_product(hdus)
    if product is not None:
        raise ValueError(
            f"a counts map or event list was expected; got {product}: {name}; "
            "give the file made by gtbin or the events"
        )
    events = find_hdu(hdus, "EVENTS")
    hdu = events if events is not None else find_counts_hdu(hdus)
    if hdu is None:
        raise ValueError(
            f"no counts found in {name}, with the HDUs {', '.join(h.name for h in hdus)}; "
            "give a counts map, an event list or a gammapy dataset with counts"
        )
    parts = {"name": name, "header": select_header(hdu.header, hdus[0].header)}
    if events is not None:
        photons, footprint = read_events(events)
        return parts | {
            "events": photons,
            "footprint": footprint or estimate_footprint(photons.vectors),
            "energy_edges": image_range_gev(events.header),
        }
    read = read_wcs_counts if hdu.is_image else read_healpix_counts
    parts["counts"], parts["pixels"], parts["energy_edges"] = read(hdus, hdu)
    if parts["energy_edges"] is None:
        parts["stated_range"] = image_range_gev(hdu.header) or image_range_gev(hdus[0].header)
    if hdu.name.upper() == "COUNTS":
        others = {n for n in ("exposure", "background", "psf") if find_hdu(hdus, n) is not None}
        parts |= {other: dataset_part(source, other) for other in others}
    return parts


def _event_energies(parts, energy_range):
    """Events inside the range asked for, and the range that they stand for."""
    events, stated = parts["events"], parts["energy_edges"]
    if stated is None:
        stated = _range_of_events(events.energy)
    if energy_range is None:
        return {"energy_edges": np.array(stated, dtype=float)}
    low, high = max(stated[0], energy_range[0]), min(stated[-1], energy_range[1])
    if low >= high:
        raise ValueError(
            f"energy_range {energy_range[0]:g} to {energy_range[1]:g} GeV must overlap the "
            f"{stated[0]:g} to {stated[-1]:g} GeV of the events; choose another range"
        )
    inside = (events.energy >= low) & (events.energy < high)
    return {"events": events.select(inside), "energy_edges": np.array([low, high])}


def _range_of_events(energy):
    """Ends of the energies, rounded outwards to two digits: cuts are made at round numbers."""
    if not len(energy):
        return ASSUMED_RANGE_GEV
    low, high = energy.min(), energy.max() * (1 + 1e-12)
    steps = 10.0 ** (np.floor(np.log10([low, high])) - 1)
    return float(np.floor(low / steps[0]) * steps[0]), float(np.ceil(high / steps[1]) * steps[1])


def _bin_energies(parts, energy_range):
    """Bins inside the range asked for; the range of an image that has no bins."""
    stated, edges = parts.pop("stated_range", None), parts["energy_edges"]
    if edges is not None:
        if energy_range is None:
            return {}
        counts, edges = select_bins(parts["counts"], edges, energy_range)
        return {"counts": counts, "energy_edges": edges}
    if stated is not None and energy_range is not None and not np.allclose(stated, energy_range):
        warn(
            f"energy_range {energy_range[0]:g} to {energy_range[1]:g} GeV overrules the "
            f"{stated[0]:g} to {stated[1]:g} GeV that the header of the image states",
            stacklevel=4,
        )
    found = energy_range or stated
    if found is None:
        warn(
            f"{parts['name']} does not state its energies; assuming "
            f"{ASSUMED_RANGE_GEV[0]:g} to {ASSUMED_RANGE_GEV[1]:g} GeV; give energy_range",
            stacklevel=4,
        )
    return {
        "energy_edges": np.array(found or ASSUMED_RANGE_GEV, dtype=float),
        "energy_assumed": found is None,
    }


def _check_on_sky(counts, pixels):
    filled = np.zeros(pixels.n_pixels, dtype=bool)
    for plane in counts:
        filled |= plane > 0
    n_off = np.count_nonzero(pixels.off_sky(np.flatnonzero(filled)))
    if n_off:
        raise ValueError(
            f"counts must lie on the sky; got {n_off} pixels with counts beyond the limb of the "
            "projection; check the WCS keywords"
        )


def _exposure_of_bins(parts):
    """Exposure in cm2 s at the pixel centres and bins of a map, or None without exposure."""
    exposure = SkyMap(**parts).exposure
    if exposure is None:
        return None
    edges = parts["energy_edges"]
    centers = parts["pixels"].centers(np.arange(parts["pixels"].n_pixels))
    return exposure_at(exposure, centers, np.sqrt(edges[:-1] * edges[1:]))
