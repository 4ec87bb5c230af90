import inspect
import json
import shutil
import warnings
from dataclasses import replace

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from conftest import make_wcs
from made_maps import binned_map, healpix_pixels, wcs_pixels
from made_sources import as_counts

from astro_unetloc import classify_sources, find_sources, match_catalogs, read_catalog
from astro_unetloc.catalog.columns import COLUMNS, has_flag
from astro_unetloc.catalog.read import energy_range, was_searched
from astro_unetloc.catalog.table import glon_glat_vectors, source_classes
from astro_unetloc.detection.localization import LocalizationConfig, source_table
from astro_unetloc.evaluation.classes import class_scores
from astro_unetloc.evaluation.metrics import evaluate, found_scores
from astro_unetloc.exceptions import InputError, UnetlocWarning
from astro_unetloc.executors import limited_cores
from astro_unetloc.irf.exposure import SurveyExposure
from astro_unetloc.irf.psf import KingPSF
from astro_unetloc.maps.photons import DiscFootprint, Photons
from astro_unetloc.pipeline import clustering_config, detect, flag_sources
from astro_unetloc.simulation.sky import healpix_cube, simulate_sky
from astro_unetloc.sphere import lonlat_from_vectors, separation_deg, vectors_from_lonlat
from astro_unetloc.unet.model import Model, load_model

CENTER = SkyCoord(100 * u.deg, 35 * u.deg, frame="galactic")
RADIUS_DEG = 20
# Photons keep their energy in events and draw it inside their bin in maps: bins are fine.
EDGES, COARSE_EDGES = (
    np.unique(np.append(np.geomspace(10, 2000, n).round(9), [20.0, 50.0, 150.0, 500.0]))
    for n in (31, 11)
)
LOW_THRESHOLD = 0.1
AXIS = CENTER.cartesian.xyz.value
# Score of the sources that must come out the same, and the fraction of them that must: 97 % of the
# sky, less in the short tests, where one source is 2 %.
SURE, FRACTION, FRACTION_OF_FEW = 0.9, 0.97, 0.95


@pytest.fixture(scope="module")
def sky():
    """Photons of a cone, twelve years."""
    return simulate_sky(center=CENTER, radius=RADIUS_DEG * u.deg, years=12, rng=7)[0]


@pytest.fixture(scope="module")
def from_events(sky):
    """What is found in them."""
    return detect(sky, threshold=LOW_THRESHOLD)


def as_map(sky, pixels, edges=EDGES):
    """The same photons in pixels and energy bins."""
    return as_counts(sky.events, pixels, edges)


def within_cone(sky, radius_deg):
    """The photons within a radius of the centre, and the cone they cover."""
    kept = sky.events.select(separation_deg(sky.events.vectors, AXIS) <= radius_deg)
    return replace(sky, events=kept, footprint=DiscFootprint(AXIS, radius_deg))


NO_PHOTONS = Photons(np.zeros((0, 3)), np.zeros(0))


def fine_image(width_deg, pixel_deg=0.05):
    n = round(width_deg / pixel_deg)
    wcs = make_wcs((n, n), lon=100.0, lat=35.0, pixel_deg=pixel_deg, projection="ZEA")
    return wcs_pixels(wcs, (n, n))


def fraction_of_same(one, two, inside, within_deg):
    """Fraction of the sure sources of each run that the other has at the same place."""
    same, number = 0, 0
    for first, second in ((one, two), (two, one)):
        vectors = glon_glat_vectors(first.catalog[first.catalog["Score"] > SURE])
        vectors = vectors[inside(vectors)]
        apart = separation_deg(vectors[:, None], glon_glat_vectors(second.catalog)[None])
        same += np.sum(apart.min(axis=1) <= within_deg)
        number += len(vectors)
    assert number >= 20, "too few sources"
    return same / number


def within(radius_deg):
    return DiscFootprint(AXIS, radius_deg).covers


