"""Two connections to one Redis, which live and end together: one asks, the other is told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rproxy.stores import StoreError, StoreRefusedError
from rproxy.stores.redis.link import TIMEOUT, Dialer, Link
from rproxy.stores.urls import RedisUrl

#: Seconds for each step with a sentinel: there are others.
SENTINEL_TIMEOUT = 1.0


class Session:
    """From when both connections are made until one is lost, or is found to hang.

    :ivar asking: the connection for commands.
    :ivar complete: whether everything that there is was asked for in it, and came.
    :ivar why_over: why it is over; None while it isn't.
    """

    def __init__(self, reactor: Any, asking: Link, told: Link, noted: Callable[[bytes], object]) -> None:
        self._reactor = reactor
        self.asking = asking
        self._told = told
        self._noted = noted
        self._pinged: float | None = None
        self.complete = False
        self.why_over: str | None = None

    async def begin(self, channel: str) -> None:
        """Listen to a channel.

        :raises StoreError: it can't be.
        """
        self._told.noted = self._noted
        for link in (self.asking, self._told):
            link.ended = self.end
        await self._told.ask("SUBSCRIBE", channel)

    def end(self, why: str) -> None:
        """Drop both connections."""
        if self.why_over is None:
            self.why_over = why
            self.asking.drop(why)
            self._told.drop(why)

    def check(self) -> None:
        """See to it that a connection that only listens, and hangs, doesn't go unnoticed.

        :raises StoreError: it is over.
        """
        now = self._reactor.seconds()
        heard = self._told.heard or 0.0
        if self._pinged is not None and heard >= self._pinged:
            self._pinged = None
        if self._pinged is None and now - heard >= TIMEOUT:
            self._pinged = now
            self._told.execute_command("PING").addErrback(lambda _: None)
        if self._pinged is not None and now - self._pinged >= TIMEOUT:
            self.end(f"{self._told} doesn't answer")
        if self.why_over is not None:
            raise StoreError(self.why_over)


async def connect(dialer: Dialer, url: RedisUrl, noted: Callable[[bytes], object]) -> Session:
    """Return a session that hasn't begun.

    :param noted: called with each note, once it has.
    :raises StoreError: it isn't there now.
    :raises StoreRefusedError: it is something else.
    """
    if url.service is None:
        return await _connect_to(dialer, url, *url.hosts[0], noted)
    failures = []
    for host, port in url.hosts:
        try:
            return await _connect_to(dialer, url, *await _master(dialer, url, host, port), noted)
        except (StoreError, StoreRefusedError) as error:
            failures.append(str(error))
    raise StoreError("; ".join(failures))


async def _connect_to(dialer: Dialer, url: RedisUrl, host: str, port: int, noted: Callable[[bytes], object]) -> Session:
    links: list[Link] = []
    try:
        for _ in range(2):
            links.append(await dialer.dial(host, port))
            await links[-1].enter(url.username, url.password)
        asking, told = links
        if url.service is not None:
            role = await asking.ask("ROLE")
            if role[0] != b"master":
                raise StoreError(f"{asking} isn't the master, or not yet")
        if url.db:
            await asking.ask("SELECT", url.db)
        return Session(dialer.reactor, asking, told, noted)
    except BaseException:
        # Also when it is cancelled.
        for link in links:
            link.drop("given up")
        raise


async def _master(dialer: Dialer, url: RedisUrl, host: str, port: int) -> tuple[str, int]:
    """Ask a sentinel where the master is."""
    assert url.service is not None
    link = await dialer.dial(host, port, SENTINEL_TIMEOUT)
    try:
        # It may want the same password, or none.
        with suppress(StoreError):
            await link.enter(url.username, url.password)
        address = await link.ask("SENTINEL", "get-master-addr-by-name", url.service)
        if address is None:
            raise StoreError(f"the sentinel {link} knows no {url.service}")
        return address[0].decode(), int(address[1])
    finally:
        link.drop("asked")
