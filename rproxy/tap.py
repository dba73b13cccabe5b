"""``twistd rproxy``: the command's options, and the one place where the proxy's parts are put together."""

from __future__ import annotations

import math
import random
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, ClassVar

from attrs import fields
from twisted.application.service import IService, MultiService
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python import usage

from rproxy.arguments import identifier
from rproxy.collecting import CollectorService
from rproxy.limits import Limits
from rproxy.listening import ListenerService, parse_listen
from rproxy.openfiles import OpenFilesService
from rproxy.packetlog import ProxyLog
from rproxy.policies import PRIVATE, Policies, Policy, parse_network
from rproxy.policies.reading import PoliciesError, read
from rproxy.proxy import ClientProtocol, Entrance, ProxyFactory, ServerProtocol
from rproxy.proxyservice import ProxyService
from rproxy.registry import Address
from rproxy.signals import SignalService
from rproxy.sockets import SocketGroup
from rproxy.sweeping import SWEEP, SweepService

_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Limits)}
_PORT = "8000"
_logger = Logger()


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
        _limit("timeout", "From a packet to its answer at most, in seconds"),
        _limit("queue_timeout", "A packet's wait for a free server, in seconds"),
        _limit("connect_timeout", "For a connection to a server, in seconds"),
        _limit("max_fails", "Failed connections in a row that take a server down"),
        _limit("max_timeouts", "Connections in a row without an answer in time that do so"),
        _limit("slow_start", "Until a server that came back has its full share, in seconds"),
        _limit("idle_timeout", "A silent client is disconnected after, in seconds"),
        _limit("drain_timeout", "For the last answers when it is stopped, in seconds"),
    ]
    optParameters.append(["policies", None, None, "Who may serve and ask for which policy: a TOML file"])
    optFlags: ClassVar = [
        ["strict", None, "Refuse packets whose payloadsize is wrong, instead of counting them"],
        ["log-packets", None, "Show every packet, with its payload, in the log"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["register-listen"] = []
        self["register-from"] = []
        self["retry"] = set()

    def opt_listen(self, endpoint: str) -> None:
        """Listen at this Twisted server endpoint, for example tcp:8000:interface=10.0.0.1 (repeatable)"""
        self["listen"].append(endpoint)

    def opt_register_listen(self, endpoint: str) -> None:
        """Let servers register at this endpoint, and nowhere else (repeatable)"""
        self["register-listen"].append(endpoint)

    def opt_register_from(self, network: str) -> None:
        """Let servers of this network register, as 10.0.0.0/8, and no others but those of further ones (repeatable)
        [default: loopback and private networks]"""
        try:
            self["register-from"].append(parse_network(network))
        except ValueError as error:
            raise usage.UsageError(f"--register-from: {error}: give a network, such as 10.0.1.0/24") from None

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
        try:
            self["listen"] = [parse_listen(text) for text in self["listen"] or [port]]
            self["register-listen"] = [parse_listen(text) for text in self["register-listen"]]
        except ValueError as error:
            raise usage.UsageError(str(error)) from None
        if self["policies"] is not None:
            if self["retry"]:
                raise usage.UsageError("--retry: with --policies, say retry = true in the file")
            # A daemon changes its folder before it reads the file again.
            self["policies"] = Path(self["policies"]).absolute()
        self["limits"] = Limits(
            **{
                name: type(default)(self[option])
                for name, default in _DEFAULTS.items()
                if (option := name.replace("_", "-")) in self
            }
        )
        try:
            self["allowed"] = self.read_policies()
        except PoliciesError as error:
            raise usage.UsageError(f"--policies: {error}") from None

    def read_policies(self) -> Policies:
        """What the options allow, and what the policies file does, as it is now.

        :raises PoliciesError: something in it is wrong.
        """
        base = Policies(
            register_from=tuple(self["register-from"]) or PRIVATE,
            anonymous={policy: Policy(retry=True) for policy in self["retry"]},
        )
        return base if self["policies"] is None else read(self["policies"], base)


def reload_policies(options: Options, factory: ProxyFactory) -> None:
    """Read the policies file again, if there is one, and have the proxy keep to it; or say why it doesn't."""
    if options["policies"] is None:
        return
    try:
        policies = options.read_policies()
    except PoliciesError as error:
        _logger.warn("The policies stay as they were: {error}", error=str(error))
        return
    factory.reload(policies)
    _logger.info("Keeping to the policies of {file} as it is now", file=str(options["policies"]))


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
        options["allowed"],
    )
    clients = Entrance(factory, ClientProtocol) if options["register-listen"] else factory
    servers = Entrance(factory, ServerProtocol)
    listeners = [
        *(ListenerService(each, clients, sockets, factory.listening) for each in options["listen"]),
        *(ListenerService(each, servers, sockets, factory.registering) for each in options["register-listen"]),
    ]
    sweeps = [
        SweepService(reactor, min(SWEEP, limits.timeout / 4, limits.queue_timeout / 4), factory.sweep),
        SweepService(reactor, min(5.0, limits.idle_timeout / 4), factory.sweep_idle),
    ]
    service = MultiService()
    ProxyService(factory, listeners, sweeps, limits.drain_timeout, reactor).setServiceParent(service)
    CollectorService(reactor).setServiceParent(service)
    OpenFilesService(limits.max_clients).setServiceParent(service)
    SignalService(reactor).setServiceParent(service)
    return service
