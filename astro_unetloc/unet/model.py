"""Trained models: folders with a network, its card, its LiteRT version and a self-test.

=================  ====================================================================
``card.json``      bands, classes, clustering preset, threshold, training, scores, sha256
``unet.keras``     the network, source of truth
``unet.tflite``    the same network for LiteRT, the fast path
``probe.npz``      self-test: a stored input and the output of the network for it
=================  ====================================================================

The card also stores the calibration of the scores and factors on the errors of the fit.

Calibration: a logistic regression on the logit of the network's probability, sqrt(TS) and counts of
the fit, sqrt(TS) of the scan and Galactic latitude, fitted to candidates of simulated skies of
several energy ranges and exposures that no training has seen (``benchmarks/calibrate.py``), for
each finder. A candidate is real when a true source of any brightness gives a third of its counts,
see `astro_unetloc.evaluation.truth`.

Error factors: the fit estimates Poisson errors. Sources that merge within the point-spread function
and structure in the background that is finer than the region of interest add to them, mostly below
10 GeV. The factors are measured on simulated skies (``benchmarks/fit_errors.py``). The Fermi-LAT
catalogues scale their ellipses likewise, by what known counterparts show (4FGL, arXiv:1902.10045,
section 3.1.3).
"""

import json
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache, cached_property, partial
from pathlib import Path
from threading import Lock

import numpy as np

from astro_unetloc.exceptions import InputError
from astro_unetloc.executors import usable_cores
from astro_unetloc.files import checksum, write_files

DEFAULT_MODEL = "lat-10gev"
# The fluxes of catalogues end here, GeV, as those of 3FHL and 4FGL do not go far beyond.
MAX_FLUX_GEV = 1000.0
# Key of the card with the calibration of each finder.
CALIBRATIONS = {
    "unet": "calibration", "scan": "calibration_scan", "both": "calibration_both",
}  # fmt: skip
# Largest difference between the output of a network for its self-test and the stored one.
PROBE_TOLERANCE = 1e-4

log = logging.getLogger(__name__)

_SHIPPED = Path(__file__).parents[1] / "data" / "models"
_FILES = ("unet.keras", "unet.tflite", "probe.npz")
_KEYS = ("name", "band_edges_gev", "classes", "clustering", "threshold", "sha256")
_MAX_PROBE = 10**9  # bytes of the self-test in memory; those of the shipped models have 2e6
_INPUTS = ("counts", "coverage", "bands")
# Patches that the network sees at once, and batches that are computed before they are taken.
_BATCH, _AHEAD = 4, 32
_GPU_BATCH = 64  # and at least so many patches for it
_LOADING = Lock()  # one thread hides the greeting of LiteRT at a time
_THRESHOLD = 0.8  # of a model without a network


@dataclass(frozen=True, repr=False)
class Model:
    """A trained model.

    Attributes
    ----------
    folder : Path
        Folder of its files.
    card : dict
        Content of ``card.json``.
    """

    folder: Path
    card: dict

    @property
    def name(self):
        """Name of the model."""
        return self.card["name"]

    @property
    def path(self):
        """What `load_model` takes: the name of a shipped model, the folder of others."""
        return self.name if self.folder.parent == _SHIPPED else str(self.folder)

    def __repr__(self):
        low, high = self.energy_range
        return f"<Model {self.name}: {low:g}-{high:g} GeV, {', '.join(self.classes)}>"

    @property
    def band_edges(self):
        """Edges of the energy bands in GeV, shape (n_band + 1,)."""
        return np.array(self.card["band_edges_gev"], dtype=float)

    @property
    def energy_range(self):
        """First and last edge of the bands in GeV."""
        return tuple(self.band_edges[[0, -1]])

    @property
    def classes(self):
        """Names of the classes, the background last."""
        return tuple(self.card["classes"])

    @property
    def threshold(self):
        """Smallest score listed by default."""
        return float(self.card["threshold"])

    @property
    def calibration(self):
        """`Calibration` of ``Score`` for the network; None if it was not fitted."""
        return self.calibration_of("unet")

    def calibration_of(self, finder):
        """`Calibration` of ``Score`` for a finder (unet, scan, both); None if it was not fitted."""
        return _from_card(Calibration, self.card.get(CALIBRATIONS[finder]))

    @property
    def error_factors(self):
        """`ErrorFactors` of the errors of the fit; None if they were not measured."""
        return _from_card(ErrorFactors, self.card.get("error_factors"))

    def half_found(self, threshold):
        """Return the expected sqrt(TS) at which half of the sources are found."""
        curve = self.card.get("half_found")
        if curve is None:
            raise InputError(
                f"a model whose card has detection limits was expected; got {self.name}; measure "
                "them with benchmarks/fit_limits.py, or write no map of limits"
            )
        low, *_, high = curve["threshold"]
        if not low <= threshold <= high:
            raise InputError(
                f"detection limits are known for thresholds from {low:g} to {high:g}; got "
                f"{threshold:g}; choose another, or write no map of limits"
            )
        return float(np.interp(threshold, curve["threshold"], curve["sqrt_ts"]))

    @property
    def flux_range(self):
        """Energies in GeV of the flux in catalogues."""
        low, high = self.energy_range
        return tuple(map(float, self.card.get("flux_range_gev", (low, min(high, MAX_FLUX_GEV)))))

    @property
    def has_network(self):
        """Whether it can predict; see `model_without_network`."""
        return self.sha256 is not None

    @property
    def sha256(self):
        """Hash of ``unet.keras``; None without a network."""
        return self.card["sha256"].get("unet.keras")

    @cached_property
    def _idle(self):
        """Functions of (counts, coverage, bands) that return probabilities, none of them in use."""
        return deque()

    def _run(self, idle, **inputs):
        """Probabilities, by a function that no other thread uses meanwhile."""
        try:
            run = idle.pop()
        except IndexError:
            run = self._runner()
        output = run(**inputs)
        idle.append(run)
        return output

    def _runner(self):
        """A function of (counts, coverage, bands) that returns probabilities in one thread."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            log.info("LiteRT is not installed; TensorFlow runs the network")
            return self._keras_runner
        with _LOADING, _silent_stderr():
            interpreter = Interpreter(str(self.folder / "unet.tflite"), num_threads=1)
            interpreter.allocate_tensors()
        run = interpreter.get_signature_runner()
        return lambda **inputs: run(**inputs)["output_0"]

    @cached_property
    def _keras_runner(self):
        """The same by the Keras backend, in one thread after another."""
        import keras

        network = keras.models.load_model(self.folder / "unet.keras", compile=False)
        lock = Lock()

        def run(**inputs):
            with lock:
                return network.predict_on_batch(inputs)

        return run

    def predict(self, counts, coverage, bands, *, keras=None, progress=None):
        """Return the probability of each class in each pixel, float32 (n, ny, nx, n_class).

        ``counts`` (n, ny, nx, n_band) are photons, ny and nx divisible by 16; ``coverage``
        (n, ny, nx, 1) is 1 where observed; ``bands`` (n_band, 4) or (n, n_band, 4) come from
        `astro_unetloc.maps.patches.band_inputs`. With ``keras`` the Keras backend runs
        ``unet.keras``, by default for many patches where there is a GPU.
        """
        parts = self.predict_batches(counts, coverage, bands, keras=keras, progress=progress)
        probability = np.empty((*counts.shape[:3], len(self.classes)), dtype=np.float32)
        for rows, part in parts:
            probability[rows] = part
        return probability

    def predict_batches(self, counts, coverage, bands, *, keras=None, progress=None):
        """Yield slices of rows and their probabilities as of `predict`, one after the other.

        The network sees the next rows in other threads meanwhile.
        """
        n_band, n = len(self.band_edges) - 1, len(counts)
        if counts.ndim != 4 or counts.shape[3] != n_band or np.any(np.mod(counts.shape[1:3], 16)):
            raise InputError(
                f"counts must be (n, ny, nx, {n_band}) with ny and nx divisible by 16; got "
                f"{counts.shape}; project the map with the bands of model {self.name}"
            )
        size = _BATCH
        if keras is None and n >= _GPU_BATCH and sees_gpu():
            keras, size = True, _GPU_BATCH
            log.info("the network runs on a GPU")
        run = self._keras_runner if keras else partial(self._run, self._idle)
        bands = np.broadcast_to(bands, (n, *np.shape(bands)[-2:]))
        slices = [slice(start, start + size) for start in range(0, n, size)]

        def predict(rows):
            """Probability of some rows."""
            return run(**_inputs(counts[rows], coverage[rows], bands[rows]))

        with ThreadPoolExecutor(1 if keras else usable_cores()) as pool:
            ahead = deque(pool.submit(predict, rows) for rows in slices[:_AHEAD])
            try:
                wrapped = progress(slices, desc="network") if progress else slices
                for number, rows in enumerate(wrapped):
                    part = ahead.popleft().result()
                    for later in slices[number + _AHEAD : number + _AHEAD + 1]:
                        ahead.append(pool.submit(predict, later))
                    yield rows, part
            finally:
                pool.shutdown(cancel_futures=True)

    def check(self, *, keras=None):
        """Raise an error unless the fast path, or ``unet.keras``, passes the self-test."""
        try:
            with np.load(self.folder / "probe.npz") as probe:
                if sum(info.file_size for info in probe.zip.infolist()) > _MAX_PROBE:
                    raise ValueError("the self-test is too large")
                output = self.predict(*map(probe.get, _INPUTS), keras=keras)
                difference = float(np.max(np.abs(output - probe["probability"])))
        except Exception as err:  # those of zip files, arrays, LiteRT and Keras
            raise InputError(
                f"model {self.name}: expected a network that runs on its self-test; got "
                f"{type(err).__name__}: {err}; install it again"
            ) from err
        if not difference <= PROBE_TOLERANCE:
            raise InputError(
                f"model {self.name}: expected the stored output of its self-test within "
                f"{PROBE_TOLERANCE:g}; got a difference of {difference:.2g}; install it again"
            )


def _inputs(counts, coverage, bands):
    """Inputs of the network as contiguous float32: LiteRT misreads others without an error."""
    arrays = zip(_INPUTS, (counts, coverage, bands))
    return {name: np.ascontiguousarray(a, dtype=np.float32) for name, a in arrays}


@contextmanager
def _silent_stderr():
    """Hide the greeting of LiteRT, which C++ writes past the streams of Python."""
    if sys.stderr is None:  # closed
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@cache
def sees_gpu():
    """Whether TensorFlow sees a GPU; it is loaded, which takes seconds, if there may be one."""
    if not any(list(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "kfd")):
        return False
    from tensorflow import config

    return bool(config.list_physical_devices("GPU"))


def list_models():
    """Return the names of the shipped models.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from astro_unetloc import list_models
    >>> list_models()
    ['lat-10gev', 'lat-500mev']
    """
    return sorted(p.parent.name for p in _SHIPPED.glob("*/card.json"))


def shipped_bands():
    """Return the band edges (n_band + 1,) in GeV of each shipped model by name, default first."""
    names = sorted(list_models(), key=DEFAULT_MODEL.__ne__)
    cards = {name: _read_card(_SHIPPED / name / "card.json") for name in names}
    return {name: np.array(card["band_edges_gev"], float) for name, card in cards.items()}


def flux_energies(low, high):
    """Return the energies of a flux for photons between two (GeV): those up to 1000 GeV."""
    return low, min(high, max(MAX_FLUX_GEV, 2 * low))


def model_without_network(band_edges):
    """Return a `Model` of bands (n_band + 1 edges in GeV) alone, for the scan of other telescopes.

    Its ``Score`` is not calibrated, and it has no classes.
    """
    edges = [float(edge) for edge in band_edges]
    card = {"name": "none", "band_edges_gev": edges, "flux_range_gev": [edges[0], edges[-1]]}
    return Model(Path(), card | {"classes": [], "threshold": _THRESHOLD, "sha256": {}})


def load_model(name=None):
    """Return a model after a check of its files and of its self-test.

    Parameters
    ----------
    name : str, path or Model, optional
        A shipped model or a model folder; the default model if None.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        If the name is unknown, a file is missing, damaged or not the one in the card, or the
        self-test fails.
    """
    if isinstance(name, Model):
        return name
    name = DEFAULT_MODEL if name is None else name
    folder = _SHIPPED / str(name)
    if str(name) not in list_models():
        folder = Path(str(name))
        if not str(name).strip() or not (folder / "card.json").is_file():
            raise InputError(
                f"expected one of the models {', '.join(list_models())} or a model folder with "
                f"card.json; got {str(name)!r}; see 'astro-unetloc models'"
            )
    model = Model(folder, _read_card(folder / "card.json"))
    for path in (folder / file for file in _FILES):
        expected = model.card["sha256"][path.name]
        found = checksum(path) if path.is_file() else "no file"
        if found != expected:
            raise InputError(
                f"model file {path}: expected sha256 {expected[:12]}; got {found[:12]}; the file "
                "is damaged or not the card's, install the model again"
            )
    model.check()
    return model


def _read_card(path):
    """Content of a ``card.json``: all keys that a model needs, with values that can be."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in _KEYS if key not in card]
        missing += [file for file in _FILES if file not in card.get("sha256", {})]
    except (ValueError, AttributeError, TypeError, RecursionError) as err:
        raise InputError(f"model card {path}: expected JSON; {err}; install it again") from err
    if missing:
        missing = f"{', '.join(_KEYS)}; missing {', '.join(missing)}"
        raise InputError(f"model card {path}: expected the keys {missing}; make the model again")
    for key, value in card.items():
        try:
            valid, cause = _is_valid(key, value), None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as err:
            valid, cause = False, err
        if not valid:
            got = f"{key} that can be used; got {str(value)[:60]!r}; make the model again"
            raise InputError(f"model card {path}: expected a value of {got}") from cause
    return card


