"""Energies of maps: bin edges in GeV from tables, headers or the user."""

import re

import numpy as np

from astro_unetloc.fits_files import find_hdu
from astro_unetloc.messages import warn

__all__ = [
    "ASSUMED_RANGE_GEV",
    "column_gev",
    "image_range_gev",
    "parse_energy_range",
    "select_bins",
    "table_edges_gev",
    "wcs_edges_gev",
]

# Of a 2-D map that says nothing about its energy: the range of the default model.
ASSUMED_RANGE_GEV = (10.0, 2000.0)
_EDGE_COLUMNS = (
    ("E_MIN", "E_MAX"),
    ("ENERGY_MIN", "ENERGY_MAX"),
    ("ENERGY_TRUE_MIN", "ENERGY_TRUE_MAX"),
)
_EDGE_RTOL = 1e-4  # edges in keV as float32 agree this well and better


def parse_energy_range(energy_range):
    """A pair of energies as floats in GeV; None stays None.

    Parameters
    ----------
    energy_range : tuple of float, str or Quantity, Quantity of shape (2,), or None
        Plain numbers are GeV.

    Raises
    ------
    ValueError
        If it is not two increasing, positive, finite energies.
    """
    if energy_range is None:
        return None
    try:
        low, high = (_to_gev(value) for value in energy_range)
    except (TypeError, ValueError) as err:
        raise ValueError(
            f"energy_range must be two energies, such as (10, 500) in GeV or Quantities; "
            f"got {energy_range!r}"
        ) from err
    if not 0 < low < high < np.inf:
        raise ValueError(
            f"energy_range must be two increasing positive energies; got {low:g} to {high:g} GeV"
        )
    return low, high


def _to_gev(value):
    if isinstance(value, str):
        from astropy.units import Quantity

        value = Quantity(value)
        if not value.unit.is_equivalent("GeV"):
            value = Quantity(value.to_value(""), "GeV")
    if hasattr(value, "to_value"):
        from astropy.units import UnitConversionError

        try:
            return float(value.to_value("GeV"))
        except UnitConversionError as err:
            raise ValueError(str(err)) from err
    return float(value)


def _gev_per(unit, default):
    """GeV in one unit of an energy column."""
    from astropy.units import Unit, UnitConversionError

    text = str(unit or default).strip() or default
    try:
        return Unit(text).to("GeV")
    except (ValueError, UnitConversionError) as err:
        raise ValueError(f"an energy unit was expected; got {text!r}; correct TUNIT") from err


def _decimal(values):
    """float64 of what float32 was meant to say: 0.01f is 0.01, not 0.00999999977."""
    values = np.asarray(values)
    if values.dtype.itemsize == 4 and values.dtype.kind == "f":
        return np.array([float(str(value)) for value in values.astype(np.float32)])
    return values.astype(float)


def _scale(values, unit, default):
    """Energies in GeV, with exact decimal steps (1e7 keV is 10 GeV)."""
    scale = _gev_per(unit, default)
    power = 10.0 ** round(-np.log10(scale))
    return values / power if np.isclose(scale * power, 1, rtol=1e-12) else values * scale


def column_gev(hdu, name, default="MeV"):
    """A table column of energies in GeV, float64."""
    return _scale(np.asarray(hdu.data[name], dtype=float), hdu.columns[name].unit, default)


def table_edges_gev(hdus, hdu):
    """Edges of the energy bins of a map from the table that belongs to it.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The file.
    hdu : HDU
        The map.

    Returns
    -------
    ndarray (n_energy + 1,) or None
        Edges in GeV; None if the file has no such table.

    Raises
    ------
    ValueError
        If the table has energies but no bins, several axes, or gaps.
    """
    names = [hdu.header.get("BANDSHDU", ""), f"{hdu.name}_BANDS", "EBOUNDS", "ENERGIES"]
    table = find_hdu(hdus, *(name for name in names if name))
    if table is None or not hasattr(table, "columns"):
        return None
    if any("AXCOLS2" in part.header for part in (hdu, table)):
        raise ValueError(
            "counts must have one energy axis or none; got several axes "
            f"({hdu.header.get('AXCOLS1')}; {hdu.header.get('AXCOLS2')}); sum over the others"
        )
    columns = {column.name.upper(): column for column in table.columns}
    pairs = [pair for pair in _EDGE_COLUMNS if set(pair) <= set(columns)]
    axis = str(hdu.header.get("AXCOLS1", table.header.get("AXCOLS1", ","))).upper()
    if "," not in axis or not pairs:
        raise ValueError(
            f"energy bins were expected in table {table.name}; got the columns "
            f"{', '.join(columns)}: values at single energies are no counts; give a counts map"
        )
    low, high = pairs[0]
    default = "keV" if table.name.upper() == "EBOUNDS" else "MeV"
    return _join(*(_scale(_decimal(table.data[c]), columns[c].unit, default) for c in (low, high)))


