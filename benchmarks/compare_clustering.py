"""The shipped clustering beside the loop of the method's first description, on the same maps.

    python benchmarks/compare_clustering.py [--maps 200] [--seed 1003] [--presets default reference]

The loop tries k = 1, 2, ..., 49 with scikit-learn's k-means from ten random starts each on all
bright pixels of a patch (this takes seconds a patch: hours for 200). The maps are probability maps
of the default model on a simulated sky, the brightest patches first, and as many that are made to
be hard. Prints on how many maps the shipped clustering scores worse and by how much at most, the
sums of the scores, the times of both in the same run and their ratio; then the time of the whole
sky, as the model's card has it clustered.
"""

import argparse
import time

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from astro_unetloc.detection.clustering import PRESETS, circle_score, find_clusters
from astro_unetloc.detection.localization import near_owned_cell
from astro_unetloc.pipeline import clustering_config, detect
from astro_unetloc.simulation.sky import simulate_sky

N_PIX = 128


def score(image, centroids, config):
    """Objective of one set of clusters."""
    return circle_score(
        image[None],
        np.zeros(len(centroids), dtype=int),
        np.zeros(len(centroids), dtype=int),
        centroids,
        radius_pix=config.radius_pix,
        overlap_penalty=config.overlap_penalty,
    )[0]


def literal_clusters(image, config):
    """Best centroids of k = 1, 2, ..., 49, each the best of ten random starts of k-means."""
    y, x = np.nonzero(image > config.cut)
    xy = np.column_stack([x, y]).astype(float)
    best, best_score = None, -np.inf
    for k in range(1, min(49, len(xy)) + 1):
        fit = KMeans(k, init="random", n_init=10, random_state=k)
        centroids = fit.fit(xy, sample_weight=image[y, x]).cluster_centers_
        value = score(image, centroids, config)
        if value > best_score:
            best, best_score = centroids, value
    return best


def network_maps(detection, n_maps):
    """Probability maps of the default model, those with most bright pixels first."""
    probability = detection.probability
    edge = (probability.shape[1] - N_PIX) // 2
    images = probability[:, edge : edge + N_PIX, edge : edge + N_PIX]
    order = np.argsort(-(images > PRESETS["default"].cut).sum(axis=(1, 2)), kind="stable")
    return list(images[order[:n_maps]])


def whole_sky(detection):
    """Print how long all patches of a run take, as the run has them clustered."""
    config, grid = clustering_config(detection.model), detection.patches.grid.config
    reach_deg = grid.border_deg + 3 * config.radius_pix * grid.pixel_deg
    started, busy = time.perf_counter(), time.process_time()
    found = find_clusters(
        detection.probability,
        config=config,
        keep=lambda row, x, y: near_owned_cell(detection.patches, row, x, y, reach_deg),
    )
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    print(
        f"{len(detection.probability)} patches of {detection.model.name}: {len(found)} clusters "
        f"in {seconds:.1f} s ({busy:.1f} s of the processor)",
        flush=True,
    )


def hard_map(seed):
    """Touching discs, rings, sixty blobs, a ragged ridge, single pixels, one disc, or one pixel."""
    rng = np.random.default_rng([5, seed])
    y, x = np.mgrid[:N_PIX, :N_PIX]
    image = np.zeros((N_PIX, N_PIX))
    kind = seed % 7
    if kind == 0:
        for center in np.repeat(rng.uniform(10, N_PIX - 10, (8, 2)), 4, axis=0):
            dx, dy = rng.normal(0, 3, 2)
            disc = np.hypot(x - center[0] - dx, y - center[1] - dy) <= rng.uniform(1.5, 3)
            image = np.maximum(image, disc * rng.uniform(0.3, 1))
    elif kind == 1:
        center, radius = rng.uniform(30, N_PIX - 30, 2), rng.uniform(4, 20)
        distance = np.hypot(x - center[0], y - center[1])
        image[np.abs(distance - radius) <= rng.uniform(0.5, 2)] = rng.uniform(0.3, 1)
    elif kind == 2:
        for x_center, y_center in rng.uniform(0, N_PIX - 1, (60, 2)):
            r2, width = (x - x_center) ** 2 + (y - y_center) ** 2, rng.uniform(0.7, 1.7)
            image = np.maximum(image, rng.uniform(0.2, 1) * np.exp(-r2 / 2 / width**2))
    elif kind == 3:
        angle, wiggle = rng.uniform(0, np.pi), rng.uniform(0.6, 1, (N_PIX, N_PIX))
        across = (x - N_PIX / 2) * np.cos(angle) + (y - N_PIX / 2) * np.sin(angle)
        image = wiggle * np.exp(-(across**2) / 2 / rng.uniform(1, 3) ** 2)
    elif kind == 4:
        image[rng.random((N_PIX, N_PIX)) < 0.005] = 0.6
    elif kind == 5:
        center, radius = rng.uniform(20, N_PIX - 20, 2), rng.uniform(3, 12)
        disc = np.hypot(x - center[0], y - center[1]) <= radius
        image = disc * rng.uniform(0.7, 1, (N_PIX, N_PIX))
    else:
        image[tuple(rng.integers(0, N_PIX, 2))] = rng.uniform(0.3, 1)
    return image.astype(np.float32)


def main():
    """Compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1003)
    parser.add_argument("--presets", nargs="+", default=["default", "reference"])
    options = parser.parse_args()
    detection = detect(simulate_sky(rng=options.seed)[0], measure=False)
    kinds = {
        "network": network_maps(detection, options.maps),
        "hard": [hard_map(seed) for seed in range(options.maps)],
    }
    print("maps     preset        n  worse    by  score  literal     s  literal  ratio")
    for kind, images in kinds.items():
        for preset in options.presets:
            config = PRESETS[preset]
            bright = [image for image in images if (image > config.cut).any()]
            find_clusters(np.stack(bright[:1]), config=config)  # scikit-learn is loaded
            started = time.perf_counter()
            found = find_clusters(np.stack(bright), config=config)
            seconds, started = time.perf_counter() - started, time.perf_counter()
            with threadpool_limits(limits=1):
                literal = [literal_clusters(image, config) for image in bright]
            literal_seconds = time.perf_counter() - started
            xy = np.column_stack([found.x, found.y])
            ours = [score(m, xy[found.row == row], config) for row, m in enumerate(bright)]
            theirs = [score(m, c, config) for m, c in zip(bright, literal)]
            worse = np.array(theirs) - ours
            print(
                f"{kind:<8} {preset:<10} {len(bright):4d} {(worse > 1e-3).sum():6d} "
                f"{max(worse.max(), 0):5.2f} {sum(ours):6.0f} "
                f"{sum(theirs):8.0f} {seconds:5.2f} {literal_seconds:8.1f} "
                f"{literal_seconds / seconds:6.0f}",
                flush=True,
            )
    whole_sky(detection)


if __name__ == "__main__":
    main()
