"""Networks and regressions that tell pulsars, AGN and other sources apart, on the same detections.

    python benchmarks/try_classes.py [--folder classes] [--train 1 2 3 4 5 6] [--calibrate 7 8 9]
        [--report 2000 2001 2002 2003] [--pairs 2000] [--skies 26] [--steps 1200]

Searches whole simulated skies above 10 GeV at the default threshold. The skies to train and to
calibrate on have four times the pulsars and twice the other Galactic sources, for which
probabilities are corrected; the skies to report have natural abundances. The baselines of the
classifier of the model are regressions on the columns of the catalogue, a network of the counts
around each source less background and neighbours of the fit, and the U-Net: its trunk as it is
shipped, or trained further with outputs by class on a patch set by class. The probabilities of
each baseline are those of a regression on the skies to calibrate on, with or without the Galactic
position. Skies of pairs hold a pulsar and an AGN of 30 to 300 photons, 0.25 to 0.5 deg apart, or
the same 3 deg apart. What was computed is kept in the folder.
"""

from dataclasses import replace
from pathlib import Path

import healpy
import keras
import numpy as np
from astropy.table import vstack
from keras import layers, ops
from options import options_of
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from astro_unetloc.catalog.columns import LOG_LIKELIHOOD
from astro_unetloc.catalog.table import glon_glat_vectors, numbers_of
from astro_unetloc.classification.classifiers import Classifier
from astro_unetloc.detection.clustering import find_clusters
from astro_unetloc.detection.localization import localize
from astro_unetloc.evaluation.classes import class_scores, score_intervals
from astro_unetloc.evaluation.metrics import evaluate
from astro_unetloc.evaluation.truth import match_truth
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.irf.spectra import Spectra, spectral_grid
from astro_unetloc.maps.patches import project
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.measurement.data import MeasurementConfig, gather_counts
from astro_unetloc.measurement.fit import FieldFit, FieldSetup, fit_groups
from astro_unetloc.pipeline import clustering_config, detect, find_candidates, near_cell
from astro_unetloc.simulation.diffuse import interstellar, perturb
from astro_unetloc.simulation.population import CLASSES, Sources, draw_shapes, draw_sources
from astro_unetloc.simulation.sky import (
    DEFAULT_RANGE,
    WHOLE_SKY,
    count_photons,
    draw_photons,
    truth_table,
)
from astro_unetloc.sphere import (
    lonlat_from_vectors,
    move,
    separation_deg,
    tangent_axes,
    vectors_from_lonlat,
)
from astro_unetloc.training.make import make_patch_set
from astro_unetloc.training.patch_set import open_patch_set
from astro_unetloc.training.train import _batches
from astro_unetloc.unet.architecture import build_unet, masked_cross_entropy
from astro_unetloc.unet.model import load_model

FACTORS = {"pulsars": 4.0, "galactic": 2.0}  # of the training skies
MORE = np.array([1.0, 4.0, 2.0])  # the same by class
EXPOSURE, LISTED = SurveyExposure(7.0), 0.8
# Patches of counts around detections: pixels, and their size in degrees; first bin of each group
# of the 21 energy bins of the fit; distance to the patches of the control, at the same latitude.
N_PIX, PIXEL_DEG = 13, 0.078125
GROUPS = (0, 1, 2, 3, 4, 6, 8, 11)
BESIDE_DEG = 1.2
MINI, TREES = "mini-patch network", "boosted trees of columns"
LOG_NPRED = 2  # of `columns`
SCORES = "AUC", "Balanced_Accuracy", "Macro_Recall", "PSR_Recall"
GRID = spectral_grid(DEFAULT_RANGE[0])
PAIRS_DEG = {"close pairs": (0.25, 0.5), "the same apart": (3.0, 3.5)}
N_PAIRS, PHOTONS = 768, (30.0, 300.0)
SOFTMAX, SIGMOID, GIVEN = slice(2, 6), slice(6, 9), slice(9, 12)  # outputs of the U-Net
BATCH_SIZE = 8


