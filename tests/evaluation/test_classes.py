import numpy as np
import pytest
from astropy.table import MaskedColumn
from hypothesis import given, settings
from hypothesis import strategies as st
from made_truth import make_catalog, make_truth

from astro_unetloc.evaluation.classes import (
    class_line,
    class_scores,
    class_tables,
    classified,
    score_intervals,
)
from astro_unetloc.evaluation.truth import join_matches, match_truth
from astro_unetloc.simulation.population import CLASSES

FIVE = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6]]
)
TABLES = ("class_scores", "class_by_photons", "class_by_latitude", "confusion", "class_reliability")


def drawn_classes(rng, n, abundance=(0.9, 0.06, 0.04), separation=2.5):
    """True classes of n sources and their probabilities from three normal measurements."""
    true_class = rng.choice(3, n, p=abundance)
    measured = rng.normal(size=(n, 3))
    measured[np.arange(n), true_class] += separation
    weight = np.exp(separation * measured) * abundance
    return weight / weight.sum(axis=1, keepdims=True), true_class


def with_classes(catalog, probability, assigned=None):
    """The catalogue with columns of the classes."""
    for name, values in zip(CLASSES, np.transpose(probability)):
        catalog[f"Prob_{name}"] = np.array(values, np.float32)
    catalog["Class"] = np.full(len(catalog), "") if assigned is None else assigned
    return catalog


def make_matches(true_class, probability, *, lat=None, assigned=None, n_photons=50.0):
    """A sky of sources far from each other, all of which are found."""
    n = len(true_class)
    place = np.arange(n) * 0.9, np.full(n, 30.0) if lat is None else lat
    truth = make_truth(*place, n_photons, Class=np.array(CLASSES)[true_class])
    catalog = make_catalog(*place, np.full(n, 0.9), Npred=truth["Npred"])
    return match_truth(with_classes(catalog, probability, assigned), truth)


# Scores of arrays


def test_scores_by_hand():
    scores = class_scores(FIVE, np.array([0, 0, 1, 1, 2]))
    # means 0.44, 0.36 and 0.2: the second pulsar is decided to be an AGN, 0.5 / 0.44 > 0.4 / 0.36
    assert scores == {
        "AUC": 1.0, "Balanced_Accuracy": 0.75, "Macro_Recall": pytest.approx(2.5 / 3),
        "PSR_Recall": 1.0, "PSR_Threshold": 0.4, "Calibration_Error": pytest.approx(1.4 / 5),
    }  # fmt: skip
    # of the same probabilities: pulsars in the second and fifth row
    scores = class_scores(FIVE, np.array([0, 1, 0, 2, 1]))
    assert scores["AUC"] == 0.5
    assert (scores["PSR_Recall"], scores["PSR_Threshold"]) == (0.0, pytest.approx(np.nan, nan_ok=1))


def test_prior_alone_decides_nothing():
    rng = np.random.default_rng(0)
    true_class = np.sort(rng.choice(3, 1000, p=[0.9, 0.06, 0.04]))
    prior = np.bincount(true_class) / 1000
    scores = class_scores(np.tile(prior, (1000, 1)), true_class)
    assert (scores["AUC"], scores["Balanced_Accuracy"], scores["PSR_Recall"]) == (0.5, 0.5, 0.0)
    assert scores["Macro_Recall"] == pytest.approx(1 / 3)
    # far more AGN than others: one who always decides for the largest is of no use either
    assert class_scores(np.tile(prior, (1000, 1)), rng.permutation(true_class))["AUC"] == 0.5


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.2, 3.0))
def test_scores_agree_with_their_definitions(seed, separation):
    rng = np.random.default_rng(seed)
    probability, true_class = drawn_classes(rng, 150, (0.5, 0.3, 0.2), separation)
    order = rng.permutation(150)
    scores = class_scores(probability, true_class)
    assert class_scores(probability[order], true_class[order]) == pytest.approx(scores, nan_ok=True)
    agn, psr = ((probability[:, 1] / probability[:, 0])[true_class == c] for c in (0, 1))
    assert scores["AUC"] == pytest.approx(np.mean(psr[:, None] > agn))
    ratio = probability / probability.mean(axis=0)
    recall = [np.mean((ratio.argmax(axis=1) == c)[true_class == c]) for c in range(3)]
    assert scores["Macro_Recall"] == pytest.approx(np.mean(recall))
    is_psr, best = true_class == 1, (0.0, np.nan)
    for threshold in np.unique(probability[:, 1])[::-1]:
        listed = probability[:, 1] >= threshold
        if np.mean(is_psr[listed]) >= 0.8:
            best = np.sum(is_psr & listed) / is_psr.sum(), threshold
    assert (scores["PSR_Recall"], scores["PSR_Threshold"]) == pytest.approx(best, nan_ok=True)


