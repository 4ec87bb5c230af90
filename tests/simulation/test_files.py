from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astro_unetloc.irf.spectra import KINDS, Spectra
from astro_unetloc.simulation.files import format_source_library, read_source_library
from astro_unetloc.simulation.population import CLASSES, SHAPES, Sources, draw_sources
from astro_unetloc.sphere import separation_deg, vectors_from_lonlat

POINT = """<spatialModel type="SkyDirFunction"><parameter name="RA" value="83.63" scale="1"/>
<parameter name="DEC" value="22.01" scale="1"/></spatialModel>"""
POWER_LAW = """<spectrum type="PowerLaw"><parameter name="Prefactor" value="2" scale="1e-12"/>
<parameter name="Index" value="-2.2" scale="1"/><parameter name="Scale" value="1000"/></spectrum>"""


def library(tmp_path, *parts, attributes='name="A" type="PointSource"'):
    """File of a library of one source."""
    path = tmp_path / "model.xml"
    path.write_text(
        f"<source_library title='t'><source {attributes}>{''.join(parts)}</source></source_library>"
    )
    return path


def assert_same(found, expected):
    assert separation_deg(found.vectors, expected.vectors).max(initial=0) < 1e-9
    for name in ("source_class", "shape"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.size_deg, expected.size_deg, rtol=1e-12)
    for name in vars(expected.spectra):
        np.testing.assert_allclose(
            getattr(found.spectra, name), getattr(expected.spectra, name), rtol=1e-11, err_msg=name
        )


def test_a_whole_population_reads_back(tmp_path):
    sources = draw_sources(np.random.default_rng(0), agn=0.05, extended=2)
    names = [f"S{i}" for i in range(len(sources))]
    (tmp_path / "s.xml").write_bytes(format_source_library(sources, names))
    assert_same(read_source_library(tmp_path / "s.xml"), sources)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.sampled_from(KINDS), st.sampled_from(SHAPES), st.sampled_from(CLASSES),
    st.floats(1e-16, 1e-6), st.floats(0.1, 50), st.floats(0, 5), st.floats(0.05, 3),
    st.floats(0, 359), st.floats(-89, 89),
)  # fmt: skip
def test_every_source_reads_back(tmp_path_factory, kind, shape, name, k, pivot, index, extra, l, b):  # noqa: E741
    beta = extra if kind == "LogParabola" else 0.0
    factor, exponent = (extra, 0.7) if kind == "PLSuperExpCutoff2" else (0.0, 1.0)
    arrays = (np.array([v]) for v in (k, pivot, index, beta, factor, exponent))
    spectra = Spectra(np.array([KINDS.index(kind)], np.int8), *arrays)
    size = np.array([0.0 if shape == "point" else extra])
    codes = (np.array([CLASSES.index(name)], np.int8), np.array([SHAPES.index(shape)], np.int8))
    sources = Sources(vectors_from_lonlat(np.array([l]), np.array([b])), spectra, *codes, size)
    path = tmp_path_factory.mktemp("library") / "s.xml"
    path.write_bytes(format_source_library(sources, ["UNL <J0> & 'co'"]))
    assert_same(read_source_library(path), sources)


def test_spectra_are_those_of_the_fermi_tools_in_mev(tmp_path):
    """The formulas of gtlike, evaluated from the numbers in the file."""
    sources = draw_sources(np.random.default_rng(1), agn=0.02, extended=0)
    root = ElementTree.fromstring(format_source_library(sources, range(len(sources))))
    energy = np.array([300.0, 1e3, 1e4, 1e5])  # MeV
    density = sources.spectra.density(energy / 1e3) / 1e3
    for row, source in enumerate(root):
        spectrum = source.find("spectrum")
        p = {e.get("name"): float(e.get("value")) * float(e.get("scale")) for e in spectrum}
        if spectrum.get("type") == "PowerLaw":
            found = p["Prefactor"] * (energy / p["Scale"]) ** p["Index"]
        elif spectrum.get("type") == "LogParabola":
            x = energy / p["Eb"]
            found = p["norm"] * x ** -(p["alpha"] + p["beta"] * np.log(x))
        else:
            found = p["Prefactor"] * (energy / p["Scale"]) ** p["Index1"]
            found *= np.exp(-p["Expfactor"] * energy ** p["Index2"])
        np.testing.assert_allclose(found, density[row], rtol=1e-9)


def test_values_lie_within_their_bounds():
    sources = draw_sources(np.random.default_rng(2), agn=0.02)
    root = ElementTree.fromstring(format_source_library(sources, range(len(sources))))
    for p in root.iter("parameter"):
        assert float(p.get("min")) <= float(p.get("value")) <= float(p.get("max")), p.attrib


