"""Evaluation: a catalogue and the truth of its sky in, scores out: tables, figures and a page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "metrics": ["evaluate"],
        "report": ["write_evaluation"],
        "runs": ["run_on_catalog", "run_on_set", "run_on_skies"],
        "truth": ["match_truth"],
    },
)
