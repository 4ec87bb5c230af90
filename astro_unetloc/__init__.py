"""Gamma-ray source catalogues from counts maps: a U-Net and k-means.

Read map -> project patches -> predict -> cluster -> localize -> measure -> catalogue:
`find_sources` does all of it. Names are loaded from their modules when they are first used
(PEP 562), so that importing the package costs nothing.
"""

from importlib import import_module

_MODULE_OF = {
    "MatchResult": "match_results",
    "evaluate": "evaluation",
    "find_sources": "pipeline",
    "list_models": "pretrained",
    "load_model": "pretrained",
    "match_catalogs": "matching",
    "read_catalog": "catalog",
    "read_components": "components",
    "read_map": "maps",
    "read_source_library": "source_library",
    "simulate_sky": "simulation",
    "to_gammapy_models": "export",
    "to_regions": "export",
    "train": "training",
    "upper_limits": "limits",
}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name):
    """Load a public name from its module."""
    if name == "__version__":
        from importlib.metadata import version

        value = version("astro_unetloc")
    elif name in _MODULE_OF:
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    """Public names, loaded or not."""
    return sorted({*globals(), *__all__})
