"""fitsverify (HEASARC) and stilts read what is written, and find nothing to complain about."""

import csv
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import make_wcs, skip_unless_in_ci
from made_catalogs import META, make_measured, plain
from made_maps import wcs_pixels
from made_runs import make_run, with_pixels

from astro_unetloc.catalog.columns import COLUMNS, MATCH_COLUMNS
from astro_unetloc.catalog.table import with_columns
from astro_unetloc.catalog.write import write_outputs
from astro_unetloc.maps.photons import Photons
from astro_unetloc.products import moc_bytes, probability_map_bytes
from astro_unetloc.simulation.files import counts_cube_bytes, events_bytes, healpix_cube_bytes
from astro_unetloc.sphere import vectors_from_lonlat

# As a run writes them: values that one card cannot hold too.
PROVENANCE = META | {
    "VERSIONS": "numpy 2.4.6, scipy 1.17.1, astropy 8.0.2, healpy 1.20.1, scikit-learn 1.9.1",
    "INSHA256": "0123456789abcdef" * 4,
    "THRESH": 0.15,
    "BANDS": "10 20 50",
    "DSTYP2": "BIT_MASK(EVENT_CLASS,128,P8R2)",
    "DSVAL2": "1:1",
    "long keyword": "\u03b3 rays, it's <odd> & long: " + "x" * 100,
}
SIZES = [0, 1, 1500]
CLEAN = "Verification found 0 warning(s) and 0 error(s)"


def run(*words):
    """What a program says, on both streams; it must end well."""
    if not shutil.which(words[0]):
        skip_unless_in_ci(f"{words[0]} not installed (Debian: {words[0]})")
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def make_matched(n):
    """A catalogue of n sources with provenance, every second one with a match."""
    odd = np.arange(n) % 2 == 1
    names, catalogs = np.where(odd, "", "3FHL J0534.5+2201"), np.where(odd, "", "3FHL")
    values = (names, *(np.where(odd, np.nan, value) for value in (0.01, 0.5, 0.99)), catalogs)
    return with_columns(make_measured(n, meta=PROVENANCE), MATCH_COLUMNS, values)


@pytest.mark.parametrize("made", [make_matched, lambda n: make_measured(n, meta=PROVENANCE)])
@pytest.mark.parametrize("n", SIZES)
def test_checkers_find_no_error_and_no_warning_in_a_catalog(tmp_path, n, made):
    fits, votable = tmp_path / "c.fits", tmp_path / "c.vot"
    write_outputs(made(n), [fits, votable])
    assert CLEAN in run("fitsverify", fits)
    assert run("stilts", "votlint", f"votable={votable}") == ""


def test_fitsverify_has_no_error_and_no_warning_for_maps_and_photons(tmp_path):
    image = with_pixels(wcs_pixels(make_wcs(), (32, 32)))
    run_of_image, other = (make_run([400], keywords=lambda: PROVENANCE, **p) for p in (image, {}))
    edges = np.array([10.0, 30.0, 100.0])
    photons = Photons(vectors_from_lonlat(np.array([1.0, 2.0]), np.zeros(2)), np.array([15.0, 50]))
    contents = [
        probability_map_bytes(run_of_image),
        probability_map_bytes(other),
        moc_bytes(other),
        counts_cube_bytes(np.ones((2, 32, 32)), make_wcs(), edges),
        healpix_cube_bytes(np.ones((2, 12)), edges),
        events_bytes(photons, edges[[0, -1]], source_id=[0, -1]),
    ]
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.fits"
        path.write_bytes(content)
        assert CLEAN in run("fitsverify", path)


def test_votlint_sees_what_is_wrong(tmp_path):
    """The silence above means something."""
    write_outputs(make_measured(1), [tmp_path / "c.vot"])
    text = (tmp_path / "c.vot").read_text().replace('ref="icrs"', 'ref="nothing"')
    (tmp_path / "c.vot").write_text(text.replace("</TD></TR>", "</TD><TD>1</TD></TR>"))
    said = run("stilts", "votlint", f"votable={tmp_path / 'c.vot'}")
    assert re.search("(?i)error|warning", said)


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".vot", ".csv"])
def test_stilts_reads_names_and_values(tmp_path, suffix):
    catalog = make_matched(5)
    catalog["Source_Name"][0] = "A"  # shorter than the others
    path = tmp_path / f"c{suffix}"
    write_outputs(catalog, [path])
    options = [f"ifmt={suffix[1:]}"] if "csv" in suffix else []
    out = tmp_path / "out.csv"
    run("stilts", "tpipe", *options, f"in={path}", "ofmt=csv", f"out={out}")
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    expected = [spec.name for spec in COLUMNS]
    if suffix == ".csv":  # a column for each band
        bands = [[f"{s.name}_1", f"{s.name}_2"] if s.per_band else [s.name] for s in COLUMNS]
        expected = sum(bands, [])
    assert list(rows[0])[: len(expected)] == expected
    assert [row["Source_Name"] for row in rows] == list(catalog["Source_Name"])
    for name in ("RAJ2000", "Flux", "Npred", "ASSOC_Prob", "Flags"):
        found = [float(row[name] or "nan") for row in rows]
        values, mask = plain(catalog[name])
        expected = np.where(mask, np.nan, values.astype(float))
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("suffix", [".fits", ".vot"])
@pytest.mark.parametrize("n", SIZES)
def test_stilts_counts_every_source_and_knows_units_and_ucds(tmp_path, suffix, n):
    path = tmp_path / f"c{suffix}"
    write_outputs(make_measured(n, meta=PROVENANCE), [path])
    said = run("stilts", "tpipe", f"in={path}", "omode=count")
    assert said.split() == ["columns:", str(len(COLUMNS)), "rows:", str(n)]
    if n:
        return
    meta = run("stilts", "tpipe", f"in={path}", "cmd=meta name units ucd", "ofmt=csv", "omode=out")
    rows = {row["Name"]: row for row in csv.DictReader(io.StringIO(meta))}
    for spec in COLUMNS:
        assert rows[spec.name]["UCD"] == spec.ucd
        assert bool(rows[spec.name]["Units"]) == bool(spec.unit)
    assert rows["RAJ2000"]["Units"] == "deg"
