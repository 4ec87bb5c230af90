import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.patches import GridConfig, TangentPlane
from astro_unetloc.simulation.sky import simulate_sky
from astro_unetloc.training.patch_set import open_patch_set
from astro_unetloc.unet.model import load_model


@pytest.fixture
def benchmark(import_benchmark):
    return import_benchmark("learn_without_labels")


def test_injected_photons_follow_the_psf_of_their_sources(benchmark, rng):
    plane, psf = TangentPlane(30.0, 40.0, 128, GridConfig().pixel_deg), KingPSF()
    x, y, photons, origin = benchmark.inject(plane, 200, psf, (10.0, 2000.0), rng)
    px, py = plane.pixel_from_vectors(photons.vectors)
    offset_deg = np.hypot(px - x[origin], py - y[origin]) * plane.pixel_deg
    contained = [psf.containment(r, e) for r, e in zip(offset_deg[:3000], photons.energy)]
    assert np.mean(contained) == pytest.approx(0.5, abs=0.03)  # uniform from 0 to 1
    assert 3 < np.bincount(origin).mean() < 60


def test_patches_hold_the_photons_of_the_map_and_labels_of_what_was_injected(benchmark, tmp_path):
    center = SkyCoord(100 * u.deg, 35 * u.deg, frame="galactic")
    sky_map, _ = simulate_sky(center=center, radius=12 * u.deg, rng=3)
    options = type("Options", (), {"seed": 1, "patches": 20, "injected": 0.0})()
    edges = load_model().band_edges
    for injected in (0.0, 15.0):
        options.injected = injected
        benchmark.learning_set(tmp_path / f"{injected}.h5", sky_map, edges, options)
    with open_patch_set(tmp_path / "0.0.h5") as own, open_patch_set(tmp_path / "15.0.h5") as more:
        assert len(own.rows(validation=True)) == 2
        own, more = own.read(), more.read()
    assert not own["mask"].any()
    assert own["counts"].sum() > 1000
    fraction = more["mask"].mean() / (15 * np.pi * 2**2 / 128**2)
    assert 0.1 < fraction < 1.0  # not all sources stand out
    assert np.all(more["counts"] * (1 - more["coverage"]) == 0)
    assert 0.3 < own["coverage"].mean() < 1.0
