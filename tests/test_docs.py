"""The documentation tells what is there: its samples, tables and names are those of the code."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from importlib.util import find_spec
from io import StringIO
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import skipUnless

from attrs import asdict, fields, frozen
from twisted.python.usage import Options
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets, pooltap, tap
from rproxy.cli import COMMANDS, make_parser
from rproxy.framing import Framer
from rproxy.limits import Limits
from rproxy.logs.access import Access
from rproxy.logs.lines import COMMON
from rproxy.packets import Ack, Data, Error, PacketError, Setup
from rproxy.policies import PRIVATE, ClientRule, Policies, Policy, ServerRule, digest
from rproxy.policies.reading import PoliciesError, parse, read
from rproxy.pool.leasing import DEFAULT_LEASE
from rproxy.stores.redis.script import channel, keys
from rproxy.stores.replica import BEAT, RENEWAL_SHARE, RENEWAL_WAIT
from tests.documentation import (
    DOCS,
    PAGES,
    PLAIN,
    PROTOCOL,
    TUTORIAL,
    code_blocks,
    codes_of,
    commands,
    python,
    section,
    table,
)
from tests.redisserver import ALLOWED
from tests.support import ROOT
from tests.test_packaging import MODULES, ORDER, PACKAGE, is_pure

POLICIES = DOCS / "reference" / "policies.rst"
POLICIES_HOWTO = DOCS / "howto" / "policies.rst"
ARCHITECTURE = DOCS / "explanation" / "architecture.rst"
SCALING = DOCS / "howto" / "scaling.rst"
SHARING = DOCS / "explanation" / "sharing.rst"
LOGS = DOCS / "reference" / "logs.rst"

#: Pages whose commands are run, here and in test_docs_examples.
RUN = frozenset({TUTORIAL, POLICIES_HOWTO, DOCS / "howto" / "audit.rst"})

#: Options that the pages name and that are those of other commands.
FOREIGN = frozenset(
    {"--pidfile", "--uid", "--logfile", "--logger", "--syslog"}
    | {"--now", "--unit", "--upgrade", "--reference"}
    | {"--signal", "--kill-whom", "--enable-optimizations", "--seed", "--seeds", "--seconds", "--again"}
    | {"--no-install-recommends", "--annotate", "--short", "--ignored", "--only", "--quick"}
)
#: What stands behind these commands is theirs.
FOREIGN_COMMAND = re.compile(r"\b(?:aws|docker|podman|pip) (?:.*\\\n)*.*")


class SampleTests(SynchronousTestCase):
    """Packets that the pages show are packets."""

    def test_samples(self) -> None:
        """Each is whole, and its size is right."""
        for page in PAGES:
            # A policy of AWS is JSON as well.
            for block in (block for block in code_blocks(page.read_text("utf-8"), "json") if '"type"' in block):
                for packet in self.packets_in(block):
                    self.assertFalse(not isinstance(packet, Setup) and packets.size_is_wrong(packet), packet)

    def test_one_of_each(self) -> None:
        """The protocol's page shows all four types, in the order of its table."""
        block, *_ = code_blocks(section(PROTOCOL, "Packets"), "json")
        self.assertEqual([type(packet) for packet in self.packets_in(block)], [Data, Setup, Ack, Error])

    def packets_in(self, text: str) -> list[packets.Packet]:
        framer: Framer[Data] = Framer(lambda raw: None, 1 << 20)
        framer.feed(text.encode())
        found = []
        while (frame := framer.next()) is not None:
            found.append(packets.decode(frame[0]))
        self.assertFalse(framer.in_packet, text)
        return found


