"""Where peers come in: the ports, and how many connections may be there."""

from __future__ import annotations

from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from rproxy.downstream import ProxyProtocol
from rproxy.limits import Limits

_logger = Logger()


class Doors:
    """The ports of one proxy, and how many have come in."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Where clients come in; not accepted from while there are ``max_clients``.
        self.ports: list[IListeningPort] = []
        #: Connections that count as clients: all but those that a lease hangs on.
        self._clients = 0
        #: Connections that came in where only servers do.
        self._servers = 0
        self._full = False

    def listening(self, port: IListeningPort) -> None:
        """Clients come in here."""
        self.ports.append(port)
        say_running(port)

    def registering(self, port: IListeningPort) -> None:
        """Servers come in here, and nobody else, however many clients there are."""
        say_registering(port)

    def has_room_for(self, kind: type[ProxyProtocol]) -> bool:
        """Whether one more of this kind may come in; clients wait in the backlog, and are never turned away."""
        return kind.may_be_client or self._servers < self._limits.registrations

    def count_server(self, by: int) -> None:
        """So many more have come in where only servers do."""
        self._servers += by

    def count_client(self, by: int) -> None:
        """So many clients more: accept connections, or leave them in the backlog."""
        self._clients += by
        if self._clients >= self._limits.max_clients:
            self._full = True
            for port in self.ports:
                port.stopReading()  # type: ignore[attr-defined]  # a TCP port is a FileDescriptor
        elif self._full:
            self._full = False
            for port in self.ports:
                if port.connected and not port.disconnecting:  # type: ignore[attr-defined]
                    port.startReading()  # type: ignore[attr-defined]


def say_running(port: IListeningPort) -> None:
    """Tell the log where clients come in (docs/reference/protocol.rst, What the terminals show)."""
    _logger.info("Running the reverse proxy on port {port}", event="listening", port=_shown(port))


def say_registering(port: IListeningPort) -> None:
    """Tell the log where servers register, where that is elsewhere."""
    _logger.info("Registering servers on port {port}", event="listening-for-servers", port=_shown(port))


def _shown(port: IListeningPort) -> object:
    return getattr(port.getHost(), "port", port.getHost())
