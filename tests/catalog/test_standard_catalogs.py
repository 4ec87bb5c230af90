import inspect
from pathlib import Path

import pytest

from astro_unetloc.catalog.read import STANDARD_CATALOGS, read_catalog, standard_catalog_path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GAMMAPY_DATA", str(tmp_path))
    (tmp_path / "catalogs/fermi").mkdir(parents=True)
    return tmp_path / "catalogs/fermi"


@pytest.mark.parametrize(
    "name", ["3fgl", "4fgl", "2fhl", "3fhl", "2hwc", "3hwc", "gamma-cat", "hgps"]
)
def test_files_are_those_that_gammapy_reads(tmp_path, monkeypatch, name):
    from gammapy.catalog import CATALOG_REGISTRY

    theirs = inspect.signature(CATALOG_REGISTRY.get_cls(name).__init__).parameters["filename"]
    path = Path(theirs.default.replace("$GAMMAPY_DATA", str(tmp_path)))
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setenv("GAMMAPY_DATA", str(tmp_path))
    assert standard_catalog_path(name) == standard_catalog_path(name.upper()) == path


def test_newest_version_of_the_catalog_is_taken(folder):
    for version in (16, 20, 33, 9):
        (folder / f"gll_psc_v{version:02d}.fit.gz").touch()
    (folder / "gll_psc_v35.fit").touch()
    assert standard_catalog_path("4fgl").name == "gll_psc_v35.fit"
    assert standard_catalog_path("3fgl").name == "gll_psc_v16.fit.gz"
    assert standard_catalog_path("2fgl").name == "gll_psc_v09.fit.gz"
    with pytest.raises(FileNotFoundError, match="catalogue '1fgl' must be in .* no such file"):
        standard_catalog_path("1fgl")


@pytest.mark.parametrize("name", STANDARD_CATALOGS)
def test_without_the_folder_the_error_says_so(monkeypatch, name):
    monkeypatch.delenv("GAMMAPY_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"from \$GAMMAPY_DATA, which is not set"):
        read_catalog(name)


def test_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("4fgl").write_text("RA,Dec\n1,2\n")
    with pytest.raises(ValueError, match="must end in one of .* got '4fgl'"):
        read_catalog("4fgl")


def test_named_catalog_is_read(real_data, folder):
    (folder / "gll_psch_v13.fit.gz").symlink_to(real_data / "catalogs/gll_psch_v13.fit.gz")
    assert len(read_catalog("3fhl")) == 1556
