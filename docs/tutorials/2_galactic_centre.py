"""
The Galactic centre, beside gammapy
===================================

The data set of gammapy's own tutorial on source detection: photons above 10 GeV within 20 x 10 deg
of the Galactic centre, seven years of the Fermi-LAT. The same field is searched twice, by this
package and by gammapy's ``TSMapEstimator``, and both lists are matched with 3FHL. Then one source
is fitted with gammapy, starting from the catalogue.
"""

# %%
# The data
# --------
# ``gammapy download datasets`` fetches the folder ``fermi-3fhl-gc`` and the catalogues into
# ``$GAMMAPY_DATA``; the Fermi Science Support Center has 3FHL as ``gll_psch_v13.fit``. Set
# ``ASTRO_UNETLOC_DATA`` to the folder that holds them. A simulated field takes their place if they
# are absent, so that this page can be run anywhere.

import os
import subprocess
from pathlib import Path
from tempfile import mkdtemp

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from gammapy.datasets import MapDataset
from gammapy.estimators import FluxPointsEstimator, TSMapEstimator
from gammapy.estimators.utils import find_peaks
from gammapy.irf import EDispKernelMap, PSFMap
from gammapy.maps import Map, MapAxis
from gammapy.modeling import Fit
from gammapy.modeling.models import (
    PointSpatialModel,
    PowerLawSpectralModel,
    SkyModel,
)

from astro_unetloc import (
    find_sources,
    match_catalogs,
    plot_sources,
    read_catalog,
    read_map,
    register_catalog,
    to_gammapy_dataset,
    to_gammapy_models,
)

data = Path(os.environ.get("ASTRO_UNETLOC_DATA", os.environ.get("GAMMAPY_DATA", "data")))


def real_field():
    """Return counts, exposure, background and PSF of the Galactic centre, and 3FHL."""
    names = [f"fermi-3fhl-gc-{part}-cube.fits.gz" for part in ("counts", "exposure", "background")]
    counts, exposure, background = (Map.read(next(data.rglob(name))) for name in names)
    psf = PSFMap.read(next(data.rglob("fermi-3fhl-gc-psf-cube.fits.gz")), format="gtpsf")
    return counts, exposure, background, psf, read_catalog(next(data.rglob("gll_psch_v13.fit*")))


def simulated_field():
    """Return the same of a simulated field, and its true sources of eight counts or more."""
    folder = Path(mkdtemp()) / "field"
    command = [
        "astro-unetloc",
        "simulate",
        "-o",
        f"{folder}/",
        "--center",
        "0",
        "0",
        "--width",
        "12",
    ]
    subprocess.run([*command, "--seed", "3", "--quiet"], check=True)
    names = ("agn", "psr", "other", "background")
    parts = [Map.read(folder / f"{name}.fits") for name in names]
    true = MapAxis.from_energy_bounds("10 GeV", "2 TeV", 12, name="energy_true", node_type="center")
    geom = parts[0].geom.to_image().to_cube([true])
    exposure = Map.from_geom(geom, data=np.full(geom.data_shape, 2.8e11), unit="cm2 s")
    psf = PSFMap.from_gauss(true, sigma=0.08 * u.deg)
    truth = read_catalog(folder / "truth.fits")
    counts, background = sum(parts[1:], parts[0]), parts[-1].smooth(0.5 * u.deg)
    return counts, exposure, background, psf, truth[truth["Npred"] >= 8]


is_real = any(data.rglob("fermi-3fhl-gc-counts-cube.fits.gz"))
field = real_field() if is_real else simulated_field()
counts, exposure, background, psf, reference = field
print("Galactic centre and 3FHL" if is_real else "A simulated field: the files are absent")

# %%
# They become a ``MapDataset`` of gammapy, as in its tutorial.

counts.data = counts.data.astype(float)
energy, true = counts.geom.axes["energy"], exposure.geom.axes["energy_true"]
edisp = EDispKernelMap.from_diagonal_response(energy, true)
parts = {"exposure": exposure, "background": background, "psf": psf, "edisp": edisp}
dataset = MapDataset(counts=counts, **parts, name="field")

# %%
# Find and look
# -------------
# A dataset is taken as it is: its counts, its exposure for the fluxes, its background and its PSF.

sky_map = read_map(dataset)
catalog = find_sources(sky_map)
catalog["Source_Name", "GLON", "GLAT", "Score", "Sqrt_TS", "Npred", "Flux", "Class"]

# %%

figure = plot_sources(sky_map, catalog)
figure

# %%
# The search of gammapy
# ---------------------
# ``TSMapEstimator`` fits a point source with a power law of index 2 at every pixel, and
# ``find_peaks`` lists the local maxima of the square root of the test statistic above 5.

test_source = SkyModel(PowerLawSpectralModel(index=2), PointSpatialModel())
estimator = TSMapEstimator(test_source, kernel_width="1 deg", energy_edges=[10, 500] * u.GeV)
ts_maps = estimator.run(dataset)
peaks = find_peaks(ts_maps["sqrt_ts"], threshold=5, min_distance="0.25 deg")
print(f"{len(peaks)} peaks of the TS map, {len(catalog)} sources of the catalogue")