def test_events_in_a_cone_in_healpix_or_in_a_fine_map_give_the_same_sources(sky, from_events):
    cone = healpy.query_disc(1024, CENTER.icrs.cartesian.xyz.value, np.radians(RADIUS_DEG),
                             nest=True)  # fmt: skip
    numbers = healpix_pixels(1024, True, "icrs").index(sky.events.vectors)
    pixels = healpix_pixels(1024, True, "icrs", np.union1d(numbers, cone))
    from_healpix = detect(as_map(sky, pixels, COARSE_EDGES), threshold=LOW_THRESHOLD)
    size_deg, inside = pixels.pixel_size_deg, within(RADIUS_DEG - 2)
    assert fraction_of_same(from_events, from_healpix, inside, size_deg) >= FRACTION_OF_FEW
    part = detect(within_cone(sky, 14.0), threshold=LOW_THRESHOLD)
    assert fraction_of_same(from_events, part, within(13), 0.05) >= FRACTION_OF_FEW
    whole_map = as_map(sky, fine_image(2 * RADIUS_DEG))
    whole = detect(whole_map, threshold=LOW_THRESHOLD)
    assert fraction_of_same(from_events, whole, inside, 0.05) >= FRACTION_OF_FEW
    counts = whole_map.planes.reshape(-1, *whole_map.pixels.shape)[:, 110:690, 90:670]
    pixels = wcs_pixels(whole_map.pixels.wcs[110:690, 90:670], (580, 580))
    cut = detect(binned_map(counts, pixels, EDGES), threshold=LOW_THRESHOLD)
    assert fraction_of_same(whole, cut, within(13), 0.05) >= FRACTION_OF_FEW


@pytest.mark.parametrize("finder", ["unet", "both"])
def test_cores_and_order_of_photons_do_not_change_the_catalogue(sky, finder):
    sky = within_cone(sky, 5.0)
    order = np.random.default_rng(1).permutation(len(sky.events))
    shuffled = replace(sky, events=sky.events.select(order))
    found = []
    for photons, n_cores in ((sky, 1), (sky, 3), (shuffled, 2)):
        with limited_cores(n_cores):
            found.append(find_sources(photons, finder=finder, threshold=LOW_THRESHOLD))
    assert len(found[0]) > 5
    for name in ("Source_Name", "RAJ2000", "Score", "Sqrt_TS", "Conf_95_SemiMajor", "Prob_AGN"):
        first, *others = (np.asarray(catalog[name]) for catalog in found)
        np.testing.assert_array_equal(others[0], first)
        if first.dtype.kind == "f":  # sums of photons in another order are rounded differently
            np.testing.assert_allclose(others[1], first, rtol=1e-4)


@pytest.mark.slow
def test_a_cut_out_gives_the_sources_of_the_whole_sky():
    sky = simulate_sky(rng=3)[0]
    whole, part = (detect(s, threshold=LOW_THRESHOLD) for s in (sky, within_cone(sky, 30.0)))
    assert fraction_of_same(whole, part, within(29), 0.05) >= FRACTION
    pixels = healpix_pixels(1024, False, "galactic")
    from_map = detect(as_map(sky, pixels), threshold=LOW_THRESHOLD)
    assert fraction_of_same(whole, from_map, within(180.0), pixels.pixel_size_deg) >= FRACTION


def test_a_region_gives_exactly_the_sources_of_the_whole_map_inside_it(sky, from_events):
    regions = pytest.importorskip("regions")
    center = from_events.catalog["skycoord"][0]
    whole = from_events.catalog[from_events.catalog["skycoord"].separation(center) <= 4 * u.deg]
    assert len(whole) >= 3
    circle = regions.CircleSkyRegion(center, 4 * u.deg)
    for region in ((center, 4 * u.deg), (center.icrs, 240 * u.arcmin), circle):
        part = find_sources(sky, region=region, threshold=LOW_THRESHOLD)
        # far neighbours of neighbours are absent in the fit
        names = dict.fromkeys(("Probability", "Flags", "Patch"), 1e-12)
        names |= dict.fromkeys(("GLON", "GLAT", "Sqrt_TS", "Npred", "Score"), 1e-5)
        for name, rtol in names.items():
            np.testing.assert_allclose(part[name].value, whole[name].value, rtol=rtol)
    one = find_sources(sky, region=(center, 1 * u.arcsec), threshold=LOW_THRESHOLD)
    assert list(one["Source_Name"]) == [whole["Source_Name"][0]]


def test_a_wider_psf_searches_a_wider_margin_around_a_region(sky):
    skies, region = (replace(sky, psf=psf) for psf in (None, KingPSF(8.0))), (CENTER, 1 * u.deg)
    narrow, wide = (set(detect(s, region=region).patches.index) for s in skies)
    assert narrow < wide


