"""Average precision and completeness of this package and of other finders on the same skies.

    python benchmarks/compare_peers.py [--skies 2] [--patches 256] [--seed 2000] [--model FOLDER]
        [--template FILE --variant NAME] [--years 7]
        [--peers network scan both ts-true ts-fit dao log dbscan mst] [--rank Score]
        [--save FOLDER] [--figure FILE.png] [--completeness FILE.png]

The finders and the rules are those of docs/benchmarks.rst. Listed is the completeness at threshold
0. The last column is the wall time of a patch: of a TS map the pixels in and near the cell of the
patch, of network, scan and both a whole sky over its patches. The latter three are ranked by the
column --rank of their catalogue, Score or Log_Odds. --save keeps the results of the peers, which
take an hour, for the next run. --completeness draws the completeness against the true flux.
"""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import peers
from astropy.table import QTable
from joblib import Memory
from options import options_of
from tqdm import tqdm

from astro_unetloc.catalog.table import degrees, numbers
from astro_unetloc.evaluation import comparison
from astro_unetloc.evaluation.metrics import binned_scores
from astro_unetloc.evaluation.truth import SKIES, join_matches, match_truth
from astro_unetloc.maps.patches import GridConfig, PatchGrid, SortedPhotons, bin_photons
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.pipeline import detect
from astro_unetloc.simulation.diffuse import ENERGY_EDGES, expected_density, interstellar
from astro_unetloc.simulation.sky import WHOLE_SKY, simulate_photons, truth_table
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat
from astro_unetloc.unet.model import load_model

GRID = PatchGrid(GridConfig(read_pixels=GridConfig().patch_pixels))
LOW_LATITUDE = 10.0
# How far inside the image a source must lie to count, and how far outside the cell of a patch a TS
# map, to which a pixel costs time, still looks: matches reach over by 0.3 deg.
MARGIN_DEG = 0.5
SEARCH_DEG = 0.45
BANDS = dict(zip(("all sky", "|b|>10", "|b|<10"), SKIES))
STATISTICS = {
    "average precision": lambda scores: scores.average_precision,
    "completeness at 95 % purity": lambda scores: scores.completeness_at(0.95)[0],
}
# The finders of this package, the peers, and the pairs whose differences are printed.
FINDERS = {"network": "unet", "scan": "scan", "both": "both"}
PEERS = [*FINDERS, "ts-true", "ts-fit", "dao", "log", "dbscan", "mst"]
LEGEND = {
    "network": "network", "scan": "scan", "both": "network and scan",
    "ts-true": "TS map, true background", "ts-fit": "TS map, fitted background",
}  # fmt: skip
PAIRS = [("scan", "network"), ("both", "network")]
PAIRS += [(finder, peer) for peer in ("ts-true", "ts-fit") for finder in FINDERS]


@dataclass(frozen=True, eq=False)
class Sky:
    """A `SimulatedSky` and the inputs of the peers."""

    sky: object
    photons: SortedPhotons
    exposure: object
    template: np.ndarray  # expected photons per square degree of another interstellar model
    truth: QTable


class Found(NamedTuple):
    """Detections of a finder in n patches."""

    rows: np.ndarray  # (m, 4): number of the patch, Galactic longitude, latitude, score
    seconds: np.ndarray  # (n,)


def make_sky(seed, *, years=7.0, template=None, variant="P6V11"):
    """Simulated whole sky, prepared for the peers."""
    sky, exposure = simulate_photons(
        years=years, template=template, variant=variant, rng=seed, with_background=True
    )
    # a user does not know the true one; built-in shapes come in one form, each sky draws its own
    other = "P6V11" if variant != "P6V11" else "API+AIC"
    model = interstellar(template, variant=other if template else variant, nside=sky.nside)
    density = expected_density(model, exposure, sky.psf, sky.energy_edges)
    photons = SortedPhotons(sky.photons)
    return Sky(sky, photons, exposure, density, truth_table(sky.sources, exposure))


