"""DS9 regions of a catalogue as text, in the style of the Fermi-LAT region files."""

import re

import numpy as np

from astro_unetloc.catalog.columns import FLAGS
from astro_unetloc.catalog.table import degrees, sky_positions, texts
from astro_unetloc.exceptions import InputError

__all__ = ["format_regions"]


_COLORS = {"matched": "green", "new": "magenta", "flagged": "yellow", "source": "cyan"}


# Bits that question the source itself; the others describe where it lies or the map.
_DOUBT = sum(
    FLAGS[name][0] for name in ("edge", "blended", "wide", "bright_neighbor", "fit_failed")
)


_REGION_HEADER = """\
# Region file format: DS9 version 4.1
# cross: position, ellipse: 95 % confidence, green: matched, magenta: new, yellow: flagged
global dashlist=8 3 width=1 font="helvetica 10 normal roman" select=1 highlite=1 dash=0 fixed=0 \
edit=1 move=1 delete=1 include=1 source=1
"""


_ELLIPSE = ("Conf_95_SemiMajor", "Conf_95_SemiMinor", "Conf_95_PosAng")


def _states(catalog):
    """One word per source: matched or new where a match was made, flagged, or just a source."""
    names = catalog.colnames
    doubtful = np.zeros(len(catalog), bool)
    if "Flags" in names:
        doubtful = (np.asarray(catalog["Flags"]).astype(int) & _DOUBT) > 0
    if "ASSOC" not in names:
        return np.where(doubtful, "flagged", "source")
    unmatched = np.ma.getmaskarray(np.ma.asarray(catalog["ASSOC"]))
    return np.where(~unmatched, "matched", np.where(doubtful, "flagged", "new"))


def _positions_and_ellipses(catalog, frame):
    """Positions in the frame and (n, 3) of 95 % axes and angle in degrees, NaN where unknown.

    The angle is that of DS9 and `regions`: from the longitude axis, so position angle + 90 deg.
    """
    import astropy.units as u

    if frame not in ("icrs", "fk5", "galactic"):
        raise InputError(f"frame must be icrs, fk5 or galactic; got {frame!r}")
    icrs = sky_positions(catalog)
    positions = icrs.transform_to(frame)
    ellipse = np.full((len(catalog), 3), np.nan)
    for axis, name in enumerate(_ELLIPSE):
        if name in catalog.colnames:
            ellipse[:, axis] = degrees(catalog[name])
    # A circle needs no angle; some catalogues leave it out.
    round_one = ellipse[:, 0] == ellipse[:, 1]
    ellipse[:, 2] = np.where(np.isnan(ellipse[:, 2]) & round_one, 0.0, ellipse[:, 2])
    towards = icrs.directional_offset_by(np.nan_to_num(ellipse[:, 2]) * u.deg, 1 * u.arcsec)
    angle = positions.position_angle(towards.transform_to(frame)).deg + 90
    ellipse[:, 2] = np.where(np.isnan(ellipse[:, 2]), np.nan, angle % 360)
    return positions, ellipse


def format_regions(catalog, *, frame="icrs"):
    """DS9 regions of a catalogue as text, in the style of the Fermi-LAT region files.

    Written here and not by `regions`, whose writer drops the label of a single region and is broken
    by braces in labels.

    Parameters
    ----------
    catalog : QTable
        Sources.
    frame : str
        "icrs", "fk5" or "galactic".

    Returns
    -------
    str
        One line for each cross and each 95 % ellipse.
    """
    positions, ellipses = _positions_and_ellipses(catalog, frame)
    lon, lat = positions.spherical.lon.deg, positions.spherical.lat.deg
    lines = [_REGION_HEADER]
    rows = zip(lon, lat, ellipses, _labels(catalog), _states(catalog))
    for lon_deg, lat_deg, ellipse, label, state in rows:
        place, style = f"{lon_deg:.6f},{lat_deg:.6f}", f"color={_COLORS[state]}"
        if not np.isfinite([lon_deg, lat_deg]).all():
            continue
        text = f" text={{{label}}}" if label else ""
        lines.append(f"{frame};point({place})# point=cross {style} tag={{{state}}}{text}\n")
        if np.isfinite(ellipse).all():
            shape = ",".join(f"{value:.6f}" for value in ellipse)
            lines.append(f"{frame};ellipse({place},{shape})# {style} tag={{{state}}}\n")
    return "".join(lines)


def _labels(catalog):
    """Names that are safe between the braces of a region file."""
    if "Source_Name" not in catalog.colnames:
        return [""] * len(catalog)
    safe = str.maketrans({"{": "(", "}": ")", "\\": "/"})
    names = texts(catalog["Source_Name"])
    return [" ".join(_ascii(name.translate(safe)).split()) for name in names]


def _ascii(text):
    text = str(text).encode("ascii", "replace").decode()
    return re.sub(r"[^ -~]", " ", text)
