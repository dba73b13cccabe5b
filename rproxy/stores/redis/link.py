"""One connection to a Redis or a sentinel: commands out, answers and notes in.

txredisapi reads and writes the bytes. Its pools and factories aren't used, because they connect again by themselves:
here a connection that failed stays failed, so that no gap between two of them goes unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as AnswerTimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from txredisapi import BaseRedisProtocol, RedisError, ResponseError

from rproxy.counting import Count
from rproxy.stores import StoreError, StoreRefusedError
from rproxy.stores.redis.script import FOREIGN, Script
from rproxy.tls.files import CertificatesError, Files
from rproxy.tls.keyring import Keyring

#: Seconds for a connection with its handshake, and for an answer.
TIMEOUT = 3.0

#: What an error's code means, and what to do about it.
_MEANINGS = {
    "NOAUTH": "it wants a password",
    "WRONGPASS": "it doesn't take the password",
    "NOPERM": "its user may not do all that is needed",
    "READONLY": "it is a replica, which takes no changes: name the master, or its sentinels",
    "MASTERDOWN": "it is a replica that lost its master",
    "LOADING": "it is still reading its data",
    "OOM": "its memory is full (maxmemory)",
    "MISCONF": "it can't save its data to disk, and so takes no changes",
    "NOREPLICAS": "it has too few replicas, and so takes no changes",
    "BUSY": "it is busy with another script",
    "MOVED": "it is a node of a cluster, and the keys are at another node",
    "ASK": "it is a node of a cluster, and the keys are moving to another node",
    "CLUSTERDOWN": "its cluster is down",
}
#: The code may stand further behind, where an older Redis tells of an error within a script.
_CODE = re.compile(rf"\b(?:{'|'.join(_MEANINGS)})\b")

_T = TypeVar("_T")


class Link(BaseRedisProtocol):  # type: ignore[misc]  # txredisapi has no types
    """A connection, until it is lost.

    :ivar noted: called with what is published on a channel that was subscribed to.
    :ivar ended: called when the connection is lost, with why.
    :ivar heard: when something came last, in seconds of the reactor's clock.
    """

    def __init__(self, reactor: Any, name: str, timeout: float, count: Count) -> None:
        # Without a charset answers are bytes; without conversion, all of them.
        super().__init__(charset=None, convertNumbers=False)
        self._reactor = reactor
        self._name = name
        self._timeout = timeout
        self._count = count
        self._why: str | None = None
        self._refused = False
        self._rest = b""
        self.heard: float | None = None
        self.noted: Callable[[bytes], object] = lambda _: None
        self.ended: Callable[[str], object] = lambda _: None

    def __str__(self) -> str:
        return self._name

    def connectionMade(self) -> None:
        self._count.change(1)
        self.transport.setTcpNoDelay(True)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if self.heard is None and data[:1] not in b"+-:$*":
            # txredisapi would skip it, and wait.
            self._refused = True
            self.drop(f"{self} is no Redis: it says {data[:30].decode('ascii', 'replace')!r}")
            return
        self.heard = self._reactor.seconds()
        self._rest = data
        while self._rest and self._why is None:
            data, self._rest = self._rest, b""
            super().dataReceived(data)

    def setLineMode(self, extra: bytes = b"") -> None:
        # txredisapi would wait for the reactor's next turn after each value, and go on even if the connection is lost.
        self.line_mode = 1
        self._rest = extra

    def replyReceived(self, reply: Any) -> None:
        if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":
            self.noted(reply[2])
        else:
            super().replyReceived(reply)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._why is None:
            self._why = f"the connection to {self} was lost: {reason.getErrorMessage()}"
        super().connectionLost(reason)
        self.ended(self._why)
        self._count.change(-1)

    def drop(self, why: str) -> None:
        """End it at once; who waits for an answer fails with this reason."""
        if self._why is None:
            self._why = why
            self.transport.abortConnection()

    async def run(self, script: Script, keys: list[str], arguments: list[str]) -> bytes:
        """Run a script that answers with a text.

        :raises StoreError: (or StoreRefusedError) as :meth:`ask`.
        """
        words: tuple[str | int, ...] = (len(keys), *keys, *arguments)
        try:
            answer = await self._answer("EVALSHA", script.name, *words)
        except ResponseError as error:
            # It forgets all scripts when it starts.
            if "NOSCRIPT" not in str(error):
                raise self._failure(error) from None
            answer = await self.ask("EVAL", script.text, *words)
        if not isinstance(answer, bytes):
            raise StoreError(f"{self} doesn't run scripts as a Redis does")
        return answer

    async def ask(self, *words: str | int) -> Any:
        """Return the answer to a command.

        :raises StoreError: there is none in time, or it is an error.
        :raises StoreRefusedError: what is there is no Redis, or has other data in its keys.
        """
        try:
            return await self._answer(*words)
        except ResponseError as error:
            raise self._failure(error) from None

    async def enter(self, username: str | None, password: str | None) -> None:
        """Say who asks, where there is a password.

        :raises StoreError: it isn't taken. What the Redis says isn't repeated, as it may quote the password.
        """
        if password is None:
            return
        words = (password,) if username is None else (username, password)
        try:
            await self._answer("AUTH", *words)
        except ResponseError as error:
            found = _CODE.search(str(error).split(" ", 1)[0])
            meaning = _MEANINGS[found[0]] if found else "it doesn't take the password, or has none set"
            raise StoreError(f"{self}: {meaning}") from None

    async def _answer(self, *words: str | int) -> Any:
        """:raises ResponseError: what it has against the command."""
        try:
            answer: Deferred[Any] = self.execute_command(*words)
            return await answer.addTimeout(self._timeout, self._reactor)
        except AnswerTimeoutError:
            raise StoreError(f"{self} doesn't answer") from None
        except ResponseError:
            raise
        except RedisError:
            # Not connected any more; or something came that isn't of the protocol.
            kind = StoreRefusedError if self._refused else StoreError
            raise kind(self._why or f"{self} doesn't speak as a Redis does") from None

    def _failure(self, error: ResponseError) -> StoreError | StoreRefusedError:
        text = str(error)
        if text.startswith(FOREIGN):
            return StoreRefusedError(f"{self}: {text.removeprefix(FOREIGN).strip()}")
        if "WRONGTYPE" in text:
            return StoreRefusedError(f"{self}: keys with its prefix are in use for something else")
        found = _CODE.search(text)
        return StoreError(f"{self}: {_MEANINGS[found[0]]}" if found else f"{self} answers with an error: {text}")


@frozen
class Dialer:
    """Makes connections.

    :ivar tls: None without TLS.
    :ivar count: of the connections that aren't over yet.
    """

    reactor: Any
    keyring: Keyring
    tls: Files | None
    count: Count

    async def dial(self, host: str, port: int, timeout: float = TIMEOUT) -> Link:
        """Return a connection.

        :param timeout: in seconds: for the connection with its handshake, and later for each answer.
        :raises StoreError: there is none.
        :raises StoreRefusedError: the certificates can't be used.
        """
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        link = Link(self.reactor, name, timeout, self.count)
        plain = HostnameEndpoint(self.reactor, host, port, timeout=timeout)
        try:
            endpoint = self.keyring.client(self.tls, plain, host, self.reactor, timeout)
            # The endpoint's own time doesn't count while the name is looked up.
            connecting = endpoint.connect(_Once(link)).addTimeout(timeout, self.reactor, onTimeoutCancel=_took_too_long)
            await _plainly_cancelled(connecting)
        except CertificatesError as error:
            raise StoreRefusedError(str(error)) from None
        except (AnswerTimeoutError, ConnectTimeoutError):
            raise StoreError(f"{name} can't be connected to: it doesn't answer") from None
        except (ConnectError, OSError) as error:
            raise StoreError(f"{name} can't be connected to: {error}") from None
        return link


def _took_too_long(_: object, timeout: float) -> NoReturn:
    raise AnswerTimeoutError(timeout)


def _plainly_cancelled(doing: Deferred[_T]) -> Deferred[_T]:
    """Have it fail as cancelled when it is: an endpoint says then that there is no such host, or some other thing."""

    def cancel(told: Deferred[_T]) -> None:
        told.errback(CancelledError())
        doing.cancel()

    def tell(result: _T | Failure) -> None:
        if not told.called:
            told.callback(result)

    told: Deferred[_T] = Deferred(cancel)
    doing.addBoth(tell)
    return told


class _Once(Factory):
    """Has its protocol already."""

    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, _: object) -> Any:
        return self._link