def _is_valid(key, value):
    """Whether a value can stand in a card; those of other types raise an error or are refused."""
    match key:
        case "name" | "description":
            return value.isprintable()
        case "classes":
            return len(value) > 1 and all(name.isprintable() for name in value)
        case "band_edges_gev" | "flux_range_gev":
            n_wanted = 2 if key == "flux_range_gev" else len(value)
            return n_wanted == len(value) > 1 and _rises([0, *value])
        case "threshold":
            return 0 <= value <= 1
        case "sha256":
            return all(text.isalnum() for text in value.values())
        case "clustering":
            known = value.keys() <= {"cut", "radius_pix", "overlap_penalty", "max_clusters"}
            numbers = [value["radius_pix"], -value.get("overlap_penalty", -1)]
            numbers.append(value.get("max_clusters") or 1)
            return known and 0 < value["cut"] < 1 and 0 < min(numbers) < np.inf
        case "domain":
            lists = [value.get(name, []) for name in ("event_class", "event_type")]
            texts = all(text.isprintable() for names in lists for text in names)
            known = texts and all(isinstance(names, list) for names in lists)
            return known and value.get("max_zenith_deg", 0) >= 0
        case "calibration" | "calibration_scan" | "calibration_both":
            calibration = _from_card(Calibration, value)
            score = calibration.score([0.5, 0.5], [0.0, 40.0], [5.0, np.nan], [9.0, np.nan])
            return np.isfinite(score).all() and 0 <= calibration.least_probability <= 1
        case "error_factors":
            factors = _from_card(ErrorFactors, value)
            least = [factors.at(kind, factors.latitude_deg).min() for kind in _SCALED]
            return _rises([-1, *factors.latitude_deg]) and 0 < min(least) < np.inf
        case "classifier":
            axes = "index", "beta", "latitude_deg", "longitude_deg", "flux"
            index, beta, *place, flux = (len(value[name]) for name in axes)
            shapes = {"families": (3, index * beta), "fractions": (3, *place)}
            shapes |= {"flux_factors": (3, flux)}
            shapes |= dict.fromkeys(("pivot_gev", "flux_per_count", "confidence"), ())
            tables = {name: np.array(value[name], float) for name in shapes}
            known = all(np.isfinite(table).all() and table.min() > 0 for table in tables.values())
            known = known and all(tables[name].shape == shape for name, shape in shapes.items())
            rises = all(len(value[name]) > 1 and _rises(value[name]) for name in axes)
            return known and rises and value["flux"][0] > 0 and value["confidence"] <= 1
        case "half_found":
            same = len(value["threshold"]) == len(value["sqrt_ts"]) > 1
            return same and _rises(value["threshold"]) and np.isfinite(value["sqrt_ts"]).all()
    return True


