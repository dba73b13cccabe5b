"""Two hosts on this machine: network namespaces with one cable between them, which go with this process."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bench.processes import Failure
from bench.stage import find

_T = TypeVar("_T")

#: From <sched.h>; Python has no function for it before 3.12.
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """A namespace with an address of its own.

    :raises OSError: this process may not make one.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._fd = _in_a_thread(_make)

    @property
    def path(self) -> str:
        """Where other processes find the namespace."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @property
    def command(self) -> list[str]:
        """What has the command that stands behind it run here."""
        return [find("nsenter") or "nsenter", f"--net={self.path}", "--"]

    def within(self, function: Callable[[], _T]) -> _T:
        """Call a function here. A socket that it makes stays here."""

        def call() -> _T:
            _check(_libc.setns(self._fd, _CLONE_NEWNET), "setns")
            return function()

        return _in_a_thread(call)

    def ip(self, *words: str) -> None:
        """Run ip(8) here.

        :raises Failure: it fails.
        """
        done = subprocess.run([*self.command, find("ip") or "ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"ip {' '.join(words)}: {done.stderr.strip()}")

    def close(self) -> None:
        """Let go of it; it is there until nothing runs in it any more."""
        os.close(self._fd)


def join(one: Host, other: Host) -> None:
    """Put a cable between two hosts."""
    one.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", other.path)
    for host in (one, other):
        host.ip("address", "add", f"{host.address}/24", "dev", "cable")
        for device in ("lo", "cable"):
            host.ip("link", "set", device, "up")


def obstacle() -> str:
    """Why there can't be any here; empty if there can."""
    missing = [command for command in ("ip", "nsenter") if find(command) is None]
    if missing:
        return f"{' and '.join(missing)} isn't installed"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    try:
        Host("127.0.0.1").close()
    except OSError as error:
        return f"there can't be network namespaces here: {error.strerror}"
    return ""


def _make() -> int:
    _check(_libc.unshare(_CLONE_NEWNET), "unshare")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _check(result: int, what: str) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _in_a_thread(function: Callable[[], _T]) -> _T:
    """Call it in a thread that ends with it: a thread's namespace is its own."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(function).result()
