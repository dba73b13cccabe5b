"""Whoever types what the pages show gets what they show."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from unittest import skipUnless
from urllib.request import urlopen

from twisted.trial.unittest import SynchronousTestCase

from rproxy import hashing
from tests.documentation import DOCS, PROTOCOL, README, TUTORIAL, Command, code_blocks, commands, python, section
from tests.support import FAULT, PATIENCE, ROOT, Process, Twistd, free_port, run, script, wait_for

AUDIT = DOCS / "howto" / "audit.rst"
HANDLERS = DOCS / "howto" / "handlers.rst"
POLICIES = DOCS / "howto" / "policies.rst"
CLIENT = DOCS / "howto" / "client.rst"


def written(log: str) -> list[str]:
    """What rproxy wrote to a log of ``twistd``, without the time and the logger's name."""
    return re.findall(r"^\S+ \[rproxy\.[^\]]*\] (.*)$", log, re.MULTILINE)


def plain(text: str) -> list[str]:
    """The lines of a text, without what differs each time: times, hashes, and how wide columns are."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z|\b[0-9a-f]{64}\b", "*", text)
    return [" ".join(line.split()) for line in text.splitlines()]


@contextmanager
def proxy_and_server(*options: str) -> Iterator[tuple[Twistd, Twistd]]:
    """A proxy, and server 100 of policy 111, both with these options, when it is registered."""
    with Twistd("rproxy", "--port", "0", *options) as proxy:
        to_proxy = ("--listen", "0", "--revproc", str(proxy.port))
        with Twistd("rpoolserver", "--id", "100", "--pp", "111", *to_proxy, *options) as server:
            server.wait_for_log("Registered")
            yield proxy, server


def send(command: Command, proxy: Twistd) -> subprocess.CompletedProcess[str]:
    """Run an ``rproxy`` command, at the proxy's port."""
    arguments = [str(proxy.port) if argument == "8000" else argument for argument in command.argv[1:]]
    return python("-m", "rproxy.cli", *arguments)


