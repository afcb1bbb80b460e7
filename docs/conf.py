"""How the manual is built: ``sphinx-build -W -b html docs build/manual``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# the pages' cells run in processes of their own, which find the pictures by it
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# small programs: what counts here is the seconds that they take to compile
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import written  # noqa: E402  (a neighbour of this file)

project = "vi_recipes"
author = "the authors of vi_recipes"
project_copyright = author
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "numpydoc",
]
exclude_patterns = ["_written"]
html_theme = "furo"
html_title = "vi_recipes"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["manual.css"]
html_show_sphinx = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / "build" / "manual_cells")
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False


def setup(app: object) -> None:
    """Write what follows from the code before the pages are read."""
    written.write(HERE / "_written")
