import copy
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import astropy  # noqa: F401 (takes over the showing of warnings when first imported)
import numpy as np
import pytest

from astro_unetloc.classification import Classifier
from astro_unetloc.exceptions import InputError
from astro_unetloc.maps.selection import check_domain
from astro_unetloc.pipeline import clustering_config, select_model
from astro_unetloc.unet import model as model_module
from astro_unetloc.unet.model import Model, list_models, load_model


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture
def folder(tmp_path, model):
    """A copy of the shipped model that may be damaged."""
    return shutil.copytree(model.folder, tmp_path / "copy")


def edit_card(folder, **changes):
    card = json.loads((folder / "card.json").read_text()) | changes
    card = {key: value for key, value in card.items() if value is not None}
    (folder / "card.json").write_text(json.dumps(card))


def real_like_patches(n_pix=128, n=3):
    """Patches as of a real map: one of events, one with two bands missing, one half observed."""
    rng = np.random.default_rng(0)
    mean = np.array([0.05, 0.02, 0.008, 0.001, 2e-4])
    counts = rng.poisson(mean, (n, n_pix, n_pix, 5)).astype(np.float32)
    for _ in range(20):
        row, y, x = rng.integers(n), *rng.integers(3, n_pix - 3, 2)
        counts[row, y - 1 : y + 2, x - 1 : x + 2] += rng.poisson(mean * 30, (3, 3, 5))
    edges = np.log10([10, 20, 50, 150, 500, 2000])
    bands = np.stack([np.ones(5), edges[:-1], edges[1:], np.zeros(5)], axis=1)
    bands = np.repeat(bands[None], n, axis=0).astype(np.float32)
    bands[1:2, :2], counts[1:2, ..., :2] = 0, 0
    coverage = np.ones((n, n_pix, n_pix, 1), np.float32)
    coverage[2:3, :, : n_pix // 2], counts[2:3, :, : n_pix // 2] = 0, 0
    return counts, coverage, bands


# Shipped models


def test_default_model_is_shipped(model):
    assert list_models() == ["lat-10gev", "lat-500mev"]
    assert model.name == "lat-10gev"
    assert model.band_edges.tolist() == [10, 20, 50, 150, 500, 2000]
    assert model.classes == ("source", "background")
    assert 0 < model.threshold < 1
    assert model.card["clustering"]["cut"] > 0
    assert len(model.sha256) == 64


@pytest.mark.parametrize("name", list_models())
def test_shipped_model_passes_its_self_test_on_both_paths(name):
    load_model(name).check(keras=True)


@pytest.mark.parametrize("n_pix", [128, 160])
def test_fast_path_equals_keras(model, n_pix):
    inputs = real_like_patches(n_pix)
    fast, slow = (model.predict(*inputs, keras=k) for k in (False, True))
    assert (fast.shape, fast.dtype) == ((3, n_pix, n_pix, 2), np.float32)
    assert fast[..., 0].max() > 0.5
    np.testing.assert_allclose(fast, slow, atol=1e-5)
    np.testing.assert_allclose(fast.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f8", "<i4", ">i4", "u2", "strided"])
def test_arrays_of_any_kind_give_the_same_output(model, kind):
    counts, coverage, bands = real_like_patches(n=2)
    if kind == "strided":
        other = np.moveaxis(np.ascontiguousarray(np.moveaxis(counts, -1, 1)), 1, -1), coverage
        assert not other[0].flags.c_contiguous
    else:
        other = counts.astype(kind), coverage.astype(kind)
    found = model.predict(*other, bands.astype(">f4"))
    np.testing.assert_array_equal(found, model.predict(counts, coverage, bands))


def test_batches_do_not_change_the_output(model):
    inputs = [np.repeat(a, 4, axis=0) for a in real_like_patches()]
    whole = model.predict(*inputs)
    for row in (0, 7, 11):
        alone = model.predict(*(a[row : row + 1] for a in inputs))
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-6)
    counts, coverage, bands = inputs
    assert model.predict(counts[:0], coverage[:0], bands[0]).shape == (0, 128, 128, 2)


@pytest.mark.parametrize("cores", [1, 3])
def test_number_of_threads_does_not_change_the_output(model, cores, monkeypatch):
    inputs = [np.repeat(a, 4, axis=0) for a in real_like_patches()]
    whole = model.predict(*inputs)
    monkeypatch.setattr(model_module, "usable_cores", lambda: cores)
    np.testing.assert_array_equal(model.predict(*inputs), whole)


def test_progress_wraps_the_batches(model):
    seen = []

    def progress(iterable, desc=""):
        seen.append((desc, len(iterable)))
        return iterable

    model.predict(*real_like_patches(), progress=progress)
    assert seen == [("network", 1)]


@pytest.mark.parametrize("shape", [(1, 120, 128, 5), (1, 128, 128, 4), (128, 128, 5)])
def test_images_that_do_not_fit_the_network_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"must be \(n, ny, nx, 5\) .* divisible by 16; got"):
        model.predict(np.zeros(shape), np.zeros((1, 128, 128, 1)), np.zeros((5, 4)))