def simulated(kind, seed):
    """Sky map with its exposure, and the table of its true sources."""
    rng, exposure = np.random.default_rng([17, seed] if kind == "train" else seed), EXPOSURE
    diffuse = perturb(interstellar(), rng)
    if kind in PAIRS_DEG:
        sources = drawn_pairs(rng, PAIRS_DEG[kind])
    else:
        sources = draw_sources(rng, **(FACTORS if kind == "train" else {}))
    sky = draw_photons(diffuse, sources, exposure=exposure, psf=KingPSF(), rng=rng)
    edges, counts = np.array(DEFAULT_RANGE), count_photons(sky.origin, len(sources))
    options = {"footprint": WHOLE_SKY, "energy_edges": edges, "exposure": exposure}
    return SkyMap(events=sky.photons, **options), truth_table(sources, exposure, counts=counts)


def drawn_pairs(rng, limits_deg):
    """A pulsar and an AGN around each of 768 centres, of N ** -2.15 photons between the limits."""
    center = np.stack(healpy.pix2vec(8, np.arange(N_PAIRS)), axis=-1)
    distance, angle = rng.uniform(*limits_deg, N_PAIRS), rng.uniform(0, 2 * np.pi, N_PAIRS)
    half, axes = distance / 2 * np.stack([np.cos(angle), np.sin(angle)]), tangent_axes(center)
    vectors = np.concatenate([move(center, *axes, *half), move(center, *axes, *-half)])
    shapes = [draw_shapes(name, N_PAIRS, rng, band=DEFAULT_RANGE) for name in ("AGN", "PSR", "MSP")]
    # millisecond pulsars where the others are not
    rows = np.arange(N_PAIRS) + N_PAIRS * (np.abs(lonlat_from_vectors(center)[1]) >= 10)
    spectra = Spectra.concatenate([shapes[0], Spectra.concatenate(shapes[1:]).select(rows)])
    low, high = (n**-1.15 for n in PHOTONS)
    wanted = (low + rng.random(2 * N_PAIRS) * (high - low)) ** (-1 / 1.15)
    seen = spectra.flux(*DEFAULT_RANGE, weight=EXPOSURE.relative) * EXPOSURE.sky(vectors)
    spectra = replace(spectra, amplitude=spectra.amplitude * wanted / seen)
    source_class, zeros = np.repeat([0, 1], N_PAIRS).astype(np.int8), np.zeros(2 * N_PAIRS)
    return Sources(vectors, spectra, source_class, zeros.astype(np.int8), zeros)


def detections(kind, seed, folder):
    """What the baselines see of the real detections of a sky, arrays (n, ...) by name."""
    path = folder / f"{kind}-{seed}.npz".replace(" ", "-")
    if not path.exists():
        sky_map, truth = simulated(kind, seed)
        run = detect(sky_map, threshold=0.1)  # fainter ones are neighbours in the fit
        matches = match_truth(run.catalog, truth)
        catalog, vectors = matches.catalog, glon_glat_vectors(matches.catalog)
        kept = np.flatnonzero(matches.is_real & (numbers_of(catalog, "Score") >= LISTED))
        name = np.asarray(truth["Class"])[np.asarray(catalog["Real_Row"])[kept]]
        np.savez_compressed(
            path,
            vectors=vectors[kept],
            true_class=(name[:, None] == np.array(CLASSES)).argmax(axis=1),
            columns=columns(catalog[kept]),
            trunk=trunk_features(run.patches, vectors[kept]),
            **refitted(vectors, kept, sky_map),
        )
    with np.load(path) as found:
        return dict(found)


def columns(catalog):
    """Columns of the catalogue (n, k) that a regression reads."""
    names = "Spectral_Index", "Unc_Spectral_Index", "Npred", "Unc_Npred", "Sqrt_TS"
    index, error, counts, counts_error, sqrt_ts = (numbers_of(catalog, name) for name in names)
    bands = np.maximum(np.ma.filled(catalog["Counts_Band"], 0.0), 0.0)
    parts = [
        np.nan_to_num(index, nan=2.3), np.nan_to_num(error, nan=1.2), np.log(counts),
        np.log(counts_error), np.sqrt(sqrt_ts), *np.log(bands + 0.5).T,
        *(bands / counts[:, None]).T,
    ]  # fmt: skip
    return np.stack(parts, axis=1)


def position(vectors):
    """Galactic position (n, 3) as a regression reads it."""
    lon, lat = lonlat_from_vectors(vectors)
    return np.stack([np.log(np.abs(lat) + 0.3), np.abs(lat), np.abs((lon + 180) % 360 - 180)], 1)


