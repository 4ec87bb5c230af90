"""The training loop: from a patch set to a model folder, resumable after an interruption."""

import json
import logging
import math
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from astro_unetloc.detection.clustering import ClusteringConfig
from astro_unetloc.exceptions import InputError, warn
from astro_unetloc.files import checksum, locked_folder, write_files
from astro_unetloc.maps.selection import BUILT_IN_DOMAIN
from astro_unetloc.plot import canvas
from astro_unetloc.simulation.population import counted_band
from astro_unetloc.training.observation import TrainingConfig
from astro_unetloc.training.patch_set import damage_is_an_error, differences, open_patch_set
from astro_unetloc.unet.architecture import LOSSES, build_unet, keras_backend
from astro_unetloc.unet.model import MAX_FLUX_GEV, flux_energies, save_model

log = logging.getLogger(__name__)


def _plot_history(history, folder):
    """Draw the losses of the epochs of a training into ``folder/history.png``."""
    figure = canvas(6.0, 4.0)
    axes = figure.subplots()
    for name, label in (("loss", "training skies"), ("val_loss", "validation skies")):
        axes.plot(range(1, len(history) + 1), [e[name] for e in history], ".-", label=label)
    axes.set(xlabel="epoch", ylabel="loss per pixel", yscale="log")
    axes.legend()
    figure.savefig(folder / "history.png", dpi=120)


# Pixels above this probability are clustered, until a threshold is tuned for the model.
_CLUSTERED = 0.05
# Steps over which weights are averaged: at most so many, and this fraction of a short training,
# whose average would hold the random weights of its start.
_MAX_AVERAGED, _FRACTION_AVERAGED = 500, 0.1


def _augment(columns, rng):
    """A batch under one of the eight rotations and flips of the square."""
    turn, flip = int(rng.integers(4)), rng.random() < 0.5
    turned = [np.rot90(images, turn, axes=(1, 2)) for images in columns]
    return [images[:, :, ::-1] if flip else images for images in turned]


def _targets(mask, coverage):
    """Class probabilities times coverage, (n, ny, nx, n_class + 1), background last."""
    number = mask.sum(axis=-1, keepdims=True)
    return np.concatenate([mask / np.maximum(number, 1), number == 0], axis=-1) * coverage


