"""Photons of simulated skies against those of Fermi-LAT: profiles, spectrum, pixels, sources.

    python benchmarks/compare_with_real.py ../shared/data [--template FILE] [--variant NAME]
        [--skies 4] [--seed 1]

Simulates whole skies above 10 GeV with the exposure of 3FHL, sorts their photons into the pixels
and energy bins of the 3FHL counts cube, and prints next to each other: counts per band in |b| and
longitude, the spectrum, the distribution of counts per pixel, the radial profile of the 20
brightest sources of the 2FHL events, and the number of bright sources. Sources above 1e-9
ph cm-2 s-1 are left out of the profiles on both sides: see benchmarks/fit_diffuse.py.
"""

from pathlib import Path

import healpy
import numpy as np
from astropy.io import fits
from fit_diffuse import BRIGHT, LAT_EDGES, PROFILES, bright_counts, cell_counts
from gammapy.maps import HpxGeom
from options import options_of

from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.table import degrees, galactic_vectors, numbers_of
from astro_unetloc.irf.exposure import read_exposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.photons import Photons
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.skymap import pixels_of
from astro_unetloc.simulation.diffuse import ENERGY_EDGES, interstellar
from astro_unetloc.simulation.population import draw_sources
from astro_unetloc.simulation.sky import draw_photons
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg

SPECTRUM_EDGES = np.geomspace(10.0, 2000.0, 18)  # those of the cube
PIXEL_EDGES = np.array([0, 1, 2, 3, 5, 8, 12, 20, 40, 80, 160, 1e9]) - 0.5
RADII_DEG = np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0])
N_BRIGHTEST, BACKGROUND_DEG = 20, 2.0
FLUXES = (4e-11, 1e-10)
PIXELS = pixels_of(HpxGeom(64, nest=False, frame="icrs"))


def compared_numbers(counts, energy, vectors, sources, source_photons, n_sources):
    """Numbers of one sky that are compared, by name.

    ``counts`` are those of cells without bright sources, ``sources`` (20, 3) and the vectors
    ``source_photons`` make the radial profile, ``n_sources`` are from `source_numbers`.
    """
    in_pixels = np.bincount(PIXELS.index(vectors), minlength=PIXELS.n_pixels)
    return {
        "profiles": PROFILES @ counts,
        "spectrum": np.histogram(energy, SPECTRUM_EDGES)[0],
        "pixels": np.histogram(in_pixels, PIXEL_EDGES)[0],
        "radial": radial_profile(sources, source_photons),
        "n_sources": n_sources,
    }


def radial_profile(sources, vectors):
    """Photons around sources (n, 3) within RADII_DEG over those within the last, background off."""
    within = np.zeros(len(RADII_DEG))
    for source in sources:
        away = separation_deg(vectors, source)
        ring = np.sum((away > RADII_DEG[-1]) & (away < BACKGROUND_DEG))
        density = ring / (BACKGROUND_DEG**2 - RADII_DEG[-1] ** 2)
        within += [np.sum(away < r) - density * r**2 for r in RADII_DEG]
    return within / within[-1]


def brightest_alone(vectors, flux, usable):
    """The brightest usable sources with no other of a tenth of their flux within 2 deg, (20, 3)."""
    kept = []
    for source in np.argsort(np.where(usable, flux, 0))[::-1]:
        away = separation_deg(vectors, vectors[source])
        if np.sum((away < BACKGROUND_DEG) & (flux > 0.1 * flux[source])) == 1:
            kept.append(vectors[source])
        if len(kept) == N_BRIGHTEST:
            return np.array(kept)
    raise ValueError(f"{N_BRIGHTEST} lonely sources were expected; got {len(kept)}")


def source_numbers(flux, latitude):
    """Sources above FLUXES at |b| > 10 deg and on the whole sky."""
    high = np.abs(latitude) > 10
    return np.array([np.sum(part & (flux > f)) for part in (high, True) for f in FLUXES])


def real_sky(folder, exposure):
    """The sky of 3FHL and, for the radial profile, of 2FHL."""
    sky_map = read_map(folder / "3fhl/fermi_3fhl_counts_cube_hpx.fits.gz")
    photons = Photons.concatenate(list(sky_map.photons(0)))
    counts = cell_counts(photons) - bright_counts(folder, exposure)
    known = read_catalog(folder / "catalogs/gll_psch_v13.fit.gz")
    numbers = source_numbers(numbers_of(known, "Flux"), degrees(known["GLAT"]))
    known = read_catalog(folder / "catalogs/gll_psch_v09.fit.gz")
    flux, usable = numbers_of(known, "Flux50"), degrees(known["GLAT"]) > 10
    alone = brightest_alone(galactic_vectors(known), flux, usable)
    events = read_map(folder / "2fhl/fermi_2fhl_events_north.fits.gz").events
    return compared_numbers(counts, photons.energy, photons.vectors, alone, events.vectors, numbers)


