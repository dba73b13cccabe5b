"""One connection to a proxy on which a packet is sent and its answer waited for."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

from bench.processes import PATIENCE, Failure

#: What a registration is acknowledged with.
REGISTERED = "registered"


class Talk:
    """A connection.

    :param enter: calls a function where the connection is to come from.
    """

    def __init__(
        self,
        host: str,
        port: int,
        enter: Callable[[Callable[[], socket.socket]], socket.socket] = lambda function: function(),
    ) -> None:
        self._socket = enter(lambda: socket.create_connection((host, port), PATIENCE))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = ""

    @property
    def own_port(self) -> int:
        """As the other side sees it."""
        port: int = self._socket.getsockname()[1]
        return port

    def ask(self, packet: dict[str, str]) -> dict[str, Any]:
        """Send a packet, and return its answer.

        :raises Failure: there is none.
        """
        self._socket.sendall(json.dumps(packet).encode())
        while True:
            try:
                answer, end = json.JSONDecoder().raw_decode(self._rest)
            except ValueError:
                got = self._socket.recv(1 << 16)
                if not got:
                    raise Failure(f"no answer to {packet}, but this, and the end: {self._rest!r}") from None
                self._rest += got.decode()
            else:
                self._rest = self._rest[end:]
                return dict(answer)

    def register(self, server_id: str, policy: str, port: int, lease: float) -> None:
        """Register a server that listens at a port of where this comes from.

        :raises Failure: it isn't acknowledged.
        """
        terms = {"pipeline": "16", "connections": "1", "lease": str(lease)}
        answer = self.ask({"type": "1", "id": server_id, "privPolyId": policy, "listenport": str(port), **terms})
        if (answer.get("type"), answer.get("destid"), answer.get("payload")) != ("2", server_id, REGISTERED):
            raise Failure(f"wrong answer to the setup packet of {server_id}: {answer}")

    def close(self) -> None:
        """End it."""
        self._socket.close()
