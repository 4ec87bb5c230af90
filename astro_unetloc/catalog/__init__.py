"""The table of sources: columns, files, DS9 regions, models, other catalogues.

Hands on catalogues as `QTable`, and what matches between two of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "match": ["MatchResult", "match_catalogs"],
        "read": ["read_catalog"],
        "models": ["to_gammapy_models"],
        "write": ["to_regions"],
    },
)
