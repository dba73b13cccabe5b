"""``twistd rpoolserver``: the command's options, and the one place where a pool server's parts are put together."""

from __future__ import annotations

import importlib
import os
import random
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService
from twisted.internet.endpoints import HostnameEndpoint
from twisted.python import usage

from rproxy.arguments import is_id
from rproxy.hashing import sha1_hex
from rproxy.hostports import add_address, format_address
from rproxy.limits import Limits
from rproxy.listening import ListenerService, parse_listen
from rproxy.logs.service import OPTION as LOG_FORMAT
from rproxy.logs.service import LoggedService, check_format
from rproxy.packets import MAX_FIELD
from rproxy.pool.handling import Handler, Handling
from rproxy.pool.leasing import DEFAULT_LEASE, DRAIN_TIMEOUT, Offer
from rproxy.pool.registrar import LAST_TRY, Registrar
from rproxy.pool.server import DEFAULT_PIPELINE, PoolServerFactory
from rproxy.pool.service import CLOSE_TIMEOUT, Address, PoolService
from rproxy.process.signals import ReloadService, SignalService
from rproxy.process.sweeping import SweepService
from rproxy.secretfile import read_secret
from rproxy.systemd.messages import pool_status, read_manager
from rproxy.systemd.service import Notifier, SystemdService
from rproxy.tls.files import CertificatesError, client_files, split_listen
from rproxy.tls.keyring import SWEEP_LOGS, Keyring

#: What a stop may take beyond its own bounds, in seconds.
GRACE = 3.0
#: How long a proxy may take to accept a connection, in seconds.
CONNECT_TIMEOUT = 5.0


def _number(option: str, kind: type[int] | type[float], least: float, most: float) -> Callable[[object], float]:
    """Return what reads an option's number, or says what it must be."""
    what = "a whole number" if kind is int else "a number"

    def read(text: object) -> float:
        try:
            number = kind(str(text))
        except ValueError:
            number = kind(least - 1)
        if not least <= number <= most:
            raise usage.UsageError(f"--{option} takes {what} from {least:g} to {most:g}, not {text}")
        return number

    return read


def _load_handler(name: str) -> Handler:
    module, _, path = name.partition(":")
    if not (module and path):
        raise usage.UsageError(
            f"--handler takes PACKAGE.MODULE:CALLABLE, such as mypackage.handlers:process, not {name}"
        )
    # As python -m does, because twistd, being a script, has its own folder there.
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        handler = attrgetter(path)(importlib.import_module(module))
    except Exception as error:  # importing runs what is in the module, and that may fail in any way
        raise usage.UsageError(f"--handler {name} can't be imported: {type(error).__name__}: {error}") from error
    if not callable(handler):
        raise usage.UsageError(f"--handler {name} can't be called: it is a {type(handler).__name__}")
    return cast(Handler, handler)


class Options(usage.Options):
    """The options of ``twistd rpoolserver``."""

    synopsis = "--id ID --pp POLICY [--pp POLICY ...] [options]"
    longdesc = (
        "A pool server: it registers with reverse proxies for privacy policies, and answers each packet with the SHA-1"
        " of its payload, or with what --handler makes of it."
    )

    optParameters = [
        ["id", None, None, "What the server calls itself; it has to be its own"],
        ["listen", None, "5000", "TCP port to listen on, on all interfaces, 0 for any free one; or a Twisted endpoint"],
        ["weight", None, 1, "Its share in the rotation, beside servers of weight 1", _number("weight", int, 1, 100)],
        [
            "handler",
            None,
            None,
            "PACKAGE.MODULE:CALLABLE that takes a payload and gives the answer's, instead of SHA-1",
        ],
        [
            "pipeline",
            None,
            DEFAULT_PIPELINE,
            "Packets that it takes in flight on a connection",
            _number("pipeline", int, 1, 1024),
        ],
        ["connections", None, 1, "Connections that a proxy may make", _number("connections", int, 1, 64)],
        [
            "lease",
            None,
            DEFAULT_LEASE,
            "How long a registration outlives its last renewal, in seconds",
            _number("lease", float, 1, 86400),
        ],
        [
            "max-packet",
            None,
            Limits().max_packet,
            "The longest packet, in bytes; give it the proxy's",
            _number("max-packet", int, 64, 1 << 30),
        ],
        [
            "drain-timeout",
            None,
            30.0,
            "How long a stop may wait for what is in flight, in seconds",
            _number("drain-timeout", float, 0, 86400),
        ],
        [
            "tls-ca",
            None,
            None,
            "Connect to proxies by TLS: file with the authorities of their certificates, or: system",
        ],
        ["tls-cert", None, None, "File with the certificate to show to proxies"],
        ["tls-key", None, None, "File with the key of --tls-cert"],
        LOG_FORMAT,
        ["token-file", None, None, "File with the proof that it may register, where a proxy asks for one"],
    ]
    optFlags = [["log-packets", None, "Show every packet, with its payload, in the log"]]

    def __init__(self) -> None:
        super().__init__()
        self["policies"] = []
        self["proxies"] = []

    def parseArgs(self, *others: str) -> None:
        if others:
            raise usage.UsageError(f"{others[0]} is no option: a policy, for one, is given as --pp 111")

    def opt_pp(self, policy: str) -> None:
        """A privacy policy that it serves (repeatable)"""
        if not is_id(policy):
            raise usage.UsageError(f"--pp takes 1 to {MAX_FIELD} printable characters")
        if policy not in self["policies"]:
            self["policies"].append(policy)

    def opt_revproc(self, address: str) -> None:
        """[HOST:]PORT of a reverse proxy to register with (repeatable) [default: 127.0.0.1:8000]"""
        try:
            add_address(self["proxies"], address)
        except ValueError as error:
            raise usage.UsageError(f"--revproc {error}") from None

    def postOptions(self) -> None:
        check_format(self)
        if not is_id(self["id"] or ""):
            raise usage.UsageError(f"--id must be given, with 1 to {MAX_FIELD} printable characters, such as --id 100")
        if not self["policies"]:
            raise usage.UsageError("--pp must be given, once for each privacy policy to serve, such as --pp 111")
        self["proxies"] = self["proxies"] or [("127.0.0.1", 8000)]
        # A proxy calls a server back at the address that it registered from.
        ipv6 = any(":" in host for host, _ in self["proxies"])
        try:
            files = self["files"] = client_files("--tls", self["tls-ca"], self["tls-cert"], self["tls-key"])
        except ValueError as error:
            raise usage.UsageError(str(error)) from None
        try:
            self["listen"] = parse_listen(self["listen"], ipv6=ipv6, tls=files)
        except ValueError as error:
            raise usage.UsageError(f"--listen {error}") from None
        self["handler"] = sha1_hex if self["handler"] is None else _load_handler(self["handler"])
        self["token"] = None if self["token-file"] is None else _read_token(Path(self["token-file"]))


