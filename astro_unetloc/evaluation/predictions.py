"""Searches of simulated skies and patch sets: truth matches, and patches with their predictions.

The patches are kept in HDF5 files, which docs/evaluation_files.rst describes.
"""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
from astropy.table import QTable
from astropy.units import Quantity
from gammapy.maps import HpxGeom, Map, MapAxis

from astro_unetloc.catalog.columns import set_column
from astro_unetloc.catalog.match import MATCH_RADIUS_DEG
from astro_unetloc.catalog.table import degrees, glon_glat_vectors, make_catalog, numbers_of
from astro_unetloc.detection.localization import (
    LocalizationConfig,
    local_coverage,
    nearest_neighbor_deg,
    source_table,
)
from astro_unetloc.evaluation.comparison import FLUX_UNIT
from astro_unetloc.evaluation.truth import TruthMatch, grid_tiles, join_matches, match_truth
from astro_unetloc.exceptions import InputError
from astro_unetloc.files import whole_file
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.maps.patches import GridConfig, Patches, PatchGrid, TangentPlane
from astro_unetloc.maps.selection import parse_energy_range
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.pipeline import detect, find_candidates
from astro_unetloc.simulation.sky import healpix_cube, simulate_sky
from astro_unetloc.sphere import SKY_DEG2, lonlat_from_vectors
from astro_unetloc.training.observation import TrainingConfig, source_mask

# Below this energy a true source of three photons is so often near that a detection takes the
# brightest one within the radius, and a sky holds so many photons that they are binned.
BRIGHTEST_BELOW_GEV = 10.0
_NSIDE = 256  # 0.23 deg: finer than the point-spread function below 10 GeV
_EXTENDED_DEG = 0.56  # median radius of simulated extended sources, which a patch set does not hold

# Records of predictions.h5: sources and detections by patch, with pixel positions that count from
# the centre of the first pixel, degrees, photons and ph cm-2 s-1.
_POSITION = [("patch", "<i8"), ("x", "<f4"), ("y", "<f4"), ("glon", "<f8"), ("glat", "<f8")]
_DTYPES = {
    "image": "<u2", "coverage": "u1", "mask": "u1", "probability": "<f2", "bands": "<f4",
    "center": "<f8", "sky": "<i8", "code": "S24",
    "sources": np.dtype(
        [*_POSITION, ("npred", "<f8"), ("flux", "<f8"), ("radius", "<f4"),
         ("truth_class", "S8"), ("score", "<f4")]
    ),
    "found": np.dtype([*_POSITION, ("score", "<f4"), ("status", "S14")]),
}  # fmt: skip
_IMAGES = ("image", "coverage", "mask", "probability")


# Simulated skies


def observed_sky(
    band_edges, seed, *, years=7.0, nside=None, template=None, variant="P6V11", with_sources=True
):
    """Simulated sky in the energies (GeV) of a model, as a user would give it, and its truth.

    The map has events or, with ``nside`` and from below 10 GeV on, a HEALPix counts cube in the
    bands (n_band + 1,), and the exposure that detected the photons.
    """
    edges = np.asarray(band_edges, dtype=float)
    sky_map, truth = simulate_sky(
        years=years, template=template, variant=variant, energy_range=tuple(edges[[0, -1]]),
        with_sources=with_sources, rng=seed,
    )  # fmt: skip
    exposure = SurveyExposure(years)
    if nside is None and edges[0] >= BRIGHTEST_BELOW_GEV:
        return replace(sky_map, exposure=exposure), truth
    axes = [MapAxis.from_energy_edges(edges, unit="GeV")]
    nside = _NSIDE if nside is None else nside
    geom = HpxGeom(nside, nest=False, frame="galactic", axes=axes)
    counts = Map.from_geom(geom, data=healpix_cube(sky_map.events, edges, nside))
    sky_map = SkyMap(counts=counts, energy_edges=edges, exposure=exposure, name="simulated sky")
    return sky_map, truth


