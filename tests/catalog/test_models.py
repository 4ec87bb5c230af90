"""Models that a likelihood fit starts from: of gammapy, and of the Fermi tools."""

import re
import time
from xml.etree import ElementTree

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from gammapy.modeling.models import Models
from hypothesis import given, settings
from hypothesis import strategies as st
from made_catalogs import META, make_catalog, make_measured, make_sources
from scipy.integrate import trapezoid

from astro_unetloc import read_source_library, to_gammapy_models
from astro_unetloc.catalog.models import fermi_library
from astro_unetloc.catalog.write import check_fluxes, write_outputs
from astro_unetloc.exceptions import UnetlocWarning
from astro_unetloc.irf.spectra import PHOTON_INDEX

RANGE = {"FLUXEMIN": 10.0, "FLUXEMAX": 1000.0}


def make_fluxes(n=4, **columns):
    """A catalogue of n sources with fluxes and indices, the second of them of unknown index."""
    rows = np.arange(n)
    unknown = np.where(rows == 1, np.nan, 1.0)
    ellipse = {"SemiMajor": 0.06, "SemiMinor": 0.03, "PosAng": 30.0}
    values = {f"Conf_68_{name}": np.full(n, value) for name, value in ellipse.items()}
    values |= {"Flux": 1e-10 * (rows + 1), "Unc_Flux": 1e-11 * (rows + 1)}
    values["Spectral_Index"] = unknown * (2.0 + 0.5 * (rows % 5))
    values["Unc_Spectral_Index"] = unknown * 0.25
    values["Class"] = np.where(rows == 0, "agn", "")
    return make_catalog(make_sources(n), values=values | columns, meta=META | RANGE)


# gammapy


@pytest.mark.parametrize("n", [0, 1, 4])
def test_gammapy_reads_every_source_as_it_is_in_the_catalog(tmp_path, n):
    catalog = make_fluxes(n)
    write_outputs(catalog, [tmp_path / "m.yaml"])
    models = Models.read(tmp_path / "m.yaml")
    assert models.names == list(catalog["Source_Name"])
    for model, row in zip(models, catalog):
        assert model.position.separation(row["skycoord"]) < 1e-6 * u.arcsec
        assert model.frame == "icrs"
        spectral = model.spectral_model
        flux = spectral.integral(10 * u.GeV, 1000 * u.GeV).to_value("cm-2 s-1")
        assert flux == pytest.approx(row["Flux"].value, rel=1e-6)
        assert spectral.amplitude.error == pytest.approx(row["Unc_Flux"].value)
        known = np.isfinite(np.ma.filled(row["Spectral_Index"], np.nan))
        assert spectral.index.value == (row["Spectral_Index"] if known else PHOTON_INDEX)
        assert spectral.index.error == (0.25 if known else 0)
        free = [parameter.name for parameter in model.parameters.free_parameters]
        assert free == ["amplitude", "index", "lon_0", "lat_0"]


def test_models_in_memory_are_those_of_the_file_and_know_how_ra_and_dec_correlate(tmp_path):
    catalog = make_fluxes()
    models = to_gammapy_models(catalog)
    write_outputs(catalog, [tmp_path / "m.yaml"])
    for model, read in zip(models, Models.read(tmp_path / "m.yaml")):
        for one, other in zip(model.parameters, read.parameters):
            assert (one.value, one.unit) == (other.value, other.unit)
            assert one.error == pytest.approx(other.error, rel=1e-12)
        scale = [np.cos(np.radians(model.parameters["lat_0"].value)), 1.0]  # to degrees on the sky
        value, vector = np.linalg.eigh(model.spatial_model.covariance.data * np.outer(scale, scale))
        assert np.sqrt(value) * 1.5096 == pytest.approx([0.03, 0.06], rel=1e-5)
        east, north = vector[:, 1]
        assert np.degrees(np.arctan2(east, north)) % 180 == pytest.approx(30.0, abs=1e-3)
    sub = models.covariance.get_subcovariance(models[2].spatial_model.parameters).data
    np.testing.assert_array_equal(sub, models[2].spatial_model.covariance.data)


