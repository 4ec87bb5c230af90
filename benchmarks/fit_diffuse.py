"""Shapes and intensities of the diffuse emission, fitted to the photons of 3FHL.

    python benchmarks/fit_diffuse.py ../shared/data [--keep-shapes]

Fits the shape parameters of `astro_unetloc.simulation.diffuse.Galaxy` (not with --keep-shapes) to
counts of 10-47.5 GeV in cells of 10 deg longitude and growing latitude, then the intensities of
`astro_unetloc.simulation.diffuse` in every energy bin. The mean of 100 simulated populations (seed
1) is part of the model, so that the whole simulated sky has the photons of the real one. Sources
above 1e-9 ph cm-2 s-1 are left out on both sides: no population has them at their positions.
"""

from dataclasses import fields, replace
from pathlib import Path

import healpy
import numpy as np
from gammapy.maps import HpxGeom
from options import options_of
from scipy.optimize import least_squares, nnls
from scipy.sparse import coo_matrix, csr_matrix

from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.table import galactic_vectors, numbers_of
from astro_unetloc.irf.exposure import read_exposure
from astro_unetloc.irf.spectra import power_laws
from astro_unetloc.maps.read import read_map
from astro_unetloc.maps.skymap import pixels_of
from astro_unetloc.simulation.diffuse import (
    ENERGY_EDGES,
    TEMPLATE_SETS,
    Galaxy,
    galaxy_shapes,
    read_template_shapes,
    tilt,
)
from astro_unetloc.simulation.population import draw_sources
from astro_unetloc.sphere import lonlat_from_vectors

NSIDE = 256
LAT_EDGES = np.array([0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 90.01])
LAT_EDGES = np.concatenate([-LAT_EDGES[:0:-1], LAT_EDGES])
N_LON = 36
BANDS = np.sqrt(ENERGY_EDGES[1:] * ENERGY_EDGES[:-1])
# Relative error of a smooth model in one cell: a real cell has clouds and bright sources.
TOLERANCE = 0.05
BRIGHT = 1e-9  # ph cm-2 s-1 above 10 GeV
N_DISC, N_LOCAL = 24, 6
LINEAR = ("disc_profile", "local_profile")


def cell_of(vectors):
    """Cell of each direction: longitude within latitude."""
    lon, lat = lonlat_from_vectors(vectors)
    row = np.digitize(lat, LAT_EDGES) - 1
    return row * N_LON + np.minimum((lon / 360 * N_LON).astype(int), N_LON - 1)


N_CELLS = (len(LAT_EDGES) - 1) * N_LON


def _profile_rows():
    """Matrix (24, n_cells): the sums of cells that make the \\|b\\| and the longitude profile."""
    number = np.arange(N_CELLS)
    row, column = number // N_LON, number % N_LON
    half = (len(LAT_EDGES) - 1) // 2
    away = np.where(row < half, half - 1 - row, row - half)
    rows = [away == n for n in range(half)] + [column // 3 == n for n in range(12)]
    return np.array(rows, dtype=float)


PROFILES = _profile_rows()


def solve(parts, data, error):
    """Amplitudes of components (n, n_cells) that fit cells and their profiles; and misfits.

    The profiles are held to 1.5 %, far better than cells, which have clouds.
    """
    sums = PROFILES @ data
    error = np.concatenate([error, np.sqrt(sums + 1 + (0.015 * sums) ** 2)])
    matrix = np.concatenate([parts.T, PROFILES @ parts.T])
    target = np.concatenate([data, sums])
    matrix = matrix / error[:, None]
    size = np.linalg.norm(matrix, axis=0)  # photons per intensity of 1 are too large for the solver
    amplitude = nnls(matrix / size, target / error)[0] / size
    return amplitude, target / error - matrix @ amplitude


def cell_counts(photons):
    """Photons in cells and energy bins, shape (n_cells, n_bins)."""
    energy_bin = np.digitize(photons.energy, ENERGY_EDGES) - 1
    inside = (energy_bin >= 0) & (energy_bin < len(BANDS))
    counts = np.zeros((N_CELLS, len(BANDS)))
    np.add.at(counts, (cell_of(photons.vectors[inside]), energy_bin[inside]), 1)
    return counts


def source_counts(vectors, spectra, exposure):
    """Expected photons of sources, shape (n_cells, n_bins)."""
    bins = zip(ENERGY_EDGES[:-1], ENERGY_EDGES[1:])
    flux = np.stack([spectra.flux(low, high) for low, high in bins], axis=1)
    counts = np.zeros((N_CELLS, len(BANDS)))
    np.add.at(counts, cell_of(vectors), flux * exposure.at(vectors, BANDS))
    return counts


def bright_counts(folder, exposure):
    """Expected photons of the brightest sources of 3FHL, which no population places there."""
    table = read_catalog(folder / "catalogs/gll_psch_v13.fit.gz")
    table = table[numbers_of(table, "Flux") > BRIGHT]
    index = np.clip(numbers_of(table, "PowerLaw_Index"), 1.2, 6)
    spectra = power_laws(numbers_of(table, "Flux"), index)
    return source_counts(galactic_vectors(table), spectra, exposure)


def population_counts(exposure, n_populations=100):
    """Mean expected photons of simulated populations, evened out around the plane."""
    rng = np.random.default_rng(1)
    total = 0
    for _ in range(n_populations):
        sources = draw_sources(rng)
        sources = sources.select(sources.flux <= BRIGHT)
        mirror = sources.vectors * rng.choice([-1, 1], (len(sources), 3)) ** [0, 1, 1]
        total = total + source_counts(mirror, sources.spectra, exposure)
    return total / n_populations


class Cells:
    """Sums over cells; the photons of a pixel of the 3FHL cube are spread over its area."""

    def __init__(self, nside):
        vectors = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2)), axis=-1)
        fine = np.arange(12 * 512**2)
        cube = pixels_of(HpxGeom(64, nest=False, frame="icrs"))
        inside = np.stack(healpy.pix2vec(512, fine), axis=-1)
        pixel, cell = cube.index(inside), cell_of(inside)
        spread = coo_matrix((np.ones(len(fine)), (cell, pixel)), (N_CELLS, cube.n_pixels)).tocsr()
        self.spread = csr_matrix(spread / spread.sum(axis=0))
        self.pixel, self.n_pixels = cube.index(vectors), cube.n_pixels

    def sums(self, values):
        """Sums of values on HEALPix pixels (n_pixels,), shape (n_cells,)."""
        return self.spread @ np.bincount(self.pixel, values, minlength=self.n_pixels)