def narrowed(band_edges, energy_range=None):
    """Edges in GeV of the bands of a model inside an energy range."""
    edges, wanted = np.asarray(band_edges, float), parse_energy_range(energy_range)
    if wanted is None:
        return edges
    low, high = np.clip(wanted, *edges[[0, -1]])
    if low == high:
        raise InputError(
            f"the energy range must overlap {edges[0]:g}-{edges[-1]:g} GeV, the bands of the "
            f"model; got {wanted[0]:g}-{wanted[1]:g} GeV; choose another"
        )
    return np.array([low, *edges[(edges > low) & (edges < high)], high])


def patch_code(seed, number):
    """Name of a patch of the grid on a simulated sky."""
    return f"sky{seed:06d}-p{number:03d}"


def chosen_patches(seeds, n, codes=()):
    """Ascending numbers of n patches of each sky, drawn by its seed, and of those with a code."""
    n_patches, chosen = PatchGrid().n_patches, {}
    known = {patch_code(seed, i): (seed, i) for seed in seeds for i in range(n_patches)}
    if unknown := set(codes) - set(known):
        first, *_, last = known
        raise InputError(
            f"expected code names such as {first} to {last}; got {min(unknown)!r}; name patches of "
            "the skies"
        )
    for seed in seeds:
        drawn = np.random.default_rng([20270, seed]).permutation(n_patches)[:n]
        named = [known[code][1] for code in codes if known[code][0] == seed]
        chosen[seed] = np.union1d(drawn, named).astype(int)
    return chosen


def search_sky(model, seed, *, numbers=(), band_edges=None, progress=None, **options):
    """Predictions for some patches (None for none) and matches of a simulated sky."""
    edges = model.band_edges if band_edges is None else band_edges
    sky_map, truth = observed_sky(edges, seed, **options)
    run = detect(sky_map, model=model, threshold=0.0, progress=progress)
    matches = match_truth(
        run.catalog, truth, brightest=bool(edges[0] < BRIGHTEST_BELOW_GEV),
        tile=grid_tiles(seed), area_deg2=SKY_DEG2,
    )  # fmt: skip
    return (_sky_patches(run, matches, seed, numbers) if len(numbers) else None), matches


def _sky_patches(run, matches, seed, numbers):
    """Predictions for the inner part of some patches, without the padding."""
    grid, radius_pix = GridConfig(), TrainingConfig().mask_radius_pix
    pad = (grid.read_pixels - grid.patch_pixels) // 2
    middle = slice(pad, pad + grid.patch_pixels)
    rows = np.searchsorted(run.patches.index, numbers)
    lon, lat = lonlat_from_vectors(run.patches.grid.centers[np.asarray(numbers)])
    planes = [TangentPlane(x, y, grid.patch_pixels, grid.pixel_deg) for x, y in zip(lon, lat)]
    counted, masks = glon_glat_vectors(matches.truth)[matches.is_class("counted")], []
    for plane in planes:
        x, y, near = _pixels(plane, counted, -radius_pix)  # a disc may reach into the image
        masks.append(source_mask(x[near], y[near], radius_pix, plane.n_pix))
    return {
        # a pixel of more than 65535 photons shows that many
        "image": np.minimum(run.patches.counts[rows][:, middle, middle], 65535),
        "coverage": run.patches.coverage[rows][:, middle, middle],
        "mask": np.stack(masks)[..., None],
        "probability": run.probability[rows][:, middle, middle],
        "bands": np.broadcast_to(run.patches.bands, (len(rows), *run.patches.bands.shape)),
        "center": np.stack([lon, lat, np.zeros(len(rows))], axis=-1),
        "sky": np.full(len(rows), seed),
        "code": [patch_code(seed, number) for number in numbers],
        **patch_records(matches, planes),
    }


