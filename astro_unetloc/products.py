"""The sky that a run searched: its probability of a source and its detection limits as maps, its
area as a MOC.

The files of a run: catalogues, pictures, and maps of what was searched.
"""

from io import BytesIO
from pathlib import Path

import numpy as np

from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.catalog.write import set_cards
from astro_unetloc.maps.skymap import WcsPixelization
from astro_unetloc.measurement.limits import detection_limits
from astro_unetloc.sphere import frame_rotation

__all__ = [
    "limit_map_bytes",
    "moc_bytes",
    "probability_image",
    "probability_map_bytes",
    "write_run",
]


# An image pixel of a patch is 0.078 deg: HEALPix pixels of nside 1024 are 0.057 deg.
_ORDER = 10


# The background changes little over the 0.9 deg of a cell of the map of limits.
_LIMIT_ORDER = 6


# No direction is farther than 5.84 deg from the centre of the patch that owns it.
_REACH_DEG = 7.0


_CHUNK = 500_000


def _owned_cells(patches, frame):
    """For each patch its row, the HEALPix cells (NESTED) it owns, and their directions."""
    import healpy

    nside, rotation = 2**_ORDER, frame_rotation(frame)
    for row, patch in enumerate(patches.index):
        center = patches.grid.centers[patch] @ rotation
        near = healpy.query_disc(nside, center, np.radians(_REACH_DEG), inclusive=True, nest=True)
        vectors = np.stack(healpy.pix2vec(nside, near, nest=True), axis=-1) @ rotation.T
        own = patches.grid.owner(vectors) == patch
        yield row, near[own], vectors[own]


def _place(patches, row, vectors):
    """Pixel y, x of a patch for directions, and whether it was observed there."""
    plane = patches.grid.plane(patches.index[row])
    x, y = (np.rint(c).astype(int) for c in plane.pixel_from_vectors(vectors))
    return y, x, patches.coverage[row, y, x, 0] > 0


def _healpix_probability(patches, probability):
    """Cells (NESTED, Galactic) that were observed, in rising order, and their probabilities."""
    pixels, values = [np.zeros(0, np.int64)], [np.zeros(0)]
    for row, cells, vectors in _owned_cells(patches, "galactic"):
        y, x, seen = _place(patches, row, vectors)
        pixels.append(cells[seen])
        values.append(probability[row, y[seen], x[seen]])
    pixels, values = np.concatenate(pixels), np.concatenate(values)
    order = np.argsort(pixels)
    return pixels[order].astype(np.int64), values[order].astype(np.float32)


def probability_image(patches, probability, pixels):
    """Probability of a source in the pixels of an image.

    Parameters
    ----------
    patches : Patches
        The patches that were searched.
    probability : ndarray (n, ny, nx)
        Probability of a source in their pixels.
    pixels : WcsPixelization
        The pixels of the image.

    Returns
    -------
    ndarray (ny, nx) of float32
        The probability at the centre of each pixel; in pixels wider than those of the patches the
        highest one of all patch pixels whose centres lie in them, so that no source is lost. NaN
        where nothing was searched.
    """
    image = np.full(pixels.n_pixels, np.nan, np.float32)
    for start in range(0, pixels.n_pixels, _CHUNK):
        index = np.arange(start, min(start + _CHUNK, pixels.n_pixels))
        image[index] = _values_at(patches, probability, pixels.centers(index))
    if pixels.pixel_size_deg > patches.grid.config.pixel_deg:
        for row, patch in enumerate(patches.index):
            vectors = patches.grid.plane(patch).pixel_vectors
            seen = (patches.coverage[row, ..., 0] > 0) & (patches.grid.owner(vectors) == patch)
            index = pixels.index(vectors[seen])
            np.fmax.at(image, index[index >= 0], probability[row][seen][index >= 0])
    return image.reshape(pixels.shape)


def _values_at(patches, images, vectors):
    """Values (n,) of images of patches at directions (n, 3); NaN where nothing was searched."""
    values = np.full(len(vectors), np.nan, np.float32)
    on_sky = np.flatnonzero(np.isfinite(vectors[:, 0]))
    rows = np.full(patches.grid.n_patches, -1)
    rows[patches.index] = np.arange(len(patches.index))
    owner = rows[patches.grid.owner(vectors[on_sky])] if len(on_sky) else on_sky
    for row in np.unique(owner[owner >= 0]):
        here = on_sky[owner == row]
        y, x, seen = _place(patches, row, vectors[here])
        values[here[seen]] = images[row, y[seen], x[seen]]
    return values


