import shutil
import subprocess
import time

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn, QTable, Table
from astropy.utils.masked import Masked
from conftest import skip_unless_in_ci
from hypothesis import given, settings
from hypothesis import strategies as st
from made_catalogs import make_measured
from mocpy import MOC

from astro_unetloc.catalog.match import (
    MAX_SIGMAS,
    SIGMAS_95,
    inside_extended,
    is_known,
    match_catalogs,
)
from astro_unetloc.catalog.read import catalog_name, read_catalog, read_extended, within_sky
from astro_unetloc.catalog.table import degrees
from astro_unetloc.catalog.write import write_outputs
from astro_unetloc.pipeline import find_sources
from astro_unetloc.sphere import SKY_DEG2

POSITION = ("RAJ2000", "DEJ2000")
ELLIPSE = ("Conf_95_SemiMajor", "Conf_95_SemiMinor", "Conf_95_PosAng")
FHL2, FHL3, FGL3 = "gll_psch_v09.fit.gz", "gll_psch_v13.fit.gz", "gll_psc_v16.fit.gz"
FGL4 = "4fgl_dr3_reduced.fits"


def make_table(ra, dec=0.0, **columns):
    """Table of positions in degrees, on the equator by default."""
    ra = np.asarray(ra, float)
    dec = np.broadcast_to(dec, len(ra)).astype(float)
    return QTable({"RAJ2000": ra * u.deg, "DEJ2000": dec * u.deg, **columns})


def make_reference(ra, extension_deg=None):
    """Reference with names A, B, ...; extended where ``extension_deg`` is not None."""
    radius = np.array(extension_deg or [None] * len(ra), float)
    extended, extension = ~np.isnan(radius), Masked(radius * u.deg, mask=np.isnan(radius))
    names = [chr(ord("A") + row) for row in range(len(ra))]
    return make_table(ra, Source_Name=names, Extended=extended, Extension=extension)


def with_errors(table, size_deg, size_2_deg=None, angle_deg=0.0):
    """The table with 95 % ellipses."""
    values = (size_deg, size_deg if size_2_deg is None else size_2_deg, angle_deg)
    for name, value in zip(ELLIPSE, values):
        table[name] = np.broadcast_to(value, len(table)) * u.deg
    return table


def make_random(n, rng, size_deg=None):
    """Table of positions anywhere on the sky, with circular 95 % errors."""
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    table = make_table(rng.uniform(0, 360, n), dec)
    return table if size_deg is None else with_errors(table, size_deg)


def read_real(folder, *names):
    """Catalogues of the Fermi-LAT."""
    return [read_catalog(folder / "catalogs" / name) for name in names]


def pairs(match):
    return list(zip(match.catalog_index.tolist(), match.reference_index.tolist()))


def norm_of(catalog, reference):
    """Normalized separation of the first rows of two tables, and the same the other way round."""
    both = match_catalogs(catalog, reference), match_catalogs(reference, catalog)
    return [match.pairs["separation_norm"][0] for match in both]


# Within a radius


@pytest.mark.parametrize(
    ("ra", "score", "others", "expected"),
    [
        ([10.01, 10.1], [0.3, 0.9], [10.0], [(1, 0)]),
        ([10.01, 10.1], [0.9, 0.3], [10.0], [(0, 0)]),
        ([10.0, 10.02], [0.9, 0.8], [10.01, 10.2], [(0, 0), (1, 1)]),  # the nearest was taken
        ([10.0, 10.1], [0.5, 0.5], [10.12], [(1, 0)]),
        ([10.0, 10.1], [np.nan, np.nan], [10.12], [(1, 0)]),
        ([10.0, 10.1], MaskedColumn([0.5, 0.1], mask=[True, False]), [10.0], [(1, 0)]),
    ],
)
def test_each_takes_the_nearest_free_source_in_descending_score(ra, score, others, expected):
    assert pairs(match_catalogs(make_table(ra, Score=score), make_reference(others))) == expected


@pytest.mark.parametrize("radius", [0.2, 0.2 * u.deg, 12 * u.arcmin])
def test_radius_is_degrees_or_an_angle_and_belongs_to_the_disc(radius):
    reference = make_reference([10.2, 30.2001])
    match = match_catalogs(make_table([10.0, 30.0]), reference, radius=radius)
    assert pairs(match) == [(0, 0)]
    assert match.radius_deg == pytest.approx(0.2)
    assert match.matches["separation"].value == pytest.approx([0.2])
    assert match.catalog_unmatched.tolist() == match.reference_unmatched.tolist() == [1]
    for impossible in (0 * radius, -radius, np.nan, 200 * u.deg, "x", 3 * u.s):
        with pytest.raises(ValueError, match="radius must be an angle above 0"):
            match_catalogs(make_table([1.0]), reference, radius=impossible)


