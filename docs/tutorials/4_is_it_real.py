"""
Is it real?
===========

Every list of sources has some that are noise, and misses some that are there. This tutorial shows
what a catalogue states about both: the probability of each source, its flags, limits where nothing
was found, and two checks that need nothing but the map. The map is a simulated one, so that the
answers can be compared with the truth.
"""

# %%
# A map with a known truth
# ------------------------
# A field of 25 x 25 deg off the Galactic plane, as the Fermi-LAT sees it above 10 GeV in seven
# years.

import subprocess
from pathlib import Path
from tempfile import mkdtemp

import astropy.units as u
import healpy
import matplotlib.pyplot as plt
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from gammapy.estimators.utils import find_peaks
from gammapy.maps import Map

from astro_unetloc import (
    find_sources,
    flag_names,
    match_catalogs,
    plot_sources,
    read_catalog,
    read_map,
    split_check,
    upper_limits,
)

folder = Path(mkdtemp())
path = folder / "map.fits.gz"
command = ["astro-unetloc", "simulate", "-o", path, "--truth", folder / "truth.fits", "--quiet"]
subprocess.run([*command, "--center", "90", "15", "--width", "25", "--seed", "7"], check=True)
sky_map = read_map(path)
truth = read_catalog(folder / "truth.fits")
print(sky_map)

# %%
# Score is a probability
# ----------------------
# ``Score`` is the probability that a source is real, calibrated on simulated skies. Its sum is the
# number of real sources that a list should hold. Here a source is real if a true one lies within
# 0.3 deg, however faint that is.


def which_are_real(catalog):
    """Return True for the sources that match a true one."""
    match = match_catalogs(catalog, truth, radius=0.3 * u.deg)
    return np.isin(np.arange(len(catalog)), match.catalog_index)


catalog = find_sources(sky_map)
expected, n_real = catalog["Score"].sum(), which_are_real(catalog).sum()
print(f"{len(catalog)} sources, {expected:.1f} expected to be real, {n_real} are")

# %%
# A longer list, or a cleaner one
# -------------------------------
# The default list ends at a ``Score`` of 0.8. ``threshold`` sets another end, and ``purity`` is the
# fraction of real sources that you want: the list gets as long as its mean ``Score`` allows.

choices = {"threshold 0.1": {"threshold": 0.1}, "purity 0.9": {"purity": 0.9}}
choices["purity 0.99"] = {"purity": 0.99}
for name, choice in choices.items():
    found = find_sources(sky_map, **choice)
    expected, n_real = found["Score"].sum(), which_are_real(found).sum()
    print(f"{name:13}: {len(found)} sources, {expected:.1f} expected to be real, {n_real} are")

# %%
# The long list shows how ``Score`` follows the truth. Each bar is a range of ``Score``; its height
# is the fraction of them that is real, and the points are their mean ``Score``. A bar of few
# sources scatters.

found = find_sources(sky_map, threshold=0.05)
is_real = which_are_real(found)
edges = np.array([0.05, 0.2, 0.5, 0.9, 1.0])
rows = np.clip(np.digitize(found["Score"], edges) - 1, 0, len(edges) - 2)
number = np.bincount(rows, minlength=len(edges) - 1)
fraction = np.bincount(rows, is_real, len(edges) - 1) / number
mean_score = np.bincount(rows, found["Score"], len(edges) - 1) / number

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
place = np.arange(len(number))
axes.bar(place, fraction, color="lightsteelblue", label="real")
axes.plot(place, mean_score, "o", color="tab:red", label="mean Score")
names = [f"{low:g}-{high:g}\n{n} sources" for low, high, n in zip(edges, edges[1:], number)]
axes.set_xticks(place, names)
axes.set(xlabel="Score", ylabel="fraction")
axes.legend()
figure

# %%
# For a list of targets take a high purity; for a follow-up that can bear misses, a low threshold
# and ``Score`` as a weight.
#
# Flags
# -----
# ``Flags`` states what may be wrong with a source. `~astro_unetloc.flag_names` returns the names,
# and :doc:`/columns` has a sentence for each.

flagged = catalog[catalog["Flags"] > 0]
for row in flagged:
    print(row["Source_Name"], f"Score {row['Score']:.2f}", ", ".join(flag_names(row["Flags"])))

# %%
# A source near the edge has lost photons, a blended one may be two, a wide one may be extended, and
# beside a much brighter source an excess may be the wing of its PSF. The picture shows the sources
# with such a flag, and those of lower ``Score``, as its legend explains.

figure = plot_sources(sky_map, catalog)
figure

