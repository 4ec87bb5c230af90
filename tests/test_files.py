"""FITS files are opened whole, and output files are written whole or not at all."""

import gzip
import os

import numpy as np
import pytest
from made_files import (
    cube_hdus,
    poisson_cube,
)
from made_maps import refuse

from astro_unetloc.files import check_outputs, suffix_of, write_files
from astro_unetloc.maps.read import read_map


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("c.FITS.GZ", ".fits.gz"), ("a/c.v2.fits", ".fits"), (".fits", ""), ("c.gz", ""), ("c", "")],
)
def test_longest_known_suffix_counts(name, suffix):
    assert suffix_of(name, (".fits", ".fits.gz")) == suffix


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="directory must exist; got .*nowhere"):
        check_outputs([tmp_path / "nowhere" / "c.fits"])


def test_directory_with_the_name_of_an_output_is_refused(tmp_path):
    (tmp_path / "c.fits").mkdir()
    with pytest.raises(FileExistsError, match="must be a file; got the directory"):
        check_outputs([tmp_path / "c.fits"], overwrite=True)


def test_existing_file_needs_permission(tmp_path):
    path = tmp_path / "c.fits"
    path.touch()
    with pytest.raises(FileExistsError, match="output must not exist; got .*c.fits"):
        check_outputs([path])
    check_outputs([path], overwrite=True)


def test_same_file_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="outputs must differ; got .* twice"):
        check_outputs([tmp_path / "c.fits", tmp_path / "." / "c.fits"])


def test_input_is_never_an_output(tmp_path):
    path = tmp_path / "map.fits"
    path.touch()
    with pytest.raises(ValueError, match="output must not be the input"):
        check_outputs([path], overwrite=True, inputs=[path])


def test_unwritable_directory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="must be writable; got .*; choose another"):
        check_outputs([tmp_path / "c.fits"])


def test_checks_leave_no_trace(tmp_path):
    check_outputs([tmp_path / "c.fits", tmp_path / "c.reg"])
    assert names_in(tmp_path) == []


def test_content_is_bytes_or_comes_from_a_function_of_a_path(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.png"
    contents = {a: b"A", str(b): lambda path: path.write_text(path.suffix)}
    assert write_files(contents) == [a, b]
    assert (a.read_text(), b.read_text()) == ("A", ".png")
    assert names_in(tmp_path) == ["a.txt", "b.png"]


def test_files_have_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_files({tmp_path / "c": b""})
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_link_is_followed_and_stays(tmp_path):
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    write_files({tmp_path / "link": b"new"}, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("overwrite", [True, False])
def test_failure_of_one_content_leaves_all_files_as_they_were(tmp_path, error, overwrite):
    if overwrite:
        (tmp_path / "a").write_text("old")

    def fail(path):
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_files({tmp_path / "a": b"new", tmp_path / "b": fail}, overwrite=overwrite)
    assert names_in(tmp_path) == (["a"] if overwrite else [])
    assert not overwrite or (tmp_path / "a").read_text() == "old"


def test_failure_to_rename_leaves_no_temporary_file(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_files({tmp_path / "a": b"", tmp_path / "b": b""})
    assert names_in(tmp_path) == []


def test_file_that_appeared_meanwhile_is_not_replaced(tmp_path):
    def write(path):
        path.write_text("new")
        (tmp_path / "a").write_text("of another run")

    with pytest.raises(FileExistsError, match="output must not exist"):
        write_files({tmp_path / "a": write})
    assert (tmp_path / "a").read_text() == "of another run"
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["missing.fits", "missing.yaml", "no/such/directory/map.fits.gz"])
def test_a_missing_file(name, tmp_path):
    refuse(tmp_path / name, "no such file: .*missing|no such file: .*map", FileNotFoundError)


def test_a_directory(tmp_path):
    refuse(tmp_path, "got the directory .*; name a file in it")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n", b"SIMPLE", b"x" * 10000])
def test_a_file_that_is_not_fits(content, tmp_path):
    path = tmp_path / "map.fits"
    path.write_bytes(content)
    refuse(path, "a FITS file was expected; got .*map.fits")
    packed = tmp_path / "map.fits.gz"
    packed.write_bytes(gzip.compress(content))
    refuse(packed, "a FITS file was expected; got .*map.fits.gz")


# Inside the first header, the counts, the second header, and the first bytes of EBOUNDS.
CUTS = [100, 2000, 5000, 8000, 12000, -2860]


@pytest.mark.parametrize("stop", CUTS)
def test_a_truncated_file(stop, rng, tmp_path):
    path = tmp_path / "cube.fits"
    cube_hdus(poisson_cube(rng)).writeto(path)
    path.write_bytes(path.read_bytes()[:stop])
    refuse(path, "cube.fits is truncated or damaged: .*; copy or download it again")


@pytest.mark.parametrize("stop", CUTS)
def test_a_truncated_file_inside_a_sound_gzip(stop, rng, tmp_path):
    cube_hdus(poisson_cube(rng)).writeto(tmp_path / "cube.fits")
    content = (tmp_path / "cube.fits").read_bytes()
    (tmp_path / "cube.fits.gz").write_bytes(gzip.compress(content[:stop]))
    refuse(tmp_path / "cube.fits.gz", "is truncated or damaged: .*; copy or download it again")


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_gzip(part, rng, tmp_path):
    path = tmp_path / "cube.fits.gz"
    cube_hdus(poisson_cube(rng)).writeto(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refuse(path, "cube.fits.gz is truncated or damaged: .*; copy or download it again")


def test_a_gzip_with_a_flipped_byte(rng, tmp_path):
    path = tmp_path / "cube.fits.gz"
    cube_hdus(poisson_cube(rng)).writeto(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    refuse(path, "is truncated or damaged|cannot be read")


def test_a_file_without_its_last_padding_is_read(rng, tmp_path):
    path = tmp_path / "cube.fits"
    counts = poisson_cube(rng)
    cube_hdus(counts).writeto(path)
    path.write_bytes(path.read_bytes()[:-2000])  # 30 bytes of EBOUNDS and 2850 of nothing
    assert read_map(path).n_photons == counts.sum()


def test_reading_leaves_no_file_open_and_the_map_outlives_it(rng, tmp_path):
    path = tmp_path / "cube.fits"
    cube_hdus(poisson_cube(rng)).writeto(path)
    sky_map = read_map(path)
    path.write_bytes(b"")
    assert sky_map.n_photons == poisson_cube(np.random.default_rng(0)).sum()