def test_match_crosses_longitude_zero_and_the_pole_and_leaves_unknown_positions_out():
    catalog = make_table([359.95, 10.0, np.nan, 50.0], [0.0, 89.95, 0.0, 0.0])
    reference = make_table([0.05, 190.0, 50.0, np.nan], [0.0, 89.95, 0.0, 0.0])
    assert sorted(pairs(match_catalogs(catalog, reference))) == [(0, 0), (1, 1), (3, 2)]


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_empty_tables_match_nothing(n, m):
    catalog, reference = make_table(np.arange(n)), make_reference(np.arange(m))
    match = match_catalogs(catalog, reference)
    assert len(match.matches) == 0
    assert match.catalog_unmatched.tolist() == list(range(n))
    assert match.reference_unmatched.tolist() == list(range(m))
    assert len(match.apply()) == n
    assert f"0 of {m}" in match.summary()
    assert is_known(catalog, [reference]).tolist() == [False] * n


# By the errors of both


def test_errors_decide_by_default_and_a_radius_if_given():
    catalog = with_errors(make_table([10.0, 20.0]), [0.3, 0.01])
    reference = with_errors(make_reference([10.4, 20.1]), 0.01)
    match = match_catalogs(catalog, reference)
    assert match.by_errors
    assert pairs(match) == [(0, 0)]
    sigma = np.hypot(0.3, 0.01) / SIGMAS_95
    assert match.matches["separation_norm"] == pytest.approx([0.4 / sigma], rel=1e-3)
    match = match_catalogs(catalog, reference, radius=0.3)
    assert not match.by_errors
    assert pairs(match) == [(1, 1)]
    sigma = np.hypot(0.01, 0.01) / SIGMAS_95
    assert match.matches["separation_norm"] == pytest.approx([0.1 / sigma], rel=1e-3)


def test_smallest_normalized_separation_wins_but_matches_come_in_descending_score():
    catalog = with_errors(make_table([10.0, 10.3], Score=[0.9, 0.1]), [0.05, 0.3])
    reference = with_errors(make_reference([10.1]), 0.05)
    assert pairs(match_catalogs(catalog, reference)) == [(1, 0)]
    assert pairs(match_catalogs(catalog, reference, radius=0.3)) == [(0, 0)]
    catalog = with_errors(make_table([10.0, 20.0], Score=[0.1, 0.9]), 0.1)
    reference = with_errors(make_reference([10.0, 20.1]), 0.1)
    assert pairs(match_catalogs(catalog, reference)) == [(1, 1), (0, 0)]


def test_radius_decides_where_one_error_is_unknown_and_all_pairs_within_it_are_listed():
    catalog = with_errors(make_table([10.0, 20.0, 30.0, 40.0]), [0.02, 0.4, np.nan, np.nan])
    match = match_catalogs(catalog, with_errors(make_table([10.2, 20.5, 30.2, 40.4]), 0.02))
    assert match.pairs["catalog_index"].tolist() == [0, 1, 2]
    assert match.pairs["matched"].tolist() == [False, True, True]
    assert np.isnan(match.pairs["separation_norm"]).tolist() == [False, False, True]
    match = match_catalogs(catalog, make_reference([10.2, 20.2, 30.2, 40.4]))
    assert match.by_errors
    assert pairs(match) == [(0, 0), (1, 1), (2, 2)]
    assert np.isnan(match.matches["separation_norm"]).all()


# All candidates, and what has no partner


def test_all_candidates_are_kept():
    catalog = with_errors(make_table([10.0, 50.0], Source_Name=["X", "Y"]), 0.1)
    reference = with_errors(make_reference([10.2, 10.05, 10.1], [None, None, 1.0]), 0.05)
    match = match_catalogs(catalog, reference)
    table = match.candidate_table()
    assert list(table["Source_Name"]) == ["X", "X", "X"]
    assert list(table["ASSOC"]) == ["B", "A", "C"]
    assert list(table["Matched"]) == [1, 0, 0]
    assert list(table["Extended"]) == [0, 0, 1]
    assert list(table["ASSOC_Prob"].mask) == [False, False, True]
    assert table["ASSOC_Sep"].unmasked.to_value("deg") == pytest.approx([0.05, 0.2, 0.1])
    # they share one probability
    catalog, reference = make_table([10.0]), make_reference([9.9, 10.1, 10.2])
    probability = match_catalogs(catalog, reference).pairs["probability"]
    assert probability.sum() < 1
    assert probability[0] == pytest.approx(probability[1])
    assert probability[2] < probability[1]


