from dataclasses import fields

import numpy as np
import pytest

from astro_unetloc.simulation.galaxy import Galaxy, add_clouds, draw_galaxy, galaxy_shapes, tilt


def sky(nside):
    import healpy

    lon, lat = healpy.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)
    return (lon + 180) % 360 - 180, lat


def test_gas_lies_in_the_plane_and_the_loop_north_of_it():
    shapes = galaxy_shapes(Galaxy(), 32)
    lon, lat = sky(32)
    assert shapes["GAS"][np.abs(lat) < 3].mean() > 5 * shapes["GAS"][np.abs(lat) > 30].mean()
    assert shapes["IC"][np.abs(lat) < 10].mean() > shapes["IC"][np.abs(lat) > 60].mean()
    assert np.all(np.abs(lon[shapes["BUBBLES"] > 0]) < 25)
    assert shapes["LOOP"][(lat > 30) & (np.abs(lon) < 60)].mean() > 1
    assert shapes["LOOP"][(np.abs(lon) > 120) & (lat < 0)].max() == 0


def test_profile_has_no_seam_at_the_centre_or_behind():
    gas = galaxy_shapes(Galaxy(), 64)["GAS"]
    lon, lat = sky(64)
    for edge in (0.0, 180.0):
        near = (np.abs(lat) < 2) & (np.abs(np.abs(lon) - edge) < 2)
        left, right = gas[near & (lon > 0)], gas[near & (lon < 0)]
        assert left.mean() == pytest.approx(right.mean(), rel=0.05)


def test_drawn_galaxies_differ_and_stay_valid():
    rng = np.random.default_rng(0)
    drawn = [draw_galaxy(Galaxy(), rng, scatter=0.2) for _ in range(5)]
    assert len({g.disc_height for g in drawn}) == 5
    for galaxy in drawn:
        assert len(galaxy.disc_profile) == len(Galaxy().disc_profile)
        for shape in galaxy_shapes(galaxy, 8).values():
            assert np.all(np.isfinite(shape))
            assert shape.min() >= 0
    assert draw_galaxy(Galaxy(), rng, scatter=0.0) == Galaxy()
    assert {type(getattr(drawn[0], f.name)) for f in fields(Galaxy)} == {tuple, float}


def test_clouds_move_emission_but_keep_it():
    gas = galaxy_shapes(Galaxy(), 64)["GAS"]
    cloudy = [add_clouds(gas, 64, np.random.default_rng(s), fraction=0.2) for s in (1, 1, 2)]
    np.testing.assert_array_equal(cloudy[0], cloudy[1])
    assert not np.array_equal(cloudy[0], cloudy[2])
    assert cloudy[0].mean() == pytest.approx(gas.mean())
    assert cloudy[0].min() >= 0
    np.testing.assert_allclose(add_clouds(gas, 64, np.random.default_rng(1), fraction=0.0), gas)


def test_equal_weights_do_not_tilt():
    shape = np.random.default_rng(0).random(768)
    np.testing.assert_allclose(tilt(shape, (2, 2, 2)), 2 * shape)
    lon, lat = sky(8)
    plane = tilt(np.ones(768), (1, 1, 1, 2))
    assert plane.min() >= 1 - 1e-12
    assert np.abs(lat[plane.argmax()]) < 3
    inner = tilt(np.ones(768), (1, 0, 0))
    assert inner[np.abs(lon) < 10].mean() > 0.95
    assert inner[np.abs(lon) > 170].mean() < 0.05
