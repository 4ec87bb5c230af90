"""
Many maps, and slices of time
=============================

A hundred maps need no loop of your own. One call searches them on all cores or on a cluster, goes
on where it was interrupted, and reports the maps that failed. The same machinery cuts an event list
into slices of time and measures light curves.
"""

# %%
# Some maps
# ---------
# Here are three simulated event lists of different parts of the sky, seven years above 10 GeV. Only
# the first half of the third is written, as if its download had stopped.

from pathlib import Path
from tempfile import mkdtemp
from textwrap import fill

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.coordinates import SkyCoord

from astro_unetloc import find_light_curves, find_sources_in, read_catalog, simulate_sky
from astro_unetloc.simulation.files import events_bytes

folder = Path(mkdtemp())
contents = {}
for number, longitude in enumerate((60, 150, 240)):
    center = SkyCoord(longitude * u.deg, 40 * u.deg, frame="galactic")
    sky_map, truth = simulate_sky(center=center, radius=8 * u.deg, rng=number)
    contents[f"field{number}.fits"] = events_bytes(sky_map.events, sky_map.energy_edges)

for name, content in contents.items():
    (folder / name).write_bytes(content)
broken = folder / "field2.fits"
broken.write_bytes(contents["field2.fits"][: broken.stat().st_size // 2])
maps = sorted(folder.glob("field*.fits"))

# %%
# One call for all
# ----------------
# `~astro_unetloc.find_sources_in` writes a catalogue and DS9 regions of each map into a folder, and
# returns what became of the searches. Options are those of `~astro_unetloc.find_sources`. Without
# ``n_cores=1`` it uses all cores, which a script must allow by the line
# ``if __name__ == "__main__":``.

searches = find_sources_in(maps, folder / "catalogues", n_cores=1)
searches["Map", "Status", "N_Sources", "Seconds"]

# %%
# A map that cannot be searched stops no other. Its row has the reason.

for row in searches[searches["Status"] == "failed"]:
    print(fill(f"{row['Map']}: {row['Reason']}", 75))

# %%
# Mend it and call again
# ----------------------
# Write the whole file and give the same call again. Finished maps are not searched a second time,
# since the folder holds the checksum of each file and the options of the run. A run that was killed
# is continued in the same way.

broken.write_bytes(contents["field2.fits"])
searches = find_sources_in(maps, folder / "catalogues", n_cores=1)
searches["Map", "Status", "N_Sources", "Seconds"]

# %%
# The sources of all maps are in one table, with the name of the map in the first column. Where maps
# overlap, a source has a row for each of them.

together = read_catalog(folder / "catalogues" / "catalogs.fits")
together["Map", "Source_Name", "Score", "Npred"][::5]

# %%
# Slices of time
# --------------
# Is a source variable? To see a known answer, give the photons of a field random times in seven
# years, and let one source flare: half of its photons move into ninety days of the fourth year.

center = SkyCoord(150 * u.deg, 40 * u.deg, frame="galactic")
sky_map, truth = simulate_sky(center=center, radius=8 * u.deg, rng=1)
rng = np.random.default_rng(0)
year = u.yr.to("s")
time = rng.uniform(0, 7 * year, sky_map.n_photons)

bright = truth[np.argsort(-truth["Npred"])[1]]
direction = SkyCoord(bright["GLON"], bright["GLAT"], frame="galactic").cartesian.xyz.value
near = sky_map.events.vectors @ direction > np.cos(np.radians(0.3))
flaring = near & (rng.random(len(near)) < 0.5)
time[flaring] = 3.5 * year + rng.uniform(0, 90 * 86400, flaring.sum())
print(f"{flaring.sum()} photons at {bright['Source_Name']} are a flare")

# %%
# Light curves need an event list with the column ``TIME`` and good time intervals. The files of
# gtselect and gtmktime have both.

from dataclasses import replace

photons = replace(sky_map.events, time=time)
content = events_bytes(photons, sky_map.energy_edges, good_times=[[0, 7 * year]])
(folder / "events.fits").write_bytes(content)

# %%
# `~astro_unetloc.find_light_curves` searches the whole list and each slice, and then fits all
# sources of the whole list in each slice, at fixed positions. A length such as ``"30d"`` sets the
# slices, or edges in seconds, or a file of good time intervals.

found = find_light_curves(
    folder / "events.fits", folder / "curves", time_bins="182.625d", n_cores=1
)
found.catalog["Source_Name", "Npred", "Variability", "Prob_Constant"]

# %%
# ``Prob_Constant`` is the probability that a constant source varies as much by chance. Choose a
# small limit if there are many sources: among a thousand constant ones, one is below 0.001.

variable = found.catalog[found.catalog["Prob_Constant"].filled(1) < 1e-3]
print("variable:", ", ".join(variable["Source_Name"]))

# %%
# The table ``curves`` has a row for each source and slice. Here is the variable source beside the
# brightest one, which is steady. Where a source is not significant, ``Npred_UL95`` is the upper
# limit of its counts.

names = [*variable["Source_Name"], found.catalog["Source_Name"][0]]
figure, panels = plt.subplots(len(names), sharex=True, figsize=(7, 5), layout="constrained")
for axes, name in zip(panels, names):
    curve = found.curves[found.curves["Source_Name"] == name]
    middle = (curve["TSTART"] + curve["TSTOP"]).to_value("yr") / 2
    axes.errorbar(middle, curve["Npred"], curve["Unc_Npred"], fmt="o")
    axes.set(title=name, xlabel="time (years)", ylabel="counts in half a year", ylim=(0, None))
figure

# %%
# A source may be seen in one slice alone. It is in the catalogue of that slice, such as
# ``events-008.fits``: match the catalogues of the slices with that of the whole list.
#
# The same by commands
# --------------------
#
# .. code-block:: console
#
#    $ astro-unetloc batch maps/*.fits -o catalogues
#    $ astro-unetloc batch events.fits -o curves --time-bins 30d
#
# The first prints the reasons of the maps that failed, and its exit code is then 3. The second also
# draws the most variable sources, ``lightcurve.png``.
#
# On a cluster
# ------------
# With the extra ``pip install "astro_unetloc[cluster]"`` the same call uses the workers of a dask
# cluster, here one that `dask-jobqueue <https://jobqueue.dask.org>`__ starts with SLURM:
#
# .. code-block:: python
#
#    from glob import glob
#
#    from dask.distributed import Client
#    from dask_jobqueue import SLURMCluster
#
#    from astro_unetloc import find_sources_in
#
#    if __name__ == "__main__":
#        cluster = SLURMCluster(cores=1, memory="4GB", walltime="04:00:00")
#        cluster.scale(jobs=100)
#        with Client(cluster) as client:
#            find_sources_in(glob("/data/maps/*.fits"), "catalogues", executor=client)
#
# The workers must see the maps under the same paths, but not the folder of the catalogues. A worker
# that dies is replaced, and its map is searched again. :doc:`/batch` has the times of large runs.
