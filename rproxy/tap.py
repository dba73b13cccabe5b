"""``twistd rproxy``: the command's options, and the one place where the proxy's parts are put together."""

from __future__ import annotations

import math
import random
from argparse import ArgumentTypeError
from collections.abc import Sequence
from typing import Any, ClassVar

from attrs import fields
from twisted.application.service import IService, MultiService
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python import usage

from rproxy.addresses import network
from rproxy.arguments import identifier
from rproxy.collecting import CollectorService
from rproxy.fronted import FrontedFactory
from rproxy.limits import Limits
from rproxy.listening import ListenerService, parse_listen
from rproxy.openfiles import OpenFilesService
from rproxy.packetlog import ProxyLog
from rproxy.proxy import ProxyFactory
from rproxy.proxyservice import ProxyService
from rproxy.registry import Address
from rproxy.signals import SignalService
from rproxy.sockets import SocketGroup
from rproxy.sweeping import SWEEP, SweepService

_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Limits)}
_PORT = "8000"
#: Before an endpoint: those that ``--proxy-from`` names are expected there, and only there. As Twisted writes it.
_FRONTED = "haproxy:"


def _limit(name: str, text: str) -> list[object]:
    """One of the limits as an option that takes a number of its kind."""
    option = name.replace("_", "-")
    default = _DEFAULTS[name]

    def parse(value: str) -> Any:
        try:
            number: Any = type(default)(value)
            Limits(**{name: number})
        except ValueError as error:
            raise usage.UsageError(f"--{option} {value}: {error}") from None
        if math.isinf(number):
            raise usage.UsageError(f"--{option} {value}: without an end it would be no limit")
        return number

    return [option, None, default, text, parse]


class Options(usage.Options):
    """The options of ``twistd rproxy``."""

    synopsis = "[--port N | --listen ENDPOINT ...] [options]"
    longdesc = "A reverse proxy for JSON packets over TCP that routes every packet by the privacy policy it asks for."

    optParameters: ClassVar = [
        ["port", "p", None, f"TCP port to listen on, on all interfaces; 0 for any free one [default: {_PORT}]"],
        _limit("max_packet", "The longest packet, in bytes"),
        _limit("max_clients", "Client connections at a time; further ones wait"),
        _limit("max_clients_per_address", "Of those from one address, or IPv6 /64; further ones are refused; 0: any"),
        _limit("rate_limit", "Packets a second from one address; it isn't read from beyond; 0: any"),
        _limit("max_bytes_per_address", "Unanswered bytes of one address, likewise"),
        _limit("timeout", "From a packet to its answer at most, in seconds"),
        _limit("queue_timeout", "A packet's wait for a free server, in seconds"),
        _limit("connect_timeout", "For a connection to a server, in seconds"),
        _limit("max_fails", "Failed connections in a row that take a server down"),
        _limit("max_timeouts", "Connections in a row without an answer in time that do so"),
        _limit("slow_start", "Until a server that came back has its full share, in seconds"),
        _limit("idle_timeout", "A client without a packet is disconnected after, in seconds"),
        _limit("packet_timeout", "From a packet's first byte to its last, in seconds"),
        _limit("drain_timeout", "For the last answers when it is stopped, in seconds"),
    ]
    optFlags: ClassVar = [
        ["strict", None, "Refuse packets whose payloadsize is wrong, instead of counting them"],
        ["log-packets", None, "Show every packet, with its payload, in the log"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["proxy-from"] = []
        self["retry"] = set()

    def opt_listen(self, endpoint: str) -> None:
        """Listen at this Twisted server endpoint, for example tcp:8000:interface=10.0.0.1 (repeatable)"""
        self["listen"].append(endpoint)

    def opt_proxy_from(self, text: str) -> None:
        """Take PROXY headers, and nothing else, from this network; only at --listen haproxy:... if any (repeatable)"""
        try:
            self["proxy-from"].append(network(text))
        except ValueError as error:
            raise usage.UsageError(f"--proxy-from: {error}") from None

    def opt_retry(self, policy: str) -> None:
        """Give packets of this policy to another server if the first is lost while it has them (repeatable)"""
        try:
            self["retry"].add(identifier(policy))
        except ArgumentTypeError as error:
            raise usage.UsageError(f"--retry: {error}") from None

    def postOptions(self) -> None:
        if self["listen"] and self["port"] is not None:
            raise usage.UsageError("--listen replaces --port: give one of them")
        port = _PORT if self["port"] is None else self["port"]
        listen = self["listen"] or [port]
        self["fronted"] = _which_are_fronted(listen, bool(self["proxy-from"]))
        try:
            self["listen"] = [parse_listen(text.removeprefix(_FRONTED)) for text in listen]
        except ValueError as error:
            raise usage.UsageError(str(error)) from None
        self["limits"] = Limits(
            **{
                name: type(default)(self[option])
                for name, default in _DEFAULTS.items()
                if (option := name.replace("_", "-")) in self
            }
        )


def _which_are_fronted(listen: Sequence[str], trusted: bool) -> list[bool]:
    """Whether headers are expected, for each endpoint: at those that are marked, or at all where none is.

    :raises UsageError: one is marked, and nobody is trusted.
    """
    marked = [text.startswith(_FRONTED) for text in listen]
    if any(marked) and not trusted:
        raise usage.UsageError(f"--listen {_FRONTED}...: say by --proxy-from whose headers may be believed there")
    return marked if any(marked) else [trusted] * len(listen)


def makeService(options: Options) -> IService:
    """The proxy that the options ask for."""
    from twisted.internet import reactor as the_reactor

    reactor: Any = the_reactor
    sockets: Any = SocketGroup(reactor)
    limits: Limits = options["limits"]

    def connect(address: Address) -> IStreamClientEndpoint:
        host, port = address
        return TCP4ClientEndpoint(sockets, host, port, timeout=limits.connect_timeout)

    factory = ProxyFactory(
        limits,
        reactor,
        connect,
        random.random,
        ProxyLog() if options["log-packets"] else None,
        frozenset(options["retry"]),
    )
    fronted = FrontedFactory(factory, factory, options["proxy-from"])
    listeners = [
        ListenerService(endpoint, fronted if is_fronted else factory, sockets, factory.listening)
        for endpoint, is_fronted in zip(options["listen"], options["fronted"], strict=True)
    ]
    sweeps = [
        SweepService(reactor, min(SWEEP, limits.timeout / 4, limits.queue_timeout / 4), factory.sweep),
        SweepService(reactor, min(5.0, limits.idle_timeout / 4, limits.packet_timeout / 4), factory.sweep_idle),
    ]
    service = MultiService()
    ProxyService(factory, listeners, sweeps, limits.drain_timeout, reactor).setServiceParent(service)
    CollectorService(reactor).setServiceParent(service)
    OpenFilesService(limits.max_clients).setServiceParent(service)
    SignalService(reactor).setServiceParent(service)
    return service
