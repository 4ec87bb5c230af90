"""
What is it?
===========

A source above 10 GeV is most often an active galactic nucleus (AGN), less often a pulsar, and along
the Galactic plane a supernova remnant, a nebula or another source. The energies of its photons and
its position give a probability for each class. This tutorial shows how to read them, what the prior
does, and how to classify the sources of another catalogue.
"""

# %%
# A sky with known classes
# ------------------------
# A quarter of the sky around the inner Galaxy, simulated as the Fermi-LAT sees it in seven years.

import os
from pathlib import Path

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.coordinates import SkyCoord

from astro_unetloc import (
    classify_sources,
    find_sources,
    flag_names,
    match_catalogs,
    plot_sources,
    read_catalog,
    simulate_sky,
)

center = SkyCoord(20, 0, unit="deg", frame="galactic")
sky_map, truth = simulate_sky(center=center, radius=60 * u.deg, rng=5)
catalog = find_sources(sky_map)
figure = plot_sources(sky_map, catalog)
figure

# %%
# Probabilities
# -------------
# ``Prob_AGN``, ``Prob_PSR`` and ``Prob_OTHER`` are the probabilities of the classes, if the source
# is real, and sum to one. ``Class`` is the most probable one, and empty if that has less than 0.8.
# These are the first sources near the Galactic plane.

columns = ["Source_Name", "GLAT", "Npred", "Class", "Prob_AGN", "Prob_PSR", "Prob_OTHER"]
catalog[columns][np.abs(catalog["GLAT"].value) < 5][:12]

# %%
# The sum of a probability is the number of sources of that class that the list should hold. Use it
# to count a class, rather than the number of rows that have its name.

match = match_catalogs(catalog, truth, radius=0.3 * u.deg)
true_class = np.full(len(catalog), "-", dtype="U5")
true_class[match.catalog_index] = match.reference["Class"][match.reference_index]
for name, column in {"AGN": "Prob_AGN", "PSR": "Prob_PSR", "OTHER": "Prob_OTHER"}.items():
    named = np.sum(catalog["Class"] == name.lower())
    print(
        f"{name:5}: {catalog[column].sum():5.1f} expected, {np.sum(true_class == name)} in truth, "
        f"{named} have the name"
    )

# %%
# Where the true classes (rows) went, and what the catalogue leaves open (column "none"):

match.confusion()

# %%
# Why a pulsar is a pulsar
# ------------------------
# Above 10 GeV the spectra of pulsars are cut off: most of their photons lie in the first band, up
# to 20 GeV. Bright sources show it, faint ones do not.

edges = catalog.meta["BANDS"].split()
counts = np.ma.filled(catalog["Counts_Band"], np.nan)
fraction = counts[:, 0] / np.nansum(counts, axis=1)

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
points = axes.scatter(catalog["Npred"], fraction, 18, catalog["Prob_PSR"], cmap="viridis")
pulsars = true_class == "PSR"
style = {"facecolor": "none", "edgecolor": "tab:red", "label": "true pulsars"}
axes.scatter(catalog["Npred"][pulsars], fraction[pulsars], 70, **style)
axes.set(xscale="log", xlabel="counts", ylabel=f"fraction of counts below {edges[1]} GeV")
axes.legend(loc="lower right")
figure.colorbar(points, label="Prob_PSR")
figure

# %%
# The prior
# ---------
# With few photons the probabilities are those of the prior: the classes of simulated sources at
# this position with this flux. The flag ``class_prior`` marks sources whose photons make no class
# twice as likely as another.

by_prior = np.array(["class_prior" in names for names in flag_names(catalog["Flags"])])
print(f"{by_prior.sum()} of {len(catalog)} sources have the class of the prior")
counts = np.asarray(catalog["Npred"])
medians = np.median(counts[by_prior]), np.median(counts[~by_prior])
print("median counts: {:.0f} of these, {:.0f} of the others".format(*medians))

