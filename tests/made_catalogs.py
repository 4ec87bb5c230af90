"""Small catalogues to test on."""

import numpy as np
from regions import EllipseSkyRegion, PointSkyRegion

from astro_unetloc.catalog import table
from astro_unetloc.catalog.columns import set_column
from astro_unetloc.detection.localization import source_table
from astro_unetloc.sphere import vectors_from_lonlat

META = {"MODEL": "lat-10gev", "MODELSHA": "0123456789abcdef" * 4, "SEED": 0, "INFILE": "map.fits"}
META |= {"EMIN": 10.0, "EMAX": 2000.0}
META |= {"DSTYP1": "POS(RA,DEC)", "DSVAL1": "CIRCLE(83.63,22.01,10)"}


def make_sources(n=5, *, seed=0, lon=None, lat=None):
    """A table of n sources anywhere on the sky, or at Galactic positions in degrees."""
    rng = np.random.default_rng(seed)
    lon = rng.uniform(0, 360, n) if lon is None else np.asarray(lon, float)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, n))) if lat is None else np.asarray(lat, float)
    n = len(lon)
    probability, score, patch = *rng.uniform(0.2, 1, (2, n)), rng.integers(0, 768, n)
    vectors = vectors_from_lonlat(lon, lat)
    sources = source_table(vectors, probability, patch=patch, coverage=np.ones(n))
    sources["Score"] = score
    separation = np.full(n, np.nan) if n == 1 else rng.uniform(0.5, 5, n)
    set_column(sources, "Sep_Nearest", separation)
    return sources


def make_catalog(sources, *, values=None, meta=None):
    """The catalogue of a table of sources with more columns, values (n,) by name."""
    sources = sources.copy()
    for name, column in (values or {}).items():
        set_column(sources, name, column)
    return table.make_catalog(sources, meta)


def make_measured(n=5, *, seed=0, meta=META):
    """A catalogue in which every other source has a 95 % ellipse, counts, flux and class."""
    odd, values = np.arange(n) % 2 == 1, {"Npred": 12.5, "Flux": 3.3e-11}
    values |= {"Conf_95_SemiMajor": 0.1, "Conf_95_SemiMinor": 0.05, "Conf_95_PosAng": 30.0}
    values = {name: np.where(odd, np.nan, value) for name, value in values.items()}
    values["Class"] = np.where(odd, "", "agn")
    return make_catalog(make_sources(n, seed=seed), values=values, meta=meta)


def plain(column):
    """Values and mask of a column of any kind."""
    values = getattr(column, "unmasked", column)
    values = np.ma.getdata(getattr(values, "value", values))
    return values, np.broadcast_to(getattr(column, "mask", False), values.shape)


def assert_same_catalog(table, other):
    """Same columns in the same order, of the same kind, type, unit, description and content."""
    assert table.colnames == other.colnames
    assert len(table) == len(other)
    for name in other.colnames:
        if name == "skycoord":
            assert np.all(table[name].separation(other[name]).arcsec < 1e-6)
            continue
        first, second = (
            (type(c), c.dtype, c.unit, c.info.description) for c in (table[name], other[name])
        )
        assert first == second, name
        (values, mask), (expected, expected_mask) = plain(table[name]), plain(other[name])
        np.testing.assert_array_equal(mask, expected_mask, err_msg=name)
        np.testing.assert_array_equal(values[~mask], expected[~mask], err_msg=name)


def split_regions(regions):
    """Points and ellipses of regions that hold nothing else."""
    points = [region for region in regions if isinstance(region, PointSkyRegion)]
    ellipses = [region for region in regions if isinstance(region, EllipseSkyRegion)]
    assert len(points) + len(ellipses) == len(regions)
    return points, ellipses