def _rises(values):
    """Whether the finite numbers of a list rise."""
    return np.isfinite(values).all() and np.all(np.diff(values) > 0)


def _from_card(kind, stored):
    """A `Calibration` or `ErrorFactors` of the values in a card; None without them."""
    return None if stored is None else kind(*(stored[field.name] for field in fields(kind)))


def save_model(folder, network, card, *, probe):
    """Write a model folder, which is made if absent, and return its model.

    ``card`` is without its hashes; ``probe`` holds the inputs "counts", "coverage" and "bands" of a
    few patches for the self-test.
    """
    import keras

    from astro_unetloc.unet.architecture import export_litert

    (folder := Path(folder)).mkdir(parents=True, exist_ok=True)
    # a copy that was never compiled: the file holds no optimizer and names no loss
    plain = keras.Model.from_config(network.get_config())
    plain.set_weights(network.get_weights())
    plain.save(folder / "unet.keras")
    with _silent_stderr():
        export_litert(folder / "unet.keras", folder / "unet.tflite")
    inputs = _inputs(*map(probe.get, _INPUTS))
    output = network.predict(inputs, verbose=0)
    np.savez_compressed(folder / "probe.npz", **inputs, probability=output)
    _write_card(folder, {**card, "sha256": {file: checksum(folder / file) for file in _FILES}})
    model = load_model(folder)
    model.check(keras=True)
    return model


