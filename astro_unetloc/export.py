"""Files made from a catalogue: tables, regions, models for a likelihood fit and a picture.

What is written is made in memory first and put in place whole, all files or none.
"""

import io
import os
import re
import secrets
from pathlib import Path

import numpy as np

from astro_unetloc.ds9 import format_regions
from astro_unetloc.formats import SUFFIXES as TABLE_SUFFIXES
from astro_unetloc.formats import format_catalog
from astro_unetloc.point_models import format_gammapy_models, format_library, point_models

__all__ = [
    "check_fluxes",
    "check_place",
    "check_outputs",
    "output_paths",
    "table_bytes",
    "to_gammapy_models",
    "to_regions",
    "write_outputs",
]

_MODEL_SUFFIXES = (".yaml", ".xml")
SUFFIXES = (*TABLE_SUFFIXES, ".reg", ".crtf", *_MODEL_SUFFIXES, ".png")


def output_paths(paths):
    """The paths to write: a lone FITS catalogue gets its regions beside it.

    Parameters
    ----------
    paths : iterable of str or path-like
        What was asked for.

    Returns
    -------
    tuple of Path
        What is to be written.

    Examples
    --------
    >>> from astro_unetloc.export import output_paths
    >>> print(*output_paths(["catalog.fits"]))
    catalog.fits catalog.reg
    """
    paths = tuple(Path(path) for path in paths)
    if len(paths) == 1 and _suffix(paths[0]).startswith(".fits"):
        stem = paths[0].name[: -len(_suffix(paths[0]))]
        paths += (paths[0].with_name(f"{stem}.reg"),)
    return paths


def _suffix(path):
    """The known suffix that a name ends with, or an empty string."""
    name = path.name.lower()
    found = (s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s))
    return next((s for s in found if len(name) > len(s)), "")


def check_outputs(paths, *, overwrite=False, inputs=()):
    """Raise now what would keep the files from being written later.

    Parameters
    ----------
    paths : iterable of str or path-like
        Files to write.
    overwrite : bool
        Whether files that exist may be replaced.
    inputs : iterable of str or path-like
        Files that are being read and must stay.

    Raises
    ------
    ValueError
        If a suffix is unknown, or a path is given twice or is being read.
    FileNotFoundError
        If a directory does not exist.
    FileExistsError
        If a file exists and may not be replaced.
    PermissionError
        If a directory cannot be written to.
    """
    paths = [Path(path) for path in paths]
    real = [os.path.realpath(path) for path in paths]
    being_read = {os.path.realpath(path) for path in inputs}
    for number, path in enumerate(paths):
        if not _suffix(path):
            known = " ".join(SUFFIXES)
            raise ValueError(f"output must end in one of {known}; got {str(path)!r}; rename it")
        if real[number] in real[:number]:
            raise ValueError(f"outputs must differ; got {str(path)!r} twice; drop one")
        if real[number] in being_read:
            raise ValueError(f"output must not be the input; got {str(path)!r}; rename it")
        check_place(path, overwrite=overwrite)


def check_fluxes(paths, *, known):
    """Raise if models are to be written, which need fluxes, and fluxes will not be known.

    Parameters
    ----------
    paths : iterable of str or path-like
        Files to write.
    known : bool
        Whether sources are measured with an exposure.

    Raises
    ------
    ValueError
        If models are among the files and ``known`` is false.
    """
    models = [str(path) for path in paths if _suffix(Path(path)) in _MODEL_SUFFIXES]
    if models and not known:
        raise ValueError(
            f"models need the flux of each source; got {models[0]!r} without an exposure or "
            "without measuring; give --exposure or drop that output"
        )


def check_place(path, *, overwrite=False):
    """Raise unless a file, of any suffix, can be written at a path; see `check_outputs`."""
    path, target = Path(path), Path(os.path.realpath(path))
    if target.is_dir():
        raise FileExistsError(f"output must be a file; got the directory {str(path)!r}; add a name")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"output directory must exist; got {str(path.parent)!r}; create it first"
        )
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"output must not exist; got {str(path)!r}; choose another name or allow overwriting"
        )
    # Tried rather than asked: permissions say nothing of read-only or full file systems.
    probe = _beside(target)
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.unlink(probe)
    except OSError as err:
        raise PermissionError(
            f"output directory must be writable; got {str(path.parent)!r} ({err.strerror}); "
            "choose another"
        ) from err


def _beside(target):
    """A name for a temporary file in the directory of ``target``."""
    return target.with_name(f".unetloc-{secrets.token_hex(6)}.tmp")


def write_outputs(catalog, paths, *, overwrite=False, frame="icrs", figure=None, others=None):
    """Write the catalogue to all paths, format by suffix: all files or none.

    Parameters
    ----------
    catalog : QTable
        From `make_catalog`, or any table of sources.
    paths : iterable of str or path-like
        Files ending in one of `SUFFIXES`, as from `output_paths`.
    overwrite : bool
        Whether files that exist may be replaced.
    frame : str
        Frame of the regions: "icrs", "fk5" or "galactic".
    figure : callable, optional
        ``figure(file)`` writes the picture as PNG to a binary file; needed for .png.
    others : dict of path to bytes, optional
        Further files to write along with them, of any suffix.

    Returns
    -------
    tuple of Path
        The files written.

    Raises
    ------
    ValueError, FileNotFoundError, FileExistsError, PermissionError
        As `check_outputs`; ValueError also for a picture without ``figure`` and for models
        without fluxes.
    """
    paths = tuple(Path(path) for path in paths)
    check_outputs(paths, overwrite=overwrite)
    contents = {path: _content(catalog, path, frame, figure) for path in paths}
    for path, content in (others or {}).items():
        check_place(path, overwrite=overwrite)
        contents[Path(path)] = content
    _put_in_place(contents)
    return tuple(contents)


