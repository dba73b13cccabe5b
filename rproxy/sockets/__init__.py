"""TCP sockets that cost less: Twisted's transports with fewer system calls and fewer Python calls around them.

A :class:`SocketGroup` is handed out in the reactor's place to whatever makes TCP ports and connections. It watches them
with an epoll set of its own, which the reactor sees as one file. When the reactor says that something happened there,
the group reads from every ready socket, and only then, at the end of the turn, sends what was written meanwhile: one
``send`` for each connection and turn, at once, without asking first whether the socket is writable. So packets for one
server that came from many clients travel together, and nothing is registered for writing but what the kernel didn't
take (docs/performance.rst has the figures).

What a transport does is inherited from Twisted. What isn't plain TCP (TLS, Unix sockets) goes to the reactor as ever.

``turns`` is the turn, ``connections`` what is read and written in it, and ``ports`` what accepts.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.protocol import ClientFactory, Factory

from rproxy.sockets.connections import GroupedConnector
from rproxy.sockets.ports import GroupedPort
from rproxy.sockets.turns import Turns


class SocketGroup(Turns):
    """TCP ports and connections that are read, written and closed turn by turn."""

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> GroupedPort:
        """See :meth:`twisted.internet.interfaces.IReactorTCP.listenTCP`."""
        listener = GroupedPort(port, factory, backlog, interface, self)
        listener.startListening()
        return listener

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Factory) -> Any:
        """See :meth:`twisted.internet.interfaces.IReactorSocket.adoptStreamPort`."""
        if addressFamily not in {socket.AF_INET, socket.AF_INET6}:
            return self._reactor.adoptStreamPort(fileDescriptor, addressFamily, factory)
        listener = GroupedPort._fromListeningDescriptor(self, fileDescriptor, addressFamily, factory)
        listener.startListening()
        return listener

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> GroupedConnector:
        """See :meth:`twisted.internet.interfaces.IReactorTCP.connectTCP`."""
        connector = GroupedConnector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector
