"""Draw the figures of the user guide: ``python docs/figures.py [NAME ...]``, all without a name.

Each function of `FIGURES` returns one figure of simulated skies with fixed seeds. Nothing was
trained or calibrated on them.
"""

import sys
import tempfile
from functools import cache
from io import BytesIO
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.stats import binom_conf_interval
from gammapy.maps import Map, MapAxis, WcsGeom
from matplotlib import rc_context
from matplotlib.patches import Circle
from PIL import Image
from scipy.ndimage import gaussian_filter, label
from sklearn.cluster import KMeans

from astro_unetloc import evaluate, find_sources, match_catalogs, read_components, simulate_sky
from astro_unetloc.catalog.columns import CLASS_COLORS, CLASS_WORDS, CLASSES
from astro_unetloc.catalog.table import galactic_vectors, numbers, numbers_of
from astro_unetloc.detection.clustering import find_clusters
from astro_unetloc.evaluation import match_truth
from astro_unetloc.evaluation.comparison import normalized_offset, true_spectra
from astro_unetloc.evaluation.metrics import reliability
from astro_unetloc.evaluation.predictions import observed_sky
from astro_unetloc.irf.spectra import power_laws
from astro_unetloc.maps.patches import TangentPlane, bin_photons
from astro_unetloc.pipeline import clustering_config, detect
from astro_unetloc.plot import canvas, stretch
from astro_unetloc.simulation.files import simulate_components
from astro_unetloc.sphere import move, separation_deg, tangent_axes, vectors_from_lonlat
from astro_unetloc.training.make import BAND_EDGES, patches_of_sky
from astro_unetloc.unet.model import load_model

IMAGES = Path(__file__).parent / "images"
STYLE = {"font.size": 9, "axes.titlesize": 9.5, "legend.fontsize": 8.5, "legend.frameon": False}
WIDTH, DPI = 6.0, 115  # inches; a column of text is 560 pixels wide, 340 on a phone
BLUE, ORANGE, GREEN, _ = CLASS_COLORS.values()
MAGENTA, RED = "#cc2fa0", "crimson"
# Galactic coordinates in degrees of what is shown, and the seed of each sky.
FIELD, FIELD_SEED, SKY_SEED = (28.0, 0.0), 3, 2000
ISLAND, ISLAND_SEED = (367, 86, 24), 2007  # patch, x and y of one of its pixels
SOURCE, CLASS_PLACES = (303.0, -35.8), ((39.5, -16.2), (319.6, -0.5), (48.2, -0.8))
ELLIPSES, MATCHES, PATCH = (145.2, 56.9), (139.5, 48.5), 17


# Skies


def simulated(center, **options):
    """Map of a cone of 14 deg around a Galactic position, and its true sources."""
    place = SkyCoord(*center, unit="deg", frame="galactic")
    return simulate_sky(center=place, radius=14 * u.deg, **options)


@cache
def field():
    """`Run` of a simulated field at the Galactic plane, and its matches with the truth."""
    sky_map, truth = simulated(FIELD, rng=FIELD_SEED)
    run = detect(sky_map)
    return run, match_truth(run.catalog, truth)


@cache
def sky():
    """`Run` of a simulated whole sky; matches of all candidates, and of those in its list."""
    model = load_model()
    sky_map, truth = observed_sky(model.band_edges, SKY_SEED)
    run = detect(sky_map, model=model, threshold=0.0)
    matches = match_truth(run.catalog, truth)
    return run, matches, matches.select(model.threshold)


# Parts of figures


def panels(height, *widths, **options):
    """Figure of a height in inches, and its axes in columns of some relative widths."""
    figure = canvas(WIDTH, height)
    return figure, figure.subplots(ncols=len(widths), width_ratios=widths, **options)


def smooth_counts(plane, photons, sigma):
    """Smoothed counts of all energies on a plane."""
    return gaussian_filter(bin_photons(plane, photons, BAND_EDGES).sum(-1, dtype=float), sigma)


def show(axes, image, title="", **options):
    """Draw an image without ticks; by default in gray, as its square root."""
    if "vmin" not in options:
        options.setdefault("norm", stretch(image))
    axes.imshow(image, origin="lower", **({"cmap": "gray_r"} | options))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title)
    axes.autoscale(enable=False)


def show_photons(axes, plane, photons):
    """Draw the photons on a plane, larger ones of higher energies."""
    reach, center = plane.half_diagonal_deg, vectors_from_lonlat(plane.lon_deg, plane.lat_deg)
    photons = photons.select(separation_deg(photons.vectors, center) < reach)
    place, ends = plane.pixel_from_vectors(photons.vectors), (-0.5, plane.n_pix - 0.5)
    axes.scatter(*place, s=5 * np.log10(photons.energy) ** 2, color="0.6", lw=0)
    axes.set(xlim=ends, ylim=ends, xticks=[], yticks=[], aspect="equal")
    axes.autoscale(enable=False)


