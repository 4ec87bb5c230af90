import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from made_sets import damage_set, write_made_set
from made_skies import made_patches

from astro_unetloc.exceptions import InputError
from astro_unetloc.files import locked_folder
from astro_unetloc.training.patch_set import open_patch_set
from astro_unetloc.training.train import (
    _batches,
    _flux_range,
    _subsets,
    _targets,
    fit_network,
    train,
)
from astro_unetloc.unet.architecture import build_unet


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


def make_set(tmp_path, seeds=range(3), n_patches=4):
    return write_made_set(tmp_path / "set.h5", seeds, n_patches=n_patches, n_pix=N_PIX)


@pytest.fixture(scope="module")
def patch_set(tmp_path_factory):
    """An open set of three skies of four patches, which nothing changes."""
    with open_patch_set(make_set(tmp_path_factory.mktemp("sets"))) as patch_set:
        yield patch_set


def test_training_and_validation_share_no_sky(tmp_path):
    with open_patch_set(make_set(tmp_path, range(7))) as patch_set:
        training, validation = _subsets(patch_set, 100)
        assert set(patch_set.read(training)["sky"]) == {1, 2, 3, 4, 6}
        assert validation.tolist() == [0, 1, 2, 3, 20, 21, 22, 23]
        # few patches come from all skies
        assert _subsets(patch_set, 4)[1].tolist() == [0, 2, 20, 22]


@pytest.mark.parametrize("seeds", [[0], [1, 2, 3]])
def test_set_of_one_subset_cannot_be_trained_on(tmp_path, seeds):
    path = make_set(tmp_path, seeds)
    with pytest.raises(ValueError, match="must hold skies to train on and, .* simulate five skies"):
        fit_network(path, tmp_path / "fit", **TINY)
    assert not (tmp_path / "fit").exists()


def test_pixel_near_sources_of_two_classes_is_shared_and_unseen_ones_count_nothing():
    mask = np.array([[1, 1], [0, 1], [0, 0], [1, 0]], np.float32).reshape(1, 2, 2, 2)
    coverage = np.array([1, 1, 1, 0], np.float32).reshape(1, 2, 2, 1)
    target = _targets(mask, coverage).reshape(4, 3)
    np.testing.assert_array_equal(target, [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])


def test_augmented_images_keep_their_photons_and_stay_aligned(patch_set):
    batches = _batches(patch_set, np.arange(12), 12, seed=0, n_batches=1)
    seen = set()
    for epoch in range(12):
        batches.start(epoch)
        inputs, target = batches[0]
        assert inputs["counts"].dtype == inputs["coverage"].dtype == target.dtype == np.float32
        assert inputs["counts"].sum() == patch_set.read()["counts"].sum()
        np.testing.assert_array_equal(target.sum(axis=-1, keepdims=True), inputs["coverage"])
        bright = inputs["counts"].sum(axis=(0, -1)) > 60  # the square of all patches
        np.testing.assert_array_equal(bright, target[..., 0].any(axis=0))
        seen.add(tuple(np.argwhere(bright)[0]))
    assert len(seen) == 4  # the corners


def photons_of(batch):
    """Photons of each patch of a batch; they differ from patch to patch."""
    return batch[0]["counts"].sum(axis=(1, 2, 3)).tolist()


def test_every_patch_is_seen_once_in_a_round(patch_set):
    whole = sorted(patch_set.read()["counts"].sum(axis=(1, 2, 3)))
    batches = _batches(patch_set, np.arange(12), 4, seed=0, n_batches=3)
    assert sorted(sum([photons_of(batches[i]) for i in range(3)], [])) == whole
    validation = _batches(patch_set, np.arange(12), 5, seed=0)
    assert [len(photons_of(validation[i])) for i in range(len(validation))] == [5, 5, 2]


@pytest.mark.parametrize(("n_rows", "sizes"), [(12, [8, 4]), (10, [16, 4]), (9, [32, 4])])
def test_devices_divide_all_batches_and_every_patch_counts_the_same(patch_set, n_rows, sizes):
    batches = _batches(patch_set, np.arange(n_rows), 8, seed=0, n_devices=4)
    found = [photons_of(batches[i]) for i in range(len(batches))]
    assert [len(batch) for batch in found] == sizes
    once = patch_set.read(slice(n_rows))["counts"].sum(axis=(1, 2, 3))
    assert sorted(sum(found, [])) == sorted(np.repeat(once, sum(sizes) // n_rows))


# Training


def history(folder):
    return np.genfromtxt(folder / "history.csv", delimiter=",", names=True)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, patch_set):
    """Options and folder of a training that was stopped in its third epoch, and its whole twin."""
    import keras

    folder = tmp_path_factory.mktemp("trainings")
    # three patches are scored, which two devices cannot divide
    options = {"epochs": 3, "steps_per_epoch": 1, "rng": 3, "max_validation": 3, **TINY}
    whole, _ = fit_network(patch_set.path, folder / "whole", **options)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.callbacks, "ModelCheckpoint", lambda path: Stop())
        with pytest.raises(KeyboardInterrupt):
            fit_network(patch_set.path, folder / "stopped", **options)
    return options, folder / "stopped", whole.get_weights(), history(folder / "whole")