def test_unknown_errors_and_sources_without_a_flux_are_left_out():
    catalog = make_fluxes(1, Conf_68_SemiMinor=np.array([0.06]))
    catalog["Conf_68_PosAng"].mask[:] = True  # a circle needs no angle
    place = to_gammapy_models(catalog)[0].spatial_model
    errors = np.array([place.lon_0.error, place.lat_0.error])
    cosine = np.cos(catalog["DEJ2000"][0].to_value("rad"))
    np.testing.assert_allclose(errors * [cosine, 1], 0.06 / 1.5096, rtol=1e-5)
    names = ("Conf_68_SemiMajor", "Unc_Flux", "Unc_Spectral_Index")
    models = to_gammapy_models(make_fluxes(2, **dict.fromkeys(names, np.full(2, np.nan))))
    assert [parameter.error for parameter in models.parameters] == [0] * 12
    catalog = make_fluxes(3, Flux=np.array([1e-10, np.nan, 3e-10]))
    without = str(catalog["Source_Name"][np.flatnonzero(catalog["Flux"].mask)[0]])
    with pytest.warns(UnetlocWarning, match=f"leave out 1 of 3 sources, .*: {re.escape(without)}$"):
        models = to_gammapy_models(catalog)
    assert len(models) == 2
    assert without not in models.names


def test_catalog_needs_fluxes_and_their_energies_but_no_names():
    with pytest.raises(ValueError, match="need the Flux of sources; got a catalogue without; find"):
        to_gammapy_models(make_fluxes(2, Flux=np.full(2, np.nan)))
    catalog = make_fluxes(2)
    del catalog.meta["FLUXEMAX"]
    with pytest.raises(ValueError, match="FLUXEMIN and FLUXEMAX in GeV; got a catalogue whose"):
        to_gammapy_models(catalog)
    assert len(to_gammapy_models(make_measured(0))) == 0
    catalog = make_fluxes(4)
    catalog["Source_Name"] = ["A", "A", "", "<B> & 'c'"]
    assert to_gammapy_models(catalog).names == ["Aa", "Ab", "source", "<B> & 'c'"]


def test_models_are_refused_before_a_run_without_an_exposure():
    check_fluxes(["a.fits", "b.reg"], known=False)
    check_fluxes(["a.yaml", "b.xml"], known=True)
    for name in ("b.yaml", "b.XML"):
        with pytest.raises(ValueError, match=rf"got '{name}' without an exposure .*--exposure"):
            check_fluxes(["a.fits", name], known=False)


# The Fermi tools


def gtlike_flux(spectrum, low, high):
    """Photon flux of a ``PowerLaw`` by the formula of gtlike, from the numbers in the file."""
    p = {e.get("name"): float(e.get("value")) * float(e.get("scale")) for e in spectrum}
    n, g, e0 = p["Prefactor"], p["Index"] + 1, p["Scale"]
    return n * e0 / g * ((high / e0) ** g - (low / e0) ** g)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_source_library_is_what_gtlike_and_fermipy_parse(tmp_path, n):
    catalog = make_fluxes(n)
    write_outputs(catalog, [tmp_path / "s.xml"])
    root = ElementTree.parse(tmp_path / "s.xml").getroot()
    assert root.tag == "source_library"
    assert [s.get("name") for s in root] == list(catalog["Source_Name"])
    for source, row in zip(root, catalog):
        assert source.get("type") == "PointSource"
        spectrum, place = source.find("spectrum"), source.find("spatialModel")
        assert (spectrum.get("type"), place.get("type")) == ("PowerLaw", "SkyDirFunction")
        for parameter in (*spectrum, *place):
            assert set(parameter.keys()) >= {"name", "value", "scale", "min", "max", "free"}
            low, value, high = (float(parameter.get(k)) for k in ("min", "value", "max"))
            assert low <= value <= high
        assert [p.get("free") for p in spectrum] == ["1", "1", "0"]
        assert gtlike_flux(spectrum, 1e4, 1e6) == pytest.approx(row["Flux"].value, rel=1e-5)
        coordinates = SkyCoord(*(float(p.get("value")) for p in place), unit="deg")
        assert coordinates.separation(row["skycoord"]) < 1e-3 * u.arcsec
        prefactor = spectrum[0]
        relative = float(prefactor.get("error")) / float(prefactor.get("value"))
        assert relative == pytest.approx(0.1, rel=1e-5)


