"""A U-Net that learns from one map alone, against the scan and the network of simulated skies.

    python benchmarks/learn_without_labels.py [--seed 2000] [--template SHAPES --variant NAME]
        [--map FILE] [--folder learned] [--patches 6000] [--epochs 30] [--injected 12]

Sources are injected into patches of the photons of the map, which has sources of its own that
nobody labels: at random places, with counts from N(>S) ~ 1/S, power laws of random index and the
point-spread function of the map. A small network is trained to find those that are injected. Since
they look like the map's own, what it takes for an injected source is one (learning from positive
and unlabelled examples, Elkan & Noto 2008). The model is written to the folder and is not trained
again where it exists. The map is a simulated sky of seven years above 10 GeV, of which the average
precision of each finder is printed, all ranked by `Log_Odds`, with 95 % intervals of the paired
differences ("own" is the network of the map, "own+" that with the scan); or that of a file, whose
model any search may use (`--model`).
"""

from pathlib import Path

import numpy as np
from finders import search, show, show_difference
from options import options_of
from scipy.ndimage import gaussian_filter

from astro_unetloc.evaluation.predictions import observed_sky
from astro_unetloc.files import write_files
from astro_unetloc.irf.psf import make_profiles, psf_of
from astro_unetloc.irf.spectra import power_laws
from astro_unetloc.maps.patches import (
    GridConfig,
    SortedPhotons,
    TangentPlane,
    band_inputs,
    bin_photons,
)
from astro_unetloc.maps.photons import Photons
from astro_unetloc.maps.read import read_map
from astro_unetloc.sphere import lonlat_from_vectors
from astro_unetloc.training.observation import TrainingConfig, significance, source_mask
from astro_unetloc.training.patch_set import SOURCE_DTYPE, sky_file_bytes
from astro_unetloc.training.train import train
from astro_unetloc.unet.model import load_model

WIDTHS = (16, 24, 32, 48)
BATCH_SIZE, STEPS = 8, 100
FEWEST, MOST = 3, 3000  # photons of an injected source
INDEX = (1.6, 3.2)
SMOOTHED_DEG = 1.0  # the background of an injected source, for its significance
PIXEL_CUT = 0.02