def patch_records(matches, planes, *, by_number=False):
    """Records "sources" and "found" inside each patch, or only those with its ``Patch`` number."""
    result = {name: [] for name in ("sources", "found")}
    for (name, parts), table in zip(result.items(), (matches.truth, matches.catalog)):
        records, vectors = np.zeros(len(table), _DTYPES[name]), glon_glat_vectors(table)
        records["glon"], records["glat"] = degrees(table["GLON"]), degrees(table["GLAT"])
        if name == "found":
            records["score"], records["status"] = table["Score"], np.asarray(table["Status"], "S14")
        else:
            for column in ("Npred", "Flux", "Radius"):
                records[column.lower()] = numbers_of(table, column)
            records["truth_class"] = np.asarray(table["Truth_Class"], "S8")
            records["score"] = matches.of_detection(numbers_of(matches.catalog, "Score"))
        for number, plane in enumerate(planes):
            x, y, inside = _pixels(plane, vectors, 0.0)
            inside &= table["Patch"] == number if by_number else True
            part = records[inside]
            part["patch"], part["x"], part["y"] = number, x[inside], y[inside]
            parts.append(part)
    return {name: np.concatenate(parts) for name, parts in result.items()}


def _pixels(plane, vectors, border_pix):
    """Pixel positions of directions (n, 3), and which are further inside than a border."""
    x, y = plane.pixel_from_vectors(vectors)
    low, high = border_pix - 0.5, plane.n_pix - 0.5 - border_pix
    return x, y, (x >= low) & (x < high) & (y >= low) & (y < high)


# Patch sets


def check_bands(patch_set, model):
    """Raise an error unless a set was made in the bands of a model."""
    found, expected = patch_set.metadata["band_edges_gev"], model.band_edges.tolist()
    if len(found) != len(expected) or not np.allclose(found, expected):
        raise InputError(
            f"{patch_set.path}: expected patches in the bands {expected} GeV of model "
            f"{model.name}; got {list(found)}; choose another model or set"
        )


def chosen_rows(patch_set, n, codes=(), all_skies=False):
    """Rows of at most n patches, which do not depend on the codes, and further rows with a code.

    Only validation skies are used unless ``all_skies``.
    """
    rows = np.arange(patch_set.n_patches) if all_skies else patch_set.rows(validation=True)
    if not len(rows):
        raise InputError(
            f"{patch_set.path}: expected skies to validate on, whose seeds five divides; got "
            "none; make a set with such a sky, or evaluate on all with --all-skies"
        )
    drawn = np.sort(np.random.default_rng(20270).permutation(rows)[:n])
    names = patch_set.read(names=["code"])["code"].astype(str)[rows].tolist() if codes else []
    unknown = [code for code in codes if code not in names]
    if unknown:
        kind = "its patches" if all_skies else "patches of its skies to validate on"
        raise InputError(
            f"{patch_set.path}: expected code names of {kind}, such as {names[0]}; got "
            f"{unknown[0]!r}; name others{'' if all_skies else ', or add --all-skies'}"
        )
    return drawn, np.setdiff1d([rows[names.index(code)] for code in codes], drawn).astype(int)


def search_patches(patch_set, rows, model, *, counted=True):
    """Predictions and matches of some patches of a set; without matches unless they are counted."""
    columns = patch_set.read(rows)
    counts, coverage = (columns[n].astype(np.float32) for n in ("counts", "coverage"))
    pixel_deg, n_pix = patch_set.metadata["pixel_deg"], counts.shape[1]
    centers = columns["center"].tolist()
    planes = [TangentPlane(lon, lat, n_pix, pixel_deg, turn) for lon, lat, turn in centers]
    patches = Patches(PatchGrid(), np.asarray(rows), counts, coverage, columns["bands"])
    candidates, probability, _ = find_candidates(patches, model)
    catalog = _catalog(candidates, patches, planes, model.calibration)
    truth = _set_truth(patch_set, rows)
    matches = _match_patches(catalog, truth, planes, columns, model.band_edges[0])
    predictions = {name: columns[name] for name in _DTYPES if name in columns}
    predictions |= {"image": columns["counts"], "probability": probability}
    predictions |= patch_records(matches, planes, by_number=True)
    if not counted:
        nothing = np.zeros(0, int)
        matches = replace(matches.take(nothing, nothing), area_deg2=0.0)
    return predictions, matches


