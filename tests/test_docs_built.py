"""The pages that Sphinx makes: without a warning, and with what is read from the code.

Sphinx itself warns of links that lead nowhere, between pages and to what the code has.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from rproxy import pooltap, tap
from rproxy.admin.metrics import PARTS
from rproxy.cli import COMMANDS
from tests.documentation import DOCS
from tests.support import ROOT, run

#: As the Makefile has it.
OPTIONS = ("-q", "-E", "-W", "--keep-going", "-n")


@pytest.mark.skipif(find_spec("sphinx") is None, reason="Sphinx isn't installed: only the documentation needs it")
def test_built(tmp_path: Path) -> None:
    """All pages are built, and the references have all options, commands and metrics."""
    assert f"sphinx {' '.join(OPTIONS)} docs " in (ROOT / "Makefile").read_text("utf-8")
    built = run([sys.executable, "-m", "sphinx", *OPTIONS, str(DOCS), str(tmp_path)])
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")

    def names(page: str, pattern: str) -> set[str]:
        return set(re.findall(pattern, (tmp_path / "reference" / f"{page}.html").read_text("utf-8")))

    for page, program, options in ("proxy", "rproxy", tap.Options()), ("server", "rpoolserver", pooltap.Options()):
        shown = names(page, rf'id="cmdoption-twistd-{program}-([a-z-]+)"')
        assert shown >= {name.rstrip("=") for name in options.longOpt}
        assert not names(page, r'href="tcp:'), "an endpoint is no link"
    assert names("commands", r"<h2>rproxy ([a-z0-9-]+)<") == {name for name, _, _ in COMMANDS}
    assert names("metrics", r">(rproxy_\w+)</span></code></p></td>") == {
        metric.name for part in PARTS for metric in part.metrics
    }