def test_a_map_that_was_read_is_not_read_again(sky, monkeypatch):
    monkeypatch.setattr("astro_unetloc.pipeline.read_map", None)
    region = (CENTER, 1 * u.arcmin)
    assert detect(sky, region=region, measure=False).sky_map is sky


def test_a_region_outside_the_map_warns_and_is_empty(sky):
    region = (SkyCoord(280 * u.deg, -35 * u.deg, frame="galactic"), 2 * u.deg)
    with pytest.warns(UnetlocWarning, match="the region lies outside the map"):
        assert len(find_sources(sky, region=region)) == 0


@pytest.mark.parametrize(
    "region, error",
    [
        ("l=100, b=35", TypeError),
        ((CENTER, 3.0), TypeError),
        ((CENTER, 3 * u.s), TypeError),
        ((CENTER, -1 * u.deg), ValueError),
        ((CENTER, np.nan * u.deg), ValueError),
        ((SkyCoord([1, 2] * u.deg, [3, 4] * u.deg), 1 * u.deg), ValueError),
    ],
)
def test_another_region_than_a_cone_is_refused(sky, region, error):
    with pytest.raises(error, match="region must"):
        find_sources(sky, region=region)


def test_the_catalogue_lists_the_sources_by_descending_score(sky, from_events):
    catalog = from_events.catalog
    assert len(catalog) == len(from_events.sources) > 20
    assert np.all(np.diff(catalog["Score"]) <= 0)
    assert catalog["Score"].min() >= LOW_THRESHOLD
    assert catalog.colnames[: len(COLUMNS)] == [column.name for column in COLUMNS]
    apart = catalog["skycoord"].separation(CENTER.icrs)
    assert apart.max() < (RADIUS_DEG + 0.2) * u.deg
    expected = {"NPHOTONS": sky.n_photons, "MODELSHA": load_model().sha256, "SEED": 0, "NFAILED": 0}
    assert catalog.meta | expected == catalog.meta
    assert from_events.n_failed == 0
    known = f"{len(catalog)} sources, {catalog['Score'].sum():.1f} of them real as expected, "
    assert from_events.summary().startswith(known + "with Score >= 0.1 in ")


@pytest.mark.parametrize("region", [None, (CENTER, 10 * u.deg)])
def test_a_purity_gives_the_longest_list_of_that_mean_score(sky, region):
    longer = detect(sky, threshold=0.02, region=region).catalog["Score"]
    mean = np.cumsum(longer) / np.arange(1, len(longer) + 1)
    for purity in (0.97, 0.9):
        found = detect(sky, purity=purity, region=region)
        n = len(found.catalog)
        assert 0 < n < len(longer)
        np.testing.assert_allclose(found.catalog["Score"], longer[:n], atol=0.01)
        assert mean[n - 1] >= purity - 0.001 > mean[n] - 0.01
        assert found.catalog.meta["PURITY"] == purity
        assert found.threshold == pytest.approx(found.catalog["Score"].min())
    assert f"{n} sources, {found.catalog['Score'].sum():.1f} of them real as" in repr(found)
    assert repr(sky) == f"<SkyMap {sky.name}: {sky.n_photons} photons of 10-2000 GeV, events>"
    with pytest.raises(ValueError, match="exclude each other"):
        detect(sky, purity=0.9, threshold=0.3)
    plain = replace(load_model(), card=load_model().card | {"calibration": None})
    with pytest.raises(ValueError, match="needs a model whose Score is calibrated; got lat-10gev"):
        detect(sky, purity=0.9, model=plain)


def test_runs_that_differ_in_any_input_differ_in_their_keywords(sky, tmp_path):
    folder = shutil.copytree(load_model().folder, tmp_path / "other")
    (folder / "card.json").write_text(json.dumps(load_model().card | {"name": "other"}))
    fewer = replace(sky, events=sky.events.select(slice(1, None)))
    changes = {
        "map": fewer, "psf": KingPSF(2.0), "energy_range": (12.0, 2000.0), "model": folder,
        "region": (CENTER, 0.4 * u.deg), "threshold": 0.3, "purity": 0.9, "measure": False,
        "extended": QTable({"Source_Name": ["A"], "skycoord": CENTER[None], "Extended": [True]}),
        "rng": 5,
    }  # fmt: skip
    base = {"map": sky, "region": (CENTER, 0.3 * u.deg)}
    runs = [base, *(base | {name: value} for name, value in changes.items())]
    runs += [base | {"map": replace(sky, exposure=SurveyExposure(years))} for years in (1, 2)]
    found = [{**find_sources(**run).meta, "MOC": None} for run in runs]
    for number, keywords in enumerate(found):
        assert keywords not in found[:number]


