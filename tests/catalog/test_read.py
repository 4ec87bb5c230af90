import warnings
from pathlib import Path
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.table import QTable, Table
from gammapy.catalog import SourceCatalog3FHL
from made_catalogs import META, assert_same_catalog, make_measured
from made_files import event_hdus
from mocpy import MOC

from astro_unetloc import match_catalogs, read_catalog, to_regions, write_catalog
from astro_unetloc.catalog.read import as_reference, catalog_name, energy_range, searched_area
from astro_unetloc.catalog.table import confidence_ellipses, degrees, flux_column, sky_positions
from astro_unetloc.exceptions import InputError


@pytest.mark.parametrize("suffix", [".fits", ".ecsv"])
def test_table_written_by_astropy_reads_as_the_same_catalog(tmp_path, suffix):
    catalog = make_measured(4, meta={})
    path = tmp_path / f"catalog{suffix}"
    bare = catalog.copy()
    bare.remove_column("skycoord")
    bare.write(path)
    assert_same_catalog(read_catalog(path), catalog)


@pytest.mark.parametrize(
    ("file", "name", "flux", "numbers", "example", "radius_deg"),
    [
        ("gll_psch_v13.fit.gz", "3FHL", "Flux", (1556, 48, 48, 1508), "J1745.8-3028e", 0.528),
        ("gll_psch_v09.fit.gz", "2FHL", "Flux50", (360, 25, 25, 335), "J0431.2+5553e", 1.27),
        ("gll_psc_v16.fit.gz", "3FGL", "Flux1000", (3034, 25, 25, 3006), "J1324.0-4330e", 2.5),
        ("4fgl_dr3_reduced.fits", "4FGL", "Flux", (6659, 77, 0, 6579), "J1324.0-4330e", None),
        ("gll_psc_4fgl_dr2.fits.gz", "4FGL-DR2", "Flux1000", (5788, 75, 0, 5712), None, None),
    ],
)
def test_fermi_catalog_is_read(real_data, file, name, flux, numbers, example, radius_deg):
    table = read_catalog(real_data / "catalogs" / file)
    assert (catalog_name(table), flux_column(table)) == (name, flux)
    ellipses = np.isfinite(confidence_ellipses(table)).all(axis=1)
    n_extended, n_radius = np.sum(table["Extended"]), np.sum(~table["Extension"].mask)
    assert (len(table), n_extended, n_radius, ellipses.sum()) == numbers
    assert (table["RAJ2000"].unit, table["RAJ2000"].dtype) == (u.deg, float)
    assert table["skycoord"].ra.to_value("deg") == pytest.approx(table["RAJ2000"].value)
    row = table[table["Source_Name"] == f"{name} {example}"]
    assert list(row["Extended"]) == [True] * bool(example)  # names of DR2 lack the space
    if radius_deg:
        assert row["Extension"][0].unmasked.to_value("deg") == pytest.approx(radius_deg)


def test_plain_table_with_positions_is_read(tmp_path):
    path = tmp_path / "tevcat.csv"
    path.write_text("Canonical Name,RA,Dec\nCrab,83.63,22.01\nMrk 421,166.1,38.2\n")
    table = read_catalog(path)
    assert list(table["Source_Name"]) == ["Crab", "Mrk 421"]
    assert table["skycoord"][1].dec.deg == 38.2
    assert not table["Extended"].any()


@pytest.mark.parametrize("chosen", ["2", "OTHERS", "others"])
def test_brackets_choose_the_table_of_a_file(tmp_path, chosen):
    parts = {"SOURCES": [10.0], "OTHERS": [20.0, 30.0]}
    tables = [
        fits.BinTableHDU(Table({"RA": ra, "Dec": ra}), name=name) for name, ra in parts.items()
    ]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path := tmp_path / "two.fits")
    assert len(read_catalog(path)) == 1
    assert len(read_catalog(f"{path}[{chosen}]")) == 2
    with pytest.raises(InputError, match="needs a table with positions; got no table"):
        read_catalog(f"{path}[3]")


NO_TABLE = "must hold a table of sources"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.fits", "catalogue must be a file; got .*none.fits"),
        ("bad.doc", r"must end in one of .fits .* got 'bad.doc'"),
        ("bad.fits", NO_TABLE), ("bad.fits.gz", NO_TABLE), ("bad.vot", NO_TABLE),
        ("bad.ecsv", NO_TABLE), ("empty.csv", "an empty file"),
        ("image.fits", "needs a table with positions; got no table"),
        ("table.fits", "needs a table with positions; got columns A"),
    ],
)  # fmt: skip
def test_file_without_sources_is_refused_in_one_line(tmp_path, name, message):
    if name.startswith("bad"):
        (tmp_path / name).write_text("this is no table\n")
    (tmp_path / "empty.csv").touch()
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
    Table({"A": [1.0]}).write(tmp_path / "table.fits")
    kind = FileNotFoundError if name == "none.fits" else ValueError
    with pytest.raises(kind, match=message) as error:
        read_catalog(tmp_path / name)
    assert "\n" not in str(error.value)


