"""Sphinx configuration: `make docs` runs the examples and builds the site, with warnings as errors."""

import sys
from pathlib import Path

import matplotlib

import torchlogreg

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parent))  # for gallery_hooks

project = "torchlogreg"
author = "The torchlogreg developers"
project_copyright = "The torchlogreg developers"
version = release = torchlogreg.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
templates_path = ["_templates"]
exclude_patterns = ["_build"]

# Methods inherited from scikit-learn refer to its glossary and its user guide.
suppress_warnings = ["ref.term", "ref.ref"]

autosummary_generate = True
autodoc_default_options = {"inherited-members": False}
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False

myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The build is where the examples are tested: each one runs, every time, and a warning or an error in it ends the build.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py",
    "within_subsection_order": "gallery_hooks.HeaderOrder",
    "reset_modules": ("matplotlib", "gallery_hooks.isolate"),
    "reset_modules_order": "both",
    "run_stale_examples": True,
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "image_scrapers": ("matplotlib",),
    "plot_gallery": True,
    "capture_repr": (),
}

html_theme = "pydata_sphinx_theme"
html_title = "torchlogreg"
html_favicon = html_logo = "_static/sigmoid.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "torchlogreg"},
    "navigation_with_keys": False,
    "show_prev_next": True,
    "header_links_before_dropdown": 5,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "light"}
html_sidebars = {page: [] for page in ("getting-started", "performance", "benchmarks", "changelog", "contributing")}
toc_object_entries_show_parents = "hide"

# The pages of the repository that link to each other as files: their links lead to the pages of this site.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}


def relink(_app, _docname, source):
    """Point links between files of the repository at pages of the site."""
    text = source[0]
    for path, page in PAGES.items():
        text = text.replace(f"](../{path})", f"]({page})")
    text = text.replace("](docs/", "](")
    source[0] = text


def setup(app):
    """Connect the hook."""
    app.connect("source-read", relink)
    (Path(app.srcdir) / "gallery").mkdir(exist_ok=True)
