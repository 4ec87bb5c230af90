"""Ceiling of the classes: a likelihood that knows the background and what pulsars and AGN emit.

    python benchmarks/classes_ceiling.py [--model FOLDER] [--seeds 2000 2001] [--years 7]
        [--spectra 1000] [--skies 100]

Searches simulated skies and classifies the real detections of the list once more, from what only a
simulation knows: the photons of the true source, at its true position and free of its neighbors;
the expected photons of the diffuse emission, from which those around the source are drawn; and the
population, as the sources of --skies drawn skies. The likelihood in rings and energy bins, counts
free, is averaged over --spectra sources of each class, which are drawn among those of similar
position and counts; the prior is the number of these. Prints the scores of the catalogue and of
this ceiling for the same sources, with 68 % intervals.
"""

from dataclasses import replace

import healpy
import numpy as np
from options import options_of

from astro_unetloc.catalog.table import degrees, numbers_of
from astro_unetloc.evaluation.classes import class_tables
from astro_unetloc.evaluation.predictions import search_sky
from astro_unetloc.evaluation.truth import join_matches
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.simulation.diffuse import expected_density, interstellar, perturb
from astro_unetloc.simulation.population import CLASSES, counted_band, draw_sources
from astro_unetloc.simulation.sky import count_photons, draw_photons, expected_photons
from astro_unetloc.sphere import lonlat_from_vectors, tangent_axes
from astro_unetloc.unet.model import load_model

RINGS_DEG = np.array([0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6, 2.4, 3.5])
BINS_PER_DECADE = 12  # five bins from 10 GeV to 2 TeV would lose 0.01 of AUC
N_ANGLES = 16  # directions in which the background of a ring is looked up
# Widths within which drawn sources are similar: in arsinh(|b| / deg), in degrees of longitude from
# the Galactic centre, and in ln(counts).
WIDTHS = 0.25, 15.0, 0.4
MIN_COUNTS = 2.0  # of drawn sources; fewer are never detected
AGN_FRACTION = 0.1  # of the AGN are drawn, and count ten times


class Population:
    """Drawn sources: their class, place, and fractions of photons in energy bins."""

    def __init__(self, energy_edges, exposure, n_skies, rng):
        band, parts = energy_edges[[0, -1]], []
        for _ in range(n_skies):
            sources = draw_sources(rng, band=counted_band(band), agn=AGN_FRACTION, extended=0.0)
            counts = expected_photons(sources, exposure, band)
            kept = counts > MIN_COUNTS
            parts.append((sources.select(kept), counts[kept]))
        self.source_class = np.concatenate([s.source_class for s, _ in parts])
        self.weight = np.where(self.source_class == 0, 1 / AGN_FRACTION, 1.0)
        position = lonlat_from_vectors(np.concatenate([s.vectors for s, _ in parts]))
        self.place = _place(*position, np.concatenate([counts for _, counts in parts]))
        detected = [
            np.concatenate([s.spectra.flux(*ends, weight=exposure.relative) for s, _ in parts])
            for ends in zip(energy_edges[:-1], energy_edges[1:])
        ]
        self.fraction = np.transpose(detected / np.sum(detected, axis=0))

    def similar(self, lon, lat, counts, n, rng):
        """Prior (3,) at a place, for counts, and fractions (3, n, n_energy) of spectra there."""
        away = (self.place - _place(lon, lat, counts)) / WIDTHS
        near = self.weight * np.exp(-0.5 * (away**2).sum(axis=1))
        prior = np.bincount(self.source_class, near, minlength=len(CLASSES))
        rows = [
            rng.choice(len(near), n, p=np.where(self.source_class == c, near, 0) / prior[c])
            for c in range(len(CLASSES))
        ]
        return prior, self.fraction[rows]


def _place(lon, lat, counts):
    """What ``WIDTHS`` are widths of, (..., 3)."""
    from_center = np.abs((lon + 180) % 360 - 180)
    return np.stack([np.arcsinh(np.abs(lat)), from_center, np.log(counts)], axis=-1)