def choose_patches(n_patches, n_skies, rng):
    """Rows (n_patches, 2) of sky and patch: half near the plane, none twice."""
    near = np.abs(lonlat_from_vectors(GRID.centers)[1]) < LOW_LATITUDE
    chosen = []
    for part, size in ((near, n_patches // 2), (~near, n_patches - n_patches // 2)):
        number = np.flatnonzero(part)
        pairs = rng.permutation(n_skies * len(number))[:size]
        if len(pairs) < size:
            raise ValueError(f"got {len(pairs)} of {size} patches; simulate more skies")
        chosen.append(np.stack([pairs // len(number), number[pairs % len(number)]], axis=1))
    chosen = np.concatenate(chosen)
    return chosen[np.lexsort(chosen.T[::-1])]


def counted_region(patch):
    """Function of vectors (n, 3): inside the cell of a patch and not close to its border."""
    plane = GRID.plane(patch)

    def inside(vectors):
        x, y = plane.pixel_from_vectors(vectors)
        half = plane.n_pix / 2 - MARGIN_DEG / plane.pixel_deg
        center = (plane.n_pix - 1) / 2
        with np.errstate(invalid="ignore"):
            near = (np.abs(x - center) <= half) & (np.abs(y - center) <= half)
        return near & (GRID.owner(vectors) == patch)

    return inside


def run_peer(name, sky, patch, psf, kernel):
    """Rows (m, 3) of longitude, latitude and score that a peer finds in a patch, and seconds."""
    plane = GRID.plane(patch)
    near = sky.photons.photons.select(sky.photons.near(plane.basis[2], plane.half_diagonal_deg))
    wanted = GRID.border_distance_deg(plane.pixel_vectors, patch) < SEARCH_DEG
    counts = np.moveaxis(bin_photons(plane, near, peers.EDGES), -1, 0)
    exposure = peers.mean_exposure(sky.exposure, plane)
    field = peers.Field(plane, counts, exposure, wanted, peers.photons_of(plane, near))
    if name in ("ts-true", "ts-fit"):
        density = sky.sky.background if name == "ts-true" else sky.template
        background = peers.expected_photons(density, sky.sky.nside, plane, kernel)
    started = time.perf_counter()
    if name == "ts-fit":
        background = peers.fitted_background(field.counts, background)
    if name in ("ts-true", "ts-fit"):
        x, y, score = peers.ts_sources(field, background, psf)
    else:
        x, y, score = getattr(peers, f"{name}_sources")(field)
    seconds = time.perf_counter() - started
    lon, lat = lonlat_from_vectors(plane.vectors_from_pixel(x, y).reshape(-1, 3))
    return np.stack([lon, lat, score], axis=1), seconds


def run_finder(name, model, rank, sky_of, chosen):
    """`Found` of a finder of this package, which searches whole skies, in the patches of all skies.

    ``rank`` is the column of its catalogue that is the score.
    """
    model, rows, seconds = load_model(model), [], []
    for sky in np.unique(chosen[:, 0]):
        events, edges = sky_of(sky).sky.photons, ENERGY_EDGES[[0, -1]]
        sky_map = SkyMap(events=events, footprint=WHOLE_SKY, energy_edges=edges)
        started = time.perf_counter()
        run = detect(sky_map, model=model, threshold=0.0, finder=FINDERS[name])
        spent = (time.perf_counter() - started) / len(run.patches)
        lon, lat = (degrees(run.catalog[axis]) for axis in ("GLON", "GLAT"))
        vectors, score = vectors_from_lonlat(lon, lat), numbers(run.catalog[rank])
        for number in np.flatnonzero(chosen[:, 0] == sky):
            plane = GRID.plane(chosen[number, 1])
            near = separation_deg(vectors, plane.basis[2]) < plane.half_diagonal_deg
            columns = (np.full(near.sum(), number), lon[near], lat[near], score[near])
            rows.append(np.stack(columns, axis=1))
            seconds.append(spent)
    return Found(np.concatenate(rows), np.array(seconds))


def run_peer_everywhere(name, chosen, sky_of, settings):
    """`Found` of a peer in all chosen patches; it is kept by name, patches and settings."""
    psf = peers.psf_map()
    kernel = peers.psf_kernel(psf)
    rows, seconds = [np.zeros((0, 4))], []
    for number, (sky, patch) in enumerate(tqdm(chosen, desc=name)):
        found, spent = run_peer(name, sky_of(sky), patch, psf, kernel)
        rows.append(np.column_stack([np.full(len(found), number), found]))
        seconds.append(spent)
    return Found(np.concatenate(rows), np.array(seconds))


def score_patches(found, sky_of, chosen):
    """Matches of the patches, each of which is a tile."""
    parts = []
    for number, (sky, patch) in enumerate(chosen):
        truth = sky_of(sky).truth
        lon, lat, score = found.rows[found.rows[:, 0] == number, 1:].T
        catalog = QTable({"GLON": lon, "GLAT": lat, "Score": score})
        away = vectors_from_lonlat(truth["GLON"].value, truth["GLAT"].value)
        near = separation_deg(away, GRID.centers[patch]) < 9.0
        matches = match_truth(catalog, truth[near], tile=f"{sky}/{patch}")
        parts.append(matches.inside(counted_region(patch)))
    return join_matches(parts)


def print_table(scores, seconds):
    """Print one row for each finder, then the differences of the `PAIRS`."""
    whole = {name: dict(zip(BANDS, m.by_sky().values())) for name, m in scores.items()}
    first = next(iter(whole.values()))
    print("true sources with 8 or more expected photons:", end=" ")
    print(", ".join(f"{band} {e.n_true}" for band, e in first.items()))
    print(f"{'':8} {'average precision':^27} {'completeness at purity 0.95':^28}  listed  offset"
          "   s/patch")  # fmt: skip
    print(f"{'':8}" + (" " + "".join(f"{b:>9}" for b in BANDS)) * 2 + "             deg")
    for name, bands in whole.items():
        ap, complete = (
            "".join(f"{statistic(e):9.3f}" for e in bands.values())
            for statistic in STATISTICS.values()
        )
        e, spent = bands["all sky"], np.mean(seconds[name])
        listed = f"{e.completeness:7.3f}  {e.median_offset_deg:.4f} {spent:9.3f}"
        print(f"{name:8} {ap} {complete} {listed}")
    for one, other in (pair for pair in PAIRS if scores.keys() >= set(pair)):
        print(f"{one} - {other}, 95 % interval of 1000 paired bootstraps over patches")
        differences = comparison.compare(scores[one], scores[other])
        for band in (b for b, e in first.items() if e.n_true):
            rows = differences[differences["Sky"] == BANDS[band]]
            cells = [
                "{} {:+.3f} ({:+.3f} to {:+.3f})".format(*row)
                for row in rows.iterrows("Statistic", "Difference", "Low", "High")
                if row[0] in STATISTICS
            ]
            print(f"{band:8} {'   '.join(cells)}")


def draw_curves(scores):
    """Figure of purity against completeness, as the threshold falls, in each part of the sky."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, len(BANDS), sharey=True)
    for axes, (band, sky) in zip(panels, BANDS.items()):
        for name, matches in scores.items():
            whole = matches.by_sky()[sky]
            found = np.cumsum(whole.correct)
            purity = found / np.arange(1, len(found) + 1)
            axes.plot(found / max(whole.n_true, 1), purity, lw=2 if name in FINDERS else 1,
                      label=f"{name} {whole.average_precision:.3f}")  # fmt: skip
        axes.set(title=band, xlabel="completeness", xlim=(0.4, 1), ylim=(0.4, 1.01))
        axes.grid(alpha=0.3)
        axes.legend(title="average precision", loc="lower left")
    panels[0].set_ylabel("purity")
    return figure


def draw_completeness(scores):
    """Figure of the completeness against the true flux, at a purity of 95 %, by latitude."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    sides = [sky for sky in BANDS.values() if sky != "all sky"]
    for axes, sky in zip(figure.subplots(1, len(sides), sharey=True), sides):
        for name, matches in scores.items():
            here = matches.take(*map(np.flatnonzero, matches.in_latitudes(SKIES[sky])))
            _, threshold = here.evaluation().completeness_at(0.95)
            table = binned_scores(here.select(threshold), "by_flux")
            table = table[table["N_True"] > 0]
            middle = np.sqrt(table["Low"].value * table["High"].value)
            low, high = table["Completeness_Low"], table["Completeness_High"]
            errors = table["Completeness"] - low, high - table["Completeness"]
            style = {"lw": 2 if name in FINDERS else 1, "capsize": 2, "marker": "o", "ms": 4}
            style["label"] = LEGEND.get(name, name)
            axes.errorbar(middle, table["Completeness"], errors, **style)
        axes.set(title=sky, xscale="log", xlabel="flux above 10 GeV (ph cm$^{-2}$ s$^{-1}$)")
        axes.grid(alpha=0.3)
    axes.legend()
    figure.axes[0].set_ylabel("completeness at 95 % purity")
    return figure


def compare(options):
    """Matches and seconds of each finder."""
    chosen = choose_patches(options.patches, options.skies, np.random.default_rng(options.seed))
    names = ("skies", "patches", "seed", "years", "variant")
    settings = {name: getattr(options, name) for name in names}
    settings["template"] = options.template and Path(options.template).name
    settings |= {"ts": peers.TS, "images": [peers.DAO, peers.LOG]}
    everywhere = Memory(options.save, verbose=0).cache(run_peer_everywhere, ignore=["sky_of"])

    @cache
    def sky_of(number):
        sky = {"years": options.years, "template": options.template, "variant": options.variant}
        return make_sky(int(options.seed + number), **sky)

    scores, seconds = {}, {}
    for name in options.peers:
        if name in FINDERS:
            found = run_finder(name, options.model, options.rank, sky_of, chosen)
        else:
            # each peer is computed again only if its own numbers change
            own = {key: value for key, value in peers.CLUSTERS.items() if key == name}
            found = everywhere(name, chosen, sky_of, settings | own)
        scores[name] = score_patches(found, sky_of, chosen)
        seconds[name] = found.seconds
    return scores, seconds


def main(arguments=None):
    """Compare and print the table."""
    options = options_of(
        __doc__, skies=2, patches=256, seed=2000, model=str, template=str, variant="PIBREM+ICS",
        years=7.0, peers=PEERS, rank="Score", save=Path, figure=Path, completeness=Path,
    ).parse_args(arguments)  # fmt: skip
    scores, seconds = compare(options)
    print_table(scores, seconds)
    if options.figure:
        draw_curves(scores).savefig(options.figure, dpi=120)
    if options.completeness:
        draw_completeness(scores).savefig(options.completeness, dpi=110)


if __name__ == "__main__":
    main()
