import io

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from made_predictions import made_predictions
from made_truth import make_catalog, make_truth

from astro_unetloc.evaluation.comparison import compare
from astro_unetloc.evaluation.figures import draw, draw_example
from astro_unetloc.evaluation.metrics import all_tables
from astro_unetloc.evaluation.truth import SKIES, match_truth
from astro_unetloc.sphere import SKY_DEG2

NAMES = (
    "summary_table", "by_threshold", "by_photons", "by_flux", "by_sqrt_ts", "by_latitude",
    "by_class", "numbers_per_tile", "measurement_errors", "reliability", "false_positives",
    "false_negatives", "class_scores", "class_by_photons", "class_by_latitude", "confusion",
    "class_reliability", "comparison",
)  # fmt: skip


@pytest.fixture
def tables(all_tables_of_a_sky):
    """Copies of the tables, which may be changed."""
    return {name: table.copy() for name, table in all_tables_of_a_sky.items()}


@pytest.fixture(scope="module")
def all_tables_of_a_sky():
    """All tables of a sky of 300 true sources, most of which are found and measured."""
    rng, n, flux_unit = np.random.default_rng(0), 300, u.Unit("ph cm-2 s-1")
    lon, lat, flux = rng.uniform(0, 360, n), rng.uniform(-40, 40, n), 10 ** rng.uniform(-11, -9, n)
    truth = make_truth(
        lon, lat, 4e11 * flux, Flux=flux * flux_unit, Class=rng.choice(["AGN", "PSR", "OTHER"], n),
        Spectral_Index=np.full(n, 2.4),
    )  # fmt: skip
    probability = dict(zip(("Prob_AGN", "Prob_PSR", "Prob_OTHER"), rng.dirichlet([1, 1, 1], n).T))
    rows = np.flatnonzero(np.append(rng.random(n - 30) < 1 - 2e-12 / flux[30:], np.ones(30, bool)))
    values = {name: np.full(len(rows), 0.02) * u.deg for name in ("SemiMajor", "SemiMinor")}
    values["PosAng"] = np.zeros(len(rows)) * u.deg
    catalog = make_catalog(
        lon[rows] + np.where(rows < n - 30, 0.01, 5), lat[rows], rng.random(len(rows)),
        Npred=4e11 * flux[rows], Sqrt_TS=rng.uniform(3, 30, len(rows)),
        Class=np.char.lower(truth["Class"][rows]),
        Flux=1.1 * flux[rows] * flux_unit, Unc_Flux=0.2 * flux[rows] * flux_unit,
        Spectral_Index=rng.normal(2.4, 0.1, len(rows)), Unc_Spectral_Index=np.full(len(rows), 0.1),
        **{name: values[rows] for name, values in probability.items()},
        **{f"Conf_{level}_{name}": v for name, v in values.items() for level in (68, 95)},
    )  # fmt: skip
    tile = lambda vectors: np.floor(10 * vectors[:, 0]).astype(int)  # noqa: E731
    matches = match_truth(catalog, truth, tile=tile, area_deg2=SKY_DEG2)
    tables = all_tables(matches, threshold=0.2)
    return tables | {"comparison": compare(matches, matches.select(0.3), n_samples=20)}


def drawn(figure):
    """Every text of a figure; drawing it is part of the test."""
    from matplotlib.text import Text

    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return {text.get_text() for text in figure.findobj(Text)} - {""}


def points_of(axes):
    """Data of the points with error bars, in the order they were drawn."""
    return [container.lines[0].get_xydata() for container in axes.containers]


@pytest.mark.parametrize("name", NAMES)
def test_every_table_is_drawn_with_its_title_whatever_it_holds(tables, name):
    table = tables[name]
    assert [name for name in tables if name != "expected_numbers"] == list(NAMES)
    assert table.meta["title"] in drawn(draw(name, table))
    assert draw(name, table[:0]) is None
    assert drawn(draw(name, table[:1]))
    # as of a fit that was not made, or of bins without any source
    for column in table.itercols():
        if column.dtype.kind == "f" and column.info.name not in ("Low", "High"):
            table[column.info.name] = np.nan * column
    assert drawn(draw(name, table))


def test_tables_of_nothing_are_drawn_or_left_out():
    matches = match_truth(make_catalog([], []), make_truth([], []))
    figures = {name: draw(name, table) for name, table in all_tables(matches).items()}
    figures = {name: figure for name, figure in figures.items() if figure is not None}
    assert set(figures) == {"summary_table", "reliability", "false_positives", "false_negatives"}
    assert all(map(drawn, figures.values()))
    assert draw("something", QTable({"a": [1]})) is None