def test_sources_are_measured_unless_that_is_not_wanted(sky, from_events):
    catalog, without = from_events.catalog, find_sources(sky, measure=False)
    for name in ("Conf_95_SemiMajor", "Sqrt_TS", "Npred", "Flux"):
        assert without[name].mask.all()
    assert not np.any(catalog["Npred"].mask | catalog["Sqrt_TS"].mask)
    assert catalog["Flux"].mask.all()  # no exposure goes with the photons
    unfitted = has_flag(catalog, "fit_failed")
    np.testing.assert_array_equal(catalog["Conf_68_SemiMajor"].mask, unfitted)
    assert (catalog.meta["FLUXEMIN"], catalog.meta["FLUXEMAX"]) == (10.0, 1000.0)


PROBABILITIES = "Prob_AGN", "Prob_PSR", "Prob_OTHER"


def probabilities(catalog):
    """Probabilities (n, 3) of the classes; NaN where they are masked."""
    return np.stack([np.ma.filled(catalog[name], np.nan) for name in PROBABILITIES], axis=1)


def test_sources_have_classes_unless_that_is_not_wanted(sky, from_events):
    catalog = from_events.catalog
    assert "Spectral_LnL" not in catalog.colnames
    assert probabilities(catalog).sum(axis=1) == pytest.approx(1, abs=1e-5)
    # nearly all sources at 35 deg from the plane are AGN
    assert np.mean(catalog["Class"] == "agn") > 0.8
    without = detect(within_cone(sky, 4), classify=False)
    assert without.catalog["Class"].mask.all()
    assert np.isnan(probabilities(without.catalog)).all()
    assert not np.ma.getmaskarray(without.catalog["Npred"]).any()
    assert without.keywords()["CLASSIFY"] is False
    with pytest.raises(
        InputError, match="class_prior must be 'flat' or three fractions.*got 'all'"
    ):
        detect(sky, class_prior="all")


def test_a_given_prior_holds_wherever_the_source_is(sky):
    run = detect(within_cone(sky, 4), class_prior=(0.0, 1.0, 1.0))
    assert probabilities(run.catalog)[:, 0] == pytest.approx(0)
    assert run.keywords()["CLPRIOR"] == "0 0.5 0.5"


def test_sources_of_our_catalogue_have_the_same_classes_again(sky, from_events):
    catalog = from_events.catalog[:40]
    again = classify_sources(catalog, sky)
    assert again.colnames == catalog.colnames
    assert again["Score"] == pytest.approx(catalog["Score"])
    difference = np.abs(probabilities(again) - probabilities(catalog)).max(axis=1)
    assert np.median(difference) < 0.01  # the fainter neighbours are missing
    assert np.mean(difference < 0.1) > 0.9


def test_sources_of_any_catalogue_on_the_map_get_classes(sky, from_events):
    catalog = from_events.catalog[:30]
    other = QTable({"name": catalog["Source_Name"], "RA": catalog["RAJ2000"]})
    other["Dec"], other["CLASS"], other["Npred"] = catalog["DEJ2000"], "bll", 1.0
    other.meta = {"EMIN": 10000.0, "EMAX": 500000.0}  # Fermi-LAT catalogues state MeV
    other.add_row(["far", 10 * u.deg, -80 * u.deg, "psr", 2.0])
    with pytest.warns(UnetlocWarning, match="shows 30 of 31 sources; the others get no class"):
        result = classify_sources(other, sky)
    assert list(result["CLASS_Ref"]) == [*["bll"] * 30, "psr"]
    assert list(result["Npred_Ref"]) == [*[1.0] * 30, 2.0]
    assert result["Npred"].mask.tolist() == [*[False] * 30, True]
    assert result["Class"].mask[-1]
    assert np.isnan(probabilities(result)[-1]).all()
    ratio = np.ma.getdata(result["Npred"][:30] / catalog["Npred"])
    assert np.median(ratio) == pytest.approx(1, abs=0.02)
    assert result["Counts_Band"].shape == (31, 5)
    assert result.meta["CLMODEL"] == "lat-10gev"
    assert energy_range(result) == energy_range(result, "FIT") == (10.0, 2000.0)
    assert energy_range(result, "FLUX") == (10.0, 1000.0)


