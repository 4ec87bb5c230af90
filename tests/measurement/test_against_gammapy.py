"""The fit of a lonely source beside that of gammapy on the same counts, response and background."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from gammapy.datasets import MapDataset
from gammapy.irf import PSFMap
from gammapy.maps import Map, MapAxis, WcsGeom
from gammapy.modeling import Fit
from gammapy.modeling.models import PointSpatialModel, PowerLawSpectralModel, SkyModel
from made_sources import RANGE, background_around, join, photons_of, sources_at

from astro_unetloc import read_map
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.sphere import lonlat_from_vectors, vectors_from_lonlat

CENTER = SkyCoord(115.0, 34.0, unit="deg", frame="galactic")
DENSITY, INDEX = 17.0, 2.45  # of the background, per square degree


def dataset_of(photons):
    """Counts of photons as a gammapy dataset that knows background, exposure and PSF."""
    energy = MapAxis.from_energy_bounds(*RANGE, nbin=8, unit="GeV")
    true = MapAxis.from_energy_bounds(*RANGE, nbin=16, unit="GeV", name="energy_true")
    place = {"skydir": CENTER, "frame": "galactic", "proj": "TAN"}
    image = WcsGeom.create(width=5.0, binsz=0.1, **place)
    counts = Map.from_geom(image.to_cube([energy]))
    where = SkyCoord(*lonlat_from_vectors(photons.vectors), unit="deg", frame="galactic")
    counts.fill_by_coord({"skycoord": where, "energy": photons.energy * u.GeV})
    fraction = -np.diff(energy.edges.value ** (1 - INDEX))
    fraction = DENSITY * (fraction / fraction.sum())[:, None, None]
    background = fraction * image.solid_angle().to_value("deg2")
    center = vectors_from_lonlat(CENTER.l.deg, CENTER.b.deg)
    values = SurveyExposure().at(center[None], true.center.value)
    exposure = Map.from_geom(image.to_cube([true]), unit="cm2 s")
    exposure.data += np.reshape(values, (-1, 1, 1))
    rad = MapAxis.from_edges(np.linspace(0, 2, 201), unit="deg", name="rad")
    inside = np.array([KingPSF().containment(rad.edges.value, e) for e in true.center.value])
    density = np.diff(inside, axis=1) / (np.pi * np.diff(np.radians(rad.edges.value) ** 2))
    coarse = WcsGeom.create(width=20.0, binsz=10.0, axes=[rad, true], **place)
    psf = Map.from_geom(coarse, unit="sr-1")
    psf.data += density[:, :, None, None]
    seen = Map.from_geom(coarse.squash("rad"), unit="cm2 s", data=1.0)
    return MapDataset(
        counts=counts,
        background=Map.from_geom(counts.geom, data=background),
        exposure=exposure,
        psf=PSFMap(psf, exposure_map=seen),
    )


def fitted_by_gammapy(dataset, vector, index):
    """Root of the test statistic, counts and flux; only the amplitude of the source is free."""
    lon, lat = lonlat_from_vectors(vector) * u.deg
    point = PointSpatialModel(lon_0=lon, lat_0=lat, frame="galactic")
    amplitude = 1e-13 / u.Unit("cm2 s GeV")
    law = PowerLawSpectralModel(index=index, amplitude=amplitude, reference=20 * u.GeV)
    for parameter in (point.lon_0, point.lat_0, law.index):
        parameter.frozen = True
    without = dataset.stat_sum()
    dataset.models = [SkyModel(law, point, name="source")]
    Fit().run([dataset])
    flux = law.integral(10 * u.GeV, 1000 * u.GeV).to_value("cm-2 s-1")
    return np.sqrt(without - dataset.stat_sum()), dataset.npred_signal().data.sum(), flux


@pytest.mark.parametrize("photons_each", [15, 100])
def test_significance_counts_and_flux_are_those_of_gammapy(photons_each):
    rng = np.random.default_rng(photons_each)
    vectors = vectors_from_lonlat([CENTER.l.deg], CENTER.b.deg)
    source = photons_of(vectors, photons_each, rng)
    dataset = dataset_of(join(source, background_around(vectors, DENSITY, rng, radius_deg=4.0)))
    ranges = {"band_edges": RANGE, "flux_range": (10.0, 1000.0)}
    ours = measure_sources(sources_at(vectors), read_map(dataset), **ranges)
    index, flux_here = (ours[name].value[0] for name in ("Spectral_Index", "Flux"))
    index = index if np.isfinite(index) else 2.3
    sqrt_ts, counts, flux = fitted_by_gammapy(dataset, ours.vectors[0], index)
    # of gammapy the background is held, here its level is fitted again without the source
    assert ours["Sqrt_TS"][0] == pytest.approx(sqrt_ts, rel=0.1)
    assert ours["Npred"][0] == pytest.approx(counts, rel=0.05)
    assert flux_here == pytest.approx(flux, rel=0.05)
