"""Catalogues of others: names, positions and extensions, whatever their columns are called."""

import numpy as np

__all__ = ["as_reference", "catalog_name", "degrees", "sky_positions"]

_POSITION_NAMES = (
    ("raj2000", "dej2000", "icrs"),
    ("ra", "dec", "icrs"),
    ("_raj2000", "_dej2000", "icrs"),
    ("ra_deg", "dec_deg", "icrs"),
    ("glon", "glat", "galactic"),
)


def sky_positions(table):
    """Positions of the rows of a table as `SkyCoord` (ICRS); NaN where they are unknown.

    Parameters
    ----------
    table : Table
        With ``skycoord``, ``RAJ2000`` and ``DEJ2000``, ``RA`` and ``Dec``, or ``GLON`` and
        ``GLAT`` (any case; degrees where they have no unit).

    Raises
    ------
    ValueError
        If the table has none of them.
    """
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    if "skycoord" in table.colnames:
        return table["skycoord"].icrs
    names = {name.lower(): name for name in table.colnames}
    for lon_name, lat_name, frame in _POSITION_NAMES:
        if lon_name in names and lat_name in names:
            lon, lat = degrees(table[names[lon_name]]), degrees(table[names[lat_name]])
            return SkyCoord(lon * u.deg, lat * u.deg, frame=frame).icrs
    raise ValueError(
        "a catalogue must have columns RAJ2000 and DEJ2000, RA and Dec, or GLON and GLAT; "
        f"got {', '.join(table.colnames[:8]) or 'none'}; rename its columns"
    )


def degrees(column):
    """Plain float64 degrees of a column; NaN where masked."""
    from astropy.units import Quantity

    try:
        values = getattr(column, "unmasked", column)
        unit = getattr(values, "unit", None) or "deg"
        degrees = Quantity(np.ma.getdata(values), unit, dtype=float).to_value("deg")
    except (TypeError, ValueError) as err:
        raise ValueError(f"coordinates must be numbers in degrees; got {column[:1]}") from err
    return np.where(getattr(column, "mask", False), np.nan, degrees)


def catalog_name(table):
    """Name of a catalogue: its ``CDS-NAME`` or what its source names begin with (``4FGL``)."""
    if table.meta.get("CDS-NAME"):
        return str(table.meta["CDS-NAME"])
    first = str(table["Source_Name"][0]) if len(table) and "Source_Name" in table.colnames else ""
    return first.split(" J")[0] if " J" in first else str(table.meta.get("FILENAME", "reference"))


def as_reference(table, extended=None):
    """A catalogue of others with the columns that matching needs, under the names we use.

    Parameters
    ----------
    table : QTable
        One row a source.
    extended : QTable, optional
        The table of extended sources of a Fermi-LAT catalogue.

    Returns
    -------
    QTable
        With ``Source_Name``, ``RAJ2000``, ``DEJ2000``, ``Extended`` (bool), ``Extension`` (radius
        in deg, masked where unknown) and ``skycoord`` besides its own columns.
    """
    import astropy.units as u
    from astropy.utils.masked import Masked

    positions = sky_positions(table)
    names = _names_of_others(table)
    is_extended, radius = _extensions(table, names, extended)
    table = table.copy(copy_data=False)
    table["Source_Name"] = names
    table["RAJ2000"], table["DEJ2000"] = positions.ra.to(u.deg), positions.dec.to(u.deg)
    table["Extended"] = is_extended
    table["Extension"] = Masked(radius * u.deg, mask=~np.isfinite(radius))
    table["skycoord"] = positions
    return table


def _text(column):
    """Stripped strings of a column; empty where masked."""
    values = np.char.strip(np.ma.getdata(column).astype(str)) if len(column) else np.zeros(0, "U1")
    return np.where(getattr(column, "mask", np.zeros(len(column), bool)), "", values)


def _names_of_others(table):
    lower = {name.lower().replace(" ", "_"): name for name in table.colnames}
    for candidate in ("source_name", "name", "source", "canonical_name", "main_id", "id"):
        if candidate in lower:
            return _text(table[lower[candidate]])
    return np.array([str(i + 1) for i in range(len(table))], "U8")


def _extensions(table, names, extended):
    """Which sources are extended, and their radii in degrees (NaN where unknown)."""
    if {"Extended", "Extension"} <= set(table.colnames):
        return np.asarray(table["Extended"], bool), degrees(table["Extension"])
    blank = np.full(len(table), "", "U1")
    label = (
        _text(table["Extended_Source_Name"]) if "Extended_Source_Name" in table.colnames else blank
    )
    is_fermi = np.char.find(names, "FGL J") >= 0
    is_fermi |= (np.char.find(names, "FHL J") >= 0) | (np.char.find(names, "FL16Y J") >= 0)
    is_extended = (label != "") | (is_fermi & np.char.endswith(names, "e"))
    radius = np.full(len(table), np.nan)
    if extended is not None and "Model_SemiMajor" in extended.colnames:
        known = dict(zip(_text(extended["Source_Name"]), degrees(extended["Model_SemiMajor"])))
        radius = np.array([known.get(a, known.get(b, np.nan)) for a, b in zip(label, names)], float)
        is_extended |= np.isfinite(radius)
    return is_extended, radius
