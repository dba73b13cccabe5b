"""The table of all metrics, read from where they are made, as Sphinx shows it: ``.. metrics::``."""

from __future__ import annotations

from collections.abc import Iterator

from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rproxy.admin.metrics import PARTS


def lines() -> Iterator[str]:
    """Yield the reStructuredText of the table."""
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 34 10 22 34", "")
    yield from row("Name", "Type", "Labels", "Meaning")
    for part in PARTS:
        for metric in part.metrics:
            labels = ", ".join(f"``{label}``" for label in (*part.labels, *metric.labels))
            yield from row(f"``{metric.name}``", metric.kind, labels or "—", metric.help)


def row(first: str, *others: str) -> Iterator[str]:
    """Yield a row of the table."""
    yield f"   * - {first}"
    yield from (f"     - {text}" for text in others)


class Metrics(SphinxDirective):
    """All metrics."""

    def run(self) -> list[Node]:
        return self.parse_text_to_nodes("\n".join(lines()))


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of it."""
    app.add_directive("metrics", Metrics)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
