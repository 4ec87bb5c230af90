"""A search: its parameters, what it found, and the keywords that record both."""

import platform
import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import joblib
import numpy as np
from astropy.units import Quantity

from astro_unetloc.catalog.columns import AREA, BANDS
from astro_unetloc.catalog.table import creator, glon_glat_vectors, make_catalog
from astro_unetloc.detection.kernels import smooth_background
from astro_unetloc.exceptions import InputError, counted
from astro_unetloc.files import checksum, split_choice
from astro_unetloc.maps.patches import Patches
from astro_unetloc.maps.photons import DiscFootprint
from astro_unetloc.maps.skymap import SkyMap
from astro_unetloc.measurement.predicted import (
    as_pixels,
    compare_counts,
    counts_in_bins,
    given_background,
    predicted_sources,
    psf_radii_deg,
)
from astro_unetloc.sphere import lonlat_from_vectors
from astro_unetloc.unet.model import SCAN_SQRT_TS, Model

# The finders, and how the summary of a run names them.
FINDERS = {"unet": "", "scan": "scan, ", "both": "scan and "}
_VERSIONS = ("numpy", "scipy", "astropy", "gammapy", "healpy", "scikit-learn", "ai-edge-litert")
# Keywords of the files that belong to a map begin with these letters.
_COMPANIONS = {"exposure": "EXP", "background": "BKG", "psf": "PSF", "extended": "EXT"}


@dataclass(frozen=True, repr=False)
class Run:
    """One search: its parameters and what it found."""

    sky_map: SkyMap
    model: Model
    finder: str  # unet, scan or both
    threshold: float  # smallest Score listed
    purity: float | None  # expected purity that set the threshold
    seed: int
    region: DiscFootprint | None  # sources outside are not listed
    # Edges (k + 1,) in GeV of the energies that were fitted; None if no fit was wanted.
    fit_edges: np.ndarray | None
    classified: bool  # whether the classes were wanted
    patches: Patches
    # (n, ny, nx) of a source of any class in each pixel of the patches; None without the network
    probability: np.ndarray | None
    n_failed: int  # patches for which the network returned no finite probability
    background_norm: float | None  # fitted factor of the background of the map, if it has one
    sources: object  # QTable of all sources above the threshold, also those outside the region
    given: dict  # the other options, as they were given

    @cached_property
    def catalog(self):
        """The sources inside the region, as a catalogue with the keywords of the run."""
        sources = self.sources.copy()
        if SCAN_SQRT_TS in sources.colnames:
            sources.remove_column(SCAN_SQRT_TS)
        if self.region is not None:
            sources = sources[self.region.covers(glon_glat_vectors(sources))]
        return make_catalog(sources, self.keywords() | {AREA: self.area.to_string()})

    @cached_property
    def area(self):
        """The searched area inside the region, a `mocpy.MOC` (ICRS); no patch that failed."""
        patches = self.patches
        if self.n_failed:
            seen = self.probability.any(axis=(1, 2))[:, None, None, None]  # elsewhere it is zero
            patches = replace(patches, coverage=patches.coverage * seen)
        return patches.observed_area(self.region)

    @cached_property
    def predicted(self):
        """`PredictedCounts` of the map: observed counts, those of the sources and the background.

        The sources are those of ``sources``, with their fitted counts in the bands. The background
        is that of the map times its fitted factor, or else one smooth background that is estimated
        from the counts which the sources do not explain.
        """
        if self.fit_edges is None or not len(self.fit_edges):
            wanted = "the predicted counts are those of fitted sources"
            raise InputError(f"{wanted}; got a search without a fit; search with measure=True")
        bands, sources = self.model.band_edges, self.sources
        sky_map, vectors = as_pixels(self.sky_map, bands), glon_glat_vectors(sources)
        counts = counts_in_bins(sources, sky_map, bands, self.fit_edges)
        of_sources = predicted_sources(vectors, counts, sky_map)
        if sky_map.background is None:
            psf_deg = float(psf_radii_deg(sky_map)[0])
            return compare_counts(
                sky_map, of_sources, smooth_background(sky_map, of_sources, psf_deg)
            )
        norm = 1.0 if self.background_norm is None else self.background_norm
        return compare_counts(sky_map, of_sources, given_background(sky_map, norm))

    def keywords(self):
        """Return the provenance of the run as FITS keywords and their values."""
        sky_map, model = self.sky_map, self.model
        keywords = {
            "CREATOR": creator(),
            "VERSIONS": ", ".join(versions()),
            "COMMAND": self.command(),
            "MODEL": model.name,
            "MODELSHA": model.sha256,
            "FINDER": self.finder,
            BANDS: band_text(model),
            "THRESH": self.threshold,
            "PURITY": self.purity,
            "SEED": self.seed,
            "MEASURE": self.fit_edges is not None,
            "CLASSIFY": self.classified,
            "NPHOTONS": sky_map.n_photons,
            **self._inputs,
        }
        if self.region is not None:
            keywords["REGION"] = " ".join(self._region_words())
        if "class_prior" in self.given:
            keywords["CLPRIOR"] = prior_text(self.given["class_prior"])
        if "exposure_frame" in self.given:
            keywords["EXPFRAME"] = self.given["exposure_frame"]
        keywords = {name: value for name, value in keywords.items() if value not in (None, "")}
        keywords |= energy_keywords(sky_map, self.fit_edges)
        keywords["NFAILED"] = self.n_failed
        if self.background_norm is not None:
            keywords["BKGNORM"] = self.background_norm
        # The program that made the map did not make the catalogue.
        keywords |= {key: value for key, value in sky_map.header.items() if key != "CREATOR"}
        if self.fit_edges is not None:
            keywords |= dict(zip(("FLUXEMIN", "FLUXEMAX"), model.flux_range))
        return keywords

    @cached_property
    def _inputs(self):
        """Keywords of the map and its companions: name, checksum and kind of each."""
        sky_map = self.sky_map
        data = sky_map.counts if sky_map.events is None else sky_map.events
        kind = "event list" if data is sky_map.events else type(data).__name__
        found = sky_map.checksum or joblib.hash(data)
        keywords = {"INFILE": sky_map.name, "INSHA256": found, "INKIND": kind}
        for role, key in _COMPANIONS.items():
            used = getattr(sky_map, role, None)
            if parts := _listed(self.given.get(role, used)):
                keywords[f"{key}FILE"] = ", ".join(map(_name, parts))
                keywords[f"{key}SHA"] = ", ".join(map(_checksum, parts))
                keywords[f"{key}KIND"] = "catalogue" if used is None else type(used).__name__
        return keywords

    def command(self):
        """Return the command that repeats the search; empty if an input was no file."""
        given, model = self.given, self.model
        words = ["astro-unetloc", *_listed(given.get("map")), "-o", "catalog.fits"]
        for role in _COMPANIONS:
            for part in _listed(given.get(role)):
                is_radius = isinstance(part, Quantity)
                words += ["--psf-radius", _name(part)] if is_radius else [f"--{role}", part]
        if "map" not in given or not all(isinstance(word, str | Path) for word in words):
            return ""
        limit = "threshold" if self.purity is None else "purity"
        words += ["--model", model.path] * model.has_network
        words += ["--finder", self.finder, f"--{limit}", getattr(self, limit), "--seed", self.seed]
        words += ["--no-measure"] * (self.fit_edges is None)
        words += ["--no-classify"] * (self.fit_edges is not None and not self.classified)
        if "class_prior" in given:
            words += ["--class-prior", prior_text(given["class_prior"])]
        if "exposure_frame" in given:
            words += ["--exposure-frame", given["exposure_frame"]]
        if "energy_range" in given:
            words += ["--energy-range", *given["energy_range"]]
        if "time_range" in given:
            words += ["--time-range", *given["time_range"]]
        if self.region is not None:
            words += ["--frame", "galactic", "--region", *self._region_words()]
        return shlex.join(map(str, words))

    def _region_words(self):
        """Galactic longitude and latitude of the centre of the region, and its radius; degrees."""
        numbers = *lonlat_from_vectors(self.region.center), self.region.radius_deg
        return [f"{float(number):.12g}" for number in numbers]

    def summary(self, paths=()):
        """Return one line on what was found, with the paths of the files that were written."""
        low, high = np.clip(self.sky_map.energy_edges[[0, -1]], *self.model.energy_range)
        score, real, norm = np.asarray(self.catalog["Score"]), "", self.background_norm
        if len(score) and self.model.calibration_of(self.finder) is not None:
            real = f", {score.sum():,.1f} of {'them' if len(score) > 1 else 'it'} real as expected,"
        return (
            f"{counted(len(score), 'source')}{real} with Score >= {self.threshold:.3g} in "
            f"{counted(self.patches.n_photons, 'photon')} of {low:.4g}-{high:.4g} GeV "
            f"({counted(len(self.patches), 'patch', 'patches')}, {FINDERS[self.finder]}model "
            f"{self.model.name}"
            + (")" if norm is None else f", background times {norm:.3g})")
            + (f" -> {', '.join(map(str, paths))}" if paths else "")
        )

    def __repr__(self):
        return f"<Run: {self.summary()}>"