def test_positions_and_names_are_found_by_their_ucds(tmp_path):
    table = Table({"a": ["x"], "b": [10.0] * u.deg, "c": [-20.0] * u.deg, "d": [1.0] * u.deg})
    votable = from_table(table)
    ucds = ("meta.id;meta.main", "pos.eq.ra;meta.main", "POS.EQ.DEC;meta.main", "pos.eq.ra")
    for field, ucd in zip(votable.get_first_table().fields, ucds):
        field.ucd = ucd
    votable.to_xml(str(tmp_path / "table.vot"))
    read = read_catalog(tmp_path / "table.vot")
    assert read["skycoord"].to_string() == ["10 -20"]
    assert list(read["Source_Name"]) == ["x"]


PLACE = SkyCoord(83.63, 22.01, unit="deg")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_of_any_program_is_read(tmp_path, mark, encoding):
    numbers = ["83,63", "+22,01"] if mark == ";" else ["83.63", "+22.01"]  # of some languages
    lines = [["Source_Name", "RAJ2000", "DEJ2000"], ["Cr\xe4b", *numbers], ["007", "10", "-1e1"]]
    path = tmp_path / "r.csv"
    path.write_bytes("\r\n".join(mark.join(line) for line in lines).encode(encoding))
    table = read_catalog(path)
    assert list(table["Source_Name"]) == ["Cr\xe4b", "007"]
    assert table["skycoord"][0].separation(PLACE) < 1e-6 * u.arcsec
    assert table["DEJ2000"][1].value == -10


@pytest.mark.parametrize(
    "text",
    [
        "#Name,RA,Dec\nA,83.63,22.01", "# by hand\n#\n\nName,RA,Dec\n\nA,83.63,22.01\n\n",
        "# by hand\n# Name\tRA\tDec\nA\t83.63\t22.01", '"Name";"RA";"Dec"\n"A";"83,63";"22,01"',
    ],
)  # fmt: skip
def test_header_of_csv_may_be_a_comment_and_cells_quoted(tmp_path, text):
    (tmp_path / "r.csv").write_text(text)
    table = read_catalog(tmp_path / "r.csv")
    assert list(table["Source_Name"]) == ["A"]
    assert table["skycoord"][0].separation(PLACE) < 1e-6 * u.arcsec


def forms_of_a_reference(folder):
    """One source in all forms that hold a table of positions, by name."""
    table = QTable({"RA": [PLACE.ra.rad] * u.rad, "DEC": [PLACE.dec.deg] * u.deg, "ID": ["Crab"]})
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(Table({"x": [1]}), name="OTHER")]
    hdus = fits.HDUList([*hdus, fits.table_to_hdu(table)])
    hdus.writeto(folder / "second.fits")
    degrees = Table({"RA": [PLACE.ra.deg], "DEC": [PLACE.dec.deg]})
    two = QTable({"skycoord": SkyCoord([PLACE, SkyCoord(0 * u.deg, 0 * u.deg)])})
    return {
        "table": table, "HDU": hdus[2], "records": hdus[2].data, "file": folder / "second.fits",
        "dict": dict(table), "array": degrees.as_array(), "row": two[0], "one": PLACE,
        "coordinates": PLACE.reshape(1), "HDUs": hdus, "gammapy": SimpleNamespace(table=degrees),
    }  # fmt: skip


def test_reference_is_taken_in_any_form(tmp_path):
    forms = forms_of_a_reference(tmp_path)
    for name, form in forms.items():
        reference = as_reference(form)
        assert reference["skycoord"][0].separation(PLACE) < 1e-3 * u.arcsec, name
        assert len(match_catalogs(form, form).matches) == 1, name
        assert len(to_regions(form)) == 1, name
    votable = from_table(Table({"x": [1]}))
    votable.resources.extend(from_table(Table(forms["table"])).resources)
    votable.to_xml(str(tmp_path / "second.vot"))
    assert as_reference(tmp_path / "second.vot")["skycoord"][0].separation(PLACE) < 1e-3 * u.arcsec
    for other in (3, None, ["x", "y"], np.zeros(3), to_regions):
        with pytest.raises(InputError, match="(table of sources was expected; got|must have colu)"):
            to_regions(other)


