"""The network: its architecture, trained models and their calibration.

Takes arrays of patches, returns the probability of a source in each pixel.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"architecture": ["build_unet"], "model": ["Model", "list_models", "load_model"]},
)
