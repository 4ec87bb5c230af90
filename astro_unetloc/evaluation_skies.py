"""Whole simulated skies to evaluate on: searched, judged, and some of their patches kept."""

from dataclasses import replace

import numpy as np

from astro_unetloc.config import GridConfig, TrainingConfig
from astro_unetloc.datasets import COLUMNS
from astro_unetloc.energies import parse_energy_range
from astro_unetloc.geometry import SKY_DEG2, PatchGrid, TangentPlane, lonlat_from_vectors
from astro_unetloc.judgement import judge, patch_parts
from astro_unetloc.maps import SkyMap
from astro_unetloc.observation import source_mask
from astro_unetloc.pipeline import detect
from astro_unetloc.pixelization import HealpixPixelization
from astro_unetloc.predictions import FOUND_DTYPE, SOURCE_DTYPE, PredictedPatches, SkyRows
from astro_unetloc.response import SurveyExposure
from astro_unetloc.simulation import simulate_sky
from astro_unetloc.sky_files import healpix_cube

__all__ = [
    "BRIGHTEST_BELOW_GEV",
    "check_codes",
    "chosen_patches",
    "narrowed",
    "observed_sky",
    "patch_code",
    "predict_sky",
    "sky_patches",
]

# Below this energy a true source of three photons is so often near that the nearest one is not the
# one that was found, and a sky holds so many photons that they are binned.
BRIGHTEST_BELOW_GEV = 10.0
# 0.23 deg: finer than the point-spread function below 10 GeV.
_NSIDE = 256


def observed_sky(band_edges, seed, *, years=7.0, template=None, variant="P6V11", with_sources=True):
    """A simulated sky in the energies of a model, as such a sky would be given to it.

    Parameters
    ----------
    band_edges : ndarray (n_band + 1,)
        Edges of the model's bands in GeV.
    seed : int
        Seed of the sky.
    years, template, variant, with_sources
        See `astro_unetloc.simulate_sky`.

    Returns
    -------
    sky_map : SkyMap
        Events; from below 10 GeV on a counts cube, HEALPix of nside 256, in the bands. Its
        exposure is the one that detected the photons, so that fluxes are measured.
    truth : QTable
        See `astro_unetloc.simulate_sky`.
    """
    edges = np.asarray(band_edges, dtype=float)
    sky_map, truth = simulate_sky(
        years=years, template=template, variant=variant, energy_range=tuple(edges[[0, -1]]),
        with_sources=with_sources, rng=seed,
    )  # fmt: skip
    exposure = SurveyExposure(years)
    if edges[0] >= BRIGHTEST_BELOW_GEV:
        return replace(sky_map, exposure=exposure), truth
    counts = healpix_cube(sky_map.events, edges, _NSIDE)
    pixels = HealpixPixelization(_NSIDE, False, "galactic")
    sky_map = SkyMap(
        counts=counts, pixels=pixels, energy_edges=edges, exposure=exposure, name="simulated sky"
    )
    return sky_map, truth


def narrowed(band_edges, energy_range=None):
    """The bands of a model, or what an energy range leaves of them.

    Parameters
    ----------
    band_edges : ndarray (n_band + 1,)
        In GeV.
    energy_range : pair of Quantity or float, optional
        GeV if bare; all energies by default.

    Returns
    -------
    ndarray (k + 1,)
        In GeV.

    Raises
    ------
    ValueError
        If nothing is left.
    """
    band_edges, wanted = np.asarray(band_edges, float), parse_energy_range(energy_range)
    if wanted is None:
        return band_edges
    left = np.unique(np.clip(wanted, *band_edges[[0, -1]]))
    if len(left) < 2:
        raise ValueError(
            f"the energy range must overlap {band_edges[0]:g}-{band_edges[-1]:g} GeV, the bands of "
            f"the model; got {wanted[0]:g}-{wanted[1]:g} GeV; choose another"
        )
    inside = (band_edges > left[0]) & (band_edges < left[1])
    return np.concatenate([left[:1], band_edges[inside], left[1:]])


def patch_code(seed, number):
    """Code name of a patch of the grid on a simulated sky."""
    return f"sky{seed:06d}-p{number:03d}"


def check_codes(codes, seeds):
    """Raise unless code names are those of patches of some skies.

    Parameters
    ----------
    codes : iterable of str
        The names.
    seeds : sequence of int
        Seeds of the skies, at least one.

    Raises
    ------
    ValueError
        If a name is another.
    """
    n_patches = PatchGrid().n_patches
    known = {patch_code(seed, number) for seed in seeds for number in range(n_patches)}
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise ValueError(
            f"expected code names such as {patch_code(seeds[0], 0)} to "
            f"{patch_code(seeds[-1], n_patches - 1)}; got {unknown[0]!r}; name patches of the skies"
        )


