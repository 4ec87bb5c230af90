"""Containment of the error ellipses, position errors and pulls of the measurement.

    python benchmarks/measure_errors.py [--skies 3] [--seed 2000] [--years 7]
        [--template FILE] [--variant NAME] [--data ../shared/data]

Simulates whole skies above 10 GeV, searches and measures them with the exposure that detected the
photons, and prints in bins of expected photons and latitude the fractions of true sources inside
the 68 and 95 % ellipses, position errors beside those of a maximum-likelihood fit with known
background, spectra and neighbours and beside the Cramer-Rao bound, and the ratio and the pulls
(difference over error) of flux and index. With --data also fluxes and indices of 3FHL sources
around the Galactic centre and in the field of the Crab, from the photons of these fields.
"""

import time
from pathlib import Path

import healpy
import numpy as np
from fit_errors import half_width
from options import options_of

from astro_unetloc.catalog.columns import has_flag
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.table import degrees, numbers, numbers_of
from astro_unetloc.evaluation.comparison import normalized_offset
from astro_unetloc.evaluation.truth import match_truth
from astro_unetloc.irf.psf import KingPSF, make_profiles
from astro_unetloc.irf.spectra import PowerLawFractions, bin_fractions, fitted_index
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.measurement.data import Regions, gather_counts
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.measurement.likelihood import Likelihood, maximize
from astro_unetloc.pipeline import detect
from astro_unetloc.simulation.diffuse import ENERGY_EDGES
from astro_unetloc.simulation.sky import WHOLE_SKY, simulate_photons, truth_table

RANGE, FLUX_RANGE = (10.0, 2000.0), (10.0, 1000.0)
PHOTON_EDGES = (5, 8, 12, 20, 40, 100, np.inf)
COUNTED = 8  # sources with so many photons count


def diffuse_at(sky, vectors, edges):
    """Expected diffuse photons per square degree (n, n_energy) at vectors (n, 3)."""
    per_bin = sky.background[healpy.vec2pix(sky.nside, *vectors.T)]
    return per_bin @ bin_fractions(ENERGY_EDGES, edges)


def median_bound(profiles, expected, diffuse):
    """Median position error (n,) in degrees at the Cramer-Rao bound of isolated sources.

    The information on one coordinate is the integral of (ds/dx)^2 / (s + b) with s the counts of
    the source, ``expected`` (n, n_energy), and b those of the background, ``diffuse`` per deg2.
    """
    edges = np.append(0.0, np.geomspace(1e-3, 2.0, 120))
    middle, area = (edges[1:] + edges[:-1]) / 2, np.pi * np.diff(edges**2)
    information = np.zeros(len(expected))
    for energy_bin in range(expected.shape[1]):
        density, slope, _ = profiles.density(np.full(len(middle), energy_bin), middle**2)
        change2 = 2 * (slope * middle * density) ** 2  # averaged over the angle
        photons, background = expected[:, energy_bin, None], diffuse[:, energy_bin, None]
        information += (area * photons**2 * change2 / (photons * density + background)).sum(axis=1)
    return np.sqrt(2 * np.log(2) / information)


class KnownBackground:
    """A known background, with the members of `LocalBackground` that a fit uses."""

    def __init__(self, pairs, npred):
        self.pairs, self.npred = pairs, npred

    def step(self, fraction):
        """The same background."""
        return self


def oracle_fit(sky, sky_map, exposure, photons, wanted):
    """Offsets of maximum-likelihood positions with all else known, and the bound, in degrees.

    ``photons`` (n,) are expected of each true source; rows are returned of the ``wanted`` ones.
    """
    used = np.union1d(np.flatnonzero((photons > 1) & (sky.sources.radius_deg == 0)), wanted)
    counts = gather_counts(sky_map, RANGE)
    profiles = make_profiles(KingPSF(), counts.energy_edges)
    core = np.maximum(profiles.containment_radius(0.95), 0.4)
    vectors = sky.sources.vectors[used]
    regions = Regions(counts, vectors, 2.0, core, np.full(len(used), 2.0))
    spectrum = PowerLawFractions(counts.energy_edges, exposure.relative)
    likelihood = Likelihood(regions, profiles, spectrum)
    pairs = regions.pairs
    density = diffuse_at(sky, counts.vectors[pairs.bin], counts.energy_edges)
    background = KnownBackground(pairs, density[np.arange(len(pairs)), pairs.energy_bin])
    zero, spectra = np.zeros(len(used)), sky.sources.spectra.select(used)
    index = fitted_index(spectra, *RANGE, weight=exposure.relative)
    parameters = np.stack([zero, zero, photons[used], index], axis=1)
    options = {"neighbors": np.zeros((0, 2), int), "free": [0, 1]}
    state = maximize(likelihood, background, parameters, n_rounds=20, **options)[0]
    offset = np.hypot(*state.parameters[:, :2].T)
    expected = photons[used, None] * spectrum.fractions(index)
    bound = median_bound(profiles, expected, diffuse_at(sky, vectors, counts.energy_edges))
    row = np.searchsorted(used, wanted)
    return offset[row], bound[row]