def table_bytes(table, path):
    """The content of a further file with a table or the regions of its sources, for ``others``."""
    check_outputs([path], overwrite=True)
    return _content(table, Path(path), "icrs", None)


def _content(catalog, path, frame, figure):
    """What belongs in a file, by its suffix, as bytes."""
    suffix = _suffix(path)
    if suffix == ".png":
        return _picture(figure, path)
    if suffix == ".reg":
        return format_regions(catalog, frame=frame).encode("ascii")
    if suffix == ".crtf":
        return _crtf(catalog, frame).encode("ascii")
    if suffix == ".yaml":
        return format_gammapy_models(point_models(catalog)).encode()
    if suffix == ".xml":
        return format_library(point_models(catalog))
    return format_catalog(catalog, suffix)


def _picture(figure, path):
    if figure is None:
        raise ValueError(f"a picture needs the photons of the map; got {str(path)!r} without them")
    stream = io.BytesIO()
    figure(stream)
    return stream.getvalue()


def _put_in_place(contents):
    """Write bytes to files, all or none; files that were there come back if one fails."""
    targets = [Path(os.path.realpath(path)) for path in contents]
    fresh, saved, placed = {}, {}, []
    try:
        for target, content in zip(targets, contents.values()):
            fresh[target] = _beside(target)
            _write_file(fresh[target], content)
        for target in targets:
            if target.exists():
                saved[target] = _beside(target)
                _keep(target, saved[target])
        for target in targets:
            os.replace(fresh[target], target)
            placed.append(target)
    except BaseException:  # an interrupt from the keyboard too
        for target in placed:
            if target in saved:
                os.replace(saved[target], target)
            else:
                target.unlink(missing_ok=True)
        raise
    finally:
        for leftover in (*fresh.values(), *saved.values()):
            leftover.unlink(missing_ok=True)


def _write_file(path, content):
    with open(path, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _keep(target, copy):
    """A second name for a file, or a copy where the file system has no hard links."""
    try:
        os.link(target, copy)
    except OSError:
        _write_file(copy, target.read_bytes())


def to_regions(catalog, *, frame="icrs"):
    """The catalogue as `regions.Regions`: a labelled point and a 95 % ellipse for each source.

    Parameters
    ----------
    catalog : QTable
        Sources.
    frame : str
        "icrs", "fk5" or "galactic".

    Returns
    -------
    Regions
        A point for each source, followed by its ellipse where that is known.

    Examples
    --------
    >>> from astro_unetloc import read_catalog, to_regions
    >>> regions = to_regions(read_catalog("catalog.fits"))  # doctest: +SKIP
    """
    from regions import Regions

    return Regions.parse(format_regions(catalog, frame=frame), format="ds9")


def _crtf(catalog, frame):
    """Regions of CASA: labelled symbols and ellipses.

    The writer of `regions` knows points as ``point``, which CASA and its own reader refuse, and
    takes the height of an ellipse for the major axis, whose position angle CASA wants.
    """
    import astropy.units as u
    from regions import EllipseSkyRegion, PointSkyRegion, Regions

    regions = []
    for region in to_regions(catalog, frame=frame):
        visual = {"color": region.visual.get("color") or region.visual["edgecolor"]}
        if isinstance(region, PointSkyRegion):
            # quotes and brackets would end the label
            label = re.sub(r"[^A-Za-z0-9 ()+.:;_-]", "_", region.meta.get("text", ""))
            about = {"meta": {"label": label} if label else {}, "visual": visual | {"symbol": "+"}}
            regions.append(PointSkyRegion(region.center, **about))
        else:
            shape = (region.height, region.width, region.angle - 90 * u.deg)
            regions.append(EllipseSkyRegion(region.center, *shape, visual=visual))
    return Regions(regions).serialize(format="crtf", coordsys=frame)


def to_gammapy_models(catalog):
    """The catalogue as `gammapy.modeling.models.Models`, from which a likelihood fit can start.

    Parameters
    ----------
    catalog : QTable
        From `astro_unetloc.find_sources` with an exposure, or read back from FITS, ECSV or VOTable.

    Returns
    -------
    gammapy.modeling.models.Models
        For each source with a ``Flux`` a point source with a power law between the energies of the
        flux (``PowerLaw2SpectralModel``), under its name, with the errors of the catalogue and the
        covariance of the position from its 68 % ellipse. An unknown index is
        ``astro_unetloc.config.PHOTON_INDEX``.

    Raises
    ------
    ValueError
        If there are sources and none has a flux, or the header does not state its energies.

    Warns
    -----
    UnetlocWarning
        If sources without a flux are left out.

    Examples
    --------
    >>> from astro_unetloc import read_catalog, to_gammapy_models
    >>> models = to_gammapy_models(read_catalog("catalog.fits"))  # doctest: +SKIP
    >>> dataset.models = [*models, *dataset.models]  # doctest: +SKIP
    """
    from gammapy.modeling.models import Models

    sources = point_models(catalog)
    models = Models.from_yaml(format_gammapy_models(sources))
    for model, covariance in zip(models, sources.covariance):
        if np.isfinite(covariance).all():
            model.spatial_model.covariance = covariance
    return models
