"""
Train your own model
====================

The models that ship begin at 0.5 and 10 GeV. For other energies, simulate skies, train a network on
them, and search with it. Here all of it is done in miniature, in about two minutes; the commands of
a real training, which takes half an hour, stand at the end.
"""

# %%
# A patch set
# -----------
# A network learns from patches of simulated skies, each with a mask that marks the true sources.
# Every patch has its own exposure, energy bins and coverage, so that the network works for many
# kinds of maps.
#
# Choose the edges of the energy bands, here of three bands from 30 GeV on. Skies whose seed is a
# multiple of five are kept for validation: of the seeds 4, 5 and 6 it is the sky of 5.

from pathlib import Path
from tempfile import mkdtemp

import astropy.units as u
import h5py
import matplotlib.pyplot as plt
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table

from astro_unetloc import calibrate, evaluate, find_sources, simulate_sky, train
from astro_unetloc.training.make import make_patch_set

folder = Path(mkdtemp())
bands = (30.0, 60.0, 150.0, 2000.0)
make_patch_set(
    folder / "set.h5", n_skies=3, patches_per_sky=80, first_seed=4, band_edges=bands
)  # fmt: skip

# %%
# Look at what the network will see: the photons of one patch, 10 deg wide, and the mask. A source
# is marked if it has three photons or more and is significant above the background.

with h5py.File(folder / "set.h5") as file:
    row = np.argmax(file["mask"][:].sum(axis=(1, 2, 3)))
    counts, mask = file["counts"][row].sum(axis=-1), file["mask"][row, ..., 0]

figure, panels = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for axes, image, title in zip(panels, (np.minimum(counts, 5), mask), ("photons", "mask")):
    axes.imshow(image, origin="lower", cmap="inferno")
    axes.set(title=title, xticks=[], yticks=[])
figure

# %%
# Train
# -----
# `~astro_unetloc.train` writes a model folder. The network of this page is far smaller than the
# shipped ones (``widths``). If the training is interrupted, the same call goes on after the last
# epoch.

model = train(
    folder / "set.h5", folder / "my_model", widths=(8, 12, 16), epochs=8,
    steps_per_epoch=50, learning_rate=5e-3, verbose=0,
)  # fmt: skip

# %%
# The loss of the validation sky, on which the network was not trained, should fall with that of
# the training skies. If it rises while the other falls, simulate more skies.

history = Table.read(folder / "my_model" / "training" / "history.csv")

figure, axes = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
axes.semilogy(history["epoch"] + 1, history["loss"], "o-", label="training skies")
axes.semilogy(history["epoch"] + 1, history["val_loss"], "o-", label="validation sky")
axes.set(xlabel="epoch", ylabel="loss per pixel")
axes.legend()
figure

# %%
# Use it
# ------
# ``model=`` takes the folder, or ``--model my_model`` on the command line. Search a part of a sky
# that was not used so far, and keep all candidates.

center = SkyCoord(80 * u.deg, 45 * u.deg, frame="galactic")
sky_map, truth = simulate_sky(
    center=center, radius=35 * u.deg, energy_range=(bands[0], bands[-1]), rng=2001
)
candidates = find_sources(sky_map, model=folder / "my_model", threshold=0.0)
candidates["Source_Name", "Score", "Sqrt_TS", "Npred"][:5]

# %%
# Evaluate it
# -----------
# The shipped ``lat-10gev`` can search this map too, in those of its bands that hold photons. It is
# the baseline for the new model. Average precision compares the two whatever their thresholds are;
# :doc:`8_evaluate_and_compare` explains it.

baseline = find_sources(sky_map, model="lat-10gev", threshold=0.0)
scores = {"my_model": evaluate(candidates, truth), "lat-10gev": evaluate(baseline, truth)}
print(f"{scores['my_model'].n_true} true sources")
for name, result in scores.items():
    print(f"{name}: average precision {result.average_precision:.2f}")

# %%
# Calibrate the score
# -------------------
# The ``Score`` of a new model is the output of its network. It ranks the candidates, but as a
# probability it may be wrong: compare the sum of the scores with the number of real candidates.
# `~astro_unetloc.calibrate` corrects this: it searches further skies, fits a regression to their
# candidates, and writes it into ``card.json`` of the model. Its skies have seeds from 1000 on:
# those of training sets begin at 0, those of evaluations at 2000. Here one sky must do.

from astro_unetloc.evaluation import match_truth


def compare(name, catalog):
    """Print the sum of Score and the number of real candidates."""
    is_real = match_truth(catalog, truth).is_real
    print(f"{name}: sum of Score {catalog['Score'].sum():.1f}, real {is_real.sum()}")


compare("before", candidates)
model = calibrate(folder / "my_model", seeds=[1003], energies=[30], years=[7])
compare("after", find_sources(sky_map, model=model, threshold=0.0))

# %%
# The model lists ``Score`` of 0.8 or more from now on, as the shipped ones do. Its sources have no
# classes: those need the spectra of the kinds of sources that the model finds. The script
# ``benchmarks/fit_classes.py`` in the repository of the package adds them (``--model my_model
# --write``).
#
# The real commands
# -----------------
# Sixty skies of 400 patches are simulated in a few minutes with two workers. A network of the
# shipped size then trains in about half an hour on two cores, if memory is kept between the batches
# (:doc:`/model_training` has the settings); on a GPU add ``--batch-size 64 --mixed-precision``. The
# command then calibrates the model: it searches five skies, each with two exposures and above three
# energies, in a few minutes.
#
# .. code-block:: console
#
#    $ astro-unetloc simulate -o set.h5 --bands 30,60,150,2000 --skies 60 --workers 2
#    $ astro-unetloc train set.h5 -o my_model --epochs 20
#    $ astro-unetloc evaluate --model my_model --against lat-10gev --skies 2 -o scores
#    $ astro-unetloc map.fits --model my_model -o catalog.fits
#
# With five bands the training can start from a shipped network and needs fewer epochs:
# ``--initial`` takes the file ``unet.keras`` in the folder ``load_model("lat-10gev").folder``.
#
# Simulations reach from 0.3 to 2000 GeV. Below 10 GeV a patch takes about ten times as long.
# :doc:`/datasets` describes the patch set, and how to make it on a cluster or from the skies of
# another simulator.
