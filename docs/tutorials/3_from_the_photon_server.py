"""
From the photon server to a catalogue
=====================================

Which photons to ask for, which cuts to make, which maps to bin, and what goes wrong on the way. The
commands are those of the `Fermitools <https://github.com/fermi-lat/Fermitools-conda>`__; they are
not run here. At the end, a simulated event list is searched as a list and as a cube.
"""

# %%
# Ask for the photons
# -------------------
# The `LAT data server <https://fermi.gsfc.nasa.gov/cgi-bin/ssc/LAT/LATDataQuery.cgi>`__ needs a
# position, a radius, times and energies. Take a radius one or two degrees larger than the field
# that you want to list, and ask for the photon data and the spacecraft file. For the whole sky, the
# weekly files of the Fermi Science Support Center are faster than the server.
#
# The energies decide which model is used: ``lat-10gev`` above about 6 GeV, ``lat-500mev`` below.
# Above 10 GeV the images are sharp and the background is low. From 0.5 GeV on there are more
# photons of soft sources such as pulsars, but sources of the Galactic plane blend. Photons below
# 0.5 GeV are not used.
#
# Select
# ------
# A selection has three parts: event class SOURCE and both event types, for which the models were
# trained; a zenith angle that keeps out the glow of the Earth; and good times.
#
# .. code-block:: console
#
#    $ ls *_PH??.fits > photons.txt
#    $ gtselect infile=@photons.txt outfile=selected.fits evclass=128 evtype=3 \
#        ra=187.28 dec=2.05 rad=12 tmin=INDEF tmax=INDEF emin=10000 emax=2000000 zmax=105
#    $ gtmktime scfile=SC00.fits filter="(DATA_QUAL>0)&&(LAT_CONFIG==1)" roicut=no \
#        evfile=selected.fits outfile=events.fits
#
# ``zmax=105`` is right above 1 GeV and ``zmax=100`` from 0.5 GeV on, as in 4FGL
# (`Abdollahi et al. 2020 <https://doi.org/10.3847/1538-4365/ab6bcb>`__). Energies of the Fermitools
# are in MeV.
#
# ``events.fits`` can be searched now: ``astro-unetloc events.fits -o catalog.fits``. A list needs
# no binning and gives the best positions. Bin it only if it is too large, or for another tool.
#
# Bin
# ---
#
# .. code-block:: console
#
#    $ gtbin evfile=events.fits scfile=NONE outfile=ccube.fits algorithm=CCUBE ebinalg=LOG \
#        emin=10000 emax=2000000 enumbins=16 nxpix=160 nypix=160 binsz=0.1 \
#        coordsys=GAL xref=289.96 yref=64.36 axisrot=0 proj=TAN
#
# - *Pixels* of 0.1 deg or less. Above 0.2 deg, sources are flagged and positions are worse.
# - *Energies* in seven bins a decade or more. The network has five energy bands, and a wide bin
#   that lies across the edge of a band is divided by an assumed spectrum.
# - *Projection* ``TAN`` for a field up to 20 deg wide, HEALPix for the whole sky. ``CAR`` is good
#   only near its equator: at a latitude of 80 deg, its pixels of 0.1 deg are 0.017 deg wide.
# - *Size*: the square must fit into the circle of gtselect. Beyond the circle nothing was observed,
#   and sources within 0.5 deg of its edge are less certain.
#
# The exposure
# ------------
# Sources are found without an exposure. It turns counts into fluxes and photon indices, and must
# cover the map; gtlike later needs about 10 deg more on each side.
#
# .. code-block:: console
#
#    $ gtltcube evfile=events.fits scfile=SC00.fits outfile=ltcube.fits dcostheta=0.025 \
#        binsz=1 zmax=105
#    $ gtexpcube2 infile=ltcube.fits cmap=none outfile=bexpmap.fits irfs=P8R3_SOURCE_V3 \
#        evtype=3 nxpix=120 nypix=120 binsz=0.3 coordsys=GAL xref=289.96 yref=64.36 \
#        axisrot=0 proj=TAN emin=10000 emax=2000000 enumbins=16
#    $ astro-unetloc events.fits --exposure bexpmap.fits -o catalog.fits -o catalog.png
#
# Use the same ``zmax`` in gtselect and gtltcube. If they differ, the fluxes are wrong, and no
# message warns of it.

# %%
# A simulated list
# ----------------
# `~astro_unetloc.simulate_sky` stands in for the server here, with the place and the size of the
# commands above. The keywords are those that gtselect writes: kind, unit and value of each cut.

from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from textwrap import fill

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.coordinates import SkyCoord

from astro_unetloc import find_sources, match_catalogs, read_map, simulate_sky
from astro_unetloc.simulation.files import events_bytes