def test_many_patches_run_on_a_gpu(model, monkeypatch):
    inputs = [np.repeat(a[..., :32, :32, :] if a.ndim == 4 else a, 25, axis=0) for a in
              real_like_patches()]  # fmt: skip
    slow = model.predict(*inputs, keras=False)
    monkeypatch.setattr(model_module, "sees_gpu", lambda: True)  # Keras runs them anywhere
    sizes = [len(part) for _, part in model.predict_batches(*inputs)]
    assert sizes == [64, 11]
    np.testing.assert_allclose(model.predict(*inputs), slow, atol=1e-5)


@pytest.mark.skipif(not list(Path("/dev").glob("nvidia[0-9]*")), reason="no GPU in this machine")
def test_tensorflow_uses_the_gpu(model):
    inputs = [np.repeat(a, 25, axis=0) for a in real_like_patches()]
    assert model_module.sees_gpu()
    np.testing.assert_allclose(
        model.predict(*inputs), model.predict(*inputs, keras=False), atol=1e-3
    )


def test_keras_runs_where_litert_is_missing(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    fresh, inputs = Model(model.folder, model.card), real_like_patches(n=1)
    np.testing.assert_allclose(fresh.predict(*inputs), model.predict(*inputs), atol=1e-5)


# Loading


def test_loading_prints_nothing(capfd):
    load_model().predict(*real_like_patches(n=1))
    assert capfd.readouterr() == ("", "")


def test_model_is_loaded_from_a_folder_or_passed_on(model, folder):
    assert load_model(folder).name == load_model(str(folder)).name == "lat-10gev"
    assert load_model(model) is model


@pytest.mark.parametrize("name", ["lat-10gv", "nothing/here", ""])
def test_unknown_model_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=f"one of the models .*lat-10gev.* got '{name}'; see"):
        load_model(name)


@pytest.mark.parametrize("file", ["unet.keras", "unet.tflite", "probe.npz"])
def test_damaged_or_missing_file_is_refused(folder, file):
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    message = f"{file}: expected sha256 .*; got {{}}; the file is"
    with pytest.raises(InputError, match=message.format("[0-9a-f]{12}")):
        load_model(folder)
    (folder / file).unlink()
    with pytest.raises(InputError, match=message.format("no file")):
        load_model(folder)


def replace_file(folder, file, content):
    """Write a file of a model with its hash in the card."""
    (folder / file).write_bytes(content)
    hashes = json.loads((folder / "card.json").read_text())["sha256"]
    edit_card(folder, sha256=hashes | {file: hashlib.sha256(content).hexdigest()})


