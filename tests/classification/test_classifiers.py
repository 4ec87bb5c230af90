import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable

from astro_unetloc.catalog.columns import CLASSES, LOG_LIKELIHOOD, has_flag
from astro_unetloc.classification import Classifier
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.spectra import PowerLawFractions
from astro_unetloc.unet.model import list_models, load_model


@pytest.fixture(params=list_models())
def classifier(request):
    return Classifier.of(load_model(request.param))


@pytest.fixture(scope="module")
def high():
    """The classifier above 10 GeV."""
    return Classifier.of(load_model())


def fractions_of(classifier, edges):
    """Fractions (n_nodes, n_energy) of the photons of the nodes."""
    laws = PowerLawFractions(edges, SurveyExposure().relative)
    return laws.grid_fractions(classifier.grid)[0]


def observed(classifier, nodes, n_photons, edges=None, rng=0):
    """Log-likelihoods (n, n_nodes) of drawn photons of sources with the spectra of nodes (n,)."""
    low, high = classifier.energy_range
    edges = np.geomspace(low, high, 20) if edges is None else edges
    fractions = fractions_of(classifier, edges)
    photons = np.random.default_rng(rng).multinomial(n_photons, fractions[nodes])
    log_likelihood = photons @ np.log(fractions).T
    return log_likelihood - log_likelihood.max(axis=1, keepdims=True)


def sources_with(log_likelihood, lon=60.0, lat=4.0):
    """Table of sources at one place, or at several, with the likelihoods of their spectra."""
    n = len(log_likelihood)
    places = {name: np.broadcast_to(v, n) * u.deg for name, v in (("GLON", lon), ("GLAT", lat))}
    return QTable(
        places | {"Flags": np.zeros(n, np.int16), LOG_LIKELIHOOD: log_likelihood.astype("f4")}
    )


def probabilities_of(table):
    return np.stack([table[f"Prob_{name.upper()}"] for name in CLASSES], axis=1)


def node_near(classifier, index, beta):
    return np.argmax(classifier.grid.weights(np.array([index]), np.array([beta])))


# What photons tell


def test_many_photons_decide_for_themselves(high):
    hard, soft = node_near(high, 1.9, 0.1), node_near(high, 4.75, 1.5)
    result = high.apply(sources_with(observed(high, [hard, soft], 200)))
    assert result["Class"].tolist() == ["agn", "psr"]
    assert min(result["Prob_AGN"][0], result["Prob_PSR"][1]) > 0.9
    assert not has_flag(result, "class_prior").any()
    assert (result["Unc_Prob_PSR"] < 0.25).all()
    assert LOG_LIKELIHOOD not in result.colnames


def test_no_photons_return_the_prior_with_its_flag(classifier):
    unknown = np.full((3, len(classifier.grid)), np.nan)
    result = classifier.apply(sources_with(unknown, lon=[0.0, 30.0, 350.0], lat=[0.2, 5.0, -60.0]))
    prior = classifier.prior([0.0, 30.0, 350.0], [0.2, 5.0, -60.0])
    np.testing.assert_allclose(probabilities_of(result), prior, atol=1e-6)
    assert has_flag(result, "class_prior").all()
    assert (result["Unc_Prob_PSR"] > 0).all()


def test_few_photons_stay_near_the_prior_and_many_leave_it(classifier):
    pulsar = np.argmax(classifier.families[CLASSES.index("psr")])
    probability = [
        classifier.apply(sources_with(observed(classifier, np.full(200, pulsar), n)))["Prob_PSR"]
        for n in (1, 10, 100, 1000)
    ]
    means = [np.mean(values) for values in probability]
    assert np.all(np.diff(means) > 0)
    assert means[0] < 0.3
    assert means[-1] > 0.7


def test_probabilities_can_be_bet_on(classifier):
    """Of the sources of a probability, this fraction is of the class; their sum is the number."""
    rng, place = np.random.default_rng(1), (20.0, 3.0)
    prior = classifier.prior(*([value] for value in place))[0]
    true = rng.choice(3, 4000, p=prior)
    nodes = np.array([rng.choice(len(classifier.grid), p=classifier.families[c]) for c in true])
    table = classifier.apply(sources_with(observed(classifier, nodes, 30), *place))
    probability = probabilities_of(table)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    for number in range(3):
        values, is_class = probability[:, number], true == number
        spread = np.sqrt((values * (1 - values)).sum())
        assert abs(values.sum() - is_class.sum()) < 3 * spread
        for part in np.array_split(np.argsort(values), 5):
            spread = np.sqrt((values * (1 - values))[part].sum()) + 1
            assert abs(values[part].sum() - is_class[part].sum()) < 4 * spread
    named = table["Class"] != ""
    right = np.array(CLASSES)[true] == table["Class"]
    assert right[named].mean() > classifier.confidence
    assert 0.05 < named.mean() < 1


