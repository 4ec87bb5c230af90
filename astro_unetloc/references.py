"""Catalogues of others: names, positions and extensions, whatever their columns are called."""

import re

import numpy as np

from astro_unetloc.geometry import vectors_from_lonlat

__all__ = [
    "as_reference",
    "catalog_name",
    "confidence_ellipses",
    "degrees",
    "flux_column",
    "galactic_vectors",
    "glon_glat_vectors",
    "numbers",
    "numbers_of",
    "sky_positions",
    "texts",
    "texts_of",
    "within_sky",
]

_POSITION_NAMES = (
    ("raj2000", "dej2000", "icrs"),
    ("raj2000", "decj2000", "icrs"),
    ("ra", "dec", "icrs"),
    ("_raj2000", "_dej2000", "icrs"),
    ("ra_icrs", "de_icrs", "icrs"),
    ("ra_deg", "dec_deg", "icrs"),
    ("coord_ra", "coord_dec", "icrs"),
    ("glon", "glat", "galactic"),
)
_POSITION_UCDS = (
    ("pos.eq.ra", "pos.eq.dec", "icrs"),
    ("pos.galactic.lon", "pos.galactic.lat", "galactic"),
)
# Names of 95 % ellipses: 1FGL to 4FGL, FL16Y, 1FHL, 3FHL and ours; the reduced 4FGL; 2FHL (circle).
_ELLIPSE_NAMES = (
    ("Conf_95_SemiMajor", "Conf_95_SemiMinor", "Conf_95_PosAng"),
    ("SemiMajor", "SemiMinor", "PosAng"),
    ("Pos_err_95", "Pos_err_95", None),
)
# The photon flux of the whole range of 3FHL, 1FHL and ours, above 1 GeV and above 50 GeV.
_FLUX_NAMES = ("Flux", "Flux1000", "Flux50")
_NAME_COLUMNS = "source_name name source canonical_name common_name main_id id".split()
# What the names of the Fermi-LAT catalogues begin with: 1FGL to 4FGL, 1FHL to 3FHL, FL8Y, FL16Y.
_FERMI = re.compile(r"(\d(FGL|FHL)|FL\d+Y) J")


def sky_positions(table):
    """Positions of the rows of a table as `SkyCoord` (ICRS); NaN where they are unknown.

    Parameters
    ----------
    table : Table
        With ``skycoord``, ``RAJ2000`` and ``DEJ2000``, ``RA`` and ``Dec``, ``GLON`` and ``GLAT`` or
        a like pair (any case; degrees where they have no unit, hours and degrees where they are
        sexagesimal text), or columns whose UCDs say so.

    Raises
    ------
    ValueError
        If the table has none of them.
    """
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    if "skycoord" in table.colnames:
        return table["skycoord"].icrs
    for lon_name, lat_name, frame in _position_names(table):
        columns = table[lon_name], table[lat_name]
        if frame == "icrs" and _is_sexagesimal(columns[0]):
            return _from_text(*columns)
        lon, lat = (degrees(column) for column in columns)
        return SkyCoord(lon * u.deg, lat * u.deg, frame=frame).icrs
    raise ValueError(
        "a catalogue must have columns RAJ2000 and DEJ2000, RA and Dec, or GLON and GLAT; "
        f"got {', '.join(table.colnames[:8]) or 'none'}; rename its columns"
    )


def galactic_vectors(table):
    """Galactic unit vectors (n, 3) of the rows of a table; NaN where positions are unknown.

    Parameters
    ----------
    table : Table
        With positions as `sky_positions` takes them; distances in ``skycoord`` do not matter.

    Returns
    -------
    ndarray (n, 3)

    Raises
    ------
    ValueError
        If the table has no positions.
    """
    from astropy.coordinates import UnitSphericalRepresentation

    directions = sky_positions(table).galactic.data.represent_as(UnitSphericalRepresentation)
    return directions.to_cartesian().xyz.value.T


def glon_glat_vectors(table):
    """Galactic unit vectors (n, 3) of ``GLON`` and ``GLAT`` of a table of ours."""
    return vectors_from_lonlat(degrees(table["GLON"]), degrees(table["GLAT"]))