def mark(axes, plane, sources, marker, **options):
    """Draw markers at the positions of sources on a plane."""
    place = plane.pixel_from_vectors(galactic_vectors(sources))
    axes.plot(*place, marker, **({"mfc": "none", "ms": 8} | options))


def outline(axes, plane, catalog, level, **options):
    """Draw the error ellipses of sources on a plane."""
    names = (f"Conf_{level}_{name}" for name in ("SemiMajor", "SemiMinor", "PosAng"))
    major, minor, turn = (numbers(catalog[name])[:, None] for name in names)
    vectors, step = galactic_vectors(catalog), np.linspace(0, 2 * np.pi, 73)
    (east, north), turn = tangent_axes(vectors), np.radians(turn)
    along, across = (np.cos(a) * north + np.sin(a) * east for a in (turn, turn + np.pi / 2))
    parts = (part[:, None] for part in (vectors, along, across))
    outlines = move(*parts, major * np.cos(step), minor * np.sin(step))
    axes.plot(*(c.T for c in plane.pixel_from_vectors(outlines)), **options)


def circles(axes, centers, radius_pix):
    """Draw the circles of clusters and their centres (k, 2)."""
    for center in centers:
        axes.add_patch(Circle(center, radius_pix, fill=False, lw=1.3, color=RED))
    axes.plot(*np.transpose(centers), "x", color=RED, ms=4)


def nearest(sources, place):
    """Table of the source that is nearest to a Galactic position in degrees."""
    away = separation_deg(galactic_vectors(sources), vectors_from_lonlat(*place))
    return sources[[int(np.argmin(away))]]


def spectrum(axes, run, found, true, color):
    """Draw the band fluxes of a source with errors, of its fitted power law and of its truth."""
    edges, flux_range = run.model.band_edges, dict(zip(("emin", "emax"), run.model.flux_range))
    middle, bands = np.sqrt(edges[:-1] * edges[1:]), list(zip(edges[:-1], edges[1:]))
    fitted = (numbers(found[name]) for name in ("Flux", "Spectral_Index"))
    parts = (
        (true_spectra(true), "true", "0.7", 3),
        (power_laws(*fitted, **flux_range), "power law", color, 1),
    )
    for spectra, name, shade, width in parts:
        flux = middle * [float(spectra.flux(*ends)[0]) for ends in bands]
        axes.stairs(flux, edges, color=shade, lw=width, label=name, baseline=None)
    flux, error = (middle * numbers(found[name][0]) for name in ("Flux_Band", "Unc_Flux_Band"))
    axes.errorbar(middle, flux, error, fmt="o", ms=4.5, color=color, label="measured")
    axes.set_yscale("log", nonpositive="clip")
    top = 3 * (flux + error).max()
    axes.set(xscale="log", xlabel="energy (GeV)", ylim=(top / 500, top))
    axes.set_xticks([10, 100, 1000], ["10", "100", "1000"])


def fractions(axes, table, x, name, **look):
    """Draw a column of a table with its interval, against values of another one."""
    value, low, high = (numbers_of(table, name + end) for end in ("", "_Low", "_High"))
    errors = np.clip([value - low, high - value], 0, None)
    axes.errorbar(x, value, errors, ms=4.5, ls="", **look)


# Figures