def _batches(patch_set, rows, batch_size, *, seed, n_batches=None, n_devices=1):
    """A `keras.utils.PyDataset` that reads each batch of the rows when it is needed.

    For a given number of batches the rows are shuffled and images are augmented. The devices must
    divide the batch size. They divide the last batch too: each patch is repeated if need be.
    """
    from keras.utils import PyDataset

    repeats = 1 if n_batches else n_devices // math.gcd(n_devices, len(rows))

    class Batches(PyDataset):
        """Batches of network inputs and targets."""

        def __init__(self):
            super().__init__()
            self.epoch, self.order, self.error = 0, self._order(0), None

        def __len__(self):
            return n_batches or -(-len(rows) // batch_size)

        def _order(self, epoch):
            if n_batches is None:
                return rows
            rng = np.random.default_rng([seed, epoch])
            rounds = -(-n_batches * batch_size // len(rows))
            return np.concatenate([rng.permutation(rows) for _ in range(rounds)])

        def start(self, epoch):
            """Set the order of an epoch, the same after a resumed training."""
            self.epoch, self.order = epoch, self._order(epoch)

        def __getitem__(self, number):
            try:
                return self._read(number)
            except InputError as err:  # the backend of Keras hides it in an error of its own
                self.error = err
                raise

        def _read(self, number):
            chosen = np.sort(self.order[number * batch_size : (number + 1) * batch_size])
            names = ("counts", "coverage", "mask", "bands")
            *images, bands = patch_set.read(chosen, names=names).values()
            if n_batches:
                images = _augment(images, np.random.default_rng([seed, self.epoch, number]))
            *images, bands = (np.repeat(i, repeats, axis=0) for i in (*images, bands))
            counts, coverage, mask = (np.array(i, np.float32, order="C") for i in images)
            inputs = {"counts": counts, "coverage": coverage, "bands": bands}
            return inputs, _targets(mask, coverage).astype(np.float32)

    return Batches()


def _subsets(patch_set, max_validation):
    """Rows for training and at most ``max_validation`` rows for validation."""
    training, validation = (patch_set.rows(validation=v) for v in (False, True))
    if not len(training) or not len(validation):
        raise InputError(
            "a patch set must hold skies to train on and, of seeds that five divides, to validate "
            f"on; got {len(training)} and {len(validation)} patches; simulate five skies or more"
        )
    spread = np.linspace(0, len(validation), min(max_validation, len(validation)), endpoint=False)
    return training, validation[spread.astype(int)]


def fit_network(
    path, folder, *, widths=(32, 48, 64, 96), initial=None, epochs=38, steps_per_epoch=200,
    batch_size=8, learning_rate=2e-3, patience=None, mixed_precision=False, loss="cross-entropy",
    max_validation=160, rng=0, verbose=2,
):  # fmt: skip
    """U-Net trained as by `train`, and its options; an interrupted training is resumed."""
    folder = Path(folder)
    options = {
        "patch_set": Path(path).name, "widths": widths, "initial": initial and str(initial),
        "epochs": epochs, "steps_per_epoch": steps_per_epoch, "batch_size": batch_size,
        "learning_rate": learning_rate, "patience": patience, "loss": loss,
        "mixed_precision": mixed_precision, "seed": rng,
    }  # fmt: skip
    if loss not in LOSSES:
        raise InputError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}; choose one")
    with open_patch_set(path) as patch_set:
        training, validation = _subsets(patch_set, max_validation)
        options["patch_set_id"] = patch_set.identity
        import keras  # seconds: only when the patch set is known to be good

        keras.utils.set_random_seed(rng)
        n_band = len(patch_set.metadata["band_edges_gev"]) - 1
        n_class = len(patch_set.classes) + 1
        network = partial(build_unet, n_band=n_band, n_class=n_class, widths=widths)
        n_devices, scope = _distribution(batch_size)
        with scope:
            policy = keras.config.dtype_policy()
            keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")
            model = network()
            keras.config.set_dtype_policy(policy)
            if initial is not None:
                _load_initial(model, initial)
                options["initial_sha256"] = checksum(initial)
            optimizer = _optimizer(learning_rate, epochs * steps_per_epoch, steps_per_epoch)
            if n_devices > 1 and keras.backend.backend() == "tensorflow":
                optimizer = _of_whole_batches(model, optimizer, n_devices)
            model.compile(optimizer=optimizer, loss=LOSSES[loss], jit_compile=False)
            history = _resume(folder / "backup", model, json.loads(json.dumps(options)))
            read = partial(_batches, patch_set, batch_size=batch_size, seed=rng)
            batches = read(training, n_batches=steps_per_epoch)
            _fit(
                model, batches, read(validation, n_devices=n_devices), epochs=epochs,
                initial_epoch=len(history), verbose=verbose,
                callbacks=_callbacks(folder, batches, history, options, patience),
            )  # fmt: skip
        trained = network()
        trained.set_weights(model.get_weights())
        _plot_history(history, folder)
        hours = sum(epoch["seconds"] for epoch in history) / 3600
        return trained, options | {"hours": round(hours, 2)}


def _distribution(batch_size):
    """Number of devices that divide a batch evenly, and the context that trains on all of them."""
    import keras

    backend = keras.backend.backend()
    devices = keras.distribution.list_devices() if backend in ("tensorflow", "jax") else ["one"]
    n = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if n == 1:
        return 1, nullcontext()
    log.info("each batch is divided among %d devices: %s", n, ", ".join(devices[:n]))
    if backend == "jax":
        return n, keras.distribution.DataParallel(devices=devices[:n]).scope()
    from tensorflow import distribute  # `keras.distribution` trains with JAX alone

    return n, distribute.MirroredStrategy(devices[:n]).scope()


def _of_whole_batches(model, optimizer, n_devices):
    """Make a network of TensorFlow normalize whole batches; the optimizer that clips as they do.

    Without it each device would normalize and clip for its part of a batch.
    """
    from keras import layers
    from tensorflow import distribute

    class WholeBatches(type(optimizer)):
        """Optimizer given the gradients of whole batches, divided by the number of devices."""

        def apply(self, grads, trainable_variables=None):
            """Update the variables by the sum of the gradients over the devices."""
            grads = distribute.get_replica_context().all_reduce("MEAN", grads)
            return super().apply(grads, trainable_variables)

    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.synchronized = True
    config = optimizer.get_config()
    return WholeBatches.from_config(config | {"clipnorm": config["clipnorm"] / n_devices})


def _fit(model, batches, scored, **options):
    """Train a network; the error of a damaged patch set is raised as it is."""
    try:  # batches have their own order, the same when training is resumed
        model.fit(batches, validation_data=scored, shuffle=False, **options)
    except Exception:
        if error := batches.error or scored.error:
            raise error from None
        raise


def _check_shapes(config, model):
    """Refuse the configuration of a network of other bands than a model."""
    layers = {layer["name"]: layer["config"] for layer in config["config"]["layers"]}
    n_band, n_wanted = layers["counts"]["batch_shape"][-1], model.inputs[0].shape[-1]
    if n_band != n_wanted:
        raise ValueError(f"it has {n_band} energy bands, the patch set {n_wanted}")


def _load_initial(model, path):
    """Give a model the weights of a ``.keras`` file; nothing else of the file is used."""
    try:
        if not Path(path).is_file():
            raise FileNotFoundError("no such file")
        with ZipFile(path) as archive:  # of arrays that are not compressed
            if sum(m.file_size for m in archive.infolist()) > 2 * Path(path).stat().st_size:
                raise ValueError("it claims more bytes than it has")
            _check_shapes(json.loads(archive.read("config.json")), model)
        model.load_weights(path)
    except Exception as err:  # Keras raises many kinds for other files and networks
        reason = (str(err).split("\n")[0] or type(err).__name__)[:200]
        raise InputError(
            "initial must be a .keras file of a network of the same bands, classes and widths; "
            f"got {str(path)!r}: {reason}; choose another"
        ) from err


def _optimizer(learning_rate, n_steps, steps_per_epoch):
    """AdamW with averaged weights, whose rate follows a cosine to a hundredth."""
    from keras import optimizers

    schedule = optimizers.schedules.CosineDecay(
        learning_rate, n_steps, alpha=0.01, warmup_target=learning_rate,
        warmup_steps=min(200, steps_per_epoch),
    )  # fmt: skip
    averaged = min(_MAX_AVERAGED, max(_FRACTION_AVERAGED * n_steps, 1))
    return optimizers.AdamW(
        schedule, weight_decay=1e-4, clipnorm=1.0, use_ema=True, ema_momentum=1 - 1 / averaged
    )


def _resume(backup, model, options):
    """History of a training up to its last whole checkpoint, whose state the model is given."""
    for path in sorted(backup.glob("*.json"), reverse=True):
        weights = path.with_suffix(".h5")
        try:
            state = json.loads(path.read_bytes())
            other, history = differences(state["options"], options), state["history"]
            if state["sha256"] != checksum(weights):
                raise ValueError("its weights are another file")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as err:
            warn(f"checkpoint {path} is damaged, {err}; the training goes on from an earlier state")
            continue
        if other:
            raise InputError(
                f"the interrupted training in {backup.parent} must be resumed with its own "
                f"options; got {other}; give the same, or remove the folder"
            )
        model.optimizer.build(model.trainable_variables)
        model.load_weights(weights)
        return history
    return []


def _callbacks(folder, batches, history, options, patience):
    """Callbacks: order of each epoch, checkpoints and history, the last model, early stopping."""
    from keras import callbacks

    class Checkpoint(callbacks.Callback):
        """Writes the state after each epoch, whole files alone, and keeps that before."""

        def on_epoch_begin(self, epoch, logs=None):
            batches.start(epoch)
            self.started = time.time()

        def on_epoch_end(self, epoch, logs=None):
            history.append(logs | {"epoch": epoch, "seconds": round(time.time() - self.started, 1)})
            (folder / "backup").mkdir(parents=True, exist_ok=True)
            weights = folder / "backup" / f"{epoch:06d}.weights.h5"
            write_files({weights: self.model.save_weights}, overwrite=True)
            state = {"options": options, "history": history, "sha256": checksum(weights)}
            rows = [",".join(map(str, row)) for row in (history[0], *map(dict.values, history))]
            log = "\n".join(rows).encode() + b"\n"
            contents = {weights.with_suffix(".json"): json.dumps(state).encode()}
            write_files(contents | {folder / "history.csv": log}, overwrite=True)
            for old in sorted((folder / "backup").iterdir())[:-4]:  # two files of two epochs
                old.unlink()

    last = str(folder / "last.keras").replace("{", "{{").replace("}", "}}")  # Keras formats it
    return [
        Checkpoint(),
        callbacks.ModelCheckpoint(last),
        *([callbacks.EarlyStopping("val_loss", patience=patience)] if patience else []),
    ]


def train(path, folder, *, name="", threshold=0.5, overwrite=False, rng=0, **options):
    """Return a model trained on a patch set, written to a model folder.

    TensorFlow and JAX divide each batch among all GPUs that they see, as many as divide it evenly;
    the losses are those of one GPU but for rounding, and a training may be resumed on another
    number of them. The devices are those of `keras.distribution.list_devices`: without a GPU
    logical CPUs, if several are configured.

    Parameters
    ----------
    path : str or path
        Patch set made by `~astro_unetloc.training.make.make_patch_set`.
    folder : str or path
        Model folder; checkpoints and the log go to ``folder/training``.
    name : str
        Name in the card; that of the folder by default.
    threshold : float
        Smallest score listed by default.
    overwrite : bool
        Whether a finished model in the folder may be replaced.
    rng : int
        Seed of weights, order and augmentation.
    **options
        ``epochs``, ``steps_per_epoch``, ``batch_size``: the network sees the product of them in
        patches. ``learning_rate``: of AdamW at the start; follows a cosine to a hundredth.
        ``loss``: "cross-entropy", which makes the output a probability, or "dice" (a rank).
        ``widths``: size of the network, see `astro_unetloc.unet.architecture.build_unet`.
        ``initial``: a ``.keras`` file of the same size whose weights to start from.
        ``patience``: stop when the loss of the validation skies has not fallen for so many epochs.
        ``max_validation``: most patches of the validation skies scored after every epoch.
        ``mixed_precision``: compute features in bfloat16, on recent GPUs about twice as fast.
        ``verbose``: as in `keras.Model.fit`.

    Returns
    -------
    Model
        Of averaged weights. Losses and seconds of every epoch are in ``training/history.csv``.

    Raises
    ------
    FileExistsError, InputError
        If the folder holds a finished model or an interrupted training with other options, or if
        the file is not a patch set, or has no sky to train or to validate on.
    """
    folder = Path(folder)
    if (folder / "card.json").exists() and not overwrite:
        raise FileExistsError(
            f"model folder must not hold a model; got {str(folder)!r}; choose another name or "
            "allow overwriting"
        )
    with open_patch_set(path) as found, damage_is_an_error(path):
        _subsets(found, 1)
        patch_set = found.metadata | found.read(slice(-2, None))
        card = _model_card(patch_set, name=name or folder.name, threshold=threshold)
    with locked_folder(folder):
        network, training = fit_network(path, folder / "training", rng=rng, **options)
        card |= {"parameters": int(network.count_params()), "training": card["training"] | training}
        model = save_model(folder, network, card, probe=patch_set)
        shutil.rmtree(folder / "training" / "backup")
    return model


def _model_card(patch_set, *, name, threshold):
    """Card of a model, without checksums and what is known after its training."""
    edges = [float(edge) for edge in patch_set["band_edges_gev"]]
    # a circle as wide as a label holds all of a source
    radius_pix = float(patch_set["mask_radius_pix"])
    return {
        "name": name,
        "band_edges_gev": edges,
        # the last class is always the background
        "classes": [*patch_set["classes"], "background"],
        "clustering": asdict(ClusteringConfig(cut=_CLUSTERED, radius_pix=radius_pix)),
        "threshold": threshold,
        # photons that were made elsewhere may be of any selection
        **({} if "folders" in patch_set else {"domain": BUILT_IN_DOMAIN}),
        "flux_range_gev": _flux_range(*edges[:: len(edges) - 1]),
        "patch": {"n_pix": len(patch_set["counts"][0]), "pixel_deg": float(patch_set["pixel_deg"])},
        "training": {
            "patch_set_seed": int(patch_set["seed"]),
            "label_rule": {
                f.name: patch_set[f.name] for f in fields(TrainingConfig) if f.name in patch_set
            },
            "backend": keras_backend(),
        },
    }


def _flux_range(low, high):
    """Energies (GeV) of the flux: those of 3FHL or 4FGL if a model has them, else its own."""
    first, last = counted_band((low, high))
    last = min(last, MAX_FLUX_GEV)
    if low <= first and last <= high:
        return [first, last]
    return [*flux_energies(low, high)]