def _catalog(candidates, patches, planes, calibration):
    """Catalogue of the candidates; ``Patch`` counts the patches."""
    vectors, nearest = np.zeros((len(candidates), 3)), np.zeros(len(candidates))
    for row, plane in enumerate(planes):
        here = candidates.row == row
        vectors[here] = plane.vectors_from_pixel(candidates.x[here], candidates.y[here])
        nearest[here] = nearest_neighbor_deg(vectors[here])
    coverage = local_coverage(candidates, patches, LocalizationConfig().edge_radius_deg)
    sources = source_table(vectors, candidates.probability, patch=candidates.row, coverage=coverage)
    set_column(sources, "Sep_Nearest", nearest)
    return make_catalog(sources if calibration is None else calibration.apply(sources))


def _set_truth(patch_set, rows):
    """True sources of patches in the columns of a simulated sky; ``Patch`` counts the patches."""
    sources = patch_set.sources()
    number = np.full(patch_set.n_patches, -1)
    number[rows] = np.arange(len(rows))
    sources = sources[number[sources["patch"]] >= 0]
    bright = sources["n_photons"] >= patch_set.metadata["min_photons"]
    bright &= sources["significance"] >= patch_set.metadata["min_significance"]
    radius = np.where(bright & ~sources["labelled"], _EXTENDED_DEG, 0.0)
    return QTable({
        "GLON": Quantity(sources["glon"], "deg"), "GLAT": Quantity(sources["glat"], "deg"),
        "Flux": Quantity(sources["flux"], FLUX_UNIT), "Radius": Quantity(radius, "deg"),
        "Class": np.array(patch_set.classes)[sources["source_class"]],
        "Npred": sources["n_photons"].astype(float), "Patch": number[sources["patch"]],
    })  # fmt: skip


def _match_patches(catalog, truth, planes, columns, lowest_gev):
    """Matches within each patch, without false positives that may be a source outside of it."""
    first, margin_pix = planes[0], MATCH_RADIUS_DEG / planes[0].pixel_deg
    border = int(np.ceil(margin_pix))
    # solid angle of a pixel of a tangent plane (Calabretta & Greisen 2002, section 5.1.3)
    shrinking = (first.pixel_vectors @ first.basis[2]) ** 3
    observed = (columns["coverage"][..., 0] * shrinking)[:, border:-border, border:-border]
    area = float(observed.sum() * first.pixel_deg**2)
    matches = match_truth(
        catalog, truth, brightest=bool(lowest_gev < BRIGHTEST_BELOW_GEV), area_deg2=area,
        groups=[np.asarray(table["Patch"], int) for table in (catalog, truth)],
    )  # fmt: skip
    codes = columns["code"].astype(str)
    for table in (matches.catalog, matches.truth):
        table["Tile"] = codes[np.asarray(table["Patch"], int)]
    vectors, catalog = glon_glat_vectors(matches.catalog), matches.catalog
    may_be_outside = matches.has_status("false positive") & ~catalog["Is_Duplicate"]
    for number, plane in enumerate(planes):
        here = catalog["Patch"] == number
        may_be_outside[here] &= ~_pixels(plane, vectors[here], margin_pix)[2]
    return matches.take(np.flatnonzero(~may_be_outside))


# Files of predictions


def write_predictions(path, predictions, matches, metadata):
    """Write predictions of some patches (or None), the matches of all sources, and metadata."""
    _write(path, [predictions or {}], matches, metadata)