def _position_names(table):
    """Names of longitude and latitude and their frame, as usual or by their UCDs."""
    names = {name.lower(): name for name in table.colnames}
    for lon, lat, frame in _POSITION_NAMES:
        if lon in names and lat in names:
            yield names[lon], names[lat], frame
    ucds = {_ucd(table[name]): name for name in reversed(table.colnames)}
    for lon, lat, frame in (
        ("eq.ra", "eq.dec", "icrs"),
        ("galactic.lon", "galactic.lat", "galactic"),
    ):
        for main in (";meta.main", ""):
            if f"pos.{lon}{main}" in ucds and f"pos.{lat}{main}" in ucds:
                yield ucds[f"pos.{lon}{main}"], ucds[f"pos.{lat}{main}"], frame


def _ucd(column):
    return str((column.info.meta or {}).get("ucd", "")).lower()


def _is_sexagesimal(column):
    """Whether a column holds text such as 05 34 31.9 or 5h34m31.9s, not numbers."""
    text = np.ma.getdata(column)
    return text.dtype.kind in "USO" and any(re.search(r"\d[ :hd]+\d", str(t)) for t in text[:100])


def _from_text(ra, dec):
    """Positions from hours and degrees in sexagesimal text; NaN where empty."""
    import astropy.units as u
    from astropy.coordinates import Angle, SkyCoord

    values = []
    for column, unit in ((ra, u.hourangle), (dec, u.deg)):
        text = _stripped(column)
        try:
            values.append(Angle(np.where(text == "", "0", text), unit).deg)
        except ValueError as err:
            raise ValueError(
                f"coordinates must be degrees, or hours and degrees as text; got {text[:1]}"
            ) from err
    empty = (_stripped(ra) == "") | (_stripped(dec) == "")
    ra_deg, dec_deg = (np.where(empty, np.nan, value) for value in values)
    return SkyCoord(ra_deg * u.deg, dec_deg * u.deg)


def texts(column):
    """Strings of a column as they are; empty where masked.

    Parameters
    ----------
    column : Column or MaskedColumn (n,)
        Text, or what can be written as such.

    Returns
    -------
    ndarray (n,) of str
    """
    values = np.asarray(np.ma.getdata(column)).astype(str)
    return np.where(getattr(column, "mask", False), "", values)


def texts_of(table, name):
    """Strings (n,) of a column of a table, see `texts`; empty if it has no such column."""
    return texts(table[name]) if name in table.colnames else np.full(len(table), "", "U1")


def numbers(column, unit=None):
    """Plain float64 numbers of a column; NaN where masked.

    Parameters
    ----------
    column : Column, MaskedColumn, Quantity or Masked (n,), or one value of these
        What has no unit counts as being in ``unit``.
    unit : str or Unit, optional
        Unit of the result; that of the column by default.

    Returns
    -------
    ndarray (n,)

    Raises
    ------
    ValueError, TypeError
        If the column does not hold numbers, or has a unit of something else.
    """
    from astropy.units import Quantity

    values = getattr(column, "unmasked", column)
    if unit is not None and getattr(values, "unit", None):
        values = Quantity(np.ma.getdata(values), values.unit, dtype=float).to_value(unit)
    values = np.ma.getdata(getattr(values, "value", values)).astype(float)
    return np.where(getattr(column, "mask", False), np.nan, values)


def numbers_of(table, name, unit=None):
    """Plain numbers (n,) of a column of a table, see `numbers`; NaN if it has no such column."""
    return numbers(table[name], unit) if name in table.colnames else np.full(len(table), np.nan)


def degrees(column):
    """Plain float64 degrees of a column; NaN where masked."""
    try:
        return numbers(column, "deg")
    except (TypeError, ValueError) as err:
        raise ValueError(f"coordinates must be numbers in degrees; got {column[:1]}") from err


def confidence_ellipses(table):
    """The 95 % error ellipses of the positions of a table.

    Parameters
    ----------
    table : Table
        With ``Conf_95_SemiMajor``, ``Conf_95_SemiMinor`` and ``Conf_95_PosAng``, as ours and the
        Fermi-LAT catalogues have them, or ``Pos_err_95`` as 2FHL.

    Returns
    -------
    ndarray (n, 3)
        Semi-major and semi-minor axis and position angle, east of north, in degrees; NaN where
        unknown.
    """
    for major, minor, angle in _ELLIPSE_NAMES:
        if {major, minor, angle} - {None} <= set(table.colnames):
            axes = np.stack([degrees(table[name]) for name in (major, minor)], axis=1)
            turn = degrees(table[angle]) if angle else np.zeros(len(table))
            # A circle needs no angle.
            turn = np.where(np.isfinite(turn) | (axes[:, 0] != axes[:, 1]), turn, 0.0)
            ellipse = np.column_stack([axes, turn])
            known = np.isfinite(ellipse).all(axis=1) & (axes > 0).all(axis=1) & (axes[:, 0] < 90)
            return np.where(known[:, None], ellipse, np.nan)
    return np.full((len(table), 3), np.nan)


