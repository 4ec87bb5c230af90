"""The files of a run: catalogues, pictures, and maps of what was searched."""

from functools import cache, partial
from io import BytesIO

import healpy
import numpy as np
from astropy.io import fits
from gammapy.maps import HpxGeom, Map

from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.catalog.write import set_cards, write_outputs
from astro_unetloc.cubes import healpix_numbers
from astro_unetloc.measurement.limits import detection_limits
from astro_unetloc.plot import plot_sources, save_figure
from astro_unetloc.report import report_bytes
from astro_unetloc.sphere import healpix_centers

# An image pixel of a patch is 0.078 deg: HEALPix pixels of nside 1024 are 0.057 deg.
_ORDER = 10
# The background changes little over the 0.9 deg of a pixel of the limit map.
_LIMIT_ORDER = 6
# No direction is farther than 5.84 deg from the centre of the patch that owns it.
_REACH_DEG = 7.0
_CHUNK = 500_000


def write_run(run, paths, *, frame="icrs", labels=True, overwrite=False, probability_map=None,
              moc=None, limit_map=None, residual_map=None, progress=None):  # fmt: skip
    """Write the files of a run: catalogues, regions and pictures by suffix, and maps by name."""
    makers = {probability_map: probability_map_bytes, moc: moc_bytes}
    makers[residual_map] = residual_map_bytes
    makers[limit_map] = partial(limit_map_bytes, progress=progress)
    others = {path: make(run) for path, make in makers.items() if path}

    drawn = cache(lambda: plot_sources(run.sky_map, run.catalog))

    def figure(file, kind):
        """Write the picture of the counts and the sources into a binary file."""
        save_figure(drawn(), file, kind, run.catalog.meta)

    page = partial(report_bytes, run.sky_map, run.catalog, run=run)
    how = {"frame": frame, "labels": labels, "overwrite": overwrite}
    write_outputs(run.catalog, paths, figure=figure, page=page, others=others, **how)


def probability_map_bytes(run):
    """Return the probability of a source as a FITS file: an image and a HEALPix map.

    In the first HDU the image in the pixels of the input (`probability_image`; empty for other
    inputs than images), in the second the partial HEALPix map (NESTED, Galactic, nside 1024;
    columns ``PIXEL`` and ``PROBABILITY``).
    """
    primary, pixels = fits.PrimaryHDU(), run.sky_map.pixels
    if pixels is not None and pixels.is_image:
        image = probability_image(run.patches, run.probability, pixels)
        primary = fits.PrimaryHDU(image, header=pixels.wcs.to_header())
        primary.header["BTYPE"] = ("stat.probability", "probability of a source, no unit")
    cells, values = _searched_cells(run)
    order = np.argsort(cells)
    about = "probability of a source, no unit", "stat.probability", ""
    columns = {"PROBABILITY": (values[order], *about)}
    table = _healpix_table("PROBABILITY", _ORDER, cells[order], columns)
    return _file_bytes([primary, table], run.keywords())


def probability_image(patches, probability, pixels):
    """Return the probability of a source in the pixels of an image, float32 (ny, nx).

    It is that at the centre of each pixel; in pixels wider than those of the patches the highest
    one of all patch pixels whose centres lie in them, so that no source is lost. NaN where nothing
    was searched.
    """
    image = np.full(pixels.n_pixels, np.nan, np.float32)
    for start in range(0, pixels.n_pixels, _CHUNK):
        index = np.arange(start, min(start + _CHUNK, pixels.n_pixels))
        image[index] = patches.values_at(probability, pixels.centers(index))
    if pixels.pixel_size_deg > patches.grid.config.pixel_deg:
        for row, patch in enumerate(patches.index):
            vectors = patches.grid.plane(patch).pixel_vectors
            seen = (patches.coverage[row, ..., 0] > 0) & (patches.grid.owner(vectors) == patch)
            index = pixels.index(vectors[seen])
            np.fmax.at(image, index[index >= 0], probability[row][seen][index >= 0])
    return image.reshape(pixels.shape)


def residual_map_bytes(run):
    """Return `Run.predicted` as a FITS file of maps that gammapy and healpy read.

    The HDUs ``COUNTS``, ``SOURCES``, ``BACKGROUND``, ``RESIDUAL`` and ``SIGNIFICANCE`` have an
    energy axis, ``SIGNIFICANCE_ALL`` is of all energies.
    """
    hdus = [fits.PrimaryHDU()]
    for name, one in run.predicted.maps().items():
        found = _whole_sphere(one).to_hdulist(hdu=name)
        # an image is written as the primary HDU
        hdus += [hdu for hdu in found if hdu.name in (name, f"{name}_BANDS")]
    return _file_bytes(hdus, run.keywords())