def refitted(vectors, kept, sky_map):
    """What a fit at the positions (n, 3) returns for the rows that are ``kept``, arrays by name.

    These are the log-likelihoods of a grid of spectra and, (k, N_PIX, N_PIX, n_groups), the counts
    less those expected of all but the source, around it and, ``beside``, at the same latitude.
    """
    counts = gather_counts(sky_map, load_model().band_edges)
    setup = FieldSetup(sky_map, counts, vectors, MeasurementConfig())
    likelihood = np.zeros((len(vectors), len(GRID)), dtype=np.float32)
    residual = np.zeros((2, len(vectors), N_PIX, N_PIX, len(GROUPS)), dtype=np.float32)
    for members, everyone in fit_groups(vectors, setup):
        fit = FieldFit(vectors[everyone], setup, np.searchsorted(everyone, members))
        best = fit._maximize(fit._initial(), fit.background, fit.config.n_rounds, [2, 3])
        likelihood[members] = fit._bands(*best, GRID)[LOG_LIKELIHOOD]
        for member in np.intersect1d(members, kept):
            row = np.searchsorted(everyone, member)
            residual[0, member] = _residual(fit, *best[:2], row, vectors[member], without=row)
            lon, lat = lonlat_from_vectors(vectors[member])
            step = BESIDE_DEG / np.cos(np.radians(min(abs(lat), 80.0))) * (-1) ** member
            place = vectors_from_lonlat(lon + step, lat).reshape(3)
            residual[1, member] = _residual(fit, *best[:2], row, place)
    names = "likelihood", "residual", "beside"
    return dict(zip(names, (likelihood[kept], *residual[:, kept])))


def _residual(fit, state, background, row, place, without=None):
    """Counts less the expected ones around a place in the region of the source of a row."""
    counts, radius = fit.setup.counts, np.radians(fit.setup.radius_deg)
    axes, center = (fit.regions.east[row], fit.regions.north[row]), fit.vectors[row]
    pixel = (np.arange(N_PIX) - N_PIX // 2) * PIXEL_DEG
    points = move(place, *axes, *(grid.ravel() for grid in np.meshgrid(pixel, pixel)))
    x, y = ((points - center) @ axis / radius for axis in axes)
    surface = background.surface[row] @ np.stack([x, y, x * x, x * y, y * y])
    density = background.level[row] * np.exp(surface)[:, None]
    for other in np.flatnonzero(separation_deg(fit.vectors, place) < 4.0):
        if other != without:
            offset2 = separation_deg(points, fit.vectors[other]) ** 2
            bins = np.arange(counts.n_energy)
            psf = fit.setup.profiles.density(bins, offset2[:, None])[0]
            density += state.counts[other] * state.fraction[0][other] * psf
    near = np.array(counts.tree.query_ball_point(place, np.radians(N_PIX * PIXEL_DEG)), int)
    x, y = (np.degrees((counts.vectors[near] - place) @ axis) for axis in axes)
    edges = (np.arange(N_PIX + 1) - N_PIX / 2) * PIXEL_DEG
    sample, bins = np.stack([y, x, counts.energy_bin[near]], axis=1), np.arange(counts.n_energy + 1)
    found = np.histogramdd(sample, (edges, edges, bins - 0.5))[0]
    density = density.reshape(found.shape) * PIXEL_DEG**2
    return np.add.reduceat(found - density, GROUPS, axis=2)


def trunk_features(patches, vectors):
    """Mean and largest value, within two pixels of each position, of features of the shipped U-Net.

    The first 64 are those of its trunk, the other 44 those of its head, which joins the counts.
    """
    unet = keras.models.load_model(load_model().folder / "unet.keras", compile=False)
    x = [unet.get_layer(name).output for name in ("up0_2_relu", "head_join", "head_conv")]
    x = layers.Concatenate()([layers.UpSampling2D(2)(x[0]), *x[1:]])
    images = at_discs(keras.Model(unet.inputs, x), patches, vectors)
    mean, most = images.mean(axis=1), images.max(axis=1)
    return np.concatenate([mean[:, :32], most[:, :32], mean[:, 32:], most[:, 32:]], axis=1)


def at_discs(network, patches, vectors):
    """Output (n, 13, n_channels) of a network in the pixels within two of each position."""
    dy, dx = np.argwhere(np.hypot(*np.mgrid[-2:3, -2:3]) <= 2).T - 2
    owner, parts = patches.grid.owner(vectors), {}
    for patch in np.unique(owner):
        row, here = np.searchsorted(patches.index, patch), np.flatnonzero(owner == patch)
        x, y = patches.grid.plane(patch).pixel_from_vectors(vectors[here])
        x, y = (np.rint(pixel).astype(int)[:, None] for pixel in (x, y))
        image = output_of(network, patches, slice(row, row + 1))[0]
        parts |= dict(zip(here, image[y + dy, x + dx]))
    return np.stack([parts[number] for number in range(len(vectors))])


def output_of(network, patches, rows):
    """Output (k, ny, nx, n_channels) of a network for some of the patches."""
    counts, coverage = patches.counts[rows], patches.coverage[rows]
    bands = np.broadcast_to(patches.bands, (len(counts), *patches.bands.shape))
    return network.predict_on_batch({"counts": counts, "coverage": coverage, "bands": bands})


def class_unet():
    """The shipped U-Net with the outputs `SOFTMAX`, `SIGMOID` and `GIVEN` after its own two."""
    unet = build_unet(n_class=2)
    unet.load_weights(load_model().folder / "unet.keras")
    names = "up0_2_relu", "input_planes", "head_conv"
    trunk, planes, head = (unet.get_layer(name).output for name in names)
    x = layers.Conv2DTranspose(16, 2, strides=2, name="class_up")(trunk)
    x = layers.Concatenate(name="class_join")([x, planes])
    x = layers.Conv2D(16, 5, padding="same", activation="relu", name="class_1")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="class_2")(x)
    x = layers.Concatenate(name="class_head")([x, head])
    kinds = ("softmax", 4), ("sigmoid", 3), ("softmax", 3)
    last = [layers.Conv2D(n, 1, activation=kind)(x) for kind, n in kinds]
    return keras.Model(unet.inputs, layers.Concatenate(name="all")([unet.output, *last]))


