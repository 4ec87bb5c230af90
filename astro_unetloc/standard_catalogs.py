"""Catalogues that have a name: their files in the folder of gammapy's data."""

import os
import re
from pathlib import Path

__all__ = ["STANDARD_CATALOGS", "standard_catalog_path"]

# Folder, and a pattern of the file name; a group is the version, of which the highest in the
# bounds is taken. 1FGL to 4FGL share a name and differ in it, and so do 1FHL to 3FHL.
_FERMI = "catalogs/fermi"
_FGL, _FHL = r"gll_psc_v(\d+)\.fits?(\.gz)?", r"gll_psch_v(\d+)\.fits?(\.gz)?"
STANDARD_CATALOGS = {
    "1fgl": (_FERMI, _FGL, 1, 4),
    "2fgl": (_FERMI, _FGL, 5, 9),
    "3fgl": (_FERMI, _FGL, 13, 16),
    "4fgl": (_FERMI, _FGL, 17, 99),
    "1fhl": (_FERMI, _FHL, 1, 7),
    "2fhl": (_FERMI, _FHL, 8, 9),
    "3fhl": (_FERMI, _FHL, 10, 99),
    "2hwc": ("catalogs", r"2HWC\.ecsv", 0, 0),
    "3hwc": ("catalogs", r"3HWC\.ecsv", 0, 0),
    "1lhaaso": ("catalogs", r"1LHAASO_catalog\.fits", 0, 0),
    "gamma-cat": ("catalogs/gammacat", r"gammacat\.fits\.gz", 0, 0),
    "hgps": ("catalogs", r"hgps_catalog_v(\d+)\.fits\.gz", 1, 99),
}


def standard_catalog_path(name):
    """File of a catalogue in ``$GAMMAPY_DATA``, where `gammapy.catalog` reads it too.

    Parameters
    ----------
    name : str
        One of `STANDARD_CATALOGS`, such as ``4fgl`` or ``3fhl``; upper case too.

    Returns
    -------
    Path
        The newest version that is there.

    Raises
    ------
    FileNotFoundError
        If the folder is not set or has no such file.
    """
    data = os.environ.get("GAMMAPY_DATA")
    if not data:
        raise FileNotFoundError(
            f"catalogue {name!r} is read from $GAMMAPY_DATA, which is not set; set it to the "
            "folder of gammapy's data or give a file"
        )
    folder, pattern, first, last = STANDARD_CATALOGS[name.lower()]
    folder = Path(data) / folder
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = re.fullmatch(pattern, path.name)
        version = int(match[1]) if match and first else 0
        if match and first <= version <= last:
            found[version, path.name] = path
    if not found:
        raise FileNotFoundError(
            f"catalogue {name!r} must be in {str(folder)!r}; got no such file there; "
            "download gammapy's data or give a file"
        )
    return found[max(found)]
