"""From probability to sources: clusters of pixels, then positions on the sky.

Takes the probability of each pixel, returns the table of sources.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"clustering": ["find_clusters"], "localization": ["localize"]},
)
