"""Hosts with addresses of their own on one machine: Linux network namespaces, wired by bridges.

Each host is a network namespace with an interface for each of its addresses, and each network is a bridge. The bridges
are in a namespace too, so nothing of the machine's own network is touched, and runs at the same time never meet.

A namespace here has no name. It lives by a file descriptor of this process and by what runs in it, so there is nothing
to remove: when this process ends, in whatever way, the kernel takes the namespace apart with all that is in it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from ipaddress import IPv4Network, ip_interface
from typing import Self, TypeVar

from tests.support import PATIENCE, Group, Process, Talk, Twistd, environment

T = TypeVar("T")

#: Whoever has this address takes everything and answers nothing.
_NOBODY = "02:00:00:00:00:01"
#: From <sched.h>; os.unshare and os.setns came with Python 3.12.
_CLONE_NEWNET = 0x40000000


def _in_a_thread(function: Callable[[], T]) -> T:
    """Return what the function returns in a thread that ends with it: namespaces are each thread's own."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result()


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library.

    :raises OSError: it failed.
    """
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


class Namespace:
    """A network namespace: until it is closed, and until nothing runs in it any more.

    :raises OSError: this process may not make one.
    """

    def __init__(self) -> None:
        self._fd = _in_a_thread(self._make)

    @property
    def path(self) -> str:
        """Where other processes find it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return how to run a command in it: as a process that becomes the command, so signals get there."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def within(self, function: Callable[[], T]) -> T:
        """Call a function in it. A socket that it makes stays there, whoever uses it later."""

        def call() -> T:
            _call("setns", self._fd, _CLONE_NEWNET)
            return function()

        return _in_a_thread(call)

    def ip(self, *commands: str) -> None:
        """Run commands of ip, such as ``link set lo up``, one after the other.

        :raises AssertionError: one failed.
        """
        done = subprocess.run(
            self.command(["ip", "-batch", "-"]),
            input="\n".join(commands),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{done.stderr} in {commands}"

    @staticmethod
    def _make() -> int:
        _call("unshare", _CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


@cache
def obstacle() -> str:
    """Return why there can't be any namespaces here; an empty text if there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    for command, package in ("ip", "iproute2"), ("nsenter", "util-linux"):
        if shutil.which(command) is None:
            return f"the command {command} isn't here: install {package}"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    try:
        Namespace().close()
    except OSError as error:
        return f"root can't make network namespaces here: {error.strerror}"
    return ""


class Host:
    """One host: made by :meth:`Network.host`.

    :ivar namespace: its own.
    :ivar address: the first of its addresses.
    """

    def __init__(self, namespace: Namespace, address: str, switch: Namespace, ports: Sequence[str]) -> None:
        self.namespace = namespace
        self.address = address
        self._switch = switch
        self._ports = ports

    def twistd(self, *arguments: str) -> Twistd:
        """Return a twistd that runs here once it is started."""
        process = Twistd(*arguments)
        process.argv = self.namespace.command(process.argv)
        return process

    def process(self, *argv: str, ready: str) -> Process:
        """Return any other process that does.

        :param ready: what its output has when it is.
        """
        return Process(self.namespace.command(argv), ready=ready)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command here that ends by itself."""
        return subprocess.run(
            self.namespace.command(argv),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def talk(self, where: tuple[str, int]) -> Talk:
        """Connect from here to a host's address and port."""
        return self.namespace.within(lambda: Talk(where))

    def unplug(self) -> None:
        """Pull its cables: what it sends gets nowhere, and nobody is told."""
        self._switch.ip(*(f"link set {port} down" for port in self._ports))

    def plug(self) -> None:
        """Put them in again."""
        self._switch.ip(*(f"link set {port} up" for port in self._ports))

    def cut(self, *others: Host) -> None:
        """Have nothing get from here to other hosts of its first network, nor back, and nobody told."""
        for one, other in self._ways(others):
            one.namespace.ip(f"neighbour replace {other.address} lladdr {_NOBODY} nud permanent dev eth0")

    def mend(self, *others: Host) -> None:
        """End a cut."""
        for one, other in self._ways(others):
            one.namespace.ip(f"neighbour del {other.address} dev eth0")

    def _ways(self, others: Sequence[Host]) -> list[tuple[Host, Host]]:
        return [way for other in others for way in ((self, other), (other, self))]


class Network:
    """The hosts of one test, and what runs on them, which ends with them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bridges: dict[IPv4Network, str] = {}
        self._ports = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._switch = self._namespace(stack)
            self._group = stack.enter_context(_Processes())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def host(self, *addresses: str) -> Host:
        """Add a host with these addresses, each with the length of its network: ``10.77.0.1/24``."""
        namespace = self._namespace(self._stack)
        inside, outside = ["link set lo up"], []
        ports = []
        for number, text in enumerate(addresses):
            interface = ip_interface(text)
            assert isinstance(interface.network, IPv4Network)
            if interface.network not in self._bridges:
                bridge = self._bridges[interface.network] = f"bridge{len(self._bridges)}"
                outside += [f"link add {bridge} type bridge", f"link set {bridge} up"]
            port = f"port{self._ports}"
            self._ports += 1
            ports.append(port)
            outside += [
                f"link add {port} type veth peer name eth{number} netns {namespace.path}",
                f"link set {port} master {self._bridges[interface.network]} up",
            ]
            inside += [f"address add {text} dev eth{number}", f"link set eth{number} up"]
        self._switch.ip(*outside)
        namespace.ip(*inside)
        return Host(namespace, str(ip_interface(addresses[0]).ip), self._switch, ports)

    def start(self, process: Twistd) -> Twistd:
        """Start a twistd, which may have no fault in its log in the end."""
        self._group.add(process)
        return process

    def stop(self, process: Twistd) -> None:
        """Have it stop now, in order; what isn't stopped is killed in the end, which takes no time."""
        self._group.stop(process)

    def launch(self, process: Process) -> Process:
        """Start any other process, which is killed in the end."""
        process.start()
        self.finally_do(process.kill)
        return process

    def finally_do(self, function: Callable[[], object]) -> None:
        """Call this in the end, before what was started earlier ends."""
        self._stack.callback(function)

    def talk(self, host: Host, where: tuple[str, int]) -> Talk:
        """Connect from a host; it is closed in the end."""
        return self._stack.enter_context(host.talk(where))

    def _namespace(self, stack: ExitStack) -> Namespace:
        namespace = Namespace()
        stack.callback(namespace.close)
        return namespace


class _Processes(Group):
    """Those of a network's hosts."""

    def add(self, process: Twistd) -> None:
        """Start one."""
        self._start(process)

    def close(self) -> None:
        """Kill what still runs, the youngest first."""
        with ExitStack() as stack:
            for process in self._running:
                stack.callback(self.kill, process)
