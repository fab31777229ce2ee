"""Configuration of the documentation: `make docs`, or `sphinx-build -W --keep-going docs docs/_build/html`."""

import importlib.metadata
import sys
from pathlib import Path

import dvi

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.modules["dvi.schedules"] = dvi.schedules  # a public name for a module elsewhere, which autodoc has to import

project = "dvi"
author = "The dvi developers"
release = version = importlib.metadata.version("dask-vi")

extensions = [
    "mathml",
    "myst_nb",
    "numpydoc",
    "quickstart",
    "references",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
exclude_patterns = ["_build", "_ext", "_generated"]
templates_path = ["_templates"]

# Pages run when they are read, each in a folder of its own. An error, and a word on standard error, is a warning.
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 600  # seconds, for one cell
nb_execution_show_tb = True
nb_output_stderr = "remove-warn"
nb_merge_streams = True

autosummary_generate = True
autosummary_ignore_module_all = False  # __all__ says what is public
autodoc_typehints = "none"  # numpydoc shows types beside the parameters
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template of a class lists them

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = f"dvi {release}"
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2, "secondary_sidebar_items": ["page-toc"]}
html_sidebars = {"index": [], "tutorials/*": [], "how-to/*": [], "explanation/*": []}  # pages that are few
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sourcelink = False