def test_error_of_a_probability_holds_the_change_by_more_photons(high):
    """What a hundred times the photons would give lies within two errors in most sources."""
    rng = np.random.default_rng(2)
    weight = high.prior([20.0], [3.0])[0] @ high.families
    nodes = rng.choice(len(high.grid), 1000, p=weight)
    few, many = (high.apply(sources_with(observed(high, nodes, n), 20.0, 3.0)) for n in (15, 1500))
    change = np.abs(few["Prob_PSR"] - many["Prob_PSR"])
    assert (change < 2 * few["Unc_Prob_PSR"] + 0.01).mean() > 0.9
    assert np.mean(few["Unc_Prob_PSR"]) > 2 * np.mean(many["Unc_Prob_PSR"])


def test_bins_and_missing_bands_do_not_matter(high):
    """The same photons in two, five or many bins: what is lost is only what bins hide."""
    nodes = np.repeat([node_near(high, 2.0, 0.0), node_near(high, 4.75, 1.5)], 300)
    for edges in ([10, 20, 50, 2000], [10, 20, 50, 150, 500, 2000], np.geomspace(10, 2000, 40)):
        likelihood = observed(high, nodes, 30, edges=np.array(edges, float))
        psr = high.apply(sources_with(likelihood))["Prob_PSR"]
        assert psr[:300].mean() < 0.02
        assert psr[300:].mean() > 0.75


# Prior


def test_pulsars_gather_to_the_plane_and_the_prior_is_symmetric(classifier):
    agn, psr, other = classifier.prior([0.0, 0.0, 0.0], [0.5, 10.0, 80.0]).T
    assert np.all(np.diff(agn) > 0)
    assert np.all(np.diff(psr / agn) < 0)
    assert np.all(np.diff(other / agn) < 0)
    lon, lat = np.array([10.0, 350.0, -10.0, 370.0]), np.array([5.0, -5.0, 5.0, -5.0])
    np.testing.assert_allclose(*np.broadcast_arrays(*np.split(classifier.prior(lon, lat), [1])))


def test_bright_sources_are_more_often_pulsars(classifier):
    lon, lat, psr = np.full(4, 20.0), np.full(4, 3.0), CLASSES.index("psr")
    faint, bright, brighter, unknown = classifier.prior(lon, lat, [1e-13, 1e-7, 1e-6, np.nan])
    mean = classifier.prior(lon[:1], lat[:1])[0]
    assert faint[psr] < mean[psr] < bright[psr]
    np.testing.assert_array_equal(bright, brighter)  # no farther than the simulated sources
    np.testing.assert_allclose(unknown, mean)


@pytest.mark.parametrize(("given", "expected"), [("flat", (1, 1, 1)), ((6, 3, 1), (6, 3, 1))])
def test_prior_can_be_given(high, given, expected):
    unknown = np.full((2, len(high.grid)), np.nan)
    result = high.apply(sources_with(unknown, lat=[0.0, 80.0]), class_prior=given)
    expected = np.array(expected) / sum(expected)
    np.testing.assert_allclose(probabilities_of(result), [expected, expected], atol=1e-6)


@pytest.mark.parametrize("given", ["even", (1, 2), (1, -1, 1), (0, 0, 0), (1, np.nan, 1), "123"])
def test_impossible_prior_is_refused(high, given):
    with pytest.raises(ValueError, match="class_prior must be 'flat' or three fractions, of AGN"):
        high.apply(sources_with(np.zeros((1, len(high.grid)))), class_prior=given)


def test_no_pulsar_is_expected_above_50_gev(high):
    above = Classifier.of(load_model(), (50.0, 5000.0))
    assert above.prior([0.0, 120.0], [0.0, 30.0])[:, CLASSES.index("psr")].max() < 0.05
    spectra = np.where(np.arange(len(high.grid)) == 40, 0.0, -30.0)  # one, certainly
    result = above.apply(sources_with(spectra[None], lat=[30.0]))
    assert has_flag(result, "class_prior").all()
    assert probabilities_of(result) == pytest.approx(above.prior([60.0], [30.0]), abs=1e-6)
    assert high.seen_in(10.0, 2000.0).prior([3.0], [1.0]) == pytest.approx(high.prior([3.0], [1.0]))


# Tables


def test_empty_table_gets_the_columns(high):
    result = high.apply(sources_with(np.zeros((0, len(high.grid)))))
    assert len(result) == 0
    assert {"Class", "Prob_AGN", "Prob_PSR", "Prob_OTHER", "Unc_Prob_PSR"} <= set(result.colnames)


def test_given_table_is_not_changed(high):
    sources = sources_with(np.zeros((2, len(high.grid))))
    high.apply(sources)
    assert sources.colnames == ["GLON", "GLAT", "Flags", LOG_LIKELIHOOD]
    assert not sources["Flags"].any()
