"""``twistd rproxy``: the one place where the proxy's parts are put together."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

from attrs import frozen
from twisted.application.service import IService, MultiService
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from rproxy.admin.service import attend
from rproxy.audit.appending import TrailFile
from rproxy.audit.recording import Recorder
from rproxy.audit.trail import Trail
from rproxy.control import LocalControl
from rproxy.control.reporting import Reporter
from rproxy.downstream import ClientProtocol, ServerProtocol
from rproxy.figures.happenings import Happenings
from rproxy.fronting.protocol import FrontedFactory
from rproxy.listening import ListenerService
from rproxy.logs.access import AccessLog
from rproxy.logs.accessfile import AccessWriter
from rproxy.logs.packets import ProxyLog
from rproxy.logs.service import LoggedService
from rproxy.options import Options
from rproxy.policies.reading import PoliciesError
from rproxy.process.collecting import CollectorService
from rproxy.process.lag import Lag
from rproxy.process.openfiles import OpenFilesService
from rproxy.process.signals import ReloadService, SignalService
from rproxy.process.sweeping import SWEEP, SweepService
from rproxy.proxy import Entrance, ProxyFactory
from rproxy.proxyservice import ProxyService
from rproxy.registry.claims import Claims
from rproxy.registry.forgetting import LOOKS, Forgetter
from rproxy.registry.registration import Address
from rproxy.sockets import SocketGroup
from rproxy.stores import Store, StoreRefusedError
from rproxy.stores.opening import check_registry, open_registry
from rproxy.stores.replica import Replica
from rproxy.stores.urls import MemoryUrl
from rproxy.systemd.messages import read_manager
from rproxy.systemd.service import NOBODY, Notifier, ProxyStatus, SystemdService
from rproxy.tls.files import CertificatesError, split_listen
from rproxy.tls.keyring import SWEEP_LOGS, Keyring
from rproxy.workers.parent import make_parent, patience_with

__all__ = ["Options", "makeService"]

_logger = Logger()


def reload_policies(options: Options, factory: ProxyFactory) -> None:
    """Read the policies file again, and have the proxy keep to it; or say why it doesn't."""
    try:
        policies = options.read_policies()
    except PoliciesError as error:
        _logger.warn("The policies stay as they were: {why}", event="policies-kept", why=str(error))
        return
    factory.reload(policies)
    _logger.info(
        "Keeping to the policies of {file} as it is now", event="policies-reloaded", file=str(options["policies"])
    )


def _make_trail(options: Options) -> Trail | None:
    if options["audit"] is None:
        return None
    return Trail(options["audit-key"], time.time, complete=options["audit-on-error"] == "refuse")


def _open_registry(options: Options, reactor: Any, keyring: Keyring) -> Store:
    try:
        check_registry(options["registry"])
        return open_registry(options["registry"], reactor, keyring)
    except StoreRefusedError as error:
        raise SystemExit(f"--registry: {error}") from None


def _connector(
    options: Options, keyring: Keyring, sockets: Any, reactor: Any
) -> Callable[[Address, bool], IStreamClientEndpoint]:
    """What makes the way to a server, by TLS or not."""
    timeout = options["limits"].connect_timeout

    def connect(address: Address, by_tls: bool) -> IStreamClientEndpoint:
        host, port = address
        endpoint = TCP4ClientEndpoint(sockets, host, port, timeout=timeout)
        name = options["upstream-tls-name"] or host
        return keyring.client(options["upstream-files"] if by_tls else None, endpoint, name, reactor, timeout)

    return connect


def _make_factory(options: Options, keyring: Keyring, sockets: Any, reactor: Any, trail: Trail | None) -> ProxyFactory:
    return ProxyFactory(
        options["limits"],
        reactor,
        _connector(options, keyring, sockets, reactor),
        random.random,
        Claims(uuid4().hex, time.time),
        ProxyLog() if options["log-packets"] else None,
        options["allowed"],
        trail,
    )


def _make_replica(store: Store, factory: ProxyFactory, reactor: Any) -> Replica:
    router = factory.router
    return Replica(
        store,
        factory.registry,
        reactor,
        router.answer_asked,
        router.upstreams.share_with,
        router.upstreams.in_touch,
        random.random,
    )


def _reloads(options: Options, factory: ProxyFactory, keyring: Keyring) -> Iterator[Callable[[], object]]:
    """What reads files that others wrote again, where there are any."""
    if keyring:
        yield keyring.reload
    if options["policies"] is not None:
        yield lambda: reload_policies(options, factory)


def _sweeps(factory: ProxyFactory, keyring: Keyring, reactor: Any) -> list[SweepService]:
    """What keeps the deadlines."""
    router, limits = factory.router, factory.limits
    forgetter = Forgetter(
        factory.registry, reactor.seconds, router.upstreams.is_down, router.upstreams.probe, limits.forget_after
    )
    return [
        SweepService(reactor, limits.forget_after / LOOKS, forgetter.sweep),
        SweepService(reactor, min(SWEEP, limits.timeout / 4, limits.queue_timeout / 4), factory.sweep),
        SweepService(reactor, min(5.0, limits.idle_timeout / 4, limits.packet_timeout / 4), factory.sweep_idle),
        SweepService(reactor, SWEEP_LOGS, keyring.sweep),
    ]


def _writers(
    options: Options, trail: Trail | None, factory: ProxyFactory, reactor: Any
) -> Iterator[Recorder | AccessWriter]:
    """What writes files of the proxy's own."""
    if trail is not None:
        yield _record(options, trail, factory, reactor)
    if options["access-log"] is not None:
        yield _log_accesses(options, factory)