# %%
# To see what the photons alone have to contribute, give all classes the same prior. For a sample
# that was selected in another way, such as radio pulsars, give its fractions of AGN, pulsars and
# others. `~astro_unetloc.classify_sources` fits the sources where they are, without a new search.

flat = classify_sources(catalog, sky_map, class_prior="flat")
figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
for rows, color, label in (
    (by_prior, "tab:orange", "flag class_prior"),
    (~by_prior, "C0", "no flag"),
):
    axes.plot(catalog["Prob_PSR"][rows], flat["Prob_PSR"][rows], ".", color=color, label=label)
axes.set(xlabel="Prob_PSR", ylabel="Prob_PSR with a flat prior")
axes.legend()
figure

# %%
# Sources of another catalogue
# ----------------------------
# Any table with positions can be classified by the photons of a map. If the data of
# :doc:`/gallery/2_galactic_centre` are in ``ASTRO_UNETLOC_DATA``, these are the sources
# of 3FHL and real photons; else the true sources of the simulated sky take their place.

data = Path(os.environ.get("ASTRO_UNETLOC_DATA", os.environ.get("GAMMAPY_DATA", "data")))
if any(data.rglob("fermi-3fhl-gc-counts-cube.fits.gz")):
    parts = ("counts", "exposure", "psf", "background")
    names = [next(data.rglob(f"fermi-3fhl-gc-{part}-cube.fits.gz")) for part in parts]
    files = dict(zip(("map", *parts[1:]), names))
    others = read_catalog(next(data.rglob("gll_psch_v13.fit*")))
    lon, lat = others["skycoord"].galactic.l.wrap_at("180d").deg, others["skycoord"].galactic.b.deg
    others = others[(np.abs(lon) < 9.5) & (np.abs(lat) < 4.5) & ~others["Extended"]]
    print("3FHL at the Galactic centre")
else:
    files, others = {"map": sky_map}, truth[truth["Npred"] >= 20]
    print("True sources of the simulated sky: the files are absent")
classes = classify_sources(others, **files)

# %%
# Columns of the fit and the classes are added. Columns of the catalogue that have these names, such
# as ``CLASS`` of 3FHL, get ``_Ref`` behind them. That class comes from counterparts at other
# wavelengths, so that the two can be compared.

stated = next(name for name in classes.colnames if name.lower() == "class_ref")
columns = ["Source_Name", stated, "Npred", "Class", "Prob_AGN", "Prob_PSR", "Prob_OTHER"]
classes[columns][np.argsort(-np.asarray(classes["Npred"]))][:15]

# %%
# Supernova remnants and nebulae have the spectra of AGN, and are known by their position only. A
# ``Class`` that contradicts a counterpart is a reason to look at both.
#
# Groups without labels
# ---------------------
# The classes above have the spectra of simulated sources. ``unsupervised=True`` takes nothing from
# them: it looks for groups in the spectra and latitudes of the catalogue itself, which needs 50
# sources or more, and names them afterwards.

groups = classify_sources(catalog, sky_map, unsupervised=True)
print("groups:", groups.meta["CLGROUPS"])

# %%
# Most sources get nearly the same probability both ways. A group is found only if it is large
# enough: a class of few sources joins another, and a sample of one class alone, or from the plane
# alone, is one group that has one name.

figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
points = axes.scatter(catalog["Prob_PSR"], groups["Prob_PSR"], 18, np.log10(counts), cmap="viridis")
axes.set(xlabel="Prob_PSR by simulated classes", ylabel="Prob_PSR by groups")
figure.colorbar(points, label="log10 of the counts")
figure

# %%
# What next
# ---------
# - For files: ``astro-unetloc classify gll_psch_v13.fit.gz --map map.fits -o classes.fits``.
# - Models for a fit follow the class: a pulsar gets a cut-off
#   (`~astro_unetloc.to_gammapy_models`).
# - How often classes are correct: :doc:`/class_performance`.