def test_what_has_no_partner_can_be_listed():
    catalog = make_measured(3)
    reference = with_errors(make_reference([200.0, 201.0], [None, 1.0]), [0.1, np.nan])
    reference["Flux1000"] = [1e-9, 2e-9] / u.cm**2 / u.s
    match = match_catalogs(catalog, reference)
    assert list(match.not_known()["Source_Name"]) == list(catalog["Source_Name"])
    missing = match.not_found()
    assert list(missing["Source_Name"]) == ["A"]
    assert missing["Conf_95_SemiMajor"][0].unmasked.to_value("deg") == 0.1
    assert missing["Flux1000"][0].to_value("cm-2 s-1") == 1e-9
    assert {"RAJ2000", "DEJ2000", "GLON", "GLAT"} <= set(missing.colnames)


# Normalized separations


@pytest.mark.parametrize(
    ("angle_deg", "offset", "sigma"),
    [
        (0.0, (0.0, 0.2), 0.3), (90.0, (0.0, 0.2), 0.1), (180.0, (0.0, 0.2), 0.3),
        (45.0, (0.1, 0.1), 0.3), (45.0, (-0.1, 0.1), 0.1),  # east of north
    ],
)  # fmt: skip
def test_separation_is_measured_along_the_ellipse(angle_deg, offset, sigma):
    catalog = with_errors(make_table([10.0]), 0.3 * SIGMAS_95, 0.1 * SIGMAS_95, angle_deg)
    reference = with_errors(make_table([10.0 + offset[0]], offset[1]), 1e-6)
    expected = np.hypot(*offset) / sigma
    assert norm_of(catalog, reference) == pytest.approx([expected] * 2, rel=1e-3)


def test_errors_of_both_add_in_quadrature_and_do_not_turn_across_the_pole():
    catalog = with_errors(make_table([10.0]), 0.3)
    reference = with_errors(make_table([10.25]), 0.4, angle_deg=70.0)
    assert norm_of(catalog, reference) == pytest.approx([0.5 * SIGMAS_95] * 2, rel=1e-4)
    # North is opposite on the two sides: both ellipses lie along the line that joins them.
    catalog = with_errors(make_table([0.0], 89.9), 0.3, 0.03)
    reference = with_errors(make_table([180.0], 89.9), 0.3, 0.03)
    sigma = np.hypot(0.3, 0.3) / SIGMAS_95
    assert norm_of(catalog, reference) == pytest.approx([0.2 / sigma] * 2, rel=1e-3)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_normalized_separation_does_not_depend_on_the_side(seed):
    rng = np.random.default_rng(seed)
    size = np.sort(rng.uniform(0.02, 0.3, (2, 2)), axis=1)[:, ::-1]
    angle, ra, dec = rng.uniform(-90, 270, 2), rng.uniform(0, 360), rng.uniform(-85, 85)
    catalog = with_errors(make_table([ra], [dec]), *size[0], angle[0])
    ra, dec = ra + 0.05 / np.cos(np.radians(dec)), dec + 0.05
    one, other = norm_of(catalog, with_errors(make_table([ra], [dec]), *size[1], angle[1]))
    assert one == pytest.approx(other, rel=0.02)


def scattered(table, rng):
    """The table with each position moved by its own error."""
    center, angle = SkyCoord(table["RAJ2000"], table["DEJ2000"]), table["Conf_95_PosAng"]
    for turn, name in ((0, "Major"), (90, "Minor")):
        offset = table[f"Conf_95_Semi{name}"] / SIGMAS_95 * rng.standard_normal(len(table))
        center = center.directional_offset_by(angle + turn * u.deg, offset)
    moved = table.copy()
    moved["RAJ2000"], moved["DEJ2000"] = center.ra.to(u.deg), center.dec.to(u.deg)
    return moved


def test_one_in_twenty_true_pairs_exceeds_the_limit_of_95_percent():
    rng, n = np.random.default_rng(0), 20_000
    size = rng.uniform(0.1, 0.2, n), rng.uniform(0.02, 0.1, n), rng.uniform(0, 180, n)
    truth = with_errors(make_random(n, rng), *size)
    found = match_catalogs(scattered(truth, rng), scattered(truth, rng)).pairs
    own = found["catalog_index"] == found["reference_index"]
    norm = found["separation_norm"][own]
    assert np.sum(norm <= MAX_SIGMAS) / n == pytest.approx(0.999, abs=0.001)
    assert np.sum(norm <= SIGMAS_95) / n == pytest.approx(0.95, abs=0.005)


# Probabilities


