"""The search of a map: inputs, options, outputs."""

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from made_files import cube_hdus

import astro_unetloc
from astro_unetloc import read_source_library
from astro_unetloc.unet import model as unet_model

EXAMPLE = Path(astro_unetloc.__file__).parent / "data" / "example" / "map.fits.gz"
OPTIONS = [["-o", "c.ecsv"], ["--threshold", "0.4"], ["--model", "lat-10gev"], ["--no-measure"]]


@pytest.mark.parametrize("first", ["map", "-o", "--model"])
def test_map_may_stand_before_or_after_its_options(run, files, write_map, first):
    map = write_map()
    words = sum(sorted(OPTIONS, key=lambda option: option[0] != first), [])
    code, stdout, stderr = run(*([map, *words] if first == "map" else [*words, map]))
    assert (code, stdout) == (0, ""), stderr
    assert files() == ["c.ecsv", "map.fits"]
    assert "1 source with Score >= 0.4 (" in stderr
    assert "-> c.ecsv" in stderr


# Maps


def test_photons_outside_the_bands_of_the_model_are_counted(run, write_map):
    options = ("--model", "lat-10gev", "--threshold", "0", "-o", "c.fits")
    code, _, stderr = run(write_map(edges=(5, 20.0)), *options)
    assert code == 0, stderr
    assert "photons lie outside 10-2000 GeV, the bands of the model" in stderr
    assert " photons of 10-20 GeV" in stderr
    assert "sources are not measured: no energy bin of the map" in stderr
    header = fits.getheader("c.fits", 1)
    assert (header["EMIN"], header["EMAX"]) == (5, 20)
    assert "FITEMIN" not in header
    assert header["NAXIS2"] > 0


def test_empty_map_gives_an_empty_catalog(run):
    cube_hdus(np.zeros((3, 20, 20), ">i4")).writeto("empty.fits")
    code, _, stderr = run("empty.fits", "-o", "c.fits")
    assert code == 0
    assert "0 sources" in stderr
    with fits.open("c.fits") as hdus:
        assert len(hdus[1].data) == 0
        assert "Source_Name" in hdus[1].columns.names


def test_text_is_not_a_map(refused, files):
    Path("notes.txt").write_text("hello")
    refused("notes.txt", "notes.txt", "-o", "c.fits")
    assert files() == ["notes.txt"]


def test_failed_patches_give_exit_code_three(run, files, monkeypatch):
    predict = unet_model.Model.predict

    def fails(self, counts, *args, **kwargs):
        probability = predict(self, counts, *args, **kwargs)
        if len(counts) != len(np.load(self.folder / "probe.npz")["counts"]):
            probability[0] = np.nan
        return probability

    monkeypatch.setattr(unet_model.Model, "predict", fails)
    code, _, stderr = run(EXAMPLE, "-o", "c.csv", "--no-measure")
    assert code == 3
    assert "warning: the network returned no finite probability for patches" in stderr
    assert files() == ["c.csv"]


# Outputs


def test_lone_fits_catalog_comes_with_regions(run, files, write_map):
    assert run(write_map(), "-o", "c.fits", "--quiet") == (0, "", "")
    assert files() == ["c.fits", "c.reg", "map.fits"]
    assert "\nicrs;ellipse(" in Path("c.reg").read_text()


def test_dash_prints_ecsv_alone_on_stdout(run, files, write_map):
    code, stdout, stderr = run(write_map(), "-o", "-", "--no-measure")
    assert code == 0
    assert files() == ["map.fits"]
    assert stdout.startswith("# %ECSV")
    assert "1 source with Score" in stderr
    table = QTable.read(stdout.splitlines(), format="ascii.ecsv")
    assert {"Source_Name", "Score", "Flags"} <= set(table.colnames)


def test_several_outputs_are_written(run, files, write_map):
    outputs = ("-o", "a.csv", "-o", "b.vot", "-o", "c.png", "--probability-map", "p.fits")
    assert run(write_map(), "--no-measure", *outputs)[0] == 0
    assert files() == ["a.csv", "b.vot", "c.png", "map.fits", "p.fits"]
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")


