"""Skies whose truth is known: sources, Galaxy, photons, files.

Hands on a `SkyMap` and the table of its true sources.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"sky": ["simulate_sky"], "files": ["read_components", "read_source_library"]},
)