# %%
# The package has a second finder of this kind, a scan of the photons over the background. It needs
# no training, and finds more in crowded fields such as this one.

scanned = find_sources(sky_map, finder="scan")
print(f"{len(scanned)} sources of the scan")

# %%
# All of them over the map of gammapy's test statistic:

figure = plt.figure(figsize=(9, 5), layout="constrained")
axes = figure.add_subplot(projection=counts.geom.wcs)
ts_maps["sqrt_ts"].plot(ax=axes, add_cbar=True, vmin=0, vmax=10, cmap="Greys")
circle = {"transform": axes.get_transform("icrs"), "facecolor": "none"}
for found, color, size in ((catalog, "tab:blue", 160), (scanned, "tab:orange", 80)):
    axes.scatter(found["RAJ2000"], found["DEJ2000"], size, edgecolor=color, **circle)
axes.scatter(peaks["ra"], peaks["dec"], 25, "tab:red", marker="x", transform=circle["transform"])
axes.set_title("blue: network; orange: scan; crosses: peaks of the TS map", fontsize=10)
figure

# %%
# Match all with 3FHL
# -------------------
# Our catalogues have error ellipses, and by default these decide what is a match. Peaks have none,
# so one radius is used here for all. The reference is restricted to the field; ``surroundings``
# keeps the whole of it for the rate of chance coincidences.

here = reference[counts.geom.to_image().contains(reference["skycoord"])]
for name, found in {"network": catalog, "scan": scanned, "TS map": peaks}.items():
    match = match_catalogs(found, here, radius=0.2 * u.deg, surroundings=reference)
    n_true, n_missed = len(match.matches), len(match.reference_unmatched)
    n_known = len(found) - len(match.catalog_unmatched)
    print(f"{name}: {n_known} of {len(found)} known, {n_true} of {n_true + n_missed} found")

# %%
# "Known" includes detections inside an extended source of the reference, "found" counts point
# sources alone. What is missing is faint, or merges with a brighter neighbour:

missing = match_catalogs(scanned, here, surroundings=reference).reference_unmatched
here[missing]["Source_Name", "GLON", "GLAT", "Npred"]

# %%
# Fit a source with gammapy
# -------------------------
# `~astro_unetloc.to_gammapy_models` returns a model for each source with a flux: a power law, a
# log-parabola where the photons are curved, and a power law with a cut-off for pulsars.

name = catalog["Source_Name"][0]
print(to_gammapy_models(catalog)[name])

# %%
# `~astro_unetloc.to_gammapy_dataset` returns a part of the map with these models, of which only
# those of the named sources are free, and with a free factor on the background. A likelihood fit
# needs one more line.

place = catalog["skycoord"][0]
near = to_gammapy_dataset(sky_map, catalog, free=name, center=place, width=4 * u.deg)
result = Fit().run(near)
print(result.message)

# %%
# The fitted source stays where the catalogue has it, with the flux of the catalogue:

source = near.models[name]
low, high = catalog.meta["FLUXEMIN"] * u.GeV, catalog.meta["FLUXEMAX"] * u.GeV
flux = source.spectral_model.integral(low, high)
print(f"moved by {place.separation(source.position):.4f}; ", end="")
print(f"its 68 % ellipse has a radius of {catalog['Conf_68_SemiMajor'][0]:.4f}")
print(f"flux {flux:.3g}; catalogue {catalog['Flux'][0]:.3g} +- {catalog['Unc_Flux'][0]:.2g}")

# %%
# Its spectrum
# ------------
# The fitted model with flux points of gammapy, and the flux points that the catalogue has in the
# bands of the network, for which no further fit is needed. `~astro_unetloc.register_catalog` makes
# the catalogue one of gammapy's source catalogues.

estimator = FluxPointsEstimator(
    energy_edges=energy.edges[::2], source=name, selection_optional=["ul"]
)
points = estimator.run(near)
points.sqrt_ts_threshold_ul = 2
in_catalog = register_catalog()(catalog)[name]

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
style = {"ax": axes, "sed_type": "e2dnde"}
source.spectral_model.plot(energy_bounds=[10, 500] * u.GeV, color="tab:blue", **style)
points.plot(color="tab:blue", label="flux points of gammapy", **style)
in_catalog.flux_points.plot(color="tab:orange", marker="s", label="bands of the catalogue", **style)
axes.set(title=name, ylim=(1e-14, 1e-10))
axes.legend()
figure

# %%
# What next
# ---------
# - ``write_catalog(catalog, "catalog.fits", "models.yaml", "sources.xml")`` writes the models for
#   gammapy and for the Fermi tools.
# - Whether a source is real, and what could have been missed: :doc:`/gallery/4_is_it_real`.
# - If the background of a field is unknown, leave it out: it is estimated from the photons.