@pytest.mark.parametrize("true_class", [[0, 0, 0, 0, 0], [0, 2, 2, 0, 2], [1, 1, 1, 1, 1]])
def test_scores_without_a_class_are_unknown(true_class):
    scores = class_scores(FIVE, np.array(true_class))
    assert np.isnan([scores[n] for n in ("AUC", "Balanced_Accuracy", "Macro_Recall")]).all()
    assert np.isnan(scores["PSR_Recall"]) == (1 not in true_class)
    assert np.isfinite(scores["Calibration_Error"])
    assert np.isnan(score_intervals(FIVE, np.array(true_class), n_samples=3)[0]).all()


def test_probabilities_near_one_are_told_apart():
    probability = np.array([[1e-300, 1.0, 0.0], [1e-20, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert class_scores(probability, np.array([1, 0, 1]))["AUC"] == 1.0


def test_intervals_are_as_wide_as_the_scatter_of_other_skies(rng):
    skies = [drawn_classes(rng, 800, separation=1.5) for _ in range(150)]
    scores = np.array([[*class_scores(*sky).values()] for sky in skies])
    ends = np.mean([score_intervals(*sky, n_samples=60) for sky in skies[:10]], axis=0)
    scatter = np.ptp(np.percentile(scores, [16, 84], axis=0), axis=0)
    # the numbers of each class are not drawn again
    np.testing.assert_allclose(np.ptp(ends, axis=1)[:4], scatter[:4], rtol=0.25)
    np.testing.assert_array_equal(*(score_intervals(*skies[0], n_samples=5) for _ in "ab"))


# True classes


def test_true_class_is_that_of_the_source_that_makes_a_detection_real():
    # a faint pulsar nearer than the AGN that gives the photons; one detection of nothing
    truth = make_truth([0.1, 0.25, 40, 60], [0] * 4, [5, 50, 50, 50])
    truth["Class"] = ["PSR", "AGN", "OTHER", "source"]
    catalog = make_catalog([0.1, 40, 60, 80], [0] * 4, Npred=[30.0, 50, 50, 50])
    catalog = with_classes(catalog, [[0.3, 0.3, 0.4]] * 4)
    matches = match_truth(catalog, truth)
    assert matches.catalog["True_Row"].tolist() == [0, 2, 3, -1]
    assert matches.catalog["Real_Row"].tolist() == [1, 2, 3, -1]
    assert classified(matches).true_class.tolist() == [0, 2]
    both = join_matches([match_truth(catalog[:1], truth), matches])
    assert both.catalog["Real_Row"].tolist() == [1, 5, 6, 7, -1]
    assert classified(both.take([1, 2], [5])).true_class.tolist() == [0]
    # those without probabilities are left out
    catalog["Prob_PSR"] = MaskedColumn(catalog["Prob_PSR"], mask=[True, False, False, False])
    assert classified(match_truth(catalog, truth)).true_class.tolist() == [2]


# Tables


def test_tables_by_hand():
    true_class, lat = np.array([0, 0, 1, 1, 2]), np.array([4.0, -4, -40, 70, 0])
    assigned = ["agn", "", "psr", "agn", "agn"]
    photons = np.array([10.0, 40, 40, 40, 2000])
    tables = class_tables(
        make_matches(true_class, FIVE, lat=lat, assigned=assigned, n_photons=photons)
    )
    assert tuple(tables) == TABLES
    scores = tables["class_scores"]
    names = ("Sample", "N_AGN", "N_PSR", "N_OTHER")
    assert [tuple(row) for row in scores[names].iterrows()] == [
        ("all sky", 2, 2, 1), ("|b| > 10 deg", 0, 2, 0), ("|b| < 10 deg", 2, 0, 1),
        ("30 photons or more", 1, 2, 1),
    ]  # fmt: skip
    assert scores["Balanced_Accuracy"].tolist() == pytest.approx(
        [0.75, *[np.nan] * 2, 0.75], nan_ok=1
    )
    assert scores["Expected_PSR"][0] == pytest.approx(1.8)
    assert scores["Unc_Expected_PSR"][0] == pytest.approx(np.sqrt(0.09 + 0.21 + 0.16 + 0.24 + 0.16))
    assert scores["Ratio"][0] == pytest.approx(2 / 1.8)
    assert class_line(scores[0]).startswith(
        "all sky             2 pulsars, 1.8 expected: AUC 1.000"
    )
    assert tables["class_by_photons"]["Low"].tolist() == [8, 30, 1000]
    assert tables["class_by_photons"]["N_PSR"].tolist() == [0, 2, 0]
    assert tables["class_by_latitude"]["Low"].value.tolist() == [0, 2, 30, 60]
    confusion = tables["confusion"]
    assert confusion["Class"].tolist() == ["AGN", "PSR", "OTHER"]
    for name, values in (
        ("As_AGN", [0.5, 0.5, 1]), ("As_PSR", [0, 0.5, 0]), ("As_OTHER", [0, 0, 0]),
        ("Unassigned", [0.5, 0, 0]), ("N_Assigned", [3, 1, 0]), ("Correct", [1 / 3, 1, np.nan]),
    ):  # fmt: skip
        np.testing.assert_allclose(confusion[name], values, err_msg=name)
    # two of two: between 1 / (1 + 1/2) and 1
    assert confusion["As_AGN_High"][0] == pytest.approx((1 + np.sqrt(1 / 3)) / 2)
    reliability = tables["class_reliability"]
    assert reliability.meta["ece"]["PSR"] == pytest.approx(0.28)
    psr = reliability[reliability["Class"] == "PSR"]
    assert psr["Low"].tolist() == [0.1, 0.2, 0.4, 0.8]
    assert (psr["N"].tolist(), psr["N_True"].tolist()) == ([1, 2, 1, 1], [0, 0, 1, 1])


def test_calibrated_probabilities_are_on_the_diagonal(rng):
    probability, true_class = drawn_classes(rng, 4000)
    tables = class_tables(make_matches(true_class, probability))
    scores = tables["class_scores"][0]
    pull = (scores["N_PSR"] - scores["Expected_PSR"]) / scores["Unc_Expected_PSR"]
    assert abs(pull) < 3
    assert scores["Calibration_Error"] < 0.01
    table = tables["class_reliability"]
    table = table[table["N"] > 20]
    width = (table["Fraction_True_High"] - table["Fraction_True_Low"]) / 2
    assert np.all(np.abs(table["Mean_Probability"] - table["Fraction_True"]) < 4 * width)
    for name in ("AUC", "Balanced_Accuracy", "Macro_Recall", "PSR_Recall"):
        assert scores[f"{name}_Low"] <= scores[name] <= scores[f"{name}_High"]


def test_tables_without_classes_have_all_columns():
    full = class_tables(make_matches(np.array([0, 1, 2]), FIVE[:3]))
    truth = make_truth([0, 10], [0, 0], Class=["AGN", "PSR"])
    for catalog in (make_catalog([], []), make_catalog([0, 10], [0, 0])):
        for matches in (match_truth(catalog, truth), match_truth(catalog, truth[:0])):
            for name, table in class_tables(matches).items():
                assert (len(table), table.colnames) == (0, full[name].colnames), name
                assert table.meta["about"].endswith("."), name