def chain():
    """Five steps: the field, a patch, its probability, clusters and fitted sources."""
    run, _ = field()
    catalog, patches, config = run.catalog, run.patches, clustering_config(run.model)
    photons, patch = run.sky_map.events, int(run.patches.grid.owner(vectors_from_lonlat(*FIELD)))
    probability = run.probability[np.flatnonzero(patches.index == patch)[0]]
    whole, plane = TangentPlane(*FIELD, 240, 0.1), patches.grid.plane(patch)
    found = find_clusters(probability[None], config=config)
    x, y = plane.pixel_from_vectors(galactic_vectors(catalog))
    apart = np.where(catalog["Patch"] == patch, numbers(catalog["Sep_Nearest"]), np.inf)
    middle = np.round([x[apart.argmin()], y[apart.argmin()]])
    bright = np.where(probability > config.cut, probability, np.nan)
    chance = {"cmap": "viridis", "vmin": 0, "vmax": 1}

    figure, titles = canvas(10.4, 2.35), ("map", "patch", "probability", "clusters", "sources")
    axes = dict(zip(titles, figure.subplots(1, 5)))
    show(axes["map"], smooth_counts(whole, photons, 1.5), cmap="inferno")
    show(axes["patch"], smooth_counts(plane, photons, 1.0), cmap="inferno")
    show(axes["probability"], probability, **chance)
    show(axes["clusters"], bright, **chance)
    show(axes["sources"], np.sqrt(smooth_counts(plane, photons, 0.7)), cmap="inferno", vmin=0)
    circles(axes["clusters"], np.column_stack([found.x, found.y]), config.radius_pix)
    outline(axes["sources"], plane, catalog, 95, color="cyan", lw=1.5)
    corners = plane.n_pix * np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]])
    corners = whole.pixel_from_vectors(plane.vectors_from_pixel(*corners))
    axes["map"].plot(*corners, color="white", lw=1)
    for name, zoom in (("clusters", 20), ("sources", 10)):
        axes[name].set(xlim=middle[0] + [-zoom, zoom], ylim=middle[1] + [-zoom, zoom])
    for title, each in axes.items():
        each.set_title(title, fontsize=12)
    return figure


def clusters():
    """The score of k-means against the number of clusters, and the clusters of one island."""
    sky_map, _ = simulated((0.0, 0.0), years=16, rng=ISLAND_SEED)
    run, (patch, x, y), ks = detect(sky_map, measure=False), ISLAND, np.arange(1, 8)
    config = clustering_config(run.model)
    probability = run.probability[np.flatnonzero(run.patches.index == patch)[0]]
    number, _ = label(probability > config.cut, np.ones((3, 3)))
    island = np.where(number == number[y, x], probability, 0.0)
    places, pixels = np.argwhere(island), np.indices(island.shape)
    centers, covered, score = [], [], []
    for k in ks:
        fit = KMeans(k, n_init=20, random_state=0)
        centers.append(fit.fit(places, sample_weight=island[island > 0]).cluster_centers_)
        away = [np.hypot(*(pixels - center[:, None, None])) for center in centers[-1]]
        times = np.sum(np.array(away) <= config.radius_pix, axis=0)
        covered.append(island[times > 0].sum())
        score.append(covered[-1] + config.overlap_penalty * np.maximum(times - 1, 0).sum())
    best, found = int(np.argmax(score)), find_clusters(island[None], config=config)

    figure, (first, *others) = panels(1.9, 1.25, 1, 1, 1)
    first.plot(ks, covered, "s--", color=BLUE, ms=4, label="sum in the circles")
    first.plot(ks, score, "o-", color="black", ms=4, label="score")
    first.plot(ks[best], score[best], "o", color=RED, ms=9, mfc="none", mew=1.6)
    first.set(xlabel="number of clusters k", xticks=ks, ylim=(-max(score), 2.4 * max(covered)))
    first.legend(loc="upper right")
    middle = places.mean(axis=0).round()
    for axes, row, title in zip(others, best + np.arange(-1, 2), ("too few", "best", "too many")):
        show(axes, island, f"k = {ks[row]}: {title}", cmap="viridis", vmin=0, vmax=1)
        circles(axes, centers[row][:, ::-1], config.radius_pix)
        axes.set(xlim=middle[1] + [-9, 9], ylim=middle[0] + [-9, 9])
    others[1].plot(found.x, found.y, "+", color="white", ms=10)
    return figure


def ellipses():
    """Ellipses of a field, and the fraction of true positions inside them on a whole sky."""
    run, _, listed = sky()
    figure, (left, right) = panels(2.6, 1, 1.2)
    plane = TangentPlane(*ELLIPSES, 120, 0.02)
    show_photons(left, plane, run.sky_map.events)
    mark(left, plane, listed.truth[listed.is_found], "+", color="black")
    rows, scale = np.flatnonzero(listed.is_true_positive), np.linspace(0, 2.5, 101)
    for level, color in ((95, BLUE), (68, ORANGE)):
        outline(left, plane, listed.catalog, level, color=color, lw=1.5)
        offset = normalized_offset(listed, rows, listed.true_row[rows], level)
        offset = np.sort(offset[np.isfinite(offset)])
        number = np.searchsorted(offset, scale, side="right")
        low, high = binom_conf_interval(number, len(offset), 0.95, interval="wilson")
        right.fill_between(scale, low, high, color=color, alpha=0.35, lw=0)
        right.plot(scale, number / len(offset), color=color, label=f"{level} % ellipse")
        right.axhline(level / 100, color=color, lw=0.9, ls=":")
    right.axvline(1, color="0.5", lw=0.9, ls="--")
    right.set(xlabel="offset in units of the ellipse", xlim=(0, 2.5), ylim=(0, 1.02))
    right.set(ylabel="fraction of true positions inside", yticks=[0, 0.25, 0.5, 0.68, 0.95])
    right.legend(loc="lower right")
    return figure