def test_library_states_errors_and_classes_only_where_they_are_known():
    root = ElementTree.fromstring(fermi_library(make_fluxes(3)))
    by_class = {source.get("class"): source for source in root}
    assert set(by_class) == {"AGN", None}
    errors = [source.find("spectrum")[1].get("error") for source in root]
    assert sorted(error is None for error in errors) == [False, False, True]
    assert sorted(float(error) for error in errors if error) == pytest.approx([0.25, 0.25])


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.floats(1e-14, 1e-6), st.floats(0.0, 5.0))
def test_amplitude_at_the_pivot_does_not_depend_on_the_index(flux, index):
    def amplitude(index):
        catalog = make_fluxes(1, Flux=np.array([flux]), Spectral_Index=np.array([index]))
        root = ElementTree.fromstring(fermi_library(catalog))
        return {e.get("name"): float(e.get("value")) * float(e.get("scale")) for e in root[0][0]}

    here, there = amplitude(index), amplitude(index + 1e-3)
    moved = there["Prefactor"] * (here["Scale"] / there["Scale"]) ** there["Index"]
    assert moved == pytest.approx(here["Prefactor"], rel=2e-5)
    assert 1e4 < here["Scale"] < 1e6


def test_library_can_be_simulated_from(tmp_path):
    catalog = make_fluxes()
    write_outputs(catalog, [tmp_path / "s.xml"])
    sources = read_source_library(tmp_path / "s.xml")
    assert sources.spectra.flux(10, 1000) == pytest.approx(catalog["Flux"].unmasked.value, rel=1e-5)
    assert sources.source_class.tolist().count(0) == 4


# Curved spectra


EDGES = np.array([10.0, 17.0, 30.0, 60.0, 150.0, 2000.0])
EXPONENT = 2 / 3


def make_curved(index, curvature, kind, n_counts, *, noise=None, pivot=13.0):
    """A catalogue of spectra with an index and a curvature (n,) at 13 GeV, with counts of bands."""
    energy = np.geomspace(EDGES[:-1], EDGES[1:], 400).T
    x = np.log(energy / pivot)
    bx = EXPONENT * x
    bend = x**2 if kind != "psr" else (np.exp(bx) - 1 - bx) / EXPONENT**2
    shapes = np.exp(-np.multiply.outer(index, x) - np.multiply.outer(curvature, bend))
    flux = trapezoid(shapes, energy)
    counts = n_counts * flux / flux.sum(axis=1, keepdims=True)
    background = 0.02 * n_counts * EDGES[:-1] ** -1.5 * EDGES[0] ** 1.5
    seen = counts + background if noise is None else noise.poisson(counts + background)
    counts = np.maximum(seen - background, 0.0)
    error = np.where(counts > 0, np.sqrt(seen), 0.5)
    values = {"Counts_Band": counts, "Unc_Counts_Band": error, "Unc_Flux_Band": 2e-12 * error}
    values |= {"Flux": np.full(len(flux), 1e-10), "Unc_Flux": np.full(len(flux), 1e-11)}
    values |= {"Spectral_Index": index, "Unc_Spectral_Index": np.full(len(flux), 0.3)}
    values["Class"] = np.full(len(flux), kind)
    meta = {"BANDS": " ".join(map(str, EDGES)), "FLUXEMIN": 10.0, "FLUXEMAX": 2000.0}
    return make_catalog(make_sources(len(flux)), values=values, meta=meta)


def index_and_curvature(spectral, energy=13.0):
    """Local index of a model of gammapy and the change of it with ln E, at an energy in GeV."""
    log_energy = np.log(energy) + np.array([-0.01, 0.0, 0.01])
    low, middle, high = np.log(spectral(np.exp(log_energy) * u.GeV).to_value("cm-2 s-1 GeV-1"))
    return (low - high) / 0.02, (2 * middle - low - high) / 1e-4