# Trains, and resumes what was begun on one device, on two.
ON_TWO_DEVICES = """
import json, logging, sys
from pathlib import Path
import numpy as np, tensorflow as tf
from astro_unetloc.training.train import fit_network

logging.basicConfig(level=logging.INFO)
path, folder, options, kind = *map(Path, sys.argv[1:3]), json.loads(sys.argv[3]), sys.argv[4]
if kind == "CPU":
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
for name in ("two", "stopped"):
    network, _ = fit_network(path, folder / name, **options)
    np.savez(folder / f"{name}.npz", *network.get_weights())
"""
N_GPU = len(list(Path("/dev").glob("nvidia[0-9]*")))
TWO_GPUS = pytest.mark.skipif(N_GPU < 2, reason=f"{N_GPU} GPUs in this machine, two are needed")


@pytest.mark.slow
@allow_foreign_warnings
@pytest.mark.parametrize("kind", ["CPU", pytest.param("GPU", marks=TWO_GPUS)])
def test_training_on_two_devices_is_that_on_one(interrupted, patch_set, tmp_path, kind):
    options, stopped, weights, epochs = interrupted
    shutil.copytree(stopped, tmp_path / "stopped")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"CUDA_VISIBLE_DEVICES": "" if kind == "CPU" else "0,1"}
    words = [str(patch_set.path), str(tmp_path), json.dumps(options), kind]
    command = [sys.executable, "-c", ON_TWO_DEVICES, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("each batch is divided among 2 devices") == 2
    again = shutil.copytree(tmp_path / "two", tmp_path / "again")  # its third epoch on one device
    for state in again.glob("backup/*2.*"):
        state.unlink()
    network, _ = fit_network(patch_set.path, again, **options)
    np.savez(tmp_path / "again.npz", *network.get_weights())
    for name in ("two", "stopped", "again"):
        found = history(tmp_path / name)
        for loss in ("loss", "val_loss"):
            np.testing.assert_allclose(found[loss], epochs[loss], rtol=1e-5, err_msg=name)
        with np.load(tmp_path / f"{name}.npz") as found:
            for first, again in zip(weights, found.values(), strict=True):
                np.testing.assert_allclose(first, again, atol=1e-5)


def slow(*damage):
    return pytest.param(*damage, marks=pytest.mark.slow)


@allow_foreign_warnings
@pytest.mark.parametrize(
    ("damaged", "fraction", "n_kept"),
    [
        slow("history.csv", 0.95, 2),
        ("backup/*1.weights.h5", 0.5, 1),
        slow("backup/*1.weights.json", 0, 1),
        slow("backup/*.h5", 0.9, 0),
    ],
)
def test_training_goes_on_from_the_last_whole_state_as_if_never_stopped(
    interrupted, patch_set, tmp_path, damaged, fraction, n_kept
):
    options, stopped, weights, epochs = interrupted
    folder = shutil.copytree(stopped, tmp_path / "resumed")
    for path in folder.glob(damaged):
        os.truncate(path, int(path.stat().st_size * fraction))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed, _ = fit_network(patch_set.path, folder, **options)
    n_warned = sum("is damaged, " in str(item.message) for item in caught)
    assert n_warned == 2 - n_kept
    found = history(folder)
    assert found["epoch"].tolist() == [0, 1, 2]
    assert found["seconds"][:n_kept].tolist() == history(stopped)["seconds"][:n_kept].tolist()
    np.testing.assert_allclose(found["loss"], epochs["loss"], rtol=1e-4)
    for first, again in zip(weights, resumed.get_weights()):
        np.testing.assert_allclose(first, again, atol=1e-4)


@allow_foreign_warnings
def test_training_is_resumed_with_its_own_options_and_begun_with_a_network_of_its_size(
    interrupted, patch_set, tmp_path
):
    options, stopped, _, _ = interrupted
    with pytest.raises(ValueError, match="its own options; got epochs 3, not 4; give the same"):
        fit_network(patch_set.path, stopped, **options | {"epochs": 4})
    other = write_made_set(tmp_path / "set.h5", [0, 1, 4], n_patches=4, n_pix=N_PIX)
    with pytest.raises(ValueError, match="its own options; got patch_set_id '.*', not '.*'; give"):
        fit_network(other, stopped, **options)
    (tmp_path / "text.keras").write_text("hello")
    build_unet(widths=(6, 4)).save(tmp_path / "wide.keras")
    with ZipFile(tmp_path / "bomb.keras", "w", ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(10**7))
    os.mkfifo(tmp_path / "pipe.keras")
    for initial in (*os.listdir(tmp_path), "none.keras", patch_set.path):
        with pytest.raises(ValueError, match=r"initial must be a .keras file .*; choose another"):
            fit_network(patch_set.path, tmp_path / "fit", initial=tmp_path / initial, **options)
    assert not (tmp_path / "fit").exists()


@allow_foreign_warnings
def test_trained_model_is_a_whole_folder_with_an_equal_twin(tmp_path, patch_set, capfd):
    options = {"epochs": 1, "steps_per_epoch": 1, "rng": 1, **TINY}
    model = train(patch_set.path, tmp_path / "model", threshold=0.4, **options)
    assert "output_format" not in capfd.readouterr().err  # of TensorFlow's export
    assert (model.name, model.threshold, model.flux_range) == ("model", 0.4, (10, 1000))
    assert model.card["clustering"]["radius_pix"] == 2
    training = model.card["training"]
    expected = {"seed": 1, "patch_set": "set.h5", "widths": [4, 4]}
    expected |= {"learning_rate": 2e-3}  # also what was not given
    assert {name: training[name] for name in expected} == expected
    assert training["hours"] >= 0
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "card.json", "unet.keras", "unet.tflite", "probe.npz", "training"
    }  # fmt: skip
    columns = patch_set.read(slice(3))
    for n_pix in (N_PIX, 160):
        counts = np.resize(columns["counts"], (3, n_pix, n_pix, 5))
        coverage = np.ones((3, n_pix, n_pix, 1))
        fast, slow = (
            model.predict(counts, coverage, columns["bands"], keras=k) for k in (False, True)
        )
        np.testing.assert_allclose(fast, slow, atol=1e-5)
    with pytest.raises(FileExistsError, match="must not hold a model; got .*; choose another"):
        train(patch_set.path, tmp_path / "model", **options)