def class_loss(target, output):
    """Sum of the cross-entropies (n, ny, nx) of all outputs of `class_unet`."""
    source, seen = target[..., :-1], ops.sum(target, axis=-1, keepdims=True)
    is_source = ops.sum(source, axis=-1, keepdims=True)
    each = ops.clip(output[..., SIGMOID], 1e-7, 1 - 1e-7)
    of_each = source * ops.log(each) + (seen - source) * ops.log(1 - each)
    return (
        masked_cross_entropy(ops.concatenate([is_source, seen - is_source], -1), output[..., :2])
        + masked_cross_entropy(target, output[..., SOFTMAX])
        - ops.sum(of_each, axis=-1)
        + 3 * masked_cross_entropy(source, output[..., GIVEN])
    )


def trained_unet(options):
    """`class_unet`, trained on patches by class of skies with seeds from 500 on."""
    patches, weights = options.folder / "set.h5", options.folder / "unet.weights.h5"
    unet = class_unet()
    if not patches.exists():
        made = {"patches_per_sky": 280, "first_seed": 500, "classes": CLASSES}
        make_patch_set(patches, n_skies=options.skies, **made)
    if not weights.exists():
        with open_patch_set(patches) as patch_set:
            rows = patch_set.rows(validation=False)
            batches = _batches(patch_set, rows, BATCH_SIZE, seed=0, n_batches=options.steps)
            unet.compile(optimizer(options.steps), class_loss, jit_compile=False)
            unet.fit(batches, shuffle=False, verbose=2)
        unet.save_weights(weights)
    unet.load_weights(weights)
    return unet


def optimizer(n_steps):
    """AdamW with averaged weights; its rate follows a cosine."""
    rate = keras.optimizers.schedules.CosineDecay(1e-3, n_steps, alpha=0.01)
    averaged = {"use_ema": True, "ema_momentum": 0.99}
    return keras.optimizers.AdamW(rate, weight_decay=1e-4, clipnorm=1.0, **averaged)


def joined(kind, seeds, folder):
    """`detections` of several skies."""
    parts = [detections(kind, seed, folder) for seed in seeds]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def unet_logits(kind, seeds, folder, unet):
    """Logarithms (3, n, 3) of the probabilities of the classes by each output of `class_unet`."""
    parts = []
    for seed in seeds:
        path = folder / f"unet-{kind}-{seed}.npy".replace(" ", "-")
        if not path.exists():
            patches = project(simulated(kind, seed)[0], load_model().band_edges)
            np.save(path, at_discs(unet, patches, detections(kind, seed, folder)["vectors"]))
        parts.append(np.load(path))
    output = np.maximum(np.concatenate(parts), 1e-7)
    source = 1 - np.minimum(output[..., 1:2], 1 - 1e-4)
    given = (np.log(output[..., GIVEN]) * source).sum(axis=1) / source.sum(axis=1)
    softmax, sigmoid = (np.log(output[..., o][..., :3].sum(axis=1)) for o in (SOFTMAX, SIGMOID))
    return np.stack([softmax, sigmoid, given])


