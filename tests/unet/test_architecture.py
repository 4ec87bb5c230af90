import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from astro_unetloc.unet.architecture import (
    LOSSES,
    build_unet,
    dice_loss,
    export_litert,
    keras_backend,
    masked_cross_entropy,
)

TINY = {"widths": (4, 6, 8, 8), "head_width": 4, "first_kernel": 3}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    return build_unet(**TINY)


def make_inputs(ny, nx, n=2):
    rng = np.random.default_rng(0)
    return {
        "counts": rng.poisson(0.2, (n, ny, nx, 5)).astype(np.float32),
        "coverage": np.ones((n, ny, nx, 1), np.float32),
        "bands": rng.random((n, 5, 4)).astype(np.float32),
    }


@pytest.mark.parametrize(("ny", "nx"), [(128, 128), (160, 160), (32, 48)])
def test_probabilities_of_any_size_sum_to_one(network, ny, nx):
    probability = network.predict_on_batch(make_inputs(ny, nx))
    assert probability.shape == (2, ny, nx, 2)
    assert np.all(probability >= 0)
    np.testing.assert_allclose(probability.sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["counts", "coverage", "bands"])
def test_output_depends_on_every_input(network, name):
    inputs = make_inputs(32, 32)
    changed = inputs | {name: inputs[name] + 1 if name == "counts" else 1 - inputs[name]}
    first, second = (network.predict_on_batch(i) for i in (inputs, changed))
    assert np.abs(first - second).max() > 1e-4


def test_other_numbers_of_bands_and_classes_are_built():
    network = build_unet(n_band=3, n_class=3, **TINY)
    shapes = {"counts": (None, None, None, 3), "coverage": (None, None, None, 1)}
    assert {i.name: i.shape for i in network.inputs} == shapes | {"bands": (None, 3, 4)}
    assert network.output_shape == (None, None, None, 3)


def test_one_level_is_refused():
    with pytest.raises(ValueError, match="widths must name at least two levels"):
        build_unet(widths=(4,))


# Loss


def loss(target, probability, function=masked_cross_entropy):
    arrays = (np.array(a, np.float32).reshape(1, 1, -1, 2) for a in (target, probability))
    return np.asarray(function(*arrays)).ravel()


@pytest.mark.parametrize(
    ("target", "probability", "expected"),
    [
        ([[1, 0], [0, 1]], [[0.25, 0.75], [0.25, 0.75]], [np.log(4), np.log(4 / 3)]),
        ([[1, 0]], [[1, 0]], 0),  # certain and correct
        ([[1, 0]], [[0, 1]], -np.log(1e-7)),  # certain and wrong: large, and finite
        ([[0, 0]], [[0.5, 0.5]], 0),  # without weight
        ([[3, 0]], [[0.5, 0.5]], 3 * np.log(2)),
    ],
)
def test_cross_entropy_is_minus_the_weighted_logarithm_of_the_true_class(
    target, probability, expected
):
    np.testing.assert_allclose(loss(target, probability), expected, rtol=1e-5, atol=1e-6)


def test_dice_loss_is_one_minus_the_overlap():
    # three source pixels, two of them found, and a false one: 2 * 2 + 1 of 3 + 3 + 1
    target = [[1, 0], [1, 0], [1, 0], [0, 1]]
    found = [[1, 0], [1, 0], [0, 1], [1, 0]]
    np.testing.assert_allclose(loss(target, found, dice_loss), [1 - 5 / 7], rtol=1e-6)
    for same in (target, [[0, 1]]):
        np.testing.assert_allclose(loss(same, same, dice_loss), [0], atol=1e-6)


@pytest.mark.parametrize("function", LOSSES.values())
def test_what_was_not_observed_costs_nothing(function):
    target, observed = [[1, 0], [0, 1], [0, 0]], [[0.7, 0.3], [0.1, 0.9]]
    first, second = (loss(target, [*observed, p], function) for p in ([0.1, 0.9], [0.8, 0.2]))
    np.testing.assert_allclose(first, second, atol=1e-6)


# LiteRT


def run_here(command, *, env, **options):
    """Stand-in for `subprocess.run`: runs the code of ``python -c`` in this process."""
    assert env["KERAS_BACKEND"] == "tensorflow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "tensorflow")
        patch.setattr(sys, "argv", ["-c", *command[3:]])
        exec(command[2], {})
    return SimpleNamespace(returncode=0)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:ResourceWarning")
@pytest.mark.parametrize("in_process", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_litert_of_a_network_of_another_backend_is_the_same(tmp_path, monkeypatch, in_process):
    from ai_edge_litert.interpreter import Interpreter

    network, paths = build_unet(widths=(2, 2), head_width=2), ("unet.keras", "unet.tflite")
    network.save(tmp_path / paths[0])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    if in_process:
        monkeypatch.setattr("subprocess.run", run_here)
    export_litert(*(tmp_path / path for path in paths))
    run = Interpreter(str(tmp_path / paths[1])).get_signature_runner()
    inputs = make_inputs(32, 32)
    monkeypatch.undo()
    expected = network.predict_on_batch(inputs)
    np.testing.assert_allclose(run(**inputs)["output_0"], expected, atol=1e-6)


def test_failed_export_by_another_backend_is_one_line(monkeypatch, tmp_path):
    failed = SimpleNamespace(returncode=1, stderr="Traceback\nImportError: no tensorflow\n")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr("subprocess.run", lambda *args, **options: failed)
    with pytest.raises(RuntimeError, match="must turn .*; got ImportError: no tensorflow; install"):
        export_litert(tmp_path / "unet.keras", tmp_path / "unet.tflite")


def test_backend_is_named_with_its_versions():
    assert keras_backend().startswith("keras 3.")
    assert ", " in keras_backend()