def simulated_sky(diffuse, exposure, rng):
    """One simulated sky, its photons spread inside the pixels of the real cube."""
    sources = draw_sources(rng)
    sky = draw_photons(diffuse, sources, exposure=exposure, psf=KingPSF(), rng=rng)
    vectors, energy = sky.photons.vectors, sky.photons.energy
    faint = (sky.origin < 0) | (sources.flux[sky.origin] <= BRIGHT)
    spread = PIXELS.points(PIXELS.index(vectors[faint]), *rng.random((2, faint.sum())))
    lat = lonlat_from_vectors(sources.vectors)[1]
    above = sources.spectra.flux(50.0, 2000.0)
    alone = brightest_alone(sources.vectors, above, (lat > 10) & (sources.radius_deg == 0))
    counts = cell_counts(Photons(spread, energy[faint]))
    n_sources = source_numbers(sources.flux, lat)
    return compared_numbers(counts, energy, vectors, alone, vectors[energy > 50], n_sources)


def print_comparison(real, found):
    """All numbers, simulated over real."""
    half = len(LAT_EDGES) // 2
    bands = [f"{a:.0f}-{b:.0f}" for a, b in zip(ENERGY_EDGES[:-1], ENERGY_EDGES[1:])]
    rows = [f"|b| {a:.0f}-{b:.0f}" for a, b in zip(LAT_EDGES[half:-1], LAT_EDGES[half + 1 :])]
    rows += [f"l {30 * n}-{30 * n + 30}" for n in range(12)]
    print("simulated / real photons; only where the real number is above 1000\n" + " " * 12, *bands)
    for name, a, b in zip(rows, found["profiles"], real["profiles"]):
        print(f"{name:>12}", *(f"{x / y:6.3f}" if y > 1000 else "     -" for x, y in zip(a, b)))
    seen = real["profiles"] > 1000
    off = np.abs(found["profiles"] / np.where(seen, real["profiles"], 1) - 1)[seen]
    print(f"{seen.sum()} values, within 10 %: {np.sum(off <= 0.1)}, largest {off.max():.3f}")
    print("spectrum     ", *(f"{x:.2f}" for x in found["spectrum"] / real["spectrum"]))
    print("counts/pixel ", *(f"{x + 0.5:.0f}" for x in PIXEL_EDGES[:-1]))
    print("  real       ", *real["pixels"])
    print("  simulated  ", *found["pixels"].round().astype(int))
    print("radius (deg) ", *RADII_DEG)
    print("  real       ", *(f"{x:.3f}" for x in real["radial"]))
    print("  simulated  ", *(f"{x:.3f}" for x in found["radial"]))
    print("sources above 4e-11 and 1e-10 at |b| > 10, and everywhere")
    print("  real       ", *real["n_sources"], "\n  simulated  ", *found["n_sources"].round(1))


def compare(folder, *, template=None, variant="P6V11", n_skies=4, seed=1):
    """The real sky and the mean of simulated ones."""
    exposure = read_exposure(folder / "3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz")
    rng = np.random.default_rng(seed)
    diffuse = interstellar(template, variant=variant)
    skies = [simulated_sky(diffuse, exposure, rng) for _ in range(n_skies)]
    mean = {name: np.mean([sky[name] for sky in skies], axis=0) for name in skies[0]}
    return real_sky(folder, exposure), mean


def low_energy_profile(folder, diffuse):
    """Expected over real photons of 2-20 GeV in |b|: UltracleanVeto PSF3, 413 weeks.

    Sources are those of 4FGL-DR3 where they are; nothing here was fitted to it.
    """
    with fits.open(folder / "diffuse/fermi_counts_2_20gev_ucv_psf3_nside128.fits.gz") as hdus:
        counts, exposure = (np.ravel(hdus[1].data[c]).astype(float) for c in ("COUNTS", "EXPOSURE"))
    expected = np.zeros(len(counts))
    area = healpy.nside2pixarea(128)
    for _, shape, per_bin in diffuse.maps([2.0, 20.0]):
        expected += healpy.ud_grade(shape, 128) * per_bin.sum() * exposure * area
    table = read_catalog(folder / "catalogs/4fgl_dr3_reduced.fits")
    # fluxes 4-6 are those of 1-3, 3-10 and 10-30 GeV; of the outer two the part inside, E^-2.3
    flux = sum(w * numbers_of(table, f"Flux{n}") for w, n in ((0.219, 4), (1, 5), (0.78, 6)))
    pixel = healpy.vec2pix(128, *galactic_vectors(table).T)
    sources = np.bincount(pixel, np.nan_to_num(flux) * exposure[pixel], minlength=len(counts))
    away = np.abs(healpy.pix2ang(128, np.arange(len(counts)), lonlat=True)[1])
    edges = [0, 2, 5, 10, 20, 40, 60, 90]
    sums = [np.histogram(away, edges, weights=w)[0] for w in (counts, expected, sources)]
    return edges, *sums


def main():
    """Compare and print."""
    parser = options_of(__doc__, template=Path, variant="P6V11", skies=4, seed=1)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    model = {"template": options.template, "variant": options.variant}
    print_comparison(*compare(options.folder, **model, n_skies=options.skies, seed=options.seed))
    diffuse = interstellar(**model)
    edges, counts, expected, sources = low_energy_profile(options.folder, diffuse)
    print("2-20 GeV, |b| from", *edges[:-1])
    print("  photons    ", *counts.astype(int))
    print("  expected   ", *((expected + sources) / counts).round(3))
    print("  of sources ", *(sources / counts).round(3))


if __name__ == "__main__":
    main()
