"""`read_catalog` gives back what was written, whatever it holds."""

import re
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from gammapy.modeling.models import Models
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_catalogs import assert_same_catalog, make_catalog, make_sources
from regions import Regions

from astro_unetloc.catalog.columns import COLUMNS, MATCH_COLUMNS
from astro_unetloc.catalog.read import read_catalog
from astro_unetloc.catalog.table import with_columns
from astro_unetloc.catalog.write import write_outputs

# Those that `make_catalog` takes from the sources.
OF_SOURCES = {"Source_Name", "RAJ2000", "DEJ2000", "GLON", "GLAT", "Score", "Probability"}
OF_SOURCES |= {"Sep_Nearest", "Coverage", "Patch", "Flags"}
# Letters of names, and those that formats give a meaning to.
LETTERS = np.array(list("UNLJ0519 +-.<>&'\"\\,;#{}[]="))
# Names that FITS itself gives a meaning to.
RESERVED = {"END", "DATE", "COMMENT", "COMMENTS", "HISTORY", "SIMPLE", "BITPIX", "EXTEND", "THEAP"}


def draw_text(rng):
    """A text of up to 20 letters, or none: as wide as it is, for types tell the width."""
    return "".join(rng.choice(LETTERS, rng.integers(-10, 21).clip(0))).strip()


def draw_column(spec, n, rng, n_bands=1):
    """n values of a column, a third of them unknown."""
    if spec.dtype.startswith("U"):
        return np.array([draw_text(rng) for _ in range(n)], str)
    shape = (n, n_bands) if spec.per_band else n
    values = rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, shape)
    values = np.where(rng.random(shape) < 0.2, np.rint(rng.normal(0, 99, shape)), values)
    return np.where(rng.random(shape) < 1 / 3, np.nan, values.astype(np.float32))


metas = st.dictionaries(
    st.from_regex("[A-Z]{1,8}", fullmatch=True).filter(lambda key: key not in RESERVED),
    st.one_of(
        st.text("ab0 .<&'\"\\,#", min_size=1, max_size=99).map(str.strip).filter(bool),
        st.integers(-(2**31), 2**31), st.booleans(), st.floats(1e-9, 1e9),
    ),
    max_size=3,
)  # fmt: skip


def draw_catalog(seed, n, meta):
    """A catalogue of n sources anywhere, with a match or none."""
    rng = np.random.default_rng(seed)
    specs = [spec for spec in COLUMNS if spec.name not in OF_SOURCES]
    n_bands = int(rng.integers(1, 4))
    values = {spec.name: draw_column(spec, n, rng, n_bands) for spec in specs}
    meta = meta | {"BANDS": " ".join(map(str, 10 * 2 ** np.arange(n_bands + 1)))}
    catalog = make_catalog(make_sources(n, seed=seed), values=values, meta=meta)
    if rng.random() < 0.5:
        matches = [draw_column(spec, n, rng) for spec in MATCH_COLUMNS]
        catalog = with_columns(catalog, MATCH_COLUMNS, matches)
    return catalog


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".ecsv", ".csv", ".vot"])
# no shrinking: it would write thousands of files
@settings(derandomize=True, deadline=None, max_examples=12, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32), n=st.integers(0, 6), meta=metas)
def test_every_catalog_reads_back_as_it_was(suffix, seed, n, meta):
    catalog = draw_catalog(seed, n, meta)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"c{suffix}"
        write_outputs(catalog, [path])
        table = read_catalog(path)
    if n or suffix != ".csv":  # it has no header that states the number of bands
        assert_same_catalog(table, catalog)
    assert table.meta == (catalog.meta if suffix != ".csv" else {})


NAMES = [
    "Virgo \xfc", "\u03b3-\u661f \U0001f31f", "\u05d0\u05d1", "Br\xfbl\xe9", "#12", "# x", "-",
    "--", "nan", "N/A", "1e5", "007", "True", "null", "~", "a: b", '"q"', "'q'", "a,b;c", "%",
    "<B> & 'c'", "]]>", "\\n", "{a}", "&amp;", "=cmd()", "a\nb", "a\r\nb", "a\tb", "a\x1b[31m",
    "a\x00b", "a\ud800b",
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".csv", ".vot", ".yaml", ".xml", ".reg"])
def test_names_of_any_characters_survive_in_every_format(tmp_path, suffix):
    kept = [re.sub("[\x00-\x1f\ud800]", " ", name) for name in NAMES]
    catalog = QTable({"Source_Name": NAMES, "Other": NAMES[::-1], "Flux": np.full(32, 1e-10)})
    catalog["RA"], catalog["Dec"] = np.arange(32.0) * u.deg, np.zeros(32) * u.deg
    catalog.meta = {"FLUXEMIN": 10.0, "FLUXEMAX": 100.0, "NOTE": NAMES[0]}
    path = tmp_path / f"c{suffix}"
    with pytest.warns(match="ASCII only: 4 of 32") if suffix == ".fits" else nullcontext():
        write_outputs(catalog, [path])
    if suffix in (".yaml", ".xml", ".reg"):
        if suffix == ".reg":
            read = [r.meta["text"] for r in Regions.read(path, format="ds9")]
        elif suffix == ".xml":
            read = [source.get("name") for source in ElementTree.parse(path).getroot()]
        else:
            read = Models.read(path).names
        assert len(read) == 32
        assert suffix == ".reg" or read[:26] == kept[:26]
        return
    table = read_catalog(path)
    assert list(table["RAJ2000"].value) == list(range(32))
    if suffix == ".fits":
        kept = ["Virgo u", "?-? ?", "??", "Brule", *kept[4:]]
    assert list(table["Source_Name"]) == kept
    assert list(table["Other"]) == kept[::-1]
