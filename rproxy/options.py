"""The options of ``twistd rproxy``: read, checked, and what they say together."""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from attrs import evolve, fields
from twisted.python import usage

from rproxy.admin.guarding import is_host, read_token
from rproxy.arguments import identifier, whole
from rproxy.audit.keys import KeyFileError, read_key
from rproxy.limits import Limits
from rproxy.listening import parse_listen
from rproxy.logs.service import OPTION as LOG_FORMAT
from rproxy.logs.service import check_format
from rproxy.networks import parse_network
from rproxy.policies import PRIVATE, Policies, Policy
from rproxy.policies.reading import PoliciesError, read
from rproxy.stores.urls import MemoryUrl, RedisUrl, SqliteUrl, parse_registry, read_password
from rproxy.tls.files import Files, client_files, split_listen

_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Limits)}
_PORT = "8000"
#: Far beyond what any machine has use for.
MOST_WORKERS = 256
#: Before an endpoint: those that ``--proxy-from`` names are expected there, and only there. As Twisted writes it.
_FRONTED = "haproxy:"


def _limit(name: str, text: str) -> list[object]:
    """One of the limits as an option that takes a number of its kind."""
    option = name.replace("_", "-")
    default = _DEFAULTS[name]

    def parse(value: str) -> Any:
        try:
            number: Any = type(default)(value)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise usage.UsageError(f"--{option} takes {kind}, not {value}") from None
        try:
            Limits(**{name: number})
        except ValueError as error:
            why = str(error).removeprefix(f"'{name}' ").removesuffix(f": {number}")
            raise usage.UsageError(f"--{option} {value}: it {why}") from None
        if math.isinf(number):
            raise usage.UsageError(f"--{option} {value}: without an end it would be no limit")
        return number

    return [option, None, default, text, parse]


def _workers(text: str) -> int:
    if text == "auto":
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    try:
        return whole(1, MOST_WORKERS)(text)
    except ArgumentTypeError as error:
        raise usage.UsageError(f"--workers: {error}, or auto") from None


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise usage.UsageError(f"--access-log-sample {text}: give a number above 0 and up to 1, such as 0.01")
    return share