def npz(**arrays):
    """Content of a file of arrays."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("unet.tflite", b""),
        ("unet.tflite", b"TFL3" * 100),
        ("probe.npz", b"no zip"),
        ("probe.npz", npz(counts=np.zeros(3))),
        ("probe.npz", npz(counts=np.array([{}], dtype=object))),
        ("probe.npz", npz(counts=np.zeros((1, 16, 16, 5)), probability=np.zeros(10**9, "u1"))),
    ],
)
def test_files_that_hold_something_else_are_refused(folder, file, content):
    replace_file(folder, file, content)
    with pytest.raises(InputError, match="expected a network that runs on its self-test; got "):
        load_model(folder)


def test_network_that_fails_its_self_test_is_refused(folder):
    with np.load(folder / "probe.npz") as probe:
        content = dict(probe)
    content["probability"] = content["probability"] + 0.01
    replace_file(folder, "probe.npz", npz(**content))
    with pytest.raises(InputError, match="stored output of its self-test .*got .*0.01"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"card"', "[" * 100_000, "\udc00", "7"])
def test_file_that_is_no_card_is_refused(folder, text):
    (folder / "card.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match="model card .*: expected"):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "value", "missing"),
    [(k, None, k) for k in ("name", "band_edges_gev", "classes", "clustering", "threshold")]
    + [("sha256", {}, "unet.keras, unet.tflite, probe.npz")],
)
def test_card_without_a_key_is_refused(folder, key, value, missing):
    edit_card(folder, **{key: value})
    with pytest.raises(InputError, match=f"model card .*missing {missing}; make the model again"):
        load_model(folder)


OTHERS = [1, 10**400, "text", [], {}, [1, 2, "a"], [[1, 2]], True, float("nan"), [2, 1], [-1, 5]]


SELECTION = {"DSTYP1": "BIT_MASK(EVENT_CLASS,128,P8R2)", "DSVAL1": "1:1"}


@pytest.mark.parametrize("name", list_models())
def test_value_of_another_kind_in_a_card_is_refused_or_makes_no_fault(tmp_path, name, monkeypatch):
    monkeypatch.setattr(Model, "check", lambda self: None)
    folder = shutil.copytree(load_model(name).folder, tmp_path / "copy")
    card = json.loads((folder / "card.json").read_text())
    keys = [(key,) for key in card] + [
        (key, inner) for key, values in card.items() if isinstance(values, dict) for inner in values
    ]
    refused, taken = set(), []
    for *outer, key in keys:
        for other in OTHERS:
            changed = copy.deepcopy(card)
            part = changed[outer[0]] if outer else changed
            part[key] = other
            (folder / "card.json").write_text(json.dumps(changed))
            try:
                model = load_model(folder)
            except InputError:
                refused.add((*outer, key))
                continue
            taken.append(model)
    for model in taken:
        score = model.calibration.score(np.array([0.5]), np.array([5.0]), np.zeros(1))
        assert np.isfinite([*score, *model.flux_range, model.threshold]).all()
        check_domain(SELECTION, model.band_edges, model.card)
        clustering_config(model)
        if (classifier := Classifier.of(model)) is not None:
            assert np.isfinite(classifier.prior([0.0], [0.0])).all()
            likelihood = np.zeros((1, len(classifier.grid)))
            assert np.isfinite(classifier.probabilities(likelihood, np.ones((1, 3)))[0]).all()
    used = {"name", "band_edges_gev", "classes", "threshold", "clustering", "domain", "sha256"}
    used |= {"calibration", "measured", "least_probability", "classifier", "families", "fractions"}
    assert {key for *_, key in refused} >= used | {"index", "beta", "pivot_gev", "confidence"}


# Choosing

RANGES = {
    "lat-10gev": [(10, 2000), (50, 500), (8, 1000), (1500, 3000), (4000, 9000), (0.1, 0.4),
                  (10, 2000, 3000)],
    "lat-500mev": [(2, 2000), (5, 1000), (0.5, 1000), (1, 100), (2, 20), (0.3, 3, 300)],
}  # fmt: skip


@pytest.mark.parametrize(("edges", "name"), [(e, name) for name in RANGES for e in RANGES[name]])
def test_model_with_the_energies_of_the_map_is_chosen(edges, name):
    assert select_model(np.array(edges, float)).name == name