@pytest.mark.parametrize(
    ("kind", "tag", "curvature", "second"),
    [
        ("psr", "SuperExpCutoffPowerLaw4FGLDR3SpectralModel", 1.8, 1.8),
        ("agn", "LogParabolaSpectralModel", 0.4, 0.8),
        ("agn", "PowerLaw2SpectralModel", 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("n_unknown", [0, 1])
def test_spectrum_follows_the_counts_of_the_bands(kind, tag, curvature, second, n_unknown):
    catalog = make_curved(np.array([3.6]), np.array([curvature]), kind, 1e4)
    for name in ("Counts_Band", "Unc_Counts_Band", "Flux_Band", "Unc_Flux_Band"):
        catalog[name].mask[:, len(EDGES) - 1 - n_unknown :] = True
    (model,) = to_gammapy_models(catalog)
    spectral = model.spectral_model
    assert spectral.tag[0] == tag
    found = index_and_curvature(spectral)
    assert found == pytest.approx((3.6, second), abs=0.05)
    flux = spectral.integral(10 * u.GeV, 2 * u.TeV).to_value("cm-2 s-1")
    assert flux == pytest.approx(1e-10, rel=1e-4)
    assert spectral.amplitude.error / spectral.amplitude.value == pytest.approx(0.1, rel=1e-5)
    if second:
        index, expfactor = list(spectral.parameters)[-2:] if kind == "agn" else (
            spectral.index_1, spectral.expfactor
        )  # fmt: skip
        assert 0.01 < index.error < 0.2
        assert 0.01 < expfactor.error < 0.4
        assert not expfactor.frozen


def test_pulsar_of_few_or_unknown_counts_has_the_curvature_of_other_pulsars():
    catalog = make_curved(
        np.full(2, 4.0), np.full(2, 2.0), "psr", 12, noise=np.random.default_rng(0)
    )
    for column in ("Counts_Band", "Unc_Counts_Band"):
        catalog[column].mask[1] = True
    catalog["Spectral_Index"][1] = 3.9
    measured, unknown = (model.spectral_model for model in to_gammapy_models(catalog))
    for spectral in (measured, unknown):
        assert spectral.index_2.frozen
        assert spectral.expfactor.frozen
        low_index = spectral.index_1.value - spectral.expfactor.value / EXPONENT
        assert low_index == pytest.approx(0.9, abs=0.3)
    assert measured.expfactor.error > 0.3
    assert unknown.index_1.value == pytest.approx(3.9)
    assert (unknown.index_1.error, unknown.expfactor.error) == (pytest.approx(0.3), 0)
    del catalog["Counts_Band"], catalog.meta["BANDS"]
    assert to_gammapy_models(catalog)[0].spectral_model.tag[0].startswith("SuperExpCutoff")


@pytest.mark.parametrize("n_counts", [10, 100, 3000])
def test_power_laws_are_rarely_taken_for_curved_ones(n_counts):
    noise, n = np.random.default_rng(1), 400
    catalog = make_curved(noise.uniform(1.8, 3.2, n), np.zeros(n), "agn", n_counts, noise=noise)
    root = ElementTree.fromstring(fermi_library(catalog))
    kinds = [source.find("spectrum").get("type") for source in root]
    assert kinds.count("PowerLaw") >= 0.99 * n
    assert set(kinds) <= {"PowerLaw", "LogParabola"}


@pytest.mark.parametrize(("kind", "curvature"), [("psr", 1.8), ("agn", 0.4), ("other", 0.0)])
def test_curved_spectra_of_both_formats_are_the_same(tmp_path, kind, curvature):
    catalog = make_curved(np.array([3.0, 3.4]), np.full(2, curvature), kind, 1e4)
    write_outputs(catalog, [tmp_path / "m.yaml", tmp_path / "s.xml"])
    sources, energy = read_source_library(tmp_path / "s.xml"), np.geomspace(5, 500, 9)
    for row, model in enumerate(Models.read(tmp_path / "m.yaml")):
        expected = model.spectral_model(energy * u.GeV).to_value("cm-2 s-1 GeV-1")
        density = sources.spectra.select([row]).density(energy)[0]
        np.testing.assert_allclose(density, expected, rtol=1e-5)
    root = ElementTree.parse(tmp_path / "s.xml").getroot()
    assert {source.get("class") for source in root} == {kind.upper()}
    for parameter in root[0].find("spectrum"):
        low, value, high = (float(parameter.get(k)) for k in ("min", "value", "max"))
        assert low <= value <= high
    free = {p.get("name") for p in root[0].find("spectrum") if p.get("free") == "1"}
    names = {"psr": {"Prefactor", "IndexS", "ExpfactorS"}, "agn": {"norm", "alpha", "beta"}}
    assert free == names.get(kind, {"Prefactor", "Index"})


def test_many_sources_are_written_fast(tmp_path):
    catalog = make_fluxes(1500)
    started = time.monotonic()
    write_outputs(catalog, [tmp_path / "m.yaml", tmp_path / "s.xml"])
    assert time.monotonic() - started < 20
    assert (tmp_path / "m.yaml").read_text().count("SkyModel") == 1500