def _read_token(path: Path) -> str:
    try:
        token = read_secret(path, "token").decode().strip()
    except UnicodeDecodeError:
        token = ""
    except ValueError as error:
        raise usage.UsageError(f"--token-file: {error}") from None
    if not is_id(token):
        raise usage.UsageError(f"--token-file: {path} must hold 1 to {MAX_FIELD} printable characters")
    return token


def makeService(options: Options) -> IService:
    """Return the pool server that the options ask for.

    :raises SystemExit: its certificates can't be used.
    """
    from twisted.internet import reactor

    service = LoggedService(options)
    SignalService(reactor).setServiceParent(service)
    keyring = Keyring()
    notifier = Notifier(read_manager(os.environ))
    try:
        pool = make_service(options, reactor, keyring)
    except CertificatesError as error:
        raise SystemExit(str(error)) from None
    pool.setServiceParent(service)
    SweepService(reactor, SWEEP_LOGS, keyring.sweep).setServiceParent(service)
    ReloadService(reactor, notifier.around([keyring.reload] if keyring else [])).setServiceParent(service)
    stop_seconds = options["drain-timeout"] + LAST_TRY + DRAIN_TIMEOUT + CLOSE_TIMEOUT + GRACE

    def status() -> str:
        return pool_status(pool.registered, len(pool.registrars), pool.in_flight)

    SystemdService(notifier, reactor, lambda: True, status, stop_seconds).setServiceParent(service)
    return service


def make_service(options: Options, reactor: Any, keyring: Keyring) -> PoolService:
    """The same, on a reactor.

    :param keyring: where its certificates are put.
    :raises CertificatesError: they can't be used.
    """
    handling = Handling(
        server_id=options["id"],
        policies=frozenset(options["policies"]),
        handler=options["handler"],
        max_packet=options["max-packet"],
        log_packets=bool(options["log-packets"]),
    )
    factory = PoolServerFactory(handling, reactor, options["pipeline"])

    def register(proxy: Address, port: int) -> list[Registrar]:
        tcp = HostnameEndpoint(reactor, *proxy, timeout=CONNECT_TIMEOUT)
        endpoint = keyring.client(options["files"], tcp, proxy[0], reactor, CONNECT_TIMEOUT)
        offers = [
            Offer(
                server_id=handling.server_id,
                policy=policy,
                port=port,
                pipeline=options["pipeline"],
                connections=options["connections"],
                lease=options["lease"],
                weight=options["weight"],
                token=options["token"],
            )
            for policy in options["policies"]
        ]
        return [Registrar(endpoint, format_address(*proxy), offer, reactor, random.random) for offer in offers]

    keyring.load(options["files"])
    listen, files = split_listen(options["listen"], options["files"])
    return PoolService(
        ListenerService(listen, keyring.server(files, factory, reactor), reactor),
        factory,
        options["policies"],
        options["proxies"],
        register,
        options["drain-timeout"],
        reactor,
    )