def test_existing_outputs_need_permission(run, refused, files, write_map):
    map = write_map()
    Path("c.reg").write_text("mine")
    refused("output must not exist; got 'c.reg'; choose another name or add --overwrite",
            map, "-o", "c.fits")  # fmt: skip
    assert files() == ["c.reg", "map.fits"]
    assert Path("c.reg").read_text() == "mine"
    assert run(map, "-o", "c.fits", "--overwrite", "--no-measure")[0] == 0
    assert Path("c.reg").read_text() != "mine"


def test_input_is_never_replaced(refused, write_map):
    before = Path(write_map()).read_bytes()
    refused("output must not be the input", "map.fits", "-o", "map.fits", "--overwrite")
    assert Path("map.fits").read_bytes() == before


def test_models_are_written_of_a_map_with_an_exposure(run, files, write_map):
    cube = np.full((4, 30, 30), 3e11)
    hdus = cube_hdus(cube, np.array([10, 31.6, 316, 1500, 2500.0]), lon=120.0, lat=40.0)
    energies = fits.Column("Energy", "D", unit="MeV", array=[1e4, 1e5, 1e6, 2e6])
    hdus[0].header["BUNIT"] = "cm2 s"
    energies = fits.BinTableHDU.from_columns([energies], name="ENERGIES")
    fits.HDUList([hdus[0], energies]).writeto("exposure.fits")
    outputs = ("-o", "m.yaml", "-o", "s.xml", "-o", "c.crtf")
    result = run(write_map(), "--exposure", "exposure.fits", *outputs)
    assert result[0] == 0, result[2]
    assert len(read_source_library("s.xml")) >= 1
    assert files() == ["c.crtf", "exposure.fits", "m.yaml", "map.fits", "s.xml"]


def test_sky_maps_are_written_with_the_catalog(run, files, write_map):
    words = ("--no-measure", "--probability-map", "p.fits", "--moc", "m.fits")
    assert run(write_map(), "-o", "c.csv", *words)[0] == 0
    assert files() == ["c.csv", "m.fits", "map.fits", "p.fits"]
    with fits.open("p.fits") as hdus:
        assert hdus[0].data.shape == (30, 30)
        assert 0.5 < np.nanmax(hdus[0].data) <= 1
        assert hdus[1].header["INFILE"] == "map.fits"
        assert hdus[1].header["CREATOR"].startswith("astro_unetloc ")
    with fits.open("m.fits") as hdus:
        uniq = hdus[1].data["UNIQ"].astype(float)
    area = np.sum(4.0 ** -np.floor(np.log2(uniq / 4) / 2)) * 41252.96 / 12
    assert area == pytest.approx(9.0, rel=0.02)
    assert run("map.fits", "-o", "d.csv", *words)[0] == 2
    assert "d.csv" not in files()


def test_limits_of_a_region_are_those_of_the_whole_map(run, write_map):
    assert run(write_map(), "-o", "c.csv", "--limit-map", "whole.fits")[0] == 0
    # The bright source lies outside of the region and contributes counts to it.
    words = ("--region", "121.2", "40", "0.85", "--frame", "galactic", "--limit-map", "part.fits")
    assert run("map.fits", "-o", "d.csv", *words)[0] == 0
    whole, part = (fits.getdata(name, 1) for name in ("whole.fits", "part.fits"))
    assert 0 < len(part) < len(whole)
    rows = np.searchsorted(whole["PIXEL"], part["PIXEL"])
    np.testing.assert_allclose(part["NPRED_50"], whole["NPRED_50"][rows], rtol=0.2)


# Options


def test_seed_repeats_the_placement(run, write_map):
    map, texts = write_map(), []
    for number, seed in enumerate((1, 1)):
        run(map, "-o", f"{number}.csv", "--no-measure", "--seed", seed)
        texts.append(Path(f"{number}.csv").read_text())
    assert texts[0] == texts[1]


def test_known_extended_sources_flag_what_lies_inside(run, refused, write_map):
    Path("known.csv").write_text("Source_Name,GLON,GLAT,size_x\nA,120.0,41.0,1.5\n")
    code, _, stderr = run(write_map(), "-o", "c.ecsv", "--extended", "known.csv")
    assert code == 0, stderr
    assert QTable.read("c.ecsv")["Flags"][0] & 256
    refused("must be a file", "map.fits", "-o", "d.ecsv", "--extended", "no.fits")


