"""The training loop: from a patch set to a model folder, resumable after an interruption."""

import json
import time
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import numpy as np

from astro_unetloc.detection.clustering import ClusteringConfig
from astro_unetloc.exceptions import InputError
from astro_unetloc.maps.selection import BUILT_IN_DOMAIN
from astro_unetloc.plot import canvas
from astro_unetloc.simulation.population import counted_band
from astro_unetloc.training.observation import TrainingConfig
from astro_unetloc.training.patch_set import open_patch_set
from astro_unetloc.unet.architecture import LOSSES, build_unet, keras_backend
from astro_unetloc.unet.model import MAX_FLUX_GEV, save_model

__all__ = ["fit_network", "model_card", "plot_history", "train"]


def plot_history(history, folder):
    """Draw the losses of a training into ``folder/history.png``."""
    figure = canvas(6.0, 4.0)
    axes = figure.subplots()
    history = np.atleast_1d(history)
    for name, label in (("loss", "training skies"), ("val_loss", "validation skies")):
        axes.plot(history["epoch"] + 1, history[name], ".-", label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss per pixel")
    axes.set_yscale("log")
    axes.legend()
    figure.savefig(folder / "history.png", dpi=120)


# Pixels above this probability are clustered, until a threshold is tuned for the model.
_CUT = 0.05

# Steps over which weights are averaged: at most so many, and this share of a short training, whose
# average would hold the random weights of its start.
_MAX_AVERAGED, _SHARE_AVERAGED = 500, 0.1


def _augment(columns, rng):
    """Return a batch under one of the eight rotations and flips of the square."""
    turn, flip = int(rng.integers(4)), rng.random() < 0.5
    out = []
    for images in columns:
        images = np.rot90(images, turn, axes=(1, 2))
        out.append(np.ascontiguousarray(images[:, :, ::-1] if flip else images))
    return out


def _targets(mask, coverage):
    """Return class probabilities times coverage, (n, ny, nx, n_class + 1), background last."""
    number = mask.sum(axis=-1, keepdims=True)
    return np.concatenate([mask / np.maximum(number, 1), number == 0], axis=-1) * coverage


def _batches(read, n_patches, batch_size, *, seed, n_batches=None):
    """Return a `keras.utils.PyDataset` that reads each batch when it is needed."""
    from keras.utils import PyDataset

    class Batches(PyDataset):
        """Batches of network inputs and targets."""

        def __init__(self):
            super().__init__()
            self.epoch, self.order = 0, self._order(0)

        def __len__(self):
            return n_batches or -(-n_patches // batch_size)

        def _order(self, epoch):
            if n_batches is None:
                return np.arange(n_patches)
            rng = np.random.default_rng([seed, epoch])
            rounds = -(-n_batches * batch_size // n_patches)
            return np.concatenate([rng.permutation(n_patches) for _ in range(rounds)])

        def start(self, epoch):
            """Set the order of an epoch, the same after a resumed training."""
            self.epoch, self.order = epoch, self._order(epoch)

        def __getitem__(self, number):
            columns = read(np.sort(self.order[number * batch_size : (number + 1) * batch_size]))
            images = [columns[name] for name in ("counts", "coverage", "mask")]
            if n_batches:
                images = _augment(images, np.random.default_rng([seed, self.epoch, number]))
            counts, coverage, mask = (i.astype(np.float32) for i in images)
            inputs = {"counts": counts, "coverage": coverage, "bands": columns["bands"]}
            return inputs, _targets(mask, coverage).astype(np.float32)

    return Batches()


def _subsets(patch_set, max_validation):
    """Return rows for training and at most ``max_validation`` rows for validation."""
    training, validation = (patch_set.rows(validation=v) for v in (False, True))
    if not len(training) or not len(validation):
        kept = patch_set.skies["validation"]
        raise InputError(
            "a patch set must hold skies to train on and, of seeds that five divides, to validate "
            f"on; got {np.sum(~kept)} and {np.sum(kept)}; simulate five skies or more"
        )
    spread = np.linspace(0, len(validation), min(max_validation, len(validation)), endpoint=False)
    return training, validation[spread.astype(int)]


def fit_network(
    path,
    folder,
    *,
    widths=(32, 48, 64, 96),
    initial=None,
    epochs=38,
    steps_per_epoch=200,
    batch_size=8,
    learning_rate=2e-3,
    patience=None,
    mixed_precision=False,
    loss="cross-entropy",
    max_validation=160,
    rng=0,
    verbose=2,
):
    """Return a U-Net trained on a patch set; an interrupted run in the folder is resumed.

    Parameters
    ----------
    path : str or path
        Patch set made by `make_patch_set`.
    folder : str or path
        Where the network, the log and checkpoints go.
    widths : sequence of int
        Size of the network, see `astro_unetloc.unet.architecture.build_unet`.
    initial : str or path, optional
        A ``.keras`` file of the same size whose weights to start from.
    epochs, steps_per_epoch, batch_size : int
        The network sees ``epochs * steps_per_epoch * batch_size`` patches.
    learning_rate : float
        Of AdamW at the start; follows a cosine to a hundredth.
    patience : int, optional
        Stop when the loss of the validation skies has not fallen for so many epochs; by default all
        epochs are run.
    mixed_precision : bool
        Whether features are computed in bfloat16: for recent GPUs, where it is about twice as fast.
        The weights, and what is written, are of single precision in any case.
    loss : {"cross-entropy", "dice"}
        Loss to minimize, see `LOSSES`. A cross-entropy makes the output a
        probability; of the others it is a rank.
    max_validation : int
        Most patches of the validation skies scored after every epoch.
    rng : int
        Seed of weights, order and augmentation.
    verbose : int
        As in `keras.Model.fit`.

    Returns
    -------
    keras.Model
        The trained network with averaged weights; also in ``folder/unet.keras``. Losses and
        seconds of every epoch are in ``folder/history.csv``, the losses drawn in
        ``folder/history.png``, and what makes the training is in ``folder/recipe.json``.

    Raises
    ------
    ValueError
        If the file is not a patch set, has no sky to train or to validate on, the loss is
        unknown, or an interrupted training in the folder is another one.
    """
    folder = Path(folder)
    recipe = {
        "patch_set": Path(path).name, "widths": widths, "initial": initial and str(initial),
        "epochs": epochs, "steps_per_epoch": steps_per_epoch, "batch_size": batch_size,
        "learning_rate": learning_rate, "patience": patience, "loss": loss,
        "mixed_precision": mixed_precision, "seed": rng,
    }  # fmt: skip
    if loss not in LOSSES:
        raise InputError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}; choose one")
    with open_patch_set(path) as patch_set:
        names = ("counts", "coverage", "mask", "bands")
        reads = [
            (lambda chosen, rows=rows: patch_set.read(rows[chosen], names=names), len(rows))
            for rows in _subsets(patch_set, max_validation)
        ]
        import keras  # seconds: only when the patch set is known to be good

        keras.utils.set_random_seed(rng)
        _begin(folder, recipe)
        n_band, n_class = len(patch_set.recipe["band_edges_gev"]) - 1, len(patch_set.classes) + 1
        network = partial(build_unet, n_band=n_band, n_class=n_class, widths=widths)
        with _precision("mixed_bfloat16" if mixed_precision else "float32"):
            model = network()
        if initial is not None:
            start = keras.models.load_model(initial, compile=False)
            model.set_weights(start.get_weights())
        schedule = keras.optimizers.schedules.CosineDecay(
            learning_rate,
            epochs * steps_per_epoch,
            alpha=0.01,
            warmup_target=learning_rate,
            warmup_steps=min(200, steps_per_epoch),
        )
        averaged = min(_MAX_AVERAGED, max(_SHARE_AVERAGED * epochs * steps_per_epoch, 1))
        optimizer = keras.optimizers.AdamW(
            schedule, weight_decay=1e-4, clipnorm=1.0, use_ema=True, ema_momentum=1 - 1 / averaged
        )
        model.compile(optimizer=optimizer, loss=LOSSES[loss], jit_compile=False)
        batches = _batches(*reads[0], batch_size, seed=rng, n_batches=steps_per_epoch)
        model.fit(
            batches,
            epochs=epochs,
            validation_data=_batches(*reads[1], batch_size, seed=rng),
            callbacks=_callbacks(folder, batches, patience),
            shuffle=False,  # the batches have their own order, the same when a training is resumed
            verbose=verbose,
        )
        trained = network()
        trained.set_weights(model.get_weights())
        trained.save(folder / "unet.keras")
        plot_history(_history(folder), folder)
        return trained


def _history(folder):
    """Return the losses and seconds of each epoch, a structured array."""
    return np.genfromtxt(folder / "history.csv", delimiter=",", names=True)


def _begin(folder, recipe):
    """Write the options of a training; refuse to resume one that has other options."""
    folder.mkdir(parents=True, exist_ok=True)
    path, recipe = folder / "recipe.json", json.loads(json.dumps(recipe))
    if not any((folder / "backup").glob("*")):
        (folder / "history.csv").unlink(missing_ok=True)
    elif path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in recipe if begun.get(name) != recipe[name]]
        if other:
            was, now = (", ".join(f"{n} {r.get(n)}" for n in other) for r in (begun, recipe))
            raise InputError(
                f"the interrupted training in {folder} must be resumed with its own options, "
                f"{was}; got {now}; give the same, or remove the folder"
            )
    path.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _precision(policy):
    """Set the precision of the layers that are built in this context."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _callbacks(folder, batches, patience):
    """Return the callbacks: checkpoints, the log, early stopping, the order of each epoch."""
    from keras import callbacks

    stop = [callbacks.EarlyStopping("val_loss", patience=patience)] if patience else []
    started = []

    def begin(epoch, _):
        batches.start(epoch)
        started.append(time.time())

    def end(_, logs):
        logs["seconds"] = round(time.time() - started[-1], 1)

    return [
        callbacks.BackupAndRestore(folder / "backup"),
        callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end),
        callbacks.CSVLogger(folder / "history.csv", append=True),
        callbacks.ModelCheckpoint(folder / "last.keras"),
        *stop,
    ]


def train(path, folder, *, name="", threshold=0.5, overwrite=False, rng=0, **options):
    """Return a model trained on a patch set, written to a model folder.

    Parameters
    ----------
    path : str or path
        Patch set made by `make_patch_set`.
    folder : str or path
        Model folder; checkpoints and the log go to ``folder/training``.
    name : str
        Name in the card; that of the folder by default.
    threshold : float
        Smallest score listed by default.
    overwrite : bool
        Whether a finished model in the folder may be replaced.
    rng : int
        Seed.
    **options
        As `fit_network`.

    Returns
    -------
    Model

    Raises
    ------
    FileExistsError
        If the folder holds a finished model.
    ValueError
        If the file is not a patch set, or has no sky to train or to validate on.
    """
    folder = Path(folder)
    if (folder / "card.json").exists() and not overwrite:
        raise FileExistsError(
            f"model folder must not hold a model; got {str(folder)!r}; choose another name or "
            "allow overwriting"
        )
    network = fit_network(path, folder / "training", rng=rng, **options)
    with open_patch_set(path) as found:
        patch_set = found.recipe | found.read(slice(-2, None))
    card = model_card(network, patch_set, name=name or folder.name, threshold=threshold)
    card["training"] |= json.loads((folder / "training" / "recipe.json").read_text())
    seconds = _history(folder / "training")["seconds"]
    card["training"]["hours"] = round(float(np.sum(seconds)) / 3600, 2)
    return save_model(folder, network, card, probe=patch_set)


def model_card(network, patch_set, *, name, threshold):
    """Return the card of a model, without checksums."""
    low, high = counted_band(patch_set["band_edges_gev"])
    # a circle as wide as a label holds all of a source
    radius_pix = float(patch_set["mask_radius_pix"])
    return {
        "name": name,
        "band_edges_gev": [float(edge) for edge in patch_set["band_edges_gev"]],
        # the last class is always the background
        "classes": [*patch_set["classes"], "background"],
        "clustering": asdict(ClusteringConfig(cut=_CUT, radius_pix=radius_pix)),
        "threshold": threshold,
        # photons that were made elsewhere may be of any selection
        **({} if "folders" in patch_set else {"domain": BUILT_IN_DOMAIN}),
        "flux_range_gev": [low, min(high, MAX_FLUX_GEV)],
        "patch": {
            "n_pix": patch_set["counts"].shape[1],
            "pixel_deg": float(patch_set["pixel_deg"]),
        },
        "parameters": int(network.count_params()),
        "training": {
            "patch_set_seed": int(patch_set["seed"]),
            "label_rule": {
                f.name: patch_set[f.name] for f in fields(TrainingConfig) if f.name in patch_set
            },
            "backend": keras_backend(),
        },
    }
