"""The process that ``twistd rproxy --workers N`` runs: it binds, has workers, and accepts nobody."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from attrs import evolve
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort

from rproxy.admin.service import attend
from rproxy.audit.recording import PATIENCE
from rproxy.listening import ListenerService
from rproxy.options import Options
from rproxy.policies.reading import PoliciesError
from rproxy.process.children import environment
from rproxy.process.signals import ReloadService, SignalService
from rproxy.process.sweeping import SweepService
from rproxy.proxy.doors import say_registering, say_running
from rproxy.proxyservice import CLOSE_TIMEOUT
from rproxy.stores import StoreRefusedError
from rproxy.stores.opening import check_registry
from rproxy.stores.replica import STOP_TIMEOUT
from rproxy.stores.urls import MemoryUrl, SqliteUrl
from rproxy.systemd.service import Notifier
from rproxy.tls.files import CertificatesError, absolute_files, absolute_listen, split_listen
from rproxy.tls.keyring import Keyring
from rproxy.workers.balancing import make_board
from rproxy.workers.controlling import INTERVAL, WorkersControl
from rproxy.workers.sharing import NobodyFactory
from rproxy.workers.spawning import Orders, Told, WorkerProcess, variables
from rproxy.workers.supervising import Supervisor
from rproxy.workers.watching import ANSWER

#: What a worker may take beyond its own bounds until it is killed, in seconds.
GRACE = 3.0


class FolderError(SystemExit, Exception):
    """The workers can't share registrations; see :class:`rproxy.listening.ListenError` for the bases."""


class Parent(MultiService):
    """The listeners, the workers, and the folder where they share registrations.

    :param options: what all workers are told, but for what each has of its own.
    """

    def __init__(self, options: Options, reactor: Any) -> None:
        super().__init__()
        self._options = options
        self._reactor = reactor
        self._env = environment(variables(os.environ), sys.path)
        self._folder: Path | None = None
        self._board = make_board(options["workers"])
        self._clients: list[IListeningPort] = []
        self._servers: list[IListeningPort] = []
        self._listeners = [
            ListenerService(split_listen(text)[0], NobodyFactory(), reactor, partial(_hold, ports))
            for texts, ports in ((options["listen"], self._clients), (options["register-listen"], self._servers))
            for text in texts
        ]
        for listener in self._listeners:
            listener.setServiceParent(self)
        self._supervisor = Supervisor(
            options["workers"],
            self._spawn,
            reactor,
            random.random,
            patience_with(options),
            self._say_running,
            self._give_up,
        )
        #: What may be asked of all workers, and done to them.
        self.control = WorkersControl(self._supervisor)
        if options["admin"] is not None:
            SweepService(reactor, INTERVAL, self.control.look).setServiceParent(self)

    def startService(self) -> None:
        """Start the workers.

        :raises FolderError: there is no place where they could share registrations.
        """
        super().startService()
        if isinstance(self._options["registry"], MemoryUrl):
            # Here, as it is to be theirs who run by now.
            above = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
            try:
                self._folder = Path(mkdtemp(prefix="rproxy-", dir=above or None))
            except OSError as error:
                raise FolderError(f"Can't make a folder for the registrations: {error}") from None
        self._reactor.callWhenRunning(self._supervisor.startService)

    def stopService(self) -> Deferred[None]:
        """Stop the workers, and accept no more; fires when they are gone."""
        return Deferred.fromCoroutine(self._stop()) if self.running else succeed(None)

    def reload(self) -> None:
        """Have the workers, and those that replace them, keep to what the files say now."""
        # A file with a mistake is told of by the workers.
        with suppress(PoliciesError):
            self._options["allowed"] = self._options.read_policies()
        self._supervisor.workers.tell("reload", ANSWER)

    def kill(self) -> None:
        """End all workers at once, as this process is about to end; may be called in a signal handler."""
        self._supervisor.kill()
        self._remove_folder()

    async def _stop(self) -> None:
        # The workers first: a socket that is shut down by its other owner would only be an annoyance to them.
        stopped = self._supervisor.stopService()
        try:
            await gatherResults([listener.stopService() for listener in self._listeners], consumeErrors=True)
        finally:
            try:
                await stopped
            finally:
                self._remove_folder()
                await maybeDeferred(super().stopService)

    def _spawn(self, number: int, told: Told) -> WorkerProcess:
        ports: Sequence[Any] = (*self._clients, *self._servers)
        worker = WorkerProcess(number, told)
        values = values_of(self._options, number, self._folder)
        orders = Orders(number, values, [port.socket.family for port in ports], self.control.drained)
        worker.spawn(self._reactor, orders, self._board, [port.fileno() for port in ports], self._env)
        return worker

    def _say_running(self) -> None:
        for port in self._clients:
            say_running(port)
        for port in self._servers:
            say_registering(port)

    def _give_up(self) -> None:
        """End the process with exit code 1, which Twisted has no way for."""
        atexit.register(_exit)
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _hold(ports: list[IListeningPort], port: IListeningPort) -> None:
    """Keep a port that was bound just now, and from accepting: what comes waits in its queue."""
    port.stopReading()  # type: ignore[attr-defined]  # a port of a reactor's is a FileDescriptor
    ports.append(port)


