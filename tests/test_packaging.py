"""What holds the project together and no module's own test would notice: plugins, imports, sample packets."""

import ast
from collections.abc import Iterable, Iterator
from configparser import ConfigParser
from pathlib import Path

from twisted.application.service import IServiceMaker, ServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from rproxy.packets import Data, decode

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rproxy"

#: The rooms of ``docs/explanation/architecture.rst``: a module imports only from those before it. A package is one
#: room.
ORDER = (
    "limits",
    "networks",
    "rates",
    "addresses",
    "hostports",
    "secretfile",
    "lingering",
    "counting",
    "process",
    "sockets",
    "framing",
    "packets",
    "arguments",
    "hashing",
    "backoff",
    "figures",
    "policies",
    "health",
    "registry",
    "request",
    "audit",
    "logs",
    "tls",
    "listening",
    "stores",
    "rotation",
    "waiting",
    "quotas",
    "retrying",
    "routes",
    "connection",
    "upstream",
    "forwarding",
    "routing",
    "admission",
    "gate",
    "downstream",
    "proxy",
    "control",
    "systemd",
    "admin",
    "fronting",
    "proxyservice",
    "pool",
    "client",
    "commands",
    "simulation",
    "ec2",
    "cli",
    "options",
    "workers",
    "tap",
    "worker",
    "pooltap",
)

#: What decides and does no input or output: it knows nothing of Twisted, so that no test of it needs that. A room
#: stands for all that is in it but for its :data:`EDGES`.
PURE = frozenset(
    {
        "addresses",
        "arguments",
        "audit",
        "backoff",
        "commands.packetfiles",
        "figures",
        "framing",
        "fronting.header",
        "gate",
        "hashing",
        "health",
        "hostports",
        "limits",
        "logs.access",
        "logs.quiet",
        "networks",
        "packets",
        "policies",
        "pool.patience",
        "quotas",
        "rates",
        "registry",
        "request",
        "retrying",
        "rotation",
        "routes",
        "secretfile",
        "systemd.messages",
        "systemd.units",
        "tls.files",
        "waiting",
    }
)

#: Where the rooms of the pure core meet threads, files and sockets.
EDGES = frozenset({"audit.recording"})


def room_of(path: Path) -> str:
    """The room that a source file is in; ``""`` for the package's own ``__init__``."""
    return module_of(path).partition(".")[0]


def module_of(path: Path) -> str:
    """A source file's dotted name within the package; a package's own is its ``__init__``'s."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


#: All modules, each with its source file.
MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_pure(module: str) -> bool:
    """Whether a module is of the pure core."""
    return module not in EDGES and not PURE.isdisjoint({module, module.partition(".")[0]})


def with_packages(modules: Iterable[str]) -> set[str]:
    """Modules, and the packages that they are in, whose ``__init__`` is imported before them."""
    return {".".join(module.split(".")[:depth]) for module in modules for depth in range(1, module.count(".") + 2)}


def imports_of(path: Path) -> Iterator[tuple[str, ...]]:
    """Every dotted name that a source file imports, wherever in the file, split at the dots."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                yield (*base, *module, alias.name)


def rooms_imported(path: Path) -> set[str]:
    """The rooms that a source file imports from."""
    return {module.partition(".")[0] for module in modules_imported(path)} & {*ORDER}


def modules_imported(path: Path) -> set[str]:
    """The modules that a source file imports, and their packages; what is no module's name is a name in one."""
    return with_packages(".".join(name[1:]) for name in imports_of(path) if name[0] == "rproxy") & {*MODULES} - {""}


class PluginTests(SynchronousTestCase):
    """twistd finds both services."""

    def test_both_are_found(self) -> None:
        """A plugin that fails to import vanishes without a word, so both are asked for by name."""
        plugins = [plugin for plugin in getPlugins(IServiceMaker) if isinstance(plugin, ServiceMaker)]
        found = {plugin.tapname: plugin.module for plugin in plugins}

        self.assertEqual(found.get("rproxy"), "rproxy.tap")
        self.assertEqual(found.get("rpoolserver"), "rproxy.pooltap")

    def test_twisted_stays_itself(self) -> None:
        """One of these would hide the real Twisted, the other would take its plugins along when uninstalled."""
        self.assertFalse((ROOT / "twisted" / "__init__.py").exists())
        self.assertFalse((ROOT / "twisted" / "plugins" / "__init__.py").exists())

    def test_plugin_imports_nothing_of_ours(self) -> None:
        """What a service needs is imported when it is started."""
        plugin = ROOT / "twisted" / "plugins" / "rproxy_plugins.py"

        self.assertNotIn("rproxy", {name[0] for name in imports_of(plugin)})


class ImportTests(SynchronousTestCase):
    """Imports point one way."""

    sources = tuple(MODULES.values())

    def test_every_module_has_a_place(self) -> None:
        """A new module is put into ``ORDER``."""
        unknown = {room_of(path) for path in self.sources} - {"", *ORDER}

        self.assertFalse(unknown, f"add these to ORDER in {__file__}, after everything that they import: {unknown}")

    def test_imports_point_one_way(self) -> None:
        """A module imports from its own room and those before it; the package itself imports nothing."""
        places = {room: place for place, room in enumerate(("", *ORDER))}
        for path in self.sources:
            # Whose room has no place is told of above, and only there.
            place = places.get(room_of(path), len(places))
            later = {room for room in rooms_imported(path) if places[room] > place}
            self.assertFalse(later, f"{path.relative_to(ROOT)} imports what stands after it in ORDER: {later}")

    def test_pure_core_imports_no_twisted(self) -> None:
        """Neither by themselves nor by way of a module that does."""
        core = with_packages(module for module in MODULES if is_pure(module)) - {""}
        for module in core:
            path = MODULES[module]
            self.assertNotIn("twisted", {imported[0] for imported in imports_of(path)}, f"in {module}")
            impure = modules_imported(path) - core
            self.assertFalse(impure, f"{module} is of the pure core, and {impure} may import Twisted")

    def test_pure_names_are_there(self) -> None:
        """What is named pure, or excepted from that, is in the code."""
        self.assertEqual((PURE | EDGES) - {*MODULES}, set())


class PackageDataTests(SynchronousTestCase):
    """What isn't Python is installed as well."""

    def test_all_of_the_dashboard(self) -> None:
        """Each file of it, the licence of what isn't ours among them."""
        setup = ConfigParser()
        setup.read(ROOT / "setup.cfg", "utf-8")
        folder = PACKAGE / "admin"
        installed = {
            path for pattern in setup["options.package_data"]["rproxy.admin"].split() for path in folder.glob(pattern)
        }

        files = {path for path in (folder / "static").rglob("*") if path.is_file()}
        self.assertIn(folder / "static" / "uPlot-LICENSE", files)
        self.assertEqual(files - installed, set())


class SampleTests(SynchronousTestCase):
    """``pktfiles/`` holds what the documentation says it does."""

    def test_samples_are_data_packets(self) -> None:
        """Fifteen of them, for two policies, each in the form that deployed clients send."""
        packets = [decode((ROOT / "pktfiles" / f"{number}.json").read_bytes()) for number in range(15)]

        for number, packet in enumerate(packets):
            policy = "111" if number % 2 else "222"
            self.assertEqual(packet, Data("0", str(number), policy, f"xyz{number}"))