class Options(usage.Options):
    """The options of ``twistd rproxy``."""

    synopsis = "[--port N | --listen ENDPOINT ...] [options]"
    longdesc = "A reverse proxy for JSON packets over TCP that routes every packet by the privacy policy it asks for."

    optParameters: ClassVar = [
        ["port", "p", None, f"TCP port to listen on, on all interfaces; 0 for any free one [default: {_PORT}]"],
        _limit("max_packet", "The longest packet, in bytes"),
        _limit("max_clients", "Client connections at a time, of all workers; further ones wait"),
        _limit(
            "max_clients_per_address",
            "Client connections from one address, or IPv6 /64; further ones are refused; 0: any",
        ),
        _limit("rate_limit", "Packets a second from one address; it isn't read from beyond; 0: any"),
        _limit("max_bytes_per_address", "Unanswered bytes of one address; it isn't read from beyond; 0: any"),
        _limit("timeout", "From a packet to its answer at most, in seconds"),
        _limit("queue_timeout", "A packet's wait for a free server, in seconds"),
        _limit("connect_timeout", "For a connection to a server, in seconds"),
        _limit("max_fails", "Failed connections in a row that take a server down"),
        _limit("max_timeouts", "Connections in a row without an answer in time that take a server down"),
        _limit("slow_start", "Until a server that came back has its full share, in seconds"),
        _limit("idle_timeout", "A client without a packet is disconnected after, in seconds"),
        _limit("packet_timeout", "From a packet's first byte to its last, in seconds"),
        _limit("drain_timeout", "For the last answers when it is stopped, in seconds"),
        [
            "registry",
            None,
            "memory:",
            "Where registrations are kept, to outlast a restart and be shared: memory:, sqlite:PATH or redis://HOST",
        ],
        ["registry-password", None, None, "File with the password of redis"],
        _limit("forget_after", "A registration without a lease ends when its server was down for so long, in seconds"),
        ["audit", None, None, "Record in this file what becomes of each packet and registration, without payloads"],
        [
            "audit-key",
            None,
            None,
            "The file with the key of --audit: at least 16 bytes, such as openssl rand -hex 32 makes",
        ],
        ["audit-on-error", None, "refuse", "While it can't be written, refuse packets, or continue without it"],
        ["upstream-tls-ca", None, None, "File with the authorities of the servers' certificates, or: system"],
        ["upstream-tls-cert", None, None, "File with the certificate to show to servers"],
        ["upstream-tls-key", None, None, "File with the key of --upstream-tls-cert"],
        ["upstream-tls-name", None, None, "What servers' certificates are for, instead of each one's IP address"],
        ["workers", None, 1, "Processes that serve, or auto: as many as there are processors for it", _workers],
        ["access-log", None, None, "Write a line for each packet to this file, without payloads"],
        ["access-log-sample", None, 1.0, "Of the packets that were acked, the share that has a line", _share],
        LOG_FORMAT,
        [
            "admin",
            None,
            None,
            "Where to ask the running proxy by HTTP: a port of loopback, or an endpoint [default: nowhere]",
        ],
        ["admin-token", None, None, "The file with the token that changes there need, and reading from elsewhere"],
        ["policies", None, None, "Who may serve and ask for which policy: a TOML file"],
    ]
    optFlags: ClassVar = [
        ["upstream-tls", None, "Connect to servers by TLS, and verify their certificates"],
        ["strict", None, "Refuse packets whose payloadsize is wrong, instead of counting them"],
        ["log-packets", None, "Show every packet, with its payload, in the log"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["proxy-from"] = []
        self["register-listen"] = []
        self["register-from"] = []
        self["retry"] = set()
        self["admin-host"] = []

    def parseArgs(self, *others: str) -> None:
        if others:
            raise usage.UsageError(f"{others[0]} is no option: a port, for one, is given as --port 8000")

    def opt_listen(self, endpoint: str) -> None:
        """Listen at this Twisted server endpoint, for example tcp:8000:interface=10.0.0.1 or
        tls:8443:cert=FILE:key=FILE:ca=FILE (repeatable)"""
        self["listen"].append(endpoint)

    def opt_proxy_from(self, text: str) -> None:
        """Take PROXY headers, and nothing else, from this network; only at --listen haproxy:... if any (repeatable)"""
        try:
            self["proxy-from"].append(parse_network(text))
        except ValueError as error:
            raise usage.UsageError(f"--proxy-from: {error}: give a network, such as 10.0.1.0/24") from None

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
        """Offer packets of this policy to its servers once more if one is lost while it has them (repeatable)"""
        try:
            self["retry"].add(identifier(policy))
        except ArgumentTypeError as error:
            raise usage.UsageError(f"--retry: {error}") from None

    def opt_admin_host(self, name: str) -> None:
        """Answer at --admin also who asks for it by this name, and not as localhost or by address (repeatable)"""
        if not is_host(name):
            raise usage.UsageError(f"--admin-host {name}: give a name, such as proxy.example.org")
        self["admin-host"].append(name)

    def postOptions(self) -> None:
        check_format(self)
        if self["listen"] and self["port"] is not None:
            raise usage.UsageError("--listen replaces --port: give one of them")
        port = _PORT if self["port"] is None else self["port"]
        listen = self["listen"] or [port]
        fronted = _which_are_fronted([*listen, *self["register-listen"]], bool(self["proxy-from"]))
        self["fronted"], self["register-fronted"] = fronted[: len(listen)], fronted[len(listen) :]
        try:
            self["listen"] = [parse_listen(text.removeprefix(_FRONTED)) for text in listen]
            self["register-listen"] = [parse_listen(text.removeprefix(_FRONTED)) for text in self["register-listen"]]
        except ValueError as error:
            raise usage.UsageError(str(error)) from None
        self._take_audit()
        self._take_access_log()
        self._take_admin()
        self["registry"] = self._registry()
        self["upstream-files"] = self._upstream_files()
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

    def _upstream_files(self) -> Files | None:
        begin = "--upstream-tls"
        try:
            files = client_files(begin, *(self[f"upstream-tls-{what}"] for what in ("ca", "cert", "key")))
        except ValueError as error:
            raise usage.UsageError(str(error)) from None
        if self["upstream-tls"] and files is None:
            raise usage.UsageError(f"{begin} needs {begin}-ca: the authorities of the servers' certificates")
        wanted = self["upstream-tls"] or self["policies"] is not None
        if not wanted and (files is not None or self["upstream-tls-name"] is not None):
            raise usage.UsageError(f"{begin}-ca, -cert, -key and -name need {begin}, or policies that have it")
        return files

    def _registry(self) -> MemoryUrl | SqliteUrl | RedisUrl:
        """Read the password here, as it may be in a file that only root can read."""
        try:
            url = parse_registry(self["registry"])
        except ValueError as error:
            raise usage.UsageError(f"--registry: {error}") from None
        path = self["registry-password"]
        if path is not None:
            if not isinstance(url, RedisUrl) or url.password is not None:
                raise usage.UsageError("--registry-password: it is for a --registry of redis, without a password there")
            try:
                url = evolve(url, password=read_password(Path(path)))
            except ValueError as error:
                raise usage.UsageError(f"--registry-password: {error}") from None
        if isinstance(url, RedisUrl) and url.username is not None and url.password is None:
            raise usage.UsageError("--registry: a user name needs a password, or --registry-password")
        return url

    def _take_admin(self) -> None:
        """Read the token here, as it may be in a file that only root can read."""
        text = self["admin"]
        if text is None:
            if self["admin-token"] is not None or self["admin-host"]:
                raise usage.UsageError("--admin-token and --admin-host need --admin")
            return
        try:
            is_port = text.isascii() and text.isdigit()
            self["admin"] = f"{parse_listen(text)}:interface=127.0.0.1" if is_port else parse_listen(text)
            if split_listen(self["admin"])[1] is not None:
                raise ValueError("give an endpoint without TLS: it is for this machine, or for behind a proxy with TLS")
        except ValueError as error:
            raise usage.UsageError(f"--admin: {error}") from None
        if self["admin-token"] is not None:
            try:
                self["admin-token"] = read_token(Path(self["admin-token"]))
            except ValueError as error:
                raise usage.UsageError(f"--admin-token: {error}") from None

    def _take_audit(self) -> None:
        """Read the key here, as it may be one that only root can read."""
        if (self["audit"] is None) is not (self["audit-key"] is None):
            raise usage.UsageError("--audit and --audit-key need each other")
        if self["audit-on-error"] not in {"refuse", "continue"}:
            raise usage.UsageError(f"--audit-on-error {self['audit-on-error']}: give refuse or continue")
        if self["audit"] is None:
            return
        try:
            self["audit-key"] = read_key(Path(self["audit-key"]))
        except KeyFileError as error:
            raise usage.UsageError(f"--audit-key: {error}") from None
        # Where it daemonizes, twistd leaves the folder that it was started in.
        self["audit"] = Path(self["audit"]).absolute()

    def _take_access_log(self) -> None:
        if self["access-log"] is None:
            if self["access-log-sample"] != 1:
                raise usage.UsageError("--access-log-sample needs --access-log")
            return
        self["access-log"] = Path(self["access-log"]).absolute()
        if self["access-log"] == self["audit"]:
            raise usage.UsageError("--access-log and --audit need a file each")

    def read_policies(self) -> Policies:
        """What the options allow, and what the policies file does, as it is now.

        :raises PoliciesError: something in it is wrong.
        """
        base = Policies(
            register_from=tuple(self["register-from"]) or PRIVATE,
            upstream_tls=bool(self["upstream-tls"]),
            anonymous={policy: Policy(retry=True) for policy in self["retry"]},
        )
        if self["policies"] is None:
            return base
        policies = read(self["policies"], base)
        for name in policies.by_name or ():
            if policies.uses_tls(name) and self["upstream-files"] is None:
                raise PoliciesError(0, f"{self['policies']}: policy {name} has upstream-tls: give --upstream-tls-ca")
        return policies


def _which_are_fronted(listen: Sequence[str], trusted: bool) -> list[bool]:
    """Whether headers are expected, for each endpoint: at those that are marked, or at all where none is.

    :raises UsageError: one is marked, and nobody is trusted, or could be told apart there.
    """
    marked = [text.startswith(_FRONTED) for text in listen]
    for text in listen:
        # Twisted would read a second one as its own, which believes everybody.
        if text.removeprefix(_FRONTED).startswith((_FRONTED, "unix:")) and text.startswith(_FRONTED):
            raise usage.UsageError(f"{text}: {_FRONTED} stands once, before an endpoint of TCP or TLS")
    if any(marked) and not trusted:
        raise usage.UsageError(f"{_FRONTED}...: say by --proxy-from whose headers may be believed there")
    return marked if any(marked) else [trusted] * len(listen)