def _exit() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def patience_with(options: Mapping[str, Any]) -> float:
    """Return how long a worker may take from being told to stop until it is killed, in seconds."""
    trail = PATIENCE if options["audit"] is not None else 0.0
    return options["limits"].drain_timeout + STOP_TIMEOUT + CLOSE_TIMEOUT + trail + GRACE  # type: ignore[no-any-return]


def values_of(options: Mapping[str, Any], number: int, folder: Path | None) -> dict[str, Any]:
    """Return the options of the worker of that number.

    :param folder: where the workers share registrations, None where the options say so already.
    """
    values = dict(options)
    if folder is not None:
        values["registry"] = SqliteUrl(folder / "registry.sqlite")
    # It is the parent's to listen there.
    values["admin"] = values["admin-token"] = None
    for name in ("audit", "access-log"):
        # A chain has one writer, and what several write to one file can be torn.
        if values[name] is not None:
            values[name] = values[name].with_stem(f"{values[name].stem}-{number}")
    limits = values["limits"]
    values["limits"] = evolve(limits, max_clients=-(-limits.max_clients // values["workers"]))
    return values


def make_parent(options: Options, reactor: Any, notifier: Notifier) -> tuple[IService, WorkersControl]:
    """The proxy that the options ask for, if that is one of several processes, and what may be asked of it.

    :raises SystemExit: its certificates can't be used, or its registry.
    """
    keyring = Keyring()
    try:
        # Only to see whether they can be: the workers read them again.
        for files in (options["upstream-files"], *_files_of(options)):
            keyring.load(files)
    except CertificatesError as error:
        raise SystemExit(str(error)) from None
    try:
        check_registry(options["registry"])
    except StoreRefusedError as error:
        raise SystemExit(f"--registry: {error}") from None
    # A daemon changes its folder before its workers start.
    for name in ("listen", "register-listen"):
        options[name] = [absolute_listen(text) for text in options[name]]
    options["upstream-files"] = options["upstream-files"] and absolute_files(options["upstream-files"])
    service = MultiService()
    parent = Parent(options, reactor)
    SignalService(reactor, parent.kill).setServiceParent(service)
    attend(options, parent, parent.control, reactor).setServiceParent(service)
    has_files = bool(keyring) or any(options[name] is not None for name in ("policies", "audit", "access-log"))
    reloads = notifier.around([parent.reload] if has_files else [])
    ReloadService(reactor, reloads).setServiceParent(service)
    return service, parent.control


def _files_of(options: Options) -> list[Any]:
    return [split_listen(text)[1] for text in (*options["listen"], *options["register-listen"])]
