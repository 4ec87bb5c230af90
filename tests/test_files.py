"""FITS files are opened whole, and output files are written whole or not at all."""

import bz2
import errno
import gzip
import lzma
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from astropy.io import fits
from made_files import cube_hdus, poisson_cube
from made_maps import refuse

from astro_unetloc.exceptions import InputError
from astro_unetloc.files import check_outputs, checksum, suffix_of, write_files
from astro_unetloc.maps.read import read_map


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("c.FITS.GZ", ".fits.gz"), ("a/c.v2.fits", ".fits"), (".fits", ""), ("c.gz", ""), ("c", "")],
)
def test_longest_known_suffix_counts(name, suffix):
    assert suffix_of(name, (".fits", ".fits.gz")) == suffix


@pytest.mark.parametrize(
    ("paths", "options", "error", "message"),
    [
        (["nowhere/c.fits"], {}, FileNotFoundError, "directory must exist; got .*nowhere"),
        (["folder"], {"overwrite": True}, FileExistsError, "must be a file; got the directory"),
        (["old"], {}, FileExistsError, "output must not exist; got .*old"),
        (["pipe"], {"overwrite": True}, FileExistsError, "must be a regular file; got 'pipe'"),
        (["/dev/null"], {"overwrite": True}, FileExistsError, "must be a regular file; got '/dev"),
        (["c.fits", "./c.fits"], {}, ValueError, "outputs must differ; got .* twice"),
        (["old"], {"overwrite": True, "inputs": ["old"]}, ValueError, "must not be the input"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused(
    tmp_path, monkeypatch, paths, options, error, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "old").touch()
    os.mkfifo("pipe")
    with pytest.raises(error, match=message):
        check_outputs(paths, **options)
    check_outputs(["c.fits", "c.reg", "old"], overwrite=True)
    assert names_in(tmp_path) == ["folder", "old", "pipe"]


def test_unwritable_directory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="must be writable; got .*; choose another"):
        check_outputs([tmp_path / "c.fits"])


def test_content_is_bytes_or_comes_from_a_function_of_a_path(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.png"
    contents = {a: b"A", str(b): lambda path: path.write_text(path.suffix)}
    assert write_files(contents) == [a, b]
    assert (a.read_text(), b.read_text()) == ("A", ".png")
    assert names_in(tmp_path) == ["a.txt", "b.png"]
    (tmp_path / "plain").touch()
    assert a.stat().st_mode == (tmp_path / "plain").stat().st_mode  # that of any new file


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


@pytest.mark.parametrize("overwrite", [True, False])
def test_failure_to_put_files_in_place_leaves_no_temporary_file(tmp_path, monkeypatch, overwrite):
    def fail(source, target):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace" if overwrite else "link", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_files({tmp_path / "a": b"", tmp_path / "b": b""}, overwrite=overwrite)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_file_that_appeared_meanwhile_is_not_replaced(tmp_path, monkeypatch, links):
    def refuse(source, target):
        raise OSError(errno.EPERM, "a file system without hard links")

    def write(path):
        path.write_text("new")
        (tmp_path / "b").write_text("of another run")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    write_files({tmp_path / "old": b"0"})
    with pytest.raises(FileExistsError, match="output must not exist; got '.*b'"):
        write_files({tmp_path / "a": b"new", tmp_path / "b": write})
    assert (tmp_path / "b").read_text() == "of another run"
    assert names_in(tmp_path) == ["b", "old"]


def test_of_many_writers_of_one_file_one_wins_and_the_others_are_refused(tmp_path):
    barrier = Barrier(8)

    def run(number):
        def write(path):
            path.write_text(str(number))
            barrier.wait()

        try:
            write_files({tmp_path / "a": write})
        except FileExistsError:
            return None
        return str(number)

    with ThreadPoolExecutor(8) as pool:
        won = [number for number in pool.map(run, range(8)) if number]
    assert won == [(tmp_path / "a").read_text()]


def test_next_run_removes_what_a_killed_one_left_but_nothing_of_a_live_one(tmp_path):
    code = """if True:
        import os, signal, sys
        from astro_unetloc.files import write_files
        kill = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        write_files({sys.argv[1] + "/a[1].txt": b"whole", sys.argv[1] + "/b": kill})
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name[:9] for name in names_in(tmp_path)] == [".unetloc-"]

    def write(path):
        write_files({tmp_path / "a[1].txt": b"of another run"})
        path.write_text("mine")

    write_files({tmp_path / "a[1].txt": write, tmp_path / "b": b""}, overwrite=True)
    assert names_in(tmp_path) == ["a[1].txt", "b"]
    assert (tmp_path / "a[1].txt").read_text() == "mine"


# Reading

DAMAGED = "cube.fits.* is truncated or damaged: .*; copy or download it again"


@pytest.fixture
def cube(rng, tmp_path):
    """A file of a counts cube."""
    cube_hdus(poisson_cube(rng)).writeto(tmp_path / "cube.fits")
    return tmp_path / "cube.fits"


@pytest.mark.parametrize("name", ["missing.fits", "missing.yaml", "no/such/directory/map.fits.gz"])
def test_missing_files_and_directories_are_refused(name, tmp_path):
    refuse(tmp_path / name, "no such file: .*(missing|map)", FileNotFoundError)
    refuse(tmp_path, "got the directory .*; name a file in it")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n", b"SIMPLE", b"x" * 10000])
def test_a_file_that_is_not_fits(content, tmp_path):
    for name, written in (("map.fits", content), ("map.fits.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(written)
        refuse(tmp_path / name, f"a FITS file was expected; got .*{name}")


# Inside the first header, the counts, the second header, and the first bytes of EBOUNDS.
@pytest.mark.parametrize("stop", [100, 2000, 5000, 8000, 12000, -2860])
def test_a_truncated_file_plain_or_inside_a_sound_gzip(stop, cube):
    content = cube.read_bytes()[:stop]
    cube.write_bytes(content)
    refuse(cube, DAMAGED)
    packed = cube.with_suffix(".fits.gz")
    packed.write_bytes(gzip.compress(content))
    refuse(packed, DAMAGED)


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_gzip_or_one_with_a_flipped_byte(part, cube):
    content = bytearray(gzip.compress(cube.read_bytes()))
    stop = int(part * len(content))
    cube.write_bytes(content[:stop])
    refuse(cube, DAMAGED)
    content[stop] ^= 0xFF
    cube.write_bytes(content)
    refuse(cube, "is truncated or damaged|cannot be read")


def test_a_file_without_its_last_padding_is_read_and_no_file_stays_open(cube):
    cube.write_bytes(cube.read_bytes()[:-2000])  # 30 bytes of EBOUNDS and 2850 of nothing
    sky_map = read_map(cube)
    cube.write_bytes(b"")
    assert sky_map.n_photons == poisson_cube(np.random.default_rng(0)).sum()


def raw_file(path, *cards, tail=bytes(8640)):
    """A file whose only header is these cards."""
    cards = (f"{key:<8}= {value:>20}".ljust(80) for key, value in (("SIMPLE", "T"), *cards))
    path.write_bytes("".join([*cards, "END"]).ljust(2880).encode() + tail)
    return path


BITS = ("BITPIX", 32)


@pytest.mark.parametrize(
    "cards",
    [
        [BITS, ("NAXIS", 2), ("NAXIS1", -32), ("NAXIS2", 40)],
        [BITS, ("NAXIS", 10**9)],
        [BITS, ("NAXIS", -1)],
        [BITS, ("NAXIS", 2), ("NAXIS1", 10**9), ("NAXIS2", 10**9)],
        [BITS, ("NAXIS", 1), ("NAXIS1", 10), ("PCOUNT", -40)],
        [("BITPIX", 7), ("NAXIS", 1), ("NAXIS1", 10)],
        [("BITPIX", "'x'"), ("NAXIS", 0)],
        [("NAXIS", 0)],
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_headers_that_claim_absurd_sizes_are_refused(cards, pack, tmp_path):
    path = raw_file(tmp_path / "cube.fits", *cards)
    path.write_bytes(pack(path.read_bytes()))
    refuse(path, f"{DAMAGED}|at most 1 GB unpacked was expected; got .* times as large; unpack it")


@pytest.mark.parametrize("pack", [gzip, bz2, lzma])
def test_bombs_are_refused_before_they_are_unpacked(pack, tmp_path):
    path = raw_file(tmp_path / "cube.fits", BITS, ("NAXIS", 1), ("NAXIS1", 5 * 10**8))
    content = path.read_bytes()
    path.write_bytes(pack.compress(content) + pack.compress(bytes(2**20)) * 20)
    refuse(path, "at most 1 GB unpacked was expected; got .* times as large; unpack it")
    path.write_bytes(pack.compress(content[:160].ljust(2880)) + pack.compress(bytes(2**20)) * 5)
    refuse(path, "the header of HDU 0 is cut off or corrupt")  # it never ends


def test_pipes_and_devices_are_no_input(tmp_path):
    os.mkfifo(tmp_path / "pipe.fits")
    for path in (tmp_path / "pipe.fits", "/dev/zero"):
        refuse(path, "a FITS file was expected; got .*, a pipe or device; write it to a file")
        with pytest.raises(InputError, match="a file was expected; got .*, a pipe or device"):
            checksum(path)
    os.mkfifo(tmp_path / "pipe.yaml")
    refuse(tmp_path / "pipe.yaml", "a gammapy datasets file was expected; got .*, a pipe")


CARDS = [
    ("TFORM1", "-1E30"), ("TFORM1", "'ZZ'"), ("TFORM1", "'999999E'"), ("TUNIT2", "'keV"),
    ("TUNIT2", "5"), ("TTYPE1", "1"), ("TTYPE1", "''"), ("TFIELDS", "'x'"), ("PCOUNT", "'x'"),
    ("TFIELDS", "999999999"), ("CREATOR", "'gtbin"), ("CREATOR", "NaN"), ("EXTNAME", "'EBOUNDS"),
    ("EXTNAME", "7"), ("CTYPE1", "3"), ("CRVAL1", "'x'"), ("CDELT1", "0"), ("CDELT1", "NaN"),
    ("NAXIS2", "99999999"), ("BITPIX", "'8'"), ("XTENSION", "'ABINABLE'"),
]  # fmt: skip


@pytest.mark.parametrize("key, value", CARDS)
def test_cards_that_cannot_be_read_are_refused_in_one_line(key, value, cube):
    with fits.open(cube, mode="update") as hdus:
        hdus[0].header["CREATOR"] = "gtbin"
    content = cube.read_bytes()
    start = content.rindex(f"{key:<8}= ".encode())
    card = f"{key:<8}= {value:>20}".ljust(80).encode()
    cube.write_bytes(content[:start] + card + content[start + 80 :])
    refuse(cube, "; ", InputError)


@pytest.mark.parametrize("content", [b"SIMPLE  =                    F", b"SIMPLE  = T?"])
def test_what_is_no_standard_fits_is_refused(content, cube):
    cube.write_bytes(content + cube.read_bytes()[len(content) :])
    refuse(cube, "a FITS file was expected|is truncated or damaged")


def test_an_output_is_not_the_input_whose_hdu_is_chosen(cube):
    with pytest.raises(ValueError, match="output must not be the input"):
        check_outputs([cube], overwrite=True, inputs=[f"{cube}[EVENTS]"])
