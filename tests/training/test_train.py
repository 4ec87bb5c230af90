import gc

import numpy as np
import pytest
from made_sets import write_made_set
from made_skies import made_patches

from astro_unetloc.training.patch_set import open_patch_set, read_patch_set
from astro_unetloc.training.train import _batches, _begin, _subsets, _targets, fit_network, train


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


def make_set(tmp_path, n_skies=3, patches_per_sky=4, **options):
    path = tmp_path / "set.h5"
    write_made_set(path, range(n_skies), n_patches=patches_per_sky, n_pix=N_PIX, **options)
    return path


def batches_of(patch_set, batch_size, **options):
    """Batches of a set in memory."""
    columns = ("counts", "coverage", "mask", "bands")
    return _batches(
        lambda rows: {n: patch_set[n][rows] for n in columns},
        len(patch_set["counts"]),
        batch_size,
        **options,
    )


def test_training_and_validation_share_no_sky(tmp_path):
    with open_patch_set(make_set(tmp_path, n_skies=7)) as patch_set:
        training, validation = _subsets(patch_set, 100)
        assert set(patch_set.read(training)["sky"]) == {1, 2, 3, 4, 6}
        assert validation.tolist() == [0, 1, 2, 3, 20, 21, 22, 23]


def test_few_patches_to_validate_on_come_from_all_skies(tmp_path):
    with open_patch_set(make_set(tmp_path, n_skies=7)) as patch_set:
        assert _subsets(patch_set, 4)[1].tolist() == [0, 2, 20, 22]


@pytest.mark.parametrize("seeds", [[0], [1, 2, 3]])
def test_set_of_one_subset_cannot_be_trained_on(tmp_path, seeds):
    write_made_set(tmp_path / "set.h5", seeds, n_patches=2, n_pix=N_PIX)
    with pytest.raises(ValueError, match="must hold skies to train on and, .* simulate five skies"):
        fit_network(tmp_path / "set.h5", tmp_path / "fit", **TINY)
    assert not (tmp_path / "fit").exists()


def test_pixel_near_sources_of_two_classes_is_shared_and_unseen_ones_count_nothing():
    mask = np.array([[1, 1], [0, 1], [0, 0], [1, 0]], np.float32).reshape(1, 2, 2, 2)
    coverage = np.array([1, 1, 1, 0], np.float32).reshape(1, 2, 2, 1)
    target = _targets(mask, coverage).reshape(4, 3)
    np.testing.assert_array_equal(target, [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_batches_hold_inputs_and_one_hot_targets(tmp_path):
    patch_set = read_patch_set(make_set(tmp_path))
    patch_set["coverage"][:, :4] = 0
    inputs, target = batches_of(patch_set, 4, seed=0, n_batches=2)[0]
    assert inputs["counts"].dtype == inputs["coverage"].dtype == target.dtype == np.float32
    np.testing.assert_array_equal(target.sum(axis=-1, keepdims=True), inputs["coverage"])
    assert 0 < target[..., 0].sum() <= 4 * 16


def test_augmented_images_keep_their_photons_and_stay_aligned(tmp_path):
    patch_set = read_patch_set(make_set(tmp_path))
    batches = batches_of(patch_set, 12, seed=0, n_batches=1)
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
    batches = batches_of(patch_set, 4, seed=0, n_batches=3)
    seen = np.concatenate([batches[i][0]["bands"][:, 0, 0] for i in range(3)])
    assert sorted(seen) == list(range(12))


def test_validation_sees_every_patch_even_of_a_part_batch(tmp_path):
    batches = batches_of(read_patch_set(make_set(tmp_path)), 5, seed=0)
    assert [len(batches[i][1]) for i in range(len(batches))] == [5, 5, 2]


# Training


def history(folder):
    return np.genfromtxt(folder / "history.csv", delimiter=",", names=True)


def test_interrupted_training_is_resumed_with_the_same_options_only(tmp_path):
    folder, log = tmp_path / "training", tmp_path / "training" / "history.csv"
    recipe = {"patch_set": "set.h5", "widths": (4, 4), "epochs": 2}
    _begin(folder, recipe)
    log.write_text("of a finished training\n")
    _begin(folder, recipe | {"epochs": 3})
    assert not log.exists()
    (folder / "backup").mkdir()
    (folder / "backup" / "latest.weights.h5").touch()
    log.write_text("of an interrupted training\n")
    with pytest.raises(ValueError, match="its own options, epochs 3; got epochs 2; give the same"):
        _begin(folder, recipe)
    _begin(folder, recipe | {"epochs": 3})
    assert log.exists()


@pytest.mark.slow
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
    assert model.card["training"]["learning_rate"] == 2e-3  # also what was not given
    assert model.card["training"]["hours"] >= 0
    assert model.flux_range == (10, 1000)
    assert model.card["clustering"]["radius_pix"] == 2
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


@pytest.mark.slow
@allow_foreign_warnings
def test_training_stops_when_the_validation_loss_does_not_fall(tmp_path):
    path = make_set(tmp_path)
    # steps so large that nothing is learned
    options = {"epochs": 8, "steps_per_epoch": 1, "learning_rate": 10.0, "patience": 1, **TINY}
    fit_network(path, tmp_path / "run", **options)
    assert len(history(tmp_path / "run")) < 8
    assert (tmp_path / "run" / "history.png").stat().st_size > 1000


@pytest.mark.slow
@allow_foreign_warnings
def test_mixed_precision_gives_a_network_of_single_precision(tmp_path):
    import keras

    path = make_set(tmp_path)
    options = {"epochs": 1, "steps_per_epoch": 1, "mixed_precision": True, **TINY}
    network = fit_network(path, tmp_path / "run", **options)
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert np.isfinite(history(tmp_path / "run")["loss"]).all()


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
    assert probability[columns["mask"] == 1].mean() > 0.6
    assert probability[columns["mask"] == 0].mean() < 0.05


def test_an_unknown_loss_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="loss must be one of cross-entropy, .*got 'hinge'"):
        fit_network(tmp_path / "absent.h5", tmp_path / "run", loss="hinge")


@pytest.mark.slow
@allow_foreign_warnings
def test_another_loss_trains_another_network(tmp_path):
    path = make_set(tmp_path)
    options = {"epochs": 1, "steps_per_epoch": 1, **TINY}
    plain, dice = (
        fit_network(path, tmp_path / loss, loss=loss, **options).get_weights()
        for loss in ("cross-entropy", "dice")
    )
    assert not np.array_equal(plain[0], dice[0])