def test_probabilities_are_fractions_of_true_pairs():
    """Six of ten detections have a counterpart, in a sky full of other sources."""
    rng, n = np.random.default_rng(7), 12_000
    reference = make_random(40_000, rng, 0.1)
    true = rng.random(n) < 0.6
    catalog = make_random(n, rng)
    for name in POSITION:
        catalog[name][true] = reference[name][:n][true]
    # the catalogue is moved by the errors of both
    moved = scattered(with_errors(catalog, np.hypot(0.1, 0.2)), rng)
    found = match_catalogs(with_errors(moved, 0.2), reference).pairs
    row, probability = found["catalog_index"], found["probability"]
    right = true[row] & (row == found["reference_index"])
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1.0)):
        chosen = (probability > low) & (probability <= high)
        assert chosen.sum() > 200
        assert right[chosen].mean() == pytest.approx(probability[chosen].mean(), abs=0.05)
    assert (np.bincount(row, probability) < 1).all()


# Chance coincidence rate

DISC_DEG2 = np.pi * 0.3**2


def unrelated_rate(density, area_deg2):
    """Fraction of unrelated positions with a source of this density (deg-2) in the area."""
    return -np.expm1(-density * area_deg2)


def galactic_table(lon, lat):
    return QTable({"GLON": lon * u.deg, "GLAT": lat * u.deg})


def test_chance_rate_is_that_of_a_uniform_sky():
    rng = np.random.default_rng(0)
    catalog, reference = make_random(1000, rng), make_random(8000, rng)
    expected = unrelated_rate(8000 / SKY_DEG2, DISC_DEG2)
    assert match_catalogs(catalog, reference).chance_rate == pytest.approx(expected, rel=0.05)
    # counterparts of the detections are no chance
    match = match_catalogs(reference[:1000], reference)
    assert match.chance_rate == pytest.approx(expected, rel=0.05)


def test_chance_rate_by_errors_takes_the_area_of_both_ellipses():
    rng = np.random.default_rng(1)
    match = match_catalogs(make_random(1000, rng, 0.2), make_random(8000, rng, 0.1))
    area = np.pi * (MAX_SIGMAS / SIGMAS_95) ** 2 * (0.2**2 + 0.1**2)
    assert match.chance_rate == pytest.approx(unrelated_rate(8000 / SKY_DEG2, area), rel=0.05)


def test_chance_rate_is_known_where_sources_crowd():
    rng = np.random.default_rng(9)
    crowd = galactic_table(rng.uniform(20, 30, 20_000), rng.uniform(-5, 5, 20_000))
    places = galactic_table(rng.uniform(24, 26, 100), rng.uniform(-2, 2, 100))
    assert match_catalogs(places, crowd).chance_rate > 0.999
    match = match_catalogs(places, crowd, radius=0.03)
    assert match.chance_rate == pytest.approx(unrelated_rate(200, np.pi * 0.03**2), rel=0.1)


def test_chance_rate_follows_the_plane():
    rng = np.random.default_rng(3)
    plane = galactic_table(rng.uniform(0, 360, 4000), rng.normal(0, 2, 4000))
    places = galactic_table(np.full(3, 40.0), np.array([0.0, 2.0, 4.0]))
    density = -np.log1p(-match_catalogs(places, plane).chance_probability) / DISC_DEG2
    peak = 4000 / (360 * 2 * np.sqrt(2 * np.pi))
    assert density == pytest.approx(peak * np.exp([0, -0.5, -2.0]), rel=0.5)
    assert (np.diff(density) < 0).all()


def test_few_sources_have_a_chance_rate_too_and_unknown_positions_no_part_in_it():
    rng = np.random.default_rng(4)
    for n in (0, 1, 2, 5):
        match = match_catalogs(make_random(3, rng), make_random(n, rng))
        assert match.chance_probability.shape == (3,)
        assert (match.chance_probability < 0.1).all()
        assert np.isnan(match_catalogs(make_random(0, rng), make_random(n, rng)).chance_rate)
    catalog, reference = make_random(100, rng), make_random(4000, rng)
    more = make_table(*(np.append(reference[n].value, np.full(50, np.nan)) for n in POSITION))
    expected = match_catalogs(catalog, reference).chance_probability
    np.testing.assert_array_equal(match_catalogs(catalog, more).chance_probability, expected)
    chance = match_catalogs(make_table([10.0, np.nan]), reference).chance_probability
    assert chance[0] > 0
    assert chance[1] == 0


def test_chance_rate_comes_from_the_sky_around_if_it_is_given():
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 4000), rng.uniform(-30, 30, 4000)
    whole, near = make_table(ra, dec), np.abs(ra - 180) < 2
    catalog = make_table(np.full(15, 180.0), np.linspace(-28, 28, 15))
    alone = match_catalogs(catalog, whole[near])
    match = match_catalogs(catalog, whole[near], surroundings=whole)
    expected = unrelated_rate(4000 / (360 * 2 * np.degrees(0.5)), DISC_DEG2)
    assert match.chance_rate == pytest.approx(expected, rel=0.3)
    np.testing.assert_array_equal(match.catalog_index, alone.catalog_index)