def measured_sky(seed, *, footprint=WHOLE_SKY, **options):
    """Numbers of the detections of a simulated sky that match a point source, by name.

    Also returns the seconds of the measurement and the number of sources measured.
    """
    sky, exposure = simulate_photons(rng=seed, with_background=True, **options)
    events = sky.photons.select(footprint.covers(sky.photons.vectors))
    edges = np.array(RANGE)
    sky_map = SkyMap(events=events, footprint=footprint, energy_edges=edges, exposure=exposure)
    run = detect(sky_map, measure=False)
    started = time.perf_counter()
    result = measure_sources(run.sources, sky_map, band_edges=RANGE, flux_range=FLUX_RANGE)
    seconds = time.perf_counter() - started
    truth = truth_table(sky.sources, exposure, band=RANGE)
    matches = match_truth(result[~has_flag(result, "fit_failed")], truth)
    rows = np.flatnonzero(matches.true_row >= 0)
    true, photons = matches.true_row[rows], numbers(truth["Npred"])
    oracle, bound = oracle_fit(sky, sky_map, exposure, photons, true)
    names = ("Flux", "Unc_Flux", "Spectral_Index", "Unc_Spectral_Index")
    flux, flux_err, index, index_err = (numbers_of(matches.catalog, n)[rows] for n in names)
    spectra = sky.sources.spectra.select(true)
    true_flux = spectra.flux(*FLUX_RANGE)
    true_index = fitted_index(spectra, *RANGE, weight=exposure.relative)
    return {
        "photons": photons[true], "latitude": matches.true_latitude[true],
        "offset": degrees(matches.catalog["Offset"])[rows], "oracle": oracle, "bound": bound,
        "held_68": normalized_offset(matches, rows, true, 68) < 1,
        "held_95": normalized_offset(matches, rows, true, 95) < 1,
        "flux_ratio": flux / true_flux, "flux_pull": (flux - true_flux) / flux_err,
        "index_pull": (index - true_index) / index_err,
    }, (seconds, len(result))  # fmt: skip


def print_table(matched):
    """Containment, offsets and pulls in bins of latitude and photons."""
    print("|b|     photons      n  held by 68 % 95 % | median offset  oracle   bound |"
          " flux/true  pull width | index pull width")  # fmt: skip
    away, bins = matched["latitude"], [*zip(PHOTON_EDGES[:-1], PHOTON_EDGES[1:]), (COUNTED, np.inf)]
    for name, inside in (("all", away >= 0), ("|b|>10", away > 10), ("|b|<10", away <= 10)):
        for low, high in bins:
            rows = inside & (matched["photons"] >= low) & (matched["photons"] < high)
            if rows.sum() < 10:
                continue
            m = {name: values[rows] for name, values in matched.items()}
            middle = {name: np.nanmedian(values) for name, values in m.items()}
            widths = {name: half_width(m[name]) for name in ("flux_pull", "index_pull")}
            print(
                f"{name:7} {low:4}-{high:<4g} {rows.sum():6}      {m['held_68'].mean():.3f} "
                f"{m['held_95'].mean():.3f} |        {middle['offset']:.4f}  "
                f"{middle['oracle']:.4f}  {middle['bound']:.4f} |     {middle['flux_ratio']:.3f} "
                f"{middle['flux_pull']:5.2f} {widths['flux_pull']:5.2f} |      "
                f"{middle['index_pull']:5.2f} {widths['index_pull']:5.2f}"
            )


def real_fields(folder):
    """Sources of 3FHL found in the public fields: name, offset, then `values_of` ours and 3FHL."""
    reference = read_catalog(folder / "catalogs/gll_psch_v13.fit.gz")
    gc = folder / "gc/fermi-3fhl-gc-"
    files = {name: f"{gc}{name}-cube.fits.gz" for name in ("exposure", "psf")}
    crab = folder / "crab/Fermi-LAT-3FHL_datasets.yaml"
    for path, parts in ((f"{gc}events.fits.gz", files), (crab, {})):
        catalog = detect(path, **parts).catalog
        nearest, away, _ = catalog["skycoord"].match_to_catalog_sky(reference["skycoord"])
        for row, known, off in zip(catalog, reference[nearest], away.deg):
            if off < 0.2 and not known["Extended"]:
                ours, theirs = values_of(row, "Spectral_Index"), values_of(known, "PowerLaw_Index")
                yield known["Source_Name"], off, *ours, *theirs


def values_of(row, index):
    """Flux, its error, index, its error of a row of a catalogue."""
    names = ("Flux", "Unc_Flux", index, f"Unc_{index}")
    return [float(numbers(row[n])) for n in names]


def print_real(rows):
    """One line for each source, then medians."""
    print("3FHL source         offset  flux (1e-10)            3FHL           ratio"
          "   index       3FHL")  # fmt: skip
    for name, off, f, fe, g, ge, f3, fe3, g3, ge3 in rows:
        print(
            f"{name:18} {off:6.3f}  {f * 1e10:6.2f} +- {fe * 1e10:4.2f}  {f3 * 1e10:6.2f} +- "
            f"{fe3 * 1e10:4.2f}  {f / f3:6.2f}  {g:5.2f} +- {ge:4.2f}  {g3:5.2f} +- {ge3:4.2f}"
        )
    ratio = np.array([row[2] / row[6] for row in rows])
    index = np.array([row[4] - row[8] for row in rows])
    print(f"{len(rows)} sources, median flux ratio {np.median(ratio):.3f}, "
          f"median difference of indices {np.nanmedian(index):+.2f}")  # fmt: skip


def main():
    """Simulate, measure and print."""
    options = options_of(
        __doc__, skies=3, seed=2000, years=7.0, template=Path, variant="P6V11", data=Path
    ).parse_args()
    sky = {name: getattr(options, name) for name in ("years", "template", "variant")}
    seeds = range(options.seed, options.seed + options.skies)
    parts, times = zip(*(measured_sky(seed, **sky) for seed in seeds))
    print_table({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    seconds, number = np.sum(times, axis=0)
    print(f"{2000 * seconds / number:.1f} s for 2000 sources ({number:.0f} measured)")
    if options.data:
        print_real(list(real_fields(options.data)))


if __name__ == "__main__":
    main()
