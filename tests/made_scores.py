"""Tables of scores made by hand, one of each kind, to draw and to put on a page."""

import astropy.units as u
import numpy as np
from astropy.table import QTable

SKIES = ["all sky", "|b| > 10 deg", "|b| < 10 deg"]
EDGES = np.array([8.0, 12.0, 20.0, 50.0, 200.0, np.inf])
N_BINS = len(EDGES) - 1


def fraction(name, values, error=0.03):
    """Columns of a fraction with its interval."""
    values = np.asarray(values, dtype=float)
    low, high = np.clip(values - error, 0, 1), np.clip(values + error, 0, 1)
    return {name: values, f"{name}_Low": low, f"{name}_High": high}


def binned(edges, unit=None):
    """Completeness and purity in bins."""
    edges = edges if unit is None else edges * unit
    rising = np.linspace(0.5, 1.0, N_BINS)
    return {
        "Low": edges[:-1],
        "High": edges[1:],
        "N_True": np.arange(N_BINS, 0, -1) * 40,
        "N_Found": np.arange(N_BINS, 0, -1) * 30,
        **fraction("Completeness", rising),
        "N_Listed": np.arange(N_BINS, 0, -1) * 35,
        "N_True_Positive": np.arange(N_BINS, 0, -1) * 32,
        **fraction("Purity", np.where(rising < 0.6, np.nan, rising)),
    }


def by_sky(columns, skies=SKIES[1:]):
    """The rows once for each part of the sky."""
    n_rows = len(next(iter(columns.values())))
    columns = {name: np.concatenate([values] * len(skies)) for name, values in columns.items()}
    return {"Sky": np.repeat(skies, n_rows), **columns}


def make_columns():
    """Columns of each table, by its name."""
    rng = np.random.default_rng(0)
    score = np.linspace(0, 1, 50)
    tile = [f"1010/{number}" for number in range(60)]
    n_true = rng.poisson(4, 60)
    flux = np.array([1e-11, 2e-11, 4e-11, 1e-10, 4e-10, 1e-8])
    photons = {"Low": EDGES[:-1], "High": EDGES[1:]}
    edges = np.linspace(0.05, 1, 16)
    middle = (edges[1:] + edges[:-1]) / 2
    return {
        "summary_table": {
            "Sky": SKIES, "N_True": [4321, 3000, 1321], "N_Listed": [4012, 2900, 1112],
            **fraction("Completeness", [0.91, 0.95, 0.82], 0.01),
            **fraction("Purity", [0.94, 0.96, 0.9], 0.01),
            "F1": [0.925, 0.955, 0.86], "Average_Precision": [0.93, 0.96, 0.85],
            "Completeness_At_95": [0.88, 0.94, 0.7],
            "Median_Offset": np.array([0.0171, 0.0169, 0.0181]) * u.deg,
            "Flux_50": np.array([1.5, 1.3, 2.6]) * 1e-11 / (u.cm**2 * u.s),
            "Flux_90": np.array([3.5, 3.0, np.nan]) * 1e-11 / (u.cm**2 * u.s),
            "Plateau": [0.99, 0.995, 0.89],
        },
        "by_threshold": by_sky(
            {"Score": score, "Completeness": 1 - 0.6 * score**3,
             "Purity": 1 - 0.7 * (1 - score) ** 4,
             "F1": 1 - (score - 0.5) ** 2},
            SKIES,
        ),
        "by_photons": binned(EDGES),
        "by_flux": binned(flux, 1 / (u.cm**2 * u.s)),
        "by_sqrt_ts": {k: v for k, v in binned(EDGES).items()
                       if not k.startswith(("Compl", "N_True", "N_Found"))},
        "by_latitude": binned(np.array([0.0, 2.0, 5.0, 10.0, 30.0, 90.0]) * u.deg),
        "by_class": {"Class": ["AGN", "PSR", "GAL"], "N_True": [3000, 900, 30],
                     "N_Found": [2800, 800, 20], **fraction("Completeness", [0.93, 0.89, 0.67])},
        "numbers_per_tile": {"Tile": tile, "N_True": n_true,
                             "N_Listed": np.clip(n_true + rng.integers(-1, 2, 60), 0, None)},
        "measurement_errors": by_sky({
            **photons, "N": np.arange(5, 0, -1) * 100,
            "Median_Offset": 0.05 / np.sqrt(np.arange(1, 6)), "N_Ellipse": np.full(5, 100),
            **fraction("In_68", np.linspace(0.66, 0.7, 5)),
            **fraction("In_95", np.linspace(0.93, 0.96, 5), 0.01),
            "N_Flux": np.full(5, 100), "Flux_Ratio": np.linspace(1.1, 1.0, 5),
            "Flux_Pull_Width": np.linspace(1.1, 1.0, 5),
            "Flux_Pull_Median": np.linspace(0.2, 0.0, 5),
            "N_Index": np.full(5, 100), "Index_Difference": np.linspace(0.1, 0.0, 5),
            "Index_Pull_Width": np.linspace(1.1, 1.0, 5),
            "Index_Pull_Median": np.linspace(0.2, 0.0, 5),
        }),
        "reliability": by_sky({
            "Low": edges[:-1:5], "High": edges[5::5], "Mean_Score": middle[2::5],
            "N": np.full(3, 100), "N_True_Positive": np.array([10, 50, 90]),
            **fraction("Fraction", [0.1, 0.5, 0.9]), "N_Any": np.full(3, 110),
            "N_Real": np.array([60, 90, 99]), **fraction("Fraction_Real", [0.6, 0.9, 0.99]),
            "Real_Above": [0.83, 0.945, 0.99],
        }, SKIES),
        "false_positives": {"Sky": SKIES, "N_False": [120, 60, 60], "N_Duplicates": [12, 2, 10],
                         "Area": np.array([41253.0, 34000.0, 7253.0]) * u.deg**2,
                         "Per_100_Deg2": [0.29, 0.18, 0.83]},
        "false_negatives": {"Reason": ["blended", "near an extended source", "plane", "faint",
                              "none of these"],
                   "N_Missed": [100, 10, 130, 200, 12], "N_True": [300, 20, 900, 1200, 2500],
                   "Fraction_Missed": [0.33, 0.5, 0.144, 0.167, 0.005]},
        "comparison": {"Sky": np.repeat(SKIES, 3),
                       "Statistic": ["average precision", "completeness", "median offset"] * 3,
                       "First": [0.93, 0.91, 0.017] * 3, "Second": [0.90, 0.91, 0.018] * 3,
                       "Difference": [0.03, 0.001, -0.001] * 3, "Low": [0.02, -0.01, -0.002] * 3,
                       "High": [0.04, 0.012, 0.0] * 3, "Significant": [True, False, False] * 3},
    }  # fmt: skip


META = {
    "numbers_per_tile": {"correlation": 0.95, "bias": -0.1, "scatter": 0.81},
    "reliability": {"ece": {"all sky": 0.01, "|b| > 10 deg": 0.012, "|b| < 10 deg": 0.024}},
}


def make_tables(names=None):
    """Tables of scores, by name; all of them by default."""
    tables = {}
    for name, columns in make_columns().items():
        if names is None or name in names:
            meta = {"title": name.replace("_", " ").capitalize(), "about": f"About {name}."}
            tables[name] = QTable(columns, meta=meta | META.get(name, {}))
    return tables