class ErrorCodeTests(SynchronousTestCase):
    """The tables of error codes have those that the code uses."""

    #: Whose arguments are error codes.
    refusing = frozenset({"StreamError", "_refuse", "_refuse_setup", "error", "refuse"})
    code = re.compile(r"[a-z]+(-[a-z]+)*")
    delivered = frozenset({"no", "unknown"})

    def used(self) -> Iterator[tuple[str, str]]:
        """Each code that an error packet is made with, and the ``delivered`` that stands beside it, or ``""``."""
        for path in PACKAGE.rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in self.refusing:
                    texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
                    words = [text for text in texts if isinstance(text, str) and self.code.fullmatch(text)]
                    delivered = next((word for word in words if word in self.delivered), "")
                    yield from ((word, delivered) for word in words if word not in self.delivered)

    def test_protocol(self) -> None:
        """All of them, no others, and with what they say about delivery."""
        documented = codes_of(PROTOCOL)
        used = set(self.used())
        self.assertEqual({*documented}, {code for code, _ in used})
        for code, delivered in used:
            self.assertIn(delivered, documented[code][2])


class OptionTests(SynchronousTestCase):
    """Every option that a page names exists, and every command can be understood."""

    def known(self) -> set[str]:
        """The options of all commands."""
        services: tuple[Options, ...] = (tap.Options(), pooltap.Options())
        names = {f"--{name.rstrip('=')}" for options in services for name in options.longOpt}
        for _, _, command in COMMANDS:
            parser = ArgumentParser()
            command.add_arguments(parser)
            names.update(re.findall(r"--[a-z-]+", "".join(self.usages(parser))))
        return names

    def usages(self, parser: ArgumentParser) -> Iterator[str]:
        """What a command takes, and what the commands below it do."""
        yield parser.format_usage()
        for action in parser._actions:
            if isinstance(action, _SubParsersAction):
                for below in action.choices.values():
                    yield from self.usages(below)

    def test_named(self) -> None:
        """Wherever it is named."""
        known = self.known()
        for page in PAGES:
            text = FOREIGN_COMMAND.sub("", page.read_text("utf-8"))
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
            self.assertEqual(named - known - FOREIGN, set(), page.name)

    def test_proxy_options(self) -> None:
        """The protocol's page is about the proxy, so each option that it names is the proxy's."""
        known = {f"--{name.rstrip('=')}" for name in tap.Options().longOpt}
        named = set(re.findall(r"``(--[a-z-]+)``", PROTOCOL.read_text("utf-8")))
        self.assertEqual(named - known, set())

    def test_commands(self) -> None:
        """The options of a command are those of that command; they are given in the project's top folder."""
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(ROOT)
        # Those of some pages are run, one after the other, and need what others made.
        pages = [page.read_text("utf-8") for page in PAGES if page not in RUN]
        for command in (command for page in pages for command in commands(page)):
            if command.argv[0] == "twistd":
                # A handler is imported when it is named: other tests do that, in the folder that has it.
                handlers = ("--handler", "handlers:", "examples.")
                named = [argument for argument in command.argv if not argument.startswith(handlers)]
                options = pooltap.Options() if "rpoolserver" in named else tap.Options()
                first = next(place for place, argument in enumerate(named) if argument.startswith("rp"))
                options.parseOptions(named[first + 1 :])
            elif command.argv[0] == "rproxy":
                make_parser().parse_args(command.argv[1:])

    def test_limits(self) -> None:
        """The table of limits has every limit, its option, and its value."""
        limits = {name: value for name, value in asdict(Limits()).items() if name != "strict"}
        rows = table(section(PROTOCOL, "Limits"))
        self.assertEqual([float(value.split()[0]) for _, _, value in rows], [*limits.values()])
        options = {f"--{name.rstrip('=')}" for name in tap.Options().longOpt}
        for (_, option, _), name in zip(rows, limits, strict=True):
            own = f"--{name.replace('_', '-')}"
            self.assertEqual(option.strip("`"), own if own in options else "none")


