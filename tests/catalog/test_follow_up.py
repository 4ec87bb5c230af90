"""A likelihood fit with gammapy starts from the exported catalogue of real data."""

import warnings

import astropy.units as u
import numpy as np
import pytest
from made_catalogs import make_catalog, make_sources

from astro_unetloc import find_sources
from astro_unetloc.catalog.write import write_outputs

# Sources of the field with nothing bright and extended around: PSR J1809-2332, the Galactic
# centre, PSR J1732-3131.
STRONGEST = ("UNL J1809.8-2332", "UNL J1745.6-2900", "UNL J1732.6-3131")


def make_dataset(folder, center, width):
    """A gammapy dataset of real photons above 10 GeV, with its background free in norm."""
    from gammapy.datasets import MapDataset
    from gammapy.irf import EDispKernelMap, PSFMap
    from gammapy.maps import Map, MapAxis
    from gammapy.modeling.models import FoVBackgroundModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates in the headers
        counts, exposure, background = (
            Map.read(folder / f"fermi-3fhl-gc-{name}-cube.fits.gz")
            for name in ("counts", "exposure", "background")
        )
        psf = PSFMap.read(folder / "fermi-3fhl-gc-psf-cube.fits.gz", format="gtpsf")
    counts = counts.cutout(center, width)
    counts.data = counts.data.astype(float)
    axis = counts.geom.axes["energy"]
    true = MapAxis.from_energy_edges(axis.edges, name="energy_true").upsample(2)
    dataset = MapDataset(
        counts=counts,
        exposure=exposure.interp_to_geom(counts.geom.to_image().to_cube([true])),
        background=background.cutout(center, width),
        psf=psf,
        edisp=EDispKernelMap.from_diagonal_response(axis, true),
        name="field",
    )
    dataset.models = [FoVBackgroundModel(dataset_name="field")]
    return dataset


def fit_from(path, name, folder, width):
    """The source of that name as exported and as fitted by gammapy, and whether it converged.

    Sources around it keep their positions, those more than 1.5 deg away also their spectra.
    """
    from gammapy.modeling import Fit
    from gammapy.modeling.models import Models

    models = Models.read(path)
    center = models[name].position
    dataset = make_dataset(folder, center, width)
    dataset.models = [*models, *dataset.models]  # the one line
    for model in models:
        if model.name != name:
            far = model.position.separation(center) > 1.5 * u.deg
            (model if far else model.spatial_model).freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gammapy on sources outside its map
        result = Fit().run([dataset])
    return Models.read(path)[name], models[name], result.success


def check(path, name, folder, width):
    """The position moves by less than its error, flux and index by less than two."""
    start, fitted, success = fit_from(path, name, folder, width)
    assert success
    pull = []
    (index,) = {"index", "index_1", "alpha"} & set(start.parameters.names)
    for one in ("amplitude", index, "lon_0", "lat_0"):
        before, after = start.parameters[one], fitted.parameters[one]
        pull.append((after.value - before.value) / before.error)
        assert 0.5 < after.error / before.error < 2
    assert np.abs(pull[:2]).max() < 2
    assert np.hypot(*pull[2:]) < 1


def test_gammapy_fit_starts_from_the_exported_pulsar(real_data, tmp_path):
    # what the slow test below finds for it
    values = {
        "Conf_68_SemiMajor": 0.00795, "Conf_68_SemiMinor": 0.00761, "Conf_68_PosAng": 17.8,
        "Flux": 6.45e-10, "Unc_Flux": 5.1e-11, "Spectral_Index": 4.08, "Unc_Spectral_Index": 0.26,
    }  # fmt: skip
    catalog = make_catalog(
        make_sources(lon=[7.39141], lat=[-1.99771]),
        values={name: np.array([value]) for name, value in values.items()},
        meta={"FLUXEMIN": 10.0, "FLUXEMAX": 1000.0},
    )
    write_outputs(catalog, [tmp_path / "models.yaml"])
    check(tmp_path / "models.yaml", STRONGEST[0], real_data / "gc", 2 * u.deg)


@pytest.mark.slow
def test_gammapy_fits_of_the_strongest_sources_converge_where_they_started(real_data, tmp_path):
    folder = real_data / "gc"
    names = ("exposure", "psf", "background", "counts")
    cubes = {name: folder / f"fermi-3fhl-gc-{name}-cube.fits.gz" for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dates in the headers
        catalog = find_sources(cubes.pop("counts"), **cubes)
    write_outputs(catalog, [tmp_path / "models.yaml"])
    for name in STRONGEST:
        check(tmp_path / "models.yaml", name, folder, 4 * u.deg)
