"""A likelihood fit with gammapy starts from the catalogue and the map of a search."""

import warnings
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from gammapy.maps import Map, MapAxis, WcsGeom
from gammapy.modeling import Fit
from made_catalogs import make_catalog, make_sources

from astro_unetloc import find_sources, read_map, to_gammapy_dataset, to_gammapy_models
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.pipeline import detect

# Sources of the field with nothing bright and extended around: PSR J1809-2332, the Galactic
# centre, PSR J1732-3131.
STRONGEST = ("UNL J1809.8-2332", "UNL J1745.6-2900", "UNL J1732.6-3131")
# What the slow test below finds for the first one.
PULSAR = {
    "Conf_68_SemiMajor": 0.00795, "Conf_68_SemiMinor": 0.00761, "Conf_68_PosAng": 17.8,
    "Flux": 6.45e-10, "Unc_Flux": 5.1e-11, "Spectral_Index": 4.08, "Unc_Spectral_Index": 0.26,
}  # fmt: skip


def make_pulsar(n=1, *, lon=(7.39141, 9.39141), lat=(-1.99771, -1.99771)):
    """A catalogue of n sources like PSR J1809-2332, the first one at its position."""
    values = {name: np.full(n, value) for name, value in PULSAR.items()}
    sources = make_sources(lon=lon[:n], lat=lat[:n])
    sources["Score"] = np.linspace(1, 0.9, n)
    return make_catalog(sources, values=values, meta={"FLUXEMIN": 10.0, "FLUXEMAX": 1000.0})


def files_of(folder):
    """Files of the Galactic centre by their role."""
    names = ("counts", "exposure", "psf", "background")
    return {name: folder / f"fermi-3fhl-gc-{name}-cube.fits.gz" for name in names}


def check(catalog, name, folder, width, **companions):
    """The position moves by less than its error, flux and index by less than two."""
    start = to_gammapy_models(catalog)[name]
    near = catalog["skycoord"].separation(start.position) < 1.5 * u.deg
    files = files_of(folder) | companions
    dataset = to_gammapy_dataset(
        files.pop("counts"), catalog, free=list(catalog["Source_Name"][near]),
        center=start.position, width=width, **files,
    )  # fmt: skip
    for model in dataset.models[:-1]:
        if model.name != name:
            model.spatial_model.freeze()
    fitted = dataset.models[name]
    assert Fit().run(dataset).success
    pull = []
    (index,) = {"index", "index_1", "alpha"} & set(start.parameters.names)
    for one in ("amplitude", index, "lon_0", "lat_0"):
        before, after = start.parameters[one], fitted.parameters[one]
        pull.append((after.value - before.value) / before.error)
        assert 0.5 < after.error / before.error < 2
    assert np.abs(pull[:2]).max() < 2
    assert np.hypot(*pull[2:]) < 1


def test_gammapy_fit_starts_from_the_pulsar(real_data):
    check(make_pulsar(), STRONGEST[0], real_data / "gc", 2 * u.deg)


