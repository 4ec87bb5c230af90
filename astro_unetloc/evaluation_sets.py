"""Patch sets to evaluate on: each patch is a sky of its own, searched and judged alone.

A patch set holds less than a whole sky. The photons of a source are those that were seen in the
image, not those expected. Without the map nothing is measured: ``Score`` is that of candidates
without a fit. Extended sources are those that the set does not label although they are bright
enough; how wide they are it does not say. What was found within the match radius of the border and
belongs to no true source may belong to one outside, and is left out.
"""

import numpy as np

from astro_unetloc.catalog import make_catalog
from astro_unetloc.clustering import find_clusters
from astro_unetloc.config import MATCH_RADIUS_DEG, LocalizationConfig
from astro_unetloc.evaluation_skies import BRIGHTEST_BELOW_GEV
from astro_unetloc.geometry import PatchGrid, TangentPlane
from astro_unetloc.judgement import Judgement, join, judge
from astro_unetloc.localization import SkySources, local_coverage, nearest_other_deg
from astro_unetloc.patches import Patches
from astro_unetloc.pipeline import source_probability
from astro_unetloc.predictions import PredictedPatches, SkyRows
from astro_unetloc.references import glon_glat_vectors

__all__ = ["check_bands", "chosen_rows", "predict_rows"]

# Radius of extended sources, which a set does not hold: the median of those that are simulated.
_EXTENDED_DEG = 0.56


def check_bands(patch_set, model):
    """Raise unless a set was made in the bands of a model.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    model : Model
        The model.

    Raises
    ------
    ValueError
        If the bands differ.
    """
    found = np.asarray(patch_set.recipe["band_edges_gev"], dtype=float)
    if len(found) != len(model.band_edges) or not np.allclose(found, model.band_edges):
        raise ValueError(
            f"{patch_set.path}: expected patches in the bands {model.band_edges.tolist()} GeV of "
            f"model {model.name}; got {found.tolist()}; choose another model or set"
        )


def chosen_rows(patch_set, n, *, codes=(), everything=False):
    """Rows of a set to evaluate on: of skies that are kept to validate on, unless all are wanted.

    Parameters
    ----------
    patch_set : PatchSet
        The set.
    n : int
        At most so many, drawn at random, always the same.
    codes : iterable of str
        Code names of patches to show in any case, of the same skies.
    everything : bool
        Whether patches that a model may have been trained on are taken too.

    Returns
    -------
    drawn : ndarray of int
        In ascending order, whatever names are given: scores of what a person picks out would
        be no measure.
    named : ndarray of int
        Those of these names that were not drawn, in ascending order.

    Raises
    ------
    ValueError
        If there are none, or none of such a name.
    """
    rows = patch_set.rows(validation=True)
    if everything:
        rows = np.arange(patch_set.n_patches)
    if not len(rows):
        raise ValueError(
            f"{patch_set.path}: expected skies to validate on, whose seeds five divides; got "
            "none; make a set with such a sky, or evaluate on all with --all-skies"
        )
    drawn = np.sort(np.random.default_rng(20270).permutation(rows)[:n])
    return drawn, np.setdiff1d(_named(patch_set, codes, rows), drawn)


def _named(patch_set, codes, rows):
    """Rows of patches by their code names, which must be among some rows."""
    if not codes:
        return np.zeros(0, int)
    known = {code.decode(): row for row, code in enumerate(patch_set.read(names=["code"])["code"])}
    allowed = set(rows.tolist())
    wrong = [code for code in codes if known.get(code) not in allowed]
    if wrong:
        kind, cure = "its patches", "name others"
        if wrong[0] in known:
            kind, cure = "patches of its skies to validate on", "name others, or add --all-skies"
        example = next(code for code, row in known.items() if row in allowed)
        raise ValueError(
            f"{patch_set.path}: expected code names of {kind}, such as {example}; "
            f"got {wrong[0]!r}; {cure}"
        )
    return np.array([known[code] for code in codes])


def predict_rows(patch_set, rows, model, *, judged=True, progress=None):
    """Search some patches of a set and judge what was found.

    Parameters
    ----------
    patch_set : PatchSet
        The set, in the bands of the model.
    rows : ndarray (n,) of int
        Which patches.
    model : Model
        The model.
    judged : bool
        Whether they count; if not, the judgement is of nothing.
    progress : callable, optional
        Wraps an iterable, as `tqdm.tqdm` does.

    Returns
    -------
    patches : PredictedPatches
        The patches.
    judgement : Judgement
        Of every candidate, whatever its score; parts are the patches.
    """
    columns = patch_set.read(rows)
    counts, coverage = (columns[n].astype(np.float32) for n in ("counts", "coverage"))
    pixel_deg, n_pix = patch_set.recipe["pixel_deg"], counts.shape[1]
    planes = [
        TangentPlane(*map(float, center[:2]), n_pix, pixel_deg, float(center[2]))
        for center in columns["center"]
    ]
    patches = Patches(PatchGrid(), np.asarray(rows), counts, coverage, columns["bands"])
    probability, _ = source_probability(patches, model, progress)
    catalog = _catalog(find_clusters(probability, config=model.clustering), patches, planes, model)
    truth = _truth(patch_set, rows)
    codes = columns["code"].astype(str)
    brightest = bool(model.band_edges[0] < BRIGHTEST_BELOW_GEV)
    judgement = _judgement(catalog, truth, planes, codes, coverage[..., 0], brightest)
    kept = {name: values for name, values in columns.items() if name != "validation"}
    kept["probability"] = probability.astype(np.float16)
    predicted = PredictedPatches(kept, *_inside(judgement, planes, codes))
    if not judged:
        judgement = Judgement(judgement.catalog[:0], judgement.truth[:0], area_deg2=0.0)
    return predicted, judgement