def matches_when_shifted(catalog, reference, radius):
    """Number of shifted copies of detections that match, and of all copies.

    They are shifted by up to 13 deg along Galactic longitude, which keeps latitude and density.
    """
    steps = np.arange(1.0, 13.0, 0.15)
    steps = np.append(steps, -steps)[:: 1 + 160 * len(catalog) // 60_000]
    rows = np.tile(np.arange(len(catalog)), len(steps))
    copies = catalog["RAJ2000", "DEJ2000", *ELLIPSE][rows]
    galactic = SkyCoord(copies["RAJ2000"], copies["DEJ2000"]).galactic
    step = np.repeat(steps, len(catalog)) * u.deg
    moved = galactic.directional_offset_by(90 * u.deg, step).icrs
    copies["RAJ2000"], copies["DEJ2000"] = moved.ra.to(u.deg), moved.dec.to(u.deg)
    found = match_catalogs(copies, reference, radius=radius).pairs
    norm = found["separation_norm"]
    near = ~found["extended"] & ((norm <= MAX_SIGMAS) | np.isnan(norm) | (radius is not None))
    return len(np.unique(found["catalog_index"][near])), len(copies)


@pytest.mark.parametrize("radius", [None, 0.3])
@pytest.mark.parametrize("max_latitude_deg", [90, 5])
@pytest.mark.parametrize(
    ("name", "other"), [(FHL2, FHL3), (FHL2, FGL4), (FHL3, FGL4), (FHL3, FGL3)]
)
def test_chance_rate_of_real_catalogs_is_that_of_shifted_ones(
    real_data, name, other, max_latitude_deg, radius
):
    catalog, reference = read_real(real_data, name, other)
    catalog = within_sky(catalog, box=(0, 0, 360, 2 * max_latitude_deg))
    if "Pos_err_95" in catalog.colnames:
        catalog = with_errors(catalog, degrees(catalog["Pos_err_95"]))
    n_matched, n_copies = matches_when_shifted(catalog, reference, radius)
    chance = match_catalogs(catalog, reference, radius=radius).chance_rate
    assert n_matched > 100  # else the shifts themselves are not known to a tenth
    assert chance == pytest.approx(n_matched / n_copies, rel=0.2)


# Extended sources


def test_detections_inside_an_extension_are_known_and_the_nearest_counts():
    catalog = make_table([10.0, 10.9, 11.1, 20.2, 20.4])
    match = match_catalogs(catalog, make_reference([10.0, 20.0], [1.0, 0.1]))
    # The second source is smaller than the radius, which then decides; none of them takes a match.
    assert pairs(match) == match.reference_unmatched.tolist() == []
    assert match.inside["catalog_index"].tolist() == [0, 1, 3]
    assert match.inside["reference_index"].tolist() == [0, 0, 1]
    assert match.inside["separation"].value == pytest.approx([0.0, 0.9, 0.2])
    assert match.catalog_unmatched.tolist() == [2, 4]
    reference = make_reference([10.0], [0.0])  # of unknown size: reaches to the radius
    reference["Extension"].mask[:] = True
    match = match_catalogs(make_table([10.29, 10.31]), reference)
    assert match.inside["catalog_index"].tolist() == [0]
    match = match_catalogs(make_table([10.6]), make_reference([10.0, 11.0], [2.0, 2.0]))
    assert match.inside["reference_index"].tolist() == [1]


def test_known_is_not_one_to_one_and_takes_any_reference():
    catalog = make_table([10.0, 10.05, 20.0, 30.0])
    references = [make_reference([10.1]), make_reference([20.1], [0.0])]
    assert is_known(catalog, references).tolist() == [True, True, True, False]
    assert is_known(catalog, []).tolist() == [False] * 4
    assert is_known(make_table([10.0, 12.0]), [make_reference([11.0], [1.0])]).tolist() == [1, 1]


# Results


def test_apply_adds_the_match_columns_to_a_copy():
    catalog = make_measured(3)
    ra, dec = (catalog[name].value[[2, 0]] for name in POSITION)
    known = {"Source_Name": ["4FGL J0000.1+0000", "4FGL J0000.2+0000e"], "Extended": [False, True]}
    reference = make_table(ra, dec + 0.05, **known)
    names = catalog.colnames, reference.colnames
    match = match_catalogs(catalog, reference)
    matched = match.apply()
    assert list(matched["ASSOC"].filled("-")) == ["4FGL J0000.2+0000e", "-", "4FGL J0000.1+0000"]
    assert list(matched["ASSOC_Sep"].mask) == [False, True, False]
    assert matched["ASSOC_Sep"][0].unmasked.to_value("deg") == pytest.approx(0.05, rel=1e-4)
    assert matched["ASSOC_Sep_Norm"].mask.all()
    # Inside an extended source nothing says how probable the association is.
    assert list(matched["ASSOC_Prob"].mask) == [True, True, False]
    assert list(matched["ASSOC_Catalog"].filled("-")) == ["4FGL", "-", "4FGL"]
    assert (catalog.colnames, reference.colnames) == names
    catalog["More"] = [1, 2, 3]
    assert list(match.apply(catalog)["More"]) == [1, 2, 3]
    with pytest.raises(ValueError, match="must have the 3 rows that were matched; got 1"):
        match.apply(catalog[:1])


def test_summary_states_what_was_found_its_probabilities_and_the_chance_rate():
    catalog = make_table([10.0, 20.0, 30.0, 40.0])
    match = match_catalogs(catalog, make_reference([10.1, 20.0, 50.0], [None, 1.0, None]))
    summary = match.summary()
    assert "1 of 2 (50 %) point-like" in summary
    assert "2 of 4 (50 %) detections known, 1 of them in extended sources" in summary
    assert "0.100 deg" in summary
    assert "1 extended source, 1 with a detection inside" in summary
    catalog = with_errors(make_table(np.random.default_rng(1).uniform(0, 360, 200)), 0.1)
    reference = with_errors(make_table(catalog["RAJ2000"].value), 0.1)
    summary = match_catalogs(catalog, reference).summary()
    assert "(<= 3.72 sigma, or <= 0.3 deg where an error is unknown)" in summary
    assert "0.000 deg, 0.00 sigma" in summary
    assert "association probability of 0.8 or more" in summary
    assert "of unrelated detections would match (from the local density)" in summary


def test_classes_of_matches_are_compared_and_those_without_a_class_left_out():
    kinds = ["agn", "agn", "", "psr", "agn", "psr"]
    catalog = make_table(10.0 * np.arange(6), Class=MaskedColumn(kinds, mask=np.equal(kinds, "")))
    reference = make_table(10.0 * np.arange(1, 8))
    assert "by class" not in match_catalogs(catalog, reference).summary()
    reference["CLASS1"] = ["bll", "FSRQ", "msp ", "snr", "", "psr", "unk"]
    match = match_catalogs(catalog, reference)
    table = match.confusion()
    assert table.colnames == ["Class", "agn", "psr", "other", "none"]
    assert [tuple(row) for row in table] == [
        ("agn", 1, 0, 0, 1), ("psr", 0, 1, 0, 0), ("other", 1, 0, 0, 0),
    ]  # fmt: skip
    *_, title, head, agn, _, other = match.summary().splitlines()
    assert title == "Matches by class in reference (rows) and in the catalogue:"
    assert head.split() == ["agn", "psr", "other", "none"]
    assert agn.split() == ["agn", "1", "0", "0", "1"]
    assert other.split() == ["other", "1", "0", "0", "0"]
    catalog["Class"].mask = True
    assert "by class" not in match_catalogs(catalog, reference).summary()


def test_completeness_is_counted_by_flux():
    reference = make_reference(np.arange(8) * 10.0, [None] * 7 + [1.0])
    reference["Flux"] = [1e-11, 2e-11, 2e-11, 5e-11, 1e-9, np.nan, 0.0, 1e-9]
    match = match_catalogs(make_table([10.0, 30.0, 40.0]), reference)
    table = match.completeness()
    np.testing.assert_allclose(table["Flux_Min"], 10.0 ** np.array([-11, -10.5, -9]))
    np.testing.assert_allclose(table["Flux_Max"], 10.0 ** np.array([-10.5, -10, -8.5]))
    assert list(table["N"]) == [3, 1, 1]
    assert list(table["N_Found"]) == [1, 1, 1]
    assert np.all(table["Completeness_Low"] < table["Completeness"] + 1e-9)
    assert np.all(table["Completeness"] < table["Completeness_High"] + 1e-9)
    assert "1 of 3 (33 %)" in match.summary()
    assert list(match.completeness([1e-12, 1e-8])["N"]) == [5]
    assert len(match_catalogs(make_table([1.0]), make_reference([1.0])).completeness()) == 0


def test_only_sources_in_the_searched_area_can_be_missing():
    area = MOC.from_cone(10 * u.deg, 0 * u.deg, radius=2 * u.deg, max_depth=10)
    catalog = make_table([10.0, 12.1])
    catalog.meta["MOC"] = area.to_string()
    radii = [None] * 5 + [1.0, 1.0]
    reference = make_reference([10.0, 11.0, 12.2, 50.0, np.nan, 9.0, 60.0], radii)
    reference["Flux"] = 1e-10
    match = match_catalogs(catalog, reference)
    assert pairs(match) == [(0, 0), (1, 2)]  # the second across the border
    assert list(match.not_found()["Source_Name"]) == ["B"]
    assert list(match.completeness()["N"]) == [3]
    assert "2 of 3 (67 %) point-like reference sources in the searched area" in match.summary()
    assert "Listed apart: 1 extended source, 0 with" in match.summary()
    assert "2 of 5" in match_catalogs(make_table([10.0, 12.1]), reference).summary()


def test_result_is_shown_in_one_line_and_in_a_notebook_by_its_summary():
    match = match_catalogs(make_table([10.0, 20.0]), make_reference([10.0]))
    assert repr(match) == "<MatchResult: 1 of 2 (50 %) detections known in reference>"
    assert match._repr_html_().startswith("<pre>1 of 1 (100 %) point-like")
    assert "&lt;= 0.3 deg" in match._repr_html_()


# Against the plain algorithm


def match_slowly(catalog, reference, radius_deg):
    """DESIGN, word by word: in descending Score, each takes the nearest that is free."""
    free, result = set(range(len(reference))), []
    left = SkyCoord(catalog["RAJ2000"], catalog["DEJ2000"])
    right = SkyCoord(reference["RAJ2000"], reference["DEJ2000"])
    for row in np.argsort(-np.asarray(catalog["Score"]), kind="stable"):
        angle = {other: left[row].separation(right[other]).deg for other in free}
        inside = {other: value for other, value in angle.items() if value <= radius_deg}
        if inside:
            best = min(inside, key=inside.get)
            free.remove(best)
            result.append((int(row), best))
    return result


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 12))
def test_fast_match_agrees_with_the_slow_one(seed, n, m):
    rng = np.random.default_rng(seed)
    catalog = make_table(rng.uniform(10, 11, n), rng.uniform(60, 60.5, n), Score=rng.random(n))
    reference = make_table(rng.uniform(10, 11, m), rng.uniform(60, 60.5, m))
    assert pairs(match_catalogs(catalog, reference)) == match_slowly(catalog, reference, 0.3)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_pairs_are_taken_in_ascending_normalized_separation(seed, n, m):
    rng = np.random.default_rng(seed)
    places = (make_table(rng.uniform(10, 11, k), rng.uniform(0, 1, k)) for k in (n, m))
    match = match_catalogs(*(with_errors(t, 0.1 + t["DEJ2000"].value) for t in places))
    expected = {}
    near = match.pairs[match.pairs["separation_norm"] <= MAX_SIGMAS]
    near.sort("separation_norm")
    for row, column in near["catalog_index", "reference_index"].iterrows():
        if row not in expected and column not in expected.values():
            expected[row] = column
    assert sorted(pairs(match)) == sorted(expected.items())


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_row_is_accounted_for_once(seed):
    rng = np.random.default_rng(seed)
    catalog = make_table(rng.uniform(0, 5, 40), rng.uniform(-2, 2, 40), Score=rng.random(40))
    size = [float(rng.uniform(0, 1)) if rng.random() < 0.2 else None for _ in range(20)]
    reference = make_reference(rng.uniform(0, 5, 20), size)
    match = match_catalogs(catalog, reference)
    rows = [match.catalog_index, match.inside["catalog_index"], match.catalog_unmatched]
    assert sorted(np.concatenate(rows).tolist()) == list(range(40))
    rows = [match.reference_index, match.reference_unmatched]
    rows.append(np.flatnonzero(match.reference["Extended"]))
    assert sorted(np.concatenate(rows).tolist()) == list(range(20))
    known = np.delete(np.arange(40), match.catalog_unmatched)
    assert is_known(catalog, [reference])[known].all()


