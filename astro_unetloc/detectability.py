"""How well a true source can be seen: its photons against those of everything else near it."""

import numpy as np

from astro_unetloc.geometry import chord, circle_in_disc, lonlat_from_vectors, separation_deg

__all__ = ["Detectability", "significance"]

# Neighbours up to so many radii of the PSF away add to the background of a source.
_NEIGHBOUR_RADII = 4.0


def significance(n_photons, background):
    """How far a source stands above a background that is known, in standard deviations.

    Parameters
    ----------
    n_photons : ndarray (n,) or (n, n_bins)
        Photons of the source, if need be in energy bins whose test statistics are added.
    background : ndarray of the same shape
        Photons expected of everything else; below a hundredth it counts as a hundredth.

    Returns
    -------
    ndarray (n,)
        ``sqrt(2 sum((s + b) ln(1 + s / b) - s))``: Cowan et al. 2011 (arXiv:1007.1727),
        equation 97.

    Examples
    --------
    >>> significance(np.array([0.0, 10.0]), np.array([1.0, 1.0])).round(2)
    array([0.  , 5.72])
    """
    s, b = np.asarray(n_photons, dtype=float), np.maximum(background, 0.01)
    ts = np.maximum((s + b) * np.log1p(s / b) - s, 0.0)
    return np.sqrt(2 * (ts.sum(axis=-1) if ts.ndim > 1 else ts))


def _photons_of_sources(sky):
    """Photons of each source in each energy bin, (n_sources, n_bins)."""
    rows = np.flatnonzero(sky.origin >= 0)
    shape = (len(sky.sources), len(sky.energy_edges) - 1)
    energy_bin = np.digitize(sky.photons.energy[rows], sky.energy_edges[1:-1])
    place = sky.origin[rows].astype(np.int64) * shape[1] + energy_bin
    return np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)


class Detectability:
    """Photons near the true sources of a sky.

    Parameters
    ----------
    sky : SimulatedSky
        The sky.
    """

    def __init__(self, sky):
        from scipy.spatial import KDTree

        self.sky = sky
        self._tree = KDTree(sky.sources.vectors)
        centers = np.sqrt(sky.energy_edges[1:] * sky.energy_edges[:-1])
        self._radius_deg = np.array([sky.psf.containment_radius(0.68, e) for e in centers])
        self._offset_deg = np.concatenate([[0.0], np.geomspace(1e-3, 20.0, 150)])
        self._contained = [sky.psf.containment(self._offset_deg, e) for e in centers]
        self._photons_of = _photons_of_sources(sky)

    def near(self, source, photons, origin, *, radius_deg=0.0):
        """Photons near sources: within the radius that holds 68 % of those of an energy bin.

        Parameters
        ----------
        source : ndarray (n,) of int
            Index into the sources of the sky.
        photons : Photons
            Those that were seen.
        origin : ndarray (n_photons,) of int
            Source of each; -1 for none.
        radius_deg : float
            Added to the radius of the PSF in quadrature, such as half an input pixel.

        Returns
        -------
        own : ndarray (n, n_bins) of int
            Photons of the source among those seen.
        background : ndarray (n, n_bins)
            Photons of everything else expected of the whole sky, its full time and energies.
        """
        radius = np.hypot(self._radius_deg, radius_deg)
        mine = np.flatnonzero(np.isin(origin, source))
        origin, energy = origin[mine], photons.energy[mine]
        energy_bin = np.digitize(energy, self.sky.energy_edges[1:-1])
        offset = separation_deg(photons.vectors[mine], self.sky.sources.vectors[origin])
        near = offset < radius[energy_bin]
        shape = (len(self.sky.sources), len(radius))
        place = origin[near].astype(np.int64) * shape[1] + energy_bin[near]
        own = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)
        background = self._diffuse_density(source) * np.pi * radius**2
        background += self._from_neighbours(source, radius)
        return own[source], background

    def _from_neighbours(self, source, radius_deg):
        """Photons of other sources within a radius for each bin of each source, (n, n_bins)."""
        vectors = self.sky.sources.vectors
        reach_deg = _NEIGHBOUR_RADII * radius_deg.max()
        pairs = self._tree.query_ball_point(vectors[source], chord(reach_deg))
        row = np.repeat(np.arange(len(source)), [len(p) for p in pairs])
        other = np.concatenate([*pairs, np.zeros(0)]).astype(int)
        row, other = row[other != source[row]], other[other != source[row]]
        distance = separation_deg(vectors[source[row]], vectors[other])
        found = np.zeros((len(source), len(radius_deg)))
        middle = (self._offset_deg[1:] + self._offset_deg[:-1]) / 2
        for number, radius in enumerate(radius_deg):
            grid = np.concatenate([[1e-3], np.geomspace(radius / 5, reach_deg * 1.01, 40)])
            rings = circle_in_disc(grid[:, None], middle, radius)
            inside = rings @ np.diff(self._contained[number])
            light = self._photons_of[other, number] * np.interp(distance, grid, inside)
            found[:, number] = np.bincount(row, weights=light, minlength=len(source))
        return found

    def _diffuse_density(self, source):
        """Diffuse photons expected per square degree at each source and bin, (n, n_bins)."""
        import healpy

        lon, lat = lonlat_from_vectors(self.sky.sources.vectors[source].reshape(-1, 3))
        pixel = healpy.ang2pix(self.sky.nside, lon, lat, nest=False, lonlat=True)
        return self.sky.background[pixel]
