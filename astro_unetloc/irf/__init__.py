"""The instrument: point-spread function and exposure of the Fermi-LAT, built in or from files.

Hands on PSFs and exposures that `maps`, `measurement` and `simulation` evaluate at positions
and energies.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"exposure": ["SurveyExposure", "read_exposure"], "psf": ["KingPSF", "read_psf"]},
)