def test_points_and_bars_stand_at_the_numbers_of_the_table(tables):
    table = tables["by_photons"]
    table["High"][-1] = np.inf
    upper, lower = draw("by_photons", table).axes
    completeness, purity = points_of(upper)
    assert completeness[:, 1] == pytest.approx(table["Completeness"], nan_ok=True)
    assert purity[:, 1] == pytest.approx(table["Purity"], nan_ok=True)
    inside = (completeness[:, 0] > table["Low"]) & (completeness[:, 0] < table["High"])
    assert inside.all()
    for bars, name in zip(lower.containers, ("N_True", "N_Listed"), strict=True):
        assert [bar.get_height() for bar in bars] == list(table[name])
    # edges are those of the bins, the open one twice as wide as its lower edge
    true = lower.containers[0]
    assert true[0].get_x() == pytest.approx(table["Low"][0])
    assert true[-1].get_x() + true[-1].get_width() == pytest.approx(2 * table["Low"][-1])


def test_numbers_of_sources_have_the_diagonal_and_their_correlation(tables):
    table = tables["numbers_per_tile"]
    figure = draw("numbers_per_tile", table)
    names = ("correlation", "bias", "scatter")
    assert {f"{name} {table.meta[name]:.3g}" for name in names} <= drawn(figure)
    x, y = figure.axes[0].lines[0].get_data()
    assert list(x) == list(y)
    counts = np.ma.filled(figure.axes[0].collections[0].get_array(), 0)
    assert np.nansum(counts) == len(table)
    true, listed = table["N_True"][0], table["N_Listed"][0]
    assert counts[listed, true] >= 1
    for top in (50, 76, 150, 151, 152):  # the patch of most sources is in the figure
        table = QTable({"Tile": ["a", "b"], "N_True": [0, top - 1], "N_Listed": [1, top]})
        axes = draw("numbers_per_tile", table).axes[0]
        assert np.nansum(np.ma.filled(axes.collections[0].get_array(), 0)) == 2


def test_width_of_a_few_pulls_is_not_drawn(tables):
    table = tables["measurement_errors"][:5]
    table["N_Flux"] = [9, 4, 9, 9, 9]
    axes = draw("measurement_errors", table).axes
    (ratio,), (width, median) = (points_of(axes[panel]) for panel in (2, 3))
    assert len(ratio) == 5
    kept = table[table["N_Flux"] > 4]
    assert width[:, 1] == pytest.approx(kept["Flux_Pull_Width"])
    assert median[:, 1] == pytest.approx(kept["Flux_Pull_Median"])


def test_reliability_has_the_diagonal_and_the_calibration_errors(tables):
    figure, errors = draw("reliability", tables["reliability"]), tables["reliability"].meta["ece"]
    assert f"|b| < 10 deg: calibration error {errors['|b| < 10 deg']:.3f}" in drawn(figure)
    assert any(np.array_equal(line.get_xydata(), [[0, 0], [1, 1]]) for line in figure.axes[0].lines)


def test_confusion_has_the_numbers_of_the_table_in_its_cells(tables):
    table = tables["confusion"]
    figure = draw("confusion", table)
    cells = {text.split("\n")[0] for text in drawn(figure) if "\n" in text}
    assert cells == {f"{value:.3f}" for name in ("As_AGN", "As_PSR") for value in table[name]}
    assert f"PSR ({table['N'][1]})" in drawn(figure)
    assert len(figure.axes[0].patches) == 4 * len(table)


def test_classes_of_a_sky_without_pulsars_are_drawn(tables):
    table = tables["class_by_photons"]
    table["N_PSR"] = 0
    upper, lower = draw("class_by_photons", table).axes
    agn, psr, _ = points_of(lower)
    assert agn[:, 1] == pytest.approx(
        np.where(table["N_AGN"] > 0, table["N_AGN"], np.nan), nan_ok=1
    )
    assert np.isnan(psr[:, 1]).all()
    assert points_of(upper)[0][:, 1] == pytest.approx(table["AUC"], nan_ok=True)


def test_false_positives_of_unknown_area_are_drawn_as_numbers(tables):
    table = tables["false_positives"]
    assert "False positives per 100 square degrees" in drawn(draw("false_positives", table))
    table["Per_100_Deg2"] = np.nan
    figure = draw("false_positives", table)
    assert "False positives" in drawn(figure)
    elsewhere, double = figure.axes[0].containers
    total = [a.get_width() + b.get_width() for a, b in zip(elsewhere, double)]
    assert total == list(table["N_False"])