def flux_column(table):
    """Name of the column with the photon fluxes of a table; None without."""
    shape = {name: np.shape(table[name]) for name in _FLUX_NAMES if name in table.colnames}
    return next((name for name in shape if len(shape[name]) == 1), None)


def catalog_name(table):
    """Name of a catalogue: what its header or its source names say, with the release of 4FGL."""
    name = str(table.meta.get("CDS-NAME") or "")
    if not name and len(table) and "Source_Name" in table.colnames:
        first = str(table["Source_Name"][0])
        name = first.split(" J")[0] if " J" in first else ""
    if name == "4FGL" and "DataRelease" in table.colnames and len(table):
        release = int(np.ma.max(np.ma.asarray(table["DataRelease"])))
        name = f"4FGL-DR{release}" if release > 1 else name
    return name or str(table.meta.get("FILENAME", "reference"))


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


def _stripped(column):
    """Strings of a column without spaces around; empty where masked."""
    return np.char.strip(texts(column)) if len(column) else np.zeros(0, "U1")


def _names_of_others(table):
    lower = {name.lower().replace(" ", "_"): name for name in table.colnames}
    for candidate in _NAME_COLUMNS:
        if candidate in lower:
            return _stripped(table[lower[candidate]])
    for name in table.colnames:
        if _ucd(table[name]) == "meta.id;meta.main":
            return _stripped(table[name])
    return np.array([str(i + 1) for i in range(len(table))], "U8")


def _extensions(table, names, extended):
    """Which sources are extended, and their radii in degrees (NaN where unknown)."""
    if {"Extended", "Extension"} <= set(table.colnames):
        return np.asarray(table["Extended"], bool), degrees(table["Extension"])
    label = np.full(len(table), "", "U1")
    if "Extended_Source_Name" in table.colnames:
        label = _stripped(table["Extended_Source_Name"])
    is_fermi = np.array([bool(_FERMI.match(name)) for name in names], bool)
    is_extended = (label != "") | (is_fermi & np.char.endswith(names, "e"))
    radius = np.full(len(table), np.nan)
    if "size_x" in table.colnames:  # TeVCat
        size = degrees(table["size_x"])
        is_extended |= size > 0
        radius = np.where(size > 0, size, np.nan)
    if extended is not None and "Model_SemiMajor" in extended.colnames:
        known = dict(zip(_stripped(extended["Source_Name"]), degrees(extended["Model_SemiMajor"])))
        radius = np.array([known.get(a, known.get(b, np.nan)) for a, b in zip(label, names)], float)
        is_extended |= np.isfinite(radius)
    return is_extended, radius


def within_sky(table, *, min_latitude_deg=0.0, cone=None, box=None, footprint=None):
    """The rows of a table that lie in a part of the sky.

    Parameters
    ----------
    table : QTable
        Table with positions.
    min_latitude_deg : float
        Smallest absolute Galactic latitude.
    cone : tuple of (SkyCoord, Quantity), optional
        Centre and radius.
    box : tuple of float, optional
        Galactic longitude and latitude of the centre, and full widths in both, in degrees.
    footprint : SkyMap or the like, optional
        Only what it covers; has a method ``covers`` of Galactic unit vectors (n, 3).

    Returns
    -------
    QTable
    """
    position = sky_positions(table).galactic
    lon, lat = position.l.deg, position.b.deg
    keep = np.abs(lat) >= min_latitude_deg
    if cone is not None:
        keep &= position.separation(cone[0].galactic) <= cone[1]
    if box is not None:
        offset = (lon - box[0] + 180) % 360 - 180
        keep &= (np.abs(offset) <= box[2] / 2) & (np.abs(lat - box[1]) <= box[3] / 2)
    if footprint is not None:
        keep &= footprint.covers(vectors_from_lonlat(lon, lat))
    return table[keep]
