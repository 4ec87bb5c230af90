"""Probabilities of the classes of sources, from the energies of their photons and their position.

The fit returns the log-likelihood of each source for spectra on a grid of index and curvature. A
class has a *family*: the fractions of its detected sources that have each of these spectra. By
Bayes' theorem

.. math:: P(c | photons) \\propto prior_c(position) \\sum_s family_c(s) L(photons | s)

so that few photons return the prior, and many decide for themselves. Any energies and bins of a map
serve. Families and prior come from the simulated population as the model detects it
(``benchmarks/fit_classes.py``), never from real sources, and travel in the card of the model.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from astro_unetloc.catalog.columns import CLASSES, LOG_LIKELIHOOD, set_column, set_flag
from astro_unetloc.catalog.table import degrees, numbers_of
from astro_unetloc.exceptions import InputError
from astro_unetloc.irf.spectra import SpectralGrid

# Entries of a card.
_ARRAYS = (
    "index", "beta", "families", "latitude_deg", "longitude_deg", "flux", "fractions",
    "flux_factors",
)  # fmt: skip
_NUMBERS = "pivot_gev", "flux_per_count", "confidence"
# A class is the prior's where no class is this many times likelier by the photons than another.
_MIN_RATIO = 2.0
_MAX_EMIN = 50.0  # GeV; no pulsar is seen above


@dataclass(frozen=True, eq=False)
class Classifier:
    """What the spectra of each class are and where in the sky its sources lie."""

    grid: SpectralGrid
    families: np.ndarray  # (3, n_nodes), sums of 1, in the order of CLASSES
    latitude_deg: np.ndarray  # (n_lat,) of absolute Galactic latitudes, ascending
    longitude_deg: np.ndarray  # (n_lon,) of angles from the Galactic centre in longitude, ascending
    flux: np.ndarray  # (n_flux,) in the flux range of the model in ph cm-2 s-1, ascending
    fractions: np.ndarray  # (3, n_lat, n_lon) of the detected sources there, sums of 1
    flux_factors: np.ndarray  # (3, n_flux) on them
    flux_per_count: float  # in ph cm-2 s-1 of a detected source, where no exposure is known
    confidence: float  # smallest probability with which a class is named
    energy_range: tuple  # in GeV, in which the sources were detected

    @classmethod
    def of(cls, model, energy_range=None):
        """Classifier in the card of a `Model`, for a map of other energies (GeV); None without."""
        card = model.card.get("classifier")
        if card is None:
            return None
        index, beta, families, *prior = (np.array(card[name], dtype=float) for name in _ARRAYS)
        pivot, *numbers = (float(card[name]) for name in _NUMBERS)
        families /= families.sum(axis=1, keepdims=True)
        grid = SpectralGrid(pivot, index, beta)
        classifier = cls(grid, families, *prior, *numbers, model.energy_range)
        return classifier if energy_range is None else classifier.seen_in(*energy_range)

    def seen_in(self, emin, emax):
        """Classifier of the sources that a map of fewer energies (GeV) shows.

        If N(>S) ~ 1/S, the sources above a number of photons have spectra in proportion to the
        photons in those energies: above 50 GeV hardly any is a pulsar, and all classes get the same
        family, since AGN and the others have the same spectra there.
        """
        low, high = self.energy_range
        emin, emax = max(emin, low), min(emax, high)
        if emin >= emax:
            return self
        spectra = self.grid.spectra
        seen = self.families * spectra.flux(emin, emax) / spectra.flux(low, high)
        number = seen.sum(axis=1, keepdims=True)
        if emin >= _MAX_EMIN:
            seen = number / number.sum() * seen.sum(axis=0)
        fractions = self.fractions * number[:, :, None]
        changed = {"families": seen / number, "fractions": fractions / fractions.sum(axis=0)}
        return replace(self, **changed, energy_range=(emin, emax))

    def prior(self, lon_deg, lat_deg, flux=None):
        """Probabilities (n, 3) of the classes at Galactic positions (n,), whatever the spectrum.

        The ``flux`` (n,) is NaN where it is unknown: bright sources are more often pulsars.
        """
        axes = self.latitude_deg, self.longitude_deg
        here = np.stack([np.abs(lat_deg), np.abs((np.asarray(lon_deg) + 180) % 360 - 180)], axis=1)
        inside = np.clip(here, *([axis[end] for axis in axes] for end in (0, -1)))
        logs = np.log(np.moveaxis(self.fractions, 0, -1))
        prior = np.exp(RegularGridInterpolator(axes, logs)(inside))
        if flux is not None:
            known = np.isfinite(flux)
            log_flux = np.log(np.maximum(np.where(known, flux, 1.0), self.flux[0]))
            factors = [np.interp(log_flux, np.log(self.flux), f) for f in self.flux_factors]
            prior *= np.where(known, factors, 1.0).T
        return prior / prior.sum(axis=1, keepdims=True)

    def probabilities(self, log_likelihood, prior):
        """Probabilities (n, 3) of the classes, the error (n,) of that of a pulsar, and ratios (n,).

        ``log_likelihood`` (n, n_nodes) is NaN where nothing is known, ``prior`` (n, 3). The error
        is the standard deviation of the probability that the true spectrum would give, over the
        spectra that agree with the photons. The ratio is that of the likelihoods of the likeliest
        and the unlikeliest class.
        """
        likelihood = np.exp(np.nan_to_num(log_likelihood, nan=0.0))
        by_class = likelihood @ self.families.T
        probability = prior * by_class
        probability /= probability.sum(axis=1, keepdims=True)
        pulsar = CLASSES.index("psr")
        spectrum = prior @ self.families
        weight = likelihood * spectrum
        weight /= weight.sum(axis=1, keepdims=True)
        if_known = prior[:, [pulsar]] * self.families[pulsar] / spectrum
        variance = (weight * if_known**2).sum(axis=1) - probability[:, pulsar] ** 2
        ratio = by_class.max(axis=1) / by_class.min(axis=1)
        return probability, np.sqrt(np.maximum(variance, 0.0)), ratio

    def apply(self, sources, *, class_prior=None):
        """Copy of a table of sources with ``Class`` and its probabilities, without the likelihoods.

        Parameters
        ----------
        sources : QTable (n rows)
            With ``GLON``, ``GLAT``, ``Flags`` and ``Spectral_LnL`` of the fit, which a ``Flux`` or
            ``Npred`` completes.
        class_prior : str or (3,) of float, optional
            Fractions of AGN, pulsars and others among the sources, wherever they lie, or "flat"
            for equal ones; without it those of the simulated population at the position and of
            the brightness of each.

        Returns
        -------
        QTable
            With ``Class`` (empty below the confidence), ``Prob_AGN``, ``Prob_PSR``, ``Prob_OTHER``,
            ``Unc_Prob_PSR`` and the flag "class_prior".

        Raises
        ------
        InputError
            If ``class_prior`` is neither.

        Examples
        --------
        >>> from astro_unetloc import load_model
        >>> from astro_unetloc.classification import Classifier
        >>> Classifier.of(load_model()).prior([120.0], [60.0]).round(1)
        array([[1., 0., 0.]])
        """
        result = sources.copy()
        if class_prior is None:
            lon, lat = (degrees(sources[name]) for name in ("GLON", "GLAT"))
            flux, counts = (numbers_of(sources, name) for name in ("Flux", "Npred"))
            flux = np.where(np.isfinite(flux), flux, counts * self.flux_per_count)
            prior = self.prior(lon, lat, flux)
        else:
            prior = np.tile(class_fractions(class_prior), (len(sources), 1))
        likelihood = np.reshape(result[LOG_LIKELIHOOD], (len(result), len(self.grid)))
        del result[LOG_LIKELIHOOD]
        probability, error, ratio = self.probabilities(likelihood, prior)
        best = probability.argmax(axis=1)
        sure = probability.max(axis=1, initial=0) >= self.confidence
        set_column(result, "Class", np.where(sure, np.array(CLASSES)[best], ""))
        for name, values in zip(CLASSES, probability.T):
            set_column(result, f"Prob_{name.upper()}", values)
        set_column(result, "Unc_Prob_PSR", error)
        set_flag(result, "class_prior", ratio < _MIN_RATIO)
        return result


def class_fractions(class_prior):
    """Fractions (3,) of the classes that a user gives."""
    if isinstance(class_prior, str) and class_prior == "flat":
        return np.full(len(CLASSES), 1 / len(CLASSES))
    try:
        values = np.array(class_prior, dtype=float)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.shape != (3,) or not (np.isfinite(values).all() and values.min() >= 0 < values.max()):
        raise InputError(
            f"class_prior must be 'flat' or three fractions, of AGN, PSR and OTHER, none negative "
            f"and not all zero; got {class_prior!r}; correct it or leave it out"
        )
    return values / values.sum()
