import io

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from made_judgements import make_catalog, make_sky, make_truth
from made_scores import SKIES, make_columns, make_tables

from astro_unetloc.evaluation.figures import _DRAWERS, bins, draw, sky_parts, unit_of
from astro_unetloc.evaluation.metrics import all_tables, compare
from astro_unetloc.evaluation.truth import join, judge

NAMES = list(make_columns())


def drawn(figure):
    """Every text of a figure; drawing it is part of the test."""
    from matplotlib.text import Text

    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return {text.get_text() for text in figure.findobj(Text)} - {""}


def points_of(axes):
    """Data of the points with error bars, in the order they were drawn."""
    return [container.lines[0].get_xydata() for container in axes.containers]


@pytest.mark.parametrize("name", NAMES)
def test_every_table_is_drawn_with_its_title(name):
    table = make_tables([name])[name]
    assert table.meta["title"] in drawn(draw(name, table))


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_make_no_figure(name):
    assert draw(name, make_tables([name])[name][:0]) is None


@pytest.mark.parametrize("name", NAMES)
def test_one_row_makes_a_figure_too(name):
    assert drawn(draw(name, make_tables([name])[name][:1]))


@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_are_unknown_throughout_make_a_figure_too(name):
    """As of a fit that was not made, or of bins without any source."""
    table = make_tables([name])[name]
    for column in table.itercols():
        if column.dtype.kind == "f" and column.info.name not in ("Low", "High"):
            table[column.info.name] = np.nan * column
    assert drawn(draw(name, table))


def test_tables_of_a_judgement_all_have_a_figure():
    judgement = join([judge(*make_sky(seed), part=str(seed), area_deg2=100.0) for seed in range(3)])
    tables = all_tables(judgement, threshold=0.3)
    assert set(tables) | {"comparison"} == set(_DRAWERS)
    tables["comparison"] = compare(judgement, judgement, n_samples=20)
    figures = {name: draw(name, table) for name, table in tables.items()}
    for name, figure in figures.items():
        assert (figure is None) == (len(tables[name]) == 0)
        assert figure is None or drawn(figure)
    assert sum(figure is not None for figure in figures.values()) >= 10


def test_tables_of_a_judgement_without_anything_are_drawn_or_left_out():
    judgement = judge(make_catalog([], []), make_truth([], []))
    figures = {name: draw(name, table) for name, table in all_tables(judgement).items()}
    figures = {name: figure for name, figure in figures.items() if figure is not None}
    assert set(figures) == {
        "summary_table", "flux_limits", "real_by_score", "false_alarms", "misses"
    }  # fmt: skip
    assert all(map(drawn, figures.values()))


def test_table_that_has_no_figure_is_left_out():
    assert draw("something", QTable({"a": [1]})) is None


def test_points_stand_at_the_numbers_of_the_table():
    table = make_tables(["by_photons"])["by_photons"]
    completeness, purity = points_of(draw("by_photons", table).axes[0])
    assert completeness[:, 1] == pytest.approx(table["Completeness"])
    assert purity[:, 1] == pytest.approx(table["Purity"], nan_ok=True)
    inside = (completeness[:, 0] > table["Low"]) & (completeness[:, 0] < table["High"])
    assert inside.all()


def test_numbers_below_the_shares_are_those_of_the_table():
    table = make_tables(["by_photons"])["by_photons"]
    true, listed = draw("by_photons", table).axes[1].containers
    assert [bar.get_height() for bar in true] == list(table["N_True"])
    assert [bar.get_height() for bar in listed] == list(table["N_Listed"])
    # edges are those of the bins, the open one twice as wide as its lower edge
    assert true[0].get_x() == pytest.approx(8)
    assert true[-1].get_x() + true[-1].get_width() == pytest.approx(400)


