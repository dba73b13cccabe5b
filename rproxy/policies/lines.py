"""On which line of a TOML file a value stands.

The parser doesn't tell where it found what. But the beginnings of the file that end between two values are TOML too,
and from some line on they have the value.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

#: Keys, from the outermost table inwards; the place of an item in a list may be the last.
Keys = tuple[str | int, ...]

#: What matters for where a value of TOML ends: texts, comments, brackets, commas, and the ends of lines.
_TOKEN = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*|[][{},\n]''', re.DOTALL
)
_NO_ITEM = re.compile(r"(?:\s|#[^\n]*)*")


def line_of(text: str, path: Keys) -> int:
    """The line, counted from 1, on which the value at a path of keys begins, or its innermost table that is there.

    :param text: valid TOML.
    """
    starts = list(_starts(text))
    keys = [key for key in path if isinstance(key, str)]
    index = bisect_left(starts[1:], True, key=lambda end: _has(tomllib.loads(text[:end]), keys))
    if index == len(starts) - 1:
        return line_of(text, path[:-1]) if len(path) > 1 else 1
    start = starts[index]
    if len(keys) < len(path):
        start = _item(text, start, int(path[-1]))
    return text.count("\n", 0, start) + 1


def _starts(text: str) -> Iterator[int]:
    """Where something begins that is TOML by itself, and where the text ends."""
    yield 0
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if token[0] == "\n" and not depth:
            yield token.end()
    yield len(text)


def _has(tables: Any, keys: list[str]) -> bool:
    for key in keys:
        tables = tables.get(key) if isinstance(tables, dict) else None
    return tables is not None


def _item(text: str, start: int, number: int) -> int:
    """Where an item of the list begins that begins at ``start``; there too where it is in a table in one line."""
    depth = commas = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] == "{" and not depth:
            break
        depth += (token[0] in "[{") - (token[0] in "]}")
        commas += token[0] == "," and depth == 1
        if depth == 1 and token[0] in "[," and commas == number:
            item = _NO_ITEM.match(text, token.end())
            return item.end() if item else start
    return start