def update_card(model, **entries):
    """Write entries into the card of a model, and return the model with them."""
    _write_card(model.folder, _read_card(model.folder / "card.json") | entries)
    return load_model(model.path)


def _write_card(folder, card):
    """Write a card, each list of numbers in one line."""
    text = re.sub(
        r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), json.dumps(card, indent=1)
    )
    write_files({folder / "card.json": text.encode() + b"\n"}, overwrite=True)


# Calibration of scores and factors on errors

# Columns of the fit and of the scan; that of the scan is in no catalogue.
SCAN_SQRT_TS = "Scan_Sqrt_TS"
_FITTED = ("Sqrt_TS", "Npred", SCAN_SQRT_TS)
# The network's probability is kept away from 0 and 1 by this much, sqrt(TS) and counts below these.
_MIN_PROBABILITY, _MAX_SQRT_TS, _MAX_COUNTS = 1e-4, 12.0, 1e3
# Galactic latitude in degrees at which the weight of the plane has fallen to a half.
_PLANE_DEG = 5.0

FEATURES = (
    "logit", "logit2", "sqrt_ts", "sqrt_ts2", "logit sqrt_ts", "plane", "plane logit",
    "plane sqrt_ts", "counts", "counts2", "counts logit", "counts sqrt_ts", "counts plane",
    "scan", "scan2", "scan plane", "scan counts",
)  # fmt: skip

# Columns of a table of sources that each kind of factor scales.
_SCALED = {
    "ellipse_68": ("Conf_68_SemiMajor", "Conf_68_SemiMinor"),
    "ellipse_95": ("Conf_95_SemiMajor", "Conf_95_SemiMinor"),
    "counts": ("Unc_Npred", "Unc_Flux"),
    "index": ("Unc_Spectral_Index",),
}


