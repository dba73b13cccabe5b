"""``redis://``, ``rediss://`` and ``redis+sentinel://``: registrations in a Redis or a Valkey.

An exchange is one script (:mod:`rproxy.stores.redis.script`), which also publishes that something changed. A failure
ends both connections, and nothing is connected again unasked: who opens the store again knows that something may have
been missed meanwhile. The server may even have lost some of the latest changes, and have gone on from there, if a
replica took its place. So the first exchange after each opening brings everything.

It needs the extra ``redis``, and imports a reactor: import it where the reactor is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import Any, NoReturn

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from rproxy.counting import Count
from rproxy.registry.records import RecordError
from rproxy.stores import MOST_ENDS, Message, News, StoreError, StoreRefusedError
from rproxy.stores.redis.link import Dialer
from rproxy.stores.redis.script import EXCHANGE, FORMAT, LOOK, arguments, channel, keys, looked, news
from rproxy.stores.redis.session import Session, connect
from rproxy.stores.urls import RedisUrl
from rproxy.tls.keyring import Keyring

__all__ = ["RedisStore"]


@define(eq=False)
class RedisStore:
    """See :class:`rproxy.stores.Store`.

    :param reactor: connects, and says how late it is.
    :param keyring: has the certificates, where the URL asks for TLS.
    :param most_ends: how many ends are remembered at most.
    """

    _url: RedisUrl
    _reactor: Any
    _keyring: Keyring
    _most_ends: int = MOST_ENDS
    _count: Count = field(factory=Count, init=False)
    _session: Session | None = field(default=None, init=False)
    _opening: Deferred[None] | None = field(default=None, init=False)
    _keys: list[str] = field(init=False)
    _process: bytes = field(default=b"", init=False)

    @_keys.default
    def _name_keys(self) -> list[str]:
        return keys(self._url.prefix)

    def open(self, changed: Callable[[], object]) -> Deferred[None]:
        """See :class:`rproxy.stores.Store`."""
        self._end("it is opened again")
        self._opening = Deferred.fromCoroutine(self._open(changed)).addErrback(_given_up)
        return self._opening

    async def _open(self, changed: Callable[[], object]) -> None:
        def noted(process: bytes) -> None:
            if process != self._process:
                changed()

        dialer = Dialer(self._reactor, self._keyring, self._url.tls, self._count)
        session = await connect(dialer, self._url, noted)
        try:
            await session.begin(channel(self._url.prefix))
            await self._look(session)
            # Nobody's message: it makes it a store, and shows whether it takes changes.
            await self._run(session, Message("", leaves=True))
            session.check()
        except BaseException as error:
            session.end(f"it couldn't be opened: {error}")
            raise
        self._session = session
        changed()

    async def _look(self, session: Session) -> None:
        answer = await session.asking.run(LOOK, self._keys[:2], [])
        remedy = f"give another prefix=, or delete the keys that begin with {{{self._url.prefix}}}:"
        try:
            form, _ = looked(answer)
        except RecordError as error:
            raise StoreRefusedError(f"{self} holds something else: {error}; {remedy}") from None
        if form not in {"", FORMAT}:
            raise StoreRefusedError(f"{self} has data of format {form}, and this release has {FORMAT}; {remedy}")

    def exchange(self, message: Message) -> Deferred[News]:
        """See :class:`rproxy.stores.Store`. The first one after each opening brings everything."""
        return Deferred.fromCoroutine(self._exchange(message)).addErrback(_given_up)

    async def _exchange(self, message: Message) -> News:
        session = self._session
        if session is None:
            raise StoreError(f"{self} isn't open")
        self._process = message.process.encode()
        try:
            session.check()
            answer = await self._run(session, message if session.complete else evolve(message, since=None))
        except (StoreError, StoreRefusedError) as error:
            session.end(str(error))
            raise StoreError(str(error)) from None
        except CancelledError:
            session.end("given up")
            raise
        session.complete = True
        return answer

    async def _run(self, session: Session, message: Message) -> News:
        given = arguments(message, self._url.prefix, token_hex(8), self._most_ends)
        answer = await session.asking.run(EXCHANGE, self._keys, given)
        try:
            return news(answer, message.renewed)
        except ValueError as error:
            raise StoreError(f"{self} holds something else: {error}") from None

    def close(self) -> Deferred[None]:
        """See :class:`rproxy.stores.Store`."""
        self._end("it was closed")
        return self._count.when_zero()

    def _end(self, why: str) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        session, self._session = self._session, None
        if session is not None:
            session.end(why)

    def __str__(self) -> str:
        url = self._url
        scheme = f"redis{'s' if url.tls else ''}{'+sentinel' if url.service is not None else ''}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in url.hosts)
        service = "" if url.service is None else f"/{url.service}"
        prefix = "" if url.prefix == "rproxy" else f"?prefix={url.prefix}"
        return f"{scheme}://{hosts}{service}/{url.db}{prefix}"


def _given_up(failure: Failure) -> NoReturn:
    """Only here, as nothing within may take it for a failure of one connection, and go on with another."""
    failure.trap(CancelledError)
    raise StoreError("given up")
