"""Listening sockets that several processes accept from: who binds them, and who is handed them.

They are one socket with one queue, whoever accepts from it, so no connection is lost that waits when a process dies,
and it makes no difference whether the parent bound it or systemd.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

#: How many connections a worker accepts in one turn: those that come at once are to go to whoever is idle. With four or
#: sixty-four a connection cost as much, and a burst was shared worse (docs/explanation/performance.rst, Several
#: workers).
ACCEPTS = 1


class NobodyFactory(Factory):
    """What a parent listens with: it accepts nobody."""

    noisy = False


def inherited(reactor: Any, descriptor: int, family: int) -> IStreamServerEndpoint:
    """Return the endpoint of a socket that listens already.

    :param reactor: provides ``IReactorSocket``.
    """
    if family == _UnixPort.addressFamily:
        return _UnixEndpoint(reactor, descriptor)
    endpoint: IStreamServerEndpoint = AdoptedStreamServerEndpoint(reactor, descriptor, family)
    return endpoint


class _UnixPort(unix.Port):
    """A Unix socket whose path, and the file there, are another process's."""

    _shouldShutdown = False

    def startListening(self) -> None:
        # Not unix.Port's, which gives the file a mode.
        self.factory.doStart()  # type: ignore[union-attr]  # it was made with one
        listening: Any = self._preexistingSocket
        self._preexistingSocket = None
        self.connected = True
        self.socket = listening
        self.fileno = listening.fileno  # type: ignore[method-assign]  # as Twisted does
        self.startReading()

    def doRead(self) -> None:
        # Twisted accepts as many as it did last, and more.
        self.numberAccepts = ACCEPTS
        super().doRead()

    def connectionLost(self, reason: Failure) -> None:
        # Not unix.Port's, which removes the file.
        tcp.Port.connectionLost(self, reason)


@implementer(IStreamServerEndpoint)
class _UnixEndpoint:
    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        port = _UnixPort._fromListeningDescriptor(self._reactor, self._descriptor, factory)
        os.close(self._descriptor)
        port.startListening()
        listening: IListeningPort = port
        return listening
