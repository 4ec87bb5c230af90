"""Classes of the sources of 3FHL by the real photons of the whole sky.

    python benchmarks/classify_3fhl.py gll_psch_v13.fit.gz fermi_3fhl_counts_cube_hpx.fits.gz
        fermi_3fhl_exposure_cube_hpx.fits.gz [--alone 1.5]

Fits all sources at their positions to the counts cube, whose pixels are 0.9 deg wide, and prints
the scores of those with a class and no other source within --alone degrees.
"""

import numpy as np
from classify_3fgl import report
from options import options_of

from astro_unetloc import classify_sources
from astro_unetloc.catalog.table import numbers_of, source_classes
from astro_unetloc.simulation.population import CLASSES


def main():
    """Classify and print."""
    parser = options_of(__doc__, alone=1.5)
    for name in ("catalog", "counts", "exposure"):
        parser.add_argument(name)
    options = parser.parse_args()
    inputs = {"exposure": options.exposure, "exposure_frame": "icrs"}
    result = classify_sources(options.catalog, options.counts, **inputs)
    probability = np.stack([numbers_of(result, f"Prob_{name}") for name in CLASSES], axis=1)
    result.keep_columns(["skycoord", "CLASS_Ref"])
    result.rename_column("CLASS_Ref", "CLASS")
    place = result["skycoord"]
    alone = place.match_to_catalog_sky(place, nthneighbor=2)[1].deg > options.alone
    report("3FHL", probability, np.where(alone, source_classes(result), ""))


if __name__ == "__main__":
    main()