def energy_keywords(sky_map, fit_edges):
    """Keywords of the energies of a map and of the fit, whose edges may be None or empty."""
    keywords = {}
    for name, edges in {"E": sky_map.energy_edges, "FITE": fit_edges}.items():
        if edges is not None and len(edges):
            keywords |= {f"{name}MIN": float(edges[0]), f"{name}MAX": float(edges[-1])}
    return keywords


def band_text(model):
    """Edges of the bands of a model in GeV, as text for a header."""
    return " ".join(f"{edge:.8g}" for edge in model.band_edges)


def prior_text(class_prior):
    """Fractions of the classes as text for a header or the command line."""
    return " ".join(f"{fraction:.6g}" for fraction in class_prior)


def versions():
    """Names and versions of Python and of the libraries that results depend on."""
    found = [f"Python {platform.python_version()}"]
    for name in _VERSIONS:
        with suppress(PackageNotFoundError):  # TensorFlow runs the network without LiteRT
            found.append(f"{name} {version(name)}")
    return found


def _listed(part):
    """List of the parts of an option that may have none, one or several."""
    if part is None:
        return []
    return list(part) if isinstance(part, list | tuple) else [part]


def _name(part):
    """Name of a file or of the type of an object; an angle as text."""
    if isinstance(part, Quantity):
        return f"{part.to_value('deg'):.12g} deg"
    return Path(part).name if isinstance(part, str | Path) else type(part).__name__


def _checksum(part):
    """The sha256 of a file, a hash of what an object holds."""
    if isinstance(part, str | Path) and split_choice(part)[0].is_file():
        return checksum(part)
    return joblib.hash(_name(part) if isinstance(part, Quantity) else part)
