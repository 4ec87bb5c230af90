"""A simulated field of another telescope: events, counts, files, and the sources in it."""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table
from gammapy.datasets import MapDataset
from gammapy.irf import EDispKernelMap, PSFMap
from gammapy.maps import Map, MapAxis, WcsGeom
from made_sources import scatter
from scipy.special import ndtr, ndtri

from astro_unetloc.irf.psf import psf_of
from astro_unetloc.irf.spectra import bin_fractions, draw_energy
from astro_unetloc.maps.photons import Photons
from astro_unetloc.sphere import lonlat_from_vectors, move, tangent_axes, tangent_offsets

CENTER = SkyCoord(150.0, -30.0, unit="deg")
ENERGY_RANGE = (100.0, 10_000.0)  # GeV
WIDTH_DEG = 5.0
# The density of the background falls off from the pointing as a Gaussian.
ACCEPTANCE_DEG, BACKGROUND_INDEX = 1.5, 2.7
EXPOSURE = 7e9 * u.Unit("m2 s")
# Degrees east and north of the pointing, expected counts, photon index. The first two sources are
# 0.25 deg apart; the faint ones lie where the background is low.
SOURCES = np.array(
    [
        (-0.80, 0.60, 200, 2.3),
        (-0.60, 0.75, 120, 2.5),
        (0.30, -0.20, 150, 2.2),
        (1.40, -1.10, 400, 2.6),
        (-1.20, -1.70, 60, 2.4),
    ]
)


def narrowing_psf(radius=0.06 * u.deg, index=0.3):
    """A `PSFMap` of Gaussians with a 68 % radius at 1 TeV that falls as a power of the energy."""
    energy = MapAxis.from_energy_bounds("50 GeV", "20 TeV", 16, name="energy_true")
    sigma = radius / np.sqrt(-2 * np.log(0.32)) * energy.center.to_value("TeV") ** -index
    return PSFMap.from_gauss(energy, sigma=sigma)


def make_field(seed=0, *, center=CENTER, psf=0.06 * u.deg, n_background=50_000, sources=SOURCES):
    """A `Field` of 5 x 5 deg and 0.1-10 TeV with sources (east, north, counts, index)."""
    rng, axes = np.random.default_rng(seed), _axes(center)
    east, north, expected, index = np.transpose(sources)
    vectors = move(*axes, east, north)
    number = rng.poisson(expected)
    energy = draw_energy(rng.random(number.sum()), *ENERGY_RANGE, np.repeat(index, number))
    offset = psf_of(psf).sample_offset(energy, rng)
    of_sources = Photons(scatter(np.repeat(vectors, number, axis=0), offset, rng), energy)
    n, edge = rng.poisson(n_background), ndtr(-WIDTH_DEG / 2 / ACCEPTANCE_DEG)
    x, y = ndtri(rng.uniform(edge, 1 - edge, (2, n))) * ACCEPTANCE_DEG
    energy = draw_energy(rng.random(n), *ENERGY_RANGE, BACKGROUND_INDEX)
    photons = Photons.concatenate([Photons(move(*axes, x, y), energy), of_sources])
    sky = SkyCoord(*lonlat_from_vectors(vectors), unit="deg", frame="galactic").icrs
    truth = QTable({"skycoord": sky, "RAJ2000": sky.ra, "DEJ2000": sky.dec})
    truth["Npred"], truth["Spectral_Index"] = expected, index
    return Field(center, psf, photons.select(rng.permutation(len(photons))), truth, n_background)


def _axes(center):
    """The direction of a centre, its east and its north as vectors (1, 3)."""
    vectors = center.galactic.cartesian.xyz.value[None]
    return vectors, *tangent_axes(vectors)


