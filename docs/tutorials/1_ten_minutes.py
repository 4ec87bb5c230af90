"""
Ten minutes: find, look, match
==============================

From a counts map to a catalogue of point sources, a picture, and a match with another catalogue.
The map is a simulated one that ships with the package: 20 x 20 deg of the sky above 10 GeV, as the
Fermi-LAT sees it in seven years.
"""

# %%
# Read the map
# ------------
# A counts cube of gtbin, a HEALPix map, an event list or a gammapy ``Map`` all become a
# `~astro_unetloc.maps.skymap.SkyMap`.

from pathlib import Path

import astro_unetloc
from astro_unetloc import find_sources, match_catalogs, plot_sources, read_catalog, read_map

example = Path(astro_unetloc.__file__).parent / "data" / "example"
sky_map = read_map(example / "map.fits.gz")
print(sky_map)

# %%
# Find the sources
# ----------------
# Nothing else is needed: no background model, no exposure. On the command line this step is
# ``astro-unetloc map.fits.gz -o catalog.fits``.

catalog = find_sources(sky_map)
catalog["Source_Name", "GLON", "GLAT", "Score", "Sqrt_TS", "Npred", "Class"]

# %%
# ``Score`` is the probability that a source is real, so its sum is the number of real sources that
# the list is expected to hold. ``Npred`` are the counts of a source. :doc:`/columns` explains every
# column.

print(f"{catalog['Score'].sum():.1f} of {len(catalog)} sources are expected to be real")

# %%
# Look at them
# ------------
# Circles are coloured by the class of the source, given by the energies of its photons.

figure = plot_sources(sky_map, catalog)
figure

# %%
# Match them with another catalogue
# ---------------------------------
# Here it is the truth of the simulation; ``read_catalog`` takes the files of 3FHL, 4FGL and others
# as well.

truth = read_catalog(example / "truth.ecsv")
bright = truth[truth["Npred"] >= 8]
result = match_catalogs(catalog, bright)
print(result.summary())

# %%
# What next
# ---------
# - Write the catalogue, and regions for DS9: ``write_catalog(catalog, "catalog.fits",
#   "catalog.reg")``.
# - Fluxes and photon indices need the exposure: ``find_sources(map, exposure="exposure.fits")``.
# - More sources, of lower probability: ``find_sources(map, threshold=0.3)``, or ``purity=0.9``.