center = SkyCoord(187.28 * u.deg, 2.05 * u.deg)
sky_map, truth = simulate_sky(center=center, radius=12 * u.deg, rng=2004)

duration = 7 * u.yr.to("s")
time = np.random.default_rng(0).uniform(0, duration, sky_map.n_photons)
photons = replace(sky_map.events, time=time)
cuts = {
    "DSTYP1": "ENERGY", "DSUNI1": "MeV", "DSVAL1": "10000:2000000",
    "DSTYP2": "POS(RA,DEC)", "DSUNI2": "deg", "DSVAL2": "CIRCLE(187.28,2.05,12)",
    "DSTYP3": "ZENITH_ANGLE", "DSUNI3": "deg", "DSVAL3": "0:105",
}  # fmt: skip
content = events_bytes(photons, sky_map.energy_edges, good_times=[[0, duration]], keywords=cuts)

folder = Path(mkdtemp())
(folder / "events.fits").write_bytes(content)
print(read_map(folder / "events.fits"))

# %%
# The same photons as a cube
# --------------------------
# gammapy can bin as gtbin does.

from gammapy.data import EventList
from gammapy.maps import Map, MapAxis

energy = MapAxis.from_energy_bounds("10 GeV", "2 TeV", nbin=16)
cube = Map.create(skydir=center, width=16, binsz=0.1, proj="TAN", frame="galactic", axes=[energy])
cube.fill_events(EventList.read(folder / "events.fits"))
cube.write(folder / "ccube.fits")
print(read_map(folder / "ccube.fits"))

# %%
# Search both
# -----------
# The cube is smaller than the circle of the list. With a ``region`` both list the same part of the
# sky.

region = (center, 8 * u.deg)
by_list = find_sources(folder / "events.fits", region=region)
by_cube = find_sources(folder / "ccube.fits", region=region)

matches = match_catalogs(by_cube, by_list)
print(f"{len(by_list)} sources in the list, {len(by_cube)} in the cube")
print(f"{len(matches.matches)} of them are the same")

# %%
# Both find the bright sources. They differ in faint ones, whose ``Score`` lies near the threshold
# and is a little higher in one list than in the other.

image = cube.sum_over_axes(keepdims=False).smooth("0.15 deg")
axes = image.plot(fig=plt.figure(figsize=(6, 5.5)), stretch="sqrt")
for name, catalog, marker in (("list", by_list, "wo"), ("cube", by_cube, "w+")):
    position = catalog["skycoord"].icrs
    world = axes.get_transform("icrs")
    axes.plot(position.ra, position.dec, marker, ms=11, mfc="none", transform=world, label=name)
axes.legend(facecolor="0.3", labelcolor="w")
figure = axes.figure
figure

# %%
# The positions of the list are better: above 10 GeV a pixel of 0.1 deg is almost as wide as the
# point-spread function.

rows, partners = matches.matches["catalog_index"], matches.matches["reference_index"]
ratio = by_cube["Conf_68_SemiMajor"][rows] / by_list["Conf_68_SemiMajor"][partners]
print(f"error radius in the cube over that in the list: {np.median(ratio):.2f}")

# %%
# What goes wrong
# ---------------
# Most mistakes are seen in what `~astro_unetloc.read_map` returns: number of photons, energy range,
# kind of map. Print it before anything else; ``astro-unetloc info FILE`` does the same.
#
# *GeV for MeV.* This cut is in GeV, but the header states MeV: no photon is left.

import warnings

from astropy.io import fits


def with_keywords(name, **keywords):
    """A copy of the event list with other keywords; read, with its warnings."""
    with fits.open(folder / "events.fits") as hdus:
        hdus["EVENTS"].header.update(keywords)
        hdus.writeto(folder / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        print(read_map(folder / name))
    for warning in caught:
        print(fill(f"Warning: {warning.message}", 75))


with_keywords("gev.fits", DSVAL1="10:2000")

# %%
# *A cut that was not made*, or one of another file: photons outside of the energies of the header
# are left out, with a warning.

with_keywords("cut.fits", DSVAL1="100000:2000000")

# %%
# *Longitude and latitude exchanged*, or a wrong frame: the circle is no place on the sky.

try:
    with_keywords("circle.fits", DSVAL2="CIRCLE(2.05,187.28,12)")
except ValueError as error:
    print(error)

# %%
# *No energies.* An image of gammapy or another program may not state them: give them, in GeV.

image = folder / "image.fits"
cube.sum_over_axes(keepdims=False).write(image)
print(read_map(image, energy_range=(10 * u.GeV, 2 * u.TeV)))

# %%
# *The wrong file.* An exposure, a livetime cube or a model cube in the place of the counts is
# refused by name. *Old data*: events of Pass 7, or one event type alone such as PSF3, are searched
# with a warning, since the scores were not calibrated for them.
#
# :doc:`/inputs` lists all kinds of input.