def detection_scores(seed, unet):
    """Print the average precision of the clusters of the outputs of U-Nets on one sky."""
    sky_map, truth = simulated("sky", seed)
    patches, model = project(sky_map, load_model().band_edges), load_model()
    rows = (slice(start, start + BATCH_SIZE) for start in range(0, len(patches), BATCH_SIZE))
    output = np.concatenate([output_of(unet, patches, some) for some in rows])
    shipped = find_candidates(patches, model)[1]
    how = {"config": clustering_config(model), "keep": near_cell(patches, model)}
    softmax, sigmoid = output[..., SOFTMAX][..., :3], output[..., SIGMOID]
    maps = {
        "shipped": [shipped], "class given source": [1 - output[..., 1]],
        "softmax, k-means on the sum": [softmax.sum(axis=-1)],
        "softmax, k-means by class": np.moveaxis(softmax, -1, 0),
        "sigmoids, k-means on the union": [1 - np.prod(1 - sigmoid, axis=-1)],
        "sigmoids, k-means by class": np.moveaxis(sigmoid, -1, 0),
    }  # fmt: skip
    for name, images in maps.items():
        found = vstack([localize(find_clusters(np.array(i), **how), patches) for i in images])
        limits = (0, 91), (10, 91), (0, 10)
        scores = [evaluate(found, truth, min_latitude=a, max_latitude=b) for a, b in limits]
        print(f"{name:<36}", *(f"{score.average_precision:8.4f}" for score in scores), flush=True)