def calibration():
    """Fraction of the candidates that is real against ``Score``, on a whole sky."""
    table = reliability(sky()[1])
    figure, (left, right) = panels(2.6, 1, 1)
    for color, marker, part in ((BLUE, "s", "|b| > 10 deg"), (ORANGE, "^", "|b| < 10 deg")):
        rows, look = (
            table[(table["Sky"] == part) & (table["N"] >= 20)],
            {"color": color, "marker": marker, "label": part},
        )
        fractions(left, rows, rows["Mean_Score"], "Fraction_Real", **look)
        fractions(right, rows, rows["Low"], "Real_Above", **look)
        right.plot(rows["Low"], rows["Expected_Above"], color=color, lw=1)
    left.plot([0, 1], [0, 1], color="0.5", ls="--", lw=0.9)
    left.set(xlabel="Score", ylabel="fraction that is real")
    right.set(xlabel="smallest Score listed", ylabel="purity (lines: mean Score)")
    right.legend(loc="lower right")
    return figure


def pixels():
    """The sources that are found in events and in pixels of 0.1 and 0.5 deg, of one field."""
    run, matches = field()
    photons, center = run.sky_map.events, vectors_from_lonlat(*FIELD)
    axis = MapAxis.from_energy_edges(BAND_EDGES, unit="GeV", name="energy")
    figure, axes = panels(2.5, 1, 1, 1)
    for each, pixel_deg in zip(axes, (0.02, 0.1, 0.5)):
        plane = TangentPlane(*FIELD, round(20 / pixel_deg), pixel_deg)
        counts = np.moveaxis(bin_photons(plane, photons, BAND_EDGES), -1, 0).astype(float)
        name, catalog, image = "event list", run.catalog, smooth_counts(plane, photons, 2.0)
        if pixel_deg >= 0.1:
            geom = WcsGeom(plane.wcs, counts.shape[1:], axes=[axis])
            catalog, image = find_sources(Map.from_geom(geom, data=counts)), counts.sum(axis=0)
            name = f"pixels of {pixel_deg} deg"
        show(each, image)
        scores = evaluate(catalog, matches.truth, region=lambda v: separation_deg(v, center) < 10)
        number = f"{len(scores.offset_deg)} of {scores.n_true}"
        each.set_title(f"{name}: {number}\nmedian offset {scores.median_offset_deg:.3f} deg")
        mark(each, plane, matches.truth[matches.is_class("counted")], "+", color=ORANGE, ms=7)
        mark(each, plane, catalog, "o", color=BLUE, mew=1.4)
        ends = (plane.n_pix - 1) / 2 + np.array([-4, 4]) / pixel_deg
        each.set(xlim=ends, ylim=ends)
    return figure


def source():
    """The photons of one source with its ellipses, and its spectrum."""
    run, _, listed = sky()
    found, plane = nearest(listed.catalog, SOURCE), TangentPlane(*SOURCE, 120, 0.005)
    true = listed.truth[found["True_Row"]]
    figure, (left, right) = panels(2.6, 1, 1.2)
    show_photons(left, plane, run.sky_map.events)
    outline(left, plane, found, 95, color=BLUE, lw=1.6, label="95 %")
    outline(left, plane, found, 68, color=ORANGE, lw=1.6, label="68 %")
    mark(left, plane, true, "+", color="black", label="true")
    spectrum(right, run, found, true, BLUE)
    right.set_ylabel("energy x flux (GeV cm⁻² s⁻¹)")
    left.legend(loc="upper right")
    right.legend(loc="lower left")
    return figure


def classes():
    """Spectra of an AGN, a pulsar and another source, each with its probabilities."""
    run, _, listed = sky()
    figure, axes = panels(3.5, 1, 1, 1, nrows=2, height_ratios=[3, 1])
    for (upper, lower), place, name in zip(axes.T, CLASS_PLACES, CLASSES):
        found = nearest(listed.catalog, place)
        spectrum(upper, run, found, listed.truth[found["True_Row"]], CLASS_COLORS[name])
        upper.set_title(f"{CLASS_WORDS[name]}, {found['Npred'][0]:.0f} counts")
        chance = [float(found[f"Prob_{kind.upper()}"][0]) for kind in CLASSES]
        lower.barh(CLASSES, chance, color=[CLASS_COLORS[kind] for kind in CLASSES])
        lower.set(xlim=(0, 1), xlabel="probability", xticks=[0, 0.5, 1])
        lower.invert_yaxis()
    axes[0, 0].set_ylabel("energy x flux (GeV cm⁻² s⁻¹)")
    axes[0, 0].legend(loc="lower left")
    return figure


