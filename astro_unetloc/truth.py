"""The truth of a simulated sky as a table: every true source, with the catalogue's column names."""

import numpy as np

from astro_unetloc.catalog import source_names
from astro_unetloc.geometry import lonlat_from_vectors
from astro_unetloc.population import CLASSES, SHAPES
from astro_unetloc.spectra import KINDS

__all__ = ["expected_photons", "truth_table"]


def expected_photons(sources, exposure, band):
    """Photons that a survey detects of each source on average.

    Parameters
    ----------
    sources : Sources
        The n true sources.
    exposure : SurveyExposure
        Exposure of the sky.
    band : pair of float
        In GeV.

    Returns
    -------
    ndarray (n,)
    """
    return sources.spectra.flux(*band, weight=exposure.relative) * exposure.sky(sources.vectors)


def truth_table(sources, exposure, *, band=(10.0, 2000.0)):
    """True sources in the columns of the catalogue, and their spectra and shapes.

    Parameters
    ----------
    sources : Sources
        The n true sources.
    exposure : SurveyExposure
        Exposure of the sky, for ``Npred``.
    band : pair of float
        Band in GeV of ``Npred``, and of ``Flux`` and ``Spectral_Index`` too if it begins at 10 GeV
        or above; these are of 1-100 GeV otherwise, as in the 4FGL catalogue.

    Returns
    -------
    QTable
        ``Source_Name``, ``RAJ2000``, ``DEJ2000``, ``GLON``, ``GLAT``, ``Flux`` and
        ``Spectral_Index`` (mean over the photons), ``Class``, ``Npred`` (expected
        number of detected photons), ``Shape`` and ``Radius`` (of a disc; of a Gaussian the one
        that holds 68 %; 0 of a point source), then the spectrum: ``SpectrumType`` and the
        parameters of `astro_unetloc.spectra.Spectra`, ``Flux_Density`` being its amplitude.
    """
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable

    lon, lat = lonlat_from_vectors(sources.vectors.reshape(-1, 3))
    icrs = SkyCoord(lon, lat, unit="deg", frame="galactic").icrs
    spectra = sources.spectra
    flux_band = band if band[0] >= 10.0 else (1.0, 100.0)
    table = QTable(
        {
            "Source_Name": source_names(icrs.ra.deg, icrs.dec.deg),
            "RAJ2000": icrs.ra.deg * u.deg,
            "DEJ2000": icrs.dec.deg * u.deg,
            "GLON": lon * u.deg,
            "GLAT": lat * u.deg,
            "Flux": spectra.flux(*flux_band) * u.Unit("ph cm-2 s-1"),
            "Spectral_Index": spectra.mean_index(*flux_band),
            "Class": np.array(CLASSES)[sources.source_class],
            "Npred": expected_photons(sources, exposure, band),
            "Shape": np.array(SHAPES)[sources.shape],
            "Radius": sources.radius_deg * u.deg,
            "SpectrumType": np.array(KINDS)[spectra.kind],
            "Pivot_Energy": spectra.pivot * u.GeV,
            "Flux_Density": spectra.amplitude * u.Unit("ph cm-2 s-1 GeV-1"),
            "Index": spectra.index,
            "beta": spectra.beta,
            "Expfactor": spectra.expfactor,
            "Exp_Index": spectra.exp_index,
        }
    )
    table.meta = {"FLUXEMIN": float(flux_band[0]), "FLUXEMAX": float(flux_band[1])}
    return table