class ModernFieldTests(SynchronousTestCase):
    """The table of a modern server's fields has those that there are, and their ranges."""

    def rows(self) -> list[list[str]]:
        return table(section(PROTOCOL, "What a modern server adds"))

    def setup_with(self, field: str, value: object) -> Setup:
        classic = {"type": "1", "id": "100", "privPolyId": "111", "listenport": "5000"}
        packet = packets.decode(json.dumps({**classic, field: value}).encode())
        assert isinstance(packet, Setup)
        return packet

    def test_fields(self) -> None:
        """Each, in the order of the class."""
        classic = {"type", "id", "policy", "listenport"}
        fields = [field for field in Setup.__struct_fields__ if field not in classic]
        self.assertEqual([row[0].strip("`") for row in self.rows()], fields)

    def test_ranges(self) -> None:
        """Both ends belong to a range, and what is beyond is refused; 0 is an end that doesn't."""
        pattern = re.compile(r"(?:over )?(\d+) to ([\d,]+)(?: seconds)?")
        found = {row[0].strip("`"): pattern.fullmatch(row[1]) for row in self.rows()}
        ranges = {field: match for field, match in found.items() if match is not None}
        self.assertEqual([*ranges], ["pipeline", "connections", "lease", "weight"])
        for field, match in ranges.items():
            least, most = int(match[1]), int(match[2].replace(",", ""))
            for good in {max(least, 1), most}:
                self.assertEqual(getattr(self.setup_with(field, good), field), good)
            for bad in least - 1, 0, most + 1:
                self.assertRaises(PacketError, self.setup_with, field, bad)


class PoliciesTests(SynchronousTestCase):
    """What the pages say of the policies file."""

    def test_example(self) -> None:
        """It is the file that is there, and it is right."""
        (block,) = code_blocks(section(POLICIES, "What it may say"), "toml")
        example = ROOT / "etc" / "rproxy" / "policies.toml"
        self.assertEqual(block, example.read_text("utf-8"))
        policies = read(example, Policies()).by_name
        assert policies is not None
        self.assertEqual([*policies], ["111", "222"])

    def test_example_with_what_is_left_out(self) -> None:
        """The line that needs another file is right as well."""
        (block,) = code_blocks(section(POLICIES, "What it may say"), "toml")
        policies = parse(block.replace("# token-file", "token-file"), lambda name: [name])
        self.assertEqual(policies["111"].servers.tokens, (digest("111.tokens"),))

    def test_commands(self) -> None:
        """They print what is shown, given the files that are shown."""
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "etc").symlink_to(ROOT / "etc")
            titles = "Mistakes", "What a file allows, and what it changes"
            text = "".join(section(POLICIES_HOWTO, title) for title in titles)
            bad, new = code_blocks(text, "toml")
            (folder / "bad.toml").write_text(bad, "utf-8")
            (folder / "new.toml").write_text(new, "utf-8")
            shown = commands(text)
            self.assertEqual(len(shown), 3)
            for command in shown:
                result = python("-m", "rproxy.cli", *command.argv[1:], cwd=folder)
                self.assertEqual((result.stdout + result.stderr).splitlines(), command.output)
                self.assertEqual(result.returncode, "bad.toml" in command.argv)

    def test_keys(self) -> None:
        """The table has all that a policy may say, those of its tables under their names."""
        keys = {row[0].strip("`") for row in self.rows()}
        tables = {"servers": ServerRule, "clients": ClientRule}
        names = {field.name for field in fields(Policy)} - {*tables}
        names |= {f"{key}.{field.name}" for key, table in tables.items() for field in fields(table)}
        self.assertEqual(keys, {name.replace("_", "-").replace("tokens", "token-file") for name in names})

    def test_ranges(self) -> None:
        """Both ends belong to a range, and what is beyond is refused; 0 is an end that doesn't."""
        pattern = re.compile(r"(over )?(\d+) to ([\d,]+)(?: seconds)?")
        ranges = {row[0].strip("`"): match for row in self.rows() if (match := pattern.fullmatch(row[1]))}
        self.assertEqual(len(ranges), 5)
        for key, match in ranges.items():
            least, most = int(match[2]), int(match[3].replace(",", ""))
            for good in (max(least, 1), most):
                policy = parse(f"[policy.1]\n{key} = {good}", list)["1"]
                self.assertEqual(getattr(policy, key.replace("-", "_")), good)
            for bad in (least - 1, 0, most + 1):
                self.assertRaises(PoliciesError, parse, f"[policy.1]\n{key} = {bad}", list)

    def test_default_networks(self) -> None:
        """Those that are named."""
        (named,) = re.findall(r"\(127\.[^)]*\)", section(POLICIES, "Who may register"))
        texts = [text.strip() for text in named.strip("()").split(",")]
        self.assertEqual([*map(ip_network, texts)], [*PRIVATE])

    def rows(self) -> list[list[str]]:
        return table(section(POLICIES, "What it may say"))