@pytest.mark.parametrize(
    ("bands", "flux_range"),
    [((10, 2000), (10, 1000)), ((0.5, 1000), (1, 100)), ((30, 2000), (30, 1000)),
     ((5, 300), (5, 300)), ((700, 2000), (700, 1400)), ((2, 50), (2, 50))],
)  # fmt: skip
def test_flux_is_in_energies_of_the_model(bands, flux_range):
    assert tuple(_flux_range(*bands)) == flux_range


@pytest.mark.slow
@allow_foreign_warnings
def test_damage_that_a_training_meets_is_an_error_of_one_line(tmp_path):
    path = make_set(tmp_path)
    damage_set(path, "counts")  # of a patch to validate on, read by a thread of TensorFlow
    with pytest.raises(InputError, match="expected a whole patch set; .*; make it again"):
        fit_network(path, tmp_path / "fit", epochs=1, steps_per_epoch=1, **TINY)


@pytest.mark.slow
@allow_foreign_warnings
def test_training_stops_when_the_validation_loss_does_not_fall(tmp_path, patch_set):
    # steps so large that nothing is learned
    options = {"epochs": 8, "steps_per_epoch": 1, "learning_rate": 10.0, "patience": 1, **TINY}
    fit_network(patch_set.path, tmp_path / "run", **options)
    assert len(history(tmp_path / "run")) < 8
    assert (tmp_path / "run" / "history.png").stat().st_size > 1000


@pytest.mark.slow
@allow_foreign_warnings
def test_mixed_precision_and_another_loss_give_another_network_of_single_precision(
    tmp_path, patch_set
):
    import keras

    options = {"epochs": 1, "steps_per_epoch": 1, **TINY}
    plain, network, dice = (
        fit_network(patch_set.path, tmp_path / str(more), **options | more)[0]
        for more in ({}, {"mixed_precision": True}, {"loss": "dice"})
    )
    assert not np.array_equal(plain.get_weights()[0], dice.get_weights()[0])
    plain.save(tmp_path / "plain.keras")
    more = {"initial": tmp_path / "plain.keras", "learning_rate": 1e-9}
    same, _ = fit_network(patch_set.path, tmp_path / "same", **options | more)
    np.testing.assert_allclose(same.get_weights()[0], plain.get_weights()[0], atol=1e-6)
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert np.isfinite(history(tmp_path / "{'mixed_precision': True}")["loss"]).all()


@pytest.mark.slow
@allow_foreign_warnings
def test_trained_network_finds_what_it_was_shown(tmp_path):
    path = make_set(tmp_path, range(10), n_patches=8)
    options = {"epochs": 6, "steps_per_epoch": 40, "learning_rate": 5e-3, **TINY}
    network, _ = fit_network(path, tmp_path / "fit", **options)
    columns, _ = made_patches(99, n_patches=4, n_pix=N_PIX)
    inputs = {n: columns[n].astype(np.float32) for n in ("counts", "coverage", "bands")}
    probability = network.predict(inputs, verbose=0)[..., :1]
    assert probability[columns["mask"] == 1].mean() > 0.6
    assert probability[columns["mask"] == 0].mean() < 0.05


def test_input_is_checked_before_anything_is_made(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such patch set"):
        train(tmp_path / "nothing.h5", tmp_path / "model")
    with locked_folder(tmp_path / "model"), pytest.raises(InputError, match="in use by another"):
        train(make_set(tmp_path), tmp_path / "model")
    (tmp_path / "set.h5").unlink()
    with pytest.raises(ValueError, match="loss must be one of cross-entropy, .*got 'hinge'"):
        fit_network(tmp_path / "absent.h5", tmp_path / "run", loss="hinge")
    assert os.listdir(tmp_path) == []
