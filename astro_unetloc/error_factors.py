"""Error factors: what the errors of the fit must be multiplied by to hold what they say.

A fit knows the Poisson errors of its counts. It does not know of sources that merge within the
point-spread function, nor of structure in the background that is finer than its region. Below 10
GeV these are larger; how much is measured on simulated skies (``benchmarks/fit_errors.py``) and
travels in the card of the model. The Fermi-LAT catalogues scale their ellipses likewise, by what
known counterparts show (4FGL, arXiv:1902.10045, section 3.1.3).
"""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["ErrorFactors"]


@dataclass(frozen=True)
class ErrorFactors:
    """Factors on errors in k ranges of Galactic latitude.

    Attributes
    ----------
    latitude_deg : tuple of float (k,)
        Where each range of the absolute latitude begins, ascending, the first at 0.
    ellipse_68, ellipse_95 : tuple of float (k,)
        Factors on the axes of the error ellipses.
    counts : tuple of float (k,)
        Factors on the errors of counts and flux.
    index : tuple of float (k,)
        Factors on the error of the photon index.
    """

    latitude_deg: tuple
    ellipse_68: tuple
    ellipse_95: tuple
    counts: tuple
    index: tuple

    def apply(self, measurement, latitude_deg):
        """A measurement with larger errors.

        Parameters
        ----------
        measurement : Measurement
            Of n sources.
        latitude_deg : ndarray (n,)
            Their Galactic latitudes.

        Returns
        -------
        Measurement
            What was measured stays.
        """
        counts, index, size = (
            self.at(name, latitude_deg) for name in ("counts", "index", "ellipse_68")
        )
        return replace(
            measurement,
            covariance=measurement.covariance * (size**2)[:, None, None],
            ellipse_68=_scaled(measurement.ellipse_68, size),
            ellipse_95=_scaled(measurement.ellipse_95, self.at("ellipse_95", latitude_deg)),
            npred_err=measurement.npred_err * counts,
            flux_err=measurement.flux_err * counts,
            index_err=measurement.index_err * index,
        )

    def at(self, name, latitude_deg):
        """The factors (n,) of one kind of error at Galactic latitudes (n,).

        Examples
        --------
        >>> factors = ErrorFactors((0.0, 10.0), (2.0, 1.0), (3.0, 1.0), (2.0, 1.5), (1.0, 1.0))
        >>> factors.at("counts", [-3.0, 40.0]).tolist()
        [2.0, 1.5]
        """
        begins = np.searchsorted(self.latitude_deg, np.abs(latitude_deg), side="right") - 1
        return np.asarray(getattr(self, name), dtype=float)[begins]


def _scaled(ellipses, factor):
    return replace(
        ellipses,
        semi_major=ellipses.semi_major * factor,
        semi_minor=ellipses.semi_minor * factor,
    )