def test_classes_are_found_without_labels(sky, from_events):
    result = classify_sources(from_events.catalog, sky, unsupervised=True)
    groups, probability = result.meta["CLGROUPS"].split(), probabilities(result)
    assert set(groups) <= {"agn", "psr", "other"}
    assert probability.sum(axis=1) == pytest.approx(1)
    for name, values in zip(("agn", "psr", "other"), probability.T):
        assert (name in groups) == (values.max() > 1e-3)
    with pytest.raises(InputError, match="need at least 50 sources with a spectrum; got 3"):
        classify_sources(from_events.catalog[:3], sky, unsupervised=True)


def test_a_map_without_energies_of_the_model_has_no_classes(sky):
    below = replace(sky, energy_edges=np.array([1.0, 10.0]), events=NO_PHOTONS)
    catalog = QTable({"RA": [10.0], "Dec": [20.0]})
    with pytest.raises(InputError, match="a map of its energies were expected; got lat-10gev and"):
        classify_sources(catalog, below, model="lat-10gev")


def test_classes_of_another_telescope_are_warned_of(sky):
    other = replace(sky, header={"TELESCOP": "HESS"})
    center = SkyCoord(
        *lonlat_from_vectors(sky.observed_points[0][:1]), unit="deg", frame="galactic"
    )
    with pytest.warns(UnetlocWarning, match="photons of HESS .not of Fermi-LAT.* and classes"):
        classify_sources(QTable({"RA": center.icrs.ra, "Dec": center.icrs.dec}), other)


def test_catalog_has_the_energies_of_the_map_and_those_of_the_fit_if_there_was_one(sky):
    wide = replace(sky, energy_edges=np.array([1.0, 1500.0]))
    options = {"model": "lat-10gev", "region": (CENTER, 1 * u.deg)}
    fitted, found = (find_sources(wide, measure=m, **options).meta for m in (True, False))
    assert fitted | {"EMIN": 1, "EMAX": 1500} == fitted
    assert found | {"EMIN": 1, "EMAX": 1500} == found
    assert (fitted["FITEMIN"], fitted["FITEMAX"]) == (10, 1500)
    assert not {"FITEMIN", "FITEMAX", "FLUXEMIN", "FLUXEMAX"} & set(found)


def test_an_exposure_gives_fluxes(sky):
    exposed = replace(sky, exposure=SurveyExposure(12))
    catalog = find_sources(exposed, threshold=SURE, region=(CENTER, 6 * u.deg))
    assert len(catalog) > 1
    assert not np.any(catalog["Flux"].mask)
    expected = np.array(catalog["Npred"]) / (12 * 4.5e10)  # over cm2 s of a year, within 30 %
    ratio = catalog["Flux"].unmasked.to_value("ph cm-2 s-1") / expected
    np.testing.assert_allclose(ratio, 1.0, atol=0.3)


def test_sources_below_the_threshold_are_fitted_too(sky, from_events):
    """A high threshold lists the same values, not those of sources without their neighbours."""
    few = find_sources(sky, threshold=SURE)
    many = from_events.catalog[from_events.catalog["Score"] >= SURE]
    np.testing.assert_array_equal(few["Score"], many["Score"])
    close = np.isclose(np.array(few["Npred"]), np.array(many["Npred"]), rtol=0.02)
    assert close.mean() > 0.9  # the run of the fixture fits some fainter ones


@pytest.mark.parametrize("measure", [True, False])
def test_nearest_source_is_one_that_is_listed(sky, measure):
    catalog = find_sources(sky, measure=measure)
    nearest = catalog["skycoord"].match_to_catalog_sky(catalog["skycoord"], 2)[1]
    np.testing.assert_allclose(catalog["Sep_Nearest"].value, nearest.deg, atol=1e-4)
    blended = catalog["Sep_Nearest"].value < LocalizationConfig().blend_radius_deg
    np.testing.assert_array_equal(has_flag(catalog, "blended"), blended)


def test_sources_lie_where_the_probability_is_high(sky, from_events):
    # the fit may move a faint one by some pixels
    catalog = detect(sky, measure=False, threshold=LOW_THRESHOLD).catalog[::4]
    patches, radius_pix = from_events.patches, clustering_config(from_events.model).radius_pix
    y, x = np.mgrid[:160, :160]
    for vector, probability in zip(glon_glat_vectors(catalog), catalog["Probability"]):
        seen = []  # by its owner, or by a neighbour that was surer of it
        for patch, image in zip(patches.index, from_events.probability):
            x_pix, y_pix = patches.grid.plane(patch).pixel_from_vectors(vector)
            seen.append(image[np.hypot(x - x_pix, y - y_pix) <= radius_pix].max(initial=0))
        assert np.any(np.isclose(seen, probability, rtol=1e-5))