def _write(path, parts, matches, metadata):
    from astropy.io.misc.hdf5 import write_table_hdf5

    with whole_file(path, overwrite=True) as fresh, h5py.File(fresh, "w", libver="v110") as file:
        for part in parts:
            _append(file, part)
        file.attrs.update(metadata | {"area_deg2": matches.area_deg2})
        for name in ("catalog", "truth"):
            table = getattr(matches, name)
            # the position is read back from longitude and latitude
            table = table[[column for column in table.colnames if column != "skycoord"]]
            write_table_hdf5(table, file, path=name, serialize_meta=True, append=True)


def join_predictions(paths, path, metadata):
    """Joined matches of several files of predictions, which are joined to one file."""
    matches = join_matches([read_matches(part) for part in paths])
    _write(path, map(_read_patches, paths), matches, metadata)
    return matches


def _read_patches(path):
    """Datasets of the patches of a file of predictions."""
    with _open(path) as file:
        return {name: file[name][:] for name in _DTYPES if name in file}


def _append(file, predictions):
    """Append patches to the datasets of an open file; records count the patches of the file."""
    first = len(file["code"]) if "code" in file else 0
    for name, values in predictions.items():
        values = np.array(values, dtype=_DTYPES[name])
        if values.dtype.names:
            values["patch"] += first
        if name not in file:
            one = values.shape[1:]
            file.create_dataset(
                name, (0, *one), values.dtype, maxshape=(None, *one), compression="gzip",
                chunks=(1, *one) if name in _IMAGES else True, compression_opts=1, shuffle=True,
            )  # fmt: skip
        n = len(file[name])
        file[name].resize(n + len(values), axis=0)
        file[name][n:] = values


@contextmanager
def _open(path):
    """An open file of predictions; what it lacks, or what is damaged, is an error of one line."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as err:
        text = " ".join(str(err).split())
        raise InputError(f"{path}: expected predictions in HDF5; {text}; remove the file") from err


def read_metadata(path):
    """Metadata of a file of predictions as plain values."""
    with _open(path) as file:
        values = {n: v.tolist() if hasattr(v, "tolist") else v for n, v in file.attrs.items()}
    values.pop("area_deg2", None)
    return values


def read_matches(path):
    """Matches of a file of predictions."""
    with _open(path) as file:
        read = partial(QTable.read, file, format="hdf5", character_as_bytes=False)
        tables, area_deg2 = (read(path=n) for n in ("catalog", "truth")), file.attrs["area_deg2"]
        return TruthMatch(*tables, float(area_deg2))


def read_example(path, code):
    """Datasets of one patch of a file of predictions, by its code, and ``pixel_deg``."""
    with _open(path) as file:
        codes = file["code"][:].astype(str).tolist()
        row = codes.index(code) if code in codes else None
        example = {"code": code, "pixel_deg": float(file.attrs["pixel_deg"])}
        example |= {name: file[name][row or 0] for name in (*_IMAGES, "center")}
        records = {name: file[name][:] for name in ("sources", "found")}
    if row is None:
        raise InputError(
            f"expected the code name of a patch of {path}; got {code!r}; its {len(codes)} patches "
            f"are named as {codes[0]}"
        )
    return example | {name: rows[rows["patch"] == row] for name, rows in records.items()}


def worst_patches(path, n, *, threshold):
    """Codes of at most n patches of a file, those with most false positives and negatives first."""
    with _open(path) as file:
        codes, sources, found = (file[name][:] for name in ("code", "sources", "found"))
    missed = sources[(sources["truth_class"] == b"counted") & ~(sources["score"] >= threshold)]
    wrong = found[(found["status"] == b"false positive") & (found["score"] >= threshold)]
    patch = np.concatenate([missed["patch"], wrong["patch"]])
    number = np.bincount(patch, minlength=len(codes))
    order = np.argsort(-number, kind="stable")[:n]
    return [codes[row].decode() for row in order if number[row]]