def test_number_of_sources_figure_has_the_line_and_what_says_how_good_it_is():
    table = make_tables(["numbers_per_part"])["numbers_per_part"]
    figure = draw("numbers_per_part", table)
    assert {"correlation 0.95", "bias -0.1", "scatter 0.81"} <= drawn(figure)
    x, y = figure.axes[0].lines[0].get_data()
    assert list(x) == list(y)
    counts = np.ma.filled(figure.axes[0].collections[0].get_array(), 0)
    assert np.nansum(counts) == len(table)
    true, listed = table["N_True"][0], table["N_Listed"][0]
    assert counts[listed, true] >= 1


@pytest.mark.parametrize("top", [50, 76, 150, 151, 152])
def test_patch_of_most_sources_is_in_the_figure(top):
    table = QTable({"Part": ["a", "b"], "N_True": [0, top - 1], "N_Listed": [1, top]})
    axes = draw("numbers_per_part", table).axes[0]
    assert np.nansum(np.ma.filled(axes.collections[0].get_array(), 0)) == 2


def test_width_of_a_few_pulls_is_not_drawn():
    table = make_tables(["flux_errors"])["flux_errors"][:5]
    table["N"][1] = 4
    ratio, width, median = (
        c.lines[0] for a in draw("flux_errors", table).axes for c in a.containers
    )
    assert len(ratio.get_xdata()) == 5
    kept = table[table["N"] > 4]
    assert width.get_ydata() == pytest.approx(kept["Pull_Width"])
    assert median.get_ydata() == pytest.approx(kept["Pull_Median"])


def test_reliability_has_the_diagonal_and_the_calibration_errors():
    figure = draw("reliability", make_tables(["reliability"])["reliability"])
    assert "calibration error 0.024, |b| < 10 deg" in drawn(figure)
    assert any(np.array_equal(line.get_xydata(), [[0, 0], [1, 1]]) for line in figure.axes[0].lines)


def test_false_alarms_of_unknown_area_are_drawn_as_numbers():
    table = make_tables(["false_alarms"])["false_alarms"]
    assert "Wrong detections per 100 square degrees" in drawn(draw("false_alarms", table))
    table["Per_100_Deg2"] = np.nan
    figure = draw("false_alarms", table)
    assert "Wrong detections" in drawn(figure)
    elsewhere, double = figure.axes[0].containers
    total = [a.get_width() + b.get_width() for a, b in zip(elsewhere, double)]
    assert total == list(table["N_Wrong"])


def test_difference_that_is_not_real_is_drawn_open():
    table = make_tables(["comparison"])["comparison"]
    figure = draw("comparison", table)
    faces = [c.lines[0].get_markerfacecolor() for axes in figure.axes for c in axes.containers]
    assert sum(face == "white" for face in faces) == int(np.sum(~table["Real"]))
    assert set(SKIES) <= drawn(figure)


def test_parts_of_the_sky_look_alike_in_all_figures():
    table = make_tables(["summary_table"])["summary_table"]
    styles = {name: style for name, _, style in sky_parts(table)}
    assert len(set(styles.values())) == 3
    assert {name: style for name, _, style in sky_parts(table[::-1])} == styles


def test_units_stand_in_brackets():
    table = QTable({"bare": [1.0], "angle": [1.0] * u.deg, "flux": [1.0] / u.s / u.cm**2})
    assert [unit_of(table, name) for name in table.colnames] == ["", " (deg)", " (s⁻¹ cm⁻²)"]


def test_bins_that_are_open_get_an_end():
    table = QTable({"Low": [0.0, 8.0, 16.0], "High": [8.0, 16.0, np.inf]})
    middle, reach = bins(table, log=True)
    assert middle + reach[1] == pytest.approx([8, 16, 32])
    assert middle - reach[0] == pytest.approx([4, 8, 16])
    middle, reach = bins(table, log=False)
    assert middle == pytest.approx([4, 12, 20])


def test_no_state_of_pyplot_is_touched():
    import sys

    before = "matplotlib.pyplot" in sys.modules
    draw("misses", make_tables(["misses"])["misses"])
    if not before:
        assert "matplotlib.pyplot" not in sys.modules