def _catalog(candidates, patches, planes, model):
    """The candidates as a catalogue; ``Patch`` counts the patches."""
    vectors, nearest = np.zeros((len(candidates), 3)), np.full(len(candidates), np.nan)
    for row in np.unique(candidates.row):
        here = candidates.row == row
        vectors[here] = planes[row].vectors_from_pixel(candidates.x[here], candidates.y[here])
        nearest[here] = nearest_other_deg(vectors[here])
    sources = SkySources(
        vectors=vectors,
        probability=candidates.probability,
        score=candidates.probability,
        patch=candidates.row,
        coverage=local_coverage(candidates, patches, LocalizationConfig().edge_radius_deg),
        flags=np.zeros(len(candidates), np.int16),
        separation_deg=nearest,
    )
    return make_catalog(sources.calibrated(model.calibration))


def _truth(patch_set, rows):
    """True sources of patches in the columns of a simulated sky; ``Patch`` counts the patches."""
    import astropy.units as u
    from astropy.table import QTable

    sources = patch_set.sources()
    number = np.full(patch_set.n_patches, -1)
    number[rows] = np.arange(len(rows))
    sources = sources[number[sources["patch"]] >= 0]
    recipe = patch_set.recipe
    bright = sources["n_photons"] >= recipe["min_photons"]
    bright &= sources["significance"] >= recipe["min_significance"]
    return QTable(
        {
            "GLON": sources["glon"] * u.deg,
            "GLAT": sources["glat"] * u.deg,
            "Flux": sources["flux"] * u.Unit("ph cm-2 s-1"),
            "Class": np.array(patch_set.classes)[sources["source_class"]],
            "Npred": sources["n_photons"].astype(float),
            "Radius": np.where(bright & ~sources["labelled"], _EXTENDED_DEG, 0.0) * u.deg,
            "Patch": number[sources["patch"]],
        }
    )


def _judgement(catalog, truth, planes, codes, coverage, brightest):
    """The judgement of all patches, each on its own."""
    from astropy.table import QTable

    # few columns: tables of one patch each are made by the thousand
    few = QTable({n: np.asarray(catalog[n], float) for n in ("GLON", "GLAT", "Score")})
    true = QTable({n: np.asarray(truth[n], float) for n in ("GLON", "GLAT", "Npred", "Radius")})
    few["Row"], true["Row"] = np.arange(len(few)), np.arange(len(true))
    margin_pix = MATCH_RADIUS_DEG / planes[0].pixel_deg
    parts, area = [], 0.0
    for number, (plane, code) in enumerate(zip(planes, codes)):
        here, true_here = few[catalog["Patch"] == number], true[truth["Patch"] == number]
        judged = judge(here, true_here, brightest=brightest, part=code)
        outside = _may_be_of_outside(judged.catalog, plane, margin_pix)
        if outside.any():
            kept = judged.catalog[~outside]
            judged = judge(few[kept["Row"]], true_here, brightest=brightest, part=code)
        parts.append(judged)
        area += _searched_deg2(plane, coverage[number], margin_pix)
    joined = join(parts)
    tables = []
    for whole, part in ((catalog, joined.catalog), (truth, joined.truth)):
        table = whole[np.asarray(part["Row"])]
        for name in part.colnames:
            if name not in ("Row", *whole.colnames):
                table[name] = part[name]
        tables.append(table)
    return Judgement(*tables, area_deg2=area, brightest=brightest)


def _may_be_of_outside(catalog, plane, margin_pix):
    """Which detections, judged wrong, are so near the border that their source may lie outside."""
    x, y = plane.pixel_from_vectors(glon_glat_vectors(catalog))
    low, high = margin_pix - 0.5, plane.n_pix - 0.5 - margin_pix
    inside = (x >= low) & (x < high) & (y >= low) & (y < high)
    wrong = (catalog["Verdict"] == "wrong") & ~catalog["Is_Duplicate"]
    return np.asarray(wrong & ~inside, bool)


def _searched_deg2(plane, coverage, margin_pix):
    """Observed sky of a patch where false detections count, in square degrees."""
    border = int(np.ceil(margin_pix))
    middle = slice(border, plane.n_pix - border)
    # solid angle of a pixel of a tangent plane (Calabretta & Greisen 2002, section 5.1.3)
    shrinking = (plane.pixel_vectors @ plane.basis[2]) ** 3
    return float((coverage * shrinking)[middle, middle].sum() * plane.pixel_deg**2)


def _inside(judgement, planes, codes):
    """True sources and detections with their pixel positions, each in its own patch."""
    rows = SkyRows(judgement)
    of_source, of_found = (
        np.asarray(table["Patch"], int) for table in (judgement.truth, judgement.catalog)
    )
    sources, found = [], []
    for number, plane in enumerate(planes):
        among = np.flatnonzero(of_source == number)
        sources.append(rows.inside("sources", plane, number, among=among))
        among = np.flatnonzero(of_found == number)
        found.append(rows.inside("found", plane, number, among=among))
    return np.concatenate(sources), np.concatenate(found)