@dataclass(frozen=True)
class Field:
    """What the telescope observed, and the truth."""

    center: SkyCoord  # the pointing
    psf: object  # as `astro_unetloc.irf.read_psf` takes it
    photons: Photons
    truth: QTable  # position, expected counts and photon index of each source
    n_background: float  # expected counts

    def events(self, **keywords):
        """The event list as an HDUList in the format of gamma-astro-data-formats."""
        sky = SkyCoord(*lonlat_from_vectors(self.photons.vectors), unit="deg", frame="galactic")
        east, north = tangent_offsets(*_axes(self.center), self.photons.vectors)
        n = len(self.photons)
        columns = [
            fits.Column("EVENT_ID", "K", array=np.arange(n)),
            fits.Column("TIME", "D", unit="s", array=np.linspace(0, 1800, n)),
            fits.Column("RA", "E", unit="deg", array=sky.icrs.ra.deg),
            fits.Column("DEC", "E", unit="deg", array=sky.icrs.dec.deg),
            fits.Column("ENERGY", "E", unit="TeV", array=self.photons.energy / 1e3),
            fits.Column("DETX", "E", unit="deg", array=east),
            fits.Column("DETY", "E", unit="deg", array=north),
            fits.Column("MULTIP", "I", array=np.full(n, 4)),
        ]
        events = fits.BinTableHDU.from_columns(columns, name="EVENTS")
        events.header.update(
            HDUDOC="https://gamma-astro-data-formats.readthedocs.io", HDUVERS="0.3",
            HDUCLASS="GADF", HDUCLAS1="EVENTS", OBS_ID=23523, TELESCOP="HESS", INSTRUME="CT1-4",
            RADECSYS="ICRS", EQUINOX=2000.0, RA_PNT=self.center.icrs.ra.deg,
            DEC_PNT=self.center.icrs.dec.deg, MJDREFI=51910, MJDREFF=0.0, TIMESYS="TT",
            TIMEUNIT="s", ONTIME=1800.0, LIVETIME=1700.0, DEADC=0.94,
        )  # fmt: skip
        events.header.update(keywords)
        times = [fits.Column(k, "D", "s", array=[t]) for k, t in (("START", 0), ("STOP", 1800))]
        good_times = fits.BinTableHDU.from_columns(times, name="GTI")
        return fits.HDUList([fits.PrimaryHDU(), events, good_times])

    def counts(self, *, n_energy=6, pixel_deg=0.02):
        """The counts as a map of gammapy in energy bins of equal ratios."""
        low, high = ENERGY_RANGE * u.GeV
        axis = MapAxis.from_energy_bounds(low.to("TeV"), high.to("TeV"), n_energy)
        options = {"width": WIDTH_DEG, "binsz": pixel_deg, "frame": "icrs", "axes": [axis]}
        counts = Map.from_geom(WcsGeom.create(skydir=self.center, **options), dtype=np.float32)
        lon, lat = lonlat_from_vectors(self.photons.vectors)
        sky = SkyCoord(lon, lat, unit="deg", frame="galactic")
        counts.fill_by_coord({"skycoord": sky, "energy": self.photons.energy * u.GeV})
        return counts

    def background(self, geom):
        """The expected counts of the background in a geometry of gammapy."""
        sky = geom.to_image().get_coord().skycoord.galactic.cartesian.xyz.value
        east, north = tangent_offsets(*_axes(self.center), np.moveaxis(sky, 0, -1))
        image = np.exp(-(east**2 + north**2) / (2 * ACCEPTANCE_DEG**2))
        image *= (np.abs(east) <= WIDTH_DEG / 2) & (np.abs(north) <= WIDTH_DEG / 2)
        edges = geom.axes["energy"].edges.to_value("GeV")
        parts = bin_fractions(np.array(ENERGY_RANGE), edges, BACKGROUND_INDEX)[0]
        data = self.n_background * parts[:, None, None] * image / image.sum()
        return Map.from_geom(geom, data=data)

    def dataset(self, *, n_energy=6, pixel_deg=0.02):
        """A `MapDataset` with counts, background, response and a round ``mask_safe``."""
        counts = self.counts(n_energy=n_energy, pixel_deg=pixel_deg)
        true = MapAxis.from_energy_bounds("50 GeV", "20 TeV", 16, name="energy_true")
        geom = counts.geom.to_image().to_cube([true])
        exposure = Map.from_geom(geom, unit=EXPOSURE.unit)
        exposure.data += EXPOSURE.value
        inside = counts.geom.separation(self.center) < WIDTH_DEG / 2 * u.deg
        mask = Map.from_geom(counts.geom, data=np.broadcast_to(inside, counts.data.shape))
        psf = self.psf if isinstance(self.psf, PSFMap) else narrowing_psf(self.psf, 0.0)
        edisp = EDispKernelMap.from_diagonal_response(counts.geom.axes["energy"], true)
        parts = {"background": self.background(counts.geom), "exposure": exposure, "edisp": edisp}
        parts["meta_table"] = Table({"TELESCOP": ["HESS"], "OBS_ID": [23523]})
        return MapDataset(counts=counts, psf=psf, mask_safe=mask, name="field", **parts)
