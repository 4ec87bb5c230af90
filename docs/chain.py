"""Draw the chain from a map to sources, of a simulated field: ``python docs/chain.py``."""

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy.ndimage import gaussian_filter

from astro_unetloc import simulate_sky
from astro_unetloc.catalog.table import galactic_vectors, numbers
from astro_unetloc.detection.clustering import find_clusters
from astro_unetloc.maps.patches import TangentPlane, bin_photons
from astro_unetloc.pipeline import clustering_config, detect

CENTER, SEED = SkyCoord(28.0, 0.0, unit="deg", frame="galactic"), 3
ZOOM_PIX = 20, 10  # half widths of the last two panels
RED = {"color": "crimson", "lw": 1.3}


def smooth_counts(plane, photons, sigma):
    """Square root of the smoothed counts on a plane."""
    counts = bin_photons(plane, photons, [10.0, 2000.0])[..., 0]
    return np.sqrt(gaussian_filter(counts.astype(float), sigma))


def draw_chain(run):
    """Figure of five steps: the field, a patch, its probability, clusters and fitted sources."""
    catalog, patches, config = run.catalog, run.patches, clustering_config(run.model)
    photons, size = run.sky_map.events, 2 * config.radius_pix
    patch = int(patches.grid.owner(CENTER.cartesian.xyz.value))
    probability = run.probability[np.flatnonzero(patches.index == patch)[0]]
    field, plane = TangentPlane(CENTER.l.deg, CENTER.b.deg, 240, 0.1), patches.grid.plane(patch)
    found = find_clusters(probability[None], config=config)
    x, y = plane.pixel_from_vectors(galactic_vectors(catalog))
    apart = np.where(catalog["Patch"] == patch, numbers(catalog["Sep_Nearest"]), np.inf)
    middle = np.round([x[apart.argmin()], y[apart.argmin()]])

    figure = Figure(figsize=(13, 2.9), layout="constrained")
    panels = dict(
        zip(("map", "patch", "probability", "clusters", "sources"), figure.subplots(1, 5))
    )
    panels["map"].imshow(smooth_counts(field, photons, 1.5), origin="lower", cmap="inferno")
    panels["patch"].imshow(smooth_counts(plane, photons, 1.0), origin="lower", cmap="inferno")
    panels["probability"].imshow(probability, origin="lower", cmap="viridis", vmin=0, vmax=1)
    bright = np.where(probability > config.cut, probability, np.nan)
    panels["clusters"].imshow(bright, origin="lower", cmap="viridis", vmin=0, vmax=1)
    panels["sources"].imshow(smooth_counts(plane, photons, 0.7), origin="lower", cmap="inferno")
    for center in zip(found.x, found.y):
        panels["clusters"].add_patch(Ellipse(center, size, size, fill=False, **RED))
        panels["clusters"].plot(*center, "x", color="crimson", ms=4)
    axes_deg = (numbers(catalog[f"Conf_95_{name}"]) for name in ("SemiMajor", "SemiMinor"))
    for center, *size in zip(zip(x, y), *(2 * axis / plane.pixel_deg for axis in axes_deg)):
        panels["sources"].add_patch(Ellipse(center, *size, fill=False, color="cyan", lw=1.5))
    corners = plane.n_pix * np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]])
    corners = field.pixel_from_vectors(plane.vectors_from_pixel(*corners))
    panels["map"].plot(*corners, color="white", lw=1)
    for name, zoom in zip(("clusters", "sources"), ZOOM_PIX):
        panels[name].set(xlim=middle[0] + [-zoom, zoom], ylim=middle[1] + [-zoom, zoom])
    for title, axes in panels.items():
        axes.set(xticks=[], yticks=[])
        axes.set_title(title)
    return figure


if __name__ == "__main__":
    sky_map, _ = simulate_sky(center=CENTER, radius=14 * u.deg, rng=SEED)
    path = Path(__file__).parent / "images" / "chain.png"
    draw_chain(detect(sky_map)).savefig(path, dpi=100)
