import gc

import numpy as np
import pytest
from made_skies import BAND_EDGES, made_patches

from astro_unetloc.datasets import (
    append_patches,
    create_patch_set,
    read_patch_set,
)
from astro_unetloc.training import (
    _batches,
    _split_by_sky,
    fit_network,
    train,
)


def allow_foreign_warnings(test):
    """Let pass those of Keras with TensorFlow, and the open log of an interrupted training."""
    for message in (
        "__array__ implementation:DeprecationWarning",
        "unclosed file:ResourceWarning",
        "Exception ignored:pytest.PytestUnraisableExceptionWarning",
    ):
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return test


N_PIX = 32
TINY = {"widths": (4, 4), "batch_size": 4, "verbose": 0}


# Batches


def make_set(tmp_path, n_skies=3, patches_per_sky=4):
    path = tmp_path / "set.h5"
    create_patch_set(path, n_pix=N_PIX, pixel_deg=0.1, band_edges=BAND_EDGES)
    for seed in range(n_skies):
        append_patches(path, *made_patches(seed, n_patches=patches_per_sky, n_pix=N_PIX))
    return path


def test_training_and_validation_share_no_sky(tmp_path):
    patch_set = read_patch_set(make_set(tmp_path, n_skies=5))
    training_set, validation = _split_by_sky(patch_set, 0.3)
    assert len(training_set["counts"]) == 12
    np.testing.assert_array_equal(validation["counts"], patch_set["counts"][12:])


def test_one_sky_cannot_be_split(tmp_path):
    with pytest.raises(ValueError, match="must hold at least 2 skies, one to validate on; got 1"):
        _split_by_sky(read_patch_set(make_set(tmp_path, n_skies=1)), 0.05)


def test_batches_hold_inputs_and_one_hot_targets(tmp_path):
    patch_set = read_patch_set(make_set(tmp_path))
    patch_set["coverage"][:, :4] = 0
    inputs, target = _batches(patch_set, 4, seed=0, n_batches=2)[0]
    assert inputs["counts"].dtype == inputs["coverage"].dtype == target.dtype == np.float32
    np.testing.assert_array_equal(target.sum(axis=-1, keepdims=True), inputs["coverage"])
    assert 0 < target[..., 0].sum() <= 4 * 16


def test_augmented_images_keep_their_photons_and_stay_aligned(tmp_path):
    patch_set = read_patch_set(make_set(tmp_path))
    batches = _batches(patch_set, 12, seed=0, n_batches=1)
    seen = set()
    for epoch in range(12):
        batches.start(epoch)
        inputs, target = batches[0]
        assert inputs["counts"].sum() == patch_set["counts"].sum()
        bright = inputs["counts"].sum(axis=(0, -1)) > 60  # the square of all patches
        np.testing.assert_array_equal(bright, target[..., 0].any(axis=0))
        seen.add(tuple(np.argwhere(bright)[0]))
    assert len(seen) == 4  # the corners


def test_every_patch_is_seen_once_in_a_round(tmp_path):
    patch_set = read_patch_set(make_set(tmp_path))
    patch_set["bands"] = np.arange(12, dtype=np.float32)[:, None, None] * np.ones((12, 5, 4))
    batches = _batches(patch_set, 4, seed=0, n_batches=3)
    seen = np.concatenate([batches[i][0]["bands"][:, 0, 0] for i in range(3)])
    assert sorted(seen) == list(range(12))


def test_validation_sees_every_patch_even_of_a_part_batch(tmp_path):
    batches = _batches(read_patch_set(make_set(tmp_path)), 5, seed=0)
    assert [len(batches[i][1]) for i in range(len(batches))] == [5, 5, 2]


# Training


def history(folder):
    return np.genfromtxt(folder / "history.csv", delimiter=",", names=True)


@allow_foreign_warnings
def test_training_is_reproducible_and_resumed_as_if_never_stopped(tmp_path, monkeypatch):
    import keras

    path = make_set(tmp_path)
    options = {"epochs": 2, "steps_per_epoch": 2, "rng": 3, **TINY}
    whole = fit_network(path, tmp_path / "whole", **options)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    plain = keras.callbacks.ModelCheckpoint
    monkeypatch.setattr(keras.callbacks, "ModelCheckpoint", lambda path: Stop())
    with pytest.raises(KeyboardInterrupt):
        fit_network(path, tmp_path / "resumed", **options)
    monkeypatch.setattr(keras.callbacks, "ModelCheckpoint", plain)
    resumed = fit_network(path, tmp_path / "resumed", **options)
    gc.collect()  # closes the log of the interrupted training here
    assert history(tmp_path / "resumed")["epoch"].tolist() == [0, 1]
    np.testing.assert_allclose(
        history(tmp_path / "resumed")["loss"], history(tmp_path / "whole")["loss"], rtol=1e-4
    )
    for first, again in zip(whole.get_weights(), resumed.get_weights()):
        np.testing.assert_allclose(first, again, atol=1e-4)


@allow_foreign_warnings
def test_trained_model_is_a_whole_folder_with_an_equal_twin(tmp_path):
    path = make_set(tmp_path)
    options = {"epochs": 1, "steps_per_epoch": 2, "rng": 1, **TINY}
    model = train(path, tmp_path / "model", threshold=0.4, **options)
    assert model.name == "model"
    assert model.threshold == 0.4
    assert model.card["training"]["seed"] == 1
    assert model.card["training"]["patch_set"] == "set.h5"
    assert model.card["training"]["widths"] == [4, 4]
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "card.json", "unet.keras", "unet.tflite", "probe.npz", "training"
    }  # fmt: skip
    patch_set = read_patch_set(path)
    for n_pix in (N_PIX, 128, 160):
        counts = np.resize(patch_set["counts"], (3, n_pix, n_pix, 5))
        coverage = np.ones((3, n_pix, n_pix, 1))
        fast, slow = (
            model.predict(counts, coverage, patch_set["bands"][:3], keras=k) for k in (False, True)
        )
        np.testing.assert_allclose(fast, slow, atol=1e-5)
    with pytest.raises(FileExistsError, match="must not hold a model; got .*; choose another"):
        train(path, tmp_path / "model", **options)


def test_training_needs_a_patch_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such patch set"):
        train(tmp_path / "nothing.h5", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@allow_foreign_warnings
def test_trained_network_finds_what_it_was_shown(tmp_path):
    path = make_set(tmp_path, n_skies=10, patches_per_sky=8)
    network = fit_network(
        path, tmp_path / "fit", epochs=6, steps_per_epoch=40, learning_rate=5e-3, **TINY
    )
    columns, _ = made_patches(99, n_patches=4, n_pix=N_PIX)
    inputs = {n: columns[n].astype(np.float32) for n in ("counts", "coverage", "bands")}
    probability = network.predict(inputs, verbose=0)[..., :1]
    assert probability[columns["mask"] == 1].mean() > 0.8
    assert probability[columns["mask"] == 0].mean() < 0.05
