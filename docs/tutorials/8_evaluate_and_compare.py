"""
Evaluate and compare
====================

How good is a list of sources? On a simulated sky the answer is known. This page counts what was
found and what was missed, draws completeness against purity, checks the scores, and compares two
lists of the same sky.
"""

# %%
# A field whose truth is known
# ----------------------------
# `~astro_unetloc.simulate_sky` returns the photons and the sources that emitted them, here of a
# cone of 25 deg, seven years above 10 GeV. The seed must be one on which nothing was trained or
# tuned: 2000 or more for the models that ship.

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.coordinates import SkyCoord

from astro_unetloc import evaluate, find_sources, simulate_sky

center = SkyCoord(80 * u.deg, 45 * u.deg, frame="galactic")
sky_map, truth = simulate_sky(center=center, radius=25 * u.deg, rng=2001)
print(f"{sky_map.n_photons} photons, {len(truth)} true sources")
for n in (1, 3, 8, 30):
    print(f"  {np.sum(truth['Npred'] >= n):3d} with {n} expected photons or more")

# %%
# Most of the true sources are too faint for any list. A rule has to state which of them count.
#
# What counts as found
# --------------------
# A true source counts if it is a point and 8 photons or more are *expected* from it. The detections
# come in turn, the best ``Score`` first, and each takes the nearest true source within 0.3 deg that
# is still free.
#
# A detection of a source of 3 to 8 expected photons, or inside an extended source, is ignored: it
# is neither a success nor an error. Every other detection without a partner is a false positive.
#
# Search with a threshold of zero to have all candidates, and choose thresholds afterwards.

candidates = find_sources(sky_map, threshold=0.0)
scores = evaluate(candidates[candidates["Score"] >= 0.8], truth)
print(scores.summary())
print(f"{scores.correct.sum()} of {scores.n_true} true sources are found")
print(f"{np.sum(~scores.correct)} detections are false positives, {scores.n_ignored} are ignored")

# %%
# *Completeness* is the fraction of the true sources that are found, *purity* the fraction of the
# detections that are true sources. State the numbers with the fractions: a reader can then compute
# the uncertainty.
#
# A false positive need not be a fluctuation. Its source may be real, but expected to give fewer
# than 3 photons: the next cell counts such detections.

from astro_unetloc.evaluation import match_truth

matches = match_truth(candidates, truth)
listed = matches.select(0.8)
wrong = listed.has_status("false positive")
print(f"{np.sum(wrong & listed.is_real)} of {np.sum(wrong)} false positives have a real source")
listed.catalog["Source_Name", "Score", "Npred", "Status", "Is_Real"][wrong]

# %%
# `~astro_unetloc.evaluation.match_truth` makes the table behind the scores: one row for each
# detection, with its ``Status`` and the row of its true source. Use it to look at single errors.
#
# Completeness against purity
# ---------------------------
# A lower threshold finds more sources and makes more errors. Each point of the curve is a
# threshold. The area under it, the *average precision*, ranks finders without choosing one.

result = matches.evaluation()
n_correct = np.cumsum(result.correct)
completeness = n_correct / result.n_true
purity = n_correct / np.arange(1, len(n_correct) + 1)

figure, axes = plt.subplots(figsize=(5.5, 4), layout="constrained")
axes.plot(completeness, purity, label=f"average precision {result.average_precision:.3f}")
axes.plot(scores.completeness, scores.purity, "o", color="C1", label="Score of 0.8 or more")
axes.set(xlabel="completeness", ylabel="purity", xlim=(0, 1), ylim=(0, 1.03))
axes.legend(loc="lower left")
figure

# %%
# The number to quote for a catalogue is the completeness at a purity that you would accept.

reached, threshold = result.completeness_at(0.9)
print(f"purity 0.9 is kept down to Score {threshold:.2f}, where completeness is {reached:.3f}")

# %%
# Is Score a probability?
# -----------------------
# ``Score`` is the probability that a candidate is real, and real means any true source, faint ones
# too, that gave at least a third of the measured counts. If it is calibrated, of all candidates
# with a score of 0.7 seven in ten are real, and the sum of the scores is the number of real ones.

from astro_unetloc.evaluation.metrics import reliability

table = reliability(matches)
table = table[(table["Sky"] == "all sky") & (table["N"] > 0)]

figure, axes = plt.subplots(figsize=(5.5, 4), layout="constrained")
real = table["Fraction_Real"]
bars = [real - table["Fraction_Real_Low"], table["Fraction_Real_High"] - real]
axes.errorbar(table["Mean_Score"], real, bars, fmt="o")
axes.plot([0, 1], [0, 1], "--", color="0.5")
axes.set(xlabel="mean Score of the candidates", ylabel="fraction that is real")
figure

# %%
print(f"sum of Score {listed.catalog['Score'].sum():.1f}, real {np.sum(listed.is_real)}")

# %%
# On the dashed line scores are probabilities. One field has few candidates in each range, as the
# error bars show: to judge a calibration, take whole skies.
#
# Compare two lists
# -----------------
# Two lists of one sky can be compared, whichever programs made them, if both have positions and a
# ``Score`` that ranks their rows. Here the network is compared with the scan, a search without a
# network.
#
# An easy field is easy for both lists. The *paired bootstrap* therefore draws patches of the sky
# again and again, the same ones for both, and computes the difference each time. The bars hold 95 %
# of the differences, and a point is open where zero is among them.

from astro_unetloc.evaluation.comparison import compare
from astro_unetloc.evaluation.figures import draw
from astro_unetloc.evaluation.truth import grid_tiles


def matched(catalog):
    """Matches of a catalogue with the truth, each with its patch of the sky."""
    return match_truth(catalog, truth, tile=grid_tiles("field"))


network = matched(candidates)
scan = matched(find_sources(sky_map, threshold=0.0, finder="scan"))
difference = compare(network, scan, thresholds=(0.8, 0.8))
figure = draw("comparison", difference[difference["Sky"] == "all sky"])
figure

# %%
# All points are open: this field does not decide which of the two finds more. A difference that it
# does decide is that of leaving out the likelihood fit, which refines the positions.

rough = matched(find_sources(sky_map, threshold=0.0, measure=False))
difference = compare(network, rough, thresholds=(0.8, 0.8))
figure = draw("comparison", difference[difference["Sky"] == "all sky"])
figure

# %%
# Choose the number to compare before you look. Of many numbers, some differ by chance: one in
# twenty on average, if the two lists are equally good.
#
# The same by commands
# --------------------
# Simulate, find and score a field, with a second catalogue to compare with:
#
# .. code-block:: console
#
#    $ astro-unetloc simulate -o sky.fits --truth truth.fits --width 40 --seed 2000
#    $ astro-unetloc sky.fits -o network.fits --threshold 0
#    $ astro-unetloc sky.fits -o scan.fits --threshold 0 --finder scan
#    $ astro-unetloc evaluate --catalog network.fits --truth truth.fits --against scan.fits \
#        --threshold 0.8 -o scores
#
# Score a model on two whole skies, with another model to compare with:
#
# .. code-block:: console
#
#    $ astro-unetloc evaluate --skies 2 --seed 2000 --against my_model -o scores
#
# Open ``scores/index.html``: it has the figures of this page and more, such as completeness by
# flux, latitude and class. :doc:`/evaluation` explains them.
