"""The shape of the package: which room may import which, and what start-up may load."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import astro_unetloc

PACKAGE = Path(__file__).parents[1] / "astro_unetloc"

# A room imports only from those of the lines above its own, never from one of its own line.
RANKS = (
    {"exceptions"},
    {"executors"},
    {"files", "sphere"},
    {"cubes"},
    {"unet"},
    {"irf", "catalog"},
    {"maps"},
    {"simulation", "detection", "measurement", "classification", "plot"},
    {"run"},
    {"training", "pipeline", "report"},
    {"products", "evaluation", "follow_up"},
    {"batch"},
    {"cli"},
)
RANK_OF = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
HEAVY = (
    "tensorflow", "keras", "ai_edge_litert", "gammapy", "healpy", "sklearn", "scipy", "matplotlib",
    "h5py", "astropy",
)  # fmt: skip
FILES = sorted(
    path.relative_to(PACKAGE)
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
)


def room_of(path):
    """Room of a file: its folder, or the file itself beside the door."""
    return path.parts[0].removesuffix(".py")


def imported_modules(path):
    """Dotted modules of the package that a file imports, inside functions too."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "astro_unetloc":
                yield from (f"astro_unetloc.{alias.name}" for alias in node.names)
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def loaded_by(code):
    """Heavy packages that a fresh interpreter holds after running ``code``."""
    script = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_between_rooms_point_one_way(path):
    room = room_of(path)
    parts = (name.split(".") for name in imported_modules(path))
    rooms = {part[1] for part in parts if part[0] == "astro_unetloc" and len(part) > 1}
    below = {other for other in RANK_OF if RANK_OF[other] < RANK_OF[room]}
    assert rooms - {room, "__version__"} <= below


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) != "cli"], ids=str)
def test_only_the_command_line_prints(path):
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


def test_import_loads_nothing_heavy():
    assert loaded_by("import astro_unetloc") == []


def test_help_loads_nothing_heavy_and_exits_with_zero():
    code = """
sys.argv = ["astro-unetloc", "--help"]
from astro_unetloc.cli.main import main
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


@pytest.mark.parametrize("room", sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py")))
def test_face_of_a_room_is_what_it_lists(room):
    module = import_module(f"astro_unetloc.{room}")
    assert all(getattr(module, name) is not None for name in getattr(module, "__all__", ()))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="find_source"):
        astro_unetloc.find_source  # noqa: B018
