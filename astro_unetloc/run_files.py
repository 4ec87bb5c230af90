"""The files of a run: catalogues, pictures, and maps of what was searched."""

from pathlib import Path

__all__ = ["write_run"]


def write_run(run, paths, *, frame="icrs", overwrite=False, probability_map=None, moc=None,
              limit_map=None, progress=None):  # fmt: skip
    """Write what a run found: all files or none.

    Parameters
    ----------
    run : Detection
        The run.
    paths : sequence of path
        Catalogues, regions and pictures; the suffix says what each is.
    frame : str
        Frame of regions.
    overwrite : bool
        Whether files that exist may be replaced.
    probability_map, moc, limit_map : path, optional
        Maps to write besides, see `astro_unetloc.searched_sky`.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.
    """
    from astro_unetloc.export import write_outputs
    from astro_unetloc.searched_sky import moc_bytes, probability_map_bytes

    others, meta = {}, run.catalog.meta
    if probability_map:
        others[probability_map] = probability_map_bytes(
            run.patches, run.probability, pixels=run.sky_map.pixels, keywords=meta
        )
    if moc:
        others[moc] = moc_bytes(run.patches, cone=run.cone, keywords=meta)
    if limit_map:
        others[limit_map] = _limit_map(run, progress)
    write_outputs(
        run.catalog, paths, overwrite=overwrite, frame=frame, figure=_picture(run), others=others
    )


def _limit_map(run, progress):
    """The map of detection limits of a run."""
    from astro_unetloc.searched_sky import limit_map_bytes

    model, meta = run.model, run.catalog.meta
    return limit_map_bytes(
        run.patches, run.sky_map, model.half_found(meta["THRESH"]),
        sources=run.neighbors, energy_range=tuple(model.band_edges[[0, -1]]),
        flux_range=model.flux_range, cone=run.cone, keywords=meta, progress=progress,
    )  # fmt: skip


def _picture(run):
    """Function of a binary file that draws the counts and the sources of a run."""
    from astro_unetloc.figures import plot_sources

    name = Path(run.sky_map.name).name
    title = f"{name}: {run.sky_map.n_photons:,} photons, {len(run.catalog)} sources"
    return lambda file: plot_sources(
        run.sky_map.photons(run.catalog.meta["SEED"]), run.catalog, path=file, title=title
    )
