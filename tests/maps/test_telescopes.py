"""Maps, event lists and datasets of other telescopes than the LAT are read with all their parts."""

import astropy.units as u
import healpy
import numpy as np
import pytest
from gammapy.datasets import MapDataset, MapDatasetOnOff
from gammapy.maps import Map
from made_maps import refuse
from made_sources import sources_at
from made_telescope import CENTER, EXPOSURE, WIDTH_DEG, make_field, narrowing_psf

from astro_unetloc import read_map
from astro_unetloc.catalog.table import glon_glat_vectors
from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.irf.psf import psf_of
from astro_unetloc.measurement.fit import measure_sources
from astro_unetloc.sphere import separation_deg


@pytest.fixture(scope="module")
def field():
    return make_field(psf=narrowing_psf())


def read_as(field, kind, folder):
    """The field as one of the things that `read_map` takes."""
    path = folder / "field.fits"
    made = getattr(field, kind.split()[0])()
    if kind.endswith("file"):
        getattr(made, "writeto", getattr(made, "write", None))(path)
    psf = None if "dataset" in kind else field.psf
    return read_map(path if kind.endswith("file") else made, psf=psf)


KINDS = ("events", "events file", "counts", "counts file", "dataset", "dataset file")


@pytest.mark.parametrize("kind", KINDS)
def test_all_photons_and_the_response_are_read_without_a_warning(field, tmp_path, kind):
    sky_map = read_as(field, kind, tmp_path)
    center = CENTER.galactic.cartesian.xyz.value
    apart = separation_deg(field.photons.vectors, center)
    inside = apart < WIDTH_DEG / 2 if "dataset" in kind else apart >= 0
    assert sky_map.n_photons == pytest.approx(inside.sum(), rel=1e-3)
    np.testing.assert_allclose(sky_map.energy_edges[[0, -1]], [1e2, 1e4], rtol=0.02)
    radius_deg = psf_of(sky_map.psf, center[None]).containment_radius(0.68, 1000.0)
    assert radius_deg == pytest.approx(0.06, rel=0.02)
    assert sky_map.header.get("TELESCOP") == (None if "counts" in kind else "HESS")
    if "dataset" in kind:
        found = sky_map.exposure.at(center[None], np.array([200.0, 2000.0]))
        np.testing.assert_allclose(found, EXPOSURE.to_value("cm2 s"), rtol=1e-6)
        assert np.nansum(sky_map.background.data) == pytest.approx(field.n_background, rel=1e-6)


@pytest.mark.parametrize("n_background", [2_000, 50_000])
def test_footprint_of_events_is_the_field(n_background):
    field = make_field(n_background=n_background)
    sky_map = read_map(field.events())
    near = healpy.query_disc(512, CENTER.galactic.cartesian.xyz.value, np.radians(6))
    covered = sky_map.covers(np.stack(healpy.pix2vec(512, near), axis=-1))
    area_deg2 = covered.sum() * healpy.nside2pixarea(512, degrees=True)
    assert area_deg2 == pytest.approx(WIDTH_DEG**2, rel=0.06)
    assert sky_map.covers(field.photons.vectors).all()


@pytest.mark.parametrize("kind", ["events", "counts", "dataset"])
def test_sources_are_measured_with_the_psf_of_the_telescope(field, tmp_path, kind):
    sky_map, truth = read_as(field, kind, tmp_path), field.truth
    vectors = truth["skycoord"].galactic.cartesian.xyz.value.T
    options = {"band_edges": np.geomspace(100, 1e4, 5), "flux_range": (100, 1e4)}
    found = measure_sources(sources_at(vectors), sky_map, **options)
    np.testing.assert_array_less(abs(found["Npred"] - truth["Npred"]), 3 * found["Unc_Npred"])
    apart = separation_deg(glon_glat_vectors(found), vectors)
    np.testing.assert_array_less(apart, found["Conf_95_SemiMajor"].to_value("deg"))
    if kind == "dataset":
        flux = found["Npred"] / EXPOSURE.to_value("cm2 s")
        np.testing.assert_allclose(found["Flux"].value, flux, rtol=0.01)


def test_off_counts_are_the_background(field, tmp_path):
    """The rings of gammapy leave rounding errors below zero, and have no acceptance at the edge."""
    dataset = field.dataset()
    off, scale = dataset.background * 20.0, dataset.background
    off.data[:, 0, 0] = -1e-16
    whole = Map.from_geom(scale.geom, data=20.0 * scale.data)
    whole.data[:, :, 0] = off.data[:, :, 0] = 0.0
    parts = {"acceptance": scale, "acceptance_off": whole, "psf": dataset.psf}
    dataset = MapDatasetOnOff(counts=dataset.counts, counts_off=off, name="ring", **parts)
    dataset.write(tmp_path / "ring.fits")
    for sky_map in (read_map(dataset), read_map(tmp_path / "ring.fits")):
        np.testing.assert_allclose(sky_map.background.data[:, :, 1:], scale.data[:, :, 1:], 1e-5)
        assert not sky_map.background.data[:, :, 0].any()


def test_a_dataset_in_which_only_the_counts_were_filled_is_counts(field, tmp_path):
    counts = field.counts()
    dataset = MapDataset.create(counts.geom, name="new")
    dataset.counts = counts
    refuse(dataset, "mask_safe must be True in some pixels; got none")
    dataset.mask_safe = None
    sky_map = read_map(dataset, psf=field.psf)
    assert sky_map.n_photons == len(field.photons)
    assert sky_map.exposure is sky_map.background is None
    dataset.write(tmp_path / "new.fits")
    with pytest.warns(UnetlocWarning) as caught:
        assert read_map(tmp_path / "new.fits").psf is None
    assert [str(w.message).split()[2] for w in caught] == ["EXPOSURE", "BACKGROUND", "PSF"]


def test_exposure_below_the_threshold_may_be_zero(field):
    dataset = field.dataset()
    dataset.exposure.data[:2] = 0.0
    exposure = read_map(dataset).exposure
    assert exposure.energy_range[0] == pytest.approx(50 * 400 ** (2 / 16))
    dataset.exposure.data[:5] = 0.0
    with pytest.warns(UnetlocWarning, match="exposure covers 325.2-2e.04 GeV and the map 100-1e"):
        read_map(dataset)


def test_a_radius_is_the_psf_of_a_map():
    field = make_field(psf=4 * u.arcmin)
    sky_map = read_map(field.counts(), psf=field.psf)
    assert sky_map.given["psf"] == 4 * u.arcmin
    assert psf_of(sky_map.psf).containment_radius(0.68, 300.0) == pytest.approx(1 / 15, rel=1e-3)
