"""What commands take, read from the code that parses it, as Sphinx shows it.

``.. service-options:: twistd rproxy`` with ``:options: rproxy.tap.Options`` has the options of a service of twistd:
those of a ``twisted.python.usage.Options``. ``.. commands:: rproxy.cli.make_parser`` has a section for each command of
a parser of argparse: what it does, its usage, and all that it takes.

A help text is shown as it is: none of it is read as markup.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, ClassVar

from docutils.nodes import Node
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from twisted.python.usage import Options

#: What means something to reStructuredText wherever it stands; a colon and an at-sign make links.
_MARKUP = re.compile(r"([\\*`|_<>:@])")


def plain(text: str) -> str:
    """Return reStructuredText that shows a text as it is, in one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def described(forms: list[str], text: str) -> Iterator[str]:
    """Yield the description of one option or argument, which may be written in several forms."""
    yield from (f".. option:: {', '.join(forms)}", "", f"   {plain(text)}", "")


def service_lines(program: str, options: Options) -> Iterator[str]:
    """Yield all options of a service, in the order of their names."""
    yield from (f".. program:: {program}", "")
    shorts = {name: letter for letter, name in options.synonyms.items() if len(letter) == 1}
    for name, value in sorted((key.removesuffix("="), " VALUE" * key.endswith("=")) for key in options.longOpt):
        forms = [f"--{name}{value}", *([f"-{shorts[name]}{value}"] if name in shorts else [])]
        default = options.defaults.get(name) if value else None
        yield from described(
            forms, (options.docs[name] or "") + (f" [default: {default}]" if default is not None else "")
        )


def command_lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the section of a command, and those of the commands below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield from (parser.prog, "~" * len(parser.prog), "")
    yield from (f".. program:: {parser.prog}", "", plain(parser.description or ""), "")
    yield from (".. code-block:: text", "")
    # Further lines are indented by as much as the first one has for the word.
    yield from (f"   {line[len('usage: ') :]}" for line in parser.format_usage().splitlines())
    yield ""
    for action in parser._actions:
        if action not in below and not isinstance(action, argparse._HelpAction):
            yield from described(forms_of(action), parser._get_formatter()._expand_help(action))
    yield from (plain(parser.epilog or ""), "")
    for action in below:
        for command in action.choices.values():
            yield from command_lines(command)


def forms_of(action: argparse.Action) -> list[str]:
    """Return how an argument is written: an option's names with its value, or the name of one that has a place."""
    metavar: Any = action.metavar or action.dest
    if not action.option_strings:
        return [metavar]
    value = "" if action.nargs == 0 else f" {metavar}"
    return [f"{name}{value}" for name in action.option_strings]


def found(path: str) -> Any:
    """Return what a dotted path leads to."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


class ServiceOptions(SphinxDirective):
    """All options of a service."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {"options": directives.unchanged_required}

    def run(self) -> list[Node]:
        """Return their descriptions."""
        return self.parse_text_to_nodes("\n".join(service_lines(self.arguments[0], found(self.options["options"])())))


class Commands(SphinxDirective):
    """All commands of a parser."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Return their sections."""
        text = "\n".join(command_lines(found(self.arguments[0])()))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of it."""
    app.add_directive("service-options", ServiceOptions)
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