def test_runs_are_the_same_for_a_seed(sky):
    sky_map = as_map(sky, fine_image(6, 0.1))
    one, two, three = (find_sources(sky_map, rng=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one["GLON"], two["GLON"])
    assert one.meta["SEED"] == 5
    assert len(one) != len(three) or np.any(one["GLON"] != three["GLON"])
    drawn = find_sources(sky_map, rng=np.random.default_rng(1), measure=False)
    again = find_sources(sky_map, rng=drawn.meta["SEED"], measure=False)
    np.testing.assert_array_equal(drawn["GLON"], again["GLON"])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("rng", value, "rng must be an int from 0") for value in (-1, 1.5, "0", 2**64)]
    + [("threshold", value, "threshold must lie between 0 and 1") for value in (-0.1, 1.1, np.nan)]
    + [("purity", value, "purity must lie between 0 and 1") for value in ("high", [0.5, 0.6], 2)],
)
def test_a_wrong_seed_threshold_or_purity_is_refused(sky, option, value, message):
    with pytest.raises(ValueError, match=message):
        find_sources(sky, **{option: value})


def test_an_empty_map_gives_a_valid_empty_catalogue(sky):
    pixels, edges = fine_image(4, 0.1), load_model("lat-10gev").band_edges
    empty = binned_map(np.zeros((5, pixels.n_pixels), dtype=np.int32), pixels, edges)
    nothing = replace(sky, events=NO_PHOTONS)
    for sky_map in (empty, nothing):
        with pytest.warns(UnetlocWarning, match="the map holds no photons"):
            catalog = find_sources(sky_map)
        assert len(catalog) == 0
        assert catalog.colnames[: len(COLUMNS)] == [column.name for column in COLUMNS]
        assert catalog.meta["NPHOTONS"] == 0


def test_energies_outside_the_model_are_refused(sky):
    low = replace(sky, energy_edges=np.array([0.1, 1.0]))
    with pytest.raises(ValueError, match="within the model's range 10-2000 GeV; got a map of"):
        find_sources(low, model="lat-10gev")


def test_wide_bins_across_the_edges_of_the_model_are_warned_about(sky):
    whole = as_map(sky, fine_image(4, 0.1))
    image = binned_map(whole.planes.sum(axis=0), whole.pixels, [10.0, 2000.0])
    with pytest.warns(UnetlocWarning, match="10-2000 GeV lie across the model's band edges"):
        find_sources(image)


def test_a_patch_without_finite_probabilities_is_counted(sky, from_events, monkeypatch):
    predict, model = Model.predict_batches, load_model()

    def broken(self, *inputs, **options):
        for rows, probability in predict(self, *inputs, **options):
            if rows.start == 0:
                probability[1, 70, 90] = np.nan
            yield rows, probability

    monkeypatch.setattr(Model, "predict_batches", broken)
    number = from_events.patches.index[1]
    with pytest.warns(UnetlocWarning, match=f"no finite probability for patches {number};"):
        found = detect(sky, model=model, threshold=LOW_THRESHOLD)
    assert found.n_failed == found.catalog.meta["NFAILED"] == 1
    assert np.all(found.probability[1] == 0)
    lon, lat = lonlat_from_vectors(found.patches.grid.centers[[number]])
    place = SkyCoord(lon, lat, unit="deg", frame="galactic")
    assert was_searched(from_events.catalog, place)
    assert not was_searched(found.catalog, place)
    elsewhere = from_events.catalog["Patch"] != number
    assert 0 < len(found.catalog) <= len(from_events.catalog)
    assert np.sum(found.catalog["Patch"] != number) >= elsewhere.sum() - 2


