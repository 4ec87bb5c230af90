"""The table of sources: its columns, its files, and matches with other catalogues.

A catalogue is a `QTable`; `match_catalogs` pairs two of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "columns": ["flag_names"],
        "gammapy": ["register_catalog"],
        "match": ["MatchResult", "match_catalogs"],
        "read": ["read_catalog"],
        "models": ["to_gammapy_models"],
        "write": ["to_regions", "write_catalog"],
    },
)
