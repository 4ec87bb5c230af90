"""Predictions: patches with what a model made of them, beside the truth."""

from dataclasses import dataclass

import numpy as np

from astro_unetloc.geometry import vectors_from_lonlat
from astro_unetloc.references import degrees, numbers_of

__all__ = ["FOUND_DTYPE", "SOURCE_DTYPE", "Case", "PredictedPatches", "SkyRows"]

SOURCE_DTYPE = np.dtype(
    [
        ("patch", "<i8"),  # row of the patch
        ("x", "<f4"),  # pixel position, 0 at the centre of the first pixel
        ("y", "<f4"),
        ("glon", "<f8"),  # deg
        ("glat", "<f8"),
        ("npred", "<f8"),  # expected photons; of a set those that were seen
        ("flux", "<f8"),  # ph cm-2 s-1
        ("radius", "<f4"),  # deg; 0 of a point source
        ("role", "S8"),  # counted, faint, extended or below
        ("score", "<f4"),  # of its detection; NaN where it was missed
    ]
)
FOUND_DTYPE = np.dtype(
    [
        ("patch", "<i8"),
        ("x", "<f4"),
        ("y", "<f4"),
        ("glon", "<f8"),
        ("glat", "<f8"),
        ("score", "<f4"),
        ("verdict", "S7"),  # right, wrong or ignored
    ]
)


@dataclass(frozen=True)
class PredictedPatches:
    """n patches and what a model made of them.

    Attributes
    ----------
    columns : dict of str to ndarray (n, ...)
        "counts", "coverage", "mask", "bands", "center", "sky", "code" as in a patch set, and
        "probability" (n, ny, nx).
    sources : ndarray (m,) of `SOURCE_DTYPE`
        True sources inside the patches.
    found : ndarray (k,) of `FOUND_DTYPE`
        Detections inside the patches.
    """

    columns: dict
    sources: np.ndarray
    found: np.ndarray


@dataclass(frozen=True)
class Case:
    """One patch of the file, to look at.

    Attributes
    ----------
    code : str
        Its name.
    center : tuple of float
        Galactic longitude, latitude and rotation in degrees.
    counts : ndarray (ny, nx, n_band)
        Photons.
    mask, probability : ndarray (ny, nx)
        Discs of the true sources that count (of a set: that are labelled), of any class, and what
        the network said.
    sources : ndarray of `SOURCE_DTYPE`
        True sources.
    found : ndarray of `FOUND_DTYPE`
        Detections.
    pixel_deg : float
        Pixel scale.
    """

    code: str
    center: tuple
    counts: np.ndarray
    mask: np.ndarray
    probability: np.ndarray
    sources: np.ndarray
    found: np.ndarray
    pixel_deg: float


class SkyRows:
    """True sources and detections of a judgement, to be placed in patches.

    Parameters
    ----------
    judgement : Judgement
        Of the sky.
    """

    def __init__(self, judgement):
        catalog, truth = judgement.catalog, judgement.truth
        self.sources = _positions(truth, SOURCE_DTYPE)
        for name, column in (("npred", "Npred"), ("flux", "Flux"), ("radius", "Radius")):
            self.sources[name] = numbers_of(truth, column)
        self.sources["role"] = np.asarray(truth["Role"], "S8")
        self.found = _positions(catalog, FOUND_DTYPE)
        self.found["score"] = np.asarray(catalog["Score"], float)
        self.found["verdict"] = np.asarray(catalog["Verdict"], "S7")
        row = np.asarray(truth["Found_Row"], int)
        score = np.append(self.found["score"], np.nan)  # the last one is for -1
        self.sources["score"] = score[row]
        self._vectors = {
            name: vectors_from_lonlat(rows["glon"], rows["glat"])
            for name, rows in (("sources", self.sources), ("found", self.found))
        }

    def inside(self, name, plane, number, *, margin_pix=0.0, among=None):
        """Rows inside a patch, with their pixel positions.

        Parameters
        ----------
        name : {"sources", "found"}
            Which rows.
        plane : TangentPlane
            The patch.
        number : int
            Its row in the file.
        margin_pix : float
            So far outside the image still counts.
        among : ndarray of int, optional
            Only these rows; all by default.

        Returns
        -------
        ndarray of `SOURCE_DTYPE` or `FOUND_DTYPE`
        """
        among = slice(None) if among is None else among
        rows, vectors = getattr(self, name)[among], self._vectors[name][among]
        x, y = plane.pixel_from_vectors(vectors)
        low, high = -0.5 - margin_pix, plane.n_pix - 0.5 + margin_pix
        inside = (x >= low) & (x < high) & (y >= low) & (y < high)
        rows = rows[inside]
        rows["patch"], rows["x"], rows["y"] = number, x[inside], y[inside]
        return rows


def _positions(table, dtype):
    rows = np.zeros(len(table), dtype)
    rows["glon"], rows["glat"] = degrees(table["GLON"]), degrees(table["GLAT"])
    return rows