class ScalingTests(SynchronousTestCase):
    """What the pages say of the store."""

    def test_user(self) -> None:
        """Its user is allowed what test_redis finds to be enough."""
        (block,) = code_blocks(section(SCALING, "The store"), "text")
        self.assertEqual(block.split(), ["user", "rproxy", "on", ">PASSWORD", *ALLOWED.split()])

    def test_keys(self) -> None:
        """Those that there are, and the channel."""
        (named,) = re.findall(r"^What is in it: (.*?)\.", section(SCALING, "The store"), re.MULTILINE | re.DOTALL)
        first, *others = re.findall(r"``([^`]+)``", named)
        prefix, _, _ = first.partition(":")
        names = [first, *(f"{prefix}:{name}" for name in others[:-1]), others[-1]]
        self.assertEqual(names, [*keys("rproxy"), channel("rproxy")])

    def test_figures_of_the_code(self) -> None:
        """Those that the calculation is made with."""
        text = section(SHARING, "What it costs") + section(SHARING, "10, 100, 1,000 proxies")
        for sentence, figure in (
            ("every {:g} seconds in any case", BEAT),
            ("gathers for a second", RENEWAL_WAIT),
            ("with leases below {:g} seconds", RENEWAL_WAIT / RENEWAL_SHARE),
            ("leases of {:g} seconds", DEFAULT_LEASE),
            ("A process takes {:,} registrations", Limits().registrations),
            ("and {:,} of one host", Limits().registrations_per_host),
        ):
            self.assertIn(sentence.format(figure), " ".join(text.split()))
        self.assertEqual(RENEWAL_WAIT, 1.0)


class ArchitectureTests(SynchronousTestCase):
    """The table of the rooms is that of the code."""

    def test_rooms(self) -> None:
        """Each one that there is, in the order of imports, and whether it is pure."""
        _, _, rows, _ = re.split(r"^=+  =+  =+\n", section(ARCHITECTURE, "The rooms"), flags=re.MULTILINE)
        shown = [(line.split()[0], line[14:18].strip()) for line in rows.splitlines() if not line.startswith(" ")]
        there = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
        self.assertEqual({room for room, _ in shown}, there - {"__init__", "__pycache__", "py", "etc"})
        # What has no place in that order yet is told of by test_packaging.
        placed = [(room, pure) for room, pure in shown if room in ORDER]
        self.assertEqual(placed, [(room, self.share(room)) for room in ORDER if room in there])

    def share(self, room: str) -> str:
        """How much of a room is pure, in the table's words."""
        pure = {is_pure(module) for module in MODULES if module.partition(".")[0] == room}
        return "part" if len(pure) == 2 else "yes" if True in pure else ""

    def test_one_function_writes(self) -> None:
        """The promise about policies rests on it."""
        path = PACKAGE / "connection.py"
        writers = [
            function.name
            for function in ast.walk(ast.parse(path.read_bytes()))
            if isinstance(function, ast.FunctionDef)
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "self._transport.write"
        ]
        self.assertEqual(writers, ["write"])


#: The level of lines that are kept few, by what they are called (rproxy/logs/quiet.py).
_QUIET = {"log_refusal": "warn", "log_failure": "info", "_emit": "theirs"}

#: The methods of a logger, and the level of what they write.
_LEVELS = {level: level for level in ("debug", "info", "warn", "error", "critical")} | {"failure": "critical"}


@frozen
class Logged:
    """What a call that writes to the log says of itself, None for its name if it doesn't."""

    where: str
    name: str | None
    level: str
    fields: frozenset[str]