def _record(options: Options, trail: Trail, factory: ProxyFactory, reactor: Any) -> Recorder:
    """What writes the factory's trail."""
    return Recorder(
        trail,
        TrailFile(options["audit"], options["audit-key"]),
        reactor,
        lambda write: deferToThreadPool(reactor, reactor.getThreadPool(), write),
        factory.gate.set_recording if options["audit-on-error"] == "refuse" else lambda works: None,
    )


def _log_accesses(options: Options, factory: ProxyFactory) -> AccessWriter:
    """What writes the factory's access log."""
    log = AccessLog(
        options["access-log-sample"], time.time, factory.seconds, factory.limits.timeout, factory.counters.tallies
    )
    factory.record(log)
    return AccessWriter(log, options["access-log"], factory.clock)


def _listeners(
    options: Options,
    factory: ProxyFactory,
    keyring: Keyring,
    sockets: Any,
    endpoints: Sequence[IStreamServerEndpoint] | None,
) -> Iterator[ListenerService]:
    """Where the proxy listens, with TLS on top of TCP, and what other proxies put in front of both."""
    inherited = None if endpoints is None else iter(endpoints)
    apart = bool(options["register-listen"])
    for begin, inner, listening in (
        ("", Entrance(factory, ClientProtocol) if apart else factory, factory.doors.listening),
        ("register-", Entrance(factory, ServerProtocol), factory.doors.registering),
    ):
        for text, is_fronted in zip(options[f"{begin}listen"], options[f"{begin}fronted"], strict=True):
            endpoint, files = split_listen(text)
            front = keyring.server(files, inner, factory.clock)
            if is_fronted:
                front = FrontedFactory(front, factory, options["proxy-from"])
            if inherited is None:
                yield ListenerService(endpoint, front, sockets, listening)
            else:
                # Whoever bound it says where that is.
                quiet = factory.doors.ports.append if not begin else _say_nothing
                yield ListenerService(endpoint, front, sockets, quiet, next(inherited))


def _say_nothing(port: IListeningPort) -> None:
    """What is said of ports that another process bound."""


@frozen
class Proxy:
    """A proxy that was put together.

    :ivar reload: has its files read again.
    :ivar control: what may be asked of it, and done to it.
    """

    service: MultiService
    factory: ProxyFactory
    reload: Callable[[], None]
    control: LocalControl


def makeService(options: Options) -> IService:
    """What the options ask for: a proxy, or the parent of several.

    :raises SystemExit: its certificates can't be used, or its registry.
    """
    from twisted.internet import reactor

    service = LoggedService(options)
    notifier = Notifier(read_manager(os.environ))
    if options["workers"] > 1:
        inner, workers = make_parent(options, reactor, notifier)
        status = ProxyStatus(workers, reactor.seconds)
        told = SystemdService(notifier, reactor, lambda: workers.is_ready, status, patience_with(options))
    else:
        proxy = make_proxy(options, reactor, SocketGroup(reactor), notifier=notifier)
        inner, status = proxy.service, ProxyStatus(proxy.control, reactor.seconds)
        # Its ports are open when the reactor runs. Whether it takes packets is the status's to say.
        told = SystemdService(notifier, reactor, lambda: True, status, patience_with(options))
    inner.setServiceParent(service)
    told.setServiceParent(service)
    return service


def make_proxy(
    options: Options,
    reactor: Any,
    sockets: Any,
    endpoints: Sequence[IStreamServerEndpoint] | None = None,
    number: int = 0,
    notifier: Notifier = NOBODY,
) -> Proxy:
    """The proxy that the options ask for.

    :param sockets: the reactor for TCP.
    :param endpoints: where to listen for each ``--listen``, and each ``--register-listen``, if somebody bound them.
    :param number: of the worker, from 1; 0 for a proxy of one process.
    :param notifier: tells systemd of this process, if it is the one to do so.
    :raises SystemExit: its certificates can't be used.
    """
    keyring = Keyring()
    trail = _make_trail(options)
    factory = _make_factory(options, keyring, sockets, reactor, trail)
    try:
        keyring.load(options["upstream-files"])
        listeners = list(_listeners(options, factory, keyring, sockets, endpoints))
    except CertificatesError as error:
        raise SystemExit(str(error)) from None
    store = _open_registry(options, reactor, keyring)
    replica = _make_replica(store, factory, reactor)
    if not isinstance(options["registry"], MemoryUrl):
        factory.share(replica)
    lag = Lag(reactor)
    happenings = Happenings(time.time)
    factory.watch(happenings.note)
    control = LocalControl(factory, Reporter(factory, replica, lag, number, str(store)), happenings)
    sweeps = _sweeps(factory, keyring, reactor)
    proxy = ProxyService(factory, listeners, replica, sweeps, factory.limits.drain_timeout, reactor)
    writers = list(_writers(options, trail, factory, reactor))
    for writer in writers:
        # The proxy's own child, because those are stopped when its last packet is answered.
        writer.setServiceParent(proxy)
    reloads = [*_reloads(options, factory, keyring), *(writer.reopen for writer in writers)]
    reload = ReloadService(reactor, notifier.around(reloads))
    service = MultiService()
    for part in (
        SignalService(reactor),
        lag,
        attend(options, proxy, control, reactor),
        CollectorService(reactor),
        OpenFilesService(factory.limits.max_clients),
        reload,
    ):
        part.setServiceParent(service)
    return Proxy(service, factory, reload.reload, control)
