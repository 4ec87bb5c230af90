import numpy as np
import pytest
from made_classes import GRID, detected_sources
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score

from astro_unetloc.catalog.columns import CLASSES
from astro_unetloc.classification import Classifier, fit_mixture
from astro_unetloc.unet.model import load_model

SKIES = range(2)


@pytest.fixture(scope="module")
def skies():
    return [detected_sources(seed) for seed in SKIES]


@pytest.fixture(scope="module")
def agn_alone():
    return [detected_sources(seed, pulsars=0.0, galactic=0.0) for seed in SKIES]


def measured(index, root, error_index=0.3, error_root=0.2):
    """Log-likelihoods (n, n_nodes) of measurements (n,) of index and root of beta."""
    grid_index, grid_beta = GRID.nodes
    chi2 = ((index[:, None] - grid_index) / error_index) ** 2
    chi2 += ((root[:, None] - np.sqrt(grid_beta)) / error_root) ** 2
    return -chi2 / 2


def fit(sky, latitude=True, **options):
    """Mixture of a sky and the probability of a pulsar (n,)."""
    lat = sky.lat if latitude else None
    mixture = fit_mixture(sky.log_likelihood, GRID, latitude_deg=lat, **options)
    responsibilities = mixture.responsibilities(sky.log_likelihood, lat)
    return mixture, responsibilities[:, mixture.classes == "psr"].sum(axis=1)


def test_groups_are_found_with_their_true_widths():
    """The mixture has the width of the true spectra, not that of the measurements."""
    rng = np.random.default_rng(0)
    soft = np.arange(1000) % 5 == 0
    log_index = np.log(np.where(soft, 4.5, 2.2)) + 0.12 * rng.normal(size=1000)
    root = np.where(soft, 0.9, 0.45) + 0.1 * rng.normal(size=1000)
    index = np.exp(log_index) + 0.3 * rng.normal(size=1000)
    mixture = fit_mixture(measured(index, root + 0.2 * rng.normal(size=1000)), GRID)
    assert mixture.classes.tolist() == ["agn", "psr"]
    assert mixture.weights == pytest.approx([0.8, 0.2], abs=0.02)
    assert np.exp(mixture.means[:, 0]) == pytest.approx([2.2, 4.5], abs=0.1)
    assert mixture.means[:, 1] == pytest.approx([0.45, 0.9], abs=0.05)
    # the measurements scatter by 0.18 and 0.22
    sigma = np.sqrt(mixture.covariances[:, [0, 1], [0, 1]])
    assert sigma == pytest.approx(np.array([[0.12, 0.1], [0.12, 0.1]]), abs=0.035)


def test_curved_spectra_are_pulsars_though_they_are_hard():
    """Above 0.5 GeV pulsars are not softer than AGN."""
    curved = np.arange(500) % 4 == 0
    rng = np.random.default_rng(1)
    index = np.where(curved, 1.4, 2.2) + 0.4 * rng.normal(size=500)
    root = np.where(curved, 0.75, 0.2) + 0.2 * rng.normal(size=500)
    mixture = fit_mixture(measured(index, root), GRID)
    assert sorted(mixture.classes) == ["agn", "psr"]


@pytest.mark.parametrize("latitude", [False, True])
def test_agn_alone_are_one_component(agn_alone, latitude):
    for sky in agn_alone:
        mixture, pulsar = fit(sky, latitude)
        assert mixture.classes.tolist() == ["agn"]
        assert not pulsar.any()


@pytest.mark.parametrize(("latitude", "least"), [(False, (0.55, 0.9)), (True, (0.65, 0.92))])
def test_pulsars_are_found_without_labels(skies, latitude, least):
    scores = []
    for sky in skies:
        pulsar = fit(sky, latitude)[1]
        balanced = balanced_accuracy_score(sky.is_pulsar, pulsar > pulsar.mean())
        scores.append((adjusted_rand_score(sky.is_pulsar, pulsar > 0.5), balanced))
    assert np.all(np.mean(scores, axis=0) > least)


def test_result_depends_little_on_seed_and_order(skies):
    sky = skies[0]
    mixture, pulsar = fit(sky)
    order = np.random.default_rng(2).permutation(len(sky.lat))
    other, of_other = fit(sky.select(order), rng=3)
    assert other.classes.tolist() == mixture.classes.tolist()
    assert other.means == pytest.approx(mixture.means, abs=0.01)
    assert of_other == pytest.approx(pulsar[order], abs=0.02)


def test_half_of_the_sources_gives_nearly_the_same_classes(skies):
    pulsar = fit(skies[1])[1] > 0.5
    in_half = fit(skies[1].select(np.arange(0, len(pulsar), 2)))[1] > 0.5
    assert adjusted_rand_score(in_half, pulsar[::2]) > 0.8


def test_classifier_of_a_mixture_gives_its_responsibilities(skies):
    sky, known = skies[0], Classifier.of(load_model())
    for latitude in (False, True):
        mixture, pulsar = fit(sky, latitude)
        classifier = mixture.classifier(known)
        probability = classifier.probabilities(
            sky.log_likelihood, classifier.prior(sky.lon, sky.lat)
        )[0]
        assert probability.sum(axis=1) == pytest.approx(1)
        assert probability[:, CLASSES.index("other")].max() < 1e-9
        change = np.abs(probability[:, CLASSES.index("psr")] - pulsar)
        assert change.max() < (0.3 if latitude else 1e-6)  # latitudes are interpolated
        assert change.mean() < 0.01


def test_galactic_sources_are_others_only_with_latitudes():
    rng = np.random.default_rng(4)
    galactic = np.arange(600) % 3 == 0
    index = np.where(galactic, 3.0, 2.0) + 0.4 * rng.normal(size=600)
    lat = np.where(galactic, rng.laplace(0, 1, 600), np.degrees(np.arcsin(rng.uniform(-1, 1, 600))))
    log_likelihood = measured(index, np.full(600, 0.2))
    assert sorted(fit_mixture(log_likelihood, GRID, latitude_deg=lat).classes) == ["agn", "other"]
    assert set(fit_mixture(log_likelihood, GRID).classes) == {"agn"}


def test_source_without_spectrum_gets_the_fractions_at_its_latitude(skies):
    sky = skies[0].select(np.arange(len(skies[0].lat)))
    sky.log_likelihood[:2] = np.nan
    sky.lat[:2] = 0.5, 70.0
    mixture, pulsar = fit(sky)
    assert 0.9 > pulsar[0] > 0.1
    assert pulsar[1] < 0.05


def test_too_few_sources_are_refused():
    log_likelihood = measured(np.full(60, 2.0), np.full(60, 0.2))
    log_likelihood[:20] = np.nan
    with pytest.raises(ValueError, match="at least 50 sources with a spectrum; got 40"):
        fit_mixture(log_likelihood, GRID)