# %%
# What could have been found
# --------------------------
# ``--limit-map`` writes the counts, and with an exposure the fluxes, at which half of the sources
# are found, for the background and the bright sources of this map.

limits_path = folder / "limits.fits"
command = ["astro-unetloc", path, "-o", folder / "catalog.fits", "--limit-map", limits_path]
subprocess.run([*command, "--quiet"], check=True)
limits = QTable.read(limits_path, hdu=1)
lon, lat = healpy.pix2ang(64, limits["PIXEL"], nest=True, lonlat=True)

figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
points = axes.scatter(lon, lat, c=limits["NPRED_50"], s=60, marker="D")
axes.plot(catalog["GLON"], catalog["GLAT"], "r.", markersize=4)
axes.set(xlabel="Galactic longitude", ylabel="Galactic latitude", xlim=axes.get_xlim()[::-1])
figure.colorbar(points, label="counts at which half of the sources are found")
figure

# %%
# Compare it with the truth: this is the fraction of the true sources that the list has, below and
# above the limit of their own position.

pixels = healpy.ang2pix(64, truth["GLON"].value, truth["GLAT"].value, nest=True, lonlat=True)
limit = dict(zip(limits["PIXEL"], limits["NPRED_50"]))
ratio = np.array([n / limit.get(pixel, np.nan) for n, pixel in zip(truth["Npred"], pixels)])
is_found = np.zeros(len(truth), bool)
is_found[match_catalogs(catalog, truth, radius=0.3 * u.deg).reference_index] = True
for low, high in ((0.25, 0.5), (0.5, 1), (1, 2), (2, np.inf)):
    rows = (ratio >= low) & (ratio < high)
    print(f"{low:g} to {high:g} times the limit: {is_found[rows].sum()} of {rows.sum()} found")

# %%
# A limit for one position
# ------------------------
# Where the list has no source, such as at the position of a blazar of another catalogue,
# `~astro_unetloc.upper_limits` returns the 95 % limit on its counts, and on its flux if the map has
# an exposure. The known sources around it are fitted as well.

blazar = SkyCoord(91.3, 14.2, unit="deg", frame="galactic")
limit = upper_limits(sky_map, blazar, sources=catalog)
print(f"less than {limit['Npred_UL95'][0]:.1f} counts")

# %%
# What is left over
# -----------------
# ``--residual-map`` writes the counts of the map, those that the sources and the background
# predict, and the significance of their difference within the PSF around each pixel. A spot far
# beyond the noise is a source that is missing, a ring around a source one that is not point-like.

residual_path = folder / "residual.fits"
command[-2:] = ["--residual-map", residual_path]
subprocess.run([*command, "--quiet", "--overwrite"], check=True)
significance = Map.read(residual_path, hdu="SIGNIFICANCE_ALL")

figure = plt.figure(figsize=(6, 5), layout="constrained")
axes = figure.add_subplot(projection=significance.geom.wcs)
significance.plot(ax=axes, vmin=-5, vmax=5, cmap="RdBu_r", add_cbar=True)
figure

# %%
# Of so many pixels a few exceed 3 sigma by chance. The three highest spots, with the distance of
# the nearest true source that emitted a photon, and the number of its photons in the map:

emitted = truth[truth["Counts"] > 0]
spots = find_peaks(significance, threshold=3, min_distance=1 * u.deg)[:3]
for spot in spots:
    place = SkyCoord(spot["ra"], spot["dec"], unit="deg")
    separation = emitted["skycoord"].separation(place)
    nearest = separation.argmin()
    where = f"{separation[nearest].deg:.2f} deg, {emitted['Counts'][nearest]} photons"
    print(f"{spot['value']:.1f} sigma; nearest true source: {where}")

# %%
# A spot with a source of some photons beside it is real and too faint for the list; the others are
# noise. Only more data, or another energy, separates them in a map without a truth.
#
# Without a truth
# ---------------
# Your own map has none. `~astro_unetloc.split_check` divides the photons at random into two halves,
# searches the first and looks in the second, which knows nothing of the first, for what was found.

check = split_check(sky_map)
print(check)

# %%
# An estimate far below the mean ``Score`` means that the map is unlike the simulated ones: look at
# its background, its PSF and its energies before you use the list. On the command line this is
# ``astro-unetloc map.fits --split-check``.
#
# What next
# ---------
# - Match with catalogues of other energies: a counterpart is independent evidence
#   (:doc:`/matching`).
# - What kind of source it is: :doc:`/gallery/5_what_is_it`.
