"""Connections that come by way of another proxy, which says in a header before them whom they really come from.

A :class:`FrontedFactory` stands between a port and any other factory. From where it trusts, a connection must begin
with a header (:mod:`rproxy.fronting.header`), and gets a protocol of the other factory's for the peer that is named
there; from elsewhere it gets one at once, as if nothing were in between, and a header is no more than bytes that are no
packet. Once the header is read, nothing stands in between any more: the transport reads for that protocol itself, and
what is written goes straight to the transport. So TLS may come behind a header too, by a factory that does it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IProtocolFactory, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.fronting.header import HeaderError, TCPSource, UnixSource, read_header
from rproxy.networks import Network, is_within
from rproxy.proxy import ProxyFactory
from rproxy.request import Request


class FrontedFactory(Factory):
    """Reads headers from those that are trusted, and hands everybody on.

    :param wrapped: what the connections are for.
    :param proxy: counts those that haven't brought their header yet as clients, and closes them in the end.
    :param trusted: where the other proxies are.
    """

    noisy = False

    def __init__(self, wrapped: IProtocolFactory, proxy: ProxyFactory, trusted: Iterable[Network]) -> None:
        self.wrapped = wrapped
        self.proxy = proxy
        self._trusted = tuple(trusted)

    def doStart(self) -> None:
        super().doStart()
        self.wrapped.doStart()

    def doStop(self) -> None:
        self.wrapped.doStop()
        super().doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        host = getattr(addr, "host", None)
        if addr is None or host is None or not is_within(host, self._trusted):
            return self.wrapped.buildProtocol(addr)  # type: ignore[arg-type]  # Twisted's own factories take None too
        return HeaderProtocol(self, addr)


class HeaderProtocol(Protocol):
    """A connection until its header is read.

    :param address: the other proxy's.
    """

    #: See :class:`rproxy.downstream.hub.Connection`.
    in_flight = 0
    pending: Collection[Request] = ()
    may_be_client = True

    def __init__(self, factory: FrontedFactory, address: IAddress) -> None:
        self._wrapped = factory.wrapped
        self._proxy = factory.proxy
        self._address = address
        self._since = factory.proxy.seconds()
        self._came = bytearray()

    def connectionMade(self) -> None:
        self._transport: Any = self.transport
        self._proxy.opened(self)

    def dataReceived(self, data: bytes) -> None:
        self._came += data
        try:
            header = read_header(self._came)
        except HeaderError as error:
            self._refuse(str(error))
        else:
            if header is not None:
                self._hand_on(header.source, bytes(self._came[header.size :]))

    def _hand_on(self, source: TCPSource | UnixSource | None, rest: bytes) -> None:
        """Let another protocol have the connection, and what came behind the header."""
        address = self._address if source is None else _address(source)
        protocol = self._wrapped.buildProtocol(address)
        if protocol is None:
            self.abort()
            return
        self._transport.protocol = protocol
        try:
            protocol.makeConnection(_NamedTransport(self._transport, address))
        finally:
            # Only now, so that nobody else is accepted in between.
            self._proxy.closed(self, is_client=True)
        if rest:
            protocol.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Without a word: it is what a health check is like that only connects.
        self._proxy.closed(self, is_client=True)

    def close_if_idle(self, now: float) -> None:
        """Drop it if its header takes too long."""
        if now - self._since >= self._proxy.limits.header_timeout:
            self._refuse("no header of the PROXY protocol came in time")

    def _refuse(self, why: str) -> None:
        """Drop it, as the protocol demands; whoever runs the other proxy looks for the reason here."""
        self._proxy.log_refusal(
            "Refused a connection from {host}: {why}",
            event="connection-refused",
            host=getattr(self._address, "host", self._address),
            why=why,
        )
        self.abort()

    def close(self) -> None:
        """Close it: nothing was asked yet."""
        self._transport.loseConnection()

    def abort(self) -> None:
        """Drop it."""
        self._transport.abortConnection()


def _address(source: TCPSource | UnixSource) -> IAddress:
    if isinstance(source, UnixSource):
        return UNIXAddress(source.path or None)
    kind = IPv6Address if ":" in source.host else IPv4Address
    return kind("TCP", source.host, source.port)


@implementer(ITCPTransport)
class _NamedTransport:
    """A transport whose peer is the one that the header names; all else is the transport's own."""

    def __init__(self, transport: Any, peer: IAddress) -> None:
        self._transport = transport
        self._peer = peer
        # The way of every answer, without a detour.
        self.write = transport.write

    def getPeer(self) -> Any:
        """Whom the connection comes from."""
        return self._peer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
