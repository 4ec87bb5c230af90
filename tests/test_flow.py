"""The shape of the package: which module may know which, what start-up may load, how long a
module may get."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import astro_unetloc

PACKAGE = Path(__file__).parents[1] / "astro_unetloc"

# A module imports only from those before it.
ORDER = """
    config columns messages geometry photons pixelization spectra
    fits_files energies wcs_maps healpix_maps event_lists gammapy_maps irf_files maps
    sky_cubes response response_files patches datasets manifest patch_files shards
    calibration error_factors network pretrained domain islands trials parts variations clustering
    localization psf_profiles pairs neighborhoods blends local_background source_model likelihood
    error_ellipses field_fit measurement classification references standard_catalogs catalog
    counterparts association match_results matching beneath limits detection_limits
    truth_matches judgement evaluation completeness shares residuals binned_scores score_tables
    comparison ds9 formats sky_files searched_sky figures case_pictures score_axes score_figures
    spectral_bins templates galaxy diffuse diffuse_photons spectral_shapes population truth
    source_library point_models export score_page realization simulation components training_skies
    detectability observation training_sets training predictions prediction_files workplace
    pipeline run_files evaluation_skies evaluation_sets evaluation_run evaluation_report
    terminal options commands evaluation_command cli
""".split()

# Who may import a heavy package; the reason is that a change of theirs then touches one place.
ALLOWED = {
    "gammapy": {"maps", "gammapy_maps", "irf_files", "export"},
    "keras": {"network", "pretrained", "training", "classification"},
    "tensorflow": {"network", "pretrained", "training", "classification"},
    "ai_edge_litert": {"pretrained"},
    "h5py": {"datasets", "patch_files", "prediction_files"},
    "sklearn": {"trials", "classification"},
    "jinja2": {"score_page"},
    "matplotlib": {"figures", "case_pictures", "score_axes", "score_figures"},
    "regions": {"export"},
}
HEAVY = [
    "ai_edge_litert",
    "astropy",
    "gammapy",
    "h5py",
    "healpy",
    "jinja2",
    "keras",
    "matplotlib",
    "regions",
    "scipy",
    "sklearn",
    "tensorflow",
]
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
MAX_LINES = 400


def parse(module):
    """Syntax tree of a module of the package."""
    path = PACKAGE / f"{module}.py"
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_names(tree):
    """Dotted names that are imported anywhere in a tree, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree):
    """Modules of the package that are imported in a tree."""
    parts = (name.split(".") for name in imported_names(tree))
    names = {part[1] for part in parts if part[0] == "astro_unetloc" and len(part) > 1}
    # A public name taken from the package itself comes from the module behind it.
    return {astro_unetloc._MODULE_OF.get(name, name) for name in names}


def loaded_by(code):
    """Heavy packages that a fresh interpreter holds after running ``code``."""
    script = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_every_module_has_its_place_in_the_flow():
    assert MODULES, f"no modules in {PACKAGE}"
    assert set(MODULES) <= set(ORDER), "give the new noun its place in ORDER"


def test_package_is_flat():
    folders = {path.name for path in PACKAGE.glob("[!._]*") if path.is_dir()}
    assert folders <= {"data"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_backwards(module):
    allowed = set(ORDER[: ORDER.index(module)]) | {"__version__"}
    assert own_imports(parse(module)) <= allowed


def test_import_finder_sees_imports_inside_functions():
    tree = ast.parse(
        "def f():\n    from astro_unetloc import find_sources\n    import astro_unetloc.maps\n"
    )
    assert own_imports(tree) == {"pipeline", "maps"}


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_stay_where_they_belong(module):
    roots = {name.split(".")[0] for name in imported_names(parse(module))}
    misplaced = {
        root for root, allowed in ALLOWED.items() if root in roots and module not in allowed
    }
    assert not misplaced


@pytest.mark.parametrize("module", MODULES)
def test_module_stays_short(module):
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, "split by noun"


@pytest.mark.parametrize("module", [name for name in MODULES if name != "cli"])
def test_only_the_command_line_prints(module):
    calls = (node for node in ast.walk(parse(module)) if isinstance(node, ast.Call))
    assert not [
        node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def test_import_loads_nothing_heavy():
    assert loaded_by("import astro_unetloc") == []


def test_help_loads_nothing_heavy_and_exits_with_zero():
    code = """
sys.argv = ["astro-unetloc", "--help"]
from astro_unetloc.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert loaded_by(code) == []


@pytest.mark.parametrize("name", sorted(astro_unetloc.__all__))
def test_public_name_can_be_imported(name):
    assert getattr(astro_unetloc, name) is not None
    assert name in dir(astro_unetloc)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'find_source'"):
        astro_unetloc.find_source  # noqa: B018


def test_public_names_are_listed_by_their_modules():
    from importlib import import_module

    for name, module in astro_unetloc._MODULE_OF.items():
        assert name in import_module(f"astro_unetloc.{module}").__all__