def logged() -> Iterator[Logged]:
    """Every call in the code that writes to the log."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
            if not isinstance(node, ast.Call):
                continue
            function, where = ast.unparse(node.func), f"{path.name}:{node.lineno}"
            owner, _, method = function.rpartition(".")
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            name = given.get("event")
            said = str(name.value) if isinstance(name, ast.Constant) else None
            if function == "Line" and said is not None:
                fields = ast.literal_eval(ast.unparse(given["fields"]).replace("lines", "0"))
                yield Logged(where, said, ast.literal_eval(given["level"]), frozenset(fields))
            elif method in _QUIET or (method in _LEVELS and re.search(r"(^|\.)_log(ger)?$", owner)):
                names = frozenset(each for each in given if each is not None and each != "event")
                # Whoever passes on what it was given has no name of its own for it.
                if None not in given:
                    yield Logged(where, said, _QUIET.get(method) or _LEVELS[method], names)


class LogsTests(SynchronousTestCase):
    """docs/reference/logs.rst tells of all lines that there are."""

    def test_named(self) -> None:
        """Every line has a name, and one name stands for one thing."""
        calls = [*logged()]
        self.assertGreater(len(calls), 70)
        fields: dict[str, Logged] = {}
        for call in calls:
            assert call.name is not None, f"{call.where}: give the line a name, by event="
            first = fields.setdefault(call.name, call)
            self.assertEqual((call.level, call.fields), (first.level, first.fields), f"{first.where} and {call.where}")
            self.assertEqual(call.fields & set(COMMON), call.fields & {"worker"}, call.where)

    def test_events(self) -> None:
        """The table has each, its level, and its fields."""
        rows = table(section(LOGS, "Events"))
        told = {row[0].strip("`"): (row[1], frozenset(re.findall(r"``(\w+)``", row[2]))) for row in rows}
        self.assertEqual(len(told), len(rows))
        self.assertEqual(told, {call.name: (call.level, call.fields) for call in logged()})

    def test_access_log(self) -> None:
        """The table of its fields has them in their order."""
        rows = table(section(LOGS, "The access log"))
        self.assertEqual([row[0].strip("`") for row in rows], [*Access.__struct_fields__])


class MarkupTests(SynchronousTestCase):
    """The pages can be read by what shows them."""

    def test_titles(self) -> None:
        """Each is underlined over its whole length."""
        for page in PAGES:
            titles = re.findall(r"^(\S.*)\n((?:={3,}|-{3,}|~{3,}))\n", page.read_text("utf-8"), re.MULTILINE)
            for title, underline in titles:
                if "  " not in title:  # else it heads a table
                    self.assertEqual(len(underline), len(title), f"{page.name}: {title}")

    def test_links(self) -> None:
        """Each link to a file leads to one; Sphinx looks at those between its own pages."""
        for page in PLAIN:
            for target in re.findall(r"<([^<>\s:]+)>`_", page.read_text("utf-8")):
                self.assertTrue((page.parent / target).is_file(), f"{page.name}: {target}")

    @skipUnless(find_spec("docutils"), "docutils isn't installed: neither rproxy nor its tests need it otherwise")
    def test_docutils(self) -> None:
        """It has nothing to say about them; Sphinx looks at its own."""
        core: Any = importlib.import_module("docutils.core")
        for page in PLAIN:
            said = StringIO()
            settings = {"report_level": 1, "halt_level": 5, "warning_stream": said, "_disable_config": True}
            core.publish_doctree(page.read_text("utf-8"), source_path=page.name, settings_overrides=settings)
            self.assertEqual(said.getvalue(), "")


class NamedTestsTests(SynchronousTestCase):
    """The tests that the pages about reliability and security name."""

    def test_they_exist(self) -> None:
        pages = (DOCS / "explanation" / f"{page}.rst" for page in ("reliability", "security"))
        text = "".join(page.read_text("utf-8") for page in pages)
        named = re.findall(r"``(tests/[\w/]+\.py)(?:::(\w+))?``", text)
        self.assertGreater(len(named), 60)
        for path, name in named:
            with self.subTest(path, name=name):
                tree = ast.parse((ROOT / path).read_text("utf-8"))
                defined = {
                    node.name
                    for node in tree.body
                    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                }
                self.assertTrue(not name or name in defined, f"{path} has no {name}")