def node_shapes(galaxy, nside):
    """Components of a galaxy, one for each node of the disc and of the local gas."""

    def gas(**changes):
        none = {"disc_profile": (0.0,) * N_DISC, "local_profile": (0.0,) * N_LOCAL}
        changed = replace(galaxy, **(none | changes))
        return galaxy_shapes(changed, nside, normalized=False)["GAS"]

    shapes = {f"disc{n}": gas(disc_profile=tuple(np.eye(N_DISC)[n])) for n in range(N_DISC)}
    for n in range(N_LOCAL):
        shapes[f"local{n}"] = gas(local_profile=tuple(np.eye(N_LOCAL)[n]))
    rest = galaxy_shapes(galaxy, nside)
    shapes |= {name: rest[name] for name in ("IC", "BUBBLES", "LOOP")}
    shapes["ISOTROPIC"] = np.ones(12 * nside**2)
    return shapes


def lowest_bins(counts, population, unsure, rate):
    """Photons of the diffuse emission in the two lowest bins, their errors and the exposure."""
    data, known, unsure = (v[:, :2].sum(axis=1) for v in (counts, population, unsure))
    # clouds and point sources make cells scatter more than photons do
    error = np.sqrt(data + 1 + (TOLERANCE * data) ** 2 + unsure**2)
    # the spectra of components differ little between these two bins
    return data - known, error, rate[:, 0] + 0.48 * rate[:, 1]


def fit_shapes(counts, population, unsure, exposure):
    """Galaxy whose shapes fit the two lowest bins."""
    nside = 64
    vectors = np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2)), axis=-1)
    rate, cells = exposure.at(vectors, BANDS) * healpy.nside2pixarea(nside), Cells(nside)
    data, error, weight = lowest_bins(counts, population, unsure, rate)
    names = [f.name for f in fields(Galaxy) if f.name not in LINEAR]

    def fitted(logs):
        galaxy = replace(Galaxy(), **dict(zip(names, np.exp(logs))))
        shapes = node_shapes(galaxy, nside)
        parts = np.array([cells.sums(shape * weight) for shape in shapes.values()])
        amplitude, misfit = solve(parts, data, error)
        return galaxy, dict(zip(shapes, amplitude)), misfit

    def residuals(logs):
        return np.concatenate([fitted(logs)[2], (logs - start) / 0.5])

    start = np.log([getattr(Galaxy(), name) for name in names])
    found = least_squares(residuals, start, diff_step=2e-2, max_nfev=10)
    galaxy, amplitude, misfit = fitted(found.x)
    print(f"# shapes: chi2 {np.sum(misfit**2):.0f} for {N_CELLS} cells")
    disc = np.array([v for name, v in amplitude.items() if name.startswith("disc")])
    local = np.array([v for name, v in amplitude.items() if name.startswith("local")])
    galaxy = replace(
        galaxy,
        disc_profile=tuple((disc / disc.max()).round(3).tolist()),
        local_profile=tuple((local / disc.max()).round(4).tolist()),
    )
    for f in fields(galaxy):
        value = getattr(galaxy, f.name)
        print(f"    {f.name} = {value if isinstance(value, tuple) else round(value, 4)}")
    return galaxy


