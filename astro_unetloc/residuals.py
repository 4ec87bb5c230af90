"""Residuals: how far measured positions, fluxes and indices of right detections lie from the truth.

Each is a table with a row for each part of the sky and bin of expected photons of the true sources
that holds any.
"""

import numpy as np

from astro_unetloc.geometry import tangent_axes, tangent_offsets
from astro_unetloc.judgement import SKIES
from astro_unetloc.references import degrees, glon_glat_vectors, numbers_of
from astro_unetloc.response import SurveyExposure
from astro_unetloc.shares import edges_around, score_table, share_columns
from astro_unetloc.spectra import KINDS, Spectra, fitted_index

__all__ = [
    "FLUX_UNIT",
    "PHOTON_EDGES",
    "flux_errors",
    "index_errors",
    "normalized_offset",
    "offset_over_ellipse",
    "position_errors",
    "true_flux",
    "true_index",
]

# Expected photons: few where the measurement changes fast, then half decades.
PHOTON_EDGES = (0, 3, 5, 8, 12, 20, 40, 100, *(s * 10**d for d in range(2, 9) for s in (3, 10)))
FLUX_UNIT = "ph cm-2 s-1"
_SPECTRUM = ("Flux_Density", "Pivot_Energy", "Index", "beta", "Expfactor", "Exp_Index")
_SPECTRUM_UNITS = ("ph cm-2 s-1 GeV-1", "GeV", None, None, None, None)


def position_errors(judgement):
    """Distances of right detections from their true sources, and what their ellipses hold.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``Low`` and ``High`` (true Npred), ``N``, ``Median_Offset`` (deg), ``N_Ellipse``
        (those with an error ellipse) and ``In_68``, ``In_95`` with their intervals: the share of
        these that holds the true position.
    """
    rows, true_rows = _right(judgement)
    offset = degrees(judgement.catalog["Offset"])[rows]
    norm_68, norm_95 = (normalized_offset(judgement, rows, true_rows, level) for level in (68, 95))
    has_ellipse = np.isfinite(norm_68) & np.isfinite(norm_95)

    def columns(inside):
        known = inside & has_ellipse
        return {
            "N": inside.sum(),
            "Median_Offset": _median(offset[inside]),
            "N_Ellipse": known.sum(),
            **share_columns("In_68", np.sum(norm_68[known] <= 1), known.sum()),
            **share_columns("In_95", np.sum(norm_95[known] <= 1), known.sum()),
        }

    return _binned(
        judgement,
        true_rows,
        np.ones(len(rows), bool),
        columns,
        title="Position errors",
        about="Distance of right detections from their true sources, by their expected photons, "
        "and the share of the 68 and 95 % error ellipses that hold the true position.",
        units={"Median_Offset": "deg"},
    )


def flux_errors(judgement):
    """Measured fluxes of right detections over the true ones, and their pulls.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``Low`` and ``High`` (true Npred), ``N``, ``Median_Ratio``, ``Pull_Width`` (half
        the range from 16 to 84 % of difference over error) and ``Pull_Median``.
    """
    rows, true_rows = _right(judgement)
    measured, error = (
        numbers_of(judgement.catalog, name, FLUX_UNIT)[rows] for name in ("Flux", "Unc_Flux")
    )
    true = true_flux(judgement)[true_rows]
    ratio, pull = _over(measured, true), _over(measured - true, error)
    return _binned(
        judgement,
        true_rows,
        np.isfinite(ratio) & np.isfinite(pull),
        lambda inside: {
            "N": inside.sum(),
            "Median_Ratio": _median(ratio[inside]),
            **_pulls(pull[inside]),
        },
        title="Flux errors",
        about="Measured over true flux of right detections, by the expected photons of their true "
        "sources, and the pulls: difference over error, of width 1 where errors are honest.",
    )


def index_errors(judgement):
    """Measured photon indices of right detections minus the true ones, and their pulls.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.

    Returns
    -------
    QTable
        ``Sky``, ``Low`` and ``High`` (true Npred), ``N``, ``Median_Difference``, ``Pull_Width``
        (half the range from 16 to 84 % of difference over error) and ``Pull_Median``.
    """
    rows, true_rows = _right(judgement)
    measured, error = (
        numbers_of(judgement.catalog, name)[rows]
        for name in ("Spectral_Index", "Unc_Spectral_Index")
    )
    difference = measured - true_index(judgement, true_rows)
    pull = _over(difference, error)
    return _binned(
        judgement,
        true_rows,
        np.isfinite(pull),
        lambda inside: {
            "N": inside.sum(),
            "Median_Difference": _median(difference[inside]),
            **_pulls(pull[inside]),
        },
        title="Index errors",
        about="Measured minus true photon index of right detections, by the expected photons of "
        "their true sources, and the pulls: difference over error. Of a curved spectrum the true "
        "index is that of the power law that a fit to the detected photons finds.",
    )