def test_hand_made_source_is_read_in_gev_and_galactic_coordinates(tmp_path):
    sources = read_source_library(library(tmp_path, POWER_LAW, POINT))
    np.testing.assert_allclose(sources.spectra.density(10.0), [[2e-9 * 10**-2.2]])
    glon = np.degrees(np.arctan2(sources.vectors[0, 1], sources.vectors[0, 0])) % 360
    assert glon == pytest.approx(184.56, abs=0.02)  # the Crab
    assert CLASSES[sources.source_class[0]] == "AGN"


def test_class_may_be_given_for_sources_without_one(tmp_path):
    path = library(tmp_path, POWER_LAW, POINT)
    assert read_source_library(path, source_class="PSR").source_class[0] == CLASSES.index("PSR")
    with pytest.raises(ValueError, match="source_class must be one of AGN, PSR, GAL; got 'QSO'"):
        read_source_library(path, source_class="QSO")


def test_class_without_a_word_follows_from_spectrum_and_shape(tmp_path):
    disc = POINT.replace("SkyDirFunction", "RadialDisk").replace(
        "</spatial", '<parameter name="Radius" value="0.5"/></spatial'
    )
    sources = read_source_library(library(tmp_path, POWER_LAW, disc))
    assert CLASSES[sources.source_class[0]] == "GAL"
    assert sources.size_deg[0] == 0.5


def test_empty_library_has_no_sources(tmp_path):
    path = tmp_path / "m.xml"
    path.write_text("<source_library title='t'></source_library>")
    sources = read_source_library(path)
    assert len(sources) == 0
    assert sources.vectors.shape == (0, 3)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ((POWER_LAW.replace("PowerLaw", "BandFunction"), POINT),
         "spectrum must be one of PowerLaw, LogParabola, PLSuperExpCutoff2; got 'BandFunction'"),
        ((POWER_LAW, POINT.replace("SkyDirFunction", "SpatialMap")),
         "must be one of SkyDirFunction, RadialDisk, RadialGaussian; got 'SpatialMap'"),
        ((POWER_LAW.replace("Scale", "Other"), POINT), "missing Scale; correct the file"),
        ((POWER_LAW, POINT.replace("DEC", "B")), "must have the parameters RA, DEC; missing DEC"),
        ((POWER_LAW.replace('value="2"', 'value="-2"'), POINT), "positive Prefactor, Scale; got"),
        ((POWER_LAW.replace('value="2"', 'value="two"'), POINT), "Prefactor must have a finite"),
        ((POWER_LAW.replace('value="2"', 'value="nan"'), POINT), "Prefactor must have a finite"),
        ((POWER_LAW, POINT.replace("22.01", "95")), "declination within 90 deg"),
        ((POINT,), "expected a <spectrum>; got none"),
        ((POWER_LAW,), "expected a <spatialModel>; got none"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_with_the_name_of_the_source(tmp_path, parts, match):
    with pytest.raises(ValueError, match=match) as caught:
        read_source_library(library(tmp_path, *parts))
    assert "source 'A'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("factor", "flux"), [(-9.0, "inf"), (1e6, "nan")])
def test_spectrum_without_a_flux_is_refused(tmp_path, factor, flux):
    values = {"Prefactor": 1e-12, "Index1": -1, "Scale": 1e3, "Expfactor": factor, "Index2": 0.7}
    lines = (f'<parameter name="{n}" value="{v}"/>' for n, v in values.items())
    spectrum = f'<spectrum type="PLSuperExpCutoff2">{"".join(lines)}</spectrum>'
    with pytest.raises(ValueError, match=f"source 'A': expected a finite, positive .*got {flux};"):
        read_source_library(library(tmp_path, spectrum, POINT))


def test_unknown_class_is_refused(tmp_path):
    path = library(tmp_path, POWER_LAW, POINT, attributes='name="A" class="QSO"')
    with pytest.raises(ValueError, match="class must be one of AGN, PSR, GAL; got 'QSO'"):
        read_source_library(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("not xml", "expected an XML source library"),
        ("<source_library>", "expected an XML source library"),
        ("<model/>", "expected a <source_library>; got a <model>"),
    ],
)
def test_what_is_no_library_is_refused(tmp_path, content, match):
    (tmp_path / "m.xml").write_text(content)
    with pytest.raises(ValueError, match=match):
        read_source_library(tmp_path / "m.xml")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a file; got"):
        read_source_library(tmp_path / "no.xml")