def chosen_patches(seed, n, *, codes=()):
    """Patches of a sky that are kept: drawn by its seed, and those asked for by name.

    Parameters
    ----------
    seed : int
        Seed of the sky.
    n : int
        How many are drawn; all if there are not so many.
    codes : iterable of str
        Code names of further ones; those of other skies are left out.

    Returns
    -------
    ndarray of int
        Patch numbers in ascending order.
    """
    n_patches = PatchGrid().n_patches
    drawn = np.random.default_rng([20270, seed]).permutation(n_patches)[:n]
    named = [i for i in range(n_patches) if patch_code(seed, i) in set(codes)]
    return np.union1d(drawn, named).astype(int)


def predict_sky(model, seed, *, numbers=(), band_edges=None, progress=None, **options):
    """Search a simulated sky, judge what was found, and keep some patches.

    Parameters
    ----------
    model : Model
        The model.
    seed : int
        Seed of the sky.
    numbers : sequence of int
        Patches to keep.
    band_edges : ndarray, optional
        Energies of the sky and of its true sources, if not those of the model.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.
    **options
        See `observed_sky`.

    Returns
    -------
    patches : PredictedPatches or None
        Those that were asked for; None for none.
    judgement : Judgement
        Of every candidate, whatever its score; parts are the patches of the grid.
    """
    edges = model.band_edges if band_edges is None else band_edges
    sky_map, truth = observed_sky(edges, seed, **options)
    run = detect(sky_map, model=model, threshold=0.0, progress=progress)
    judgement = judge(
        run.catalog, truth, brightest=bool(edges[0] < BRIGHTEST_BELOW_GEV),
        part=patch_parts(seed), area_deg2=SKY_DEG2,
    )  # fmt: skip
    patches = sky_patches(run, judgement, seed, numbers) if len(numbers) else None
    return patches, judgement


def sky_patches(run, judgement, seed, numbers):
    """Some patches of a search: the part that the network is trained on, without what is padded.

    Parameters
    ----------
    run : Detection
        The search of a whole sky.
    judgement : Judgement
        Of what it found.
    seed : int
        Seed of the sky.
    numbers : sequence of int
        Which patches.

    Returns
    -------
    PredictedPatches
    """
    grid, config = GridConfig(), TrainingConfig()
    pad = (grid.read_pixels - grid.patch_pixels) // 2
    middle = slice(pad, pad + grid.patch_pixels)
    rows = np.searchsorted(run.patches.index, numbers)
    lon, lat = lonlat_from_vectors(run.patches.grid.centers[np.asarray(numbers)])
    center = np.stack([lon, lat, np.zeros(len(rows))], axis=-1)
    sky_rows, masks, sources, found = SkyRows(judgement), [], [], []
    for row, (lon, lat, _) in enumerate(center):
        plane = TangentPlane(float(lon), float(lat), grid.patch_pixels, grid.pixel_deg)
        # a disc may reach into the image from outside
        around = sky_rows.inside("sources", plane, row, margin_pix=config.mask_radius_pix)
        counted = around[around["role"] == b"counted"]
        masks.append(source_mask(counted["x"], counted["y"], config.mask_radius_pix, plane.n_pix))
        sources.append(sky_rows.inside("sources", plane, row))
        found.append(sky_rows.inside("found", plane, row))
    columns = {
        "counts": _small_integers(run.patches.counts[rows][:, middle, middle]),
        "coverage": run.patches.coverage[rows][:, middle, middle].astype(np.uint8),
        "mask": np.stack(masks)[..., None],
        "probability": run.probability[rows][:, middle, middle].astype(np.float16),
        "bands": np.broadcast_to(run.patches.bands, (len(rows), *run.patches.bands.shape)),
        "center": center,
        "sky": np.full(len(rows), seed),
        "code": np.array([patch_code(seed, number) for number in numbers], COLUMNS["code"]),
    }
    empty = np.zeros(0, SOURCE_DTYPE), np.zeros(0, FOUND_DTYPE)
    return PredictedPatches(
        columns, np.concatenate([empty[0], *sources]), np.concatenate([empty[1], *found])
    )


def _small_integers(counts):
    """Photons as they are stored; a pixel of more than 65535 of them shows that many."""
    return np.minimum(counts, np.iinfo(np.uint16).max).astype(np.uint16)