def true_flux(judgement):
    """True fluxes in the energy range of the fluxes of the catalogue.

    Parameters
    ----------
    judgement : Judgement
        Its tables say the ranges in GeV as ``FLUXEMIN`` and ``FLUXEMAX`` of their ``meta``; one
        that does not is taken at its word.

    Returns
    -------
    ndarray (n_true,)
        In ph cm-2 s-1, integrated anew from the spectrum where the range of the truth is another
        one; NaN where that cannot be done.
    """
    wanted = _energies(judgement.catalog, "FLUXEMIN", "FLUXEMAX")
    given = _energies(judgement.truth, "FLUXEMIN", "FLUXEMAX")
    if None in (wanted, given) or np.allclose(wanted, given):
        return numbers_of(judgement.truth, "Flux", FLUX_UNIT)
    return _spectra(judgement.truth).flux(*wanted)


def true_index(judgement, rows):
    """Photon indices that a fit of power laws to the detected photons of true sources finds.

    Parameters
    ----------
    judgement : Judgement
        Its catalogue says the energies of the photons that were fitted in GeV as ``FITEMIN`` and
        ``FITEMAX`` of its ``meta``, or without these as ``EMIN`` and ``EMAX``, those of its map.
    rows : ndarray (k,) of int
        The true sources.

    Returns
    -------
    ndarray (k,)
        With the energy dependence of the built-in exposure. Where the energies or the spectra are
        unknown, ``Spectral_Index`` of the truth.
    """
    truth = judgement.truth[rows]
    energies = _energies(judgement.catalog, "FITEMIN", "FITEMAX")
    energies = energies or _energies(judgement.catalog, "EMIN", "EMAX")
    given = numbers_of(truth, "Spectral_Index")
    if energies is None:
        return given
    index = fitted_index(_spectra(truth), *energies, weight=SurveyExposure().relative)
    return np.where(np.isfinite(index), index, given)


def _energies(table, *keys):
    """Two energies in GeV that the ``meta`` of a table holds, None without."""
    found = tuple(table.meta.get(key) for key in keys)
    return None if None in found else tuple(float(energy) for energy in found)


def _spectra(truth):
    """The spectra of true sources; NaN where they are unknown."""
    amplitude, *parameters = (
        numbers_of(truth, name, unit) for name, unit in zip(_SPECTRUM, _SPECTRUM_UNITS)
    )
    kind = np.full(len(truth), KINDS.index("PowerLaw"), np.int8)  # one formula for all
    return Spectra(kind, amplitude, *parameters)


def _right(judgement):
    """Rows of the right detections and of their true sources."""
    rows = np.flatnonzero(judgement.is_right)
    return rows, np.asarray(judgement.catalog["True_Row"], int)[rows]


def _over(values, by):
    """Quotients; NaN where the divisor is not positive."""
    return values / np.where(by > 0, by, np.nan)


def _median(values):
    return np.median(values) if len(values) else np.nan


def _pulls(pull):
    low, high = np.percentile(pull, [16, 84]) if len(pull) else (np.nan, np.nan)
    return {"Pull_Width": (high - low) / 2, "Pull_Median": _median(pull)}


def normalized_offset(judgement, rows, true_rows, level):
    """Distances of true positions in units of the error ellipse: 1 on it.

    Parameters
    ----------
    judgement : Judgement
        Of the detections that are listed.
    rows, true_rows : ndarray (k,) of int
        Detections, and the true source of each.
    level : {68, 95}
        Percentage that the ellipse holds.

    Returns
    -------
    ndarray (k,)
        NaN without an ellipse.
    """
    catalog, truth = judgement.catalog, judgement.truth
    major, minor, angle = (
        numbers_of(catalog, f"Conf_{level}_{name}", "deg")[rows]
        for name in ("SemiMajor", "SemiMinor", "PosAng")
    )
    center, true = glon_glat_vectors(catalog)[rows], glon_glat_vectors(truth)[true_rows]
    east, north = tangent_axes(center)
    x, y = tangent_offsets(center, east, north, true)
    return offset_over_ellipse(x, y, major, minor, angle)


def offset_over_ellipse(x, y, major, minor, angle_deg):
    """Distances (n,) from the centres of ellipses in units of these: 1 on them, NaN without one.

    Parameters
    ----------
    x, y : ndarray (n,)
        Offsets to the east and to the north.
    major, minor : ndarray (n,)
        Semi-axes in the unit of the offsets.
    angle_deg : ndarray (n,)
        Position angle of the major axis, from north to east.
    """
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.hypot(_over(x * sin + y * cos, major), _over(x * cos - y * sin, minor))


def _binned(judgement, true_rows, use, columns, *, title, about, units=None):
    """A row of ``columns(mask)`` for each part of the sky and bin of photons that holds any.

    The masks are of the right detections, in the order of ``true_rows``.
    """
    n_photons = numbers_of(judgement.truth, "Npred")[true_rows]
    latitude = judgement.true_latitude[true_rows]
    edges = edges_around(n_photons[use], PHOTON_EDGES)
    # a row of no source, thrown away at the end, says which columns there are
    nothing = np.zeros(len(n_photons), bool)
    found = [{"Sky": next(iter(SKIES)), "Low": 0.0, "High": 0.0} | columns(nothing)]
    for sky, (least, most) in SKIES.items():
        here = use & (latitude >= least) & (latitude < most)
        for low, high in zip(edges[:-1], edges[1:]):
            inside = here & (n_photons >= low) & (n_photons < high)
            if inside.any():
                found.append({"Sky": sky, "Low": low, "High": high} | columns(inside))
    values = {name: [row[name] for row in found] for name in found[0]}
    return score_table(title, about, values, units=units)[1:]