def test_hundred_thousand_rows_match_and_are_written_in_seconds(tmp_path):
    rng = np.random.default_rng(0)
    n = 100_000
    catalog = with_errors(make_random(n, rng), rng.uniform(0.02, 0.2, n))
    reference = with_errors(make_table(catalog["RAJ2000"].value, catalog["DEJ2000"].value), 0.05)
    start = time.perf_counter()
    match = match_catalogs(catalog, reference)
    write_outputs(match.apply(), [tmp_path / "matched.fits"])
    assert time.perf_counter() - start < 20
    assert len(match.matches) > 0.99 * n


# Another program


@pytest.fixture
def stilts():
    """The program of that name."""
    if not shutil.which("stilts"):
        skip_unless_in_ci("stilts is not installed (Debian package stilts)")
    return "stilts"


def sky_match(program, folder, catalog, reference, radius_deg, find):
    """Pairs of rows that `stilts tskymatch2` finds."""
    for name, table in (("catalog", catalog), ("reference", reference)):
        bare = {"Row": np.arange(len(table))} | {n: degrees(table[n]) for n in POSITION}
        Table(bare).write(folder / f"{name}.fits", overwrite=True)
    words = "in1=catalog.fits in2=reference.fits ra1=RAJ2000 dec1=DEJ2000 ra2=RAJ2000 dec2=DEJ2000"
    words += f" error={radius_deg * 3600!r} join=1and2 find={find} out=pairs.fits"
    command = [program, "tskymatch2", *words.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    table = Table.read(folder / "pairs.fits")
    return sorted(zip(table["Row_1"].tolist(), table["Row_2"].tolist()))


def test_stilts_finds_the_same_pairs(real_data, stilts, tmp_path):
    radius_deg = 0.3
    hard, soft = read_real(real_data, FHL3, FGL4)
    soft = soft[~np.asarray(soft["Extended"])]
    match = match_catalogs(hard, soft, radius=radius_deg)
    rows, columns = match.pairs["catalog_index"], match.pairs["reference_index"]
    everything = list(zip(rows.tolist(), columns.tolist()))
    assert sorted(everything) == sky_match(stilts, tmp_path, hard, soft, radius_deg, "all")
    best = set(sky_match(stilts, tmp_path, hard, soft, radius_deg, "best"))
    assert len(best) > 1400
    assert best <= set(pairs(match))
    # STILTS leaves two sources alone whose nearest ones belong to others; we pair the two.
    angle = dict(zip(everything, match.pairs["separation"]))
    for row, column in set(pairs(match)) - best:
        for place, index in ((0, row), (1, column)):
            nearest = min((p for p in everything if p[place] == index), key=angle.get)
            assert nearest != (row, column)
    assert len(match.matches) - len(best) <= 1


# Real catalogues


def test_real_matches_by_errors_are_those_within_the_radius(real_data):
    hard, soft = read_real(real_data, FHL3, FGL4)
    match, plain = match_catalogs(hard, soft), match_catalogs(hard, soft, radius=0.3)
    assert catalog_name(match.reference) == "4FGL"
    assert match.reference["Extended"].sum() == 77
    assert len(match.catalog_unmatched) < 0.02 * len(hard)
    assert np.median(match.matches["separation"]) < 0.02 * u.deg
    common = set(pairs(match)) & set(pairs(plain))
    assert len(common) > 0.98 * len(plain.matches)
    # Both catalogues saw the same photons, so that their errors are partly the same.
    norm = match.matches["separation_norm"]
    assert np.mean(norm[np.isfinite(norm)] < 2.4477) > 0.95
    assert np.sum(match.matches["probability"] >= 0.8) > 0.98 * len(match.matches)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "box", "found"),
    [
        ("gc/fermi-3fhl-gc-events.fits.gz", (0, 0, 20, 10), (17, 2, 20)),
        ("2fhl/fermi_2fhl_events_north.fits.gz", (0, 50, 360, 80), (112, 112, 114)),
    ],
)
def test_detections_on_real_photons_match(real_data, path, box, found):
    catalog = within_sky(find_sources(real_data / path), box=box)
    for whole, n_found in zip(read_real(real_data, FHL3, FHL2, FGL4), found):
        match = match_catalogs(catalog, within_sky(whole, box=box), surroundings=whole)
        assert len(match.matches) >= n_found
        assert np.sum(match.matches["probability"] >= 0.8) >= len(match.matches) - 2


def test_real_extended_sources_hold_their_centres_and_a_list_without_any_holds_none(real_data):
    reference = read_extended(real_data / "catalogs" / FHL3)
    assert len(reference) == 48  # detected of its 55 templates
    match = match_catalogs(reference, reference, radius=0.01)
    assert (len(match.matches), len(match.inside)) == (0, 48)
    centers = reference["skycoord"].galactic
    for offset_deg, expected in ((0.0, 1.0), (0.25, 1.0), (40.0, 0.1)):
        moved = centers.directional_offset_by(0.3 * u.rad, offset_deg * u.deg)
        inside = inside_extended(moved.cartesian.xyz.value.T, reference)
        assert inside.all() if expected == 1 else inside.mean() < expected
    with pytest.warns(match="catalogue of extended sources holds none"):
        reference = read_extended(make_table([10.0]))
    assert not inside_extended(np.eye(3), reference).any()
    assert inside_extended(np.zeros((0, 3)), make_reference([10.0], [1.0])).shape == (0,)
