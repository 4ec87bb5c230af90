import numpy as np
import pytest
from astropy.table import QTable

from astro_unetloc.evaluation.runs import SkyRows
from astro_unetloc.evaluation.truth import judge
from astro_unetloc.maps.patches import TangentPlane

PLANE = TangentPlane(120.0, 10.0, 128, 10 / 128)


@pytest.fixture
def rows():
    truth = QTable(
        {
            "GLON": [120.0, 122.0, 125.15, 300.0],
            "GLAT": [10.0, 10.0, 10.0, -10.0],
            "Npred": [20.0, 5.0, 9.0, 30.0],
            "Radius": np.zeros(4),
            "Flux": [1e-10, 2e-11, 3e-11, 4e-11],
        }
    )
    catalog = QTable(
        {
            "GLON": [120.0, 118.0, 122.1],
            "GLAT": [10.1, 12.0, 10.0],
            "Score": np.array([0.9, 0.4, 0.2], np.float32),
        }
    )
    return SkyRows(judge(catalog, truth))


def test_sources_of_a_patch_have_their_pixels(rows):
    inside = rows.inside("sources", PLANE, 7)
    assert inside["patch"].tolist() == [7, 7]
    assert (inside["x"][0], inside["y"][0]) == pytest.approx((63.5, 63.5))
    assert inside["x"][1] < 63.5 - 20  # longitude grows to the left
    assert inside["role"].tolist() == [b"counted", b"faint"]
    assert inside["npred"].tolist() == [20.0, 5.0]
    assert inside["flux"].tolist() == [1e-10, 2e-11]


def test_sources_know_the_score_of_their_detection(rows):
    np.testing.assert_allclose(rows.sources["score"], [0.9, 0.2, np.nan, np.nan], rtol=1e-6)


def test_detections_of_a_patch_have_their_verdict(rows):
    inside = rows.inside("found", PLANE, 0)
    assert inside["verdict"].tolist() == [b"right", b"wrong", b"ignored"]
    assert inside["y"][0] == pytest.approx(63.5 + 0.1 / PLANE.pixel_deg, abs=1e-3)


def test_a_margin_adds_sources_beyond_the_border(rows):
    assert len(rows.inside("sources", PLANE, 0, margin_pix=2.0)) == 3


def test_only_some_rows_can_be_asked_for(rows):
    assert len(rows.inside("sources", PLANE, 0, among=np.array([1, 3]))) == 1


def test_what_is_not_known_of_a_source_is_nan():
    truth = QTable({"GLON": [0.0], "GLAT": [0.0], "Npred": [9.0], "Radius": [0.0]})
    catalog = QTable({"GLON": [], "GLAT": [], "Score": []})
    assert np.isnan(SkyRows(judge(catalog, truth)).sources["flux"][0])
