"""Likelihood fit of the sources: positions, counts, spectra, their errors, and upper limits.

Takes the table of sources and the map; returns the table with more columns.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"fit": ["measure_sources"], "limits": ["upper_limits"]},
)