class KnownSky:
    """Photons of the sources and background of the sky of a seed."""

    def __init__(self, band, seed, years):
        rng = np.random.default_rng(seed)  # in the order of `simulate_photons`
        diffuse = perturb(interstellar(), rng)
        sources = draw_sources(rng, band=counted_band(band))
        self.exposure, self.psf = SurveyExposure(years), KingPSF()
        self.sky = draw_photons(
            diffuse, sources, exposure=self.exposure, psf=self.psf, rng=rng,
            energy_range=tuple(band), with_diffuse=False,
        )  # fmt: skip
        n_bins = round(BINS_PER_DECADE * np.log10(band[1] / band[0]))
        self.edges = np.geomspace(*band, n_bins + 1)
        self.background = expected_density(diffuse, self.exposure, self.psf, self.edges)
        self.counts = count_photons(self.sky.origin, len(sources))
        self._order = np.argsort(self.sky.origin, kind="stable")
        self._last = np.cumsum(self.counts)
        energy = np.sqrt(self.edges[1:] * self.edges[:-1])
        self.in_rings = np.diff(self.psf.containment(RINGS_DEG[:, None], energy), axis=0)

    def around(self, row, rng):
        """Observed counts and expected background (n_rings, n_energy) around a source."""
        center, photons = self.sky.sources.vectors[row], self.sky.photons
        own = self._order[self._last[row] - self.counts[row] : self._last[row]]
        offset = np.degrees(
            2 * np.arcsin(np.linalg.norm(photons.vectors[own] - center, axis=1) / 2)
        )
        counts = np.histogram2d(offset, photons.energy[own], (RINGS_DEG, self.edges))[0]
        angle = 2 * np.pi * np.arange(N_ANGLES) / N_ANGLES
        east, north = tangent_axes(center[None])
        around = np.cos(angle)[:, None] * east + np.sin(angle)[:, None] * north
        radius = np.radians((RINGS_DEG[1:] + RINGS_DEG[:-1]) / 2)[:, None, None]
        places = np.cos(radius) * center + np.sin(radius) * around
        lon, lat = lonlat_from_vectors(places.reshape(-1, 3))
        pixels, weights = healpy.get_interp_weights(self.sky.nside, lon, lat, lonlat=True)
        density = np.einsum("kn,kne->ne", weights, self.background[pixels])
        density = density.reshape(len(radius), N_ANGLES, -1).mean(axis=1)
        background = density * (np.pi * np.diff(RINGS_DEG**2))[:, None]
        return counts + rng.poisson(background), background


def log_likelihood(counts, background, in_rings, fraction, start):
    """Largest log-likelihood (n,) of spectra with fractions (n, n_energy), their counts free."""
    seen = np.nonzero(counts)
    number, background, rate = counts[seen], background[seen], in_rings[seen] * fraction[:, seen[1]]
    total = fraction @ in_rings.sum(axis=0)
    source = np.full((len(fraction), 1), start)
    for _ in range(8):
        ratio = rate / (source * rate + background)
        gradient = (number * ratio).sum(axis=1) - total
        step = gradient / np.maximum((number * ratio**2).sum(axis=1), 1e-12)
        source = np.clip(source + step[:, None], source / 3, source * 3)
    return (number * np.log(source * rate + background)).sum(axis=1) - total * source[:, 0]


def ceiling(matches, known, population, n_spectra, rng):
    """The matches with the probabilities of the ceiling; NaN where a detection is not real."""
    catalog = matches.catalog.copy()
    rows, counts = np.asarray(catalog["Real_Row"]), numbers_of(catalog, "Npred")
    lon, lat = (degrees(matches.truth[name])[rows] for name in ("GLON", "GLAT"))
    probability = np.full((len(catalog), len(CLASSES)), np.nan)
    for number in np.flatnonzero((rows >= 0) & (counts > 0)):
        place = lon[number], lat[number], counts[number]
        prior, spectra = population.similar(*place, n_spectra, rng)
        observed = known.around(rows[number], rng)
        flat = spectra.reshape(-1, spectra.shape[-1])
        log_l = log_likelihood(*observed, known.in_rings, flat, counts[number])
        each = np.exp(log_l - log_l.max()).reshape(len(CLASSES), -1).mean(axis=1) * prior
        probability[number] = each / each.sum()
    for number, name in enumerate(CLASSES):
        catalog[f"Prob_{name}"] = probability[:, number]
    return replace(matches, catalog=catalog)


def report(name, matches):
    """Print the scores of the classes of joined matches."""
    for row in class_tables(matches)["class_scores"]:
        scores = "  ".join(
            f"{row[score]:.3f} ({row[f'{score}_Low']:.3f}-{row[f'{score}_High']:.3f})"
            for score in ("AUC", "Balanced_Accuracy", "Macro_Recall", "PSR_Recall")
        )
        print(
            f"{name:<10} {row['Sample']:<19} {row['N_AGN']:5d} {row['N_PSR']:4d} "
            f"{row['N_OTHER']:4d}  {scores}  {row['Calibration_Error']:.4f}  "
            f"{row['Expected_PSR']:6.1f} +- {row['Unc_Expected_PSR']:.1f}",
            flush=True,
        )


def main():
    """Search, classify with everything known, and print both."""
    options = options_of(
        __doc__, model=str, seeds=[2000, 2001], years=7.0, spectra=1000, skies=100
    ).parse_args()
    model, population, both = load_model(options.model), None, ([], [])
    for seed in options.seeds:
        matches = search_sky(model, seed, years=options.years)[1].select(model.threshold)
        known = KnownSky(model.band_edges[[0, -1]], seed, options.years)
        if not np.array_equal(known.counts, matches.truth["Counts"]):
            raise RuntimeError("expected the photons of the sky that was searched; got others")
        rng = np.random.default_rng(seed)
        if population is None:
            population = Population(known.edges, known.exposure, options.skies, rng)
        both[0].append(matches)
        both[1].append(ceiling(matches, known, population, options.spectra, rng))
    print(
        f"{'':<10} {'':<19}   AGN  PSR OTHER {'AUC':^19}  {'balanced accuracy':^19}  "
        f"{'macro recall':^19} {'PSR recall, purity .8':^19}  error   expected"
    )
    for name, parts in zip(("catalogue", "ceiling"), both):
        report(name, join_matches(parts))


if __name__ == "__main__":
    main()