def test_gammapy_maps_and_datasets_are_searched(sky):
    from gammapy.datasets import MapDataset
    from gammapy.maps import Map, MapAxis, WcsGeom

    axis = MapAxis.from_edges(EDGES, unit="GeV", name="energy", interp="log")
    geom = WcsGeom.create(skydir=CENTER, width=6, binsz=0.05, frame="galactic", axes=[axis])
    counts = Map.from_geom(geom, dtype=int)
    lon, lat = lonlat_from_vectors(sky.events.vectors)
    direction = SkyCoord(lon, lat, unit="deg", frame="galactic")
    counts.fill_by_coord({"skycoord": direction, "energy": sky.events.energy * u.GeV})
    dataset = MapDataset(counts=counts, name="cone")
    from_map, from_dataset = find_sources(counts), find_sources(dataset)
    assert len(from_map) > 1
    np.testing.assert_array_equal(from_map["GLON"], from_dataset["GLON"])


@pytest.mark.parametrize("pixel_deg", [None, 0.1, 0.4])
@pytest.mark.parametrize("assumed", [True, False])
def test_flags_of_the_plane_of_coarse_pixels_and_of_assumed_energies(sky, pixel_deg, assumed):
    image = pixel_deg and as_map(sky, fine_image(8, pixel_deg))
    sky_map = replace(image or within_cone(sky, 5.0), energy_assumed=assumed)
    catalog = find_sources(sky_map, threshold=0.05, measure=False)
    assert len(catalog) > 0
    assert np.all(has_flag(catalog, "coarse_pixels") == (pixel_deg == 0.4))
    assert np.all(has_flag(catalog, "energy_assumed") == assumed)
    place = (vectors_from_lonlat(50.0, [-4.9, 5.1]), np.full(2, 0.9))
    sources = source_table(*place, patch=np.zeros(2, int), coverage=np.ones(2))
    flagged = flag_sources(sources, sky_map)
    np.testing.assert_array_equal(has_flag(flagged, "low_latitude"), [True, False])
    assert flagged["Flags"].dtype == np.int16
    assert np.all(sources["Flags"] == 0)


def test_sources_inside_extended_ones_are_flagged(sky, from_events):
    place = from_events.catalog["skycoord"]
    known = QTable({
        "Source_Name": ["disc", "point", "small"],
        "skycoord": place[:3].directional_offset_by(0 * u.deg, [1.0, 0.0, 0.2] * u.deg),
        "Extended": [True, False, True],
        "Extension": [1.2, 0.0, np.nan] * u.deg,
    })  # fmt: skip
    found = detect(sky, threshold=LOW_THRESHOLD, extended=known)
    inside = place.separation(known["skycoord"][0]) < 1.2 * u.deg
    inside |= place.separation(known["skycoord"][2]) < 0.3 * u.deg
    assert list(inside[:3]) == [True, False, True]
    np.testing.assert_array_equal(has_flag(found.catalog, "known_extended"), inside)
    flags = found.catalog["Flags"] - 256 * inside
    np.testing.assert_array_equal(flags, from_events.catalog["Flags"])


# Below 10 GeV, by the model lat-500mev


@pytest.mark.filterwarnings("ignore:pixels of 0.23 deg")
def test_sources_of_a_map_above_half_a_gev_are_found():
    center = SkyCoord(75 * u.deg, 40 * u.deg, frame="galactic")
    edges, pixels = load_model("lat-500mev").band_edges, healpix_pixels(256, False, "galactic")
    events, truth = simulate_sky(
        center=center, radius=9 * u.deg, years=8, energy_range=edges[[0, -1]], rng=1010
    )
    counts = healpix_cube(events.events, edges, 256).astype(float)
    counts[:, ~events.covers(pixels.centers(np.arange(pixels.n_pixels)))] = np.nan
    sky_map = binned_map(counts, pixels, edges)
    catalog = find_sources(sky_map)
    assert catalog.meta["MODEL"] == "lat-500mev"
    assert (catalog.meta["FLUXEMIN"], catalog.meta["FLUXEMAX"]) == (1, 100)
    assert catalog["Score"].min() >= load_model("lat-500mev").threshold
    assert catalog["Probability"].min() >= load_model("lat-500mev").calibration.least_probability
    # sources outside the border are not in the truth
    axis = center.cartesian.xyz.value
    judged = evaluate(catalog, truth, region=lambda v: separation_deg(v, axis) < 8.4)
    assert judged.purity > 0.85  # of 28; 0.95 on whole skies
    found = np.isfinite(found_scores(catalog, truth, brightest=True))
    places = SkyCoord(truth["GLON"], truth["GLAT"], frame="galactic")
    inside = places.separation(center) < 8.5 * u.deg
    point = inside & (truth["Radius"] == 0) & (truth["Flux"].value > 4e-10)
    assert point.sum() >= 5
    assert found[point].mean() > 0.75
    bright = np.argmax(truth["Flux"] * point)
    away = catalog["skycoord"].separation(places[bright])
    nearest = catalog[np.argmin(away)]
    assert nearest["Npred"] == pytest.approx(truth["Npred"][bright], rel=0.2)
    assert away.min() < 0.05 * u.deg