def fit_tilt(shapes, gas, counts, population, unsure, rate, cells):
    """Weights of the windows of `tilt`, the mean one 1, from two bins."""
    data, error, weight = lowest_bins(counts, population, unsure, rate)
    parts = [cells.sums(tilt(shapes[gas], window) * weight) for window in np.eye(4)]
    parts += [cells.sums(s * weight) for name, s in shapes.items() if name != gas]
    amplitude, _ = solve(np.array(parts), data, error)
    weights = tuple((amplitude[:4] / amplitude[:3].mean()).round(3).tolist())
    print(f'# tilt "{gas}": {weights},')
    return weights


def fit_intensities(shapes, counts, sources, unsure, rate, cells):
    """Intensity of every component in every bin."""
    parts = np.array([[cells.sums(s * band) for band in rate.T] for s in shapes.values()])
    parts = parts.transpose(0, 2, 1)
    result = {name: [] for name in shapes}
    profile = np.zeros((N_CELLS, len(BANDS)))
    for number in range(len(BANDS)):
        data, known = counts[:, number], sources[:, number]
        error = np.sqrt(known + data + 1 + (TOLERANCE * data) ** 2 + unsure[:, number] ** 2)
        for _ in range(3):  # the error of the model, not of the counts: unbiased at few counts
            columns = parts[:, :, number]
            amplitude, _ = solve(columns, data - known, error)
            model = known + amplitude @ columns
            error = np.sqrt(model + (TOLERANCE * model) ** 2 + 0.1 + unsure[:, number] ** 2)
        profile[:, number] = model
        for name, value in zip(shapes, amplitude):
            last = result[name][-1] if number else 1.0
            # a component with hardly any photons in a bin must still have a spectrum
            result[name].append(float(np.clip(value, 0.02 * last if number else 1e-11, 0.8 * last)))
    for name, values in result.items():
        print(f'    "{name}": ({", ".join(f"{v:.3g}" for v in values)}),')
    report(counts, profile)
    return result


def report(counts, model):
    """Deviations of the profiles where there are more than 1000 photons."""
    real, found = PROFILES @ counts, PROFILES @ model
    ratio = np.where(real > 1000, found / np.maximum(real, 1), 1)
    summed = (found.sum(axis=1) / real.sum(axis=1)).round(2)
    for name, part in {"|b|": slice(0, -12), "longitude": slice(-12, None)}.items():
        print(f"#   {name}: {ratio[part].min():.3f} to {ratio[part].max():.3f}; {summed[part]}")


def main():
    """Fit and print."""
    parser = options_of(__doc__, keep_shapes=False)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    exposure = read_exposure(options.folder / "3fhl/fermi_3fhl_exposure_cube_hpx.fits.gz")
    vectors = np.stack(healpy.pix2vec(NSIDE, np.arange(12 * NSIDE**2)), axis=-1)
    cells = Cells(NSIDE)
    rate = exposure.at(vectors, BANDS) * healpy.nside2pixarea(NSIDE)
    bright = bright_counts(options.folder, exposure)
    sky_map = read_map(options.folder / "3fhl/fermi_3fhl_counts_cube_hpx.fits.gz")
    counts = sum(cell_counts(photons) for photons in sky_map.photons(0))
    population = population_counts(exposure)
    print(f"# photons {counts.sum(axis=0)}, bright {bright.sum(axis=0).round()}, populations "
          f"{population.sum(axis=0).round()}")  # fmt: skip
    # residuals of a bright source at the edge of a cell must not count as a measurement
    population, unsure = population + bright, 0.5 * bright
    galaxy = Galaxy() if options.keep_shapes else fit_shapes(counts, population, unsure, exposure)
    sets = {"built-in": galaxy_shapes(galaxy, NSIDE)}
    template = options.folder / "diffuse/diffuse_shapes_nside128.fits.gz"
    for name, parts in TEMPLATE_SETS.items():
        sets[name] = read_template_shapes(template, [n for n in parts if n != "ISOTROPIC"], NSIDE)
    for name, shapes in sets.items():
        print(f"# {name}")
        shapes["ISOTROPIC"] = np.ones(12 * NSIDE**2)
        if name != "built-in":
            gas = next(iter(shapes))
            weights = fit_tilt(shapes, gas, counts, population, unsure, rate, cells)
            tilted = tilt(shapes[gas], weights)
            shapes[gas] = tilted / tilted.mean()
        fit_intensities(shapes, counts, population, unsure, rate, cells)


if __name__ == "__main__":
    main()