def test_difference_that_is_not_significant_is_drawn_open(tables):
    table = tables["comparison"]
    table["Significant"][::2] = True
    figure = draw("comparison", table)
    faces = [c.lines[0].get_markerfacecolor() for axes in figure.axes for c in axes.containers]
    assert sum(face == "white" for face in faces) == int(np.sum(~table["Significant"]))
    assert set(SKIES) <= drawn(figure)


def test_regions_of_the_sky_look_alike_in_all_figures(tables):
    colors = []
    for name in ("summary_table", "measurement_errors", "comparison"):
        handles, labels = draw(name, tables[name][::-1]).axes[0].get_legend_handles_labels()
        colors.append({sky: h.lines[0].get_color() for sky, h in zip(labels, handles)})
    assert colors[0] == colors[1] == colors[2]
    assert len(set(colors[0].values())) == 3


# Single patches


def example(sources=(), found=(), *, pixel_deg=0.1, **changes):
    """A patch with true sources (x, y, class, radius) and detections (x, y, status)."""
    predictions, _ = made_predictions()
    patch = {name: predictions[name][0] for name in ("image", "mask", "probability", "center")}
    rows = {"sources": sources, "found": found}
    names = {"sources": ("x", "y", "truth_class", "radius"), "found": ("x", "y", "status")}
    for kind, values in rows.items():
        rows[kind] = np.zeros(len(values), predictions[kind].dtype)
        for name, column in zip(names[kind], zip(*values)):
            rows[kind][name] = column
    return patch | rows | {"code": "sky000000-p000", "pixel_deg": pixel_deg} | changes


def circles(figure):
    return figure.axes[3].patches


def test_four_panels_show_counts_mask_probability_and_sources():
    patch = example([(5, 6, "counted", 0)], [(5.2, 6.1, "true positive")])
    figure = draw_example(patch)
    drawn(figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[1:] == ["Mask", "Probability, 0 to 1", "Sources"]
    assert titles[0].startswith("Counts")
    images = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert images[0].sum() == pytest.approx(patch["image"].sum(), rel=0.02)
    np.testing.assert_array_equal(images[1], patch["mask"][..., 0])
    np.testing.assert_array_equal(images[2], patch["probability"])


def test_marks_stand_at_their_pixels():
    found = [(20.0, 7.0, "false positive"), (3.0, 4.0, "true positive")]
    figure = draw_example(example([(5.5, 6.25, "counted", 0)], found))
    assert list(circles(figure)[0].center) == [5.5, 6.25]
    assert circles(figure)[0].radius == pytest.approx(3.0)
    true, false = (points.get_offsets().tolist() for points in figure.axes[3].collections)
    assert (true, false) == ([[3.0, 4.0]], [[20.0, 7.0]])
    # detections below the threshold are left out
    patch = example(found=[(1, 2, "ignored"), (3, 4, "ignored")])
    patch["found"]["score"] = [0.4, 0.6]
    (points,) = draw_example(patch, threshold=0.5).axes[3].collections
    assert points.get_offsets().tolist() == [[3, 4]]


def test_classes_of_true_sources_differ_and_those_below_are_left_out():
    classes = ["faint", "counted", "extended", "below", "counted"]
    figure = draw_example(example([(i, 5, name, 0) for i, name in enumerate(classes)]))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["true source", "faint true source", "extended true source"]
    assert len(circles(figure)) == 4
    assert len({str(circle.get_linestyle()) for circle in circles(figure)}) == 3


def test_circles_are_as_wide_as_extended_sources_and_not_narrower_than_a_match():
    rows = [(3, 5, "counted", 0), (9, 5, "extended", 0.1), (15, 5, "extended", 1.5)]
    rows += [(20, 5, "extended", np.nan)]
    radii = [circle.radius for circle in circles(draw_example(example(rows)))]
    assert radii == pytest.approx([3, 3, 15, 3])


def test_title_has_the_code_and_the_position_and_an_empty_patch_is_drawn():
    nothing = np.zeros((32, 32, 1))
    changes = {"image": nothing, "mask": nothing, "probability": nothing[..., 0]}
    figure = draw_example(example(center=(361.5, -2, 0), **changes), about="3 missed $")
    assert r"sky000000-p000   l = 1.50°, b = -2.00°   3 missed \$" in drawn(figure)
    assert not figure.legends