def _whole_sphere(one):
    """The map; of a list of HEALPix pixels, which gammapy cannot read, the whole sphere."""
    numbers = healpix_numbers(one.geom) if one.geom.is_hpx else None
    if numbers is None:
        return one
    whole = {"nest": one.geom.nest, "frame": one.geom.frame, "axes": one.geom.axes}
    geom = HpxGeom(int(np.max(one.geom.nside)), **whole)
    data = np.full(geom.data_shape, np.nan, np.float32)
    data[..., numbers] = one.data
    return Map.from_geom(geom, data=data)


def limit_map_bytes(run, progress=None):
    """Return the counts and fluxes at which half of the sources are found, as a FITS map.

    A partial HEALPix map (NESTED, Galactic, nside 64) of the pixels whose centre was searched, with
    the columns ``PIXEL``, ``NPRED_50`` (detected counts) and ``FLUX_50`` (ph cm-2 s-1, NaN without
    an exposure).
    """
    nside, (low, high) = 2**_LIMIT_ORDER, run.model.flux_range
    cells = np.arange(12 * nside**2)
    vectors = healpix_centers(nside, cells, nest=True)
    seen = run.patches.values_at(run.patches.coverage[..., 0], vectors) > 0
    if run.region is not None:
        seen &= run.region.covers(vectors)
    sqrt_ts = run.model.half_found(run.threshold)
    counts, flux = detection_limits(
        run.sky_map, vectors[seen], sqrt_ts, sources=glon_glat_vectors(run.sources),
        energy_range=run.model.energy_range, flux_range=(low, high), progress=progress,
    )  # fmt: skip
    half, flux_range = "at which half of the sources are found", f"{low:g}-{high:g} GeV"
    columns = {
        "NPRED_50": (counts, f"counts {half}", "phot.count;em.gamma", ""),
        "FLUX_50": (flux, f"{flux_range} flux {half}", "phot.flux;em.gamma", "ph cm-2 s-1"),
    }
    table = _healpix_table("LIMITS", _LIMIT_ORDER, cells[seen], columns)
    table.header["SQRT_TS"] = (sqrt_ts, "expected sqrt(TS) of these sources")
    return _file_bytes([fits.PrimaryHDU(), table], run.keywords())


def moc_bytes(run):
    """Return the searched area as a MOC of order 10 in FITS, NUNIQ.

    Its cells are ICRS, as the standard requires (IVOA Recommendation "MOC", version 2.0, 2022,
    sections 4.2 and 5); a cell belongs to the area where its centre was observed and lies in the
    region.
    """
    hdus = run.area.serialize("fits", v1_compatible=True)
    hdus[1].header["PIXTYPE"] = "HEALPIX"
    return _file_bytes(hdus, run.keywords())


def _searched_cells(run):
    """Observed HEALPix cells (n,) (NESTED, Galactic) and their probabilities."""
    nside, patches = 2**_ORDER, run.patches
    cells, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for row, patch in enumerate(patches.index):
        center = patches.grid.centers[patch]
        near = healpy.query_disc(nside, center, np.radians(_REACH_DEG), inclusive=True, nest=True)
        vectors = healpix_centers(nside, near, nest=True)
        own = patches.grid.owner(vectors) == patch
        y, x, seen = patches.pixel_of(row, vectors[own])
        cells.append(near[own][seen])
        values.append(run.probability[row, y[seen], x[seen]])
    return np.concatenate(cells), np.concatenate(values)


def _healpix_table(name, order, cells, columns):
    """The HDU of a partial HEALPix map: values, comment, UCD and unit of each column by name."""
    hdu_columns = [fits.Column("PIXEL", "K", array=cells)]
    for label, (values, _, _, unit) in columns.items():
        hdu_columns.append(fits.Column(label, "E", unit=unit or None, array=values))
    table = fits.BinTableHDU.from_columns(hdu_columns, name=name)
    table.header["TCOMM1"] = "HEALPix pixel, NESTED, Galactic"
    for number, (_, comment, ucd, _) in enumerate(columns.values(), start=2):
        table.header.update({f"TCOMM{number}": comment, f"TUCD{number}": ucd})
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="NESTED", COORDSYS="G", NSIDE=2**order, INDXSCHM="EXPLICIT",
        OBJECT="PARTIAL", FIRSTPIX=0, LASTPIX=12 * 4**order - 1,
    )  # fmt: skip
    return table


def _file_bytes(hdus, keywords):
    """Content of a FITS file with its provenance and checksums."""
    for hdu in hdus[1:] if hdus[0].data is None else hdus:
        set_cards(hdu.header, keywords)
    stream = BytesIO()
    fits.HDUList(hdus).writeto(stream, checksum=True)
    return stream.getvalue()