def probability_map_bytes(patches, probability, *, pixels=None, keywords=None):
    """The probability of a source as a FITS map: an image in the pixels of the input, and HEALPix.

    Parameters
    ----------
    patches : Patches
        The patches that were searched.
    probability : ndarray (n, ny, nx)
        Probability of a source in their pixels.
    pixels : WcsPixelization, optional
        Pixels of the input; those of another kind and None leave the image out.
    keywords : dict, optional
        Provenance, written to all headers.

    Returns
    -------
    bytes
        The image (`probability_image`) in the first HDU, and the partial HEALPix map (NESTED,
        Galactic, nside 1024; columns ``PIXEL`` and ``PROBABILITY``) in the second.
    """
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    if isinstance(pixels, WcsPixelization):
        image = probability_image(patches, probability, pixels)
        primary = fits.PrimaryHDU(image, header=pixels.wcs.to_header())
        primary.header["BTYPE"] = ("stat.probability", "probability of a source, no unit")
    cells, values = _healpix_probability(patches, probability)
    about = ("probability of a source, no unit", "stat.probability", "")
    table = _healpix_table("PROBABILITY", _ORDER, cells, {"PROBABILITY": (values, *about)})
    return _file_bytes([primary, table], keywords)


def _healpix_table(name, order, cells, columns):
    """The HDU of a partial HEALPix map: values, comment, UCD and unit of each column."""
    from astropy.io import fits

    columns = {"PIXEL": (cells, "HEALPix pixel, NESTED, Galactic", "", "")} | columns
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(label, "K" if label == "PIXEL" else "E", unit=unit or None, array=values)
            for label, (values, _, _, unit) in columns.items()
        ],
        name=name,
    )
    for number, (_, comment, ucd, _) in enumerate(columns.values(), start=1):
        table.header[f"TCOMM{number}"] = comment
        if ucd:
            table.header[f"TUCD{number}"] = ucd
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="NESTED", COORDSYS="G", NSIDE=2**order, INDXSCHM="EXPLICIT",
        OBJECT="PARTIAL", FIRSTPIX=0, LASTPIX=12 * 4**order - 1,
    )  # fmt: skip
    return table


def limit_map_bytes(patches, sky_map, sqrt_ts, *, flux_range, cone=None, keywords=None,
                    **options):  # fmt: skip
    """The counts and fluxes at which half of the sources are found, as a FITS map.

    Parameters
    ----------
    patches : Patches
        The patches that were searched.
    sky_map, sqrt_ts, flux_range
        As `astro_unetloc.measurement.limits.detection_limits` takes them.
    cone : DiscFootprint, optional
        The region that was asked for.
    keywords : dict, optional
        Provenance.
    **options
        What else `astro_unetloc.measurement.limits.detection_limits` takes.

    Returns
    -------
    bytes
        A partial HEALPix map (NESTED, Galactic, nside 64) of the cells whose centre was searched,
        with the columns ``PIXEL``, ``NPRED_50`` (detected counts) and ``FLUX_50`` (ph cm-2 s-1,
        NaN without an exposure).
    """
    import healpy
    from astropy.io import fits

    nside = 2**_LIMIT_ORDER
    cells = np.arange(12 * nside**2)
    vectors = np.stack(healpy.pix2vec(nside, cells, nest=True), axis=-1)
    seen = _values_at(patches, patches.coverage[..., 0], vectors) > 0
    if cone is not None:
        seen &= cone.covers(vectors)
    counts, flux = detection_limits(
        sky_map, vectors[seen], sqrt_ts, flux_range=flux_range, **options
    )
    low, high = flux_range
    half = "at which half of the sources are found"
    columns = {
        "NPRED_50": (counts, f"counts {half}", "phot.count;em.gamma", ""),
        "FLUX_50": (flux, f"{low:g}-{high:g} GeV flux {half}", "phot.flux;em.gamma",
                    "ph cm-2 s-1"),
    }  # fmt: skip
    table = _healpix_table("LIMITS", _LIMIT_ORDER, cells[seen], columns)
    table.header["SQRT_TS"] = (sqrt_ts, "expected sqrt(TS) of these sources")
    return _file_bytes([fits.PrimaryHDU(), table], keywords)


