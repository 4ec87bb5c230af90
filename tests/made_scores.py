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


def binned(edges, unit=1):
    """Completeness and purity in bins."""
    edges, number, rising = edges * unit, np.arange(N_BINS, 0, -1), np.linspace(0.5, 1.0, N_BINS)
    return {
        "Low": edges[:-1], "High": edges[1:], "N_True": number * 40, "N_Found": number * 30,
        **fraction("Completeness", rising), "N_Listed": number * 35, "N_True_Positive": number * 32,
        **fraction("Purity", np.where(rising < 0.6, np.nan, rising)),
    }  # fmt: skip


def by_sky(columns, skies=SKIES[1:]):
    """The rows once for each part of the sky."""
    n_rows = len(next(iter(columns.values())))
    columns = {name: np.concatenate([values] * len(skies)) for name, values in columns.items()}
    return {"Sky": np.repeat(skies, n_rows), **columns}


def make_columns():
    """Columns of each table, by its name."""
    rng, five = np.random.default_rng(0), np.arange(1, 6)
    score, n_true = np.linspace(0, 1, 50), rng.poisson(4, 60)
    flux = np.array([1e-11, 2e-11, 4e-11, 1e-10, 4e-10, 1e-8])
    errors = {"Low": EDGES[:-1], "High": EDGES[1:], "N": five[::-1] * 100,
              "Median_Offset": 0.05 / np.sqrt(five), "N_Ellipse": np.full(5, 100),
              **fraction("In_68", np.linspace(0.66, 0.7, 5)),
              **fraction("In_95", np.linspace(0.93, 0.96, 5), 0.01)}  # fmt: skip
    for kind, column, values in (
        ("Flux", "Flux_Ratio", np.linspace(1.1, 1.0, 5)),
        ("Index", "Index_Difference", np.linspace(0.1, 0.0, 5)),
    ):
        errors |= {f"N_{kind}": np.full(5, 100), column: values}
        errors[f"{kind}_Pull_Width"] = np.linspace(1.1, 1.0, 5)
        errors[f"{kind}_Pull_Median"] = np.linspace(0.2, 0.0, 5)
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
             "Purity": 1 - 0.7 * (1 - score) ** 4, "F1": 1 - (score - 0.5) ** 2}, SKIES,
        ),
        "by_photons": binned(EDGES),
        "by_flux": binned(flux, 1 / (u.cm**2 * u.s)),
        "by_sqrt_ts": {k: v for k, v in binned(EDGES).items()
                       if not k.startswith(("Compl", "N_True", "N_Found"))},
        "by_latitude": binned(np.array([0.0, 2.0, 5.0, 10.0, 30.0, 90.0]) * u.deg),
        "by_class": {"Class": ["AGN", "PSR", "GAL"], "N_True": [3000, 900, 30],
                     "N_Found": [2800, 800, 20], **fraction("Completeness", [0.93, 0.89, 0.67])},
        "numbers_per_tile": {"Tile": [f"1010/{number}" for number in range(60)], "N_True": n_true,
                             "N_Listed": np.clip(n_true + rng.integers(-1, 2, 60), 0, None)},
        "measurement_errors": by_sky(errors),
        "reliability": by_sky({
            "Low": [0.05, 0.3, 0.7], "High": [0.3, 0.7, 1], "Mean_Score": [0.2, 0.5, 0.9],
            "N": np.full(3, 100), "N_True_Positive": np.array([10, 50, 90]),
            **fraction("Fraction", [0.1, 0.5, 0.9]), "N_Any": np.full(3, 110),
            "N_Real": np.array([60, 90, 99]), **fraction("Fraction_Real", [0.6, 0.9, 0.99]),
            "Real_Above": [0.83, 0.945, 0.99],
        }, SKIES),
        "false_positives": {
            "Sky": SKIES, "N_False": [120, 60, 60], "N_Duplicates": [12, 2, 10],
            "Area": np.array([41253.0, 34000.0, 7253.0]) * u.deg**2,
            "Per_100_Deg2": [0.29, 0.18, 0.83],
        },
        "false_negatives": {
            "Reason": ["blended", "near an extended source", "plane", "faint", "none of these"],
            "N_Missed": [100, 10, 130, 200, 12], "N_True": [300, 20, 900, 1200, 2500],
            "Fraction_Missed": [0.33, 0.5, 0.144, 0.167, 0.005],
        },
        "comparison": by_sky({
            "Statistic": ["average precision", "completeness", "median offset"],
            "First": [0.93, 0.91, 0.017], "Second": [0.90, 0.91, 0.018],
            "Difference": [0.03, 0.001, -0.001], "Low": [0.02, -0.01, -0.002],
            "High": [0.04, 0.012, 0.0], "Significant": [True, False, False],
        }, SKIES),
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
