"""The U-Net that labels the pixels of point sources (arXiv:1505.04597), in stock Keras layers.

The same code runs on TensorFlow, JAX and PyTorch (``KERAS_BACKEND``).
"""

import os
import subprocess
import sys
from importlib.metadata import version

import keras
from keras import layers, ops

from astro_unetloc.exceptions import InputError


def _conv(x, n_filters, kernel, *, name):
    """Convolution, batch normalization and ReLU."""
    x = layers.Conv2D(n_filters, kernel, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def _block(x, n_filters, *, name):
    """Two convolutions."""
    x = _conv(x, n_filters, 3, name=f"{name}_1")
    return _conv(x, n_filters, 3, name=f"{name}_2")


def _modulate(x, context, n_filters, *, name):
    """Scale and shift feature maps by what is known of the whole patch (FiLM, arXiv:1709.07871)."""
    scale = layers.Dense(n_filters, bias_initializer="ones", name=f"{name}_scale")(context)
    shift = layers.Dense(n_filters, name=f"{name}_shift")(context)
    scale = layers.Reshape((1, 1, n_filters), name=f"{name}_scale_map")(scale)
    shift = layers.Reshape((1, 1, n_filters), name=f"{name}_shift_map")(shift)
    x = layers.Multiply(name=f"{name}_multiply")([x, scale])
    return layers.Add(name=f"{name}_add")([x, shift])


def build_unet(*, n_band=5, n_class=2, widths=(32, 48, 64, 96), head_width=8, first_kernel=7):
    """Return the network, untrained, for images of sizes divisible by ``2 ** len(widths)``.

    The first convolution has a stride of two: the U-Net works at half the resolution, where a
    feature costs a quarter. The head doubles the resolution again and joins the input.

    Parameters
    ----------
    n_band : int
        Energy bands.
    n_class : int
        Classes, background included.
    widths : sequence of int
        Filters of each level, the first at half the resolution of the input.
    head_width : int
        Filters at the resolution of the input.
    first_kernel : int
        Width of the first kernel in pixels.

    Returns
    -------
    keras.Model
        Inputs "counts" (n, ny, nx, n_band), "coverage" (n, ny, nx, 1), "bands" (n, n_band, 4);
        output "probability" (n, ny, nx, n_class), a softmax over the classes.

    Raises
    ------
    ValueError
        If there are fewer than two levels.
    """
    if len(widths) < 2:
        raise InputError(f"widths must name at least two levels; got {widths}; add one")
    counts = keras.Input((None, None, n_band), name="counts")
    coverage = keras.Input((None, None, 1), name="coverage")
    bands = keras.Input((n_band, 4), name="bands")

    context = layers.Flatten(name="bands_flat")(bands)
    context = layers.Dense(32, activation="relu", name="context_1")(context)
    context = layers.Dense(32, activation="relu", name="context_2")(context)

    planes = layers.Concatenate(name="input_planes")([ops.log(counts + 1.0), coverage])
    stem = {"strides": 2, "padding": "same", "use_bias": False, "name": "stem_conv"}
    x = layers.Conv2D(widths[0], first_kernel, **stem)(planes)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = _modulate(x, context, widths[0], name="stem_film")
    x = layers.Activation("relu", name="stem_relu")(x)
    x = _conv(x, widths[0], 3, name="down0")
    skips = []
    for level, width in enumerate(widths[1:], start=1):
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
        x = _block(x, width, name=f"down{level}")
    x = _modulate(x, context, widths[-1], name="bottom_film")
    for level in reversed(range(len(widths) - 1)):
        x = layers.Conv2DTranspose(widths[level], 2, strides=2, name=f"up{level}_conv")(x)
        x = layers.Concatenate(name=f"up{level}_join")([x, skips[level]])
        x = _block(x, widths[level], name=f"up{level}")
    x = layers.Conv2DTranspose(head_width, 2, strides=2, name="head_up")(x)
    x = layers.Concatenate(name="head_join")([x, planes])
    x = layers.Conv2D(head_width, 3, padding="same", activation="relu", name="head_conv")(x)
    # probabilities in single precision, whatever the features are computed in
    last = {"activation": "softmax", "name": "probability", "dtype": "float32"}
    probability = layers.Conv2D(n_class, 1, **last)(x)
    return keras.Model([counts, coverage, bands], probability, name="unet")


def masked_cross_entropy(target, probability):
    """Return the cross-entropy (n, ny, nx) of one-hot classes and probabilities (..., n_class).

    The classes are multiplied by the weight of the pixel, zero where nothing was observed.
    """
    return -ops.sum(target * ops.log(ops.clip(probability, 1e-7, 1.0)), axis=-1)


def dice_loss(target, probability):
    """Return one minus the overlap (n,) of true and predicted source pixels in each patch.

    The soft Dice loss (arXiv:1606.04797, section 3) of arrays as for `masked_cross_entropy`.
    """
    weight = ops.sum(target, axis=-1, keepdims=True)
    true, found = target[..., :-1], probability[..., :-1] * weight
    overlap, both = (ops.sum(image, axis=(1, 2, 3)) for image in (true * found, true**2 + found**2))
    # one more pixel in both keeps patches without a source finite
    return 1.0 - (2.0 * overlap + 1.0) / (both + 1.0)


LOSSES = {"cross-entropy": masked_cross_entropy, "dice": dice_loss}


def keras_backend():
    """Return the names and versions of Keras and its backend, as text."""
    backend = keras.backend.backend()
    return f"keras {keras.__version__}, {backend} {version(backend)}"


def export_litert(keras_file, path):
    """Convert a saved network, ``.keras``, to LiteRT, ``.tflite``.

    TensorFlow converts it, whatever Keras backend trained the network: in a process of its own
    if that is another one, since a process has one backend.
    """
    if keras.backend.backend() == "tensorflow":
        network = keras.saving.load_model(keras_file, compile=False)
        network.export(path, format="litert", verbose=False)
        return
    code = f"import sys; from {__name__} import export_litert as f; f(*sys.argv[1:])"
    run = subprocess.run(
        [sys.executable, "-c", code, str(keras_file), str(path)],
        env=os.environ | {"KERAS_BACKEND": "tensorflow"}, capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"TensorFlow must turn {keras_file} into {path}; got {last}; install tensorflow"
        )
