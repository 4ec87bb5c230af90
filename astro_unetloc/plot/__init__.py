"""Pictures of a search: the counts on the sky with the sources and their names.

It draws what others found, and hands on figures of matplotlib.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"sources": ["canvas", "plot_sources", "save_figure", "stretch"]}
)