def _join(low, high):
    """Edges of touching, increasing bins."""
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high)) and np.all(low > 0)):
        raise ValueError("energy edges must be positive; got negative, zero or infinite energies")
    if np.any(high <= low) or not np.allclose(low[1:], high[:-1], rtol=_EDGE_RTOL):
        raise ValueError(
            "energy bins must touch and increase; got gaps, overlaps or another order; "
            "rebin the map"
        )
    return np.append(low, high[-1])


def wcs_edges_gev(header, n_energy):
    """Edges in GeV from the third WCS axis, the last resort for cubes without a table.

    gtbin writes the start and the width of the first of its logarithmic bins there.
    """
    name = str(header.get("CTYPE3", "")).strip().upper()
    if "ENER" not in name or "CRVAL3" not in header or "CDELT3" not in header:
        raise ValueError(
            f"counts with {n_energy} planes must say their energies (a table EBOUNDS or *_BANDS); "
            f"got none, and a third axis {name or 'without a name'!r}; write the map with its table"
        )
    step, start, pixel = header["CDELT3"], header["CRVAL3"], header.get("CRPIX3", 1)
    if str(header.get("CREATOR", "")).strip().lower() == "gtbin":
        edges = start * (1 + step / start) ** np.arange(n_energy + 1)
        kind = "the logarithmic bins of gtbin"
    else:
        edges = start + (np.arange(n_energy + 1) + 0.5 - pixel) * step
        kind = "linear bins"
    warn(f"the map has no table of energies; taking {kind} from the header of its third axis")
    edges = _scale(edges, header.get("CUNIT3"), "MeV")
    return _join(edges[:-1], edges[1:])


def image_range_gev(header):
    """Energy range (emin, emax) in GeV that a header states, or None.

    Read from the DSS keywords (``DSTYPn = ENERGY``), else from EMIN/EMAX or E_MIN/E_MAX.
    """
    for key in header:
        if key.startswith("DSTYP") and str(header[key]).strip().upper() == "ENERGY":
            number = key[5:]
            pair = str(header.get(f"DSVAL{number}", "")).split(",")[0].split(":")
            unit = header.get(f"DSUNI{number}")
            return _stated_range(pair, unit, f"DSVAL{number}")
    for low, high in (("EMIN", "EMAX"), ("E_MIN", "E_MAX")):
        if low in header and high in header:
            comment = re.search(r"\[(\w+)\]", header.comments[low])  # FITS: unit in brackets
            unit = header.get("EUNIT", comment.group(1) if comment else None)
            return _stated_range((header[low], header[high]), unit, f"{low}, {high}")
    return None


def _stated_range(pair, unit, where):
    try:
        low, high = _scale(np.array([float(value) for value in pair]), unit, "MeV")
    except ValueError as err:
        raise ValueError(f"two energies were expected in {where}; got {list(pair)}") from err
    if not 0 < low < high < np.inf:
        raise ValueError(
            f"{where} must be two increasing positive energies; got {low:g} to {high:g} GeV"
        )
    return float(low), float(high)


def select_bins(counts, edges, energy_range):
    """The energy bins that lie inside a range.

    Parameters
    ----------
    counts : ndarray (n_energy, n_pixels)
        Counts.
    edges : ndarray (n_energy + 1,)
        Edges in GeV.
    energy_range : tuple of float
        The range in GeV. Bins that straddle an end are left out, with a warning.

    Returns
    -------
    counts, edges
        The selected bins.
    """
    low, high = energy_range
    inside = (edges[:-1] >= low * (1 - _EDGE_RTOL)) & (edges[1:] <= high * (1 + _EDGE_RTOL))
    touched = (edges[:-1] < high * (1 - _EDGE_RTOL)) & (edges[1:] > low * (1 + _EDGE_RTOL))
    if not inside.any():
        raise ValueError(
            f"no energy bin lies inside energy_range {low:g} to {high:g} GeV; the map has bins at "
            f"{', '.join(f'{edge:.4g}' for edge in edges)} GeV; choose a range that holds one"
        )
    kept = np.flatnonzero(inside)
    edges_kept = edges[kept[0] : kept[-1] + 2]
    if np.any(touched & ~inside):
        warn(
            f"energy_range {low:g} to {high:g} GeV cuts through bins of the map; "
            f"taking the whole bins inside: {edges_kept[0]:.4g} to {edges_kept[-1]:.4g} GeV"
        )
    return counts[kept[0] : kept[-1] + 1], edges_kept