def matching():
    """Known, missing and new sources of a field, and the fraction found against flux."""
    run, _, listed = sky()
    result = match_catalogs(listed.catalog, listed.truth[listed.is_class("counted")])
    plane = TangentPlane(*MATCHES, 140, 0.1)
    figure, (left, right) = panels(2.7, 1, 1.1)
    show(left, smooth_counts(plane, run.sky_map.events, 1.5))
    parts = result.catalog[result.catalog_index], result.not_found(), result.not_known()
    looks = ("o", GREEN, "known"), ("s", ORANGE, "missing"), ("D", MAGENTA, "new")
    for sources, (marker, color, name) in zip(parts, looks):
        mark(left, plane, sources, marker, color=color, label=name, mew=1.4)
    table = result.completeness(np.geomspace(1e-11, 1e-9, 13))
    flux = np.sqrt(table["Flux_Min"] * table["Flux_Max"])
    fractions(right, table, flux, "Completeness", color=GREEN, marker="o")
    right.legend(*left.get_legend_handles_labels(), loc="lower right")
    right.set(
        xscale="log",
        xlim=(1e-11, 1e-9),
        xlabel="flux above 10 GeV (cm⁻² s⁻¹)",
        ylabel="fraction found",
    )
    return figure


def components():
    """Photons of the diffuse emission and of each class of sources of one simulated field."""
    with tempfile.TemporaryDirectory() as folder:
        simulate_components(folder, center=(75.0, 5.0), width_deg=20.0, rng=1)
        maps = read_components(folder).maps
    names = {"background": "diffuse", "agn": "AGN", "psr": "pulsars", "other": "other"}
    figure, axes = panels(1.95, 1, 1, 1, 1)
    for each, (name, title) in zip(axes, names.items()):
        counts = np.nansum(maps[name].counts.data, axis=0, dtype=float)
        show(each, gaussian_filter(counts, 1.5), f"{title}\n{counts.sum():,.0f} photons")
    return figure


def patch():
    """The energy bands of one patch for training, and its mask."""
    columns, _ = patches_of_sky(SKY_SEED, n_patches=PATCH + 1)
    counts, mask = (columns[name][PATCH] for name in ("counts", "mask"))
    figure, axes = panels(4.2, 1, 1, 1, nrows=2)
    for each, image, low, high in zip(axes.flat, counts.T, BAND_EDGES, BAND_EDGES[1:]):
        blocks = image.T.reshape(64, 2, 64, 2).sum(axis=(1, 3))  # single photons are small
        show(each, blocks, f"{low:g} to {high:g} GeV: {image.sum():,}")
    show(axes[1, 2], mask[..., 0], "mask", cmap="gray", vmin=0, vmax=1)
    return figure


def residuals():
    """Counts, predicted counts and the significance of their difference, of one field."""
    predicted = field()[0].predicted
    middle = predicted.counts.data.shape[-1] // 2
    zoom = (..., *(slice(middle - 100, middle + 101),) * 2)  # 12 deg
    parts = predicted.counts, predicted.sources + predicted.background
    counts, expected = (gaussian_filter(np.sum(part.data[zoom], axis=0), 1.5) for part in parts)
    figure, axes = panels(2.0, 1, 1, 1)
    show(axes[0], counts, "counts")
    show(axes[1], expected, "sources + background", norm=stretch(counts))
    image = predicted.total_significance.data[zoom]
    show(axes[2], image, "significance", cmap="RdBu_r", vmin=-5, vmax=5)
    figure.colorbar(axes[2].images[0], ax=axes, shrink=0.7, label="sigma")
    return figure


FIGURES = {
    function.__name__: function
    for function in (
        chain, clusters, ellipses, calibration, pixels, source, classes, matching, components,
        patch, residuals,
    )
}  # fmt: skip


def save(name, folder):
    """Draw a figure and write it as PNG with a palette of 128 colours, half as large."""
    buffer = BytesIO()
    with rc_context(STYLE):
        FIGURES[name]().savefig(buffer, dpi=DPI)
    image = Image.open(buffer).convert("RGB").quantize(128, kmeans=3, dither=Image.Dither.NONE)
    image.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - set(FIGURES):
        sys.exit(f"expected names out of {', '.join(FIGURES)}; got {', '.join(unknown)}")
    for name in sys.argv[1:] or FIGURES:
        save(name, IMAGES)