@pytest.mark.parametrize("words", [("10 GeV", "0.5 TeV"), ("10", "500"), ("10000 MeV", "500")])
def test_energy_range_takes_quantities_and_numbers(run, write_image, words):
    code, _, stderr = run(write_image(), "-o", "c.csv", "--no-measure", "--energy-range", *words)
    assert code == 0
    assert "photons of 10-500 GeV" in stderr


@pytest.mark.parametrize("longitude", ["120", "-240", "120deg", "-240.0 deg"])
def test_region_lists_the_sources_of_a_cone(run, write_map, longitude):
    words = (write_map(), "-o", "c.csv", "--quiet", "--no-measure", "--frame", "galactic")
    words += ("--region", longitude)
    assert run(*words, "40", "30 arcmin") == (0, "", "")
    found = QTable.read("c.csv", format="ascii.csv")
    assert len(found) == 1
    assert found["GLAT"][0] == pytest.approx(40, abs=0.1)
    assert run(*words, "43", "1", "--overwrite")[0] == 0
    assert len(QTable.read("c.csv", format="ascii.csv")) == 0


def test_frame_of_a_region_is_icrs_by_default(run, write_map):
    center = SkyCoord(120, 40, unit="deg", frame="galactic").icrs
    region = ("--region", center.ra.deg, center.dec.deg, 0.5)
    run(write_map(), "-o", "c.csv", "--no-measure", *region)
    assert len(QTable.read("c.csv", format="ascii.csv")) == 1


# Wrong options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--threshold", "high"), "'high' is not a valid float"),
        (("--threshold", "1.5"), "threshold must lie between 0 and 1; got 1.5"),
        (("--frame", "b1950"), "'b1950' is not one of"),
        (("--model", "lat-1mev"), "one of the models lat-10gev"),
        (("--exposure", "nothing.fits"), "nothing.fits"),
        (("--energy-range", "ten", "20"), "must be two energies"),
        (("--energy-range", "10 m", "20 m"), "must be two energies"),
        (("--energy-range", "20", "10"), "two increasing positive energies; got 20 to 10 GeV"),
        (("-o", "c.txt"), "output must end in one of"),
        (("-o", "m.yaml"), "got 'm.yaml' without an exposure"),
        (("-o", "m.xml", "--no-measure"), "models need the flux of each source"),
        (("-o", "no/c.fits"), "output directory must exist; got 'no'"),
        (("-o", "c.csv"), "outputs must differ"),
        (("--probability-map", "c.csv"), "outputs must differ"),
        (("--probability-map", "map.fits", "--overwrite"), "output must not be the input"),
        (("--moc", "c.csv"), "outputs must differ"),
        (("--moc", "m", "--probability-map", "m"), "outputs must differ"),
        (("--moc", "no/m.fits"), "output directory must exist; got 'no'"),
        (
            ("--limit-map", "l", "--no-measure"),
            "--limit-map needs the likelihood fit; got --no-measure",
        ),
        (("--limit-map", "l", "--threshold", "0.01"), "thresholds from 0.05 to 0.9; got 0.01;"),
        (
            ("--limit-map", "l", "--model", "lat-500mev"),
            "card has detection limits; got lat-500mev",
        ),
        (("--region", "a", "b", "c"), "--region must be a longitude, a latitude"),
        (("--region", "1", "95", "3"), "--region must be a longitude, a latitude"),
        (("--region", "1", "2", "-3"), "--region must be a longitude, a latitude"),
        (("--region", "1", "2", "3 GeV"), "--region must be a longitude, a latitude"),
        (("--region", "1", "2", "0"), "--region must be a longitude, a latitude"),
    ],
)
def test_wrong_options_are_refused_before_the_search(refused, files, write_map, words, message):
    refused(message, write_map(), "-o", "c.csv", *words)
    assert files() == ["map.fits"]


def test_missing_map_is_refused(refused):
    refused("no such file: nothing.fits", "nothing.fits", "-o", "c.fits")
