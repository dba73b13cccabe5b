"""What a command prints, and where: for people, or one object for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from attrs import frozen

from rproxy.commands.showing import plain


@frozen
class Terminal:
    """Where a command prints.

    :ivar as_json: whether a program reads: then ``out`` has one object, and all that is said goes to ``err``.
    """

    out: TextIO
    err: TextIO
    as_json: bool

    def say(self, *lines: str) -> None:
        """Tell what happens, at once."""
        for line in lines:
            print(plain(line), file=self.err if self.as_json else self.out, flush=True)

    def end(self, lines: Sequence[str], value: Mapping[str, Any]) -> None:
        """Tell what came of it: lines for people, or an object."""
        if self.as_json:
            print(json.dumps(value), file=self.out, flush=True)
        else:
            self.say(*lines)

    def fail(self, text: str) -> None:
        """Tell why nothing came of it."""
        if self.as_json:
            print(json.dumps({"error": text}), file=self.out, flush=True)
        else:
            print(f"rproxy ec2: {plain(text)}", file=self.err, flush=True)
