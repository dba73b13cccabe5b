"""How packets are shown in logs and on terminals (docs/protocol.rst, What the terminals show)."""

from __future__ import annotations

import json

from twisted.logger import Logger

from rproxy import packets
from rproxy.request import Request

#: How much of a payload is shown, in characters.
SHOWN = 200


def shown(payload: str) -> str:
    """Return the payload as JSON-escaped ASCII, cut at :data:`SHOWN` characters.

    A payload is a stranger's text: with every line break and control character escaped it can neither forge a log
    line nor speak to the terminal that shows it.
    """
    # No character gets shorter by escaping, so there is no need to escape what is cut off anyway.
    return json.dumps(payload[:SHOWN])[1:-1][:SHOWN]


class ProxyLog:
    """The proxy's lines about packets, for ``--log-packets`` only: they show payloads."""

    _logger = Logger()

    def received(self, data: packets.Data) -> None:
        """A client's packet came."""
        self._logger.info(
            "Received a message from client {client} payload {payload}",
            event="packet-received",
            client=data.srcid,
            payload=shown(data.payload),
        )

    def forwarding(self, request: Request, host: str, port: int) -> None:
        """A packet goes to its server."""
        data = packets.decode(request.raw)
        assert isinstance(data, packets.Data)
        assert request.server is not None
        self._logger.info(
            "Forwarding a data message to server id {server} server ip {host} port {port} payload {payload}",
            event="packet-forwarded",
            server=request.server.server_id,
            host=host,
            port=port,
            payload=shown(data.payload),
        )

    def answered(self, ack: packets.Ack | packets.Error) -> None:
        """The server's answer came."""
        self._logger.info(
            "Received a data message from server id {server} payload {payload}",
            event="answer-received",
            server=ack.srcid,
            payload=shown(ack.payload),
        )
