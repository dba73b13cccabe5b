"""The pages of the documentation, read by tests: their sections, their tables, and the commands that they show."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from tests.support import PATIENCE, ROOT

README = ROOT / "README.rst"
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.rst"
PROTOCOL = DOCS / "reference" / "protocol.rst"
#: What a code forge shows: plain reStructuredText, with links to files.
PLAIN = (README, *(ROOT / name for name in ("CHANGELOG.rst", "CONTRIBUTING.rst", "examples/README.rst")))
#: All that people read, those that Sphinx builds too.
PAGES = (*PLAIN, *sorted(DOCS.rglob("*.rst")))


def section(page: Path, title: str) -> str:
    """The text under a title, down to the next one of the same rank."""
    text = page.read_text("utf-8")
    begin = re.search(rf"^{re.escape(title)}\n([-=~])\1+\n", text, re.MULTILINE)
    assert begin is not None, f"{page.name} has no section {title!r}"
    end = re.compile(rf"^.+\n{re.escape(begin[1])}{{3,}}\n", re.MULTILINE).search(text, begin.end())
    return text[begin.end() : end.start() if end else None]


def indented_blocks(text: str, opening: str) -> Iterator[str]:
    """What stands indented below each line that matches ``opening``, without the indentation and the options."""
    for match in re.finditer(rf"^ *{opening}\n((?:(?: .*)?\n)+)", text, re.MULTILINE):
        yield re.sub(r"\A(?::.*\n)*\n*", "", textwrap.dedent(match[1]))


def code_blocks(text: str, language: str) -> list[str]:
    """The code blocks in a language."""
    return [f"{block.rstrip()}\n" for block in indented_blocks(text, rf"\.\. code-block:: {language}")]


def table(text: str) -> list[list[str]]:
    """The rows of the first list-table, without the header."""
    block = next(indented_blocks(text, r"\.\. list-table::"))
    rows = [re.split(r"^  - ", row, flags=re.MULTILINE) for row in re.split(r"^\* - ", block, flags=re.MULTILINE)[1:]]
    return [[" ".join(cell.split()) for cell in row] for row in rows[1:]]


def codes_of(page: Path) -> dict[str, list[str]]:
    """The rows of a page's table of error codes by their code."""
    return {row[0].strip("`"): row for row in table(section(page, "Error codes"))}


@frozen
class Command:
    """What is typed, and what comes of it."""

    typed: str
    output: list[str]

    @property
    def argv(self) -> list[str]:
        """Its words, as a shell takes them apart."""
        return shlex.split(self.typed)


def commands(text: str) -> list[Command]:
    """The commands of the console blocks."""
    return [
        Command(typed, output)
        for block in code_blocks(text, "console")
        for typed, *output in (part.splitlines() for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:])
    ]


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What this Python made of its arguments, in the project's folder or another."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
