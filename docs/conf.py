"""Sphinx configuration; generates the tables of defaults and commands, and the changes."""

import dataclasses
import os
import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from urllib.request import urlopen

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

sys.path.insert(0, str(Path(__file__).parent))
from tables import list_table

project = "astro_unetloc"
author = "The astro_unetloc developers"
copyright = f"2026, {author}"
release = version = installed_version("astro_unetloc")

extensions = [
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build", "_generated", "changes/template.rst", "changes/[0-9+]*", "tutorials",
    "sg_execution_times.rst", "gallery/sg_execution_times.rst",
]  # fmt: skip
default_role = "py:obj"
nitpicky = True
suppress_warnings = ["config.cache"]  # the gallery takes a function
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the texts state them
numpydoc_show_class_members = False
copybutton_prompt_text = "$ "

html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_title = "astro_unetloc"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["style.css"]

# Objects of these packages are links where the indices of their documentation can be reached.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", None),
    "astropy": ("https://docs.astropy.org/en/stable/", None),
    "gammapy": ("https://docs.gammapy.org/stable/", None),
    "healpy": ("https://healpy.readthedocs.io/en/latest/", None),
    "matplotlib": ("https://matplotlib.org/stable/", None),
    "mocpy": ("https://cds-astro.github.io/mocpy/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "regions": ("https://astropy-regions.readthedocs.io/en/stable/", None),
}
# These have no index, or none that Sphinx reads.
nitpick_ignore_regex = [("py:.*", r"(keras|tqdm|dask|distributed)\..*")]
try:
    urlopen("https://docs.python.org/3/objects.inv", timeout=5)
except OSError:  # without the internet their names are plain text
    others = "|".join(["concurrent", "pathlib", *intersphinx_mapping])
    nitpick_ignore_regex.append(("py:.*", rf"({others})(\..*)?"))
    intersphinx_mapping = {}


def save_figures(block, block_vars, gallery_conf):
    """Save the figures that a block of a tutorial made, and return their reStructuredText."""
    paths = []
    for value in block_vars["example_globals"].values():
        if isinstance(value, Figure) and not hasattr(value, "saved"):
            paths.append(next(block_vars["image_path_iterator"]))
            value.savefig(paths[-1], dpi=100)
            value.saved = True
    return figure_rst(paths, gallery_conf["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    "filename_pattern": os.environ.get("TUTORIALS", ""),
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "min_reported_time": 1e9,
    "plot_gallery": os.environ.get("TUTORIALS") != "none",
    "capture_repr": ("_repr_html_",),
    "image_scrapers": (save_figures,),
    "show_signature": False,
}
# The publisher answers programs with 403.
linkcheck_ignore = [r"https://doi\.org/10\.1051/.*"]

GENERATED = Path(__file__).parent / "_generated"


def defaults_table(configs):
    """Return the table of the fields and defaults of all configurations."""
    rows = []
    for config in configs:
        name = f"{config.__module__}.{config.__name__}"
        rows += [
            (f"`~{name}`", f"``{field.name}``", f"``{field.default!r}``")
            for field in dataclasses.fields(config)
            if field.default is not dataclasses.MISSING
        ]
    return list_table(("configuration", "field", "default"), rows, "40 35 25")


def literal(text):
    """Return a literal block."""
    body = "\n".join(f"   {line}".rstrip() for line in text.rstrip().splitlines())
    return f".. code-block:: text\n\n{body}\n"


def command_help():
    """Return the output of ``--help`` of the program and of each sub-command."""
    from astro_unetloc.cli.main import COMMANDS

    def run(*words):
        command = [sys.executable, "-m", "astro_unetloc", *words, "--help"]
        environ = {**os.environ, "COLUMNS": "90"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
        return literal(" ".join(["$ astro-unetloc", *words, "--help\n"]) + done.stdout)

    return "\n".join([run(), *(run(name) for name in sorted(COMMANDS) if name != "find")])


def unreleased_changes():
    """Return the entries that the next release will have."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--date", "not released"]
    options = {"cwd": Path(__file__).parents[1], "capture_output": True, "text": True}
    return subprocess.run([*command, "--version", version], check=True, **options).stdout


def write_generated(app):
    """Write the generated files that have changed."""
    from astro_unetloc.detection.clustering import ClusteringConfig
    from astro_unetloc.detection.localization import LocalizationConfig
    from astro_unetloc.maps.patches import GridConfig
    from astro_unetloc.measurement.data import MeasurementConfig
    from astro_unetloc.training.observation import TrainingConfig

    configs = GridConfig, ClusteringConfig, LocalizationConfig, MeasurementConfig, TrainingConfig

    texts = {
        "defaults.rst": defaults_table(configs),
        "commands.rst": command_help(),
        "changes.rst": unreleased_changes(),
    }
    GENERATED.mkdir(exist_ok=True)
    for name, text in texts.items():
        path = GENERATED / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app):
    """Write the generated files before Sphinx reads the pages."""
    app.connect("builder-inited", write_generated)
