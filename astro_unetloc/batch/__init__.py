"""Many maps: a catalogue of each in one folder, over any executor, and slices of time of events.

Hands on a folder of files, and tables of what became of the searches and of the light curves.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "light_curves": ["find_light_curves"],
        "search": ["find_sources_in"],
    },
)