def test_catalog_of_gammapy_is_that_of_the_file(real_data):
    path = real_data / "catalogs" / "gll_psch_v13.fit.gz"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units with slashes
        one, other = as_reference(SourceCatalog3FHL(path)), read_catalog(path)
    for name in ("Source_Name", "Extended"):
        assert list(one[name]) == list(other[name])
    np.testing.assert_array_equal(degrees(one["Extension"]), degrees(other["Extension"]))


def test_names_that_are_blank_become_numbers():
    reference = as_reference(Table({"Source_Name": ["A", " "], "RA": [1.0, 2.0], "Dec": [0, 0]}))
    assert list(reference["Source_Name"]) == ["A", "2"]


@pytest.mark.parametrize("name", ["EVENTS", ""])
def test_photons_are_no_sources(tmp_path, name):
    hdus = event_hdus([10.0], [20.0], [1e4])
    hdus[1].name = name
    hdus.writeto(tmp_path / "ft1.fits")
    with pytest.raises(InputError, match="ft1.fits.*; got: .* got a list of photons; find their s"):
        read_catalog(tmp_path / "ft1.fits")
    with pytest.raises(InputError, match="got a list of photons"):
        match_catalogs(QTable.read(hdus[1]), make_measured(1))


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".ecsv", ".vot"])
def test_searched_area_is_in_the_file_and_read_back(tmp_path, suffix):
    area = MOC.from_cone(PLACE.ra, PLACE.dec, radius=3 * u.deg, max_depth=10)
    catalog = make_measured(2, meta=META | {"MOC": area.to_string()})
    write_catalog(catalog, tmp_path / f"c{suffix}")
    read = read_catalog(tmp_path / f"c{suffix}")
    assert (read.meta, searched_area(read)) == (catalog.meta, area)
    if "fits" in suffix:
        header = fits.getheader(tmp_path / f"c{suffix}", "MOC")
        assert (header["ORDERING"], header["COORDSYS"], header["MOCVERS"]) == ("NUNIQ", "C", "2.0")
    catalog.meta["MOC"] = "3/5-"
    with pytest.raises(InputError, match="must be a MOC; got '3/5-'; drop MOC from its header"):
        searched_area(catalog)
    assert searched_area(make_measured(2)) is None


def test_size_of_tevcat_makes_a_source_extended():
    table = Table({"RA": [1.0, 2.0], "Dec": [0.0, 0.0], "size_x": [0.0, 0.8]})
    reference = as_reference(QTable(table))
    assert list(reference["Extended"]) == [False, True]
    np.testing.assert_array_equal(degrees(reference["Extension"]), [np.nan, 0.8])


@pytest.mark.parametrize("name", "1FGL 2FGL 3FGL 4FGL 1FHL 2FHL 3FHL FL8Y FL16Y".split())
def test_extended_sources_of_all_fermi_catalogs_are_known_by_their_names(name):
    names = [f"{name} J0534.5+2201e", f"{name} J0000.3-7355", "Lagoon Nebulae"]
    table = Table({"Source_Name": names, "RA": np.zeros(3), "Dec": np.zeros(3)})
    reference = as_reference(table)
    assert list(reference["Extended"]) == [True, False, False]
    assert reference["Extension"].mask.all()
    assert catalog_name(table) == name
    assert table.colnames == ["Source_Name", "RA", "Dec"]  # not changed


