"""What was observed: counts maps and event lists, and the patches that the network reads.

Takes files and gammapy objects, hands on a `SkyMap` and its `Patches`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "read": ["read_map"],
        "skymap": ["SkyMap"],
        "patches": ["PatchGrid", "Patches", "TangentPlane", "project"],
        "photons": ["Photons"],
    },
)