def mini_network(residual, true_class, weight, n_epochs=10):
    """Function that returns the logarithms (n, 3) of the probabilities of a small network."""
    x = image = keras.Input(residual.shape[1:])
    x = layers.Conv2D(16, 5, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    x = layers.Dense(32, activation="relu")(x)
    network = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    network.compile(optimizer(len(residual) * n_epochs // 64), "sparse_categorical_crossentropy")
    images, options = np.arcsinh(residual), {"sample_weight": weight, "batch_size": 64}
    for number in range(n_epochs):
        turned = np.rot90(images, number % 4, axes=(1, 2))[:, :: (-1) ** (number // 4)]
        network.fit(turned, true_class, verbose=0, **options)
    return lambda images: np.log(network.predict(np.arcsinh(images), verbose=0) + 1e-7)


def even_latitudes(vectors, true_class):
    """Weights (n,) that give all classes the latitudes of AGN; 20 at most."""
    zone = np.searchsorted((1, 2, 5, 10, 20, 30, 45, 60), np.abs(lonlat_from_vectors(vectors)[1]))
    number = np.stack([np.bincount(zone[true_class == c], minlength=9) for c in range(3)]) + 0.5
    number /= number.sum(axis=1, keepdims=True)
    return np.minimum(number[0] / number, 20.0)[true_class, zone]


def natural(probability):
    """Probabilities (n, 3) of training skies, corrected for their numbers of sources."""
    probability = probability / MORE
    return probability / probability.sum(axis=1, keepdims=True)


def print_scores(name, probability, true_class):
    """One line of scores with half of their 68 % intervals."""
    scores, intervals = (f(probability, true_class) for f in (class_scores, score_intervals))
    errors = dict(zip(scores, np.diff(intervals, axis=1)[:, 0] / 2))
    shown = [f"{scores[key]:.3f} ({errors[key]:.3f})" for key in SCORES]
    expected = probability[:, 1].sum() / max((true_class == 1).sum(), 1)
    print(f"{name:<46}", *shown, f"{scores['Calibration_Error']:.3f} {expected:5.2f}", flush=True)


def features_of(found, logits, classifier, minis):
    """What the probabilities of each baseline are a regression on, arrays (n, k) by name."""
    by_photons = classifier.probabilities(found["likelihood"], np.full((1, 3), 1 / 3))[0]
    features = {
        "regression of columns": found["columns"],
        TREES: found["columns"],
        **{name: network(found["residual"]) for name, network in minis.items()},
        "U-Net as it is, trunk alone": found["trunk"][:, :64],
        "U-Net as it is, with counts": found["trunk"],
        "U-Net trained, softmax": logits[0],
        "U-Net trained, sigmoids": logits[1],
        "U-Net trained, class given source": logits[2],
    }
    parts = np.log(by_photons + 1e-7), found["columns"], features[MINI], logits[2]
    return features | {"all together": np.hstack(parts)}


def regression(name, features, true_class):
    """Function of features (n, k) that returns probabilities (n, 3) at natural abundances."""
    found = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    if name == TREES:
        found = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=150, max_leaf_nodes=8)
    found.fit(features, true_class)
    return lambda features: natural(found.predict_proba(features))


def main():
    """Simulate, train and print."""
    options = options_of(
        __doc__, folder=Path("classes"), train=[1, 2, 3, 4, 5, 6], calibrate=[7, 8, 9],
        report=[2000, 2001, 2002, 2003], pairs=2000, skies=26, steps=1200,
    ).parse_args()  # fmt: skip
    options.folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    unet, classifier = trained_unet(options), Classifier.of(load_model())
    train = joined("train", options.train, options.folder)
    even = even_latitudes(train["vectors"], train["true_class"])
    minis = {
        name: mini_network(train["residual"], train["true_class"], weight)
        for name, weight in ((MINI, np.ones(len(even))), (f"{MINI}, even latitudes", even))
    }
    samples = {"calibrate": ("train", options.calibrate), "report": ("sky", options.report)}
    samples |= {kind: (kind, [options.pairs]) for kind in PAIRS_DEG}
    data, features = {}, {}
    for name, sample in samples.items():
        data[name] = joined(*sample, options.folder)
        logits = unet_logits(*sample, options.folder, unet)
        features[name] = features_of(data[name], logits, classifier, minis)
    of_photons = print_report(data, features, classifier, minis)
    for kind in PAIRS_DEG:
        print_pairs(kind, data[kind], features[kind], classifier, of_photons)
    print(f"{'average precision of detection':<36} all sky   |b|>10   |b|<10")
    for seed in options.report[:2]:
        detection_scores(seed, unet)


def print_report(data, features, classifier, minis):
    """Scores of all baselines on the skies to report, and the regressions without a position."""
    report, true = data["report"], {name: found["true_class"] for name, found in data.items()}
    place = {name: position(found["vectors"]) for name, found in data.items()}
    print(f"{'detections of AGN, PSR, OTHER':<46} {np.bincount(true['report'])}")
    print(f"{'':<46} {'  '.join(SCORES)}  Calibration_Error  Expected/True")
    flux = np.exp(report["columns"][:, LOG_NPRED]) * classifier.flux_per_count
    by_position = classifier.prior(*lonlat_from_vectors(report["vectors"]), flux)
    everywhere = natural(np.bincount(true["calibrate"])[None])
    for name, prior in (("", everywhere), (" + position", by_position)):
        found = classifier.probabilities(report["likelihood"], prior)[0]
        print_scores(f"classifier of the model{name}", found, true["report"])
    of_photons = {}
    for name, of_baseline in features["calibrate"].items():
        of_photons[name] = regression(name, of_baseline, true["calibrate"])
        print_scores(name, of_photons[name](features["report"][name]), true["report"])
        both = regression(name, np.hstack([of_baseline, place["calibrate"]]), true["calibrate"])
        both = both(np.hstack([features["report"][name], place["report"]]))
        print_scores(f"{name} + position", both, true["report"])
        if name in minis:
            beside = of_photons[name](minis[name](report["beside"]))
            print_scores("    shown the sky beside", beside, true["report"])
    return of_photons


def print_pairs(kind, found, features, classifier, of_photons):
    """AUC and balanced accuracy of all baselines on one sky of pairs, without position."""
    print(f"{kind}: {np.bincount(found['true_class'])} of {N_PAIRS} AGN and pulsars found")
    by_photons = classifier.probabilities(found["likelihood"], np.full((1, 3), 1 / 3))[0]
    baselines = {name: of_photons[name](of_baseline) for name, of_baseline in features.items()}
    for name, probability in ({"classifier of the model": by_photons} | baselines).items():
        scores = class_scores(probability, found["true_class"])
        print(f"{name:<46} {scores['AUC']:.3f} {scores['Balanced_Accuracy']:.3f}", flush=True)


if __name__ == "__main__":
    main()