@pytest.mark.parametrize(
    ("name", "position", "column", "release"),
    [
        ("1FGL", ("RA", "DEC"), "Flux1000", None),
        ("2FGL", ("RAJ2000", "DEJ2000"), "Flux1000", None),
        ("1FHL", ("RAJ2000", "DEJ2000"), "Flux", None),
        ("4FGL", ("RAJ2000", "DEJ2000"), "Flux1000", 4),
        ("FL16Y", ("RAJ2000", "DEJ2000"), "Flux1000", None),
    ],
)
@pytest.mark.parametrize("suffix", [".fit", ".fit.gz"])
def test_fermi_catalogs_are_recognized_by_their_columns(
    tmp_path, name, position, column, release, suffix
):
    """Small files laid out as the official ones, of which two point sources and a disc are left."""
    names = [f"{name} J{place}" for place in ("0000.0+0000", "0004.0+0000", "0008.0+0000")]
    table = Table({"Source_Name": names})
    table[position[0]], table[position[1]] = [0.0, 1.0, 2.0] * u.deg, [0.0, 0.0, 0.0] * u.deg
    for which, value in (("SemiMajor", 0.2), ("SemiMinor", 0.1), ("PosAng", 30.0)):
        table[f"Conf_95_{which}"] = [value, np.nan, np.nan] * u.deg
    table[column] = [1e-9, 2e-9, 3e-9] / u.cm**2 / u.s
    table["Extended_Source_Name"] = ["", "", "Disc"]
    if release:
        table["DataRelease"] = [1, release, 1]
    large = Table({"Source_Name": ["Disc"], "Model_SemiMajor": [0.7] * u.deg})
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2)))]
    hdus += [fits.table_to_hdu(table), fits.table_to_hdu(large)]
    hdus[2].name, hdus[3].name = "LAT_Point_Source_Catalog", "ExtendedSources"
    fits.HDUList(hdus).writeto(tmp_path / f"catalog{suffix}")
    read = read_catalog(tmp_path / f"catalog{suffix}")
    assert catalog_name(read) == (f"{name}-DR{release}" if release else name)
    assert list(sky_positions(read).ra.deg) == [0.0, 1.0, 2.0]
    assert list(read["Extended"]) == [False, False, True]
    assert degrees(read["Extension"])[2] == pytest.approx(0.7)
    assert confidence_ellipses(read)[0] == pytest.approx([0.2, 0.1, 30.0])
    assert np.isnan(confidence_ellipses(read)[1:]).all()
    assert flux_column(read) == column


def test_rows_without_names_are_numbered_and_an_empty_table_is_a_reference():
    table = as_reference(Table({"RA": [1.0, 2.0], "Dec": [0.0, 0.0]}))
    assert list(table["Source_Name"]) == ["1", "2"]
    table = as_reference(Table({"RA": np.zeros(0), "Dec": np.zeros(0)}))
    assert len(table) == 0
    assert {"Source_Name", "Extended", "Extension", "skycoord"} <= set(table.colnames)


def test_name_and_energies_of_a_catalog_come_from_its_header_or_its_sources():
    table = Table({"Source_Name": ["4FGL J0000.3-7355"]})
    assert catalog_name(table) == "4FGL"
    table.meta["CDS-NAME"] = "4FGL-DR3"
    assert catalog_name(table) == "4FGL-DR3"
    assert catalog_name(Table({"RA": [1.0]}, meta={"FILENAME": "mine.csv"})) == "mine.csv"
    meta = {"EMIN": "10", "EMAX": 2000.0, "FLUXEMIN": 10.0, "FITEMIN": 5, "FITEMAX": 5}
    table = Table(meta=meta)
    assert energy_range(table) == (10.0, 2000.0)
    assert energy_range(table, "FLUX") is None
    assert energy_range(table, "FIT") is None


# Names of catalogues


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("3fhl", "fermi/gll_psch_v13.fit.gz"),
        ("3HWC", "3HWC.ecsv"),
        ("gamma-cat", "gammacat/gammacat.fits.gz"),
        ("1lhaaso", "1LHAASO_catalog.fits"),
    ],
)
def test_named_catalog_is_the_file_that_gammapy_reads(tmp_path, monkeypatch, name, file):
    monkeypatch.setenv("GAMMAPY_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"catalogue '{name}' must be in '.*{file}'"):
        read_catalog(name)
    path = tmp_path / "catalogs" / file
    path.parent.mkdir(parents=True)
    path.write_text("no table")
    with pytest.raises(ValueError, match=f"'{path.name}' must hold a table of sources"):
        read_catalog(name)


def test_unknown_name_and_folder_are_stated_and_a_file_of_that_name_comes_first(
    tmp_path, monkeypatch
):
    with pytest.raises(FileNotFoundError, match="a file or one of .*3fgl, 3fhl.*; got '9fgl'"):
        read_catalog("9fgl")
    monkeypatch.delenv("GAMMAPY_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"set \$GAMMAPY_DATA to the folder"):
        read_catalog("4fgl")
    monkeypatch.chdir(tmp_path)
    Path("4fgl").write_text("RA,Dec\n1,2\n")
    with pytest.raises(ValueError, match="must end in one of .* got '4fgl'"):
        read_catalog("4fgl")


def test_named_catalog_is_read(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("GAMMAPY_DATA", str(tmp_path))
    (tmp_path / "catalogs/fermi").mkdir(parents=True)
    (tmp_path / "catalogs/fermi/gll_psch_v13.fit.gz").symlink_to(
        real_data / "catalogs/gll_psch_v13.fit.gz"
    )
    assert len(read_catalog("3fhl")) == 1556
