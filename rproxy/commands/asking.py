"""The way to the admin listener and back: the arguments that all commands share, HTTP, and how a command ends."""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from attrs import frozen

from rproxy.admin.answers import Changed
from rproxy.commands.showing import plain
from rproxy.figures import Figures

T = TypeVar("T")

#: Where the listener is unless told otherwise, and the variable that may say so.
ADDRESS = "127.0.0.1:9000"
VARIABLE = "RPROXY_ADMIN"
#: Where it is instead where systemd runs the proxy (``etc/systemd/rproxy.service``).
SOCKET = Path("/run/rproxy/admin.sock")
#: For an answer, in seconds.
SECONDS = 10.0

EPILOG = (
    f"The proxy has to run with --admin; the variable {VARIABLE} may say where that is. Exit codes: 0 done; 1 refused,"
    " or nothing found; 2 the proxy can't be reached, or the arguments can't be understood. With --json, errors are"
    ' {"error": "..."} on standard output.'
)


class UnreachableError(Exception):
    """There is no admin listener; the text says what was tried."""


class RefusedError(Exception):
    """The proxy doesn't do it; the text is its own."""


@frozen
class Address:
    """Where a listener is: a host and a port, or the path of a Unix socket."""

    host: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"{self.host}:{self.port}"


def admin_address(text: str) -> Address:
    """Take an address.

    :raises ArgumentTypeError: it is none.
    """
    from rproxy.hostports import parse_address

    kind, _, path = text.partition(":")
    if kind == "unix" and path:
        return Address("localhost", 0, path)
    try:
        return Address(*parse_address(text))
    except ValueError as error:
        raise ArgumentTypeError(f"{error}, or unix:PATH") from None


def token(text: str) -> str:
    """Take the file of a token.

    :raises ArgumentTypeError: it is none.
    """
    from rproxy.admin.guarding import read_token

    try:
        return read_token(Path(text))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what all of these commands take."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--admin",
        type=admin_address,
        # As it is usual, one that is empty says nothing.
        default=os.environ.get(VARIABLE) or (f"unix:{SOCKET}" if SOCKET.exists() else ADDRESS),
        metavar="ADDRESS",
        help=f"where the proxy's admin listener is: [HOST:]PORT or unix:PATH [default: ${VARIABLE}, or that of"
        f" systemd's rproxy.service if that runs, else {ADDRESS}]",
    )
    parser.add_argument(
        "--token-file",
        type=token,
        metavar="FILE",
        help="the file that the proxy was given by --admin-token, or its copy",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        # While the listener's backlog is full, who connects waits, but not with a timeout of Python's: that fails.
        seconds, part = divmod(self.timeout or 0.0, 1)
        timeout = struct.pack("ll", int(seconds), int(part * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        try:
            self.sock.connect(self._path)
        except BlockingIOError:
            raise TimeoutError from None
        self.sock.settimeout(self.timeout)


class Admin:
    """An admin listener, asked one thing at a time.

    :param token: None if there is none to show.
    """

    def __init__(self, address: Address, token: str | None) -> None:
        self._address = address
        self._token = token

    def figures(self) -> Figures:
        """See :meth:`ask`."""
        return self.convert(self.ask("GET", "/api/v1/figures"), Figures)

    def explain(self, policy: str, client: str | None) -> Any:
        """See :meth:`ask`."""
        query = {"policy": policy} if client is None else {"policy": policy, "client": client}
        return self.ask("GET", f"/api/v1/explain?{urlencode(query)}")

    def change(self, what: str, server_id: str, policy: str | None) -> int:
        """Drain, resume or revoke, and return of how many registrations that was true; see :meth:`ask`."""
        body = {} if policy is None else {"policy": policy}
        answer = self.ask("POST", f"/api/v1/servers/{quote(server_id, safe='')}/{what}", body)
        return self.convert(answer, Changed).registrations

    def convert(self, answer: Any, kind: type[T]) -> T:
        """Take an answer for what it should be.

        :raises UnreachableError: it isn't.
        """
        try:
            return msgspec.convert(answer, kind)
        except msgspec.ValidationError as error:
            raise UnreachableError(f"what answers at {self._address} is of another version: {error}") from None

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask, and return what the JSON of the answer says.

        :raises UnreachableError: nobody answers, or somebody else.
        :raises RefusedError: the answer is no.
        """
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            status, raw = self._exchange(method, path, None if body is None else json.dumps(body), headers)
        # The codec of host names has its own error.
        except (OSError, UnicodeError) as error:
            raise UnreachableError(f"no admin listener answers at {self._address}: {self._reason(error)}") from None
        except HTTPException:
            raise UnreachableError(self._stranger) from None
        try:
            answer = json.loads(raw)
            if status == 200:
                return answer
            text = plain(str(answer["error"]))
        except (ValueError, LookupError, TypeError, RecursionError):
            raise UnreachableError(self._stranger) from None
        raise RefusedError(self._unauthorized if status == 401 else text)

    @property
    def _stranger(self) -> str:
        return f"what answers at {self._address} is no admin listener of rproxy: --admin or {VARIABLE} says where it is"

    @property
    def _unauthorized(self) -> str:
        if self._token is None:
            return "this needs the proxy's token: give --token-file FILE, the file that the proxy has as --admin-token"
        return "the token of --token-file isn't the proxy's: give the file that the proxy has as --admin-token"

    def _reason(self, error: OSError | UnicodeError) -> str:
        """Why nobody answers, and what to do."""
        path = self._address.path
        if isinstance(error, TimeoutError):
            return f"it said nothing for {SECONDS:.0f} seconds; the proxy hangs, or this isn't one"
        if isinstance(error, PermissionError) and path is not None:
            return "Permission denied; ask as the proxy's user, or as root"
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, ConnectionRefusedError) and path is not None and not Path(path).is_socket():
            why = "it is no socket"
        return f"{why}; does the proxy run with --admin? --admin or {VARIABLE} says where that is"

    def _exchange(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        address = self._address
        if address.path is not None:
            connection: HTTPConnection = _UnixConnection(address.path, SECONDS)
        else:
            connection = HTTPConnection(address.host, address.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def asking(args: argparse.Namespace, do: Callable[[Admin], int]) -> int:
    """Do what a command does, and return its exit code; what goes wrong is said in a sentence."""
    try:
        return do(Admin(args.admin, args.token_file))
    except RefusedError as error:
        code = 1
        text = str(error)
    except UnreachableError as error:
        code = 2
        text = str(error)
    if args.json:
        print(json.dumps({"error": text}))
    else:
        print(f"rproxy {args.command}: {text}", file=sys.stderr)
    return code