def moc_bytes(patches, *, cone=None, keywords=None):
    """The area that was searched as a MOC of order 10: FITS, NUNIQ.

    Parameters
    ----------
    patches : Patches
        The patches that were searched.
    cone : DiscFootprint, optional
        The region that was asked for: nothing is listed outside.
    keywords : dict, optional
        Provenance.

    Returns
    -------
    bytes
        The file; cells are ICRS, as the standard asks, and belong to it where their centre was
        observed.

    References
    ----------
    IVOA Recommendation "MOC: Multi-Order Coverage map", version 2.0, 2022, sections 4.2 and 5:
    the number of a cell and the keywords.
    """
    from astropy.io import fits

    found = [np.zeros(0, np.int64)]
    for row, cells, vectors in _owned_cells(patches, "icrs"):
        inside = _place(patches, row, vectors)[2]
        if cone is not None:
            inside &= cone.covers(vectors)
        found.append(cells[inside])
    column = fits.Column("UNIQ", "K", array=_uniq_numbers(np.concatenate(found)))
    table = fits.BinTableHDU.from_columns([column], name="MOC")
    table.header.update(
        PIXTYPE="HEALPIX", ORDERING="NUNIQ", COORDSYS="C", MOCVERS="2.0", MOCDIM="SPACE",
        MOCORD_S=_ORDER, MOCORDER=_ORDER, MOCTOOL="astro_unetloc",
    )  # fmt: skip
    return _file_bytes([fits.PrimaryHDU(), table], keywords)


def _uniq_numbers(cells):
    """Rising numbers ``4 * 4**order + cell`` of the fewest cells that make up those of _ORDER."""
    cells, numbers = np.unique(cells).astype(np.int64), []
    for order in range(_ORDER, 0, -1):
        parents, n_children = np.unique(cells // 4, return_counts=True)
        parents = parents[n_children == 4]
        numbers.append(4 * 4**order + cells[~np.isin(cells // 4, parents)])
        cells = parents
    return np.sort(np.concatenate([*numbers, 4 + cells]))


def _file_bytes(hdus, keywords):
    """The content of a FITS file with its provenance and checksums."""
    from astropy.io import fits

    for hdu in hdus[1:] if hdus[0].data is None else hdus:
        set_cards(hdu.header, keywords or {})
    stream = BytesIO()
    fits.HDUList(hdus).writeto(stream, checksum=True)
    return stream.getvalue()


def write_run(run, paths, *, frame="icrs", overwrite=False, probability_map=None, moc=None,
              limit_map=None, progress=None):  # fmt: skip
    """Write what a run found: all files or none.

    Parameters
    ----------
    run : Run
        The run.
    paths : sequence of path
        Catalogues, regions and pictures; the suffix says what each is.
    frame : str
        Frame of regions.
    overwrite : bool
        Whether files that exist may be replaced.
    probability_map, moc, limit_map : path, optional
        Maps to write besides, see `astro_unetloc.products`.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.
    """
    from astro_unetloc.catalog.write import write_outputs

    others, keywords = {}, run.keywords()
    if probability_map:
        others[probability_map] = probability_map_bytes(
            run.patches, run.probability, pixels=run.sky_map.pixels, keywords=keywords
        )
    if moc:
        others[moc] = moc_bytes(run.patches, cone=run.region, keywords=keywords)
    if limit_map:
        others[limit_map] = _limit_map(run, progress)
    write_outputs(
        run.catalog, paths, overwrite=overwrite, frame=frame, figure=_picture(run), others=others
    )


def _limit_map(run, progress):
    """The map of detection limits of a run."""
    model = run.model
    return limit_map_bytes(
        run.patches, run.sky_map, model.half_found(run.threshold),
        sources=glon_glat_vectors(run.sources), energy_range=model.energy_range,
        flux_range=model.flux_range, cone=run.region, keywords=run.keywords(), progress=progress,
    )  # fmt: skip


def _picture(run):
    """Function of a binary file that draws the counts and the sources of a run."""
    from astro_unetloc.plot import plot_sources

    name = Path(run.sky_map.name).name
    title = f"{name}: {run.sky_map.n_photons:,} photons, {len(run.catalog)} sources"
    return lambda file: plot_sources(
        run.sky_map.photons(run.seed), run.catalog, path=file, title=title
    )
