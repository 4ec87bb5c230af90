"""Gamma-ray source catalogues from counts maps: a U-Net and k-means.

Read map -> project patches -> predict -> cluster -> localize -> measure -> classify -> catalogue:
`find_sources` does all of it. Names are loaded when they are first used (PEP 562), so that
importing the package costs nothing.
"""

import lazy_loader

_load, _, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batch": ["find_light_curves", "find_sources_in"],
        "catalog.columns": ["flag_names"],
        "catalog.gammapy": ["register_catalog"],
        "catalog.match": ["MatchResult", "match_catalogs"],
        "catalog.models": ["to_gammapy_models"],
        "catalog.read": ["read_catalog"],
        "catalog.write": ["to_regions", "write_catalog"],
        "evaluation.calibration": ["calibrate"],
        "evaluation.metrics": ["evaluate"],
        "evaluation.split": ["split_check"],
        "follow_up": ["to_gammapy_dataset"],
        "maps.read": ["read_map"],
        "measurement.limits": ["upper_limits"],
        "pipeline": ["classify_sources", "find_sources"],
        "plot.sources": ["plot_sources"],
        "report": ["write_report"],
        "simulation.files": ["read_components", "read_source_library"],
        "simulation.sky": ["simulate_sky"],
        "training.train": ["train"],
        "unet.model": ["list_models", "load_model"],
    },
)
__all__ = ["__version__", *__all__]


def __getattr__(name):
    """Load a public name from its module."""
    if name == "__version__":
        from importlib.metadata import version

        return version("astro_unetloc")
    return _load(name)


def __dir__():
    """Public names, loaded or not."""
    return __all__
