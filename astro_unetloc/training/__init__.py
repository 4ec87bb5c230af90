"""Training: patch sets from simulated skies, and the loop that fits a network to them.

Hands on a model folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"make": ["make_patch_set"], "patch_set": ["open_patch_set"]},
)