@pytest.mark.slow
def test_gammapy_fits_of_the_strongest_sources_converge_where_they_started(real_data):
    files = files_of(real_data / "gc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates in the headers
        catalog = find_sources(files.pop("counts"), **files)
    for name in STRONGEST:
        check(catalog, name, real_data / "gc", 4 * u.deg)


@pytest.mark.slow
def test_gammapy_fits_with_the_background_of_the_search_as_the_search_does(real_data):
    files = files_of(real_data / "gc")
    del files["background"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates in the headers
        run = detect(files.pop("counts"), **files)
    for name in STRONGEST:
        background = run.predicted.background
        check(run.catalog, name, real_data / "gc", 4 * u.deg, background=background)


# A world without files


def make_world(npix=40, binsz=0.1):
    """Counts, exposure and background of a field around the pulsar, one photon in each bin."""
    center = SkyCoord(7.39141, -1.99771, unit="deg", frame="galactic")
    axis = MapAxis.from_energy_bounds("10 GeV", "1000 GeV", nbin=4)
    geom = WcsGeom.create(skydir=center, npix=npix, binsz=binsz, frame="galactic", axes=[axis])
    true = axis.copy(name="energy_true")
    exposure = Map.from_geom(geom.to_image().to_cube([true]), data=3e11, unit="cm2 s")
    counts = Map.from_geom(geom, data=1.0)
    return counts, {"exposure": exposure, "background": Map.from_geom(geom, data=0.9)}, center


def test_dataset_has_the_counts_of_the_map_and_the_fluxes_of_the_catalog():
    counts, companions, center = make_world()
    counts.data[:, :3] = np.nan
    dataset = to_gammapy_dataset(counts, make_pulsar(), **companions)
    assert dataset.counts.data.sum() == 4 * 37 * 40
    assert not dataset.mask_safe.data[:, :3].any()
    assert dataset.mask_safe.data[:, 3:].all()
    np.testing.assert_allclose(dataset.background.data, 0.9, rtol=1e-3)
    np.testing.assert_allclose(dataset.exposure.quantity.to_value("cm2 s"), 3e11, rtol=1e-6)
    # the pulsar has a cut-off; its photons lie in the 4 deg around it
    flux = PULSAR["Flux"]
    assert dataset.npred_signal().data.sum() == pytest.approx(3e11 * flux, rel=0.03)
    radius = dataset.psf.containment_radius(0.68, 12 * u.GeV).to_value("deg")
    assert radius == pytest.approx(KingPSF().containment_radius(0.68, 12.0), rel=0.01)


def test_only_the_chosen_sources_are_free_and_far_ones_are_left_out():
    counts, companions, center = make_world()
    catalog = make_pulsar(2)
    near, far = catalog["Source_Name"]
    dataset = to_gammapy_dataset(counts, catalog, free=near, **companions)
    assert dataset.models.names == [near, far, "unetloc-bkg"]
    free = [parameter.name for parameter in dataset.models.parameters.free_parameters]
    assert free == ["amplitude", "index", "lon_0", "lat_0", "norm"]
    with pytest.raises(ValueError, match="free must be names of sources with a flux; got UNL"):
        to_gammapy_dataset(counts, catalog[:1], free=[near, far], **companions)
    small = to_gammapy_dataset(counts, catalog, center=center, width=1 * u.deg, **companions)
    assert small.models.names == [near, "unetloc-bkg"]
    assert small.counts.geom.data_shape == (4, 10, 10)


def test_events_are_binned_in_an_image(real_data):
    files = files_of(real_data / "gc")
    center = SkyCoord(7.39141, -1.99771, unit="deg", frame="galactic")
    part = {"center": center, "width": 2 * u.deg, "energy_range": (10, 500)}
    cube, events = files.pop("counts"), real_data / "gc" / "fermi-3fhl-gc-events.fits.gz"
    of_cube, of_events = (
        to_gammapy_dataset(path, make_pulsar(), **part, **files) for path in (cube, events)
    )
    for one in ("counts", "background", "exposure"):
        sums = (np.sum(getattr(d, one).data) / getattr(d, one).data.shape[0] ** (one == "exposure")
                for d in (of_cube, of_events))  # fmt: skip
        assert np.divide(*sums) == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="events need the center and the width"):
        to_gammapy_dataset(events, make_pulsar(), energy_range=(10, 500), **files)


@pytest.mark.filterwarnings("ignore:pixels of", "ignore:the exposure covers")
def test_map_without_companions_or_of_healpix_pixels_is_refused():
    counts, companions, _ = make_world()
    for name in companions:
        others = {other: part for other, part in companions.items() if other != name}
        with pytest.raises(ValueError, match=f"needs the {name} of the map; got none"):
            to_gammapy_dataset(counts, make_pulsar(), **others)
    other = replace(read_map(counts, **companions), header={"TELESCOP": "HESS"})
    with pytest.raises(ValueError, match="needs the PSF of the telescope; got photons of HESS"):
        to_gammapy_dataset(other, make_pulsar())
    sphere = Map.create(map_type="hpx", nside=64, frame="galactic", axes=[counts.geom.axes[0]])
    sphere.data += 1.0
    background = sphere.copy(data=0.9 * sphere.data)
    with pytest.raises(ValueError, match="gammapy fits images; got a HEALPix map"):
        to_gammapy_dataset(
            sphere, make_pulsar(), exposure=companions["exposure"], background=background
        )
