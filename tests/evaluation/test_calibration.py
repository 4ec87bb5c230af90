import json
import shutil
from functools import partial

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from made_truth import make_catalog, make_truth

from astro_unetloc import calibrate, find_sources, load_model, simulate_sky
from astro_unetloc.evaluation import calibration
from astro_unetloc.evaluation.calibration import fit_calibration
from astro_unetloc.evaluation.truth import match_truth
from astro_unetloc.exceptions import InputError


@pytest.fixture
def field(monkeypatch):
    """Skies are fields of 30 deg around (60, 30) deg instead of whole ones."""

    def observed_field(band_edges, seed, *, years):
        center = SkyCoord(60 * u.deg, 30 * u.deg, frame="galactic")
        return simulate_sky(
            center=center, radius=30 * u.deg, energy_range=tuple(band_edges[[0, -1]]), years=years,
            rng=seed,
        )  # fmt: skip

    monkeypatch.setattr(calibration, "observed_sky", observed_field)


@pytest.fixture
def folder(tmp_path):
    """Folder of a model that is not calibrated."""
    shutil.copytree(load_model().folder, tmp_path / "model")
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    kept = {key: value for key, value in card.items() if not key.startswith("calibration")}
    (tmp_path / "model" / "card.json").write_text(json.dumps(kept | {"threshold": 0.5}))
    return tmp_path / "model"


def test_score_of_a_calibrated_model_is_the_fraction_of_real_candidates(field, folder):
    before = load_model(folder)
    assert before.calibration is None
    model = calibrate(folder, seeds=[1000, 1001], energies=[20 * u.GeV], years=[7])
    assert model.threshold == load_model(folder).threshold == 0.8
    assert model.card["calibration"]["lowest_gev"] == [20.0]
    assert model.sha256 == before.sha256
    sky_map, truth = calibration.observed_sky(np.array([20.0, 2000.0]), 2000, years=7)
    matches = match_truth(find_sources(sky_map, model=model, threshold=0.05), truth)
    score, real = np.asarray(matches.catalog["Score"]), matches.is_real
    assert score.sum() == pytest.approx(real.sum(), rel=0.15)
    assert len(find_sources(sky_map, model=model, purity=0.9)) > 20


def test_calibration_without_enough_candidates_writes_nothing(field, folder):
    card = (folder / "card.json").read_bytes()
    few = partial(calibrate, seeds=[1000], energies=[500.0], years=[1])
    with pytest.raises(InputError, match="needs 20 real and as many false .* simulate more skies"):
        few(folder)
    assert (folder / "card.json").read_bytes() == card
    with pytest.raises(InputError, match="a folder of your own; got lat-10gev, which ships"):
        few("lat-10gev")


def test_fitted_calibration_is_the_fraction_of_explained_candidates(rng):
    """A fraction p**2 of candidates of probability p is real; as many are near a fainter source."""
    n = 4000
    lon, lat = np.arange(n) % 100 * 3.0, 20 + np.arange(n) // 100 * 1.5
    probability = rng.uniform(0.1, 0.99, n)
    draw = rng.random(n)
    is_real, is_near = draw < probability**2, draw > 1 - 0.5 * (1 - probability**2)
    npred, near = np.where(is_real, 50.0, 10.0), is_real | is_near
    sqrt_ts = np.where(np.arange(n) % 10, 5.0, np.nan)  # some were not measured
    counts = np.where(np.isnan(sqrt_ts), np.nan, 45.0)
    measured = {"Probability": probability, "Sqrt_TS": sqrt_ts, "Npred": counts}
    catalog = make_catalog(lon, lat, probability, **measured)
    judged = match_truth(catalog, make_truth(lon[near], lat[near], npred[near]), brightest=True)
    fitted = fit_calibration(judged, 0.1)
    assert fitted.least_probability == 0.1
    p = np.array([0.3, 0.5, 0.7, 0.9])
    found = fitted.score(p, np.full(4, 40.0), np.full(4, 5.0), np.full(4, 45.0))
    np.testing.assert_allclose(found, p**2, atol=0.04)
