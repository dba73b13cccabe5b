"""How Sphinx builds the documentation: ``make docs``."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from rproxy import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
# What argparse takes for the width of the terminal: usages are to be the same wherever they are built.
os.environ["COLUMNS"] = "90"

project = "rproxy"
author = "The rproxy developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosectionlabel",
    # Those of docs/_extensions.
    "commanddoc",
    "metricdoc",
]
exclude_patterns = ["_extensions"]

html_theme = "furo"
html_title = f"rproxy {version}"
html_static_path: list[str] = []
html_copy_source = False
# The two hyphens of an option stay two hyphens.
smartquotes = False

# A section is named as in `Promises <reference/protocol:Promises>`, so that no two pages need different titles.
autosectionlabel_prefix_document = True
autosectionlabel_maxdepth = 2

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 100
# Other projects' classes are named and not linked: to find them would take the network.
nitpick_ignore_regex = [("py:.*", r"(collections|twisted)\..*")]


def name_interfaces(app: Sphinx, what: str, name: str, obj: object, options: object, *texts: str | None) -> Any:
    """Have interfaces in signatures named as classes are: they aren't any, and would show as they print themselves."""
    return tuple(text and re.sub(r"<InterfaceClass ([\w.]+)>", r"~\1", text) for text in texts)


def setup(app: Sphinx) -> None:
    """Tell Sphinx of it."""
    app.connect("autodoc-process-signature", name_interfaces)
