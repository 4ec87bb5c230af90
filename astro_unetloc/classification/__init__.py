"""Which kind of source: AGN, pulsar or other, from the photons' energies and the position.

Takes the table of measured sources; returns the table with class probabilities.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"classifiers": ["Classifier"], "mixture": ["fit_mixture"]}
)
