"""Every default of the package, once, with the unit in its name."""

from dataclasses import dataclass

__all__ = [
    "ClusteringConfig",
    "GridConfig",
    "LocalizationConfig",
    "MeasurementConfig",
    "PRESETS",
    "TrainingConfig",
]


@dataclass(frozen=True)
class GridConfig:
    """The patch grid: what the network is trained on and what it reads.

    Attributes
    ----------
    nside : int
        Patch centres are the HEALPix pixel centres of this nside (RING, Galactic).
    patch_width_deg : float
        Width of the image that the network is trained on.
    patch_pixels : int
        Its pixels per side.
    read_pixels : int
        Pixels per side of the padded image that is read at inference.
    border_deg : float
        Candidates up to this far outside the owned cell are kept until patches are merged.
    """

    nside: int = 8
    patch_width_deg: float = 10.0
    patch_pixels: int = 128
    read_pixels: int = 160
    border_deg: float = 0.3

    @property
    def pixel_deg(self):
        """Pixel scale at the patch centre in degrees."""
        return self.patch_width_deg / self.patch_pixels


@dataclass(frozen=True)
class ClusteringConfig:
    """k-means with the number of clusters chosen by the algorithm.

    Attributes
    ----------
    cut : float
        Pixels with a probability above this are clustered.
    radius_pix : float
        Radius of the circles around the centroids, in pixels.
    overlap_penalty : float
        Added to the score for each pixel that a circle uses again (negative).
    max_clusters : int or None
        Ceiling of the number of clusters; None for none.
    """

    cut: float = 0.05
    radius_pix: float = 2.0
    overlap_penalty: float = -10.0
    max_clusters: int | None = None


PRESETS = {
    "default": ClusteringConfig(),
    # The numbers of the first description of the method (2019).
    "reference": ClusteringConfig(cut=0.2, radius_pix=3.0, overlap_penalty=-10.0, max_clusters=49),
}


@dataclass(frozen=True)
class LocalizationConfig:
    """From candidates of single patches to sources on the sky.

    Attributes
    ----------
    merge_radius_deg : float
        Candidates of different patches closer than this are one source.
    blend_radius_deg : float
        Sources with a neighbour closer than this carry the flag "blended".
    edge_radius_deg : float
        Coverage is averaged over a disc of this radius around a source.
    edge_coverage : float
        Below this coverage a source carries the flag "near the edge".
    plane_latitude_deg : float
        Galactic latitude below which a source carries the flag "low latitude".
    coarse_pixel_deg : float
        Input pixels larger than this are warned about and flagged.
    """

    merge_radius_deg: float = 0.15
    blend_radius_deg: float = 0.5
    edge_radius_deg: float = 0.5
    edge_coverage: float = 0.9
    plane_latitude_deg: float = 5.0
    coarse_pixel_deg: float = 0.2


@dataclass(frozen=True)
class MeasurementConfig:
    """The likelihood fit of each source.

    Attributes
    ----------
    min_radius_deg, radius_psf : float
        Radius of the region around a source: ``min_radius_deg``, or ``radius_psf`` times the 68 %
        radius of the point-spread function in the lowest bin where that is more.
    min_core_deg, core_pixels : float
        Photons within ``min_core_deg``, within ``core_pixels`` pixels of the map or within the
        radius that holds 90 % in their bin, whichever is largest, tell position, counts and
        spectrum.
    part_deg, part_psf, max_split : float
        Pixels are divided by powers of two until their parts are at most ``part_deg``, or
        ``part_psf`` times the 68 % radius of the point-spread function wide, but not by more than
        ``max_split``.
    max_pairs : float
        Sources with more pairs of a source and an entry than this are fitted in groups.
    systematic : float
        Relative error of the background within the point-spread function that no fit removes, as in
        4FGL (arXiv:1902.10045, section 3.2): counts weigh less where they are so many that it
        exceeds their Poisson error.
    n_rounds : int
        Steps of the fit.
    max_offset_deg : float
        A source whose fit ends farther than this from where it was found failed.
    min_counts : float
        A source whose fit ends with fewer counts failed.
    max_index_error : float
        Indices with a larger error are not listed: the data hardly tell them.
    surface_sigma : tuple of float
        Widths of the priors on slope (two) and curvature (three) of the logarithm of the
        background, per radius of the region.
    background_index : tuple of float
        Mean and width of the prior on the photon index of the background.
    background_spectrum_counts : float
        So many counts in a bin say as much of the background there as its power law does.
    wide_ts : float
        Test statistic of a disc over a point above which a source is "wide".
    wide_radii_deg : tuple of float
        Radii of the discs that are tried.
    bright_ratio, bright_radius_deg : float
        A source with a neighbour within the radius and this many times its counts is near a much
        brighter one.
    """

    min_radius_deg: float = 2.0
    radius_psf: float = 4.0
    min_core_deg: float = 0.4
    core_pixels: float = 2.0
    part_deg: float = 0.08
    part_psf: float = 0.4
    max_split: int = 8
    max_pairs: float = 3e6
    systematic: float = 0.03
    n_rounds: int = 8
    max_offset_deg: float = 0.3
    min_counts: float = 0.5
    max_index_error: float = 1.2
    surface_sigma: tuple = (2.0, 2.0, 1.0, 1.0, 1.0)
    background_index: tuple = (2.45, 0.3)
    background_spectrum_counts: float = 20.0
    wide_ts: float = 16.0
    wide_radii_deg: tuple = (0.15, 0.3)
    bright_ratio: float = 10.0
    bright_radius_deg: float = 1.0


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    Attributes
    ----------
    mask_radius_pix : float
        Radius of the disc that labels a source, in pixels.
    min_photons, min_significance : float
        A source is labelled when it has at least this many photons in the image, and when these
        stand at least so many standard deviations above a known background, see
        `astro_unetloc.observation.significance`.
    """

    mask_radius_pix: float = 2.0
    min_photons: float = 3.0
    min_significance: float = 3.0


# A photon of an input bin draws its energy inside the bin from E ** -photon_index (DESIGN).
PHOTON_INDEX = 2.4
# A bin that straddles a band edge and is wider than this factor is warned about.
MAX_STRADDLING_FACTOR = 1.6
# Photons held in memory at once when a map is placed.
CHUNK_PHOTONS = 2_000_000
# A pixel value this close to an integer is a count.
COUNT_TOLERANCE = 0.01
DEFAULT_MODEL = "lat-10gev"
# The fluxes of catalogues end here, GeV, as those of 3FHL and 4FGL do not go far beyond.
MAX_FLUX_GEV = 1000.0
DEFAULT_SEED = 0
MATCH_RADIUS_DEG = 0.3
