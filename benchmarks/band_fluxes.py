"""Fluxes by band of the sources in real fields beside those of 3FHL.

    python benchmarks/band_fluxes.py ../shared/data [--threshold 0.1] [--figure FILE]

Searches the counts cube of the Galactic centre, once with the background that is estimated and once
with that of 3FHL, and the field of the Crab, all with their exposures. One row for each band, of
the sources that match point-like ones of 3FHL: all of them, and those alone, which are neither
blended nor wider than the PSF. The columns are the number of fluxes that 3FHL measured, the ratio
of their sums, ours over 3FHL, and mean and standard deviation of the difference in units of the
error of 3FHL. Both have most photons in common, so that less than one is expected. Then the ratio
of the sum over bands to Flux, of all sources together and the range of those alone.
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from options import options_of

from astro_unetloc import find_sources, match_catalogs, read_catalog
from astro_unetloc.catalog.columns import has_flag
from astro_unetloc.catalog.table import band_edges, numbers, numbers_of

_UNIT = "cm-2 s-1"
_GC = "gc/fermi-3fhl-gc-{}-cube.fits.gz"
FIELDS = {
    "Galactic centre": (_GC.format("counts"), {"exposure": _GC.format("exposure")}),
    "with background": (
        _GC.format("counts"), {name: _GC.format(name) for name in ("exposure", "background")}
    ),
    "Crab": ("crab/Fermi-LAT-3FHL_data_Fermi-LAT.fits", {}),
}  # fmt: skip


def band_fluxes(catalog, reference):
    """Matched point-like sources as a dict of arrays: fluxes, errors, which are alone.

    ``ours``, ``error``, ``theirs`` and ``their_error`` (n, n_band) are NaN where 3FHL has a limit;
    ``total`` (n, 2) are the sum of ours over the bands and Flux.
    """
    match = match_catalogs(catalog, reference)
    pairs = match.pairs[match.pairs["matched"] & ~match.pairs["extended"]]
    found, known = catalog[pairs["catalog_index"]], reference[pairs["reference_index"]]
    ours, error = (numbers(found[f"{n}Flux_Band"], _UNIT, ndim=2) for n in ("", "Unc_"))
    theirs = numbers(known["Flux_Band"], _UNIT, ndim=2)
    low, high = np.moveaxis(numbers(known["Unc_Flux_Band"], _UNIT, ndim=3), 2, 0)
    measured = np.isfinite(low + ours)
    columns = {"ours": ours, "error": error, "theirs": theirs, "their_error": (high - low) / 2}
    columns = {name: np.where(measured, column, np.nan) for name, column in columns.items()}
    columns["total"] = np.stack([np.nansum(ours, axis=1), numbers_of(found, "Flux", _UNIT)], axis=1)
    columns["alone"] = ~(has_flag(found, "blended") | has_flag(found, "wide"))
    return columns


def print_bands(name, edges, result):
    """A row for each band of a field."""
    off = (result["ours"] - result["theirs"]) / result["their_error"]
    for low, high, *columns in zip(edges, edges[1:], off.T, result["ours"].T, result["theirs"].T):
        cells = []
        for chosen in (np.ones(len(off), bool), result["alone"]):
            pulls, ours, theirs = (column[chosen & np.isfinite(columns[0])] for column in columns)
            if len(pulls):
                spread = f"{pulls.mean():+6.2f} {pulls.std():5.2f}"
                cells.append(f"{len(pulls):5} {ours.sum() / theirs.sum():6.3f} {spread}")
        if cells:
            print(f"{name:16} {f'{low:g}-{high:g}':>9}", *cells, sep="   ")
    summed, flux = result["total"].T
    ratio = (summed / flux)[result["alone"]]
    print(
        f"{name:16} sum over bands / Flux {summed.sum() / flux.sum():.3f}, "
        f"of single sources {ratio.min():.3f} to {ratio.max():.3f}"
    )


def draw(results, edges, path):
    """Fluxes against those of 3FHL, a panel for each field; open symbols are sources not alone."""
    figure, panels = plt.subplots(1, len(results), figsize=(12, 4.2), sharex=True, sharey=True)
    for axes, (name, result) in zip(panels, results.items()):
        columns = [result[key] for key in ("theirs", "ours", "error", "their_error")]
        for band in range(len(edges) - 1):
            for chosen in (result["alone"], ~result["alone"]):
                style = {"ms": 5, "lw": 0.8, "color": f"C{band}"}
                style["mfc"] = style["color"] if chosen is result["alone"] else "white"
                axes.errorbar(*(column[chosen, band] for column in columns), fmt="o", **style)
            label = f"{edges[band]:g}-{edges[band + 1]:g} GeV"
            axes.plot([], [], "o", color=f"C{band}", label=label)
        axes.plot([1e-12, 1e-7], [1e-12, 1e-7], color="gray", lw=0.8, zorder=0)
        axes.set(xscale="log", yscale="log", title=name, xlabel="3FHL (cm$^{-2}$ s$^{-1}$)")
        axes.set(xlim=(2e-12, 2e-8), ylim=(2e-12, 2e-8))
    panels[0].set_ylabel("Flux_Band (cm$^{-2}$ s$^{-1}$)")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=90, bbox_inches="tight")


def main(arguments=None):
    """Search the fields, print and draw."""
    parser = options_of(__doc__, threshold=0.1, figure=str)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    reference = read_catalog(options.folder / "catalogs/gll_psch_v13.fit.gz")
    results = {}
    print("field             band/GeV   all fluxes: number, ratio, difference   of sources alone")
    for name, (path, companions) in FIELDS.items():
        companions = {role: options.folder / file for role, file in companions.items()}
        catalog = find_sources(options.folder / path, threshold=options.threshold, **companions)
        results[name] = band_fluxes(catalog, reference)
        edges = band_edges(catalog)
        print_bands(name, edges, results[name])
    if options.figure:
        draw(results, edges, options.figure)


if __name__ == "__main__":
    main()
