"""`read_catalog` gives back what was written, whatever it holds."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_catalogs import assert_same_catalog, make_catalog, make_sources

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


def draw_column(spec, n, rng):
    """n values of a column, a third of them unknown."""
    if spec.dtype.startswith("U"):
        return np.array([draw_text(rng) for _ in range(n)], str)
    values = rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, n)
    values = np.where(rng.random(n) < 0.2, np.rint(rng.normal(0, 99, n)), values)
    return np.where(rng.random(n) < 1 / 3, np.nan, values.astype(np.float32))


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
    values = {spec.name: draw_column(spec, n, rng) for spec in specs}
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
    assert_same_catalog(table, catalog)
    assert table.meta == (catalog.meta if suffix != ".csv" else {})