def test_real_photons_of_2_to_20_gev_come_from_known_sources(real_data):
    """The one map below 10 GeV at hand: one band, pixels of 0.46 deg, events of the best quarter.

    Pixels displace by up to 0.33 deg, so that sources within 0.5 deg are known ones; one random
    direction in seven has one so near.
    """
    with fits.open(real_data / "diffuse/fermi_counts_2_20gev_ucv_psf3_nside128.fits.gz") as hdus:
        counts = np.ravel(hdus[1].data["COUNTS"]).astype(int)
    sky_map = binned_map(counts[None], healpix_pixels(128, False, "galactic"), [2.0, 20.0])
    region = SkyCoord(0 * u.deg, 90 * u.deg, frame="galactic"), 25 * u.deg
    with pytest.warns(UserWarning, match="lie across the model's band edges"):
        catalog = find_sources(sky_map, region=region, threshold=0.9, measure=False)
    assert len(catalog) > 40
    known = read_catalog(real_data / "catalogs/4fgl_dr3_reduced.fits")
    result = match_catalogs(catalog, known, radius=0.5)
    assert len(result.catalog_unmatched) < 0.1 * len(catalog)


# The faces


def test_find_sources_shows_its_options():
    options = inspect.signature(find_sources).parameters
    assert "threshold" in options
    assert options == inspect.signature(detect).parameters
    with pytest.raises(TypeError, match="unexpected keyword argument 'treshold'"):
        find_sources("map.fits", treshold=0.5)


def test_progress_wraps_photons_and_network(sky, capsys):
    names = []

    def progress(iterable, desc):
        names.append(desc)
        return iterable

    region = (CENTER, 1 * u.deg)
    find_sources(sky, region=region, progress=progress)
    assert names == ["photons", "network"]
    capsys.readouterr()
    find_sources(sky, region=region, progress=False)
    assert capsys.readouterr().err == ""
    find_sources(sky, region=region, progress=True)
    assert "network" in capsys.readouterr().err


def classes_of_3fhl(real_data, counts, exposure, **options):
    """Sources of 3FHL on a real map, their classes there, and our probabilities (n, 3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnetlocWarning)  # of coarse pixels, energies and sources
        result = classify_sources(
            real_data / "catalogs/gll_psch_v13.fit.gz", real_data / counts,
            exposure=real_data / exposure, **options,
        )  # fmt: skip
    result = result[~np.ma.getmaskarray(result["Prob_PSR"])]
    reference = QTable({"CLASS": result["CLASS_Ref"]})
    return result, source_classes(reference), probabilities(result)


def test_real_pulsars_near_the_galactic_centre_are_no_agn(real_data):
    part = "gc/fermi-3fhl-gc-{}.fits.gz".format
    result, known, found = classes_of_3fhl(real_data, part("events"), part("exposure-cube"))
    assert np.sum(known == "psr") == 4
    assert np.all(found[known == "psr", 1] > found[known == "psr", 0])
    assert np.sum(known == "other") >= 5  # remnants and nebulae
    assert np.all(result["Class"][known == "other"] != "agn")


@pytest.mark.slow
def test_real_sources_of_3fhl_have_their_classes(real_data):
    """Pixels of 0.9 deg: sources within 1.5 deg of another are left out."""
    part = "3fhl/fermi_3fhl_{}_cube_hpx.fits.gz".format
    counts, exposure = part("counts"), part("exposure")
    result, known, found = classes_of_3fhl(real_data, counts, exposure, exposure_frame="icrs")
    place = result["skycoord"]
    alone = place.match_to_catalog_sky(place, nthneighbor=2)[1] > 1.5 * u.deg
    pair = alone & np.isin(known, ["agn", "psr"])
    true_class = (known[pair] == "psr").astype(int)
    assert true_class.sum() == 28
    scores = class_scores(found[pair], true_class)
    assert scores["AUC"] > 0.94
    assert scores["Balanced_Accuracy"] > 0.88