def random_planes(sky_map, photons, n, rng):
    """Tangent planes centred on photons and on points of the map, as many of each."""
    points, _ = sky_map.observed_points
    centers = np.concatenate([rng.choice(points, n // 2), rng.choice(photons.vectors, n - n // 2)])
    grid = GridConfig()
    for lon, lat in zip(*lonlat_from_vectors(centers)):
        yield TangentPlane(lon, lat, grid.patch_pixels, grid.pixel_deg, rng.uniform(0, 360))


def inject(plane, mean, psf, energy_range, rng):
    """Positions (n,) of injected sources in a plane, and photons with the source of each."""
    n = rng.poisson(mean)
    x, y = rng.uniform(-0.5, plane.n_pix - 0.5, (2, n))
    wanted = FEWEST / np.maximum(rng.random(n), FEWEST / MOST)
    origin = np.repeat(np.arange(n), rng.poisson(wanted))
    spectra = power_laws(np.ones(n), rng.uniform(*INDEX, n))
    energy = spectra.draw_energy(origin, rng, emin=energy_range[0], emax=energy_range[1])
    radius = psf.sample_offset(energy, rng) / plane.pixel_deg
    angle = rng.uniform(0, 2 * np.pi, len(origin))
    at = x[origin] + radius * np.cos(angle), y[origin] + radius * np.sin(angle)
    return x, y, Photons(plane.vectors_from_pixel(*at), energy), origin


def labelled(images, counts, origin, x, y, radius_pix):
    """Which injected sources stand out of the other photons: enough of them, and significant."""
    rule, area = TrainingConfig(), np.pi * radius_pix**2
    smooth = gaussian_filter(counts, (SMOOTHED_DEG / GridConfig().pixel_deg,) * 2 + (0,))
    at = tuple(np.clip(np.rint(c).astype(int), 0, len(counts) - 1) for c in (y, x))
    stands_out = significance(0.68 * images, smooth[at] * area)
    n_photons = np.bincount(origin, minlength=len(x))
    return (n_photons >= rule.min_photons) & (stands_out >= rule.min_significance)


def learning_set(path, sky_map, edges, options):
    """Write a patch set of a map with injected sources; one patch in ten validates."""
    rng, grid, rule = np.random.default_rng(options.seed), GridConfig(), TrainingConfig()
    psf = psf_of(sky_map.psf, sky_map.observed_points[0])
    radius_pix = make_profiles(psf, edges).containment_radius(0.68) / grid.pixel_deg
    observed = Photons.concatenate(list(sky_map.photons(0)))
    nearby = SortedPhotons(observed)
    columns = {name: [] for name in ("counts", "coverage", "mask", "center")}
    for plane in random_planes(sky_map, observed, options.patches, rng):
        rows = nearby.near(plane.basis[2], plane.half_diagonal_deg)
        own = bin_photons(plane, nearby.photons.select(rows), edges)
        coverage = sky_map.covers(plane.pixel_vectors)[..., None]
        x, y, photons, origin = inject(plane, options.injected, psf, edges[[0, -1]], rng)
        band = np.searchsorted(edges, photons.energy, side="right") - 1
        by_band = np.zeros((len(x), len(edges) - 1))
        np.add.at(by_band, (origin, band), 1)
        kept = labelled(by_band, own, origin, x, y, radius_pix)
        columns["counts"].append((own + bin_photons(plane, photons, edges)) * coverage)
        columns["coverage"].append(coverage)
        mask = source_mask(x[kept], y[kept], rule.mask_radius_pix, plane.n_pix)
        columns["mask"].append(mask[..., None])
        columns["center"].append((plane.lon_deg, plane.lat_deg, plane.rotation_deg))
    columns = {name: np.array(values) for name, values in columns.items()}
    events = sky_map.events is not None
    bands = band_inputs(edges, sky_map.energy_edges, events=events)
    n = options.patches
    metadata = {
        "band_edges_gev": list(edges), "pixel_deg": grid.pixel_deg, "classes": ["source"],
        "mask_radius_pix": rule.mask_radius_pix, "min_photons": rule.min_photons,
        "min_significance": rule.min_significance, "seed": 0, "patches_per_sky": n,
    }  # fmt: skip
    columns |= {
        "bands": np.broadcast_to(bands, (n, *bands.shape)), "code": np.arange(n).astype("S24"),
        "sky": (np.arange(n) % 10 > 0).astype(int),
    }  # fmt: skip
    content = sky_file_bytes(columns, np.zeros(0, SOURCE_DTYPE), metadata=metadata)
    write_files({path: content}, overwrite=True)


def learned(sky_map, edges, options):
    """The model of a map, trained on it if it is not there."""
    folder = options.folder / "model"
    if not (folder / "card.json").exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        learning_set(options.folder / "set.h5", sky_map, edges, options)
        train(
            options.folder / "set.h5", folder, epochs=options.epochs, steps_per_epoch=STEPS,
            batch_size=BATCH_SIZE, widths=WIDTHS, max_validation=100, verbose=0,
        )  # fmt: skip
    model = load_model(folder)
    model.card["clustering"]["cut"] = PIXEL_CUT
    return model


def main(arguments=None):
    """Train on the map, and compare the finders where the truth is known."""
    options = options_of(
        __doc__, seed=2000, template=Path, variant="PIBREM+ICS", map=str, folder=Path("learned"),
        patches=6000, epochs=30, injected=12.0,
    ).parse_args(arguments)  # fmt: skip
    shipped = load_model()
    if options.map:
        learned(read_map(options.map), shipped.band_edges, options)
        return
    emission = {"template": options.template, "variant": options.variant}
    sky_map, truth = observed_sky(shipped.band_edges, options.seed, **emission)
    own = learned(sky_map, shipped.band_edges, options)
    found = {}
    for name, model, finder in (
        ("scan", shipped, "scan"), ("unet", shipped, "unet"), ("both", shipped, "both"),
        ("own", own, "unet"), ("own+", own, "both"),
    ):  # fmt: skip
        made = search(model, finder, sky_map, truth, options.seed, "Log_Odds")
        found[name], listed, seconds = made
        show("learned", name, found[name], listed, np.nan, seconds)
    for name, other in (("own", "unet"), ("own", "scan"), ("own+", "both")):
        show_difference("learned", name, found[name], other, found[other])


if __name__ == "__main__":
    main()