class Walk:
    """A page as somebody goes through it: a folder, free ports, and what is started."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        (folder / "pktfiles").symlink_to(ROOT / "pktfiles")
        #: A free port for each of the page's.
        self.ports = {port: str(free_port()) for port in ("8000", "9000", "5000", "5001")}
        #: The services that run, by the names of their files with the process id.
        self.running: dict[str, Process] = {}

    def commands(self, text: str) -> list[Command]:
        """Those of a text, with the ports that are free here."""
        return commands(re.sub("|".join(self.ports), lambda port: self.ports[port[0]], text))

    def start(self, command: Command) -> Process:
        """Start a service, and wait until it has written what is shown."""
        _, *arguments = command.argv
        (name,) = (argument.removeprefix("--pidfile=") for argument in arguments if argument.startswith("--pidfile="))
        if "rpoolserver" in arguments:
            arguments += ["--revproc", self.ports["8000"]]
        elif "--port" not in arguments:
            arguments += ["--port", self.ports["8000"]]
        process = Process([*script("twistd"), *arguments], ready=r"on port (\d+)", cwd=self._folder)
        self.running[name] = self._stack.enter_context(process)
        for line in command.output:
            process.wait_for_log(re.escape(line))
        return process

    def type(self, command: Command) -> None:
        """Type anything else into a shell, and see what is shown."""
        tools = f'rproxy() {{ {shlex.join(script("rproxy"))} "$@"; }}'
        admin = f"export RPROXY_ADMIN={self.ports['9000']}"
        done = run(["sh", "-c", f"{tools}\n{admin}\n{command.typed}"], self._folder)
        assert plain(done.stdout) == plain("\n".join(command.output)), (command.typed, done)


@skipUnless(which("openssl"), "the token is made by openssl, which isn't here")
class TutorialTests(SynchronousTestCase):
    """Every command of the tutorial, in its order."""

    def test_tutorial(self) -> None:
        with TemporaryDirectory() as name, ExitStack() as stack:
            tutorial = Walk(Path(name), stack)
            typed = tutorial.commands(TUTORIAL.read_text("utf-8"))
            # What installs is what runs the demo, and this is the result.
            self.assertEqual([command.typed for command in typed[:2]], ["make demo", ". .venv/bin/activate"])
            for command in typed[2:]:
                if command.argv[0] == "twistd":
                    # Registrations are made at the same time, one for each policy.
                    self.assertEqual(sorted(written(tutorial.start(command).log)), sorted(command.output))
                    continue
                if command.typed == "rproxy explain 111":
                    self.look_at_the_dashboard(tutorial.ports["9000"])
                tutorial.type(command)
                if command.argv[:2] == ["kill", "-KILL"]:
                    tutorial.running.pop("server100.pid").wait()
                    tutorial.running["rproxy.pid"].wait_for_log("Registration of server id 100 .* ended")
            self.assertEqual({*tutorial.running}, {"rproxy.pid", "server100.pid", "server200.pid"})
            for process in tutorial.running.values():
                self.assertEqual((process.wait(), FAULT.findall(process.log)), (0, []))

    def look_at_the_dashboard(self, port: str) -> None:
        """It is where the page says that it is."""
        self.assertIn("http://127.0.0.1:9000/", TUTORIAL.read_text("utf-8"))
        with urlopen(f"http://127.0.0.1:{port}/") as answer:
            self.assertIn(b"<title>", answer.read())


@skipUnless(which("openssl"), "tokens and keys are made by openssl, which isn't here")
class FirstStepsTests(SynchronousTestCase):
    """What other pages begin with."""

    def setUp(self) -> None:
        stack = ExitStack()
        self.addCleanup(stack.close)
        self.folder = Path(stack.enter_context(TemporaryDirectory()))
        self.walk = Walk(self.folder, stack)

    def go(self, text: str) -> None:
        """Type all its commands, and see what is shown."""
        for command in self.walk.commands(text):
            (self.walk.start if command.argv[0] == "twistd" else self.walk.type)(command)

    def test_policies(self) -> None:
        """A policy that one server may serve, and another one may not."""
        text = section(POLICIES, "A first file")
        (code,) = code_blocks(text, "toml")
        (self.folder / "policies.toml").write_text(code, "utf-8")
        self.go(text)
        for line in "Refused setup message from server id 101", "Keeping to the policies of":
            self.walk.running["rproxy.pid"].wait_for_log(line)

    def test_audit(self) -> None:
        """What the trail tells, and how it tells that somebody changed it."""
        self.go(section(AUDIT, "Keeping one"))
        port, own = self.walk.ports["8000"], self.walk.ports["5000"]
        starting = f"twistd -n --pidfile=server100.pid rpoolserver --id 100 --pp 111 --listen {own}"
        self.walk.start(Command(starting, [f"Registered for privacy policy 111 at 127.0.0.1:{port}"]))
        sending = ("send", "--id", "1", "--pp", "111", "--payload", "xyz1", "--revproc", port)
        self.assertEqual(python("-m", "rproxy.cli", *sending).returncode, 0)
        trail = self.folder / "audit.log"
        wait_for(lambda: b'"packet"' in trail.read_bytes(), PATIENCE, "the packet's line")
        self.go(section(AUDIT, "Asking"))


class ExampleTests(SynchronousTestCase):
    """The other examples, each by itself."""

    def test_demo(self) -> None:
        """What ``make demo`` runs ends as is shown."""
        (end,) = code_blocks(section(README, "Two commands"), "text")
        result = python("-m", "rproxy.cli", "simulate")
        self.assertEqual((result.returncode, result.stdout.splitlines()[-1]), (0, end.strip()))

    def test_known_lines(self) -> None:
        """With ``--log-packets`` all lines of "What the terminals show", in their order."""
        (block,) = code_blocks(section(PROTOCOL, "What the terminals show"), "text")
        shown = dict(re.findall(r"^(\w+) +((?:.*\n)(?: .*\n)*)", block, re.MULTILINE))
        sending, *_ = commands(section(TUTORIAL, "Send packets"))
        with proxy_and_server("--log-packets") as (proxy, server):
            output = send(sending, proxy).stdout.splitlines()
            wrote = {"proxy": written(proxy.log), "server": written(server.log), "client": output}
            ports = {"8000": str(proxy.port), "5000": str(server.port), "172.31.21.234": "127.0.0.1"}
            for role, text in shown.items():
                lines = re.sub("|".join(ports), lambda found: ports[found[0]], text).splitlines()
                expected = [line.strip() for line in lines if line.strip()]
                self.assertEqual([line for line in wrote.pop(role) if line in expected], expected)
        self.assertEqual(wrote, {})

    def test_handlers(self) -> None:
        """Both handlers give what is shown, one at once and the other later."""
        text = HANDLERS.read_text("utf-8")
        serving, sending = commands(text)
        (code,) = code_blocks(text, "python")
        (name,) = (argument for argument in serving.argv if argument.startswith("handlers:"))
        functions = re.findall(r"^(?:async )?def (\w+)", code, re.MULTILINE)
        self.assertIn(name.partition(":")[2], functions)
        with TemporaryDirectory() as folder, Twistd("rproxy", "--port", "0") as proxy:
            (Path(folder) / "handlers.py").write_text(code, "utf-8")
            for function in functions:
                own = {name: f"handlers:{function}", "5000": "0"}
                arguments = [own.get(argument, argument) for argument in serving.argv[3:]]
                with Twistd(*arguments, "--revproc", str(proxy.port), cwd=Path(folder)) as server:
                    server.wait_for_log("Registered")
                    result = send(sending, proxy)
                    self.assertEqual((result.returncode, result.stderr), (1, ""))
                    self.assertEqual(result.stdout.splitlines(), sending.output)

    def test_client_library(self) -> None:
        """The program prints what is shown."""
        text = section(CLIENT, "One proxy")
        (code,) = code_blocks(text, "python")
        (output,) = code_blocks(text, "text")
        with proxy_and_server() as (proxy, _):
            result = python("-c", code.replace("8000", str(proxy.port)))
        self.assertEqual((result.stdout.strip(), result.stderr), (output.strip(), ""))

    def test_several_proxies(self) -> None:
        """The program prints the answer, whichever of the proxies is there."""
        (code,) = code_blocks(section(CLIENT, "Several proxies"), "python")
        with proxy_and_server() as (proxy, _):
            for ports in (proxy.port, free_port()), (free_port(), proxy.port):
                result = python("-c", code.replace("(8000, 8001)", str(ports)))
                self.assertEqual((result.stdout.strip(), result.stderr), (hashing.sha1_hex("xyz1"), ""))