def features(probability, latitude_deg, sqrt_ts, n_pred, scan_sqrt_ts=np.nan):
    """Return the terms `FEATURES` (n, 17).

    Those of the network, of the fit and of the scan are zero where the probability, sqrt(TS) and
    sqrt(TS) of the scan are NaN.
    """
    p = np.nan_to_num(np.asarray(probability, float), nan=0.5)
    p = np.clip(p, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    logit = np.log(p / (1 - p))
    ts, scan = (np.clip(np.nan_to_num(x), 0.0, _MAX_SQRT_TS) for x in (sqrt_ts, scan_sqrt_ts))
    plane = 1 / (1 + (np.asarray(latitude_deg) / _PLANE_DEG) ** 2)
    counts = np.log(np.clip(np.nan_to_num(n_pred), 1.0, _MAX_COUNTS)) * np.isfinite(sqrt_ts)
    terms = [logit, logit**2, ts, ts**2, logit * ts, plane, plane * logit, plane * ts]
    terms += [counts, counts**2, counts * logit, counts * ts, counts * plane]
    terms += [scan, scan**2, scan * plane, scan * counts]
    return np.stack(np.broadcast_arrays(*terms), axis=-1)


@dataclass(frozen=True)
class Calibration:
    """Coefficients of the regression: a constant and the factors of the first `FEATURES`."""

    measured: Sequence  # for candidates with a fit
    unmeasured: Sequence  # for the others; factors of the terms of the fit are zero
    # Candidates of a lower probability of the network are not listed: the regression saw none.
    least_probability: float = 0.0

    def score(self, probability, latitude_deg, sqrt_ts=None, n_pred=None, scan_sqrt_ts=None):
        """Return the probability (n,) that candidates are real; parameters as in `features`.

        Examples
        --------
        >>> calibration = Calibration((0.0, 1.0) + 12 * (0.0,), (0.0, 1.0) + 12 * (0.0,))
        >>> calibration.score([0.25], [40.0]).round(2)
        array([0.25])
        """
        unknown = np.full(len(probability), np.nan)
        fitted = [
            unknown if x is None else np.asarray(x, float) for x in (sqrt_ts, n_pred, scan_sqrt_ts)
        ]
        known = np.isfinite(fitted[0])
        terms = features(probability, latitude_deg, *fitted)[:, : len(self.measured) - 1]
        constant = np.where(known, self.measured[0], self.unmeasured[0])
        factors = np.where(known[:, None], self.measured[1:], self.unmeasured[1:])
        exponent = constant + np.sum(terms * factors, axis=1)
        return 1 / (1 + np.exp(-np.clip(exponent, -50, 50)))

    def apply(self, sources):
        """Return a copy of a table of sources with the calibrated ``Score``."""
        sources = sources.copy()
        known = [np.asarray(sources[n]) if n in sources.colnames else None for n in _FITTED]
        probability, latitude_deg = np.asarray(sources["Probability"]), sources["GLAT"].value
        sources["Score"] = self.score(probability, latitude_deg, *known)
        return sources


@dataclass(frozen=True)
class ErrorFactors:
    """Factors on errors in k ranges of Galactic latitude, each a tuple (k,) of float."""

    latitude_deg: tuple  # where each range of the absolute latitude begins, ascending, first 0
    ellipse_68: tuple  # on the axes of the error ellipses
    ellipse_95: tuple
    counts: tuple  # on the errors of counts and flux
    index: tuple  # on the error of the photon index

    def apply(self, sources):
        """Return a copy of a table of measured sources, its errors multiplied by the factors."""
        sources, latitude_deg = sources.copy(), sources["GLAT"].to_value("deg")
        for kind, names in _SCALED.items():
            for name in set(names) & set(sources.colnames):  # fixed positions have no ellipses
                sources[name] = sources[name] * self.at(kind, latitude_deg)
        return sources

    def at(self, kind, latitude_deg):
        """Return the factors (n,) of one kind of error at Galactic latitudes (n,).

        Examples
        --------
        >>> factors = ErrorFactors((0.0, 10.0), (2.0, 1.0), (3.0, 1.0), (2.0, 1.5), (1.0, 1.0))
        >>> factors.at("counts", [-3.0, 40.0]).tolist()
        [2.0, 1.5]
        """
        begins = np.searchsorted(self.latitude_deg, np.abs(latitude_deg), side="right") - 1
        return np.asarray(getattr(self, kind), dtype=float)[begins]
