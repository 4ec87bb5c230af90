"""Evaluation: truth and catalogue in, scores out, as tables, figures and one page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"metrics": ["evaluate"], "truth": ["judge"]},
)
